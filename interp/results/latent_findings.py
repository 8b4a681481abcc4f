"""One sentence for each part of the latent work, computed from its rows.

Each names its control and its interval, says where an interval holds 0, and warns below 20
problems. The identity, an edit that changes nothing, is told with every number of an edit: where it
is not 0, the number is said to be no result. Shares are percentages, differences of shares points,
effects nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from interp.results.latent_charts import (
    IDENTITY,
    METRICS,
    TESTED,
    committed_column,
    operator_name,
    operators_of,
    subjects_of,
)
from interp.results.report_causal import few, short
from interp.results.report_stats import Finding, Row, count, percent
from interp.results.thinking_findings import lead, points, shares

TINY = 0.01
"""Nats: effects that sum to less have a shape too, and it says nothing of any reasoning."""
P_LEVEL = 0.05
"""Below this a test counts an edge as beyond relabelling, over the family of all edges."""


def spoken(rows: Sequence[Row]) -> str | None:
    """Return the operator that a sentence speaks of: `TESTED`, or the first that is no null.

    >>> spoken([{"operator": "identity"}, {"operator": "zero"}]), spoken([{"operator": "identity"}])
    ('zero', None)
    """
    names = [name for name in operators_of(rows) if name != IDENTITY]
    if TESTED in names:
        return TESTED
    return next((name for name in names if name != "shuffled_donor"), None)


def quoted(operator: str) -> str:
    """Write what an operator is called in a sentence.

    >>> quoted("rotate_45")
    '“Rotated (45)”'
    """
    return f"“{operator_name(operator)}”"


def about(rows: Sequence[Row]) -> str:
    """Name the subject at the head of a sentence, where the rows tell it."""
    name = subjects_of(rows[:1])[0] if rows else ""
    return f"{name}: " if name else ""


def number_of(row: Row, value: str = "x", unit: str = "") -> str:
    """Write a number with its interval, or that it has none.

    >>> number_of({"x": 0.5, "x_low": 0.25, "x_high": 1.0}, unit=" nats")
    '0.5 nats (95% interval 0.25 to 1)'
    """
    low, middle, high = (row.get(f"{value}{end}") for end in ("_low", "", "_high"))
    if middle is None:
        return "no value"
    if low is None or high is None:
        return f"{short(middle)}{unit} (no interval)"
    zero = ", which holds 0" * (low <= 0 <= high and middle != 0)
    return f"{short(middle)}{unit} (95% interval {short(low)} to {short(high)}{zero})"


# ---------------------------------------------------------------- accuracy


def accuracy_finding(rows: Sequence[Row]) -> Finding:
    """How often each subject is right; a single one has no control on its own page."""
    best = max(rows, key=lambda row: row["accuracy"])
    n = min(row["n_problems"] for row in rows)
    if len(rows) == 1:
        title = f"{best['subject']} answers {shares(best, 'accuracy')} of the problems right."
        detail = "This alone does not say that the latent steps help: that takes the same training "
        detail += "without latents, with pause tokens, and without recurrence, each a run of its "
        detail += "own."
    else:
        others = [row for row in rows if row is not best]
        told = ", ".join(f"{row['subject']} {shares(row, 'accuracy')}" for row in others)
        title = f"{best['subject']} answers {shares(best, 'accuracy')} right; {told}."
        detail = _apart(best, others)
    bad = sum(row["unparsable"] for row in rows)
    detail += f" {count(n, 'problem')}; {count(bad, 'answer')} cannot be read."
    return Finding(title, detail + few(n, "problem"))


def _apart(best: Row, others: Sequence[Row]) -> str:
    """Whose intervals reach that of the best."""
    near = [row["subject"] for row in others if row["accuracy_high"] >= best["accuracy_low"]]
    if near:
        return f"The intervals of {', '.join(map(str, near))} overlap with it."
    return "No other interval reaches it."


# ---------------------------------------------------------------- necessity


def null_of(rows: Sequence[Row]) -> str:
    """Say what the identity does in rows of `necessity`.

    >>> null_of([{"operator": "identity", "flip": 0.0, "kl": 0.0}])
    'The identity flips 0% of answers and moves them by 0 nats.'
    """
    mine = [row for row in rows if row["operator"] == IDENTITY and row["flip"] is not None]
    if not mine:
        return "No identity stands beside it."
    flip, moved = max(row["flip"] for row in mine), max(abs(row["kl"] or 0) for row in mine)
    told = f"The identity flips {percent(flip)} of answers and moves them by {short(moved)} nats."
    broken = " It must do nothing: none of these numbers is a result."
    return told + broken * bool(flip or moved)


def necessity_finding(rows: Sequence[Row]) -> Finding | None:
    """At which step an edit flips most answers and at which fewest; None without an operator."""
    operator = spoken([row for row in rows if "+" not in str(row["steps"])])
    mine = [r for r in rows if r["operator"] == operator and "+" not in str(r["steps"])]
    mine = [row for row in mine if row["flip"] is not None]
    if operator is None or not mine:
        return None
    most = max(mine, key=lambda row: (row["flip"], -row["step"]))
    least = min(mine, key=lambda row: (row["flip"], row["step"]))
    title = f"{about(mine)}{_put(operator)} flips {shares(most, 'flip')} of answers at step "
    title += f"{most['steps']}"
    if least["flip"] < most["flip"]:
        title += f", its strongest, and {shares(least, 'flip')} at step {least['steps']}"
    elif len(mine) > 1:
        title += " and the same share at every other step"
    title += ", which holds 0." if _zero(least, "flip") else "."
    detail = f"{null_of(rows)} {_gain(most)}{_beside(rows, most)}"
    detail += f" {count(most['n_problems'], 'problem')}; steps were compared after the fact."
    return Finding(title, detail + few(most["n_problems"], "problem"))


def _put(operator: str) -> str:
    known = {
        "resample": "Another problem's step in its place",
        "zero": "Zeroing a step",
        "swap": "Another problem's whole thought",
    }
    return known.get(operator, f"The edit {quoted(operator)}")


def _zero(row: Row, value: str) -> bool:
    low, high = row.get(f"{value}_low"), row.get(f"{value}_high")
    return low is not None and high is not None and low <= 0 <= high


def _gain(row: Row) -> str:
    """What the edit does to the accuracy."""
    if row.get("d_accuracy") is None:
        return ""
    ends = lead(row, "d_accuracy", "d_accuracy_low", "d_accuracy_high")
    return f"Accuracy there, {percent(row['clean_accuracy'])} unedited: {ends}."


def _beside(rows: Sequence[Row], most: Row) -> str:
    """Other edits at the same step, the whole thought, and what chance gives."""
    text = ""
    for name in ("zero", "swap"):
        same = [r for r in rows if r["operator"] == name and r["flip"] is not None]
        same = [r for r in same if name == "swap" or r["steps"] == most["steps"]]
        if same and name != most["operator"]:
            where = "" if name == "swap" else " there"
            text += f" {_put(name)} flips {shares(same[0], 'flip')}{where}."
    if most.get("ceiling") is not None:
        text += f" Answers drawn at random would flip {percent(most['ceiling'])}."
    return text


# ---------------------------------------------------------------- early stop


def stop_finding(rows: Sequence[Row], settling: Sequence[Row] = ()) -> Finding:
    """What stopping early costs, beside no step at all, and whether the curve falls."""
    ordered = sorted(rows, key=lambda row: row["k"])
    none, last = ordered[0], ordered[-1]
    title = f"{about(rows)}Without a latent step {shares(none, 'accuracy')} of answers are right, "
    title += f"after all {last['k']} {shares(last, 'accuracy')}: {_overlap(none, last)}."
    drop = max(
        pairwise(ordered),
        key=lambda p: p[0]["accuracy"] - p[1]["accuracy"],
        default=None,
    )
    if drop is not None and drop[0]["accuracy"] > drop[1]["accuracy"]:
        title += f" A(k) is not monotone: from k = {drop[0]['k']} to {drop[1]['k']} it falls by "
        title += f"{points(drop[0]['accuracy'] - drop[1]['accuracy'])}"
        title += f" ({_overlap(*drop)})."
    detail = _solved(last) + _settled(settling)
    detail += " A read-out before the last step is unlike the training, so the forced next step "
    detail += f"stands beside it. {count(last['n_problems'], 'problem')}."
    return Finding(title, detail + few(last["n_problems"], "problem"))


def _overlap(first: Row, second: Row) -> str:
    """Whether two Wilson intervals meet."""
    low, high = sorted((first, second), key=lambda row: row["accuracy"])
    if None in (low["accuracy_high"], high["accuracy_low"]):
        return "no interval"
    apart = low["accuracy_high"] < high["accuracy_low"]
    return "the intervals lie apart" if apart else "the intervals overlap"


def _solved(last: Row) -> str:
    extra = last["solved"] - last["accuracy"]
    text = f"Some stop is right in {shares(last, 'solved')}, which cannot fall with k"
    return f"{text}; {points(extra)} of that is lost again at the end." if extra > 0 else f"{text}."


def _settled(rows: Sequence[Row]) -> str:
    known = sorted(row["settled"] for row in rows if row["settled"] is not None)
    if not known:
        return ""
    middle, lost = known[(len(known) - 1) // 2], sum(bool(row["lost"]) for row in rows)
    gone = f"{lost} of {len(rows)} were right and lost"
    return f" Half of the answers are final by k = {middle}; {gone}."


# ---------------------------------------------------------------- influence


def influence_null(rows: Sequence[Row]) -> str:
    """Say what the identity does to any read-out, from rows of `influence`.

    >>> influence_null([{"operator": "identity", "x": 0.0}])
    'The identity null is 0 nats at every edge.'
    """
    mine = [row for row in rows if row["operator"] == IDENTITY]
    if not mine:
        return "No identity stands beside it."
    if any(row["x"] is None for row in mine):
        return "The identity null is infinite somewhere: none of these numbers is a result."
    worst = max(abs(row["x"]) for row in mine)
    if not worst:
        return "The identity null is 0 nats at every edge."
    told = f"The identity null reaches {short(worst)} nats"
    return f"{told}: it must be 0, so none of these numbers is a result."


def influence_finding(rows: Sequence[Row], tests: Sequence[Row] = ()) -> Finding | None:
    """The strongest edge between two steps, beside the null donor's; None without an operator."""
    operator = spoken(rows)
    mine = [r for r in rows if r["operator"] == operator and r["t"] < r["s"] and r["x"] is not None]
    if not mine:
        return None
    most = max(mine, key=lambda row: row["x"])
    t, s = most["t"], most["s"]
    title = (
        f"{about(mine)}{_put(str(operator))} acts most from step {t} on the read-out after step "
    )
    title += f"{s}: {number_of(most, unit=' nats')}"
    shuffled = [r for r in rows if (r["operator"], r["t"], r["s"]) == ("shuffled_donor", t, s)]
    if shuffled and operator == TESTED:
        title += f"; the donor's vector of another step {number_of(shuffled[0], unit=' nats')}"
        title += ", which is no less" * (shuffled[0]["x"] >= most["x"])
    detail = (
        f"{influence_null(rows)}{_tested(tests)} The edge is the largest of {len(mine)}, chosen "
    )
    detail += f"after the fact. {count(most['n_problems'], 'problem')}."
    return Finding(f"{title}.", detail + few(most["n_problems"], "problem"))


