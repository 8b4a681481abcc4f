"""Rows that know where they come from: an Arrow table or a frame, with what it says of itself.

That is `identity` (the columns that identify a row's cell), `unit` (the column of the independent
units) and `notes` (sentences that belong under it); in a frame it stands in `attrs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from interp.errors import InputError, nearest

Rows = TypeVar("Rows", pa.Table, pd.DataFrame)
"""What comes as a table goes as a table, and a frame as a frame."""

_ABOUT = b"interp"
_GAPPED = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


def about(rows: pa.Table | pd.DataFrame) -> dict[Any, Any]:
    """Return what rows say of themselves: `unit`, `notes`, `identity`."""
    if isinstance(rows, pa.Table):
        return json.loads((rows.schema.metadata or {}).get(_ABOUT, b"{}"))
    return rows.attrs


def noted(table: pa.Table, words: Iterable[str] = (), **more: object) -> pa.Table:
    """Return the table with sentences that belong under it, and what else it says of itself."""
    said = about(table) | more | {"notes": [*notes(table), *words]}
    return table.replace_schema_metadata({_ABOUT: json.dumps(said)})


def notes(rows: pa.Table | pd.DataFrame) -> list[str]:
    """Return the sentences that belong under a table: few units, rows without a partner."""
    return about(rows).get("notes", [])


def identity(rows: pa.Table | pd.DataFrame) -> list[str]:
    """Return the columns that identify a row's cell: run, cell and configuration."""
    names = rows.column_names if isinstance(rows, pa.Table) else list(rows.columns)
    return [name for name in about(rows).get("identity", []) if name in names]


def telling(rows: pa.Table) -> list[str]:
    """Return those of the identifying columns, but the cell's key, that differ between rows."""
    names = [name for name in identity(rows) if name not in ("cell", "config.cell")]
    return [name for name in names if len(rows.column(name).unique()) > 1]


def own_first(table: pa.Table) -> list[str]:
    """Return the names of the columns, the table's own before those that identify the cell."""
    known = identity(table)
    return [*(name for name in table.column_names if name not in known), *known]


def is_blank(table: pa.Table) -> bool:
    """Tell whether no cell had a row, so that nobody knows the table's own columns."""
    return table.num_rows == 0 and len(identity(table)) == table.num_columns


def check_known(names: Iterable[str], known: Sequence[str], what: str = "The records") -> None:
    """Refuse the name of a column that is not there.

    Raises:
        InputError: there is one.
    """
    for name in names:
        if name not in known:
            raise InputError(
                f"{what} have no column {name!r}; there are: {', '.join(known)}."
                + nearest(name, known)
            )


def with_columns(table: pa.Table, names: Iterable[str], what: str = "The records") -> pa.Table:
    """Return a table after a check that it has these columns; a blank one is given them.

    Raises:
        InputError: a column is unknown.
    """
    if not is_blank(table):
        check_known(names, own_first(table), what)
        return table
    for name in dict.fromkeys(names):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(0))
    return table


def beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """Return two tables of equal length side by side; the left one's notes stay."""
    for name, column in zip(right.column_names, right.columns, strict=True):
        left = left.append_column(name, column)
    return left


def free_names(names: Iterable[str], taken: Iterable[str], prefix: str) -> list[str]:
    """Put a prefix before each name until it is free; SQL does not tell capitals from others.

    >>> free_names(["Model", "seed"], ["model"], "config.")
    ['config.Model', 'seed']
    """
    used, found = {each.casefold() for each in taken}, []
    for name in names:
        while name.casefold() in used:
            name = prefix + name
        used.add(name.casefold())
        found.append(name)
    return found


def like(given: Rows, table: pa.Table) -> Rows:
    """Return a table as what was given: a table or a frame."""
    return table if isinstance(given, pa.Table) else to_pandas(table)  # type: ignore[return-value]


def to_arrow(rows: pa.Table | pd.DataFrame) -> pa.Table:
    """Return rows as an Arrow table.

    Raises:
        InputError: a frame has a column that mixes types.
    """
    if isinstance(rows, pa.Table):
        return rows
    try:
        table = pa.Table.from_pandas(rows, preserve_index=False)
    except pa.ArrowException as error:
        raise InputError(f"The frame is no table of records: {error}. Mend the column.") from error
    return table.replace_schema_metadata({_ABOUT: json.dumps(rows.attrs)})


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a frame; whole numbers and booleans with gaps keep their kind."""
    columns = {
        name: column.to_pandas(types_mapper=_GAPPED.get if column.null_count else None)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    frame = pd.DataFrame(columns)
    frame.attrs.update(about(table))
    return frame
