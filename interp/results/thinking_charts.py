"""Charts of the True-Thinking direction: its length, steering by layer, score bins, self-checks.

Each takes rows as a run stores them and returns a dictionary in Plotly's own format, which the
report embeds and the figures draw. Every point is a number of a row or a mean named in the axis.

Source of the pictures: Zhao et al. 2025, arXiv:2510.24941.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.results.report_charts import (
    AMBER,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    LEGEND_BELOW,
    PURPLE,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    beside,
    layout,
    plain,
)
from interp.results.report_stats import Row

Look = tuple[str, str, str, str]
"""The label, the colour, the dash of the line and the symbol of its points."""

ARMS: Mapping[str, Look] = {
    "random": ("Random directions: mean and range", GREY, "solid", "square"),
    "shuffled": ("Shuffled labels: mean and range", AMBER, "dash", "diamond"),
    "shuffled_stretched": ("The same, at its length", BROWN, "longdash", "cross"),
    "attention_scale": ("Attention scaled", PURPLE, "dot", "triangle-up"),
    "attention_mask": ("Attention masked", GREEN, "dot", "triangle-down"),
    "drop_step": ("Step left out (no layer)", VERMILION, "dashdot", "line-ew"),
    "direction": ("TrueThinking direction", BLUE, "solid", "circle"),
}
"""How each arm of the steering tests is drawn, in the order in which they are laid down."""

TESTS = {"engage": "Engagement: direction added", "disengage": "Disengagement: taken away"}
"""What the panel of each test is called."""

BINS = ("#08306b", BLUE, GREEN, AMBER, SILVER)
"""Colours of score bins, the highest first."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
LAYER = "Layer (last: the final output)"
SHARE: Spec = {"tickformat": ".0%"}


def line(rows: Sequence[Row], x: str, y: str, look: Look, **more: Any) -> Spec:
    """Return one line with its points; rows without a value leave a gap."""
    name, colour, dash, symbol = look
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "legendgroup": plain(name),
        "x": [row[x] for row in rows],
        "y": [row[y] for row in rows],
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 7, "symbol": symbol, "color": colour},
        "hovertemplate": f"%{{x}}: %{{y:.3f}}<extra>{plain(name)}</extra>",
        **more,
    }


def bars(rows: Sequence[Row], value: str, low: str, high: str) -> Spec:
    """Return the error bars of a line: an interval, and nothing where a row has none."""
    ends = [(row[low], row[value], row[high]) for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [None if None in each else each[2] - each[1] for each in ends],
        "arrayminus": [None if None in each else each[1] - each[0] for each in ends],
        "thickness": 1.3,
        "width": 4,
    }


def _top(values: Iterable[float | None]) -> list[float]:
    """A range of shares from 0 to above the largest, at least a tenth."""
    largest = max([0.1, *(value for value in values if value is not None)])
    return [-0.02 * largest, 1.12 * largest]


def _layers(rows: Sequence[Row]) -> Spec:
    """An axis of layers with whole ticks."""
    found = sorted({row["layer"] for row in rows if row["layer"] is not None})
    few = {"tickvals": found, "ticktext": [str(each) for each in found]} if len(found) <= 9 else {}
    return {**axis_title(LAYER), **few}


# ---------------------------------------------------------------- direction


def norm_chart(rows: Sequence[Row]) -> Spec:
    """Draw the length of the direction at each layer beside that of shuffled labels."""
    ordered = [{**row, "layer": layer_of(row["site"])} for row in rows]
    ordered.sort(key=lambda row: row["layer"])
    lines = [line(ordered, "layer", "norm", ("Direction", BLUE, "solid", "circle"))]
    known = [row for row in ordered if row["shuffled_norm"] is not None]
    if known:
        look = ("Shuffled labels, mean", AMBER, "dash", "diamond")
        lines.append(line(known, "layer", "shuffled_norm", look))
    y = {**axis_title("Length of the difference of means"), "rangemode": "tozero"}
    x = {**_layers(ordered), **axis_title("Input of layer (last: the final output)")}
    return {"data": lines, "layout": layout(x, y)}


def layer_of(site: str) -> int:
    """Return the layer whose input a site is; the final output counts as one more layer.

    >>> layer_of("3.resid_pre"), layer_of("3.resid_post")
    (3, 4)
    """
    layer, _, component = site.partition(".")
    return int(layer) + (component == "resid_post")


# ---------------------------------------------------------------- steering


def layer_panels(curves: Sequence[Row], results: Sequence[Row]) -> Spec:
    """Draw the flips of every arm by layer, on the test split, a panel for each test.

    Twins of an arm (random directions, shuffled labels) are a band from the least to the greatest
    at each layer, around their mean. A ring with its interval marks the direction's chosen layer.
    """
    tests = [test for test in TESTS if any(row["test"] == test for row in curves)]
    panels = [layer_chart(curves, results, test) for test in tests]
    if len(panels) < 2:
        return panels[0]
    return beside(panels[0], panels[1], (TESTS["engage"], TESTS["disengage"]))


