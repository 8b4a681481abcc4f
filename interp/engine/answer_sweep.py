"""What a model answers under many edits: the probability of a target, and the greedy answer.

Edits act on tokens of the prompt alone, in the pass that reads it; new tokens are never edited
(steering "during prefill only", Zhao et al. 2025, arXiv:2510.24941). So an edit at block l and
position p leaves everything before l, and every position before p, as in the base run, and each
cell needs only its own end: the blocks from l on, the positions from p on. The base run of several
prompts is one token tree, so that a prefix that they share is computed once.

Behind its end each cell reads drafts of its answer side by side: the target, and what the base run
answered. Where the choice after a draft's token is the draft's next token, it is what greedy
decoding would have written. So one pass gives the target's probability, and as much of the greedy
answer as the drafts foresee (the check of Leviathan et al. 2023, arXiv:2211.17192, without
sampling). From there the cell writes on, with the keys and values of that pass, in a batch with
others.

`exact=True` runs one plain forward pass and one plain generation a cell: the definition, to compare
with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.edits import Edit
from interp.engine import masks
from interp.engine.generation import _end_tokens, check_cached, check_settings
from interp.engine.model import Model
from interp.engine.partial import Base, Packed, base_pass, ends_pass
from interp.engine.plan import Start, start_of
from interp.engine.receipts import EditReceipt
from interp.engine.session import BoundEdit, Session
from interp.engine.tree import Progress, Spent, TokenTree, _logprob, out_of_memory
from interp.errors import InputError
from interp.models.tokens import Batch
from interp.sites import Each, Site

Cell = Edit | Sequence[Edit]
"""What one cell does: one edit, several together, or none (an empty sequence)."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What was answered, by cell and prompt in the order given."""

    logprobs: Float[Tensor, "cell prompt"]
    """Joint log-probability of each prompt's target, in nats, teacher forced."""
    new_ids: tuple[tuple[tuple[int, ...], ...], ...]
    """The greedy answer, `[cell][prompt]`: tokens up to the stop, the end of text (included) or
    the limit."""
    texts: tuple[tuple[str, ...], ...]
    """The same, decoded without special tokens; empty without a tokenizer."""
    base_logprobs: Float[Tensor, " prompt"]
    base_ids: tuple[tuple[int, ...], ...]
    base_texts: tuple[str, ...]
    receipts: tuple[tuple[EditReceipt, ...], ...]
    """For each cell one proof an edit."""
    spent: Spent
    """Tokens are those that entered the model, however many blocks they went through; naive is
    one plain pass with the target and one plain generation for each cell, and for the base."""


