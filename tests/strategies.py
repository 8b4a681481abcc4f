"""Every Hypothesis strategy of the edit laws, and the small models and helpers that tests share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    Swap,
    ZeroAblate,
)
from interp.engine.loading import load
from interp.engine.model import Model
from interp.models.addresses import AddressBook, Sizes
from interp.sites import ATTENTION_MAPS, LAYER_COMPONENTS, MODEL_COMPONENTS, Site

# ---------------------------------------------------------------- models


@cache
def tiny(name: str, dtype: str = "float32") -> Model:
    """Return a tiny model behind the torch engine, built once."""
    return load(name, dtype=dtype)


R = torch.tensor([1.0, 2.0, 3.0, 4.0])
"""The toy embeds token t as t * R."""

TOY_SITES = ("resid_pre", "attn.v", "attn.z", "attn_out", "resid_mid", "mlp_out", "resid_post")


class ToyModel(Model):
    """A one-layer network small enough to work out by hand; every number is a whole number.

    Token t is embedded as x = t * (1, 2, 3, 4). Two key-value groups hold (x0, x1) and (x2, x3);
    heads 0 and 1 copy the first, heads 2 and 3 the second, and the output projection adds the
    heads of each group: attn_out = 2 x. The MLP returns ten times what it reads, and the
    unembedding is the identity. So without edits

        resid_mid = x + 2 x = 3 x     mlp_out = 30 x     logits = resid_post = 33 x

    and a residual stream of m at resid_mid gives logits of 11 m. Positions do not mix.
    """

    engine = "toy"

    def __init__(self) -> None:
        config = GPT2Config(n_embd=4, n_layer=1, n_head=4, vocab_size=4, n_positions=16)
        with torch.random.fork_rng(devices=[]):
            super().__init__(GPT2LMHeadModel(config).eval(), None, "toy")  # for its configuration
        self.sizes = Sizes(
            n_layers=1, n_heads=4, n_kv_heads=2, d_model=4, d_head=2, d_vocab=4, n_ctx=16
        )

    @cached_property
    def book(self) -> AddressBook:
        known = {*TOY_SITES, "embed", "logits"}
        lacking = [*LAYER_COMPONENTS, *MODEL_COMPONENTS]
        block = {"": "transformer.h.0", "attn": "transformer.h.0.attn"}  # whose weights are priced
        return AddressBook(
            self.hf,
            self.sizes,
            blocks=[block],
            refused={c: "a toy" for c in lacking if c not in known},
        )

    def forward(self, batch, taps, *, cache=None, keep=None):

        def at(site: str, act: Tensor) -> Tensor:
            tap = taps.get(Site.parse(site))
            new = None if tap is None else self.call(tap, act)
            return act if new is None else new

        x = at("0.resid_pre", at("embed", batch.ids[..., None] * R))
        v = at("0.attn.v", x.unflatten(-1, (2, 2)))
        z = at("0.attn.z", v.repeat_interleave(2, dim=2))
        mid = at("0.resid_mid", x + at("0.attn_out", (z[:, :, ::2] + z[:, :, 1::2]).flatten(2)))
        post = at("0.resid_post", mid + at("0.mlp_out", 10 * mid))
        return (post if keep is None else post[:, keep]), cache

    def call(self, tap: Callable[[Tensor], Tensor | None], act: Tensor) -> Tensor | None:
        """Call a tap, once; broken engines do otherwise."""
        return tap(act)


class DeafModel(ToyModel):
    """A broken engine: its taps never fire."""

    def call(self, tap, act):
        return None


class TwiceModel(ToyModel):
    """A broken engine: each of its taps fires twice."""

    def call(self, tap, act):
        tap(act)
        return tap(act)


# ---------------------------------------------------------------- helpers


def exactly(text: str) -> str:
    """A regular expression that only this whole text matches."""
    return f"^{re.escape(text)}$"


def says(error: type[Exception], text: str):
    """Expect an error with exactly this text."""
    return pytest.raises(error, match=exactly(text))


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two tensors whose NaN (no token) must lie in the same places."""
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isnan(), theirs.isnan())
    return float((ours - theirs).nan_to_num().abs().max())


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN included."""
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(
        ours.nan_to_num(), theirs.nan_to_num()
    )


@cache
def editable(name: str) -> tuple[str, ...]:
    """Every site of a tiny model that edits may name."""
    return tuple(tiny(name).sites)


def is_map(site: str) -> bool:
    """Whether a site is an attention map, whose entries are `[head, key]`."""
    return Site.parse(site).component in ATTENTION_MAPS


def one_of_each(name: str) -> list[str]:
    """One site of each component: in turn from layers 0, 1 and 2, so that no layer is special."""
    sites = [Site.parse(site) for site in editable(name)]
    components = list(dict.fromkeys(site.component for site in sites))
    layer = {component: i % 3 for i, component in enumerate(components)}
    return [str(site) for site in sites if site.layer in (None, layer[site.component])]


@cache
def token_shape(name: str, site: str, width: int = 2) -> tuple[int, ...]:
    """The shape of one token's activation at a site; a map has a key for each of `width` tokens."""
    if is_map(site):
        return tiny(name).sizes.n_heads, width
    return tuple(tiny(name).run([[5, 6]], capture=site).acts[site].shape[2:])


