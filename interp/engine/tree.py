"""Scoring many continuations of shared prefixes at near the least arithmetic.

All sequences are put into one token tree, so that a prefix that several share is computed once; two
equal sequences are one path and give one number, exactly. The tree is laid out depth first, small
branches before large ones, and cut into chunks. Each chunk is one forward pass of the plain model:
a mask lets every token attend to its ancestors alone, its position is its depth, and the cache
holds just the path to the next chunk's first token. So the cache is never copied per branch, and
memory is bounded by the longest sequence and the chunk.

`exact=True` runs one plain forward pass a sequence: the definition, to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.engine.masks import Masks, Visible
from interp.engine.model import Model
from interp.errors import InputError
from interp.models.tokens import pad

Progress = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


@dataclass(frozen=True)
class Continuation:
    """A prompt, and the answer whose probability is asked for, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Spent:
    """What a scoring cost, and what one forward pass a sequence would have cost."""

    forwards: int
    tokens: int
    naive_forwards: int
    naive_tokens: int

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.forwards + other.forwards,
            self.tokens + other.tokens,
            self.naive_forwards + other.naive_forwards,
            self.naive_tokens + other.naive_tokens,
        )


@dataclass(frozen=True)
class Scores:
    """Teacher-forced log-probabilities, in the order of the continuations."""

    token_logprobs: tuple[tuple[float, ...], ...]
    """For each continuation the log-probability of each answer token, in nats."""
    spent: Spent
    greedy: tuple[bool, ...] = ()
    """For each continuation whether each answer token has the largest logit at its place, so that
    greedy decoding would write just this answer."""

    @property
    def logprobs(self) -> list[float]:
        """The joint log-probability of each answer: the sum over its tokens, in nats."""
        return [float(sum(each)) for each in self.token_logprobs]


@dataclass
class TokenTree:
    """A tree of tokens: node i holds `token[i]` after the path to `parent[i]`; roots have -1."""

    token: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    _child: dict[tuple[int, int], int] = field(default_factory=dict)

    def insert(self, ids: Sequence[int]) -> list[int]:
        """Add a sequence; return the node of each of its tokens."""
        path, node = [], -1
        for token in ids:
            child = self._child.get((node, token))
            if child is None:
                child = len(self.token)
                self._child[node, token] = child
                self.token.append(token)
                self.parent.append(node)
                self.depth.append(0 if node < 0 else self.depth[node] + 1)
            path.append(child)
            node = child
        return path

    def child(self, node: int, token: int) -> int | None:
        """The node of a token after a node, if there is one."""
        return self._child.get((node, token))

    def order(self) -> list[int]:
        """All nodes depth first, at each fork the smallest branch first."""
        size = [1] * len(self.token)
        children: dict[int, list[int]] = {}
        for node in range(len(self.token) - 1, -1, -1):  # a child is made after its parent
            if self.parent[node] >= 0:
                size[self.parent[node]] += size[node]
            children.setdefault(self.parent[node], []).append(node)
        order, stack = [], sorted(children.get(-1, ()), key=lambda n: -size[n])
        while stack:
            node = stack.pop()
            order.append(node)
            stack += sorted(children.get(node, ()), key=lambda n: -size[n])
        return order

    def ancestors(self, node: int) -> list[int]:
        """The path from the root down to the node, itself left out."""
        path = []
        while self.parent[node] >= 0:
            node = self.parent[node]
            path.append(node)
        return path[::-1]


