"""Edits along linear probes: states are moved until probes read what is asked, or stripped of it.

Source: Haufe et al. 2014, NeuroImage 87, 96 (weights against patterns).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from interp.alignment.linear_probes import LinearProbe

ROUNDS = 500
"""Projections after which an edit that does not read as asked is given up."""


@dataclass(frozen=True, eq=False)
class Moved:
    """States that were moved until probes read what was asked."""

    states: Float[Tensor, "n d"]
    reached: Bool[Tensor, " n"]
    """Whether the variable reads as asked and every other one as before."""


def moved(
    states: Float[Tensor, "n d"],
    probes: Mapping[str, LinearProbe],
    variable: str,
    targets: Num[Tensor, " n"],
    *,
    root: Float[Tensor, "d d"] | None = None,
) -> Moved:
    """Move states until one probe reads its target, and the others what they read before.

    Each condition is a half-space of states, such as `(w_q - w_p) h + c >= lead`; a state is
    projected on the one that it breaks most until it breaks none. A state that already reads as
    asked keeps every bit. The edit is short, though not the shortest there is.

    With the symmetric root of the states' covariance, length is measured in their standard
    deviations: then an edit follows how states vary with the variable, not the weights, which may
    point where no state ever goes. Source of the difference: Haufe et al. 2014, NeuroImage 87, 96.
    """
    start = states.double()
    root = torch.eye(start.shape[1], dtype=torch.float64) if root is None else root.double()
    asked = {name: targets if name == variable else p.reads(start) for name, p in probes.items()}
    limits = {name: _limits(p, start, asked[name]) for name, p in probes.items()}
    turned = {name: p.weight @ root for name, p in probes.items()}
    scaled = torch.zeros_like(start)
    for _ in range(ROUNDS):
        now = start + scaled @ root
        steps = torch.stack(
            [_step(p, turned[n], now, asked[n], limits[n]) for n, p in probes.items()]
        )
        length = steps.norm(dim=2)
        if not bool((length > 0).any()):
            break
        scaled = scaled + steps[length.argmax(0), torch.arange(len(start))]
    still = (scaled == 0).all(1, keepdim=True)
    new = torch.where(still, states, (start + scaled @ root).to(states.dtype))
    fine = torch.ones(len(states), dtype=torch.bool)
    for name, probe in probes.items():
        read = probe.reads(new)
        near = (read - asked[name]).abs() <= 2 * probe.lead if probe.real else read == asked[name]
        fine &= near
    return Moved(new, fine)


def covariance_root(states: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return the symmetric root of the covariance of states, in float64."""
    x = states.double() - states.double().mean(0)
    sizes, basis = torch.linalg.eigh(x.T @ x / max(1, len(x) - 1))
    return basis * sizes.clamp(min=0).sqrt() @ basis.T


def _limits(probe: LinearProbe, states: Tensor, asked: Tensor) -> Float[Tensor, "n score"]:
    """How far the asked class must lead each other; where it is read already, no more than now."""
    if probe.real:
        return torch.zeros(len(states), 1, dtype=torch.float64)
    wanted = torch.full((len(states), len(probe.bias)), probe.lead, dtype=torch.float64)
    read = probe.reads(states) == asked
    return torch.where(read[:, None], wanted.minimum(_gaps(probe, states, asked)), wanted)


def _gaps(probe: LinearProbe, states: Tensor, asked: Tensor) -> Float[Tensor, "n score"]:
    scores = probe.scores(states)
    return scores.gather(1, asked.long()[:, None]) - scores


def _step(
    probe: LinearProbe, weight: Tensor, states: Tensor, asked: Tensor, limits: Tensor
) -> Float[Tensor, "n d"]:
    """The change that mends the condition of one probe that is broken most; zero if none is."""
    if probe.real:
        lack = asked.double() - probe.reads(states)
        lack = torch.where(lack.abs() > probe.lead, lack, 0.0)
        toward = weight.expand(len(states), -1)
    else:
        lacks = limits - _gaps(probe, states, asked)
        lacks = lacks.scatter(1, asked.long()[:, None], -1.0)
        apart = torch.cdist(weight, weight)[asked.long()].clamp(min=1e-12)
        worst = (lacks / apart).argmax(1)
        lack = lacks.gather(1, worst[:, None])[:, 0]
        lack = torch.where(lack > 1e-6 * probe.lead, lack, 0.0)
        toward = weight[asked.long()] - weight[worst]
    return lack[:, None] * toward / toward.square().sum(1, keepdim=True).clamp(min=1e-24)


def projected_out(
    states: Float[Tensor, "n d"], basis: Float[Tensor, "k d"], middle: Float[Tensor, " d"]
) -> Float[Tensor, "n d"]:
    """Return states whose part in a subspace is that of `middle`; done twice it changes nothing."""
    basis = basis.to(states.dtype)
    return states - (states - middle) @ basis.T @ basis


def random_edits(
    changes: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    root: Float[Tensor, "d d"] | None = None,
) -> Float[Tensor, "n d"]:
    """Return changes in random directions, each of the norm of the given one.

    With the root of the covariance, directions in which states vary more are drawn more often.
    """
    drawn = torch.randn(changes.shape, generator=generator, dtype=torch.float64)
    drawn = drawn if root is None else drawn @ root
    lengths = changes.double().norm(dim=1, keepdim=True)
    return (drawn / drawn.norm(dim=1, keepdim=True) * lengths).to(changes.dtype)
