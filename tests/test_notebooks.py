"""The notebooks: each agrees with its script, carries no outputs, runs, and is right in its prose.

They are executed in a kernel of this interpreter, offline, on one thread.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")

import jupytext
import nbformat
import tyro
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from experiments import claims, latent_study, tts_study
from interp import cli
from interp.jobs import runs
from interp.models import registry, thinker

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))
FIRST, SECOND, THIRD, FOURTH, FIFTH = (
    NOTEBOOKS / f"{name}.ipynb"
    for name in (
        "01_first_interventions",
        "02_find_a_circuit",
        "03_true_and_decorative_steps",
        "04_inside_a_latent_thought",
        "05_does_it_implement_the_algorithm",
    )
)
SMOLLM2, TINY = "smollm2-135m", "tiny-llama"
PLOTLY = "application/vnd.plotly.v1+json"
NUMBER = r"(-?\d+(?:\.\d+)?)"

Execute = Callable[..., nbformat.NotebookNode]


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
    """`execute({old: new}, path)`: a notebook with its outputs, run with other settings."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    if "in the cache" not in registry.availability(SMOLLM2):
        monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))

    def run(settings: dict[str, str], path: Path = FIRST) -> nbformat.NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        for old, new in settings.items():
            assert sum(cell.source.count(old) for cell in notebook.cells) == 1
            for cell in notebook.cells:
                cell.source = cell.source.replace(old, new)
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
    notebook = execute({f'NAME = "{SMOLLM2}"': f'NAME = "{TINY}"'})
    check_outputs(notebook)
    assert f"<{TINY}, engine torch" in printed(notebook)


def test_the_first_notebook_runs_on_smollm2_and_its_remarks_hold(execute):
    notebook = execute({})
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


def after(text: str, start: str, n: int = 1) -> list[float]:
    """Return the n numbers that come next after a piece of text that occurs once."""
    assert text.count(start) == 1, f"{start!r} occurs {text.count(start)} times."
    found = re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?", text.split(start)[1])
    return [float(each) for each in found[:n]]


def figure_types(notebook: nbformat.NotebookNode) -> list[str]:
    figures = [each.data[PLOTLY] for each in outputs(notebook) if PLOTLY in each.get("data", {})]
    return [figure["data"][0]["type"] for figure in figures]


def check_induction(text: str) -> None:
    """Assert the remarks on the small trained model, to the figures that they give."""
    previous, induction = (
        dict(re.findall(r"(\d\.h\d) ([\d.]+)", line))
        for line in re.findall(r"(?:previous|induction): null .*", text)
    )
    assert max(previous, key=lambda head: float(previous[head])) == "0.h2"
    assert [induction[f"1.h{head}"] > induction[f"0.h{head}"] for head in range(4)] == [True] * 4
    (alone,) = re.findall(r"^0\.h2: +(\S+) nats", text, re.M)
    assert float(alone) == pytest.approx(-16.57, abs=0.05)
    gap, null = after(text, "all of the corrupted run:", 2)
    assert gap == pytest.approx(-16.54, abs=0.05) and abs(null) < 1e-4
    assert after(text, "0.h2 -> all four keys at once:")[0] == pytest.approx(-16.03, abs=0.05)
    assert after(text, "or a value:")[0] < 0.4 and after(text, "-> anything:")[0] < 0.05
    assert after(text, "last A -> B", 2)[1] == 0 and after(text, "last A -> D", 2)[1] == 100
    assert after(text, "B -> A  ", 2)[1] < 10 and after(text, "B -> one before A", 2)[1] == 100
    assert after(text, "1 of 4 cut:", 4)[2:] == [100, 100]
    assert after(text, "4 of 4 cut:", 4)[2:] == [0, 0]
    alone, together = re.findall(r"add up to (\S+); together (\S+) nats", text)[0]
    assert float(together) < 2 * float(alone) < 0
    predicted, measured = after(text, "input->a0.h3<v>:", 2)
    assert predicted > 0.4 and abs(measured) < 0.01
    sizes = {int(n): row for n, *row in re.findall(r"^ +(\d+) +(\S+) +(\S+) .*$", text, re.M)}
    assert float(sizes[14][0]) == pytest.approx(0.977, abs=0.01) and abs(float(sizes[14][1])) < 0.01


