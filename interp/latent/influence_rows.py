"""What a measurement of influence runs, and the rows that one read-out makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, SilentEditError, nearest
from interp.latent.calibration import Calibration
from interp.latent.effects import effects, finite, logprob, require_once, top1
from interp.latent.interventions import Base, Edge, Lane, Reading, check, lane
from interp.latent.layout import Target
from interp.latent.nulls import By, ShuffledDonor
from interp.latent.operators import DEFAULT, Identity, Operator, named
from interp.latent.shape import Cell
from interp.latent.subject import Forced, Subject

OPERATORS: tuple[str, ...] = (*DEFAULT, "shuffled_donor")
"""Those of every report, and the null of `resample`; the identity comes by itself."""
FIXED = ("zero", "mean", "mean_step", "kv_mask")
"""Operators without a draw: a second seed would repeat the first."""
Reads = Literal["answer", "next_step"]
"""What a read-out after s steps forces: the answer, or the text of the step that would follow."""
Row = dict[str, Cell]


@dataclass(frozen=True, eq=False)
class Job:
    """What stays the same over the passes of a measurement."""

    subject: Subject
    calibration: Calibration
    lanes: tuple[Lane, ...]
    reads: str
    """One of `Reads`."""
    slots_per_step: int = 1
    whole: bool = True
    """Whether these are all problems; of a part nothing is judged that needs the others."""
    skipped: dict[str, Row] = field(default_factory=dict)
    """Problems that could not be run, by id, with the reason."""

    def target(self, problem: LatentProblem, s: int) -> Target:
        """What a read-out after s steps forces; behind the last step of text comes the answer."""
        place = s // self.slots_per_step
        if self.reads == "answer" or place >= len(problem.steps):
            return self.subject.target(problem.answer)
        layout = getattr(self.subject, "layout", None)
        if layout is None:
            return self.subject.target(problem.steps[place])
        ids = tuple(layout.step_ids(getattr(self.subject, "tokenizer", None), problem.steps[place]))
        if not ids:
            raise InputError(
                f"Step {place + 1} of problem {problem.id!r} has no tokens: leave the problem out, "
                "or read the answer."
            )
        return Target(ids, (0, len(ids)))

    def at_step(self, t: int) -> tuple[Lane, ...]:
        """The lanes that edit step t."""
        return tuple(each for each in self.lanes if each.first == t)


def plan(
    subject: Subject,
    calibration: Calibration,
    operators: Sequence[str | Operator],
    edge: Edge,
    seeds: Sequence[int],
    reads: str,
    slots_per_step: int = 1,
    whole: bool = True,
) -> Job:
    """Check the settings before any model runs.

    Raises:
        InputError, EditError: as `influence`.
    """
    lanes = lanes_of(subject, operators, edge, seeds, reads, slots_per_step)
    check(subject, lanes, calibration)
    return Job(subject, calibration, lanes, reads, slots_per_step, whole)


def lanes_of(
    subject: Subject,
    operators: Sequence[str | Operator],
    edge: Edge,
    seeds: Sequence[int],
    reads: str = "answer",
    slots_per_step: int = 1,
) -> tuple[Lane, ...]:
    """What is run beside the identity; needs no calibration, which takes a run.

    Raises:
        InputError, EditError: as `influence`.
    """
    if reads not in get_args(Reads):
        known = get_args(Reads)
        raise InputError(
            f"There is no target {reads!r}; there are {', '.join(known)}.{nearest(reads, known)}"
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"Seeds {list(seeds)}: give one or more, each once.")
    if slots_per_step < 1:
        raise InputError(f"slots_per_step={slots_per_step}: a step of text takes 1 slot or more.")
    chosen = [operator_of(each) for each in operators]
    require_once(chosen)
    lanes = tuple(
        lane(t, operator, edge, seed)
        for t in range(1, subject.n_steps + 1)
        for operator in chosen
        for seed in (seeds[:1] if operator.name in FIXED else seeds)
        if not isinstance(operator, Identity)
    )
    check(subject, lanes)
    return lanes


def operator_of(operator: str | Operator) -> Operator:
    """An operator by its name: those of `operators.named`, and `shuffled_donor[:entries]`."""
    if isinstance(operator, Operator):
        return operator
    word, _, by = operator.partition(":")
    if word != "shuffled_donor":
        return named(operator)
    return ShuffledDonor(by or get_args(By)[0])


def usable_problems(job: Job, problems: Sequence[LatentProblem]) -> list[LatentProblem]:
    """Those with a target at every step; the others are marked.

    Raises:
        InputError: none is left, or two share an id.
    """
    ids = [problem.id for problem in problems]
    for key in ids:
        if ids.count(key) > 1:
            raise InputError(f"Two problems have the id {key!r}: rows are told apart by it.")
    found = []
    for problem in problems:
        try:
            for s in range(1, job.subject.n_steps + 1):
                job.target(problem, s)
        except InputError as error:
            _skip(job, problem, error)
        else:
            found.append(problem)
    _require(job, found)
    return found


def _skip(job: Job, problem: LatentProblem, error: InputError) -> None:
    job.skipped[problem.id] = {"id": problem.id, "reason": str(error)}


def _require(job: Job, left: Sequence[object]) -> None:
    if job.whole and not left:
        reasons = [str(row["reason"]) for row in job.skipped.values()]
        raise InputError(f"No problem can be run: {(reasons or ['there is none.'])[0]}")


def kept_rows(
    job: Job,
    problems: Sequence[LatentProblem],
    work: Callable[[Sequence[LatentProblem]], list[Row]],
) -> list[Row]:
    """Work on problems together; where one cannot be run, mark it and work on the others."""
    try:
        return work(problems)
    except InputError as error:
        if len(problems) == 1:
            _skip(job, problems[0], error)
            return []
    return [row for problem in problems for row in kept_rows(job, [problem], work)]


def targets(job: Job, base: Base, reading: Reading) -> list[Target]:
    """One target a row of a pass."""
    each = [job.target(problem, reading.consumed) for problem in base.problems]
    return each * len(reading.lanes)


def rows_of(job: Job, base: Base, reading: Reading, clean: Forced) -> list[Row]:
    """The rows of one read-out, for each problem that has both steps and an edit that acted."""
    s, items = reading.consumed, reading.items
    found = effects(clean, job.subject.force(reading.closed, targets(job, base, reading)))
    known, right = logprob(clean).tolist(), top1(clean).tolist()
    read = base.rollout.node(s).seen.any(1).tolist()
    made: list[Row] = []
    for i, each in enumerate(reading.lanes):
        acted = reading.acted[i][0]
        here, changes = acted.present.tolist(), acted.change.tolist()
        for j, problem in enumerate(base.problems):
            if not (here[j] and read[j]):
                continue
            row = i * items + j
            made.append(
                {
                    "id": problem.id,
                    "t": acted.step,
                    "s": s,
                    "operator": acted.operator,
                    "edge": acted.edge,
                    "seed": each.seed,
                    "donor": acted.donors[j] if acted.donors else None,
                    "change": changes[j],
                    "kl": finite(found.kl[row]),
                    "kl_answer": finite(found.kl_answer[row]),
                    "dlogp_sum": finite(found.dlogp_sum[row]),
                    "dlogp_answer": finite(found.dlogp_answer[row]),
                    "clean_logprob": finite(known[row]),
                    "clean_correct": right[row],
                    "target": job.reads,
                }
            )
    return made


def once(rows: Sequence[Row]) -> list[Row]:
    """Rows with those of the identity once for each problem and read-out, the largest effect first.

    Lanes that do not fit one pass bring an identity each.
    """
    worst: dict[tuple[Cell, ...], Row] = {}
    for row in rows:
        key = (row["id"], row["t"], row["s"])
        if row["operator"] == "identity" and _effect(row) >= _effect(worst.get(key)):
            worst[key] = row
    return [row for row in rows if row["operator"] != "identity"] + list(worst.values())


def _effect(row: Row | None) -> float:
    if row is None:
        return -1.0
    value = row["kl"]
    return value if isinstance(value, float) else math.inf


def finished(job: Job, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of edits that acted, and the marks of the others (`acting`); of a part all rows.

    Raises:
        InputError: every problem had to be left out.
        SilentEditError: no operator acted anywhere.
    """
    _require(job, rows)
    kept, marks = acting(rows) if job.whole else (list(rows), [])
    return once(kept), marks


