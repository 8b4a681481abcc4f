"""Rows of the causal-variable track of MIB: a prompt, and named counterfactual prompts with labels.

A line of JSONL is an object with `prompt` and a label; its counterfactuals are the keys that end in
`_counterfactual`, or those of `counterfactuals`, and each is such an object again. A label stands
in `label` or `answer`, in `choices` at the place `answerKey`, or in `metadata.indirect_object`.
Source: Mueller et al. 2025, arXiv:2504.13151; the data are in the Hugging Face organisation
`mib-bench`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.data.counterfactuals import Pairs
from interp.data.rows import read_lines
from interp.errors import InputError, nearest
from interp.models.tokens import encode

SUFFIX = "_counterfactual"


@dataclass(frozen=True)
class Prompt:
    """A text and what should follow it."""

    prompt: str
    label: str = ""
    expected: Mapping[str, str] = field(default_factory=dict)
    """In a counterfactual: for a variable, what follows the row's own prompt when that variable is
    as it is here. Read from `expected`; the published rows leave it to the task's algorithm."""


@dataclass(frozen=True)
class CausalRow:
    """One row; `reason` says why it cannot be used, if it cannot."""

    id: str
    prompt: str = ""
    label: str = ""
    counterfactuals: Mapping[str, Prompt] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class CausalPairs:
    """Interventions from rows, as tokens."""

    inputs: Int[Tensor, "input pos"]
    """Every distinct prompt once; -1 behind each one's end."""
    pairs: Pairs
    rows: tuple[CausalRow, ...]
    """The row of each pair."""
    left_out: tuple[CausalRow, ...]
    """Those that make no pair, each with its reason."""


Expected = Callable[[CausalRow, Prompt], str | None]
"""What follows the row's prompt when the variable is as in the counterfactual; None if unknown."""


def own_label(row: CausalRow, source: Prompt) -> str | None:
    """The counterfactual's own answer: right for a variable that holds the answer itself."""
    return source.label or None


def expected_of(variable: str) -> Expected:
    """Return what the rows themselves expect of a variable."""
    return lambda row, source: source.expected.get(variable)


def read_causal_rows(
    path: Path, tokenizer: Any = None, *, limit: int | None = None
) -> list[CausalRow]:
    """Read rows. A bad one is marked with its reason; the others are kept.

    With a tokenizer, a row is also bad if a counterfactual has another number of tokens than the
    prompt: then a position does not mean the same in both.

    Raises:
        InputError: no such file, an empty one, or not one row that is good.
    """
    lines = read_lines(path, "rows with counterfactual prompts")[:limit]
    rows = [_row(line, number) for number, line in enumerate(lines, start=1)]
    if tokenizer is not None:
        rows = [_of_one_length(row, tokenizer) for row in rows]
    if all(row.reason for row in rows):
        raise InputError(
            f"{path} has no row that can be used; the first, {rows[0].id}: {rows[0].reason}."
        )
    return rows


def causal_pairs(
    rows: Sequence[CausalRow],
    counterfactual: str,
    variable: str,
    expected: Expected,
    tokenizer: Any,
) -> CausalPairs:
    """Return the interventions that give each row's prompt a variable of its counterfactual.

    Args:
        rows: as read; marked ones are left out.
        counterfactual: the name of the sources, with or without its suffix.
        variable: what is interchanged.
        expected: the right answer, such as `own_label` or `expected_of("answer_pointer")`.
        tokenizer: answers must be one token behind the prompt.

    Raises:
        InputError: no row has the counterfactual, or none makes a pair.
    """
    name = counterfactual.removesuffix(SUFFIX)
    known = dict.fromkeys(each for row in rows for each in row.counterfactuals)
    if name not in known:
        raise InputError(
            f"No row has the counterfactual {counterfactual!r}; there are: "
            f"{', '.join(known) or 'none'}.{nearest(name, known)}"
        )
    made = [_pair(row, name, expected, tokenizer) for row in rows]
    good = [each for each in made if isinstance(each, _Pair)]
    bad = tuple(each for each in made if isinstance(each, CausalRow))
    if not good:
        raise InputError(f"No row makes a pair; the first, {bad[0].id}: {bad[0].reason}.")
    place: dict[tuple[int, ...], int] = {}
    for pair in good:
        for ids in (pair.base, pair.source):
            place.setdefault(ids, len(place))
    width = max(map(len, place))
    pairs = Pairs(
        (variable,),
        torch.tensor([place[pair.base] for pair in good]),
        torch.tensor([[place[pair.source]] for pair in good]),
        torch.ones(len(good), 1, dtype=torch.bool),
        torch.tensor([pair.label for pair in good]),
        torch.tensor([pair.base_label for pair in good]),
    )
    inputs = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in place])
    return CausalPairs(inputs, pairs, tuple(pair.row for pair in good), bad)


