"""Maps that are not searched for: subspaces found without fitting, and a map of one's own.

The subspaces are baselines of the same form as a fitted rotation, so they cost and swap the same.
`SquareRotation` is fitted; it is DAS in its textbook form, rotate, overwrite, rotate back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp import bases
from interp.alignment.maps import (
    AlignmentMap,
    Blocks,
    Columns,
    Rotation,
    degrees_of_freedom,
    random_columns,
)
from interp.errors import InputError


class FixedSubspace(Rotation):
    """Disjoint subspaces in a given orthonormal basis; nothing of it is fitted.

    Args:
        d: width of the site.
        blocks: columns of the basis for each variable.
        start: the basis.
        family: the word for records.
    """

    family = "subspace"

    def __init__(
        self, d: int, blocks: Blocks, start: Float[Tensor, "d k"], *, family: str = "subspace"
    ) -> None:
        super().__init__(d, blocks, start=start)
        self.family = family
        self.requires_grad_(False)

    @property
    def n_parameters(self) -> int:
        """Nothing is fitted."""
        return 0


class RandomSubspace(FixedSubspace):
    """Subspaces of given sizes, drawn uniformly: what rank alone achieves."""

    def __init__(self, d: int, blocks: Blocks, *, seed: int = 0) -> None:
        super().__init__(d, blocks, random_columns(d, _count(blocks), seed), family="random")
        self.seed = seed


class Pca(FixedSubspace):
    """The directions in which states vary most; the first block has column 0, the leading one.

    States are centred, which cancels in a swap. Directions without variance come last, so a site
    with dead neurons is no error.

    Raises:
        InputError: fewer than two states, or one that is not finite.
    """

    def __init__(self, d: int, blocks: Blocks, states: Float[Tensor, "n d"]) -> None:
        super().__init__(d, blocks, principal(states)[:, : _count(blocks)], family="pca")


class DifferenceOfMeans(FixedSubspace):
    """For each variable the direction between the means of states where it is one value or another.

    Directions of later variables keep only what is orthogonal to the earlier ones. Source: Marks
    and Tegmark 2023, arXiv:2310.06824.

    Args:
        d: width of the site.
        states: those of some inputs.
        values: each variable's value on these inputs; a variable that takes two values.

    Raises:
        InputError: a variable that takes one value or more than two, or means that agree.
    """

    def __init__(self, d: int, states: Float[Tensor, "n d"], values: Mapping[str, Tensor]) -> None:
        rows = [_difference(name, states.double(), of) for name, of in values.items()]
        blocks = {name: (i,) for i, name in enumerate(values)}
        basis = bases.orthonormal(torch.cat(rows)).T if rows else torch.zeros(d, 0)
        super().__init__(d, blocks, basis, family="difference")


class SquareRotation(AlignmentMap):
    """A learned square rotation, with blocks anywhere: z = h R, overwrite, h* = z* R^T.

    `Rotation` does the same to any rank at a lower cost and with an exact no-op; this one is for
    those who want the published form. Source: Geiger et al. 2023, arXiv:2303.02536.
    """

    family = "square"
    linear = True

    def __init__(self, d: int, blocks: Blocks, *, seed: int = 0) -> None:
        super().__init__(d, blocks)
        self.seed = seed
        self.turn = Columns(random_columns(d, d, seed))

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return rotated states."""
        return states @ self.turn.weight

    def inverse(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rotate back."""
        return latents @ self.turn.weight.T

    def subspace(self, variable: str) -> Float[Tensor, "k d"]:
        """Return the orthonormal rows of one variable's subspace."""
        return self.turn.weight[:, list(self.blocks[variable])].T

    @property
    def n_parameters(self) -> int:
        """Degrees of freedom: d (d - 1) / 2."""
        return degrees_of_freedom(self.d, self.d)

    def settings(self) -> dict[str, Any]:
        """Return the seed of the starting rotation."""
        return {"seed": self.seed}


class UserMap(AlignmentMap):
    """Any module with `forward` and `inverse`, each from `[n, d]` to `[n, d]`.

    Whether they undo each other is measured by `interp.alignment.exactness`, not believed.

    Raises:
        InputError: the module has no method `inverse`, or returns another shape.
    """

    family = "user"

    def __init__(self, module: nn.Module, d: int, blocks: Blocks, *, family: str = "user") -> None:
        super().__init__(d, blocks)
        name = type(module).__name__
        if not callable(getattr(module, "inverse", None)):
            raise InputError(
                f"{name} has no method `inverse`, so what is swapped in its coordinates could not "
                "be mapped back to states: give a module with forward and inverse."
            )
        self.module, self.family = module, family
        trial = torch.zeros(2, d, dtype=self.dtype)
        with torch.no_grad():
            for way in (self.forward, self.inverse):
                shape = list(way(trial).shape)
                if shape != [2, d]:
                    raise InputError(
                        f"{name}.{way.__name__} returned {shape} for {[2, d]}: a map keeps the "
                        "width of the site."
                    )

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n z"]:
        """Return the module's output."""
        return self.module(states)

    def inverse(self, latents: Float[Tensor, "n z"]) -> Float[Tensor, "n d"]:
        """Return the output of the module's inverse."""
        return self.module.inverse(latents)  # type: ignore[operator]


def principal(states: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return all principal directions as columns in float64, the one of most variance first.

    A direction has no sign: the entry of largest size is made positive.

    >>> principal(torch.tensor([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0]])).abs().round().tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    Raises:
        InputError: fewer than two states, or one that is not finite.
    """
    rows = states.detach().double()
    if len(rows) < 2 or not bool(rows.isfinite().all()):
        raise InputError(
            f"Principal directions of {len(rows)} states: give at least two, all finite."
        )
    centred = rows - rows.mean(0)
    columns = torch.linalg.eigh(centred.T @ centred)[1].flip(1)
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * largest.sign()


def _difference(name: str, states: Tensor, values: Tensor) -> Tensor:
    kinds = values.unique()
    if len(kinds) != 2:
        raise InputError(
            f"{name!r} takes {len(kinds)} values on these inputs: a difference of means needs a "
            "variable of two; use 'pca' or a fitted map."
        )
    return bases.difference_of_means(states[values == kinds[1]], states[values == kinds[0]])


def _count(blocks: Blocks) -> int:
    return sum(len(block) for block in blocks.values())
