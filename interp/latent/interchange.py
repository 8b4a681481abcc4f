"""What a latent step holds: does another problem's step bring that problem's content along?

do(h_t := h_t of a donor). If h_t holds a value and nothing else, the recipient goes on from the
donor's value by its own rules, and the answer can be told before the model runs. `expected` tells
it. Beside the share of answers that are as told stand two nulls: how often the answer is as told
of a problem that was not the donor, and how often the unedited answer is as told already.

Source: interchange interventions, Geiger et al. 2021, arXiv:2106.02997.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.data.cycle_hop import CycleProblem
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import Calibration
from interp.latent.effects import columns, same, share
from interp.latent.interventions import ROWS, Edge
from interp.latent.necessity import DRAWS, necessity
from interp.latent.subject import Subject

Row = dict[str, Any]

Expected = Callable[[Any, Any, int], str | None]
"""From the problem, its donor and the step to the answer that the donor's step should lead to;
None where the theory says nothing."""


@dataclass(frozen=True)
class Interchange:
    """What each donor's step made of each problem's answer."""

    rows: tuple[Row, ...]
    """One for each problem, step and donor; see `interchange`."""
    refused: Mapping[str, str]
    """Problems that could not run, and why."""

    def summary(self) -> list[Row]:
        """See `summary`."""
        return summary(self.rows)


def interchange(
    subject: Subject,
    problems: Sequence[LatentProblem],
    calibration: Calibration,
    expected: Expected,
    *,
    edge: Edge = "input",
    draws: Sequence[int] = DRAWS,
    rows: int = ROWS,
) -> Interchange:
    """Give each problem the steps of donors, one at a time, and compare with a theory.

    Args:
        subject: any with steps.
        problems: those to score; none may be in the calibration set.
        calibration: of this subject; its problems are the donors.
        expected: the theory.
        edge: what the edits reach.
        draws: donors of each problem.
        rows: most rows of a pass.

    Returns:
        Rows with `id`, `step`, `draw`, `donor`, `clean_answer`, `answer`, `expected`, `hit`,
        `null_donor` and `null_hit` (the theory's answer for a problem that was not the donor),
        `clean_hit` (the unedited answer is as expected already).

    Raises:
        InputError, EditError: see `necessity`.
    """
    done = necessity(
        subject, problems, calibration, ("resample",), edge=edge, draws=draws, rows=rows
    )
    by_id = {problem.id: problem for problem in problems}
    donors = {problem.id: i for i, problem in enumerate(calibration.problems)}
    found = []
    for row in done.rows:
        if row["operator"] == "identity" or row["reason"]:
            continue
        problem, place = by_id[row["id"]], donors[row["donor"]]
        donor, other = (calibration.problems[i % len(donors)] for i in (place, place + 1))
        theory = expected(problem, donor, row["step"])
        null = expected(problem, other, row["step"])
        found.append(_row(row, other.id, theory, null))
    return Interchange(tuple(found), done.refused)


def _row(row: Row, other: str, theory: str | None, null: str | None) -> Row:
    kept = ("id", "step", "edge", "draw", "donor", "clean_answer", "answer", "unparsable")
    return {name: row[name] for name in kept} | {
        "expected": theory,
        "hit": None if theory is None else same(row["answer"], theory),
        "null_donor": other,
        "null_hit": None if null is None else same(row["answer"], null),
        "clean_hit": None if theory is None else same(row["clean_answer"], theory),
    }


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row for each step and edge.

    Returns:
        `hit` with its interval; `told`, the same over rows whose unedited answer was another, so
        that doing nothing scores 0; the nulls `null_hit` and `clean_hit`; counts; `warning`.
    """
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["edge"]), []).append(row)
    return [
        {"step": step, "edge": edge} | _summed(groups[step, edge]) for step, edge in sorted(groups)
    ]


def _summed(group: Sequence[Row]) -> Row:
    told = [row for row in group if row["hit"] is not None]
    moved = [row for row in told if not row["clean_hit"]]
    nulls = [row for row in group if row["null_hit"] is not None]
    found = _share(told, "hit")
    return (
        columns("hit", found)
        | columns("told", _share(moved, "hit"))
        | columns("null_hit", _share(nulls, "null_hit"))
        | columns("clean_hit", _share(told, "clean_hit"))
        | {"n_problems": len({row["id"] for row in told}), "n_rows": len(told)}
        | {"n_told": len(moved), "n_left_out": len(group) - len(told)}
        | {"warning": (found.warning or "") if found else "the theory says nothing here"}
    )


def _share(rows: Sequence[Row], name: str) -> Any:
    return share([row[name] for row in rows], [row["id"] for row in rows]) if rows else None


def hop_on(problem: LatentProblem, donor: LatentProblem, step: int) -> str:
    """Theory for cycle-hop: h_t holds the node f^t; the recipient hops on along its own cycle.

    >>> from interp.data.cycle_hop import CycleHop
    >>> mine, theirs = CycleHop(n_nodes=4, hops=2).draw(2)
    >>> mine.path, theirs.path
    (('c', 'b', 'd'), ('d', 'c', 'b'))
    >>> hop_on(mine, theirs, 1)
    'b'

    Raises:
        InputError: the problems are not of cycle-hop, or their cycles have other nodes.
    """
    if not isinstance(problem, CycleProblem) or not isinstance(donor, CycleProblem):
        raise InputError(
            f"Problem {problem.id!r} or its donor {donor.id!r} is no cycle-hop problem: draw both "
            "with CycleHop, or give a theory of your own."
        )
    follows, node = dict(problem.edges), donor.path[step]
    for _ in range(len(problem.steps) - step):
        if node not in follows:
            raise InputError(
                f"Node {node!r} of {donor.id!r} is not on the cycle of {problem.id!r}: draw "
                "donors from a task with the same nodes."
            )
        node = follows[node]
    return node
