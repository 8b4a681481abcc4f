"""The values of a grid: as JSON has them, as a text to compare them by, and in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from interp.results.manifest import canonical_json


def plain(value: object) -> Any:
    """Return a configuration's value as JSON has it."""
    match value:
        case Path():
            return str(value)
        case Enum():
            return plain(value.value)
        case set() | frozenset():
            return sorted(map(plain, value))
        case list() | tuple():
            return [plain(each) for each in value]
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return value


def token(value: object) -> str:
    """Return a text that is equal for equal values: 1, 1.0 and true are three."""
    return canonical_json(plain(value))


def shown(value: object) -> str:
    """Return a value as a sentence shows it, clipped.

    >>> shown("3"), shown(True), shown(None), shown([1, "a"])
    ("the text '3'", 'true', 'empty', "the list [1, 'a']")
    """
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {clip(value)}"
        case list():
            return f"the list {clip(value)}" if value else "an empty list"
        case dict():
            return f"the mapping {clip(value)}" if value else "an empty mapping"
    return clip(value)


def clip(value: object, limit: int = 60) -> str:
    """Return a short text of a value, cut at `limit` characters."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(plain(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
