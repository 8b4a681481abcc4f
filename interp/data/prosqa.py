"""ProsQA: which of two kinds is this person? A search through a graph of concepts.

A problem is a directed graph. Two of its nodes are roots; the question asks which of two leaves
the asked root reaches. It reaches the `target`, and only the other root reaches the `neg_target`,
so a look at either leaf's neighbours does not tell: the way must be searched. In text, nodes are
persons and made-up concepts and edges are sentences; in the symbolic variant nodes are numbers:

    Every brimp is a clard. Anna is a brimp. ... Is Anna a dorvel or a fesk?
    3 7 | 0 3 | ... ? 12 5 : 0

Nodes are drawn in order; node i takes Poisson(1.5) parents among those before it, and its label is
the union of theirs: 0 neither root reaches it, 1 the first, 2 the second, 3 both. Parents are drawn
from labels 0 or 1, 0 or 2, or all, with probability .35, .35, .30, by weight 1.5 depth + 1, depth
being the distance from the nearest root. Nodes without parents are persons. Isolated nodes go.

Source: Hao et al. 2024, arXiv:2412.06769, appendix, for the procedure above. The number of nodes
and the final filters are not published. What we do there is chosen to meet `RELEASED`, what was
measured on the 500 released test problems: 26 to 28 nodes are drawn; a node that no root reaches
gets the small weight `STRAY_WEIGHT`, or five times as many such nodes as there are would remain;
at most `MOST_PERSONS` persons; the asked root and the distance of its target are drawn first, in
the measured shares, and graphs are drawn until one fits.

>>> problem = ProsQA().draw(1)[0]
>>> problem.steps[-1].split()[-1] == problem.answer.split()[-1]
True
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from interp.data.latent_problems import LatentProblem, task_tokenizer
from interp.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NAMES = """
    Anna Boris Carla Dario Edith Felix Greta Hugo Irina Jonas Karin Louis Marta Nils Olga Piet
    Rosa
"""
NAMES = tuple(_NAMES.split())
"""17 names of persons."""

_CONCEPTS = """
    brimp clard dorvel fesk gantle hoblin jarp kestin lummer mivven norl pelk quenter rondle sarv
    tebble vask welkin yorp zinder bostrel crull drenk florp glimmet hask jendle krint lorven
    morbet nask plind ruskel skerp trobe vellin wurst zall
"""
CONCEPTS = tuple(_CONCEPTS.split())
"""38 made-up kinds of things; all start with a consonant, so that "a" always fits."""

N_SYMBOLS = 32
"""Numbers that name nodes in the symbolic variant."""
DISTANCES = {3: 202, 4: 217, 5: 69, 6: 12}
"""Shortest paths from root to target in the released test set: length, number of problems."""
SECOND_ROOT = 0.63
"""How often the second root is the asked one there."""
STRAY_WEIGHT = 0.04
"""Weight, as a parent, of a node that no root reaches; a root's is 1."""
MOST_PERSONS = 6


