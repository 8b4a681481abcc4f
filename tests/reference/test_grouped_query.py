"""What "the keys of head h" means where heads share them, against a Llama written out by hand.

tiny-llama has four query heads and two key-value heads: heads 0 and 1 read group 0, heads 2 and 3
read group 1. `attn.k` and `attn.v` are what a group holds, before the rotation; `attn.k_each` and
`attn.v_each` are each query head's own copy, after it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interp.edits import Add, Patch, Scale, ZeroAblate
from interp.errors import SiteError

ENGINES = ("torch", "transformer_lens", "nnsight")
LAYER, N_HEADS, D_HEAD = 1, 4, 8
GROUP = [0, 0, 1, 1]  # of each query head
IDS = [5, 300, 41, 42, 7, 199, 260, 8, 12]
AT = (2, 5)

Change = Callable[[Tensor], Tensor]


def by_hand(hf, **change: Change) -> dict[str, Tensor]:
    """Logits, and z of `LAYER`, of a Llama written out; `change` maps k, v, k_each or v_each.

    k and v are `[pos, group, d_head]`, k_each and v_each `[pos, head, d_head]`.
    """
    x, held = hf.model.embed_tokens.weight[IDS], {}
    for layer, block in enumerate(hf.model.layers):
        here = change if layer == LAYER else {}
        z = attention(block.self_attn, rms_norm(x, block.input_layernorm), here)
        if layer == LAYER:
            held["z"] = z
        x = x + z.flatten(1) @ block.self_attn.o_proj.weight.T
        y, mlp = rms_norm(x, block.post_attention_layernorm), block.mlp
        gate = y @ mlp.gate_proj.weight.T
        up = y @ mlp.up_proj.weight.T
        x = x + (gate * torch.sigmoid(gate) * up) @ mlp.down_proj.weight.T
    held["logits"] = rms_norm(x, hf.model.norm) @ hf.lm_head.weight.T
    return {name: tensor.detach() for name, tensor in held.items()}


def attention(module, x: Tensor, change: dict[str, Change]) -> Tensor:
    """z `[pos, head, d_head]`."""
    q = (x @ module.q_proj.weight.T).view(len(x), N_HEADS, D_HEAD)
    k = (x @ module.k_proj.weight.T).view(len(x), 2, D_HEAD)
    v = (x @ module.v_proj.weight.T).view(len(x), 2, D_HEAD)
    k, v = changed("k", k, change), changed("v", v, change)
    k_each = changed("k_each", rotated(k)[:, GROUP], change)
    v_each = changed("v_each", v[:, GROUP], change)
    scores = torch.einsum("qhd,khd->hqk", rotated(q), k_each) / D_HEAD**0.5
    later = torch.ones(len(x), len(x)).triu(1).bool()
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -1e30).softmax(-1), v_each)


def changed(name: str, act: Tensor, change: dict[str, Change]) -> Tensor:
    return change[name](act.clone()) if name in change else act


def rms_norm(x: Tensor, norm) -> Tensor:
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()


def rotated(x: Tensor) -> Tensor:
    """Turn each pair (i, i + 4) of a head by the position times 10000 ** (-i / 4)."""
    angle = torch.arange(len(x))[:, None] * 10_000.0 ** (-torch.arange(4) / 4)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second = x[..., :4], x[..., 4:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def replaced(heads: list[int], value: Tensor) -> Change:
    """Put `value` in the named entries of the head axis, at the edited positions."""

    def change(act: Tensor) -> Tensor:
        for pos in AT:
            act[pos, heads] = value
        return act

    return change


@pytest.fixture(scope="module")
def hf(tiny_hf):
    return tiny_hf("tiny-llama")


def source(value: Tensor, n_heads: int) -> Tensor:
    """A patch's source that holds `value` at every head and position."""
    return value.expand(1, len(IDS), n_heads, D_HEAD)


VALUE = torch.tensor([0.7, -1.1, 0.4, 1.3, -0.2, 0.9, -1.6, 0.5])


