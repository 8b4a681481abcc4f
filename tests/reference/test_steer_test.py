"""The steering tests against plain Hugging Face: hooks and greedy decoding written out here.

The judge calls `model.hf` itself, without a cache and one token at a time. Attention is edited as
the paper does, by adding ln(factor) to the mask of one layer.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch

from interp.directions import Direction
from interp.models import planted
from interp.models.weights import weights_hash
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, Tokeniser, prepare, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.steer_arms import (
    attention_mask,
    attention_scale,
    direction_arm,
    drop_step,
    layer_of,
)
from interp.thinking.steer_items import draft, make_items, read_answer
from interp.thinking.steer_test import steer
from tests.strategies import tiny

LINES = Rules(cue="\nThe answer is ", closing="", target="gold")
STEPS = ("We have 12 pears. ", "Then 7 more come. ", "That makes 19.")
NEW = 8


def blocks(hf):
    """The blocks of a plain model."""
    return hf.model.layers if hasattr(hf, "model") else hf.transformer.h


@contextmanager
def adding(hf, layer, vector, span):
    """Add a vector to what enters a block (or leaves the last one) at some tokens."""

    def add(hidden):
        hidden = hidden.clone()
        hidden[:, slice(*span)] += vector
        return hidden

    if layer < len(blocks(hf)):
        hook = blocks(hf)[layer].register_forward_pre_hook(
            lambda _, given, named: ((add(given[0]), *given[1:]), named), with_kwargs=True
        )
    else:
        hook = blocks(hf)[-1].register_forward_hook(
            lambda _, __, out: (add(out[0]), *out[1:]) if isinstance(out, tuple) else add(out)
        )
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def attending(hf, layer, factor, span, n_prompt):
    """Multiply the attention of the later tokens of the prompt to some keys, in one layer."""

    def mask(module, given, named):
        n = (named.get("hidden_states") if not given else given[0]).shape[1]
        made = torch.full((n, n), -math.inf).triu(1)
        made[span[1] : n_prompt, slice(*span)] = math.log(factor) if factor else -math.inf
        return given, named | {"attention_mask": made[None, None]}

    block = blocks(hf)[layer]
    attention = block.self_attn if hasattr(block, "self_attn") else block.attn
    hook = attention.register_forward_pre_hook(mask, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def judged(model, ids, answer_ids, n_new=NEW):
    """The greedy text after a prompt, and the joint log-probability of an answer."""
    new = list(ids)
    for _ in range(n_new):
        new.append(int(model.hf(torch.tensor([new])).logits[0, -1].argmax()))
    whole = torch.tensor([[*ids, *answer_ids]])
    logprobs = model.hf(whole).logits[0].log_softmax(-1)[len(ids) - 1 : -1]
    picked = logprobs[range(len(answer_ids)), list(answer_ids)]
    text = model.tokenizer.decode(new[len(ids) :], skip_special_tokens=True)
    return text, float(picked.sum())


@cache
def items(name):
    """One item of each test on a random model; which test is which is set by hand."""
    model, found = tiny(name), []
    question = Problem("p", "How many pears?", "".join(STEPS), gold="19")
    chain = prepare(model, question, LINES)
    tokens = Tokeniser(model, chain, LINES)
    for step, written in enumerate(("We have 13 pears.", "Then 5 more come.")):
        context = "".join(STEPS[:step])
        made = draft(
            model,
            tokens,
            chain,
            LINES,
            context=context,
            written=written,
            step=step,
            seed=0,
            tts=0.0,
        )
        text, logprob = judged(model, made.ids, made.answer_ids)
        answer = read_answer(text, LINES)
        test = ("engage", "disengage")[step]
        found.append(replace(made, test=test, base_answer=answer, base_logprob=logprob))
    return found


def directions(model, size):
    """A random direction at every layer, large enough to matter."""
    stream = torch.Generator().manual_seed(3)
    last, known = model.sizes.n_layers - 1, weights_hash(model.hf)
    found = []
    for site in [*(f"{layer}.resid_pre" for layer in range(last + 1)), f"{last}.resid_post"]:
        vector = torch.randn(model.sizes.d_model, generator=stream)
        found.append(Direction(vector / vector.norm(), site, "given", size, model.name, known))
    return found


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_steering_equals_plain_hugging_face_at_every_layer(name, exact):
    model, own = tiny(name), directions(tiny(name), 50.0)
    arm = direction_arm(model, own)
    trials = steer(model, items(name), [arm], LINES, max_new_tokens=NEW, exact=exact)
    assert len(trials) == 2 * (model.sizes.n_layers + 1)
    moved = 0
    for trial in trials:
        (item,) = [each for each in items(name) if each.key == trial.key]
        (direction,) = [each for each in own if layer_of(each.site) == trial.layer]
        sign = 1 if trial.test == "engage" else -1
        with adding(model.hf, trial.layer, sign * direction.raw, item.span):
            text, logprob = judged(model, item.ids, item.answer_ids)
        assert trial.answer == read_answer(text, LINES)
        assert trial.logprob == pytest.approx(logprob, abs=1e-4)
        assert trial.base_logprob == pytest.approx(item.base_logprob, abs=1e-4)
        moved += abs(trial.shift) > 1e-3
    assert moved == 2 * model.sizes.n_layers  # all but the final output, which nothing reads


def test_attention_arms_equal_a_mask_with_the_log_of_the_factor():
    model = tiny("tiny-llama")
    arms = [attention_scale(model, (3.0, 0.25)), attention_mask(model)]
    trials = steer(model, items("tiny-llama"), arms, LINES, max_new_tokens=NEW)
    assert len(trials) == 2 * 2 * model.sizes.n_layers
    for trial in trials:
        (item,) = [each for each in items("tiny-llama") if each.key == trial.key]
        factor = trial.coefficient
        with attending(model.hf, trial.layer, factor, item.span, len(item.ids)):
            text, logprob = judged(model, item.ids, item.answer_ids)
        assert trial.answer == read_answer(text, LINES)
        assert trial.logprob == pytest.approx(logprob, abs=1e-4)
        assert trial.shift != 0


def test_dropping_the_step_equals_the_shorter_text():
    model = tiny("tiny-llama")
    trials = steer(model, items("tiny-llama"), [drop_step()], LINES, max_new_tokens=NEW)
    assert len(trials) == 2
    for trial in trials:
        context = "".join(STEPS[: trial.step]).rstrip()
        prompt = model.chat("How many pears?") + context + LINES.cue
        begun = prompt.startswith(model.tokenizer.bos_token)
        ids = model.tokenizer(prompt, add_special_tokens=not begun).input_ids
        (item,) = [each for each in items("tiny-llama") if each.key == trial.key]
        text, logprob = judged(model, ids, item.answer_ids)
        assert trial.answer == read_answer(text, LINES)
        assert trial.logprob == pytest.approx(logprob, abs=1e-4)


def test_planted_flips_are_those_of_plain_hugging_face():
    """Steps that become evidence against the answer, told one by one by the plain model."""
    model, rules = tiny("planted-steps"), Rules()
    found = []
    for chain in planted.chains(4):
        ready = prepare(model, Problem(chain.id, chain.question, chain.chain), rules)
        scores = score_chain(model, ready, rules, control_seeds=0).steps
        found.append(ScoredChain(ready, tuple(scores)))
    some = make_items(model, found, rules)
    feature = dict(zip(planted.FEATURES, planted.directions(), strict=False))
    raw = 5.66 * feature["evidence"] - 0.2 * feature["weight"]
    direction = Direction(
        raw / raw.norm(), "0.resid_pre", "given", float(raw.norm()), "m", weights_hash(model.hf)
    )
    trials = steer(model, some.all, [direction_arm(model, [direction])], rules)
    for trial in trials:
        (item,) = [each for each in some.all if each.key == trial.key]
        base, _ = judged(model, item.ids, item.answer_ids, 3)
        with adding(model.hf, 0, raw if trial.test == "engage" else -raw, item.span):
            text, _ = judged(model, item.ids, item.answer_ids, 3)
        assert base.startswith(f"{item.base_answer}}}")
        assert text.startswith(f"{trial.answer}}}")
        assert trial.flipped == (text.startswith(planted.RIVAL) == (trial.test == "engage"))
    assert {trial.flipped for trial in trials if trial.test == "engage"} == {True, False}
