"""A small run of the job of `interp align`: what it writes, resumes, judges and refuses."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import interp.results as results
from interp.alignment.evidence import GUARDS, Evidence
from interp.alignment.fitting import BUDGETS, Budget
from interp.alignment.interchange_training import Recipe
from interp.alignment.verdicts import WORDS
from interp.data.alignment_tasks import task_named
from interp.errors import InputError, InterpError, StoreError
from interp.jobs import align as job
from interp.jobs import align_cells, align_guards, align_worlds, runs
from interp.jobs.align import Outcome, Settings, align
from interp.jobs.align_worlds import Classifiers, world
from tests.unit.test_alignment_verdicts import complete

NETS = Path(__file__).parents[2] / "experiments/records/alignment_nets"
TINY = Budget(steps=4, batch=32, check_every=4, inputs=2000, held_out=120)
QUIET = Console(file=io.StringIO())
ONE = Settings(task="equality", folder=NETS / "equality", sites=("1",), nets=2)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the smoke budget be a few updates, and controls and training likewise."""
    monkeypatch.setitem(BUDGETS, "smoke", TINY)
    monkeypatch.setattr(align_worlds, "TRAINED_INPUTS", 2048)
    for name in ("LEARNING", "PLANTING"):
        monkeypatch.setattr(align_worlds, name, Recipe(steps=6, batch=64))
    for part in (align_cells, align_guards):
        monkeypatch.setattr(part, "LIMITED", 1100)
    for part in (align_cells, align_guards):
        monkeypatch.setattr(part, "SEARCHED", 40)
    monkeypatch.setattr(align_guards, "CURVE_SIZES", (100, 200))
    monkeypatch.setattr(runs, "write_report", lambda store: pages.append(store.folder))


pages: list[Path] = []
"""Folders whose report was asked for; a page takes longer than a small run."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Judge without guards: every map is asked for, and the evidence is made up."""

    def gather(case: align_guards.Case) -> Evidence:
        assert all(case.map_of(fit).d == 16 for fit in case.nets)
        return complete()

    monkeypatch.setattr(job, "gather", gather)
    monkeypatch.setattr(job._Run, "_planted", lambda self, chosen: ("planted", 1.0, 0.5))


