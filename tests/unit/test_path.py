"""Path patching on a network worked out by hand, the written forms, and every refusal."""

from __future__ import annotations

import inspect
from functools import cache

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from interp.engine.torch_engine import TorchModel
from interp.errors import EditError, InputError, PositionError, SiteError
from interp.metrics import LogitDiff
from interp.patching.path import Edge, Receiver, Sender, all_edges, path_patch
from tests.strategies import R, says, tiny

BASE, SOURCE = [[1]], [[3]]


@cache
def network() -> TorchModel:
    """Two layers of whole numbers; of one token t it makes x = t * (1, 2, 3, 4).

    Norms do nothing, queries and keys are 0, values copy the stream: attn_out = 2 resid_pre. The
    MLP is linear: mlp_out = 10 resid_mid. So a block multiplies the stream by 3 * 11 = 33, and the
    logits are 1089 x. Head 0 carries the first two coordinates, head 1 the others.
    """
    config = GPT2Config(
        n_embd=4, n_layer=2, n_head=2, n_inner=4, vocab_size=4, n_positions=8,
        activation_function="linear", tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    one = torch.eye(4)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        hf.transformer.wte.weight.copy_(torch.arange(4.0)[:, None] * R)
        hf.lm_head.weight.copy_(one)
        hf.transformer.ln_f = nn.Identity()
        for block in hf.transformer.h:
            block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
            block.attn.c_attn.weight[:, 8:].copy_(one)
            block.attn.c_proj.weight.copy_(2 * one)
            block.mlp.c_fc.weight.copy_(one)
            block.mlp.c_proj.weight.copy_(10 * one)
    return TorchModel(hf, None, "hand-worked")


def first(logits, rows):
    return logits[:, 0]


def value(sender, receiver, *, exact=False, **settings) -> float:
    edges, args = [(sender, receiver)], (network(), BASE, SOURCE)
    paths = path_patch(*args, edges, first, say=None, exact=exact, **settings)
    assert (paths.base.item(), paths.source.item()) == (1089, 3267)
    return paths.values.item()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("sender", "receiver", "through", "answer"),
    [
        # attn_out of layer 0 is 6 and not 2: 4 more
        ("0.attn_out", "logits", "direct", 1089 + 4),
        # the MLPs see it: 1 + 6 + 70 = 77 enters layer 1, whose attention still adds 66
        ("0.attn_out", "logits", "mlps", 11 * (77 + 66)),
        ("0.attn_out", "logits", "all", 77 * 33),
        ("0.h0", "logits", "direct", 1089 + 4),
        ("0.h1", "logits", "direct", 1089),  # the other coordinates
        # the MLP of layer 0 reads 7 and adds 70; the stream beside it keeps its 3
        ("0.attn_out", "0.mlp", "direct", (3 + 70) * 33),
        ("0.h0", "0.mlp", "direct", (3 + 70) * 33),
        # the values of layer 1 read 33 + 2; its attention adds 70
        ("embed", "1.h0.v", "direct", 11 * (33 + 70)),
        # through the MLP of layer 0, whose 30 grows to 10 * (3 + 2): they read 3 + 2 + 50
        ("embed", "1.h0.v", "mlps", 11 * (33 + 2 * 55)),
        ("embed", "1.h0.v", "all", 11 * (33 + 2 * 99)),
        ("0.mlp_out", "1.resid", "direct", (3 + 90) * 33),
        ("0.mlp_out", "1.resid_mid", "direct", 11 * (33 + 66 + 60)),
        ("1.resid", "logits", "direct", 1089 + 66),
        (["embed", "0.attn_out"], "logits", "direct", 1089 + 2 + 4),
        ("embed", ["1.h0.v", "1.mlp"], "direct", 33 + 70 + 10 * (33 + 66 + 2)),
        ("embed", "1.h0.q", "direct", 1089),  # queries are always 0
    ],
)
def test_worked_out_by_hand(sender, receiver, through, answer, exact):
    assert value(sender, receiver, through=through, exact=exact) == answer


@pytest.mark.parametrize("exact", [False, True])
def test_an_edge_proves_that_it_moved_its_receiver_or_is_marked(exact):
    edges = [("embed", "1.h0.v"), ("embed", "1.h0.q"), ("0.attn_out", "logits")]
    paths = path_patch(network(), BASE, SOURCE, edges, first, exact=exact, say=None)
    moved, still, logits = (edge[0] for edge in paths.receipts)
    # v of head 0 goes from 33 (1, 2) to 35 (1, 2); the logits by 4 (1, 2, 3, 4)
    assert (moved.change, moved.before) == pytest.approx((2 * 5**0.5, 33 * 5**0.5))
    assert (str(moved.site), moved.heads, moved.tokens) == ("1.attn.v", (0,), 1)
    assert logits.change == pytest.approx(4 * 30**0.5)
    assert still.change == 0 and paths.acted.tolist() == [True, False, True]
    assert "1 of them NO-OPS" in str(paths)


