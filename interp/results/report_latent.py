"""Sections of the report about latent reasoning: accuracy, necessity, early stops, influence.

Each takes rows as a run of `interp latent rollout` and its parts store them, and returns a
`Section`: what was found in one sentence, charts, and tables with every interval and the identity
null. Rows of several subjects, told apart by a column `subject`, share charts and tables. What the
preset `released-code` made is a section of its own, marked as a diagnostic. A section without rows
is left out. Every text from data passes `esc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from interp.results import influence_charts
from interp.results import latent_charts as charts
from interp.results import latent_findings as said
from interp.results.latent_charts import (
    IDENTITY,
    METRICS,
    of_subject,
    operator_name,
    operators_of,
    subjects_of,
)
from interp.results.report_causal import Section, short
from interp.results.report_charts import Spec
from interp.results.report_html import chart, esc
from interp.results.report_stats import DASH, Finding, Row, count, number, percent
from interp.results.report_tables import Cell, note, spread, table, warning
from interp.results.report_thinking import PARTS
from interp.results.thinking_findings import points

TITLES = {
    "latent-accuracy": "Latent reasoning: what is answered right",
    "latent-necessity": "Which latent steps the answer needs",
    "latent-stops": "How many latent steps are enough",
    "latent-influence": "Influence between latent steps",
    "latent-commitment": "When the model commits",
    "latent-released": "DIAGNOSTIC: the released definitions",
}
"""Sections by their anchors, in the order of the page."""

RELEASED = "released_"
"""Before the names of the tables that the preset `released-code` made."""
PRESET = "released-code"

OWN = ("accuracy", "latent_items", "latent_silent", "necessity", "early_stop", "settling")
OWN += ("influence", "influence_shape", "influence_graph", "influence_similarity")
OWN += ("influence_test", "commitment", "commitment_probes", "commitment_steps", "latent_modes")
TABLES = (*OWN, "necessity_marked", "influence_marked")
TABLES += tuple(RELEASED + name for name in ("influence", "influence_shape", "influence_summed"))
"""The tables that these sections draw, by the names that `stored_as` gives."""

SHOWN_REASONS = 5
"""How many reasons for marked items a section names, at most."""

Tables = Mapping[str, Sequence[Row]]
Tell = Callable[[Sequence[Row]], Finding | None]


def stored_as(table: str, experiment: str) -> str:
    """Return the name under which a page has a table, given the experiment of its store.

    Parts of a run have tables of the same name: the released preset those of influence, and each
    its marked problems.

    >>> stored_as("influence", "latent_influence-released-code")
    'released_influence'
    >>> stored_as("latent_marked", "latent_necessity"), stored_as("steps", "thinking")
    ('necessity_marked', 'steps')
    """
    if experiment.startswith("latent_") and experiment.endswith(PRESET):
        return RELEASED + table
    if table == "latent_marked":
        return experiment.removeprefix("latent_") + "_marked"
    return table


def together(runs: Mapping[str, Tables]) -> dict[str, list[Row]]:
    """Join the tables of several runs, each row with its run's name as `subject`.

    >>> together({"a": {"t": [{"x": 1}]}, "b": {"t": [{"x": 2}]}})["t"][1]
    {'x': 2, 'subject': 'b'}
    """
    found: dict[str, list[Row]] = {}
    for name, tables in runs.items():
        for key, rows in tables.items():
            found.setdefault(key, []).extend({**row, "subject": name} for row in rows)
    return found


def sections(tables: Tables) -> dict[str, Section]:
    """Return the sections that have rows, by their anchors."""
    drawn: dict[str, Callable[[Tables], Section | None]] = {
        "latent-accuracy": accuracy_section,
        "latent-necessity": necessity_section,
        "latent-stops": stop_section,
        "latent-influence": influence_section,
        "latent-commitment": commitment_section,
        "latent-released": released_section,
    }
    found = {name: draw(tables) for name, draw in drawn.items()}
    return {name: section for name, section in found.items() if section is not None}


def _of(tables: Tables, *names: str) -> list[Sequence[Row]]:
    return [tables.get(name, ()) for name in names]


def _each(rows: Sequence[Row], tell: Tell) -> list[Finding]:
    """What is told of each subject."""
    found = [tell(of_subject(rows, name)) for name in subjects_of(rows)]
    return [each for each in found if each is not None]


def _lines(findings: Sequence[Finding]) -> str:
    return "".join(f"<h3>{esc(each.title)}</h3>{note(each.detail)}" for each in findings)


def _drawn(name: str, findings: Sequence[Finding], title: str) -> str:
    """The place of a wide chart under its first finding; further findings below."""
    first = findings[0] if findings else Finding(title, "")
    return chart(name, first.title, first.detail, wide=True) + _lines(findings[1:])


def _warned(rows: Sequence[Row]) -> str:
    told = dict.fromkeys(str(row["warning"]) for row in rows if row.get("warning"))
    return note(f"Warnings: {'; '.join(told)}.") if told else ""


def _marked(rows: Sequence[Row]) -> str:
    """What was left out, by reason."""
    if not rows:
        return ""
    counts = Counter(str(row["reason"]) for row in rows).most_common()
    told = "; ".join(f"{reason} ({n})" for reason, n in counts[:SHOWN_REASONS])
    more = f"; {len(counts) - SHOWN_REASONS} more reasons" if len(counts) > SHOWN_REASONS else ""
    return note(f"{count(len(rows), 'problem')} marked and left out: {told}{more}.")


def _notes(tables: Tables, part: str) -> str:
    """The warnings of one part of a run, such as that the run has other rows now."""
    mine = [row for row in tables.get(PARTS, ()) if row["part"] == part]
    return "".join(warning(str(text)) for row in mine for text in row["warnings"])


def _named(rows: Sequence[Row], row: Row, name: str) -> str:
    """The head of a table's line: the subject stands before, where there are several."""
    several = len(subjects_of(rows)) > 1
    return f"{row['subject']}: {name}" if several else name


