"""Fitting and scoring alignment maps: hand-worked numbers, planted truth, and what errors say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.alignment.fitting import (
    BUDGETS,
    Budget,
    descend,
    fit,
    fixed,
    fresh,
    score,
    swapped,
    with_budget,
)
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.alignment.subjects import Cut, LayerSubject, ModuleSubject, frozen
from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Pairs, Table, uniform
from interp.errors import InputError, ModelError, SiteError
from interp.models.classifiers import mlp
from interp.models.weights import weights_hash
from tests.strategies import says

VARIABLES = ("p", "q")


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weight).float())
    return layer


def hand_net() -> nn.Sequential:
    """Doubles two numbers, then answers 0 where the first is larger: logits (2 p, 2 q)."""
    return nn.Sequential(linear([[2, 0], [0, 2]]), linear([[1, 0], [0, 1]]))


HAND_INPUTS = torch.tensor([[1.0, 0.0], [0.0, 3.0]])


def pairs_of(base: list[int], sources: list[list[int]], active: list[list[bool]],
             labels: list[int], variables: tuple[str, ...] = VARIABLES) -> Pairs:  # fmt: skip
    return Pairs(
        variables,
        torch.tensor(base),
        torch.tensor(sources),
        torch.tensor(active),
        torch.tensor(labels),
        torch.tensor(labels),
    )


HAND_PAIRS = pairs_of([0, 0], [[1, 1], [1, 1]], [[False, True], [True, False]], [1, 1])
NEURONS = Identity(2, {"p": [0], "q": [1]})


def sign_task(n: int, seed: int, rotation: Tensor) -> Table:
    """Two signs that a rotation mixes; the answer counts both: a truth planted in rotated space."""
    stream = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n, 2), generator=stream) * 2.0 - 1.0
    model = CausalModel(
        "both signs",
        ("a", "b"),
        (
            Variable("p", ("a",), lambda a: a > 0),
            Variable("q", ("b",), lambda b: b > 0),
            Variable("count", ("p", "q"), lambda p, q: p.long() + q.long()),
        ),
        "count",
    )
    size = 1 + torch.rand(n, 2, generator=stream)
    inputs = (signs * size) @ rotation.T
    values = model.run({"a": signs[:, 0], "b": signs[:, 1]})
    return Table(model, VARIABLES, inputs, values, uniform)


def planted_net(rotation: Tensor) -> nn.Sequential:
    """Turns back, squashes each number, and answers with how many are positive."""
    answer = linear([[-20, -20], [0, 0], [20, 20]])
    answer.bias = nn.Parameter(torch.tensor([-20.0, 0.0, -20.0]))
    return nn.Sequential(nn.Identity(), linear(rotation.T.tolist()), nn.Tanh(), answer)


def test_pairs_of_another_table_are_refused_and_a_copy_in_float64_is_not():
    """They are row numbers: on other inputs they would score, and the score would mean nothing."""
    one, other = (sign_task(40, seed, TURN) for seed in (0, 1))
    subject = LayerSubject(planted_net(TURN), "0")
    cut, phi = subject.cut(one.inputs), Identity(2, {"p": [0], "q": [1]})
    message = (
        "The pairs are of other inputs than the cut at '0': give pairs of the table that was cut, "
        "or cut the subject on the inputs of theirs."
    )
    for wrong in (other.pairs(8, 0), other.pairs(8, 0)[:3], other.pairs(8, 0).shuffled(1)):
        with says(InputError, message):
            score(cut, phi, wrong)
    wide = LayerSubject(planted_net(TURN).double(), "0").cut(one.inputs.double())
    own = one.pairs(8, 0)
    assert score(cut, phi, own).iia == score(wide, phi, own).iia
    by_hand = replace(other.pairs(8, 0), inputs=None)  # rows that nobody named are not compared
    assert len(score(cut, phi, by_hand).predicted) == 8


TURN = torch.tensor([[math.cos(0.9), -math.sin(0.9)], [math.sin(0.9), math.cos(0.9)]])


def random_pairs(n: int, inputs: int, seed: int = 0) -> Pairs:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=stream)
    return Pairs(
        VARIABLES,
        torch.randint(0, inputs, (n,), generator=stream),
        torch.randint(0, inputs, (n, 2), generator=stream),
        torch.rand(n, 2, generator=stream) < 0.7,
        labels,
        labels,
    )


# ---------------------------------------------------------------- numbers by hand


def test_swapped_logits_and_scores_by_hand():
    """Base (2, 0), source (0, 6): q swapped gives (2, 6), so 1; p swapped (0, 0), a tie, so 0."""
    cut = LayerSubject(hand_net(), "0").cut(HAND_INPUTS)
    assert cut.states.tolist() == [[2, 0], [0, 6]]
    assert swapped(cut, NEURONS, HAND_PAIRS).tolist() == [[2, 6], [0, 0]]
    scores = score(cut, NEURONS, HAND_PAIRS)
    assert scores.predicted.tolist() == [1, 0]
    assert scores.right.tolist() == [True, False]
    assert scores.iia == 0.5
    assert scores.iia_of(torch.tensor([True, False])) == 1.0
    assert scores.iia_of(torch.tensor([False, False])) is None
    expected = [math.log(1 + math.exp(-4)), math.log(2)]
    torch.testing.assert_close(scores.loss, torch.tensor(expected))
    assert score(cut, NEURONS, HAND_PAIRS, chunk=1).predicted.tolist() == [1, 0]


def test_nothing_swapped_and_oneself_swapped_change_no_bit():
    net = mlp(8, 8, 2, 2, seed=1)
    cut = LayerSubject(net, "1").cut(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    phi = Rotation(8, consecutive_blocks(VARIABLES, 3))
    pairs = random_pairs(50, 20)
    own = replace(pairs, sources=pairs.base[:, None].expand(-1, 2).contiguous())
    none = replace(pairs, active=torch.zeros_like(pairs.active))
    plain = cut.finish(cut.states[pairs.base], pairs.base)
    for same in (own, none):
        assert torch.equal(swapped(cut, phi, same), plain)
    assert not torch.equal(swapped(cut, phi, pairs), plain)
    assert torch.equal(cut.clean(), net(HAND_INPUTS.new_tensor(_inputs(20, 8).tolist())))


def _inputs(n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_descend_returns_the_loss_whose_gradient_it_adds():
    """Acceptance check 14: any chunk size gives one loss and one gradient."""
    net = mlp(6, 6, 2, 2, seed=3).double()
    cut = LayerSubject(net, "1").cut(_inputs(40, 6).double())
    pairs = random_pairs(37, 40)
    found = []
    for chunk in (None, 37, 10, 1):
        phi = Rotation(6, consecutive_blocks(VARIABLES, 2), seed=5).double()
        loss = descend(cut, phi, pairs, chunk=chunk)
        found.append((loss, torch.cat([p.grad.flatten() for p in phi.parameters()])))
        scores = score(cut, phi, pairs, chunk=chunk)
        assert loss == pytest.approx(float(scores.loss.mean()), rel=0, abs=1e-12)
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=0, abs=1e-9)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-6, atol=1e-12)
    assert float(found[0][1].abs().max()) > 1e-4


def test_cached_and_uncached_give_one_loss_iia_and_gradient():
    """Acceptance check 14: a whole pass for every pair, sources and all, against the cut."""
    net, inputs, pairs = mlp(6, 6, 3, 2, seed=4).double(), _inputs(30, 6).double(), None
    pairs = random_pairs(64, 30)
    phi = Rotation(6, consecutive_blocks(VARIABLES, 2), seed=1).double()
    cut = LayerSubject(net, "3").cut(inputs)
    loss = descend(cut, phi, pairs)
    gradient = [p.grad.clone() for p in phi.parameters()]
    phi.zero_grad()
    base = net[:4](inputs[pairs.base])
    sources = torch.stack([net[:4](inputs[pairs.sources[:, i]]) for i in range(2)], 1)
    logits = net[4:](phi.swap(base, sources, pairs.active))
    plain = nn.functional.cross_entropy(logits, pairs.labels)
    plain.backward()
    assert loss == pytest.approx(float(plain.detach()), rel=0, abs=1e-9)
    for mine, parameter in zip(gradient, phi.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-6, atol=1e-12)
    right = (logits.argmax(1) == pairs.labels).double().mean()
    assert score(cut, phi, pairs).iia == float(right)


# ---------------------------------------------------------------- a planted truth is found


def planted_fit(dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Any, Cut, Pairs, Any]:
    net = planted_net(TURN).to(dtype)
    train, held = sign_task(400, 0, TURN), sign_task(200, 1, TURN)
    subject = LayerSubject(net, "0")
    cut, other = subject.cut(train.inputs.to(dtype)), subject.cut(held.inputs.to(dtype))
    budget = Budget(steps=300, batch=128, learning_rate=0.02, check_every=50, patience=6)
    budget = with_budget(budget, **changes)
    pairs = held.pairs(500, 2)
    phi = Rotation(2, consecutive_blocks(VARIABLES, 1), seed=4)
    feed = fresh(train.pairs, budget.batch, 0)
    return fit(cut, phi, feed, budget, validation=(other, pairs)), other, pairs, (net, phi)


def test_a_rotation_finds_the_planted_axes_and_leaves_the_network_as_it_was():
    """Acceptance check 15 too: the weights' hash is the same, and nothing was asked of them."""
    before = weights_hash(planted_net(TURN))
    found, other, pairs, (net, phi) = planted_fit()
    assert score(other, phi, pairs).iia < 0.9
    assert score(other, found.map, pairs).iia > 0.97
    assert found.train_iia > 0.97
    for i, variable in enumerate(VARIABLES):
        across = found.map.subspace(variable)[0] @ TURN[:, i]
        assert abs(float(across)) > 0.98
    assert weights_hash(net) == before
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert not any(parameter.requires_grad for parameter in found.map.parameters())
    assert all(parameter.grad is None for parameter in phi.parameters())


