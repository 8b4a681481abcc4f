"""Edits of attention patterns: knock edges out, scale a span of keys, or put another map in place.

All of them act at `<layer>.attn.pattern`. Their `positions` are queries, their `keys` are logical
tokens too, and what a query cannot see (later tokens, and tokens outside a sliding window) keeps
its weight of zero whatever an edit says. With `renormalise` a row that the edit changed is divided
by its sum, so that it sums to 1; a row that it did not change keeps its bits. In a model, only the
layers so edited lose the fast kernel.

Sources: Geva et al. 2023, arXiv:2304.14767 (attention knockout); Li et al. 2024, arXiv:2410.04780
(the counterfactual maps of CausalMM).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edits import Act, Edit, Where
from interp.errors import EditError, PositionError, SilentEditError
from interp.sites import Each, Site

Kind = Literal["uniform", "reversed", "shuffled", "random"]
"""The counterfactual maps that `ReplacePattern` makes."""


@dataclass(frozen=True, eq=False)
class AttentionEdit(Edit):
    """What edits of attention patterns share: the site, and rows that sum to 1.

    Raises:
        EditError: the site is no attention pattern, or `units` are given.
    """

    _: KW_ONLY
    renormalise: bool = True
    """Divide each changed row by its sum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if Site.parse(self.site).component != "attn.pattern":
            raise EditError(
                f"{type(self).__name__} edits attention patterns, not {self.site}: write a site "
                "such as 5.attn.pattern."
            )
        if self.units is not None:
            raise EditError(
                f"{self}: the units of a pattern are keys, and an edit of part of a row cannot "
                "keep its sum; leave units out and name keys= where the edit takes them."
            )

    @abstractmethod
    def weights(
        self, pattern: Float[Tensor, "n head key"], where: Where
    ) -> Float[Tensor, "n head key"]:
        """Return the new weights before they are renormalised; those of unseen keys are dropped."""

    def new(self, act: Act, where: Where) -> Act:
        """Return each named query's row of weights, renormalised if asked.

        Raises:
            EditError: a changed row sums to nothing, so it cannot be renormalised.
        """
        assert where.keys is not None
        exact = act.to(torch.promote_types(act.dtype, torch.float32))
        seen = where.keys[:, None]
        made = torch.where(seen, self.weights(exact, where), 0.0)
        changed = (made != exact).any(-1, keepdim=True)
        if self.renormalise:
            total = made.sum(-1, keepdim=True)
            self._require_weight(changed & ~(total > 0), where)
            made = made / torch.where(changed, total, 1.0)
        return torch.where(changed, made.to(act), act)

    def _require_weight(self, empty: Bool[Tensor, "n head 1"], where: Where) -> None:
        at = empty.any(1)[:, 0].nonzero()[:, 0].tolist()
        if at:
            raise EditError(
                f"{self} leaves query {int(where.pos[at[0]])} of prompt {int(where.rows[at[0]])} "
                "no weight at all, so its row cannot sum to 1: pass renormalise=False, or leave it "
                "a key that it attends to."
            )

    def _described(self, *parts: str) -> str:
        more = [*parts, *([] if self.renormalise else ["renormalise=False"])]
        return ", ".join([super().__str__()[:-1], *more]) + ")"

    def __str__(self) -> str:
        return self._described()


