"""Ablation by score bin: does the direction grow with the score of the steps that it is made from?

For each bin of scores a direction is fitted from its steps to the decorative ones, all else alike,
and added in the engagement test. If the score measures what the direction carries, the model stays
right less often the higher the bin. `lowest` is the smallest share over layers, as published: it is
chosen on the items that it is counted on, so it is too low. `result` is the honest one: its layer
comes from other problems.

Source: Zhao et al. 2025, arXiv:2510.24941, ablation of the true set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.directions import Direction
from interp.engine.model import Model
from interp.engine.tree import Progress
from interp.errors import InputError
from interp.models.weights import weights_hash
from interp.thinking import direction
from interp.thinking.rules import Rules
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import choose_sets
from interp.thinking.steer_arms import Arm, direction_arm
from interp.thinking.steer_items import Item
from interp.thinking.steer_layers import Split, Trial
from interp.thinking.steer_stats import ArmResult, summarise
from interp.thinking.steer_test import steer

BINS = ((0.9, 1.0), (0.5, 0.9), (0.3, 0.5), (0.1, 0.3), (0.03, 0.1))
"""From the first on, below the second; a bin that ends at 1 holds 1. As in the paper."""

Bin = tuple[float, float]


@dataclass(frozen=True)
class BinDirection:
    """The direction of one bin, or why there is none."""

    low: float
    high: float
    n_true: int
    n_decorative: int
    directions: tuple[Direction, ...]
    skipped: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The bin as an interval, which names its arm."""
        return f"[{self.low:g}, {self.high:g}{']' if self.high >= 1 else ')'}"


@dataclass(frozen=True)
class BinResult:
    """What the direction of one bin does in the engagement test."""

    made: BinDirection
    accuracy: tuple[tuple[int, float], ...]
    """For each layer the share of all items whose answer is still y*; an answer that cannot be
    read is not."""
    result: ArmResult | None
    """Its layer chosen on one split, counted on the other; None for a bin that was skipped."""

    @property
    def lowest(self) -> tuple[int, float] | None:
        """The layer with the lowest accuracy, the earliest of equals, and that accuracy."""
        return min(self.accuracy, key=lambda at: (at[1], at[0]), default=None)

    def row(self) -> dict[str, Any]:
        """Return all but the curve, flat."""
        at, lowest = self.lowest or (None, None)
        flips = self.result.flips if self.result else None
        return {
            "bin": self.made.name,
            "low": self.made.low,
            "high": self.made.high,
            "n_true": self.made.n_true,
            "n_decorative": self.made.n_decorative,
            "lowest_accuracy": lowest,
            "lowest_layer": at,
            "layer": self.result.layer if self.result else None,
            "flips": flips.estimate if flips else None,
            "flips_low": flips.low if flips else None,
            "flips_high": flips.high if flips else None,
            "n_items": self.result.n_items if self.result else 0,
            "n_problems": self.result.n_problems if self.result else 0,
            "skipped": self.made.skipped,
            "warning": "; ".join(self.made.warnings) or None,
        }

    def curve_rows(self) -> list[dict[str, Any]]:
        """Return the accuracy at each layer as flat rows."""
        return [
            {"bin": self.made.name, "layer": layer, "accuracy": share}
            for layer, share in self.accuracy
        ]


def bin_directions(
    model: Model,
    scored: Sequence[ScoredChain],
    bins: Sequence[Bin] = BINS,
    *,
    fewest: int = 8,
    **settings: Any,
) -> list[BinDirection]:
    """Fit one direction for each bin of scores, against the same kind of decorative steps.

    Args:
        bins: scores from the first to below the second.
        fewest: a bin with fewer steps on a side, after matching, is skipped.
        settings: of `choose_sets`: `decorative_to`, `per_problem`, `most`, `match`, `seed`...

    Raises:
        InputError: a bin that is empty by its bounds.
    """
    for low, high in bins:
        if not 0 <= low < high <= 1:
            raise InputError(f"({low}, {high}) is no bin of scores: give 0 <= low < high <= 1.")
    return [_bin(model, scored, low, high, fewest, settings) for low, high in bins]


def _bin(
    model: Model,
    scored: Sequence[ScoredChain],
    low: float,
    high: float,
    fewest: int,
    settings: Mapping[str, Any],
) -> BinDirection:
    made = BinDirection(low, high, 0, 0, ())
    below = {"true_below": high} if high < 1 else {}
    try:
        sets = choose_sets(
            scored, true_from=low, lowest=low, fewest=fewest, **below, **dict(settings)
        )
        made = replace(made, n_true=len(sets.true), n_decorative=len(sets.decorative))
        if min(made.n_true, made.n_decorative) < fewest:
            why = (
                f"{made.n_true} steps in the bin and {made.n_decorative} decorative ones are left "
                f"after matching, fewer than {fewest}"
            )
            return replace(made, skipped=why)
        found = direction.fit(model, scored, sets)
    except InputError as error:
        return replace(made, skipped=str(error))
    return replace(made, directions=tuple(found), warnings=sets.warnings)


def ablate_bins(
    model: Model,
    items: Sequence[Item],
    made: Sequence[BinDirection],
    rules: Rules,
    split: Mapping[str, Split],
    *,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> list[BinResult]:
    """Add the direction of each bin in the engagement test, layer by layer.

    Args:
        items: of the engagement test; others are left out.
        split: of the problems, as for the other arms.

    Raises:
        InputError: no item of the engagement test; bins that all are skipped give results that say
            why instead.
    """
    engage = [item for item in items if item.test == "engage"]
    known = weights_hash(model.hf)
    arms: list[Arm] = [
        direction_arm(model, each.directions, each.name, weights=known)
        for each in made
        if each.directions
    ]
    if not arms:
        return [BinResult(each, (), None) for each in made]
    options: dict[str, Any] = {"exact": exact, "chunk": chunk, "progress": progress}
    trials = steer(model, engage, arms, rules, **options)
    results = {result.arm: result for result in summarise(trials, split)}
    return [BinResult(each, _accuracy(trials, each.name), results.get(each.name)) for each in made]


def _accuracy(trials: Sequence[Trial], arm: str) -> tuple[tuple[int, float], ...]:
    """The share of items that are still answered y*, by layer."""
    kept: dict[int, list[bool]] = {}
    for trial in trials:
        if trial.arm == arm and trial.layer is not None:
            kept.setdefault(trial.layer, []).append(not (trial.flipped or trial.unparsable))
    return tuple((layer, sum(each) / len(each)) for layer, each in sorted(kept.items()))
