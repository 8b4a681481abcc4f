"""Is a learned direction read, or does it work through what the network ignores?

A direction may hold the answer in a part that nothing downstream reads and act through another
part that carries no answer by itself: patched together they move the output, although the network
never does so. So a direction is split into the part that is read and the rest, and swapped along
the read part alone; a genuine direction keeps its effect. Both measures are printed, interchange
accuracy and the lost logit difference, for the first alone already rejects such directions.

Source: Makelov et al. 2023, arXiv:2311.17030; the reply by Wu et al. 2024, arXiv:2401.12631.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

MOST_RANK = 8
"""Columns of a variable's subspace at most: a wide subspace reaches into every read direction."""

READ = 0.01
"""A direction counts as read where its gradient is at least this share of the largest."""

STATES, ANSWERS = 256, 16
"""Natural states, and answers, through which the gradient is taken."""


@dataclass(frozen=True)
class Swapped:
    """What one swap does."""

    iia: float
    """Interchange accuracy over all pairs."""
    recovery: float | None
    """Share of the logit difference between the base's answer and y* that is lost, over sensitive
    pairs: 0 as without the swap, 1 none is left, 2 reversed. None where the network does not
    prefer the base's answer, or no pair is sensitive."""


@dataclass(frozen=True)
class NullSpace:
    """A subspace map whole, along what is read of it, and along the rest."""

    n_read: int
    """Dimensions of the site that are read."""
    read_share: Mapping[str, float]
    """Squared length of each variable's directions that is read, 0 to 1."""
    none: Swapped
    full: Swapped
    read: Swapped
    rest: Swapped

    @property
    def kept(self) -> float | None:
        """Share of the accuracy gained over no swap that the read part keeps; None without gain."""
        gain = self.full.iia - self.none.iia
        return (self.read.iia - self.none.iia) / gain if gain > 0 else None


def row_space(weight: Float[Tensor, "out d"], *, read: float = READ) -> Float[Tensor, "r d"]:
    """Return orthonormal rows that span what a linear layer reads of its input.

    >>> row_space(torch.tensor([[0.0, 3.0], [0.0, 1.0]])).abs().tolist()
    [[0.0, 1.0]]
    """
    _, sizes, rows = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    largest = float(sizes.max()) if len(sizes) else 0.0
    return rows[sizes > read * largest].to(weight.dtype)


def read_space(
    cut: Cut, pairs: Pairs, *, n: int = STATES, read: float = READ, seed: int = 0
) -> Float[Tensor, "r d"]:
    """Return orthonormal rows that span what the rest of the network reads at natural states.

    The gradients of the answers' logits (less their mean) are taken at `n` states of the pairs;
    a direction is read where their root mean square along it is at least `read` of the largest.
    """
    stream = torch.Generator().manual_seed(seed)
    bases = pairs.base.unique()
    rows = bases[torch.randperm(len(bases), generator=stream)[:n]].to(cut.states.device)
    gradients = _gradients(cut, rows, pairs.labels.unique()[:ANSWERS])
    return row_space(gradients, read=read).to(cut.states.dtype)


def null_space(
    cut: Cut,
    phi: AlignmentMap,
    pairs: Pairs,
    *,
    reads: Float[Tensor, "r d"] | None = None,
    chunk: int | None = None,
) -> NullSpace:
    """Swap along a map's subspaces whole, along their read part, and along the rest.

    Several active variables are swapped one after another in the order of the map, so read parts
    that overlap are not counted twice.

    Args:
        cut: the network on the inputs of the pairs.
        phi: a linear map with blocks of at most 8 dimensions each.
        pairs: those that the map is scored on.
        reads: orthonormal rows that span what is read (`row_space` of the next linear layer); by
            default `read_space`.
        chunk: pairs that are run at once; by default what the cut can hold.

    Raises:
        InputError: the map is no linear map of low rank, or its variables are not the pairs'.
    """
    require_low_rank(phi)
    if phi.variables != pairs.variables:
        raise InputError(
            f"The map has blocks for {', '.join(phi.variables)} and the pairs interchange "
            f"{', '.join(pairs.variables)}: use the same variables in the same order."
        )
    reads = (read_space(cut, pairs) if reads is None else reads).to(cut.states)
    with torch.no_grad():
        rows = [directions(phi, name).to(cut.states) for name in phi.variables]
        parts = [row @ reads.T @ reads for row in rows]
        share = {
            name: float(part.square().sum()) / max(len(part), 1)
            for name, part in zip(phi.variables, parts, strict=True)
        }
        rest = [row - part for row, part in zip(rows, parts, strict=True)]
        ways = [[row[:0] for row in rows], rows, parts, rest]
        measured = [_measured(cut, pairs, _projectors(way), chunk or cut.chunk) for way in ways]
    clean = measured[0][1]
    return NullSpace(len(reads), share, *(_swapped(*each, clean) for each in measured))


