"""Laws of cut and do on random diagrams, and their agreement with a network run under hooks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp.diagrams import Box, Diagram, front_door

laws = settings(deadline=None, derandomize=True, max_examples=40)
ROUNDING = 1e-12
"""Sums of at most 3^5 products of float64 probabilities."""

seeds = st.integers(0, 2**32 - 1)


def random_diagram(seed: int) -> tuple[Diagram, str, str]:
    """Two to five random boxes of one to three values, any parents among the boxes before.

    Two distinct nodes are picked with it. Not a Hypothesis strategy: the checks of shapes that run
    with the tests draw random numbers, which a strategy must not.
    """
    rng = np.random.default_rng(seed)
    boxes: list[Box] = []
    for i in range(rng.integers(2, 6)):
        parents = tuple(box for box in boxes if rng.random() < 0.5)
        rows = rng.random([*(box.size for box in parents), rng.integers(1, 4)]) + 0.05
        table = rows / rows.sum(-1, keepdims=True)
        boxes.append(Box(f"n{i}", tuple(box.name for box in parents), table))
    first, second = rng.choice(len(boxes), size=2, replace=False)
    return Diagram(tuple(boxes)), f"n{first}", f"n{second}"


def equal(first: Diagram, second: Diagram) -> bool:
    """Whether two diagrams have the same boxes, not only the same joint."""
    return all(
        a.name == b.name and a.parents == b.parents and np.array_equal(a.array, b.array)
        for a, b in zip(first.boxes, second.boxes, strict=True)
    )


def descendants(diagram: Diagram, node: str) -> set[str]:
    found = {node}
    for box in diagram.boxes:
        if found & set(box.parents):
            found.add(box.name)
    return found - {node}


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=ROUNDING))


@laws
@given(seeds)
def test_a_joint_is_a_distribution_with_the_boxes_as_conditionals(seed):
    diagram, node, _ = random_diagram(seed)
    assert abs(diagram.joint().sum() - 1) < ROUNDING
    box = diagram.box(node)
    values = {parent: 0 for parent in box.parents}
    row = box.array[(0,) * len(box.parents)]
    assert close(diagram.conditional(node, values) if values else diagram.marginal(node), row)


@laws
@given(seeds)
def test_a_cut_twice_is_a_cut_once_and_cuts_commute(seed):
    diagram, first, second = random_diagram(seed)
    once = diagram.cut(first)
    assert equal(once.cut(first), once)
    assert equal(once.cut(second), diagram.cut(second).cut(first))
    assert equal(diagram.do(first, 0).cut(first), once)
    changed = [a.name for a, b in zip(diagram.boxes, once.boxes, strict=True) if a is not b]
    assert changed == [first]


@laws
@given(seeds)
def test_a_cut_leaves_alone_what_does_not_follow(seed):
    diagram, node, _ = random_diagram(seed)
    before, after = diagram, diagram.cut(node)
    spared = [n for n in diagram.nodes if n != node and n not in descendants(diagram, node)]
    if spared:
        assert close(after.marginal(*spared), before.marginal(*spared))
    assert close(after.marginal(node), np.full(diagram.box(node).size, 1 / diagram.box(node).size))


@laws
@given(seeds)
def test_cutting_a_root_changes_only_its_own_marginal_and_what_follows(seed):
    """What follows from the root is computed by the same boxes: given it, nothing differs."""
    diagram, *_ = random_diagram(seed)
    root = diagram.nodes[0]
    after, others = diagram.cut(root), diagram.nodes[1:]
    for value in range(diagram.box(root).size):
        given_it = {root: value}
        assert close(after.conditional(others, given_it), diagram.conditional(others, given_it))


@laws
@given(seeds)
def test_cutting_what_nothing_reads_changes_no_other_marginal(seed):
    diagram, *_ = random_diagram(seed)
    last, others = diagram.nodes[-1], diagram.nodes[:-1]
    assert close(diagram.cut(last).marginal(*others), diagram.marginal(*others))


@laws
@given(seeds, st.data())
def test_to_do_is_to_cut_and_then_to_see(seed, data):
    """After a cut a node has no causes, so seeing its value tells of its effects only."""
    diagram, node, other = random_diagram(seed)
    value = data.draw(st.integers(0, diagram.box(node).size - 1))
    seen = diagram.cut(node).conditional(other, {node: value})
    assert close(diagram.do(node, value).marginal(other), seen)


@laws
@given(seeds)
def test_the_front_door_finds_the_effect_behind_a_hidden_cause(seed):
    rng = np.random.default_rng(seed)

    def box(name: str, parents: tuple[str, ...], *shape: int) -> Box:
        rows = rng.random(shape) + 0.05
        return Box(name, parents, rows / rows.sum(-1, keepdims=True))

    world = Diagram(
        (
            box("h", (), 3),
            box("a", ("h",), 3, 2),
            box("b", ("a",), 2, 3),
            box("c", ("h", "b"), 3, 3, 2),
        )
    )
    truth = np.stack([world.do("a", value).marginal("c") for value in range(2)])
    assert close(front_door(world.marginal("a", "b", "c")), truth)


# ---------------------------------------------------------------- a network under hooks


class Node(nn.Module):
    """A discrete unit: a lookup of its parents' values and of its own noise."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers  # [*parents, noise] -> value

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.answers[inputs]


