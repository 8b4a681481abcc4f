"""The jobs on a scored run of the planted model: tables, files, numbers, and going on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from rich.console import Console

import interp.results as results
from experiments.bad_chains import scored_run
from interp.directions import load_all, save_all
from interp.engine.loading import load
from interp.errors import InputError, ModelError
from interp.jobs import (
    runs,
    tts_compare,
    tts_direction,
    tts_prune,
    tts_runs,
    tts_steer,
    tts_steer_checks,
    tts_steer_settings,
    tts_steer_trials,
)
from interp.models import planted
from interp.models.tokens import encode
from interp.steering.directions import given
from interp.thinking.score import Chain
from interp.thinking.steer_layers import Trial
from tests.strategies import says

N = 6
SETS = tts_direction.SetSettings(true_from=0.4, shuffled=2)
"""A step of the planted model scores 0.5 at most."""
STEER = tts_steer.Settings(sets=SETS, items_per_problem=1)
PRUNE = tts_prune.Settings(fractions=(0.0, 0.5, 1.0), random=5)
COMPARE = tts_compare.Settings(measures=("early", "drop", "whole"))


def options(**more) -> dict[str, Any]:
    console = Console(file=io.StringIO())
    about = {"model": None, "out": None, "dtype": None, "device": "cpu", "console": console}
    return {**about, **more}


@pytest.fixture(scope="module", autouse=True)
def one_model() -> Iterator[None]:
    """Every job gets the same model, loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tts_runs, "load", cache(load))
        yield


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A run of `N` planted chains without parts."""
    return scored_run(tmp_path_factory.mktemp("jobs") / "run", N)


@pytest.fixture
def run(scored, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(scored, tmp_path / "run"))


def steer(run: Path, settings=STEER, direction: Path | None = None, **more) -> tts_steer.Outcome:
    return tts_steer.test(run, direction=direction, settings=settings, **options(**more))


def pruned(run: Path, settings=PRUNE, export=None, **more) -> tts_prune.Outcome:
    export = export or tts_prune.Export()
    return tts_prune.study(run, settings=settings, export=export, **options(**more))


def compared(run: Path, settings=COMPARE, **more) -> tts_compare.Outcome:
    return tts_compare.compare(run, settings=settings, **options(**more))


@pytest.fixture(scope="module")
def tested(scored, tmp_path_factory) -> tts_steer.Outcome:
    return steer(scored, out=tmp_path_factory.mktemp("steer") / "out")


@pytest.fixture(scope="module")
def cut(scored, tmp_path_factory) -> tts_prune.Outcome:
    return pruned(scored, out=tmp_path_factory.mktemp("prune") / "out")


@pytest.fixture(scope="module")
def beside(scored, tmp_path_factory) -> tts_compare.Outcome:
    return compared(scored, out=tmp_path_factory.mktemp("compare") / "out")


def tables(store: results.Store) -> dict[str, list[dict[str, object]]]:
    """All rows, in an order that does not depend on the order of the cells."""
    found = {name: store.rows(name) for name in runs.table_names(store)}
    return {name: sorted(rows, key=lambda row: json.dumps(row)) for name, rows in found.items()}


def never(*_, **__):
    pytest.fail("nothing may be computed again")


def after(n: int, real: Callable) -> tuple[Callable, list[int]]:
    """A stand-in for a method that is stopped at its call number `n`, and its count."""
    calls: list[int] = []

    def stopped(*args, **more):
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return real(*args, **more)

    return stopped, calls


# ---------------------------------------------------------------- direction


def test_the_direction_and_its_controls_are_written_and_belong_to_the_model(run):
    done = tts_direction.find(run, settings=SETS, **options())
    model, folder = load("planted-steps"), run / "direction"
    assert done.store.folder == folder and (folder / "report.html").is_file()
    (found,), notes = load_all(folder / "direction.safetensors", model)
    shuffled, same = load_all(folder / "shuffled.safetensors", model)
    random, _ = load_all(folder / "random.safetensors", model)
    assert (found.site, found.method) == ("0.resid_post", "true_thinking")
    assert [each.seed for each in shuffled] == [0, 1] and notes == same
    assert len(random) == 20 and {each.norm for each in random} == {found.norm}
    assert max(abs(float(each.vector @ found.vector)) for each in random) < 0.9
    with pytest.raises(ModelError, match=r"^The direction at 0\.resid_post was found in planted-s"):
        load_all(folder / "direction.safetensors", load("planted-ignores"))
    (row,) = done.store.rows("direction")
    assert (row["site"], row["norm"], row["next_cosine"]) == ("0.resid_post", found.norm, None)
    assert tuple(notes["warnings"]) == done.warnings
    steps = done.store.rows("direction_steps")
    assert notes["n_true"] == sum(step["set"] == "true" for step in steps) > 1
    scores = {
        name: [s["tts"] for s in steps if s["set"] == name] for name in ("true", "decorative")
    }
    assert min(scores["true"]) >= 0.4 > 0.005 >= max(scores["decorative"])


def test_the_direction_is_the_difference_of_means_in_the_plain_model(run):
    done = tts_direction.find(run, settings=SETS, **options())
    model = load("planted-steps")
    texts = {chain.id: chain.chain for chain in tts_runs.open_run(run).chains}
    kept: list[torch.Tensor] = []

    def keep(module, args, out):
        kept.append((out[0] if isinstance(out, tuple) else out)[0, -1])

    block = model.hf.get_submodule("transformer.h.0").register_forward_hook(keep)
    sides: dict[str, list[torch.Tensor]] = {"true": [], "decorative": []}
    for step in done.store.rows("direction_steps"):
        chain = texts[step["id"]]
        text = chain.prompt + chain.text[: step["end"]].rstrip()
        with torch.no_grad():
            model.hf(torch.tensor([encode(model.tokenizer, text)]))
        sides[step["set"]].append(kept.pop())
    block.remove()
    true, decorative = (torch.stack(side).mean(0) for side in sides.values())
    (found,), _ = load_all(run / "direction" / "direction.safetensors")
    torch.testing.assert_close(found.raw, true - decorative, rtol=0, atol=1e-4)
    assert float((true - decorative).norm()) > 1


def test_a_second_direction_computes_nothing_and_a_damaged_file_is_made_again(run, monkeypatch):
    first = tts_direction.find(run, settings=SETS, **options())
    path, before = run / "direction" / "direction.safetensors", tables(first.store)
    (old,), notes = load_all(path)
    path.write_bytes(path.read_bytes()[:-5])
    again = tts_direction.find(run, settings=SETS, **options())
    (new,), same = load_all(path)
    assert torch.equal(new.vector, old.vector) and new.manifest() == old.manifest()
    assert notes == same and again.warnings == first.warnings
    monkeypatch.setattr(tts_direction, "fitted", never)
    assert tables(tts_direction.find(run, settings=SETS, **options()).store) == before


def test_a_model_blind_to_its_chain_has_no_direction_in_words(tmp_path, monkeypatch):
    folder = scored_run(tmp_path / "run", 3, model="planted-ignores")
    monkeypatch.setattr(tts_runs, "load", never)
    for call in (
        lambda: tts_direction.find(folder, settings=SETS, **options()),
        lambda: steer(folder),
    ):
        with pytest.raises(InputError, match=r"^No step scores at least 0\.3, so none is true"):
            call()
    assert {path.name for path in folder.iterdir()}.isdisjoint(runs.PARTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"random": 3}, "--random 3: a direction stands beside at least 20 random ones."),
        ({"shuffled": 0}, "--shuffled 0: give at least 1 shuffle of the labels."),
        ({"per_problem": 0}, "--per-problem 0: give at least 1."),
        ({"most": 1}, "--most 1: give at least 2."),
        (
            {"true_from": 1.5},
            "--decorative-to 0.005, --lowest 0.3, --true-from 1.5: scores lie between 0 and 1, and "
            "the first must be below both others.",
        ),
    ],
)
def test_settings_of_the_sets_out_of_range_are_refused(wrong, message):
    with says(InputError, message):
        tts_direction.SetSettings(**wrong)


# ---------------------------------------------------------------- steering tests


def test_the_steering_tests_write_their_tables_and_files(tested):
    parts = "trials results curves items texts marked split bins"
    found = tables(tested.store)
    assert {f"steer_{part}" for part in parts.split()} <= found.keys()
    assert {path.name for path in tested.store.folder.iterdir()} >= {*tts_direction.FILES}
    assert (tested.store.folder / "report.html").is_file() and runs.missing(tested.store) == 0
    arms = {(row["test"], row["arm"]) for row in found["steer_results"]}
    both = {"direction", "shuffled", "random", "drop_step", "attention_mask", "none"}
    assert arms >= {(test, arm) for test in ("engage", "disengage") for arm in both}
    assert list(tested.rows) == tested.store.rows("steer_results")
    assert tested.marked == len(found["steer_marked"]) > 0
    reasons = {row["reason"] for row in found["steer_marked"]}
    assert reasons == {"the step has no number to perturb"}
    assert any("problems: the interval is probably too narrow" in w for w in tested.warnings)


def test_the_direction_of_a_test_has_not_seen_its_test_problems(tested):
    notes = load_all(tested.store.folder / "direction.safetensors")[1]
    seen = tts_steer_settings.problems_of(notes)
    split = {row["id"]: row["split"] for row in tested.store.rows("steer_split")}
    assert seen and {split[name] for name in seen if name in split} <= {"select"}
    assert {"select", "test"} == set(split.values())
    reported = [t for t in tested.store.rows("steer_trials") if split[t["problem"]] == "test"]
    assert reported and seen.isdisjoint(trial["problem"] for trial in reported)


def test_nothing_moves_at_coefficient_0_or_behind_the_last_block(tested):
    """The planted direction exists behind its only block, where no later token looks."""
    trials = tested.store.rows("steer_trials")
    for arm in ("none", "direction", "random", "shuffled"):
        mine = [trial for trial in trials if trial["arm"] == arm]
        assert mine and {trial["layer"] for trial in mine} == {1}
        assert not any(trial["flipped"] or trial["unparsable"] for trial in mine)
        assert {trial["logprob"] - trial["base_logprob"] for trial in mine} == {0.0}


def test_a_second_run_computes_nothing_and_a_stopped_one_goes_on(scored, tested, tmp_path):
    out, real = tmp_path / "out", tts_steer_trials.steer
    stopped, calls = after(3, real)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tts_steer_trials, "steer", stopped)
        with pytest.raises(KeyboardInterrupt):
            steer(scored, out=out)
        patch.setattr(tts_steer, "make_items", never)
        patch.setattr(tts_direction, "fitted", never)
        calls.clear()
        patch.setattr(tts_steer_trials, "steer", after(0, real)[0])
        done = steer(scored, out=out)
        assert tables(done.store) == tables(tested.store)
        assert (done.rows, done.warnings, done.marked) == (
            tested.rows,
            tested.warnings,
            tested.marked,
        )
        patch.setattr(tts_steer_trials, "steer", never)
        for name in ("ablate_bins", "bin_directions"):
            patch.setattr(tts_steer_checks, name, never)
        patch.setattr(tts_steer_checks.checks, "behaviour", never)
        assert steer(scored, out=out).rows == tested.rows


def planted_direction(path: Path, seen: dict[str, int]) -> Path:
    """A file whose vector makes a token weigh against the answer, as if fitted on `seen`."""
    named = dict(zip(planted.FEATURES, planted.directions(), strict=False))
    vector = 6 * named["evidence"] - 3 * named["weight"]
    found = given(load("planted-steps"), "0.resid_pre", vector)
    return save_all(path, found, {"true_by_problem": seen, "decorative_by_problem": {}})


def test_a_given_planted_direction_flips_what_random_ones_do_not(scored, tmp_path):
    path = planted_direction(tmp_path / "planted.safetensors", {"planted-2-0": 3})
    settings = tts_steer.Settings(
        sets=SETS, items_per_problem=1, layers=(0,), bins=False, checks=False
    )
    done = steer(scored, settings, path, out=tmp_path / "out")
    arms = {(r["test"], r["arm"]): r for r in done.rows if r["twin"] is None}
    assert arms["engage", "direction"]["flips"] == 1.0
    assert arms["engage", "random"]["flips"] < 0.3
    assert arms["engage", "none"]["flips"] == 0.0 == arms["engage", "none"]["shift"]
    split = {row["id"]: row["split"] for row in done.store.rows("steer_split")}
    assert split.get("planted-2-0", "select") == "select" and "test" in split.values()
    assert {t["layer"] for t in done.store.rows("steer_trials")} - {None} == {0}
    assert not {*tts_direction.FILES} & {p.name for p in done.store.folder.iterdir()}
    assert done.store.manifest.settings["direction"] == results.file_hash(path)


def test_a_direction_that_has_seen_every_problem_is_refused_unwritten(scored, tmp_path):
    seen = {f"planted-2-{i}": 1 for i in range(N)}
    path = planted_direction(tmp_path / "planted.safetensors", seen)
    expected = (
        f"The direction was made from all {N} problems that could have items, so none is left to "
        "test it on: give one of another run, or leave --direction out to have it fitted on the "
        "selection problems."
    )
    with pytest.MonkeyPatch.context() as patch, says(InputError, expected):
        patch.setattr(tts_steer, "make_items", never)
        steer(scored, direction=path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_layer_without_a_direction_is_refused_and_leaves_no_folder(scored, tmp_path):
    settings = tts_steer.Settings(sets=SETS, layers=(0,))
    with says(
        InputError,
        "--layers 0: the direction exists at layers 1 alone; elsewhere the two sets have one mean.",
    ):
        steer(scored, settings, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_random_directions_may_run_at_the_chosen_layer_of_the_test_problems_alone(
    scored, tested, tmp_path
):
    settings = tts_steer.Settings(
        sets=SETS, items_per_problem=1, random_layers="chosen", bins=False, checks=False
    )
    done = steer(scored, settings, out=tmp_path / "out")
    split = {row["id"]: row["split"] for row in done.store.rows("steer_split")}
    trials = done.store.rows("steer_trials")
    random = [trial for trial in trials if trial["arm"] in ("random", "none")]
    assert {split[trial["problem"]] for trial in random} == {"test"}
    every = [t for t in tested.store.rows("steer_trials") if t["arm"] in ("random", "none")]
    assert {split[t["problem"]] for t in every} == {"select", "test"}
    assert len({trial["twin"] for trial in random if trial["arm"] == "random"}) == 20
    chosen = {r["test"]: r["layer"] for r in done.rows if r["arm"] == "direction"}
    assert {(trial["test"], trial["layer"]) for trial in random} == set(chosen.items())


# ---------------------------------------------------------------- prune


def curve(done: tts_prune.Outcome, measure: str = "same") -> dict[tuple[str, float], float]:
    rows = [row for row in done.points if row["measure"] == measure]
    return {(row["method"], row["fraction"]): row["mean_estimate"] for row in rows}


def test_pruning_by_score_keeps_the_answers_that_random_pruning_loses(cut):
    same = curve(cut)
    assert same["tts", 0.5] == 1.0 > 0.75 > same["random", 0.5]
    assert {same[name, 1.0] for name in ("tts", "last", "random")} == {1.0}
    assert {same[name, 0.0] for name in ("tts", "last", "random")} == {0.0}
    rows = [r for r in cut.store.rows("pruned") if (r["method"], r["fraction"]) == ("random", 0.5)]
    draws = {r["id"]: [s["same"] for s in rows if s["id"] == r["id"]] for r in rows}
    assert len(draws) == N and {len(some) for some in draws.values()} == {5}
    assert same["random", 0.5] == pytest.approx(fmean(fmean(some) for some in draws.values()))
    assert cut.store.rows("prune_curves") == list(cut.points)
    assert cut.marked == 0 == runs.missing(cut.store)


def test_the_export_holds_pruned_chains_whose_answer_stays(scored, cut):
    pruned(scored, out=cut.store.folder)
    rows = [json.loads(line) for line in cut.exported.read_text().splitlines()]
    assert len(rows) == cut.n_exported == N
    chains = {chain.id: chain.chain for chain in tts_runs.open_run(scored).chains}
    kept = [r for r in cut.store.rows("pruned") if (r["method"], r["fraction"]) == ("tts", 0.5)]
    assert [row["id"] for row in rows] == list(chains)
    for row, about in zip(rows, kept, strict=True):
        chain = chains[row["id"]]
        assert row["kept"] == [int(i) for i in about["kept"].split()]
        assert row["cot"] == "".join(chain.steps[i].text for i in row["kept"])
        assert 0 < len(row["cot"]) < len(chain.text) and row["answer"] == "88"


def test_another_export_of_the_same_study_computes_nothing(scored, cut, monkeypatch):
    monkeypatch.setattr(tts_prune.prune, "prune", never)
    out = cut.store.folder
    random = pruned(scored, export=tts_prune.Export(method="random"), out=out)
    assert 0 < random.n_exported < 5 * N
    every = pruned(scored, export=tts_prune.Export(method="random", only_same=False), out=out)
    assert every.n_exported == 5 * N
    assert pruned(scored, out=out).points == cut.points


def test_a_stopped_pruning_goes_on(scored, cut, tmp_path, monkeypatch):
    stopped, _ = after(4, tts_prune.prune.prune)
    monkeypatch.setattr(tts_prune.prune, "prune", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruned(scored, out=tmp_path / "out")
    assert len(results.Store.open(tmp_path / "out").keys()) == 3
    rest, calls = after(0, tts_prune.prune.prune)
    monkeypatch.setattr(tts_prune.prune, "prune", rest)
    done = pruned(scored, out=tmp_path / "out")
    assert len(calls) == N - 3 and tables(done.store) == tables(cut.store)


def test_chains_that_cannot_be_pruned_are_marked_and_none_is_missed(scored, tmp_path, monkeypatch):
    def refuse(model, chain: Chain, *_, **__):
        raise InputError(f"no luck with {chain.problem.id}")

    monkeypatch.setattr(tts_prune.prune, "ask", refuse)
    done = pruned(scored, out=tmp_path / "out")
    assert (done.marked, done.points, done.n_exported) == (N, (), 0)
    first = done.store.rows("prune_marked")[0]
    assert first == {"id": "planted-2-0", "reason": "no luck with planted-2-0"}
    assert runs.missing(done.store) == 0 and done.exported.read_text() == ""


@pytest.mark.parametrize(
    ("settings", "export", "message"),
    [
        (
            {},
            {"fraction": 0.3},
            "--export 0.3 is none of the fractions 0 0.25 0.5 0.75 1: add it to --fractions, or "
            "export one of these.",
        ),
        ({}, {"method": "best"}, "--export-method best: this study has tts, last, random."),
        (
            {"random": 0},
            {"method": "random"},
            "--export-method random with --random 0: no random pruning is drawn, so none can be "
            "exported; draw at least 1, or export tts.",
        ),
        ({"random": -1}, {}, "--random -1: draw 0 or more random prunings, better 20."),
        ({"fractions": (2.0,)}, {}, "fractions holds 2.0: a share to keep lies between 0 and 1."),
    ],
)
def test_prunings_and_exports_without_sense_are_refused(tmp_path, settings, export, message):
    with says(InputError, message):
        pruned(tmp_path, tts_prune.Settings(**settings), tts_prune.Export(**export))


# ---------------------------------------------------------------- compare


def test_the_table_of_agreement_holds_the_score_and_its_relatives(scored, beside):
    pairs = {(row["a"], row["b"]): row for row in beside.table}
    names = {name for pair in pairs for name in pair}
    assert {"tts", "nec", "suf", "early_answering", "leave_one_out"} <= names
    assert pairs["tts", "early_answering"]["rho"] > 0.7
    assert pairs["tts", "early_answering"]["n_problems"] <= N
    assert list(beside.table) == beside.store.rows("agreement")
    assert list(beside.chains) == beside.store.rows("chain_means")
    gap = next(row for row in beside.chains if row["measure"] == "gap")
    assert gap["mean"] > 0.99 and gap["n_chains"] == N
    means = {(s.id, s.step): s for c in tts_runs.open_run(scored).chains for s in c.means}
    values = tts_compare.score_values(tts_runs.open_run(scored).chains)
    assert {(v.id, v.step): v.value for v in values if v.measure == "suf"} == {
        key: abs(step.suf) for key, step in means.items()
    }
    assert any(step.suf < 0 for step in means.values())  # a harmful step counts by its size


def test_a_second_comparison_computes_nothing(scored, beside, monkeypatch):
    for name in COMPARE.measures:
        monkeypatch.setitem(tts_compare.MEASURES, name, never)
    again = compared(scored, out=beside.store.folder)
    assert (again.table, again.chains) == (beside.table, beside.chains)


def test_a_stopped_comparison_goes_on(scored, beside, tmp_path, monkeypatch):
    real = tts_compare.MEASURES["drop"]
    stopped, _ = after(3, real)
    monkeypatch.setitem(tts_compare.MEASURES, "drop", stopped)
    with pytest.raises(KeyboardInterrupt):
        compared(scored, out=tmp_path / "out")
    rest, calls = after(0, real)
    monkeypatch.setitem(tts_compare.MEASURES, "drop", rest)
    done = compared(scored, out=tmp_path / "out")
    assert len(calls) == N - 2 and tables(done.store) == tables(beside.store)


def test_a_chain_that_a_measure_cannot_take_is_marked_and_the_others_kept(run, monkeypatch):
    real = tts_compare.MEASURES["early"]

    def _early(model, chain: Chain, *rest):
        if chain.problem.id == "planted-2-1":
            raise InputError("no luck")
        return real(model, chain, *rest)

    monkeypatch.setitem(tts_compare.MEASURES, "early", _early)
    done = compared(run, tts_compare.Settings(measures=("early",)))
    assert done.store.rows("compare_marked") == [
        {"id": "planted-2-1", "step": -1, "seed": 0, "reason": "no luck", "measure": "early"}
    ]
    there = {row["id"] for row in done.store.rows("step_values")}
    assert done.marked == 1 and there == {f"planted-2-{i}" for i in range(N)} - {"planted-2-1"}


def test_receiver_heads_are_chosen_on_one_half_and_read_on_the_other(run):
    done = compared(run, tts_compare.Settings(measures=("receivers",)))
    names = set(runs.table_names(done.store))
    assert "receiver_heads" in names or done.marked
    if "receiver_heads" in names:
        assert {row["half"] for row in done.store.rows("receiver_heads")} == {0, 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"measures": ("earl",)},
            "--measures earl: there are early, drop, mistake, regenerate, paraphrase, attention, "
            "resample, whole, dependency, receivers. Did you mean 'early'?",
        ),
        ({"measures": ()}, "--measures nothing: name each measure once, and at least one."),
        (
            {"measures": ("early", "early")},
            "--measures early early: name each measure once, and at least one.",
        ),
        ({"rollouts": 1}, "--rollouts 1: a distribution needs at least 2."),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: write at least 1."),
    ],
)
def test_settings_of_a_comparison_out_of_range_are_refused(wrong, message):
    with says(InputError, message):
        tts_compare.Settings(**wrong)


def test_restored_checks_are_counted_on_test_problems_at_a_layer_chosen_elsewhere():
    """By hand: layer 0 wins on the selection problem, layer 1 on the test problems."""

    def trial(problem: str, layer: int, flipped: bool, arm: str = "direction") -> Trial:
        about = {"step": 0, "seed": 0, "test": "disengage", "arm": arm, "coefficient": 1.0}
        about |= {"twin": None if arm == "direction" else 0, "unparsable": False}
        answer = "1" if flipped else "2"
        base = {"answer": answer, "logprob": -1.0, "base_logprob": -1.0}
        return Trial(problem=problem, layer=layer, flipped=flipped, **about, **base)

    trials = [trial("a", 0, True), trial("a", 1, False)]
    trials += [trial("b", 0, False), trial("b", 1, True), trial("c", 0, True), trial("c", 1, True)]
    trials += [trial("b", 0, False, "random"), trial("c", 0, False, "random")]
    rows = tts_steer_checks.restored_by_layer(trials, {"a": "select", "b": "test", "c": "test"})
    found = {(row["arm"], row["layer"]): (row["restored"], row["chosen"]) for row in rows}
    assert found == {
        ("direction", 0): (0.5, True), ("direction", 1): (1.0, False), ("random", 0): (0.0, True),
    }  # fmt: skip
    assert {row["n_problems"] for row in rows} == {2}
    alone = tts_steer_checks.restored_by_layer(trials, dict.fromkeys("abc", "test"))
    assert [row["chosen"] for row in alone] == [False, False, False]
    assert tts_steer_checks.restored_by_layer(trials, {"a": "select"}) == []
    assert tts_steer_checks.restored_by_layer([], {}) == []
