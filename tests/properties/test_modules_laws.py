"""Laws of edge patching on random chains of linear layers and convolutions, in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp.patching.modules import (
    Unit,
    edges,
    patch_edges,
    patch_units,
    reference,
    units,
)

laws = settings(deadline=None, derandomize=True, max_examples=25)
ROUNDING = 1e-12
"""Sums of a few hundred float64 products of order one; another order of terms leaves 1e-15."""

seeds = st.integers(0, 2**31)


def linear_chain() -> tuple[nn.Sequential, tuple[str, ...], tuple[int, ...]]:
    net = nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    return net, ("0", "2", "4"), (5,)


def conv_chain() -> tuple[nn.Sequential, tuple[str, ...], tuple[int, ...]]:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return net, ("0", "3", "7"), (2, 8, 8)


class World:
    """A random chain, inputs, references from other inputs, and neighbouring layers a, b, c."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.model, (self.a, self.b, self.c), shape = (linear_chain, conv_chain)[seed % 2]()
        self.model.double().eval()
        for weight in self.model.parameters():
            weight.data = self.normal(*weight.shape) * weight[0].numel() ** -0.5
        self.x, other = self.normal(3, *shape), self.normal(3, *shape)
        self.other = reference(self.model, other, [self.a, self.b], "own")
        self.own = reference(self.model, self.x, [self.a, self.b], "own")

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.rng, dtype=torch.float64)

    def some(self, layer: str) -> tuple[Unit, ...]:
        """Draw at least one unit of a layer."""
        every = units(self.model, layer)
        n = int(torch.randint(1, len(every) + 1, (), generator=self.rng))
        return tuple(every[i] for i in torch.randperm(len(every), generator=self.rng)[:n])

    def clean(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x)

    def cut(self, *groups, **options) -> Tensor:
        wanted = [edge for group in groups for edge in group]
        return patch_edges(
            self.model, self.x, wanted, **({"reference": self.other} | options)
        ).output


def near(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=ROUNDING))


@laws
@given(seeds)
def test_a_reference_equal_to_the_own_value_changes_no_bit(seed):
    world = World(seed)
    wanted = edges(world.some(world.a), world.some(world.b))
    assert torch.equal(world.cut(wanted, reference=world.own), world.clean())
    assert torch.equal(world.cut(), world.clean())


@laws
@given(seeds)
def test_all_edges_of_units_together_are_the_node_patch(seed):
    world = World(seed)
    for layer, readers in ((world.a, world.b), (world.b, world.c)):
        sources = world.some(layer)
        node = patch_units(world.model, world.x, sources, reference=world.other)
        assert near(world.cut(edges(sources, units(world.model, readers))), node)
        assert not near(node, world.clean()) or layer == world.a  # a unit may be dead behind ReLU


@laws
@given(seeds)
def test_only_the_named_consumers_change(seed):
    world = World(seed)
    wanted = edges(world.some(world.a), readers := world.some(world.b))
    seen: list[Tensor] = []
    layer = world.model.get_submodule(world.b)
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    before = world.clean()
    handle.remove()
    after: list[Tensor] = []
    probe = world.model.get_submodule(str(int(world.b) + 1))  # what reads the layer
    handle = probe.register_forward_pre_hook(lambda module, args: after.append(args[0].clone()))
    world.cut(wanted)
    handle.remove()
    spared = [u.index for u in units(world.model, world.b) if u not in readers]
    assert torch.equal(after[-1][:, spared], seen[0][:, spared])
    assert torch.equal(world.clean(), before)


@laws
@given(seeds)
def test_cuts_of_distinct_consumers_add_up_where_the_rest_is_linear(seed):
    """The head is linear, so the effects of edges into it on different logits do not mix."""
    world = World(seed)
    sources, head = world.some(world.b), units(world.model, world.c)
    together = world.cut(edges(sources, head))
    for consumer in head:
        alone = world.cut(edges(sources, [consumer]))
        assert near(alone[:, consumer.index], together[:, consumer.index])
        rest = [u.index for u in head if u != consumer]
        assert torch.equal(alone[:, rest], world.clean()[:, rest])


@laws
@given(seeds)
def test_the_order_of_edges_does_not_matter(seed):
    world = World(seed)
    first = edges(world.some(world.a), world.some(world.b))
    second = edges(world.some(world.b), world.some(world.c))
    assert near(world.cut(first, second), world.cut(second[::-1], first[::-1]))


@laws
@given(seeds)
def test_the_blocks_of_a_map_together_are_the_map(seed):
    world = World(seed | 1)  # the convolutions
    readers = world.some(world.b)
    parts = [u for u in units(world.model, "0", blocks=2, map_size=(8, 8)) if u.index == 1]
    assert near(world.cut(edges(parts, readers)), world.cut(edges([Unit("0", 1)], readers)))


@laws
@given(seeds)
def test_an_edge_patch_is_a_forward_written_anew(seed):
    """By hand: the second layer on the edited and the unedited input, rows chosen between."""
    world = World(seed & ~1)  # the linear layers
    (source, *_), readers = world.some("0"), world.some("2")
    net = world.model
    with torch.no_grad():
        hidden = net[0](world.x)
        edited = hidden.clone()
        edited[:, source.index] = world.other["0"][:, source.index]
        mixed = net[2](hidden.relu())
        places = [u.index for u in readers]
        mixed[:, places] = net[2](edited.relu())[:, places]
        by_hand = net[4](mixed.tanh())
    assert near(world.cut(edges([source], readers)), by_hand)
