"""The store of records: one folder a run, one folder a cell, whole or not at all.

    DIR/manifest.json                   what the run is
    DIR/cells/<key>/<table>.parquet     the rows of one cell
    DIR/cells/<key>/cell.json           identity, checksums, row counts and cost; written last
    DIR/damaged/<key>.<n>/              set aside, never read

A cell is written into a folder `.part-<pid>-...` beside its place, every file is flushed to the
disk, and the folder is renamed. So a cell that has its name is whole, wherever the process died.

Several processes may write one folder at once. A cell's name is a hash of its identity and a
rename happens once: whoever finishes first keeps the cell, the others drop theirs, which are
equal. What is not a rename of a cell (making the folder, changing the manifest, setting a cell
aside) holds a lock of the operating system, which a killed process cannot leave behind.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import StoreError, nearest
from interp.results.manifest import (
    SCHEMA,
    Manifest,
    as_json,
    canonical_json,
    digest,
    first_difference,
    fsync_folder,
    machine,
    part_name,
    read_json,
    read_manifest,
    resume,
    write_bytes,
    write_manifest,
)

if sys.platform != "win32":
    import fcntl

_KEY = re.compile(r"[0-9a-f]{32}")
_TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_PART = re.compile(r"\.part-(\d{1,9})-([0-9a-f]{8})-[0-9a-f]+")
_PART_SECONDS = 24 * 60 * 60
"""After a day an unfinished folder of another machine counts as left behind."""

_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}

Row = Mapping[str, object]


def cell_key(identity: Mapping[str, object]) -> str:
    """Return the name of a cell: the first 32 hexadecimal digits of a sha256 of its identity.

    The order of the keys does not count; every value does.

    >>> cell_key({"layer": 1, "seed": 0}) == cell_key({"seed": 0, "layer": 1})
    True

    Raises:
        InputError: the identity holds NaN, infinity or an object that JSON does not have.
    """
    return digest(identity)


@dataclass(frozen=True)
class _Cell:
    """One cell as read and checked: its `cell.json`, and the bytes of each table."""

    about: dict
    tables: dict[str, bytes]


class _Damage(Exception):
    """A cell is not what was written; the text says in what."""


class Store:
    """The records of one run. `Store.begin` is the way in to write, `Store.open` to read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._aside: set[str] = set()

    @classmethod
    def begin(cls, folder: Path | str, manifest: Manifest) -> Store:
        """Make the folder of a run, or go on with it where its settings are the same.

        What dead processes left unfinished is removed.

        Raises:
            StoreError: the folder holds other settings, something else than a run, or a damaged
                manifest; or the path is a file or cannot be made.
        """
        folder = Path(folder)
        with _disk_errors(f"The run folder {folder} cannot be used"):
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder} is a file, and a run needs a folder: pick another.")
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
            with _locked(folder):
                _begin_manifest(folder, manifest)
            (folder / "cells").mkdir(exist_ok=True)
            _remove_stale_parts(folder)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """Open the folder of a run for reading; works without permission to write there.

        Raises:
            StoreError: there is no run there, or its manifest is damaged or of a newer schema.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            what = "has no manifest.json" if folder.is_dir() else "is not a folder"
            raise StoreError(f"There is no run at {folder}: it {what}. Check the path.")
        read_manifest(folder / "manifest.json")
        return cls(folder)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on the disk now."""
        return read_manifest(self.folder / "manifest.json")

    @property
    def damaged(self) -> int:
        """How many cells this object found damaged and did not read."""
        return len(self._aside)

    def has(self, key: str) -> bool:
        """Tell whether a cell is there, whole and with all its checksums.

        A damaged cell is moved to `damaged/`, so that it is made again.

        Raises:
            StoreError: `key` is not a key, or the cell has a newer schema.
        """
        return self._cell(key) is not None

    def write(
        self,
        key: str,
        identity: Mapping[str, object],
        tables: Mapping[str, Sequence[Row]],
        spent: Mapping[str, float | int],
    ) -> bool:
        """Write one cell whole or not at all; return False where another process was first.

        Values are None, booleans, integers, finite floats, text, and lists and mappings of these;
        numpy values and arrays are taken as such. A table may be empty. `spent` says what the
        cell cost: seconds, forwards, tokens.

        Raises:
            StoreError: a value is NaN, infinite or of another type, a column mixes types, the
                key is not the identity's, or the disk refuses.
            InputError: identity or `spent` cannot be written as JSON.
        """
        target = self._path(key)
        if key != cell_key(identity):
            raise StoreError(f"{key} is not the key of {_clip(identity)}: use cell_key(identity).")
        frames = {name: as_table(name, rows) for name, rows in tables.items()}
        content = {name: _parquet(name, frame) for name, frame in frames.items()}
        about = {
            "key": key,
            "identity": as_json(identity, "The identity of a cell"),
            "tables": {
                name: {"sha256": hashlib.sha256(content[name]).hexdigest(), "rows": frame.num_rows}
                for name, frame in frames.items()
            },
            "schema": SCHEMA,
            "spent": as_json(spent, "What a cell spent"),
        }
        with _disk_errors(f"Cell {key} cannot be written to {self.folder}"):
            part = target.with_name(part_name())
            try:
                _write_part(part, about, content)
                return self._publish(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def keys(self) -> list[str]:
        """Return the keys of all good cells, in the order of `rows`."""
        return [cell.about["key"] for cell in self._good()]

    def cells(self) -> list[dict]:
        """Return the `cell.json` of all good cells, in the order of `rows`."""
        return [cell.about for cell in self._good()]

    def rows(self, table: str) -> list[dict]:
        """Return the rows of one table of all good cells; a column that a row lacks is None.

        Cells come in the manifest's `order` where it has them, then by key. A damaged cell is
        set aside and skipped; `damaged` counts it.

        Raises:
            StoreError: cells exist and none has this table, or their columns do not fit together.
        """
        return self.table(table).to_pylist()

    def table(self, name: str) -> pa.Table:
        """Return what `rows` returns, as an Arrow table; see there.

        A column may be integer in one cell and float in another, or all None in one: it gets
        the wider type.
        """
        parts, known = [], set()
        for cell in self._good():
            known |= cell.tables.keys()
            if name in cell.tables:
                parts.append(pq.ParquetFile(pa.BufferReader(cell.tables[name])).read())
        if known and not parts:
            raise StoreError(
                f"{self.folder} has no table {name!r}; there are: {', '.join(sorted(known))}."
                + nearest(name, known)
            )
        try:
            return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
        except pa.ArrowException as error:
            raise StoreError(
                f"The cells of {self.folder} disagree on table {name!r}: {error}. "
                "Give each column one type in all cells."
            ) from error

    def update_manifest(self, **changes: object) -> Manifest:
        """Change fields of the manifest that do not identify the run; return the new manifest.

        Raises:
            StoreError: the manifest has no such field, or the field identifies the run.
        """
        names = {f.name for f in fields(Manifest)}
        for name in changes:
            if name not in names:
                hint = nearest(name, names) or " Put it into notes."
                raise StoreError(f"A manifest has no field {name!r}.{hint}")
        with _disk_errors(f"The manifest of {self.folder} cannot be written"), _locked(self.folder):
            before = self.manifest
            after = replace(before, **changes)
            if found := first_difference(before.identity, after.identity):
                raise StoreError(f"{found[0]} identifies the run: begin another folder instead.")
            write_manifest(self.folder / "manifest.json", after)
        return after

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} is not the key of a cell: use cell_key(identity).")
        return self.folder / "cells" / key

    def _good(self) -> Iterator[_Cell]:
        order = {key: place for place, key in enumerate(self.manifest.order or [])}
        there = [name for name in _names(self.folder / "cells") if _KEY.fullmatch(name)]
        for key in sorted(there, key=lambda key: (order.get(key, len(order)), key)):
            if cell := self._cell(key):
                yield cell

    def _cell(self, key: str) -> _Cell | None:
        """Return the checked cell; None where there is none, or a damaged one was set aside."""
        path = self._path(key)
        with _disk_errors(f"Cell {key} of {self.folder} cannot be read"):
            try:
                return _read_cell(path)
            except _Damage:
                return self._set_aside(path)

    def _set_aside(self, path: Path) -> _Cell | None:
        """Move a damaged cell away, unless another process has made it again meanwhile."""
        self._aside.add(path.name)
        with _reader_may_skip(), _locked(self.folder):
            try:
                cell = _read_cell(path)
            except _Damage:
                _move_to_damaged(self.folder, path)
            else:
                self._aside.discard(path.name)
                return cell
        return None

    def _publish(self, part: Path, target: Path) -> bool:
        """Give a finished folder its name, unless a good cell already has it."""
        for _ in range(3):  # the second try follows on a damaged cell that was set aside
            try:
                os.rename(part, target)
            except OSError:
                if not target.exists():
                    raise
                if self.has(target.name):
                    return False
            else:
                fsync_folder(target.parent)
                return True
        raise StoreError(f"The damaged cell {target} cannot be moved: move it away by hand.")


