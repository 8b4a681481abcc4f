"""The recipe of the classifiers, their records, and what stays frozen when a map is fitted."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy

from experiments import train_alignment_nets as recipe
from experiments.train_alignment_nets import (
    RECORDS,
    Config,
    labelled,
    load_trained,
    planted_blocks,
    progression,
    table,
)
from interp.alignment.fitting import Budget, fit, fresh, score
from interp.alignment.maps import Rotation, consecutive_blocks
from interp.alignment.subjects import LayerSubject
from interp.data.alignment_tasks import TASKS, task_named
from interp.errors import InputError
from interp.models.classifiers import KINDS, NETS, SEEDS, load_classifiers, site, untrained
from interp.results.manifest import file_hash, read_manifest

TINY = {
    "seeds": (3, 5),
    "steps": 4,
    "batch": 32,
    "inputs": 256,
    "planted_steps": 4,
    "planted_batch": 32,
    "pairs": 512,
    "pair_inputs": 256,
    "held_out": 128,
}
FLAGS = [
    word
    for name, value in TINY.items()
    for word in (
        f"--{name.replace('_', '-')}",
        *map(str, value if isinstance(value, tuple) else (value,)),
    )
]


def fingerprint(net):
    data = b"".join(weight.detach().numpy().tobytes() for weight in net.parameters())
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- the recipe


def test_a_short_run_is_repeatable_and_reads_back(tmp_path):
    kinds = ("equality", "planted_and_or")
    recipe.main([*FLAGS, "--kinds", *kinds, "--out", str(tmp_path)])
    before = torch.get_rng_state()
    for kind in kinds:
        again = recipe.train(kind, Config(kinds=kinds, out=tmp_path, **TINY))
        made = read_manifest(tmp_path / kind / "manifest.json")
        assert made.seeds == [3, 5] and [net["seed"] for net in made.notes["nets"]] == [3, 5]
        assert made.model["kind"] == kind
        assert made.command[:3] == ["python", "-m", "experiments.train_alignment_nets"]
        for seed, done in zip(made.seeds, again, strict=True):
            assert fingerprint(load_trained(kind, seed, folder=tmp_path)) == fingerprint(done.net)
            assert fingerprint(done.net) != fingerprint(untrained(kind, seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert "planted" in made.notes and made.settings["pairs"] == 512
    with pytest.raises(InputError, match=r"holds nets of kind 'equality', not 'distributive'"):
        (tmp_path / "equality").rename(tmp_path / "distributive")
        load_trained("distributive", 3, folder=tmp_path)


def test_progression_begins_untrained_and_each_chunk_starts_a_fresh_adam():
    """One update a chunk: Adam's first step moves a weight by its rate, 1e-3, each time anew."""
    nets = progression("equality", [7], at=(0, 1, 2), chunk=32, batch=32, inputs=64)
    assert list(nets) == [0, 1, 2]
    assert fingerprint(nets[0][7]) == fingerprint(untrained("equality", 7))
    inputs, labels = labelled(table("equality", 64, "train"))
    for number in (1, 2):
        net, rows = nets[number - 1][7], slice(32 * (number - 1), 32 * number)
        cross_entropy(net(inputs[rows]), labels[rows]).backward()
        old, new = (each.get_parameter("6.bias") for each in (net, nets[number][7]))
        torch.testing.assert_close(new, old - 1e-3 * old.grad.sign(), rtol=0, atol=1e-6)


def test_progression_is_of_nets_that_learn_a_task():
    for kind, at in (("planted_and_or", (1,)), ("equality", (-1, 2))):
        with pytest.raises(InputError) as caught:
            progression(kind, [7], at=at)
        assert str(caught.value) == (
            f"progression of {kind!r} at {list(at)}: give a kind that learns a task, and 0 chunks "
            "or more."
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kinds": ("equalty",)},
            "No kind 'equalty' of classifier; there are: equality, distributive, "
            "planted_and_or_and, planted_and_or. Did you mean 'equality'?",
        ),
        (
            {"kinds": ("equality",), "seeds": (1, 1)},
            "--kinds equality --seeds 1 1: give at least one of each, and none twice.",
        ),
        ({"planted_steps": 0}, "--planted-steps 0: give 1 or more."),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: give a number above 0."),
        (
            {"held_out": 5},
            "--held-out 5, --pair-inputs 262144: give 64 or more of each, so that every variable "
            "varies.",
        ),
        (
            {"inputs": 100},
            "--inputs 100 and --pairs 1280000 must fill a batch, of 1024 and 6400: draw more, or "
            "lower the batch.",
        ),
    ],
)
def test_settings_without_a_result_are_refused(changes, message):
    with pytest.raises(InputError) as caught:
        Config(**changes)
    assert str(caught.value) == message


