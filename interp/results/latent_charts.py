"""Charts of latent reasoning: flips, early stops and commitment; what these charts share.

Each takes rows as a run stores them and returns a dictionary in Plotly's own format, which the
report embeds and the figures draw. Rows of several subjects, told apart by a column `subject`, are
drawn on the same axes. The identity, an edit that changes nothing, is drawn with the others, and so
is what equal edges would give: a bare number of a matrix misleads.

Source of the pictures: Li et al. 2026, arXiv:2602.08783; intervals, references and nulls are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.results.report_charts import (
    AMBER,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    INK,
    LEGEND_BELOW,
    PURPLE,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import Row, number, percent
from interp.results.thinking_charts import SHARE, Look, bars, line

IDENTITY = "identity"
TESTED = "resample"
"""The operator that findings speak of where it was run: the vectors that it feeds are real ones."""

OPERATORS: Mapping[str, tuple[str, str, str]] = {
    "resample": ("Another problem's step", BLUE, ""),
    "zero": ("Zero", VERMILION, "/"),
    "mean_step": ("Mean of the step", AMBER, "x"),
    "mean": ("Mean of all steps", BROWN, "+"),
    "rotate": ("Rotated", GREEN, "-"),
    "shuffled_donor": ("Null: donor's other step", PURPLE, "."),
    "swap": ("Another problem's whole thought", BROWN, "\\"),
    "identity": ("Null: identity", SILVER, "|"),
}
"""Label, colour and hatching of each operator; further ones take the looks in `MORE`."""
MORE = ((PURPLE, "\\"), (BROWN, "|"), (GREEN, "+"), (GREY, "x"))

SUBJECTS = (BLUE, VERMILION, GREEN, PURPLE, AMBER, BROWN, GREY)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star")
HATCHES = ("", "/", "x", ".", "-", "+", "|")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")

TOGETHER = (TESTED, "zero", "shuffled_donor", IDENTITY)
"""Operators whose matrices and graphs are drawn of several subjects at once; the page of each has
all."""

METRICS: Mapping[str, str] = {
    "locality": "Locality (share of W on t to t + 1)",
    "span": "Span (steps)",
    "early_out": "Early-out (share of W from step 1)",
    "late_in": "Late-in (share of W at the last step)",
}
"""The four numbers of a shape, and what their axes are called."""

HATCHED: Spec = {"fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.75, "size": 7}
"""How bars differ by more than their colour."""

PALE_TO_DARK = [[0.0, "#f7fbff"], [0.35, "#9ecae1"], [0.7, "#3182bd"], [1.0, "#08306b"]]
DIAGNOSTIC_COLOUR = VERMILION
"""The colour of all that faulty definitions made."""


# ---------------------------------------------------------------- rows


def subjects_of(rows: Iterable[Row]) -> list[str]:
    """Return the subjects of some rows, in their order; one without a name where none is told.

    >>> subjects_of([{"subject": "b"}, {"subject": "a"}, {"subject": "b"}]), subjects_of([{}])
    (['b', 'a'], [''])
    """
    return list(dict.fromkeys(str(row.get("subject") or "") for row in rows))


def of_subject(rows: Iterable[Row], subject: str) -> list[Row]:
    """Return the rows of one subject."""
    return [row for row in rows if str(row.get("subject") or "") == subject]


def operators_of(rows: Iterable[Row]) -> list[str]:
    """Return the operators of some rows, in the order of `OPERATORS`, the identity last.

    >>> operators_of([{"operator": "identity"}, {"operator": "odd"}, {"operator": "resample"}])
    ['resample', 'odd', 'identity']
    """
    found = dict.fromkeys(str(row["operator"]) for row in rows)
    known = [name for name in OPERATORS if name in found and name != IDENTITY]
    others = [name for name in found if name not in known and name != IDENTITY]
    return [*known, *others, *([IDENTITY] if IDENTITY in found else [])]


def operator_name(name: str) -> str:
    """What an operator is called where people read.

    >>> operator_name("rotate_45"), operator_name("gaussian_mu")
    ('Rotated (45)', 'gaussian mu')
    """
    if name in OPERATORS:
        return OPERATORS[name][0]
    stem, _, rest = name.partition("_")
    return f"{OPERATORS[stem][0]} ({rest})" if stem in OPERATORS else name.replace("_", " ")


def _look(name: str, place: int) -> tuple[str, str, str]:
    """Label, colour and hatching of an operator."""
    known = OPERATORS.get(name) or OPERATORS.get(name.partition("_")[0])
    colour, shape = known[1:] if known else MORE[place % len(MORE)]
    return operator_name(name), colour, shape


def step_names(rows: Iterable[Row]) -> list[str]:
    """Return the sets of steps that were edited, those of one step first.

    >>> step_names([{"steps": "1+2"}, {"steps": "10"}, {"steps": "2"}])
    ['2', '10', '1+2']
    """
    found = {str(row["steps"]) for row in rows}
    return sorted(found, key=lambda each: [each.count("+"), *map(int, each.split("+"))])


def told(row: Row, value: str, write: Any = percent) -> str:
    """A number with its interval and its problems, for hover texts."""
    middle, low, high = (row.get(f"{value}{end}") for end in ("", "_low", "_high"))
    if middle is None:
        return "no value"
    ends = f"{write(low)} to {write(high)}" if None not in (low, high) else "no interval"
    return f"{write(middle)} ({ends}; n = {row.get('n_problems', 0)})"


def tiled(
    specs: Sequence[Spec],
    titles: Sequence[str],
    *,
    columns: int,
    height: int,
    shared: bool = False,
) -> Spec:
    """Return charts as the panels of one, row by row, with one legend below all.

    A name that several panels have stands in the legend once. `height` is that of one row in
    pixels, and `shared` says that all panels have the same left axis, which is then written once.
    """
    lines = math.ceil(len(specs) / columns)
    data: list[Spec] = []
    heads: list[Spec] = []
    merged: Spec = {**specs[0]["layout"]}
    seen: set[str] = set()
    for place, (spec, title) in enumerate(zip(specs, titles, strict=True)):
        x, y = _domains(place, columns, lines, height)
        n = "" if place == 0 else str(place + 1)
        merged[f"xaxis{n}"] = {**spec["layout"]["xaxis"], "domain": x, "anchor": f"y{n}"}
        merged[f"yaxis{n}"] = {**spec["layout"]["yaxis"], "domain": y, "anchor": f"x{n}"}
        if shared and place % columns:
            merged[f"yaxis{n}"] |= {"showticklabels": False, **axis_title("")}
        for trace in spec["data"]:
            known = {"showlegend": False} if str(trace.get("name")) in seen else {}
            seen.add(str(trace.get("name")))
            data.append({**trace, **known, "xaxis": f"x{n}", "yaxis": f"y{n}"})
        heads.append(_head(title, x[0], y[1]))
        notes = spec["layout"].get("annotations", ())
        heads += [_moved(each, n) for each in notes]
    room = {"height": height * lines + 130, **LEGEND_BELOW}
    shapes = [
        _moved(s, str(i + 1) if i else "")
        for i, spec in enumerate(specs)
        for s in spec["layout"].get("shapes", ())
    ]
    return {"data": data, "layout": {**merged, **room, "annotations": heads, "shapes": shapes}}


PANEL_GAP = 96
"""Pixels between two rows of panels: the titles of the axes, and those of the panels."""


def _domains(place: int, columns: int, lines: int, height: int) -> tuple[list[float], list[float]]:
    """Where a panel lies, as shares of the width and the height."""
    across, down = 0.075 if columns < 3 else 0.03, PANEL_GAP / (height * lines)
    i, j = divmod(place, columns)
    wide = (1 - across * (columns - 1)) / columns
    high = (1 - down * (lines - 1)) / lines
    left, top = j * (wide + across), 1 - i * (high + down)
    return [round(left, 6), round(left + wide, 6)], [
        round(max(top - high, 0.0), 6),
        round(float(top), 6),
    ]


def _head(title: str, x: float, y: float) -> Spec:
    words = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {
        **words,
        "x": x,
        "y": y,
        "yshift": 4,
        "text": plain(title),
        "showarrow": False,
        "font": {"size": 14},
    }


def _moved(each: Spec, n: str) -> Spec:
    """A note or a shape of one panel, on the axes that it has among others."""
    ends = {"xref": f"x{n}", "yref": f"y{n}"}
    for ref, old in (("xref", "x"), ("yref", "y")):
        given = str(each.get(ref, old))
        ends[ref] = f"{ends[ref]}{given[1:]}"  # such as "x domain"
    return {**each, **ends}


# ---------------------------------------------------------------- flips


def flip_bars(rows: Sequence[Row]) -> Spec:
    """Draw the share of answers that flip, by the step that is edited, from rows of `necessity`.

    One subject: a bar an operator. Several: a panel an operator, a bar a subject. A dotted line is
    the rate of answers drawn at random, where the rows have it.
    """
    names, steps = subjects_of(rows), step_names(rows)
    if len(names) == 1:
        return _flip_panel(rows, operators_of(rows), _look, "operator", steps)
    places = {
        name: (name or "Subject", SUBJECTS[i % len(SUBJECTS)], HATCHES[i % len(HATCHES)])
        for i, name in enumerate(names)
    }
    operators = operators_of(rows)
    panels = [
        _flip_panel(
            [
                {**row, "subject": str(row.get("subject") or "")}
                for row in rows
                if row["operator"] == operator
            ],
            names,
            lambda name, _: places[name],
            "subject",
            steps,
        )
        for operator in operators
    ]
    return tiled(panels, [operator_name(o) for o in operators], columns=2, height=300, shared=True)


def _flip_panel(
    rows: Sequence[Row], names: Sequence[str], look: Any, key: str, steps: Sequence[str]
) -> Spec:
    drawn = []
    for place, name in enumerate(names):
        mine = {str(row["steps"]): row for row in rows if row[key] == name}
        label, colour, hatch = look(name, place)
        here = [mine[step] for step in steps if step in mine and mine[step]["flip"] is not None]
        drawn += [_bar(here, label, colour, hatch)] if here else []
    x = {**axis_title("Edited step (of all latent steps)"), "type": "category"}
    x |= {"categoryorder": "array", "categoryarray": [_step_tick(step) for step in steps]}
    x |= {"range": [-0.5, len(steps) - 0.5]}
    y = {**axis_title("Answers flipped"), **SHARE, "range": [0, 1.08]}
    shapes = _level({row.get("ceiling") for row in rows})
    return {"data": drawn, "layout": layout(x, y, height=440, shapes=shapes, **LEGEND_BELOW)}


def _step_tick(steps: str) -> str:
    """
    >>> _step_tick("2"), _step_tick("1+2+3")
    ('2', 'all 3')
    """
    parts = steps.split("+")
    whole = parts == [str(i + 1) for i in range(len(parts))]
    return steps if len(parts) == 1 else f"all {len(parts)}" if whole else steps


def _bar(rows: Sequence[Row], label: str, colour: str, hatch: str) -> Spec:
    return {
        "type": "bar",
        "name": plain(label),
        "x": [_step_tick(str(row["steps"])) for row in rows],
        "y": [row["flip"] for row in rows],
        "error_y": {**bars(rows, "flip", "flip_low", "flip_high"), "color": INK},
        "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
        "text": [told(row, "flip") for row in rows],
        "textposition": "none",
        "hovertemplate": f"Step %{{x}}: %{{text}}<extra>{plain(label)}</extra>",
    }


def _level(heights: Iterable[float | None]) -> list[Spec]:
    """A dotted line across a panel at each height that is known."""
    mark = {"type": "line", "xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "layer": "above"}
    dots = {"color": INK, "width": 1.2, "dash": "dot"}
    return [{**mark, "y0": h, "y1": h, "line": dots} for h in heights if h is not None]


def operator_map(rows: Sequence[Row], value: str = "flip") -> Spec:
    """Draw one value as a map, operator by edited step; a panel a subject, with one scale.

    `value` is a column of `necessity`: flip (a share) or a mean such as kl (nats a token).
    """
    share = value in ("flip", "accuracy", "d_accuracy")
    names, title = subjects_of(rows), "Answers flipped" if value == "flip" else f"Mean {value}"
    operators = operators_of(rows)[::-1]
    panels = [_map(of_subject(rows, name), operators, value, share) for name in names]
    most = 1.0 if share else max([1e-9, *(row[value] for row in rows if row[value] is not None)])
    bar = {"title": {"text": plain(title), "side": "right"}, "thickness": 14}
    bar |= {"tickformat": ".0%"} if share else {}
    axis = {"cmin": 0, "cmax": most, "colorscale": PALE_TO_DARK, "colorbar": bar}
    if len(panels) == 1:
        made = panels[0]
        return {**made, "layout": {**made["layout"], "coloraxis": axis}}
    height = 120 + 30 * len(operators)
    titles = [name or "Subject" for name in names]
    made = tiled(panels, titles, columns=2, height=height, shared=True)
    return {**made, "layout": {**made["layout"], "coloraxis": axis}}


def _map(rows: Sequence[Row], operators: Sequence[str], value: str, share: bool) -> Spec:
    steps = step_names(rows)
    cells = {(row["operator"], str(row["steps"])): row for row in rows}
    grid = [[cells.get((operator, step)) for step in steps] for operator in operators]
    heat = {
        "type": "heatmap",
        "x": [_step_tick(step) for step in steps],
        "y": [plain(operator_name(operator)) for operator in operators],
        "z": [[row and row[value] for row in line] for line in grid],
        "text": [[_cell_text(row, value, share) for row in line] for line in grid],
        "customdata": [[_cell_hover(row, value, share) for row in line] for line in grid],
        "texttemplate": "%{text}",
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y}, step %{x}: %{customdata}<extra></extra>",
    }
    x = {**axis_title("Edited step"), "type": "category", "showgrid": False}
    y = {**axis_title(""), "type": "category", "showgrid": False}
    return {"data": [heat], "layout": layout(x, y, height=180 + 34 * len(operators))}


def _cell_text(row: Row | None, value: str, share: bool) -> str:
    if row is None or row[value] is None:
        return ""
    return percent(row[value]) if share else number(row[value], 2)


def _cell_hover(row: Row | None, value: str, share: bool) -> str:
    return "not run" if row is None else told(row, value, percent if share else number)


# ---------------------------------------------------------------- early stop

STOPS: Mapping[str, Look] = {
    "solved": ("S(k): right at k or before (cannot fall)", SILVER, "dash", "square"),
    "accuracy": ("A(k): right when stopped at k", BLUE, "solid", "circle"),
    "forced": ("The answer, forced", PURPLE, "dot", "diamond"),
    "next_step": ("The next step in text, forced", AMBER, "dashdot", "triangle-up"),
    "retention": ("Of those right at k, right at the end", GREEN, "longdash", "x"),
}
"""How each curve over early stops is drawn."""


def stop_curves(rows: Sequence[Row]) -> Spec:
    """Draw what stopping after k steps gives, from rows of `early_stop`.

    One subject: a line a curve of `STOPS`. Several: A(k) beside S(k), a line a subject.
    """
    names = subjects_of(rows)
    if len(names) == 1:
        return _stop_chart([(rows, value, look) for value, look in STOPS.items()], rows)
    looks = [subject_look(name, i) for i, name in enumerate(names)]
    mine = [(of_subject(rows, name), look) for name, look in zip(names, looks, strict=True)]
    both = [
        _stop_chart([(own, value, look) for own, look in mine], rows)
        for value in ("accuracy", "solved")
    ]
    titles = ("A(k): right when stopped at k", "S(k): right at k or before (cannot fall)")
    return tiled(both, titles, columns=2, height=340)


def subject_look(name: str, place: int) -> Look:
    """Name, colour, dash and symbol of a subject."""
    i = place % len(SUBJECTS)
    return (name or "Subject", SUBJECTS[i], DASHES[i], SYMBOLS[i])


def _stop_chart(curves: Sequence[tuple[Sequence[Row], str, Look]], rows: Sequence[Row]) -> Spec:
    lines = [
        _told_line([row for row in own if row[value] is not None], "k", value, look)
        for own, value, look in curves
        if any(row[value] is not None for row in own)
    ]
    ks = sorted({row["k"] for row in rows})
    x = {**axis_title("Latent steps before the answer, k"), "tickvals": ks}
    y = {**axis_title("Problems"), **SHARE, "range": [-0.04, 1.06]}
    return {"data": lines, "layout": layout(x, y, height=440, **LEGEND_BELOW)}


def _told_line(rows: Sequence[Row], x: str, y: str, look: Look, write: Any = percent) -> Spec:
    """A line with intervals whose hover text has them and the problems."""
    hover = f"%{{x}}: %{{text}}<extra>{plain(look[0])}</extra>"
    return line(
        rows,
        x,
        y,
        look,
        error_y=bars(rows, y, f"{y}_low", f"{y}_high"),
        text=[told(row, y, write) for row in rows],
        hovertemplate=hover,
    )


# ---------------------------------------------------------------- commitment

SOURCES: Mapping[str, Look] = {
    "read_out": ("What it would say (read-out)", VERMILION, "dash", "diamond"),
    "probe": ("What the vector holds (probe)", BLUE, "solid", "circle"),
}
"""How the two ways to read a latent step are drawn."""


def commitment_panels(curve: Sequence[Row], probes: Sequence[Row] = ()) -> Spec:
    """Draw bits and the share that has committed, by step; a line of panels a subject.

    Args:
        curve: of `commitment`.
        probes: of `commitment_probes`: the probe of shuffled labels is the control, with the range
            of its shuffles.
    """
    names = subjects_of(curve)
    panels, titles = [], []
    for name in names:
        mine, shuffled = of_subject(curve, name), of_subject(probes, name)
        panels += [_bits_chart(mine, shuffled, curve), _committed_chart(mine, curve)]
        start = f"{name}: " if name else ""
        titles += [f"{start}Bits still needed", f"{start}Committed by then"]
    return tiled(panels, titles, columns=2, height=340)


def _bits_chart(rows: Sequence[Row], probes: Sequence[Row], every: Sequence[Row]) -> Spec:
    ordered = sorted(probes, key=lambda row: row["t"])
    lines = [*_shuffled(ordered)]
    for source, look in SOURCES.items():
        mine = sorted((r for r in rows if r["source"] == source), key=lambda row: row["t"])
        lines += [_told_line(mine, "t", "bits", look, number)] if mine else []
    ends = [row["bits_high"] or row["bits"] for row in every]
    y = {**axis_title("H(answer | read-out), bits, held out")}
    y |= {"range": [0, 1.08 * max([1.0, *ends, *(r["shuffled_bits_high"] for r in ordered)])]}
    shapes = _level({round(row["base_bits"], 6) for row in ordered})
    return {"data": lines, "layout": layout(_steps(every), y, height=440, shapes=shapes)}


def _shuffled(probes: Sequence[Row]) -> list[Spec]:
    if not probes:
        return []
    low, high = ([row[f"shuffled_bits_{end}"] for row in probes] for end in ("low", "high"))
    steps = [row["t"] for row in probes]
    ring = {"x": [*steps, *reversed(steps)], "y": [*high, *reversed(low)], "fill": "toself"}
    shade = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    shade |= {"name": "Shuffled: range", "showlegend": False, "fillcolor": "rgba(107,116,128,0.2)"}
    look = ("Probe of shuffled labels: mean and range", GREY, "dot", "square")
    return [{**shade, **ring}, _told_line(probes, "t", "shuffled_bits", look, number)]


def _steps(rows: Sequence[Row]) -> Spec:
    return {**axis_title("Latent steps taken, t"), "tickvals": sorted({row["t"] for row in rows})}


def _committed_chart(rows: Sequence[Row], every: Sequence[Row]) -> Spec:
    column = committed_column(every)
    lines = []
    for source, look in SOURCES.items():
        mine = sorted((r for r in rows if r["source"] == source), key=lambda row: row["t"])
        lines += [_told_line(mine, "t", column, look)] if mine else []
    least = column.partition("_")[2]
    y = {**axis_title(f"Samples with |p(A) {chr(0x2212)} p(B)| ≥ {least} so far"), **SHARE}
    y |= {"range": [-0.04, 1.06]}
    return {"data": lines, "layout": layout(_steps(every), y, height=440)}


def committed_column(rows: Sequence[Row]) -> str:
    """The column of the highest threshold.

    >>> committed_column([{"committed_0.4": 0, "committed_0.5": 0, "committed_0.5_low": 0}])
    'committed_0.5'
    """
    found = [k for k in rows[0] if k.startswith("committed_") and not k.endswith(("_low", "_high"))]
    return max(found, key=lambda each: float(each.partition("_")[2]))
