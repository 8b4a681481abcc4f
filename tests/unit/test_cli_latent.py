"""`interp latent train|rollout|necessity|influence|commitment`: printed, written, exited with."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import interp.results as results
from interp import cli as interp_cli
from interp.cli import latent as cli_latent
from interp.data.cycle_hop import CycleHop
from interp.jobs import latent_parts, latent_rollout, latent_train, runs
from tests.latent_brief import make_brief
from tests.unit.test_cli import Ended

COCONUT = "experiments/records/latent/coconut"
PARTS = ("train", "rollout", "necessity", "influence", "commitment")


@pytest.fixture
def interp(capsys, monkeypatch):
    """`interp("latent", part, ...)`: run a command to its end, on a wide page."""
    monkeypatch.setenv("COLUMNS", "160")
    make_brief(monkeypatch)
    for name in interp_cli.QUIET:
        monkeypatch.setenv(name, interp_cli.QUIET[name])

    def run(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            interp_cli.main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        return Ended(stop.value.code, *capsys.readouterr())

    return run


def cells(text: str, first: str) -> list[str]:
    """The cells of the printed row that starts with `first`."""
    rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in text.splitlines()]
    return next([cell.strip() for cell in row] for row in rows if row[:1] == [first])


def test_from_problems_to_every_part(interp, tmp_path):
    """A row of a file is bad: it is marked, and every command exits with 3."""
    drawn = CycleHop().draw(16, 0)
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in drawn]
    lines = [json.dumps({**r, "steps": list(p.steps)}) for r, p in zip(rows, drawn, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(['{"id": "half', *lines]) + "\n")
    run = tmp_path / "run"
    data = ("--data", tmp_path / "rows.jsonl", "--calibration", 6)
    done = interp("latent", "rollout", COCONUT, *data, "--out", run)
    assert (done.status, done.err) == (3, "")
    assert f"1 marked. Records and report: {run}\n" in done.out
    assert cells(done.out, "coconut")[2:] == ["0", "10"]

    words = ("--operators", "zero", "swap", "--draws", 1, "--classes", 8)
    done = interp("latent", "necessity", run, *words)
    assert (done.status, done.err) == (3, "")
    assert "Identity null: 0.0 flips (0.0 is right).\n" in done.out
    assert "Answers drawn at random would flip 0.875.\n" in done.out
    head = cells(done.out, "operator")
    steps = ["step 1", "step 2", "step 3", "step 4", "step 1+2+3+4"]
    assert head == ["operator", *steps, "n problems"]
    assert cells(done.out, "zero")[5:] == ["-", "10"] and cells(done.out, "swap")[1] == "-"
    assert f"1 marked. Records and report: {run / 'necessity'}\n" in done.out

    done = interp("latent", "influence", run, "--operators", "zero")
    assert (done.status, done.err) == (3, "")
    assert "Identity null: 0.0 nats over all t < s (0.0 is right).\n" in done.out
    assert cells(done.out, "operator")[1:5] == ["locality", "span", "early out", "late in"]
    assert "DIAGNOSTIC" not in done.out and cells(done.out, "equal edges")[5] == "-"
    words = ("--operators", "zero", "--preset", "released-code")
    done = interp("latent", "influence", run, *words)
    assert "DIAGNOSTIC: these read-outs are faulty on purpose; this is no result.\n" in done.out
    null = re.search(r"Identity null: ([\d.]+) nats", done.out)
    assert null and float(null[1]) > 0.01

    words = ("--samples", 6, "--sigma", 1.0, "--shuffles", 1)
    done = interp("latent", "commitment", run, *words)
    assert (done.status, done.err) == (3, "")
    assert cells(done.out, "read_out")[1] == "0" and cells(done.out, "probe")[1] == "1"
    for part in ("", "necessity", "influence", "influence-released-code", "commitment"):
        assert (run / part / "report.html").stat().st_size > 1000


def test_a_trained_folder_is_rolled_out_with_status_0(interp, tmp_path):
    words = ("--updates", 1, "--held-out", 2, "--threads", 1, "--out", tmp_path / "made")
    done = interp("latent", "train", "cycle-no-latents", *words)
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^1 updates in \d+ s of CPU time: ", done.out, re.MULTILINE)
    words = ("--n", 2, "--calibration", 2, "--out", tmp_path / "run")
    done = interp("latent", "rollout", tmp_path / "made", *words)
    assert (done.status, done.err) == (0, "")
    assert f"0 marked. Records and report: {tmp_path / 'run'}\n" in done.out
    done = interp("latent", "necessity", tmp_path / "run")
    assert done.sentence == (
        "no_latents has no latent steps, so there is nothing to intervene on: use it as the "
        "control that it is, in `accuracy`."
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "hint"),
    [((), ""), (("rolout",), " Did you mean 'rollout'?"), (("run",), "")],
)
def test_a_part_must_be_named(interp, words, hint):
    assert interp("latent", *words).sentence == (
        "interp latent: say which part, one of train, rollout, necessity, influence, commitment; "
        f"`interp latent train --help` tells its arguments.{hint}"
    )


def test_the_help_of_latent_says_what_each_part_does(interp):
    for word in ("-h", "--help"):
        done = interp("latent", word)
        assert done.status == 0
        lines = done.out.splitlines()
        assert lines[0] == "usage: interp latent PART [-h] ..."
        assert [line.split()[0] for line in lines[2:]] == list(PARTS)
        assert all(len(line.split()) > 5 for line in lines[2:])


def test_the_help_of_interp_lists_the_five(interp):
    done = interp("--help")
    assert done.status == 0 and all(f"latent-{part}" in done.out for part in PARTS)


ON_RUN = "RUN --out --model --rows --device --threads"
ARGUMENTS = {
    "train": "RECIPE --out --data --seed --updates --held-out --threads",
    "rollout": "MODEL --out --data --n --calibration --seed --kind --steps --base --allow-pickle "
    "--lora-alpha --token-rows --dtype --device --threads",
    "necessity": f"{ON_RUN} --operators --edge --draws --seeds --classes --per-step",
    "influence": f"{ON_RUN} --operators --edge --seeds --target --per-step --preset --threshold "
    "--exact",
    "commitment": f"{ON_RUN} --samples --sigma --dropout --labels --shuffles --seed",
}


@pytest.mark.parametrize("part", ARGUMENTS)
def test_the_help_of_each_part_names_its_arguments(interp, part):
    done = interp("latent", part, "--help")
    assert done.status == 0
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*|\b(?:RUN|MODEL|RECIPE)\b", done.out))
    wanted = set(ARGUMENTS[part].split())
    assert wanted <= flags
    known = wanted | {"--help", "MODEL"} | {f"--no-{flag[2:]}" for flag in wanted}
    assert flags <= known, flags - known


# ---------------------------------------------------------------- options


def words_of(options: dict[str, Any]) -> list[str]:
    """The options as a user writes them."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag)
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


