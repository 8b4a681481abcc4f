"""Alignment maps: numbers worked out by hand, the acceptance checks, and what bad input says."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from interp.alignment.couplings import Coupling
from interp.alignment.exactness import inverse_error, noop_error
from interp.alignment.families import FAMILIES, build
from interp.alignment.fitting import Budget, fit, fixed, fresh, score
from interp.alignment.fixed import (
    DifferenceOfMeans,
    FixedSubspace,
    Pca,
    RandomSubspace,
    SquareRotation,
    UserMap,
)
from interp.alignment.greedy import Greedy, greedy
from interp.alignment.maps import (
    AlignmentMap,
    Columns,
    Identity,
    Rotation,
    consecutive_blocks,
    random_columns,
)
from interp.alignment.masks import Boundless, Mask
from interp.alignment.subjects import Cut, LayerSubject
from interp.bases import random_basis
from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Pairs, Table
from interp.errors import InputError

NAMES = ("left", "right")
EVERY = (
    *(name for name in FAMILIES if "LxH" not in name),
    "revnet-10x16",
    "coupling-10x16",
)
LEARNED = [name for name in EVERY if name not in ("identity", "pca", "difference", "random")]
ACTIVE = torch.tensor([[True, False]])
XOR = CausalModel(
    "exclusive or",
    ("a", "b"),
    (
        Variable("left", ("a",), lambda a: a > 0),
        Variable("right", ("b",), lambda b: b > 0),
        Variable("out", ("left", "right"), lambda left, right: (left != right).long()),
    ),
    "out",
)
D = 8


class XorOfTwo(nn.Module):
    """Answers from the signs of two directions: the planted subject's layers after the site."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, states: Tensor) -> Tensor:
        signs = torch.tanh(4 * states @ self.rows.T)
        product = signs.prod(1)
        return 6 * torch.stack([product, -product], dim=1)


def planted(basis: Tensor) -> LayerSubject:
    """Input coordinates 0 and 1 stand along the first two rows of an orthonormal basis."""
    into = nn.Linear(len(basis), len(basis), bias=False)
    into.weight = nn.Parameter(basis.T.clone())
    return LayerSubject(nn.Sequential(into, XorOfTwo(basis[:2].clone())), "0")


def table(n: int, seed: int) -> Table:
    """Inputs whose first two coordinates vary most and keep away from 0."""
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = 3 * x[:, 0].sign() * (x[:, 0].abs() + 0.3)
    x[:, 1] = 2 * x[:, 1].sign() * (x[:, 1].abs() + 0.3)
    return Table(XOR, NAMES, x, XOR.run({"a": x[:, 0], "b": x[:, 1]}), recipe)


def recipe(of: Table, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    kind = torch.randint(0, 3, (n,), generator=stream)
    base = torch.randint(0, len(of), (n,), generator=stream)
    sources = torch.randint(0, len(of), (n, 2), generator=stream)
    return base, sources, torch.stack([kind != 1, kind != 0], dim=1)


TRAIN, VALIDATION, TEST = (table(n, seed) for n, seed in ((3000, 1), (1500, 2), (1500, 3)))
NEURONS = torch.eye(D)[[4, 1, 0, 2, 3, 5, 6, 7]]
TURNED = random_basis(D, D, 0)


def made(family: str, states: Tensor, size: int = 1) -> AlignmentMap:
    size = 1 if family == "difference" else size
    return build(family, D, NAMES, size, seed=3, states=states, values=TRAIN.values)


def fitted(family: str, basis: Tensor, *, steps: int, rate: float = 2e-2) -> AlignmentMap:
    subject = planted(basis)
    train, held_out = subject.cut(TRAIN.inputs), subject.cut(VALIDATION.inputs)
    if family == "boundless":
        start, steps, rate = Boundless(D, NAMES, hot=0.5, price=0.1), 300, 5e-3
    budget = Budget(steps=steps, batch=64, learning_rate=rate, check_every=50, patience=99)
    start = made(family, train.states)
    pairs = (held_out, VALIDATION.pairs(400, 5))
    return fit(train, start, fresh(TRAIN.pairs, 64, 0), budget, validation=pairs).map


def hand_coupling(kind: str = "paper", n_blocks: int = 1) -> Coupling:
    """Two coordinates, F(x) = 2 relu(x + 1) + 0.5, G(x) = -relu(3 x) in every block."""
    phi = Coupling(2, {"x": [0]}, n_blocks=n_blocks, width=1, kind=kind)
    with torch.no_grad():
        for weight, (f, g) in (
            (phi.into, (1.0, 3.0)),
            (phi.into_bias, (1.0, 0.0)),
            (phi.out, (2.0, -1.0)),
            (phi.out_bias, (0.5, 0.0)),
        ):
            weight[:, 0], weight[:, 1] = f, g
    return phi


# --- the interface ---------------------------------------------------------------------------


def test_a_swap_overwrites_the_block_and_nothing_else() -> None:
    base, sources = torch.zeros(3, 3), torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]).repeat(3, 1, 1)
    active = torch.tensor([[True, False], [False, True], [True, True]])
    wanted = [[1.0, 0, 0], [0, 0, 6], [1, 0, 6]]
    blocks = {"left": [0], "right": [2]}
    assert Identity(3, blocks).swap(base, sources, active).tolist() == wanted
    plain = AlignmentMap.swap(Identity(3, blocks), base, sources, active)
    assert plain.tolist() == wanted


