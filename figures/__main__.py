"""Draw every figure again from the committed records: `python -m figures`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go
import tyro

from figures import benchmarks
from interp.errors import InputError, InterpError
from interp.results import Store

ROOT = Path(__file__).parents[1]
FIGURES = ("tts_distribution",)
CONFIG = {"displaylogo": False, "responsive": True}


def redraw(
    records: Path = ROOT / "experiments" / "records", out: Path = ROOT / "figures" / "out"
) -> list[Path]:
    """Draw each figure of each run under a folder, as a page and as Plotly's JSON.

    A second call writes the same bytes.

    Args:
        records: Folder with the runs to draw.
        out: Folder for the drawings; made where it is missing.

    Raises:
        InputError: there is no run under `records`.
    """
    runs = sorted(path.parent for path in records.rglob("manifest.json"))
    if not runs:
        raise InputError(f"There is no run under {records}: a run is a folder with manifest.json.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for run in runs:
        stem = "-".join(run.relative_to(records).parts) or run.name
        for name, drawn in figures_of(Store.open(run)):
            written += write(drawn, out, f"{stem}-{name}")
    return written + redraw_benchmarks(records / benchmarks.RECORD, out)


def redraw_benchmarks(record: Path, out: Path) -> list[Path]:
    """Draw the benchmark rows of a JSONL file; where it is missing, say so and draw nothing.

    Raises:
        InputError: a line is no JSON, or the rows cannot be drawn.
    """
    if not record.exists():
        print(
            f"No figure of the benchmarks: {record} is missing; python -m experiments.benchmarks "
            "--json writes its lines.",
            file=sys.stderr,
        )
        return []
    try:
        rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{record} is not JSONL: {error}.") from error
    return write(benchmarks.figure(rows), out, "benchmarks")


def figures_of(store: Store) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures for which a run has the tables, each with its name."""
    found = {table for cell in store.cells() for table in cell["tables"]}
    for name in FIGURES:
        module = import_module(f"figures.{name}")
        if found.issuperset(module.TABLES):
            yield name, module.figure(*(store.rows(table) for table in module.TABLES))


def write(drawn: go.Figure, out: Path, stem: str) -> list[Path]:
    """Write a figure as a page, which needs `plotly.min.js` beside it, and as JSON."""
    page, spec = out / f"{stem}.html", out / f"{stem}.json"
    drawn.write_html(page, include_plotlyjs="directory", div_id=stem, config=CONFIG)
    spec.write_text(f"{drawn.to_json(pretty=True)}\n", encoding="utf-8")
    return [page, spec]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, and say what was written; exit 2 on bad input."""
    try:
        print(*tyro.cli(redraw, args=argv), sep="\n")
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