def test_gradients_stop_at_the_site():
    net = mlp(4, 4, 2, 2, seed=0)
    cut = LayerSubject(net, "1").cut(_inputs(9, 4))
    assert not cut.states.requires_grad
    phi = Rotation(4, consecutive_blocks(VARIABLES, 2))
    descend(cut, phi, random_pairs(9, 9))
    assert all(weight.grad is None for weight in net.parameters())
    assert all(parameter.grad is not None for parameter in phi.parameters())


def test_fit_keeps_the_best_map_and_says_how_it_ended():
    found, other, pairs, _ = planted_fit()
    steps = [step for step, _ in found.validation]
    assert steps == [50 * (i + 1) for i in range(len(steps))] and found.steps == steps[-1]
    best = min(loss for _, loss in found.validation)
    assert float(score(other, found.map, pairs).loss.double().mean()) == pytest.approx(best)
    hasty, *_ = planted_fit(min_gain=10.0, patience=4)
    assert (hasty.stopped, hasty.steps) == ("patience", 250)
    assert found.stopped == "budget"


def test_fit_works_in_the_precision_of_the_states():
    found, *_ = planted_fit(torch.float64)
    assert {parameter.dtype for parameter in found.map.parameters()} == {torch.float64}
    assert found.train_iia > 0.97


