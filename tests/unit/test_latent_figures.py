"""Figures of latent reasoning equal the records that they draw, of one run and of a study."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import figures.__main__ as command
from figures import (
    latent_commitment,
    latent_early_stop,
    latent_flips,
    latent_graphs,
    latent_influence,
    latent_operators,
    latent_released,
    latent_shape,
)
from figures.latent_study import FIGURES, figures_of_study, read_study
from figures.titled import NothingToDraw
from interp.errors import InputError
from interp.results.latent_charts import VERMILION
from tests import latent_report_rows as rows
from tests.strategies import says
from tests.unit.test_report_latent import store

PARTS = {
    "": ("accuracy",),
    "necessity": ("necessity", "early_stop", "settling"),
    "influence": ("influence", "influence_shape", "influence_graph", "influence_test"),
    "commitment": ("commitment", "commitment_probes", "commitment_steps"),
}


def records(folder: Path, subjects: tuple[str, ...] = ("coconut", "explicit")) -> Path:
    """A study: a folder for each subject, its parts inside; only the first has the diagnostic."""
    tables = rows.every_table()
    for subject in subjects:
        for part, names in PARTS.items():
            experiment = f"latent_{part}" if part else "latent"
            kept = {name: tables[name] for name in names}
            store(folder / subject / part, experiment, kept)
    faulty = {
        "influence": tables["released_influence"],
        "influence_shape": tables["released_influence_shape"],
    }
    part = "influence-released-code"
    store(folder / subjects[0] / part, f"latent_{part}", faulty)
    return folder


def test_a_study_is_read_with_the_subject_in_every_row(tmp_path):
    tables = read_study(records(tmp_path / "study"))
    assert {row["subject"] for row in tables["necessity"]} == {"coconut", "explicit"}
    assert {row["subject"] for row in tables["released_influence_shape"]} == {"coconut"}
    assert len(tables["influence"]) == 2 * len(rows.w_rows())
    assert {row["preset"] for row in tables["influence"]} == {"default"}
    bare = [{k: v for k, v in row.items() if k != "subject"} for row in tables["early_stop"][:5]]
    assert bare == rows.stop_rows()
    assert read_study(tmp_path / "nothing") == {}


def test_two_stores_of_a_subject_with_one_table_are_refused(tmp_path):
    """Such as the influence on two edges: their rows would stand in the same cells."""
    folder = records(tmp_path / "study")
    store(folder / "coconut" / "kv", "latent_influence", {"influence": rows.w_rows()})
    message = (
        "Two stores in study/coconut hold the table influence, the second is kv: give each its own "
        "subject's folder, or their rows would be mixed."
    )
    with says(InputError, message):
        read_study(folder)


def test_a_study_has_every_figure_and_what_lacks_its_tables_is_left_out(tmp_path):
    drawn = dict(figures_of_study(records(tmp_path / "study")))
    assert tuple(drawn) == FIGURES
    assert dict(figures_of_study(tmp_path / "nothing")) == {}
    folder = tmp_path / "one" / "pause"
    store(folder / "necessity", "latent_necessity", {"early_stop": rows.stop_rows()})
    assert list(dict(figures_of_study(tmp_path / "one"))) == ["latent_early_stop"]


@pytest.mark.parametrize("name", FIGURES)
def test_the_title_is_a_finding_and_the_null_stands_below(name):
    module = import_module(f"figures.{name}")
    wanted = (*module.TABLES, *getattr(module, "ALSO", ()))
    for tables in (rows.every_table(), rows.told_apart()):
        drawn = module.figure(*(tables[table] for table in wanted))
        title, under = drawn.layout.title.text, drawn.layout.title.subtitle.text
        assert title.replace("<br>", " ").endswith(".")
        both = f"{title} {under}".replace("<br>", " ")
        nulls = ("The identity", "shuffled labels", "changes nothing", "Without a latent step")
        assert any(null in both for null in nulls)
        assert "60 problems" in both or "40 problems" in both
        assert drawn.layout.margin.t >= 30 + 22 + 16


def test_the_bars_of_the_figure_are_the_rows():
    drawn = latent_flips.figure(rows.necessity_rows())
    assert list(drawn.data[0].y) == list(rows.FLIPS["resample"])
    assert drawn.layout.yaxis.title.text == "Answers flipped"
    cells = latent_operators.figure(rows.necessity_rows()).data[0]
    assert list(cells.z[-1])[:4] == list(rows.FLIPS["resample"])
    stops = latent_early_stop.figure(rows.stop_rows()).data[1]
    assert list(stops.y) == [0.1, 0.2, 0.9, 0.7, 0.94]


def test_explicit_and_latent_stand_on_the_same_axes():
    tables = rows.told_apart()
    drawn = latent_shape.figure(tables["influence_shape"])
    first = [trace for trace in drawn.data if trace.xaxis == "x" and trace.error_x.array]
    assert [trace.name for trace in first] == ["coconut", "explicit"]
    assert drawn.layout.title.text.startswith("coconut: W under")
    assert "explicit: W under" in drawn.layout.title.subtitle.text.replace("<br>", " ")


def test_the_diagnostic_is_marked_in_words_and_colour_and_its_rows_stay_in_their_figure():
    tables = rows.every_table()
    drawn = latent_released.figure(tables["released_influence_shape"], tables["influence_shape"])
    assert drawn.layout.title.text.startswith("DIAGNOSTIC: ")
    assert drawn.layout.title.font.color == VERMILION
    faulty = tables["released_influence"]
    for module, given in (
        (latent_influence, (faulty,)),
        (latent_graphs, (tables["influence_graph"], faulty)),
        (latent_shape, (tables["released_influence_shape"],)),
    ):
        with pytest.raises(NothingToDraw):
            module.figure(*given)
    with pytest.raises(NothingToDraw, match=r"^no subject has both definitions$"):
        latent_released.figure(rows.told_apart(("a",))["released_influence_shape"], [])


def test_a_subject_without_the_diagnostic_is_left_out_of_it():
    tables = rows.told_apart()
    released = [r for r in tables["released_influence_shape"] if r["subject"] == "explicit"]
    drawn = latent_released.figure(released, tables["influence_shape"])
    assert drawn.layout.title.text.startswith("DIAGNOSTIC: explicit: ")
    names = {trace.name for trace in drawn.data}
    assert "Ours: both sides have consumed s steps" in names
    ours = [t for t in drawn.data if t.name.startswith("Ours")]
    assert list(ours[0].x) == [2.5, 2.5]  # of explicit alone


def test_rows_without_a_number_are_said_to_hold_nothing():
    silent = [{**row, "flip": None} for row in rows.necessity_rows()]
    for module in (latent_flips, latent_operators):
        with pytest.raises(NothingToDraw, match=r"^no edit could act$"):
            module.figure(silent)
    with pytest.raises(NothingToDraw):
        latent_graphs.figure([], rows.w_rows())
    curve = latent_commitment.figure(rows.commitment_rows(), [])
    assert curve.layout.title.text == "Commitment"


def test_the_command_draws_a_study_with_all_its_subjects_together(tmp_path):
    records(tmp_path / "records" / "latent_study")
    stems = [stem for stem, _ in command.all_figures(tmp_path / "records")]
    assert sorted(stems) == sorted(f"latent_study-{name}" for name in FIGURES)


def test_the_figures_are_drawn_the_same_twice(tmp_path):
    study = records(tmp_path / "study")
    first = {name: drawn.to_json() for name, drawn in figures_of_study(study)}
    assert {name: drawn.to_json() for name, drawn in figures_of_study(study)} == first
    assert not [name for name, text in first.items() if str(tmp_path) in text]
