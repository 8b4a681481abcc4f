"""The committed latent reasoners and their controls: what they score, and whose they are."""

from __future__ import annotations

from functools import cache

import pytest

from experiments import train_latent, training
from experiments.train_latent import FILES, RECORDS, SCORED, Config, source_of
from interp.data.cycle_hop import CycleHop
from interp.errors import InputError
from interp.latent.accuracy import accuracy
from interp.latent.saved import kind_of, load_subject
from interp.latent.training import PRESETS, preset
from interp.latent.training.source import TRAINING
from interp.results.manifest import file_hash, read_manifest

NAMES = [name for name in PRESETS if name.startswith("cycle-")]
CODI = ("cycle-codi", "cycle-codi-no-latents")
CONTROLS = (
    "cycle-pause",
    "cycle-no-recurrence",
    "cycle-no-latents",
    "cycle-no-curriculum",
    "cycle-codi-no-latents",
)


def noted(name, hops=4):
    """The accuracy in a manifest."""
    made = read_manifest(Config(preset=name).folder / "manifest.json")
    return next(row["accuracy"] for row in made.notes["accuracy"] if row["hops"] == hops)


@cache
def measured(name, hops=4):
    """The accuracy on other problems than those of the manifest."""
    task = CycleHop(tells_hops=name in CODI)
    found = accuracy(load_subject(Config(preset=name).folder), task.draw(300, 77, hops))
    return found.summary()[0]["accuracy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_subject_is_that_of_its_manifest(name):
    folder = Config(preset=name).folder
    training.check(folder, "train_latent")
    made = read_manifest(folder / "manifest.json")
    assert all(file_hash(folder / f) == made.model[f"sha256 {f}"] for f in FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    assert kind_of(load_subject(folder)) == preset(name).kind == made.settings["kind"]
    assert abs(measured(name) - noted(name)) < 0.08  # 300 problems: 2.8 standard errors at worst


def test_coconut_solves_its_task_and_so_does_text():
    assert min(noted("cycle-coconut"), measured("cycle-coconut")) >= 0.95
    assert min(noted("cycle-explicit"), measured("cycle-explicit")) >= 0.95


def test_codi_solves_three_and_four_hops():
    assert min(noted("cycle-codi", 3), measured("cycle-codi", 3)) >= 0.95
    assert min(noted("cycle-codi"), measured("cycle-codi")) >= 0.85


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_stays_forty_points_below_with_as_many_updates(name):
    reasoner = "cycle-codi" if name in CODI else "cycle-coconut"
    assert noted(reasoner) - noted(name) >= 0.4
    assert measured(reasoner) - measured(name) >= 0.4
    steps = [read_manifest(Config(preset=n).folder / "manifest.json") for n in (name, reasoner)]
    assert steps[0].spent["steps"] >= steps[1].spent["steps"]


# ---------------------------------------------------------------- the command


def test_one_command_trains_scores_and_writes(tmp_path):
    flags = ["--preset", "cycle-codi", "--updates", "2", "--held-out", "5", "--out", str(tmp_path)]
    train_latent.main([*flags, "--tried", "3"])
    made = read_manifest(tmp_path / "codi" / "manifest.json")
    assert made.spent["steps"] == 2 and made.seeds == [0]
    assert made.notes["seeds_tried"] == 3
    assert [row["hops"] for row in made.notes["accuracy"]] == [1, 2, 3, 4]
    assert made.notes["phases"][0] == {
        "label": "teacher",
        "updates": 2,
        "loss": made.notes["phases"][0]["loss"],
    }
    assert load_subject(tmp_path / "codi").n_steps == 3


def test_what_is_scored_is_never_trained_on():
    source = source_of(preset("cycle-codi"))
    assert SCORED < TRAINING
    trained = {p.question for at in range(20) for p in source.draw(32, at)}
    assert not trained & {p.question for p in source.task.draw(300, SCORED)}


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match=r"^--preset codi-gpt2 is not about cycle-hop: take one "):
        Config(preset="codi-gpt2")
    with pytest.raises(InputError, match=r"^There is no recipe 'cycle-x'; there are cycle-coconut"):
        Config(preset="cycle-x")
    with pytest.raises(InputError, match=r"^--held-out 0 and --tried 1: give 1 or more each\.$"):
        Config(held_out=0)
    assert Config().folder == RECORDS / "coconut"
