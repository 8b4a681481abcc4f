"""Random twins under a deep map: names of the fit, and names that no map saw."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_figures import name_bars, name_finding
from interp.results.report_stats import Row

TABLES = ("rows",)
"""Tables that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw IIA between two names, trained network beside random twins, map by map.

    Raises:
        NothingToDraw: no row is of a random twin.
    """
    if not any(row["network"] == "twin" for row in rows):
        raise NothingToDraw("no row is of a random twin")
    return told(name_bars(rows), name_finding(rows))
