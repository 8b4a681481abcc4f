"""Edge-restricted patching of any `nn.Module`: which filters carry a class, and along which paths.

A unit is a neuron of a `Linear`, a filter of a `Conv2d`, or a part of a filter's map. An edge goes
from a unit to a unit of a later layer that reads it. To patch edges, the later layer is computed a
second time, with its own weights, from the input that it would get if the source units held their
reference; only the consumers named take the answer. The source's other consumers, and every other
way around the later layer, see nothing of it.

`causal_graph` walks from a class logit backwards and keeps the units whose edges into the kept set
change the class's probability. Source: the path interventions of arXiv:2305.08950 (WACV 2024). That
paper's formulas are not known to us: the algorithm here is our reading of its abstract, and its
numbers are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import EditError, InputError, ModelError, SilentEditError, SiteError, nearest
from interp.stats import Interval, cluster_bootstrap

Reference = Mapping[str, Tensor]
"""What each source layer's output is replaced by: `[batch, ...]`, or `[...]` for every input."""
Kind = Literal["mean", "zero", "own"]
Index = tuple[Any, ...]


@dataclass(frozen=True, order=True)
class Unit:
    """A neuron or filter of a named layer, or the part of a filter's map inside a box of cells.

    >>> str(Unit("conv1", 3)), str(Unit("conv1", 3, (0, 4, 12, 16)))
    ('conv1[3]', 'conv1[3, 0:4, 12:16]')
    """

    layer: str
    """The module's name, as `named_modules` gives it."""
    index: int
    """Which neuron or filter, from 0."""
    cells: tuple[int, int, int, int] | None = None
    """Rows from, to, columns from, to (ends excluded) of the filter's map; None for all of it."""

    def __str__(self) -> str:
        if self.cells is None:
            return f"{self.layer}[{self.index}]"
        top, bottom, left, right = self.cells
        return f"{self.layer}[{self.index}, {top}:{bottom}, {left}:{right}]"

    def overlaps(self, other: Unit) -> bool:
        """Whether two units of one layer share an entry."""
        if self.index != other.index or self.cells is None or other.cells is None:
            return self.index == other.index
        (a, b, c, d), (e, f, g, h) = self.cells, other.cells
        return max(a, e) < min(b, f) and max(c, g) < min(d, h)


@dataclass(frozen=True, order=True)
class Edge:
    """What a unit gives to one unit of a later layer."""

    source: Unit
    consumer: Unit

    def __str__(self) -> str:
        return f"{self.source} -> {self.consumer}"


def edges(sources: Iterable[Unit], consumers: Iterable[Unit]) -> tuple[Edge, ...]:
    """Return every edge from a source to a consumer.

    >>> [str(e) for e in edges([Unit("a", 0), Unit("a", 1)], [Unit("b", 5)])]
    ['a[0] -> b[5]', 'a[1] -> b[5]']
    """
    readers = tuple(consumers)
    return tuple(Edge(source, consumer) for source in sources for consumer in readers)


@dataclass(frozen=True)
class EdgeReceipt:
    """Proof that the edges into some consumers of one layer were patched."""

    layer: str
    sources: tuple[Unit, ...]
    consumers: tuple[Unit, ...]
    fired: int
    """How often the layer took the patched values: 1."""
    source_change: float
    """L2 norm of what the reference changed at the sources."""
    change: float
    """L2 norm of what that changed at the consumers."""


@dataclass(frozen=True, eq=False)
class PatchedOutput:
    """A model's output under patched edges, and one proof for each group of consumers."""

    output: Float[Tensor, "batch ..."]
    receipts: tuple[EdgeReceipt, ...]


# ---------------------------------------------------------------- what units hold


def outputs(
    model: nn.Module, inputs: Float[Tensor, "batch ..."], layers: Sequence[str]
) -> dict[str, Tensor]:
    """Return what some layers put out on these inputs, each `[batch, ...]`.

    Raises:
        SiteError: a name is no Linear or Conv2d of the model.
        SilentEditError: a layer did not run, or ran more than once.
        ModelError: the model is in training mode.
    """
    _require_eval(model)
    modules = {name: _layer(model, name) for name in layers}
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    with torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            hook = _keeper(found[name])
            hooks.callback(module.register_forward_hook(hook).remove)
        model(inputs)
    for name, kept in found.items():
        _require_once(name, len(kept))
    return {name: kept[0] for name, kept in found.items()}


