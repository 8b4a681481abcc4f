"""One trial of the steering tests, the split of the problems, and the choice of the layer.

Every arm (the direction, each random twin, each baseline) chooses its own layer on the problems of
the selection split, by the same rule:

    most flips less unparsable answers; of equals the larger mean shift of log Pr(y*) in the wanted
    direction (down in the engagement test, up in the other); of equals the earlier layer

Source of the tests: Zhao et al. 2025, arXiv:2510.24941, who take the best of all layers on the very
items that they report; the split and the rule are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from interp.errors import InputError
from interp.thinking.steer_items import Item, Test

Split = Literal["select", "test"]
Key = tuple[str, int, int, str]
"""An item: problem, step, seed and test."""


@dataclass(frozen=True)
class Trial:
    """One item under one arm at one layer."""

    problem: str
    step: int
    seed: int
    """Of the perturbation."""
    test: Test
    arm: str
    twin: int | None
    """Which random or shuffled direction, by its seed; None for an arm that is alone."""
    layer: int | None
    """The block whose input is edited, or whose attention; the number of blocks for the final
    output; None where the text is changed instead."""
    coefficient: float | None
    """Of the direction, or the factor on attention."""
    answer: str | None
    """None where it cannot be read."""
    flipped: bool
    """Engagement: an answer, and not y*. Disengagement: y*."""
    unparsable: bool
    logprob: float
    """Joint log-probability of y* (nats)."""
    base_logprob: float
    """The same with nothing edited."""

    @property
    def key(self) -> Key:
        """The item."""
        return self.problem, self.step, self.seed, self.test

    @property
    def shift(self) -> float:
        """The change of log Pr(y*), in nats."""
        return self.logprob - self.base_logprob


@dataclass(frozen=True)
class LayerPoint:
    """An arm at one layer on one split: a point of its curve. Shares are of items."""

    test: Test
    arm: str
    twin: int | None
    layer: int | None
    split: Split
    flips: float
    unparsable: float
    shift: float | None
    """Mean change of log Pr(y*), nats; None where it is not finite."""
    n_items: int
    n_problems: int


def split_problems(items: Iterable[Item], seed: int = 0, share: float = 0.5) -> dict[str, Split]:
    """Deal the problems into a selection split, of about `share` of them, and a test split.

    Problems that have items in both tests, or in one alone, are dealt evenly, so that a test with
    few problems has some in both splits. The order of the items does not matter.

    Raises:
        InputError: fewer than 2 problems, or a share that leaves a split empty.
    """
    tests: dict[str, set[str]] = {}
    for item in items:
        tests.setdefault(item.problem, set()).add(item.test)
    if len(tests) < 2:
        raise InputError(
            f"The items come from {len(tests)} problem{'' if len(tests) == 1 else 's'}, and the "
            "layer is chosen on other problems than it is reported on: give items of at least 2 "
            "problems, better 40."
        )
    if not 0 < share < 1:
        raise InputError(f"share={share}: the selection split takes more than 0 and less than 1.")
    dealt = sorted(tests, key=lambda name: (sorted(tests[name]), _draw(seed, name)))
    marks = [math.floor(place * share) for place in range(len(dealt) + 1)]
    chosen = {name for i, name in enumerate(dealt) if marks[i + 1] > marks[i]}
    chosen = chosen or {dealt[0]}
    return {name: "select" if name in chosen else "test" for name in sorted(tests)}


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(json.dumps(["split", seed, name]).encode()).hexdigest()


def choose_layer(trials: Iterable[Trial], split: Mapping[str, Split]) -> int | None:
    """Return the layer of one arm in one test, by the selection split alone.

    An arm that was run at one layer has no choice. None where the text is changed at no layer.

    Raises:
        InputError: several layers and no item of the selection split, or no trial.
    """
    trials = list(trials)
    layers = {trial.layer for trial in trials}
    if len(layers) == 1:
        return layers.pop()
    seen = [trial for trial in trials if split[trial.problem] == "select"]
    if not seen:
        raise InputError("no item of the selection split, so no layer can be chosen")
    return min(_by_layer(seen).items(), key=lambda entry: _merit(entry[1], entry[0]))[0]


def _merit(trials: Sequence[Trial], layer: int | None) -> tuple[float, float, int]:
    """What a layer is chosen by: the smallest is the best."""
    net = fmean(trial.flipped - trial.unparsable for trial in trials)
    shift = _mean_shift(trials)
    unwanted = shift if trials[0].test == "engage" or shift is None else -shift
    return -net, math.inf if unwanted is None else unwanted, layer or 0


def curve_of(trials: Sequence[Trial], split: Mapping[str, Split]) -> tuple[LayerPoint, ...]:
    """Return every layer of one arm in one test, on both splits."""
    parts: dict[Split, list[Trial]] = {"select": [], "test": []}
    for trial in trials:
        parts[split[trial.problem]].append(trial)
    return tuple(
        _point(at, part)
        for part, mine in parts.items()
        for _, at in sorted(_by_layer(mine).items(), key=lambda entry: entry[0] or 0)
    )


def _point(trials: Sequence[Trial], split: Split) -> LayerPoint:
    """One layer of one arm on one split."""
    return LayerPoint(
        test=trials[0].test,
        arm=trials[0].arm,
        twin=trials[0].twin,
        layer=trials[0].layer,
        split=split,
        flips=fmean(trial.flipped for trial in trials),
        unparsable=fmean(trial.unparsable for trial in trials),
        shift=_mean_shift(trials),
        n_items=len(trials),
        n_problems=len({trial.problem for trial in trials}),
    )


def _by_layer(trials: Iterable[Trial]) -> dict[int | None, list[Trial]]:
    found: dict[int | None, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.layer, []).append(trial)
    return found


def _mean_shift(trials: Sequence[Trial]) -> float | None:
    """The mean of those that are finite."""
    shifts = [trial.shift for trial in trials if math.isfinite(trial.shift)]
    return fmean(shifts) if shifts else None
