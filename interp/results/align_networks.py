"""Charts of the networks that multiply and of attacks on a model of legal moves, and their words.

Swaps of digits with the digits that cannot matter marked, probes beside every baseline with what
edits along them do, and attacks beside random moves. All from rows alone.

Sources: Bai et al. 2025, arXiv:2510.00184 (multiplication); Shah et al., arXiv:2602.05903
(attacks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.results.align_figures import Bar, bar, grouped, marks, named_axis
from interp.results.latent_charts import tiled
from interp.results.report_charts import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import DASH, Finding, Row, number, percent
from interp.results.thinking_charts import SHARE, bars

# ---------------------------------------------------------------- networks that multiply


PALE = [[0.0, "#f1a340"], [0.5, "#f7f7f7"], [1.0, "#67a9cf"]]
"""Colours on which dark text can be read."""


def can_matter(row: Row) -> bool:
    """Whether an operand digit can change an answer digit: only from its own place up.

    >>> can_matter({"digit": "b1", "answer": 1}), can_matter({"digit": "a2", "answer": 1})
    (True, False)
    """
    return int(row["answer"]) >= int(str(row["digit"])[1:])


def swap_maps(rows: Sequence[Row]) -> Spec:
    """Draw what swapping each operand digit costs each answer digit; a line of panels a network.

    Left the prefix of the clean product, right that of the swapped one. Below the steps a digit
    cannot matter, so what stands there is error. `rows` are those of `heat_maps`.
    """
    networks = list(dict.fromkeys(str(row["network"]) for row in rows))
    prefixes = [p for p in ("original", "consistent") if any(r["prefix"] == p for r in rows)]
    panels, titles = [], []
    for network in networks:
        for prefix in prefixes:
            mine = [row for row in rows if (row["network"], row["prefix"]) == (network, prefix)]
            panels.append(_swap_panel(mine))
            titles.append(f"{network}, {prefix} prefix")
    most = max(1e-9, *(abs(row["effect"]) for row in rows))
    head = {"text": "Loss of logit", "side": "right"}
    axis = {"cmin": -most, "cmax": most, "colorscale": PALE}
    axis["colorbar"] = {"title": head, "thickness": 14}
    made = tiled(panels, titles, columns=len(prefixes), height=300)
    return {**made, "layout": {**made["layout"], "coloraxis": axis}}


def _swap_panel(rows: Sequence[Row]) -> Spec:
    digits = list(dict.fromkeys(str(row["digit"]) for row in rows))
    answers = sorted({int(row["answer"]) for row in rows})
    cells = {(str(row["digit"]), int(row["answer"])): row for row in rows}
    grid = [[cells.get((digit, k)) for k in answers] for digit in digits]
    heat = {
        "type": "heatmap",
        "x": [f"c{k}" for k in answers],
        "y": [*map(plain, digits)],
        "z": [[row and row["effect"] for row in line] for line in grid],
        "text": [[number(row["effect"], 1) if row else "" for row in line] for line in grid],
        "customdata": [[_swap_hover(row) for row in line] for line in grid],
        "texttemplate": "%{text}",
        "textfont": {"color": INK},
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y} on %{x}: %{customdata}<extra></extra>",
    }
    x = {**axis_title("Digit of the answer"), "type": "category", "showgrid": False}
    y = {**axis_title("Digit swapped"), "type": "category", "showgrid": False}
    y |= {"categoryorder": "array", "categoryarray": [*map(plain, digits)][::-1]}
    return {"data": [heat], "layout": layout(x, y, shapes=_steps(digits, answers))}


def _swap_hover(row: Row | None) -> str:
    return "not measured" if row is None else f"{number(row['effect'])} ± {number(row['error'])}"


def _steps(digits: Sequence[str], answers: Sequence[int]) -> list[Spec]:
    """Lines at the left of the first answer digit that each operand digit can change."""
    pen = {"color": INK, "width": 3}
    found = []
    for i, digit in enumerate(reversed(digits)):
        first = next((j for j, k in enumerate(answers) if k >= int(digit[1:])), len(answers))
        ends = {"x0": first - 0.5, "x1": first - 0.5, "y0": i - 0.5, "y1": i + 0.5}
        found.append({"type": "line", "xref": "x", "yref": "y", **ends, "line": pen})
    return found


def swap_finding(rows: Sequence[Row], digits: Sequence[Row]) -> Finding:
    """How many digit pairs each network's answer hangs on, beside those that cannot matter.

    Args:
        rows: of `heat_maps`; the original prefix is told.
        digits: of `digits`, for the share of whole answers that are right.
    """
    told = []
    for network in dict.fromkeys(str(row["network"]) for row in rows):
        mine = [r for r in rows if r["network"] == network and r["prefix"] == "original"]
        can, cannot = ([r for r in mine if can_matter(r) is side] for side in (True, False))
        exact = [float(r["exact"]) for r in digits if r["network"] == network]
        words = f"{network}{f' ({percent(exact[0])} of answers right)' if exact else ''}: "
        words += f"{sum(map(_beyond, can))} of {len(can)} pairs of digits that can matter do, "
        told.append(f"{words}and {sum(map(_beyond, cannot))} of {len(cannot)} that cannot.")
    detail = "A pair counts where its mean is beyond two standard errors. Left of the black lines "
    detail += "a digit stands above the answer's place and cannot matter."
    return Finding(told[0], " ".join([*told[1:], detail]))


def _beyond(row: Row) -> bool:
    return abs(row["effect"]) > 2 * row["error"]


PROBES: Mapping[str, tuple[str, str, str]] = {
    "constant": ("Constant", INK, "line-ew-open"),
    "raw inputs": ("Read-out of the raw digits", AMBER, "square"),
    "untrained network": ("Same probe, untrained network", GREY, "diamond"),
    "shuffled labels": ("Same probe, shuffled labels", PURPLE, "x"),
    "read-out": ("The network's own read-out, better head", GREEN, "triangle-up"),
    "error": ("Probe", BLUE, "circle"),
}
"""Columns of a probe's row and how they are drawn."""


