"""What swapping a digit of an operand costs each digit of the answer, network by network."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from interp.results.align_networks import swap_finding, swap_maps
from interp.results.report_stats import Row

TABLES = ("heat_maps",)
"""Tables that `figure` takes."""
ALSO = ("digits",)
"""Those that may be missing."""


def figure(rows: Sequence[Row], digits: Sequence[Row] = ()) -> go.Figure:
    """Draw a map for each network and prefix; the digits that cannot matter are the control."""
    return told(swap_maps(rows), swap_finding(rows, digits))
