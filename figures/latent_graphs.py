"""The principal graph of every subject and operator: the strongest edge from each latent step."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.latent_study import told
from figures.titled import NothingToDraw
from interp.results.influence_charts import influence_graphs
from interp.results.latent_findings import influence_finding
from interp.results.report_stats import Row

TABLES = ("influence_graph", "influence")
"""Tables of a run that `figure` takes, in its order."""


def figure(edges: Sequence[Row], rows: Sequence[Row]) -> go.Figure:
    """Draw the principal graphs, the other edges of W pale behind them.

    Raises:
        NothingToDraw: there is no edge, or the rows are of the released preset.
    """
    own = [row for row in rows if row.get("preset", "default") == "default"]
    if not own or not edges:
        raise NothingToDraw("no edge is of sound read-outs")
    return told(influence_graphs(edges, own), own, influence_finding, "Principal graphs")
