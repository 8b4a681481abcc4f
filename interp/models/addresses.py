"""The address book: where each site lies in a plain Hugging Face model.

Module paths are read from TransformerLens's architecture adapters, never written by hand. What the
adapter cannot say (how a fused QKV output is laid out) is found by comparing the slices with the
values that the attention function receives. TransformerLens is imported here, inside a function,
and nothing of the model is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import ModelError, SiteError, nearest
from interp.sites import (
    ATTENTION_MAPS,
    INSIDE_ATTENTION,
    KV_HEADED,
    LAYER_COMPONENTS,
    MODEL_COMPONENTS,
    Site,
)

QkvLayout = Literal["thirds", "per_head"]
"""`thirds`: all queries, all keys, all values; `per_head`: the q, k and v of each head in turn."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder, in the field's names."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    windows: tuple[int | None, ...] = ()
    """For each layer how many tokens back its attention sees, itself included; None for all."""

    @property
    def group(self) -> int:
        """How many query heads share one key-value head."""
        return self.n_heads // self.n_kv_heads

    @classmethod
    def of(cls, hf: PreTrainedModel) -> Sizes:
        """Read the sizes from a Hugging Face configuration."""
        config = hf.config.get_text_config()
        n_heads, d_model = config.num_attention_heads, config.hidden_size
        return cls(
            n_layers=config.num_hidden_layers,
            n_heads=n_heads,
            n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
            d_model=d_model,
            d_head=getattr(config, "head_dim", None) or d_model // n_heads,
            d_vocab=config.vocab_size,
            n_ctx=getattr(config, "max_position_embeddings", 1 << 30),
            windows=_windows(config),
        )

    def window(self, layer: int) -> int | None:
        """How many tokens back a layer's attention sees, itself included; None for all."""
        return self.windows[layer] if self.windows else None

    def token_shape(self, site: Site) -> tuple[int, ...] | None:
        """The shape of one token's activation at a site, None where the sizes do not tell.

        >>> Sizes(2, 4, 2, 8, 2, 50, 16).token_shape(Site.parse("1.attn.k"))
        (2, 2)
        """
        name = site.component
        if name in ATTENTION_MAPS or name in ("embed", "pos_embed") or name.startswith("mlp."):
            return None
        if name == "logits":
            return (self.d_vocab,)
        if site.headed:
            heads = self.n_kv_heads if name in KV_HEADED else self.n_heads
            return heads, self.d_model if name == "attn.result" else self.d_head
        return (self.d_model,)


def _windows(config: Any) -> tuple[int | None, ...]:
    window, n_layers = getattr(config, "sliding_window", None), config.num_hidden_layers
    kinds: tuple[str, ...] = tuple(getattr(config, "layer_types", None) or ())
    if not kinds:
        return (window,) * n_layers
    return tuple(window if "sliding" in kind else None for kind in kinds)


@dataclass(frozen=True)
class Address:
    """Where one site is tapped: a module, which end of it, and how the tensor is cut."""

    path: str
    """The module's path in the Hugging Face model."""
    end: Literal["input", "output", "shared_input", "result"]
    """`shared_input` is changed in place, because the skip connection holds the same tensor;
    `result` is the input of the output projection times each head's own weights."""
    heads: int | None = None
    """Split the last axis into this many heads, or leave it."""
    part: int | None = None
    """0, 1 or 2: the q, k or v part of a fused output."""
    layout: QkvLayout | None = None
    """How a fused output is laid out."""


@dataclass
class AddressBook:
    """All sites of one model: which it has, where, and why it lacks the others."""

    hf: PreTrainedModel
    sizes: Sizes
    names: dict[str, str] = field(default_factory=dict)
    """Adapter names to module paths: `embed`, `blocks`, `ln_final`, `unembed`."""
    blocks: list[dict[str, str]] = field(default_factory=list)
    """For each layer, adapter names to paths: `ln1`, `attn`, `attn.o`, `mlp.in`, ..."""
    layout: QkvLayout | None = None
    refused: dict[str, str] = field(default_factory=dict)
    """Components that the model lacks or that failed their identity, with the reason."""

    @classmethod
    def read(cls, hf: PreTrainedModel) -> AddressBook:
        """Read the address book of a live model.

        Raises:
            ModelError: TransformerLens has no adapter for the architecture.
        """
        book = cls(hf, Sizes.of(hf))
        mapping = _component_mapping(hf, book.sizes)
        modules: dict[str, nn.Module] = dict(hf.named_modules())
        for name, component in mapping.items():
            if component.name in modules:
                book.names[name] = component.name
        if "blocks" not in book.names:
            raise ModelError(f"{architecture(hf)} has no decoder blocks that the adapter can name.")
        for layer in range(book.sizes.n_layers):
            prefix = f"{book.names['blocks']}.{layer}"
            paths = _paths(mapping["blocks"].submodules, prefix, modules)
            book.blocks.append({"": prefix, **paths})
        _refuse_missing(book)
        return book

    def address(self, site: Site) -> Address:
        """Return where a site is tapped.

        Raises:
            SiteError: the model lacks it; the message gives the reason and the nearest site.
        """
        self.require(site)
        if site.layer is None:
            return Address(self.names[site.component], "output")
        return _block_address(self, self.blocks[site.layer], site.component)

    def require(self, site: Site) -> None:
        """Raise SiteError unless the model has the site."""
        known = _sites(self.sizes.n_layers, frozenset(self.refused))
        if str(site) in known:
            return
        if site.layer is not None and site.layer >= self.sizes.n_layers:
            raise SiteError(
                f"The model has no site '{site}': its layers are 0 to {self.sizes.n_layers - 1}."
            )
        reason = self.refused.get(site.component)
        hint = f" ({reason})." if reason else "."
        raise SiteError(f"The model has no site '{site}'{hint}{nearest(str(site), known)}")

    @property
    def sites(self) -> list[str]:
        """Every site of the model, in the order of a forward pass."""
        return list(_sites(self.sizes.n_layers, frozenset(self.refused)))


