"""Early answering: what the model would answer if its chain stopped after each step.

The curve of Pr(y*) over the steps kept, the greedy answer at each point, the area over the curve,
and the commitment point, from which on the answer stays. A chain whose answer is settled before
its first step was not needed for it.

    value      |Pr(y*| C, s) - Pr(y*| C)|: what the step adds to its context; larger = matters more
    control    the same with as many tokens of filler for the step: what length alone does

The step after the commitment point may still be read, and y* may be near certain long before the
answer is worked out: a curve that is high from the start says that the answer is guessed from the
question, not that the steps are false.

Source: Lanham et al. 2023, arXiv:2307.13702, section 3 (early answering, area over the curve);
commitment boundary: arXiv:2606.13603.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from interp.engine.model import Model
from interp.engine.tree import Spent
from interp.errors import InputError
from interp.thinking.relatives.readout import UNREADABLE, Reader, Reading, agree, effect, switched
from interp.thinking.relatives.values import (
    ChainValue,
    Marked,
    StepEffect,
    StepValue,
    difference,
    step_values,
)
from interp.thinking.rules import Rules
from interp.thinking.score import Chain

MEASURE = "early_answering"


@dataclass(frozen=True)
class EarlyPoint:
    """What the model answers once `kept` of the `n_steps` steps are there."""

    id: str
    kept: int
    n_steps: int
    logprob: float | None
    """Log-probability of y* (nats, joint); None where the point could not be read."""
    answer: str | None
    """The greedy answer; None where nothing could be read."""
    final: bool
    """Whether it is the greedy answer after the whole chain."""


@dataclass(frozen=True)
class EarlyCurve:
    """The curve of one chain, from no step to all of them."""

    id: str
    points: tuple[EarlyPoint, ...]
    effects: tuple[StepEffect, ...]
    marked: tuple[Marked, ...]
    spent: Spent
    commitment: int | None
    """How many steps settle the greedy answer: 0 before the first. None where it is not known."""
    own: bool
    """Whether the greedy answer after the whole chain is y*."""

    @property
    def values(self) -> list[StepValue]:
        """The size of the change that each step brings; marked steps are left out."""
        return step_values(self.effects)

    @property
    def controls(self) -> list[StepValue]:
        """The size of the change that as much filler brings."""
        return step_values(self.effects, control=True)

    @property
    def chain_values(self) -> list[ChainValue]:
        """Area over both curves, share of the chain before commitment, changes of the answer.

        All are 0 where the chain changes nothing and grow with what depends on it.
        """
        if any(point.logprob is None for point in self.points):
            return [ChainValue(self.id, name, None, UNREADABLE) for name in CHAIN_MEASURES]
        chances = [math.exp(point.logprob or 0.0) for point in self.points]
        over = ChainValue(self.id, "early_aoc_probability", area_over(chances))
        if self.commitment is None:
            why = "no answer could be read after the whole chain"
            return [over, *(ChainValue(self.id, name, None, why) for name in CHAIN_MEASURES[1:])]
        last, said = self.points[-1].n_steps, [point.answer for point in self.points]
        switches = sum(switched(a, b) for a, b in pairwise(said))
        found = (area_over([float(p.final) for p in self.points]), self.commitment / last)
        named = zip(CHAIN_MEASURES[1:], (*found, switches / last), strict=True)
        return [over, *(ChainValue(self.id, name, value) for name, value in named)]


CHAIN_MEASURES = ("early_aoc_probability", "early_aoc_answer", "commitment", "early_switches")


def early_answering(
    model: Model, chain: Chain, rules: Rules, *, exact: bool = False, chunk: int = 512
) -> EarlyCurve:
    """Read y* and the greedy answer after every step, and before the first.

    Points that cannot be read are marked; the others are kept.

    Args:
        exact: one plain forward pass a point instead of the shared token tree.
        chunk: tokens a forward pass (memory).

    Raises:
        InputError: the chain has no steps.
    """
    reader = Reader(model, chain, rules, exact=exact, chunk=chunk)
    ends = [0, *(step.end for step in chain.steps)]
    curve = [reader.version(chain.text[:end]) for end in ends]
    filler = [reader.filled(chain.text[: s.end], s.start, s.end) for s in chain.steps]
    readings = reader.read([*curve, *filler], answers=curve)
    read, controls = readings[: len(curve)], readings[len(curve) :]
    points = _points(chain, read)
    effects, marked = _effects(chain, read, controls)
    answers = [point.answer for point in points]
    return EarlyCurve(
        chain.problem.id,
        points,
        effects,
        marked,
        reader.spent,
        commitment=None if None in read else commitment(answers),
        own=agree(answers[-1], chain.answer),
    )


def _points(chain: Chain, read: Sequence[Reading | None]) -> tuple[EarlyPoint, ...]:
    final = read[-1].answer if read[-1] else None
    return tuple(
        EarlyPoint(
            chain.problem.id,
            kept,
            len(chain.steps),
            each.logprob if each else None,
            each.answer if each else None,
            agree(each.answer if each else None, final),
        )
        for kept, each in enumerate(read)
    )


def _effects(
    chain: Chain, read: Sequence[Reading | None], controls: Sequence[Reading | None]
) -> tuple[tuple[StepEffect, ...], tuple[Marked, ...]]:
    name, effects, marked = chain.problem.id, [], []
    for step, control in zip(chain.steps, controls, strict=True):
        before, after = read[step.index], read[step.index + 1]
        if before is None or after is None:
            marked.append(Marked(name, step.index, 0, MEASURE, UNREADABLE))
            continue
        # Without the change the step is there, with it there is only its context.
        found = effect(name, step.index, 0, MEASURE, after, before, None)
        floor = difference(control.logprob, before.logprob) if control else None
        effects.append(replace(found, control=floor))
    return tuple(effects), tuple(marked)


def commitment(answers: Sequence[str | None]) -> int | None:
    """Return the first place from which every answer is the last one; None if that is unread.

    >>> commitment(["4", "88", "4", "88", "88.0"]), commitment(["88", "88"]), commitment([None])
    (3, 0, None)
    """
    if not answers or answers[-1] is None:
        return None
    place = len(answers) - 1
    while place and agree(answers[place - 1], answers[-1]):
        place -= 1
    return place


def area_over(curve: Sequence[float]) -> float:
    """Return the area over a curve of values 0 to 1 at equal distances from 0 to 1.

    By trapezoids: 0 where the curve is 1 throughout, and 1 where it is 0 throughout.

    >>> area_over([0.0, 0.0, 1.0]), area_over([1.0, 1.0])
    (0.75, 0.0)

    Raises:
        InputError: fewer than two points.
    """
    if len(curve) < 2:
        raise InputError(f"A curve of {len(curve)} points has no area: give at least two points.")
    return 1 - sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
