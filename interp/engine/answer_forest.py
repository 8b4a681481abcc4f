"""The base run of an answer sweep: prompts, targets and drafts of answers in one token tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from interp.engine.answer_question import Ending
from interp.engine.masks import Masks
from interp.engine.model import Model
from interp.engine.partial import Base, base_pass
from interp.engine.tree import TokenTree
from interp.models.tokens import Batch

Choices = dict[int, int]
"""By node, the most likely next token."""


class Forest:
    """The base run of several prompts and of drafts of their answers: one token tree.

    Column i of `base` holds node i of `tree`, in its one row.
    """

    def __init__(self, model: Model, maker: Masks, *, inside: bool = True) -> None:
        """Make an empty one; `inside` as in `base_pass`."""
        self.tree = TokenTree()
        self.base: Base | None = None
        self._model, self._maker, self._inside = model, maker, inside
        self.sees = torch.zeros(0, 0, dtype=torch.bool, device=model.device)
        """`[node, node]`: whether the second is the first or lies on the path to it."""

    def grow(self, read: Sequence[int] = ()) -> Float[Tensor, "read d_vocab"] | None:
        """Run the nodes that were inserted since; return the logits at some of them."""
        first, n = len(self.sees), len(self.tree.token)
        if first == n:
            return None
        self._widen()
        device = self._model.device
        depth = torch.tensor(self.tree.depth, device=device)
        batch = Batch(
            torch.tensor([self.tree.token[first:]], device=device),
            depth[None, first:],
            torch.ones(1, n, dtype=torch.long, device=device),
        )
        distance = depth[first:, None] - depth

        def seen(window: int | None) -> Bool[Tensor, "1 new node"]:
            seen = self.sees[first:]
            return (seen if window is None else seen & (distance < window))[None]

        columns = torch.tensor([node - first for node in read], device=device) if read else None
        mask, cache = self._maker.make(seen), self._cache()
        new = base_pass(self._model, batch, mask, cache, columns, inside=self._inside)
        self.base = new if self.base is None else _joined(self.base, new)
        return None if new.logits is None else new.logits[0]

    def _widen(self) -> None:
        first, n = len(self.sees), len(self.tree.token)
        sees = torch.zeros(n, n, dtype=torch.bool)
        sees[:first, :first] = self.sees.cpu()
        for node in range(first, n):
            parent = self.tree.parent[node]
            if parent >= 0:
                sees[node] = sees[parent]
            sees[node, node] = True
        self.sees = sees.to(self._model.device)

    def _cache(self) -> DynamicCache:
        cache = DynamicCache()
        if self.base is not None:
            for layer, pair in enumerate(zip(self.base.keys, self.base.values, strict=True)):
                cache.update(*pair, layer)
        return cache


def _joined(one: Base, more: Base) -> Base:
    """A base run with the columns of another behind its own."""

    def cat(name: str, dim: int) -> tuple[Tensor, ...]:
        pairs = zip(getattr(one, name), getattr(more, name), strict=True)
        return tuple(torch.cat(pair, dim=dim) for pair in pairs)

    ids, index = (
        torch.cat([getattr(b.batch, n) for b in (one, more)], 1) for n in ("ids", "index")
    )
    pairs = zip(one.projections, more.projections, strict=True)
    return Base(
        Batch(ids, index, more.batch.mask),
        cat("resid", 1),
        cat("attention", 1),
        tuple({name: torch.cat([a[name], b[name]], 1) for name in a} for a, b in pairs),
        cat("keys", 2),
        cat("values", 2),
        one.tuples,
    )


@dataclass(eq=False)
class Group:
    """Prompts whose base run is held at one time."""

    forest: Forest
    paths: dict[int, list[int]] = field(default_factory=dict)
    """By prompt, the nodes of its tokens."""
    reads: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By prompt, the nodes that its target is read at, and the target's tokens."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """By prompt, the nodes of all drafts of its answer, parents first."""

    def plant(self, prompt: int, ids: list[int], target: list[int]) -> None:
        """Insert a prompt and its target."""
        path = self.forest.tree.insert([*ids, *target[:-1]])
        self.paths[prompt], self.drafts[prompt] = path[: len(ids)], path[len(ids) :]
        self.reads[prompt] = list(zip(path[len(ids) - 1 :], target, strict=True))

    def draft(self, prompt: int, ids: list[int], new: Sequence[int]) -> None:
        """Insert a prompt and a draft of its answer."""
        path = self.forest.tree.insert([*ids, *new[:-1]])
        self.drafts[prompt] = sorted({*self.drafts[prompt], *path[len(ids) :]})

    def path_to(self, node: int) -> list[int]:
        """The nodes of every token up to this one."""
        return [*self.forest.tree.ancestors(node), node]

    def follow(self, choices: Choices, node: int, ending: Ending) -> tuple[list[int], int | None]:
        """Follow the choices from the last token of a prompt: what is written, and the last node
        that was read, or None where the answer is over."""
        new: list[int] = []
        while True:
            new.append(choices[node])
            if ending.over(new):
                return new, None
            child = self.forest.tree.child(node, choices[node])
            if child is None or child not in choices:
                return new, node
            node = child
