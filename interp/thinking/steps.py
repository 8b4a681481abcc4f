"""Cut a chain of thought into steps: sentences that join to the very same text.

A step ends at a full stop, question or exclamation mark before white space, and at a line break.
It never ends inside a decimal, an abbreviation, a formula or a pair of braces: half a decimal is
no step. White space belongs to the step before it, so that dropping a step drops its own gap and
leaves every other character where it was. Pure text: no model and no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from interp.errors import InputError


@dataclass(frozen=True)
class Step:
    """One step of a chain: `text` is `chain[start:end]`, offsets counted in characters."""

    index: int
    start: int
    end: int
    text: str


def segment(chain: str) -> list[Step]:
    """Cut `chain` into sentences whose texts join to `chain` exactly; blank text has no steps.

    A list marker ("1.", "-", "Step 1:") stays with the sentence that it introduces, and a piece
    without a letter or a digit joins the step before it.

    >>> [step.text for step in segment("He ate 3.5 pies. Dr. Wu ate 2.")]
    ['He ate 3.5 pies. ', 'Dr. Wu ate 2.']
    """
    if not chain.strip():
        return []
    return _steps(chain, _merged(chain, _cuts(chain)))


def from_spans(chain: str, spans: Sequence[tuple[int, int]]) -> list[Step]:
    """Cut `chain` at the user's `(start, end)` spans, counted in characters.

    White space between two spans goes to the earlier one, so the steps join to `chain` exactly.

    Raises:
        InputError: a span is blank, out of range, out of order or overlapping, or the spans leave
            out text.

    >>> [step.text for step in from_spans("2 + 2. So 4.", [(0, 6), (7, 12)])]
    ['2 + 2. ', 'So 4.']
    """
    checked = [_checked(chain, place, span) for place, span in enumerate(spans)]
    for place, ((_, end), (start, _)) in enumerate(pairwise(checked)):
        if start < end:
            raise InputError(
                f"Span {place + 1} starts at {start}, before span {place} ends at {end}: "
                "put the spans in order, without overlap."
            )
    starts = [start for start, _ in checked]
    ends = [end for _, end in checked]
    for end, start in zip([0, *ends], [*starts, len(chain)], strict=True):
        _require_blank(chain, end, start)
    return _steps(chain, [0, *starts[1:], len(chain)]) if spans else []


def brace_spans(text: str) -> list[tuple[int, int]]:
    r"""Return `(start, end)` of every balanced `{...}`, inner ones first; `\{` is no brace.

    >>> brace_spans(r"\frac{1}{2} } {")
    [(5, 8), (8, 11)]
    """
    opened: list[int] = []
    spans = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            spans.append((opened.pop(), match.end()))
    return spans


# ------------------------------------------------------------------------------- from cuts to steps


def _steps(chain: str, bounds: Sequence[int]) -> list[Step]:
    """Make the steps between neighbouring bounds."""
    return [
        Step(index, start, end, chain[start:end])
        for index, (start, end) in enumerate(pairwise(bounds))
    ]


def _merged(chain: str, cuts: Sequence[int]) -> list[int]:
    """Return the bounds of the steps: the cuts, but for those that strand a marker or no word."""
    bounds = [0]
    before, has_word = "", False
    for start, end in pairwise([0, *cuts, len(chain)]):
        piece = chain[start:end]
        marker = _at_line_start(before) and _MARKER.fullmatch(piece.strip())
        has_word = has_word or _WORD_CHARACTER.search(piece) is not None
        before = piece
        if marker:
            continue  # stays open: the next piece closes it
        if has_word:
            bounds.append(end)
            has_word = False
        elif len(bounds) > 1:
            bounds[-1] = end
    if bounds[-1] < len(chain) and len(bounds) > 1:
        bounds.pop()  # a marker at the very end introduces nothing
    return bounds if bounds[-1] == len(chain) else [*bounds, len(chain)]


def _at_line_start(before: str) -> bool:
    """Say whether what follows the piece `before` stands at the start of a line."""
    gap = before[len(before.rstrip()) :]
    return before == "" or "\n" in gap or "\r" in gap


def _checked(chain: str, place: int, span: Sequence[int]) -> tuple[int, int]:
    """Return the span as two offsets inside `chain` with some text between them."""
    match span:
        case (int(start), int(end)) if 0 <= start < end <= len(chain) and chain[start:end].strip():
            return start, end
    raise InputError(
        f"Span {place} is {span!r}: give (start, end) around some text, "
        f"within the {len(chain)} characters of the chain."
    )


def _require_blank(chain: str, start: int, end: int) -> None:
    """Refuse text that no span covers."""
    if left := chain[start:end].strip():
        raise InputError(
            f"No span covers {left[:40]!r} in characters {start} to {end}: "
            "the spans must cover the chain but for white space."
        )


# ----------------------------------------------------------------------------------- where to cut

_WORD_CHARACTER = re.compile(r"[^\W_]")

_MARKER = re.compile(
    r"""[#>*+\u2022\u2013\u2014_\s-]*                     # bullet, quote, heading, emphasis
    (?:\(?(?:[0-9]{1,3}|[a-z]|[ivx]{1,4})[.):]+             # 1.  (a)  iv)
     |(?:step|case|part|phase|stage|method|approach)\s+
      (?:[0-9]{1,3}|[a-z]|[ivx]{1,4})\s*[.:)]?              # Step 1:
    )?[*_]*:?[*_]*""",
    re.VERBOSE | re.IGNORECASE,
)

_LONGEST_WORD = 40  # what is looked at on either side of a full stop
_TOKEN = re.compile(r"(\S++)(\s*+)")  # possessive: a long run costs one pass
_OPENERS = "([{\"'\u2018\u201c\u00ab*_`$"
_CLOSERS = r"""(?:["'\u2019\u201d\u00bb)\]}*_`$]|\\[)\]])*"""
_STOP = re.compile(rf"([.!?\u2026]+)({_CLOSERS})\Z")
_WIDE_STOP = re.compile(rf"[\u3002\uff01\uff1f]+{_CLOSERS}\s*")  # needs no space after it

# A dollar before a number opens a formula only if a dollar closes it within the sentence;
# otherwise it is money. A closing dollar has no space before it and no digit after it.
_FORMULA = re.compile(
    r"""\\begin\{(?P<env>\w+\*?)\}(?:(?!\\begin\{(?P=env)\}).)*?\\end\{(?P=env)\}
    |\$\$(?:(?!\$\$|\n\s*\n).)+\$\$
    |(?<!\\)\\\[(?:(?!\\\[).)*?\\\]
    |(?<!\\)\\\((?:(?!\\\().)*?\\\)
    |(?<!\\)\$(?=-?[0-9.])(?!-?[0-9.,]+\s+[A-Za-z]{2})
     (?:[^$\\\n.!?]|[.!?](?!\s)|\\.)++(?<!\s)\$(?!\w)
    |(?<!\\)\$(?!-?[0-9.]|[\s$])(?:[^$\\\n]|\\.|\n(?!\s*\n))++(?<!\s)\$(?![0-9])""",
    re.VERBOSE | re.DOTALL,
)


def _cuts(chain: str) -> list[int]:
    """Return, in order, the offsets inside `chain` where a sentence and its gap are over."""
    inside = bytearray(len(chain) + 1)
    for start, end in _protected(chain):
        inside[start + 1 : end] = b"\1" * (end - start - 1)
    ends = {*_sentence_ends(chain), *(match.end() for match in _WIDE_STOP.finditer(chain))}
    return sorted(end for end in ends if end < len(chain) and not inside[end])


def _protected(chain: str) -> Iterator[tuple[int, int]]:
    """Yield the spans that stay whole: formulas and balanced braces."""
    yield from (match.span() for match in _FORMULA.finditer(chain))
    yield from brace_spans(chain)


def _sentence_ends(chain: str) -> Iterator[int]:
    """Yield the end of every gap of white space that closes a sentence or a line."""
    before = ""
    for match in _TOKEN.finditer(chain):
        word, gap = match.groups()
        after = chain[match.end() : match.end() + _LONGEST_WORD]
        if "\n" in gap or "\r" in gap or (after and _ends_sentence(before, word, after)):
            yield match.end()
        before = word


def _ends_sentence(before: str, word: str, after: str) -> bool:
    """Say whether a sentence ends with `word`; `before` is the word before it, if any."""
    word = word[-_LONGEST_WORD:]
    stop = _STOP.search(word)
    if stop is None:
        return False
    mark, closers = stop.groups()
    stem = word[: stop.start()].lstrip(_OPENERS)
    if after[0].islower() and (mark in ("...", "\u2026") or re.search(_QUOTE_CLOSED, closers)):
        return False
    if mark == "!" and re.search(r"[0-9)}]\Z|\A[A-Za-z]\Z", stem):
        return after[0].isupper()  # otherwise a factorial
    return mark != "." or not _abbreviates(before, stem, after.lstrip(_OPENERS))


# ---------------------------------------------------------------------------------- abbreviations

_QUOTE_CLOSED = r"""["'\u2019\u201d\u00bb)\]]"""  # "Really?" she said
_NEVER_LAST = re.compile(
    r"(?i:e\.?g|i\.?e|vs|cf|ca|viz|approx|mrs?|ms|mx|dr|prof|rev|hon|capt|lt|sgt|messrs)"
)
_BEFORE_NUMBER = re.compile(r"Nos?|Figs?|Eqs?|Sec|Ch|Vol|Art|Thm|Ex|pp")
_BEFORE_LOWER = re.compile(
    r"(?i:etc|al|inc|ltd|co|corp|[js]r|ft|lbs?|oz|mins?|hrs?|secs?|yrs?|avg|max)"
)
_BEFORE_NAME = re.compile(r"St|(?:[A-Za-z]{1,2}\.)+[A-Za-z]")  # U.S  Ph.D  a.m
_STARTER = re.compile(  # a capitalised word that more often starts a sentence than names someone
    r"""(?ix:a|actually|adding|all|also|alternatively|an|and|answer|as|assume|at|but|by|check
    |each|finally|find|first|for|from|given|he|hence|her|his|how|however|i|if|in|is|it|its|let
    |multiply|next|no|note|now|on|once|one|our|second|she|similarly|since|so|solve|step|subtract
    |sum|that|the|their|then|there|therefore|these|they|this|those|thus|to|total|two|using|wait
    |we|what|when|where|which|while|with|yes|you)"""
)
_NAMES_A_LETTER = re.compile(  # point A, option B: a label, not the initial of a person
    r"""(?ix:angle|answer|box|case|choice|choose|event|figure|group|is|line|matrix|option|part
    |pick|plan|points?|set|side|team|triangle|type|variable|vertex)"""
)


def _abbreviates(before: str, stem: str, after: str) -> bool:
    """Say whether the full stop after `stem` belongs to an abbreviation inside the sentence."""
    if _NEVER_LAST.fullmatch(stem):
        return True
    if _BEFORE_NUMBER.fullmatch(stem):
        return after[:1].isdigit() and not before.endswith("?")  # "Is it odd? No. 5 is."
    if _BEFORE_LOWER.fullmatch(stem):
        return after[:1].islower()
    if _BEFORE_NAME.fullmatch(stem):
        return after[:1].islower() or _starts_with_name(after)
    return re.fullmatch("[A-Z]", stem) is not None and (
        _starts_with_name(after) and _may_precede_initial(before)
    )


def _starts_with_name(after: str) -> bool:
    """Say whether the next word has a capital and is no usual start of a sentence."""
    word = re.split(r"\W", after, maxsplit=1)[0]
    return word[:1].isupper() and not _STARTER.fullmatch(word)


def _may_precede_initial(before: str) -> bool:
    """Say whether an initial may follow, as in "by J. Smith" but not in "point A." or "= N."."""
    word = before.strip(_OPENERS + ",")
    if before == "" or _STOP.search(word):
        return True
    return word.isalpha() and not _NAMES_A_LETTER.fullmatch(word)
