"""Maps that learn which coordinates belong to a variable: DBM masks and Boundless DAS.

While they are fitted (`train()`) a coordinate belongs to a variable by a share m between 0 and 1
that depends on a temperature; afterwards (`eval()`, as they are built) it belongs to at most one
variable, or still by its share if asked. With features u = D h and D orthonormal rows,

    h* = h_b + sum over active v of (m_v * (D h_v - D h_b)) D

which is the sheet's `u* = (1 - m) u_b + m u_s` with the rest of the space left alone, so a state
swapped with itself keeps every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.alignment.maps import (
    AlignmentMap,
    Columns,
    completed,
    degrees_of_freedom,
    random_columns,
)
from interp.errors import InputError

Evaluation = Literal["hard", "soft"]


class Shared(AlignmentMap):
    """Features of which each variable has a share; `blocks` are the hard ones as they stand now.

    Args:
        d: width of the site.
        variables: their names, in the order of the pairs.
        evaluation: outside of fitting, `hard` gives a feature to one variable or to none, and
            `soft` keeps the shares of the last temperature.

    Raises:
        InputError: no variable, one twice, or more than coordinates.
    """

    linear = True
    exact = True

    def __init__(self, d: int, variables: Sequence[str], evaluation: Evaluation) -> None:
        if not 0 < len(set(variables)) == len(variables) <= d:
            raise InputError(
                f"Variables {list(variables)} at a site {d} wide: name 1 to {d}, each once."
            )
        if evaluation not in ("hard", "soft"):
            raise InputError(f"evaluation={evaluation!r}: write 'hard' or 'soft'.")
        super().__init__(d, {name: (i,) for i, name in enumerate(variables)})
        self.evaluation = evaluation

    @property
    def blocks(self) -> dict[str, tuple[int, ...]]:
        """The features that each variable has when the shares are made hard; may be none."""
        rows = self.hard().tolist()
        return {
            name: tuple(i for i, has in enumerate(row) if has)
            for name, row in zip(self.variables, rows, strict=True)
        }

    def directions(self) -> Float[Tensor, "k d"] | None:
        """Return the orthonormal rows that are the features; None where they are the neurons."""
        raise NotImplementedError

    def shares(self) -> Float[Tensor, "variable k"]:
        """Return how much of each feature each variable has, at the current temperature."""
        raise NotImplementedError

    def hard(self) -> Bool[Tensor, "variable k"]:
        """Return which features each variable has at temperature 0."""
        raise NotImplementedError

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the features, and behind them coordinates that complete them."""
        rows = self.directions()
        return states if rows is None else states @ completed(rows.T)

    def inverse(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the states of features."""
        rows = self.directions()
        return latents if rows is None else latents @ completed(rows.T).T

    def swap(
        self,
        base: Float[Tensor, "n d"],
        sources: Float[Tensor, "n variable d"],
        active: Bool[Tensor, "n variable"],
    ) -> Float[Tensor, "n d"]:
        """Move the features of active variables to their sources, as far as the shares go."""
        soft = self.training or self.evaluation == "soft"
        rows, shares = self.directions(), self.shares() if soft else self.hard()
        if rows is None and not soft:
            return _taken(base, sources, active, shares)
        moved = torch.zeros_like(base)
        for i in range(len(self.variables)):
            change = torch.where(active[:, i, None], sources[:, i] - base, 0.0)
            moved = moved + (
                change * shares[i] if rows is None else change @ rows.T * shares[i] @ rows
            )
        return base + moved


class Mask(Shared):
    """DBM: a learned mask over neurons, or over features of any orthonormal basis.

    For one variable m = sigmoid(a / T), and at T = 0 the features with a > 0. Several variables
    and the rest compete: m = softmax(0, a_1, a_2, .. / T) without its first entry, so no feature
    belongs to two at T = 0. T falls from 1 to 0.01 by equal ratios. Source: De Cao et al. 2020,
    arXiv:2004.14992 (masks); Davies et al. 2023, arXiv:2307.03637 (desiderata-based).

    Args:
        basis: orthonormal rows, such as those of `bases.pca`; None for neurons.
        sparsity: price in nats of one whole feature, for every variable.
    """

    family = "mask"
    HOT, COLD = 1.0, 0.01
    temperature: Tensor

    def __init__(
        self,
        d: int,
        variables: Sequence[str],
        *,
        basis: Float[Tensor, "k d"] | None = None,
        sparsity: float = 1e-3,
        evaluation: Evaluation = "hard",
    ) -> None:
        super().__init__(d, variables, evaluation)
        if not 0 <= sparsity < math.inf:
            raise InputError(f"sparsity={sparsity}: give a price of at least 0 nats a feature.")
        self.sparsity = sparsity
        if basis is not None and basis.shape[1] != d:
            raise InputError(
                f"The basis has directions of {basis.shape[1]} numbers and the site is {d} wide: "
                f"give rows of {d}."
            )
        self.columns = None if basis is None else Columns(basis.T).requires_grad_(False)
        k = d if basis is None else len(basis)
        self.wants = nn.Parameter(torch.zeros(len(variables), k))
        self.register_buffer("temperature", torch.tensor(self.HOT))
        self.eval()

    def directions(self) -> Float[Tensor, "k d"] | None:
        """Return the rows of the basis; None for neurons."""
        return None if self.columns is None else self.columns.weight.T

    def shares(self) -> Float[Tensor, "variable k"]:
        """Return m at the current temperature."""
        return (self._scores() / self.temperature).softmax(0)[1:]

    def hard(self) -> Bool[Tensor, "variable k"]:
        """Return the features that each variable wants most, and above 0."""
        scores = self._scores()
        numbers = torch.arange(1, len(scores), device=scores.device)
        return scores.argmax(0) == numbers[:, None]

    def penalty(self) -> Float[Tensor, ""]:
        """Return the price of all shares, in nats."""
        return self.sparsity * self.shares().sum()

    def anneal(self, progress: float) -> None:
        """Set the temperature for progress from 0 to 1."""
        self.temperature.fill_(self.HOT * (self.COLD / self.HOT) ** progress)

    @property
    def n_parameters(self) -> int:
        """One for each variable and feature; the basis is not fitted."""
        return self.wants.numel()

    def settings(self) -> dict[str, Any]:
        """Return the arguments beside d, variables and basis, and how many features it has."""
        features = None if self.columns is None else self.wants.shape[1]
        return {"sparsity": self.sparsity, "evaluation": self.evaluation, "features": features}

    def _scores(self) -> Tensor:
        return torch.cat([torch.zeros_like(self.wants[:1]), self.wants])


class Boundless(Shared):
    """Boundless DAS: a learned rotation, and how many of its coordinates each variable has.

    Variable j has coordinates from `b_(j-1)` to `b_j`, with b_0 = 0 and widths `beta_j d`:
    m_i = sigmoid((i - b_(j-1)) / T) sigmoid((b_j - i) / T). Outside of fitting, `hard` gives it
    those with b_(j-1) <= i < b_j. (Under `soft` coordinate 0, which stands on the boundary, is
    half exchanged at every temperature: so are the published formulas.) T falls in a straight line
    from `hot`, in coordinates, to 0.1; beta starts at one half, or at equal parts for more
    variables, and stays within [0.001, 1]. It is stored divided by 10, so that one step of Adam
    moves it ten times as far as the rotation, as in the source.
    Source: Wu et al. 2023, arXiv:2305.08809.

    Args:
        seed: of the starting rotation.
        price: nats for the whole space, for every variable.
        hot: the first temperature. The published 50 suits d = 4096; at a narrow site every share
            would be the same until the price has closed the boundaries, so None is 50 or d / 4,
            whichever is less.
    """

    family = "boundless"
    COLD = 0.1
    LEAST, RATE = 1e-3, 10.0
    temperature: Tensor

    def __init__(
        self,
        d: int,
        variables: Sequence[str],
        *,
        seed: int = 0,
        price: float = 1.0,
        hot: float | None = None,
        evaluation: Evaluation = "hard",
    ) -> None:
        super().__init__(d, variables, evaluation)
        if not 0 <= price < math.inf:
            raise InputError(f"price={price}: give at least 0 nats for the whole space.")
        self.hot = min(50.0, d / 4) if hot is None else hot
        if not self.COLD <= self.hot < math.inf:
            raise InputError(f"hot={hot}: the first temperature is at least {self.COLD}.")
        self.seed, self.price = seed, price
        self.turn = Columns(random_columns(d, d, seed))
        start = min(0.5, 1 / len(variables))
        self.widths = nn.Parameter(torch.full((len(variables),), start / self.RATE))
        self.register_buffer("temperature", torch.tensor(self.hot))
        self.eval()

    def beta(self) -> Float[Tensor, " variable"]:
        """Return the share of the space that each variable has."""
        return (self.widths * self.RATE).clamp(self.LEAST, 1.0)

    def directions(self) -> Float[Tensor, "d d"]:
        """Return the rotation's rows."""
        return self.turn.weight.T

    def shares(self) -> Float[Tensor, "variable d"]:
        """Return m at the current temperature."""
        places, low, high = self._edges()
        warm = self.temperature
        return torch.sigmoid((places - low) / warm) * torch.sigmoid((high - places) / warm)

    def hard(self) -> Bool[Tensor, "variable d"]:
        """Return the coordinates between each variable's boundaries."""
        places, low, high = self._edges()
        return (low <= places) & (places < high)

    def penalty(self) -> Float[Tensor, ""]:
        """Return the price of the shares of the space, in nats."""
        return self.price * self.beta().sum()

    def anneal(self, progress: float) -> None:
        """Set the temperature for progress from 0 to 1."""
        self.temperature.fill_(self.hot + (self.COLD - self.hot) * progress)

    @property
    def n_parameters(self) -> int:
        """Degrees of freedom of the rotation, and the boundaries."""
        return degrees_of_freedom(self.d, self.d) + len(self.variables)

    def settings(self) -> dict[str, Any]:
        """Return the arguments beside d and variables."""
        names = ("seed", "price", "hot", "evaluation")
        return {name: getattr(self, name) for name in names}

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates, and where each variable begins and ends among them."""
        ends = (self.beta() * self.d).cumsum(0).clamp(max=self.d)
        starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        return (
            torch.arange(self.d, dtype=ends.dtype, device=ends.device),
            starts[:, None],
            ends[:, None],
        )


def _taken(base: Tensor, sources: Tensor, active: Tensor, members: Tensor) -> Tensor:
    """Neurons of active variables from their sources, bit for bit."""
    new = base
    for i, mine in enumerate(members):
        new = torch.where(active[:, i, None] & mine, sources[:, i], new)
    return new
