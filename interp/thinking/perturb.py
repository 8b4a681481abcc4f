r"""Change the numbers of a step and nothing else, and the control that changes nothing at all.

A number is what a reader computes with: `-4`, `1,000`, `0.05`, the 5 of `$5`, `5%`, `\frac{5}{2}`.
Digits that are part of a name are spared whole: `x12`, `12x`, `1st`, `x_{1}`, `1e5`, `1.2.3`. A
minus belongs to the number only where it is a sign. What is drawn for a number depends on its key
(seed, problem, step) and its ordinal in the step alone, through SHA-256: not on the order of the
calls, nor on which other steps are scored.

Source of the rule "shift every number a little, drop a step without one": Zhao et al. 2025,
arXiv:2510.24941.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Literal

from interp.errors import InputError

OFFSETS = (-3, -2, -1, 1, 2, 3)
"""What may be added to a number, as in the paper."""
RELEASED_OFFSETS = (-3, -2, -1, 1, 2)
"""The same as the authors' code draws them: +3 never occurs there."""


@dataclass(frozen=True)
class Number:
    """A number and its sign: `text` is `step[start:end]`, offsets counted in characters."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Perturbed:
    """A perturbed step: `edit` shifted its numbers; `drop` had none and removed the step."""

    text: str
    op: Literal["edit", "drop"]


def numbers(text: str) -> list[Number]:
    """Find the numbers of `text`, from left to right.

    >>> [number.text for number in numbers("x12 = -4, so 5-3 is 2.")]
    ['-4', '5', '3', '2']
    """
    found = []
    for match in _SCAN.finditer(text):
        if match["number"]:
            start = match.start()
            if text[:start].endswith(_MINUS) and _is_sign(text[: start - 1]):
                start -= 1
            found.append(Number(start, match.end(), text[start : match.end()]))
    return found


def shift(number_text: str, offset: int) -> str:
    """Add `offset` to a written number and write the sum the same way, exactly.

    Decimal places, thousands separators and the width of zero padding stay.

    Raises:
        InputError: `number_text` is no number as `numbers` finds them.

    >>> shift("1,000.50", -1), shift("007", 3), shift("-1", 3), shift("999,999", 1)
    ('999.50', '010', '2', '1,000,000')
    """
    match = _WRITTEN.fullmatch(number_text)
    if match is None:
        raise InputError(
            f"{number_text!r} is not a number to shift: write digits such as 5, -4 or 1,000.50."
        )
    sign, whole, fraction = match["sign"], match["whole"], match["fraction"]
    separator = re.search(_SEPARATOR, whole)
    digits = re.sub(_SEPARATOR, "", whole)
    with localcontext(prec=len(number_text) + len(str(offset)) + 2):  # every digit is kept
        value = Decimal(f"{'-' if sign else ''}{digits}{fraction}") + offset
        written = f"{abs(value):,f}" if separator else f"{abs(value):f}"
    if separator:
        written = written.replace(",", separator[0])
    if digits.startswith("0"):
        written = written.zfill(len(digits + fraction))
    if not digits:
        written = written.removeprefix("0")
    return f"{sign or '-'}{written}" if value < 0 else written


def perturb_numbers(text: str, *, key: tuple[object, ...], offsets: Sequence[int] = OFFSETS) -> str:
    """Shift every number of `text` by one of `offsets`, drawn by `key` and the number's ordinal.

    `key` is (seed, problem, step), of strings and integers.

    Raises:
        InputError: there is no offset to draw, or one is 0 and would change nothing.
    """
    if not offsets or 0 in offsets:
        raise InputError(
            f"The offsets are {tuple(offsets)!r}: give at least one, and none that is 0."
        )
    shifted = [
        shift(number.text, offsets[_draw((*key, ordinal), len(offsets))])
        for ordinal, number in enumerate(numbers(text))
    ]
    return _replaced(text, shifted)


def perturb_step(
    text: str, *, key: tuple[object, ...], offsets: Sequence[int] = OFFSETS
) -> Perturbed:
    """Shift the numbers of a step; a step without any is dropped, its trailing gap included."""
    if numbers(text):
        return Perturbed(perturb_numbers(text, key=key, offsets=offsets), "edit")
    return Perturbed("", "drop")


def null_rewrite(text: str, *, key: tuple[object, ...]) -> str | None:
    """Rewrite a step without changing what it says: only spaces are added, and at least one.

    As many spots are touched as a numeric edit would, where the text allows it: one more space
    before each number that has a space before it, and spaces around an operator that stands
    between two numbers. If that changes nothing, one single space, drawn by `key`, is doubled.
    None where there is nothing to rewrite.

    >>> null_rewrite("So 5+3=8.", key=(0, "p", 1))
    'So  5 + 3 = 8.'
    """
    found = numbers(text)
    spots = {number.start for number in found if text[: number.start].endswith(" ")}
    for left, right in pairwise(found):
        if _OPERATOR.fullmatch(text, left.end, right.start):
            spots |= {left.end, right.start}
    if not spots:
        single = [match.end() for match in _SINGLE_SPACE.finditer(text)]
        spots = set(single[_draw((*key, "null"), len(single)) :][:1]) if single else set()
    bounds = [0, *sorted(spots), len(text)]
    return " ".join(text[start:end] for start, end in pairwise(bounds)) if spots else None


def _replaced(text: str, texts: Sequence[str]) -> str:
    """Put `texts` in the places of the numbers of `text`."""
    parts, end = [], 0
    for number, new in zip(numbers(text), texts, strict=True):
        parts += [text[end : number.start], new]
        end = number.end
    return "".join([*parts, text[end:]])


def _draw(key: tuple[object, ...], n: int) -> int:
    """Draw one of `range(n)` from the key alone: the same in every process and on every machine."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") % n