def as_table(name: str, rows: Iterable[Row]) -> pa.Table:
    """Return rows as an Arrow table whose column types follow from all rows, not from the first.

    Columns stand in the order in which they first appear. Integers and floats together are
    floats; a column of None alone has the null type, which fits any other.

    Raises:
        StoreError: a value is NaN, infinite or of another type, or a column mixes types.
    """
    if not _TABLE.fullmatch(name):
        raise StoreError(f"{name!r} is no name for a table: use letters, digits, '_' and '-'.")
    plain = [_plain_row(name, i, row) for i, row in enumerate(rows)]
    columns = list(dict.fromkeys(column for row in plain for column in row))
    if plain and not columns:
        raise StoreError(f"Table {name!r} has rows without a column: name what they hold.")
    arrays = {}
    for column in columns:
        values = [row.get(column) for row in plain]
        try:
            arrays[column] = pa.array(values, arrow_type(values))
        except (ValueError, TypeError, OverflowError) as error:
            raise StoreError(
                f"Table {name!r}, column {column!r} cannot be stored: {error}. "
                "Give it one type, in all rows."
            ) from error
    return pa.table(arrays)


def arrow_type(values: Iterable[Any]) -> pa.DataType:
    """Return the one Arrow type that holds all the values, which are plain Python.

    >>> arrow_type([None, 1, 2.5]), arrow_type([[], [None]])
    (DataType(double), ListType(list<item: null>))

    Raises:
        TypeError: no type holds them all.
    """
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if not kinds:
        return pa.null()
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1:
        raise TypeError("it mixes " + " and ".join(sorted(kind.__name__ for kind in kinds)))
    (kind,) = kinds
    if kind is list:
        return pa.list_(arrow_type(item for value in present for item in value))
    if kind is dict:
        names = dict.fromkeys(name for value in present for name in value)
        if not names:
            raise TypeError("its mappings are all empty; use None")
        return pa.struct([(n, arrow_type(value.get(n) for value in present)) for n in names])
    return _SCALARS[kind]


