"""Sections of the report about the True-Thinking direction, its tests, pruning and relatives.

Each takes rows as the parts of a run store them and returns a `Section`: what was found in one
sentence, a chart, and a table with every interval. A section without rows is left out. Every text
from data passes `esc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from interp.results import relatives_charts, thinking_charts
from interp.results import thinking_findings as said
from interp.results.relatives_charts import measure_name
from interp.results.report_causal import Section, short
from interp.results.report_charts import Spec
from interp.results.report_html import chart, esc
from interp.results.report_stats import DASH, Finding, Row, count, number, percent
from interp.results.report_tables import Cell, note, spread, table, warning

TITLES = {
    "direction": "TrueThinking direction",
    "steer-test": "Steering tests",
    "score-bins": "Direction by score of its steps",
    "self-checks": "Self-verification",
    "pruning": "Pruning",
    "agreement": "The score beside its relatives",
}
"""Sections by their anchors, in the order of the page."""

SHOWN_REASONS = 5
"""How many reasons for marked items a section names, at most."""

Tables = Mapping[str, Sequence[Row]]
Draw = Callable[[Tables], Section | None]


def sections(tables: Tables) -> dict[str, Section]:
    """Return the sections that have rows, by their anchors."""
    drawn: dict[str, Draw] = {
        "direction": direction_section,
        "steer-test": steer_section,
        "score-bins": bin_section,
        "self-checks": check_section,
        "pruning": prune_section,
        "agreement": agreement_section,
    }
    found = {name: draw(tables) for name, draw in drawn.items()}
    return {name: section for name, section in found.items() if section is not None}


TABLES = ("direction", "direction_sets", "direction_steps")
TABLES += ("steer_results", "steer_curves", "steer_marked", "steer_bins", "steer_bin_curves")
TABLES += ("check_segments", "check_tests", "check_restored", "prune_curves", "prune_marked")
TABLES += ("agreement", "chain_means", "early_points", "compare_marked")
"""The stored tables that these sections draw."""

PARTS = "parts"
"""A table that the page's maker gives: for each part of a run the notes on its sets."""


def _of(tables: Tables, *names: str) -> list[Sequence[Row]]:
    return [tables.get(name, ()) for name in names]


def _drawn(name: str, found: Finding, spec: Spec) -> tuple[str, dict[str, Spec]]:
    """The place of a wide chart under its finding, and the chart."""
    return chart(name, found.title, found.detail, wide=True), {name: spec}


def _bare(difference: float) -> str:
    """A difference of shares, in points that the head of the column names."""
    return said.points(difference).split()[0]


def _warned(rows: Sequence[Row]) -> str:
    """The different warnings of some rows, one paragraph for all; nothing without one."""
    told = dict.fromkeys(str(row["warning"]) for row in rows if row.get("warning"))
    return note(f"Warnings: {'; '.join(told)}.") if told else ""


def _marked(rows: Sequence[Row]) -> str:
    """What was left out, by reason."""
    if not rows:
        return ""
    counts = Counter(str(row["reason"]) for row in rows).most_common()
    told = "; ".join(f"{reason} ({n})" for reason, n in counts[:SHOWN_REASONS])
    more = f"; {len(counts) - SHOWN_REASONS} more reasons" if len(counts) > SHOWN_REASONS else ""
    return note(f"{count(len(rows), 'item')} marked and left out: {told}{more}.")


# ---------------------------------------------------------------- direction


def direction_section(tables: Tables) -> Section | None:
    """The length of the direction beside shuffled labels', and the sets that it is made from."""
    rows, sets, steps = _of(tables, "direction", "direction_sets", "direction_steps")
    if not rows:
        return None
    found = said.direction_finding(rows, steps)
    body, charts = _drawn("direction-norm", found, thinking_charts.norm_chart(rows))
    body += _set_notes(tables, "direction")
    if sets:
        body += "<h3>Balance of the two sets</h3>"
        body += note("Steps of each kind that there are, and that were chosen after matching.")
        body += _balance(sets)
    return Section((found,), body, charts)


def _balance(sets: Sequence[Row]) -> str:
    heads = ("Place in the chain", "States the answer", "True", "Decorative")
    heads += ("True, chosen", "Decorative, chosen")
    names = ("true", "decorative", "true_chosen", "decorative_chosen")
    lines = [
        (
            f"{percent(row['position_from'])} to {percent(row['position_to'])}",
            "yes" if row["mentions_answer"] else "no",
            *(str(row[name]) for name in names),
        )
        for row in sets
    ]
    return table(heads, lines)


