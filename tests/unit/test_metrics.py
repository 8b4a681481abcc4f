"""Measures of an answer, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from interp.errors import InputError, UndefinedEffectError
from interp.metrics import KL, LogitDiff, LogProb, Probability, Rank, logit_diff, reads, recovered
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


# ---------------------------------------------------------------- metrics as values


LN = torch.tensor([[1.0, 2.0, 5.0], [6.0, 1.0, 1.0], [2.0, 2.0, 4.0]]).log()
"""Logits whose probabilities are (1, 2, 5), (6, 1, 1) and (2, 2, 4) eighths."""
ROWS = torch.tensor([2, 0, 2])
"""The entries belong to prompts 2, 0 and 2: several entries may share a prompt."""


def scores(metric, logits=LN, rows=ROWS) -> list[float]:
    return metric(logits, rows).tolist()


def test_each_entry_is_scored_with_the_tokens_of_its_own_prompt():
    """Tokens 0 of prompt 0, 1 of prompt 1, 2 of prompt 2."""
    token = (0, 1, 2)
    assert scores(Probability(token)) == pytest.approx([5 / 8, 6 / 8, 4 / 8])
    found = LogProb(token)(LN, ROWS)
    assert found.exp().tolist() == pytest.approx([5 / 8, 6 / 8, 4 / 8])
    assert scores(LogitDiff(token, (1, 0, 0))) == pytest.approx(
        [torch.tensor(ratio).log().item() for ratio in (5.0, 6.0, 2.0)]
    )
    assert scores(Rank(token)) == [0, 0, 0]
    assert scores(Rank((1, 0, 0))) == [2, 1, 1]


def test_one_token_for_all_prompts():
    assert scores(Probability(1)) == pytest.approx([2 / 8, 1 / 8, 2 / 8])
    ratios = [math.log(5 / 2), math.log(1 / 6), math.log(4 / 2)]
    assert scores(LogitDiff(2, [0, 1, 1])) == pytest.approx(ratios, abs=1e-6)
    assert scores(LogitDiff(2, 1)) == scores(LogitDiff([2, 2, 2], [1, 1, 1]))


def test_the_rank_counts_tokens_that_are_strictly_higher():
    tied = torch.tensor([[3.0, 1.0, 3.0, 2.0]])
    zero = torch.tensor([0])
    assert [Rank(token)(tied, zero).item() for token in range(4)] == [0, 3, 0, 2]


def test_the_divergence_from_a_reference_by_hand():
    """From (1, 1, 2) quarters to (1, 2, 5) eighths: 1/4 ln 2 + 1/4 ln 1 + 1/2 ln (4/5)."""
    reference = torch.tensor([[9.0, 1.0, 1.0], [7.0, 7.0, 7.0], [1.0, 1.0, 2.0]]).log()
    expected = 0.25 * math.log(2) + 0.5 * math.log(4 / 5)
    found = scores(KL(reference), LN[:1], torch.tensor([2]))
    assert found == pytest.approx([expected], abs=1e-6)
    assert expected > 0
    assert scores(KL(LN), LN, torch.arange(3)) == pytest.approx([0, 0, 0], abs=1e-6)
    shifted = KL(reference + 3.0)(LN, ROWS)  # a distribution, whatever is added to its logits
    assert torch.allclose(shifted, KL(reference)(LN, ROWS), atol=1e-6)


@given(st.integers(0, 99))
def test_a_divergence_is_not_negative_and_a_probability_a_share(seed):
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(seed)).double() * 4
    rows = torch.arange(4)
    assert float(KL(logits[0])(logits[1], rows).min()) >= 0
    shares = torch.stack([Probability(token)(logits[0], rows) for token in range(7)])
    assert torch.allclose(shares.sum(0), torch.ones(4, dtype=torch.float64))
    assert float(shares.min()) > 0
    ranks = torch.stack([Rank(token)(logits[0], rows) for token in range(7)])
    assert ranks.T.argsort().tolist() == logits[0].argsort(descending=True).tolist()


def test_a_metric_says_which_tokens_it_reads():
    assert reads(LogitDiff([3, 1], 2)) == [1, 2, 3]
    assert reads(LogitDiff(4, 4)) == [4]
    for metric in (Probability(1), LogProb(1), Rank(1), KL(LN), lambda logits, rows: logits[:, 0]):
        assert reads(metric) is None


@pytest.mark.parametrize("kind", [LogProb, Probability, Rank])
def test_tokens_that_do_not_exist_are_refused(kind):
    with says(InputError, "The metric names token 3, but the vocabulary has 3 tokens."):
        kind((0, 3, 1))(LN, ROWS)
    with says(InputError, "The metric names token -1, but the vocabulary has 3 tokens."):
        kind(-1)(LN, ROWS)
    text = "The metric names tokens for 2 prompts and is asked for prompt 2; give one a prompt."
    with says(InputError, text):
        kind((0, 1))(LN, ROWS)
    with says(InputError, text):
        LogitDiff(0, (0, 1))(LN, ROWS)
