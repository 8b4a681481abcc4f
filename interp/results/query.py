"""Ask the records of many runs at once: read, filter, join, group and pass on.

A source is the folder of a run, a sweep's folder `STORE/sweeps/NAME`, or a whole sweep store; many
may be given, mixed. Each row of a table is read together with what identifies its cell: `run`,
`cell` and the configuration. DuckDB decides which rows meet a condition, belong together or form
a group; Arrow carries their values, so no type changes on the way. Needs no model and no torch.

>>> import pyarrow as pa
>>> steps = pa.table({"id": ["a", "a", "b"], "tts": [0.5, 0.25, None]})
>>> keep(steps, "tts < 0.4").to_pylist()
[{'id': 'a', 'tts': 0.25}]
>>> group(steps, {"max": ["tts"]}, by=["id"]).select(["id", "max", "missing"]).to_pylist()
[{'id': 'a', 'max': 0.5, 'missing': 0}, {'id': 'b', 'max': None, 'missing': 1}]
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import InputError, StoreError, nearest
from interp.results import index
from interp.results.cells import require_key
from interp.results.files import Files
from interp.results.manifest import (
    Manifest,
    canonical_json,
    parse_json,
    read_manifest,
    replace_file,
)
from interp.results.show import render
from interp.stats import FEW_CLUSTERS, Interval, cluster_bootstrap

STATISTICS = ("mean", "median", "max", "min", "count")
"""What `group` can say of a column; the mean comes with its interval."""

Rows = TypeVar("Rows", pa.Table, pd.DataFrame)
Paths = str | Path | Iterable[str | Path]

_PLACE = "place of the row"
_NOTES = b"interp"
_SANDBOX = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",  # the order of sums, and so their last digit, is always the same
    "lock_configuration": "true",
}


# ---------------------------------------------------------------- what is asked for


def frame(
    sources: Paths,
    table: str | None = None,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the rows of a table of all cells of the sources, with what identifies them.

    The columns are `run` (the run's or sweep's folder; `a+b` for a cell that sweeps a and b
    share), `cell`, the cell's configuration (for a run its settings and the model's name), and
    the table's own. Where the table has a column of the same name, the identifying one is called
    `config.NAME`. Lists and mappings of a configuration are JSON text. `table` may be left out
    where there is only one. `where` is a condition in SQL, such as
    `model = 'tiny-llama' and tts > 0.1`; `columns` picks and orders.

    Whole numbers and booleans with gaps get pandas' types that have them, `Int64` and `boolean`.
    `attrs["unit"]` names the column of the independent units where the sweep names one.

    Raises:
        StoreError: a source is no run, sweep or store; or cells disagree on a column's type.
        InputError: the table or a column is unknown, or `where` is no condition.
    """
    rows = read(sources).select(table)
    if where is not None:
        rows = keep(rows, where)
    return _to_pandas(rows if columns is None else pick(rows, columns))


def keep(rows: Rows, where: str) -> Rows:
    """Return the rows that meet a condition in SQL, in their order.

    Text stands in single quotes; a name with a dot or a space in double quotes. The condition
    sees the columns and, in a subquery, the whole table as `rows`; it reaches no file.

    Raises:
        InputError: it is no condition, names an unknown column or cannot be worked out.
    """
    table = _to_arrow(rows)
    _check_condition(where)
    if _is_blank(table):
        return rows
    _check_case(table.column_names)
    query = f'SELECT "{_PLACE}" FROM rows WHERE (\n{where}\n) ORDER BY 1'
    with _sql(rows=_placed(table)) as connection:
        try:
            places = connection.sql(query).to_arrow_table().column(0)
        except duckdb.Error as error:
            raise _refused(where, error, table.column_names) from error
    return _like(rows, table.take(places))


def pick(rows: Rows, columns: Sequence[str]) -> Rows:
    """Return only these columns, in this order.

    Raises:
        InputError: a column is unknown.
    """
    table = _with_columns(_to_arrow(rows), columns)
    return _like(rows, table.select(list(columns)))