def test_only_active_sources_are_mapped() -> None:
    seen: list[int] = []

    class Counting(Identity):
        def forward(self, states: Tensor) -> Tensor:
            seen.append(len(states))
            return states

    phi = Counting(4, consecutive_blocks(NAMES, 2))
    active = torch.tensor([[True, False], [False, False], [True, True]])
    AlignmentMap.swap(phi, torch.zeros(3, 4), torch.ones(3, 2, 4), active)
    assert seen == [3 + 3]


# --- couplings -------------------------------------------------------------------------------


def test_one_coupling_block_by_hand() -> None:
    phi = hand_coupling()
    states = torch.tensor([[1.0, 2.0], [-9.0, -3.0]])
    # y1 = 1 + 2 (2 + 1) + .5 = 7.5, y2 = 2 - 22.5; and y1 = -9 + 0 + .5, y2 = -3 - 0
    assert phi(states).tolist() == [[7.5, -20.5], [-8.5, -3.0]]
    assert phi.inverse(phi(states)).tolist() == states.tolist()
    source = torch.tensor([[[0.0, 0.0]]])  # y1 = 2.5
    h = phi.swap(states[:1], source, torch.tensor([[True]]))
    # z = (2.5, -20.5): x2 = -20.5 + 7.5 = -13, x1 = 2.5 - .5 - 0
    assert h.tolist() == [[2.0, -13.0]]


def test_safe_blocks_permute_and_undo() -> None:
    phi = hand_coupling("safe")
    states = torch.tensor([[1.0, 2.0]])
    swapped = phi.orders[0].tolist() == [1, 0]
    # halves exchanged: y2 = 2 + 2 (1 + 1) + .5 = 6.5, y1 = 1 - 3 * 6.5
    assert phi(states).tolist() == ([[-18.5, 6.5]] if swapped else [[7.5, -20.5]])
    seeds = [Coupling(2, {"x": [0]}, n_blocks=8, width=1, kind="safe", seed=s) for s in range(2)]
    assert {tuple(order.tolist()) for phi in seeds for order in phi.orders} == {(0, 1), (1, 0)}


