"""Our interchange accuracies beside the published ones: the table, its cells, its records."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments import align_reference as reference
from experiments.align_reference import PARTS, Config, Group, Learning, Unfinished, compare
from interp.alignment.fitting import Budget
from interp.errors import InputError
from interp.jobs.align_worlds import Classifiers
from interp.models.classifiers import mlp
from interp.results import Store
from tests.strategies import says

QUIET = Console(quiet=True)
TINY = Budget(steps=3, batch=64, inputs=600, held_out=200)
NETS = (4287, 3837)


def row(net: int, iia: float, **changed: Any) -> dict[str, Any]:
    """A row of the records: orthogonal, both equality, layer 1 of a trained network."""
    about = {"experiment": "final", "nets": "equality", "budget": "smoke", "train_iia": iia + 0.01}
    fit = Group("final", "equality", "orthogonal", ("both_equality",), layers=("1",))
    (made,) = fit.fits([net])
    return {**about, **vars(made), "iia": iia, **changed}


def theirs(**changed: str) -> dict[str, str]:
    """A row of the published table."""
    about = {"experiment": "final", "map": "orthogonal", "algorithm": "both_equality"}
    about |= {"layer": "1", "dims": "8", "checkpoint": "final", "seeds": "10"}
    return {**about, "mean": "0.8", "sd": "0.1", "min": "0.7", "max": "0.9", **changed}


# ---------------------------------------------------------------- the table


def test_a_mean_within_the_published_range_is_inside_and_beyond_it_is_not():
    (found,) = compare([row(1, 0.6), row(2, 0.8)], [theirs()])
    assert (found["iia"], found["most"], found["n_nets"]) == (pytest.approx(0.7), 0.8, 2)
    assert found["sd"] == pytest.approx(0.02**0.5)  # sample sd of .6 and .8
    assert found["train_iia"] == pytest.approx(0.71)
    assert (found["published"], found["published_low"], found["published_high"]) == (0.8, 0.7, 0.9)
    for ours, inside in ((0.71, True), (0.89, True), (0.69, False), (0.91, False)):
        (found,) = compare([row(1, ours), row(2, ours)], [theirs()])
        assert found["inside"] is inside


def test_a_cell_is_one_map_algorithm_layer_and_checkpoint_and_finds_its_own_reference():
    rows = [
        row(1, 0.8),
        row(1, 0.5, kind="twin", experiment="progression"),
        row(1, 0.6, experiment="progression", checkpoint="4"),
        row(1, 0.9, map="revnet-10x16"),
        row(1, 0.7, map="identity"),
        row(1, 0.7, site="2"),
        row(2, 0.5, site="2", part="bent"),
    ]
    published = [
        theirs(experiment="progression", checkpoint="0", mean="0.502"),
        theirs(experiment="progression", checkpoint="4", mean="0.55"),
        theirs(map="revnet_10x16", mean="0.99"),
        theirs(map="identity_greedy", mean="0.69"),
        theirs(),
    ]
    found = compare(rows, published)
    assert [each["published"] for each in found] == [0.8, 0.502, 0.55, 0.99, 0.69, None, None]
    checkpoints = [each["checkpoint"] for each in found]
    assert checkpoints == ["final", "0", "4", "final", "final", "final", "final"]
    assert found[-1]["inside"] is None and found[0]["sd"] is None  # nothing published; one network
    assert [each["n_nets"] for each in found] == [1] * 7  # another part is another cell


def test_every_cell_of_the_needed_parts_was_published():
    published = reference.published()
    assert len(published) == 582
    for part in ("orthogonal", "planted", "revnet", "untrained", "progression"):
        for group in PARTS[part]:
            more = {"checkpoint": str(group.chunks)} if isinstance(group, Learning) else {}
            rows = [
                {
                    **vars(fit),
                    **more,
                    "experiment": group.experiment,
                    "nets": group.nets,
                    "iia": 0.5,
                    "train_iia": 0.5,
                }
                for fit in group.fits([1])
            ]
            for cell in compare(rows, published):
                assert cell["published_low"] <= cell["published"] <= cell["published_high"], cell


def test_the_comparison_is_printed_with_what_is_outside():
    console = Console(record=True, width=160, file=StringIO())
    cells = compare([row(1, 0.6), row(2, 0.6), row(1, 0.6, site="3")], [theirs()])
    reference.show([{**cells[0], "iia_low": 0.6, "iia_high": 0.6}], console)
    said = console.export_text()
    assert "0.600 (0.600 to 0.600)" in said and "0.700 to 0.900" in said and "NO" in said


# ---------------------------------------------------------------- settings and records


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"parts": ("orthogonl",)},
            f"--parts orthogonl: there are {', '.join(PARTS)}. Did you mean 'orthogonal'?",
        ),
        ({"parts": ()}, "--parts: name at least one, and each once."),
        ({"parts": ("width", "width")}, "--parts: name at least one, and each once."),
        ({"budget": "big"}, "--budget big: there are smoke, standard, paper."),
        *(({"nets": n}, f"--nets {n}: give 2 to 10.") for n in (1, 11)),
        (
            {"out": Path(__file__) / "new"},
            f"--out {Path(__file__) / 'new'}: {__file__} is a file, and a folder is needed; name "
            "another.",
        ),
    ],
)
def test_settings_that_have_no_meaning_are_refused(wrong, message):
    with says(InputError, message):
        Config(**wrong)


@pytest.fixture
def short(tmp_path, monkeypatch) -> Config:
    """One part of two groups, at a budget of three updates."""
    groups = tuple(replace(g, layers=("1",)) for g in (PARTS["untrained"][0], PARTS["revnet"][0]))
    monkeypatch.setattr(reference, "PARTS", {"short": groups})
    monkeypatch.setitem(reference.BUDGETS, "smoke", TINY)
    reference._made.cache_clear()
    yield Config(parts=("short",), budget="smoke", nets=2, out=tmp_path, records=tmp_path / "r")
    reference._made.cache_clear()


def test_a_stopped_run_goes_on_where_it_was_and_a_finished_one_does_nothing(short, monkeypatch):
    fitted: list[Any] = []

    def until_the_third(bench: Any, fit: Any, real: Any = reference.row_of) -> Any:
        fitted.append((fit.kind, fit.net))
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return real(bench, fit)

    monkeypatch.setattr(reference, "row_of", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        reference.run(short, QUIET)
    assert len(Store.open(short.out / "short").keys()) == 2 and not (short.out / "r").exists()
    rows = reference.run(short, QUIET)
    trained = [("trained", net) for net in NETS]
    assert fitted == [("twin", NETS[0]), ("twin", NETS[1]), trained[0], *trained]
    assert [(cell["kind"], cell["n_nets"]) for cell in rows] == [("twin", 2), ("trained", 2)]
    assert reference.run(short, QUIET) == rows and len(fitted) == 5
    whole, copied = (Store.open(folder / "short") for folder in (short.out, short.out / "r"))
    assert copied.rows("align_fits") == whole.rows("align_fits") and len(copied.keys()) == 1


def test_the_command_ends_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        reference.main(["--budget", "huge"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("--budget huge: there are smoke, standard")


# ---------------------------------------------------------------- networks that are learning


def test_a_network_at_a_checkpoint_is_the_one_of_its_training_and_twins_stay(monkeypatch):
    made = {n: {seed: mlp(16, 16, 3, 2, seed + n) for seed in NETS} for n in (0, 4)}
    asked: list[Any] = []
    monkeypatch.setattr(
        reference, "checkpoints", lambda task, seeds: asked.append((task, seeds)) or made
    )
    world = Unfinished("equality", 2, 4)
    assert world.net(NETS[1], "trained") is made[4][NETS[1]]
    assert asked == [("equality", NETS)]
    ours, plain = (each.net(NETS[0], "twin") for each in (world, Classifiers("equality", 2)))
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True)
    )
    assert world.fingerprint(NETS[1], "trained") != world.fingerprint(NETS[1], "twin")


def test_checkpoints_are_trained_once_for_all_maps(monkeypatch):
    calls: list[Any] = []

    def progression(task: str, seeds: Any, *, at: Any) -> dict:
        calls.append((task, seeds, at))
        return {}

    monkeypatch.setattr(reference.train_alignment_nets, "progression", progression)
    reference.checkpoints.cache_clear()
    for _ in range(2):
        reference.checkpoints("equality", NETS)
    assert calls == [("equality", NETS, (0, 1, 4, 8, 16))]
    reference.checkpoints.cache_clear()
    groups = PARTS["progression"]
    assert {g.map for g in groups} == {"orthogonal", "revnet-1x16"} and len(groups) == 10
    assert {g.chunks for g in groups if isinstance(g, Learning)} == {0, 1, 4, 8, 16}
