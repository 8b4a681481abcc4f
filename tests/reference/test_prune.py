"""Pruned chains and checks against plain Hugging Face: whole texts, one forward pass a token."""

from __future__ import annotations

import pytest
import torch

from interp.thinking.answers import same_answer
from interp.thinking.checks import behaviour, shifted_context
from interp.thinking.prune import ask, prune
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain, until_closing
from interp.thinking.scored import ScoredChain
from tests.strategies import tiny

RULES = Rules(target="gold")
TEXT = "He has 12 apples. Then 5 + 3 = 8 are red.\n\nWait, he got 20. So that is good. It is 33.\n"
NAMES = ("tiny-gpt2", "tiny-llama", "tiny-gemma3")


def scored(name: str) -> ScoredChain:
    model = tiny(name)
    chain = prepare(model, Problem("p", "How many are there?", TEXT, "33"), RULES)
    return ScoredChain(chain, tuple(score_chain(model, chain, RULES).steps))


@torch.no_grad()
def naive_logprob(model, before: str, answer: str) -> float:
    """log Pr(answer | before), in nats: the answer's tokens are the last ones of the whole text."""
    ids = model.tokenizer(before + answer, add_special_tokens=False)["input_ids"]
    n = len(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
    logprobs = model.hf(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids)))


@torch.no_grad()
def naive_answer(model, before: str, limit: int = 20) -> str | None:
    """Greedy decoding by hand, without a cache."""
    ids = model.tokenizer(before, add_special_tokens=False)["input_ids"]
    ends = {model.tokenizer.eos_token_id, model.hf.config.eos_token_id}
    new: list[int] = []
    while len(new) < limit and not ends & set(new):
        new.append(int(model.hf(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    found = until_closing(model.tokenizer.decode(new, skip_special_tokens=True), "}")
    return (found or "").strip() or None


@pytest.mark.parametrize("name", NAMES)
def test_every_pruned_chain_is_what_plain_hugging_face_says_of_its_text(name):
    model, each = tiny(name), scored(name)
    assert each.chain.prompt.startswith(model.tokenizer.bos_token)
    result = prune(model, [each], RULES, fractions=(0.0, 0.4, 1.0), n_random=3)
    assert len(result.pruned) == 15 and not result.marked
    texts = {pruned.pruning.text for pruned in result.pruned}
    assert 5 <= len(texts) <= 7
    naive = {}
    for text in texts:
        before = each.chain.prompt + text.rstrip() + RULES.cue
        naive[text] = naive_logprob(model, before, "33}"), naive_answer(model, before)
    for pruned in result.pruned:
        logprob, answer = naive[pruned.pruning.text]
        # float32 rounding of sums in another order
        assert pruned.logprob == pytest.approx(logprob, abs=1e-5)
        assert pruned.full_logprob == pytest.approx(naive[TEXT][0], abs=1e-5)
        assert pruned.answer == answer
        assert pruned.same is (answer is not None and same_answer(answer, "33"))
        n = len(model.tokenizer(pruned.pruning.text, add_special_tokens=False)["input_ids"])
        assert (pruned.n_tokens, pruned.full_tokens > n) == (n, pruned.pruning.text != TEXT)


def test_an_answer_that_greedy_decoding_gives_is_seen_without_decoding():
    """On the planted model, whose answer is 88 after some of these texts and 11 after others."""
    model, texts = tiny("planted-steps"), ["", "Take 17 and 27.", "So 37.", "Take 17. 9 left."]
    problem = Problem("p", "What is the total?", "Take 17 and 27. So 37.")
    own = Rules()
    chain = prepare(model, problem, own)
    asked, spent = ask(model, chain, own, texts, decode=False)
    read, _ = ask(model, chain, own, texts)
    answers = [naive_answer(model, chain.prompt + text + own.cue) for text in texts]
    assert answers == ["11", "88", "88", "11"]
    assert [one and one.same for one in asked] == [False, True, True, False]
    assert [one and one.answer for one in asked] == [None, "88", "88", None]
    assert [one and one.answer for one in read] == answers
    assert spent.forwards == 1


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_three_texts_of_a_check_are_what_plain_hugging_face_says(name):
    model, each = tiny(name), scored(name)
    (test,) = behaviour(model, [each], RULES, seeds=(2,)).tests
    steps = each.chain.steps
    assert (test.first, test.stop, test.text) == (2, 5, "".join(s.text for s in steps[2:]))
    broken = shifted_context(each.chain, 2, 2, RULES)
    assert broken != TEXT[: len(broken)]
    for logprob, answer, text in (
        (test.intact_logprob, test.intact_answer, TEXT),
        (test.logprob, test.answer, broken + test.text),
        (test.without_logprob, test.without_answer, broken),
    ):
        before = each.chain.prompt + text.rstrip() + RULES.cue
        assert logprob == pytest.approx(naive_logprob(model, before, "33}"), abs=1e-5)
        assert answer == naive_answer(model, before)
