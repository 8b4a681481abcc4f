"""do(h_t := v): branch from a clean run, edit, continue, and read out beside the clean run.

Cost. The prompt is read once for all interventions; a branch starts from the clean state before
its step. Lanes (interventions that act at the same steps on the same edge) stand side by side in
one pass: `copies` of every problem, one lane each.

Exactness. Matrix products may round differently in batches of another shape. So a pass has its own
clean run of the very same shape, and the identity stands in every pass: its numbers are exactly 0,
not about 0, and any other value is a fault of the code.

Silence. An edit that changes nothing in any problem of a pass is an error, or is marked in its
receipt where the caller asks for that: then the other lanes of the pass keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError, SilentEditError, nearest
from interp.latent.calibration import Calibration
from interp.latent.operators import At, Identity, Operator
from interp.latent.state import Closed, Node, Slot, State
from interp.latent.subject import Rollout, Subject, roll_out

Edge = Literal["input", "kv", "both", "recurrence", "cache"]
"""What an intervention reaches.

input       the vector fed at slot t, and so its keys, values and h_{t+1}: the paper's
kv          slot t's keys and values become the operator's own; h_t and h_{t+1} stay
both        `input`, and the operator's own keys and values
recurrence  `input`, but slot t keeps the keys and values of the unedited vector
cache       `input`, but h_{t+1} stays that of the unedited vector
"""
Silent = Literal["raise", "mark"]
"""What becomes of an edit that changes nothing in any problem of a pass."""
ROWS = 512
"""Rows of a pass (problems times lanes), unless memory asks for fewer."""


@dataclass(frozen=True)
class Do:
    """One edit of one step."""

    step: int
    """From 1."""
    operator: Operator
    edge: str = "input"
    reference: Literal["edited", "clean"] = "edited"
    """Which h_t an operator sees: that after the lane's earlier edits, or the clean one."""
    places: tuple[int, ...] | None = None
    """Edit only these vectors of a wide node, such as some positions; None is all."""

    def __post_init__(self) -> None:
        if self.edge not in get_args(Edge):
            known = get_args(Edge)
            raise EditError(
                f"There is no edge {self.edge!r}; there are {', '.join(known)}."
                f"{nearest(self.edge, known)}"
            )


@dataclass(frozen=True)
class Lane:
    """What one row of a pass undergoes: edits of different steps, together."""

    dos: tuple[Do, ...]
    seed: int = 0

    @property
    def first(self) -> int:
        """The first step that is edited."""
        return self.dos[0].step

    @property
    def name(self) -> str:
        """The operators' names; those of one operator at many steps are said once."""
        names = dict.fromkeys(do.operator.name for do in self.dos)
        return "+".join(names)

    @property
    def null(self) -> bool:
        """Whether all edits are meant to change nothing."""
        return all(do.operator.null for do in self.dos)

    def shape(self) -> tuple[tuple[int, str], ...]:
        """Steps and edges: lanes that agree in them share passes."""
        return tuple((do.step, do.edge) for do in self.dos)


def lane(step: int, operator: Operator, edge: str = "input", seed: int = 0) -> Lane:
    """A lane of one edit."""
    return Lane((Do(step, operator, edge),), seed)


@dataclass(frozen=True, eq=False)
class Acted:
    """Receipt of one edit on one pass: it fired, and this is how much it changed."""

    step: int
    operator: str
    edge: str
    change: Float[Tensor, " item"]
    """Norm of the change a problem: of the vectors fed; for `kv` that of the keys and values, and
    for hidden ones how many positions they were."""
    present: Bool[Tensor, " item"]
    """Whether the problem has this step: a chain in text may be over by then."""
    donors: tuple[str | None, ...] | None
    """Ids of the problems that gave, where the operator takes from others."""
    silent: str = ""
    """That it changed nothing in any of these problems, in a sentence; empty where it did."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass read out after `consumed` steps, beside its clean run at the same count."""

    consumed: int
    lanes: tuple[Lane, ...]
    """Side by side: rows i * items .. (i + 1) * items belong to lane i."""
    items: int
    closed: Closed
    clean: Closed
    acted: tuple[tuple[Acted, ...], ...]
    """For each lane, the receipts of its edits up to here."""

    def split(self, values: Tensor) -> list[Tensor]:
        """Rows of a pass as one tensor a lane."""
        return list(values.split(self.items))