def join(a: Rows, b: Rows, *, on: Sequence[str], prefix: str = "other.") -> Rows:
    """Return each row of `a` beside the rows of `b` that agree with it on the columns `on`.

    The other columns of `b` get the prefix. Rows without a partner are left out and counted in
    the notes; an empty value has no partner. One side may have several rows for one value of
    `on`, not both: that would pair everything with everything.

    Raises:
        InputError: `on` is empty, unknown on a side, of types that cannot be compared, or names
            several rows on both sides.
    """
    left, right = _to_arrow(a), _to_arrow(b)
    if not on:
        raise InputError("A join needs columns that both sides have: name them, such as model, id.")
    left = _with_columns(left, on, "The first records of the join")
    right = _with_columns(right, on, "The second records of the join")
    first, second = _partners(left.select(list(on)), right.select(list(on)), on)
    others = [name for name in right.column_names if name not in on]
    taken = right.select(others).take(second)
    joined = left.take(first)
    for name in others:
        joined = joined.append_column(
            _free(prefix + name, joined.column_names, prefix), taken.column(name)
        )
    lost = _lost(left.num_rows, first, "first") + _lost(right.num_rows, second, "second")
    return _like(a, noted(joined, lost))


def group(
    rows: Rows,
    statistics: Mapping[str, Sequence[str]],
    *,
    by: Sequence[str] = (),
    unit: str | None = None,
    level: float = 0.95,
) -> Rows:
    """Return one row for each group and column: its statistics, counts and interval.

    `statistics` names columns for each of `STATISTICS`, such as `{"mean": ["tts"]}`; without any,
    the rows are counted. Groups come in the order in which they first appear. The columns of the
    result are those of `by`, `column`, what was asked, `low` and `high` of the mean at `level`
    (`interp.stats.cluster_bootstrap` over the units), `count` of values, `units` among them,
    `missing` (empty, NaN or infinite: never averaged), and `unit`, the column that names the
    independent units: by default the experiment's, else `id`, else `row`, each row for itself.
    A column of `by` that is called like one of these gets the prefix `by.`.

    Raises:
        InputError: a statistic, column or unit is unknown, a column holds no numbers, a row has no
            unit, or the level is out of range.
    """
    asked = _asked(statistics)
    table = _with_columns(_to_arrow(rows), [*by, *(name for name in asked if name != "*")])
    chosen = _unit(table, unit)
    units = _unit_column(table, chosen)
    results: list[list[dict[str, Any]]] = []
    for name, kinds in asked.items():
        values = _values(table, name, kinds)
        _check_units(values, units, chosen)
        found = _grouped(table.select(list(by)), values, units)
        results.append([_summary(name, kinds, each, level) for each in found.to_pylist()])
        first = found.column("first")
    lines = [line for lines in zip(*results, strict=True) for line in lines]
    keys = table.select(list(by)).take(pa.array(np.repeat(first.to_numpy(), len(asked))))
    return _like(rows, _grouped_table(keys, lines, asked, chosen, unit, table))


def notes(rows: pa.Table | pd.DataFrame) -> list[str]:
    """Return the sentences that belong under a table: few units, rows without a partner."""
    return _about(_to_arrow(rows)).get("notes", [])


def identity(rows: pa.Table | pd.DataFrame) -> list[str]:
    """Return the columns that identify a row's cell: run, cell and configuration."""
    names = rows.column_names if isinstance(rows, pa.Table) else list(rows.columns)
    about = _about(rows) if isinstance(rows, pa.Table) else rows.attrs
    return [name for name in about.get("identity", []) if name in names]


def telling(rows: pa.Table) -> list[str]:
    """Return those of the identifying columns, but the cell's key, that differ between rows."""
    names = [name for name in identity(rows) if name not in ("cell", "config.cell")]
    return [n for n in names if len(rows.column(n).unique()) > 1]


# ---------------------------------------------------------------- sources


@dataclass(frozen=True)
class Source:
    """One run or sweep, or what a store holds beside its sweeps."""

    path: str
    """Where it is; its last part is its name."""
    address: str
    """The folder, or `s3://` address, whose `cells` it has."""
    keys: tuple[str, ...] | None = None
    """Its cells in their order; None: all that are there."""
    manifest: Manifest | None = None
    """Of a run; None for a sweep, whose cells have a configuration each."""
    unit: str | None = None
    """The column of the independent units, where the sweep names it."""


