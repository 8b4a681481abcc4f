"""Path patching: what one part of a model does to the answer through one other part.

For an edge from some senders to some receivers, on base prompts with source prompts beside them:

1. The base prompts run with the senders at their source-run values. Everything between is frozen
   at its base-run value but for what `through` allows: nothing (`"direct"`: the outputs of all
   attention layers and all MLPs are frozen), MLPs (`"mlps"`) or everything (`"all"`). Layer norms
   are computed anew unless `freeze_norms`. What the receivers read there is recorded.
2. The base prompts run with the receivers at what was recorded. The metric of that run is the
   value of the edge.

Sources: Wang et al. 2022, arXiv:2211.00593 (direct paths, and through MLPs); Goldowsky-Dill et al.
2023, arXiv:2304.05969. Decisions that they leave open: a head's contribution is the change of its
block's `attn_out` when its z is replaced and the other heads keep their base values, so blocks that
normalise what they add are covered; an MLP receiver is put back as the output that it makes of the
changed input; norms that are frozen are frozen in the first pass only, the ones inside attention
(on q and k) never.

`exact=True` does just this, two runs an edge. Otherwise the first pass is one partial run for many
sender sets (see `path_record`), the second a `sweep`; tokens that no sender can have changed are
left alone. The numbers are the same to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edits import Patch
from interp.engine import masks
from interp.engine.model import LogitsAt, Model, Run
from interp.engine.partial import base_run
from interp.engine.plan import Spent
from interp.engine.receipts import EditReceipt
from interp.engine.session import Session
from interp.engine.sweep import Named, Swept, check_metric, sweep
from interp.errors import InputError
from interp.metrics import Metric
from interp.models.tokens import Batch, Inputs
from interp.patching.path_naive import Naive, naive_edge, naive_logits
from interp.patching.path_nodes import (
    Edge,
    EdgeLike,
    Receiver,
    Sender,
    all_edges,
    is_parallel,
    require_reach,
)
from interp.patching.path_norms import base_scales
from interp.patching.path_record import LOGITS, Known, Recorded, Through, record
from interp.sites import Each, Site

__all__ = ["Edge", "Paths", "Receiver", "Replaced", "Sender", "all_edges", "path_patch"]

TOKENS_A_PASS = 4096
"""At most so many tokens in one partial first pass; one sender set always fits."""
EDGES_A_SWEEP = 2048
"""At most so many edges in one second pass: a sweep's bookkeeping grows with its cells."""
GIB = 1 << 30


@dataclass(frozen=True)
class Replaced:
    """Proof that a receiver was replaced."""

    site: Site
    heads: tuple[int, ...] | None
    tokens: int
    """At how many tokens of the batch."""
    change: float
    """L2 norm of the change over all entries, in the activation's own unit."""
    before: float
    """L2 norm of the same entries before."""


@dataclass(frozen=True)
class PathPlan:
    """What a call will do."""

    edges: int
    sender_sets: int
    prompts: int
    through: str
    groups: int
    """Into how many groups of sender sets the work is divided; each is one sweep."""
    recorded: int
    """Bytes that the recorded receivers of a group take at most."""
    reason: str = ""
    """Why there is no reuse, or nothing."""

    def __str__(self) -> str:
        what = f"{self.edges} edges from {self.sender_sets} sender sets x {self.prompts} prompts"
        how = "two runs an edge: " + self.reason if self.reason else f"{self.groups} groups"
        memory = "" if self.reason else f", about {self.recorded / 2**20:.0f} MiB recorded at once"
        return f"Paths: {what}, through {self.through!r}, {how}{memory}."


