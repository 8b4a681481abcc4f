"""What a sweep has to do: its cells with their keys, what is finished, and what failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from interp.errors import InputError
from interp.results.cells import Cells, cell_key
from interp.results.files import Files
from interp.results.index import about, verified
from interp.sweeps.experiment import Experiment, cell_identity, config_json

State = Literal["todo", "done", "failed"]


@dataclass(frozen=True)
class Failure:
    """The last failure of a cell, as its file in the store holds it."""

    attempts: int
    error: str
    kind: str = ""
    traceback: str = ""
    log: str = ""
    seconds: float = 0.0
    host: str = ""
    when: str = ""


@dataclass
class Planned:
    """One cell of a sweep."""

    key: str
    config: dict[str, Any]
    group: tuple[str, ...]
    state: State
    failure: Failure | None = None


@dataclass
class Plan:
    """All cells of a sweep, in the grid's order."""

    cells: list[Planned]
    tries: int
    seconds: dict[str, float] = field(default_factory=dict)
    """What finished cells took, by key."""
    older: int = 0
    """Cells to do that the store has under another key: other code, weights or data."""

    def count(self, state: State) -> int:
        """How many cells are in a state."""
        return sum(cell.state == state for cell in self.cells)

    def todo(self) -> list[Planned]:
        """Cells to compute, those of one subject together, in the grid's order of subjects."""
        first = {cell.group: place for place, cell in reversed(list(enumerate(self.cells)))}
        left = [cell for cell in self.cells if cell.state == "todo"]
        return sorted(left, key=lambda cell: first[cell.group])  # stable within a group

    def estimate(self) -> float | None:
        """Seconds of work left, from the finished cells of each group; None before any is."""
        by_group: dict[tuple[str, ...], list[float]] = {}
        for cell in self.cells:
            if cell.key in self.seconds:
                by_group.setdefault(cell.group, []).append(self.seconds[cell.key])
        if not by_group:
            return None
        overall = mean(second for each in by_group.values() for second in each)
        return sum(mean(by_group.get(cell.group, [overall])) for cell in self.todo())


def make_plan(
    experiment: Experiment,
    configs: Sequence[Any],
    store: str,
    sweep: str,
    *,
    tries: int,
    retry_failed: bool = False,
) -> Plan:
    """Look up every cell of a grid in the store.

    A cell that failed as often as it may be tried is `failed`, unless failed ones are to be tried
    again.

    Raises:
        InputError, ModelError: weights or data of a cell cannot be found.
        StoreError: the store cannot be read.
    """
    keys = [cell_key(cell_identity(experiment, config)) for config in configs]
    _refuse_twins(keys, configs)
    failures = read_failures(Files.open(store), sweep)
    done = finished(store, keys)
    seconds = {key: spent["seconds"] for key, spent in _spent(store, done).items()}
    cells = []
    for key, config in zip(keys, configs, strict=True):
        failure = failures.get(key)
        state: State = "todo"
        if key in done:
            state, failure = "done", None
        elif failure and failure.attempts >= tries and not retry_failed:
            state = "failed"
        group = experiment.group(config)
        cells.append(Planned(key, config_json(config), group, state, failure))
    return Plan(cells, tries, seconds, _older(store, sweep, cells))


def _older(store: str, sweep: str, cells: Sequence[Planned]) -> int:
    """How many cells to do this sweep once finished under another key."""
    try:
        before = json.loads(Files.open(store).get(f"sweeps/{sweep}/sweep.json") or b"{}")
        known = {
            json.dumps(config): key
            for key, config in zip(before["keys"], before["configs"], strict=True)
        }
    except (ValueError, KeyError, TypeError):
        return 0
    todo = [cell for cell in cells if cell.state == "todo"]
    moved = {known.get(json.dumps(cell.config), cell.key) for cell in todo}
    return len(finished(store, moved - {cell.key for cell in todo}))


def _refuse_twins(keys: Sequence[str], configs: Sequence[Any]) -> None:
    """Refuse two cells that are one computation, though their configurations differ."""
    first: dict[str, Any] = {}
    for key, config in zip(keys, configs, strict=True):
        twin = first.setdefault(key, config)
        if twin is not config:
            one, other = config_json(twin), config_json(config)
            names = [name for name in one if one[name] != other[name]]
            raise InputError(
                f"Two cells differ only in {', '.join(names)} ({one[names[0]]!r} and "
                f"{other[names[0]]!r}), which decides no number: leave one of them out."
            )


def finished(store: str, keys: Iterable[str]) -> set[str]:
    """Those of the cells that are there whole; the ones that no index vouches for are read."""
    if "://" not in store and not Path(store).exists():
        return set()
    known, cells = verified(store), Cells.open(store)
    there = set(cells.keys())
    return {key for key in keys if key in there and (key in known or cells.has(key))}


def _spent(store: str, keys: set[str]) -> dict[str, dict[str, float]]:
    if not keys:
        return {}
    found = about(store, keys).select(["key", "spent"]).to_pylist()
    return {row["key"]: {"seconds": 0.0} | json.loads(row["spent"]) for row in found}


def failure_path(sweep: str, key: str) -> str:
    """Where the last failure of a cell is kept."""
    return f"sweeps/{sweep}/failures/{key}.json"


def read_failures(files: Files, sweep: str) -> dict[str, Failure]:
    """The failures of a sweep by key; a file that cannot be read counts as none."""
    found = {}
    for name in files.names(f"sweeps/{sweep}/failures"):
        key = name.removesuffix(".json")
        data = files.get(failure_path(sweep, key))
        try:
            told = json.loads(data or b"")
            found[key] = Failure(**{each.name: told[each.name] for each in fields(Failure)})
        except (ValueError, TypeError, KeyError):
            continue
    return found
