"""Attacks on a model of legal moves, random moves beside them, and what edits of the board do."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_networks import attack_finding, attack_panels
from interp.results.report_stats import Row

TABLES = ("rows",)
"""Tables that `figure` takes."""


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw the success of each attack with its interval, and agreement with boards after edits.

    Raises:
        NothingToDraw: no row is of an attack.
    """
    if not any(row["kind"] == "attack" for row in rows):
        raise NothingToDraw("no row is of an attack")
    return told(attack_panels(rows), attack_finding(rows))
