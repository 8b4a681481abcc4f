"""The headline number of a sweep: its mean by the fields that vary, with intervals."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import pyarrow as pa

from interp.errors import InputError
from interp.results import query
from interp.results.report_charts import plain
from interp.results.sweep_page import Group, Headline, dot_plot

DOTS = 60
"""How many dots a figure has at most."""


def figure(sweep: Path) -> go.Figure | None:
    """Draw the headline number of a sweep's folder; where it names none, say so and return None.

    Raises:
        InputError: `sweep.json` is no description, or no cell has the number.
        StoreError: cells do not fit together.
    """
    try:
        about = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
        named, keys = about.get("headline"), set(about["keys"])
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{sweep / 'sweep.json'} describes no sweep: {error!r}.") from error
    if not named:
        print(f"No figure of {sweep}: its experiment names no headline number.", file=sys.stderr)
        return None
    table, column = named
    cells = query.read(sweep)
    gone = len(keys.difference(cells.cells.column("cell").to_pylist()))
    words = [f"{gone} of its {len(keys)} cells are not there."] * bool(gone)
    return means(cells.select(table), table, column, words)


def means(rows: pa.Table, table: str, column: str, words: Sequence[str] = ()) -> go.Figure:
    """Draw the mean of a column by the fields that vary, with 95% intervals over its units.

    Seeds are averaged over, and so is the field of the most values while there are more than
    `DOTS` groups; the subtitle says which, and ends with `words`.

    Raises:
        InputError: the column is unknown, no number, or has no value at all.
    """
    varied = [name for name in query.telling(rows) if name != "run"]
    fields = _told_apart(rows, [name for name in varied if name not in ("seed", "config.seed")])
    found = query.group(rows, {"mean": [column]}, by=fields)
    names = ("mean", "low", "high", "count", "units")
    groups = [
        Group(values=tuple(line.values())[: len(fields)], **{name: line[name] for name in names})
        for line in found.to_pylist()
    ]
    known = [group for group in groups if group.mean is not None]
    if not known:
        raise InputError(f"No row of {table} has a value of {column}, so no dot can be drawn.")
    pooled = [name.removeprefix("config.") for name in varied if name not in fields]
    drawn = dot_plot(
        Headline(
            table=table,
            column=column,
            fields=tuple(fields),
            pooled=tuple(pooled),
            groups=groups,
            notes=query.notes(found),
        )
    )
    said = [f"Averaged over {', '.join(pooled)}."] * bool(pooled)
    said += [*query.notes(found), *words]
    return _titled(go.Figure(drawn), _finding(known, fields, column), said)


def _told_apart(rows: pa.Table, fields: Sequence[str]) -> list[str]:
    """The fields that dots stand for: all, less those of the most values where there are many."""
    left = list(fields)
    while left and rows.select(left).group_by(left).aggregate([]).num_rows > DOTS:
        left.remove(max(left, key=lambda name: len(rows.column(name).unique())))
    return left


def _finding(groups: Sequence[Group], fields: Sequence[str], column: str) -> str:
    """Where the mean is highest.

    >>> best = Group(values=("a", 2), mean=0.5, low=0.25, high=0.75, count=4, units=2)
    >>> _finding([best], ["model", "layer"], "tts")
    'Mean tts is highest at model=a, layer=2: 0.5 (0.25 to 0.75)'
    """
    best = max(groups, key=lambda group: group.mean or 0.0)
    ends = "no interval" if best.low is None else f"{best.low:.3g} to {best.high:.3g}"
    number = f"{best.mean:.3g} ({ends})"
    place = ", ".join(f"{name}={each}" for name, each in zip(fields, best.values, strict=True))
    return f"Mean {column} is highest at {place}: {number}" if place else f"Mean {column}: {number}"


def _titled(drawn: go.Figure, title: str, words: Sequence[str]) -> go.Figure:
    lines = "<br>".join(plain(each, 140) for each in words)
    place = {"x": 0.01, "y": 0.98, "yanchor": "top"}
    above = 90 + 18 * len(words)
    return drawn.update_layout(
        title={"text": plain(title, 110), "subtitle": {"text": lines}, **place},
        margin={"t": above},
        height=drawn.layout.height + above,  # type: ignore[attr-defined]
    )
