"""The command line: what it prints, writes and exits with. No process is started."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel, LlamaForCausalLM

import interp.results as results
from interp import cli as interp_cli
from interp.data.word_problems import word_problems
from interp.engine import check as check_module
from interp.jobs import tts as tts_job
from interp.models import planted, registry
from interp.thinking.cells import CELLS

SUM = "We start with 17 apples. Then we add 27 pears. A lamp costs 57 coins."
BABBLE = "First he has 12 apples. Then 5 + 3 = 8 are red."


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of a refusal."""
        assert self.status == 2, self
        assert self.err.startswith("interp: ")
        assert self.err.count("\n") == 1 and self.err.endswith("\n")
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix("interp: ").removesuffix("\n")


@pytest.fixture
def interp(capsys, monkeypatch):
    """`interp("tts", path, ...)`: run a command to its end."""
    for name in interp_cli.QUIET:
        monkeypatch.setenv(name, interp_cli.QUIET[name])

    def run(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            interp_cli.main([str(word) for word in words])
        assert isinstance(stop.value.code, int)
        return Ended(stop.value.code, *capsys.readouterr())

    return run


def write(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def planted_rows(n: int = 2) -> list[dict[str, str]]:
    rows = planted.chains(n, seed=4)
    return [{"id": each.id, "question": each.question, "cot": each.chain} for each in rows]


@pytest.fixture
def data(tmp_path) -> Path:
    """Two sound rows for the planted model."""
    return write(tmp_path, *planted_rows())


def score(interp, data, out, *more, model="planted-steps") -> Ended:
    return interp("tts", data, "--model", model, "--out", out, "--seeds", 1, *more)


def no_forward(*_, **__):
    pytest.fail("nothing may be computed")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*")}


# ---------------------------------------------------------------- a normal run


def test_tts_writes_manifest_records_audit_and_report(interp, data, tmp_path):
    out = tmp_path / "run"
    done = score(interp, data, out, "--audit")
    assert (done.status, done.err) == (0, "")
    assert "2 chains scored, 0 marked.\n" in done.out
    assert f"Records and report: {out}\n" in done.out
    assert "Mean TTS is " in done.out and "a null rewrite gives " in done.out
    assert {path.name for path in out.iterdir()} >= {
        "manifest.json",
        "cells",
        "report.html",
        "audit.jsonl",
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["seeds"] == 1
    assert manifest["settings"]["rules"]["cue"] == "\nThe final answer is \\boxed{"
    assert manifest["data"]["sha256"] == results.file_hash(data)
    store = results.Store.open(out)
    kinds = [kind for each in planted.chains(2, seed=4) for kind in each.kinds]
    assert len(store.rows("steps")) == len(kinds)
    audit = [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]
    assert [(a["id"], a["step"], a["seed"], a["cell"], a["logprob"]) for a in audit] == [
        (a["id"], a["step"], a["seed"], a["cell"], a["logprob"])
        for a in store.rows("audit")
        if a["cell"] in CELLS
    ]
    for step in store.rows("steps"):
        place = (step["id"], step["step"], step["seed"])
        own = {a["cell"]: a["logprob"] for a in audit if (a["id"], a["step"], a["seed"]) == place}
        assert own == {cell: step[cell] for cell in CELLS}
    report = (out / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    assert all(row["id"] in report for row in planted_rows())


def test_without_audit_no_audit_is_kept(interp, data, tmp_path):
    assert score(interp, data, tmp_path / "run").status == 0
    assert not (tmp_path / "run" / "audit.jsonl").exists()
    refused = interp("results", tmp_path / "run", "--table", "audit").sentence
    assert refused.endswith("has no table 'audit'; it has: chains, marked_steps, steps.")


def test_running_again_computes_nothing_and_gives_the_same(interp, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    first = score(interp, data, out, "--audit")
    before, steps = files(out), results.Store.open(out).rows("steps")
    written = {name: (out / name).read_bytes() for name in ("audit.jsonl", "report.html")}
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    again = score(interp, data, out, "--audit")
    assert (again.status, again.out.split(), again.err) == (0, first.out.split(), "")
    assert files(out) == before
    assert results.Store.open(out).rows("steps") == steps
    assert {name: (out / name).read_bytes() for name in written} == written


def test_a_limit_scores_the_first_rows_and_a_higher_one_goes_on(interp, data, tmp_path):
    out = tmp_path / "run"
    assert "1 chains scored, 0 marked." in score(interp, data, out, "--limit", 1).out
    before = files(out)
    assert "2 chains scored, 0 marked." in score(interp, data, out, "--limit", 5).out
    assert before.items() <= {**files(out), out / "cells": before.get(out / "cells")}.items()
    ids = [chain["id"] for chain in results.Store.open(out).rows("chains")]
    assert ids == [row["id"] for row in planted_rows()]


@pytest.mark.parametrize(
    "options",
    [
        ("--exact",),
        ("--memory-gib", "1e-6"),
        ("--preset", "released-code"),
        ("--dtype", "float64"),
        ("--control-seeds", "0"),
        ("--threads", "1"),
    ],
)
def test_every_option_runs_to_the_end(interp, data, tmp_path, options):
    done = score(interp, data, tmp_path / "run", *options)
    assert (done.status, done.err) == (0, "")
    steps = results.Store.open(tmp_path / "run").rows("steps")
    assert steps and max(step["tts"] for step in steps) > 0.4


# ---------------------------------------------------------------- bad rows


def test_bad_rows_are_marked_with_their_reasons_and_the_others_scored(interp, tmp_path):
    good = [
        {"id": "one", "question": "How many?", "cot": BABBLE + " The answer is 8."},
        {"id": "two", "question": "And now?", "cot": BABBLE + " That is it. The answer is 5."},
    ]
    bad = [
        ("line-2", "{not json", "not JSON: "),
        ("bare", {"id": "bare", "cot": BABBLE}, "no question: the row has no text `question`"),
        ("blank", {"id": "blank", "question": "q", "cot": " "}, "empty chain: the row's `cot`"),
        ("typed", {"id": "typed", "question": 7}, "no question: the row has no text `question`"),
        ("one#2", {"id": "one", "question": "q"}, "the id 'one' stands on an earlier row too"),
        ("lost", {"id": "lost", "question": "q", "cot": BABBLE}, "answer not found: after the cue"),
        ("only", {"id": "only", "question": "q", "cot": "The answer is 5."}, "empty chain: there"),
        (
            "long",
            {"id": "long", "question": "q", "cot": BABBLE * 30 + " The answer is 5."},
            "chain longer than the context: ",
        ),
    ]
    rows = [good[0], *(row for _, row, _ in bad), good[1]]
    mixed = score(interp, write(tmp_path, *rows), tmp_path / "mixed", model="tiny-llama")
    assert mixed.status == 3
    assert f"2 chains scored, {len(bad)} marked." in mixed.out
    chains = {c["id"]: c for c in results.Store.open(tmp_path / "mixed").rows("chains")}
    assert list(chains) == ["one", *(name for name, _, _ in bad), "two"]
    for name, _, reason in bad:
        assert chains[name]["status"] == "marked"
        assert chains[name]["reason"].startswith(reason)
        assert f"  marked {name}: {chains[name]['reason']}\n" in mixed.out
        assert name in (tmp_path / "mixed" / "report.html").read_text()
    assert chains["long"]["reason"].endswith("and tiny-llama holds 512")
    path = write(tmp_path, *good, name="good.jsonl")
    alone = score(interp, path, tmp_path / "alone", model="tiny-llama")
    assert alone.status == 0
    kept = [results.Store.open(tmp_path / name).rows("steps") for name in ("mixed", "alone")]
    assert kept[0] == kept[1]


def test_a_chain_longer_than_the_planted_context_is_marked(interp, tmp_path):
    long = {"id": "long", "question": "q", "cot": "There are red cups. " * 150}
    done = score(interp, write(tmp_path, long, *planted_rows(1)), tmp_path / "run")
    assert done.status == 3
    assert "marked long: chain longer than the context: " in done.out
    assert "tokens and planted-steps holds 1024\n" in done.out


def test_gold_without_a_gold_answer_is_marked(interp, tmp_path):
    rows = [{**row, "answer": "88"} for row in planted_rows()]
    del rows[0]["answer"]
    done = score(interp, write(tmp_path, *rows), tmp_path / "run", "--target", "gold")
    assert done.status == 3
    reason = "answer not found: the row has no gold answer to score"
    assert f"  marked {rows[0]['id']}: {reason}\n" in done.out
    _, scored = results.Store.open(tmp_path / "run").rows("chains")
    assert (scored["answer_source"], scored["correct"]) == ("gold", None)


def test_a_row_that_no_tokenizer_takes_is_marked_like_any_other(interp, tmp_path):
    half = '{"id": "half", "question": "What is \\ud800?", "cot": "' + SUM + '"}'
    done = score(interp, write(tmp_path, half, *planted_rows(1)), tmp_path / "run")
    assert done.status == 3
    assert "1 chains scored, 1 marked." in done.out


def test_when_every_row_is_marked_the_reasons_are_still_shown(interp, tmp_path):
    rows = [{"id": "a", "question": "q", "cot": " "}, {"id": "b"}]
    out = tmp_path / "run"
    done = score(interp, write(tmp_path, *rows), out, "--audit")
    assert done.status == 3
    assert "0 chains scored, 2 marked." in done.out
    assert "No problem was scored" in (out / "report.html").read_text()
    shown = interp("results", out, "--table", "chains")
    assert (shown.status, shown.err) == (0, "")
    assert "empty chain" in shown.out and "no question" in shown.out


# ---------------------------------------------------------------- exit status 2


def test_files_that_cannot_be_read_are_refused(interp, tmp_path):
    for name, content, sentence in (
        ("missing", None, "There is no file {path}: give a JSONL file of problems."),
        ("empty", "", "{path} is empty: give one JSON object a line."),
        ("prose", "It was\na dark night", "{path} is not JSONL: its first line is 'It was'; each"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        refused = score(interp, path, tmp_path / "run").sentence
        assert refused.startswith(sentence.format(path=path))
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "planted-step"), "There is no model 'planted-step': it is no registry name, "),
        (("--preset", "papper"), "There is no preset 'papper'; there are: default, paper, "),
        (("--seeds", 0), "--seeds 0: ask for at least 1."),
        (("--limit", 0), "--limit 0: ask for at least 1 row, or leave it out for all."),
        (("--memory-gib", 0), "--memory-gib 0.0: give a positive number of GiB."),
        (("--max-new-tokens", 0), "--max-new-tokens 0: ask for at least 1."),
        (("--control-seeds", -1), "--control-seeds -1: give 0 (no controls) or more."),
        (("--threads", 0), "--threads 0: give 1 to 1024."),
        (("--dtype", "flaot32"), "There is no dtype 'flaot32'; there are: float32, float64, "),
        (("--device", "gpu"), "There is no device 'gpu': write cpu, cuda or cuda:0."),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(
    interp, data, tmp_path, monkeypatch, options, sentence
):
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    refused = interp(
        "tts", data, "--out", tmp_path / "run", "--model", "planted-steps", *options
    ).sentence
    assert refused.startswith(sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--model", "planted-step"), "Did you mean 'planted-steps'?"),
        (("--preset", "papper"), "Did you mean 'paper'?"),
        (("--dtype", "flaot32"), "Did you mean 'float32'?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(interp, data, tmp_path, options, hint):
    command = ("tts", data, "--out", tmp_path / "run", "--model", "planted-steps", *options)
    assert interp(*command).sentence.endswith(hint)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "xpu:99"])
def test_a_device_that_is_not_here_is_refused(interp, data, tmp_path, device):
    refused = score(interp, data, tmp_path / "run", "--device", device).sentence
    assert device in refused


def test_a_model_of_the_hub_is_refused_offline(interp, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused = score(interp, data, tmp_path / "run", model="nobody/no-such-model").sentence
    assert refused.startswith("The model 'nobody/no-such-model' could not be loaded (HF_HUB_OFF")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("interp.models.weights.packaged_gguf", lambda: None)
    refused = score(interp, data, tmp_path / "run", model="smollm2-135m").sentence
    assert refused.startswith("smollm2-135m is not here: the hub is switched off (HF_HUB_OFFLINE)")


def test_an_out_that_is_no_folder_is_refused_before_the_model_is_loaded(
    interp, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(tts_job, "load", no_forward)
    (tmp_path / "note").write_text("mine")
    refused = score(interp, data, tmp_path / "note").sentence
    assert (
        refused == f"--out {tmp_path / 'note'} is a file, and a run needs a folder: pick another."
    )
    assert (tmp_path / "note").read_text() == "mine"


def test_a_folder_of_another_run_or_of_other_things_is_left_alone(interp, data, tmp_path):
    out = tmp_path / "run"
    score(interp, data, out)
    before = files(out)
    refused = interp("tts", data, "--model", "planted-steps", "--out", out, "--seeds", 2).sentence
    assert "seeds" in refused and str(out) in refused
    other = write(tmp_path, *planted_rows(1), name="other.jsonl")
    assert "sha256" in score(interp, other, out).sentence
    assert files(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    score(interp, data, tmp_path / "mine").sentence  # noqa: B018
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_results_of_what_is_not_there_are_refused(interp, data, tmp_path):
    out = tmp_path / "run"
    score(interp, data, out)
    assert interp("results", out, "--table", "stesp").sentence == (
        f"The run {out} has no table 'stesp'; it has: chains, marked_steps, steps. "
        "Did you mean 'steps'?"
    )
    refused = interp("results", out, "--columns", "id", "tss").sentence
    assert refused.startswith("The records have no column 'tss'; there are: id, step, seed, ")
    assert refused.endswith("Did you mean 'tts'?")
    for path in (tmp_path, tmp_path / "no"):
        for command in ("results", "report"):
            assert interp(command, path).sentence.startswith(f"There is no run at {path}: it ")


def test_check_of_an_unknown_engine_or_model_is_refused(interp):
    assert interp("check", "tiny-llama", "--engine", "touch").sentence == (
        "There is no engine 'touch'; there are: torch, transformer_lens, nnsight. "
        "Did you mean 'torch'?"
    )
    assert interp("check", "tiny-lama").sentence.endswith("Did you mean 'tiny-llama'?")


@pytest.mark.parametrize(
    "words",
    [
        ("tts", "rows.jsonl", "--out", "x", "--sedes", "3"),
        ("tts", "rows.jsonl"),
        ("tts", "rows.jsonl", "--out", "x", "--seeds", "many"),
        ("tts", "rows.jsonl", "--out", "x", "--target", "silver"),
        ("results", "x", "--format", "xml"),
        ("frobnicate",),
        (),
    ],
)
def test_what_the_command_line_does_not_know_is_a_usage_error(interp, words):
    done = interp(*words)
    assert done.status == 2
    assert "Traceback" not in done.out + done.err


def test_help_names_the_commands(interp):
    done = interp("--help")
    assert done.status == 0
    for name in ("demo", "tts", "results", "report", "check", "models"):
        assert name in done.out


# ---------------------------------------------------------------- stopping


def test_ctrl_c_keeps_what_was_finished(interp, data, tmp_path, monkeypatch):
    first, second = (row["id"] for row in planted_rows())
    whole = tts_job.score_chain

    def stopping(of, chain, *args, **options):
        if chain.problem.id == second:
            raise KeyboardInterrupt
        return whole(of, chain, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tts_job, "score_chain", stopping)
        done = score(interp, data, tmp_path / "run")
    assert done.status == 130
    assert done.err == "interp: stopped; what was finished is kept, start again to go on.\n"
    ids = {row["id"] for row in results.Store.open(tmp_path / "run").rows("steps")}
    assert ids == {first}
    assert score(interp, data, tmp_path / "run").status == 0
    assert len(results.Store.open(tmp_path / "run").rows("chains")) == 2


def test_a_closed_pipe_is_no_error(interp, monkeypatch):
    def closed(self, console):
        raise BrokenPipeError

    monkeypatch.setattr(interp_cli.Models, "main", closed)
    assert interp("models") == Ended(0, "", "")


# ---------------------------------------------------------------- reading back


def test_results_as_jsonl_and_csv_parse_back(interp, data, tmp_path):
    out = tmp_path / "run"
    score(interp, data, out, "--audit")
    store = results.Store.open(out)
    for table in ("steps", "chains", "audit", "marked_steps"):
        lines = interp("results", out, "--table", table, "--format", "jsonl").out.splitlines()
        assert [json.loads(line) for line in lines if line] == store.rows(table)
    text = interp("results", out, "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    for row, step in zip(rows, store.rows("steps"), strict=True):
        assert list(row) == list(step)
        assert (row["text"], row["id"]) == (step["text"], step["id"])
        assert float(row["tts"]) == step["tts"]
        assert (row["null_tts"] == "") == (step["null_tts"] is None)


def test_columns_are_picked_in_any_format(interp, data, tmp_path):
    score(interp, data, tmp_path / "run")
    steps = results.Store.open(tmp_path / "run").rows("steps")
    words = ("results", tmp_path / "run", "--columns", "tts", "id", "--format")
    lines = interp(*words, "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == [{"tts": s["tts"], "id": s["id"]} for s in steps]
    assert interp(*words, "csv").out.splitlines()[0] == "tts,id"
    assert interp(*words, "table").out.splitlines()[0].split() == ["tts", "id"]


def test_the_table_shows_the_score_beside_its_controls(interp, data, tmp_path):
    score(interp, data, tmp_path / "run")
    head, *lines = interp("results", tmp_path / "run").out.splitlines()
    assert head.split() == [
        "id", "step", "seed", "op", "nec", "suf", "tts", "null_tts", "random_tts", "text"
    ]  # fmt: skip
    assert len(lines) == len(results.Store.open(tmp_path / "run").rows("steps"))
    chains = interp("results", tmp_path / "run", "--table", "chains").out
    assert chains.split()[:3] == ["id", "status", "answer"]


def test_a_report_is_drawn_again_byte_for_byte(interp, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    score(interp, data, out)
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_forward)
    done = interp("report", out)
    assert (done.status, done.out) == (0, f"Report: {out / 'report.html'}\n")
    assert (out / "report.html").read_bytes() == first


def test_text_of_the_data_is_escaped_in_the_report(interp, tmp_path):
    evil = "<script>alert('x')</script>"
    row = {"id": evil, "question": evil, "cot": SUM + " " + evil}
    assert score(interp, write(tmp_path, row), tmp_path / "run").status == 0
    assert evil not in (tmp_path / "run" / "report.html").read_text()


# ---------------------------------------------------------------- check, models, demo


def test_models_names_all_and_says_which_load_here(interp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = interp("models")
    assert done.status == 0
    for name, known in registry.KNOWN.items():
        (line,) = [each for each in done.out.splitlines() if f" {name} " in each]
        assert known.what in line
    assert done.out.count("yes: made in code") == 10


def test_check_of_a_sound_model(interp):
    done = interp("check", "tiny-llama")
    assert (done.status, done.err) == (0, "")
    assert "tiny-llama, engine torch, " in done.out
    assert "All identities hold; the largest error is " in done.out
    assert " NO " not in done.out


def test_check_of_a_model_that_fails_exits_1(interp, monkeypatch):
    failed = [check_module.Check("sum of parts", 0.5, 1e-5), check_module.Check("fine", 0.0, 1e-5)]
    monkeypatch.setattr(check_module, "check", lambda model: failed)
    done = interp("check", "tiny-gpt2")
    assert done.status == 1
    assert "SOME IDENTITIES FAIL; the largest error is 0.5." in done.out


def test_the_demo_scores_patches_and_reports(interp, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    words = ("demo", "--model", "tiny-llama", "--problems", 1, "--seeds", 1, "--seed", 3)
    done = interp(*words, "--out", out)
    assert done.status in (0, 3)  # a random model may write nothing that can be scored
    assert f"Report: {out / 'report.html'}\n" in done.out
    assert "Who gave decides the name by " in done.out
    assert "Patching a run with itself moves it by " in done.out
    store = results.Store.open(out)
    assert [chain["id"] for chain in store.rows("chains")] == [word_problems(1, seed=3)[0].id]
    patches = store.rows("patch")
    assert len(patches) == 3 * (1 + max(row["pos"] for row in patches))
    assert "resid_pre" in (out / "report.html").read_text()
    monkeypatch.setattr(LlamaForCausalLM, "forward", no_forward)
    again = interp(*words, "--out", out)
    told = [line for line in done.out.splitlines() if not line.startswith(("Plan:", "Done:"))]
    assert (again.status, again.out.split()) == (done.status, "\n".join(told).split())
    assert results.Store.open(out).rows("patch") == patches


def test_a_demo_that_is_refused_leaves_no_run_behind(interp, tmp_path):
    """The planted tokenizer spells every name, so no prompt pair fits it."""
    words = ("demo", "--problems", 1, "--seeds", 1, "--out", tmp_path / "demo", "--model")
    said = interp(*words, "planted-steps").sentence
    assert re.match(r"No pair fits planted-steps; ioi-0-0: The answer ' \w+' is \d tokens: ", said)
    assert not (tmp_path / "demo").exists()
    assert interp(*words, "tiny-llama").status in (0, 3)
    assert interp("demo", "--problems", 0).sentence == "--problems 0: ask for at least 1."


def test_a_think_block_that_is_not_there_cannot_be_closed(interp, data, tmp_path):
    done = score(interp, data, tmp_path / "run", "--think", "close")
    assert done.status == 3
    (chain, *_) = results.Store.open(tmp_path / "run").rows("chains")
    assert chain["reason"] == "no think block: there is none to close before the cue"


def test_a_cell_that_went_missing_is_not_passed_over_in_silence(interp, data, tmp_path):
    out = tmp_path / "run"
    score(interp, data, out)
    next(iter(sorted((out / "cells").glob("*/steps.parquet")))).unlink()
    for words in (("results", out), ("results", out, "--format", "csv"), ("report", out)):
        done = interp(*words)
        assert done.status == 3
        assert done.err.startswith("interp: 1 cells of this run are missing or damaged")
    assert score(interp, data, out).status == 0
    assert interp("results", out).status == 0


def test_more_control_seeds_than_seeds_are_refused(interp, data, tmp_path):
    done = score(interp, data, tmp_path / "run", "--control-seeds", 9)
    assert done.sentence.startswith("--control-seeds 9 is more than --seeds ")


def test_the_check_table_shows_brackets_as_they_are(interp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = interp("check", "tiny-gpt2")
    assert done.status == 0
    assert "patching resid_mid[l] = patching resid_pre[l+1]" in done.out