def layer_chart(curves: Sequence[Row], results: Sequence[Row], test: str) -> Spec:
    """Draw one test: see `layer_panels`."""
    mine = [row for row in curves if row["test"] == test and row["split"] == "test"]
    drawn: list[Spec] = []
    for arm, look in ARMS.items():
        own = sorted((r for r in mine if r["arm"] == arm), key=lambda r: r["layer"] or 0)
        twins = [row for row in own if row["twin"] is not None]
        drawn += band(twins, look)
        mean = [row for row in own if row["twin"] is None]
        if arm == "drop_step":
            mean = _across(mean, mine)
        drawn += [line(mean, "layer", "flips", look)] if mean else []
    drawn += _chosen(results, test)
    y = {**axis_title("Answers flipped"), **SHARE, "range": _top(_highest(mine, results, test))}
    return {"data": drawn, "layout": layout(_layers(mine), y, height=440, **LEGEND_BELOW)}


def _highest(curves: Sequence[Row], results: Sequence[Row], test: str) -> list[float | None]:
    ends = [r["flips_high"] for r in results if (r["test"], r["arm"]) == (test, "direction")]
    return [*(row["flips"] for row in curves), *ends]


def band(twins: Sequence[Row], look: Look) -> list[Spec]:
    """Return the range of several twins at each layer, as one closed shape; nothing without twins.

    >>> rows = [{"layer": 0, "flips": 0.5}, {"layer": 0, "flips": 0.25}, {"layer": 2, "flips": 0}]
    >>> shape, = band(rows, ("Twins", "#6b7480", "solid", "circle"))
    >>> shape["x"], shape["y"]
    ([0, 2, 2, 0], [0.25, 0, 0, 0.5])
    """
    layers = sorted({row["layer"] for row in twins})
    if not layers:
        return []
    ends = [[row["flips"] for row in twins if row["layer"] == layer] for layer in layers]
    around, (name, colour, _, _) = [*layers, *reversed(layers)], look
    heights = [*map(min, ends), *reversed([*map(max, ends)])]
    alone = {"mode": "lines", "line": {"color": colour, "width": 4 if len(layers) == 1 else 0}}
    return [
        {
            "type": "scatter",
            "name": plain(name),
            "legendgroup": plain(name),
            "showlegend": False,
            "x": around,
            "y": heights,
            "fill": "toself",
            "fillcolor": _pale(colour),
            "hoverinfo": "skip",
            **alone,
        }
    ]


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _across(rows: Sequence[Row], every: Sequence[Row]) -> list[dict[str, Any]]:
    """A row without a layer at both ends of the axis, so that it is a level line."""
    layers = [row["layer"] for row in every if row["layer"] is not None] or [0]
    return [{**row, "layer": end} for row in rows for end in sorted({min(layers), max(layers)})]


def _chosen(results: Sequence[Row], test: str) -> list[Spec]:
    """The ring at the layer that the selection split chose, with its interval."""
    found = [
        row
        for row in results
        if (row["test"], row["arm"], row["twin"]) == (test, "direction", None)
        and row["flips"] is not None
    ]
    ring = {"size": 15, "symbol": "circle-open", "color": VERMILION, "line": {"width": 2.5}}
    look = ("Layer chosen on other problems, 95% interval", VERMILION, "solid", "circle-open")
    more = {"mode": "markers", "marker": ring}
    more |= {"error_y": bars(found, "flips", "flips_low", "flips_high")}
    return [line(found, "layer", "flips", look, **more)] if found else []


# ---------------------------------------------------------------- score bins


def bin_panels(rows: Sequence[Row], curves: Sequence[Row]) -> Spec:
    """Draw what stays right by layer for each bin's direction, and the flips of each bin.

    The flips are those of the test split with their intervals; bins that were skipped have none.
    """
    names = [plain(row["bin"]) for row in rows]
    fitted = [{**row, "bin": plain(row["bin"])} for row in rows if row["flips"] is not None]
    look = ("Flips on the test problems, 95% interval", BLUE, "solid", "circle")
    error = bars(fitted, "flips", "flips_low", "flips_high")
    marker = {"size": 10, "color": BLUE}
    dots = line(fitted, "bin", "flips", look, mode="markers", error_y=error, marker=marker)
    x = {**axis_title("TTS of the steps that the direction is from"), "type": "category"}
    x |= {"categoryorder": "array", "categoryarray": names[::-1], "range": [-0.5, len(names) - 0.5]}
    x |= {"tickangle": 0, "tickfont": {"size": 11}}
    y = {**axis_title("Answers flipped"), **SHARE}
    y |= {"range": _top([row["flips_high"] or row["flips"] for row in fitted])}
    right = {"data": [dots], "layout": layout(x, y, height=440, **LEGEND_BELOW)}
    if not curves:
        return right
    titles = ("All problems, by layer", "Layer chosen on other problems")
    return beside(_bin_curves(names, curves), right, titles, split=0.46)