def test_the_command_ends_in_a_sentence_and_other_records_stay(tmp_path, capsys):
    folder = tmp_path / "equality"
    shutil.copytree(recipe.RECORDS.parent / "ioi", folder)
    before = sorted((path.name, file_hash(path)) for path in folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        recipe.main([*FLAGS, "--kinds", "equality", "--out", str(tmp_path)])
    said = f"--out {folder} holds records of 'train_ioi', which would be lost: name another folder."
    assert stopped.value.code == 2 and capsys.readouterr().err.strip() == said
    assert sorted((path.name, file_hash(path)) for path in folder.iterdir()) == before


# ---------------------------------------------------------------- the records


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_nets_are_those_of_the_manifest_and_good(kind):
    made, nets = read_manifest(RECORDS / kind / "manifest.json"), load_classifiers(RECORDS / kind)
    assert tuple(nets) == tuple(made.seeds) == SEEDS
    assert made.model[f"sha256 {NETS}"] == file_hash(RECORDS / kind / NETS)
    data = table(kind, 10_000, "test")
    inputs, labels = labelled(data)
    for (seed, net), noted in zip(nets.items(), made.notes["nets"], strict=True):
        right = (net(inputs).argmax(1) == labels).double().mean().item()
        assert noted["seed"] == seed
        # one of 10,000 inputs may fall to the other side by rounding on another machine
        assert right == pytest.approx(noted["test_accuracy"], abs=3e-4)
        assert right >= 0.997
        assert noted["untrained_accuracy"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if recipe.is_planted(kind)])
def test_planted_neurons_hold_their_variables_in_plain_torch(kind):
    """No map and no cut: the states at layer 2, half of them from another input's run."""
    data, rival = (table(other, 4000, "test") for other in (kind, RIVAL[kind]))
    pairs = data.pairs(4000, 11)
    theirs = rival.label(pairs.base, pairs.sources, pairs.active)
    for net in load_classifiers(RECORDS / kind).values():
        head, tail = net[:4], net[4:]
        states = head(data.inputs)
        new = states[pairs.base]
        for i, block in enumerate((slice(0, 12), slice(12, 24))):
            rows = pairs.active[:, i]
            new[rows, block] = states[pairs.sources[rows, i], block]
        answers = tail(new).argmax(1)
        assert (answers == pairs.labels).double().mean() > 0.99
        told_apart = pairs.labels != theirs.labels
        assert told_apart.sum() > 200
        assert (answers == theirs.labels)[told_apart].double().mean() < 0.05


RIVAL = {"planted_and_or_and": "planted_and_or", "planted_and_or": "planted_and_or_and"}


def test_blocks_are_halves_of_layer_2():
    assert planted_blocks("planted_and_or") == {
        "middle": tuple(range(12)),
        "outer": tuple(range(12, 24)),
    }
    assert list(planted_blocks("planted_and_or_and")) == ["left_and", "right_and"]
    assert set(recipe.TASKS) == set(KINDS)
    for task, algorithm in recipe.TASKS.values():
        assert algorithm in TASKS[task].algorithms
    assert all(KINDS[kind].width == task_named(t).width for kind, (t, _) in recipe.TASKS.items())


# ---------------------------------------------------------------- frozen while a map is fitted


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_fitting_a_map_changes_no_weight_and_sends_no_gradient_before_the_site(layer):
    """Nothing at all of the frozen net collects a gradient, and the map's weights do move."""
    net, data = load_trained("equality", SEEDS[0]), table("equality", 512, "train")
    before, subject = fingerprint(net), LayerSubject(net, site(layer))
    cut = subject.cut(data.inputs)
    start = Rotation(cut.d, consecutive_blocks(data.variables, 8))
    budget = Budget(steps=5, batch=64, check_every=5)
    done = fit(cut, start, fresh(data.pairs, 64, 0), budget, validation=(cut, data.pairs(64, 1)))
    assert fingerprint(net) == before
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert not cut.states.requires_grad
    assert (done.map.basis() - start.basis()).abs().max() > 1e-4


def test_a_rotation_tells_the_planted_algorithm_from_its_rival():
    """The least of the sheet's main acceptance test: one net, a short budget, both algorithms."""
    net, found = load_trained("planted_and_or", SEEDS[0]), {}
    for kind in RIVAL:
        train_on, test_on = (table(kind, 10_000, split) for split in ("train", "test"))
        subject = LayerSubject(net, site(2))
        cut, held = subject.cut(train_on.inputs), subject.cut(test_on.inputs)
        start = Rotation(24, consecutive_blocks(train_on.variables, 12))
        budget = Budget(steps=150, batch=256, learning_rate=1e-2)
        pairs = test_on.pairs(4000, 3)
        done = fit(cut, start, fresh(train_on.pairs, 256, 0), budget, validation=(held, pairs))
        found[kind] = score(held, done.map, test_on.pairs(4000, 4)).iia
    assert found["planted_and_or"] > 0.97
    assert found["planted_and_or_and"] < 0.8
