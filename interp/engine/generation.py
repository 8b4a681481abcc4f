"""Writing on from prompts under edits, with or without a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.edits import Edit
from interp.engine.model import Model
from interp.engine.receipts import Receipt
from interp.engine.session import Session
from interp.errors import EditError, InputError
from interp.models import tokens
from interp.models.tokens import Batch, Inputs
from interp.sites import UNCACHED, Site


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model wrote."""

    texts: tuple[str, ...]
    """The new text of each prompt, special tokens left out; empty without a tokenizer."""
    new_ids: tuple[tuple[int, ...], ...]
    """The new token ids of each prompt, the closing end-of-text token included."""
    prompt_ids: tuple[tuple[int, ...], ...]
    finished: tuple[bool, ...]
    """Whether each prompt ended by itself (end of text or a stop text) before the limit."""
    receipt: Receipt
    logits: Float[Tensor, "batch new d_vocab"] | None = None
    """For each new token the logits that it was chosen from; NaN after the end. On request."""


@torch.no_grad()
def generate(
    model: Model,
    inputs: Inputs,
    *,
    max_new_tokens: int,
    edits: Sequence[Edit] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    cache: bool = True,
    keep_logits: bool = False,
) -> Generation:
    """Write on from prompts, greedily or by sampling.

    Edits name logical positions, which go on counting through the new tokens, or `"new"` for every
    new token. The same tokens are edited with the cache on or off and in any batch. The last new
    token is never read by the model, so it cannot be edited.

    Args:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: sample from the smallest set of tokens with at least this probability.
        seed: each prompt has its own stream, from the seed and its place in the batch.
        stop: texts that end a prompt once its new text contains one.
        cache: keep keys and values; False runs the whole text again for each token.
        keep_logits: return the logits of each new token.

    Raises:
        InputError: a setting out of range, or more tokens than the context holds.
        SiteError, EditError, PositionError, SilentEditError: as in `Model.run`.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    check_settings(max_new_tokens, temperature, top_p, stop)
    check_cached(edits, cache)
    batch = model.tokens(inputs, side="left")
    if int(batch.lengths.max()) + max_new_tokens > model.sizes.n_ctx:
        raise InputError(
            f"{int(batch.lengths.max())} prompt tokens and max_new_tokens={max_new_tokens} exceed "
            f"the context of {model.name}, {model.sizes.n_ctx} tokens."
        )
    session = model.session(batch, batch.lengths + max_new_tokens - 1, edits, ())
    writer = Writer(model, batch, temperature, top_p, seed, stop)
    _write(model, batch, session, writer, max_new_tokens, cache, keep_logits)
    early = any(len(ids) < max_new_tokens for ids in writer.new)
    return Generation(
        texts=tuple(writer.text(row) for row in range(len(batch.ids))),
        new_ids=tuple(tuple(ids) for ids in writer.new),
        prompt_ids=batch.prompt_ids,
        finished=tuple(writer.done),
        receipt=session.receipt(ended_early=early),
        logits=torch.stack(writer.logits, dim=1) if keep_logits else None,
    )


def check_settings(
    max_new_tokens: int, temperature: float, top_p: float, stop: tuple[str, ...]
) -> None:
    """Refuse settings of a generation that are out of range."""
    if not isinstance(max_new_tokens, int):
        raise InputError(f"max_new_tokens={max_new_tokens!r}: give a whole number.")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: ask for at least 1.")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature={temperature}: give 0 (greedy) or a positive number.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p}: give a probability above 0 and at most 1.")
    if "" in stop:
        raise InputError("stop holds an empty text, which every text contains: leave it out.")


def check_cached(edits: Sequence[Edit] | Edit, cache: bool) -> None:
    """Refuse edits that later tokens would not see through a cache."""
    for edit in [edits] if isinstance(edits, Edit) else edits:
        if cache and isinstance(edit, Edit) and Site.parse(edit.site).component in UNCACHED:
            raise EditError(
                f"{edit}: the cache keeps what was there before this edit, so later tokens would "
                "not see it: pass cache=False."
            )


def _write(
    model: Model,
    batch: Batch,
    session: Session,
    writer: Writer,
    max_new_tokens: int,
    cache: bool,
    keep_logits: bool,
) -> None:
    held: Any = DynamicCache(config=model.hf.config) if cache else None
    whole = step = batch
    for n_written in range(max_new_tokens):
        if n_written and not cache:
            session.forget()
        last = torch.tensor([step.ids.shape[1] - 1], device=step.ids.device)
        out, held = model.tapped(step, session.taps(step), cache=held, keep=last)
        chosen = writer.choose(out[:, -1], keep_logits)
        if all(writer.done):
            return
        alive = torch.tensor(writer.alive, device=step.ids.device)
        whole = extended(whole, chosen, alive)
        step = Batch(whole.ids[:, -1:], whole.index[:, -1:], whole.mask) if cache else whole


def extended(batch: Batch, chosen: Int[Tensor, " batch"], alive: Tensor) -> Batch:
    """Add a column: the new token, or padding for a prompt that has ended."""
    place = torch.where(alive, batch.lengths, torch.full_like(batch.lengths, -1))
    return Batch(
        torch.cat([batch.ids, chosen[:, None]], dim=1),
        torch.cat([batch.index, place[:, None]], dim=1),
        torch.cat([batch.mask, alive[:, None].long()], dim=1),
    )


class Writer:
    """Chooses tokens and keeps what was written for each prompt."""

    def __init__(
        self,
        model: Model,
        batch: Batch,
        temperature: float,
        top_p: float,
        seed: int,
        stop: tuple[str, ...],
    ) -> None:
        n = len(batch.ids)
        self.new: list[list[int]] = [[] for _ in range(n)]
        self.done = [False] * n
        self.logits: list[Tensor] = []
        self._tokenizer, self._stop = model.tokenizer, stop
        self._end = end_tokens(model)
        self._pad = tokens.pad_token(model.tokenizer, model.hf.config)
        self._temperature, self._top_p = temperature, top_p
        self._streams = [torch.Generator().manual_seed(seed * 1_000_003 + row) for row in range(n)]

    @property
    def alive(self) -> list[bool]:
        """Which prompts go on."""
        return [not done for done in self.done]

    def text(self, row: int) -> str:
        """The new text of a prompt."""
        if self._tokenizer is None:
            return ""
        return str(self._tokenizer.decode(self.new[row], skip_special_tokens=True))

    def choose(self, logits: Float[Tensor, "batch d_vocab"], keep: bool) -> Int[Tensor, " batch"]:
        """Choose the next token of each prompt that goes on; padding for the others."""
        if keep:
            ended = torch.tensor(self.done, device=logits.device)[:, None]
            self.logits.append(logits.masked_fill(ended, float("nan")))
        chosen = []
        for row, scores in enumerate(logits):
            if self.done[row]:
                chosen.append(self._pad)
                continue
            token = self._pick(scores, self._streams[row])
            self.new[row].append(token)
            chosen.append(token)
            stopped = self._stop and any(text in self.text(row) for text in self._stop)
            self.done[row] = token in self._end or bool(stopped)
        return torch.tensor(chosen, device=logits.device)

    def _pick(self, scores: Float[Tensor, " d_vocab"], stream: torch.Generator) -> int:
        if self._temperature == 0:
            return int(scores.argmax())
        chances = torch.softmax(scores.double().cpu() / self._temperature, dim=-1)
        if self._top_p < 1:
            ranked, order = chances.sort(descending=True)
            outside = ranked.cumsum(0) - ranked >= self._top_p
            chances[order[outside]] = 0.0
        return int(torch.multinomial(chances, 1, generator=stream))


def end_tokens(model: Model) -> set[int]:
    """The token ids that end a text: those that the model's settings or its tokenizer name."""
    ends: set[int] = set()
    for holder in (model.hf.generation_config, model.hf.config, model.tokenizer):
        value = getattr(holder, "eos_token_id", None)
        several = value if isinstance(value, list | tuple) else [value]
        ends |= {int(each) for each in several if each is not None}
    return ends
