"""Rows as text for people and papers, or as a file: table, JSON lines, CSV, LaTeX, Parquet."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import InputError
from interp.results.manifest import replace_file
from interp.results.rows import notes, to_arrow
from interp.results.show import render

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
_TEX |= {each: f"\\{each}" for each in "&%$#_{}"}


def to_text(rows: pa.Table | pd.DataFrame, format: str, *, width: int = 120) -> str:
    """Return rows as a `table` to look at, as `jsonl`, `csv` or `latex`.

    Raises:
        InputError: there is no such format, or a value cannot be written.
    """
    if format == "latex":
        return to_latex(rows)
    table = to_arrow(rows)
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
    table = to_arrow(rows)
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
    pq.write_table(to_arrow(rows), buffer, compression="zstd")
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
