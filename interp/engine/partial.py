"""Parts of a forward pass: start at a later block, behind a prefix that is not computed again.

An edit at block l changes nothing before it, and in a causal model an edit at position p changes
nothing at earlier positions. So a run may start from the cached residual stream at block l, with
the cached keys and values of the positions before p. Blocks that are skipped are really not run:
for the length of a context their `forward` hands the residual stream on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from interp.engine.hooks import hooked
from interp.engine.model import Model
from interp.engine.session import Tap
from interp.models.tokens import Batch, Inputs
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Base:
    """One plain run, with what later runs start from; column p holds logical position p."""

    batch: Batch
    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    """What enters each block, and last what leaves the final one."""
    attention: tuple[Float[Tensor, "batch pos d_model"], ...]
    """What each attention module returns; like `projections` empty where it was not kept."""
    projections: tuple[Mapping[str, Float[Tensor, "batch pos width"]], ...]
    """For each layer what its modules `attn.qkv`, or `attn.q`, `attn.k` and `attn.v`, return."""
    keys: tuple[Float[Tensor, "batch kv_head pos d_head"], ...]
    """The keys of each layer as the cache holds them: rotated."""
    values: tuple[Float[Tensor, "batch kv_head pos d_head"], ...]
    tuples: tuple[bool, bool]
    """Whether a block, and an attention module, returns a tuple."""
    logits: Float[Tensor, "batch read d_vocab"] | None = None
    """At the positions that were asked for."""

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        held = [*self.resid, *self.attention, *self.keys, *self.values]
        held += [tensor for layer in self.projections for tensor in layer.values()]
        return sum(tensor.nbytes for tensor in held)


@torch.no_grad()
def base_run(model: Model, inputs: Inputs, read: Int[Tensor, "batch read"] | None = None) -> Base:
    """Run prompts once and keep what partial runs start from, and the logits at `read`."""
    batch = model.tokens(inputs)
    columns = None if read is None else read.unique()
    base = base_pass(model, batch, batch.mask, DynamicCache(), columns)
    if base.logits is None or columns is None:
        return base
    return replace(base, logits=_gathered(base.logits, columns, read))


@torch.no_grad()
def base_pass(
    model: Model,
    batch: Batch,
    mask: Any,
    cache: Any,
    columns: Int[Tensor, " kept"] | None,
    *,
    inside: bool = True,
) -> Base:
    """One forward pass of new columns behind a cache, kept; logits at `columns` where given.

    `mask` is an attention mask in any form that the model takes. The cache is extended. Without
    `inside` only what runs need that start before a block is kept, less than half the memory.
    """
    blocks, width = model.book.blocks, batch.ids.shape[1]
    within = blocks if inside else []
    projections = [{name: block[name] for name in PROJECTIONS & block.keys()} for block in within]
    watched = [blocks[0][""], blocks[0]["attn"], *(block["attn"] for block in within[1:])]
    watched += [path for several in projections for path in several.values()]
    streams = [Site("resid_pre", layer) for layer in range(len(blocks))]
    streams.append(Site("resid_post", len(blocks) - 1))
    resid: dict[Site, Tensor] = {}
    taps = {site: partial(_keep, resid, site) for site in streams}
    with outputs_of(model, watched) as seen, hooked(model.hf, model.book, taps):
        out = model.hf(
            input_ids=batch.ids,
            attention_mask=mask,
            position_ids=batch.position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if columns is None else columns,
        ).logits
    return Base(
        batch,
        tuple(resid[site] for site in streams),
        tuple(_first(seen[block["attn"]]) for block in within),
        tuple({name: _first(seen[path]) for name, path in each.items()} for each in projections),
        tuple(layer.keys[:, :, -width:] for layer in cache.layers),
        tuple(layer.values[:, :, -width:] for layer in cache.layers),
        (isinstance(seen[watched[0]], tuple), isinstance(seen[watched[1]], tuple)),
        None if columns is None else out,
    )


def _keep(store: dict[Site, Tensor], site: Site, act: Tensor) -> None:
    store[site] = act.detach().clone()


def _first(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).detach()


def _gathered(out: Tensor, columns: Tensor, read: Any) -> Float[Tensor, "batch read d_vocab"]:
    """The logits of the positions read, from those of the columns that were unembedded."""
    rows = torch.arange(len(out), device=out.device)[:, None]
    return out[rows, torch.searchsorted(columns, read.contiguous()).to(out.device)]


@contextmanager
def outputs_of(model: Model, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Inside the block, keeps what modules return, by their path."""
    seen: dict[str, Any] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            seen[path] = output

        return hook

    with ExitStack() as stack:
        for path in paths:
            stack.callback(model.hf.get_submodule(path).register_forward_hook(watch(path)).remove)
        yield seen


