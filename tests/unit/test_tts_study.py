"""The study of one subject and the command for all of them, on the trained thinkers."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments import parts, tts_all, tts_study
from experiments.tts_study import GENERATED, SUBJECTS, Config, Plan, condense, plan
from interp.errors import InputError, StoreError
from interp.jobs import runs, tts, tts_compare, tts_direction, tts_prune, tts_runs, tts_steer
from interp.models import thinker
from interp.models.reasoning import REASONING
from interp.results import Store
from tests.strategies import says

QUIET = Console(quiet=True)
N = 5
"""Chains of the thinker in these tests."""


def small(subject: str, size: tts_study.Size) -> Plan:
    """The smoke plan with fewer draws, items and measures."""
    return replace(
        plan(subject, size),
        scores=tts.Settings(seeds=1, control_seeds=0, max_new_tokens=8),
        sets=tts_direction.SetSettings(shuffled=1),
        steer=tts_steer.Settings(items=4, random_layers="chosen", bins=False, checks=False),
        every=2,
        prune=tts_prune.Settings(fractions=(0.0, 0.5), random=2, decode=False),
        compare=tts_compare.Settings(measures=("early",)),
    )


def study(folder, **more) -> tts_study.Study:
    """Run a study by the small plan, without the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tts_study, "plan", small)
        patch.setattr("interp.results.source_hash", lambda *_: "one version")
        patch.setattr("interp.jobs.runs.write_report", lambda store: store.folder)
        return tts_study.run(Config(out=folder, **more), QUIET)


@pytest.fixture(scope="module")
def thought(tmp_path_factory) -> tts_study.Study:
    return study(tmp_path_factory.mktemp("thought"), limit=N)


@pytest.fixture(scope="module")
def ignored(tmp_path_factory) -> tts_study.Study:
    return study(tmp_path_factory.mktemp("ignored"), subject="thinker-ignores", limit=4)


def notes(folder) -> dict[str, Any]:
    found: Any = Store.open(folder).manifest.notes
    return found


def status(made: tts_study.Study) -> dict[str, str]:
    return {part.part: part.status for part in made.parts}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subject": "thinkr"},
            f"There is no subject 'thinkr'; there are: {', '.join(SUBJECTS)}. "
            "Did you mean 'thinker'?",
        ),
        (
            {"subject": "gsm8k"},
            "gsm8k has no problems of its own: name a JSONL file with --input.",
        ),
        (
            {"subject": "qwen3-4b"},
            "qwen3-4b has no problems of its own: name a JSONL file with --input.",
        ),
        (
            {"subject": "words", "input": "a.jsonl"},
            "--input a.jsonl: words generates its problems; leave it out, or take gsm8k or a "
            "reasoning model.",
        ),
        ({"limit": 0}, "--limit 0: take at least 1 problem."),
    ],
)
def test_settings_that_have_no_meaning_are_refused(wrong, message):
    with says(InputError, message):
        Config(**wrong)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_paper_size_is_never_smaller_than_the_smoke_size(subject):
    smoke, paper = plan(subject, "smoke"), plan(subject, "paper")
    assert paper.n > smoke.n
    assert paper.scores.seeds == 5 > smoke.scores.seeds
    assert paper.every == 1 <= smoke.every
    assert paper.steer.random_layers == "all"
    assert min(paper.sets.random, smoke.sets.random) >= 20
    assert set(smoke.compare.measures) < set(paper.compare.measures) == set(tts_study.ALL)
    assert paper.scores.max_new_tokens >= smoke.scores.max_new_tokens


def test_reasoning_models_write_as_they_are_published_and_small_ones_have_lower_thresholds():
    for name, known in REASONING.items():
        made = plan(name, "paper").scores
        written = (made.temperature, made.top_p, made.max_new_tokens)
        assert written == (known.temperature, known.top_p, known.max_new_tokens)
        assert plan(name, "paper").sets.true_from == 0.9
    assert plan("words", "smoke").sets.true_from == plan("gsm8k", "paper").sets.true_from == 0.05
    assert plan("thinker", "smoke").sets.true_from == 0.9


