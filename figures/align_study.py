"""What the figures of alignment share: the records that they are drawn from, and who draws which.

A study is a folder with a folder for each run of `interp align`; the comparison with published
values one with a folder for each of its parts; the networks that multiply and the soundness search
each a folder of JSON lines. A figure without rows says so and is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.errors import InputError
from interp.results import Store
from interp.results.align_findings import at, places_of, require_grounds
from interp.results.align_reference import published
from interp.results.report_charts import Spec
from interp.results.report_stats import Finding, Row

REFERENCE = Path(__file__).parents[1] / "experiments" / "references" / "nlrd_iia.csv"
"""The published values that stand beside ours."""
OF_RUN = ("align_iia", "align_bits", "align_unseen")
"""Modules of figures of one run of a study."""
OF_MAP = ("align_capacity",)
"""Those of the capacity curve of one map of a run."""
OF_REFERENCE = ("align_published", "align_planted", "align_widths", "align_progression")
"""Those of the comparison with published values."""
OF_LINES: Mapping[str, tuple[str, ...]] = {
    "multiplication_study": ("align_swaps", "align_probes"),
    "soundness": ("align_attacks",),
    "ioi_twins": ("align_twins",),
}
"""Those of folders of JSON lines, by the folder's name."""
STUDY, COMPARISON = "align_study", "align_reference"
"""Folders of these names hold runs, and parts of the comparison."""

PANEL_TITLE = 28
"""Pixels for the titles of panels, which stand between the words and the panels."""

Tables = dict[str, list[Row]]


def told(spec: Spec, found: Finding) -> go.Figure:
    """Return a chart under its finding, with room for the titles of its panels."""
    drawn = titled(spec, found, height=spec["layout"]["height"] + 120)
    layout: Any = drawn.layout
    above = {"t": layout.margin.t + PANEL_TITLE}
    return drawn.update_layout(margin=above, height=layout.height + PANEL_TITLE)


def all_align_figures(records: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield every figure of alignment of a folder of records, each with the stem of its files.

    Raises:
        InputError: rows cannot be read, or lack what a figure needs.
        StoreError: a store cannot be read.
    """
    for study in _folders(records, STUDY):
        for run in sorted(path.parent for path in study.rglob("manifest.json")):
            yield from _stemmed(run, records, figures_of_run(run))
    for comparison in _folders(records, COMPARISON):
        yield from _stemmed(comparison, records, figures_of_reference(comparison))
    for name in OF_LINES:
        for folder in _folders(records, name):
            yield from _stemmed(folder, records, figures_of_lines(folder))


def _folders(records: Path, name: str) -> list[Path]:
    return sorted(path for path in records.rglob(name) if path.is_dir())


def _stemmed(
    folder: Path, records: Path, figures: Iterator[tuple[str, go.Figure]]
) -> Iterator[tuple[str, go.Figure]]:
    stem = "-".join(folder.relative_to(records).parts)
    for name, drawn in figures:
        yield f"{stem}-{name}", drawn


# ---------------------------------------------------------------- runs of a study


def figures_of_run(folder: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures of one run of `interp align`, each with its name."""
    tables = tables_of_run(folder)
    yield from drawn_of(OF_RUN, tables, folder)
    curves = tables.get("align_curve", [])
    for place in places_of(curves):
        for name, drawn in drawn_of(OF_MAP, {"align_curve": at(curves, place)}, folder):
            yield f"{name}-{place.map}", drawn


def tables_of_run(folder: Path) -> Tables:
    """Return the tables of a run, its fits with the `experiment` under which others published.

    Raises:
        InputError: a verdict says that something was found, and lacks what it rests on.
        StoreError: the store cannot be read.
    """
    store = Store.open(folder)
    names = sorted({table for cell in store.cells() for table in cell["tables"]})
    tables: Tables = {name: list(store.rows(name)) for name in names}
    for row in tables.get("align_verdicts", []):
        require_grounds(row, tables.get("align_guards", []), tables.get("align_baselines", []))
    known = experiment_of(store.manifest.model, store.manifest.data)
    tables["align_fits"] = [{**row, "experiment": known} for row in tables.get("align_fits", [])]
    tables["published"] = [*published(REFERENCE)]
    return tables


def experiment_of(model: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """Return what the published results call a run's networks; None where they have none.

    >>> experiment_of({"path": "alignment_nets/planted_and_or"}, {"task": "distributive"})
    'planted_and_or'
    >>> experiment_of({"path": "trained here"}, {"task": "equality"})
    'final'
    """
    if data.get("task") not in ("equality", "distributive"):
        return None
    name = Path(str(model.get("path", ""))).name
    return name if name.startswith("planted_") else "final"


# ---------------------------------------------------------------- other records


def figures_of_reference(folder: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures of the comparison with published values, of all its parts together."""
    stores = [Store.open(path.parent) for path in sorted(folder.rglob("manifest.json"))]
    fits: list[Row] = [
        {**row, "part": store.folder.name} for store in stores for row in _rows(store, "align_fits")
    ]
    tables: Tables = {"align_fits": fits, "published": [*published(REFERENCE)]}
    yield from drawn_of(OF_REFERENCE, tables, folder)


def _rows(store: Store, table: str) -> list[Row]:
    return list(store.rows(table)) if any(table in c["tables"] for c in store.cells()) else []


def figures_of_lines(folder: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures of a folder of JSON lines, a table a file."""
    tables = {path.stem: lines_of(path) for path in sorted(folder.glob("*.jsonl"))}
    yield from drawn_of(OF_LINES[folder.name], tables, folder)


def lines_of(path: Path) -> list[Row]:
    """Return the rows of a file of JSON lines; an empty line is none.

    Raises:
        InputError: a line is no JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise _no_row(path, number) from error
        if row is None:
            continue
        if not isinstance(row, dict):
            raise _no_row(path, number)
        rows.append(row)
    return rows


def _no_row(path: Path, number: int) -> InputError:
    return InputError(
        f"Line {number} of {path} is no JSON object: make the records of {path.parent.name} again."
    )


def drawn_of(
    names: Sequence[str], tables: Mapping[str, Sequence[Row]], folder: Path
) -> Iterator[tuple[str, go.Figure]]:
    """Yield the figures of some modules; one that has no rows is left out, and it is said why.

    A module names its tables in `TABLES`, and in `ALSO` those that may be missing.

    Raises:
        InputError: a row lacks a column that a figure needs.
    """
    for name in names:
        module = import_module(f"figures.{name}")
        missing = [table for table in module.TABLES if not tables.get(table)]
        wanted = (*module.TABLES, *getattr(module, "ALSO", ()))
        try:
            if missing:
                raise NothingToDraw(f"there is no row of {', '.join(missing)}")
            yield name, module.figure(*(tables.get(table, []) for table in wanted))
        except NothingToDraw as error:
            print(f"No figure {name} of {folder}: {error}.", file=sys.stderr)
        except KeyError as error:
            raise InputError(
                f"A row of {folder} lacks {error}, which the figure {name} draws: make "
                "these records again."
            ) from error
