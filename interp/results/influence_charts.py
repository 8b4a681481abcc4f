"""Charts of influence between latent steps: matrices, graphs, shape, and the released definitions.

As `latent_charts`, of whose rows, names and looks these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from interp.results.latent_charts import (
    DIAGNOSTIC_COLOUR,
    HATCHED,
    IDENTITY,
    METRICS,
    PALE_TO_DARK,
    TOGETHER,
    of_subject,
    operator_name,
    operators_of,
    subject_look,
    subjects_of,
    tiled,
    told,
)
from interp.results.report_charts import (
    BLUE,
    GREY,
    INK,
    LEGEND_BELOW,
    SILVER,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import Row, number
from interp.results.thinking_charts import Look, bars

# ---------------------------------------------------------------- influence


def influence_maps(rows: Sequence[Row]) -> Spec:
    """Draw W[t, s] side by side: a line a subject, a column an operator, one colour scale.

    Several subjects are drawn with the operators of `TOGETHER` that they have.
    The last column is the identity: it is 0 in every cell where the read-outs are sound.
    """
    rows = _few(rows)
    names, operators = subjects_of(rows), operators_of(rows)
    most = max([1e-9, *(row["x"] for row in rows if row["x"] is not None)])
    panels = [
        _matrix(_mine(rows, name, operator), rows, name) for name in names for operator in operators
    ]
    titles = [operator_name(o) if name == names[0] else "" for name in names for o in operators]
    columns = min(3, len(operators)) if len(names) == 1 else len(operators)
    made = tiled(panels, titles, columns=columns, height=290, shared=True)
    bar = {"title": {"text": "W[t, s], nats a token", "side": "right"}, "thickness": 14}
    bar |= {"tickformat": ".2~g"}
    axis = {"cmin": 0, "cmax": most, "colorscale": PALE_TO_DARK, "colorbar": bar}
    return {**made, "layout": {**made["layout"], "coloraxis": axis}}


def _few(rows: Sequence[Row]) -> Sequence[Row]:
    """Of several subjects the operators that fit side by side; all where none is among those."""
    if len(subjects_of(rows)) < 2:
        return rows
    kept = [row for row in rows if row["operator"] in TOGETHER]
    return kept if any(row["operator"] != IDENTITY for row in kept) else rows


def _matrix(mine: Sequence[Row], every: Sequence[Row], name: str) -> Spec:
    size = max(int(row["s"]) for row in every)
    cells = {(row["t"], row["s"]): row for row in mine}
    steps = [str(step) for step in range(1, size + 1)]
    grid = [[cells.get((t, s)) for s in range(1, size + 1)] for t in range(1, size + 1)]
    heat = {
        "type": "heatmap",
        "x": steps,
        "y": steps,
        "z": [[row and row["x"] for row in line] for line in grid],
        "text": [[_w_text(row) for row in line] for line in grid],
        "customdata": [[_w_hover(grid[t][s], t > s) for s in range(size)] for t in range(size)],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    x = {**axis_title("Read out after step s"), "type": "category", "showgrid": False}
    title = f"{plain(name, 24)}: edited step t" if name else "Edited step t"
    y = {**axis_title(title), "type": "category", "showgrid": False}
    return {"data": [heat], "layout": layout(x, {**y, "autorange": "reversed"}, height=380)}


def _w_text(row: Row | None) -> str:
    return "" if row is None or row["x"] is None else _nats(row["x"])


def _nats(value: float) -> str:
    """
    >>> _nats(0.0), _nats(0.00123), _nats(0.0625), _nats(12.34)
    ('0', '1e-3', '0.06', '12.3')
    """
    if value == 0:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _w_hover(row: Row | None, earlier: bool) -> str:
    if row is None:
        cause = "a step cannot act on an earlier read-out"
        return f"none: {cause if earlier else 'not run, or the edit changed nothing anywhere'}"
    end = f"W[{row['t']}, {row['s']}]"
    return f"{end}: {told(row, 'x', number)} nats"


def influence_graphs(edges: Sequence[Row], matrix: Sequence[Row] = ()) -> Spec:
    """Draw the principal graph of every subject and operator: steps on a line, arcs for edges.

    Args:
        edges: of `influence_graph`; the wider an arc, the larger its share of the largest W.
        matrix: of `influence`; its other edges are drawn pale behind them.
    """
    edges, matrix = _few(edges), _few(matrix)
    keys = [(s, o) for s in subjects_of(edges) for o in operators_of(of_subject(edges, s))]
    every = [*edges, *matrix]
    size = max(int(row["s"]) for row in every)
    panels = [_graph(_mine(edges, s, o), _mine(matrix, s, o), size) for s, o in keys]
    titles = [f"{s}: {operator_name(o)}" if s else operator_name(o) for s, o in keys]
    several = len(subjects_of(edges)) > 1
    columns = max(2, len(operators_of(edges)) if several else min(3, len(keys)))
    return tiled(panels, titles, columns=columns, height=250, shared=True)


def _mine(rows: Sequence[Row], subject: str, operator: str) -> list[Row]:
    return [row for row in of_subject(rows, subject) if row["operator"] == operator]


def _graph(edges: Sequence[Row], matrix: Sequence[Row], size: int) -> Spec:
    most = max([1e-9, *(r["x"] for r in matrix if r["x"] is not None and r["t"] < r["s"])])
    kept = {(row["t"], row["s"]) for row in edges}
    pale = [row for row in matrix if row["t"] < row["s"] and (row["t"], row["s"]) not in kept]
    drawn = [_arc(row, (row["x"] or 0) / most, SILVER) for row in pale if row["x"]]
    drawn += [_arc(row, row["share"], BLUE) for row in edges]
    drawn.append(_nodes(size))
    notes = [_arc_note(row) for row in edges]
    hidden = {"showgrid": False, "showticklabels": False, "showline": False}
    x = {
        **axis_title("Steps, left to right"),
        **hidden,
        "range": [0.5, size + 0.5],
    }
    y = {**axis_title(""), **hidden, "range": [-0.22, max(1.0, (size - 1) / 2) + 0.3]}
    return {"data": drawn, "layout": layout(x, y, height=320, annotations=notes)}


ARC = 24
"""Straight pieces of an arc."""


def _arc(row: Row, share: float, colour: str) -> Spec:
    """Half a circle from step t to step s."""
    t, s = row["t"], row["s"]
    angles = [math.pi * (1 - i / ARC) for i in range(ARC + 1)]
    middle, reach = (t + s) / 2, (s - t) / 2
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Principal edge" if colour == BLUE else "Other edge",
        "legendgroup": colour,
        "showlegend": False,
        "x": [round(middle + reach * math.cos(a), 4) for a in angles],
        "y": [round(0.09 + reach * math.sin(a), 4) for a in angles],
        "line": {"color": colour, "width": round(1 + 5 * min(1.0, share), 2)},
        "text": [f"{t} to {s}: {told(row, 'x', number)} nats"] * (ARC + 1),
        "hovertemplate": "%{text}<extra></extra>",
    }


def _nodes(size: int) -> Spec:
    steps = list(range(1, size + 1))
    marker = {"size": 26, "color": "white", "line": {"color": INK, "width": 1.5}}
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "Step",
        "showlegend": False,
        "x": steps,
        "y": [-0.02] * size,
        "text": [str(step) for step in steps],
        "marker": marker,
        "hoverinfo": "skip",
    }


def _arc_note(row: Row) -> Spec:
    place = {"x": (row["t"] + row["s"]) / 2, "y": 0.09 + (row["s"] - row["t"]) / 2}
    look = {"showarrow": False, "bgcolor": "rgba(255,255,255,0.85)", "font": {"size": 11}}
    return {**place, **look, "xref": "x", "yref": "y", "text": _nats(row["x"] or 0), "borderpad": 1}


# ---------------------------------------------------------------- shape


def shape_panels(rows: Sequence[Row]) -> Spec:
    """Draw the four shape numbers with intervals beside equal edges and the identity.

    The dashed line is what equal edges give. A cross is the identity's shape, which only a faulty
    pipeline has; where there is none, its effects are 0 and no cross is drawn.
    """
    named = [{**row, "group": str(row.get("subject") or "")} for row in rows]
    groups = [
        (each, subject_look(each or "W, 95% interval", i))
        for i, each in enumerate(subjects_of(named))
    ]
    return _metric_panels(named, groups)


def _metric_panels(rows: Sequence[Row], groups: Sequence[tuple[str, Look]]) -> Spec:
    """A panel a metric: operators down, a mark a group, the references behind them."""
    panels = [
        _metric_panel([r for r in rows if r["metric"] == metric], groups, title)
        for metric, title in METRICS.items()
    ]
    heads = [title.partition(" (")[0] for title in METRICS.values()]
    return tiled(
        panels,
        heads,
        columns=2,
        height=150 + 18 * len(operators_of(rows)) * (1 + len(groups)) // 2,
        shared=True,
    )


def _metric_panel(rows: Sequence[Row], groups: Sequence[tuple[str, Look]], title: str) -> Spec:
    operators = [name for name in operators_of(rows) if name != IDENTITY]
    rest = [row for row in rows if row["operator"] != IDENTITY]
    drawn: list[Spec | None] = []
    for place, (group, look) in enumerate(groups):
        shift = (place - (len(groups) - 1) / 2) * 0.5 / max(1, len(groups))
        mine = [row for row in rest if row["group"] == group and row["x"] is not None]
        drawn += [_dots(mine, operators, look, shift)] if mine else []
    drawn.append(_identity_marks(rest, operators, groups))
    equal = sorted({row["uniform"] for row in rest if row["uniform"] is not None})
    x = {**axis_title(title), "range": [-0.04 * _furthest(rest), 1.08 * _furthest(rest)]}
    y = {"tickvals": list(range(len(operators))), "showgrid": False}
    y |= {"range": [len(operators) - 0.4, -0.6]}
    y |= {"ticktext": [plain(operator_name(name)) for name in operators]}
    drawn.append(_equal_key(equal) if equal else None)
    made = [each for each in drawn if each]
    return {"data": made, "layout": layout(x, y, height=440, shapes=[_upright(e) for e in equal])}


def _furthest(rows: Sequence[Row]) -> float:
    """The largest number that a panel shows."""
    names = ("x", "x_high", "uniform", "identity")
    return max([1e-9, *(row[name] for row in rows for name in names if row[name] is not None)])


def _dots(rows: Sequence[Row], operators: Sequence[str], look: Look, shift: float) -> Spec:
    name, colour, _, symbol = look
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "legendgroup": plain(name),
        "x": [row["x"] for row in rows],
        "y": [operators.index(row["operator"]) + shift for row in rows],
        "error_x": bars(rows, "x", "x_low", "x_high"),
        "marker": {"size": 10, "symbol": symbol, "color": colour},
        "text": [_shape_hover(row) for row in rows],
        "hovertemplate": f"%{{text}}<extra>{plain(name)}</extra>",
    }


def _shape_hover(row: Row) -> str:
    own = told(row, "x", number)
    null = "none" if row["identity"] is None else number(row["identity"])
    equal = f"equal edges {number(row['uniform'])}, identity {null}"
    equal = f"identity {null}" if row["uniform"] is None else equal
    return f"{plain(operator_name(row['operator']))}: {own}<br>{equal}"


def _identity_marks(
    rows: Sequence[Row], operators: Sequence[str], groups: Sequence[tuple[str, Look]]
) -> Spec | None:
    """A cross at the identity's shape on each line whose group has one."""
    known = [row for row in rows if row["identity"] is not None]
    if not known:
        return None
    order = [group for group, _ in groups]
    shifts = [(order.index(r["group"]) - (len(order) - 1) / 2) * 0.5 / len(order) for r in known]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "The identity, an edit that changes nothing",
        "x": [row["identity"] for row in known],
        "y": [operators.index(r["operator"]) + d for r, d in zip(known, shifts, strict=True)],
        "marker": {"size": 12, "symbol": "x-thin", "line": {"color": INK, "width": 2.5}},
        "hovertemplate": "identity: %{x:.3f}<extra></extra>",
    }


