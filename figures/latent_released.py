"""DIAGNOSTIC: what the released definitions give, beside ours and beside an edit of nothing."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.influence_charts import released_panels
from interp.results.latent_charts import of_subject, subjects_of
from interp.results.latent_findings import released_finding
from interp.results.report_charts import VERMILION
from interp.results.report_stats import Finding, Row

TABLES = ("released_influence_shape", "influence_shape")
"""Tables of a study that `figure` takes, in its order: of both definitions, so of two parts."""


def figure(released: Sequence[Row], ours: Sequence[Row]) -> go.Figure:
    """Draw sum and shape of W by both definitions, a cross for what the identity gives by each.

    Subjects without rows of both are left out.

    Raises:
        NothingToDraw: no subject has both.
    """
    both = [name for name in subjects_of(released) if of_subject(ours, name)]
    mine, own = (
        [r for r in rows if str(r.get("subject") or "") in both] for rows in (released, ours)
    )
    if not both:
        raise NothingToDraw("no subject has both definitions")

    def tell(rows: Sequence[Row]) -> Finding | None:
        return released_finding(of_subject(own, subjects_of(rows)[0]), rows)

    drawn = told(released_panels(own, mine), mine, tell, "DIAGNOSTIC: the released definitions")
    return drawn.update_layout(title={"font": {"color": VERMILION}})