def _bin_curves(names: Sequence[str], curves: Sequence[Row]) -> Spec:
    looks = [(name, BINS[i % 5], "solid", SYMBOLS[i % 5]) for i, name in enumerate(names)]
    lines = []
    for look in looks:
        mine = sorted(
            (r for r in curves if plain(r["bin"]) == look[0]), key=lambda row: row["layer"]
        )
        shown = {"name": f"TTS in {look[0]}", "legendgroup": look[0]}
        lines += [line(mine, "layer", "accuracy", look, **shown)] if mine else []
    y = {**axis_title("Answers that stay y*"), **SHARE, "range": [-0.02, 1.04]}
    return {"data": lines, "layout": layout(_layers(curves), y, height=440, **LEGEND_BELOW)}


# ---------------------------------------------------------------- two legs


def quadrant_map(lines: Sequence[Row]) -> Spec:
    """Draw the rows of `step_profiles.two_leg_table` as a table of two by two."""
    by_name = {row["name"]: row for row in lines}
    names = (("neither", "suf only"), ("nec only", "both"))
    cells = [[by_name[name] for name in line] for line in names]
    heat = {
        "type": "heatmap",
        "x": ["low", "high"],
        "y": ["low", "high"],
        "z": [[row["estimate"] for row in line] for line in cells],
        "text": [[_share_text(row) for row in line] for line in cells],
        "texttemplate": "%{text}",
        "textfont": {"size": 15},
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#ffffff"], [1, "#6aaad4"]],
        "showscale": False,
        "xgap": 3,
        "ygap": 3,
        "hoverinfo": "skip",
    }
    x = {**axis_title("Sufficiency"), "type": "category", "showgrid": False}
    y = {**axis_title("Necessity"), "type": "category", "showgrid": False}
    return {"data": [heat], "layout": layout(x, y, height=440)}


def _share_text(row: Row) -> str:
    if row["low"] is None:
        return f"{row['estimate']:.0%}<br>no interval"
    return f"{row['estimate']:.0%}<br>{row['low']:.0%} to {row['high']:.0%}"


# ---------------------------------------------------------------- self-checks


def check_panels(segments: Sequence[Row], tests: Sequence[Row], restored: Sequence[Row]) -> Spec:
    """Draw how many self-checks are used and decorative, and what steering restores by layer."""
    counts = check_counts(segments, tests)
    names, values = [name for name, _ in counts], [n for _, n in counts]
    colours = [{"T": BLUE, "B": GREEN}[name[0]] for name in names]
    shown: Spec = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": names,
        "text": [str(n) for n in values],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": colours},
        "showlegend": False,
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    x = {**axis_title("Self-checks (segments)"), "range": [0, 1.15 * max(1, *values)]}
    x |= {"tickformat": "d", "nticks": 5}
    left = {"data": [shown], "layout": layout(x, {"autorange": "reversed"}, height=440)}
    if not restored:
        return {**left, "layout": {**left["layout"], "height": 320}}
    y = {**axis_title("Checks that end in y* again"), **SHARE}
    y |= {"range": _top(row["restored"] for row in restored)}
    lines = []
    for arm in ("random", "direction"):
        mine = sorted((r for r in restored if r["arm"] == arm), key=lambda row: row["layer"])
        name = "Random directions: mean" if arm == "random" else ARMS[arm][0]
        lines += [line(mine, "layer", "restored", (name, *ARMS[arm][1:]))] if mine else []
    right = {"data": lines, "layout": layout(_layers(restored), y, height=440)}
    return beside(left, right, ("Counts", "Restored by adding the direction"), split=0.45)


def check_counts(segments: Sequence[Row], tests: Sequence[Row]) -> list[tuple[str, int]]:
    """Count the segments by their score, and the behavioural tests by their outcome."""
    scored = [row["decorative"] for row in segments if row["decorative"] is not None]
    informative = [row["used"] for row in tests if row["informative"]]
    return [
        ("TTS: decorative", sum(scored)),
        ("TTS: not decorative", len(scored) - sum(scored)),
        ("Behaviour: not used", len(informative) - sum(informative)),
        ("Behaviour: used", sum(informative)),
        ("Behaviour: says nothing", len(tests) - len(informative)),
    ]
