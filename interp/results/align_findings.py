"""What runs of `interp align` found, in words: verdicts first, each number beside its controls.

A place is what one verdict is about: a run, an algorithm, a map, a site and a size. The words of
verdicts are fixed; a page repeats the one that was given with the records and never makes one up.
Where it says that something was found, `require_grounds` refuses records that lack a guard, a
baseline or train IIA. IIA is a share from 0 to 1.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from interp.errors import InputError
from interp.results.report_causal import few
from interp.results.report_stats import Finding, Row, count, number
from interp.stats import pooled


@dataclass(frozen=True)
class Look:
    """How a verdict is told apart from the others, by more than its colour."""

    sign: str
    ink: str
    wash: str
    border: str
    """The kind of the line at its side."""
    meaning: str
    """What the fixed words mean, in a sentence."""


GENERALISES, IN_DISTRIBUTION = "GENERALISES", "IN DISTRIBUTION"
VACUOUS, NOT_FOUND = "VACUOUS FOR THIS MAP", "NOT FOUND"
INVALID, NO_VERDICT = "INVALID", "NO VERDICT"
LOOKS: Mapping[str, Look] = {
    GENERALISES: Look(
        "✔",
        "#0b5c48",
        "#e9f6f1",
        "solid",
        "Above every baseline, clear of every control, and it holds on held-out identities.",
    ),
    IN_DISTRIBUTION: Look(
        "✓",
        "#0b4f8a",
        "#ebf3fa",
        "double",
        "Above every baseline and clear of every control, on inputs like those of fitting only.",
    ),
    VACUOUS: Look(
        "≈",
        "#7a4b00",
        "#fdf5e4",
        "dashed",
        "A control does as well or better: this map fits what is not there.",
    ),
    NOT_FOUND: Look(
        "✕", "#3d4652", "#f1f3f5", "dotted", "No better than something without an algorithm."
    ),
    INVALID: Look(
        "!", "#8f1d14", "#fdeeec", "solid", "The measurement is broken: no number here counts."
    ),
    NO_VERDICT: Look(
        "?", "#56606e", "#ffffff", "dashed", "A guard is lacking, so nothing is said."
    ),
}
"""Kinds of verdicts, the strongest first."""

GUARDS = (
    "random twin",
    "wrong algorithm",
    "control task",
    "held-out identities",
    "capacity curve",
    "description length",
    "same-site baselines",
    "null-space test",
    "divergence",
    "inverse error and no-op",
    "seeds and selection",
    "runner-up",
    "positive control",
)
"""What a verdict that something was found rests on; `interp.alignment.evidence` has the same."""
BASELINES = ("full vector", "random subspace", "PCA", "difference of means")
BASELINES += ("no intervention", "constant answer")
"""The same of baselines."""


# ---------------------------------------------------------------- rows


class Place(NamedTuple):
    """What one verdict is about."""

    subject: str
    algorithm: str
    map: str
    site: str
    size: int


def place_of(row: Row) -> Place:
    """Return the place of a row; one run alone has no name."""
    algorithm, name, site = (str(row[key]) for key in ("algorithm", "map", "site"))
    return Place(str(row.get("subject") or ""), algorithm, name, site, int(row["size"]))


def at(rows: Iterable[Row], place: Place) -> list[Row]:
    """Return the rows of a place."""
    return [row for row in rows if place_of(row) == place]


def places_of(rows: Iterable[Row]) -> list[Place]:
    """Return the places of some rows, in their order."""
    return list(dict.fromkeys(map(place_of, rows)))


def site_name(site: str) -> str:
    """Write a site for a reader.

    >>> site_name("2"), site_name("1.resid_post")
    ('layer 2', '1.resid_post')
    """
    return f"layer {site}" if site.isdigit() else site


def named(place: Place) -> str:
    """Write a place for a reader.

    >>> named(Place("planted", "and_or", "orthogonal", "2", 12))
    'planted: and_or under orthogonal at layer 2, size 12'
    """
    start = f"{place.subject}: " if place.subject else ""
    where = f"{site_name(place.site)}, size {place.size}"
    return f"{start}{place.algorithm} under {place.map} at {where}"


def fitted(place: Place) -> str:
    """Write what was fitted, without the site.

    >>> fitted(Place("planted", "and_or", "orthogonal", "2", 12))
    'planted: and_or, orthogonal'
    """
    start = f"{place.subject}: " if place.subject else ""
    return f"{start}{place.algorithm}, {place.map}"


def tested_of(fits: Sequence[Row], verdicts: Sequence[Row]) -> set[tuple[str, str]]:
    """Return runs and the algorithms that they test; the others of their fits are rivals.

    A run without a verdict yet tests the algorithm that it fitted first.
    """
    found = {place_of(row)[:2] for row in verdicts}
    judged = {subject for subject, _ in found}
    for row in fits:
        subject = str(row.get("subject") or "")
        if subject not in judged and row["kind"] == "trained":
            found.add((subject, str(row["algorithm"])))
            judged.add(subject)
    return found


def pooled_row(rows: Sequence[Row], name: str = "iia") -> dict[str, Any]:
    """Return `pooled` as a row: x, x_low, x_high and n."""
    found = pooled(rows, name)
    return {"x": found.estimate, "x_low": found.low, "x_high": found.high, "n": len(rows)}


def average(rows: Iterable[Row], name: str) -> float | None:
    """Return the mean of a column over the rows that have it; None where none has."""
    values = [float(row[name]) for row in rows if row.get(name) is not None]
    return math.fsum(values) / len(values) if values else None


def evidence_of(row: Row) -> Mapping[str, Any]:
    """Return what a verdict rests on, as its row stores it; nothing where it stores none."""
    found = json.loads(row.get("evidence") or "{}")
    return found if isinstance(found, Mapping) else {}


# ---------------------------------------------------------------- verdicts


def kind_of(word: str) -> str:
    """Return which of the fixed verdicts a text is; one that is none of them says nothing.

    >>> kind_of("FOUND UNDER orthogonal, IN DISTRIBUTION"), kind_of("FOUND!")
    ('IN DISTRIBUTION', 'NO VERDICT')
    """
    if word in (INVALID, NOT_FOUND, VACUOUS):
        return word
    found = (kind for kind in (GENERALISES, IN_DISTRIBUTION) if word.endswith(f", {kind}"))
    return next(found, NO_VERDICT) if word.startswith("FOUND UNDER ") else NO_VERDICT


def require_grounds(row: Row, guards: Sequence[Row], baselines: Sequence[Row]) -> None:
    """Refuse to repeat that something was found where records lack what it rests on.

    Args:
        row: of `align_verdicts`.
        guards: all rows of `align_guards`.
        baselines: all rows of `align_baselines`.

    Raises:
        InputError: a verdict of FOUND lacks guards, baselines or train IIA; it names them.
    """
    if kind_of(str(row["verdict"])) not in (GENERALISES, IN_DISTRIBUTION):
        return
    place = place_of(row)
    told = {str(r["guard"]): str(r["found"]) for r in at(guards, place)}
    lacking = [name for name in GUARDS if told.get(name, "missing") == "missing"]
    have = {str(r["baseline"]) for r in at(baselines, place)}
    lacking += [f"the baseline {name!r}" for name in BASELINES if name not in have]
    lacking += ["train IIA"] if row.get("train_iia") is None else []
    if lacking:
        raise InputError(
            f"The records say that {named(place)} was found, and lack {'; '.join(lacking)}: no "
            "report may say so. Run `interp align` again in a new folder."
        )


def said(row: Row, name: str = "iia") -> str:
    """Write an IIA with its interval, or that it has none.

    >>> said({"iia": 0.5, "iia_low": 0.25, "iia_high": 0.75})
    '0.500 (95% interval 0.250 to 0.750)'
    """
    middle, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if middle is None:
        return "no value"
    if low is None or high is None:
        return f"{number(middle)} (no interval)"
    return f"{number(middle)} (95% interval {number(low)} to {number(high)})"


def verdict_finding(row: Row) -> Finding:
    """The fixed words with what they are about; the reason and the claim below.

    Notes, such as a waived rival, are told with what was found: there they say less is shown.
    """
    place, word = place_of(row), str(row["verdict"])
    found = kind_of(word) in (GENERALISES, IN_DISTRIBUTION)
    parts = (row["reason"], row["claim"], row["notes"] if found else "")
    detail = " ".join(str(part) for part in parts if part)
    return Finding(f"{word}: {named(place)}.", detail + few(int(row["n_nets"]), "network"))


def verdict_findings(rows: Sequence[Row], most: int) -> list[Finding]:
    """Every verdict, or one count of them where there are more than `most`.

    A page's head shows the first few findings only, and must not leave the weak verdicts out.
    """
    if len(rows) <= most:
        return [verdict_finding(row) for row in rows]
    counts = Counter(kind_of(str(row["verdict"])) for row in rows)
    told = [f"{counts[kind]} {_bare(kind)}" for kind in LOOKS if counts[kind]]
    detail = "Each with its reason below; a verdict names its map, site and inputs and holds for "
    return [Finding(f"{len(rows)} verdicts: {', '.join(told)}.", f"{detail}those alone.")]


def _bare(kind: str) -> str:
    return f"FOUND, {kind}" if kind in (GENERALISES, IN_DISTRIBUTION) else kind


# ---------------------------------------------------------------- fits, controls, curves


def fit_finding(place: Place, trained: Sequence[Row], twins: Sequence[Row]) -> Finding:
    """Test IIA beside train IIA and the twins, from rows of `align_fits` of one place."""
    row, train = pooled_row(trained), average(trained, "train_iia")
    title = f"{named(place)}: test IIA {said(row, 'x')}, train IIA {number(train)}."
    if not twins:
        return Finding(title, "No random twin was fitted here, so this alone shows nothing.")
    twin = pooled_row(twins)
    detail = f"Random twins of the same shape reach {said(twin, 'x')} (train "
    detail += f"{number(average(twins, 'train_iia'))}): a gap of {number(row['x'] - twin['x'])}. "
    detail += f"{count(row['n'], 'fit')} and {count(twin['n'], 'twin')}."
    return Finding(title, detail)


def baseline_finding(place: Place, rows: Sequence[Row], trained: Sequence[Row]) -> Finding:
    """The best baseline, and where the map stands on pairs whose answer changes."""
    best = max(rows, key=lambda row: row["highest"])
    own = average(trained, "iia")
    title = f"{named(place)}: the best baseline is {best['baseline']}, {number(best['highest'])}"
    title += "." if own is None else f"; the map reaches {number(own)}."
    shares = [average(trained, f"iia_{name}") for name in ("sensitive", "insensitive")]
    detail = "Doing nothing is right on every insensitive pair, so the two classes stand apart"
    if None not in shares:
        detail += f": the map has {number(shares[0])} of the sensitive pairs and "
        detail += f"{number(shares[1])} of the others"
    return Finding(title, f"{detail}.")


def curve_finding(place: Place, rows: Sequence[Row]) -> Finding:
    """What the tested map reaches on most pairs, trained against twin, from `align_curve`."""
    mine = [row for row in rows if row["family"] == place.map] or list(rows)
    most = max(mine, key=_size)["n_pairs"]
    ends = {str(row["net"]): row for row in mine if row["n_pairs"] == most}
    told = [
        f"{net} {number(row['test_iia'])} (train {number(row['train_iia'])})"
        for net, row in ends.items()
    ]
    title = f"{named(place)}: with {pairs_name(most)} {' and '.join(told)} test IIA."
    detail = "Where the twin follows, the map makes up what the network lacks; where train IIA "
    return Finding(title, f"{detail}runs ahead of test IIA, it memorises.")


def pairs_name(n: int | None) -> str:
    """Write a number of training pairs.

    >>> pairs_name(1000), pairs_name(None)
    ('1,000 pairs', 'fresh pairs')
    """
    return "fresh pairs" if n is None else f"{n:,} pairs"


def _size(row: Row) -> float:
    return math.inf if row["n_pairs"] is None else float(row["n_pairs"])


def bits_finding(place: Place, rows: Sequence[Row], chance: float | None) -> Finding:
    """How many bits a label takes, network beside twin and rival, from rows of `align_bits`."""
    told = {str(row["code"]): row["bits_per_pair"] for row in rows}
    listed = ", ".join(f"{code} {number(bits)}" for code, bits in told.items())
    title = f"{named(place)}: bits per pair, {listed}."
    detail = "Fewer bits: fewer pairs are needed before labels can be told."
    if chance is not None:
        detail += f" Without a rule a label takes {number(chance)}."
    own, others = told.get("network"), [b for code, b in told.items() if code != "network"]
    if own is not None and others and own >= min(others):
        detail += " The network's code is no shorter than a control's."
    return Finding(title, detail)


def chance_bits(verdicts: Sequence[Row]) -> float | None:
    """Bits of a label without a rule: the logarithm of the number of answers, where it is known."""
    for row in verdicts:
        codes = evidence_of(row).get("description_length") or {}
        for code in codes.values():
            return math.log2(code["n_answers"])
    return None