def _tested(tests: Sequence[Row]) -> str:
    """How many edges a permutation test finds."""
    if not tests:
        return ""
    found = [row for row in tests if row["p_family"] < P_LEVEL]
    what = f"{len(found)} of {count(len(tests), 'edge')} (t = s among them) shift the answer's "
    what += (
        f"log-probability beyond relabelling with the {str(tests[0]['against']).replace('_', ' ')}"
    )
    return f" {what}, p < {P_LEVEL:g} over all edges."


def side(row: Row) -> int | None:
    """On which side of equal edges a shape number lies: 1, -1, or 0 where the interval holds it.

    >>> side({"x": 0.7, "x_low": 0.6, "x_high": 0.8, "uniform": 0.5})
    1
    """
    if None in (row["x"], row["x_low"], row["x_high"]):
        return None
    if row["x_low"] <= row["uniform"] <= row["x_high"]:
        return 0
    return 1 if row["x"] > row["uniform"] else -1


def shape_finding(rows: Sequence[Row]) -> Finding | None:
    """Which of the four numbers differ from those of equal edges; None without a shape."""
    operator = spoken(rows)
    mine = {row["metric"]: row for row in rows if row["operator"] == operator}
    known = {name: row for name, row in mine.items() if row["x"] is not None}
    if not mine:
        return None
    start = f"{about(list(mine.values()))}W under {quoted(str(operator))}"
    first = next(iter(mine.values()))
    if not known:
        return Finding(f"{start} is 0 between all steps, so it has no shape.", shape_null(first))
    apart = [name for name, row in known.items() if side(row)]
    if first["total"] < TINY:
        start += (
            f" sums to {short(first['total'])} nats, too little for a shape to mean anything; it"
        )
    title = f"{start} differs from equal edges in {len(apart)} of {len(known)} shape numbers: "
    title += "; ".join(_metric_told(name, row) for name, row in known.items()) + "."
    n = first["n_problems"]
    detail = f"W sums to {short(first['total'])} nats over t < s. {shape_null(first)} "
    detail += f"{count(n, 'problem')}."
    return Finding(title, detail + few(n, "problem"))


