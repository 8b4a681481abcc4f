"""Charts that figures of alignment have beside those of `align_charts`, and their words.

Published values beside our bars, planted algorithms right against wrong, and unseen identities. A
control stands beside each bar, and train IIA is a mark on the bar of test IIA.

Source of the published values: Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from interp.results.align_charts import IIA, TRAIN
from interp.results.align_findings import (
    evidence_of,
    place_of,
    places_of,
    pooled_row,
    said,
    site_name,
    tested_of,
)
from interp.results.align_reference import cell_of
from interp.results.latent_charts import HATCHED, tiled
from interp.results.report_charts import (
    AMBER,
    BLUE,
    GREY,
    INK,
    SILVER,
    VERMILION,
    Spec,
    axis_title,
    layout,
    plain,
)
from interp.results.report_stats import Finding, Row, count, number
from interp.results.thinking_charts import bars

Bar = tuple[str, str, str]
"""Label, colour and hatching."""
THEIRS = "Published mean and range"
RIGHT: Bar = ("Planted algorithm (right)", BLUE, "")
WRONG: Bar = ("Another of the same answers (wrong)", VERMILION, "x")


def bar(look: Bar, x: Sequence[str], rows: Sequence[Row], value: str) -> Spec:
    """Return a bar for each row: `value` with its interval, `value_low` to `value_high`.

    There are no whiskers where no row has an interval. Names on the axis, here and below,
    are escaped already.
    """
    label, colour, hatch = look
    ends = [(row.get(f"{value}_low"), row.get(f"{value}_high")) for row in rows]
    told = {**bars(rows, value, f"{value}_low", f"{value}_high"), "color": INK}
    return {
        "type": "bar",
        "name": plain(label),
        "offsetgroup": label,
        "x": [*x],
        "y": [row[value] for row in rows],
        "error_y": told if any(None not in each for each in ends) else {"visible": False},
        "marker": {"color": colour, "pattern": {**HATCHED, "shape": hatch}},
        "hovertemplate": f"%{{x}}: %{{y:.3f}}<extra>{plain(label)}</extra>",
    }


def outlined(label: str, group: str, x: Sequence[str], rows: Sequence[Row]) -> Spec:
    """Return an outlined bar for each published mean; its whiskers are the range over networks."""
    made = bar((label, "#ffffff", ""), x, rows, "published")
    made["offsetgroup"] = group
    made["marker"] = {"color": "#ffffff", "line": {"color": GREY, "width": 1.6}}
    return {**made, "error_y": {**made["error_y"], "color": GREY, "thickness": 3, "width": 0}}


def marks(label: str, group: str, x: Sequence[str], rows: Sequence[Row], value: str) -> Spec:
    """Return an open diamond on the bars of a group."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "legendgroup": label,
        "offsetgroup": group,
        "x": [*x],
        "y": [row[value] for row in rows],
        "marker": {"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 2}},
        "hovertemplate": f"%{{x}}: %{{y:.3f}}<extra>{label}</extra>",
    }


def named_axis(names: Iterable[str], title: str = "") -> Spec:
    """Return an axis of names, in their order."""
    order = [*dict.fromkeys(names)]
    axis: Spec = {**axis_title(title), "type": "category", "categoryorder": "array"}
    axis |= {"categoryarray": order, "range": [-0.5, len(order) - 0.5], "showgrid": False}
    return axis


def maps_of(rows: Iterable[Row]) -> list[str]:
    """Return the map of each row, escaped."""
    return [plain(row["map"]) for row in rows]


GROUPED: Spec = {"barmode": "group", "scattermode": "group", "bargap": 0.25}


def grouped(spec: Spec) -> Spec:
    """Return a chart whose bars, and the marks on them, stand beside one another."""
    return {**spec, "layout": {**spec["layout"], **GROUPED}}


# ---------------------------------------------------------------- IIA beside published values


