"""What a sweep asks of an experiment, and how one is found by name.

An experiment computes one cell: from a configuration, a frozen dataclass of plain values, to tables
of rows. It writes nothing; the worker that ran it writes the cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interp.errors import InputError, nearest
from interp.results import source_hash
from interp.results.manifest import as_json, canonical_json

BUILT_IN = {
    "tts": "interp.jobs.cells:tts",
    "patch": "interp.jobs.cells:patch",
    "align": "interp.jobs.align_sweep:align",
}
"""Experiments of the workbench, and where each lies."""


@dataclass(frozen=True)
class Made:
    """What a cell came to."""

    tables: Mapping[str, Sequence[Mapping[str, object]]]
    """Rows by table name, as `Cells.write` takes them."""
    spent: Mapping[str, float | int] = field(default_factory=dict)
    """What it cost beside its seconds, such as forwards and tokens."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """How one cell is computed, and what identifies it."""

    name: str
    config: type[Any]
    """A frozen dataclass; its fields are what a grid can set. Its checks raise InputError."""
    identity: Callable[[Any], Mapping[str, object]]
    """From a configuration to the hashes of weights and data; loads no weights into memory."""
    group: Callable[[Any], tuple[str, ...]]
    """Cells of equal group share one subject, which a worker loads once."""
    load: Callable[[Any], Any]
    """From a configuration to its subject: the model, with the base runs that cells share."""
    run: Callable[[Any, Any], Made]
    """From a subject and a configuration to the cell's tables."""
    code: tuple[Path, ...]
    """The source files and folders that decide the numbers."""
    places: frozenset[str] = frozenset()
    """Fields of the configuration that only say where a thing lies or how it is computed, such as
    a path or a device: `identity` says what lies there, so they do not enter a cell's key."""
    unit: str | None = None
    """The column that names the independent units (problems), for intervals."""
    headline: tuple[str, str] | None = None
    """The table and column of the number that a sweep's page draws."""

    @cached_property
    def code_hash(self) -> str:
        """Hash of the source that decides the numbers."""
        return source_hash(self.code)


def find(name: str) -> Experiment:
    """Find an experiment: a name of the workbench, or `module:attribute` for one of your own.

    Raises:
        InputError: there is none of that name.
    """
    place = BUILT_IN.get(name, name)
    module, _, attribute = place.partition(":")
    if not attribute:
        raise InputError(
            f"There is no experiment {name!r}: write one of {', '.join(BUILT_IN)}, or "
            f"module:attribute for your own.{nearest(name, BUILT_IN)}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a module of the user's may fail in any way
        raise InputError(
            f"The experiment {name!r} cannot be imported: {type(error).__name__}: {error}. Name a "
            "module that Python finds from here, a colon, and the Experiment in it."
        ) from error
    if not isinstance(found, Experiment):
        raise InputError(
            f"{name!r} is a {type(found).__name__} and no interp.sweeps.Experiment: name one."
        )
    return found


def config_of(experiment: Experiment, values: Mapping[str, Any]) -> Any:
    """Make a configuration again from its JSON values.

    Raises:
        InputError: the configuration's own checks refuse it.
        ValueError: the values are not those of this configuration.
    """
    return _adapter(experiment.config).validate_json(canonical_json(values), strict=True)


def config_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, defaults included; `config_of` reads them back."""
    return json.loads(_adapter(type(config)).dump_json(config))


@cache
def _adapter(config: type[Any]) -> TypeAdapter:
    return TypeAdapter(config)


def cell_identity(experiment: Experiment, config: Any) -> dict[str, object]:
    """What a cell's key is made from: experiment, configuration, weights, data and code.

    Raises:
        InputError, ModelError: the model or the data of the configuration cannot be found.
    """
    settings, hidden = config_json(config), experiment.places
    return {
        "experiment": experiment.name,
        "config": {name: value for name, value in settings.items() if name not in hidden},
        "subject": as_json(experiment.identity(config), "The identity of a subject"),
        "code": experiment.code_hash,
    }