def test_check_4_parameter_counts_and_the_safe_start() -> None:
    sizes = [(16, 10, 16), (16, 10, 128), (24, 10, 24), (1024, 1, 64)]
    for (d, n_blocks, width), wanted in zip(sizes, (5_600, 43_680, 12_240, 132_224), strict=True):
        for word in ("revnet", "coupling"):
            phi = build(f"{word}-{n_blocks}x{width}", d, NAMES, d // 2)
            assert phi.n_parameters == wanted
            assert phi.family == f"{word}-{n_blocks}x{width}"
    for cap in (None, 0.5):
        phi = Coupling(
            16, consecutive_blocks(NAMES, 8), n_blocks=10, width=16, kind="safe", seed=5, cap=cap
        )
        states = torch.randn(50, 16)
        assert torch.equal(phi(states), states)
        assert torch.equal(phi.inverse(states), states)
    paper = build("revnet-10x16", 16, NAMES, 8)
    assert not torch.allclose(paper(states), states, atol=0.1)


def test_the_paper_form_starts_as_linear_layers_do() -> None:
    phi = Coupling(16, consecutive_blocks(NAMES, 8), n_blocks=50, width=32)
    for weight, fan_in in (
        (phi.into, 8),
        (phi.into_bias, 8),
        (phi.out, 32),
        (phi.out_bias, 32),
    ):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.95 * bound
        assert weight.detach().std().item() == pytest.approx(
            bound / math.sqrt(3), rel=0.1
        )  # of a uniform draw
    assert phi.orders.tolist() == [list(range(16))] * 50


def test_a_cap_bounds_how_far_a_half_stretches() -> None:
    blocks = consecutive_blocks(NAMES, 4)
    free, tight = (Coupling(8, blocks, n_blocks=1, width=64, cap=cap) for cap in (None, 0.25))
    for phi in (free, tight):
        with torch.no_grad():
            for weight in phi.parameters():
                weight *= 5
    x = torch.randn(4000, 8)
    y = x.clone()
    y[:, 4:] += 0.1 * torch.randn(4000, 4)  # only what F reads

    @torch.no_grad()
    def stretch(phi: Coupling) -> float:
        """Largest change of F over the change of its input."""
        change = (phi(x) - phi(y))[:, :4].norm(dim=1)
        return float((change / (x - y).norm(dim=1)).max())

    assert stretch(tight) <= 0.25
    assert stretch(free) > 2
    assert inverse_error(tight, x).run < inverse_error(free, x).run


# --- rotations -------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "k"), [(16, 16), (16, 8), (24, 1), (6, 5)])
def test_a_rotation_starts_where_it_was_told(d: int, k: int) -> None:
    phi = Rotation(d, {"x": range(k)}, seed=4)
    wanted = random_columns(d, k, 4)
    assert (phi.basis() - wanted).abs().max() < 1e-6  # float32
    double = copy.deepcopy(phi).double()
    gram = double.basis().T @ double.basis()
    assert (gram - torch.eye(k, dtype=gram.dtype)).abs().max() < 1e-14
    assert torch.equal(copy.deepcopy(phi).basis(), phi.basis())
    other = Rotation(d, {"x": range(k)}, seed=9)
    assert (other.basis() - phi.basis()).abs().max() > 0.1
    other.load_state_dict(phi.state_dict())
    assert torch.equal(other.basis(), phi.basis())
    with torch.no_grad():
        for weight in double.parameters():
            weight += torch.randn(weight.shape, dtype=weight.dtype).tril(-1)
    gram = double.basis().T @ double.basis()  # orthonormal after any update, too
    assert (gram - torch.eye(k, dtype=gram.dtype)).abs().max() < 1e-13


def test_building_a_map_leaves_torchs_random_state_alone() -> None:
    states = torch.randn(50, D)
    before = torch.get_rng_state()
    first = [made(family, TRAIN.inputs) for family in EVERY]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = [made(family, TRAIN.inputs) for family in EVERY]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a(states), b(states))
        assert all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


def test_degrees_of_freedom_are_counted_and_outlast_fitting() -> None:
    assert SquareRotation(16, {"x": [0]}).n_parameters == 120
    assert Rotation(24, {"x": range(24)}).n_parameters == 276
    assert Rotation(1024, {"x": [0]}).n_parameters == 1023
    assert RandomSubspace(16, {"x": range(4)}).n_parameters == 0
    assert Mask(16, NAMES, basis=torch.eye(16)[:5]).n_parameters == 10
    assert Boundless(16, NAMES).n_parameters == 122
    phi = Rotation(16, {"x": range(16)}).requires_grad_(False)
    assert phi.n_parameters == 120


def test_the_square_form_swaps_as_the_low_rank_form_does() -> None:
    start = random_columns(D, D, 3)
    low = Rotation(D, {"left": (0, 1), "right": (2,)}, start=start[:, :3]).double()
    square = SquareRotation(D, {"left": (0, 1), "right": (2,)}, seed=3).double()
    base, sources = torch.randn(9, D).double(), torch.randn(9, 2, D).double()
    active = torch.randint(0, 2, (9, 2)) > 0
    gap = low.swap(base, sources, active) - square.swap(base, sources, active)
    assert gap.abs().max() < 1e-6  # the starts were stored in float32
    assert square.subspace("right").shape == low.subspace("right").shape == (1, D)


