"""Resampling importance: hand-worked distributions, a planted model, and plain Hugging Face."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import pytest
import torch

import interp
from interp.errors import EditError, InputError
from interp.thinking.relatives import resample as module
from interp.thinking.relatives.resample import (
    Rollout,
    accuracy,
    answer_kl,
    centred,
    importance,
    kinds,
    mean_hidden,
    null_kl,
    prefix,
    resample,
)
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, prepare

RULES = Rules()
PREMISE, AND, OR = "We take x = 17.", "Next, y = 27.", "The same way, z = 37."
IDLE = "A lamp costs 60 coins."


@pytest.fixture(scope="module")
def model():
    return interp.load("planted-steps")


def chain_of(model, *sentences: str, gold: str | None = None) -> Chain:
    rules = Rules(target="gold") if gold else RULES
    problem = Problem("q", "What is the total?", " ".join(sentences), gold=gold)
    return prepare(model, problem, rules)


def apart(texts):
    """Every text its own direction: any two texts that differ mean something else."""
    return torch.eye(len(texts))


def alike(texts):
    """All texts mean the same."""
    return torch.ones(len(texts), 2)


def rollouts(kept: int, answers, cosines=None) -> list[Rollout]:
    cosines = cosines or [None] * len(answers)
    return [
        Rollout("q", kept, i, "text", "step", answer, False, cosine)
        for i, (answer, cosine) in enumerate(zip(answers, cosines, strict=True))
    ]


# ----------------------------------------------------------------------------------- distributions


def test_answers_that_agree_are_one_kind_and_no_answer_is_a_kind():
    assert kinds(["1,000", None, "1000.0", "$1000", "7", None]) == [0, 1, 0, 0, 2, 1]
    assert accuracy(["18", "18.0", None, "20"], "18") == 0.5


def test_the_divergence_of_smoothed_shares_is_worked_out_by_hand():
    """Counts 1, 3 and 3, 1 plus 1/2 each over 5: 0.3 ln(0.3 / 0.7) + 0.7 ln(0.7 / 0.3)."""
    found = answer_kl(["1", "2", "2", "2"], ["1", "1", "1", "2"])
    assert found == pytest.approx(0.4 * math.log(7 / 3))
    # Other sizes: 0, 2 and 3, 1 give 0.5/3, 2.5/3 against 3.5/5, 1.5/5.
    uneven = answer_kl(["2", "2"], ["1", "1", "1", "2"])
    assert uneven == pytest.approx(math.log(5 / 21) / 6 + 5 / 6 * math.log(25 / 9))
    assert answer_kl(["1", None], ["1", None]) == 0.0
    assert answer_kl([None, None], ["1", "1"]) > 1


def test_the_null_is_what_chance_gives():
    """Two samples of two from {1, 1, 2, 2}: equal shares in 4 of 6 draws, else ln 5 * 2 / 3."""
    same, other = ["1", "2"], ["1", "2"]
    expected = 2 / 6 * (2 / 3) * math.log(5)
    assert null_kl(same, other, (0,)) == pytest.approx(expected, rel=0.25)  # 200 shuffles
    assert null_kl(same, other, (0,)) == null_kl(same, other, (0,))
    assert null_kl(["1"] * 4, ["1.0"] * 4, (0,)) == 0.0


def test_the_filter_keeps_the_resamples_that_mean_something_else(model):
    """Of four resamples two differ (0.1, 0.79): both answer 11, so all accuracy is lost."""
    chain = chain_of(model, PREMISE, AND)
    kept = rollouts(2, ["88", "88", "88", "11"])
    again = rollouts(1, ["11", "88", "88", "11"], [0.1, 0.8, 0.99, 0.79])
    found = importance(chain, 1, kept, again)
    assert (found.n_kept, found.n_resampled, found.n_different) == (4, 4, 2)
    assert (found.accuracy, found.different_accuracy) == (0.25, 0.75)
    assert found.kl == pytest.approx(0.5 * math.log(5 / 7) + 0.5 * math.log(5 / 3))
    assert found.different_kl == pytest.approx(math.log(5 / 21) / 6 + 5 / 6 * math.log(25 / 9))
    assert found.reason is None
    assert [value.measure for value in found.values] == list(module.MEASURES)
    assert [value.value for value in found.values] == [
        found.kl, 0.25, found.different_kl, 0.75
    ]  # fmt: skip


def test_where_no_resample_survives_there_is_no_value_but_a_reason(model):
    chain = chain_of(model, PREMISE, AND)
    again = rollouts(1, ["88", "11"], [0.8, 1.0])
    found = importance(chain, 1, rollouts(2, ["88", "88"]), again)
    why = "no resample means something else: all 2 have a cosine of 0.8 up"
    assert (found.n_different, found.different_kl, found.reason) == (0, None, why)
    assert [(v.value, v.reason) for v in found.values[2:]] == [(None, why), (None, why)]
    assert all(value.value is not None and value.reason is None for value in found.values[:2])


# --------------------------------------------------------------------------------------- planted


def test_the_step_that_settles_the_answer_is_found_and_no_other(model):
    """Only with 27 after 17 is the sum 2; before it every rollout ends in 11, after it in 88.

    Four of one kind against four of another: 4.5/5 ln 9 - 0.5/5 ln 9 = 0.8 ln 9.
    """
    chain = chain_of(model, IDLE, PREMISE, IDLE, AND, OR, IDLE)
    found = resample(model, chain, RULES, n=4, max_new_tokens=8, embed=apart)
    assert [each.step for each in found.importances] == list(range(6)) and found.marked == ()
    most = 0.8 * math.log(9)
    assert [each.kl for each in found.importances] == pytest.approx([0, 0, 0, most, 0, 0])
    assert [each.accuracy for each in found.importances] == [0, 0, 0, 1, 0, 0]
    assert [each.different_kl for each in found.importances] == pytest.approx([0, 0, 0, most, 0, 0])
    assert found.importances[3].kl_null < 0.5 * most
    assert found.importances[0].kl == 0.0 and found.importances[0].kl_null == 0.0
    assert {each.n_different for each in found.importances} == {4}


def test_a_harmful_step_has_negative_accuracy_and_a_positive_value(model):
    chain = chain_of(model, "The rule is proven.", "Now take away 47.", gold="88")
    found = resample(model, chain, Rules(target="gold"), n=3, max_new_tokens=8, embed=alike)
    assert [each.accuracy for each in found.importances] == [1, -1]
    assert [value.value for value in found.values if value.measure == "resampling_accuracy"] == [
        1, 1
    ]  # fmt: skip
    assert [each.n_different for each in found.importances] == [0, 0]


def test_a_model_that_ignores_its_chain_has_importances_of_exactly_zero():
    model = interp.load("planted-ignores")
    chain = chain_of(model, PREMISE, AND, IDLE)
    found = resample(model, chain, RULES, n=3, max_new_tokens=8, temperature=0.0, embed=apart)
    values = {value.value for value in found.values}
    assert values == {0.0} and len(found.values) == 12


# ------------------------------------------------------------------------------------------ laws


def test_a_step_does_not_depend_on_which_others_are_measured(model):
    chain = chain_of(model, PREMISE, AND, IDLE)
    settings = {"n": 3, "max_new_tokens": 6, "temperature": 3.0, "embed": apart}
    whole = resample(model, chain, RULES, **settings)
    alone = resample(model, chain, RULES, only=[1], **settings)
    assert alone.importances == whole.importances[1:2]
    assert {each.kept for each in alone.rollouts} == {1, 2}
    again = resample(model, chain, RULES, seed=1, **settings)
    assert [r.text for r in again.rollouts] != [r.text for r in whole.rollouts]
    assert resample(model, chain, RULES, **settings) == whole


def test_every_place_is_rolled_out_once_and_serves_two_steps(model):
    chain = chain_of(model, PREMISE, AND, IDLE)
    found = resample(model, chain, RULES, n=3, max_new_tokens=6, embed=apart)
    assert [(r.kept, r.index) for r in found.rollouts] == [
        (k, i) for k in range(4) for i in range(3)
    ]
    assert all(r.cosine is None for r in found.rollouts if r.kept == 3)
    assert all(r.forced for r in found.rollouts)


def test_a_prefix_loses_its_last_space_and_keeps_its_line_break(model):
    assert prefix(chain_of(model, PREMISE, AND), 1) == PREMISE
    assert prefix(chain_of(model, PREMISE, AND), 0) == ""
    lines = prepare(model, Problem("q", "What is the total?", f"{PREMISE}\n{AND}"), RULES)
    assert prefix(lines, 1) == PREMISE + "\n"


def test_a_place_that_fails_marks_its_two_steps_and_keeps_the_others(model, monkeypatch):
    chain = chain_of(model, PREMISE, AND, OR, IDLE)
    real = module._roll

    def fails(model, chain, rules, place, *rest):
        if place == 1:
            raise EditError("place 1 is broken.")
        return real(model, chain, rules, place, *rest)

    monkeypatch.setattr(module, "_roll", fails)
    found = resample(model, chain, RULES, n=2, max_new_tokens=6, embed=apart)
    assert [each.step for each in found.importances] == [2, 3]
    assert [(m.step, m.reason) for m in found.marked] == [
        (0, "place 1 is broken."), (1, "place 1 is broken.")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 1}, "n=1: a distribution of answers needs at least 2 rollouts."),
        ({"similar": 2.0}, "similar=2.0: a cosine lies between -1 and 1; give such as 0.8."),
        ({"only": [5]}, "The chain of q has no step 5: its 2 steps are numbered from 0 to 1."),
    ],
)
def test_wrong_settings_are_refused_before_the_model_writes(model, monkeypatch, settings, message):
    chain = chain_of(model, PREMISE, AND)
    monkeypatch.setattr(type(model), "generate", lambda *a, **k: pytest.fail("must not write"))
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        resample(model, chain, RULES, **settings)
    with pytest.raises(InputError, match=r"exceed the context of planted-steps, 1024: ask for fe"):
        resample(model, chain, RULES, max_new_tokens=1000)


def test_an_embedding_that_is_not_finite_or_short_is_refused(model):
    chain = chain_of(model, PREMISE, AND)
    for bad in (
        lambda texts: torch.zeros(1, 3),
        lambda texts: torch.full((len(texts), 2), math.nan),
    ):
        with pytest.raises(InputError, match=r"^The embedding gave \d+ vectors for \d+ texts, or"):
            resample(model, chain, RULES, n=2, max_new_tokens=4, embed=bad)


# -------------------------------------------------------------------------- plain Hugging Face


def test_the_embedding_is_the_mean_of_hugging_faces_last_hidden_state():
    model = interp.load("tiny-llama")
    text = "The sum is 12."
    ids = model.tokenizer(text)["input_ids"]
    with torch.no_grad():
        states = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    found = mean_hidden(model)([text, "So true."])
    torch.testing.assert_close(found[0], states[1:].mean(0), rtol=0, atol=1e-5)  # without <bos>
    assert found.shape == (2, model.sizes.d_model)
    around = centred(mean_hidden(model))([text, "So true."])
    torch.testing.assert_close(around[0], (found[0] - found[1]) / 2)


def test_greedy_rollouts_are_those_of_hugging_face():
    model = interp.load("tiny-llama")
    chain = prepare(
        model, Problem("q", "How many?", "One is 1. So 2. Then 3. The answer is 3."), RULES
    )
    found = resample(model, chain, RULES, n=2, max_new_tokens=6, temperature=0.0, embed=apart)
    for place in (0, 2):
        ids = model.tokenizer(
            chain.prompt + prefix(chain, place), add_special_tokens=False, return_tensors="pt"
        )["input_ids"]
        out: Any = cast(Any, model.hf).generate(
            ids, max_new_tokens=6, do_sample=False, pad_token_id=2
        )
        text = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert {r.text for r in found.rollouts if r.kept == place} == {text}
