"""The index of a store: its cells packed into few files, so that many are listed in seconds.

    ADDRESS/index/<id>.json             one segment: which files it has, and the checksum of each
    ADDRESS/index/<id>.about.parquet    one row a cell
    ADDRESS/index/<id>.<n>.parquet      the rows of one table, of cells that agree on its columns

The cells stay the truth. A segment is made from cells that were read and checked; everything in it
can be made again, so a lost, damaged or stale index costs time only, and the folder may be deleted
at any time:

- A segment whose `.json`, or a file of it, is missing or differs from its checksum is not used: its
  cells are read one by one, as those that no segment has yet.
- A key counts only while the store has a cell of that name, and once, in however many segments.
- A key that was ever set aside as damaged is always read from its cell.
- The `.json` is written last and names its files by their content, so two processes that refresh at
  once write the same segment or two that overlap; both are right.
- A full disk, or a store that is read-only, keeps its index as it is: `refresh` returns 0, and the
  readers take the rest from the cells, in memory.

Needs no torch. Small segments are merged from time to time, so a store that is refreshed after
every few cells has few segments all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from interp.errors import StoreError, nearest
from interp.results.cells import Cell, Cells, sealed, unsealed
from interp.results.disk import cannot_write
from interp.results.files import Files
from interp.results.manifest import canonical_json, digest
from interp.results.tables import as_parquet, from_parquet

pc: Any = pyarrow.compute  # it makes its functions on import, where no type checker sees them

LAYOUT = 2
"""Version of the layout of segments; one of another version is not used."""

MOST = 20_000
"""Cells of the largest segment: what is packed at once is held in memory."""

FEW = 16
"""So many segments that are not full are merged into one."""

_KEY = ""
"""The column of cells' keys beside a table's own: the one name that `as_table` gives to none."""

ABOUT = pa.schema(
    {
        "key": pa.string(),
        "experiment": pa.string(),
        "config": pa.string(),
        "spent": pa.string(),
        "tables": pa.list_(pa.string()),
        "rows": pa.int64(),
    }
)
"""Columns of `about`. `rows` counts those of all tables."""


Groups = dict[tuple[str, pa.Schema], list[pa.Table]]
"""Tables by name and columns."""


@dataclass(frozen=True)
class _Part:
    """One file of a segment: the rows of a table, of the cells that agree on its columns."""

    table: str
    file: str
    sha256: str


@dataclass(frozen=True, eq=False)
class _Segment:
    """A segment whose `.json` and list of cells hold what was written."""

    name: str
    about: pa.Table
    parts: tuple[_Part, ...]

    @property
    def keys(self) -> list[str]:
        return self.about["key"].to_pylist()


@dataclass(frozen=True, eq=False)
class _Packed:
    """What a segment is made from: one row a cell, and tables whose columns agree."""

    about: pa.Table
    tables: tuple[tuple[str, pa.Table], ...]


def refresh(address: str | Path, *, at_least: int = 1) -> int:
    """Pack the good cells that no segment has, if there are `at_least` so many; return how many.

    Every cell is checked as it is packed; a damaged one is set aside. Cells stay as they are.

    Raises:
        StoreError: there is no store, a cell has another schema, or the disk fails.
    """
    cells, files = Cells.open(address), Files.open(address)
    segments = _segments(files)
    loose = sorted(set(cells.keys()) - _covered(segments) - cells.set_aside())
    if len(loose) < max(at_least, 1):
        return 0
    count = 0
    try:
        for start in range(0, len(loose), MOST):
            packed = _pack(_read(cells, loose[start : start + MOST]))
            count += packed.about.num_rows
            if packed.about.num_rows:
                _write_segment(files, packed)
        _merge(files)
    except StoreError as error:
        if not cannot_write(error.__cause__):
            raise
        return 0
    return count


def verified(address: str | Path) -> set[str]:
    """Return the keys that need not be read again: there, and packed when they were checked.

    Raises:
        StoreError: there is no store.
    """
    cells = Cells.open(address)
    return (set(cells.keys()) & _covered(_segments(Files.open(address)))) - cells.set_aside()


def about(address: str | Path, keys: Iterable[str] | None = None) -> pa.Table:
    """Return one row a good cell, with the columns `ABOUT`; a key without a cell has none.

    `config` is the JSON of the identity's `config`, or of the whole identity where it has none;
    `experiment` is null where the identity names none. In the order of `keys`, else by key.

    Raises:
        StoreError: there is no store, or a cell has another schema.
    """
    cells = Cells.open(address)
    wanted = _wanted(cells, keys)
    parts, loose = [], set(wanted)
    for segment, mine in _owners(_segments(Files.open(address)), loose - cells.set_aside()):
        parts.append(_only(segment.about, "key", mine))
        loose -= mine
    parts.append(_about_of(_read(cells, sorted(loose))))
    return _ordered(pa.concat_tables(parts), "key", wanted)


def table(address: str | Path, name: str, keys: Iterable[str] | None = None) -> pa.Table:
    """Return the rows of one table of the good cells, with the column `cell` first, their key.

    As `keys_and_rows`; a table's own column `cell` is named `cell_` here, with as many `_` as make
    it the only one of that name.

    Raises:
        StoreError: as `keys_and_rows`.
    """
    found, rows = keys_and_rows(address, name, keys)
    own = "cell"
    while own in rows.column_names:
        own += "_"
    renamed = [own if column == "cell" else column for column in rows.column_names]
    return rows.rename_columns(renamed).add_column(0, "cell", found)


def keys_and_rows(
    address: str | Path, name: str, keys: Iterable[str] | None = None
) -> tuple[pa.ChunkedArray, pa.Table]:
    """Return, for one table of the good cells, the key of each row's cell, and the rows.

    A column may be integer in one cell and float in another, or absent: it gets the wider type. In
    the order of `keys`, else by key.

    Raises:
        StoreError: there is no store, cells are there and none has the table, the columns do not
            fit together, or a cell has another schema.
    """
    cells, files = Cells.open(address), Files.open(address)
    wanted = _wanted(cells, keys)
    known: set[str] = set()
    parts, loose = [], set(wanted)
    for segment, mine in _owners(_segments(files), loose - cells.set_aside()):
        if (tables := _whole(files, segment, name)) is not None:
            parts += [_only(rows, _KEY, mine) for _, rows in tables]
            known |= _table_names(_only(segment.about, "key", mine))
            loose -= mine
    packed = _pack(_read(cells, sorted(loose)))
    known |= _table_names(packed.about)
    parts += [rows for other, rows in packed.tables if other == name]
    if known and name not in known:
        raise StoreError(
            f"{cells.address} has no table {name!r}; there are: {', '.join(sorted(known))}."
            + nearest(name, known)
        )
    rows = _ordered(_joined([part for part in parts if len(part)], name, cells), _KEY, wanted)
    return rows[_KEY], rows.drop_columns([_KEY])


def matching(rows: pa.Table, where: Mapping[str, object]) -> pa.Table:
    """Return the rows of `about` whose config has these values; 1 equals 1.0, and not true.

    >>> rows = pa.table({"config": ['{"layer":1,"seed":0}', '{"layer":2,"seed":0}']})
    >>> matching(rows, {"layer": 2})["config"].to_pylist()
    ['{"layer":2,"seed":0}']
    """

    def fits(text: str) -> bool:
        config = json.loads(text)
        return all(name in config and _same(config[name], value) for name, value in where.items())

    texts = rows["config"].to_pylist()
    return rows.filter(pa.array([fits(text) for text in texts], pa.bool_()))


def _same(stored: object, asked: object) -> bool:
    return stored == asked and isinstance(stored, bool) == isinstance(asked, bool)


def _wanted(cells: Cells, keys: Iterable[str] | None) -> list[str]:
    there = cells.keys()
    if keys is None:
        return there
    present = set(there)
    return [key for key in dict.fromkeys(keys) if key in present]


def _read(cells: Cells, keys: Iterable[str]) -> Iterator[Cell]:
    return filter(None, map(cells.read, keys))


def _covered(segments: Iterable[_Segment]) -> set[str]:
    return {key for segment in segments for key in segment.keys}


def _owners(segments: Iterable[_Segment], keys: set[str]) -> Iterator[tuple[_Segment, set[str]]]:
    """Yield each segment with those of the keys that it has and no segment before it had."""
    left = set(keys)
    for segment in segments:
        if mine := left.intersection(segment.keys):
            left -= mine
            yield segment, mine


def _only(rows: pa.Table, column: str, keys: set[str]) -> pa.Table:
    """Return the rows whose `column` is one of the keys."""
    values = pa.array(list(keys), pa.string())
    kept = pc.is_in(rows[column], value_set=values)
    return rows if pc.all(kept).as_py() else rows.filter(kept)


def _ordered(rows: pa.Table, column: str, keys: Sequence[str]) -> pa.Table:
    """Return rows in the order of the keys; rows of one key keep theirs."""
    place = pc.index_in(rows[column], value_set=pa.array(keys, pa.string()))
    # the second key makes the order of equal ones certain
    both = pa.table({"place": place, "row": pa.array(range(len(rows)), pa.int64())})
    order = pc.sort_indices(both, sort_keys=[("place", "ascending"), ("row", "ascending")])
    return rows.take(order).combine_chunks()


def _joined(parts: Sequence[pa.Table], name: str, cells: Cells) -> pa.Table:
    try:
        return pa.concat_tables(parts, promote_options="permissive") if parts else _NO_ROWS
    except pa.ArrowException as error:
        raise StoreError(
            f"The cells of {cells.address} disagree on table {name!r}: {error}. "
            "Ask for cells of one experiment, or give the column one type in all cells."
        ) from error


_NO_ROWS = pa.table({_KEY: pa.array([], pa.string())})


def _table_names(rows: pa.Table) -> set[str]:
    return set(pc.list_flatten(rows["tables"]).unique().to_pylist())


# From cells to what is packed


def _pack(cells: Iterable[Cell]) -> _Packed:
    """Return the tables of cells, grouped by their columns so that no type changes."""
    listed: list[dict] = []
    groups: Groups = {}
    for cell in cells:
        listed.append(_row(cell))
        for name in cell.tables:
            rows = _keyed(cell.table(name), cell.about["key"])
            if len(rows):
                groups.setdefault((name, rows.schema), []).append(rows)
    return _Packed(pa.Table.from_pylist(listed, ABOUT), _concatenated(groups))


def _about_of(cells: Iterable[Cell]) -> pa.Table:
    return pa.Table.from_pylist([_row(cell) for cell in cells], ABOUT)


def _row(cell: Cell) -> dict[str, object]:
    identity = cell.about["identity"]
    experiment, config = identity.get("experiment"), identity.get("config")
    return {
        "key": cell.about["key"],
        "experiment": experiment if isinstance(experiment, str) else None,
        "config": canonical_json(config if isinstance(config, dict) else identity),
        "spent": canonical_json(cell.about["spent"]),
        "tables": sorted(cell.tables),
        "rows": sum(entry["rows"] for entry in cell.about["tables"].values()),
    }


def _keyed(rows: pa.Table, key: str) -> pa.Table:
    """Return a table with the key of its cell before its own columns."""
    return rows.add_column(0, _KEY, pa.repeat(pa.scalar(key, pa.string()), len(rows)))


# Segments on the disk


def _write_segment(files: Files, packed: _Packed) -> str:
    """Write a segment, its `.json` last; return its name, which follows from what it holds."""
    content = [("about", packed.about), *packed.tables]
    data = [as_parquet(name, rows) for name, rows in content]
    sums = [hashlib.sha256(each).hexdigest() for each in data]
    segment = digest(sums)
    names = [f"{segment}.{n or 'about'}.parquet" for n in range(len(data))]
    for name, each in zip(names, data, strict=True):
        files.put(f"index/{name}", each)
    entries = [
        {"table": table_name, "file": file, "sha256": check}
        for (table_name, _), file, check in zip(content, names, sums, strict=True)
    ]
    listed = {"layout": LAYOUT, "cells": packed.about.num_rows, "files": entries}
    files.put(f"index/{segment}.json", sealed(listed))
    return segment


def _segments(files: Files) -> list[_Segment]:
    """Return the segments that hold what was written, by name; the others are left out."""
    found = []
    for name in files.names("index"):
        if name.endswith(".json"):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                found.append(_segment(files, name.removesuffix(".json")))
    return found


def _segment(files: Files, name: str) -> _Segment:
    """Read a segment's list of cells. Raises ValueError where it is not what was written."""
    listed = unsealed(files.get(f"index/{name}.json") or b"")
    if listed["layout"] != LAYOUT:
        raise ValueError(f"the layout is {listed['layout']}")
    first, *others = (_Part(**entry) for entry in listed["files"])
    rows = _rows(files, first)
    if rows.schema != ABOUT:
        raise ValueError("the list of cells has other columns")
    return _Segment(name, rows, tuple(others))


