"""Small classifiers of vectors: multilayer perceptrons, one at a time or many of a shape together.

`mlp` builds one from a seed; that net, before any training, is the random twin of the one that was
trained from it. Site of layer l, counted from 1, is the child `site(l)` of the `nn.Sequential`: the
states after the ReLU. Nets of one shape are kept and run stacked: their tensors have a first axis
that counts nets. A folder of trained nets is `nets.safetensors` and `manifest.json`, and `load`
reads no other file than the one whose hash the manifest names.

Sizes and seeds are those of Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.errors import InputError, SiteError, StoreError, nearest

NETS, MANIFEST = "nets.safetensors", "manifest.json"
SEEDS = (4287, 3837, 9097, 2635, 5137, 6442, 5234, 4641, 8039, 2266)
"""Of the nets of each kind; sweeps use the first five."""

Weights = dict[str, Tensor]
"""The tensors of several nets by their names in one net, nets on the first axis."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a classifier."""

    width: int
    """Numbers in an input."""
    hidden: int
    """Neurons in each hidden layer."""
    n_layers: int = 3
    """Hidden layers."""
    n_answers: int = 2
    """Logits."""

    def __post_init__(self) -> None:
        if min(self.width, self.hidden, self.n_layers, self.n_answers) < 1:
            raise InputError(f"{self}: every size of a classifier must be 1 or more.")

    def net(self, seed: int) -> nn.Sequential:
        """Return an untrained classifier of these sizes."""
        return mlp(self.width, self.hidden, self.n_layers, self.n_answers, seed)


KINDS: Mapping[str, Shape] = {
    "equality": Shape(16, 16),
    "distributive": Shape(24, 24),
    "planted_and_or_and": Shape(24, 24),
    "planted_and_or": Shape(24, 24),
}
"""The nets of the records: trained on a task, or to have an algorithm's variables at layer 2."""


def mlp(width: int, hidden: int, n_layers: int, n_answers: int, seed: int) -> nn.Sequential:
    """Return an untrained classifier: `n_layers` times Linear and ReLU, then Linear to logits.

    Weights are drawn as PyTorch does by default, from `seed`; PyTorch's own random state is the
    same afterwards. Inputs are `[n, width]`, logits `[n, n_answers]`.

    >>> net = mlp(16, 16, 3, 2, seed=0)
    >>> [name for name, _ in net.named_children()]
    ['0', '1', '2', '3', '4', '5', '6']
    >>> sum(weight.numel() for weight in net.parameters())
    850

    Raises:
        InputError: a size below 1.
    """
    shape = Shape(width, hidden, n_layers, n_answers)
    sizes = [shape.width, *[shape.hidden] * shape.n_layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(shape.hidden, shape.n_answers)).eval()


def untrained(kind: str, seed: int) -> nn.Sequential:
    """Return the net of a kind before training: the random twin of the one that `load` returns.

    Raises:
        InputError: no such kind.
    """
    return shape_of(kind).net(seed)


