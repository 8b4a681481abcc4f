"""Planted subjects: models whose influence, necessary steps and commitment are known by design.

A content is a vector over n classes, a one-hot one where the problem states it. A slot leaves the
content that it was fed as its values and its position as its key, so every edge acts as it does on
a transformer. Contents combine by circular convolution, under which class i with class j gives
i + j mod n and a zeroed content gives nothing. A read-out's logits are `gap` times a content.

Two distributions follow, with Z = e^b + n - 1 for a gap b. A content of another class moves the
answer by K = b (e^b - 1) / Z nats; one of zeros by log n - log Z + b e^b / Z.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, nearest
from interp.latent.layout import Target
from interp.latent.operators import Operator, Rule
from interp.latent.state import Closed, Memory, Node, State
from interp.latent.subject import Forced, Subject

Kind = Literal[
    "chain",
    "window",
    "shortcut",
    "prompt_only",
    "cache_only",
    "recurrence_only",
    "selected",
    "random_twin",
]
"""How a planted subject computes. Slot 0 is the prompt; s counts the steps consumed.

chain            a step passes on what it was fed; a read-out looks at slot s
window           steps come from the prompt; a read-out combines slots s - 1 and s
shortcut         steps come from the prompt; after T steps a read-out looks at slot 1, before at 0
prompt_only      steps come from the prompt; a read-out looks at the prompt
cache_only       steps come from the prompt; a read-out combines slots 1..s
recurrence_only  a step adds one of the prompt's numbers to what it was fed; a read-out looks at s
selected         steps come from the prompt; a read-out combines those `needed` of slots 1..s
random_twin      the steps of `chain`; a read-out answers at random, by problem and s alone
"""
CARRIES = ("chain", "recurrence_only", "random_twin")
"""Kinds in which a step's vector is made from the one before."""


def swap_gain(n_classes: int, gap: float) -> float:
    """K = b (e^b - 1) / (e^b + n - 1): KL in nats from one class to another.

    >>> round(swap_gain(4, 3.0), 6)
    2.480194
    """
    return gap * (math.exp(gap) - 1) / (math.exp(gap) + n_classes - 1)


def zero_gain(n_classes: int, gap: float) -> float:
    """log n - log Z + b e^b / Z: KL in nats from one class to all alike.

    >>> round(zero_gain(4, 3.0), 6)
    0.857234
    """
    total = math.exp(gap) + n_classes - 1
    return math.log(n_classes) - math.log(total) + gap * math.exp(gap) / total


def swap_class(shift: int = 1) -> Operator:
    """v = h_t with every class moved on by `shift`: a donor that differs in every problem."""
    return Rule(f"swap_class_{shift}", lambda h, at: h.roll(shift, -1))


Sees = Callable[[int, int, int, Sequence[int]], bool]
_DIRECT: Mapping[str, Sees] = MappingProxyType(
    {
        "chain": lambda t, s, last, needed: t == s,
        "window": lambda t, s, last, needed: s - 1 <= t <= s,
        "shortcut": lambda t, s, last, needed: t == 1 and s == last,
        "prompt_only": lambda t, s, last, needed: False,
        "cache_only": lambda t, s, last, needed: t <= s,
        "recurrence_only": lambda t, s, last, needed: t == s,
        "selected": lambda t, s, last, needed: t in needed and t <= s,
        "random_twin": lambda t, s, last, needed: False,
    }
)
"""Whether a read-out after s steps sees what slot t itself left."""
_RELAYED = ("chain", "recurrence_only")
"""Kinds in which it sees what later slots were told of slot t."""


def expected_influence(
    kind: str,
    n_steps: int,
    n_classes: int,
    gap: float,
    *,
    operator: Literal["swap", "zero"] = "swap",
    edge: Literal["input", "kv", "both", "recurrence", "cache"] = "input",
    needed: Sequence[int] = (),
) -> Float[Tensor, "step read"]:
    """W in nats by design, step t in row t - 1 and the count s of steps read in column s - 1.

    W[t, t] stands on the diagonal and W[t, T], the effect on the answer, in the last column.
    `needed` is that of a `selected` subject.

    >>> expected_influence("window", 3, 4, 3.0).bool().int().tolist()
    [[1, 1, 0], [0, 1, 1], [0, 0, 1]]

    Raises:
        InputError: there is no such kind.
    """
    _require_kind(kind)
    gain = (swap_gain if operator == "swap" else zero_gain)(n_classes, gap)
    made = torch.zeros(n_steps, n_steps, dtype=torch.float64)
    for t in range(1, n_steps + 1):
        for s in range(t, n_steps + 1):
            direct = edge != "recurrence" and _DIRECT[kind](t, s, n_steps, needed)
            relayed = edge in ("input", "both", "recurrence") and kind in _RELAYED and t < s
            made[t - 1, s - 1] = gain * (direct or relayed)
    return made


