"""Groups of rows: statistics, and the interval of a mean over the independent units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interp.errors import InputError, nearest
from interp.results.rows import (
    Rows,
    about,
    check_known,
    free_names,
    like,
    noted,
    notes,
    own_first,
    to_arrow,
    with_columns,
)
from interp.results.sql import PLACE, database, placed
from interp.stats import FEW_CLUSTERS, Interval, cluster_bootstrap

STATISTICS = ("mean", "median", "max", "min", "count")
"""What `group` can say of a column; the mean comes with its interval."""


def group(
    rows: Rows,
    statistics: Mapping[str, Sequence[str]],
    *,
    by: Sequence[str] = (),
    unit: str | None = None,
    level: float = 0.95,
) -> Rows:
    """Return one row for each group and column: its statistics, counts and interval.

    `statistics` names columns for each of `STATISTICS`, such as `{"mean": ["tts"]}`; without any,
    the rows are counted. Groups come in the order in which they first appear. The columns of the
    result are those of `by`, `column`, what was asked, `low` and `high` of the mean at `level`
    (`interp.stats.cluster_bootstrap` over the units), `count` of values, `units` among them,
    `missing` (empty, NaN or infinite: never averaged), and `unit`, the column that names the
    independent units: by default the experiment's, else `id`, else `row`, each row for itself.
    A column of `by` that is called like one of these gets the prefix `by.`.

    Raises:
        InputError: a statistic, column or unit is unknown, a column holds no numbers, a row has no
            unit, or the level is out of range.
    """
    asked = _asked(statistics)
    table = with_columns(to_arrow(rows), [*by, *(name for name in asked if name != "*")])
    chosen, keys = _unit(table, unit), table.select(list(by))
    units = table[chosen] if chosen in table.column_names else placed(table)[PLACE]
    lines = []
    for name, kinds in asked.items():
        values = _values(table, name, kinds)
        _check_units(values, units, chosen)
        lines += [_line(name, kinds, each, level) for each in _grouped(keys, values, units)]
    lines.sort(key=lambda line: line["first"])  # within a group, columns stay as they were asked
    columns = _columns(lines, asked, chosen)
    names = free_names(by, columns, "by.")
    heads = keys.take(pa.array([line["first"] for line in lines], pa.int64()))
    found = pa.table(dict(zip(names, heads.columns, strict=True)) | columns)
    return like(rows, noted(found, [*notes(table), *_unit_notes(lines, chosen, unit)]))


def _asked(statistics: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Turn statistics by column around; rows are counted (`*`) where nothing is asked."""
    asked: dict[str, list[str]] = {}
    for kind, names in statistics.items():
        if kind not in STATISTICS:
            raise InputError(
                f"There is no statistic {kind!r}; there are: {', '.join(STATISTICS)}."
                + nearest(kind, STATISTICS)
            )
        for name in names:
            asked.setdefault(name, []).append(kind)
    return asked or {"*": ["count"]}


def _unit(table: pa.Table, unit: str | None) -> str:
    """The column that names the independent units, or `row`."""
    known = own_first(table)
    if unit is not None:
        check_known([unit], [*known, "row"])
        return unit
    own = about(table).get("unit")
    return own if own in known else "id" if "id" in known else "row"


def _values(table: pa.Table, name: str, kinds: Sequence[str]) -> pa.Array:
    """A column as floats, empty where it has no finite value; for counts alone, 1.0 for a value."""
    if name == "*":
        return pa.array(np.ones(table.num_rows))
    column = table.column(name)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    if any(each(column.type) for each in numbers):
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values = column.cast(pa.float64(), safe=False).to_numpy()
        return pa.array(values, mask=~np.isfinite(values))
    if set(kinds) != {"count"}:
        raise InputError(
            f"Column {name!r} holds {column.type} and no numbers, so it has no {kinds[0]}: "
            "count it, or pick a column of numbers."
        )
    return pa.array(np.ones(table.num_rows), mask=column.is_null().to_numpy())


def _check_units(values: pa.Array, units: pa.ChunkedArray, name: str) -> None:
    """Refuse values of an unknown unit: their interval would be a guess."""
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if gone := int(np.sum(valid & units.is_null().to_numpy())):
        raise InputError(
            f"{gone} rows have a value and no {name!r}, so their unit is unknown: leave them out "
            f"with the condition {name} is not null, or name another unit."
        )


def _grouped(keys: pa.Table, values: pa.Array, units: pa.ChunkedArray) -> list[dict[str, Any]]:
    """One row a group, in the order of appearance: its first place, values, units and counts."""
    names = [f"k{i}" for i in range(keys.num_columns)]
    columns = dict(zip(names, keys.columns, strict=True))
    table = placed(pa.table(columns | {"v": values, "u": units}))
    query = f"""
        SELECT min("{PLACE}") AS first, count(*) - count(v) AS missing,
            count(DISTINCT u) FILTER (v IS NOT NULL) AS units,
            median(v) AS median, max(v) AS max, min(v) AS min,
            list(v) FILTER (v IS NOT NULL) AS values, list(u) FILTER (v IS NOT NULL) AS clusters
        FROM rows GROUP BY {", ".join(names) or "()"} HAVING count(*) > 0 ORDER BY first
    """
    with database(rows=table) as connection:
        return connection.sql(query).to_arrow_table().to_pylist()


def _line(name: str, kinds: Sequence[str], found: dict[str, Any], level: float) -> dict[str, Any]:
    """The line of one group and column."""
    values, line = found["values"] or [], {"first": found["first"], "column": name}
    if "mean" in kinds and values:
        interval: Interval = cluster_bootstrap(values, found["clusters"], level=level)
        line |= {"mean": interval.estimate, "low": interval.low, "high": interval.high}
    line |= {kind: found[kind] for kind in ("median", "max", "min") if kind in kinds}
    return line | {"count": len(values), "units": found["units"], "missing": found["missing"]}


def _columns(
    lines: Sequence[Mapping[str, Any]], asked: Mapping[str, Sequence[str]], unit: str
) -> dict[str, pa.Array]:
    """The lines as columns: what was asked, the counts and the unit."""
    kinds = {kind for each in asked.values() for kind in each}
    types = {"column": pa.string()}
    types |= dict.fromkeys(["mean", "low", "high"] if "mean" in kinds else [], pa.float64())
    types |= {kind: pa.float64() for kind in ("median", "max", "min") if kind in kinds}
    types |= dict.fromkeys(["count", "units", "missing"], pa.int64())
    columns = {name: pa.array([x.get(name) for x in lines], kind) for name, kind in types.items()}
    return columns | {"unit": pa.array([unit] * len(lines), pa.string())}


def _unit_notes(lines: Sequence[Mapping[str, Any]], chosen: str, asked: str | None) -> list[str]:
    means = [line["units"] for line in lines if "mean" in line]
    if not means:
        return []
    said = [f"The unit of the intervals is {'the row' if chosen == 'row' else chosen}."]
    if chosen == "row" and asked is None:
        said = ["The records name no unit, so the unit of the intervals is the row: name another."]
    few = [n for n in means if 1 < n < FEW_CLUSTERS]
    if few:
        said.append(
            f"{len(few)} of {len(means)} intervals rest on fewer than {FEW_CLUSTERS} units "
            f"(the least: {min(few)}): they are probably too narrow."
        )
    if single := means.count(1):
        said.append(f"{single} of {len(means)} means rest on one unit: no interval.")
    return said
