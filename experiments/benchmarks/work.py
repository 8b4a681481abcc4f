"""What is timed: the prompts, the models and the shape of a job. No system is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import interp
from interp.engine.model import Model
from interp.errors import InputError
from interp.models import tiny
from interp.sites import Site

CLEAN = "Then, when Mary and John went to the store, John gave a drink to"
CORRUPTED = "Then, when Mary and John went to the store, Mary gave a drink to"
STORY = (
    "The morning was quiet and the street lay empty. A baker opened his door, put out a board and "
    "looked at the sky. Two children ran past with a red kite, and an old man followed them slowly "
    "with a dog on a long lead. Nobody was in a hurry, for it was the first day of the holidays. "
    "At noon the bells rang, the shops shut and the whole town sat down to eat. "
)
"""Text of our own that stands before a short prompt to make it long."""
OPENING = "Here is a long story. Once upon a time, in a small village by the sea, there lived"
"""A prompt that a model goes on with for long, so that no generation ends early."""

STRENGTH = 0.2
"""Norm of the added vector in norms of the residual stream: enough to change what is written."""


class Refusal(Exception):
    """A system will not do this work; the text is its own."""


@dataclass(frozen=True, eq=False)
class Job:
    """How one system does a task: what it does once, and what it does for each part of the work.

    A job that does only a stated sample says which share of the parts that is; its time is then
    `once + each / share`. Wrapping a model is set-up: it happens before a job exists, untimed.
    """

    each: Callable[[Any], Any]
    """Takes what `once` gave and returns the numbers."""
    once: Callable[[], Any] = lambda: None
    share: float = 1.0
    compared: Callable[[Any], Tensor] = lambda values: values
    """Picks from the numbers those that every system gives; untimed."""


@dataclass(frozen=True)
class Setting:
    """Which models and where: `quick` takes tiny ones and does every part of the work."""

    quick: bool = False
    full: bool = False
    """Rivals do all the work, not a sample."""
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Pair:
    """One prompt pair; the metric is the logit of `correct` less that of `wrong`, at the end."""

    model: Model
    """Our model; `model.hf` is the plain Hugging Face model that rivals wrap or hook."""
    clean: Int[Tensor, "1 pos"]
    corrupted: Int[Tensor, "1 pos"]
    correct: int
    wrong: int

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """Return the logit difference in nats."""
        return logits[:, self.correct] - logits[:, self.wrong]


@dataclass(frozen=True, eq=False)
class Grid(Pair):
    """Denoise `resid_pre` at every layer and each of some positions."""

    positions: tuple[int, ...]
    sample: tuple[int, ...]
    """The layers that a rival does."""

    @property
    def share(self) -> float:
        """The share of all layers that a rival does."""
        return len(self.sample) / self.model.sizes.n_layers


@dataclass(frozen=True, eq=False)
class Paths(Pair):
    """Patch the direct path from every head to the q, k and v of every later head."""

    sender: tuple[int, int]
    """Layer and head: rivals do the edges that leave this head."""
    whole: bool = False
    """This workbench does every edge, not those that leave one head of each layer."""

    @property
    def n_edges(self) -> int:
        """Every head to every later head's q, k and v."""
        n_layers, n_heads = self.model.sizes.n_layers, self.model.sizes.n_heads
        return 3 * n_heads**2 * n_layers * (n_layers - 1) // 2

    @property
    def share(self) -> float:
        """The share of all edges that leave `sender`."""
        later = self.model.sizes.n_layers - 1 - self.sender[0]
        return 3 * later * self.model.sizes.n_heads / self.n_edges


@dataclass(frozen=True, eq=False)
class Steer:
    """Add one vector to the residual stream before the middle layer, at every token."""

    model: Model
    ids: Int[Tensor, "batch pos"]
    vector: Float[Tensor, " d_model"]
    n_new: int = 0
    """How many tokens to write; 0 for a single forward pass."""

    @property
    def layer(self) -> int:
        """Where the vector is added."""
        return self.model.sizes.n_layers // 2

    def all_new(self, ids: Int[Tensor, "batch new"]) -> Int[Tensor, "batch new"]:
        """Return new tokens as they are.

        Raises:
            InputError: a generation ended early, so times would not compare.
        """
        if ids.shape[-1] != self.n_new:
            raise InputError(
                f"A generation of {self.n_new} tokens ended after {ids.shape[-1]}: choose a "
                "prompt that the model goes on with, so that all systems write as many tokens."
            )
        return ids


@dataclass(frozen=True, eq=False)
class Attribution(Pair):
    """Score every edge by integrated gradients along the corrupted-to-clean path."""

    steps: int = 5


