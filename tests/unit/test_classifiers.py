"""Classifiers: their shape, their seed, many at once, and folders that are what they say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from interp.errors import InputError, SiteError, StoreError
from interp.models import classifiers
from interp.models.classifiers import (
    KINDS,
    SEEDS,
    Shape,
    load,
    load_classifiers,
    mlp,
    run_stacked,
    site,
    stacked,
    unstacked,
    untrained,
)

SMALL = Shape(4, 5, 2, 3)


def small(seed):
    return SMALL.net(seed)


def folder_of(path, seeds=(4, 9), **changes):
    """A folder as the recipe writes it, with some of the manifest changed."""
    path.mkdir()
    save_file(stacked([small(seed) for seed in seeds]), path / classifiers.NETS)
    digest = hashlib.sha256((path / classifiers.NETS).read_bytes()).hexdigest()
    model = {"kind": "small", "shape": asdict(SMALL), f"sha256 {classifiers.NETS}": digest}
    made = {"seeds": list(seeds), "model": {**model, **changes.pop("model", {})}, **changes}
    (path / classifiers.MANIFEST).write_text(json.dumps(made))
    return path


# ---------------------------------------------------------------- one net


def test_a_net_is_linear_and_relu_and_its_sites_follow_the_relus():
    net = mlp(16, 16, 3, 2, 0)
    names = [type(layer).__name__ for layer in net]
    assert names == ["Linear", "ReLU"] * 3 + ["Linear"]
    assert [type(net.get_submodule(site(layer))).__name__ for layer in (1, 2, 3)] == ["ReLU"] * 3
    assert sum(weight.numel() for weight in net.parameters()) == 850
    assert not net.training


def test_a_seed_gives_one_net_and_leaves_torchs_random_state_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = small(1), small(1), small(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)  # the state outside does not matter
    for weight, same, different in zip(
        first.parameters(), small(1).parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, same) and not torch.equal(weight, different)
    assert torch.equal(first[0].weight, again[0].weight)


def test_weights_are_drawn_as_pytorch_does():
    torch.manual_seed(3)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    ours = mlp(4, 5, 1, 3, 3)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_kinds_and_seeds_are_those_of_the_paper():
    assert {kind: sum(w.numel() for w in untrained(kind, 0).parameters()) for kind in KINDS} == {
        "equality": 850,
        "distributive": 1850,
        "planted_and_or_and": 1850,
        "planted_and_or": 1850,
    }
    assert len(set(SEEDS)) == 10 and SEEDS[:5] == (4287, 3837, 9097, 2635, 5137)


def test_bad_sizes_kinds_and_layers_are_refused():
    with pytest.raises(InputError) as caught:
        mlp(4, 0, 3, 2, 0)
    assert str(caught.value) == (
        "Shape(width=4, hidden=0, n_layers=3, n_answers=2): every size of a classifier must be 1 "
        "or more."
    )
    with pytest.raises(InputError) as caught:
        untrained("equalty", 0)
    assert str(caught.value) == (
        "No kind 'equalty' of classifier; there are: equality, distributive, planted_and_or_and, "
        "planted_and_or. Did you mean 'equality'?"
    )
    for layer in (0, 4):
        with pytest.raises(
            SiteError, match=rf"^layer {layer}: the classifier has hidden layers 1 to 3\.$"
        ):
            site(layer)


# ---------------------------------------------------------------- many together


def test_a_stack_answers_as_its_nets_do_one_by_one():
    nets = [small(seed).double() for seed in (1, 2, 3)]
    inputs = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)).double()
    weights = stacked(nets)
    for i, net in enumerate(nets):
        # float64: rounding leaves about 1e-16, another net more than 1e-2
        torch.testing.assert_close(
            run_stacked(weights, inputs)[i], net(inputs[i]), rtol=0, atol=1e-14
        )
        assert (run_stacked(weights, inputs)[i] - nets[i - 1](inputs[i])).abs().max() > 1e-2
        for layer in (1, 2):
            states = run_stacked(weights, inputs, until=layer)
            plain = net[: 2 * layer](inputs[i])
            torch.testing.assert_close(states[i], plain, rtol=0, atol=1e-14)
            rest = run_stacked(weights, states, after=layer)
            torch.testing.assert_close(rest[i], net(inputs[i]), rtol=0, atol=1e-14)


def test_a_net_by_hand():
    """relu(2 * 3 - 1) = 5 and relu(-3 + 0) = 0, then 10 * 5 + 0 + 0.5 = 50.5."""
    weights = {
        "0.weight": torch.tensor([[[2.0], [-1.0]]]),
        "0.bias": torch.tensor([[-1.0, 0.0]]),
        "2.weight": torch.tensor([[[10.0, 7.0]]]),
        "2.bias": torch.tensor([[0.5]]),
    }
    assert run_stacked(weights, torch.tensor([[[3.0]]])).tolist() == [[[50.5]]]
    assert unstacked(weights, 0)(torch.tensor([[3.0]])).tolist() == [[50.5]]


def test_nets_come_back_out_of_a_stack_and_are_copies():
    nets = [mlp(4, 5, 10, 3, seed) for seed in (1, 2)]  # two-digit names sort as numbers
    weights = stacked(nets)
    back = unstacked(weights, 1)
    for name, value in nets[1].state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    weights["0.weight"].zero_()
    assert back[0].weight.abs().sum() > 0 and nets[1][0].weight.abs().sum() > 0


@pytest.mark.parametrize("nets", [[], [mlp(4, 5, 2, 3, 0), mlp(4, 6, 2, 3, 0)]])
def test_only_nets_of_one_shape_are_stacked(nets):
    message = rf"^{len(nets)} nets to stack: give at least one, all of one shape\.$"
    with pytest.raises(InputError, match=message):
        stacked(nets)


# ---------------------------------------------------------------- folders


def test_a_folder_gives_back_each_net_by_its_seed(tmp_path):
    folder = folder_of(tmp_path / "nets")
    before = torch.get_rng_state()
    assert list(load_classifiers(folder)) == [4, 9]
    for seed in (4, 9):
        net = load(folder, seed, kind="small")
        assert not net.training
        for name, value in small(seed).state_dict().items():
            assert torch.equal(net.state_dict()[name], value), name
    assert torch.equal(torch.get_rng_state(), before)


def test_another_file_is_refused(tmp_path):
    folder = folder_of(tmp_path / "nets")
    path = folder / classifiers.NETS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        load(folder, 4)
    assert str(caught.value) == (
        f"{path} has not the hash in its manifest, so it is another file: restore it, or train "
        "again."
    )


def test_an_unknown_seed_and_a_wrong_kind_are_refused(tmp_path):
    folder = folder_of(tmp_path / "nets", seeds=(4287, 3837))
    with pytest.raises(InputError) as caught:
        load(folder, 4278)
    assert str(caught.value) == (
        f"{folder} has no net of seed 4278; its seeds: 4287, 3837. Did you mean '4287'?"
    )
    with pytest.raises(InputError) as caught:
        load(folder, 4287, kind="equality")
    assert str(caught.value) == (
        f"{folder} holds nets of kind 'small', not 'equality': give the folder of that kind."
    )
    with pytest.raises(InputError, match=r"not 'equalty': .* Did you mean 'equality'\?$"):
        load(folder, 4287, kind="equalty")


def test_a_manifest_of_other_nets_is_refused(tmp_path):
    shape = {**asdict(SMALL), "hidden": 6}
    folder = folder_of(tmp_path / "wide", model={"shape": shape})
    with pytest.raises(StoreError) as caught:
        load(folder, 4)
    assert str(caught.value) == (
        f"{folder / classifiers.NETS} does not hold 2 nets of Shape(width=4, hidden=6, n_layers=2, "
        "n_answers=3): restore its manifest, or train again."
    )
    more = folder_of(tmp_path / "more", seeds=(4, 9))
    made = json.loads((more / classifiers.MANIFEST).read_text())
    (more / classifiers.MANIFEST).write_text(json.dumps({**made, "seeds": [4, 9, 11]}))
    with pytest.raises(StoreError, match="does not hold 3 nets of"):
        load(more, 11)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError: 'seeds'"),
        ("[]", "TypeError"),
        ('{"seeds": [1], "model": {"kind": "small"}}', "KeyError: 'sha256 nets.safetensors'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, text, says):
    folder = folder_of(tmp_path / "nets")
    (folder / classifiers.MANIFEST).write_text(text)
    with pytest.raises(StoreError) as caught:
        load(folder, 4)
    path = folder / classifiers.MANIFEST
    assert str(caught.value).startswith(f"{path} is damaged, or is no manifest of classifiers (")
    assert says in str(caught.value)
    assert str(caught.value).endswith("): restore it, or train again.")


def test_missing_files_are_refused(tmp_path):
    folder = folder_of(tmp_path / "nets")
    path = folder / classifiers.NETS
    path.unlink()
    with pytest.raises(StoreError) as caught:
        load(folder, 4)
    assert str(caught.value) == (
        f"{path} cannot be read: No such file or directory. Restore it, or train again."
    )
    with pytest.raises(StoreError) as caught:
        load(tmp_path / "none", 4)
    assert str(caught.value) == (
        f"{tmp_path / 'none' / classifiers.MANIFEST} cannot be read: No such file or directory. "
        "Check the folder."
    )
