"""How far the measures of steps agree: rank correlations, with what chance reaches."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import titled
from interp.results import thinking_findings as said
from interp.results.relatives_charts import agreement_map
from interp.results.report_stats import Finding, Row

TABLES = ("agreement",)
"""Tables of a run that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw the rank correlation of every pair of measures; brackets mark what chance explains."""
    found = said.agreement_finding(rows) or Finding("How far the measures agree", "")
    told = Finding(
        found.title,
        f"{found.detail} In brackets: no further than chance, or an interval that holds 0.",
    )
    spec = agreement_map(rows)
    return titled(spec, told, height=spec["layout"]["height"] + 90)
