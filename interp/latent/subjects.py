"""Coconut, CODI, and the controls that look like them and do not reason step by step.

Sources: Coconut, Hao et al. 2024, arXiv:2412.06769; CODI, Shen et al. 2025, arXiv:2502.21074.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import InputError
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout
from interp.latent.state import Memory, Node, State


class Coconut(HFSubject):
    """h_t is the last hidden state, after the final norm, at the position before slot t."""

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """The last output itself."""
        return Node.slot(hidden)


class Projection(nn.Module):
    """CODI's map from an output to the next input: Linear, GELU, Linear, LayerNorm."""

    def __init__(self, d_model: int, d_inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.up, self.act = nn.Linear(d_model, d_inner), nn.GELU()
        self.down = nn.Linear(d_inner, d_model)
        self.ln = nn.LayerNorm(d_model)

    def forward(self, hidden: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Map outputs to inputs."""
        mapped: Tensor = self.ln(self.down(self.act(self.up(self.dropout(hidden)))))
        return mapped


class Codi(HFSubject):
    """h_t is a projection of the last hidden state; CODI's own index of it is t - 1."""

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        *,
        n_steps: int,
        layout: Layout,
        name: str,
        projection: nn.Module,
    ) -> None:
        super().__init__(hf, tokenizer, n_steps=n_steps, layout=layout, name=name)
        self.projection = projection

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """The projection of the last output."""
        return Node.slot(self.projection(hidden))


class Pause(HFSubject):
    """Control: every slot is fed the embedding of one token, so nothing passes from slot to slot.

    Source of the token: Goyal et al. 2023, arXiv:2310.02226.

    Raises:
        InputError: `token` is not one token of the tokenizer.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        *,
        n_steps: int,
        layout: Layout,
        name: str,
        token: str = "<pause>",
    ) -> None:
        super().__init__(hf, tokenizer, n_steps=n_steps, layout=layout, name=name)
        ids = tokenizer(token, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise InputError(
                f"{token!r} is {len(ids)} tokens of the tokenizer, and a pause is one: add it as a "
                "special token, or name another."
            )
        self.token_id = int(ids[0])

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """The pause token's embedding."""
        ids = torch.full((len(hidden), 1), self.token_id, device=hidden.device)
        return Node(self.embed(ids), torch.ones_like(ids, dtype=torch.bool))


class NoRecurrence(HFSubject):
    """Control: every slot is fed h_1, so slots hold a latent vector and none feeds the next."""

    def begin(self, hidden: Float[Tensor, "batch d_model"], memory: Memory) -> State:
        """The state behind a prompt, which remembers the output that every slot is fed."""
        origin = Memory(memory.layers, memory.seen, memory.next, memory.slots, hidden)
        return super().begin(hidden, origin)

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """The output at the start marker."""
        if memory.origin is None:
            raise InputError("This state is not from the subject's own `prefill`: begin there.")
        return Node.slot(memory.origin)


class NoLatents(HFSubject):
    """Control: the end marker follows the start marker; n_steps is 0."""

    def __init__(self, hf: PreTrainedModel, tokenizer: Any, *, layout: Layout, name: str) -> None:
        super().__init__(hf, tokenizer, n_steps=0, layout=layout, name=name)

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """A node that nobody consumes."""
        return Node.slot(hidden)