def reference(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    layers: Sequence[str],
    kind: Kind = "mean",
) -> dict[str, Tensor]:
    """Return what patched units are replaced by: zero, or their mean over `inputs`, cell by cell.

    Zero and mean references can disagree: report which one you used. `"own"` gives each input its
    own values, the control under which no patch may change anything.

    Raises:
        InputError: another kind; and all that `outputs` raises.
    """
    if kind not in ("mean", "zero", "own"):
        raise InputError(f"kind={kind!r}: write 'mean', 'zero' or 'own'.")
    found = outputs(model, inputs, layers)
    if kind == "own":
        return found
    return {
        name: act.mean(0) if kind == "mean" else torch.zeros_like(act[0])
        for name, act in found.items()
    }


def units(
    model: nn.Module,
    layer: str,
    *,
    blocks: int | None = None,
    map_size: tuple[int, int] | None = None,
) -> tuple[Unit, ...]:
    """Return every unit of a layer; with `blocks`, each map in `blocks` x `blocks` parts.

    Raises:
        SiteError: the name is no Linear or Conv2d of the model.
        InputError: blocks do not divide a map of `map_size`, or the layer has no map.
    """
    module = _layer(model, layer)
    n_units = _n_units(module)
    if blocks is None:
        return tuple(Unit(layer, index) for index in range(n_units))
    height, width = map_size or (0, 0)
    if (
        not isinstance(module, nn.Conv2d)
        or blocks < 1
        or not height
        or height % blocks + width % blocks
    ):
        raise InputError(
            f"{layer} cannot be cut in {blocks} x {blocks} blocks: give a Conv2d whose map_size "
            f"{map_size} is a multiple of that."
        )
    tall, wide = height // blocks, width // blocks
    boxes = [
        (tall * i, tall * (i + 1), wide * j, wide * (j + 1))
        for i in range(blocks)
        for j in range(blocks)
    ]
    return tuple(Unit(layer, index, box) for index in range(n_units) for box in boxes)


# ---------------------------------------------------------------- patching


def patch_edges(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    cut: Iterable[Edge],
    *,
    reference: Reference,
) -> PatchedOutput:
    """Run a model while some edges carry the reference instead of the run's own values.

    Consumers that lose the same sources are computed together. Edges of several layers act
    together: what a later layer reads already carries the earlier patches. `model` is not changed.

    Raises:
        SiteError, EditError, ModelError: a layer, unit or reference that does not fit, before the
            model runs where the weights tell.
        SilentEditError: a layer did not run, ran twice, or ran before what it should read.
    """
    wanted = tuple(dict.fromkeys(cut))
    _check_edges(model, wanted, reference)
    swaps: dict[str, list[_Swap]] = {}
    with torch.no_grad():
        for layer in _in_order(model, inputs, {edge.consumer.layer for edge in wanted}):
            groups = _groups([edge for edge in wanted if edge.consumer.layer == layer])
            swaps[layer] = [
                _edited_input(model, inputs, layer, sources, consumers, reference, swaps)
                for sources, consumers in groups
            ]
        output = _run(model, inputs, swaps)
    every = [swap for several in swaps.values() for swap in several]
    for swap in every:
        _require_once(swap.layer, swap.fired)
    return PatchedOutput(output, tuple(swap.receipt() for swap in every))


def patch_units(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    patched: Iterable[Unit],
    *,
    reference: Reference,
) -> Float[Tensor, "batch ..."]:
    """Run a model with whole units replaced by their reference: all of their edges at once.

    Raises:
        SiteError, EditError, ModelError, SilentEditError: as `patch_edges`.
    """
    wanted = tuple(dict.fromkeys(patched))
    _require_eval(model)
    for unit in wanted:
        _require_unit(model, unit)
    _require_reference({unit.layer for unit in wanted}, reference)
    nodes = _nodes(model, wanted, reference)
    with torch.no_grad():
        output = _run(model, inputs, {}, nodes)
    for node in nodes:
        _require_once(node.layer, node.fired)
    return output


