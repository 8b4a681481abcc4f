"""Where training problems come from: drawn without end, or a list read again and again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError


@runtime_checkable
class Source(Protocol):
    """Gives the problems of an update. A value: the same call always returns the same."""

    @property
    def tokenizer(self) -> Any:
        """The task's own tokenizer, for models from scratch; None where it has none."""

    def draw(self, n: int, at: int, level: int | None = None) -> list[LatentProblem]:
        """Return the n problems of draw number `at`, all of `level` steps where that is given."""
        ...


TRAINING = 1_000_000
"""Cycle-hop problems of training have seeds from here on; those that are scored, below."""


@dataclass(frozen=True)
class Cycles:
    """Fresh cycle-hop problems for every draw."""

    task: CycleHop = field(default_factory=CycleHop)
    seed: int = 0
    levels: tuple[int, ...] = ()
    """Numbers of hops of a draw without a level; by default the task's own alone."""

    @property
    def tokenizer(self) -> Any:
        """One token for each piece of the task."""
        return self.task.tokenizer()

    def draw(self, n: int, at: int, level: int | None = None) -> list[LatentProblem]:
        """Return n new problems; without a level, all of `levels` by turns."""
        seed = TRAINING * (self.seed + 1) + at
        if level is not None or not self.levels:
            return list(self.task.draw(n, seed, level))
        shares = [self.task.draw(-(-n // len(self.levels)), seed, hops) for hops in self.levels]
        return [problem for row in zip(*shares, strict=True) for problem in row][:n]


@dataclass(frozen=True)
class Listed:
    """Problems of a file, all of them once an epoch, each epoch in another order.

    A level is a number of steps. The end of one epoch and the start of the next can share a draw.

    Raises:
        InputError: there is no problem.
    """

    problems: tuple[LatentProblem, ...]
    seed: int = 0
    tokenizer: Any = None
    """For a model from scratch; a pretrained one has its own."""

    def __post_init__(self) -> None:
        if not self.problems:
            raise InputError("There is no problem to train on: give a file with at least one.")

    def draw(self, n: int, at: int, level: int | None = None) -> list[LatentProblem]:
        """Return the next n problems.

        Raises:
            InputError: none has `level` steps.
        """
        pool = self.problems if level is None else _of_level(self.problems, level)
        if not pool:
            raise InputError(
                f"No problem of {len(self.problems)} has {level} steps: train with fewer levels, "
                "or without (levels=0)."
            )
        epochs = (divmod(place, len(pool)) for place in range(at * n, (at + 1) * n))
        return [pool[_order(len(pool), self.seed, epoch)[i]] for epoch, i in epochs]


@lru_cache(8)
def _of_level(problems: tuple[LatentProblem, ...], level: int) -> tuple[LatentProblem, ...]:
    return tuple(problem for problem in problems if len(problem.steps) == level)


@lru_cache(4)
def _order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch."""
    return tuple(random.Random(f"{seed}/{epoch}").sample(range(n), n))