def test_the_second_notebook_runs_on_a_tiny_model_and_its_first_part_holds(execute):
    settings = {f'MODEL = "{SMOLLM2}"': f'MODEL = "{TINY}"', "PAIRS = 12": "PAIRS = 4"}
    notebook = execute(settings, SECOND)
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [each for each in outputs(notebook) if each.output_type == "error"]
    text = printed(notebook)
    check_induction(text)
    expected = [*["heatmap"] * 6, "scatter", "scatter", *["heatmap"] * 3, "bar"]
    assert figure_types(notebook) == expected
    assert after(text, "the logit difference moves by")[0] < 1e-4
    assert after(text, "null, a run patched with itself:")[0] < 1e-4
    assert "rows read back, equal to those written: True" in text


def table(text: str, start: str) -> list[dict[str, str]]:
    """Read a table back from its print, by how its header begins, up to the first other line."""
    header, *lines = text[text.index("\n" + start) + 1 :].splitlines()
    names, found = re.split(r"\s{2,}", header.strip()), []
    for line in lines:
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) != len(names):
            break
        found.append(dict(zip(names, cells, strict=True)))
    return found


def leading(cell: str) -> float:
    """Return the number that a cell begins with, a percentage as a share."""
    (number, percent), *_ = re.findall(r"^([-+]?[\d.]+(?:e[-+]\d+)?)(%?)", cell)
    return float(number) / (100 if percent else 1)


def within(cell: str) -> tuple[float, float]:
    """Return the ends of the interval in a cell."""
    low, high = re.findall(r"\((-?\d+)% to (-?\d+)%\)", cell)[0]
    return int(low) / 100, int(high) / 100


def check_scores(text: str) -> None:
    """Assert what is said of the step by hand and of the kinds of steps."""
    assert after(text, "largest difference from the scores by hand:")[0] < 1e-5
    legs = re.findall(r"^(\w+ 37) .* nec ([-+][\d.]+)  suf ([-+][\d.]+)$", text, re.M)
    found = {name: (float(nec), float(suf)) for name, nec, suf in legs}
    assert max(map(abs, found["note 37"])) < 0.05
    assert min(*found["so 37"], *found["get 37"]) > 0.9
    assert found["now 37"][0] < 0.3 < 0.6 < found["now 37"][1]
    kinds = {row["kind"]: row for row in table(text, "kind ")}
    high = {"needed": "nec", "used": "nec suf", "alternative": "suf", "decorative": "", "base": ""}
    assert kinds.keys() == high.keys()
    for kind, row in kinds.items():
        for leg in ("nec", "suf"):
            assert leading(row[leg]) > 0.75 if leg in high[kind] else abs(leading(row[leg])) < 0.2
        assert leading(row["null_tts"]) < 0.02
    assert min(leading(kinds[kind]["AUC"]) for kind in high if high[kind]) > 0.95
    missed = {row["name"]: row for row in table(text, "name ")}["missed by necessity"]
    assert leading(missed["estimate"]) > 0.1


def check_direction(text: str) -> None:
    """Assert what is said of the sets and of the direction's length."""
    sets = {(row["sets"], row["side"]): row for row in table(text, "sets ")}
    states = {key: leading(row["states the answer"]) for key, row in sets.items()}
    assert states["unmatched", "true"] > states["unmatched", "decorative"] + 0.3
    assert states["matched", "true"] == states["matched", "decorative"]
    assert sets["matched", "true"]["steps"] == sets["matched", "decorative"]["steps"]
    first, *rest = table(text, "site ")
    assert leading(first["norm"]) < 2 * leading(first["shuffled_norm"])
    assert min(leading(row["norm"]) / leading(row["shuffled_norm"]) for row in rest) > 3
    turned = [leading(row["cosine with unmatched"]) for row in (first, *rest)]
    assert turned[0] < 0.95 < min(turned[1:])


