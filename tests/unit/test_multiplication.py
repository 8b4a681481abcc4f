"""Products digit by digit, the rows that networks read, and the recipe's pieces, by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiments import train_multiplication as recipe
from interp.data import multiplication as task
from interp.errors import InputError, ModelError
from interp.models.multiplier import ReadOut, architecture, mixed_values, untrained


def one(a: int, b: int, n_digits: int) -> task.Products:
    return task.products(*(task.digits_of(torch.tensor([number]), n_digits) for number in (a, b)))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- variables


def test_inner_variables_of_123_times_456_by_hand():
    """321 and 654 reversed: s = 18, 15+12, 12+10+6, 8+5, 4; 123 * 456 = 56088."""
    found = one(123, 456, 3)
    assert found.s.tolist() == [[18, 27, 28, 13, 4, 0]]
    assert found.chat.tolist() == [[18, 28, 30, 16, 5, 0]]
    assert found.r.tolist() == [[1, 2, 3, 1, 0, 0]]
    assert found.c.tolist() == [[8, 8, 0, 6, 5, 0]]


@pytest.mark.parametrize("n_digits", [2, 3, 4])
def test_ten_thousand_products_are_the_products(n_digits: int):
    data = task.draw(10_000, n_digits, stream())
    product = task.numbers_of(data.a) * task.numbers_of(data.b)
    assert torch.equal(task.numbers_of(data.c), product)
    assert torch.equal(data.chat, 10 * data.r + data.c)
    assert torch.equal(data.chat[:, 1:], data.s[:, 1:] + data.r[:, :-1])
    places = 10 ** torch.arange(2 * n_digits)
    assert torch.equal((data.s * places).sum(1), product)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 999), st.integers(0, 999))
def test_products_commute_and_digits_come_back(a: int, b: int):
    left, right = one(a, b, 3), one(b, a, 3)
    assert torch.equal(left.chat, right.chat)
    assert task.numbers_of(left.c).item() == a * b
    assert task.numbers_of(left.a).item() == a


def test_wrong_operands_are_refused():
    digits = torch.tensor([[1, 2]])
    with pytest.raises(InputError) as error:
        task.products(digits, torch.tensor([[1, 12]]))
    assert str(error.value) == (
        "b holds 1 to 12: give digits 0 to 9, least significant first (see digits_of)."
    )
    with pytest.raises(InputError, match=r"^Numbers from 5 to 1000 do not fit 3 digits"):
        task.digits_of(torch.tensor([5, 1000]), 3)


# ------------------------------------------------------------------------------------------ rows


def test_a_row_has_every_digit_at_one_place():
    row = task.encode(one(123, 456, 3))[0]
    assert "".join(task.VOCABULARY[i] for i in row) == "321*654=#880650"
    assert [int(row[task.digit_position(c, 3)]) for c in range(6)] == [3, 2, 1, 6, 5, 4]
    assert [task.digit_name(c, 3) for c in range(6)] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert [int(row[p + 1]) for p in task.predicting(3)] == [8, 8, 0, 6, 5, 0]


def test_the_written_chain_is_the_published_one():
    """3719 * 3349, the example of Internalize_CoT."""
    data = one(3719, 3349, 4)
    chain = task.thoughts(data)
    text = "".join(task.VOCABULARY[i] for i in chain[0])
    assert text == "17433+067841(132281)+0075111(1397921)+00075111"
    row = task.encode(data, chain)[0]
    assert row[task.predicting(4, chain.shape[1])[0]] == task.ANSWER
    assert "".join(task.VOCABULARY[i] for i in row[-8:]) == "13945421"


@pytest.mark.parametrize(("n_digits", "length"), [(2, 8), (3, 24)])
def test_chains_have_one_length_and_add_up(n_digits: int, length: int):
    data = task.draw(50, n_digits, stream())
    chain = task.thoughts(data)
    assert chain.shape == (50, length)
    text = "".join(task.VOCABULARY[i] for i in chain[0])
    partial = [int(part[::-1]) for part in re.sub(r"\(\d+\)", "", text).split("+")]
    assert sum(partial) == task.numbers_of(data.c)[0]


# ----------------------------------------------------------------------------------------- drawing


def test_splits_are_apart_and_draws_repeat():
    train, held = (task.draw(3000, 3, stream(), split=s) for s in ("train", "held_out"))
    numbers = [torch.stack([task.numbers_of(x.a), task.numbers_of(x.b)], 1) for x in (train, held)]
    assert not task.is_held_out(numbers[0]).any()
    assert task.is_held_out(numbers[1]).all()
    again = task.draw(3000, 3, stream(), split="train")
    assert torch.equal(train.c, again.c)
    assert all(int(x.min()) >= 100 and int(x.max()) <= 999 for x in numbers)


def test_one_pair_in_61_is_held_out():
    grid = torch.cartesian_prod(torch.arange(100, 1000), torch.arange(100, 1000))
    share = float(task.is_held_out(grid).double().mean())
    assert share == pytest.approx(1 / 61, abs=1e-4)


def test_different_pairs_are_different_and_all_can_be_had():
    data = task.draw_distinct(8100, 2, stream())
    pairs = torch.stack([task.numbers_of(data.a), task.numbers_of(data.b)], 1)
    assert len(pairs.unique(dim=0)) == 8100
    with pytest.raises(InputError) as error:
        task.draw_distinct(8101, 2, stream())
    assert str(error.value) == "8101 different pairs: there are 1 to 8100 of 2 digits."
    with pytest.raises(InputError, match=r"^4 digits: pairs of 1 to 3 digits can be listed"):
        task.draw_distinct(5, 4, stream())
    with pytest.raises(InputError, match=r"^0 pairs of 3 digits: ask for 1 or more pairs"):
        task.draw(0, 3, stream())


# --------------------------------------------------------------------------------- the algorithm


@pytest.mark.parametrize("k", range(6))
def test_the_algorithm_computes_the_inner_variables(k: int):
    data = task.draw(200, 3, stream(), split="held_out")
    table = task.alignment_table(data, k)
    for j in range(k + 1):
        assert torch.equal(table.values[f"chat_{j}"], data.chat[:, j])
    assert torch.equal(table.values[f"c_{k}"], data.c[:, k])
    assert table.inputs.shape == (200, task.predicting(3)[k] + 1)
    assert torch.equal(table.inputs, task.encode(data)[:, : table.inputs.shape[1]])


def test_an_interchange_of_a_running_sum_by_hand():
    """Base 123 * 456 with chat1 from 111 * 111 (2): chat2 = 28 + 0, so c2 is 8 instead of 0."""
    data = task.products(
        task.digits_of(torch.tensor([123, 111]), 3), task.digits_of(torch.tensor([456, 111]), 3)
    )
    table = task.alignment_table(data, 2, ("chat_1", "chat_2"))
    base, sources = torch.tensor([0, 0, 0]), torch.tensor([[1, 1], [1, 1], [1, 1]])
    active = torch.tensor([[True, False], [False, True], [False, False]])
    pairs = table.label(base, sources, active)
    assert pairs.labels.tolist() == [8, 3, 0]  # 111 * 111 = 12321 has c2 = 3
    assert pairs.base_labels.tolist() == [0, 0, 0]


def test_pairs_interchange_every_set_of_variables():
    table = task.alignment_table(task.draw(100, 3, stream()), 3, ("chat_2", "chat_3"))
    active = table.pairs(3000, 0).active
    shares = [
        float((active == torch.tensor(kind)).all(1).double().mean())
        for kind in ([True, False], [False, True], [True, True])
    ]
    assert sum(shares) == pytest.approx(1)
    assert all(abs(share - 1 / 3) < 0.03 for share in shares)


# ---------------------------------------------------------------------------------- the network


def test_a_read_out_is_a_product_with_each_heads_values():
    read_out = ReadOut(2, heads=(1, 0))
    with torch.no_grad():
        read_out.weight.copy_(torch.tensor([[1.0, 10.0], [100.0, 1000.0]]))
    z = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])  # head 0 has 1 and 2, head 1 has 3 and 4
    assert read_out(z).tolist() == [[[43.0, 2100.0]]]


def test_mixed_values_are_what_the_output_projection_reads():
    model = untrained(architecture(16, 15), 0).eval()
    ids = task.encode(task.draw(3, 3, stream()))
    with mixed_values(model, 0) as z, torch.no_grad():
        out = model(ids, output_hidden_states=True)
        mixed = z()
        with pytest.raises(ModelError, match=r"^Layer 0 ran 0 times since its values were read"):
            z()
        model(ids)
        model(ids)
        with pytest.raises(ModelError, match=r"^Layer 0 ran 2 times since its values were read"):
            z()
    block: Any = model.get_submodule("transformer.h.0")
    before = out.hidden_states[0]
    with torch.no_grad():
        written = block.attn(block.ln_1(before))[0]
        torch.testing.assert_close(block.attn.c_proj(mixed), written, rtol=0, atol=1e-6)
    assert not block.attn.c_proj._forward_pre_hooks
    with pytest.raises(ModelError) as error, mixed_values(model, 2):
        pytest.fail("the block must not run")
    assert str(error.value) == "layer=2: the network has layers 0 to 1."


def test_an_untrained_network_is_its_seed_and_leaves_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (untrained(architecture(16, 15), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    weights = [model.get_parameter("lm_head.weight") for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(ModelError) as error:
        architecture(16, 15, d_model=98)
    assert str(error.value) == "d_model=98: 4 heads must divide it, as they do 96."


# ------------------------------------------------------------------------------------ the recipe


def test_loss_of_the_answer_is_that_of_its_tokens_alone():
    """Uniform logits cost ln 16 everywhere; a logit of 0 against -inf costs nothing."""
    ids = task.encode(one(12, 34, 2))
    flat = torch.zeros(1, ids.shape[1], 16)
    assert recipe.answer_loss(flat, ids, 4)[0].tolist() == pytest.approx([math.log(16)] * 4)
    sure = torch.full((1, ids.shape[1], 16), -math.inf)
    sure[0, torch.arange(ids.shape[1] - 1), ids[0, 1:]] = 0
    assert recipe.answer_loss(sure, ids, 4)[0].tolist() == [0, 0, 0, 0]
    sure[0, -2] = 0  # the position that predicts c3
    assert recipe.answer_loss(sure, ids, 4)[0, :3].tolist() == [0, 0, 0]
    assert recipe.answer_loss(sure, ids, 4)[0, 3] == pytest.approx(math.log(16))


def test_auxiliary_loss_by_hand():
    """Read-outs of 0 against chat / 10 of 11 * 11, (1, 2, 1, 0): mean square (1 + 4 + 1) / 400."""
    z = torch.zeros(1, 11, 96)
    loss = recipe.auxiliary(ReadOut(24), z, one(11, 11, 2), 10.0)
    assert float(loss.detach()) == pytest.approx(6 / 400)


def test_the_chain_disappears_from_the_schedule():
    config = recipe.Config(recipe="icot", steps=100)
    gone = [recipe.removed(step, config, stream(step)) for step in (0, 30, 60, 99)]
    assert gone[0] <= 3
    assert 12 <= gone[1] <= 15
    assert gone[2:] == [24, 24]


def test_training_repeats_and_the_auxiliary_read_out_learns():
    config = recipe.Config(recipe="auxiliary", steps=3, batch=8, held_out=20)
    runs = [recipe.train(config, Console(quiet=True)) for _ in range(2)]
    weights = [model.get_parameter("lm_head.weight") for model, _ in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], recipe.initial(config).get_parameter("lm_head.weight"))
    assert runs[0][1].weight.abs().max() > 0
    assert "read_out.weight" not in runs[0][0].state_dict()
    notes = recipe.report(runs[0][0], config)
    assert notes["scored_pairs"] == "20, held_out"


@pytest.mark.parametrize("kind", ["icot", "two_digit"])
def test_other_recipes_train_too(kind: recipe.Recipe):
    config = recipe.Config(recipe=kind, steps=2, batch=4)
    model, _ = recipe.train(config, Console(quiet=True))
    assert model.config.n_positions == {"icot": 39, "two_digit": 11}[kind]


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match=r"^--batch 0, --held-out 2000, --steps 0, --gone 0\.6: "):
        recipe.Config(batch=0)
