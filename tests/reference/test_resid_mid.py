"""The trap at resid_mid: an alias of the second norm's input, whose replacement misses the skip.

`h = resid_pre + attn_out` goes two ways, into the second norm and into the sum at the end of the
block. An engine that hands a new tensor to the norm changes the MLP's branch and leaves the skip
connection as it was; the numbers look plausible. The MLP acts on each position alone, so with one
source run patching resid_mid[l] must equal patching resid_pre[l+1], gradients off and on. (The
residual that the edited run itself makes would be no judge: it is wrong together with the logits.)
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from interp.edits import Add, Patch, Scale
from interp.errors import SiteError
from interp.models.tiny import TINY

ENGINES = ("torch", "transformer_lens", "nnsight")
SEQUENTIAL = tuple(name for name in TINY if name != "tiny-neox")
PROMPTS = [[5, 300, 41, 42, 7, 199, 260, 8, 12], [9, 77, 310, 15, 281]]
LAYER, AT = 1, (0, 3)
MID, NEXT = f"{LAYER}.resid_mid", f"{LAYER + 1}.resid_pre"


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over entries that are tokens, as a share of the largest entry."""
    assert torch.equal(ours.isnan(), theirs.isnan())
    theirs = theirs.detach().nan_to_num()
    return float((ours.detach().nan_to_num() - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_patching_resid_mid_is_patching_the_next_resid_pre_from_the_same_source(
    name, engine, grad, tiny_model
):
    model = tiny_model(name, engine)
    source = model.run([row[::-1] for row in PROMPTS], capture=[MID, NEXT]).acts
    mid = model.run(
        PROMPTS,
        edits=[Patch(MID, source=source[MID], positions=AT)],
        capture=[MID, f"{LAYER}.mlp_out", NEXT],
        grad=grad,
    )
    edits = [Patch(NEXT, source=source[NEXT], positions=AT)]
    pre = model.run(PROMPTS, edits=edits, grad=grad)
    assert relative(mid.logits, pre.logits) < 1e-5
    assert torch.equal(mid.acts[MID][:, AT], source[MID][:, AT])
    assert relative(mid.acts[MID] + mid.acts[f"{LAYER}.mlp_out"], mid.acts[NEXT]) < 1e-5
    assert relative(mid.logits, model.run(PROMPTS).logits) > 1e-2
    assert mid.logits.requires_grad == grad


@contextmanager
def residual_set_by_hand(hf, name: str, positions: tuple[int, ...], value: Tensor):
    """Both ways see the edit: attention is made to add what is missing to reach `value`."""
    paths = {"tiny-gpt2": (f"transformer.h.{LAYER}", "attn")}
    block, attention = paths.get(name, (f"model.layers.{LAYER}", "self_attn"))
    if name == "tiny-gemma3":  # its attention passes a norm before it is added
        attention = "post_attention_layernorm"
    held: dict[str, Tensor] = {}

    def keep(module, args, kwargs):
        held["pre"] = args[0] if args else kwargs["hidden_states"]

    def reach(module, args, output):
        act = (output[0] if isinstance(output, tuple) else output).clone()
        act[:, list(positions)] = value - held["pre"][:, list(positions)]
        return (act, *output[1:]) if isinstance(output, tuple) else act

    first = hf.get_submodule(block).register_forward_pre_hook(keep, with_kwargs=True)
    second = hf.get_submodule(f"{block}.{attention}").register_forward_hook(reach)
    try:
        yield
    finally:
        first.remove()
        second.remove()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_skip_and_the_mlp_both_see_the_edit(name, engine, grad, tiny_hf, tiny_model):
    hf, model, ids = tiny_hf(name), tiny_model(name, engine), PROMPTS[:1]
    value = model.run([ids[0][::-1]], capture=MID).acts[MID][:, list(AT)]
    with torch.no_grad(), residual_set_by_hand(hf, name, AT, value):
        theirs = hf(torch.tensor(ids)).logits
    source = torch.zeros(1, len(ids[0]), 32)
    source[:, list(AT)] = value
    edit = Patch(MID, source=source, positions=AT)
    assert relative(model.run(ids, edits=[edit], grad=grad).logits, theirs) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_gradient_at_resid_mid_is_the_gradient_at_attn_out(name, engine, tiny_model):
    """What is added to attn_out is added to resid_mid, so the two derivatives are one."""
    model, gradients = tiny_model(name, engine), {}
    for site in (MID, f"{LAYER}.attn_out"):
        vector = torch.zeros(32, requires_grad=True)
        edits = [Add(site, vector=vector, positions=AT)]
        run = model.run(PROMPTS[:1], edits=edits, grad=True)
        gradients[site] = torch.autograd.grad(run.logits[0, -1, :9].square().sum(), vector)[0]
    mid, out = gradients.values()
    assert float(mid.abs().max()) > 1e-2
    assert relative(mid, out) < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_an_edit_and_a_capture_of_resid_mid_leave_the_first_skip_alone(name, engine, tiny_model):
    """Writing in place must not reach resid_pre or attn_out, from which the residual was made."""
    model = tiny_model(name, engine)
    sites = [f"{LAYER}.resid_pre", f"{LAYER}.attn_out", MID]
    clean = model.run(PROMPTS, capture=sites).acts
    edited = model.run(PROMPTS, edits=[Scale(MID, factor=2.0)], capture=sites).acts
    for site in sites[:2]:
        assert torch.equal(edited[site].nan_to_num(), clean[site].nan_to_num())
    assert torch.equal(edited[MID].nan_to_num(), 2 * clean[MID].nan_to_num())
    assert relative(clean[sites[0]] + clean[sites[1]], clean[MID]) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_parallel_blocks_have_no_resid_mid_and_say_so(engine, tiny_model):
    message = (
        r"no site '1\.resid_mid' \(attention is not added before the second norm, as in parallel "
        r"blocks\)"
    )
    with pytest.raises(SiteError, match=message):
        tiny_model("tiny-neox", engine).run(PROMPTS, capture=MID)
