"""Width sweep: IIA by the hidden size of a coupling map beside the published means and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_comparison import hidden_of, width_sweep
from interp.results.align_figures import sweep_finding
from interp.results.align_reference import compare
from interp.results.report_stats import Row

TABLES = ("align_fits", "published")
"""Tables that `figure` takes, in its order."""


def figure(fits: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> go.Figure:
    """Draw the sweep, a panel for each algorithm and layer.

    Raises:
        NothingToDraw: no width was swept.
    """
    mine = [row for row in fits if row["experiment"] == "width_sweep"]
    cells = [{**row, "hidden": hidden_of(str(row["map"]))} for row in compare(mine, reference)]
    if not cells:
        raise NothingToDraw("no width was swept")
    return told(width_sweep(cells), sweep_finding(cells, "hidden size", "hidden"))
