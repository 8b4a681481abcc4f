"""Times of this workbench and other tools for the same work, and whether the numbers agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError
from interp.results.report_charts import plain

RECORD = "benchmarks.jsonl"
"""The file under `experiments/records/` that holds the rows, one line a system and task."""

OURS, OTHERS = "#1f5fa8", "#8a8a8a"
ABOVE, GAP, BELOW, RIGHT = 110, 70, 70, 470
"""Pixels above, between, below and right of the panels; the words stand at the right."""
LINE, CHARS, LINES = 15, 76, 8
"""Pixels of a line of these words, characters of a line, and lines of a point at most."""
Row = Mapping[str, Any]


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw one panel a task: seconds by system, on a logarithmic axis, ours in blue.

    The words beside a point give how many times our time it is, how much of the work was timed
    where that was not all, and the largest difference from the judge's numbers. A system without a
    time is named with its reason in place of a point. Long words take more lines, and their row is
    higher.

    Raises:
        InputError: no row has a time, a time is not above 0, or a row lacks a field.
    """
    _require(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    panels = [[row for row in rows if row["task"] == task] for task in tasks]
    heights = [_edges(here)[-1] for here in panels]
    inner = sum(heights) + GAP * (len(tasks) - 1)
    drawn = make_subplots(
        len(tasks),
        1,
        subplot_titles=[plain(task, 80) for task in tasks],
        row_heights=heights,
        vertical_spacing=GAP / inner if len(tasks) > 1 else 0,
    )
    for place, here in enumerate(panels, start=1):
        _draw_panel(drawn, here, place)
    device = ", ".join(dict.fromkeys(row["device"] for row in rows if row["device"]))
    axis = f"Seconds for the whole work ({plain(device, 80)})"
    drawn.update_xaxes(title_text=axis, row=len(tasks), col=1)
    return drawn.update_layout(
        template="none",
        title={"text": plain(_title(rows, tasks), 160), "x": 0.01, "y": 1, "yanchor": "top"}
        | {"pad": {"t": 24}},
        showlegend=False,
        height=inner + ABOVE + BELOW,
        margin={"l": 20, "r": RIGHT, "t": ABOVE, "b": BELOW},
    )


def _draw_panel(drawn: go.Figure, rows: Sequence[Row], place: int) -> None:
    """One task: points, the names at the left, and the words right of the axis."""
    edges = _edges(rows)
    middles = [(top + bottom) / 2 for top, bottom in pairwise(edges)]
    drawn.add_trace(_points(rows, middles), row=place, col=1)
    drawn.update_xaxes(_seconds_axis(rows), row=place, col=1)
    names = [plain(f"{row['system']} {row['version']}".strip(), 40) for row in rows]
    drawn.update_yaxes(range=[edges[-1], 0], tickvals=middles, ticktext=names, row=place, col=1)
    drawn.update_yaxes(automargin=True, zeroline=False, row=place, col=1)
    beside = {"xref": "x domain", "x": 1, "xanchor": "left", "xshift": 8, "align": "left"}
    for row, middle in zip(rows, middles, strict=True):
        words = {"text": _wrapped(row), "font": {"size": 11}, "showarrow": False, "y": middle}
        drawn.add_annotation(**beside, **words, row=place, col=1)


def _edges(rows: Sequence[Row]) -> list[int]:
    """Where each row of a panel begins and the last one ends, in pixels from the top."""
    lines = [1 + _wrapped(row).count("<br>") for row in rows]
    return list(accumulate((11 + LINE * each for each in lines), initial=0))


def _wrapped(row: Row) -> str:
    """The words beside a point, in lines."""
    lines = wrap(_label(row), CHARS, max_lines=LINES, placeholder=" …")
    return "<br>".join(plain(line, CHARS) for line in lines)


def _points(rows: Sequence[Row], places: Sequence[float]) -> go.Scatter:
    """The medians of one task, the least and the greatest time as whiskers."""
    timed = [row["seconds"] is not None for row in rows]
    above = [row["high"] - row["seconds"] if ok else 0 for row, ok in zip(rows, timed, strict=True)]
    below = [row["seconds"] - row["low"] if ok else 0 for row, ok in zip(rows, timed, strict=True)]
    return go.Scatter(
        mode="markers",
        x=[row["seconds"] for row in rows],
        y=list(places),
        hovertext=[_wrapped(row) for row in rows],
        hoverinfo="text",
        marker={"color": [_colour(row) for row in rows], "size": 11},
        error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
    )


def _seconds_axis(rows: Sequence[Row]) -> dict[str, Any]:
    """A logarithmic axis from the least to the greatest time, with a few round ticks."""
    timed = [row for row in rows if row["seconds"] is not None]
    if not timed:
        return {"type": "log", "tickvals": []}
    low, high = min(row["low"] for row in timed), max(row["high"] for row in timed)
    ends = math.log10(low), math.log10(high)
    beyond = 0.04 * (ends[1] - ends[0]) or 0.1
    ticks = _ticks(low, high)
    texts = [f"{tick:,.10g}" for tick in ticks]
    span = [ends[0] - beyond, ends[1] + beyond]
    return {"type": "log", "range": span, "tickvals": ticks, "ticktext": texts}


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`: 1, 2 and 5 times powers of ten, or in equal steps.

    >>> _ticks(7.0, 87.0), _ticks(0.25, 0.36), _ticks(0.002, 3000.0)
    ([10.0, 20.0, 50.0], [0.25, 0.3, 0.35], [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
    """
    if high <= low:
        return [low]
    if high / low < 5:
        least = (high - low) / 5
        step = _round_numbers(least, 10 * least)[0]
        found = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    else:
        found = _round_numbers(low, high, (1, 2, 5) if high / low < 1000 else (1,))
    return [float(f"{each:.10g}") for each in found]


def _round_numbers(low: float, high: float, times: Sequence[int] = (1, 2, 5)) -> list[float]:
    """These multiples of powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{each}e{power}") for power in powers for each in times]
    return [each for each in found if low <= each <= high]


def _colour(row: Row) -> str:
    return OURS if row["system"].startswith("ours") else OTHERS


def _label(row: Row) -> str:
    """What is written on a bar.

    >>> row = {"system": "raw", "seconds": 24.0, "ratios": {"ours": 8.0}, "share": 0.25}
    >>> _label({**row, "difference": 1e-5})
    '24 s, 8.0x ours, timed on 25% of the work, numbers differ by 1e-05'
    """
    if row["seconds"] is None:
        return str(row["note"])
    seconds = row["seconds"]
    parts = [f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.3g} s"]
    unit, ratio = next(iter(row["ratios"].items()), (None, None))
    if ratio is not None and unit != row["system"]:
        parts.append(f"{ratio:.{1 if ratio >= 2 else 2}f}x {unit}")
    if row["share"] < 1:
        parts.append(f"timed on {100 * row['share']:.2g}% of the work")
    if row["difference"] is not None:
        parts.append(f"numbers differ by {row['difference']:.0e}")
    return ", ".join(parts)


def _title(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """The finding: how much less time than TransformerLens ours takes, task by task."""
    found = []
    for task in tasks:
        here = {row["system"]: row["ratios"] for row in rows if row["task"] == task}
        ratio = here.get("transformer_lens", {}).get("ours")
        if ratio:
            found.append(f"{task} {ratio:.2g}x")
    if not found:
        return "The same work, system by system"
    return f"Less time than TransformerLens: {', '.join(found)}"


FIELDS = ("task", "system", "version", "device", "seconds", "low", "high", "share", "ratios")
FIELDS += ("difference", "note")


def _require(rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows, start=1):
        missing = [field for field in FIELDS if field not in row]
        if missing:
            raise InputError(
                f"Row {number} of the benchmarks lacks {', '.join(missing)}: write it with "
                "python -m experiments.benchmarks --json."
            )
        times = [] if row["seconds"] is None else [row["low"], row["seconds"], row["high"]]
        if not all(isinstance(each, int | float) and each > 0 for each in times):
            raise InputError(
                f"Row {number} of the benchmarks has the times {times}: a logarithmic axis needs "
                "numbers above 0. Time that system again."
            )
    if not any(row["seconds"] is not None for row in rows):
        raise InputError(
            f"None of the {len(rows)} benchmark rows has a time, so there is no point."
        )
