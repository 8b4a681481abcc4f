"""Intervals and rank measures. The unit of an interval is the problem, not the step.

Steps of one problem share its text and its model state, so they are no independent draws: an
interval that counts them one by one is too narrow. `cluster_bootstrap` redraws whole problems.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isfinite, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import InputError, UndefinedEffectError

FEW_CLUSTERS = 20
"""Below so many problems a bootstrap interval carries a warning: it tends to be too narrow."""

_BLOCK = 2_000_000
"""Draws held in memory at once."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval. `n_units` counts the independent units: problems."""

    estimate: float
    low: float | None
    high: float | None
    n_units: int
    level: float = 0.95
    warning: str | None = None


def mean(values: Values) -> float:
    """Return the mean of all values; a problem with more steps weighs more."""
    return float(np.mean(values))


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Iterable[Hashable],
    *,
    statistic: Callable[[Values], float] = mean,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of all values with its percentile interval over redrawn clusters.

    Each of `n_boot` resamples draws as many clusters as there are, with replacement, and keeps
    every value of each. `clusters` names the cluster (problem) of each value. The same seed
    gives the same interval.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.

    Raises:
        InputError: values are empty, not finite, or not one per cluster name; or a setting is
            out of range.
    """
    _check_settings(n_boot, level)
    numbers = _finite(values, "values")
    members = _members(list(clusters), len(numbers))
    estimate, n_units = float(statistic(numbers)), len(members)
    if n_units == 1:
        return Interval(estimate, None, None, 1, level, "one problem: no interval")
    draws = _draws(n_units, n_boot, seed)
    if statistic is mean:
        resampled = _resampled_means(numbers, members, draws)
    else:
        resampled = _resampled(statistic, numbers, members, draws)
    if lost := int(np.sum(~np.isfinite(resampled))):
        why = f"{lost} of {n_boot} resamples have no value: no interval"
        return Interval(estimate, None, None, n_units, level, why)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), n_units, level, _few(n_units))


def pooled(rows: Sequence[Mapping[str, Any]], name: str) -> Interval:
    """Return the mean of a column over units, such as networks, with the wider of two intervals.

    One redraws the units; the other adds up their own intervals (columns `name_low` and
    `name_high`) as those of independent draws of shares. A single unit has its own.

    Raises:
        InputError: there is no row.
    """
    values = [float(row[name]) for row in rows]
    ends = [(row.get(f"{name}_low"), row.get(f"{name}_high")) for row in rows]
    if len(rows) == 1:
        return Interval(values[0], *ends[0], 1)
    over = cluster_bootstrap(values, range(len(values)))
    halves = [(high - low) / 2 for low, high in ends if low is not None and high is not None]
    half = hypot(*halves) / len(rows)
    if len(halves) < len(rows):
        return over
    if over.low is not None and over.high is not None and over.high - over.low >= 2 * half:
        return over
    low, high = max(0.0, over.estimate - half), min(1.0, over.estimate + half)
    return Interval(over.estimate, low, high, len(rows), over.level, over.warning)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Iterable[Hashable],
    *,
    statistic: Callable[[Values], float] = mean,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of `a - b`, pair by pair, with its interval over redrawn clusters.

    Raises:
        InputError: `a` and `b` differ in length, and all that `cluster_bootstrap` refuses.
    """
    first, second = _pair(a, b)
    return cluster_bootstrap(
        first - second, clusters, statistic=statistic, n_boot=n_boot, level=level, seed=seed
    )


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return the chance that a positive scores above a negative; a tie counts one half.

    >>> auc([3, 2], [1, 2])
    0.875

    Source: Mann and Whitney 1947, whose U this is, divided by the number of pairs.

    Raises:
        InputError: a side is empty or not finite.
    """
    high, low = _finite(positive, "positive"), np.sort(_finite(negative, "negative"))
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float(np.sum(below + up_to) / (2 * len(high) * len(low)))


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Return the share `k / n` of independent trials with its Wilson score interval.

    The interval stays inside 0..1 and has a width even for `k = 0`. It is for independent
    trials, one a problem; for several a problem use `cluster_bootstrap`.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209.

    Raises:
        InputError: not 0 <= k <= n with n above 0, or the level is out of range.
    """
    _check_settings(1, level)
    if not (n > 0 and 0 <= k <= n):
        raise InputError(f"{k} of {n} is no share: count at least one trial, and 0 to n of them.")
    z, share = NormalDist().inv_cdf((1 + level) / 2), k / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if k == 0 else middle - half  # exact: rounding would leave 1e-17
    high = 1.0 if k == n else middle + half
    return Interval(share, low, high, n, level)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return the rank correlation of pairs: 1 the same order, -1 the reverse. Ties share a rank.

    >>> round(spearman([1, 2, 3, 4], [10, 30, 20, 40]), 6)
    0.8

    Raises:
        InputError: `a` and `b` differ in length, are empty or not finite.
        UndefinedEffectError: one side is constant, so it has no order.
    """
    first, second = (_ranks(side) for side in _pair(a, b))
    first, second = first - first.mean(), second - second.mean()
    scale = sqrt(float(first @ first) * float(second @ second))
    if scale == 0:
        raise UndefinedEffectError(
            f"A side of the {len(first)} pairs is constant, so ranks cannot agree or differ: "
            "give values that vary."
        )
    return float(np.clip(first @ second / scale, -1, 1))


def _ranks(values: Values) -> Values:
    """Return ranks from 1; equal values get the mean of theirs."""
    ordered = np.sort(values)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + up_to + 1) / 2


def _members(clusters: list[Hashable], n_values: int) -> list[NDArray[np.intp]]:
    """Return the places of each cluster's values; the order of rows does not order clusters."""
    if len(clusters) != n_values:
        raise InputError(
            f"There are {n_values} values and {len(clusters)} cluster names: give one per value."
        )
    places: dict[Hashable, list[int]] = {}
    for place, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(place)
    return [np.array(places[cluster]) for cluster in sorted(places, key=repr)]


