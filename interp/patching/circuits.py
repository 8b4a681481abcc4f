"""Circuits: a set of edges, run alone by real patching, and how faithful it is to the whole model.

In a circuit's run each receiver reads the stream of the base (clean) run in which every edge
outside the circuit carries what its sender wrote in the source (corrupted) run:

    input of r = stream + sum over s outside of (source contribution of s - own contribution of s)

where all contributions but the source's are those of the circuit's own run. So the full circuit is
the base run and the empty one the source run, both to rounding. The metric is put on a scale where
those are 1 and 0 (Hanna et al. 2024, arXiv:2403.17806; Mueller et al. 2025, arXiv:2504.13151):

    faithfulness = (m(circuit) - m(empty)) / (m(full) - m(empty))      m: mean over prompts

A large share of random edges can be faithful as well, so a curve always has that control beside it.
Choose edges on some prompts and measure faithfulness on others.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.engine.model import Model
from interp.engine.partial import Base, base_run, skipped
from interp.engine.session import Tap
from interp.errors import InputError, ModelError, SilentEditError, UndefinedEffectError, nearest
from interp.metrics import Metric
from interp.models.tokens import Inputs
from interp.patching.attribution import START, Checked, Pairs, read_pairs, scored
from interp.patching.edges import (
    INSIDE,
    Block,
    EdgeScores,
    Graph,
    graph_of,
    head_contributions,
    plain_model,
    plain_run,
)
from interp.sites import Site

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB measures faithfulness (arXiv:2504.13151)."""

Select = Literal["top", "greedy"]
"""How edges are chosen: the largest scores in size, or the same from the logits backwards."""


