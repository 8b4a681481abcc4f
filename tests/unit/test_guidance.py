"""Guidance by counterfactual attention: numbers by hand, the identity, and a planted prior."""

from __future__ import annotations

import math
import re

import pytest
import torch

from experiments import copy_prior
from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention
from interp.edits import Add, Patch, ResampleAblate
from interp.engine.loading import load
from interp.errors import InputError, PositionError
from interp.sites import Each, New
from interp.steering.guidance import effect, guide, guided_generate
from tests.strategies import tiny

SITE = "1.attn.pattern"
BATCH = [[5, 60, 7, 200, 33, 44, 21, 90, 10], [9, 33, 8, 7]]
SAME = ScaleAttention(SITE, keys=0, factor=1.0)
RANDOM = [ReplacePattern(f"{layer}.attn.pattern", kind="random", seed=1) for layer in range(3)]

# ---------------------------------------------------------------- numbers


def test_guided_logits_are_the_papers_sum():
    """(1 + 2 * 0.5) l - 0.5 l_1 - 0.5 l_2, for l = (2, 1), l_1 = (0, 1), l_2 = (1, 3)."""
    fact, others = torch.tensor([2.0, 1.0]), torch.tensor([[0.0, 1.0], [1.0, 3.0]])
    assert guide(fact, others, guidance=0.5, plausibility=0.0).tolist() == [3.5, 0.0]
    assert guide(fact, others[:1], guidance=2.0, plausibility=0.0).tolist() == [6.0, 1.0]
    assert guide(fact, others, guidance=0.0, plausibility=0.0).tolist() == [2.0, 1.0]


def test_tokens_below_a_share_of_the_likeliest_are_not_written():
    """A tenth of the likeliest probability is ln 10 = 2.3026 below its logit."""
    fact = torch.tensor([[5.0, 5 - 2.30, 5 - 2.31], [0.0, -2.31, -2.30]])
    made = guide(fact, torch.zeros(1, 2, 3), guidance=0.0, plausibility=0.1)
    assert made.isfinite().tolist() == [[True, True, False], [True, False, True]]
    only = guide(fact, torch.zeros(1, 2, 3), guidance=1.0, plausibility=1.0)
    assert only.isfinite().sum(-1).tolist() == [1, 1]


def test_a_counterfactual_that_is_the_fact_moves_no_bit():
    fact = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(guide(fact, fact.expand(3, 4, 50), guidance=0.7, plausibility=0.0), fact)


def test_the_effect_is_a_difference_of_log_probabilities():
    model = tiny("tiny-gpt2")
    found = effect(model, BATCH, RANDOM)
    fact, other = (model.run(BATCH, edits=e, logits="last").logits for e in ((), RANDOM))
    assert torch.equal(found, fact.log_softmax(-1) - other.log_softmax(-1))
    assert found.abs().max() > 0.1
    assert effect(model, BATCH, [SAME]).abs().max() < 1e-5  # sdpa against the product written out


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_under_a_counterfactual_that_is_the_fact_the_text_is_the_plain_one(temperature):
    model, common = tiny("tiny-llama"), {"max_new_tokens": 6, "temperature": temperature, "seed": 4}
    plain = model.generate(BATCH, keep_logits=True, **common)
    guided = guided_generate(
        model, BATCH, counterfactuals=[[SAME], [SAME]], plausibility=0.0, keep_logits=True, **common
    )
    assert guided.new_ids == plain.new_ids and guided.texts == plain.texts
    # float32: two rows or six in a batch sum in another order.
    torch.testing.assert_close(guided.logits, plain.logits, rtol=0, atol=2e-5)
    assert not any(proof.acted for proof in guided.receipt.edits)


def by_hand(model, prompt, counterfactuals, n_new, guidance):
    """One prompt, no cache, no batch: run the whole text again for each token."""
    text, kept = list(prompt), []
    for _ in range(n_new):
        fact = model.run(text, logits="last").logits[0]
        others = [model.run(text, edits=e, logits="last").logits[0] for e in counterfactuals]
        moved = (1 + guidance * len(others)) * fact - guidance * sum(others)
        moved[fact < fact.max() + math.log(0.1)] = -math.inf
        kept.append(moved)
        text.append(int(moved.argmax()))
    return text[len(prompt) :], torch.stack(kept)


def test_guided_text_is_the_one_of_a_loop_without_batch_or_cache():
    model = tiny("tiny-llama")
    cut = Knockout(SITE, positions=(2, 3), keys=1, renormalise=False)
    prompts = [[299, 120, 158, 270, 55, 270, 271, 256, 229], [66, 56, 293, 225]]
    counterfactuals = [RANDOM, [cut]]
    made = guided_generate(
        model,
        prompts,
        counterfactuals=counterfactuals,
        max_new_tokens=5,
        guidance=0.8,
        keep_logits=True,
    )
    plain = model.generate(prompts, max_new_tokens=5)
    for row, prompt in enumerate(prompts):
        ids, logits = by_hand(model, prompt, counterfactuals, 5, 0.8)
        assert list(made.new_ids[row]) == ids
        assert made.logits is not None
        torch.testing.assert_close(made.logits[row], logits, rtol=0, atol=1e-4)
    assert made.new_ids != plain.new_ids
    assert made.prompt_ids == plain.prompt_ids
    assert [len(proof.tokens) for proof in made.receipt.edits] == [9 + 4 + 2 * 4] * 3 + [4]
    assert made.receipt.acted and made.receipt[3].edit is cut


