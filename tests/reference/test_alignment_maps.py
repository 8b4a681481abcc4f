"""Alignment maps beside formulas in plain torch, inside a model of plain Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import interp
from interp.alignment.couplings import Coupling
from interp.alignment.exactness import noop_error
from interp.alignment.families import build
from interp.alignment.fitting import swapped
from interp.alignment.fixed import principal
from interp.alignment.maps import Rotation, _reflected
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs

NAMES = ("left", "right")
N, LAYER = 8, 1


@dataclass(frozen=True)
class PlainModel:
    """A Hugging Face model with a hook of our own at a block's output, last token."""

    hf: nn.Module
    tokens: Tensor

    @torch.no_grad()
    def states(self) -> Tensor:
        out = self.hf(self.tokens, output_hidden_states=True)
        return out.hidden_states[LAYER + 1][:, -1]

    @torch.no_grad()
    def logits(self, changed: Tensor | None, rows: Tensor) -> Tensor:
        def put(module: nn.Module, args: object, out: Tensor) -> Tensor:
            new = out.clone()
            new[:, -1] = out[:, -1] if changed is None else changed
            return new

        handle = self.hf.model.layers[LAYER].register_forward_hook(put)
        try:
            return self.hf(self.tokens[rows]).logits[:, -1]
        finally:
            handle.remove()


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def plain(request: pytest.FixtureRequest) -> PlainModel:
    hf = interp.load("tiny-llama").hf.to(request.param)
    tokens = torch.randint(3, 50, (N, 5), generator=torch.Generator().manual_seed(0))
    assert hf.config.num_hidden_layers > LAYER + 1
    return PlainModel(hf, tokens)


@pytest.fixture(scope="module")
def cut(plain: PlainModel) -> Cut:
    return Cut(f"{LAYER}.resid_post", plain.states(), plain.logits)


def pairs(seed: int) -> Pairs:
    stream = torch.Generator().manual_seed(seed)
    sources = torch.randint(0, N, (N, 2), generator=stream)
    active = torch.tensor([[True, False], [False, True], [True, True], [False, False]]).repeat(2, 1)
    labels = torch.zeros(N, dtype=torch.long)
    return Pairs(NAMES, torch.arange(N), sources, active, labels, labels)


def by_hand(family: str, phi: nn.Module, states: Tensor, of: Pairs, size: int) -> Tensor:
    """Rotate (or couple), overwrite one row and one block after another, and go back."""
    there, back = transforms(family, phi, states)
    rows = []
    for i in range(len(of)):
        z = there(states[of.base[i]]).clone()
        for v in range(2):
            if of.active[i, v]:
                z[v * size : (v + 1) * size] = there(states[of.sources[i, v]])[
                    v * size : (v + 1) * size
                ]
        rows.append(back(z))
    return torch.stack(rows)


def transforms(family: str, phi: nn.Module, states: Tensor) -> tuple:
    """The map and its inverse for one state, from the formulas."""
    if family == "identity":
        return lambda h: h, lambda z: z
    if isinstance(phi, Coupling):
        return coupling_by_hand(phi)
    d = states.shape[1]
    if family == "pca":
        whole = principal(states)
    else:
        columns = phi.turn.weight.detach().double()
        rest = torch.linalg.svd(columns, full_matrices=True)[0][:, columns.shape[1] :]
        whole = torch.cat([columns, rest], dim=1)
    assert (whole.T @ whole - torch.eye(d).double()).abs().max() < 1e-5
    whole = whole.to(states.dtype)
    return lambda h: h @ whole, lambda z: whole @ z


def coupling_by_hand(phi: Coupling) -> tuple:
    """Plain linear layers, one state at a time; permutations as matrices."""
    half = phi.d // 2

    def layers(i: int, j: int) -> nn.Sequential:
        f = nn.Sequential(nn.Linear(half, phi.width), nn.ReLU(), nn.Linear(phi.width, half))
        f = f.to(phi.dtype)
        with torch.no_grad():
            f[0].weight[:], f[0].bias[:] = phi.into[i, j].T, phi.into_bias[i, j, 0]
            f[2].weight[:], f[2].bias[:] = phi.out[i, j].T, phi.out_bias[i, j, 0]
        return f

    blocks = [(layers(i, 0), layers(i, 1)) for i in range(phi.n_blocks)]
    turns = [torch.eye(phi.d, dtype=phi.dtype)[order] for order in phi.orders]

    @torch.no_grad()
    def there(h: Tensor) -> Tensor:
        for (f, g), turn in zip(blocks, turns, strict=True):
            x1, x2 = (turn @ h).split(half)
            y1 = x1 + f(x2)
            y2 = x2 + g(y1)
            h = turn.T @ torch.cat([y1, y2])
        return h

    @torch.no_grad()
    def back(z: Tensor) -> Tensor:
        for (f, g), turn in reversed(list(zip(blocks, turns, strict=True))):
            y1, y2 = (turn @ z).split(half)
            x2 = y2 - g(y1)
            x1 = y1 - f(x2)
            z = turn.T @ torch.cat([x1, x2])
        return z

    return there, back


FAMILIES = ("identity", "pca", "orthogonal", "square", "revnet-3x8", "coupling-3x8")


