"""Randomness inside the rollout: the same problem many times, and where each time led.

A latent rollout is deterministic, so one problem has one trajectory and one answer. Here noise acts
on the vector that a step *feeds*, before the step is consumed; later steps and the answer follow
from it. So a trajectory and its answer belong together, which vectors disturbed after the run, and
answers sampled apart from them, do not. Draws belong to (problem, sample, step, seed): neither the
batch nor the number of samples changes one.

Sources: noise and dropout in the rollout as in LatentTTS (You et al. 2025, arXiv:2510.07745); steps
drawn from a softmax with Gumbel noise as for Soft Thinking (Zhang et al. 2025, arXiv:2505.15778).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.effects import answers, in_chunks
from interp.latent.hf import HFSubject
from interp.latent.interventions import ROWS
from interp.latent.layout import Layout
from interp.latent.state import Node, State
from interp.latent.subject import Subject

SIGMA = 0.1
"""Spread of a vector's noise over its own norm over the root of d, so its noise is about a tenth
as long as the vector."""
SAMPLES = 40
"""Rollouts a problem."""


@runtime_checkable
class DrawsSteps(Protocol):
    """A subject whose next step can be drawn, where its own node is a mean or a mode."""

    def drawn(self, state: State, temperature: float, gumbel: Callable[[int], Tensor]) -> Node:
        """The next node, drawn; `gumbel(n)` gives standard Gumbel draws `[batch n]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is random in a rollout.

    Raises:
        InputError: a number is outside its range.
    """

    sigma: float = SIGMA
    """Gaussian noise s u on every vector fed, with s = sigma |h_t| / sqrt(d) and u from N(0, I)."""
    dropout: float = 0.0
    """Share of entries dropped from what each block adds to the residual stream, while a step is
    consumed; those that stay grow by 1 / (1 - dropout). For subjects on Hugging Face models."""
    temperature: float = 0.0
    """Above 0, steps are drawn by the subject's own rule, where it has one (`DrawsSteps`)."""
    steps: tuple[int, ...] | None = None
    """Which steps are noisy; None is all."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise InputError(f"sigma is {self.sigma}: give 0 or more, such as {SIGMA}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: it is a share from 0 to below 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}: give 0 for none, or above 0.")

    @property
    def silent(self) -> bool:
        """Whether nothing is random."""
        return self.steps == () or not (self.sigma or self.dropout or self.temperature)

    def acts(self, step: int) -> bool:
        """Whether a step is noisy."""
        return self.steps is None or step in self.steps

    def require(self, subject: Subject) -> None:
        """Refuse a subject that the noise cannot act on.

        Raises:
            InputError: no latent steps, a step that it lacks, dropout without a Hugging Face model,
                or a temperature without a rule to draw by.
        """
        subject.require_steps()
        lacking = [step for step in self.steps or () if not 1 <= step <= subject.n_steps]
        if lacking:
            raise InputError(
                f"{subject.name} has steps 1 to {subject.n_steps}, and noise is asked for step "
                f"{lacking[0]}: name one of those."
            )
        if self.dropout and not isinstance(subject, HFSubject):
            raise InputError(
                f"{subject.name} is no Hugging Face model, so dropout {self.dropout} has no block "
                "to act in: use sigma."
            )
        if self.temperature and not isinstance(subject, DrawsSteps):
            raise InputError(
                f"{subject.name} has no rule to draw a step by, so temperature {self.temperature} "
                "does nothing: use sigma."
            )


@dataclass(frozen=True)
class Draws:
    """The random numbers of some rows, each named by its problem and sample."""

    noise: Noise
    keys: tuple[tuple[str, int], ...]
    seed: int

    def streams(self, *purpose: object) -> Iterator[torch.Generator]:
        """A generator a row, for one step and purpose."""
        for key, sample in self.keys:
            parts = "\n".join(map(str, (key, sample, self.seed, *purpose)))
            digest = hashlib.sha256(parts.encode()).digest()
            yield torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def normal(self, like: Tensor, *purpose: object) -> Tensor:
        """Draws from N(0, 1), one tensor of `like[0]`'s shape a row."""
        rows = [torch.randn(like.shape[1:], generator=g) for g in self.streams(*purpose)]
        return torch.stack(rows).to(like)

    def uniform(self, like: Tensor, *purpose: object) -> Tensor:
        """Draws from (0, 1), one tensor of `like[0]`'s shape a row."""
        rows = [torch.rand(like.shape[1:], generator=g) for g in self.streams(*purpose)]
        return torch.stack(rows).to(like)

    def fed(self, subject: Subject, state: State) -> Node:
        """The state's next node as it is fed: drawn where asked, then with noise on its vectors."""
        step, node = state.consumed + 1, state.node
        if not self.noise.acts(step):
            return node
        if self.noise.temperature:
            assert isinstance(subject, DrawsSteps)  # `Noise.require`
            node = subject.drawn(state, self.noise.temperature, self._gumbel(step, node))
        if not self.noise.sigma:
            return node
        spread = self.noise.sigma * node.vectors.norm(dim=-1, keepdim=True)
        noise = spread / math.sqrt(node.vectors.shape[-1]) * self.normal(node.vectors, step)
        return Node(node.vectors + noise * node.seen[..., None], node.seen)

    def _gumbel(self, step: int, node: Node) -> Callable[[int], Tensor]:
        def gumbel(n: int) -> Tensor:
            flat = node.vectors.new_empty(node.rows, n)
            tiny = torch.finfo(flat.dtype).tiny
            return -(-self.uniform(flat, step, "gumbel").clamp(min=tiny).log()).log()

        return gumbel

    @contextmanager
    def dropping(self, subject: Subject, step: int) -> Iterator[None]:
        """Inside, blocks drop entries of what they add to the residual stream; after, none does."""
        rate = self.noise.dropout
        if not rate or not self.noise.acts(step):
            yield
            return
        assert isinstance(subject, HFSubject)  # `Noise.require`
        hooks = []
        try:
            for i, block in enumerate(_blocks(subject)):
                hooks.append(
                    block.register_forward_hook(self._drop(step, i, rate), with_kwargs=True)
                )
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _drop(self, step: int, block: int, rate: float) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            kept = self.uniform(after, step, "dropout", block) >= rate
            mixed = before + (after - before) * kept / (1 - rate)
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        return hook


def _blocks(subject: HFSubject) -> nn.ModuleList:
    """The list of the model's blocks: the one with as many modules as the model has layers."""
    n_layers = subject.hf.config.num_hidden_layers
    found = [
        module
        for module in subject.hf.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not found:
        raise InputError(
            f"{subject.name} has no list of {n_layers} blocks, so dropout has nothing to act in: "
            "use sigma."
        )
    return found[0]


@torch.no_grad()
def noisy_states(
    subject: Subject, start: State, draws: Draws, *, first: Node | None = None
) -> tuple[State, ...]:
    """Run to the end under noise; return a state a step, with the node *as it was fed*.

    Args:
        subject: any with steps.
        start: one row for each key of `draws`.
        draws: the random numbers.
        first: fed at the first step as it is, without more noise: a branch of an earlier run.

    Returns:
        The states before each step from `start` on, and the one after the last.
    """
    states, state = [], start
    while state.consumed < subject.n_steps:
        node = draws.fed(subject, state) if states or first is None else first
        states.append(State(state.consumed, node, state.memory))
        with draws.dropping(subject, state.consumed + 1):
            state = subject.step(state, node)
    return (*states, state)


@dataclass(frozen=True, eq=False)
class Samples:
    """Rollouts under noise: every vector that was fed, and the answer that it led to."""

    problems: tuple[LatentProblem, ...]
    noise: Noise
    seed: int
    vectors: Float[Tensor, "problem sample step d_model"]
    """h_t as it was fed; of a step with several vectors, their mean."""
    answers: tuple[tuple[str | None, ...], ...]
    """For each problem, the answer of each sample; None where the text holds none."""

    @property
    def n_samples(self) -> int:
        """Rollouts a problem."""
        return self.vectors.shape[1]

    @property
    def n_steps(self) -> int:
        """T."""
        return self.vectors.shape[2]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a rollout: id, sample, seed, answer, gold, correct."""
        return [
            {
                "id": problem.id,
                "sample": i,
                "seed": self.seed,
                "answer": answer,
                "gold": problem.answer,
                "correct": answer == Layout.plain(problem.answer),
            }
            for problem, given in zip(self.problems, self.answers, strict=True)
            for i, answer in enumerate(given)
        ]

    def shares(self, problem: int) -> dict[str | None, float]:
        """Share of each answer of a problem, the most frequent first; equals by their text."""
        counts = Counter(self.answers[problem])
        ordered = sorted(counts, key=lambda answer: (-counts[answer], answer or ""))
        return {answer: counts[answer] / self.n_samples for answer in ordered}


def sample(
    subject: Subject,
    problems: Sequence[LatentProblem],
    noise: Noise | None = None,
    *,
    n_samples: int = SAMPLES,
    seed: int = 0,
    rows: int = ROWS,
) -> Samples:
    """Roll every problem out `n_samples` times under noise, and decode the answer of each greedily.

    The prompt is read once a problem. The noise is by default Gaussian, `SIGMA` of each vector.

    Raises:
        InputError: no problem, two with one id, fewer than 1 sample, or noise that cannot act on
            the subject.
    """
    noise = noise or Noise()
    noise.require(subject)
    require_samples(problems, n_samples)

    def work(part: Sequence[LatentProblem], rows: int) -> list[tuple[Tensor, list[str | None]]]:
        states, _ = rolled(subject, part, noise, n_samples=n_samples, seed=seed)
        vectors = torch.stack([mean_vector(state.node) for state in states[:-1]], 1)
        given = answers(subject, subject.close(states[-1]))
        return [
            (vectors[i : i + n_samples].cpu(), given[i : i + n_samples])
            for i in range(0, len(given), n_samples)
        ]

    made = in_chunks(problems, work, lanes=n_samples, rows=rows)
    return Samples(
        tuple(problems),
        noise,
        seed,
        torch.stack([vectors for vectors, _ in made]),
        tuple(tuple(given) for _, given in made),
    )


@torch.no_grad()
def rolled(
    subject: Subject, problems: Sequence[LatentProblem], noise: Noise, *, n_samples: int, seed: int
) -> tuple[tuple[State, ...], Draws]:
    """The noisy states of all samples of some problems, a problem's samples side by side.

    The same arguments give the same states again, so nobody has to keep them.
    """
    keys = tuple((problem.id, i) for problem in problems for i in range(n_samples))
    draws = Draws(noise, keys, seed)
    places = [i for i in range(len(problems)) for _ in range(n_samples)]
    return noisy_states(subject, subject.prefill(problems).take(places), draws), draws


def require_samples(problems: Sequence[LatentProblem], n_samples: int) -> None:
    """Refuse what cannot be sampled.

    Raises:
        InputError: fewer than 1 sample, or two problems with one id.
    """
    if n_samples < 1:
        raise InputError(f"{n_samples} samples a problem: give 1 or more, better {SAMPLES}.")
    ids = Counter(problem.id for problem in problems)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise InputError(
            f"Two problems have the id {twice[0]!r}, so they would get the same noise: name each "
            "once."
        )


def mean_vector(node: Node) -> Float[Tensor, "batch d_model"]:
    """The mean of each row's vectors, padding left out; zeros for a row that has ended."""
    weight = node.seen[..., None].to(node.vectors.dtype)
    return (node.vectors * weight).sum(1) / weight.sum(1).clamp(min=1)
