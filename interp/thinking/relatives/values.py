"""What every relative of the True-Thinking Score returns: one value a step, or one a chain.

A value is a magnitude: the larger, the more the step (or the chain) matters by that measure. What
a measure compares is kept beside it with its sign, as a `StepEffect`: the probability of the
answer y* as it was, minus the same after the change, and that of a control change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from interp.engine.tree import Spent
from interp.errors import InputError


@dataclass(frozen=True)
class StepValue:
    """How much one step matters by one measure; the larger, the more."""

    id: str
    """The problem's."""
    step: int
    measure: str
    value: float | None
    """None where the measure has no value here; `reason` says why."""
    reason: str | None = None

    def __post_init__(self) -> None:
        _check(f"{self.measure} of step {self.step} of {self.id}", self.value, self.reason)


@dataclass(frozen=True)
class ChainValue:
    """What one measure says of a whole chain."""

    id: str
    measure: str
    value: float | None
    """None where the measure has no value here; `reason` says why."""
    reason: str | None = None

    def __post_init__(self) -> None:
        _check(f"{self.measure} of {self.id}", self.value, self.reason)


def _check(name: str, value: float | None, reason: str | None) -> None:
    if value is None and not reason:
        raise InputError(f"The value of {name} is None: say in `reason` why there is none.")
    if value is not None and not math.isfinite(value):
        raise InputError(
            f"The value of {name} is {value}: a value is finite; give None and the reason instead."
        )


@dataclass(frozen=True)
class Marked:
    """A step that could not be measured, with the reason; the others are kept."""

    id: str
    step: int
    seed: int
    measure: str
    reason: str


@dataclass(frozen=True)
class StepEffect:
    """One change of one step under one seed, and what it does to the probability of y*."""

    id: str
    step: int
    seed: int
    measure: str
    intact: float
    """Log-probability of y* (nats, joint) without the change."""
    changed: float
    """The same with it."""
    effect: float
    """Pr(y*) without the change minus Pr(y*) with it: signed, -1 to 1."""
    control: float | None = None
    """The same difference for the control change of the measure; None where there is none."""
    answer_changed: bool | None = None
    """Whether the greedy answer is another one; None where it was not asked for."""
    text: str = ""
    """What stands in the step's place."""
    rest: str = ""
    """The chain that the model wrote after it, where the rest was written again."""


@dataclass(frozen=True)
class StepEffects:
    """The effects of one or more measures on the steps of a chain."""

    effects: tuple[StepEffect, ...]
    marked: tuple[Marked, ...]
    spent: Spent

    @property
    def values(self) -> list[StepValue]:
        """The size of each step's effect, averaged over seeds; marked steps are left out."""
        return step_values(self.effects)

    @property
    def controls(self) -> list[StepValue]:
        """The same of the control change: the floor above which a value means something."""
        return step_values(self.effects, control=True)


def step_values(effects: Iterable[StepEffect], *, control: bool = False) -> list[StepValue]:
    """Return the mean size of the effect of each step and measure over seeds, in order.

    Sizes, not signed effects: a step that lowers Pr(y*) matters as much as one that raises it, as
    in the True-Thinking Score. `control` takes the control's effect instead, named
    `<measure>:control`; effects without one are left out.
    """
    sizes: dict[tuple[str, str, int], list[float]] = {}
    for each in effects:
        effect = each.control if control else each.effect
        if effect is not None:
            sizes.setdefault((each.measure, each.id, each.step), []).append(abs(effect))
    return [
        StepValue(name, step, f"{measure}:control" if control else measure, fmean(found))
        for (measure, name, step), found in sizes.items()
    ]


def difference(one: float, other: float) -> float:
    """Return the difference of two probabilities, given their logs (nats); equal ones give 0.0.

    >>> difference(0.0, math.log(0.25))
    0.75
    """
    return math.exp(one) - math.exp(other)
