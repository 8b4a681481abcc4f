"""Cycle-hop: follow a random cycle for H hops, the smallest task that needs chained lookups.

A prompt shows the P edges of one random cycle over P nodes in random order, then a start node x.
With f the function "next on the cycle", the steps are f(x), f²(x), ..., f^H(x), and the answer is
the last of them. One cycle has no fixed point and no short loop, so no step comes for free. A
transformer of two layers cannot chain four lookups in one pass: it must reason in between, in
tokens or in latent vectors. Whoever has found h hops in each direction can still only guess among
the P - 1 - 2h nodes that are left, which `CycleHop.ceiling` gives; a control that does not reason
is to be read against it.

>>> task = CycleHop(n_nodes=4, hops=2)
>>> problem = task.draw(1)[0]
>>> problem.question
'cb bd da ac c'
>>> problem.steps, problem.answer
(('b', 'd'), 'd')
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from interp.data.latent_problems import MARKERS, LatentProblem, task_tokenizer
from interp.errors import InputError

__all__ = ["MARKERS", "CycleHop", "CycleProblem"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class CycleProblem(LatentProblem):
    """One start on one cycle; `question` is its edges and its start, with spaces between."""

    edges: tuple[tuple[str, str], ...]
    """(from, to) of all edges of the cycle, in the order of the prompt."""
    start: str
    path: tuple[str, ...]
    """The start and every node after it up to the answer: `hops + 1` of them."""


@dataclass(frozen=True)
class CycleHop:
    """The task for one size of cycle and one number of hops; the text of an edge is `ab`.

    Raises:
        InputError: fewer than 3 or more than 26 nodes, or a number of hops that is not
            1..n_nodes - 1 (a walk of n_nodes hops ends where it started).
    """

    n_nodes: int = 8
    hops: int = 4
    tells_hops: bool = False
    """Whether a token that names the number of hops stands before the start node."""
    two_token_edges: bool = False
    """Whether an edge is the two tokens of its nodes, as in text, and not one of its own."""

    def __post_init__(self) -> None:
        if not 3 <= self.n_nodes <= len(string.ascii_lowercase):
            raise InputError(f"A cycle has 3 to 26 nodes, one letter each; not {self.n_nodes}.")
        self._check_hops(self.hops)

    def _check_hops(self, hops: int) -> None:
        if not 1 <= hops < self.n_nodes:
            raise InputError(
                f"{hops} hops on a cycle of {self.n_nodes} nodes: give 1 to {self.n_nodes - 1}, "
                "because a full round ends where it started."
            )

    @property
    def nodes(self) -> str:
        """The letters of the nodes, in alphabetical order."""
        return string.ascii_lowercase[: self.n_nodes]

    def draw(self, n: int, seed: int = 0, hops: int | None = None) -> list[CycleProblem]:
        """Make n problems of `hops` hops, or of as many as the task has; repeatable.

        The first k of a longer list are the same k. Another number of hops asks a different
        distance of the same cycles and starts.

        Raises:
            InputError: `hops` is not 1..n_nodes - 1.
        """
        distance = self.hops if hops is None else hops
        self._check_hops(distance)
        return [self._problem(seed, i, distance) for i in range(n)]

    def _problem(self, seed: int, i: int, hops: int) -> CycleProblem:
        rng = random.Random(f"{seed}/{i}")
        cycle = rng.sample(self.nodes, self.n_nodes)
        edges = list(zip(cycle, cycle[1:] + cycle[:1], strict=True))
        rng.shuffle(edges)  # the cycle's own order starts at a random node, so path[0] is uniform
        path = tuple(cycle[: hops + 1])
        name = f"cycle-{self.n_nodes}-{hops}-{seed}-{i}"
        return CycleProblem(
            name, self._text(edges, hops, path[0]), path[1:], path[-1], tuple(edges), path[0], path
        )

    def _text(self, edges: list[tuple[str, str]], hops: int, start: str) -> str:
        between = " " if self.two_token_edges else ""
        told = [str(hops)] if self.tells_hops else []
        return " ".join([*(between.join(edge) for edge in edges), *told, start])

    def ceiling(self, known_hops: int = 0) -> float:
        """The best accuracy of one who knows `known_hops` hops from the start in each direction.

        1 / (n_nodes - 1 - 2 known_hops), or 1 where those hops reach the answer.

        >>> [round(CycleHop().ceiling(h), 3) for h in range(4)]
        [0.143, 0.2, 0.333, 1.0]

        Raises:
            InputError: a negative number of hops.
        """
        if known_hops < 0:
            raise InputError(f"One cannot know {known_hops} hops: give 0 or more.")
        if known_hops >= min(self.hops, self.n_nodes - self.hops):
            return 1.0
        return 1 / (self.n_nodes - 1 - 2 * known_hops)

    def tokenizer(self, *, n_ctx: int = 64) -> PreTrainedTokenizerFast:
        """A tokenizer in which every piece of the task is one token; see `task_tokenizer`.

        Pieces are `MARKERS`, the nodes, the numbers of hops and, unless `two_token_edges`, the
        edges; all settings but that one and `n_nodes` leave the ids alone.

        >>> tok = CycleHop().tokenizer()
        >>> tok.convert_ids_to_tokens(tok("ab ca 4 c").input_ids)
        ['<bos>', 'ab', 'ca', '4', 'c']
        """
        return task_tokenizer(self._pieces(), n_ctx=n_ctx)

    def _pieces(self) -> Iterator[str]:
        yield from self.nodes
        yield from (str(hops) for hops in range(1, self.n_nodes))
        if not self.two_token_edges:
            yield from ("".join(edge) for edge in permutations(self.nodes, 2))
