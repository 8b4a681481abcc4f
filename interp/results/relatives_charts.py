"""Charts of pruned chains and of the relatives of the True-Thinking Score.

Each takes rows as a run stores them and returns a dictionary in Plotly's own format, which the
report embeds and the figures draw.

Source of the pictures: Zhao et al. 2026, arXiv:2510.24941 version 4 (pruning); Lanham et al. 2023,
arXiv:2307.13702 (early answering).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from interp.results.report_charts import (
    AMBER,
    BLUE,
    DIVERGING,
    GREY,
    LEGEND_BELOW,
    PURPLE,
    Spec,
    axis_title,
    beside,
    layout,
    plain,
)
from interp.results.report_stats import Row, interval, number
from interp.results.thinking_charts import SHARE, Look, bars, line
from interp.stats import Interval

METHODS: Mapping[str, Look] = {
    "random": ("Random steps", GREY, "dash", "square"),
    "last": ("The last steps", AMBER, "dot", "diamond"),
    "signed": ("Highest signed legs", PURPLE, "dashdot", "triangle-up"),
    "tts": ("Highest TTS", BLUE, "solid", "circle"),
}
"""How each way to prune is drawn."""


# ---------------------------------------------------------------- pruning


def keep_panels(curves: Sequence[Row]) -> Spec:
    """Draw the share of answers kept and of tokens left, by the share of steps kept."""
    left, right = (keep_chart(curves, measure) for measure in ("same", "tokens"))
    return beside(left, right, ("Answers that stay y*", "Tokens left"), split=0.5)


def keep_chart(curves: Sequence[Row], measure: str) -> Spec:
    """Draw one measure of pruned chains, with intervals over problems."""
    lines = []
    for method, look in METHODS.items():
        mine = [row for row in curves if (row["method"], row["measure"]) == (method, measure)]
        mine.sort(key=lambda row: row["fraction"])
        error = bars(mine, "mean_estimate", "mean_low", "mean_high")
        lines += [line(mine, "fraction", "mean_estimate", look, error_y=error)] if mine else []
    x = {**axis_title("Steps kept"), **SHARE, "range": [-0.04, 1.04]}
    title = "Share of chains" if measure == "same" else "Share of the chain's tokens"
    y = {**axis_title(title), **SHARE, "range": [-0.04, 1.06]}
    return {"data": lines, "layout": layout(x, y, height=440, **LEGEND_BELOW)}


# ---------------------------------------------------------------- relatives


def agreement_map(rows: Sequence[Row]) -> Spec:
    """Draw the rank correlation of every pair of measures; brackets mark what chance explains.

    The interval, the chance level and the problems of a pair stand in its hover text.
    """
    names = list(dict.fromkeys(name for row in rows for name in (row["a"], row["b"])))
    pairs = {(row["a"], row["b"]): row for row in rows}
    pairs |= {(b, a): row for (a, b), row in pairs.items()}
    cells = [[pairs.get((a, b)) for b in names] for a in names]
    heat = {
        "type": "heatmap",
        "x": list(range(len(names))),
        "y": list(range(len(names))),
        "z": [[row["rho"] if row else None for row in line] for line in cells],
        "text": [[rho_text(row) if row else "" for row in line] for line in cells],
        "hovertext": [[_rho_hover(row) if row else "itself" for row in line] for line in cells],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "zmin": -1,
        "zmax": 1,
        "colorscale": DIVERGING,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "Rank correlation", "side": "right"}, "thickness": 14},
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    words = [plain(measure_name(name), 26) for name in names]
    ticks = {"tickvals": heat["x"], "ticktext": words, "showgrid": False}
    x, y = {**ticks, "tickangle": -35}, {**ticks, "autorange": "reversed"}
    height = 200 + 30 * max(len(names), 6)
    margin = {"l": 56, "r": 16, "t": 24, "b": 56}
    return {"data": [heat], "layout": layout(x, y, height=height, margin=margin)}


def measure_name(measure: str) -> str:
    """Return what a reader sees of a measure.

    >>> measure_name("tts"), measure_name("leave_one_out")
    ('TTS', 'leave one out')
    """
    known = {"tts": "TTS", "nec": "necessity", "suf": "sufficiency"}
    return known.get(measure, measure.replace("_", " "))


def beyond_chance(row: Row) -> bool:
    """Whether a pair agrees more than shuffled steps do, and its interval excludes 0."""
    return _apart(row) and row["rho"] > 0


def _apart(row: Row) -> bool:
    """Whether a correlation, of either sign, is larger than chance's and its interval leaves 0."""
    if None in (row["rho"], row["chance"], row["low"]):
        return False
    return abs(row["rho"]) > row["chance"] and (row["low"] > 0 or row["high"] < 0)


