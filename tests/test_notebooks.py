"""The notebooks: each agrees with its script, carries no outputs, runs, and is right in its prose.

They are executed in a kernel of this interpreter, offline, on one thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from interp.models import registry

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))
FIRST = NOTEBOOKS / "01_first_interventions.ipynb"
SMOLLM2, TINY = "smollm2-135m", "tiny-llama"
PLOTLY = "application/vnd.plotly.v1+json"
NUMBER = r"(-?\d+(?:\.\d+)?)"

Execute = Callable[[str], nbformat.NotebookNode]


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook: nbformat.NotebookNode, stream: str = "stdout") -> str:
    return "".join(each.text for each in outputs(notebook) if each.get("name") == stream)


def heat_map(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Return the one figure that was shown: its trace, and the token labels of its axis."""
    figures = [each.data[PLOTLY] for each in outputs(notebook) if PLOTLY in each.get("data", {})]
    assert len(figures) == 1
    trace, axis = figures[0]["data"][0], figures[0]["layout"]["xaxis"]
    assert trace["type"] == "heatmap"
    return {"share": trace["z"], "tokens": axis["ticktext"]}


def steps_table(text: str) -> list[dict[str, Any]]:
    """Read the table of steps back from its print: one dictionary a row."""
    header, *lines = text[text.index("step  seed  op") :].split("\n\n")[0].splitlines()
    names = header.split()
    rows = [dict(zip(names, line.split(maxsplit=len(names) - 1), strict=True)) for line in lines]
    measured = ("nec", "suf", "tts", "null_tts", "random_tts")
    return [row | {name: float(row[name]) for name in measured} for row in rows]


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Execute:
    """`execute(name)`: the first notebook with its outputs, run on that model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    if "in the cache" not in registry.availability(SMOLLM2):
        monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))

    def run(name: str) -> nbformat.NotebookNode:
        notebook = nbformat.read(FIRST, as_version=4)
        setting = f'NAME = "{SMOLLM2}"'
        assert sum(cell.source.count(setting) for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(setting, f'NAME = "{name}"')
        # Without folders to look in, `python3` is the kernel of this very interpreter.
        specs = KernelSpecManager(kernel_dirs=[])
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
        place = {"metadata": {"path": str(NOTEBOOKS)}}
        return NotebookClient(notebook, km=manager, resources=place, timeout=300).execute()

    return run


def check_outputs(notebook: nbformat.NotebookNode) -> None:
    """Assert what every model must show: no error, receipts, refusals, the map, the table."""
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [each for each in outputs(notebook) if each.output_type == "error"]
    assert "Warning" not in printed(notebook, "stderr")  # a first conversion draws its bar there
    text = printed(notebook)
    assert re.search(r"ZeroAblate\(\d+\.attn\.z, .*\): fired 1x at 1 tokens, change [1-9]", text)
    assert "Patch(1.resid_post): fired 1x" in text and "NO-OP: it fired and changed" in text
    assert "every edit acted: True" in text
    assert text.count("fired 19x at 38 tokens") == 2
    for sentence in (
        "SiteError: '1.atn_out' is no site: write <layer>.<component>",
        "Did you mean '1.attn_out'?",
        "PositionError: ZeroAblate(1.attn_out, positions=(99,)): position 99 is past the end",
        "EditError: Add(1.resid_post): the vector has shape [1] a token and the activation [",
        "SilentEditError: ZeroAblate(1.attn_out, positions=new) names no token of this run",
    ):
        assert sentence in " ".join(text.split())
    found = heat_map(notebook)
    assert {len(row) for row in found["share"]} == {len(found["tokens"])}
    rows = steps_table(text)
    assert [(row["step"], row["seed"]) for row in rows] == [(s, d) for d in "01" for s in "0123"]
    assert [row["op"] for row in rows] == ["edit", "drop", "edit", "edit"] * 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_without_outputs(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert cells(notebook) == cells(jupytext.read(script))
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None)


def test_every_notebook_has_a_script():
    assert SCRIPTS and {path.with_suffix(".py") for path in NOTEBOOKS.glob("*.ipynb")} == {*SCRIPTS}


def test_the_first_notebook_runs_on_the_model_that_stands_in(execute):
    notebook = execute(TINY)
    check_outputs(notebook)
    assert f"<{TINY}, engine torch" in printed(notebook)


def test_the_first_notebook_runs_on_smollm2_and_its_remarks_hold(execute):
    notebook = execute(SMOLLM2)
    check_outputs(notebook)
    text = printed(notebook)
    if not registry.availability(SMOLLM2).startswith("yes"):
        assert "So this is tiny-llama, a random model: its numbers mean nothing." in text
        return
    assert f"<{SMOLLM2}, engine torch, 30 layers>" in text
    effects = [float(each) for each in re.findall(rf"without head \d: \+?{NUMBER} nats", text)]
    assert len(effects) == 9 and min(effects) == effects[3] < -0.5 and max(effects) > 0.2
    found = heat_map(notebook)
    name = [i for i, token in enumerate(found["tokens"]) if token == "·Sarah"][-1]
    first, last = found["share"][0], found["share"][-1]
    assert first[name] > 0.9 and abs(first[-1]) < 0.1
    assert last[-1] > 0.8 and abs(last[name]) < 0.1
    plain, pushed, random = map(int, re.findall(r": (\d+) sea words", text))
    assert pushed > plain >= random
    for one, other, product, repeated in (steps_table(text)[:4], steps_table(text)[4:]):
        assert max(one["tts"], other["tts"]) < 0.05
        assert min(product["nec"], product["suf"]) > 0.3 > 5 * product["null_tts"]
        assert repeated["nec"] < product["nec"] and repeated["suf"] > product["suf"]
        assert [product["mentions_answer"], repeated["mentions_answer"]] == ["True"] * 2
