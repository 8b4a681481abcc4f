"""Training classifiers, several of a shape together: on a task, or to implement an algorithm.

`plant` trains every weight of a net until an interchange intervention on given neurons of one
layer, with nothing but the identity for a map, does what the algorithm says. Such a net is a
positive control: where each variable lies is known. `learn` is the same descent on plain labels.

Nets are trained side by side, each on batches of its own and kept at its own best validation loss,
so that what a net becomes does not depend on its company (up to rounding).

Source: Geiger et al. 2022, arXiv:2112.00826 (interchange-intervention training); the mixture is
that of the code of Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from interp.data.counterfactuals import Pairs, Table, concatenated
from interp.errors import InputError
from interp.models.classifiers import Weights, run_stacked, stacked, unstacked

POOL_SEED, HELD_OUT_SEED = 1, 2
"""Of the pairs that all nets share; each net reads them in an order of its own."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How nets are trained."""

    steps: int = 6000
    """Updates at most."""
    batch: int = 1024
    """Rows of one net in an update."""
    learning_rate: float = 2e-3
    """Of Adam."""
    decay: bool = True
    """Whether the rate falls to 0 along a cosine, or stays."""
    check_every: int = 250
    """Updates between looks at the validation loss."""
    patience: int = 24
    """Looks without a gain after which a net is done."""
    min_gain: float = 0.0
    """Nats by which the validation loss must fall below its best for a gain."""

    def __post_init__(self) -> None:
        numbers = (self.steps, self.batch, self.check_every, self.patience)
        if min(numbers) < 1 or not self.learning_rate > 0:
            raise InputError(f"{self}: every number of a recipe must be above 0.")
        if not self.min_gain >= 0:
            raise InputError(f"min_gain={self.min_gain}: give 0 or more nats.")

    def rate(self, step: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        share = (1 + math.cos(math.pi * step / self.steps)) / 2 if self.decay else 1.0
        return self.learning_rate * share


@dataclass(frozen=True, eq=False)
class Trained:
    """A net at its best validation loss."""

    net: nn.Sequential
    step: int
    """Updates after which it was this good."""
    validation: tuple[tuple[int, float], ...]
    """Step and mean validation loss in nats, at each look until the net was done."""


Losses = Callable[[Weights, Int[Tensor, "net batch"]], Float[Tensor, " net"]]
"""The mean loss of each net, in nats, on rows of its own."""


def learn(
    nets: Sequence[nn.Sequential],
    seeds: Sequence[int],
    training: tuple[Float[Tensor, "input width"], Int[Tensor, " input"]],
    validation: tuple[Float[Tensor, "other width"], Int[Tensor, " other"]],
    recipe: Recipe,
) -> tuple[Trained, ...]:
    """Train copies of nets to give labels, and keep each at its best validation loss.

    Args:
        nets: of one shape; they are not changed.
        seeds: of the order in which each net reads the rows.
        training: inputs and their labels.
        validation: other inputs and their labels.
        recipe: how.

    Raises:
        InputError: as `descend`.
    """

    def losses(weights: Weights, rows: Tensor) -> Tensor:
        return _losses(run_stacked(weights, training[0][rows]), training[1][rows])

    def validate(weights: Weights) -> Tensor:
        inputs, labels = (each.expand(len(nets), *each.shape) for each in validation)
        return _losses(run_stacked(weights, inputs), labels)

    return descend(nets, seeds, losses, validate, n_rows=len(training[0]), recipe=recipe)


def plant(
    nets: Sequence[nn.Sequential],
    seeds: Sequence[int],
    training: Table,
    validation: Table,
    *,
    layer: int,
    blocks: Mapping[str, Sequence[int]],
    recipe: Recipe,
    clean: float = 0.4,
    n_pairs: int = 524_288,
    n_held_out: int = 10_000,
) -> tuple[Trained, ...]:
    """Train copies of nets to have an algorithm's variables in given neurons of a hidden layer.

    The loss is the cross-entropy of the answer under an interchange intervention with what the
    algorithm answers under the same one. All weights are trained, those before the layer through
    base and sources alike.

    Args:
        nets: of one shape; they are not changed.
        seeds: of the order in which each net reads the pairs.
        training: the algorithm on training inputs, and the recipe of its pairs.
        validation: the same on other inputs.
        layer: the hidden layer, counted from 1; its states after the ReLU are interchanged.
        blocks: the neurons of each of the tables' variables, in their order.
        recipe: how.
        clean: share of pairs without an intervention, which keep the net good at its task.
        n_pairs: training pairs, drawn once for all nets.
        n_held_out: validation pairs.

    Raises:
        InputError: a layer that the nets lack, blocks that are not those of the tables' variables,
            overlap or leave the layer; or as `descend`.
    """
    members = _members(nets, layer, blocks, training.variables)
    pool = mixture(training, n_pairs, POOL_SEED, clean=clean)
    held_out = mixture(validation, n_held_out, HELD_OUT_SEED, clean=clean)

    def losses(weights: Weights, rows: Tensor) -> Tensor:
        logits = interchanged(
            weights,
            training.inputs[pool.base[rows]],
            training.inputs[pool.sources[rows]],
            pool.active[rows],
            layer=layer,
            members=members,
        )
        return _losses(logits, pool.labels[rows])

    def validate(weights: Weights) -> Tensor:
        parts = (validation.inputs[held_out.base], validation.inputs[held_out.sources])
        base, sources, active, labels = (
            each.expand(len(nets), *each.shape)
            for each in (*parts, held_out.active, held_out.labels)
        )
        logits = interchanged(weights, base, sources, active, layer=layer, members=members)
        return _losses(logits, labels)

    return descend(nets, seeds, losses, validate, n_rows=n_pairs, recipe=recipe)


def mixture(table: Table, n: int, seed: int, *, clean: float = 0.4) -> Pairs:
    """Draw pairs of which a share interchanges nothing; the others are the table's own.

    The pairs that interchange nothing come first, with bases drawn evenly; with the default share
    and two variables that are chosen a third each, 2/5 are clean, 1/5 each variable and 1/5 both.

    Raises:
        InputError: a share outside 0 to 1.
    """
    if not 0 <= clean <= 1:
        raise InputError(f"clean={clean}: it is a share of the pairs, so give 0 to 1.")
    n_clean = round(n * clean)
    stream = torch.Generator().manual_seed(seed)
    base = torch.randint(0, len(table), (n_clean,), generator=stream)
    shape = (n_clean, len(table.variables))
    parts = [
        table.label(base, base[:, None].expand(shape), torch.zeros(shape, dtype=torch.bool)),
        *([table.pairs(n - n_clean, seed)] if n > n_clean else []),
    ]
    return concatenated([part for part in parts if len(part)])


def interchanged(
    weights: Mapping[str, Tensor],
    base: Float[Tensor, "net batch width"],
    sources: Float[Tensor, "net batch variable width"],
    active: Bool[Tensor, "net batch variable"],
    *,
    layer: int,
    members: Bool[Tensor, "variable d"],
) -> Float[Tensor, "net batch answer"]:
    """Return each net's logits on bases with active variables' neurons as on their sources.

    Gradients flow through base and sources into every weight. Base and sources run in batches of
    one shape, so that a base interchanged with itself keeps every bit.
    """
    states = run_stacked(weights, base, until=layer)
    for i in range(len(members)):
        source = run_stacked(weights, sources[:, :, i], until=layer)
        states = torch.where(active[:, :, i, None] & members[i], source, states)
    return run_stacked(weights, states, after=layer)


def descend(
    nets: Sequence[nn.Sequential],
    seeds: Sequence[int],
    losses: Losses,
    validate: Callable[[Weights], Float[Tensor, " net"]],
    *,
    n_rows: int,
    recipe: Recipe,
) -> tuple[Trained, ...]:
    """Update copies of nets by Adam, side by side, and keep each at its best validation loss.

    Raises:
        InputError: as many seeds as nets are not given, a batch is larger than the data, or a
            validation loss is not finite.
    """
    if len(seeds) != len(nets):
        raise InputError(f"{len(nets)} nets and {len(seeds)} seeds: give one seed a net.")
    weights = {name: value.requires_grad_() for name, value in stacked(nets).items()}
    optimiser = torch.optim.Adam(list(weights.values()), lr=recipe.learning_rate, fused=True)
    feed, best = batches(n_rows, recipe.batch, seeds), _Best(weights, recipe)
    for step in range(1, recipe.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step - 1)
        loss = losses(weights, next(feed)).sum()  # of sums, so no net's gradient sees another
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % recipe.check_every == 0 or step == recipe.steps:
            with torch.no_grad():
                best.look(step, weights, validate(weights))
            if not best.going.any():
                break
    return best.trained()


def batches(n_rows: int, batch: int, seeds: Sequence[int]) -> Iterator[Int[Tensor, "net batch"]]:
    """Yield rows for each net without end: all of them in an order of its own, then in a new one.

    Rows that do not fill a batch are left out of that round.

    Raises:
        InputError: a batch larger than the data.
    """
    if batch > n_rows:
        raise InputError(f"A batch of {batch} from {n_rows} rows: lower the batch, or draw more.")
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    return _rounds(n_rows, batch, streams)


def _rounds(n_rows: int, batch: int, streams: list[torch.Generator]) -> Iterator[Tensor]:
    while True:
        orders = torch.stack([torch.randperm(n_rows, generator=stream) for stream in streams])
        for place in range(n_rows // batch):
            yield orders[:, place * batch : (place + 1) * batch]


class _Best:
    """The best weights of each net so far, and which nets still have patience."""

    def __init__(self, weights: Weights, recipe: Recipe) -> None:
        n = len(next(iter(weights.values())))
        self.kept = {name: value.detach().clone() for name, value in weights.items()}
        self.loss, self.step = torch.full((n,), math.inf), torch.zeros(n, dtype=torch.long)
        self.since, self.going = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool)
        self.looks: list[list[tuple[int, float]]] = [[] for _ in range(n)]
        self.patience, self.min_gain = recipe.patience, recipe.min_gain

    def look(self, step: int, weights: Weights, losses: Float[Tensor, " net"]) -> None:
        """Note the validation losses after an update, and keep what is better than before."""
        if not bool(losses.isfinite().all()):
            raise InputError(
                f"The validation loss is {losses.tolist()} after {step} updates: lower the "
                "learning rate."
            )
        for i in self.going.nonzero().flatten().tolist():
            self.looks[i].append((step, float(losses[i])))
        gained = losses < self.loss - self.min_gain
        better = self.going & (losses < self.loss)
        for name, value in weights.items():
            self.kept[name][better] = value[better]
        self.loss, self.step[better] = torch.where(better, losses, self.loss), step
        self.since = torch.where(gained, 0, self.since + 1)
        self.going &= self.since < self.patience

    def trained(self) -> tuple[Trained, ...]:
        """Return each net as it was at its best."""
        return tuple(
            Trained(unstacked(self.kept, i), int(self.step[i]), tuple(looks))
            for i, looks in enumerate(self.looks)
        )


def _losses(
    logits: Float[Tensor, "net batch answer"], labels: Int[Tensor, "net batch"]
) -> Float[Tensor, " net"]:
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.unflatten(0, labels.shape).mean(1)


def _members(
    nets: Sequence[nn.Sequential],
    layer: int,
    blocks: Mapping[str, Sequence[int]],
    variables: Sequence[str],
) -> Bool[Tensor, "variable d"]:
    """Return which neurons are whose, after checking that the nets have them."""
    widths = [linear.out_features for linear in nets[0] if isinstance(linear, nn.Linear)][:-1]
    if not 1 <= layer <= len(widths):
        raise InputError(f"layer={layer}: the nets have hidden layers 1 to {len(widths)}.")
    if tuple(blocks) != tuple(variables):
        raise InputError(
            f"Blocks are given for {', '.join(blocks)} and the pairs interchange "
            f"{', '.join(variables)}: use the same variables in the same order."
        )
    members = torch.zeros(len(blocks), widths[layer - 1], dtype=torch.bool)
    for i, (name, block) in enumerate(blocks.items()):
        if not block or min(block) < 0 or max(block) >= members.shape[1]:
            raise InputError(
                f"The block of {name!r} is {list(block)}: give at least one neuron, each from 0 to "
                f"{members.shape[1] - 1}."
            )
        members[i, list(block)] = True
    if bool((members.sum(0) > 1).any()):
        shared = int((members.sum(0) > 1).nonzero()[0])
        raise InputError(f"Neuron {shared} stands in two blocks: blocks are disjoint.")
    return members