@pytest.mark.parametrize("family", FAMILIES)
def test_swaps_are_what_plain_formulas_give_in_a_plain_model(
    family: str, plain: PlainModel, cut: Cut
) -> None:
    phi = build(family, cut.d, NAMES, 3, seed=2, states=cut.states).to(cut.states.dtype)
    if family == "coupling-3x8":  # away from the identity
        with torch.no_grad():
            phi.out += 0.3 * torch.randn(phi.out.shape, generator=torch.manual_seed(1))
    with torch.no_grad():
        ours = swapped(cut, phi, pairs(0))
        wanted = plain.logits(by_hand(family, phi, cut.states, pairs(0), 3), pairs(0).base)
    clean = plain.logits(None, pairs(0).base)
    # PCA and the float64 square of a float32 start are stored as float32 reflections: 1e-6
    tolerance = 1e-5 if family == "pca" or cut.states.dtype == torch.float32 else 1e-11
    assert (ours - wanted).abs().max() < tolerance
    assert (ours - clean).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_check_1_in_a_plain_model(family: str, plain: PlainModel, cut: Cut) -> None:
    phi = build(family, cut.d, NAMES, 3, seed=2, states=cut.states).to(cut.states.dtype)
    done = noop_error(cut, phi, pairs(1))
    assert done.holds
    if phi.exact:
        with torch.no_grad():
            own = pairs(1).base[:, None].repeat(1, 2)
            same = phi.swap(cut.states, cut.states[own], pairs(1).active)
            untouched = plain.hf(plain.tokens).logits[:, -1]
        assert torch.equal(plain.logits(same, pairs(1).base), untouched)


def test_check_3_in_a_plain_model(plain: PlainModel, cut: Cut) -> None:
    everything = torch.ones(N, 1) > 0
    rows = torch.arange(N).roll(1)
    untouched = plain.logits(None, torch.arange(N))
    for family in ("identity", "orthogonal", "square", "revnet-3x8"):
        phi = build(family, cut.d, ["left"], cut.d, seed=2).to(cut.states.dtype)
        with torch.no_grad():
            moved = phi.swap(cut.states, cut.states[rows][:, None], everything)
        ours, wanted = (
            plain.logits(moved, torch.arange(N)),
            plain.logits(cut.states[rows], torch.arange(N)),
        )
        tolerance = 1e-5 if cut.states.dtype == torch.float32 else 1e-12
        assert (ours - wanted).abs().max() <= (0 if family == "identity" else tolerance)
        assert (ours - untouched).abs().max() > 1e-3


def test_a_rotation_takes_the_path_of_torchs_own_parametrisation() -> None:
    """The same free numbers, the same columns, the same steps; both end at the wanted subspace."""
    phi = Rotation(6, {"x": range(3)}, seed=1).double()
    other: Any = orthogonal(nn.Linear(3, 6, bias=False).double(), "weight", "householder")
    other.weight = phi.basis().detach()
    other.parametrizations.weight[0].base = phi.turn.base.clone()  # torch's own is random, too
    stream = torch.Generator().manual_seed(2)
    wanted = torch.linalg.qr(torch.randn(6, 3, generator=stream, dtype=torch.float64)).Q
    rotations = {module: torch.optim.SGD(module.parameters(), lr=0.05) for module in (phi, other)}

    def missed(basis: Tensor) -> Tensor:
        return (basis @ basis.T - wanted @ wanted.T).square().sum()

    assert missed(phi.basis()) > 1
    for _ in range(600):
        for module, optimiser in rotations.items():
            optimiser.zero_grad()
            missed(phi.basis() if module is phi else other.weight).backward()
            optimiser.step()
        assert (phi.basis() - other.weight).abs().max() < 1e-9
    assert missed(phi.basis()) < 1e-9


@pytest.mark.parametrize(("d", "k"), [(5, 1), (5, 2), (5, 5), (1, 1)])
def test_the_gradient_of_orthonormal_columns_is_that_of_differences(d: int, k: int) -> None:
    turn = Rotation(d, {"x": range(k)}, seed=3).double().turn
    start = turn.weight.detach()
    assert torch.equal(start, turn.base[:, :k])
    free = torch.randn(d, k, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.autograd.gradcheck(partial(_reflected, turn.base), free.requires_grad_())
    with torch.no_grad():
        turn.free.copy_(free)
    assert (turn.weight.T @ turn.weight - torch.eye(k)).abs().max() < 1e-14
    assert d == 1 or (turn.weight - start).abs().max() > 0.1


def test_the_state_of_columns_is_the_columns() -> None:
    turn = Rotation(6, {"x": range(2)}, seed=3).turn
    with torch.no_grad():
        turn.free.normal_(generator=torch.Generator().manual_seed(5))
    state, there = turn.state_dict(), Rotation(6, {"x": range(2)}, seed=4).turn
    assert list(state) == ["weight"] and state["weight"].shape == (6, 2)
    there.load_state_dict(state)
    assert torch.equal(there.weight, turn.weight) and not there.free.any()
    exact = there.double().weight
    assert (exact.T @ exact - torch.eye(2)).abs().max() < 1e-15
    assert (exact - turn.weight).abs().max() < 1e-6