@dataclass(frozen=True, eq=False)
class Paths:
    """What path patching found; one row for each edge, in the order given."""

    edges: tuple[Edge, ...]
    values: Float[Tensor, "edge prompt"]
    """The metric with the edge patched."""
    base: Float[Tensor, " prompt"]
    """The metric of the base run."""
    source: Float[Tensor, " prompt"]
    """The metric of the source run."""
    receipts: tuple[tuple[Replaced, ...], ...]
    """For each edge the receivers that were replaced. Empty where the senders can have changed no
    token that a receiver reads: then the value is the base value and nothing was run."""
    eps: float
    """Relative rounding of the model's numbers."""
    plan: PathPlan
    spent: tuple[Spent, ...]
    """The second passes: one sweep for each group; empty for the exact path."""
    seconds: float
    """CPU seconds of this process."""

    @property
    def effect(self) -> Float[Tensor, "edge prompt"]:
        """How far each edge moves the metric from the base run."""
        return self.values - self.base

    @property
    def acted(self) -> Bool[Tensor, " edge"]:
        """Whether each edge moved a receiver by more than rounding; False marks a no-op.

        A receiver that moved by less than four roundings of its own norm counts as unmoved: less
        cannot be told from the order of a sum.
        """
        least = 4 * self.eps
        return torch.tensor(
            [any(each.change > least * each.before for each in edge) for edge in self.receipts]
        )

    def __str__(self) -> str:
        idle = int((~self.acted).sum())
        noop = f", {idle} of them NO-OPS: their receivers did not move" if idle else ""
        return f"{len(self.edges)} edges on {len(self.base)} prompts{noop}; {self.seconds:.1f} s."


@torch.no_grad()
def path_patch(
    model: Model,
    base: Inputs,
    source: Inputs,
    edges: Sequence[EdgeLike],
    metric: Metric,
    *,
    through: Through = "direct",
    freeze_norms: bool = False,
    exact: bool = False,
    logits: LogitsAt = "last",
    memory_gib: float = 2.0,
    say: Callable[[str], None] | None = print,
) -> Paths:
    """Patch paths from senders to receivers; see the module for the definition.

    Args:
        model: reuse needs the torch engine; the others run two forward passes an edge.
        base: prompts, of any lengths.
        source: one prompt for each base prompt, of as many tokens.
        edges: pairs of senders and receivers, each one or several, such as `("5.h3", "7.h1.q")`;
            `all_edges` lists many.
        metric: `metric(logits, rows)`, see `interp.metrics`.
        through: what lies between and is computed anew: `"direct"`, `"mlps"` or `"all"`.
        freeze_norms: keep the scale of every layer norm at its base-run value in the first pass.
        exact: the naive algorithm, which is what the answer means.
        logits: the position that the metric reads: `"last"`, an index or several.
        memory_gib: for recorded receivers and for the second pass, half each.
        say: told the plans and costs; None for silence.

    Raises:
        InputError: an end that cannot be read, an edge that cannot carry anything, prompts of
            different lengths, or a metric that does not return one number a prompt.
        SiteError, EditError, PositionError: a site, head or token that the model or prompts lack.
        ModelError: `freeze_norms` on a model whose norms cannot be frozen.

    >>> import interp
    >>> from interp.metrics import LogitDiff
    >>> model = interp.load("tiny-llama")
    >>> prompts = "Mary gave it to", "John gave it to"
    >>> pairs = [("0.h1", "2.h3.q"), ("embed", "logits"), ("1.h0@5", "2.mlp")]
    >>> paths = path_patch(model, *prompts, pairs, LogitDiff(5, 6), say=None)
    >>> paths.values.shape, paths.acted.tolist(), paths.receipts[0][0].tokens
    (torch.Size([3, 1]), [True, False, True], 7)
    """
    started = time.process_time()
    job = _prepare(model, base, source, edges, metric, through, exact, logits, memory_gib)
    if freeze_norms and model.engine != "torch":
        raise InputError(f"freeze_norms needs the torch engine, and this is {model.engine}.")
    groups = [] if job.reason else _groups(job)
    plan = _plan(job, groups)
    if say:
        say(str(plan))
    runs = _Runs.of(job, source, freeze_norms)
    spent = _naive(job, runs) if job.reason else _fast(job, runs, groups, say)
    seconds = time.process_time() - started
    eps = torch.finfo(model.dtype).eps
    receipts = tuple(job.receipts)
    paths = Paths(
        job.edges, job.values, runs.base_values, runs.source_values, receipts, eps, plan, spent,
        seconds,
    )  # fmt: skip
    if say:
        say(str(paths))
    return paths


