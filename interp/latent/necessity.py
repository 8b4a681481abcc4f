"""Which latent steps the answer needs: edit one, run on, and see whether another answer comes.

A flip is a changed *prediction*; a changed correctness stands beside it, because a wrong answer
that becomes another wrong one changes no correctness. Both sides of a row come from one pass, so
the identity flips nothing, exactly. Source: Li et al. 2026, arXiv:2602.08783, section 3 (RQ1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import Calibration
from interp.latent.effects import (
    answers,
    columns,
    effects,
    in_chunks,
    logprob,
    require_apart,
    require_once,
    same,
    share,
    sift,
)
from interp.latent.interventions import (
    ROWS,
    Base,
    Do,
    Edge,
    Lane,
    Reading,
    base_run,
    check,
    readings,
)
from interp.latent.layout import Layout
from interp.latent.operators import DEFAULT, Identity, Operator, Resample, named
from interp.latent.subject import Subject
from interp.stats import cluster_bootstrap

Row = dict[str, Any]

DRAWS = (0, 1, 2)
"""Donors of each problem: one alone is noisy."""
OPERATORS = (*DEFAULT, "swap")
"""Those of every report, and the whole thought of another problem."""
TABLE = ("right_wrong", "wrong_right", "wrong_other", "same", "unparsable")
"""What can become of an answer; each row of results is one of these."""
MEASURES = ("kl", "kl_answer", "dlogp_sum", "dlogp_answer", "l2_answer", "change")


@dataclass(frozen=True)
class Necessity:
    """What each edit did to each problem's answer."""

    rows: tuple[Row, ...]
    """One for each problem, step, operator, seed and donor; see `necessity`."""
    refused: Mapping[str, str]
    """Problems that could not run, and why."""
    calibration: Mapping[str, object]
    """The set that means and donors came from."""

    def summary(self, *, classes: int | None = None) -> list[Row]:
        """See `summary`."""
        return summary(self.rows, classes=classes)


def necessity(
    subject: Subject,
    problems: Sequence[LatentProblem],
    calibration: Calibration,
    operators: Sequence[str | Operator] = OPERATORS,
    *,
    edge: Edge = "input",
    steps: Sequence[int | tuple[int, ...]] | None = None,
    seeds: Sequence[int] = (0,),
    draws: Sequence[int] = DRAWS,
    rows: int = ROWS,
) -> Necessity:
    """Edit latent steps of problems, and compare the answers.

    Args:
        subject: any with steps.
        problems: those to score; none may be in the calibration set.
        calibration: of this subject.
        operators: names or operators; the identity is always run with them.
        edge: what the edits reach.
        steps: which to edit, each alone; a tuple edits its steps together. All by default. The
            operator `swap` always takes all steps together, from one donor.
        seeds: of operators that draw noise, and of the donors.
        draws: donors that each problem gets from operators that take from one.
        rows: most rows of a pass.

    Returns:
        Rows with `id`, `step` (0 where several are edited together), `steps` (such as `1+3`),
        `operator`, `edge`, `seed`, `draw`, `donor`, `change` (norm of what the edit changed),
        `consumed`, `clean_answer`, `answer`, `gold`, `flip`, `clean_correct`, `correct`,
        `unparsable`, `outcome` (one of `TABLE`), the log-probabilities of the gold answer, the
        measures of `Effects`, and `reason`: why the edit could not act, or nothing.

    Raises:
        InputError: no problem can be run, one is in the calibration set, or a setting is empty.
        EditError: an operator, edge or step does not exist.
    """
    subject.require_steps()
    lanes = plan(subject, operators, edge=edge, steps=steps, seeds=seeds, draws=draws)
    check(subject, lanes, calibration)
    kept, refused = sift(subject, problems)
    require_apart(kept, calibration)

    def work(part: Sequence[LatentProblem], most: int) -> list[Row]:
        base = base_run(subject, part)
        groups = groupby(lanes, key=Lane.shape)
        return [row for _, g in groups for row in _edited(subject, base, [*g], calibration, most)]

    widest = max(Counter(each.shape() for each in lanes).values()) + 1
    found = in_chunks(kept, work, lanes=widest, rows=rows)
    return Necessity(tuple(found), refused, calibration.summary())


