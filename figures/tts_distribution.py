"""How the True-Thinking Scores of steps are distributed, beside their controls."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from interp.errors import InputError
from interp.results.report_charts import histogram
from interp.results.report_stats import Row, findings, merge_seeds, scored_rows

TABLES = ("steps", "chains")
"""Tables of a run that `figure` takes, in its order."""


def figure(steps: Sequence[Row], chains: Sequence[Row]) -> go.Figure:
    """Draw the number of steps by score (mean over seeds), with the controls of the same steps.

    Raises:
        InputError: no step was scored, or the rows break a rule of `scored_rows`.
    """
    rows = scored_rows(chains, steps)
    if not rows:
        raise InputError(f"None of the {len(chains)} problems was scored, so no step can be drawn.")
    score, spread, _ = findings(rows)
    title = {
        "text": spread.title,
        "subtitle": {"text": score.title, "font": {"size": 14}},
        "x": 0.01,
        "y": 0.95,
        "font": {"size": 18},
    }
    drawn = go.Figure(histogram(merge_seeds(rows)))
    drawn.update_layout(template="none", title=title, height=480)
    return drawn.update_layout(margin={"t": 130})