def probe_panels(rows: Sequence[Row], read_outs: Sequence[Row] = ()) -> Spec:
    """Draw each probe's error beside every baseline, and beside it what edits along it do.

    A line of panels a network. Under each variable stands the verdict of both halves.

    Args:
        rows: of `probes`.
        read_outs: of `read_outs`: what a network that was trained to say these sums says.
    """
    panels, titles = [], []
    for network in dict.fromkeys(str(row["network"]) for row in rows):
        mine = [_with_read_out(row, read_outs) for row in rows if row["network"] == network]
        panels += [_error_panel(mine), _follow_panel(mine)]
        titles += [f"{network}: decoded?", f"{network}: does the answer follow edits?"]
    return grouped(tiled(panels, titles, columns=2, height=340))


def _with_read_out(row: Row, read_outs: Sequence[Row]) -> dict[str, Any]:
    key = (row["network"], row["variable"])
    own = [r["error"] for r in read_outs if (r["network"], r["variable"]) == key]
    ends = {"error_low": row["error low"], "error_high": row["error high"]}
    return {**row, **ends, "read-out": min(own, default=None), "tick": _verdict_tick(row)}


def _verdict_tick(row: Row) -> str:
    words = [row["variable"], *str(row["verdict"]).split("; ")]
    return "<br>".join(plain(each).replace(" baselines", "<br>baselines") for each in words)


def _error_panel(rows: Sequence[Row]) -> Spec:
    data = []
    for column, (label, colour, symbol) in PROBES.items():
        mine = [row for row in rows if row.get(column) is not None]
        if not mine:
            continue
        drawn = marks(label, label, [row["tick"] for row in mine], mine, column)
        drawn["marker"] = {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 1.5}}
        if column == "error":
            drawn["error_y"] = bars(mine, "error", "error_low", "error_high")
        data.append(drawn)
    x = {**named_axis(row["tick"] for row in rows), "tickfont": {"size": 10}, "tickangle": 0}
    y = {**axis_title("Mean absolute error, held out"), "rangemode": "tozero"}
    return {"data": data, "layout": layout(x, y)}


def _follow_panel(rows: Sequence[Row]) -> Spec:
    known = [row for row in rows if row["follows"] is not None]
    data = []
    looks = (("follows", ("Edit along the probe", BLUE, "")),)
    looks += (("follows random edits", ("Random edit of the same length", GREY, "/")),)
    for column, look in looks:
        mine = [row for row in known if row.get(column) is not None]
        wide = [{"v": row[column], "v_low": None, "v_high": None} for row in mine]
        if mine:
            data.append(bar(look, [plain(row["variable"]) for row in mine], wide, "v"))
    x = named_axis(plain(row["variable"]) for row in rows)
    y = {**axis_title("Answers that follow"), **SHARE, "range": [0, 1.05]}
    return {"data": data, "layout": layout(x, y)}


