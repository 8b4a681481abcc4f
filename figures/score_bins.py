"""Does the direction grow with the score of the steps that it is made from?"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import NothingToDraw, titled
from interp.results import thinking_findings as said
from interp.results.report_stats import Row
from interp.results.thinking_charts import bin_panels

TABLES = ("steer_bins",)
ALSO = ("steer_bin_curves",)
"""Tables of a run that `figure` takes, in this order; the last may be missing."""


def figure(bins: Sequence[Row], curves: Sequence[Row] = ()) -> go.Figure:
    """Draw what stays right by layer for the direction of each bin, and its flips.

    Raises:
        NothingToDraw: no bin gave a direction.
    """
    if all(row["flips"] is None for row in bins):
        raise NothingToDraw("no score bin gave a direction that could be tested")
    return titled(bin_panels(bins, curves), said.bin_finding(bins), height=540)