def agree(ours: Tensor, theirs: Tensor) -> bool:
    """To 1e-5 of the largest entry: another order of the same float32 sums."""
    return float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_the_llama_written_out_is_hugging_faces(hf):
    assert hf.config.rope_parameters["rope_theta"] == 10_000.0
    with torch.no_grad():
        assert agree(by_hand(hf)["logits"], hf(torch.tensor([IDS])).logits[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", ["k", "v"])
@pytest.mark.parametrize("head, group", [(3, 1), (2, 1), (0, 0)])
def test_keys_and_values_of_a_head_are_those_of_its_group(
    engine, what, head, group, hf, tiny_model
):
    """Editing head 3 is editing group 1, which heads 2 and 3 read."""
    model, site = tiny_model("tiny-llama", engine), f"{LAYER}.attn.{what}"
    z = f"{LAYER}.attn.z"
    edit = Patch(site, source=source(VALUE, 2), positions=AT, heads=head)
    run = model.run(IDS, edits=[edit], capture=[site, z])
    theirs = by_hand(hf, **{what: replaced([group], VALUE)})
    assert agree(run.logits[0], theirs["logits"])
    assert agree(run.acts[z][0], theirs["z"])
    clean = model.run(IDS, capture=[site, z]).acts
    same = (run.acts[z] == clean[z]).all(-1).all(1)[0]
    assert same.tolist() == [of != group for of in GROUP]
    assert torch.equal(run.acts[site][0, AT, group], VALUE.expand(2, -1))
    assert torch.equal(run.acts[site][0, :, 1 - group], clean[site][0, :, 1 - group])


@pytest.mark.parametrize("what", ["k", "v"])
@pytest.mark.parametrize("heads", [(3,), (2,), (0, 3)])
def test_a_private_copy_is_read_by_its_own_head_alone(what, heads, hf, tiny_model):
    """z of every other head, its groupmate included, stays as it was, bit for bit."""
    model, site, z = tiny_model("tiny-llama"), f"{LAYER}.attn.{what}_each", f"{LAYER}.attn.z"
    edit = Patch(site, source=source(VALUE, N_HEADS), positions=AT, heads=heads)
    run = model.run(IDS, edits=[edit], capture=[site, z])
    theirs = by_hand(hf, **{f"{what}_each": replaced(list(heads), VALUE)})
    assert agree(run.logits[0], theirs["logits"])
    assert agree(run.acts[z][0], theirs["z"])
    clean = model.run(IDS, capture=[site, z]).acts
    same = (run.acts[z] == clean[z]).all(-1).all(1)[0]
    assert same.tolist() == [head not in heads for head in range(N_HEADS)]


def test_both_heads_of_a_group_name_one_edit(hf, tiny_model):
    """heads=(2, 3) edits group 1 once: twice would add 2 * VALUE."""
    model, site = tiny_model("tiny-llama"), f"{LAYER}.attn.v"
    runs = [
        model.run(IDS, edits=[Add(site, vector=VALUE, positions=AT, heads=heads)])
        for heads in [(2,), (3,), (2, 3), (3, 2)]
    ]
    assert all(torch.equal(run.logits, runs[0].logits) for run in runs)
    moved = float(VALUE.norm()) * len(AT) ** 0.5
    assert [run.receipt[0].change for run in runs] == [pytest.approx(moved)] * 4

    def added(act: Tensor) -> Tensor:
        act[list(AT), 1] += VALUE
        return act

    assert agree(runs[2].logits[0], by_hand(hf, v=added)["logits"])


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_one_number_for_both_heads_of_a_group(engine, tiny_model):
    model, reference = tiny_model("tiny-llama", engine), tiny_model("tiny-llama")
    for what in ("k", "v"):
        edits = [Scale(f"{LAYER}.attn.{what}", factor=-2.0, positions=AT, heads=(2, 3))]
        one = [Scale(f"{LAYER}.attn.{what}", factor=-2.0, positions=AT, heads=2)]
        both = model.run(IDS, edits=edits).logits
        assert torch.equal(both, model.run(IDS, edits=one).logits)
        assert agree(both, reference.run(IDS, edits=edits).logits)


@pytest.mark.parametrize("what", ["k", "v"])
def test_all_private_copies_together_are_the_shared_ones(what, tiny_model):
    """Scaling commutes with the rotation, so both sites of k can be compared."""
    model = tiny_model("tiny-llama")
    shared = Scale(f"{LAYER}.attn.{what}", factor=-2.0, positions=AT)
    private = Scale(f"{LAYER}.attn.{what}_each", factor=-2.0, positions=AT)
    assert agree(model.run(IDS, edits=[private]).logits, model.run(IDS, edits=[shared]).logits)


@pytest.mark.parametrize("engine", ["transformer_lens", "nnsight"])
@pytest.mark.parametrize("what", ["k_each", "v_each"])
def test_engines_without_private_copies_refuse_them_in_a_sentence(engine, what, tiny_model):
    site = f"{LAYER}.attn.{what}"
    message = rf"^The engine {engine} has no site '{site}': .+; use engine='torch'\.$"
    with pytest.raises(SiteError, match=message):
        tiny_model("tiny-llama", engine).run(IDS, edits=[ZeroAblate(site, heads=3)])
    with pytest.raises(SiteError, match=message):
        tiny_model("tiny-llama", engine).run(IDS, capture=site)
