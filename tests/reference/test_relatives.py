"""Relatives of the score against plain Hugging Face: whole texts, one forward pass each."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from interp.engine.fingerprint import fingerprint
from interp.thinking.perturb import null_rewrite, perturb_step
from interp.thinking.relatives.early import early_answering
from interp.thinking.relatives.readout import Reader
from interp.thinking.relatives.regenerate import add_mistake, paraphrase
from interp.thinking.relatives.whole import leave_one_out, whole_chain_gap
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem
from interp.thinking.steps import segment
from tests.strategies import tiny

RULES = Rules()
NAMES = ("tiny-gpt2", "tiny-llama", "tiny-gemma3", "tiny-neox")
TEXT = "First he has 12 apples. Then 5 + 3 = 8 are red. So that is good. He got 20.\n"
CLOSE = pytest.approx


@cache
def chain_of(model) -> Chain:
    prompt, problem = model.chat("How many are there?"), Problem("p", "How many are there?")
    return Chain(problem, prompt, TEXT, tuple(segment(TEXT)), "1,234", "gold")


def ids_of(model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]  # the prompt has them


@torch.no_grad()
def plain(model, ids: list[int], n: int) -> float:
    """Log-probability of the last n tokens: one plain forward pass."""
    logprobs = model.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids)))


def after(model, text: str) -> float:
    """Log-probability of y* after a version of the chain, by the definition."""
    answer = "1,234}"
    n = len(ids_of(model, answer))
    whole = chain_of(model).prompt + text.rstrip() + RULES.cue + answer
    return plain(model, ids_of(model, whole), n)


@torch.no_grad()
def written(model, text: str, n: int) -> str:
    """What plain greedy decoding writes, without a cache."""
    ids = ids_of(model, text)
    new: list[int] = []
    while len(new) < n and (not new or new[-1] != model.tokenizer.eos_token_id):
        new.append(int(model.hf(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return model.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_point_of_the_curve_is_a_plain_forward_pass(name, exact, tiny_model):
    model = tiny_model(name)
    before = fingerprint(model.hf)
    found = early_answering(model, chain_of(model), RULES, exact=exact)
    ends = [0, *(step.end for step in chain_of(model).steps)]
    assert [point.kept for point in found.points] == [0, 1, 2, 3, 4]
    for point, end in zip(found.points, ends, strict=True):
        # float32 over about 60 tokens; other rows of a batch round otherwise
        assert point.logprob == CLOSE(after(model, TEXT[:end]), rel=0, abs=1e-5)
    assert (found.spent.tokens == found.spent.naive_tokens) == exact
    assert fingerprint(model.hf) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_gap_and_removed_steps_are_plain_forward_passes(name, tiny_model):
    model = tiny_model(name)
    chain = chain_of(model)
    gap = whole_chain_gap(model, chain, RULES)
    assert gap.full == CLOSE(after(model, TEXT), rel=0, abs=1e-5)
    assert gap.empty == CLOSE(after(model, ""), rel=0, abs=1e-5)
    dots, cue, answer = (ids_of(model, text) for text in (" ...", RULES.cue, "1,234}"))
    filler = [dots[i % len(dots)] for i in range(gap.n_tokens)]
    ids = [*ids_of(model, chain.prompt), *filler, *cue, *answer]
    assert len(ids) == len(ids_of(model, chain.prompt + TEXT.rstrip() + RULES.cue + "1,234}"))
    assert gap.filler == CLOSE(plain(model, ids, len(answer)), rel=0, abs=1e-5)
    for effect in leave_one_out(model, chain, RULES).effects:
        step = chain.steps[effect.step]
        if effect.measure == "leave_one_out":
            left = TEXT[: step.start] + TEXT[step.end :]
            assert effect.changed == CLOSE(after(model, left), rel=0, abs=1e-5)
        assert effect.intact == CLOSE(gap.full, rel=0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_kept_mistakes_and_paraphrases_are_plain_forward_passes(name, tiny_model):
    model = tiny_model(name)
    chain = chain_of(model)
    mistakes = add_mistake(model, chain, RULES, regenerate=False, seeds=(3,))
    rewords = paraphrase(model, chain, RULES, regenerate=False)
    for effect in (*mistakes.effects, *rewords.effects):
        step = chain.steps[effect.step]
        if effect.measure == "mistake_kept":
            text = perturb_step(step.text, key=(3, "p", step.index)).text
        else:
            text = null_rewrite(step.text, key=(0, "p", step.index))
        assert effect.text == text
        changed = TEXT[: step.start] + text + TEXT[step.end :]
        assert effect.changed == CLOSE(after(model, changed), rel=0, abs=1e-5)
    assert len(mistakes.effects) == len(rewords.effects) == 4


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_what_is_written_again_is_plain_greedy_decoding(name, tiny_model):
    model = tiny_model(name)
    chain = chain_of(model)
    found = add_mistake(model, chain, RULES, max_new_tokens=6)
    assert len(found.effects) == 4
    for effect in found.effects:
        step = chain.steps[effect.step]
        head = (TEXT[: step.start] + effect.text).rstrip()
        rest = written(model, chain.prompt + head, 6)
        assert effect.rest == rest and rest
        assert effect.changed == CLOSE(after(model, head + rest), rel=0, abs=1e-5)
        own = TEXT[: step.end].rstrip()
        again = own + written(model, chain.prompt + own, 6)
        assert effect.intact == CLOSE(after(model, again), rel=0, abs=1e-5)


def test_greedy_answers_are_those_of_plain_decoding():
    """On the planted model, which closes its answers: the greedy flag, drafts and decoding."""
    model = tiny("planted-steps")
    text = "We start with 17 apples. A lamp costs 65 coins. Then we add 27 pears."
    chain = Chain(
        Problem("p", "Fruit?"), model.chat("Fruit?"), text, tuple(segment(text)), "88", ""
    )
    reader = Reader(model, chain, RULES)
    for point in early_answering(model, chain, RULES).points:
        end = chain.steps[point.kept - 1].end if point.kept else 0
        shown = chain.prompt + text[:end].rstrip() + RULES.cue
        assert point.answer == reader.parse(written(model, shown, 6)) is not None
