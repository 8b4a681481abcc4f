"""Figures of interventions, drawn from records: plain dictionaries in Plotly's own format.

Each takes rows as they are stored and returns a specification that a page embeds and that
`plotly.graph_objects.Figure` accepts, so a notebook, a report and `figures/` draw the same picture.
Nothing here runs a model or averages anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from interp.errors import InputError
from interp.results.report_charts import (
    AMBER,
    BLUE,
    DIVERGING,
    GREY,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
    visible,
)
from interp.results.report_stats import Row, number

SEQUENTIAL = [[0.0, "#f7fbff"], [0.5, "#6baed6"], [1.0, "#08306b"]]
SIGNED = {"positive": BLUE, "negative": VERMILION}


def grid(
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    value: str,
    title: str,
    x_title: str,
    y_title: str,
    names: Sequence[str] | None = None,
    limit: float | None = None,
) -> Spec:
    """Draw rows as a map: one cell a row, colours diverging around 0.

    `names` writes the ticks of the x axis, by value. `limit` is where the colours end; by default
    at the largest cell.

    Raises:
        InputError: two rows describe one cell.
    """
    cells: dict[tuple[Any, Any], Row] = {}
    for row in rows:
        if (row[y], row[x]) in cells:
            raise InputError(
                f"Two rows describe the cell {y}={row[y]}, {x}={row[x]}; keep one row a cell."
            )
        cells[row[y], row[x]] = row
    across, down = (sorted({row[axis] for row in rows}) for axis in (x, y))
    known = [abs(row[value]) for row in rows if row[value] is not None]
    end = limit or max([*known, 1e-12])
    heat = {
        "type": "heatmap",
        "x": list(range(len(across))),
        "y": list(range(len(down))),
        "z": [[_value(cells.get((j, i)), value) for i in across] for j in down],
        "text": [[_text(cells.get((j, i)), value, title) for i in across] for j in down],
        "zmin": -end,
        "zmax": end,
        "colorscale": DIVERGING,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 14},
        "hovertemplate": "%{text}<extra></extra>",
    }
    ticks = [names[i] if names else str(i) for i in across]
    bottom = {**axis_title(x_title), "showgrid": False, "tickangle": -45 if names else 0}
    bottom |= {"tickvals": list(range(len(across))), "ticktext": ticks}
    left = {**axis_title(y_title), "showgrid": False}
    left |= {"tickvals": list(range(len(down))), "ticktext": [str(j) for j in down]}
    return {"data": [heat], "layout": layout(bottom, left, height=140 + 24 * max(len(down), 8))}


def _value(row: Row | None, value: str) -> float | None:
    return None if row is None else row[value]


def _text(row: Row | None, value: str, title: str) -> str:
    if row is None:
        return "not run"
    place = plain(row.get("place") or row.get("path") or "")
    token = f" ({visible(row['token'])})" if row.get("token") else ""
    return f"{place}{token}<br>{plain(title)} {number(row[value])}"


def place_map(rows: Sequence[Row], value: str = "recovered") -> Spec:
    """Draw the patches of one component: layer by token, layer by head, or a curve over layers."""
    title = "Share recovered" if value == "recovered" else "Effect"
    shown = {"value": value, "title": title, "y": "layer", "y_title": "Layer"}
    limit = None
    if value == "recovered":
        known = [abs(row[value]) for row in rows if row[value] is not None]
        limit = min(max([1.0, *known]), 2.0)
    if rows[0].get("pos") is not None:
        tokens = {row["pos"]: visible(row["token"] or "") for row in rows}
        names = [tokens.get(pos, "") for pos in range(max(tokens) + 1)]
        return grid(rows, x="pos", x_title="Token", names=names, limit=limit, **shown)
    if rows[0].get("head") is not None:
        return grid(rows, x="head", x_title="Head", limit=limit, **shown)
    return curve_over(rows, x="layer", value=value, x_title="Layer", y_title=title)


def curve_over(
    rows: Sequence[Row], *, x: str, value: str, x_title: str, y_title: str, name: str = ""
) -> Spec:
    """Draw one value along an axis, with its interval where the rows have one."""
    ordered = sorted(rows, key=lambda row: row[x])
    points = _line(ordered, x=x, value=value, name=name, colour=BLUE)
    y = {**axis_title(y_title), "zeroline": True, "zerolinecolor": GREY}
    return {"data": [points], "layout": layout(axis_title(x_title), y)}


def _line(rows: Sequence[Row], *, x: str, value: str, name: str, colour: str) -> Spec:
    low, high = f"{value}_low", f"{value}_high"
    line: Spec = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": [row[x] for row in rows],
        "y": [row[value] for row in rows],
        "line": {"color": colour, "width": 2},
        "marker": {"size": 7},
        "hovertemplate": f"%{{x}}: %{{y:.3f}}<extra>{plain(name)}</extra>",
    }
    if all(row.get(low) is not None and row.get(high) is not None for row in rows):
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [row[high] - row[value] for row in rows],
            "arrayminus": [row[value] - row[low] for row in rows],
            "thickness": 1.2,
        }
    return line


def attention_map(weights: Sequence[Sequence[float]], tokens: Sequence[str]) -> Spec:
    """Draw one head's pattern: a row a query, a column a key, both named by their tokens."""
    names = [visible(token) for token in tokens]
    text = [
        [f"{names[q]} looks at {names[k]}: {weight:.3f}" for k, weight in enumerate(row)]
        for q, row in enumerate(weights)
    ]
    heat = {
        "type": "heatmap",
        "x": list(range(len(names))),
        "y": list(range(len(names))),
        "z": [list(row) for row in weights],
        "text": text,
        "zmin": 0,
        "zmax": 1,
        "colorscale": SEQUENTIAL,
        "colorbar": {"title": {"text": "Attention weight", "side": "right"}, "thickness": 14},
        "hovertemplate": "%{text}<extra></extra>",
    }
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False}
    x = {**axis_title("Key (looked at)"), **ticks, "tickangle": -45}
    y = {**axis_title("Query (looks)"), **ticks, "autorange": "reversed"}
    return {"data": [heat], "layout": layout(x, y, height=180 + 22 * max(len(names), 8))}


