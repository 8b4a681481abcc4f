"""Profiles drawn from records of step scores: by position, by leg, by score, and of self-checks.

Rows in, rows out: the rows of the table `steps` (one a step and draw), of segments and of check
tests. No model, no torch. A step is first averaged over its draws; every interval resamples
problems. Scores are on the probability scale, 0 to 1.

Source of the figures: Zhao et al. 2025, arXiv:2510.24941: score by position, the two legs
(figure 2b), shares by score, decorative self-checks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from interp.errors import InputError
from interp.results.report_stats import LOW, Row, Step, merge_seeds, part_of
from interp.stats import Interval, cluster_bootstrap

LEG_HIGH = 0.1
"""A leg is high from above this on. The paper does not state its split, so the choice is ours, and
what is missed at `OTHER_SPLITS` is told beside it."""

OTHER_SPLITS = (0.005, 0.3)
"""The scores up to which the paper calls a step decorative, and from which it shows it as true."""

SCORE_EDGES = (0.0, LOW, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Bins of the score: the first holds both its ends, the others what lies above their lower end."""


@dataclass(frozen=True)
class Share:
    """A mean or a share over steps, with its interval, and what it counts."""

    name: str
    n: int
    """Steps, segments or tests that count."""
    value: Interval

    def row(self) -> dict[str, Any]:
        """Return one flat record."""
        found = self.value
        about = {"name": self.name, "n": self.n, "n_problems": found.n_units}
        ends = {"estimate": found.estimate, "low": found.low, "high": found.high}
        return {**about, **ends, "warning": found.warning}


# ------------------------------------------------------------------------------------- position


def position_profile(rows: Sequence[Row], *, n_parts: int = 10) -> list[dict[str, Any]]:
    """Return the mean score in each tenth of the chain, from its start to its end.

    Args:
        rows: of the table `steps`; `position` is 0 at the first step and 1 at the last.
        n_parts: equal stretches of the chain. One without a step is left out.

    Returns:
        Rows `part`, `start`, `end`, `n`, `n_problems`, `estimate`, `low`, `high`, `warning`.

    Raises:
        InputError: no row, or no part.
    """
    if n_parts < 1:
        raise InputError(f"n_parts={n_parts}: cut the chain into at least 1 part, better 10.")
    parts: dict[int, list[Step]] = {}
    for step in _steps(rows):
        parts.setdefault(part_of(step.position, n_parts), []).append(step)
    found = []
    for part, steps in sorted(parts.items()):
        ends = {"part": part, "start": part / n_parts, "end": (part + 1) / n_parts}
        found.append({**ends, **_mean_of(f"part {part}", steps, lambda step: step.tts).row()})
    return found


# ----------------------------------------------------------------------------------- the two legs

QUADRANTS = ("neither", "suf only", "nec only", "both")
"""Which legs of a step are high."""


def quadrant(nec: float, suf: float, *, nec_high: float, suf_high: float) -> str:
    """Return which legs are high: legs count without their sign, from above the threshold.

    >>> quadrant(-0.4, 0.005, nec_high=0.1, suf_high=0.005)
    'nec only'
    """
    return QUADRANTS[2 * (abs(nec) > nec_high) + (abs(suf) > suf_high)]


def two_leg_table(
    rows: Sequence[Row], *, nec_high: float = LEG_HIGH, suf_high: float = LEG_HIGH
) -> list[dict[str, Any]]:
    """Return the share of steps in each quadrant, then what a test of one leg alone misses.

    `missed by necessity` is the share of the steps high on either leg that are high on sufficiency
    only; `missed by sufficiency` the same of necessity. Both are left out where no step is high.

    Args:
        rows: of the table `steps`.
        nec_high, suf_high: a leg is high where its size is above this.

    Returns:
        Rows `name`, `n`, `n_problems`, `estimate`, `low`, `high`, `warning`, and the thresholds.
        `n` is the steps that the share is taken of.

    Raises:
        InputError: no row, or a threshold outside 0..1.
    """
    for name, value in (("nec_high", nec_high), ("suf_high", suf_high)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}: a leg is a difference of probabilities, 0 to 1.")
    steps = _steps(rows)
    where = [quadrant(step.nec, step.suf, nec_high=nec_high, suf_high=suf_high) for step in steps]
    problems = [step.problem for step in steps]
    found = [_share(name, [each == name for each in where], problems) for name in QUADRANTS]
    either = [(each, p) for each, p in zip(where, problems, strict=True) if each != "neither"]
    for name, only in (("missed by necessity", "suf only"), ("missed by sufficiency", "nec only")):
        if either:
            found.append(_share(name, [each == only for each, _ in either], [p for _, p in either]))
    return [{**share.row(), "nec_high": nec_high, "suf_high": suf_high} for share in found]


