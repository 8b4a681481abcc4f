"""Draw every figure again from the committed records: `python -m figures`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go
import tyro

from figures import benchmarks, sweep_means
from figures.align_study import all_align_figures
from figures.images import NAMES, VARIABLE, draw_images, find_chromium
from figures.latent_study import figures_of_study
from figures.titled import NothingToDraw
from interp.errors import InputError, InterpError
from interp.results import Store

ROOT = Path(__file__).parents[1]
FIGURES = ("tts_distribution", "two_legs", "position_profile", "layer_curves", "score_bins")
FIGURES += ("self_verification", "keep_curves", "agreement", "early_answering")
"""Modules of figures that are drawn from the tables of one run."""
STUDY = "latent_study"
"""Folders of this name hold the runs of several latent subjects, which are drawn together."""
CONFIG = {"displaylogo": False, "responsive": True}


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
    for study in sorted(path for path in records.rglob(STUDY) if path.is_dir()):
        for name, drawn in figures_of_study(study):
            yield f"{_stem(study, records)}-{name}", drawn
    yield from all_align_figures(records)
    for sweep in sweeps:
        drawn = sweep_means.figure(sweep)
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
    """Yield the figures for which a run has the tables, each with its name.

    A figure that finds no number in them is left out, and it is said why. Tables that a module
    names in `ALSO` come after the others, and are empty where they are missing.
    """
    found = {table for cell in store.cells() for table in cell["tables"]}
    for name in FIGURES:
        module = import_module(f"figures.{name}")
        if not found.issuperset(module.TABLES):
            continue
        tables = (*module.TABLES, *getattr(module, "ALSO", ()))
        try:
            drawn = module.figure(*(store.rows(t) if t in found else [] for t in tables))
        except NothingToDraw as error:
            print(f"No figure {name} of {store.folder}: {error}.", file=sys.stderr)
            continue
        yield name, drawn


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
