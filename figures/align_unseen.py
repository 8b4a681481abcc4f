"""Unseen identities: IIA on seen and unseen ones, network beside random twin, map by map."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from figures.align_study import told
from figures.titled import NothingToDraw
from interp.results.align_figures import unseen_bars, unseen_finding, unseen_rows
from interp.results.report_stats import Row

TABLES = ("align_fits", "align_verdicts")
"""Tables of a run that `figure` takes, in its order."""


def figure(fits: Sequence[Row], verdicts: Sequence[Row]) -> go.Figure:
    """Draw IIA at the site of each verdict, on identities that fitting saw and did not see.

    Raises:
        NothingToDraw: the task holds no identities out.
    """
    if not unseen_rows(fits, verdicts):
        raise NothingToDraw("no identity was held out")
    return told(unseen_bars(fits, verdicts), unseen_finding(fits, verdicts))
