"""Directions in the residual stream: how one was made, kept on disk, and turned into an edit.

A `Direction` is a unit vector at a site, and the size that one dose of it has: `norm`, the length
of the raw difference between the means of the two prompt sets. So a coefficient of 1 moves the
stream as far as the sets lie apart, at every layer alike, and a random direction of the same norm
is a fair control. `fit` reads every site in one pass over the prompts.

A direction belongs to one model: it carries the hash of the weights that it was found in, and is
refused in another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
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
from interp.errors import EditError, InputError, ModelError, SiteError, StoreError, nearest
from interp.models.tokens import Inputs
from interp.models.weights import weights_hash
from interp.sites import Site, parse_sites

Mode = Literal["add", "project", "clamp"]
Method = Literal["difference_of_means", "pca_of_differences", "probe_normal"]

FITS: dict[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "difference_of_means": bases.difference_of_means,
    "pca_of_differences": lambda a, b: bases.pca_of_differences(a, b, 1),
    "probe_normal": lambda a, b: bases.probe_normal(torch.cat([a, b]), [1] * len(a) + [0] * len(b)),
}
"""How the activations of two prompt sets give a unit vector `[1, d_model]`; see `interp.bases`."""

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
    """Where the prompts were read: `last` or a logical token; empty where none were."""
    n_positive: int = 0
    n_negative: int = 0
    data: str = ""
    """The hash of the prompts' token ids; empty where none were read."""
    seed: int | None = None
    """Of a random direction."""

    def __post_init__(self) -> None:
        _wide(Site.parse(self.site))
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
        held = {"direction": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        whole = save({"vector": self.vector.detach().cpu().contiguous()}, metadata=held)
        path = Path(path)
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

    @classmethod
    def load(cls, path: Path | str, model: Model | None = None) -> Direction:
        """Read a direction back, on the CPU; with a model, check that it belongs to it.

        Raises:
            StoreError: there is no such file, it is damaged, or it is no direction.
            ModelError: it belongs to another model.
        """
        vector, manifest = _read(Path(path))
        digest, schema = manifest.pop("vector", None), manifest.pop("schema", None)
        if schema != SCHEMA:
            raise StoreError(f"{path} has schema {schema} and this version reads {SCHEMA}.")
        if digest != _hash_tensor(vector):
            raise StoreError(f"{path} is damaged: its vector is not the one that was saved.")
        try:
            direction = cls(vector=vector, **manifest)
        except TypeError as error:
            raise StoreError(f"{path} holds no direction of this version: {error}.") from error
        if model is not None:
            direction.check(model)
        return direction

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.method} at {self.site} (norm {self.norm:.4g}{seed})"


def fit(
    model: Model,
    positive: Inputs,
    negative: Inputs,
    sites: str | Site | Iterable[str | Site],
    *,
    method: Method = "difference_of_means",
    position: Literal["last"] | int = "last",
    batch_size: int = 16,
) -> list[Direction]:
    """Return the direction from the negative to the positive prompts at each site, in order.

    Args:
        method: `difference_of_means`, `pca_of_differences` (prompt i of both sets is a pair) or
            `probe_normal` (logistic); what each means stands in `interp.bases`.
        position: the token that is read in each prompt.

    Raises:
        InputError: no such method, sets that are no pairs where pairs are needed, or activations
            that give no direction.
        SiteError: a site that the model does not have, or without a d_model axis.
        PositionError: a position outside a prompt.
    """
    if method not in FITS:
        raise InputError(
            f"method={method!r}: there are {', '.join(FITS)}.{nearest(str(method), FITS)}"
        )
    wanted = [_wide(site) for site in parse_sites(sites)]
    model.check_sites(wanted)
    first, second = (model.tokens(side).prompt_ids for side in (positive, negative))
    if method == "pca_of_differences" and len(first) != len(second):
        raise InputError(
            f"pca_of_differences needs pairs, and there are {len(first)} positive and "
            f"{len(second)} negative prompts: give as many of each, in one order."
        )
    high = activations(model, first, wanted, position=position, batch_size=batch_size)
    low = activations(model, second, wanted, position=position, batch_size=batch_size)
    made = {"model": model.name, "weights": weights_hash(model.hf), "position": str(position)}
    made |= {"n_positive": len(first), "n_negative": len(second), "data": _hash([first, second])}
    return [_fitted(method, high[str(s)], low[str(s)], str(s), made) for s in wanted]


