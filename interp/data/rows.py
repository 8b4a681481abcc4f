"""Reading problems from JSONL: `{"id", "question", "cot"?, "answer"?}`, one row a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
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
    reason: str | None = None


def read_rows(path: Path, *, limit: int | None = None) -> list[Row]:
    """Read a JSONL file. A bad row is marked with its reason; the others are kept.

    A row without an id gets one from its question's text. `answer` may be a worked solution that
    ends in `#### 18`, as in GSM8K.

    Raises:
        InputError: no such file, an empty one, or one that is not JSONL at all.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: give a JSONL file of problems.")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text, so it is no JSONL file: {error.reason}."
        ) from error
    if not lines:
        raise InputError(f"{path} is empty: give one JSON object a line.")
    rows = list(_marked_twins([_row(line, i) for i, line in enumerate(lines, start=1)]))
    if all(row.reason and row.reason.startswith("not JSON") for row in rows):
        raise InputError(
            f"{path} is not JSONL: its first line is {lines[0][:40]!r}; each line must be a JSON "
            'object such as {"id": "1", "question": "..."}.'
        )
    return rows[:limit]


def _row(line: str, number: int) -> Row:
    try:
        data: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(f"line-{number}", reason=f"not JSON: {error.msg}")
    if not isinstance(data, dict):
        return Row(f"line-{number}", reason="not JSON of the right kind: the line is no object")
    question = data.get("question")
    name = str(data.get("id") or "")
    if not isinstance(question, str) or not question.strip():
        return Row(name or f"line-{number}", reason="no question: the row has no text `question`")
    name = name or "q-" + hashlib.sha256(question.encode()).hexdigest()[:10]
    wrong = [key for key in ("cot", "answer") if not isinstance(data.get(key), str | None)]
    if wrong:
        return Row(name, question, reason=f"`{wrong[0]}` is not text")
    if isinstance(data.get("cot"), str) and not data["cot"].strip():
        return Row(name, question, reason="empty chain: the row's `cot` has no text")
    try:
        spans = tuple((int(a), int(b)) for a, b in data["spans"]) if data.get("spans") else None
        rewrites = {int(k): str(v) for k, v in (data.get("paraphrases") or {}).items()}
    except (TypeError, ValueError, AttributeError):
        reason = "`spans` must be [start, end] pairs and `paraphrases` an object of step to text"
        return Row(name, question, reason=reason)
    return Row(name, question, data.get("cot"), data.get("answer"), spans, rewrites or None)


def _marked_twins(rows: list[Row]) -> Iterator[Row]:
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        if seen[row.id] == 1:
            yield row
        else:
            reason = f"the id {row.id!r} stands on an earlier row too: ids must differ"
            yield Row(f"{row.id}#{seen[row.id]}", row.question, reason=reason)
