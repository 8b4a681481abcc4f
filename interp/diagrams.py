"""Discrete causal diagrams: what `do` means, by surgery on a diagram of boxes.

A diagram is a list of boxes, parents first. A box reads the values of its parents and emits a value
of its own node, with the probabilities of its table. `Diagram.cut` replaces one box by "discard the
inputs, emit a uniform state" and leaves every other box alone; `Diagram.do` is a cut followed by a
point state. Where a hidden common cause stands behind two nodes, `front_door` finds the effect from
the joint distribution of what is seen.

Source: Jacobs, Kissinger and Zanasi 2018, Causal inference by string diagram surgery,
arXiv:1811.08338. A run-time intervention on a network must give the same distributions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from interp.errors import InputError, UndefinedEffectError, nearest

MAX_ENTRIES = 2**24
"""A joint distribution may have so many entries (128 MiB)."""

SUM_TOLERANCE = 1e-9
"""A row of probabilities may miss one by so much: rounding of a long sum, nothing more."""


@dataclass(frozen=True, eq=False)
class Box:
    """One node: the probabilities of its values, given the values of its parents.

    Raises:
        InputError: the table has not one axis for each parent and one for the node, a parent is
            named twice, or a row is no probability distribution.

    >>> Box("wet", ("rain",), [[0.9, 0.1], [0.2, 0.8]]).size
    2
    """

    name: str
    parents: tuple[str, ...]
    table: ArrayLike
    """`[*parents, value]`, kept as a read-only float64 array; the last axis sums to one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))
        object.__setattr__(self, "table", _read_only(self.table, f"The table of {self.name!r}"))
        if len(set(self.parents) | {self.name}) != len(self.parents) + 1:
            raise InputError(
                f"{self.name!r} has parents {self.parents}: name each parent once, never the node."
            )
        if self.array.ndim != len(self.parents) + 1 or 0 in self.array.shape:
            raise InputError(
                f"The table of {self.name!r} has shape {list(self.array.shape)}: give one axis for "
                f"each of the {len(self.parents)} parents and a last one for the node's values."
            )
        _require_rows(self.array, f"The table of {self.name!r}")

    @property
    def array(self) -> Float[np.ndarray, "*parents value"]:
        """The table as an array."""
        return self.table  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """How many values the node has."""
        return self.array.shape[-1]


