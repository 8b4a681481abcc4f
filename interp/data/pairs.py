"""Prompt pairs: a clean prompt and a corrupted one that calls for another answer."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from interp.data.rows import read_lines
from interp.errors import InputError, nearest


@dataclass(frozen=True)
class PromptPair:
    """Two prompts of equal length in tokens, and the answer of each."""

    clean: str
    corrupted: str
    correct: str
    """The next token of the clean prompt, its leading space included."""
    wrong: str
    """The next token of the corrupted prompt."""


@dataclass(frozen=True)
class PairRow:
    """One line of a file of pairs; `reason` says why it cannot be used, if it cannot."""

    id: str
    pair: PromptPair | None = None
    reason: str | None = None


FIELDS = ("clean", "corrupted", "correct", "wrong")


def read_pairs(path: Path) -> list[PairRow]:
    """Read a JSONL file of pairs: `{"id"?, "clean", "corrupted", "correct", "wrong"}` a line.

    A bad line is marked with its reason; the others are kept.

    Raises:
        InputError: no such file, an empty one, or one without a single pair.
    """
    lines = read_lines(path, "prompt pairs")
    rows = [_pair_row(line, number) for number, line in enumerate(lines, start=1)]
    if all(row.pair is None for row in rows):
        first = str(rows[0].reason)
        first += "" if first.endswith((".", "?")) else "."
        raise InputError(
            f"{path} holds no prompt pair; line 1: {first} Each line must be a JSON "
            'object such as {"clean": "...", "corrupted": "...", "correct": " A", "wrong": " B"}.'
        )
    return rows


def _pair_row(line: str, number: int) -> PairRow:
    name = f"line-{number}"
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return PairRow(name, reason=f"not JSON: {getattr(error, 'msg', error)}")
    if not isinstance(data, dict):
        return PairRow(name, reason="not a JSON object")
    name = str(data.get("id") or name)
    for field in FIELDS:
        if not isinstance(data.get(field), str) or not data[field]:
            hint = nearest(field, data.keys() - set(FIELDS))
            return PairRow(name, reason=f"no text in the field {field!r}.{hint}")
    return PairRow(name, PromptPair(*(data[field] for field in FIELDS)))


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
