"""Sections of the report about alignment: verdicts first, then all that they rest on.

Each takes rows as a run of `interp align` stores them and returns a `Section`. Rows of several
runs, told apart by a column `subject`, share charts and tables. A verdict is repeated in its fixed
words and never made here; one that something was found is refused where its records lack a guard, a
baseline or train IIA. Every text from data passes `esc`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interp.results import align_charts as charts
from interp.results import align_findings as said
from interp.results.align_findings import Place, at, average, named, place_of, places_of, pooled_row
from interp.results.report_causal import Section, short
from interp.results.report_charts import Spec
from interp.results.report_html import chart, esc
from interp.results.report_stats import DASH, Finding, Row, number
from interp.results.report_tables import Cell, note, spread, table

TITLES = {
    "align-verdicts": "Alignment: the verdicts",
    "align-fits": "Interchange accuracy by site and map",
    "align-guards": "The thirteen guards",
    "align-baselines": "What a map must beat: baselines of the same site",
    "align-controls": "What must not work: fitted controls",
    "align-capacity": "Capacity and description length",
}
"""Sections by their anchors, in the order of the page."""

TABLES = ("align_verdicts", "align_fits", "align_guards", "align_baselines", "align_controls")
TABLES += ("align_curve", "align_bits")
"""The tables that these sections draw."""

SHOWN_VERDICTS = 3
"""Verdicts that stand at the head of the page one by one; more of them are counted there."""

Tables = Mapping[str, Sequence[Row]]


def sections(tables: Tables) -> dict[str, Section]:
    """Return the sections that have rows, by their anchors.

    Raises:
        InputError: a verdict says that something was found, and its records lack what it rests on.
    """
    drawn: dict[str, Callable[[Tables], Section | None]] = {
        "align-verdicts": verdict_section,
        "align-fits": fit_section,
        "align-guards": guard_section,
        "align-baselines": baseline_section,
        "align-controls": control_section,
        "align-capacity": capacity_section,
    }
    found = {name: draw(tables) for name, draw in drawn.items()}
    return {name: section for name, section in found.items() if section is not None}


def _of(tables: Tables, *names: str) -> list[Sequence[Row]]:
    return [tables.get(name, ()) for name in names]


def _lines(findings: Sequence[Finding]) -> str:
    return "".join(f"<h3>{esc(each.title)}</h3>{note(each.detail)}" for each in findings)


def _grid(blocks: Sequence[str]) -> str:
    """Charts with their tables, side by side where the page is wide enough."""
    inner = "".join(f'<div style="min-width:0">{block}</div>' for block in blocks)
    return f'<div class="charts" style="margin-bottom:1.5rem">{inner}</div>'


def _heads(*names: str) -> tuple[str, ...]:
    return ("Algorithm, map", "Site, size", *names)


def _where(place: Place) -> list[Cell]:
    """The first two cells of a line."""
    return [said.fitted(place), f"{said.site_name(place.site)}, {place.size}"]


def _own(fits: Sequence[Row], place: Place, kind: str = "trained") -> list[Row]:
    return [row for row in at(fits, place) if row["kind"] == kind]


# ---------------------------------------------------------------- verdicts


def verdict_section(tables: Tables) -> Section | None:
    """Every verdict in its fixed words, with reason, claim and notes, and a table of them all."""
    rows, guards, baselines = _of(tables, "align_verdicts", "align_guards", "align_baselines")
    if not rows:
        return None
    for row in rows:
        said.require_grounds(row, guards, baselines)
    cards = "".join(_card(row) for row in rows)
    findings = said.verdict_findings(rows, SHOWN_VERDICTS)
    return Section(tuple(findings), cards + _verdict_table(rows), {})


def _card(row: Row) -> str:
    """One verdict: sign, words, border and colour tell its kind, each of them alone."""
    look = said.LOOKS[said.kind_of(str(row["verdict"]))]
    style = (
        f"border:1px solid {look.ink};border-left:9px {look.border} {look.ink};"
        f"background:{look.wash};padding:0.8rem 1rem;margin:0 0 1rem"
    )
    head = f'<h3 style="color:{look.ink};font-size:1.1rem">'
    head += f'<span aria-hidden="true">{look.sign}</span> {esc(row["verdict"])}</h3>'
    paragraphs = [
        f"<p><b>{esc(named(place_of(row)))}</b></p>",
        *(f"<p>{esc(row[name])}</p>" for name in ("reason", "claim") if row[name]),
        f'<p class="note" style="margin:0.4rem 0 0">{esc(_small(row, look))}</p>',
    ]
    return f'<div class="verdict" style="{style}">{head}{"".join(paragraphs)}</div>'


def _small(row: Row, look: said.Look) -> str:
    return " ".join(text for text in (look.meaning, str(row["notes"] or "")) if text)


def _verdict_table(rows: Sequence[Row]) -> str:
    heads = _heads("Test IIA", "Train IIA", "Random twin", "Best baseline", "Task accuracy")
    heads += ("Networks", "Verdict")
    lines: list[list[Cell]] = [
        [
            *_where(place_of(row)),
            spread(row, "iia", number),
            number(row["train_iia"]),
            number(row["twin"]),
            number(row["baseline"]),
            number(row["task_accuracy"]),
            str(row["n_nets"]),
            str(row["verdict"]),
        ]
        for row in rows
    ]
    return table(heads, lines)


# ---------------------------------------------------------------- fits


def fit_section(tables: Tables) -> Section | None:
    """Test IIA by site and map beside train IIA, twin, rival and the best baseline."""
    fits, verdicts, baselines = _of(tables, "align_fits", "align_verdicts", "align_baselines")
    if not fits:
        return None
    judged = [place_of(row) for row in verdicts]
    findings = [
        said.fit_finding(place, mine, _own(fits, place, "twin"))
        for place in judged
        if (mine := _own(fits, place))
    ]
    about = "Bars: mean over networks with its 95% interval; diamonds: train IIA. The site of a "
    about += "verdict was chosen on validation pairs; twin, rival and baselines are measured there."
    body = chart("align-iia", "IIA by site and map, controls beside it", about, wide=True)
    body += _lines(findings) + _fit_table(fits, verdicts)
    drawn = {"align-iia": charts.iia_bars(fits, verdicts, baselines)}
    return Section((), body, drawn)


def _fit_table(fits: Sequence[Row], verdicts: Sequence[Row]) -> str:
    tested = said.tested_of(fits, verdicts)
    heads = _heads("Network", "Test IIA", "Train IIA", "Sensitive", "Insensitive")
    two = any(row.get("restricted_iia") is not None for row in fits)
    heads += ("Held-out identities", *(["Of two answers"] * two), "No-op", "Parameters", "Fits")
    lines = []
    for place in places_of(fits):
        role = "" if place[:2] in tested else " (rival)"
        for kind in dict.fromkeys(str(row["kind"]) for row in at(fits, place)):
            lines.append(_fit_line(_own(fits, place, kind), place, kind + role, two=two))
    return table(heads, lines)


def _fit_line(rows: Sequence[Row], place: Place, kind: str, *, two: bool) -> list[Cell]:
    """One line; `two` adds the score between a base's own two answers, which flatters."""
    unseen = [row for row in rows if row.get("unseen_iia") is not None]
    return [
        *_where(place),
        kind,
        spread(pooled_row(rows), "x", number),
        number(average(rows, "train_iia")),
        number(average(rows, "iia_sensitive")),
        number(average(rows, "iia_insensitive")),
        spread(pooled_row(unseen, "unseen_iia"), "x", number) if unseen else DASH,
        *([_of_two(rows, kind)] if two else []),
        (short(_worst(rows, "noop")), f"inverse {short(_worst(rows, 'inverse_float64'))}"),
        (f"{_worst(rows, 'n_parameters'):,}", f"{_worst(rows, 'updates'):,} updates"),
        str(len(rows)),
    ]