def missed_elsewhere(rows: Sequence[Row]) -> list[tuple[float, float | None]]:
    """Return what a test of necessity alone misses at each of `OTHER_SPLITS`; None of no step."""
    found = []
    for split in OTHER_SPLITS:
        lines = two_leg_table(rows, nec_high=split, suf_high=split)
        missed = {line["name"]: line["estimate"] for line in lines}
        found.append((split, missed.get("missed by necessity")))
    return found


# ---------------------------------------------------------------------------------------- scores


def score_shares(
    rows: Sequence[Row], *, edges: Sequence[float] = SCORE_EDGES
) -> list[dict[str, Any]]:
    """Return the share of steps whose score lies in each bin.

    Args:
        rows: of the table `steps`.
        edges: rising, from 0 to 1. A bin holds its upper edge, the first also its lower one.

    Returns:
        Rows `start`, `end`, `count`, and those of `Share.row`.

    Raises:
        InputError: no row, or edges that do not rise from 0 to 1.
    """
    if list(edges) != sorted(set(edges)) or len(edges) < 2 or (edges[0], edges[-1]) != (0, 1):
        raise InputError(f"edges={tuple(edges)}: give numbers that rise from 0 to 1.")
    steps = _steps(rows)
    problems, found = [step.problem for step in steps], []
    for start, end in pairwise(edges):
        inside = [start < step.tts <= end or step.tts == start == 0 for step in steps]
        share = _share(f"{start:g} to {end:g}", inside, problems)
        found.append({"start": start, "end": end, "count": sum(inside), **share.row()})
    return found


# ----------------------------------------------------------------------------------- self-checks


def check_shares(
    steps: Sequence[Row], segments: Sequence[Row] = (), tests: Sequence[Row] = ()
) -> list[dict[str, Any]]:
    """Return how many self-checks are decorative: as steps, as segments, and by behaviour.

    A unit of one kind is not a unit of another, so the shares must not be compared with each other
    nor with the share of all steps, which is given as the fourth line to say so.

    Args:
        steps: rows of the table `steps`; those with `verification` are the check steps.
        segments: rows of `thinking.checks.Segment`; those without a verdict do not count.
        tests: rows of `thinking.checks.CheckTest`; only the informative ones count.

    Returns:
        Rows as of `Share.row`; a line without a unit is left out.

    Raises:
        InputError: no step row.
    """
    every = _steps(steps)
    checks = [step for step in every if "verification" in step.flags]
    whole = [row for row in segments if row["decorative"] is not None]
    asked = [row for row in tests if row["informative"]]
    lines: list[tuple[str, list[bool], list[Hashable]]] = [
        ("check steps decorative", [s.tts <= LOW for s in checks], [s.problem for s in checks]),
        ("segments decorative", [row["decorative"] for row in whole], [r["id"] for r in whole]),
        ("checks not used", [not row["used"] for row in asked], [row["id"] for row in asked]),
        ("all steps decorative", [s.tts <= LOW for s in every], [s.problem for s in every]),
    ]
    return [_share(*line).row() for line in lines if line[1]]


# ---------------------------------------------------------------------------------------- shared


def _steps(rows: Sequence[Row]) -> list[Step]:
    """The steps, each averaged over its draws."""
    if not rows:
        raise InputError("There is no step row to profile: give the table `steps` of a run.")
    return merge_seeds(rows)


def _mean_of(name: str, steps: Sequence[Step], value: Callable[[Step], float]) -> Share:
    values = [value(step) for step in steps]
    return Share(name, len(steps), cluster_bootstrap(values, [step.problem for step in steps]))


def _share(name: str, hits: Sequence[bool], problems: Sequence[Hashable]) -> Share:
    return Share(name, len(hits), cluster_bootstrap([float(hit) for hit in hits], problems))
