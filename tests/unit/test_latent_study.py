"""The study of one latent subject, and the command for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from rich.console import Console

from experiments import latent_all, latent_study
from experiments.latent_study import CONTROLS, CYCLE, PUBLISHED, SUBJECTS, TOLD, Config, Plan, plan
from experiments.study import Study, condense
from interp.data.cycle_hop import CycleHop
from interp.errors import InputError, StoreError
from interp.jobs import latent_parts, latent_rollout, latent_runs, runs
from interp.jobs.latent_parts import CommitmentSettings, InfluenceSettings, NecessitySettings
from interp.latent.saved import save_subject
from interp.results import Store
from tests.latent_brief import make_brief
from tests.latent_cases import random_subject
from tests.strategies import says

QUIET = Console(quiet=True)
PARTS = ("rollout", "necessity", "influence", "influence-released-code", "commitment")


def small(config: Config) -> Plan:
    """The smoke plan with fewer problems, operators and samples."""
    asked = plan(config)
    return replace(
        asked,
        problems=replace(asked.problems, n=config.n or 15, calibration=4),
        necessity=NecessitySettings(operators=("zero",), classes=8),
        influence=InfluenceSettings(operators=("zero",)),
        released=InfluenceSettings(operators=("zero",), preset="released-code"),
        commitment=CommitmentSettings(samples=6, sigma=1.0, shuffles=1),
    )


def study(out: Path, planned: Callable[[Config], Plan] = small, **more: Any) -> Study:
    """Run a study by the small plan, without the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_study, "plan", planned)
        make_brief(patch)
        patch.setattr("interp.jobs.runs.write_report", lambda store: store.folder)
        return latent_study.run(Config(out=out, **more), QUIET)


@pytest.fixture(scope="module")
def thought(tmp_path_factory) -> Study:
    return study(tmp_path_factory.mktemp("thought"))


def status(made: Study) -> dict[str, str]:
    return {part.part: part.status for part in made.parts}


def notes(folder: Path) -> Any:
    return Store.open(folder).manifest.notes


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subject": "coconutt"},
            f"There is no subject 'coconutt'; there are: {', '.join(SUBJECTS)}. "
            "Did you mean 'coconut'?",
        ),
        (
            {"subject": "codi-gpt2", "model": "x"},
            "codi-gpt2 has no weights and problems of its own: name a folder with --model and a "
            "JSONL file with --data.",
        ),
        ({"n": 0}, "--n 0: give at least 1."),
    ],
)
def test_settings_that_have_no_meaning_are_refused(wrong, message):
    with says(InputError, message):
        Config(**wrong)


def config(subject: str, **more: Any) -> Config:
    given = {"model": "x", "data": "y"} if subject in PUBLISHED else {}
    return Config(subject=subject, **{**given, **more})


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_paper_size_is_never_smaller_than_the_smoke_size(subject):
    smoke, paper = (plan(config(subject, size=size)) for size in ("smoke", "paper"))
    assert paper.problems.n > smoke.problems.n
    assert paper.problems.calibration >= smoke.problems.calibration >= 12
    assert paper.influence.seeds >= smoke.influence.seeds
    assert set(smoke.necessity.operators) == set(paper.necessity.operators)
    if subject != "soft":
        assert paper.influence.seeds == 3
        assert [p.commitment is None for p in (smoke, paper)] == [subject in CONTROLS] * 2
        if smoke.commitment and paper.commitment:
            assert paper.commitment.samples == 40 > smoke.commitment.samples
        assert {"zero", "mean", "mean_step", "swap"} <= set(paper.necessity.operators)
        assert len(set(paper.necessity.operators)) == len(paper.necessity.operators)
    assert plan(config(subject, n=7)).problems.n == 7


def test_subjects_get_the_problems_that_they_were_trained_on_and_their_own_weights():
    for subject in CYCLE:
        assert plan(config(subject)).problems.data == "cycle-hop"
    for subject in TOLD:
        assert plan(config(subject)).problems.data == "cycle-hop-told"
    assert plan(config("soft")).problems.data == "arithmetic"
    assert plan(config("codi-gpt2")).problems.data == "y"
    assert config("no-recurrence").loading.model == "experiments/records/latent/no_recurrence"
    assert config("codi-gpt2").loading.model == "x"
    soft = config("soft", device="cpu").loading
    assert (soft.model, soft.kind, soft.steps) == ("smollm2-135m", "soft-thinking", 4)
    for loaded in (config("soft"), config("coconut")):
        with pytest.raises(InputError, match=r"^The device 'cuda:7' cannot be used here|^There is"):
            _ = replace(loaded, device="cuda:7").loading


# ---------------------------------------------------------------- a study


def test_coconut_has_every_part_and_the_notes_say_so(thought):
    assert status(thought) == dict.fromkeys(PARTS, "done")
    kept = notes(thought.folder)["study"]
    assert [(row["part"], row["status"]) for row in kept] == list(status(thought).items())
    assert notes(thought.folder)["warnings"] == []
    for part in PARTS[1:]:
        store = Store.open(thought.folder / part)
        assert store.keys() and store.manifest.data == runs.identity(Store.open(thought.folder))
    null = Store.open(thought.folder / "necessity").rows("necessity")
    assert {row["flip"] for row in null if row["operator"] == "identity"} == {0.0}


def test_a_second_start_computes_nothing(thought, monkeypatch):
    def never(*_: Any, **__: Any) -> Any:
        pytest.fail("nothing may be computed again")

    before = {part: Store.open(thought.folder / part).keys() for part in ("", *PARTS[1:])}
    for module, name in (
        (latent_rollout, "accuracy"),
        (latent_parts.necessity, "necessity"),
        (latent_parts, "influence"),
        (latent_parts, "released_influence"),
        (latent_parts, "_commitment"),
        (latent_parts, "calibrate"),
    ):
        monkeypatch.setattr(module, name, never)
    again = study(thought.folder.parent)
    assert status(again) == dict.fromkeys(PARTS, "done")
    assert {part: Store.open(thought.folder / part).keys() for part in before} == before