# ---------------------------------------------------------------- accuracy


def accuracy_section(tables: Tables) -> Section | None:
    """How many problems each subject answers right, and what was left out."""
    rows, items = _of(tables, "accuracy", "latent_items")
    marked = _marked([row for row in items if row["status"] == "marked"])
    if not rows:
        return Section((), marked, {}) if marked else None
    found = said.accuracy_finding(rows)
    heads = ("Subject", "Right", "Cannot be read", "log Pr(answer), nats", "Problems")
    lines: list[list[Cell]] = [
        [
            str(row["subject"]),
            spread(row, "accuracy"),
            str(row["unparsable"]),
            short(row["logprob"]),
            str(row["n_problems"]),
        ]
        for row in rows
    ]
    body = _lines([found]) + table(heads, lines) + _warned(rows) + marked
    return Section((found,), body, {})


# ---------------------------------------------------------------- necessity


def necessity_section(tables: Tables) -> Section | None:
    """The flips of every edit at every step, the identity beside them."""
    rows, marked = _of(tables, "necessity", "necessity_marked")
    if not rows:
        return None
    findings = _each(rows, said.necessity_finding)
    drawn = {"latent-flips": charts.flip_bars(rows), "latent-map": charts.operator_map(rows)}
    body = _drawn("latent-flips", findings, "Answers flipped, by edited step")
    about = "A flip is another answer, right or wrong. White: not run."
    body += chart("latent-map", "Operator by step", about, wide=True)
    body += _flip_table(rows) + _warned(rows) + _marked(marked)
    return Section(tuple(findings), _notes(tables, "necessity") + body, drawn)


def _flip_table(rows: Sequence[Row]) -> str:
    heads = ("Edit", "Step", "Answers flipped", "Identity flips", "Change of accuracy, points")
    heads += ("Right to wrong", "Wrong to right", "Wrong to other", "Cannot be read")
    heads += ("KL, nats a token", "Identity KL", "Problems")
    null = {(_subject(r), r["steps"]): r for r in rows if r["operator"] == IDENTITY}
    real = [row for row in rows if row["operator"] != IDENTITY]
    lines = [_flip_line(rows, row, null.get((_subject(row), row["steps"]))) for row in real]
    return table(heads, lines)


def _subject(row: Row) -> str:
    return str(row.get("subject") or "")


def _flip_line(rows: Sequence[Row], row: Row, null: Row | None) -> list[Cell]:
    counts = ("right_wrong", "wrong_right", "wrong_other", "unparsable")
    beside = (DASH, DASH)
    if null is not None and null["flip"] is not None:
        beside = (percent(null["flip"]), short(null["kl"]))
    return [
        _named(rows, row, operator_name(row["operator"])),
        str(row["steps"]),
        spread(row, "flip"),
        beside[0],
        spread(row, "d_accuracy", _bare),
        *(str(row[name]) for name in counts),
        short(row["kl"]),
        beside[1],
        str(row["n_problems"]),
    ]


