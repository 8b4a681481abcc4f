"""Records of an older version, rewritten in the layout of this one.

    python -m interp.results.migrate DIR        a folder of records, or s3://bucket/prefix

`STEPS` says how a cell of one version becomes one of the next, `MANIFEST_STEPS` the same of a
manifest. A reader reads what is not older than `OLDEST`, and refuses the rest with this command.
A cell is never half migrated: its new tables go first, under names that hold their checksum, then
`cell.json` is replaced, then the old tables go. Killed at any point, it is the old cell or the new
one, and the same command goes on. The index is removed, and made again from the cells.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from interp.errors import InterpError, StoreError
from interp.results.cells import Cells, cell_key, sealed, table_file, unsealed
from interp.results.files import Files
from interp.results.manifest import SCHEMA, json_bytes, parse_json

Tables = dict[str, bytes]
"""The Parquet file of each table of a cell."""

Step = Callable[[dict, Tables], tuple[dict, Tables]]
"""From `cell.json` and the tables of one version to those of the next; the identity stays."""

STEPS: Mapping[int, Step] = {}
"""By the version that a step starts from. The first layout is today's, so there is none yet."""

MANIFEST_STEPS: Mapping[int, Callable[[dict], dict]] = {}
"""The same for manifests."""


def migrate(
    address: str | Path,
    *,
    steps: Mapping[int, Step] = STEPS,
    manifest_steps: Mapping[int, Callable[[dict], dict]] = MANIFEST_STEPS,
) -> int:
    """Rewrite every older cell, and the manifest if there is an older one; return how many cells.

    A damaged cell stays where it is, for a reader to set aside. Do not run it beside a sweep.

    Raises:
        StoreError: there is no store, or no step leads on from a version; what was migrated stays.
    """
    cells, files = Cells.open(address, write=True), Files.open(address)
    for name in files.names("index"):
        files.delete(f"index/{name}")
    keys = cells.keys()
    count = sum(_migrate_cell(files, key, steps) for key in keys)
    _migrate_manifest(files, manifest_steps)
    return count


def _migrate_cell(files: Files, key: str, steps: Mapping[int, Step]) -> bool:
    folder = f"cells/{key}"
    try:
        about = unsealed(files.get(f"{folder}/cell.json") or b"")
        old = {table_file(name, entry): entry for name, entry in about["tables"].items()}
        if about["schema"] >= SCHEMA:
            return False
        tables = {name: _table(files, folder, about, name) for name in about["tables"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    about, tables = _stepped(f"{files.address}/{folder}", about, tables, steps)
    if cell_key(about["identity"]) != key:
        raise StoreError(f"A step changes the identity of cell {key}: let it stay as it is.")
    _replace(files, folder, about, tables, set(old))
    return True


def _table(files: Files, folder: str, about: dict, name: str) -> bytes:
    entry = about["tables"][name]
    data = files.get(f"{folder}/{table_file(name, entry)}") or b""
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"table {name} differs from its checksum")
    return data


def _stepped(
    what: str, about: dict, tables: Tables, steps: Mapping[int, Step]
) -> tuple[dict, Tables]:
    """Go from a cell's version to this one, step by step."""
    for version in range(about["schema"], SCHEMA):
        about, tables = _step(what, version, steps)(dict(about), dict(tables))
        about["schema"] = version + 1
    return about, tables


def _step(what: str, version: int, steps: Mapping[int, Callable]) -> Callable:
    if version not in steps:
        raise StoreError(
            f"{what} has schema {version} and no step leads on from it: read it with the version "
            "of interp-workbench that wrote it."
        )
    return steps[version]


def _replace(files: Files, folder: str, about: dict, tables: Tables, old: set[str]) -> None:
    entries = {}
    for name, data in tables.items():
        check = hashlib.sha256(data).hexdigest()
        entries[name] = about["tables"][name] | {"sha256": check, "named": "sha256"}
        files.put(f"{folder}/{table_file(name, entries[name])}", data)
    files.put(f"{folder}/cell.json", sealed(about | {"tables": entries}))
    for file in old - {table_file(name, entry) for name, entry in entries.items()}:
        files.delete(f"{folder}/{file}")


def _migrate_manifest(files: Files, steps: Mapping[int, Callable[[dict], dict]]) -> None:
    text = files.get("manifest.json")
    try:
        stored = parse_json(text) if text else None
    except ValueError:
        return  # cut short or damaged: a reader says so
    if not isinstance(stored, dict) or not isinstance(stored.get("schema"), int):
        return
    first = stored["schema"]
    for version in range(first, SCHEMA):
        stored = _step(f"{files.address}/manifest.json", version, steps)(dict(stored))
        stored["schema"] = version + 1
    if first < SCHEMA:
        files.put("manifest.json", json_bytes(stored, "manifest.json"))


def main(arguments: list[str]) -> int:
    """Migrate the addresses named on the command line; return the exit status."""
    if not arguments:
        sys.stderr.write("Name a folder of records, or s3://bucket/prefix.\n")
        return 2
    try:
        for address in arguments:
            sys.stdout.write(f"{address}: {migrate(address)} cells migrated\n")
    except InterpError as error:
        sys.stderr.write(f"interp: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