def _draws(n_units: int, n_boot: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield blocks `[resample, draw]` of cluster places, `n_boot` resamples in all."""
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK // n_units)
    for start in range(0, n_boot, size):
        yield rng.integers(0, n_units, size=(min(size, n_boot - start), n_units))


def _resampled_means(
    values: Values, members: list[NDArray[np.intp]], draws: Iterator[NDArray[np.intp]]
) -> Values:
    """The mean needs each cluster's sum and count only."""
    sums = np.array([values[places].sum() for places in members])
    counts = np.array([len(places) for places in members])
    return np.concatenate([sums[draw].sum(1) / counts[draw].sum(1) for draw in draws])


def _resampled(
    statistic: Callable[[Values], float],
    values: Values,
    members: list[NDArray[np.intp]],
    draws: Iterator[NDArray[np.intp]],
) -> Values:
    grouped = [values[places] for places in members]
    resamples = (np.concatenate([grouped[i] for i in row]) for draw in draws for row in draw)
    return np.array([statistic(resample) for resample in resamples], dtype=float)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    first, second = _finite(a, "a"), _finite(b, "b")
    if len(first) != len(second):
        raise InputError(
            f"a has {len(first)} values and b has {len(second)}: they must be pairs, in one order."
        )
    return first, second


def _finite(values: ArrayLike, name: str) -> Values:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers: {error}. Drop what has no value.") from error
    if numbers.ndim != 1 or numbers.size == 0:
        raise InputError(f"{name} has shape {numbers.shape}: give a list of at least one number.")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise InputError(
            f"{name}[{bad[0]}] is {numbers[bad[0]]}, one of {bad.size} that are not finite: "
            "drop or mark them first, for they cannot be averaged."
        )
    return numbers


def _check_settings(n_boot: int, level: float) -> None:
    if n_boot < 1:
        raise InputError(f"n_boot is {n_boot}: at least one resample is needed, better 2000.")
    if not (isfinite(level) and 0 < level < 1):
        raise InputError(f"level is {level}: it is a share above 0 and below 1, such as 0.95.")


def _few(n_units: int) -> str | None:
    if n_units >= FEW_CLUSTERS:
        return None
    return f"only {n_units} problems: the interval is probably too narrow"