def acting(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of edits that acted, and a mark for each operator that acted in no problem at a step.

    Raises:
        SilentEditError: no operator acted anywhere.
    """
    moved: dict[tuple[Cell, Cell], float] = {}
    for row in rows:
        if row["operator"] != "identity":
            key = (row["operator"], row["t"])
            assert isinstance(row["change"], float)
            moved[key] = max(moved.get(key, 0.0), row["change"])
    still = {key for key, most in moved.items() if most == 0}
    if moved and len(still) == len(moved):
        names = ", ".join(dict.fromkeys(str(operator) for operator, _ in moved))
        raise SilentEditError(
            f"None of {names} changed anything at any step, so there is nothing to score: the "
            "steps hold the same vectors in every problem; take an operator such as zero."
        )
    reason = "it fed the very vectors that were there, in every problem"
    marks: list[Row] = [
        {"operator": name, "t": t, "reason": reason} for name, t in sorted(still, key=str)
    ]
    return [row for row in rows if (row["operator"], row["t"]) not in still], marks


def settings(job: Job, edge: Edge, seeds: Sequence[int]) -> dict[str, Any]:
    """What a record keeps of the settings."""
    return {
        "subject": job.subject.name,
        "n_steps": job.subject.n_steps,
        "convention": job.subject.convention,
        "operators": list(dict.fromkeys(each.name for each in job.lanes)),
        "edge": edge,
        "seeds": list(seeds),
        "target": job.reads,
        "calibration": job.calibration.summary(),
    }
