"""The table of agreement: correlations by hand, what is undefined, chance, and errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import FEW_CLUSTERS
from interp.thinking.relatives.agreement import Agreement, agreement
from interp.thinking.relatives.values import StepValue
from tests.strategies import says


def values(measure: str, **problems: Sequence[float | None]) -> list[StepValue]:
    return [
        StepValue(name, step, measure, None if value is None else float(value), "unread")
        for name, column in problems.items()
        for step, value in enumerate(column)
    ]


def only(found: list[Agreement]) -> Agreement:
    (one,) = found
    return one


def test_the_mean_of_the_problems_correlations_by_hand():
    """In p the ranks are 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / 60 = 0.8. In q they are reversed."""
    a = values("a", p=[1, 2, 3, 4], q=[1, 2, 3])
    b = values("b", p=[10, 30, 20, 40], q=[0.3, 0.2, 0.1])
    found = only(agreement([*a, *b]))
    assert found.rho == pytest.approx((0.8 - 1) / 2)
    assert (found.low, found.high) == pytest.approx((-1, 0.8))
    assert (found.a, found.b, found.n_problems, found.n_steps) == ("a", "b", 2, 7)
    assert found.n_undefined == 0
    assert found.warning == "only 2 problems: the interval is probably too narrow"


def test_each_problem_counts_once_however_long_its_chain():
    long, short = [float(i) for i in range(60)], [3.0, 2.0, 1.0]
    a = values("a", long=long, s1=short, s2=short, s3=short)
    b = values("b", long=long, s1=short[::-1], s2=short[::-1], s3=short[::-1])
    assert only(agreement([*a, *b])).rho == pytest.approx(-0.5)


def test_levels_that_differ_between_problems_are_no_agreement():
    rng = np.random.default_rng(0)
    a, b = [], []
    for problem in range(30):
        level = 10.0 * problem
        a += values("a", **{f"p{problem}": (level + rng.random(8)).tolist()})
        b += values("b", **{f"p{problem}": (level + rng.random(8)).tolist()})
    pooled = np.corrcoef([each.value for each in a], [each.value for each in b])[0, 1]
    found = only(agreement([*a, *b]))
    assert pooled > 0.99 and found.low < 0 < found.high and found.warning is None
    assert abs(found.rho) < found.chance


def test_undefined_problems_are_counted_and_left_out():
    a = values("a", p=[1, 2, 3], flat=[5, 5, 5], short=[1, 2], apart=[1, 2, 3])
    b = values("b", p=[1, 2, 3], flat=[1, 2, 3], short=[1, 2])
    found = only(agreement([*a, *b]))
    assert (found.rho, found.n_problems, found.n_steps, found.n_undefined) == (1.0, 1, 3, 2)
    assert (found.low, found.high, found.warning) == (None, None, "one problem: no interval")


def test_an_undefined_pair_is_marked_and_the_others_kept():
    a, b = values("a", p=[1, 2, 3]), values("b", p=[3, 2, 1])
    flat, lone = values("flat", p=[0, 0, 0]), values("lone", q=[1, 2, 3])
    found = {(each.a, each.b): each for each in agreement([*a, *b, *flat, *lone])}
    assert list(found) == [
        ("a", "b"), ("a", "flat"), ("a", "lone"), ("b", "flat"), ("b", "lone"), ("flat", "lone"),
    ]  # fmt: skip
    assert found["a", "b"].rho == -1.0
    none = found["a", "flat"]
    assert none.rho is none.low is none.high is none.chance is None
    assert (none.n_problems, none.n_undefined) == (0, 1)
    assert none.warning == "no problem has 3 steps that both measures put in an order"
    assert found["b", "lone"].warning == "no step has a value of both measures"
    assert found["b", "lone"].n_undefined == 0


def test_missing_values_leave_out_the_step_alone():
    a = values("a", p=[1, 2, None, 3, 4])
    b = values("b", p=[1, None, 9, 2, 3])
    found = only(agreement([*a, *b]))
    assert (found.rho, found.n_steps) == (1.0, 3)


def test_noise_below_the_resolution_is_a_tie():
    a = values("a", p=[0.5, 1e-9, 2e-9, 0.0])
    b = values("b", p=[0.5, 0.0, 3e-9, 1e-9])
    assert only(agreement([*a, *b])).rho == pytest.approx(1)
    assert only(agreement([*a, *b], resolution=1e-12)).rho == pytest.approx(0.8)
    why = "resolution is 0.0: give a size above 0, such as 1e-06."
    with says(InputError, why):
        agreement([*a, *b], resolution=0.0)


def test_chance_is_what_a_shuffle_reaches():
    """Three steps: shuffles give 1, 0.5, 0.5, -0.5, -0.5, -1, so 19 in 20 times at most 1."""
    a, b = values("a", p=[1, 2, 3]), values("b", p=[3, 2, 1])
    assert only(agreement([*a, *b])).chance == pytest.approx(1.0)
    assert only(agreement([*a, *b], level=0.5)).chance == pytest.approx(0.5)
    many = {f"p{i}": [1.0, 2.0, 3.0, 4.0] for i in range(FEW_CLUSTERS * 5)}
    found = only(agreement([*values("a", **many), *values("b", **many)]))
    # A shuffle of 4 steps has variance 1/3, so the mean over 100 problems a deviation of 0.058.
    assert found.rho == 1.0 and found.chance == pytest.approx(1.96 * 0.058, abs=0.03)


def test_what_cannot_be_compared_is_refused():
    a = values("a", p=[1, 2, 3])
    why = "There is nothing to compare with 'a': give values of at least two measures."
    with says(InputError, why):
        agreement(a)
    why = "There is nothing to compare with 'no measure at all': give values of at least two"
    with pytest.raises(InputError, match=why):
        agreement([])
    with says(
        InputError,
        "Step 0 of p has two values of a: average them over seeds first, and give chains of one "
        "problem ids of their own.",
    ):
        agreement([*a, a[0], *values("b", p=[1])])
    with says(InputError, "n_shuffles is 0: at least one shuffle is needed, better 200."):
        agreement(a, n_shuffles=0)
    with says(InputError, "level is 2.0: it is a share above 0 and below 1, such as 0.95."):
        agreement([*a, *values("b", p=[1, 2, 3])], level=2.0)
