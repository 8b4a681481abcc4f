"""Necessity on a subject whose steps are known, and its tables worked out by hand."""

from __future__ import annotations

import pytest
import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError
from interp.latent.calibration import calibrate
from interp.latent.interchange import hop_on
from interp.latent.necessity import TABLE, judged, necessity, summary
from interp.latent.operators import Resample, Rule, rotate, zero
from interp.latent.planted import zero_gain
from tests.latent_cases import (
    OTHERS,
    PROBLEMS,
    TASK,
    Hops,
    calibration,
    random_subject,
)

HOPS = Hops()
BANK = calibrate(HOPS, OTHERS)
MANY = TASK.draw(30, seed=4)


def test_each_donor_leads_where_the_planted_steps_lead():
    found = necessity(HOPS, MANY, BANK, ("resample",))
    edited = [row for row in found.rows if row["operator"] == "resample"]
    assert len(edited) == 30 * 4 * 3  # problems, steps, donors
    donors = {problem.id: problem for problem in OTHERS}
    problems = {problem.id: problem for problem in MANY}
    for row in edited:
        problem = problems[row["id"]]
        leads = hop_on(problem, donors[row["donor"]], row["step"])
        assert row["answer"] == leads
        assert row["flip"] == (leads != problem.answer) == row["clean_correct"] - row["correct"]
        assert (row["change"] > 0) == row["flip"]  # another node at step t, another answer
        assert row["consumed"] == 4
    assert {row["draw"] for row in edited} == {0, 1, 2}


def test_the_identity_flips_nothing_and_its_numbers_are_exactly_0():
    for kind in ("coconut", "pause"):
        for edge in ("input", "recurrence"):
            done = necessity(
                random_subject(kind), PROBLEMS[:3], calibration(kind), ("zero",), edge=edge
            )
            nulls = [row for row in done.rows if row["operator"] == "identity"]
            assert len(nulls) == 12
            names = ("kl", "kl_answer", "dlogp_sum", "dlogp_answer", "l2_answer", "change")
            assert {row[name] for row in nulls for name in names} == {0.0}
            assert all(row["answer"] == row["clean_answer"] for row in nulls)
            others = [row for row in done.rows if row["operator"] == "zero"]
            most = max(row["kl"] for row in others)
            if (kind, edge) == ("pause", "recurrence"):
                assert most == 0.0  # what a pause is fed does not depend on the slot before
            else:
                assert most > 1e-4


def test_a_vector_that_names_nothing_leaves_no_answer():
    found = necessity(HOPS, MANY, BANK, ("zero",), steps=(2,))
    table = {row["operator"]: row for row in found.summary(classes=8)}
    assert set(table) == {"zero", "identity"}
    assert table["zero"]["unparsable"] == 30 and table["zero"]["flip"] == 0.0
    assert (table["zero"]["accuracy"], table["zero"]["d_accuracy"]) == (0.0, -1.0)
    assert table["zero"]["kl"] == pytest.approx(zero_gain(8, Hops.gap), abs=1e-6)
    assert table["zero"]["change"] == 1.0  # the norm of a one-hot vector
    assert table["identity"]["same"] == 30 and table["identity"]["accuracy"] == 1.0
    assert table["zero"]["ceiling"] == 7 / 8


def test_a_row_in_which_an_edit_changes_nothing_is_marked_unless_a_donor_holds_the_same():
    """Zeros for one problem alone: the others have no edit that could flip them."""
    first = MANY[0].id

    def formula(h, at):
        keep = torch.tensor([key != first for key in at.keys])
        return h * keep[:, None, None]

    some = [Rule("some", formula), "resample"]
    found = necessity(HOPS, MANY, BANK, some, steps=(2,), draws=(0,))
    rows = [row for row in found.rows if row["operator"] == "some"]
    assert {row["id"] for row in rows if not row["reason"]} == {first}
    assert {row["reason"] for row in rows} == {"", "the edit changed nothing here"}
    table = {row["operator"]: row for row in found.summary()}
    assert (table["some"]["n_problems"], table["some"]["n_left_out"]) == (1, 29)
    assert (table["resample"]["n_problems"], table["resample"]["n_left_out"]) == (30, 0)
    assert any(r["change"] == 0 for r in found.rows if r["operator"] == "resample")
    assert (table["identity"]["n_rows"], table["identity"]["n_left_out"]) == (30, 0)


def test_operators_are_named_once():
    with pytest.raises(InputError, match=r"^Operators zero, zero: name each once\.$"):
        necessity(HOPS, MANY, BANK, ("zero", zero()))


