"""Edge attribution patching: what each edge between two parts of a model carries to the answer.

The nodes are `input` (what enters the first block), each head `a{layer}.h{head}`, each MLP
`m{layer}`, and `logits` (the final norm and all after it). Every node reads the residual stream,
which is the sum of what the nodes before it wrote. So the edge from sender s to receiver r can be
patched alone: r's own input moves by what s writes in the source run less what it writes in the
base run, and nobody else's does. To first order that changes the metric by

    score(s -> r) = (source - base contribution of s) . (gradient at the input of r)

(EAP: Syed et al. 2023, arXiv:2310.10348). A head reads three times, as `<q>`, `<k>` and `<v>`: the
gradient at each is that of its own query, key and value, pulled back through the rotation, the
norms and the projections to the residual stream. EAP-IG (Hanna et al. 2024, arXiv:2403.17806)
averages the gradient along a path from base to source; `interp.patching.attribution` writes the sum
down.

Two conventions. In a grouped-query model every query head has its own copy of the key and value
that it reads, so `a0.h1<k>` is the edge into head 1's copy; the edge into the shared key is the sum
over its group, `EdgeScores.shared`. Where a norm follows attention (Gemma), a head's contribution
is its own output times the factor by which that norm scaled the whole: contributions add up
exactly, and each run has its own factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edits import ZeroAblate
from interp.engine.hooks import head_results
from interp.engine.identities import probe_ids
from interp.engine.model import Model
from interp.engine.session import Tap
from interp.engine.torch_engine import TorchModel
from interp.errors import InputError, ModelError, nearest
from interp.metrics import Metric
from interp.models.tokens import Batch, Inputs
from interp.patching.attribution import START, Along, Pairs, Rule, path_points, read_pairs, scored
from interp.sites import Site

PORTS = ("q", "k", "v")
"""The three ways in which a head reads the residual stream."""
INSIDE = ("attn.rot_q", "attn.k_each", "attn.v_each")
"""Where each port's value is seen, one copy for each query head."""


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a model; the order of both is that of EAP-IG's graph.

    >>> graph = Graph(n_layers=1, n_heads=2, d_model=8, parallel=False)
    >>> graph.senders, graph.receivers[:4], int(graph.exists.sum())
    (('input', 'a0.h0', 'a0.h1', 'm0'), ('a0.h0<q>', 'a0.h1<q>', 'a0.h0<k>', 'a0.h1<k>'), 13)
    """

    n_layers: int
    n_heads: int
    d_model: int
    parallel: bool
    """Whether attention and MLP of a block read the same stream, so that no edge joins them."""

    def __post_init__(self) -> None:
        sizes = {"n_layers": self.n_layers, "n_heads": self.n_heads, "d_model": self.d_model}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: a graph needs a whole number of at least 1.")

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Nodes that write: the input, then each layer's heads and its MLP."""
        layers = range(self.n_layers)
        return ("input", *(name for layer in layers for name in self._written(layer)))

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Places that read: each layer's queries, keys, values and its MLP, then the logits."""
        found = [name for block in self.blocks for name in block.names]
        return tuple(found)

    def _written(self, layer: int) -> list[str]:
        return [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Receivers that read the same stream: attention and MLP of each layer, the logits."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        at = 0
        for layer in range(self.n_layers):
            before = 1 + layer * (self.n_heads + 1)
            heads = [f"a{layer}.h{h}<{port}>" for port in PORTS for h in range(self.n_heads)]
            yield Block(tuple(heads), at, before, layer)
            at += len(heads)
            yield Block((f"m{layer}",), at, before + (0 if self.parallel else self.n_heads), layer)
            at += 1
        yield Block(("logits",), at, len(self.senders), None)

    @cached_property
    def exists(self) -> Bool[Tensor, "sender receiver"]:
        """Which pairs are edges: the sender has written before the receiver reads."""
        mask = torch.zeros(len(self.senders), len(self.receivers), dtype=torch.bool)
        for block in self.blocks:
            mask[: block.before, block.places] = True
        return mask

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """The names of all edges, by sender and then receiver."""
        return tuple(self.name(*edge) for edge in self.exists.nonzero().tolist())

    def name(self, sender: int, receiver: int) -> str:
        """Write the edge between two places: `a0.h1->m0`, `m0->a1.h2<k>`."""
        return f"{self.senders[sender]}->{self.receivers[receiver]}"

    @cached_property
    def _place(self) -> tuple[dict[str, int], dict[str, int]]:
        return _places(self.senders), _places(self.receivers)

    def find(self, edge: str) -> tuple[int, int]:
        """Return the places of an edge's sender and receiver.

        Raises:
            InputError: no such nodes, or the receiver reads before the sender writes.
        """
        sender, arrow, receiver = edge.partition("->")
        for name, known in zip((sender, receiver), self._place, strict=True):
            if not arrow or name not in known:
                raise InputError(
                    f"{edge!r} is no edge of {self.n_layers} layers with {self.n_heads} heads: "
                    f"write it like 'm0->a1.h2<k>' or 'input->logits'.{nearest(name, known)}"
                )
        place = self._place[0][sender], self._place[1][receiver]
        if not self.exists[place]:
            raise InputError(
                f"The edge {edge!r} points backwards: {receiver} reads before {sender} writes, so "
                "it would close a cycle."
            )
        return place


@dataclass(frozen=True)
class Block:
    """Receivers that read the residual stream at one point."""

    names: tuple[str, ...]
    first: int
    """The place of the first among all receivers."""
    before: int
    """How many senders have written by then."""
    layer: int | None
    """None for the logits."""

    @property
    def places(self) -> slice:
        """Their places among all receivers."""
        return slice(self.first, self.first + len(self.names))

    @property
    def heads(self) -> bool:
        """Whether they are the heads of a layer."""
        return self.names[0].startswith("a")


def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def plain_model(model: Model) -> Model:
    """Return the torch engine on the same Hugging Face model: edges need sites inside attention."""
    if isinstance(model, TorchModel):
        return model
    return TorchModel(model.hf, model.tokenizer, model.name)


def graph_of(model: Model) -> Graph:
    """Return the graph of a model; a short run tells whether its blocks are parallel.

    Raises:
        SiteError: the model lacks a site that edges need.
        ModelError: its blocks are neither sequential nor parallel.
    """
    needed = ("attn_out", "attn.z", "mlp_out", "resid_post", *INSIDE)
    model.check_sites([Site(name, 0) for name in needed])
    sizes = model.sizes
    return Graph(sizes.n_layers, sizes.n_heads, sizes.d_model, _is_parallel(model))


def _is_parallel(model: Model) -> bool:
    """Where the MLP reads something else than the stream after attention, it must ignore that."""
    if "resid_mid" not in model.book.refused:
        return False
    ids = [probe_ids(model.sizes.d_vocab)]
    plain = model.run(ids, capture="0.mlp_out", logits="last").acts["0.mlp_out"]
    without = model.run(ids, edits=[ZeroAblate("0.attn_out")], capture="0.mlp_out", logits="last")
    if torch.equal(plain, without.acts["0.mlp_out"]):
        return True
    raise ModelError(
        f"{model.name} has no edges that we can name: its MLP reads attention, yet not through "
        f"resid_mid ({model.book.refused['resid_mid']}). Use node attribution instead."
    )


# ---------------------------------------------------------------- what senders write


@torch.no_grad()
def plain_run(
    model: Model, graph: Graph, batch: Batch, read: Int[Tensor, " prompt"], metric: Metric
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "sender batch pos d_model"]]:
    """Run prompts once: the metric, and what each sender writes into the residual stream.

    The constant bias that attention adds beside its heads is nobody's, and left out.
    """
    written: dict[str, Tensor] = {}

    def keep(name: str) -> Tap:
        def tap(act: Tensor) -> None:
            written[name] = act.detach().clone()

        return tap

    taps: dict[Site, Tap] = {START: keep("input")}
    for layer in range(graph.n_layers):
        taps[Site("attn.z", layer)] = keep(f"z{layer}")
        taps[Site("mlp_out", layer)] = keep(f"m{layer}")
    values = scored(model, batch, read, metric, taps)
    found = [written["input"][None]]
    for layer in range(graph.n_layers):
        found += [head_contributions(model, layer, written[f"z{layer}"])]
        found += [written[f"m{layer}"][None]]
    return values, torch.cat(found)


