"""Maps as featurizers: for each unit a file of the featurizer, one of its inverse, and its indices.

The causal-variable track of MIB names a unit `ResidualStream(Layer-3,Token-last_token)`, where
layer 3 is what enters block 3, and asks for three files a unit. Its own are pickles; these are
safetensors with the same fields: `model_info` stands in the metadata, the tensors are the state.
Whoever submits reads both and saves them in that harness, with its own classes:

- a subspace (`SubspaceFeaturizerModule`): `rotate.weight` `[d, k]`; features are `x R`, the error
  is `x - x R R^T`, and the inverse adds it again;
- any other map: the map's own weights; features are all its coordinates and there is no error, so
  the submission needs a module of its own, which `model_info` describes.

The indices are the features of the variable. A unit that is missing would be scored there as a swap
of the whole vector, so `units.json` lists those that were written. Source: Mueller et al. 2025,
arXiv:2504.13151, and the harness in atticusg/CausalAbstraction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.alignment.maps import AlignmentMap, Subspace
from interp.errors import InputError, SiteError, StoreError
from interp.sites import Site

INDEX = "units.json"
ENDS = ("_featurizer.safetensors", "_inverse_featurizer.safetensors", "_indices")


@dataclass(frozen=True)
class Unit:
    """One place in a model, for each of whose tokens `position` a map is exported.

    >>> str(Unit("2.resid_post", "last_token"))
    'ResidualStream(Layer-3,Token-last_token)'

    Raises:
        SiteError: no residual stream between blocks.
        InputError: a position that cannot stand in the name of a file.
    """

    site: str
    """`L.resid_pre`, or `L.resid_post`, which enters block L + 1."""
    position: str
    """The name that the submission's token positions give it."""

    def __post_init__(self) -> None:
        site = Site.parse(self.site)
        if site.component not in ("resid_pre", "resid_post"):
            raise SiteError(
                f"'{site}' cannot be exported: units are what enters a block, so give "
                "<layer>.resid_pre or <layer>.resid_post."
            )
        if not self.position or set(self.position) & set("/\\,()\0"):
            raise InputError(f"position={self.position!r}: a unit's position is a plain name.")

    def __str__(self) -> str:
        site = Site.parse(self.site)
        layer = (site.layer or 0) + (site.component == "resid_post")
        return f"ResidualStream(Layer-{layer},Token-{self.position})"


@dataclass(frozen=True, eq=False)
class Exported:
    """What the three files of a unit hold."""

    info: dict[str, Any]
    featurizer: dict[str, Tensor]
    inverse: dict[str, Tensor]
    indices: tuple[int, ...]


def export(
    units: Mapping[Unit, AlignmentMap], variable: str, folder: Path
) -> dict[str, tuple[str, ...]]:
    """Write three files a unit, and last the list of units; return the names of the files.

    Args:
        units: a fitted map for each unit.
        variable: whose block the indices name.
        folder: where to write, such as `4_answer_MCQA_Gemma2ForCausalLM_answer_pointer`.

    Raises:
        InputError: no unit, or a map without a block for the variable; nothing is written then.
    """
    if not units:
        raise InputError(
            "No unit was given: a missing one is scored as a swap of the whole vector."
        )
    for unit, phi in units.items():
        if variable not in phi.blocks:
            raise InputError(
                f"The map of {unit} has no block for {variable!r}; it has "
                f"{', '.join(phi.variables)}."
            )
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for unit, phi in units.items():
        info, state = _described(phi)
        names = tuple(f"{unit}{end}" for end in ENDS)
        for name in names[:2]:
            save_file(state, folder / name, metadata={"model_info": json.dumps(info)})
        (folder / names[2]).write_text(json.dumps(list(phi.blocks[variable])))
        written[str(unit)] = names
    listed = {"variable": variable, "units": {name: list(files) for name, files in written.items()}}
    (folder / INDEX).write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
    return written


def read_unit(folder: Path, unit: Unit) -> Exported:
    """Read a unit back.

    Raises:
        StoreError: a file of it is missing.
    """
    paths = [folder / f"{unit}{end}" for end in ENDS]
    for path in paths:
        if not path.is_file():
            raise StoreError(f"{folder} lacks {path.name}: export the unit again.")
    states, info = [], ""
    for path in paths[:2]:
        with safe_open(path, framework="pt") as held:
            info = held.metadata()["model_info"]
            states.append({name: held.get_tensor(name) for name in held.keys()})  # noqa: SIM118
    indices = tuple(json.loads(paths[2].read_text()))
    return Exported(json.loads(info), states[0], states[1], indices)


def features(
    exported: Exported, states: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n d"]]:
    """Return the features of states and what they leave out, as the harness has them.

    Raises:
        InputError: the unit is no subspace, so its own module computes them.
    """
    turn = _turn(exported)
    found = states @ turn
    return found, states - found @ turn.T


def from_features(
    exported: Exported, found: Float[Tensor, "n k"], error: Float[Tensor, "n d"]
) -> Float[Tensor, "n d"]:
    """Return the states of features, with what they leave out."""
    return found @ _turn(exported).T + error


def _turn(exported: Exported) -> Float[Tensor, "d k"]:
    if "rotate.weight" not in exported.featurizer:
        raise InputError(
            f"A unit of class {exported.info['featurizer_class']} is no subspace: load its weights "
            "into its own map."
        )
    return exported.featurizer["rotate.weight"]


@torch.no_grad()
def _described(phi: AlignmentMap) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a unit's files say of a map, and its tensors."""
    if isinstance(phi, Subspace):
        turn = phi.basis().detach().cpu().contiguous().clone()
        kinds, state, n = "Subspace", {"rotate.weight": turn}, turn.shape[1]
    else:
        kinds, n = type(phi).__name__, phi.d
        state = {name: part.detach().cpu().contiguous() for name, part in phi.state_dict().items()}
        state = state or {"none": torch.zeros(0)}  # a map without weights
    info = {
        "featurizer_class": f"{kinds}FeaturizerModule",
        "inverse_featurizer_class": f"{kinds}InverseFeaturizerModule",
        "n_features": n,
        "additional_config": {"family": phi.family, "d": phi.d, **phi.settings()},
    }
    return info, state
