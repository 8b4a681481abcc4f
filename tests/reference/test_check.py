"""`check` holds on sound models and engines, and finds what is wrong with broken ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

import interp
from interp.edits import Scale
from interp.engine.check import Check, check, refusals
from interp.engine.session import Tap
from interp.engine.torch_engine import TorchModel
from interp.errors import SiteError
from interp.models import tiny
from interp.models.tiny import TINY
from interp.models.tokens import Batch
from interp.sites import ATTENTION_MAPS, Site

ENGINES = ("torch", "transformer_lens", "nnsight")
IDS = [5, 80, 41, 42, 7]
OUTPUTS = "what the module returns is not what is added to the residual stream"
GATED = "the output projection is not the last step of attention"
LAYOUT = "its projection is laid out in a way that is not known"


def by_name(lines: list[Check]) -> dict[str, Check]:
    return {line.name: line for line in lines}


def failing(lines: list[Check]) -> dict[str, float]:
    return {line.name: line.error for line in lines if not line.holds}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", TINY)
def test_every_tiny_model_passes_on_every_engine(name, engine, tiny_model):
    lines = interp.check(tiny_model(name, engine))
    assert failing(lines) == {}
    names = by_name(lines).keys()
    assert {"logits = Hugging Face's", "left-padded = right-padded = one by one"} <= names
    assert {"attn.v = the values that attention receives", "the model is as it was"} <= names
    assert any("resid_mid[l]" in line for line in names) == (name != "tiny-neox")
    assert any("= the torch engine's" in line for line in names) == (engine != "torch")


def test_on_torch_the_logits_are_the_same_bits_and_the_tolerance_says_so(tiny_model):
    model = tiny_model("tiny-llama")
    exact = {line.name: line.error for line in check(model) if line.tolerance == 0}
    maps = len(ATTENTION_MAPS) * tiny.N_LAYERS
    assert exact == {
        "logits = Hugging Face's": 0.0,
        f"patching {len(model.sites) - maps - 1} sites with themselves": 0.0,
        "the model is as it was": 0.0,
    }


def test_a_parallel_block_is_excused_from_resid_mid_and_says_so(tiny_model):
    line = by_name(check(tiny_model("tiny-neox")))["resid_pre + attn_out = resid_mid"]
    assert line.holds
    assert line.note == "refused: resid_mid"
    said = "resid_mid: attention is not added before the second norm, as in parallel blocks"
    assert said in refusals(tiny_model("tiny-neox"))


# --- models whose sites are not what their names say ---------------------------------------------


class DoubledAttention(LlamaDecoderLayer):
    """Adds twice what its attention returns, as models with a residual multiplier do."""

    def forward(self, hidden_states, **kwargs):
        attention, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + 2 * attention
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class GatedAttention(LlamaAttention):
    """Halves what its output projection returns."""

    def forward(self, *args, **kwargs):
        out, pattern = super().forward(*args, **kwargs)
        return 0.5 * out, pattern


class Reversed(nn.Linear):
    """A projection whose output attention reads in another order than it was made."""

    def __call__(self, *args, **kwargs):  # hooks see what forward returns, attention this
        return super().__call__(*args, **kwargs).flip(-1)


def doubled(hf) -> None:
    hf.model.layers[1].__class__ = DoubledAttention


def gated(hf) -> None:
    hf.model.layers[1].self_attn.__class__ = GatedAttention


def reordered(hf) -> None:
    hf.model.layers[1].self_attn.v_proj.__class__ = Reversed


def broken(how):
    hf = tiny.build("tiny-llama")
    how(hf)
    return interp.load(hf)


CASES = [
    (doubled, "resid_pre + attn_out + mlp_out = resid_post", ("attn_out", "mlp_out"), OUTPUTS),
    (gated, "sum of attn.result + bias = output of attention", ("attn.z", "attn.result"), GATED),
    (
        reordered,
        "attn.v = the values that attention receives",
        ("attn.q", "attn.k", "attn.v"),
        LAYOUT,
    ),
]


@pytest.mark.parametrize("how, identity, refused, reason", CASES, ids=["doubled", "gated", "order"])
def test_sites_of_a_broken_block_are_refused_with_the_reason(how, identity, refused, reason):
    """One block of three is enough; the other sites stay, and their numbers are right."""
    model = broken(how)
    line = by_name(check(model))[identity]
    assert set(refused) <= set(line.note.removeprefix("refused: ").split(", "))
    for component in refused:
        said = rf"^The model has no site '0\.{component}' \({reason}\)\."
        with pytest.raises(SiteError, match=said):
            model.run(IDS, edits=[Scale(f"0.{component}", factor=2.0)])
        with pytest.raises(SiteError, match=said):
            model.run(IDS, capture=f"0.{component}")
        assert f"{component}: {reason}" in refusals(model)
    kept = {Site.parse(site).component for site in model.sites}
    assert {"resid_pre", "resid_post", "attn.pattern"} <= kept
    assert not kept & set(refused)
    with torch.no_grad():
        assert torch.equal(model.run(IDS).logits, model.hf(torch.tensor([IDS])).logits)


@pytest.mark.parametrize("how", [doubled, gated, reordered], ids=["doubled", "gated", "order"])
def test_the_broken_models_differ_from_the_sound_one(how):
    """So the identities above fail for a cause that moves the logits."""
    sound, model = interp.load(tiny.build("tiny-llama")), broken(how)
    assert (model.run(IDS).logits - sound.run(IDS).logits).abs().max() > 1e-2


# --- engines that are wrong ----------------------------------------------------------------------


class AliasedMid(TorchModel):
    """The trap: hands a new tensor to the second norm, so the skip connection misses the edit."""

    def forward(self, batch, taps: Mapping[Site, Tap], *, cache=None, keep=None):
        mid = [site for site in taps if site.component == "resid_mid"]
        handles = []
        for site in mid:
            norm = self.hf.get_submodule(f"model.layers.{site.layer}.post_attention_layernorm")

            def hook(module, args, tap=taps[site]):
                new = tap(args[0])
                return None if new is None else (new,)

            handles.append(norm.register_forward_pre_hook(hook))
        try:
            rest = {site: tap for site, tap in taps.items() if site not in mid}
            return super().forward(batch, rest, cache=cache, keep=keep)
        finally:
            for handle in handles:
                handle.remove()


class Leaky(TorchModel):
    """Leaves a hook behind."""

    def forward(self, batch, taps, *, cache=None, keep=None):
        self.hf.lm_head.register_forward_hook(lambda *_: None)
        return super().forward(batch, taps, cache=cache, keep=keep)


class Imprecise(TorchModel):
    """Rounds its logits to half precision."""

    def forward(self, batch, taps, *, cache=None, keep=None):
        logits, cache = super().forward(batch, taps, cache=cache, keep=keep)
        return logits.half().float(), cache


class WrongLayer(TorchModel):
    """Another engine, which taps each layer's sites in the next layer."""

    engine = "wrong"

    def forward(self, batch, taps, *, cache=None, keep=None):
        def next_layer(site: Site) -> Site:
            return site if site.layer is None else Site(site.component, (site.layer + 1) % 3)

        moved = {next_layer(site): tap for site, tap in taps.items()}
        return super().forward(batch, moved, cache=cache, keep=keep)


class WrongColumn(TorchModel):
    """Counts positions in columns of the padded batch."""

    def tokens(self, inputs, *, side="right"):
        batch = super().tokens(inputs, side=side)
        column = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
        return Batch(batch.ids, torch.where(batch.index < 0, -1, column), batch.mask)


@pytest.mark.parametrize(
    "engine, found",
    [
        (AliasedMid, "patching resid_mid[l] = patching resid_pre[l+1]"),
        (Leaky, "the model is as it was"),
        (Imprecise, "logits = Hugging Face's"),
        (WrongLayer, "edits = the torch engine's"),
        (WrongColumn, "left-padded = right-padded = one by one"),
    ],
)
def test_an_engine_that_is_wrong_is_found(engine, found):
    wrong = failing(check(engine(tiny.build("tiny-llama"), None, "wrong")))
    assert any(found in name for name in wrong), wrong


def test_the_sound_engine_passes_where_those_fail():
    assert failing(check(TorchModel(tiny.build("tiny-llama"), None, "sound"))) == {}