@dataclass(eq=False)
class _Job:
    """Everything that is known before a model runs, and the answers as they come."""

    model: Model
    batch: Batch
    ids: list[list[int]]
    edges: tuple[Edge, ...]
    metric: Metric
    through: Through
    logits: LogitsAt
    read: Int[Tensor, "prompt read"]
    masks: dict[Sender | Receiver, Bool[Tensor, "prompt pos"]]
    """The tokens that each end names."""
    moved: Bool[Tensor, "prompt pos"]
    """The tokens from the first one on at which source and base differ."""
    memory: float
    """Bytes."""
    reason: str
    """Why the naive algorithm is used, or nothing."""
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    receipts: list[tuple[Replaced, ...]] = field(default_factory=list)
    places: dict[Any, tuple[Any, Any] | None] = field(default_factory=dict)

    def reached(self, senders: Sequence[Sender]) -> Bool[Tensor, "prompt pos"]:
        """The tokens at which a sender set can change anything."""
        named = torch.stack([self.masks[sender] for sender in senders]).any(0) & self.moved
        return self._onwards(named) if self.through == "all" else named

    def _onwards(self, tokens: Bool[Tensor, "prompt pos"]) -> Bool[Tensor, "prompt pos"]:
        return (tokens.cumsum(1) > 0) & (self.batch.index >= 0)

    def tokens(
        self, reached: Bool[Tensor, "prompt pos"], receiver: Receiver
    ) -> Bool[Tensor, "prompt pos"]:
        """The tokens at which a receiver can differ from the base run, of those that it names."""
        if receiver.kind == "pattern":  # a query reads earlier keys
            reached = self._onwards(reached)
        return reached & self.masks[receiver]


