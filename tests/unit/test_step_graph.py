"""Step graphs: given ones, parsed ones, what is refused; the statistic within problems."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import InputError, UndefinedEffectError
from interp.thinking import within
from interp.thinking.graph import (
    Branch,
    StepGraph,
    StepNode,
    failed_step_fraction,
    graph,
    parse_trace,
)
from interp.thinking.steps import segment

GIVEN = [("q", None), ("a", "q"), ("b", "a"), ("c", "q"), ("d", "c"), ("e", "c"), ("f", "e")]
"""q has the branches a b and c (d, e f)."""


def test_fsf_and_branches_of_a_given_graph_by_hand():
    found = graph(GIVEN, failed=["a", "b", "d"])
    assert failed_step_fraction(found) == 3 / 7
    assert found.failed_branches == (
        Branch(("a", "b"), None, None),
        Branch(("d",), None, None),
    )
    assert failed_step_fraction(graph(GIVEN)) == 0 and graph(GIVEN).failed_branches == ()


def test_the_order_of_the_chain_decides_not_the_order_of_failing():
    """d comes before a in this chain; a child may be given before its parent."""
    shuffled = [GIVEN[i] for i in (4, 0, 3, 2, 1, 5, 6)]
    found = graph(shuffled, failed=["a", "b", "d"])
    assert [branch.steps for branch in found.failed_branches] == [("d",), ("b", "a")]
    assert failed_step_fraction(found) == 3 / 7


def test_a_chain_that_failed_as_a_whole_is_one_branch():
    found = graph(GIVEN, failed=[step for step, _ in GIVEN])
    assert failed_step_fraction(found) == 1
    assert [branch.steps for branch in found.failed_branches] == [tuple("qabcdef")]


TRACE = " A B D backtrack B E backtrack B backtrack A C F answer 2"


def test_a_marked_trace_by_hand():
    """B failed with D and E below it; A, C and F did not: 3 of 6."""
    found = parse_trace(TRACE)
    assert [(n.id, n.parent, n.failed) for n in found.nodes] == [
        ("0:A", None, False),
        ("1:B", "0:A", True),
        ("2:D", "1:B", True),
        ("3:E", "1:B", True),
        ("4:C", "0:A", False),
        ("5:F", "4:C", False),
    ]
    assert failed_step_fraction(found) == 0.5
    (branch,) = found.failed_branches
    assert branch.steps == ("1:B", "2:D", "3:E")
    assert TRACE[branch.start : branch.end] == " B D backtrack B E backtrack B backtrack A"
    assert TRACE[found.nodes[2].start : found.nodes[2].closed] == " D backtrack B"


def test_a_return_over_several_steps_fails_them_all():
    found = parse_trace("A B D backtrack A C")
    assert [n.failed for n in found.nodes] == [False, True, True, False]
    assert [b.steps for b in found.failed_branches] == [("1:B", "2:D")]


def test_a_name_on_the_way_twice_means_the_nearest():
    found = parse_trace("A B A C backtrack A D")
    assert found.parents["4:D"] == "2:A" and found.failed == {"3:C"}


def test_marks_without_names_go_back_one_step():
    found = parse_trace("a b c backtrack d backtrack backtrack e", names_return=False)
    assert [(n.id, n.parent) for n in found.nodes if not n.failed] == [
        ("0:a", None),
        ("4:e", "0:a"),
    ]
    assert failed_step_fraction(found) == 3 / 5


def test_a_trace_that_stops_inside_a_branch_has_only_failed_what_it_left():
    found = parse_trace(" A B D backtrack B")
    assert found.failed == {"2:D"}


def test_stray_returns_are_skipped_and_counted():
    """B returns to Z, which is nowhere: C goes on from B. The last mark names nothing."""
    found = parse_trace(" A B backtrack Z C backtrack A D backtrack", stray="skip")
    assert [(n.id, n.parent, n.failed) for n in found.nodes] == [
        ("0:A", None, False),
        ("1:B", "0:A", True),
        ("2:C", "1:B", True),
        ("3:D", "0:A", False),
    ]
    assert found.strays == 2 and failed_step_fraction(found) == 0.5
    assert parse_trace("a backtrack b", names_return=False, stray="skip").strays == 1
    assert parse_trace(TRACE, stray="skip") == parse_trace(TRACE)


def test_an_unknown_way_with_strays_is_refused():
    """Where annotations are not checked, as they are in tests."""
    with pytest.raises(InputError) as caught:
        inspect.unwrap(parse_trace)("A B", stray="ignore")  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == (
        'There is no way \'ignore\' with stray returns: say "refuse" or "skip".'
    )


def test_sentences_may_be_the_steps():
    text = "Try 3. It is odd. Back. Try 4. It works."
    found = parse_trace(text, mark="Back.", names_return=False, steps=segment(text))
    assert [n.id for n in found.nodes if n.failed] == ["1:It is odd."]
    (branch,) = found.failed_branches
    assert text[branch.start : branch.end] == "It is odd. Back. "


REFUSED = [
    (
        lambda: StepGraph(()),
        "A step graph needs at least one step: it is a share of steps that fail.",
    ),
    (
        lambda: graph([("a", None), ("a", None)]),
        "The step 'a' is given twice: give every step an id of its own.",
    ),
    (
        lambda: graph([("step1", None), ("b", "stepl")]),
        "The step 'b' goes on from 'stepl', which is no step; there are 'step1', 'b'. "
        "Did you mean 'step1'?",
    ),
    (
        lambda: graph([("a", None), ("b", "d"), ("c", "b"), ("d", "c")]),
        "The steps 'b' -> 'd' -> 'c' -> 'b' go on from each other in a circle: a step comes before "
        "all that goes on from it.",
    ),
    (
        lambda: graph([("a", "a")]),
        "The steps 'a' -> 'a' go on from each other in a circle: a step comes before all that goes "
        "on from it.",
    ),
    (
        lambda: graph([("a", None), ("b", None), ("c", "b")]),
        "2 steps have no parent, 'a', 'b': a chain has one first step. Add a step for the question "
        "and let them go on from it.",
    ),
    (
        lambda: graph([("a", None), ("b", "a"), ("c", "b")], failed=["b"]),
        "The step 'c' has not failed but goes on from 'b', which has: what lies below a failed "
        "step was abandoned with it. Mark it, or give it another parent.",
    ),
    (
        lambda: graph([("a", None)], failed=["z"]),
        "failed names 'z', which is no step; there are 'a'.",
    ),
    (
        lambda: StepGraph((StepNode("a", None, start=4, end=2),)),
        "The step 'a' has the span 4 to 2, closed at None: give 0 <= start < end <= closed in "
        "characters, or none of them.",
    ),
    (
        lambda: parse_trace(" answer A"),
        "The trace ' answer A' has no step, so it has no graph: drop it.",
    ),
    (
        lambda: parse_trace("A B backtrack C"),
        "At character 13 the trace goes back to 'C', which is not above the current step (A is): "
        'drop the trace, or pass stray="skip".',
    ),
    (
        lambda: parse_trace("A B backtrack"),
        "At character 3 'backtrack' names no step to go back to: cut it off, pass "
        'names_return=False, or pass stray="skip".',
    ),
    (
        lambda: parse_trace("A backtrack", names_return=False),
        "At character 1 the trace goes back from its first step, and nothing is above it: drop "
        'the trace, or pass stray="skip".',
    ),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_what_is_no_tree_is_refused_in_words(i):
    make, message = REFUSED[i]
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


# ------------------------------------------------------------------------------- within a problem


def test_the_within_correlation_by_hand():
    """Centred: x = -1 1 | -3 1 2, y = 1/2 -1/2 | 2/3 -1/3 -1/3.

    sum xy = -1/2 - 1/2 - 2 - 1/3 - 2/3 = -4; sum xx = 2 + 14; sum yy = 1/2 + 2/3.
    """
    x, y, names = [1, 3, 4, 8, 9], [1, 0, 1, 0, 0], list("aabbb")
    found = within.association(x, y, names, n_boot=50)
    assert found.within.estimate == pytest.approx(-4 / np.sqrt(16 * 7 / 6))
    assert found.pooled.estimate == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert (found.n_chains, found.n_problems, found.n_telling) == (5, 2, 2)
    assert found.within.n_units == 2 and "only 2 problems" in (found.within.warning or "")


def test_a_problem_in_which_nothing_varies_tells_nothing():
    x, y, names = [1, 3, 4, 8, 9], [1, 0, 1, 0, 0], list("aabbb")
    more = within.association([*x, 5, 7], [*y, 1, 1], [*names, "c", "c"], n_boot=20)
    alone = within.association([*x, 5, 5], [*y, 1, 0], [*names, "c", "c"], n_boot=20)
    assert (more.n_telling, alone.n_telling) == (2, 2) and more.n_problems == 3


def test_the_estimator_tells_the_arms_apart_and_the_pooled_correlation_does_not():
    causal, confounded = (
        within.association(drawn.fsf, drawn.correct, drawn.problems, n_boot=500)
        for drawn in (within.simulate(arm, n_problems=60, n_chains=32) for arm in within.ARMS)
    )
    assert causal.within.high < 0 and causal.pooled.high < 0
    assert confounded.within.low < 0 < confounded.within.high
    assert confounded.pooled.high < -0.1


def test_the_interval_covers_zero_at_about_its_level_in_the_confounded_arm():
    """20 draws at level 0.9: 18 expected; fewer than 14 would have a chance of 0.2 %."""
    covered = 0
    for seed in range(20):
        drawn = within.simulate("confounded", n_problems=40, n_chains=12, seed=seed)
        each = within.association(
            drawn.fsf, drawn.correct, drawn.problems, n_boot=50, level=0.9
        ).within
        covered += each.low <= 0 <= each.high
    assert 14 <= covered <= 20


def test_selection_by_hand():
    """a: the lowest is right, one of two are. b: two tie, one of them right, one of three is."""
    found = within.select_lowest(
        [0.1, 0.5, 0.2, 0.2, 0.9], [1, 0, 1, 0, 0], list("aabbb"), n_boot=20
    )
    assert found.chosen.estimate == pytest.approx((1 + 1 / 2) / 2)
    assert found.at_random.estimate == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.gain.estimate == pytest.approx(1 / 3)


def test_selection_by_a_constant_gains_exactly_nothing():
    found = within.select_lowest([3.0] * 6, [1, 0, 0, 1, 1, 0], list("aaabbb"), n_boot=20)
    assert found.gain.estimate == found.gain.low == found.gain.high == 0


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=4, max_size=12))
def test_the_within_correlation_ignores_what_is_added_to_a_problem(chains):
    x, y = np.array([c[0] for c in chains]).round(3), [c[1] for c in chains]
    names = [i % 2 for i in range(len(chains))]
    try:
        one = within.association(x, y, names, n_boot=1)
    except UndefinedEffectError:
        return
    other = within.association(x + 5 * np.array(names), y, names, n_boot=1)
    assert one.within.estimate == pytest.approx(other.within.estimate, abs=1e-9)
    assert -1 <= one.within.estimate <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([0.1, 0.2], [1], "aa"),
            "There are 2 values, 1 judgements and 2 problem names: give one of each for every "
            "chain.",
        ),
        (
            ([0.1, float("nan")], [1, 0], "aa"),
            "values[1] is nan: a chain without the statistic cannot be ranked; drop it and say how "
            "many you dropped.",
        ),
        (
            ([0.1, 0.2], [1, 0.5], "aa"),
            "correct holds something else than right (1) and wrong (0): judge first.",
        ),
    ],
)
def test_bad_chains_are_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        within.association(*arguments)
    assert str(caught.value) == message


def test_chains_that_never_differ_have_no_correlation_in_words():
    with pytest.raises(UndefinedEffectError) as caught:
        within.association([0.1, 0.2, 0.3], [1, 1, 0], ["a", "a", "b"])
    assert str(caught.value) == (
        "In none of 2 problems do chains differ both in the statistic and in being right, so "
        "nothing can go together within one: sample more chains a problem."
    )


def test_an_unknown_arm_and_too_few_chains_are_refused():
    with pytest.raises(
        InputError, match=r"^n_problems=3, n_chains=1: give at least 1 problem of 2"
    ):
        within.simulate("causal", n_problems=3, n_chains=1)
