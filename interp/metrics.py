"""Measures of a model's answer: pure functions of logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UndefinedEffectError


def logit_diff(
    logits: Float[Tensor, "batch d_vocab"],
    correct: Int[Tensor, " batch"],
    wrong: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """How far each prompt prefers the correct token, in nats: `exp` of it is the odds.

    Source: Wang et al. 2022, arXiv:2211.00593, who report the mean over prompts.

    >>> logit_diff(torch.tensor([[2.0, 0.5]]), torch.tensor([0]), torch.tensor([1]))
    tensor([1.5000])
    """
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, correct] - logits[rows, wrong]


def recovered(patched: float, *, corrupted: float, clean: float) -> float:
    """Return the share of the clean-corrupted gap that a patch closes: 0 none, 1 all.

    >>> recovered(2.0, corrupted=1.0, clean=5.0)
    0.25

    Raises:
        UndefinedEffectError: clean and corrupted agree, so there is no gap to close.
    """
    if clean == corrupted:
        raise UndefinedEffectError(
            f"Clean and corrupted both score {clean}: the pair has no gap to recover. Drop it, or "
            "choose a corruption that changes the answer."
        )
    return (patched - corrupted) / (clean - corrupted)
