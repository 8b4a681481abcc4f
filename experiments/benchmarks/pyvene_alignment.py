"""Fitting a rotation with pyvene and with this workbench: same data, updates, rate and optimiser.

pyvene's own trainer takes one source, so here is the loop of its tutorials: Adam on cross-entropy,
each batch with one set of active variables, `use_fast`, sources run through the network with
getter hooks and the base with setter hooks. Nothing is held against it: batches are gathered from
tensors instead of collated from dictionaries, networks are in eval mode, language models compute no
cache and only the last token's logits, and it is not validated, as ours is after the last update.
Neither is stopped early or chosen: what is scored is what the last update left.

Both start at the same basis and see the same batches. pyvene parametrises a square rotation by a
matrix exponential, ours is a product of reflections: the same maps, other paths through them. In a
low-rank rotation both are reflections, counted from one start that is completed alike for both, so
the two take the same steps but for rounding.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from interp.alignment.fitting import Budget, fit, score
from interp.alignment.maps import Rotation, consecutive_blocks
from interp.alignment.subjects import Cut, Subject
from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Pairs, Table, uniform
from interp.engine.loading import twin
from interp.engine.model import Model
from interp.errors import InputError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RUN = 4
"""Letters in each run of a prompt."""


@dataclass(frozen=True, eq=False)
class Work:
    """What both are given: a network at a site, two tables of inputs, and the batches."""

    subject: Subject
    train: Table
    test: Table
    batches: tuple[Pairs, ...]
    """Of one epoch; each has one set of active variables."""
    held_out: tuple[Pairs, ...]
    """Pairs of the test table, for scoring."""
    size: int
    """Dimensions of each variable."""
    epochs: int
    learning_rate: float

    @property
    def updates(self) -> tuple[Pairs, ...]:
        """Every batch in order, all epochs."""
        return self.batches * self.epochs


@dataclass(frozen=True)
class Fit:
    """One fit: CPU seconds of this process, and interchange accuracy on the held-out pairs."""

    seconds: float
    iia: float


class Rival:
    """pyvene's interventions on one network.

    Args:
        model: `pyvene.IntervenableModel`.
        inputs: the name under which the network takes its inputs.
        blocks: coordinates of each variable; None where one variable has all of them.
        where: the position of the intervention.
        more: what else the network is called with.
    """

    def __init__(
        self, model: Any, inputs: str, blocks: list[list[int]] | None, where: int, **more: Any
    ) -> None:
        self.model, self.inputs, self.blocks, self.where = model, inputs, blocks, where
        self.more = more

    def logits(self, rows: Tensor, pairs: Pairs) -> Float[Tensor, "pair answer"]:
        """Return the logits of a batch in which the same variables are active everywhere."""
        on = pairs.active[0].tolist()
        sources = [
            self._batch(rows.index_select(0, pairs.sources[:, i])) if active else None
            for i, active in enumerate(on)
        ]
        subspaces = None
        if self.blocks is not None:
            chosen = zip(on, self.blocks, strict=True)
            subspaces = [[block] * len(pairs) if active else None for active, block in chosen]
        _, out = self.model(
            self._batch(rows.index_select(0, pairs.base)),
            sources,
            {"sources->base": self.where},
            subspaces=subspaces,
        )
        return out if isinstance(out, Tensor) else out.logits[:, -1]

    def fit(self, rows: Tensor, updates: Sequence[Pairs], learning_rate: float) -> None:
        """Update the rotation on each batch in turn."""
        (first, *_) = self.model.interventions.values()
        optimiser = torch.optim.Adam(first.parameters(), lr=learning_rate)
        for pairs in updates:
            loss = cross_entropy(self.logits(rows, pairs), pairs.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def right(self, rows: Tensor, held_out: Sequence[Pairs]) -> Bool[Tensor, " pair"]:
        """Return whether the first choice is what the algorithm says, pair by pair."""
        return torch.cat([self.logits(rows, part).argmax(1) == part.labels for part in held_out])

    def _batch(self, rows: Tensor) -> dict[str, Any]:
        return {self.inputs: rows, **self.more}


def on_classifier(net: nn.Sequential, layer: str, phi: Rotation) -> Rival:
    """`RotatedSpaceIntervention` on a classifier, one for each variable, their rotation shared."""
    import pyvene  # pyright: ignore[reportMissingImports]

    rotation = pyvene.RotatedSpaceIntervention(embed_dim=phi.d)
    rotation.rotate_layer.weight = phi.basis().detach()
    kind = pyvene.RepresentationConfig
    where = f"net.{layer}.output"
    sites = [kind(0, where, "pos", 1, intervention=rotation, intervention_link_key=0)
             for _ in phi.blocks]  # fmt: skip
    with _without_warnings():
        model = pyvene.IntervenableModel(
            pyvene.IntervenableConfig(sites), model=_Positions(copy.deepcopy(net)), use_fast=True
        )
    return Rival(model, "rows", [list(block) for block in phi.blocks.values()], 0)


def on_language_model(hf: Any, layer: int, phi: Rotation, position: int) -> Rival:
    """`LowRankRotatedSpaceIntervention` behind a block, at one position of every prompt."""
    import pyvene  # pyright: ignore[reportMissingImports]

    basis = phi.basis().detach()
    turn = pyvene.LowRankRotatedSpaceIntervention(
        embed_dim=phi.d, low_rank_dimension=basis.shape[1]
    )
    columns: Any = turn.rotate_layer
    columns.weight = basis
    columns.parametrizations.weight[0].base = phi.turn.base.clone()
    site = pyvene.RepresentationConfig(layer, "block_output", "pos", 1, intervention=turn)
    with _without_warnings():
        model = pyvene.IntervenableModel(
            pyvene.IntervenableConfig([site]), model=twin(hf), use_fast=True
        )
    return Rival(model, "input_ids", None, position, use_cache=False, logits_to_keep=1)


class _Positions(nn.Module):
    """A classifier as pyvene takes it: states have a position, of which there is one."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net
        self.config, self.device = SimpleNamespace(to_dict=dict), torch.device("cpu")

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows[:, None])[:, 0]