def by_token(site: str, act: Tensor) -> Tensor:
    """What was captured at a site as `[batch, pos, ...]`; in a map NaN at keys that no query sees.

    Only whole maps, and no sliding window: a query sees the keys up to its own.
    """
    if not is_map(site):
        return act
    later = torch.ones(act.shape[-2:], dtype=torch.bool).triu(1)
    return act.masked_fill(later, torch.nan).transpose(1, 2)


def cut(edit: Edit, row: int, n: int) -> Edit:
    """The edit of one prompt of a batch as it reads when that prompt has n tokens and runs alone.

    Its source, or its donor; and of a map the keys that exist there.
    """
    here = {key: value[..., :n] for key, value in tensors(edit).items() if is_map(str(edit.site))}
    if isinstance(edit, Patch):
        source = here.pop("source", edit.source)
        return replace(edit, source=source[row : row + 1], **here)
    if isinstance(edit, ResampleAblate):
        return replace(edit, donors=(edit.donor(row),), **here)
    return replace(edit, **here) if here else edit


def orthonormal(k: int, d: int, *, seed: int) -> Tensor:
    """Orthonormal rows `[k, d]`, k at most d."""
    q, _ = torch.linalg.qr(noise(d, k, seed=seed).double())
    return q.T.float()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that depend on the shape and the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


KINDS: Mapping[str, Callable[..., Edit]] = {
    "Patch": lambda site, rest, n, width, **at: Patch(
        site, source=noise(n, width, *rest, seed=1), **at
    ),
    "ZeroAblate": lambda site, rest, n, width, **at: ZeroAblate(site, **at),
    "MeanAblate": lambda site, rest, n, width, **at: MeanAblate(
        site, mean=noise(*rest, seed=2), **at
    ),
    "MeanAblate per position": lambda site, rest, n, width, **at: MeanAblate(
        site, mean=noise(width, *rest, seed=3), **at
    ),
    "ResampleAblate": lambda site, rest, n, width, **at: ResampleAblate(
        site, source=noise(5, width, *rest, seed=4), **at
    ),
    "Add": lambda site, rest, n, width, **at: Add(
        site, vector=noise(rest[-1], seed=5), coefficient=1.5, **at
    ),
    "Project outside": lambda site, rest, n, width, **at: Project(
        site, directions=noise(2, rest[-1], seed=6), **at
    ),
    "Project inside": lambda site, rest, n, width, **at: Project(
        site, directions=noise(3, rest[-1], seed=7), keep="inside", **at
    ),
    "Scale": lambda site, rest, n, width, **at: Scale(site, factor=-0.5, **at),
    "Clamp": lambda site, rest, n, width, **at: Clamp(site, low=-1.0, high=0.5, **at),
    "Clamp along": lambda site, rest, n, width, **at: Clamp(
        site, value=0.7, direction=noise(rest[-1], seed=8), **at
    ),
    "Swap": lambda site, rest, n, width, **at: Swap(
        site,
        source=noise(n, width, *rest, seed=9),
        basis=orthonormal(2, rest[-1], seed=10),
        **at,
    ),
}
"""Each kind of edit: how to make one at a site whose tokens have shape `rest`, for n prompts of at
most `width` tokens."""

