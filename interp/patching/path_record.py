"""Pass 1 of path patching, fast: what the receivers of many sender sets read, in one partial pass.

The sender sets are one batch that starts at the block of the earliest sender, from the base run's
residual stream. A frozen module is not run: its base-run output is handed on, with the senders'
part in it. So a direct path costs additions and norms alone, but for the projections that a
receiver is read from; and the pass ends once every receiver is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.engine.hooks import hooked, plain_forward
from interp.engine.model import Model
from interp.engine.partial import Base, forward_as, skipped
from interp.engine.session import Tap
from interp.models.tokens import Batch
from interp.patching.path_nodes import IN_ATTENTION, RECEIVERS, Sender
from interp.patching.path_norms import frozen_norms
from interp.sites import Site

Through = Literal["direct", "mlps", "all"]
"""What lies between senders and receivers and is computed anew: nothing, MLPs, or everything."""
LOGITS = Site("logits")
_ATTENTION_READS = frozenset(RECEIVERS[kind] for kind in IN_ATTENTION) | {
    "attn.k_each",
    "attn.v_each",
}


@dataclass(frozen=True, eq=False)
class Known:
    """What pass 1 starts from: two plain runs."""

    base: Base
    frozen: Mapping[Site, Tensor]
    """The base run's `attn.z` and `mlp_out`, `[prompt, pos, ...]`; column p holds position p,
    padding 0."""
    source: Mapping[Site, Tensor]
    """The source run at every sender's site."""
    read: Int[Tensor, "prompt read"]
    """The positions that the metric reads."""
    scales: Mapping[str, Tensor]
    """The base run's scale of each norm; empty where norms are not frozen."""
    plain_mlps: bool = True
    """Whether MLPs return a tensor and no tuple, so that one that is not needed can stand idle."""


Recorded = dict[tuple[int, Site], Tensor]
"""By the place of a sender set and by site, what it sends there: `[prompt, pos, ...]`; of logits
only the positions that are read."""


class _Enough(Exception):
    """Ends a forward pass once everything is recorded."""


@dataclass(eq=False)
class _Pass:
    """One partial pass for some sender sets."""

    model: Model
    known: Known
    through: Through
    sets: Sequence[Sequence[Sender]]
    wanted: Sequence[frozenset[Site]]
    """What to record for each set."""
    masks: Mapping[Sender, Bool[Tensor, "prompt pos"]]
    """The tokens of each sender."""
    recorded: Recorded = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sites = frozenset().union(*self.wanted)
        """Everything that is recorded for some set."""
        self.pending = set(self.sites)

    @property
    def start(self) -> int:
        """The first block that any sender changes."""
        return min(sender.layer or 0 for senders in self.sets for sender in senders)

    @property
    def layers(self) -> range:
        """The blocks that are computed, at most: up to the last one that a receiver is read in."""
        n = self.model.sizes.n_layers
        return range(self.start, 1 + max(n - 1 if s.layer is None else s.layer for s in self.sites))

    def tiled(self, act: Tensor) -> Tensor:
        """`[prompt, ...]` once for each sender set, set by set: `[row, ...]`."""
        return act.expand(len(self.sets), *act.shape).flatten(0, 1)

    def by_set(self, act: Tensor) -> Tensor:
        """Rows as sender sets and prompts: `[set, prompt, ...]`."""
        return act.unflatten(0, (len(self.sets), -1))

    def sent(self, site: Site) -> Bool[Tensor, "set prompt pos *head"] | None:
        """Which entries of a site come from the source, for each set; None where none does."""
        found = [[s for s in senders if _stream_site(s) == site] for senders in self.sets]
        if not any(found):
            return None
        shape = self.known.base.batch.ids.shape
        heads = [self.model.sizes.n_heads] if site.component == "attn.z" else []
        sent = torch.zeros(len(self.sets), *shape, *heads, dtype=torch.bool)
        for place, senders in enumerate(found):
            for sender in senders:
                sent[place][(..., sender.head) if heads else ...] |= self.masks[sender]
        return sent.to(self.known.base.batch.ids.device)

    def attention_output(self, layer: int) -> Float[Tensor, "row pos d_model"]:
        """What a frozen attention module returns: base, with the senders' heads in it."""
        raw = self.known.base.attention[layer]
        site = Site("attn.z", layer)
        sent = self.sent(site)
        if sent is None:
            return self.tiled(raw)
        out = self.tiled(raw).clone().unflatten(0, (len(self.sets), -1))
        some = sent.flatten(1).any(1)
        z = torch.where(sent[some][..., None], self.known.source[site], self.known.frozen[site])
        project = self.model.hf.get_submodule(self.model.book.blocks[layer]["attn.o"])
        changed = project(z.flatten(-2))
        out[some] = torch.where(sent[some].any(-1)[..., None], changed, raw)
        return out.flatten(0, 1)

    def record(self, site: Site, act: Float[Tensor, "row pos *rest"]) -> None:
        """Keep what some sets want of a site."""
        if site not in self.pending:
            return
        places = [i for i, sites in enumerate(self.wanted) if site in sites]
        held = self.by_set(act)[torch.tensor(places, device=act.device)]
        self.recorded |= {(i, site): held[k] for k, i in enumerate(places)}
        self.pending.discard(site)

    def replaced(self, site: Site, act: Float[Tensor, "row pos *rest"]) -> Tensor | None:
        """The activation of a site, frozen where it is, with the senders' part in it."""
        frozen = self.through == "direct" and site.component == "mlp_out"
        sent = self.sent(site)
        if sent is None:
            return self.tiled(self.known.frozen[site]) if frozen else None
        old = self.known.frozen[site][None] if frozen else self.by_set(act)
        new = torch.where(sent[..., None], self.known.source[site], old)
        return new.flatten(0, 1)

    def tap(self, site: Site) -> Tap:
        """Replaces what is sent and records what arrives; an MLP is recorded before."""

        def tap(act: Tensor) -> Tensor | None:
            if site.component == "mlp_out":
                self.record(site, act)
            new = self.replaced(site, act)
            self.record(site, act if new is None else new)
            if not self.pending:
                raise _Enough
            return new

        return tap

    def taps(self) -> dict[Site, Tap]:
        """A tap at every site that is changed or recorded."""
        sites = {_stream_site(sender) for senders in self.sets for sender in senders}
        sites |= self.sites - {LOGITS}
        if self.through == "direct":
            sites |= {Site("mlp_out", layer) for layer in self.layers}
        if self.through != "all":
            sites = {site for site in sites if site.component != "attn.z"}
        return {site: self.tap(site) for site in sorted(sites, key=lambda site: site.order)}