@dataclass(frozen=True, eq=False)
class Base:
    """A clean run of some problems, and what it answers."""

    problems: tuple[LatentProblem, ...]
    rollout: Rollout
    answers: tuple[str | None, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Ids of the problems, one a row."""
        return tuple(problem.id for problem in self.problems)


@torch.no_grad()
def base_run(subject: Subject, problems: Sequence[LatentProblem]) -> Base:
    """Run problems without any edit, and read the answers."""
    subject.require_steps()
    rollout = roll_out(subject, subject.prefill(problems))
    texts = subject.decode(subject.close(rollout.states[-1]))
    return Base(tuple(problems), rollout, tuple(subject.read(text) for text in texts))


def check(subject: Subject, lanes: Sequence[Lane], calibration: Calibration | None = None) -> None:
    """Refuse lanes that cannot act, before any model runs.

    Without a calibration, which takes a run, everything else is checked.

    Raises:
        InputError: no lanes, or a calibration of another number of steps.
        EditError: a step or an edge that the subject lacks, edits out of order, or an edge that
            the operator has nothing for.
    """
    subject.require_steps()
    if not lanes:
        raise InputError("There is no intervention to run: give at least one lane.")
    if calibration is not None and calibration.n_steps != subject.n_steps:
        raise InputError(
            f"The calibration has {calibration.n_steps} steps and {subject.name} {subject.n_steps}:"
            " calibrate this subject."
        )
    for each in lanes:
        steps = [do.step for do in each.dos]
        if not steps or steps != sorted(set(steps)):
            raise EditError(f"A lane edits steps {steps}: name each step once, in order.")
        for do in each.dos:
            _check_do(subject, do)


def _check_do(subject: Subject, do: Do) -> None:
    """Refuse one edit that cannot act."""
    if not 1 <= do.step <= subject.n_steps:
        raise EditError(
            f"{subject.name} has steps 1 to {subject.n_steps}, and {do.operator.name} is asked for "
            f"step {do.step}: name one of those."
        )
    if do.edge not in subject.edges:
        raise EditError(
            f"A step of {subject.name} has no edge {do.edge!r}: name one of "
            f"{', '.join(subject.edges)}."
        )
    if do.edge in ("kv", "both"):
        do.operator.require_slot(do.edge)
    if do.operator.name == "kv_mask" and do.edge != "kv":
        raise EditError(
            f"kv_mask acts on keys and values alone: take the edge 'kv', not {do.edge!r}."
        )


@torch.no_grad()
def readings(
    subject: Subject,
    base: Base,
    lanes: Sequence[Lane],
    calibration: Calibration,
    *,
    at: Literal["every", "end"] = "every",
    rows: int = ROWS,
    silent: Silent = "raise",
) -> Iterator[Reading]:
    """Run lanes on the problems of a base run, and read them out.

    Args:
        subject: what ran `base`.
        base: the clean run; its problems should fit `rows` (see `chunks`).
        lanes: interventions; the identity is added to every pass, with lanes of its own.
        calibration: where means and donors come from.
        at: "every" reads after each step from a lane's first edit on; "end" after the last.
        rows: most rows of a pass.
        silent: what becomes of an edit that changes nothing in any of these problems.

    Yields:
        Readings whose last lane is always the identity at the same steps and edges.

    Raises:
        InputError, EditError: see `check`.
        SilentEditError: an edit changed nothing in any problem, and none is to be marked.
    """
    check(subject, lanes, calibration)
    items = len(base.problems)
    ordered = sorted(lanes, key=Lane.shape)
    for _, group in groupby(ordered, key=Lane.shape):
        alike = list(group)
        copies = max(1, min(rows // items - 1, len(alike)))
        for start in range(0, len(alike), copies):
            part = tuple(alike[start : start + copies])
            yield from _pass(subject, base, part, calibration, at, silent)


def _pass(
    subject: Subject,
    base: Base,
    lanes: tuple[Lane, ...],
    calibration: Calibration,
    at: Literal["every", "end"],
    silent: Silent,
) -> Iterator[Reading]:
    """One pass: lanes side by side, the identity last, and the clean run of the same shape."""
    nulls = tuple(replace(do, operator=Identity()) for do in lanes[0].dos)
    lanes = (*lanes, Lane(nulls))
    first = lanes[0].first
    state = clean = base.rollout.states[first - 1].repeat(len(lanes))
    todo = {do.step: i for i, do in enumerate(lanes[0].dos)}
    acted: list[list[Acted]] = [[] for _ in lanes]
    for step in range(first, subject.n_steps + 1):
        if step in todo:
            dos = [each.dos[todo[step]] for each in lanes]
            state, receipts = act(subject, state, clean, dos, lanes, base, calibration, silent)
            for mine, receipt in zip(acted, receipts, strict=True):
                mine.append(receipt)
        else:
            state = subject.step(state)
        clean = subject.step(clean)
        if at == "every" or step == subject.n_steps:
            yield _reading(subject, state, clean, lanes, acted)


def _reading(
    subject: Subject,
    state: State,
    clean: State,
    lanes: tuple[Lane, ...],
    acted: Sequence[Sequence[Acted]],
) -> Reading:
    assert state.consumed == clean.consumed, "both sides have consumed the same steps"
    items = state.rows // len(lanes)
    closed, beside = subject.close(state), subject.close(clean)
    return Reading(
        state.consumed, lanes, items, closed, beside, tuple(tuple(each) for each in acted)
    )


def act(
    subject: Subject,
    state: State,
    clean: State,
    dos: Sequence[Do],
    lanes: Sequence[Lane],
    base: Base,
    calibration: Calibration,
    silent: Silent = "raise",
) -> tuple[State, list[Acted]]:
    """Consume the next step under one edit a lane; all lanes share step and edge.

    Raises:
        SilentEditError: an edit changed nothing in any problem that has the step, and none is to
            be marked.
    """
    edge, items = dos[0].edge, len(base.problems)
    parts = [range(i * items, (i + 1) * items) for i in range(len(dos))]
    places = [_at(do, each, base, calibration) for do, each in zip(dos, lanes, strict=True)]
    news = [
        _new_node(do, state.node.take(part), clean.node.take(part), where)
        for do, part, where in zip(dos, parts, places, strict=True)
    ]
    after, changes = _consume(subject, state, edge, news, dos, parts, places)
    receipts = []
    for i, (do, part) in enumerate(zip(dos, parts, strict=True)):
        own = state.node.take(part)
        earlier = own.distance(clean.node.take(part))
        receipts.append(_receipt(do, changes[i], earlier, own.seen.any(1), places[i]))
        if receipts[-1].silent and silent == "raise":
            raise SilentEditError(receipts[-1].silent)
    return after, receipts


def _at(do: Do, each: Lane, base: Base, calibration: Calibration) -> At:
    positions = tuple(base.rollout.states[0].memory.next.tolist())
    return At(do.step, base.keys, each.seed, calibration, base.answers, positions)


def _new_node(do: Do, own: Node, clean: Node, at: At) -> Node:
    """The node that an edit feeds; places that it leaves out keep the lane's own vectors."""
    new = do.operator.node(own if do.reference == "edited" else clean, at)
    absent = ~own.seen.any(1)
    own, new = _alike(own, new)
    width = own.vectors.shape[1]
    keep = absent[:, None].expand(-1, width).clone()
    if do.places is not None:
        if not all(0 <= place < width for place in do.places):
            raise EditError(
                f"{do.operator.name} is to edit the places {list(do.places)} of step {do.step}, "
                f"which has places 0 to {width - 1}: name some of those."
            )
        chosen = torch.zeros(width, dtype=torch.bool, device=keep.device)
        chosen[list(do.places)] = True
        keep |= ~chosen
    vectors = torch.where(keep[..., None], own.vectors, new.vectors)
    return Node(vectors, torch.where(keep, own.seen, new.seen))


def _alike(*nodes: Node) -> list[Node]:
    """Nodes of the same rows at the widest one's width."""
    stacked = stack_nodes(nodes)
    sizes = [node.rows for node in nodes]
    pairs = zip(stacked.vectors.split(sizes), stacked.seen.split(sizes), strict=True)
    return [Node(vectors, seen) for vectors, seen in pairs]


def _consume(
    subject: Subject,
    state: State,
    edge: str,
    news: Sequence[Node],
    dos: Sequence[Do],
    parts: Sequence[range],
    places: Sequence[At],
) -> tuple[State, list[Tensor]]:
    """The state after the step, and the norm of the change for each lane's problems."""
    fed = stack_nodes(news)
    moved = [new.distance(state.node.take(part)) for new, part in zip(news, parts, strict=True)]
    if edge == "input":
        return subject.step(state, fed), moved
    plain = subject.step(state)
    if edge == "recurrence":
        return replace(plain, node=subject.step(state, fed).node), moved
    if edge == "cache":
        return replace(plain, memory=subject.step(state, fed).memory), moved
    after = plain if edge == "kv" else subject.step(state, fed)
    own = plain.memory.slot(plain.consumed)
    slots = [
        do.operator.slot(own.take(part), at)
        for do, part, at in zip(dos, parts, places, strict=True)
    ]
    memory = after.memory.with_slot(plain.consumed, _stack_slots(slots))
    changes = [_slot_change(new, own.take(part)) for new, part in zip(slots, parts, strict=True)]
    return replace(after, memory=memory), changes


def _receipt(do: Do, change: Tensor, earlier: Tensor, present: Tensor, at: At) -> Acted:
    """What one edit did. `earlier` is how far the lane's previous edits had moved h_t already.

    An edit that finds its work done by those is no silent one: zero after zero.
    """
    given, ids, reachable, why = do.operator.donors(at), None, present, ""
    if given is not None:
        ids = tuple(None if i is None else at.calibration.problems[i].id for i in given)
        fits = torch.tensor([i is not None for i in given], device=present.device)
        reachable = present & fits
    moved = bool(((change > 0) | (earlier > 0))[reachable].any())
    if not do.operator.null and bool(reachable.any()) and not moved:
        why = (
            f"{do.operator.name} at step {do.step} on the edge {do.edge!r} changed nothing in any "
            f"of {int(reachable.sum())} problems: a score of it would be a score of no edit."
        )
    return Acted(do.step, do.operator.name, do.edge, change, reachable, ids, why)


def stack_nodes(nodes: Sequence[Node]) -> Node:
    """Rows of several nodes, one below the other, at the widest one's width."""
    width = max(node.vectors.shape[1] for node in nodes)
    vectors, seen = [], []
    for node in nodes:
        more = width - node.vectors.shape[1]
        vectors.append(torch.nn.functional.pad(node.vectors, (0, 0, 0, more)))
        seen.append(torch.nn.functional.pad(node.seen, (0, more)))
    return Node(torch.cat(vectors), torch.cat(seen))


def _stack_slots(slots: Sequence[Slot]) -> Slot:
    layers = tuple(
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
        for layer in zip(*(slot.layers for slot in slots), strict=True)
    )
    return Slot(layers, torch.cat([slot.seen for slot in slots]))


def _slot_change(new: Slot, own: Slot) -> Tensor:
    """Norm of the change of keys and values, and how many positions were hidden, a problem."""
    squares = [
        ((a - b).flatten(1) ** 2).sum(1)
        for mine, theirs in zip(new.layers, own.layers, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    hidden = (own.seen & ~new.seen).sum(1)
    return torch.stack(squares).sum(0).sqrt() + hidden
