"""The records of `interp tts`, read back as scored chains, equal what was scored."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import interp.results as results
from experiments.bad_chains import SCORING, problems, scored_run, write_rows
from interp.engine.loading import load
from interp.errors import InputError, ModelError, StoreError
from interp.jobs import runs, tts, tts_runs
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain
from interp.thinking.scored import ScoredChain
from tests.strategies import says

QUIET = Console(file=io.StringIO())
TEXT = "We start with 17 apples. Then we add 27 pears. A lamp costs 57 coins."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of three planted chains."""
    return scored_run(tmp_path_factory.mktemp("runs") / "run", 3)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "run"))


def changed_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def scored(row: Mapping[str, Any], rules: Rules, **about) -> ScoredChain:
    """What a run must give back for a row, from the methods themselves."""
    model = load("planted-steps")
    problem = Problem(row["id"], row["question"], row["cot"], **about)
    chain = prepare(model, problem, rules)
    found = score_chain(model, chain, rules, seeds=(0,), control_seeds=0)
    # A run keeps what the chain was cut into, not what it was cut by.
    return ScoredChain(replace(chain, problem=replace(problem, spans=None)), tuple(found.steps))


# ---------------------------------------------------------------- reading back


def test_a_run_reads_back_as_the_chains_that_were_scored(folder):
    run = tts_runs.open_run(folder)
    expected = [scored(row, Rules()) for row in problems(3)]
    assert (run.rules, run.marked, len(run.chains)) == (Rules(), 0, 3)
    assert list(run.chains) == expected
    assert [step.text for step in run.chains[0].chain.steps]
    legs = {(s.nec, s.suf, s.tts) for chain in run.chains for s in chain.scores}
    assert len(legs) > 3 and max(tts for _, _, tts in legs) > 0.49
    assert [chain.means for chain in run.chains] == [chain.means for chain in expected]


def test_steps_of_user_spans_come_back_as_they_were_given(tmp_path):
    spans = ((0, 13), (14, 46), (47, len(TEXT)))
    row = {"id": "a", "question": "What?", "cot": TEXT, "spans": spans}
    out = scored_run(tmp_path / "run", 0, rows=[row])
    (chain,) = tts_runs.open_run(out).chains
    assert chain == scored(row, Rules(), spans=spans)
    assert [step.text.strip() for step in chain.chain.steps] == [TEXT[a:b] for a, b in spans]
    own = prepare(load("planted-steps"), Problem("a", "What?", TEXT), Rules())
    assert [step.text for step in chain.chain.steps] != [step.text for step in own.steps]


