"""Fourier rows, sums of clouds and principal components, with their nulls, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.alignment.geometry import fourier_basis, fourier_fit, principal, sum_of_clouds
from interp.errors import InputError

N = torch.arange(10, dtype=torch.float64)


def wave(frequency: int, turn: float = 0.0) -> Tensor:
    return (2 * math.pi * frequency * N / 10 + turn).cos()


# --------------------------------------------------------------------------------------- Fourier


def test_r2_is_the_share_of_the_waves_that_the_basis_holds():
    """Waves are orthogonal: 1 + cos 1 is whole, cos 3 is nothing, 1 part and 3 parts are 1/4."""
    rows = torch.stack(
        [1 + wave(1, 0.3), wave(3), wave(2) + math.sqrt(3) * wave(4), 2 + (-1.0) ** N]
    )
    found = fourier_fit(rows, n_null=100)
    assert found.r2.tolist() == pytest.approx([1, 0, 0.25, 1], abs=1e-12)
    assert found.median == pytest.approx(0.25, abs=1e-12)  # the lower of the two in the middle


def test_the_six_vectors_explain_056_of_random_rows():
    """In theory R2 follows Beta(5/2, 2): median 0.5606, mean 5/9."""
    found = fourier_fit(torch.randn(3000, 10, generator=torch.Generator().manual_seed(3)))
    assert found.null == pytest.approx(0.56, abs=0.01)
    assert float(found.r2.mean()) == pytest.approx(5 / 9, abs=0.02)
    assert found.median == pytest.approx(0.56, abs=0.03)
    assert found.shuffled == pytest.approx(0.56, abs=0.03)


def test_waves_lose_their_fit_when_the_digits_are_shuffled():
    rows = torch.stack([wave(1, turn) + wave(2, 2 * turn) for turn in torch.linspace(0, 3, 40)])
    found = fourier_fit(rows, n_null=100)
    assert found.median == pytest.approx(1, abs=1e-12)
    assert 0.3 < found.shuffled < 0.75


def test_a_basis_that_fits_anything_is_refused():
    rows = torch.randn(4, 10)
    with pytest.raises(InputError) as error:
        fourier_fit(rows, fourier_basis((1, 2, 3, 4, 5)))
    assert str(error.value) == (
        "A basis of rank 10 spans all 10 points, so R2 = 1 for any rows: an identity, not a "
        "finding; leave frequencies out."
    )
    with pytest.raises(InputError, match=r"^The basis cannot express a constant"):
        fourier_fit(rows, fourier_basis()[1:])
    with pytest.raises(InputError, match=r"^Row 1 is the same for every digit"):
        fourier_fit(torch.stack([torch.randn(10), torch.full((10,), 0.3)]))
    with pytest.raises(InputError) as error:
        fourier_basis((1, 6))
    assert str(error.value) == "frequencies=(1, 6): name some of 1 to 5, each once."


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_neither_scale_nor_level_moves_r2(seed: int, scale: float, level: float):
    rows = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, other = (fourier_fit(x, n_null=10) for x in (rows, scale * rows + level))
    torch.testing.assert_close(one.r2, other.r2, rtol=0, atol=1e-7)
    assert (one.r2 >= -1e-12).all()
    assert (one.r2 <= 1 + 1e-12).all()


# ---------------------------------------------------------------------------------------- clouds


def grid(values: Tensor, copies: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of every cell (i, j) with the point `values[i, j]`."""
    i, j = torch.cartesian_prod(*(torch.arange(n) for n in values.shape[:2])).repeat(copies, 1).T
    return values[i, j], i, j


def test_a_sum_by_hand():
    """2 i + j on two values each: the means are 0 1 2 3, of which i makes 4 parts and j makes 1."""
    found = sum_of_clouds(*grid(torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])), shuffles=2)
    assert (found.first, found.second) == pytest.approx((0.8, 0.2))
    assert (found.cells, found.additive) == pytest.approx((1, 1))


def test_an_interaction_is_no_sum():
    """Exclusive or has no main effect; the product (i - 1/2)(j - 1/2) is that alone."""
    points, i, j = grid(torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]]), copies=3)
    found = sum_of_clouds(points, i, j, shuffles=2)
    assert found.additive == pytest.approx(0, abs=1e-12)
    assert found.cells == pytest.approx(1)


def test_noise_within_cells_counts_against_the_cells():
    """Cells at 0 and 1 in the first coordinate, a spread of 1/2 around each in the second."""
    points, i, j = grid(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]]).expand(2, 2, 2), copies=2)
    points = points.clone()
    points[:4, 1], points[4:, 1] = 0.5, -0.5
    found = sum_of_clouds(points, i, j, shuffles=2)
    assert found.cells == pytest.approx(0.5)
    assert found.additive == pytest.approx(1)


def test_a_minkowski_sum_is_told_from_shuffled_labels():
    """Under shuffled labels main effects have 18 of the 99 degrees of freedom of 100 cells."""
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.randn(10, 24, generator=stream) for _ in range(2))
    points, i, j = grid(0.6 * a[:, None] + 0.4 * b[None], copies=10)
    found = sum_of_clouds(points + 0.1 * torch.randn(points.shape, generator=stream), i, j)
    assert found.additive > 0.99
    assert found.cells > 0.9
    assert found.null_additive == pytest.approx(18 / 99, abs=0.03)
    assert found.null_cells == pytest.approx(99 / 999, abs=0.03)


def test_clouds_without_a_shape_are_refused():
    points, i, j = grid(torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match=r"^All cells have the same mean"):
        sum_of_clouds(points, i, j)
    with pytest.raises(InputError) as error:
        sum_of_clouds(torch.randn(3, 2), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    assert str(error.value) == (
        "2 x 2 cells, 1 of them empty: give two or more values of each label, and rows in every "
        "cell."
    )


# ------------------------------------------------------------------------------------------ views


def test_a_line_is_one_component():
    points = torch.tensor([[0.0, 0.0, 5.0], [3.0, 4.0, 5.0], [6.0, 8.0, 5.0]])
    seen = principal(points, 2)
    assert seen.coordinates[:, 0].tolist() == pytest.approx([-5, 0, 5], abs=1e-6)
    assert seen.shares.tolist() == pytest.approx([1, 0], abs=1e-12)
    assert seen.directions[0].tolist() == pytest.approx([0.6, 0.8, 0], abs=1e-6)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 10_000))
def test_all_components_keep_distances(seed: int):
    points = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen, moved = principal(points), principal(points + 7)
    torch.testing.assert_close(
        torch.cdist(seen.coordinates, seen.coordinates), torch.cdist(points, points)
    )
    torch.testing.assert_close(seen.coordinates, moved.coordinates)
    assert float(seen.shares.sum()) == pytest.approx(1)
    assert (seen.shares[:-1] >= seen.shares[1:]).all()


def test_too_few_points_are_refused():
    with pytest.raises(InputError) as error:
        principal(torch.randn(2, 5))
    assert str(error.value) == "3 components of 2 points in 5 dimensions: ask for 1 to 2."
    with pytest.raises(InputError, match=r"^The points are all the same"):
        principal(torch.ones(4, 5))
