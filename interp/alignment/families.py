"""Any alignment map by the name of its family, with blocks of equal size.

`revnet-10x16` is the published coupling map of 10 blocks with 16 hidden units, `coupling-10x16` the
safe one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp.alignment.couplings import Coupling
from interp.alignment.fixed import DifferenceOfMeans, Pca, RandomSubspace, SquareRotation, principal
from interp.alignment.maps import AlignmentMap, Identity, Rotation, consecutive_blocks
from interp.alignment.masks import Boundless, Mask
from interp.errors import InputError, nearest

FAMILIES: Mapping[str, str] = {
    "identity": "neurons in order; `interp.alignment.greedy` searches for better ones",
    "mask": "a learned mask over neurons (DBM)",
    "mask-pca": "a learned mask over principal directions (DBM)",
    "pca": "principal directions, the leading ones first",
    "difference": "one difference of means for each variable",
    "random": "a random subspace of the same rank",
    "orthogonal": "a learned rotation of the rank that is needed (DAS)",
    "square": "a learned rotation of the whole space (DAS as published)",
    "boundless": "a learned rotation and learned sizes (Boundless DAS)",
    "revnet-LxH": "L coupling blocks of H hidden units, as published",
    "coupling-LxH": "the same, starting at the identity, with permuted halves",
}
"""Names and what they mean; L and H stand for numbers."""
COUPLINGS: Mapping[str, Literal["paper", "safe"]] = {"revnet": "paper", "coupling": "safe"}
NEEDS_STATES = ("mask-pca", "pca", "difference")


def build(
    family: str,
    d: int,
    variables: Sequence[str],
    size: int,
    *,
    seed: int = 0,
    states: Float[Tensor, "n d"] | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> AlignmentMap:
    """Return a map of a family, before fitting.

    Args:
        family: one of `FAMILIES`, such as `orthogonal` or `revnet-10x16`.
        d: width of the site.
        variables: names in the order of the pairs.
        size: coordinates for each variable. `mask`, `mask-pca` and `boundless` choose their own;
            a difference of means has 1.
        seed: of whatever is drawn.
        states: those of training inputs, for `pca`, `mask-pca` and `difference`.
        values: each variable's value on these inputs, for `difference`: `table.values`.

    Raises:
        InputError: an unknown family, blocks that do not fit, or what the family needs is missing.
    """
    word, numbers = parsed(family)
    _require(family, d, variables, size, states, values)
    blocks = consecutive_blocks(variables, size)
    if word in COUPLINGS:
        n_blocks, width = numbers
        return Coupling(d, blocks, n_blocks=n_blocks, width=width, kind=COUPLINGS[word], seed=seed)
    if states is not None and word in NEEDS_STATES:
        return _from_states(word, d, blocks, states, values or {})
    makers = {
        "identity": lambda: Identity(d, blocks),
        "mask": lambda: Mask(d, variables),
        "random": lambda: RandomSubspace(d, blocks, seed=seed),
        "orthogonal": lambda: Rotation(d, blocks, seed=seed),
        "square": lambda: SquareRotation(d, blocks, seed=seed),
        "boundless": lambda: Boundless(d, variables, seed=seed),
    }
    return makers[word]()


def parsed(family: str) -> tuple[str, tuple[int, ...]]:
    """Return the word of a family and its numbers.

    >>> parsed("revnet-10x16"), parsed("mask-pca")
    (('revnet', (10, 16)), ('mask-pca', ()))

    Raises:
        InputError: there is no such family.
    """
    match = re.fullmatch(r"(revnet|coupling)-([1-9]\d*)x([1-9]\d*)", family)
    if match:
        return match[1], (int(match[2]), int(match[3]))
    if family in FAMILIES and "LxH" not in family:
        return family, ()
    raise InputError(
        f"No family of maps {family!r}; there are: {', '.join(FAMILIES)}, where L and H are "
        f"numbers such as revnet-10x16.{nearest(family, FAMILIES)}"
    )


def _from_states(
    word: str, d: int, blocks: Mapping[str, Sequence[int]], states: Tensor, values: Mapping
) -> AlignmentMap:
    if word == "pca":
        return Pca(d, blocks, states)
    if word == "mask-pca":
        return Mask(d, tuple(blocks), basis=principal(states).T)
    return DifferenceOfMeans(d, states, {name: values[name] for name in blocks})


def _require(
    family: str,
    d: int,
    variables: Sequence[str],
    size: int,
    states: Tensor | None,
    values: Mapping[str, Tensor] | None,
) -> None:
    """Refuse what no family can do, and what this one lacks."""
    if not variables or size < 1 or size * len(variables) > d:
        raise InputError(
            f"{len(variables)} variables of size {size} at a site {d} wide: sizes go from 1, and "
            f"together they take at most {d} coordinates."
        )
    if family in NEEDS_STATES and states is None:
        raise InputError(f"{family!r} is found from states: give those of the training inputs.")
    if states is not None and states.shape[1] != d:
        raise InputError(f"The states are {states.shape[1]} wide and the map {d}: give the site's.")
    if family != "difference":
        return
    missing = [name for name in variables if name not in (values or {})]
    if missing:
        raise InputError(
            f"A difference of means needs the values of {missing[0]!r} on the states' inputs: pass "
            "those of the table."
        )
    if size != 1:
        raise InputError(
            f"A difference of means is one direction for each variable, not {size}: give size 1."
        )