def _fitted(method: Method, high: Tensor, low: Tensor, site: str, made: dict) -> Direction:
    try:
        vector = FITS[method](high, low)[0]
        bases.difference_of_means(high, low)  # its length is the dose: refuse sets with one mean
    except InputError as error:
        raise InputError(f"{method} at {site}: {error}") from error
    norm = float((high.double().mean(0) - low.double().mean(0)).norm())
    return Direction(vector, site, method, norm, **made)


def logit_lens(
    model: Model,
    sites: str | Site | Iterable[str | Site],
    token: int,
    against: int,
    *,
    norm: float | None = None,
) -> list[Direction]:
    """Return the direction of `token` less `against` in the unembedding, at each site.

    The final norm's weights are left out. `norm` is the size of a dose; by default the length of
    the difference of the two rows.

    Raises:
        InputError: a token outside the vocabulary, or two tokens with one row.
        SiteError: as in `fit`.
    """
    rows = model.hf.get_output_embeddings().weight.detach()  # type: ignore[union-attr]
    vector = bases.logit_lens(rows, [token], [against])[0]
    norm = float((rows[token] - rows[against]).norm()) if norm is None else norm
    return given(model, sites, vector, method=f"logit_lens {token} - {against}", norm=norm)


def random(
    model: Model, sites: str | Site | Iterable[str | Site], seed: int, *, norm: float = 1.0
) -> list[Direction]:
    """Return one random direction, drawn uniformly, at each site; see also `Direction.twin`.

    Raises:
        SiteError: as in `fit`.
    """
    vector = bases.random_basis(1, model.sizes.d_model, seed)[0]
    return [
        replace(each, seed=seed) for each in given(model, sites, vector, method="random", norm=norm)
    ]


def given(
    model: Model,
    sites: str | Site | Iterable[str | Site],
    vector: Float[Tensor, " d"],
    *,
    method: str = "given",
    norm: float | None = None,
) -> list[Direction]:
    """Return a vector from elsewhere as a direction at each site; `norm` is by default its length.

    Raises:
        InputError: the vector has not d_model entries, is zero or not finite.
        SiteError: as in `fit`.
    """
    wanted = [_wide(site) for site in parse_sites(sites)]
    model.check_sites(wanted)
    if len(vector) != model.sizes.d_model:
        raise InputError(
            f"The vector has {len(vector)} entries and {model.name} needs {model.sizes.d_model}."
        )
    unit = bases.orthonormal(vector.detach()[None])[0]
    size = float(vector.double().norm()) if norm is None else norm
    weights = weights_hash(model.hf)
    return [Direction(unit, str(site), method, size, model.name, weights) for site in wanted]


def activations(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    *,
    position: Literal["last"] | int = "last",
    batch_size: int = 16,
) -> dict[str, Float[Tensor, "n d_model"]]:
    """Return each prompt's activation at one position, by site.

    Raises:
        PositionError: a position outside a prompt.
        InputError: batch_size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: run at least 1 prompt at a time.")
    found: dict[str, list[Tensor]] = {str(site): [] for site in sites}
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        run = model.run(part, capture=dict.fromkeys(sites, position), logits="last")
        for site in found:
            found[site].append(run.acts[site][:, 0])
    return {site: torch.cat(parts) for site, parts in found.items()}


def _wide(site: Site) -> Site:
    if site.component not in WIDE:
        raise SiteError(
            f"{site} has no entry of d_model a token, so it has no direction here: choose one of "
            f"{', '.join(WIDE)}."
        )
    return site


def _read(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """The vector and the manifest of a file, or one sentence about what is wrong with it."""
    if not path.is_file():
        raise StoreError(f"There is no direction {path}: check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
            vector = file.get_tensor("vector") if "vector" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} is damaged or no safetensors file: {error}") from error
    if vector is None or not {"direction", "sha256"} <= set(held):
        raise StoreError(f"{path} holds no direction: give a file written by Direction.save.")
    if hashlib.sha256(held["direction"].encode()).hexdigest() != held["sha256"]:
        raise StoreError(f"{path} is damaged: its manifest is not the one that was saved.")
    return vector, json.loads(held["direction"])


def _hash_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
