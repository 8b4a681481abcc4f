"""What a claim is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from interp.models import tiny

TINY = tuple(tiny.TINY)
PROMPTS = ["One two three four five", "Hello", "a b c d"]


@dataclass(frozen=True)
class Measured:
    """What a claim's function found."""

    text: str
    """The measured figure, and on what."""
    holds: bool
    table: tuple[dict[str, Any], ...] = ()
    """Rows for a reader who wants more than the figure."""


@dataclass(frozen=True)
class Claim:
    """A name, a goal and how to measure it."""

    name: str
    goal: str
    measure: Callable[[], Measured]


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference; infinite where one is missing and the other is not."""
    if bool((one.isnan() != other.isnan()).any()):
        return float("inf")
    return float((one - other).nan_to_num().abs().max())
