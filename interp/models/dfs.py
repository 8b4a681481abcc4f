"""Path-finding by depth-first search, written as text: the subject of the Failed-Step Fraction.

A problem is a directed tree of `N_NODES` letters, its edges in random order, a start (the root)
and a goal (a leaf): which node stands two above the goal? The trace visits children in random
order; at a dead end it writes `backtrack` and the parent that it returns to, and goes on from
there. Once the goal is reached it writes `answer` and that node, of the way that stands:

    prompt  A>B C>E A>C from A to E :
    trace    A B backtrack A C E answer A

An edge is one token, so are a letter and a word. Every visited node is a step; a step that the
search has left by `backtrack` has failed, and whether it did is known exactly, without a judge. In
the trace above one step of four failed. The answer is right if the node is, whatever was written
before it.

Why failed branches could hurt: without them the answer is three words before `answer`. Below it
they come between, and every failed step looks like a step; one of them has to be told from the way
that stands. So much is the task; whether failed branches hurt a model is measured.

What is asked decides what cutting a branch does, so it is part of the finding. Where the answer was
the number of moves, a model that lost its place counted too many, and a cut helped wherever it was
made, in steps that had not failed too. Where it was the first move, branches near the start
mattered, and the first more than the last. Where it was the whole way, to be copied, failed steps
helped: they say a node twice.

Source of the statistic: Feng et al. 2025, arXiv:2509.19284; the subject is our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from transformers import PreTrainedTokenizerFast

from interp.errors import InputError
from interp.models.tiny import piece_tokenizer

LETTERS = "ABCDEFGHIJKLMN"
"""Names of nodes; a problem uses `N_NODES` of them."""
N_NODES = 12
"""Nodes of a tree."""
REACH = 4
"""A node's parent is one of the `REACH` nodes drawn before it, so that trees are deep enough."""
MOST_CHILDREN = 3
N_CTX = 80
"""Longest text in tokens, prompt and trace together; a trace of the oracle always fits."""

BACKTRACK, ANSWER = "backtrack", "answer"
"""The words that leave a step, and that end the search."""


@dataclass(frozen=True)
class PathProblem:
    """A tree, a start and a goal."""

    id: str
    edges: tuple[tuple[str, str], ...]
    """(parent, child) in the order in which they are written."""
    start: str
    goal: str

    @cached_property
    def prompt(self) -> str:
        """The problem as text; every word has the space before it."""
        edges = "".join(f" {parent}>{child}" for parent, child in self.edges)
        return f"{edges} from {self.start} to {self.goal} :"

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """The children of every inner node, in the order written."""
        found: dict[str, tuple[str, ...]] = {}
        for parent, child in self.edges:
            found[parent] = (*found.get(parent, ()), child)
        return found

    @cached_property
    def path(self) -> tuple[str, ...]:
        """The way from start to goal."""
        parent = {child: above for above, child in self.edges}
        way = [self.goal]
        while way[-1] != self.start:
            way.append(parent[way[-1]])
        return tuple(reversed(way))

    @property
    def answer(self) -> str:
        """The node two above the goal, or the start where the way is shorter."""
        return self.path[-3] if len(self.path) > 2 else self.start


@dataclass(frozen=True)
class Search:
    """A trace of the oracle, with what is true of it."""

    text: str
    n_steps: int
    n_failed: int

    @property
    def fsf(self) -> float:
        """The Failed-Step Fraction, 0 to below 1: failed steps of all steps."""
        return self.n_failed / self.n_steps


@dataclass(frozen=True)
class Replay:
    """What a walk along a trace finds, step by step against the tree."""

    n_steps: int
    n_failed: int
    answer: str | None
    """What stands after `answer`; None if the trace never says it."""
    correct: bool
    flaws: tuple[str, ...]
    """What the search did against its rules, one sentence each; a right answer may come of it."""
    strays: int = 0
    """Returns to a node that the search is not below; they are skipped."""

    @property
    def fsf(self) -> float | None:
        """The Failed-Step Fraction; None if the trace has no steps."""
        return self.n_failed / self.n_steps if self.n_steps else None


def problems(n: int, *, seed: int = 0) -> list[PathProblem]:
    """Draw `n` problems; equal seeds give equal problems, and more of them only add some.

    Raises:
        InputError: n is below 1.

    >>> problem = problems(1)[0]
    >>> len(problem.edges), problem.path[0] == problem.start, problem.path[-1] == problem.goal
    (11, True, True)
    """
    if n < 1:
        raise InputError(f"n={n}: draw at least one problem.")
    return [_problem(f"dfs-{seed}-{i}", random.Random(f"{seed} {i}")) for i in range(n)]


