"""What the steering tests say: flips on problems that the choice of the layer has not seen.

Each arm is reported at its own layer (`steer_layers`) on the problems of the test split; the whole
curve over layers is kept for both splits. Intervals redraw whole problems; differences to the
direction are paired by item. In the engagement test mere damage also makes answers wrong, so
answers that cannot be read are no flips and stand apart.

Source: Zhao et al. 2025, arXiv:2510.24941, the steering tests; pairing, intervals and the rank
among random twins are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap, paired_difference
from interp.thinking.steer_items import Test
from interp.thinking.steer_layers import Key, LayerPoint, Split, Trial, choose_layer, curve_of

Name = tuple[Test, str, int | None]
"""Test, arm and twin."""

Values = tuple[float, float, float]
"""Of an item: flipped, unparsable and shift of log Pr(y*); means over twins for several."""

FEWEST_TWINS = 20
"""Random directions beside the direction; fewer carry a warning."""


@dataclass(frozen=True)
class ArmResult:
    """An arm at its chosen layer, on the problems of the test split."""

    test: Test
    arm: str
    twin: int | None
    """None for an arm that is alone, and for the mean over the twins of an arm."""
    n_twins: int
    """How many twins the row is the mean of; 0 for an arm that is alone or one twin."""
    layer: int | None
    """Chosen on the selection split; None where there is no choice, or where twins differ."""
    flips: Interval | None
    unparsable: Interval | None
    shift: Interval | None
    """Change of log Pr(y*), nats."""
    difference: Interval | None
    """Flips of the direction less flips of this arm, item by item; None for the direction."""
    rank: float | None
    """For the mean over twins: the share of all, the direction included, that flip at least as
    much as the direction does."""
    n_items: int
    n_problems: int
    warnings: tuple[str, ...]
    curve: tuple[LayerPoint, ...]
    """Every layer on both splits."""

    def row(self) -> dict[str, Any]:
        """Return everything but the curve, flat."""
        flat: dict[str, Any] = {}
        for name in ("test", "arm", "twin", "n_twins", "layer", "n_items", "n_problems", "rank"):
            flat[name] = getattr(self, name)
        for name in ("flips", "unparsable", "shift", "difference"):
            interval: Interval | None = getattr(self, name)
            flat[name] = interval.estimate if interval else None
            flat[f"{name}_low"] = interval.low if interval else None
            flat[f"{name}_high"] = interval.high if interval else None
        return flat | {"warning": "; ".join(self.warnings) or None}


def curve_rows(results: Iterable[ArmResult]) -> list[dict[str, Any]]:
    """Return the curves of all results as flat rows."""
    return [asdict(point) for result in results for point in result.curve]


def summarise(
    trials: Iterable[Trial],
    split: Mapping[str, Split],
    *,
    against: str = "direction",
    n_boot: int = 2000,
    seed: int = 0,
) -> list[ArmResult]:
    """Return each arm at its own layer, chosen on one split and counted on the other.

    Where an arm has several twins, a row with their mean comes first: item by item the mean over
    twins, each at its own layer. A test or an arm without items in a split keeps its row, which
    says so.

    Args:
        against: the arm that the others are compared with.

    Raises:
        InputError: no trials, or a problem that the split does not have.
    """
    groups = _grouped(trials, split)
    chosen = {name: _Chosen.of(group, split) for name, group in groups.items()}
    results: list[ArmResult] = []
    arms: dict[tuple[Test, str], dict[Name, _Chosen]] = {}
    for name, each in chosen.items():
        arms.setdefault(name[:2], {})[name] = each
    for (test, arm), mine in arms.items():
        main = None if arm == against else chosen.get((test, against, None))
        if any(twin is not None for _, _, twin in mine):
            mine = {(test, arm, None): _pooled(list(mine.values())), **mine}
        for name, each in mine.items():
            rank = _rank(main, each) if main else None
            results.append(_result(name, each, main, rank, n_boot, seed))
    return results


@dataclass(frozen=True)
class _Chosen:
    """An arm at its layer: what it did to each item of the test split."""

    layer: int | None
    items: dict[Key, Values]
    curve: tuple[LayerPoint, ...]
    warnings: tuple[str, ...]
    twins: tuple[_Chosen, ...] = ()
    """What this is the mean of, if it is one."""

    @property
    def flips(self) -> float | None:
        """The share of items flipped; None without items."""
        return fmean(values[0] for values in self.items.values()) if self.items else None

    @classmethod
    def of(cls, trials: Sequence[Trial], split: Mapping[str, Split]) -> _Chosen:
        """Choose the layer of one arm, and read it on the test split."""
        curve = curve_of(trials, split)
        try:
            layer = choose_layer(trials, split)
        except InputError as error:
            return cls(None, {}, curve, (str(error),))
        held = [t for t in trials if t.layer == layer and split[t.problem] == "test"]
        values = {t.key: (float(t.flipped), float(t.unparsable), t.shift) for t in held}
        none = () if held else ("no item of the test split, so nothing is reported",)
        return cls(layer, values, curve, none)


def _grouped(trials: Iterable[Trial], split: Mapping[str, Split]) -> dict[Name, list[Trial]]:
    """The trials of each test, arm and twin, in the order of their first trial."""
    groups: dict[Name, list[Trial]] = {}
    for trial in trials:
        if trial.problem not in split:
            raise InputError(
                f"The problem {trial.problem!r} is in neither split: split the problems of all "
                "items that were run."
            )
        groups.setdefault((trial.test, trial.arm, trial.twin), []).append(trial)
    if not groups:
        raise InputError("There are no trials to summarise: run `steer` on some items first.")
    return groups


def _pooled(twins: Sequence[_Chosen]) -> _Chosen:
    """The mean over twins, item by item, for the items that all of them have."""
    shared = [key for key in twins[0].items if all(key in twin.items for twin in twins)]
    items = {key: _mean_values([twin.items[key] for twin in twins]) for key in shared}
    points: dict[tuple[int | None, Split], list[LayerPoint]] = {}
    for point in (point for twin in twins for point in twin.curve):
        points.setdefault((point.layer, point.split), []).append(point)
    layers = {twin.layer for twin in twins}
    return _Chosen(
        layer=layers.pop() if len(layers) == 1 else None,
        items=items,
        curve=tuple(map(_mean_point, points.values())),
        warnings=tuple(dict.fromkeys(word for twin in twins for word in twin.warnings)),
        twins=tuple(twins),
    )


def _mean_values(several: Sequence[Values]) -> Values:
    flipped, unparsable, shift = zip(*several, strict=True)
    sound = all(map(math.isfinite, shift))
    return fmean(flipped), fmean(unparsable), fmean(shift) if sound else math.nan


def _mean_point(points: Sequence[LayerPoint]) -> LayerPoint:
    """The mean over twins of one layer on one split."""
    shifts = [point.shift for point in points if point.shift is not None]
    return replace(
        points[0],
        twin=None,
        flips=fmean(point.flips for point in points),
        unparsable=fmean(point.unparsable for point in points),
        shift=fmean(shifts) if shifts else None,
    )


def _rank(main: _Chosen, pooled: _Chosen) -> float | None:
    """Share of the direction and the twins that flip at least as much as the direction."""
    twins = [twin.flips for twin in pooled.twins]
    if main.flips is None or not twins or None in twins:
        return None
    as_many = sum(flips is not None and flips >= main.flips for flips in twins)
    return (1 + as_many) / (1 + len(twins))


def _result(
    name: Name, held: _Chosen, main: _Chosen | None, rank: float | None, n_boot: int, seed: int
) -> ArmResult:
    test, arm, twin = name
    keys = list(held.items)
    sound = [key for key in keys if math.isfinite(held.items[key][2])]

    def over(column: int, some: Sequence[Key]) -> Interval | None:
        values, problems = [held.items[key][column] for key in some], [key[0] for key in some]
        return cluster_bootstrap(values, problems, n_boot=n_boot, seed=seed) if some else None

    flips = over(0, keys)
    return ArmResult(
        test=test,
        arm=arm,
        twin=twin,
        n_twins=len(held.twins),
        layer=held.layer,
        flips=flips,
        unparsable=over(1, keys),
        shift=over(2, sound),
        difference=_difference(main, held, n_boot, seed) if main else None,
        rank=rank,
        n_items=len(keys),
        n_problems=len({key[0] for key in keys}),
        warnings=_warnings(arm, held, flips, len(keys) - len(sound)),
        curve=held.curve,
    )


def _difference(main: _Chosen, other: _Chosen, n_boot: int, seed: int) -> Interval | None:
    """Flips of the direction less those of another arm, over the items that both have."""
    both = [key for key in main.items if key in other.items]
    if not both:
        return None
    first, second = ([side.items[key][0] for key in both] for side in (main, other))
    problems = [key[0] for key in both]
    return paired_difference(first, second, problems, n_boot=n_boot, seed=seed)


def _warnings(arm: str, held: _Chosen, counted: Interval | None, lost: int) -> tuple[str, ...]:
    said = list(held.warnings)
    if counted is not None and counted.warning:
        said.append(counted.warning)
    if lost:
        said.append(f"{lost} log-probabilities are not finite and are left out of the shift")
    if arm == "random" and 0 < len(held.twins) < FEWEST_TWINS:
        said.append(f"only {len(held.twins)} random directions: give at least {FEWEST_TWINS}")
    return tuple(said)
