"""`interp latent rollout`: what a subject answers, and what its latent steps look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import interp.results as results
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.jobs import latent_runs, runs
from interp.jobs.latent_runs import Loading, Problems, Rows
from interp.latent.accuracy import Accuracy, accuracy
from interp.latent.calibration import LEAST
from interp.latent.effects import finite
from interp.latent.hf import HFSubject
from interp.latent.state import Node
from interp.latent.subject import Subject, roll_out

TOP = 3
"""Tokens that are kept of each step's read-out through the unembedding."""


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    accuracy: dict[str, Any]
    marked: int


def rollout(loading: Loading, problems: Problems, *, out: Path, console: Console) -> Outcome:
    """Run problems without any edit, and write records and report.

    Raises:
        InputError: too few problems can be run.
        StoreError: the folder belongs to other settings, or is no run.
    """
    rows, calibration = problems.rows()
    subject = loading.subject()
    bad = [_marked(row.id, row.reason or "no problem") for row in rows if row.problem is None]
    sound, unfit = split(subject, [row.problem for row in rows if row.problem is not None])
    kept, spare = split(subject, calibration)
    bad += [_marked(problem.id, reason) for problem, reason in unfit]
    bad += [_marked(problem.id, reason, "calibration") for problem, reason in spare]
    if not sound or (subject.n_steps and len(kept) < LEAST):
        role = "calibration" if sound else "scored"
        why = next(row for row in bad if row["role"] == role)
        raise InputError(
            f"Too few {role} problems can be run: {len(kept) if sound else 0}. The first of the "
            f"others, {why['id']!r}: {str(why['reason']).rstrip('.')}."
        )
    store = runs.begin_store(
        out,
        experiment="latent",
        settings={"problems": problems.identity()},
        model=latent_runs.about(subject, loading),
        data=problems.identity(),
        seeds=[problems.seed],
        device=loading.device,
    )
    order = []
    for role, given in (("scored", sound), ("calibration", kept)):
        order += latent_runs.in_cells(
            store,
            given,
            lambda part, role=role: _cell(subject, part, role),
            what=role,
            console=console,
        )
    latent_runs.summarise(
        store, order, lambda: {"latent_items": bad, "accuracy": _accuracy(store, subject)}
    )
    runs.write_report(store)
    return Outcome(store, store.rows("accuracy")[0], len(bad))


def split(
    subject: Subject, problems: Sequence[LatentProblem]
) -> tuple[list[LatentProblem], list[tuple[LatentProblem, str]]]:
    """Problems that a subject can run, and the others with the reason why not."""
    good, bad = [], []
    for problem in problems:
        try:
            subject.check_problem(problem)
            good.append(problem)
        except InputError as error:
            bad.append((problem, str(error)))
    return good, bad


@torch.no_grad()
def _cell(subject: Subject, problems: Sequence[LatentProblem], role: str) -> Rows:
    """Answers of some problems, and of scored ones a row a step."""
    scores = {row["id"]: row for row in accuracy(subject, problems).rows}
    items = [
        {
            "role": role,
            "status": "run",
            "reason": None,
            "question": problem.question,
            "steps": list(problem.steps),
            **scores[problem.id],
            "gold": problem.answer,
        }
        for problem in problems
    ]
    if role != "scored" or not subject.n_steps:
        return {"latent_items": items}
    rolled = roll_out(subject, subject.prefill(problems))
    steps = [
        row
        for step in range(1, rolled.n_steps + 1)
        for row in _step_rows(subject, problems, step, rolled.node(step))
    ]
    return {"latent_items": items, "latent_steps": steps}


def _step_rows(
    subject: Subject, problems: Sequence[LatentProblem], step: int, node: Node
) -> list[dict[str, Any]]:
    """Norm and nearest words of a step's first vector, a row a problem; None where it has none."""
    first = node.vectors[:, 0]
    words = _nearest(subject, first) if isinstance(subject, HFSubject) else [None] * len(problems)
    counts = node.seen.sum(1).tolist()
    return [
        {
            "id": problem.id,
            "step": step,
            "norm": finite(first[i].norm()) if counts[i] else None,
            "width": counts[i],
            "lens": words[i] if counts[i] else None,
        }
        for i, problem in enumerate(problems)
    ]


def _nearest(subject: HFSubject, vectors: Tensor) -> list[str]:
    """The likeliest tokens of vectors `[batch d_model]` through the unembedding."""
    best = subject.head(vectors.to(subject.hf.dtype)).topk(TOP, dim=-1).indices
    words = [subject.tokenizer.convert_ids_to_tokens(row) for row in best.tolist()]
    return [" | ".join(word or "?" for word in row) for row in words]  # padded rows have no token


def _accuracy(store: results.Store, subject: Subject) -> list[dict[str, Any]]:
    rows = [row for row in store.rows("latent_items") if row["role"] == "scored"]
    return Accuracy(subject.name, tuple(rows), {}).summary()


def _marked(id: str, reason: str, role: str = "scored") -> dict[str, Any]:
    empty = dict.fromkeys(("question", "gold", "answer", "correct", "unparsable", "logprob"))
    return {"id": id, "role": role, "status": "marked", "reason": reason, "steps": [], **empty}