def _problem(name: str, rng: random.Random) -> PathProblem:
    letters = rng.sample(LETTERS, N_NODES)
    n_children, edges = dict.fromkeys(letters, 0), []
    for i, child in enumerate(letters[1:], 1):
        parent = rng.choice(
            [each for each in letters[max(0, i - REACH) : i] if n_children[each] < MOST_CHILDREN]
        )
        n_children[parent] += 1
        edges.append((parent, child))
    goal = rng.choice([each for each in letters[1:] if not n_children[each]])
    rng.shuffle(edges)
    return PathProblem(name, tuple(edges), letters[0], goal)


def oracle(problem: PathProblem, *, seed: int = 0) -> Search:
    """Search the tree, children in random order, and write a right trace.

    >>> tree = PathProblem("x", (("A", "B"), ("C", "E"), ("A", "C")), "A", "E")
    >>> [oracle(tree, seed=seed).text for seed in (1, 0)]
    [' A C E answer A', ' A B backtrack A C E answer A']
    >>> oracle(tree, seed=0).fsf
    0.25
    """
    rng = random.Random(f"oracle {problem.id} {seed}")
    words: list[str] = []
    n_steps, n_failed, _ = _visit(problem, problem.start, rng, words)
    words += [ANSWER, problem.answer]
    return Search("".join(f" {word}" for word in words), n_steps, n_failed)


def _visit(
    problem: PathProblem, node: str, rng: random.Random, words: list[str]
) -> tuple[int, int, bool]:
    """Search below a node: steps, failed steps, whether the goal was found."""
    words.append(node)
    if node == problem.goal:
        return 1, 0, True
    below = list(problem.children.get(node, ()))
    rng.shuffle(below)
    n_steps, n_failed = 1, 0
    for child in below:
        more, lost, found = _visit(problem, child, rng, words)
        n_steps, n_failed = n_steps + more, n_failed + lost
        if found:
            return n_steps, n_failed, True
        words += [BACKTRACK, node]
    return n_steps, n_steps, False


def replay(problem: PathProblem, text: str) -> Replay:
    """Walk along any trace, such as a model's, and judge it against the tree.

    Steps that failed are those that are not on the way when the search stops.

    >>> tree = PathProblem("x", (("A", "B"), ("C", "E"), ("A", "C")), "A", "E")
    >>> replay(tree, " A B backtrack A E answer A")
    ... # doctest: +NORMALIZE_WHITESPACE
    Replay(n_steps=3, n_failed=1, answer='A', correct=True,
        flaws=('There is no edge A>E.',), strays=0)
    """
    words = text.split()
    n_search = words.index(ANSWER) if ANSWER in words else len(words)
    answer = " ".join(words[n_search + 1 :]) if n_search < len(words) else None
    way: list[str] = []
    n_steps, n_strays, flaws = 0, 0, []
    for back, word in _moves(words[:n_search]):
        if not back:
            flaws += _flaws_of_step(problem, way, word)
            way.append(word)
            n_steps += 1
        elif word in way[:-1]:
            flaws += [] if word == way[-2] else [f"{word} is not the parent of {way[-1]}."]
            del way[len(way) - way[::-1].index(word, 1) :]
        else:
            flaws.append(f"The search is not below {word!r}, so it cannot return there.")
            n_strays += 1
    right = answer == problem.answer
    return Replay(n_steps, n_steps - len(way), answer, right, tuple(flaws), n_strays)


def _moves(words: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is a return, the node gone to)."""
    following = iter(words)
    for word in following:
        yield (True, next(following, "")) if word == BACKTRACK else (False, word)


def _flaws_of_step(problem: PathProblem, way: Sequence[str], node: str) -> list[str]:
    if not way:
        return [] if node == problem.start else [f"The search starts at {node}."]
    if node in problem.children.get(way[-1], ()):
        return []
    return [f"There is no edge {way[-1]}>{node}."]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: a word of the task with the space before it is one token.

    `<bos>` comes first unless `add_special_tokens=False`; other text is spelled in bytes.

    >>> tok = tokenizer()
    >>> tok.convert_ids_to_tokens(tok(" A>B from A to B :").input_ids)
    ['<bos>', 'ĠA>B', 'Ġfrom', 'ĠA', 'Ġto', 'ĠB', 'Ġ:']
    """
    edges = [f"{parent}>{child}" for parent, child in permutations(LETTERS, 2)]
    words = [*LETTERS, *edges, "from", "to", ":", BACKTRACK, ANSWER]
    return piece_tokenizer([f" {word}" for word in words], pattern=r" ?\S+|\s", n_ctx=N_CTX)
