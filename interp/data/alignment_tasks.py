"""Tasks for alignment checks: inputs that a network learns, and algorithms that compute the answer.

A `Task` draws tables of distinct inputs. All algorithms of a task stand on the same inputs for the
same number, seed and split, so rivals can be told apart by the same interventions. Splits are apart
by construction: a number is a multiple of 2^-24, and its last two bits say which split it is of, so
not even one vector of the training split appears in another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.causal_models import CausalModel, Values
from interp.data import distributive, equality
from interp.data.counterfactuals import Draw, Table
from interp.errors import InputError, nearest

SPLITS = ("train", "validation", "test")

GRID = 2**24
"""Numbers of [-1/2, 1/2) are multiples of 1 / GRID: exact in float32, and all that it can draw."""


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs of real vectors, algorithms over them, and how interventions are drawn."""

    name: str
    n_answers: int
    width: int
    """Numbers that a network reads."""
    algorithms: Mapping[str, CausalModel]
    """All with the same inputs and the same output on each."""
    draw: Callable[[int, torch.Generator], dict[str, Tensor]]
    """Draws inputs: a batch of vectors in [-1/2, 1/2) for each input variable."""
    recipes: Mapping[str, Draw]
    """How the pairs of each algorithm are drawn."""
    rival_names: Mapping[str, tuple[str, ...]]
    """For each algorithm the others that differ inside and have as many variables."""

    def table(self, algorithm: str, n: int, seed: int, *, split: str = "train") -> Table:
        """Return n inputs of a split with an algorithm's values; the same for the same arguments.

        Raises:
            InputError: an algorithm or split that is unknown, or fewer than 4 inputs.
        """
        self.algorithm(algorithm)
        return self._on(algorithm, self.inputs(n, seed, split=split))

    def retold(self, table: Table, algorithm: str) -> Table:
        """Return a table's inputs with the values and the recipe of another algorithm."""
        self.algorithm(algorithm)
        return self._on(algorithm, self.decode(table.inputs))

    def inputs(self, n: int, seed: int, *, split: str = "train") -> dict[str, Tensor]:
        """Return n inputs of a split, a batch `[n, size]` of vectors for each input variable.

        Raises:
            InputError: an unknown split, fewer than 4 inputs, or a task that draws other numbers.
        """
        if split not in SPLITS:
            raise InputError(
                f"{self.name} has no split {split!r}; there are: {', '.join(SPLITS)}."
                f"{nearest(split, SPLITS)}"
            )
        if n < 4:
            raise InputError(f"{n} inputs of {self.name}: ask for at least 4.")
        place = SPLITS.index(split)
        stream = torch.Generator().manual_seed(1_500_450_271 + len(SPLITS) * seed + place)
        drawn = self.draw(n, stream)
        return {name: _in_split(batch, place, name) for name, batch in drawn.items()}

    def encode(self, values: Values) -> Float[Tensor, "input width"]:
        """Return inputs as a network reads them: their vectors side by side."""
        return torch.cat([values[name] for name in self._names], 1)

    def decode(self, inputs: Float[Tensor, "input width"]) -> dict[str, Tensor]:
        """Return the vectors that were encoded.

        Raises:
            InputError: rows of another width.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.width:
            raise InputError(
                f"{self.name} reads rows of {self.width} numbers, not a tensor of shape "
                f"{list(inputs.shape)}: give inputs as `encode` returns them."
            )
        return dict(zip(self._names, inputs.chunk(len(self._names), 1), strict=True))

    def labels(self, inputs: Table | Values | Tensor) -> Int[Tensor, " input"]:
        """Return the right answer to each input: of a table, of vectors, or of encoded rows."""
        model = next(iter(self.algorithms.values()))
        if isinstance(inputs, Table):
            return inputs.values[inputs.algorithm.output].long()
        vectors = self.decode(inputs) if isinstance(inputs, Tensor) else inputs
        return model.run(vectors)[model.output].long()

    def algorithm(self, name: str) -> CausalModel:
        """Return an algorithm by name.

        Raises:
            InputError: the task has no such algorithm.
        """
        if name not in self.algorithms:
            raise InputError(
                f"{self.name} has no algorithm {name!r}; there are: {', '.join(self.algorithms)}."
                f"{nearest(name, self.algorithms)}"
            )
        return self.algorithms[name]

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """Return the algorithms with the same answers and as many other variables.

        An algorithm that only holds part of the same variables is no rival: a network that
        implements the whole implements the part.

        Raises:
            InputError: the task has no such algorithm.
        """
        return self.rival_names[self.algorithm(algorithm).name]

    @property
    def _names(self) -> tuple[str, ...]:
        return next(iter(self.algorithms.values())).inputs

    def _on(self, algorithm: str, inputs: Values) -> Table:
        model = self.algorithms[algorithm]
        encoded = self.encode(inputs)
        return Table(model, model.inner, encoded, model.run(inputs), self.recipes[algorithm])


TASKS: Mapping[str, Task] = {
    "equality": Task(
        "equality",
        2,
        len(equality.INPUTS) * equality.SIZE,
        equality.ALGORITHMS,
        equality.draw,
        equality.RECIPES,
        equality.RIVALS,
    ),
    "distributive": Task(
        "distributive",
        2,
        len(distributive.INPUTS) * equality.SIZE,
        distributive.ALGORITHMS,
        distributive.draw,
        distributive.RECIPES,
        distributive.RIVALS,
    ),
}
"""The tasks by name."""


def task_named(name: str) -> Task:
    """Return a task by name.

    >>> task_named("equality").width
    16

    Raises:
        InputError: there is no such task.
    """
    if name not in TASKS:
        raise InputError(
            f"There is no alignment task {name!r}; there are: {', '.join(TASKS)}."
            f"{nearest(name, TASKS)}"
        )
    return TASKS[name]


def _in_split(batch: Tensor, place: int, name: str) -> Tensor:
    """Move each number to the nearest one below whose last two bits are those of the split."""
    if not batch.is_floating_point() or batch.min() < -0.5 or batch.max() >= 0.5:
        raise InputError(
            f"{name!r} was drawn as {str(batch.dtype).removeprefix('torch.')} from "
            f"{batch.min().item()} to {batch.max().item()}: tasks draw real numbers in [-1/2, 1/2)."
        )
    steps = ((batch.float() + 0.5) * GRID).int()
    return ((steps & ~3) | place) / GRID - 0.5
