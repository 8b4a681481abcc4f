"""Laws of scores and gradients under interventions, for any network, map and pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.alignment.fitting import descend, fixed, score, swapped
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.alignment.subjects import Cut, LayerSubject, ModuleSubject
from interp.data.counterfactuals import Pairs
from interp.models.classifiers import mlp

D, VARIABLES = 6, ("p", "q")
FEW = settings(deadline=None, derandomize=True, max_examples=15)
seeds = st.integers(0, 10_000)


def drawn(seed: int, n: int, *, module: bool = False) -> tuple[Cut, Rotation, Pairs]:
    stream = torch.Generator().manual_seed(seed)
    net = mlp(4, D, 2, 3, seed).double()
    inputs = torch.randn(12, 4, generator=stream).double()
    labels = torch.randint(0, 3, (n,), generator=stream)
    pairs = Pairs(
        VARIABLES,
        torch.randint(0, 12, (n,), generator=stream),
        torch.randint(0, 12, (n, 2), generator=stream),
        torch.rand(n, 2, generator=stream) < 0.5,
        labels,
        labels,
    )
    phi = Rotation(D, consecutive_blocks(VARIABLES, 2), seed=seed).double()
    return (ModuleSubject if module else LayerSubject)(net, "1").cut(inputs), phi, pairs


def gradient(cut: Cut, phi: Rotation, pairs: Pairs, chunk: int | None = None) -> torch.Tensor:
    phi.zero_grad()
    descend(cut, phi, pairs, chunk=chunk)
    return torch.cat([parameter.grad.flatten() for parameter in phi.parameters()]).clone()


@FEW
@given(seeds, st.integers(1, 30), st.integers(1, 40))
def test_chunks_change_nothing(seed: int, n: int, chunk: int):
    cut, phi, pairs = drawn(seed, n)
    whole, parts = score(cut, phi, pairs), score(cut, phi, pairs, chunk=chunk)
    assert torch.equal(whole.predicted, parts.predicted)
    torch.testing.assert_close(whole.loss, parts.loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        gradient(cut, phi, pairs), gradient(cut, phi, pairs, chunk), rtol=1e-6, atol=1e-12
    )


@FEW
@given(seeds, st.integers(1, 30))
def test_a_hook_in_the_whole_network_gives_what_the_layers_after_the_site_give(seed: int, n: int):
    cut, phi, pairs = drawn(seed, n)
    other, _, _ = drawn(seed, n, module=True)
    torch.testing.assert_close(
        swapped(cut, phi, pairs), swapped(other, phi, pairs), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        gradient(cut, phi, pairs), gradient(other, phi, pairs), rtol=1e-9, atol=1e-14
    )


@FEW
@given(seeds, st.integers(1, 30))
def test_what_is_not_active_is_never_read(seed: int, n: int):
    cut, phi, pairs = drawn(seed, n)
    moved = torch.where(pairs.active, pairs.sources, (pairs.sources + 5) % 12)
    other = replace(pairs, sources=moved)
    assert torch.equal(swapped(cut, phi, pairs), swapped(cut, phi, other))


@FEW
@given(seeds, st.integers(1, 30))
def test_all_coordinates_from_one_source_give_its_answer(seed: int, n: int):
    cut, _, pairs = drawn(seed, n)
    phi = Identity(D, consecutive_blocks(VARIABLES, 3))
    whole = replace(
        pairs,
        sources=pairs.sources[:, :1].expand(-1, 2).contiguous(),
        active=torch.ones_like(pairs.active),
    )
    assert torch.equal(swapped(cut, phi, whole), cut.finish(cut.states[whole.sources[:, 0]],
                                                            whole.base))  # fmt: skip


@FEW
@given(seeds, st.integers(1, 40), st.integers(1, 50), st.integers(1, 9))
def test_a_fixed_feed_repeats_nothing_within_an_epoch(seed: int, n: int, batch: int, epoch: int):
    pairs = replace(drawn(seed, n)[2], labels=torch.arange(n))
    feed, size = fixed(pairs, batch, seed), min(batch, n)
    per_epoch = n // size
    first = 1 + epoch * per_epoch
    seen = torch.cat([feed(first + i).labels for i in range(per_epoch)])
    assert len(seen) == len(seen.unique()) == per_epoch * size