class _Classes(Subject):
    """What planted subjects share: memories, read-outs over n classes, problems."""

    def __init__(self, *, name: str, n_steps: int, n_classes: int, gap: float, extra: int) -> None:
        if n_steps < 2 or n_classes < 2 or gap <= 0:
            raise InputError(
                f"A planted subject has 2 steps or more, 2 classes or more and a gap above 0; not "
                f"{n_steps} steps, {n_classes} classes and a gap of {gap}."
            )
        self.name, self.n_steps, self.n_classes = name, n_steps, n_classes
        self.gap, self.d_model = gap, n_classes + extra

    def _next(self, fed: Tensor, memory: Memory, step: int) -> Tensor:
        """The vector of a step, from the one before `[batch d_model]` and what can be seen."""
        raise NotImplementedError

    def _content(self, memory: Memory, consumed: int) -> Tensor:
        """The content `[batch n_classes]` that a read-out looks at."""
        raise NotImplementedError

    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """Read the prompts: one column for each of their numbers.

        Raises:
            InputError: no problems, or one whose question is not `n_steps` classes.
        """
        if not problems:
            raise InputError("There is no problem to run: give at least one.")
        numbers = torch.tensor([self._numbers(problem) for problem in problems])
        values = torch.nn.functional.one_hot(numbers, self.d_model).double()
        empty = Memory(
            ((values.new_zeros(len(values), 1, 0, 1), values.new_zeros(len(values), 1, 0, 1)),),
            torch.zeros(len(values), 0, dtype=torch.bool),
            torch.zeros(len(values), dtype=torch.long),
        )
        memory = _appended(empty, values, torch.ones(numbers.shape, dtype=torch.bool))
        return State(0, Node.slot(self._next(torch.zeros_like(values[:, 0]), memory, 1)), memory)

    def step(self, state: State, node: Node | None = None) -> State:
        """Consume `node`, by default the state's own; return (h_{t+1}, C_t)."""
        node = node or state.node
        first = state.memory.seen.shape[1]
        memory = _appended(state.memory, node.vectors, node.seen)
        slots = (*memory.slots, (first, first + 1))
        memory = Memory(memory.layers, memory.seen, memory.next, slots)
        fed = node.vectors[:, 0] * node.seen
        after = self._next(fed, memory, state.consumed + 2)
        return State(state.consumed + 1, Node.slot(after), memory)

    def close(self, state: State) -> Closed:
        """Feed the end marker, which looks at the contents that the design names."""
        content = self._content(state.memory, state.consumed)
        blank = state.node.vectors.new_zeros(state.rows, 1, self.d_model)
        seen = torch.ones(state.rows, 1, dtype=torch.bool)
        return Closed(state.consumed, content, _appended(state.memory, blank, seen))

    def force(self, closed: Closed, targets: Sequence[Target]) -> Forced:
        """Read the log-probabilities of a class a row."""
        ids = torch.tensor([target.ids for target in targets])
        seen = torch.ones_like(ids, dtype=torch.bool)
        return Forced(torch.log_softmax(self.gap * closed.hidden, -1)[:, None], ids, seen, seen)

    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """The class that is ahead in each row; class 0 where all are alike, as greedy text is."""
        return [str(i) for i in closed.hidden.argmax(-1).tolist()]

    def target(self, answer: str) -> Target:
        """The one token of a class.

        Raises:
            InputError: it is none of the classes.
        """
        if not answer.isdecimal() or int(answer) >= self.n_classes:
            raise InputError(
                f"{answer!r} is no class of {self.name}: give 0 to {self.n_classes - 1}."
            )
        return Target((int(answer),), (0, 1))

    def read(self, text: str) -> str | None:
        """The class itself."""
        return text or None

    def _numbers(self, problem: LatentProblem) -> list[int]:
        words = problem.question.partition("|")[0].split()
        numbers = [int(word) for word in words if word.isdecimal()]
        if len(words) != self.n_steps or len(numbers) != self.n_steps:
            raise InputError(
                f"Problem {problem.id!r} has the question {problem.question!r}, and {self.name} "
                f"reads {self.n_steps} numbers: make problems with its `draw`."
            )
        if max(numbers) >= self.n_classes:
            raise InputError(
                f"Problem {problem.id!r} holds {max(numbers)}, and {self.name} knows the classes 0 "
                f"to {self.n_classes - 1}: make problems with its `draw`."
            )
        return numbers

    def draw(self, n: int, seed: int = 0) -> list[LatentProblem]:
        """Make n problems; repeatable, and of other questions for another seed.

        A question is `n_steps` random classes and a serial number that nobody reads. The steps are
        the classes that the vectors state, and the answer is what the subject says undisturbed.
        """
        made = []
        for i in range(n):
            rng = random.Random(f"{self.n_classes}/{seed}/{i}")
            numbers = [rng.randrange(self.n_classes) for _ in range(self.n_steps)]
            question = f"{' '.join(map(str, numbers))} | {seed}.{i}"
            steps, answer = self._worked(numbers)
            made.append(
                LatentProblem(
                    f"{self.name}-{seed}-{i}", question, tuple(map(str, steps)), str(answer)
                )
            )
        return made

    def _worked(self, numbers: Sequence[int]) -> tuple[list[int], int]:
        """The class that each step states, and the answer, in whole numbers."""
        raise NotImplementedError