@dataclass(frozen=True, eq=False)
class _KeyedEdit(AttentionEdit):
    """An edit of the weights on some keys."""

    _: KW_ONLY
    keys: Any
    """Logical positions of the keys, one or several; `Each` names them for each prompt."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", _parsed_keys(self.keys))
        super().__post_init__()

    @property
    @abstractmethod
    def factor_on_keys(self) -> float:
        """What the weights on the named keys are multiplied by."""

    def weights(
        self, pattern: Float[Tensor, "n head key"], where: Where
    ) -> Float[Tensor, "n head key"]:
        """Return the rows with the named keys' weights multiplied."""
        assert where.keys is not None
        named = self._named(where.rows, where.n_rows, pattern.shape[-1])
        return torch.where(named[:, None], pattern * self.factor_on_keys, pattern)

    def check(
        self, due: Bool[Tensor, "batch limit"], window: int | None, token: tuple[int, ...] | None
    ) -> None:
        """Refuse keys that no named query of a prompt sees, and queries that see no others.

        Raises:
            PositionError: a key past the end.
            SilentEditError: a prompt where no named query sees a named key.
            EditError: a query that would have nothing left to attend to.
        """
        rows, pos = due.nonzero(as_tuple=True)
        named = self._named(rows, *due.shape)
        back = pos[:, None] - torch.arange(due.shape[1], device=pos.device)
        seen = (back >= 0) & (back < (window or due.shape[1]))
        self._require_sight(named & seen, rows)
        if self.renormalise and self.factor_on_keys == 0:
            self._require_a_rest(seen & ~named, rows, pos)

    def _named(self, rows: Int[Tensor, " n"], n_rows: int, n_keys: int) -> Bool[Tensor, "n key"]:
        """Which keys are named for the prompt of each entry."""
        each = isinstance(self.keys, Each)
        if each and len(self.keys.prompts) != n_rows:
            raise PositionError(
                f"{self}: keys name positions for {len(self.keys.prompts)} prompts and the batch "
                f"has {n_rows}; give one tuple a prompt."
            )
        table = torch.zeros(n_rows, n_keys, dtype=torch.bool)
        for row in rows.unique().tolist():
            keys = self.keys.prompts[row] if each else self.keys
            if max(keys) >= n_keys:
                raise PositionError(
                    f"{self}: key {max(keys)} is past the end: the model sees at most {n_keys} "
                    "tokens of a prompt."
                )
            table[row, list(keys)] = True
        return table.to(rows.device)[rows]

    def _require_sight(self, hit: Bool[Tensor, "n key"], rows: Int[Tensor, " n"]) -> None:
        seeing = rows[hit.any(1)].unique().tolist()
        blind = [row for row in rows.unique().tolist() if row not in seeing]
        if blind:
            raise SilentEditError(
                f"{self} would change nothing: no query that it names in prompt {blind[0]} sees "
                "any of these keys. Name keys that are not later than the queries, and inside the "
                "layer's window."
            )

    def _require_a_rest(
        self, rest: Bool[Tensor, "n key"], rows: Int[Tensor, " n"], pos: Int[Tensor, " n"]
    ) -> None:
        bare = (~rest.any(1)).nonzero()[:, 0].tolist()
        if bare:
            raise EditError(
                f"{self} leaves query {int(pos[bare[0]])} of prompt {int(rows[bare[0]])} no key "
                "to attend to, so its row cannot sum to 1: pass renormalise=False, or leave the "
                "query out."
            )

    def __str__(self) -> str:
        return self._described(f"keys={self.keys}")


@dataclass(frozen=True, eq=False)
class Knockout(_KeyedEdit):
    """Cut attention edges: the named queries (`positions`) give the named keys a weight of 0.

    >>> str(Knockout("5.attn.pattern", positions=7, keys=(0, 2)))
    'Knockout(5.attn.pattern, positions=(7,), keys=(0, 2))'

    Source: Geva et al. 2023, arXiv:2304.14767, who set the scores to minus infinity: the same as
    weights of zero and rows that sum to 1.
    """

    @property
    def factor_on_keys(self) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True, eq=False)
class ScaleAttention(_KeyedEdit):
    """Multiply the attention of the named queries to the named keys by a factor of 0 or more.

    Renormalised, this adds ln(factor) to the scores of those keys.

    Raises:
        EditError: the factor is negative or not finite.
    """

    _: KW_ONLY
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.factor < math.inf:
            raise EditError(
                f"{self}: factor={self.factor}; attention is never negative, so give 0 or a "
                "positive number."
            )

    @property
    def factor_on_keys(self) -> float:
        """The factor."""
        return float(self.factor)

    def __str__(self) -> str:
        return self._described(f"keys={self.keys}", f"factor={self.factor}")


