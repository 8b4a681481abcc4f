from __future__ import annotations

import csv
import io
import json

import pytest

from interp.errors import InputError
from interp.results import render

ROWS = [
    {"site": "3.mlp_out", "effect": 1 / 3, "n": 12345},
    {"site": "10.attn_out", "effect": None, "n": 7, "note": "dropped"},
]


def test_the_table_gives_four_digits_and_a_mark_for_what_is_missing():
    assert render(ROWS, "table").splitlines() == [
        "site         effect      n  note",
        "3.mlp_out    0.3333  12345  -",
        "10.attn_out       -      7  dropped",
    ]


def test_jsonl_and_csv_keep_every_digit():
    lines = [json.loads(line) for line in render(ROWS, "jsonl").split("\n")]
    assert lines[0] == {**ROWS[0], "note": None}
    table = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert float(table[0]["effect"]) == 1 / 3
    assert table[1] == {"site": "10.attn_out", "effect": "", "n": "7", "note": "dropped"}


def test_csv_keeps_commas_quotes_line_ends_and_lists():
    row = {"text": 'a, "b"\nc', "list": [0.1, None]}
    (read,) = csv.DictReader(io.StringIO(render([row], "csv")))
    assert read == {"text": 'a, "b"\nc', "list": "[0.1, null]"}


def test_columns_are_picked_and_ordered():
    assert render(ROWS, "csv", ["n", "site"]) == "n,site\n12345,3.mlp_out\n7,10.attn_out"
    assert render(ROWS, "jsonl", ["n"]) == '{"n": 12345}\n{"n": 7}'


def test_an_unknown_column_is_refused_with_the_nearest_name():
    message = (
        r"^The records have no column 'efect'; there are: site, effect, n, note\."
        r" Did you mean 'effect'\?$"
    )
    with pytest.raises(InputError, match=message):
        render(ROWS, "table", ["efect"])


def test_an_unknown_format_is_refused():
    message = r"^There is no format 'json'; there are: table, jsonl, csv\. Did you mean 'jsonl'\?$"
    with pytest.raises(InputError, match=message):
        render(ROWS, "json")


def test_long_text_is_cut_and_numbers_are_not():
    row = {"text": "word " * 50, "effect": -0.000123456, "n": 10**15}
    shown = render([row], "table", width=40).splitlines()[1]
    assert len(shown) <= 40
    assert shown.split("…")[1].split() == ["-0.0001235", str(10**15)]


@pytest.mark.parametrize("width", [1, 10, 30, 60])
def test_columns_that_do_not_fit_are_named_not_lost(width):
    row = {f"column{i}": float(i) for i in range(9)}
    *lines, last = render([row], "table", width=width).splitlines()
    shown = lines[0].split()
    assert max(map(len, lines)) <= max(width, len("column0"))
    assert last == f"Not shown, for want of width: {', '.join(list(row)[len(shown) :])}."
    assert shown == list(row)[: len(shown)]


def test_text_from_a_model_cannot_drive_the_terminal_or_the_markup():
    shown = render([{"text": "[red]a[/red]\x1b[31m\nb\u202ec"}], "table")
    assert shown == "text\n[red]a[/red]\\x1b[31m\\nb\\u202ec"


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_nan_is_no_number_to_pass_on(format):
    with pytest.raises(InputError, match=r"^nan cannot be written|^\{'effect': nan\} cannot be"):
        render([{"effect": float("nan")}], format)


def test_the_table_marks_nan():
    assert render([{"effect": float("nan")}], "table").split() == ["effect", "nan"]


def test_no_rows():
    assert [render([], format) for format in ("table", "jsonl", "csv")] == ["no rows", "", ""]
    assert render([], "csv", ["site"]) == "site"
    assert render([], "table", ["site"]) == "site"
