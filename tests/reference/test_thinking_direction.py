"""The TrueThinking direction against plain forward passes of the Hugging Face model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.engine.loading import load
from interp.models.tokens import encode
from interp.thinking.direction import activations, fit, sites
from interp.thinking.scored import ScoredChain, mean_steps
from interp.thinking.sets import choose_sets
from tests.strategies import tiny
from tests.thinking_cases import scored_chain

TEXTS = (
    ("Then he has 12 apples. ", "So 5 + 3 = 8 are red\n", "After that 20 is true. ", "It is 33\n"),
    ("First we see 4 cats. ", "The sum is 9\n\n", "So the final number is 7", " ... and 3 big. "),
)
TTS = ((0.95, 0.0, 0.001, 0.92), (0.004, 0.97, 0.99, 0.0))


def chains(prompt: str) -> list[ScoredChain]:
    several = zip(("a", "b"), TEXTS, TTS, strict=True)
    return [scored_chain(name, texts, tts, prompt=prompt) for name, texts, tts in several]


@torch.no_grad()
def plain(model: Any, text: str) -> Tensor:
    """What enters each block and what leaves the last, at the last token: one pass, no sharing."""
    left: list[Tensor] = []
    last = model.hf.get_submodule(model.book.blocks[-1][""])

    def hook(module, args, output):
        left.append(output[0] if isinstance(output, tuple) else output)

    handle = last.register_forward_hook(hook)
    ids = torch.tensor([encode(model.tokenizer, text)])
    hidden = model.hf(ids, output_hidden_states=True).hidden_states
    handle.remove()
    # Hugging Face's last hidden state has gone through the final norm; the block's output has not.
    return torch.stack([each[0, -1] for each in (*hidden[:-1], *left)])


def truth(model: Any, scored: list[ScoredChain], side: str) -> Tensor:
    """The mean over a side's steps, one plain pass each."""
    texts = [
        chain.chain.prompt + chain.chain.text[: step.end].rstrip()
        for chain in scored
        for step in chain.means
        if (step.tts >= 0.9 if side == "true" else step.tts <= 0.005)
    ]
    return torch.stack([plain(model, text) for text in texts]).mean(0)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-neox", "tiny-gemma3"])
@pytest.mark.parametrize("prompt", ["Question: how many?\n", "<bos>User:\nhow many?\n"])
def test_the_direction_is_the_difference_of_plain_means(name, prompt):
    model, scored = tiny(name), chains(prompt)
    sets = choose_sets(scored, bins=1, fewest=2)
    assert (len(sets.true), len(sets.decorative)) == (4, 4)
    difference = truth(model, scored, "true") - truth(model, scored, "decorative")
    found = fit(model, scored, sets)
    assert [each.site for each in found] == sites(model)
    for row, each in enumerate(found):
        # float32 sums in another order: 1e-5 of an activation of order 1 to 10.
        torch.testing.assert_close(each.raw, difference[row], rtol=1e-4, atol=1e-4)
        assert each.norm == pytest.approx(float(difference[row].norm()), rel=1e-4)


def test_every_activation_is_that_of_a_plain_pass_of_its_own():
    model, scored = tiny("tiny-llama"), chains("Question: how many?\n")
    steps = mean_steps(scored)
    ours = activations(model, scored, steps)
    texts = {chain.id: chain.chain for chain in scored}
    for step, held in zip(steps, ours, strict=True):
        text = texts[step.id].prompt + texts[step.id].text[: step.end].rstrip()
        torch.testing.assert_close(held, plain(model, text), rtol=0, atol=1e-4)


def test_a_step_whose_end_the_tokenizer_joins_with_what_follows_has_its_own_pass():
    """'The' and 'Then' are one token each: cut after 'The', the first step ends in a token that the
    whole chain does not have there, and its activation is still that of its own text."""
    model, prompt = tiny("tiny-llama"), "So 5.\n"
    scored = [scored_chain("a", ["The", "n it is 3. "], [1, 0], prompt=prompt)]
    short, whole = (encode(model.tokenizer, prompt + text) for text in ("The", "Then it is 3."))
    place = len(short) - 1
    assert whole[:place] == short[:place] and whole[place] != short[place]
    ours = activations(model, scored, mean_steps(scored))
    for held, text in zip(ours, ("The", "Then it is 3."), strict=True):
        torch.testing.assert_close(held, plain(model, prompt + text), rtol=0, atol=1e-4)
    with torch.no_grad():
        all_of_it = model.hf(torch.tensor([whole]), output_hidden_states=True).hidden_states[1][0]
    assert float((all_of_it[place] - ours[0, 1]).abs().max()) > 0.1


@pytest.mark.parametrize("engine", ["transformer_lens", "nnsight"])
def test_other_engines_give_the_same_direction(engine):
    scored = chains("Question: how many?\n")
    sets = choose_sets(scored, bins=1, fewest=2)
    ours, theirs = (
        fit(load("tiny-llama", engine=each), scored, sets) for each in ("torch", engine)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.site == other.site
        torch.testing.assert_close(one.raw, other.raw, rtol=0, atol=1e-4)


def test_half_precision_is_read_into_float32():
    model, scored = tiny("tiny-llama", "bfloat16"), chains("Question: how many?\n")
    (first, *_) = fit(model, scored, choose_sets(scored, bins=1, fewest=2))
    assert first.vector.dtype == torch.float32
    assert float(first.vector.norm()) == pytest.approx(1, abs=1e-6)
