"""Pairs for interchange interventions: a base, a source for each variable, and what should follow.

A `Table` holds distinct inputs once, with what an algorithm computes on them; `Pairs` are rows of
it by number, so a network reads every input once however many pairs it is part of. Splits are by
input: two tables that are drawn apart share none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from interp.causal_models import CausalModel
from interp.errors import InputError


@dataclass(frozen=True, eq=False)
class Pairs:
    """Interventions: rows of a table, which variables are interchanged, and the right answer."""

    variables: tuple[str, ...]
    base: Int[Tensor, " pair"]
    sources: Int[Tensor, "pair variable"]
    """The row of each variable's source; of no meaning where it is not active."""
    active: Bool[Tensor, "pair variable"]
    labels: Int[Tensor, " pair"]
    """What the algorithm outputs under the intervention: y*."""
    base_labels: Int[Tensor, " pair"]
    """What it outputs on the base alone."""
    inputs: str | None = None
    """The hash of the table's inputs (`inputs_hash`): on others these rows mean nothing."""

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: Tensor | slice) -> Pairs:
        """Return some of the pairs."""
        return Pairs(
            self.variables,
            self.base[rows],
            self.sources[rows],
            self.active[rows],
            self.labels[rows],
            self.base_labels[rows],
            self.inputs,
        )

    @property
    def sensitive(self) -> Bool[Tensor, " pair"]:
        """Pairs whose answer the intervention changes; on the others doing nothing scores."""
        return self.labels != self.base_labels

    def shuffled(self, seed: int) -> Pairs:
        """Return the pairs with labels permuted among those that interchange the same variables."""
        stream = torch.Generator().manual_seed(seed)
        kinds = (self.active.long() * 2 ** torch.arange(self.active.shape[1])).sum(1)
        labels = self.labels.clone()
        for kind in kinds.unique():
            rows = (kinds == kind).nonzero().flatten()
            labels[rows] = self.labels[rows[torch.randperm(len(rows), generator=stream)]]
        return replace(self, labels=labels)

    def shuffled_sources(self, seed: int) -> Pairs:
        """Return the pairs with each other's sources and their own labels."""
        stream = torch.Generator().manual_seed(seed)
        return replace(self, sources=self.sources[torch.randperm(len(self), generator=stream)])


Draw = Callable[["Table", int, torch.Generator], tuple[Tensor, Tensor, Tensor]]
"""Draws so many pairs from a table: base `[pair]`, sources and active `[pair variable]`."""


