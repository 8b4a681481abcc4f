"""Wrong calls about latent reasoning end in a sentence, with nothing run or written.

All of them are made once, in a process of its own: as a user has them, without the checks of shapes
and types that tests run with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import bad_latent
from experiments.bad_latent import BAD_ROWS, COMMANDS, GOOD, PYTHON
from experiments.refusals import Found

ROOT = Path(__file__).parents[2]
ROWS = "interp latent rollout, a row"
"""The part whose sentences are reasons that a row is marked with: not always with a full stop."""


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Found]:
    """How every wrong call ended, by part and call."""
    command = [sys.executable, "-m", "experiments.bad_latent", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    made = [Found(**json.loads(line)) for line in done.stdout.splitlines()]
    assert (done.returncode == 0) == all(each.holds for each in made)
    return {(each.part, each.call): replace(each, wrote=tuple(each.wrote)) for each in made}


def cases() -> list[tuple[str, str]]:
    """Every wrong call by part and call, in the order of the rows."""
    commands = [(f"interp {name}", words) for name, many in COMMANDS.items() for words in many]
    calls = [(wrong.part, wrong.call) for wrong in PYTHON]
    return [*calls, *commands, *((ROWS, name) for name in BAD_ROWS)]


@pytest.mark.parametrize("case", [pytest.param(c, id=" ".join(c)) for c in cases()])
def test_a_wrong_call_is_refused_in_a_sentence_with_nothing_run_or_written(found, case):
    row = found[case]
    assert row.holds, row
    assert (row.forwards, row.wrote) == (0, ()) and "Traceback" not in row.sentence
    commanded = case[0].startswith("interp ") and case[0] != ROWS
    assert row.status == (2 if commanded else None)
    assert "\n" not in row.sentence
    if row.error != "usage" and case[0] != ROWS:
        assert row.sentence.endswith((".", "?")), row


def test_every_case_is_one_of_its_own(found):
    assert list(found) == cases() and len(found) > 350


SENTENCES = {
    ("load_checkpoint", "kind='codi' without projection"): (
        "{folder}/plain holds no projection (prj.* or projector.*), so it is not codi."
    ),
    ("load_checkpoint", "half-lora"): (
        "{folder}/half-lora holds half of the LoRA pair of transformer.h.0.attn.c_attn: load both."
    ),
    ("load_subject", "about-kind"): (
        "{folder}/about-kind/latent.json names the kind 'coconutt'; there are coconut, codi, "
        "explicit, no_latents, no_recurrence, pause."
    ),
    ("operators", "resample on kv"): (
        "resample cannot swap keys and values: they hold positions, so take donors with "
        'Resample("same_position").'
    ),
    ("operators", "step 9"): (
        "coconut has steps 1 to 4, and zero is asked for step 9: name one of those."
    ),
    ("measures", "a calibration of 2 steps"): (
        "The calibration has 2 steps and coconut 4: calibrate this subject."
    ),
    ("interp latent rollout", "coconut --data overlap.jsonl --calibration 2"): (
        "Too few scored problems can be run: 0. The first of the others, '0': its question is "
        "that of the calibration problem '5'."
    ),
    ("interp latent rollout", "coconut --base plain"): (
        "coconut, which says itself what it is, takes no --base: leave it out."
    ),
    ("interp latent rollout", "plain --kind codi"): (
        "plain holds no projection (prj.* or projector.*), so it is not codi."
    ),
    ("interp latent necessity", "scores"): (
        "scores holds records of 'tts', not of latent steps: name the folder that "
        "`interp latent rollout MODEL --out DIR` wrote."
    ),
    ("interp latent necessity", "run --operators zero zero"): (
        "Operators zero, zero: name each once."
    ),
    ("interp latent influence", "run --model other"): (
        "other has other weights than the subject of run: name that one with --model, or roll it "
        "out again."
    ),
    ("interp latent commitment", "controlled"): (
        "no_latents has no latent steps, so there is nothing to intervene on: use it as the "
        "control that it is, in `accuracy`."
    ),
    (ROWS, "a calibration question"): (
        "its question is that of the calibration problem 'cycle-8-4-1-7'"
    ),
}


@pytest.mark.parametrize("case", SENTENCES, ids=str)
def test_the_sentence_word_for_word(found, case):
    told = found[case].sentence
    start = told.find("/bad-latent-")
    folder = told[: told.index("/", start + 1)] if start >= 0 else ""
    assert told == SENTENCES[case].format(folder=folder)


# ---------------------------------------------------------------- the instrument


@pytest.mark.parametrize(
    ("status", "rows"),
    [
        (0, []),  # not marked
        (3, [("bad", "marked")]),  # the good ones are lost
        (3, [(row["id"], "run") for row in GOOD]),  # not marked, and the status says so
    ],
)
def test_a_row_that_is_not_marked_does_not_hold(monkeypatch, tmp_path, status, rows):
    table = [{"id": name, "status": what, "reason": "why"} for name, what in rows]
    store = SimpleNamespace(rows=lambda _: table)
    monkeypatch.setattr(bad_latent, "materials", lambda: tmp_path)
    monkeypatch.setattr(bad_latent, "ran", lambda _: (status, "", ""))
    monkeypatch.setattr(bad_latent.results.Store, "open", lambda _: store)
    monkeypatch.setattr(bad_latent, "BAD_ROWS", {"bad": "{"})
    (row,) = bad_latent.marked()
    assert (row.error, row.sentence, row.holds) == ("", "not marked", False)
    good = [{"id": each["id"], "status": "run", "reason": None} for each in GOOD]
    table[:] = [*good, {"id": "bad", "status": "marked", "reason": "why"}]
    (row,) = bad_latent.marked()
    assert (row.error, row.sentence, row.holds) == (("marked", "why", True) if status else
                                                    ("", "not marked", False))  # fmt: skip


def test_the_table_says_no_where_a_call_is_accepted(monkeypatch, capsys):
    monkeypatch.setattr(bad_latent, "rows", lambda: [Found("measures", "fine", "", "accepted", 0)])
    with pytest.raises(SystemExit) as stop:
        bad_latent.main([])
    assert stop.value.code == 1
    assert "0 of 1 are refused or marked, with nothing run or written." in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^usage: python -m experiments\.bad_latent \[--json\]$"):
        bad_latent.main(["--jsn"])