def probe_finding(rows: Sequence[Row]) -> Finding:
    """Which running sums each network's probes find beyond all baselines, and which are used."""
    decoded, used = [], []
    for network in dict.fromkeys(str(row["network"]) for row in rows):
        mine = {r["variable"]: str(r["verdict"]) for r in rows if r["network"] == network}
        first = [name for name, verdict in mine.items() if verdict.startswith("decodable")]
        second = [name for name, verdict in mine.items() if verdict.endswith("; used")]
        decoded.append(f"{network} {', '.join(first) or 'none'}")
        used.append(f"{network} {', '.join(second) or 'none'}")
    worst = max(rows, key=lambda row: row["constant"] or 0.0)
    detail = f"Used by the answer: {'; '.join(used)}. A constant errs by up to "
    detail += f"{number(worst['constant'], 1)}. Decoded is not used: right, edits along the "
    detail += "probe beside random ones of the same length."
    return Finding(f"Sums decoded beyond every baseline: {'; '.join(decoded)}.", detail)


# ---------------------------------------------------------------- attacks

ATTACKS: Mapping[str, str] = {
    "RM": "Random<br>legal moves",
    "SMM": "The model's own<br>best move",
    "AD": "The move it finds<br>least likely",
    "IMO": "Towards an<br>illegal answer",
    "BSO": "Towards the<br>probe's errors",
}
"""Attacks and what they aim at; random moves are the control of the others."""


def attack_panels(rows: Sequence[Row]) -> Spec:
    """Draw how often each attack wins, random moves beside it, and what edits of the board do.

    `rows` are those of the soundness search; `kind` tells them apart.
    """
    panels, titles = [_attack_panel(rows)], ["Attacks after which Black answers illegally"]
    edits = [row for row in rows if row["kind"] == "edit"]
    if edits:
        panels.append(_edit_panel(edits))
        titles.append("Agreement of the played moves with boards, after an edit")
    return grouped(tiled(panels, titles, columns=1, height=300))


def _attack_panel(rows: Sequence[Row]) -> Spec:
    mine = [
        {**row, "x": row["success"], "x_low": row["low"], "x_high": row["high"]}
        for row in rows
        if row["kind"] == "attack"
    ]
    names = [f"{plain(row['attack'])}<br>{ATTACKS.get(str(row['attack']), '')}" for row in mine]
    data = []
    for label, control in (("Control: random legal moves", True), ("Attack", False)):
        here = [i for i, row in enumerate(mine) if (row["attack"] == "RM") is control]
        look = (label, GREY if control else VERMILION, "/" if control else "")
        if here:
            made = bar(look, [names[i] for i in here], [mine[i] for i in here], "x")
            data.append({**made, "offsetgroup": "attacks"})
    most = max(0.02, *(row["high"] for row in mine))
    y = {**axis_title("Games won"), **SHARE, "range": [0, 1.1 * most]}
    return {"data": data, "layout": layout({**named_axis(names), "tickangle": 0}, y)}


def _edit_panel(rows: Sequence[Row]) -> Spec:
    names = [plain(row["site"]) + f"<br>along {plain(row['along'])}" for row in rows]
    looks: Mapping[str, Bar] = {
        "IoU with the edited board": ("Edit: agrees with the edited board", BLUE, ""),
        "IoU with the true board": ("Edit: agrees with the true board", "#7fb3dc", "|"),
        "IoU with the edited board, random edit": ("Random edit: edited board", GREY, "/"),
        "IoU with the true board, random edit": ("Random edit: true board", SILVER, "\\"),
    }
    data = [
        bar(look, names, [{"x": row[key], "x_low": None, "x_high": None} for row in rows], "x")
        for key, look in looks.items()
    ]
    y = {**axis_title("Intersection over union"), "rangemode": "tozero"}
    return {"data": data, "layout": layout(named_axis(names), y)}


def attack_finding(rows: Sequence[Row]) -> Finding:
    """Which attack wins most, beside random moves, and what it refutes."""
    mine = [row for row in rows if row["kind"] == "attack"]
    best = max(mine, key=lambda row: row["success"])
    random = next((row for row in mine if row["attack"] == "RM"), None)
    title = f"{best['attack']} wins {percent(best['success'])} of games "
    title += f"({percent(best['low'])} to {percent(best['high'])})"
    title += f"; random moves {percent(random['success'])}." if random else "."
    others = [f"{row['attack']} {percent(row['success'])}" for row in mine if row is not best]
    detail = f"{int(best['prefixes'])} games each, Wilson intervals; {', '.join(others) or DASH}. "
    detail += "One win shows that the model is not sound; if the decoded board drove it, BSO would "
    return Finding(title, f"{detail}do as well as IMO.")
