"""Our mean and interval of each cell beside the published mean and range over networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_comparison import reference_ranges
from interp.results.align_figures import reference_finding
from interp.results.align_reference import compare
from interp.results.report_stats import Row

TABLES = ("align_fits", "published")
"""Tables that `figure` takes, in its order."""


def figure(fits: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> go.Figure:
    """Draw every cell; sweeps of width and of training have figures of their own.

    Raises:
        NothingToDraw: nothing was published of any cell.
    """
    cells = [
        row
        for row in compare(fits, reference)
        if row["experiment"] != "width_sweep"
        and row["checkpoint"] in ("0", "final")
        and (row["experiment"], row["kind"]) != ("progression", "trained")
    ]
    if not any(row["inside"] is not None for row in cells):
        raise NothingToDraw("nothing was published of any cell")
    return told(reference_ranges(cells), reference_finding(cells))
