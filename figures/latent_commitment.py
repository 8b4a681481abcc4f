"""When the model commits: what its vectors hold and what it would say, on one scale."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from interp.results.latent_charts import commitment_panels, of_subject, subjects_of
from interp.results.latent_findings import commitment_finding
from interp.results.report_stats import Finding, Row

TABLES = ("commitment", "commitment_probes")
ALSO = ("commitment_steps",)
"""Tables of a run that `figure` takes, in this order; the last may be missing."""


def figure(curve: Sequence[Row], probes: Sequence[Row], steps: Sequence[Row] = ()) -> go.Figure:
    """Draw bits and committed samples by step, the probe of shuffled labels beside them."""

    def tell(mine: Sequence[Row]) -> Finding | None:
        name = subjects_of(mine)[0]
        return commitment_finding(mine, of_subject(probes, name), of_subject(steps, name))

    return told(commitment_panels(curve, probes), curve, tell, "Commitment")