@dataclass(frozen=True)
class Catalogue:
    """The cells of some sources, each once. `read` makes one."""

    sources: tuple[Source, ...]

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each source by its full path: as short as tells them apart."""
        return _names([_full(source.path) for source in self.sources])

    @cached_property
    def cells(self) -> pa.Table:
        """One row a cell: `address`, `run`, `cell`, its `config` (JSON) and its `tables`."""
        parts = [_cells(self._at(address), self.names) for address in self.addresses]
        return pa.Table.from_pylist([row for part in parts for row in part], schema=_CELLS)

    @property
    def addresses(self) -> list[str]:
        """Where the cells lie, each place once."""
        return list(dict.fromkeys(source.address for source in self.sources))

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
        name = self._named(table)
        rows, first, second = self._found(name)
        whole = pa.table(_named(self._identity, rows.column_names)).take(second)
        identity = whole.column_names
        for column in rows.column_names:
            whole = whole.append_column(column, rows.column(column).take(first))
        units = {source.unit for source in self.sources if source.unit}
        return noted(whole, unit=units.pop() if len(units) == 1 else None, identity=identity)

    def missing(self) -> list[str]:
        """Return one sentence for each source that lacks cells that it should have."""
        there = set(
            zip(*(self.cells.column(n).to_pylist() for n in ("address", "cell")), strict=True)
        )
        found = []
        for source in self.sources:
            gone = sum((source.address, key) not in there for key in source.keys or ())
            if gone:
                found.append(_gone(source, gone))
        return found

    def inventory(self) -> pa.Table:
        """Return what there is: one row for each run and table, with its rows and columns."""
        lines = []
        for name in self.tables:
            rows, _, cells = self._found(name)
            columns = ", ".join(rows.column_names)
            for run, count in Counter(self.cells.column("run").take(cells).to_pylist()).items():
                lines.append({"run": run, "table": name, "rows": count, "columns": columns})
        shared = ", ".join(self._identity)
        words = [f"Columns of every table: {shared}."] if lines else []
        return noted(pa.Table.from_pylist(lines, schema=_INVENTORY), words)

    def _at(self, address: str) -> list[Source]:
        return [source for source in self.sources if source.address == address]

    def _found(self, table: str) -> tuple[pa.Table, pa.ChunkedArray, pa.ChunkedArray]:
        """The rows of a table, with the places of the rows and of their cells in order."""
        parts = {each: _rows(self._at(each), table) for each in self._having(table)}
        rows = _stacked(table, parts)
        where = [each for each, part in parts.items() for _ in range(part.num_rows)]
        first, second = _located(pa.array(where, pa.string()), rows, self.cells)
        return _restored(rows.drop_columns(["cell"])), first, second

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """The columns that identify a cell, one value a cell."""
        return _identity(self.cells)

    def _having(self, table: str) -> list[str]:
        """The addresses where a cell has this table."""
        pairs = zip(*(self.cells.column(n).to_pylist() for n in ("address", "tables")), strict=True)
        return list(dict.fromkeys(address for address, tables in pairs if table in tables))

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


def read(sources: Paths) -> Catalogue:
    """Find the sources: folders of runs, sweeps or stores, patterns such as `runs/*`, or a list.

    Raises:
        StoreError: one is none of these, or what describes it is damaged.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if not given:
        raise InputError("No source is named: give the folder of a run, a sweep or a store.")
    paths = [path for each in given for path in _expanded(str(each))]
    found = [source for path in dict.fromkeys(paths) for source in _sources(path)]
    return Catalogue(
        tuple({_full(source.path): source for source in reversed(found)}.values())[::-1]
    )


def _expanded(path: str) -> list[str]:
    """The paths that a pattern stands for; without `*`, `?` or `[`, or if it exists, itself."""
    if "://" in path:
        return [path.rstrip("/")]
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
    if "://" not in path and os.path.isfile(os.path.join(path, "manifest.json")):
        manifest = read_manifest(Path(path) / "manifest.json")
        return [Source(path, _full(path), tuple(manifest.order or ()), manifest)]
    if "://" in path or os.path.isdir(os.path.join(path, "cells")):
        return [*_sweeps(path), Source(path, _full(path))]
    raise StoreError(f"There is no run at {path}: it {_what(path)}")


def _what(path: str) -> str:
    """Why a path is no source, and the next step."""
    if not os.path.isdir(path):
        return "is not a folder. Check the path."
    below = sorted(each for each in os.listdir(path) if _is_source(os.path.join(path, each)))
    if below:
        return f"is a folder of runs ({', '.join(below[:3])}). Give {path}/* for all."
    return "has no manifest.json, sweep.json or cells. Check the path."


