"""The hand-wired network: its neurons by hand, what interventions on them do, and its decoys."""

from __future__ import annotations

import pytest
import torch

from interp.alignment.fitting import Budget, fit, fresh, score
from interp.alignment.hand_wired import BLOCKS, DECOYS, both_equality, equality_net, table
from interp.alignment.maps import Identity, Rotation
from interp.alignment.subjects import LayerSubject
from interp.data.counterfactuals import Pairs
from interp.errors import InputError


def every_pair(data):
    """Every base with every source for both variables, under each of the three interventions."""
    n = len(data)
    base, source = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    kinds = torch.tensor([[True, False], [False, True], [True, True]])
    return data.label(
        base.repeat(3), source.repeat(3)[:, None].expand(-1, 2), kinds.repeat_interleave(n * n, 0)
    )


def iia(site, blocks, pairs, data):
    cut = LayerSubject(equality_net(), site).cut(data.inputs)
    return score(cut, Identity(8, blocks), pairs)


def test_every_neuron_by_hand():
    """w, x, y, z = 2, 0, 1, 1: left is false and right is true, so the label is false."""
    net, states = equality_net(), torch.tensor([[2.0, 0, 1, 1]])
    seen = []
    for layer in net:
        states = layer(states)
        seen.append(states.tolist()[0])
    assert seen[1] == [2, 0, 0, 0, 2, 0, 1, 1]
    assert seen[3] == [0, 1, 0, 1, 2, 0, 1, 1]
    assert seen[5] == [0, 1, 0, 1, 2, 0, 1, 1]
    assert seen[6] == [0, -1]


def test_it_is_right_on_every_input_by_the_same_margin():
    data = table(5)
    logits = equality_net()(data.inputs)
    labels = data.values["label"]
    assert len(data) == 625 and 0 < labels.sum() < 625
    assert torch.equal(logits[:, 1], 2.0 * labels - 1) and torch.equal(
        logits[:, 0], 0 * logits[:, 0]
    )


@pytest.mark.parametrize("site", BLOCKS)
def test_the_named_neurons_hold_the_variables_in_every_intervention(site):
    data = table(3)
    found = iia(site, BLOCKS[site], every_pair(data), data)
    assert len(found.pairs) == 3 * 81 * 81 and found.iia == 1.0
    assert 0 < found.pairs.sensitive.sum() < len(found.pairs)


@pytest.mark.parametrize("site", BLOCKS)
def test_the_blocks_of_the_two_variables_exchanged_are_wrong(site):
    """Both at once is the same intervention, so only those of one variable fail."""
    data = table(3)
    pairs = every_pair(data)
    left, right = BLOCKS[site].values()
    found = iia(site, {"left": right, "right": left}, pairs, data)
    both = pairs.active.all(1)
    assert found.iia_of(both) == 1.0
    assert found.iia_of(pairs.sensitive & ~both) < 0.6


@pytest.mark.parametrize("site", DECOYS)
def test_decoys_hold_the_variables_and_change_nothing(site):
    data = table(3)
    found = iia(site, DECOYS[site], every_pair(data), data)
    cut = LayerSubject(equality_net(), site).cut(data.inputs)
    for name, (neuron,) in DECOYS[site].items():
        assert torch.equal(cut.states[:, neuron].bool(), data.values[name])
    assert found.iia_of(found.pairs.sensitive) == 0.0
    assert found.iia_of(~found.pairs.sensitive) == 1.0


def test_at_layer_3_no_used_neuron_tells_both_true_from_both_false():
    data = table(3)
    used = LayerSubject(equality_net(), "5").cut(data.inputs).states[:, :2]
    left, right = data.values["left"], data.values["right"]
    assert used[left & right].abs().sum() == used[~left & ~right].abs().sum() == 0
    found = iia("5", {"left": (0,), "right": (1,)}, every_pair(data), data)
    assert found.iia < 0.9


@pytest.mark.parametrize("site", ["1", "3", "5"])
def test_a_swap_with_itself_changes_no_bit(site):
    data = table(3)
    rows = torch.arange(len(data))
    pairs = data.label(
        rows, rows[:, None].expand(-1, 2), torch.ones(len(data), 2, dtype=torch.bool)
    )
    cut = LayerSubject(equality_net(), site).cut(data.inputs)
    phi = Identity(8, BLOCKS.get(site) or DECOYS[site])
    changed = phi.swap(cut.states[pairs.base], cut.states[pairs.sources], pairs.active)
    assert torch.equal(cut.finish(changed, pairs.base), equality_net()(data.inputs))


def test_a_rotation_finds_the_variables_at_layer_2():
    """Planted and known: the fitted subspace carries them, in spite of the decoys beside it."""
    data = table(4)
    cut = LayerSubject(equality_net(), "3").cut(data.inputs)
    budget = Budget(steps=250, batch=128, learning_rate=1e-2, inputs=len(data), held_out=1000)
    start = Rotation(8, {"left": (0,), "right": (1,)}, seed=1)
    pairs = data.pairs(1000, 5)
    done = fit(cut, start, fresh(data.pairs, 128, 0), budget, validation=(cut, pairs))
    assert score(cut, start, pairs).iia < 0.8
    assert score(cut, done.map, pairs).iia > 0.99


def test_the_algorithm_and_its_table():
    assert both_equality().inner == ("left", "right")
    pairs = table(3).pairs(3000, 0)
    assert isinstance(pairs, Pairs) and pairs.variables == ("left", "right")
    kinds = pairs.active.double().mean(0)
    # three even kinds: each variable in two of them; 3,000 draws leave an error of .009
    torch.testing.assert_close(kinds, torch.full((2,), 2 / 3).double(), rtol=0, atol=0.04)
    assert pairs.active.any(1).all()
    with pytest.raises(InputError) as caught:
        table(1)
    assert str(caught.value) == ("n_values=1: give 2 or more, or every number equals every other.")
