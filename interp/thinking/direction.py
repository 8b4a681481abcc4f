"""The TrueThinking direction: from decorative steps to true ones, in every layer's residual stream.

    v_l = mean over true steps of h_l  -  mean over decorative steps of h_l

h_l is what enters block l, and last what leaves the final block, read at the last token of the
intact step after its intact context, before any cue: in float32. The difference is not normalised;
a `Direction` keeps its length as `norm`, so a coefficient of 1 adds v_l itself, and -1 takes it
away. Beside it stand the direction of shuffled labels and random ones of the same lengths.

Source: Zhao et al. 2025, arXiv:2510.24941, equation for v_l (its released files hold the opposite
sign).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.directions import Direction, data_hash
from interp.engine.model import Model
from interp.errors import InputError
from interp.models.tokens import encode
from interp.models.weights import weights_hash
from interp.thinking.scored import MeanStep, ScoredChain
from interp.thinking.sets import Sets, Stratum

METHOD, SHUFFLED = "true_thinking", "true_thinking_shuffled"
POSITION = "last token of the step"
ROUNDING = 1e-6
"""Means count as one where they differ by less than this share of an activation's length."""


def sites(model: Model) -> list[str]:
    """Return where directions are found: every block's residual input, then the final output."""
    last = model.sizes.n_layers - 1
    return [f"{layer}.resid_pre" for layer in range(last + 1)] + [f"{last}.resid_post"]


def activations(
    model: Model, scored: Sequence[ScoredChain], steps: Sequence[MeanStep]
) -> Float[Tensor, "step row d_model"]:
    """Return what the residual stream holds at the last token of each step, in float32 on the CPU.

    Row l is the site `sites(model)[l]`. The text of a step's prompt is the chain up to the step's
    end, without trailing white space and without the cue. One forward pass of the longest prompt
    serves every step whose tokens are its first tokens; a step whose end the tokenizer would join
    with what follows gets a pass of its own. So the numbers are those of one pass a step.

    Raises:
        InputError: no step, a step of a chain that is not given or has another text, or a prompt
            longer than the context. No model has run then.
    """
    passes = _passes(_prompts(model, scored, steps))
    for each in passes:
        model.tokens([list(each.ids)])  # refuses what is too long, before anything runs
    wanted = sites(model)
    found = torch.empty(len(steps), len(wanted), model.sizes.d_model)
    for each in passes:
        positions = tuple(sorted({position for _, position in each.reads}))
        capture = dict.fromkeys(wanted, positions)
        acts = model.run([list(each.ids)], capture=capture, logits="last").acts
        rows = torch.stack([acts[site][0].float().cpu() for site in wanted], dim=1)
        for step, position in each.reads:
            found[step] = rows[positions.index(position)]
    return found


def fit(
    model: Model,
    scored: Sequence[ScoredChain],
    sets: Sets,
    *,
    acts: Float[Tensor, "step row d_model"] | None = None,
    weights: str | None = None,
) -> list[Direction]:
    """Return the direction from the decorative to the true steps at each of `sites(model)`.

    A site where both sets have one mean has no direction and is left out: at `0.resid_pre` all
    steps that end in a full stop are one and the same where positions are not embedded.

    Args:
        acts: the activations of `sets.steps`, where they are already computed.
        weights: the model's `weights_hash`, where it is already known.

    Raises:
        InputError: fewer than 2 steps on a side, sets with one mean everywhere, or as in
            `activations`.
    """
    held = _held(model, scored, sets, acts)
    return _directions(model, scored, sets, labels_of(sets), held, weights)


def shuffled(
    model: Model,
    scored: Sequence[ScoredChain],
    sets: Sets,
    seed: int,
    *,
    acts: Float[Tensor, "step row d_model"] | None = None,
    weights: str | None = None,
) -> list[Direction]:
    """Return the direction of the same steps under shuffled labels: a control, of its own length.

    Labels change places within a stratum (position bin, mentions_answer), and there within a
    problem where it has steps of both sides; so the sizes of the sets, and their counts in each
    stratum, stay as they are. `at_norms` brings it to the length of the direction itself.
    `acts` and `weights` are those of `fit`.

    Raises:
        InputError: no stratum holds steps of both sides, so no label can move; or as in `fit`.
    """
    labels = shuffled_labels(sets, seed)
    held = _held(model, scored, sets, acts)
    found = _directions(model, scored, sets, labels, held, weights)
    return [replace(direction, method=SHUFFLED, seed=seed) for direction in found]


def random_twins(directions: Sequence[Direction], seeds: Sequence[int]) -> list[list[Direction]]:
    """Return for each seed a random direction at every site, as long as the one given there.

    One seed draws one vector for all sites, as neighbouring layers' directions are alike, too.
    """
    return [[direction.twin(seed) for direction in directions] for seed in seeds]


def at_norms(controls: Sequence[Direction], directions: Sequence[Direction]) -> list[Direction]:
    """Return the controls with the norms of the directions at their sites; others are left out."""
    norms = {direction.site: direction.norm for direction in directions}
    return [replace(each, norm=norms[each.site]) for each in controls if each.site in norms]


def labels_of(sets: Sets) -> list[bool]:
    """Return a label for each of `sets.steps`: True for the true ones."""
    return [True] * len(sets.true) + [False] * len(sets.decorative)


def shuffled_labels(sets: Sets, seed: int) -> list[bool]:
    """Return a label for each of `sets.steps`, True for true: those of the sets, shuffled.

    Raises:
        InputError: no stratum holds steps of both sides, so no label can move.
    """
    labels, groups = labels_of(sets), _groups(sets)
    if not any(_mixed(group, len(sets.true)) for group in groups):
        raise InputError(
            "No label can be shuffled: no position bin, mentioning the answer or not, holds both "
            "true and decorative steps. Match the sets, or give fewer bins."
        )
    stream = torch.Generator().manual_seed(seed)
    for group in groups:
        order = torch.randperm(len(group), generator=stream).tolist()
        held = [labels[place] for place in group]
        for place, source in zip(group, order, strict=True):
            labels[place] = held[source]
    return labels


