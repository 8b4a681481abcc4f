"""Hierarchical equality: do two pairs of vectors agree on whether they are equal?

An input is four vectors x1..x4 of four numbers; the label is (x1 = x2) = (x3 = x4), and each of the
two equalities is true half of the time. Four algorithms compute it through other variables.

Inputs come in couples of neighbouring rows, which some pairs need: x1 of an odd row is x2 of the
row before it, and x3 of an odd row is x4 of the row three before it. Beyond that every row is
drawn alike, so all algorithms share these inputs and each row is as good as any other.

Source: Geiger et al. 2023, arXiv:2303.02536; Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Draw, Table, uniform
from interp.errors import InputError

SIZE = 4
"""Numbers in a vector."""
INPUTS = ("x1", "x2", "x3", "x4")

Vectors = Shaped[Tensor, "input size"]
Truth = Bool[Tensor, " input"]


def same(a: Vectors, b: Vectors) -> Truth:
    """Return in which rows two vectors are equal in every number.

    >>> same(torch.tensor([[1, 2], [1, 2]]), torch.tensor([[1, 2], [1, 3]])).tolist()
    [True, False]
    """
    return (a == b).all(-1)


def agree(left: Truth, right: Truth) -> Truth:
    """Return in which rows two truth values are the same."""
    return left == right


def copied(vector: Vectors) -> Vectors:
    """Return the vector: a variable that holds an argument."""
    return vector


BOTH_EQUALITY = CausalModel(
    "both_equality",
    INPUTS,
    (
        Variable("left", ("x1", "x2"), same),
        Variable("right", ("x3", "x4"), same),
        Variable("label", ("left", "right"), agree),
    ),
    "label",
)
"""Computes both equalities, then compares them."""

LEFT_EQUALITY = CausalModel(
    "left_equality",
    INPUTS,
    (
        Variable("left", ("x1", "x2"), same),
        Variable("label", ("left", "x3", "x4"), lambda left, x3, x4: left == same(x3, x4)),
    ),
    "label",
)
"""Holds the first equality only."""

FIRST_ARGUMENT = CausalModel(
    "first_argument",
    INPUTS,
    (
        Variable("first", ("x1",), copied),
        Variable(
            "label",
            ("first", "x2", "x3", "x4"),
            lambda first, x2, x3, x4: same(first, x2) == same(x3, x4),
        ),
    ),
    "label",
)
"""Holds x1 and does everything else at once: it must carry a whole vector, not one bit."""

FIRST_ARGUMENTS = CausalModel(
    "first_arguments",
    INPUTS,
    (
        Variable("first", ("x1",), copied),
        Variable("third", ("x3",), copied),
        Variable(
            "label",
            ("first", "x2", "third", "x4"),
            lambda first, x2, third, x4: same(first, x2) == same(third, x4),
        ),
    ),
    "label",
)
"""Holds the first argument of each equality: the rival of `both_equality` with as many variables.

It is ours; the papers test `first_argument` alone.
"""

ALGORITHMS: Mapping[str, CausalModel] = {
    model.name: model for model in (BOTH_EQUALITY, LEFT_EQUALITY, FIRST_ARGUMENT, FIRST_ARGUMENTS)
}
RIVALS: Mapping[str, tuple[str, ...]] = {
    "both_equality": ("first_arguments",),
    "left_equality": ("first_argument",),
    "first_argument": ("left_equality",),
    "first_arguments": ("both_equality",),
}
"""Those with as many variables. `left_equality` is a part of `both_equality`, not its rival."""


def draw(n: int, stream: torch.Generator) -> dict[str, Float[Tensor, "n size"]]:
    """Draw n inputs, every number uniform in [-1/2, 1/2), in the couples that the module tells of.

    >>> inputs = draw(6, torch.Generator().manual_seed(0))
    >>> bool((inputs["x1"][1::2] == inputs["x2"][::2]).all())
    True
    """
    rows = torch.rand(n, len(INPUTS), SIZE, generator=stream) - 0.5
    equal = torch.rand(n, 2, 1, generator=stream) < 0.5
    even, odd = rows[::2], rows[1::2]
    _tie(even, equal[::2])
    odd[:, 0] = even[: len(odd), 1]
    odd[:, 2] = even[: len(odd), 3].roll(1, 0)
    _tie(odd, equal[1::2])
    return dict(zip(INPUTS, rows.unbind(1), strict=True))


def from_partners(
    table: Table, n: int, stream: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, "n variable"], Bool[Tensor, "n variable"]]:
    """The recipe of `first_argument` and `first_arguments`.

    Half of the sources hold, as their own first argument, the second argument of the base (x1 there
    is x2 here; x3 there is x4 here), so that the equality comes out true; the others are any input.

    Raises:
        InputError: the table has under 4 inputs, or they do not stand in the order of `draw`.
    """
    if len(table) < 4:
        raise InputError(
            f"{table.algorithm.name} on {len(table)} inputs: it needs at least 4, because sources "
            "are built for bases."
        )
    _, sources, active = uniform(table, n, stream)
    base = 2 * torch.randint(0, len(table) // 2 - 1, (n,), generator=stream)
    built = torch.stack([base + 1, base + 3], 1)
    for i, (mine, its) in enumerate((("x1", "x2"), ("x3", "x4"))):
        if not torch.equal(table.values[mine][built[:, i]], table.values[its][base]):
            raise InputError(
                f"{table.algorithm.name}: {mine} of the sources built for bases is not their "
                f"{its}: keep the inputs in the order in which the task drew them."
            )
    take = torch.rand(sources.shape, generator=stream) < 0.5
    return base, torch.where(take, built[:, : sources.shape[1]], sources), active


RECIPES: Mapping[str, Draw] = {
    "both_equality": uniform,
    "left_equality": uniform,
    "first_argument": from_partners,
    "first_arguments": from_partners,
}
"""Any source has each of its equalities true half of the time, whatever the base is."""


def _tie(rows: Float[Tensor, "n 4 size"], equal: Bool[Tensor, "n 2 1"]) -> None:
    """Make x2 equal x1 and x4 equal x3, in place, where asked."""
    rows[:, 1::2] = torch.where(equal, rows[:, ::2], rows[:, 1::2])
