"""The shape of representations of digits: Fourier rows, sums of two point clouds, and views in 3-D.

Each finding stands beside what chance gives. A basis of six vectors explains more than half of ten
random numbers, and a basis of ten explains anything; the means of many small cells look like sums
even when the labels are shuffled.

Source: Bai et al. 2025, arXiv:2510.00184, section 4 (Fourier basis, Minkowski sums); the nulls are
our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError

BASE = 10
SHUFFLES = 20


@dataclass(frozen=True, eq=False)
class FourierFit:
    """How well rows over the ten digits are sums of a few waves."""

    r2: Float[Tensor, " row"]
    """Share of each row's variance that the basis explains, 0 to 1."""
    median: float
    """Of `r2`."""
    null: float
    """Median of random rows under the same basis."""
    shuffled: float
    """Median of these rows with the digits' order shuffled; its mean over shuffles."""


def fourier_basis(frequencies: tuple[int, ...] = (1, 2, 5)) -> Float[Tensor, "vector 10"]:
    """Return waves over the digits: the constant, and cosine and sine of each frequency.

    Frequency f is `cos(2 pi f n / 10)` and the same sine; 5 is `(-1)^n` alone, its sine being 0.
    By default these are the six vectors of the source.

    Raises:
        InputError: a frequency is not 1 to 5, or stands twice.

    >>> fourier_basis().shape
    torch.Size([6, 10])
    """
    if (
        not frequencies
        or len(set(frequencies)) < len(frequencies)
        or not set(frequencies) <= set(range(1, 6))
    ):
        raise InputError(f"frequencies={frequencies}: name some of 1 to 5, each once.")
    n = torch.arange(BASE, dtype=torch.float64)
    waves = [torch.ones(BASE, dtype=torch.float64)]
    for frequency in frequencies:
        angle = 2 * math.pi * frequency * n / BASE
        waves += [angle.cos()] if 2 * frequency == BASE else [angle.cos(), angle.sin()]
    return torch.stack(waves)


def fourier_fit(
    rows: Float[Tensor, "row 10"],
    basis: Float[Tensor, "vector 10"] | None = None,
    *,
    seed: int = 0,
    n_null: int = 20_000,
) -> FourierFit:
    """Fit each row, a function of the digits 0 to 9, by least squares in float64.

    `R2 = 1 - |row - fit|^2 / |row - mean|^2`. Rows that do not vary have none and are refused.

    Args:
        rows: one row for each dimension or neuron.
        basis: by default the six vectors of `fourier_basis()`; it must hold the constant.
        seed: of the random rows and the shuffles.
        n_null: random rows, of independent normal numbers.

    Raises:
        InputError: the basis spans all ten points, so any row fits: an identity, no finding; it
            cannot express a constant; or a row does not vary.
    """
    waves = (fourier_basis() if basis is None else basis).double()
    rank = int(torch.linalg.matrix_rank(waves))
    if rank >= waves.shape[1]:
        raise InputError(
            f"A basis of rank {rank} spans all {waves.shape[1]} points, so R2 = 1 for any rows: "
            "an identity, not a finding; leave frequencies out."
        )
    project = torch.linalg.pinv(waves) @ waves
    one = torch.ones(1, waves.shape[1], dtype=torch.float64)
    if not torch.allclose(one @ project, one, atol=1e-9):
        raise InputError(
            "The basis cannot express a constant, so R2 has no meaning: add the row 1."
        )
    stream = torch.Generator().manual_seed(seed)
    random = torch.randn(n_null, waves.shape[1], generator=stream, dtype=torch.float64)
    r2 = _explained(rows.double(), project)
    turns = [torch.randperm(waves.shape[1], generator=stream) for _ in range(SHUFFLES)]
    shuffled = [float(_explained(rows.double()[:, turn], project).median()) for turn in turns]
    return FourierFit(
        r2,
        float(r2.median()),
        float(_explained(random, project).median()),
        sum(shuffled) / SHUFFLES,
    )


def _explained(rows: Tensor, project: Tensor) -> Float[Tensor, " row"]:
    varies = (rows - rows.mean(dim=1, keepdim=True)).square().sum(dim=1)
    flat = (varies <= 1e-24 * rows.square().sum(dim=1)).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"Row {flat[0]} is the same for every digit, so it has no R2: leave it out."
        )
    return 1 - (rows - rows @ project).square().sum(dim=1) / varies