@torch.no_grad()
def score(
    model: Model,
    continuations: Sequence[Continuation],
    *,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> Scores:
    """Score answers after prompts, teacher forced.

    Args:
        model: the plain Hugging Face model of any engine is used; no edits.
        exact: one plain forward pass a continuation instead of the shared tree.
        chunk: tokens a forward pass; memory grows with chunk x (longest sequence + chunk). When
            memory runs out the chunk is halved.
        progress: called after each forward pass with tokens done and in all.

    Raises:
        InputError: an empty prompt or answer, or more tokens than the context holds.
        ModelError: the model's attention cannot take a tree mask; use `exact=True`.
    """
    for each in continuations:
        _check(model, each)
    if exact:
        return _score_exact(model, continuations, progress)
    return _score_tree(model, continuations, chunk, progress)


def _check(model: Model, continuation: Continuation) -> None:
    ids = (*continuation.prompt, *continuation.answer)
    if not continuation.prompt or not continuation.answer:
        raise InputError("A continuation needs at least one prompt token and one answer token.")
    outside = [token for token in ids if not 0 <= token < model.sizes.d_vocab]
    if outside:
        raise InputError(
            f"A continuation holds token {outside[0]}, but the vocabulary has "
            f"{model.sizes.d_vocab} tokens."
        )
    if len(ids) > model.sizes.n_ctx:
        raise InputError(
            f"A sequence of {len(ids)} tokens is longer than the context of {model.name}, "
            f"{model.sizes.n_ctx} tokens: shorten it."
        )


def _score_exact(
    model: Model, continuations: Sequence[Continuation], progress: Progress | None
) -> Scores:
    total = sum(len(each.prompt) + len(each.answer) - 1 for each in continuations)
    found, greedy, done = [], [], 0
    for each in continuations:
        ids = [*each.prompt, *each.answer[:-1]]
        batch = pad([ids], pad_id=0, side="right", device=model.device)  # type: ignore[arg-type]
        keep = torch.arange(len(each.prompt) - 1, len(ids), device=model.device)
        logits = model.hf(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=keep,
        ).logits[0]
        found.append(tuple(target_logprobs(logits, each.answer)))
        greedy.append(logits.argmax(-1).tolist() == list(each.answer))
        done += len(ids)
        if progress:
            progress(done, total)
    n = len(continuations)
    return Scores(tuple(found), Spent(n, total, n, total), tuple(greedy))


def target_logprobs(logits: Float[Tensor, "n d_vocab"], targets: Sequence[int]) -> list[float]:
    """Log-probability of each target under its row of logits, in nats, at least in float32.

    torch's own `log_softmax`, as anyone would recompute it: over a vocabulary of 49,152 its float32
    sum is off by about 1e-5 a token, more than the rest of a forward pass.

    >>> [round(each, 4) for each in target_logprobs(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), [1, 0])]
    [-0.6931, -0.0001]
    """
    rows = torch.arange(len(targets), device=logits.device)
    exact = torch.promote_types(logits.dtype, torch.float32)
    logprobs = torch.log_softmax(logits, dim=-1, dtype=exact)
    return logprobs[rows, torch.tensor(targets, device=logits.device)].tolist()


def _score_tree(
    model: Model,
    continuations: Sequence[Continuation],
    chunk: int,
    progress: Progress | None,
) -> Scores:
    tree = TokenTree()
    wanted: dict[int, set[int]] = {}
    readers: list[list[tuple[int, int]]] = []
    for each in continuations:
        path = tree.insert([*each.prompt, *each.answer[:-1]])[len(each.prompt) - 1 :]
        readers.append(list(zip(path, each.answer, strict=True)))
        for node, token in readers[-1]:
            wanted.setdefault(node, set()).add(token)
    walker = _Walker(model, tree, wanted, chunk, progress)
    found = walker.walk()
    naive = sum(len(each.prompt) + len(each.answer) - 1 for each in continuations)
    spent = Spent(walker.forwards, len(tree.token), len(continuations), naive)
    return Scores(
        tuple(tuple(found[reader] for reader in each) for each in readers),
        spent,
        tuple(all(walker.best[node] == token for node, token in each) for each in readers),
    )


class _Walker:
    """Walks a token tree in chunks, keeping the keys and values of the current path."""

    def __init__(
        self,
        model: Model,
        tree: TokenTree,
        wanted: dict[int, set[int]],
        chunk: int,
        progress: Progress | None,
    ) -> None:
        self.forwards = 0
        self.best: dict[int, int] = {}
        """The most likely token after each wanted node."""
        self._hf, self._device = model.hf, model.device
        self._masks = Masks(model)
        self._tree, self._wanted, self._progress = tree, wanted, progress
        self._chunk = max(1, chunk)
        self._order = tree.order()
        self._cache: Any = None
        self._path: list[int] = []  # nodes whose keys and values the cache holds, root first

    def walk(self) -> dict[tuple[int, int], float]:
        """Return the log-probability of each wanted (node, next token)."""
        found: dict[tuple[int, int], float] = {}
        done = 0
        while done < len(self._order):
            nodes = self._order[done : done + self._chunk]
            try:
                found |= self._step(nodes)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._chunk == 1:
                    raise
                self._chunk = max(1, self._chunk // 2)
                self._forget_chunk()
                continue
            done += len(nodes)
            self._keep_path_to(self._order[done] if done < len(self._order) else None, nodes)
            if self._progress:
                self._progress(done, len(self._order))
        return found

    def _forget_chunk(self) -> None:
        """After a failed pass, drop what the first layers may have added to the cache."""
        if not self._path:
            self._cache = None
            return
        for layer in self._cache.layers:
            layer.keys = layer.keys[:, :, : len(self._path)]
            layer.values = layer.values[:, :, : len(self._path)]

    def _step(self, nodes: list[int]) -> dict[tuple[int, int], float]:
        tree = self._tree
        if self._cache is None:
            self._cache = DynamicCache()
        depth = torch.tensor([[tree.depth[node] for node in nodes]], device=self._device)
        readers = [i for i, node in enumerate(nodes) if node in self._wanted]
        keep = torch.tensor(readers or [0], device=self._device)
        out = self._hf(
            input_ids=torch.tensor([[tree.token[node] for node in nodes]], device=self._device),
            attention_mask=self._masks.make(self._seer(nodes, depth[0])),
            position_ids=depth,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self.forwards += 1
        return self._read(nodes, readers, out.logits[0])

    def _read(
        self, nodes: list[int], readers: list[int], logits: Float[Tensor, "n d_vocab"]
    ) -> dict[tuple[int, int], float]:
        pairs = [
            (row, nodes[i], t) for row, i in enumerate(readers) for t in self._wanted[nodes[i]]
        ]
        if not pairs:
            return {}
        best = logits.argmax(-1).tolist()
        self.best |= {nodes[i]: best[row] for row, i in enumerate(readers)}
        rows = torch.tensor([row for row, _, _ in pairs], device=logits.device)
        values = target_logprobs(logits[rows], [token for _, _, token in pairs])
        return {(node, token): value for (_, node, token), value in zip(pairs, values, strict=True)}

    def _seer(self, nodes: list[int], depth: Int[Tensor, " chunk"]) -> Visible:
        """The keys that each node sees, as a function of the layer's window."""
        visible = self._visible(nodes)
        path = torch.arange(len(self._path), device=self._device)
        distance = depth[:, None] - torch.cat([path, depth])[None]

        def seen(window: int | None) -> Bool[Tensor, "1 chunk keys"]:
            return (visible if window is None else visible & (distance < window))[None]

        return seen

    def _visible(self, nodes: list[int]) -> Bool[Tensor, "chunk keys"]:
        """Which keys (the cached path, then the chunk itself) each node of the chunk may see."""
        n_path, tree = len(self._path), self._tree
        on_path = {node: i for i, node in enumerate(self._path)}
        place = {node: i for i, node in enumerate(nodes)}
        seen = torch.zeros(len(nodes), n_path + len(nodes), dtype=torch.bool)
        for i, node in enumerate(nodes):
            parent = tree.parent[node]
            if parent in place:
                seen[i] = seen[place[parent]]
            elif parent >= 0:
                seen[i, : on_path[parent] + 1] = True
            seen[i, n_path + i] = True
        return seen.to(self._device)

    def _keep_path_to(self, node: int | None, chunk: list[int]) -> None:
        """Drop all keys and values but those of the ancestors of the next node."""
        path = [] if node is None else self._tree.ancestors(node)
        if not path:
            self._cache, self._path = None, []
            return
        held = {held: i for i, held in enumerate([*self._path, *chunk])}
        columns = torch.tensor([held[each] for each in path], device=self._device)
        for layer in self._cache.layers:
            layer.keys = layer.keys.index_select(2, columns.to(layer.keys.device))
            layer.values = layer.values.index_select(2, columns.to(layer.values.device))
        self._path = path


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text
