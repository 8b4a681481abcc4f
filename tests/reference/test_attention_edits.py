"""Attention edits against attention written out by hand, in every engine and architecture."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import interp
from interp.attention_edits import AttentionEdit, Knockout, ReplacePattern, ScaleAttention
from interp.edits import Scale
from interp.engine.fingerprint import fingerprint
from interp.engine.sweep import sweep
from interp.metrics import LogitDiff
from interp.models.tiny import TINY
from interp.sites import Each

SITE, LAYER = "1.attn.pattern", 1
SLIDING = "2.attn.pattern"  # has a window of 8 in tiny-mistral and tiny-gemma3
LONG = [5, 60, 7, 200, 33, 44, 21, 90, 10, 11, 12, 13]  # overruns the windows of 8
BATCH = [LONG, [9, 33, 8, 7, 6, 5, 77], [60, 61, 62, 63, 64, 65, 66, 67, 68]]

EDITS: dict[str, Callable[[str], AttentionEdit]] = {
    "knockout": lambda site: Knockout(site, heads=(0, 3), positions=(4, 6), keys=(1, 4)),
    "knockout, each": lambda site: Knockout(
        site, positions="last", keys=Each(((9, 11), (0,), (5, 6)))
    ),
    "knockout, rows do not sum to 1": lambda site: Knockout(site, keys=2, renormalise=False),
    "scale": lambda site: ScaleAttention(site, keys=(1, 2), factor=3.0, rows=(0, 2)),
    **{
        kind: lambda site, kind=kind: ReplacePattern(site, kind=kind, positions=(3, 5, 6), seed=4)
        for kind in ("uniform", "reversed", "shuffled", "random")
    },
}


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference; infinite where shapes or the places of NaN differ."""
    if ours.shape != theirs.shape or bool((ours.isnan() != theirs.isnan()).any()):
        return float("inf")
    return float((ours - theirs).nan_to_num().abs().max())


# ---------------------------------------------------------------- by hand

Change = Callable[[Tensor], Tensor]
"""Takes a pattern `[head, pos_q, pos_k]` and returns another."""