def _rows(files: Files, part: _Part) -> pa.Table:
    """Read one file of a segment. Raises ValueError where it is not what was written."""
    data = files.get(f"index/{part.file}") or b""
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ValueError(f"{part.file} differs from its checksum")
    return from_parquet(data)


def _whole(
    files: Files, segment: _Segment, name: str | None = None
) -> list[tuple[str, pa.Table]] | None:
    """Return the tables of a segment, or those of one name; None where a file is damaged.

    A damaged segment loses its `.json`, if this process may do so, and is packed again later.
    """
    try:
        parts = [part for part in segment.parts if name in (None, part.table)]
        return [(part.table, _rows(files, part)) for part in parts]
    except ValueError:
        with suppress(StoreError):
            files.delete(f"index/{segment.name}.json")
        return None


def _merge(files: Files) -> None:
    """Merge segments that are not full, once there are a `FEW`; those merged are removed after."""
    small = [segment for segment in _segments(files) if len(segment.about) < MOST]
    if len(small) < FEW:
        return
    chosen: list[tuple[_Segment, list[tuple[str, pa.Table]]]] = []
    count = 0
    for segment in sorted(small, key=lambda each: len(each.about)):
        count += len(segment.about)
        if count > MOST:
            break
        if (tables := _whole(files, segment)) is not None:
            chosen.append((segment, tables))
    if len(chosen) > 1:
        kept = _write_segment(files, _merged(dict(chosen)))
        for segment, _ in chosen:
            if segment.name != kept:
                _remove(files, segment)


def _merged(chosen: Mapping[_Segment, Sequence[tuple[str, pa.Table]]]) -> _Packed:
    """Return what several segments hold, each key once."""
    listed: list[pa.Table] = []
    groups: Groups = {}
    for segment, mine in _owners(chosen, _covered(chosen)):
        listed.append(_only(segment.about, "key", mine))
        for name, rows in chosen[segment]:
            groups.setdefault((name, rows.schema), []).append(_only(rows, _KEY, mine))
    return _Packed(pa.concat_tables(listed), _concatenated(groups))


def _concatenated(groups: Groups) -> tuple[tuple[str, pa.Table], ...]:
    return tuple((name, pa.concat_tables(parts)) for (name, _), parts in groups.items())


def _remove(files: Files, segment: _Segment) -> None:
    files.delete(f"index/{segment.name}.json")
    files.delete(f"index/{segment.name}.about.parquet")
    for part in segment.parts:
        files.delete(f"index/{part.file}")
