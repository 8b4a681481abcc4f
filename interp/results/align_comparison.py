"""Charts of our interchange accuracies beside published ones: by cell, by width, along training.

Rows are those of `interp.results.align_reference.compare`; charts are dictionaries in Plotly's own
format.

Source of the published values: Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from interp.results.align_charts import IIA, LOW_TOP
from interp.results.latent_charts import DASHES, SUBJECTS, SYMBOLS, tiled
from interp.results.report_charts import (
    BLUE,
    GREY,
    INK,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import Row, number
from interp.results.thinking_charts import Look, bars, line

PUBLISHED: Look = ("Published mean and range", GREY, "dash", "line-ns-open")
STANDING: dict[bool | None, tuple[str, str, str]] = {
    True: ("Ours, inside the range", BLUE, "circle"),
    False: ("Ours, outside the range", VERMILION, "x"),
    None: ("Ours, nothing published", SILVER, "diamond"),
}


def reference_ranges(rows: Sequence[Row]) -> Spec:
    """Draw our mean and interval of each cell beside the published mean and range.

    Cells of one name, fitted in two ways, are told apart by their part of the comparison.

    Args:
        rows: of `align_reference.compare`.
    """
    names = [cell_name(row) for row in rows]
    lines = [
        {
            **row,
            "tick": f"{name} ({plain(str(row.get('part')))})" if names.count(name) > 1 else name,
        }
        for row, name in zip(rows, names, strict=True)
    ]
    known = [row for row in lines if row["published"] is not None]
    data = [_theirs(known)] if known else []
    for inside, (label, colour, symbol) in STANDING.items():
        mine = [row for row in lines if row["inside"] is inside]
        if mine:
            data.append(_ours(mine, label, colour, symbol))
    x = {**axis_title("Test IIA, mean over networks"), "range": [0.35, 1.03], "tickformat": ".1f"}
    least = min((v for row in rows for v in _values(row)), default=0.4)
    x |= {"range": [min(0.35, least - 0.05), 1.03]}
    y: Spec = {**axis_title(""), "type": "category", "categoryorder": "array"}
    y |= {"categoryarray": [row["tick"] for row in lines], "range": [len(lines) - 0.3, -0.7]}
    height = 150 + 38 * len(lines)
    return {"data": data, "layout": layout(x, y, height=height, **LOW_TOP)}


def cell_name(row: Row) -> str:
    """Name a cell of the comparison, on two lines.

    >>> cell_name({"nets": "planted_and_or", "kind": "trained", "algorithm": "and_or",
    ...            "map": "identity", "layer": "2", "size": 12})
    'planted_and_or: and_or<br>identity, layer 2, size 12'
    """
    nets = f"{row['nets']}{' untrained' if row['kind'] == 'twin' else ''}: {row['algorithm']}"
    where = f"{row['map']}, layer {row['layer']}, size {row['size']}"
    return f"{plain(nets, 40)}<br>{plain(where, 40)}"


def _values(row: Row) -> list[float]:
    names = ("iia", "iia_low", "published_low")
    return [row[name] for name in names if row[name] is not None]


def _theirs(rows: Sequence[Row]) -> Spec:
    ends = bars(rows, "published", "published_low", "published_high")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": PUBLISHED[0],
        "x": [row["published"] for row in rows],
        "y": [row["tick"] for row in rows],
        "error_x": {**ends, "thickness": 7, "width": 0, "color": SILVER},
        "marker": {"symbol": PUBLISHED[3], "size": 13, "color": INK, "line": {"width": 2}},
        "text": [
            f"{number(row['published'])} ({number(row['published_low'])} to "
            f"{number(row['published_high'])})"
            for row in rows
        ],
        "hovertemplate": f"%{{y}}: %{{text}}<extra>{PUBLISHED[0]}</extra>",
    }


def _ours(rows: Sequence[Row], label: str, colour: str, symbol: str) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [row["iia"] for row in rows],
        "y": [row["tick"] for row in rows],
        "error_x": bars(rows, "iia", "iia_low", "iia_high"),
        "marker": {"symbol": symbol, "size": 9, "color": colour},
        "text": [_mine(row) for row in rows],
        "hovertemplate": f"%{{y}}: %{{text}}<extra>{label}</extra>",
    }


def _mine(row: Row) -> str:
    ends = [row["iia_low"], row["iia_high"]]
    span = "" if None in ends else f" ({number(ends[0])} to {number(ends[1])})"
    return f"{number(row['iia'])}{span}, train {number(row['train_iia'])}; n = {row['n_nets']}"


def width_sweep(rows: Sequence[Row]) -> Spec:
    """Draw IIA by the hidden size of a coupling map beside the published means and ranges.

    Args:
        rows: of `align_reference.compare`; those whose map is no LxH are left out.
            A panel for each algorithm, layer and number of blocks.
    """
    sized = [{**row, "hidden": hidden_of(str(row["map"]))} for row in rows]
    sized = [row for row in sized if row["hidden"] is not None]

    def title(row: Row) -> str:
        return f"{row['algorithm']}, layer {row['layer']}, {str(row['map']).rpartition('x')[0]}xH"

    return _curves(sized, "hidden", title, "Hidden size of the coupling map", log=True)


def hidden_of(name: str) -> int | None:
    """Return the hidden size of a coupling map, by its name; None for other maps.

    >>> hidden_of("revnet-1x16"), hidden_of("orthogonal")
    (16, None)
    """
    blocks, _, hidden = name.rpartition("-")[2].partition("x")
    return int(hidden) if blocks.isdecimal() and hidden.isdecimal() else None


def progression(rows: Sequence[Row]) -> Spec:
    """Draw IIA along training, a line a map, beside the published means and ranges.

    Args:
        rows: of `align_reference.compare`, with a column `checkpoint`: how
            far training has come. A panel for each algorithm and layer.
    """

    def title(row: Row) -> str:
        return f"{row['algorithm']}, layer {row['layer']}"

    return _curves(rows, "checkpoint", title, "Checkpoint", log=False)


def _curves(
    rows: Sequence[Row], x: str, title: Callable[[Row], str], name: str, *, log: bool
) -> Spec:
    titles = list(dict.fromkeys(map(title, rows)))
    maps = list(dict.fromkeys(_series(row, x) for row in rows))
    ticks = sorted({row[x] for row in rows})
    axis: Spec = {**axis_title(name), "tickvals": ticks, "ticktext": [str(each) for each in ticks]}
    axis |= {"type": "log"} if log else {}
    y = {**axis_title("Test IIA"), **IIA, "range": [0.35, 1.05], "dtick": 0.1}
    panels = []
    for head in titles:
        mine = [row for row in rows if title(row) == head]
        data = [
            trace
            for i, series in enumerate(maps)
            for trace in _curve([r for r in mine if _series(r, x) == series], x, series, i)
        ]
        panels.append({"data": data, "layout": layout(axis, y)})
    return tiled(panels, titles, columns=min(2, len(panels)), height=320)


def _series(row: Row, x: str) -> str:
    """What a line is of: a map, or the networks where the map's size is the axis."""
    return str(row["map"]) if x == "checkpoint" else "coupling map"


def _curve(rows: Sequence[Row], x: str, series: str, place: int) -> list[Spec]:
    """Our line with its interval, train IIA, and the published mean with its range."""
    ordered = sorted(rows, key=lambda row: row[x])
    if not ordered:
        return []
    colour, i = SUBJECTS[place % len(SUBJECTS)], place % len(SYMBOLS)
    ours = line(ordered, x, "iia", (f"{series}: ours, test", colour, DASHES[0], SYMBOLS[i]))
    ours["error_y"] = bars(ordered, "iia", "iia_low", "iia_high")
    look = (f"{series}: ours, train", colour, "dot", f"{SYMBOLS[i]}-open")
    found = [ours, line(ordered, x, "train_iia", look)]
    known = [row for row in ordered if row.get("published") is not None]
    if known:
        grey = GREY if place == 0 else SILVER
        theirs = line(known, x, "published", (f"{series}: published", grey, "dash", "line-ew-open"))
        theirs["error_y"] = bars(known, "published", "published_low", "published_high")
        found.append(theirs)
    return found
