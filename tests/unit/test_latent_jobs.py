"""The jobs on latent steps: tables, numbers, marks, and going on where a run was stopped."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import interp.results as results
from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError, ModelError, SilentEditError, StoreError
from interp.jobs import latent_parts, latent_rollout, latent_runs, latent_train, runs
from interp.jobs.latent_parts import (
    CommitmentSettings,
    InfluenceSettings,
    NecessitySettings,
    Where,
)
from interp.jobs.latent_runs import SOURCES, Loading, Problems
from interp.latent.influence_rows import Job
from interp.latent.saved import load_subject, save_subject
from tests.latent_brief import make_brief
from tests.latent_cases import random_subject
from tests.latent_checkpoints import plain_run
from tests.strategies import says

COCONUT = "experiments/records/latent/coconut"
"""A trained one: two layers, four steps, the answer of cycle-hop in one token."""
N, CALIBRATION = 10, 6
QUIET = Console(file=io.StringIO())
NECESSITY = NecessitySettings(operators=("zero", "resample", "swap"), draws=1, classes=8)
INFLUENCE = InfluenceSettings(operators=("zero", "resample"))
COMMITMENT = CommitmentSettings(samples=6, sigma=1.0, shuffles=1)


def rollout(out: Path, data: str = "cycle-hop", model: str = COCONUT, n: int = N, **more: Any):
    calibration = more.pop("calibration", CALIBRATION)
    problems = Problems(data=data, n=n, calibration=calibration, seed=more.pop("seed", 0))
    loading = Loading(model=model, **more)
    return latent_rollout.rollout(loading, problems, out=out, console=QUIET)


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """Cells of 6 problems, and few resamples and penalties."""
    with pytest.MonkeyPatch.context() as patch:
        make_brief(patch)
        patch.setattr(latent_runs, "in_cells", partial(latent_runs.in_cells, chunk=6))
        yield


@pytest.fixture(autouse=True)
def page(request, monkeypatch) -> None:
    """Only the tests that look at a page draw it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(runs, "write_report", lambda store: store.folder)


@pytest.fixture
def drawn() -> None:
    """Asks for the pages."""


@pytest.fixture(scope="module")
def rolled(tmp_path_factory) -> Path:
    """A run of `N` problems without parts."""
    out = tmp_path_factory.mktemp("jobs") / "run"
    rollout(out)
    return out


