"""Our interchange accuracies beside published ones, from rows alone: no network, no torch.

A cell is one kind of networks, an algorithm, a map, a layer and a size; a mean of ours that lies
between the least and the most of the published networks is inside their seeds' range.

Source of the published values: Sutter et al. 2025, arXiv:2507.08802, by their released results.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from interp.errors import InputError
from interp.results.report_stats import Row
from interp.stats import cluster_bootstrap

COLUMNS = ("experiment", "map", "algorithm", "layer", "dims", "checkpoint")
"""What names a published cell."""
VALUES = ("mean", "sd", "min", "max")
"""What a published cell holds, over networks; accuracies are shares."""
CELL = (
    *("experiment", "nets", "kind", "algorithm", "map"),
    *("site", "size", "map_seed", "budget", "part"),
)
"""What fits of one cell have in common: all but the network."""


def published(path: Path) -> list[dict[str, str]]:
    """Return the rows of the published results, as texts.

    Raises:
        InputError: the file is missing, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"There are no published values at {path} ({error.strerror}): restore the file from "
            "the repository."
        ) from error
    reader = csv.DictReader(line for line in text.splitlines() if line[:1] != "#")
    lacking = [name for name in (*COLUMNS, *VALUES) if name not in (reader.fieldnames or ())]
    if lacking:
        raise InputError(
            f"{path} lacks the columns {', '.join(lacking)}: restore it from the repository."
        )
    return list(reader)


def compare(rows: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return one row for each cell of ours: mean, interval over networks, and the published range.

    `inside` is whether our mean lies between the least and the most of their networks; None where
    nothing was published. `checkpoint` is as `checkpoint_of` gives it.

    Args:
        rows: of `align_fits`, each with its `experiment` and `nets`, and a `checkpoint` of a
            network that was trained half-way. Fits with different `part`s are different cells.
        reference: as `published` returns them.
    """
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (*(row.get(name) for name in CELL), checkpoint_of(row))
        cells.setdefault(key, []).append(row)
    return [_compared(values, reference) for values in cells.values()]


def checkpoint_of(row: Row) -> str:
    """Return how far the training of a row's network had come: chunks of samples, or `final`.

    >>> checkpoint_of({"kind": "twin"}), checkpoint_of({"kind": "trained"})
    ('0', 'final')
    >>> checkpoint_of({"kind": "trained", "checkpoint": "4"})
    '4'
    """
    told = row.get("checkpoint")
    if told is not None:
        return str(told)
    return "0" if row["kind"] == "twin" else "final"


def cell_of(
    reference: Sequence[Mapping[str, str]], experiment: str, row: Row
) -> dict[str, float] | None:
    """Return the published cell of a row of `align_fits`, as `VALUES`; None where there is none."""
    names = (experiment, published_map(str(row["map"])), str(row["algorithm"]))
    wanted = (*names, str(row["site"]), str(row["size"]), checkpoint_of(row))
    for each in reference:
        if tuple(each[name] for name in COLUMNS) == wanted:
            return {name: float(each[name]) for name in VALUES}
    return None


def published_map(name: str) -> str:
    """Return what the published results call a family of maps.

    >>> published_map("identity"), published_map("revnet-10x16")
    ('identity_greedy', 'revnet_10x16')
    """
    return {"identity": "identity_greedy"}.get(name, name.replace("revnet-", "revnet_"))


def _compared(rows: Sequence[Row], reference: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    first, values = rows[0], [float(row["iia"]) for row in rows]
    spread = cluster_bootstrap(values, range(len(values)))
    theirs = cell_of(reference, str(first["experiment"]), first) or dict.fromkeys(VALUES)
    low, high = theirs["min"], theirs["max"]
    inside = None if low is None or high is None else low <= spread.estimate <= high
    return {
        **{name: first[name] for name in ("experiment", "nets", "kind", "algorithm", "map")},
        "layer": first["site"],
        "size": first["size"],
        "checkpoint": checkpoint_of(first),
        "budget": first.get("budget"),
        "part": first.get("part"),
        "n_nets": len(values),
        "iia": spread.estimate,
        "iia_low": spread.low,
        "iia_high": spread.high,
        "sd": stdev(values) if len(values) > 1 else None,
        "most": max(values),
        "train_iia": fmean(row["train_iia"] for row in rows),
        "published": theirs["mean"],
        "published_sd": theirs["sd"],
        "published_low": low,
        "published_high": high,
        "inside": inside,
    }
