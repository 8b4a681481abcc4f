"""The sets behind the TrueThinking direction: thresholds, matching, caps and warnings, by hand."""

from __future__ import annotations

import json

import pytest

from interp.errors import InputError
from interp.thinking.sets import Sets, choose_sets, stratum
from tests.strategies import says
from tests.thinking_cases import scored_chain

ANY = {"bins": 1, "fewest": 2}
"""One bin of position, and nothing is scarce."""


def chain(name: str, tts, **options):
    return scored_chain(name, [f"Step {i} is {i}. " for i in range(len(tts))], tts, **options)


def places(steps) -> set[tuple[str, int]]:
    return {(step.id, step.step) for step in steps}


# ---------------------------------------------------------------- thresholds


def test_thresholds_are_inclusive_and_what_lies_between_is_in_no_set():
    scored = [chain("a", [0.9, 0.005, 0.5]), chain("b", [0.0, 0.8999, 1.0, 0.0051])]
    found = choose_sets(scored, **ANY)
    assert places(found.true) == {("a", 0), ("b", 2)}
    assert places(found.decorative) == {("a", 1), ("b", 0)}
    assert (found.true_from, found.decorative_to, found.warnings) == (0.9, 0.005, ())
    assert found.steps == found.true + found.decorative


def test_steps_without_numbers_are_in_no_set():
    ops = ["drop", "edit", "edit", "drop", "edit", "edit"]
    found = choose_sets([chain("a", [1, 1, 1, 0, 0, 0], ops=ops)], **ANY)
    assert places(found.true) == {("a", 1), ("a", 2)}
    assert places(found.decorative) == {("a", 4), ("a", 5)}


def test_a_scarce_true_set_lowers_its_threshold_and_says_so():
    """Scores of 0.95, 0.72 and 0.71: two steps from 0.9 down to 0.8 are too few, 0.7 has three."""
    scored = [chain(str(i), [tts, 0, 0]) for i, tts in enumerate((0.95, 0.72, 0.71, 0.1))]
    found = choose_sets(scored, bins=1, fewest=3)
    assert found.true_from == 0.7
    assert places(found.true) == {("0", 0), ("1", 0), ("2", 0)}
    assert found.warnings == ("True steps are scarce: the threshold was lowered from 0.9 to 0.7.",)


def test_where_nothing_is_enough_the_highest_threshold_of_the_most_steps_is_used():
    scored = [chain(str(i), [tts, 0, 0]) for i, tts in enumerate((0.95, 0.72, 0.71, 0.1))]
    found = choose_sets(scored, bins=1, fewest=4)
    assert found.true_from == 0.7 and len(found.true) == 3  # 0.6 ... 0.3 have no more
    assert found.warnings[1:] == (
        "Only 3 true steps were found, fewer than 4.",
        "Only 3 decorative steps were found, fewer than 4.",
    )


def test_the_threshold_never_falls_below_lowest_and_one_below_lowest_stays():
    scored = [chain(str(i), [tts, 0]) for i, tts in enumerate((0.95, 0.55, 0.2, 0.2))]
    assert choose_sets(scored, bins=1, fewest=4, lowest=0.5).true_from == 0.5
    low = choose_sets(scored, bins=1, fewest=4, true_from=0.15)
    assert low.true_from == 0.15 and len(low.true) == 4 and low.warnings == ()


def test_a_bin_of_scores_leaves_out_what_scores_more():
    scored = [chain(str(i), [tts, 0]) for i, tts in enumerate((0.95, 0.9, 0.7, 0.5, 0.4))]
    found = choose_sets(scored, true_from=0.5, true_below=0.9, lowest=0.5, **ANY)
    assert places(found.true) == {("2", 0), ("3", 0)}


# ---------------------------------------------------------------- matching