def test_tokens_that_no_sender_changes_are_not_touched():
    base, source = [[1, 2, 3], [2, 2]], [[1, 3, 3], [2, 2]]
    edges = [("embed", "1.v"), ("embed@0", "1.v"), ("0.h0@1", "1.v")]
    args = (network(), base, source, edges, first)
    direct, every = path_patch(*args, say=None), path_patch(*args, through="all", say=None)
    assert [len(edge) for edge in direct.receipts] == [1, 0, 1]
    assert [direct.receipts[i][0].tokens for i in (0, 2)] == [2, 1]  # from position 1 on
    assert every.receipts[2][0].tokens == 2  # attention carries it on
    assert torch.equal(direct.effect[:, 1], torch.zeros(3))  # the second pair is one prompt
    assert direct.acted.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("embed", Sender("embed")),
        ("5.h3@last", Sender("head", 5, 3, "last")),
        ("5.attn_out@3,5", Sender("attn_out", 5, positions=(3, 5))),
        ("0.mlp_out", Sender("mlp_out", 0)),
        ("11.resid@0", Sender("resid", 11, positions=(0,))),
        ("logits", Receiver("logits")),
        ("7.h1.q", Receiver("q", 7, 1)),
        ("7.h1.k_each@last", Receiver("k", 7, 1, "last", virtual=True)),
        ("7.v", Receiver("v", 7)),
        ("7.h10.pattern@2", Receiver("pattern", 7, 10, 2)),
        ("7.mlp", Receiver("mlp", 7)),
        ("7.resid_mid", Receiver("resid_mid", 7)),
    ],
)
def test_the_written_form_is_read_back(text, end):
    assert type(end).parse(text) == end and str(end) == text


SENDER = (
    " is no sender: write embed, 5.h3, 5.attn_out, 5.mlp_out or 5.resid, with @last or @3,4 behind "
    "it for some positions."
)
RECEIVER = (
    " is no receiver: write 7.h1.q (or k, v, k_each, v_each, pattern), 7.q for all heads, 7.mlp, "
    "7.resid, 7.resid_mid, 7.resid_post or logits, with @last or @3,4 behind it for some positions."
)


@pytest.mark.parametrize("text", ["h3", "5.h3.q", "5.embed", "5", "5.mlp", "embed.h1", "5.h"])
def test_no_sender(text):
    with says(InputError, repr(text) + SENDER):
        Sender.parse(text)


@pytest.mark.parametrize("text", ["7.h1", "q", "7.logits", "7.h1.mlp", "embed", "7.h1.z", ""])
def test_no_receiver(text):
    with says(InputError, repr(text) + RECEIVER):
        Receiver.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sender("mlp", 1),
         "Sender 'mlp': the kinds are embed, head, attn_out, mlp_out, resid."),
        (lambda: Sender("head", 1),
         "Sender 'head' needs a head, counted from 0, and got head=None."),
        (lambda: Sender("embed", 0), "Sender 'embed' has no layer, yet layer=0: drop it."),
        (lambda: Receiver("mlp", 0, 2), "Receiver 'mlp' has no head, yet head=2: drop it."),
        (lambda: Receiver("q", 0, 2, virtual=True),
         "Receiver 'q' has no virtual copies: only k and v are shared by heads."),
        (lambda: Edge.of("0.h1"), "'0.h1' is no edge: write a pair such as ('5.h3', '7.h1.q')."),
        (lambda: Edge.of(([], "logits")),
         "([], 'logits') is no edge: it needs a sender and a receiver."),
        (lambda: Edge.of(("embed", ["1.q", "logits"])),
         "embed -> 1.q + logits: logits come after every other receiver and alone decide the "
         "answer; make them an edge of their own."),
    ],
)  # fmt: skip
def test_an_end_or_edge_that_makes_no_sense(make, message):
    with says(InputError, message):
        make()


IMPOSSIBLE = [
    ("tiny-gpt2", ("1.h0", "1.h2.q"),
     "1.h0 -> 1.h2.q: 1.h2.q is computed before any of its senders; name a later receiver."),
    ("tiny-gpt2", ("1.mlp_out", ["1.mlp", "2.q"]),
     "1.mlp_out -> 1.mlp + 2.q: 1.mlp is computed before any of its senders; name a later "
     "receiver."),
    ("tiny-gpt2", (["0.h0", "2.h0"], "2.h1.q"),
     "0.h0 + 2.h0 -> 2.h1.q: 2.h0 comes after all of its receivers; name an earlier sender."),
    ("tiny-neox", ("1.h0", "1.mlp"),
     "1.h0 -> 1.mlp: 1.mlp is computed before any of its senders (its blocks are parallel: "
     "attention does not reach the MLP beside it); name a later receiver."),
]  # fmt: skip


