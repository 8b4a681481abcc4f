"""Tasks with their networks, by name: small classifiers on vectors, and decoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.alignment.interchange_training import Recipe, learn, plant
from interp.alignment.maps import consecutive_blocks
from interp.alignment.subjects import LayerSubject, Subject
from interp.data.alignment_tasks import TASKS, Task, task_named
from interp.data.counterfactuals import Table
from interp.errors import InputError, nearest
from interp.jobs.align_cells import SEEDS, Kind, Split
from interp.jobs.align_decoders import Products, Sentences
from interp.models.classifiers import load_classifiers, mlp, site
from interp.models.weights import weights_hash

NET_SEEDS = (4287, 3837, 9097, 2635, 5137, 6442, 5234, 4641, 8039, 2266)
"""Of networks that are trained here: those of Sutter et al. 2025, arXiv:2507.08802."""
HIDDEN_LAYERS = 3
PLANTED_LAYER = 2
LEARNING = Recipe(steps=9000, batch=1024)
PLANTING = Recipe(steps=4000, batch=512)
"""How networks are trained where no folder of them is given."""
TRAINED_INPUTS = 262_144


class Classifiers:
    """A task on vectors, and networks of three hidden layers that solve it.

    Args:
        task: equality or distributive.
        n: how many networks, and twins of them.
        folder: of `experiments.train_alignment_nets`; without it they are trained when first used.
    """

    simple: tuple[str, ...] = ("identity", "orthogonal")
    unseen: str | None = None
    alike = (
        "inputs are vectors of a continuous distribution without identities; test inputs share no "
        "vector with those of fitting"
    )
    map_seeds: tuple[int, ...] = (0,)
    sites = tuple(str(layer) for layer in range(1, HIDDEN_LAYERS + 1))

    def __init__(self, task: str, n: int, folder: Path | None = None) -> None:
        self._task: Task = task_named(task)
        self.name, self._folder = task, folder
        self.inputs = f"inputs of {task} as they are drawn for training"
        self.width = self._task.width
        self.algorithms = tuple(self._task.algorithms)
        seeds = NET_SEEDS if folder is None else tuple(self._stored)
        self._require_fitting()
        if not 1 <= n <= len(seeds):
            raise InputError(f"--nets {n}: there are {len(seeds)} networks; give at most as many.")
        self.nets = self.twins = seeds[:n]
        self._planted: dict[int, tuple[str, nn.Sequential]] = {}
        self.subject = lru_cache(maxsize=64)(self._subject)

    @property
    def weights(self) -> str | None:
        """A hash of the networks of a folder; None where they are trained when first used."""
        if self._folder is None:
            return None
        every = "".join(self.fingerprint(net, "trained") for net in self.nets)
        return hashlib.sha256(every.encode()).hexdigest()

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """Algorithms of the same behaviour and other variables."""
        return self._task.rivals(algorithm)

    def variables(self, algorithm: str) -> tuple[str, ...]:
        """The inner variables of an algorithm."""
        return self._task.algorithm(algorithm).inner

    def table(self, algorithm: str, split: Split, n: int) -> Table:
        """Inputs of a split, with an algorithm's variables."""
        return self._task.table(algorithm, n, SEEDS[split], split=split)

    def candidates(self, table: Table) -> None:
        """There are two answers, so nothing to restrict."""

    def accuracy(self, net: int, kind: Kind, algorithm: str | None = None) -> float:
        """The share of test inputs that a network answers as the task and all algorithms do."""
        inputs, labels = self._labelled("test", 10_000)
        with torch.no_grad():
            return float((self.net(net, kind)(inputs).argmax(1) == labels).double().mean())

    def fingerprint(self, net: int, kind: Kind) -> str:
        """A hash of the network's weights."""
        return weights_hash(self.net(net, kind))

    def net(self, net: int, kind: Kind) -> nn.Sequential:
        """A network, its twin before training, or one with a planted algorithm."""
        if kind == "twin":
            return self._untrained(net)
        return self._trained[net] if kind == "trained" else self._planted[net][1]

    def plant(self, algorithm: str) -> tuple[int, str]:
        """Plant an algorithm in one network; return its number and the site.

        It is the subject of kind `planted` from now on.
        """
        seed = self.nets[0]
        if self._planted.get(seed, ("", None))[0] == algorithm:
            return seed, str(PLANTED_LAYER)
        train, held = (self.table(algorithm, split, TRAINED_INPUTS) for split in SPLITS)
        size = self._task.width // len(train.variables)
        (made,) = plant(
            [self._untrained(seed)],
            [seed],
            train,
            held,
            layer=PLANTED_LAYER,
            blocks=consecutive_blocks(train.variables, size),
            recipe=PLANTING,
        )
        self._planted = {seed: (algorithm, made.net)}
        self.subject.cache_clear()
        return seed, str(PLANTED_LAYER)

    def _subject(self, net: int, kind: Kind, at: str) -> Subject:
        if at not in self.sites:
            raise InputError(
                f"--sites {at}: the networks of {self.name} have the hidden layers "
                f"{', '.join(self.sites)}."
            )
        return LayerSubject(self.net(net, kind), site(int(at)))

    def _untrained(self, seed: int) -> nn.Sequential:
        width = self._task.width
        return mlp(width, width, HIDDEN_LAYERS, self._task.n_answers, seed)

    @cached_property
    def _stored(self) -> Mapping[int, nn.Sequential]:
        assert self._folder is not None
        return load_classifiers(self._folder)

    def _require_fitting(self) -> None:
        """Refuse networks whose tensors have other shapes than those of the task."""
        own = _shapes(self._untrained(NET_SEEDS[0]))
        if self._folder is not None and _shapes(next(iter(self._stored.values()))) != own:
            raise InputError(
                f"--folder {self._folder}: its networks are not of the shape that {self.name} has "
                f"({self.width} numbers in, {HIDDEN_LAYERS} hidden layers as wide); give a folder "
                "of networks for this task."
            )

    @cached_property
    def _trained(self) -> Mapping[int, nn.Sequential]:
        if self._folder is not None:
            return self._stored
        starts = [self._untrained(seed) for seed in self.nets]
        made = learn(
            starts,
            self.nets,
            self._labelled("train", TRAINED_INPUTS),
            self._labelled("validation", 10_000),
            LEARNING,
        )
        return {seed: each.net for seed, each in zip(self.nets, made, strict=True)}

    def _labelled(self, split: Split, n: int) -> tuple[Float[Tensor, "n width"], Tensor]:
        table = self.table(next(iter(self._task.algorithms)), split, n)
        return table.inputs, self._task.labels(table)


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


