"""The influence matrix W[t, s]: its mean, its shape in four numbers, its graph.

Pure functions over the rows of `influence`, without a model. W[t, s] is a mean over the problems
that have both steps, so a problem with few steps weighs on its own edges only; the seeds of one
problem are averaged first. Shape and graph look at t < s. Every number has an interval over
problems, and the uniform matrix and the identity beside it: bare numbers mislead, because a matrix
of mere noise has a shape too.

Source: Li et al. 2026, arXiv:2602.08783, sections on influence; intervals and references are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap

Row = Mapping[str, object]
Cell = str | int | float | bool | None
Measure = Literal["kl", "kl_answer", "dlogp_sum", "dlogp_answer"]

METRICS = ("locality", "span", "early_out", "late_in")
"""With w = W / sum of W over t < s: sum of w[t, t+1]; sum of (s - t) w[t, s], in steps; sum of
w[1, s]; sum of w[t, T]."""
N_BOOT = 1000
"""Resamples of problems for an interval of a shape or a likeness."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """The effects of one operator, problem by problem."""

    operator: str
    edge: str
    measure: str
    ids: tuple[str, ...]
    items: Float[np.ndarray, "item t s"]
    """Effect on the read-out after s steps of an edit at step t; NaN where the problem lacks it."""

    @property
    def n_steps(self) -> int:
        """T."""
        return self.items.shape[1]

    @property
    def named(self) -> dict[str, Cell]:
        """What identifies it in a table."""
        return {"operator": self.operator, "edge": self.edge, "measure": self.measure}

    def mean(self) -> Float[np.ndarray, "t s"]:
        """W: the mean over problems that have the edge; NaN where none has."""
        return _means(self.items)

    def interval(self, t: int, s: int) -> Interval | None:
        """W[t, s], both from 1, with its bootstrap interval; None where no problem has it."""
        values = self.items[:, t - 1, s - 1]
        has = np.isfinite(values)
        ids = [key for key, here in zip(self.ids, has, strict=True) if here]
        return cluster_bootstrap(values[has], ids) if ids else None

    def rows(self) -> list[dict[str, Cell]]:
        """A row for each pair t <= s that some problem has; s = T is the effect on the answer."""
        made: list[dict[str, Cell]] = []
        for t in range(1, self.n_steps + 1):
            for s in range(t, self.n_steps + 1):
                found = self.interval(t, s)
                if found is not None:
                    made.append({**self.named, "t": t, "s": s, **cells(found)})
        return made


def cells(found: Interval | None) -> dict[str, Cell]:
    """An interval as a table keeps it; None where the number has no value."""
    if found is None:
        return {"x": None, "x_low": None, "x_high": None, "n_problems": 0, "warning": None}
    x = found.estimate if math.isfinite(found.estimate) else None
    return {
        "x": x,
        "x_low": found.low,
        "x_high": found.high,
        "n_problems": found.n_units,
        "warning": found.warning,
    }


def matrix(
    rows: Iterable[Row],
    operator: str,
    *,
    edge: str = "input",
    measure: Measure = "kl",
    n_steps: int | None = None,
) -> Matrix:
    """Gather one operator's rows into W.

    Args:
        rows: of `influence`; those of other operators and edges are left out, and so are values
            that are None because they were infinite.
        operator: as in the rows; `identity` is the null.
        edge: as in the rows.
        measure: which column; natural log, a mean over tokens for the two divergences.
        n_steps: T; by default the largest step in the rows.

    Raises:
        InputError: no row has this operator and edge.
    """
    every = list(rows)
    mine = [row for row in every if row["operator"] == operator and row["edge"] == edge]
    if not mine:
        known = sorted({f"{row['operator']} on {row['edge']}" for row in every})
        raise InputError(
            f"No row of {operator!r} on the edge {edge!r}; there are: {', '.join(known) or 'none'}."
        )
    size = n_steps or max(_int(row["s"]) for row in every)
    found: dict[tuple[str, int, int], list[float]] = {}
    for row in mine:
        value = row[measure]
        if isinstance(value, int | float):
            key = (str(row["id"]), _int(row["t"]) - 1, _int(row["s"]) - 1)
            found.setdefault(key, []).append(float(value))
    ids = tuple(dict.fromkeys(str(row["id"]) for row in mine))
    places = {key: i for i, key in enumerate(ids)}
    items = np.full((len(ids), size, size), np.nan)
    for (key, t, s), values in found.items():
        items[places[key], t, s] = sum(values) / len(values)
    return Matrix(operator, edge, measure, ids, items)


def matrices(
    rows: Iterable[Row], *, measure: Measure = "kl", n_steps: int | None = None
) -> list[Matrix]:
    """One matrix for each operator and edge, in the order of the rows."""
    every = list(rows)
    size = n_steps or max((_int(row["s"]) for row in every), default=0)
    pairs = dict.fromkeys((str(row["operator"]), str(row["edge"])) for row in every)
    return [
        matrix(every, operator, edge=edge, measure=measure, n_steps=size)
        for operator, edge in pairs
    ]


def shape_of(weights: Float[np.ndarray, "t s"]) -> dict[str, float] | None:
    """The four numbers of a matrix, or None where it is zero above its diagonal.

    Entries that are NaN count as no edge.

    >>> shape_of(np.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    {'locality': 1.0, 'span': 1.0, 'early_out': 0.5, 'late_in': 0.5}
    """
    upper = np.triu(np.nan_to_num(weights), 1)
    total = upper.sum()
    if not total > 0:
        return None
    places = np.arange(len(upper))
    values = (
        np.trace(upper, 1),
        (upper * (places - places[:, None])).sum(),
        upper[0].sum(),
        upper[:, -1].sum(),
    )
    return {name: float(v / total) for name, v in zip(METRICS, values, strict=True)}


@dataclass(frozen=True, eq=False)
class Shape:
    """Four numbers of one matrix, and what they would be for no effect at all."""

    of: Matrix
    total: float
    """Sum of W over t < s, in nats; 0.0 exactly for the identity."""
    values: Mapping[str, Interval | None]
    """None where the total is 0: a matrix without effect has no shape."""
    uniform: Mapping[str, float]
    """The same formulas where every edge weighs the same: 2/T, (T + 1)/3, 2/T, 2/T."""
    identity: Mapping[str, float] | None
    """The identity's own shape; None is right, numbers are the mark of a faulty pipeline."""
    identity_total: float | None
    """Sum of the identity's W, or None where it was not given."""

    def rows(self) -> list[dict[str, Cell]]:
        """A row for each metric."""
        beside = self.identity or {}
        return [
            {
                **self.of.named,
                "metric": name,
                **cells(self.values[name]),
                "uniform": self.uniform[name],
                "identity": beside.get(name),
                "total": self.total,
                "identity_total": self.identity_total,
            }
            for name in METRICS
        ]


def shape(of: Matrix, identity: Matrix | None = None, *, n_boot: int = N_BOOT) -> Shape:
    """Locality, span, early-out and late-in with bootstrap intervals over problems.

    Args:
        of: the matrix.
        identity: that of the null, to stand beside it.
        n_boot: resamples; each redraws problems and averages every edge anew.

    Raises:
        InputError: fewer than two steps, so no edge.
    """
    weights = of.mean()
    present = np.isfinite(weights)
    uniform = shape_of(present.astype(float))
    if uniform is None:
        raise InputError(
            f"The matrix of {of.operator} has no edge between two steps: its shape needs a subject "
            "of two or more steps, and problems that have them."
        )
    own = shape_of(weights)
    values: dict[str, Interval | None] = dict.fromkeys(METRICS)
    if own is not None:
        values = {name: boot(of, _metric(name), n_boot) for name in METRICS}
    beside = None if identity is None else identity.mean()
    return Shape(
        of,
        _total(weights),
        values,
        uniform,
        None if beside is None else shape_of(beside),
        None if beside is None else _total(beside),
    )


def _metric(name: str) -> Callable[[NDArray[np.float64]], float]:
    def value(weights: NDArray[np.float64]) -> float:
        found = shape_of(weights)
        return math.nan if found is None else found[name]

    return value


def _total(weights: NDArray[np.float64]) -> float:
    return float(np.triu(np.nan_to_num(weights), 1).sum())


def graph(
    of: Matrix, *, threshold: float = 0.1, direction: Literal["out", "in"] = "out"
) -> list[dict[str, Cell]]:
    """The principal graph: edges above a share of the largest, then the strongest of each node.

    Args:
        of: the matrix.
        threshold: an edge must exceed this share of the largest W.
        direction: "out" keeps the strongest edge that leaves each step, "in" that enters it; of
            two equal ones the one to the nearer step.

    Raises:
        InputError: the threshold is not in [0, 1), or there is no such direction.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"The threshold {threshold} is no share below 1: give such as 0.1.")
    if direction not in ("out", "in"):
        raise InputError(f"There is no direction {direction!r}; there are 'out' and 'in'.")
    upper = np.triu(np.nan_to_num(of.mean()), 1)
    most = upper.max(initial=0.0)
    if not most > 0:
        return []
    kept = np.where(upper > threshold * most, upper, 0.0)
    made: list[dict[str, Cell]] = []
    for t, s in _strongest(kept, direction):
        named = {**of.named, "direction": direction, "threshold": threshold}
        share = float(upper[t - 1, s - 1] / most)
        made.append({**named, "t": t, "s": s, **cells(of.interval(t, s)), "share": share})
    return made


def _strongest(kept: NDArray[np.float64], direction: str) -> list[tuple[int, int]]:
    """One edge a node, steps from 1."""
    size, found = len(kept), []
    for node in range(size):
        if direction == "out":
            other = int(kept[node].argmax())
            edge = (node, other)
        else:
            other = size - 1 - int(kept[::-1, node].argmax())
            edge = (other, node)
        if kept[edge] > 0:
            found.append((edge[0] + 1, edge[1] + 1))
    return found


def boot(of: Matrix, statistic: Callable[[NDArray[np.float64]], float], n_boot: int) -> Interval:
    """A statistic of W with its interval over redrawn problems."""
    flat = of.items.reshape(len(of.items), -1)
    filled, here = np.nan_to_num(flat), np.isfinite(flat).astype(float)
    plain = of.items.shape[1:]

    def resampled(chosen: NDArray[np.float64]) -> float:
        index = chosen.astype(int)
        sums, counts = filled[index].sum(0), here[index].sum(0)
        weights = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return statistic(weights.reshape(plain))

    places = np.arange(len(of.items), dtype=float)
    return cluster_bootstrap(places, of.ids, statistic=resampled, n_boot=n_boot)


def _means(items: Float[np.ndarray, "item t s"]) -> Float[np.ndarray, "t s"]:
    here = np.isfinite(items)
    sums, counts = np.where(here, items, 0.0).sum(0), here.sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