def with_published(
    spec: Spec,
    fits: Sequence[Row],
    verdicts: Sequence[Row],
    reference: Sequence[Mapping[str, str]],
) -> Spec:
    """Return `align_charts.iia_bars` of a run with the published bar beside each of ours.

    Args:
        spec: the chart of the same rows.
        fits: of `align_fits`, each with its `experiment` (None where nothing is published).
        verdicts: of `align_verdicts`.
        reference: rows of `align_reference.published`.
    """
    tested = tested_of(fits, verdicts)
    own = [row for row in fits if place_of(row)[:2] in tested and row["kind"] == "trained"]
    added: list[Spec] = []
    for i, key in enumerate(dict.fromkeys(place[:3] for place in places_of(own))):
        mine = [row for row in own if place_of(row)[:3] == key]
        known = _published_at(mine, reference)
        if known:
            n = "" if i == 0 else str(i + 1)
            made = outlined(THEIRS, THEIRS, [row["tick"] for row in known], known)
            shown = {"showlegend": not added, "xaxis": f"x{n}", "yaxis": f"y{n}"}
            added.append({**made, **shown})
    return {**spec, "data": [*spec["data"], *added]}


def _published_at(
    rows: Sequence[Row], reference: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The published cell of each place of one map, with the tick that the place has."""
    first = {place_of(row): row for row in reversed(rows)}
    several = len({place.size for place in first}) > 1
    found = []
    for place in places_of(rows):
        row = first[place]
        theirs = cell_of(reference, row["experiment"], row) if row.get("experiment") else None
        if theirs:
            size = f", size {place.size}" if several else ""
            ends = {"published_low": theirs["min"], "published_high": theirs["max"]}
            tick = site_name(place.site) + size
            found.append({"tick": tick, "published": theirs["mean"], **ends})
    return found


def iia_finding(fits: Sequence[Row], verdicts: Sequence[Row]) -> Finding:
    """The verdicts of a run in its own words, map by map, and each map's IIA beside its twin's."""
    if not verdicts:
        return Finding("IIA by site and map; no verdict was given.", "")
    told = [_words(row) for row in verdicts]
    parts = []
    for row in verdicts:
        part = f"{row['map']} at {site_name(str(row['site']))}: test IIA {said(row)}, "
        part += f"train {number(row['train_iia'])}, twin {number(row['twin'])}, "
        parts.append(f"{part}best baseline {number(row['baseline'])}.")
    title = f"{verdicts[0]['algorithm']}: {'; '.join(told)}."
    n = count(int(verdicts[0]["n_nets"]), "network")
    return Finding(title, f"{' '.join(parts)} {n}; whiskers are 95% intervals.")


def _words(row: Row) -> str:
    """The fixed words of a verdict, with its map where they do not name it."""
    word = str(row["verdict"])
    return word if f"UNDER {row['map']}," in word else f"{row['map']} {word}"


# ---------------------------------------------------------------- planted algorithms


def is_planted(row: Row) -> bool:
    """Whether a row is of networks in which an algorithm was planted."""
    return str(row["experiment"]).startswith("planted_")


def is_right(row: Row) -> bool:
    """Whether a row tests planted networks for the algorithm that was planted.

    >>> is_right({"experiment": "planted_and_or", "algorithm": "and_or"})
    True
    """
    return row["experiment"] == f"planted_{row['algorithm']}"


def planted_bars(cells: Sequence[Row]) -> Spec:
    """Draw IIA for the planted algorithm beside that for the other, map by map.

    Args:
        cells: of `align_reference.compare`, of planted networks at the planted layer.
    """
    titles = list(dict.fromkeys(str(row["nets"]) for row in cells))
    panels = []
    for nets in titles:
        mine = [row for row in cells if row["nets"] == nets]
        data: list[Spec] = []
        for look, right in ((RIGHT, True), (WRONG, False)):
            rows = [row for row in mine if is_right(row) is right]
            data += _beside_published(look, rows)
        x = named_axis(maps_of(mine), "Map")
        panels.append({"data": data, "layout": layout(x, {**axis_title("Test IIA"), **IIA})})
    layers = {str(row["nets"]): row["layer"] for row in cells}
    heads = [f"{_bare(name)} planted, layer {layers[name]}" for name in titles]
    return grouped(tiled(panels, heads, columns=1, height=290))


def _beside_published(look: Bar, rows: Sequence[Row]) -> list[Spec]:
    if not rows:
        return []
    names = maps_of(rows)
    made = [bar(look, names, rows, "iia"), marks(TRAIN, look[0], names, rows, "train_iia")]
    known = [row for row in rows if row["published"] is not None]
    if known:
        there, group = maps_of(known), f"{look[0]}, published"
        made.append({**outlined(THEIRS, group, there, known), "legendgroup": THEIRS})
        made[-1]["showlegend"] = look is RIGHT
    return made


def planted_finding(fits: Sequence[Row], cells: Sequence[Row]) -> Finding:
    """Right minus wrong, network by network, beside the difference of the published means.

    Args:
        fits: of `align_fits`, of planted networks.
        cells: of `align_reference.compare` of them.
    """
    told: dict[str, list[str]] = {}
    for family, nets in dict.fromkeys((str(row["map"]), str(row["nets"])) for row in fits):
        mine, theirs = (
            [r for r in rows if (r["map"], r["nets"]) == (family, nets)] for rows in (fits, cells)
        )
        gaps = right_minus_wrong(mine)
        if gaps:
            words = f"{number(fmean(gaps))} in {_bare(nets)} (least {number(min(gaps))}, published "
            told.setdefault(family, []).append(f"{words}{number(_published_gap(theirs))})")
    if not told:
        return Finding("Planted algorithms, right against wrong.", "")
    lines = [f"{family}: {', '.join(words)}." for family, words in told.items()]
    detail = "Each the mean over networks of right minus wrong in one network, and the least of "
    detail += "any. A map for which it is about 0 says nothing about the algorithm."
    return Finding(f"Right minus wrong IIA under {lines[0]}", " ".join([*lines[1:], detail]))


def _bare(nets: str) -> str:
    """The planted algorithm of a kind of networks."""
    return nets.removeprefix("planted_")


def right_minus_wrong(fits: Sequence[Row]) -> list[float]:
    """Return the difference of IIA in each network that was tested for both algorithms.

    >>> both = [{"experiment": "planted_a", "net": 1, "site": "2", "size": 4}] * 2
    >>> right_minus_wrong([{**both[0], "algorithm": "a", "iia": 0.75},
    ...                    {**both[1], "algorithm": "b", "iia": 0.5}])
    [0.25]
    """
    found: dict[tuple, dict[bool, float]] = {}
    for row in fits:
        key = (row["experiment"], row["net"], row["site"], row["size"])
        found.setdefault(key, {})[is_right(row)] = float(row["iia"])
    return [pair[True] - pair[False] for pair in found.values() if len(pair) == 2]


def _published_gap(cells: Sequence[Row]) -> float | None:
    means = {is_right(row): row["published"] for row in cells}
    right, wrong = means.get(True), means.get(False)
    return None if right is None or wrong is None else right - wrong


# ---------------------------------------------------------------- published values


def reference_finding(cells: Sequence[Row]) -> Finding:
    """How many of our means lie inside the published ranges, and which do not."""
    known = [row for row in cells if row["inside"] is not None]
    outside = [row for row in known if not row["inside"]]
    title = f"{len(known) - len(outside)} of {count(len(known), 'mean')} of ours lie inside the "
    title += "range of the published networks."
    listed = [
        f"{row['nets']} {row['algorithm']} {row['map']} L{row['layer']} {number(row['iia'])} "
        f"({number(row['published_low'])} to {number(row['published_high'])})"
        for row in outside
    ]
    nets = sorted({int(row["n_nets"]) for row in cells})
    budgets = sorted({str(row["budget"]) for row in cells if row.get("budget")})
    detail = f"Budget {' and '.join(budgets)}; " if budgets else ""
    detail += f"{' or '.join(map(str, nets))} networks a cell, whiskers are 95% intervals over "
    detail += "them. "
    detail += f"Outside: {'; '.join(listed)}." if listed else "None lies outside."
    return Finding(title, detail)


def sweep_finding(cells: Sequence[Row], what: str, column: str) -> Finding:
    """Where IIA begins and ends along a sweep, by map or not, beside the published means."""
    groups: dict[tuple, list[Row]] = {}
    for row in cells:
        name = str(row["map"]) if column == "checkpoint" else ""
        groups.setdefault((name, row["algorithm"], row["layer"]), []).append(row)
    told = []
    for (name, algorithm, layer), rows in groups.items():
        ends = sorted(rows, key=lambda row: row[column])
        first, last = ends[0], ends[-1]
        where = ", ".join(part for part in (name, str(algorithm), f"layer {layer}") if part)
        told.append(
            f"{where}: {number(first['iia'])} at {first[column]}, "
            f"{number(last['iia'])} at {last[column]} (published {number(first['published'])} "
            f"and {number(last['published'])})"
        )
    detail = "; ".join(told[1:])
    end = "Dotted: train IIA; grey: published means and ranges."
    return Finding(f"IIA by {what}. {told[0]}.", f"{detail}. {end}" if detail else end)


# ---------------------------------------------------------------- unseen identities


SPLITS: tuple[tuple[str, str, str, Bar], ...] = (
    ("trained", "iia", "Network", ("Network, seen identities", BLUE, "")),
    ("trained", "unseen_iia", "Network", ("Network, unseen identities", "#7fb3dc", "|")),
    ("twin", "iia", "Twin", ("Random twin, seen identities", GREY, "/")),
    ("twin", "unseen_iia", "Twin", ("Random twin, unseen identities", SILVER, "\\")),
)


def unseen_rows(fits: Sequence[Row], verdicts: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row for each map at the site and size of its verdict, kind of network and split.

    Columns: map, label, x, x_low, x_high, n; where nothing was held out there is no row.
    """
    found = []
    for verdict in verdicts:
        here = [row for row in fits if place_of(row) == place_of(verdict)]
        for kind, column, _, look in SPLITS:
            rows = [r for r in here if r["kind"] == kind and r.get("unseen_iia") is not None]
            if rows:
                found.append({"map": verdict["map"], "label": look[0], **pooled_row(rows, column)})
    return found


def unseen_bars(fits: Sequence[Row], verdicts: Sequence[Row]) -> Spec:
    """Draw IIA on seen and unseen identities, network beside random twin, map by map."""
    rows = unseen_rows(fits, verdicts)
    data = []
    for *_, look in SPLITS:
        mine = [row for row in rows if row["label"] == look[0]]
        if mine:
            data.append(bar(look, maps_of(mine), mine, "x"))
    best = [row for row in map(_held_out, verdicts) if row["best"] is not None]
    if best:
        look = ("Best baseline, unseen identities", AMBER, ".")
        data.append(bar(look, maps_of(best), best, "best"))
    x = named_axis(maps_of(rows), "Map")
    made = layout(x, {**axis_title("Test IIA"), **IIA})
    return grouped(tiled([{"data": data, "layout": made}], [""], columns=1, height=360))


def _held_out(verdict: Row) -> dict[str, Any]:
    found = evidence_of(verdict).get("held_out") or {}
    best = found.get("best_baseline")
    return {"map": verdict["map"], "best": best, "best_low": None, "best_high": None}


def unseen_finding(fits: Sequence[Row], verdicts: Sequence[Row]) -> Finding:
    """What each map keeps on unseen identities, network beside twin."""
    values = {(row["map"], row["label"]): row["x"] for row in unseen_rows(fits, verdicts)}
    told = []
    for name in dict.fromkeys(name for name, _ in values):
        parts = []
        for i, who in ((0, "network"), (2, "random twin")):
            seen, unseen = (values.get((name, SPLITS[i + j][3][0])) for j in (0, 1))
            if seen is not None:
                parts.append(f"{who} {number(seen)} seen, {number(unseen)} unseen")
        told.append(f"{name}: {'; '.join(parts)}.")
    detail = "IIA at the site and size of each verdict. What a twin reaches, the map makes up."
    return Finding(told[0], " ".join([*told[1:], detail]))


# ---------------------------------------------------------------- names that no map saw


NAMES: tuple[tuple[str, str, Bar], ...] = (
    ("trained", "restricted_iia", ("Network, names of the fit", BLUE, "")),
    ("trained", "unseen_restricted_iia", ("Network, unseen names", "#7fb3dc", "|")),
    ("twin", "restricted_iia", ("Random twins, names of the fit", GREY, "/")),
    ("twin", "unseen_restricted_iia", ("Random twins, unseen names", SILVER, "\\")),
)


def name_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row for each map, kind of network and split: map, network, label, x and its ends.

    Controls, fits that were not guided by the true values, are left out.
    """
    found, guided = [], [row for row in rows if row["fit"] == "guided"]
    for name in dict.fromkeys(str(row["map"]) for row in guided):
        for network, column, look in NAMES:
            mine = [row for row in guided if (row["map"], row["network"]) == (name, network)]
            if mine:
                told = {"map": name, "network": network, "label": look[0]}
                found.append({**told, **pooled_row(mine, column)})
    return found


def name_bars(rows: Sequence[Row]) -> Spec:
    """Draw how often a map picks the right one of two names: those of its fit, and unseen ones.

    `rows` are those of the study of random twins (`experiments.ioi_twins`); half is chance.
    """
    pooled = name_rows(rows)
    data = []
    for *_, look in NAMES:
        mine = [row for row in pooled if row["label"] == look[0]]
        data.append(bar(look, maps_of(mine), mine, "x"))
    chance = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
    y = {**axis_title("Test IIA, of two names"), **IIA}
    made = layout(named_axis(maps_of(pooled), "Map"), y)
    drawn = tiled([{"data": data, "layout": made}], [""], columns=1, height=360)
    drawn["layout"]["shapes"] = [{**chance, "line": {"color": INK, "width": 1, "dash": "dot"}}]
    return grouped(drawn)


def name_finding(rows: Sequence[Row]) -> Finding:
    """What the map that bends the twins most keeps on unseen names."""
    pooled = {(row["map"], row["label"]): row for row in name_rows(rows)}
    trained, unseen, twin, lost = (look[0] for *_, look in NAMES)
    best = max((row for row in pooled.values() if row["label"] == twin), key=lambda row: row["x"])
    name = str(best["map"])
    title = f"{name} finds the pattern in random twins: {number(best['x'])} on names of the fit, "
    title += f"{number(pooled[name, lost]['x'])} on unseen names."
    others = []
    for each in dict.fromkeys(row["map"] for row in pooled.values()):
        seen, held = (number(pooled[each, label]["x"]) for label in (trained, unseen))
        others.append(f"{each} in the trained network: {seen} and {held}")
    others += [
        f"{row['map']} {fit} in the twins: {number(row['x'])}, on what it was fitted to "
        f"{number(row['train'])}"
        for fit in ("unguided", "shuffled")
        for row in control_rows(rows, fit)
    ]
    end = f"Mean of {best['n']} twins, interval over them; dotted: chance."
    return Finding(title, f"{'; '.join(others)}. {end}")


def control_rows(rows: Sequence[Row], fit: str) -> list[dict[str, Any]]:
    """Return a row for each map that was fitted to twins under a control: map, train, x, its ends.

    `train` is the mean IIA over all answers on the pairs of the fit.
    """
    mine = [row for row in rows if (row["fit"], row["network"]) == (fit, "twin")]
    found = []
    for name in dict.fromkeys(str(row["map"]) for row in mine):
        here = [row for row in mine if row["map"] == name]
        train = fmean(float(row["train_iia"]) for row in here)
        found.append({"map": name, "train": train, **pooled_row(here, "restricted_iia")})
    return found
