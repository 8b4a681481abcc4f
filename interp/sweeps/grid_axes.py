"""The groups of a grid: what `axes` and `seeds` say, as rows of typed values that vary together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError
from interp.sweeps.grid_fields import Fields
from interp.sweeps.grid_values import clip, plain, shown, token
from interp.sweeps.grid_words import Mistakes, no_field

MAX_CELLS = 1_000_000
"""The most cells that one grid may have, before exclusions."""


@dataclass(frozen=True)
class Group:
    """Rows of fields that vary together; groups multiply."""

    kind: str
    """`product`, `zip`, `list` or `seeds`."""
    rows: tuple[dict[str, Any], ...]
    """Each with the same fields."""

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that it sets."""
        return tuple(self.rows[0])

    @property
    def label(self) -> str:
        """How a sentence names it."""
        return f"{self.kind} ({', '.join(self.names)})"

    def as_json(self) -> dict[str, Any]:
        """Return it as `axes` of a grid file writes it."""
        rows = [plain(row) for row in self.rows]
        if self.kind == "list":
            return {"list": rows}
        return {self.kind: {name: [row[name] for row in rows] for name in self.names}}


def named(row: Mapping[str, object]) -> str:
    """Return a row as a sentence names it.

    >>> named({"model": "flat", "layer": 3})
    "model 'flat', layer 3"
    """
    return ", ".join(f"{name} {clip(value)}" for name, value in row.items())


def read_axes(raw: Any, known: Fields, wrong: Mistakes) -> list[Group]:
    """Return the groups that `axes` writes, in its order; what is wrong is noted."""
    groups: list[Group] = []
    if raw is None:
        return groups
    parts = raw if isinstance(raw, list) else [raw]
    if not parts or not all(parts):
        wrong.append("'axes' is empty: give it product, zip or list, or leave it out.")
    for kind, content in (item for part in parts for item in part.items()):
        with wrong.noted():
            if kind not in _KINDS:
                raise InputError(no_field("axes", kind, _KINDS))
            for group in _KINDS[kind](content, known, wrong):
                with wrong.noted():
                    _check_twice(group)
                    _check_varies(group)
                groups.append(group)
    return groups


def read_seeds(raw: int | list[int] | None, known: Fields, wrong: Mistakes) -> list[Group]:
    """Return the group that `seeds` makes, or none; what is wrong is noted."""
    if raw is None:
        return []
    with wrong.noted():
        if "seed" not in known.hints:
            raise InputError(
                f"the experiment {known.owner!r} has no field 'seed', so seeds change nothing: "
                "remove them."
            )
        if isinstance(raw, int) and not 1 <= raw <= MAX_CELLS:
            raise InputError(f"'seeds' is {raw}, and a count is 1 to {MAX_CELLS}: give another.")
        seeds = list(range(raw)) if isinstance(raw, int) else raw
        if column := known.column("seeds", "seed", seeds, wrong):
            group = Group("seeds", tuple({"seed": seed} for seed in column))
            _check_twice(group)
            return [group]
    return []


def _product(content: object, known: Fields, wrong: Mistakes) -> Iterator[Group]:
    """Each field is a group of its own."""
    for name, values in _mapping("product", content).items():
        if column := known.column("product", name, values, wrong):
            yield Group("product", tuple({name: value} for value in column))


def _zip(content: object, known: Fields, wrong: Mistakes) -> Iterator[Group]:
    """Each mapping is a group: its fields take their first values together, then their second."""
    for part in content if isinstance(content, list) and content else [content]:
        columns = {
            name: known.column("zip", name, values, wrong)
            for name, values in _mapping("zip", part).items()
        }
        if not all(columns.values()):
            continue
        if len({len(column) for column in columns.values()}) > 1:
            sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            wrong.append(f"zip needs lists of one length ({sizes}): even them out, or use product.")
            continue
        rows = zip(*columns.values(), strict=True)
        yield Group("zip", tuple(dict(zip(columns, row, strict=True)) for row in rows))


def _list(content: object, known: Fields, wrong: Mistakes) -> Iterator[Group]:
    """The rows of one group, written out; a field that a row lacks has its default there."""
    if not isinstance(content, list) or not content:
        raise InputError(f"list is {shown(content)}, and takes a list of mappings: give one.")
    rows = [
        known.row(f"list, row {n}", _mapping(f"list, row {n}", row), wrong)
        for n, row in enumerate(content, start=1)
    ]
    if not all(rows):
        return
    names = dict.fromkeys(name for row in rows for name in row)
    for n, row in enumerate(rows, start=1):
        for name in names:
            if name not in row and name not in known.defaults:
                raise InputError(
                    f"list, row {n}: {name!r} has no default: give it a value there, as elsewhere."
                )
    filled = ({**known.defaults, **row} for row in rows)
    yield Group("list", tuple({name: row[name] for name in names} for row in filled))


_KINDS = {"product": _product, "zip": _zip, "list": _list}


def _mapping(where: str, content: object) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{where} is {shown(content)}, and takes a mapping of fields: give one.")
    return content


def _check_twice(group: Group) -> None:
    """Refuse a row written twice.

    Raises:
        InputError: see above.
    """
    first: dict[str, int] = {}
    for n, row in enumerate(group.rows, start=1):
        before = first.setdefault(token(row), n)
        if before != n:
            raise InputError(
                f"{group.kind} has {named(row)} twice, as entries {before} and {n}, so two cells "
                "would be the same: remove one."
            )


def _check_varies(group: Group) -> None:
    """Refuse an axis of one value.

    Raises:
        InputError: see above.
    """
    row, *others = group.rows
    if not others:
        raise InputError(
            f"the axis {group.label} has one value, so nothing varies: set {named(row)} "
            "in base, or give it another value."
        )
    if group.kind == "zip":
        for name in group.names:
            if len({token(each[name]) for each in group.rows}) < 2:
                raise InputError(
                    f"the axis {group.label} gives {name!r} one value, {clip(row[name])}, so it "
                    "does not vary: set it in base."
                )