@dataclass(frozen=True)
class ProsQAProblem(LatentProblem):
    """One graph and one question; extra fields as in the released files."""

    idx_to_symbol: tuple[str, ...]
    """What each node is called."""
    edges: tuple[tuple[int, int], ...]
    """(parent, child), in the order in which the question states them."""
    root: int
    """The node that is asked about: 0 or 1; both are roots."""
    target: int
    neg_target: int

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Which roots reach each node: 0 neither, 1 the first, 2 the second, 3 both."""
        first, second = (_distances(self.edges, root)[0] for root in (0, 1))
        n = len(self.idx_to_symbol)
        return tuple((node in first) + 2 * (node in second) for node in range(n))

    @cached_property
    def in_degrees(self) -> tuple[int, ...]:
        """How many parents each node has; persons have none."""
        parents = Counter(child for _, child in self.edges)
        return tuple(parents[node] for node in range(len(self.idx_to_symbol)))

    @property
    def persons(self) -> tuple[str, ...]:
        """What the nodes without parents are called."""
        named = zip(self.idx_to_symbol, self.in_degrees, strict=True)
        return tuple(symbol for symbol, parents in named if not parents)

    def row(self) -> dict[str, Any]:
        """The problem as the released files hold it, ready for JSON."""
        return {
            "question": self.question,
            "steps": list(self.steps),
            "answer": self.answer,
            "idx_to_symbol": list(self.idx_to_symbol),
            "edges": [list(edge) for edge in self.edges],
            "root": self.root,
            "target": self.target,
            "neg_target": self.neg_target,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any], *, id: str) -> ProsQAProblem:
        """Read a row of a released file back; inverse of `row` but for the id.

        Raises:
            InputError: a field is missing or of another kind.
        """
        try:
            edges = tuple((int(parent), int(child)) for parent, child in row["edges"])
            steps, symbols = tuple(map(str, row["steps"])), tuple(map(str, row["idx_to_symbol"]))
            marks = int(row["root"]), int(row["target"]), int(row["neg_target"])
            question, answer = str(row["question"]), str(row["answer"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{id} is no ProsQA row ({type(error).__name__}: {error}); it needs question, "
                "steps, answer, idx_to_symbol, edges, root, target and neg_target."
            ) from error
        nodes = {*marks, *(node for edge in edges for node in edge)}
        if not answer.strip() or not nodes <= set(range(len(symbols))) or marks[0] > 1:
            raise InputError(
                f"{id} is no ProsQA row: its answer is empty, its root is not 0 or 1, or a node "
                f"is not one of the {len(symbols)} of idx_to_symbol."
            )
        return cls(id, question, steps, answer, symbols, edges, *marks)


@dataclass(frozen=True)
class ProsQA:
    """The generator.

    Raises:
        InputError: a range of nodes that is empty or leaves no graph for the distances.
    """

    n_nodes: tuple[int, int] = (26, 28)
    """Fewest and most nodes drawn; isolated ones are dropped afterwards."""
    symbolic: bool = False
    """Whether nodes are numbers and the answer is the target's number."""

    def __post_init__(self) -> None:
        low, high = self.n_nodes
        if not 12 <= low <= high <= N_SYMBOLS:
            raise InputError(
                f"ProsQA draws {low} to {high} nodes: give a range within 12 to {N_SYMBOLS}, so "
                "that paths of 3 to 6 edges are found and every node has a symbol."
            )

    def draw(self, n: int, seed: int = 0) -> list[ProsQAProblem]:
        """Make n problems; the first k of a longer list are the same k.

        Of problems 2j and 2j + 1, one names its target first, so the order is balanced exactly.
        """
        return [self._problem(seed, i) for i in range(n)]

    def _problem(self, seed: int, i: int) -> ProsQAProblem:
        rng = random.Random(f"{seed}/{i}")
        root = int(rng.random() < SECOND_ROOT)
        distance = rng.choices(list(DISTANCES), list(DISTANCES.values()))[0]
        n_nodes, edges, target, neg_target = self._graph(rng, root, distance)
        symbols = self._symbols(rng, n_nodes, {child for _, child in edges})
        rng.shuffle(edges)
        path = _shortest_path(rng, edges, root, target)
        coin = random.Random(f"{seed}/{i // 2}/order").randrange(2)
        options = (target, neg_target) if (i + coin) % 2 else (neg_target, target)
        name = f"prosqa-{'symbols-' if self.symbolic else ''}{seed}-{i}"
        write = _symbolic if self.symbolic else _sentences
        question, steps, answer = write(symbols, edges, path, options)
        return ProsQAProblem(
            name, question, steps, answer, symbols, tuple(edges), root, target, neg_target
        )

    def _graph(
        self, rng: random.Random, root: int, distance: int
    ) -> tuple[int, list[tuple[int, int]], int, int]:
        """Draw graphs until one has a target at that distance; its size, edges and both leaves."""
        while True:
            labels, edges = _draw_graph(rng, rng.randint(*self.n_nodes))
            parents, children = {a for a, _ in edges}, {b for _, b in edges}
            if not {0, 1} <= parents or len(parents - children) > MOST_PERSONS:
                continue
            far, _ = _distances(edges, root)
            leaves = sorted(children - parents)
            targets = [x for x in leaves if labels[x] == 1 + root and far[x] == distance]
            others = [x for x in leaves if labels[x] == 2 - root]
            if targets and others:
                kept = {node: k for k, node in enumerate(sorted(parents | children))}
                edges = [(kept[a], kept[b]) for a, b in edges]
                return len(kept), edges, kept[rng.choice(targets)], kept[rng.choice(others)]

    def _symbols(self, rng: random.Random, n_nodes: int, children: set[int]) -> tuple[str, ...]:
        if self.symbolic:
            return tuple(map(str, rng.sample(range(N_SYMBOLS), n_nodes)))
        names, concepts = iter(rng.sample(NAMES, MOST_PERSONS)), iter(rng.sample(CONCEPTS, n_nodes))
        return tuple(next(concepts if node in children else names) for node in range(n_nodes))

    @staticmethod
    def tokenizer(*, n_ctx: int = 256) -> PreTrainedTokenizerFast:
        """A tokenizer for the symbolic variant: every number and sign is one token.

        >>> tok = ProsQA.tokenizer()
        >>> tok.convert_ids_to_tokens(tok("13 7 | ? 12 5 : 0", add_special_tokens=False).input_ids)
        ['13', '7', '|', '?', '12', '5', ':', '0']
        """
        return task_tokenizer(["|", "?", ":", *map(str, range(N_SYMBOLS))], n_ctx=n_ctx)


