"""Training progression: IIA of networks that are still learning, beside the published means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_comparison import progression
from interp.results.align_figures import sweep_finding
from interp.results.align_reference import compare
from interp.results.report_stats import Row

TABLES = ("align_fits", "published")
"""Tables that `figure` takes, in its order."""


def figure(fits: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> go.Figure:
    """Draw IIA by chunks of training samples, a panel for each algorithm and layer.

    Raises:
        NothingToDraw: no network was scored while it learned.
    """
    mine = [row for row in fits if row.get("checkpoint") is not None]
    cells = [{**row, "checkpoint": int(row["checkpoint"])} for row in compare(mine, reference)]
    if not cells:
        raise NothingToDraw("no network was scored while it learned")
    found = sweep_finding(cells, "chunks of training samples", "checkpoint")
    return told(progression(cells), found)
