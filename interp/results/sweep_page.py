"""The pages of a sweep store: one of each sweep, and one of all. Drawn from records alone.

Every text of a configuration, a grid, an error or a log is taken for hostile: it passes `esc`,
`plain` or `script_json`, and the page runs no script but its own (`report_html.document`). The
table of all cells is drawn in the browser from a data block, so 10,000 of them open at once.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from interp.results import report_html as page
from interp.results.report_charts import (
    AMBER,
    BLUE,
    GREY,
    INK,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_html import esc
from interp.results.report_stats import DASH, MINUS, count

State = Literal["done", "failed", "todo"]

STATES: dict[State, str] = {"done": "done", "failed": "failed", "todo": "to do"}
"""States and their words."""
IN_FULL = 50
"""How many failed cells a page shows with traceback and log; the table of cells has them all."""
IN_SIGHT = 6
"""How many of these are in sight before the reader asks for more."""
STARTS = 20
"""How many of the last starts a page lists."""
LOG_CHARS = 4_000
"""How much of a traceback or log is shown: its end."""
REASON_CHARS = 160
"""How much of a reason the table of cells has."""
CHOICES = 40
"""Up to so many values a field has a list to choose from."""
COLOURS = (BLUE, VERMILION, AMBER, GREY, INK)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One cell of a sweep."""

    key: str
    label: str
    """The fields in which it differs from others, with their values."""
    config: Mapping[str, Any]
    state: State
    seconds: float | int | None = None
    rows: int | None = None
    failure: Mapping[str, Any] | None = None
    """The last failure: attempts, error, kind, traceback, log, seconds, host, when."""

    @property
    def reason(self) -> str:
        """The kind of its failure and the first line of the error; empty where it did not fail."""
        if self.failure is None:
            return ""
        first = str(self.failure.get("error", "")).strip().partition("\n")[0]
        return ": ".join(part for part in (str(self.failure.get("kind", "")), first) if part)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The mean of the headline number over the rows that agree on the fields of the chart."""

    values: tuple[Any, ...]
    """One value for each field."""
    mean: float | None
    low: float | None
    high: float | None
    count: int
    units: int


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number that a sweep is about, by the fields that vary."""

    table: str
    column: str
    fields: tuple[str, ...]
    pooled: tuple[str, ...]
    """Fields that vary too and are averaged over."""
    groups: Sequence[Group]
    notes: Sequence[str]
    """What belongs under the chart: the unit of the intervals, and intervals to distrust."""


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """Everything that a page says of one sweep."""

    name: str
    about: Mapping[str, Any]
    """The description as the store has it (`sweep.json`)."""
    cells: Sequence[Line]
    varied: tuple[str, ...]
    """The fields in which cells differ."""
    spent: Mapping[str, str] = field(default_factory=dict)
    """What the finished cells cost together, written out, by name."""
    headline: Headline | None = None
    no_chart: str = ""
    """Why there is no headline, for the reader."""

    def count(self, state: State) -> int:
        """How many cells are in a state."""
        return sum(cell.state == state for cell in self.cells)

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """Every start of the sweep, the first one first."""
        found = self.about.get("starts")
        return [each for each in found if isinstance(each, Mapping)] if found else []


def render_sweep(view: SweepView, *, home: bool = False) -> str:
    """Return the page of one sweep; the same records give the same bytes.

    With `home` it links to the page of its store.
    """
    back = '<p><a href="../../index.html">All sweeps of this store</a></p>' * home
    head = f"<header>{back}<h1>{esc(view.name)}</h1>{_overview(view)}</header>"
    charts = _charts([view])
    parts = "".join(
        f'<section id="{name}"><h2>{title}</h2>{body}</section>'
        for name, title, body in _parts(view, "chart-0")
    )
    cells = f'<section id="cells"><h2>Cells</h2>{_cell_table(view)}</section>'
    island = page.script_json("cells-data", cells_data(view))
    return _document(view.name, head + parts + cells, charts, island)


