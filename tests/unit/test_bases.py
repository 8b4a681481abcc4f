"""Bases by hand, and every refusal word for word."""

from __future__ import annotations

import math

import pytest
import torch

from interp import bases
from interp.errors import InputError
from tests.strategies import says

SAME = {"rtol": 0, "atol": 1e-6}


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


def close(one: torch.Tensor, other: list[list[float]]) -> None:
    torch.testing.assert_close(one, torch.tensor(other), **SAME)


def test_orthonormal_is_gram_schmidt_in_the_order_given():
    """(3, 4) gives (0.6, 0.8); what (1, 0) has beside it is (0.64, -0.48), at unit length."""
    close(bases.orthonormal(rows([3.0, 4.0], [1.0, 0.0])), [[0.6, 0.8], [0.8, -0.6]])
    close(bases.orthonormal(rows([1.0, 0.0], [3.0, 4.0])), [[1.0, 0.0], [0.0, 1.0]])
    assert bases.orthonormal(rows([3.0, 4.0]).double()).dtype == torch.float64


def test_pca_finds_the_directions_of_most_variance_after_centring():
    """Around (10, 10, 10) the rows vary by 3 along the second axis and by 1 along the first."""
    acts = 10 + rows([1.0, 0, 0], [-1.0, 0, 0], [0, 3.0, 0], [0, -3.0, 0])
    close(bases.pca(acts, 1), [[0.0, 1.0, 0.0]])
    close(bases.pca(acts, 2), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def test_difference_of_means_points_from_the_second_to_the_first():
    a, b = rows([4.0, 0.0], [2.0, 8.0]), rows([0.0, 0.0])  # means (3, 4) and (0, 0)
    close(bases.difference_of_means(a, b), [[0.6, 0.8]])
    close(bases.difference_of_means(b, a), [[-0.6, -0.8]])


def test_pca_of_differences_does_not_centre_them():
    """All differences are near (5, 0): centred, they would vary along the second axis only."""
    a, b = rows([5.0, 1.0], [5.0, -1.0]), rows([0.0, 0.0], [0.0, 0.0])
    close(bases.pca_of_differences(a, b, 1), [[1.0, 0.0]])
    close(bases.pca_of_differences(b, a, 1), [[-1.0, 0.0]])


def test_the_logistic_normal_solves_its_equation():
    """One row a side at 1 and -1: with x = +-1, ridge 1 and n = 2, w = 2 (1 - p) and p = s(w)."""
    spread = 0.5**0.5  # the second entry does not vary: the mean variance is 1/2
    normal = bases._logistic(rows([1.0, 0.0], [-1.0, 0.0]).double() / spread, _signs(1, -1), 1.0)
    x = 1 / spread
    w = float(normal[0])
    assert w == pytest.approx(2 * x / (1 + math.exp(w * x)), rel=1e-6)
    assert float(normal[1]) == pytest.approx(0, abs=1e-9)


def _signs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_probe_points_from_label_0_to_label_1_and_takes_no_notice_of_what_is_shared(kind):
    """The labels differ along the first axis; the second varies alike in both."""
    acts = rows([1.0, 5.0], [1.0, -5.0], [3.0, 5.0], [3.0, -5.0])
    close(bases.probe_normal(acts, [0, 0, 1, 1], kind=kind), [[1.0, 0.0]])
    close(bases.probe_normal(acts, torch.tensor([1, 1, 0, 0]), kind=kind), [[-1.0, 0.0]])


def test_the_ridge_normal_is_the_least_squares_one():
    """(X'X + ridge) w = X'y, solved here over the columns and there over the rows."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    y = _signs(1, 1, -1, 1, -1, -1, 1)
    w = torch.linalg.solve(x.T @ x + 0.7 * torch.eye(3, dtype=x.dtype), x.T @ y)
    torch.testing.assert_close(bases._ridge(x, y, 0.7), w, rtol=0, atol=1e-12)


def test_logit_lens_is_the_span_of_rows_or_of_their_differences():
    unembedding = rows([0.0, 2.0], [3.0, 4.0], [3.0, 0.0])
    close(bases.logit_lens(unembedding, [1]), [[0.6, 0.8]])
    close(bases.logit_lens(unembedding, [1], [2]), [[0.0, 1.0]])
    close(bases.logit_lens(unembedding, [2, 0]), [[1.0, 0.0], [0.0, 1.0]])


def test_a_random_basis_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    one = bases.random_basis(3, 8, 5)
    assert torch.equal(one, bases.random_basis(3, 8, 5))
    assert (one - bases.random_basis(3, 8, 6)).abs().max() > 0.1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_random_basis_is_spread_evenly():
    """Over 400 draws the mean square of each of 4 coordinates is 1/4, to 4 standard errors."""
    draws = torch.cat([bases.random_basis(1, 4, seed) for seed in range(400)])
    assert (draws.square().mean(0) - 0.25).abs().max() < 4 * math.sqrt(0.03125 / 400)
    assert draws.mean(0).abs().max() < 4 * math.sqrt(0.25 / 400)


def test_neurons_are_axes_in_the_order_given():
    close(bases.neurons([3, 1], 4), [[0, 0, 0, 1.0], [0, 1.0, 0, 0]])


NAN = float("nan")
A = rows([1.0, 0.0], [0.0, 2.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bases.orthonormal(rows([1.0, 0.0], [0.0, NAN])),
            "directions: row 1, one of 1, holds a value that is not finite; drop it, or check that "
            "it is no padding.",
        ),
        (
            lambda: bases.orthonormal(rows([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])),
            "3 directions in 2 dimensions: give between 1 and 2.",
        ),
        (
            lambda: bases.orthonormal(rows([1.0, 0.0], [0.0, 0.0])),
            "Direction 1 of 2 is zero, so it points nowhere: leave it out.",
        ),
        (
            lambda: bases.orthonormal(rows([1.0, 2.0, 0.0], [2.0, 4.0, 0.0])),
            "The 2 directions span only 1 dimensions: leave out those that the others make.",
        ),
        (
            lambda: bases.pca(A, 2),
            "2 rows cannot give 2 principal directions of centred rows: at least 3 are needed.",
        ),
        (
            lambda: bases.pca(rows([1.0, 0.0], [2.0, 0.0], [4.0, 0.0]), 2),
            "acts varies in 1 directions and k=2 were asked for: ask for fewer, or give more "
            "varied rows.",
        ),
        (
            lambda: bases.pca(torch.ones(4, 2) / 3, 1),
            "acts varies in 0 directions and k=1 were asked for: ask for fewer, or give more "
            "varied rows.",
        ),
        (lambda: bases.pca(A, 3), "2 rows cannot give 3 principal directions of centred rows: at "
         "least 4 are needed."),
        (
            lambda: bases.pca(torch.eye(5)[:, :2], 3),
            "k=3 directions in d=2 dimensions: give between 1 and 2.",
        ),
        (
            lambda: bases.difference_of_means(A, A.flip(0)),
            "The two sets have one mean, so there is no difference to point along: choose another "
            "site or position, or sets that differ.",
        ),
        (
            lambda: bases.difference_of_means(A, A[:0]),
            "0 rows cannot give a mean on each side: at least 1 are needed.",
        ),
        (
            lambda: bases._two(A, torch.ones(2, 3)),  # annotations say so where they are checked
            "a has rows of 2 entries and b of 3: take both from one site.",
        ),
        (
            lambda: bases.pca_of_differences(A, A[:1], 1),
            "a has 2 rows and b has 1: they must be pairs, in one order.",
        ),
        (
            lambda: bases.pca_of_differences(A, 0 * A, 3),
            "2 rows cannot give 3 principal directions of pairs: at least 3 are needed.",
        ),
        (
            lambda: bases.pca_of_differences(A, A, 1),
            "a - b varies in 0 directions and k=1 were asked for: ask for fewer, or give more "
            "varied rows.",
        ),
        (
            lambda: bases.probe_normal(A, [1, 1]),
            "labels hold [1.0]: a probe needs both 0 and 1, and nothing else.",
        ),
        (
            lambda: bases.probe_normal(A, [1, -1]),
            "labels hold [-1.0, 1.0]: a probe needs both 0 and 1, and nothing else.",
        ),
        (
            lambda: bases.probe_normal(A, [1]),
            "There are 2 rows and 1 labels: give one for each row.",
        ),
        (
            lambda: bases.probe_normal(A, [1, 0], ridge=0.0),
            "ridge=0.0: give a number above 0, or the normal has no limit.",
        ),
        (
            lambda: bases.probe_normal(A[[0, 0]], [1, 0]),
            "All rows of acts are equal, so no probe tells them apart.",
        ),
        (
            lambda: bases.probe_normal(A[[0, 1, 0, 1]], [1, 1, 0, 0], kind="ridge"),
            "The probe found nothing to tell the labels apart by: its normal is zero.",
        ),
        (
            lambda: bases.logit_lens(A, [2]),
            "There is no token 2: the unembedding has 2 rows.",
        ),
        (
            lambda: bases.logit_lens(A, [0], [0, 1]),
            "There are 1 tokens and 2 against them: give one for each.",
        ),
        (
            lambda: bases.random_basis(5, 4, 0),
            "k=5 directions in d=4 dimensions: give between 1 and 4.",
        ),
        (lambda: bases.neurons([1, 1], 4), "indices=[1, 1]: give each once, from 0 to 3."),
        (lambda: bases.neurons([4], 4), "indices=[4]: give each once, from 0 to 3."),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_refused(call, message):
    with says(InputError, message):
        call()
