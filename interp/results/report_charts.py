"""Plotly figures of step scores, as plain dictionaries in Plotly's own format.

A dictionary needs no plotting library, is the same bytes each time, and is what a page embeds;
`plotly.graph_objects.Figure` accepts it as well. Text from a model is escaped by `plain`, since
Plotly reads tags in labels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from interp.results.report_stats import (
    Step,
    bin_counts,
    bin_labels,
    by_position,
    mean,
)

Spec = dict[str, Any]

INK, GRID, GREY, SILVER = "#1c2430", "#e4e7eb", "#6b7480", "#b4bbc4"
BLUE, AMBER, VERMILION = "#2b7bba", "#e8a33d", "#c8500a"
GREEN, PURPLE, BROWN = "#12876a", "#8a5aa8", "#8c5a3c"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
DIVERGING = [
    [0.0, "#b35806"],
    [0.25, "#f1a340"],
    [0.5, "#f7f7f7"],
    [0.75, "#67a9cf"],
    [1.0, "#053061"],
]


def plain(text: object, width: int = 60) -> str:
    """Escape a text for a Plotly label, and cut it to `width` characters.

    >>> plain("<b>x</b> & y")
    '&lt;b&gt;x&lt;/b&gt; &amp; y'
    """
    words = str(text)
    return html.escape(words if len(words) <= width else words[: width - 1] + "…", quote=False)


def layout(x: Spec, y: Spec, *, height: int = 400, **more: Any) -> Spec:
    """Return the layout that every chart shares, with the two axes given."""
    axis = {"gridcolor": GRID, "linecolor": GREY, "zeroline": False, "automargin": True}
    return {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 48, "b": 56},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        **more,
    }


def axis_title(text: str) -> Spec:
    """Return the axis entry that writes a title."""
    return {"title": {"text": text, "font": {"size": 13}}}


def beside(left: Spec, right: Spec, titles: tuple[str, str], *, split: float = 0.5) -> Spec:
    """Return two charts as the panels of one, with one legend below both.

    `split` is where the right one begins, as a share of the width. A name that both have stands in
    the legend once.
    """
    gap = 0.075
    names = {trace.get("name") for trace in left["data"]}
    data = [*left["data"]]
    for trace in right["data"]:
        known = {"showlegend": False} if trace.get("name") in names else {}
        data.append({**trace, **known, "xaxis": "x2", "yaxis": "y2"})
    axes = {f"{axis}2": {**right["layout"][axis]} for axis in ("xaxis", "yaxis")}
    axes["xaxis2"] |= {"domain": [split + gap, 1], "anchor": "y2"}
    axes["yaxis2"] |= {"anchor": "x2"}
    merged = {**left["layout"], **axes}
    merged["xaxis"] = {**left["layout"]["xaxis"], "domain": [0, split - gap / 2]}
    words = {"xref": "paper", "yref": "paper", "y": 1.02, "yanchor": "bottom", "xanchor": "left"}
    words |= {"showarrow": False, "font": {"size": 14}}
    starts = (0, split + gap)
    heads = [{**words, "x": x, "text": text} for x, text in zip(starts, titles, strict=True)]
    return {"data": data, "layout": {**merged, **LEGEND_BELOW, "annotations": heads}}


LEGEND_BELOW: Spec = {
    "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    "margin": {"l": 56, "r": 16, "t": 48, "b": 120},
}
"""Layout entries that put the legend under the chart."""


def histogram(steps: Sequence[Step]) -> Spec:
    """Count steps by score, with the two controls beside them in the same bins."""
    nulls = [step.null for step in steps if step.null is not None]
    randoms = [step.random for step in steps if step.random is not None]
    scores = [step.tts for step in steps]
    numbers = {"text": [str(n) for n in bin_counts(scores)], "textposition": "outside"}
    numbers |= {"textangle": 0, "constraintext": "none", "cliponaxis": False}
    bars = [_bars("Steps", scores, BLUE) | numbers]
    bars += [_bars("Control: null rewrite", nulls, AMBER)] if nulls else []
    bars += [_bars("Control: random step", randoms, SILVER)] if randoms else []
    x = {**axis_title("TTS (probability scale; bins of unequal width)"), "type": "category"}
    x |= {"categoryorder": "array", "categoryarray": bin_labels()}
    y = {**axis_title("Number of steps"), "rangemode": "tozero"}
    return {"data": bars, "layout": layout(x, y, bargap=0.2, bargroupgap=0.05)}


def _bars(name: str, scores: Sequence[float], colour: str) -> Spec:
    return {
        "type": "bar",
        "name": name,
        "x": bin_labels(),
        "y": bin_counts(scores),
        "marker": {"color": colour},
        "hovertemplate": f"{name}: %{{y}} with TTS %{{x}}<extra></extra>",
    }


def position_chart(steps: Sequence[Step], n_bins: int = 5) -> Spec:
    """Draw the mean score along the chain, with its interval over problems and the null's mean."""
    found = by_position(steps, n_bins)
    labels = [f"{100 * i // n_bins} to {100 * (i + 1) // n_bins}%" for i, _ in found]
    points = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "Mean TTS, 95% interval over problems",
        "x": labels,
        "y": [score.estimate for _, score in found],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [_reach(score.estimate, score.high) for _, score in found],
            "arrayminus": [_reach(score.estimate, score.low) for _, score in found],
            "thickness": 1.5,
        },
        "line": {"color": BLUE, "width": 2},
        "marker": {"size": 9},
        "hovertemplate": "%{x} of the chain: mean TTS %{y:.3f}<extra></extra>",
    }
    null = mean([step.null for step in steps if step.null is not None])
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "Null rewrite, mean",
        "x": labels,
        "y": [null] * len(labels),
        "line": {"color": VERMILION, "width": 1.5, "dash": "dot"},
        "hovertemplate": "Null rewrite: mean TTS %{y:.3f}<extra></extra>",
    }
    x = {**axis_title("Place in the chain (start of the step)"), "type": "category"}
    y = {**axis_title("Mean TTS (probability scale)"), "rangemode": "tozero"}
    return {"data": [points] + ([line] if null is not None else []), "layout": layout(x, y)}


