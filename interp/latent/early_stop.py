"""How many latent steps are enough: stop after k of them, for every k, and read the answer.

Stopping is truncation: the end marker follows k consumed steps, and later steps are never fed. So
k = T is the normal run, bit for bit. S(k), the share of problems that *some* stop up to k gets
right, cannot fall; the accuracy A(k) can, and stands beside it. A read-out before the last step
is unlike the training of a model with a fixed number of steps; so the forced answer and the
next reasoning step, which such a model may state instead, are scored too.

Source: Li et al. 2026, arXiv:2602.08783, section 3 (RQ1, sufficiency).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.effects import (
    answers,
    columns,
    in_chunks,
    logprob,
    next_step,
    same,
    share,
    sift,
    top1,
)
from interp.latent.interventions import ROWS
from interp.latent.layout import Layout
from interp.latent.state import Closed
from interp.latent.subject import Subject, roll_out

Row = dict[str, Any]


@dataclass(frozen=True)
class EarlyStop:
    """What each problem's answer is after each number of steps."""

    rows: tuple[Row, ...]
    """One for each problem and k; see `early_stop`."""
    refused: Mapping[str, str]
    """Problems that could not run, and why."""

    def curve(self) -> list[Row]:
        """See `curve`."""
        return curve(self.rows)

    def commitment(self) -> list[Row]:
        """See `commitment`."""
        return commitment(self.rows)


def early_stop(
    subject: Subject,
    problems: Sequence[LatentProblem],
    *,
    per_step: int = 1,
    rows: int = ROWS,
) -> EarlyStop:
    """Stop after k = 0..T steps and read out.

    Args:
        subject: any with steps.
        problems: those to score.
        per_step: latent steps that stand for one step in text, as in the model's training.
        rows: most rows of a pass.

    Returns:
        Rows with `id`, `k`, `consumed`, `answer`, `gold`, `correct`, `unparsable`, `logprob` of
        the right answer when it is forced, `forced_correct` (each of its tokens the most
        probable), and the same two of the next reasoning step, None where there is none.

    Raises:
        InputError: no problem can be run, the subject has no steps, or `per_step` is below 1.
    """
    subject.require_steps()
    if per_step < 1:
        raise InputError(f"per_step is {per_step}: a step in text has 1 latent step or more.")
    kept, refused = sift(subject, problems)
    found = in_chunks(kept, lambda part, most: _stops(subject, part, per_step), lanes=1, rows=rows)
    return EarlyStop(tuple(found), refused)


@torch.no_grad()
def _stops(subject: Subject, problems: Sequence[LatentProblem], per_step: int) -> list[Row]:
    """Rows of every k, problem by problem."""
    rollout = roll_out(subject, subject.prefill(problems))
    found = []
    for k, state in enumerate(rollout.states):
        closed = subject.close(state)
        golds = subject.force(closed, [subject.target(problem.answer) for problem in problems])
        right, likely = top1(golds).tolist(), logprob(golds).tolist()
        steps = _next(subject, closed, problems, per_step)
        for i, answer in enumerate(answers(subject, closed)):
            found.append(
                {"id": problems[i].id, "k": k, "consumed": closed.consumed}
                | _scored(answer, problems[i].answer)
                | {"logprob": likely[i], "forced_correct": right[i]}
                | steps[i]
            )
    return sorted(found, key=_order(problems))


def _order(problems: Sequence[LatentProblem]) -> Any:
    place = {problem.id: i for i, problem in enumerate(problems)}
    return lambda row: (place[row["id"]], row["k"])


def _scored(answer: str | None, gold: str) -> Row:
    return {
        "answer": answer,
        "gold": Layout.plain(gold),
        "correct": same(answer, gold),
        "unparsable": answer is None,
    }


