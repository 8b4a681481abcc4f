"""How often a subject is right, with its interval; controls without latent steps included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interp.data.latent_problems import LatentProblem
from interp.latent.effects import answers, columns, in_chunks, logprob, same, share, sift
from interp.latent.interventions import ROWS
from interp.latent.layout import Layout
from interp.latent.subject import Subject, roll_out

Row = dict[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """A subject's answers."""

    subject: str
    rows: tuple[Row, ...]
    """One a problem: `id`, `answer`, `gold`, `correct`, `unparsable`, `logprob` of the gold one."""
    refused: Mapping[str, str]
    """Problems that could not run, and why."""

    def summary(self) -> list[Row]:
        """One row: `accuracy` with its Wilson interval, `unparsable`, mean `logprob`, counts."""
        found = share([row["correct"] for row in self.rows], [row["id"] for row in self.rows])
        mean = sum(row["logprob"] for row in self.rows) / len(self.rows)
        return [
            {"subject": self.subject}
            | columns("accuracy", found)
            | {"unparsable": sum(row["unparsable"] for row in self.rows), "logprob": mean}
            | {"n_problems": len(self.rows), "n_left_out": len(self.refused)}
            | {"warning": found.warning or ""}
        ]


def accuracy(subject: Subject, problems: Sequence[LatentProblem], *, rows: int = ROWS) -> Accuracy:
    """Run a subject without edits and score its answers; it may have no steps.

    Raises:
        InputError: no problem can be run.
    """
    kept, refused = sift(subject, problems)
    found = in_chunks(kept, lambda part, most: _scored(subject, part), lanes=1, rows=rows)
    return Accuracy(subject.name, tuple(found), refused)


@torch.no_grad()
def _scored(subject: Subject, problems: Sequence[LatentProblem]) -> list[Row]:
    rollout = roll_out(subject, subject.prefill(problems))
    closed = subject.close(rollout.states[-1])
    forced = subject.force(closed, [subject.target(problem.answer) for problem in problems])
    return [
        {
            "id": problem.id,
            "answer": answer,
            "gold": Layout.plain(problem.answer),
            "correct": same(answer, problem.answer),
            "unparsable": answer is None,
            "logprob": likely,
        }
        for problem, answer, likely in zip(
            problems, answers(subject, closed), logprob(forced).tolist(), strict=True
        )
    ]
