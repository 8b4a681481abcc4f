"""Find runs, sweeps and stores: a folder, an `s3://` address or a pattern becomes `Source`s.

The folder of a run has a `manifest.json`, that of a sweep a `sweep.json`; a store has `cells`, and
gives its sweeps and itself. In a bucket there are sweeps and stores.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InputError, StoreError
from interp.results.cells import require_key
from interp.results.files import Files
from interp.results.manifest import Manifest, parse_json, read_manifest
from interp.results.objects import is_bucket, parse_address

Paths = str | Path | Iterable[str | Path]
"""Folders, addresses or patterns: one, or several."""

_MARKS = ("manifest.json", "sweep.json", "cells")


@dataclass(frozen=True)
class Source:
    """One run or sweep, or what a store holds beside its sweeps."""

    path: str
    """Where it is; its last part is its name."""
    address: str
    """The folder, or `s3://` address, whose `cells` it has."""
    keys: tuple[str, ...] = ()
    """Cells that it should have, in their order."""
    whole: bool = False
    """Whether all other cells of the address are its own too: of a run or a store, not a sweep."""
    manifest: Manifest | None = None
    """Of a run; the cells of others have a configuration each."""
    unit: str | None = None
    """The column of the independent units, where the sweep names it."""

    @property
    def full(self) -> str:
        """The path from the root on."""
        return _full(self.path)


def find(sources: Paths) -> tuple[Source, ...]:
    """Return the sources of some paths, each once, in their order.

    Raises:
        InputError: no path is given.
        StoreError: one is no run, sweep or store, or what describes it is damaged.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if not given:
        raise InputError("No source is named: give the folder of a run, a sweep or a store.")
    paths = dict.fromkeys(path for each in given for path in _expanded(str(each)))
    found = [source for path in paths for source in _sources(path)]
    return tuple({source.full: source for source in found}.values())


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Name each path by its last part, with as many more as tell equal ones apart.

    >>> short_names(["/a/run", "/b/run", "/b/new"])
    {'/a/run': 'a/run', '/b/run': 'b/run', '/b/new': 'new'}
    """
    found = {}
    for path in paths:
        parts = path.split("/")
        others = [other.split("/") for other in paths if other != path]
        n = next(n for n in range(1, len(parts) + 1) if all(o[-n:] != parts[-n:] for o in others))
        found[path] = "/".join(parts[-n:])
    return found


def cells_missing(n: int) -> str:
    """Say that a run once had `n` cells more."""
    return (
        f"{n} cells of this run are missing or damaged and not shown; start the command that "
        "made the run again to make them again."
    )


def cells_gone(source: Source, n: int) -> str:
    """Say that `n` cells that a source should have are not there."""
    if source.manifest is not None:
        return cells_missing(n)
    return (
        f"{n} of the {len(source.keys)} cells of the sweep {source.path} are not there "
        "(to do, failed or damaged) and not shown; start the sweep again to make them, with "
        "--retry-failed for those that failed."
    )


def _expanded(path: str) -> list[str]:
    """The paths that a pattern stands for; without `*`, `?` or `[`, or if it exists, itself."""
    if is_bucket(path):
        return ["s3://" + "/".join(filter(None, parse_address(path)))]
    if os.path.exists(path) or not glob.has_magic(path):
        return [os.path.normpath(path)]
    found = [os.path.normpath(each) for each in sorted(glob.glob(path)) if os.path.isdir(each)]
    if not found:
        raise StoreError(f"There is no run at {path}: no folder matches. Check the pattern.")
    return found


def _sources(path: str) -> list[Source]:
    files = Files.open(path)
    if (plan := files.get("sweep.json")) is not None:
        return [_sweep(path, plan)]
    if not is_bucket(path) and os.path.isfile(os.path.join(path, "manifest.json")):
        manifest = read_manifest(Path(path) / "manifest.json")
        return [Source(path, _full(path), tuple(manifest.order or ()), True, manifest)]
    if is_bucket(path) or os.path.isdir(os.path.join(path, "cells")):
        return [*_sweeps(path, files), Source(path, _full(path), whole=True)]
    raise StoreError(f"There is no run at {path}: it {_why_not(path)}")


def _why_not(path: str) -> str:
    """Why a path is no source, and the next step."""
    if not os.path.isdir(path):
        return "is not a folder. Check the path."
    below = [
        name
        for name in sorted(os.listdir(path))
        if any(os.path.exists(os.path.join(path, name, mark)) for mark in _MARKS)
    ]
    if below:
        return f"is a folder of runs ({', '.join(below[:3])}). Give {path}/* for all."
    return "has no manifest.json, sweep.json or cells. Check the path."


def _sweeps(store: str, files: Files) -> list[Source]:
    plans = {n: files.get(f"sweeps/{n}/sweep.json") for n in files.folders("sweeps")}
    return [_sweep(f"{store}/sweeps/{n}", plan) for n, plan in plans.items() if plan is not None]


def _sweep(path: str, plan: bytes) -> Source:
    try:
        stored: Any = parse_json(plan)
        keys = tuple(map(str, stored["keys"]))
        for key in keys:
            require_key(key)
    except (ValueError, TypeError, KeyError, StoreError) as error:
        raise StoreError(
            f"{path}/sweep.json is damaged or no sweep's ({error}). Start the sweep again."
        ) from error
    return Source(path, _full(path).rsplit("/", 2)[0], keys, unit=stored.get("unit"))


def _full(path: str) -> str:
    return path if is_bucket(path) else Path(path).absolute().as_posix()