def _prepare(
    model: Model,
    base: Inputs,
    source: Inputs,
    edges: Sequence[EdgeLike],
    metric: Metric,
    through: Any,
    exact: bool,
    logits: LogitsAt,
    memory_gib: float,
) -> _Job:
    """Check everything that the caller gave."""
    if through not in get_args(Through):
        raise InputError(f"through={through!r}: write 'direct', 'mlps' or 'all'.")
    if not memory_gib > 0:
        raise InputError(f"memory_gib={memory_gib}: give a positive number.")
    found = _edges(model, edges)
    batch, other = model.tokens(base), model.tokens(source)
    if batch.lengths.tolist() != other.lengths.tolist():
        raise InputError(
            f"The source prompts have {other.lengths.tolist()} tokens and the base prompts "
            f"{batch.lengths.tolist()}: patching by position needs as many in each pair."
        )
    read = model.logit_positions(logits, batch)
    if read is None:
        raise InputError("logits='all': name the positions that the metric reads, such as 'last'.")
    check_metric(metric, logits, read, model)
    ids = [row[: int(n)].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
    moved = ((batch.ids != other.ids).cumsum(1) > 0) & (batch.index >= 0)
    reason = "exact=True" if exact else ""
    if not exact and model.engine != "torch":
        reason = f"the engine {model.engine} cannot start in the middle"
    reason = reason or masks.refusal(model)
    named = _named(model, batch, found)
    memory = memory_gib * GIB
    return _Job(
        model, batch, ids, found, metric, through, logits, read, named, moved, memory, reason
    )


def _edges(model: Model, edges: Sequence[EdgeLike]) -> tuple[Edge, ...]:
    """Read the edges and refuse those that cannot carry anything."""
    if isinstance(edges, Edge) or not len(edges):
        raise InputError("edges: give a list of at least one pair such as ('5.h3', '7.h1.q').")
    found = tuple(map(Edge.of, edges))
    parallel = is_parallel(model)
    for edge in found:
        require_reach(edge, parallel)
    return found


def check_edges(model: Model, base: Inputs, edges: Sequence[EdgeLike]) -> None:
    """Refuse what `path_patch` would refuse of these edges, before anything runs.

    Raises:
        InputError, SiteError, EditError, PositionError: as in `path_patch`.
    """
    _named(model, model.tokens(base), _edges(model, edges))


def _named(
    model: Model, batch: Batch, edges: Sequence[Edge]
) -> dict[Sender | Receiver, Bool[Tensor, "prompt pos"]]:
    """The tokens that each end names; refuses sites, heads and tokens that are not there."""
    ends = dict.fromkeys(end for edge in edges for end in (*edge.senders, *edge.receivers))
    session = Session(model, batch, batch.lengths)
    for end in ends:
        edit = Named(end.site, heads=end.head, positions=end.positions, name=str(end))
        session.add([edit], {})
    return {end: bound.due for end, bound in zip(ends, session.edits, strict=True)}


def _one(logits: LogitsAt) -> bool:
    """Whether the metric reads one position, and so is given no axis for it."""
    return logits == "last" or isinstance(logits, int)


@dataclass(frozen=True, eq=False)
class _Runs:
    """The base and the source run."""

    base: Run
    source: Run
    base_values: Float[Tensor, " prompt"]
    source_values: Float[Tensor, " prompt"]
    scales: dict[str, Tensor]
    plain_mlps: bool

    @classmethod
    def of(cls, job: _Job, source: Inputs, freeze_norms: bool) -> _Runs:
        """Run base and source once, keep what the first pass needs, and set the base values."""
        senders = dict.fromkeys(sender for edge in job.edges for sender in edge.senders)
        sites = [sender.site for sender in senders]
        if any(site.component == "embed" for site in sites):
            sites.append(Site("resid_pre", 0))
        layers = range(job.model.sizes.n_layers)
        frozen = {"direct": ("attn.z", "mlp_out"), "mlps": ("attn.z",), "all": ()}[job.through]
        keep = [Site(name, layer) for layer in layers for name in frozen]
        with _mlp_tuples(job.model) as tuples:
            base = job.model.run(job.ids, capture=keep, logits=job.logits)
        other = job.model.run(source, capture=sites, logits=job.logits)
        rows = torch.arange(len(job.ids))
        values = job.metric(base.logits, rows)
        job.values = values.expand(len(job.edges), -1).clone()
        job.receipts = [()] * len(job.edges)
        scales = base_scales(job.model, job.batch) if freeze_norms else {}
        return cls(base, other, values, job.metric(other.logits, rows), scales, not any(tuples))

    def known(self, job: _Job) -> Known:
        """What the fast first pass starts from."""
        return Known(
            base=base_run(job.model, job.ids),
            frozen=_by_site(self.base),
            source=_by_site(self.source),
            read=job.read,
            scales=self.scales,
            plain_mlps=self.plain_mlps,
        )


@contextmanager
def _mlp_tuples(model: Model) -> Iterator[list[bool]]:
    """Inside the block, notes for each call of an MLP whether it returned a tuple."""
    seen: list[bool] = []
    with ExitStack() as stack:
        for block in model.book.blocks if model.engine == "torch" else ():
            module = model.hf.get_submodule(block["mlp"])
            note = module.register_forward_hook(lambda *call: seen.append(type(call[2]) is tuple))
            stack.callback(note.remove)
        yield seen


def _by_site(run: Run) -> dict[Site, Tensor]:
    """Captured activations with 0 at padding: what is masked away must still be finite."""
    return {Site.parse(site): act.nan_to_num() for site, act in run.acts.items()}


def _naive(job: _Job, runs: _Runs) -> tuple[Spent, ...]:
    """Two plain runs an edge."""
    shared = Naive(
        job.model, job.ids, runs.base.acts, runs.source.acts, runs.scales, job.through, job.logits
    )
    for place, edge in enumerate(job.edges):
        if edge.to_logits:
            _score(job, runs, place, job.batch.index >= 0, _each_read(naive_logits(shared, edge)))
            continue
        job.values[place], proofs = naive_edge(shared, edge, job.metric)
        job.receipts[place] = tuple(map(_proof, proofs))
    return ()


def _proof(receipt: EditReceipt) -> Replaced:
    """A receipt without its edit, whose source would keep every recorded tensor alive."""
    edit = receipt.edit
    site = Site.parse(edit.site)
    return Replaced(site, edit.heads, len(receipt.tokens), receipt.change, receipt.before)


@dataclass(frozen=True, eq=False)
class _Set:
    """A sender set: the edges that leave it, and what is recorded for them."""

    senders: tuple[Sender, ...]
    edges: list[int]
    reached: Bool[Tensor, "prompt pos"]
    sites: frozenset[Site]
    nbytes: int


def _groups(job: _Job) -> list[list[_Set]]:
    """Sender sets, those that start early first, in groups whose recordings fit in memory."""
    sets = sorted(_sets(job), key=lambda each: min(s.layer or 0 for s in each.senders))
    groups: list[list[_Set]] = []
    held = edges = 0
    for each in sets:
        held, edges = held + each.nbytes, edges + len(each.edges)
        if not groups or held > job.memory / 2 or edges > EDGES_A_SWEEP:
            groups.append([])
            held, edges = each.nbytes, len(each.edges)
        groups[-1].append(each)
    return groups


def _sets(job: _Job) -> Iterator[_Set]:
    """The sender sets that can change a receiver; the other edges keep the base value."""
    by_set: dict[tuple[Sender, ...], list[int]] = {}
    for place, edge in enumerate(job.edges):
        by_set.setdefault(edge.senders, []).append(place)
    for senders, places in by_set.items():
        reached = job.reached(senders)
        live = [i for i in places if _live(job, reached, job.edges[i])]
        receivers = {receiver for i in live for receiver in job.edges[i].receivers}
        sites = frozenset(receiver.site for receiver in receivers)
        if live:
            yield _Set(senders, live, reached, sites, sum(_nbytes(job, site) for site in sites))


def _live(job: _Job, reached: Bool[Tensor, "prompt pos"], edge: Edge) -> bool:
    return any(_place(job, reached, receiver) is not None for receiver in edge.receivers)


def _place(
    job: _Job, reached: Bool[Tensor, "prompt pos"], receiver: Receiver
) -> tuple[Any, Any] | None:
    """Positions and rows for the tokens that a receiver is replaced at; None where there are none.

    The tokens that no sender can have changed are left out: they have their base value.
    """
    key = reached.numpy().tobytes(), receiver.positions, receiver.kind == "pattern"
    if key not in job.places:
        job.places[key] = _written_tokens(job.tokens(reached, receiver), job.batch.index >= 0)
    return job.places[key]


def _written_tokens(
    tokens: Bool[Tensor, "prompt pos"], real: Bool[Tensor, "prompt pos"]
) -> tuple[Any, Any] | None:
    """Tokens as the positions and rows of an edit; None for no token.

    >>> every = torch.ones(2, 3, dtype=torch.bool)
    >>> _written_tokens(torch.tensor([[False, True, True], [False, False, False]]), every)
    (Each(((1, 2), (0,))), (0,))
    """
    if torch.equal(tokens, real):
        return "all", None
    named = [row.nonzero()[:, 0].tolist() for row in tokens]
    rows = tuple(row for row, several in enumerate(named) if several)
    if not rows:
        return None
    whole = Each(tuple(tuple(several) or (0,) for several in named))  # an unnamed row needs some
    return whole, None if len(rows) == len(named) else rows


def _nbytes(job: _Job, site: Site) -> int:
    """What one recording of a site takes."""
    sizes, (n, width) = job.model.sizes, job.batch.ids.shape
    match site.component:
        case "logits":
            entries = sizes.d_vocab * job.read.shape[1] / width
        case "attn.pattern":
            entries = sizes.n_heads * width
        case "attn.k" | "attn.v":
            entries = sizes.n_kv_heads * sizes.d_head
        case "attn.q" | "attn.k_each" | "attn.v_each":
            entries = sizes.n_heads * sizes.d_head
        case _:
            entries = sizes.d_model
    return int(n * width * entries * job.model.dtype.itemsize)


def _plan(job: _Job, groups: list[list[_Set]]) -> PathPlan:
    sets = {edge.senders for edge in job.edges}
    recorded = max((sum(each.nbytes for each in group) for group in groups), default=0)
    return PathPlan(
        len(job.edges), len(sets), len(job.ids), job.through, len(groups), recorded, job.reason
    )


def _fast(
    job: _Job, runs: _Runs, groups: list[list[_Set]], say: Callable[[str], None] | None
) -> tuple[Spent, ...]:
    """For each group the first pass, then one sweep."""
    if not groups:
        return ()
    known, spent = runs.known(job), []
    for group in groups:
        recorded = _record(job, known, group)
        cells: dict[int, list[Patch]] = {}
        for place, each in enumerate(group):
            for i in each.edges:
                if job.edges[i].to_logits:
                    _score(job, runs, i, each.reached, recorded[place, LOGITS])
                else:
                    cells[i] = _cell(job, each, job.edges[i], place, recorded)
        if cells:
            swept = sweep(
                job.model, job.ids, list(cells.values()), job.metric, logits=job.logits,
                memory_gib=job.memory / 2 / GIB, say=say,
            )  # fmt: skip
            _take(job, list(cells), swept)
            spent.append(swept.spent)
    return tuple(spent)


def _record(job: _Job, known: Known, group: Sequence[_Set]) -> Recorded:
    """The first pass for a group, so many sender sets at once."""
    n = max(1, TOKENS_A_PASS // job.batch.ids.numel())
    recorded: Recorded = {}
    for first in range(0, len(group), n):
        part = group[first : first + n]
        sets, wanted = [each.senders for each in part], [each.sites for each in part]
        masks = {end: mask for end, mask in job.masks.items() if isinstance(end, Sender)}
        found = record(job.model, known, sets, wanted, masks, job.through)
        recorded |= {(first + place, site): act for (place, site), act in found.items()}
    return recorded


def _cell(job: _Job, group: _Set, edge: Edge, place: int, recorded: Recorded) -> list[Patch]:
    """The patches of an edge's second pass; heads of one site and the same tokens share one."""
    heads: dict[tuple[Site, Any, Any], list[int | None]] = {}
    for receiver in edge.receivers:
        at = _place(job, group.reached, receiver)
        if at is not None:
            heads.setdefault((receiver.site, *at), []).append(receiver.head)
    return [
        Patch(
            site,
            heads=None if None in several else tuple(dict.fromkeys(several)),
            positions=positions,
            rows=rows,
            source=recorded[place, site],
        )
        for (site, positions, rows), several in heads.items()
    ]


def _score(
    job: _Job,
    runs: _Runs,
    i: int,
    reached: Bool[Tensor, "prompt pos"],
    logits: Float[Tensor, "prompt read d_vocab"],
) -> None:
    """The value of an edge to the logits: the metric of what was recorded."""
    base, (receiver,) = _each_read(runs.base.logits), job.edges[i].receivers
    named = job.tokens(reached, receiver).gather(1, job.read)
    if not named.any():
        return
    new = torch.where(named[..., None], logits, base)
    rows = torch.arange(len(job.ids))
    job.values[i] = job.metric(new[:, 0] if _one(job.logits) else new, rows)
    change, before = (new - base).double().norm(), base[named].double().norm()
    job.receipts[i] = (Replaced(LOGITS, None, int(named.sum()), float(change), float(before)),)


def _each_read(logits: Float[Tensor, "prompt *read d_vocab"]) -> Tensor:
    """Logits `[prompt, read, d_vocab]`, with an axis for the positions even where there is one."""
    return logits[:, None] if logits.ndim == 2 else logits


def _take(job: _Job, places: Sequence[int], swept: Swept) -> None:
    """Keep what a sweep found."""
    job.values[torch.tensor(places)] = swept.values
    for i, proofs in zip(places, swept.receipts, strict=True):
        job.receipts[i] = tuple(map(_proof, proofs))