def check_steering(text: str) -> None:
    """Assert what is said of the steering tests and their controls."""
    parts = text.split("\nengage: ")[1].split("\ndisengage: ")
    engage, disengage = ({row["arm"]: row for row in table(part, "arm ")} for part in parts)
    for arms in (engage, disengage):
        flips = {arm: leading(row["flips"]) for arm, row in arms.items()}
        assert flips["direction"] - max(flips["shuffled"], flips["random"]) > 0.3
        assert (flips["none"], leading(arms["none"]["change of log Pr(y*)"])) == (0, 0)
        assert max(leading(row["unreadable"]) for row in arms.values()) < 0.05
    for arm in ("drop_step", "attention_mask", "random"):
        assert leading(engage[arm]["flips"]) < 0.1
    for arm in ("drop_step", "attention_mask"):
        low, high = within(disengage[arm]["direction leads by"])
        assert low <= 0 <= high
    told = re.search(r"the direction flipped at layer \d: (.*)", text)
    assert told is not None
    heeded, broken = (
        sum(map(int, re.findall(f"{name}.*?: (\\d+)", told[1])))
        for name in ("the number", "another")
    )
    assert heeded > 5 and heeded >= 0.8 * (heeded + broken)
    shuffles = [{k: leading(v) for k, v in row.items()} for row in table(text, "shuffle ")]
    along = [row for row in shuffles if row["cosine"] > 0.3]
    against = [row for row in shuffles if row["cosine"] < -0.3]
    assert along and against and max(row["engage"] for row in against) < 0.05
    for test in ("engage", "disengage"):
        assert min(r[test] for r in along) > max(r[test] for r in against)


def check_rest(text: str) -> None:
    """Assert what is said of the chain that is ignored, pruning, the relatives and the records."""
    assert after(text, "steps; the largest score is")[0] <= 0.005
    assert text.count("InputError: No step scores at least 0.3, so none is true thinking") == 2
    points = table(text, "method ")
    kept = {(row["method"], row["fraction"]): leading(row["mean_estimate"]) for row in points}
    assert kept["tts", "0.25"] > 0.9 > max(kept["last", "0.25"], kept["random", "0.25"])
    assert 0.3 < kept["tts", "0"] < 0.7 and kept["random", "1"] == 1
    alone, whole = re.findall(r"^kept (.*): answer (\d+)$", text, re.M)
    assert alone[0] == "['units 7']" and alone[1] != "37" == whole[1]
    judged = table(text.split("equal to 0.001 is equal")[1], "measure ")
    truth = {row["measure"]: row for row in judged}
    kinds = ("needed", "used", "alternative")
    assert [leading(truth["tts"][kind]) > 0.95 for kind in kinds] == [True] * 3
    for null in ("paraphrase_kept", "leave_one_out"):
        assert max(abs(leading(truth[null][kind]) - 0.5) for kind in kinds) < 0.2
    assert leading(truth["mistake_kept"]["used"]) > leading(truth["leave_one_out"]["used"])
    assert leading(truth["early_answering"]["used"]) < 0.9
    assert after(text, "true thinking (at least 0.7):") == [0]
    assert after(text, "of the 10 highest")[0] >= 8
    (chains, right), *_ = re.findall(r"steps of (\d+) chains, (\d+) of them", text)
    assert int(right) < int(chains) / 3
    if "Only scores lie here" not in text:
        assert len(re.findall(r"^   0% .* of [1-9] items of [1-9] problems", text, re.M)) == 2
        assert after(text, "of steps with the highest TTS keep")[0] < 15
        assert after(text, "of the answers, random steps")[0] < 15


