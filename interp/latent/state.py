"""What a model holds between two latent steps: immutable, with a count of the steps consumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Node:
    """What one step feeds: `width` vectors a row, of which a row may use fewer.

    A latent slot has width 1. A step in text has as many vectors as its longest row has tokens.
    """

    vectors: Float[Tensor, "batch width d_model"]
    seen: Bool[Tensor, "batch width"]
    """False marks padding, which no position ever sees; it stands at the right."""

    @classmethod
    def slot(cls, vector: Float[Tensor, "batch d_model"]) -> Node:
        """A node of one vector a row."""
        return cls(vector[:, None], torch.ones(len(vector), 1, dtype=torch.bool).to(vector.device))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.vectors)

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Node:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.vectors.device)
        return Node(self.vectors[index], self.seen[index])

    def same(self, other: Node) -> Bool[Tensor, " batch"]:
        """For each row, whether both feed the very same bits."""
        if self.vectors.shape != other.vectors.shape:
            return torch.zeros(self.rows, dtype=torch.bool, device=self.vectors.device)
        vectors = ((self.vectors == other.vectors) | ~self.seen[..., None]).all(-1).all(-1)
        return vectors & (self.seen == other.seen).all(-1)

    def distance(self, other: Node) -> Float[Tensor, " batch"]:
        """Norm of the change a row, over all its vectors; padding counts as zero."""
        mine, theirs = _alike(self, other)
        return (mine - theirs).flatten(1).norm(dim=1)


def _alike(a: Node, b: Node) -> tuple[Tensor, Tensor]:
    """The vectors of two nodes at one width, padding as zeros."""
    width = max(a.vectors.shape[1], b.vectors.shape[1])
    return _widened(a, width), _widened(b, width)


def _widened(node: Node, width: int) -> Tensor:
    vectors = node.vectors * node.seen[..., None]
    return torch.nn.functional.pad(vectors, (0, 0, 0, width - vectors.shape[1]))


Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer, `[batch heads key d_head]`; nobody writes into them."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What later positions can see: keys and values, and which of them are real."""

    layers: Layers
    seen: Bool[Tensor, "batch key"]
    next: Int[Tensor, " batch"]
    """Logical position of the token to come; padding counts nothing."""
    slots: tuple[tuple[int, int], ...] = ()
    """First column and the one after the last, for each step consumed."""
    origin: Float[Tensor, "batch d_model"] | None = None
    """Output at the start marker, where a subject feeds it again."""

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Memory:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.seen.device)
        layers = tuple((k[index], v[index]) for k, v in self.layers)
        origin = None if self.origin is None else self.origin[index]
        return replace(
            self, layers=layers, seen=self.seen[index], next=self.next[index], origin=origin
        )

    def slot(self, step: int) -> Slot:
        """The keys and values that step `step` (from 1) left."""
        first, last = self.slots[step - 1]
        return Slot(
            tuple((k[:, :, first:last], v[:, :, first:last]) for k, v in self.layers),
            self.seen[:, first:last],
        )

    def with_slot(self, step: int, slot: Slot) -> Memory:
        """A copy in which step `step` left these keys and values; they must have its width."""
        first, last = self.slots[step - 1]
        layers = tuple(
            (_spliced(k, new_k, first, last), _spliced(v, new_v, first, last))
            for (k, v), (new_k, new_v) in zip(self.layers, slot.layers, strict=True)
        )
        seen = torch.cat([self.seen[:, :first], slot.seen, self.seen[:, last:]], 1)
        return replace(self, layers=layers, seen=seen)

    def hiding(self, step: int) -> Memory:
        """A copy in which no later position sees step `step`."""
        first, last = self.slots[step - 1]
        seen = self.seen.clone()
        seen[:, first:last] = False
        return replace(self, seen=seen)


@dataclass(frozen=True, eq=False)
class Slot:
    """The keys and values of one step."""

    layers: Layers
    """`[batch heads width d_head]`."""
    seen: Bool[Tensor, "batch width"]

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Slot:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.seen.device)
        return Slot(tuple((k[index], v[index]) for k, v in self.layers), self.seen[index])


def _spliced(whole: Tensor, part: Tensor, first: int, last: int) -> Tensor:
    return torch.cat([whole[:, :, :first], part, whole[:, :, last:]], 2)


@dataclass(frozen=True, eq=False)
class State:
    """A branch point: step `consumed + 1` is known and not yet consumed.

    `memory` is C_t, the cache after exactly `consumed` = t steps; `node` is h_{t+1}. A state holds
    no logits: whoever reads one out closes it first.
    """

    consumed: int
    node: Node
    memory: Memory

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.node.rows

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> State:
        """Some of the rows, in the order given; a row may come more than once."""
        return State(self.consumed, self.node.take(rows), self.memory.take(rows))

    def repeat(self, copies: int) -> State:
        """All rows, then all rows again, `copies` times in all."""
        return self if copies == 1 else self.take(list(range(self.rows)) * copies)


@dataclass(frozen=True, eq=False)
class Closed:
    """A state whose end marker has been fed: ready to be forced or decoded."""

    consumed: int
    hidden: Float[Tensor, "batch d_model"]
    """Output of the last position fed, which predicts the first token of the answer."""
    memory: Memory

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Closed:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.hidden.device)
        return Closed(self.consumed, self.hidden[index], self.memory.take(rows))