def test_a_subject_knows_its_weights():
    assert Config(subject="thinker-ignores").weights.endswith("thinker_ignores")
    assert Config(subject="words").weights == "smollm2-135m"
    assert Config(subject="qwen3-4b", input=Path("a.jsonl")).weights == "qwen3-4b"
    assert Config(subject="words", model="tiny-llama").weights == "tiny-llama"


def test_rows_are_the_generated_chains_or_those_of_the_file(tmp_path):
    rows, about = tts_study.rows_of(Config(seed=3), 2)
    chains = thinker.chains(2, seed=3)
    assert [(row.id, row.cot, row.answer) for row in rows] == [
        (each.id, each.chain, each.answer) for each in chains
    ]
    assert about == {"chains": "thinker.chains(2, seed=3), checks as restated"}
    for row, each in zip(rows, chains, strict=True):
        assert row.checks == thinker.restated(thinker.lines(each.chain), int(each.guess))
    rows, about = tts_study.rows_of(Config(subject="words", limit=3), 2)
    assert (len(rows), [row.cot for row in rows]) == (3, [None] * 3)
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "question": "1 + 1?"}) + "\n" for i in "ab"))
    rows, about = tts_study.rows_of(Config(subject="gsm8k", input=path), 1)
    assert ([row.id for row in rows], about["path"], about["limit"]) == (
        ["a"],
        "problems.jsonl",
        "1",
    )


def test_every_so_many_layers_end_at_the_final_output_where_it_falls_so():
    assert tts_study.layers(6, 3) == (0, 3, 6)
    assert tts_study.layers(6, 4) == (0, 4)
    assert tts_study.layers(6, 1) == ()


# ---------------------------------------------------------------- a study


def test_the_thinker_has_every_part_and_the_notes_say_so(thought):
    assert status(thought) == dict.fromkeys(("scores", *runs.SCORED_PARTS), "done")
    kept = notes(thought.folder)["study"]
    assert [(row["part"], row["status"]) for row in kept] == list(status(thought).items())
    assert all(row["cpu_seconds"] >= 0 for row in kept)
    for part in runs.SCORED_PARTS:
        assert Store.open(thought.folder / part).keys()
    assert (thought.folder / "direction" / "direction.safetensors").is_file()