def render_store(
    store: str,
    views: Sequence[SweepView],
    *,
    runs: Sequence[str] = (),
    unread: Mapping[str, str] | None = None,
) -> str:
    """Return the page of a store: every sweep in short, each with a link to its own page.

    `runs` names folders in the store that hold a `report.html`; `unread` says by name why a sweep
    cannot be read.
    """
    bad = "".join(
        f'<p class="warning">{esc(name)} is not shown: {esc(why)}</p>'
        for name, why in (unread or {}).items()
    )
    total = f"{count(len(views), 'sweep')}, {count(sum(len(v.cells) for v in views), 'cell')}"
    head = f"<header><h1>Sweeps</h1><p>{esc(store)} · {total}</p>{bad}</header>"
    body = f'<section id="sweeps"><h2>All sweeps</h2>{_sweep_table(views)}</section>'
    for place, view in enumerate(views):
        parts = "".join(
            f"<h3>{title}</h3>{part}" for _, title, part in _parts(view, f"chart-{place}")
        )
        link = f'<p><a href="{_address(view)}">All {count(len(view.cells), "cell")}</a></p>'
        body += f'<section id="sweep-{place}"><h2>{esc(view.name)}</h2>{_overview(view)}{link}'
        body += f"{parts}</section>"
    if runs:
        links = "".join(f'<li><a href="./{quote(n)}/report.html">{esc(n)}</a></li>' for n in runs)
        body += f'<section id="runs"><h2>Reports of runs</h2><ul>{links}</ul></section>'
    return _document("Sweeps", head + body, _charts(views), "")


def _document(title: str, body: str, charts: Mapping[str, Spec], island: str) -> str:
    scripts = [page.asset("sweep.js")]
    if charts:
        scripts.append(get_plotlyjs())
    data = f"<main>{body}</main>\n{page.script_json('charts-data', charts)}\n{island}"
    style = page.asset("report.css") + page.asset("sweep.css")
    why = "Without scripts the figures and the table of cells stay empty."
    return page.document(title, data, style=style, scripts=scripts, noscript=why)


def _charts(views: Sequence[SweepView]) -> dict[str, Spec]:
    return {
        f"chart-{place}": dot_plot(view.headline)
        for place, view in enumerate(views)
        if view.headline is not None
    }


def _address(view: SweepView) -> str:
    return f"./sweeps/{quote(view.name)}/index.html"


# ---------------------------------------------------------------- parts of a sweep


def _overview(view: SweepView) -> str:
    """The experiment, a bar of the cells, and the costs."""
    starts, last = view.starts, ""
    if starts:
        last = f" · {count(len(starts), 'start')}, the last {esc(starts[-1].get('when', DASH))}"
    about = f"<p>Experiment {esc(view.about.get('experiment', DASH))}{last}</p>"
    cost = [f"{esc(name)}: {esc(said)}" for name, said in view.spent.items()]
    items = [f"{view.count(state):,} {word}" for state, word in STATES.items()]
    facts = "".join(f"<li>{item}</li>" for item in [count(len(view.cells), "cell"), *items, *cost])
    return f'{about}{_bar(view)}<ul class="facts">{facts}</ul>'


def _bar(view: SweepView) -> str:
    """The shares of cells that are done and failed; the rest of the bar is to do."""
    total = max(len(view.cells), 1)
    words = ", ".join(f"{view.count(state):,} {word}" for state, word in STATES.items())
    shares = "".join(
        f'<span class="{state}" style="width:{100 * view.count(state) / total:.4g}%"></span>'
        for state in ("done", "failed")
    )
    return f'<div class="bar" role="img" aria-label="{words}" title="{words}">{shares}</div>'


def _parts(view: SweepView, chart: str) -> list[tuple[str, str, str]]:
    """The parts of a sweep but its cells: anchor, title and body."""
    parts = [("headline", _headline_title(view), _headline_part(view, chart))]
    if view.count("failed"):
        parts.append(("failed", "Failed cells", _failed_part(view)))
    parts.append(("grid", "Grid", _grid_part(view)))
    parts.append(("starts", "Starts", _starts_part(view)))
    return parts


def _headline_title(view: SweepView) -> str:
    return esc(f"Mean {view.headline.column}") if view.headline else "Figure"


def _headline_part(view: SweepView, chart: str) -> str:
    found = view.headline
    if found is None:
        return f'<p class="note">{esc(view.no_chart)}</p>'
    said = f"Mean of {found.column} over the rows of the table {found.table}, with 95% intervals."
    if found.pooled:
        said += f" Rows that differ only in {', '.join(found.pooled)} are averaged together."
    heads = [*found.fields, "mean", "low", "high", "values", "units"]
    lines = [[*map(words, g.values), *_numbers(g)] for g in found.groups]
    numbers = _table(heads, lines, left=len(found.fields))
    notes = " ".join([said, *found.notes])
    return (
        f'<p class="note">{esc(notes)}</p><figure><div class="chart" id="{chart}"></div></figure>'
        f'<details class="fold"><summary>The numbers</summary>{numbers}</details>'
    )


def _numbers(group: Group) -> list[str]:
    ends = [_number(value) for value in (group.mean, group.low, group.high)]
    return [*ends, f"{group.count:,}", f"{group.units:,}"]


