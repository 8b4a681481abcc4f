"""A chain of thought as a tree of steps, some abandoned: the Failed-Step Fraction.

    FSF = failed steps / all steps

A step has failed if the chain abandoned it and went back. Whatever lies below a failed step was
abandoned with it. A *failed branch* is a failed step whose parent has not failed, with everything
below it: what one deletes to get a chain that never went there.

A graph is either given (by hand, by a program, by a language model that judged the chain) or read
from a trace that marks its own returns, as traces of a depth-first search do (`parse_trace`). Then
it is exact and nobody judges.

Source: Feng et al. 2025, arXiv:2509.19284, where a language model draws the graph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from types import MappingProxyType
from typing import Literal

from interp.errors import InputError, nearest
from interp.thinking.steps import Step


@dataclass(frozen=True)
class StepNode:
    """One step: `text[start:end]` of its chain, where a chain is at hand."""

    id: str
    parent: str | None
    """The step that it goes on from; None for the first."""
    failed: bool = False
    """Whether the chain abandoned it."""
    start: int | None = None
    end: int | None = None
    closed: int | None = None
    """Where the words that abandon it end (`backtrack A`), if the trace has such words."""


@dataclass(frozen=True)
class Branch:
    """A failed branch: a failed step and all below it."""

    steps: tuple[str, ...]
    """Ids in the order of the chain."""
    start: int | None
    """The branch is `text[start:end]`, the words that abandon it included."""
    end: int | None


@dataclass(frozen=True)
class StepGraph:
    """Steps in the order of the chain; each but one goes on from another.

    Raises:
        InputError: no steps, an id twice, an unknown parent, a cycle, not one root, a step that
            has not failed below one that has, or a span that is none.

    >>> steps = [StepNode("a", None), StepNode("b", "a", failed=True), StepNode("c", "a")]
    >>> failed_step_fraction(StepGraph(tuple(steps))) == 1 / 3
    True
    """

    nodes: tuple[StepNode, ...]
    strays: int = 0
    """Returns of the trace that led to no step above and were skipped."""

    def __post_init__(self) -> None:
        _check_ids(self.nodes)
        _check_parents(self.nodes)
        _check_cycles(self.parents)
        _check_roots(self.nodes)
        _check_failed(self.nodes)
        for node in self.nodes:
            _check_span(node)

    @cached_property
    def parents(self) -> Mapping[str, str | None]:
        """The parent of every step by id."""
        return MappingProxyType({node.id: node.parent for node in self.nodes})

    @cached_property
    def failed(self) -> frozenset[str]:
        """Ids of the failed steps."""
        return frozenset(node.id for node in self.nodes if node.failed)

    @cached_property
    def failed_branches(self) -> tuple[Branch, ...]:
        """The failed branches in the order of the chain."""
        members: dict[str, list[StepNode]] = {}
        for node in self.nodes:
            if node.failed:
                members.setdefault(self._branch_root(node.id), []).append(node)
        return tuple(_branch(nodes) for nodes in members.values())

    def _branch_root(self, step: str) -> str:
        """The highest failed step above, or the step itself."""
        parent = self.parents[step]
        while parent in self.failed:
            step, parent = parent, self.parents[parent]
        return step


def graph(steps: Iterable[tuple[str, str | None]], *, failed: Iterable[str] = ()) -> StepGraph:
    """Make a graph from (id, parent) pairs and the ids of the failed steps.

    >>> given = graph([("a", None), ("b", "a"), ("c", "b"), ("d", "a")], failed=["b", "c"])
    >>> failed_step_fraction(given), [branch.steps for branch in given.failed_branches]
    (0.5, [('b', 'c')])

    Raises:
        InputError: a failed id is no step, and all that `StepGraph` refuses.
    """
    pairs, lost = list(steps), set(failed)
    ids = [step for step, _ in pairs]
    for each in sorted(lost - set(ids)):
        raise InputError(
            f"failed names {each!r}, which is no step; there are {_some(ids)}.{nearest(each, ids)}"
        )
    return StepGraph(tuple(StepNode(step, parent, step in lost) for step, parent in pairs))


def failed_step_fraction(steps: StepGraph) -> float:
    """Return the share of steps that failed, 0 to 1.

    Source: Feng et al. 2025, arXiv:2509.19284.
    """
    return len(steps.failed) / len(steps.nodes)


# ---------------------------------------------------------------------------------- marked traces


def parse_trace(
    text: str,
    *,
    mark: str = "backtrack",
    names_return: bool = True,
    end: str | None = "answer",
    steps: Sequence[Step] | None = None,
    stray: Literal["refuse", "skip"] = "refuse",
) -> StepGraph:
    """Read the graph from a trace that says where it goes back.

    Every piece of the trace is a step below the one before it. The piece `mark` abandons: the
    piece after it names the step to go back to, and every step since then has failed. So the way
    that stands when the trace stops is what has not failed. White space before a piece belongs to
    it, so that deleting a branch deletes its own gap.

    Args:
        text: the trace.
        mark: the piece that says "back".
        names_return: whether a name follows the mark; otherwise each mark goes back one step.
        end: the piece at which the search is over (None: the end of the text).
        steps: the pieces, such as sentences from `segment`; words if left out.
        stray: what to do about a return to no step above the current one. `skip` takes it for
            noise: the trace stays where it is, and the graph counts it in `strays`.

    >>> found = parse_trace(" A B backtrack A C D answer A C D")
    >>> [(node.id, node.parent, node.failed) for node in found.nodes]
    [('0:A', None, False), ('1:B', '0:A', True), ('2:C', '0:A', False), ('3:D', '2:C', False)]
    >>> failed_step_fraction(found), found.failed_branches[0]
    (0.25, Branch(steps=('1:B',), start=2, end=16))
    >>> parse_trace("A B backtrack Z C", stray="skip").parents["2:C"]
    '1:B'

    Raises:
        InputError: no step; unless strays are skipped, a mark that goes back to no step above, or
            one that lacks its name.
    """
    if stray not in ("refuse", "skip"):
        raise InputError(f'There is no way {stray!r} with stray returns: say "refuse" or "skip".')
    nodes: list[StepNode] = []
    way: list[int] = []  # places in `nodes`, from the root to where the trace stands
    strays = 0
    for piece, back in _moves(_pieces(text, steps, end), mark, names_return):
        if not back:
            _go_on(nodes, way, piece)
            continue
        above = [nodes[i].id.partition(":")[2] for i in way[:-1]]
        stay = _place_of_return(piece, above, names_return)
        if stay is None:
            if stray == "refuse":
                raise InputError(_why_stray(piece, above, mark, names_return))
            strays += 1
            continue
        for i in way[stay + 1 :]:
            nodes[i] = replace(nodes[i], failed=True, closed=piece.end)
        del way[stay + 1 :]
    if not nodes:
        raise InputError(f"The trace {text[:40]!r} has no step, so it has no graph: drop it.")
    return StepGraph(tuple(nodes), strays)


def _pieces(text: str, steps: Sequence[Step] | None, end: str | None) -> list[Step]:
    """The pieces of a trace up to the one that ends it; words with the space before them."""
    if steps is None:
        words = enumerate(re.finditer(r"\s*\S+", text))
        steps = [Step(i, found.start(), found.end(), found[0]) for i, found in words]
    return list(takewhile(lambda piece: piece.text.strip() != end, steps))


def _moves(pieces: Sequence[Step], mark: str, names_return: bool) -> Iterator[tuple[Step, bool]]:
    """Yield (piece, whether it says where to go back to); a mark that names is left out.

    A mark that the trace ends with has no name and stands for itself: no step is called that.
    """
    rest = iter(pieces)
    for piece in rest:
        back = piece.text.strip() == mark
        yield (next(rest, piece) if back and names_return else piece), back


def _go_on(nodes: list[StepNode], way: list[int], piece: Step) -> None:
    """Put a piece below where the trace stands, and let the trace stand there."""
    parent = nodes[way[-1]].id if way else None
    name = f"{len(nodes)}:{piece.text.strip()}"
    way.append(len(nodes))
    nodes.append(StepNode(name, parent, start=piece.start, end=piece.end))


def _place_of_return(piece: Step, above: Sequence[str], names_return: bool) -> int | None:
    """Which of the steps above, from the root, the trace goes back to; None if none."""
    if not names_return:
        return len(above) - 1 if above else None
    name = piece.text.strip()
    return len(above) - 1 - above[::-1].index(name) if name in above else None


def _why_stray(piece: Step, above: Sequence[str], mark: str, names_return: bool) -> str:
    name = piece.text.strip()
    if not names_return:
        return (
            f"At character {piece.start} the trace goes back from its first step, and nothing is "
            'above it: drop the trace, or pass stray="skip".'
        )
    if name == mark:
        return (
            f"At character {piece.start} {mark!r} names no step to go back to: cut it off, pass "
            'names_return=False, or pass stray="skip".'
        )
    return (
        f"At character {piece.start} the trace goes back to {name!r}, which is not above the "
        f"current step ({' '.join(above) or 'nothing'} is): drop the trace, or pass "
        'stray="skip".'
    )


def _branch(nodes: Sequence[StepNode]) -> Branch:
    """The first node is the branch's root."""
    ends = [node.end for node in nodes]
    end = nodes[0].closed
    if end is None and None not in ends:
        end = max(each for each in ends if each is not None)
    return Branch(tuple(node.id for node in nodes), nodes[0].start, end)