@dataclass(eq=False)
class _Node:
    """Source units of one layer, to be replaced in its output."""

    layer: str
    module: nn.Module
    sources: tuple[Unit, ...]
    reference: Tensor
    fired: int = 0
    change: float = 0.0

    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        self.fired += 1
        if self.reference.shape not in (out.shape, out.shape[1:]):
            raise EditError(
                f"The reference of {self.layer} has shape {list(self.reference.shape)} and its "
                f"output {list(out.shape)}; PyTorch would broadcast, so give that shape, or "
                f"{list(out.shape[1:])} for every input."
            )
        new, given = out.clone(), self.reference.to(out).expand_as(out)
        for unit in self.sources:
            place = _place(self.module, unit)
            _require_cells(unit, out)
            new[place] = given[place]
        self.change = float((new - out).double().norm())
        return new


@dataclass(eq=False)
class _Swap:
    """Consumers of one layer, and the input from which they are computed again."""

    layer: str
    module: nn.Module
    sources: tuple[Unit, ...]
    consumers: tuple[Unit, ...]
    edited: Tensor
    source_change: float
    fired: int = 0
    change: float = 0.0

    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        self.fired += 1
        again, new = self.module.forward(self.edited), out.clone()
        for unit in self.consumers:
            place = _place(self.module, unit)
            _require_cells(unit, out)
            new[place] = again[place]
        self.change = float((new - out).double().norm())
        return new

    def receipt(self) -> EdgeReceipt:
        return EdgeReceipt(
            self.layer, self.sources, self.consumers, self.fired, self.source_change, self.change
        )


@dataclass(eq=False)
class _Stop(Exception):
    """Ends a pass as soon as the layer's input is known."""

    seen: Tensor = field(repr=False)


def _run(
    model: nn.Module,
    inputs: Tensor,
    swaps: Mapping[str, Sequence[_Swap]],
    nodes: Sequence[_Node] = (),
    stop_at: nn.Module | None = None,
) -> Tensor:
    """One pass under hooks, swaps before nodes; hooks are gone on any exit."""
    with ExitStack() as hooks:
        for edit in [*(swap for several in swaps.values() for swap in several), *nodes]:
            edit.fired = 0
            hooks.callback(edit.module.register_forward_hook(edit).remove)
        if stop_at is not None:
            hooks.callback(stop_at.register_forward_pre_hook(_stop).remove)
        return model(inputs)


