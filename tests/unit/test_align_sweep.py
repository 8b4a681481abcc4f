"""Alignment as cells of a sweep: the job's own rows, checkpoints as an axis, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from interp.data.ioi import word_tokenizer
from interp.errors import InputError, ModelError
from interp.jobs import align_decoders
from interp.jobs.align_sweep import AlignConfig, align
from interp.results import Cells, index
from interp.sweeps.drive import run_grid
from interp.sweeps.experiment import cell_identity, find
from interp.sweeps.grid import parse_grid, read_grid
from tests.strategies import says
from tests.unit.test_jobs_align import NETS, ONE, make_small, quick, rows_of, run  # noqa: F401

GRID = Path(__file__).parents[2] / "experiments" / "grids" / "align_layers.yaml"
CONFIG = AlignConfig(task="equality", folder=NETS / "equality", site="1", nets=2)
PLAIN = "experiment: align\nbase: {task: ioi, site: 1.resid_post, model: %s, nets: 2}\n"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)
    monkeypatch.setattr(align_decoders, "_sizes", lambda n: ((60, 60), (200, 1100)))


def made(config: AlignConfig) -> dict:
    (row,) = align.run(align.load(config), config).tables["align_fits"]
    return dict(row)


def test_a_cell_is_the_row_that_the_job_writes(tmp_path, quick):  # noqa: F811
    fits = rows_of(run(tmp_path / "run", replace(ONE)).store.folder)["align_fits"]
    seen = 0
    for fit in fits:
        if fit["algorithm"] == "both_equality":
            net = [row["net"] for row in fits if row["kind"] == fit["kind"]].index(fit["net"])
            mine = made(replace(CONFIG, kind=fit["kind"], net=net))
            assert mine == {name: value for name, value in fit.items() if name != "cpu_seconds"}
            seen += 1
    assert seen == 4  # two networks, two twins


def test_the_committed_grid_is_of_these_networks_and_all_its_cells_are_new():
    grid = read_grid(GRID)
    keys = {str(cell_identity(align, config)) for config in grid.cells}
    assert len(grid.cells) == len(keys) == 48
    assert all(config.folder.is_dir() for config in grid.cells)


def test_checkpoints_are_an_axis(tmp_path, monkeypatch):
    """Two folders in a folder, as revisions; another network is another cell and other numbers."""
    tokenizer = word_tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    for seed, revision in enumerate(["step0", "step1000"]):
        torch.manual_seed(seed)
        hf = GPTNeoXForCausalLM(config)
        torch.nn.init.normal_(hf.lm_head.weight, std=seed + 0.1)
        hf.save_pretrained(tmp_path / "m" / revision)
        tokenizer.save_pretrained(tmp_path / "m" / revision)
    text = PLAIN % (tmp_path / "m") + "axes: {product: {revision: [step0, step1000]}}\n"
    done = run_grid(parse_grid(text, "checkpoints"), tmp_path / "store")
    assert (done.computed, done.failed) == (2, [])
    rows = index.table(tmp_path / "store", "align_fits").to_pylist()
    assert len(rows) == 2 and rows[0]["validation_loss"] != rows[1]["validation_loss"]
    assert all("cpu_seconds" not in row and row["net"] == 0 for row in rows)
    again = run_grid(parse_grid(text, "checkpoints"), tmp_path / "store")
    assert (again.computed, len(set(Cells.open(tmp_path / "store").keys()))) == (0, 2)
    with pytest.raises(ModelError, match=r"has no revision 'step2'; there are: step0, step1000\.$"):
        align.load(AlignConfig(task="ioi", site="1", model=str(tmp_path / "m"), revision="step2"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"map": "orthogonl"}, "orthogonl"),
        ({"size": 0}, "size 0: give at least 1."),
        ({"net": 2}, "net 2: there are 2, counted from 0."),
    ],
)
def test_a_wrong_configuration_is_refused(change, sentence):
    with pytest.raises(InputError) as refused:
        replace(CONFIG, **change)
    assert sentence in str(refused.value)


def test_a_wrong_cell_is_refused_when_it_is_run(tmp_path):
    bench = align.load(CONFIG)
    with says(InputError, "site 4: equality has the sites 1, 2, 3."):
        align.run(bench, replace(CONFIG, site="4"))
    with pytest.raises(InputError, match=r"holds no nets\.safetensors; give networks\.$"):
        cell_identity(align, replace(CONFIG, folder=tmp_path))
    with pytest.raises(InputError, match=r"^There is no experiment 'algn'.*Did you mean 'align'"):
        find("algn")
