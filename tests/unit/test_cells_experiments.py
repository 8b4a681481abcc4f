"""The experiments of a sweep: the commands' numbers, shared chains, and what identifies a cell."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import jaxtyping
import pytest
import torch
from rich.console import Console
from transformers import GenerationMixin, PreTrainedModel

from interp.data.rows import Row
from interp.data.word_problems import word_problems
from interp.errors import InputError, UndefinedEffectError
from interp.jobs import cells, patching, tts
from interp.jobs.cells import PatchConfig, TtsConfig
from interp.models import tiny
from interp.results import Store, cell_key
from interp.results.manifest import canonical_json
from interp.sweeps.experiment import Made, cell_identity, config_json, config_of, find
from interp.sweeps.grid import read_grid
from interp.thinking.score import Chain
from tests.strategies import says

QUIET = Console(file=io.StringIO())
COT = "We start with 17 apples. Then we add 27 pears. A lamp costs 57 coins."
GOOD = {"id": "good", "question": "How many?", "cot": COT, "answer": "88"}
COSTS = {"seconds", "forwards", "tokens", "naive_tokens"}
SMOKE = Path(__file__).parents[2] / "experiments" / "grids" / "tts_smoke.yaml"


@pytest.fixture
def problems(tmp_path) -> Path:
    rows = [GOOD, {"id": "empty", "question": "How many?", "cot": " "}, GOOD | {"id": "other"}]
    return written(tmp_path / "problems.jsonl", *rows, {"id": "own", "question": "Why?"})


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(config, subject=None) -> Made:
    experiment = cells.tts if isinstance(config, TtsConfig) else cells.patch
    return experiment.run(subject or experiment.load(config), config)


def key(config) -> str:
    experiment = cells.tts if isinstance(config, TtsConfig) else cells.patch
    return cell_key(cell_identity(experiment, config))


@contextmanager
def forwards(monkeypatch):
    """Count forward passes of every language model, those of generation included."""
    seen, call = [], PreTrainedModel.__call__

    def counting(self, *args, **kwargs):
        if isinstance(self, GenerationMixin):  # not the stack of blocks inside it
            seen.append(type(self).__name__)
        return call(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "__call__", counting)
        yield seen


def command(out: Path, config: TtsConfig, *, seeds: int) -> Store:
    """What `interp tts --seeds n` leaves, with controls for every seed."""
    assert config.input is not None
    settings = replace(config.settings, seeds=seeds, control_seeds=seeds)
    return tts.tts(
        config.input,
        model=config.model,
        out=out,
        settings=settings,
        limit=None,
        dtype=config.dtype,
        device="cpu",
        memory_gib=2.0,
        console=QUIET,
    ).store


# ---------------------------------------------------------------- tts


def test_a_cell_of_one_plain_forward_each_is_the_commands_bit_for_bit(tmp_path, problems):
    """Exact runs compute every probability alone, so it cannot matter which seeds share a run."""
    config = TtsConfig(
        model="tiny-llama", input=problems, target="gold", exact=True, max_new_tokens=8
    )
    store = command(tmp_path / "run", config, seeds=2)
    subject = cells.tts.load(config)
    for seed in (0, 1):
        tables = made(replace(config, seed=seed), subject).tables
        assert len(tables["steps"]) == 6
        assert tables["steps"] == [row for row in store.rows("steps") if row["seed"] == seed]
        assert all(row["null_tts"] is not None for row in tables["steps"])
        theirs = store.rows("chains")
        assert [row["status"] for row in theirs] == ["scored", "marked", "scored", "marked"]
        for row, other in zip(tables["chains"], theirs, strict=True):
            kept = {name: value for name, value in other.items() if name not in COSTS}
            assert {name: row.get(name) for name in kept} == kept


@pytest.mark.parametrize(
    ("name", "dtype", "limit"), [("tiny-llama", "float32", 2e-5), ("tiny-gpt2", "float64", 1e-13)]
)
def test_a_cell_has_the_commands_numbers_where_passes_are_shared(
    tmp_path, problems, name, dtype, limit
):
    """Another set of sequences is packed into a pass, so sums round differently.

    Log-probabilities are of the size of 30 nats, whose last bit in float32 is 2e-6; they differ by
    up to 5e-6, and by 1e-14 in float64.
    """
    config = TtsConfig(
        model=name, input=problems, target="gold", dtype=dtype, max_new_tokens=8, preset="paper"
    )
    store = command(tmp_path / "run", config, seeds=3)
    subject = cells.tts.load(config)
    for seed in (0, 2):
        ours = made(replace(config, seed=seed), subject).tables["steps"]
        theirs = [row for row in store.rows("steps") if row["seed"] == seed]
        assert len(ours) == len(theirs) == 6
        for row, other in zip(ours, theirs, strict=True):
            numbers = {name for name, value in row.items() if isinstance(value, float)}
            assert {"s1c1", "tts", "random_tts"} <= numbers
            for column, value in row.items():
                if column in numbers:
                    assert value == pytest.approx(other[column], rel=0, abs=limit), column
                else:
                    assert value == other[column], column


def test_the_second_seed_of_a_model_generates_nothing(monkeypatch):
    config = TtsConfig(model="tiny-llama", problems=2, target="gold", max_new_tokens=12)
    subject = cells.tts.load(config)
    with forwards(monkeypatch) as first:
        before = made(config, subject)
    with forwards(monkeypatch) as second:
        after = made(replace(config, seed=1), subject)
    assert [row["status"] for row in after.tables["chains"]] == ["scored", "scored"]
    assert len(first) >= before.spent["forwards"] + 2 * 12
    assert len(second) == after.spent["forwards"] > 0
    chains = [[row["chain"] for row in each.tables["chains"]] for each in (before, after)]
    assert chains[0] == chains[1] and all(chains[0])


def test_a_row_that_no_seed_can_score_is_generated_once(monkeypatch):
    config = TtsConfig(model="tiny-llama", problems=1, max_new_tokens=6)
    subject = cells.tts.load(config)
    with forwards(monkeypatch) as first:
        before = made(config, subject)
    with forwards(monkeypatch) as second:
        after = made(replace(config, seed=1), subject)
    (chain,) = before.tables["chains"]
    assert str(chain["reason"]).startswith("answer not found: after the cue the model wrote ")
    assert (before.tables, before.spent) == (after.tables, after.spent)
    assert before.tables["steps"] == before.tables["marked_steps"] == []
    assert len(first) > 6 and second == []


def test_chains_are_shared_only_by_cells_with_the_same_rules_and_length():
    config = TtsConfig(model="tiny-llama", problems=1, target="gold", max_new_tokens=4)
    subject = cells.tts.load(config)
    changes = ({}, {"seed": 1}, {"preset": "paper"}, {"max_new_tokens": 5}, {"problem_seed": 1})
    sizes = []
    for change in changes:
        made(replace(config, **change), subject)
        sizes.append(len(subject.chains))
    assert sizes == [1, 1, 2, 3, 4]
    assert all(isinstance(chain, Chain) for chain in subject.chains.values())


def test_a_cell_gives_the_same_bytes_whatever_was_computed_before_it(problems):
    config = TtsConfig(model="tiny-llama", input=problems, target="gold", max_new_tokens=8, seed=1)
    alone, again = (canonical_json(made(config).tables) for _ in range(2))
    subject = cells.tts.load(config)
    made(replace(config, seed=0), subject)
    made(replace(config, preset="paper"), subject)
    assert alone == again == canonical_json(made(config, subject).tables)
    assert "seconds" not in alone


def test_controls_and_rows_can_be_left_out(problems):
    config = TtsConfig(model="planted-steps", input=problems, limit=2, control=False)
    tables = made(config).tables
    assert [row["id"] for row in tables["chains"]] == ["good", "empty"]
    assert len(tables["steps"]) == 3
    assert {(row["null_tts"], row["random_tts"]) for row in tables["steps"]} == {(None, None)}


def test_generated_rows_carry_their_solutions_only_where_asked():
    (one, two), known = TtsConfig(model="x", problems=2).rows(), word_problems(2)
    assert (one, two) == tuple(Row(p.id, p.question, None, p.answer) for p in known)
    given = TtsConfig(model="x", problems=1, problem_seed=3, solutions=True).rows()
    (problem,) = word_problems(1, seed=3)
    assert given == [Row("word-3-0", problem.question, problem.solution, problem.answer)]


def test_every_cell_of_the_smoke_grid_scores_every_row():
    """30 cells: three models, two presets, five draws; one problem each is enough here."""
    grid, subjects, found = read_grid(SMOKE), {}, set()
    for config in grid.cells:
        group = cells.tts.group(config)
        if group not in subjects:
            subjects[group] = cells.tts.load(config)
        tables = made(replace(config, problems=1), subjects[group]).tables
        assert [row["status"] for row in tables["chains"]] == ["scored"]
        assert {row["seed"] for row in tables["steps"]} == {config.seed}
        found.add(canonical_json(tables["steps"]))
    assert (len(grid.cells), len(subjects), len(found)) == (30, 3, 30)


# ---------------------------------------------------------------- patch


@pytest.mark.parametrize(
    "more",
    [
        {"component": "resid_pre", "direction": "noise"},
        {"component": "attn.z", "by": "head", "metric": "prob", "layers": (2, 1)},
        {"component": "mlp_out", "by": "last", "exact": True},
    ],
)
def test_a_patching_cell_has_the_commands_numbers(tmp_path, more):
    config = PatchConfig(model="tiny-gpt2", pairs=2, pair_seed=3, **more)
    outcome = patching.run(
        None,
        model=config.model,
        out=tmp_path / "run",
        settings=config.settings,
        dtype=None,
        device="cpu",
        memory_gib=2.0,
        console=QUIET,
    )
    tables = made(config).tables
    assert tables["patch"] == outcome.store.rows("patch")
    assert tables["patch_pairs"] == outcome.store.rows("patch_pairs")
    assert len(tables["patch_pairs"]) == 2 * len(tables["patch"]) > 0
    assert {row["id"] for row in tables["patch_pairs"]} <= {f"ioi-3-{i}" for i in range(16)}
    assert tables["marked_pairs"] == []


def test_pairs_that_do_not_fit_are_marked(tmp_path):
    pair = {"clean": "Mary and John", "corrupted": "John and Mary", "correct": " a", "wrong": " b"}
    words = {"correct": " Mary", "wrong": " John"}
    path = written(tmp_path / "pairs.jsonl", {"id": "a", **pair, **words}, {"id": "b", **pair})
    tables = made(PatchConfig(model="tiny-gpt2", input=path, by="layer")).tables
    assert [row["id"] for row in tables["marked_pairs"]] == ["b"]
    assert {row["id"] for row in tables["patch_pairs"]} == {"a"}
    assert len(tables["patch"]) == 3


def test_a_layer_that_the_model_lacks_is_refused_before_it_runs(monkeypatch):
    config = PatchConfig(model="tiny-gpt2", layers=(0, 7))
    with forwards(monkeypatch) as seen, pytest.raises(InputError, match="layers 0 to 2"):
        made(config)
    assert seen == []


def test_pairs_without_a_gap_make_a_cell_fail_and_not_a_number(tmp_path):
    same = {"clean": "Mary and John", "corrupted": "Mary and John"}
    path = written(tmp_path / "pairs.jsonl", {**same, "correct": " Mary", "wrong": " John"})
    with pytest.raises(UndefinedEffectError):
        made(PatchConfig(model="tiny-gpt2", input=path, by="layer"))


# ---------------------------------------------------------------- settings of the commands


def test_a_configuration_is_the_commands_settings():
    config = TtsConfig(
        model="x", preset="paper", seed=4, target="gold", think="close", max_new_tokens=9,
        control=False, exact=True,
    )  # fmt: skip
    assert config.settings == tts.Settings(
        preset="paper", seeds=1, target="gold", think="close", max_new_tokens=9, control_seeds=0,
        exact=True,
    )  # fmt: skip
    assert TtsConfig(model="x").settings == tts.Settings(seeds=1)
    wanted = {"direction": "noise", "metric": "kl", "layers": (2, 0), "by": "head", "exact": True}
    config = PatchConfig(model="x", component="attn.z", pairs=7, pair_seed=5, **wanted)
    assert config.settings == patching.Settings(components=("attn.z",), pairs=7, seed=5, **wanted)
    assert PatchConfig(model="x").settings == patching.Settings()


# ---------------------------------------------------------------- what identifies a cell


def test_where_the_data_lies_does_not_identify_a_cell_and_what_it_holds_does(tmp_path, problems):
    config = TtsConfig(model="tiny-llama", input=problems)
    moved = problems.rename(tmp_path / "elsewhere.jsonl")
    here = key(replace(config, input=moved))
    written(problems, GOOD)
    assert key(config) != here
    moved.replace(problems)
    assert key(config) == here
    pairs = PatchConfig(model="tiny-llama", input=problems)
    assert key(pairs) != key(PatchConfig(model="tiny-llama"))


def test_data_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path):
    missing = tmp_path / "none.jsonl"
    with says(
        InputError, f"{missing} cannot be hashed: No such file or directory. Check the path."
    ):
        key(TtsConfig(model="tiny-llama", input=missing))


@pytest.mark.parametrize("kind", [TtsConfig, PatchConfig])
def test_the_kind_of_device_identifies_a_cell_and_its_number_does_not(kind):
    cpu, one, two = (kind(model="tiny-llama", device=at) for at in ("cpu", "cuda:0", "cuda:1"))
    several = kind(model="tiny-llama", device_map="auto")
    assert key(one) == key(two) == key(kind(model="tiny-llama", device="cuda"))
    assert len({key(cpu), key(one), key(several)}) == 3
    assert len({each.group for each in (cpu, one, two, several)}) == 4


def test_every_other_setting_identifies_a_cell():
    changed = {
        "model": "tiny-gpt2", "dtype": "float64", "exact": True, "problems": 9, "problem_seed": 1,
        "solutions": True, "preset": "paper", "seed": 1, "target": "gold", "think": "close",
        "control": False, "max_new_tokens": 8, "temperature": 0.5, "top_p": 0.5,
    }  # fmt: skip
    config = TtsConfig(model="tiny-llama")
    keys = {key(replace(config, **{name: value})) for name, value in changed.items()}
    assert len(keys | {key(config)}) == len(changed) + 1
    named = {each.name for each in fields(TtsConfig)}
    assert named - changed.keys() == {"input", "limit", "device", "device_map"}


def test_the_weights_in_a_folder_identify_a_cell(tmp_path):
    tiny.build("tiny-gpt2").save_pretrained(tmp_path / "model")
    config = TtsConfig(model=str(tmp_path / "model"))
    before = key(config)
    assert key(config) == before
    model = tiny.build("tiny-gpt2")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    model.save_pretrained(tmp_path / "model")
    assert key(config) != before


def test_cells_of_one_model_share_it_and_others_do_not():
    config = TtsConfig(model="tiny-llama")
    assert config.group == ("tiny-llama", "", "cpu", "")
    assert replace(config, preset="paper", seed=3, problems=2).group == config.group
    others = [replace(config, model="tiny-gpt2"), replace(config, dtype="float64")]
    assert len({each.group for each in (config, *others)}) == 3


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("tts", TtsConfig(model="tiny-llama", input=Path("a.jsonl"), limit=3, dtype="float64")),
        ("patch", PatchConfig(model="tiny-llama", layers=(0, 2), by="layer")),
    ],
)
def test_an_experiment_is_found_by_name_and_reads_its_configuration_back(name, config):
    experiment = find(name)
    assert experiment is getattr(cells, name)
    assert (experiment.name, experiment.unit) == (name, "id")
    assert config_of(experiment, config_json(config)) == config
    assert experiment.places <= get_type_hints(experiment.config).keys()


# ---------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (TtsConfig, {"problems": 0}, "problems 0: ask for at least 1."),
        (TtsConfig, {"max_new_tokens": -1}, "max_new_tokens -1: ask for at least 1."),
        (TtsConfig, {"limit": 0}, "limit 0: ask for at least 1."),
        (TtsConfig, {"limit": 2}, "limit 2 cuts the rows of `input`: set problems instead."),
        (
            TtsConfig,
            {"preset": "papr"},
            "preset 'papr': write default, paper or released-code. Did you mean 'paper'?",
        ),
        (TtsConfig, {"target": "mine"}, "target 'mine': write own or gold."),
        (TtsConfig, {"think": "shut"}, "think 'shut': write open or close."),
        (
            TtsConfig,
            {"dtype": "float23"},
            "dtype 'float23': write float32, float64, bfloat16 or float16. Did you mean 'float32'?",
        ),
        (TtsConfig, {"device": "gpu0"}, "device 'gpu0': write cpu, cuda or cuda:0."),
        (
            TtsConfig,
            {"model": " "},
            "model is empty: name one of `interp models`, a folder or a hub id.",
        ),
        (
            TtsConfig,
            {"input": Path("a"), "solutions": True},
            "solutions True is for generated data and `input` names a file: leave one out.",
        ),
        (
            PatchConfig,
            {"input": Path("a"), "pairs": 9},
            "pairs 9 is for generated data and `input` names a file: leave one out.",
        ),
        (PatchConfig, {"pairs": 0}, "pairs 0: ask for at least 1."),
        (PatchConfig, {"by": "neuron"}, "by 'neuron': write position, head, layer or last."),
        (PatchConfig, {"direction": "up"}, "direction 'up': write denoise or noise."),
        (
            PatchConfig,
            {"metric": "logits"},
            "metric 'logits': write logit_diff, prob, logprob, rank or kl."
            " Did you mean 'logit_diff'?",
        ),
        (
            PatchConfig,
            {"by": "head"},
            "component resid_pre has no query heads, so it cannot be patched by head: use attn.z, "
            "or by layer.",
        ),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_a_grid(monkeypatch, kind, wrong, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with says(InputError, message):
        kind(**{"model": "tiny-llama", **wrong})


def test_a_misspelt_component_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"^component 'resid_pro': .*resid_pre"):
        PatchConfig(model="tiny-llama", component="resid_pro")


# ---------------------------------------------------------------- machines


@pytest.mark.parametrize("said", ["much", "0", "-1", "nan", "inf"])
def test_the_memory_of_a_worker_is_a_number_of_gib(monkeypatch, said):
    monkeypatch.setenv("INTERP_MEMORY_GIB", said)
    message = f"The environment variable INTERP_MEMORY_GIB is '{said}': give GiB above 0."
    with says(InputError, message):
        cells.memory_gib()


def test_memory_moves_the_numbers_by_rounding_alone_and_is_no_part_of_a_cell(monkeypatch):
    config = TtsConfig(model="tiny-gpt2", problems=1, solutions=True, target="gold")
    name, plenty = key(config), made(config)
    monkeypatch.setenv("INTERP_MEMORY_GIB", "1e-6")
    little = made(config)
    assert key(config) == name
    assert little.spent["forwards"] > plenty.spent["forwards"]
    for row, other in zip(little.tables["steps"], plenty.tables["steps"], strict=True):
        assert row["s1c1"] == pytest.approx(other["s1c1"], rel=0, abs=2e-5)  # 30 nats in float32


def test_a_device_map_goes_to_the_loader(tmp_path, monkeypatch):
    tiny.build("tiny-gpt2").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    plain = TtsConfig(model=str(tmp_path / "model"), problems=1, solutions=True, target="gold")
    asked, load = [], cells.load

    def noting(model, **options):
        asked.append(options)
        return load(model, **options)

    monkeypatch.setattr(cells, "load", noting)
    tables = [made(config).tables for config in (plain, replace(plain, device_map="cpu"))]
    assert tables[0] == tables[1] and tables[0]["steps"]
    always = {"dtype": None, "device": "cpu"}
    assert asked == [always, {**always, "device_map": "cpu"}]
    with says(InputError, "tiny-llama is made in code and takes no options: leave out device_map."):
        cells.tts.load(TtsConfig(model="tiny-llama", device_map="cpu"))
