"""The cells of many sources as one: which there are, and their rows with what identifies them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from interp.errors import InputError, StoreError, nearest
from interp.results import index
from interp.results.manifest import Manifest, canonical_json
from interp.results.rows import beside, free_names, noted
from interp.results.sources import Paths, Source, cells_gone, find, short_names

_CELLS = pa.schema(
    [
        ("address", pa.string()),
        ("run", pa.string()),
        ("cell", pa.string()),
        ("config", pa.string()),
        ("tables", pa.list_(pa.string())),
    ]
)
_INVENTORY = pa.schema(
    [("run", pa.string()), ("table", pa.string()), ("rows", pa.int64()), ("columns", pa.string())]
)


def read(sources: Paths) -> Catalogue:
    """Find the sources: folders of runs, sweeps or stores, patterns such as `runs/*`, or a list.

    Raises:
        InputError: no source is named.
        StoreError: one is none of these, or what describes it is damaged.
    """
    return Catalogue(find(sources))


@dataclass(frozen=True)
class Catalogue:
    """The cells of some sources, each once. `read` makes one."""

    sources: tuple[Source, ...]

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each source by its full path: as short as tells them apart."""
        return short_names([source.full for source in self.sources])

    @cached_property
    def cells(self) -> pa.Table:
        """One row a cell: `address`, `run`, `cell`, its `config` (JSON) and its `tables`."""
        places: dict[str, list[Source]] = {}
        for source in self.sources:
            places.setdefault(source.address, []).append(source)
        rows = [row for there in places.values() for row in _cells(there, self.names)]
        return pa.Table.from_pylist(rows, schema=_CELLS)

    @property
    def tables(self) -> list[str]:
        """The names of the tables that the cells hold."""
        return sorted({name for each in self.cells.column("tables").to_pylist() for name in each})

    @property
    def single(self) -> bool:
        """Whether this is one plain run."""
        return len(self.sources) == 1 and self.sources[0].manifest is not None

    def select(self, table: str | None = None) -> pa.Table:
        """Return what `frame` returns, as an Arrow table; see there."""
        rows, places = self._found(self._named(table))
        names = free_names(self._identity.column_names, rows.column_names, "config.")
        whole = beside(self._identity.rename_columns(names).take(places), rows)
        units = {source.unit for source in self.sources if source.unit}
        return noted(whole, unit=units.pop() if len(units) == 1 else None, identity=names)

    def missing(self) -> list[str]:
        """Return one sentence for each source that lacks cells that it should have."""
        columns = (self.cells.column(name).to_pylist() for name in ("address", "cell"))
        there = set(zip(*columns, strict=True))
        found = []
        for source in self.sources:
            if gone := sum((source.address, key) not in there for key in source.keys):
                found.append(cells_gone(source, gone))
        return found

    def inventory(self) -> pa.Table:
        """Return what there is: one row for each run and table, with its rows and columns."""
        lines = []
        for name in self.tables:
            rows, places = self._found(name)
            columns = ", ".join(rows.column_names)
            for run, count in Counter(self.cells.column("run").take(places).to_pylist()).items():
                lines.append({"run": run, "table": name, "rows": count, "columns": columns})
        shared = ", ".join(self._identity.column_names)
        words = [f"Columns of every table: {shared}."] if lines else []
        return noted(pa.Table.from_pylist(lines, schema=_INVENTORY), words)

    @cached_property
    def _identity(self) -> pa.Table:
        """Run, cell and configuration: one row a cell."""
        table = self.cells.select(["run", "cell"])
        configs = [json.loads(text) for text in self.cells.column("config").to_pylist()]
        names = list(dict.fromkeys(name for config in configs for name in config))
        columns = [_column([config.get(name) for config in configs]) for name in names]
        free = free_names(names, table.column_names, "config.")
        return beside(table, pa.table(dict(zip(free, columns, strict=True))))

    def _found(self, table: str) -> tuple[pa.Table, pa.Array]:
        """The rows of a table in the order of the cells, and the place of each row's cell."""
        parts: dict[str, pa.Table] = {}
        places: list[int] = []
        for address, cells in self._having(table).items():
            keys, parts[address] = index.keys_and_rows(address, table, cells)
            places += [cells[key] for key in keys.to_pylist()]
        return _stacked(table, parts), pa.array(places, pa.int64())

    def _having(self, table: str) -> dict[str, dict[str, int]]:
        """The cells that have a table and their places, by address."""
        found: dict[str, dict[str, int]] = {}
        for place, cell in enumerate(self.cells.select(["address", "cell", "tables"]).to_pylist()):
            if table in cell["tables"]:
                found.setdefault(cell["address"], {})[cell["cell"]] = place
        return found

    def _named(self, table: str | None) -> str:
        known = self.tables
        if table is None and len(known) == 1:
            return known[0]
        if table in known:
            return table
        where = self.sources[0].path if self.single else ", ".join(self.names.values())
        what = "The run" if self.single else "The cells of"
        there = ", ".join(known) or "none yet"
        verb, has = ("has", "it has") if self.single else ("have", "they have")
        if table is None:
            raise InputError(f"{what} {where} {verb} several tables or none: {there}. Name one.")
        raise InputError(
            f"{what} {where} {verb} no table {table!r}; {has}: {there}.{nearest(table, known)}"
        )


