"""Measures of an answer, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from interp.errors import UndefinedEffectError
from interp.metrics import logit_diff, recovered
from tests.strategies import says


def test_the_logit_difference_of_each_prompt_by_hand():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 7.0]])
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 2])
    assert logit_diff(logits, right, wrong).tolist() == [1.5, -4.0]
    assert logit_diff(logits, wrong, right).tolist() == [-1.5, 4.0]


def test_the_logit_difference_is_the_log_of_the_odds():
    logits = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    chances = logits.softmax(-1)[0]
    found = logit_diff(logits, torch.tensor([0]), torch.tensor([1]))
    assert float(found.exp()) == pytest.approx(float(chances[0] / chances[1]))


@pytest.mark.parametrize(
    ("patched", "share"), [(1.0, 0.0), (5.0, 1.0), (2.0, 0.25), (-1.0, -0.5), (7.0, 1.5)]
)
def test_the_share_recovered_by_hand(patched, share):
    assert recovered(patched, corrupted=1.0, clean=5.0) == share
    # the same gap the other way round
    assert recovered(patched, corrupted=5.0, clean=1.0) == 1 - share


def test_a_pair_without_a_gap_is_refused():
    message = (
        "Clean and corrupted both score 1.25: the pair has no gap to recover. Drop it, or "
        "choose a corruption that changes the answer."
    )
    with says(UndefinedEffectError, message):
        recovered(3.0, corrupted=1.25, clean=1.25)


numbers = st.floats(-100, 100)


@given(numbers, numbers, numbers, st.floats(0.5, 4), numbers)
def test_the_share_does_not_depend_on_scale_or_shift(patched, corrupted, clean, scale, shift):
    assume(abs(clean - corrupted) > 1e-3)
    once = recovered(patched, corrupted=corrupted, clean=clean)
    again = recovered(
        patched * scale + shift, corrupted=corrupted * scale + shift, clean=clean * scale + shift
    )
    assert again == pytest.approx(once, rel=1e-6, abs=1e-6)
