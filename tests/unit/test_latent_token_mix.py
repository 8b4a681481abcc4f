"""Edits of mixtures: weights worked out by hand, and vectors that stay in the hull."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError
from interp.latent.calibration import Calibration
from interp.latent.operators import At
from interp.latent.soft_thinking import Mixture, mixed
from interp.latent.state import Node, Slot
from interp.latent.token_mix import donor_mix, drop_top, give_weights, keep_top, temper

E = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [0.0, -2.0]])
"""Embeddings of four tokens."""


def embed(ids: torch.Tensor) -> torch.Tensor:
    return E[ids]


def mixture(weights: list[list[float]], ids: list[list[int]], seen: list[bool] | None = None):
    shares, tokens = torch.tensor(weights), torch.tensor(ids)
    real = torch.tensor(seen or [True] * len(ids))[:, None]
    return Mixture(
        vectors=mixed(embed, tokens, shares),
        seen=real,
        ids=tokens,
        weights=shares,
        entropy=torch.zeros(len(ids)),
    )


OWN = mixture([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], [[0, 1, 2], [2, 3, 0]])


def at(bank: Mixture | None = None) -> At:
    nodes = (bank or OWN,)
    problems = tuple(LatentProblem(f"c{i}", f"q{i}", (), "a") for i in range(nodes[0].rows))
    slot = Slot((), nodes[0].seen)
    positions = torch.zeros(len(problems), dtype=torch.long)
    calibration = Calibration(problems, ("a",) * len(problems), nodes, (slot,), positions)
    return At(1, ("p0", "p1"), 0, calibration, ("a", "b"), (3, 3))


def test_the_likeliest_token_alone():
    ids, weights = keep_top(embed).mixture(OWN, at())
    assert weights.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert torch.equal(ids, OWN.ids)
    assert keep_top(embed).node(OWN, at()).vectors[:, 0].tolist() == [[1.0, 0.0], [4.0, 4.0]]


def test_without_the_heaviest_token_the_rest_share_its_weight_or_the_runner_up_has_it_all():
    """.3 and .2 of .5 are .6 and .4: .6 (0, 1) + .4 (4, 4) = (1.6, 2.2); token 3 alone is next."""
    _, weights = drop_top(embed).mixture(OWN, at())
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.6, 0.4], [0.0, 1.0, 0.0]]))
    vectors = drop_top(embed).node(OWN, at()).vectors[:, 0]
    torch.testing.assert_close(vectors, torch.tensor([[1.6, 2.2], [0.0, -2.0]]))
    one = mixture([[1.0]], [[2]])
    with pytest.raises(
        EditError, match=r"^drop_top needs mixtures of 2 tokens or more: raise top_k"
    ):
        drop_top(embed).node(one, at())


def test_a_temperature_takes_powers():
    """T = 1/2 squares: .25, .09, .04 of .38; one token stays as it is."""
    _, sharp = temper(embed, 0.5).mixture(OWN, at())
    torch.testing.assert_close(sharp, torch.tensor([[25 / 38, 9 / 38, 4 / 38], [1.0, 0.0, 0.0]]))
    _, flat = temper(embed, 1e6).mixture(OWN, at())
    torch.testing.assert_close(flat[0], torch.full((3,), 1 / 3), atol=1e-5, rtol=0)
    same = temper(embed, 1.0)
    assert same.null
    assert not temper(embed, 0.5).null
    assert torch.equal(same.node(OWN, at()).vectors, OWN.vectors)  # bit for bit
    assert torch.equal(temper(embed, 0.5).node(OWN, at()).vectors[1], OWN.vectors[1])


def test_given_weights_are_scaled_and_the_same_for_all():
    """3 : 1 of tokens 0 and 3: .75 (1, 0) + .25 (0, -2) = (.75, -.5)."""
    operator = give_weights(embed, {0: 3.0, 3: 1.0}, "even")
    assert operator.node(OWN, at()).vectors[:, 0].tolist() == [[0.75, -0.5], [0.75, -0.5]]
    assert operator.name == "token_mix_even"


def test_a_donors_mixture_comes_with_its_id_and_an_ended_donor_gives_nothing():
    bank = mixture([[0.25, 0.75]], [[3, 0]])
    operator = donor_mix(embed)
    where = at(bank)
    assert operator.donors(where) == (0, 0)
    ids, weights = operator.mixture(OWN, where)
    assert ids.tolist() == [[3, 0, 0], [3, 0, 0]]
    assert weights.tolist() == [[0.25, 0.75, 0.0]] * 2
    assert operator.node(OWN, where).vectors[:, 0].tolist() == [[0.75, -0.5]] * 2
    ended = at(mixture([[0.25, 0.75]], [[3, 0]], seen=[False]))
    assert torch.equal(operator.node(OWN, ended).vectors, OWN.vectors)
    nobody = donor_mix(embed, "same_position")  # the bank's prompts have another length
    assert nobody.donors(where) == (None, None)
    assert torch.equal(nobody.node(OWN, where).vectors, OWN.vectors)
    assert (operator.name, nobody.name) == ("token_mix_donor", "token_mix_donor_same_position")


def test_what_cannot_be_a_mixture_is_refused():
    for weights, message in (
        (
            {0: -1.0},
            r"^give_weights: {0: -1.0} is no mixture: give one token or more, weights of 0",
        ),
        ({}, r"^give_weights: {} is no mixture: "),
        ({0: math.inf}, r"and a finite sum above 0\.$"),
    ):
        with pytest.raises(EditError, match=message):
            give_weights(embed, weights)
    with pytest.raises(
        EditError, match=r"^temper\(0\.0\): give a temperature above 0; 1 changes no"
    ):
        temper(embed, 0.0)
    plain = Node.slot(torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"^This node is not a mixture of tokens: take one that"):
        keep_top(embed).node(plain, at())


shares = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(shares, shares, st.floats(0.1, 8.0), st.permutations(range(4)))
def test_every_edit_stays_in_the_hull_and_writes_nothing(first, second, temperature, order):
    """Weights are 0 or more with a sum of 1, and the vector is their mean of embeddings."""
    rows = [[x / sum(row) for x in row] for row in (first, second)]
    own = mixture(rows, [list(order[:3]), list(order[1:])], seen=[True, False])
    before = [value.clone() for value in vars(own).values()]
    bank = mixture([[0.5, 0.5, 0.0]], [[0, 1, 2]])
    for operator in (
        keep_top(embed),
        drop_top(embed),
        temper(embed, temperature),
        give_weights(embed, {1: 2.0, 2: 1.0}),
        donor_mix(embed),
    ):
        ids, weights = operator.mixture(own, at(bank))
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2))
        made = operator.node(own, at(bank))
        mean = (E[ids] * weights[..., None]).sum(1, keepdim=True)
        # a row whose weights did not change keeps its own bits, which are this sum too
        torch.testing.assert_close(made.vectors, mean)
        assert made.seen.tolist() == [[True], [False]]
    assert all(torch.equal(a, b) for a, b in zip(before, vars(own).values(), strict=True))
