"""Does a map do nothing when it should, and does its inverse undo it: measured, never assumed.

A map that is exact on paper is not exact in floating point. Both checks come with the limit that
the result must keep; a value that is not a number keeps none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.fitting import CHUNK, swapped
from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

INVERSE_LIMITS: Mapping[torch.dtype, float] = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Largest error of the inverse, relative to the largest state."""
NOOP_LIMITS: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.float64: 1e-10}
"""Largest change of a logit under a no-op, for maps whose no-op is not exact by construction."""


@dataclass(frozen=True)
class NoOp:
    """What a swap of every variable with the base's own states changed."""

    logit: float
    """Largest change of a logit."""
    flipped: int
    """Inputs on which the network's first choice changed."""
    limit: float
    """Largest change of a logit that is accepted: 0 for identity, low-rank and masked maps."""

    @property
    def holds(self) -> bool:
        """Whether no answer changed and no logit by more than the limit."""
        return self.logit <= self.limit and self.flipped == 0


@dataclass(frozen=True)
class InverseError:
    """Largest |inverse(map(h)) - h|, divided by 1 + the largest |h|."""

    run: float
    """In the dtype of the states."""
    double: float
    """With map and states in float64."""
    limit: float
    """Of `run`; that of `double` is 1e-10."""

    @property
    def holds(self) -> bool:
        """Whether both are within their limits."""
        return self.run <= self.limit and self.double <= INVERSE_LIMITS[torch.float64]


@torch.no_grad()
def noop_error(cut: Cut, phi: AlignmentMap, pairs: Pairs, *, chunk: int = CHUNK) -> NoOp:
    """Swap each base's variables with its own, and compare with the network left alone.

    Args:
        cut: the network at the site; the check runs in the dtype of its states.
        phi: the map, as it is outside of fitting.
        pairs: their bases and active variables are used.
        chunk: pairs that are run at once.

    Raises:
        InputError: states in another dtype than float32 and float64.
    """
    phi = _resting(phi, cut.states.dtype)
    sources = pairs.base[:, None].expand_as(pairs.sources)
    itself, logit, flipped = replace(pairs, sources=sources), torch.zeros(()), 0
    for rows in torch.arange(len(pairs)).split(chunk):
        part = itself[rows]
        clean = cut.finish(cut.states[part.base], part.base)
        changed = swapped(cut, phi, part)
        logit = torch.maximum(logit, (changed - clean).abs().max())  # keeps what is not a number
        flipped += int((changed.argmax(1) != clean.argmax(1)).sum())
    return NoOp(float(logit), flipped, 0.0 if phi.exact else NOOP_LIMITS[cut.states.dtype])


@torch.no_grad()
def inverse_error(phi: AlignmentMap, states: Float[Tensor, "n d"]) -> InverseError:
    """Map states and back, in their own dtype and in float64.

    Raises:
        InputError: states in another dtype than float32 and float64.
    """
    run = _there_and_back(_resting(phi, states.dtype), states)
    double = _there_and_back(_resting(phi, torch.float64), states.double())
    return InverseError(run, double, INVERSE_LIMITS[states.dtype])


def _there_and_back(phi: AlignmentMap, states: Tensor) -> float:
    return float((phi.inverse(phi(states)) - states).abs().max() / (1 + states.abs().max()))


def _resting(phi: AlignmentMap, dtype: torch.dtype) -> AlignmentMap:
    """A copy as it is outside of fitting, in a dtype."""
    if dtype not in INVERSE_LIMITS:
        raise InputError(
            f"The states are {str(dtype).removeprefix('torch.')}: an alignment map runs in float32 "
            "or float64, because its inverse loses the answer in less; convert the states."
        )
    return copy.deepcopy(phi).to(dtype).eval()
