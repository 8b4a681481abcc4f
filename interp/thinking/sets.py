"""The two sets of steps between which the TrueThinking direction points.

True steps score at least `true_from`, decorative ones at most `decorative_to`. Steps without
numbers are left out: they were dropped, not edited, which is another intervention. Without further
care the sets differ in more than their score. True steps come late and state the answer, so a
difference of means would encode "late" or "says 12". So both sets are drawn with equal counts from
each stratum: a bin of the position in the chain, and whether the step mentions the answer. No
problem gives more than `per_problem` steps to a side.

Every draw orders steps by a stable hash of (seed, problem, step): what is chosen does not depend on
the order in which chains come.

Source: Zhao et al. 2025, arXiv:2510.24941; the matching, the caps and the warnings are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError
from interp.thinking.scored import MeanStep, ScoredChain, mean_steps

Stratum = tuple[int, bool]
"""The bin of the position, and whether the step mentions the answer."""

FALL = 0.1
"""By how much the threshold of the true set falls at a time where such steps are scarce."""


@dataclass(frozen=True)
class Sets:
    """Two sets of steps, the thresholds that made them, and what to know about them."""

    true: tuple[MeanStep, ...]
    decorative: tuple[MeanStep, ...]
    true_from: float
    """The threshold used: below the one asked for where true steps are scarce."""
    decorative_to: float
    warnings: tuple[str, ...] = ()
    balance: tuple[dict[str, Any], ...] = ()
    """For each stratum (`position_from`, `position_to`, `mentions_answer`) the steps that pass the
    thresholds, `true` and `decorative`, and those chosen, `true_chosen` and `decorative_chosen`."""
    bins: int = 4
    """How many bins of position the strata have."""

    @property
    def steps(self) -> tuple[MeanStep, ...]:
        """Both sets: the true steps, then the decorative ones."""
        return self.true + self.decorative

    def stratum(self, step: MeanStep) -> Stratum:
        """Return the bin of a step's position, and whether it mentions the answer."""
        return stratum(step, self.bins)

    def notes(self) -> dict[str, Any]:
        """Return what belongs beside a direction of these sets, as JSON: all but the steps' text.

        The steps of each set are counted by problem.
        """
        return {
            "true_from": self.true_from,
            "decorative_to": self.decorative_to,
            "n_true": len(self.true),
            "n_decorative": len(self.decorative),
            "true_by_problem": dict(sorted(Counter(step.id for step in self.true).items())),
            "decorative_by_problem": dict(
                sorted(Counter(step.id for step in self.decorative).items())
            ),
            "decorative_saturated": sum(step.saturated for step in self.decorative),
            "bins": self.bins,
            "balance": [dict(row) for row in self.balance],
            "warnings": list(self.warnings),
        }


def choose_sets(
    scored: Sequence[ScoredChain],
    *,
    true_from: float = 0.9,
    decorative_to: float = 0.005,
    true_below: float = math.inf,
    bins: int = 4,
    per_problem: int = 10,
    most: int = 200,
    fewest: int = 8,
    lowest: float = 0.3,
    seed: int = 0,
    match: bool = True,
) -> Sets:
    """Choose the true and the decorative steps of some scored chains.

    Where fewer than `fewest` true steps are left after matching, `true_from` falls by 0.1 at a
    time, to `lowest` at least, and a warning says so.

    Args:
        true_from: the mean score over draws from which a step is true (0 to 1).
        decorative_to: the mean score up to which a step is decorative.
        true_below: steps that score this or more are left out: one bin of scores.
        bins: bins of position, equally wide, that both sets are matched in.
        per_problem: the most steps that a problem gives to a side.
        most: the most steps on a side.
        fewest: fewer steps on a side are scarce.
        lowest: `true_from` never falls below this.
        match: False takes steps as they come, unmatched.

    Raises:
        InputError: settings without a meaning, two chains of one id, or chains that give no
            direction: no numeric step, none true, none decorative, or none that match.
    """
    _check(true_from, decorative_to, true_below, lowest, (bins, per_problem, most, fewest))
    _check_ids(scored)
    steps = sorted((s for s in mean_steps(scored) if s.op == "edit"), key=_hashed(seed))
    decorative = [step for step in steps if step.tts <= decorative_to]
    floor = min(lowest, true_from)
    _require_both(steps, decorative, floor, true_below, decorative_to)

    def sides(threshold: float) -> tuple[list[MeanStep], list[MeanStep]]:
        high = [step for step in steps if threshold <= step.tts < true_below]
        high, low = _capped(high, per_problem), _capped(decorative, per_problem)
        return _matched(high, low, bins, most) if match else (high[:most], low[:most])

    tried = {threshold: sides(threshold) for threshold in _thresholds(true_from, floor)}
    reached = {threshold: min(map(len, found)) for threshold, found in tried.items()}
    enough = [threshold for threshold, n in reached.items() if n >= fewest]
    used = max(enough or (t for t, n in reached.items() if n == max(reached.values())))
    _require_matched(reached[used], floor, decorative_to)
    true, low = tried[used]
    warnings = _warnings(true, low, asked=true_from, used=used, fewest=fewest, matched=match)
    balance = _balance(
        [step for step in steps if used <= step.tts < true_below], decorative, true, low, bins
    )
    return Sets(tuple(true), tuple(low), used, decorative_to, warnings, balance, bins)


