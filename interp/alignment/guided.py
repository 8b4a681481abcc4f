"""Maps that are told, while they are fitted, which variables their blocks are named after.

Interventions alone teach a map nothing of a variable that matters only together with another one
(the pattern of a sentence, while its names are not found yet): the loss stays flat for thousands of
updates. Read-outs of coordinates have a gradient from the first update. They only steer: what is
scored are interventions, with the map alone, and nothing is claimed of the read-outs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.errors import InputError


class Guided(AlignmentMap):
    """A map with read-outs, whose cross-entropy is added to the loss of fitting.

    A linear read-out of each block predicts its variable, and one of the coordinates in no block
    predicts each value of `rest`. The penalty is the sum over read-outs, in nats, on states drawn
    at random; in eval mode there is none.

    Args:
        cut: the network at the site, on the training inputs.
        phi: the map; a copy is `self.phi`, which swaps exactly as the whole does.
        values: what an algorithm computes on each input (`table.values`), whole numbers or truth.
        rest: values that an interchange must leave alone, such as a variable's co-parents.
        batch: states in a penalty.
        seed: of the read-outs and of the states that are drawn.

    Raises:
        InputError: a value that is not there, coordinates for `rest` where blocks take all, a batch
            below 1, or a map without weights.
    """

    family = "guided"

    def __init__(
        self,
        cut: Cut,
        phi: AlignmentMap,
        values: Mapping[str, Shaped[Tensor, " input"]],
        rest: Sequence[str] = (),
        *,
        batch: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(phi.d, phi.blocks)
        wanted = (*phi.variables, *rest)
        lacking = [name for name in wanted if name not in values]
        if lacking:
            raise InputError(f"There is no value {lacking[0]!r}; there are: {', '.join(values)}.")
        if batch < 1:
            raise InputError(f"batch={batch}: give 1 or more.")
        if not any(weight.requires_grad for weight in phi.parameters()):
            raise InputError(f"{phi.family} has no weights to guide: choose a family with some.")
        self.linear, self.exact = phi.linear, phi.exact
        self.phi = copy.deepcopy(phi).to(cut.states.device, cut.states.dtype)
        self._places = _places(self.phi, cut.states[:1], rest)
        self._labels = [values[name].unique(return_inverse=True)[1] for name in wanted]
        self._states, self._batch, self._seed, self._drawn = cut.states, batch, seed, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = zip(self._places, self._labels, strict=True)
            reads = [nn.Linear(len(place), int(label.max()) + 1) for place, label in sizes]
        self.reads = nn.ModuleList(reads).to(cut.states.device, cut.states.dtype)

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n z"]:
        """Return the map's coordinates."""
        return self.phi(states)

    def inverse(self, latents: Float[Tensor, "n z"]) -> Float[Tensor, "n d"]:
        """Return the states of coordinates."""
        return self.phi.inverse(latents)

    def swap(
        self,
        base: Float[Tensor, "n d"],
        sources: Float[Tensor, "n variable d"],
        active: Bool[Tensor, "n variable"],
    ) -> Float[Tensor, "n d"]:
        """Interchange blocks as the map does."""
        return self.phi.swap(base, sources, active)

    def anneal(self, progress: float) -> None:
        """Tell the map how far fitting is."""
        self.phi.anneal(progress)

    def penalty(self) -> Float[Tensor, ""]:
        """Return the map's own penalty and, in training, the loss of the read-outs."""
        own = self.phi.penalty()
        if not self.training:
            return own
        self._drawn += 1
        stream = torch.Generator().manual_seed(self._seed * 1_000_003 + self._drawn)
        rows = torch.randint(len(self._states), (self._batch,), generator=stream)
        latents = self.phi(self._states[rows])
        parts = zip(self.reads, self._places, self._labels, strict=True)
        losses = [
            cross_entropy(read(latents[:, place]), label[rows].to(latents.device))
            for read, place, label in parts
        ]
        return own + torch.stack(losses).sum()

    def learn(self, steps: int, *, learning_rate: float = 2e-3) -> Guided:
        """Fit the read-outs and the map to them alone, as a start; return the map itself.

        Raises:
            InputError: steps below 1.
        """
        if steps < 1:
            raise InputError(f"steps={steps}: give 1 or more.")
        optimiser = torch.optim.Adam(self.parameters(), lr=learning_rate)
        self.train()
        for _ in range(steps):
            optimiser.zero_grad()
            self.penalty().backward()
            optimiser.step()
        return self.eval()


def _places(phi: AlignmentMap, state: Tensor, rest: Sequence[str]) -> list[list[int]]:
    """The coordinates that each variable is read from, then those of each value of the rest."""
    with torch.no_grad():
        width = phi(state).shape[1]
    taken = {i for block in phi.blocks.values() for i in block}
    free = [i for i in range(width) if i not in taken]
    if rest and not free:
        raise InputError(
            f"The blocks of the map take all {width} coordinates, and {rest[0]!r} needs some: "
            "choose a smaller size."
        )
    return [*(list(block) for block in phi.blocks.values()), *(free for _ in rest)]
