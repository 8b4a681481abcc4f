"""Training nets side by side: on labels, and to have an algorithm's variables in given neurons."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from interp.alignment.fitting import score
from interp.alignment.hand_wired import BLOCKS, equality_net
from interp.alignment.hand_wired import table as whole_numbers
from interp.alignment.interchange_training import (
    Recipe,
    batches,
    descend,
    interchanged,
    learn,
    mixture,
    plant,
)
from interp.alignment.maps import Identity
from interp.alignment.subjects import LayerSubject
from interp.errors import InputError
from interp.models.classifiers import mlp, run_stacked, site, stacked

HALVES = {"left": tuple(range(8)), "right": tuple(range(8, 16))}
QUICK = Recipe(steps=600, batch=256, learning_rate=2e-2, check_every=100)
QUICK_PLAIN = Recipe(steps=600, batch=64, learning_rate=1e-2, check_every=100)


def nets_of(seeds):
    return [mlp(4, 16, 3, 2, seed) for seed in seeds]


def labelled(data):
    return data.inputs, data.values["label"]


def iia(net, data, pairs):
    cut = LayerSubject(net, site(2)).cut(data.inputs)
    return score(cut, Identity(16, HALVES), pairs).iia


# ---------------------------------------------------------------- interventions in a stack


def random_interventions(seed):
    stream = torch.Generator().manual_seed(seed)
    base = torch.randn(2, 6, 4, generator=stream).double()
    sources = torch.randn(2, 6, 2, 4, generator=stream).double()
    active = torch.rand(2, 6, 2, generator=stream) < 0.5
    weights = stacked([mlp(4, 5, 3, 2, seed + i).double() for i in range(2)])
    members = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]).bool()
    return weights, base, sources, active, members


def test_an_intervention_by_hand():
    """One neuron, h = relu(x), then 3 h: base 2 answers 6, with the neuron of source 5 it is 15."""
    weights = {
        "0.weight": torch.ones(1, 1, 1),
        "0.bias": torch.zeros(1, 1),
        "2.weight": torch.full((1, 1, 1), 3.0),
        "2.bias": torch.zeros(1, 1),
    }
    base, sources = torch.full((1, 2, 1), 2.0), torch.full((1, 2, 1, 1), 5.0)
    active = torch.tensor([[[True], [False]]])
    members = torch.ones(1, 1, dtype=torch.bool)
    logits = interchanged(weights, base, sources, active, layer=1, members=members)
    assert logits.tolist() == [[[15.0], [6.0]]]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 100), st.integers(1, 3))
def test_a_stack_of_interventions_is_what_a_cut_of_each_net_gives(seed, layer):
    weights, base, sources, active, members = random_interventions(seed)
    logits = interchanged(weights, base, sources, active, layer=layer, members=members)
    phi = Identity(5, {"a": (0, 1), "b": (3,)})
    for i in range(2):
        net = mlp(4, 5, 3, 2, seed + i).double()
        cut = LayerSubject(net, site(layer)).cut(torch.cat([base[i], *sources[i].unbind(1)]))
        mine, *others = cut.states.chunk(3)
        changed = phi.swap(mine, torch.stack(others, 1), active[i])
        plain = cut.finish(changed, torch.arange(6))
        # float64: rounding leaves about 1e-16
        torch.testing.assert_close(logits[i], plain, rtol=0, atol=1e-13)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 100))
def test_laws_of_interventions(seed):
    weights, base, sources, active, members = random_interventions(seed)
    clean = run_stacked(weights, base)
    none = torch.zeros_like(active)

    def logits(sources, active, members=members):
        return interchanged(weights, base, sources, active, layer=2, members=members)

    itself = base[:, :, None].expand_as(sources)
    assert torch.equal(logits(itself, ~none), clean)  # no-ops keep every bit
    assert torch.equal(logits(sources, none), clean)
    everything = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()
    one = sources[:, :, :1].expand_as(sources)
    assert torch.equal(logits(one, ~none, everything), run_stacked(weights, one[:, :, 0]))
    away = torch.where(active[..., None], sources, 99.0)  # what is not active is not read
    assert torch.equal(logits(away, active), logits(sources, active))


def test_every_weight_before_and_after_the_layer_gets_a_gradient_from_sources_alone():
    weights, base, sources, active, _ = random_interventions(0)
    members = torch.ones(1, 5, dtype=torch.bool)
    base, source = base.requires_grad_(), sources[:, :, :1].requires_grad_()
    on = torch.ones_like(active[..., :1])
    weights = {name: value.requires_grad_() for name, value in weights.items()}
    interchanged(weights, base, source, on, layer=2, members=members).sum().backward()
    assert base.grad is not None and base.grad.abs().sum() == 0
    assert source.grad is not None and source.grad.abs().sum() > 0
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in weights.values())


def test_the_hand_wired_net_loses_nothing_under_interventions():
    data = whole_numbers(3)
    pairs = mixture(data, 2000, 3)
    blocks = BLOCKS[site(2)].values()
    members = torch.stack([torch.isin(torch.arange(8), torch.tensor(block)) for block in blocks])
    logits = interchanged(
        stacked([equality_net()]),
        data.inputs[pairs.base][None],
        data.inputs[pairs.sources][None],
        pairs.active[None],
        layer=2,
        members=members,
    )
    assert torch.equal(logits[0, :, 1], 2.0 * pairs.labels - 1)


# ---------------------------------------------------------------- the mixture and the batches


def test_two_fifths_of_the_mixture_interchange_nothing():
    data = whole_numbers(4)
    pairs = mixture(data, 20_000, 0)
    kinds = pairs.active.long() @ torch.tensor([1, 2])
    shares = kinds.bincount().double() / len(pairs)
    assert shares[0] == 0.4
    # 12,000 draws of one in three: a standard error of .0026 of all pairs
    torch.testing.assert_close(shares[1:], torch.full((3,), 0.2).double(), rtol=0, atol=0.012)
    clean = kinds == 0
    assert torch.equal(pairs.labels[clean], data.values["label"][pairs.base[clean]])
    assert not pairs.sensitive[clean].any() and pairs.sensitive[~clean].any()


def test_a_mixture_may_be_all_or_nothing():
    data = whole_numbers(3)
    assert not mixture(data, 10, 0, clean=1.0).active.any()
    assert mixture(data, 10, 0, clean=0.0).active.any(1).all()
    with pytest.raises(InputError) as caught:
        mixture(data, 10, 0, clean=1.5)
    assert str(caught.value) == "clean=1.5: it is a share of the pairs, so give 0 to 1."


def test_each_net_reads_all_rows_before_one_comes_again_in_an_order_of_its_own():
    rounds = torch.stack(list(islice(batches(10, 3, [1, 2]), 6)), dim=1)
    for i in range(2):
        for half in rounds[i, :3], rounds[i, 3:]:
            assert len(half.flatten().unique()) == 9
    assert not torch.equal(rounds[0], rounds[1])
    assert not torch.equal(rounds[0, :3], rounds[0, 3:])
    alone = torch.stack(list(islice(batches(10, 3, [2]), 6)), dim=1)
    assert torch.equal(alone[0], rounds[1])


# ---------------------------------------------------------------- descent


def test_the_first_update_is_adams_by_hand():
    """Its first step moves a weight by the rate against the sign of the gradient."""
    net = mlp(4, 3, 1, 2, 0)
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1] * 4)
    recipe = Recipe(steps=1, batch=8, learning_rate=0.25)
    done = learn([net], [0], (inputs, labels), (inputs, labels), recipe)[0]
    cross_entropy(net(inputs), labels).backward()
    change = done.net[2].bias - net[2].bias
    # Adam divides by |gradient| + 1e-8
    torch.testing.assert_close(change, -0.25 * net[2].bias.grad.sign(), rtol=0, atol=1e-5)
    # and the loss that is noted is PyTorch's own of the net that is returned
    plain = cross_entropy(done.net(inputs), labels)
    assert done.validation == ((1, pytest.approx(plain.item(), abs=1e-6)),)


def test_the_rate_falls_along_a_cosine_or_stays():
    falls = Recipe(steps=4, learning_rate=2.0)
    assert [round(falls.rate(step), 6) for step in (0, 1, 2, 4)] == [2.0, 1.707107, 1.0, 0.0]
    stays = Recipe(steps=4, learning_rate=2.0, decay=False)
    assert {stays.rate(step) for step in (0, 1, 2, 4)} == {2.0}


def test_a_net_becomes_the_same_in_any_company_and_is_not_changed_itself():
    data, recipe = whole_numbers(3), Recipe(steps=8, batch=16, check_every=4)
    nets, given = nets_of([1, 2]), (labelled(data), labelled(data), recipe)
    before = [weight.clone() for weight in nets[1].parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    together, alone = learn(nets, [1, 2], *given)[1], learn(nets[1:], [2], *given)[0]
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(together.net.parameters(), alone.net.parameters(), strict=True):
        # eight steps of 2e-3 in float32: rounding moves a weight by less than 1e-5
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert all(map(torch.equal, before, nets[1].parameters()))
    assert (together.net[0].weight - before[0]).abs().max() > 1e-3


def test_the_best_weights_are_kept_and_patience_ends_a_net():
    """Validation losses are told: net 0 is best at its second look, net 1 at its last."""
    told = iter([[3.0, 9.0], [1.0, 8.0], [2.0, 7.0], [2.0, 6.0], [0.5, 5.0], [0.1, 4.0]])
    seen = []

    def losses(weights, rows):
        return weights["0.weight"].flatten(1).sum(1)

    def validate(weights):
        seen.append(weights["0.weight"].detach().clone())
        return torch.tensor(next(told))

    recipe = Recipe(steps=6, batch=1, check_every=1, patience=2)
    first, second = descend(nets_of([0, 1]), [0, 1], losses, validate, n_rows=1, recipe=recipe)
    assert (first.step, first.validation) == (2, ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.0)))
    assert second.step == 6 and len(second.validation) == 6
    assert torch.equal(first.net[0].weight, seen[1][0])
    assert torch.equal(second.net[0].weight, seen[5][1])


def test_a_gain_too_small_keeps_the_weights_and_uses_up_patience():
    """Losses fall by 0.2 each time: below a gain of 0.5, so two looks after the first end it."""
    told = iter([1.0, 0.8, 0.6, 0.4])

    def losses(weights, rows):
        return weights["0.weight"].flatten(1).sum(1)

    recipe = Recipe(steps=4, batch=1, check_every=1, patience=2, min_gain=0.5)
    (done,) = descend(
        nets_of([0]), [0], losses, lambda _: torch.tensor([next(told)]), n_rows=1, recipe=recipe
    )
    assert done.step == 3 and [loss for _, loss in done.validation] == pytest.approx([1, 0.8, 0.6])
    with pytest.raises(InputError, match=r"^min_gain=-1.0: give 0 or more nats\.$"):
        Recipe(min_gain=-1.0)


def test_descent_ends_when_no_net_has_patience_left():
    looks = []

    def validate(weights):
        looks.append(1)
        return torch.tensor([1.0])

    recipe = Recipe(steps=50, batch=1, check_every=1, patience=3)
    done = descend(
        nets_of([0]), [0], lambda w, rows: w["0.bias"].sum(1), validate, n_rows=1, recipe=recipe
    )
    assert len(looks) == 4 and done[0].step == 1


# ---------------------------------------------------------------- planted nets


def test_planted_nets_have_the_variables_where_they_were_planted_and_plain_ones_do_not():
    data = whole_numbers(3)
    pairs, nets, seeds = data.pairs(4000, 9), nets_of([1]), [1]
    planted = plant(nets, seeds, data, data, layer=2, blocks=HALVES, recipe=QUICK, n_pairs=20_000)
    often = (data.inputs.repeat(8, 1), data.values["label"].repeat(8))
    plain = learn(nets, seeds, often, labelled(data), QUICK_PLAIN)
    for before, ours, theirs in zip(nets, planted, plain, strict=True):
        for done in (ours, theirs):
            right = done.net(data.inputs).argmax(1) == data.values["label"]
            assert right.double().mean() > 0.99
        assert iia(ours.net, data, pairs) > 0.99
        assert iia(theirs.net, data, pairs) < 0.8
        assert iia(before, data, pairs) < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 4}, "layer=4: the nets have hidden layers 1 to 3."),
        (
            {"blocks": {"right": (0,), "left": (1,)}},
            "Blocks are given for right, left and the pairs interchange left, right: use the same "
            "variables in the same order.",
        ),
        (
            {"blocks": {"left": (0,), "right": (16,)}},
            "The block of 'right' is [16]: give at least one neuron, each from 0 to 15.",
        ),
        (
            {"blocks": {"left": (), "right": (1,)}},
            "The block of 'left' is []: give at least one neuron, each from 0 to 15.",
        ),
        (
            {"blocks": {"left": (0, 3), "right": (3,)}},
            "Neuron 3 stands in two blocks: blocks are disjoint.",
        ),
        ({"seeds": [0, 1]}, "1 nets and 2 seeds: give one seed a net."),
        ({"n_pairs": 100}, "A batch of 256 from 100 rows: lower the batch, or draw more."),
    ],
)
def test_what_cannot_be_planted_is_refused(changes, message):
    data = whole_numbers(3)
    given = {"seeds": [0], "layer": 2, "blocks": HALVES, "n_pairs": 500, **changes}
    with pytest.raises(InputError) as caught:
        plant(nets_of([0]), given.pop("seeds"), data, data, recipe=QUICK, **given)
    assert str(caught.value) == message


def test_recipes_without_a_result_are_refused_and_a_loss_that_is_not_finite():
    with pytest.raises(
        InputError, match=r"steps=0, .*: every number of a recipe must be above 0\.$"
    ):
        Recipe(steps=0)
    recipe = Recipe(steps=1, batch=1)
    with pytest.raises(InputError) as caught:
        descend(
            nets_of([0]),
            [0],
            lambda w, rows: w["0.bias"].sum(1),
            lambda w: torch.tensor([float("nan")]),
            n_rows=1,
            recipe=recipe,
        )
    assert str(caught.value) == (
        "The validation loss is [nan] after 1 updates: lower the learning rate."
    )
