"""Tokenising, padding and logical positions, in one place.

A batch always carries its mask and its position ids, and says for each column which logical token
it holds. Special tokens are added once: text that already starts with the tokenizer's first special
token (a rendered chat template) gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InputError

Side = Literal["left", "right"]
Inputs = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor
"""One prompt or several: text, token ids, or a tensor of ids without padding."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts padded to one width."""

    ids: Int[Tensor, "batch width"]
    """Token ids; padding holds the pad token."""
    index: Int[Tensor, "batch width"]
    """The logical token of each column, -1 for padding."""
    mask: Int[Tensor, "batch seen"]
    """1 for every real token that attention may see, cached ones included."""
    straight: bool = False
    """Known to have neither padding nor cached tokens, so that column i holds logical token i."""

    @cached_property
    def lengths(self) -> Int[Tensor, " batch"]:
        """How many real tokens each prompt has, cached ones included."""
        return self.mask.sum(1)

    @property
    def position_ids(self) -> Int[Tensor, "batch width"]:
        """Position ids for the model: the logical token, 0 in padding."""
        return self.index if self.straight else self.index.clamp(min=0)

    @cached_property
    def prompts(self) -> Int[Tensor, "batch width"]:
        """The prompt that each column belongs to: here the row itself."""
        return torch.arange(len(self.ids), device=self.ids.device)[:, None].expand_as(self.ids)

    @property
    def cells(self) -> Int[Tensor, "batch width"] | None:
        """The cell of a sweep that each column belongs to; None outside a sweep."""
        return None

    @cached_property
    def key_index(self) -> Int[Tensor, "batch seen"]:
        """The logical token of each column that attention may see, -1 for padding."""
        return torch.where(self.mask > 0, self.mask.cumsum(1) - 1, -1)

    def visible(self, window: int | None = None) -> Bool[Tensor, "batch width seen"]:
        """Which columns each query attends to: real, not later, and inside the window."""
        distance = self.index[:, :, None] - self.key_index[:, None]
        seen = (distance >= 0) & (self.key_index >= 0)[:, None] & (self.index >= 0)[:, :, None]
        return seen if window is None else seen & (distance < window)

    @cached_property
    def ragged(self) -> bool:
        """Whether any column is padding."""
        return not self.straight and bool((self.index < 0).any())

    @property
    def prompt_ids(self) -> tuple[tuple[int, ...], ...]:
        """The token ids of each prompt, without padding."""
        rows = zip(self.ids.tolist(), self.index.tolist(), strict=True)
        return tuple(
            tuple(token for token, place in zip(*row, strict=True) if place >= 0) for row in rows
        )

    def columns(self, pos: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:
        """Return the columns that hold logical tokens of each prompt."""
        if self.straight:
            return pos
        return (self.index[:, None] == pos[:, :, None]).int().argmax(2)

    def align(self, act: Tensor, width: int | None = None) -> Tensor:
        """Move columns to logical positions: `[batch, width, ...]` with NaN where no token is.

        The second axis of the answer counts logical tokens, whatever the padding side.
        """
        if self.straight and act.shape[1] == (width or self.ids.shape[1]):
            return act.clone()
        width = width or int(self.lengths.max())
        out = act.new_full((act.shape[0], width, *act.shape[2:]), float("nan"))
        rows, columns = (self.index >= 0).nonzero(as_tuple=True)
        out[rows, self.index[rows, columns]] = act[rows, columns]
        return out


def pad(ids: Sequence[Sequence[int]], *, pad_id: int, side: Side, device: Any = "cpu") -> Batch:
    """Pad token ids on one side.

    >>> pad([[5, 6], [7]], pad_id=0, side="left").ids.tolist()
    [[5, 6], [0, 7]]
    >>> pad([[5, 6], [7]], pad_id=0, side="left").index.tolist()
    [[0, 1], [-1, 0]]
    """
    lengths = set(map(len, ids))
    width = max(lengths)
    if len(lengths) == 1:
        even = torch.tensor(ids, device=device)
        place = torch.arange(width, device=device).expand_as(even)
        return Batch(even, place, torch.ones_like(even), straight=True)
    padded, index = [], []
    for row in ids:
        gap = width - len(row)
        tokens, logical = list(row), list(range(len(row)))
        left = side == "left"
        padded.append([pad_id] * gap + tokens if left else tokens + [pad_id] * gap)
        index.append([-1] * gap + logical if left else logical + [-1] * gap)
    where = torch.tensor(index, device=device)
    return Batch(torch.tensor(padded, device=device), where, (where >= 0).long())


def token_ids(tokenizer: Any, inputs: Inputs, *, d_vocab: int) -> list[list[int]]:
    """Read inputs as one list of token ids for each prompt.

    Raises:
        InputError: nothing given, an empty prompt, text without a tokenizer, or an id outside the
            vocabulary.
    """
    if hasattr(inputs, "tolist"):  # a tensor or an array
        inputs = inputs.tolist()  # type: ignore[union-attr]
    if not isinstance(inputs, str | Sequence):
        raise InputError(f"inputs={inputs!r}: pass text, token ids, or a list of either.")
    prompts: Any = [inputs] if isinstance(inputs, str) else inputs
    if len(prompts) and isinstance(prompts[0], int):
        prompts = [prompts]
    if not len(prompts):
        raise InputError("No prompt was given: pass text, token ids, or a list of either.")
    return [_one_prompt(tokenizer, prompt, i, d_vocab) for i, prompt in enumerate(prompts)]


def _one_prompt(tokenizer: Any, prompt: Any, i: int, d_vocab: int) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError("This model has no tokenizer, so pass token ids instead of text.")
        ids = encode(tokenizer, prompt)
    elif isinstance(prompt, list) and set(map(type, prompt)) == {int}:
        ids = prompt
    elif isinstance(prompt, Sequence) and all(isinstance(token, Integral) for token in prompt):
        ids = [int(token) for token in prompt]
    else:
        raise InputError(f"Prompt {i} is {prompt!r}: pass text or a list of whole token ids.")
    if not ids:
        raise InputError(f"Prompt {i} is empty: a prompt needs at least one token.")
    if min(ids) < 0 or max(ids) >= d_vocab:
        outside = next(token for token in ids if not 0 <= token < d_vocab)
        raise InputError(
            f"Prompt {i} holds token {outside}, but the vocabulary has {d_vocab} tokens."
        )
    return ids


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokenise text with its special tokens, once.

    Text that starts with the first special token (as a rendered chat template does) gets no more.
    """
    first = tokenizer.bos_token
    begun = bool(first) and text.startswith(first)
    return list(tokenizer(text, add_special_tokens=not begun)["input_ids"])


def chat(tokenizer: Any, question: str, *, system: str | None = None) -> str:
    """Render one user turn with the tokenizer's chat template, ready for the answer.

    A tokenizer without a template gets `Question: ...` and `Answer:`.
    """
    if not getattr(tokenizer, "chat_template", None):
        return f"Question: {question}\nAnswer: "
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def pad_token(tokenizer: Any, config: Any) -> int:
    """Return the id that fills padding: the pad token, else the end-of-text token, else 0."""
    for holder in (tokenizer, config):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(holder, name, None)
            if isinstance(value, list):
                value = value[0] if value else None
            if value is not None:
                return int(value)
    return 0
