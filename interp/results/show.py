"""Rows as text: a table to look at, or JSON lines and CSV to pass on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.errors import InputError, nearest

_DIGITS = 4
_MAX_CELL = 48
_MIN_CELL = 8


def render(
    rows: Sequence[Mapping[str, object]],
    format: str,
    columns: Sequence[str] | None = None,
    *,
    width: int = 120,
) -> str:
    """Return rows as text in the format `table`, `jsonl` or `csv`; the last line has no end.

    `columns` picks and orders the columns; by default all, as they first appear. The table gives
    floats to four significant digits, cuts long text with `…`, and names the columns that do not
    fit into `width` characters; jsonl and csv keep every digit. A missing value is `-` in the
    table, null in jsonl and nothing in csv.

    >>> print(render([{"site": "3.mlp_out", "effect": 1 / 3}], "csv"))
    site,effect
    3.mlp_out,0.3333333333333333

    Raises:
        InputError: a column or format is unknown, or jsonl or csv would hold NaN or infinity.
    """
    makers: dict[str, Callable[[list[list[object]], list[str]], str]] = {
        "table": lambda values, names: _table(values, names, width),
        "jsonl": _jsonl,
        "csv": _csv,
    }
    if format not in makers:
        raise InputError(
            f"There is no format {format!r}; there are: {', '.join(makers)}."
            + nearest(format, makers)
        )
    names = _columns(rows, columns)
    return makers[format]([[row.get(name) for name in names] for row in rows], names)


def _columns(rows: Sequence[Mapping[str, object]], asked: Sequence[str] | None) -> list[str]:
    """Return the columns to show, after a check that at least one row has each of them."""
    known = list(dict.fromkeys(name for row in rows for name in row))
    if asked is None:
        return known
    for name in asked:
        if known and name not in known:
            raise InputError(
                f"The records have no column {name!r}; there are: {', '.join(known)}."
                + nearest(name, known)
            )
    return list(asked)


def _jsonl(values: list[list[object]], names: list[str]) -> str:
    return "\n".join(_json(dict(zip(names, row, strict=True))) for row in values)


def _csv(values: list[list[object]], names: list[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_csv_value(value) for value in row] for row in values])
    return out.getvalue().removesuffix("\n")


def _csv_value(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{value!r} cannot be written: {error}. Only finite numbers, text and lists can."
        ) from error


def _table(values: list[list[object]], names: list[str], width: int) -> str:
    if not names:
        return "no rows"
    columns = [_column(name, [row[i] for row in values]) for i, name in enumerate(names)]
    widths = _fit(columns, width)
    shown = columns[: len(widths)]
    table = Table(box=None, pad_edge=False, header_style="")
    for column, room in zip(shown, widths, strict=True):
        side = "right" if column.numbers else "left"
        table.add_column(Text(column.name), width=room, justify=side, no_wrap=True)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*(Text(cell, overflow="ellipsis") for cell in cells))
    out = io.StringIO()
    room = max(width, sum(widths) + 2 * len(widths))
    console = Console(file=out, width=room, color_system=None, force_jupyter=False)
    console.print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    if hidden := [column.name for column in columns[len(shown) :]]:
        lines.append(f"Not shown, for want of width: {', '.join(hidden)}.")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Column:
    """One column of the table, as text."""

    name: str
    cells: list[str]
    numbers: bool

    @property
    def natural(self) -> int:
        longest = max(map(cell_len, [self.name, *self.cells]))
        return longest if self.numbers else min(longest, _MAX_CELL)


def _column(name: str, values: list[object]) -> _Column:
    numbers = bool(values) and all(v is None or isinstance(v, int | float) for v in values)
    return _Column(_printable(name), [_cell(value) for value in values], numbers)


def _fit(columns: list[_Column], width: int) -> list[int]:
    """Return the widths of the columns that fit, each two apart from the next.

    Text gives way first, the widest column before the others; numbers are never cut, for half a
    number is a wrong number. What still does not fit is left out from the right.
    """
    widths = [column.natural for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        text = [i for i, c in enumerate(columns) if not c.numbers and widths[i] > _MIN_CELL]
        if not text:
            break
        widths[max(text, key=widths.__getitem__)] -= 1
    while len(widths) > 1 and sum(widths) + 2 * (len(widths) - 1) > width:
        widths.pop()
    return widths


def _cell(value: object) -> str:
    """Return a value as it stands in the table.

    >>> _cell(1 / 3), _cell(None), _cell(True), _cell([0.123456, 2]), _cell("two\\nlines")
    ('0.3333', '-', 'True', '[0.1235, 2]', 'two\\\\nlines')
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_cell(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_cell(item)}' for name, item in value.items())}}}"
    return _printable(str(value))


def _printable(text: str) -> str:
    """Return text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