SPLITS: tuple[Literal["train"], Literal["validation"]] = ("train", "validation")


DECODERS = {each.name: each for each in (Sentences, Products)}


def world(
    task: str, *, nets: int, folder: Path | None, model: str | None, **options: Any
) -> Classifiers | Sentences | Products:
    """Return a task with its networks.

    Args:
        task: of `TASKS` or `DECODERS`.
        nets: how many networks; map seeds of a language model.
        folder: of trained classifiers.
        model: of a language model.
        options: of a language model: `solved_only`, `revision`, `dtype`; what is None or False is
            not asked for.

    Raises:
        InputError: an unknown task, or options that say nothing of it.
        ModelError: no such model, revision or dtype.
    """
    asked = {name: value for name, value in options.items() if value not in (None, False)}
    names = (*TASKS, *DECODERS)
    if task not in names:
        raise InputError(
            f"There is no alignment task {task!r}; there are: {', '.join(names)}."
            f"{nearest(task, names)}"
        )
    if task not in DECODERS:
        if model is not None:
            raise InputError(f"--model {model}: {task} has small networks; leave it out.")
        for name in asked:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: {task} has small networks, not a model; leave it out.")
        return Classifiers(task, nets, folder)
    if model is None:
        raise InputError(f"{task} needs a language model: give --model.")
    if folder is not None:
        raise InputError(f"--folder {folder}: {task} has one model, that of --model; leave it out.")
    return DECODERS[task](model, nets, **asked)
