"""IIA by layer and map: interval, random twin, rival, best baseline and published values beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from figures.align_study import told
from interp.results.align_charts import iia_bars
from interp.results.align_figures import iia_finding, with_published
from interp.results.report_stats import Row

TABLES = ("align_fits",)
"""Tables of a run that `figure` takes."""
ALSO = ("align_verdicts", "align_baselines", "published")
"""Those that may be missing."""


def figure(
    fits: Sequence[Row],
    verdicts: Sequence[Row] = (),
    baselines: Sequence[Row] = (),
    reference: Sequence[Mapping[str, str]] = (),
) -> go.Figure:
    """Draw test IIA by site, a panel a map, with train IIA as a mark on the bar."""
    spec = with_published(iia_bars(fits, verdicts, baselines), fits, verdicts, reference)
    return told(spec, iia_finding(fits, verdicts))
