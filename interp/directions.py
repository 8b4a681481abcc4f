"""Directions in the residual stream: what one is, kept on disk, and turned into an edit.

A `Direction` is a unit vector at a site, and the size that one dose of it has: `norm`, the length
of the raw difference that it was found as. So a coefficient of 1 moves the stream as far as the two
sets behind it lie apart, at every layer alike, and a random direction of the same norm is a fair
control. How directions are found is the business of methods (`interp.steering.directions`,
`interp.thinking.direction`).

A direction belongs to one model: it carries the hash of the weights that it was found in, and is
refused in another. Files are safetensors with the manifest inside, written whole or not at all, and
checked by hash when they are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from interp import bases
from interp.edits import Add, Clamp, Edit, Project
from interp.engine.model import Model
from interp.errors import EditError, InputError, ModelError, SiteError, StoreError
from interp.models.weights import weights_hash
from interp.sites import Site

Mode = Literal["add", "project", "clamp"]

WIDE = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "ln_final")
"""Components with one entry of d_model a token, so with directions."""

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector at a site, the size of one dose of it, and how it was made.

    Raises:
        SiteError: the site is misspelt or has no d_model axis.
        InputError: the vector is not of unit length, or the norm is not a positive number.
    """

    vector: Float[Tensor, " d_model"]
    """Of length 1."""
    site: str
    method: str
    norm: float
    """The length of the raw difference, in the activation's own unit: a coefficient of 1."""
    model: str
    """The model's name."""
    weights: str
    """The hash of the model's weights (`interp.models.weights.weights_hash`)."""
    position: str = ""
    """The token that was read in each text: `last`, a logical token, or in words; empty where none
    was."""
    n_positive: int = 0
    n_negative: int = 0
    data: str = ""
    """The hash of the texts' token ids; empty where none were read."""
    seed: int | None = None
    """Of a random direction."""

    def __post_init__(self) -> None:
        require_wide(Site.parse(self.site))
        length = float(self.vector.double().norm())
        if not abs(length - 1) < 1e-3:
            raise InputError(
                f"The vector of a Direction has length {length:.4g} and must have 1: divide it, "
                "and give its length as norm."
            )
        if not 0 < self.norm < math.inf:
            raise InputError(f"norm={self.norm}: the size of a dose must be a positive number.")

    @property
    def raw(self) -> Float[Tensor, " d_model"]:
        """The vector at its raw length: what a coefficient of 1 adds."""
        return self.norm * self.vector

    def edit(self, coefficient: float = 1.0, *, positions: Any = "all", mode: Mode = "add") -> Edit:
        """Return the edit that gives a dose of this direction.

        Args:
            coefficient: in units of `norm`. `add` adds so much; `clamp` sets the coordinate along
                the direction to so much; `project` removes the coordinate and takes only 1.
            positions: as in every edit.

        Raises:
            EditError: no such mode, a coefficient that is not finite, or another than 1 to project.
            PositionError: not a position.
        """
        if not math.isfinite(coefficient):
            raise EditError(f"coefficient={coefficient}: a dose must be finite.")
        match mode:
            case "add":
                return Add(self.site, vector=self.raw, coefficient=coefficient, positions=positions)
            case "clamp":
                value = coefficient * self.norm
                return Clamp(self.site, direction=self.vector, value=value, positions=positions)
            case "project":
                if coefficient != 1:
                    raise EditError(
                        f"coefficient={coefficient}: project removes the whole coordinate, so it "
                        "takes 1; use mode='clamp' to set it."
                    )
                return Project(self.site, directions=self.vector, positions=positions)
        raise EditError(f"mode={mode!r}: write 'add', 'project' or 'clamp'.")

    def twin(self, seed: int) -> Direction:
        """Return a random direction at the same site and of the same norm: the control.

        The rest of its manifest still says where the norm comes from.
        """
        d_model = len(self.vector)
        vector = bases.random_basis(1, d_model, seed, dtype=self.vector.dtype)[0]
        return replace(self, vector=vector.to(self.vector.device), method="random", seed=seed)

    def check(self, model: Model, *, weights: str | None = None) -> None:
        """Refuse a model other than the one that this direction was found in.

        Args:
            weights: the model's `weights_hash`, where it is already known.

        Raises:
            ModelError: the weights differ.
        """
        have = weights or weights_hash(model.hf)
        if have != self.weights:
            raise ModelError(
                f"The direction at {self.site} was found in {self.model} (weights "
                f"{self.weights[:8]}) and the model is {model.name} (weights {have[:8]}): load the "
                "one that it belongs to, or fit it anew."
            )

    def manifest(self) -> dict[str, Any]:
        """Return everything but the vector, and the vector's hash."""
        rest = {key: value for key, value in asdict(self).items() if key != "vector"}
        return rest | {"schema": SCHEMA, "vector": _hash_tensor(self.vector)}

    def save(self, path: Path | str) -> Path:
        """Write a safetensors file with the manifest inside, whole or not at all.

        Raises:
            StoreError: the file cannot be written.
        """
        text = json.dumps(self.manifest(), sort_keys=True, allow_nan=False)
        return _write(Path(path), "direction", text, {"vector": self.vector})

    @classmethod
    def load(cls, path: Path | str, model: Model | None = None) -> Direction:
        """Read a direction back, on the CPU; with a model, check that it belongs to it.

        Raises:
            StoreError: there is no such file, it is damaged, or it is no direction.
            ModelError: it belongs to another model.
        """
        vector, manifest = _read(Path(path), "direction", "vector", "Direction.save")
        direction = _restored(Path(path), vector, manifest)
        if model is not None:
            direction.check(model)
        return direction

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.method} at {self.site} (norm {self.norm:.4g}{seed})"


