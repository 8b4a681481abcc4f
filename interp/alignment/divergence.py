"""How far from natural states does an intervention land?

An inverse map can send swapped coordinates anywhere. The distance of each edited state to its
nearest natural states is held against what natural states have among themselves, and the two sets
are compared by their energy distance. Far states prove nothing by themselves, but what a network
does with them is not what it does.

Source: Grant et al. 2025, arXiv:2511.04638; Szekely and Rizzo 2013, Journal of Statistical Planning
and Inference 143, 1249 (energy distance).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

REFERENCE = 10_000
"""Natural states among which neighbours are looked for, at most."""
ENERGY = 2_000
"""States of each side in the energy distance, at most."""
PERCENTILE = 0.99
"""An edited state is flagged above this quantile of natural distances."""
_ROWS = 1_000


@dataclass(frozen=True)
class Divergence:
    """Distances in units of the activations."""

    n_edited: int
    n_reference: int
    k: int
    """The distance is the mean over so many nearest reference states."""
    natural: float
    """Median distance of natural states to the reference."""
    threshold: float
    """The 99th percentile of it."""
    edited: float
    """Median distance of edited states to the reference."""
    flagged: float
    """Share of edited states above the threshold; about .01 where an edit stays natural."""
    energy: float
    """Energy distance of edited and natural states: 0 where they are one set."""
    natural_energy: float
    """The same of natural states and the reference: what chance alone gives."""


def edited_states(
    cut: Cut, phi: AlignmentMap, pairs: Pairs, *, chunk: int = 16_384
) -> Float[Tensor, "pair d"]:
    """Return the state h* of each intervention, without running what follows."""
    parts = [pairs[rows] for rows in torch.arange(len(pairs)).split(chunk)]
    device = cut.states.device
    with torch.no_grad():
        swaps = [
            phi.swap(
                cut.states[part.base.to(device)],
                cut.states[part.sources.to(device)],
                part.active.to(device),
            )
            for part in parts
        ]
    return torch.cat(swaps)


def neighbour_distance(
    states: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], *, k: int = 1
) -> Float[Tensor, " n"]:
    """Return the mean Euclidean distance of each state to its k nearest reference states.

    >>> neighbour_distance(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [3.0]])).tolist()
    [1.0, 2.0]

    Raises:
        InputError: k is not between 1 and the number of reference states.
    """
    if not 1 <= k <= len(reference):
        raise InputError(f"k={k} nearest of {len(reference)} states: give 1 to {len(reference)}.")
    nearest = [
        _distances(part, reference).topk(k, largest=False).values.mean(1)
        for part in states.split(_ROWS)
    ]
    return torch.cat(nearest)


def energy_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Return 2 E|a - b| - E|a - a'| - E|b - b'|: 0 for one set, and never below it.

    >>> energy_distance(torch.tensor([[0.0]]), torch.tensor([[3.0]]))
    6.0
    """
    across, within = _mean_distance(a, b), _mean_distance(a, a) + _mean_distance(b, b)
    return max(2 * across - within, 0.0)


def divergence(
    edited: Float[Tensor, "n d"],
    natural: Float[Tensor, "m d"],
    reference: Float[Tensor, "r d"],
    *,
    k: int = 1,
    seed: int = 0,
) -> Divergence:
    """Hold edited states against natural ones.

    Args:
        edited: states after an intervention (`edited_states`).
        natural: states of the same split that nothing was done to, such as those of the bases.
        reference: states of *other* inputs, such as the training split. Were the bases in it, an
            edit that does nothing would be at distance 0, nearer than natural states are.
        k: neighbours.
        seed: of the rows that are drawn where there are more than 10,000 (2,000 for the energy).

    Raises:
        InputError: a side is empty, widths differ, or an edited state is not finite.
    """
    _check(edited, natural, reference)
    edited_, natural_, known = (_some(x, REFERENCE, seed) for x in (edited, natural, reference))
    ours, own = (neighbour_distance(x, known, k=k) for x in (edited_, natural_))
    threshold = float(own.quantile(PERCENTILE))
    few = [_some(x, ENERGY, seed) for x in (edited, natural, reference)]
    return Divergence(
        n_edited=len(edited_),
        n_reference=len(known),
        k=k,
        natural=float(own.median()),
        threshold=threshold,
        edited=float(ours.median()),
        flagged=float((ours > threshold).double().mean()),
        energy=energy_distance(few[0], few[1]),
        natural_energy=energy_distance(few[1], few[2]),
    )


def _distances(a: Tensor, b: Tensor) -> Float[Tensor, "n m"]:
    """In float64 around b's mean, so the quick form by products loses nothing that matters."""
    centre = b.double().mean(0)
    return torch.cdist(a.double() - centre, b.double() - centre)


def _mean_distance(a: Tensor, b: Tensor) -> float:
    return float(torch.cat([_distances(part, b).sum(1) for part in a.split(_ROWS)]).sum()) / (
        len(a) * len(b)
    )


def _some(states: Tensor, most: int, seed: int) -> Tensor:
    if len(states) <= most:
        return states
    stream = torch.Generator().manual_seed(seed)
    return states[torch.randperm(len(states), generator=stream)[:most]]


def _check(edited: Tensor, natural: Tensor, reference: Tensor) -> None:
    sides = {"edited": edited, "natural": natural, "reference": reference}
    for name, states in sides.items():
        if not len(states):
            raise InputError(f"There are no {name} states: give at least one.")
        if states.shape[1] != edited.shape[1]:
            raise InputError(
                f"The {name} states are {states.shape[1]} wide and the edited ones "
                f"{edited.shape[1]}: take all at one site."
            )
        lost = int((~states.isfinite().all(1)).sum())
        if lost:
            raise InputError(
                f"{lost} of {len(states)} {name} states are not finite: check the map's inverse "
                "error, or run it in float64."
            )
