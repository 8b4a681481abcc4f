"""Answers to every prompt under every cell, behind one base run (see `answer_sweep`)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine.answer_cells import (
    End,
    Live,
    columns_of,
    fill,
    keys_and_values,
    last_of_each,
    pack_ends,
    write_on,
)
from interp.engine.answer_forest import Forest, Group
from interp.engine.answer_question import Found, Question
from interp.engine.masks import Masks
from interp.engine.partial import ends_pass
from interp.engine.plan import Start, start_of
from interp.engine.tree import Progress, TokenTree, out_of_memory, target_logprobs
from interp.sites import Site

HELD = 4
"""The base run of so many chunks of tokens is held at one time; shared prefixes count once."""
TOGETHER = 24
"""So many answers, where there are as many, are written on in one batch."""


class Shared:
    """Answers every prompt under every cell, group by group of prompts."""

    def __init__(self, question: Question, progress: Progress) -> None:
        self._question, self._progress = question, progress
        self._model, self._maker = question.model, Masks(question.model)
        self._starts = _starts(question)
        n, rows = len(question.prompts), len(question.cells) + 1
        self._logprobs = [[0.0] * n for _ in range(rows)]
        self._new: list[list[tuple[int, ...]]] = [[()] * n for _ in range(rows)]
        self._live: list[Live] = []
        self._chunk = question.chunk
        self._forwards = self._tokens = self._done = 0

    def answered(self) -> Found:
        """Answer all, and take the base's numbers where no edit changed anything."""
        todo = list(range(len(self._question.prompts)))
        while todo:
            group = self._planted(self._first(todo))
            for start, ends in self._ends(group).items():
                self._run(group, start, ends)
            todo = todo[len(group.paths) :]
            self._said(len(self._question.cells) * (len(self._question.prompts) - len(todo)))
        self._settle()
        for place in range(len(self._question.cells)):
            if all(bound.change == 0 for bound in self._question.session.of_cells([place])):
                self._logprobs[place + 1] = self._logprobs[0]
                self._new[place + 1] = self._new[0]
        return Found(self._logprobs, self._new, self._forwards, self._tokens)

    def _said(self, done: int) -> None:
        if done > self._done:
            self._done = done
            self._progress(done, len(self._question.cells) * len(self._question.prompts))

    def _first(self, todo: list[int]) -> list[int]:
        """The first prompts whose base run is held at one time, at least one."""
        taken, tree = [], TokenTree()
        for prompt in todo:
            tree.insert([*self._question.prompts[prompt], *self._question.targets[prompt]])
            if taken and len(tree.token) > HELD * self._question.chunk:
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
        asked, inside = self._question, any(stage for _, stage in self._starts.values())
        forest = Forest(self._model, self._maker, inside=inside)
        group = Group(forest)
        for prompt in prompts:
            group.plant(prompt, asked.prompts[prompt], asked.targets[prompt])
        read = sorted({node for each in group.reads.values() for node, _ in each})
        logits = forest.grow(read)
        assert logits is not None and forest.base is not None
        self._forwards += 1
        choices = dict(zip(read, logits.argmax(-1).tolist(), strict=True))
        places = {node: i for i, node in enumerate(read)}
        lives = []
        for prompt in prompts:
            self._logprobs[0][prompt] = _joint(logits, group.reads[prompt], places)
            new, node = group.follow(choices, group.paths[prompt][-1], asked.ending)
            if node is None:
                self._new[0][prompt] = tuple(new)
                continue
            path = group.path_to(node)
            keys = [part[0][:, path] for part in forest.base.keys]
            values = [part[0][:, path] for part in forest.base.values]
            lives.append(Live(-1, prompt, new, keys, values))
        self._written(lives)
        for prompt in prompts:
            group.draft(prompt, asked.prompts[prompt], self._new[0][prompt])
            for row in range(1, len(asked.cells) + 1):
                self._new[row][prompt] = self._new[0][prompt]
                self._logprobs[row][prompt] = self._logprobs[0][prompt]
        self._forwards += len(forest.sees) < len(forest.tree.token)
        forest.grow()
        self._tokens += len(forest.tree.token)
        return group

    def _ends(self, group: Group) -> dict[Start, list[End]]:
        """What each cell has to compute for each prompt that it edits, by where it starts."""
        ends: dict[Start, list[End]] = {}
        for cell, edits in self._question.session.by_cell.items():
            due = torch.stack([bound.due for bound in edits]).any(0)
            first = due.int().argmax(1).tolist()
            several = ends.setdefault(self._starts[cell], [])
            for prompt in (p for p in group.paths if due[p].any()):
                nodes = (*group.paths[prompt][first[prompt] :], *group.drafts[prompt])
                several.append(End(cell, prompt, first[prompt], nodes))
        for several in ends.values():
            several.sort(key=lambda end: (end.prompt, end.start))
        return dict(sorted(ends.items()))

    def _run(self, group: Group, start: Start, ends: list[End]) -> None:
        """Compute ends in passes of at most a chunk; halve it when memory runs out."""
        while ends:
            part = fill(ends, self._chunk)
            bound = self._question.session.of_cells({end.cell for end in part})
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
        asked, base = self._question, group.forest.base
        assert base is not None
        packed = pack_ends(group.forest, ends, group.paths)
        tails = [end.nodes[len(asked.prompts[end.prompt]) - 1 - end.start :] for end in ends]
        taps, mask = asked.session.taps(packed), self._maker.make(packed.visible)
        keep = last_of_each(ends, tails).to(base.batch.ids.device)
        logits, cache = ends_pass(self._model, base, packed, start, taps, mask, keep)
        chosen, row, column, lives = logits.argmax(-1).tolist(), 0, 0, []
        for end, tail in zip(ends, tails, strict=True):
            places = {node: row + i for i, node in enumerate(tail)}
            choices = {node: chosen[place] for node, place in places.items()}
            reads = group.reads[end.prompt]
            self._logprobs[end.cell + 1][end.prompt] = _joint(logits, reads, places)
            new, node = group.follow(choices, tail[0], asked.ending)
            self._new[end.cell + 1][end.prompt] = tuple(new)
            if node is not None:
                path = group.path_to(node)
                columns = columns_of(packed, end, column, path)
                keys, values = keys_and_values(base, cache, start, path, columns)
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
        forwards, tokens = write_on(self._model, self._maker, lives, self._question.ending)
        for live in lives:
            self._new[live.cell + 1][live.prompt] = tuple(live.new)
        self._forwards, self._tokens = self._forwards + forwards, self._tokens + tokens


def _starts(question: Question) -> dict[int, Start]:
    """Where each cell that edits anything starts."""
    n_layers = question.model.sizes.n_layers
    return {
        cell: min(start_of(Site.parse(bound.edit.site), n_layers) for bound in edits)
        for cell, edits in question.session.by_cell.items()
    }


def _joint(
    logits: Float[Tensor, "read d_vocab"], reads: list[tuple[int, int]], places: dict[int, int]
) -> float:
    """The log-probability of all tokens, each read at the row of its node."""
    rows = torch.tensor([places[node] for node, _ in reads], device=logits.device)
    return float(sum(target_logprobs(logits[rows], [token for _, token in reads])))
