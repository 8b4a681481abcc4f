"""Laws of attribution and circuits that hold for every prompt, score and set of edges."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.metrics import LogitDiff
from interp.patching.attribution import attribute
from interp.patching.circuits import Circuit, Evaluator, areas, random_edges, select_edges
from interp.patching.edges import Graph
from tests.strategies import names, noise, tiny, token

few = settings(deadline=None, derandomize=True, max_examples=6)
cheap = settings(deadline=None, derandomize=True, max_examples=25)


cases = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.booleans(), st.floats(0, 1), st.integers(0, 99)
)
"""Layers, heads, parallel blocks, share of edges, seed: values only, nothing is made yet."""


def made(case: tuple[int, int, bool, float, int]) -> Circuit:
    """Random edges of a graph, with random scores."""
    n_layers, n_heads, parallel, share, seed = case
    graph = Graph(n_layers=n_layers, n_heads=n_heads, d_model=4, parallel=parallel)
    n = int(share * int(graph.exists.sum()))
    scores = noise(*graph.exists.shape, seed=seed) * graph.exists
    return Circuit(graph, random_edges(graph, n, seed=seed).inside, scores)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """One or two pairs of prompts of equal lengths."""
    lengths = draw(st.lists(st.integers(2, 6), min_size=1, max_size=2))
    one, other = (
        [draw(st.lists(token, min_size=n, max_size=n)) for n in lengths] for _ in range(2)
    )
    return one, other


@cheap
@given(cases)
def test_a_file_gives_back_the_circuit(case):
    circuit = made(case)
    again = Circuit.from_json(circuit.to_json())
    assert again.graph == circuit.graph
    assert torch.equal(again.inside, circuit.inside)
    assert again.scores is not None and circuit.scores is not None
    assert torch.equal(again.scores, circuit.scores.double())
    assert json.loads(again.to_json())["edges"] == json.loads(circuit.to_json())["edges"]


@cheap
@given(cases)
def test_pruning_only_takes_away_and_leaves_nothing_dangling(case):
    circuit = made(case)
    pruned = circuit.pruned
    assert not (pruned.inside & ~circuit.inside).any()
    assert torch.equal(pruned.pruned.inside, pruned.inside)
    senders = {edge.split("->")[0] for edge in pruned.edges}
    readers = {edge.split("->")[1].partition("<")[0] for edge in pruned.edges}
    assert senders - {"input"} == readers - {"logits"}
    assert not pruned.edges or {"input", "logits"} <= senders | readers


@cheap
@given(cases, st.sampled_from(["top", "greedy"]), st.floats(0, 1))
def test_as_many_edges_are_chosen_as_asked_for(case, by, share):
    circuit = made(case)
    graph, total = circuit.graph, int(circuit.graph.exists.sum())
    assert circuit.scores is not None
    n = int(share * total)
    chosen = select_edges(graph, circuit.scores, n, by=by, prune=False)
    assert len(chosen) == n and not (chosen.inside & ~graph.exists).any()
    more = select_edges(graph, circuit.scores, min(n + 1, total), by=by, prune=False)
    assert not (chosen.inside & ~more.inside).any()
    if by == "top" and 0 < n < total:
        sizes = circuit.scores.abs()
        assert sizes[chosen.inside].min() >= sizes[graph.exists & ~chosen.inside].max()
    if by == "greedy":  # whatever is read was chosen before
        readers = {edge.split("->")[1].partition("<")[0] for edge in chosen.edges}
        assert readers - {"logits"} <= {edge.split("->")[0] for edge in chosen.edges}


@cheap
@given(st.lists(st.floats(-2, 3), min_size=2, max_size=8))
def test_areas_of_a_curve(values):
    fractions = [(i + 1) / len(values) for i in range(len(values))]
    cpr, cmd = areas(fractions, values)
    width = fractions[-1] - fractions[0]
    assert min(values) * width - 1e-9 <= cpr <= max(values) * width + 1e-9
    assert cmd >= abs(width - cpr) - 1e-9  # equal while the curve stays on one side of 1
    below = [min(value, 1.0) for value in values]
    cpr, cmd = areas(fractions, below)
    assert cmd == pytest.approx(width - cpr, abs=1e-9)


@few
@given(names, pairs(), st.integers(0, 5))
def test_edges_that_carry_the_base_run_change_nothing(name, pair, seed):
    evaluator = Evaluator(tiny(name), pair[0], pair[1], LogitDiff(5, 9))
    circuit = random_edges(evaluator.graph, 40 * (seed + 1), seed=seed)
    same = evaluator.run(circuit, source=evaluator.ours)
    torch.testing.assert_close(same, evaluator.full, rtol=0, atol=5e-5)


@few
@given(names, pairs())
def test_scores_turn_round_with_the_difference_and_the_metric(name, pair):
    """The gradient is that at base: the opposite metric turns every score round."""
    base, source = pair
    sites = ["0.attn.z", "1.resid_mid", "2.mlp.post"]
    found = attribute(tiny(name), base, source, LogitDiff(5, 9), sites)
    turned = attribute(tiny(name), base, source, LogitDiff(9, 5), sites)
    for site in sites:
        torch.testing.assert_close(found[site], -turned[site], rtol=0, atol=1e-5)
        for row, length in enumerate(map(len, base)):
            assert not found[site][row, length:].any()
            assert found[site][row].isfinite().all()