@torch.no_grad()
def record(
    model: Model,
    known: Known,
    sets: Sequence[Sequence[Sender]],
    wanted: Sequence[frozenset[Site]],
    masks: Mapping[Sender, Bool[Tensor, "prompt pos"]],
    through: Through,
) -> Recorded:
    """Run pass 1 for some sender sets at once.

    Args:
        model: behind the torch engine.
        known: the base and source run.
        sets: the sender sets; the batch of this pass is one row a set and prompt.
        wanted: for each set, the sites to record.
        masks: the tokens at which each sender is replaced.
        through: what between senders and receivers is computed anew.
    """
    job = _Pass(model, known, through, sets, wanted, masks)
    batch = known.base.batch
    tiles = Batch(job.tiled(batch.ids), job.tiled(batch.index), job.tiled(batch.mask))
    columns = known.read.unique()
    with ExitStack() as stack:
        stack.enter_context(suppress(_Enough))
        stack.enter_context(frozen_norms(model, known.scales, len(sets)))
        stack.enter_context(
            skipped(model, known.base, job.start, job.tiled(known.base.resid[job.start]))
        )
        stack.enter_context(_frozen(job))
        stack.enter_context(hooked(model.hf, model.book, job.taps()))
        out, _ = plain_forward(model.hf, tiles, keep=columns)
        place = torch.searchsorted(columns, known.read.contiguous())
        index = place[None, :, :, None].expand(len(sets), -1, -1, out.shape[-1])
        job.record(LOGITS, job.by_set(out).gather(2, index.to(out.device)).flatten(0, 1))
    return job.recorded


def _stream_site(sender: Sender) -> Site:
    """Where a sender enters: the embedding changes the stream that enters block 0 and no more."""
    return Site("resid_pre", 0) if sender.kind == "embed" else sender.site


@contextmanager
def _frozen(job: _Pass) -> Iterator[None]:
    """Inside the block frozen modules hand on what they are told and run only to be recorded."""
    attention_tuple = bool(job.known.base.tuples[1])
    reads = {site.layer for site in job.sites if site.component in _ATTENTION_READS}
    with ExitStack() as stack:
        for layer in job.layers if job.through != "all" else ():
            block = job.model.book.blocks[layer]
            attention = job.model.hf.get_submodule(block["attn"])
            if layer in reads:
                hook = _override(job, layer)
                stack.callback(attention.register_forward_hook(hook).remove)
            else:
                stack.enter_context(forward_as(attention, _hand(job, layer, attention_tuple)))
            idle = job.through == "direct" and job.known.plain_mlps
            if idle and Site("mlp_out", layer) not in job.sites:
                mlp = job.model.hf.get_submodule(block["mlp"])
                stack.enter_context(forward_as(mlp, _idle))
        yield


def _override(job: _Pass, layer: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        new = job.attention_output(layer)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _hand(job: _Pass, layer: int, in_tuple: bool) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        new = job.attention_output(layer)
        return (new, None) if in_tuple else new

    return forward


def _idle(act: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stands in for an MLP whose output is replaced by the tap behind it."""
    return act