def _set_notes(tables: Tables, part: str) -> str:
    """The thresholds of the sets of one part, and each of their warnings."""
    text = ""
    for row in (row for row in tables.get(PARTS, ()) if row["part"] == part):
        text += "".join(map(warning, row["warnings"]))
        if row["true_from"] is not None:
            text += note(
                f"True: TTS at least {short(row['true_from'])}, {count(row['n_true'], 'step')}. "
                f"Decorative: at most {short(row['decorative_to'])}, "
                f"{count(row['n_decorative'], 'step')}."
            )
    return text


# ---------------------------------------------------------------- steering tests


def steer_section(tables: Tables) -> Section | None:
    """Flips by layer in both tests, and every arm at its layer on the test problems."""
    results, curves, marked = _of(tables, "steer_results", "steer_curves", "steer_marked")
    if not results:
        return None
    found = [said.steer_finding(results, test) for test in said.WORDS]
    findings = tuple(each for each in found if each is not None)
    body, charts = "", {}
    if any(row["split"] == "test" for row in curves):
        about = (
            "Test problems only. Bands span the random directions and the shuffles; the ring is "
        )
        about += "the layer that the other problems chose."
        charts["steer-layers"] = thinking_charts.layer_panels(curves, results)
        body = chart("steer-layers", "Flips by layer", about, wide=True)
    body += _set_notes(tables, "steer-test")
    for test, (name, _, _) in said.WORDS.items():
        arms = said.arms_of(results, test)
        if arms:
            told = [each for each in findings if each.title.startswith(name)]
            body += f"<h3>{esc(told[0].title if told else name)}</h3>"
            body += note(told[0].detail) if told else ""
            body += _arm_table(arms) + _warned(list(arms.values()))
    return Section(findings, body + _marked(marked), charts)


def _arm_table(arms: Mapping[str, Row]) -> str:
    heads = ("Arm", "Layer", "Flips", "Cannot be read", "Change of log Pr(y*), nats")
    heads += ("Direction less this arm, points", "Rank of the direction", "Items", "Problems")
    order = ("direction", "random", "shuffled", *arms)
    names = [name for name in dict.fromkeys(order) if name in arms]
    return table(heads, [_arm_line(arms[name]) for name in names])


def _arm_line(row: Row) -> list[Cell]:
    name = ARM_NAMES.get(row["arm"], str(row["arm"]))
    twins = f"{name}, mean of {row['n_twins']}" if row["n_twins"] else name
    return [
        twins,
        DASH if row["layer"] is None else str(row["layer"]),
        spread(row, "flips"),
        spread(row, "unparsable"),
        spread(row, "shift", short),
        spread(row, "difference", _bare),
        short(row["rank"]),
        str(row["n_items"]),
        str(row["n_problems"]),
    ]


ARM_NAMES = {
    "direction": "TrueThinking direction",
    "random": "Random directions",
    "shuffled": "Shuffled labels",
    "shuffled_stretched": "Shuffled labels, at the direction's length",
    "attention_scale": "Attention scaled",
    "attention_mask": "Attention masked",
    "drop_step": "Step left out",
    "none": "Direction 0 times",
}
"""What the arms are called in tables."""


# ---------------------------------------------------------------- score bins


def bin_section(tables: Tables) -> Section | None:
    """What the direction of each bin of scores does in the engagement test."""
    rows, curves = _of(tables, "steer_bins", "steer_bin_curves")
    if not rows:
        return None
    found, charts = said.bin_finding(rows), {}
    body = f"<h3>{esc(found.title)}</h3>{note(found.detail)}"
    if any(row["flips"] is not None for row in rows):
        body, charts = _drawn("bins", found, thinking_charts.bin_panels(rows, curves))
    about = "The lowest share that stays y* over layers, as published, is chosen on the items that "
    about += "it is counted on, so it is too low; the flips are of other problems."
    heads = ("TTS", "True steps", "Decorative", "Lowest share right", "At layer", "Flips")
    heads += ("At layer", "Items", "Problems")
    skipped = [row for row in rows if row["skipped"]]
    body += note(about) + table(heads, [_bin_line(row) for row in rows])
    if skipped:
        lines = [(str(row["bin"]), str(row["skipped"])) for row in skipped]
        body += "<h3>Bins without a direction</h3>" + table(("TTS", "Why"), lines, words=True)
    return Section((found,), body + _warned(rows), charts)