def run(out: Path, settings: Settings = ONE) -> Outcome:
    return align(settings, out=out, console=QUIET)


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every table of a run, without what depends on the clock."""
    store = results.Store.open(folder)
    names = sorted({name for cell in store.cells() for name in cell["tables"]})
    return {
        name: [{k: v for k, v in row.items() if k != "cpu_seconds"} for row in store.rows(name)]
        for name in names
    }


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Cells and maps of a run, with the moment they were written."""
    paths = (path for part in ("cells", "maps") for path in (folder / part).rglob("*"))
    files = (path for path in paths if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A small run with two sites, two maps and two sizes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        settings = replace(ONE, sites=("1", "3"), sizes=(8, 4), maps=("orthogonal", "identity"))
        run(folder, settings)
    return folder


def test_every_fit_control_and_verdict_is_a_row(whole):
    """2 networks x 2 sites x 2 sizes x 2 maps, and for each map 2 twins and 2 fits of the rival."""
    rows = rows_of(whole)
    fits = rows["align_fits"]
    own = [r for r in fits if (r["kind"], r["algorithm"]) == ("trained", "both_equality")]
    assert len(own) == 16 and len(fits) == 16 + 2 * (2 + 2)
    assert {(r["site"], r["size"]) for r in own} == {(s, k) for s in "13" for k in (4, 8)}
    assert all(r["updates"] == (4 if r["map"] == "orthogonal" else 0) for r in own)
    assert [r["map"] for r in rows["align_verdicts"]] == ["orthogonal", "identity"]
    assert len(rows["align_guards"]) == 2 * len(GUARDS)
    assert [r["guard"] for r in rows["align_guards"]][: len(GUARDS)] == list(GUARDS)
    assert whole in pages


def test_controls_stand_where_the_algorithm_was_chosen(whole):
    rows = rows_of(whole)
    for verdict in rows["align_verdicts"]:
        place = {name: verdict[name] for name in ("map", "site", "size")}
        controls = [
            row for row in rows["align_fits"]
            if row["map"] == place["map"] and (row["kind"], row["algorithm"]) !=
            ("trained", "both_equality")
        ]  # fmt: skip
        assert len(controls) == 4 and all(place.items() <= row.items() for row in controls)
        assert [r["kind"] for r in controls].count("twin") == 2
        assert {r["algorithm"] for r in controls if r["kind"] == "trained"} == {"first_arguments"}


def test_verdicts_hold_the_fixed_words_and_carry_their_evidence(whole):
    words = {word.format(map=name) for word in WORDS for name in ("orthogonal", "identity")}
    for row in rows_of(whole)["align_verdicts"]:
        assert row["verdict"] in words | {job.INCOMPLETE} and row["reason"]
        evidence = json.loads(row["evidence"])
        assert evidence["test"]["estimate"] == row["iia"]
        assert evidence["selection"] == {"sites_tried": 4, "chosen_on": "validation"}
        assert "random twin: 2 untrained networks, at least 5" in evidence["missing"]


def test_a_second_start_does_nothing_more(whole, monkeypatch):
    before, rows = written(whole), rows_of(whole)
    monkeypatch.setattr(job, "row_of", None)
    monkeypatch.setattr(job, "gather", None)
    settings = replace(ONE, sites=("1", "3"), sizes=(8, 4), maps=("orthogonal", "identity"))
    done = run(whole, settings)
    assert written(whole) == before and rows_of(whole) == rows
    assert [row["map"] for row in done.verdicts] == ["orthogonal", "identity"]


def test_every_folder_of_maps_is_of_a_trained_network(whole):
    about = [json.loads(path.read_text()) for path in (whole / "maps").rglob("map.json")]
    assert len(about) == 16 and {each["site"] for each in about} == {"1", "3"}
    nets = Classifiers("equality", 2, NETS / "equality")
    assert {each["model"] for each in about} == {nets.fingerprint(n, "trained") for n in nets.nets}


def test_more_twins_where_they_are_asked_for(tmp_path, quick):
    settings = replace(ONE, sites=("1", "2"), twins_everywhere=True, rivals=("first_arguments",))
    fits = rows_of(run(tmp_path / "run", settings).store.folder)["align_fits"]
    assert [r["site"] for r in fits if r["kind"] == "twin"] == ["1", "1", "2", "2"]


# ---------------------------------------------------------------- stopped and started again


def test_killed_in_the_middle_it_goes_on_to_the_same_rows(tmp_path, quick, monkeypatch):
    run(tmp_path / "straight")
    child = os.fork()
    if not child:  # dies between the map of the second network and its row
        monkeypatch.setattr(job.results.Store, "write", _dying(job.results.Store.write, 2))
        try:
            run(tmp_path / "killed")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (key,) = results.Store.open(tmp_path / "killed").keys()
    assert len(list((tmp_path / "killed/maps").rglob("map.json"))) == 2
    kept = written(tmp_path / "killed")
    run(tmp_path / "killed")
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "straight")
    after = written(tmp_path / "killed")
    mine = [name for name in kept if name.startswith("cells") and key in name]
    assert mine and all(after[name] == kept[name] for name in mine)


def _dying(write: Any, n: int) -> Any:
    seen: list[str] = []

    def written(store: Any, key: str, *given: Any) -> Any:
        seen.append(key)
        if len(seen) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(store, key, *given)

    return written


