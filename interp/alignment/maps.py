"""Alignment maps: a change of coordinates in which each variable of an algorithm has its own block.

A map is a bijection of states `[n, d]`; `blocks` names the coordinates of each variable, and the
rest is unused. An interchange overwrites the block of each active variable by that of its source
and maps back: `h* = inverse(z*)`. Source: Geiger et al. 2023, arXiv:2303.02536; Sutter et al. 2025,
arXiv:2507.08802.

Here stand the interface and its simplest members; `interp.alignment.couplings`, `masks` and
`fixed` hold the others, and `interp.alignment.families` builds any of them by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.bases import random_basis
from interp.errors import InputError

Blocks = Mapping[str, Sequence[int]]
"""The coordinates of each variable, in the order of the pairs' variables."""


NARROW = 64
"""States of all variables together so narrow that one product with whole projectors is cheapest."""


class AlignmentMap(nn.Module, ABC):
    """A bijection of states at a site, with a block of coordinates for each variable.

    Raises:
        InputError: a block is empty, leaves the d coordinates, or shares one with another.
    """

    family: str = "map"
    """The word that reports and records use."""
    linear: bool = False
    """Whether a variable's block is a subspace of states."""
    exact: bool = False
    """Whether a state swapped with itself keeps every bit."""

    def __init__(self, d: int, blocks: Blocks) -> None:
        super().__init__()
        self.d = d
        self._blocks = {name: tuple(int(i) for i in block) for name, block in blocks.items()}
        _require_blocks(d, self._blocks)

    @property
    def blocks(self) -> dict[str, tuple[int, ...]]:
        """The coordinates of each variable, in the order of the pairs' variables."""
        return self._blocks

    @abstractmethod
    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n z"]:
        """Return the coordinates of states."""

    @abstractmethod
    def inverse(self, latents: Float[Tensor, "n z"]) -> Float[Tensor, "n d"]:
        """Return the states of coordinates."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that have a block, in order."""
        return tuple(self._blocks)

    def swap(
        self,
        base: Float[Tensor, "n d"],
        sources: Float[Tensor, "n variable d"],
        active: Bool[Tensor, "n variable"],
    ) -> Float[Tensor, "n d"]:
        """Return base states with the blocks of active variables as in their sources.

        All states that are needed are mapped at once; a source that is not active is not mapped.
        """
        n, rows, which = len(base), *active.nonzero(as_tuple=True)
        latents = self(torch.cat([base, sources[rows, which]]))
        own = torch.arange(n, device=base.device)[:, None].repeat(1, len(self.blocks) + 1)
        own[rows, which] = torch.arange(n, len(latents), device=base.device)
        return self.inverse(latents.gather(0, own[:, self._owners(latents.shape[1])]))

    def penalty(self) -> Float[Tensor, ""]:
        """What fitting adds to the loss: nothing, unless a family says otherwise."""
        return torch.zeros(())

    def anneal(self, progress: float) -> None:
        """Told by fitting how far it is, from 0 to 1; for families with a temperature."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters, float32 for a map without any."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def n_parameters(self) -> int:
        """How many numbers fitting may choose; the same before and after it."""
        return sum(p.numel() for p in self.parameters())

    def settings(self) -> dict[str, Any]:
        """What it takes, beside weights and blocks, to build the map again."""
        return {}

    def _members(self, width: int) -> Bool[Tensor, "variable z"]:
        """Which coordinates each variable has."""
        owners = self._owners(width)
        return owners == torch.arange(len(self.blocks))[:, None]

    def _owners(self, width: int) -> Int[Tensor, " z"]:
        """The number of the variable that has each coordinate; one more than the last for none."""
        owners = torch.full((width,), len(self.blocks))
        for i, block in enumerate(self.blocks.values()):
            owners[list(block)] = i
        return owners


class Identity(AlignmentMap):
    """Neurons as they are: each variable is a set of them.

    >>> swap = Identity(2, {"x": [0]}).swap
    >>> swap(torch.zeros(1, 2), torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)).tolist()
    [[1.0, 0.0]]
    """

    family = "identity"
    linear = True
    exact = True

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the states."""
        return states

    def inverse(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the coordinates."""
        return latents

    def swap(
        self,
        base: Float[Tensor, "n d"],
        sources: Float[Tensor, "n variable d"],
        active: Bool[Tensor, "n variable"],
    ) -> Float[Tensor, "n d"]:
        """Take the neurons of active variables from their sources, bit for bit."""
        new = base
        for i, members in enumerate(self._members(self.d).to(base.device)):
            new = torch.where(active[:, i, None] & members, sources[:, i], new)
        return new


class Subspace(AlignmentMap):
    """Disjoint subspaces in one orthonormal basis `[d, k]`; the rest of the space stays.

    `h* = h_b + sum over active v of (h_v - h_b) W_v W_v^T`, so a state swapped with itself keeps
    every bit, at a cost of O(d k). Source: Geiger et al. 2023, arXiv:2303.02536, equation 3, in
    low-rank form.
    """

    linear = True
    exact = True

    def basis(self) -> Float[Tensor, "d k"]:
        """Return the orthonormal columns; `blocks` count them."""
        raise NotImplementedError

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return coordinates in the basis, completed to a whole one by fixed directions."""
        return states @ self._whole()

    def inverse(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the states of coordinates."""
        return latents @ self._whole().T

    def swap(
        self,
        base: Float[Tensor, "n d"],
        sources: Float[Tensor, "n variable d"],
        active: Bool[Tensor, "n variable"],
    ) -> Float[Tensor, "n d"]:
        """Move base states within the subspaces of active variables to their sources."""
        parts = self._parts(self.basis())
        change = torch.where(active[:, :, None], sources - base[:, None], 0.0)
        if change[0].numel() <= NARROW:
            return torch.addmm(base, change.flatten(1), torch.cat([p @ p.T for p in parts]))
        moved = torch.cat([change[:, i] @ part for i, part in enumerate(parts)], 1)
        return base + moved @ torch.cat(parts, 1).T

    def subspace(self, variable: str) -> Float[Tensor, "k d"]:
        """Return the orthonormal rows of one variable's subspace."""
        return self.basis()[:, list(self.blocks[variable])].T

    def _parts(self, basis: Float[Tensor, "d k"]) -> list[Float[Tensor, "d size"]]:
        """The columns of each variable; a split, whose gradient is cheap, where they follow on."""
        sizes = [len(block) for block in self.blocks.values()]
        columns = [i for block in self.blocks.values() for i in block]
        if columns == [*range(basis.shape[1])]:
            return [*basis.split(sizes, 1)]
        return [basis[:, list(block)] for block in self.blocks.values()]

    def _whole(self) -> Float[Tensor, "d d"]:
        return completed(self.basis())


class Rotation(Subspace):
    """A learned orthonormal basis of rank k for all variables together: DAS.

    The basis is a product of reflections (`Columns`), so it is orthonormal to rounding in any dtype
    and after any update.

    Args:
        d: width of the site.
        blocks: columns of the basis for each variable; together they are 0 to k - 1.
        seed: of the starting basis, drawn uniformly.
        start: a starting basis in place of that one; its columns must be orthonormal.

    Source: Geiger et al. 2023, arXiv:2303.02536.
    """

    family = "orthogonal"

    def __init__(
        self, d: int, blocks: Blocks, *, seed: int = 0, start: Float[Tensor, "d k"] | None = None
    ) -> None:
        super().__init__(d, blocks)
        self.seed = seed
        used = sorted(i for block in self.blocks.values() for i in block)
        if used != list(range(len(used))):
            raise InputError(
                f"The blocks of a rotation are columns 0 to {len(used) - 1}, each once; these are "
                f"{used}: use consecutive_blocks."
            )
        if start is not None and start.shape != (d, len(used)):
            raise InputError(
                f"The starting basis is {list(start.shape)} and the blocks count {len(used)} "
                f"columns of {d} rows: give {[d, len(used)]}."
            )
        self.turn = Columns(random_columns(d, len(used), seed) if start is None else start)

    def basis(self) -> Float[Tensor, "d k"]:
        """Return the orthonormal columns as they are now."""
        return self.turn.weight

    @property
    def n_parameters(self) -> int:
        """Degrees of freedom of k orthonormal columns: d(d-1)/2 for a square rotation."""
        return degrees_of_freedom(*self.turn.weight.shape)

    def settings(self) -> dict[str, Any]:
        """Return the seed of the starting basis."""
        return {"seed": self.seed}


def degrees_of_freedom(d: int, k: int) -> int:
    """Return how many numbers choose k orthonormal columns in d dimensions.

    >>> degrees_of_freedom(16, 16), degrees_of_freedom(24, 24), degrees_of_freedom(3, 1)
    (120, 276, 2)
    """
    return d * k - k * (k + 1) // 2


def random_columns(d: int, k: int, seed: int) -> Float[Tensor, "d k"]:
    """Return k orthonormal columns drawn uniformly, in float64."""
    return random_basis(k, d, seed, dtype=torch.float64).T


def completed(basis: Float[Tensor, "d k"]) -> Float[Tensor, "d d"]:
    """Return orthonormal columns followed by fixed ones that complete them."""
    complete, _ = torch.linalg.qr(basis.detach(), mode="complete")
    return torch.cat([basis, complete[:, basis.shape[1] :]], dim=1)


class Columns(nn.Module):
    """Orthonormal columns that are learned: `weight` `[d, k]`, in float32.

    They are a product of k reflections, counted from the columns of the start, as in torch's
    `parametrizations.orthogonal`: the same columns of the same free numbers, by products of
    matrices (the compact WY form) that are 15 times cheaper to differentiate at a rank of 16 in 576
    dimensions. Its state is the columns alone; those that are loaded are the new start, and so are
    those of another dtype.

    Raises:
        InputError: the columns are not orthonormal.

    Source: Schreiber and Van Loan 1989, doi:10.1137/0910005; Lezcano-Casado 2019,
    arXiv:1909.09501, for steps counted from a start.
    """

    base: Float[Tensor, "d d"]

    def __init__(self, start: Float[Tensor, "d k"]) -> None:
        super().__init__()
        columns = start.detach().double()
        off = columns.T @ columns - torch.eye(columns.shape[1], dtype=columns.dtype)
        if not float(off.abs().max()) < 1e-3:
            raise InputError(
                f"The columns of the starting basis miss orthonormality by {off.abs().max():.1e}: "
                "pass them through bases.orthonormal."
            )
        self.free = nn.Parameter(torch.zeros_like(columns, dtype=torch.float32))
        self.register_buffer("base", _completed_at_random(columns).float())
        self.register_state_dict_post_hook(_as_columns)
        self.register_load_state_dict_pre_hook(_as_start)

    @property
    def weight(self) -> Float[Tensor, "d k"]:
        """The columns as they are now."""
        return _reflected(self.base, self.free)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Columns:
        before, columns = self.free.dtype, self.weight.detach()
        super()._apply(fn, recurse)
        if self.free.dtype != before:
            with torch.no_grad():
                self.base.copy_(_completed_at_random(columns.double()))
                self.free.zero_()
        return self


def _reflected(base: Float[Tensor, "d d"], free: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Return the first k columns of `-base (I - V T V^T)`.

    Column i of V is a one at place i and, below it, the free numbers of column i; T is the triangle
    that makes a product of the reflections along them.
    """
    one, upper = _one_and_upper(*free.shape, free.dtype, free.device)
    along = free.tril(-1) + one
    triangle = along.T @ along * upper
    top = along[: free.shape[1]].T
    return base @ (along @ torch.linalg.solve_triangular(triangle, top, upper=True) - one)


@lru_cache(maxsize=16)
def _one_and_upper(
    d: int, k: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "d k"], Float[Tensor, "k k"]]:
    """Ones on a diagonal; and ones above a diagonal of halves: a square times it is a triangle."""
    with torch.inference_mode(False):
        one = torch.eye(d, k, dtype=dtype, device=device)
        upper = torch.ones(k, k, dtype=dtype, device=device).triu(1)
        return one, upper + torch.eye(k, dtype=dtype, device=device) / 2


def _completed_at_random(columns: Float[Tensor, "d k"]) -> Float[Tensor, "d d"]:
    """Return columns made orthonormal to rounding, and random ones behind them.

    Random, so that Adam, which scales each free number apart, prefers no neuron's direction.
    """
    d, k = columns.shape
    rest = torch.randn(d, d - k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, upper = torch.linalg.qr(torch.cat([columns, rest.to(columns)], 1))
    return whole * upper.diagonal().sign()


def _as_columns(module: Any, state: dict[str, Any], prefix: str, _: object) -> None:
    """After `state_dict`: the columns in place of what they are counted from."""
    state[f"{prefix}weight"] = module.weight.detach()
    del state[f"{prefix}free"], state[f"{prefix}base"]


def _as_start(_: nn.Module, state: dict[str, Any], prefix: str, *others: object) -> None:
    """Before `load_state_dict`: columns become the start, bit for bit."""
    if f"{prefix}weight" in state:
        columns = state.pop(f"{prefix}weight")
        base = _completed_at_random(columns.double()).to(columns)
        base[:, : columns.shape[1]] = columns
        state[f"{prefix}base"], state[f"{prefix}free"] = base, torch.zeros_like(columns)


def consecutive_blocks(variables: Sequence[str], size: int) -> dict[str, tuple[int, ...]]:
    """Return blocks of equal size, one after another from coordinate 0.

    >>> consecutive_blocks(["left", "right"], 2)
    {'left': (0, 1), 'right': (2, 3)}
    """
    ends = list(accumulate([size] * len(variables)))
    return {name: tuple(range(end - size, end)) for name, end in zip(variables, ends, strict=True)}


def _require_blocks(d: int, blocks: Mapping[str, tuple[int, ...]]) -> None:
    if not blocks:
        raise InputError("The map has no block: give the coordinates of at least one variable.")
    taken: dict[int, str] = {}
    for name, block in blocks.items():
        outside = [i for i in block if not 0 <= i < d]
        if not block or outside:
            raise InputError(
                f"The block of {name!r} is {list(block)}: give at least one coordinate, each from "
                f"0 to {d - 1}."
            )
        for i in block:
            if i in taken:
                raise InputError(
                    f"Coordinate {i} stands in the blocks of {taken[i]!r} and {name!r}: blocks of "
                    "different variables are disjoint."
                )
            taken[i] = name
