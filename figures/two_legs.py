"""The two legs of every step: how many are high on which, and what necessity alone misses."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.results import thinking_findings as said
from interp.results.report_charts import beside, legs_chart
from interp.results.report_stats import Row, merge_seeds, scored_rows
from interp.results.step_profiles import missed_elsewhere, two_leg_table
from interp.results.thinking_charts import quadrant_map

TABLES = ("steps", "chains")
"""Tables of a run that `figure` takes, in its order."""


def figure(steps: Sequence[Row], chains: Sequence[Row]) -> go.Figure:
    """Draw the share of steps by which leg is high, beside the two signed legs of each step.

    Raises:
        NothingToDraw: no step was scored.
    """
    rows = scored_rows(chains, steps)
    if not rows:
        raise NothingToDraw("no step was scored")
    lines = two_leg_table(rows)
    titles = ("Share of steps, 95% interval", "Each step, signed")
    both = beside(quadrant_map(lines), legs_chart(merge_seeds(rows)), titles, split=0.5)
    return titled(both, said.legs_finding(lines, missed_elsewhere(rows)), height=520)
