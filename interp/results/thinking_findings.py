"""One sentence for each part of the True-Thinking work, computed from its rows.

Each names its control and its interval, says where an interval holds 0, and warns below 20
problems. Shares are written as percentages, differences of shares in points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from interp.results.relatives_charts import beyond_chance, early_profile, measure_name
from interp.results.report_causal import few, short
from interp.results.report_stats import MINUS, Finding, Row, count, interval, number, percent, span
from interp.results.thinking_charts import check_counts
from interp.stats import Interval

LEGS = ("nec", "suf")
"""Measures that the score is made of: no relatives of it."""

ALIKE = "all alike: no interval"
"""Said where every problem has the same value: redrawing them can give no other, which is no proof
that others would have it too."""

HALF = 0.5
"""The share of steps kept that the finding about pruning speaks of, or the nearest to it."""


def points(difference: float) -> str:
    """Write a difference of shares.

    >>> points(0.37), points(-0.01) == MINUS + "1 point"
    ('37 points', True)
    """
    n = round(100 * difference)
    return f"{n} point{'' if abs(n) == 1 else 's'}".replace("-", MINUS, 1)


def shares(row: Row, value: str, low: str = "", high: str = "") -> str:
    """Write a share with its interval, or that it has none.

    >>> shares({"flips": 0.5, "flips_low": 0.25, "flips_high": 0.75}, "flips")
    '50% (25% to 75%)'
    """
    ends = row.get(low or f"{value}_low"), row.get(high or f"{value}_high")
    if ends[0] is None or ends[1] is None:
        return f"{percent(row[value])} (no interval)"
    if ends[0] == ends[1]:
        return f"{percent(row[value])} ({ALIKE})"
    return f"{percent(row[value])} ({percent(ends[0])} to {percent(ends[1])})"


def lead(row: Row, value: str, low: str, high: str) -> str:
    """Write a difference of shares with its interval, and whether that holds 0.

    >>> lead({"d": 0.25, "l": -0.5, "h": 0.5}, "d", "l", "h").endswith("which holds 0")
    True
    """
    if row[low] is None or row[high] is None:
        return f"a difference of {points(row[value])}, no interval"
    if row[low] == row[high]:
        return f"a difference of {points(row[value])}, {ALIKE}"
    ends = f"95% interval {points(row[low]).split()[0]} to {points(row[high]).split()[0]}"
    zero = ", which holds 0" * (row[low] <= 0 <= row[high])
    return f"a difference of {points(row[value])}, {ends}{zero}"


def _percents(found: Interval | None) -> str:
    """The ends of the interval of a share."""
    if found is None or found.low is None or found.high is None:
        return "no interval"
    if found.low == found.high:
        return ALIKE
    return f"95% interval {percent(found.low)} to {percent(found.high)}"


# ---------------------------------------------------------------- direction


def direction_finding(rows: Sequence[Row], steps: Sequence[Row]) -> Finding:
    """How much longer the direction is than those of shuffled labels, at its layers."""
    sides = {name: [r for r in steps if r["set"] == name] for name in ("true", "decorative")}
    n_problems = len({row["id"] for row in steps})
    ratios = [row["norm"] / row["shuffled_norm"] for row in rows if row["shuffled_norm"]]
    at = count(len(rows), "site")
    if not ratios:
        title = f"There is a direction at {at}, with no shuffled labels beside it."
    else:
        least, most = min(ratios), max(ratios)
        times = short(most) if least == most else f"{short(least)} to {short(most)}"
        title = f"At {at} the direction is {times} times as long as one from shuffled labels"
        title += "." if least > 1 else ": not longer everywhere."
    detail = (
        f"Mean of {count(len(sides['true']), 'true step')} less that of "
        f"{count(len(sides['decorative']), 'decorative step')} of {count(n_problems, 'problem')}. "
        "Lengths are of one fit and have no interval; the steering tests say what it does."
    )
    return Finding(title, detail + few(n_problems, "problem"))


# ---------------------------------------------------------------- steering

WORDS = {
    "engage": ("Engagement", "adding the direction flips", "of the answers that ignored an error"),
    "disengage": (
        "Disengagement",
        "taking the direction away repairs",
        "of the answers that an error had changed",
    ),
}
"""For each test its name, what is done, and to what."""


def arms_of(results: Sequence[Row], test: str) -> dict[str, Row]:
    """Return the arms of one test, twins by their mean."""
    mine = [row for row in results if row["test"] == test and row["twin"] is None]
    return {row["arm"]: row for row in mine}


def steer_finding(results: Sequence[Row], test: str) -> Finding | None:
    """What the direction does in one test beside random ones; None without the direction."""
    arms = arms_of(results, test)
    main, random = arms.get("direction"), arms.get("random")
    if main is None:
        return None
    name, does, what = WORDS[test]
    if main["flips"] is None:
        return Finding(f"{name}: nothing to report.", f"{main['warning'] or 'No item.'}")
    layer = "" if main["layer"] is None else f"at layer {main['layer']} "
    title = f"{name}: {layer}{does} {percent(main['flips'])} {what}"
    if random is None or random["difference"] is None:
        title += "; no random direction stands beside it."
    else:
        between = lead(random, "difference", "difference_low", "difference_high")
        title += f", random directions {percent(random['flips'])} ({between})."
    title += _simpler(main, arms)
    detail = (
        f"{shares(main, 'flips')} of {count(main['n_items'], 'item')} of "
        f"{count(main['n_problems'], 'problem')} that chose neither direction nor layer; "
        f"{percent(main['unparsable'])} of answers cannot be read.{_others(arms)}"
    )
    return Finding(title, detail + few(main["n_problems"], "problem"))


def _simpler(main: Row, arms: Mapping[str, Row]) -> str:
    """Say so where leaving the step out flips as many answers as the direction, or more."""
    dropped = arms.get("drop_step", {}).get("flips")
    if dropped is None or not main["flips"] or dropped < main["flips"]:
        return ""
    much = "as much" if dropped == main["flips"] else "more"
    return f" Leaving the step out does {much} ({percent(dropped)})."


def _others(arms: Mapping[str, Row]) -> str:
    """The flips of the other controls."""
    names = {"shuffled": "shuffled labels", "shuffled_stretched": "the same at its length"}
    names |= {"drop_step": "leaving the step out"}
    names |= {"attention_mask": "masking attention to it", "none": "no dose"}
    told = [
        f"{name} {percent(arms[arm]['flips'])}"
        for arm, name in names.items()
        if arm in arms and arms[arm]["flips"] is not None
    ]
    return f" Controls: {', '.join(told)}." if told else ""


def bin_finding(rows: Sequence[Row]) -> Finding:
    """Whether the direction flips more the higher its steps score."""
    fitted = sorted((r for r in rows if r["flips"] is not None), key=lambda row: -row["low"])
    skipped = count(len(rows) - len(fitted), "bin")
    gone = f" {skipped} gave no direction." if len(fitted) < len(rows) else ""
    if not fitted:
        return Finding("No score bin gave a direction that could be tested.", gone.strip())
    first, last = fitted[0], fitted[-1]
    n = min(row["n_problems"] for row in fitted)
    title = f"The direction from steps with TTS in {first['bin']} flips {shares(first, 'flips')}"
    if len(fitted) == 1:
        title += "; one bin cannot show whether it grows with the score."
        return Finding(title, (gone + few(n, "problem")).strip())
    title += f", that from {last['bin']} {shares(last, 'flips')}."
    rises = sum(high["flips"] > low["flips"] for high, low in pairwise(fitted))
    apart = None not in (first["flips_low"], last["flips_high"])
    apart = apart and first["flips_low"] > last["flips_high"]
    told = "The two intervals lie apart." if apart else "The intervals overlap: no growth is shown."
    steps = f" It rises in {rises} of {count(len(fitted) - 1, 'step')} from bin to bin."
    return Finding(title, told + steps + gone + few(n, "problem"))


# ---------------------------------------------------------------- self-checks


def check_findings(
    segments: Sequence[Row], tests: Sequence[Row], restored: Sequence[Row]
) -> list[Finding]:
    """How many checks are decorative by their score, used by behaviour, and restored."""
    counts = dict(check_counts(segments, tests))
    scored = [(float(r["decorative"]), r["id"]) for r in segments if r["decorative"] is not None]
    found = interval(scored)
    n = len(scored)
    title = f"{counts['TTS: decorative']} of {count(n, 'self-check')} are decorative by TTS"
    title += f" ({_percents(found)})." if found else "."
    said = [(float(row["used"]), row["id"]) for row in tests if row["informative"]]
    used = interval(said)
    behaviour = "no behavioural test says anything"
    if used is not None:
        behaviour = f"{counts['Behaviour: used']} of {len(said)} that can tell are used"
        behaviour += f" ({_percents(used)})"
    detail = f"By behaviour (numbers before the check shifted), {behaviour}."
    units = [each.n_units for each in (found, used) if each is not None]
    findings = [Finding(title, detail + few(min(units, default=0), "problem"))]
    return [*findings, *_restored(restored)]


def _restored(rows: Sequence[Row]) -> list[Finding]:
    """The layer at which the direction restores most checks, beside random directions there."""
    mine = [row for row in rows if row["arm"] == "direction"]
    if not mine:
        return []
    chosen = next((row for row in mine if row.get("chosen")), None)
    best = chosen or max(mine, key=lambda row: (row["restored"], -row["layer"]))
    beside = [r for r in rows if (r["arm"], r["layer"]) == ("random", best["layer"])]
    title = (
        f"Adding the direction brings back y* after {percent(best['restored'])} of unused checks"
    )
    title += f", random directions {percent(beside[0]['restored'])}" if beside else ""
    title += f" (layer {best['layer']})." if chosen else f" (layer {best['layer']}, the best)."
    detail = f"{count(best['n_items'], 'check')} of {count(best['n_problems'], 'problem')}; "
    if chosen:
        detail += f"{shares(chosen, 'restored')}, the layer chosen on other problems. "
    else:
        detail += "the layer is chosen on the checks that it is counted on, so the share is too "
        detail += "high; no interval. "
    detail += f"{percent(best['unparsable'])} of answers cannot be read."
    return [Finding(title, detail + few(best["n_problems"], "problem"))]


# ---------------------------------------------------------------- pruning


def keep_finding(curves: Sequence[Row]) -> Finding | None:
    """What keeping about half of the steps by score leaves, beside random halves."""
    ours = [r for r in curves if (r["method"], r["measure"]) == ("tts", "same")]
    inner = [row for row in ours if 0 < row["fraction"] < 1]
    if not inner:
        return None
    row = min(inner, key=lambda row: (abs(row["fraction"] - HALF), row["fraction"]))
    there = {
        (each["method"], each["measure"]): each
        for each in curves
        if each["fraction"] == row["fraction"]
    }
    kept, random = (
        shares(row, "mean_estimate", "mean_low", "mean_high"),
        there.get(("random", "same")),
    )
    title = (
        f"The {percent(row['fraction'])} of steps with the highest TTS keep {kept} of the answers"
    )
    if random is None or row["above_random_estimate"] is None:
        title += "; no random pruning stands beside them."
    else:
        above = lead(row, "above_random_estimate", "above_random_low", "above_random_high")
        title += f", random steps {percent(random['mean_estimate'])} ({above})."
    none = [r for r in ours if r["fraction"] == 0]
    title += f" No steps at all keep {percent(none[0]['mean_estimate'])}." if none else ""
    detail = f"{count(row['n_problems'], 'problem')}."
    tokens = there.get(("tts", "tokens"))
    detail += f" {percent(tokens['mean_estimate'])} of the tokens are left." if tokens else ""
    last = there.get(("last", "same"))
    if last is not None and row["above_last_estimate"] is not None:
        above = lead(row, "above_last_estimate", "above_last_low", "above_last_high")
        detail += f" The last steps alone keep {percent(last['mean_estimate'])} ({above})."
    return Finding(title, detail + few(row["n_problems"], "problem"))


# ---------------------------------------------------------------- relatives


def agreement_finding(rows: Sequence[Row], measure: str = "tts") -> Finding | None:
    """How many other measures put the steps in the order of the score, beyond chance."""
    mine = [row for row in rows if measure in (row["a"], row["b"])]
    others = {_other(row, measure): row for row in mine}
    others = {name: row for name, row in others.items() if name not in LEGS}
    known = {name: row for name, row in others.items() if row["rho"] is not None}
    firm = {name: row for name, row in known.items() if row["low"] is not None}
    known = firm or known  # a correlation on one problem is no rank among those with an interval
    if not others:
        return None
    if not known:
        return Finding("No other measure has an order to compare with TTS.", "")
    agree = [name for name, row in known.items() if beyond_chance(row)]
    closest = max(known, key=lambda name: known[name]["rho"])
    title = f"{len(agree)} of {count(len(others), 'other measure')} rank steps as TTS does, beyond "
    title += f"chance; the closest is {measure_name(closest)} ({_rho(known[closest])})."
    least = min(known, key=lambda name: known[name]["rho"])
    detail = f"Shuffled steps reach {number(known[closest]['chance'], 2)}. "
    detail += f"The furthest is {measure_name(least)} ({_rho(known[least])}). "
    missing = len(others) - len(known)
    detail += f"{count(missing, 'measure')} cannot be ranked. " if missing else ""
    detail += "Spearman within each problem, mean over problems; both were picked after the fact."
    return Finding(title, detail + few(known[closest]["n_problems"], "problem"))


def _other(row: Row, measure: str) -> str:
    return row["b"] if row["a"] == measure else row["a"]


def _rho(row: Row) -> str:
    if row["low"] is None:
        return f"{number(row['rho'], 2)}, no interval"
    return (
        f"{number(row['rho'], 2)}, 95% interval {number(row['low'], 2)} to "
        f"{number(row['high'], 2)} over {count(row['n_problems'], 'problem')}"
    )


def early_finding(rows: Sequence[Row]) -> Finding | None:
    """What the model answers with none of its chain, and with half of it."""
    profile = {at: (mean, final) for at, mean, final in early_profile(rows)}
    if 0.0 not in profile or 0.5 not in profile:
        return None
    (none, first), (_, half) = profile[0.0], profile[0.5]
    title = f"Before its first step the model gives its final answer in {percent(first.estimate)} "
    title += f"of the chains ({_percents(first)}), after half of them in {percent(half.estimate)} "
    title += f"({_percents(half)})."
    detail = f"Mean Pr(y*) without a chain {number(none.estimate)} ({span(none)}); "
    detail += f"{count(first.n_units, 'problem')}."
    return Finding(title, detail + few(first.n_units, "problem"))


def legs_finding(
    lines: Sequence[Row], elsewhere: Sequence[tuple[float, float | None]] = ()
) -> Finding:
    """What a test of necessity alone misses, from the rows of `step_profiles.two_leg_table`.

    `elsewhere` gives the share at other splits, from `step_profiles.missed_elsewhere`.
    """
    by_name = {row["name"]: row for row in lines}
    missed, at = by_name.get("missed by necessity"), lines[0]["nec_high"]
    others = [
        f"{'no step is high' if missed is None else f'{missed:.0%}'} at {short(split)}"
        for split, missed in elsewhere
    ]
    cut = f"A leg is high where its size is above {short(at)}"
    cut += f"; missed by necessity elsewhere: {', '.join(others)}." if others else "."
    if missed is None:
        return Finding("No step is high on either leg.", cut)
    share = shares(missed, "estimate", "low", "high")
    title = f"A test of necessity alone misses {share} of the steps that either leg finds."
    other = shares(by_name["missed by sufficiency"], "estimate", "low", "high")
    detail = f"Of {count(missed['n'], 'step')} of {count(missed['n_problems'], 'problem')}; a test "
    detail += f"of sufficiency alone misses {other}. {cut}"
    return Finding(title, detail + few(missed["n_problems"], "problem"))
