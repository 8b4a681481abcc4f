"""The capacity curve of one verdict: train and test IIA by pairs and map, network against twin."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from interp.results.align_charts import capacity_curves
from interp.results.align_findings import curve_finding, place_of
from interp.results.report_stats import Row

TABLES = ("align_curve",)
"""Tables that `figure` takes: rows of one algorithm, map, site and size."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw train IIA beside test IIA; networks solid, their random twins dashed."""
    return told(capacity_curves(rows), curve_finding(place_of(rows[0]), rows))
