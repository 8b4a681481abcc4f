"""Laws of algorithms and of interchanges, on random acyclic graphs over small numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Table, uniform

MODULUS = 3
LAWS = settings(deadline=None, derandomize=True, max_examples=40)


def _function(weights: tuple[int, ...]):
    """A sum of what is read, each to its own weight, plus a product that no sum replaces."""

    def computed(*read: Tensor) -> Tensor:
        total = sum(w * x for w, x in zip(weights, read, strict=True))
        return torch.as_tensor(total + read[0] * read[-1]) % MODULUS

    return computed


@dataclass(frozen=True)
class Graph:
    """What a random algorithm is built from: plain values, so that nothing runs while drawing."""

    n_inputs: int
    parents: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]

    @property
    def model(self) -> CausalModel:
        """The algorithm; its last variable is the output."""
        made = [
            Variable(f"v{k}", parents, _function(weights))
            for k, (parents, weights) in enumerate(zip(self.parents, self.weights, strict=True))
        ]
        inputs = tuple(f"i{k}" for k in range(self.n_inputs))
        return CausalModel("random", inputs, tuple(made[k] for k in self.order), made[-1].name)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Two or three inputs, two to four variables that read any earlier ones, in any order."""
    n_inputs, n = draw(st.integers(2, 3)), draw(st.integers(2, 4))
    names, parents, weights = [f"i{k}" for k in range(n_inputs)], [], []
    for k in range(n):
        read = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        if k:  # reads the one before, so every graph has an inner variable
            read = list(dict.fromkeys([f"v{k - 1}", *read]))
        parents.append(tuple(read))
        weights.append(tuple(draw(st.integers(0, MODULUS - 1)) for _ in read))
        names.append(f"v{k}")
    return Graph(n_inputs, tuple(parents), tuple(weights), tuple(draw(st.permutations(range(n)))))


def every_input(model: CausalModel) -> dict[str, Tensor]:
    cells = torch.tensor(list(product(range(MODULUS), repeat=len(model.inputs))))
    return dict(zip(model.inputs, cells.unbind(1), strict=True))


def drawn(model: CausalModel, seed: int, n: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Base, sources and active of pairs; some pairs interchange nothing."""
    stream = torch.Generator().manual_seed(seed)
    n_inputs, k = MODULUS ** len(model.inputs), len(model.inner)
    base = torch.randint(0, n_inputs, (n,), generator=stream)
    sources = torch.randint(0, n_inputs, (n, k), generator=stream)
    return base, sources, torch.rand(n, k, generator=stream) < 0.5


seeds = st.integers(0, 999)


@LAWS
@given(graphs())
def test_doing_what_is_so_changes_nothing(graph: Graph):
    model = graph.model
    values = model.run(every_input(model))
    for name in (*model.inputs, *model.inner, model.output):
        again = model.run(every_input(model), do={name: values[name]})
        assert all(torch.equal(again[key], values[key]) for key in values)


@LAWS
@given(graphs(), seeds)
def test_an_interchange_is_a_run_with_do_and_where(graph: Graph, seed: int):
    model = graph.model
    values, (base, sources, active) = model.run(every_input(model)), drawn(model, seed)
    names = model.inner
    forced = model.run(
        {name: values[name][base] for name in model.inputs},
        do={name: values[name][sources[:, i]] for i, name in enumerate(names)},
        where={name: active[:, i] for i, name in enumerate(names)},
    )
    found = model.interchange(values, base, sources, active, names)
    assert torch.equal(found, forced[model.output])


@LAWS
@given(graphs(), seeds)
def test_pair_by_pair_a_loop_over_variables_is_the_judge(graph: Graph, seed: int):
    """One pair at a time, Python numbers, and no batch in sight."""
    model = graph.model
    values, (base, sources, active) = model.run(every_input(model)), drawn(model, seed, 10)
    found = model.interchange(values, base, sources, active, model.inner).tolist()
    for pair in range(10):
        state = {name: values[name][base[pair]].item() for name in model.inputs}
        for variable in model.order:
            read = (torch.tensor([state[parent]]) for parent in variable.parents)
            state[variable.name] = variable.function(*read).item()
            if variable.name in model.inner:
                i = model.inner.index(variable.name)
                if active[pair, i]:
                    state[variable.name] = values[variable.name][sources[pair, i]].item()
        assert found[pair] == state[model.output]


@LAWS
@given(graphs(), seeds)
def test_inactive_or_own_sources_leave_the_output(graph: Graph, seed: int):
    model = graph.model
    values, (base, sources, active) = model.run(every_input(model)), drawn(model, seed)
    own, names = values[model.output][base], model.inner
    idle = model.interchange(values, base, sources, torch.zeros_like(active), names)
    assert torch.equal(idle, own)
    self_sourced = base[:, None].expand_as(sources)
    assert torch.equal(model.interchange(values, base, self_sourced, active, names), own)


@LAWS
@given(graphs(), seeds)
def test_the_source_of_an_inactive_variable_has_no_meaning(graph: Graph, seed: int):
    model = graph.model
    values, (base, sources, active) = model.run(every_input(model)), drawn(model, seed)
    other = torch.where(active, sources, sources.flip(0))
    first, second = (
        model.interchange(values, base, rows, active, model.inner) for rows in (sources, other)
    )
    assert torch.equal(first, second)


@LAWS
@given(graphs())
def test_the_order_in_which_variables_are_given_is_of_no_account(graph: Graph):
    model = graph.model
    turned = CausalModel("turned", model.inputs, model.variables[::-1], model.output)
    mine, theirs = (m.run(every_input(model)) for m in (model, turned))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert set(model.inner) == set(turned.inner)


@LAWS
@given(graphs(), st.integers(0, MODULUS - 1))
def test_do_agrees_with_the_cut_of_the_diagram(graph: Graph, value: int):
    model = graph.model
    names = (*model.inputs, *(variable.name for variable in model.order))
    diagram = model.diagram({name: range(MODULUS) for name in names})
    inputs = every_input(model)
    n = MODULUS ** len(model.inputs)
    for node in model.inner:
        out = model.run(inputs, do={node: torch.full((n,), value)})[model.output]
        counted = np.bincount(out.numpy(), minlength=MODULUS) / n
        done = diagram.do(node, value).marginal(model.output)
        np.testing.assert_allclose(done, counted, rtol=0, atol=1e-12)


@LAWS
@given(graphs(), seeds)
def test_shuffles_keep_what_they_do_not_shuffle(graph: Graph, seed: int):
    model = graph.model
    values = model.run(every_input(model))
    varied = tuple(name for name in model.inner if len(values[name].unique()) > 1)
    if not varied:
        return
    rows = torch.stack([values[name] for name in model.inputs], 1)
    pairs = Table(model, varied, rows, values, uniform).pairs(80, seed)
    assert pairs.active.any(1).all()
    shuffled, moved = pairs.shuffled(seed), pairs.shuffled_sources(seed)
    for kind in pairs.active.unique(dim=0):
        same = (pairs.active == kind).all(1)
        assert sorted(shuffled.labels[same].tolist()) == sorted(pairs.labels[same].tolist())
    assert torch.equal(moved.labels, pairs.labels)
    assert sorted(moved.sources.tolist()) == sorted(pairs.sources.tolist())
