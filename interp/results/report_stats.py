"""What the report says about rows of step scores: means, shares, intervals, findings.

Everything is computed from plain rows, so a report can be made again without a model. A step is
first averaged over its seeds; intervals then resample problems, because the steps of one chain
are not independent. Scores are on the probability scale, from 0 to 1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap

Row = Mapping[str, Any]

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

LOW, HIGH, TRUE = 0.005, 0.3, 0.7
"""Scores at which the literature cuts: at most LOW, at least HIGH, at least TRUE."""

BIN_EDGES = (LOW, 0.02, 0.05, 0.1, 0.2, HIGH, 0.5, TRUE)
"""Inner edges of the histogram: the first bin holds its edge, the others their lower one."""

FLAGS = {
    "mentions": "mentions the answer",
    "saturated": "saturated",
    "drop": "dropped, not edited",
    "verification": "verification",
    "harmful": "harmful",
}
"""Flag and what the reader sees."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one chain, averaged over its seeds."""

    problem: str
    step: int
    rows: tuple[Row, ...]
    """The rows it is the mean of, one a seed."""
    tts: float
    nec: float
    suf: float
    null: float | None
    """Score of a null rewrite of this step; None where none was made."""
    random: float | None
    """Score of a random step of another problem in this place; None where none was made."""
    position: float
    """Place in the chain, from 0 to 1."""
    flags: tuple[str, ...]
    """Names out of `FLAGS` that hold for at least one seed."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One line of the summary table; None where there is nothing to average."""

    name: str
    n_steps: int
    n_problems: int
    mean: Interval | None
    above_null: Interval | None
    """Score minus the null rewrite of the same step."""
    shares: tuple[float, float, float] | None
    """Shares of the steps at most LOW, at least HIGH and at least TRUE."""
    nec: float | None
    suf: float | None


@dataclass(frozen=True)
class Finding:
    """One sentence for the head of the report, and what stands behind it."""

    title: str
    detail: str


def scored_rows(chains: Sequence[Row], steps: Sequence[Row]) -> list[Row]:
    """Return the step rows of the problems that were scored.

    Raises:
        InputError: a row names a problem that `chains` lacks, or holds a score that is not a
            finite number.
    """
    status = {row["id"]: row["status"] for row in chains}
    for row in steps:
        where = f"Step {row['step']} of problem {row['id']!r}"
        if row["id"] not in status:
            raise InputError(f"{where} has no row among the chains; give the chains of this run.")
        for name in ("tts", "nec", "suf", "position"):
            if row[name] is None or not math.isfinite(row[name]):
                raise InputError(
                    f"{where} has {name} {row[name]}, which is no score; mark the problem instead."
                )
    return [row for row in steps if status[row["id"]] == "scored"]


def merge_seeds(rows: Iterable[Row]) -> list[Step]:
    """Average the rows of each step over its seeds, in the order of the rows."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["id"], row["step"]].append(row)
    return [_merged(group) for group in groups.values()]


def _merged(rows: Sequence[Row]) -> Step:
    def average(name: str) -> float | None:
        return mean([row[name] for row in rows if row.get(name) is not None])

    tts, nec, suf, position = (average(name) or 0.0 for name in ("tts", "nec", "suf", "position"))
    holds = {
        "mentions": any(row["mentions_answer"] for row in rows),
        "saturated": any(row["saturated"] for row in rows),
        "drop": any(row["op"] == "drop" for row in rows),
        "verification": any(row["verification"] for row in rows),
        "harmful": (nec + suf) / 2 < -LOW,
    }
    return Step(
        problem=rows[0]["id"],
        step=rows[0]["step"],
        rows=tuple(rows),
        tts=tts,
        nec=nec,
        suf=suf,
        null=average("null_tts"),
        random=average("random_tts"),
        position=position,
        flags=tuple(name for name in FLAGS if holds[name]),
    )


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None where there is nothing to average.

    >>> mean([1.0, 2.0]), mean([])
    (1.5, None)
    """
    return math.fsum(values) / len(values) if values else None


