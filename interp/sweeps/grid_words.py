"""The sentences about a wrong grid: what a type takes, in words, and mistakes told together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from interp.errors import InputError, nearest

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    NoneType: "null",
    Any: "any value",
}


class Mistakes(list[str]):
    """The sentences about what is wrong, until they are raised together."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside the block, an InputError is noted and ends the block alone."""
        try:
            yield
        except InputError as error:
            self.append(str(error))

    def stop(self) -> None:
        """Raise what has been noted, if anything."""
        if len(self) == 1:
            raise InputError(f"{self.source}: {self[0]}")
        if self:
            lines = (f"{n}. {sentence}" for n, sentence in enumerate(self, start=1))
            raise InputError("\n".join([f"{self.source}: {len(self)} mistakes.", *lines]))


def no_field(owner: str, word: str, known: Iterable[str]) -> str:
    """Return the sentence about a name that is none of the known ones."""
    hint = nearest(word, known) or f" There are: {', '.join(known)}."
    return f"{owner} has no field {word!r}.{hint}"


def words(hint: Any) -> str:
    """Return what a type takes, in words.

    >>> words(tuple[int, ...]), words(float | None)
    ('a list, each entry a whole number', 'a number or null')
    >>> words(Literal["own", "model"])
    "one of 'own', 'model'"
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if options := _options(hint):
        return " or ".join(map(words, options))
    if choices := _choices(hint):
        return f"one of {', '.join(map(repr, choices))}"
    if not isinstance(origin, type):
        return str(hint)
    if issubclass(origin, Mapping):
        return "a mapping"
    if issubclass(origin, Sequence | set | frozenset):
        if issubclass(origin, tuple) and args and Ellipsis not in args:
            return f"a list of {len(args)} ({', '.join(map(words, args))})"
        entries = [words(arg) for arg in args if arg is not Ellipsis]
        return f"a list, each entry {' or '.join(entries)}" if entries else "a list"
    return origin.__name__


def step(hint: Any, value: object) -> str:
    """Return what to do about a value of a wrong type: the end of a sentence.

    >>> step(int, "3"), step(int, 3.0), step(str, True)
    (': remove the quotes.', ': write 3.', ': put it in quotes.')
    """
    options = _options(hint) or (hint,)
    if isinstance(value, str):
        if {int, float} & set(options) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", value):
            return ": remove the quotes."
        choices = [choice for choice in _choices(hint) if isinstance(choice, str)]
        hint_at = nearest(value, choices)
        return f".{hint_at}" if hint_at else ": give one."
    if str in options and isinstance(value, bool | int | float):
        return ": put it in quotes."
    if int in options and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}."
    return ": give one."


def _choices(hint: Any) -> list[Any]:
    """Return the values that a type lists, as a file writes them."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [member.value for member in hint]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for option in _options(hint) for choice in _choices(option)]


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; of no union, nothing."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