NODE = re.compile(r"^(?:(input|logits)|a(\d+)\.h(\d+)|m(\d+))$")


def circuit_graph(rows: Sequence[Row]) -> Spec:
    """Draw the edges of a circuit: nodes by layer and head, edges by sign and size of their score.

    Each row has an `edge` in the EAP-IG notation (`a0.h1->a1.h2<k>`) and a `score`.

    Raises:
        InputError: an edge that is not written so.
    """
    edges = [(*_ends(row["edge"]), row) for row in rows]
    nodes = sorted({end for a, b, _ in edges for end in (a, b)}, key=_height)
    n_layers = 1 + max((_height(node) for node in nodes if node not in ENDS), default=0)
    places = {node: _place(node, n_layers) for node in nodes}
    largest = max((abs(row["score"]) for row in rows), default=1.0) or 1.0
    lines = [_edge_line(places[a], places[b], row, largest) for a, b, row in edges]
    xs, ys = zip(*(places[node] for node in nodes), strict=True) if nodes else ((), ())
    dots = {
        "type": "scatter",
        "mode": "markers+text",
        "x": list(xs),
        "y": list(ys),
        "text": list(nodes),
        "textposition": "middle right",
        "marker": {"size": 13, "color": AMBER, "line": {"color": GREY, "width": 1}},
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }
    hidden = {"showgrid": False, "showticklabels": False, "zeroline": False}
    y = {**axis_title("Depth: from the input (bottom) to the logits (top)"), **hidden}
    height = 260 + 90 * min(len({_height(node) for node in nodes}), 12)
    return {
        "data": [*lines, dots],
        "layout": layout({**hidden, **axis_title("Head")}, y, height=height, showlegend=False),
    }


ENDS = ("input", "logits")


def _ends(edge: str) -> tuple[str, str]:
    sender, arrow, receiver = edge.partition("->")
    receiver = receiver.partition("<")[0]
    if not arrow or not NODE.match(sender) or not NODE.match(receiver):
        raise InputError(f"{edge!r} is no edge: write such as 'a0.h1->a1.h2<k>' or 'm3->logits'.")
    return sender, receiver


def _height(node: str) -> float:
    if node in ENDS:
        return -1.0 if node == "input" else 1e9
    match = NODE.match(node)
    assert match is not None
    if match[4] is not None:
        return int(match[4]) + 0.5
    return float(match[2])


def _place(node: str, n_layers: float) -> tuple[float, float]:
    if node in ENDS:
        return 0.0, -1.0 if node == "input" else n_layers + 0.5
    match = NODE.match(node)
    assert match is not None
    return (-1.0 if match[4] is not None else float(match[3])), _height(node)


def _edge_line(
    start: tuple[float, float], end: tuple[float, float], row: Row, largest: float
) -> Spec:
    share = abs(row["score"]) / largest
    sign = "positive" if row["score"] >= 0 else "negative"
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [start[0], end[0]],
        "y": [start[1], end[1]],
        "line": {"color": SIGNED[sign], "width": 0.8 + 5 * share},
        "opacity": 0.35 + 0.6 * share,
        "hoverinfo": "text",
        "text": f"{plain(row['edge'])}: {number(row['score'])}",
        "showlegend": False,
    }


def faithfulness_curve(rows: Sequence[Row]) -> Spec:
    """Draw the faithfulness of circuits of growing size beside random edges of the same number."""
    ordered = sorted(rows, key=lambda row: row["fraction"])
    named = [("faithfulness", "Circuit", BLUE), ("random", "Random edges, as many", SILVER)]
    lines = [
        _line(ordered, x="fraction", value=value, name=name, colour=colour)
        for value, name, colour in named
    ]
    x = {**axis_title("Share of all edges kept (log scale)"), "type": "log"}
    y = {**axis_title("Faithfulness (0 none, 1 the whole model)"), "zeroline": True}
    return {"data": lines, "layout": layout(x, y)}


def dose_curve(rows: Sequence[Row]) -> Spec:
    """Draw the effect of one direction by dose, the random directions and the damage beside it."""
    own = sorted((row for row in rows if row["method"] != "random"), key=_dose)
    random = sorted((row for row in rows if row["method"] == "random"), key=_dose)
    effect = _line(own, x="coefficient", value="effect", name="Direction", colour=BLUE)
    twins = {
        "type": "scatter",
        "mode": "markers",
        "name": "Random directions of the same norm",
        "x": [row["coefficient"] for row in random],
        "y": [row["effect"] for row in random],
        "marker": {"color": SILVER, "size": 6},
        "hovertemplate": "random, dose %{x}: %{y:.3f}<extra></extra>",
    }
    damage = _line(own, x="coefficient", value="damage", name="Damage", colour=VERMILION)
    damage |= {"yaxis": "y2", "line": {"color": VERMILION, "width": 1.5, "dash": "dot"}}
    y = {**axis_title("Effect"), "zeroline": True, "zerolinecolor": GREY}
    other = {**axis_title("Damage, nats a token"), "overlaying": "y", "side": "right"}
    other |= {"showgrid": False, "zeroline": False}
    spec = layout(axis_title("Dose (times the direction)"), y, yaxis2=other)
    return {"data": [twins, effect, damage], "layout": spec}


def _dose(row: Row) -> float:
    return float(row["coefficient"])
