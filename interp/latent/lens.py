"""Two cheaper views of influence: what a step's vector would say, and gradients of the answer.

Neither replaces W: the first looks at vectors and not at answers, the second is linear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import Calibration
from interp.latent.effects import finite
from interp.latent.hf import HFSubject
from interp.latent.influence_rows import Row, plan
from interp.latent.interventions import Edge, act, base_run, lane
from interp.latent.operators import Identity, Operator
from interp.latent.state import Node, State
from interp.latent.subject import Subject


@torch.no_grad()
def lens_influence(
    subject: Subject,
    problems: Sequence[LatentProblem],
    calibration: Calibration,
    *,
    operator: str | Operator = "resample",
    edge: Edge = "input",
    seed: int = 0,
) -> list[Row]:
    """KL(clean || intervened) of h_s through the unembedding, for an edit at t < s.

    Returns:
        A row for each problem and t < s, the operator's and the identity's: `kl` in nats.

    Raises:
        InputError: the subject's vectors do not go through an unembedding, or a step has several.
        EditError: as `influence`.
    """
    if not isinstance(subject, HFSubject):
        raise InputError(
            f"{subject.name} has no unembedding to read a step with: take `influence`."
        )
    job = plan(subject, calibration, [operator], edge, [seed], "answer")
    base = base_run(subject, problems)
    if base.rollout.node(1).vectors.shape[1] != 1:
        raise InputError(f"Steps of {subject.name} have several vectors, not one to be read.")
    made: list[Row] = []
    for t in range(1, subject.n_steps):
        lanes = (*job.at_step(t), lane(t, Identity(), edge))
        start = base.rollout.states[t - 1].repeat(len(lanes))
        dos = [each.dos[0] for each in lanes]
        state, _ = act(subject, start, start, dos, lanes, base, job.calibration)
        clean = subject.step(start)
        for s in range(t + 1, subject.n_steps + 1):
            found = _apart(subject, clean, state)
            for row, value in enumerate(found):
                name = dos[row // len(problems)].operator.name
                key = problems[row % len(problems)].id
                made.append({"id": key, "t": t, "s": s, "operator": name, "edge": edge} | value)
            if s < subject.n_steps:
                state, clean = subject.step(state), subject.step(clean)
    return made


def _apart(subject: HFSubject, clean: State, state: State) -> list[Row]:
    """KL of the vectors about to be fed, a row each."""
    p, q = (subject.head(each.node.vectors[:, 0]) for each in (clean, state))
    return [{"kl": finite(value)} for value in (p.exp() * (p - q)).sum(-1)]


def gradient_norms(subject: Subject, problems: Sequence[LatentProblem]) -> list[Row]:
    """Norm of the gradient of log p(last token of the answer) with respect to h_t.

    The total derivative: later steps answer to h_t, nothing is detached. It is taken with respect
    to a zero added to h_t.

    Returns:
        A row for each problem and step: `x` in nats per unit of length.

    Raises:
        InputError: the subject has no steps, or no gradient reaches a step.
    """
    subject.require_steps()
    with torch.no_grad():
        state = subject.prefill(problems)
    added = []
    with torch.enable_grad():
        for _ in range(subject.n_steps):
            zero = torch.zeros_like(state.node.vectors, requires_grad=True)
            added.append(zero)
            state = subject.step(state, Node(state.node.vectors + zero, state.node.seen))
        forced = subject.force(subject.close(state), [subject.target(p.answer) for p in problems])
        places = torch.arange(forced.answer.shape[1], device=forced.answer.device)
        last = (forced.answer * places).argmax(1, keepdim=True)
        total = forced.of_targets().gather(1, last).sum()
        if not total.requires_grad:
            raise InputError(f"No gradient reaches a step of {subject.name}: take `influence`.")
        slopes = torch.autograd.grad(total, added, allow_unused=True)
    made: list[Row] = []
    for t, slope in enumerate(slopes, start=1):
        norms = [0.0] * len(problems) if slope is None else slope.flatten(1).norm(dim=1).tolist()
        made += [{"id": p.id, "t": t, "x": x} for p, x in zip(problems, norms, strict=True)]
    return made
