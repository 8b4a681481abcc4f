"""Contrasting texts for steering: sentences of two moods, prompts to steer, and neutral text."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from interp.data.rows import read_lines
from interp.errors import InputError


@dataclass(frozen=True)
class Contrasts:
    """What a steering study needs."""

    positive: tuple[str, ...]
    """Texts that have what the direction stands for."""
    negative: tuple[str, ...]
    """Texts that have its opposite; text i pairs with positive text i."""
    prompts: tuple[str, ...]
    """Prompts to steer; none of the texts above."""
    toward: tuple[str, ...]
    """For each prompt the next token that the direction should make likelier."""
    away: tuple[str, ...]
    """For each prompt the one that it should make less likely."""
    neutral: tuple[str, ...]
    """Text that steering should leave alone."""


THINGS = ("film", "meal", "concert", "hotel", "book", "holiday", "match", "speech")
LIKED = ("wonderful", "delightful", "excellent", "lovely", "superb", "brilliant")
DISLIKED = ("awful", "dreadful", "horrible", "terrible", "miserable", "dull")
FRAMES = (
    "The {thing} last week was {mood}, and everyone said so.",
    "We thought that the {thing} was {mood} from the start.",
    "My sister called the {thing} {mood} and talked about it for days.",
)
PROMPTS = (
    "I asked him about the {thing}. He said that it was really",
    "Of the {thing} on Friday she only wrote that it was very",
    "When the {thing} was over, people agreed that it had been",
)
NEUTRAL = (
    "The river rises in the hills and flows north for two hundred miles before it meets the sea.",
    "To make the dough, mix the flour with water and salt, and let it rest for an hour.",
    "The museum opens at nine in the morning and closes at five, except on Mondays.",
    "A triangle with three equal sides has three equal angles of sixty degrees each.",
    "The train from the coast stops at four stations and takes about fifty minutes.",
    "Copper conducts electricity well, which is why it is used in wires and cables.",
    "In autumn the leaves of many trees turn yellow or red and fall to the ground.",
    "The library lends books for three weeks, and most of them can be renewed once.",
)


def moods(n: int = 24, *, seed: int = 0) -> Contrasts:
    """Make sentences that like or dislike a thing, and prompts that could end either way.

    >>> made = moods(4)
    >>> len(made.positive), made.positive[0] != made.negative[0], len(made.prompts)
    (4, True, 24)
    """
    if n < 2:
        raise InputError(f"n={n}: a direction needs at least 2 pairs of texts.")
    rng = random.Random(seed)
    texts = []
    for _ in range(n):
        frame, thing = rng.choice(FRAMES), rng.choice(THINGS)
        both = (rng.choice(LIKED), rng.choice(DISLIKED))
        texts.append([frame.format(thing=thing, mood=mood) for mood in both])
    prompts = tuple(frame.format(thing=thing) for frame in PROMPTS for thing in THINGS)
    positive, negative = (tuple(column) for column in zip(*texts, strict=True))
    toward, away = (" good",) * len(prompts), (" bad",) * len(prompts)
    return Contrasts(positive, negative, prompts, toward, away, NEUTRAL)


def read_contrasts(path: Path) -> Contrasts:
    """Read a JSONL file of three kinds of lines.

    `{"positive", "negative"}` are contrasting texts, `{"prompt", "toward", "away"}` prompts to
    steer with the two next tokens, `{"neutral"}` text that steering should leave alone.

    Raises:
        InputError: no such file, a line of no such kind, or a kind that is missing.
    """
    kinds = (("positive", "negative"), ("prompt", "toward", "away"), ("neutral",))
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {kind: [] for kind in kinds}
    for number, line in enumerate(read_lines(path, "contrasts"), start=1):
        kind, texts = _read(path, line, number, kinds)
        found[kind].append(texts)
    for kind, rows in found.items():
        least = 1 if kind[0] == "neutral" else 2
        if len(rows) < least:
            raise InputError(
                f"{path} has {len(rows)} lines with {', '.join(kind)}; a study needs at least "
                f"{least}."
            )
    pairs, prompts, neutral = (tuple(zip(*found[kind], strict=True)) for kind in kinds)
    return Contrasts(*pairs, *prompts, *neutral)


def _read(
    path: Path, line: str, number: int, kinds: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
    for kind in kinds:
        if isinstance(data, dict) and all(isinstance(data.get(f), str) and data[f] for f in kind):
            return kind, tuple(data[field] for field in kind)
    raise InputError(
        f"{path}, line {number} is none of the three kinds: give text in positive and negative, in "
        "prompt, toward and away, or in neutral."
    )
