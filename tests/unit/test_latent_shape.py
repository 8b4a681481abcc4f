"""Means, shape numbers, graphs, likeness and permutation tests, on rows worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from interp.errors import EditError, InputError
from interp.latent.nulls import ShuffledDonor, permutation_test
from interp.latent.shape import METRICS, Matrix, graph, matrices, matrix, shape, shape_of
from interp.latent.similarity import similarities, similarity


def row(key: str, t: int, s: int, kl: float | None, operator: str = "zero", seed: int = 0) -> dict:
    """One row of `influence`, as far as the summaries look at it."""
    named = {"id": key, "t": t, "s": s, "operator": operator, "edge": "input", "seed": seed}
    return {**named, "kl": kl, "kl_answer": kl, "dlogp_answer": kl, "dlogp_sum": kl}


def of(weights: list[list[float]], operator: str = "zero", n: int = 3) -> Matrix:
    """A matrix of n problems that all have these effects."""
    ids = tuple(f"p{i}" for i in range(n))
    return Matrix(operator, "input", "kl", ids, np.array([weights] * n, dtype=float))


def by_metric(rows: list[dict], column: str = "x") -> Mapping[str, float]:
    return {each["metric"]: each[column] for each in rows}


LOCAL = [[0.0, 4.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 9.0]]
"""W[1,2] = 4, W[1,3] = 1, W[2,3] = 3; the diagonal does not count."""


def test_a_mean_takes_the_seeds_of_a_problem_first_and_only_problems_that_have_the_edge():
    rows = [
        row("a", 1, 2, 1.0),
        row("a", 1, 2, 3.0, seed=1),  # problem a: 2
        row("b", 1, 2, 6.0),
        row("b", 2, 2, 5.0),  # problem a has no step 2 to edit
        row("b", 1, 2, 100.0, operator="mean"),
        row("c", 1, 2, None),  # infinite, so marked and left out
    ]
    made = matrix(rows, "zero")
    assert made.mean()[0, 1] == 4.0
    assert made.mean()[1, 1] == 5.0
    assert math.isnan(made.mean()[0, 0])
    assert [(each["t"], each["s"], each["x"], each["n_problems"]) for each in made.rows()] == [
        (1, 2, 4.0, 2),
        (2, 2, 5.0, 1),
    ]
    low, high = made.rows()[0]["x_low"], made.rows()[0]["x_high"]
    assert (low, high) == (2.0, 6.0)  # all resamples of two values lie between them
    assert made.rows()[1]["warning"] == "one problem: no interval"
    assert [each.operator for each in matrices(rows)] == ["zero", "mean"]


def test_shape_numbers_of_a_matrix_worked_out_by_hand():
    found = shape(of(LOCAL), of([[0.0] * 3] * 3, "identity"), n_boot=50)
    assert by_metric(found.rows()) == {
        "locality": 7 / 8,
        "span": (4 * 1 + 1 * 2 + 3 * 1) / 8,
        "early_out": 5 / 8,
        "late_in": 4 / 8,
    }
    assert found.total == 8.0
    assert found.identity is None and found.identity_total == 0.0
    for each in found.rows():
        assert each["x_low"] == pytest.approx(each["x"]) == each["x_high"]  # all problems agree
        assert each["identity"] is None and each["total"] == 8.0


def test_an_interval_of_shape_redraws_problems():
    near, far = (
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0] * 3],
        [[0.0, 0.0, 2.0], [0.0] * 3, [0.0] * 3],
    )
    items = np.array([near] * 15 + [far] * 15)
    both = Matrix("zero", "input", "kl", tuple(f"p{i}" for i in range(30)), items)
    found = {each["metric"]: each for each in shape(both, n_boot=400).rows()}["locality"]
    assert found["x"] == 0.5 and found["n_problems"] == 30
    # Locality is the share of near problems: its spread is sqrt(.25 / 30) = .091.
    assert 0.27 < found["x_low"] < 0.37 and 0.63 < found["x_high"] < 0.73


@pytest.mark.parametrize("n_steps", [2, 4, 6])
def test_the_uniform_reference_is_that_of_the_formulas(n_steps: int):
    found = shape(of([[1.0] * n_steps] * n_steps), n_boot=50)
    expected = {"locality": 2 / n_steps, "span": (n_steps + 1) / 3}
    expected |= {"early_out": 2 / n_steps, "late_in": 2 / n_steps}
    assert found.uniform == pytest.approx(expected)
    assert by_metric(found.rows()) == pytest.approx(expected)


def test_a_matrix_without_effect_has_no_shape_and_no_graph():
    found = shape(of([[0.0] * 3] * 3, "identity"))
    assert found.total == 0.0 and shape_of(np.zeros((3, 3))) is None
    assert [each["x"] for each in found.rows()] == [None] * len(METRICS)
    assert graph(of([[0.0] * 3] * 3)) == []


def test_a_graph_keeps_the_strongest_edge_of_each_step_above_the_threshold():
    weights = [[9.0, 4.0, 10.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0], [0.0] * 4]
    edges = [(each["t"], each["s"], each["x"], each["share"]) for each in graph(of(weights))]
    assert edges == [(1, 3, 10.0, 1.0), (3, 4, 3.0, 0.3)]  # 1.0 does not exceed 0.1 * 10
    lower = graph(of(weights), threshold=0.05)
    assert [(each["t"], each["s"]) for each in lower] == [(1, 3), (2, 3), (3, 4)]  # tie: the nearer
    inward = graph(of(weights), direction="in")
    assert [(each["t"], each["s"]) for each in inward] == [(1, 2), (1, 3), (3, 4)]
    tie = of([[0.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0] * 3])
    assert [(each["t"], each["s"]) for each in graph(tie, direction="in")] == [(2, 3)]


def test_likeness_worked_out_by_hand():
    a, b = of(LOCAL), of([[5.0, 3.0, 0.0], [0.0, 0.0, 4.0], [0.0] * 3], "mean")
    cosine, rank = similarity(a, b, n_boot=50).rows()
    assert cosine["x"] == pytest.approx((4 * 3 + 1 * 0 + 3 * 4) / math.sqrt(26 * 25))
    assert cosine["chance"] == pytest.approx(3 * (8 / 3) * (7 / 3) / math.sqrt(26 * 25))
    assert rank["x"] == pytest.approx(0.5)  # ranks 3 1 2 against 2 1 3
    assert (cosine["a"], cosine["b"], cosine["n_problems"]) == ("zero", "mean", 3)
    assert similarity(a, a, n_boot=50).rows()[0]["x"] == pytest.approx(1.0)
    assert len(similarities([a, b, a], n_boot=50)) == 6


def test_likeness_to_nothing_has_no_value():
    nothing = similarity(of(LOCAL), of([[0.0] * 3] * 3, "identity")).rows()
    assert [each["x"] for each in nothing] == [None, None]
    assert nothing[0]["chance"] is None


def test_likeness_of_other_problems_has_no_interval():
    found = similarity(of(LOCAL), of(LOCAL, n=4)).rows()[0]
    assert found["x"] == pytest.approx(1.0) and found["x_low"] is None
    assert found["warning"] == "not the same problems: no interval"


def test_swapping_labels_problem_by_problem_gives_the_exact_share():
    rows = [row(key, 1, 2, 1.0) for key in "abcd"] + [
        row(key, 2, 2, v) for key, v in zip("abcd", (1, -1, 1, -1), strict=True)
    ]
    rows += [row(key, t, 2, 0.0, operator="identity") for key in "abcd" for t in (1, 2)]
    one, two = permutation_test(rows, "zero", n=20_000)
    # Of 16 relabellings 2 give |sum| = 4; every one gives at least 0.
    assert one["p"] == pytest.approx(2 / 16, abs=0.01)
    assert (two["p"], two["p_family"]) == (1.0, 1.0)
    # The larger of both edges reaches 4 where all signs agree, or where they alternate.
    assert one["p_family"] == pytest.approx(4 / 16, abs=0.012)
    assert (one["x"], two["x"], one["against"]) == (1.0, 0.0, "identity")


def test_no_effect_is_never_significant():
    rows = [row(key, 1, 1, 0.0, operator=name) for key in "abcde" for name in ("zero", "identity")]
    (only,) = permutation_test(rows, "zero")
    assert (only["p"], only["p_family"], only["x"]) == (1.0, 1.0, 0.0)


def test_what_cannot_be_summed_up_is_refused():
    rows = [row("a", 1, 2, 1.0), row("b", 1, 2, 1.0, operator="identity")]
    message = (
        "^No row of 'rotate' on the edge 'input'; there are: identity on input, zero on input.$"
    )
    with pytest.raises(InputError, match=message):
        matrix(rows, "rotate")
    with pytest.raises(
        InputError, match=r"^The threshold 1\.0 is no share below 1: give such as 0\.1\.$"
    ):
        graph(of(LOCAL), threshold=1.0)
    with pytest.raises(InputError, match=r"^W of zero is kl over 3 steps and W of mean kl over 2"):
        similarity(of(LOCAL), of([[1.0] * 2] * 2, "mean"))
    with pytest.raises(
        InputError, match=r"^kl is never negative, so against the identity any change"
    ):
        permutation_test(rows, "zero", measure="kl")
    with pytest.raises(
        InputError, match=r"^No problem has rows of both zero and identity: run them"
    ):
        permutation_test(rows, "zero")
    with pytest.raises(InputError, match=r"^The matrix of zero has no edge between two steps"):
        shape(of([[1.0]]))
    with pytest.raises(
        EditError, match=r"^ShuffledDonor: there is no way 'steps'; .* Did you mean 'step'\?$"
    ):
        ShuffledDonor("steps")  # type: ignore[arg-type]
