"""Laws of grids: how many cells, in which order, and a grid is read back as it was written."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from math import prod
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import InputError
from interp.sweeps.grid import Grid, parse_grid

LAW = settings(deadline=None, derandomize=True, max_examples=60)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
sections = st.sampled_from(["base", "axes", "seeds", "exclude", "tries", "seconds"])
words = st.sampled_from(["product", "zip", "list", "layer", "rate", "sites", "preset", "seed"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
SOUND = {"experiment": "experiments.bad_grids:EXPERIMENT", "base": {"model": "flat"}}
VALUES: dict[str, st.SearchStrategy] = {
    "layer": st.integers(0, 3),
    "rate": st.floats(0.0, 1e300, exclude_min=True) | st.integers(1, 9),
    "preset": st.sampled_from(["default", "paper"]),
    "sites": st.lists(texts, max_size=2),
    "exact": st.booleans(),
    "input": st.sampled_from([None, "a.jsonl", "b/c.jsonl", "../a", "/tmp/d"]),
}


def same(value: Any) -> Any:
    """What two equal values of a field agree on: 1 and 1.0 are one rate."""
    return json.dumps(float(value) if type(value) is int else value)


def different(name: str, low: int, high: int) -> st.SearchStrategy[list]:
    """Values of a field, each once."""
    return st.lists(VALUES[name], min_size=low, max_size=high, unique_by=same)


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    """A right grid as a mapping: product, zip or list over fields of their own, and seeds."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    base: dict[str, Any] = {"model": draw(texts)}
    axes: list[dict[str, Any]] = []
    while names:
        kind = draw(st.sampled_from(["base", "product", "zip", "list"]))
        name = names.pop()
        if kind == "base":
            base[name] = draw(VALUES[name])
        elif kind == "product" or not names:
            axes.append({"product": {name: draw(different(name, 2, 3))}})
        else:
            second, count = names.pop(), 2
            columns = {n: draw(different(n, count, count)) for n in (name, second)}
            rows = [{n: columns[n][i] for n in columns} for i in range(count)]
            axes.append({"zip": columns} if kind == "zip" else {"list": rows})
    seeds = st.none() | st.integers(1, 3) | st.lists(st.integers(0, 9), min_size=1, unique=True)
    rest = {"axes": axes, "seeds": draw(seeds), "tries": draw(st.integers(1, 3))}
    return SOUND | {"base": base} | {key: value for key, value in rest.items() if value}


def read(raw: dict[str, Any]) -> Grid:
    return parse_grid(json.dumps(raw), "laws")


def groups(raw: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The rows of each group, by the words of the module: what multiplies."""
    found = []
    for part in raw.get("axes", []):
        ((kind, content),) = part.items()
        found.append(
            content
            if kind == "list"
            else [
                dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)
            ]
        )
    seeds = raw.get("seeds")
    if seeds is not None:
        found.append([{"seed": n} for n in (range(seeds) if isinstance(seeds, int) else seeds)])
    return found


def plain(value: Any) -> Any:
    return str(value) if hasattr(value, "parts") else list(value) if type(value) is tuple else value


def shown(grid: Grid) -> list[dict[str, Any]]:
    return [{name: plain(value) for name, value in asdict(cell).items()} for cell in grid.cells]


@LAW
@given(grids())
def test_the_cells_are_the_product_of_the_groups_in_the_order_written(raw):
    grid = read(raw)
    rows = groups(raw)
    assert len(grid.cells) == prod(map(len, rows))
    assert len({json.dumps(cell) for cell in shown(grid)}) == len(grid.cells)
    for cell, parts in zip(shown(grid), product(*rows), strict=True):
        wanted = raw["base"] | {name: value for part in parts for name, value in part.items()}
        path = wanted.pop("input", None)
        assert {name: cell[name] for name in wanted} == wanted
        assert (cell["input"] is None) == (path is None)
    assert set(grid.axes) == {name for group in rows for name in group[0]}
    several = {name for group in rows if len(group) > 1 for name in group[0]}
    assert set(grid.varied) == several


@LAW
@given(grids(), st.data())
def test_an_exclusion_takes_the_cells_that_match_it_and_no_other(raw, data):
    before = shown(read(raw))
    cell = data.draw(st.sampled_from(before))
    names = data.draw(st.lists(st.sampled_from(sorted(cell)), min_size=1, max_size=3, unique=True))
    exclusion = {name: [cell[name]] for name in names}
    kept = [each for each in before if any(each[name] != cell[name] for name in names)]
    assert len(kept) < len(before)
    try:
        after = shown(read(raw | {"exclude": [exclusion]}))
    except InputError as error:
        assert "the exclusions leave" in str(error)
        axes = [name for group in groups(raw) if len(group) > 1 for name in group[0]]
        assert not kept or any(len({json.dumps(each[n]) for each in kept}) == 1 for n in axes)
    else:
        assert after == kept


@LAW
@given(grids(), st.data())
def test_the_normal_form_is_read_back_as_the_same_grid(raw, data):
    grid = read(raw)
    cell = data.draw(st.sampled_from(shown(grid)))
    with suppress(InputError):  # where that leaves an axis one value
        grid = read(raw | {"exclude": [{name: [cell[name]] for name in grid.axes}]})
    again = parse_grid(json.dumps(grid.as_json(), sort_keys=True), "laws")  # as in a manifest
    assert again.cells == grid.cells
    assert json.dumps(shown(again)) == json.dumps(shown(grid))  # 1 == 1.0 == True
    assert again.as_json() == grid.as_json()
    assert (again.tries, again.varied) == (grid.tries, grid.varied)
    assert set(again.axes) == set(grid.axes)


@LAW
@given(st.dictionaries(sections, junk, max_size=3))
def test_any_other_file_is_a_grid_or_ends_in_sentences(raw):
    try:
        grid = read(SOUND | raw)
    except InputError as error:
        head, *lines = str(error).splitlines()
        assert head.startswith("laws") and all(line.endswith((".", "?")) for line in [head, *lines])
        assert not lines or head == f"laws: {len(lines)} mistakes."
    else:
        assert grid.cells and read(grid.as_json()).cells == grid.cells
