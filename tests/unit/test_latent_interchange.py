"""Interchange: found where steps hold what the theory says, not found where they do not."""

from __future__ import annotations

import pytest

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import calibrate
from interp.latent.interchange import hop_on, interchange, summary
from tests.latent_cases import TASK, Hops, random_subject

MANY, DONORS = TASK.draw(40, seed=1), TASK.draw(30, seed=2)


def test_the_planted_subject_answers_as_the_donors_step_tells():
    subject = Hops()
    found = interchange(subject, MANY, calibrate(subject, DONORS), hop_on)
    table = found.summary()
    assert [row["step"] for row in table] == [1, 2, 3, 4]
    for row in table:
        assert (row["hit"], row["told"]) == (1.0, 1.0)
        assert row["null_hit"] < 0.35 and row["clean_hit"] < 0.35  # by chance 1/8
        assert (row["n_problems"], row["n_rows"], row["warning"]) == (40, 120, "")
        assert row["n_told"] == 120 - round(120 * row["clean_hit"])


def test_the_theory_of_the_wrong_step_is_not_borne_out():
    subject = Hops()

    def late(problem, donor, step):
        return hop_on(problem, donor, max(step - 1, 0))  # as if h_t held f^(t-1)

    table = interchange(subject, MANY, calibrate(subject, DONORS), late).summary()
    assert all(row["told"] < 0.5 for row in table)


def test_keys_and_values_alone_carry_the_last_step_only():
    subject = Hops()
    bank = calibrate(subject, DONORS)
    cache = interchange(subject, MANY, bank, hop_on, edge="cache", draws=(0,)).summary()
    assert [row["told"] for row in cache] == [0.0, 0.0, 0.0, 1.0]
    onward = interchange(subject, MANY, bank, hop_on, edge="recurrence", draws=(0,)).summary()
    assert [row["told"] for row in onward] == [1.0, 1.0, 1.0, 0.0]


def test_a_random_model_does_not_follow_the_donor():
    subject = random_subject()
    table = interchange(subject, MANY[:20], calibrate(subject, DONORS), hop_on).summary()
    assert all(row["told"] <= 0.2 for row in table)


def test_rows_say_who_gave_and_what_was_expected():
    subject = Hops()
    row = interchange(subject, MANY, calibrate(subject, DONORS), hop_on).rows[0]
    donor = next(problem for problem in DONORS if problem.id == row["donor"])
    mine = next(problem for problem in MANY if problem.id == row["id"])
    assert row["expected"] == hop_on(mine, donor, row["step"]) == row["answer"]
    assert row["clean_answer"] == mine.answer and row["null_donor"] != row["donor"]


def test_a_theory_may_say_nothing():
    subject = Hops()
    bank = calibrate(subject, DONORS)
    found = interchange(subject, MANY[:4], bank, lambda p, d, t: None, draws=(0,)).summary()
    assert found[0]["hit"] is None and found[0]["n_left_out"] == 4
    assert found[0]["warning"] == "the theory says nothing here"
    assert summary([]) == []


def test_only_problems_of_the_task_have_its_theory():
    with pytest.raises(InputError) as error:
        hop_on(LatentProblem("x", "q", (), "a"), MANY[0], 1)
    assert str(error.value) == (
        "Problem 'x' or its donor 'cycle-8-4-1-0' is no cycle-hop problem: draw both with "
        "CycleHop, or give a theory of your own."
    )