def _draw_graph(rng: random.Random, n_nodes: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Labels and edges of one graph, as the head of this file says; every edge goes up."""
    labels, weights, edges = [1, 2], [1.0, 1.0], []
    for node in range(2, n_nodes):
        wanted = _poisson(rng, 1.5)
        allowed = rng.choices(((0, 1), (0, 2), (0, 1, 2, 3)), (0.35, 0.35, 0.30))[0]
        candidates = [k for k in range(node) if labels[k] in allowed]
        parents = _without_replacement(rng, candidates, weights, wanted)
        edges += [(parent, node) for parent in parents]
        label = 0
        for parent in parents:
            label |= labels[parent]
        labels.append(label)
        reached = [weights[k] for k in parents if labels[k]]
        weights.append(min(reached) + 1.5 if label else STRAY_WEIGHT)  # 1.5 depth + 1
    return labels, edges


def _poisson(rng: random.Random, mean: float) -> int:
    """How many events of a Poisson process fall into one unit of time."""
    events, time = 0, rng.expovariate(mean)
    while time < 1:
        events, time = events + 1, time + rng.expovariate(mean)
    return events


def _without_replacement(
    rng: random.Random, candidates: Sequence[int], weights: Sequence[float], n: int
) -> list[int]:
    """Draw min(n, all) different candidates one after another, by weight."""
    left, drawn = list(candidates), []
    while left and len(drawn) < n:
        place = rng.choices(range(len(left)), [weights[k] for k in left])[0]
        drawn.append(left.pop(place))
    return drawn


def _distances(edges: Iterable[tuple[int, int]], root: int) -> tuple[dict[int, int], Counter[int]]:
    """Distance of every node that `root` reaches, and its number of shortest paths."""
    children: dict[int, list[int]] = {}
    for parent, child in edges:
        children.setdefault(parent, []).append(child)
    distance, ways, queue = {root: 0}, Counter({root: 1}), deque([root])
    while queue:
        node = queue.popleft()
        for child in children.get(node, ()):
            if child not in distance:
                distance[child] = distance[node] + 1
                queue.append(child)
            if distance[child] == distance[node] + 1:
                ways[child] += ways[node]
    return distance, ways


def _shortest_path(
    rng: random.Random, edges: Sequence[tuple[int, int]], root: int, target: int
) -> list[int]:
    """One shortest path, walked back from the target; the parent is drawn where there are more."""
    distance, _ = _distances(edges, root)
    path = [target]
    while path[-1] != root:
        closer = distance[path[-1]] - 1
        parents = [a for a, b in edges if b == path[-1]]
        path.append(rng.choice([a for a in parents if distance.get(a) == closer]))
    return path[::-1]


def _sentences(
    symbols: Sequence[str],
    edges: Sequence[tuple[int, int]],
    path: Sequence[int],
    options: tuple[int, int],
) -> tuple[str, tuple[str, ...], str]:
    """Question, steps and answer in English."""
    said = [_sentence(symbols[a], symbols[b]) for a, b in edges]
    first, second = (symbols[node] for node in options)
    person, target = symbols[path[0]], symbols[path[-1]]
    question = f"{' '.join(said)} Is {person} a {first} or a {second}?"
    steps = [_sentence(symbols[a], symbols[b]) for a, b in pairwise(path)]
    return question, tuple(steps), f"{person} is a {target}."


def _sentence(thing: str, kind: str) -> str:
    return f"{thing} is a {kind}." if thing[0].isupper() else f"Every {thing} is a {kind}."


def _symbolic(
    symbols: Sequence[str],
    edges: Sequence[tuple[int, int]],
    path: Sequence[int],
    options: tuple[int, int],
) -> tuple[str, tuple[str, ...], str]:
    """Question, steps and answer in numbers: step k is the node at distance k on the path."""
    said = " ".join(f"{symbols[a]} {symbols[b]} |" for a, b in edges)
    first, second = (symbols[node] for node in options)
    steps = tuple(symbols[node] for node in path[1:])
    return f"{said} ? {first} {second} : {symbols[path[0]]}", steps, steps[-1]


def faults(problem: ProsQAProblem) -> list[str]:
    """Which rules a problem breaks, in words; an empty list is a sound problem.

    The asked root reaches the target and not the other leaf; both are leaves, and only the other
    root reaches that one; every edge goes from a lower to a higher index; the steps walk along
    edges from the root to the target, and no way is shorter; the answer is the target.
    """
    p, inner = problem, {parent for parent, _ in problem.edges}
    distance, _ = _distances(p.edges, p.root)
    walk = [p.idx_to_symbol[p.root], *map(_last_word, p.steps)]
    known = {(p.idx_to_symbol[a], p.idx_to_symbol[b]) for a, b in p.edges}
    rules = {
        "an edge goes from a higher to a lower index": all(a < b for a, b in p.edges),
        "the target is no leaf that only the asked root reaches": (
            p.target not in inner and p.labels[p.target] == 1 + p.root
        ),
        "the other option is no leaf that only the other root reaches": (
            p.neg_target not in inner and p.labels[p.neg_target] == 2 - p.root
        ),
        "the steps do not walk along edges from the root to the target": (
            set(pairwise(walk)) <= known and walk[-1] == p.idx_to_symbol[p.target]
        ),
        "there is a shorter way": distance.get(p.target, 0) >= len(p.steps),
        "the answer is not the target": _last_word(p.answer) == p.idx_to_symbol[p.target],
    }
    return [rule for rule, holds in rules.items() if not holds]


def _last_word(sentence: str) -> str:
    return (sentence.rstrip(".").split() or [""])[-1]


@dataclass(frozen=True)
class ProsQAStatistics:
    """What a list of problems is like; means over problems, shares of nodes or of problems."""

    n: int
    nodes: float
    nodes_range: tuple[int, int]
    edges: float
    path_length: float
    path_shares: tuple[float, ...]
    """Shares of problems whose shortest path has 3, 4, 5 and 6 edges."""
    shortest_paths: float
    """Mean number of paths that are shortest."""
    in_degree: tuple[float, ...]
    """Shares of nodes with 0, 1, 2, 3 and 4 parents."""
    labels: tuple[float, ...]
    """Shares of nodes that neither root reaches, the first, the second, both."""
    second_root: float
    """Share of problems that ask about the root of index 1."""
    names: int
    """Different names of persons in all problems together."""
    concepts: int
    persons_range: tuple[int, int]
    """Fewest and most persons in a problem."""
    target_first: float | None
    """Share of problems that name the target before the other option; None is not known."""


RELEASED = ProsQAStatistics(
    n=500,
    nodes=22.8,
    nodes_range=(14, 28),
    edges=35.8,
    path_length=3.78,
    path_shares=(0.404, 0.434, 0.138, 0.024),
    shortest_paths=1.57,
    in_degree=(0.113, 0.438, 0.278, 0.120, 0.039),
    labels=(0.036, 0.390, 0.516, 0.058),
    second_root=0.63,
    names=17,
    concepts=38,
    persons_range=(2, 6),
    target_first=None,
)
"""Measured on the released test set."""


def statistics(problems: Sequence[ProsQAProblem]) -> ProsQAStatistics:
    """Count what `RELEASED` holds of other problems, generated or read from a file.

    Raises:
        InputError: no problems.
    """
    if not problems:
        raise InputError("There are no ProsQA problems to count: give one or more.")
    n, paths = len(problems), [_distances(p.edges, p.root) for p in problems]
    lengths = [distance[p.target] for p, (distance, _) in zip(problems, paths, strict=True)]
    ways = [number[p.target] for p, (_, number) in zip(problems, paths, strict=True)]
    sizes = [len(p.idx_to_symbol) for p in problems]
    persons = [p.persons for p in problems]
    symbols = {symbol for p in problems for symbol in p.idx_to_symbol}
    names = {symbol for each in persons for symbol in each}
    return ProsQAStatistics(
        n=n,
        nodes=sum(sizes) / n,
        nodes_range=(min(sizes), max(sizes)),
        edges=sum(len(p.edges) for p in problems) / n,
        path_length=sum(lengths) / n,
        path_shares=_shares(lengths, (3, 4, 5, 6)),
        shortest_paths=sum(ways) / n,
        in_degree=_shares([k for p in problems for k in p.in_degrees], range(5)),
        labels=_shares([label for p in problems for label in p.labels], range(4)),
        second_root=sum(p.root for p in problems) / n,
        names=len(names),
        concepts=len(symbols - names),
        persons_range=(min(map(len, persons)), max(map(len, persons))),
        target_first=sum(map(_names_target_first, problems)) / n,
    )


def _shares(values: Sequence[int], wanted: Iterable[int]) -> tuple[float, ...]:
    counts = Counter(values)
    return tuple(counts[value] / len(values) for value in wanted)


def _names_target_first(problem: ProsQAProblem) -> bool:
    """Whether the target stands before the other option in the last sentence."""
    asked = problem.question.replace("?", " ? ").replace("|", ".").rsplit(".", 1)[-1].split()
    target, other = (problem.idx_to_symbol[k] for k in (problem.target, problem.neg_target))
    return asked.index(target) < asked.index(other)
