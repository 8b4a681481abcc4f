"""Prompt pairs: a clean prompt and a corrupted one that calls for another answer."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptPair:
    """Two prompts of equal length in tokens, and the answer of each."""

    clean: str
    corrupted: str
    correct: str
    """The next token of the clean prompt, its leading space included."""
    wrong: str
    """The next token of the corrupted prompt."""


NAMES = ("Mary", "John", "Tom", "James", "Anna", "David", "Sarah", "Mark")
PLACES = ("store", "park", "office", "station")
GIFTS = ("drink", "book", "ball", "letter")


def indirect_object(n: int, *, seed: int = 0) -> list[PromptPair]:
    """Make indirect-object pairs: the corrupted prompt swaps who gives.

    The task is that of Wang et al. 2022, arXiv:2211.00593; the sentences are our own.

    >>> indirect_object(1)[0].clean.count(" gave a ")
    1
    """
    rng = random.Random(seed)
    return [_pair(rng) for _ in range(n)]


def _pair(rng: random.Random) -> PromptPair:
    one, other = rng.sample(NAMES, 2)
    place, gift = rng.choice(PLACES), rng.choice(GIFTS)
    start = f"When {one} and {other} went to the {place},"
    return PromptPair(
        clean=f"{start} {other} gave a {gift} to",
        corrupted=f"{start} {one} gave a {gift} to",
        correct=f" {one}",
        wrong=f" {other}",
    )
