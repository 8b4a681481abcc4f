"""Times of this workbench and other tools for the same work, and whether the numbers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError

RECORD = "benchmarks.jsonl"
"""The file under `experiments/records/` that holds the rows, one line a system and task."""

OURS, OTHERS = "#1f5fa8", "#8a8a8a"
Row = Mapping[str, Any]


def figure(rows: Sequence[Row]) -> go.Figure:
    """Draw one panel a task: seconds by system, on a logarithmic axis, ours in blue.

    The words beside a point give how many times our time it is, how much of the work was timed
    where that was not all, and the largest difference from the judge's numbers. A system without a
    time is named with its reason in place of a point.

    Raises:
        InputError: no row has a time, or a row lacks a field.
    """
    _require(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    spacing = 0.3 / max(2, len(tasks))
    drawn = make_subplots(len(tasks), 1, subplot_titles=tasks, vertical_spacing=spacing)
    for place, task in enumerate(tasks, start=1):
        here = [row for row in rows if row["task"] == task]
        drawn.add_trace(_points(here), row=place, col=1)
        drawn.add_trace(_words(here), row=place, col=1)
        drawn.update_xaxes(type="log", row=place, col=1)
        drawn.update_yaxes(autorange="reversed", automargin=True, row=place, col=1)
    device = ", ".join(dict.fromkeys(row["device"] for row in rows if row["device"]))
    drawn.update_xaxes(title_text=f"Seconds for the whole work ({device})", row=len(tasks), col=1)
    drawn.update_layout(
        template="none",
        title={"text": _title(rows, tasks), "x": 0.01},
        showlegend=False,
        height=140 + sum(70 + 26 * sum(row["task"] == task for row in rows) for task in tasks),
        margin={"r": 420},
    )
    return drawn


def _points(rows: Sequence[Row]) -> go.Scatter:
    """The medians of one task, the least and the greatest time as whiskers."""
    timed = [row["seconds"] is not None for row in rows]
    above = [row["high"] - row["seconds"] if ok else 0 for row, ok in zip(rows, timed, strict=True)]
    below = [row["seconds"] - row["low"] if ok else 0 for row, ok in zip(rows, timed, strict=True)]
    return go.Scatter(
        mode="markers",
        x=[row["seconds"] for row in rows],
        y=_names(rows),
        hovertext=[row["note"] or _label(row) for row in rows],
        marker={"color": [_colour(row) for row in rows], "size": 11},
        error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
    )


def _names(rows: Sequence[Row]) -> list[str]:
    return [f"{row['system']} {row['version']}".strip() for row in rows]


def _colour(row: Row) -> str:
    return OURS if row["system"].startswith("ours") else OTHERS


def _words(rows: Sequence[Row]) -> go.Scatter:
    """What is written beside each point: right of the whiskers, so that neither hides the other."""
    furthest = max((row["high"] for row in rows if row["seconds"] is not None), default=1.0)
    return go.Scatter(
        mode="text",
        x=[furthest * 1.05] * len(rows),
        y=_names(rows),
        text=[_label(row) for row in rows],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
    )


def _label(row: Row) -> str:
    """What is written on a bar.

    >>> row = {"system": "raw", "seconds": 24.0, "ratios": {"ours": 8.0}, "share": 0.25}
    >>> _label({**row, "difference": 1e-5})
    '24 s, 8.0x ours, timed on 25% of the work, numbers differ by 1e-05'
    """
    if row["seconds"] is None:
        return str(row["note"])
    parts = [f"{row['seconds']:.3g} s"]
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
    if not any(row["seconds"] is not None for row in rows):
        raise InputError(
            f"None of the {len(rows)} benchmark rows has a time, so there is no point."
        )
