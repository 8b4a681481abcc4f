"""What influence is measured against: shuffled donors, and labels that change places.

The identity shows that a pipeline makes no effect where there is none. These two ask more of an
effect that is there: whether it needs the donor's vector of this very step, and whether it is more
than problems would show if clean and intervened were but names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import EditError, InputError, nearest
from interp.latent.operators import At, Operator, Resample
from interp.latent.shape import Cell, Matrix, Measure, Row, cells, matrix
from interp.latent.state import Node

By = Literal["step", "entries"]
"""step: the donor's vector of another step; entries: the donor's own, its entries in random order.
"""
N_SIGNS = 9999
"""Relabellings of a permutation test."""


@dataclass(frozen=True)
class ShuffledDonor(Operator):
    """Null of `resample`: the same donor, and what it gives is shuffled.

    Shuffled by step, the slot is fed a real latent vector of the wrong step. Shuffled by entries,
    it is fed a vector of the donor's norm and entries that means nothing. Where W is the same under
    it as under `resample`, the effect does not come from what step t holds.

    Raises:
        EditError: there is no such way to shuffle.
    """

    by: str = "step"
    """One of `By`."""

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            known = get_args(By)
            raise EditError(
                f"ShuffledDonor: there is no way {self.by!r}; there are {', '.join(known)}."
                f"{nearest(self.by, known)}"
            )

    @property
    def name(self) -> str:
        """`shuffled_donor`, and `shuffled_donor_entries`."""
        return "shuffled_donor" if self.by == "step" else "shuffled_donor_entries"

    def donors(self, at: At) -> tuple[int | None, ...]:
        """Those of `resample` under the same seed."""
        return Resample().donors(at)

    def node(self, node: Node, at: At) -> Node:
        """The donors' vectors, shuffled; a row whose donor has none keeps its own.

        Raises:
            EditError: shuffled by step in a subject of one step.
        """
        given = self.donors(at)
        steps = self._steps(len(given), at, node)
        order = at.noise(node.vectors[:, :1].double())[:, 0].argsort(-1)
        made = node.vectors.clone()
        for row, (donor, step) in enumerate(zip(given, steps, strict=True)):
            if donor is None:
                continue
            bank = at.calibration.nodes[step - 1].take([donor])
            width = min(bank.vectors.shape[1], made.shape[1])
            both = bank.seen[0, :width] & node.seen[row, :width]
            vectors = bank.vectors[0, :width].to(made)
            vectors = vectors[:, order[row]] if self.by == "entries" else vectors
            made[row, :width][both] = vectors[both]
        return Node(made, node.seen)

    def _steps(self, n_rows: int, at: At, node: Node) -> list[int]:
        """Which step of its donor each row is given."""
        total = at.calibration.n_steps
        if self.by == "entries":
            return [at.step] * n_rows
        if total < 2:
            raise EditError(
                "ShuffledDonor by step needs a subject of two or more steps, and this one has "
                f"{total}: shuffle by 'entries'."
            )
        draws = at.noise(torch.zeros(n_rows, 1, total, dtype=torch.float64))[:, 0]
        draws[:, at.step - 1] = -torch.inf
        picked: Tensor = draws.argmax(-1) + 1
        return picked.tolist()


def permutation_test(
    rows: Iterable[Row],
    operator: str,
    *,
    against: str = "identity",
    edge: str = "input",
    measure: Measure = "dlogp_answer",
    n: int = N_SIGNS,
    seed: int = 0,
) -> list[dict[str, Cell]]:
    """Test each W[t, s] against a null by swapping the two labels problem by problem.

    With d the difference of a problem's effects under the operator and under the null, a swap
    changes its sign. The statistic is |sum of d| / sqrt(sum of d squared); p counts relabellings
    that reach it, the observed one included. `p_family` compares with the largest over all edges,
    so that the smallest of T(T+1)/2 edges is not a find by itself.

    Against the identity the labels are clean and intervened, and `dlogp_*` are the measures that a
    swap turns round. A divergence is never negative: take it against another operator.

    Returns:
        A row for each pair t <= s: `x` the mean of d with its interval, `p`, `p_family`.

    Raises:
        InputError: a divergence against the identity, no relabelling, or rows that lack one side.

    Source: Fisher 1935, The Design of Experiments, section 21; the maximum over edges is that of
    Westfall and Young 1993.
    """
    if n < 1:
        raise InputError(f"{n} relabellings test nothing: give 1 or more, better {N_SIGNS}.")
    if against == "identity" and measure.startswith("kl"):
        raise InputError(
            f"{measure} is never negative, so against the identity any change would pass: test "
            "dlogp_answer, or take another operator such as shuffled_donor as the null."
        )
    every = list(rows)
    mine = matrix(every, operator, edge=edge, measure=measure)
    null = matrix(every, against, edge=edge, measure=measure)
    paired = _difference(mine, null)
    places = np.argwhere(np.isfinite(paired.items).any(0))
    values = np.nan_to_num(paired.items[:, places[:, 0], places[:, 1]])
    p, family = _tested(values, n, seed)
    named: dict[str, Cell] = {**mine.named, "against": against}
    return [
        {**named, "t": int(t) + 1, "s": int(s) + 1}
        | cells(paired.interval(int(t) + 1, int(s) + 1))
        | {"p": float(p[i]), "p_family": float(family[i])}
        for i, (t, s) in enumerate(places)
    ]


def _difference(mine: Matrix, null: Matrix) -> Matrix:
    """Problem by problem, those that both have."""
    ids = tuple(key for key in mine.ids if key in set(null.ids))
    if not ids:
        raise InputError(
            f"No problem has rows of both {mine.operator} and {null.operator}: run them together."
        )
    first = mine.items[[mine.ids.index(key) for key in ids]]
    second = null.items[[null.ids.index(key) for key in ids]]
    return Matrix(mine.operator, mine.edge, mine.measure, ids, first - second)


def _tested(
    values: NDArray[np.float64], n: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of relabellings that reach each edge's statistic, alone and as the largest."""
    scale = np.sqrt((values**2).sum(0))
    scaled = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    seen = np.abs(scaled.sum(0)) - 1e-12  # the observed labels reach themselves
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, len(values)))
    drawn = np.abs(signs @ scaled)
    alone = (1 + (drawn >= seen).sum(0)) / (1 + n)
    family = (1 + (drawn.max(1)[:, None] >= seen).sum(0)) / (1 + n)
    return alone, family
