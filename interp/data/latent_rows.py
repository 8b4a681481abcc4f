"""Reading problems for latent reasoning: files and hub data sets in the forms in use.

| form | a row | steps |
|---|---|---|
| Coconut | `{"question", "steps": [...], "answer"}` | as given |
| CODI | `{"question", "cot", "answer"}`, equations in `<<...>>` | one an equation |
| CommonsenseQA, StrategyQA | the same, `cot` in sentences | one a sentence |
| raw GSM8k-Aug | `question\\|\\|<<4-2=2>> <<2/.5=4>> #### 4` | one an equation |

Every row tells its own form. Files are JSONL, one JSON array (as Coconut's), Parquet or raw lines.
Answers lose thousands separators. A row may have an `id`, and `choices`, which end the question as
`A: ...` lines; the extra fields of ProsQA are kept. A bad row is marked with its reason and the
others are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from interp.data.arithmetic_chains import plain_numbers, read_raw, split_equations
from interp.data.latent_problems import LatentProblem
from interp.data.prosqa import ProsQAProblem
from interp.data.rows import read_lines
from interp.errors import InputError

EXAMPLE = '{"question": "...", "steps": ["...", "..."], "answer": "..."}'
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|e\.g|i\.e)\.)\s+(?=\S)|\n+"
)
FIELDS = ("id", "question", "steps", "cot", "answer", "choices")
GRAPH_FIELDS = {"idx_to_symbol", "edges", "root", "target", "neg_target"}


@dataclass(frozen=True)
class LatentRow:
    """One row: a problem, or the reason why it is none."""

    id: str
    problem: LatentProblem | None = None
    reason: str | None = None


def read_latent(path: Path, *, limit: int | None = None) -> list[LatentRow]:
    """Read a file of problems in any form that this module's table names.

    The first `limit` rows, all without it. A row without an id gets one from its question's text.

    Raises:
        InputError: no such file, an empty one, one that cannot be read, or one without a single
            problem.
    """
    rows = list(_told_apart(_rows(path)))
    if all(row.problem is None for row in rows):
        first = (rows[0].reason or "").rstrip(".")
        raise InputError(
            f"{path} holds no problem; row 1: {first}. Each row must be a JSON object such as "
            f"{EXAMPLE}, or a raw line such as question||<<4-2=2>> #### 2."
        )
    return rows[:limit]


def problems(rows: list[LatentRow]) -> list[LatentProblem]:
    """The problems of the rows that are sound."""
    return [row.problem for row in rows if row.problem is not None]


def read_hub(
    repo: str, file: str, *, revision: str | None = None, limit: int | None = None
) -> list[LatentRow]:
    """Read one file of a Hugging Face data set, such as `train.jsonl` of `owner/name`.

    The file comes from the local cache where it is there already and `HF_HUB_OFFLINE` is set.

    Raises:
        InputError: the data set or the file is not found, or the hub may not or cannot be
            reached; also whatever `read_latent` raises.
    """
    from huggingface_hub import hf_hub_download  # only a hub data set needs it

    from interp.models.registry import offline

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{repo!r} is no data set of the hub: give owner/name.")
    try:
        path = hf_hub_download(
            repo, file, repo_type="dataset", revision=revision, local_files_only=offline()
        )
    except (OSError, ValueError) as error:
        reach = " (HF_HUB_OFFLINE is set)" if offline() else ""
        raise InputError(
            f"{file} of the data set {repo} is not in the local cache and could not be "
            f"downloaded{reach}: {type(error).__name__}; check the names, go online or read a "
            "local file."
        ) from error
    return read_latent(Path(path), limit=limit)


def split_steps(cot: str) -> tuple[str, ...]:
    """The steps of a chain of thought: its equations if it has no other text, else its sentences.

    >>> split_steps("<<4-2=2>> <<2/.5=4>>")
    ('<<4-2=2>>', '<<2/.5=4>>')
    >>> split_steps("Dr. May has 2.5 apples. So it is yes!")
    ('Dr. May has 2.5 apples.', 'So it is yes!')
    """
    sentences = (sentence.strip() for sentence in SENTENCE_END.split(cot))
    return split_equations(cot) or tuple(sentence for sentence in sentences if sentence)


def _rows(path: Path) -> list[LatentRow]:
    """All rows of a file, read as its name and its first sign say."""
    if path.suffix == ".parquet":
        return [_row(data, number) for number, data in enumerate(_table(path), start=1)]
    lines = read_lines(path, "problems")
    if lines[0].lstrip().startswith("[") and not _is_row(lines[0]):
        return [_row(data, number) for number, data in enumerate(_array(path), start=1)]
    return [_line(line, number) for number, line in enumerate(lines, start=1)]


def _is_row(line: str) -> bool:
    """Whether a line that starts with a bracket is a raw row, or a list that is no problem."""
    try:
        items = json.loads(line)
        return bool(items) and not any(isinstance(item, dict) for item in items)
    except (ValueError, RecursionError):
        return "||" in line


def _table(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"There is no file {path}: give a file of problems.")
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {_first_line(error)}.") from error
    if not rows:
        raise InputError(f"{path} is empty: give one problem a row.")
    return rows


def _array(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} starts like a JSON array and is none: {_first_line(error)}."
        ) from error
    if not rows:
        raise InputError(f"{path} is empty: give one problem a row.")
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _line(line: str, number: int) -> LatentRow:
    """One line of text: JSON if it starts like an object or a list, else a raw line."""
    if not line.lstrip().startswith(("{", "[")) or (line.lstrip()[0] == "[" and "||" in line):
        return _guarded(number, lambda: _with_id(read_raw(line, id="")))
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return LatentRow(f"line-{number}", reason=f"not JSON: {getattr(error, 'msg', error)}")
    return _row(data, number)


def _guarded(number: int, read: Callable[[], LatentProblem], name: str = "") -> LatentRow:
    """The row of a problem; what reading it raises becomes the reason."""
    try:
        problem = read()
    except InputError as error:
        return LatentRow(name or f"line-{number}", reason=str(error))
    return LatentRow(problem.id, problem)


def _row(data: Any, number: int) -> LatentRow:
    if not isinstance(data, dict):
        return LatentRow(f"line-{number}", reason="not JSON of the right kind: it is no object")
    if not _encodable(data):
        return LatentRow(f"line-{number}", reason="not text: the row holds a lone surrogate")
    name = "" if data.get("id") is None else str(data["id"])
    return _guarded(number, lambda: _problem(data, name), name)


def _problem(data: dict[str, Any], name: str) -> LatentProblem:
    """The problem of one row.

    Raises:
        InputError: what is wrong with the row, as a reason for its mark.
    """
    _check_keys(data)
    question, answer, steps = _question(data), _answer(data), _steps(data)
    problem = _with_id(LatentProblem(name, question, steps, answer))
    if data.keys() >= GRAPH_FIELDS:
        return ProsQAProblem.from_row(data | {"steps": steps, "answer": answer}, id=problem.id)
    return problem


def _with_id(problem: LatentProblem) -> LatentProblem:
    """The same problem with an id from its question, if it has none."""
    return replace(problem, id=problem.id or _made_id(problem.question))


def _made_id(question: str) -> str:
    return f"q-{hashlib.sha256(question.encode()).hexdigest()[:10]}"


def _encodable(data: dict[str, Any]) -> bool:
    """Whether all text of a row can be written as UTF-8."""
    try:
        json.dumps(data, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _check_keys(data: dict[str, Any]) -> None:
    """Refuse a key that is almost the name of a field which the row lacks."""
    lacking = [field for field in ("question", "answer") if field not in data]
    lacking += ["steps", "cot"] if not {"steps", "cot"} & data.keys() else []
    for key in sorted(map(str, data.keys() - set(FIELDS) - GRAPH_FIELDS)):
        if near := get_close_matches(key, lacking, 1, 0.66):
            raise InputError(f"unknown field {key!r}: did you mean {near[0]!r}?")


def _question(data: dict[str, Any]) -> str:
    question = data.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError("no question: the row has no text `question`")
    choices = data.get("choices")
    if choices is None:
        return question.strip()
    return "\n".join([question.strip(), *_choices(choices)])


def _choices(choices: Any) -> Iterator[str]:
    """Lines `A: ...` from `{"A": ...}` or from `{"label": [...], "text": [...]}`."""
    if isinstance(choices, dict) and {"label", "text"} <= choices.keys():
        labels, texts = choices["label"], choices["text"]
        sound = isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts)
        choices = dict(zip(labels, texts, strict=True)) if sound else None
    if not isinstance(choices, dict) or not all(isinstance(c, str) for c in choices.values()):
        raise InputError('`choices` must be {"A": text, ...} or {"label": [...], "text": [...]}')
    return (f"{label}: {text}" for label, text in choices.items())


def _answer(data: dict[str, Any]) -> str:
    answer = data.get("answer")
    if isinstance(answer, bool):  # StrategyQA's own
        return "yes" if answer else "no"
    if isinstance(answer, int | float) and math.isfinite(answer):
        answer = f"{answer:.15g}" if isinstance(answer, float) else str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise InputError("no answer: the row has no `answer` that is text or a number")
    return plain_numbers(answer.strip())


def _steps(data: dict[str, Any]) -> tuple[str, ...]:
    given, cot = data.get("steps"), data.get("cot")
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(step, str) for step in given):
            raise InputError("`steps` must be a list of texts")
        steps = tuple(step.strip() for step in given)
    elif isinstance(cot, str):
        steps = split_steps(cot)
    else:
        raise InputError("no steps: the row has neither a list `steps` nor a text `cot`")
    if not steps or not all(steps):
        raise InputError("no steps: the row's steps are empty, or one of them is")
    return steps


def _told_apart(rows: list[LatentRow]) -> Iterator[LatentRow]:
    """Give every row an id of its own; a row whose own id stands on an earlier one is marked.

    A question that comes again, without an id, is kept.
    """
    taken, seen = {row.id for row in rows}, set[str]()
    for row in rows:
        if row.id not in seen:
            seen.add(row.id)
            yield row
            continue
        name = next(n for n in _numbered(row.id) if n not in taken)
        taken.add(name)
        if row.problem and row.id == _made_id(row.problem.question):
            yield LatentRow(name, replace(row.problem, id=name))
        else:
            reason = f"the id {row.id!r} stands on an earlier row too: ids must differ"
            yield LatentRow(name, reason=reason)


def _numbered(name: str) -> Iterator[str]:
    place = 2
    while True:
        yield f"{name}#{place}"
        place += 1
