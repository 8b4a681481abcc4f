"""Ask the records of many runs at once: read, filter, join, group and pass on.

A source is the folder of a run, a sweep's folder `STORE/sweeps/NAME`, or a whole sweep store; many
may be given, mixed. Each row of a table is read together with what identifies its cell: `run`,
`cell` and the configuration. DuckDB decides which rows meet a condition, belong together or form
a group; Arrow carries their values, so no type changes on the way. Needs no model and no torch.

Here rows are kept, picked and joined. The other names that belong to a question can be imported
from here too: `sources` and `catalogue` find and read, `groups` sums up, `output` writes.

>>> import pyarrow as pa
>>> steps = pa.table({"id": ["a", "a", "b"], "tts": [0.5, 0.25, None]})
>>> keep(steps, "tts < 0.4").to_pylist()
[{'id': 'a', 'tts': 0.25}]
>>> group(steps, {"max": ["tts"]}, by=["id"]).select(["id", "max", "missing"]).to_pylist()
[{'id': 'a', 'max': 0.5, 'missing': 0}, {'id': 'b', 'max': None, 'missing': 1}]
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pandas as pd
import pyarrow as pa

from interp.errors import InputError
from interp.results.catalogue import Catalogue, read
from interp.results.groups import STATISTICS, group
from interp.results.output import to_latex, to_parquet, to_text, write_file
from interp.results.rows import (
    Rows,
    beside,
    free_names,
    identity,
    is_blank,
    like,
    noted,
    notes,
    telling,
    to_arrow,
    to_pandas,
    with_columns,
)
from interp.results.sources import Paths, Source, cells_missing
from interp.results.sql import PLACE, check_case, check_condition, database, placed, reason, refused

__all__ = [
    "STATISTICS",
    "Catalogue",
    "Paths",
    "Rows",
    "Source",
    "cells_missing",
    "frame",
    "group",
    "identity",
    "join",
    "keep",
    "noted",
    "notes",
    "pick",
    "read",
    "telling",
    "to_latex",
    "to_parquet",
    "to_text",
    "write_file",
]


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
    return to_pandas(rows if columns is None else pick(rows, columns))


def keep(rows: Rows, where: str) -> Rows:
    """Return the rows that meet a condition in SQL, in their order.

    Text stands in single quotes; a name with a dot or a space in double quotes. The condition
    sees the columns and, in a subquery, the whole table as `rows`; it reaches no file.

    Raises:
        InputError: it is no condition, names an unknown column or cannot be worked out.
    """
    table = to_arrow(rows)
    check_condition(where)
    if is_blank(table):
        return rows
    check_case(table.column_names)
    query = f'SELECT "{PLACE}" FROM rows WHERE (\n{where}\n) ORDER BY 1'
    with database(rows=placed(table)) as connection:
        try:
            places = connection.sql(query).to_arrow_table().column(0)
        except duckdb.Error as error:
            raise refused(where, error, table.column_names) from error
    return like(rows, table.take(places))


def pick(rows: Rows, columns: Sequence[str]) -> Rows:
    """Return only these columns, in this order.

    Raises:
        InputError: a column is unknown.
    """
    table = with_columns(to_arrow(rows), columns)
    return like(rows, table.select(list(columns)))


def join(a: Rows, b: Rows, *, on: Sequence[str], prefix: str = "other.") -> Rows:
    """Return each row of `a` beside the rows of `b` that agree with it on the columns `on`.

    The other columns of `b` get the prefix. Rows without a partner are left out and counted in
    the notes; an empty value has no partner. One side may have several rows for one value of
    `on`, not both: that would pair everything with everything.

    Raises:
        InputError: `on` is empty, unknown on a side, of types that cannot be compared, or names
            several rows on both sides.
    """
    left, right = to_arrow(a), to_arrow(b)
    if not on:
        raise InputError("A join needs columns that both sides have: name them, such as model, id.")
    left = with_columns(left, on, "The first records of the join")
    right = with_columns(right, on, "The second records of the join")
    first, second = _partners(left.select(list(on)), right.select(list(on)), on)
    others = right.drop_columns(list(dict.fromkeys(on)))
    names = [prefix + name for name in others.column_names]
    others = others.rename_columns(free_names(names, left.column_names, prefix))
    joined = beside(left.take(first), others.take(second))
    lost = _lost(left.num_rows, first, "first") + _lost(right.num_rows, second, "second")
    return like(a, noted(joined, lost))


def _partners(
    left: pa.Table, right: pa.Table, on: Sequence[str]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The places of the rows that belong together."""
    names = [f"k{i}" for i in range(len(on))]
    a, b = (placed(side.rename_columns(names)) for side in (left, right))
    keys = ", ".join(names)
    twice = f"SELECT {keys} FROM {{}} GROUP BY ALL HAVING count(*) > 1"
    several = f"({twice.format('a')}) JOIN ({twice.format('b')}) USING ({keys})"
    pairs = f'SELECT a."{PLACE}", b."{PLACE}" FROM a JOIN b USING ({keys}) ORDER BY 1, 2'
    with database(a=a, b=b) as connection:
        try:
            if clash := connection.sql(f"SELECT * FROM {several} LIMIT 1").fetchall():
                raise InputError(
                    f"A join on {', '.join(on)} pairs several rows with several, such as those of "
                    f"{', '.join(map(str, clash[0]))}: name more columns, or group one side first."
                )
            found = connection.sql(pairs).to_arrow_table()
        except duckdb.Error as error:
            raise InputError(
                f"The two sides cannot be compared on {', '.join(on)}: {reason(error)}. "
                "Join on columns of one type."
            ) from error
    return found.column(0), found.column(1)


def _lost(n_rows: int, places: pa.ChunkedArray, side: str) -> list[str]:
    lost = n_rows - len(places.unique())
    if not lost:
        return []
    return [f"{lost} of the {n_rows} {side} records have no partner and are left out."]