def test_a_damaged_map_is_fitted_again_and_changes_no_row(tmp_path, quick):
    done = run(tmp_path / "run")
    before = rows_of(tmp_path / "run")
    for path in (tmp_path / "run/maps").rglob("map.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    (verdict,) = (c["key"] for c in done.store.cells() if "align_verdicts" in c["tables"])
    _forget(tmp_path / "run", verdict)
    assert "align_verdicts" not in rows_of(tmp_path / "run")
    run(tmp_path / "run")
    assert rows_of(tmp_path / "run") == before


def _forget(folder: Path, key: str) -> None:
    """Remove one cell, as a disk may."""
    there = [path for path in (folder / "cells").rglob("*") if path.is_file() and key in str(path)]
    assert there
    for path in there:
        path.unlink()


def test_rows_are_equal_for_the_same_seeds_and_others_for_other_updates(tmp_path, whole):
    first, second = (rows_of(run(tmp_path / n, replace(ONE, updates=3)).store.folder) for n in "ab")
    assert first == second and len(first) >= 6
    (mine, *_), (other, *_) = first["align_fits"], rows_of(whole)["align_fits"]
    same = ("net", "kind", "algorithm", "map", "site", "size", "map_seed")
    assert all(mine[name] == other[name] for name in same)
    assert (mine["updates"], other["updates"]) == (3, 4)
    assert mine["validation_loss"] != other["validation_loss"]


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path, whole):
    before = written(whole)
    for other in (replace(ONE, nets=3), replace(ONE, updates=2), replace(ONE, sites=("2",))):
        with pytest.raises(StoreError, match="pick another folder"):
            run(whole, other)
    assert written(whole) == before


def test_networks_that_were_trained_anew_in_the_same_place_are_another_run(tmp_path):
    def weights(kind: str) -> str | None:
        return Classifiers("distributive", 2, NETS / kind).weights

    assert weights("planted_and_or") != weights("distributive") == weights("distributive")
    assert Classifiers("distributive", 2).weights is None
    assert Classifiers("distributive", 3, NETS / "distributive").weights != weights("distributive")


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"runner_up": None}, "runner-up: the next best alignment"),
        ({"seeds": (0.98, 0.97)}, "seeds and selection: 2 seeds, at least 5"),
        ({"twin": None}, "random twin: a network that was never trained"),
        ({"train_iia": None}, "train IIA"),
    ],
)
def test_where_a_guard_is_lacking_there_is_no_verdict_and_it_is_named(lacks, told):
    row = job._verdict_row(complete(**lacks))
    assert (row["verdict"], row["claim"], row["notes"]) == ("NO VERDICT", "", "")
    assert row["reason"] == (
        f"The report on And-Or-And cannot say that it was found: it lacks {told}. Run these, or "
        "report the scores without a verdict."
    )
    assert job._verdict_row(complete())["verdict"] == "FOUND UNDER orthogonal, GENERALISES"


def test_an_error_that_is_not_a_number_makes_the_verdict_invalid():
    exact = complete().exactness
    assert exact is not None
    broken = replace(exact, noop=replace(exact.noop, logit=float("nan")))
    row = job._verdict_row(complete(exactness=broken))
    assert row["verdict"] == "INVALID" and row["evidence"] is None


def test_a_network_that_does_not_solve_its_task_is_invalid(tmp_path):
    """Six updates from scratch: where no folder is given, networks are trained here."""
    settings = replace(ONE, folder=None, waive_rival="this run is about accuracy")
    (row,) = run(tmp_path / "run", settings).verdicts
    assert row["verdict"] == "INVALID" and row["task_accuracy"] < 0.75
    assert "no behaviour to explain" in row["reason"]
    assert "The rival every rival is waived: this run is about accuracy." in row["notes"]


# ---------------------------------------------------------------- refused before anything is fitted

