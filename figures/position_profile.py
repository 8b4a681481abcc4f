"""The True-Thinking Score along the chain, beside the null rewrite's."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.results.report_charts import position_chart
from interp.results.report_stats import Row, findings, merge_seeds, scored_rows

TABLES = ("steps", "chains")
"""Tables of a run that `figure` takes, in its order."""

PARTS = 10
"""Equal stretches of a chain."""


def figure(steps: Sequence[Row], chains: Sequence[Row]) -> go.Figure:
    """Draw the mean score in each tenth of the chain, with its interval over problems.

    Raises:
        NothingToDraw: no step was scored.
    """
    rows = scored_rows(chains, steps)
    if not rows:
        raise NothingToDraw("no step was scored")
    _, _, place = findings(rows)
    return titled(position_chart(merge_seeds(rows), PARTS), place)
