"""Subjects that tests of latent reasoning share: random models on cycle-hop, and a planted one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.data.cycle_hop import CycleHop, CycleProblem
from interp.data.latent_problems import LatentProblem
from interp.latent.calibration import Calibration, calibrate
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout, Target
from interp.latent.state import Closed, Memory, Node, State
from interp.latent.subject import Forced, Subject
from interp.latent.subjects import Coconut, Codi, NoLatents, NoRecurrence, Pause, Projection
from interp.models.tiny import D_MODEL, build

TASK = CycleHop(n_nodes=8, hops=4)
LAYOUT = Layout(
    prompt="{question}<start>", close="<end>", step="{step}", target="{answer}", mark=""
)
ARCHITECTURES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-neox")
PROBLEMS = TASK.draw(6, seed=0)
OTHERS = TASK.draw(8, seed=9)
"""Calibration problems."""


@cache
def tokenizer() -> Any:
    """The task's tokenizer; its ids fit the tiny models' vocabulary."""
    return TASK.tokenizer()


@cache
def random_subject(
    kind: str = "coconut",
    architecture: str = "tiny-gpt2",
    dtype: torch.dtype = torch.float32,
    n_steps: int = 4,
) -> HFSubject:
    """A subject of random weights: nothing that it does is learnt, everything is checked."""
    hf = build(architecture, dtype=dtype)
    given: dict[str, Any] = {"n_steps": n_steps, "layout": LAYOUT, "name": f"a random {kind}"}
    if kind == "no_latents":
        return _brief(NoLatents(hf, tokenizer(), layout=LAYOUT, name="no latents"))
    if kind == "codi":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            projection = Projection(D_MODEL, 16).to(dtype).eval()
        return _brief(Codi(hf, tokenizer(), projection=projection, **given))
    kinds = {"coconut": Coconut, "pause": Pause, "no_recurrence": NoRecurrence}
    return _brief(kinds[kind](hf, tokenizer(), **given))


def _brief(subject: HFSubject) -> HFSubject:
    """Write a few tokens only: a random model never ends its text."""
    whole = subject.decode
    subject.decode = lambda closed, max_new_tokens=None: whole(closed, max_new_tokens or 3)
    return subject


@cache
def calibration(
    kind: str = "coconut", architecture: str = "tiny-gpt2", dtype: torch.dtype = torch.float32
) -> Calibration:
    """Means and donors of a random subject."""
    return calibrate(random_subject(kind, architecture, dtype), OTHERS)


def ragged(lengths: Sequence[int]) -> list[LatentProblem]:
    """Problems whose questions have so many edges less than the whole cycle."""
    drawn = TASK.draw(len(lengths), seed=3)
    return [
        LatentProblem(p.id, " ".join(p.question.split()[cut:]), p.steps, p.answer)
        for p, cut in zip(drawn, lengths, strict=True)
    ]


class Hops(Subject):
    """Solves cycle-hop by design: h_t is the one-hot node f^t, and a read-out states slot s's node.

    The first columns of the memory hold where each node leads, one more the node of each slot. A
    vector of zeros names no node: then no answer is stated, and all are forced alike. `gap` is the
    logit of the node stated.
    """

    gap = 3.0
    name = "hops"
    n_steps = 4

    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """The cycle of each problem, and the node after its start."""
        nodes = TASK.nodes
        leads = torch.zeros(len(problems), 1, len(nodes), len(nodes))
        starts = torch.zeros(len(problems), len(nodes))
        for row, problem in enumerate(problems):
            assert isinstance(problem, CycleProblem)
            starts[row, nodes.index(problem.start)] = 1
            for one, other in problem.edges:
                leads[row, 0, nodes.index(one), nodes.index(other)] = 1
        seen = torch.ones(len(problems), len(nodes), dtype=torch.bool)
        memory = Memory(((leads.clone(), leads),), seen, torch.full((len(problems),), len(nodes)))
        return State(0, self._next(starts, memory), memory)

    def _next(self, node: Tensor, memory: Memory) -> Node:
        leads = memory.layers[0][1][:, 0, : len(TASK.nodes)]
        return Node.slot((node[:, None] @ leads)[:, 0])

    def step(self, state: State, node: Node | None = None) -> State:
        """Keep the node in a column of its own, and follow its edge."""
        fed = node or state.node
        ((keys, values),) = state.memory.layers
        more = fed.vectors[:, None]
        first = values.shape[2]
        memory = Memory(
            ((torch.cat([keys, more], 2), torch.cat([values, more], 2)),),
            torch.cat([state.memory.seen, fed.seen], 1),
            state.memory.next + 1,
            (*state.memory.slots, (first, first + 1)),
        )
        return State(state.consumed + 1, self._next(fed.vectors[:, 0], memory), memory)

    def close(self, state: State) -> Closed:
        """The node of the last slot, none before the first."""
        last = state.memory.layers[0][1][:, 0, -1] * state.memory.seen[:, -1:]
        last = last if state.consumed else torch.zeros_like(last)
        return Closed(state.consumed, last, state.memory)

    def force(self, closed: Closed, targets: Sequence[Target]) -> Forced:
        """One token: a node."""
        ids = torch.tensor([target.ids for target in targets])
        which = torch.ones_like(ids, dtype=torch.bool)
        return Forced(torch.log_softmax(self.gap * closed.hidden, -1)[:, None], ids, which, which)

    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """The node, or nothing."""
        tops = closed.hidden.max(-1)
        pairs = zip(tops.values.tolist(), tops.indices.tolist(), strict=True)
        return [TASK.nodes[place] if value > 0 else "" for value, place in pairs]

    def target(self, answer: str) -> Target:
        """The node's place in the alphabet."""
        return Target((TASK.nodes.index(answer),), (0, 1))

    def read(self, text: str) -> str | None:
        """The text, if there is one."""
        return text or None
