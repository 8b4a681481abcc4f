"""Chain of thought in text, behind the interface of latent steps: the comparison on equal terms.

Node t holds the embeddings of the tokens of step t, written greedily from what can be seen. So an
operator acts on what a step *feeds*, as it does for a latent slot, and every measure is that of a
latent subject. A row whose chain is over has nodes without vectors from there on.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import InputError
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout
from interp.latent.state import Memory, Node

EDITED = "<edited>"
"""Stands in a text for a vector that is no token's embedding."""


class Explicit(HFSubject):
    """Steps in text; a node is as wide as `max_step_tokens`, so no row depends on its batch.

    A step is over with the token that ends `layout.step` (part of the step), after
    `max_step_tokens`, or before the end marker or the end of text (no part of it, and no step
    follows). With `max_step_tokens` of 1 every token is a step.

    Args:
        hf, tokenizer, n_steps, layout, name: as for any subject; `layout.close` is what the model
            itself writes when its steps are over.
        max_step_tokens: the most tokens of a step.

    Raises:
        InputError: no tokens a step, fewer than the end marker has, or a `layout.step` without a
            token at its end.
    """

    convention = (
        "h_t is the embeddings of the tokens of step t, written greedily after step t - 1 and fed "
        "in one pass; C_t has consumed t steps"
    )

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        *,
        n_steps: int,
        layout: Layout,
        name: str,
        max_step_tokens: int = 1,
    ) -> None:
        super().__init__(hf, tokenizer, n_steps=n_steps, layout=layout, name=name)
        if max_step_tokens < len(self.close_ids):
            raise InputError(
                f"max_step_tokens={max_step_tokens}: a step needs room for a token and for the end "
                f"marker {layout.close!r} of {len(self.close_ids)}; give {len(self.close_ids)} or "
                "more."
            )
        self.width = self.max_step_tokens = max_step_tokens
        ending = layout.step_ids(tokenizer, "")
        if max_step_tokens > 1 and not ending:
            raise InputError(
                f"The layout's `step` {layout.step!r} ends in no token, so nothing shows where a "
                "step of several tokens is over: end it in one, such as a line end."
            )
        self._ending = tokenizer.decode(ending[-1:]) if max_step_tokens > 1 else None

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """The embeddings of the next step's tokens, written greedily."""
        rows = self._write(hidden, memory, alive)
        pads = [[*row, *[0] * (self.max_step_tokens - len(row))] for row in rows]
        places = torch.arange(self.max_step_tokens, device=hidden.device)
        counts = torch.tensor([len(row) for row in rows], device=hidden.device)
        ids = torch.tensor(pads, device=hidden.device)
        return Node(self.embed(ids), places < counts[:, None])

    def texts(self, node: Node) -> list[str]:
        """The text of each row's step; empty where it has none, `EDITED` for vectors of no token.

        A vector stands for a token when every bit of it is that token's embedding.
        """
        embedding: Any = self.hf.get_input_embeddings()
        table = embedding.weight.detach()
        return [
            self._text(vectors[seen], table)
            for vectors, seen in zip(node.vectors.detach(), node.seen, strict=True)
        ]

    def _text(self, vectors: Tensor, table: Tensor) -> str:
        """Runs of tokens are decoded together; what is no token parts them."""
        parts: list[str | list[int]] = []
        for vector, i in zip(vectors, torch.cdist(vectors, table).argmin(1).tolist(), strict=True):
            if not torch.equal(table[i], vector):
                parts.append(EDITED)
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(i)
            else:
                parts.append([i])
        return "".join(p if isinstance(p, str) else self.tokenizer.decode(p) for p in parts)

    @torch.no_grad()
    def _write(self, hidden: Tensor, memory: Memory, alive: Tensor) -> list[list[int]]:
        """Tokens of one step for each row; none where the row is over."""
        rows: list[list[int]] = [[] for _ in range(len(hidden))]
        writing = alive.tolist()
        ends = set(self._ends().tolist())
        for i in range(self.max_step_tokens):
            ids = self.head(hidden).argmax(-1)
            for row, token in enumerate(ids.tolist()):
                if writing[row]:
                    writing[row] = self._append(rows[row], token, ends)
            if not any(writing) or i + 1 == self.max_step_tokens:
                break
            fed = torch.tensor(writing, device=hidden.device)[:, None]
            states, memory = self.feed(self.embed(ids[:, None]), fed, memory)
            hidden = states[:, -1]
        return rows

    def _append(self, row: list[int], token: int, ends: set[int]) -> bool:
        """Add a token to a step, or cut the end marker off it; say whether the step goes on."""
        if token in ends:
            return False
        row.append(token)
        if row[-len(self.close_ids) :] == self.close_ids:
            del row[-len(self.close_ids) :]
            return False
        return self._ending is None or not self.tokenizer.decode([token]).endswith(self._ending)
