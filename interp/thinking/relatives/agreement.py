"""How far the measures of steps agree: the rank correlation of every pair, with intervals.

The steps of each problem are ranked by each measure, and the correlation is Spearman's within the
problem; the table gives its mean over problems. So levels that differ between problems (an easy one
has small values throughout) make no agreement, every problem counts once however long its chain,
and the unit of the interval is the problem. Pooled ranks would let one chain of sixty steps
outweigh thirty of five, and a problem in which one measure is constant would pull the pooled value
towards 0, while it says nothing about order; here such a problem is counted as undefined and left
out. The price is noise: short chains give coarse correlations, which only more problems mend.

Control: the steps of one side shuffled within each problem; `chance` is how large a mean such a
shuffle reaches at the level of the interval. An agreement below it is none.

Source of the coefficient: Spearman 1904, American Journal of Psychology 15, 72.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from interp.errors import InputError
from interp.stats import cluster_bootstrap, spearman
from interp.thinking.relatives.values import StepValue

FEWEST_STEPS = 3
"""A correlation of two steps is always 1, -1 or undefined."""

RESOLUTION = 1e-6
"""Values that round to the same multiple of this tie: the noise of float32 is no order."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far two measures put the steps of a problem in the same order."""

    a: str
    b: str
    rho: float | None
    """Mean over problems of Spearman's correlation, -1 to 1; None where no problem has one."""
    low: float | None
    high: float | None
    level: float
    chance: float | None
    """What a shuffle of the steps within problems reaches at this level, in size."""
    n_problems: int
    """Problems with a correlation."""
    n_steps: int
    """Their steps with a value of both measures."""
    n_undefined: int
    """Problems with values of both, but too few steps or a side without an order."""
    warning: str | None


def agreement(
    values: Iterable[StepValue],
    *,
    resolution: float = RESOLUTION,
    n_boot: int = 2000,
    n_shuffles: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> list[Agreement]:
    """Compare every pair of measures, in the order in which measures first appear.

    Args:
        values: of several measures and problems, one for each measure and step. Those that are
            None are left out: a pair is compared on the steps that have both.
        resolution: how far apart two values must be to have an order.
        n_boot: redraws of problems for the interval.
        n_shuffles: shuffles for the control.

    Raises:
        InputError: fewer than two measures, two values of one measure for one step, or a setting
            out of range.
    """
    if not resolution > 0:
        raise InputError(f"resolution is {resolution}: give a size above 0, such as {RESOLUTION}.")
    if n_shuffles < 1:
        raise InputError(f"n_shuffles is {n_shuffles}: at least one shuffle is needed, better 200.")
    table = _table(values)
    if len(table) < 2:
        raise InputError(
            f"There is nothing to compare with {next(iter(table), 'no measure at all')!r}: give "
            "values of at least two measures."
        )
    settings = {"n_boot": n_boot, "level": level, "seed": seed}
    return [
        _compare(a, b, _shared(table[a], table[b], resolution), n_shuffles, **settings)
        for a, b in combinations(table, 2)
    ]


_Steps = dict[str, dict[int, float]]


def _table(values: Iterable[StepValue]) -> dict[str, _Steps]:
    """Return values by measure, problem and step."""
    table: dict[str, _Steps] = {}
    for each in values:
        steps = table.setdefault(each.measure, {}).setdefault(each.id, {})
        if each.value is None:
            continue
        if each.step in steps:
            raise InputError(
                f"Step {each.step} of {each.id} has two values of {each.measure}: average them "
                "over seeds first, and give chains of one problem ids of their own."
            )
        steps[each.step] = each.value
    return table


def _shared(a: _Steps, b: _Steps, resolution: float) -> dict[str, tuple[Values, Values]]:
    """Return both sides of the steps that have both, rounded, by problem."""
    sides = {}
    for name in sorted(a.keys() & b.keys()):
        steps = sorted(a[name].keys() & b[name].keys())
        if steps:
            one, other = (np.array([side[name][step] for step in steps]) for side in (a, b))
            sides[name] = (np.round(one / resolution), np.round(other / resolution))
    return sides


def _compare(
    a: str,
    b: str,
    sides: Mapping[str, tuple[Values, Values]],
    n_shuffles: int,
    *,
    n_boot: int,
    level: float,
    seed: int,
) -> Agreement:
    kept = {name: pair for name, pair in sides.items() if _ordered(*pair)}
    undefined = len(sides) - len(kept)
    if not kept:
        why = _why_none(len(sides))
        return Agreement(a, b, None, None, None, level, None, 0, 0, undefined, why)
    rhos = [spearman(one, other) for one, other in kept.values()]
    found = cluster_bootstrap(rhos, kept, n_boot=n_boot, level=level, seed=seed)
    return Agreement(
        a,
        b,
        rho=found.estimate,
        low=found.low,
        high=found.high,
        level=level,
        chance=_chance(list(kept.values()), n_shuffles, level, seed),
        n_problems=len(kept),
        n_steps=sum(len(one) for one, _ in kept.values()),
        n_undefined=undefined,
        warning=found.warning,
    )


def _ordered(one: Values, other: Values) -> bool:
    """Say whether a correlation exists: enough steps, and an order on both sides."""
    return len(one) >= FEWEST_STEPS and bool(np.ptp(one) > 0 and np.ptp(other) > 0)


def _why_none(n_problems: int) -> str:
    if not n_problems:
        return "no step has a value of both measures"
    return f"no problem has {FEWEST_STEPS} steps that both measures put in an order"


def _chance(
    sides: Sequence[tuple[Values, Values]], n_shuffles: int, level: float, seed: int
) -> float:
    """Return the quantile of the size of the mean correlation when steps are shuffled."""
    rng = np.random.default_rng(seed)
    means = np.zeros(n_shuffles)
    for one, other in sides:
        shuffled = rng.permuted(np.tile(_standard(other), (n_shuffles, 1)), axis=1)
        means += shuffled @ _standard(one) / len(sides)
    return float(np.quantile(np.abs(means), level))


def _standard(values: Values) -> Values:
    """Return the ranks of values, of mean zero and length one."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]
    ranks = ranks - ranks.mean()
    return ranks / np.linalg.norm(ranks)
