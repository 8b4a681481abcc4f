"""How far an intervened read-out lies from its clean one, and what each of them answers.

All measures take the clean side first. Two read-outs with the same bits are at 0.0 exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.engine.tree import out_of_memory
from interp.errors import InputError
from interp.latent.calibration import Calibration
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout, Target
from interp.latent.operators import Operator
from interp.latent.state import Closed
from interp.latent.subject import Forced, Subject
from interp.stats import FEW_CLUSTERS, Interval, cluster_bootstrap, wilson

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Effects:
    """Differences of two forced read-outs, a row each; natural log.

    "Answer" means the answer's own tokens, without the template and the end of text, which would
    dilute a mean because they hardly ever change.
    """

    kl: Float[Tensor, " batch"]
    """KL(clean || intervened), mean over the target's tokens."""
    kl_answer: Float[Tensor, " batch"]
    """The same, mean over the answer's tokens."""
    dlogp_sum: Float[Tensor, " batch"]
    """Log-probability of the target, clean minus intervened."""
    dlogp_answer: Float[Tensor, " batch"]
    """Log-probability of the answer's tokens, clean minus intervened."""
    l2_answer: Float[Tensor, " batch"]
    """Distance of the two vectors of probabilities, mean over the answer's tokens."""

    def row(self, i: int) -> dict[str, float | None]:
        """The measures of one row as a record keeps them; None where one is not finite."""
        return {name: finite(values[i]) for name, values in vars(self).items()}


def effects(
    clean: Forced, intervened: Forced, *, answer: Literal["all", "last"] = "all"
) -> Effects:
    """Compare two read-outs of the same targets.

    Args:
        clean: read from the clean run.
        intervened: read from the run under edits, with the same targets in the same rows.
        answer: "all" takes every token of the answer, "last" only its last, as the paper does.

    Source: Li et al. 2026, arXiv:2602.08783, section 3; the direction of KL and the mean over
    tokens are those of its equation for W.

    Raises:
        InputError: the two sides were not forced with the same targets.
    """
    if clean.ids.shape != intervened.ids.shape or not torch.equal(clean.ids, intervened.ids):
        raise InputError(
            "The two read-outs were forced with different targets, so they cannot be compared: "
            "force the same targets in the same rows on both sides."
        )
    asked = clean.answer if answer == "all" else _last(clean.answer)
    apart = _kl(clean.logprobs, intervened.logprobs)
    distance = (clean.logprobs.exp() - intervened.logprobs.exp()).norm(dim=-1)
    drop = clean.of_targets() - intervened.of_targets()
    return Effects(
        _mean(apart, clean.seen),
        _mean(apart, asked),
        _sum(drop, clean.seen),
        _sum(drop, asked),
        _mean(distance, asked),
    )


def _kl(
    clean: Float[Tensor, "batch length vocab"], other: Float[Tensor, "batch length vocab"]
) -> Float[Tensor, "batch length"]:
    """KL(clean || other) at each token; rounding is not let below 0."""
    terms = clean.exp() * (clean - other)
    possible = clean > -math.inf  # 0 log 0 is 0
    return torch.where(possible, terms, torch.zeros_like(terms)).sum(-1).clamp(min=0)


