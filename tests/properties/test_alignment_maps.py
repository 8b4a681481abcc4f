"""Laws of every alignment map: no-op, whole swaps, blocks apart, and maps that undo themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.alignment.exactness import inverse_error
from interp.alignment.families import FAMILIES, build
from interp.alignment.maps import AlignmentMap

D, NAMES = 6, ("left", "right")
EVERY = (*(name for name in FAMILIES if "LxH" not in name), "revnet-2x4", "coupling-2x4")
EXACT = [name for name in EVERY if name not in ("square", "revnet-2x4", "coupling-2x4")]
SEEDS = st.integers(0, 10_000)
HERE = settings(max_examples=8, deadline=None, derandomize=True)


def drawn(family: str, seed: int) -> tuple[AlignmentMap, Tensor, Tensor, Tensor]:
    """A map away from its start, base states, sources and active variables, in float64."""
    stream = torch.Generator().manual_seed(seed)
    states = torch.randn(12, D, generator=stream, dtype=torch.float64)
    values = {name: torch.arange(12) % (i + 2) == 0 for i, name in enumerate(NAMES)}
    size = 1 if family == "difference" else 2
    phi = build(family, D, NAMES, size, seed=seed, states=states, values=values).double()
    with torch.no_grad():
        for name, weight in phi.named_parameters():
            if name == "widths":
                weight.fill_(0.03)
            elif name in ("wants", "into", "out"):
                weight += 0.3 * torch.randn(weight.shape, generator=stream, dtype=torch.float64)
    sources = torch.randn(12, 2, D, generator=stream, dtype=torch.float64)
    return phi, states, sources, torch.randint(0, 2, (12, 2), generator=stream) > 0


@pytest.mark.parametrize("family", EXACT)
@HERE
@given(seed=SEEDS)
def test_a_state_swapped_with_itself_keeps_every_bit(family: str, seed: int) -> None:
    phi, base, sources, active = drawn(family, seed)
    own = base[:, None].repeat(1, 2, 1)
    for training in (True, False):
        for dtype in (torch.float64, torch.float32):
            phi.train(training).to(dtype)
            states, mine = base.to(dtype), own.to(dtype)
            assert torch.equal(phi.swap(states, mine, active), states)
    away = phi.swap(states, sources.float(), torch.ones(12, 2) > 0)
    assert torch.equal(away, states) is not any(phi.blocks.values())


@pytest.mark.parametrize("family", EVERY)
@HERE
@given(seed=SEEDS)
def test_only_the_blocks_of_active_variables_change(family: str, seed: int) -> None:
    phi, base, sources, active = drawn(family, seed)
    changed = phi(phi.swap(base, sources, active))
    wanted = phi(base).clone()
    for i, block in enumerate(phi.blocks.values()):
        for k in block:
            wanted[:, k] = torch.where(active[:, i], phi(sources[:, i])[:, k], wanted[:, k])
    assert (changed - wanted).abs().max() < 1e-9


@pytest.mark.parametrize("family", EVERY)
@HERE
@given(seed=SEEDS)
def test_several_variables_at_once_are_one_after_another(family: str, seed: int) -> None:
    phi, base, sources, _ = drawn(family, seed)
    both, left, right = (
        torch.tensor([row]).repeat(12, 1) for row in ([True, True], [True, False], [False, True])
    )
    at_once = phi.swap(base, sources, both)
    for first, second in ((left, right), (right, left)):
        one_by_one = phi.swap(phi.swap(base, sources, first), sources, second)
        assert (at_once - one_by_one).abs().max() < 1e-9


@pytest.mark.parametrize("family", EVERY)
@HERE
@given(seed=SEEDS)
def test_inactive_sources_are_never_read(family: str, seed: int) -> None:
    phi, base, sources, active = drawn(family, seed)
    spoilt = torch.where(active[:, :, None], sources, float("nan"))
    assert torch.equal(phi.swap(base, spoilt, active), phi.swap(base, sources, active))


@pytest.mark.parametrize("family", EVERY)
@HERE
@given(seed=SEEDS)
def test_the_inverse_undoes_the_map(family: str, seed: int) -> None:
    phi, base, _, _ = drawn(family, seed)
    assert inverse_error(phi, base).holds
    assert (phi(phi.inverse(base)) - base).abs().max() < 1e-10


@HERE
@given(seed=SEEDS, n_blocks=st.integers(1, 4), width=st.integers(1, 6))
def test_couplings_keep_volume(seed: int, n_blocks: int, width: int) -> None:
    for word in ("revnet", "coupling"):
        phi = build(f"{word}-{n_blocks}x{width}", D, NAMES, 2, seed=seed).double()
        at = torch.randn(D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        jacobian = torch.func.jacrev(lambda h, phi=phi: phi(h[None])[0])(at)
        assert abs(abs(float(torch.linalg.det(jacobian))) - 1) < 1e-9


@HERE
@given(seed=SEEDS, progress=st.floats(0, 1))
def test_shares_of_all_variables_are_at_most_the_whole(seed: int, progress: float) -> None:
    for family in ("mask", "boundless"):
        phi, *_ = drawn(family, seed)
        phi.anneal(progress)
        shares = phi.shares()
        assert float(shares.min()) >= 0
        assert float(shares.sum(0).max()) <= 1 + 1e-12
        assert int(phi.hard().sum(0).max()) <= 1


@HERE
@given(seed=SEEDS)
def test_gradients_reach_every_learned_weight(seed: int) -> None:
    for family in ("mask", "orthogonal", "square", "boundless", "revnet-2x4", "coupling-2x4"):
        phi, base, sources, _ = drawn(family, seed)
        phi.train().anneal(0.5)
        moved = phi.swap(base, sources, torch.ones(12, 2) > 0)
        (moved.square().sum() + phi.penalty()).backward()
        for name, weight in phi.named_parameters():
            assert weight.grad is not None, name
            assert bool(weight.grad.isfinite().all()), name
            assert float(weight.grad.abs().max()) > 0, name
