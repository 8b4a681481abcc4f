"""Scores from the shared token tree against plain forward passes of Hugging Face."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.engine.fingerprint import fingerprint
from interp.engine.tree import Continuation, score
from interp.models import tiny
from interp.models.tiny import TINY


def tokens(n: int, seed: int, d_vocab: int = 300) -> tuple[int, ...]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, d_vocab, (n,), generator=random).tolist())


STEM = tokens(14, seed=1)  # longer than the sliding windows of 8


def many_branches() -> list[Continuation]:
    """Forks at nearly every point of one stem, and forks of forks.

    Answers of one token and of several; two that are equal; one whose sequence is the start of
    another's; one whose tokens are another's cut at another place; and prompts that share nothing.
    """
    found = []
    for cut in range(1, len(STEM)):
        found.append(Continuation(STEM[:cut], tokens(1 + cut % 4, seed=cut)))
    detour = STEM[:5] + tokens(6, seed=50)
    found += [
        Continuation(STEM, (7,)),
        Continuation(STEM, (7, 8, 9)),
        Continuation(STEM, (7,)),
        Continuation(STEM, tokens(6, seed=51)),
        Continuation(STEM[:10], (*STEM[10:], 7, 8, 9)),
        Continuation(detour, tokens(2, seed=52)),
        Continuation(detour[:8], tokens(3, seed=53)),
        Continuation(detour[:8], (*detour[8:], 4, 4)),
        Continuation(tokens(17, seed=54), tokens(2, seed=55)),
        Continuation((9,), (9,)),
    ]
    return found


BRANCHES = many_branches()


@torch.no_grad()
def by_plain_forwards(hf, continuations: list[Continuation]) -> list[list[float]]:
    """The definition: log-softmax of `hf(input_ids).logits`, one whole sequence at a time."""
    found = []
    for each in continuations:
        ids = torch.tensor([[*each.prompt, *each.answer]])
        logprobs = hf(input_ids=ids).logits[0].log_softmax(-1)
        first = len(each.prompt) - 1
        found.append([float(logprobs[first + i, t]) for i, t in enumerate(each.answer)])
    return found


def worst(ours, theirs) -> float:
    """Largest difference of any token's log-probability, in nats."""
    gaps = [
        abs(mine - judge)
        for row, plain in zip(ours, theirs, strict=True)
        for mine, judge in zip(row, plain, strict=True)
    ]
    return max(gaps)


@pytest.mark.parametrize("chunk", [5, 512])
@pytest.mark.parametrize("name", TINY)
def test_the_tree_gives_the_log_probabilities_of_plain_forward_passes(
    name, chunk, tiny_hf, tiny_model
):
    hf, before = tiny_hf(name), fingerprint(tiny_hf(name))
    scores = score(tiny_model(name), BRANCHES, chunk=chunk)
    theirs = by_plain_forwards(hf, BRANCHES)
    assert worst(scores.token_logprobs, theirs) < 1e-5
    assert scores.logprobs == pytest.approx([sum(row) for row in theirs], abs=5e-5)
    assert fingerprint(hf) == before


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gemma3"])
def test_a_chunk_may_end_anywhere_even_between_prompts_that_share_nothing(
    name, tiny_hf, tiny_model
):
    """One token a forward pass: the cut falls at every fork, and between two roots."""
    scores = score(tiny_model(name), BRANCHES, chunk=1)
    assert worst(scores.token_logprobs, by_plain_forwards(tiny_hf(name), BRANCHES)) < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_exact_scores_are_those_of_plain_forward_passes(name, tiny_hf, tiny_model):
    scores = score(tiny_model(name), BRANCHES, exact=True)
    assert worst(scores.token_logprobs, by_plain_forwards(tiny_hf(name), BRANCHES)) < 1e-5
    assert scores.spent.forwards == scores.spent.naive_forwards == len(BRANCHES)


@pytest.mark.parametrize("chunk", [5, 512])
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gemma3"])
def test_an_eager_model_takes_the_tree_as_well(name, chunk, tiny_model):
    hf = tiny.build(name)
    hf.set_attn_implementation("eager")
    scores = score(interp.load(hf), BRANCHES, chunk=chunk)
    assert worst(scores.token_logprobs, by_plain_forwards(hf, BRANCHES)) < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_in_float64_the_difference_falls_to_the_rounding_of_hugging_faces_float32_parts(
    name, tiny_hf, tiny_model
):
    """1e-13 in float64: norms and angles in float32 are the same bits for the same token."""
    hf, model = tiny_hf(name, torch.float64), tiny_model(name, "torch", torch.float64)
    scores = score(model, BRANCHES, chunk=5)
    assert worst(scores.token_logprobs, by_plain_forwards(hf, BRANCHES)) < 1e-13


def test_order_repeats_and_chunks_do_not_change_a_score(tiny_model):
    model = tiny_model("tiny-llama")
    scores = score(model, BRANCHES)
    again = score(model, BRANCHES[::-1] + BRANCHES[:3]).token_logprobs
    assert worst(again, scores.token_logprobs[::-1] + scores.token_logprobs[:3]) < 1e-5
    place = BRANCHES.index(Continuation(STEM, (7,)))
    assert scores.token_logprobs[place] == scores.token_logprobs[place + 2]
    assert scores.token_logprobs[place] == scores.token_logprobs[place + 1][:1]


def test_each_token_of_the_tree_is_computed_once(tiny_model):
    """The tree's tokens are the distinct prefixes, the last answer token left out."""
    prefixes = {
        sequence[:n]
        for each in BRANCHES
        if (sequence := each.prompt + each.answer[:-1])
        for n in range(1, len(sequence) + 1)
    }
    told = []
    scores = score(
        tiny_model("tiny-gpt2"), BRANCHES, chunk=5, progress=lambda *done: told.append(done)
    )
    assert scores.spent.tokens == len(prefixes) < scores.spent.naive_tokens
    assert scores.spent.forwards == -(-len(prefixes) // 5) == len(told)
    assert told[-1] == (len(prefixes), len(prefixes))


def test_smollm2_scores_continuations_of_a_real_prompt_as_plain_forward_passes_do(smollm2):
    """A chain of thought cut at three points, each with its answers: 1e-4 in float32."""
    chain = (
        "Question: Tom has 3 apples. He buys 5 more apples and then gives 2 of them to Ann. "
        "How many apples does Tom have now?\n"
        "First, Tom has 3 apples. After he buys 5 more, he has 3 + 5 = 8 apples. "
        "Then he gives 2 of them away, so he has 8 - 2 = 6 apples."
    )
    encode = smollm2.tokenizer
    ids = encode(chain)["input_ids"]
    assert len(ids) >= 60
    cue = encode("\nAnswer:")["input_ids"]
    answers = [tuple(encode(text)["input_ids"]) for text in (" 6", " 8 apples")]
    cuts = (len(ids) - 20, len(ids) - 9, len(ids))
    every = [Continuation((*ids[:cut], *cue), answer) for cut in cuts for answer in answers]
    theirs = by_plain_forwards(smollm2.hf, every)
    for chunk in (16, 512):
        assert worst(score(smollm2, every, chunk=chunk).token_logprobs, theirs) < 1e-4
    assert sum(theirs[4]) > -4  # after the whole chain its answer is likely: a real model