def plan(
    subject: Subject,
    operators: Sequence[str | Operator],
    *,
    edge: Edge,
    steps: Sequence[int | tuple[int, ...]] | None,
    seeds: Sequence[int],
    draws: Sequence[int],
) -> list[Lane]:
    """Lanes for every set of steps, operator, seed and donor; alike ones stand together.

    Raises:
        InputError: a list is empty, or there is no operator but the identity.
        EditError: an operator does not exist.
    """
    for name, values in (("operators", operators), ("seeds", seeds), ("draws", draws)):
        if not values:
            raise InputError(f"`{name}` is empty: give at least one.")
    every = tuple(range(1, subject.n_steps + 1))
    chosen = every if steps is None else steps
    if not chosen:
        raise InputError("`steps` is empty: give at least one, or None for all.")
    sets = [each if isinstance(each, tuple) else (each,) for each in chosen]
    lanes = []
    for operator in _drawn(operators, draws):
        whole = isinstance(operator, Resample) and operator.whole
        for places in [every] if whole else sets:
            dos = tuple(Do(step, operator, edge) for step in places)
            lanes += [Lane(dos, seed) for seed in seeds]
    if not lanes:
        raise InputError(
            "The identity alone was asked for, and it is always run: name another operator too."
        )
    return sorted(lanes, key=Lane.shape)


def _drawn(operators: Sequence[str | Operator], draws: Sequence[int]) -> list[Operator]:
    """The operators but the identity, those that take from donors once a draw."""
    chosen = [named(each) if isinstance(each, str) else each for each in operators]
    require_once(chosen)
    found: list[Operator] = []
    for operator in chosen:
        if isinstance(operator, Resample):
            found += [replace(operator, draw=draw) for draw in draws]
        elif not isinstance(operator, Identity):
            found.append(operator)
    return found


def _edited(
    subject: Subject, base: Base, lanes: Sequence[Lane], calibration: Calibration, rows: int
) -> list[Row]:
    """Rows of lanes that edit the same steps; a lane that can change nothing is marked alone."""
    passes = readings(subject, base, lanes, calibration, at="end", rows=rows, silent="mark")
    return list(_numbered(row for reading in passes for row in _read(subject, base, reading)))


def _numbered(rows: Iterable[Row]) -> Iterable[Row]:
    """Number the identity's rows: there is one in each pass, so a problem may have several."""
    seen: Counter[str] = Counter()
    for row in rows:
        if row["operator"] == "identity":
            row = {**row, "draw": seen[row["id"]]}
            seen[row["id"]] += 1
        yield row


@torch.no_grad()
def _read(subject: Subject, base: Base, reading: Reading) -> list[Row]:
    """One row for each lane and problem of a pass."""
    golds = [subject.target(problem.answer) for problem in base.problems] * len(reading.lanes)
    clean, edited = subject.force(reading.clean, golds), subject.force(reading.closed, golds)
    apart = effects(clean, edited)
    before, after = logprob(clean).tolist(), logprob(edited).tolist()
    first, then = answers(subject, reading.clean), answers(subject, reading.closed)
    found = []
    for row in range(len(golds)):
        at, i = divmod(row, reading.items)
        if why := next((each.silent for each in reading.acted[at] if each.silent), ""):
            found.append(_silent(base, i, reading.lanes[at], why))
            continue
        found.append(
            _identity(base, i, reading.lanes[at])
            | _receipt(reading, at, i)
            | {"consumed": reading.consumed}
            | judged(first[row], then[row], base.problems[i].answer)
            | {"clean_logprob": before[row], "logprob": after[row]}
            | apart.row(row)
        )
    return found


def _identity(base: Base, i: int, lane: Lane) -> Row:
    """What tells a row from all others."""
    operator = lane.dos[0].operator
    plain = replace(operator, draw=0) if isinstance(operator, Resample) else operator
    places = [do.step for do in lane.dos]
    return {
        "id": base.problems[i].id,
        "step": places[0] if len(places) == 1 else 0,
        "steps": "+".join(map(str, places)),
        "operator": plain.name,
        "edge": lane.dos[0].edge,
        "seed": lane.seed,
        "draw": operator.draw if isinstance(operator, Resample) else 0,
    }