def shares(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the shares of the values at most 0.005, at least 0.3 and at least 0.7.

    >>> shares([0.0, 0.005, 0.3, 0.9])
    (0.5, 0.5, 0.25)
    """
    if not values:
        return None
    n = len(values)
    low = sum(value <= LOW for value in values)
    high, true = (sum(value >= cut for value in values) for cut in (HIGH, TRUE))
    return low / n, high / n, true / n


def bin_of(score: float, edges: Sequence[float] = BIN_EDGES) -> int:
    """Return the place of a score's bin; a score equal to the first edge is in the first bin.

    >>> [bin_of(score) for score in (0.0, 0.005, 0.0051, 0.3, 1.0)]
    [0, 0, 1, 6, 8]
    """
    return 0 if score <= edges[0] else bisect_right(edges, score)


def bin_labels(edges: Sequence[float] = BIN_EDGES) -> list[str]:
    """Return what the reader sees under each bin of `bin_of`.

    >>> bin_labels((0.005, 0.3))
    ['≤0.005', '0.005 to 0.3', '≥0.3']
    """
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"≤{edges[0]:g}", *inner, f"≥{edges[-1]:g}"]


def bin_counts(scores: Iterable[float], edges: Sequence[float] = BIN_EDGES) -> list[int]:
    """Count the scores in each bin.

    >>> bin_counts([0.0, 0.01, 0.9, 0.9], edges=(0.005, 0.3))
    [1, 1, 2]
    """
    counts = [0] * (len(edges) + 1)
    for score in scores:
        counts[bin_of(score, edges)] += 1
    return counts


def interval(pairs: Sequence[tuple[float, str]]) -> Interval | None:
    """Return the mean of (value, problem) pairs with its interval; None where there is none."""
    if not pairs:
        return None
    values, problems = zip(*pairs, strict=True)
    return cluster_bootstrap(list(values), list(problems))


def by_position(steps: Sequence[Step], n_bins: int = 5) -> list[tuple[int, Interval]]:
    """Return the mean score in each of `n_bins` equal stretches of the chain that has steps."""
    places: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for step in steps:
        places[part_of(step.position, n_bins)].append((step.tts, step.problem))
    found = ((place, interval(places[place])) for place in sorted(places))
    return [(place, score) for place, score in found if score is not None]


def part_of(position: float, n_parts: int) -> int:
    """Return which of `n_parts` equal stretches of 0..1 a position is in.

    >>> [part_of(position, 3) for position in (0.0, 0.4, 1.0)]
    [0, 1, 2]
    """
    return min(int(position * n_parts), n_parts - 1)


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Return the lines of the summary table: all steps, the subsets, then the controls."""
    subsets = {
        "All steps": rows,
        "Without steps that mention the answer": [r for r in rows if not r["mentions_answer"]],
        "Without saturated steps": [r for r in rows if not r["saturated"]],
        "Without either": [r for r in rows if not (r["mentions_answer"] or r["saturated"])],
        "Edited steps only": [r for r in rows if r["op"] == "edit"],
        "Dropped steps only": [r for r in rows if r["op"] == "drop"],
        "Verification steps only": [r for r in rows if r["verification"]],
    }
    steps = merge_seeds(rows)
    null = [(step.null, step.problem) for step in steps if step.null is not None]
    random = [(step.random, step.problem) for step in steps if step.random is not None]
    return [
        *(_summary(name, merge_seeds(subset)) for name, subset in subsets.items()),
        _control("Control: null rewrite", null),
        _control("Control: random step of another problem", random),
    ]


def _summary(name: str, steps: Sequence[Step]) -> Summary:
    return Summary(
        name=name,
        n_steps=len(steps),
        n_problems=len({step.problem for step in steps}),
        mean=interval([(step.tts, step.problem) for step in steps]),
        above_null=interval([(s.tts - s.null, s.problem) for s in steps if s.null is not None]),
        shares=shares([step.tts for step in steps]),
        nec=mean([step.nec for step in steps]),
        suf=mean([step.suf for step in steps]),
    )


def _control(name: str, pairs: Sequence[tuple[float, str]]) -> Summary:
    return Summary(
        name=name,
        n_steps=len(pairs),
        n_problems=len({problem for _, problem in pairs}),
        mean=interval(pairs),
        above_null=None,
        shares=shares([value for value, _ in pairs]),
        nec=None,
        suf=None,
    )


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Return the three sentences that head the report; none where no step was scored."""
    steps = merge_seeds(rows)
    return [_finding_mean(steps), _finding_shares(steps), _finding_place(steps)] if steps else []


def _finding_mean(steps: Sequence[Step]) -> Finding:
    line = _summary("", steps)
    nulls = [step.null for step in steps if step.null is not None]
    randoms = [step.random for step in steps if step.random is not None]
    title = f"Mean TTS is {number(line.mean and line.mean.estimate)}"
    title += f"; a null rewrite gives {number(mean(nulls))}" if nulls else "; no null rewrite ran"
    title += f", a random step {number(mean(randoms))}." if randoms else "."
    detail = f"95% interval over {count(line.n_problems, 'problem')}: {span(line.mean)}."
    if line.above_null is not None:
        beyond = (line.above_null.low or 0.0) > 0
        detail += f" Above the null rewrite by {number(line.above_null.estimate)}"
        detail += f" ({span(line.above_null)})"
        detail += "." if beyond else ", which does not exclude zero."
    return Finding(title, detail)


def _finding_shares(steps: Sequence[Step]) -> Finding:
    scores = [step.tts for step in steps]
    low, high, true = shares(scores) or (0.0, 0.0, 0.0)
    title = f"{percent(low)} of steps score at most {LOW:g}; {percent(high)} at least {HIGH:g}, "
    title += f"{percent(true)} at least {TRUE:g}."
    idle = [step for step in steps if step.tts <= LOW]
    saturated = sum("saturated" in step.flags for step in idle)
    detail = f"{len(idle)} of {count(len(steps), 'step')} hardly move the answer. Of those, "
    detail += f"{saturated} are flagged saturated, where low need not mean decorative."
    return Finding(title, detail)


def _finding_place(steps: Sequence[Step]) -> Finding:
    thirds = [[s.tts for s in steps if part_of(s.position, 3) == part] for part in range(3)]
    total = math.fsum(step.tts for step in steps)
    if total == 0:
        return Finding("No step moves the answer.", "Every score is exactly 0.")
    mass = [math.fsum(third) / total for third in thirds]
    names = ("first", "middle", "last")
    top = max(range(3), key=lambda part: mass[part])
    title = f"The {names[top]} third of the chains holds {percent(mass[top])} of all TTS."
    parts = (
        f"{name} {percent(part)} (from {percent(len(third) / len(steps))} of the steps)"
        for name, part, third in zip(names, mass, thirds, strict=True)
    )
    detail = f"Share of TTS by third: {', '.join(parts)}."
    nulls = [(s.null, part_of(s.position, 3)) for s in steps if s.null is not None]
    null = math.fsum(value for value, _ in nulls)
    if null > 0:
        there = math.fsum(value for value, part in nulls if part == top) / null
        detail += f" The null rewrite's own score: {percent(there)} in the {names[top]} third."
    return Finding(title, detail)


def number(value: float | int | None, digits: int = 3) -> str:
    """Write a number for a reader: a true minus, and a dash for none.

    >>> number(0.25), number(-0.0004), number(None) == DASH
    ('0.250', '0.000', True)
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text.replace("-", MINUS)


def percent(share: float) -> str:
    """Write a share of one as a whole percentage.

    >>> percent(0.125), percent(1 / 3)
    ('12%', '33%')
    """
    return f"{100 * share:.0f}%"


def span(score: Interval | None) -> str:
    """Write the ends of an interval, or that it has none."""
    if score is None or score.low is None:
        return "no interval"
    return f"{number(score.low)} to {number(score.high)}"


def count(n: int, noun: str) -> str:
    """Write a number of things.

    >>> count(1, "step"), count(2, "step")
    ('1 step', '2 steps')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
