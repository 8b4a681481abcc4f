"""Pieces of the report's page. Every text that comes from data passes `esc`; no piece skips it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from interp.results.report_stats import (
    DASH,
    FLAGS,
    LOW,
    Finding,
    Row,
    Step,
    Summary,
    count,
    mean,
    number,
    percent,
    span,
)
from interp.stats import Interval

SHADES = (LOW, 0.05, 0.15, 0.3, 0.7)
"""Inner edges of the six shades of a step; the first shade holds its edge."""

OPEN_CHAINS = 6
"""How many chains stand open when the page is opened."""

CELLS = (("s1c1", "s0c1"), ("s1c0", "s0c0"))
"""The four cells: a row for the context intact then perturbed, a column for the step."""


def esc(text: object) -> str:
    """Escape a text for HTML, in or out of an attribute.

    >>> esc("<b a='1'>")
    '&lt;b a=&#x27;1&#x27;&gt;'
    """
    return html.escape(str(text), quote=True)


def script_json(name: str, value: object) -> str:
    """Return a data block that a script can read and that no text can close or run.

    >>> script_json("d", ["</script>"])
    '<script type="application/json" id="d">["\\\\u003c/script\\\\u003e"]</script>'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{esc(name)}">{text}</script>'


def asset(name: str) -> str:
    """Return a script or a style sheet of the pages."""
    return (files("interp.results") / "assets" / name).read_text(encoding="utf-8")


def document(title: str, body: str, *, style: str, scripts: Sequence[str], noscript: str) -> str:
    """Return a page that works offline and runs only the scripts given, named by their hashes.

    Its content security policy forbids every connection and every other script. A guard runs
    first and writes whatever goes wrong on the page itself.
    """
    guard = asset("guard.js")
    allowed = " ".join(_hash(script) for script in (guard, *scripts))
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src {allowed}"
    )
    tail = "\n".join(f"<script>{script}</script>" for script in scripts)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{esc(title)}</title>
<style>{style}</style>
<script>{guard}</script>
</head>
<body>
<noscript><p class="warning">{esc(noscript)}</p>
</noscript>
{body}
{tail}
</body>
</html>
"""
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be written


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def finding_list(findings: Sequence[Finding]) -> str:
    """Return the headline findings."""
    items = (f"<li><h2>{esc(f.title)}</h2><p>{esc(f.detail)}</p></li>" for f in findings)
    return f'<ol class="findings">{"".join(items)}</ol>' if findings else ""


def facts(chains: Sequence[Row], steps: Sequence[Step]) -> str:
    """Return the run in numbers: problems, seeds, answers, and what it cost."""
    scored = [row for row in chains if row["status"] == "scored"]
    graded = [row for row in scored if row["correct"] is not None]
    naive = sum(row["naive_tokens"] or 0 for row in scored)
    seeds = {row["seed"] for step in steps for row in step.rows}
    items = [
        f"{count(len(scored), 'problem')} scored",
        f"{len(chains) - len(scored)} marked",
        f"{count(len(steps), 'step')}, {count(len(seeds), 'seed')}",
    ]
    if graded:
        items.append(f"{sum(bool(row['correct']) for row in graded)} of {len(graded)} right")
    if naive:
        spent = sum(row["tokens"] or 0 for row in scored)
        items.append(f"{percent(spent / naive)} of naive tokens")
    return f'<ul class="facts">{"".join(f"<li>{esc(item)}</li>" for item in items)}</ul>'


def summary_table(lines: Sequence[Summary]) -> str:
    """Return the table of means, intervals and shares, controls included."""
    head = ("", "Mean TTS", "Above null", "≤\u00a00.005", "≥\u00a00.3", "≥\u00a00.7")
    head += ("Necessity", "Sufficiency", "Steps", "Problems")
    warnings = dict.fromkeys(line.mean.warning for line in lines if line.mean)
    texts = [text for text in warnings if text]
    notes = f'<p class="note">† {esc("; ".join(texts))}.</p>' if texts else ""
    heads = "".join(f'<th scope="col">{esc(text)}</th>' for text in head)
    body = "".join(_summary_line(line) for line in lines)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>{notes}'


def _summary_line(line: Summary) -> str:
    cells = [_scored(line.mean), _scored(line.above_null)]
    cells += [percent(share) for share in line.shares] if line.shares else [DASH] * 3
    cells += [number(line.nec), number(line.suf), str(line.n_steps), str(line.n_problems)]
    kind = ' class="control"' if line.name.startswith("Control") else ""
    tail = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{kind}><th scope="row">{esc(line.name)}</th>{tail}</tr>'


def _scored(score: Interval | None) -> str:
    if score is None:
        return DASH
    mark = " †" if score.warning else ""
    return f"{number(score.estimate)}<small>{span(score)}{mark}</small>"


def chart(name: str, title: str, note: str, *, wide: bool = False) -> str:
    """Return the place of a chart; the script draws it from the charts' data block."""
    caption = f"<figcaption><h3>{esc(title)}</h3><p>{esc(note)}</p></figcaption>"
    kind = ' class="wide"' if wide else ""
    return f'<figure{kind}>{caption}<div class="chart" id="{esc(name)}"></div></figure>'