def _number(value: float | int | None) -> str:
    return DASH if value is None else f"{value:.4g}".replace("-", MINUS)


def _failed_part(view: SweepView) -> str:
    """Reasons with their counts, then failed cells with traceback and log."""
    failed = [cell for cell in view.cells if cell.state == "failed"]
    reasons = Counter(_cut(cell.reason) for cell in failed).most_common()
    lines = [[f"{n:,}", reason] for reason, n in reasons[:10]]
    table = _table(["cells", "reason"], lines, left=0, kind="reasons")
    more = f'<p class="note">and {count(len(reasons) - 10, "other reason")}</p>'
    table += more * (len(reasons) > 10)
    blocks = [_failed_block(cell) for cell in failed[:IN_FULL]]
    shown, folded = "".join(blocks[:IN_SIGHT]), "".join(blocks[IN_SIGHT:])
    if folded:
        title = f"{len(blocks) - IN_SIGHT} more failed cells"
        shown += f'<details class="fold"><summary>{title}</summary>{folded}</details>'
    rest = len(failed) - IN_FULL
    note = f"The first {IN_FULL} are here; {count(rest, 'other')} stand in the table of cells."
    return table + shown + f'<p class="note">{note}</p>' * (rest > 0)


def _failed_block(cell: Line) -> str:
    known = cell.failure or {}
    told = {"Cell": cell.key, "Seconds": _number(_finite(known.get("seconds")))}
    told |= {"Host": known.get("host"), "When": known.get("when")}
    facts = "".join(f"<dt>{name}</dt><dd>{esc(value or DASH)}</dd>" for name, value in told.items())
    texts = "".join(
        f"<p>{title}</p><pre>{esc(_end(str(known[name])))}</pre>"
        for name, title in (("error", "Error"), ("traceback", "Traceback"), ("log", "Log"))
        if known.get(name)
    )
    attempts = known.get("attempts", 0)
    tries = count(attempts, "attempt") if isinstance(attempts, int) else DASH
    return (
        f'<details class="chain"><summary><b>{esc(cell.label)}</b> {esc(_cut(cell.reason))}'
        f'<span class="score">{tries}</span></summary><dl>{facts}</dl>{texts}</details>'
    )


def _grid_part(view: SweepView) -> str:
    """The fields that vary with their values, then what is equal for all, and the grid."""
    values = {name: distinct(cell.config.get(name) for cell in view.cells) for name in view.varied}
    lines = [[name, f"{len(found):,}", _listed(found)] for name, found in values.items()]
    varied = _table(["field", "values", "which"], lines, left=3, kind="starts")
    first = view.cells[0].config if view.cells else {}
    shared = {name: value for name, value in first.items() if name not in view.varied}
    folded = {"What all cells share": shared, "The grid in its normal form": view.about.get("grid")}
    return (varied if lines else '<p class="note">No field varies.</p>') + "".join(
        f'<details class="fold"><summary>{title}</summary>'
        f"<pre>{esc(json.dumps(value, indent=2, ensure_ascii=False))}</pre></details>"
        for title, value in folded.items()
        if value
    )


def _listed(values: Sequence[Any], most: int = 20) -> str:
    text = ", ".join(_cut(words(value)) for value in values[:most])
    return text + (f" and {len(values) - most:,} more" if len(values) > most else "")


def _starts_part(view: SweepView) -> str:
    """When, how and from which code the sweep was started; what changed between starts."""
    starts = view.starts
    if not starts:
        return '<p class="note">No start is noted.</p>'
    heads = ["when", "executor", "workers", "commit", "code", "versions", "command"]
    lines = []
    for place in range(max(0, len(starts) - STARTS), len(starts)):
        start, before = starts[place], starts[place - 1] if place else None
        brief = [str(start.get(name) or DASH)[:n] for name, n in SHOWN.items()]
        if str(start.get("commit")).endswith("-dirty"):
            brief[DIRTY] += "-dirty"
        command = start.get("command")
        text = " ".join(map(str, command)) if isinstance(command, list) else DASH
        lines.append([*brief, version_changes(start, before), text])
    table = _table(heads, lines, left=len(heads), kind="starts")
    manifest = page.manifest_table(starts[-1])
    last = (
        f'<details class="fold"><summary>Manifest of the last start</summary>{manifest}</details>'
    )
    hidden = len(starts) - STARTS
    return table + f'<p class="note">and {count(hidden, "earlier start")}</p>' * (hidden > 0) + last


SHOWN = {"when": 40, "executor": 40, "workers": 12, "commit": 12, "code": 12}
"""What is shown of a start, and up to how many characters."""
DIRTY = list(SHOWN).index("commit")
"""The place among these of the commit, which also says whether files differed from it."""


