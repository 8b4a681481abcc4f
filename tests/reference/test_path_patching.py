"""Path patching: the fast algorithm against the naive one, and both against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp.engine.fingerprint import fingerprint
from interp.metrics import LogitDiff
from interp.models.tiny import TINY
from interp.patching.path import Paths, Receiver, Sender, all_edges, path_patch
from interp.sites import Each
from tests.strategies import tiny

SENDERS = ("embed", "0.h1", "0.h2@1", "0.attn_out", "0.mlp_out", "1.resid", "1.h3@last")
RECEIVERS = (
    "2.h1.q",
    "2.h1.k",
    "2.h1.k_each",
    "2.h2.v@last",
    "2.h3.v_each",
    "2.h3.pattern",
    "1.mlp",
    "2.mlp",
    "2.resid",
    "2.resid_mid",
    "2.resid_post",
    "logits",
)
SEVERAL = (
    (
        ["embed", "0.h1", "0.h3@2", "1.mlp_out"],
        ["1.mlp", "2.h0.q", "2.h1.q", "2.k@1", "2.resid_post"],
    ),
    (["0.h0", "0.h1", "1.attn_out@0,2"], "logits"),
    (["0.h0", "1.resid"], ["1.v", "2.pattern"]),
)
METRIC = LogitDiff([5, 6, 7], 8)


def ids(n: int, seed: int) -> list[int]:
    return torch.randint(9, 340, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


BASE = [ids(11, 1), ids(8, 2), ids(3, 3)]  # ragged; the first overruns the sliding windows
SOURCE = [BASE[0][:2] + ids(9, 4), BASE[1][:1] + ids(7, 5), BASE[2][:1] + ids(2, 6)]


def some(name: str, through: str) -> list:
    """A few pairs of ends: over all models and ways every second one comes once.

    `experiments/path_exact.py` compares every pair of kinds in every model and way.
    """
    place = 3 * list(TINY).index(name) + ("direct", "mlps", "all").index(through)
    edges = [(sender, receiver) for sender in SENDERS for receiver in RECEIVERS][2 * place :: 42]
    if name == "tiny-neox":  # parallel blocks: no stream between attention and MLP
        edges = [e for e in edges if e[1] != "2.resid_mid" and e != ("1.h3@last", "1.mlp")]
    return [*edges, SEVERAL[place % 3]]


def both(name: str, edges: list, dtype: str = "float32", **settings) -> tuple[Paths, Paths]:
    args = (tiny(name, dtype), BASE, SOURCE, edges, METRIC)
    fast = path_patch(*args, say=None, **settings)
    return fast, path_patch(*args, say=None, exact=True, **settings)


@pytest.mark.parametrize("through", ["direct", "mlps", "all"])
@pytest.mark.parametrize("name", TINY)
def test_fast_equals_naive(name, through):
    fast, naive = both(name, some(name, through), through=through)
    # Logits here are up to 30 in size, of which float32 rounds 2e-6 at each step.
    torch.testing.assert_close(fast.values, naive.values, rtol=0, atol=1e-5)
    assert float(naive.effect.abs().max()) > 0.05
    assert torch.equal(fast.acted, naive.acted)
    moved = naive.acted
    ours, theirs = (
        torch.tensor([sum(r.change**2 for r in edge) for edge in paths.receipts]).sqrt()
        for paths in (fast, naive)
    )
    torch.testing.assert_close(ours[moved], theirs[moved], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("through", ["direct", "mlps", "all"])
def test_in_float64_the_difference_falls_by_eight_orders(through):
    edges = [("0.h1", "2.h1.q"), ("embed", "logits"), ("0.mlp_out", "2.mlp"), *SEVERAL]
    fast, naive = both("tiny-gpt2", edges, "float64", through=through)
    torch.testing.assert_close(fast.values, naive.values, rtol=0, atol=1e-13)
    assert fast.values.dtype == torch.float64


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gemma3"])
def test_frozen_norms_are_linear(name):
    """With frozen norms the direct effects on the logits of two parts add up, else they do not."""
    parts = ["embed", "0.h1", "0.mlp_out", "2.attn_out"]
    edges = [(part, "logits") for part in parts] + [(parts, "logits")]
    for frozen in (True, False):
        fast, naive = both(name, edges, freeze_norms=frozen)
        torch.testing.assert_close(fast.values, naive.values, rtol=1e-6, atol=1e-5)
        error = float((fast.effect[:-1].sum(0) - fast.effect[-1]).abs().max())
        assert error < 2e-5 if frozen else error > 1e-2


def test_each_prompt_may_have_its_own_positions_and_several_logits_are_read():
    sender = Sender("head", 0, 1, Each(((2, 3), (1,), (1, 2))))
    receiver = Receiver("q", 2, 0, Each(((3,), (0, 1), (2,))))

    def metric(logits: Tensor, rows: Tensor) -> Tensor:
        return logits[:, :, 5].sum(1) + rows

    args = (tiny("tiny-llama"), BASE, SOURCE, [(sender, receiver), (sender, "logits@1")], metric)
    fast = path_patch(*args, logits=(1, 2), say=None)
    naive = path_patch(*args, logits=(1, 2), say=None, exact=True)
    torch.testing.assert_close(fast.values, naive.values, rtol=0, atol=1e-5)
    assert (fast.effect[0, 1:].abs() > 1e-4).any()
    # The first source prompt differs from position 2 on, and no sender reaches position 1 there.
    assert fast.effect[1, 0] == 0 and (fast.effect[1, 1:].abs() > 1e-4).all()
    assert fast.receipts[0][0].tokens == 3 and fast.receipts[1][0].tokens == 2


def by_hand(hf, base: Tensor, source: Tensor) -> Tensor:
    """The direct path from head 1 of layer 0 to the queries of head 2 in layer 1, in plain torch.

    GPT-2: the stream that enters layer 1 gets head 1's change, times its rows of the output
    projection; ln_1 and the query projection are computed anew.
    """
    kept = {}
    first, second = hf.transformer.h[0], hf.transformer.h[1]
    taps = [
        first.attn.c_proj.register_forward_pre_hook(lambda m, a: kept.update(z=a[0])),
        second.register_forward_pre_hook(lambda m, a: kept.update(resid=a[0])),
    ]
    hf(source)
    from_source = kept["z"]
    hf(base)
    change = (from_source - kept["z"])[..., 8:16] @ first.attn.c_proj.weight[8:16]
    query = second.attn.c_attn(second.ln_1(kept["resid"] + change))[..., 16:24]
    for tap in taps:
        tap.remove()

    def put(module, args, output):
        output = output.clone()
        output[..., 16:24] = query
        return output

    tap = second.attn.c_attn.register_forward_hook(put)
    logits = hf(base).logits[:, -1]
    tap.remove()
    return logits


@torch.no_grad()
def test_a_direct_path_equals_plain_torch():
    model = tiny("tiny-gpt2", "float64")
    base, source = BASE[0], SOURCE[0]
    logits = by_hand(model.hf, torch.tensor([base]), torch.tensor([source]))
    for exact in (False, True):
        paths = path_patch(
            model, [base], [source], [("0.h1", "1.h2.q")], LogitDiff(5, 6), exact=exact, say=None
        )
        assert abs(float(paths.values[0, 0] - (logits[0, 5] - logits[0, 6]))) < 1e-12
        assert float(paths.effect.abs().max()) > 1e-3


def test_memory_divides_the_work_and_changes_nothing(monkeypatch):
    edges = all_edges(tiny("tiny-llama"), senders=("embed", "mlp_out"), receivers=("v", "mlp"))
    args = (tiny("tiny-llama"), BASE, SOURCE, edges, METRIC)
    whole = path_patch(*args, say=None)
    before = fingerprint(tiny("tiny-llama").hf)
    monkeypatch.setattr("interp.patching.path.TOKENS_A_PASS", 40)
    parts = path_patch(*args, memory_gib=2e-5, say=None)
    assert whole.plan.groups == 1 and parts.plan.groups > 2
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-5)
    assert fingerprint(tiny("tiny-llama").hf) == before


def test_heads_that_share_keys_are_one_receiver_and_virtual_ones_are_not():
    edges = [("embed", r) for r in ("2.h0.k", "2.h1.k", "2.h0.k_each", "2.h1.k_each")]
    edges.append(("embed", ["2.h0.k_each", "2.h1.k_each"]))
    paths = path_patch(tiny("tiny-llama"), BASE, SOURCE, edges, METRIC, say=None)
    torch.testing.assert_close(paths.values[1], paths.values[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(paths.values[4], paths.values[0], rtol=0, atol=1e-5)
    assert float((paths.values[2] - paths.values[0]).abs().max()) > 1e-3
    assert float((paths.values[2] - paths.values[3]).abs().max()) > 1e-3


@pytest.mark.parametrize("engine", ["transformer_lens", "nnsight"])
def test_other_engines_run_the_naive_algorithm(engine):
    model = interp.load("tiny-gpt2", engine=engine)
    edges = [("0.h1", "2.h1.q"), ("embed", "logits")]
    said = []
    theirs = path_patch(model, BASE, SOURCE, edges, METRIC, say=said.append)
    ours = path_patch(tiny("tiny-gpt2"), BASE, SOURCE, edges, METRIC, say=None)
    torch.testing.assert_close(theirs.values, ours.values, rtol=0, atol=1e-5)
    assert f"the engine {engine} cannot start in the middle" in said[0]