def test_rules_gold_answers_and_draws_come_back_too(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", [{**problems(1)[0], "answer": "so #### 11"}])
    settings = tts.Settings(seeds=2, preset="released-code", target="gold", control_seeds=0)
    tts.tts(
        data, model="planted-steps", out=tmp_path / "run", settings=settings, limit=None,
        dtype=None, device="cpu", memory_gib=2.0, console=QUIET,
    )  # fmt: skip
    run = tts_runs.open_run(tmp_path / "run")
    assert run.rules == settings.rules != Rules()
    (chain,) = run.chains
    assert (chain.chain.answer, chain.chain.answer_source) == ("11", "gold")
    assert chain.chain.problem.gold == "11"
    assert {score.seed for score in chain.scores} == {0, 1}
    assert len(chain.scores) == 2 * len(chain.means)


def test_marked_rows_are_counted_and_left_out(tmp_path):
    rows = [problems(1)[0], {"id": "b", "question": "?", "cot": " "}, '{"id": "half']
    run = tts_runs.open_run(scored_run(tmp_path / "run", 0, rows=rows))
    assert ([chain.id for chain in run.chains], run.marked) == (["planted-2-0"], 2)


def test_the_identity_follows_settings_and_rows(folder, tmp_path):
    one, two = tts_runs.open_run(folder), tts_runs.open_run(copied(folder, tmp_path))
    assert one.identity == two.identity
    first = sorted(two.store.keys())[0]
    shutil.rmtree(two.store.folder / "cells" / first)
    assert tts_runs.open_run(two.store.folder).identity != one.identity


# ---------------------------------------------------------------- refusals


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with says(
        StoreError, f"There is no run at {tmp_path}: it has no manifest.json. Check the path."
    ):
        tts_runs.open_run(tmp_path)
    with pytest.raises(StoreError, match=r"nowhere: it is not a folder\. Check the path\.$"):
        tts_runs.open_run(tmp_path / "nowhere")


def test_a_run_of_another_command_is_refused(folder, tmp_path):
    other = copied(folder, tmp_path)
    changed_manifest(other, lambda about: about.update(experiment="patch", settings={"by": "head"}))
    expected = (
        f"{other} holds records of 'patch', not scores of steps: name the folder that `interp tts "
        "INPUT.jsonl --out DIR` wrote."
    )
    with says(InputError, expected):
        tts_runs.open_run(other)


def test_a_run_without_a_scored_row_is_refused(tmp_path):
    out = scored_run(tmp_path / "run", 0, rows=[{"id": "b", "question": "?", "cot": " "}])
    expected = (
        f"{out} holds no scored chain (empty chain: the row's `cot` has no text): score some with "
        "`interp tts`."
    )
    with says(InputError, expected):
        tts_runs.open_run(out)


def test_steps_cut_elsewhere_are_refused(folder, tmp_path):
    """Records without the cuts, as older ones, whose text this version cuts in another way."""
    out = copied(folder, tmp_path)
    store = results.Store.open(out)
    chain = tts_runs.open_run(folder).chains[0]
    ids = {key: store.read(key).table("chains")["id"][0].as_py() for key in sorted(store.keys())}
    (key,) = [key for key, name in ids.items() if name == chain.id]
    about = store.read(key)
    rows = {name: about.table(name).to_pylist() for name in about.about["tables"]}
    rows["chains"][0]["starts"] = None
    rows["steps"][0]["end"] += 1
    shutil.rmtree(out / "cells" / key)
    store.write(key, about.about["identity"], {n: r for n, r in rows.items() if r}, {})
    score = chain.scores[0]
    expected = (
        f"Step {score.step} of {chain.id} was cut at {score.start} to {score.end + 1}, and this "
        "version cuts the chain elsewhere: score it again."
    )
    with says(InputError, expected):
        tts_runs.open_run(out)


def test_rules_of_another_version_are_refused(folder, tmp_path):
    out = copied(folder, tmp_path)
    changed_manifest(out, lambda about: about["settings"]["rules"].update(mood="good"))
    expected = (
        "The run's rules hold 'mood', which this version does not know: score the chains again."
    )
    with says(InputError, expected):
        tts_runs.open_run(out)


def test_other_weights_are_refused_and_the_same_are_found_by_name(folder):
    run = tts_runs.open_run(folder)
    assert tts_runs.load_model(run, None, dtype=None, device="cpu").name == "planted-steps"
    end = "scored: name that one with --model, with --dtype float32, or score the chains again."
    for name, dtype in (("planted-ignores", None), (None, "float64")):
        shown = name or "planted-steps"
        message = f"{shown} has other weights than the model that {folder} {end}"
        with says(ModelError, message):
            tts_runs.load_model(run, name, dtype=dtype, device="cpu")


def test_a_model_whose_recorded_name_finds_nothing_is_asked_for(folder, tmp_path):
    out = copied(folder, tmp_path)
    changed_manifest(out, lambda about: about["model"].update(name="x", path="gone/model-x"))
    run = tts_runs.open_run(out)
    with pytest.raises(ModelError) as caught:
        tts_runs.load_model(run, None, dtype=None, device="cpu")
    assert str(caught.value).endswith(
        f" The scores in {out} are of 'gone/model-x': give its folder or id with --model."
    )
    assert tts_runs.load_model(run, "planted-steps", dtype=None, device="cpu").name
    with pytest.raises(ModelError) as caught:
        tts_runs.load_model(run, "planted-stesp", dtype=None, device="cpu")
    assert "The scores in" not in str(caught.value)


def test_a_part_lies_in_the_run_unless_told_elsewhere_and_belongs_to_its_rows(folder, tmp_path):
    run, model = tts_runs.open_run(copied(folder, tmp_path)), load("planted-steps")
    store = tts_runs.begin(run, model, "steer-test", None, {"a": 1})
    assert store.folder == run.store.folder / "steer-test"
    about = store.manifest
    assert (about.experiment, about.data) == ("tts_steer_test", run.identity)
    assert list(about.seeds) == [0] == list(range(SCORING.seeds))
    elsewhere = tts_runs.begin(run, model, "prune", tmp_path / "else", {"a": 1})
    assert elsewhere.folder == tmp_path / "else"
    assert tts_runs.begin(run, model, "steer-test", None, {"a": 1}).manifest == about
    with pytest.raises(StoreError, match=r"settings"):
        tts_runs.begin(run, model, "steer-test", None, {"a": 2})
    shutil.rmtree(run.store.folder / "cells" / sorted(run.store.keys())[0])
    fewer = tts_runs.open_run(run.store.folder)
    with pytest.raises(StoreError, match=r"pick another folder\.$"):
        tts_runs.begin(fewer, model, "steer-test", None, {"a": 1})


def test_a_part_is_refused_where_a_file_or_something_else_lies(folder, tmp_path):
    run = tts_runs.open_run(folder)
    note = tmp_path / "note"
    note.write_text("mine")
    with says(StoreError, f"{note} is a file, and a run needs a folder: pick another."):
        runs.folder_of(run.store, "prune", note)
    expected = (
        f"{tmp_path} is not empty and has no manifest.json, so it is not a run: pick another "
        "folder."
    )
    with says(StoreError, expected):
        runs.folder_of(run.store, "prune", tmp_path)
    assert runs.folder_of(run.store, "prune", None) == folder / "prune"


def test_every_field_of_a_score_is_kept(folder):
    run = tts_runs.open_run(folder)
    rows = run.store.rows("steps")
    assert [asdict(score) for chain in run.chains for score in chain.scores] == rows


def test_the_users_checks_come_back_and_are_none_where_none_are_given(tmp_path):
    rows = [{**row, "checks": [1]} if place == 0 else row for place, row in enumerate(problems(3))]
    run = scored_run(tmp_path / "run", 3, rows=rows)
    found = [chain.chain.problem.checks for chain in tts_runs.open_run(run).chains]
    assert found == [(1,), None, None]


def test_a_run_of_a_folders_model_finds_it_again(tmp_path, monkeypatch):
    """The name is the folder's last part; what it was loaded by is kept beside it."""
    tiny_folder = tmp_path / "models" / "mine"
    model = load("planted-steps")
    model.hf.save_pretrained(tiny_folder)
    model.tokenizer.save_pretrained(tiny_folder)
    run = tts_runs.open_run(scored_run(tmp_path / "run", 2, model=str(tiny_folder)))
    assert run.store.manifest.model["name"] == "mine"
    assert tts_runs.load_model(run, None, dtype=None, device="cpu").name == "mine"
