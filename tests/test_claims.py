"""The claims that are cheap to measure hold here and now; the command that measures them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import claims
from interp.errors import InputError
from tests.strategies import says

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", claims.CHEAP)
def test_a_cheap_claim_holds(name):
    """Measured as a user measures it: in a process of its own, without the checks of shapes."""
    command = [sys.executable, "-m", "experiments.claims", name, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, line["holds"]) == (0, True), (line, done.stderr)
    claim = claims.find(name)
    assert (line["claim"], line["goal"]) == (name, claim.goal)
    assert line["measured"]


def test_cheap_claims_are_claims_and_names_are_unique():
    assert set(claims.CHEAP) <= set(claims.CLAIMS)
    assert len(set(claims.CHEAP)) == len(claims.CHEAP)
    for name, claim in claims.CLAIMS.items():
        assert claim.name == name
        assert claim.goal


def test_a_misspelt_claim_is_refused_with_the_nearest_name():
    with says(InputError, "There is no claim 'tts-plantd'. Did you mean 'tts-planted'?"):
        claims.find("tts-plantd")
    assert claims.find("tts-planted") is claims.CLAIMS["tts-planted"]


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        claims.main(words)
    return stop.value.code, *capsys.readouterr()


def test_an_unknown_claim_ends_the_command_in_a_sentence(capsys):
    status, out, err = run(capsys, "nope")
    assert status == 2
    assert err == "claims: There is no claim 'nope'.\n"
    assert out == ""


def fake(monkeypatch, *holds: bool) -> None:
    """Replace the claims by ones that cost nothing."""
    table = ({"path": "naive", "CPU s": 2.0}, {"path": "shared", "CPU s": 1.0})
    made = {
        name: claims.Claim(name, "a goal", lambda n=name, h=h: claims.Measured(f"of {n}", h, table))
        for name, h in zip(("first", "second-cost"), holds, strict=True)
    }
    monkeypatch.setattr(claims, "CLAIMS", made)


def test_json_lines_parse_and_say_what_was_measured(capsys, monkeypatch):
    fake(monkeypatch, True, True)
    status, out, err = run(capsys, "--json")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["claim"] for line in lines] == ["first", "second-cost"]
    assert lines[0] == {
        "claim": "first",
        "goal": "a goal",
        "measured": "of first",
        "holds": True,
        "table": [{"path": "naive", "CPU s": 2.0}, {"path": "shared", "CPU s": 1.0}],
    }


@pytest.mark.parametrize(("holds", "status"), [((True, True), 0), ((True, False), 1)])
def test_one_failed_claim_fails_the_command(capsys, monkeypatch, holds, status):
    fake(monkeypatch, *holds)
    found, out, _ = run(capsys)
    assert found == status
    assert "of first" in out and "of second-cost" in out
    assert ("NO" in out) == (not all(holds))
    assert "shared" in out  # the rows of a cost claim
    found, out, _ = run(capsys, "first")
    assert found == 0
    assert "second-cost" not in out


@pytest.mark.parametrize(
    ("value", "sign", "wrong"),
    [(0.9, 1, False), (0.4, 1, True), (-0.9, 1, True), (-0.9, -1, False), (0.9, -1, True),
     (0.04, 0, False), (-0.04, 0, False), (0.06, 0, True), (-0.06, 0, True)],
)  # fmt: skip
def test_a_leg_is_as_planted_or_not(value, sign, wrong):
    assert claims.not_as(value, sign) is wrong