MAP_KINDS: Mapping[str, Callable[..., Edit]] = {
    "Patch": lambda site, rest, n, width, **at: Patch(
        site, source=noise(n, rest[0], width, width, seed=1), **at
    ),
    "ZeroAblate": KINDS["ZeroAblate"],
    "MeanAblate": KINDS["MeanAblate"],
    "MeanAblate per position": lambda site, rest, n, width, **at: MeanAblate(
        site, mean=noise(rest[0], width, width, seed=3), **at
    ),
    "ResampleAblate": lambda site, rest, n, width, **at: ResampleAblate(
        site, source=noise(5, rest[0], width, width, seed=4), **at
    ),
    "Add": KINDS["Add"],
    "Scale": KINDS["Scale"],
}
"""The same at attention maps, whose sources are laid out as they are captured, `[head, query,
key]`. Clamp is no edit of a map here, as weights may lie within its bounds; and Project and Swap
mix keys that a query sees with keys that it does not."""


def kinds_at(site: str) -> Mapping[str, Callable[..., Edit]]:
    """The kinds of edit that a site takes."""
    return MAP_KINDS if is_map(site) else KINDS


def make(
    name: str, kind: str, site: str, prompts: list[list[int]], *, extra: int = 0, **at
) -> Edit:
    """An edit of a kind for these prompts, with sources for `extra` new tokens as well.

    A kind that a map does not take is replaced by one that it does.
    """
    width = max(map(len, prompts)) + extra
    kinds = kinds_at(site)
    if kind not in kinds:
        kind = sorted(kinds)[sorted(KINDS).index(kind) % len(kinds)]
    return kinds[kind](site, token_shape(name, site, width), len(prompts), width, **at)


def tensors(edit: Edit) -> dict[str, Tensor]:
    """The tensors that were passed to an edit."""
    return {key: value for key, value in vars(edit).items() if isinstance(value, Tensor)}


# ---------------------------------------------------------------- strategies

MODELS = ("tiny-gpt2", "tiny-llama")
names = st.sampled_from(MODELS)
kinds = st.sampled_from(sorted(KINDS))
token = st.integers(3, 340)


def prompts(max_rows: int = 3, max_length: int = 8) -> st.SearchStrategy[list[list[int]]]:
    """One to `max_rows` prompts of one to `max_length` token ids."""
    return st.lists(st.lists(token, min_size=1, max_size=max_length), min_size=1, max_size=max_rows)


def sites(name: str) -> st.SearchStrategy[str]:
    """A site of a tiny model that edits may name."""
    return st.sampled_from(editable(name))


def places(batch: list[list[int]]) -> st.SearchStrategy[tuple[int, ...]]:
    """Some positions that every prompt of the batch has, in any order."""
    shortest = min(map(len, batch))
    return st.lists(st.integers(0, shortest - 1), min_size=1, max_size=shortest, unique=True).map(
        tuple
    )


@dataclass(frozen=True)
class Case:
    """A model's name, prompts, and one edit of any kind at any site, positions and heads."""

    name: str
    batch: list[list[int]]
    kind: str
    site: str
    at: dict[str, Any]

    @property
    def edit(self) -> Edit:
        """The edit for the whole batch."""
        return make(self.name, self.kind, self.site, self.batch, **self.at)

    def alone(self, row: int) -> Edit:
        """The edit of one prompt as a batch of its own."""
        return cut(self.edit, row, len(self.batch[row]))


@st.composite
def edited(draw: st.DrawFn) -> Case:
    """Draw a case: values only, so that nothing runs while Hypothesis draws."""
    name, batch, kind = draw(names), draw(prompts()), draw(kinds)
    site = draw(sites(name))
    at: dict[str, Any] = {"positions": draw(st.one_of(st.just("all"), places(batch)))}
    if Site.parse(site).headed:
        some = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
        at["heads"] = draw(st.one_of(st.none(), some))
    return Case(name, batch, kind, site, at)


site_texts = st.one_of(
    st.sampled_from(MODEL_COMPONENTS),
    st.builds("{}.{}".format, st.integers(0, 99), st.sampled_from(LAYER_COMPONENTS)),
)
"""The written form of any site."""


@st.composite
def continuations(draw: st.DrawFn) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts and answers over few tokens, so that many share a prefix or are equal."""
    few = st.integers(5, 7)
    prompt = st.lists(few, min_size=1, max_size=9).map(tuple)
    answer = st.lists(few, min_size=1, max_size=3).map(tuple)
    return draw(st.lists(st.tuples(prompt, answer), min_size=1, max_size=8))