def test_edits_name_prompts_as_if_they_were_alone():
    """Sources, donors, `Each` and rows count the two prompts, whichever copy they act on."""
    model = tiny("tiny-llama")
    source = model.run([[t + 1 for t in ids] for ids in BATCH], capture="1.resid_post")
    act = source.acts["1.resid_post"]
    edits = [
        Patch("1.resid_post", positions=(1, 2), source=act),
        ResampleAblate("0.attn_out", positions=0, source=act, seed=3),
        Knockout(SITE, positions=Each(((8,), (3,))), keys=Each(((2, 3), (1,)))),
        Add("1.mlp_out", positions="last", rows=1, vector=torch.ones(32)),
    ]
    together = guided_generate(
        model,
        BATCH,
        counterfactuals=[[SAME], edits],
        max_new_tokens=1,
        plausibility=0.0,
        guidance=1.0,
        keep_logits=True,
    )
    fact = model.run(BATCH, logits="last").logits
    other = model.run(BATCH, edits=edits, logits="last")
    assert together.logits is not None
    torch.testing.assert_close(together.logits[:, 0], 2 * fact - other.logits, rtol=0, atol=1e-4)
    proofs = together.receipt.edits[1:]
    assert [proof.edit for proof in proofs] == edits
    assert [p.tokens for p in proofs] == [p.tokens for p in other.receipt.edits]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"guidance": -1.0},
            InputError,
            "guidance=-1.0: give 0 (none) or a positive number, such as 0.5.",
        ),
        (
            {"plausibility": 1.5},
            InputError,
            "plausibility=1.5: give a share of the likeliest token's probability, from 0 (keep all "
            "tokens) to 1, such as 0.1.",
        ),
        (
            {"counterfactuals": []},
            InputError,
            "No counterfactual was given: pass at least one list of edits.",
        ),
        (
            {"counterfactuals": [[SAME], []]},
            InputError,
            "Counterfactual 1 is []: give a list with at least one edit, or it is the model as it "
            "is.",
        ),
        ({"max_new_tokens": 0}, InputError, "max_new_tokens=0: ask for at least 1."),
        (
            {"max_new_tokens": 504},
            InputError,
            "9 prompt tokens and max_new_tokens=504 exceed the context of tiny-llama, 512 tokens.",
        ),
        (
            {"counterfactuals": [[Knockout(SITE, positions=Each(((1,),)), keys=0)]]},
            PositionError,
            "Knockout(1.attn.pattern, positions=Each(((1,),)), keys=(0,)): Each names positions "
            "for 1 prompts and the batch has 2; give one tuple a prompt.",
        ),
        (
            {"counterfactuals": [[Knockout(SITE, positions=New(2), keys=0)]], "max_new_tokens": 2},
            PositionError,
            "Knockout(1.attn.pattern, positions=New(2), keys=(0,)): the model sees 1 new tokens of "
            "prompt 0, so there is no new token 2; raise max_new_tokens of generate.",
        ),
    ],
)
def test_what_cannot_be_guided_is_refused_before_the_model_runs(
    settings, error, message, monkeypatch
):
    model = tiny("tiny-llama")
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    given = {"counterfactuals": [[SAME]], "max_new_tokens": 2} | settings
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        guided_generate(model, BATCH, **given)


# ---------------------------------------------------------------- planted

N = 30


@pytest.fixture(scope="module")
def copier():
    """The trained model, rows that it has not seen, and the rarer copied letters among them."""
    config = copy_prior.Config()
    data = copy_prior.rows(N, config, torch.Generator().manual_seed(77))
    return load(copy_prior.load_trained()), data


@pytest.mark.parametrize("kind", ["uniform", "reversed", "shuffled", "random"])
def test_attention_matters_for_copied_letters_and_not_for_words(kind, copier):
    """A letter that the model knows only from its prior costs the entropy of the prior.

    That is 1.29 nats for twelve letters in proportion to 1 / i^2. Words are drawn from as steep a
    prior, but nothing else tells them either.
    """
    model, data = copier
    found = copy_prior.attention_effects(model, data, kind)
    assert 1.0 < float(found["copied"].mean()) < 1.6
    rare = data.ids[:, data.copied] > 2  # a fifth of the letters
    assert found["copied"][rare].mean() > 2.5
    assert found["words"].abs().mean() < 0.05
    words = data.ids[:, data.words] > copy_prior.Config().n_letters + 2
    assert found["words"][words].abs().mean() < 0.1  # rare words too


def test_guidance_moves_copied_letters_away_from_the_prior_and_leaves_words(copier):
    model, data = copier
    fact, other = (
        model.run(data.ids, edits=edits).logits
        for edits in ((), copy_prior.replaced(model, "random", seed=9))
    )
    moved = guide(fact, other[None], guidance=1.0, plausibility=0.0)
    right = data.ids[:, data.copied, None]
    at = data.copied - 1

    def margin(logits):  # of the right letter over letter 1, which the prior favours, in nats
        return (logits[:, at].gather(2, right)[..., 0] - logits[:, at, 1])[right[..., 0] != 1]

    assert (margin(moved) - margin(fact)).mean() > 3.0
    before, after = (logits[:, data.words - 1].softmax(-1) for logits in (fact, moved))
    assert (after - before).abs().sum(-1).mean() / 2 < 0.02  # total variation


def test_the_planted_kinds_are_what_they_are_said_to_be(copier):
    """Each letter is copied once with a word after it, and the trained model copies."""
    model, data = copier
    k = len(data.copied)
    assert torch.equal(data.ids[:, data.copied], data.ids[:, 1 : 1 + k])
    assert data.ids[:, data.words].min() > copy_prior.Config().n_letters
    guess = model.run(data.ids).logits.argmax(-1)[:, data.copied - 1]
    assert (guess == data.ids[:, data.copied]).double().mean() > 0.97