def _is_source(path: str) -> bool:
    marks = ("manifest.json", "sweep.json", "cells")
    return any(os.path.exists(os.path.join(path, mark)) for mark in marks)


def _sweeps(store: str) -> list[Source]:
    """The sweeps of a store in a folder; of a bucket all cells are one source."""
    folder = os.path.join(store, "sweeps")
    if "://" in store or not os.path.isdir(folder):
        return []
    plans = {
        name: Files.open(folder).get(f"{name}/sweep.json") for name in sorted(os.listdir(folder))
    }
    return [_sweep(f"{folder}/{name}", plan) for name, plan in plans.items() if plan is not None]


def _sweep(path: str, plan: bytes) -> Source:
    try:
        stored: Any = parse_json(plan)
        keys = tuple(require_key(str(key)) or str(key) for key in stored["keys"])
    except (ValueError, TypeError, KeyError, StoreError) as error:
        raise StoreError(
            f"{path}/sweep.json is damaged or no sweep's ({error}). Start the sweep again."
        ) from error
    return Source(path, _full(path).rsplit("/", 2)[0], keys, unit=stored.get("unit"))


def _full(path: str) -> str:
    return path if "://" in path else Path(path).absolute().as_posix()


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Name each path by its last part, with as many more as tell equal ones apart.

    >>> _names(["/a/run", "/b/run", "/b/new"])
    {'/a/run': 'a/run', '/b/run': 'b/run', '/b/new': 'new'}
    """
    found = {}
    for path in paths:
        parts = path.split("/")
        others = [other.split("/") for other in paths if other != path]
        n = next(n for n in range(1, len(parts) + 1) if all(o[-n:] != parts[-n:] for o in others))
        found[path] = "/".join(parts[-n:])
    return found


# ---------------------------------------------------------------- cells and rows

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


def _wanted(sources: Sequence[Source]) -> list[str] | None:
    """The cells that the sources of one address ask for; None: all."""
    if any(source.keys is None or source.manifest for source in sources):
        return None
    return list(dict.fromkeys(key for source in sources for key in source.keys or ()))


def _cells(sources: Sequence[Source], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The cells of one address, in the order of its sources, the others after them by key."""
    address, wanted = sources[0].address, _wanted(sources)
    about = {row["key"]: row for row in index.about(address, wanted).to_pylist()}
    order = dict.fromkeys(key for source in sources for key in source.keys or () if key in about)
    runs: dict[str, list[str]] = {key: [] for key in [*order, *sorted(about.keys() - order)]}
    for source in sources:
        if source.keys is not None and source.manifest is None:
            for key in about.keys() & set(source.keys):
                runs[key].append(names[_full(source.path)])
    rest = names[_full(next((s for s in sources if s.keys is None or s.manifest), sources[0]).path)]
    settings = _settings(sources[0].manifest)
    return [
        {
            "address": address,
            "run": "+".join(found) or rest,
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


def _rows(sources: Sequence[Source], table: str) -> pa.Table:
    """One table of the cells of one address, with the column `cell`."""
    return index.table(sources[0].address, table, _wanted(sources))


def _restored(rows: pa.Table) -> pa.Table:
    """Give a table's own column `cell` its name back, which the index lengthens by `_`.

    >>> _restored(pa.table({"id": [1], "cell_": [0], "cell__": ["s1c1"]})).column_names
    ['id', 'cell_', 'cell']
    """
    longer = [name for name in rows.column_names if re.fullmatch("cell_+", name)]
    own = max(longer, key=len, default=None)
    return rows.rename_columns(["cell" if name == own else name for name in rows.column_names])


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


def _located(
    addresses: pa.Array, rows: pa.Table, cells: pa.Table
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """For each row in the order of its cells: its place, and the place of its cell."""
    rows = pa.table(
        {"address": addresses, "cell": rows.column("cell"), _PLACE: _places(rows.num_rows)}
    )
    query = f"""
        SELECT r."{_PLACE}", c."{_PLACE}" FROM r JOIN c USING (address, cell)
        ORDER BY c."{_PLACE}", r."{_PLACE}"
    """
    with _sql(r=rows, c=_placed(cells.select(["address", "cell"]))) as connection:
        found = connection.sql(query).to_arrow_table()
    return found.column(0), found.column(1)


def _identity(cells: pa.Table) -> dict[str, Any]:
    """Run, cell and the configuration of each cell, by column."""
    own: dict[str, Any] = {"run": cells.column("run"), "cell": cells.column("cell")}
    texts = cells.column("config").to_pylist()
    configs = [json.loads(text) if text else {} for text in texts]
    names = dict.fromkeys(name for config in configs for name in config)
    return _named({name: _column([c.get(name) for c in configs]) for name in names}, (), own)


def _named(
    columns: Mapping[str, Any], taken: Iterable[str], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Columns after those that stand before, under names that those taken leave free."""
    used, result = list(taken), dict(before or {})
    for name, values in columns.items():
        result[_free(name, [*used, *result], "config.")] = values
    return result


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


def _free(name: str, taken: Iterable[str], prefix: str) -> str:
    """Put a prefix before a name until it is free; SQL does not tell capitals from others.

    >>> _free("Model", ["model"], "config.")
    'config.Model'
    """
    used = {each.casefold() for each in taken}
    while name.casefold() in used:
        name = prefix + name
    return name


def cells_missing(n: int) -> str:
    """Say that a run once had `n` cells more."""
    return (
        f"{n} cells of this run are missing or damaged and not shown; start the command that "
        "made the run again to make them again."
    )


def _gone(source: Source, n: int) -> str:
    if source.manifest is not None:
        return cells_missing(n)
    return (
        f"{n} of the {len(source.keys or ())} cells of the sweep {source.path} are not there "
        "(to do, failed or damaged) and not shown; start the sweep again to make them."
    )


# ---------------------------------------------------------------- DuckDB, and what it refuses


@contextmanager
def _sql(**tables: pa.Table) -> Iterator[Any]:
    """A database in memory that sees these tables and no file, and cannot be told otherwise."""
    connection = duckdb.connect(":memory:", config=dict(_SANDBOX))
    try:
        for name, table in tables.items():
            connection.register(name, table)
        yield connection
    finally:
        connection.close()


def _places(n: int) -> pa.Array:
    return pa.array(np.arange(n))


def _placed(table: pa.Table) -> pa.Table:
    return table.append_column(_PLACE, _places(table.num_rows))


def _check_condition(where: str) -> None:
    """Refuse what is no single expression: a statement, a clause, several, or none.

    The condition must be an expression by itself, so it cannot close the brackets that are put
    around it, and inside brackets, so it cannot end in a clause.
    """
    tokens = duckdb.tokenize(where)
    if any(kind == duckdb.token_type.operator and where[at] == ";" for at, kind in tokens):
        raise InputError(f"{where!r} holds a ';', and a condition is one expression. {_EXAMPLE}")
    try:
        duckdb.SQLExpression(where)
        duckdb.extract_statements(f"SELECT (\n{where}\n)")
    except duckdb.Error as error:
        raise InputError(
            f"{where!r} is no condition in SQL: {_reason(error)}. {_EXAMPLE}"
        ) from error


_EXAMPLE = "Write one such as model = 'tiny-llama' and tts > 0.1."


def _check_case(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise InputError(
                f"The columns {other!r} and {name!r} differ in capitals only, which a condition "
                "cannot tell apart: pick columns first."
            )


def _refused(where: str, error: duckdb.Error, known: Sequence[str]) -> InputError:
    """Say in a sentence or two what DuckDB found wrong with a condition."""
    columns, text = ", ".join(known), str(error)
    if found := re.search(r'Referenced column "(.*?)" (?:was )?not found', text):
        name = found[1]
        hint = nearest(name, known)
        if f'"{name}"' in where:
            hint += f" If it is text, write it in single quotes: '{name}'."
        return InputError(f"The records have no column {name!r}; there are: {columns}.{hint}")
    if found := re.search(r'Referenced table "(.*?)" not found', text):
        dotted = next((each for each in known if each.startswith(f"{found[1]}.")), None)
        hint = f' Write a name with a dot in double quotes: "{dotted}".' if dotted else ""
        return InputError(f"There is no column of {found[1]!r}; there are: {columns}.{hint}")
    if isinstance(error, duckdb.PermissionException):
        return InputError(
            f"The condition {where!r} reaches for a file, and a condition sees the columns only: "
            f"{columns}."
        )
    return InputError(
        f"The condition {where!r} cannot be worked out: {_reason(error)}. "
        f"The columns are: {columns}."
    )


def _reason(error: duckdb.Error) -> str:
    """The first line of what DuckDB says, without the kind of error."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^[A-Za-z ]+ Error: ", "", line).rstrip(".!")


def _check_known(names: Iterable[str], known: Sequence[str], what: str = "The records") -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"{what} have no column {name!r}; there are: {', '.join(known)}."
                + nearest(name, known)
            )


def _is_blank(table: pa.Table) -> bool:
    """Whether no cell had a row, so that nobody knows the table's own columns."""
    return table.num_rows == 0 and not _own(table)


def _with_columns(table: pa.Table, names: Iterable[str], what: str = "The records") -> pa.Table:
    """Check that a table has these columns; one without rows is given them."""
    if not _is_blank(table):
        _check_known(names, _table_first(table), what)
    for name in dict.fromkeys(names):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(0))
    return table


# ---------------------------------------------------------------- join


def _partners(
    left: pa.Table, right: pa.Table, on: Sequence[str]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The places of the rows that belong together."""
    names = [f"k{i}" for i in range(len(on))]
    tables = {
        side: _placed(table.rename_columns(names)) for side, table in (("a", left), ("b", right))
    }
    keys = ", ".join(names)
    twice = f"SELECT {keys} FROM {{}} GROUP BY ALL HAVING count(*) > 1"
    several = (
        f"SELECT * FROM ({twice.format('a')}) JOIN ({twice.format('b')}) USING ({keys}) LIMIT 1"
    )
    query = f'SELECT a."{_PLACE}", b."{_PLACE}" FROM a JOIN b USING ({keys}) ORDER BY 1, 2'
    with _sql(**tables) as connection:
        try:
            clash = connection.sql(several).fetchall()
            found = pa.table({}) if clash else connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise InputError(
                f"The two sides cannot be compared on {', '.join(on)}: {_reason(error)}. "
                "Join on columns of one type."
            ) from error
    if clash:
        raise InputError(
            f"A join on {', '.join(on)} pairs several rows with several, such as those of "
            f"{', '.join(map(str, clash[0]))}: name more columns, or group one side first."
        )
    return found.column(0), found.column(1)


def _lost(n_rows: int, places: pa.ChunkedArray, side: str) -> list[str]:
    lost = n_rows - len(places.unique())
    if not lost:
        return []
    return [f"{lost} of the {n_rows} {side} records have no partner and are left out."]


# ---------------------------------------------------------------- group


def _asked(statistics: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Turn statistics by column around; rows are counted (`*`) where nothing is asked."""
    asked: dict[str, list[str]] = {}
    for kind, names in statistics.items():
        if kind not in STATISTICS:
            raise InputError(
                f"There is no statistic {kind!r}; there are: {', '.join(STATISTICS)}."
                + nearest(kind, STATISTICS)
            )
        for name in names:
            asked.setdefault(name, []).append(kind)
    return asked or {"*": ["count"]}


def _unit(table: pa.Table, unit: str | None) -> str:
    """The column that names the independent units, or `row`."""
    known = _table_first(table)
    if unit is not None:
        _check_known([unit], [*known, "row"])
        return unit
    own = _about(table).get("unit")
    return own if own in known else "id" if "id" in known else "row"


def _unit_column(table: pa.Table, unit: str) -> pa.ChunkedArray:
    """The unit of each row."""
    return (
        table.column(unit)
        if unit in table.column_names
        else pa.chunked_array([_places(table.num_rows)])
    )


def _values(table: pa.Table, name: str, kinds: Sequence[str]) -> pa.Array:
    """A column as floats, empty where it has no finite value; for counts alone, 1.0 for a value."""
    if name == "*":
        return pa.array(np.ones(table.num_rows))
    column = table.column(name)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    if any(each(column.type) for each in numbers):
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values = column.cast(pa.float64(), safe=False).to_numpy()
        return pa.array(values, mask=~np.isfinite(values))
    if set(kinds) != {"count"}:
        raise InputError(
            f"Column {name!r} holds {column.type} and no numbers, so it has no {kinds[0]}: "
            "count it, or pick a column of numbers."
        )
    return pa.array(np.ones(table.num_rows), mask=column.is_null().to_numpy())


def _check_units(values: pa.Array, units: pa.ChunkedArray, name: str) -> None:
    """Refuse values of an unknown unit: their interval would be a guess."""
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if gone := int(np.sum(valid & units.is_null().to_numpy())):
        raise InputError(
            f"{gone} rows have a value and no {name!r}, so their unit is unknown: leave them out "
            f"with the condition {name} is not null, or name another unit."
        )


def _grouped(keys: pa.Table, values: pa.Array, units: pa.ChunkedArray) -> pa.Table:
    """One row a group, in the order of appearance: its first place, values, units and counts."""
    names = [f"k{i}" for i in range(keys.num_columns)]
    table = (
        _placed(keys.rename_columns(names)) if names else pa.table({_PLACE: _places(len(units))})
    )
    table = table.append_column("v", values).append_column("u", units)
    query = f"""
        SELECT min("{_PLACE}") AS first, count(*) - count(v) AS missing,
            count(DISTINCT u) FILTER (v IS NOT NULL) AS units,
            median(v) AS median, max(v) AS max, min(v) AS min,
            list(v) FILTER (v IS NOT NULL) AS values, list(u) FILTER (v IS NOT NULL) AS clusters
        FROM rows GROUP BY {", ".join(names) or "()"} HAVING count(*) > 0 ORDER BY first
    """
    with _sql(rows=table) as connection:
        return connection.sql(query).to_arrow_table()


def _summary(
    name: str, kinds: Sequence[str], found: dict[str, Any], level: float
) -> dict[str, Any]:
    """The line of one group and column."""
    values, line = found["values"] or [], {"column": name}
    if "mean" in kinds and values:
        interval: Interval = cluster_bootstrap(values, found["clusters"], level=level)
        line |= {"mean": interval.estimate, "low": interval.low, "high": interval.high}
    line |= {kind: found[kind] for kind in ("median", "max", "min") if kind in kinds}
    return line | {"count": len(values), "units": found["units"], "missing": found["missing"]}


def _grouped_table(
    keys: pa.Table,
    lines: list[dict[str, Any]],
    asked: Mapping[str, Sequence[str]],
    chosen: str,
    unit: str | None,
    table: pa.Table,
) -> pa.Table:
    """Put the groups' names, their lines and the unit side by side, with the notes."""
    kinds = {kind for each in asked.values() for kind in each}
    types = {"column": pa.string()}
    types |= dict.fromkeys(["mean", "low", "high"] if "mean" in kinds else [], pa.float64())
    types |= {kind: pa.float64() for kind in ("median", "max", "min") if kind in kinds}
    types |= dict.fromkeys(["count", "units", "missing"], pa.int64())
    columns = {
        name: pa.array([line.get(name) for line in lines], kind) for name, kind in types.items()
    }
    columns["unit"] = pa.array([chosen] * len(lines), pa.string())
    names = {_free(name, columns, "by."): keys.column(name) for name in keys.column_names}
    words = _about(table).get("notes", []) + _unit_notes(lines, chosen, unit)
    return noted(pa.table(names | columns), words)


def _unit_notes(lines: Sequence[Mapping[str, Any]], chosen: str, asked: str | None) -> list[str]:
    means = [line["units"] for line in lines if "mean" in line]
    if not means:
        return []
    said = [f"The unit of the intervals is {'the row' if chosen == 'row' else chosen}."]
    if chosen == "row" and asked is None:
        said = ["The records name no unit, so the unit of the intervals is the row: name another."]
    few = [n for n in means if 1 < n < FEW_CLUSTERS]
    if few:
        said.append(
            f"{len(few)} of {len(means)} intervals rest on fewer than {FEW_CLUSTERS} units "
            f"(the least: {min(few)}): they are probably too narrow."
        )
    if single := means.count(1):
        said.append(f"{single} of {len(means)} means rest on one unit: no interval.")
    return said


# ---------------------------------------------------------------- Arrow and pandas


def _about(table: pa.Table) -> dict[str, Any]:
    """What a table says of itself: `unit`, `notes`, and which columns are its `identity`."""
    return json.loads((table.schema.metadata or {}).get(_NOTES, b"{}"))


def noted(table: pa.Table, words: Iterable[str] = (), **more: object) -> pa.Table:
    """Return the table with sentences that belong under it, and what else it says of itself."""
    before = _about(table)
    about = before | more | {"notes": [*before.get("notes", []), *words]}
    return table.replace_schema_metadata({_NOTES: json.dumps(about)})


def _own(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in identity(table)]


def _table_first(table: pa.Table) -> list[str]:
    """The names of the columns, the table's own before those that identify the cell."""
    return [*_own(table), *identity(table)]


def _like(given: Rows, table: pa.Table) -> Rows:
    return table if isinstance(given, pa.Table) else _to_pandas(table)  # type: ignore[return-value]


def _to_arrow(rows: pa.Table | pd.DataFrame) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    try:
        table = pa.Table.from_pandas(rows, preserve_index=False)
    except pa.ArrowException as error:
        raise InputError(f"The frame is no table of records: {error}. Mend the column.") from error
    return table.replace_schema_metadata({_NOTES: json.dumps(rows.attrs)})


_GAPPED = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """A frame; whole numbers and booleans with gaps keep their kind."""
    columns = {
        name: column.to_pandas(types_mapper=_GAPPED.get if column.null_count else None)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    result = pd.DataFrame(columns)
    result.attrs.update(_about(table))
    return result


# ---------------------------------------------------------------- output


def to_text(rows: pa.Table | pd.DataFrame, format: str, *, width: int = 120) -> str:
    """Return rows as a `table` to look at, as `jsonl`, `csv` or `latex`.

    Raises:
        InputError: there is no such format, or a value cannot be written.
    """
    if format == "latex":
        return to_latex(rows)
    table = _to_arrow(rows)
    if format == "table" and not table.num_rows:
        return "no rows"
    return render(table.to_pylist(), format, table.column_names, width=width)


def to_latex(rows: pa.Table | pd.DataFrame) -> str:
    """Return a `tabular` in the style of the LaTeX package booktabs, its text escaped.

    Floats have four significant digits; a mean with its interval is one cell, value [low, high];
    a missing value is a dash. Notes stand after it as comments.

    >>> print(to_latex(pa.table({"a_b": ["50%"], "mean": [0.5], "low": [0.25], "high": [0.75]})))
    \\begin{tabular}{lr}
    \\toprule
    a\\_b & mean [low, high] \\\\
    \\midrule
    50\\% & 0.5 [0.25, 0.75] \\\\
    \\bottomrule
    \\end{tabular}
    """
    table = _to_arrow(rows)
    cells = {name: list(map(_tex, table.column(name).to_pylist())) for name in table.column_names}
    heads = {name: _tex(name) for name in cells}
    if {"mean", "low", "high"} <= cells.keys():
        bounds = list(zip(cells.pop("low"), cells.pop("high"), strict=True))
        means = zip(cells["mean"], bounds, strict=True)
        cells["mean"] = [m if low == "--" else f"{m} [{low}, {high}]" for m, (low, high) in means]
        heads["mean"] = "mean [low, high]"
    lines = [[heads[name] for name in cells], *zip(*cells.values(), strict=True)]
    head, *body = [" & ".join(map(_guarded, line)) + r" \\" for line in lines]
    sides = "".join(_side(table.schema.field(name).type) for name in cells)
    parts = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *body]
    comments = [f"% {note}" for note in notes(table)]
    return "\n".join([*parts, r"\bottomrule", r"\end{tabular}", *comments])


def to_parquet(rows: pa.Table | pd.DataFrame) -> bytes:
    """Return rows as the bytes of a Parquet file, their types kept."""
    buffer = io.BytesIO()
    pq.write_table(_to_arrow(rows), buffer, compression="zstd")
    return buffer.getvalue()


def write_file(path: Path | str, data: bytes, *, force: bool = False) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: it exists and `force` is not given, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not force:
        raise InputError(f"{path} exists: pick another name, or write over it with --force.")
    try:
        replace_file(path, data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Check the path.") from error


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
_TEX |= {each: f"\\{each}" for each in "&%$#_{}"}


def _tex(value: object) -> str:
    r"""A value as text of LaTeX, in one line.

    >>> print(_tex("50% of a_b"), _tex("~a\\b"), _tex(-1 / 3), _tex(None))
    50\% of a\_b \textasciitilde{}a\textbackslash{}b $-$0.3333 --
    """
    if value is None:
        return "--"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "$-$", 1) if value < 0 else f"{value:.4g}"
    if isinstance(value, int) and value < 0:
        return f"$-${-value}"
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return "".join(_TEX.get(c, c) for c in text)


def _side(kind: pa.DataType) -> str:
    return "r" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "l"


def _guarded(cell: str) -> str:
    r"""Keep LaTeX from taking a cell that begins with `[` or `*` for an argument of `\\`."""
    return "{}" + cell if cell.startswith(("[", "*")) else cell
