"""Figures of interventions, drawn from records: plain dictionaries in Plotly's own format.

Each takes rows as they are stored and returns a specification that a page embeds and that
`plotly.graph_objects.Figure` accepts, so a notebook, a report and `figures/` draw the same picture.
Nothing here runs a model or averages anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interp.errors import InputError
from interp.results.report_charts import (
    AMBER,
    BLUE,
    DIVERGING,
    GREY,
    GRID,
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
WIDEST = 2.0
"""The share recovered at which colours end at most: a gap near 0 makes shares of any size."""
Names = Mapping[Any, str] | None


# ---------------------------------------------------------------- maps


def grid(
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    value: str,
    title: str,
    x_title: str,
    y_title: str,
    x_names: Names = None,
    y_names: Names = None,
    limit: float | None = None,
) -> Spec:
    """Draw rows as a map: one cell a row, colours diverging around 0.

    `x_names` and `y_names` write the ticks, by value. `limit` is where the colours end; by default
    at the largest cell.

    Raises:
        InputError: two rows describe one cell.
    """
    cells = _cells(rows, x, y)
    across, down = ({row[axis]: None for row in sorted(rows, key=_by(axis))} for axis in (x, y))
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
        "colorbar": {"title": {"text": plain(title), "side": "right"}, "thickness": 14},
        "hovertemplate": "%{text}<extra></extra>",
    }
    slanted = {"tickangle": -45} if x_names else {}
    bottom = {**axis_title(x_title), "showgrid": False, **_ticks(across, x_names), **slanted}
    left = {**axis_title(y_title), "showgrid": False, **_ticks(down, y_names)}
    return {"data": [heat], "layout": layout(bottom, left, height=140 + 22 * max(len(down), 8))}


def _cells(rows: Sequence[Row], x: str, y: str) -> dict[tuple[Any, Any], Row]:
    cells: dict[tuple[Any, Any], Row] = {}
    for row in rows:
        if (row[y], row[x]) in cells:
            raise InputError(
                f"Two rows describe the cell {y}={row[y]}, {x}={row[x]}; keep one row a cell."
            )
        cells[row[y], row[x]] = row
    return cells


def _by(axis: str) -> Callable[[Row], tuple[bool, Any]]:
    """Order rows along an axis, those without a place there last."""
    return lambda row: (row[axis] is None, 0 if row[axis] is None else row[axis])


def _ticks(values: Mapping[Any, None], names: Names) -> Spec:
    """One tick a value, none written for a value of None."""
    known = names or {}
    texts = [known[v] if v in known else "" if v is None else plain(v) for v in values]
    return {"tickvals": list(range(len(texts))), "ticktext": texts}


def _value(row: Row | None, value: str) -> float | None:
    return None if row is None else row[value]


def _text(row: Row | None, value: str, title: str) -> str:
    if row is None:
        return "not run"
    place = plain(row.get("place") or row.get("path") or row.get("site") or "")
    token = f" ({visible(row['token'])})" if row.get("token") else ""
    ends = [row.get(f"{value}_{end}") for end in ("low", "high")]
    between = f" ({number(ends[0])} to {number(ends[1])})" if None not in ends else ""
    return f"{place}{token}<br>{plain(title)}: {number(row[value])}{between}"


def place_map(rows: Sequence[Row], value: str = "recovered", title: str | None = None) -> Spec:
    """Draw the patches of one component: layer by token, layer by head, or a curve over layers.

    Rows with both a head and a position have a line a head. `title` names the value.

    Raises:
        InputError: two rows describe one cell.
    """
    title = title or ("Share recovered" if value == "recovered" else "Effect")
    has_pos, has_head = (rows[0].get(axis) is not None for axis in ("pos", "head"))
    if not (has_pos or has_head):
        return curve_over(rows, x="layer", value=value, x_title="Layer", y_title=title)
    shown = {"value": value, "title": title, "limit": _limit(rows, value)}
    if not has_pos:
        return grid(rows, x="head", y="layer", x_title="Head", y_title="Layer", **shown)
    shown |= {"x": "pos", "x_title": "Token", "x_names": _token_names(rows)}
    if not has_head:
        return grid(rows, y="layer", y_title="Layer", **shown)
    lines = [{**row, "line": (row["layer"], row["head"])} for row in rows]
    names = {row["line"]: f"{row['line'][0]}.{row['line'][1]}" for row in lines}
    return grid(lines, y="line", y_title="Layer and head", y_names=names, **shown)


def _limit(rows: Sequence[Row], value: str) -> float | None:
    """Where the colours end: at the largest cell; shares neither below 0.25 nor above WIDEST."""
    if value != "recovered":
        return None
    known = [abs(row[value]) for row in rows if row[value] is not None]
    return min(max([0.25, *known]), WIDEST)


def _token_names(rows: Sequence[Row]) -> dict[int, str]:
    return {row["pos"]: visible(row.get("token") or str(row["pos"])) for row in rows}


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


# ---------------------------------------------------------------- curves


def curve_over(
    rows: Sequence[Row], *, x: str, value: str, x_title: str, y_title: str, name: str = ""
) -> Spec:
    """Draw one value along an axis, with its interval where the rows have one.

    Raises:
        InputError: two rows have the same place on the axis.
    """
    _cells([{**row, "": ""} for row in rows], x, "")
    points = _line(sorted(rows, key=_by(x)), x=x, value=value, name=name, colour=BLUE)
    y = {**axis_title(y_title), "zeroline": True, "zerolinecolor": GREY}
    return {"data": [points], "layout": layout(axis_title(x_title), y, showlegend=bool(name))}


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
    ends = [(row.get(low), row[value], row.get(high)) for row in rows]
    if rows and all(None not in each for each in ends):
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [top - middle for _, middle, top in ends],
            "arrayminus": [middle - bottom for bottom, middle, _ in ends],
            "thickness": 1.2,
        }
    return line


def faithfulness_curve(rows: Sequence[Row]) -> Spec:
    """Draw the faithfulness of circuits of growing size beside random edges of the same number.

    Bars at the random edges span their draws. A circuit of no edge has no place on the axis.
    """
    ordered = sorted((row for row in rows if row["fraction"] > 0), key=_by("fraction"))
    named = [
        ("random", "As many random edges: mean and range of the draws", GREY),
        ("faithfulness", "Circuit", BLUE),
    ]
    lines = [
        _line(ordered, x="fraction", value=value, name=name, colour=colour)
        | {"text": [f"{row['n_edges']:,} edges" for row in ordered]}
        | {"hovertemplate": f"%{{text}}: %{{y:.3f}}<extra>{name.partition(':')[0]}</extra>"}
        for value, name, colour in named
    ]
    x = {**axis_title("Share of all edges kept (log scale)"), "type": "log", "tickangle": 0}
    x |= {"tickvals": [row["fraction"] for row in ordered]}
    x |= {"ticktext": [f"{100 * row['fraction']:g}%" for row in ordered]}
    y = {**axis_title("Faithfulness (0 none, 1 the whole model)")}
    return {"data": lines, "layout": layout(x, y, shapes=[_level(0.0), _level(1.0)])}


def _level(height: float) -> Spec:
    """A dotted line across the chart."""
    line = {"color": GREY, "width": 1, "dash": "dot"}
    ends = {"x0": 0, "x1": 1, "y0": height, "y1": height}
    return {"type": "line", "xref": "paper", "yref": "y", **ends, "line": line, "layer": "below"}


def dose_curve(rows: Sequence[Row], y_title: str = "Effect") -> Spec:
    """Draw the effect of one direction by dose above its damage, the random twins beside both."""
    ordered = sorted(rows, key=_by("coefficient"))
    own = [row for row in ordered if row["method"] != "random"]
    twins = [row for row in ordered if row["method"] == "random"]
    effect = _line(own, x="coefficient", value="effect", name="Direction: effect", colour=BLUE)
    damage = _line(own, x="coefficient", value="damage", name="Its damage", colour=VERMILION)
    clouds = [_cloud(twins, "effect"), _cloud(twins, "damage") | {"showlegend": False}]
    clouds[1] |= {"yaxis": "y2"}
    zero = {"zeroline": True, "zerolinecolor": GREY}
    y = {**axis_title(y_title), **zero, "domain": [0.42, 1]}
    y2 = {**axis_title("Damage (nats a token)"), **zero, "domain": [0, 0.32], "gridcolor": GRID}
    y2 |= {"automargin": True, "anchor": "x", "linecolor": GREY}
    x = {**axis_title("Dose (times the direction)"), **zero, "anchor": "y2"}
    return {
        "data": [*clouds, effect, damage | {"yaxis": "y2"}],
        "layout": layout(x, y, height=520, yaxis2=y2),
    }


def _cloud(rows: Sequence[Row], value: str) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "Random directions of the same norm",
        "x": [row["coefficient"] for row in rows],
        "y": [row[value] for row in rows],
        "marker": {"color": SILVER, "size": 7, "line": {"color": GREY, "width": 0.5}},
        "hovertemplate": f"random, dose %{{x}}: {value} %{{y:.3f}}<extra></extra>",
    }


# ---------------------------------------------------------------- circuits

ENDS = ("input", "logits")
NODE = re.compile(r"^(?:(?P<end>input|logits)|a(?P<in>\d+)\.h(?P<head>\d+)|m(?P<mlp>\d+))$")
Node = tuple[int, int, str]
"""Where a node stands, and its name: twice its layer (one more for an MLP), and its head."""


def circuit_graph(rows: Sequence[Row]) -> Spec:
    """Draw the edges of a circuit: a line a layer from the input up, a column a head.

    Each row has an `edge` in the EAP-IG notation (`a0.h1->a1.h2<k>`) and a `score`: blue above 0,
    red below, the wider the larger. Layers and heads without an edge have no line and no column.

    Raises:
        InputError: an edge that is not written so.
    """
    edges = [(*_ends(row["edge"]), row) for row in rows]
    nodes = sorted({end for a, b, _ in edges for end in (a, b)})
    lines = {each: place for place, each in enumerate(sorted({line for line, _, _ in nodes}))}
    columns = {each: place for place, each in enumerate(sorted({head for _, head, _ in nodes}))}
    middle = (len(columns) - 1) / 2
    places = {
        node: (middle if node[2] in ENDS else float(columns[node[1]]), float(lines[node[0]]))
        for node in nodes
    }
    largest = max((abs(float(row["score"])) for row in rows), default=1.0) or 1.0
    bows = [_bow(places[a], places[b], row["edge"]) for a, b, row in edges]
    drawn = [_edge_line(bow, row, largest) for bow, (_, _, row) in zip(bows, edges, strict=True)]
    data = [*drawn, _edge_marks(bows, rows), _dots(places)]
    hidden = {"showgrid": False, "zeroline": False}
    ticks = {"tickvals": list(lines.values()), "ticktext": [_line_name(each) for each in lines]}
    x = {**hidden, "showticklabels": False, "showline": False}
    x |= {"range": [-0.6, max(len(columns), 2) - 0.3]}
    y = {"zeroline": False, **ticks, "range": [-0.6, max(len(lines), 2) - 0.4]}
    height = 130 + 46 * max(len(lines), 4)
    names = [_label(*place, node[2]) for node, place in places.items()]
    return {
        "data": data,
        "layout": layout(x, y, height=height, showlegend=False, annotations=names),
    }


def _label(x: float, y: float, name: str) -> Spec:
    """A node's name on a pale ground, so that edges do not cross it out."""
    look = {"showarrow": False, "xanchor": "left", "xshift": 7, "bgcolor": "rgba(255,255,255,0.75)"}
    return {"x": x, "y": y, "text": name, "font": {"size": 11}, "borderpad": 1, **look}


