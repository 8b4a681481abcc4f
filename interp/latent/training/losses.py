"""The losses, computed by the subject's own calls, so that training and testing cannot differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.hf import HFSubject
from interp.latent.state import Memory
from interp.latent.training.recipe import ALL


@dataclass(frozen=True)
class Row:
    """Tokens that are fed at one go, and from which of them on the next one is trained."""

    ids: tuple[int, ...]
    first: int
    """Place of the first token that is predicted; those before it are given."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Outputs of rows: padded at the right, one place short of the longest row."""

    hidden: Float[Tensor, "batch length d_model"]
    ids: Int[Tensor, "batch length"]
    """The token that each output predicts."""
    trained: Bool[Tensor, "batch length"]


def feed_rows(subject: HFSubject, rows: Sequence[Row], memory: Memory | None = None) -> Pass:
    """Feed all tokens of rows but the last, behind `memory`.

    Raises:
        InputError: a row that is longer than what the model reads.
    """
    width = max(len(row.ids) for row in rows)
    _require_room(subject, width - 1, memory)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    places = torch.arange(width)
    length = torch.tensor([len(row.ids) for row in rows])[:, None]
    first = torch.tensor([row.first for row in rows])[:, None]
    trained = (places >= first) & (places < length)
    fed = places[:-1] < length - 1
    ids, trained, fed = (part.to(subject.device) for part in (ids, trained, fed))
    hidden, _ = subject.feed(subject.embed(ids[:, :-1]), fed, memory)
    return Pass(hidden, ids[:, 1:], trained[:, 1:])


def _require_room(subject: HFSubject, width: int, memory: Memory | None) -> None:
    before = 0 if memory is None else int(memory.next.max())
    most = getattr(subject.hf.config, "max_position_embeddings", None)
    if most is not None and before + width > most:
        raise InputError(
            f"A training problem takes {before + width} tokens, and {subject.name} reads {most}: "
            "leave out the longest problems, or train a model that reads more."
        )


def nll(subject: HFSubject, made: Pass) -> Float[Tensor, ""]:
    """Mean over the trained tokens of -log p, in nats."""
    logprobs = subject.head(made.hidden[made.trained])
    return -logprobs.gather(1, made.ids[made.trained][:, None]).mean()


def latent_pass(
    subject: HFSubject, problems: Sequence[LatentProblem], *, latents: int, dropped: int
) -> Pass:
    """Feed prompts, `latents` slots, then end marker, the steps left and the answer in one pass."""
    state = subject.prefill(problems)
    for _ in range(latents):
        state = subject.step(state)
    rows = [after_latents(subject, problem, dropped) for problem in problems]
    return feed_rows(subject, rows, state.memory)


def after_latents(subject: HFSubject, problem: LatentProblem, dropped: int) -> Row:
    """End marker, steps from `dropped` on, and the answer; all behind the marker is trained."""
    close = subject.close_ids
    steps = step_ids(subject, problem.steps[dropped:])
    return Row((*close, *steps, *subject.target(problem.answer).ids), len(close))


def step_ids(subject: HFSubject, steps: Sequence[str]) -> list[int]:
    """Tokens of steps in text, one after the other."""
    return [i for step in steps for i in subject.layout.step_ids(subject.tokenizer, step)]


def text_pass(subject: HFSubject, problems: Sequence[LatentProblem]) -> Pass:
    """Feed prompts, all steps in text, end marker and answer in one pass; all is trained but the
    prompt, the end marker too, since a model of text writes it itself."""
    return feed_rows(subject, [in_text(subject, problem) for problem in problems])


def in_text(subject: HFSubject, problem: LatentProblem) -> Row:
    """A whole problem in text."""
    prompt = subject.layout.prompt_ids(subject.tokenizer, problem)
    steps = step_ids(subject, problem.steps)
    answer = subject.target(problem.answer).ids
    return Row((*prompt, *steps, *subject.close_ids, *answer), len(prompt))


def teacher_row(subject: HFSubject, problem: LatentProblem, prompt: str) -> Row:
    """What CODI's teacher reads: the question, its steps but the last, and the answer.

    Its states are compared at the token before the answer, which must be the student's: the last of
    the target's own words or, where it has none, of the end marker.
    """
    layout = replace(subject.layout, prompt=prompt)
    question = layout.prompt_ids(subject.tokenizer, problem)
    steps = step_ids(subject, problem.steps[:-1])
    target = subject.target(problem.answer)
    before = () if target.answer[0] else subject.close_ids
    return Row((*question, *steps, *before, *target.ids), len(question))


@contextmanager
def all_states(subject: HFSubject) -> Iterator[list[tuple[Tensor, ...]]]:
    """Inside the block each forward call adds its states: embeddings, and every layer's output."""
    kept: list[tuple[Tensor, ...]] = []
    config, base = subject.hf.config, subject.hf.base_model
    before = getattr(config, "output_hidden_states", False)
    hook: Any = base.register_forward_hook(lambda module, args, out: kept.append(out.hidden_states))
    config.output_hidden_states = True
    try:
        yield kept
    finally:
        hook.remove()
        config.output_hidden_states = before


def before_answer(
    states: tuple[Tensor, ...], places: Sequence[int]
) -> Float[Tensor, "layer batch d_model"]:
    """The states at one place of each row."""
    rows = torch.arange(len(places))
    return torch.stack([layer[rows, list(places)] for layer in states])


def distance(
    student: Float[Tensor, "layer batch d_model"], teacher: Float[Tensor, "layer batch d_model"]
) -> Float[Tensor, ""]:
    """Mean over layers of SmoothL1(student, teacher) / std(teacher); the teacher gets no gradient.

    Source: CODI, arXiv:2502.21074; the paper writes L1, its code takes SmoothL1.
    """
    fixed = teacher.detach()
    apart = smooth_l1_loss(student, fixed, reduction="none").mean((1, 2))
    return (apart / fixed.std((1, 2))).mean()


@dataclass(frozen=True, eq=False)
class Read:
    """A pass, and the states at the token just before the answer's first."""

    made: Pass
    states: Float[Tensor, "layer batch d_model"]


def student_read(subject: HFSubject, problems: Sequence[LatentProblem], latents: int) -> Read:
    """The student: latents, end marker, answer."""
    with all_states(subject) as kept:
        made = latent_pass(subject, problems, latents=latents, dropped=ALL)
    n_close = len(subject.close_ids)
    places = [n_close + subject.target(p.answer).answer[0] - 1 for p in problems]
    return Read(made, before_answer(kept[-1], places))


def teacher_read(subject: HFSubject, problems: Sequence[LatentProblem], prompt: str) -> Read:
    """The teacher: steps but the last in text, then the answer."""
    rows = [teacher_row(subject, problem, prompt) for problem in problems]
    with all_states(subject) as kept:
        made = feed_rows(subject, rows)
    spans = [subject.target(problem.answer) for problem in problems]
    places = [len(r.ids) - len(s.ids) + s.answer[0] - 1 for r, s in zip(rows, spans, strict=True)]
    return Read(made, before_answer(kept[-1], places))