def directions(phi: AlignmentMap, variable: str) -> Float[Tensor, "k d"]:
    """Return the directions in which a linear map moves states with a variable's coordinates.

    >>> from interp.alignment.maps import Identity
    >>> directions(Identity(3, {"v": [2]}), "v").tolist()
    [[0.0, 0.0, 1.0]]
    """
    axes = torch.eye(phi.d, dtype=phi.dtype)[list(phi.blocks[variable])]
    return phi.inverse(axes) - phi.inverse(torch.zeros_like(axes))


def swapped_along(
    cut: Cut, pairs: Pairs, projectors: Float[Tensor, "variable d d"]
) -> Float[Tensor, "pair answer"]:
    """Return the logits with base states moved to their active sources within some subspaces."""
    device = cut.states.device
    rows, active = pairs.base.to(device), pairs.active.to(device)
    states = cut.states[rows]
    for i, projector in enumerate(projectors):
        change = (cut.states[pairs.sources[:, i].to(device)] - states) @ projector
        states = states + torch.where(active[:, i, None], change, 0.0)
    return cut.finish(states, rows)


def require_low_rank(phi: AlignmentMap) -> None:
    """Refuse a map to which the test does not apply.

    Raises:
        InputError: the map is not linear, or a block has more than 8 dimensions.
    """
    if not phi.linear:
        raise InputError(
            f"The null-space test splits directions, and the {phi.family} map is not linear: use "
            "a subspace, or record that the test does not apply."
        )
    widest = max(phi.blocks, key=lambda name: len(phi.blocks[name]))
    if len(phi.blocks[widest]) > MOST_RANK:
        raise InputError(
            f"The block of {widest!r} has {len(phi.blocks[widest])} dimensions and the "
            f"null-space test is for at most {MOST_RANK}: fit a smaller one."
        )


def _projectors(directions: list[Tensor]) -> Float[Tensor, "variable d d"]:
    """Onto the span of each variable's directions; those that are all but zero span nothing."""
    found = []
    for rows in directions:
        _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
        basis = basis[sizes > 1e-4]  # the rows had length 1 before they were split
        found.append((basis.T @ basis).to(rows.dtype))
    return torch.stack(found)


def _measured(cut: Cut, pairs: Pairs, projectors: Tensor, chunk: int) -> tuple[float, float]:
    """Interchange accuracy, and the mean logit of the base's answer less that of y*.

    The second is over sensitive pairs, and 0 without any.
    """
    right, differences = [], [torch.zeros(0)]
    for rows in torch.arange(len(pairs)).split(chunk):
        part = pairs[rows]
        logits = swapped_along(cut, part, projectors).cpu().double()
        right.append(logits.argmax(1) == part.labels)
        both = torch.stack([part.base_labels, part.labels], 1)[part.sensitive]
        own, wanted = logits[part.sensitive].gather(1, both).unbind(1)
        differences.append(own - wanted)
    difference = torch.cat(differences)
    mean = float(difference.mean()) if len(difference) else 0.0
    return float(torch.cat(right).double().mean()), mean


def _swapped(iia: float, difference: float, clean: float) -> Swapped:
    return Swapped(iia, 1 - difference / clean if clean > 0 else None)


def _gradients(
    cut: Cut, rows: Int[Tensor, " n"], answers: Int[Tensor, " k"]
) -> Float[Tensor, "nk d"]:
    """Of each answer's logit, less the mean of all logits, at the states of some inputs."""
    found = []
    with torch.enable_grad():
        states = cut.states[rows].detach().clone().requires_grad_(True)
        logits = cut.finish(states, rows)
        centred = logits - logits.mean(1, keepdim=True)
        for answer in answers.tolist():
            total = centred[:, answer].sum()  # rows do not see one another
            found.append(torch.autograd.grad(total, states, retain_graph=True)[0])
    return torch.cat(found)