# ------------------------------------------------------------------------------ what is a number

_MINUS = ("-", "\u2212")
_SEPARATOR = r"(?:,|\{,\}|\\,)"
_PLAIN = r"[0-9]+(?:\.[0-9]+)?"
_GROUPED = rf"[1-9][0-9]{{0,2}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?"
_NUMBER = rf"(?:{_GROUPED}|{_PLAIN}|(?<![\w.])\.[0-9]+)"
# Scripts that write no space around a number do not glue it: 有3个.
_LETTER = r"[^\W0-9\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_INDEX = r"(?:(?<=_)\{[^{}]*\})?"  # x_{12}

_SCAN = re.compile(
    rf"""\\[dtc]?frac\s*[0-9]+              # \frac12 has no braces: no number can change in it
    |\\[A-Za-z]+                            # so that the 5 of \times5 is not glued
    |[0-9]+(?:\.[0-9]+){{2,}}\w*            # 1.2.3
    |[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]+\w*  # 1e-5
    |{_NUMBER}{_LETTER}\w*{_INDEX}          # 12x  1st
    |{_LETTER}\w*(?:(?<=[0-9])(?:\.[0-9]+|,[0-9]{{3}}(?![0-9])))*{_INDEX}  # x12
    |(?P<number>{_NUMBER})""",
    re.VERBOSE,
)
_WRITTEN = re.compile(
    rf"(?P<sign>[-\u2212]?)(?=\.?[0-9])"
    rf"(?P<whole>[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+|[0-9]*)(?P<fraction>(?:\.[0-9]+)?)"
)
_OPERATOR = re.compile(r"[+*/=<>\u00d7\u00f7\u00b7\u2212-]")
_SINGLE_SPACE = re.compile(r"(?<=\S) (?=\S)")

_BEFORE_SIGN = "=+*/^<>\u2264\u2265\u2248\u2260\u00d7\u00b7\u00f7~([{,;:.?&-\u2212"
_PAIRED = "$|\"'\u201c\u2018"  # opens or closes, and only an opening one comes before a sign
_COMMAND_BEFORE_SIGN = re.compile(
    r"\\(?:times|cdot|div|pm|mp|leq?|geq?|neq?|approx|equiv|sim|to|in|implies|iff|quad"
    r"|(?:Right|right|left)arrow)\Z"
)
_WORD = re.compile(r"(?<![\w\\])[^\W\d_]{2,}\Z")


def _is_sign(before: str) -> bool:
    """Say whether a minus after `before` is a sign: no operand stands on its left.

    A single letter counts as an operand (`x -4`), a longer word does not (`is -4`).
    """
    left = before.rstrip()
    if not left or left[-1] in _BEFORE_SIGN:
        return True
    if left[-1] in _PAIRED:
        return len(left) == len(before) and re.search(r"(?:\A|[\s=(\[{])\Z", left[:-1]) is not None
    if _COMMAND_BEFORE_SIGN.search(left[-24:]):
        return True
    return len(left) < len(before) and _WORD.search(left[-24:]) is not None