@cache
def _sites(n_layers: int, refused: frozenset[str]) -> tuple[str, ...]:
    sites = [Site(name) for name in MODEL_COMPONENTS if name not in refused]
    for layer in range(n_layers):
        sites += [Site(name, layer) for name in LAYER_COMPONENTS if name not in refused]
    return tuple(str(site) for site in sorted(sites, key=lambda site: site.order))


def architecture(hf: PreTrainedModel) -> str:
    """Return the architecture's name, such as `LlamaForCausalLM`."""
    named = getattr(hf.config, "architectures", None)
    return named[0] if named else type(hf).__name__


def _component_mapping(hf: PreTrainedModel, sizes: Sizes) -> dict[str, Any]:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    config = TransformerBridgeConfig(
        d_model=sizes.d_model,
        d_head=sizes.d_head,
        n_layers=sizes.n_layers,
        n_ctx=sizes.n_ctx,
        n_heads=sizes.n_heads,
        d_vocab=sizes.d_vocab,
        architecture=architecture(hf),
    )
    try:
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    except ValueError as error:
        raise ModelError(
            f"TransformerLens has no adapter for {architecture(hf)}, so its sites are unknown: "
            "use another architecture, or register an adapter there."
        ) from error
    assert adapter.component_mapping is not None
    return dict(adapter.component_mapping)


def _paths(
    submodules: dict[str, Any], prefix: str, modules: dict[str, nn.Module]
) -> dict[str, str]:
    """Adapter names to real module paths, `attn.o` for the `o` inside `attn`."""
    found = {}
    for name, component in submodules.items():
        path = f"{prefix}.{component.name}" if component.name else prefix
        if path not in modules:
            continue
        found[name] = path
        inner = _paths(component.submodules, path, modules)
        found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


_NEEDS = {
    "attn.z": ("attn.o",),
    "attn.result": ("attn.o",),
    "attn_out": ("attn",),
    "mlp_out": ("mlp",),
    "mlp.pre_linear": ("mlp.gate", "mlp.in"),
    "mlp.post": ("mlp.out",),
    "mlp.pre": ("mlp.in",),
    "resid_mid": ("ln2",),
}


def _refuse_missing(book: AddressBook) -> None:
    """Mark the components that the first block does not have."""
    block = book.blocks[0]
    for component, needs in _NEEDS.items():
        missing = [name for name in needs if name not in block]
        if missing:
            book.refused[component] = f"the architecture has no module for {', '.join(missing)}"
    for name in ("q", "k", "v"):
        if f"attn.{name}" not in block and "attn.qkv" not in block:
            book.refused[f"attn.{name}"] = "the architecture has no projection for it"
    for name in ("embed", "pos_embed", "ln_final"):
        if name not in book.names:
            book.refused[name] = "the architecture has no such module"


def _block_address(book: AddressBook, block: dict[str, str], component: str) -> Address:
    sizes = book.sizes
    if component in INSIDE_ATTENTION or component in ATTENTION_MAPS:
        return Address(block["attn"], "output")
    match component:
        case "resid_pre":
            return Address(block[""], "input")
        case "resid_post":
            return Address(block[""], "output")
        case "resid_mid":
            return Address(block["ln2"], "shared_input")
        case "attn_out":
            return Address(block.get("ln1_post", block["attn"]), "output")
        case "mlp_out":
            return Address(block.get("ln2_post", block["mlp"]), "output")
        case "attn.z":
            return Address(block["attn.o"], "input", sizes.n_heads)
        case "attn.result":
            return Address(block["attn.o"], "result", sizes.n_heads)
        case "mlp.pre":
            return Address(block.get("mlp.gate", block["mlp.in"]), "output")
        case "mlp.pre_linear":
            return Address(block["mlp.in"], "output")
        case "mlp.post":
            return Address(block["mlp.out"], "input")
    name = component.removeprefix("attn.")
    heads = sizes.n_heads if name == "q" else sizes.n_kv_heads
    if component in block:
        return Address(block[component], "output", heads)
    return Address(block["attn.qkv"], "output", heads, "qkv".index(name), book.layout)


def split_qkv(fused: Tensor, address: Address, sizes: Sizes) -> Tensor:
    """Return a view `[batch, pos, head, d_head]` of one part of a fused QKV output."""
    assert address.part is not None and address.heads is not None
    if address.layout == "per_head":
        by_head = fused.view(*fused.shape[:-1], sizes.n_heads, 3, sizes.d_head)
        return by_head[..., address.part, :]
    widths = [sizes.n_heads, sizes.n_kv_heads, sizes.n_kv_heads]
    start = sum(widths[: address.part]) * sizes.d_head
    flat = fused[..., start : start + widths[address.part] * sizes.d_head]
    return flat.unflatten(-1, (address.heads, sizes.d_head))