def stratum(step: MeanStep, bins: int) -> Stratum:
    """Return the bin of a step's position, 0 to bins - 1, and whether it mentions the answer."""
    return min(int(step.position * bins), bins - 1), step.mentions_answer


# ---------------------------------------------------------------------------------------- draws


def _hashed(seed: int) -> Callable[[MeanStep], str]:
    """A sort key that shuffles steps, the same way whatever order they come in."""

    def key(step: MeanStep) -> str:
        return hashlib.sha256(json.dumps(["sets", seed, step.id, step.step]).encode()).hexdigest()

    return key


def _capped(steps: Sequence[MeanStep], per_problem: int) -> list[MeanStep]:
    """The first `per_problem` steps of each problem, in order."""
    seen: Counter[str] = Counter()
    kept = []
    for step in steps:
        seen[step.id] += 1
        if seen[step.id] <= per_problem:
            kept.append(step)
    return kept


def _matched(
    true: Sequence[MeanStep], decorative: Sequence[MeanStep], bins: int, most: int
) -> tuple[list[MeanStep], list[MeanStep]]:
    """As many steps of either side in each stratum, and at most `most` a side, strata in turn."""
    pools: dict[Stratum, tuple[list[MeanStep], list[MeanStep]]] = {}
    for side, steps in enumerate((true, decorative)):
        for step in steps:
            pools.setdefault(stratum(step, bins), ([], []))[side].append(step)
    pairs = [
        (place, one, other)
        for _, pool in sorted(pools.items())
        for place, (one, other) in enumerate(zip(*pool, strict=False))
    ]
    kept = sorted(pairs, key=lambda pair: pair[0])[:most]
    return [one for _, one, _ in kept], [other for _, _, other in kept]


def _thresholds(start: float, floor: float) -> list[float]:
    """The thresholds to try, from `start` down to `floor`, both included.

    >>> _thresholds(0.9, 0.65)
    [0.9, 0.8, 0.7, 0.65]
    """
    n = math.ceil(round((start - floor) / FALL, 9))
    return [round(start - FALL * k, 9) for k in range(n)] + [floor]


# ------------------------------------------------------------------------------ what to know


def _balance(
    true: Sequence[MeanStep],
    decorative: Sequence[MeanStep],
    true_chosen: Sequence[MeanStep],
    decorative_chosen: Sequence[MeanStep],
    bins: int,
) -> tuple[dict[str, Any], ...]:
    sides = {
        "true": true,
        "decorative": decorative,
        "true_chosen": true_chosen,
        "decorative_chosen": decorative_chosen,
    }
    counts = {name: Counter(stratum(s, bins) for s in steps) for name, steps in sides.items()}
    return tuple(
        {"position_from": place / bins, "position_to": (place + 1) / bins, "mentions_answer": says}
        | {name: count[place, says] for name, count in counts.items()}
        for place, says in sorted(set().union(*counts.values()))
    )