def legend() -> str:
    """Return the key to the shades and marks of the steps."""
    names = [f"≤ {SHADES[0]:g}", *(f"< {edge:g}" for edge in SHADES[1:]), f"≥ {SHADES[-1]:g}"]
    shades = "".join(f'<li><span class="step t{i}">{n}</span></li>' for i, n in enumerate(names))
    harmful = '<li><span class="step t0 harmful">harmful</span></li>'
    text = "Harmful: the step lowers Pr(y*), by more than 0.005 over its two legs."
    return f'<ul class="legend"><li>TTS</li>{shades}{harmful}</ul><p class="note">{text}</p>'


def filters() -> str:
    """Return the controls that pick out steps."""
    fields = "".join(
        f"<fieldset><legend>{esc(text)}</legend>"
        f'<label><input type="checkbox" data-only="{flag}"> only</label>'
        f'<label><input type="checkbox" data-hide="{flag}"> hide</label></fieldset>'
        for flag, text in FLAGS.items()
    )
    slider = (
        '<fieldset><legend>TTS at least <output id="least">0.000</output></legend>'
        '<input id="slider" type="range" min="0" max="1" step="0.005" value="0" '
        'aria-label="Least TTS"></fieldset>'
    )
    buttons = (
        '<p class="line"><span id="shown" role="status"></span> '
        '<button type="button" id="reset">Show all steps</button> '
        '<button type="button" id="open">Open all chains</button> '
        '<button type="button" id="close">Close all chains</button></p>'
    )
    return f'<div class="filters">{fields}{slider}</div>{buttons}'


def chain_block(chain: Row, steps: Sequence[Step], *, opened: bool) -> str:
    """Return one problem: what was asked, the chain with its steps shaded, and the answer."""
    texts = segments(chain["chain"] or "", steps)
    body = "".join(esc(text) if step is None else _step(text, step) for text, step in texts)
    score = number(mean([step.tts for step in steps]))
    brief = f"<b>{esc(chain['id'])}</b> <span>{esc(_shorten(chain['question'] or '', 90))}</span>"
    brief += f'<span class="score">{count(len(steps), "step")}, mean TTS {score}</span>'
    return (
        f'<details class="chain"{" open" if opened else ""}><summary>{brief}</summary>'
        f'<p class="question">{esc(chain["question"])}</p>'
        f'<p class="text">{body}</p><p class="answer">{_answer(chain)}</p></details>'
    )


def segments(chain: str, steps: Sequence[Step]) -> list[tuple[str, Step | None]]:
    """Cut a chain into its steps and the text between them.

    Where the offsets do not give the steps' own texts, the steps alone are shown, each as
    recorded, rather than text that belongs to another step.
    """
    ordered = sorted(steps, key=lambda step: (step.rows[0]["start"], step.step))
    pieces: list[tuple[str, Step | None]] = []
    cursor = 0
    for step in ordered:
        row = step.rows[0]
        if row["start"] < cursor or chain[row["start"] : row["end"]] != row["text"]:
            return [(f"{other.rows[0]['text'].strip()}\n", other) for other in ordered]
        pieces += [(chain[cursor : row["start"]], None), (row["text"], step)]
        cursor = row["end"]
    pieces.append((chain[cursor:], None))
    return [(text, step) for text, step in pieces if text]