def _metric_told(name: str, row: Row) -> str:
    word = METRICS.get(name, name).partition(" (")[0].lower()
    ends = "no interval"
    if row["x_low"] is not None:
        ends = f"{short(row['x_low'])} to {short(row['x_high'])}"
        ends += ", which holds it" * (side(row) == 0)
    return f"{word} {short(row['x'])} against {short(row['uniform'])} ({ends})"


def shape_null(row: Row) -> str:
    """Say what the identity's shape is, from a row of `influence_shape`."""
    total = row.get("identity_total")
    if total is None:
        return "No identity stands beside it."
    if total == 0 and row["identity"] is None:
        return "The identity sums to 0 nats and has no shape, as it must."
    return f"The identity sums to {short(total)} nats and has a shape of its own: no result."


def similarity_finding(rows: Sequence[Row]) -> Finding | None:
    """The two operators whose matrices are least alike, beside what chance gives."""
    known = [row for row in rows if row["metric"] == "cosine" and row["x"] is not None]
    if not known:
        return None
    least = min(known, key=lambda row: row["x"])
    names = f"{quoted(least['a'])} and {quoted(least['b'])}"
    title = (
        f"{about(rows)}Of {count(len(known), 'pair')} of operators the least alike are {names}: "
    )
    title += f"cosine {number_of(least)}, {short(least['chance'])} if edges changed places."
    below = least["x_low"] is not None and least["x_low"] <= least["chance"]
    detail = "That is not beyond chance. " if below else ""
    detail += "Positive matrices are never far apart, so a cosine is read against that. "
    detail += f"{count(least['n_problems'], 'problem')}."
    return Finding(title, detail + few(least["n_problems"], "problem"))


