"""`interp align`: its options, what it prints, writes and exits with, and how it goes on."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import interp.results as results
from interp import cli as interp_cli
from interp.cli.align import SHOWN, Align
from interp.jobs import align as job
from interp.jobs import tts
from tests.unit.test_cli import Ended
from tests.unit.test_cli_latent import cells, words_of
from tests.unit.test_jobs_align import NETS, make_small, quick, rows_of, written

RUN = ("align", "equality", "--folder", NETS / "equality", "--nets", 2, "--sites", 1)


@pytest.fixture
def interp(capsys, monkeypatch):
    """`interp("align", task, ...)`: run a small command to its end, on a wide page."""
    monkeypatch.setenv("COLUMNS", "160")
    make_small(monkeypatch)
    for name in interp_cli.QUIET:
        monkeypatch.setenv(name, interp_cli.QUIET[name])

    def run(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            interp_cli.main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        return Ended(stop.value.code, *capsys.readouterr())

    return run


def test_a_small_run_prints_each_verdict_with_its_reason(interp, tmp_path):
    done = interp(*RUN, "--out", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    foreseen, _, told = done.out.partition("equality, tested for both_equality:\n")
    assert foreseen == (
        "With --nets 2 FOUND cannot be said: it takes 5 or more.\n"
        "With one map, site and size FOUND cannot be said, for want of a runner-up: name several "
        "of --maps, --sites or --sizes.\n"
    )
    assert told
    assert cells(done.out, "map") == list(SHOWN)
    shown = cells(done.out, "orthogonal")
    (row,) = rows_of(tmp_path / "run")["align_verdicts"]
    assert shown[:3] == ["orthogonal", "1", "8"] and shown[-1] == row["verdict"] == "NOT FOUND"
    assert shown[3].startswith(f"{row['iia']:.3g} (")
    assert f"orthogonal: {row['reason']}\n" in done.out
    assert done.out.endswith(f"Records and report: {tmp_path / 'run'}\n")
    before = written(tmp_path / "run")
    again = interp(*RUN, "--out", tmp_path / "run")
    assert (again.status, again.out) == (0, done.out) and written(tmp_path / "run") == before


def test_a_stopped_command_keeps_what_is_finished_and_goes_on(interp, tmp_path, quick, monkeypatch):
    seen: list[Any] = []
    fitted = job.row_of

    def stopped(bench: Any, fit: Any) -> Any:
        seen.append(fit)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return fitted(bench, fit)

    monkeypatch.setattr(job, "row_of", stopped)
    done = interp(*RUN, "--out", tmp_path / "run")
    assert (done.status, done.err) == (
        130,
        "interp: stopped; what was finished is kept, start again to go on.\n",
    )
    assert "Traceback" not in done.out and len(results.Store.open(tmp_path / "run").keys()) == 1
    assert interp(*RUN, "--out", tmp_path / "run").status == 0
    assert seen[1] == seen[2] and len(seen) == len(set(seen)) + 1
    assert len(rows_of(tmp_path / "run")["align_verdicts"]) == 1


__all__ = ["quick"]

# ---------------------------------------------------------------- options

ARGUMENTS = (
    "TASK --out --algorithm --rivals --maps --sites --sizes --budget --nets --folder --model "
    "--revision --dtype --solved-only --updates --twins-everywhere --waive-rival --threads"
)


def test_the_help_names_its_arguments(interp):
    done = interp("align", "--help")
    assert done.status == 0
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*|\bTASK\b", done.out))
    wanted = set(ARGUMENTS.split())
    assert flags == wanted | {"--help", "--no-twins-everywhere", "--no-solved-only"}
    assert {f"--{each.name.replace('_', '-')}" for each in fields(Align)} - {"--task"} <= wanted
    assert "align" in interp("--help").out


OPTIONS: dict[str, Any] = {
    "algorithm": "and_or", "rivals": ("and_or_and", "x"), "maps": ("mask", "revnet-2x4"),
    "sites": ("1", "3"), "sizes": (2, 4), "budget": "standard", "updates": 7, "nets": 3,
    "folder": Path("F"), "model": "M", "twins_everywhere": True,
    "revision": "step0", "dtype": "float64", "solved_only": True,
}  # fmt: skip


@pytest.mark.parametrize("options", [OPTIONS, {"waive_rival": "none is known"}])
def test_every_option_reaches_the_job(interp, monkeypatch, options):
    seen: dict[str, Any] = {}

    def align(settings: job.Settings, **more: Any) -> Any:
        seen.update(more, settings=settings)
        raise job.InputError("seen.")

    monkeypatch.setattr(job, "align", align)
    assert interp("align", "distributive", "--out", "O", *words_of(options)).sentence == "seen."
    plain = asdict(job.Settings(task="distributive"))
    assert asdict(seen["settings"]) == {**plain, **options} and seen["out"] == Path("O")
    assert all(plain[name] != options[name] for name in options)


def test_no_option_is_left_out():
    given = {*OPTIONS, "waive_rival", "task"}
    assert given == {each.name for each in fields(job.Settings)}
    assert given | {"out", "threads"} == {each.name for each in fields(Align)}


def test_threads_are_set_before_anything_is_run(interp, monkeypatch):
    seen: list[int | None] = []
    monkeypatch.setattr(tts, "set_threads", seen.append)
    row = {**dict.fromkeys(SHOWN, 0.5), "algorithm": "a", "map": "mask", "reason": "[why]"}
    monkeypatch.setattr(job, "align", lambda *_, **__: SimpleNamespace(verdicts=[row]))
    done = interp("align", "equality", "--out", "O", "--threads", 3)
    assert seen == [3] and "mask: [why]\n" in done.out
    assert done.out.endswith("Records and report: O\n")


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("equalty",), "There is no alignment task 'equalty'; there are: equality, distributive, "
         "ioi, multiplication. Did you mean 'equality'?"),
        (("ioi",), "ioi needs a language model: give --model."),
        (("equality", "--maps"), "--maps nothing: name at least one, and each once."),
        (("equality", "--waive-rival", ""), "--waive-rival '': give the reason in words, for it "
         "is printed."),
        (("equality", "--threads", 0), "--threads 0: give 1 to 1024."),
    ],
)  # fmt: skip
def test_bad_arguments_end_in_a_sentence_with_nothing_written(interp, tmp_path, words, sentence):
    done = interp("align", *words, "--out", tmp_path / "run")
    assert done.sentence == sentence and not (tmp_path / "run").exists()


def test_a_budget_is_one_of_three(interp, tmp_path):
    done = interp("align", "equality", "--budget", "smok", "--out", tmp_path / "run")
    assert done.status == 2 and not (tmp_path / "run").exists()
    assert "smoke" in done.out + done.err and "Traceback" not in done.out + done.err