def rho_text(row: Row) -> str:
    """Return what a cell shows: the correlation, in brackets where chance explains it.

    >>> rho_text({"rho": 0.1, "chance": 0.25, "low": 0.05, "high": 0.2})
    '(0.10)'
    >>> rho_text({"rho": 0.5, "chance": 0.25, "low": 0.3, "high": 0.7})
    '0.50'
    """
    if row["rho"] is None:
        return "none"
    text = number(row["rho"], 2)
    return text if _apart(row) else f"({text})"


def _rho_hover(row: Row) -> str:
    pair = f"{plain(measure_name(row['a']))} and {plain(measure_name(row['b']))}"
    if row["rho"] is None:
        return f"{pair}<br>{plain(row['warning'] or 'no correlation', 90)}"
    ends = f"{number(row['low'], 2)} to {number(row['high'], 2)}"
    about = f"chance reaches {number(row['chance'], 2)}; {row['n_problems']} problems"
    return f"{pair}<br>{number(row['rho'], 2)} (95% interval {ends})<br>{about}"


def early_profile(
    points: Sequence[Row], n_parts: int = 4
) -> list[tuple[float, Interval, Interval]]:
    """Return what a stop after each share of a chain gives: Pr(y*), and how often the final answer.

    A share of n steps is rounded down to whole steps, so 0 is no chain. Points without a
    probability are left out. Means over chains, intervals over problems.
    """
    table = {(row["id"], row["kept"]): row for row in points if row["logprob"] is not None}
    sizes = {row["id"]: row["n_steps"] for row in points}
    found = []
    for part in range(n_parts + 1):
        there = [table.get((name, part * size // n_parts)) for name, size in sizes.items()]
        rows = [row for row in there if row is not None]
        mean = interval([(math.exp(row["logprob"]), row["id"]) for row in rows])
        final = interval([(float(row["final"]), row["id"]) for row in rows])
        if mean is not None and final is not None:
            found.append((part / n_parts, mean, final))
    return found


def early_chart(points: Sequence[Row], n_parts: int = 4) -> Spec:
    """Draw Pr(y*) and the share of final answers by how much of the chain has been written."""
    profile = early_profile(points, n_parts)
    means = [_point(at, mean) for at, mean, _ in profile]
    final = [_point(at, share) for at, _, share in profile]
    looks = [
        ("Pr(y*), mean over chains", BLUE, "solid", "circle"),
        ("Chains with their final answer", AMBER, "dash", "diamond"),
    ]
    lines = [
        line(rows, "at", "mean", look, error_y=bars(rows, "mean", "low", "high"))
        for rows, look in zip((means, final), looks, strict=True)
    ]
    lines[0]["marker"]["size"] = 12  # where the two meet, both are seen
    x = {**axis_title("Share of the steps written when the model must answer"), **SHARE}
    y = {**axis_title("Probability; share of chains"), "range": [-0.04, 1.06]}
    return {"data": lines, "layout": layout(x | {"range": [-0.04, 1.04]}, y, height=400)}


def _point(at: float, found: Interval) -> Row:
    return {"at": at, "mean": found.estimate, "low": found.low, "high": found.high}