# ---------------------------------------------------------------- commitment


def commitment_finding(
    curve: Sequence[Row], probes: Sequence[Row], steps: Sequence[Row]
) -> Finding | None:
    """What the vectors hold of the answer, beside shuffled labels, and what the model would say."""
    ordered = sorted(probes, key=lambda row: row["t"])
    if not ordered:
        return None
    first, last = ordered[0], ordered[-1]
    title = f"{about(ordered)}A probe of step {first['t']} needs {_bits(first)} bits to tell the "
    title += f"answer, of step {last['t']} {_bits(last)}; shuffled labels need "
    title += f"{short(last['shuffled_bits'])} there."
    known = [row["t"] for row in ordered if row["bits"] < row["shuffled_bits_low"]]
    detail = "No step tells more than every shuffle. "
    if known:
        detail = f"From step {known[0]} on it tells more than every shuffle. "
        if known != [row["t"] for row in ordered if row["t"] >= known[0]]:
            detail = f"It tells more than every shuffle at {count(len(known), 'step')}. "
    detail += _said(curve) + _led(steps)
    detail += f"{count(first['n_problems'], 'problem')} with two competing answers."
    return Finding(title, detail + few(first["n_problems"], "problem"))


def _bits(row: Row) -> str:
    if row.get("bits_low") is None:
        return f"{short(row['bits'])} (no interval)"
    return f"{short(row['bits'])} ({short(row['bits_low'])} to {short(row['bits_high'])})"


