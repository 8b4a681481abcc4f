"""Charts of alignment: IIA by site and map with its controls, capacity, bits.

Each takes rows as a run of `interp align` or an experiment stores them and returns a dictionary in
Plotly's own format, which the report embeds and the figures draw. A bar never stands alone: twin,
rival and best baseline are beside it, and train IIA is a mark on the bar of test IIA.

Source of the pictures: Sutter et al. 2025, arXiv:2507.08802; intervals, baselines, train IIA and
ranges are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.results.align_findings import (
    Place,
    at,
    average,
    pairs_name,
    place_of,
    places_of,
    pooled_row,
    site_name,
    tested_of,
)
from interp.results.latent_charts import HATCHED, SUBJECTS, SYMBOLS, tiled
from interp.results.report_charts import (
    AMBER,
    BLUE,
    GREY,
    INK,
    LEGEND_BELOW,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import Row, number
from interp.results.thinking_charts import Look, bars, line

LOW_TOP: Spec = {**LEGEND_BELOW, "margin": {"l": 56, "r": 16, "t": 12, "b": 112}}
"""The same for a chart without a title of its own: its caption stands above it."""

IIA: Spec = {"range": [-0.02, 1.05], "tickformat": ".1f", "dtick": 0.2}
"""The axis of an IIA."""

Bar = tuple[str, str, str]
"""Label, colour and hatching."""

NETWORK: Bar = ("Network", BLUE, "")
UNSEEN: Bar = ("Network, held-out identities", "#7fb3dc", "|")
TWIN: Bar = ("Random twin", GREY, "/")
RIVAL: Bar = ("Hardest rival algorithm", VERMILION, "x")
BASELINE: Bar = ("Best baseline", AMBER, ".")
TRAIN = "Train IIA of the bar"

Drawn = dict[str, Any]
"""A value to draw: x (the number), x_low, x_high, tick, and what else a hover text tells."""


# ---------------------------------------------------------------- IIA by site and map


def iia_bars(
    fits: Sequence[Row], verdicts: Sequence[Row] = (), baselines: Sequence[Row] = ()
) -> Spec:
    """Draw test IIA by site, a panel for each run, algorithm and map, its controls beside it.

    Args:
        fits: of `align_fits`.
        verdicts: of `align_verdicts`: they tell the tested algorithm from its rivals.
        baselines: of `align_baselines`; the best of a place is drawn.
    """
    tested = tested_of(fits, verdicts)
    own = [row for row in fits if place_of(row)[:2] in tested and row["kind"] != "planted"]
    panels, titles = [], []
    for key in dict.fromkeys(place[:3] for place in places_of(own)):
        mine = [row for row in own if place_of(row)[:3] == key]
        rivals = [
            row
            for row in fits
            if (place := place_of(row))[0] == key[0]
            and place[2] == key[2]
            and row["kind"] == "trained"
            and (key[0], place[1]) not in tested
        ]
        panels.append(_iia_panel(mine, rivals, baselines))
        titles.append(f"{key[0]}: {key[1]}, {key[2]}" if key[0] else f"{key[1]}, {key[2]}")
    made = tiled(panels, titles, columns=1, height=250)
    return {**made, "layout": {**made["layout"], "scattermode": "group", "bargap": 0.25}}


def _iia_panel(own: Sequence[Row], rivals: Sequence[Row], baselines: Sequence[Row]) -> Spec:
    places = places_of(own)
    series: list[tuple[Bar, list[Drawn]]] = [
        (NETWORK, [_pooled(_of_kind(own, p, "trained"), p) for p in places]),
        (UNSEEN, [_pooled(_of_kind(own, p, "trained"), p, "unseen_iia") for p in places]),
        (TWIN, [_pooled(_of_kind(own, p, "twin"), p) for p in places]),
        (RIVAL, [_hardest(rivals, p) for p in places]),
        (BASELINE, [_best(at(baselines, p), p) for p in places]),
    ]
    data: list[Spec] = []
    for look, values in series:
        known = [{**v, "tick": _tick(v["place"], places)} for v in values if v]
        if known:
            data += [_bar(known, look), *_train_marks(known, look)]
    ticks = [_tick(place, places) for place in places]
    x: Spec = {**axis_title("Site"), "type": "category", "categoryorder": "array"}
    x |= {"categoryarray": ticks, "range": [-0.5, len(ticks) - 0.5], "showgrid": False}
    return {"data": data, "layout": layout(x, {**axis_title("Test IIA"), **IIA})}


def _of_kind(rows: Sequence[Row], place: Place, kind: str) -> list[Row]:
    return [row for row in at(rows, place) if row["kind"] == kind]


def _tick(place: Place, places: Sequence[Place]) -> str:
    """A site, with its size where several were tried."""
    sizes = {each.size for each in places}
    return site_name(place.site) + (f", size {place.size}" if len(sizes) > 1 else "")


def _pooled(rows: Sequence[Row], place: Place, name: str = "iia") -> Drawn:
    known = [row for row in rows if row.get(name) is not None]
    if not known:
        return {}
    train = average(known, "train_iia") if name == "iia" else None
    return {**pooled_row(known, name), "place": place, "train": train, "what": ""}


def _hardest(rivals: Sequence[Row], place: Place) -> Drawn:
    """The rival whose own fit does best at a place of the algorithm."""
    there = [row for row in rivals if place_of(row)[3:] == place[3:]]
    names = dict.fromkeys(str(row["algorithm"]) for row in there)
    found = [
        {**_pooled([row for row in there if row["algorithm"] == name], place), "what": name}
        for name in names
    ]
    return max(found, key=lambda each: each["x"], default={})


def _best(rows: Sequence[Row], place: Place) -> Drawn:
    if not rows:
        return {}
    best = max(rows, key=lambda row: row["highest"])
    ends = {"x_low": None, "x_high": None, "train": None}
    return {"x": best["highest"], **ends, "n": None, "place": place, "what": best["baseline"]}


def _bar(values: Sequence[Drawn], look: Bar) -> Spec:
    label, colour, hatch = look
    return {
        "type": "bar",
        "name": label,
        "offsetgroup": label,
        "x": _ticks(values),
        "y": [value["x"] for value in values],
        **_ends(values),
        "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
        "text": [_told(value) for value in values],
        "textposition": "none",
        "hovertemplate": f"%{{x}}: %{{text}}<extra>{label}</extra>",
    }


def _ends(values: Sequence[Drawn]) -> Spec:
    """Intervals; nothing where no value has one, or Plotly draws an end without a line."""
    if all(value["x_low"] is None for value in values):
        return {}
    return {"error_y": {**bars(values, "x", "x_low", "x_high"), "color": INK}}


def _ticks(values: Sequence[Drawn]) -> list[str]:
    return [value["tick"] for value in values]


def _told(value: Drawn) -> str:
    """A value with its interval, its train IIA and its networks, for hover texts."""
    parts = [f"{plain(value['what'])} " if value["what"] else "", number(value["x"])]
    if value["x_low"] is not None and value["x_high"] is not None:
        parts.append(f" ({number(value['x_low'])} to {number(value['x_high'])})")
    if value["train"] is not None:
        parts.append(f", train {number(value['train'])}")
    if value["n"] is not None:
        parts.append(f"; n = {value['n']}")
    return "".join(parts)


def _train_marks(values: Sequence[Drawn], look: Bar) -> list[Spec]:
    """Train IIA over the bars of test IIA."""
    known = [value for value in values if value["train"] is not None]
    if not known:
        return []
    mark = {"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 2}}
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": TRAIN,
            "legendgroup": TRAIN,
            "offsetgroup": look[0],
            "x": _ticks(known),
            "y": [value["train"] for value in known],
            "marker": mark,
            "hovertemplate": f"%{{x}}: train %{{y:.3f}}<extra>{look[0]}</extra>",
        }
    ]


# ---------------------------------------------------------------- baselines and controls


def baseline_bars(rows: Sequence[Row], trained: Sequence[Row] = ()) -> Spec:
    """Draw baselines of one place, sensitive and insensitive pairs apart, the map above them.

    Args:
        rows: of `align_baselines`, of one place.
        trained: the place's own rows of `align_fits`.
    """
    names, lines = [], [*rows]
    if trained:
        own = {f"iia_{c}": average(trained, f"iia_{c}") for c in ("sensitive", "insensitive")}
        lines = [{"baseline": "the map", **own}, *rows]
    names = [plain(row["baseline"], 24) for row in lines]
    classes = (
        ("sensitive", "Sensitive: the answer must change", BLUE, ""),
        ("insensitive", "Insensitive: it must stay", SILVER, "/"),
    )
    data = [_class_bars(lines, names, *each) for each in classes]
    x = {**axis_title("IIA"), **IIA}
    y = {**axis_title(""), "type": "category", "categoryorder": "array", "showgrid": False}
    y |= {"categoryarray": names, "autorange": "reversed"}
    height = 150 + 36 * len(names)
    return {"data": data, "layout": layout(x, y, height=height, **LOW_TOP)}


def _class_bars(
    lines: Sequence[Row], names: Sequence[str], key: str, label: str, colour: str, hatch: str
) -> Spec:
    known = [(n, row[f"iia_{key}"]) for n, row in zip(names, lines, strict=True)]
    known = [(name, value) for name, value in known if value is not None]
    return {
        "type": "bar",
        "orientation": "h",
        "name": label,
        "x": [value for _, value in known],
        "y": [name for name, _ in known],
        "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
        "hovertemplate": f"%{{y}}: %{{x:.3f}}<extra>{label}</extra>",
    }


def control_points(rows: Sequence[Row], own: Row | None = None) -> Spec:
    """Draw what each fitted control of one place reaches: test IIA with its interval, train IIA.

    Args:
        rows: of `align_controls`, of one place.
        own: the place's row of `align_verdicts`; its interval is the band.
    """
    mine = [] if own is None else [{**own, "control": "the network"}]
    lines = [*mine, *rows]
    names = [plain(row["control"], 24) for row in lines]
    test = _across(lines, names, "iia", ("Test IIA", BLUE, "solid", "circle"))
    test["error_x"] = bars(lines, "iia", "iia_low", "iia_high")
    train = _across(lines, names, "train_iia", ("Train IIA", INK, "solid", "diamond-open"))
    x = {**axis_title("IIA"), **IIA}
    y = {**axis_title(""), "type": "category", "categoryorder": "array"}
    y |= {"categoryarray": names, "range": [len(names) - 0.4, -0.6]}
    shapes = [] if own is None else _band(own["iia_low"], own["iia_high"])
    made = layout(x, y, height=150 + 34 * len(names), shapes=shapes, **LOW_TOP)
    return {"data": [test, train], "layout": made}


def _across(lines: Sequence[Row], names: Sequence[str], value: str, look: Look) -> Spec:
    label, colour, _, symbol = look
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [row[value] for row in lines],
        "y": [*names],
        "marker": {"size": 10, "symbol": symbol, "color": colour, "line": {"width": 2}},
        "hovertemplate": f"%{{y}}: %{{x:.3f}}<extra>{label}</extra>",
    }


def _band(low: float | None, high: float | None) -> list[Spec]:
    """The interval of the network, down the whole panel."""
    if low is None or high is None:
        return []
    ends = {"x0": low, "x1": high, "y0": 0, "y1": 1, "xref": "x", "yref": "y domain"}
    fill = {"fillcolor": "rgba(43,123,186,0.15)", "line": {"width": 0}, "layer": "below"}
    return [{"type": "rect", **ends, **fill}]


# ---------------------------------------------------------------- capacity and bits


def capacity_curves(rows: Sequence[Row]) -> Spec:
    """Draw IIA by number of training pairs, train beside test, from `align_curve` of one place.

    A colour a family of maps; the network has a solid line, its random twin a dashed one.
    """
    families = list(dict.fromkeys(str(row["family"]) for row in rows))
    known = {row["n_pairs"] for row in rows}
    sizes = sorted(known - {None}) + ([None] if None in known else [])
    panels = [_capacity_panel(rows, families, sizes, side) for side in ("train_iia", "test_iia")]
    titles = ("Train IIA", "Test IIA")
    return tiled(panels, titles, columns=2, height=300, shared=True)


def _capacity_panel(
    rows: Sequence[Row], families: Sequence[str], sizes: Sequence[int | None], side: str
) -> Spec:
    data = []
    for i, family in enumerate(families):
        for net, dash in (("trained", "solid"), ("twin", "dash")):
            mine = [row for row in rows if (row["family"], row["net"]) == (family, net)]
            if not mine:
                continue
            mine = [{**row, "tick": _pairs(row["n_pairs"])} for row in mine]
            symbol = SYMBOLS[i % len(SYMBOLS)] + ("-open" if net == "twin" else "")
            look = (f"{family}, {net}", SUBJECTS[i % len(SUBJECTS)], dash, symbol)
            data.append(line(mine, "tick", side, look))
    ticks = [_pairs(n) for n in sizes]
    x: Spec = {**axis_title("Training pairs"), "type": "category", "categoryorder": "array"}
    x |= {"categoryarray": ticks, "range": [-0.3, len(ticks) - 0.7]}
    return {"data": data, "layout": layout(x, {**axis_title("IIA"), **IIA})}


def _pairs(n: int | None) -> str:
    return pairs_name(n).split()[0]


CODES: dict[str, Bar] = {"network": NETWORK, "twin": TWIN, "rival": ("Rival", VERMILION, "x")}


def bits_bars(rows: Sequence[Row], chance: float | None = None) -> Spec:
    """Draw bits per pair by place, network beside twin and rival, from rows of `align_bits`.

    `chance` is the bits of a label without a rule: a dotted line.
    """
    places = places_of(rows)
    ticks = {place: _short(place, places) for place in places}
    data = []
    for code in dict.fromkeys(str(row["code"]) for row in rows):
        label, colour, hatch = CODES.get(code, (code, SILVER, "-"))
        mine = [row for row in rows if row["code"] == code]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain(label),
                "x": [row["bits_per_pair"] for row in mine],
                "y": [ticks[place_of(row)] for row in mine],
                "text": [number(row["bits_per_pair"]) for row in mine],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
                "hovertemplate": f"%{{y}}: %{{x:.3f}} bits<extra>{plain(label)}</extra>",
            }
        )
    most = max([chance or 0.0, *(row["bits_per_pair"] for row in rows)])
    x = {**axis_title("Bits per pair (fewer is better)"), "range": [0, 1.15 * most]}
    y: Spec = {**axis_title(""), "type": "category", "categoryorder": "array", "showgrid": False}
    y |= {"categoryarray": list(ticks.values()), "autorange": "reversed"}
    height = 150 + 76 * len(places)
    shapes = [] if chance is None else [_dots("x", chance)]
    return {"data": data, "layout": layout(x, y, height=height, shapes=shapes, **LOW_TOP)}


def _short(place: Place, places: Sequence[Place]) -> str:
    """A place on an axis: only what tells it from the others, on lines of their own."""
    parts = [place.subject] if len({each.subject for each in places}) > 1 else []
    parts += [place.algorithm] if len({each.algorithm for each in places}) > 1 else []
    parts += [place.map, f"{site_name(place.site)}, {place.size}"]
    return "<br>".join(plain(part, 26) for part in parts)


def _dots(axis: str, value: float) -> Spec:
    """A dotted line across a panel at a value of one axis."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": value, f"{axis}1": value, f"{other}0": 0, f"{other}1": 1}
    refs = {f"{axis}ref": axis, f"{other}ref": f"{other} domain"}
    return {"type": "line", **ends, **refs, "line": {"color": INK, "width": 1.2, "dash": "dot"}}
