"""The report of an experiment: one HTML file that a browser opens without a network.

It is drawn from plain rows (a store's tables) and a manifest, never from a model. Its content
security policy forbids every connection and every script but the three that the page carries,
named by their hashes, so no text of a model can run or send anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from interp.results import report_align as align
from interp.results import report_causal as causal
from interp.results import report_html as page
from interp.results import report_latent as latent
from interp.results import report_thinking as thinking
from interp.results.report_charts import Spec, histogram, legs_chart, position_chart
from interp.results.report_stats import (
    Finding,
    Row,
    Step,
    findings,
    merge_seeds,
    scored_rows,
    summaries,
)
from interp.results.report_tables import note, table
from interp.results.step_profiles import missed_elsewhere, two_leg_table
from interp.results.thinking_findings import legs_finding, shares

CAUSAL = ("patch", "paths", "edges", "faithfulness", "doses")
TABLES = ("chains", "steps", *CAUSAL, *thinking.TABLES, *latent.TABLES, *align.TABLES)
"""The tables that a report draws; others are read with `interp results`."""

TITLES = {
    "summary": "Summary, with the controls",
    "figures": "Figures",
    "chains": "Chains",
    "marked": "Problems that were not scored",
    "patching": "Activation patching",
    "paths": "Path patching",
    "circuit": "Circuit",
    "steering": "Steering",
    **thinking.TITLES,
    **latent.TITLES,
    **align.TITLES,
    "manifest": "How to make this again",
}
"""Sections by their anchors."""


def render(manifest: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> str:
    """Return the report as one HTML page; the same rows give the same bytes.

    `tables` holds rows by the names in `TABLES`, those of a run's parts among them; a table that is
    missing or empty has no section. One more, `report_thinking.PARTS`, has a row for each part:
    what is known of its sets.
    Problems that are marked instead of scored are listed with their reasons.

    Raises:
        InputError: a step names an unknown problem or holds no finite score, or two rows describe
            one cell of a map; or an alignment is said to be found without all its guards.
    """
    chains, steps = tables.get("chains", ()), tables.get("steps", ())
    rows = scored_rows(chains, steps)
    merged = merge_seeds(rows)
    sections, charts = [], {}
    if merged:
        sections += [_summary_section(rows), _chart_section(rows)]
        charts |= {
            "scores": histogram(merged),
            "places": position_chart(merged),
            "legs": legs_chart(merged),
        }
    if chains:
        sections += [_chain_section(chains, merged), _section("marked", page.marked_list(chains))]
    found = findings(rows)
    parts = _causal(tables) | thinking.sections(tables)
    parts |= latent.sections(tables) | align.sections(tables)
    for name, part in parts.items():
        sections.append(_section(name, part.body))
        charts |= part.charts
        found += part.findings[:HEADLINES]
    sections.append(_section("manifest", page.manifest_table(manifest)))
    head = _header(manifest, chains, found, merged)
    details = {page.step_key(step): page.step_details(step) for step in merged}
    return _document(_title(manifest), head + "".join(sections), charts, details)


HEADLINES = 3
"""How many findings of one section stand at the head of the page, at most."""


def _causal(tables: Mapping[str, Sequence[Row]]) -> dict[str, causal.Section]:
    """The sections about interventions that have rows, by their anchors."""
    patch, paths, edges, curve, doses = (tables.get(name, ()) for name in CAUSAL)
    sections = {
        "patching": causal.patch_section(patch) if patch else None,
        "paths": causal.path_section(paths) if paths else None,
        "circuit": causal.circuit_section(edges, curve) if edges or curve else None,
        "steering": causal.steering_section(doses) if doses else None,
    }
    return {name: part for name, part in sections.items() if part}


def _section(name: str, body: str) -> str:
    return f'<section id="{name}"><h2>{TITLES[name]}</h2>{body}</section>'


def _title(manifest: Mapping[str, Any]) -> str:
    """The experiment; of an alignment also what was tested for what."""
    name, chosen = str(manifest.get("experiment") or "Report"), manifest.get("settings")
    if name != "align" or not isinstance(chosen, Mapping):
        return name
    return f"Alignment: {chosen.get('task')}, tested for {chosen.get('algorithm')}"


def _header(
    manifest: Mapping[str, Any],
    chains: Sequence[Row],
    found: Sequence[Finding],
    steps: Sequence[Step],
) -> str:
    model = manifest.get("model")
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("id")
    about = " · ".join(str(part) for part in (model, manifest.get("created")) if part)
    body = f"<h1>{page.esc(_title(manifest))}</h1><p>{page.esc(about)}</p>"
    if chains:
        body += page.facts(chains, steps)
    if chains and not steps:
        body += '<p class="warning">No problem was scored; the reasons are below.</p>'
    return f"<header>{body}{page.finding_list(found)}</header>"


def _summary_section(rows: Sequence[Row]) -> str:
    note = (
        "TTS is half the sum of |necessity| and |sufficiency|, on the probability scale from 0 "
        "to 1, averaged over seeds first. The 95% intervals, in small print, resample problems. "
        "“Above null” subtracts the score of a null rewrite of the same step."
    )
    lines = summaries(rows)
    return _section("summary", f'<p class="note">{note}</p>{page.summary_table(lines)}')


def _chart_section(rows: Sequence[Row]) -> str:
    charts = [
        page.chart(
            "scores",
            "Steps by score",
            "Numbers above the bars count steps; the controls of the same steps stand beside them.",
            wide=True,
        ),
        page.chart("places", "Score along the chain", "Each fifth of the chain, all problems."),
        page.chart(
            "legs",
            "The two legs of each step",
            "Signed, mean over seeds: right and up, the step helps the answer; left and down, "
            "it hurts.",
        ),
    ]
    return _section("figures", f'<div class="charts">{"".join(charts)}</div>{_legs_block(rows)}')


def _legs_block(rows: Sequence[Row]) -> str:
    """The two-leg table: what a test of one leg alone misses."""
    lines = two_leg_table(rows)
    found = legs_finding(lines, missed_elsewhere(rows))
    shown = {row["name"]: shares(row, "estimate", "low", "high") for row in lines}
    body = [
        ("Necessity high", shown["nec only"], shown["both"]),
        ("Necessity low", shown["neither"], shown["suf only"]),
    ]
    told = f"<h3>{page.esc(found.title)}</h3>{note(found.detail)}"
    return told + table(("", "Sufficiency low", "Sufficiency high"), body)


def _chain_section(chains: Sequence[Row], steps: Sequence[Step]) -> str:
    scored = [chain for chain in chains if chain["status"] == "scored"]
    if not scored:
        return _section("chains", "<p>None was scored.</p>")
    own = {chain["id"]: [s for s in steps if s.problem == chain["id"]] for chain in scored}
    blocks = (
        page.chain_block(chain, own[chain["id"]], opened=place < page.OPEN_CHAINS)
        for place, chain in enumerate(scored)
    )
    note = (
        '<p class="note">Point at a step, tap it or reach it with the Tab key to see its cells.</p>'
    )
    return _section("chains", note + page.legend() + page.filters() + "".join(blocks))


def _document(title: str, body: str, charts: Mapping[str, Spec], details: Mapping[str, Any]) -> str:
    tip = '<div id="tip" role="tooltip" hidden></div>'
    data = (
        f"<main>{body}</main>\n{tip}\n{page.script_json('charts-data', charts)}\n"
        f"{page.script_json('steps-data', details)}"
    )
    why = "Without scripts the figures and the details of steps stay empty."
    scripts = [get_plotlyjs(), page.asset("report.js")]
    return page.document(title, data, style=page.asset("report.css"), scripts=scripts, noscript=why)