# --- masks and boundaries --------------------------------------------------------------------


def test_a_mask_by_hand() -> None:
    phi = Mask(3, ["x"], sparsity=0.1)
    with torch.no_grad():
        phi.wants[:] = torch.tensor([[math.log(3), -math.log(3), 0.0]])
    assert phi.shares().tolist() == [pytest.approx([0.75, 0.25, 0.5])]
    assert phi.penalty().item() == pytest.approx(0.15)
    assert phi.blocks == {"x": (0,)}
    base, source = torch.zeros(1, 3), torch.full((1, 1, 3), 4.0)
    active = torch.tensor([[True]])
    assert phi.train().swap(base, source, active).tolist() == [pytest.approx([3.0, 1.0, 2.0])]
    assert phi.eval().swap(base, source, active).tolist() == [[4.0, 0.0, 0.0]]
    phi.evaluation = "soft"
    assert phi.swap(base, source, active).tolist() == [pytest.approx([3.0, 1.0, 2.0])]
    phi.anneal(0.5)
    assert phi.temperature.item() == pytest.approx(0.1)
    assert phi.shares()[0, 0].item() == pytest.approx(1 / (1 + 3.0**-10))
    phi.anneal(1.0)
    assert phi.temperature.item() == pytest.approx(0.01)


def test_two_masks_compete() -> None:
    phi = Mask(2, NAMES)
    assert phi.shares().tolist() == [pytest.approx([1 / 3, 1 / 3])] * 2
    assert phi.blocks == {"left": (), "right": ()}
    with torch.no_grad():
        phi.wants[:] = torch.tensor([[2.0, -1.0], [1.0, 3.0]])
    assert phi.blocks == {"left": (0,), "right": (1,)}
    assert (phi.shares().sum(0) < 1).all()


def test_a_mask_over_directions_moves_along_them_alone() -> None:
    half = math.sqrt(0.5)
    phi = Mask(2, ["x"], basis=torch.tensor([[half, half]]))
    with torch.no_grad():
        phi.wants[:] = 1.0
    moved = phi.swap(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0]]]), torch.tensor([[True]]))
    assert moved.tolist() == [pytest.approx([2.0, 2.0])]


def test_a_boundary_by_hand() -> None:
    phi = Boundless(4, ["x"], hot=2.0, price=0.5)
    phi.temperature.fill_(1.0)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    wanted = [sigmoid(i) * sigmoid(2 - i) for i in range(4)]
    assert phi.shares().tolist() == [pytest.approx(wanted)]
    assert phi.blocks == {"x": (0, 1)}
    assert phi.penalty().item() == pytest.approx(0.25)
    phi.anneal(0.0)
    assert phi.temperature.item() == 2.0
    phi.anneal(0.5)
    assert phi.temperature.item() == pytest.approx(1.05)
    with torch.no_grad():
        phi.widths.fill_(0.075)
    assert phi.beta().tolist() == pytest.approx([0.75])  # stored divided by 10
    assert phi.blocks == {"x": (0, 1, 2)}
    with torch.no_grad():
        phi.widths.fill_(-1.0)
    assert phi.beta().tolist() == pytest.approx([1e-3])
    assert phi.blocks == {"x": (0,)}


def test_two_boundaries_share_the_space() -> None:
    phi = Boundless(4, NAMES)
    assert phi.blocks == {"left": (0, 1), "right": (2, 3)}
    assert (phi.shares().sum(0) <= 1).all()
    with torch.no_grad():
        phi.widths[:] = torch.tensor([0.09, 0.09])  # 0.9 and 0.9 of the space: the rest of it
    assert phi.blocks == {"left": (0, 1, 2, 3), "right": ()}
    assert [Boundless(d, ["x"]).hot for d in (8, 256)] == [2.0, 50.0]


