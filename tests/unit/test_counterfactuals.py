"""Tables and pairs: labels by hand, shuffles, rivals, leaks, errors word for word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import (
    Pairs,
    Table,
    concatenated,
    distinguishing,
    redrawn,
    require_apart,
    subsets,
    uniform,
)
from interp.errors import InputError
from tests.strategies import says

INPUTS = ("a", "b", "c")
LEFT = CausalModel(
    "left",
    INPUTS,
    (
        Variable("x", ("a", "b"), lambda a, b: a ^ b),
        Variable("y", ("x", "c"), lambda x, c: x ^ c),
    ),
    "y",
)
RIGHT = CausalModel(
    "right",
    INPUTS,
    (
        Variable("z", ("b", "c"), lambda b, c: b ^ c),
        Variable("y", ("a", "z"), lambda a, z: a ^ z),
    ),
    "y",
)
CUBE = torch.cartesian_prod(*[torch.tensor([0, 1])] * 3)


def table_of(model: CausalModel, rows: Tensor = CUBE) -> Table:
    values = model.run(dict(zip(INPUTS, rows.unbind(1), strict=True)))
    return Table(model, model.inner, rows, values, uniform)


def column(*values: int) -> Tensor:
    return torch.tensor(values)[:, None]


# ---------------------------------------------------------------- labels


def test_labels_by_hand():
    """Row r of the cube is the bits of r. Base 1 = 001 (x 0, y 1), source 2 = 010 (x 1): y = 0."""
    pairs = table_of(LEFT).label(
        torch.tensor([1, 1, 6]), column(2, 2, 5), torch.tensor([[True], [False], [True]])
    )
    assert pairs.labels.tolist() == [0, 1, 1]
    assert pairs.base_labels.tolist() == [1, 1, 0]
    assert pairs.sensitive.tolist() == [True, False, True]


def test_an_input_swapped_with_itself_changes_nothing():
    base = torch.arange(8)
    pairs = table_of(LEFT).label(base, base[:, None], torch.ones(8, 1) > 0)
    assert torch.equal(pairs.labels, pairs.base_labels)
    assert not pairs.sensitive.any()


def test_pairs_are_drawn_again_by_their_seed():
    table = table_of(LEFT)
    one, same, other = table.pairs(50, 1), table.pairs(50, 1), table.pairs(50, 2)
    assert torch.equal(one.base, same.base)
    assert torch.equal(one.sources, same.sources)
    assert not torch.equal(one.base, other.base)
    assert len(one) == 50
    assert one.sources.shape == one.active.shape == (50, 1)


def test_a_slice_of_pairs_keeps_their_rows_together():
    pairs = table_of(LEFT).pairs(50, 1)
    some = pairs[torch.tensor([40, 3])]
    for name in ("base", "sources", "active", "labels", "base_labels"):
        assert torch.equal(getattr(some, name), getattr(pairs, name)[[40, 3]])
    assert pairs[10:20].variables == ("x",)
    assert len(pairs[10:20]) == 10


# ---------------------------------------------------------------- shuffles


def two_kinds() -> Pairs:
    """Labels 0 under {first}, 1 under {second}, and a mixture under both."""
    active = torch.tensor([[True, False], [False, True], [True, True]]).repeat_interleave(40, 0)
    labels = torch.cat([torch.zeros(40), torch.ones(40), torch.arange(40) % 2]).long()
    base = torch.arange(120)
    return Pairs(("x", "y"), base, torch.stack([base, base + 1], 1), active, labels, labels)


def test_labels_are_shuffled_within_a_kind_of_intervention():
    pairs = two_kinds()
    shuffled = pairs.shuffled(0)
    assert shuffled.labels[:80].tolist() == pairs.labels[:80].tolist()
    assert shuffled.labels[80:].sum() == 20
    assert shuffled.labels[80:].tolist() != pairs.labels[80:].tolist()
    assert torch.equal(shuffled.base_labels, pairs.base_labels)
    assert torch.equal(shuffled.sources, pairs.sources)
    assert torch.equal(pairs.shuffled(0).labels, shuffled.labels)
    assert not torch.equal(pairs.shuffled(1).labels, shuffled.labels)


def test_sources_are_shuffled_between_pairs_and_labels_stay():
    pairs = two_kinds()
    shuffled = pairs.shuffled_sources(0)
    assert sorted(shuffled.sources[:, 0].tolist()) == list(range(120))
    assert torch.equal(shuffled.sources[:, 1], shuffled.sources[:, 0] + 1)  # rows stay whole
    assert (shuffled.sources[:, 0] != pairs.sources[:, 0]).sum() > 100
    assert torch.equal(shuffled.labels, pairs.labels)
    assert torch.equal(shuffled.base, pairs.base)


# ---------------------------------------------------------------- rivals


def test_rivals_read_the_same_interventions_differently():
    """Both compute a ^ b ^ c. Swapping x keeps the base's c, swapping z keeps the base's a."""
    table, rival = table_of(LEFT), table_of(RIGHT)
    assert torch.equal(table.values["y"], rival.values["y"])
    mine, theirs = distinguishing(table, rival, 200, 0)
    assert len(mine) == len(theirs) == 200
    for name in ("base", "sources", "active", "base_labels"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert torch.equal(mine.labels, 1 - theirs.labels)
    a, b, c = CUBE.T
    source = mine.sources[:, 0]
    assert torch.equal(mine.labels, a[source] ^ b[source] ^ c[mine.base])
    assert torch.equal(theirs.labels, a[mine.base] ^ b[source] ^ c[source])


def test_an_algorithm_has_no_distinguishing_pair_with_itself():
    table = table_of(LEFT)
    with says(
        InputError,
        "Only 0 of 5 distinguishing pairs came up: left and left may be one algorithm under these "
        "interventions; choose another rival, or ask for fewer.",
    ):
        distinguishing(table, table, 5, 0)


def test_rivals_must_stand_on_the_same_inputs():
    message = (
        "left and right must stand on the same inputs and have equally many variables, or no one "
        "intervention is read by both."
    )
    with says(InputError, message):
        distinguishing(table_of(LEFT), table_of(RIGHT, CUBE.flip(0)), 5, 0)


# ---------------------------------------------------------------- splits


def test_a_leak_between_train_and_test_is_refused():
    with says(
        InputError,
        "3 inputs of the test split also stand in the training split: split by input, not by pair, "
        "and draw both apart.",
    ):
        require_apart(table_of(LEFT, CUBE[:5]), table_of(LEFT, CUBE[2:]))


def test_a_leak_is_seen_whatever_the_type_and_the_sign_of_zero():
    train = table_of(LEFT, CUBE[:5])
    test = table_of(LEFT, CUBE[4:])
    object.__setattr__(test, "inputs", test.inputs.double() * -1 * -1)
    object.__setattr__(train, "inputs", torch.where(train.inputs == 0, -0.0, train.inputs.float()))
    with pytest.raises(InputError, match=r"^1 inputs of the test split"):
        require_apart(train, test)


def test_splits_that_share_nothing_pass():
    assert require_apart(table_of(LEFT, CUBE[:4]), table_of(LEFT, CUBE[4:])) is None


def test_splits_of_other_widths_cannot_be_compared():
    narrow = table_of(LEFT, CUBE[4:])
    object.__setattr__(narrow, "inputs", narrow.inputs[:, :2])
    with says(
        InputError,
        "The splits have inputs of 3 and 2 numbers: encode both alike, or a leak cannot be seen.",
    ):
        require_apart(table_of(LEFT, CUBE[:4]), narrow)


# ---------------------------------------------------------------- tables


def test_a_variable_that_no_input_varies_is_refused():
    with says(
        InputError,
        "No input varies 'x' of left: on all 2 it is the same, so no interchange of it changes "
        "anything; draw other inputs.",
    ):
        table_of(LEFT, CUBE[:2])  # 000 and 001: a ^ b is 0


def test_one_input_varies_nothing():
    with pytest.raises(InputError, match=r"^No input varies 'x' of left: on all 1 it is the same"):
        table_of(LEFT, CUBE[:1])


def test_a_table_refuses_what_is_no_inner_variable():
    values = LEFT.run(dict(zip(INPUTS, CUBE.unbind(1), strict=True)))
    with says(
        InputError, "left has no inner variable 'y'; those that a network can be aligned to: x."
    ):
        Table(LEFT, ("y",), CUBE, values, uniform)


def test_a_table_wants_a_value_an_input():
    values = LEFT.run(dict(zip(INPUTS, CUBE.unbind(1), strict=True)))
    with says(
        InputError,
        "left has 8 values of 'x' for 6 inputs: give one an input, as its run returns them.",
    ):
        Table(LEFT, ("x",), CUBE[:6], values, uniform)


def test_no_pairs_are_refused():
    with says(InputError, "0 pairs: ask for at least one."):
        table_of(LEFT).pairs(0, 0)


def test_sets_of_pairs_are_joined_in_order():
    table = table_of(LEFT)
    one, two = table.pairs(3, 0), table.pairs(4, 1)
    joined = concatenated([one, two])
    assert len(joined) == 7
    assert torch.equal(joined.base, torch.cat([one.base, two.base]))
    assert torch.equal(joined.labels[3:], two.labels)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [],
            "0 sets of pairs interchange []: give at least one set, and all of the same variables.",
        ),
        (
            [table_of(LEFT).pairs(2, 0), table_of(RIGHT).pairs(2, 0)],
            "2 sets of pairs interchange [['x'], ['z']]: give at least one set, and all of the "
            "same variables.",
        ),
    ],
)
def test_sets_of_other_variables_are_not_joined(parts: list[Pairs], message: str):
    with says(InputError, message):
        concatenated(parts)


# ---------------------------------------------------------------- recipes


def test_every_set_of_active_variables_is_equally_likely():
    """Seven sets of three variables; 70,000 draws leave .0013 of standard error, five of them."""
    active = subsets(70_000, 3, torch.Generator().manual_seed(0))
    codes = (active.long() * torch.tensor([1, 2, 4])).sum(1)
    shares = codes.bincount(minlength=8) / 70_000
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], torch.full((7,), 1 / 7), rtol=0, atol=0.0066)


def test_what_is_refused_is_drawn_again_and_the_rest_is_kept():
    """Place i wants a multiple of i + 1 below 12: every such one is equally likely."""
    stream = torch.Generator().manual_seed(0)
    wanted = torch.arange(4).repeat(6000)

    def accepts(places: Tensor, drawn: Tensor) -> Tensor:
        return drawn % (wanted[places] + 1) == 0

    found = redrawn(lambda k: torch.randint(0, 12, (k,), generator=stream), accepts, len(wanted))
    assert accepts(torch.arange(len(wanted)), found).all()
    for which, values in enumerate(([*range(12)], [0, 2, 4, 6, 8, 10], [0, 3, 6, 9], [0, 4, 8])):
        shares = found[wanted == which].bincount(minlength=12)[values] / 6000
        assert shares.sum().item() == pytest.approx(1, abs=1e-6)
        expected = torch.full((len(values),), 1 / len(values))  # 4 standard errors of .0061
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.025)


def test_a_recipe_that_asks_for_what_is_not_there_says_so():
    wanted = torch.tensor([True, False, True])
    with says(
        InputError,
        "2 of 3 draws were refused 50 times: the inputs lack what the recipe asks for, so draw "
        "more of them.",
    ):
        redrawn(torch.zeros, lambda places, drawn: ~wanted[places], 3, tries=50)
