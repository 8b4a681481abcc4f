"""Does a statistic of a chain go with a right answer, or do hard problems just have both?

Chains of hard problems fail more steps and are wrong more often, so over all chains together a
statistic and correctness go together even if neither moves the other. *Within* a problem
difficulty is the same for all chains: here both are centred on their mean over the problem's
chains before they are correlated. The pooled correlation stands beside it, for comparison.

Selection asks the same of use: how much more often is the chain with the lowest statistic right
than a chain drawn at random from the same problem?

Intervals redraw whole problems. Source: Feng et al. 2025, arXiv:2509.19284 (correlation within a
question; the lowest Failed-Step Fraction of n candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from interp.errors import InputError, UndefinedEffectError
from interp.stats import Interval, cluster_bootstrap

Values = NDArray[np.float64]
Numbers = Sequence[float | int | bool] | NDArray[Any]
"""Finite numbers, or right (1, True) and wrong (0, False)."""

ARMS = ("causal", "confounded")
"""What the simulated chains are like; see `simulate`."""


@dataclass(frozen=True)
class Association:
    """How a statistic goes with correctness: Pearson correlations, -1 to 1."""

    within: Interval
    """Among the chains of a problem, difficulty cancelled."""
    pooled: Interval
    """Among all chains, difficulty included."""
    n_chains: int
    n_problems: int
    n_telling: int
    """Problems in which both the statistic and correctness vary; no other tells anything."""


@dataclass(frozen=True)
class Selection:
    """What keeping the chain with the lowest statistic gains."""

    chosen: Interval
    """Share right among the chains kept, one a problem."""
    at_random: Interval
    """Share right of a chain drawn at random."""
    gain: Interval
    """Their difference, paired by problem."""


def association(
    values: Numbers,
    correct: Numbers,
    problems: Iterable[Hashable],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Association:
    """Correlate a statistic of chains with whether they are right, within problems and pooled.

    Source: Feng et al. 2025, arXiv:2509.19284; the within estimator is the usual one of panel data
    (Wooldridge 2010, section 10.5).

    >>> values, correct = [0.1, 0.3, 0.7, 0.9], [1, 0, 1, 0]
    >>> found = association(values, correct, ["easy", "easy", "hard", "hard"])
    >>> round(found.within.estimate, 6), round(found.pooled.estimate, 6)
    (-1.0, -0.316228)

    Raises:
        InputError: not one finite value, right (1) or wrong (0), and problem for every chain.
        UndefinedEffectError: no problem has chains that differ in both.
    """
    x, y, names = _chains(values, correct, problems)
    members = _members(names)
    inside_x, inside_y = _centred(x, members), _centred(y, members)
    telling = [k for k in members.values() if np.ptp(x[k]) > 0 and np.ptp(y[k]) > 0]
    if not telling:
        raise UndefinedEffectError(
            f"In none of {len(members)} problems do chains differ both in the statistic and in "
            "being right, so nothing can go together within one: sample more chains a problem."
        )
    settings = {"n_boot": n_boot, "level": level, "seed": seed}
    within, pooled = (
        cluster_bootstrap(np.arange(len(x)), names, statistic=_correlation(*pair), **settings)
        for pair in ((inside_x, inside_y), (x, y))
    )
    return Association(within, pooled, len(x), len(members), len(telling))


def select_lowest(
    values: Numbers,
    correct: Numbers,
    problems: Iterable[Hashable],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Selection:
    """Keep of every problem's chains the one with the lowest value; one of several at random.

    Ties are not broken but averaged: the share right among them is what random choice gives.

    >>> found = select_lowest([0.2, 0.2, 0.5, 0.5], [1, 0, 0, 0], ["a", "a", "a", "a"])
    >>> found.chosen.estimate, found.at_random.estimate, found.gain.estimate
    (0.5, 0.25, 0.25)

    Raises:
        InputError: as `association`.
    """
    x, y, names = _chains(values, correct, problems)
    members = _members(names)
    chosen = [float(y[k][x[k] == x[k].min()].mean()) for k in members.values()]
    at_random = [float(y[k].mean()) for k in members.values()]
    gain = np.subtract(chosen, at_random)
    means = (
        cluster_bootstrap(each, range(len(members)), n_boot=n_boot, level=level, seed=seed)
        for each in (chosen, at_random, gain)
    )
    return Selection(*means)


@dataclass(frozen=True)
class Chains:
    """Simulated chains, in one order."""

    fsf: tuple[float, ...]
    correct: tuple[bool, ...]
    problems: tuple[int, ...]


def simulate(
    arm: Literal["causal", "confounded"],
    *,
    n_problems: int = 100,
    n_chains: int = 64,
    seed: int = 0,
) -> Chains:
    """Draw chains whose truth is known; the estimator is tested on them.

    Difficulty d of a problem is uniform on 0 to 1. A chain's FSF is 0.1 + 0.6 d plus uniform noise
    of at most 0.2 either way, in both arms. The log-odds of being right are

        causal      3 - 3 d - 4 (FSF - 0.1 - 0.6 d)    FSF counts, given difficulty
        confounded  3 - 6 d                            difficulty alone counts

    So both arms have a negative pooled correlation, and only the first has one within problems.

    Raises:
        InputError: an unknown arm, or no problem, or fewer than two chains.

    >>> simulate("confounded", n_problems=2, n_chains=2).problems
    (0, 0, 1, 1)
    """
    if arm not in ARMS:
        raise InputError(f"There is no arm {arm!r}; there are {', '.join(ARMS)}.")
    if n_problems < 1 or n_chains < 2:
        raise InputError(
            f"n_problems={n_problems}, n_chains={n_chains}: give at least 1 problem of 2 chains."
        )
    rng = np.random.default_rng(seed)
    difficulty = np.repeat(rng.uniform(size=n_problems), n_chains)
    luck = rng.uniform(-0.2, 0.2, size=len(difficulty))
    odds = 3 - 3 * difficulty - 4 * luck if arm == "causal" else 3 - 6 * difficulty
    correct = rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds))
    fsf = np.clip(0.1 + 0.6 * difficulty + luck, 0, 1)
    names = np.repeat(np.arange(n_problems), n_chains)
    return Chains(tuple(fsf.tolist()), tuple(correct.tolist()), tuple(names.tolist()))


def _correlation(x: Values, y: Values) -> Callable[[Values], float]:
    """The correlation of the pairs at given places, as a statistic of places; NaN if undefined."""

    def of(places: Values) -> float:
        at = places.astype(int)
        a, b = x[at] - x[at].mean(), y[at] - y[at].mean()
        scale = sqrt(float(a @ a) * float(b @ b))
        return float(np.clip(a @ b / scale, -1, 1)) if scale else float("nan")

    return of


def _centred(values: Values, members: dict[Hashable, NDArray[np.intp]]) -> Values:
    """Take each problem's mean from its values."""
    out = values.copy()
    for places in members.values():
        out[places] -= values[places].mean()
    return out


def _members(names: Sequence[Hashable]) -> dict[Hashable, NDArray[np.intp]]:
    places: dict[Hashable, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: np.array(each) for name, each in places.items()}


def _chains(
    values: Numbers, correct: Numbers, problems: Iterable[Hashable]
) -> tuple[Values, Values, list[Hashable]]:
    names = list(problems)
    x, y = np.asarray(values, dtype=float), np.asarray(correct, dtype=float)
    if not (x.ndim == y.ndim == 1 and len(x) == len(y) == len(names) > 0):
        raise InputError(
            f"There are {x.size} values, {y.size} judgements and {len(names)} problem names: give "
            "one of each for every chain."
        )
    if bad := np.flatnonzero(~np.isfinite(x)).tolist():
        raise InputError(
            f"values[{bad[0]}] is {x[bad[0]]}: a chain without the statistic cannot be ranked; "
            "drop it and say how many you dropped."
        )
    if not set(y.tolist()) <= {0.0, 1.0}:
        raise InputError("correct holds something else than right (1) and wrong (0): judge first.")
    return x, y, names