@torch.no_grad()
def answer_sweep(
    model: Model,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    cells: Sequence[Cell] = (),
    *,
    stop: Callable[[str], bool] | None = None,
    max_new_tokens: int = 20,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> Answered:
    """Ask, under each cell and without edits, how likely a target is and what is answered.

    Every cell is applied to every prompt (`rows` and `Each` name some, or other tokens in each).
    Positions name tokens of the prompt; `"all"` and `"last"` mean all and the last of the prompt,
    and edits of attention maps change the queries of the prompt alone.

    Args:
        model: sharing needs the torch engine; with others, and with attention that cannot take a
            mask of our own, the answer is the exact one.
        prompts: token ids, of any lengths.
        targets: token ids whose joint log-probability after each prompt is asked for.
        stop: asked of the decoded new text after every token; True ends the answer there.
        max_new_tokens: the longest answer.
        exact: one plain forward pass and one plain generation a cell. Answers can differ only
            where two logits are as close as rounding, about 1e-4 in float32.
        chunk: at most so many tokens a forward pass; a longer end goes alone. When memory runs out
            the batch is halved.
        progress: called with how many cells of how many prompts are done, and in all.

    Raises:
        InputError: prompts and targets that do not pair, an empty one, a token that is not in the
            vocabulary, or more tokens than the context holds.
        SiteError, EditError, PositionError, SilentEditError: before the model runs, as in
            `Model.run`; an edit that names no token of any prompt is refused.

    >>> import interp
    >>> model = interp.load("tiny-llama")
    >>> cells = [interp.ZeroAblate(f"{layer}.mlp_out", positions=2) for layer in (0, 1, 2)]
    >>> found = answer_sweep(model, [[5, 6, 7, 8]], [[9, 10]], cells, max_new_tokens=3)
    >>> found.logprobs.shape, len(found.new_ids[2][0]), found.receipts[1][0].tokens
    (torch.Size([3, 1]), 3, ((0, 2),))
    """
    job = _prepare(model, prompts, targets, cells, stop, max_new_tokens, chunk)
    said = progress or (lambda done, total: None)
    if exact or model.engine != "torch" or masks.refusal(model):
        return _exact(job, said)
    return _Shared(job, said).answered()


@dataclass(frozen=True, eq=False)
class Ending:
    """Says where an answer ends."""

    tokenizer: object
    tokens: frozenset[int]
    """The end-of-text tokens."""
    stop: Callable[[str], bool] | None
    max_new_tokens: int

    def over(self, new: Sequence[int]) -> bool:
        """Whether an answer ends with its last token."""
        if len(new) >= self.max_new_tokens or new[-1] in self.tokens:
            return True
        return self.stop is not None and bool(self.stop(self.text(new)))

    def cut(self, new: Sequence[int]) -> tuple[int, ...]:
        """What was written until the answer ended."""
        for n in range(1, len(new)):
            if self.over(new[:n]):
                return tuple(new[:n])
        return tuple(new)

    def text(self, new: Sequence[int]) -> str:
        """The tokens decoded, special ones left out."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(new), skip_special_tokens=True))  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class _Job:
    """What is asked, checked."""

    model: Model
    prompts: list[list[int]]
    targets: list[list[int]]
    cells: list[list[Edit]]
    """As they were given."""
    named: list[list[Edit]]
    """The same, naming tokens of the prompts by their positions."""
    session: Session
    """Holds the named edits, bound to the prompts."""
    ending: Ending
    chunk: int


def _prepare(
    model: Model,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    cells: Sequence[Cell],
    stop: Callable[[str], bool] | None,
    max_new_tokens: int,
    chunk: int,
) -> _Job:
    """Check everything before the model runs."""
    check_settings(max_new_tokens, 0.0, 1.0, ())
    if chunk < 1:
        raise InputError(f"chunk={chunk}: give at least 1 token a forward pass.")
    if stop is not None and model.tokenizer is None:
        raise InputError(f"stop reads text and {model.name} has no tokenizer: leave it out.")
    ids, answers = [list(each) for each in prompts], [list(each) for each in targets]
    batch = model.tokens(ids)
    _check_pairs(model, ids, answers, max_new_tokens)
    several = [list(cell) if isinstance(cell, Sequence) else [cell] for cell in cells]
    draft = Session(model, batch, batch.lengths)
    session = Session(model, batch, batch.lengths)
    for place, edits in enumerate(several):
        draft.add(edits, {}, cell=place)  # type: ignore[arg-type]
        check_cached(edits, cache=True)  # type: ignore[arg-type]
        session.add([_named(each) for each in draft.of_cells([place])], {}, cell=place)
    named = [[each.edit for each in session.of_cells([i])] for i in range(len(several))]
    ending = Ending(model.tokenizer, frozenset(_end_tokens(model)), stop, max_new_tokens)
    return _Job(model, ids, answers, several, named, session, ending, chunk)  # type: ignore[arg-type]


def _check_pairs(
    model: Model, prompts: list[list[int]], targets: list[list[int]], max_new_tokens: int
) -> None:
    if len(targets) != len(prompts):
        raise InputError(
            f"There are {len(prompts)} prompts and {len(targets)} targets: give one a prompt."
        )
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        if not target:
            raise InputError(f"Target {i} is empty: a target needs at least one token.")
        outside = [token for token in target if not 0 <= token < model.sizes.d_vocab]
        if outside:
            raise InputError(
                f"Target {i} holds token {outside[0]}, but the vocabulary has "
                f"{model.sizes.d_vocab} tokens."
            )
        longest = max(len(target), max_new_tokens)
        if len(prompt) + longest > model.sizes.n_ctx:
            raise InputError(
                f"Prompt {i} has {len(prompt)} tokens, and {longest} more for its answer exceed "
                f"the context of {model.name}, {model.sizes.n_ctx} tokens: shorten it."
            )


def _named(bound: BoundEdit) -> Edit:
    """An edit that names the same tokens of the prompts by position, whatever follows them."""
    if not isinstance(bound.edit.positions, str):
        return bound.edit
    rows = [row.nonzero()[:, 0].tolist() or [0] for row in bound.due]  # `rows` leaves out the empty
    return replace(bound.edit, positions=Each(rows))


def _receipts(job: _Job) -> tuple[tuple[EditReceipt, ...], ...]:
    """The proofs of each cell, told by the edits as they were given."""
    job.session.receipt()  # refuses an edit that did not act
    return tuple(
        tuple(
            replace(bound.receipt(), edit=edit)
            for bound, edit in zip(job.session.of_cells([place]), edits, strict=True)
        )
        for place, edits in enumerate(job.cells)
    )


# ---------------------------------------------------------------- one plain run a cell


def _exact(job: _Job, progress: Progress) -> Answered:
    """Teacher force and generate, once without edits and once under each cell."""
    logprobs, new, spent = [], [], []
    for place, edits in enumerate([[], *job.named]):
        logprobs.append(_forced(job, edits, place - 1))
        n_new = job.ending.max_new_tokens
        written = job.model.generate(job.prompts, max_new_tokens=n_new, edits=edits).new_ids
        spent.append(written)
        new.append([job.ending.cut(ids) for ids in written])
        if place:
            progress(place * len(job.prompts), len(job.named) * len(job.prompts))
    return _answered(job, logprobs, new, Spent(*_naive(job, spent), *_naive(job, new)))


def _forced(job: _Job, edits: list[Edit], cell: int) -> list[float]:
    """Log-probability of each target in one plain forward pass of all prompts."""
    whole = [[*p, *t[:-1]] for p, t in zip(job.prompts, job.targets, strict=True)]
    batch = job.model.tokens(whole)
    session = job.model.session(batch, batch.lengths, edits, ())
    reads = [range(len(p) - 1, len(w)) for p, w in zip(job.prompts, whole, strict=True)]
    keep = sorted({pos for read in reads for pos in read})
    columns = torch.tensor(keep, device=batch.ids.device)
    out, _ = job.model.tapped(batch, session.taps(batch), keep=columns)
    for bound, proof in zip(job.session.of_cells([cell]), session.receipt().edits, strict=True):
        bound.take(proof)
    found = []
    for row, (read, target) in enumerate(zip(reads, job.targets, strict=True)):
        rows = torch.tensor([keep.index(pos) for pos in read], device=out.device)
        found.append(float(sum(_logprob(out[row, rows], target))))
    return found


def _naive(job: _Job, new: Sequence[Sequence[Sequence[int]]]) -> tuple[int, int]:
    """Forward passes and tokens of a plain pass and a plain generation, for base and cells."""
    forwards = sum(1 + max(map(len, written)) for written in new)
    each = [2 * len(p) + len(t) - 2 for p, t in zip(job.prompts, job.targets, strict=True)]
    return forwards, sum(sum(each) + sum(map(len, written)) for written in new)


def _answered(
    job: _Job,
    logprobs: Sequence[Sequence[float]],
    new: Sequence[Sequence[tuple[int, ...]]],
    spent: Spent,
) -> Answered:
    """Put together what the base (first) and each cell answered."""
    texts = [tuple(job.ending.text(ids) for ids in each) for each in new]
    values = torch.tensor(logprobs, dtype=torch.promote_types(job.model.dtype, torch.float32))
    return Answered(
        logprobs=values[1:],
        new_ids=tuple(map(tuple, new[1:])),
        texts=tuple(texts[1:]),
        base_logprobs=values[0],
        base_ids=tuple(new[0]),
        base_texts=texts[0],
        receipts=_receipts(job),
        spent=spent,
    )


# ---------------------------------------------------------------- the base run, a token tree


class Forest:
    """The base run of several prompts and of drafts of their answers: one token tree.

    Column i of `base` holds node i of `tree`, in its one row.
    """

    def __init__(self, model: Model, maker: masks.Masks) -> None:
        self.tree = TokenTree()
        self.base: Base | None = None
        self._model, self._maker = model, maker
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
        new = base_pass(self._model, batch, self._maker.make(seen), self._cache(), columns)
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


def _packed(forest: Forest, ends: list[End], paths: dict[int, list[int]]) -> Ends:
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


# ---------------------------------------------------------------- writing on


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


def write_on(
    model: Model, maker: masks.Masks, lives: list[Live], ending: Ending
) -> tuple[int, int]:
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


def _write_on(
    model: Model, maker: masks.Masks, lives: list[Live], ending: Ending
) -> tuple[int, int]:
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


# ---------------------------------------------------------------- all cells, sharing the base run

HELD = 4
"""The base run of so many chunks of tokens is held at one time; shared prefixes count once."""
TOGETHER = 24
"""So many answers, where there are as many, are written on in one batch."""
Choices = dict[int, int]
"""By node, the most likely next token."""


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


class _Shared:
    """Answers every prompt under every cell, group by group of prompts."""

    def __init__(self, job: _Job, progress: Progress) -> None:
        self._job, self._progress, self._model = job, progress, job.model
        self._maker = masks.Masks(job.model)
        n, rows = len(job.prompts), len(job.cells) + 1  # cell i is row i + 1, the base row 0
        self._logprobs = [[0.0] * n for _ in range(rows)]
        self._new: list[list[tuple[int, ...]]] = [[()] * n for _ in range(rows)]
        self._live: list[Live] = []
        self._chunk = job.chunk
        self._forwards = self._tokens = self._done = 0

    def answered(self) -> Answered:
        """Answer all, and take the base's numbers where no edit changed anything."""
        todo = list(range(len(self._job.prompts)))
        while todo:
            group = self._planted(self._first(todo))
            for start, ends in self._ends(group).items():
                self._run(group, start, ends)
            todo = todo[len(group.paths) :]
            self._said(len(self._job.cells) * (len(self._job.prompts) - len(todo)))
        self._settle()
        for place in range(len(self._job.cells)):
            if all(bound.change == 0 for bound in self._job.session.of_cells([place])):
                self._logprobs[place + 1] = self._logprobs[0]
                self._new[place + 1] = self._new[0]
        naive = _naive(self._job, self._new)
        spent = Spent(self._forwards, self._tokens, *naive)
        return _answered(self._job, self._logprobs, self._new, spent)

    def _said(self, done: int) -> None:
        if done > self._done:
            self._done = done
            self._progress(done, len(self._job.cells) * len(self._job.prompts))

    def _first(self, todo: list[int]) -> list[int]:
        """The first prompts whose base run is held at one time, at least one."""
        taken, tree = [], TokenTree()
        for prompt in todo:
            tree.insert([*self._job.prompts[prompt], *self._job.targets[prompt]])
            if taken and len(tree.token) > HELD * self._job.chunk:
                break
            taken.append(prompt)
        return taken

    def _planted(self, prompts: list[int]) -> Group:
        """The base run of some prompts, of half of them when memory runs out."""
        try:
            return self._base(prompts)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(prompts) == 1:
                raise
        return self._planted(prompts[: len(prompts) // 2])

    def _base(self, prompts: list[int]) -> Group:
        """Run the prompts and their targets, answer them, and run the answers as drafts."""
        job, forest = self._job, Forest(self._model, self._maker)
        group = Group(forest)
        for prompt in prompts:
            group.plant(prompt, job.prompts[prompt], job.targets[prompt])
        read = sorted({node for each in group.reads.values() for node, _ in each})
        logits = forest.grow(read)
        assert logits is not None and forest.base is not None
        self._forwards += 1
        choices = dict(zip(read, logits.argmax(-1).tolist(), strict=True))
        places = {node: i for i, node in enumerate(read)}
        lives = []
        for prompt in prompts:
            self._logprobs[0][prompt] = _joint(logits, group.reads[prompt], places)
            new, node = self._walk(group, choices, group.paths[prompt][-1])
            if node is None:
                self._new[0][prompt] = tuple(new)
                continue
            path = group.path_to(node)
            keys = [part[0][:, path] for part in forest.base.keys]
            values = [part[0][:, path] for part in forest.base.values]
            lives.append(Live(-1, prompt, new, keys, values))
        self._written(lives)
        for prompt in prompts:
            group.draft(prompt, job.prompts[prompt], self._new[0][prompt])
            for row in range(1, len(job.cells) + 1):
                self._new[row][prompt] = self._new[0][prompt]
                self._logprobs[row][prompt] = self._logprobs[0][prompt]
        self._forwards += len(forest.sees) < len(forest.tree.token)
        forest.grow()
        self._tokens += len(forest.tree.token)
        return group

    def _walk(self, group: Group, choices: Choices, node: int) -> tuple[list[int], int | None]:
        """Follow the choices from the last token of a prompt: what is written, and the last node
        that was read, or None where the answer is over."""
        new: list[int] = []
        while True:
            new.append(choices[node])
            if self._job.ending.over(new):
                return new, None
            child = group.forest.tree.child(node, choices[node])
            if child is None or child not in choices:
                return new, node
            node = child

    def _ends(self, group: Group) -> dict[Start, list[End]]:
        """What each cell has to compute for each prompt that it edits, by where it starts."""
        ends: dict[Start, list[End]] = {}
        for cell, edits in self._job.session.by_cell.items():
            sites = [Site.parse(bound.edit.site) for bound in edits]
            start = min(start_of(site, self._model.sizes.n_layers) for site in sites)
            due = torch.stack([bound.due for bound in edits]).any(0)
            first = due.int().argmax(1).tolist()
            for prompt in (p for p in group.paths if due[p].any()):
                nodes = (*group.paths[prompt][first[prompt] :], *group.drafts[prompt])
                ends.setdefault(start, []).append(End(cell, prompt, first[prompt], nodes))
        for several in ends.values():
            several.sort(key=lambda end: (end.prompt, end.start))
        return dict(sorted(ends.items()))

    def _run(self, group: Group, start: Start, ends: list[End]) -> None:
        """Compute ends in passes of at most a chunk; halve it when memory runs out."""
        while ends:
            part = _fill(ends, self._chunk)
            bound = self._job.session.of_cells({end.cell for end in part})
            held = [each.book for each in bound]
            try:
                self._pass(group, start, part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                for each, book in zip(bound, held, strict=True):
                    each.book = book
                self._chunk = max(1, sum(map(len, part)) // 2)
                continue
            ends = ends[len(part) :]
            self._said(self._done + len(part))
            if len(self._live) >= TOGETHER:
                self._settle()

    def _pass(self, group: Group, start: Start, ends: list[End]) -> None:
        """One forward pass: note the targets' probabilities and what the drafts foresee."""
        base, packed = group.forest.base, _packed(group.forest, ends, group.paths)
        assert base is not None
        tails = [end.nodes[len(self._job.prompts[end.prompt]) - 1 - end.start :] for end in ends]
        taps, mask = self._job.session.taps(packed), self._maker.make(packed.visible)
        keep = _last_of_each(ends, tails).to(base.batch.ids.device)
        logits, cache = ends_pass(self._model, base, packed, start, taps, mask, keep)
        chosen, row, column, lives = logits.argmax(-1).tolist(), 0, 0, []
        for end, tail in zip(ends, tails, strict=True):
            places = {node: row + i for i, node in enumerate(tail)}
            choices = {node: chosen[place] for node, place in places.items()}
            reads = group.reads[end.prompt]
            self._logprobs[end.cell + 1][end.prompt] = _joint(logits, reads, places)
            new, node = self._walk(group, choices, tail[0])
            self._new[end.cell + 1][end.prompt] = tuple(new)
            if node is not None:
                path = group.path_to(node)
                columns = _columns(packed, end, column, path)
                keys, values = _held(base, cache, start, path, columns)
                lives.append(Live(end.cell, end.prompt, new, keys, values))
            row, column = row + len(tail), column + len(end)
        self._live += lives
        self._forwards, self._tokens = self._forwards + 1, self._tokens + column

    def _settle(self) -> None:
        """Write on what no draft foresaw."""
        self._written(self._live)
        self._live = []

    def _written(self, lives: list[Live]) -> None:
        """Write answers to their end and note them."""
        forwards, tokens = write_on(self._model, self._maker, lives, self._job.ending)
        for live in lives:
            self._new[live.cell + 1][live.prompt] = tuple(live.new)
        self._forwards, self._tokens = self._forwards + forwards, self._tokens + tokens


def _fill(ends: list[End], size: int) -> list[End]:
    """The first ends that fit into a forward pass of so many tokens, at least one."""
    taken, tokens = [], 0
    for end in ends:
        if taken and tokens + len(end) > size:
            break
        taken.append(end)
        tokens += len(end)
    return taken


def _last_of_each(ends: list[End], tails: list[tuple[int, ...]]) -> Int[Tensor, " kept"]:
    """The packed columns of each end's last nodes."""
    kept, offset = [], 0
    for end, tail in zip(ends, tails, strict=True):
        offset += len(end)
        kept += range(offset - len(tail), offset)
    return torch.tensor(kept)


def _joint(
    logits: Float[Tensor, "read d_vocab"], reads: list[tuple[int, int]], places: dict[int, int]
) -> float:
    """The log-probability of all tokens, each read at the row of its node."""
    rows = torch.tensor([places[node] for node, _ in reads], device=logits.device)
    return float(sum(_logprob(logits[rows], [token for _, token in reads])))


def _columns(packed: Ends, end: End, offset: int, path: list[int]) -> list[int]:
    """Where the cache of a pass holds the nodes of a path: prefix columns, then packed ones."""
    before = {node: i for i, node in enumerate(packed.before.tolist())}
    own = {node: len(before) + offset + i for i, node in enumerate(end.nodes)}
    return [own[node] if node in own else before[node] for node in path]


def _held(
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
