"""The cells of a folder or of a bucket: each whole or not at all, and checked when it is read.

    ADDRESS/cells/<key>/<table>.parquet     the rows of one cell
    ADDRESS/cells/<key>/cell.json           identity, checksums, row counts and cost; written last
    ADDRESS/damaged/<key>.<n>/              set aside, never read

`FolderCells` writes a cell into a folder `.part-<pid>-...` beside its place, flushes every file to
the disk, and renames the folder. So a cell that has its name is whole, wherever the process died.
A bucket has no rename; how `BucketCells` does it stands in `interp.results.objects`.

Several processes may write one address at once. A cell's name is a hash of its identity and a
rename happens once: whoever finishes first keeps the cell, the others drop theirs, which are
equal. Setting a cell aside holds a lock of the operating system, which a killed process cannot
leave behind.

What happens in a disaster:

- The disk is full: the write ends in a sentence, its unfinished folder is removed, every finished
  cell stays. With room again, the same call succeeds.
- The store is read-only: it is read as ever, a damaged cell is skipped where it lies, and a write
  ends in a sentence.
- A file of a cell is damaged, cut short or missing, or a checksum lies (it names other bytes, or
  bytes that are no Parquet file): the cell is set aside with all its files, and is made again.
- The clock goes back or jumps: nothing here reads it; leftovers are told by their process
  (`interp.results.disk`).
- A cell was written by a newer version: it is refused and left alone. By an older one: it is read
  if its layout is still read, else refused with the command that migrates it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pyarrow as pa

from interp.errors import StoreError
from interp.results import tables as tables_
from interp.results.disk import (
    PART,
    disk_errors,
    locked,
    make_folder,
    names,
    reader_may_skip,
    remove_leftovers,
    require_writable,
)
from interp.results.manifest import (
    SCHEMA,
    as_json,
    canonical_json,
    digest,
    fsync_folder,
    parse_json,
    part_name,
    refuse_schema,
    write_bytes,
)
from interp.results.tables import TABLE_NAME, Row, as_parquet, as_table, count_rows

KEY = re.compile(r"[0-9a-f]{32}")
"""What the key of a cell looks like."""

KNOWN = ("cells", "damaged", "index", "sweeps", "manifest.json")
"""What a folder of records may hold; a folder that holds other things only is not one."""

_ASIDE = re.compile(r"([0-9a-f]{32})\.[0-9a-z]+")


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
class Cell:
    """One cell as read and checked."""

    about: dict
    """Its `cell.json`: key, identity, tables (rows and sha256 of each), schema, spent."""
    tables: dict[str, bytes]
    """The Parquet file of each table."""

    def table(self, name: str) -> pa.Table:
        """Return one table.

        Raises:
            StoreError: the bytes have the checksum that the cell names and are no table.
        """
        try:
            return tables_.from_parquet(self.tables[name])
        except ValueError as error:
            raise StoreError(
                f"Table {name!r} of cell {self.about['key']} cannot be read: {error}. "
                "Move the cell away by hand, so that it is made again."
            ) from error


class Damage(Exception):
    """A cell is not what was written; the text says in what."""


class Cells(ABC):
    """The cells of one address. `Cells.open` is the way in."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._aside: set[str] = set()

    @classmethod
    def open(cls, address: str | Path, *, write: bool = False) -> Cells:
        """Open the cells of a folder, or of `s3://bucket/prefix`.

        With `write`, a folder that is not there is made, and what dead processes left unfinished is
        removed. Without, nothing is changed and no right to write is needed.

        Raises:
            StoreError: there is no such folder or bucket, it holds something else, or it cannot be
                made or reached.
        """
        from interp.results.objects import BucketCells, is_bucket

        cells = BucketCells(address) if is_bucket(address) else FolderCells(Path(address))
        cells.prepare() if write else cells.require()
        return cells

    @property
    def damaged(self) -> int:
        """How many cells this object found damaged and did not read."""
        return len(self._aside)

    def has(self, key: str) -> bool:
        """Tell whether a cell is there, whole and with all its checksums.

        A damaged cell is set aside, so that it is made again.

        Raises:
            StoreError: `key` is not a key, or the cell has another schema.
        """
        return self.read(key) is not None

    def read(self, key: str) -> Cell | None:
        """Return the checked cell; None where there is none, or a damaged one was set aside.

        Raises:
            StoreError: `key` is not a key, the cell has another schema, or the disk refuses.
        """
        require_key(key)
        with disk_errors(f"Cell {key} of {self.address} cannot be read"):
            try:
                return self._load(key)
            except Damage:
                self._aside.add(key)
                return self._set_aside(key)

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
        require_key(key)
        if key != cell_key(identity):
            raise StoreError(f"{key} is not the key of {_clip(identity)}: use cell_key(identity).")
        about, content = packed(key, identity, tables, spent)
        with disk_errors(f"Cell {key} cannot be written to {self.address}"):
            return self._publish(key, about, content)

    @abstractmethod
    def prepare(self) -> None:
        """Get ready to write, and find out now whether that is allowed. Raises StoreError."""

    @abstractmethod
    def require(self) -> None:
        """Refuse an address where nothing can be read. Raises StoreError."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys of the cells that have their name, sorted; none of them is opened."""

    @abstractmethod
    def set_aside(self) -> set[str]:
        """Return the keys that were ever set aside as damaged; they may be there again."""

    @abstractmethod
    def _load(self, key: str) -> Cell | None:
        """Read and check a cell; None where there is none. Raises Damage."""

    @abstractmethod
    def _set_aside(self, key: str) -> Cell | None:
        """Keep a damaged cell apart; return it if another process has made it again meanwhile."""

    @abstractmethod
    def _publish(self, key: str, about: dict, content: Mapping[str, bytes]) -> bool:
        """Write a packed cell; False where a good one is there."""