def _bare(difference: float) -> str:
    """A difference of shares, in points that the head of the column names."""
    return points(difference).split()[0]


# ---------------------------------------------------------------- early stop


def stop_section(tables: Tables) -> Section | None:
    """What stopping after each number of steps gives."""
    rows, settling = _of(tables, "early_stop", "settling")
    if not rows:
        return None
    findings = [
        said.stop_finding(of_subject(rows, name), of_subject(settling, name))
        for name in subjects_of(rows)
    ]
    body = _drawn("latent-stop-curves", findings, "Early stop")
    about = "Stopping is true truncation: later steps are never fed, and k = T is the normal run. "
    about += "S(k) counts a problem that any stop so far gets right; its rise alone shows nothing."
    heads = ("k", "A(k): right", "S(k): right so far", "Right at k, right at the end")
    heads += ("Answer, forced", "Next step, forced", "Cannot be read", "Problems")
    names = ("accuracy", "solved", "retention", "forced", "next_step")
    lines = [
        [
            _named(rows, row, str(row["k"])),
            *(spread(row, name) for name in names),
            str(row["unparsable"]),
            str(row["n_problems"]),
        ]
        for row in rows
    ]
    body += note(about) + table(heads, lines) + _warned(rows)
    return Section(tuple(findings), body, {"latent-stop-curves": charts.stop_curves(rows)})


# ---------------------------------------------------------------- influence


def influence_section(tables: Tables) -> Section | None:
    """W, its shape beside equal edges and the identity, its graph, and how operators agree."""
    rows, tests, marked = _of(tables, "influence", "influence_test", "influence_marked")
    if not rows:
        return None
    findings = [
        found
        for name in subjects_of(rows)
        if (found := said.influence_finding(of_subject(rows, name), of_subject(tests, name)))
    ]
    body = _drawn("latent-w", findings, "Influence W[t, s]")
    body += note(
        "W[t, s]: KL of the read-out after s steps, unedited from edited at step t, in nats a "
        "token; both sides have consumed s steps. The last column of read-outs is the answer's."
    )
    drawn: dict[str, Spec] = {"latent-w": influence_charts.influence_maps(rows)}
    for add in (_shape_part, _graph_part, _alike_part, _test_part):
        found, html, more = add(tables)
        findings += found
        body, drawn = body + html, {**drawn, **more}
    silent = tables.get("latent_silent", ())
    told = [f"{operator_name(r['operator'])} at step {r['t']}: {r['reason']}" for r in silent]
    body += note(f"Left out: {'; '.join(dict.fromkeys(told))}.") if told else ""
    return Section(tuple(findings), _notes(tables, "influence") + body + _marked(marked), drawn)


Part = tuple[list[Finding], str, dict[str, Spec]]


def _shape_part(tables: Tables) -> Part:
    rows = tables.get("influence_shape", ())
    findings = _each(rows, said.shape_finding)
    if not rows:
        return [], "", {}
    body = _drawn("latent-shape", findings, "Shape of W") + _shape_table(rows)
    return findings, body, {"latent-shape": influence_charts.shape_panels(rows)}


def _shape_table(rows: Sequence[Row]) -> str:
    """A line an operator; the identity's own and those of equal edges stand last."""
    heads = ("W under", *(title.partition(" (")[0] for title in METRICS.values()))
    heads += ("Sum of W, nats", "Identity's sum", "Problems")
    lines: list[list[Cell]] = []
    for subject in subjects_of(rows):
        mine = of_subject(rows, subject)
        for operator in operators_of(mine):
            own = {row["metric"]: row for row in mine if row["operator"] == operator}
            lines.append(_shape_line(rows, own))
        equal = {row["metric"]: row["uniform"] for row in mine}
        name = f"{subject}: equal edges" if len(subjects_of(rows)) > 1 else "Equal edges"
        lines.append([name, *(number(equal.get(m)) for m in METRICS), DASH, DASH, DASH])
    return table(heads, lines) + _warned(rows)


def _shape_line(rows: Sequence[Row], own: Mapping[str, Row]) -> list[Cell]:
    first = next(iter(own.values()))
    return [
        _named(rows, first, operator_name(first["operator"])),
        *(spread(own[m], "x", number) if m in own else DASH for m in METRICS),
        short(first["total"]),
        short(first["identity_total"]),
        str(first["n_problems"]),
    ]