def test_the_whole_thought_of_a_donor_is_swapped_in_from_one_donor():
    found = necessity(HOPS, MANY, BANK, ("swap",), draws=(0, 1))
    swapped = [row for row in found.rows if row["operator"] == "swap"]
    answers = {problem.id: problem.answer for problem in OTHERS}
    assert len(swapped) == 60 and all((r["step"], r["steps"]) == (0, "1+2+3+4") for r in swapped)
    assert all(row["answer"] == answers[row["donor"]] for row in swapped)
    (table,) = [row for row in found.summary() if row["operator"] == "swap"]
    assert (table["step"], table["n_rows"], table["n_problems"]) == (0, 60, 30)


def test_several_steps_are_edited_at_once():
    found = necessity(HOPS, MANY[:5], BANK, (Resample(), zero()), steps=((1, 3), 2), draws=(0,))
    table = {(row["operator"], row["steps"]): row for row in found.summary()}
    assert set(table) == {(o, s) for o in ("resample", "zero", "identity") for s in ("1+3", "2")}
    assert table["zero", "1+3"]["change"] == 1.0  # at step 3 a zero is fed already
    both = [r for r in found.rows if r["operator"] == "resample" and r["steps"] == "1+3"]
    assert all(row["step"] == 0 and "+" in row["donor"] for row in both if row["donor"])


def test_a_stratum_without_donors_is_marked_and_left_out():
    alike = [problem for problem in OTHERS if problem.answer == OTHERS[0].answer][:1]
    other = next(problem for problem in OTHERS if problem.answer != alike[0].answer)
    bank = calibrate(HOPS, [*alike, other])
    found = necessity(HOPS, MANY, bank, ("resample:same_answer",), steps=(1,), draws=(0,))
    for row in found.rows:
        if row["operator"] != "identity":
            fits = row["clean_answer"] in (alike[0].answer, other.answer)
            assert row["reason"] == ("" if fits else "no donor fits")
            assert (row["donor"] is not None) == fits == (row["change"] > 0)
            assert fits or not row["flip"]
    (table,) = [r for r in found.summary() if r["operator"] != "identity"]
    assert table["operator"] == "resample_same_answer"
    assert table["n_rows"] + table["n_left_out"] == 30 and 0 < table["n_rows"] < 30


def test_an_edit_that_can_change_nothing_is_marked_and_the_others_kept():
    found = necessity(random_subject("pause"), PROBLEMS, calibration("pause"), draws=(0,))
    table = {(row["operator"], row["step"]): row for row in found.summary()}
    silent = table["resample", 2]
    assert silent["flip"] is None and (silent["n_rows"], silent["n_left_out"]) == (0, 6)
    assert silent["warning"] == (
        "resample at step 2 on the edge 'input' changed nothing in any of 6 problems: a score of "
        "it would be a score of no edit."
    )
    assert table["zero", 2]["n_rows"] == 6 and table["zero", 2]["change"] > 0
    assert table["identity", 2]["flip"] == 0.0


def test_outcomes_are_told_apart():
    cases = {
        ("4", "5"): "right_wrong",
        ("5", "4"): "wrong_right",
        ("5", "6"): "wrong_other",
        ("5", "5"): "same",
        ("4", " 4"): "same",
        ("4", None): "unparsable",
        (None, "4"): "unparsable",
    }
    for (clean, edited), outcome in cases.items():
        found = judged(clean, edited, "4")
        assert found["outcome"] == outcome
        assert found["flip"] == (outcome in TABLE[:3])


def row(name: str, clean: str, edited: str, draw: int = 0, **changed: object) -> dict[str, object]:
    """One row as `necessity` writes it."""
    measures = ("kl", "kl_answer", "dlogp_sum", "dlogp_answer", "l2_answer", "change")
    return (
        {"id": name, "step": 1, "steps": "1", "operator": "zero", "edge": "input", "draw": draw}
        | judged(clean, edited, "4")
        | dict.fromkeys(measures, 1.0)
        | {"reason": ""}
        | changed
    )


def test_a_summary_is_as_worked_out_by_hand():
    rows = [
        row("a", "4", "5", kl=3.0),
        row("b", "5", "4"),
        row("c", "5", "6", kl=None),
        row("d", "4", "4", kl=2.0),
        row("e", "4", "4", reason="no donor fits"),
    ]
    (found,) = summary(rows, classes=4)
    assert (found["flip"], found["ceiling"], found["n_problems"]) == (0.75, 0.75, 4)
    assert (found["flip_low"], found["flip_high"]) == pytest.approx((0.30064, 0.95441), abs=1e-5)
    assert (found["accuracy"], found["clean_accuracy"], found["d_accuracy"]) == (0.5, 0.5, 0.0)
    assert [found[word] for word in TABLE] == [1, 1, 1, 1, 0]
    assert found["kl"] == 2.0 and found["n_left_out"] == 1
    assert found["warning"] == "only 4 problems: the interval is wide"


