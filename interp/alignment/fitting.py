"""Fitting an alignment map, and scoring one: interchange-intervention accuracy (IIA).

The network is frozen and cut at the site, so a step costs the map, its inverse and the layers after
the site. Source: Geiger et al. 2023, arXiv:2303.02536; settings as in Sutter et al. 2025,
arXiv:2507.08802, but with the mean validation loss for patience, which does not depend on how many
batches it is summed over.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs, concatenated
from interp.errors import InputError

CHUNK = 16_384
"""Pairs that are scored at once where no cut says how many it can hold."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent on fitting one map, and how it is stopped."""

    steps: int = 1000
    """Updates at most."""
    batch: int = 512
    """Pairs in an update."""
    learning_rate: float = 1e-3
    """Of Adam; halved when the validation loss has not fallen for `plateau` checks."""
    check_every: int = 100
    """Updates between checks on validation pairs."""
    patience: int = 5
    """Checks without a gain of `min_gain` after which fitting stops."""
    min_gain: float = 1e-3
    """Mean validation loss, in nats a pair."""
    plateau: int = 3
    """Checks without a gain before the rate is halved."""
    inputs: int = 65_536
    """Distinct inputs of the training table."""
    held_out: int = 10_000
    """Validation pairs, and test pairs, each from inputs of their own."""

    def __post_init__(self) -> None:
        numbers = (self.steps, self.batch, self.check_every, self.patience, self.inputs)
        if min(*numbers, self.plateau, self.held_out) < 1 or not 0 < self.learning_rate < math.inf:
            raise InputError(f"{self}: every number of a budget must be above 0, and finite.")


BUDGETS = {
    "smoke": Budget(),
    "standard": Budget(steps=5000, patience=10, inputs=262_144),
    "paper": Budget(steps=10_000, batch=6400, check_every=200, inputs=1_280_000, plateau=10),
}
"""Those of the command line; `paper` is 50 epochs of 1.28 million pairs."""


