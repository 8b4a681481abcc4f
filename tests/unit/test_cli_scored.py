"""`interp tts direction|steer-test|prune|compare`: what they print, write and exit with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import interp.results as results
from experiments.bad_chains import problems, write_rows
from interp import cli as interp_cli
from interp.jobs import runs
from tests.unit.test_cli import Ended

SETS = ("--shuffled", "1")  # no step scores 0.9, so a warning says that the threshold fell


@pytest.fixture
def interp(capsys, monkeypatch):
    """`interp("tts", path, ...)`: run a command to its end, on a wide page."""
    monkeypatch.setenv("COLUMNS", "160")
    for name in interp_cli.QUIET:
        monkeypatch.setenv(name, interp_cli.QUIET[name])

    def run(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            interp_cli.main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        return Ended(stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def scored(interp, tmp_path) -> Path:
    """A run of seven rows: six planted chains and a line that is cut off."""
    data = write_rows(tmp_path / "rows.jsonl", [*problems(6), '{"id": "half'])
    out = tmp_path / "run"
    words = ("--model", "planted-steps", "--out", out, "--seeds", 1, "--control-seeds", 0)
    done = interp("tts", data, *words)
    assert (done.status, done.err) == (3, "")
    assert "6 chains scored, 1 marked.\n" in done.out and "  marked line-7: not JSON: " in done.out
    return out


def cells(text: str, first: str) -> list[str]:
    """The cells of the printed row that starts with `first`."""
    rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in text.splitlines()]
    return next(row for row in rows if row[:1] == [first])


def test_the_four_commands_end_to_end(interp, scored):
    """From scores to a direction, its tests, prunings and relatives; each page shows itself."""
    done = interp("tts", "direction", scored, *SETS)
    assert (done.status, done.err) == (0, "")
    folder = scored / "direction"
    assert f"Direction and controls: {folder}\n" in done.out
    (row,) = results.Store.open(folder).rows("direction")
    site, norm, *_ = cells(done.out, "0.resid_post")
    assert (site, norm) == (row["site"], f"{row['norm']:.3g}")
    warnings = results.Store.open(folder).manifest.notes["warnings"]
    assert warnings and all(f"Warning: {warning}\n" in done.out for warning in warnings)

    quick = ("--items-per-problem", 1, "--random-layers", "chosen", "--no-bins", "--no-checks")
    done = interp("tts", "steer-test", scored, *SETS, *quick)
    assert (done.status, done.err) == (0, "")
    store = results.Store.open(scored / "steer-test")
    marked = len(store.rows("steer_marked"))
    assert f"{marked} steps gave no item. Records and report: {store.folder}\n" in done.out
    assert "Warning: " in done.out and "direction" in done.out and "attention_mask" in done.out
    seen = set(store.manifest.notes["true_by_problem"])
    tests = {row["id"] for row in store.rows("steer_split") if row["split"] == "test"}
    assert seen and tests and tests.isdisjoint(seen)
    assert "steer_bins" not in runs.table_names(store)

    done = interp("tts", "prune", scored, "--fractions", 0.5, 1, "--random", 3)
    assert (done.status, done.err) == (0, "")
    assert "Share of chains that keep their answer, with 95% intervals over problems:" in done.out
    path = scored / "prune" / "pruned.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert f"{len(rows)} chains: {path}\n" in done.out and rows
    assert f"0 marked. Records and report: {scored / 'prune'}\n" in done.out
    assert cells(done.out, "tts")[:3] == ["tts", "0.5", "1 (1 to 1)"]

    done = interp("tts", "compare", scored, "--measures", "early", "whole")
    assert (done.status, done.err) == (0, "")
    head = "Rank correlation of steps within problems, 95% intervals over problems:\n"
    assert head in done.out and "early_answering" in done.out and "gap" in done.out
    assert f"0 marked. Records and report: {scored / 'compare'}\n" in done.out
    for part in ("direction", "steer-test", "prune", "compare"):
        assert (scored / part / "report.html").stat().st_size > 1000


def test_marked_chains_of_a_part_end_in_status_3(interp, scored, monkeypatch):
    from interp.errors import InputError
    from interp.jobs import tts_compare

    def _early(model, chain, *_):
        raise InputError(f"no luck with {chain.problem.id}")

    monkeypatch.setitem(tts_compare.MEASURES, "early", _early)
    done = interp("tts", "compare", scored, "--measures", "early", "--out", scored / "other")
    assert (done.status, done.err) == (3, "")
    assert f"6 marked. Records and report: {scored / 'other'}\n" in done.out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("steer-tst", "steer-test"),
        ("diretcion", "direction"),
        ("prunne", "prune"),
        ("compar", "compare"),
    ],
)
def test_a_misspelt_part_is_hinted_at(interp, typed, meant):
    assert interp("tts", typed, "run").sentence == (
        f"interp tts {typed}: there is no file of problems of that name, and the parts are "
        f"direction, steer-test, prune, compare. Did you mean '{meant}'?"
    )


def test_a_file_called_like_a_part_is_still_a_file_of_problems(interp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prunes", ["no JSON"])
    done = interp("tts", "prunes", "--out", "x", "--model", "planted-steps")
    assert done.sentence.startswith("prunes is not JSONL: its first line is 'no JSON'")
    done = interp("tts", "far.jsonl", "--out", "x", "--model", "planted-steps")
    assert done.sentence == "There is no file far.jsonl: give a JSONL file of problems."


ON_RUN = "RUN --out --model --dtype --device --threads"
ON_SETS = "--true-from --decorative-to --lowest --per-problem --most --match --shuffled --random"
ARGUMENTS = {
    "direction": f"{ON_RUN} {ON_SETS} --seed",
    "steer-test": f"{ON_RUN} {ON_SETS} --seed --direction --draws --items --items-per-problem "
    "--share --layers --random-layers --bins --checks --exact",
    "prune": f"{ON_RUN} --fractions --random --seed --decode --exact --export --export-method "
    "--export-all",
    "compare": f"{ON_RUN} --measures --limit --rollouts --max-new-tokens --seed --exact",
}


@pytest.mark.parametrize("part", ARGUMENTS)
def test_the_help_of_each_part_names_its_arguments(interp, part):
    done = interp("tts", part, "--help")
    assert done.status == 0
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*|\bRUN\b", done.out))
    wanted = set(ARGUMENTS[part].split())
    assert wanted <= flags
    known = wanted | {"--help"} | {f"--no-{flag[2:]}" for flag in wanted}
    assert flags <= known | {"--lowest", "--true-from"}, flags - known


def test_the_help_of_interp_lists_the_four(interp):
    done = interp("--help")
    assert done.status == 0
    assert all(f"tts-{part}" in done.out for part in ARGUMENTS)


@pytest.mark.parametrize("part", ["direction", "steer-test", "prune", "compare"])
def test_a_negative_seed_is_refused(interp, scored, part):
    done = interp("tts", part, scored, "--seed", "-1", "--out", scored / "never")
    assert (done.status, done.err) == (2, "interp: --seed -1: give 0 or more.\n")
    assert not (scored / "never").exists()


def test_more_draws_than_were_scored_are_refused(interp, scored):
    done = interp("tts", "steer-test", scored, "--draws", "99", "--out", scored / "never")
    assert done.status == 2
    assert "draws of the perturbation; take at most so many." in done.err
