"""Laws of bases: orthonormal, deterministic, and moved as their rows are moved."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp import bases

ROUNDING = 1e-9
laws = settings(deadline=None, derandomize=True, max_examples=10)
seeds = st.integers(0, 10_000)


def normal(seed: int, n: int, d: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=stream, dtype=torch.float64)


def gap(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def every_basis(seed: int, n: int, d: int, k: int) -> dict[str, Tensor]:
    """One basis of each kind, of random rows."""
    a, b = normal(seed, n, d), normal(seed + 1, n, d) + 1
    labels = [1] * n + [0] * n
    return {
        "orthonormal": bases.orthonormal(a[:k]),
        "pca": bases.pca(a, k),
        "difference_of_means": bases.difference_of_means(a, b),
        "pca_of_differences": bases.pca_of_differences(a, b, k),
        "logistic": bases.probe_normal(torch.cat([a, b]), labels),
        "ridge": bases.probe_normal(torch.cat([a, b]), labels, kind="ridge"),
        "logit_lens": bases.logit_lens(a, list(range(k)), list(range(n - 1, n - 1 - k, -1))),
        "random": bases.random_basis(k, d, seed, dtype=torch.float64),
        "neurons": bases.neurons(list(range(k)), d, dtype=torch.float64),
    }


@laws
@given(seeds, st.integers(2, 12), st.integers(1, 4), st.integers(0, 6))
def test_every_basis_is_orthonormal_and_the_same_each_time(seed, d, k, more):
    k, n = min(k, d), 2 * k + 2 + more
    again = every_basis(seed, n, d, k)
    for name, basis in every_basis(seed, n, d, k).items():
        assert gap(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64)) < ROUNDING, name
        assert torch.equal(basis, again[name]), name


@laws
@given(seeds, st.integers(2, 10), st.integers(1, 4))
def test_orthonormal_keeps_the_span_and_the_way_of_each_row(seed, d, k):
    k = min(k, d)
    rows = normal(seed, k, d)
    basis = bases.orthonormal(rows)
    assert gap(rows @ basis.T @ basis, rows) < 1e-8
    assert bool(((rows * basis).sum(1) > 0).all())
    assert gap(bases.orthonormal(basis), basis) < ROUNDING
    lengths = torch.linspace(0.01, 100, k, dtype=torch.float64)[:, None]
    assert gap(bases.orthonormal(rows * lengths), basis) < 1e-8


@laws
@given(seeds, st.integers(3, 8))
def test_what_is_added_to_every_row_changes_no_direction(seed, d):
    a, b, shift = normal(seed, 9, d), normal(seed + 1, 9, d) + 1, 5 * normal(seed + 2, 1, d)
    labels = [1] * 9 + [0] * 9
    pairs = [
        (bases.pca(a + shift, 2), bases.pca(a, 2)),
        (bases.difference_of_means(a + shift, b + shift), bases.difference_of_means(a, b)),
        (bases.pca_of_differences(a + shift, b + shift, 2), bases.pca_of_differences(a, b, 2)),
        (
            bases.probe_normal(torch.cat([a, b]) + shift, labels),
            bases.probe_normal(torch.cat([a, b]), labels),
        ),
    ]
    # singular vectors of two near singular values turn, so compare with a tolerance of their own
    assert [gap(one, other) < 1e-5 for one, other in pairs] == [True] * 4


@laws
@given(seeds, st.integers(3, 8))
def test_swapping_the_sides_turns_a_direction_round(seed, d):
    a, b = normal(seed, 9, d), normal(seed + 1, 9, d) + 1
    one, other = torch.cat([a, b]), torch.cat([b, a])
    labels = [1] * 9 + [0] * 9
    assert gap(bases.difference_of_means(a, b), -bases.difference_of_means(b, a)) < ROUNDING
    assert gap(bases.pca_of_differences(a, b, 2), -bases.pca_of_differences(b, a, 2)) < 1e-6
    for kind in ("logistic", "ridge"):
        turned = bases.probe_normal(other, labels, kind=kind)
        assert gap(bases.probe_normal(one, labels, kind=kind), -turned) < 1e-5


@laws
@given(seeds, st.integers(2, 6), st.floats(0.1, 10))
def test_every_method_finds_a_planted_direction(seed, d, size):
    """Two clouds of equal shape, far apart along one direction: all four agree on it."""
    planted = bases.random_basis(1, d, seed, dtype=torch.float64)
    cloud = normal(seed, 12, d)
    cloud = cloud - cloud.mean(0)
    a, b = size * (cloud + 20 * planted), size * (cloud - 20 * planted)
    both, labels = torch.cat([a, b]), [1] * 12 + [0] * 12
    assert gap(bases.difference_of_means(a, b), planted) < 1e-8
    assert gap(bases.pca_of_differences(a, b, 1), planted) < 1e-8
    for found in (bases.probe_normal(both, labels), bases.pca(both, 1)):
        assert abs(float((found @ planted.T).squeeze())) > 0.99