def refused(monkeypatch, name, error, message, edges, base=None, source=None, metric=first, **rest):
    model = tiny(name)
    _ = model.book  # read and checked once, by a forward pass of its own
    ran = []
    monkeypatch.setattr(type(model.hf), "forward", lambda *a, **k: ran.append(1))
    base, source = base or [[5, 6, 7]], source or [[5, 8, 9]]
    with says(error, message):
        path_patch(model, base, source, edges, metric, say=None, **rest)
    assert not ran


@pytest.mark.parametrize(("name", "edge", "message"), IMPOSSIBLE)
def test_an_impossible_edge_is_refused_before_any_model_runs(monkeypatch, name, edge, message):
    refused(monkeypatch, name, InputError, message, [edge])


GOOD = [("0.h1", "2.h1.q")]


@pytest.mark.parametrize(
    ("error", "settings", "message"),
    [
        (InputError, {"edges": []},
         "edges: give a list of at least one pair such as ('5.h3', '7.h1.q')."),
        (InputError, {"memory_gib": 0.0}, "memory_gib=0.0: give a positive number."),
        (InputError, {"source": [[5, 6]]},
         "The source prompts have [2] tokens and the base prompts [3]: patching by position needs "
         "as many in each pair."),
        (InputError, {"logits": "all"},
         "logits='all': name the positions that the metric reads, such as 'last'."),
        (InputError, {"metric": lambda logits, rows: logits},
         "The metric returned [1, 345] for 1 prompts: return a tensor of one number a prompt."),
        (SiteError, {"edges": [("embed", "3.mlp")]},
         "The model has no site '3.mlp_out': its layers are 0 to 2."),
        (EditError, {"edges": [("0.h9", "logits")]},
         "0.h9: there is no head 9; the model's heads are 0 to 3."),
        (PositionError, {"edges": [("0.h1@3", "logits")]},
         "0.h1@3: position 3 is past the end: prompt 0 has 3 "
         "tokens that the model sees, the last at position 2."),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_model_runs(monkeypatch, error, settings, message):
    d_vocab = tiny("tiny-llama").sizes.d_vocab
    message = message.replace("[1, 345]", f"[1, {d_vocab}]")
    settings = {"edges": GOOD} | settings
    refused(monkeypatch, "tiny-llama", error, message, settings.pop("edges"), **settings)


def test_another_way_through_is_refused():
    """Where types are not checked, as for most users; here the check comes first."""
    unchecked = inspect.unwrap(path_patch)
    args = (tiny("tiny-gpt2"), [[5, 6]], [[5, 7]], GOOD, first)
    with says(InputError, "through='heads': write 'direct', 'mlps' or 'all'."):
        unchecked(*args, through="heads")


def test_every_edge_between_heads_is_listed_once():
    gpt2, llama = tiny("tiny-gpt2"), tiny("tiny-llama")
    edges = all_edges(gpt2)
    # 4 heads to 4 heads x (q, k, v), over 3 pairs of layers
    assert len(edges) == len(set(edges)) == 3 * 4 * 4 * 3
    assert str(edges[0]) == "0.h0 -> 1.h0.q" and str(edges[-1]) == "1.h3 -> 2.h3.v"
    assert len(all_edges(llama)) == 3 * 4 * (4 + 2 + 2)  # two groups of keys and values
    assert len(all_edges(llama, virtual=True)) == 3 * 4 * 4 * 3
    some = all_edges(gpt2, senders=("embed", "mlp_out"), receivers=("mlp", "logits"))
    assert len(some) == 3 + 1 + (2 + 1 + 0) + 3
    parallel = all_edges(tiny("tiny-neox"), senders=("attn_out",), receivers=("mlp",))
    assert str(parallel[0]) == "0.attn_out -> 1.mlp" and len(parallel) == 3


def test_the_plan_is_told_before_and_the_cost_after():
    said = []
    edges = [("0.h1", "2.h1.q"), ("embed", "logits")]
    args = (tiny("tiny-gpt2"), [[5, 6, 7]], [[5, 8, 9]], edges, LogitDiff(5, 6))
    paths = path_patch(*args, say=said.append)
    assert said[0].startswith("Paths: 2 edges from 2 sender sets x 1 prompts, through 'direct', ")
    assert said[-1] == str(paths) and len(paths.spent) == 1
    path_patch(*args, exact=True, say=said.append)
    assert "two runs an edge: exact=True" in said[-2]
