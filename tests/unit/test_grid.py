"""Grid files: the cells worked out by hand, and what is refused, word for word."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from experiments import bad_grids
from experiments.bad_grids import EXPERIMENT, Config, Wrong, grid, product
from interp.errors import InputError
from interp.sweeps.grid import Grid, parse_grid, read_grid
from tests.strategies import says

GRIDS = Path(bad_grids.__file__).parent / "grids"


def cells(*lines: str, **more: Any) -> list[tuple]:
    """What differs in the cells of a grid, in their order."""
    read = parse_grid(grid(*lines, **more), "g")
    return [tuple(getattr(cell, name) for name in read.varied) for cell in read.cells]


# ---------------------------------------------------------------- cells


def test_the_groups_multiply_the_first_slowest_the_seeds_fastest():
    text = """
        experiment: experiments.bad_grids:EXPERIMENT
        base: {rate: 0.25}
        axes:
          product: {model: [flat, deep]}
          zip: {layer: [1, 2], sites: [[a], [b, c]]}
          list: [{preset: paper}, {preset: default, exact: true}]
        seeds: 2
    """
    read = parse_grid(text, "all.kinds")
    assert len(read.cells) == 2 * 2 * 2 * 2
    wanted = [
        Config(model=m, rate=0.25, layer=n, sites=s, preset=p, exact=e, seed=seed)
        for m in ("flat", "deep")
        for n, s in ((1, ("a",)), (2, ("b", "c")))
        for p, e in (("paper", False), ("default", True))
        for seed in (0, 1)
    ]
    assert list(read.cells) == wanted
    assert read.axes == ("model", "layer", "sites", "preset", "exact", "seed")
    assert read.varied == ("model", "layer", "sites", "preset", "exact", "seed")
    assert (read.name, read.experiment) == ("all.kinds", "experiments.bad_grids:EXPERIMENT")
    assert (read.tries, read.seconds, read.memory_gib, read.text) == (1, None, None, text)


def test_axes_may_be_a_list_that_sets_the_order():
    axes = "axes: [{list: [{layer: 2}, {layer: 3}]}, {product: {exact: [true, false]}}]"
    assert cells(axes) == [(2, True), (2, False), (3, True), (3, False)]
    axes = "axes: [{product: {exact: [true, false]}}, {list: [{layer: 2}, {layer: 3}]}]"
    assert cells(axes) == [(2, True), (3, True), (2, False), (3, False)]


def test_zips_in_a_list_multiply_each_other():
    zips = "axes: {zip: [{layer: [0, 1], seed: [5, 6]}, {exact: [true, false], rate: [1, 2]}]}"
    assert cells(zips) == [
        (0, 1.0, True, 5),
        (0, 2.0, False, 5),
        (1, 1.0, True, 6),
        (1, 2.0, False, 6),
    ]


def test_a_field_that_a_row_of_list_lacks_has_its_default():
    assert cells("axes: {list: [{layer: 1}, {layer: 1, rate: 0.1}]}") == [(0.5,), (0.1,)]


def test_seeds_are_a_count_or_written_out_and_may_be_one():
    assert cells("seeds: 3") == [(0,), (1,), (2,)]
    assert cells("seeds: [7, 3]") == [(7,), (3,)]
    (cell,) = parse_grid(grid("seeds: [7]"), "g").cells
    assert cell == Config(model="flat", seed=7)


def test_a_grid_without_axes_is_one_cell():
    read = parse_grid(grid(), "g")
    assert (read.cells, read.axes, read.varied) == ((Config(model="flat"),), (), ())


def test_exclusions_match_every_field_they_name_and_a_list_names_alternatives():
    axes = product(layer="[0, 1, 2]", preset="[default, paper]")
    whole = [(n, p) for n in (0, 1, 2) for p in ("default", "paper")]
    assert cells(axes) == whole
    assert cells(axes, "exclude: [{layer: 1, preset: paper}]") == [
        cell for cell in whole if cell != (1, "paper")
    ]
    two = "exclude: [{layer: [0, 2], preset: paper}, {layer: 1, preset: default, model: flat}]"
    assert cells(axes, two) == [(0, "default"), (1, "paper"), (2, "default")]


def test_an_exclusion_sees_defaults_and_values_as_typed():
    axes = "axes: {list: [{layer: 1, rate: 2}, {layer: 2}, {layer: 3, rate: 3}]}"
    assert cells(axes, "exclude: [{rate: 0.5}]") == [(1, 2.0), (3, 3.0)]
    assert cells(axes, "exclude: [{rate: 2.0}]") == [(2, 0.5), (3, 3.0)]
    sites = product(sites="[[a], [a, b], []]")
    assert cells(sites, "exclude: [{sites: [[a, b]]}]") == [(("a",),), ((),)]
    assert cells(sites, "exclude: [{sites: [[]]}]") == [(("a",),), (("a", "b"),)]


def test_an_excluded_cell_is_not_made():
    axes = product(model="[deep, flat]", layer="[1, 9]")
    made = cells(axes, "exclude: [{model: flat, layer: 9}]", base="base: {}")
    assert made == [("deep", 1), ("deep", 9), ("flat", 1)]
    with pytest.raises(
        InputError, match="the cell model 'flat', layer 9 is refused: 'flat' has no"
    ):
        cells(axes, base="base: {}")


def test_nothing_of_the_experiment_is_run(monkeypatch):
    def boom(*_: Any) -> Any:
        raise AssertionError("reading a grid runs nothing")

    mined = replace(EXPERIMENT, identity=boom, group=boom, load=boom, run=boom)
    monkeypatch.setattr(bad_grids, "EXPERIMENT", mined)
    assert cells("seeds: 2") == [(0,), (1,)]


# ---------------------------------------------------------------- files


def test_paths_count_from_the_folder_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    text = grid(product(input="[a.jsonl, ../b.jsonl, /c.jsonl, null]"))
    (tmp_path / "in" / "g.yaml").write_text("\ufeff" + text, encoding="utf-8")
    paths = [tmp_path / "in" / "a.jsonl", tmp_path / "in" / "../b.jsonl", Path("/c.jsonl"), None]
    monkeypatch.chdir(tmp_path)
    read = read_grid("in/g.yaml")
    assert [cell.input for cell in read.cells] == paths
    assert (read.name, read.text) == ("g", text)
    here = [tmp_path / "a.jsonl", tmp_path / "../b.jsonl", Path("/c.jsonl"), None]
    assert [cell.input for cell in parse_grid(text, "g").cells] == here


def test_a_folder_is_no_grid(tmp_path):
    with says(
        InputError, f"The grid file {tmp_path} cannot be read: Is a directory. Check the path."
    ):
        read_grid(tmp_path)


def test_values_are_read_by_the_rules_of_yaml_1_2():
    base = "base: {model: yes, rate: 1e-3, sites: [no, 12:30, 2024-01-02, 1_000, 010, <<]}"
    (cell,) = parse_grid(grid(base=base), "g").cells
    assert (cell.model, cell.rate) == ("yes", 0.001)
    assert cell.sites == ("no", "12:30", "2024-01-02", "1_000", "010", "<<")


def test_a_character_that_json_writes_as_two_escapes_is_one():
    (cell,) = parse_grid(grid(base=r'base: {model: "\ud83d\ude00\u00e9"}'), "g").cells
    assert cell.model == "😀é"
    half = r'base: {model: "\ud83d"}'
    assert refusal(base=half) == "g, line 2: a character is half of a pair: write it whole."


def test_a_number_of_thousands_of_digits_ends_in_a_sentence():
    assert refusal(f"seeds: {'9' * 5000}") == ("g: a whole number has too many digits: shorten it.")


def test_an_alias_cannot_grow_and_depth_ends_in_a_sentence():
    with says(InputError, "g, line 1: a grid has no anchors (& and *): write the value itself."):
        parse_grid("a: &a [x, x]\nb: [*a, *a]\n", "g")
    with says(InputError, "g: it is nested too deep: write it flat."):
        parse_grid("[" * 100_000, "g")


def test_the_normal_form_is_typed_and_written_out():
    axes = "axes: {product: {rate: [1, 2]}, zip: {layer: [0, 1], input: [/a, null]}}"
    tail = ("seeds: 2", "exclude: [{rate: 2, seed: [0, 1], layer: 1}]", "tries: 3", "seconds: 5")
    read = parse_grid(grid(axes, *tail), "g")
    assert read.as_json() == {
        "experiment": "experiments.bad_grids:EXPERIMENT",
        "base": {"model": "flat"},
        "axes": [
            {"product": {"rate": [1.0, 2.0]}},
            {"zip": {"layer": [0, 1], "input": ["/a", None]}},
        ],
        "seeds": [0, 1],
        "exclude": [{"rate": [2.0], "seed": [0, 1], "layer": [1]}],
        "tries": 3,
        "seconds": 5.0,
    }
    read.as_json()["axes"].clear()  # a copy
    assert len(read.as_json()["axes"]) == 2
    again = parse_grid(json.dumps(read.as_json()), "g")
    assert (again.cells, again.tries, again.seconds) == (read.cells, 3, 5.0)


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_grids(path):
    read = read_grid(path)
    assert len(read.cells) > 1 and read.name == path.stem
    assert len(parse_grid(json.dumps(read.as_json()), "g").cells) == len(read.cells)


# ---------------------------------------------------------------- wrong grids


def test_wrong_grids_are_refused_each_in_sentences(capsys):
    with pytest.raises(SystemExit) as stop:
        bad_grids.main(["--json"])
    found = [bad_grids.Found(**json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert stop.value.code == 0
    assert len(found) == len({row.mistake for row in found}) > 60
    for row in found:
        assert row.holds and row.sentence.endswith((".", "?")), row
        assert ("\n" in row.sentence) == (row.mistake == "several mistakes")
    with pytest.raises(SystemExit) as stop:
        bad_grids.main([])
    assert stop.value.code == 0
    assert f"{len(found)} of {len(found)} wrong grids are refused." in capsys.readouterr().out


def test_a_grid_that_is_accepted_or_crashes_is_found(monkeypatch, capsys):
    monkeypatch.setattr(bad_grids, "wrong_cells", lambda: [Wrong("none", grid("seeds: 2"))])
    with pytest.raises(SystemExit) as stop:
        bad_grids.main(["--json"])
    assert stop.value.code == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"mistake": "none", "error": "", "sentence": "accepted"}
    monkeypatch.setattr(bad_grids, "read_grid", lambda path: 1 // 0)
    assert bad_grids.read(Wrong("none", None)).error == "ZeroDivisionError"
    assert not bad_grids.read(Wrong("none", None)).holds


SENTENCES = {
    "no file": "The grid file grid.yaml cannot be read: No such file or directory. Check the path.",
    "an empty file": "grid.yaml: the grid is empty: name at least its experiment.",
    "indented with a tab": "grid.yaml, line 3: YAML does not indent with tabs: use spaces.",
    "a key written twice": "grid.yaml, line 5: 'tries' is written twice: keep one.",
    "a character that is no text": ("grid.yaml, line 2: the character 0x0 is no text: remove it."),
    "a misspelt part": "grid.yaml: a grid has no field 'seed'. Did you mean 'seeds'?",
    "a misspelt kind of axis": "grid.yaml: axes has no field 'prodct'. Did you mean 'product'?",
    "a misspelt field in zip": (
        "grid.yaml: zip: the experiment 'decay' has no field 'sed'. Did you mean 'seed'?"
    ),
    "a number in quotes": (
        "grid.yaml: product: 'layer' is the text '1', and takes a whole number: remove the quotes."
    ),
    "true for a whole number": (
        "grid.yaml: product: 'layer' is true, and takes a whole number: give one."
    ),
    "a misspelt choice": (
        "grid.yaml: product: 'preset' is the text 'papr', and takes one of 'default', 'paper'. Did "
        "you mean 'paper'?"
    ),
    "NaN": "grid.yaml: product: 'rate' is nan, and takes finite numbers alone: give one.",
    "a value the configuration refuses": (
        "grid.yaml: the cell layer 9, seed 0 (and 2 more cells) is refused: 'flat' has no layer 9: "
        "its layers are 0 to 3."
    ),
    "an axis of one value": (
        "grid.yaml: the axis product (layer) has one value, so nothing varies: set layer 1 in "
        "base, or give it another value."
    ),
    "a base value replaced": (
        "grid.yaml: base sets 'model', and product replaces it in every cell: remove one of the "
        "two."
    ),
    "a field in two axes": "grid.yaml: 'seed' stands in two axes, product and seeds: keep one.",
    "zip of two lengths": (
        "grid.yaml: zip needs lists of one length (layer 2, seed 3): even them out, or use product."
    ),
    "equal rows in list": (
        "grid.yaml: list has layer 1, rate 0.5 twice, as entries 1 and 2, so two cells would be "
        "the same: remove one."
    ),
    "an exclusion of no cell": (
        "grid.yaml: exclusion 1 matches no cell, as none has layer 3: correct or remove it."
    ),
    "an exclusion of all": "grid.yaml: the exclusions leave no cell: remove one.",
    "an exclusion of all but one": (
        "grid.yaml: the exclusions leave the axis product (layer) one value, so nothing varies: "
        "set layer 0 in base."
    ),
    "a million cells": (
        "grid.yaml: the axes make 1,001,000 cells, and a grid has at most 1,000,000: split it."
    ),
    "several mistakes": (
        "grid.yaml: 2 mistakes.\n1. 'tries' is 0, and a cell needs at least 1 attempt: give 1 or "
        "more.\n2. 'seconds' is true, and takes a number: give one."
    ),
}


@pytest.mark.parametrize("mistake", SENTENCES)
def test_the_sentence_word_for_word(mistake):
    every = [
        *bad_grids.wrong_files(),
        *bad_grids.wrong_parts(),
        *bad_grids.wrong_fields(),
        *bad_grids.wrong_cells(),
    ]
    (wrong,) = [each for each in every if each.mistake == mistake]
    assert bad_grids.read(wrong).sentence == SENTENCES[mistake]


def refusal(*lines: str, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse_grid(grid(*lines, **more), "g")
    return str(caught.value)


def test_mistakes_of_one_stage_are_told_together():
    told = refusal(
        product(layer="[0, x]", modl="[a, b]"),
        "exclude: [{}, {rate: two}]",
        base="base: {exact: 1}",
    )
    assert told.splitlines() == [
        "g: 5 mistakes.",
        "1. base: 'exact' is 1, and takes true or false: give one.",
        "2. product: 'layer' is the text 'x', and takes a whole number: give one.",
        "3. product: the experiment 'decay' has no field 'modl'. Did you mean 'model'?",
        "4. exclusion 1 names no field, so it takes every cell: name one, or remove it.",
        "5. exclusion 2: 'rate' is the text 'two', and takes a number: give one.",
    ]


def test_an_exclusion_that_can_match_nothing_is_refused():
    zips = "axes: {zip: {layer: [0, 1], seed: [5, 6]}}"
    assert refusal(zips, "exclude: [{layer: 0, seed: 6}]") == (
        "g: exclusion 1 matches no cell, as none has all its values together: correct or remove it."
    )
    assert refusal("exclude: [{model: flat}]") == "g: the exclusions leave no cell: remove one."
    models = product(model="[tiny-gpt2, tiny-llama, deep]")
    assert refusal(models, "exclude: [{model: [deep, tiny-lama]}]", base="base: {}") == (
        "g: exclusion 1 matches no cell, as none has model 'tiny-lama': correct or remove it. Did "
        "you mean 'tiny-llama'?"
    )


def test_a_row_of_list_that_lacks_a_field_without_default_is_refused():
    assert refusal("axes: {list: [{model: deep}, {layer: 1}]}", base="base: {}") == (
        "g: list, row 2: 'model' has no default: give it a value there, as elsewhere."
    )


def test_empty_axes_are_refused_in_either_form():
    wanted = "g: 'axes' is empty: give it product, zip or list, or leave it out."
    assert refusal("axes: []") == refusal("axes: {}") == refusal("axes: [{}]") == wanted
    wanted = "g: zip is an empty list, and takes a mapping of fields: give one."
    assert refusal("axes: {zip: []}") == wanted


# ---------------------------------------------------------------- other experiments


class Depth(Enum):
    SHALLOW = "shallow"
    DEEP = "deep"


@dataclass(frozen=True)
class Part:
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Other:
    """A field of each type that a configuration may have."""

    depth: Depth = Depth.DEEP
    paths: tuple[Path, ...] = ()
    weights: dict[str, float] | None = None
    pair: tuple[int, str] = (1, "a")
    size: int | float = 1
    word: Literal["a", 2] = "a"
    part: Part = Part()
    lock: object = None
    odd: Grid | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", min(self.size, 10))
        if self.pair[0] < 0:
            raise ValueError(f"The pair {self.pair} is below 0: raise it.")


@pytest.fixture
def other(monkeypatch) -> None:
    monkeypatch.setattr(bad_grids, "EXPERIMENT", replace(EXPERIMENT, name="other", config=Other))


@pytest.mark.usefixtures("other")
def test_every_type_of_value_is_read():
    base = "base: {depth: shallow, paths: [a, /b], weights: {x: 1}, pair: [2, c], part: {width: 3}}"
    (cell,) = parse_grid(grid(base=base), "g").cells
    paths = (Path().absolute() / "a", Path("/b"))
    weights = {"x": 1.0}
    assert cell == Other(
        depth=Depth.SHALLOW, paths=paths, weights=weights, pair=(2, "c"), part=Part(3)
    )
    assert type(cell.weights["x"]) is float
    read = parse_grid(grid(product(size="[2, 2.0]"), base="base: {}"), "g")
    whole, real = read.cells
    assert read.varied == ("size",)
    assert (type(whole.size), type(real.size)) == (int, float)  # two records tell them apart


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        (
            "depth: deeep",
            "'depth' is the text 'deeep', and takes one of 'shallow', 'deep'. Did you mean 'deep'?",
        ),
        ("paths: a", "'paths' is the text 'a', and takes a list, each entry a path: give one."),
        ("weights: [1]", "'weights' is the list [1], and takes a mapping or null: give one."),
        (
            "pair: [1]",
            "'pair' is the list [1], and takes a list of 2 (a whole number, text): give one.",
        ),
        (
            "size: '4'",
            "'size' is the text '4', and takes a whole number or a number: remove the quotes.",
        ),
        ("word: 3", "'word' is 3, and takes one of 'a', 2: give one."),
        ("part: {widht: 1}", "'part' is the mapping {'widht': 1}, and takes Part: give one."),
        ("depth: ", "'depth' is empty, and takes one of 'shallow', 'deep': give one."),
        ("weights: {x: .nan}", "'weights' is nan, and takes finite numbers alone: give one."),
    ],
)
def test_a_value_of_another_type_is_refused(base, sentence):
    assert refusal(base=f"base: {{{base}}}") == f"g: base: {sentence}"


@pytest.mark.usefixtures("other")
def test_cells_that_the_configuration_makes_the_same_are_refused():
    assert refusal(product(size="[5, 20, 30]"), base="base: {}") == (
        "g: cells 2 and 3 are the same (size 30), once the configuration has set its fields: "
        "remove a value, or exclude one."
    )


@pytest.mark.usefixtures("other")
def test_an_experiment_without_seeds_takes_none_and_its_value_errors_are_told():
    assert refusal("seeds: 2", base="base: {}") == (
        "g: the experiment 'other' has no field 'seed', so seeds change nothing: remove them."
    )
    assert refusal(product(pair="[[1, a], [-1, b]]"), base="base: {}") == (
        "g: the cell pair [-1, 'b'] is refused: The pair (-1, 'b') is below 0: raise it."
    )


def test_many_reasons_are_cut():
    told = refusal(product(layer=str(list(range(20)))))
    assert len(told.splitlines()) == 1 + 5 + 1
    assert told.splitlines()[-1] == "6. 11 more reasons for which cells are refused are not shown."


def test_two_equal_cells_are_one_mistake_however_many_axes_there_are(tmp_path, monkeypatch):
    (tmp_path / "capped.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from experiments.synthetic import EXPERIMENT as BASE\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config:\n"
        "    a: int = 0\n"
        "    size: int = 0\n"
        "    def __post_init__(self):\n"
        "        object.__setattr__(self, 'size', min(self.size, 10))\n"
        "EXPERIMENT = replace(BASE, config=Config)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "experiment: capped:EXPERIMENT\naxes: {product: {a: [1, 2], size: [20, 30]}}\n"
    with pytest.raises(InputError) as caught:
        parse_grid(text, "g")
    assert "cells 1 and 2 are the same" in str(caught.value)
    assert "exclusions" not in str(caught.value)
