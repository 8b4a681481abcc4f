"""Wrong calls about alignment end in a sentence, with nothing run, trained or written.

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
import torch
from torch import nn

from experiments import bad_alignment
from experiments.bad_alignment import COMMANDS, PYTHON, worked
from experiments.refusals import Ended, Found, Wrong
from interp.errors import InputError

ROOT = Path(__file__).parents[2]
ALIGN = "interp align"


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Found]:
    """How every wrong call ended, by part and call."""
    command = [sys.executable, "-m", "experiments.bad_alignment", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    made = [Found(**json.loads(line)) for line in done.stdout.splitlines()]
    assert (done.returncode == 0) == all(each.holds for each in made)
    return {(each.part, each.call): replace(each, wrote=tuple(each.wrote)) for each in made}


def cases() -> list[tuple[str, str]]:
    """Every wrong call by part and call, in the order of the rows."""
    return [*((wrong.part, wrong.call) for wrong in PYTHON), *((ALIGN, each) for each in COMMANDS)]


@pytest.mark.parametrize("case", [pytest.param(c, id=" ".join(c)) for c in cases()])
def test_a_wrong_call_is_refused_in_a_sentence_with_nothing_run_or_written(found, case):
    row = found[case]
    assert row.holds, row
    assert (row.forwards, row.wrote) == (0, ()) and "Traceback" not in row.sentence
    assert row.status == (2 if case[0] == ALIGN else None)
    assert "\n" not in row.sentence
    if row.error != "usage":
        assert row.sentence.endswith((".", "?")), row


def test_every_case_is_one_of_its_own(found):
    assert list(found) == cases() and len(found) > 95


SENTENCES = {
    ("CausalModel", "a cycle of two"): (
        "mine has a cycle among x, y: an algorithm must be acyclic, so cut one of these from its "
        "parents."
    ),
    ("maps", "a map without an inverse"): (
        "OneWay has no method `inverse`, so what is swapped in its coordinates could not be mapped "
        "back to states: give a module with forward and inverse."
    ),
    ("tables", "a variable that no input varies"): (
        "No input varies 'left' of both_equality: on all 16 it is the same, so no interchange of "
        "it changes anything; draw other inputs."
    ),
    ("tables", "a train/test leak"): (
        "1 inputs of the test split also stand in the training split: split by input, not by pair, "
        "and draw both apart."
    ),
    ("networks", "a site that the model lacks"): (
        "The network has no layer '7'; its layers: 0, 1, 2, 3, 4, 5, 6."
    ),
    (ALIGN, "equality --folder distributive"): (
        "--folder distributive: its networks are not of the shape that equality has (16 numbers "
        "in, 3 hidden layers as wide); give a folder of networks for this task."
    ),
    (ALIGN, "equality --folder flipped"): (
        "flipped/nets.safetensors has not the hash in its manifest, so it is another file: restore "
        "it, or train again."
    ),
    (ALIGN, "equality --waive-rival ''"): (
        "--waive-rival '': give the reason in words, for it is printed."
    ),
    (ALIGN, "ioi"): "ioi needs a language model: give --model.",
    (ALIGN, "equality --sites 4"): "--sites 4: equality has the sites 1, 2, 3.",
    (ALIGN, "equality --maps difference"): (
        "--maps difference for both_equality: A difference of means is one direction for each "
        "variable, not 8: give size 1."
    ),
    (ALIGN, "equality --folder equality --out run"): (
        'run holds a run with settings.task = "another" and this one has "equality": pick another '
        "folder."
    ),
    (ALIGN, "equality --folder equality --out equality"): (
        "equality holds records of 'train_alignment_nets', not of an alignment: pick another "
        "folder."
    ),
}


@pytest.mark.parametrize("case", SENTENCES, ids=str)
def test_the_sentence_word_for_word(found, case):
    assert found[case].sentence == SENTENCES[case]


# ---------------------------------------------------------------- the instrument


def refused() -> None:
    raise InputError("No.")


def trained() -> None:
    net = nn.Sequential(nn.Linear(2, 1))
    net(torch.ones(1, 2)).sum().backward()
    refused()


@pytest.mark.parametrize(("make", "forwards"), [(refused, 0), (trained, 2)])
def test_a_network_that_is_run_or_trained_before_a_refusal_does_not_hold(make, forwards):
    row = bad_alignment.asked(Wrong("tables", "late", lambda _: make()))
    assert (row.sentence, row.forwards, row.holds) == ("No.", forwards, not forwards)


def test_a_command_that_trains_does_not_hold(monkeypatch, tmp_path):
    def undone(folder: Path, argv: list[str]) -> Ended:
        nn.Sequential(nn.Identity())(torch.ones(1))
        return Ended(2, "", "interp: No.\n", (), 0)

    monkeypatch.setattr(bad_alignment, "materials", lambda: tmp_path)
    monkeypatch.setattr(bad_alignment, "undone", undone)
    row = bad_alignment.commanded("equality")
    assert (row.sentence, row.forwards, row.holds) == ("No.", 1, False)


def test_what_is_counted_ends_with_the_block():
    backward = torch.Tensor.backward
    with worked() as seen:
        pass
    nn.Sequential(nn.Identity())(torch.ones(1))
    assert seen == [] and torch.Tensor.backward is backward


def test_the_table_says_no_where_a_call_is_accepted(monkeypatch, capsys):
    made = [Found("maps", "fine", "", "accepted", 0), Found("maps", "bad", "InputError", "No.", 0)]
    monkeypatch.setattr(bad_alignment, "rows", lambda: made)
    with pytest.raises(SystemExit) as stop:
        bad_alignment.main([])
    assert stop.value.code == 1
    told = "1 of 2 are refused, with nothing run, trained, written or lost."
    assert told in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^usage: python -m experiments\.bad_alignment"):
        bad_alignment.main(["--jsn"])
