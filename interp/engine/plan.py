"""What a sweep will cost, before it starts, and what it did cost, after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from interp.engine.model import Model
from interp.engine.partial import PARTS_AFTER, PROJECTIONS, Row
from interp.sites import LAYER_COMPONENTS, Site

MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What a sweep will do."""

    cells: int
    prompts: int
    forwards: int
    """Forward passes, the base run included."""
    tokens: int
    """Tokens that some block reads, in all forward passes."""
    naive_tokens: int
    """The same for one forward pass a cell."""
    share: float
    """Multiply-adds of weights and attention, as a share of one plain forward pass a cell that
    unembeds every position; 1 for the exact path."""
    memory: int
    """Bytes that one forward pass needs at most, beside the weights: estimated."""
    chunk: int
    """Tokens a forward pass, at most."""
    reason: str = ""
    """Why there is no reuse, or nothing."""

    def __str__(self) -> str:
        how = f"no reuse: {self.reason}" if self.reason else f"{self.share:.1%} of naive arithmetic"
        return (
            f"Plan: {self.cells} cells x {self.prompts} prompts in {self.forwards} forward passes, "
            f"{self.tokens} tokens (naive {self.naive_tokens}), {how}, "
            f"about {self.memory / MIB:.0f} MiB a pass."
        )


@dataclass(frozen=True)
class Spent:
    """What a sweep did."""

    forwards: int
    tokens: int
    share: float
    halvings: int
    """How often memory ran out and the batch was halved."""
    seconds: float
    """CPU seconds of this process."""

    def __str__(self) -> str:
        halved = f", the batch halved {self.halvings}x" if self.halvings else ""
        return (
            f"Done: {self.forwards} forward passes, {self.tokens} tokens, {self.share:.1%} of "
            f"naive arithmetic, {self.seconds:.1f} CPU seconds{halved}."
        )


Start = tuple[int, int]
"""Where a partial run starts: the block, and the stage in it. Stage 0 is the block's start; at 1
the projections to q, k and v are taken from the base run, at 2 the whole attention module is."""

STAGES = dict.fromkeys((*(name for name in LAYER_COMPONENTS if name.startswith("attn.")),), 1)
STAGES |= dict.fromkeys(
    ("attn_out", "resid_mid", "mlp.pre", "mlp.pre_linear", "mlp.post", "mlp_out"), 2
)


def start_of(site: Site, n_layers: int) -> Start:
    """Where the first change of an edit at a site lies; block `n_layers` where it is in none.

    >>> [start_of(Site.parse(name), 4) for name in ("2.resid_post", "1.attn.q", "1.mlp_out")]
    [(3, 0), (1, 1), (1, 2)]
    """
    if site.layer is None:
        return (n_layers if site.component in ("ln_final", "logits") else 0), 0
    if site.component == "resid_post":
        return site.layer + 1, 0
    return site.layer, STAGES.get(site.component, 0)


@dataclass(frozen=True)
class _Prices:
    """Multiply-adds and bytes a token."""

    block: int
    late: int
    """The part of a block that works on each position alone and whose result is only read there:
    the output projection and the MLP."""
    attention: int
    """All projections of the attention module."""
    projections: int
    """Those to q, k and v."""
    unembed: int
    key: int
    """Multiply-adds of attention for each query and key, in one block."""
    nbytes: float

    @classmethod
    def of(cls, model: Model) -> _Prices:
        sizes, hf = model.sizes, model.hf
        block = model.book.blocks[0]
        weights = _weights(hf.get_submodule(block[""]))
        late = sum(_weights(hf.get_submodule(block[part])) for part in PARTS_AFTER if part in block)
        width = weights / sizes.d_model  # the residual, all projections and the MLP's inside
        cached = 2 * sizes.n_layers * sizes.n_kv_heads * sizes.d_head
        return cls(
            block=weights,
            late=late,
            attention=_weights(hf.get_submodule(block["attn"])),
            projections=sum(
                _weights(hf.get_submodule(block[p])) for p in PROJECTIONS if p in block
            ),
            unembed=sizes.d_model * sizes.d_vocab,
            key=2 * sizes.n_heads * sizes.d_head,
            nbytes=model.dtype.itemsize * (4 * width + cached + 8 * sizes.d_model),
        )


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


def costs(
    model: Model,
    n_cells: int,
    lengths: Sequence[int],
    rows: Mapping[Start, Sequence[Row]],
    reason: str,
    memory_gib: float,
    chunk: int,
    unembedded: float = 1.0,
) -> Plan:
    """Price a sweep; `unembedded` is the share of the vocabulary that the metric reads."""
    naive_tokens, n_layers = n_cells * sum(lengths), model.sizes.n_layers
    logits = model.dtype.itemsize * model.sizes.d_vocab
    if reason:
        memory = logits * sum(lengths)
        return Plan(
            n_cells, len(lengths), n_cells, naive_tokens, naive_tokens, 1.0, memory, 0, reason
        )
    price = _Prices.of(model)
    plain = sum(_end(price, 0, n, n, n_layers) for n in lengths)
    per_token = price.nbytes + logits
    size = max(1, min(chunk, int(memory_gib * 1024 * MIB / per_token)))
    forwards, tokens, spent, most = 1, sum(lengths), plain, 0
    for (start, stage), several in rows.items():
        filled = 0
        for row in several:
            new = filled == 0 or filled + len(row) > size
            forwards += new
            filled = len(row) if new else filled + len(row)
            most = max(most, filled)
            tokens += len(row)
            whole = stage == 2 and start == n_layers - 1  # there nothing is left out
            read = len(row) if whole else 1
            spent += _end(price, row.start, row.stop, read, n_layers - start, unembedded)
            spent -= (stage == 1) * len(row) * price.projections
            spent -= (stage == 2) * _attention(price, row.start, row.stop)
    share = spent / (n_cells * plain)
    memory = int(per_token * most)
    return Plan(n_cells, len(lengths), forwards, tokens, naive_tokens, share, memory, size)


def _end(
    price: _Prices, start: int, stop: int, read: int, n_layers: int, unembedded: float = 1.0
) -> float:
    """Multiply-adds of positions `start` to `stop - 1` through some blocks, `read` unembedded."""
    new = stop - start
    spent = (
        n_layers * (new * price.block + _pairs(start, stop) * price.key)
        + read * unembedded * price.unembed
    )
    return spent - (new - read) * price.late if n_layers else spent


def _attention(price: _Prices, start: int, stop: int) -> float:
    """Multiply-adds of one block's attention module."""
    return (stop - start) * price.attention + _pairs(start, stop) * price.key


def _pairs(start: int, stop: int) -> float:
    """How many queries and keys meet: each query sees the keys up to its own."""
    return (start + 1 + stop) * (stop - start) / 2