@dataclass(frozen=True)
class Fitted:
    """A map at its best validation loss, and how fitting went."""

    map: AlignmentMap
    steps: int
    """Updates that were made."""
    validation: tuple[tuple[int, float], ...]
    """Step and mean validation loss in nats, at each check."""
    train_iia: float
    """Of the kept map on the last training pairs, about as many as the validation pairs."""
    stopped: Literal["patience", "budget"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network answered under interventions, pair by pair."""

    pairs: Pairs
    predicted: Int[Tensor, " pair"]
    loss: Float[Tensor, " pair"]
    """Nats: -log p*(y*)."""

    @property
    def right(self) -> Bool[Tensor, " pair"]:
        """Whether the network's first choice is what the algorithm says."""
        return self.predicted == self.pairs.labels

    @property
    def iia(self) -> float:
        """Interchange-intervention accuracy over all pairs."""
        return float(self.right.double().mean())

    def iia_of(self, which: Bool[Tensor, " pair"]) -> float | None:
        """IIA over some pairs; None where there are none."""
        return float(self.right[which].double().mean()) if bool(which.any()) else None


Feed = Callable[[int], Pairs]
"""Returns the pairs of an update, by its number."""


def swapped(cut: Cut, phi: AlignmentMap, pairs: Pairs) -> Float[Tensor, "pair answer"]:
    """Return the network's logits under interchange interventions.

    Raises:
        InputError: the map's variables are not those of the pairs, or the pairs are of a table
            with other inputs than the cut's.
    """
    _require_variables(phi, pairs)
    _require_inputs(cut, pairs)
    device = cut.states.device
    rows, sources = pairs.base.to(device), pairs.sources.to(device)
    base = cut.states.index_select(0, rows)  # several times faster than states[rows]
    given = cut.states.index_select(0, sources.flatten()).unflatten(0, sources.shape)
    return cut.finish(phi.swap(base, given, pairs.active.to(device)), rows)


@torch.no_grad()
def score(cut: Cut, phi: AlignmentMap, pairs: Pairs, *, chunk: int | None = None) -> Scores:
    """Return what the network answers under each intervention, `chunk` pairs at once.

    How many changes no number beyond rounding; by default it is what the cut can hold.
    """
    return score_logits(lambda part: swapped(cut, phi, part), pairs, chunk=chunk or cut.chunk)


@torch.no_grad()
def score_logits(
    logits: Callable[[Pairs], Float[Tensor, "pair answer"]], pairs: Pairs, *, chunk: int = CHUNK
) -> Scores:
    """Return the scores of any intervention: `logits` answers some pairs."""
    predicted, losses = [], []
    for part in _parts(pairs, chunk):
        out = logits(part)
        predicted.append(out.argmax(1).cpu())
        losses.append(cross_entropy(out, part.labels.to(out.device), reduction="none").cpu())
    return Scores(pairs, torch.cat(predicted), torch.cat(losses))


def descend(cut: Cut, phi: AlignmentMap, pairs: Pairs, *, chunk: int | None = None) -> float:
    """Add the gradient of the loss to the map's weights, and return the loss in nats.

    The loss is the mean of -log p*(y*) over the pairs, plus the map's penalty. Pairs go through
    the network `chunk` at a time (by default as many as the cut can hold), which changes memory
    and no number beyond rounding.
    """
    total = 0.0
    for part in _parts(pairs, chunk or cut.chunk):
        logits = swapped(cut, phi, part)
        loss = cross_entropy(logits, part.labels.to(logits.device)) + phi.penalty()
        share = len(part) / len(pairs)
        (loss * share if share < 1 else loss).backward()
        total += float(loss.detach()) * share
    return total


def fit(
    cut: Cut,
    phi: AlignmentMap,
    feed: Feed,
    budget: Budget,
    *,
    validation: tuple[Cut, Pairs],
) -> Fitted:
    """Fit a copy of a map to interventions, and keep it at its best validation loss.

    Args:
        cut: the network at the site, on the training inputs.
        phi: where fitting starts; it is not changed.
        feed: the training pairs of each update (`fresh`, or `fixed` for a limited set).
        budget: how long.
        validation: a cut on other inputs, and pairs of them.

    Raises:
        InputError: the map's width is not the site's, its variables are not those of the
            validation pairs, the two cuts are of different sites, or the loss is not finite.
    """
    _require_one_site(cut, phi, validation)
    phi = copy.deepcopy(phi).to(cut.states.device, cut.states.dtype).train()
    weights = [p for p in phi.parameters() if p.requires_grad]
    if not weights:
        return _unfitted(cut, phi, feed, validation)
    optimiser = torch.optim.Adam(weights, lr=budget.learning_rate, fused=True)
    best, kept, since, checks, step = float("inf"), phi.state_dict(), 0, [], 0
    while step < budget.steps and since < budget.patience:
        for step in range(step + 1, min(step + budget.check_every, budget.steps) + 1):  # noqa: B020
            phi.anneal(step / budget.steps)
            optimiser.zero_grad()
            descend(cut, phi, feed(step))
            optimiser.step()
        loss = _validate(phi, validation, step)
        checks.append((step, loss))
        since = 0 if loss < best - budget.min_gain else since + 1
        if since and since % budget.plateau == 0:
            for group in optimiser.param_groups:
                group["lr"] /= 2
        if loss < best:
            best, kept = loss, copy.deepcopy(phi.state_dict())
    phi.load_state_dict(kept)
    stopped: Literal["patience", "budget"] = "patience" if since >= budget.patience else "budget"
    seen = _last(feed, step, len(validation[1]))
    train_iia = score(cut, phi.eval(), seen).iia
    return Fitted(phi.requires_grad_(False), step, tuple(checks), train_iia, stopped)


def fresh(draw: Callable[[int, int], Pairs], batch: int, seed: int) -> Feed:
    """Return a feed that draws new pairs at each update: `fresh(table.pairs, 512, seed)`."""
    return lambda step: draw(batch, seed * 1_000_003 + step)


def fixed(pairs: Pairs, batch: int, seed: int) -> Feed:
    """Return a feed from a limited set of pairs, in a new order each time it is used up.

    What is left of an epoch and fills no batch is left out of that epoch.

    Raises:
        InputError: no pair, or a batch of none.
    """
    if batch < 1 or not len(pairs):
        raise InputError(f"Batches of {batch} from {len(pairs)} pairs: give at least one of each.")
    size = min(batch, len(pairs))
    per_epoch = len(pairs) // size

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        stream = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(len(pairs), generator=stream)

    def feed(step: int) -> Pairs:
        epoch, place = divmod(step - 1, per_epoch)
        return pairs[order(epoch)[place * size : (place + 1) * size]]

    return feed


def with_budget(budget: Budget, **changes: int | float) -> Budget:
    """Return a budget with some numbers changed."""
    return replace(budget, **changes)


def _parts(pairs: Pairs, chunk: int) -> Iterator[Pairs]:
    """Return the pairs, so many at a time; those that fit are not copied."""
    if len(pairs) <= chunk:
        yield pairs
        return
    for start in range(0, len(pairs), chunk):
        yield pairs[start : start + chunk]


def _last(feed: Feed, step: int, n: int) -> Pairs:
    """Return the pairs of the last updates, at least n where there were so many."""
    parts = [feed(step)]
    while sum(map(len, parts)) < n and len(parts) < step:
        parts.append(feed(step - len(parts)))
    return concatenated(parts)


def _require_one_site(cut: Cut, phi: AlignmentMap, validation: tuple[Cut, Pairs]) -> None:
    other, pairs = validation
    if phi.d != cut.d:
        raise InputError(f"The map is {phi.d} wide and the site {cut.d}: build it for this site.")
    if (other.site, other.d) != (cut.site, cut.d):
        raise InputError(
            f"The validation cut is at {other.site!r} ({other.d} wide) and the training cut at "
            f"{cut.site!r} ({cut.d} wide): cut one subject for both."
        )
    _require_variables(phi, pairs)


def _require_variables(phi: AlignmentMap, pairs: Pairs) -> None:
    if pairs.variables != phi.variables:
        raise InputError(
            f"The map has blocks for {', '.join(phi.variables)} and the pairs interchange "
            f"{', '.join(pairs.variables)}: use the same variables in the same order."
        )


def _require_inputs(cut: Cut, pairs: Pairs) -> None:
    """Pairs are row numbers: on another table's cut they would score, and mean nothing."""
    if None not in (cut.inputs, pairs.inputs) and cut.inputs != pairs.inputs:
        raise InputError(
            f"The pairs are of other inputs than the cut at {cut.site!r}: give pairs of the table "
            "that was cut, or cut the subject on the inputs of theirs."
        )


def _validate(phi: AlignmentMap, validation: tuple[Cut, Pairs], step: int) -> float:
    phi.eval()
    loss = float(score(validation[0], phi, validation[1]).loss.double().mean())
    phi.train()
    if not math.isfinite(loss):
        raise InputError(
            f"The validation loss is {loss} after {step} updates: lower the learning rate, or fit "
            "in float64."
        )
    return loss


def _unfitted(cut: Cut, phi: AlignmentMap, feed: Feed, validation: tuple[Cut, Pairs]) -> Fitted:
    """A map without parameters has nothing to fit."""
    phi.eval()
    loss = float(score(validation[0], phi, validation[1]).loss.double().mean())
    return Fitted(phi, 0, ((0, loss),), score(cut, phi, feed(1)).iia, "budget")