REFUSED = {
    "task": ({"task": "equalty"}, "There is no alignment task 'equalty'; there are: equality, "
             "distributive, ioi, multiplication. Did you mean 'equality'?"),
    "algorithm": ({"algorithm": "both_equalty"}, "equality has no algorithm 'both_equalty'; there "
                  "are: both_equality, left_equality, first_argument, first_arguments. Did you "
                  "mean 'both_equality'?"),
    "rival": ({"rivals": ("left_equality",)}, "--rivals left_equality: both_equality has the "
              "rivals first_arguments: algorithms of the same answers and as many variables."),
    "own rival": ({"rivals": ("both_equality",)}, "--rivals both_equality: both_equality has the "
                  "rivals first_arguments: algorithms of the same answers and as many variables."),
    "site": ({"sites": ("4",)}, "--sites 4: equality has the sites 1, 2, 3."),
    "size": ({"sizes": (4, 9)}, "--sizes 9: 2 variables at a site 16 wide have 1 to 8 coordinates "
             "each."),
    "no model": ({"model": " "}, "--model is empty: give a name of `interp models`, a folder or an "
                 "id."),
    "nets": ({"nets": 11}, "--nets 11: there are 10 networks; give at most as many."),
    "folder": ({"folder": NETS / "distributive"}, f"--folder {NETS / 'distributive'}: its networks "
               "are not of the shape that equality has (16 numbers in, 3 hidden layers as wide); "
               "give a folder of networks for this task."),
    "model": ({"model": "tiny-llama"}, "--model tiny-llama: equality has small networks; leave it "
              "out."),
    "difference": ({"maps": ("difference",), "sizes": (8,)}, "--maps difference for both_equality: "
                   "A difference of means is one direction for each variable, not 8: give size 1."),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_task_does_not_have_is_refused_with_nothing_run_or_written(
    tmp_path, monkeypatch, what
):
    changes, sentence = REFUSED[what]
    monkeypatch.setattr(align_worlds, "learn", None)
    monkeypatch.setattr(job, "row_of", None)
    with pytest.raises(InterpError) as refused:
        run(tmp_path / "run", replace(ONE, **changes))
    assert str(refused.value) == sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"maps": ()}, "--maps nothing: name at least one, and each once."),
        ({"maps": ("mask", "mask")}, "--maps mask mask: name at least one, and each once."),
        ({"sites": ("1", "1")}, "--sites 1 1: name at least one, and each once."),
        ({"sizes": (8, 8)}, "--sizes 8 8: name at least one, and each once."),
        ({"rivals": ()}, "--rivals nothing: name at least one, and each once."),
        ({"nets": 1}, "--nets 1: give at least 2, or there is no interval."),
        ({"updates": 0}, "--updates 0: give at least 1."),
        ({"budget": "smok"}, "--budget smok: there are smoke, standard, paper. Did you mean "
         "'smoke'?"),
        ({"waive_rival": " "}, "--waive-rival '': give the reason in words, for it is printed."),
        ({"waive_rival": "none known", "rivals": ("first_arguments",)}, "--waive-rival does "
         "without rivals and --rivals names first_arguments: leave one of the two out."),
    ],
)  # fmt: skip
def test_settings_without_sense_are_refused(changes, sentence):
    with pytest.raises(InputError) as refused:
        replace(ONE, **changes)
    assert str(refused.value) == sentence


def test_an_unknown_family_of_maps_is_refused():
    with pytest.raises(InputError, match=r"Did you mean 'orthogonal'\?$"):
        replace(ONE, maps=("orthogonl",))


def test_sentences_need_a_model_and_take_no_folder():
    lacking = "ioi needs a language model: give --model."
    both = f"--folder {NETS}: ioi has one model, that of --model; leave it out."
    for folder, model, told in (
        (None, None, lacking),
        (NETS, "tiny-llama", both),
        (NETS, None, lacking),
    ):
        with pytest.raises(InputError) as refused:
            world("ioi", nets=2, folder=folder, model=model)
        assert str(refused.value) == told


def test_networks_of_a_folder_are_its_first_and_twins_have_their_seeds():
    nets = Classifiers("equality", 3, NETS / "equality")
    assert nets.nets == nets.twins == (4287, 3837, 9097)
    assert nets.accuracy(4287, "trained") > 0.99 > 0.7 > nets.accuracy(4287, "twin")
    assert (
        nets.variables("both_equality") == task_named("equality").algorithm("both_equality").inner
    )