@dataclass(frozen=True, eq=False)
class SumOfClouds:
    """Whether the means of cells (i, j) are a sum A_i + B_j: a Minkowski sum of two clouds."""

    cells: float
    """Share of all variance that lies between cells, 0 to 1."""
    first: float
    """Share of the variance between cells that the first label explains alone."""
    second: float
    """The same of the second label."""
    additive: float
    """Their sum: 1 if every cluster repeats the same shape."""
    null_cells: float
    """`cells` with labels shuffled over rows; the mean over shuffles."""
    null_additive: float
    """`additive` with labels shuffled: about (I + J - 2) / (I J - 1) for I x J cells."""


def sum_of_clouds(
    points: Float[Tensor, "row d"],
    first: Int[Tensor, " row"],
    second: Int[Tensor, " row"],
    *,
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> SumOfClouds:
    """Test whether points, labelled by two digits, form a Minkowski sum.

    With M_ij the mean of a cell and M_i., M_.j, M the means of those, every cell weighing the same,

        sum |M_ij - M|^2 = J sum |M_i. - M|^2 + I sum |M_.j - M|^2 + interaction.

    A head that mixes a_i and b_j with fixed weights has no interaction.

    Raises:
        InputError: a label takes one value only, a cell has no row, or the points do not vary.
    """
    x, y = (labels.unique(return_inverse=True)[1] for labels in (first, second))
    stream = torch.Generator().manual_seed(seed)
    found = _shares(points.double(), x, y)
    orders = (torch.randperm(len(points), generator=stream) for _ in range(shuffles))
    nulls = [_shares(points.double()[order], x, y) for order in orders]
    cells, a, b = found
    return SumOfClouds(
        cells,
        a,
        b,
        a + b,
        sum(null[0] for null in nulls) / shuffles,
        sum(null[1] + null[2] for null in nulls) / shuffles,
    )


def _shares(points: Tensor, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Return the share of cells in all variance, and of each label in that of the cells."""
    n_x, n_y = int(x.max()) + 1, int(y.max()) + 1
    cell = x * n_y + y
    counts = torch.bincount(cell, minlength=n_x * n_y)
    if min(n_x, n_y) < 2 or not bool(counts.all()):
        raise InputError(
            f"{n_x} x {n_y} cells, {int((counts == 0).sum())} of them empty: give two or more "
            "values of each label, and rows in every cell."
        )
    sums = points.new_zeros(n_x * n_y, points.shape[1]).index_add_(0, cell, points)
    means = sums / counts[:, None]
    total = (points - points.mean(dim=0)).square().sum()
    within = (points - means[cell]).square().sum()
    grid = means.view(n_x, n_y, -1) - means.mean(dim=0)
    between = grid.square().sum()
    if float(between) <= 1e-24 * float(points.square().sum()):
        raise InputError("All cells have the same mean, so there is no shape to test.")
    a = n_y * grid.mean(dim=1).square().sum()
    b = n_x * grid.mean(dim=0).square().sum()
    return float(1 - within / total), float(a / between), float(b / between)


@dataclass(frozen=True, eq=False)
class Principal:
    """Points seen along their directions of largest variance."""

    coordinates: Float[Tensor, "row n"]
    directions: Float[Tensor, "n d"]
    """Unit vectors; the largest entry of each is positive, so that a sign is not chance."""
    shares: Float[Tensor, " n"]
    """Share of the variance along each."""


def principal(points: Float[Tensor, "row d"], n: int = 3) -> Principal:
    """Return the first `n` principal components in float64; 3 by default, to be drawn.

    Raises:
        InputError: fewer rows or dimensions than `n`, or points that do not vary.
    """
    if not 1 <= n <= min(points.shape):
        raise InputError(
            f"{n} components of {points.shape[0]} points in {points.shape[1]} dimensions: ask for "
            f"1 to {min(points.shape)}."
        )
    centred = points.double() - points.double().mean(dim=0)
    if not bool(centred.any()):
        raise InputError("The points are all the same, so they have no principal direction.")
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:n]
    signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    shares = sizes.square() / sizes.square().sum()
    return Principal(centred @ (axes * signs).T, axes * signs, shares[:n])