@dataclass(frozen=True, eq=False)
class ReplacePattern(AttentionEdit):
    """Replace the rows of a pattern: by another run's, or by a counterfactual of their own.

    Give `source`, or `kind`, over the keys that a query sees:

        uniform    the mean of the row
        reversed   the largest weight less each weight; a flat row stays as it is if renormalised
        shuffled   the row's weights, permuted
        random     uniform on [0, 2]

    What is drawn depends on the seed, the layer, the head and the logical positions of query and
    key, never on the batch, the padding or the cache. One seed gives every prompt the same draws; a
    tuple gives each prompt of the batch its own.

    Source of the kinds: CausalMM, Li et al. 2024, arXiv:2410.04780.

    Raises:
        EditError: not one of kind and source, an unknown kind, a wrong seed, or a source of
            another shape.
        PositionError: the source has no such query.
    """

    _: KW_ONLY
    kind: Kind | None = None
    source: Float[Tensor, "batch head pos_q pos_k"] | None = None
    """A pattern as a run captures it, one prompt a prompt of the batch."""
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind is None) == (self.source is None):
            raise EditError(
                f"{self}: give kind ({', '.join(get_args(Kind))}) or source, one of both."
            )
        if self.kind is not None and self.kind not in get_args(Kind):
            raise EditError(
                f"{self}: there is no kind {self.kind!r}; there are {', '.join(get_args(Kind))}."
            )
        if self.source is not None and self.source.ndim != 4:
            raise EditError(
                f"{self}: the source has shape {list(self.source.shape)}; give [batch, head, "
                "pos_q, pos_k], such as run.acts['5.attn.pattern']."
            )
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        if not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
            raise EditError(f"{self}: seed={self.seed}; give whole numbers from 0 to 2**31 - 1.")

    def weights(
        self, pattern: Float[Tensor, "n head key"], where: Where
    ) -> Float[Tensor, "n head key"]:
        """Return the rows of the source, or the counterfactual ones."""
        assert where.keys is not None
        seen = where.keys[:, None].expand_as(pattern)
        match self.kind:
            case None:
                return self._from_source(where, pattern.shape[-1]).to(pattern)
            case "uniform":
                mean = pattern.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
                return mean.expand_as(pattern)
            case "reversed":
                turned = pattern.amax(-1, keepdim=True) - pattern
                flat = torch.where(seen, turned, 0.0).sum(-1, keepdim=True) == 0
                return torch.where(flat & self.renormalise, pattern, turned)
            case "shuffled":
                return shuffled(pattern, seen, self._draws(where))
            case _:
                return (2 * self._draws(where)).to(pattern)

    def check(
        self, due: Bool[Tensor, "batch limit"], window: int | None, token: tuple[int, ...] | None
    ) -> None:
        """Refuse a source, or seeds, that do not cover the prompts and the queries `due`."""
        if self.source is not None:
            self._require_source(len(due), int(due.any(0).nonzero().max()))
        self._seeds(len(due))

    def _require_source(self, n_rows: int, last: int) -> None:
        assert self.source is not None
        n_prompts, _, n_queries, _ = self.source.shape
        if n_prompts != n_rows:
            raise EditError(
                f"{self}: the source holds {n_prompts} prompts and the batch {n_rows}; expand the "
                "source to one entry a prompt."
            )
        if last >= n_queries:
            raise PositionError(
                f"{self}: the source of {n_queries} tokens has no query {last}; capture it from a "
                "prompt that is long enough, or name fewer positions."
            )

    def _from_source(self, where: Where, n_keys: int) -> Float[Tensor, "n head key"]:
        assert self.source is not None and where.keys is not None
        self._require_source(where.n_rows, int(where.pos.max()))
        if self.source.shape[1] != where.token[0]:
            raise EditError(
                f"{self}: the source has {self.source.shape[1]} heads and the model "
                f"{where.token[0]}; capture it from the same model."
            )
        device = self.source.device
        rows = self.source[where.rows.to(device), :, where.pos.to(device)].to(where.keys.device)
        short = n_keys - rows.shape[-1]
        rows = torch.nn.functional.pad(rows, (0, short)) if short > 0 else rows[..., :n_keys]
        rows = torch.where(where.keys[:, None], rows, 0.0)
        if rows.isnan().any():
            raise EditError(f"{self}: the source is NaN at a named query: that is padding.")
        return where.select(rows)

    def _seeds(self, n_rows: int) -> tuple[int, ...]:
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,) * n_rows
        if len(seeds) != n_rows:
            raise EditError(
                f"{self}: there are {len(seeds)} seeds and {n_rows} prompts; give one for each "
                "prompt, or one number for all."
            )
        return seeds

    def _draws(self, where: Where) -> Float[Tensor, "n head key"]:
        layer = Site.parse(self.site).layer
        assert layer is not None
        seeds = torch.tensor(self._seeds(where.n_rows), device=where.rows.device)[where.rows]
        return where.select(draws(seeds, layer, where.pos, *where.token))

    def __str__(self) -> str:
        what = "source" if self.kind is None else f"kind={self.kind}"
        seed = [f"seed={self.seed}"] if self.kind in ("shuffled", "random") else []
        return self._described(what, *seed)


