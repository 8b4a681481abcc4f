"""Jobs: settings, resuming, marked rows, warnings and what a cell costs, on the planted model."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from functools import cache
from operator import itemgetter

import pytest
from rich.console import Console
from transformers import GPT2LMHeadModel

import interp.results as results
from experiments import tts_word_problems
from experiments.chains import counted_chain
from interp.data.rows import Row, read_rows
from interp.data.word_problems import other_steps, word_problems
from interp.engine.loading import load
from interp.errors import InputError, StoreError
from interp.jobs import patching, runs, tts
from interp.jobs.pairs import choose
from interp.models import planted
from interp.patching.activation import every, pairs_tokens, patch
from interp.thinking.cells import CELLS, NULL_CELLS, RANDOM_CELLS
from interp.thinking.rules import Rules, preset
from interp.thinking.score import Problem, prepare, score_chain
from tests.strategies import says, tiny

QUIET = Console(file=io.StringIO())
SETTINGS = tts.Settings(seeds=2)
SUM = "We start with 17 apples. Then we add 27 pears. A lamp costs 57 coins."


@cache
def model(name: str = "planted-steps", dtype: str = "float32"):
    return load(name, dtype=dtype)


def planted_rows(n: int = 3, **more) -> list[Row]:
    return [Row(c.id, c.question, c.chain, **more) for c in planted.chains(n, seed=2)]


def begin(folder, settings=SETTINGS, of=None, **data):
    return runs.begin(
        of or model(),
        experiment="tts",
        out=folder,
        settings={**asdict(settings), "rules": asdict(settings.rules)},
        data={"sha256": "none", **data},
        seeds=range(settings.seeds),
    )


def job(folder, rows, settings=SETTINGS, of=None, memory_gib: float = 2.0) -> tts.Outcome:
    store = begin(folder, settings, of)
    return tts.run(rows, of or model(), store, settings, memory_gib=memory_gib, console=QUIET)


def no_forward(*_, **__):
    pytest.fail("nothing may be computed again")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 0}, "--seeds 0: ask for at least 1."),
        ({"seeds": -2}, "--seeds -2: ask for at least 1."),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: ask for at least 1."),
        ({"control_seeds": -1}, "--control-seeds -1: give 0 (no controls) or more."),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with says(InputError, message):
        tts.Settings(**wrong)


def test_the_rules_are_the_presets_with_the_target_and_think_state_asked_for():
    assert tts.Settings().rules == Rules()
    settings = tts.Settings(preset="released-code", target="gold", think="close")
    assert settings.rules == replace(preset("released-code"), target="gold", think="close")


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match=r"no preset 'papr'; .* Did you mean 'paper'\?$"):
        _ = tts.Settings(preset="papr").rules


@pytest.mark.parametrize("name", ["planted-steps", "tiny-llama"])
def test_a_chunk_keeps_to_the_memory_between_16_and_512_tokens(name):
    """A token costs 8 bytes a head and key, and 4 bytes for each of 40 d_model + 2 d_vocab."""
    sizes = model(name).sizes
    one = 8 * sizes.n_heads * (300 + 512) + 4 * (40 * sizes.d_model + 2 * sizes.d_vocab)
    assert tts.chunk_for(model(name), 300, 100.0) == 512
    assert tts.chunk_for(model(name), 300, 1e-9) == 16
    assert tts.chunk_for(model(name), 300, 100.5 * one / 2**30) == 100
    chunks = [tts.chunk_for(model(name), n, 2e-3) for n in (10, 100, 1000, 10_000)]
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > chunks[-1]


# ---------------------------------------------------------------- a run


def test_a_run_holds_the_scores_of_its_chains(tmp_path):
    rows = planted_rows()
    outcome = job(tmp_path / "run", rows)
    assert (outcome.scored, outcome.marked, outcome.warnings) == (3, 0, ())
    chains, steps = runs.rows(outcome.store, "chains"), runs.rows(outcome.store, "steps")
    assert [chain["id"] for chain in chains] == [row.id for row in rows]
    for row, about in zip(rows, chains, strict=True):
        chain = prepare(model(), Problem(row.id, row.question, row.cot), Rules())
        result = score_chain(model(), chain, Rules(), seeds=(0, 1), pool=other_steps())
        expected = {
            "id": row.id,
            "status": "scored",
            "reason": None,
            "question": row.question,
            "prompt": model().chat(row.question),
            "chain": row.cot,
            "answer": "88",
            "answer_source": "forced",
            "gold": None,
            "correct": None,
            "n_steps": len(chain.steps),
            "starts": [step.start for step in chain.steps],
            "checks": None,
            "n_tokens": about["n_tokens"],  # tested below
            "seconds": about["seconds"],
            "truncated": False,
            "n_marked_steps": 0,
            "noise": None,
            "tokens": result.spent.tokens,
            "naive_tokens": result.spent.naive_tokens,
            "forwards": result.spent.forwards,
        }
        assert about == expected
        own = [step for step in steps if step["id"] == row.id]
        assert own == [asdict(step) for step in result.steps]
    assert runs.rows(outcome.store, "marked_steps") == runs.rows(outcome.store, "patch") == []
    assert "audit" not in runs.table_names(outcome.store)


def test_tokens_of_a_chain_are_counted_without_special_ones(tmp_path):
    (row,) = planted_rows(1)
    (chain,) = runs.rows(job(tmp_path / "run", [row]).store, "chains")
    ids = model().tokenizer(row.cot, add_special_tokens=False).input_ids
    assert chain["n_tokens"] == len(ids)


def test_the_manifest_says_what_the_run_cost_and_in_what_order_it_is_read(tmp_path):
    rows = planted_rows()
    manifest = job(tmp_path / "run", rows).store.manifest
    chains = runs.rows(results.Store.open(tmp_path / "run"), "chains")
    assert manifest.spent["tokens"] == sum(chain["tokens"] for chain in chains)
    assert manifest.spent["forwards"] == sum(chain["forwards"] for chain in chains)
    assert manifest.spent["naive_tokens"] > 3 * manifest.spent["tokens"]
    keys = [
        results.cell_key({"problem": asdict(row), "settings": manifest.settings_hash})
        for row in rows
    ]
    assert manifest.order == keys
    assert manifest.model["dtype"] == "float32"
    assert manifest.seeds == [0, 1]


def test_a_finished_run_computes_nothing_and_gives_the_same_records(tmp_path, monkeypatch):
    rows = planted_rows()
    first = job(tmp_path / "run", rows).store
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").rglob("*")}
    steps, chains = first.rows("steps"), first.rows("chains")
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    again = job(tmp_path / "run", rows)
    assert (again.store.rows("steps"), again.store.rows("chains")) == (steps, chains)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").rglob("*")} == before


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    rows = planted_rows(4)
    score = tts.score_chain

    def stopping(of, chain, *args, **options):
        if chain.problem.id == rows[2].id:
            raise KeyboardInterrupt
        return score(of, chain, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tts, "score_chain", stopping)
        job(tmp_path / "run", rows)
    kept = results.Store.open(tmp_path / "run")
    assert len(kept.keys()) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "cells").rglob("*.parquet")}
    outcome, whole = job(tmp_path / "run", rows), job(tmp_path / "whole", rows)
    assert outcome.scored == 4
    assert outcome.store.rows("steps") == whole.store.rows("steps")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_more_rows_extend_a_run_and_its_order(tmp_path):
    rows = planted_rows(3)
    job(tmp_path / "run", rows[1:2])
    outcome = job(tmp_path / "run", rows)
    assert [chain["id"] for chain in outcome.store.rows("chains")] == [row.id for row in rows]
    fewer = job(tmp_path / "run", rows[:1])  # what was finished stays, after the rows asked for
    assert fewer.scored == 3
    assert fewer.store.rows("chains")[0]["id"] == rows[0].id


def test_the_same_rows_in_another_order_are_the_same_records(tmp_path):
    rows = planted_rows(3)
    one, other = job(tmp_path / "one", rows), job(tmp_path / "other", rows[::-1])
    place = itemgetter("id", "seed", "step")
    steps = [sorted(each.store.rows("steps"), key=place) for each in (one, other)]
    assert steps[0] == steps[1]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    begin(tmp_path / "run")
    for other in (tts.Settings(seeds=3), tts.Settings(seeds=2, preset="paper")):
        with pytest.raises(StoreError, match=r"(seeds|preset|cue)"):
            begin(tmp_path / "run", other)
    with pytest.raises(StoreError, match="weights"):
        begin(tmp_path / "run", of=model("planted-ignores"))


def test_another_version_of_the_code_is_another_run(tmp_path, monkeypatch):
    begin(tmp_path / "run")
    monkeypatch.setattr(runs, "CODE", (runs.PACKAGE / "metrics.py",))
    with pytest.raises(StoreError, match="code"):
        begin(tmp_path / "run")


# ---------------------------------------------------------------- marked rows


def test_a_marked_row_keeps_its_reason_and_shifts_no_other(tmp_path):
    rows = planted_rows(2)
    bad = [
        Row("unread", reason="not JSON: Expecting value"),
        Row("blank", " ", "We start with 17 apples."),
        Row("long", "What is the total?", "There are red cups. " * 200, "18"),
        Row("only", "What is the total?", "The answer is 88."),
        Row("spans", "What is the total?", SUM, spans=((0, 5),)),
    ]
    outcome = job(tmp_path / "run", [bad[0], rows[0], *bad[1:3], rows[1], *bad[3:]])
    assert (outcome.scored, outcome.marked) == (2, 5)
    chains = {chain["id"]: chain for chain in outcome.store.rows("chains")}
    reasons = {name: chain["reason"] for name, chain in chains.items() if chain["reason"]}
    assert list(reasons) == [row.id for row in bad]
    assert reasons["unread"] == "not JSON: Expecting value"
    assert reasons["blank"] == "no question: the row's question is empty"
    assert reasons["long"].startswith("chain longer than the context: ")
    assert reasons["long"].endswith("planted-steps holds 1024")
    assert reasons["only"] == "empty chain: there is no step before the final answer"
    assert reasons["spans"].startswith("No span covers ")
    assert (chains["long"]["status"], chains["long"]["gold"]) == ("marked", "18")
    alone = job(tmp_path / "alone", rows)
    assert outcome.store.rows("steps") == alone.store.rows("steps")


def test_a_row_of_text_that_no_tokenizer_takes_is_marked(tmp_path):
    """JSON may hold half of a surrogate pair; no encoding of Unicode can."""
    half = json.dumps({"id": "half", "question": "What is \ud800?", "cot": SUM})
    fine = json.dumps({"id": "fine", "question": "What is it?", "cot": SUM})
    (tmp_path / "rows.jsonl").write_text(f"{half}\n{fine}\n")
    outcome = job(tmp_path / "run", read_rows(tmp_path / "rows.jsonl"))
    assert (outcome.scored, outcome.marked) == (1, 1)


def test_an_answer_that_is_not_there_marks_the_row(tmp_path):
    rows = [Row("a", "How many?", SUM, None), Row("b", "How many?", SUM, "worked out\n#### 11")]
    settings = tts.Settings(seeds=1, target="gold")
    outcome = job(tmp_path / "run", rows, settings)
    marked, scored = outcome.store.rows("chains")
    assert marked["reason"] == "answer not found: the row has no gold answer to score"
    assert (scored["answer"], scored["answer_source"], scored["gold"]) == ("11", "gold", "11")
    assert scored["correct"] is None  # the gold answer is right by construction
    babble = Row("c", "How many?", "Red cups. " * 3)
    outcome = job(tmp_path / "other", [babble], tts.Settings(seeds=1), of=tiny("tiny-llama"))
    (marked,) = outcome.store.rows("chains")
    assert marked["reason"].startswith("answer not found: after the cue the model wrote ")


def test_an_answer_is_compared_with_the_gold_one(tmp_path):
    rows = [
        Row("right", "How many?", SUM, "#### 88.0"),
        Row("wrong", "How many?", SUM, "11"),
        Row("none", "How many?", SUM),
    ]
    chains = job(tmp_path / "run", rows).store.rows("chains")
    assert [chain["correct"] for chain in chains] == [True, False, None]
    assert [chain["gold"] for chain in chains] == ["88.0", "11", None]
    assert {chain["answer"] for chain in chains} == {"88"}


def test_steps_that_could_not_be_scored_are_listed_and_warned_of(tmp_path, monkeypatch):
    from interp.thinking.score import Tokeniser

    continuation = Tokeniser.continuation

    def failing(self, cell):
        failed = (cell.step, cell.seed, cell.cell) == (1, 0, "s0c0")
        return None if failed else continuation(self, cell)

    monkeypatch.setattr(Tokeniser, "continuation", failing)
    outcome = job(tmp_path / "run", [Row("a", "How many?", SUM)])
    assert outcome.warnings == ("1 steps could not be scored; see `--table marked_steps`.",)
    (marked,) = outcome.store.rows("marked_steps")
    assert (marked["id"], marked["step"], marked["seed"]) == ("a", 1, 0)
    assert outcome.store.rows("chains")[0]["n_marked_steps"] == 1
    kept = [(step["step"], step["seed"]) for step in outcome.store.rows("steps")]
    assert kept == [(0, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


def test_half_precision_warns_where_its_noise_is_large(tmp_path, monkeypatch):
    row = Row("a", "How many?", "It is 12. " * 8 + "\nThe answer is 3.")
    half = tiny("tiny-llama", "bfloat16")
    settings = tts.Settings(seeds=1, preset="paper")
    outcome = job(tmp_path / "quiet", [row], settings, of=half)
    (chain,) = outcome.store.rows("chains")
    assert 0 < chain["noise"] <= tts.NOISE_LIMIT
    assert outcome.warnings == ()
    monkeypatch.setattr(tts, "NOISE_LIMIT", chain["noise"] / 2)
    (warning,) = job(tmp_path / "loud", [row], settings, of=half).warnings
    assert warning.startswith(
        f"Half precision alone moves a probability by up to {chain['noise']:.3g}, more than "
    )
    assert warning.endswith("use --dtype float32 before you call a step decorative.")


# ---------------------------------------------------------------- options


def test_exact_memory_and_audit_change_no_score(tmp_path):
    rows = planted_rows(1)
    plain = job(tmp_path / "plain", rows).store.rows("steps")
    small = job(tmp_path / "small", rows, memory_gib=1e-6).store
    exact = job(tmp_path / "exact", rows, tts.Settings(seeds=2, exact=True, audit=True)).store
    for store in (small, exact):
        for step, other in zip(store.rows("steps"), plain, strict=True):
            assert step["perturbed"] == other["perturbed"]
            assert step["tts"] == pytest.approx(other["tts"], rel=0, abs=1e-5)
    (chain,) = small.rows("chains")
    assert chain["forwards"] > 5
    (chain,) = exact.rows("chains")
    assert chain["tokens"] == chain["naive_tokens"]
    assert len(exact.rows("audit")) == chain["forwards"]


def test_the_audit_is_one_json_line_for_each_of_the_four_cells(tmp_path):
    outcome = job(tmp_path / "run", planted_rows(2), tts.Settings(seeds=1, audit=True))
    path = tts.write_audit(outcome.store)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path == tmp_path / "run" / "audit.jsonl"
    table = outcome.store.rows("audit")
    assert lines == [row for row in table if row["cell"] in CELLS]
    assert {row["cell"] for row in table} == {*CELLS, *NULL_CELLS, *RANDOM_CELLS}
    assert set(lines[0]) == {
        "id", "step", "seed", "cell", "prompt_ids", "answer_ids", "logprob"
    }  # fmt: skip


def test_an_audit_of_nothing_has_no_lines(tmp_path):
    bad = [Row("a", reason="not JSON")]
    outcome = job(tmp_path / "run", bad, tts.Settings(seeds=1, audit=True))
    assert [line for line in tts.write_audit(outcome.store).read_text().split("\n") if line] == []


def test_control_seeds_0_computes_no_control(tmp_path):
    store = job(tmp_path / "run", planted_rows(1), tts.Settings(seeds=1, control_seeds=0)).store
    steps = store.rows("steps")
    assert steps and all(s["null_tts"] is None and s["random_tts"] is None for s in steps)


def test_a_models_own_chain_is_scored_where_none_is_given(tmp_path):
    (chain,) = job(tmp_path / "run", [Row("a", "What is the total?")]).store.rows("chains")
    assert (chain["chain"], chain["answer"], chain["answer_source"]) == ("11}", "11", "forced")
    assert chain["truncated"] is False


def test_generated_rows_are_word_problems_without_their_solutions():
    problems = word_problems(3)
    rows = tts.generated_rows(problems)
    assert rows == [Row(each.id, each.question, None, each.answer) for each in problems]


def test_threads_are_positive():
    with says(InputError, "--threads 0: give 1 to 1024."):
        tts.set_threads(0)
    tts.set_threads(None)


# ---------------------------------------------------------------- reports and experiments


def test_a_report_is_drawn_again_from_the_records_alone(tmp_path, monkeypatch):
    store = job(tmp_path / "run", planted_rows(2)).store
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    first = runs.write_report(store).read_bytes()
    (tmp_path / "run" / "report.html").write_text("older")
    assert runs.write_report(results.Store.open(tmp_path / "run")).read_bytes() == first
    assert b"planted-2-0" in first


def test_patch_rows_carry_the_runs_and_the_null_beside_them():
    subject = tiny("tiny-gpt2")
    pairs = choose(subject, None, n=2, seed=3).pairs
    places = every("resid_pre", layers=[1], positions=[0, 4])
    found = patch(subject, pairs, places, direction="denoise", say=None)
    rows = patching.patch_rows(subject, pairs, places, found)
    clean, corrupted, right, wrong = pairs_tokens(subject, pairs)
    ends = []
    for ids in (corrupted, clean):
        logits = subject.run(ids, logits="last").logits
        gaps = [float(row[a] - row[b]) for row, a, b in zip(logits, right, wrong, strict=True)]
        ends.append(sum(gaps) / 2)
    assert [row["pos"] for row in rows] == [0, 4]
    for row, shift in zip(rows, found.effect.mean(1).tolist(), strict=True):
        assert [row["base_value"], row["source_value"]] == pytest.approx(ends, abs=1e-6)
        assert row["token"] == subject.tokenizer.decode([corrupted[0][row["pos"]]])
        assert (row["component"], row["layer"], row["head"]) == ("resid_pre", 1, None)
        assert (row["clean_prompt"], row["corrupted_prompt"]) == (
            pairs[0].clean,
            pairs[0].corrupted,
        )
        assert (row["null"], row["pairs"]) == (found.null, 2)
        assert row["effect"] == pytest.approx(shift, abs=1e-6)


def test_the_word_problem_experiment_runs_on_any_model(tmp_path, monkeypatch):
    config = tts_word_problems.Config(
        model="planted-steps", problems=2, seeds=1, out=tmp_path / "run"
    )
    outcome = tts_word_problems.run(config, QUIET)
    chains = outcome.store.rows("chains")
    assert [chain["id"] for chain in chains] == ["word-1-0", "word-1-1"]
    assert outcome.store.manifest.experiment == "tts_word_problems"
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    assert tts_word_problems.run(config, QUIET).store.rows("chains") == chains


@pytest.mark.parametrize(("n_steps", "n_tokens"), [(6, 200), (15, 800)])
def test_chains_for_measurements_have_the_size_asked_for(n_steps, n_tokens):
    of = model()
    text = counted_chain(of, n_steps=n_steps, n_tokens=n_tokens)
    found = len(of.tokenizer(text, add_special_tokens=False).input_ids)
    assert text == counted_chain(of, n_steps=n_steps, n_tokens=n_tokens)
    assert text.count(".\n") == n_steps
    assert found == pytest.approx(n_tokens, rel=0.15)
