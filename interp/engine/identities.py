"""Algebraic identities that a model's sites must satisfy, read off one short forward pass.

A site whose identity fails is refused with the reason: better no number than one that belongs to
another tensor. The layout of a fused QKV output is settled here too, by comparing its slices with
the values that the attention function receives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.engine.hooks import hooked, plain_forward
from interp.models.addresses import Address, AddressBook, split_qkv
from interp.models.tokens import pad
from interp.sites import Site

Acts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Identity:
    """One identity over all layers: the largest error, relative to the largest entry."""

    name: str
    error: float
    tolerance: float
    refuses: tuple[str, ...]
    """Components that are refused where it fails."""
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the error is within rounding."""
        return self.error <= self.tolerance


def settled_book(hf: PreTrainedModel) -> AddressBook:
    """Read a model's address book and refuse the components whose identities fail."""
    book = AddressBook.read(hf)
    for identity in identities(hf, book):
        if not identity.holds:
            for component in identity.refuses:
                book.refused.setdefault(component, identity.reason)
    return book


def probe_ids(d_vocab: int) -> list[int]:
    """Five fixed token ids that any vocabulary has."""
    return [(7 * k + 3) % d_vocab for k in range(5)]


@torch.no_grad()
def identities(hf: PreTrainedModel, book: AddressBook) -> list[Identity]:
    """Measure every identity that applies; sets `book.layout` for fused projections."""
    acts = _probe(hf, book, _read_sites(book))
    _settle_layout(hf, book, acts)
    found = []
    if "resid_mid" not in book.refused:
        parallel = "attention is not added before the second norm, as in parallel blocks"
        error = _worst(book, acts, _mid_error)
        found.append(
            _identity(hf, "resid_pre + attn_out = resid_mid", error, "resid_mid", parallel)
        )
    if not {"attn_out", "mlp_out"} & book.refused.keys():
        scaled = "what the module returns is not what is added to the residual stream"
        error = _worst(book, acts, _post_error)
        name = "resid_pre + attn_out + mlp_out = resid_post"
        found.append(_identity(hf, name, error, "attn_out mlp_out", scaled))
    if "attn.z" not in book.refused:
        gated = "the output projection is not the last step of attention"
        error = _worst(book, acts, _z_error)
        name = "sum of attn.result + bias = output of attention"
        found.append(_identity(hf, name, error, "attn.z attn.result", gated))
    if "attn.v" not in book.refused:
        layout = "its projection is laid out in a way that is not known"
        error = _worst(book, acts, _v_error)
        name = "attn.v = the values that attention receives"
        found.append(_identity(hf, name, error, "attn.q attn.k attn.v", layout))
    return found


def _identity(hf: PreTrainedModel, name: str, error: float, refuses: str, reason: str) -> Identity:
    tolerance = 64 * torch.finfo(hf.dtype).eps
    return Identity(name, error, tolerance, tuple(refuses.split()), reason)


def _read_sites(book: AddressBook) -> list[Site]:
    components = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
    components += ["attn.z", "attn.result", "attn.v_each"]
    layers = range(book.sizes.n_layers)
    return [Site(c, layer) for layer in layers for c in components if c not in book.refused]


@torch.no_grad()
def _probe(hf: PreTrainedModel, book: AddressBook, sites: list[Site]) -> dict[str, Tensor]:
    """Capture the sites, and the raw outputs of attention and its projections."""
    acts: dict[str, Tensor] = {}

    def keep(name: str):
        def tap(act: Tensor) -> None:
            acts[name] = act.detach().clone()

        return tap

    handles = []
    try:
        for layer, block in enumerate(book.blocks):
            for name in ("attn", "attn.qkv", "attn.v"):
                if name in block:
                    module = hf.get_submodule(block[name])
                    handles.append(module.register_forward_hook(_keeper(keep(f"{layer}/{name}"))))
        device = hf.get_input_embeddings().weight.device  # type: ignore[union-attr]
        ids = probe_ids(book.sizes.d_vocab)
        batch = pad([ids], pad_id=0, side="right", device=device)  # type: ignore[arg-type]
        with hooked(hf, book, {site: keep(str(site)) for site in sites}):
            plain_forward(hf, batch)
    finally:
        for handle in handles:
            handle.remove()
    return acts


def _keeper(tap):
    def hook(module, args, output) -> None:
        tap(output[0] if isinstance(output, tuple) else output)

    return hook


def _settle_layout(hf: PreTrainedModel, book: AddressBook, acts: Acts) -> None:
    fused = acts.get("0/attn.qkv")
    if fused is None:
        return
    for layout in ("thirds", "per_head"):
        address = Address("", "output", book.sizes.n_kv_heads, 2, layout)
        try:
            values = split_qkv(fused, address, book.sizes)
        except RuntimeError:  # the sizes do not divide this way
            continue
        if _gap(_each(values, book), acts["0.attn.v_each"]) < 64 * torch.finfo(hf.dtype).eps:
            book.layout = layout
            return


def _each(values: Tensor, book: AddressBook) -> Tensor:
    return values.repeat_interleave(book.sizes.n_heads // values.shape[2], dim=2)


def _worst(book: AddressBook, acts: Acts, error) -> float:
    return max(error(book, acts, layer) for layer in range(book.sizes.n_layers))


def _gap(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def _mid_error(book: AddressBook, acts: Acts, layer: int) -> float:
    total = acts[f"{layer}.resid_pre"] + acts[f"{layer}.attn_out"]
    return _gap(total, acts[f"{layer}.resid_mid"])


def _post_error(book: AddressBook, acts: Acts, layer: int) -> float:
    total = sum(acts[f"{layer}.{name}"] for name in ("resid_pre", "attn_out", "mlp_out"))
    assert isinstance(total, Tensor)
    return _gap(total, acts[f"{layer}.resid_post"])


def _z_error(book: AddressBook, acts: Acts, layer: int) -> float:
    bias = getattr(book.hf.get_submodule(book.blocks[layer]["attn.o"]), "bias", None)
    total = acts[f"{layer}.attn.result"].sum(2)
    return _gap(total if bias is None else total + bias, acts[f"{layer}/attn"])


def _v_error(book: AddressBook, acts: Acts, layer: int) -> float:
    sizes = book.sizes
    if f"{layer}/attn.v" in acts:
        flat = acts[f"{layer}/attn.v"]
        if flat.shape[-1] != sizes.n_kv_heads * sizes.d_head:
            return float("inf")
        values = flat.unflatten(-1, (sizes.n_kv_heads, sizes.d_head))
    elif book.layout is None:
        return float("inf")
    else:
        address = Address("", "output", sizes.n_kv_heads, 2, book.layout)
        values = split_qkv(acts[f"{layer}/attn.qkv"], address, sizes)
    return _gap(_each(values, book), acts[f"{layer}.attn.v_each"])