def test_the_scores_are_those_of_plain_hugging_face(thought):
    """log Pr(y*) after the intact step, forward pass by forward pass, in float32 (atol 1e-4)."""
    run = tts_runs.open_run(thought.folder)
    hf = tts_runs.load_model(run, str(tts_study.RECORDS / "thinker"), dtype=None, device="cpu")
    chain = run.chains[0]
    for score in chain.scores[:4]:
        before = chain.chain.prompt + chain.chain.text[: score.end].rstrip() + run.rules.cue
        text = [hf.tokenizer(t, add_special_tokens=False).input_ids for t in (before, "")]
        answer = hf.tokenizer(chain.chain.answer + "}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = hf.hf(torch.tensor([[*text[0], *answer]])).logits[0].log_softmax(-1)
        first = len(text[0]) - 1
        expected = sum(float(logits[first + i, token]) for i, token in enumerate(answer))
        assert score.s1c1 == pytest.approx(expected, abs=1e-4)


def test_the_known_steps_are_found(thought):
    """Steps of two kinds at least; those that count score above those that never do."""
    chains = {each.id: each for each in thinker.chains(N, seed=1)}
    sides: dict[bool, list[float]] = {True: [], False: []}
    for chain in tts_runs.open_run(thought.folder).chains:
        for step in chain.means:
            kind = chains[chain.id].kinds[step.step]
            if kind != "base":
                sides[kind != "decorative"].append(step.tts)
    pairs = [(true, idle) for true in sides[True] for idle in sides[False]]
    wins = [1.0 if true > idle else 0.5 if true == idle else 0.0 for true, idle in pairs]
    assert sum(wins) / len(pairs) > 0.9


def test_coefficient_zero_flips_nothing(thought):
    rows = Store.open(thought.folder / "steer-test").rows("steer_trials")
    none = [row for row in rows if row["arm"] == "none"]
    assert none
    assert not any(row["flipped"] for row in none)
    assert all(math.isclose(row["logprob"], row["base_logprob"], abs_tol=1e-5) for row in none)


def test_a_second_start_computes_nothing_again(thought, monkeypatch):
    keys = {part: Store.open(thought.folder / part).keys() for part in ("", *runs.SCORED_PARTS)}
    before = notes(thought.folder)["study"]

    def no_forward(*_, **__):
        pytest.fail("nothing may be computed again")

    monkeypatch.setattr("interp.jobs.tts.score_row", no_forward)
    monkeypatch.setattr("interp.jobs.tts_steer_trials.steer", no_forward)
    monkeypatch.setattr("interp.jobs.tts_prune.prune.prune", no_forward)
    measured = dict.fromkeys(tts_study.ALL, no_forward)
    monkeypatch.setattr("interp.jobs.tts_compare.MEASURES", measured)
    again = study(thought.folder.parent, limit=N)
    assert set(status(again).values()) == {"done"}
    for part, known in keys.items():
        assert Store.open(thought.folder / part).keys() == known
    after = notes(thought.folder)["study"]
    times = [{row["part"]: row["cpu_seconds"] for row in each} for each in (before, after)]
    assert all(times[1][part] >= times[0][part] for part in times[0])


def test_other_settings_in_the_same_folder_are_refused(thought):
    with pytest.raises(StoreError, match="thinker"):
        study(thought.folder.parent, limit=N, seed=2)


def test_the_model_that_ignores_its_chain_scores_zero_and_has_no_direction(ignored):
    made = status(ignored)
    assert made["direction"] == made["steer-test"] == "skipped"
    assert made["scores"] == made["prune"] == made["compare"] == "done"
    said = {part.part: part.said for part in ignored.parts}
    assert len(said["direction"]) == len(said["steer-test"]) == 1
    assert "true" in said["direction"][0]
    steps = Store.open(ignored.folder).rows("steps")
    assert max(step["tts"] for step in steps) < 0.05
    assert notes(ignored.folder)["warnings"][0] == f"direction was left out: {said['direction'][0]}"


def test_chains_without_an_answer_leave_every_part_out_in_words(tmp_path):
    """A random model writes no answer: nothing is scored, and nothing crashes."""
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "1 + 1?"}) + "\n")
    made = study(tmp_path, subject="gsm8k", input=path, model="tiny-llama")
    assert status(made) == {"scores": "done"} | dict.fromkeys(runs.SCORED_PARTS, "skipped")
    assert made.parts[0].said[-1] == "1 of 1 chains are marked."
    assert all("holds no scored chain" in part.said[0] for part in made.parts[1:])


# ---------------------------------------------------------------- copies


@pytest.fixture(scope="module")
def copied(thought, tmp_path_factory):
    return condense(thought.folder, tmp_path_factory.mktemp("copied") / "thinker")


def test_a_copy_holds_every_row_in_one_cell_a_run(thought, copied):
    for part in ("", *runs.SCORED_PARTS):
        one, other = Store.open(thought.folder / part), Store.open(copied / part)
        assert len(other.keys()) == 1
        assert runs.table_names(other) == runs.table_names(one)
        for name in runs.table_names(one):
            assert other.rows(name) == one.rows(name)
        assert other.manifest.notes["condensed"] == f"{len(one.keys())} cells as one"
        assert other.manifest.spent == one.manifest.spent
        assert not (copied / part / "report.html").exists()
        assert not (copied / part / ".lock").exists()
    files = [len(list(folder.rglob("*.parquet"))) for folder in (copied, thought.folder)]
    assert files[0] < files[1] / 2