def start(work: Work, cut: Cut, seed: int) -> Rotation:
    """Return the map from which both start."""
    return Rotation(cut.d, consecutive_blocks(work.train.variables, work.size), seed=seed)


def ours(work: Work, seed: int) -> Fit:
    """Fit with this workbench: the cut, the fit and its validation are all timed."""
    test = work.subject.cut(work.test.inputs)
    updates = work.updates
    budget = Budget(
        steps=len(updates),
        batch=len(updates[0]),
        learning_rate=work.learning_rate,
        check_every=len(updates),
        patience=len(updates),
        plateau=len(updates),
    )
    begun = time.process_time()
    cut = work.subject.cut(work.train.inputs)
    phi = start(work, cut, seed)
    found = fit(
        cut, phi, lambda step: updates[step - 1], budget, validation=(test, work.held_out[0])
    )
    seconds = time.process_time() - begun
    right = torch.cat([score(test, found.map, part).right for part in work.held_out])
    return Fit(seconds, float(right.double().mean()))


def theirs(work: Work, rival: Rival) -> Fit:
    """Fit with pyvene: its loop is timed, and neither its set-up nor its scores."""
    begun = time.process_time()
    rival.fit(work.train.inputs, work.updates, work.learning_rate)
    seconds = time.process_time() - begun
    right = rival.right(work.test.inputs, work.held_out)
    return Fit(seconds, float(right.double().mean()))


def batched(table: Table, n: int, size: int, seed: int) -> tuple[Pairs, ...]:
    """Draw n batches, whose sets of active variables come in turn: each one, then all."""
    stream = torch.Generator().manual_seed(seed)
    n_variables = len(table.variables)
    sets = torch.eye(n_variables, dtype=torch.bool)
    if n_variables > 1:
        sets = torch.cat([sets, torch.ones(1, n_variables, dtype=torch.bool)])
    found = []
    for i in range(n):
        base = torch.randint(0, len(table), (size,), generator=stream)
        sources = torch.randint(0, len(table), (size, n_variables), generator=stream)
        found.append(table.label(base, sources, sets[i % len(sets)].expand(size, -1)))
    return tuple(found)


# ---------------------------------------------------------------- letters, for a language model


def letters(model: Model) -> Int[Tensor, " letter"]:
    """Return the token of each letter of the alphabet, as it follows a word.

    Raises:
        InputError: a letter is not one token, so prompts would differ in length.
    """
    ids = [model.tokenizer(f" {letter}", add_special_tokens=False)["input_ids"]
           for letter in ALPHABET]  # fmt: skip
    long = [letter for letter, tokens in zip(ALPHABET, ids, strict=True) if len(tokens) != 1]
    if long:
        raise InputError(
            f"{model.name} writes {', '.join(long)} as several tokens, and the prompts must be of "
            "equal length: choose another model."
        )
    return torch.tensor([tokens[0] for tokens in ids])


def runs(model: Model, n: int, seed: int) -> tuple[Table, float]:
    """Return n prompts such as `K L M N. E F G H. P Q R S` that the model continues rightly.

    The algorithm has one variable, the last letter, and answers with its successor. Prompts differ
    in all three runs. Also returns the share of drawn prompts that the model continues rightly.
    """
    tokens = letters(model)
    successor = CausalModel(
        "successor",
        ("letter",),
        (
            Variable("last", ("letter",), torch.clone),
            Variable("next", ("last",), lambda last: tokens[last + 1]),
        ),
        "next",
    )
    stream = torch.Generator().manual_seed(seed)
    firsts = torch.rand(4 * n, len(ALPHABET) - RUN, generator=stream).argsort(1)[:, :3]
    texts = [". ".join(_run(int(first)) for first in row) for row in firsts]
    ids = torch.tensor(model.tokenizer([f"The alphabet: {text}" for text in texts])["input_ids"])
    last = firsts[:, -1] + RUN - 1
    right = _continued(model, ids) == tokens[last + 1]
    if int(right.sum()) < n:
        raise InputError(
            f"{model.name} continues only {int(right.sum())} of {4 * n} runs of letters rightly, "
            f"and {n} are needed: ask for fewer, or choose another model."
        )
    rows = right.nonzero().flatten()[:n]
    values = successor.run({"letter": last[rows]})
    table = Table(successor, ("last",), ids[rows], values, uniform)
    return table, float(right.double().mean())


def _run(first: int) -> str:
    return " ".join(ALPHABET[first : first + RUN])


@torch.no_grad()
def _continued(model: Model, ids: Int[Tensor, "prompt pos"]) -> Int[Tensor, " prompt"]:
    parts = [model.hf(part, logits_to_keep=1).logits[:, -1].argmax(1) for part in ids.split(32)]
    return torch.cat(parts)


def split(table: Table, n: int) -> tuple[Table, Table]:
    """Return the first n inputs of a table and the others, each as a table."""
    return _some(table, slice(0, n)), _some(table, slice(n, None))


def _some(table: Table, rows: slice) -> Table:
    values = {name: value[rows] for name, value in table.values.items()}
    return replace(table, inputs=table.inputs[rows], values=values)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """pyvene says by the root logger that positions are the same in a batch, which is wanted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
