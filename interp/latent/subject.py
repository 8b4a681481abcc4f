"""A model that reasons in steps: four calls, from which every experiment here is derived.

Convention, kept by every subject. Steps count from 1. h_t is *produced* at the position before step
t and *fed* as step t. C_t is the cache after exactly steps 1..t were consumed; a `State` is the
pair (h_{t+1}, C_t). To *read at s* is to close C_s, so exactly s steps were consumed, and then to
force or decode an answer. do(h_t := v) is `step(state, v)` in place of `step(state)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.layout import Target
from interp.latent.state import Closed, Node, State


@dataclass(frozen=True, eq=False)
class Forced:
    """Log-probabilities at forced answers; rows are padded at the right to the longest."""

    logprobs: Float[Tensor, "batch length vocab"]
    """Natural log, float32 or wider: what the model expects before each token of the target."""
    ids: Int[Tensor, "batch length"]
    """The forced tokens; 0 where padded."""
    seen: Bool[Tensor, "batch length"]
    """Which places are not padding."""
    answer: Bool[Tensor, "batch length"]
    """Which tokens are the answer's own, without template and end of text."""

    def of_targets(self) -> Float[Tensor, "batch length"]:
        """Log-probability of each forced token; 0 where padded."""
        picked = self.logprobs.gather(2, self.ids[..., None])[..., 0]
        return torch.where(self.seen, picked, torch.zeros_like(picked))


class Subject(ABC):
    """A model with addressable reasoning steps.

    A new kind of model states its convention and fills in the five calls; operators, influence,
    necessity and commitment then work on it as they are.
    """

    name: str
    n_steps: int
    """T. Steps are 1..T; a subject with none can be scored and not intervened on."""
    convention: str = "h_t is produced before slot t and fed as its input; C_t has consumed t slots"
    """What a step is and when it is consumed, for the record."""
    edges: tuple[str, ...] = ("input", "kv", "both", "recurrence", "cache")
    """Which edges its steps have, see `interventions.Edge`; an edit of another is refused."""

    @abstractmethod
    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """Read the prompts up to the start marker; return (h_1, C_0), one row a problem."""

    @abstractmethod
    def step(self, state: State, node: Node | None = None) -> State:
        """Consume `node`, by default the state's own; return (h_{t+1}, C_t). Never writes."""

    @abstractmethod
    def close(self, state: State) -> Closed:
        """Feed the end marker, leaving the state's own node unconsumed."""

    @abstractmethod
    def force(self, closed: Closed, targets: Sequence[Target]) -> Forced:
        """Read the log-probabilities of one target a row, each token given those before it."""

    @abstractmethod
    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """Write greedily until the end of text; return the new text of each row."""

    @abstractmethod
    def target(self, answer: str) -> Target:
        """The tokens that state this answer, as the model was trained to write it."""

    @abstractmethod
    def read(self, text: str) -> str | None:
        """The answer in a decoded text, or None where it holds none."""

    def check_problem(self, problem: LatentProblem) -> None:
        """Refuse a problem that it cannot run or score, without running.

        Raises:
            InputError: it cannot.
        """
        self.target(problem.answer)

    def require_steps(self) -> None:
        """Refuse a subject that has no steps.

        Raises:
            InputError: it has none.
        """
        if self.n_steps < 1:
            raise InputError(
                f"{self.name} has no latent steps, so there is nothing to intervene on: use it as "
                "the control that it is, in `accuracy`."
            )


@dataclass(frozen=True, eq=False)
class Rollout:
    """The states of an unedited run: `states[t]` has consumed t steps."""

    states: tuple[State, ...]

    @property
    def n_steps(self) -> int:
        """T."""
        return len(self.states) - 1

    def node(self, step: int) -> Node:
        """h_t as it was fed."""
        return self.states[step - 1].node

    def repeat(self, copies: int) -> Rollout:
        """Every state's rows, `copies` times over; numbers are copied, not computed again."""
        return Rollout(tuple(state.repeat(copies) for state in self.states))


@torch.no_grad()
def roll_out(subject: Subject, start: State, *, steps: int | None = None) -> Rollout:
    """Run a subject without edits from a state on, to the end or for `steps` steps more."""
    states = [start]
    for _ in range(subject.n_steps - start.consumed if steps is None else steps):
        states.append(subject.step(states[-1]))
    return Rollout(tuple(states))