class Network(nn.Module):
    """Nodes wired as a graph; every world is one row of noise, all of them equally likely."""

    def __init__(self, nodes: list[Node], parents: list[list[int]]) -> None:
        super().__init__()
        self.nodes, self.parents = nn.ModuleList(nodes), parents

    def forward(self, noise: Tensor) -> Tensor:
        values: list[Tensor] = []
        for i, node in enumerate(self.nodes):
            values.append(node(*(values[p] for p in self.parents[i]), noise[:, i]))
        return torch.stack(values, dim=1)


@dataclass
class Planted:
    """A network and what is needed to read it as a diagram."""

    network: Network
    sizes: list[int]
    levels: int

    def worlds(self, extra: int = 1) -> Tensor:
        """Every combination of the nodes' noise, and of one more column with `extra` levels."""
        ranges = [range(self.levels)] * len(self.sizes) + [range(extra)]
        return torch.tensor(list(itertools.product(*ranges)))

    def diagram(self) -> Diagram:
        """Read each box off its own module, one input at a time: nothing is run end to end."""
        boxes = []
        for i, parents in enumerate(self.network.parents):
            table = np.zeros([*(self.sizes[p] for p in parents), self.sizes[i]])
            for inputs in itertools.product(*(range(self.sizes[p]) for p in parents)):
                for noise in range(self.levels):
                    out = self.network.nodes[i](*map(torch.tensor, (*inputs, noise)))
                    table[(*inputs, int(out))] += 1 / self.levels
            boxes.append(Box(f"n{i}", tuple(f"n{p}" for p in parents), table))
        return Diagram(tuple(boxes))

    def frequencies(self, worlds: Tensor) -> np.ndarray:
        """Run every world once and count."""
        values = self.network(worlds[:, : len(self.sizes)]).numpy()
        counts = np.zeros(self.sizes)
        np.add.at(counts, tuple(values.T), 1 / len(worlds))
        return counts


@st.composite
def networks(draw: st.DrawFn) -> Planted:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n_nodes, levels = draw(st.integers(2, 4)), 4
    sizes = [draw(st.integers(2, 3)) for _ in range(n_nodes)]
    parents = [[p for p in range(i) if draw(st.booleans())] for i in range(n_nodes)]
    nodes = []
    for i in range(n_nodes):
        shape = [*(sizes[p] for p in parents[i]), levels]
        nodes.append(Node(torch.randint(sizes[i], shape, generator=generator)))
    return Planted(Network(nodes, parents), sizes, levels)


@laws
@given(networks(), st.data())
def test_a_network_run_under_hooks_has_the_distribution_of_the_cut_diagram(planted, data):
    """Cut agrees with a run-time intervention: a hook that replaces one module's output."""
    node = data.draw(st.integers(0, len(planted.sizes) - 1))
    size, diagram = planted.sizes[node], planted.diagram()
    assert close(planted.frequencies(planted.worlds()), diagram.joint())

    worlds = planted.worlds(extra=size)
    module = planted.network.nodes[node]
    with module.register_forward_hook(lambda *_: worlds[:, -1]):  # fresh, uniform, reads nothing
        assert close(planted.frequencies(worlds), diagram.cut(f"n{node}").joint())

    value = data.draw(st.integers(0, size - 1))
    with module.register_forward_hook(lambda _, __, out: torch.full_like(out, value)):
        assert close(planted.frequencies(planted.worlds()), diagram.do(f"n{node}", value).joint())
