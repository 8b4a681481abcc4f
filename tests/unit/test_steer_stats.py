"""Layers chosen on one split and flips counted on the other, by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from interp.errors import InputError
from interp.thinking.steer_items import Item
from interp.thinking.steer_layers import Trial, choose_layer, curve_of, split_problems
from interp.thinking.steer_stats import curve_rows, summarise

SPLIT = {"a": "select", "b": "select", "c": "test", "d": "test"}


def trial(
    problem, layer, outcome="kept", shift=0.0, *, arm="direction", twin=None, step=0, test="engage"
):
    """One trial; its outcome is `kept`, `flipped` or `lost` (unparsable)."""
    return Trial(
        problem=problem,
        step=step,
        seed=0,
        test=test,
        arm=arm,
        twin=twin,
        layer=layer,
        coefficient=1.0,
        answer=None if outcome == "lost" else "1",
        flipped=outcome == "flipped",
        unparsable=outcome == "lost",
        logprob=-1.0 + shift,
        base_logprob=-1.0,
    )


def item(problem, test="engage", step=0):
    """An item of which only the names matter."""
    return Item(problem, step, 0, test, "", (1,), (0, 1), "1", (1,), 0.0, "1", -1.0)


def arm_at(outcomes, **options):
    """Trials of one arm: outcomes by problem, by layer."""
    return [
        trial(problem, layer, outcome, **options)
        for layer, row in outcomes.items()
        for problem, outcome in zip("abcd", row, strict=True)
    ]


K, F, L = "kept", "flipped", "lost"


def test_the_layer_has_the_most_flips_less_unparsable_answers():
    # select: layer 0 flips 1 and loses 1, so 0; layer 1 flips 1 of 2; layer 2 flips none.
    trials = arm_at({0: (F, L, F, F), 1: (F, K, K, K), 2: (K, K, F, F)})
    assert choose_layer(trials, SPLIT) == 1


@pytest.mark.parametrize(("test", "best"), [("engage", 2), ("disengage", 1)])
def test_equals_are_told_apart_by_the_wanted_shift(test, best):
    shifts = {0: 0.0, 1: 0.5, 2: -0.5}
    trials = [trial(p, at, F, shift, test=test) for at, shift in shifts.items() for p in "ab"]
    assert choose_layer(trials, SPLIT) == best


def test_of_equals_in_all_the_earlier_layer_is_taken():
    trials = [trial(p, at, F, 0.25) for at in (7, 3, 5) for p in "ab"]
    assert choose_layer(trials, SPLIT) == 3


def test_a_shift_that_is_not_finite_never_wins():
    trials = [trial("a", 0, F, float("-inf")), trial("a", 1, F, -0.1)]
    assert choose_layer(trials, SPLIT) == 1


def test_an_arm_at_one_layer_has_no_choice():
    assert choose_layer([trial("c", 4, F)], SPLIT) == 4
    assert choose_layer([replace(trial("c", 4, F), layer=None)], SPLIT) is None


def test_several_layers_need_an_item_to_choose_on():
    with pytest.raises(InputError, match=r"^no item of the selection split, so no layer can be"):
        choose_layer([trial("c", 4), trial("c", 5)], SPLIT)


def test_summary_by_hand():
    # Layer 1 wins on a, b. On the test split it flips c in 2 of 3 steps, d not; the best there
    # would have been layer 0 with all four.
    trials = [trial(p, 0, K) for p in "ab"] + [trial(p, 1, F) for p in "ab"]
    trials += [trial("c", 0, F, step=s) for s in range(3)] + [trial("d", 0, F)]
    trials += [trial("c", 1, o, -3.0, step=s) for s, o in enumerate((F, F, L))]
    trials += [trial("d", 1, K, 1.0)]
    (result,) = summarise(trials, SPLIT)
    assert (result.layer, result.n_items, result.n_problems) == (1, 4, 2)
    assert result.flips.estimate == 0.5 and result.unparsable.estimate == 0.25
    assert result.shift.estimate == -2.0
    # Resamples of two problems: (c, c) 2/3, (c, d) 2/4, (d, d) 0.
    assert result.flips.low == 0.0 and result.flips.high == pytest.approx(2 / 3)
    assert result.flips.n_units == 2 and result.difference is None
    assert result.warnings == ("only 2 problems: the interval is probably too narrow",)


def test_the_difference_is_paired_by_item():
    direction = arm_at({0: (K, K, K, F), 1: (F, F, F, F)})
    other = arm_at({0: (F, F, F, K), 1: (K, K, K, K)}, arm="attention_mask")
    found = {result.arm: result for result in summarise(direction + other, SPLIT)}
    assert found["attention_mask"].layer == 0 and found["direction"].layer == 1
    difference = found["attention_mask"].difference  # c: 1 - 1, d: 1 - 0
    assert (difference.estimate, difference.low, difference.high) == (0.5, 0.0, 1.0)
    assert found["direction"].difference is None


def test_an_item_that_an_arm_lacks_is_left_out_of_the_difference():
    direction = arm_at({1: (F, F, F, K)})
    other = [trial(p, None, K, arm="drop_step") for p in "abc"]
    found = {result.arm: result for result in summarise(direction + other, SPLIT)}
    assert found["drop_step"].difference.estimate == 1.0  # c alone
    assert found["drop_step"].difference.n_units == 1
    assert found["drop_step"].difference.low is None
    assert found["drop_step"].layer is None and found["drop_step"].n_items == 1


def test_twins_choose_their_own_layers_and_are_averaged_item_by_item():
    direction = arm_at({0: (F, F, F, F), 1: (K, K, K, K)})
    first = arm_at({0: (F, F, F, K), 1: (K, K, F, F)}, arm="random", twin=0)
    second = arm_at({0: (K, K, F, F), 1: (F, K, K, K)}, arm="random", twin=1)
    results = summarise(direction + first + second, SPLIT)
    rows = [(r.arm, r.twin, r.n_twins, r.layer, r.flips.estimate) for r in results]
    assert rows == [
        ("direction", None, 0, 0, 1.0),
        ("random", None, 2, None, 0.25),  # c: (1 + 0) / 2, d: (0 + 0) / 2
        ("random", 0, 0, 0, 0.5),
        ("random", 1, 0, 1, 0.0),
    ]
    assert results[1].difference.estimate == 0.75
    assert results[1].rank == pytest.approx(1 / 3)  # the direction alone, of three
    assert "only 2 random directions: give at least 20" in results[1].warnings
    points = {(p.layer, p.split): p.flips for p in results[1].curve}
    assert points == {
        (0, "select"): 0.5,
        (1, "select"): 0.25,
        (0, "test"): 0.75,
        (1, "test"): 0.5,
    }


def test_twins_at_least_as_good_as_the_direction_raise_its_rank():
    direction = arm_at({0: (F, F, F, K)})
    equal = arm_at({0: (F, F, K, F)}, arm="random", twin=0)
    worse = arm_at({0: (F, F, K, K)}, arm="random", twin=1)
    pooled = summarise(direction + equal + worse, SPLIT)[1]
    assert pooled.rank == pytest.approx(2 / 3)


def test_twenty_random_twins_carry_no_warning_for_their_number():
    twins = [t for k in range(20) for t in arm_at({0: (K, K, K, K)}, arm="random", twin=k)]
    pooled = summarise(arm_at({0: (F, F, F, F)}) + twins, SPLIT)[1]
    assert pooled.n_twins == 20 and pooled.rank == pytest.approx(1 / 21)
    assert not any("random directions" in warning for warning in pooled.warnings)


def test_one_problem_has_no_interval_and_says_so():
    trials = [trial(p, 0, F) for p in "abc"]
    (result,) = summarise(trials, SPLIT)
    assert (result.flips.estimate, result.flips.low) == (1.0, None)
    assert result.warnings == ("one problem: no interval",)


def test_twenty_problems_carry_no_warning():
    split = {f"s{i}": "select" for i in range(2)} | {f"t{i}": "test" for i in range(20)}
    (result,) = summarise([trial(p, 0, F) for p in split], split)
    assert result.warnings == () and result.flips.n_units == 20


def test_an_empty_split_keeps_its_row_and_says_so():
    (untested,) = summarise([trial(p, at) for p in "ab" for at in (0, 1)], SPLIT)
    assert untested.flips is None and untested.n_items == 0
    assert untested.warnings == ("no item of the test split, so nothing is reported",)
    (unchosen,) = summarise([trial(p, at) for p in "cd" for at in (0, 1)], SPLIT)
    assert unchosen.flips is None and unchosen.layer is None
    assert unchosen.warnings == ("no item of the selection split, so no layer can be chosen",)
    assert len(unchosen.curve) == 2


def test_logprobs_that_are_not_finite_are_left_out_and_counted():
    trials = [trial("a", 0), trial("c", 0, K, float("-inf")), trial("d", 0, K, -1.0)]
    (result,) = summarise(trials, SPLIT)
    assert result.shift.estimate == -1.0 and result.n_items == 2
    assert "1 log-probabilities are not finite and are left out of the shift" in result.warnings


def test_rows_are_flat():
    results = summarise(arm_at({0: (F, K, F, L), 1: (K, K, K, K)}), SPLIT)
    (row,) = [result.row() for result in results]
    assert all(value is None or isinstance(value, str | int | float) for value in row.values())
    json.dumps(row, allow_nan=False)
    assert (row["flips"], row["unparsable"], row["layer"], row["arm"]) == (0.5, 0.5, 0, "direction")
    curve = curve_rows(results)
    assert len(curve) == 4 and {point["split"] for point in curve} == {"select", "test"}
    assert curve[0] == {
        "test": "engage",
        "arm": "direction",
        "twin": None,
        "layer": 0,
        "split": "select",
        "flips": 0.5,
        "unparsable": 0.0,
        "shift": 0.0,
        "n_items": 2,
        "n_problems": 2,
    }
    assert curve_of(arm_at({0: (F, K, F, L), 1: (K, K, K, K)}), SPLIT) == results[0].curve


def test_trials_of_no_split_and_no_trials_are_refused():
    message = (
        r"^The problem 'z' is in neither split: split the problems of all items that were run\.$"
    )
    with pytest.raises(InputError, match=message):
        summarise([trial("z", 0)], SPLIT)
    with pytest.raises(InputError, match=r"^There are no trials to summarise: run `steer` on some"):
        summarise([], SPLIT)


def test_problems_are_dealt_evenly_in_each_test():
    items = [item(f"e{i}") for i in range(6)]
    items += [item(f"d{i}", "disengage") for i in range(2)]
    items += [item(f"b{i}", test) for i in range(2) for test in ("engage", "disengage")]
    split = split_problems(items)
    assert sorted(split.values()) == ["select"] * 5 + ["test"] * 5
    for test in ("engage", "disengage"):
        names = {each.problem for each in items if each.test == test}
        share = sum(split[name] == "select" for name in names) / len(names)
        assert 0.25 <= share <= 0.75


def test_other_seeds_and_shares_deal_otherwise():
    items = [item(f"e{i}") for i in range(20)]
    assert split_problems(items) == split_problems(list(reversed(items)))
    assert split_problems(items) != split_problems(items, seed=1)
    assert sum(each == "select" for each in split_problems(items, share=0.25).values()) == 5
    assert sum(each == "select" for each in split_problems(items, share=0.01).values()) == 1


@pytest.mark.parametrize(("names", "count"), [("", "0 problems"), ("aaa", "1 problem")])
def test_too_few_problems_to_split_are_refused(names, count):
    message = (
        f"^The items come from {count}, and the layer is chosen on other problems than it is "
        r"reported on: give items of at least 2 problems, better 40\.$"
    )
    with pytest.raises(InputError, match=message):
        split_problems([item(name, step=step) for step, name in enumerate(names)])


def test_a_share_that_leaves_a_split_empty_is_refused():
    with pytest.raises(InputError, match=r"^share=1\.0: the selection split takes more than 0 and"):
        split_problems([item("a"), item("b")], share=1.0)
