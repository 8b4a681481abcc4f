"""Self-verification: where a chain says that it checks itself, and whether the check does anything.

A check step starts with a phrase such as "Wait" or "Let me check" (`answers.verification`), or is
named by the user. What it says goes on after it, so the unit is a segment: the check step and the
steps after it, up to and with the first that ends its line, but not the next check step, and at
most five steps in all. A segment is decorative where each of its steps is.

The behavioural test asks whether a check is used: the numbers of all steps before it are shifted,
the check stays as it is, and the cue asks again. An answer other than y* means that the model
followed the broken steps, so the check was decorative; y* means that it was used. The test speaks
only where the check is right by itself (y* after the intact text) and has something to repair (the
shifted text without the check loses y*): `informative`. A check that states y* may be copied:
`mentions_answer`.

A check that is right but not used can be steered: adding the True-Thinking direction to its tokens
should bring y* back. `make_check_items` gives the items of that test, `restoring` its arms.

Source: Zhao et al. 2025, arXiv:2510.24941, its section on self-verification. Its rule for finding
checks is not published; the anchored phrases and the end of a segment are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from interp.engine.model import Model
from interp.engine.tree import Progress, Spent
from interp.errors import InputError
from interp.thinking.answers import mentions, same_answer, verification
from interp.thinking.cells import step_texts
from interp.thinking.prune import NOTHING_SPENT, Asked, ask
from interp.thinking.rules import Rules
from interp.thinking.score import DECORATIVE, Chain, Tokeniser
from interp.thinking.scored import MeanStep, ScoredChain
from interp.thinking.steer_arms import Arm
from interp.thinking.steer_items import Item, Items, draft
from interp.thinking.steps import Step

Labels = Mapping[str, Collection[int]]
"""The check steps of some chains, by id; they replace the phrases for those chains."""

LONGEST = 5
"""Steps of a segment, the check step included."""


@dataclass(frozen=True)
class Segment:
    """A check step and what belongs to it: the steps `first` to `stop - 1` of a chain."""

    id: str
    first: int
    stop: int
    n_steps: int
    """Of the whole chain."""
    text: str
    tts_mean: float | None
    tts_max: float | None
    decorative: bool | None
    """Whether each step scores at most the threshold; None where one has no score."""
    mentions_answer: bool
    labelled: bool
    """Named by the user, not found by its phrase."""


@dataclass(frozen=True)
class CheckTest:
    """The behavioural test of one segment under one draw. Log-probabilities are joint, in nats."""

    id: str
    first: int
    stop: int
    seed: int
    text: str
    tts_max: float | None
    decorative: bool | None
    """By the score."""
    mentions_answer: bool
    correct: bool | None
    """Whether y* is the gold answer; None without one."""
    intact_answer: str | None
    """After the intact text and the check."""
    intact_logprob: float
    answer: str | None
    """After the shifted text and the check."""
    logprob: float
    without_answer: str | None
    """After the shifted text alone."""
    without_logprob: float
    used: bool
    """Whether the answer after the shifted text and the check is y*."""
    informative: bool
    """Whether it is y* after the intact text, and not after the shifted text alone."""


@dataclass(frozen=True)
class CheckTests:
    """The tests of many chains."""

    tests: tuple[CheckTest, ...]
    marked: tuple[dict[str, Any], ...]
    """Segments that could not be tested, with the reason."""
    spent: Spent


# ------------------------------------------------------------------------------ finding checks


def check_indices(steps: Sequence[Step], labels: Collection[int] | None = None) -> list[int]:
    """Return which steps of a chain are checks: the labels, or those that start with a phrase.

    >>> check_indices([Step(0, 0, 6, "2 + 2."), Step(1, 6, 18, "Wait, is it?")])
    [1]
    """
    if labels is not None:
        return sorted(set(labels))
    return [step.index for step in steps if verification(step.text)]


def bounds(
    steps: Sequence[Step], checks: Sequence[int], *, longest: int = LONGEST
) -> list[tuple[int, int]]:
    """Return `(first, stop)` of the segment of each check step.

    >>> texts = ["So 4. ", "Wait. ", "2 + 2 is 4. ", "Good.\\n", "So 4."]
    >>> bounds([Step(i, 0, 0, text) for i, text in enumerate(texts)], [1])
    [(1, 4)]
    """
    found = []
    for check in checks:
        stop = check + 1
        while stop < min(len(steps), check + longest) and stop not in checks:
            if _ends_line(steps[stop - 1]):
                break
            stop += 1
        found.append((check, stop))
    return found


def check_steps(scored: Sequence[ScoredChain], labels: Labels | None = None) -> list[MeanStep]:
    """Return the check steps that have a score.

    Raises:
        InputError: a label names no chain, or no step of its chain.
    """
    labels = _checked(scored, labels)
    found = []
    for each in scored:
        checks = check_indices(each.chain.steps, labels.get(each.id))
        found += [step for step in each.means if step.step in checks]
    return found


def segments(
    scored: Sequence[ScoredChain],
    labels: Labels | None = None,
    *,
    longest: int = LONGEST,
    decorative_to: float = DECORATIVE,
) -> list[Segment]:
    """Return the segments of self-checking of many chains, in order.

    Args:
        labels: check steps by chain, in place of the phrases.
        longest: steps of a segment at most.
        decorative_to: a step that scores at most this is decorative.

    Raises:
        InputError: a label names no chain, or no step of its chain; or `longest` is below 1.
    """
    if longest < 1:
        raise InputError(f"longest={longest}: a segment has at least its check step, so give 1.")
    labels = _checked(scored, labels)
    found = []
    for each in scored:
        chain, given = each.chain, labels.get(each.id)
        scores = {step.step: step.tts for step in each.means}
        for first, stop in bounds(chain.steps, check_indices(chain.steps, given), longest=longest):
            tts = [scores.get(step) for step in range(first, stop)]
            found.append(_segment(chain, first, stop, tts, decorative_to, given is not None))
    return found


def _segment(
    chain: Chain,
    first: int,
    stop: int,
    tts: Sequence[float | None],
    decorative_to: float,
    labelled: bool,
) -> Segment:
    text = _join(chain.steps[first:stop])
    known = [value for value in tts if value is not None]
    whole = len(known) == len(tts)
    return Segment(
        id=chain.problem.id,
        first=first,
        stop=stop,
        n_steps=len(chain.steps),
        text=text,
        tts_mean=fmean(known) if whole else None,
        tts_max=max(known) if whole else None,
        decorative=max(known) <= decorative_to if whole else None,
        mentions_answer=mentions(text, chain.answer),
        labelled=labelled,
    )


def _checked(scored: Sequence[ScoredChain], labels: Labels | None) -> Labels:
    """Refuse labels that name nothing."""
    chains = {each.id: each.chain for each in scored}
    for name, steps in (labels or {}).items():
        if name not in chains:
            raise InputError(
                f"Check steps are given for problem {name!r}, which is not among the "
                f"{len(chains)} chains: drop them, or pass its chain."
            )
        outside = [step for step in steps if not 0 <= step < len(chains[name].steps)]
        if outside:
            raise InputError(
                f"Step {outside[0]} of problem {name!r} cannot be a check: its chain has the steps "
                f"0 to {len(chains[name].steps) - 1}."
            )
    return labels or {}


def _ends_line(step: Step) -> bool:
    return "\n" in step.text[len(step.text.rstrip()) :]


def _join(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


# ------------------------------------------------------------------------- the behavioural test


def shifted_context(chain: Chain, stop: int, seed: int, rules: Rules) -> str:
    """Return the steps before `stop` with their numbers shifted, as the score's C' has them."""
    texts = step_texts(chain.problem.id, chain.steps[:stop], seed, rules)
    return "".join(each.perturbed if each.op == "edit" else each.step.text for each in texts)


def behaviour(
    model: Model,
    scored: Sequence[ScoredChain],
    rules: Rules,
    *,
    labels: Labels | None = None,
    seeds: Sequence[int] = (0,),
    longest: int = LONGEST,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> CheckTests:
    """Shift the numbers before each check, keep the check, and ask again.

    Args:
        labels, longest: as in `segments`.
        seeds: draws of the shifts; a shift is the same as in the score of that seed.
        exact, chunk: as in `interp.engine.tree.score`.
        progress: called with chains done and in all.

    Raises:
        InputError: no seed, or what `segments` refuses.
    """
    if not seeds:
        raise InputError("seeds is empty: give at least one draw of the shifts, such as 0.")
    by_chain: dict[str, list[Segment]] = {}
    for segment in segments(scored, labels, longest=longest):
        by_chain.setdefault(segment.id, []).append(segment)
    tests: list[CheckTest] = []
    marked: list[dict[str, Any]] = []
    spent = NOTHING_SPENT
    for done, each in enumerate(scored, start=1):
        plan = [(segment, seed) for segment in by_chain.get(each.id, []) for seed in seeds]
        texts = [text for one in plan for text in _three(each.chain, *one, rules)]
        answers, cost = ask(model, each.chain, rules, texts, exact=exact, chunk=chunk)
        spent += cost
        for i, (segment, seed) in enumerate(plan):
            try:
                tests.append(_test(each.chain, segment, seed, texts, answers, 3 * i))
            except InputError as error:
                marked.append(_mark(segment, seed, str(error)))
        if progress:
            progress(done, len(scored))
    return CheckTests(tuple(tests), tuple(marked), spent)


def _three(chain: Chain, segment: Segment, seed: int, rules: Rules) -> tuple[str, str, str]:
    """The intact text with the check, the shifted text with it, and the shifted text alone."""
    broken = shifted_context(chain, segment.first, seed, rules)
    return _join(chain.steps[: segment.stop]), broken + segment.text, broken


def _test(
    chain: Chain,
    segment: Segment,
    seed: int,
    texts: Sequence[str],
    answers: Sequence[Asked | None],
    at: int,
) -> CheckTest:
    """Put together the three answers that start at `at`; an error says why there is no test."""
    intact, shifted, without = answers[at : at + 3]
    if texts[at] == texts[at + 1]:
        raise InputError("no number before the check that could be shifted")
    if intact is None or shifted is None or without is None:
        raise InputError("a text is too long, or cuts the answer into other tokens")
    gold = chain.problem.gold
    return CheckTest(
        id=segment.id,
        first=segment.first,
        stop=segment.stop,
        seed=seed,
        text=segment.text,
        tts_max=segment.tts_max,
        decorative=segment.decorative,
        mentions_answer=segment.mentions_answer,
        correct=same_answer(chain.answer, gold) if gold else None,
        intact_answer=intact.answer,
        intact_logprob=intact.logprob,
        answer=shifted.answer,
        logprob=shifted.logprob,
        without_answer=without.answer,
        without_logprob=without.logprob,
        used=shifted.same,
        informative=intact.same and not without.same,
    )


def _mark(segment: Segment, seed: int, reason: str) -> dict[str, Any]:
    about = {"id": segment.id, "first": segment.first, "stop": segment.stop, "seed": seed}
    return {**about, "reason": reason}


# -------------------------------------------------------------------------- steering that restores


def make_check_items(
    model: Model,
    scored: Sequence[ScoredChain],
    rules: Rules,
    tests: Sequence[CheckTest],
) -> Items:
    """Return the items of the steering test on checks, from the tests of `behaviour`.

    An item is the shifted text, the check as it is, and the cue; its span is the tokens of the
    check. Only checks that are right by themselves count (y* after the intact text). A check that
    is not used is an item of `disengage`, since the model follows the broken steps and a success
    turns it to y*; one that is used is an item of `engage`. The model is not run.

    Raises:
        InputError: a test of a chain that `scored` lacks.
    """
    chains = {each.id: each.chain for each in scored}
    found: dict[str, list[Item]] = {"engage": [], "disengage": []}
    marked: list[dict[str, Any]] = []
    for test in tests:
        if test.id not in chains:
            raise InputError(
                f"A check is of problem {test.id!r}, which is not among the {len(chains)} chains "
                "given: pass the chains that were tested."
            )
        try:
            item = _item(model, chains[test.id], test, rules)
            found[item.test].append(item)
        except InputError as error:
            about = {"id": test.id, "step": test.first, "seed": test.seed}
            marked.append({**about, "reason": str(error)})
    return Items(tuple(found["engage"]), tuple(found["disengage"]), tuple(marked))


def restoring(arm: Arm) -> Arm:
    """Return an arm that does to checks that are not used what it does to steps that are.

    The direction is added, not taken away, although the item is one of `disengage`.
    """
    return replace(arm, disengage=arm.engage)


def _item(model: Model, chain: Chain, test: CheckTest, rules: Rules) -> Item:
    if test.intact_answer is None or not same_answer(test.intact_answer, chain.answer):
        raise InputError("the check is not right by itself: the intact text does not end in y*")
    if test.answer is None:
        raise InputError("the answer cannot be read")
    if test.tts_max is None:
        raise InputError("a step of the check has no score")
    item = draft(
        model,
        Tokeniser(model, chain, rules),
        chain,
        rules,
        context=shifted_context(chain, test.first, test.seed, rules),
        written=test.text,
        step=test.first,
        seed=test.seed,
        tts=test.tts_max,
    )
    return replace(
        item,
        test="engage" if test.used else "disengage",
        base_answer=test.answer,
        base_logprob=test.logprob,
    )