def test_both_sets_are_matched_on_position_and_on_stating_the_answer():
    """Four steps a chain, two bins: true steps are late and state the answer, but for one. Only as
    many decorative steps as there are in the same stratum have a partner."""
    late = dict(mentions=[False, False, False, True])
    scored = [
        chain("a", [0, 0, 1, 1], **late),
        chain("b", [0, 0, 1, 1], **late),
        chain("c", [1, 0, 0, 0], **late),
        chain("d", [1, 0, 0.5, 0.5], **late),
    ]
    found = choose_sets(scored, bins=2, fewest=2)
    assert found.balance == (
        {"position_from": 0.0, "position_to": 0.5, "mentions_answer": False}
        | {"true": 2, "decorative": 6, "true_chosen": 2, "decorative_chosen": 2},
        {"position_from": 0.5, "position_to": 1.0, "mentions_answer": False}
        | {"true": 2, "decorative": 1, "true_chosen": 1, "decorative_chosen": 1},
        {"position_from": 0.5, "position_to": 1.0, "mentions_answer": True}
        | {"true": 2, "decorative": 1, "true_chosen": 1, "decorative_chosen": 1},
    )
    assert places(found.true) > {("c", 0), ("d", 0)} and len(found.true) == 4
    assert places(found.decorative) > {("c", 2), ("c", 3)} and len(found.decorative) == 4
    every = choose_sets(scored, bins=2, fewest=2, match=False)
    assert (len(every.true), len(every.decorative)) == (6, 8)
    assert every.warnings == (
        "The sets are not matched, so the direction may encode where steps stand or whether they "
        "state the answer.",
    )


def test_the_bins_of_position_are_even_and_the_last_step_is_in_the_last_bin():
    steps = chain("a", [0] * 5).means  # positions 0, 1/4, 1/2, 3/4 and 1
    assert [stratum(step, 4)[0] for step in steps] == [0, 1, 2, 3, 3]
    assert [stratum(step, 2)[0] for step in steps] == [0, 0, 1, 1, 1]
    assert Sets((), (), 0.9, 0.0, bins=2).stratum(steps[2]) == (1, False)


def test_no_problem_gives_more_than_its_share_and_no_side_more_than_the_most():
    scored = [chain("a", [1] * 9 + [0] * 9), chain("b", [1, 1, 0, 0])]
    found = choose_sets(scored, per_problem=3, **ANY)
    notes = found.notes()
    assert notes["true_by_problem"] == notes["decorative_by_problem"] == {"a": 3, "b": 2}
    few = choose_sets(scored, per_problem=3, most=4, **ANY)
    assert (len(few.true), len(few.decorative)) == (4, 4)
    assert places(few.true) < places(found.true)


def test_the_draw_is_the_seeds_and_not_the_orders():
    scored = [chain(str(i), [1] * 4 + [0] * 4) for i in range(6)]
    one = choose_sets(scored, per_problem=2, seed=1, **ANY)
    assert one == choose_sets(scored[::-1], per_problem=2, seed=1, **ANY)
    assert places(one.true) != places(choose_sets(scored, per_problem=2, seed=2, **ANY).true)


# ---------------------------------------------------------------- warnings and notes


def test_sets_of_one_problem_carry_a_warning():
    scored = [chain("only", [1, 1, 0, 0]), chain("b", [0.5, 0, 0, 0])]
    found = choose_sets(scored, per_problem=2, seed=0, **ANY)
    assert found.warnings[0] == (
        "All 2 true steps are of one problem, 'only': the direction may be that problem's alone."
    )


def test_saturated_decorative_steps_are_counted_and_most_of_them_warned_of():
    def sets_of(n: int) -> Sets:
        marks = [False] * 4 + [True] * n + [False] * (4 - n)
        one, other = (chain(name, [1] * 4 + [0] * 4, saturated=marks) for name in ("a", "b"))
        return choose_sets([one, other], **ANY)

    assert (sets_of(2).notes()["decorative_saturated"], sets_of(2).warnings) == (4, ())
    assert sets_of(3).warnings == (
        "6 of 8 decorative steps are saturated: the answer was sure or hopeless whatever they "
        "said, which is no evidence that they are decorative.",
    )