def _ends(edge: str) -> tuple[Node, Node]:
    sender, arrow, receiver = edge.partition("->")
    start, end = _node(sender), _node(receiver.partition("<")[0])
    if not arrow or start is None or end is None:
        raise InputError(f"{edge!r} is no edge: write such as 'a0.h1->a1.h2<k>' or 'm3->logits'.")
    return start, end


def _node(name: str) -> Node | None:
    match = NODE.match(name)
    if match is None:
        return None
    if match["end"]:
        return (-1 if name == "input" else 10**9), -1, name
    if match["mlp"]:
        return 2 * int(match["mlp"]) + 1, -1, name
    return 2 * int(match["in"]), int(match["head"]), name


def _line_name(line: int) -> str:
    if line < 0:
        return "input"
    return "logits" if line == 10**9 else f"{'mlp' if line % 2 else 'attn'} {line // 2}"


def _bow(
    start: tuple[float, float], end: tuple[float, float], edge: str
) -> list[tuple[float, float]]:
    """Three points of an edge, bent the further it reaches, and by what it enters."""
    port = {"q": -1, "v": 1}.get(edge.partition("<")[2][:1], 0)
    bend = 0.06 * (end[1] - start[1] - 1) + 0.12 * port
    return [start, ((start[0] + end[0]) / 2 + bend, (start[1] + end[1]) / 2), end]


def _edge_line(bow: Sequence[tuple[float, float]], row: Row, largest: float) -> Spec:
    share = abs(row["score"]) / largest
    sign = "positive" if row["score"] >= 0 else "negative"
    look = {"color": SIGNED[sign], "width": 0.8 + 5 * share, "shape": "spline"}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in bow],
        "y": [y for _, y in bow],
        "line": look,
        "opacity": 0.3 + 0.6 * share,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _edge_marks(bows: Sequence[Sequence[tuple[float, float]]], rows: Sequence[Row]) -> Spec:
    """Marks that nobody sees, in the middle of each edge: what a pointer reads there."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [bow[1][0] for bow in bows],
        "y": [bow[1][1] for bow in bows],
        "text": [f"{plain(row['edge'])}<br>score {row['score']:.3g}" for row in rows],
        "marker": {"size": 12, "opacity": 0},
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _dots(places: Mapping[Node, tuple[float, float]]) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _ in places.values()],
        "y": [y for _, y in places.values()],
        "text": [name for _, _, name in places],
        "marker": {"size": 11, "color": AMBER, "line": {"color": GREY, "width": 1}},
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }
