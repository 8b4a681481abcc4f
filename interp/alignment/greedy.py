"""Greedy search for the neurons of each variable: the alignment without any change of coordinates.

Each round gives every variable one more neuron, the ones that lower the loss of the interchange
interventions most, all combinations compared. Source: the identity map of Sutter et al. 2025,
arXiv:2507.08802. Search on validation pairs and score on test pairs: the search has looked at its
pairs often.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.alignment.maps import Identity
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

ROWS = 65_536
"""Changed states that are run at once."""
MOST = 100_000
"""Combinations of neurons that one round compares at most."""


@dataclass(frozen=True)
class Greedy:
    """What a search chose."""

    d: int
    neurons: dict[str, tuple[int, ...]]
    """Of each variable, in the order in which they were chosen."""
    losses: tuple[float, ...]
    """Mean loss after each round, in nats, on the pairs of the search."""

    @property
    def map(self) -> Identity:
        """The identity map with these blocks."""
        return self.at(len(self.losses))

    def at(self, size: int) -> Identity:
        """Return the map as it was after some rounds: neurons for each variable.

        Raises:
            InputError: the search had fewer rounds.
        """
        if not 1 <= size <= len(self.losses):
            raise InputError(
                f"Size {size} of a search of {len(self.losses)} rounds: give 1 to "
                f"{len(self.losses)}."
            )
        return Identity(self.d, {name: chosen[:size] for name, chosen in self.neurons.items()})


@torch.no_grad()
def greedy(cut: Cut, pairs: Pairs, size: int, *, rows: int = ROWS) -> Greedy:
    """Choose `size` neurons for each variable, round by round.

    A variable's neurons matter only where it is active, so pairs that interchange one variable are
    run once for each neuron of it, not for each combination.

    Args:
        cut: the network at the site, on the inputs of the pairs; not those of a test.
        pairs: what the loss is measured on; 6,400 in the source.
        size: neurons for each variable, at most d divided by the number of variables.
        rows: changed states that are run at once; the result does not depend on it.

    Raises:
        InputError: a size that does not fit, or so many combinations that the search would not end.
    """
    names, d = pairs.variables, cut.d
    if not 1 <= size <= d // len(names):
        raise InputError(
            f"{size} neurons for each of {len(names)} variables at a site {d} wide: give 1 to "
            f"{d // len(names)}."
        )
    _require_few(d, len(names))
    chosen = torch.zeros(len(names), 0, dtype=torch.long)
    losses: list[float] = []
    for _ in range(size):
        left = sorted(set(range(d)) - set(chosen.flatten().tolist()))
        candidates = torch.tensor(list(permutations(left, len(names))))
        totals = _losses(cut, pairs, chosen, candidates, rows) / len(pairs)
        best = int(totals.argmin())
        chosen = torch.cat([chosen, candidates[best][:, None]], dim=1)
        losses.append(float(totals[best]))
    neurons = {name: tuple(row) for name, row in zip(names, chosen.tolist(), strict=True)}
    return Greedy(d, neurons, tuple(losses))


def _losses(
    cut: Cut,
    pairs: Pairs,
    chosen: Int[Tensor, "variable k"],
    candidates: Int[Tensor, "candidate variable"],
    rows: int,
) -> Float[Tensor, " candidate"]:
    """The summed loss of each candidate beside what is chosen, in float64."""
    totals = torch.zeros(len(candidates), dtype=torch.float64)
    for kind in pairs.active.unique(dim=0):
        which = kind.nonzero().flatten()
        part = pairs[(pairs.active == kind).all(1)]
        tried, place = candidates[:, which].unique(dim=0, return_inverse=True)
        per = max(1, rows // len(part))
        sums = [_sums(cut, part, which, chosen, some) for some in tried.split(per)]
        totals += torch.cat(sums)[place]
    return totals


def _sums(
    cut: Cut,
    pairs: Pairs,
    which: Int[Tensor, " active"],
    chosen: Int[Tensor, "variable k"],
    tried: Int[Tensor, "candidate active"],
) -> Float[Tensor, " candidate"]:
    """The summed loss of each candidate on pairs that interchange the same variables."""
    states = cut.states[pairs.base].clone()
    given = [cut.states[pairs.sources[:, v]] for v in which]
    for v, source in zip(which, given, strict=True):
        states[:, chosen[v]] = source[:, chosen[v]]
    states = states.repeat(len(tried), 1, 1)
    every = torch.arange(len(tried))
    for i, source in enumerate(given):
        states[every, :, tried[:, i]] = source[:, tried[:, i]].T
    logits = cut.finish(states.flatten(0, 1), pairs.base.repeat(len(tried)))
    labels = pairs.labels.repeat(len(tried))
    losses = cross_entropy(logits, labels, reduction="none").double()
    return losses.view(len(tried), -1).sum(1)


def _require_few(d: int, n_variables: int) -> None:
    combinations = 1
    for taken in range(n_variables):
        combinations *= d - taken
    if combinations > MOST:
        raise InputError(
            f"{n_variables} variables at a site {d} wide make {combinations:,} combinations of "
            f"neurons a round, above {MOST:,}: search one variable at a time, or fit a mask."
        )
