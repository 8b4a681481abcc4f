"""Laws of agreement: symmetry, ranks alone, problems alone, and every order of the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import UndefinedEffectError
from interp.stats import spearman
from interp.thinking.relatives.agreement import _standard, agreement
from interp.thinking.relatives.early import area_over, commitment
from interp.thinking.relatives.values import StepValue

LAWS = settings(deadline=None, derandomize=True, max_examples=40)
QUICK = {"n_boot": 50, "n_shuffles": 20}
sides = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7)
tables = st.lists(sides, min_size=1, max_size=5)


def rows(table, *, a=lambda problem, x: x, b=lambda problem, x: x) -> list[StepValue]:
    """The values of measures `a` and `b`, each after a function of problem and value."""
    found = [
        (
            StepValue(f"p{i}", step, "a", float(a(i, x))),
            StepValue(f"p{i}", step, "b", float(b(i, y))),
        )
        for i, problem in enumerate(table)
        for step, (x, y) in enumerate(problem)
    ]
    return [*(x for x, _ in found), *(y for _, y in found)]


def close(one, other) -> bool:
    """Whether two agreements have the same numbers, but for rounding."""
    numbers = ("rho", "low", "high", "chance")
    for name in numbers:
        x, y = getattr(one, name), getattr(other, name)
        if x is None or y is None:
            assert x is y, name
        else:
            assert x == pytest.approx(y, abs=1e-12), name
    return (one.n_problems, one.n_steps, one.n_undefined, one.warning) == (
        other.n_problems, other.n_steps, other.n_undefined, other.warning,
    )  # fmt: skip


@LAWS
@given(tables)
def test_agreement_reads_the_order_within_problems_alone(table):
    (plain,) = agreement(rows(table), **QUICK)
    curved = rows(table, a=lambda i, x: 100 * i + 2.0**x, b=lambda i, y: (i + 1) * y**3 - 7)
    (same,) = agreement(curved, **QUICK)
    assert close(plain, same)


@LAWS
@given(tables)
def test_turning_one_measure_round_turns_the_sign(table):
    (plain,) = agreement(rows(table), **QUICK)
    (turned,) = agreement(rows(table, b=lambda i, y: -y), **QUICK)
    assert (plain.n_problems, plain.n_undefined) == (turned.n_problems, turned.n_undefined)
    assert (plain.rho is None) == (turned.rho is None)
    if plain.rho is not None:
        assert turned.rho == pytest.approx(-plain.rho, abs=1e-12)
        assert -1 <= plain.rho <= 1


@LAWS
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_measures_does_not_matter(table, random):
    given_rows = rows(table)
    first, n = given_rows[0], len(given_rows) // 2
    mixed = given_rows[1:]
    random.shuffle(mixed)
    (plain,), (same,) = agreement(given_rows, **QUICK), agreement([first, *mixed], **QUICK)
    assert plain == same
    (swapped,) = agreement([*given_rows[n:], *given_rows[:n]], **QUICK)
    assert (swapped.a, swapped.b) == ("b", "a")
    numbers = {"a": "a", "b": "b", "chance": None}  # another side is shuffled
    assert close(replace(plain, **numbers), replace(swapped, **numbers))


@LAWS
@given(tables)
def test_a_measure_agrees_with_itself_wholly_or_is_undefined(table):
    (found,) = agreement(rows([[(x, x) for x, _ in problem] for problem in table]), **QUICK)
    ordered = [p for p in table if len(p) >= 3 and len({x for x, _ in p}) > 1]
    assert found.n_problems == len(ordered)
    assert found.n_undefined == len(table) - len(ordered)
    assert found.rho == (pytest.approx(1.0) if ordered else None)


@LAWS
@given(sides)
def test_standard_ranks_give_the_correlation(side):
    one, other = (np.array(column, dtype=float) for column in zip(*side, strict=True))
    try:
        rho = spearman(one, other)
    except UndefinedEffectError:
        assert np.ptp(one) == 0 or np.ptp(other) == 0
        return
    assert float(_standard(one) @ _standard(other)) == pytest.approx(rho, abs=1e-12)


@LAWS
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_area_over_a_curve_and_over_its_complement_fill_the_square(curve):
    assert area_over(curve) + area_over([1 - x for x in curve]) == pytest.approx(1)
    assert area_over(curve) == pytest.approx(area_over(curve[::-1]))
    assert 1 - max(curve) - 1e-12 <= area_over(curve) <= 1 - min(curve) + 1e-12


@LAWS
@given(st.lists(st.sampled_from(["1", "2", None]), min_size=1, max_size=8))
def test_commitment_is_the_first_place_after_which_nothing_changes(answers):
    found = commitment(answers)
    if answers[-1] is None:
        assert found is None
        return
    assert set(answers[found:]) == {answers[-1]}
    assert found == 0 or answers[found - 1] != answers[-1]