def attend(q: Tensor, k: Tensor, v: Tensor, change: Change) -> Tensor:
    """Causal attention of `[head, pos, d_head]`, with its pattern changed: `[pos, head * d]`."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    pattern = change(scores.masked_fill(later, -torch.inf).softmax(-1))
    return (pattern @ v).transpose(0, 1).flatten(1)


def gpt2(hf, ids: list[int], change: Change) -> Tensor:
    """The logits of GPT-2, with a change of the pattern in one layer."""
    body = hf.transformer
    x = body.wte.weight[ids] + body.wpe.weight[: len(ids)]
    for layer, block in enumerate(body.h):
        qkv = block.attn.c_attn(block.ln_1(x)).unflatten(-1, (3, 4, 8)).permute(1, 2, 0, 3)
        z = attend(*qkv, change if layer == LAYER else lambda pattern: pattern)
        x = x + block.attn.c_proj(z)
        x = x + block.mlp(block.ln_2(x))
    return body.ln_f(x) @ body.wte.weight.T


def rotated(x: Tensor) -> Tensor:
    """Turn the pairs (i, i + 4) of `[head, pos, 8]` by the angle pos / 10000 ^ (i / 4)."""
    angle = torch.arange(x.shape[1])[:, None] / 10_000 ** (torch.arange(4) / 4)
    a, b = x[..., :4], x[..., 4:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def llama(hf, ids: list[int], change: Change) -> Tensor:
    """The logits of Llama: rotary positions, two key-value heads for four query heads."""
    body = hf.model
    x = body.embed_tokens.weight[ids]
    for layer, block in enumerate(body.layers):
        h, attn = block.input_layernorm(x), block.self_attn
        q, k, v = (
            project(h).unflatten(-1, (-1, 8)).transpose(0, 1)
            for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        k, v = (each[[0, 0, 1, 1]] for each in (rotated(k), v))
        z = attend(rotated(q), k, v, change if layer == LAYER else lambda pattern: pattern)
        x = x + attn.o_proj(z)
        x = x + block.mlp(block.post_attention_layernorm(x))
    return hf.lm_head(body.norm(x))


def cut(pattern: Tensor) -> Tensor:
    """Heads 0 and 3, queries 4 and 6 without keys 1 and 4, rows that sum to 1."""
    new = pattern.clone()
    for head in (0, 3):
        for query in (4, 6):
            new[head, query, [1, 4]] = 0
            new[head, query] /= new[head, query].sum()
    return new


def scaled(pattern: Tensor) -> Tensor:
    """Three times the attention to keys 1 and 2: ln 3 more in the scores."""
    scores = pattern.log()
    scores[:, :, 1:3] += math.log(3)
    return scores.softmax(-1)


def flat(pattern: Tensor) -> Tensor:
    """Query q gives 1 / (q + 1) to each key that it sees, in head 2."""
    new = pattern.clone()
    new[2] = torch.ones_like(new[2]).tril() / torch.arange(1, len(new[2]) + 1)[:, None]
    return new


def turned(pattern: Tensor) -> Tensor:
    """The largest weight less each, by loops; not divided."""
    new = pattern.clone()
    for head in new:
        for query, row in enumerate(head):
            row[: query + 1] = row.max() - row[: query + 1]
    return new


def other(pattern: Tensor) -> Tensor:
    """A pattern out of thin air: each query attends to the key before it."""
    return OTHER.expand_as(pattern)


OTHER = torch.eye(12).roll(-1, 1).tril()
OTHER[0, 0] = 1.0

BY_HAND: dict[str, tuple[AttentionEdit, Change]] = {
    "knockout": (EDITS["knockout"](SITE), cut),
    "scale": (ScaleAttention(SITE, keys=(1, 2), factor=3.0), scaled),
    "uniform": (ReplacePattern(SITE, kind="uniform", heads=2), flat),
    "reversed": (ReplacePattern(SITE, kind="reversed", renormalise=False), turned),
    "source": (ReplacePattern(SITE, source=OTHER.expand(1, 4, 12, 12)), other),
}


@pytest.mark.parametrize("what", BY_HAND)
@pytest.mark.parametrize(("name", "forward"), [("tiny-gpt2", gpt2), ("tiny-llama", llama)])
@torch.no_grad()
def test_an_edited_pattern_is_the_one_written_by_hand(name, forward, what, tiny_hf, tiny_model):
    edit, change = BY_HAND[what]
    hf = tiny_hf(name)
    plain, edited = (forward(hf, LONG, f) for f in (lambda pattern: pattern, change))
    run = tiny_model(name).run(LONG, edits=[edit])
    # float32: the hand-written forward leaves 1e-5 without an edit, and each edit moves far more.
    assert gap(tiny_model(name).run(LONG).logits[0], plain) < 2e-5
    assert gap(run.logits[0], edited) < 2e-5
    assert gap(edited, plain) > 1e-2


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", TINY)
def test_transformer_lens_agrees(name, tiny_model):
    plain = tiny_model(name).run(BATCH).logits
    for make in EDITS.values():
        ours, theirs = (
            tiny_model(name, engine).run(BATCH, edits=[make(SLIDING)], capture=SLIDING)
            for engine in ("torch", "transformer_lens")
        )
        assert gap(ours.logits, theirs.logits) < 1e-5 * float(plain.nan_to_num().abs().max())
        assert gap(ours.acts[SLIDING], theirs.acts[SLIDING]) < 1e-5
        assert ours.receipt[0].tokens == theirs.receipt[0].tokens
        assert ours.receipt[0].fired == theirs.receipt[0].fired == 1
        assert gap(ours.logits, plain) > 1e-4


@pytest.mark.parametrize("name", TINY)
def test_rows_sum_to_one_and_never_see_the_future(name, tiny_model):
    model = tiny_model(name)
    back = torch.arange(12)[:, None] - torch.arange(12)
    hidden = (back < 0) | (back >= (model.sizes.window(2) or 99))
    wild = torch.rand(3, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    edits = [make(SLIDING) for what, make in EDITS.items() if "not sum" not in what]
    for edit in [*edits, ReplacePattern(SLIDING, source=wild)]:
        got = model.run(BATCH, edits=[edit], capture=SLIDING).acts[SLIDING]
        for row, ids in enumerate(BATCH):
            own = got[row, :, : len(ids), : len(ids)]
            assert gap(own.sum(-1), torch.ones(4, len(ids))) < 1e-6
            assert own[:, hidden[: len(ids), : len(ids)]].abs().sum() == 0


@pytest.mark.parametrize("name", TINY)
def test_a_pattern_replaced_by_its_own_changes_no_bit(name, tiny_model):
    model = tiny_model(name)
    clean = model.run(BATCH, capture=SLIDING)
    edit = ReplacePattern(SLIDING, source=clean.acts[SLIDING])
    again = model.run(BATCH, edits=[edit], capture=SLIDING)
    assert gap(again.logits, clean.logits) == 0 and not again.receipt.acted
    assert gap(again.acts[SLIDING], clean.acts[SLIDING]) == 0


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
def test_another_runs_pattern_comes_whole(name, tiny_model):
    model, others = tiny_model(name), [[token + 1 for token in ids] for ids in BATCH]
    source = model.run(others, capture=SITE).acts[SITE]
    got = model.run(BATCH, edits=[ReplacePattern(SITE, source=source)], capture=SITE).acts[SITE]
    assert gap(got, source) < 1e-6 < gap(got, model.run(BATCH, capture=SITE).acts[SITE])


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_cutting_what_has_no_weight_changes_no_bit(name, tiny_model):
    model = tiny_model(name)
    cut = Knockout(SITE, positions=(4, 5), keys=(1, 2))
    once = model.run(BATCH, edits=[cut])
    twice = model.run(BATCH, edits=[cut, cut])
    assert gap(once.logits, twice.logits) == 0
    assert [proof.acted for proof in twice.receipt.edits] == [True, False]


@pytest.mark.parametrize("name", TINY)
def test_neither_the_batch_nor_the_padding_moves_an_edit(name, tiny_model):
    model = tiny_model(name)
    for make in EDITS.values():
        edit = make(SLIDING)
        right = model.run(BATCH, edits=[edit])
        left = model.run(BATCH, edits=[edit], padding_side="left")
        assert gap(right.logits, left.logits) < 1e-5 * float(right.logits.nan_to_num().abs().max())


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gemma3", "tiny-mistral"])
@pytest.mark.parametrize("kind", ["uniform", "reversed", "shuffled", "random"])
def test_a_prompt_alone_is_a_prompt_in_a_batch(name, kind, tiny_model):
    model, edits = tiny_model(name), [ReplacePattern(SLIDING, kind=kind, seed=9)]
    together = model.run(BATCH, edits=edits)
    for row, ids in enumerate(BATCH):
        alone = model.run(ids, edits=edits).logits[0]
        assert gap(together.logits[row, : len(ids)], alone) < 1e-5 * float(alone.abs().max())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Knockout(SLIDING, positions="new", keys=Each(((9, 11), (4, 6), (8,)))),
        lambda: ReplacePattern(SLIDING, kind="shuffled", seed=2),
        lambda: ReplacePattern(SLIDING, kind="random", positions="new", heads=(1, 2)),
        lambda: ScaleAttention(SLIDING, keys=5, factor=4.0),
    ],
)
def test_the_cache_moves_nothing(name, make, tiny_model):
    settings = {"edits": [make()], "max_new_tokens": 4, "keep_logits": True}
    cached = tiny_model(name).generate(BATCH, **settings)
    whole = tiny_model(name).generate(BATCH, cache=False, **settings)
    assert cached.new_ids == whole.new_ids
    assert cached.receipt[0].tokens == whole.receipt[0].tokens
    size = float(cached.logits.nan_to_num().abs().max())
    assert gap(cached.logits, whole.logits) < 1e-5 * size
    plain = tiny_model(name).generate(BATCH, max_new_tokens=4, keep_logits=True)
    assert gap(cached.logits[:, -1], plain.logits[:, -1]) > 1e-4


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-mistral"])
def test_a_sweep_reuses_exactly(name, tiny_model):
    cells = [make(SLIDING) for make in EDITS.values()] + [EDITS["shuffled"](SITE)]
    metric = LogitDiff(7, 9)
    reused, exact = (
        sweep(tiny_model(name), BATCH, cells, metric, exact=exact, say=None)
        for exact in (False, True)
    )
    assert gap(reused.values, exact.values) < 1e-5 * float(exact.values.abs().max())
    assert float(exact.effect.abs().max()) > 1e-2
    proofs = zip(reused.receipts, exact.receipts, strict=True)
    assert all(a[0].tokens == b[0].tokens for a, b in proofs)


@pytest.mark.parametrize("name", TINY)
def test_only_the_edited_layer_leaves_the_fast_kernel(name, tiny_hf, monkeypatch):
    hf = tiny_hf(name)
    model = interp.load(hf)
    edit, calls = Knockout(SITE, positions=4, keys=1), []
    model.run(LONG, edits=[edit])  # reads the address book
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(1) or kernel(*args, **kwargs),
    )
    before = fingerprint(hf)
    plain = model.run(LONG, edits=[Scale("1.mlp_out", factor=1.0)])
    assert len(calls) == 3 and hf.config._attn_implementation == "sdpa"
    run = model.run(LONG, edits=[edit])
    assert len(calls) == 3 + 2 and run.receipt[0].fired == 1
    assert hf.config._attn_implementation == "sdpa" and fingerprint(hf) == before
    assert gap(model.run(LONG).logits, plain.logits) == 0
