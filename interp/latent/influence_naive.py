"""Influence with nothing shared, and what a measurement takes of the model.

Every intervention and every read-out of every problem is a rollout of its own from the prompt. It
gives the same numbers as the shared path, to rounding, at many times its cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from interp.data.latent_problems import LatentProblem
from interp.latent.influence_rows import Job, Row, rows_of
from interp.latent.interventions import Base, Lane, Reading, act, base_run, lane
from interp.latent.operators import Identity
from interp.latent.state import State
from interp.latent.subject import Forced, Subject, roll_out


@dataclass
class Spent:
    """What a measurement took of the model."""

    forward_calls: int = 0
    tokens: int = 0
    """Positions fed over all rows, without padding."""


@contextmanager
def spending(subject: Subject) -> Iterator[Spent | None]:
    """Count the forward calls and tokens of a Hugging Face model while this is open."""
    hf = getattr(subject, "hf", None)
    if hf is None:
        yield None
        return
    spent = Spent()

    def count(module: Any, args: Any, kwargs: Any) -> None:
        fed = kwargs.get("inputs_embeds", kwargs.get("input_ids", args[0] if args else None))
        mask = kwargs.get("attention_mask")
        spent.forward_calls += 1
        rows, columns = fed.shape[:2]
        spent.tokens += rows * columns if mask is None else int(mask[:, -columns:].sum())

    handle = hf.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield spent
    finally:
        handle.remove()


def naive_rows(job: Job, problems: Sequence[LatentProblem]) -> list[Row]:
    """The rows of one problem, each intervention and read-out from the prompt on."""
    base = base_run(job.subject, problems)
    total, made = job.subject.n_steps, []
    sides = {s: _clean(job, base, s) for s in range(1, total + 1)}
    for t in range(1, total + 1):
        lanes = job.at_step(t)
        null = lane(t, Identity(), lanes[0].dos[0].edge)
        made += [row for each in (null, *lanes) for row in _from_prompt(job, base, each, sides)]
    return made


def _clean(job: Job, base: Base, s: int) -> tuple[State, Forced]:
    start = job.subject.prefill(base.problems)
    state = roll_out(job.subject, start, steps=s).states[-1]
    forced = [job.target(problem, s) for problem in base.problems]
    return state, job.subject.force(job.subject.close(state), forced)


def _from_prompt(
    job: Job, base: Base, each: Lane, sides: dict[int, tuple[State, Forced]]
) -> list[Row]:
    """The rows of one lane: a rollout of its own for each read-out."""
    subject, t, made = job.subject, each.first, []
    for s in range(t, subject.n_steps + 1):
        before = roll_out(subject, subject.prefill(base.problems), steps=t - 1).states[-1]
        state, receipts = act(
            subject, before, before, [each.dos[0]], [each], base, job.calibration, "mark"
        )
        state = roll_out(subject, state, steps=s - t).states[-1]
        clean, forced = sides[s]
        assert state.consumed == clean.consumed == s, "both sides have consumed the same steps"
        closed = subject.close(state)
        reading = Reading(s, (each,), state.rows, closed, closed, (tuple(receipts),))
        made += rows_of(job, base, reading, forced)
    return made