class Planted(_Classes):
    """A subject of one of the kinds above.

    Args:
        kind: see `Kind`.
        n_steps: T.
        n_classes: n, also the width of a vector.
        gap: b, how many nats of logit a read-out's class is ahead.
        needed: the slots that a `selected` subject looks at.
        copies: steps from 2 on at which a `recurrence_only` subject adds nothing, so that they
            only pass on what they were fed: swapping one changes the answer, and yet it adds
            nothing to what the step before has shown.

    Raises:
        InputError: an unknown kind, or `needed` or `copies` where the kind has none or out of
            range.
    """

    def __init__(
        self,
        kind: str,
        *,
        n_steps: int = 4,
        n_classes: int = 5,
        gap: float = 3.0,
        needed: Sequence[int] = (),
        copies: Sequence[int] = (),
    ) -> None:
        _require_kind(kind)
        super().__init__(
            name=f"planted-{kind}", n_steps=n_steps, n_classes=n_classes, gap=gap, extra=0
        )
        _require_steps("needed", needed, range(1, n_steps + 1), kind, "selected")
        _require_steps("copies", copies, range(2, n_steps + 1), kind, "recurrence_only")
        self.kind, self.needed, self.copies = kind, tuple(needed), tuple(copies)

    def _next(self, fed: Tensor, memory: Memory, step: int) -> Tensor:
        if step > self.n_steps:
            return fed  # h_{T+1} is never consumed
        stated = memory.layers[0][1][:, 0, step - 1]
        if self.kind not in CARRIES or step == 1:
            return stated
        return _sum_of(fed, stated) if self._adds(step) else fed

    def _adds(self, step: int) -> bool:
        return self.kind == "recurrence_only" and step not in self.copies

    def _content(self, memory: Memory, consumed: int) -> Tensor:
        first = memory.layers[0][1][:, 0, 0]
        if self.kind == "random_twin":
            return first[:, self._shuffle(consumed)]
        if self._looks_at_prompt(consumed):
            return first
        found = [_left(memory, step) for step in self._slots(consumed)]
        if not found:
            return torch.zeros_like(first)
        total = found[0]
        for content in found[1:]:
            total = _sum_of(total, content)
        return total

    def _looks_at_prompt(self, consumed: int) -> bool:
        early = self.kind == "shortcut" and consumed < self.n_steps
        return self.kind == "prompt_only" or early

    def _slots(self, consumed: int) -> list[int]:
        """The slots whose contents a read-out combines."""
        nearest_two = [s for s in (consumed - 1, consumed) if s > 0]
        return {
            "window": nearest_two,
            "shortcut": [1],
            "cache_only": list(range(1, consumed + 1)),
            "selected": [s for s in self.needed if s <= consumed],
        }.get(self.kind, nearest_two[-1:])

    def _shuffle(self, consumed: int) -> list[int]:
        places = list(range(self.n_classes))
        random.Random(f"twin/{consumed}").shuffle(places)
        return places

    def _worked(self, numbers: Sequence[int]) -> tuple[list[int], int]:
        steps = list(numbers)
        for i in range(1, self.n_steps) if self.kind in CARRIES else ():
            steps[i] = steps[i - 1] + (numbers[i] if self._adds(i + 1) else 0)
        if self.kind == "random_twin":
            answer = self._shuffle(self.n_steps).index(numbers[0])
        elif self.kind == "prompt_only":
            answer = numbers[0]
        else:
            answer = sum(steps[s - 1] for s in self._slots(self.n_steps))
        return [step % self.n_classes for step in steps], answer % self.n_classes


