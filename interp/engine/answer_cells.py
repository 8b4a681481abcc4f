"""What the cells of an answer sweep compute: their ends in one row, and answers written on."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.engine.answer_forest import Forest
from interp.engine.answer_question import Ending
from interp.engine.masks import Masks
from interp.engine.model import Model
from interp.engine.partial import Base, Packed
from interp.engine.plan import Start
from interp.engine.tree import out_of_memory
from interp.models.tokens import Batch


@dataclass(frozen=True)
class End:
    """What one cell computes for one prompt: nodes of the forest, parents first."""

    cell: int
    prompt: int
    start: int
    """The first position that the cell edits."""
    nodes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True, eq=False)
class Ends(Packed):
    """Ends of many cells and prompts in one row, behind the nodes before them in the forest."""

    _: KW_ONLY
    nodes: Int[Tensor, " width"]
    before: Int[Tensor, " past"]
    """The node of each prefix column."""
    end_of: Int[Tensor, " width"]
    """Which end each column belongs to."""
    sees: Bool[Tensor, "node node"]
    depth: Int[Tensor, " node"]

    @property
    def here(self) -> tuple[Int[Tensor, "1 width"], Int[Tensor, "1 width"]]:
        """The row (the only one) and the column of the base run that each column repeats."""
        return torch.zeros_like(self.index), self.nodes[None]

    @cached_property
    def key_index(self) -> Int[Tensor, "1 seen"]:
        """The logical token of each prefix column, then of each column."""
        return torch.cat([self.depth[self.before][None], self.index], dim=1)

    def visible(self, window: int | None = None) -> Bool[Tensor, "1 width seen"]:
        """Which columns each query attends to: those on its path, before and in its own end."""
        on_path = self.sees[self.nodes]
        before = on_path[:, self.before] & (self.depth[self.before] < self.start_of[0][:, None])
        own = on_path[:, self.nodes] & (self.end_of == self.end_of[:, None])
        seen = torch.cat([before, own], dim=1)
        if window is not None:
            seen = seen & (self.index[0][:, None] - self.key_index < window)
        return seen[None]


def pack_ends(forest: Forest, ends: list[End], paths: dict[int, list[int]]) -> Ends:
    """Lay ends out one after another."""
    assert forest.base is not None
    device = forest.sees.device

    def spread(values: list[int]) -> Int[Tensor, "1 width"]:
        counts = torch.tensor([len(end) for end in ends])
        return torch.tensor(values).repeat_interleave(counts)[None].to(device)

    nodes = torch.tensor([node for end in ends for node in end.nodes], device=device)
    before = sorted({node for end in ends for node in paths[end.prompt][: end.start]})
    past = torch.tensor(before, dtype=torch.long, device=device)
    depth = forest.base.batch.index[0]
    return Ends(
        forest.base.batch.ids[:, nodes],
        depth[nodes][None],
        torch.ones(1, len(before) + len(nodes), dtype=torch.long, device=device),
        prompt_of=spread([end.prompt for end in ends]),
        cell_of=spread([end.cell for end in ends]),
        start_of=spread([end.start for end in ends]),
        past=torch.stack([torch.zeros_like(past), past]),
        nodes=nodes,
        before=past,
        end_of=spread(list(range(len(ends))))[0],
        sees=forest.sees,
        depth=depth,
    )


def fill(ends: list[End], size: int) -> list[End]:
    """The first ends that fit into a forward pass of so many tokens, at least one."""
    taken, tokens = [], 0
    for end in ends:
        if taken and tokens + len(end) > size:
            break
        taken.append(end)
        tokens += len(end)
    return taken


def last_of_each(ends: list[End], tails: list[tuple[int, ...]]) -> Int[Tensor, " kept"]:
    """The packed columns of each end's last nodes."""
    kept, offset = [], 0
    for end, tail in zip(ends, tails, strict=True):
        offset += len(end)
        kept += range(offset - len(tail), offset)
    return torch.tensor(kept)


def columns_of(packed: Ends, end: End, offset: int, path: list[int]) -> list[int]:
    """Where the cache of a pass holds the nodes of a path: prefix columns, then packed ones."""
    before = {node: i for i, node in enumerate(packed.before.tolist())}
    own = {node: len(before) + offset + i for i, node in enumerate(end.nodes)}
    return [own[node] if node in own else before[node] for node in path]


def keys_and_values(
    base: Base, cache: DynamicCache, start: Start, path: list[int], columns: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """The keys and values of a path: those of the base run where attention was not run."""
    first = start[0] + (start[1] == 2)
    keys = [part[0][:, path] for part in base.keys[:first]]
    values = [part[0][:, path] for part in base.values[:first]]
    layers: list[Any] = cache.layers[first:]
    keys += [layer.keys[0][:, columns] for layer in layers]
    values += [layer.values[0][:, columns] for layer in layers]
    return keys, values


@dataclass(eq=False)
class Live:
    """An answer that is not yet over: its last token has been chosen and not been read."""

    cell: int
    prompt: int
    new: list[int]
    keys: list[Float[Tensor, "kv_head pos d_head"]]
    """For each layer those of every token that has been read."""
    values: list[Float[Tensor, "kv_head pos d_head"]]

    @property
    def length(self) -> int:
        """How many tokens have been read."""
        return self.keys[0].shape[1]


def write_on(model: Model, maker: Masks, lives: list[Live], ending: Ending) -> tuple[int, int]:
    """Write several answers to their end, one token each a forward pass; return passes and tokens.

    When memory runs out, each half of them goes alone.
    """
    if not lives:
        return 0, 0
    held = [len(live.new) for live in lives]
    try:
        return _write_on(model, maker, lives, ending)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(lives) == 1:
            raise
    for live, n in zip(lives, held, strict=True):
        del live.new[n:]
    middle = len(lives) // 2
    parts = [write_on(model, maker, part, ending) for part in (lives[:middle], lives[middle:])]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _write_on(model: Model, maker: Masks, lives: list[Live], ending: Ending) -> tuple[int, int]:
    cache, mask = _stacked(lives)
    forwards = tokens = 0
    while lives:
        ids = torch.tensor([[live.new[-1]] for live in lives], device=model.device)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        batch = Batch(ids, mask.sum(1, keepdim=True) - 1, mask)
        logits = model.hf(
            input_ids=ids,
            attention_mask=maker.make(batch.visible),
            position_ids=batch.index,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        forwards, tokens = forwards + 1, tokens + len(lives)
        for live, token in zip(lives, logits[:, -1].argmax(-1).tolist(), strict=True):
            live.new.append(token)
        alive = [i for i, live in enumerate(lives) if not ending.over(live.new)]
        if len(alive) < len(lives):
            lives = [lives[i] for i in alive]
            rows = torch.tensor(alive, dtype=torch.long, device=model.device)
            cache.batch_select_indices(rows)
            mask = mask[rows]
    return forwards, tokens


def _stacked(lives: list[Live]) -> tuple[DynamicCache, Int[Tensor, "live width"]]:
    """The keys and values of several answers, padded on the left, and which columns are real."""
    width = max(live.length for live in lives)

    def stack(part: list[Tensor]) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(each, (0, 0, width - each.shape[1], 0)) for each in part]
        )

    cache = DynamicCache()
    for layer in range(len(lives[0].keys)):
        keys = stack([live.keys[layer] for live in lives])
        cache.update(keys, stack([live.values[layer] for live in lives]), layer)
    lengths = torch.tensor([[live.length] for live in lives], device=keys.device)
    return cache, (torch.arange(width, device=keys.device) >= width - lengths).long()