def _warnings(
    true: Sequence[MeanStep],
    decorative: Sequence[MeanStep],
    *,
    asked: float,
    used: float,
    fewest: int,
    matched: bool,
) -> tuple[str, ...]:
    found = []
    if used < asked:
        found.append(
            f"True steps are scarce: the threshold was lowered from {asked:g} to {used:g}."
        )
    for name, steps in (("true", true), ("decorative", decorative)):
        if len(steps) < fewest:
            found.append(f"Only {len(steps)} {name} steps were found, fewer than {fewest}.")
        if len({step.id for step in steps}) == 1:
            found.append(
                f"All {len(steps)} {name} steps are of one problem, {steps[0].id!r}: the direction "
                "may be that problem's alone."
            )
    harmful = sum(step.nec + step.suf < 0 for step in true)
    if 2 * harmful > len(true):
        found.append(
            f"{harmful} of {len(true)} true steps lower the answer's probability: they move the "
            "answer, but away from it."
        )
    saturated = sum(step.saturated for step in decorative)
    if 2 * saturated > len(decorative):
        found.append(
            f"{saturated} of {len(decorative)} decorative steps are saturated: the answer was sure "
            "or hopeless whatever they said, which is no evidence that they are decorative."
        )
    if not matched:
        found.append(
            "The sets are not matched, so the direction may encode where steps stand or whether "
            "they state the answer."
        )
    return tuple(found)


# ---------------------------------------------------------------------------------- refusals


def _check(
    true_from: float,
    decorative_to: float,
    true_below: float,
    lowest: float,
    counts: tuple[int, int, int, int],
) -> None:
    floor = min(lowest, true_from)
    if not 0 <= decorative_to < floor or not true_from <= 1 or not true_from < true_below:
        raise InputError(
            f"decorative_to={decorative_to}, lowest={lowest}, true_from={true_from}, "
            f"true_below={true_below}: the first must be below the others, true_from at most 1 and "
            "below true_below."
        )
    for name, value, least in zip(
        ("bins", "per_problem", "most", "fewest"), counts, (1, 1, 2, 2), strict=True
    ):
        if value < least:
            raise InputError(f"{name}={value}: give at least {least}.")


def _check_ids(scored: Sequence[ScoredChain]) -> None:
    twice = [name for name, n in Counter(chain.id for chain in scored).items() if n > 1]
    if twice:
        raise InputError(
            f"The id {twice[0]!r} stands for more than one chain: give each chain an id of its own."
        )


def _require_both(
    steps: Sequence[MeanStep],
    decorative: Sequence[MeanStep],
    floor: float,
    true_below: float,
    decorative_to: float,
) -> None:
    """Refuse steps among which none is true, or none decorative."""
    if not steps:
        raise InputError(
            "No step with a number has a score, so there is nothing to choose from: give chains "
            "with numeric steps, and score them first."
        )
    told = f"the {len(steps)} numeric steps score {_range(steps)}"
    saturated = sum(step.saturated for step in steps)
    if not any(floor <= step.tts < true_below for step in steps):
        if true_below < math.inf:
            raise InputError(
                f"No step scores from {floor:g} to below {true_below:g}, so there is no direction "
                f"of that bin: {told}."
            )
        raise InputError(
            f"No step scores at least {floor:g}, so none is true thinking and there is no "
            f"direction to find: {told}, {saturated} of them saturated. No single step's numbers "
            "move the answer so far; take other problems, or give a smaller lowest."
        )
    if not decorative:
        raise InputError(
            f"No step scores at most {decorative_to:g}, so none is decorative and there is no "
            f"direction to find: {told}. Score more chains, or give a larger decorative_to."
        )


def _require_matched(n: int, floor: float, decorative_to: float) -> None:
    if n < 2:
        raise InputError(
            f"{n} true steps (score from {floor:g}) have a decorative one (up to "
            f"{decorative_to:g}) at their place in the chain that mentions the answer or not as "
            "they do, and a direction needs 2 of each: score more chains, or give fewer bins or "
            "match=False."
        )


def _range(steps: Sequence[MeanStep]) -> str:
    scores = [step.tts for step in steps]
    return f"from {min(scores):.3g} to {max(scores):.3g}"
