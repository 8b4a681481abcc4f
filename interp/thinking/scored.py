"""Chains with the scores of their steps: what the direction, the steering tests and pruning read.

A score is one draw of the perturbation; what is said of a step is the mean over draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from interp.thinking.score import Chain, StepScore


@dataclass(frozen=True)
class MeanStep:
    """One step, its score and signed legs averaged over the draws."""

    id: str
    """The problem's."""
    step: int
    n_steps: int
    start: int
    end: int
    """The step is `chain.text[start:end]`, trailing white space included."""
    text: str
    op: str
    """`edit` where its numbers are shifted, `drop` where it has none."""
    tts: float
    nec: float
    suf: float
    null_tts: float | None
    """The floor: the score of a rewrite that changes nothing, where that control was computed."""
    position: float
    """0 the first step, 1 the last."""
    mentions_answer: bool
    saturated: bool
    """In every draw."""
    verification: bool


@dataclass(frozen=True)
class ScoredChain:
    """A chain and all scores of its steps, one for each step and draw."""

    chain: Chain
    scores: tuple[StepScore, ...]

    @cached_property
    def means(self) -> tuple[MeanStep, ...]:
        """The steps that have a score, in order."""
        by_step: dict[int, list[StepScore]] = {}
        for score in sorted(self.scores, key=lambda score: (score.step, score.seed)):
            by_step.setdefault(score.step, []).append(score)
        return tuple(_mean(draws) for draws in by_step.values())

    @property
    def id(self) -> str:
        """The problem's."""
        return self.chain.problem.id


def mean_steps(scored: Iterable[ScoredChain]) -> list[MeanStep]:
    """Return the steps of many chains, in order."""
    return [step for chain in scored for step in chain.means]


def _mean(draws: Sequence[StepScore]) -> MeanStep:
    first = draws[0]
    floors = [draw.null_tts for draw in draws if draw.null_tts is not None]
    return MeanStep(
        id=first.id,
        step=first.step,
        n_steps=first.n_steps,
        start=first.start,
        end=first.end,
        text=first.text,
        op=first.op,
        tts=fmean(draw.tts for draw in draws),
        nec=fmean(draw.nec for draw in draws),
        suf=fmean(draw.suf for draw in draws),
        null_tts=fmean(floors) if floors else None,
        position=first.position,
        mentions_answer=first.mentions_answer,
        saturated=all(draw.saturated for draw in draws),
        verification=first.verification,
    )
