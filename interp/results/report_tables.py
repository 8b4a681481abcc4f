"""Tables and paragraphs of the report's page. Every text that comes from data passes `esc`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from interp.results.report_html import esc
from interp.results.report_stats import DASH, Row, percent

Cell = str | tuple[str, str]
"""What a table shows in one place; of two texts the second is written small below the first."""


def table(heads: Sequence[str], lines: Sequence[Sequence[Cell]], *, words: bool = False) -> str:
    """Return a table whose first column names the line.

    `words` is for tables of text instead of numbers: they are set to the left and wrap.

    >>> "<td>1<small>0 to 2</small></td>" in table(["", "Mean"], [["<b>", ("1", "0 to 2")]])
    True
    """
    top = "".join(f'<th scope="col">{esc(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{_cell(line[0])}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in line[1:])
        + "</tr>"
        for line in lines
    )
    kind = "scroll words" if words else "scroll"
    inner = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="{kind}" tabindex="0">{inner}</div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return esc(cell)
    return f"{esc(cell[0])}<small>{esc(cell[1])}</small>"


def note(text: str) -> str:
    """Return a paragraph in small print."""
    return f'<p class="note">{esc(text)}</p>'


def warning(text: str) -> str:
    """Return a paragraph that stands out."""
    return f'<p class="warning">{esc(text)}</p>'


def spread(row: Row, value: str, write: Callable[[float], str] = percent) -> Cell:
    """A number with its interval in small print."""
    low, middle, high = (row.get(f"{value}{end}") for end in ("_low", "", "_high"))
    if middle is None:
        return DASH
    if low is None or high is None:
        return write(middle), "no interval"
    return write(middle + 0.0), f"{write(low + 0.0)} to {write(high + 0.0)}"  # + 0.0: no "-0"
