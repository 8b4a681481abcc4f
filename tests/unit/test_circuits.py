"""Graphs, circuits, their file format and their curves, by hand."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from interp.errors import InputError
from interp.patching.circuits import (
    FRACTIONS,
    Circuit,
    Curve,
    _require_count,
    areas,
    curve,
    random_edges,
    select_edges,
)
from interp.patching.edges import EdgeScores, Graph
from tests.strategies import ToyModel, says

SMALL = Graph(n_layers=1, n_heads=1, d_model=4, parallel=False)
"""input -> a0.h0 (three ports) -> m0 -> logits, and every edge that skips one."""
TWO = Graph(n_layers=2, n_heads=2, d_model=4, parallel=False)


def scored(graph: Graph, **edges: float) -> torch.Tensor:
    """A score matrix from names in which `__` stands for the arrow and `_q` for a port."""
    scores = torch.zeros(graph.exists.shape)
    for name, score in edges.items():
        sender, receiver = (part.replace("_h", ".h") for part in name.split("__"))
        port = receiver[-2:]
        receiver = f"{receiver[:-2]}<{port[1]}>" if port in ("_q", "_k", "_v") else receiver
        scores[graph.find(f"{sender}->{receiver}")] = score
    return scores


# ---------------------------------------------------------------- graphs


def test_nodes_and_edges_of_one_layer():
    assert SMALL.senders == ("input", "a0.h0", "m0")
    assert SMALL.receivers == ("a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits")
    assert SMALL.edges == (
        "input->a0.h0<q>",
        "input->a0.h0<k>",
        "input->a0.h0<v>",
        "input->m0",
        "input->logits",
        "a0.h0->m0",
        "a0.h0->logits",
        "m0->logits",
    )


def test_the_order_of_receivers_is_queries_keys_values_mlp_of_each_layer():
    assert TWO.receivers[7:14] == (
        *("a1.h0<q>", "a1.h1<q>", "a1.h0<k>", "a1.h1<k>", "a1.h0<v>", "a1.h1<v>"),
        "m1",
    )
    assert TWO.find("m0->a1.h1<k>") == (3, 10)
    assert TWO.name(3, 10) == "m0->a1.h1<k>"


@pytest.mark.parametrize(
    ("sizes", "parallel", "edges"),
    [
        ((12, 12), False, 32491),  # the counts that MIB states for its models
        ((26, 8), False, 74218),
        ((24, 14), False, 179749),
        ((32, 32), False, 1592881),
        ((1, 2), True, 11),  # 7 + 1 from the input; 2 + 1 into the logits: none joins head and MLP
    ],
)
def test_the_number_of_edges(sizes, parallel, edges):
    layers, heads = sizes
    graph = Graph(n_layers=layers, n_heads=heads, d_model=8, parallel=parallel)
    assert int(graph.exists.sum()) == edges


@pytest.mark.parametrize(
    ("edge", "text"),
    [
        (
            "a0.h0->m1",
            "'a0.h0->m1' is no edge of 1 layers with 1 heads: write it like 'm0->a1.h2<k>' or "
            "'input->logits'.",
        ),
        (
            "a0.h0",
            "'a0.h0' is no edge of 1 layers with 1 heads: write it like 'm0->a1.h2<k>' or "
            "'input->logits'. Did you mean 'a0.h0'?",
        ),
        (
            "input->a0.h0",
            "'input->a0.h0' is no edge of 1 layers with 1 heads: write it like 'm0->a1.h2<k>' or "
            "'input->logits'. Did you mean 'a0.h0<v>'?",
        ),
        (
            "m0->a0.h0<q>",
            "The edge 'm0->a0.h0<q>' points backwards: a0.h0<q> reads before m0 writes, so it "
            "would close a cycle.",
        ),
    ],
)
def test_edges_that_do_not_exist_are_refused(edge, text):
    with says(InputError, text):
        SMALL.find(edge)


def test_parallel_blocks_have_no_edge_from_heads_to_their_mlp():
    graph = Graph(n_layers=1, n_heads=1, d_model=4, parallel=True)
    assert "a0.h0->m0" not in graph.edges and "a0.h0->logits" in graph.edges


def test_a_graph_needs_sizes():
    with says(InputError, "n_heads=0: a graph needs a whole number of at least 1."):
        Graph(n_layers=1, n_heads=0, d_model=4, parallel=False)


# ---------------------------------------------------------------- scores


def edge_scores(graph: Graph, values: torch.Tensor) -> EdgeScores:
    return EdgeScores(graph, values, torch.zeros(len(values)), torch.ones(len(values)), 1)


def test_top_edges_are_the_largest_means_in_size():
    first = scored(SMALL, input__m0=1.0, m0__logits=-4.0)
    second = scored(SMALL, input__m0=3.0, m0__logits=-2.0, input__logits=1.0)
    found = edge_scores(SMALL, torch.stack([first, second]))
    assert found.top(3) == [("m0->logits", -3.0), ("input->m0", 2.0), ("input->logits", 0.5)]
    assert found["m0->logits"].tolist() == [-4.0, -2.0]


def test_a_shared_key_scores_the_sum_of_its_heads():
    scores = scored(TWO, input__a1_h0_k=1.0, input__a1_h1_k=2.0, input__a1_h1_v=5.0)
    found = edge_scores(TWO, scores[None])
    # keys then values of layer 0, keys then values of layer 1: one each for two heads in a group
    assert found.shared(2)[0, 0].tolist() == [0, 0, 3, 5]
    assert found.shared(1)[0, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 5]
    with says(InputError, "group=3 does not divide the 2 heads of the graph."):
        found.shared(3)


# ---------------------------------------------------------------- choosing and pruning

CHAIN = scored(
    SMALL, input__a0_h0_q=9.0, a0_h0__m0=-8.0, m0__logits=1.0, input__logits=3.0, a0_h0__logits=2.0
)


def test_top_takes_the_largest_and_drops_what_dangles():
    loose = select_edges(SMALL, CHAIN, 3, prune=False)
    assert loose.edges == ("input->a0.h0<q>", "input->logits", "a0.h0->m0")
    assert select_edges(SMALL, CHAIN, 3).edges == ("input->logits",)  # m0 leads nowhere
    assert select_edges(SMALL, CHAIN, 4).edges == (
        *("input->a0.h0<q>", "input->logits", "a0.h0->logits"),
    )


def test_greedy_starts_at_the_logits():
    """Into the logits 3, 2, 1; taking a0.h0 opens the 9, and only m0 opens the -8."""
    steps = [set(select_edges(SMALL, CHAIN, n, by="greedy", prune=False).edges) for n in range(6)]
    added = [(after - before).pop() for before, after in pairwise(steps)]
    assert added == [
        *("input->logits", "a0.h0->logits", "input->a0.h0<q>", "m0->logits", "a0.h0->m0"),
    ]


def test_pruning_goes_on_until_nothing_dangles():
    names = ("input->a0.h0<q>", "a0.h0->m0", "m0->a1.h0<q>", "a1.h0->m1", "input->logits")
    inside = torch.zeros_like(TWO.exists)
    for name in names:
        inside[TWO.find(name)] = True
    assert Circuit(TWO, inside).pruned.edges == ("input->logits",)
    inside[TWO.find("m1->logits")] = True
    assert len(Circuit(TWO, inside).pruned) == 6
    inside[TWO.find("input->a0.h0<q>")] = False  # now nothing enters a0.h0
    assert Circuit(TWO, inside).pruned.edges == ("input->logits",)


def test_equal_scores_take_the_earlier_edge():
    flat = torch.ones(SMALL.exists.shape)
    for by in ("top", "greedy"):
        chosen = select_edges(SMALL, flat, 1, by=by, prune=False)
        assert chosen.edges == (("input->a0.h0<q>",) if by == "top" else ("input->logits",))


def test_nodes_of_a_circuit():
    assert select_edges(SMALL, CHAIN, 4).nodes == ("input", "a0.h0", "logits")


def test_random_edges_are_as_many_and_repeat():
    assert len(random_edges(TWO, 17, seed=3)) == 17
    assert random_edges(TWO, 17, seed=3).edges == random_edges(TWO, 17, seed=3).edges
    assert random_edges(TWO, 17, seed=3).edges != random_edges(TWO, 17, seed=4).edges


@pytest.mark.parametrize("n", [-1, 9, True, 2.0])
def test_counts_out_of_range_are_refused(n):
    with says(InputError, f"n={n!r}: the graph has 8 edges, so choose 0 to 8."):
        _require_count.__wrapped__(SMALL, n)  # past the check of types


# ---------------------------------------------------------------- the file


def test_a_circuit_becomes_the_graph_file_of_eap_ig():
    circuit = select_edges(SMALL, CHAIN, 1, by="greedy")
    assert json.loads(circuit.to_json()) == {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {
            "input": {"in_graph": True},
            "a0.h0": {"in_graph": False},
            "m0": {"in_graph": False},
            "logits": {"in_graph": True},
        },
        "edges": {
            "input->a0.h0<q>": {"score": 9.0, "in_graph": False},
            "input->a0.h0<k>": {"score": 0.0, "in_graph": False},
            "input->a0.h0<v>": {"score": 0.0, "in_graph": False},
            "input->m0": {"score": 0.0, "in_graph": False},
            "input->logits": {"score": 3.0, "in_graph": True},
            "a0.h0->m0": {"score": -8.0, "in_graph": False},
            "a0.h0->logits": {"score": 2.0, "in_graph": False},
            "m0->logits": {"score": 1.0, "in_graph": False},
        },
    }


def a_file(**changes) -> dict:
    """A graph file written by hand, with one entry changed."""
    whole = {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {"input": {"in_graph": True, "score": 0.5}, "m0": {"in_graph": True}},
        "edges": {
            "input->m0": {"score": 0.25, "in_graph": True},
            "m0->logits": {"score": -2, "in_graph": True},
            "a0.h0->m0": {"score": 7.0, "in_graph": False},
        },
    }
    for part, entries in changes.items():
        whole[part] |= entries
    return whole


def test_a_file_written_by_hand_is_read():
    circuit = Circuit.from_json(json.dumps(a_file()))
    assert circuit.graph == SMALL
    assert circuit.edges == ("input->m0", "m0->logits")
    assert circuit.scores is not None
    assert circuit.scores[SMALL.find("a0.h0->m0")] == 7
    assert circuit.scores[SMALL.find("m0->logits")] == -2
    assert circuit.node_scores == {"input": 0.5}
    assert json.loads(circuit.to_json())["nodes"]["input"] == {"in_graph": True, "score": 0.5}


INSIDE = {"score": 1.0, "in_graph": True}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"nodes": {"a0.h1": {"in_graph": True}}},
            "'a0.h1' is no node of 1 layers with 1 heads: nodes are input, a0.h0, m0 and logits. "
            "Did you mean 'a0.h0'?",
        ),
        (
            {"nodes": {"m0": {"in_graph": "yes"}}},
            "The node m0 is {'in_graph': 'yes'}: give an object with in_graph.",
        ),
        (
            {"nodes": {"m0": {"in_graph": True, "neurons": [True]}}},
            "The node m0 names neurons, and circuits here have whole nodes: export the graph "
            "without neurons.",
        ),
        (
            {"edges": {"m0->a0.h0<v>": INSIDE}},
            "The edge 'm0->a0.h0<v>' points backwards: a0.h0<v> reads before m0 writes, so it "
            "would close a cycle.",
        ),
        (
            {"edges": {"m7->logits": INSIDE}},
            "'m7->logits' is no edge of 1 layers with 1 heads: write it like 'm0->a1.h2<k>' or "
            "'input->logits'.",
        ),
        (
            {"edges": {"input->logits": {"score": "high", "in_graph": True}}},
            "The edge input->logits is {'score': 'high', 'in_graph': True}: give an object with "
            "in_graph and a finite score.",
        ),
        (
            {"edges": {"input->logits": {"score": float("nan"), "in_graph": True}}},
            "The edge input->logits is {'score': nan, 'in_graph': True}: give an object with "
            "in_graph and a finite score.",
        ),
        (
            {"cfg": {"n_heads": "one"}},
            "cfg says n_heads='one': a size is a whole number.",
        ),
    ],
)
def test_files_that_break_the_format_are_refused(changes, text):
    with says(InputError, text):
        Circuit.from_json(json.dumps(a_file(**changes)))


def test_texts_that_are_no_graph_file_are_refused():
    with says(
        InputError,
        "A graph file is an object with the objects 'cfg', 'nodes' and 'edges': write it with "
        "EAP-IG's to_json or Circuit.to_json.",
    ):
        Circuit.from_json("[]")
    with says(InputError, "cfg lacks n_heads, d_model: the graph file must say its sizes."):
        Circuit.from_json(
            json.dumps({**a_file(), "cfg": {"n_layers": 1, "parallel_attn_mlp": False}})
        )
    with pytest.raises(InputError, match=r"^The circuit is no JSON \(.*\): give the text of a"):
        Circuit.from_json("{")


def test_scores_that_are_not_finite_are_not_written():
    scores = CHAIN.clone()
    scores[SMALL.find("m0->logits")] = torch.inf
    circuit = Circuit(SMALL, SMALL.exists, scores)
    with says(InputError, "The edge m0->logits has score inf: a file holds finite scores only."):
        circuit.to_json()


def test_matrices_of_another_graph_are_refused():
    with says(
        InputError,
        "inside has shape [7, 15] and the graph's edges [3, 5]: use the matrices that eap returned "
        "for this model.",
    ):
        Circuit(SMALL, TWO.exists)
    with pytest.raises(InputError, match=r"^The edge 'a0\.h0->a0\.h0<q>' points backwards"):
        Circuit(SMALL, torch.ones_like(SMALL.exists))


# ---------------------------------------------------------------- curves


def test_areas_by_hand():
    """Trapezoids: 0.1 * (0.2 + 0.6) / 2 + 0.8 * (0.6 + 1.4) / 2 = 0.84; distances 0.8, 0.4, 0.4."""
    cpr, cmd = areas((0.1, 0.2, 1.0), (0.2, 0.6, 1.4))
    assert cpr == pytest.approx(0.84, abs=1e-15)
    assert cmd == pytest.approx(0.1 * 0.6 + 0.8 * 0.4, abs=1e-15)


def test_a_model_that_is_always_faithful_has_the_best_areas():
    cpr, cmd = areas(FRACTIONS, [1.0] * 10)
    assert (cpr, cmd) == (pytest.approx(0.999, abs=1e-15), 0)


def test_a_curve_stands_beside_its_control():
    drawn = Curve((0.5, 1.0), (3, 8), (0.5, 1.0), ((0.0, 1.0), (0.25, 1.0)))
    assert (drawn.cpr, drawn.cmd) == (0.375, 0.125)
    assert drawn.random_cpr == (0.25 + 0.3125) / 2
    assert drawn.random_cmd == (0.25 + 0.1875) / 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"n_random": 0}, "n_random=0: draw at least one control."),
        ({"fractions": (0.5, 1.5)}, "fractions=(0.5, 1.5): each is a share from 0 to 1."),
        ({"fractions": (0.5, 0.5)}, "fractions=(0.5, 0.5) must grow from one to the next."),
        (
            {"fractions": (0.5,)},
            "There are 1 fractions and 1 values: give one value a fraction, and at least two.",
        ),
    ],
)
def test_bad_curves_are_refused_before_the_model_runs(settings, text):
    circuit = Circuit(SMALL, SMALL.exists, CHAIN)
    with says(InputError, text):
        curve(ToyModel(), [[1]], [[2]], lambda logits, rows: logits[:, 0], circuit, **settings)


def test_a_way_to_choose_that_does_not_exist_is_refused():
    text = "by='best': write 'top' or 'greedy'."
    with says(InputError, text):
        select_edges.__wrapped__(SMALL, CHAIN, 1, by="best")
    metric, circuit = lambda logits, rows: logits[:, 0], Circuit(SMALL, SMALL.exists, CHAIN)
    with says(InputError, text):
        curve.__wrapped__(ToyModel(), [[1]], [[2]], metric, circuit, by="best")


def test_a_curve_needs_scores():
    with says(InputError, "The circuit has no scores to choose edges by: use those of eap."):
        curve(
            ToyModel(),
            [[1]],
            [[2]],
            lambda logits, rows: logits[:, 0],
            Circuit(SMALL, SMALL.exists),
        )