def test_hard_and_soft_boundaries_agree_when_it_is_cold() -> None:
    hard, soft = (Boundless(6, ["x"], seed=1, evaluation=e) for e in ("hard", "soft"))
    with torch.no_grad():
        for phi in (hard, soft):
            phi.widths.fill_(0.05 - 1e-3)  # the boundary between two coordinates
    soft.temperature.fill_(1e-4)
    shares, has = soft.shares()[0], hard.hard()[0].float()
    assert torch.equal(shares[1:], has[1:])
    assert shares[0] == 0.5  # coordinate 0 stands on the boundary
    base, sources, on = torch.randn(4, 6), torch.randn(4, 1, 6), torch.ones(4, 1) > 0
    assert (hard.swap(base, sources, on) - soft.swap(base, sources, on)).abs().max() > 1e-2


# --- maps that are found ---------------------------------------------------------------------


def test_pca_takes_the_leading_direction_first() -> None:
    states = torch.tensor([[3.0, 4, 0, 7], [-3, -4, 0, 7], [0, 0, 1, 7], [0, 0, -1, 7]])
    phi = Pca(4, {"x": [0], "y": [1]}, states)
    assert phi.subspace("x").tolist() == [pytest.approx([0.6, 0.8, 0, 0], abs=1e-6)]
    assert phi.subspace("y").tolist() == [pytest.approx([0, 0, 1, 0], abs=1e-6)]
    whole = Pca(4, {"x": range(4)}, states)  # coordinate 3 never varies
    assert (whole.basis().T @ whole.basis() - torch.eye(4)).abs().max() < 1e-6


def test_a_difference_of_means_by_hand() -> None:
    states = torch.tensor([[0.0, 0, 5], [3, 4, 5], [0, 0, 1], [3, 4, 1]])
    values = {"x": torch.tensor([0, 1, 0, 1]), "y": torch.tensor([True, True, False, False])}
    phi = DifferenceOfMeans(3, states, values)
    assert phi.subspace("x").tolist() == [pytest.approx([0.6, 0.8, 0], abs=1e-6)]
    assert phi.subspace("y").tolist() == [pytest.approx([0, 0, 1], abs=1e-6)]
    base, sources = torch.zeros(1, 3), torch.tensor([[[6.0, 8, 9], [0, 0, 2]]])
    assert phi.swap(base, sources, ACTIVE).tolist() == [pytest.approx([6, 8, 0], abs=1e-5)]


