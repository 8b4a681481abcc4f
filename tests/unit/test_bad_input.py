"""Wrong calls of the intervention primitives end in a sentence, with nothing run or written.

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

from experiments import bad_input
from experiments.bad_input import COMMANDS, PYTHON, ended, subject
from experiments.refusals import Found, Wrong, called, counted
from interp.engine.identities import probe_ids

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Found]:
    """How every wrong call ended, by part and call."""
    command = [sys.executable, "-m", "experiments.bad_input", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    made = [Found(**json.loads(line)) for line in done.stdout.splitlines()]
    assert (done.returncode == 0) == all(each.holds for each in made)
    return {(each.part, each.call): replace(each, wrote=tuple(each.wrote)) for each in made}


def cases() -> list[tuple[str, str]]:
    """Every wrong call by part and call, in the order of the rows."""
    commands = [(f"interp {name}", words) for name, many in COMMANDS.items() for words in many]
    return [*((wrong.part, wrong.call) for wrong in PYTHON), *commands]


@pytest.mark.parametrize("case", [pytest.param(c, id=" ".join(c)) for c in cases()])
def test_a_wrong_call_is_refused_in_a_sentence_with_nothing_run_or_written(found, case):
    row = found[case]
    assert row.holds, row
    assert (row.forwards, row.wrote) == (0, ()) and "Traceback" not in row.sentence
    assert row.status == (2 if case[0].startswith("interp ") else None)
    assert "\n" not in row.sentence
    if row.error != "usage":
        assert row.sentence.endswith((".", "?")) or "safetensors file: " in row.sentence, row


def test_every_case_is_one_of_its_own(found):
    assert list(found) == cases() and len(found) > 200


SENTENCES = {
    ("sweep", "ZeroAblate('3.mlp_out') of 3 layers"): (
        "The model has no site '3.mlp_out': its layers are 0 to 2."
    ),
    ("path_patch", "('2.h1', '1.h0.q')"): (
        "2.h1 -> 1.h0.q: 1.h0.q is computed before any of its senders; name a later receiver."
    ),
    ("eap", "Rank has no gradient"): (
        "Rank(token=5) has no gradient, so nothing can be attributed to it: use one such as "
        "LogitDiff or LogProb."
    ),
    ("edits", "Knockout(positions=0, keys=0)"): (
        "Knockout(1.attn.pattern, positions=(0,), keys=(0,)) leaves query 0 of prompt 0 no key to "
        "attend to, so its row cannot sum to 1: pass renormalise=False, or leave the query out."
    ),
    ("edits", "Swap() of nothing"): "Swap(1.resid_post): give a basis or a map, one of them.",
    ("fit", "position=99"): (
        "capture of 1.resid_post: position 99 is past the end: prompt 0 has 8 tokens that the "
        "model sees, the last at position 7."
    ),
    ("interp path", "--through mlp"): (
        "invalid choice 'mlp' for argument '--through'. Expected one of ('direct', 'mlps', 'all')."
    ),
    ("interp patch", "--components mlp_out --by head"): (
        "mlp_out has no query heads, so it cannot be patched head by head: use attn.z, or --by "
        "layer."
    ),
    ("interp circuit", "pairs.jsonl"): (
        "One pair fits, and a circuit needs one to score on and one to measure."
    ),
    ("ablate", "mean without a reference"): (
        "The ablation 'mean' needs reference=Reference(name, prompts)."
    ),
}


@pytest.mark.parametrize("case", SENTENCES, ids=str)
def test_the_sentence_word_for_word(found, case):
    assert found[case].sentence == SENTENCES[case]


# ---------------------------------------------------------------- the instrument


def test_a_call_that_runs_a_prompt_is_counted_and_does_not_hold():
    def sound(model):
        return model.run(bad_input.CLEAN)

    found = called(Wrong("sweep", "nothing wrong", sound), subject())
    assert (found.error, found.sentence, found.forwards) == ("", "accepted", 1)
    assert not found.holds

    def late(model):
        model.run(bad_input.CLEAN)
        return model.run(bad_input.CLEAN, capture="9.mlp_out")

    found = called(Wrong("sweep", "wrong too late", late), subject())
    assert (found.error, found.forwards, found.holds) == ("SiteError", 1, False)
    assert called(Wrong("sweep", "it takes one to know", late, needs=1), subject()).holds


def test_an_error_of_another_kind_does_not_hold():
    found = called(Wrong("sweep", "a crash", lambda model: 1 // 0))
    assert (found.error, found.holds) == ("", False)
    assert found.sentence.startswith("ZeroDivisionError: ")


def test_a_held_row_needs_everything():
    held = Found("interp path", "--x", "usage", "No such option.", 0, status=2)
    assert held.holds
    for changed in ({"status": 1}, {"wrote": ("a",)}, {"forwards": 1}, {"error": ""}):
        assert not replace(held, **changed).holds


def test_the_count_leaves_no_hook_and_skips_the_probe():
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    model = subject()
    with pytest.raises(KeyError), counted() as forwards:
        model.run([probe_ids(model.sizes.d_vocab)])
        model.run([[5, 6]])
        raise KeyError
    assert forwards == [(1, 2)]
    assert not hooks


# ---------------------------------------------------------------- half-bad files


@pytest.mark.parametrize("command", ["patch", "path"])
def test_half_a_bad_file_is_marked_and_the_rest_is_run(command, monkeypatch):
    files = bad_input.FILES
    half = files["pairs"] + files["typo"] + files["uneven"]
    monkeypatch.setitem(files, "half-bad", half)
    end = ended(command, "half-bad.jsonl --threads 1")
    assert (end.status, end.err) == (3, "")
    assert "marked line-2: no text in the field 'corrupted'. Did you mean 'corupted'?" in end.out
    assert "marked line-3: The clean prompt has 10 tokens" in end.out
    assert "run/manifest.json" in end.wrote and end.forwards > 1
