"""Operator by step: how many answers each edit flips, as a map."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.latent_charts import operator_map
from interp.results.latent_findings import necessity_finding
from interp.results.report_stats import Row

TABLES = ("necessity",)
"""Tables of a run that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw the flips of every operator at every step, a panel a subject on one scale.

    Raises:
        NothingToDraw: no edit could act.
    """
    if not any(row["flip"] is not None for row in rows):
        raise NothingToDraw("no edit could act")
    return told(operator_map(rows), rows, necessity_finding, "Answers flipped, operator by step")