def test_random_subspaces_have_a_seed() -> None:
    a, b, c = (RandomSubspace(D, {"x": range(3)}, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.basis(), b.basis())
    assert (a.basis() - c.basis()).abs().max() > 0.1
    assert not any(weight.requires_grad for weight in a.parameters())


class Scaling(nn.Module):
    """Doubles states; its inverse is right or wrong."""

    def __init__(self, back: float) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def inverse(self, x: Tensor) -> Tensor:
        return self.back * x


def test_a_map_of_ones_own_is_measured() -> None:
    states = torch.randn(20, 4)
    good, bad = (UserMap(Scaling(back), 4, {"x": [0]}) for back in (0.5, 0.6))
    assert inverse_error(good, states).run == inverse_error(good, states).double == 0
    assert inverse_error(good, states).holds
    assert not inverse_error(bad, states).holds
    swap = good.swap(torch.zeros(1, 4), torch.ones(1, 1, 4), torch.tensor([[True]]))
    assert swap.tolist() == [[1.0, 0, 0, 0]]


def test_an_inverse_that_is_no_number_never_holds() -> None:
    error = inverse_error(UserMap(Scaling(math.nan), 4, {"x": [0]}), torch.ones(2, 4))
    assert math.isnan(error.run)
    assert not error.holds


# --- greedy search ---------------------------------------------------------------------------


def test_greedy_finds_the_planted_neurons_on_validation_and_scores_on_test() -> None:
    subject = planted(NEURONS)
    found = greedy(subject.cut(VALIDATION.inputs), VALIDATION.pairs(500, 5), 2)
    assert {name: chosen[0] for name, chosen in found.neurons.items()} == {"left": 4, "right": 1}
    assert found.at(1).blocks == {"left": (4,), "right": (1,)}
    assert found.map.blocks == found.neurons
    test = TEST.pairs(1000, 7)
    assert score(subject.cut(TEST.inputs), found.at(1), test).iia == 1.0
    blind = score(subject.cut(TEST.inputs), Identity(D, {"left": [0], "right": [2]}), test)
    assert blind.iia < 0.7


def test_greedy_is_what_trying_every_pair_of_neurons_gives() -> None:
    cut, pairs = planted(TURNED).cut(VALIDATION.inputs), VALIDATION.pairs(200, 5)
    found = greedy(cut, pairs, 2)
    mine: dict[str, tuple[int, ...]] = {"left": (), "right": ()}
    for losses in found.losses:
        left = [i for i in range(D) if i not in mine["left"] + mine["right"]]
        tried = {
            (i, j): float(
                score(
                    cut,
                    Identity(D, {"left": (*mine["left"], i), "right": (*mine["right"], j)}),
                    pairs,
                )
                .loss.double()
                .mean()
            )
            for i in left
            for j in left
            if i != j
        }
        best = min(tried, key=tried.__getitem__)
        assert losses == pytest.approx(tried[best], rel=1e-6)
        mine = {"left": (*mine["left"], best[0]), "right": (*mine["right"], best[1])}
    assert found.neurons == mine
    in_chunks = greedy(cut, pairs, 2, rows=700)
    assert in_chunks.neurons == found.neurons
    assert in_chunks.losses == pytest.approx(found.losses, rel=1e-6)


# --- planted subjects and the acceptance checks ----------------------------------------------


@pytest.mark.parametrize(
    ("family", "basis"),
    [
        ("mask", NEURONS),
        ("mask-pca", TURNED),
        ("pca", TURNED),
        ("difference", TURNED),
        ("orthogonal", TURNED),
        ("square", TURNED),
        ("boundless", TURNED),
        ("revnet-2x16", TURNED),
        ("coupling-2x16", TURNED),
    ],
)
def test_each_family_finds_what_is_planted(family: str, basis: Tensor) -> None:
    cut, pairs = planted(basis).cut(TEST.inputs), TEST.pairs(1000, 7)
    start = score(cut, build("identity", D, NAMES, 1), pairs).iia
    assert start < 0.75
    assert score(cut, fitted(family, basis, steps=200), pairs).iia >= 0.97


def tripled(phi: AlignmentMap) -> AlignmentMap:
    phi = copy.deepcopy(phi)
    with torch.no_grad():
        for weight in phi.parameters():
            weight *= 3
    return phi


def net_of_16(dtype: torch.dtype) -> tuple[Cut, Pairs]:
    """A random network 16 wide with pairs of its inputs."""
    stream = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
    inputs = torch.rand(300, 16, generator=stream, dtype=dtype) - 0.5
    base = torch.arange(300)
    sources = torch.randint(0, 300, (300, 2), generator=stream)
    active = torch.randint(0, 2, (300, 2), generator=stream) > 0
    labels = torch.randint(0, 2, (300,), generator=stream)
    return LayerSubject(net.to(dtype), "1").cut(inputs), Pairs(
        NAMES, base, sources, active, labels, labels
    )


def both_ends(family: str, dtype: torch.dtype) -> Iterator[tuple[Cut, Pairs, AlignmentMap]]:
    """A map of a family before and after fitting, at a site 16 wide."""
    cut, pairs = net_of_16(dtype)
    values = {name: torch.arange(300) % (i + 2) == 0 for i, name in enumerate(NAMES)}
    size = 1 if family == "difference" else 4
    phi = build(family, 16, NAMES, size, states=cut.states, values=values).to(dtype)
    yield cut, pairs, phi
    budget = Budget(steps=20, batch=100, check_every=20, learning_rate=1e-2)
    yield cut, pairs, fit(cut, phi, fixed(pairs, 100, 0), budget, validation=(cut, pairs)).map


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", EVERY)
def test_check_1_no_op(family: str, dtype: torch.dtype) -> None:
    for cut, pairs, phi in both_ends(family, dtype):
        done = noop_error(cut, phi, pairs, chunk=70)
        exact = family not in ("square", "revnet-10x16", "coupling-10x16")
        assert done.limit == (0 if exact else {torch.float32: 1e-3, torch.float64: 1e-10}[dtype])
        assert done.holds
        assert done.logit == 0 or not exact
        assert done.flipped == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", EVERY)
def test_check_2_inverse(family: str, dtype: torch.dtype) -> None:
    for cut, _, phi in both_ends(family, dtype):
        error = inverse_error(phi, cut.states)
        assert error.holds
        assert error.double <= 1e-10
        assert error.run <= {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]


@pytest.mark.parametrize("seed", range(3))
def test_check_2_fails_on_a_map_whose_weights_are_tripled(seed: int) -> None:
    cut, pairs = net_of_16(torch.float32)
    phi = build("revnet-10x16", 16, NAMES, 8, seed=seed)
    wild = tripled(phi)
    assert inverse_error(phi, cut.states).holds
    error = inverse_error(wild, cut.states)
    assert not error.holds
    assert error.run > 1e-2
    assert error.double > 1e-10
    assert not noop_error(cut, wild, pairs).holds


def test_check_2_fails_in_float64_alone_where_float32_is_not_run() -> None:
    cut, _ = net_of_16(torch.float64)
    assert not inverse_error(tripled(build("revnet-10x16", 16, NAMES, 8)), cut.states).holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "family",
    ["identity", "pca", "random", "orthogonal", "square", "revnet-10x16", "coupling-10x16"],
)
def test_check_3_swapping_everything_gives_the_source(family: str, dtype: torch.dtype) -> None:
    cut, pairs = net_of_16(dtype)
    phi = build(family, 16, ["left"], 16, seed=1, states=cut.states).to(dtype)
    if family == "coupling-10x16":  # not the identity any more
        with torch.no_grad():
            for weight in phi.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=torch.manual_seed(0))
    rows = pairs.sources[:, :1]
    moved = phi.swap(cut.states, cut.states[rows], torch.ones(300, 1) > 0)
    wanted = cut.states[rows[:, 0]]
    limit = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert (moved - wanted).abs().max() <= (0 if family == "identity" else limit)
    logits, own = cut.finish(moved, pairs.base), cut.finish(wanted, pairs.base)
    assert (logits - own).abs().max() <= (0 if family == "identity" else limit)
    assert (cut.states - wanted).abs().max() > 0.1


