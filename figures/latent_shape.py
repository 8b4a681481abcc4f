"""The shape of W in four numbers, beside what equal edges give and beside the identity."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.influence_charts import shape_panels
from interp.results.latent_findings import shape_finding
from interp.results.report_stats import Row

TABLES = ("influence_shape",)
"""Tables of a run that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw locality, span, early-out and late-in with bootstrap intervals over problems.

    Raises:
        NothingToDraw: the rows are of the released preset, or no matrix has a shape.
    """
    own = [row for row in rows if row.get("preset", "default") == "default"]
    if not any(row["x"] is not None for row in own):
        raise NothingToDraw("no matrix of sound read-outs has a shape")
    return told(shape_panels(own), own, shape_finding, "Shape of W")
