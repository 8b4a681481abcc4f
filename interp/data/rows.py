"""Reading problems from JSONL: `{"id", "question", "cot"?, "answer"?}`, one row a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from interp.errors import InputError


@dataclass(frozen=True)
class Row:
    """One row; `reason` says why it cannot be used, if it cannot."""

    id: str
    question: str = ""
    cot: str | None = None
    answer: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    paraphrases: dict[int, str] | None = None
    checks: tuple[int, ...] | None = None
    reason: str | None = None


def read_rows(path: Path, *, limit: int | None = None) -> list[Row]:
    """Read a JSONL file. A bad row is marked with its reason; the others are kept.

    A row without an id gets one from its question's text. `answer` may be a worked solution that
    ends in `#### 18`, as in GSM8K.

    Raises:
        InputError: no such file, an empty one, or one that is not JSONL at all.
    """
    lines = read_lines(path, "problems")
    rows = list(_marked_twins([_row(line, i) for i, line in enumerate(lines, start=1)]))
    if all(row.reason and row.reason.startswith("not JSON") for row in rows):
        raise InputError(
            f"{path} is not JSONL: its first line is {lines[0][:40]!r}; each line must be a JSON "
            'object such as {"id": "1", "question": "..."}.'
        )
    return rows[:limit]


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a JSONL file that are not blank.

    Raises:
        InputError: no such file, one that is not text, or an empty one.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: give a JSONL file of {what}.")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text, so it is no JSONL file: {error.reason}."
        ) from error
    if not lines:
        raise InputError(f"{path} is empty: give one JSON object a line.")
    return lines


def _row(line: str, number: int) -> Row:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", str(error))
        return Row(f"line-{number}", reason=f"not JSON: {said}")
    if not isinstance(data, dict):
        return Row(f"line-{number}", reason="not JSON of the right kind: the line is no object")
    question = data.get("question")
    name = "" if data.get("id") is None else str(data["id"])
    if not _encodable(data):
        return Row(f"line-{number}", reason="not text: the row holds a lone surrogate")
    if not isinstance(question, str) or not question.strip():
        return Row(name or f"line-{number}", reason="no question: the row has no text `question`")
    name = name or "q-" + hashlib.sha256(question.encode()).hexdigest()[:10]
    if isinstance(data.get("answer"), int | float) and not isinstance(data["answer"], bool):
        data["answer"] = str(data["answer"])
    if typo := _misspelt(data):
        return Row(name, question, reason=typo)
    wrong = [key for key in ("cot", "answer") if not isinstance(data.get(key), str | None)]
    if wrong:
        return Row(name, question, reason=f"`{wrong[0]}` is not text")
    if isinstance(data.get("cot"), str) and not data["cot"].strip():
        return Row(name, question, reason="empty chain: the row's `cot` has no text")
    try:
        spans = tuple((int(a), int(b)) for a, b in data["spans"]) if data.get("spans") else None
        rewrites = {int(k): str(v) for k, v in (data.get("paraphrases") or {}).items()}
        checks = None if data.get("checks") is None else tuple(int(i) for i in data["checks"])
    except (TypeError, ValueError, AttributeError):
        reason = "`spans` must be [start, end] pairs, `paraphrases` an object of step to text, and "
        return Row(name, question, reason=reason + "`checks` a list of steps")
    given = data.get("cot"), data.get("answer")
    return Row(name, question, *given, spans, rewrites or None, checks)


FIELDS = ("id", "question", "cot", "answer", "spans", "paraphrases", "checks")


def _misspelt(data: dict[str, Any]) -> str | None:
    """Say that a key is almost the name of a field that the row lacks; other keys are no matter."""
    for key in data.keys() - set(FIELDS):
        near = get_close_matches(key, [f for f in ("cot", "answer") if f not in data], 1, 0.66)
        if near:
            return f"unknown field {key!r}: did you mean {near[0]!r}?"
    return None


def _encodable(data: dict[str, Any]) -> bool:
    """Whether all text of a row can be written as UTF-8."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _marked_twins(rows: list[Row]) -> Iterator[Row]:
    """Mark every row whose id stands on an earlier one, under an id that no row has."""
    taken, seen = {row.id for row in rows}, set()
    for row in rows:
        if row.id not in seen:
            seen.add(row.id)
            yield row
            continue
        place = 2
        while f"{row.id}#{place}" in taken:
            place += 1
        name = f"{row.id}#{place}"
        taken.add(name)
        reason = f"the id {row.id!r} stands on an earlier row too: ids must differ"
        yield Row(name, row.question, reason=reason)