def test_true_steps_that_mostly_lower_the_answer_carry_a_warning():
    def sets_of(signs) -> Sets:
        return choose_sets(
            [chain(name, [1, 1, 0, 0], signs=[*signs, 1, 1]) for name in ("a", "b")], **ANY
        )

    assert sets_of([1, -1]).warnings == ()
    assert sets_of([-1, -1]).warnings == (
        "4 of 4 true steps lower the answer's probability: they move the answer, but away from it.",
    )


def test_the_notes_are_json_and_count_problems():
    found = choose_sets([chain("b", [1, 0]), chain("a", [1, 0])], **ANY)
    notes = found.notes()
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes
    assert notes | {"balance": []} == {
        "true_from": 0.9,
        "decorative_to": 0.005,
        "n_true": 2,
        "n_decorative": 2,
        "true_by_problem": {"a": 1, "b": 1},
        "decorative_by_problem": {"a": 1, "b": 1},
        "decorative_saturated": 0,
        "bins": 1,
        "balance": [],
        "warnings": [],
    }
    assert [row["true_chosen"] for row in notes["balance"]] == [2]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("scored", "settings", "message"),
    [
        (
            [],
            {},
            "No step with a number has a score, so there is nothing to choose from: give chains "
            "with numeric steps, and score them first.",
        ),
        (
            [chain("a", [1, 0], ops=["drop", "drop"])],
            {},
            "No step with a number has a score, so there is nothing to choose from: give chains "
            "with numeric steps, and score them first.",
        ),
        (
            [chain("a", [0.0, 0.02, 0.1], saturated=[True, False, True])],
            {},
            "No step scores at least 0.3, so none is true thinking and there is no direction to "
            "find: the 3 numeric steps score from 0 to 0.1, 2 of them saturated. No single step's "
            "numbers move the answer so far; take other problems, or give a smaller lowest.",
        ),
        (
            [chain("a", [0.95, 0.0])],
            {"true_from": 0.5, "true_below": 0.9, "lowest": 0.5},
            "No step scores from 0.5 to below 0.9, so there is no direction of that bin: the 2 "
            "numeric steps score from 0 to 0.95.",
        ),
        (
            [chain("a", [0.95, 0.2])],
            {},
            "No step scores at most 0.005, so none is decorative and there is no direction to "
            "find: the 2 numeric steps score from 0.2 to 0.95. Score more chains, or give a larger "
            "decorative_to.",
        ),
        (
            [chain("a", [1, 1, 0.5, 0, 0])],  # true steps early, decorative ones late
            {},
            "0 true steps (score from 0.3) have a decorative one (up to 0.005) at their place in "
            "the chain that mentions the answer or not as they do, and a direction needs 2 of "
            "each: score more chains, or give fewer bins or match=False.",
        ),
        (
            [chain("a", [1, 0]), chain("b", [0, 1]), chain("a", [1, 0])],
            {},
            "The id 'a' stands for more than one chain: give each chain an id of its own.",
        ),
        (
            [],
            {"true_from": 0.2, "decorative_to": 0.3},
            "decorative_to=0.3, lowest=0.3, true_from=0.2, true_below=inf: the first must be below "
            "the others, true_from at most 1 and below true_below.",
        ),
        ([], {"bins": 0}, "bins=0: give at least 1."),
        ([], {"per_problem": 0}, "per_problem=0: give at least 1."),
        ([], {"most": 1}, "most=1: give at least 2."),
        ([], {"fewest": 0}, "fewest=0: give at least 2."),
    ],
)
def test_what_gives_no_sets_is_refused(scored, settings, message):
    with says(InputError, message):
        choose_sets(scored, **settings)


def test_unmatched_sets_of_the_refused_case_can_be_had():
    found = choose_sets([chain("a", [1, 1, 0.5, 0, 0])], match=False)
    assert (len(found.true), len(found.decorative)) == (2, 2)
    assert found.true_from == 0.9  # both sides are scarce, and 0.5 would help but one