def _graph_part(tables: Tables) -> Part:
    edges, rows = _of(tables, "influence_graph", "influence")
    if not edges:
        return [], "", {}
    about = f"The strongest edge from each step, above {percent(edges[0]['threshold'])} of the "
    about += "largest W of its operator; the others are pale. "
    about += said.influence_null(rows)
    body = chart("latent-graphs", "Principal graphs", about, wide=True)
    return [], body, {"latent-graphs": influence_charts.influence_graphs(edges, rows)}


def _alike_part(tables: Tables) -> Part:
    rows = tables.get("influence_similarity", ())
    findings = _each(rows, said.similarity_finding)
    if not rows:
        return [], "", {}
    heads = ("Pair", "Cosine", "Cosine if edges changed places", "Spearman", "Problems")
    pairs: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = (_subject(row), str(row["a"]), str(row["b"]))
        pairs.setdefault(key, {})[row["metric"]] = row
    lines = [_pair_line(rows, own) for own in pairs.values()]
    return [], _lines(findings) + table(heads, lines) + _warned(rows), {}


def _pair_line(rows: Sequence[Row], own: Mapping[str, Row]) -> list[Cell]:
    first = next(iter(own.values()))
    names = f"{operator_name(first['a'])} and {operator_name(first['b'])}"
    return [
        _named(rows, first, names),
        spread(own["cosine"], "x", number) if "cosine" in own else DASH,
        number(own["cosine"]["chance"]) if "cosine" in own else DASH,
        spread(own["spearman"], "x", number) if "spearman" in own else DASH,
        str(first["n_problems"]),
    ]


def _test_part(tables: Tables) -> Part:
    rows = tables.get("influence_test", ())
    if not rows:
        return [], "", {}
    title = "<h3>Each edge against relabelling</h3>"
    about = f"Change of the answer's log-probability under {said.quoted(rows[0]['operator'])}, "
    about += (
        f"against the {str(rows[0]['against']).replace('_', ' ')}; p over all edges is the one "
    )
    about += "to read."
    heads = ("Edge", "Change, nats", "p", "p over all edges", "Problems")
    lines: list[list[Cell]] = [
        [
            _named(rows, row, f"{row['t']} to {row['s']}"),
            spread(row, "x", number),
            number(row["p"]),
            number(row["p_family"]),
            str(row["n_problems"]),
        ]
        for row in rows
    ]
    return [], title + note(about) + table(heads, lines), {}


# ---------------------------------------------------------------- commitment


def commitment_section(tables: Tables) -> Section | None:
    """What is held and what would be said, on one scale, beside shuffled labels."""
    curve, probes, steps, modes = _of(
        tables, "commitment", "commitment_probes", "commitment_steps", "latent_modes"
    )
    if not curve:
        found = said.modes_finding(modes)
        return Section((found,), _lines([found]), {}) if found else None
    findings = [
        found
        for name in subjects_of(curve)
        if (
            found := said.commitment_finding(
                *(of_subject(rows, name) for rows in (curve, probes, steps))
            )
        )
    ]
    body = _drawn("latent-commitment-curves", findings, "Commitment")
    body += _lines(_each(modes, said.modes_finding))
    body += note(
        "Bits: minus log2 of the probability given to the answer that the sample came to, on "
        "problems that the probe never saw: 1 knows nothing of two even answers, 0 is settled. "
        "The dotted line is what the share of the answers alone needs."
    )
    body += _probe_table(probes) + _curve_table(curve)
    drawn = {"latent-commitment-curves": charts.commitment_panels(curve, probes)}
    return Section(tuple(findings), _notes(tables, "commitment") + body, drawn)


def _probe_table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    heads = ("Probe of step", "Bits", "Shuffled labels: bits", "Bits from the problem alone")
    heads += ("Rank among shuffles", "Right", "Shuffled: right", "Samples", "Problems")
    lines: list[list[Cell]] = [
        [
            _named(rows, row, str(row["t"])),
            spread(row, "bits", number),
            spread(row, "shuffled_bits", number),
            number(row["problem_bits"]),
            number(row["rank"]),
            spread(row, "accuracy"),
            spread(row, "shuffled_accuracy"),
            str(row["n_rows"]),
            str(row["n_problems"]),
        ]
        for row in rows
    ]
    return table(heads, lines)