def test_a_map_without_weights_is_scored_and_not_fitted():
    cut = LayerSubject(hand_net(), "0").cut(HAND_INPUTS)
    found = fit(cut, NEURONS, lambda _: HAND_PAIRS, Budget(), validation=(cut, HAND_PAIRS))
    assert (found.steps, found.train_iia, found.stopped) == (0, 0.5, "budget")
    expected = (math.log(1 + math.exp(-4)) + math.log(2)) / 2
    assert found.validation[0] == (0, pytest.approx(expected, abs=1e-6))


# ---------------------------------------------------------------- feeds and budgets


def test_a_fixed_feed_gives_every_pair_once_an_epoch_in_a_new_order():
    pairs = replace(random_pairs(10, 4), labels=torch.arange(10))
    feed = fixed(pairs, 5, seed=2)
    seen = [feed(step).labels.tolist() for step in (1, 2, 3, 4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(10))
    assert seen[0] + seen[1] != seen[2] + seen[3]
    assert feed(1).labels.tolist() == seen[0]
    assert len(fixed(pairs, 64, seed=2)(3)) == 10
    assert len(fixed(pairs, 4, seed=2)(2)) == 4


def test_budgets():
    assert [BUDGETS[name].steps for name in ("smoke", "standard", "paper")] == [1000, 5000, 10000]
    assert with_budget(BUDGETS["smoke"], steps=3) == Budget(steps=3)
    with pytest.raises(InputError, match="every number of a budget must be above 0"):
        Budget(steps=0)
    with pytest.raises(InputError, match="every number of a budget must be above 0"):
        Budget(learning_rate=float("nan"))


# ---------------------------------------------------------------- subjects


def test_a_module_subject_equals_a_layer_subject():
    net, inputs = mlp(6, 6, 3, 2, seed=2), _inputs(25, 6)
    pairs, phi = random_pairs(40, 25), Rotation(6, consecutive_blocks(VARIABLES, 2))
    layer, module = (kind(net, "3").cut(inputs) for kind in (LayerSubject, ModuleSubject))
    assert torch.equal(layer.states, module.states)
    assert torch.equal(swapped(layer, phi, pairs), swapped(module, phi, pairs))
    gradients = []
    for cut in (layer, module):
        phi.zero_grad()
        descend(cut, phi, pairs)
        gradients.append([p.grad.clone() for p in phi.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not net[3]._forward_hooks


def test_frozen_restores_what_was_trained_even_after_an_error():
    net = mlp(2, 2, 1, 2, seed=0)
    net[0].weight.requires_grad_(False)
    with pytest.raises(KeyError), frozen(net.parameters()):
        assert not any(weight.requires_grad for weight in net.parameters())
        raise KeyError
    assert [weight.requires_grad for weight in net.parameters()] == [False, True, True, True]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(self.layer(rows))


def test_what_subjects_refuse():
    net = hand_net()
    with says(SiteError, "The network has no layer '5'; its layers: 0, 1."):
        LayerSubject(net, "5")
    with says(SiteError, "The network has no module 'layr'. Did you mean 'layer'?"):
        ModuleSubject(Twice(), "layr")
    with says(
        SiteError,
        "'layer' ran 2 times in one pass, so what is changed there is not clear: choose a module "
        "that runs once.",
    ):
        ModuleSubject(Twice(), "layer").cut(HAND_INPUTS)
    wide = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Flatten())
    text = (
        "'0' returned [2, 1, 2] for 2 inputs: a site must return a tensor [n, d]; choose another "
        "module."
    )
    for kind in (LayerSubject, ModuleSubject):
        with says(SiteError, text):
            kind(wide, "0").cut(HAND_INPUTS)
        with says(
            ModelError,
            "'1' (Dropout) is in training mode, where one input gives different states in "
            "different passes: call .eval() first.",
        ):
            kind(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "0")
        kind(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval(), "0").cut(HAND_INPUTS)


# ---------------------------------------------------------------- what fit refuses


def test_what_fit_refuses_before_any_update():
    net = mlp(4, 4, 2, 2, seed=0)
    cut, deeper = (LayerSubject(net, site).cut(_inputs(9, 4)) for site in ("1", "3"))
    pairs = random_pairs(9, 9)

    def never(step: int) -> Pairs:
        raise AssertionError("no pairs may be drawn")

    good = Rotation(4, consecutive_blocks(VARIABLES, 2))
    with says(InputError, "The map is 6 wide and the site 4: build it for this site."):
        fit(cut, Rotation(6, {"p": [0]}), never, Budget(), validation=(cut, pairs))
    with says(
        InputError,
        "The validation cut is at '3' (4 wide) and the training cut at '1' (4 wide): cut one "
        "subject for both.",
    ):
        fit(cut, good, never, Budget(), validation=(deeper, pairs))
    other = Rotation(4, consecutive_blocks(("q", "p"), 2))
    text = (
        "The map has blocks for q, p and the pairs interchange p, q: use the same variables in "
        "the same order."
    )
    with says(InputError, text):
        fit(cut, other, never, Budget(), validation=(cut, pairs))
    with says(InputError, text):
        score(cut, other, pairs)


def test_a_loss_that_is_no_number_stops_the_fit():
    net = mlp(4, 4, 2, 2, seed=0)
    inputs = _inputs(9, 4)
    inputs[0] = float("nan")
    cut, pairs = LayerSubject(net, "1").cut(inputs), random_pairs(40, 9)
    with says(
        InputError,
        "The validation loss is nan after 2 updates: lower the learning rate, or fit in float64.",
    ):
        fit(
            cut,
            Rotation(4, consecutive_blocks(VARIABLES, 2)),
            lambda _: pairs,
            Budget(steps=2, check_every=2),
            validation=(cut, pairs),
        )
