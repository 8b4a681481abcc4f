"""Digit swaps on a network whose answer is known exactly, and the study's small pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import multiplication as study
from interp.alignment.digit_swaps import swap, swap_effects, swap_map
from interp.data import multiplication as task
from interp.engine.model import Acts, Model, Run
from interp.engine.receipts import Receipt
from interp.errors import InputError

LOGIT = 7.0


class Planted(Model):
    """A network that is right with a logit of 7, or that only repeats the token that it reads."""

    engine = "planted"

    def __init__(self, *, copies: bool = False) -> None:
        self.copies = copies

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def run(self, inputs: Any, *, logits: Any = "all", **kwargs: Any) -> Run:
        positions = list(logits)
        if self.copies:
            said = inputs[:, positions]
        else:
            said = task.products(inputs[:, :3], inputs[:, 4:7]).c
        found = LOGIT * torch.nn.functional.one_hot(said, len(task.VOCABULARY)).float()
        return Run(found, Acts(), Receipt(()), ())


def pairs(*numbers: tuple[int, int]) -> task.Products:
    a, b = torch.tensor(numbers).T
    return task.products(task.digits_of(a, 3), task.digits_of(b, 3))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_effects_of_one_swap_by_hand():
    """123 * 456 = 056088 and 124 * 456 = 056544: c0, c1 and c2 differ, c3 to c5 do not."""
    found = swap_effects(Planted(), pairs((123, 456)), pairs((124, 456)))
    assert found.tolist() == [[LOGIT, LOGIT, LOGIT, 0, 0, 0]]


@pytest.mark.parametrize("prefix", ["original", "consistent"])
def test_no_swap_has_no_effect(prefix: Any):
    data = task.draw(50, 3, stream())
    assert not swap_effects(Planted(), data, data, prefix=prefix).any()
    assert not swap_effects(Planted(copies=True), data, data, prefix=prefix).any()


def test_the_prefix_is_whose_it_says():
    """A network that repeats what it reads sees a swap only through the consistent prefix.

    The products have the digits 8 8 0 6 5 0 and 4 4 5 6 5 0; c_k is predicted from c_(k-1).
    """
    clean, swapped = pairs((123, 456)), pairs((124, 456))
    model = Planted(copies=True)
    assert not swap_effects(model, clean, swapped).any()
    found = swap_effects(model, clean, swapped, prefix="consistent")
    assert found.tolist() == [[0, LOGIT, LOGIT, LOGIT, 0, 0]]


def test_a_network_that_multiplies_has_its_heat_map():
    """A digit of place i cannot reach c_k below i; it nearly always changes c_i."""
    found = swap_map(Planted(), task.draw(400, 3, stream()))
    assert found.digits == ("a0", "a1", "a2", "b0", "b1", "b2")
    for row, name in enumerate(found.digits):
        place = int(name[1])
        assert not found.effect[row, :place].any()
        assert not found.error[row, :place].any()
        assert found.effect[row, place] > LOGIT / 2
        assert (found.effect[row, place:] > 0).all()
    # By hand: a0 goes to another digit, c0 stays where the difference times b0 is 0 mod 10.
    same = torch.tensor(
        [d * b % 10 == 0 for a in range(10) for d in range(-a, 10 - a) if d for b in range(10)]
    )
    share = 1 - float(same.double().mean())
    assert float(found.effect[0, 0]) == pytest.approx(
        LOGIT * share, abs=4 * float(found.error[0, 0])
    )


@pytest.mark.parametrize("column", range(6))
def test_a_swap_changes_one_digit_to_any_other(column: int):
    data = task.draw(3000, 3, stream())
    changed = swap(data, column, stream(1))
    differs = data.operands != changed.operands
    assert differs[:, column].all()
    assert differs.sum() == len(data)
    assert int(changed.operands.min()) >= 0
    leads = column % 3 == 2
    steps = (changed.operands - data.operands)[:, column] % 10
    if leads:
        assert int(changed.operands[:, column].min()) == 1
    else:
        assert torch.bincount(steps, minlength=10)[1:].min() > 3000 / 9 * 0.8
    assert torch.equal(task.numbers_of(changed.c), _product(changed))


def _product(data: task.Products) -> Tensor:
    return task.numbers_of(data.a) * task.numbers_of(data.b)


def test_bad_swaps_are_refused():
    data = pairs((123, 456), (23, 456))
    with pytest.raises(InputError) as error:
        swap(data, 2, stream())
    assert str(error.value) == (
        "a2 leads its number and is 0 in a pair: draw numbers of exactly 3 digits."
    )
    with pytest.raises(InputError) as error:
        swap(data, 6, stream())
    assert str(error.value) == "column=6: 3 digits twice are columns 0 to 5."
    with pytest.raises(InputError) as error:
        swap_map(Planted(), pairs((123, 456)))
    assert str(error.value) == "1 pairs: a mean with its error needs 2 or more."
    with pytest.raises(InputError) as error:
        swap_effects(Planted(), data, data, prefix="clean")
    assert str(error.value) == "prefix='clean': write 'original' or 'consistent'."


# ------------------------------------------------------------------------------------- the study


def test_the_last_digit_of_a_running_sum_is_the_right_token():
    right = study.right_tokens(torch.tensor([30.0, 7.0]))
    assert right.shape == (2, 16)
    assert right.nonzero().tolist() == [[0, 0], [1, 7]]


def test_a_head_is_labelled_by_the_digits_it_attends_to_most():
    weights = torch.tensor([0.1, 0.3, 0.0, 0.5, 0.02, 0.0, 0.05, 0.03])  # a0 a1 a2 * b0 b1 b2 =
    assert study.mixed_pair(weights, 3) == (1, 5)


def test_networks_that_nobody_trained_are_named(tmp_path: Any):
    from rich.console import Console

    with pytest.raises(InputError) as error:
        study.run(study.Config(networks=("sft",), trained=tmp_path), Console(quiet=True))
    assert str(error.value) == (
        f"None of sft is in {tmp_path}: train one with python -m experiments.train_multiplication."
    )
    with pytest.raises(InputError, match=r"^swaps=1: give 2 or more\.$"):
        study.Config(swaps=1)


def test_probe_pairs_of_three_digits_are_fitted_and_scored_apart():
    class Three:
        n_digits, split = 3, "held_out"

    config = study.Config(fitted=300, scored=100)
    data, train, test = study.probe_pairs(Three(), config)  # type: ignore[arg-type]
    numbers = torch.stack([task.numbers_of(data.a), task.numbers_of(data.b)], 1)
    assert not task.is_held_out(numbers[train]).any()
    assert task.is_held_out(numbers[test]).all()
    assert len(numbers.unique(dim=0)) == 400
