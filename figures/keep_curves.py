"""Pruning: how many answers and tokens stay when a share of the steps is kept."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import titled
from interp.results import thinking_findings as said
from interp.results.relatives_charts import keep_panels
from interp.results.report_stats import Finding, Row

TABLES = ("prune_curves",)
"""Tables of a run that `figure` takes."""


def figure(curves: Sequence[Row]) -> go.Figure:
    """Draw the keep-fraction curves of every way to prune, with intervals over problems."""
    found = said.keep_finding(curves) or Finding("What is left of pruned chains", "")
    return titled(keep_panels(curves), found, height=540)