@contextmanager
def skipped(
    model: Model,
    base: Base,
    start: int,
    resid: Float[Tensor, "batch width d_model"] | None,
    attention: Mapping[int, Float[Tensor, "batch width d_model"]] | None = None,
) -> Iterator[None]:
    """Inside the block the model starts at block `start`, which `resid` enters.

    `attention` gives layers whose attention module is not run, and what it returns instead.
    On any exit every module is as before.
    """
    blocks = [model.hf.get_submodule(block[""]) for block in model.book.blocks]
    block_tuple, attention_tuple = base.tuples
    with ExitStack() as stack:
        for layer, block in enumerate(blocks[:start]):
            given = resid if layer == start - 1 else None
            stack.enter_context(forward_as(block, _hand_on(given, block_tuple)))
        for layer, output in (attention or {}).items():
            module = model.hf.get_submodule(model.book.blocks[layer]["attn"])
            stack.enter_context(forward_as(module, _return(output, attention_tuple)))
        yield


PROJECTIONS = frozenset({"attn.qkv", "attn.q", "attn.k", "attn.v"})
"""The modules that make q, k and v, where a block has them."""
PARTS_AFTER = {
    "attn.o": frozenset({"attn.result", "attn_out", "resid_mid"}),
    "mlp": frozenset({"mlp.pre", "mlp.pre_linear", "mlp.post", "mlp_out", "resid_post"}),
}
"""Parts of a block that work on each position alone, and the sites that would see what is left out
of them; a part is read by the sites of the parts after it, too."""


def prunable(model: Model, sites: Iterable[Site]) -> list[str]:
    """Parts of the last block that may leave out positions which nobody reads.

    `sites` are tapped in the same pass, so what they see must be whole.
    """
    last = model.sizes.n_layers - 1
    if any(site.component in ("ln_final", "logits") for site in sites):
        return []
    tapped = {site.component for site in sites if site.layer == last}
    found: list[str] = []
    for part, seen_by in reversed(PARTS_AFTER.items()):
        if tapped & seen_by:
            break
        if part in model.book.blocks[last]:
            found.append(part)
    return found


@contextmanager
def narrowed(model: Model, parts: Iterable[str], columns: Int[Tensor, " kept"]) -> Iterator[None]:
    """Inside the block these parts of the last block compute some columns; the others are zero."""
    with ExitStack() as stack:
        for part in parts:
            module = model.hf.get_submodule(model.book.blocks[-1][part])
            stack.enter_context(forward_as(module, _only(module.forward, columns)))
        yield


@contextmanager
def unembedding(model: Model, tokens: Sequence[int] | None) -> Iterator[None]:
    """Inside the block the logits of these tokens are computed, and all others are NaN."""
    head: Any = model.hf.get_output_embeddings()
    if tokens is None or type(head) is not nn.Linear:
        yield
        return
    rows = torch.tensor(tokens, device=head.weight.device)
    weight, bias = head.weight[rows], None if head.bias is None else head.bias[rows]

    def forward(act: Tensor) -> Tensor:
        logits = act.new_full((*act.shape[:-1], head.weight.shape[0]), float("nan"))
        logits[..., rows] = nn.functional.linear(act, weight, bias)
        return logits

    with forward_as(head, forward):
        yield


