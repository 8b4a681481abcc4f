"""The engagement and the disengagement test: flips by layer, with every control."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.results import thinking_findings as said
from interp.results.report_stats import Finding, Row
from interp.results.thinking_charts import layer_panels

TABLES = ("steer_curves", "steer_results")
"""Tables of a run that `figure` takes, in its order."""


def figure(curves: Sequence[Row], results: Sequence[Row]) -> go.Figure:
    """Draw the flips of every arm by layer on the test problems, a panel for each test.

    Raises:
        NothingToDraw: no test problem has an item.
    """
    if not any(row["split"] == "test" for row in curves):
        raise NothingToDraw("no test problem has an item")
    told = [said.steer_finding(results, test) for test in said.WORDS]
    found = [each for each in told if each is not None]
    title = found[0].title if found else "Flips by layer"
    rest = [*(each.title for each in found[1:]), *(f"First: {each.detail}" for each in found[:1])]
    told = Finding(title, " ".join(rest))
    return titled(layer_panels(curves, results), told, height=560)