def patch_grid(setting: Setting) -> Grid:
    """Every layer and position of a 16-token pair."""
    pair = _text_pair(setting, length=None)
    return _grid(setting, pair, range(pair.clean.shape[1]), n_sampled=3)


def patch_late(setting: Setting) -> Grid:
    """Every layer, the last 16 positions of a 96-token pair."""
    pair = _text_pair(setting, length=64 if setting.quick else 96)
    n = pair.clean.shape[1]
    return _grid(setting, pair, range(n - 16, n), n_sampled=2)


def path_all(setting: Setting) -> Paths:
    """A model of GPT-2 small's shape with random weights and random prompts of 16 tokens."""
    if setting.quick:
        hf: PreTrainedModel = tiny.build("tiny-gpt2")
    else:
        hf = random_gpt2()
    model = interp.load(hf.to(setting.device), tokenizer=tiny.tokenizer())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(3, 300, (2, 1, 16), generator=generator)
    sender = (0 if setting.quick else model.sizes.n_layers - 2, 1)
    at = model.device
    whole = setting.quick or setting.full
    return Paths(model, clean.to(at), corrupted.to(at), 5, 7, sender=sender, whole=whole)


def edit_overhead(setting: Setting) -> Steer:
    """Four prompts of 16 tokens on SmolLM2, one forward pass."""
    return _steer(_language_model(setting), n_rows=4, n_new=0)


def edit_overhead_tiny(setting: Setting) -> Steer:
    """The same on a three-layer model, where a forward pass takes milliseconds."""
    return _steer(interp.load("tiny-llama", device=setting.device), n_rows=4, n_new=0)


def steer_overhead(setting: Setting) -> Steer:
    """One prompt and 24 new tokens, written greedily."""
    return _steer(_language_model(setting), n_rows=1, n_new=24)


def attribution(setting: Setting) -> Attribution:
    """The 16-token pair, five steps."""
    pair = _text_pair(setting, length=None)
    return Attribution(**vars(pair))


def random_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """GPT-2 small's shape; block matrices three times as wide as usual, so that paths matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = GPT2LMHeadModel(GPT2Config()).eval()
    with torch.no_grad():
        for name, weight in hf.transformer.h.named_parameters():
            if weight.ndim == 2 and not name.endswith("bias"):
                weight.mul_(3)
    hf.config.architectures = ["GPT2LMHeadModel"]
    return hf


def blocks(hf: Any) -> Any:
    """Return the decoder blocks of a plain Llama-like or GPT-2-like model."""
    decoder = hf.get_decoder()
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def _language_model(setting: Setting) -> Model:
    name = "tiny-llama" if setting.quick else "smollm2-135m"
    return interp.load(name, device=setting.device)


def _text_pair(setting: Setting, *, length: int | None) -> Pair:
    model = _language_model(setting)
    short = length is None
    clean, corrupted = (_ids(model, text, special=short) for text in (CLEAN, CORRUPTED))
    if not short:
        story = _ids(model, STORY, special=True)[:, : length - clean.shape[1]]
        clean, corrupted = (torch.cat([story, ids], dim=1) for ids in (clean, corrupted))
    answers = [model.tokenizer(name, add_special_tokens=False) for name in (" Mary", " John")]
    correct, wrong = (int(answer["input_ids"][0]) for answer in answers)
    return Pair(model, clean, corrupted, correct, wrong)


def _ids(model: Model, text: str, *, special: bool) -> Int[Tensor, "1 pos"]:
    ids = model.tokenizer(text, add_special_tokens=special)["input_ids"]
    return torch.tensor([ids], device=model.device)


def _grid(setting: Setting, pair: Pair, positions: range, *, n_sampled: int) -> Grid:
    """Let rivals do some layers, spread evenly: what they cost does not depend on the layer."""
    n = pair.model.sizes.n_layers
    whole = setting.quick or setting.full
    n_sampled = n if whole else n_sampled
    sample = tuple((2 * i + 1) * n // (2 * n_sampled) for i in range(n_sampled))
    return Grid(**vars(pair), positions=tuple(positions), sample=sample)


def _steer(model: Model, *, n_rows: int, n_new: int) -> Steer:
    ids = model.tokens(OPENING if n_new else CLEAN).ids
    generator = torch.Generator().manual_seed(2)
    vector = torch.randn(model.sizes.d_model, generator=generator).to(model.device)
    site = Site("resid_pre", model.sizes.n_layers // 2)
    usual = model.run(ids, capture=[site], logits="last").acts[str(site)].norm(dim=-1).median()
    return Steer(model, ids.expand(n_rows, -1), STRENGTH * usual * vector / vector.norm(), n_new)