def _plain_row(table: str, i: int, row: Row) -> dict[str, object]:
    plain = {}
    for column, value in row.items():
        try:
            if not isinstance(column, str) or not column:
                raise ValueError("the name of a column is a text that is not empty")
            plain[column] = _plain(value)
        except ValueError as error:
            where = f"Table {table!r}, row {i}, column {column!r}"
            raise StoreError(f"{where}: {error}.") from None
    return plain


def _plain(value: object) -> object:
    """Return a value as plain Python, or raise ValueError with what is wrong and what to do."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if isfinite(value):
            return float(value)
        raise ValueError(f"{float(value)} is not a result; store None, and the reason beside it")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_field(name): _plain(item) for name, item in value.items()}
    tolist: Callable[[], object] | None = getattr(value, "tolist", None)  # numpy's values have it
    if tolist is None:
        raise ValueError(f"a {type(value).__name__} cannot be stored; use numbers, text or lists")
    return _plain(tolist())


def _field(name: object) -> str:
    if isinstance(name, str) and name:
        return name
    raise ValueError(f"the key {name!r} of a mapping is not a text; write it as one")


def _parquet(name: str, frame: pa.Table) -> bytes:
    buffer = io.BytesIO()
    try:
        pq.write_table(frame, buffer, compression="zstd")
    except pa.ArrowException as error:
        raise StoreError(f"Table {name!r} cannot be stored: {error}.") from error
    return buffer.getvalue()


def _write_part(part: Path, about: dict, content: Mapping[str, bytes]) -> None:
    part.mkdir(parents=True)
    for name, data in content.items():
        write_bytes(part / f"{name}.parquet", data)
    sealed = about | {"sha256": _seal(about)}
    write_bytes(part / "cell.json", (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode())
    fsync_folder(part)


def _seal(about: Mapping[str, object]) -> str:
    """Return the checksum of `cell.json` itself, without the checksum."""
    body = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _read_cell(path: Path) -> _Cell | None:
    """Read a cell once and check what was read; None where there is none.

    Raises:
        _Damage: a file is missing, or differs from what was written.
        StoreError: the cell was written by a newer version.
    """
    if not path.exists():
        return None
    try:
        about = read_json(path / "cell.json")
        if not isinstance(about, dict) or about.get("sha256") != _seal(about):
            raise _Damage("cell.json differs from its checksum")
        if about["schema"] > SCHEMA:
            raise StoreError(
                f"{path} has schema {about['schema']} and this version reads up to {SCHEMA}: "
                "update interp-workbench."
            )
        if not about["key"] == path.name == cell_key(about["identity"]):
            raise _Damage("the cell lies under another cell's name")
        return _Cell(about, {name: _read_table(path, about, name) for name in about["tables"]})
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
        raise _Damage(str(error)) from error


def _read_table(path: Path, about: dict, name: str) -> bytes:
    data = (path / f"{name}.parquet").read_bytes()
    if hashlib.sha256(data).hexdigest() != about["tables"][name]["sha256"]:
        raise _Damage(f"{name}.parquet differs from its checksum")
    return data


def _move_to_damaged(folder: Path, path: Path) -> None:
    damaged = folder / "damaged"
    damaged.mkdir(exist_ok=True)
    n = 1
    while (damaged / f"{path.name}.{n}").exists():
        n += 1
    os.rename(path, damaged / f"{path.name}.{n}")
    fsync_folder(path.parent)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something and is no run. A begin that was killed is no matter."""
    names = [name for name in _names(folder) if name != ".lock" and not _PART.fullmatch(name)]
    if names and "manifest.json" not in names:
        raise StoreError(
            f"{folder} is not empty and has no manifest.json, so it is not a run: "
            "pick another folder."
        )


