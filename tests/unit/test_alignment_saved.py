"""A map in a folder: every family comes back bit for bit, and what is not the same is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interp.alignment.couplings import Coupling
from interp.alignment.families import FAMILIES, build
from interp.alignment.fixed import UserMap
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.alignment.masks import Boundless, Mask
from interp.alignment.saved import ABOUT, FIELDS, WEIGHTS, load, manifest, save
from interp.errors import InputError, StoreError

D, NAMES = 6, ("zebra", "ant")  # not in the order of the alphabet
EVERY = (*(name for name in FAMILIES if "LxH" not in name), "revnet-2x4", "coupling-2x4")


def changed(family: str, dtype: torch.dtype) -> tuple:
    """A map of a family with weights that no seed gives."""
    stream = torch.Generator().manual_seed(0)
    states = torch.randn(20, D, generator=stream)
    values = {name: torch.arange(20) % (i + 2) == 0 for i, name in enumerate(NAMES)}
    phi = build(family, D, NAMES, 1, seed=7, states=states, values=values).to(dtype)
    phi.anneal(0.3)
    with torch.no_grad():
        for weight in phi.parameters():
            noise = 0.1 * torch.randn(weight.shape, generator=stream).to(dtype)
            weight += noise if weight.ndim == 1 else noise.tril(-1)
    return phi, states.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", EVERY)
def test_a_map_comes_back_bit_for_bit(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    phi, states = changed(family, dtype)
    path = save(phi, tmp_path / "map", site="3", model="abc", notes={"seed": 1})
    again = load(tmp_path / "map", d=D, site="3", model="abc")
    assert path.name == ABOUT
    assert (again.family, again.d, again.blocks) == (phi.family, D, phi.blocks)
    assert again.variables == NAMES
    assert again.n_parameters == phi.n_parameters
    sources = states.roll(3, 0)[:, None].repeat(1, 2, 1)
    on = torch.tensor([[True, False]]).repeat(20, 1)
    assert torch.equal(again(states), phi.eval()(states))
    assert torch.equal(again.swap(states, sources, on), phi.swap(states, sources, on))
    weights = zip(again.state_dict().items(), phi.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in weights)
    assert not again.training


def test_settings_come_back(tmp_path: Path) -> None:
    blocks = consecutive_blocks(NAMES, 3)
    maps = (
        Coupling(D, blocks, n_blocks=2, width=3, kind="safe", seed=4, cap=0.5),
        Boundless(D, NAMES, seed=2, price=0.25, hot=3.0, evaluation="soft"),
        Mask(D, NAMES, basis=torch.eye(D)[:4], sparsity=0.5, evaluation="soft"),
        Rotation(D, blocks, seed=9),
    )
    for i, phi in enumerate(maps):
        save(phi, tmp_path / str(i), site="s", model="m")
        assert load(tmp_path / str(i)).settings() == phi.settings()
        assert manifest(tmp_path / str(i))["settings"] == phi.settings()


def test_the_manifest_says_what_the_map_is(tmp_path: Path) -> None:
    save(Rotation(D, {"x": [0, 1]}, seed=3), tmp_path, site="7.resid_post", model="f00d")
    about = json.loads((tmp_path / ABOUT).read_text())
    assert set(about) == set(FIELDS)
    assert about["family"] == "orthogonal"
    assert (about["d"], about["blocks"], about["settings"]) == (D, [["x", [0, 1]]], {"seed": 3})
    assert (about["site"], about["model"], about["dtype"]) == ("7.resid_post", "f00d", "float32")
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, ABOUT}


class Turn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift

    def inverse(self, z: Tensor) -> Tensor:
        return z - self.shift


def test_a_map_of_ones_own_needs_its_module(tmp_path: Path) -> None:
    module = Turn()
    nn.init.constant_(module.shift, 2.0)
    save(UserMap(module, D, {"x": [0]}), tmp_path, site="s", model="m")
    assert torch.equal(load(tmp_path, module=Turn())(torch.zeros(1, D)), torch.full((1, D), 2.0))
    with pytest.raises(StoreError, match=r"pass module=\. Save it again\.$"):
        load(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(Rotation(D, {"x": [0, 1]}, seed=3), tmp_path, site="3", model="abc")
    return tmp_path


def refuses(folder: Path, text: str, **asked: object) -> None:
    with pytest.raises(StoreError, match=f"^{re.escape(text)}"):
        load(folder, **asked)  # type: ignore[arg-type]


def rewrite(folder: Path, **fields: object) -> None:
    about = json.loads((folder / ABOUT).read_text()) | fields
    (folder / ABOUT).write_text(json.dumps({k: v for k, v in about.items() if v is not None}))


def test_a_map_for_something_else_is_refused(folder: Path) -> None:
    end = "fit one for that, or load it where it belongs."
    refuses(folder, f"The map in {folder} is for d 6, not 8: {end}", d=8)
    refuses(folder, f"The map in {folder} is for site '3', not '1': {end}", site="1")
    refuses(folder, f"The map in {folder} is for model 'abc', not 'xyz': {end}", model="xyz")
    assert load(folder, d=6, site="3", model="abc").d == 6


def test_a_changed_bit_is_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(StoreError, match="the weights were changed or damaged; save them again"):
        load(folder)


def test_missing_and_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    refuses(empty, f"{empty} holds no {ABOUT}: it is no folder of a saved map.")
    rewrite(folder, site=None)
    refuses(folder, f"{folder / ABOUT} lacks 'site' as str: save the map again.")
    rewrite(folder, site="3", schema=2)
    refuses(folder, f"{folder / ABOUT} has schema 2; this version reads 1: save the map again.")
    (folder / ABOUT).write_text("{")
    refuses(folder, f"{folder / ABOUT} cannot be read (")
    save(Identity(D, {"x": [0]}), folder, site="3", model="abc")
    (folder / WEIGHTS).unlink()
    refuses(folder, f"{folder / WEIGHTS} is missing or cannot be read: save the map again.")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"family": "rotated"}, "No family of maps 'rotated'"),
        ({"d": 7}, "in {weights} is torch.float32 [6, 2] where its manifest asks for"),
        ({"dtype": "float64"}, "in {weights} is torch.float32 [6, 2] where its manifest asks for"),
        ({"dtype": "float16"}, "'float16'"),
        ({"family": "square"}, "[6, 2] where its manifest asks for torch.float32 [6, 6]"),
        ({"family": "mask", "settings": {"features": None}}, "disagree on "),
        ({"blocks": [["x", [0, 9]]]}, "The block of 'x' is [0, 9]"),
        ({"settings": {"speed": 3}}, "'speed'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    fields: dict[str, object], text: str, folder: Path
) -> None:
    rewrite(folder, **fields)
    with pytest.raises(StoreError, match=re.escape(text.format(weights=folder / WEIGHTS))):
        load(folder)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    phi = Rotation(D, {"x": [0]})
    with pytest.raises(InputError, match="must be JSON without NaN"):
        save(phi, tmp_path / "new", site="3", model="abc", notes={"loss": float("nan")})
    with pytest.raises(InputError, match="The map is bfloat16: alignment maps are float32 or"):
        save(phi.bfloat16(), tmp_path / "new", site="3", model="abc")
    assert not (tmp_path / "new").exists()