def test_check_3_for_maps_that_choose_their_coordinates() -> None:
    states, sources = torch.randn(20, D), torch.randn(20, 1, D)
    basis = random_basis(D, D, 2)
    for phi in (Mask(D, ["x"]), Mask(D, ["x"], basis=basis), Boundless(D, ["x"])):
        with torch.no_grad():
            for name, weight in phi.named_parameters():
                if name in ("wants", "widths"):
                    weight.fill_(1.0)
        assert phi.blocks == {"x": tuple(range(D))}
        moved = phi.swap(states, sources, torch.ones(20, 1) > 0)
        assert (moved - sources[:, 0]).abs().max() < 1e-5


# --- bad input -------------------------------------------------------------------------------


def says(make: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        make()


def test_what_bad_couplings_say() -> None:
    says(
        lambda: Coupling(5, {"x": [0]}, n_blocks=1, width=1),
        "A coupling map splits the coordinates into halves and the site is 5 wide: choose a site "
        "of even width, or an orthogonal map.",
    )
    says(
        lambda: Coupling(4, {"x": [0]}, n_blocks=0, width=1),
        "A coupling map of 0 blocks with 1 hidden units: give at least one of each.",
    )
    says(
        lambda: Coupling(4, {"x": [0]}, n_blocks=10**5, width=10**5),
        "A coupling map of 100000 blocks with 100000 hidden units at a site 4 wide has "
        "100,000,400,000 weights, and at most 1,000,000,000 are fitted: give fewer.",
    )
    says(
        lambda: Coupling(4, {"x": [0]}, n_blocks=1, width=1, cap=-1.0),
        "cap=-1.0: give a number above 0, or None for no limit.",
    )


def test_what_bad_masks_say() -> None:
    says(
        lambda: Mask(4, ["x", "x"]),
        "Variables ['x', 'x'] at a site 4 wide: name 1 to 4, each once.",
    )
    says(
        lambda: Mask(4, ["x"], basis=torch.eye(3)),
        "The basis has directions of 3 numbers and the site is 4 wide: give rows of 4.",
    )
    says(
        lambda: Mask(4, ["x"], sparsity=-1.0),
        "sparsity=-1.0: give a price of at least 0 nats a feature.",
    )
    says(
        lambda: Mask(2, ["x"], basis=torch.tensor([[1.0, 1.0]])),
        "The columns of the starting basis miss orthonormality by 1.0e+00: pass them through "
        "bases.orthonormal.",
    )
    says(
        lambda: Boundless(4, ["x"], hot=0.01),
        "hot=0.01: the first temperature is at least 0.1.",
    )


def test_what_bad_subspaces_say() -> None:
    says(
        lambda: DifferenceOfMeans(2, torch.randn(3, 2), {"x": torch.tensor([0, 1, 2])}),
        "'x' takes 3 values on these inputs: a difference of means needs a variable of two; use "
        "'pca' or a fitted map.",
    )
    says(
        lambda: Pca(2, {"x": [0]}, torch.full((3, 2), math.nan)),
        "Principal directions of 3 states: give at least two, all finite.",
    )
    says(
        lambda: FixedSubspace(3, {"x": [0, 1]}, torch.eye(3)[:, :1]),
        "The starting basis is [3, 1] and the blocks count 2 columns of 3 rows: give [3, 2].",
    )
    assert isinstance(Columns(torch.eye(3)).weight, Tensor)


def test_what_a_map_without_an_inverse_says() -> None:
    says(
        lambda: UserMap(nn.Linear(4, 4), 4, {"x": [0]}),
        "Linear has no method `inverse`, so what is swapped in its coordinates could not be mapped "
        "back to states: give a module with forward and inverse.",
    )

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2]

        def inverse(self, z: Tensor) -> Tensor:
            return z

    says(
        lambda: UserMap(Narrow(), 4, {"x": [0]}),
        "Narrow.forward returned [2, 2] for [2, 4]: a map keeps the width of the site.",
    )