def _receipt(reading: Reading, lane: int, i: int) -> Row:
    """Who gave, how much changed, and why nothing did where nothing could."""
    acted = reading.acted[lane]
    gave = dict.fromkeys(each.donors[i] for each in acted if each.donors)
    change = math.sqrt(sum(float(each.change[i]) ** 2 for each in acted))
    idle = not change and not gave and not reading.lanes[lane].null  # a donor may hold the same
    reason = "the edit changed nothing here" if idle else ""
    if not any(bool(each.present[i]) for each in acted):
        reason = "no donor fits" if None in gave else "the problem has no such step"
    donor = "+".join(donor for donor in gave if donor) or None
    return {"donor": donor, "change": change, "reason": reason}


def judged(clean: str | None, edited: str | None, gold: str) -> Row:
    """Compare two answers with each other and with the right one; `outcome` is one of `TABLE`.

    Where either side states no answer there is no flip: those rows are counted apart.

    >>> judged("3", "5", "4")["outcome"], judged("3", "5", "4")["flip"]
    ('wrong_other', True)
    """
    was, now = same(clean, gold), same(edited, gold)
    unparsable = clean is None or edited is None
    flip = not unparsable and not same(clean, edited)
    words = {(True, False): "right_wrong", (False, True): "wrong_right"}
    outcome = words.get((was, now), "wrong_other") if flip else "same"
    return {
        "clean_answer": clean,
        "answer": edited,
        "gold": Layout.plain(gold),
        "flip": flip,
        "clean_correct": was,
        "correct": now,
        "unparsable": unparsable,
        "outcome": "unparsable" if unparsable else outcome,
    }


def _silent(base: Base, i: int, lane: Lane, why: str) -> Row:
    """A row without a result: the edit leaves every problem as it is."""
    blank = judged(None, None, base.problems[i].answer)
    measured = ("clean_logprob", "logprob", *MEASURES)
    return (
        _identity(base, i, lane)
        | {"donor": None}
        | dict.fromkeys(("consumed", *blank, *measured), None)
        | {"gold": blank["gold"], "change": 0.0, "reason": why}
    )


def summary(rows: Sequence[Row], *, classes: int | None = None) -> list[Row]:
    """One row for each operator, edge and set of steps.

    Args:
        rows: of `necessity`, of one subject.
        classes: how many answers there are; then `ceiling` is 1 - 1 / classes, the flip rate of
            answers that are drawn at random.

    Returns:
        `flip` with its interval, `ceiling`, `accuracy` and `clean_accuracy` and the difference
        `d_accuracy` with their intervals, the counts of `TABLE`, the mean of each measure,
        `n_problems`, `n_rows`, `n_left_out` (rows whose edit could not act) and `warning`.
        Unparsable rows count as no flip and as wrong.

    Raises:
        InputError: `classes` is below 2.
    """
    if classes is not None and classes < 2:
        raise InputError(f"classes is {classes}: answers that can differ are 2 or more.")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["operator"], row["edge"], row["step"], row["steps"])
        groups.setdefault(key, []).append(row)
    ceiling = None if classes is None else 1 - 1 / classes
    names = ("operator", "edge", "step", "steps")
    return [
        dict(zip(names, key, strict=True)) | {"ceiling": ceiling} | _summed(group)
        for key, group in groups.items()
    ]


def _summed(group: Sequence[Row]) -> Row:
    """The numbers of one operator at one set of steps."""
    valid = [row for row in group if not row["reason"]]
    ids = [row["id"] for row in valid]
    counts = Counter(row["outcome"] for row in valid)
    flip = share([row["flip"] for row in valid], ids) if valid else None
    left_out = [row["reason"] for row in group if row["reason"]]
    warning = flip.warning if flip else left_out[0]
    return (
        columns("flip", flip)
        | _accuracies(valid, ids)
        | {word: counts[word] for word in TABLE}
        | {name: _mean([row[name] for row in valid]) for name in MEASURES}
        | {"n_problems": len(set(ids)), "n_rows": len(valid), "n_left_out": len(left_out)}
        | {"warning": warning or ""}
    )


def _accuracies(valid: Sequence[Row], ids: Sequence[str]) -> Row:
    """Accuracy with and without the edit, and the difference, pair by pair."""
    now = share([row["correct"] for row in valid], ids) if valid else None
    was = share([row["clean_correct"] for row in valid], ids) if valid else None
    gains = [float(row["correct"]) - float(row["clean_correct"]) for row in valid]
    gain = cluster_bootstrap(gains, ids) if valid else None
    return columns("accuracy", now) | columns("clean_accuracy", was) | columns("d_accuracy", gain)


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
