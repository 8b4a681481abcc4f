"""Profiles from rows of step scores, all by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from interp.errors import InputError
from interp.results.step_profiles import (
    check_shares,
    missed_elsewhere,
    position_profile,
    quadrant,
    score_shares,
    two_leg_table,
)
from interp.results.thinking_findings import legs_finding
from tests.strategies import says

FEW = "only 2 problems: the interval is probably too narrow"


def row(problem: str, step: int, nec: float, suf: float, *, seed: int = 0, **flags) -> dict:
    """A row of the table `steps`, with what a profile reads."""
    plain = {"mentions_answer": False, "saturated": False, "verification": False, "position": 0.0}
    legs = {"nec": nec, "suf": suf, "tts": (abs(nec) + abs(suf)) / 2, "op": "edit"}
    return {"id": problem, "step": step, "seed": seed, **legs, **plain, **flags}


ROWS = [
    row("a", 0, 0.0, 0.0, position=0.0),
    row("a", 1, 0.8, 0.0, position=0.5),
    row("a", 2, 0.0, -0.6, position=1.0),
    row("b", 0, 0.0, 0.004, position=0.0),
    row("b", 1, 1.0, 1.0, position=1.0, verification=True),
]
"""Scores 0, 0.4, 0.3; 0.002, 1."""


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {each["name"]: each for each in rows}


# ---------------------------------------------------------------- position


def test_the_profile_averages_each_tenth():
    found = position_profile(ROWS)
    assert [each["part"] for each in found] == [0, 5, 9]
    assert [each["estimate"] for each in found] == pytest.approx([0.001, 0.4, 0.65])
    first, middle, last = found
    assert (first["start"], first["end"], last["end"]) == (0.0, 0.1, 1.0)
    assert (first["n"], first["n_problems"], first["warning"]) == (2, 2, FEW)
    assert (first["low"], first["high"]) == (0.0, 0.002)
    assert (middle["low"], middle["warning"]) == (None, "one problem: no interval")
    (whole,) = position_profile(ROWS, n_parts=1)
    assert whole["estimate"] == pytest.approx(1.702 / 5)


def test_draws_of_a_step_are_averaged_first():
    """Step 1 of a has draws 0.4 and 0: its score is 0.2, and it counts once."""
    rows = [*ROWS, row("a", 1, 0.0, 0.0, seed=1, position=0.5)]
    middle = position_profile(rows)[1]
    assert (middle["n"], middle["estimate"]) == (1, 0.2)


# ---------------------------------------------------------------- the two legs


def test_legs_count_by_size_from_above_the_threshold():
    cases = {(0.1, 0.1): "neither", (-0.11, 0): "nec only", (0, -0.11): "suf only"}
    for (nec, suf), expected in cases.items():
        assert quadrant(float(nec), float(suf), nec_high=0.1, suf_high=0.1) == expected
    assert quadrant(0.2, -0.2, nec_high=0.1, suf_high=0.1) == "both"
    assert quadrant(0.2, -0.2, nec_high=0.3, suf_high=0.1) == "suf only"


def test_the_table_and_what_one_leg_misses_by_hand():
    """Five steps: 2 neither, and one each of the rest. Of three high ones one is missed."""
    table = by_name(two_leg_table(ROWS))
    shares = {name: each["estimate"] for name, each in table.items()}
    assert shares == {
        "neither": 0.4,
        "suf only": 0.2,
        "nec only": 0.2,
        "both": 0.2,
        "missed by necessity": pytest.approx(1 / 3),
        "missed by sufficiency": pytest.approx(1 / 3),
    }
    assert (table["neither"]["n"], table["missed by necessity"]["n"]) == (5, 3)
    missed = table["missed by necessity"]
    assert (missed["low"], missed["high"], missed["n_problems"]) == (0.0, 0.5, 2)
    strict = by_name(two_leg_table(ROWS, nec_high=0.9, suf_high=0.5))
    assert {n: e["estimate"] for n, e in strict.items()} == {
        "neither": 0.6, "suf only": 0.2, "nec only": 0.0, "both": 0.2,
        "missed by necessity": 0.5, "missed by sufficiency": 0.0,
    }  # fmt: skip
    assert (strict["both"]["nec_high"], strict["both"]["suf_high"]) == (0.9, 0.5)


def test_the_published_table_gives_its_published_share():
    """Counts 7821, 217, 456 and 434 of 8,928 steps: a necessity-only test misses 217 of 1,107."""
    counts = {(0.0, 0.0): 782, (0.0, 0.5): 22, (0.5, 0.0): 46, (0.5, 0.5): 43}  # a tenth of each
    rows = [row("p", 0, *legs) for legs, n in counts.items() for _ in range(n)]
    rows = [{**each, "id": f"p{i % 30}", "step": i} for i, each in enumerate(rows)]
    table = by_name(two_leg_table(rows))
    assert table["missed by necessity"]["estimate"] == pytest.approx(0.196, abs=0.005)
    assert table["neither"]["estimate"] == pytest.approx(0.876, abs=0.001)
    assert table["neither"]["warning"] is None


def test_what_necessity_misses_is_told_at_other_splits_too():
    """One step high on both legs at 0.005; at 0.3 its necessity is no longer, at 1 none is."""
    rows = [row("a", 0, 0.2, 0.5), row("b", 0, 0.0, 0.0)]
    assert missed_elsewhere(rows) == [(0.005, 0.0), (0.3, 1.0)]
    assert missed_elsewhere(rows[1:]) == [(0.005, None), (0.3, None)]
    said = legs_finding(two_leg_table(rows), missed_elsewhere(rows))
    assert said.detail.startswith("Of 1 step of 1 problem")
    end = "A leg is high where its size is above 0.1; missed by necessity elsewhere: 0% at 0.005, "
    assert end + "100% at 0.3." in said.detail


def test_without_a_high_step_nothing_is_missed():
    rows = [row("a", i, 0.0, 0.0) for i in range(3)]
    assert [each["name"] for each in two_leg_table(rows)] == [
        "neither", "suf only", "nec only", "both"
    ]  # fmt: skip


# ---------------------------------------------------------------- scores


def test_shares_by_score_count_each_step_once():
    found = score_shares(ROWS)
    assert sum(each["count"] for each in found) == 5
    assert sum(each["estimate"] for each in found) == pytest.approx(1)
    counts = {(each["start"], each["end"]): each["count"] for each in found if each["count"]}
    assert counts == {(0.0, 0.005): 2, (0.1, 0.3): 1, (0.3, 0.5): 1, (0.9, 1.0): 1}
    edges = [row("a", i, x, x) for i, x in enumerate([0.0, 0.5, 1.0])]
    assert [e["count"] for e in score_shares(edges, edges=(0.0, 0.5, 1.0))] == [2, 1]


# ---------------------------------------------------------------- self-checks


def test_checks_are_counted_as_steps_as_segments_and_by_behaviour():
    rows = [*ROWS, row("b", 2, 0.0, 0.002, verification=True)]
    segments = [
        {"id": "a", "decorative": True},
        {"id": "a", "decorative": False},
        {"id": "b", "decorative": None},
        {"id": "b", "decorative": False},
    ]
    tests = [
        {"id": "a", "used": False, "informative": True},
        {"id": "b", "used": True, "informative": True},
        {"id": "b", "used": True, "informative": False},
    ]
    found = by_name(check_shares(rows, segments, tests))
    assert {name: (each["estimate"], each["n"]) for name, each in found.items()} == {
        "check steps decorative": (0.5, 2),
        "segments decorative": (pytest.approx(1 / 3), 3),
        "checks not used": (0.5, 2),
        "all steps decorative": (0.5, 6),
    }
    assert found["check steps decorative"]["n_problems"] == 1
    assert found["checks not used"]["warning"] == FEW


def test_a_line_without_a_unit_is_left_out():
    assert [each["name"] for each in check_shares(ROWS[:3])] == ["all steps decorative"]


# ---------------------------------------------------------------- rows, errors, no torch


def test_rows_are_flat():
    rows = [*position_profile(ROWS), *two_leg_table(ROWS), *score_shares(ROWS), *check_shares(ROWS)]
    scalars = (str, int, float, type(None))
    assert rows and all(isinstance(value, scalars) for each in rows for value in each.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: position_profile([]),
            "There is no step row to profile: give the table `steps` of a run.",
        ),
        (
            lambda: position_profile(ROWS, n_parts=0),
            "n_parts=0: cut the chain into at least 1 part, better 10.",
        ),
        (
            lambda: two_leg_table(ROWS, suf_high=1.5),
            "suf_high=1.5: a leg is a difference of probabilities, 0 to 1.",
        ),
        (
            lambda: score_shares(ROWS, edges=(0.0, 0.5, 0.4, 1.0)),
            "edges=(0.0, 0.5, 0.4, 1.0): give numbers that rise from 0 to 1.",
        ),
        (
            lambda: score_shares(ROWS, edges=(0.1, 1.0)),
            "edges=(0.1, 1.0): give numbers that rise from 0 to 1.",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with says(InputError, message):
        call()


def test_profiles_need_no_torch():
    code = "import sys, interp.results.step_profiles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