def _step(text: str, step: Step) -> str:
    shade = 0 if step.tts <= SHADES[0] else sum(step.tts >= edge for edge in SHADES[1:]) + 1
    kind = f"step t{shade}" + (" harmful" if "harmful" in step.flags else "")
    inner = text.strip()
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    attributes = f'data-key="{esc(step_key(step))}" data-tts="{step.tts:.6f}" '
    attributes += f'data-flags="{" ".join(step.flags)}"'
    mark = f'<span class="{kind}" tabindex="0" {attributes}>{esc(inner or text)}</span>'
    return f"{esc(before)}{mark}{esc(after)}" if inner else mark


def step_key(step: Step) -> str:
    """Return the name of a step in the page, such as `gsm8k-1:0`."""
    return f"{step.problem}:{step.step}"


def _answer(chain: Row) -> str:
    source = {"written": "as written", "forced": "forced after the chain", "gold": "gold"}
    how = source.get(chain["answer_source"], chain["answer_source"])
    parts = [f"Scored answer y* <b>{esc(chain['answer'])}</b> ({esc(how)})"]
    if chain["gold"] is not None:
        verdict = {True: "right", False: "wrong", None: "not graded"}[chain["correct"]]
        parts.append(f"gold <b>{esc(chain['gold'])}</b>, {verdict}")
    parts.append(f"{esc(chain['n_tokens'])} tokens" + (", truncated" * bool(chain["truncated"])))
    if chain["tokens"] and chain["naive_tokens"]:
        share = percent(chain["tokens"] / chain["naive_tokens"])
        parts.append(f"scoring took {esc(chain['forwards'])} forwards, {share} of naive tokens")
    return " · ".join(parts)


def step_details(step: Step) -> dict[str, Any]:
    """Return what the page shows when a step is pointed at; the script writes it as text."""
    scores = [row["tts"] for row in step.rows]
    spread = f"{number(min(scores))} to {number(max(scores))}, {count(len(scores), 'seed')}"
    ops = " and ".join(sorted({"edited" if r["op"] == "edit" else "dropped" for r in step.rows}))
    lines = [
        ("TTS", number(step.tts)),
        ("Over seeds", spread),
        ("Necessity", number(step.nec)),
        ("Sufficiency", number(step.suf)),
        ("Null rewrite", number(step.null)),
        ("Random step", number(step.random)),
        ("Perturbed by", ops),
        ("Flags", ", ".join(FLAGS[flag] for flag in step.flags) or "none"),
    ]
    edits = dict.fromkeys(row["perturbed"] for row in step.rows if row["op"] == "edit")
    lines += [("Became", _shorten(text or "", 160)) for text in list(edits)[:2]]
    cells = [[_probability(step.rows, name) for name in pair] for pair in CELLS]
    return {"title": f"Step {step.step + 1}", "lines": lines, "cells": cells}


def _probability(rows: Sequence[Row], cell: str) -> str:
    return number(mean([math.exp(row[cell]) for row in rows if row[cell] is not None]))


def _shorten(text: str, width: int) -> str:
    words = " ".join(text.split())
    return words if len(words) <= width else words[: width - 1] + "…"


def marked_list(chains: Sequence[Row]) -> str:
    """Return the problems that were not scored, each with its reason."""
    rows = "".join(
        f'<tr><th scope="row">{esc(row["id"])}</th><td>{esc(row["reason"])}</td>'
        f"<td>{esc(_shorten(row['question'] or '', 120))}</td></tr>"
        for row in chains
        if row["status"] != "scored"
    )
    if not rows:
        return "<p>None: every problem was scored.</p>"
    head = '<th scope="col">Problem</th><th scope="col">Reason</th><th scope="col">Question</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll words" tabindex="0">{table}</div>'


def manifest_table(manifest: Mapping[str, Any]) -> str:
    """Return everything that identifies the run, one line an entry."""
    lines = "".join(
        f'<tr><th scope="row">{esc(name)}</th><td>{esc(value)}</td></tr>'
        for name, value in flat(manifest)
    )
    return f'<div class="scroll words" tabindex="0"><table><tbody>{lines}</tbody></table></div>'


def flat(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the entries of a nested dictionary under dotted names.

    >>> list(flat({"model": {"name": "tiny", "layers": 2}, "seeds": [0, 1]}))
    [('model.name', 'tiny'), ('model.layers', '2'), ('seeds', '[0, 1]')]
    """
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, str) and value.isprintable() and value == value.strip()
            text = value if is_plain else json.dumps(value, default=str, ensure_ascii=False)
            yield f"{prefix}{name}", text