def test_what_a_bad_search_says() -> None:
    cut, pairs = planted(NEURONS).cut(VALIDATION.inputs), VALIDATION.pairs(10, 5)
    says(
        lambda: greedy(cut, pairs, 5),
        "5 neurons for each of 2 variables at a site 8 wide: give 1 to 4.",
    )
    wide = Cut("wide", torch.zeros(1500, 576), lambda states, rows: states)
    says(
        lambda: greedy(wide, pairs, 1),
        "2 variables at a site 576 wide make 331,200 combinations of neurons a round, above "
        "100,000: search one variable at a time, or fit a mask.",
    )
    says(
        lambda: Greedy(8, {"x": (1,)}, (0.5,)).at(2),
        "Size 2 of a search of 1 rounds: give 1 to 1.",
    )


def test_what_a_bad_family_says() -> None:
    with pytest.raises(InputError, match=r"^No family of maps 'orthogona'; .* Did you mean 'orth"):
        build("orthogona", 4, NAMES, 1)
    with pytest.raises(InputError, match="such as revnet-10x16"):
        build("revnet-LxH", 4, NAMES, 1)
    says(
        lambda: build("pca", 4, NAMES, 1),
        "'pca' is found from states: give those of the training inputs.",
    )
    says(
        lambda: build("orthogonal", 4, NAMES, 3),
        "2 variables of size 3 at a site 4 wide: sizes go from 1, and together they take at most 4 "
        "coordinates.",
    )
    says(
        lambda: build("difference", 4, NAMES, 1, states=torch.zeros(3, 4)),
        "A difference of means needs the values of 'left' on the states' inputs: pass those of the "
        "table.",
    )
    says(
        lambda: build(
            "difference",
            4,
            NAMES,
            2,
            states=torch.zeros(3, 4),
            values=dict.fromkeys(NAMES, torch.zeros(3)),
        ),
        "A difference of means is one direction for each variable, not 2: give size 1.",
    )
    says(
        lambda: build("pca", 4, NAMES, 1, states=torch.zeros(3, 5)),
        "The states are 5 wide and the map 4: give the site's.",
    )


def test_what_half_precision_says() -> None:
    says(
        lambda: inverse_error(Identity(2, {"x": [0]}), torch.zeros(1, 2, dtype=torch.bfloat16)),
        "The states are bfloat16: an alignment map runs in float32 or float64, because its inverse "
        "loses the answer in less; convert the states.",
    )