def _only(forward: Callable[..., Any], columns: Int[Tensor, " kept"]) -> Callable[..., Any]:
    def narrow(act: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = forward(act.index_select(1, columns.to(act.device)), *args, **kwargs)
        part = out[0] if isinstance(out, tuple) else out
        whole = part.new_zeros(part.shape[0], act.shape[1], *part.shape[2:])
        whole.index_copy_(1, columns.to(part.device), part)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    return narrow


@contextmanager
def projected(
    model: Model, layer: int, outputs: Mapping[str, Float[Tensor, "batch width out"]]
) -> Iterator[None]:
    """Inside the block a layer's projections to q, k and v are not run and return `outputs`."""
    with ExitStack() as stack:
        for name, output in outputs.items():
            module = model.hf.get_submodule(model.book.blocks[layer][name])
            stack.enter_context(forward_as(module, _return(output, False)))
        yield


@contextmanager
def forward_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another `forward`; one that was set on the instance comes back afterwards."""
    held = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if held is not None:
            module.forward = held


def _hand_on(given: Tensor | None, in_tuple: bool) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = hidden_states if given is None else given.to(hidden_states.device)
        return (out,) if in_tuple else out

    return forward


def _return(output: Tensor, in_tuple: bool) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (output, None) if in_tuple else output

    return forward


@dataclass(frozen=True, eq=False)
class Packed(Batch):
    """Ends of prompts, of many cells, one after another in a single row behind shared prefixes.

    Nothing is padded. Each column sees the prefix of its own prompt up to where its end begins, and
    the earlier columns of its own cell and prompt.
    """

    prompt_of: Int[Tensor, "1 width"] = field(kw_only=True)
    cell_of: Int[Tensor, "1 width"] = field(kw_only=True)
    start_of: Int[Tensor, "1 width"] = field(kw_only=True)
    """The first computed position of each column's cell and prompt."""
    past: Int[Tensor, "2 past"] = field(kw_only=True)
    """The row and the column of the base run that each prefix column comes from."""

    @cached_property
    def prompts(self) -> Int[Tensor, "1 width"]:
        """The prompt that each column belongs to."""
        return self.prompt_of

    @property
    def cells(self) -> Int[Tensor, "1 width"]:
        """The cell that each column belongs to."""
        return self.cell_of

    @property
    def here(self) -> tuple[Int[Tensor, "1 width"], Int[Tensor, "1 width"]]:
        """The row and the column of the base run that each column repeats."""
        return self.prompt_of, self.index

    @cached_property
    def key_index(self) -> Int[Tensor, "1 seen"]:
        """The logical token of each prefix column, then of each column."""
        return torch.cat([self.past[1:], self.index], dim=1)

    def visible(self, window: int | None = None) -> Bool[Tensor, "1 width seen"]:
        """Which columns each query attends to."""
        prompt, cell, index = self.prompt_of[0], self.cell_of[0], self.index[0]
        before = (self.past[0] == prompt[:, None]) & (self.past[1] < self.start_of[0][:, None])
        own = (prompt == prompt[:, None]) & (cell == cell[:, None]) & (index <= index[:, None])
        seen = torch.cat([before, own], dim=1)
        if window is not None:
            seen = seen & (index[:, None] - self.key_index < window)
        return seen[None]


@dataclass(frozen=True)
class Row:
    """The end of one prompt in one cell: positions `start` to `stop - 1` are computed."""

    cell: int
    prompt: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def pack(base: Base, rows: list[Row]) -> Packed:
    """Lay rows out one after another, behind the longest prefix that any of a prompt needs."""
    device = base.batch.ids.device

    def column(values: Callable[[Row], Any]) -> Int[Tensor, "1 width"]:
        several = [torch.as_tensor(values(row)).expand(len(row)) for row in rows]
        return torch.cat(several)[None].to(device)

    index = column(lambda row: torch.arange(row.start, row.stop))
    prompt = column(lambda row: row.prompt)
    longest: dict[int, int] = {}
    for row in rows:
        longest[row.prompt] = max(row.start, longest.get(row.prompt, 0))
    past = [(prompt, pos) for prompt, n in sorted(longest.items()) for pos in range(n)]
    return Packed(
        base.batch.ids[prompt, index],
        index,
        torch.ones(1, len(past) + index.shape[1], dtype=torch.long, device=device),
        prompt_of=prompt,
        cell_of=column(lambda row: row.cell),
        start_of=column(lambda row: row.start),
        past=torch.tensor(past, dtype=torch.long, device=device).reshape(-1, 2).T,
    )


def prefix_cache(base: Base, packed: Packed, start: int) -> DynamicCache:
    """The keys and values of the prefix columns, for the layers from `start` on."""
    prompt, pos = packed.past

    def held(part: tuple[Tensor, ...], layer: int) -> Tensor:
        return part[layer][prompt, :, pos].transpose(0, 1)[None]

    first = min(start, len(base.keys) - 1)
    unread = held(base.keys, first), held(base.values, first)  # for the skipped layers
    cache = DynamicCache()
    for layer in range(len(base.keys)):
        own = layer > first
        keys, values = (held(base.keys, layer), held(base.values, layer)) if own else unread
        cache.update(keys, values, layer)
    return cache


def ends_pass(
    model: Model,
    base: Base,
    packed: Packed,
    start: tuple[int, int],
    taps: Mapping[Site, Tap],
    mask: Any,
    keep: Int[Tensor, " kept"],
    tokens: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "kept d_vocab"], DynamicCache]:
    """Run packed ends under taps, from a block and a stage in it (see `plan.start_of`).

    Returns the logits of the columns `keep` (of some `tokens` alone where they are given), and the
    cache: prefix, then packed columns, in the layers from the start on.
    """
    inner = {site: tap for site, tap in taps.items() if site.component != "logits"}
    at_logits = taps.get(Site("logits"))
    layer, stage = start
    here, cache = packed.here, prefix_cache(base, packed, layer)
    with ExitStack() as stack:
        frozen = {layer: base.attention[layer][here]} if stage == 2 else {}
        stack.enter_context(skipped(model, base, layer, base.resid[layer][here], frozen))
        if stage == 1:
            kept = {name: part[here] for name, part in base.projections[layer].items()}
            stack.enter_context(projected(model, layer, kept))
        if at_logits is None and layer < model.sizes.n_layers:
            stack.enter_context(narrowed(model, prunable(model, inner), keep))
        if at_logits is None:
            stack.enter_context(unembedding(model, tokens))
        if inner:
            stack.enter_context(hooked(model.hf, model.book, inner))
        out = model.hf(
            input_ids=packed.ids,
            attention_mask=mask,
            position_ids=packed.index,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if at_logits is not None else keep,
        ).logits
    if at_logits is not None:
        new = at_logits(out)
        out = (out if new is None else new)[:, keep]
    return out[0], cache
