"""Diagnostic: the influence matrix as the paper's released code computes it, faults included.

For seeing an artefact, never for a result. Every table of it says `preset: released-code`, and the
identity stands beside each operator: here its effect is not 0, and it has the "late, non-local"
shape that was published. Written from a description of these faults:

- The clean side of a read-out at s has consumed s - 1 steps, the intervened side s.
- Coconut: no end marker is fed before reading at s < T, and the intervened side's first token comes
  from the clean output that made h_t, whatever the edit was.
- Explicit chains are summed over problems, not averaged, so edges that many problems have win.
- Coconut's early stop cuts nothing but the first token's cache: the others see all T slots, those
  after k filled with the placeholder token's own embedding.

Concerns: the code published with Li et al. 2026, arXiv:2602.08783.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import Calibration
from interp.latent.effects import in_chunks, same
from interp.latent.hf import HFSubject
from interp.latent.influence import Influence
from interp.latent.influence_naive import spending
from interp.latent.influence_rows import (
    OPERATORS,
    Job,
    Row,
    finished,
    kept_rows,
    plan,
    rows_of,
    settings,
    targets,
    usable_problems,
)
from interp.latent.interventions import ROWS, Base, Edge, Lane, Reading, base_run, readings
from interp.latent.operators import Operator
from interp.latent.shape import Matrix, shape_of
from interp.latent.state import Closed, State
from interp.latent.subject import Subject, roll_out
from interp.latent.subjects import Coconut

PRESET = "released-code"
"""Name in every row and table of it."""


@torch.no_grad()
def released_influence(
    subject: Subject,
    problems: Sequence[LatentProblem],
    calibration: Calibration,
    *,
    operators: Sequence[str | Operator] = OPERATORS,
    edge: Edge = "input",
    seeds: Sequence[int] = (0,),
    rows: int = ROWS,
    whole: bool = True,
) -> Influence:
    """W[t, s] for t < s with the released code's read-outs: diagnostic, see the module.

    Arguments, result and errors are those of `influence`.
    """
    job = plan(subject, calibration, operators, edge, seeds, "answer", whole=whole)
    usable = usable_problems(job, problems)
    widest = max(len(job.at_step(t)) for t in range(1, subject.n_steps + 1)) + 1

    def work(part: Sequence[LatentProblem], most: int) -> list[Row]:
        return kept_rows(job, part, lambda some: _rows(job, some, most))

    with spending(subject) as spent:
        made = in_chunks(usable, work, lanes=widest, rows=rows) if usable else []
    found, silent = finished(job, made)
    noted = settings(job, edge, seeds) | {"exact": False, "preset": PRESET, "diagnostic": True}
    return Influence(found, list(job.skipped.values()), silent, spent, noted)


def _rows(job: Job, problems: Sequence[LatentProblem], most: int) -> list[Row]:
    base = base_run(job.subject, problems)
    made: list[Row] = []
    for t in range(1, job.subject.n_steps):
        for reading in _misread(job, base, job.at_step(t), most):
            clean = job.subject.force(reading.clean, targets(job, base, reading))
            found = rows_of(job, base, reading, clean)
            made += [{**row, "preset": PRESET, "diagnostic": True} for row in found]
    return made


def _misread(job: Job, base: Base, lanes: Sequence[Lane], most: int) -> Iterator[Reading]:
    """Read-outs at s > t whose clean side is that of s - 1."""
    before: Reading | None = None
    for reading in readings(job.subject, base, lanes, job.calibration, rows=most, silent="mark"):
        if before is not None and before.consumed == reading.consumed - 1:
            late = replace(reading, clean=before.clean)
            coconut = isinstance(job.subject, Coconut)
            yield _unclosed(job.subject, base, late) if coconut else late
        before = reading


def _unclosed(subject: Subject, base: Base, late: Reading) -> Reading:
    """Coconut's read-out: a stored first token, and before the last step no end marker.

    `late.clean` has consumed s - 1 steps, so its own stored output is h_s.
    """
    assert isinstance(subject, HFSubject)
    t, s, copies = late.lanes[0].first, late.consumed, len(late.lanes)
    stored = base.rollout.node(t).vectors[:, 0].repeat(copies, 1)
    if s == subject.n_steps:
        return replace(late, closed=replace(late.closed, hidden=stored))
    own = base.rollout.node(s).vectors[:, 0].repeat(copies, 1)
    n_end = len(subject.close_ids)
    return replace(
        late, closed=_opened(late.closed, stored, n_end), clean=_opened(late.clean, own, n_end)
    )


def _opened(closed: Closed, hidden: Float[Tensor, "batch d_model"], n_end: int) -> Closed:
    """A read-out without its end marker, which the memory holds last."""
    memory = closed.memory
    layers = tuple((k[:, :, :-n_end], v[:, :, :-n_end]) for k, v in memory.layers)
    memory = replace(memory, layers=layers, seen=memory.seen[:, :-n_end], next=memory.next - n_end)
    return Closed(closed.consumed, hidden, memory)


def summed_shape(of: Matrix) -> dict[str, float] | None:
    """The four numbers of sums over problems in place of means: diagnostic, see the module.

    Where problems differ in their number of steps, edges between early steps are in more of them,
    and so the sum is local and early even if every edge is alike.
    """
    return shape_of(np.nansum(of.items, axis=0))


@torch.no_grad()
def released_early_stop(
    subject: Subject, problems: Sequence[LatentProblem], *, placeholder: str = "<|latent|>"
) -> list[Row]:
    """Whether the answer is right after k steps as the released code stops: diagnostic.

    Args:
        subject: a Coconut.
        problems: what is scored.
        placeholder: the token whose embedding fills the slots after k.

    Returns:
        A row for each problem and k = 0..T: `id`, `k`, `answer`, `correct`, `preset`, `diagnostic`.

    Raises:
        InputError: the subject is no Coconut, or the placeholder is not one token.
    """
    if not isinstance(subject, Coconut):
        raise InputError(
            f"The {PRESET} early stop is Coconut's, and {subject.name} is none: its early stop is "
            "a true one, in `early_stop`."
        )
    ids = subject.tokenizer(placeholder, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise InputError(
            f"{placeholder!r} is {len(ids)} tokens of the tokenizer, and a placeholder is one: "
            "name that of the recipe, such as <|latent|>."
        )
    states = roll_out(subject, subject.prefill(problems)).states
    made: list[Row] = []
    for k, state in enumerate(states):
        texts = _stopped(subject, state, int(ids[0]))
        for problem, text in zip(problems, texts, strict=True):
            answer = subject.read(text)
            right = same(answer, problem.answer)
            named: Row = {"preset": PRESET, "diagnostic": True}
            made.append({"id": problem.id, "k": k, "answer": answer, "correct": right, **named})
    return made


def _stopped(subject: Coconut, state: State, placeholder: int) -> list[str]:
    """Decode after k steps: the first token from C_k, the rest from T slots."""
    missing = subject.n_steps - state.consumed
    if not missing:
        return subject.decode(subject.close(state))
    first = subject.head(state.node.vectors[:, 0]).argmax(-1)
    fill = torch.full((state.rows, missing), placeholder, device=first.device)
    fed = torch.cat([fill, first[:, None]], 1)
    hidden, memory = subject.feed(
        subject.embed(fed), torch.ones_like(fed, dtype=torch.bool), state.memory
    )
    rest = subject.decode(Closed(state.consumed, hidden[:, -1], memory))
    tokenizer = subject.tokenizer
    begun = [tokenizer.decode([token], skip_special_tokens=True) for token in first.tolist()]
    ended = (first == tokenizer.eos_token_id).tolist()
    rows = zip(begun, rest, ended, strict=True)
    return [a if over else f"{a}{b}" for a, b, over in rows]
