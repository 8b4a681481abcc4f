"""Indirect object identification as an algorithm with one boolean variable.

"When Anna and Ben went home, Anna gave a book to": two names, then one of them again, and the
answer is the other. The names follow ABAB (A B A, then B) or ABBA (A B B, then A). The algorithm
finds out which, and answers with the second-mentioned name or the first-mentioned.

Source: Wang et al. 2022, arXiv:2211.00593; the variable as in Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.causal_models import CausalModel, Variable

ABBA, ABAB = 0, 1
"""The values of the input `pattern`."""

Pattern = Int[Tensor, " prompt"]
Name = Int[Tensor, " prompt"]


def is_abab(pattern: Pattern) -> Bool[Tensor, " prompt"]:
    """Return in which prompts the first-mentioned name is the one that is said again."""
    return pattern == ABAB


def answered(abab: Bool[Tensor, " prompt"], first: Name, second: Name) -> Name:
    """Return the name that was said once: the second-mentioned under ABAB, else the first.

    >>> abab, one, two = torch.tensor([True, False]), torch.tensor([5, 5]), torch.tensor([8, 8])
    >>> answered(abab, one, two).tolist()
    [8, 5]
    """
    return torch.where(abab, second, first)


IOI_ALGORITHM = CausalModel(
    "ioi",
    ("pattern", "first", "second"),
    (
        Variable("abab", ("pattern",), is_abab),
        Variable("answer", ("abab", "first", "second"), answered),
    ),
    "answer",
)
"""Inputs: the pattern and the ids of both names in the order in which they are first mentioned.

Under an interchange of `abab` the answer is one of the base's own names, read by the pattern of the
source.
"""