OTHERS: dict[str, dict[str, Any]] = {
    "necessity": {
        "operators": ("rotate:30", "mean"), "edge": "cache", "draws": 2, "seeds": 4, "classes": 5,
        "per_step": 2,
    },
    "influence": {
        "operators": ("mean",), "edge": "recurrence", "seeds": 2, "target": "next_step",
        "per_step": 3, "threshold": 0.25, "exact": True,
    },
    "commitment": {
        "samples": 7, "sigma": 0.5, "dropout": 0.25, "labels": "answer", "shuffles": 3, "seed": 9,
    },
}  # fmt: skip
WHERE = {"rows": 33, "model": "M", "device": "cuda:0", "out": "O"}


@pytest.mark.parametrize("part", OTHERS)
def test_every_option_of_a_part_reaches_its_job(interp, monkeypatch, part):
    seen: list[Any] = []

    def job(*given: Any) -> Any:
        seen.extend(given)
        raise latent_parts.InputError("seen.")

    monkeypatch.setattr(latent_parts, f"find_{part}", job)
    done = interp("latent", part, "R", *words_of({**OTHERS[part], **WHERE}))
    assert done.sentence == "seen."
    where, settings = asdict(seen[0]), asdict(seen[1])
    assert where == {**WHERE, "run": Path("R"), "out": Path("O")}
    plain = asdict(type(seen[1])())
    assert settings == {**plain, **OTHERS[part]}
    assert all(settings[name] != plain[name] for name in OTHERS[part])
    assert set(plain) - set(OTHERS[part]) <= {"preset"}
    command = getattr(cli_latent, f"Latent{part.capitalize()}")
    own = {each.name for each in fields(command)}
    assert own == {*plain, *WHERE, "run", "threads"}


