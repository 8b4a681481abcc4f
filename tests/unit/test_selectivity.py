"""Effects of one direction, in nats, beside those of a control task with arbitrary labels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from interp.alignment.fitting import Budget
from interp.alignment.selectivity import (
    METHODS,
    along,
    control_task,
    das,
    effect,
    effect_along,
    selectivity,
)
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

N, D, AXIS = 600, 8, 2
QUICK = Budget(steps=60, batch=64, learning_rate=5e-2, check_every=20)
TRAIN, TEST = torch.arange(400), torch.arange(400, N)


def planted():
    """Coordinate 2 holds the variable and alone makes the answer; the rest is noise."""
    stream = torch.Generator().manual_seed(0)
    value = torch.randint(0, 2, (N,), generator=stream)
    states = torch.randn(N, D, generator=stream)
    states[:, AXIS] = 2 * value - 1 + 0.1 * torch.randn(N, generator=stream)

    def finish(changed, rows):
        return torch.stack([-2 * changed[:, AXIS], 2 * changed[:, AXIS]], 1)

    return Cut("planted", states, finish), value


def pairs(value, rows, n, seed):
    stream = torch.Generator().manual_seed(seed)
    base, source = (rows[torch.randint(len(rows), (n,), generator=stream)] for _ in range(2))
    active = torch.ones(n, 1, dtype=torch.bool)
    return Pairs(("v",), base, source[:, None], active, value[source], value[base])


def both(value):
    return pairs(value, TRAIN, 500, 1), pairs(value, TEST, 300, 2)


def test_the_effect_by_hand():
    clean = torch.tensor([[2.0, 0.0, 9.0], [1.0, 4.0, 0.0]])
    edited = torch.tensor([[0.5, 1.0, -9.0], [1.0, 4.0, 5.0]])
    # first: log-odds of 0 over 1 fall from 2 to -0.5; second: those of 1 over 2 from 4 to -1
    found = effect(clean, edited, torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert found.tolist() == [2.5, 5.0]
    shifted = effect(clean + 3, edited - 7, torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert shifted.tolist() == [2.5, 5.0], "a constant on all logits is no effect"


def test_a_state_swapped_with_itself_has_no_effect():
    cut, value = planted()
    same = pairs(value, TEST, 50, 0)
    same = replace(same, sources=same.base[:, None])
    direction = torch.nn.functional.normalize(torch.ones(D), dim=0)
    assert torch.equal(effect_along(cut, same, direction), torch.zeros(50).double())


def test_only_the_coordinate_along_the_direction_is_exchanged():
    w = torch.tensor([0.6, 0.8])
    new = along(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]]), w)
    torch.testing.assert_close(new @ w, torch.tensor([4.0]))  # the source's
    across = torch.tensor([-0.8, 0.6])
    torch.testing.assert_close(new @ across, torch.tensor([-0.8]))  # the base's


@pytest.mark.parametrize("method", ["difference", "probe", "das"])
def test_methods_that_know_the_labels_find_the_planted_axis_and_select_it(method):
    cut, value = planted()
    methods = {**METHODS, "das": partial(das, budget=QUICK)}
    found = selectivity(cut, *both(value), method, methods=methods)
    assert found.swap == pytest.approx(8.0, abs=0.2)  # 2 nats a unit, 2 units, two logits
    assert found.task.estimate > 0.9 * found.swap
    assert abs(found.control.estimate) < 1.0
    assert found.selectivity.low is not None and found.selectivity.low > 5
    assert found.selectivity.estimate == pytest.approx(
        found.task.estimate - found.control.estimate, abs=1e-9
    )


def test_a_random_direction_earns_what_it_overlaps():
    cut, value = planted()
    found = selectivity(cut, *both(value), "random", seed=1)
    direction = METHODS["random"](cut, both(value)[0], 1)
    assert found.task.estimate == pytest.approx(8 * float(direction[AXIS]) ** 2, abs=1.0)
    assert found.task.estimate < 4


def test_a_network_that_ignores_the_axis_selects_nothing():
    cut, value = planted()
    deaf = Cut(
        "deaf", cut.states, lambda states, rows: torch.stack([states[:, 5], states[:, 6]], 1)
    )
    found = selectivity(deaf, *both(value), "difference")
    low, high = found.selectivity.low, found.selectivity.high
    assert low is not None and high is not None and low < 0.2 and abs(found.task.estimate) < 0.3


def test_control_labels_belong_to_inputs():
    _, value = planted()
    made = control_task(both(value)[0], N, 0)
    label = {}
    for row, given in zip(made.base.tolist(), made.base_labels.tolist(), strict=True):
        assert label.setdefault(row, given) == given
    for row, given in zip(made.sources[:, 0].tolist(), made.labels.tolist(), strict=True):
        assert label.setdefault(row, given) == given
    assert bool(made.sensitive.all())
    agree = sum(value[row] == given for row, given in label.items()) / len(label)
    assert 0.4 < float(agree) < 0.6, "arbitrary, whatever seed the task itself was drawn with"


def test_das_spends_what_it_is_given():
    cut, value = planted()
    train = both(value)[0]
    one = das(cut, train[train.sensitive], 0, budget=Budget(steps=1, batch=8, check_every=1))
    more = das(cut, train[train.sensitive], 0, budget=QUICK)
    assert float(one.norm()) == pytest.approx(1.0, abs=1e-6)
    assert abs(float(one[AXIS])) < 0.95 < abs(float(more[AXIS]))


def test_bad_input_is_refused_before_the_network_runs():
    cut, value = planted()

    def never(states, rows):
        raise AssertionError("the network ran")

    cut = Cut("s", cut.states, never)
    train, test = both(value)
    two = replace(train, variables=("v", "w"))
    constant = replace(train, labels=torch.zeros(500).long(), base_labels=torch.zeros(500).long())
    for given, told in [
        ((train, test, "dass"), "There is no method 'dass'. Did you mean 'das'?"),
        (
            (two, test, "das"),
            "The pairs interchange v, w: a direction is for one variable, so draw pairs of one.",
        ),
        (
            (train[:1], train[:1], "das"),
            f"{len({int(train.base[0]), int(train.sources[0, 0])})} inputs, such as "
            f"{min(int(train.base[0]), int(train.sources[0, 0]))}, stand in training and test "
            "pairs: draw the pairs of each from inputs of their own.",
        ),
        (
            (constant, test, "das"),
            "The pairs have 1 answers: a control task takes two, so keep the pairs of two answers.",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            selectivity(cut, *given)
        assert str(caught.value) == told
    with pytest.raises(InputError, match=r"has \[\d+, \d+\] pairs whose answer changes, by the"):
        selectivity(cut, train[:8], test, "das")
