"""How alike two influence matrices are: of two operators, or of two subjects.

Positive matrices are never far apart, so a cosine stands beside what it would be if the edges of
one side changed places. Source: Li et al. 2026, arXiv:2602.08783; that reference is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from interp.errors import InputError, UndefinedEffectError
from interp.latent.shape import N_BOOT, Cell, Matrix, boot, cells
from interp.stats import Interval, spearman


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike two matrices are over the edges t < s that both have."""

    first: Matrix
    second: Matrix
    values: Mapping[str, Interval | None]
    """Cosine and Spearman's rank correlation; None where a side has no direction or no order."""
    chance: float | None
    """Mean cosine when the edges of one side change places: two positive matrices are never far
    apart, so a cosine is to be read against this."""

    def rows(self) -> list[dict[str, Cell]]:
        """A row for each of the two."""
        a, b = self.first, self.second
        named: dict[str, Cell] = {"a": a.operator, "a_edge": a.edge, "b": b.operator}
        named |= {"b_edge": b.edge, "measure": a.measure}
        return [
            {
                **named,
                "metric": name,
                **cells(found),
                "chance": self.chance if name == "cosine" else 0.0,
            }
            for name, found in self.values.items()
        ]


def similarity(a: Matrix, b: Matrix, *, n_boot: int = N_BOOT) -> Similarity:
    """Cosine and Spearman of two matrices, with intervals where both are of the same problems.

    Raises:
        InputError: the two differ in T, or in the measure.
    """
    if a.n_steps != b.n_steps or a.measure != b.measure:
        raise InputError(
            f"W of {a.operator} is {a.measure} over {a.n_steps} steps and W of {b.operator} "
            f"{b.measure} over {b.n_steps}: compare the same measure over the same steps."
        )
    upper = np.triu(np.isfinite(a.mean()) & np.isfinite(b.mean()), 1)
    scores = {"cosine": _cosine, "spearman": _rank}
    values = {name: _alike(a, b, upper, score, n_boot) for name, score in scores.items()}
    return Similarity(a, b, values, _chance(a.mean()[upper], b.mean()[upper]))


def similarities(of: Sequence[Matrix], *, n_boot: int = N_BOOT) -> list[dict[str, Cell]]:
    """Rows for every pair of matrices."""
    return [row for a, b in combinations(of, 2) for row in similarity(a, b, n_boot=n_boot).rows()]


def _alike(
    a: Matrix,
    b: Matrix,
    upper: Bool[np.ndarray, "t s"],
    score: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    n_boot: int,
) -> Interval | None:
    """One score with its interval; resamples draw the same problems on both sides."""
    if not math.isfinite(score(a.mean()[upper], b.mean()[upper])):
        return None
    if set(a.ids) != set(b.ids):
        estimate = score(a.mean()[upper], b.mean()[upper])
        return Interval(estimate, None, None, 0, warning="not the same problems: no interval")
    order = [b.ids.index(key) for key in a.ids]
    both = np.concatenate([a.items, b.items[order]], axis=1)
    paired = Matrix(a.operator, a.edge, a.measure, a.ids, both)
    size = a.n_steps
    return boot(paired, lambda w: score(w[:size][upper], w[size:][upper]), n_boot)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _rank(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    try:
        return spearman(a, b)
    except UndefinedEffectError:
        return math.nan
    except InputError:  # no edge in common, or one that a resample lost
        return math.nan


def _chance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """The mean over all orders of one side: it needs the means only."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(len(a) * a.mean() * b.mean()) / scale if scale > 0 else None
