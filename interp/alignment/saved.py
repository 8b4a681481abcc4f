"""A map in a folder: weights as safetensors, and a manifest that says what they are.

The manifest holds the family, the site and the model's fingerprint, and a hash of the weights.
Loading is strict: a map for another site or model, or with a changed bit, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from interp.alignment.couplings import Coupling
from interp.alignment.families import parsed
from interp.alignment.fixed import FixedSubspace, SquareRotation, UserMap
from interp.alignment.maps import AlignmentMap, Identity, Rotation
from interp.alignment.masks import Boundless, Mask
from interp.errors import InputError, StoreError

WEIGHTS, ABOUT = "map.safetensors", "map.json"
SCHEMA = 1
FIELDS: Mapping[str, type] = {
    "schema": int,
    "family": str,
    "d": int,
    "blocks": list,
    "settings": dict,
    "dtype": str,
    "weights_sha256": str,
    "site": str,
    "model": str,
    "notes": dict,
}
"""What every manifest holds."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}
FROZEN = ("subspace", "random", "pca", "difference")


def save(
    phi: AlignmentMap,
    folder: str | Path,
    *,
    site: str,
    model: str,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a map; the manifest last, so a folder without one is not a map.

    Args:
        phi: the map.
        folder: made where it is missing; what of a map stood there is replaced.
        site: where its states are read.
        model: the fingerprint of the network that it is for.
        notes: kept for whoever reads the manifest; must be JSON without NaN.

    Returns:
        The manifest's path.

    Raises:
        InputError: a dtype other than float32 and float64, or notes that are not JSON.
    """
    dtype = str(phi.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(f"The map is {dtype}: alignment maps are float32 or float64.")
    weights = {name: tensor.detach().cpu() for name, tensor in phi.state_dict().items()}
    data = safetensors.torch.save({name: t.contiguous() for name, t in weights.items()})
    about = {
        "schema": SCHEMA,
        "family": phi.family,
        "d": phi.d,
        "blocks": [[name, list(block)] for name, block in phi.blocks.items()],
        "settings": phi.settings(),
        "dtype": dtype,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "site": site,
        "model": model,
        "notes": dict(notes or {}),
    }
    try:
        text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"The notes of a map must be JSON without NaN: {error}.") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)
    _write(folder / WEIGHTS, data)
    return _write(folder / ABOUT, text.encode())


def load(
    folder: str | Path,
    *,
    d: int | None = None,
    site: str | None = None,
    model: str | None = None,
    module: nn.Module | None = None,
) -> AlignmentMap:
    """Read a map that `save` wrote, as it is outside of fitting.

    Args:
        folder: where it lies.
        d: the width that it must have.
        site: the site that it must be for.
        model: the fingerprint that its network must have.
        module: for a map of one's own: a module whose weights are filled in.

    Raises:
        StoreError: no map there, a damaged one, or one for another width, site or model.
    """
    folder = Path(folder)
    about = manifest(folder)
    for word, wanted in (("d", d), ("site", site), ("model", model)):
        if wanted is not None and about[word] != wanted:
            raise StoreError(
                f"The map in {folder} is for {word} {about[word]!r}, not {wanted!r}: fit one for "
                "that, or load it where it belongs."
            )
    weights = _weights(folder, about)
    try:
        phi = _skeleton(about, module).to(DTYPES[about["dtype"]])
        _fill(phi, weights, folder)
    except (KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
        raise StoreError(
            f"{folder / ABOUT} does not describe a map of family {about['family']!r}: "
            f"{str(error).strip().splitlines()[0]} Save it again."
        ) from error
    return phi.eval()


def manifest(folder: str | Path) -> dict[str, Any]:
    """Return what is known of a saved map, without its weights.

    Raises:
        StoreError: no manifest, or one that lacks a field.
    """
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StoreError(f"{folder} holds no {ABOUT}: it is no folder of a saved map.") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): save the map again.") from error
    for field, kind in FIELDS.items():
        if not isinstance(about, dict) or not isinstance(about.get(field), kind):
            raise StoreError(f"{path} lacks {field!r} as {kind.__name__}: save the map again.")
    if about["schema"] != SCHEMA:
        raise StoreError(
            f"{path} has schema {about['schema']}; this version reads {SCHEMA}: save the map again."
        )
    return about


def _weights(folder: Path, about: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} is missing or cannot be read: save the map again.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != about["weights_sha256"]:
        raise StoreError(
            f"{path} has sha256 {found[:12]} and its manifest says "
            f"{about['weights_sha256'][:12]}: the weights were changed or damaged; save them again."
        )
    return safetensors.torch.load(data)


def _skeleton(about: Mapping[str, Any], module: nn.Module | None) -> AlignmentMap:
    """A map of the right shape, whose weights are still to be filled in."""
    d, blocks = about["d"], {name: block for name, block in about["blocks"]}
    family, settings = about["family"], dict(about["settings"])
    if module is not None:
        return UserMap(module, d, blocks, family=family)
    if family in FROZEN:
        columns = sum(len(block) for block in blocks.values())
        return FixedSubspace(d, blocks, torch.eye(d, columns), family=family)
    if family == "mask":
        features = settings.pop("features")
        basis = None if features is None else torch.eye(features, d)
        return Mask(d, tuple(blocks), basis=basis, **settings)
    if family == "boundless":
        return Boundless(d, tuple(blocks), **settings)
    plain = {"identity": Identity, "orthogonal": Rotation, "square": SquareRotation}
    if family in plain:
        return plain[family](d, blocks, **settings)
    if family == "user":
        raise InputError("it is a map of its author's own, so pass module=.")
    parsed(family)
    return Coupling(d, blocks, **settings)


def _fill(phi: AlignmentMap, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put in every weight, each of the right shape and dtype."""
    wanted = phi.state_dict()
    odd = sorted(set(wanted) ^ set(weights))
    if odd:
        raise StoreError(
            f"{folder / WEIGHTS} and its family disagree on {odd[0]!r}: save it again."
        )
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise StoreError(
                f"{name!r} in {folder / WEIGHTS} is {tensor.dtype} {list(tensor.shape)} where its "
                f"manifest asks for {wanted[name].dtype} {list(wanted[name].shape)}: save it again."
            )
    phi.load_state_dict(dict(weights))


def _write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path
