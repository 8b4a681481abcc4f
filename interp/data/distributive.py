"""The distributive law: ((x1=x2) and (x3=x4)) or ((x3=x4) and (x5=x6)), and its other side.

An input is six vectors of four numbers. Two algorithms compute the same label: `and_or_and` through
the two conjunctions, `and_or` through x3=x4 and "x1=x2 or x5=x6".

Source: Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Draw, Table, redrawn, subsets
from interp.data.equality import SIZE, same

INPUTS = ("x1", "x2", "x3", "x4", "x5", "x6")

Truth = Bool[Tensor, " input"]
Combine = Callable[[Tensor, Tensor], Tensor]


def _both(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Truth:
    return same(a, b) & same(c, d)


def _either(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Truth:
    return same(a, b) | same(c, d)


AND_OR_AND = CausalModel(
    "and_or_and",
    INPUTS,
    (
        Variable("left_and", ("x1", "x2", "x3", "x4"), _both),
        Variable("right_and", ("x3", "x4", "x5", "x6"), _both),
        Variable("label", ("left_and", "right_and"), torch.logical_or),
    ),
    "label",
)
"""Computes both conjunctions, then whether one of them holds."""

AND_OR = CausalModel(
    "and_or",
    INPUTS,
    (
        Variable("middle", ("x3", "x4"), same),
        Variable("outer", ("x1", "x2", "x5", "x6"), _either),
        Variable("label", ("middle", "outer"), torch.logical_and),
    ),
    "label",
)
"""Factors out the equality that both conjunctions share."""

ALGORITHMS: Mapping[str, CausalModel] = {model.name: model for model in (AND_OR_AND, AND_OR)}
RIVALS: Mapping[str, tuple[str, ...]] = {"and_or_and": ("and_or",), "and_or": ("and_or_and",)}


def draw(n: int, stream: torch.Generator) -> dict[str, Float[Tensor, "n size"]]:
    """Draw n inputs, every number uniform in [-1/2, 1/2): half of the labels are true.

    Each label is a fair coin, and then all combinations of equalities that give it are equally
    likely: what remains of fair equalities when inputs are redrawn until their label is wanted.
    """
    rows = torch.rand(n, len(INPUTS), SIZE, generator=stream) - 0.5
    holds, fails = (_equalities(label=label) for label in (True, False))
    positive = holds[torch.randint(0, len(holds), (n,), generator=stream)]
    negative = fails[torch.randint(0, len(fails), (n,), generator=stream)]
    label = torch.rand(n, 1, generator=stream) < 0.5
    equal = torch.where(label, positive, negative)[..., None]
    rows[:, 1::2] = torch.where(equal, rows[:, ::2], rows[:, 1::2])
    return dict(zip(INPUTS, rows.unbind(1), strict=True))


def flips(combine: Combine) -> Draw:
    """Return the recipe for an algorithm whose label combines its two variables.

    Which variables are active, one or both, is even. A fair coin says whether the label is to flip.
    Where it is, bases that no source could flip are drawn again. Sources are then drawn again until
    the label does as it was told. So half of the pairs flip, but bases that cannot flip are missing
    from that half: a constant answer scores 7/12 on `and_or_and` and .576 on `and_or`.
    """

    def recipe(
        table: Table, n: int, stream: torch.Generator
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, "n 2"], Bool[Tensor, "n 2"]]:
        first, second = (table.values[name] for name in table.variables)
        active = subsets(n, 2, stream)
        flip = torch.rand(n, generator=stream) < 0.5

        def rows(*shape: int) -> Tensor:
            return torch.randint(0, len(table), shape, generator=stream)

        def base_fits(places: Tensor, base: Tensor) -> Tensor:
            return ~flip[places] | _can_flip(combine, first[base], second[base], active[places])

        base = redrawn(rows, base_fits, n)
        label = combine(first[base], second[base])

        def sources_fit(places: Tensor, sources: Tensor) -> Tensor:
            used = torch.where(active[places], sources, base[places, None])
            new = combine(first[used[:, 0]], second[used[:, 1]])
            return (new != label[places]) == flip[places]

        return base, redrawn(lambda k: rows(k, 2), sources_fit, n), active

    return recipe


RECIPES: Mapping[str, Draw] = {
    "and_or_and": flips(torch.logical_or),
    "and_or": flips(torch.logical_and),
}


def _equalities(*, label: bool) -> Bool[Tensor, "combination 3"]:
    """The truth values of the three equalities that give a label."""
    combinations = [
        (left, middle, right)
        for left, middle, right in product((False, True), repeat=3)
        if (middle and (left or right)) is label
    ]
    return torch.tensor(combinations)


def _can_flip(
    combine: Combine, first: Truth, second: Truth, active: Bool[Tensor, "input 2"]
) -> Truth:
    """Whether some values of the active variables change the label."""
    label, can = combine(first, second), torch.zeros_like(first)
    for one, two in product((False, True), repeat=2):
        new = combine(first.where(~active[:, 0], one), second.where(~active[:, 1], two))
        can |= new != label
    return can