# ----------------------------------------------------------------------------------- details


@dataclass(frozen=True)
class _Pass:
    """One prompt to run, and which steps are read where: (place in the list, token position)."""

    ids: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]


def _prompts(
    model: Model, scored: Sequence[ScoredChain], steps: Sequence[MeanStep]
) -> list[tuple[int, ...]]:
    """The tokens of the chain up to the end of each step."""
    if not steps:
        raise InputError("There is no step to read: give at least one.")
    chains = {chain.id: chain.chain for chain in scored}
    found = []
    for step in steps:
        chain = chains.get(step.id)
        if chain is None or chain.text[step.start : step.end] != step.text:
            raise InputError(
                f"Step {step.step} of problem {step.id!r} is not in the chains given: give the "
                "chains that it was scored in."
            )
        text = chain.prompt + chain.text[: step.end].rstrip()
        found.append(tuple(encode(model.tokenizer, text)))
    return found


def _passes(prompts: Sequence[tuple[int, ...]]) -> list[_Pass]:
    """Which prompts to run, so that each of all prompts begins one of them.

    >>> [(each.ids, each.reads) for each in _passes([(1, 2), (1, 3, 4), (1, 3)])]
    [((1, 3, 4), ((1, 2), (2, 1))), ((1, 2), ((0, 1),))]
    """
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for place in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        ids = prompts[place]
        whole = next((each for each in found if each[: len(ids)] == ids), ids)
        found.setdefault(whole, []).append((place, len(ids) - 1))
    return [_Pass(ids, tuple(reads)) for ids, reads in found.items()]


def _held(
    model: Model, scored: Sequence[ScoredChain], sets: Sets, acts: Tensor | None
) -> Float[Tensor, "step row d_model"]:
    """The activations of both sets, computed or given, and checked."""
    for name, side in (("true", sets.true), ("decorative", sets.decorative)):
        if len(side) < 2:
            raise InputError(
                f"The {name} set has {len(side)} steps and a direction needs at least 2 on each "
                "side: score more chains, or move the thresholds."
            )
    held = activations(model, scored, sets.steps) if acts is None else acts
    shape = (len(sets.steps), len(sites(model)), model.sizes.d_model)
    if tuple(held.shape) != shape:
        raise InputError(
            f"acts has the shape {list(held.shape)} and these sets need {list(shape)}: give "
            "activations(model, scored, sets.steps)."
        )
    bad = (~torch.isfinite(held)).any(dim=2).nonzero().tolist()
    if bad:
        step, row = sets.steps[bad[0][0]], bad[0][1]
        raise InputError(
            f"Step {step.step} of problem {step.id!r} has activations that are not finite at "
            f"{sites(model)[row]}: load the model in float32 or bfloat16."
        )
    return held


def _directions(
    model: Model,
    scored: Sequence[ScoredChain],
    sets: Sets,
    labels: Sequence[bool],
    held: Float[Tensor, "step row d_model"],
    weights: str | None,
) -> list[Direction]:
    """The difference of means between two labels of the steps, at every site where there is one."""
    prompts = list(zip(_prompts(model, scored, sets.steps), labels, strict=True))
    data = [[ids for ids, label in prompts if label is side] for side in (True, False)]
    made: dict[str, Any] = {
        "model": model.name,
        "weights": weights or weights_hash(model.hf),
        "position": POSITION,
        "n_positive": len(sets.true),
        "n_negative": len(sets.decorative),
        "data": data_hash(data),
    }
    found, mark = [], torch.tensor(labels)
    for row, site in enumerate(sites(model)):
        unit, norm = _difference(held[mark, row], held[~mark, row])
        if norm > 0:
            found.append(Direction(unit, site, METHOD, norm, **made))
    if not found:
        raise InputError(
            f"The {len(sets.true)} true and the {len(sets.decorative)} decorative steps have one "
            "mean at every layer, so there is no direction between them: give sets that differ."
        )
    return found


def _difference(high: Tensor, low: Tensor) -> tuple[Float[Tensor, " d_model"], float]:
    """The unit vector from the mean of `low` to that of `high`, and their distance in float64.

    Both are zero where the means differ by no more than rounding.
    """
    gap = high.double().mean(0) - low.double().mean(0)
    scale = max(float(side.double().norm(dim=1).mean()) for side in (high, low))
    norm = float(gap.norm())
    if norm <= ROUNDING * scale:
        return torch.zeros_like(high[0]), 0.0
    return (gap / norm).to(high.dtype), norm


def _groups(sets: Sets) -> list[list[int]]:
    """Places in `sets.steps` whose labels may change places with one another; a place is in one.

    In each stratum the steps of a problem that has both labels there are a group, and so are those
    of all its other problems together.
    """
    strata: dict[Stratum, dict[str, list[int]]] = {}
    for place, step in enumerate(sets.steps):
        strata.setdefault(sets.stratum(step), {}).setdefault(step.id, []).append(place)
    groups = []
    for _, problems in sorted(strata.items()):
        mixed = {i for i, places in problems.items() if _mixed(places, len(sets.true))}
        groups += [problems[i] for i in sorted(mixed)]
        groups.append([p for i in sorted(set(problems) - mixed) for p in problems[i]])
    return [group for group in groups if group]


def _mixed(places: Sequence[int], n_true: int) -> bool:
    """Whether steps of both sets are among some places of `Sets.steps`."""
    return min(places) < n_true <= max(places)