def test_donors_of_one_problem_are_no_independent_trials():
    rows = [row(str(i), "4", "5", draw) for i in range(10) for draw in range(3)]
    (all_flip,) = summary(rows)
    (once,) = summary(rows[::3])
    assert (all_flip["flip_low"], all_flip["flip"]) == (once["flip_low"], 1.0)
    half = [row(str(i), "4", "5" if i < 5 else "4", d) for i in range(10) for d in range(3)]
    (clustered,) = summary(half)
    (apart,) = summary([{**each, "id": str(i)} for i, each in enumerate(half)])
    assert clustered["flip_high"] - clustered["flip_low"] > 1.5 * (
        apart["flip_high"] - apart["flip_low"]
    )


def test_bad_problems_are_refused_with_the_reason_and_the_rest_kept():
    bad = LatentProblem("bad", " ", (), "a")
    found = necessity(random_subject(), [bad, *PROBLEMS[:2]], calibration(), ("zero",), steps=(1,))
    assert found.refused == {"bad": "Problem 'bad' has no question: give one, or leave it out."}
    assert {row["id"] for row in found.rows} == {problem.id for problem in PROBLEMS[:2]}


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"operators": ()}, InputError, "`operators` is empty: give at least one."),
        ({"seeds": ()}, InputError, "`seeds` is empty: give at least one."),
        ({"draws": ()}, InputError, "`draws` is empty: give at least one."),
        ({"steps": ()}, InputError, "`steps` is empty: give at least one, or None for all."),
        (
            {"operators": ("identity",)},
            InputError,
            "The identity alone was asked for, and it is always run: name another operator too.",
        ),
        (
            {"operators": ("zeros",)},
            EditError,
            "There is no operator 'zeros'; there are identity, zero, mean, mean_step, gaussian_h, "
            "gaussian, gaussian_mu, gaussian_mu_step, resample, swap, rotate, noise_norm, "
            "kv_mask, kv_swap. Did you mean 'zero'?",
        ),
        (
            {"steps": (5,)},
            EditError,
            "hops has steps 1 to 4, and zero is asked for step 5: name one of those.",
        ),
        (
            {"steps": ((2, 1),)},
            EditError,
            "A lane edits steps [2, 1]: name each step once, in order.",
        ),
        (
            {"edge": "kv"},
            EditError,
            "zero has no keys and values of its own for the edge 'kv': take the edge 'cache', or "
            "kv_mask or kv_swap.",
        ),
    ],
)
def test_bad_settings_are_refused_before_the_subject_runs(given, kind, message, monkeypatch):
    for call in ("prefill", "step", "close", "force", "decode"):
        monkeypatch.setattr(Hops, call, lambda *a: pytest.fail("the subject ran"))
    with pytest.raises(kind) as error:
        necessity(HOPS, MANY, BANK, **({"operators": ("zero",)} | given))
    assert str(error.value) == message


def test_problems_of_the_calibration_set_are_refused_before_the_subject_runs(monkeypatch):
    monkeypatch.setattr(Hops, "prefill", lambda *a: pytest.fail("the subject ran"))
    with pytest.raises(InputError, match="is scored and in the calibration set too"):
        necessity(HOPS, OTHERS, BANK)


def test_no_latents_means_nothing_to_edit():
    with pytest.raises(InputError, match=r"^no latents has no latent steps, so there is nothing"):
        necessity(random_subject("no_latents"), PROBLEMS, BANK)


def test_one_class_has_no_chance_ceiling():
    with pytest.raises(InputError) as error:
        summary([], classes=1)
    assert str(error.value) == "classes is 1: answers that can differ are 2 or more."


def test_seeds_of_noise_are_told_apart_and_repeatable():
    given = (random_subject(), PROBLEMS[:2], calibration(), (rotate(),))
    found = necessity(*given, steps=(2,), seeds=(0, 1))
    again = necessity(*given, steps=(2,), seeds=(1, 0))
    edited = {(r["id"], r["seed"]): r["kl"] for r in found.rows if r["operator"] == "rotate_45"}
    other = {(r["id"], r["seed"]): r["kl"] for r in again.rows if r["operator"] == "rotate_45"}
    assert len(edited) == 4 and len(set(edited.values())) == 4
    assert edited == pytest.approx(other, abs=1e-6)
