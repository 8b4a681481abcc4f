"""Edits of a mixture of tokens: new weights, never a vector outside the hull of the embeddings.

For subjects whose nodes are mixtures (`interp.latent.soft_thinking`). A zero or a Gaussian vector
is nothing that such a model could have thought; here each edit is a rule from ids and weights to
ids and weights, and the vector fed is sum_i w_i E[i]. `TokenMix.mixture` gives the new ids and
weights, for records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import EditError
from interp.latent.operators import At, Operator, Resample, Stratum
from interp.latent.soft_thinking import Embed, Mixture, as_mixture, mixed
from interp.latent.state import Node

Weighted = tuple[Int[Tensor, "batch top"], Float[Tensor, "batch top"]]
"""Ids and weights, a sum of 1 a row."""


@dataclass(frozen=True)
class TokenMix(Operator):
    """An operator that changes the weights of a mixture, or its tokens."""

    label: str
    embed: Embed
    """The subject's `embed`."""
    rule: Callable[[Mixture, At], Weighted]
    giver: Resample | None = None
    """Names the donors, where the rule takes from them."""
    null: bool = False  # type: ignore[assignment]

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def mixture(self, node: Node, at: At) -> Weighted:
        """The ids and weights that are fed in place of the node's own.

        Raises:
            InputError: the node is no mixture.
        """
        return self.rule(as_mixture(node), at)

    def node(self, node: Node, at: At) -> Node:
        """The mean of the tokens' embeddings under the new weights; rows that ended stay empty.

        Raises:
            InputError: the node is no mixture.
        """
        own = as_mixture(node)
        ids, weights = self.rule(own, at)
        vectors = mixed(self.embed, ids, weights).to(own.vectors)
        alike = _same(own, ids, weights)  # the same weights are to be the same bits
        return Node(torch.where(alike[:, None, None], own.vectors, vectors), own.seen.clone())

    def donors(self, at: At) -> tuple[int | None, ...] | None:
        """Row of the calibration set that gives to each row, where one does."""
        return None if self.giver is None else self.giver.donors(at)


def keep_top(embed: Embed) -> TokenMix:
    """The heaviest token alone: what greedy decoding would have fed.

    Mixtures of one token stay as they are, and are marked.
    """

    def rule(own: Mixture, at: At) -> Weighted:
        best = own.weights.argmax(-1, keepdim=True)
        return own.ids, torch.zeros_like(own.weights).scatter(1, best, 1.0)

    return TokenMix("token_mix_keep_top", embed, rule)


def drop_top(embed: Embed) -> TokenMix:
    """All but the heaviest token, renormalised; where it was alone, the runner-up instead.

    Raises (when it acts):
        EditError: mixtures of one token have no runner-up.
    """

    def rule(own: Mixture, at: At) -> Weighted:
        if own.ids.shape[1] < 2:
            raise EditError("drop_top needs mixtures of 2 tokens or more: raise top_k.")
        best = own.weights.argmax(-1, keepdim=True)
        rest = own.weights.scatter(1, best, 0.0)
        alone = rest.sum(-1, keepdim=True) == 0
        second = torch.zeros_like(rest)
        second[:, 1] = 1.0  # ids come by rank, so a token that was alone is the first
        return own.ids, _normal(torch.where(alone, second, rest))

    return TokenMix("token_mix_drop_top", embed, rule)


def temper(embed: Embed, temperature: float) -> TokenMix:
    """Weights to the power 1 / temperature: sharper below 1, flatter above; 1 is the identity.

    Raises:
        EditError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise EditError(f"temper({temperature}): give a temperature above 0; 1 changes nothing.")

    def rule(own: Mixture, at: At) -> Weighted:
        kept = own.weights > 0
        powers = (own.weights.clamp(min=1e-30).double().log() / temperature).masked_fill(
            ~kept, -torch.inf
        )
        return own.ids, powers.softmax(-1).to(own.weights) if temperature != 1 else own.weights

    label = f"token_mix_temper_{temperature:g}"
    return TokenMix(label, embed, rule, null=temperature == 1)


def give_weights(embed: Embed, weights: Mapping[int, float], label: str = "given") -> TokenMix:
    """One mixture for all rows: token ids and their weights, which are scaled to a sum of 1.

    Raises:
        EditError: no weights, a negative one, or none above 0.
    """
    given = list(weights.values())
    if not given or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise EditError(
            f"give_weights: {dict(weights)} is no mixture: give one token or more, weights of 0 "
            "or more, and a finite sum above 0."
        )

    def rule(own: Mixture, at: At) -> Weighted:
        rows, device = len(own.ids), own.ids.device
        ids = torch.tensor(list(weights), device=device).expand(rows, -1)
        shares = torch.tensor(given, dtype=torch.float64) / sum(given)
        return ids, shares.to(own.weights).expand(rows, -1)

    return TokenMix(f"token_mix_{label}", embed, rule)


def donor_mix(embed: Embed, stratum: Stratum = "any", draw: int = 0) -> TokenMix:
    """Another problem's mixture at the same step.

    A row without a donor keeps its own; a thought that has ended by then gives nothing.

    Raises:
        EditError: there is no such stratum.
    """
    giver = Resample(stratum, draw)

    def rule(own: Mixture, at: At) -> Weighted:
        bank = as_mixture(at.calibration.nodes[at.step - 1])
        given = giver.donors(at)
        theirs = bank.take([i or 0 for i in given])
        has = torch.tensor([i is not None for i in given], device=own.ids.device)
        has = has[:, None]
        width = max(own.ids.shape[1], theirs.ids.shape[1])
        mine, other = _wide(own, width), _wide(theirs, width)
        return torch.where(has, other[0], mine[0]), torch.where(has, other[1], mine[1])

    name = giver.name.replace("resample", "token_mix_donor")
    return TokenMix(name, embed, rule, giver)


def _same(own: Mixture, ids: Tensor, weights: Tensor) -> Tensor:
    """For each row, whether ids and weights are the node's own."""
    if ids.shape != own.ids.shape:
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    unused = (weights == 0) & (own.weights == 0)
    return (((ids == own.ids) | unused) & (weights == own.weights)).all(-1)


def _wide(node: Mixture, width: int) -> Weighted:
    more = width - node.ids.shape[1]
    pad = torch.nn.functional.pad
    return pad(node.ids, (0, more)), pad(node.weights, (0, more))


def _normal(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
