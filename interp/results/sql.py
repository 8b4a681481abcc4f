"""DuckDB as the judge of rows: tables in memory, no file, and sentences for what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from interp.errors import InputError, nearest

PLACE = "place of the row"
"""The column of `placed`; SQL gives no order of its own."""

_SANDBOX = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",  # the order of sums, and so their last digit, is always the same
    "lock_configuration": "true",
}
_EXAMPLE = "Write one such as model = 'tiny-llama' and tts > 0.1."


@contextmanager
def database(**tables: pa.Table) -> Iterator[Any]:
    """A database in memory that sees these tables and no file, and cannot be told otherwise."""
    connection = duckdb.connect(":memory:", config=dict(_SANDBOX))
    try:
        for name, table in tables.items():
            connection.register(name, table)
        yield connection
    finally:
        connection.close()


def placed(table: pa.Table) -> pa.Table:
    """Return a table with one column more, `PLACE`: 0 for the first row, 1, 2, ..."""
    return table.append_column(PLACE, pa.array(np.arange(table.num_rows)))


def check_condition(where: str) -> None:
    """Refuse what is no single expression: a statement, a clause, several, or none.

    The condition must be an expression by itself, so it cannot close the brackets that are put
    around it, and inside brackets, so it cannot end in a clause.

    Raises:
        InputError: it is none.
    """
    tokens = duckdb.tokenize(where)
    if any(kind == duckdb.token_type.operator and where[at] == ";" for at, kind in tokens):
        raise InputError(f"{where!r} holds a ';', and a condition is one expression. {_EXAMPLE}")
    try:
        duckdb.SQLExpression(where)
        duckdb.extract_statements(f"SELECT (\n{where}\n)")
    except duckdb.Error as error:
        raise InputError(
            f"{where!r} is no condition in SQL: {reason(error)}. {_EXAMPLE}"
        ) from error


def check_case(names: Iterable[str]) -> None:
    """Refuse columns whose names differ in capitals only.

    Raises:
        InputError: there are two.
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise InputError(
                f"The columns {other!r} and {name!r} differ in capitals only, which a condition "
                "cannot tell apart: pick columns first."
            )


def refused(where: str, error: duckdb.Error, known: Sequence[str]) -> InputError:
    """Say in a sentence or two what DuckDB found wrong with a condition on the columns `known`."""
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
        f"The condition {where!r} cannot be worked out: {reason(error)}. "
        f"The columns are: {columns}."
    )


def reason(error: duckdb.Error) -> str:
    """Return the first line of what DuckDB says, without the kind of error."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^[A-Za-z ]+ Error: ", "", line).rstrip(".!")