def _cells(sources: Sequence[Source], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The cells of one address, in the order of its sources, the others after them by key."""
    address, order = sources[0].address, dict.fromkeys(k for each in sources for k in each.keys)
    own = next((names[source.full] for source in sources if source.whole), None)
    listed = index.about(address, order if own is None else None).to_pylist()
    about = {row["key"]: row for row in listed}
    runs: dict[str, list[str]] = {key: [] for key in order if key in about}
    runs |= {key: [] for key in sorted(about.keys() - order)}
    for source in sources:
        if not source.whole:
            for key in about.keys() & set(source.keys):
                runs[key].append(names[source.full])
    settings = _settings(sources[0].manifest)
    return [
        {
            "address": address,
            "run": "+".join(found) or own,
            "cell": key,
            "config": settings or about[key]["config"],
            "tables": about[key]["tables"],
        }
        for key, found in runs.items()
    ]


def _settings(manifest: Manifest | None) -> str | None:
    """The configuration that all cells of a run share, as JSON: its settings and model."""
    if manifest is None:
        return None
    return canonical_json({"model": manifest.model.get("name")} | manifest.settings)


def _column(values: list[Any]) -> pa.Array:
    """Values of a configuration as one column: of one type, or else as text.

    >>> _column([1, 2.5, None]).to_pylist(), _column(["all", [0, 1]]).to_pylist()
    ([1.0, 2.5, None], ['all', '[0,1]'])
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and not kinds & {list, dict}):
        try:
            return pa.array(values, pa.float64() if kinds == {int, float} else None)
        except (pa.ArrowException, OverflowError):  # a whole number beyond 64 bits
            pass
    return pa.array(
        [v if v is None or isinstance(v, str) else canonical_json(v) for v in values], pa.string()
    )


def _stacked(table: str, parts: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of several addresses as one table; whole numbers beside floats become floats."""
    try:
        return pa.concat_tables(parts.values(), promote_options="permissive")
    except pa.ArrowException as error:
        raise StoreError(_disagreement(table, parts)) from error


def _disagreement(table: str, parts: Mapping[str, pa.Table]) -> str:
    """Say which column has types that do not fit together, and where."""
    seen: dict[str, tuple[str, pa.Schema]] = {}
    for address, part in parts.items():
        for field in part.schema:
            alone = pa.schema([field])
            first, before = seen.setdefault(field.name, (address, alone))
            try:
                pa.unify_schemas([before, alone], promote_options="permissive")
            except pa.ArrowException:
                types = f"{before.field(0).type} in {first} and {field.type} in {address}"
                return (
                    f"Column {field.name!r} of table {table!r} is {types}: "
                    "read the two apart, or make one of them again."
                )
    return f"The runs disagree on table {table!r}: read them apart."
