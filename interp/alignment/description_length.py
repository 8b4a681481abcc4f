"""How many bits does it take to learn the map? The prequential code of counterfactual labels.

Labels are sent in blocks: the first t_1 at log2 K bits each, every later block with the
probabilities of the network under the map that was fitted on all pairs before it. A map that needs
many pairs before it predicts pays for them, however few parameters it has; labels without a rule
cost log2 K each. A frozen network's probabilities are not calibrated, so each step has one
temperature, fitted on validation pairs.

    L = t_1 log2 K + sum over i, over t_i < j <= t_(i+1), of -log2 p_i(y*_j)

Source: Voita and Titov 2020, arXiv:2003.12298, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, log2

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.alignment.fitting import Budget, fit, fixed, swapped
from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs
from interp.errors import InputError

FIRST = 1000
"""Pairs that are sent before anything is fitted: t_1."""
_NUMBERS = 20_000_000
"""Validation logits that a temperature is fitted on, at most."""
_WIDEST = log(1e4)
"""A temperature lies between 1e-4 and 1e4."""

FitOn = Callable[[Pairs], AlignmentMap]
"""Fits a map on some pairs and returns it."""


@dataclass(frozen=True)
class Block:
    """The labels that one fit sends."""

    fitted_on: int
    """Pairs before the block: t_i."""
    n: int
    """Labels in it."""
    bits: float
    temperature: float


@dataclass(frozen=True)
class DescriptionLength:
    """The whole code."""

    n_answers: int
    """K."""
    first: int
    """t_1."""
    blocks: tuple[Block, ...]

    @property
    def n(self) -> int:
        """Labels that are sent."""
        return self.first + sum(block.n for block in self.blocks)

    @property
    def bits(self) -> float:
        """The length of the code."""
        return self.first * log2(self.n_answers) + sum(block.bits for block in self.blocks)

    @property
    def bits_per_pair(self) -> float:
        """The length over the number of labels; log2 K is what a code without a map costs."""
        return self.bits / self.n


def doubling(n: int, first: int = FIRST) -> tuple[int, ...]:
    """Return the ends of blocks: `first`, doubled as long as it stays below n, and n.

    >>> doubling(5000)
    (1000, 2000, 4000, 5000)

    Raises:
        InputError: `first` is below 1, or not below n.
    """
    if not 1 <= first < n:
        raise InputError(
            f"The first block has {first} pairs and there are {n}: it needs at least 1 and fewer "
            "than there are."
        )
    ends = [first]
    while 2 * ends[-1] < n:
        ends.append(2 * ends[-1])
    return (*ends, n)


def description_length(
    cut: Cut,
    pairs: Pairs,
    fit_on: FitOn,
    *,
    validation: tuple[Cut, Pairs],
    first: int = FIRST,
) -> DescriptionLength:
    """Return the prequential code length of the pairs' labels.

    Args:
        cut: the network on the inputs of the pairs.
        pairs: in the order in which they are sent.
        fit_on: fits a map on the pairs sent so far; it starts anew each time (`refit`).
        validation: a cut on other inputs, and pairs of them, for the temperature.
        first: pairs that are sent without a map.

    Raises:
        InputError: fewer pairs than `first` and one more, or no validation pair.
    """
    ends = doubling(len(pairs), first)
    if not len(validation[1]):
        raise InputError("There are no validation pairs: a temperature needs at least one.")
    blocks, n_answers = [], 0
    for start, end in pairwise(ends):
        phi = fit_on(pairs[:start])
        logits = _logits(validation[0], phi, validation[1], most=_NUMBERS)
        n_answers = logits.shape[1]
        heat = temperature(logits, validation[1].labels[: len(logits)])
        bits = code_bits(cut, phi, pairs[start:end], heat)
        blocks.append(Block(start, end - start, bits, heat))
    return DescriptionLength(n_answers, first, tuple(blocks))


def refit(
    cut: Cut,
    start: AlignmentMap,
    budget: Budget,
    *,
    validation: tuple[Cut, Pairs],
    seed: int = 0,
) -> FitOn:
    """Return what `description_length` asks for: a fit of one starting map on limited pairs."""

    def fit_on(pairs: Pairs) -> AlignmentMap:
        feed = fixed(pairs, budget.batch, seed)
        return fit(cut, start, feed, budget, validation=validation).map

    return fit_on


def temperature(logits: Float[Tensor, "n answer"], labels: Int[Tensor, " n"]) -> float:
    """Return the temperature T that makes the labels likeliest under softmax(logits / T).

    The mean loss is convex in 1/T, so its slope, E[z] under the softmax less z of the label, is
    brought to zero by bisection between 1e-4 and 1e4. One more pair, with the mean logits and any
    label equally likely, stands beside the n: without it n right answers would want T = 0, at
    which the first wrong one costs without bound.

    >>> logits, labels = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> round(temperature(logits, labels), 4)  # p = (3 + 1/2) / 5 = .7, so 2 / T = ln(.7 / .3)
    2.3604
    """
    numbers = logits.double()
    own = numbers.gather(1, labels[:, None])
    target = (own.sum() + numbers.mean()) / (len(labels) + 1)

    def rising(log_heat: float) -> bool:
        """Whether colder would be worse."""
        weights = (numbers * exp(-log_heat)).softmax(1)
        return bool((weights * numbers).sum(1).mean() > target)

    low, high = -_WIDEST, _WIDEST
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) else (low, middle)
    return exp((low + high) / 2)


def code_bits(cut: Cut, phi: AlignmentMap, pairs: Pairs, heat: float) -> float:
    """Return the bits of the pairs' labels under the network with the map: -log2 p(y*), summed."""
    total = 0.0
    for rows in torch.arange(len(pairs)).split(cut.chunk):
        part = pairs[rows]
        logits = _logits(cut, phi, part)
        total += float(cross_entropy(logits.double() / heat, part.labels, reduction="sum"))
    return total / log(2)


@torch.no_grad()
def _logits(
    cut: Cut, phi: AlignmentMap, pairs: Pairs, *, most: int | None = None
) -> Float[Tensor, "n answer"]:
    """Of all pairs, or of the first so many that there are about `most` numbers."""
    parts: list[Tensor] = []
    for rows in torch.arange(len(pairs)).split(min(cut.chunk, 512)):
        parts.append(swapped(cut, phi, pairs[rows]).cpu())
        if most and sum(part.numel() for part in parts) >= most:
            break
    return torch.cat(parts)
