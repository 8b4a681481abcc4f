"""Probes of running sums beside every baseline, and whether the answer follows edits along them."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from interp.results.align_networks import probe_finding, probe_panels
from interp.results.report_stats import Row

TABLES = ("probes",)
"""Tables that `figure` takes."""
ALSO = ("read_outs",)
"""Those that may be missing."""


def figure(rows: Sequence[Row], read_outs: Sequence[Row] = ()) -> go.Figure:
    """Draw errors left and edits right, a line of panels a network, verdicts below."""
    return told(probe_panels(rows, read_outs), probe_finding(rows))
