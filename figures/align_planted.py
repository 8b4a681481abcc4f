"""Planted networks: IIA for the planted algorithm beside that for another of the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_figures import is_planted, planted_bars, planted_finding
from interp.results.align_reference import compare
from interp.results.report_stats import Row

TABLES = ("align_fits", "published")
"""Tables that `figure` takes, in its order."""


def figure(fits: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> go.Figure:
    """Draw right against wrong, a panel for each planted algorithm.

    Raises:
        NothingToDraw: no network has a planted algorithm.
    """
    mine = [row for row in fits if is_planted(row)]
    if not mine:
        raise NothingToDraw("no network has a planted algorithm")
    cells = compare(mine, reference)
    return told(planted_bars(cells), planted_finding(mine, cells))
