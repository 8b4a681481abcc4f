"""Alignment maps beside formulas in plain torch, inside a model of plain Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass

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
from interp.alignment.maps import Rotation
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


def test_a_rotation_ends_where_torchs_own_parametrisation_ends() -> None:
    """The nearest orthonormal columns to a target are its polar factor: both go there, the product
    of reflections more slowly (0.01 off after 500 steps)."""
    phi = Rotation(6, {"x": range(3)}, seed=1).double()
    other = nn.Linear(6, 3, bias=False).double()
    other.weight = nn.Parameter(phi.basis().T.detach().clone())
    other = orthogonal(other, "weight", "householder")
    stream = torch.Generator().manual_seed(2)
    target = torch.randn(6, 3, generator=stream, dtype=torch.float64)
    left, _, right = torch.linalg.svd(target, full_matrices=False)
    both = ((phi, phi.basis, 1e-6), (other, lambda: other.weight.T, 0.02))
    for module, basis, off in both:
        assert (basis() - left @ right).abs().max() > 0.3
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(600):
            optimiser.zero_grad()
            (basis() - target).square().sum().backward()
            optimiser.step()
        assert (basis() - left @ right).abs().max() < off


def test_the_gradient_of_orthonormal_columns_is_that_of_differences() -> None:
    turn = Rotation(5, {"x": range(2)}, seed=3).double().turn
    make = turn.parametrizations.weight[0]
    free = torch.randn(5, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.autograd.gradcheck(make, free.requires_grad_())
    columns = make(free).detach()
    assert (columns.T @ columns - torch.eye(2)).abs().max() < 1e-14
    assert (make(columns) - columns).abs().max() < 1e-14
