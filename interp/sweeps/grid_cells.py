"""The cells of a grid: its groups multiplied, less its exclusions, each configuration made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from interp.errors import InputError, InterpError, nearest
from interp.sweeps.grid_axes import Group, named
from interp.sweeps.grid_fields import Fields
from interp.sweeps.grid_values import clip, token
from interp.sweeps.grid_words import Mistakes

_SHOWN = 5  # cells that their own checks refuse are named up to this number of reasons


@dataclass(frozen=True)
class Draft:
    """What a grid file says, each value typed."""

    known: Fields
    base: dict[str, Any]
    groups: list[Group]
    exclude: list[dict[str, list[Any]]]
    """For each exclusion, the values by which it matches."""

    def column(self, name: str) -> tuple[int | None, list[Any]]:
        """Return the place of the group that sets a field, and its value in each of the rows."""
        for place, group in enumerate(self.groups):
            if name in group.names:
                return place, [row[name] for row in group.rows]
        return None, [self.base.get(name, self.known.defaults.get(name))]


def excluded(draft: Draft, wrong: Mistakes) -> list[dict[int, set[int]]]:
    """Return for each exclusion the rows that it takes, by place of the group.

    One that matches no cell is noted.
    """
    taken = []
    for n, exclusion in enumerate(draft.exclude, start=1):
        with wrong.noted():
            taken.append(_taken(f"exclusion {n}", exclusion, draft))
    return taken


def _taken(where: str, exclusion: Mapping[str, list[Any]], draft: Draft) -> dict[int, set[int]]:
    taken: dict[int, set[int]] = {}
    for name, values in exclusion.items():
        rows = {token(value): set() for value in values}
        place, column = draft.column(name)
        for i, value in enumerate(column):
            rows.get(token(value), set()).add(i)
        for value in values:
            if not rows[token(value)]:
                hint = nearest(str(value), [str(each) for each in column])
                raise InputError(
                    f"{where} matches no cell, as none has {name} {clip(value)}: correct or "
                    f"remove it.{hint}"
                )
        if place is not None:
            taken[place] = taken.get(place, set(range(len(column)))) & set().union(*rows.values())
    if not all(taken.values()):
        raise InputError(
            f"{where} matches no cell, as none has all its values together: correct or remove it."
        )
    return taken


def make_cells(draft: Draft, taken: Sequence[Mapping[int, set[int]]], wrong: Mistakes) -> list[Any]:
    """Return the configurations in order, those that an exclusion takes unmade.

    A configuration that refuses itself, two that are the same, and an axis of which the exclusions
    leave one value are noted.
    """
    cells: list[Any] = []
    seen: dict[str, int] = {}
    kept: list[set[int]] = [set() for _ in draft.groups]
    refused: Counter[str] = Counter()
    first: dict[str, str] = {}
    for places in product(*(range(len(group.rows)) for group in draft.groups)):
        if any(all(places[g] in rows for g, rows in each.items()) for each in taken):
            continue
        for rows, place in zip(kept, places, strict=True):
            rows.add(place)
        pairs = zip(draft.groups, places, strict=True)
        varied = {name: value for group, i in pairs for name, value in group.rows[i].items()}
        try:
            cell = draft.known.config(**draft.base, **varied)
        except (InterpError, ValueError, TypeError) as error:  # the configuration's own checks
            refused[str(error)] += 1
            first.setdefault(str(error), named(varied) or "the one cell")
            continue
        cells.append(cell)
        before = seen.setdefault(token(cell), len(cells) - 1)
        if before != len(cells) - 1:
            wrong.append(
                f"cells {before + 1} and {len(cells)} are the same ({named(varied)}), once the "
                "configuration has set its fields: remove a value, or exclude one."
            )
            return cells  # what exclusions leave is not known yet
    wrong.extend(_refusals(refused, first))
    wrong.extend(_left(draft, kept))
    return cells


def _refusals(refused: Counter[str], first: Mapping[str, str]) -> Iterator[str]:
    """Yield each reason for which configurations refuse themselves, with its first cell."""
    for reason, count in list(refused.items())[:_SHOWN]:
        more = f" (and {count - 1} more cells)" if count > 1 else ""
        yield f"the cell {first[reason]}{more} is refused: {reason}"
    if len(refused) > _SHOWN:
        yield f"{len(refused) - _SHOWN} more reasons for which cells are refused are not shown."


def _left(draft: Draft, kept: Sequence[set[int]]) -> Iterator[str]:
    """Yield what exclusions leave without an effect."""
    if not all(kept) or (draft.exclude and not kept):
        yield "the exclusions leave no cell: remove one."
        return
    for group, rows in zip(draft.groups, kept, strict=True):
        if len(rows) < 2 <= len(group.rows) and group.kind != "seeds":
            row = group.rows[next(iter(rows))]
            yield (
                f"the exclusions leave the axis {group.label} one value, so nothing varies: set "
                f"{named(row)} in base."
            )
