"""The diagnostic preset shows its artefact: an identity that is not 0, and sums that look local."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from interp.errors import InputError
from interp.latent.calibration import calibrate
from interp.latent.influence import influence
from interp.latent.interventions import base_run
from interp.latent.planted import Planted, swap_class, swap_gain
from interp.latent.released import released_early_stop, released_influence, summed_shape
from interp.latent.shape import Matrix, matrix
from tests.latent_cases import PROBLEMS, calibration, random_subject

COUNTS = {1: 83, 2: 357, 3: 364, 4: 290, 5: 138, 6: 57 + 21 + 9}
"""Problems of the GSM8k test set by their number of steps, those above 6 cut there."""


@pytest.fixture(autouse=True, scope="module")
def short_answers() -> Iterator[None]:
    """Random models never end a text, and none is read here beyond a few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.latent.hf.MAX_NEW_TOKENS", 3)
        yield


def chains(effect) -> Matrix:
    """Explicit chains with these step counts; an edge of a problem has `effect(s - t)`."""
    items = []
    for n_steps, n in COUNTS.items():
        one = np.full((6, 6), np.nan)
        for t in range(1, n_steps + 1):
            for s in range(t + 1, n_steps + 1):
                one[t - 1, s - 1] = effect(s - t)
        items += [one] * n
    ids = tuple(map(str, range(len(items))))
    return Matrix("zero", "input", "kl", ids, np.array(items))


def test_sums_over_problems_look_local_where_every_edge_is_alike():
    alike = chains(lambda distance: 1.0)
    found = summed_shape(alike)
    assert found is not None
    assert [round(found[name], 2) for name in ("locality", "span", "late_in")] == [0.50, 1.79, 0.07]
    # Means over the problems that have the edge say what is true: every edge is alike.
    assert np.unique(alike.mean()[np.triu_indices(6, 1)]).tolist() == [1.0]


def test_sums_of_an_effect_on_the_next_step_only_diluted_over_the_joined_text():
    found = summed_shape(chains(lambda distance: 1 / distance))
    assert found is not None
    assert [round(found[name], 2) for name in ("locality", "span", "late_in")] == [0.71, 1.41, 0.05]


@pytest.mark.parametrize("kind", ["coconut", "codi"])
def test_the_released_identity_is_clearly_not_zero_where_ours_is(kind):
    subject, bank = random_subject(kind), calibration(kind)
    ours = influence(subject, PROBLEMS, bank, operators=("zero",))
    theirs = released_influence(subject, PROBLEMS, bank, operators=("zero",))
    assert ours.null() == 0.0
    identity = matrix(theirs.rows, "identity").mean()[np.triu_indices(4, 1)]
    assert identity.min() > 1e-4
    zero = matrix(theirs.rows, "zero").mean()[np.triu_indices(4, 1)]
    assert np.all(identity > 0.2 * zero)  # a no-op makes much of the released value
    assert all(each["preset"] == "released-code" and each["diagnostic"] for each in theirs.rows)
    assert theirs.settings["preset"] == "released-code" and theirs.settings["diagnostic"] is True
    assert {(each["t"], each["s"]) for each in theirs.rows} == {
        (t, s) for t in (1, 2, 3) for s in range(t + 1, 5)
    }


def test_codis_released_identity_is_one_number_a_column():
    """It compares the clean read-outs after s - 1 and after s steps, whatever t is."""
    theirs = released_influence(
        random_subject("codi"), PROBLEMS, calibration("codi"), operators=("zero",)
    )
    weights = matrix(theirs.rows, "identity").mean()
    for s in (2, 3):
        assert np.ptp(weights[:s, s]) < 1e-5 < weights[0, s]
    assert abs(weights[0, 2] - weights[0, 3]) > 1e-5


def test_the_off_by_one_on_a_planted_window_worked_out_by_hand():
    """A read-out combines slots s - 1 and s, so from s - 1 to s it moves where the sums differ."""
    subject = Planted("window")
    bank = calibrate(subject, subject.draw(12, seed=1))
    problems = subject.draw(10)
    theirs = released_influence(subject, problems, bank, operators=(swap_class(),))
    for each in theirs.rows:
        numbers = [
            int(n) for n in next(p for p in problems if p.id == each["id"]).question.split()[:4]
        ]
        t, s = each["t"], each["s"]
        before = sum(numbers[max(0, s - 3) : s - 1])
        after = sum(numbers[s - 2 : s]) + (each["operator"] != "identity" and t >= s - 1)
        wanted = swap_gain(5, 3.0) * ((after - before) % 5 != 0)
        assert each["kl"] == pytest.approx(wanted, abs=1e-6)


def test_coconuts_released_first_token_is_the_same_for_every_operator():
    """Before the last step, a target of one token sees only the stored output of step t."""
    subject, bank = random_subject(), calibration()
    found = released_influence(subject, PROBLEMS, bank, operators=("zero", "rotate"))
    answers = {
        name: matrix(found.rows, name, measure="kl_answer").mean()[np.triu_indices(4, 1)]
        for name in ("zero", "rotate_45", "identity")
    }
    np.testing.assert_allclose(answers["zero"], answers["identity"], atol=1e-6)
    np.testing.assert_allclose(answers["rotate_45"], answers["identity"], atol=1e-6)
    whole = matrix(found.rows, "zero").mean()[np.triu_indices(4, 1)]
    assert np.abs(whole - answers["identity"] / 2).max() > 1e-4  # the end of text does see the edit


def test_the_released_early_stop_is_the_normal_run_only_after_the_last_step():
    subject = random_subject()
    rows = released_early_stop(subject, PROBLEMS, placeholder="<latent>")
    assert [each["k"] for each in rows] == [k for k in range(5) for _ in PROBLEMS]
    assert [each["answer"] for each in rows if each["k"] == 4] == list(
        base_run(subject, PROBLEMS).answers
    )
    cut = [each["answer"] for each in rows if each["k"] == 1]
    assert cut != [each["answer"] for each in rows if each["k"] == 4]
    assert all(each["preset"] == "released-code" for each in rows)
    with pytest.raises(
        InputError, match=r"^'ab ba' is 2 tokens of the tokenizer, and a placeholder is one"
    ):
        released_early_stop(subject, PROBLEMS, placeholder="ab ba")
    with pytest.raises(
        InputError, match=r"^The released-code early stop is Coconut's, and a random codi is"
    ):
        released_early_stop(random_subject("codi"), PROBLEMS)
