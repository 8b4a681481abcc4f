"""Means, spreads and donors from a fixed set of problems that no result is scored on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.state import Node, Slot
from interp.latent.subject import Rollout, Subject, roll_out

LEAST = 2
"""Problems of a calibration set: one mean of one vector is that vector."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What operators take from other problems; kept with the results that it made.

    Nothing here depends on the problems that are scored, nor on how they are batched.
    """

    problems: tuple[LatentProblem, ...]
    predictions: tuple[str | None, ...]
    """What the subject answers to each: strata of donors are by answer given, not by gold."""
    nodes: tuple[Node, ...]
    """h_t of every problem, one entry a step."""
    slots: tuple[Slot, ...]
    """Keys and values of every problem, one entry a step."""
    positions: Int[Tensor, " calibration"]
    """Logical position of slot 1: keys and values hold positions, so donors must share it."""

    @property
    def n_steps(self) -> int:
        """T."""
        return len(self.nodes)

    def mean_step(self, step: int) -> Float[Tensor, "width d_model"]:
        """Mean h_t over problems, for each place of a node, over those who use it."""
        node = self.nodes[step - 1]
        weight = node.seen[..., None].to(node.vectors.dtype)
        return (node.vectors * weight).sum(0) / weight.sum(0).clamp(min=1)

    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean vector over problems and steps."""
        return self._all().mean(0)

    def norm(self) -> float:
        """Mean norm of a vector over problems and steps."""
        return float(self._all().norm(dim=-1).mean())

    def _all(self) -> Tensor:
        return torch.cat([node.vectors[node.seen] for node in self.nodes])

    def summary(self) -> dict[str, object]:
        """What a record keeps of it."""
        ids = "\n".join(problem.id for problem in self.problems)
        return {
            "n": len(self.problems),
            "ids_hash": hashlib.sha256(ids.encode()).hexdigest()[:16],
            "norm": self.norm(),
            "mean_norm": float(self.mean().norm()),
        }


@torch.no_grad()
def calibrate(
    subject: Subject, problems: Sequence[LatentProblem], *, scored: Sequence[LatentProblem] = ()
) -> Calibration:
    """Run a subject over calibration problems.

    Args:
        subject: any with at least one step.
        problems: two or more.
        scored: problems that results will be about; none may be among `problems`.

    Raises:
        InputError: too few, one that is scored too, or a subject without steps.
    """
    subject.require_steps()
    if len(problems) < LEAST:
        raise InputError(
            f"{len(problems)} calibration problems: means need {LEAST} or more, better 100."
        )
    texts = {problem.question for problem in scored}
    shared = [problem.id for problem in problems if problem.question in texts]
    if shared:
        raise InputError(
            f"Problem {shared[0]!r} is scored and in the calibration set too: means and donors "
            "must come from other problems, so keep the two sets apart."
        )
    rolled = roll_out(subject, subject.prefill(problems))
    answers = subject.decode(subject.close(rolled.states[-1]))
    return Calibration(
        tuple(problems),
        tuple(subject.read(text) for text in answers),
        tuple(rolled.node(step) for step in range(1, rolled.n_steps + 1)),
        _slots(rolled),
        rolled.states[0].memory.next,
    )


def _slots(rolled: Rollout) -> tuple[Slot, ...]:
    last = rolled.states[-1].memory
    return tuple(last.slot(step) for step in range(1, rolled.n_steps + 1))
