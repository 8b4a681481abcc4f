"""Influence matrices side by side: subject by operator, the identity as the last."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.influence_charts import influence_maps
from interp.results.latent_charts import of_subject, subjects_of
from interp.results.latent_findings import influence_finding
from interp.results.report_stats import Finding, Row

TABLES = ("influence",)
ALSO = ("influence_test",)
"""Tables of a run that `figure` takes, in this order; the last may be missing."""


def figure(rows: Sequence[Row], tests: Sequence[Row] = ()) -> go.Figure:
    """Draw W[t, s] of every subject and operator on one colour scale, intervals in hover texts.

    Raises:
        NothingToDraw: the rows are of the released preset, which `latent_released` draws.
    """
    own = [row for row in rows if row.get("preset", "default") == "default"]
    if not own:
        raise NothingToDraw("its matrices are of the diagnostic preset")

    def tell(mine: Sequence[Row]) -> Finding | None:
        return influence_finding(mine, of_subject(tests, subjects_of(mine)[0]))

    return told(influence_maps(own), own, tell, "Influence W[t, s]")
