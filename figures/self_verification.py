"""Self-checks: how many are used, and how many the direction brings back, by layer."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.titled import titled
from interp.results import thinking_findings as said
from interp.results.report_stats import Finding, Row
from interp.results.thinking_charts import check_panels

TABLES = ("check_segments",)
ALSO = ("check_tests", "check_restored")
"""Tables of a run that `figure` takes, in this order; the last two may be missing."""


def figure(
    segments: Sequence[Row], tests: Sequence[Row] = (), restored: Sequence[Row] = ()
) -> go.Figure:
    """Draw the counts of self-checks, and what adding the direction restores at each layer."""
    found = said.check_findings(segments, tests, restored)
    rest = [found[0].detail, *(f"{each.title} {each.detail}" for each in found[1:])]
    told = Finding(found[0].title, " ".join(rest))
    return titled(check_panels(segments, tests, restored), told)
