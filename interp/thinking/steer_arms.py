"""What is done to a step in the steering tests: the direction, and every control beside it.

An arm makes one edit for each layer. Layers count what enters each block from 0; the last is the
final output. Coefficients differ by test, since the engagement test adds the direction and the
disengagement test takes it away:

    direction         + v or - v at the tokens of the step
    shuffled, random  the same with shuffled labels, or a random vector of the same length
    drop_step         the step left out of the text: no layer
    attention_scale   attention of the later tokens of the prompt to the step, times a factor, rows
                      renormalised, all heads of one layer: raised in one test, lowered in the other
    attention_mask    the same with a factor of 0, the causal mask kept
    none              the direction 0 times: it must flip nothing

Source: Zhao et al. 2025, arXiv:2510.24941, the baselines of the steering tests. They do not give
the factor on attention nor say whether their random vectors are as long as the direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from interp.attention_edits import Knockout, ScaleAttention
from interp.directions import Direction
from interp.edits import Edit
from interp.engine.model import Model
from interp.errors import InputError, SiteError
from interp.models.weights import weights_hash
from interp.sites import Each, Site
from interp.thinking.direction import random_twins
from interp.thinking.steer_items import Item, Test

SCALES = (2.0, 0.5)
"""Factors on the attention to the step: raised in the engagement test, lowered in the other."""

N_TWINS = 20
"""Random directions beside the direction."""


@dataclass(frozen=True)
class Tokens:
    """Which tokens an edit acts on, for each prompt of a group."""

    step: Each
    later: Each
    """The tokens of the prompt after the step."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> Tokens:
        """Those of some items, in their order."""
        return cls(
            Each(tuple(tuple(range(*item.span)) for item in items)),
            Each(tuple(tuple(range(item.span[1], len(item.ids))) for item in items)),
        )


MakeEdit = Callable[[float, Tokens], Edit]
"""Makes the edit of one layer from a coefficient or factor, and the tokens."""


@dataclass(frozen=True, eq=False)
class Arm:
    """Something that is done to the step, at one layer at a time."""

    name: str
    engage: float
    """The coefficient, or factor, in the engagement test."""
    disengage: float
    edits: Mapping[int, MakeEdit]
    """For each layer what makes the edit; empty where the step is left out of the text."""
    twin: int | None = None
    """Tells several arms of one name apart: the seed of a random or shuffled direction."""

    def coefficient(self, test: Test) -> float:
        """The coefficient, or factor, in a test."""
        return self.engage if test == "engage" else self.disengage


def direction_arm(
    model: Model,
    directions: Sequence[Direction],
    name: str = "direction",
    *,
    twin: int | None = None,
    engage: float = 1.0,
    disengage: float = -1.0,
    weights: str | None = None,
) -> Arm:
    """Return the arm that adds a direction, one for each layer.

    Args:
        directions: at `l.resid_pre` of some blocks, and `resid_post` of any.
        weights: the model's `weights_hash`, where it is known.

    Raises:
        InputError: no direction, or two at one layer.
        ModelError: a direction of another model.
        SiteError: a direction elsewhere than between blocks, or at a layer that is not there.
    """
    if not directions:
        raise InputError(f"The arm {name!r} has no direction: give one for each layer to steer.")
    known = weights or weights_hash(model.hf)
    edits: dict[int, MakeEdit] = {}
    for direction in directions:
        direction.check(model, weights=known)
        layer = layer_of(direction.site)
        model.check_sites([Site.parse(direction.site)])
        if layer in edits:
            raise InputError(f"The arm {name!r} has two directions at layer {layer}: give one.")
        edits[layer] = _adding(direction)
    return Arm(name, engage, disengage, edits, twin)


def _adding(direction: Direction) -> MakeEdit:
    return lambda coefficient, at: direction.edit(coefficient, positions=at.step)


def layer_of(site: str | Site) -> int:
    """Return which block's input a site is: `resid_post` of l is that of l + 1.

    >>> layer_of("3.resid_pre"), layer_of("3.resid_post")
    (3, 4)

    Raises:
        SiteError: the site does not lie between blocks.
    """
    parsed = Site.parse(site)
    if parsed.layer is None or parsed.component not in ("resid_pre", "resid_post"):
        raise SiteError(
            f"{parsed} does not lie between blocks: steer at resid_pre, or at resid_post of the "
            "last block."
        )
    return parsed.layer + (parsed.component == "resid_post")


def drop_step() -> Arm:
    """Return the arm that leaves the step out of the text, at no layer."""
    return Arm("drop_step", 1.0, 1.0, {})


def attention_scale(model: Model, factors: tuple[float, float] = SCALES) -> Arm:
    """Return the arm that multiplies the attention of later tokens to the step.

    Args:
        factors: in the engagement and in the disengagement test; above 1 more attention.
    """

    def make(layer: int) -> MakeEdit:
        return lambda factor, at: ScaleAttention(
            f"{layer}.attn.pattern", positions=at.later, keys=at.step, factor=factor
        )

    return Arm("attention_scale", *factors, {i: make(i) for i in range(model.sizes.n_layers)})


def attention_mask(model: Model) -> Arm:
    """Return the arm that hides the step from the later tokens, in all heads of one layer."""

    def make(layer: int) -> MakeEdit:
        return lambda _, at: Knockout(f"{layer}.attn.pattern", positions=at.later, keys=at.step)

    return Arm("attention_mask", 0.0, 0.0, {i: make(i) for i in range(model.sizes.n_layers)})


def random_arms(
    model: Model,
    directions: Sequence[Direction],
    seeds: Iterable[int] = range(N_TWINS),
    *,
    weights: str | None = None,
) -> list[Arm]:
    """Return an arm for each seed: at each layer a random vector as long as the direction there."""
    known, numbers = weights or weights_hash(model.hf), list(seeds)
    twins = random_twins(directions, numbers)
    return [
        direction_arm(model, twin, "random", twin=number, weights=known)
        for number, twin in zip(numbers, twins, strict=True)
    ]


def all_arms(
    model: Model,
    directions: Sequence[Direction],
    shuffled: Sequence[Sequence[Direction]] = (),
    *,
    n_random: int = N_TWINS,
    factors: tuple[float, float] = SCALES,
) -> list[Arm]:
    """Return the direction and every control; the direction first.

    Args:
        shuffled: directions of shuffled labels at the lengths of the direction (`at_norms`), one
            list for each shuffle.
        n_random: how many random twins; 0 leaves them to be run apart.
    """
    known = weights_hash(model.hf)
    return [
        direction_arm(model, directions, weights=known),
        *(
            direction_arm(model, each, "shuffled", twin=place, weights=known)
            for place, each in enumerate(shuffled)
        ),
        *random_arms(model, directions, range(n_random), weights=known),
        drop_step(),
        attention_scale(model, factors),
        attention_mask(model),
        no_arm(model, directions, weights=known),
    ]


def no_arm(model: Model, directions: Sequence[Direction], *, weights: str | None = None) -> Arm:
    """Return the arm that adds the direction 0 times: it must flip nothing."""
    return direction_arm(model, directions, "none", engage=0.0, disengage=0.0, weights=weights)