def _of_two(rows: Sequence[Row], kind: str) -> Cell:
    """The score between the base's own two answers; a rival's answer may be neither."""
    found = average(rows, "restricted_iia")
    if found is None or kind.endswith("(rival)"):
        return DASH
    return number(found), f"held out {number(average(rows, 'unseen_restricted_iia'))}"


def _worst(rows: Sequence[Row], name: str) -> float | int | None:
    return max((row[name] for row in rows if row.get(name) is not None), default=None)


# ---------------------------------------------------------------- guards


def guard_section(tables: Tables) -> Section | None:
    """All thirteen guards of every verdict; one without a row stands there as missing."""
    guards, verdicts = _of(tables, "align_guards", "align_verdicts")
    places = places_of([*verdicts, *guards])
    if not places:
        return None
    words = {place_of(row): str(row["verdict"]) for row in verdicts}
    about = "A verdict that something was found needs all of them; what does not apply says why."
    blocks = [
        _guard_block(place, at(guards, place), words.get(place, ""), opened=i == 0)
        for i, place in enumerate(places)
    ]
    return Section((), note(about) + "".join(blocks), {})


def _guard_block(place: Place, rows: Sequence[Row], word: str, *, opened: bool) -> str:
    told = {str(row["guard"]): str(row["found"]) for row in rows}
    found = {name: told.get(name, "missing") for name in (*said.GUARDS, *told)}
    n = sum(text != "missing" for text in found.values())
    lines = [
        (f"{i}. {name}", "MISSING" if text == "missing" else text)
        for i, (name, text) in enumerate(found.items(), 1)
    ]
    head = f"{named(place)}: {n} of {len(lines)} answered" + (f"; {word}" if word else "")
    body = table(("Guard", "What it found"), lines, words=True)
    kind = " open" if opened else ""
    return f'<details class="chain"{kind}><summary><b>{esc(head)}</b></summary>{body}</details>'


# ---------------------------------------------------------------- baselines


