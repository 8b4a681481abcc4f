"""Where a piece of text lies among the tokens: found exactly, or refused.

A steering test that touches other tokens than the step's proves nothing, and steering the cue moves
any answer. So there is no fallback here: where the tokens of a span cannot be told apart from the
text around it, that is an error, with the reason to mark the item with.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from interp.errors import InputError
from interp.models.tokens import encode

Offsets = Sequence[tuple[int, int]]
"""For each token the characters `(start, end)` that it spells; equal where it spells none."""


def token_span(tokenizer: Any, text: str, start: int, end: int) -> tuple[int, int]:
    """Return the token positions `(first, stop)` that spell `text[start:end]`.

    Positions count from 0 in the tokens that `interp.models.tokens.encode` gives for `text`, with
    its special tokens. White space at the ends of the span does not count, and a token may hold
    white space around it: the space before a word is often part of the word's token.

    Raises:
        InputError: the span is blank or outside the text, a token holds both its text and other
            text, or the tokenizer does not keep the text so that nothing can be located.

    >>> from interp.models.tiny import tokenizer
    >>> token_span(tokenizer(), "The sum is 12. So true.", 15, 23)
    (9, 13)
    """
    start, end = _stripped(text, start, end)
    offsets = token_offsets(tokenizer, text)
    return located(text, offsets, start, end)


def token_offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return the characters `(start, end)` that each token of `text` spells.

    A fast tokenizer says so itself; for any other the growing prefixes of its tokens are decoded.

    Raises:
        InputError: a tokenizer without offsets whose tokens do not decode to the text.
    """
    if getattr(tokenizer, "is_fast", False):
        first = tokenizer.bos_token
        begun = bool(first) and text.startswith(first)
        found = tokenizer(text, add_special_tokens=not begun, return_offsets_mapping=True)
        return [(int(start), int(end)) for start, end in found["offset_mapping"]]
    return _decoded_offsets(tokenizer, text)


def located(text: str, offsets: Offsets, start: int, end: int) -> tuple[int, int]:
    """Return the token positions `(first, stop)` that spell the characters `start` to `end - 1`.

    Raises:
        InputError: a token also spells other text than white space, or a character of the span
            is in no token.

    >>> located("1 + 1", [(0, 1), (1, 3), (3, 5)], 2, 5)
    (1, 3)
    """
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and a < b]
    held = {place for i in inside for place in range(*offsets[i])}
    lost = [i for i in range(start, end) if i not in held and not text[i].isspace()]
    if not inside or lost or inside != list(range(inside[0], inside[-1] + 1)):
        raise InputError(
            f"{_shown(text, start, end)} cannot be located: the tokenizer does not keep this text, "
            "so no token can be named; leave the item out."
        )
    astray = [i for i in held if not start <= i < end and not text[i].isspace()]
    if astray:
        raise InputError(
            f"{_shown(text, start, end)} is not apart: one token also holds {text[min(astray)]!r} "
            "of the text around it; leave the item out, or cut the steps elsewhere."
        )
    return inside[0], inside[-1] + 1


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise InputError(
            f"The span ({start}, {end}) holds no text: give (start, end) around some, within the "
            f"{len(text)} characters."
        )
    piece = text[start:end]
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _decoded_offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Offsets by decoding: token k spells what the first k + 1 tokens add to the first k."""
    ids = encode(tokenizer, text)
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    places = range(len(ids) - len(own) + 1)
    lead = next((i for i in places if ids[i : i + len(own)] == own), None)
    reach = [0] + [_shared(tokenizer, own[: k + 1], text) for k in range(len(own))]
    if lead is None or reach[-1] != len(text):
        raise InputError(
            f"The tokens of {_shown(text, 0, len(text))} do not decode to it, so no span can be "
            "located: use a fast tokenizer (use_fast=True), or leave the item out."
        )
    spans = [(a, min(max(b, a + 1), len(text))) for a, b in pairwise(reach)]
    return [(0, 0)] * lead + spans + [(0, 0)] * (len(ids) - lead - len(own))


def _shared(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """How many characters of the text some tokens decode to."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    spelled = tokenizer.decode(list(ids), **options)
    differs = (i for i, (a, b) in enumerate(zip(spelled, text, strict=False)) if a != b)
    return next(differs, min(len(spelled), len(text)))


def _shown(text: str, start: int, end: int) -> str:
    piece = text[start:end]
    return repr(piece if len(piece) <= 40 else piece[:37] + "...")
