"""The fields of an experiment's configuration, and values of their types.

A value of a grid file is strict JSON: a list may become a tuple, text a path and 3 the number 3.0,
and nothing else is converted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from interp.errors import InputError
from interp.sweeps.experiment import Experiment
from interp.sweeps.grid_values import shown
from interp.sweeps.grid_words import Mistakes, no_field, step, words


class Fields:
    """The fields of an experiment's configuration: what each takes, and its default."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.owner, self.config, self.folder = experiment.name, experiment.config, folder
        if not is_dataclass(self.config):
            raise InputError(f"the configuration of {self.owner!r} is no dataclass: make it one.")
        known, hints = [f for f in fields(self.config) if f.init], get_type_hints(self.config)
        self.hints = {f.name: hints[f.name] for f in known}
        self.defaults = {f.name: f.default for f in known if f.default is not MISSING}
        self.defaults |= {
            f.name: f.default_factory() for f in known if f.default_factory is not MISSING
        }

    def value(self, where: str, name: str, raw: object) -> Any:
        """Return the value of a field, paths put into the grid's folder.

        Raises:
            InputError: there is no such field, or the value is of another type.
        """
        what = self._called(where, name)
        found = typed(what, self.hints[name], raw)
        _refuse_infinite(what, found)
        return self._placed(found)

    def row(self, where: str, raw: Mapping[str, Any], wrong: Mistakes) -> dict[str, Any]:
        """Return the values of several fields, or none, with a note, where one is wrong."""
        found = {}
        for name, value in raw.items():
            with wrong.noted():
                found[name] = self.value(where, name, value)
        return found if len(found) == len(raw) else {}

    def column(self, where: str, name: str, raw: object, wrong: Mistakes) -> list[Any]:
        """Return several values of one field, or none, with a note, where one is wrong."""
        with wrong.noted():
            what = self._called(where, name)
            if not isinstance(raw, list) or not raw:
                raise InputError(f"{what} is {shown(raw)}, and takes a list of values: give some.")
            found = []
            for value in raw:
                with wrong.noted():
                    found.append(self.value(where, name, value))
            if len(found) == len(raw):
                return found
        return []

    def _called(self, where: str, name: str) -> str:
        """Return how a sentence names a field.

        Raises:
            InputError: there is no such field.
        """
        if name not in self.hints:
            raise InputError(no_field(f"{where}: the experiment {self.owner!r}", name, self.hints))
        return f"{where}: {name!r}"

    def _placed(self, value: Any) -> Any:
        if isinstance(value, Path):
            return self.folder / value  # an absolute path stays as it is
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(self._placed(each) for each in value)
        if isinstance(value, dict):
            return {key: self._placed(each) for key, each in value.items()}
        return value


def typed(what: str, hint: Any, value: object) -> Any:
    """Return a value as its type has it: lists become tuples, text a path, 3 is a float of 3.0.

    Nothing else is converted: neither "3" nor true is a whole number.

    Raises:
        InputError: the value does not fit, or no file can hold one that does.
    """
    try:
        adapter = _adapter(hint)
    except PydanticSchemaGenerationError as error:
        raise InputError(
            f"{what} takes {words(hint)}, which a grid file cannot hold: leave its default."
        ) from error
    try:
        return adapter.validate_json(json.dumps(value), strict=True, extra="forbid")
    except ValidationError:
        raise InputError(
            f"{what} is {shown(value)}, and takes {words(hint)}{step(hint, value)}"
        ) from None


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint)


def _refuse_infinite(what: str, value: object) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{what} is {value}, and takes finite numbers alone: give one.")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _refuse_infinite(what, each)
