"""Sections of the report about interventions: patches, paths, circuits and steering.

Each takes rows as they are stored and returns a `Section`. A headline names what was found with its
interval, and what chance or nothing at all would give. Every text from data passes `esc`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError
from interp.results import plots
from interp.results.report_charts import Spec, blanks, plain
from interp.results.report_html import chart, esc
from interp.results.report_stats import DASH, MINUS, Finding, Row, count
from interp.stats import FEW_CLUSTERS, spearman

SHOWN_EDGES = 60
"""How many edges the graph of a circuit draws, at most."""

SHOWN_ROWS = 20
"""How many paths or edges a table lists, at most."""

FAITHFUL = 0.8
"""The faithfulness that the headline of a circuit looks for."""

DIRECTIONS = {
    "denoise": "denoise: activations of the clean run are put into the corrupted run",
    "noise": "noise: activations of the corrupted run are put into the clean run",
}
RUNS = {"denoise": ("corrupted", "clean"), "noise": ("clean", "corrupted")}
"""For each direction the run that is patched, and the one that the activations come from."""

THROUGH = {"direct": "nothing (direct paths)", "mlps": "MLPs", "all": "everything"}
"""What is computed anew between a sender and its receivers."""

METRICS = {
    "logit_diff": ("the logit difference", " nats"),
    "prob": ("the answer's probability", ""),
    "logprob": ("the answer's log-probability", " nats"),
    "rank": ("the answer's rank", ""),
    "kl": ("the KL divergence from the clean run", " nats"),
}
"""What each metric is called, and its unit."""


@dataclass(frozen=True)
class Section:
    """A part of the page: its headlines, its HTML, and the charts that the HTML has places for."""

    findings: tuple[Finding, ...]
    body: str
    charts: Mapping[str, Spec]


def short(value: float | int | None) -> str:
    """Write a number with three digits that count: a true minus, and a dash for none.

    >>> short(0.25), short(3.3378e-06), short(12345.6), short(None) == DASH
    ('0.25', '3.34e-06', '12,346', True)
    """
    if value is None:
        return DASH
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def groups(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Group rows by a key, in the order of first appearance.

    >>> groups([{"a": 1}, {"a": 2}, {"a": 1}], lambda row: row["a"])
    [[{'a': 1}, {'a': 1}], [{'a': 2}]]
    """
    found: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return list(found.values())


def between(row: Row, value: str, unit: str = "pair", *, n: int | None = None) -> str:
    """Write the interval of a value, or that there is none.

    >>> between({"effect_low": 0.5, "effect_high": 2.0, "pairs": 30}, "effect")
    '95% interval 0.5 to 2 over 30 pairs'
    """
    n = int(row["pairs"]) if n is None else n
    low, high = row.get(f"{value}_low"), row.get(f"{value}_high")
    if low is None or high is None:
        return f"no interval: {count(n, unit)}"
    return f"95% interval {short(low)} to {short(high)} over {count(n, unit)}"


def few(n: int, unit: str = "pair") -> str:
    """Write the warning that an interval over few units carries, or nothing.

    >>> few(2), few(20)
    (' An interval over fewer than 20 pairs tends to be too narrow.', '')
    """
    text = f" An interval over fewer than {FEW_CLUSTERS} {unit}s tends to be too narrow."
    return text if 1 < n < FEW_CLUSTERS else ""


def _holds_zero(row: Row, value: str) -> bool:
    low, high = row.get(f"{value}_low"), row.get(f"{value}_high")
    return low is not None and high is not None and low <= 0 <= high


def _metric(name: str) -> tuple[str, str]:
    return METRICS.get(name, (f"the metric {name}", ""))


def _moves(row: Row, value: str = "effect") -> str:
    """Write what moves, how far, and whether the interval leaves it open in which direction."""
    name, unit = _metric(row["metric"])
    return f"{name} by {short(row[value])}{unit} ({between(row, value)})" + (
        ", which holds 0" * _holds_zero(row, value)
    )