def head_contributions(
    model: Model, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "head batch pos d_model"]:
    """Return what each head of a layer writes, given its z.

    Raises:
        ModelError: a norm after attention does more than scale, so heads do not add up.
    """
    names = model.book.blocks[layer]
    out = model.hf.get_submodule(names["attn.o"])
    result = head_results(out, z.flatten(2), model.sizes).permute(2, 0, 1, 3)
    if "ln1_post" not in names:
        return result
    norm = model.hf.get_submodule(names["ln1_post"])
    whole = result.sum(0)
    weighted = norm(torch.ones_like(whole)) * whole  # the norm's output but for a factor a token
    normed = norm(whole)
    factor = (normed * weighted).sum(-1) / weighted.square().sum(-1).clamp(min=1e-30)
    gap = (factor[..., None] * weighted - normed).abs().max()
    if getattr(out, "bias", None) is not None or gap > 1e-4 * normed.abs().max().clamp(min=1e-30):
        raise ModelError(
            f"{model.name} normalises attention's output by more than a factor, so no head has a "
            "contribution of its own: use node attribution instead."
        )
    return result * norm(torch.ones_like(whole)) * factor[..., None]


# ---------------------------------------------------------------- gradients at receivers


def receiver_gradients(
    model: Model,
    graph: Graph,
    pairs: Pairs,
    moved: Mapping[Site, Float[Tensor, "batch pos d_model"]],
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "receiver batch pos d_model"]]:
    """Run the base prompts and return the metric and its gradient at each receiver's own input.

    `moved` gives sites whose activation is replaced. One backward pass gives the gradient at every
    query, key, value and MLP output; then each is pulled back through its own layer alone.
    """
    acts: dict[Site, Tensor] = {}
    leaves: dict[Site, Tensor] = {}

    def keep(act: Tensor, site: Site) -> None:
        acts[site] = act

    def enter(act: Tensor) -> Tensor:
        acts[START] = moved.get(START, act).detach().clone().requires_grad_()
        return acts[START]

    def branch(act: Tensor, site: Site) -> Tensor:
        acts[site], here = act, moved.get(site, act)
        leaves[site] = torch.zeros_like(here).requires_grad_()
        return here + leaves[site]

    taps: dict[Site, Tap] = {}
    for site in _watched(graph):
        inner = site.component in (*INSIDE, "mlp_out", "resid_post")
        taps[site] = _bound(branch if inner else keep, site)
        if site.component == "attn_out":
            taps[site] = _bound(lambda act, site: moved.get(site), site)
    taps[START] = enter
    with torch.enable_grad():
        values = scored(model, pairs.base, pairs.read, pairs.metric, taps)
    found = torch.autograd.grad(
        values.sum(),
        list(leaves.values()),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    pulled = _pulled_back(graph, acts, dict(zip(leaves, found, strict=True)))
    return values.detach(), pulled


def _bound(tap, site: Site) -> Tap:
    return lambda act: tap(act, site)


def _watched(graph: Graph) -> list[Site]:
    """Every site that a gradient pass taps."""
    layer_sites = ["resid_pre", *INSIDE, "attn_out", "mlp_out"]
    layer_sites += [] if graph.parallel else ["resid_mid"]
    layers = range(graph.n_layers)
    found = [Site(name, layer) for layer in layers for name in layer_sites]
    return [*found, Site("resid_post", graph.n_layers - 1)]


def _pulled_back(
    graph: Graph, acts: Mapping[Site, Tensor], grads: Mapping[Site, Tensor]
) -> Float[Tensor, "receiver batch pos d_model"]:
    found = []
    for layer in range(graph.n_layers):
        stream = acts[Site("resid_pre", layer)]
        for name in INSIDE:
            site = Site(name, layer)
            found.append(_by_head(acts[site], stream, grads[site]))
        site = Site("mlp_out", layer)
        mid = stream if graph.parallel else acts[Site("resid_mid", layer)]
        back = torch.autograd.grad(acts[site], mid, grads[site], retain_graph=True)
        found.append(back[0][None])
    final = grads[Site("resid_post", graph.n_layers - 1)]
    return torch.cat([*found, final[None]])


def _by_head(
    act: Float[Tensor, "batch pos head d_head"],
    stream: Float[Tensor, "batch pos d_model"],
    grad: Float[Tensor, "batch pos head d_head"],
) -> Float[Tensor, "head batch pos d_model"]:
    """Pull each head's gradient back to the stream by itself, all in one batched pass."""
    only = torch.eye(grad.shape[2], dtype=grad.dtype, device=grad.device)
    cotangents = grad[None] * only[:, None, None, :, None]
    return torch.autograd.grad(act, stream, cotangents, retain_graph=True, is_grads_batched=True)[0]


# ---------------------------------------------------------------- scores


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """The change of the metric that patching each edge predicts, for each prompt."""

    graph: Graph
    values: Float[Tensor, "prompt sender receiver"]
    """In units of the metric; 0 where there is no edge."""
    base: Float[Tensor, " prompt"]
    """The metric of the base run."""
    source: Float[Tensor, " prompt"]
    """The metric of the source run."""
    gradients: int
    """How many forward and backward passes it took, beside the two plain runs."""

    @property
    def mean(self) -> Float[Tensor, "sender receiver"]:
        """The mean over prompts."""
        return self.values.mean(0)

    def __getitem__(self, edge: str) -> Float[Tensor, " prompt"]:
        sender, receiver = self.graph.find(edge)
        return self.values[:, sender, receiver]

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """Return the k edges whose mean score is largest in size, with that score."""
        edges = self.graph.exists.nonzero()
        means = self.mean[edges[:, 0], edges[:, 1]]
        order = means.abs().sort(descending=True, stable=True).indices[:k].tolist()
        return [(self.graph.name(*edges[i].tolist()), float(means[i])) for i in order]

    def shared(self, group: int) -> Float[Tensor, "prompt sender kv_receiver"]:
        """Return the key and value edges into shared heads, each the sum over its query heads.

        `group` is `model.sizes.group`. The last axis holds, layer by layer, the keys and then the
        values of each key-value head.

        Raises:
            InputError: the heads do not divide into such groups.
        """
        n = self.graph.n_heads
        if group < 1 or n % group:
            raise InputError(f"group={group} does not divide the {n} heads of the graph.")
        blocks = [block for block in self.graph.blocks if block.heads]
        parts = [self.values[..., block.first + n : block.first + 3 * n] for block in blocks]
        return torch.cat([part.unflatten(-1, (-1, group)).sum(-1) for part in parts], dim=-1)


def eap(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    *,
    steps: int = 5,
    along: Along = "inputs",
    rule: Rule = "midpoint",
    logits: Literal["last"] | int = "last",
) -> EdgeScores:
    """Score every edge of a model: what the metric would change by if it carried the source run.

    Args:
        model: of any architecture whose blocks write into a residual stream. The plain Hugging Face
            model runs, whatever the engine.
        base: prompts, of any lengths.
        source: as many prompts, of the same lengths.
        metric: differentiable, `metric(logits, rows)`; see `interp.metrics`.
        steps: gradients along the path.
        along: `"inputs"` (EAP-IG): the first block's input moves, and the scores of all edges out
            of `input` add up to `source - base`. `"activations"`: in turn the input, each layer's
            attention output and each MLP's output move by themselves; the scores of all edges out
            of the one that moves add up to the effect of patching it; takes `2 n_layers + 1` times
            as long. `"none"` (EAP): the gradient at the base run. Sums are exact but for the
            error of the rule.
        rule: where each step takes its gradient (see `interp.patching.attribution`).
        logits: the position that the metric reads.

    Raises:
        InputError, SiteError, PositionError, ModelError: before the prompts run.

    >>> import interp
    >>> from interp.metrics import LogitDiff
    >>> model = interp.load("tiny-llama")
    >>> found = eap(model, "Mary saw John", "John saw Mary", LogitDiff(5, 6), steps=2)
    >>> found.values.shape, found["m0->a1.h2<k>"].shape
    (torch.Size([1, 16, 40]), torch.Size([1]))
    """
    if along not in get_args(Along):
        raise InputError(f"along={along!r}: write 'none', 'inputs' or 'activations'.")
    points = path_points(steps, rule) if along != "none" else (0.0,)
    model = plain_model(model)
    pairs = read_pairs(model, base, source, metric, logits)
    graph = graph_of(model)
    both = (pairs.base, pairs.source)
    (plain, ours), (other, theirs) = (
        plain_run(model, graph, batch, pairs.read, metric) for batch in both
    )
    difference = theirs - ours
    values = difference.new_zeros(len(pairs.read), len(graph.senders), len(graph.receivers))
    groups = _moved_groups(graph) if along == "activations" else [(START, slice(None))]
    for site, senders in groups:
        ends = _ends(model, site, ours, theirs, senders)
        total: Tensor | float = 0.0
        for t in points:
            moved = {} if along == "none" else {site: torch.lerp(*ends, t)}
            total = total + receiver_gradients(model, graph, pairs, moved)[1]
        assert isinstance(total, Tensor)
        values[:, senders] = _products(graph, difference, total / len(points), senders)
    return EdgeScores(graph, values, plain, other, len(groups) * len(points))


def _moved_groups(graph: Graph) -> list[tuple[Site, slice]]:
    """What moves in turn, and its places among the senders."""
    found, at, heads = [(START, slice(0, 1))], 1, graph.n_heads
    for layer in range(graph.n_layers):
        found.append((Site("attn_out", layer), slice(at, at + heads)))
        found.append((Site("mlp_out", layer), slice(at + heads, at + heads + 1)))
        at += heads + 1
    return found


def _ends(
    model: Model, site: Site, ours: Tensor, theirs: Tensor, senders: slice
) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
    """What the model has at a site in the base and in the source run."""
    which = slice(0, 1) if site == START else senders
    bias: Any = None
    if site.component == "attn_out":  # its heads' contributions leave the bias out
        assert site.layer is not None
        bias = model.hf.get_submodule(model.book.blocks[site.layer]["attn.o"]).bias
    whole = (side[which].sum(0) for side in (ours, theirs))
    first, second = whole if bias is None else (side + bias.detach() for side in whole)
    return first, second


def _products(
    graph: Graph,
    difference: Float[Tensor, "sender batch pos d_model"],
    grads: Float[Tensor, "receiver batch pos d_model"],
    senders: slice,
) -> Float[Tensor, "batch chosen receiver"]:
    """Score the edges out of some senders: one product for each point of the stream."""
    n_senders, n_receivers = len(graph.senders), len(graph.receivers)
    first, stop, _ = senders.indices(n_senders)
    out = difference.new_zeros(difference.shape[1], stop - first, n_receivers)
    for block in graph.blocks:
        end = min(stop, block.before)
        if first < end:
            written, read = difference[first:end], grads[block.places]
            out[:, : end - first, block.places] = torch.einsum("sbpd,rbpd->bsr", written, read)
    return out
