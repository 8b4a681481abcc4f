"""Five fixed verdicts, so that an accuracy cannot be read as more than it shows.

INVALID                              an error of doing nothing, a leak, or a network that does not
                                     solve the task
NOT FOUND                            the interval of test IIA is not above the best baseline
VACUOUS FOR THIS MAP                 a control (twin, rival, shuffled) is within .05 of the score or
                                     their intervals overlap, or another algorithm than the planted
                                     one is fitted as well: the map fits what is not there
FOUND UNDER {map}, IN DISTRIBUTION   none of these, and every guard is there
FOUND UNDER {map}, GENERALISES       and it holds on the held-out split as well

The first three may be given before all guards are there, for no further guard could improve them; a
verdict that something was found is refused while one lacks. "Implements" is said with the last
verdict alone. Source: the controls that Sutter et al. 2025, arXiv:2507.08802, show to be needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from interp.alignment.baselines import best
from interp.alignment.capacity import Control, Rival
from interp.alignment.evidence import (
    GUARDS,
    Evidence,
    HeldOut,
    NotApplicable,
    Waiver,
    missing,
)
from interp.errors import InputError
from interp.stats import Interval

MARGIN = 0.05
"""A control within so much of the score, in IIA, makes it vacuous."""

INVALID, NOT_FOUND, VACUOUS = "INVALID", "NOT FOUND", "VACUOUS FOR THIS MAP"
IN_DISTRIBUTION, GENERALISES = (
    "FOUND UNDER {map}, IN DISTRIBUTION",
    "FOUND UNDER {map}, GENERALISES",
)
WORDS = (INVALID, NOT_FOUND, VACUOUS, IN_DISTRIBUTION, GENERALISES)
"""All verdicts, each better than those before it."""


@dataclass(frozen=True)
class Verdict:
    """One of the fixed words, and why."""

    word: str
    """As in `WORDS`, with the name of the map."""
    level: int
    """Its place in `WORDS`: a higher one claims more."""
    reason: str
    """One sentence."""
    claim: str
    """What may be said, naming map, site and inputs."""
    notes: tuple[str, ...] = ()
    """A waived rival, guards that do not apply: printed with the verdict."""

    @property
    def found(self) -> bool:
        """Whether it is one of the two FOUND."""
        return self.level >= WORDS.index(IN_DISTRIBUTION)

    def __str__(self) -> str:
        notes = "".join(f" {note}" for note in self.notes)
        return f"{self.word}: {self.reason} {self.claim}{notes}"


def verdict(evidence: Evidence) -> Verdict:
    """Return the verdict that the evidence allows.

    Raises:
        InputError: nothing speaks against it, and a guard, a baseline or train IIA is lacking: the
            message lists what is.
    """
    for word, reasons in (
        (INVALID, _invalid(evidence)),
        (NOT_FOUND, _not_found(evidence)),
        (VACUOUS, _vacuous(evidence)),
    ):
        reason = next(reasons, None)
        if reason is not None:
            return _verdict(word, evidence, reason)
    lacking = missing(evidence)
    if lacking:
        raise InputError(
            f"The report on {evidence.algorithm} cannot say that it was found: it lacks "
            f"{'; '.join(lacking)}. Run these, or report the scores without a verdict."
        )
    held, reason = _generalises(evidence)
    return _verdict(GENERALISES if held else IN_DISTRIBUTION, evidence, reason)


def _verdict(word: str, evidence: Evidence, reason: str) -> Verdict:
    return Verdict(
        word.format(map=evidence.map),
        WORDS.index(word),
        reason,
        _claim(word, evidence),
        _notes(evidence),
    )


def _invalid(evidence: Evidence) -> Iterator[str]:
    errors = evidence.exactness
    if errors is not None and not errors.holds:
        yield (
            f"Doing nothing is not exact: a block swapped with itself moves a logit by "
            f"{errors.noop.logit:.1g} (at most {errors.noop.limit:.1g}) and flips "
            f"{errors.noop.flipped} answers, and the inverse errs by {errors.inverse.run:.1g} "
            f"(at most {errors.inverse.limit:.1g}), in float64 by {errors.inverse.double:.1g}."
        )
    if evidence.splits_apart is False:
        yield "Test inputs stand in another split, so the score counts what was fitted to."
    if evidence.task_accuracy < evidence.least_task_accuracy:
        yield (
            f"The network solves the task on {evidence.task_accuracy:.3f} of inputs, below "
            f"{evidence.least_task_accuracy:.3f}: there is no behaviour to explain."
        )


def _not_found(evidence: Evidence) -> Iterator[str]:
    if evidence.test.low is None:
        yield f"Test IIA {evidence.test.estimate:.3f} has no interval ({evidence.test.warning})."
    elif evidence.baselines:
        top = best(evidence.baselines.values())
        if not evidence.test.low > top.highest:
            yield (
                f"Test IIA {_text(evidence.test)} is not above the best baseline, {top.name} "
                f"({top.highest:.3f})."
            )


def _vacuous(evidence: Evidence) -> Iterator[str]:
    for control in _controls(evidence):
        if _close(evidence.test, control.test):
            yield (
                f"The control {control.name!r} reaches {_text(control.test)} where the network "
                f"reaches {_text(evidence.test)}: {_nearness(evidence.test, control.test)}."
            )
    planted = evidence.positive_control
    if planted is not None and not planted.right > planted.wrong + MARGIN:
        yield (
            f"The map cannot tell algorithms apart where the answer is known: on {planted.name} "
            f"the planted one scores {planted.right:.3f} and another {planted.wrong:.3f}."
        )
    if isinstance(evidence.rival, Rival):
        told = evidence.rival.obeyed
        if told.mine.low is None or not told.mine.low > told.theirs.estimate:
            yield (
                f"On {told.n} pairs that tell the two algorithms apart the network under the map "
                f"follows {evidence.algorithm} on {_text(told.mine)} and the rival "
                f"{evidence.rival.name} on {_text(told.theirs)}."
            )


def _controls(evidence: Evidence) -> Iterator[Control]:
    if evidence.twin is not None:
        yield evidence.twin
    if isinstance(evidence.rival, Rival):
        yield evidence.rival.fit
    yield from evidence.fitted_controls.values()


def _close(score: Interval, control: Interval) -> bool:
    """Whether a control comes too near; one without an interval always does."""
    if score.low is None or control.high is None:
        return True
    clear = score.estimate - control.estimate > MARGIN and score.low > control.high
    return not clear


def _nearness(score: Interval, control: Interval) -> str:
    over = control.estimate > score.estimate + MARGIN
    return "the control is above it" if over else f"within {MARGIN} or overlapping"


def _generalises(evidence: Evidence) -> tuple[bool, str]:
    controls = f"test IIA {_text(evidence.test)} is above every baseline and clear of every control"
    held = evidence.held_out
    if not isinstance(held, HeldOut):
        why = held.reason if isinstance(held, NotApplicable) else "none was given"
        return False, f"The {controls}; nothing was held out by identity ({_bare(why)})."
    problem = _falls(evidence.test, held)
    if problem:
        return False, f"The {controls}; on {held.split} it does not hold: {problem}."
    return True, f"The {controls}, and on {held.split} it holds with {_text(held.test)}."


def _falls(score: Interval, held: HeldOut) -> str | None:
    """Why the held-out split does not hold, if it does not."""
    if held.test.low is None or not held.test.low > held.best_baseline:
        return f"{_text(held.test)} is not above its best baseline ({held.best_baseline:.3f})"
    if _close(held.test, held.twin):
        return f"{_text(held.test)} is no better than untrained twins ({_text(held.twin)})"
    if held.test.estimate < score.estimate - MARGIN:
        return f"{_text(held.test)} is more than {MARGIN} below"
    return None


def _claim(word: str, evidence: Evidence) -> str:
    where = f"under the {evidence.map} map at {evidence.site}, on {evidence.inputs}"
    if word == GENERALISES and not isinstance(evidence.rival, Waiver):
        return f"The network implements {evidence.algorithm} {where}."
    if word in (GENERALISES, IN_DISTRIBUTION):
        return f"Interchanges of {evidence.algorithm} are found {where}."
    return f"Nothing is shown of {evidence.algorithm} {where}."


def _notes(evidence: Evidence) -> tuple[str, ...]:
    notes = []
    if isinstance(evidence.rival, Waiver):
        waived = evidence.rival
        notes.append(f"The rival {waived.rival} is waived: {_bare(waived.reason)}.")
    for guard, given in ((GUARDS[3], evidence.held_out), (GUARDS[7], evidence.null_space)):
        if isinstance(given, NotApplicable):
            notes.append(f"Guard {guard!r} does not apply: {_bare(given.reason)}.")
    if evidence.selection is not None and evidence.selection.sites_tried > 1:
        tried = evidence.selection.sites_tried
        notes.append(f"The site is the best of {tried} on {evidence.selection.chosen_on} pairs.")
    if evidence.runner_up is not None:
        second = evidence.runner_up
        notes.append(
            f"Runner-up: {second.name}, {second.validation_iia:.3f} on validation pairs where the "
            f"chosen one has {second.chosen_validation_iia:.3f}."
        )
    return tuple(notes)


def _bare(sentence: str) -> str:
    return sentence.strip().rstrip(".")


def _text(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.estimate:.3f} (no interval)"
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"