def baseline_section(tables: Tables) -> Section | None:
    """Baselines of each place, sensitive and insensitive pairs apart."""
    rows, fits = _of(tables, "align_baselines", "align_fits")
    if not rows:
        return None
    drawn: dict[str, Spec] = {}
    blocks = []
    for i, place in enumerate(places_of(rows)):
        mine, own = at(rows, place), _own(fits, place)
        found = said.baseline_finding(place, mine, own)
        drawn[f"align-baselines-{i}"] = charts.baseline_bars(mine, own)
        figure = chart(f"align-baselines-{i}", found.title, found.detail)
        blocks.append(figure + _baseline_table(mine, own))
    return Section((), _grid(blocks), drawn)


def _baseline_table(rows: Sequence[Row], own: Sequence[Row]) -> str:
    heads = ("Answers by", "IIA", "Best draw", "Sensitive", "Insensitive")
    lines = [*map(_own_line, [own] if own else []), *map(_baseline_line, rows)]
    told = [f"{row['baseline']}: {row['note']}" for row in rows if row["note"]]
    return table(heads, lines) + (note(f"{'; '.join(told)}.") if told else "")


def _own_line(own: Sequence[Row]) -> list[Cell]:
    shares = [number(average(own, f"iia_{name}")) for name in ("sensitive", "insensitive")]
    return ["the map", spread(pooled_row(own), "x", number), DASH, *shares]


def _baseline_line(row: Row) -> list[Cell]:
    values = [number(row[n]) for n in ("iia", "highest", "iia_sensitive", "iia_insensitive")]
    return [str(row["baseline"]), *values]


# ---------------------------------------------------------------- controls


def control_section(tables: Tables) -> Section | None:
    """What the same map reaches where there is nothing to find, train IIA beside test IIA."""
    rows, verdicts = _of(tables, "align_controls", "align_verdicts")
    if not rows:
        return None
    drawn: dict[str, Spec] = {}
    blocks: list[str] = []
    about = "Shaded: the network's interval. A control that comes near it makes the map vacuous; "
    about += "train IIA far above test IIA is memory."
    for i, place in enumerate(places_of(rows)):
        mine = at(rows, place)
        own = next(iter(at(verdicts, place)), None)
        drawn[f"align-controls-{i}"] = charts.control_points(mine, own)
        heads = ("Control", "Test IIA", "Train IIA", "Network minus control")
        lines = [_control_line(row, own) for row in mine]
        blocks.append(chart(f"align-controls-{i}", named(place), about) + table(heads, lines))
    return Section((), _grid(blocks), drawn)


def _control_line(row: Row, own: Row | None) -> list[Cell]:
    gap = DASH if own is None else number(own["iia"] - row["iia"])
    name = str(row["control"])
    return [name, spread(row, "iia", number), number(row["train_iia"]), gap]


# ---------------------------------------------------------------- capacity


def capacity_section(tables: Tables) -> Section | None:
    """IIA by number of pairs, trained against twin; bits per pair beside twin and rival."""
    curve, bits, verdicts = _of(tables, "align_curve", "align_bits", "align_verdicts")
    if not curve and not bits:
        return None
    drawn: dict[str, Spec] = {}
    blocks: list[str] = []
    for i, place in enumerate(places_of(curve)):
        mine = at(curve, place)
        found = said.curve_finding(place, mine)
        drawn[f"align-curve-{i}"] = charts.capacity_curves(mine)
        blocks.append(chart(f"align-curve-{i}", found.title, found.detail) + _curve_table(mine))
    body = _grid(blocks) if blocks else ""
    if bits:
        html, specs = _bits(bits, verdicts)
        body, drawn = body + html, drawn | specs
    return Section((), body, drawn)


def _curve_table(rows: Sequence[Row]) -> str:
    heads = ("Family, network", "Pairs", "Train IIA", "Test IIA", "Parameters")
    lines: list[list[Cell]] = [
        [
            f"{row['family']}, {row['net']}",
            said.pairs_name(row["n_pairs"]).removesuffix(" pairs"),
            number(row["train_iia"]),
            number(row["test_iia"]),
            f"{row['n_parameters']:,}",
        ]
        for row in rows
    ]
    return table(heads, lines)


def _bits(rows: Sequence[Row], verdicts: Sequence[Row]) -> tuple[str, dict[str, Spec]]:
    """Runs of several tasks may have several numbers of answers: then no line is drawn."""
    runs = {place[0] for place in places_of(rows)}
    found = {run: said.chance_bits([v for v in verdicts if place_of(v)[0] == run]) for run in runs}
    chance = next(iter(found.values())) if len(set(found.values())) == 1 else None
    told = [
        said.bits_finding(place, at(rows, place), found[place.subject]) for place in places_of(rows)
    ]
    about = "Prequential code: each block of labels is sent with the map that was fitted on those "
    about += "before it."
    about += "" if chance is None else " Dotted: a label without a rule."
    body = chart("align-bits", "Description length, bits per pair", about, wide=True)
    return body + _lines(told), {"align-bits": charts.bits_bars(rows, chance)}