def version_changes(start: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Say which versions of packages changed since the start before; of the first, some of them.

    >>> old, new = {"versions": {"torch": "2.1"}}, {"versions": {"torch": "2.2"}}
    >>> version_changes(old, None), version_changes(new, old), version_changes(new, new)
    ('torch 2.1', 'torch 2.1 → 2.2', 'the same')
    """
    now, then = (_versions(each) for each in (start, before or {}))
    if before is None:
        return ", ".join(f"{name} {now[name]}" for name in ("python", "torch") if now.get(name))
    names = [name for name in {**then, **now} if now.get(name) != then.get(name)]
    changed = (f"{name} {then.get(name) or 'none'} → {now.get(name) or 'none'}" for name in names)
    return ", ".join(changed) or "the same"


def _versions(start: Mapping[str, Any]) -> Mapping[str, Any]:
    found = start.get("versions")
    return found if isinstance(found, Mapping) else {}


def _sweep_table(views: Sequence[SweepView]) -> str:
    heads = ("Sweep", "Experiment", "Progress", "Cells", "Done", "Failed", "To do", "Last start")
    top = "".join(
        f'<th scope="col"{LEFT if place in (1, 2) else ""}>{name}</th>'
        for place, name in enumerate(heads)
    )
    lines = []
    for view in views:
        numbers = [len(view.cells), *(view.count(state) for state in STATES)]
        last = str(view.starts[-1].get("when", DASH))[:16] if view.starts else DASH
        cells = "".join(f"<td>{n:,}</td>" for n in numbers) + f"<td>{esc(last)}</td>"
        lines.append(
            f'<tr><th scope="row"><a href="{_address(view)}">{esc(view.name)}</a></th>'
            f"<td{LEFT}>{esc(view.about.get('experiment', DASH))}</td><td{LEFT}>{_bar(view)}</td>"
            f"{cells}</tr>"
        )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll sweeps" tabindex="0">{table}</div>'


LEFT = ' class="left"'


def _table(
    heads: Sequence[str], lines: Iterable[Sequence[str]], *, left: int, kind: str = "cells"
) -> str:
    """A table whose first `left` columns are text."""

    def row(name: str, texts: Sequence[str]) -> str:
        cells = (f"<{name}{LEFT * (i < left)}>{esc(t)}</{name}>" for i, t in enumerate(texts))
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(row("td", line) for line in lines)
    table = f"<table><thead>{row('th', heads)}</thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll {kind}" tabindex="0">{table}</div>'


# ---------------------------------------------------------------- all cells


def _cell_table(view: SweepView) -> str:
    """The frame of the table of cells; the script fills it."""
    exact = ""
    if view.varied:
        name = view.varied[0]
        exact = (
            f", and {name}={_cut(words(view.cells[0].config.get(name)), 40)} for just that value"
        )
    return (
        f'<p class="note">Click a head to sort. The search takes words{esc(exact)}.</p>'
        '<div class="controls"><input id="find" type="search" placeholder="Search" '
        'aria-label="Search cells"><span id="picks" class="picks"></span>'
        '<button type="button" id="reset">Reset</button></div>'
        '<div class="scroll cells" tabindex="0"><table><thead id="cells-head"></thead>'
        '<tbody id="cells-body"></tbody></table></div><div class="controls">'
        '<button type="button" id="back">Back</button>'
        '<button type="button" id="next">Next</button><span id="count" role="status"></span></div>'
    )


def cells_data(view: SweepView) -> dict[str, Any]:
    """Return the table of cells for the page's script: columns, and rows of plain values.

    A column with `values` holds their indices, in the order in which they sort, so that 10,000
    cells name a model once.
    """
    cells = view.cells
    columns: list[dict[str, Any]] = [{"name": "Cell"}]
    data: list[list[Any]] = [[cell.key for cell in cells]]
    for name in view.varied:
        values = distinct(cell.config.get(name) for cell in cells)
        number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        places = {_token(value): place for place, value in enumerate(values)}
        columns.append(_coded(name, [words(v) for v in values], number=number))
        data.append([places[_token(cell.config.get(name))] for cell in cells])
    columns += [
        _coded("State", list(STATES.values())) | {"state": True},
        {"name": "Seconds", "number": True},
        {"name": "Rows", "number": True},
    ]
    data.append([list(STATES).index(cell.state) for cell in cells])
    data.append([_finite(cell.seconds) for cell in cells])
    data.append([cell.rows for cell in cells])
    if view.count("failed"):
        reasons = sorted({_cut(cell.reason) for cell in cells} - {""})
        columns.append({"name": "Attempts", "number": True})
        columns.append({"name": "Reason", "values": reasons})
        data.append([_finite((cell.failure or {}).get("attempts")) for cell in cells])
        found = {reason: place for place, reason in enumerate(reasons)}
        data.append([found.get(_cut(cell.reason)) for cell in cells])
    return {"columns": columns, "rows": [list(row) for row in zip(*data, strict=True)]}


def _coded(name: str, values: list[str], *, number: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "values": values,
        "number": number,
        "pick": 1 < len(values) <= CHOICES,
    }


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return each value once, in the order in which a reader would sort them.

    >>> distinct([10, 9, None, "b", 9, "a"])
    [None, 9, 10, 'a', 'b']
    """

    def rank(value: Any) -> tuple[int, float, str]:
        if value is None:
            return 0, 0.0, ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return 1, float(value), ""
        return 2, 0.0, words(value)

    return sorted({_token(value): value for value in values}.values(), key=rank)


def words(value: Any) -> str:
    """Write a value of a configuration: text as it is, anything else and no text as JSON.

    >>> words("a"), words(""), words(None), words([1, 2])
    ('a', '""', 'null', '[1, 2]')
    """
    return value if value and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _token(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _finite(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _cut(text: str, width: int = REASON_CHARS) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _end(text: str) -> str:
    return text if len(text) <= LOG_CHARS else "…" + text[-LOG_CHARS:]


# ---------------------------------------------------------------- the chart


def dot_plot(found: Headline) -> Spec:
    """Draw the mean of each group with its interval; one field of few values becomes the colour."""
    series = _series(found)
    row_of = [name for name in range(len(found.fields)) if name != series]
    rows = list(dict.fromkeys(_pick(group.values, row_of) for group in found.groups))
    colours = distinct(g.values[series] for g in found.groups) if series is not None else [None]
    step = min(0.2, 0.6 / len(colours))
    traces = []
    for place, colour in enumerate(colours):
        mine = [g for g in found.groups if series is None or g.values[series] == colour]
        shift = (place - (len(colours) - 1) / 2) * step
        spots = [rows.index(_pick(group.values, row_of)) + shift for group in mine]
        name = words(colour) if series is not None else found.column
        traces.append(_dots(mine, spots, plain(name, 40), place) | {"showlegend": len(colours) > 1})
    labels = [plain(" · ".join(map(words, row)) or "all cells", 50) for row in rows]
    names = " · ".join(found.fields[place] for place in row_of)
    y = {"tickvals": list(range(len(rows))), "ticktext": labels, "showgrid": True}
    title = axis_title(plain(names))["title"] | {"standoff": 12}
    y |= {"range": [len(rows) - 0.5, -0.5], "title": title}
    x = axis_title(plain(f"Mean {found.column}, 95% interval"))
    height = 130 + len(rows) * max(34, 16 * len(colours))
    legend = {"title": {"text": plain(found.fields[series])}} if series is not None else {}
    spec = layout(x, y, height=height)
    return {"data": traces, "layout": {**spec, "legend": {**spec["legend"], **legend}}}


def _series(found: Headline) -> int | None:
    """The place of the last field of 2 to 5 values, where that leaves another for the rows."""
    if len(found.fields) < 2:
        return None
    sizes = [
        len(distinct(group.values[place] for group in found.groups))
        for place in range(len(found.fields))
    ]
    fitting = [place for place, size in enumerate(sizes) if 1 < size <= len(COLOURS)]
    return fitting[-1] if fitting else None


def _pick(values: Sequence[Any], places: Sequence[int]) -> tuple[str, ...]:
    return tuple(words(values[place]) for place in places)


def _dots(groups: Sequence[Group], spots: Sequence[float], name: str, place: int) -> Spec:
    ends = {"array": [_reach(g.mean, g.high) for g in groups]}
    ends |= {"arrayminus": [_reach(g.mean, g.low) for g in groups]}
    texts = [
        plain(" · ".join(map(words, g.values)), 80)
        + f"<br>mean {_number(g.mean)} ({_number(g.low)} to {_number(g.high)})"
        + f"<br>{count(g.count, 'value')}, {count(g.units, 'unit')}"
        for g in groups
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [g.mean for g in groups],
        "y": list(spots),
        "error_x": {"type": "data", "symmetric": False, "thickness": 1.5, **ends},
        "marker": {"color": COLOURS[place], "symbol": SYMBOLS[place], "size": 9},
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _reach(mean: float | None, end: float | None) -> float | None:
    return None if mean is None or end is None else abs(end - mean)
