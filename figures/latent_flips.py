"""Which latent steps the answer needs: answers flipped by edit and step, the null beside."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.latent_charts import flip_bars
from interp.results.latent_findings import necessity_finding
from interp.results.report_stats import Row

TABLES = ("necessity",)
"""Tables of a run that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw the share of answers that each edit flips at each step, with Wilson intervals.

    Raises:
        NothingToDraw: no edit could act.
    """
    if not any(row["flip"] is not None for row in rows):
        raise NothingToDraw("no edit could act")
    return told(flip_bars(rows), rows, necessity_finding, "Answers flipped, by edited step")