def _next(
    subject: Subject, closed: Closed, problems: Sequence[LatentProblem], per_step: int
) -> list[Row]:
    """How well the next reasoning step is read out, for each problem that has one."""
    targets = [next_step(subject, p, closed.consumed, per_step=per_step) for p in problems]
    found: list[Row] = [{"next_logprob": None, "next_correct": None} for _ in problems]
    having = [i for i, target in enumerate(targets) if target is not None]
    if not having:
        return found
    forced = subject.force(closed.take(having), [t for t in targets if t is not None])
    values: tuple[Tensor, Tensor] = logprob(forced), top1(forced)
    for place, i in enumerate(having):
        found[i] = {"next_logprob": float(values[0][place]), "next_correct": bool(values[1][place])}
    return found


def curve(rows: Sequence[Row]) -> list[Row]:
    """For each k what stopping there gives.

    Returns:
        `accuracy` (A(k)), `solved` (S(k): right at k or before), `retention` (of those right at
        k, the share right at T), `forced` and `next_step` (read-outs of the answer and of the
        next step when forced), each with its interval; `unparsable`, `n_right`, `n_next`,
        `n_problems`, `warning`.
    """
    by_problem = _by_problem(rows)
    last = max((row["k"] for row in rows), default=-1)
    return [_at(list(by_problem.values()), k) for k in range(last + 1)]


def _at(problems: Sequence[Sequence[Row]], k: int) -> Row:
    """The numbers of one k; each problem's rows are in order of k."""
    here = [rows[k] for rows in problems]
    ids = [row["id"] for row in here]
    accuracy = share([row["correct"] for row in here], ids)
    solved = share([any(row["correct"] for row in rows[: k + 1]) for rows in problems], ids)
    kept = [(rows[-1]["correct"], rows[k]["id"]) for rows in problems if rows[k]["correct"]]
    follow = [(row["next_correct"], row["id"]) for row in here if row["next_correct"] is not None]
    return (
        {"k": k}
        | columns("accuracy", accuracy)
        | columns("solved", solved)
        | columns("retention", share(*_columns(kept)) if kept else None)
        | columns("forced", share([row["forced_correct"] for row in here], ids))
        | columns("next_step", share(*_columns(follow)) if follow else None)
        | {"unparsable": sum(row["unparsable"] for row in here)}
        | {"n_right": len(kept), "n_next": len(follow)}
        | {"n_problems": len(here), "warning": accuracy.warning or ""}
    )


def _columns(pairs: Sequence[tuple[bool, str]]) -> tuple[list[bool], list[str]]:
    return [value for value, _ in pairs], [name for _, name in pairs]


def commitment(rows: Sequence[Row]) -> list[Row]:
    """For each problem, when its answer is first right and when it becomes its last one.

    Returns:
        `id`; `first_right`, the smallest k whose answer is right, or None; `settled`, the
        smallest k from which every answer is that of k = T, or None where that states none;
        `lost`, whether some k is right and T is not.
    """
    return [_commitment(name, list(mine)) for name, mine in _by_problem(rows).items()]


def _commitment(name: str, rows: Sequence[Row]) -> Row:
    right = [row["k"] for row in rows if row["correct"]]
    final, settled = rows[-1]["answer"], None
    for row in reversed(rows):
        if not same(row["answer"], final):
            break
        settled = row["k"]
    lost = bool(right) and not rows[-1]["correct"]
    first = right[0] if right else None
    return {"id": name, "first_right": first, "settled": settled, "lost": lost}


def _by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each problem, in order of k.

    Raises:
        InputError: problems have different numbers of rows, or some k twice.
    """
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["k"]):
        found.setdefault(row["id"], []).append(row)
    for name, mine in found.items():
        counts = Counter(row["k"] for row in mine)
        if counts != Counter(range(max(row["k"] for row in rows) + 1)):
            raise InputError(
                f"Problem {name!r} has rows for k = {sorted(counts.elements())}: give each k from "
                "0 to the last once, from one run."
            )
    return found
