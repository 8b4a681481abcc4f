"""Early answering: the curve by hand on the planted model, commitment, areas and marks."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from interp.errors import InputError
from interp.models import planted
from interp.thinking.relatives.early import (
    CHAIN_MEASURES,
    area_over,
    commitment,
    early_answering,
)
from interp.thinking.relatives.readout import UNREADABLE, Reader
from interp.thinking.relatives.values import ChainValue, StepEffect, StepValue, step_values
from interp.thinking.rules import Rules, preset
from interp.thinking.score import Chain, Problem, prepare
from interp.thinking.steps import segment
from tests.strategies import says, tiny

RULES = Rules()


def model_of(name: str = "planted-steps"):
    return tiny(name)


def evidence(text: str) -> int:
    """S, counted by hand from the text."""
    return sum(planted.EVIDENCE.get(word, 0) for word in re.findall(r"\d+|[a-z]+", text))


def passes(text: str) -> bool:
    return evidence(text) > planted.THRESHOLD


def chain_of(each, name: str = "planted-steps") -> Chain:
    return prepare(model_of(name), Problem(each.id, each.question, each.chain), RULES)


def made_up(model, text: str, answer: str = "33") -> Chain:
    """A chain of a random model, whose own answer cannot be read."""
    steps = tuple(segment(text))
    return Chain(Problem("p", "How many?"), model.chat("How many?"), text, steps, answer, "gold")


@pytest.mark.parametrize("each", planted.chains(6), ids=lambda each: each.id)
def test_the_planted_model_commits_at_the_step_that_decides(each):
    chain = chain_of(each)
    found = early_answering(model_of(), chain, RULES)
    after = [passes(chain.text[:end]) for end in (0, *(step.end for step in chain.steps))]
    decided = max((i for i, yes in enumerate(after) if not yes), default=-1) + 1
    assert found.commitment == decided > 0 and found.own
    assert [point.kept for point in found.points] == list(range(len(chain.steps) + 1))
    for point, yes in zip(found.points, after, strict=True):
        assert point.answer == ("88" if yes else "11") and point.final == yes
        assert math.exp(point.logprob) == pytest.approx(int(yes), abs=0.02)
    for effect in found.effects:
        change = after[effect.step + 1] - after[effect.step]
        assert effect.effect == pytest.approx(change, abs=0.02)
        assert effect.answer_changed == (change != 0)
        assert effect.control == pytest.approx(0, abs=1e-6)  # filler is no evidence
        if each.kinds[effect.step] == "decorative":
            assert effect.effect == pytest.approx(0, abs=1e-6)
    assert [v.value for v in found.values] == [abs(e.effect) for e in found.effects]


def test_a_model_that_ignores_its_chain_commits_before_the_first_step():
    chain = chain_of(planted.chains(2)[1], "planted-ignores")
    found = early_answering(model_of("planted-ignores"), chain, RULES)
    assert found.commitment == 0 and found.own
    assert [value.value for value in found.values] == pytest.approx([0] * 6, abs=1e-6)
    aoc, *others = found.chain_values
    assert aoc.value == pytest.approx(1 - 0.88, abs=0.01)
    assert [(v.measure, v.value) for v in others] == [(m, 0.0) for m in CHAIN_MEASURES[1:]]


def test_the_measures_of_a_chain_are_those_of_its_curve():
    """S after 0 to 5 steps is 0 2 2 0 2 2: up, down and up again, settled by the fourth step."""
    each = planted.chains(4)[3]
    assert each.kinds == ("base", "decorative", "harmful", "base", "decorative")
    found = early_answering(model_of(), chain_of(each), RULES)
    assert [round(math.exp(p.logprob)) for p in found.points] == [0, 1, 1, 0, 1, 1]
    values = {value.measure: value.value for value in found.chain_values}
    assert values["early_aoc_answer"] == pytest.approx(1 - (0.5 + 1 + 0.5 + 0.5 + 1) / 5)
    assert values["early_aoc_probability"] == pytest.approx(0.3, abs=0.01)
    assert (values["commitment"], values["early_switches"]) == (4 / 5, 3 / 5)
    assert sum(effect.effect < -0.9 for effect in found.effects) == 1  # the harmful step
    assert min(value.value for value in found.values) >= 0  # but a value is a size


def test_areas_by_hand():
    assert area_over([0.0, 1.0]) == 0.5
    assert area_over([1.0, 0.0, 1.0]) == 0.5
    assert area_over([0.25] * 4) == 0.75
    with says(InputError, "A curve of 1 points has no area: give at least two points."):
        area_over([1.0])


def test_commitment_by_hand():
    assert commitment(["1", "2", "2", "1", "1"]) == 3
    assert commitment(["1", "2"]) == 1
    assert commitment(["2", None, "2"]) == 2  # an unread answer is none
    assert commitment([]) is commitment(["1", None]) is None


def test_an_answer_that_cannot_be_read_leaves_the_probabilities():
    model = tiny("tiny-llama")
    found = early_answering(model, made_up(model, "He has 12. Then 5 + 3 = 8."), RULES)
    assert found.commitment is None and not found.own
    assert [point.answer for point in found.points] == [None] * 3
    assert len(found.values) == 2 and not found.marked
    first, *others = found.chain_values
    assert first.value is not None and 0 < first.value <= 1
    why = "no answer could be read after the whole chain"
    assert [(v.value, v.reason) for v in others] == [(None, why)] * 3


def test_points_past_the_context_are_marked_and_the_others_kept():
    model = model_of()
    each = planted.chains(1)[0]
    text = "We start with 17 apples. Then we add 27 pears. " + "A lamp costs 65 coins. " * 140
    prompt = model.chat(each.question)
    chain = Chain(Problem("p", each.question), prompt, text, tuple(segment(text)), "88", "gold")
    found = early_answering(model, chain, RULES)
    unread = [point.kept for point in found.points if point.logprob is None]
    assert unread and unread == list(range(unread[0], 143))
    assert [mark.step for mark in found.marked] == [kept - 1 for kept in unread]
    assert {mark.reason for mark in found.marked} == {UNREADABLE}
    assert [value.step for value in found.values] == list(range(unread[0] - 1))
    assert [value.reason for value in found.chain_values] == [UNREADABLE] * 4
    assert found.commitment is None
    short = replace(chain, text=chain.text[: chain.steps[3].end], steps=chain.steps[:4])
    alone = early_answering(model, short, RULES)
    for one, other in zip(found.values, alone.values, strict=False):
        assert one.value == pytest.approx(other.value, rel=0, abs=1e-5)


def test_a_chain_without_steps_is_refused_before_the_model_runs(monkeypatch):
    model = tiny("tiny-llama")
    monkeypatch.setattr(model.hf, "forward", None)
    empty = Chain(Problem("p", "How many?"), "How many?", "", (), "3", "gold")
    text = "The chain of p has no steps, so there is nothing to change: leave it out."
    with says(InputError, text):
        early_answering(model, empty, RULES)


@pytest.mark.parametrize("name", ["planted-steps", "tiny-llama"])
def test_filler_has_as_many_tokens_and_stands_in_the_steps_place(name):
    model = tiny(name)
    text = "We start with 17 apples. Then we add 27 pears. So it is 44."
    chain = made_up(model, text, "88")
    reader = Reader(model, chain, RULES)
    step, decode = chain.steps[1], model.tokenizer.decode
    whole, filled = reader.version(text), reader.filled(text, step.start, step.end)
    assert whole and filled and len(filled.prompt) == len(whole.prompt)
    assert filled.answer == whole.answer
    shown = decode(filled.prompt)
    assert "pears" not in shown and "17 apples. " in shown
    middle = shown.partition("17 apples. ")[2].partition("So it is 44.")
    assert middle[1] and set(middle[0]) <= set(" .") and middle[0].startswith(" ...")


def test_equal_versions_read_the_same_to_the_bit_and_a_missing_one_is_none():
    model = tiny("tiny-gpt2")
    reader = Reader(model, made_up(model, "He has 12. Then 8."), RULES)
    one, other = reader.version("He has 12."), reader.version("He has 12. ")
    first, none, again, third = reader.read([one, None, other, reader.version("He has 13.")])
    assert none is None and first is again and first != third
    assert reader.read([None]) == [None]


def test_answers_are_read_up_to_what_closes_them():
    model = tiny("tiny-gpt2")
    boxed = Reader(model, made_up(model, "He has 12."), RULES)
    assert boxed.parse(r" \frac{1}{2}} and more") == r"\frac{1}{2}"
    assert boxed.parse("12") is boxed.parse(" }") is None
    paper = Reader(model, made_up(model, "He has 12."), preset("paper"))
    assert paper.parse(" 12.\nSo") == "12" and paper.parse("\n") is None


def test_values_are_mean_sizes_over_seeds():
    def effect(step: int, seed: int, size: float, control: float | None) -> StepEffect:
        return StepEffect("p", step, seed, "mistake", 0.0, 0.0, size, control)

    effects = [effect(0, 0, 0.5, 0.25), effect(0, 1, -0.25, None), effect(1, 0, 0.0, None)]
    assert step_values(effects) == [
        StepValue("p", 0, "mistake", 0.375),
        StepValue("p", 1, "mistake", 0.0),
    ]
    assert step_values(effects, control=True) == [StepValue("p", 0, "mistake:control", 0.25)]


def test_a_value_is_finite_or_none_with_a_reason():
    with says(
        InputError,
        "The value of gap of p is nan: a value is finite; give None and the reason instead.",
    ):
        ChainValue("p", "gap", math.nan)
    with says(
        InputError,
        "The value of gap of step 2 of p is None: say in `reason` why there is none.",
    ):
        StepValue("p", 2, "gap", None)
    assert StepValue("p", 2, "gap", None, "too long").reason == "too long"