def _last(answer: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Only the last True of each row."""
    later = answer.flip(1).long().cumsum(1).flip(1)
    return answer & (later == 1)


def _sum(
    values: Float[Tensor, "batch length"], which: Bool[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    return torch.where(which, values, torch.zeros_like(values)).sum(1)


def _mean(
    values: Float[Tensor, "batch length"], which: Bool[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    return _sum(values, which) / which.sum(1).clamp(min=1)


def finite(value: Tensor | float) -> float | None:
    """The number as a record keeps it, or None where it is infinite or not a number."""
    number = float(value)
    return number if math.isfinite(number) else None


def answers(subject: Subject, closed: Closed) -> list[str | None]:
    """What a subject answers in each row, written greedily; None where it states no answer."""
    return [subject.read(text) for text in subject.decode(closed)]


def same(a: str | None, b: str | None) -> bool:
    """Whether two answers agree, as numbers where both are; no answer agrees with nothing.

    >>> same("1,234", " 1234"), same("12.0", "12"), same("4", "5"), same(None, None)
    (True, True, False, False)
    """
    if a is None or b is None:
        return False
    texts = Layout.plain(a), Layout.plain(b)
    if texts[0] == texts[1]:
        return True
    try:
        one, other = (float(text) for text in texts)
    except ValueError:
        return False
    return one == other


def logprob(forced: Forced) -> Float[Tensor, " batch"]:
    """Log-probability of the answer's tokens, each given those before it."""
    return _sum(forced.of_targets(), forced.answer)


def top1(forced: Forced) -> Bool[Tensor, " batch"]:
    """Whether every token of the answer is the most probable one at its place."""
    best = forced.logprobs.argmax(-1) == forced.ids
    return (best | ~forced.answer).all(1)


def in_chunks(
    problems: Sequence[LatentProblem],
    work: Callable[[Sequence[LatentProblem], int], list[Made]],
    *,
    lanes: int,
    rows: int,
) -> list[Made]:
    """Do `work` on problems in chunks, so that a pass of all lanes fits `rows`.

    When memory runs out, the chunk and its rows are halved and no problem is lost; that changes
    time, not numbers beyond rounding.

    Args:
        problems: in order; results come in this order.
        work: takes some problems and the most rows of a pass.
        lanes: interventions that stand side by side, the identity included.
        rows: most rows of a pass; a pass holds one problem at least.

    Raises:
        InputError: fewer than 1 row, or no problem.
    """
    if rows < 1:
        raise InputError(f"A pass of {rows} rows holds no problem: give 1 or more.")
    if not problems:
        raise InputError("There is no problem to run: give at least one.")
    made: list[Made] = []
    done = 0
    while done < len(problems):
        part = problems[done : done + max(1, rows // lanes)]
        try:
            made += work(part, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or rows == 1:
                raise
            rows = max(1, min(rows, len(part) * lanes) // 2)
            continue
        done += len(part)
    return made


def sift(
    subject: Subject, problems: Sequence[LatentProblem]
) -> tuple[list[LatentProblem], dict[str, str]]:
    """Part the problems that a subject can run from those that it cannot, before it runs.

    Returns:
        Those that it can, in order, and for the id of each other one the reason.

    Raises:
        InputError: none is left, or two problems share an id, by which results are told apart.
    """
    kept, refused, taken = [], {}, set()
    for problem in problems:
        if problem.id in taken:
            raise InputError(
                f"Two problems have the id {problem.id!r}, and results are told apart by id: give "
                "each its own."
            )
        taken.add(problem.id)
        try:
            subject.check_problem(problem)
        except InputError as error:
            refused[problem.id] = str(error)
        else:
            kept.append(problem)
    if not kept:
        why = f" The first: {next(iter(refused.values()))}" if refused else ""
        raise InputError(
            f"Of {len(problems)} problems none can be run: give at least one that can.{why}"
        )
    return kept, refused


def require_once(operators: Sequence[Operator]) -> None:
    """Refuse an operator that is named twice: its rows could not be told apart.

    Raises:
        InputError: one is.
    """
    names = [each.name for each in operators]
    if len(set(names)) != len(names):
        raise InputError(f"Operators {', '.join(names)}: name each once.")


def require_apart(problems: Sequence[LatentProblem], calibration: Calibration) -> None:
    """Refuse problems whose question is in the calibration set.

    Raises:
        InputError: one is.
    """
    known = {problem.question for problem in calibration.problems}
    for problem in problems:
        if problem.question in known:
            raise InputError(
                f"Problem {problem.id!r} is scored and in the calibration set too: means and "
                "donors must come from other problems, so keep the two sets apart."
            )


def next_step(
    subject: Subject, problem: LatentProblem, consumed: int, *, per_step: int = 1
) -> Target | None:
    """Tokens of the reasoning step that follows `consumed` latent ones; None where none is left.

    Args:
        per_step: latent steps that stand for one step in text, as in the model's training.
    """
    place = consumed // per_step
    if place >= len(problem.steps):
        return None
    if not isinstance(subject, HFSubject):
        return subject.target(problem.steps[place])
    ids = subject.layout.step_ids(subject.tokenizer, problem.steps[place])
    return Target(tuple(ids), (0, len(ids))) if ids else None


def share(values: Sequence[bool], problems: Sequence[str]) -> Interval:
    """The share of True with its interval, whose unit is the problem.

    One value a problem: Wilson. Several: a bootstrap over problems; where all values agree, so
    that a bootstrap has no width, Wilson's over the problems.

    Raises:
        InputError: there is no value, or not one a problem's name.
    """
    units = len(set(problems))
    if len(values) == units:
        found = wilson(sum(values), units)
    elif len(set(values)) == 1:
        found = wilson(units if values[0] else 0, units)
    else:
        return cluster_bootstrap([float(value) for value in values], problems)
    warning = f"only {units} problems: the interval is wide" if units < FEW_CLUSTERS else None
    return Interval(found.estimate, found.low, found.high, units, found.level, warning)


def columns(name: str, found: Interval | None) -> dict[str, Any]:
    """An interval as columns of a record: NAME, NAME_low and NAME_high; None where there is none.

    >>> columns("flip", None)
    {'flip': None, 'flip_low': None, 'flip_high': None}
    """
    values = (None,) * 3 if found is None else (found.estimate, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
