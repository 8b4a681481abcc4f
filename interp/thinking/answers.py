r"""Read what a model wrote: its chain of thought, its final answer, and what a step says of it.

The final answer must never enter the steps: a step that states it scores by being copied. So the
chain ends before the closing think tag, and before the sentences that mark the final answer where
they are the last ones. Pure text: no model and no tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from interp.thinking.perturb import numbers
from interp.thinking.steps import brace_spans, segment


@dataclass(frozen=True)
class Split:
    """An output in parts: the chain, the marked answer, and whether the thought was cut off."""

    chain: str
    answer: str | None
    truncated: bool


def split_output(
    text: str,
    *,
    think_tags: tuple[str, str] | None = ("<think>", "</think>"),
    opened: bool = False,
) -> Split:
    r"""Split what a model wrote into its chain of thought and its final answer.

    `opened` says that the prompt already held the opening tag. The answer is the last of what
    `\boxed{}` holds, what follows `####`, or what follows "the answer is" or "Answer:", in this
    order of preference; None where nothing is marked. A thought may state an answer and take it
    back: inside one, only a marker in its last sentence counts.

    >>> split_output("2 + 2 = 4.\nThe answer is 4.")
    Split(chain='2 + 2 = 4.\n', answer='4', truncated=False)
    >>> split_output("<think>2 + 2 = 4.</think>It is \\boxed{4}.")
    Split(chain='2 + 2 = 4.', answer='4', truncated=False)
    """
    thought, after, truncated = _without_tags(text, think_tags, opened)
    if after is not None and (marker := _final_marker(after)):
        return Split(thought, marker.answer, truncated)
    marker = _final_marker(thought)
    if marker is None:
        return Split(thought, None, truncated)
    inside_thought = truncated or after is not None
    chain = _without_final_blocks(thought, hashes_end=not inside_thought)
    if chain == thought and inside_thought:
        return Split(thought, None, truncated)
    return Split(chain, marker.answer, truncated)


def gold_answer(answer: str) -> str:
    """Return the reference answer: what follows the last `####` if there is one, else all of it.

    >>> gold_answer("9 * 2 = 18\\n#### 18"), gold_answer(" 18 ")
    ('18', '18')
    """
    return answer.rpartition("####")[2].strip()


def same_answer(a: str, b: str) -> bool:
    r"""Say whether two answers agree: as numbers, or else as text but for case and spacing.

    A percent sign counts: `18%` is `18.0%` but not `18`.

    >>> same_answer("$1,000", "1000.0"), same_answer("18%", "18"), same_answer("Yes.", "yes")
    (True, False, True)
    """
    left, right = _quantity(a), _quantity(b)
    if left is None or right is None:
        return _plain(a) == _plain(b)
    return left == right


def mentions(text: str, answer: str) -> bool:
    """Say whether a step states the answer: one of its numbers has that value, or it is a word.

    An answer of one letter must have the same case, so that "a" is not option A.

    >>> mentions("So she has 18.0 left.", "18"), mentions("The 180 left.", "18")
    (True, False)
    """
    value = _quantity(answer)
    if value is not None and _NUMERAL.fullmatch(_bare(answer)):
        return any(_quantity(number.text) == value for number in numbers(text))
    words = _plain(answer)
    if not words:
        return False
    one_letter = len(words) == 1 and words.isalpha()
    where, what = (text, _bare(answer)) if one_letter else (_plain(text), words)
    return re.search(rf"(?<!\w){re.escape(what)}(?!\w)", where) is not None


def verification(text: str) -> bool:
    """Say whether a step starts with a phrase of self-checking, such as "Wait" or "Let me check".

    >>> verification("Hmm, is it?"), verification("We wait here."), verification("Waiting, he ate.")
    (True, False, False)
    """
    return _SELF_CHECK.match(text) is not None


# ------------------------------------------------------------------------------ the final answer


@dataclass(frozen=True)
class _Marker:
    """Where a final answer is marked, marker included, and the answer itself."""

    start: int
    end: int
    answer: str


_HASHED = re.compile(r"^[ \t]*####[ \t]*(?P<answer>\S[^\n]*)", re.MULTILINE)
_PHRASED = re.compile(
    r"""\b(?:(?:the|final|my|our|correct)\s+answer\s+is\b\s*:?|(?:final\s+)?answer[*_]*\s*:)
    (?:[\s*_$:]|\\[(\[])*                         # markup before the answer
    (?!(?:not|correct|incorrect|wrong|right)\b)   # said of an answer, not one
    (?P<answer>\S.*?)(?=[.!?]+["')\]*_$]*(?:\s|\Z)|\n|\Z)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(
    r"\W*(?:(?:so|thus|hence|therefore)\W+)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\W*",
    re.IGNORECASE,
)
_EDGE_START = re.compile(r"\A(?:\*\*|__|[\s`\"]|\\[(\[]|\\?\$)+")
_EDGE_END = re.compile(r"(?:\*\*|__|[\s`\".]|\\[)\]]|\$)+\Z")


def _without_tags(
    text: str, think_tags: tuple[str, str] | None, opened: bool
) -> tuple[str, str | None, bool]:
    """Return the thought, what follows it (None without a closing tag), and if it was cut off."""
    if think_tags is None:
        return text, None, False
    opening, closing = think_tags
    thought, closed, after = text.partition(closing)
    before, started, inner = thought.partition(opening)
    truncated = not closed and (opened or started != "")
    return inner if started else before, after if closed else None, truncated


def _final_marker(text: str) -> _Marker | None:
    """Find the last marked answer: boxed before hashed before phrased."""
    return _last_boxed(text) or _last_match(_HASHED, text) or _last_match(_PHRASED, text)


def _last_boxed(text: str) -> _Marker | None:
    """Find the last box that is closed and not empty."""
    ends = dict(brace_spans(text))
    for match in reversed(list(re.finditer(r"\\boxed\s*(?=\{)", text))):
        end = ends.get(match.end())
        if end is not None and (answer := text[match.end() + 1 : end - 1].strip()):
            return _Marker(match.start(), end, answer)
    return None


def _last_match(pattern: re.Pattern[str], text: str) -> _Marker | None:
    """Find the last match of `pattern` that leaves an answer once its markup is gone."""
    for match in reversed(list(pattern.finditer(text))):
        if answer := _EDGE_END.sub("", _EDGE_START.sub("", match["answer"])):
            return _Marker(match.start(), match.end(), answer)
    return None


def _without_final_blocks(text: str, *, hashes_end: bool) -> str:
    """Cut marked answers off the end, however often they are repeated there.

    With `hashes_end` all that follows a line with `####` goes too: by convention nothing but the
    answer does, and a model that writes on only says it again.
    """
    final = None
    while (marker := _final_marker(text)) and (not final or mentions(marker.answer, final)):
        final = final or marker.answer
        block = _block_start(text, marker)
        if block is None and hashes_end and text[marker.start :].lstrip().startswith("####"):
            block = marker.start
        if block is None:
            break
        text = text[:block]
    return text


def _block_start(text: str, marker: _Marker) -> int | None:
    """Return where the sentence of the marker starts, its heading included, if it is the last."""
    steps = segment(text)
    if marker.end <= steps[-1].start:
        return None
    last = next(step for step in steps if marker.start < step.end)
    start = marker.start if text[marker.start :].lstrip().startswith("####") else last.start
    for step in reversed(steps[: last.index]):
        if step.end != start or not _HEADING.fullmatch(step.text):
            break
        start = step.start
    return start


# -------------------------------------------------------------------------- comparing answers

_NUMERAL = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,400})?(?:\.[0-9]{1,400})?")
_RATIO = re.compile(
    r"(-?)(?:\\[dt]?frac\{(-?[0-9]{1,400})\}\{([0-9]{1,400})\}|([0-9]{1,400})/([0-9]{1,400}))"
)


def _bare(answer: str) -> str:
    """Strip what does not belong to the value: spaces, money and markup."""
    text = re.sub(r"\\text(?:bf)?\{([^{}]*)\}", r"\1", answer.strip())
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\u2212", "-").replace("\\!", "")
    text = _EDGE_END.sub("", _EDGE_START.sub("", text))
    return re.sub(r"\A-\s*\\?\$", "-", text)


def _plain(answer: str) -> str:
    """Return an answer as words, in one case and with single spaces."""
    return " ".join(_bare(answer).casefold().split())


def _quantity(answer: str) -> tuple[Fraction, str] | None:
    """Read an answer as an exact number and its percent sign; None if it is something else."""
    number, percent, rest = _bare(answer).partition("%")
    number = number.strip()
    if rest:
        return None
    if ratio := _RATIO.fullmatch(number):
        sign, *parts = ratio.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        return (Fraction(-top if sign else top, bottom), percent) if bottom else None
    if not _NUMERAL.fullmatch(number) or not number[-1:].isdigit():
        return None
    return Fraction(number.replace(",", "")), percent


# ------------------------------------------------------------------------------- self-checks

_SELF_CHECK = re.compile(
    r"""[\s*_>"'(-]*
    (?:(?:but|so|ok|okay|oh|well|now|and|no)\b[\s,.!\u2014-]*){0,2}
    (?:wait\b(?!\s+(?:time|list|for)\b)
      |hold\s+on\b|hmm+\b|actually\b|alternatively\b|on\s+second\s+thought\b
      |(?:let\s+me|let['\u2019]s|let\s+us|i(?:['\u2019]ll|\s+should|\s+need\s+to|\s+will|\s+can)
         |we\s+(?:should|can|need\s+to)|to)\s+
       (?:just\s+|also\s+|quickly\s+|now\s+)?
       (?:(?:double|cross|re)[\s-]?check|check|verify|confirm|re-?examine|reconsider|re-?read
         |re-?calculate|re-?compute|make\s+sure|think\s+again|go\s+back)\b
      |(?:double|cross|re)[\s-]?check(?:ing)?\b|verify(?:ing)?\b|just\s+to\s+be\s+sure\b
      |is\s+(?:that|this)\s+(?:right|correct)\b|(?:check|checking|verification)\s*:)""",
    re.IGNORECASE | re.VERBOSE,
)
