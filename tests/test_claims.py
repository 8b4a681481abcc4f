"""The claims that are cheap to measure hold here and now; the command that measures them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import claims, gqa
from experiments.benchmarks.measure import TASKS, Row, measure
from experiments.benchmarks.work import Setting, path_all
from experiments.claims import costs
from experiments.claims.thinking import not_as
from interp.errors import InputError
from tests.strategies import says

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("third", range(3))
def test_the_cheap_claims_hold(third):
    """Measured as a user measures them: in a process of its own, without the checks of shapes."""
    names = claims.CHEAP[third::3]
    command = [sys.executable, "-m", "experiments.claims", *names, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["claim"] for line in lines] == list(names), done.stderr
    assert [line for line in lines if not line["holds"]] == []
    assert done.returncode == 0
    for line in lines:
        assert line["goal"] == claims.find(line["claim"]).goal
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
    assert not_as(value, sign) is wrong


# ---------------------------------------------------------------- time


def timing(system: str, seconds: float | None, **more) -> Row:
    ratios = {} if seconds is None else {"ours": seconds / 2}
    return Row("patch-grid", system, seconds=seconds, **{"ratios": ratios, **more})


def three(lens: float, difference: float = 1e-5) -> dict[str, Row]:
    rows = [timing("ours", 2.0, difference=difference, effect=9.0), timing("raw", 12.0, share=0.1)]
    return {row.system: row for row in (*rows, timing("transformer_lens", lens, version="4.3"))}


def test_a_speed_is_a_ratio_beside_the_difference_of_the_numbers():
    found = costs.faster_text(three(18.0), 8.0)
    assert found.holds
    assert found.text == (
        "9.0x less CPU time than TransformerLens 4.3 and 6.0x less than a loop of plain hooks (2 s "
        "against 18 s and 12 s, raw timed on 0.1 of it and scaled; one thread); numbers differ by "
        "1e-05 from plain hooks of a span of 9"
    )
    assert [row["CPU s"] for row in found.table] == [2.0, 12.0, 18.0]
    assert not costs.faster_text(three(15.9), 8.0).holds
    assert not costs.faster_text(three(18.0, difference=1e-3), 8.0).holds


def test_a_rival_that_is_not_there_is_no_claim_that_holds():
    rows = three(18.0)
    rows["transformer_lens"] = timing("transformer_lens", None, note="skipped: no module x")
    found = costs.faster_text(rows, 8.0)
    assert (found.text, found.holds) == ("skipped: no module x", False)


def test_the_sampled_paths_are_those_of_plain_hooks():
    (task,) = [task for task in TASKS if task.name == "path-all"]
    task = replace(
        task,
        make=lambda setting: replace(path_all(setting), whole=False),
        systems={name: task.systems[name] for name in ("ours", "raw")},
    )
    rows = {row.system: row for row in measure(task, Setting(quick=True), repeats=1)}
    assert rows["ours"].share == 1 / 4  # one of four heads of each layer
    assert rows["ours"].difference is not None and rows["ours"].effect is not None
    assert rows["ours"].difference < 1e-5 < 0.01 < rows["ours"].effect


# ---------------------------------------------------------------- keys and values of a head


def test_the_llama_by_hand_would_see_another_group(monkeypatch):
    """Heads 1 and 2 exchanged: every shared edit and path is then another one."""
    monkeypatch.setattr(gqa, "ENGINES", ("torch",))
    monkeypatch.setattr(gqa, "GROUP", (0, 1, 0, 1))
    wrong = gqa.rows()
    assert len(wrong) == 8 and min(row.difference for row in wrong) > 1e-4