def _upright(place: float) -> Spec:
    line = {"color": GREY, "width": 1.6, "dash": "dash"}
    ends = {"x0": place, "x1": place, "y0": 0, "y1": 1}
    return {"type": "line", "xref": "x", "yref": "y domain", **ends, "line": line, "layer": "below"}


def _equal_key(places: Sequence[float]) -> Spec:
    """The entry of the dashed line in the legend."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Equal edges",
        "x": [*places][:1],
        "y": [None],
        "line": {"color": GREY, "width": 1.6, "dash": "dash"},
        "hoverinfo": "skip",
    }


# ---------------------------------------------------------------- released code

OURS = ("Ours: both sides have consumed s steps", BLUE, "solid", "circle")
RELEASED = ("DIAGNOSTIC, released-code: faulty read-outs", DIAGNOSTIC_COLOUR, "dash", "diamond")


UNITS = {"sum": "nats", "span": "steps"} | dict.fromkeys(
    ("locality", "early_out", "late_in"), "share of W"
)
"""Titles of axes where panels are narrow."""


def released_panels(ours: Sequence[Row], released: Sequence[Row]) -> Spec:
    """Draw sum and shape by the released definitions beside ours; a line of panels a subject.

    Both from rows of `influence_shape`; a cross is what the identity gives by that definition.
    """
    rows = [
        {**row, "group": group}
        for group, given in (("ours", ours), ("released", released))
        for row in [*_sums(given), *given]
    ]
    names, groups = subjects_of(released), [("ours", OURS), ("released", RELEASED)]
    wanted = {"sum": "Sum of W (nats, over t < s)", **METRICS}
    panels = [
        _metric_panel([r for r in of_subject(rows, name) if r["metric"] == metric], groups, title)
        for name in names
        for metric, title in wanted.items()
    ]
    heads = [title.partition(" (")[0] for title in wanted.values()]
    height = 110 + 36 * len(operators_of(rows))
    if len(names) == 1:
        return tiled(panels, heads, columns=2, height=height, shared=True)
    titles = [head if name == names[0] else "" for name in names for head in heads]
    for place, panel in enumerate(panels):
        panel["layout"]["xaxis"] |= axis_title(UNITS[[*wanted][place % len(wanted)]])
        panel["layout"]["yaxis"] |= axis_title(plain(names[place // len(wanted)], 24))
    return tiled(panels, titles, columns=len(wanted), height=height + 20, shared=True)


def _sums(rows: Sequence[Row]) -> list[Row]:
    """The sum of each matrix as one more number, which equal edges say nothing of."""
    first = [row for row in rows if row["metric"] == next(iter(METRICS))]
    ends = {"x_low": None, "x_high": None, "uniform": None, "metric": "sum"}
    return [{**r, **ends, "x": r["total"], "identity": r["identity_total"]} for r in first]


def total_bars(ours: Sequence[Row], released: Sequence[Row]) -> Spec:
    """Draw the sum of W over all t < s, operator by operator, by both definitions, in nats.

    A panel a subject that has rows of the released definitions.
    """
    names = subjects_of(released)
    panels = [_total_panel(of_subject(ours, name), of_subject(released, name)) for name in names]
    if len(panels) == 1:
        return panels[0]
    titles = [name or "Subject" for name in names]
    return tiled(panels, titles, columns=1, height=260)


def _total_panel(ours: Sequence[Row], released: Sequence[Row]) -> Spec:
    operators = operators_of([*ours, *released])
    drawn = []
    for (name, colour, _, _), given, hatch in ((OURS, ours, ""), (RELEASED, released, "/")):
        totals = {row["operator"]: row["total"] for row in given}
        values = [totals.get(operator) for operator in operators]
        drawn.append(
            {
                "type": "bar",
                "name": plain(name),
                "x": [plain(operator_name(operator)) for operator in operators],
                "y": values,
                "text": ["" if value is None else _nats(value) for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
                "hovertemplate": "%{x}: %{y:.3f} nats<extra></extra>",
            }
        )
    x = {**axis_title("What is put in a step's place"), "type": "category", "tickangle": 0}
    y = {**axis_title("Sum of W over t < s, nats"), "rangemode": "tozero"}
    return {"data": drawn, "layout": layout(x, y, height=420, **LEGEND_BELOW)}