def test_a_copied_run_is_read_as_the_run_and_its_parts_are_still_its_own(thought, copied):
    runs_read = [tts_runs.open_run(folder) for folder in (thought.folder, copied)]
    assert runs_read[0].chains == runs_read[1].chains
    for part in runs.SCORED_PARTS:
        data = Store.open(copied / part).manifest.data
        assert data == runs_read[1].identity != runs_read[0].identity


def test_a_copy_replaces_a_copy_and_nothing_else(thought, ignored, copied, tmp_path):
    out = tmp_path / "copy"
    for part in ("", "direction"):
        shutil.copytree(copied / part, out / part, dirs_exist_ok=True)
    (out / "stray.txt").write_text("old")
    condense(ignored.folder, out)
    assert (
        Store.open(out).manifest.settings_hash == Store.open(ignored.folder).manifest.settings_hash
    )
    assert not (out / "stray.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    for place in (tmp_path / "mine", thought.folder):
        message = f"{place} is no copy of earlier records, so it is not replaced: move it."
        with says(InputError, message):
            condense(thought.folder, place)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    with pytest.raises(StoreError, match="There is no run at"):
        condense(tmp_path / "nowhere", tmp_path / "other")


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subjects": ("words", "gsm8k")},
            "--subjects gsm8k: here are the subjects without a file of problems, "
            f"{', '.join(GENERATED)}; for others run experiments.tts_study with --input.",
        ),
        ({"subjects": ("words", "words")}, "--subjects words words: name each subject once."),
        ({"workers": 0}, "--workers 0: give at least 1."),
    ],
)
def test_all_refuses_what_it_cannot_run(wrong, message):
    with says(InputError, message):
        tts_all.Config(**wrong)


def test_every_command_is_one_that_its_module_takes(tmp_path):
    import tyro

    from experiments import failed_steps

    config = tts_all.Config(out=tmp_path / "r", work=tmp_path / "w")
    made = tts_all.parts(config)
    assert list(made) == ["words", "thinker", "thinker-ignores", "failed_steps"]
    for name in GENERATED:
        assert made[name][0] == "experiments.tts_study"
        read = tyro.cli(Config, args=made[name][1:])
        assert (read.subject, read.size, read.folder) == (name, "smoke", tmp_path / "w" / name)
        assert read.records == tmp_path / "r" / "tts_study"
    read = tyro.cli(failed_steps.Config, args=made["failed_steps"][1:])
    assert (read.scale, read.out) == ("smoke", tmp_path / "r" / "failed_steps")
    assert tts_all.drawing(config)[:3] == ["figures", "--records", str(tmp_path / "r")]


def test_a_part_is_measured_and_its_output_kept(tmp_path):
    done = parts.execute("good", ["json.tool", "--help"], tmp_path)
    assert done.status == 0
    assert 0 < done.cpu_seconds < done.seconds + 5
    assert "usage" in done.log.read_text()
    bad = parts.execute("bad", ["no.such.module"], tmp_path)
    assert bad.status != 0
    assert "no.such" in bad.log.read_text() or "'no'" in bad.log.read_text()


def test_parts_have_one_thread_and_find_this_checkout():
    made = parts.one_thread({"OMP_NUM_THREADS": "8", "PYTHONPATH": "/elsewhere"})
    assert made["OMP_NUM_THREADS"] == "1"
    first, second = made["PYTHONPATH"].split(os.pathsep)
    assert os.path.isfile(os.path.join(first, "experiments", "tts_all.py"))
    assert second == "/elsewhere"


def test_one_failed_part_fails_the_whole_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    commands = {"good": ["json.tool", "--help"], "bad": ["no.such.module"]}
    monkeypatch.setattr(tts_all, "parts", lambda _: commands)
    with pytest.raises(SystemExit) as ended:
        tts_all.main(["--work", str(tmp_path), "--no-draw"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "bad failed:" in said
    assert "good failed" not in said
    del commands["bad"]
    with pytest.raises(SystemExit) as ended:
        tts_all.main(["--work", str(tmp_path), "--no-draw"])
    assert ended.value.code == 0
