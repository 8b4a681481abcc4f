"""Early answering: what the model would answer if its chain stopped on the way."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.results import thinking_findings as said
from interp.results.relatives_charts import early_chart
from interp.results.report_stats import Row

TABLES = ("early_points",)
"""Tables of a run that `figure` takes."""


def figure(points: Sequence[Row]) -> go.Figure:
    """Draw Pr(y*) and the share of final answers by how much of the chain has been written.

    Raises:
        NothingToDraw: no chain could be read before its first step, or none half way.
    """
    found = said.early_finding(points)
    if found is None:
        raise NothingToDraw("no chain was read both without its steps and half way")
    return titled(early_chart(points), found)
