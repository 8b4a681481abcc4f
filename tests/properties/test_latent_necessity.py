"""Laws of necessity and early stop that hold for any answers, chunks and orders."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.latent.calibration import calibrate
from interp.latent.early_stop import commitment, curve
from interp.latent.necessity import TABLE, judged, necessity, summary
from tests.latent_cases import OTHERS, PROBLEMS, TASK, Hops, calibration, random_subject

ANSWERS = st.sampled_from(["1", "2", "3", None])
MEASURES = ("kl", "kl_answer", "dlogp_sum", "dlogp_answer", "l2_answer", "change")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=12))
def test_the_table_accounts_for_every_row_and_for_the_change_of_accuracy(pairs):
    rows = [
        {"id": str(i), "step": 1, "steps": "1", "operator": "zero", "edge": "input", "reason": ""}
        | judged(clean, edited, "1")
        | dict.fromkeys(MEASURES, 0.0)
        for i, (clean, edited) in enumerate(pairs)
    ]
    (found,) = summary(rows)
    n = len(rows)
    assert sum(found[word] for word in TABLE) == found["n_rows"] == n
    flips = found["right_wrong"] + found["wrong_right"] + found["wrong_other"]
    assert found["flip"] == pytest.approx(flips / n)
    assert 0 <= found["flip_low"] <= found["flip"] <= found["flip_high"] <= 1
    assert found["d_accuracy"] == pytest.approx(found["accuracy"] - found["clean_accuracy"])
    if not found["unparsable"]:
        gain = found["wrong_right"] - found["right_wrong"]
        assert found["d_accuracy"] == pytest.approx(gain / n)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.lists(ANSWERS, min_size=4, max_size=4), min_size=1, max_size=8))
def test_a_stop_curve_is_bounded_by_what_was_ever_right(stops):
    rows = [
        {"id": str(i), "k": k, "answer": answer, "correct": answer == "1", "next_correct": None}
        | {"unparsable": answer is None, "forced_correct": False}
        for i, answers in enumerate(stops)
        for k, answer in enumerate(answers)
    ]
    table, steps = curve(rows), commitment(rows)
    solved = [row["solved"] for row in table]
    assert solved == sorted(solved)
    assert all(row["accuracy"] <= row["solved"] for row in table)
    for k, row in enumerate(table):
        first = [s["first_right"] for s in steps]
        assert row["solved"] == pytest.approx(
            sum(f is not None and f <= k for f in first) / len(stops)
        )
    assert table[-1]["retention"] in (None, 1.0)
    lost = sum(step["lost"] for step in steps) / len(stops)
    assert solved[-1] - table[-1]["accuracy"] == pytest.approx(lost)


def numbers(rows, *names):
    """Values by what identifies a row, the identity's passes apart."""
    return {
        (r["id"], r["steps"], r["operator"], r["seed"], r["draw"]): [r[n] for n in names]
        for r in rows
        if r["operator"] != "identity"
    }


@settings(deadline=None, derandomize=True, max_examples=3)
@given(st.integers(2, 40), st.permutations(range(4)))
def test_neither_rows_of_a_pass_nor_the_order_of_problems_changes_a_number(rows, order):
    subject, bank = random_subject(), calibration()
    given_ = (bank, ("zero", "resample", "rotate"))
    whole = necessity(subject, PROBLEMS[:4], *given_, steps=(2,), draws=(0, 1))
    cut = necessity(
        subject, [PROBLEMS[i] for i in order], *given_, steps=(2,), draws=(0, 1), rows=rows
    )
    mine, theirs = numbers(whole.rows, "kl", "logprob"), numbers(cut.rows, "kl", "logprob")
    assert mine.keys() == theirs.keys() and len(mine) == 16
    for key, values in mine.items():
        assert values == pytest.approx(theirs[key], rel=1e-4, abs=1e-5)  # float32
    assert numbers(whole.rows, "donor", "answer") == numbers(cut.rows, "donor", "answer")


@settings(deadline=None, derandomize=True, max_examples=6)
@given(st.integers(2, 30), st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True))
def test_the_identity_is_exactly_0_in_passes_of_any_size(rows, steps):
    subject = Hops()
    found = necessity(
        subject,
        TASK.draw(5, seed=6),
        calibrate(subject, OTHERS),
        ("resample",),
        steps=(tuple(sorted(steps)),),
        rows=rows,
    )
    nulls = [row for row in found.rows if row["operator"] == "identity"]
    assert len({row["id"] for row in nulls}) == 5
    assert len({(row["id"], row["draw"]) for row in nulls}) == len(nulls)
    assert {row[name] for row in nulls for name in (*MEASURES, "flip")} == {0.0}