def _begin_manifest(folder: Path, manifest: Manifest) -> None:
    path = folder / "manifest.json"
    if not path.exists():
        write_manifest(path, manifest)
        return
    stored = read_manifest(path)
    if stored.settings_hash != manifest.settings_hash:
        found = first_difference(stored.identity, manifest.identity) or ("settings", "others", "")
        name, before, now = found
        raise StoreError(
            f"{folder} holds a run with {name} = {before} and this one has {now}: "
            "pick another folder."
        )
    if (merged := resume(stored, manifest)) != stored:
        write_manifest(path, merged)


def _remove_stale_parts(folder: Path) -> None:
    for parent in (folder, folder / "cells"):
        for name in _names(parent):
            path = parent / name
            if _is_stale(path):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink()


def _is_stale(path: Path) -> bool:
    """Tell whether an unfinished file or folder has no writer any more."""
    match = _PART.fullmatch(path.name)
    if not match:
        return False
    pid, where = match.groups()
    if where == machine() and not _lives(int(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _PART_SECONDS
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when the process ends, in any way.

    A file system without locks only loses what the lock adds: cells are whole without it.
    """
    with (folder / ".lock").open("ab") as file:
        if sys.platform != "win32":
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{what}: {reason}. Check the path, its rights and the disk.") from error


@contextmanager
def _reader_may_skip() -> Iterator[None]:
    """Let one who may only read go on: the damaged cell stays in its place, and is not read."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise


def _clip(identity: Mapping[str, object], limit: int = 80) -> str:
    text = canonical_json(identity)
    return text if len(text) <= limit else text[: limit - 1] + "…"