def save_all(
    path: Path | str, directions: Sequence[Direction], notes: Mapping[str, Any] | None = None
) -> Path:
    """Write the directions of one model into one safetensors file, whole or not at all.

    The file holds the vectors as rows `[direction, d_model]` in the order given, and in its header
    each one's manifest and the notes.

    Args:
        notes: what else belongs to them (how the sets were chosen, warnings), as JSON.

    Raises:
        InputError: no direction, directions of several models, or notes that are no JSON.
        StoreError: the file cannot be written.
    """
    if not directions:
        raise InputError("There is no direction to save: give at least one.")
    kinds = {(each.weights, each.vector.dtype, len(each.vector)) for each in directions}
    if len(kinds) > 1:
        raise InputError(
            f"The {len(directions)} directions are of {len(kinds)} models or dtypes: save those of "
            "one model in a file of their own."
        )
    whole = {
        "schema": SCHEMA,
        "directions": [direction.manifest() for direction in directions],
        "notes": dict(notes or {}),
    }
    try:
        text = json.dumps(whole, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The notes of a file of directions must be JSON: {error}.") from error
    vectors = torch.stack([direction.vector for direction in directions])
    return _write(Path(path), "directions", text, {"vectors": vectors})


def load_all(
    path: Path | str, model: Model | None = None
) -> tuple[list[Direction], dict[str, Any]]:
    """Read back what `save_all` wrote: the directions, on the CPU, and the notes.

    Raises:
        StoreError: there is no such file, it is damaged, or it holds no directions.
        ModelError: they belong to another model than `model`.
    """
    path = Path(path)
    vectors, manifest = _read(path, "directions", "vectors", "save_all")
    _require_schema(path, manifest.get("schema"))
    rows = manifest["directions"]
    if len(rows) != len(vectors):
        raise StoreError(f"{path} is damaged: {len(vectors)} vectors and {len(rows)} manifests.")
    found = [_restored(path, *row) for row in zip(vectors, rows, strict=True)]
    if model is not None:
        found[0].check(model)  # all are of one model
    return found, manifest["notes"]


def require_wide(site: Site) -> Site:
    """Return a site that has directions.

    Raises:
        SiteError: it has no entry of d_model a token.
    """
    if site.component not in WIDE:
        raise SiteError(
            f"{site} has no entry of d_model a token, so it has no direction here: choose one of "
            f"{', '.join(WIDE)}."
        )
    return site


def data_hash(value: Any) -> str:
    """Return a short hash of what a direction was found from: token ids, nested as they come.

    >>> data_hash([[1, 2]]) == data_hash(((1, 2),)), data_hash([[1, 2]]) == data_hash([[2, 1]])
    (True, False)
    """
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _write(path: Path, kind: str, text: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors and their manifest into a safetensors file, whole or not at all."""
    held = {kind: text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = save(flat, metadata=held)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(whole)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _read(path: Path, kind: str, name: str, maker: str) -> tuple[Tensor, dict[str, Any]]:
    """The tensor and the manifest of a file, or one sentence about what is wrong with it."""
    if not path.is_file():
        raise StoreError(f"There is no {kind} {path}: check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
            tensor = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} is damaged or no safetensors file: {error}") from error
    if tensor is None or not {kind, "sha256"} <= set(held):
        if kind == "direction" and "directions" in held:
            raise StoreError(f"{path} holds several directions: read them with load_all.")
        raise StoreError(f"{path} holds no {kind}: give a file written by {maker}.")
    if hashlib.sha256(held[kind].encode()).hexdigest() != held["sha256"]:
        raise StoreError(f"{path} is damaged: its manifest is not the one that was saved.")
    return tensor, json.loads(held[kind])


def _restored(path: Path, vector: Tensor, manifest: Mapping[str, Any]) -> Direction:
    """A direction from its vector and its manifest, which must be of one another."""
    rest = dict(manifest)
    digest, schema = rest.pop("vector", None), rest.pop("schema", None)
    _require_schema(path, schema)
    if digest != _hash_tensor(vector):
        raise StoreError(f"{path} is damaged: its vector is not the one that was saved.")
    try:
        return Direction(vector=vector, **rest)
    except TypeError as error:
        raise StoreError(f"{path} holds no direction of this version: {error}.") from error


def _require_schema(path: Path, schema: Any) -> None:
    if schema != SCHEMA:
        raise StoreError(f"{path} has schema {schema} and this version reads {SCHEMA}.")


def _hash_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