@dataclass(frozen=True, eq=False)
class Table:
    """Distinct inputs, what an algorithm computes on each, and how pairs of them are drawn."""

    algorithm: CausalModel
    variables: tuple[str, ...]
    """The inner variables that are interchanged, in the order of a map's blocks."""
    inputs: Shaped[Tensor, "input ..."]
    """As the network reads them: vectors, or token ids."""
    values: Mapping[str, Tensor]
    """Every variable of the algorithm on every input."""
    draw: Draw = field(repr=False)
    """The recipe of pairs."""

    def __post_init__(self) -> None:
        self.algorithm.require(self.variables)
        for name in self.variables:
            rows = self.values[name]
            if len(rows) != len(self.inputs):
                raise InputError(
                    f"{self.algorithm.name} has {len(rows)} values of {name!r} for "
                    f"{len(self.inputs)} inputs: give one an input, as its run returns them."
                )
            if bool((rows == rows[:1]).all()):
                raise InputError(
                    f"No input varies {name!r} of {self.algorithm.name}: on all {len(rows)} it is "
                    "the same, so no interchange of it changes anything; draw other inputs."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def hash(self) -> str:
        """The hash of the inputs, which pairs carry and a cut compares."""
        return inputs_hash(self.inputs)

    def at(self, rows: Int[Tensor, " row"]) -> Table:
        """Return the table of some inputs, in the order given.

        Raises:
            InputError: on these no input varies a variable.
        """
        values = {name: each[rows] for name, each in self.values.items()}
        return replace(self, inputs=self.inputs[rows], values=values)

    def pairs(self, n: int, seed: int) -> Pairs:
        """Draw pairs; the same seed gives the same ones.

        Raises:
            InputError: n is below 1.
        """
        if n < 1:
            raise InputError(f"{n} pairs: ask for at least one.")
        stream = torch.Generator().manual_seed(seed)
        base, sources, active = self.draw(self, n, stream)
        return self.label(base, sources, active)

    def label(
        self,
        base: Int[Tensor, " pair"],
        sources: Int[Tensor, "pair variable"],
        active: Bool[Tensor, "pair variable"],
    ) -> Pairs:
        """Return given interventions with what the algorithm says of them.

        A table of a rival algorithm on the same inputs labels the same interventions its own way.
        """
        labels = self.algorithm.interchange(self.values, base, sources, active, self.variables)
        own = self.values[self.algorithm.output][base].long()
        return Pairs(self.variables, base, sources, active, labels.long(), own, self.hash)


def distinguishing(
    table: Table, rival: Table, n: int, seed: int, *, tries: int = 20
) -> tuple[Pairs, Pairs]:
    """Search for interventions on which two algorithms disagree, and return both readings of them.

    Block i is variable i of each algorithm. The pairs are drawn by the first table's recipe.

    Raises:
        InputError: the tables differ in inputs or in their number of variables, or too few such
            pairs came up in `tries` draws of 4 n.
    """
    if len(table.variables) != len(rival.variables) or not torch.equal(table.inputs, rival.inputs):
        raise InputError(
            f"{table.algorithm.name} and {rival.algorithm.name} must stand on the same inputs and "
            "have equally many variables, or no one intervention is read by both."
        )
    found: list[tuple[Pairs, Pairs]] = []
    for attempt in range(tries):
        pairs = table.pairs(4 * n, seed * 1_000_003 + attempt)
        other = rival.label(pairs.base, pairs.sources, pairs.active)
        differ = pairs.labels != other.labels
        found.append((pairs[differ], other[differ]))
        if sum(len(part) for part, _ in found) >= n:
            break
    else:
        raise InputError(
            f"Only {sum(len(part) for part, _ in found)} of {n} distinguishing pairs came up: "
            f"{table.algorithm.name} and {rival.algorithm.name} may be one algorithm under these "
            "interventions; choose another rival, or ask for fewer."
        )
    mine, theirs = (concatenated([both[side] for both in found])[:n] for side in (0, 1))
    return mine, theirs


def concatenated(parts: Sequence[Pairs]) -> Pairs:
    """Return several sets of pairs over one table as one.

    Raises:
        InputError: no set, or sets that interchange different variables.
    """
    kinds = sorted({part.variables for part in parts})
    if len(kinds) != 1:
        raise InputError(
            f"{len(parts)} sets of pairs interchange {[list(kind) for kind in kinds]}: give at "
            "least one set, and all of the same variables."
        )
    names = ("base", "sources", "active", "labels", "base_labels")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    every = {part.inputs for part in parts}
    return Pairs(parts[0].variables, **joined, inputs=every.pop() if len(every) == 1 else None)


def inputs_hash(inputs: Shaped[Tensor, "input ..."]) -> str:
    """Return a hash of inputs by value, whatever their precision was when they were copied.

    >>> inputs_hash(torch.tensor([[0.5]])) == inputs_hash(torch.tensor([[0.5]]).double())
    True
    """
    wide = inputs.double() if inputs.is_floating_point() else inputs.long()
    data = wide.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def require_apart(first: Table, second: Table) -> None:
    """Refuse two tables that share an input: a split by pairs leaks activations.

    Raises:
        InputError: an input stands in both, or the inputs differ in width.
    """
    one, two = first.inputs.flatten(1), second.inputs.flatten(1)
    if one.shape[1] != two.shape[1]:
        raise InputError(
            f"The splits have inputs of {one.shape[1]} and {two.shape[1]} numbers: encode both "
            "alike, or a leak cannot be seen."
        )
    dtype = torch.promote_types(one.dtype, two.dtype)
    seen = set(_rows_as_bytes(one, dtype))
    shared = sum(row in seen for row in _rows_as_bytes(two, dtype))
    if shared:
        raise InputError(
            f"{shared} inputs of the test split also stand in the training split: split by input, "
            "not by pair, and draw both apart."
        )


def subsets(n: int, n_variables: int, stream: torch.Generator) -> Bool[Tensor, "n variable"]:
    """Draw which variables are active: every set of at least one is equally likely."""
    codes = torch.randint(1, 2**n_variables, (n, 1), generator=stream)
    return (codes >> torch.arange(n_variables)) % 2 == 1


def uniform(
    table: Table, n: int, stream: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, "n variable"], Bool[Tensor, "n variable"]]:
    """The plain recipe: any base, any source for each variable, any set of active variables."""
    k = len(table.variables)
    base = torch.randint(0, len(table), (n,), generator=stream)
    sources = torch.randint(0, len(table), (n, k), generator=stream)
    return base, sources, subsets(n, k, stream)


def redrawn(
    propose: Callable[[int], Tensor],
    accepts: Callable[[Tensor, Tensor], Bool[Tensor, " n"]],
    n: int,
    *,
    tries: int = 1000,
) -> Tensor:
    """Draw n things by rejection: what is not accepted is drawn again, all of it at once.

    Args:
        propose: draws so many.
        accepts: told k places among the n and a draw for each; says which of them stay.

    Raises:
        InputError: some are still refused after `tries` draws of each.
    """
    drawn, left, tried = propose(n), torch.arange(n), 1
    left = left[~accepts(left, drawn)]
    while len(left) and tried < tries:
        copies = min(16, n // len(left))  # few are left: several at once, of which the first stays
        new = propose(len(left) * copies)
        fits = accepts(left.repeat_interleave(copies), new).view(-1, copies)
        first = fits.int().argmax(1) + torch.arange(0, len(new), copies)
        drawn[left] = new[first]
        left, tried = left[~fits.any(1)], tried + copies
    if len(left):
        raise InputError(
            f"{len(left)} of {n} draws were refused {tried} times: the inputs lack what the recipe "
            "asks for, so draw more of them."
        )
    return drawn


def _rows_as_bytes(rows: Tensor, dtype: torch.dtype) -> Sequence[Hashable]:
    array = np.ascontiguousarray((rows.to(dtype) + 0).cpu().numpy())  # + 0: there is one zero
    row = np.dtype((np.void, array.dtype.itemsize * array.shape[1]))
    return array.view(row).ravel().tolist()
