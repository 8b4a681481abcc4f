"""How many latent steps are enough: A(k), which can fall, and S(k), which cannot."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from interp.results.latent_charts import of_subject, stop_curves, subjects_of
from interp.results.latent_findings import stop_finding
from interp.results.report_stats import Finding, Row

TABLES = ("early_stop",)
ALSO = ("settling",)
"""Tables of a run that `figure` takes, in this order; the last may be missing."""


def figure(rows: Sequence[Row], settling: Sequence[Row] = ()) -> go.Figure:
    """Draw what stopping after each number of steps gives, with Wilson intervals."""

    def tell(mine: Sequence[Row]) -> Finding:
        return stop_finding(mine, of_subject(settling, subjects_of(mine)[0]))

    return told(stop_curves(rows), rows, tell, "Early stop")
