"""Laws of the steering tests: what the choice of a layer may see, and what order may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.thinking.steer_items import Item, batches
from interp.thinking.steer_layers import Trial, choose_layer, split_problems
from interp.thinking.steer_stats import summarise

PROBLEMS = ("a", "b", "c", "d", "e")
SPLIT = dict.fromkeys("abc", "select") | dict.fromkeys("de", "test")
OUTCOMES = st.sampled_from(["kept", "flipped", "lost"])


def outcome(trial, name, shift):
    """The trial with another outcome."""
    return replace(
        trial,
        flipped=name == "flipped",
        unparsable=name == "lost",
        answer=None if name == "lost" else "1",
        logprob=trial.base_logprob + shift,
    )


@st.composite
def runs(draw, arms=("direction",)):
    """Every problem's items under some arms at every layer."""
    test = draw(st.sampled_from(["engage", "disengage"]))
    n_layers = draw(st.integers(1, 4))
    keys = [(problem, step) for problem in PROBLEMS for step in range(draw(st.integers(1, 2)))]
    blank = [
        Trial(problem, step, 0, test, arm, None, layer, 1.0, "1", False, False, -2.0, -2.0)
        for arm in arms
        for layer in range(n_layers)
        for problem, step in keys
    ]
    return [outcome(t, draw(OUTCOMES), draw(st.floats(-3, 3, width=16))) for t in blank]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(runs(), st.data())
def test_check_13_test_items_never_enter_the_choice_of_the_layer(trials, data):
    changed = [
        outcome(trial, data.draw(OUTCOMES), data.draw(st.floats(-3, 3, width=16)))
        if SPLIT[trial.problem] == "test"
        else trial
        for trial in trials
    ]
    assert choose_layer(changed, SPLIT) == choose_layer(trials, SPLIT)
    (before,), (after,) = (summarise(each, SPLIT, n_boot=10) for each in (trials, changed))
    assert before.layer == after.layer
    parts = [[p for p in each.curve if p.split == "select"] for each in (before, after)]
    assert parts[0] == parts[1]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(runs())
def test_no_layer_is_better_on_the_selection_split(trials):
    def net(layer):
        mine = [t for t in trials if t.layer == layer and SPLIT[t.problem] == "select"]
        return sum(t.flipped - t.unparsable for t in mine)

    chosen = choose_layer(trials, SPLIT)
    layers = sorted({trial.layer for trial in trials})
    assert net(chosen) == max(map(net, layers))
    assert all(net(layer) <= net(chosen) for layer in layers)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(runs(arms=("direction", "attention_mask")), st.data())
def test_the_order_of_trials_changes_nothing(trials, data):
    shuffled = data.draw(st.permutations(trials))
    before, after = (
        {result.arm: result.row() for result in summarise(each, SPLIT, n_boot=50)}
        for each in (trials, shuffled)
    )
    for arm, row in before.items():
        assert row.keys() == after[arm].keys()
        assert all(after[arm][name] == pytest.approx(value) for name, value in row.items())


@settings(deadline=None, derandomize=True, max_examples=30)
@given(runs(arms=("direction", "attention_mask")))
def test_shares_are_shares_and_differences_are_antisymmetric(trials):
    first, second = summarise(trials, SPLIT, n_boot=20)
    for result in (first, second):
        assert 0 <= result.flips.estimate <= 1
        assert result.flips.estimate + result.unparsable.estimate <= 1 + 1e-12
        assert result.flips.low <= result.flips.estimate + 1e-12
    gap = first.flips.estimate - second.flips.estimate
    assert second.difference.estimate == pytest.approx(gap)
    reverse = summarise(trials, SPLIT, against="attention_mask", n_boot=20)[0]
    assert reverse.difference.estimate == pytest.approx(-gap)


def item(problem, step, test, n_tokens):
    """An item of which only its names and length matter."""
    return Item(problem, step, 0, test, "", (1,) * n_tokens, (0, 1), "1", (1,), 0.0, "1", -1.0)


ITEMS = st.lists(
    st.tuples(
        st.sampled_from(PROBLEMS),
        st.integers(0, 5),
        st.sampled_from(["engage", "disengage"]),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda each: each[:3],
).map(lambda each: [item(*parts) for parts in each])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ITEMS, st.integers(1, 120))
def test_batches_hold_each_item_once_within_the_limit(items, tokens):
    groups = batches(items, tokens)
    assert sorted(each.key for group in groups for each in group) == sorted(i.key for i in items)
    for group in groups:
        assert len({each.test for each in group}) == 1
        assert len(group) == 1 or sum(len(each.ids) for each in group) <= tokens


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ITEMS, st.integers(0, 3), st.floats(0.1, 0.9), st.data())
def test_a_split_holds_each_problem_once_and_leaves_no_side_empty(items, seed, share, data):
    problems = {each.problem for each in items}
    if len(problems) < 2:
        return
    split = split_problems(items, seed, share)
    assert set(split) == problems and set(split.values()) == {"select", "test"}
    chosen = sum(part == "select" for part in split.values())
    assert abs(chosen - share * len(problems)) <= 1
    shuffled = data.draw(st.permutations(items))
    assert split_problems(shuffled, seed, share) == split