def _bin_line(row: Row) -> list[Cell]:
    lowest = row["lowest_accuracy"]
    return [
        str(row["bin"]),
        str(row["n_true"]),
        str(row["n_decorative"]),
        DASH if lowest is None else percent(lowest),
        short(row["lowest_layer"]),
        spread(row, "flips"),
        short(row["layer"]),
        str(row["n_items"]),
        str(row["n_problems"]),
    ]


# ---------------------------------------------------------------- self-verification


def check_section(tables: Tables) -> Section | None:
    """How many self-checks are used, and what the direction brings back."""
    segments, tests, restored = _of(tables, "check_segments", "check_tests", "check_restored")
    if not segments and not tests:
        return None
    findings = said.check_findings(segments, tests, restored)
    spec = thinking_charts.check_panels(segments, tests, restored)
    body, charts = _drawn("checks", findings[0], spec)
    body += "".join(f"<h3>{esc(f.title)}</h3>{note(f.detail)}" for f in findings[1:])
    about = (
        "A segment is a self-check and the steps that belong to it; it is decorative where each "
    )
    about += "scores at most 0.005. A test says something where the check is right by itself and "
    about += "has something to repair. Shares of segments, of tests and of steps do not compare."
    return Section(tuple(findings), body + note(about), charts)


# ---------------------------------------------------------------- pruning


def prune_section(tables: Tables) -> Section | None:
    """How many answers stay, and how many tokens, by the share of steps kept."""
    curves, marked = _of(tables, "prune_curves", "prune_marked")
    found = said.keep_finding(curves)
    if not curves:
        return None
    found = found or Finding("No share of the steps between none and all was kept by TTS.", "")
    body, charts = _drawn("keep", found, relatives_charts.keep_panels(curves))
    heads = ("Kept by", "Steps kept", "Answers that stay y*", "Above random, points")
    heads += ("Above the last steps, points", "Tokens left", "Right answers", "Problems")
    rows = {(row["method"], row["fraction"], row["measure"]): row for row in curves}
    lines = [
        _keep_line(row, rows)
        for row in curves
        if row["measure"] == "same" and 0 < row["fraction"] < 1
    ]
    return Section((found,), body + table(heads, lines) + _warned(curves) + _marked(marked), charts)


def _keep_line(row: Row, rows: Mapping[tuple[str, float, str], Row]) -> list[Cell]:
    tokens, right = (
        rows.get((row["method"], row["fraction"], name), {}) for name in ("tokens", "correct")
    )
    looks = relatives_charts.METHODS
    return [
        looks[row["method"]][0] if row["method"] in looks else str(row["method"]),
        percent(row["fraction"]),
        spread(_renamed(row, "mean"), "mean"),
        spread(_renamed(row, "above_random"), "above_random", _bare),
        spread(_renamed(row, "above_last"), "above_last", _bare),
        spread(_renamed(tokens, "mean"), "mean"),
        spread(_renamed(right, "mean"), "mean"),
        str(row["n_problems"]),
    ]


def _renamed(row: Row, value: str) -> Row:
    """A row of the curves with its estimate under the bare name, as other tables have it."""
    return {**row, value: row.get(f"{value}_estimate")}


# ---------------------------------------------------------------- relatives


def agreement_section(tables: Tables) -> Section | None:
    """How far the measures agree, what early answers are, and the measures of whole chains."""
    rows, means, early = _of(tables, "agreement", "chain_means", "early_points")
    findings, body, charts = [], "", {}
    if rows:
        found = said.agreement_finding(rows) or Finding("The score is not among the measures.", "")
        findings.append(found)
        body, charts = _drawn("agreement-map", found, relatives_charts.agreement_map(rows))
        body += note(
            "In brackets: no further than shuffled steps reach, or an interval that holds 0. "
            "Point at a cell for more."
        )
    found = said.early_finding(early)
    if found is not None:
        findings.append(found)
        place, drawn = _drawn("early", found, relatives_charts.early_chart(early))
        body, charts = body + place, {**charts, **drawn}
    if means:
        body += "<h3>Measures of whole chains</h3>" + _mean_table(means) + _warned(means)
    if not body:
        return None
    return Section(tuple(findings), body + _marked(tables.get("compare_marked", ())), charts)


def _mean_table(means: Sequence[Row]) -> str:
    heads = ("Measure", "Mean", "Chains", "Problems", "Left out")
    lines: list[list[Cell]] = [
        [
            measure_name(row["measure"]),
            spread({**row, "mean_low": row["low"], "mean_high": row["high"]}, "mean", number),
            str(row["n_chains"]),
            str(row["n_problems"]),
            str(row["n_left_out"]),
        ]
        for row in means
    ]
    return table(heads, lines)
