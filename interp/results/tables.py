"""From rows of plain values to Arrow tables and Parquet bytes, and back. Nothing is guessed.

A column has one type in all rows of a table. NaN and infinity are refused by name, never stored.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import StoreError

TABLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""What a table may be called: a name that is also the name of a file everywhere."""

_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}

Row = Mapping[str, object]
"""One row: values by column."""


def as_table(name: str, rows: Iterable[Row]) -> pa.Table:
    """Return rows as an Arrow table whose column types follow from all rows, not from the first.

    Columns stand in the order in which they first appear. Integers and floats together are
    floats; a column of None alone has the null type, which fits any other.

    Raises:
        StoreError: a value is NaN, infinite or of another type, or a column mixes types.
    """
    if not TABLE_NAME.fullmatch(name):
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


def as_parquet(name: str, frame: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file; equal tables give equal bytes.

    Raises:
        StoreError: Parquet has no such column, such as a mapping without entries.
    """
    buffer = io.BytesIO()
    try:
        pq.write_table(frame, buffer, compression="zstd")
    except pa.ArrowException as error:
        raise StoreError(f"Table {name!r} cannot be stored: {error}.") from error
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """Return the table that the bytes of a Parquet file hold.

    Raises:
        ValueError: they hold none.
    """
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)  # mostly small
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is no Parquet file: {error}") from error


def count_rows(data: bytes) -> int:
    """Return how many rows a Parquet file says that it has.

    Raises:
        ValueError: the bytes are no Parquet file.
    """
    try:
        return pq.read_metadata(pa.BufferReader(data)).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is no Parquet file: {error}") from error
