"""Shared answers are exact: those of one plain pass and one plain generation a cell.

The judges are `exact=True` and, on tiny GPT-2, plain Hugging Face with a hook written by hand. The
prompts are ragged, two share a prefix, and they are longer than the sliding windows of 8.
"""

from __future__ import annotations

import pytest
import torch

from interp.attention_edits import Knockout, ScaleAttention
from interp.edits import Add, Patch, Scale, ZeroAblate
from interp.engine.answer_question import Cell
from interp.engine.answer_sweep import Answered, answer_sweep
from interp.engine.fingerprint import fingerprint
from interp.engine.loading import load
from interp.models.tiny import TINY
from interp.sites import Each
from tests.strategies import noise, tiny


def drawn(seed: int, *lengths: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 340, (n,), generator=random).tolist() for n in lengths]


PROMPTS = drawn(1, 11, 6, 13)
PROMPTS.append(PROMPTS[0][:8] + PROMPTS[2][:4])
TARGETS = drawn(2, 3, 1, 5, 2)
STEPS = Each(((5, 6), (2, 3), (8, 9), (9,)))
"""Tokens of a step, others in each prompt."""
N_NEW = 4
ROUNDING = 1e-5
"""float32: packed columns are multiplied in another order, and log-probabilities reach -20."""


def cells(name: str, dtype: str = "float32") -> list[Cell]:
    model = tiny(name, dtype)
    d = model.sizes.d_model
    vector = 3 * noise(d, seed=3).to(model.dtype)
    source = model.run(drawn(4, 11, 6, 13, 12), capture=["2.resid_pre"]).acts["2.resid_pre"]
    adds: list[Cell] = [Add(f"{i}.resid_pre", vector=vector, positions=STEPS) for i in range(3)]
    return [
        *adds,
        Add("2.resid_post", vector=vector, positions=STEPS),
        Add("0.resid_pre", vector=vector, positions=STEPS, coefficient=0.05),
        Patch("2.resid_pre", positions=STEPS, source=source),
        ZeroAblate("1.attn_out"),  # every token of the prompt, no new one
        ZeroAblate("1.attn.q", positions="last", heads=(0, 2)),
        ZeroAblate("1.mlp_out", positions=(3, 4), rows=(0, 2)),
        Scale("logits", factor=-1.0, positions="last"),
        Knockout("1.attn.pattern", keys=STEPS),
        ScaleAttention("0.attn.pattern", keys=STEPS, factor=0.3),
        [Add("1.resid_pre", vector=vector, positions=3), ZeroAblate("0.mlp_out", positions=5)],
        [],
    ]


def both(name: str, dtype: str = "float32", **options) -> tuple[Answered, Answered]:
    model = tiny(name, dtype)
    options = {"max_new_tokens": N_NEW, "chunk": 60, **options}
    several = cells(name, dtype)
    shared = answer_sweep(model, PROMPTS, TARGETS, several, **options)
    return shared, answer_sweep(model, PROMPTS, TARGETS, several, exact=True, **options)