def _reach(estimate: float, end: float | None) -> float | None:
    return None if end is None else abs(end - estimate)


def legs_chart(steps: Sequence[Step]) -> Spec:
    """Draw the two signed legs of every step against each other."""
    groups = {
        "Other steps": [s for s in steps if "harmful" not in s.flags],
        "Harmful steps": [s for s in steps if "harmful" in s.flags],
    }
    looks = {"Other steps": (BLUE, "circle"), "Harmful steps": (VERMILION, "triangle-down")}
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [step.nec for step in group],
            "y": [step.suf for step in group],
            "text": [f"{plain(s.problem, 30)}, step {s.step + 1}" for s in group],
            "marker": {
                "color": looks[name][0],
                "symbol": looks[name][1],
                "size": 9,
                "opacity": 0.7,
            },
            "hovertemplate": "%{text}<br>necessity %{x:.3f}, sufficiency %{y:.3f}<extra></extra>",
        }
        for name, group in groups.items()
        if group
    ]
    ends = {"range": [-1.05, 1.05], "zeroline": True, "zerolinecolor": GREY, "dtick": 0.5}
    x = {**axis_title("Necessity: change of Pr(y*), context intact"), **ends}
    y = {**axis_title("Sufficiency: the same, context perturbed"), **ends}
    return {"data": traces, "layout": layout(x, y, height=400)}


def visible(token: str) -> str:
    """Show a token's blanks in a label: a dot for a space, an arrow for a line break.

    >>> visible(" the"), visible(chr(10))
    ('·the', '⏎')
    """
    return plain(blanks(token), 14)


def blanks(token: str) -> str:
    """Show a token's blanks, with nothing escaped.

    >>> blanks(" <b>")
    '·<b>'
    """
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