@pytest.fixture
def run(rolled, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return bare(rolled, tmp_path / "run")


def bare(run: Path, out: Path) -> Path:
    """A copy of a run without its parts."""
    return Path(shutil.copytree(run, out, ignore=shutil.ignore_patterns(*runs.PARTS)))


@pytest.fixture(scope="module")
def built(rolled) -> dict[str, latent_parts.Outcome]:
    """The run's necessity and influence, made once; nobody changes them."""
    return {"necessity": needed(rolled), "influence": influenced(rolled)}


@pytest.fixture
def whole(built, rolled, tmp_path) -> Path:
    """A copy of the run with both parts."""
    return Path(shutil.copytree(rolled, tmp_path / "run"))


def needed(run: Path, settings=NECESSITY, **more: Any) -> latent_parts.Outcome:
    return latent_parts.find_necessity(Where(run=run, **more), settings, QUIET)


def influenced(run: Path, settings=INFLUENCE, **more: Any) -> latent_parts.Outcome:
    return latent_parts.find_influence(Where(run=run, **more), settings, QUIET)


def committed(run: Path, settings=COMMITMENT, **more: Any) -> latent_parts.Outcome:
    return latent_parts.find_commitment(Where(run=run, **more), settings, QUIET)


def tables(store: results.Store) -> dict[str, list[dict[str, Any]]]:
    """All rows, in an order that does not depend on the order of the cells."""
    found = {name: store.rows(name) for name in runs.table_names(store)}
    return {name: sorted(rows, key=lambda row: json.dumps(row)) for name, rows in found.items()}


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("nothing may be computed again")


def after(n: int, real: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """A stand-in for a method that is stopped at its call number `n`, and its count."""
    calls: list[int] = []

    def stopped(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return real(*args, **more)

    return stopped, calls


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def as_row(problem: LatentProblem, **more: Any) -> dict[str, Any]:
    made = {"id": problem.id, "question": problem.question, "answer": problem.answer}
    return {**made, "steps": list(problem.steps), **more}


# ---------------------------------------------------------------- rolling out


def test_a_rollout_writes_its_tables_and_says_what_it_ran(rolled, drawn):
    rollout(rolled)
    store = results.Store.open(rolled)
    found = tables(store)
    assert {name: len(rows) for name, rows in found.items()} == {
        "latent_items": N + CALIBRATION,
        "latent_steps": 4 * N,
        "accuracy": 1,
    }
    scored = [row for row in found["latent_items"] if row["role"] == "scored"]
    right = sum(row["answer"] == row["gold"] for row in scored)
    (accuracy,) = found["accuracy"]
    assert (accuracy["accuracy"], accuracy["n_problems"]) == (right / N, N) and right > N / 2
    assert all(row["width"] == 1 and row["norm"] > 0 for row in found["latent_steps"])
    assert all(row["lens"].count(" | ") == 2 for row in found["latent_steps"])
    about = store.manifest.model
    assert (about["kind"], about["n_steps"], about["path"]) == ("Coconut", 4, COCONUT)
    assert about["projection_hash"] is None and len(str(about["weights_hash"])) == 32
    assert (rolled / "report.html").stat().st_size > 1000 and runs.missing(store) == 0


def test_the_log_probabilities_are_those_of_plain_hugging_face(rolled):
    """Whole uncached passes, float32 (atol 1e-4)."""
    subject = load_subject(COCONUT)
    run = latent_runs.open_run(rolled)
    rows = {row["id"]: row for row in run.store.rows("latent_items")}
    steps = {(r["id"], r["step"]): r["norm"] for r in run.store.rows("latent_steps")}
    for problem in run.problems[:3]:
        prompt = subject.layout.prompt_ids(subject.tokenizer, problem)
        target = subject.target(problem.answer)
        latents, logprobs = plain_run(
            subject.hf, prompt, subject.close_ids, target.ids, n_steps=subject.n_steps
        )
        first, last = target.answer
        expected = sum(float(logprobs[i, target.ids[i]]) for i in range(first, last))
        assert rows[problem.id]["logprob"] == pytest.approx(expected, abs=1e-4)
        assert steps[problem.id, 4] == pytest.approx(float(latents[3].norm()), rel=1e-4)


def test_a_run_is_read_back_with_its_problems_and_calibration_apart(rolled):
    run = latent_runs.open_run(rolled)
    drawn = SOURCES["cycle-hop"](N + CALIBRATION, 0)
    plain = [LatentProblem(p.id, p.question, tuple(p.steps), p.answer) for p in drawn]
    assert (list(run.problems), list(run.calibration)) == (plain[:N], plain[N:])
    assert run.marked == 0 and run.identity == runs.identity(run.store)


def test_a_second_start_computes_nothing(whole, built, monkeypatch):
    before = {part: tables(done.store) for part, done in built.items()}
    rows = tables(results.Store.open(whole))
    monkeypatch.setattr(latent_rollout, "accuracy", never)
    monkeypatch.setattr(latent_rollout, "roll_out", never)
    monkeypatch.setattr(latent_parts, "calibrate", never)
    monkeypatch.setattr(latent_parts.necessity, "necessity", never)
    monkeypatch.setattr(latent_parts, "influence", never)
    assert rollout(whole).marked == 0
    assert tables(needed(whole).store) == before["necessity"]
    assert tables(influenced(whole).store) == before["influence"]
    assert tables(results.Store.open(whole)) == rows


def test_a_stopped_run_goes_on_where_it_was(rolled, tmp_path, monkeypatch):
    out, real = tmp_path / "run", latent_rollout.accuracy
    stopped, calls = after(3, real)
    monkeypatch.setattr(latent_rollout, "accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        rollout(out)
    assert len(results.Store.open(out).keys()) == 2
    rollout(out)
    assert len(calls) == 3 + 1  # cells of 6, 4 and of 6: the third again
    assert tables(results.Store.open(out)) == tables(results.Store.open(rolled))


@pytest.mark.parametrize(
    ("job", "module", "name"),
    [(needed, latent_parts.necessity, "necessity"), (influenced, latent_parts, "influence")],
)
def test_a_stopped_part_goes_on_and_a_damaged_cell_is_made_again(
    rolled, built, tmp_path, monkeypatch, job, module, name
):
    whole, run = tables(built[name].store), bare(rolled, tmp_path / "run")
    stopped, calls = after(2, getattr(module, name))
    monkeypatch.setattr(module, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        job(run)
    assert tables(job(run).store) == whole and len(calls) == 2 + 1
    key = results.Store.open(run / name).keys()[0]
    table = next((run / name / "cells" / key).glob("*.parquet"))
    table.write_bytes(table.read_bytes()[:-9])
    done = job(run)
    assert tables(done.store) == whole
    assert (run / name / "damaged").is_dir() and runs.missing(done.store) == 0


# ---------------------------------------------------------------- files, sources, marks


def test_bad_rows_of_a_file_are_marked_and_the_others_run(tmp_path):
    drawn = SOURCES["cycle-hop"](12, 5)
    long = " ".join(["a"] * 80)
    rows = [
        *(as_row(p) for p in drawn[:6]),
        '{"id": "half',
        {"id": "no answer", "question": "a b", "steps": ["a"]},
        as_row(drawn[6], id="long", question=long),
        as_row(drawn[10], id="again"),
        *(as_row(p) for p in drawn[8:]),
        as_row(drawn[7], id="late", question=f"{long} b"),
    ]
    done = rollout(tmp_path / "run", data=write(tmp_path / "rows.jsonl", rows), calibration=5)
    items = {row["id"]: row for row in done.store.rows("latent_items")}
    marked = {name: row for name, row in items.items() if row["status"] == "marked"}
    assert set(marked) == {"line-7", "no answer", "long", "again", "late"} and done.marked == 5
    assert marked["line-7"]["reason"].startswith("not JSON: ")
    assert marked["no answer"]["reason"].endswith("no `answer` that is text or a number")
    assert "takes 87 tokens with its steps and answer" in marked["long"]["reason"]
    assert marked["again"]["reason"] == (
        f"its question is that of the calibration problem {drawn[10].id!r}"
    )
    assert (marked["late"]["role"], marked["long"]["role"]) == ("calibration", "scored")
    run = latent_runs.open_run(tmp_path / "run")
    assert [p.id for p in run.problems] == [p.id for p in drawn[:6]]
    assert [p.id for p in run.calibration] == [p.id for p in drawn[8:]]
    assert run.marked == 5 and done.accuracy["n_problems"] == 6
    assert needed(tmp_path / "run").marked == 5


def test_problems_that_cannot_be_run_are_refused_with_nothing_written(tmp_path):
    drawn = SOURCES["cycle-hop"](8, 5)
    long = [as_row(p, question=p.question + " a" * 80) for p in drawn]
    for good, role in ((long[:5] + [as_row(p) for p in drawn[5:]], "scored"),
                       ([as_row(p) for p in drawn[:5]] + long[5:], "calibration")):  # fmt: skip
        data = write(tmp_path / "rows.jsonl", good)
        with pytest.raises(InputError, match=rf"^Too few {role} problems can be run: 0\. The fir"):
            rollout(tmp_path / "run", data=data, calibration=3)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SOURCES)
def test_every_generator_gives_problems_that_differ(name):
    rows, kept = Problems(data=name, n=50, calibration=10, seed=3).rows()
    problems = [row.problem for row in rows if row.problem is not None]
    assert (len(problems), len(kept)) == (50, 10)
    assert len({problem.question for problem in (*problems, *kept)}) == 60
    assert len({problem.id for problem in (*problems, *kept)}) == 60
    again, others = Problems(data=name, n=50, calibration=10, seed=3).rows()
    assert ([row.problem for row in again], others) == (problems, kept)
    more = Problems(data=name, n=50, calibration=10, seed=4).rows()
    assert more[1] != kept


def test_a_generator_that_repeats_itself_is_asked_for_more():
    def draw(n: int, seed: int) -> list[LatentProblem]:
        return [LatentProblem(str(i), f"question {min(i // 2, 5)}", (), "1") for i in range(n)]

    assert [p.id for p in latent_runs.distinct(draw, 4, 0)] == ["0", "2", "4", "6"]
    with says(InputError, "7 problems were asked for, and 6 different ones were drawn."):
        latent_runs.distinct(draw, 7, 0)


def test_the_told_problems_name_their_hops():
    told, plain = (SOURCES[name](2, 0) for name in ("cycle-hop-told", "cycle-hop"))
    assert len(told[0].question.split()) == len(plain[0].question.split()) + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Problems(data="cycle-hop", n=0), "--n 0: give at least 1."),
        (lambda: Problems(data="prosqa", calibration=1), "--calibration 1: give at least 2."),
        (lambda: Problems(data="prosqa", seed=-1), "--seed -1: give 0 or more."),
        (
            lambda: Problems(data="cycle-hopp").rows(),
            "There is no file cycle-hopp: give a JSONL file of problems, or a generator: "
            "cycle-hop, cycle-hop-told, arithmetic, prosqa, prontoqa. Did you mean 'cycle-hop'?",
        ),
        (lambda: Loading(model="x", steps=0), "--steps 0: give at least 1."),
        (
            lambda: Loading(model="x", lora_alpha=-1.0),
            "--lora-alpha -1.0: give a number above 0, such as 32.",
        ),
        (
            lambda: Loading(model="x", device="cudaa"),
            "There is no device 'cudaa': write cpu, cuda or cuda:0.",
        ),
        (
            lambda: Loading(model=COCONUT, steps=3).subject(),
            f"{COCONUT}, which says itself what it is, takes no --steps: leave it out.",
        ),
        (
            lambda: Loading(model="tiny-llama", kind="soft-thinking", base="x").subject(),
            "Soft thinking takes no --base: leave it out.",
        ),
        (
            lambda: Where(run=Path(), rows=1),
            "--rows 1: a pass holds an edit and its null, so give 2 or more.",
        ),
        (lambda: NecessitySettings(draws=0), "--draws 0: give at least 1."),
        (
            lambda: NecessitySettings(classes=1),
            "--classes 1: answers that can differ are 2 or more.",
        ),
        (lambda: InfluenceSettings(per_step=-1), "--per-step -1: give at least 1."),
        (
            lambda: InfluenceSettings(threshold=float("nan")),
            "--threshold nan: a share below 1, such as 0.1.",
        ),
        (
            lambda: InfluenceSettings(preset="released-code", exact=True),
            "--preset released-code re-creates faulty read-outs of the answer, batched: leave out "
            "--exact and --target.",
        ),
        (lambda: CommitmentSettings(shuffles=0), "--shuffles 0: give at least 1."),
        (lambda: CommitmentSettings(seed=-1), "--seed -1: give 0 or more."),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with says(InputError, message):
        make()


def test_a_file_needs_more_problems_than_calibrate(tmp_path):
    rows = [as_row(p) for p in SOURCES["cycle-hop"](4, 0)]
    path = write(tmp_path / "rows.jsonl", rows)
    message = (
        f"{path} holds 4 problems, and --calibration 4 keeps as many for means and donors: give "
        "more problems or a smaller number."
    )
    with says(InputError, message):
        Problems(data=path, calibration=4).rows()


# ---------------------------------------------------------------- parts


def test_necessity_is_that_of_the_method_and_its_null_flips_nothing(rolled, built):
    done = built["necessity"]
    subject = load_subject(COCONUT)
    read = latent_runs.open_run(rolled)
    bank = latent_parts.calibrate(subject, read.calibration)
    direct = latent_parts.necessity.necessity(
        subject, read.problems, bank, ("zero", "resample", "swap"), draws=(0,)
    )
    key = ("id", "operator", "steps", "draw")
    mine = {tuple(r[k] for k in key): r for r in done.store.rows("latent_edits")}
    for row in direct.rows:
        if row["operator"] != "identity":
            ours = mine[tuple(row[k] for k in key)]
            assert (ours["answer"], ours["donor"]) == (row["answer"], row["donor"])
            assert ours["kl"] == pytest.approx(row["kl"], abs=1e-4)
    null = [row for row in done.store.rows("necessity") if row["operator"] == "identity"]
    assert null and all(row["flip"] == row["kl"] == row["change"] == 0.0 for row in null)
    assert all(row["ceiling"] == 1 - 1 / 8 for row in null)
    flips = {
        r["steps"]: r["flip"] for r in done.store.rows("necessity") if r["operator"] != "identity"
    }
    assert flips["1+2+3+4"] > 0.5


def test_the_last_stop_is_the_run_itself(rolled, built):
    done = built["necessity"]
    answers = {r["id"]: r["answer"] for r in results.Store.open(rolled).rows("latent_items")}
    last = {r["id"]: r["answer"] for r in done.store.rows("latent_stops") if r["k"] == 4}
    assert len(last) == N and all(answers[name] == answer for name, answer in last.items())
    curve = done.store.rows("early_stop")
    assert [row["k"] for row in curve] == [0, 1, 2, 3, 4]
    assert curve[-1]["accuracy"] > curve[0]["accuracy"]
    assert {row["id"] for row in done.store.rows("settling")} == set(last)


def test_influence_has_an_exact_null_and_the_preset_a_folder_of_its_own(whole, built, drawn):
    done = built["influence"]
    rows = done.store.rows("latent_influence")
    null = [row for row in rows if row["operator"] == "identity"]
    assert len(null) == 10 * N and all(row["kl"] == row["change"] == 0.0 for row in null)
    shapes = done.store.rows("influence_shape")
    assert {row["identity_total"] for row in shapes} == {0.0}
    assert {row["operator"] for row in done.store.rows("influence_test")} == {"resample"}
    assert {row["preset"] for row in shapes} == {"default"}
    faulty = influenced(whole, InfluenceSettings(operators=("zero",), preset="released-code"))
    assert faulty.store.folder == whole / "influence-released-code"
    assert {row["preset"] for row in faulty.store.rows("influence_shape")} == {"released-code"}
    worst = max(r["kl"] for r in faulty.store.rows("latent_influence") if r["t"] < r["s"])
    assert worst > 0.01 and "influence_summed" in runs.table_names(faulty.store)
    page = (whole / "report.html").read_text()
    assert "released-code" in page and faulty.store.folder.joinpath("report.html").is_file()


def test_a_problem_without_a_target_is_marked_although_its_whole_cell_is(run, monkeypatch):
    lost = {p.id for p in latent_runs.open_run(run).problems[6:]}  # all of the second cell
    real = Job.target

    def target(job: Job, problem: LatentProblem, s: int) -> Any:
        if problem.id in lost:
            raise InputError(f"nothing to force for {problem.id}")
        return real(job, problem, s)

    monkeypatch.setattr(Job, "target", target)
    done = influenced(run)
    assert {row["id"] for row in done.store.rows("latent_marked")} == lost
    assert done.marked == len(lost) == 4
    shapes = done.store.rows("influence_shape")
    assert {r["n_problems"] for r in shapes if r["operator"] != "identity"} == {N - 4}
    lost |= {p.id for p in latent_runs.open_run(run).problems}
    with pytest.raises(
        InputError, match=r"^There is no effect to score; 'cycle-8-4-0-\d+': nothing"
    ):
        influenced(run, out=run / "other")


@pytest.fixture(scope="module")
def paused(tmp_path_factory) -> Path:
    """A run of a control whose slots hold one vector in every problem."""
    folder = tmp_path_factory.mktemp("paused")
    save_subject(random_subject("pause"), folder / "pause")
    rollout(folder / "run", model=str(folder / "pause"), n=3, calibration=2)
    return folder / "run"


def test_an_operator_that_changes_nothing_is_marked_beside_one_that_does(paused):
    done = influenced(paused)
    silent = {(row["operator"], row["t"]) for row in done.store.rows("latent_silent")}
    assert silent == {("resample", t) for t in (1, 2, 3, 4)}
    assert {r["operator"] for r in done.store.rows("influence")} == {"zero", "identity"}
    rows = [r for r in done.store.rows("latent_influence") if r["operator"] == "resample"]
    assert rows and all(r["change"] == r["kl"] == 0.0 for r in rows)
    edits = needed(paused, NecessitySettings(operators=("zero", "resample"), draws=1))
    reasons = {r["operator"]: r["reason"] for r in edits.store.rows("latent_edits")}
    assert reasons["zero"] == reasons["identity"] == ""
    assert "on the edge 'input' changed nothing in any of 3 problems" in reasons["resample"]
    with pytest.raises(SilentEditError, match=r"^None of resample changed anything at any step"):
        influenced(paused, InfluenceSettings(operators=("resample",)), out=paused / "other")


def test_commitment_is_written_once_and_too_few_modes_leave_no_folder(run, monkeypatch):
    weak = CommitmentSettings(samples=2, sigma=1e-6, shuffles=1)
    with pytest.raises(InputError, match=r"^0 of 10 problems have competing modes, and 3 folds"):
        committed(run, weak)
    assert not (run / "commitment").exists()
    done = committed(run)
    found = tables(done.store)
    assert len(found["latent_samples"]) == 6 * N and len(found["latent_modes"]) == N
    assert {row["source"] for row in found["commitment"]} == {"read_out", "probe"}
    assert {row["t"] for row in found["commitment_probes"]} == {1, 2, 3, 4}
    monkeypatch.setattr(latent_parts.modes, "commitment", never)
    assert tables(committed(run).store) == found


# ---------------------------------------------------------------- what belongs together


def test_wrong_operators_and_edges_are_refused_with_nothing_run_or_written(run, monkeypatch):
    monkeypatch.setattr(latent_parts, "calibrate", never)
    for settings, error in (
        (NecessitySettings(operators=("zro",)), EditError),
        (NecessitySettings(operators=()), InputError),
        (NecessitySettings(operators=("zero",), edge="kv"), EditError),
        (NecessitySettings(operators=("resample",), edge="both"), EditError),
    ):
        with pytest.raises(error):
            needed(run, settings)
    for wrong in (("rotate:x",), ("zero", "zero"), ("shuffled_donor:words",)):
        with pytest.raises((EditError, InputError)):
            influenced(run, InfluenceSettings(operators=wrong))
    with pytest.raises(InputError, match=r"^The noise is silent"):
        committed(run, CommitmentSettings(sigma=0.0))
    assert {path.name for path in run.iterdir()}.isdisjoint(runs.PARTS)


def test_a_part_belongs_to_the_rows_of_its_run_and_to_its_settings(whole):
    run = whole
    with pytest.raises(StoreError, match=r"settings\.draws = 1 and this one has 2: pick another"):
        needed(run, NecessitySettings(operators=NECESSITY.operators, draws=2, classes=8))
    store = results.Store.open(run)
    keys = store.keys()
    scored = next(key for key in keys if len(store.read(key).tables) == 2)
    shutil.rmtree(run / "cells" / scored)
    with pytest.raises(StoreError, match=r"pick another folder\.$"):
        needed(run)
    with says(
        InputError,
        f"{run / 'necessity'} holds records of 'latent_necessity', not of latent steps: name the "
        "folder that `interp latent rollout MODEL --out DIR` wrote.",
    ):
        needed(run / "necessity")


@pytest.fixture
def twin(tmp_path) -> Path:
    """A copy of the subject, to be changed."""
    return Path(shutil.copytree(COCONUT, tmp_path / "twin"))


def refused(run: Path, model: Path, what: str) -> None:
    message = (
        f"{model} has {what} than the subject of {run}: name that one with --model, or roll it "
        "out again."
    )
    with says(ModelError, message):
        needed(run, model=str(model))
    assert not (run / "necessity").exists()


def test_another_subject_is_refused_and_a_copy_is_the_subject(run, twin):
    assert needed(run, model=str(twin), out=run / "copy").marked == 0
    weights = load_file(twin / "model.safetensors")
    name = sorted(weights)[0]
    about = json.loads((twin / "latent.json").read_text())
    (twin / "latent.json").write_text(json.dumps({**about, "n_steps": 3}))
    refused(run, twin, "another number of steps")
    (twin / "latent.json").write_text(json.dumps({**about, "kind": "no_recurrence"}))
    refused(run, twin, "other steps") if _convention(twin) else None
    (twin / "latent.json").write_text(json.dumps(about))
    save_file({**weights, name: weights[name] + 1}, twin / "model.safetensors")
    refused(run, twin, "other weights")


def _convention(folder: Path) -> bool:
    return load_subject(folder).convention != load_subject(COCONUT).convention


def test_another_projection_is_refused(tmp_path):
    save_subject(random_subject("codi"), tmp_path / "codi")
    rollout(tmp_path / "run", model=str(tmp_path / "codi"), n=2, calibration=2)
    path = tmp_path / "codi" / "model.safetensors"
    weights = load_file(path)
    save_file({k: v + k.startswith("prj.ln") for k, v in weights.items()}, path)
    refused(tmp_path / "run", tmp_path / "codi", "another projection")


def test_a_subject_that_is_gone_is_asked_for(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        needed(run)
    assert str(error.value).startswith(f"There is no checkpoint {COCONUT}")
    assert str(error.value).endswith(f"{run} is of that model: name it with --model.")
    with pytest.raises(ModelError, match=r"or a hub id \(owner/name\)\.$"):
        needed(run, model="a/b/c")


def test_runs_of_other_commands_and_empty_ones_are_refused(tmp_path, run):
    keys = results.Store.open(run).keys()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "experiment": "tts"}))
    with pytest.raises((InputError, StoreError)):
        latent_runs.open_run(run)
    (run / "manifest.json").write_text(json.dumps(manifest))
    for key in keys:
        shutil.rmtree(run / "cells" / key)
    with says(InputError, f"{run} holds no problem that was run (no rows)."):
        latent_runs.open_run(run)


# ---------------------------------------------------------------- kinds of subjects


def test_a_chat_model_thinks_softly_through_every_part(tmp_path):
    done = rollout(tmp_path / "run", model="tiny-llama", kind="soft-thinking", steps=2, n=3)
    about: Any = done.store.manifest.model
    assert (about["kind"], about["n_steps"]) == ("SoftThinking", 2)
    assert about["loading"]["kind"] == "soft-thinking"
    settings = NecessitySettings(operators=("zero", "resample"), draws=1)
    edits = needed(tmp_path / "run", settings).store.rows("latent_edits")
    assert {row["steps"] for row in edits} == {"1", "2"}
    null = [row for row in edits if row["operator"] == "identity"]
    assert null and all(row["kl"] == 0.0 and not row["flip"] for row in null)
    shapes = influenced(tmp_path / "run").store.rows("influence_shape")
    assert {row["identity_total"] for row in shapes} == {0.0}


def test_a_subject_with_one_step_has_no_shape_and_says_so(tmp_path):
    rollout(tmp_path / "run", model="tiny-llama", kind="soft-thinking", steps=1, n=2)
    done = influenced(tmp_path / "run")
    assert {row["t"] for row in done.store.rows("influence")} == {1}
    faulty = InfluenceSettings(operators=("zero",), preset="released-code")
    with says(InputError, "There is no effect to score; with one step no t lies before an s."):
        influenced(tmp_path / "run", faulty)


def test_a_control_without_latents_is_scored_and_not_edited(tmp_path):
    save_subject(random_subject("no_latents"), tmp_path / "control")
    done = rollout(tmp_path / "run", model=str(tmp_path / "control"), n=2, calibration=2)
    assert runs.table_names(done.store) == ["accuracy", "latent_items"]
    for job in (needed, influenced, committed):
        with pytest.raises(InputError, match=r"^no_latents has no latent steps, so there is noth"):
            job(tmp_path / "run")


def test_another_dtype_moves_the_projection_too(tmp_path):
    save_subject(random_subject("codi"), tmp_path / "codi")
    done = rollout(
        tmp_path / "run", model=str(tmp_path / "codi"), n=2, calibration=2, dtype="float64"
    )
    assert done.store.manifest.model["dtype"] == "float64"
    with says(InputError, "There is no dtype 'float23'; there are: float32, float64, bfloat16, "
                          "float16. Did you mean 'float32'?"):  # fmt: skip
        Loading(model="x", dtype="float23")


# ---------------------------------------------------------------- training


def test_a_trained_folder_is_read_by_rollout_and_says_how_it_was_made(tmp_path):
    settings = latent_train.Settings(
        recipe="cycle-coconut", out=tmp_path / "made", updates=2, held_out=4, seed=3
    )
    done = latent_train.train_subject(settings, console=QUIET)
    assert done.updates == 2 and done.accuracy[0]["n_problems"] == 4 and done.seconds > 0
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert (manifest["experiment"], manifest["seeds"]) == ("latent_train", [3])
    assert manifest["settings"]["updates"] == 2
    assert manifest["notes"]["accuracy"][0]["subject"] == done.accuracy[0]["subject"]
    held = {p.question for p in latent_train.source_of(settings, settings.chosen())[1]}
    assert len(held) == 4
    subject = load_subject(tmp_path / "made")
    assert subject.n_steps == 4 and not torch.equal(
        subject.hf.get_input_embeddings().weight,  # type: ignore[arg-type]
        load_subject(COCONUT).hf.get_input_embeddings().weight,  # type: ignore[arg-type]
    )
    with says(InputError, f"--out {tmp_path / 'made'} is there already: name a new folder."):
        latent_train.Settings(recipe="cycle-coconut", out=tmp_path / "made")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"updates": 0}, "--updates 0: give at least 1."),
        ({"held_out": -3}, "--held-out -3: give at least 1."),
        ({"seed": -1}, "--seed -1: give 0 or more."),
    ],
)
def test_settings_of_a_training_out_of_range_are_refused(tmp_path, wrong, message):
    with says(InputError, message):
        latent_train.Settings(recipe="cycle-coconut", out=tmp_path / "new", **wrong)


def test_a_training_on_a_file_holds_the_last_problems_out(tmp_path):
    drawn = SOURCES["cycle-hop"](6, 0)
    data = Path(write(tmp_path / "rows.jsonl", [as_row(p) for p in drawn]))
    settings = latent_train.Settings(
        recipe="cycle-pause", out=tmp_path / "new", data=data, held_out=2
    )
    source, held = latent_train.source_of(settings, settings.chosen())
    assert [p.id for p in held] == [p.id for p in drawn[4:]]
    assert {p.id for p in source.problems} == {p.id for p in drawn[:4]}  # type: ignore[attr-defined]
    few = latent_train.Settings(recipe="cycle-pause", out=tmp_path / "new", data=data, held_out=6)
    with says(
        InputError,
        f"{data} holds 6 problems, and --held-out 6 of them are for scoring: give more, or hold "
        "fewer out.",
    ):
        latent_train.source_of(few, few.chosen())
    bare = latent_train.Settings(recipe="codi-gpt2", out=tmp_path / "new")
    with says(
        InputError,
        "codi-gpt2 trains gpt2 on problems of yours: name a file with --data.",
    ):
        latent_train.train_subject(bare, console=QUIET)
    assert not (tmp_path / "new").exists()
