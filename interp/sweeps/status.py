"""What a sweep left in its store, read without torch: cells, failures, and what can be cleared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError, StoreError, nearest
from interp.results.cells import Cells
from interp.results.files import Files
from interp.results.index import about
from interp.sweeps.live import cell_label
from interp.sweeps.plan import Failure, State, failure_path, read_failures


@dataclass(frozen=True)
class Status:
    """One cell of a sweep as the store has it."""

    key: str
    config: dict[str, Any]
    label: str
    state: State
    seconds: float | None = None
    rows: int | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its store describes it."""

    store: str
    about: dict[str, Any]
    cells: list[Status]

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self.about["name"]

    def count(self, state: State) -> int:
        """How many cells are in a state; a failed one may still have attempts left."""
        return sum(cell.state == state for cell in self.cells)


def split(place: str) -> tuple[str, str | None]:
    """Split `STORE/sweeps/NAME` into the store and the name; a store alone has no name.

    >>> split("runs/store/sweeps/tts"), split("s3://bucket/x/")
    (('runs/store', 'tts'), ('s3://bucket/x', None))
    """
    place = place.rstrip("/")
    store, found, name = place.rpartition("/sweeps/")
    return (store, name) if found and "/" not in name else (place, None)


def sweep_names(store: str) -> list[str]:
    """The sweeps of a store.

    Raises:
        StoreError: there is none there.
    """
    files = Files.open(store)
    names = [n for n in files.folders("sweeps") if files.get(f"sweeps/{n}/sweep.json")]
    if not names:
        raise StoreError(f"There is no sweep at {store}: check the path; `interp sweep` makes one.")
    return names


def read_sweep(store: str, name: str) -> Sweep:
    """Read a sweep: its description, and the state of every cell.

    Raises:
        StoreError: the store has no such sweep, or its description is damaged.
    """
    data = Files.open(store).get(f"sweeps/{name}/sweep.json")
    if data is None:
        if not Files.open(store).folders("sweeps"):
            raise StoreError(
                f"There is no sweep {name!r} at {store}: a sweep lies at STORE/sweeps/NAME, such "
                f"as {store}/sweeps/sweeps/{name}."
            )
        known = sweep_names(store)
        raise StoreError(
            f"{store} has no sweep {name!r}; it has: {', '.join(known)}.{nearest(name, known)}"
        )
    try:
        described = json.loads(data)
        cells = _cells(store, described)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"The description of the sweep {name} in {store} is damaged ({error!r}): start `interp "
            "sweep` with its grid again, which writes it anew and keeps every cell."
        ) from error
    return Sweep(store, described, cells)


def _cells(store: str, described: dict[str, Any]) -> list[Status]:
    keys, configs = described["keys"], described["configs"]
    there = {row["key"]: row for row in about(store, set(keys)).to_pylist()}
    failures = read_failures(Files.open(store), described["name"])
    varied = varied_fields(configs)
    cells = []
    for key, config in zip(keys, configs, strict=True):
        label, row, failure = cell_label(config, varied), there.get(key), failures.get(key)
        if row is not None:
            seconds = json.loads(row["spent"]).get("seconds")
            cells.append(Status(key, config, label, "done", seconds, row["rows"]))
        else:
            state: State = "failed" if failure else "todo"
            cells.append(Status(key, config, label, state, failure=failure))
    return cells


def varied_fields(configs: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """The fields in which configurations differ.

    >>> varied_fields([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    ('b',)
    """
    values: dict[str, set[str]] = {}
    for config in configs:
        for name, value in config.items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return tuple(name for name, seen in values.items() if len(seen) > 1)


def find_cell(sweep: Sweep, words: Iterable[str]) -> Status:
    """One cell, by the beginning of its key or by `field=value` words that no other fits.

    Raises:
        InputError: no cell fits, or several do.
    """
    wanted = list(words)
    fitting = [cell for cell in sweep.cells if all(_fits(cell, word) for word in wanted)]
    if len(fitting) == 1:
        return fitting[0]
    what = " ".join(wanted) or "no word"
    if not fitting:
        raise InputError(
            f"No cell of {sweep.name} fits {what}: give the beginning of a key or field=value, as "
            "`interp sweep status --cells` lists them."
        )
    few = "; ".join(cell.label for cell in fitting[:3])
    raise InputError(f"{len(fitting)} cells of {sweep.name} fit {what}, such as {few}: say more.")


def _fits(cell: Status, word: str) -> bool:
    name, equals, value = word.partition("=")
    if not equals:
        return cell.key.startswith(word)
    held = cell.config.get(name)
    return name in cell.config and value in (str(held), json.dumps(held))


@dataclass(frozen=True)
class Cleared:
    """What `clear` took away, or would."""

    orphans: list[str]
    """Cells that no sweep of the store names."""
    failures: list[str]
    """Notes on failures of cells that are finished, or that no sweep names."""
    damaged: list[str]
    """Cells that were set aside as damaged."""
    strays: list[str]
    """Files of the index that a killed process left unfinished."""


def clear(store: str, *, orphans: bool, act: bool) -> Cleared:
    """Find what a store no longer needs, and with `act` remove it.

    Raises:
        StoreError: the store has no sweep, or the disk refuses.
    """
    files, cells = Files.open(store), Cells.open(store, write=act)
    named: set[str] = set()
    stale = []
    there = set(cells.keys())
    for name in sweep_names(store):
        keys = set(json.loads(files.get(f"sweeps/{name}/sweep.json") or b"{}").get("keys", ()))
        named |= keys
        noted = [n.removesuffix(".json") for n in files.names(f"sweeps/{name}/failures")]
        stale += [failure_path(name, key) for key in noted if key in there or key not in keys]
    unnamed = sorted(there - named) if orphans else []
    aside = files.folders("damaged")
    index = files.names("index")
    whole = {name.removesuffix(".json") for name in index if name.endswith(".json")}
    strays = [f"index/{name}" for name in index if name.partition(".")[0] not in whole]
    if act:
        for path in [*stale, *strays]:
            files.delete(path)
        for folder in [*(f"cells/{key}" for key in unnamed), *(f"damaged/{n}" for n in aside)]:
            files.delete_folder(folder)
    return Cleared(unnamed, stale, aside, strays)
