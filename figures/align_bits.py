"""Description length: bits per pair of each map, network beside random twin and rival."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from interp.results.align_charts import bits_bars
from interp.results.align_findings import at, bits_finding, chance_bits, places_of
from interp.results.report_stats import Finding, Row

TABLES = ("align_bits",)
"""Tables of a run that `figure` takes."""
ALSO = ("align_verdicts",)
"""Those that may be missing."""


def figure(bits: Sequence[Row], verdicts: Sequence[Row] = ()) -> go.Figure:
    """Draw the bits per pair of each map's place; a dotted line is a label without a rule."""
    chance = chance_bits(verdicts)
    each = [bits_finding(place, at(bits, place), chance) for place in places_of(bits)]
    both = Finding(each[0].title, " ".join([each[0].detail, *(f.title for f in each[1:])]))
    return told(bits_bars(bits, chance), both)