def test_every_option_of_a_rollout_reaches_its_job(interp, monkeypatch):
    loading = {"base": "B", "allow_pickle": True, "lora_alpha": 16.0, "token_rows": "as-named"}
    loading |= {"kind": "soft-thinking", "steps": 3, "dtype": "float64", "device": "cpu"}
    problems = {"data": "prosqa", "n": 9, "calibration": 4, "seed": 5}
    seen: dict[str, Any] = {}

    def job(*given: Any, **more: Any) -> Any:
        seen.update(more, loading=asdict(given[0]), problems=asdict(given[1]))
        raise latent_parts.InputError("seen.")

    monkeypatch.setattr(latent_rollout, "rollout", job)
    done = interp("latent", "rollout", "M", "--out", "O", *words_of({**loading, **problems}))
    assert done.sentence == "seen."
    assert seen["loading"] == {**loading, "model": "M"}
    assert (seen["problems"], seen["out"]) == (problems, Path("O"))


def test_every_option_of_a_training_reaches_its_job(interp, monkeypatch, tmp_path):
    given = {"data": tmp_path / "d", "seed": 4, "updates": 5, "held_out": 6, "out": tmp_path / "o"}
    seen: list[Any] = []

    def job(settings: Any, **_: Any) -> Any:
        seen.append(settings)
        raise latent_parts.InputError("seen.")

    monkeypatch.setattr(latent_train, "train_subject", job)
    assert interp("latent", "train", "cycle-codi", *words_of(given)).sentence == "seen."
    assert asdict(seen[0]) == {**given, "recipe": "cycle-codi"}
    chosen = seen[0].chosen()
    assert (chosen.kind, chosen.seed, chosen.updates) == ("codi", 4, 5)


# ---------------------------------------------------------------- what is printed


def test_warnings_are_said_once_and_marks_end_in_status_3(tmp_path, monkeypatch):
    tables = {"necessity": [{"warning": "few"}] * 2 + [{"warning": ""}], "early_stop": [{"k": 0}]}
    monkeypatch.setattr(runs, "rows", lambda store, name: tables.get(name, []))
    store = SimpleNamespace(folder=tmp_path)
    for marked, status in ((0, 0), (2, 3)):
        page = io.StringIO()
        done = SimpleNamespace(store=store, marked=marked)
        assert cli_latent._end(Console(file=page), done) == status
        assert page.getvalue().count("Warning: few\n") == 1
        assert f"{marked} marked. Records and report: {tmp_path}\n" in page.getvalue()


def test_a_table_by_step_has_a_row_an_operator_and_leaves_the_identity_out():
    rows = [
        {"operator": "zero", "steps": "10", "flip": 0.5, "flip_low": 0.4, "flip_high": 0.6},
        {"operator": "zero", "steps": "2", "flip": None, "flip_low": None, "flip_high": None},
        {"operator": "identity", "steps": "2", "flip": 0.0, "flip_low": 0.0, "flip_high": 0.1},
    ]
    made, steps = cli_latent.by_step([{**row, "n_problems": 4} for row in rows], "flip")
    assert steps == ["step 2", "step 10"]
    (zero,) = made
    assert (zero["step 10"], zero["step 10_high"], zero["step 2"]) == (0.5, 0.6, None)


def test_a_problem_that_has_no_such_step_leaves_the_null_out(interp, tmp_path, monkeypatch):
    """Of chains in text that are over, the identity has no flips at all at the late steps."""
    flips = {"flip": None, "flip_low": None, "flip_high": None, "n_problems": 0, "steps": "1"}
    rows = {"necessity": [{"operator": "identity", **flips}, {"operator": "zero", **flips}]}
    store: Any = SimpleNamespace(folder=tmp_path, rows=lambda name: rows.get(name, []))
    monkeypatch.setattr(runs, "rows", lambda store, name: rows.get(name, []))
    made = SimpleNamespace(store=store, marked=0)
    monkeypatch.setattr(latent_parts, "find_necessity", lambda *_: made)
    done = interp("latent", "necessity", tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "Identity null: None flips (0.0 is right).\n" in done.out


def test_a_stopped_command_says_that_it_goes_on(interp, tmp_path, monkeypatch):
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(latent_rollout, "accuracy", stopped)
    words = ("--n", 2, "--calibration", 2, "--out", tmp_path / "run")
    done = interp("latent", "rollout", COCONUT, *words)
    assert (done.status, done.err) == (
        130,
        "interp: stopped; what was finished is kept, start again to go on.\n",
    )
    assert results.Store.open(tmp_path / "run").keys() == []
