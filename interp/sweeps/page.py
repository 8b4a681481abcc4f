"""Gathers what the pages of a sweep store show, from its records alone, and writes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

from interp.errors import InterpError, StoreError
from interp.results import query
from interp.results.files import Files
from interp.results.index import about
from interp.results.sweep_page import (
    Group,
    Headline,
    Line,
    SweepView,
    distinct,
    render_store,
    render_sweep,
)
from interp.sweeps.live import duration
from interp.sweeps.status import Sweep, read_sweep, split, sweep_names, varied_fields

DRAW = "seed"
"""The field that draws again what is measured: charts average over it."""
GROUPS = 60
"""How many dots a chart has at most; fields of many values are averaged over to keep to it."""
_GROUP = "group of the chart"


@dataclass(frozen=True)
class Written:
    """The pages that were written."""

    address: str
    """The page that was asked for."""
    unread: Mapping[str, str]
    """Sweeps of the store that could not be read, each with the reason."""


def is_sweep(place: str) -> bool:
    """Tell whether a place is a sweep store or a sweep in one, and not a run.

    >>> is_sweep("s3://bucket/store"), is_sweep("/nowhere/at/all")
    (True, False)
    """
    if "://" in place:
        return True
    store, name = split(place)
    if (Path(place) / "manifest.json").is_file():
        return False
    return (Path(store) / "sweeps").is_dir() and (name is not None or Path(place).is_dir())


def write_report(place: str) -> Written:
    """Write the page of a sweep, or of a store together with those of its sweeps.

    `place` is `STORE` or `STORE/sweeps/NAME`, a folder or an s3:// address. In a store, a sweep
    whose description is damaged is named on the page, and the others are shown.

    Raises:
        StoreError: there is no sweep, or the store cannot be read or written.
    """
    store, name = split(place)
    files = Files.open(store)
    if name is not None:
        home = files.get("index.html") is not None
        path = _write_sweep(files, gather(store, name), home=home)
        return Written(f"{store}/{path}", {})
    views, unread = [], {}
    for each in sweep_names(store):
        try:
            views.append(gather(store, each))
        except StoreError as error:
            unread[each] = str(error)
    for view in views:
        _write_sweep(files, view, home=True)
    html = render_store(store, views, runs=_runs(store), unread=unread)
    files.put("index.html", html.encode())
    return Written(f"{store}/index.html", unread)


def _write_sweep(files: Files, view: SweepView, *, home: bool) -> str:
    path = f"sweeps/{view.name}/index.html"
    files.put(path, render_sweep(view, home=home).encode())
    return path


def _runs(store: str) -> list[str]:
    """Folders in the store that hold the report of a run."""
    if "://" in store:
        return []
    return sorted(path.parent.name for path in Path(store).glob("*/report.html"))


def gather(store: str, name: str) -> SweepView:
    """Read everything that a page says of one sweep.

    Raises:
        StoreError: the store has no such sweep, or its description is damaged.
    """
    sweep = read_sweep(store, name)
    lines = [
        Line(
            key=cell.key,
            label=cell.label,
            config=cell.config,
            state=cell.state,
            seconds=cell.seconds,
            rows=cell.rows,
            failure=asdict(cell.failure) if cell.failure else None,
        )
        for cell in sweep.cells
    ]
    varied = varied_fields(cell.config for cell in sweep.cells)
    headline, why = _headline(sweep)
    return SweepView(
        name=name,
        about=sweep.about,
        cells=lines,
        varied=varied,
        spent=_spent(sweep),
        headline=headline,
        no_chart=why,
    )


def _spent(sweep: Sweep) -> dict[str, str]:
    """What the finished cells cost together, and what the last attempts of failed ones did."""
    done = [cell.key for cell in sweep.cells if cell.state == "done"]
    total: Counter[str] = Counter()
    for text in about(sweep.store, done).column("spent").to_pylist() if done else ():
        for name, cost in json.loads(text).items():
            if isinstance(cost, int | float) and isfinite(cost):
                total[name] += cost  # type: ignore[assignment]  # a Counter adds floats as well
    failed = sum(cell.failure.seconds for cell in sweep.cells if cell.failure)
    times = {"work": total.pop("seconds", 0), "loading": total.pop("loading", 0)}
    times |= {"last failed attempts": failed} if failed else {}
    said = {name: duration(float(seconds)) for name, seconds in times.items()}
    return said | {name: f"{cost:,.6g}" for name, cost in total.items()}


def _headline(sweep: Sweep) -> tuple[Headline | None, str]:
    """The headline number by the fields of the chart, or why there is none."""
    named = sweep.about.get("headline")
    if not (isinstance(named, list) and len(named) == 2 and all(isinstance(n, str) for n in named)):
        return None, "The experiment names no headline number; `interp results` has its tables."
    if not sweep.count("done"):
        return None, "No cell is done, so there is nothing to draw yet."
    table, column = named
    done = [cell.config for cell in sweep.cells if cell.state == "done"]
    varied = varied_fields(done)
    fields = chart_fields(done, varied)
    try:
        rows = query.read(f"{sweep.store}/sweeps/{sweep.name}").select(table)
        found = query.group(_grouped(rows, sweep, fields), {"mean": [column]}, by=[_GROUP])
    except InterpError as error:
        return None, f"The headline number cannot be drawn. {error}"
    groups = _groups(found)
    if not any(group.count for group in groups):
        return None, f"No finished cell has a value of {column}, so there is nothing to draw yet."
    pooled = tuple(name for name in varied if name not in fields)
    notes = query.notes(found)
    return Headline(
        table=table, column=column, fields=fields, pooled=pooled, groups=groups, notes=notes
    ), ""


def _grouped(rows: pa.Table, sweep: Sweep, fields: Sequence[str]) -> pa.Table:
    """The rows with a column that names their group: the values of the fields, as JSON."""
    of = {cell.key: json.dumps([cell.config.get(name) for name in fields]) for cell in sweep.cells}
    key = next(name for name in query.identity(rows) if name in ("config.cell", "cell"))
    values = [of[cell] for cell in rows.column(key).to_pylist()]
    return rows.append_column(_GROUP, pa.array(values, pa.string()))


def _groups(found: pa.Table) -> list[Group]:
    lines = found.to_pylist()
    return [
        Group(
            values=tuple(json.loads(line[_GROUP])),
            mean=line["mean"],
            low=line["low"],
            high=line["high"],
            count=line["count"],
            units=line["units"],
        )
        for line in lines
    ]


def chart_fields(
    configs: Sequence[Mapping[str, Any]], varied: Sequence[str], most: int = GROUPS
) -> tuple[str, ...]:
    """The fields that a chart tells apart: those that vary but the seed, up to `most` groups.

    While there are more, the field of the most values is left out.

    >>> cells = [{"model": m, "layer": n, "seed": 0} for m in "ab" for n in range(40)]
    >>> chart_fields(cells, ["model", "layer"]), chart_fields(cells, ["model", "layer"], 80)
    (('model',), ('model', 'layer'))
    """
    fields = [name for name in varied if name != DRAW]
    sizes = {name: len(distinct(config.get(name) for config in configs)) for name in fields}
    while len({json.dumps([c.get(name) for name in fields]) for c in configs}) > most:
        fields.remove(max(fields, key=lambda name: sizes[name]))
    return tuple(fields)
