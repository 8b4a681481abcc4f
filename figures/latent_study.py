"""What the figures of latent reasoning share: the records of several subjects, side by side.

A study is a folder with a folder for each subject: a run of `interp latent rollout`, and inside it
its parts. A figure of one subject takes the rows of one run; a figure of a study takes the same
rows with a column `subject`, and draws them on the same axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.errors import InputError
from interp.results import Store
from interp.results.latent_charts import of_subject, subjects_of
from interp.results.report_charts import Spec
from interp.results.report_latent import TABLES, Tell, stored_as, together
from interp.results.report_stats import Finding, Row

FIGURES = ("latent_flips", "latent_early_stop", "latent_operators", "latent_influence")
FIGURES += ("latent_graphs", "latent_shape", "latent_commitment", "latent_released")
"""Modules of figures of a study."""
PANEL_TITLE = 28
"""Pixels for the titles of panels, which stand between the words and the panels."""


def read_study(folder: Path) -> dict[str, list[Row]]:
    """Return the tables of all subjects of a study, each row with its `subject`.

    Raises:
        InputError: two stores of one subject hold the same table.
        StoreError: a store cannot be read.
    """
    runs: dict[str, dict[str, list[Row]]] = {}
    for path in sorted(folder.glob("*/**/manifest.json")):
        store = Store.open(path.parent)
        tables = runs.setdefault(path.relative_to(folder).parts[0], {})
        for name in sorted({table for cell in store.cells() for table in cell["tables"]}):
            shown = stored_as(name, store.manifest.experiment)
            if shown in tables:
                raise InputError(
                    f"Two stores in {folder.name}/{path.relative_to(folder).parts[0]} hold the "
                    f"table {name}, the second is {path.parent.name}: give each its own subject's "
                    "folder, or their rows would be mixed."
                )
            if shown in TABLES:
                tables[shown] = list(store.rows(name))
    return together({name: tables for name, tables in runs.items() if tables})


def figures_of_study(folder: Path) -> Iterator[tuple[str, go.Figure]]:
    """Yield each figure for which a study has the tables, with its name.

    Raises:
        InputError, StoreError: see `read_study`.
    """
    tables = read_study(folder)
    for name in FIGURES:
        module = import_module(f"figures.{name}")
        if all(tables.get(table) for table in module.TABLES):
            wanted = (*module.TABLES, *getattr(module, "ALSO", ()))
            try:
                yield name, module.figure(*(tables.get(table, []) for table in wanted))
            except NothingToDraw:
                continue


def told(spec: Spec, rows: Sequence[Row], tell: Tell, otherwise: str) -> go.Figure:
    """Return a chart under what is found of its first subject, with the others below its detail."""
    every = [tell(of_subject(rows, name)) for name in subjects_of(rows)]
    found = [each for each in every if each is not None] or [Finding(otherwise, "")]
    rest = [each.title for each in found[1:]]
    both = Finding(found[0].title, " ".join([found[0].detail, *rest]))
    drawn = titled(spec, both, height=spec["layout"]["height"] + 120)
    layout: Any = drawn.layout
    above = {"t": layout.margin.t + PANEL_TITLE}
    return drawn.update_layout(margin=above, height=layout.height + PANEL_TITLE)