# ---------------------------------------------------------------- the value


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of edges of a model's graph, with the scores that they were chosen by."""

    graph: Graph
    inside: Bool[Tensor, "sender receiver"]
    """Which edges belong to it."""
    scores: Float[Tensor, "sender receiver"] | None = None
    """The score of every edge, those outside too."""
    node_scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of nodes, where a file brought some."""

    def __post_init__(self) -> None:
        shape = self.graph.exists.shape
        for name in ("inside", "scores"):
            given = getattr(self, name)
            if given is not None and given.shape != shape:
                raise InputError(
                    f"{name} has shape {list(given.shape)} and the graph's edges {list(shape)}: "
                    "use the matrices that eap returned for this model."
                )
        astray = (self.inside & ~self.graph.exists).nonzero()
        if len(astray):
            self.graph.find(self.graph.name(*astray[0].tolist()))  # says what is wrong with it

    def __len__(self) -> int:
        return int(self.inside.sum())

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of its edges, by sender and then receiver."""
        return tuple(self.graph.name(*edge) for edge in self.inside.nonzero().tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that its edges join."""
        ends = {end.partition("<")[0] for edge in self.edges for end in edge.split("->")}
        return tuple(name for name in (*self.graph.senders, "logits") if name in ends)

    @property
    def pruned(self) -> Circuit:
        """The circuit without edges that cannot carry anything from the input to the logits.

        A node stays while something enters it and something leaves it; what enters a head at any
        of its three ports counts.
        """
        owner = _owners(self.graph)
        inside = self.inside.clone()
        while True:
            alive = inside.any(1)  # something leaves
            entered = torch.zeros(len(alive) + 1, dtype=torch.bool)
            entered[owner[inside.any(0)]] = True
            entered[0] = True  # the input
            alive = alive & entered[:-1]
            reads = torch.cat([alive, torch.tensor([True])])[owner]  # the logits always stay
            kept = inside & alive[:, None] & reads
            if torch.equal(kept, inside):
                return Circuit(self.graph, inside, self.scores, self.node_scores)
            inside = kept

    def to_json(self) -> str:
        """Write the graph file of EAP-IG and MIB: `cfg`, `nodes` and `edges`.

        Raises:
            InputError: a score is not finite.
        """
        graph, kept = self.graph, {*self.nodes, "logits"}
        config = {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "parallel_attn_mlp": graph.parallel,
            "d_model": graph.d_model,
        }
        nodes: dict[str, dict[str, Any]] = {}
        for name in (*graph.senders, "logits"):
            nodes[name] = {"in_graph": name in kept}
            if name in self.node_scores:
                nodes[name]["score"] = self.node_scores[name]
        scores = self.inside.double() * 0 if self.scores is None else self.scores
        edges = {}
        for place in graph.exists.nonzero().tolist():
            score = float(scores[tuple(place)])
            if not math.isfinite(score):
                raise InputError(
                    f"The edge {graph.name(*place)} has score {score}: a file holds finite scores "
                    "only."
                )
            inside = bool(self.inside[tuple(place)])
            edges[graph.name(*place)] = {"score": score, "in_graph": inside}
        return json.dumps({"cfg": config, "nodes": nodes, "edges": edges})

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """Read a graph file of EAP-IG and MIB; edges that it leaves out are outside, with score 0.

        Raises:
            InputError: no such file, a node or edge that the graph lacks, an edge that would close
                a cycle, or neurons.
        """
        data = _parsed(text)
        graph = _graph_from(data["cfg"])
        node_scores = _read_nodes(graph, data["nodes"])
        inside = torch.zeros_like(graph.exists)
        scores = torch.zeros(graph.exists.shape, dtype=torch.float64)
        for name, entry in data["edges"].items():
            place = graph.find(name)
            inside[place], scores[place] = _edge_entry(name, entry)
        return cls(graph, inside, scores, node_scores)


def _owners(graph: Graph) -> Tensor:
    """For each receiver the place of its node among the senders; the logits come after them."""
    place = {name: i for i, name in enumerate((*graph.senders, "logits"))}
    return torch.tensor([place[name.partition("<")[0]] for name in graph.receivers])


def _parsed(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"The circuit is no JSON ({error}): give the text of a graph file."
        ) from None
    keys = ("cfg", "nodes", "edges")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in keys):
        raise InputError(
            "A graph file is an object with the objects 'cfg', 'nodes' and 'edges': write it with "
            "EAP-IG's to_json or Circuit.to_json."
        )
    return data


def _graph_from(config: Mapping[str, Any]) -> Graph:
    missing = [
        key for key in ("n_layers", "n_heads", "parallel_attn_mlp", "d_model") if key not in config
    ]
    if missing:
        raise InputError(f"cfg lacks {', '.join(missing)}: the graph file must say its sizes.")
    sizes = {key: config[key] for key in ("n_layers", "n_heads", "d_model")}
    for key, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"cfg says {key}={value!r}: a size is a whole number.")
    return Graph(**sizes, parallel=bool(config["parallel_attn_mlp"]))


def _read_nodes(graph: Graph, nodes: Mapping[str, Any]) -> dict[str, float]:
    """Check the nodes' names and return their scores; which are inside follows from the edges."""
    known = (*graph.senders, "logits")
    for name, entry in nodes.items():
        if name not in known:
            raise InputError(
                f"{name!r} is no node of {graph.n_layers} layers with {graph.n_heads} heads: nodes "
                f"are input, a0.h0, m0 and logits.{nearest(name, known)}"
            )
        if not isinstance(entry, dict) or not isinstance(entry.get("in_graph"), bool):
            raise InputError(f"The node {name} is {entry!r}: give an object with in_graph.")
        if "neurons" in entry:
            raise InputError(
                f"The node {name} names neurons, and circuits here have whole nodes: export the "
                "graph without neurons."
            )
    return {name: float(entry["score"]) for name, entry in nodes.items() if "score" in entry}


def _edge_entry(name: str, entry: Any) -> tuple[bool, float]:
    fine = isinstance(entry, dict) and isinstance(entry.get("in_graph"), bool)
    score = entry.get("score") if isinstance(entry, dict) else None
    fine = fine and isinstance(score, int | float) and math.isfinite(score)
    if not fine:
        raise InputError(
            f"The edge {name} is {entry!r}: give an object with in_graph and a finite score."
        )
    return entry["in_graph"], float(entry["score"])


# ---------------------------------------------------------------- choosing edges


def select_edges(
    graph: Graph,
    scores: Float[Tensor, "sender receiver"],
    n: int,
    *,
    by: Select = "top",
    prune: bool = True,
) -> Circuit:
    """Choose n edges by their scores in size, and drop those that then dangle.

    `"top"` takes the n largest. `"greedy"` goes backwards from the logits: it takes the largest
    edge into a node that is in the circuit already, and its sender joins (the greedy search of
    EAP-IG). Equal scores: the earlier edge first.

    Raises:
        InputError: n is negative or more than there are edges, or no such way to choose.
    """
    if by not in get_args(Select):
        raise InputError(f"by={by!r}: write 'top' or 'greedy'.")
    _require_count(graph, n)
    sizes = scores.abs().double()
    inside = _top(graph, sizes, n) if by == "top" else _greedy(graph, sizes, n)
    circuit = Circuit(graph, inside, scores)
    return circuit.pruned if prune else circuit


def random_edges(graph: Graph, n: int, *, seed: int = 0) -> Circuit:
    """Draw n edges, each as likely as any other: the control of a circuit with n edges.

    Raises:
        InputError: n is negative or more than there are edges.
    """
    _require_count(graph, n)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(int(graph.exists.sum()), generator=generator)[:n]
    return Circuit(graph, _marked(graph, graph.exists.nonzero()[drawn]))


def _require_count(graph: Graph, n: int) -> None:
    total = int(graph.exists.sum())
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= total:
        raise InputError(f"n={n!r}: the graph has {total} edges, so choose 0 to {total}.")


def _marked(graph: Graph, places: Tensor) -> Bool[Tensor, "sender receiver"]:
    inside = torch.zeros_like(graph.exists)
    inside[places[:, 0], places[:, 1]] = True
    return inside


def _top(graph: Graph, sizes: Tensor, n: int) -> Bool[Tensor, "sender receiver"]:
    places = graph.exists.nonzero()
    order = sizes[places[:, 0], places[:, 1]].sort(descending=True, stable=True).indices
    return _marked(graph, places[order[:n]])


def _greedy(graph: Graph, sizes: Tensor, n: int) -> Bool[Tensor, "sender receiver"]:
    owner, size = _owners(graph).tolist(), sizes.tolist()
    into: dict[int, list[tuple[int, int]]] = {}
    for sender, receiver in graph.exists.nonzero().tolist():
        into.setdefault(owner[receiver], []).append((sender, receiver))
    inside, joined = torch.zeros_like(graph.exists), {len(graph.senders)}
    queue = [(-size[s][r], s, r) for s, r in into[len(graph.senders)]]
    heapq.heapify(queue)
    for _ in range(n):
        _, sender, receiver = heapq.heappop(queue)
        inside[sender, receiver] = True
        if sender not in joined:
            joined.add(sender)
            for s, r in into.get(sender, ()):
                heapq.heappush(queue, (-size[s][r], s, r))
    return inside


# ---------------------------------------------------------------- running a circuit


class _FrontDone(Exception):
    """Ends an attention module as soon as its queries, keys and values are known."""


@dataclass(eq=False)
class _Wired:
    """One forward pass in which each receiver reads a stream of its own."""

    model: Model
    graph: Graph
    theirs: Float[Tensor, "sender batch pos d_model"]
    """What each sender writes in the source run."""
    outside: Bool[Tensor, "sender receiver"]
    """Edges that carry the source run."""
    shift: Float[Tensor, "sender batch pos d_model"]
    """The source's contribution less the run's own, filled in as the senders write."""
    start: int
    """Blocks before it are not run."""
    stream: Tensor | None = None
    front: dict[str, Tensor] | None = None
    """Filled while the front of an attention module runs by itself."""
    new: dict[str, Tensor] = field(default_factory=dict)
    """What the heads of the layer read instead."""
    reached: list[int] = field(default_factory=list)
    """The first receiver of each block whose input was seen."""

    def shifts(self, block: Block) -> list[tuple[list[int], Tensor]]:
        """By how much each receiver's stream moves; receivers that lose the same share one."""
        lost = self.outside[: block.before, block.places].T
        patterns, which = lost.unique(dim=0, return_inverse=True)
        moves = torch.einsum("rs,sbpd->rbpd", patterns.to(self.shift), self.shift[: block.before])
        readers = [(which == i).nonzero()[:, 0].tolist() for i in range(len(patterns))]
        several = zip(readers, patterns, moves, strict=True)
        return [(readers, move) for readers, pattern, move in several if pattern.any()]

    def taps(self) -> dict[Site, Tap]:
        """Taps that follow the stream and what is written, and replace what heads read."""
        found: dict[Site, Tap] = {START: self._enter}
        for layer in range(self.start, self.graph.n_layers):
            if layer:
                found[Site("resid_pre", layer)] = self._keep_stream
            for name in INSIDE:
                found[Site(name, layer)] = _named(self._read, name)
            found[Site("attn.z", layer)] = _named(self._wrote_heads, layer)
            found[Site("mlp_out", layer)] = _named(self._wrote_mlp, layer)
        return found

    @property
    def due(self) -> list[Block]:
        """The points of the stream that this pass must reach."""
        return [b for b in self.graph.blocks if b.layer is None or b.layer >= self.start]

    def require_reached(self) -> None:
        """Raise SilentEditError unless every receiver read its own stream, once."""
        if sorted(self.reached) != [block.first for block in self.due]:
            known = {block.first: block.names[0] for block in self.due}
            astray = [name for at, name in known.items() if self.reached.count(at) != 1]
            raise SilentEditError(
                f"The inputs of {', '.join(astray)} were not read once each, so this run is not "
                "that of the circuit: please report the architecture."
            )

    def hooks(self, stack: ExitStack) -> None:
        """Hooks on the modules through which receivers read."""
        module_of, blocks = self.model.hf.get_submodule, self.model.book.blocks
        for block in self.due:
            if block.layer is None:
                path = self.model.book.names["ln_final"]
            else:
                path = blocks[block.layer]["attn" if block.heads else "ln2"]
            hook = self._before_attention if block.heads else self._before_norm
            handle = module_of(path).register_forward_pre_hook(_hook(hook, block), with_kwargs=True)
            stack.callback(handle.remove)

    def _enter(self, act: Tensor) -> None:
        self.shift[0] = self.theirs[0] - act
        self.stream = act

    def _keep_stream(self, act: Tensor) -> None:
        self.stream = act

    def _wrote_heads(self, z: Tensor, layer: int) -> None:
        at, n = 1 + layer * (self.graph.n_heads + 1), self.graph.n_heads
        own = head_contributions(self.model, layer, z)
        self.shift[at : at + n] = self.theirs[at : at + n] - own

    def _wrote_mlp(self, act: Tensor, layer: int) -> None:
        at = (1 + layer) * (self.graph.n_heads + 1)
        self.shift[at] = self.theirs[at] - act

    def _before_norm(self, block: Block, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        """The one reader of this norm reads the shifted stream; the skip connection does not."""
        self.reached.append(block.first)
        found = self.shifts(block)
        if not found:
            return None
        return _with_first(args, kwargs, _first(args, kwargs) + found[0][1])

    def _before_attention(self, block: Block, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Run the front of attention once for each set of heads and ports that read alike."""
        assert block.layer is not None and self.stream is not None
        self.reached.append(block.first)
        norm = self.model.hf.get_submodule(self.model.book.blocks[block.layer]["ln1"])
        if not torch.equal(norm(self.stream), _first(args, kwargs)):
            raise ModelError(
                f"Attention {block.layer} of {self.model.name} reads something else than the first "
                "norm of the stream, so its edges cannot be patched."
            )
        self.new, n = {}, self.graph.n_heads
        for readers, move in self.shifts(block):
            front = self._front(module, *_with_first(args, kwargs, norm(self.stream + move)))
            for reader in readers:
                name, head = INSIDE[reader // n], reader % n
                whole = self.new.setdefault(name, torch.full_like(front[name], torch.nan))
                whole[:, :, head] = front[name][:, :, head]

    def _front(self, module: nn.Module, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        self.front = {}
        try:
            module.forward(*args, **kwargs)
        except _FrontDone:
            return self.front
        finally:
            self.front = None
        raise ModelError(f"{self.model.name} has attention that never reads its values.")

    def _read(self, act: Tensor, name: str) -> Tensor | None:
        if self.front is not None:
            self.front[name] = act
            if name == INSIDE[-1]:
                raise _FrontDone
            return None
        new = self.new.pop(name, None)
        return None if new is None else torch.where(new.isnan(), act, new)


def _named(call: Callable[..., Any], last: Any) -> Tap:
    return lambda act: call(act, last)


def _hook(call: Callable[..., Any], block: Block) -> Callable[..., Any]:
    return lambda module, args, kwargs: call(block, module, args, kwargs)


def _first(args: tuple, kwargs: dict) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _with_first(args: tuple, kwargs: dict, new: Tensor) -> tuple[tuple, dict]:
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


class Evaluator:
    """Runs circuits on pairs of prompts: the base (clean) and the source (corrupted) one.

    Runs the plain Hugging Face model, whatever the engine. `logits` is the position that the metric
    reads, `"last"` or an index.

    Raises:
        InputError: prompts of different lengths, or a metric that is not one number a prompt.
        SiteError, ModelError: the model has parts that edges cannot join.
    """

    def __init__(
        self,
        model: Model,
        base: Inputs,
        source: Inputs,
        metric: Metric,
        *,
        logits: Literal["last"] | int = "last",
    ) -> None:
        self.model = plain_model(model)
        self.pairs: Pairs = read_pairs(
            self.model, base, source, metric, logits, differentiable=False
        )
        _require_norms(self.model)
        self.graph = graph_of(self.model)
        runs = [
            plain_run(self.model, self.graph, batch, self.pairs.read, metric)
            for batch in (self.pairs.base, self.pairs.source)
        ]
        self.full, self.ours = runs[0]
        """The metric of each prompt in the base run, and what each sender writes there."""
        self.empty, self.theirs = runs[1]
        """The same of the source run."""

    @cached_property
    def _base(self) -> Base:
        batch = self.pairs.base
        pairs = zip(batch.ids, batch.lengths.tolist(), strict=True)
        return base_run(self.model, [ids[:n].tolist() for ids, n in pairs])

    @torch.no_grad()
    def run(
        self, circuit: Circuit, *, source: Float[Tensor, "sender batch pos d_model"] | None = None
    ) -> Float[Tensor, " prompt"]:
        """Return the metric of each prompt while every edge outside carries the source run.

        Blocks before the first edge outside are not run. `source` replaces what the senders write
        in the source run.

        Raises:
            InputError: the circuit belongs to another graph.
        """
        if circuit.graph != self.graph:
            raise InputError(
                f"The circuit is one of {circuit.graph} and the model is {self.graph}: use a "
                "circuit of this model."
            )
        theirs = self.theirs if source is None else source
        outside = self.graph.exists & ~circuit.inside
        moved = [block for block in self.graph.blocks if outside[:, block.places].any()]
        layers = [self.graph.n_layers if b.layer is None else b.layer for b in moved]
        start = min(layers, default=self.graph.n_layers)
        shift = theirs - self.ours
        wired = _Wired(self.model, self.graph, theirs, outside.to(shift.device), shift, start)
        with ExitStack() as stack:
            if start:
                stack.enter_context(skipped(self.model, self._base, start, self._base.resid[start]))
            wired.hooks(stack)
            pairs = self.pairs
            values = scored(self.model, pairs.base, pairs.read, pairs.metric, wired.taps())
        wired.require_reached()
        return values

    def faithfulness(self, circuit: Circuit) -> float:
        """Return where a circuit's mean metric lies between the source run (0) and the base (1).

        Raises:
            UndefinedEffectError: the two runs agree.
        """
        full, empty = float(self.full.double().mean()), float(self.empty.double().mean())
        if full == empty:
            raise UndefinedEffectError(
                f"Base and source both score {full}: there is nothing to be faithful to. Choose "
                "pairs with different answers."
            )
        return (float(self.run(circuit).double().mean()) - empty) / (full - empty)


def _require_norms(model: Model) -> None:
    lacking = [name for name in ("ln1", "ln2") if name not in model.book.blocks[0]]
    lacking += [name for name in ("ln_final",) if name not in model.book.names]
    if lacking:
        raise ModelError(
            f"{model.name} has no module for {', '.join(lacking)}, through which receivers read: "
            "its circuits cannot be run; eap still scores its edges."
        )


def faithfulness(
    model: Model,
    base: Inputs,
    source: Inputs,
    circuit: Circuit,
    metric: Metric,
    *,
    logits: Literal["last"] | int = "last",
) -> float:
    """Return a circuit's faithfulness on some pairs: 1 as the whole model, 0 as the source run.

    Raises:
        UndefinedEffectError: base and source score the same; and all that `Evaluator` raises.
    """
    return Evaluator(model, base, source, metric, logits=logits).faithfulness(circuit)


def verify_edges(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    found: EdgeScores,
    *,
    k: int = 20,
    logits: Literal["last"] | int = "last",
) -> Checked:
    """Really patch the k edges whose mean score is largest in size, one at a time.

    Raises:
        InputError: k is below 1; and all that `Evaluator` raises.
    """
    if k < 1:
        raise InputError(f"k={k}: verify at least one edge.")
    bench = Evaluator(model, base, source, metric, logits=logits)
    names, predicted = zip(*found.top(k), strict=True)
    measured = []
    for name in names:
        inside = bench.graph.exists.clone()
        inside[bench.graph.find(name)] = False
        effect = bench.run(Circuit(bench.graph, inside)) - bench.full
        measured.append(float(effect.double().mean()))
    return Checked(names, predicted, tuple(measured))


# ---------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """Faithfulness of circuits of growing size, beside random edges of the same number."""

    fractions: tuple[float, ...]
    """Share of all edges that was chosen, before dangling ones were dropped."""
    n_edges: tuple[int, ...]
    """How many edges each circuit has."""
    faithfulness: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    """The same for as many random edges, one tuple a draw."""

    @property
    def cpr(self) -> float:
        """Area under the curve: the performance that circuits recover."""
        return areas(self.fractions, self.faithfulness)[0]

    @property
    def cmd(self) -> float:
        """Area between the curve and 1: the distance from the model; 0 is best."""
        return areas(self.fractions, self.faithfulness)[1]

    @property
    def random_cpr(self) -> float:
        """The mean `cpr` of the random draws."""
        return sum(areas(self.fractions, draw)[0] for draw in self.random) / len(self.random)

    @property
    def random_cmd(self) -> float:
        """The mean `cmd` of the random draws."""
        return sum(areas(self.fractions, draw)[1] for draw in self.random) / len(self.random)


def areas(fractions: Sequence[float], faithfulness: Sequence[float]) -> tuple[float, float]:
    """Return CPR and CMD: the areas under a curve, and between it and 1.

    Trapezoids between the fractions, as MIB takes them: nothing is added below the first fraction,
    and CMD joins the distances `|1 - f|` by straight lines. Source: arXiv:2504.13151.

    >>> areas((0.0, 0.5, 1.0), (0.0, 1.0, 1.0))
    (0.75, 0.25)

    Raises:
        InputError: not one number a fraction, or fractions that do not grow.
    """
    if len(fractions) != len(faithfulness) or len(fractions) < 2:
        raise InputError(
            f"There are {len(fractions)} fractions and {len(faithfulness)} values: give one value "
            "a fraction, and at least two."
        )
    if any(b <= a for a, b in pairwise(fractions)):
        raise InputError(f"fractions={tuple(fractions)} must grow from one to the next.")
    distance = [abs(1 - value) for value in faithfulness]
    return _area(fractions, faithfulness), _area(fractions, distance)


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    points = zip(x, y, strict=True)
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))


def curve(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    scores: EdgeScores | Circuit,
    *,
    by: Select = "top",
    prune: bool = True,
    fractions: Sequence[float] = FRACTIONS,
    n_random: int = 1,
    seed: int = 0,
    logits: Literal["last"] | int = "last",
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Measure faithfulness at growing shares of the edges, and that of random edges.

    Use other pairs than those that the scores come from. Each circuit holds `int(fraction * edges)`
    chosen edges less those that dangle, and its controls as many random ones as it has left.

    Raises:
        InputError: fractions outside 0 to 1, no random draw, or scores without numbers.
        UndefinedEffectError: base and source score the same.
    """
    if by not in get_args(Select):
        raise InputError(f"by={by!r}: write 'top' or 'greedy'.")
    if n_random < 1:
        raise InputError(f"n_random={n_random}: draw at least one control.")
    if any(not 0 <= share <= 1 for share in fractions):
        raise InputError(f"fractions={tuple(fractions)}: each is a share from 0 to 1.")
    areas(fractions, [0.0] * len(fractions))  # refuses what has no area
    ranks = scores.mean if isinstance(scores, EdgeScores) else scores.scores
    if ranks is None:
        raise InputError("The circuit has no scores to choose edges by: use those of eap.")
    bench = Evaluator(model, base, source, metric, logits=logits)
    total = int(scores.graph.exists.sum())
    sizes, values, random = [], [], [[] for _ in range(n_random)]
    for done, share in enumerate(fractions, start=1):
        circuit = select_edges(scores.graph, ranks, int(share * total), by=by, prune=prune)
        sizes.append(len(circuit))
        values.append(bench.faithfulness(circuit))
        for draw, kept in enumerate(random):
            kept.append(
                bench.faithfulness(random_edges(scores.graph, len(circuit), seed=seed + draw))
            )
        if progress:
            progress(done, len(fractions))
    drawn = tuple(map(tuple, random))
    return Curve(tuple(fractions), tuple(sizes), tuple(values), drawn)