def test_the_third_notebook_runs_and_its_remarks_hold(execute):
    notebook = execute({}, THIRD)
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [each for each in outputs(notebook) if each.output_type == "error"]
    text = printed(notebook)
    check_scores(text)
    check_direction(text)
    check_steering(text)
    check_rest(text)
    drawn = ["bar", "scatter", "scatter", "scatter", "heatmap", "bar"]
    assert figure_types(notebook) == drawn
    panels = [each.data[PLOTLY] for each in outputs(notebook) if PLOTLY in each.get("data", {})][2]
    curves = [each["y"] for each in panels["data"] if each["name"] == "TrueThinking direction"]
    assert len(curves) == 2
    for *rest, best in map(sorted, curves):
        assert max(rest) < 0.1 < 0.3 < best


QUICK = {
    "tts": ["--seeds", "2", "--control-seeds", "0"],
    "steer-test": shlex.split("--items 4 --layers 1 --shuffled 1 --no-bins --no-checks"),
    "prune": ["--fractions", "0.5", "--random", "2", "--no-decode"],
    "compare": ["--measures", "early"],
}
"""What makes the notebook's commands quick; of two equal flags the last one counts."""


def test_the_commands_of_the_third_notebook_work(tmp_path, monkeypatch, capsys):
    rows = [
        {"id": each.id, "question": each.question, "cot": each.chain, "answer": each.answer}
        for each in thinker.chains(8, seed=5)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "problems.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    last = nbformat.read(THIRD, as_version=4).cells[-1].source
    ran = []
    for line in re.findall(r"^(?:interp|python) .*", last, re.M):
        words = shlex.split(line)
        if words[0] == "interp":
            name = words[2] if words[2] in runs.SCORED_PARTS else words[1]
            thinks = ["--model", str(tts_study.RECORDS / "thinker")] if words[1] == "tts" else []
            with pytest.raises(SystemExit) as stop:
                cli.main([*words[1:], *thinks, *QUICK.get(name, [])])
            assert stop.value.code == 0, f"{line}: {capsys.readouterr().err}"
        elif words[2] == "experiments.claims":
            assert [claims.find(each).name for each in words[3:]] == words[3:]
        else:
            assert tyro.cli(tts_study.Config, args=words[3:]).subject == words[-1]
        ran.append(words[2])
    parts = [tmp_path / "runs" / "mine" / name for name in runs.SCORED_PARTS]
    assert all((part / "manifest.json").is_file() for part in parts)
    assert len(ran) == 8 and "experiments.tts_study" in ran


def by_step(row: dict[str, str]) -> list[float | None]:
    """Return the shares in a row's columns of steps; None where no edit can act."""
    cells = [cell for name, cell in row.items() if name.startswith("step ")]
    return [None if cell == "-" else leading(cell) for cell in cells]


def check_subjects(text: str) -> None:
    """Assert what is said of the Coconut and of the controls that are there."""
    assert after(text, "one word for each step left, and the answer:")[0] > 80
    right = {row["subject"]: leading(row["right"]) for row in table(text, "subject ")}
    assert right["coconut"] > 0.9
    solve = {"coconut", "explicit", "codi"}
    for name, ours in (("codi", "codi"), ("", "coconut")):
        rivals = [n for n in right if n not in solve and n.startswith("codi") == (name == "codi")]
        assert all(right[rival] < right[ours] - 0.25 for rival in rivals)
    absent = re.findall("^not trained in this folder: (.*)", text, re.M)
    named = {*right, *(absent[0].split(", ") if absent else [])}
    assert {"pause", "no_recurrence", "no_latents", "no_curriculum", "explicit"} <= named


def check_steps(text: str) -> None:
    """Assert what is said of what a step holds, whether it is needed, and of early stops."""
    holds = table(text, "step  acts as node t")
    fits = [leading(row["acts as node t"]) for row in holds]
    late = [leading(row["acts as node t-1"]) for row in holds]
    assert len(fits) == 4 and sum(fit > 0.7 for fit in fits) >= 2
    assert max(leading(row["null"]) for row in holds) < 0.35
    flips = {row["edit"]: row for row in table(text.split("that flip, with")[1], "edit ")}
    donor, zero, turned = (
        [leading(flips[name][f"step {t}"]) for t in range(1, 5)]
        for name in ("resample", "zero", "rotate_45")
    )
    assert min(donor[:2]) > 0.7 and max(turned) < max(donor) - 0.2
    assert max(abs(z - d) for z, d in zip(zero, donor, strict=True)) > 0.03
    used = [i for i, flipped in enumerate(donor) if flipped > 0.3]
    assert all(max(fits[i], late[i]) > 0.35 for i in used)
    assert [leading(flips["identity"][f"step {t}"]) for t in range(1, 5)] == [0] * 4
    assert leading(flips["swap"]["all"]) > 0.7
    *early, last = table(text, "k  A(k)")
    assert max(leading(row["A(k)"]) for row in early) < 0.3 and leading(last["A(k)"]) > 0.9
    nexts = [leading(row["next step"]) for row in early]
    assert sum(share > 0.7 for share in nexts) >= 3 and min(nexts) > 0.4
    assert leading(early[-1]["answer, forced"]) > 0.8


def check_influence(text: str) -> None:
    """Assert what is said of W, its shape, the released code and the two roads."""
    assert after(text, "the largest effect of an edit that changes nothing is") == [0]
    names = ("locality", "early_out", "late_in")
    tables = [part for part in text.split("\nedit ")[1:]]
    ours, planted, released = (
        {row["edit"]: row for row in table("\nedit " + part, "edit ")}
        for part in tables
        if "early_out" in part.splitlines()[0]
    )
    equal = ours["equal edges"]
    assert ours["identity"]["total"] == "0" and ours["identity"]["span"] == "none"
    for edit in ("resample", "shuffled_donor"):
        assert all(abs(leading(ours[edit][n]) - leading(equal[n])) < 0.15 for n in names)
    shown = [[leading(ours[e][n]) for e in ("zero", "resample", "rotate_45")] for n in names]
    assert max(max(row) - min(row) for row in shown) > 0.05
    shapes = {kind: [leading(row[n]) for n in names] for kind, row in planted.items()}
    assert shapes["chain"] == [leading(equal[n]) for n in names]
    assert shapes["window"][0] == 1 and shapes["shortcut"] == [0, 1, 1]
    null = released.pop("identity")
    assert leading(null["total"]) > 3 and leading(null["late_in"]) > leading(equal["late_in"]) + 0.1
    for edit in ("zero", "resample"):
        assert leading(released[edit]["total"]) == pytest.approx(leading(null["total"]), rel=0.15)
        for name in (*names, "span"):
            assert abs(leading(released[edit][name]) - leading(null[name])) < 0.06
    roads = {row["road"]: [share or 0 for share in by_step(row)] for row in table(text, "road ")}
    relay, cache = roads["recurrence"], roads["cache"]
    assert relay[-1] == 0 and cache[-1] == roads["input"][-1]
    assert all(r > c + 0.3 for r, c in zip(relay[:2], cache[:2], strict=True))
    assert max(cache[2:]) > 0.3


def check_others(text: str) -> None:
    """Assert what is said of the same edits on the other subjects that are there."""
    if "no other subject with steps" in text:
        return
    part = text.split("- where no edit can act")[1]
    found = {(row["subject"], row["edit"]): by_step(row) for row in table(part, "subject ")}
    for name in {name for name, _ in found}:
        assert max(flip or 0 for flip in found[name, "zero"]) > 0.05
    if ("pause", "zero") in found:
        assert found["pause", "resample"] == found["pause", "holds node t"] == [None] * 4
    for name in {"explicit", "codi"} & {name for name, _ in found}:
        assert max(flip or 0 for flip in found[name, "resample"]) > 0.5
    if ("explicit", "zero") in found:
        assert max(share or 0 for share in found["explicit", "holds node t"]) > 0.7


def check_commitment(text: str) -> None:
    """Assert what is said of the moment at which an answer is settled."""
    parts = dict(re.findall(r"^(\w+): bits still needed.*\n((?:.+\n)+)", text, re.M))
    found = {name: table("\n" + part, "t ") for name, part in parts.items()}
    settled = found["planted"]
    said = [leading(row["would say"]) for row in settled]
    inside = [leading(row["vector"]) for row in settled[1:]]
    assert min(said[:5]) > 0.95 > 0.05 > max(said[5:])
    assert min(inside[:3]) > 0.9 > 0.1 > max(inside[3:])
    assert min(leading(row["vector, labels shuffled"]) for row in settled[1:]) > 0.9
    if "the Coconut's answers do not compete" in text:
        return
    *early, last = found["coconut"]
    assert min(leading(row["would say"]) for row in early[:2]) > 0.85
    assert leading(last["would say"]) < 0.4
    assert min(leading(row["vector"]) for row in early[1:3]) > 0.75


def test_the_fourth_notebook_runs_and_its_remarks_hold(execute):
    notebook = execute({}, FOURTH)
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [each for each in outputs(notebook) if each.output_type == "error"]
    text = printed(notebook)
    for check in (
        check_subjects,
        check_steps,
        check_influence,
        check_others,
        check_commitment,
    ):
        check(text)
    drawn = ["bar"] * 3 + ["scatter", "heatmap", "scatter", "scatter", "bar", "scatter"]
    assert figure_types(notebook) == drawn
    panels = [each.data[PLOTLY] for each in outputs(notebook) if PLOTLY in each.get("data", {})]
    null = panels[4]["data"][-1]["z"]  # W of the identity is drawn last
    assert [value for line in null for value in line if value is not None] == [0] * 10


LATENT_QUICK = {
    "train": ["--updates", "2", "--held-out", "8"],
    "rollout": ["--n", "40", "--calibration", "6"],
    "necessity": shlex.split("--operators zero --draws 1"),
    "influence": ["--operators", "zero"],
    "commitment": shlex.split("--samples 6 --shuffles 1"),
}


def test_the_commands_of_the_fourth_notebook_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    last = nbformat.read(FOURTH, as_version=4).cells[-1].source
    ran = []
    for line in re.findall(r"^(?:interp|python) .*", last, re.M):
        words = [str(ROOT / w) if w.startswith("experiments/") else w for w in shlex.split(line)]
        if words[0] == "interp":
            with pytest.raises(SystemExit) as stop:
                cli.main([*words[1:], *LATENT_QUICK.get(words[2], [])])
            said = capsys.readouterr().err
            published = "FOLDER" in words  # it is read so far, and then there are no problems
            assert stop.value.code == (2 if published else 0), f"{line}: {said}"
            assert ("There is no file gsm8k_test.jsonl" in said) == published
        elif words[2] == "experiments.claims":
            assert [claims.find(each).name for each in words[3:]] == words[3:]
        else:
            asked = tyro.cli(latent_study.Config, args=words[3:])
            assert asked.subject in words and (asked.model or "FOLDER") == "FOLDER"
        ran.append(words[2])
    parts = ("necessity", "influence", "influence-released-code", "commitment")
    made = [tmp_path / "runs" / "thought" / name for name in parts]
    assert all((part / "manifest.json").is_file() for part in made)
    assert (tmp_path / "runs" / "my-coconut" / "latent.json").is_file()
    assert len(ran) == 11 and ran.count("experiments.latent_study") == 2


# ---------------------------------------------------------------- does it implement the algorithm


def check_fits(text: str) -> None:
    """Assert what is said of the maps, the wrong algorithm and the twin."""
    assert after(text, "inputs on which all three agree:", 2) == [5000, 5000]
    below, planted, above = (
        after(text, f"layer {i}: loss on validation pairs")[0] for i in (1, 2, 3)
    )
    assert max(below, planted) < 0.03 < above
    assert after(text, "largest change of a logit")[0] == 0
    assert after(text, "largest relative error", 3)[2] < 1e-10  # the second is that of "float64"
    rows = {(r["network"], r["algorithm"], r["map"]): r for r in table(text, "network  algorithm")}
    iia = {key: leading(row["test IIA"]) for key, row in rows.items()}
    top = {
        key[1]: leading(row["best baseline"]) for key, row in rows.items() if key[0] == "planted"
    }
    assert iia["planted", "and_or", "rotation"] > 0.98 > top["and_or"] > 0.7
    assert iia["planted", "and_or_and", "rotation"] < top["and_or_and"]
    assert min(iia["planted", name, "RevNet"] for name in top) > 0.97
    assert max(iia["twin", "and_or", called] for called in ("rotation", "RevNet")) < 0.75


def check_controls(text: str) -> None:
    """Assert what is said of distinguishing pairs, shuffled labels, read parts and far states."""
    told = {
        (r["map"], r["fitted for"]): leading(r["follows it"])
        for r in table(text, "map       fitted")
    }
    assert told["rotation", "and_or"] > 0.95 > 0.5 > told["rotation", "and_or_and"]
    assert min(told["RevNet", name] for name in ("and_or", "and_or_and")) > 0.95
    heart = {r["map"]: r for r in table(text, "map       parameters")}
    learned = {name: leading(row["train IIA, shuffled labels"]) for name, row in heart.items()}
    assert learned["RevNet"] > learned["rotation"] + 0.15
    none, full, read, rest = (
        after(text, f"swapped: {part}")[0] for part in ("none", "full", "read", "rest")
    )
    assert abs(rest - none) < 0.05 and full > 0.95
    assert 0.15 < (read - none) / (full - none) < 0.85  # some, not all; rounding moves it by .1
    far = {
        (r["algorithm"], r["map"]): leading(r["distance"]) for r in table(text, "algorithm   map ")
    }
    known = far.pop(("and_or", "planted neurons"))
    assert known < min(far.values()) and max(far, key=far.__getitem__) == ("and_or_and", "RevNet")


def check_verdicts(text: str) -> None:
    """Assert the verdicts on what the notebook measured, and that the fixed words come out."""
    said = dict(re.findall(r"^(and_or\w* under the \w+)\n([A-Z ]+):", text, re.M))
    assert said == {
        "and_or under the rotation": "NO VERDICT",
        "and_or under the RevNet": "VACUOUS FOR THIS MAP",
        "and_or_and under the rotation": "NOT FOUND",
        "and_or_and under the RevNet": "VACUOUS FOR THIS MAP",
    }


def check_probe(text: str) -> None:
    """Assert that the variable is decoded at both layers and used at one."""
    assert "layer 2: left at 3: decodable; used." in text
    assert "layer 3: left at 5: decodable; not used." in text
    assert after(text, "copies exchanged neuron for neuron:")[0] == 0


def test_the_fifth_notebook_runs_and_its_remarks_hold(execute):
    notebook = execute({}, FIFTH)
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [each for each in outputs(notebook) if each.output_type == "error"]
    text = printed(notebook)
    for check in (check_fits, check_controls, check_verdicts, check_probe):
        check(text)
    studied = (ROOT / "experiments/records/align_study").is_dir()
    assert studied != ("No records of `interp align` lie" in text)
    multiplied = (ROOT / "experiments/records/multiplication_study/heat_maps.jsonl").is_file()
    assert figure_types(notebook) == ["bar", *(["heatmap"] if multiplied else [])]
