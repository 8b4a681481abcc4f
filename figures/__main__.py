"""Draw every figure again from the committed records: `python -m figures`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go
import pyarrow as pa
import tyro

from figures import benchmarks
from figures.images import NAMES, VARIABLE, draw_images, find_chromium
from interp.errors import InputError, InterpError
from interp.results import Store, query
from interp.results.report_charts import plain
from interp.results.sweep_page import Group, Headline, dot_plot

ROOT = Path(__file__).parents[1]
FIGURES = ("tts_distribution",)
CONFIG = {"displaylogo": False, "responsive": True}
DOTS = 60
"""How many dots the figure of a sweep has at most."""


def redraw(
    records: Path = ROOT / "experiments" / "records",
    out: Path = ROOT / "figures" / "out",
    images: bool = True,
) -> list[Path]:
    """Draw each figure of the records: a page, Plotly's JSON, and with a Chromium SVG and PNG.

    A second call writes the same bytes.

    Args:
        records: Folder with the runs, sweep stores and benchmarks to draw.
        out: Folder for the drawings; made where it is missing.
        images: Also draw SVG and PNG, where a Chromium is found.

    Raises:
        InputError: there is no run or sweep under `records`, a record cannot be drawn, or the
            Chromium cannot draw; pages and JSON are there all the same.
    """
    chromium = find_chromium() if images else None
    figures = dict(all_figures(records))
    out.mkdir(parents=True, exist_ok=True)
    written = [path for stem, drawn in figures.items() for path in write(drawn, out, stem)]
    return written + (write_images(figures, out, chromium) if images else [])


def all_figures(records: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield every figure of a folder of records, each with the stem of its files.

    Raises:
        InputError: there is no run or sweep, or a record cannot be drawn.
    """
    runs = sorted(path.parent for path in records.rglob("manifest.json"))
    sweeps = sorted(path.parent for path in records.rglob("sweeps/*/sweep.json"))
    if not runs and not sweeps:
        raise InputError(
            f"There is no run under {records}: a run is a folder with manifest.json, a sweep one "
            "with sweep.json."
        )
    for run in runs:
        for name, drawn in figures_of(Store.open(run)):
            yield f"{_stem(run, records)}-{name}", drawn
    for sweep in sweeps:
        drawn = sweep_figure(sweep)
        if drawn is not None:
            yield f"{_stem(sweep, records)}-means", drawn
    drawn = benchmarks_figure(records / benchmarks.RECORD)
    if drawn is not None:
        yield "benchmarks", drawn


def _stem(folder: Path, records: Path) -> str:
    return "-".join(folder.relative_to(records).parts) or folder.name


def benchmarks_figure(record: Path) -> go.Figure | None:
    """Draw the benchmark rows of a JSONL file; where it is missing, say so and return None.

    Raises:
        InputError: a line is no JSON, or the rows cannot be drawn.
    """
    if not record.exists():
        print(
            f"No figure of the benchmarks: {record} is missing; python -m experiments.benchmarks "
            "--json writes its lines.",
            file=sys.stderr,
        )
        return None
    try:
        rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{record} is not JSONL: {error}.") from error
    return benchmarks.figure(rows)


def figures_of(store: Store) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures for which a run has the tables, each with its name."""
    found = {table for cell in store.cells() for table in cell["tables"]}
    for name in FIGURES:
        module = import_module(f"figures.{name}")
        if found.issuperset(module.TABLES):
            yield name, module.figure(*(store.rows(table) for table in module.TABLES))


# ---------------------------------------------------------------- sweeps


def sweep_figure(sweep: Path) -> go.Figure | None:
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
    return sweep_means(cells.select(table), table, column, words)


def sweep_means(rows: pa.Table, table: str, column: str, words: Sequence[str] = ()) -> go.Figure:
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


# ---------------------------------------------------------------- files


def write(drawn: go.Figure, out: Path, stem: str) -> list[Path]:
    """Write a figure as a page, which needs `plotly.min.js` beside it, and as JSON."""
    page, spec = out / f"{stem}.html", out / f"{stem}.json"
    drawn.write_html(page, include_plotlyjs="directory", div_id=stem, config=CONFIG)
    spec.write_text(f"{drawn.to_json(pretty=True)}\n", encoding="utf-8")
    return [page, spec]


def write_images(figures: Mapping[str, go.Figure], out: Path, chromium: str | None) -> list[Path]:
    """Write SVG and PNG; without a Chromium say so, and remove those of an earlier time.

    Raises:
        InputError: the Chromium cannot draw.
    """
    places = {(stem, kind): out / f"{stem}.{kind}" for stem in figures for kind in ("svg", "png")}
    for path in places.values():
        path.unlink(missing_ok=True)
    if chromium is None:
        print(
            f"No SVG and no PNG: there is no {', '.join(NAMES)} on the PATH; install one, or name "
            f"one in {VARIABLE}.",
            file=sys.stderr,
        )
        return []
    images = draw_images(figures, out, chromium)
    for (stem, kind), path in places.items():
        path.write_bytes(images[stem][kind])
    return list(places.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, and say what was written; exit 2 on bad input."""
    try:
        print(*tyro.cli(redraw, args=argv), sep="\n")
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