@dataclass(frozen=True, eq=False)
class Diagram:
    """Boxes in an order in which every parent stands before its children.

    Raises:
        InputError: a node appears twice, a parent does not stand before its child or has another
            number of values than the child's table, or the joint would have too many entries.

    >>> rain = Box("rain", (), [0.75, 0.25])
    >>> wet = Box("wet", ("rain",), [[1.0, 0.0], [0.5, 0.5]])
    >>> Diagram((rain, wet)).marginal("wet").tolist()
    [0.875, 0.125]
    >>> Diagram((rain, wet)).do("wet", 1).marginal("rain").tolist()
    [0.75, 0.25]
    """

    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", tuple(self.boxes))
        sizes: dict[str, int] = {}
        for box in self.boxes:
            if box.name in sizes:
                raise InputError(f"Node {box.name!r} has two boxes: give each node one.")
            for parent, values in zip(box.parents, box.array.shape, strict=False):
                _require_parent(box, parent, values, sizes)
            sizes[box.name] = box.size
        if not sizes or prod(max(2, size) for size in sizes.values()) > MAX_ENTRIES:
            raise InputError(
                f"A diagram of {len(sizes)} nodes with {list(sizes.values())} values: give at "
                f"least one node, and at most {MAX_ENTRIES} joint values (a node of one value "
                "counts two)."
            )

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes, in the order of the boxes."""
        return tuple(box.name for box in self.boxes)

    def box(self, node: str) -> Box:
        """Return a node's box.

        Raises:
            InputError: the diagram has no such node.
        """
        for box in self.boxes:
            if box.name == node:
                return box
        raise InputError(
            f"The diagram has no node {node!r}; its nodes: {', '.join(self.nodes)}."
            f"{nearest(node, self.nodes)}"
        )

    def joint(self) -> Float[np.ndarray, "*nodes"]:
        """Return the probability of every combination of values, one axis for each node."""
        joint: NDArray[np.float64] = np.ones(())
        for axis, box in enumerate(self.boxes):
            parents = [self.nodes.index(parent) for parent in box.parents]
            before = list(range(axis))
            joint = np.einsum(joint, before, box.array, [*parents, axis], [*before, axis])  # type: ignore
        return joint

    def marginal(self, *nodes: str) -> Float[np.ndarray, "*nodes"]:
        """Return the distribution of some nodes: axes in the order asked for, the rest summed out.

        Raises:
            InputError: no node, a node named twice, or one that the diagram does not have.
        """
        wanted = [self.nodes.index(self.box(node).name) for node in nodes]
        if not wanted or len(set(wanted)) != len(wanted):
            raise InputError(f"The marginal of {nodes}: name at least one node, and each once.")
        return np.einsum(self.joint(), list(range(len(self.boxes))), wanted)

    def conditional(
        self, nodes: str | Iterable[str], given: Mapping[str, int]
    ) -> Float[np.ndarray, "*nodes"]:
        """Return the distribution of some nodes among the worlds where others have given values.

        This is seeing, not doing: it also tells of the causes of what is seen.

        Raises:
            InputError: a node or value that the diagram does not have, or one asked for and given.
            UndefinedEffectError: the given values have probability zero.
        """
        wanted = (nodes,) if isinstance(nodes, str) else tuple(nodes)
        values = tuple(self._value(node, value) for node, value in given.items())
        both = self.marginal(*given, *wanted)[values]
        total = both.sum()
        if total == 0:
            raise UndefinedEffectError(
                f"{dict(given)} has probability 0, so nothing can be said of {', '.join(wanted)} "
                "given it: condition on what can happen, or set it with do."
            )
        return both / total

    def cut(self, node: str) -> Diagram:
        """Return the diagram with one box replaced: its inputs discarded, a uniform state emitted.

        Every other box is left alone. Source: arXiv:1811.08338.

        Raises:
            InputError: the diagram has no such node.
        """
        size = self.box(node).size
        return self._with(Box(node, (), np.full(size, 1 / size)))

    def do(self, node: str, value: int) -> Diagram:
        """Return the diagram in which a node is forced to a value: a cut, then a point state.

        Raises:
            InputError: the diagram has no such node, or the node no such value.
        """
        point = np.zeros(self.box(node).size)
        point[self._value(node, value)] = 1.0
        return self.cut(node)._with(Box(node, (), point))

    def _with(self, new: Box) -> Diagram:
        boxes = tuple(new if box.name == new.name else box for box in self.boxes)
        return replace(self, boxes=boxes)

    def _value(self, node: str, value: int) -> int:
        size = self.box(node).size
        if isinstance(value, bool) or not 0 <= value < size:
            raise InputError(f"{node!r} has no value {value}; its values are 0 to {size - 1}.")
        return value


def front_door(joint: ArrayLike) -> Float[np.ndarray, "a c"]:
    """Return `P(c | do a)` from what is seen, although a hidden cause stands behind a and c.

    `joint` is `P(a, b, c)`, axes in that order, where a acts on c only through b and nothing hidden
    stands behind b: `P(c | do a) = sum_b P(b | a) sum_a' P(a') P(c | a', b)`. That the world has
    this shape cannot be read off the joint; it is assumed. Source: Pearl 1995, Biometrika 82;
    arXiv:1811.08338, where the joint is a comb.

    Raises:
        InputError: the joint has not three axes, or is no probability distribution.
        UndefinedEffectError: some (a, b) never happens, so `P(c | a, b)` is not known there.
    """
    seen = _read_only(joint, "The joint")
    if seen.ndim != 3:
        raise InputError(
            f"The joint has shape {list(seen.shape)}: give P(a, b, c), three axes in that order."
        )
    _require_rows(seen.reshape(-1), "The joint")
    pairs = seen.sum(2)
    if np.any(pairs == 0):
        a, b = np.argwhere(pairs == 0)[0]
        raise UndefinedEffectError(
            f"a={a} with b={b} has probability 0, so P(c | a, b) is unknown there: the front door "
            "needs every (a, b) to happen; merge values, or observe more."
        )
    of_a = pairs.sum(1)
    b_given_a, c_given_ab = pairs / of_a[:, None], seen / pairs[..., None]
    return b_given_a @ np.einsum("a,abc->bc", of_a, c_given_ab)


def _require_parent(box: Box, parent: str, values: int, sizes: Mapping[str, int]) -> None:
    if parent not in sizes:
        raise InputError(
            f"{box.name!r} reads {parent!r}, which has no box before it: put parents first, "
            f"without a cycle.{nearest(parent, sizes)}"
        )
    if sizes[parent] != values:
        raise InputError(
            f"The table of {box.name!r} has {values} rows for {parent!r}, which has "
            f"{sizes[parent]} values: give one row a value."
        )


def _read_only(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must hold numbers in a full grid: {error}.") from error
    array.setflags(write=False)
    return array


def _require_rows(table: NDArray[np.float64], what: str) -> None:
    if not np.all(np.isfinite(table)) or np.any(table < 0):
        raise InputError(f"{what} holds a negative or infinite entry: give probabilities.")
    off = np.abs(table.sum(-1) - 1)
    if off.size == 0 or off.max() > SUM_TOLERANCE:
        total = float(table.sum(-1).flat[int(off.argmax())]) if off.size else 0.0
        raise InputError(f"{what} sums to {total:.6g} along its last axis: it must sum to 1.")