class PlantedCommitment(_Classes):
    """A subject whose answer, 0 or 1, is made of the noise that fell on two of its slots.

    The last entry of a vector is 0, so its sign is that of the noise that is added to it. The
    answer is whether the signs at slots 1 and `settles` - 1 differ. Each alone says nothing of the
    answer, as with a one-time pad, so no vector before step `settles` says anything of it; that
    step's vector states it, and every later one. Without noise the answer is 0.

    Args:
        n_steps: T.
        settles: the step whose vector is the first to state the answer; 3 or more.
        speaks: the first count of steps after which a read-out says it; `settles` by default. A
            later one parts what is represented from what is said.
        gap: how many nats of logit the answer is ahead.

    Raises:
        InputError: `settles` or `speaks` is out of range.
    """

    def __init__(
        self, *, n_steps: int = 6, settles: int = 4, speaks: int | None = None, gap: float = 6.0
    ) -> None:
        super().__init__(name="planted-commitment", n_steps=n_steps, n_classes=2, gap=gap, extra=1)
        self.settles, self.speaks = settles, settles if speaks is None else speaks
        if not 3 <= settles <= self.speaks <= n_steps:
            raise InputError(
                f"settles={settles}, speaks={self.speaks}: the answer settles at step 3 or later, "
                f"is said then or later, and there are {n_steps} steps."
            )

    def _next(self, fed: Tensor, memory: Memory, step: int) -> Tensor:
        if step < self.settles:
            return fed.new_tensor([0.5, 0.5, 0.0]).expand(len(fed), -1).clone()
        if step == self.settles:
            first, second = (_left(memory, slot)[:, 2] > 0 for slot in (1, step - 1))
            stated = (first ^ second).long()
        else:
            stated = fed[:, :2].argmax(-1)
        return torch.nn.functional.one_hot(stated, 3).to(fed)

    def _content(self, memory: Memory, consumed: int) -> Tensor:
        if consumed < self.speaks:
            return memory.layers[0][1].new_zeros(len(memory.seen), 2)
        return _left(memory, consumed)[:, :2]

    def _worked(self, numbers: Sequence[int]) -> tuple[list[int], int]:
        return [0] * self.n_steps, 0


def _appended(memory: Memory, values: Tensor, seen: Tensor) -> Memory:
    """A memory with more columns: values `[batch n d_model]`, and positions as keys."""
    places = memory.next[:, None] + seen.long().cumsum(1) - 1
    keys, new_keys = memory.layers[0][0], places[:, None, :, None].to(values)
    old = memory.layers[0][1]
    whole = values[:, None] if old.shape[2] == 0 else torch.cat([old, values[:, None]], 2)
    return Memory(
        ((torch.cat([keys, new_keys], 2), whole),),
        torch.cat([memory.seen, seen], 1),
        memory.next + seen.sum(1),
        memory.slots,
    )


def _left(memory: Memory, step: int) -> Tensor:
    """What a step left as its values `[batch d_model]`; zeros where it is hidden."""
    slot = memory.slot(step)
    return slot.layers[0][1][:, 0, 0] * slot.seen


def _sum_of(a: Tensor, b: Tensor) -> Tensor:
    """Circular convolution of two contents `[batch n]`: class i with class j is i + j mod n."""
    n = a.shape[-1]
    lag = (torch.arange(n)[:, None] - torch.arange(n)) % n
    return (b[:, lag] * a[:, None]).sum(-1)


def _require_kind(kind: str) -> None:
    known = get_args(Kind)
    if kind not in known:
        raise InputError(
            f"There is no planted kind {kind!r}; there are {', '.join(known)}."
            f"{nearest(kind, known)}"
        )


def _require_steps(
    label: str, steps: Sequence[int], allowed: range, kind: str, owner: Kind
) -> None:
    if steps and kind != owner:
        raise InputError(f"{label}={tuple(steps)} belongs to the kind {owner!r}, not to {kind!r}.")
    for step in steps:
        if step not in allowed:
            raise InputError(
                f"{label}={tuple(steps)}: {step} is none of the steps {allowed[0]} to "
                f"{allowed[-1]}."
            )