def shape_of(kind: str) -> Shape:
    """Return the sizes of a kind of the records.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise InputError(
            f"No kind {kind!r} of classifier; there are: {', '.join(KINDS)}.{nearest(kind, KINDS)}"
        )
    return KINDS[kind]


def site(layer: int, *, n_layers: int = 3) -> str:
    """Return the child that ends hidden layer `layer`, counted from 1: its states after the ReLU.

    >>> [site(layer) for layer in (1, 2, 3)]
    ['1', '3', '5']

    Raises:
        SiteError: no such hidden layer.
    """
    if not 1 <= layer <= n_layers:
        raise SiteError(f"layer {layer}: the classifier has hidden layers 1 to {n_layers}.")
    return str(2 * layer - 1)


# ---------------------------------------------------------------- many nets together


def stacked(nets: Sequence[nn.Module]) -> Weights:
    """Return the tensors of nets of one shape, nets on a new first axis; they are copies.

    Raises:
        InputError: no net, or nets whose tensors differ in name or shape.
    """
    states = [net.state_dict() for net in nets]
    layouts = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    if not states or any(layout != layouts[0] for layout in layouts):
        raise InputError(f"{len(states)} nets to stack: give at least one, all of one shape.")
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def unstacked(weights: Mapping[str, Tensor], i: int) -> nn.Sequential:
    """Return net number `i` of a stack, on its own, in eval mode."""
    linears = sorted((name for name in weights if name.endswith(".weight")), key=_place)
    first, last = weights[linears[0]], weights[linears[-1]]
    net = mlp(first.shape[2], first.shape[1], len(linears) - 1, last.shape[1], seed=0)
    net.load_state_dict({name: value[i].detach().clone() for name, value in weights.items()})
    return net.to(first.dtype)


def run_stacked(
    weights: Mapping[str, Tensor],
    states: Float[Tensor, "net batch before"],
    *,
    after: int = 0,
    until: int | None = None,
) -> Float[Tensor, "net batch out"]:
    """Run every net on rows of its own, with gradients.

    Args:
        weights: a stack of classifiers as `mlp` builds them.
        states: inputs; or, with `after`, what stands after that hidden layer.
        after: the hidden layer where `states` stand; 0 for inputs.
        until: the hidden layer after whose ReLU to stop; by default logits are returned.
    """
    n_linears = len(weights) // 2
    for layer in range(after, n_linears if until is None else until):
        weight, bias = (weights[f"{2 * layer}.{name}"] for name in ("weight", "bias"))
        states = torch.baddbmm(bias[:, None], states, weight.mT)
        if layer < n_linears - 1:
            states = states.relu()
    return states


def _place(name: str) -> int:
    return int(name.split(".")[0])


# ---------------------------------------------------------------- folders of trained nets


def load(folder: str | Path, seed: int, *, kind: str | None = None) -> nn.Sequential:
    """Return one trained net of a folder, in eval mode, after checking the file's hash.

    Raises:
        InputError: the folder holds another kind than `kind`, or no net of this seed.
        StoreError: a file is missing or damaged, or is not the one that the manifest names.
    """
    nets = load_classifiers(folder, kind=kind)
    if seed not in nets:
        known = [str(other) for other in nets]
        raise InputError(
            f"{folder} has no net of seed {seed}; its seeds: {', '.join(known)}."
            f"{nearest(str(seed), known)}"
        )
    return nets[seed]


def load_classifiers(folder: str | Path, *, kind: str | None = None) -> dict[int, nn.Sequential]:
    """Return every trained net of a folder by its seed, in eval mode; see `load`."""
    folder = Path(folder)
    made = _manifest(folder)
    if kind is not None and made["model"]["kind"] != kind:
        raise InputError(
            f"{folder} holds nets of kind {made['model']['kind']!r}, not {kind!r}: give the folder "
            f"of that kind.{nearest(kind, KINDS) if kind not in KINDS else ''}"
        )
    weights = _weights(folder, made)
    return {seed: unstacked(weights, i) for i, seed in enumerate(made["seeds"])}


def _manifest(folder: Path) -> dict[str, Any]:
    """Read what of the manifest is needed here, which is not all that it holds."""
    path = folder / MANIFEST
    try:
        made = json.loads(path.read_bytes())
        needed = made["seeds"], made["model"]["kind"], made["model"][f"sha256 {NETS}"]
        Shape(**made["model"]["shape"])
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the folder.") from error
    except (ValueError, KeyError, TypeError, InputError) as error:
        raise StoreError(
            f"{path} is damaged, or is no manifest of classifiers ({type(error).__name__}: "
            f"{error}): restore it, or train again."
        ) from error
    if not needed[0]:
        raise StoreError(f"{path} names no seed: restore it, or train again.")
    return made


def _weights(folder: Path, made: Mapping[str, Any]) -> Weights:
    """Read the stack, if it is the one that the manifest names and has its shape."""
    path, shape = folder / NETS, Shape(**made["model"]["shape"])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}. Restore it, or train again."
        ) from error
    if hashlib.sha256(data).hexdigest() != made["model"][f"sha256 {NETS}"]:
        raise StoreError(
            f"{path} has not the hash in its manifest, so it is another file: restore it, or train "
            "again."
        )
    weights = load_file(path)
    twin = stacked([shape.net(0)] * len(made["seeds"]))
    ours, theirs = ({n: list(t.shape) for n, t in part.items()} for part in (twin, weights))
    if ours != theirs:
        raise StoreError(
            f"{path} does not hold {len(made['seeds'])} nets of {shape}: restore its manifest, or "
            "train again."
        )
    return weights
