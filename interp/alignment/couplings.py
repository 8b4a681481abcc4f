"""Nonlinear alignment maps: additive coupling blocks, in the published form and in a safer one.

One block splits the coordinates into halves and is undone exactly, up to rounding:

    y1 = x1 + F(x2)    y2 = x2 + G(y1)        x2 = y2 - G(y1)    x1 = y1 - F(x2)

with F and G = Linear(d/2 -> width), ReLU, Linear(width -> d/2). Its Jacobian determinant is 1.
Source: Gomez et al. 2017, arXiv:1707.04585 (RevNet); as an alignment map Sutter et al. 2025,
arXiv:2507.08802.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.alignment.maps import AlignmentMap, Blocks
from interp.errors import InputError

Kind = Literal["paper", "safe"]


class _Half(NamedTuple):
    """The weights of one F or G, as matrices that stand to the right of rows."""

    into: Tensor
    into_bias: Tensor
    out: Tensor
    out_bias: Tensor


MOST = 1_000_000_000
"""Weights of a map; the next power of ten fills the memory of most machines."""


class Coupling(AlignmentMap):
    """A stack of additive coupling blocks.

    Args:
        d: width of the site; even.
        blocks: the coordinates of each variable after the last block.
        n_blocks: coupling blocks, L.
        width: hidden units of each F and G.
        kind: `paper` draws every weight as `nn.Linear` does and keeps the halves as they are, so
            the result depends on the order of neurons. `safe` gives each block a seeded permutation
            of the coordinates, undone after it, and starts F and G at zero: the identity.
        seed: of weights and permutations; torch's own random state is untouched.
        cap: no F and no G stretches a distance more than so many times. None for no limit. It
            bounds how the inverse amplifies rounding: by at most `(1 + cap)^(2 n_blocks)`.

    Parameters: `2 n_blocks (d width + width + d/2)`.

    Raises:
        InputError: an odd d, no block, no hidden unit, more than `MOST` weights, or a cap not above
            0.
    """

    orders: Tensor

    def __init__(
        self,
        d: int,
        blocks: Blocks,
        *,
        n_blocks: int,
        width: int,
        kind: Kind = "paper",
        seed: int = 0,
        cap: float | None = None,
    ) -> None:
        super().__init__(d, blocks)
        _require(d, n_blocks, width, kind, cap)
        self.n_blocks, self.width, self.kind, self.seed, self.cap = n_blocks, width, kind, seed, cap
        word = "revnet" if kind == "paper" else "coupling"
        self.family = f"{word}-{n_blocks}x{width}"
        stream, half, pairs = torch.Generator().manual_seed(seed), d // 2, (n_blocks, 2)
        self.into = _uniform((*pairs, half, width), half, stream)
        self.into_bias = _uniform((*pairs, 1, width), half, stream)
        self.out = _uniform((*pairs, width, half), width, stream)
        self.out_bias = _uniform((*pairs, 1, half), width, stream)
        orders = torch.arange(d).repeat(n_blocks, 1)
        if kind == "safe":
            for last in (self.out, self.out_bias):
                nn.init.zeros_(last)
            orders = torch.stack([torch.randperm(d, generator=stream) for _ in range(n_blocks)])
        self.register_buffer("orders", orders)

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the states after every block."""
        order = None
        for new, (f, g) in zip(self._orders(), self._halves(), strict=True):
            first, second = _reordered(states, order, new).chunk(2, dim=1)
            first = first + _apply(f, second)
            second = second + _apply(g, first)
            states, order = torch.cat([first, second], dim=1), new
        return _reordered(states, order, None)

    def inverse(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the coordinates before every block: what `forward` added is taken off again."""
        order = None
        for new, (f, g) in zip(self._orders()[::-1], self._halves()[::-1], strict=True):
            first, second = _reordered(latents, order, new).chunk(2, dim=1)
            second = second - _apply(g, first)
            first = first - _apply(f, second)
            latents, order = torch.cat([first, second], dim=1), new
        return _reordered(latents, order, None)

    def settings(self) -> dict[str, Any]:
        """Return the arguments beside d and blocks."""
        names = ("n_blocks", "width", "kind", "seed", "cap")
        return {name: getattr(self, name) for name in names}

    def _orders(self) -> list[Tensor | None]:
        """The order of coordinates in each block; None for as they are."""
        return [None] * self.n_blocks if self.kind == "paper" else list(self.orders)

    def _halves(self) -> list[tuple[_Half, _Half]]:
        """The weights of F and of G of each block, within the cap."""
        into, out = _capped(self.into, self.cap), _capped(self.out, self.cap)
        weights = (into, self.into_bias, out, self.out_bias)
        flat = zip(*(weight.flatten(0, 1).unbind() for weight in weights), strict=True)
        halves = [_Half(*four) for four in flat]
        return list(zip(halves[::2], halves[1::2], strict=True))


def _apply(half: _Half, x: Tensor) -> Tensor:
    hidden = torch.addmm(half.into_bias, x, half.into).relu()
    return torch.addmm(half.out_bias, hidden, half.out)


def _reordered(x: Tensor, old: Tensor | None, new: Tensor | None) -> Tensor:
    """Coordinates that stand in one order, in another; None is the order of neurons."""
    if old is None:
        return x if new is None else x.index_select(1, new)
    back = old.argsort()
    return x.index_select(1, back if new is None else back[new])


def _capped(weights: Tensor, cap: float | None) -> Tensor:
    """Matrices scaled down to a spectral norm of at most the root of the cap."""
    if cap is None:
        return weights
    most = math.sqrt(cap)
    norms = torch.linalg.svdvals(weights)[..., :1, None]
    return weights * (most / norms.clamp(min=most))


def _uniform(shape: tuple[int, ...], fan_in: int, stream: torch.Generator) -> nn.Parameter:
    """As `nn.Linear` starts: uniform within one over the root of the inputs."""
    bound = fan_in**-0.5
    return nn.Parameter((2 * torch.rand(shape, generator=stream) - 1) * bound)


def _require(d: int, n_blocks: int, width: int, kind: str, cap: float | None) -> None:
    if d % 2:
        raise InputError(
            f"A coupling map splits the coordinates into halves and the site is {d} wide: choose a "
            "site of even width, or an orthogonal map."
        )
    if n_blocks < 1 or width < 1:
        raise InputError(
            f"A coupling map of {n_blocks} blocks with {width} hidden units: give at least one of "
            "each."
        )
    if (n := 2 * n_blocks * (d * width + width + d // 2)) > MOST:
        raise InputError(
            f"A coupling map of {n_blocks} blocks with {width} hidden units at a site {d} wide has "
            f"{n:,} weights, and at most {MOST:,} are fitted: give fewer."
        )
    if kind not in ("paper", "safe"):
        raise InputError(f"kind={kind!r}: write 'paper' or 'safe'.")
    if cap is not None and not 0 < cap < math.inf:
        raise InputError(f"cap={cap}: give a number above 0, or None for no limit.")