def _stop(module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _Stop(args[0].detach().clone())


def _edited_input(
    model: nn.Module,
    inputs: Tensor,
    layer: str,
    sources: tuple[Unit, ...],
    consumers: tuple[Unit, ...],
    reference: Reference,
    swaps: Mapping[str, Sequence[_Swap]],
) -> _Swap:
    """Find what a layer would read if its sources held their reference."""
    module, nodes = _layer(model, layer), _nodes(model, sources, reference)
    try:
        _run(model, inputs, swaps, nodes, stop_at=module)
    except _Stop as stop:
        for node in nodes:
            if node.fired != 1:
                raise SilentEditError(
                    f"{layer} ran before {node.layer}, so no edge leads from there to it: name a "
                    "layer that runs later as the consumer."
                ) from None
        change = sum(node.change**2 for node in nodes) ** 0.5
        return _Swap(layer, module, sources, consumers, stop.seen, change)
    raise SilentEditError(f"{layer} never ran, so nothing was patched: check the layer's name.")


def _nodes(model: nn.Module, sources: Sequence[Unit], reference: Reference) -> list[_Node]:
    layers = dict.fromkeys(unit.layer for unit in sources)
    return [
        _Node(
            layer,
            _layer(model, layer),
            tuple(unit for unit in sources if unit.layer == layer),
            reference[layer],
        )
        for layer in layers
    ]


def _groups(edges: Sequence[Edge]) -> list[tuple[tuple[Unit, ...], tuple[Unit, ...]]]:
    """Put together the consumers that lose the same sources."""
    lost: dict[Unit, dict[Unit, None]] = {}
    for edge in edges:
        lost.setdefault(edge.consumer, {})[edge.source] = None
    groups: dict[frozenset[Unit], list[Unit]] = {}
    for consumer, sources in lost.items():
        groups.setdefault(frozenset(sources), []).append(consumer)
    _require_apart(groups)
    return [(tuple(sorted(sources)), tuple(readers)) for sources, readers in groups.items()]


def _in_order(model: nn.Module, inputs: Tensor, layers: set[str]) -> list[str]:
    """Sort layers as they run; each must run once."""
    if len(layers) < 2:
        return list(layers)
    ran: list[str] = []
    with ExitStack() as hooks:
        for name in layers:
            hook = _noter(ran, name)
            hooks.callback(_layer(model, name).register_forward_pre_hook(hook).remove)
        model(inputs[:1])
    for name in layers:
        _require_once(name, ran.count(name))
    return ran


def _noter(ran: list[str], name: str) -> Callable[..., None]:
    return lambda module, args: ran.append(name)


def _keeper(kept: list[Tensor]) -> Callable[..., None]:
    return lambda module, args, out: kept.append(out.detach().clone())


def _place(module: nn.Module, unit: Unit) -> Index:
    """Index that takes a unit from its layer's output."""
    if not isinstance(module, nn.Conv2d):
        return (..., unit.index)
    if unit.cells is None:
        return (slice(None), unit.index)
    top, bottom, left, right = unit.cells
    return (slice(None), unit.index, slice(top, bottom), slice(left, right))


# ---------------------------------------------------------------- effects


@dataclass(frozen=True)
class Effect:
    """What one unit's edges into a set of consumers do to a class."""

    unit: Unit
    ace: float
    """Mean over inputs of `p(y|x) - p(y|x, do(edges := reference))`: above 0 the unit speaks for
    the class. In probability, or in nats for `measure="logit"`."""
    interval: Interval
    """Bootstrap over inputs."""
    p: float
    """Of a two-sided sign-flip test over inputs, paired; not below `1 / (n_flips + 1)`."""
    p_corrected: float
    """Holm-corrected for the number of units tested together."""
    kept: bool
    """Whether `p_corrected` is at most alpha and `|ace|` at least `min_ace`."""
    source_change: float
    """L2 norm of what the reference changed at the unit: 0 where the edit was a no-op."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """How effects are measured and tested.

    Raises:
        InputError: a setting is out of range.
    """

    __test__ = False  # pytest collects classes by this name

    measure: Literal["probability", "logit"] = "probability"
    alpha: float = 0.05
    """Chance of keeping any unit of a layer that has no effect."""
    min_ace: float = 0.0
    """Effects smaller than this are not kept, however certain."""
    n_flips: int = 9999
    """Random sign flips of the paired test."""
    n_boot: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.measure not in ("probability", "logit"):
            raise InputError(f"measure={self.measure!r}: write 'probability' or 'logit'.")
        if not 0 < self.alpha < 1 or self.min_ace < 0 or self.n_flips < 1 or self.n_boot < 1:
            raise InputError(
                f"alpha={self.alpha}, min_ace={self.min_ace}, n_flips={self.n_flips}, "
                f"n_boot={self.n_boot}: alpha lies between 0 and 1, min_ace is not negative, and "
                "at least one flip and one resample are drawn."
            )


def path_effects(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    sources: Sequence[Unit],
    consumers: Sequence[Unit],
    *,
    target: int,
    reference: Reference,
    test: Test | None = None,
) -> tuple[Effect, ...]:
    """Measure `ACE(u)` for each source: its edges into all of the consumers, everything else left.

    The test assumes that, without an effect, a unit's differences are as likely above zero as
    below. Units that carry the same thing twice each have a small effect: test groups with
    `patch_edges` too. Source: our reading of arXiv:2305.08950.

    Raises:
        InputError: nothing to test, one input, a target that is no class, or too few flips to keep
            anything.
        SiteError, EditError, ModelError, SilentEditError: as `patch_edges`.
    """
    test = test or Test()
    _check_effects(inputs, sources, consumers, test)
    for unit in sources:  # all are checked before the first runs
        _check_edges(model, edges([unit], consumers), reference)
    with torch.no_grad():
        clean = _score(model(inputs), target, test)
    drops, changes = [], []
    for unit in sources:
        patched = patch_edges(model, inputs, edges([unit], consumers), reference=reference)
        drops.append(clean - _score(patched.output, target, test))
        changes.append(max(receipt.source_change for receipt in patched.receipts))
    return _effects(sources, torch.stack(drops), changes, test)


def _effects(
    sources: Sequence[Unit], drops: Float[Tensor, "unit batch"], changes: list[float], test: Test
) -> tuple[Effect, ...]:
    p = sign_flip_p(drops, n_flips=test.n_flips, seed=test.seed)
    corrected, found = holm(p), []
    for unit, drop, change, *ps in zip(sources, drops, changes, p, corrected, strict=True):
        rows = drop.numpy(force=True)
        interval = cluster_bootstrap(rows, range(len(rows)), n_boot=test.n_boot, seed=test.seed)
        kept = float(ps[1]) <= test.alpha and abs(interval.estimate) >= test.min_ace
        found.append(
            Effect(unit, interval.estimate, interval, float(ps[0]), float(ps[1]), kept, change)
        )
    return tuple(found)


def sign_flip_p(
    differences: Float[Tensor, "unit batch"], *, n_flips: int = 9999, seed: int = 0
) -> Float[Tensor, " unit"]:
    """Return the two-sided p-value that paired differences have mean zero, one a row.

    The mean is compared with its values under random signs of the pairs; the drawn signs are the
    same for every row. `p = (1 + flips at least as extreme) / (1 + n_flips)`. Source: Fisher 1935,
    The Design of Experiments, section 21; Phipson and Smyth 2010 for the added one.

    >>> sign_flip_p(torch.zeros(1, 8)).item()
    1.0
    """
    rows = differences.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (rows.shape[1], n_flips), generator=generator).double() * 2 - 1
    seen = rows.sum(1, keepdim=True).abs()
    slack = 1e-12 * rows.abs().sum(1, keepdim=True)  # sums in another order still tie
    return (1 + ((rows @ signs).abs() >= seen - slack).sum(1)) / (1 + n_flips)


def holm(p: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """Return p-values corrected for their number: the chance of any false one stays below alpha.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65.

    >>> [round(x, 3) for x in holm(torch.tensor([0.01, 0.04, 0.03])).tolist()]
    [0.03, 0.06, 0.06]
    """
    order = p.argsort()
    times = torch.arange(len(p), 0, -1, dtype=p.dtype)
    stepped = (p[order] * times).cummax(0).values.clamp(max=1.0)
    return torch.empty_like(p).scatter(0, order, stepped)


# ---------------------------------------------------------------- graphs


@dataclass(frozen=True)
class CausalGraph:
    """The units that carry a class, layer by layer, found from its logit backwards."""

    target: int
    layers: tuple[str, ...]
    """From the first to the head."""
    effects: Mapping[str, tuple[Effect, ...]]
    """Every unit tested, kept or not; a layer is missing where the one above kept nothing."""

    def kept(self, layer: str) -> tuple[Unit, ...]:
        """Return the units kept in a layer; in the head, the class's logit."""
        if layer == self.layers[-1]:
            return (Unit(layer, self.target),)
        return tuple(effect.unit for effect in self.effects.get(layer, ()) if effect.kept)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge between kept units of neighbouring layers."""
        pairs = pairwise(self.layers)
        return tuple(edge for a, b in pairs for edge in edges(self.kept(a), self.kept(b)))


def causal_graph(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    layers: Mapping[str, Sequence[Unit]],
    head: str,
    *,
    target: int,
    reference: Reference,
    test: Test | None = None,
) -> CausalGraph:
    """Build the graph of a class: start with its logit, keep what acts on the kept set, go down.

    Args:
        model: a chain of layers; activations and pooling may lie between them.
        inputs: what effects are averaged over.
        layers: the units to test in each layer, the first layer first (see `units`).
        head: the layer whose units are the class logits.
        target: the class.
        reference: what patched units are replaced by.
        test: how effects are measured and tested; corrected within each layer.

    Raises:
        InputError: no layer is given; and all that `path_effects` raises.
    """
    if not layers:
        raise InputError("layers is empty: name at least one layer before the head.")
    consumers: tuple[Unit, ...] = (Unit(head, target),)
    found: dict[str, tuple[Effect, ...]] = {}
    for layer, tested in reversed(list(layers.items())):
        effects = path_effects(
            model, inputs, tested, consumers, target=target, reference=reference, test=test
        )
        found[layer] = effects
        consumers = tuple(effect.unit for effect in effects if effect.kept)
        if not consumers:
            break
    return CausalGraph(target, (*layers, head), found)


def other_edges(
    graphs: Sequence[CausalGraph], layers: Mapping[str, Sequence[Unit]], head: Sequence[Unit]
) -> tuple[Edge, ...]:
    """Return the edges between neighbouring layers that no graph holds.

    Patching them leaves the graphs alone in force (sufficiency); patching the graphs' own edges
    takes them away (necessity).
    """
    held = {edge for graph in graphs for edge in graph.edges}
    ranks = [*layers.values(), head]
    pairs = pairwise(ranks)
    return tuple(edge for a, b in pairs for edge in edges(a, b) if edge not in held)


def accuracy(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    *,
    cut: Iterable[Edge] = (),
    reference: Reference,
) -> float:
    """Return the share of inputs whose largest logit is their label, while some edges are cut.

    Raises:
        SiteError, EditError, ModelError, SilentEditError: as `patch_edges`.
    """
    output = patch_edges(model, inputs, cut, reference=reference).output
    return float((output.argmax(-1) == labels).double().mean())


def _score(output: Tensor, target: int, test: Test) -> Float[Tensor, " batch"]:
    if output.ndim != 2 or not 0 <= target < output.shape[1]:
        raise InputError(
            f"target={target}: the output has shape {list(output.shape)}; give logits "
            "[batch, class] and a class from 0."
        )
    scores = output.double()
    return (scores.softmax(1) if test.measure == "probability" else scores)[:, target]


# ---------------------------------------------------------------- checks


def _layer(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    known = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    if name not in known:
        raise SiteError(
            f"{name!r} is no Linear or Conv2d of {type(model).__name__}; there are: "
            f"{', '.join(known) or 'none'}.{nearest(name, known)}"
        )
    return known[name]


def _n_units(module: nn.Linear | nn.Conv2d) -> int:
    return module.out_channels if isinstance(module, nn.Conv2d) else module.out_features


def _require_unit(model: nn.Module, unit: Unit) -> None:
    module = _layer(model, unit.layer)
    if not 0 <= unit.index < _n_units(module):
        raise EditError(
            f"{unit} does not exist: {unit.layer} has units 0 to {_n_units(module) - 1}."
        )
    if unit.cells is None:
        return
    top, bottom, left, right = unit.cells
    if not isinstance(module, nn.Conv2d) or not (0 <= top < bottom and 0 <= left < right):
        raise EditError(
            f"{unit}: cells are rows from, to and columns from, to of a Conv2d's map, the ends "
            "excluded and each part at least one cell."
        )


def _require_cells(unit: Unit, out: Tensor) -> None:
    if unit.cells is not None and (unit.cells[1] > out.shape[-2] or unit.cells[3] > out.shape[-1]):
        raise EditError(f"{unit} lies outside a map of {list(out.shape[-2:])} cells.")


def _require_reference(layers: Iterable[str], reference: Reference) -> None:
    for layer in layers:
        if layer not in reference:
            raise EditError(
                f"{layer} has no reference; there are: {', '.join(reference) or 'none'}. Make one "
                "with reference(model, inputs, layers)."
            )


def _require_eval(model: nn.Module) -> None:
    if model.training:
        raise ModelError(
            f"{type(model).__name__} is in training mode, where dropout and batch norms make runs "
            "differ: call .eval() first."
        )


def _require_once(layer: str, times: int) -> None:
    if times != 1:
        raise SilentEditError(
            f"{layer} ran {times} times in one pass, so an edit there has no one meaning: name a "
            "layer that runs once."
        )


def _require_apart(groups: Mapping[frozenset[Unit], Sequence[Unit]]) -> None:
    """Refuse consumers that share entries and lose different sources."""
    several = list(groups.values())
    for i, first in enumerate(several):
        for other in (unit for later in several[i + 1 :] for unit in later):
            for unit in first:
                if unit.overlaps(other):
                    raise EditError(
                        f"{unit} and {other} share entries and lose different sources: name "
                        "consumers that are equal or apart."
                    )


def _check_edges(model: nn.Module, cut: Sequence[Edge], reference: Reference) -> None:
    _require_eval(model)
    for unit in dict.fromkeys(unit for edge in cut for unit in (edge.source, edge.consumer)):
        _require_unit(model, unit)
    for edge in cut:
        if edge.source.layer == edge.consumer.layer:
            raise EditError(f"{edge} stays inside one layer: name a consumer of a later one.")
    _require_reference(dict.fromkeys(edge.source.layer for edge in cut), reference)


def _check_effects(
    inputs: Tensor, sources: Sequence[Unit], consumers: Sequence[Unit], test: Test
) -> None:
    if not sources or not consumers or len(inputs) < 2:
        raise InputError(
            f"{len(sources)} sources, {len(consumers)} consumers and {len(inputs)} inputs: an "
            "effect needs at least one of each, and two inputs for a paired test."
        )
    needed = ceil(len(sources) / test.alpha) - 1
    if test.n_flips < needed:
        raise InputError(
            f"n_flips={test.n_flips} cannot keep any of {len(sources)} units at alpha="
            f"{test.alpha}: the smallest corrected p-value is too large; give at least {needed}."
        )