# ---------------------------------------------------------------------------------- what is no tree


def _check_ids(nodes: Sequence[StepNode]) -> None:
    if not nodes:
        raise InputError("A step graph needs at least one step: it is a share of steps that fail.")
    twice = [step for step, n in Counter(node.id for node in nodes).items() if n > 1]
    if twice:
        raise InputError(f"The step {twice[0]!r} is given twice: give every step an id of its own.")


def _check_parents(nodes: Sequence[StepNode]) -> None:
    ids = [node.id for node in nodes]
    for node in nodes:
        if node.parent is not None and node.parent not in ids:
            raise InputError(
                f"The step {node.id!r} goes on from {node.parent!r}, which is no step; there are "
                f"{_some(ids)}.{nearest(node.parent, ids)}"
            )


def _check_cycles(parents: Mapping[str, str | None]) -> None:
    sound: set[str] = set()
    for step in parents:
        way: list[str] = []
        above: str | None = step
        while above is not None and above not in sound:
            if above in way:
                loop = [*way[way.index(above) :], above]
                raise InputError(
                    f"The steps {' -> '.join(map(repr, loop))} go on from each other in a circle: "
                    "a step comes before all that goes on from it."
                )
            way.append(above)
            above = parents[above]
        sound.update(way)


def _check_roots(nodes: Sequence[StepNode]) -> None:
    """Without circles there is at least one."""
    roots = [node.id for node in nodes if node.parent is None]
    if len(roots) > 1:
        raise InputError(
            f"{len(roots)} steps have no parent, {_some(roots)}: a chain has one first step. Add a "
            "step for the question and let them go on from it."
        )


def _check_failed(nodes: Sequence[StepNode]) -> None:
    failed = {node.id for node in nodes if node.failed}
    for node in nodes:
        if node.parent in failed and not node.failed:
            raise InputError(
                f"The step {node.id!r} has not failed but goes on from {node.parent!r}, which has: "
                "what lies below a failed step was abandoned with it. Mark it, or give it another "
                "parent."
            )


def _check_span(node: StepNode) -> None:
    match (node.start, node.end, node.closed):
        case (None, None, None):
            return
        case (int(start), int(end), closed) if (
            0 <= start < end <= (end if closed is None else closed)
        ):
            return
    raise InputError(
        f"The step {node.id!r} has the span {node.start} to {node.end}, closed at {node.closed}: "
        "give 0 <= start < end <= closed in characters, or none of them."
    )


def _some(ids: Sequence[str], most: int = 8) -> str:
    named = ", ".join(map(repr, ids[:most]))
    return named if len(ids) <= most else f"{named} and {len(ids) - most} more"
