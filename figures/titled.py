"""What the figures of a run share: a finding as the title, above a chart of the report."""

from __future__ import annotations

from textwrap import wrap

import plotly.graph_objects as go

from interp.errors import InputError
from interp.results.report_charts import Spec, plain
from interp.results.report_stats import Finding

WIDTH = 900
TITLE, DETAIL = 96, 128
"""Pixels across, and characters of a line of the title and of the words under it."""
BELOW = 4
"""Lines of the words under the title, at most; the report has all of them."""


class NothingToDraw(InputError):
    """The records hold no number for this figure, which is no fault of theirs."""


def titled(spec: Spec, found: Finding, *, height: int = 480) -> go.Figure:
    """Return a chart with a finding above it; the chart keeps its height below the words.

    >>> titled({"data": [], "layout": {}}, Finding("Found.", "Surely.")).layout.title.text
    'Found.'
    """
    title = wrap(found.title, TITLE)
    detail = wrap(found.detail, DETAIL, max_lines=BELOW, placeholder=" …")
    text, under = ("<br>".join(plain(each, DETAIL) for each in part) for part in (title, detail))
    above = 30 + 22 * len(title) + 16 * len(detail)
    place = {
        "x": 0.01,
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 12 + 14 * (len(title) - 1)},
    }
    words = {"text": text, "font": {"size": 17}, **place}
    words["subtitle"] = {"text": under, "font": {"size": 13}}
    drawn, room = go.Figure(spec), max(height, above + 390)
    drawn.update_layout(template="none", title=words, width=WIDTH, height=room)
    return drawn.update_layout(margin={"t": above + 26, "l": 76, "r": 24})
