"""Mistakes, paraphrases, filler and removal on the planted model; what is marked and refused."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest

from interp.errors import InputError
from interp.models import planted
from interp.thinking.perturb import perturb_step
from interp.thinking.relatives.regenerate import NO_CONTROL, add_mistake, paraphrase
from interp.thinking.relatives.values import ChainValue, Marked
from interp.thinking.relatives.whole import ChainMean, leave_one_out, summarise, whole_chain_gap
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, prepare
from interp.thinking.steps import segment
from tests.strategies import says, tiny

RULES = Rules()
CHAINS = planted.chains(5)
SHORT = 8
"""New tokens: the planted model writes its answer and ends."""


def model_of(name: str = "planted-steps"):
    return tiny(name)


def passes(text: str) -> bool:
    """Whether the planted model answers 88: counted by hand from the text."""
    words = re.findall(r"\d+|[a-z]+", text)
    return sum(planted.EVIDENCE.get(word, 0) for word in words) > planted.THRESHOLD


@cache
def chain_of(i: int, name: str = "planted-steps") -> Chain:
    each = CHAINS[i]
    return prepare(model_of(name), Problem(each.id, each.question, each.chain), RULES)


def parts(chain: Chain, step: int) -> tuple[str, str, str]:
    own = chain.steps[step]
    return chain.text[: own.start], own.text, chain.text[own.end :]


def shifted(chain: Chain, step: int, seed: int = 0) -> str:
    return perturb_step(chain.steps[step].text, key=(seed, chain.problem.id, step)).text


def random_chain(text: str, name: str = "tiny-llama") -> Chain:
    model = tiny(name)
    prompt, problem = model.chat("How many?"), Problem("p", "How many?")
    return Chain(problem, prompt, text, tuple(segment(text)), "33", "gold")


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("i", range(5))
def test_a_mistake_tells_where_what_follows_is_written_anew(i):
    """The planted model writes no evidence, so what counts is the evidence up to the step."""
    chain = chain_of(i)
    found = add_mistake(model_of(), chain, RULES, max_new_tokens=SHORT)
    assert not found.marked and len(found.effects) == len(chain.steps)
    for effect, kind in zip(found.effects, CHAINS[i].kinds, strict=True):
        before, own, _ = parts(chain, effect.step)
        changed = before + shifted(chain, effect.step)
        change = passes(before + own) - passes(changed)
        assert effect.effect == pytest.approx(change, abs=0.02)
        assert effect.answer_changed == (change != 0)
        assert effect.control == pytest.approx(0, abs=1e-6)
        assert effect.rest.startswith("88" if passes(changed) else "11")
        if kind != "base":
            assert change == planted.expected(kind)[0]  # the necessity of the True-Thinking Score
        if kind == "decorative":
            assert effect.effect == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("i", range(5))
def test_a_mistake_with_the_later_steps_kept_counts_the_whole_chain(i):
    chain = chain_of(i)
    found = add_mistake(model_of(), chain, RULES, regenerate=False)
    for effect in found.effects:
        before, own, after = parts(chain, effect.step)
        change = passes(before + own + after) - passes(before + shifted(chain, effect.step) + after)
        assert effect.effect == pytest.approx(change, abs=0.02)
        assert (effect.rest, effect.measure) == ("", "mistake_kept")
    assert [value.value for value in found.controls] == pytest.approx(
        [0] * len(chain.steps), abs=1e-6
    )


def test_an_or_step_hides_a_mistake_that_is_corrected_later():
    """17, 27, 37, 37: with 27 wrong the later 37 still carries the answer, but not if it is cut."""
    chain = chain_of(2)
    assert CHAINS[2].kinds == ("decorative", "base", "and", "or", "or")
    again = add_mistake(model_of(), chain, RULES, only=[2], max_new_tokens=SHORT)
    kept = add_mistake(model_of(), chain, RULES, only=[2], regenerate=False)
    assert again.effects[0].effect > 0.98
    assert kept.effects[0].effect == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("regenerate", [True, False])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_a_mistake_that_changes_nothing_has_an_effect_of_exactly_zero(name, regenerate):
    chain = random_chain("He has 12. Then 5 + 3 = 8. So good.", name)
    same = {step.index: step.text for step in chain.steps} | {1: "Then 5 + 3 = 8."}
    settings = {"regenerate": regenerate, "max_new_tokens": 6}
    found = add_mistake(tiny(name), chain, RULES, mistakes=same, **settings)
    assert [(e.effect, e.answer_changed) for e in found.effects] == [(0.0, False)] * 3
    wrong = add_mistake(tiny(name), chain, RULES, mistakes={1: "Then 9."}, **settings)
    assert wrong.effects[1].text == "Then 9. " and wrong.effects[1].effect != 0.0
    rewords = replace(chain, problem=replace(chain.problem, paraphrases=same))
    assert [e.effect for e in paraphrase(tiny(name), rewords, RULES, **settings).effects] == [
        0.0
    ] * 3


def test_users_mistakes_are_measured_once_and_drawn_ones_once_a_seed():
    chain = chain_of(0)
    found = add_mistake(
        model_of(),
        chain,
        RULES,
        mistakes={1: "But 47 of them are lost."},
        seeds=(0, 1),
        only=[1, 5],
        regenerate=False,
    )
    assert [(e.step, e.seed) for e in found.effects] == [(1, 0), (5, 0), (5, 1)]
    assert found.effects[1].text == shifted(chain, 5, 0)
    assert found.effects[2].text == shifted(chain, 5, 1)
    assert [value.step for value in found.values] == [1, 5]
    alone = add_mistake(model_of(), chain, RULES, seeds=(1,), only=[5], regenerate=False)
    assert alone.effects[0].effect == pytest.approx(found.effects[2].effect, rel=0, abs=1e-5)


def test_the_final_answer_never_enters_the_rest(monkeypatch):
    model = tiny("planted-steps")

    def write(inputs, **_):
        return SimpleNamespace(texts=[" So it is 17.\nThe answer is 17."] * len(inputs))

    monkeypatch.setattr(model, "generate", write)
    found = add_mistake(model, chain_of(0), RULES, only=[0])
    assert found.effects[0].rest == " So it is 17.\n"


def test_a_step_without_room_to_write_on_is_marked_and_the_others_kept():
    chain = chain_of(0)
    size = len(model_of().tokenizer(chain.prompt + chain.text)["input_ids"])
    limit = planted.N_CTX - size + 8
    found = add_mistake(model_of(), chain, RULES, max_new_tokens=limit)
    reason = f"there is no room to write {limit} tokens after the step"
    assert found.marked == (Marked(chain.problem.id, 5, 0, "mistake", reason),)
    assert [effect.step for effect in found.effects] == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- paraphrases


def test_a_paraphrase_without_a_users_text_is_the_null_rewrite_and_changes_nothing():
    chain = chain_of(1)
    for regenerate in (True, False):
        found = paraphrase(model_of(), chain, RULES, regenerate=regenerate, max_new_tokens=SHORT)
        assert [e.effect for e in found.effects] == pytest.approx([0] * 6, abs=1e-6)
        assert {e.control for e in found.effects} == {None} and not found.controls
        assert all(e.text.split() == chain.steps[e.step].text.split() for e in found.effects)
        assert all(e.text != chain.steps[e.step].text for e in found.effects)


def test_a_users_paraphrase_is_measured_beside_the_null_rewrite():
    chain = chain_of(0)
    texts = {0: "Cups there are, too.", 5: "Then we add a few pears."}  # the second says less
    chain = replace(chain, problem=replace(chain.problem, paraphrases=texts))
    found = paraphrase(model_of(), chain, RULES, regenerate=False)
    assert found.effects[0].effect == pytest.approx(0, abs=1e-6)
    assert found.effects[5].effect == pytest.approx(1, abs=0.02)
    assert [value.step for value in found.controls] == [0, 5]
    assert [value.value for value in found.controls] == pytest.approx([0, 0], abs=1e-6)
    assert found.effects[0].text == texts[0] + chain.steps[0].text[-1]  # its own white space


def test_a_step_that_cannot_be_reworded_is_marked_and_the_others_kept():
    chain = random_chain("Yes. He has 12.")
    found = paraphrase(tiny("tiny-llama"), chain, RULES, regenerate=False)
    assert found.marked == (Marked("p", 0, 0, "paraphrase_kept", NO_CONTROL),)
    assert [effect.step for effect in found.effects] == [1]


# ---------------------------------------------------------------- all of it, and one step less


@pytest.mark.parametrize("i", range(5))
def test_the_gap_is_the_whole_answer_where_the_chain_decides(i):
    found = whole_chain_gap(model_of(), chain_of(i), RULES)
    assert (found.full_answer, found.empty_answer, found.filler_answer) == ("88", "11", "11")
    values = {value.measure: value.value for value in found.values}
    assert values["gap"] == pytest.approx(1, abs=0.02)
    assert values["filler_gap"] == pytest.approx(values["gap"], abs=1e-6)
    assert values["answer_changed"] == 1.0
    prompt = chain_of(i).prompt
    whole, none = (
        model_of().tokenizer(prompt + text)["input_ids"] for text in (chain_of(i).text, "")
    )
    assert found.n_tokens == len(whole) - len(none)


def test_the_gap_is_nothing_where_the_chain_is_ignored():
    name = "planted-ignores"
    found = whole_chain_gap(model_of(name), chain_of(0, name), RULES)
    assert [value.value for value in found.values] == pytest.approx([0, 0, 0], abs=1e-6)
    for measure in (add_mistake, paraphrase):
        effects = measure(model_of(name), chain_of(0, name), RULES, max_new_tokens=SHORT).effects
        assert [effect.effect for effect in effects] == pytest.approx([0] * 6, abs=1e-6)
    effects = leave_one_out(model_of(name), chain_of(0, name), RULES).effects
    assert [effect.effect for effect in effects] == pytest.approx([0] * 12, abs=1e-6)


@pytest.mark.parametrize("i", range(5))
def test_leaving_a_step_out_takes_its_evidence_from_the_whole_chain(i):
    chain = chain_of(i)
    found = leave_one_out(model_of(), chain, RULES)
    assert [e.measure for e in found.effects] == ["leave_one_out", "filler_step"] * len(chain.steps)
    for effect in found.effects:
        before, own, after = parts(chain, effect.step)
        change = passes(before + own + after) - passes(before + after)
        assert effect.effect == pytest.approx(change, abs=0.02)
        assert effect.control == pytest.approx(0, abs=1e-6)
        assert effect.answer_changed == (change != 0)
    some = leave_one_out(model_of(), chain, RULES, only=[1])
    assert [e.effect for e in some.effects] == pytest.approx(
        [e.effect for e in found.effects if e.step == 1], rel=0, abs=1e-5
    )


def test_means_over_chains_redraw_problems_and_count_what_has_no_value():
    """p: 0.5 and 0.5, q: 0.2; redrawn problems give 0.2, 0.4 or 0.5."""
    rows = [("p", 0.5), ("p", 0.5), ("q", 0.2)]
    values = [ChainValue(name, "gap", value) for name, value in rows]
    values += [ChainValue("r", "gap", None, "too long"), ChainValue("r", "aoc", None, "too long")]
    gap, aoc = summarise(values)
    assert (gap.measure, gap.n_chains, gap.n_problems, gap.n_left_out) == ("gap", 3, 2, 1)
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.4, 0.2, 0.5))
    assert gap.warning == "only 2 problems: the interval is probably too narrow"
    assert aoc == ChainMean("aoc", None, None, None, 0.95, 0, 0, 1, "no chain has a value")
    why = "There are no chain values to summarise: give those of at least one chain."
    with says(InputError, why):
        summarise([])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("measure", [add_mistake, paraphrase, leave_one_out])
def test_bad_input_is_refused_before_the_model_runs(measure, monkeypatch):
    model, chain = tiny("tiny-llama"), random_chain("He has 12. Then 8.")
    monkeypatch.setattr(model.hf, "forward", None)
    with says(InputError, "The chain of p has no step 2: its 2 steps are numbered from 0 to 1."):
        measure(model, chain, RULES, only=[0, 2])
    why = "The chain of p has no steps, so there is nothing to change: leave it out."
    with says(InputError, why):
        measure(model, replace(chain, text="", steps=()), RULES)
    with says(InputError, why):
        whole_chain_gap(model, replace(chain, text="", steps=()), RULES)


def test_bad_mistakes_are_refused_before_the_model_runs(monkeypatch):
    model, chain = tiny("tiny-llama"), random_chain("He has 12. Then 8.")
    monkeypatch.setattr(model.hf, "forward", None)
    with says(InputError, "The chain of p has no step 7: its 2 steps are numbered from 0 to 1."):
        add_mistake(model, chain, RULES, mistakes={7: "He has 3."})
    with says(InputError, "max_new_tokens=0: let the rest have at least 1 token."):
        add_mistake(model, chain, RULES, max_new_tokens=0)
    with says(InputError, "There are no seeds: give at least one, such as seeds=(0,)."):
        add_mistake(model, chain, RULES, seeds=())