@final
class FolderCells(Cells):
    """The cells of a folder that every process can reach."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder where it is missing, and remove what dead processes left in it.

        Raises:
            StoreError: the path is a file, holds something else, or nothing can be written there.
        """
        folder = self.folder
        with disk_errors(f"The store {folder} cannot be used"):
            refuse_foreign(folder, KNOWN, "store")
            make_folder(folder / "cells")
            require_writable(folder / "cells")
            below = [Path(top) for top, _, _ in os.walk(folder / "sweeps")]
            remove_leftovers([folder, folder / "cells", folder / "index", *below])

    def require(self) -> None:
        """Refuse a path where nothing can be read.

        Raises:
            StoreError: the path is no folder.
        """
        if not self.folder.is_dir():
            what = "it is a file" if self.folder.exists() else "there is no such folder"
            raise StoreError(f"There are no records at {self.folder}: {what}. Check the path.")

    def keys(self) -> list[str]:
        """Return the keys of the cells that have their name, sorted; none of them is opened."""
        return sorted(filter(KEY.fullmatch, names(self.folder / "cells")))

    def set_aside(self) -> set[str]:
        """Return the keys that were ever set aside as damaged; they may be there again."""
        return keys_aside(names(self.folder / "damaged"))

    def _load(self, key: str) -> Cell | None:
        path = self.folder / "cells" / key
        if not path.exists():
            return None
        return checked(key, lambda name: (path / name).read_bytes(), str(path), self.address)

    def _set_aside(self, key: str) -> Cell | None:
        with reader_may_skip(), locked(self.folder):
            try:
                cell = self._load(key)
            except Damage:
                _move_to_damaged(self.folder, key)
            else:
                self._aside.discard(key)
                return cell
        return None

    def _publish(self, key: str, about: dict, content: Mapping[str, bytes]) -> bool:
        target = self.folder / "cells" / key
        part = target.with_name(part_name())
        try:
            _write_part(part, about, content)
            return self._rename(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _rename(self, part: Path, target: Path) -> bool:
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


def require_key(key: str) -> None:
    """Refuse what is not the key of a cell.

    Raises:
        StoreError: it is not 32 hexadecimal digits.
    """
    if not KEY.fullmatch(key):
        raise StoreError(f"{key!r} is not the key of a cell: use cell_key(identity).")


def keys_aside(found: Sequence[str]) -> set[str]:
    """Return the keys in the names of folders of `damaged/`.

    >>> keys_aside(["0123456789abcdef0123456789abcdef.1", ".lock"])
    {'0123456789abcdef0123456789abcdef'}
    """
    return {match[1] for match in map(_ASIDE.fullmatch, found) if match}


def packed(
    key: str,
    identity: Mapping[str, object],
    tables: Mapping[str, Sequence[Row]],
    spent: Mapping[str, float | int],
) -> tuple[dict, dict[str, bytes]]:
    """Return the `cell.json` of a cell, not yet sealed, and the Parquet file of each table.

    Raises:
        StoreError, InputError: as `Cells.write`.
    """
    frames = {name: as_table(name, rows) for name, rows in tables.items()}
    content = {name: as_parquet(name, frame) for name, frame in frames.items()}
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
    return about, content


def sealed(about: Mapping[str, object]) -> bytes:
    """Return a `cell.json`, or another JSON object, as text with a checksum of itself."""
    whole = {name: value for name, value in about.items() if name != "sha256"}
    whole["sha256"] = _seal(whole)
    return (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode()


def unsealed(text: bytes) -> dict:
    """Return the JSON object that `sealed` wrote.

    Raises:
        ValueError: it is cut short or differs from its checksum.
    """
    about = parse_json(text)
    if not isinstance(about, dict) or about.get("sha256") != _seal(about):
        raise ValueError("it differs from its checksum")
    return about


def _seal(about: Mapping[str, object]) -> str:
    body = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def table_file(name: str, entry: Mapping[str, object]) -> str:
    """Return the file of a table: `<table>.parquet`, or with its checksum where there is no rename.

    >>> table_file("scores", {"sha256": "0123456789abcdef01", "rows": 1})
    'scores.parquet'
    >>> table_file("scores", {"sha256": "0123456789abcdef01", "rows": 1, "named": "sha256"})
    'scores.0123456789abcdef.parquet'
    """
    if not TABLE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a table")
    by_content = entry.get("named") == "sha256"
    return f"{name}.{str(entry['sha256'])[:16]}.parquet" if by_content else f"{name}.parquet"


def checked(key: str, get: Callable[[str], bytes], where: str, address: str) -> Cell:
    """Read a cell once, by `get(file name)`, and check what was read.

    Raises:
        Damage: a file is missing, or differs from what was written.
        StoreError: the cell was written by a version whose records this one does not read.
    """
    try:
        about = unsealed(get("cell.json"))
        refuse_schema(about["schema"], where, address)
        if not about["key"] == key == cell_key(about["identity"]):
            raise Damage("the cell lies under another cell's name")
        return Cell(about, {name: _table(get, about, name) for name in about["tables"]})
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damage(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damage(f"cell.json is not what a cell has: {error}") from error


def _table(get: Callable[[str], bytes], about: dict, name: str) -> bytes:
    entry = about["tables"][name]
    data = get(table_file(name, entry))
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Damage(f"table {name} differs from its checksum")
    if count_rows(data) != entry["rows"]:
        raise Damage(f"table {name} has not the rows that cell.json says")
    return data


def _write_part(part: Path, about: dict, content: Mapping[str, bytes]) -> None:
    make_folder(part.parent)
    part.mkdir()
    for name, data in content.items():
        write_bytes(part / f"{name}.parquet", data)
    write_bytes(part / "cell.json", sealed(about))
    fsync_folder(part)


def _move_to_damaged(folder: Path, key: str) -> None:
    damaged = folder / "damaged"
    damaged.mkdir(exist_ok=True)
    n = 1
    while (damaged / f"{key}.{n}").exists():
        n += 1
    os.rename(folder / "cells" / key, damaged / f"{key}.{n}")
    fsync_folder(folder / "cells")


def refuse_foreign(folder: Path, known: Sequence[str], what: str) -> None:
    """Refuse a folder that holds something else. A beginning that was killed is no matter.

    Raises:
        StoreError: it is a file, or holds something and nothing that is `known`.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, and a {what} needs a folder: pick another.")
    there = {name for name in names(folder) if name != ".lock" and not PART.fullmatch(name)}
    if there and there.isdisjoint(known):
        raise StoreError(
            f"{folder} is not empty and has no {known[0]}, so it is not a {what}: "
            "pick another folder."
        )


def _clip(identity: Mapping[str, object], limit: int = 80) -> str:
    text = canonical_json(identity)
    return text if len(text) <= limit else text[: limit - 1] + "…"