def _said(curve: Sequence[Row]) -> str:
    """What the model's own read-out needs at the end, and how many samples have committed."""
    mine = [row for row in curve if row["source"] == "read_out"]
    if not mine:
        return ""
    last, column = max(mine, key=lambda row: row["t"]), committed_column(curve)
    return (
        f"The model's own read-out needs {_bits(last)} after the last step; by then "
        f"{shares(last, column)} of samples have committed. "
    )


def _led(steps: Sequence[Row]) -> str:
    """Whether the vectors know before the read-out does."""
    if not steps:
        return ""
    row = max(steps, key=lambda each: each["threshold"])
    ends = f"95% interval {short(row['lead_low'])} to {short(row['lead_high'])}"
    ends = "no interval" if row["lead_low"] is None else ends
    zero = ", which holds 0" if _zero(row, "lead") else ""
    order = "before" if row["lead"] >= 0 else "after"
    far = short(abs(row["lead"]))
    much = f"{far} step{'' if far == '1' else 's'}"
    return f"The vectors commit {much} {order} the read-out ({ends}{zero}). "


def modes_finding(rows: Sequence[Row]) -> Finding | None:
    """How many problems have two answers that compete; None without problems."""
    if not rows:
        return None
    kept = sum(row["reason"] is None for row in rows)
    title = f"{kept} of {count(len(rows), 'problem')} have two competing answers under the noise."
    return Finding(title, "The others say nothing about commitment and are left out.")


# ---------------------------------------------------------------- released code


def released_finding(ours: Sequence[Row], released: Sequence[Row]) -> Finding | None:
    """What an empty edit gives by the released definitions, and by ours."""
    operator = spoken(released)
    mine = [row for row in released if row["operator"] == operator]
    if not mine or mine[0]["identity_total"] is None:
        return None
    null, total = mine[0]["identity_total"], mine[0]["total"]
    part = f", {percent(null / total)} of what {quoted(str(operator))} gives" if total else ""
    title = (
        f"DIAGNOSTIC: {about(released)}by the released definitions an edit that changes nothing "
    )
    title += f"has an effect of {short(null)} nats{part} ({short(total)})"
    proper = [row["identity_total"] for row in ours if row["identity_total"] is not None]
    title += f"; by ours {short(max(proper))}." if proper else "."
    lines = survival(ours, released)
    kept = [line["metric"] for line in lines if line["survives"] == "yes"]
    detail = f"{len(kept)} of {count(len(lines), 'departure')} from equal edges survive"
    detail = f"{detail} the right read-outs. " if lines else ""
    detail += "The released read-outs are faulty on purpose, to show what they alone give: nothing "
    detail += "in this section is a result."
    n = mine[0]["n_problems"]
    return Finding(title, f"{detail} {count(n, 'problem')}." + few(n, "problem"))


def survival(ours: Sequence[Row], released: Sequence[Row]) -> list[dict[str, Any]]:
    """For each metric and operator whether the released pattern is there by our definitions.

    A pattern is a number whose interval leaves out that of equal edges; it survives where ours
    leaves it out on the same side. Where ours sums to less than `TINY` it is
    too small to say. Metrics that show no pattern are left out.
    """
    named: Mapping[tuple[str, ...], Row] = {_key(row): row for row in ours}
    lines = []
    for row in released:
        pattern, twin = side(row), named.get(_key(row))
        if row["operator"] == IDENTITY or not pattern or twin is None:
            continue
        now = side(twin)
        words = {pattern: "yes", 0: "no", None: "no shape"}
        fate = words.get(now, "reversed") if twin["total"] >= TINY or now is None else "too small"
        lines.append({**row, "ours": twin, "survives": fate})
    return lines


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name) or "") for name in ("subject", "operator", "edge", "metric"))