def _parsed_keys(keys: Any) -> tuple[int, ...] | Each:
    if isinstance(keys, Each):
        return keys
    several = (keys,) if isinstance(keys, int) else keys
    many = tuple(several) if isinstance(several, Iterable) else ()
    if not many or len(set(many)) != len(many) or any(type(k) is not int or k < 0 for k in many):
        raise PositionError(
            f"keys={keys!r}: give logical positions from 0, each once, such as (0, 3), or Each."
        )
    return many


def shuffled(
    pattern: Float[Tensor, "n head key"],
    seen: Bool[Tensor, "n head key"],
    order: Float[Tensor, "n head key"],
) -> Float[Tensor, "n head key"]:
    """Permute each row's weights among the keys that it sees.

    The k-th seen key gets the weight of the key whose `order`, in [0, 1), is the k-th smallest.

    >>> row = torch.tensor([[[0.7, 0.2, 0.1, 0.0]]])
    >>> shuffled(row, row > 0, torch.tensor([[[0.5, 0.9, 0.1, 0.0]]]))
    tensor([[[0.1000, 0.7000, 0.2000, 0.0000]]])
    """
    target = (~seen).to(torch.int8).argsort(dim=-1, stable=True)
    origin = torch.where(seen, order, 2.0).argsort(dim=-1, stable=True)
    return torch.zeros_like(pattern).scatter(-1, target, pattern.gather(-1, origin))


def draws(
    seeds: Int[Tensor, " n"], layer: int, pos: Int[Tensor, " n"], n_heads: int, n_keys: int
) -> Float[Tensor, "n head key"]:
    """Draw a float64 in [0, 1) for each entry, head and key, from a hash of what names it.

    The hash is SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) over seed, layer,
    query, head and key in turn, so a draw is the same in any batch and for any number of keys.
    """
    heads = torch.arange(n_heads, device=pos.device)[:, None]
    keys = torch.arange(n_keys, device=pos.device)
    state = _mixed(_mixed(_mixed(seeds) + layer) + pos)[:, None, None]
    state = _mixed(_mixed(state + heads) + keys)
    return _shifted(state, 11).double() * 2.0**-53


def _mixed(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """One step of SplitMix64, in 64-bit integers that wrap round."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Shift right as an unsigned number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