def check(shared: Answered, exact: Answered, tolerance: float = ROUNDING) -> None:
    assert shared.new_ids == exact.new_ids
    assert shared.texts == exact.texts
    assert (shared.base_ids, shared.base_texts) == (exact.base_ids, exact.base_texts)
    assert float((shared.logprobs - exact.logprobs).abs().max()) <= tolerance
    assert float((shared.base_logprobs - exact.base_logprobs).abs().max()) <= tolerance
    for ours, theirs in zip(shared.receipts, exact.receipts, strict=True):
        assert [proof.tokens for proof in ours] == [proof.tokens for proof in theirs]
        assert [proof.change for proof in ours] == pytest.approx(
            [proof.change for proof in theirs], rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize("name", TINY)
def test_every_cell_answers_as_one_plain_pass_and_generation_do(name):
    before = fingerprint(tiny(name).hf)
    shared, exact = both(name)
    check(shared, exact)
    assert fingerprint(tiny(name).hf) == before
    moved = (exact.logprobs - exact.base_logprobs).abs() > 1e-3
    assert moved[:3].all()  # so that two sweeps that do nothing would not agree
    assert shared.logprobs[-1].tolist() == shared.base_logprobs.tolist()  # the cell without edits
    assert shared.logprobs[8, 1] == shared.base_logprobs[1]  # rows=(0, 2)
    assert len({ids for row in exact.new_ids for ids in row}) > 8
    assert shared.spent.forwards < exact.spent.forwards / 2
    assert shared.spent.tokens < exact.spent.tokens
    assert shared.spent.naive_tokens == exact.spent.tokens


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-neox"])
def test_in_float64_the_difference_falls_by_eight_orders(name):
    """So what float32 leaves is rounding."""
    check(*both(name, "float64", max_new_tokens=2), tolerance=1e-12)


def test_any_chunk_gives_the_same():
    several, model = cells("tiny-mistral")[::3], tiny("tiny-mistral")
    exact = answer_sweep(model, PROMPTS, TARGETS, several, max_new_tokens=3, exact=True)
    for chunk in (1, 10_000):
        check(answer_sweep(model, PROMPTS, TARGETS, several, max_new_tokens=3, chunk=chunk), exact)


def test_drafts_are_refused_at_the_first_token_in_the_middle_and_never():
    """Against the answer of the base run: how far it agrees is where a draft is refused."""
    model = tiny("tiny-llama")
    vector = noise(model.sizes.d_model, seed=3)
    several = [
        Add("1.resid_pre", vector=vector, positions=STEPS, coefficient=c)
        for c in (0.01, 0.3, 0.6, 1.0, 1.5, 3.0, 6.0)
    ]
    options = {"max_new_tokens": N_NEW}
    shared = answer_sweep(model, PROMPTS, TARGETS, several, **options)
    check(shared, answer_sweep(model, PROMPTS, TARGETS, several, exact=True, **options))
    agreed = set()
    for row in shared.new_ids:
        for ids, base in zip(row, shared.base_ids, strict=True):
            agreed.add(next((i for i in range(N_NEW) if ids[i] != base[i]), N_NEW))
    assert {0, N_NEW} < agreed


def test_a_target_that_is_the_answer_needs_no_writing_on():
    """The target is then the draft that holds: the base and each cell take one pass."""
    model = tiny("tiny-llama")
    base = answer_sweep(model, PROMPTS, TARGETS, max_new_tokens=N_NEW)
    again = answer_sweep(model, PROMPTS, base.base_ids, max_new_tokens=N_NEW)
    assert again.base_ids == base.base_ids
    assert (base.spent.forwards, again.spent.forwards) == (1 + (N_NEW - 1) + 1, 1)


def by_hand(hf, ids, target, layer, vector, positions):
    """Teacher force and decode greedily, the whole text anew for each token, with a hook."""

    def hook(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden = hidden.clone()
        hidden[0, list(positions)] += vector
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )

    handle = hf.transformer.h[layer].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = hf(torch.tensor([[*ids, *target]])).logits[0, len(ids) - 1 : -1]
            logprob = float(logits.log_softmax(-1)[range(len(target)), target].sum())
            new: list[int] = []
            while len(new) < N_NEW and (not new or new[-1] != hf.config.eos_token_id):
                new.append(int(hf(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
    finally:
        handle.remove()
    return logprob, tuple(new)


def test_steering_is_what_a_hook_on_plain_hugging_face_does():
    model = tiny("tiny-gpt2")
    vector = 3 * noise(model.sizes.d_model, seed=3)
    several = [Add(f"{i}.resid_pre", vector=vector, positions=STEPS) for i in range(3)]
    found = answer_sweep(model, PROMPTS, TARGETS, several, max_new_tokens=N_NEW)
    for layer in range(3):
        for p, (ids, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
            logprob, new = by_hand(model.hf, ids, target, layer, vector, STEPS.prompts[p])
            assert found.new_ids[layer][p] == new
            assert float(found.logprobs[layer, p]) == pytest.approx(logprob, abs=ROUNDING)
    for p, (ids, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        logprob, new = by_hand(model.hf, ids, target, 0, 0 * vector, (0,))
        assert found.base_ids[p] == new
        assert float(found.base_logprobs[p]) == pytest.approx(logprob, abs=ROUNDING)


def test_another_engine_and_other_attention_take_the_plain_way():
    several = cells("tiny-gpt2")[:2]
    ours = answer_sweep(tiny("tiny-gpt2"), PROMPTS, TARGETS, several, max_new_tokens=3)
    lens = load("tiny-gpt2", engine="transformer_lens")
    theirs = answer_sweep(lens, PROMPTS, TARGETS, several, max_new_tokens=3)
    assert theirs.spent.forwards == theirs.spent.naive_forwards > ours.spent.forwards
    check(ours, theirs, tolerance=1e-4)  # its own kernels, in float32