def test_other_settings_in_the_same_folder_are_refused(thought):
    with pytest.raises(StoreError, match=r"seed = 1 and this one has 2: pick another folder\.$"):
        study(thought.folder.parent, seed=2)


def test_a_subject_without_latents_is_scored_and_the_rest_left_out_in_words(tmp_path):
    save_subject(random_subject("no_latents"), tmp_path / "weights")
    made = study(tmp_path, subject="no-latents", model=str(tmp_path / "weights"), n=2)
    assert status(made) == {"rollout": "done"} | dict.fromkeys(PARTS[1:], "skipped")
    said = made.parts[1].said[0]
    assert said.startswith("no_latents has no latent steps, so there is nothing to intervene on")
    assert notes(made.folder)["warnings"] == [f"{p} was left out: {said}" for p in PARTS[1:]]
    assert {path.name for path in made.folder.iterdir()}.isdisjoint(PARTS)


def test_operators_that_change_nothing_are_left_out_in_words(tmp_path):
    save_subject(random_subject("pause"), tmp_path / "weights")
    silent = InfluenceSettings(operators=("resample",))

    def planned(config: Config) -> Plan:
        return replace(small(config), influence=silent, released=None, commitment=None)

    made = study(tmp_path, planned, subject="pause", model=str(tmp_path / "weights"), n=2)
    assert status(made) == {"rollout": "done", "necessity": "done", "influence": "skipped"}
    assert made.parts[2].said[0].startswith("None of resample changed anything at any step")


def test_bad_rows_are_told_and_a_missing_file_ends_the_study(tmp_path, monkeypatch):
    drawn = CycleHop().draw(7, 0)
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in drawn]
    lines = [json.dumps({**r, "steps": list(p.steps)}) for r, p in zip(rows, drawn, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:3], "{", *lines[3:]]) + "\n")
    monkeypatch.setattr(
        latent_study,
        "_jobs",
        lambda *given, real=latent_study._jobs: {"rollout": real(*given)["rollout"]},
    )
    made = study(tmp_path, data=str(tmp_path / "rows.jsonl"))
    assert made.parts[0].said == ("1 marked.",)
    assert notes(made.folder)["warnings"][0] == "1 marked."
    with pytest.raises(InputError, match=r"^There is no file nowhere\.jsonl: give a JSONL file"):
        study(tmp_path / "other", data="nowhere.jsonl")
    assert not (tmp_path / "other").exists()


def test_the_command_ends_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        latent_study.main(["--out", str(tmp_path / "o"), "--data", "nowhere.jsonl"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("There is no file nowhere.jsonl: give a JSONL file")
    assert not (tmp_path / "o").exists()


def test_a_copy_holds_every_row_and_is_read_as_the_run(thought, tmp_path):
    copied = condense(thought.folder, tmp_path / "coconut")
    for part in ("", *PARTS[1:]):
        one, other = Store.open(thought.folder / part), Store.open(copied / part)
        assert len(other.keys()) == 1 and runs.table_names(other) == runs.table_names(one)
        for name in runs.table_names(one):
            assert other.rows(name) == one.rows(name)
        if part:
            assert other.manifest.data == runs.identity(Store.open(copied))
    mine, theirs = (latent_runs.open_run(folder) for folder in (thought.folder, copied))
    assert (mine.problems, mine.calibration) == (theirs.problems, theirs.calibration)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subjects": ("coconut", "codi-gpt2")},
            "--subjects codi-gpt2: here are the subjects without a file of problems, "
            f"{', '.join(latent_all.SUBJECTS)}; for others run experiments.latent_study.",
        ),
        ({"subjects": ("soft", "soft")}, "--subjects soft soft: name each subject once."),
        ({"workers": 0}, "--workers 0: give at least 1."),
    ],
)
def test_all_refuses_what_it_cannot_run(wrong, message):
    with says(InputError, message):
        latent_all.Config(**wrong)


def test_every_command_is_one_that_its_module_takes(tmp_path):
    asked = latent_all.Config(out=tmp_path / "r", work=tmp_path / "w", size="paper")
    made = latent_all.parts(asked)
    assert set(made) == set(SUBJECTS) - set(PUBLISHED) and len(made) == 9
    for name, (module, *words) in made.items():
        assert module == "experiments.latent_study"
        read = tyro.cli(Config, args=words)
        assert (read.subject, read.size, read.folder) == (name, "paper", tmp_path / "w" / name)
        assert read.records == tmp_path / "r" / "latent_study"


def test_one_failed_part_fails_the_whole_and_the_drawing_comes_last(tmp_path, monkeypatch, capsys):
    commands = {"good": ["json.tool", "--help"], "bad": ["no.such.module"]}
    monkeypatch.setattr(latent_all, "parts", lambda _: commands)
    with pytest.raises(SystemExit) as ended:
        latent_all.main(["--work", str(tmp_path), "--no-draw"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "bad failed:" in said and "good failed" not in said
    drawn: list[Any] = []
    monkeypatch.setattr(latent_all, "in_turn", lambda *_, **__: iter(()))
    monkeypatch.setattr(latent_all, "execute", lambda *given: drawn.append(given))
    list(latent_all.run(latent_all.Config(work=tmp_path, out=tmp_path / "r"), QUIET))
    name, command, _ = drawn[0]
    assert (name, command[:3]) == ("figures", ["figures", "--records", str(tmp_path / "r")])