def answer_token(tokenizer: Any, prompt: str, label: str) -> int | None:
    """Return the one token that an answer is behind a prompt, after a space or not; else None."""
    before = encode(tokenizer, prompt)
    for gap in (" ", ""):
        ids = encode(tokenizer, f"{prompt}{gap}{label}")
        if ids[:-1] == before:
            return ids[-1]
    return None


@dataclass(frozen=True)
class _Pair:
    row: CausalRow
    base: tuple[int, ...]
    source: tuple[int, ...]
    label: int
    base_label: int


def _pair(row: CausalRow, name: str, expected: Expected, tokenizer: Any) -> _Pair | CausalRow:
    if row.reason:
        return row
    if name not in row.counterfactuals:
        return replace(row, reason=f"no counterfactual {name!r}")
    source = row.counterfactuals[name]
    answer = expected(row, source)
    if answer is None:
        return replace(row, reason=f"no expected answer under {name!r}")
    tokens = [answer_token(tokenizer, row.prompt, text) for text in (answer, row.label)]
    if tokens[0] is None or tokens[1] is None:
        text = answer if tokens[0] is None else row.label
        return replace(row, reason=f"the answer {text!r} is not one token behind the prompt")
    ids = [tuple(encode(tokenizer, text)) for text in (row.prompt, source.prompt)]
    return _Pair(row, ids[0], ids[1], tokens[0], tokens[1])


def _row(line: str, number: int) -> CausalRow:
    name = f"line-{number}"
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return CausalRow(name, reason=f"not JSON: {getattr(error, 'msg', str(error))}")
    if not isinstance(data, dict):
        return CausalRow(name, reason="not JSON of the right kind: the line is no object")
    name = str(data.get("id", name))
    own = _prompt(data)
    if isinstance(own, str):
        return CausalRow(name, reason=own)
    if not own.label:
        return CausalRow(
            name, own.prompt, reason="no label: give `label`, or `choices` and `answerKey`"
        )
    found: dict[str, Prompt] = {}
    for key, value in _sources(data).items():
        source = _prompt(value)
        if isinstance(source, str):
            return CausalRow(
                name, own.prompt, own.label, reason=f"counterfactual {key!r}: {source}"
            )
        found[key] = source
    if not found:
        return CausalRow(name, own.prompt, own.label, reason="no counterfactual prompt")
    return CausalRow(name, own.prompt, own.label, found)


def _sources(data: Mapping[str, Any]) -> dict[str, Any]:
    """The counterfactuals of a row by name; those that the row leaves empty are no matter."""
    listed = data.get("counterfactuals")
    named = dict(listed) if isinstance(listed, dict) else {}
    for key, value in data.items():
        if key.endswith(SUFFIX):
            named[key.removesuffix(SUFFIX)] = value
    empty = [key for key, value in named.items() if value is None or value == {"prompt": None}]
    return {key: value for key, value in named.items() if key not in empty}


def _prompt(data: Any) -> Prompt | str:
    """Read a prompt with its label, or say what is wrong."""
    text = data.get("prompt") if isinstance(data, dict) else None
    if not isinstance(text, str) or not text.strip():
        return "no text `prompt`"
    label = _label(data)
    expected = data.get("expected") or {}
    if label is None or not isinstance(expected, dict):
        return "its label is not text, a number, or a place among its choices"
    return Prompt(text, label, {str(key): str(value) for key, value in expected.items()})


def _label(data: Mapping[str, Any]) -> str | None:
    """The label as text, empty where there is none; None where it cannot be read."""
    for key in ("label", "answer"):
        if data.get(key) is not None:
            given = data[key]
            return str(given) if isinstance(given, str | int) else None
    choices, at = data.get("choices"), data.get("answerKey")
    if choices is not None and at is not None:
        texts = choices.get("label") if isinstance(choices, dict) else choices
        inside = isinstance(texts, list) and isinstance(at, int) and 0 <= at < len(texts)
        return str(texts[at]) if inside else None  # type: ignore[index]
    about = data.get("metadata")
    return str(about.get("indirect_object", "")) if isinstance(about, dict) else ""


def _of_one_length(row: CausalRow, tokenizer: Any) -> CausalRow:
    if row.reason:
        return row
    length = len(encode(tokenizer, row.prompt))
    for name, source in row.counterfactuals.items():
        other = len(encode(tokenizer, source.prompt))
        if other != length:
            return replace(
                row,
                reason=f"counterfactual {name!r} has {other} tokens and the prompt {length}: a "
                "position must mean the same in both",
            )
    return row