def _runs(row: Row) -> str:
    """Write what the two runs score."""
    base, source = RUNS.get(row["direction"], ("base", "source"))
    name, unit = _metric(row["metric"])
    low, high = (f"{short(row[run])}{unit}" for run in ("base_value", "source_value"))
    return (
        f"Direction {DIRECTIONS.get(row['direction'], row['direction'])}. Without a patch {name} "
        f"is {low} in the {base} run and {high} in the {source} run."
    )


def _largest(rows: Sequence[Row], value: str = "effect") -> Row:
    return max(rows, key=lambda row: abs(row[value]))


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table whose first column names the line; every cell is escaped here."""
    top = "".join(f'<th scope="col">{esc(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{esc(line[0])}</th>'
        + "".join(f"<td>{esc(cell)}</td>" for cell in line[1:])
        + "</tr>"
        for line in lines
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>'


# ---------------------------------------------------------------- patching


def patch_section(rows: Sequence[Row]) -> Section:
    """Draw one map for each component, direction, metric and set of prompts.

    Raises:
        InputError: two rows describe one cell of a map.
    """
    findings, blocks, charts = [], [], {}
    for place, group in enumerate(groups(rows, _patch_key)):
        name, first = f"patch-{place}", group[0]
        found = _patch_finding(group)
        prompts = f"<dl><dt>Clean</dt><dd>{esc(first['clean_prompt'])}</dd><dt>Corrupted</dt>"
        prompts += f"<dd>{esc(first['corrupted_prompt'])}</dd></dl>"
        if first["pairs"] > 1:
            prompts += _note("The prompts and tokens shown are those of the first pair.")
        blocks.append(chart(name, found.title, f"{found.detail} {_patch_note(group)}") + prompts)
        shares = all(row["recovered"] is not None for row in group)
        value = "recovered" if shares else "effect"
        title = "Share recovered" if shares else f"Change of {_metric(first['metric'])[0]}"
        charts[name] = plots.place_map(group, value, title)
        findings.append(found)
    return Section(tuple(findings), "".join(blocks), charts)


def _patch_key(row: Row) -> Hashable:
    names = ("component", "direction", "metric", "clean_prompt", "corrupted_prompt")
    shape = (row["pos"] is None, row["head"] is None)
    return *(row[name] for name in names), *shape


def _patch_finding(rows: Sequence[Row]) -> Finding:
    """The largest effect of a map, or that none stands out from the null."""
    peak, null = _largest(rows), max(row["null"] for row in rows)
    name, unit = _metric(peak["metric"])
    beside = f"a run patched with itself moves it by {short(null)}"
    if abs(peak["effect"]) <= null:
        title = f"No patch of {peak['component']} moves {name} further than the null does."
        return Finding(title, f"The largest effect is {short(peak['effect'])}{unit}; {beside}.")
    title = (
        f"Of {count(len(rows), 'place')} in {peak['component']}, {_place(peak)} has the largest "
        f"effect: it moves {_moves(peak)}; {beside}{unit}."
    )
    if peak["recovered"] is None:
        return Finding(title, "No pair has a gap between its runs, so no share is recovered.")
    without = peak["pairs_without_gap"]
    share = f"It closes {_percent(peak['recovered'])} of the gap between the two runs "
    share += f"({_span(peak, 'recovered', _percent)})."
    left = f" {count(without, 'pair')} without a gap left out." if without else ""
    return Finding(title, share + left + few(peak["pairs"]))


def _span(row: Row, value: str, write: Callable[[Any], str] = short) -> str:
    """The ends of an interval alone, where its unit is written nearby."""
    low, high = row[f"{value}_low"], row[f"{value}_high"]
    return "no interval" if low is None else f"{write(low)} to {write(high)}"


def _percent(share: float | int) -> str:
    return f"{100 * share:.3g}%".replace("-", MINUS, 1)


def _place(row: Row) -> str:
    """A place as it is stored, with the token that stands there."""
    token = row["token"]
    return f"{row['place']} ({blanks(token)[:14]})" if token else str(row["place"])


def _patch_note(rows: Sequence[Row]) -> str:
    parts = [_runs(rows[0])]
    if len(rows) > 1 and _largest(rows)["effect_low"] is not None:
        parts.insert(0, "It was picked as the largest, and its interval does not allow for that.")
    idle = sum(row["change"] == 0 for row in rows)
    if idle:
        parts.append(f"{count(idle, 'place')} held the same in both runs.")
    if any(abs(row["recovered"] or 0) > plots.WIDEST for row in rows):
        parts.append(f"Colours end at {plots.WIDEST:g}; some shares lie beyond.")
    return " ".join(parts)


# ---------------------------------------------------------------- paths


def path_section(rows: Sequence[Row]) -> Section:
    """Rank the paths into each receiver, and draw a map where the senders are heads."""
    findings, blocks, charts = [], [], {}
    keys = ("receiver", "through", "direction", "metric")
    for place, group in enumerate(groups(rows, lambda row: tuple(row[key] for key in keys))):
        found, name = _path_finding(group), f"path-{place}"
        heads = [row for row in group if row["sender_head"] is not None]
        cells = {(row["sender_layer"], row["sender_head"]) for row in heads}
        blocks.append(f"<h3>{esc(found.title)}</h3>{_note(found.detail)}")
        if len(cells) == len(heads) > 1:
            title = f"Heads that send to {group[0]['receiver']}"
            blocks.append(
                chart(name, title, "Each cell is one sender; colours end at the largest.")
            )
            charts[name] = plots.grid(
                heads,
                x="sender_head",
                y="sender_layer",
                value="effect",
                title="Effect" + _unit_suffix(group[0]),
                x_title="Sender's head",
                y_title="Sender's layer",
            )
        blocks.append(_path_table(group))
        findings.append(found)
    return Section(tuple(findings), "".join(blocks), charts)


def _unit_suffix(row: Row) -> str:
    unit = _metric(row["metric"])[1].strip()
    return f" ({unit})" if unit else ""


def _path_finding(rows: Sequence[Row]) -> Finding:
    peak, idle = _largest(rows), sum(not row["acted"] for row in rows)
    gap = peak["source_value"] - peak["base_value"]
    title = (
        f"Of {count(len(rows), 'path')} into {peak['receiver']}, the one from {peak['sender']} has "
        f"the largest effect: it moves {_moves(peak)}."
    )
    if not peak["effect"]:
        title = f"No path into {peak['receiver']} moves {_metric(peak['metric'])[0]}."
    through = THROUGH.get(peak["through"], peak["through"])
    no_ops = f" {count(idle, 'path')} left the receiver as it was: no-ops." if idle else ""
    detail = f"Computed anew in between: {through}. {_runs(peak)} The gap is {short(gap)}.{no_ops}"
    return Finding(title, detail + few(peak["pairs"]))


def _path_table(rows: Sequence[Row]) -> str:
    ranked = sorted(rows, key=lambda row: -abs(row["effect"]))[:SHOWN_ROWS]
    heads = (
        "Path",
        "Effect",
        "95% interval",
        "Share of the gap",
        "Change at the receiver",
        "Acted",
    )
    lines = [
        (
            row["path"],
            short(row["effect"]),
            _span(row, "effect"),
            short(row["recovered"]),
            short(row["change"]),
            "yes" if row["acted"] else "no",
        )
        for row in ranked
    ]
    cut = f"The {len(ranked)} largest of {count(len(rows), 'path')}."
    return _table(heads, lines) + (_note(cut) if len(ranked) < len(rows) else "")


# ---------------------------------------------------------------- circuits


def circuit_section(edges: Sequence[Row], curve: Sequence[Row]) -> Section:
    """Draw a circuit, how faithful circuits are as they grow, and its strongest edges.

    Raises:
        InputError: an edge that is not written as in `a0.h1->a1.h2<k>`, or two rows of one edge.
    """
    findings, blocks, charts = [], [], {}
    if curve:
        found = _faithful(curve)
        findings.append(found)
        blocks.append(chart("circuit-curve", found.title, found.detail))
        charts["circuit-curve"] = plots.faithfulness_curve(curve)
    if len({row["edge"] for row in edges}) < len(edges):
        raise InputError("Two rows of the table edges name one edge; keep one row an edge.")
    kept = sorted((row for row in edges if row["in_circuit"]), key=_strength)
    if kept:
        drawn = kept[:SHOWN_EDGES]
        title = f"The circuit: {count(len(kept), 'edge')}"
        some = f"The {len(drawn)} strongest are drawn. " if len(drawn) < len(kept) else ""
        note = f"{some}Patching a blue edge raises the metric, a red one lowers it, by its score; "
        note += "the wider, the further."
        blocks.append(chart("circuit-graph", title, note))
        charts["circuit-graph"] = plots.circuit_graph(drawn)
    if edges:
        found = _agreement(edges)
        findings += [found] if found else []
        top = sorted(edges, key=_strength)[:SHOWN_ROWS]
        title = f"The {count(len(top), 'edge')} of the largest scores"
        blocks.append(f"<h3>{esc(title)}</h3>" + (_note(_both(found)) if found else ""))
        blocks.append(_edge_table(top))
    return Section(tuple(findings), "".join(blocks), charts)


def _strength(row: Row) -> tuple[float, str]:
    return -abs(float(row["score"])), row["edge"]


def _both(found: Finding) -> str:
    return f"{found.title} {found.detail}"


def _faithful(curve: Sequence[Row]) -> Finding:
    """The smallest circuit that is faithful enough, beside as many random edges."""
    parts = sorted((row for row in curve if row["fraction"] < 1), key=lambda row: row["fraction"])
    enough = [row for row in parts if row["faithfulness"] >= FAITHFUL]
    row = curve[0]
    detail = (
        f"Area under the curve (CPR) {short(row['cpr'])}, random {short(row['random_cpr'])}; area "
        f"between it and 1 (CMD, 0 is best) {short(row['cmd'])}, random {short(row['random_cmd'])}."
    )
    if not enough:
        most = max(parts, key=lambda row: row["faithfulness"], default=None)
        best = f": the most is {short(most['faithfulness'])}" if most else ""
        title = f"No circuit smaller than the model reaches a faithfulness of {FAITHFUL:g}{best}."
        return Finding(title, detail)
    first = enough[0]
    low, mean, high = (short(first[name]) for name in ("random_low", "random", "random_high"))
    title = (
        f"{_percent(first['fraction'])} of the edges ({first['n_edges']:,}) reach a faithfulness "
        f"of {short(first['faithfulness'])}; as many random edges {mean} ({low} to {high} over the "
        "draws)."
    )
    return Finding(title, detail)


def _agreement(edges: Sequence[Row]) -> Finding | None:
    """How the scores of verified edges rank beside their real effects."""
    known = [row for row in edges if row["verified"] is not None]
    if not known:
        return None
    scores, effects = ([row[name] for row in known] for name in ("score", "verified"))
    same = sum((a > 0) == (b > 0) for a, b in zip(scores, effects, strict=True))
    signs = f"{same} of them agree in sign."
    if len(set(scores)) < 2 or len(set(effects)) < 2:
        title = f"{count(len(known), 'edge')} really patched: too alike to have a rank agreement."
        return Finding(title, signs)
    title = (
        f"The scores of {count(len(known), 'edge')} and the effects of really patching them have a "
        f"rank agreement of {short(spearman(scores, effects))}."
    )
    return Finding(title, f"{signs} (Spearman; 1 is the same order, 0 is chance.)")


def _edge_table(rows: Sequence[Row]) -> str:
    heads = ("Edge", "Rank", "Score", "Effect when really patched", "In the circuit")
    lines = [
        (
            row["edge"],
            row["rank"],
            short(row["score"]),
            short(row["verified"]),
            "yes" if row["in_circuit"] else "no",
        )
        for row in rows
    ]
    return _table(heads, lines)


# ---------------------------------------------------------------- steering


def steering_section(rows: Sequence[Row]) -> Section:
    """Draw the doses of each held-out direction beside its damage and its random twins."""
    held_out = groups([row for row in rows if row["split"] == "report"], _direction)
    findings, blocks, charts = [], [], {}
    for place, group in enumerate(held_out):
        found, name = _dose_finding(group, rows), f"dose-{place}"
        findings.append(found)
        blocks.append(chart(name, found.title, found.detail))
        charts[name] = plots.dose_curve(group, "Effect on held-out prompts")
        blocks.append(_dose_table([row for row in group if row["method"] != "random"]))
    if not held_out:
        title = "No dose was allowed, so none was tried on the held-out prompts."
        findings.append(Finding(title, "Allow more damage, or add smaller doses."))
        blocks.append(f"<h3>{esc(title)}</h3>")
    tried = [row for row in rows if row["split"] != "report" and row["method"] != "random"]
    if len({row["direction"] for row in tried}) > 1:
        note = "Each line is a direction on the prompts that choose: not a result, only a choice."
        blocks.append(chart("dose-choice", "What the choice was made from", note))
        charts["dose-choice"] = _dose_map(tried)
    return Section(tuple(findings), "".join(blocks), charts)


def _direction(row: Row) -> Hashable:
    return row["direction"], row["site"]


def _chosen(own: Sequence[Row], rows: Sequence[Row]) -> Row:
    """The held-out row of the chosen dose: marked so, or the best on the prompts that choose."""
    marked = [row for row in own if row.get("chosen")]
    tried = [
        row
        for row in rows
        if row["split"] != "report"
        and row["method"] != "random"
        and _direction(row) == _direction(own[0])
    ]
    if marked or not tried:
        return marked[0] if marked else own[0]
    best = max(tried, key=lambda row: min(row["effect"], row["margin"]))["coefficient"]
    return next((row for row in own if row["coefficient"] == best), own[0])


def _dose_finding(group: Sequence[Row], rows: Sequence[Row]) -> Finding:
    own = [row for row in group if row["method"] != "random"]
    row = _chosen(own, rows)
    n_twins = sum(
        twin["method"] == "random" and twin["coefficient"] == row["coefficient"] for twin in group
    )
    effect = between(row, "effect", "prompt", n=row["effect_n"])
    sure = (row["margin_low"] or 0.0) > 0
    beats = "beats random directions by" if sure else "does not clearly beat random directions:"
    title = (
        f"At {row['site']} dose {short(row['coefficient'])} {beats} {short(row['margin'])} (95% "
        f"interval {_span(row, 'margin')})."
    )
    detail = (
        f"Held-out prompts, direction by {row['method']}: the effect is {short(row['effect'])} "
        f"({effect}); {count(n_twins, 'random direction')} of the same norm; rank "
        f"{short(row['rank'])}. The damage is {short(row['damage'])} nats a token "
        f"({_span(row, 'damage')}): perplexity {short(row['base_perplexity'])} without and "
        f"{short(row['perplexity'])} with it."
    )
    noop = row.get("noop_effect")
    null = "" if noop is None else f" A dose of 0 moves a prompt by {short(noop)} at most."
    return Finding(title, detail + null + few(row["effect_n"], "prompt"))


def _dose_table(rows: Sequence[Row]) -> str:
    heads = ("Dose", "Effect", "95% interval", "Above random", "95% interval", "Damage", "Rank")
    heads += ("Unparsable", "Change")
    lines = [
        (
            short(row["coefficient"]),
            short(row["effect"]),
            _span(row, "effect"),
            short(row["margin"]),
            _span(row, "margin"),
            short(row["damage"]),
            short(row["rank"]),
            short(row["unparsable"]),
            short(row["change"]),
        )
        for row in sorted(rows, key=lambda row: row["coefficient"])
    ]
    return _table(heads, lines)


def _dose_map(rows: Sequence[Row]) -> Spec:
    names = {row["direction"]: str(row["site"]) for row in rows}
    if len(set(names.values())) < len(names):
        names = {key: f"{name} #{key}" for key, name in names.items()}
    return plots.grid(
        rows,
        x="coefficient",
        y="direction",
        value="margin",
        title="Effect above random",
        x_title="Dose",
        y_title="Direction",
        y_names={key: plain(name, 40) for key, name in names.items()},
    )