def _curve_table(rows: Sequence[Row]) -> str:
    column = charts.committed_column(rows)
    least = column.partition("_")[2]
    heads = ("Read by", "After step", "Bits", "Right", "|p(A) - p(B)|", "SS = min(p(A), p(B))")
    heads += (f"Committed at {least}", "Problems")
    lines: list[list[Cell]] = [
        [
            _named(rows, row, charts.SOURCES[row["source"]][0]),
            str(row["t"]),
            spread(row, "bits", number),
            spread(row, "accuracy"),
            spread(row, "gap", number),
            spread(row, "ss", number),
            spread(row, column),
            str(row["n_problems"]),
        ]
        for row in rows
    ]
    about = "SS cannot exceed 0.5 and falls with overfit alone; it stands here for comparison."
    return note(about) + table(heads, lines)


# ---------------------------------------------------------------- released code


def released_section(tables: Tables) -> Section | None:
    """What the released definitions give, beside ours and beside an edit that changes nothing."""
    released, ours, summed, faulty = _of(
        tables,
        f"{RELEASED}influence_shape",
        "influence_shape",
        f"{RELEASED}influence_summed",
        f"{RELEASED}influence",
    )
    if not released:
        return None
    findings = [
        found
        for name in subjects_of(released)
        if (found := said.released_finding(of_subject(ours, name), of_subject(released, name)))
    ]
    body = _notes(tables, f"influence-{PRESET}") + warning(
        "DIAGNOSTIC, no result. preset: released-code re-creates known faults: the two sides of a "
        "read-out have consumed different numbers of steps, Coconut's has no end marker and a "
        "stored first token. Here the identity, an edit that changes nothing, has an effect."
    )
    body += _drawn("latent-totals", findings, "Effects by the released definitions")
    body += chart("latent-defects", "Sum and shape by both definitions", CROSSES, wide=True)
    body += _defect_table(ours, released)
    drawn = {
        "latent-totals": influence_charts.total_bars(ours, released),
        "latent-defects": influence_charts.released_panels(ours, released),
    }
    if faulty:
        about = "Point at a cell for its interval; compare each matrix with the identity's."
        body += chart("latent-faulty-w", "DIAGNOSTIC: W as released", about, wide=True)
        drawn["latent-faulty-w"] = influence_charts.influence_maps(faulty)
    return Section(tuple(findings), body + _summed_table(summed), drawn)


CROSSES = (
    "Orange: the released definitions; blue: ours. A cross is what the identity gives: an orange "
    "mark under its cross is the number of no edit at all. Ours sums to 0 and has no shape."
)


def _defect_table(ours: Sequence[Row], released: Sequence[Row]) -> str:
    heads = ("Number", "W under", "DIAGNOSTIC: released-code", "Its identity", "Ours")
    heads += ("Our identity", "Equal edges", "Does the pattern survive?")
    fates = {_key(line): str(line["survives"]) for line in said.survival(ours, released)}
    twins = {_key(row): row for row in ours}
    lines = [
        _defect_line(released, row, twins.get(_key(row)), fates.get(_key(row), "no pattern"))
        for row in released
        if row["operator"] != IDENTITY
    ]
    about = "A pattern is an interval that leaves out equal edges; it survives where ours does so "
    about += f"on the same side. Too small: ours sums to less than {short(said.TINY)} nats."
    return table(heads, lines) + note(about)


def _key(row: Row) -> tuple[str, ...]:
    return (_subject(row), str(row["operator"]), str(row["edge"]), str(row["metric"]))


def _defect_line(rows: Sequence[Row], row: Row, twin: Row | None, fate: str) -> list[Cell]:
    metric = METRICS.get(row["metric"], str(row["metric"])).partition(" (")[0]
    own: list[Cell] = [DASH, DASH]
    if twin is not None:
        own = [spread(twin, "x", number), _null_cell(twin)]
    return [
        _named(rows, row, metric),
        operator_name(row["operator"]),
        spread(row, "x", number),
        _null_cell(row),
        *own,
        number(row["uniform"]),
        fate if twin is not None else "ours not run",
    ]


def _null_cell(row: Row) -> Cell:
    """The identity's number, and the sum of its effects."""
    total = f"sum {short(row['identity_total'])} nats"
    return ("none" if row["identity"] is None else number(row["identity"])), total


def _summed_table(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row.get("locality") is not None]
    if not known:
        return ""
    heads = ("Sums over problems, W under", *(t.partition(" (")[0] for t in METRICS.values()))
    lines = [
        [_named(known, row, operator_name(row["operator"])), *(number(row[m]) for m in METRICS)]
        for row in known
    ]
    about = (
        "The released code sums over problems in place of averaging, for explicit chains: where "
    )
    about += "problems differ in length, sums look local and early even if every edge is alike."
    return "<h3>DIAGNOSTIC: sums in place of means</h3>" + note(about) + table(heads, lines)
