"""Laws of path patching that hold for every prompt, sender and receiver."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.engine.sweep import At, sweep
from interp.metrics import LogitDiff
from interp.patching.path import path_patch
from tests.strategies import prompts, tiny, token

MODELS = st.sampled_from(("tiny-gpt2", "tiny-gemma3", "tiny-neox"))
THROUGH = st.sampled_from(("direct", "mlps", "all"))
SENDER = st.sampled_from(("embed", "0.h1", "0.attn_out", "0.mlp_out", "1.resid", "1.h2@last"))
RECEIVER = st.sampled_from(("2.h1.q", "2.v", "2.h0.pattern", "2.mlp", "2.resid", "logits"))
METRIC = LogitDiff(5, 6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Base prompts, and source prompts of the same lengths."""
    base = draw(prompts(max_rows=2, max_length=5))
    return base, [[draw(token) for _ in row] for row in base]


@settings(deadline=None, derandomize=True, max_examples=5)
@given(MODELS, prompts(max_rows=2, max_length=5), SENDER, RECEIVER, THROUGH)
def test_a_source_that_is_the_base_changes_nothing_at_all(name, base, sender, receiver, through):
    paths = path_patch(
        tiny(name), base, base, [(sender, receiver)], METRIC, through=through, say=None
    )
    assert torch.equal(paths.values[0], paths.base)
    assert not paths.acted.any() and torch.equal(paths.source, paths.base)


@settings(deadline=None, derandomize=True, max_examples=4)
@given(MODELS, pairs(), st.integers(1, 2), THROUGH)
def test_everything_before_a_layer_to_its_stream_is_the_stream_patched(name, pair, layer, through):
    base, source = pair
    model = tiny(name)
    before = [f"{n}.{part}" for n in range(layer) for part in ("attn_out", "mlp_out")]
    paths = path_patch(
        model, base, source, [(["embed", *before], f"{layer}.resid")], METRIC,
        through=through, say=None,
    )  # fmt: skip
    whole = sweep(model, base, [At(f"{layer}.resid_pre")], METRIC, source=source, say=None)
    # float32: the stream is the same sum in another order.
    torch.testing.assert_close(paths.values, whole.values, rtol=1e-5, atol=2e-5)


@settings(deadline=None, derandomize=True, max_examples=4)
@given(MODELS, pairs(), SENDER, THROUGH)
def test_the_last_stream_is_the_logits(name, pair, sender, through):
    edges = [(sender, "2.resid_post"), (sender, "logits")]
    paths = path_patch(tiny(name), *pair, edges, METRIC, through=through, say=None)
    torch.testing.assert_close(paths.values[0], paths.values[1], rtol=1e-5, atol=2e-5)


@settings(deadline=None, derandomize=True, max_examples=3)
@given(MODELS, pairs(), SENDER, RECEIVER, THROUGH)
def test_a_batch_gives_what_its_prompts_give_alone(name, pair, sender, receiver, through):
    edges, kept = [(sender, receiver)], {"through": through, "say": None}
    together = path_patch(tiny(name), *pair, edges, METRIC, **kept)
    alone = [
        path_patch(tiny(name), [base], [source], edges, METRIC, **kept).values
        for base, source in zip(*pair, strict=True)
    ]
    torch.testing.assert_close(together.values, torch.cat(alone, dim=1), rtol=1e-5, atol=2e-5)
