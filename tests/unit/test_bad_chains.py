"""Wrong calls about chains of thought end in a sentence, with nothing run or written.

All of them are made once, in a process of its own: as a user has them, without the checks of shapes
and types that tests run with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import bad_chains
from experiments.bad_chains import BAD_ROWS, COMMANDS, PYTHON
from experiments.refusals import Found

ROOT = Path(__file__).parents[2]
PLAIN = ("problems", "interp tts, a row")
"""Parts whose sentences are reasons that a row is marked with: no capital, no full stop."""


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Found]:
    """How every wrong call ended, by part and call."""
    command = [sys.executable, "-m", "experiments.bad_chains", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    made = [Found(**json.loads(line)) for line in done.stdout.splitlines()]
    assert (done.returncode == 0) == all(each.holds for each in made)
    return {(each.part, each.call): replace(each, wrote=tuple(each.wrote)) for each in made}


def cases() -> list[tuple[str, str]]:
    """Every wrong call by part and call, in the order of the rows."""
    commands = [(f"interp {name}", words) for name, many in COMMANDS.items() for words in many]
    calls = [(wrong.part, wrong.call) for wrong in PYTHON]
    return [*calls, *commands, *(("interp tts, a row", name) for name in BAD_ROWS)]


@pytest.mark.parametrize("case", [pytest.param(c, id=" ".join(c)) for c in cases()])
def test_a_wrong_call_is_refused_in_a_sentence_with_nothing_run_or_written(found, case):
    row = found[case]
    assert row.holds, row
    assert (row.forwards, row.wrote) == (0, ()) and "Traceback" not in row.sentence
    commanded = case[0].startswith("interp ") and case[0] not in PLAIN
    assert row.status == (2 if commanded else None)
    assert "\n" not in row.sentence
    if row.error != "usage" and case[0] not in PLAIN and "safetensors file: " not in row.sentence:
        assert row.sentence.endswith((".", "?")) or case[1] == "a step without a score", row


def test_every_case_is_one_of_its_own(found):
    assert list(found) == cases() and len(found) > 200


SENTENCES = {
    ("sets", "no true step"): (
        "No step scores at least 0.3, so none is true thinking and there is no direction to find: "
        "the 11 numeric steps score from 0 to 0, 0 of them saturated. No single step's numbers "
        "move the answer so far; take other problems, or give a smaller lowest."
    ),
    ("step graph", "a cycle"): (
        "The steps 'b' -> 'c' -> 'b' go on from each other in a circle: a step comes before all "
        "that goes on from it."
    ),
    ("step graph", "an unknown parent"): (
        "The step 'b' goes on from 'strat', which is no step; there are 'start', 'b'. Did you mean "
        "'start'?"
    ),
    ("problems", "spans with a hole"): (
        "No span covers 'take 17.' in characters 3 to 12: the spans must cover the chain but for "
        "white space."
    ),
    ("steering tests", "items of one problem"): (
        "The items come from 1 problem, and the layer is chosen on other problems than it is "
        "reported on: give items of at least 2 problems, better 40."
    ),
    ("interp tts", "steer-tst run"): (
        "interp tts steer-tst: there is no file of problems of that name, and the parts are "
        "direction, steer-test, prune, compare. Did you mean 'steer-test'?"
    ),
    ("interp tts direction", "run/direction"): (
        "run/direction holds records of 'tts_direction', not scores of steps: name the folder that "
        "`interp tts INPUT.jsonl --out DIR` wrote."
    ),
    ("interp tts steer-test", "one"): (
        "one holds 1 scored chain, and the layer is chosen on other problems than it is reported "
        "on: score at least 2 problems, better 40."
    ),
    ("interp tts steer-test", "run --layers 9"): (
        "--layers 9: planted-steps has the inputs of blocks 0 to 0, and 1 for the final output."
    ),
    ("interp tts steer-test", "run --direction other.safetensors"): (
        "The direction at 1.resid_post was found in tiny-llama (weights dbbdbaad) and the model is "
        "planted-steps (weights 7afca310): load the one that it belongs to, or fit it anew."
    ),
    ("interp tts steer-test", "run --direction flipped.safetensors"): (
        "flipped.safetensors is damaged: its vector is not the one that was saved."
    ),
    ("interp tts steer-test", "run --direction all.safetensors"): (
        "The direction was made from all 4 problems that could have items, so none is left to test "
        "it on: give one of another run, or leave --direction out to have it fitted on the "
        "selection problems."
    ),
    ("interp tts prune", "run --export 0.3"): (
        "--export 0.3 is none of the fractions 0 0.25 0.5 0.75 1: add it to --fractions, or export "
        "one of these."
    ),
    ("interp tts compare", "run --out run"): (
        'run holds a run with experiment = "tts" and this one has "tts_compare": pick another '
        "folder."
    ),
    ("interp tts, a row", "only a closed think block"): (
        "empty chain: there is no step before the final answer"
    ),
}


@pytest.mark.parametrize("case", SENTENCES, ids=str)
def test_the_sentence_word_for_word(found, case):
    assert found[case].sentence == SENTENCES[case]


# ---------------------------------------------------------------- the instrument


def test_what_a_command_writes_is_noted_and_undone():
    bad_chains.warm()
    folder = bad_chains.materials()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = bad_chains.commanded("tts prune", "run --fractions 0.5 1 --random 0 --no-decode")
    assert (done.status, done.error, done.holds) == (0, "", False)
    assert done.forwards > 0 and "made/manifest.json" in done.wrote
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_row_that_is_not_marked_does_not_hold(monkeypatch):
    monkeypatch.setattr(bad_chains, "BAD_ROWS", {"sound": {**bad_chains.GOOD, "id": "z"}})
    (row,) = bad_chains.marked()
    assert (row.error, row.sentence, row.holds) == ("", "not marked", False)


def test_the_table_says_no_where_a_call_is_accepted(monkeypatch, capsys):
    monkeypatch.setattr(bad_chains, "rows", lambda: [Found("sets", "fine", "", "accepted", 0)])
    with pytest.raises(SystemExit) as stop:
        bad_chains.main([])
    assert stop.value.code == 1
    assert "0 of 1 are refused or marked, with nothing run or written." in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^usage: python -m experiments\.bad_chains \[--json\]$"):
        bad_chains.main(["--jsn"])
