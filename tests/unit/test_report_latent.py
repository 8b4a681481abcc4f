"""The sections about latent reasoning: numbers with nulls, diagnostics marked, no text runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp.jobs import runs
from interp.results import Manifest, Store, cell_key
from interp.results import report_latent as latent
from interp.results.report import TABLES, render
from interp.results.report_stats import DASH, MINUS
from interp.results.report_thinking import PARTS
from tests import latent_report_rows as rows
from tests.latent_report_rows import ATTACK


def cells(html: str, head: str) -> list[list[str]]:
    """Lines of the table whose first head is given, texts only."""
    table = next(t for t in re.findall(r"<table>.*?</table>", html) if f">{head}</th>" in t)
    lines = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2])
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_every_section_is_there_in_order_and_none_without_rows():
    found = latent.sections(rows.every_table())
    assert list(found) == list(latent.TITLES)
    assert latent.sections({}) == {}
    assert list(latent.sections({"early_stop": rows.stop_rows()})) == ["latent-stops"]


def test_every_chart_has_its_place_and_every_place_its_chart():
    for tables in (rows.every_table(), rows.told_apart()):
        for section in latent.sections(tables).values():
            places = re.findall(r'<div class="chart" id="([^"]+)">', section.body)
            assert sorted(places) == sorted(section.charts)


def test_flips_have_the_identity_in_the_same_line():
    body = latent.sections({"necessity": rows.necessity_rows()})["latent-necessity"].body
    lines = cells(body, "Edit")
    assert lines[0] == [
        "Another problem&#x27;s step",
        "1",
        "90%<small>85% to 95%</small>",
        "0%",
        f"{MINUS}90<small>{MINUS}95 to {MINUS}85</small>",
        "54",
        "0",
        "1",
        "0",
        "0.9",
        "0",
        "60",
    ]
    assert not [line for line in lines if line[0] == "Null: identity"]
    bare = [row for row in rows.necessity_rows() if row["operator"] != "identity"]
    body = latent.sections({"necessity": bare})["latent-necessity"].body
    assert {(line[3], line[10]) for line in cells(body, "Edit")} == {(DASH, DASH)}


def test_shapes_have_the_identity_and_equal_edges_in_their_table():
    section = latent.sections({"influence": rows.w_rows(), "influence_shape": rows.shape_rows()})
    lines = cells(section["latent-influence"].body, "W under")
    assert [line[0] for line in lines] == [
        "Another problem&#x27;s step",
        "Rotated (45)",
        "Null: identity",
        "Equal edges",
    ]
    assert lines[0][1:] == [
        "0.700<small>0.650 to 0.750</small>",
        "1.400<small>1.350 to 1.450</small>",
        "0.520<small>0.470 to 0.570</small>",
        "0.480<small>0.430 to 0.530</small>",
        "2.5",
        "0",
        "60",
    ]
    assert lines[2][1:] == [DASH, DASH, DASH, DASH, "0", "0", "60"]
    assert lines[3][1:] == ["0.500", "1.667", "0.500", "0.500", DASH, DASH, DASH]


def test_the_released_section_is_a_diagnostic_in_words_and_colour():
    section = latent.sections(rows.every_table())["latent-released"]
    assert latent.TITLES["latent-released"].startswith("DIAGNOSTIC")
    assert section.body.startswith('<p class="warning">DIAGNOSTIC, no result. preset: released-co')
    assert all(found.title.startswith("DIAGNOSTIC") for found in section.findings)
    first = cells(section.body, "Number")[0]
    assert first == [
        "Locality",
        "Another problem&#x27;s step",
        "0.350<small>0.300 to 0.400</small>",
        "0.350<small>sum 10.5 nats</small>",
        "0.700<small>0.650 to 0.750</small>",
        "none<small>sum 0 nats</small>",
        "0.500",
        "reversed",
    ]
    assert set(section.charts) == {"latent-totals", "latent-defects", "latent-faulty-w"}


def test_without_ours_the_defect_table_says_so():
    alone = {"released_influence_shape": rows.released_shape_rows()}
    body = latent.sections(alone)["latent-released"].body
    assert {tuple(line[4:6]) for line in cells(body, "Number")} == {(DASH, DASH)}
    assert {line[7] for line in cells(body, "Number")} == {"ours not run"}


def test_sums_in_place_of_means_are_a_diagnostic_too():
    summed = [{"operator": "zero", **rows.SHAPE}, {"operator": "identity"}]
    tables = rows.every_table() | {"released_influence_summed": summed}
    body = latent.sections(tables)["latent-released"].body
    assert "<h3>DIAGNOSTIC: sums in place of means</h3>" in body
    lines = cells(body, "Sums over problems, W under")
    assert lines == [["Zero", "0.700", "1.400", "0.520", "0.480"]]


def test_subjects_share_tables_and_each_has_its_sentence():
    found = latent.sections(rows.told_apart())
    names = [f.title.partition(":")[0] for f in found["latent-necessity"].findings]
    assert names == ["coconut", "explicit"]
    lines = cells(found["latent-stops"].body, "k")
    assert [line[0] for line in lines][:6] == [*(f"coconut: {k}" for k in range(5)), "explicit: 0"]
    shapes = cells(found["latent-influence"].body, "W under")
    equal = [line[0] for line in shapes][3::4]
    assert equal == ["coconut: equal edges", "explicit: equal edges"]


def test_marked_problems_silent_edits_and_stale_parts_are_told():
    marked = [{"id": "p", "reason": "too long", "status": "marked"}] * 2
    silent = [{"operator": "mean_step", "t": 1, "reason": "it fed what was there"}]
    stale = {"part": "influence", "warnings": ["The run has other rows now."]}
    tables = {
        "accuracy": [rows.accuracy_row(warning="few problems")],
        "latent_items": marked,
        "influence": rows.w_rows(),
        "influence_marked": marked[:1],
        "latent_silent": silent,
        PARTS: [stale, {"part": "direction", "warnings": ["another's"]}],
    }
    found = latent.sections(tables)
    assert "2 problems marked and left out: too long (2)." in found["latent-accuracy"].body
    assert "Warnings: few problems." in found["latent-accuracy"].body
    body = found["latent-influence"].body
    assert body.startswith('<p class="warning">The run has other rows now.</p>')
    assert "Left out: Mean of the step at step 1: it fed what was there." in body
    assert "1 problem marked and left out: too long (1)." in body
    assert "another&#x27;s" not in "".join(section.body for section in found.values())


def test_no_text_of_a_record_runs():
    tables = rows.told_apart((ATTACK, "b"))
    tables["accuracy"] = [rows.accuracy_row(ATTACK, warning=ATTACK)]
    tables["latent_items"] = [{"status": "marked", "reason": ATTACK, "id": ATTACK}]
    tables["latent_silent"] = [{"operator": ATTACK, "t": 1, "reason": ATTACK}]
    tables["necessity"] += [
        {**rows.necessity_row(ATTACK, "1", 0.5), "subject": ATTACK, "warning": ATTACK}
    ]
    tables["influence"] += [{**rows.w_row(ATTACK, 1, 2, 0.5), "subject": ATTACK}]
    tables["influence_test"] = [{**r, "against": ATTACK} for r in tables["influence_test"]]
    tables["necessity_marked"] = [{"id": ATTACK, "reason": ATTACK}]
    tables[PARTS] = [{"part": "necessity", "warnings": [ATTACK]}]
    page = render({"experiment": ATTACK}, tables)
    body = page.partition("<body>")[2]
    assert "<img" not in body
    assert "alert(1)</script>" not in body


def test_the_page_has_the_sections_and_the_same_rows_give_the_same_bytes():
    page = render({"experiment": "latent"}, rows.every_table())
    for name, title in latent.TITLES.items():
        assert f'<section id="{name}"><h2>{title}</h2>' in page
    assert render({"experiment": "latent"}, rows.every_table()) == page
    assert set(latent.TABLES) <= set(TABLES)
    assert "latent-" not in render({"experiment": "x"}, {}).partition("<main>")[2][:2000]


def test_runs_are_joined_by_name():
    joined = latent.together({"a": {"accuracy": [{"x": 1}]}, "b": {"accuracy": [{"x": 2}]}})
    assert joined == {"accuracy": [{"x": 1, "subject": "a"}, {"x": 2, "subject": "b"}]}


# ---------------------------------------------------------------- a run with its parts


def store(folder: Path, experiment: str, tables: dict, data: dict | None = None) -> Store:
    manifest = Manifest(
        experiment=experiment,
        settings={"of": experiment},
        model={},
        data=data or {},
        seeds=[0],
        versions={},
        commit=None,
        device="cpu",
        threads=1,
        command=["test"],
        created="2026-01-01T00:00:00Z",
        code="0",
    )
    made = Store.begin(folder, manifest)
    made.write(cell_key({"cell": experiment}), {"cell": experiment}, tables, {"seconds": 0.0})
    return made


def parts(folder: Path) -> tuple[Store, Store]:
    """A run with both kinds of influence, whose tables have the same names."""
    t = rows.every_table()
    whole = store(folder, "latent", {"accuracy": t["accuracy"]})
    of_run = {"run": whole.manifest.settings_hash, "cells": runs.rows_hash(whole)}
    store(
        folder / "influence",
        "latent_influence",
        {"influence": t["influence"], "influence_shape": t["influence_shape"]},
        of_run,
    )
    faulty = store(
        folder / "influence-released-code",
        "latent_influence-released-code",
        {
            "influence": t["released_influence"],
            "influence_shape": t["released_influence_shape"],
            "latent_marked": [{"id": "p", "reason": "too long"}],
        },
        of_run,
    )
    return whole, faulty


def test_the_released_part_never_stands_for_ours(tmp_path):
    whole, _ = parts(tmp_path / "run")
    page = runs.write_report(whole).read_text(encoding="utf-8")
    assert '<section id="latent-influence">' in page
    assert '<section id="latent-released">' in page
    assert "The identity null is 0 nats at every edge." in page
    assert "an effect of 10.5 nats" in page


def test_the_page_of_the_released_part_alone_has_no_section_of_results(tmp_path):
    _, faulty = parts(tmp_path / "run")
    runs.write_report(faulty)
    page = (faulty.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="latent-released">' in page
    assert '<section id="latent-influence">' not in page


@pytest.mark.parametrize(
    ("table", "experiment", "shown"),
    [
        ("influence", "latent_influence", "influence"),
        ("influence", "latent_influence-released-code", "released_influence"),
        ("latent_marked", "latent_influence", "influence_marked"),
        ("latent_marked", "latent_necessity", "necessity_marked"),
        ("steps", "thinking", "steps"),
    ],
)
def test_tables_of_the_same_name_are_told_apart(table, experiment, shown):
    assert latent.stored_as(table, experiment) == shown
