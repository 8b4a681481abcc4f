"""The store of records: one folder a run, with one manifest and its cells.

    DIR/manifest.json                   what the run is
    DIR/cells/<key>/, DIR/damaged/      its cells, and those set aside: `interp.results.cells`

Making the folder and changing the manifest hold a lock of the operating system, which a killed
process cannot leave behind; the manifest is replaced by a rename, so a reader finds the old one or
the new one. A manifest that is damaged or cut short all the same (a disk that lost bytes) ends in a
sentence, and nothing is written: the cells are not touched, and `Cells.open(DIR)` still reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa

from interp.errors import StoreError, nearest
from interp.results.cells import Cell, FolderCells, cell_key, refuse_foreign
from interp.results.disk import disk_errors, locked, make_folder, remove_leftovers
from interp.results.manifest import (
    Manifest,
    first_difference,
    read_manifest,
    resume,
    write_manifest,
)
from interp.results.tables import Row

__all__ = ["Store", "cell_key"]


class Store:
    """The records of one run. `Store.begin` is the way in to write, `Store.open` to read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cells = FolderCells(folder)

    @classmethod
    def begin(cls, folder: Path | str, manifest: Manifest) -> Store:
        """Make the folder of a run, or go on with it where its settings are the same.

        What dead processes left unfinished is removed.

        Raises:
            StoreError: the folder holds other settings, something else than a run, or a damaged
                manifest; or the path is a file or cannot be made.
        """
        folder = Path(folder)
        with disk_errors(f"The run folder {folder} cannot be used"):
            refuse_foreign(folder, ("manifest.json",), "run")
            make_folder(folder)
            with locked(folder):
                _begin_manifest(folder, manifest)
            make_folder(folder / "cells")
            remove_leftovers([folder, folder / "cells", folder / "index"])
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
        return self._cells.damaged

    def has(self, key: str) -> bool:
        """Tell whether a cell is there, whole and with all its checksums.

        A damaged cell is moved to `damaged/`, so that it is made again.

        Raises:
            StoreError: `key` is not a key, or the cell has a newer schema.
        """
        return self._cells.has(key)

    def read(self, key: str) -> Cell:
        """Return one cell.

        Raises:
            StoreError: it is not there, or damaged: then it is set aside, to be made again.
        """
        cell = self._cells.read(key)
        if cell is None:
            raise StoreError(f"There is no whole cell {key} in {self.folder}: make it again.")
        return cell

    def write(
        self,
        key: str,
        identity: Mapping[str, object],
        tables: Mapping[str, Sequence[Row]],
        spent: Mapping[str, float | int],
    ) -> bool:
        """Write one cell whole or not at all, as `Cells.write` does; see there for what it takes.

        Raises:
            StoreError, InputError: as in `Cells.write`.
        """
        return self._cells.write(key, identity, tables, spent)

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
                parts.append(cell.table(name))
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
        with disk_errors(f"The manifest of {self.folder} cannot be written"), locked(self.folder):
            before = self.manifest
            after = replace(before, **changes)
            if found := first_difference(before.identity, after.identity):
                raise StoreError(f"{found[0]} identifies the run: begin another folder instead.")
            write_manifest(self.folder / "manifest.json", after)
        return after

    def _good(self) -> Iterator[Cell]:
        order = {key: place for place, key in enumerate(self.manifest.order or [])}
        there = self._cells.keys()
        for key in sorted(there, key=lambda key: (order.get(key, len(order)), key)):
            if cell := self._cells.read(key):
                yield cell


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
