"""The loop: phases in order, each until its loss is low enough; one way for every kind."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.latent.hf import HFSubject
from interp.latent.training.build import parameters, set_training, untrained
from interp.latent.training.losses import (
    distance,
    latent_pass,
    nll,
    student_read,
    teacher_read,
    text_pass,
)
from interp.latent.training.memo import remembering
from interp.latent.training.recipe import Phase, Recipe, phases
from interp.latent.training.source import Source

EMA = 0.95
"""Weight of the past in the moving average of a phase's loss."""

LESSONS = 500_000
"""Number of the first draw for a teacher that learns from problems other than the student's."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an update."""

    update: int
    phase: str
    loss: float
    """Moving average of the phase's own loss, in nats."""


@dataclass(frozen=True)
class PhaseRun:
    """What a phase took."""

    label: str
    updates: int
    loss: float | None
    """Moving average at its end, in nats; None where no update was its own."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained subject, in eval mode, with what its training took."""

    subject: HFSubject
    recipe: Recipe
    runs: tuple[PhaseRun, ...]
    seconds: float
    """CPU time."""

    @property
    def updates(self) -> int:
        """Updates in all."""
        return sum(run.updates for run in self.runs)


def train(
    recipe: Recipe,
    source: Source,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    device: str = "cpu",
) -> Trained:
    """Train a subject of the recipe's kind; one way for all of them.

    Args:
        recipe: all settings.
        source: gives the problems of every update.
        on_progress: called after every update.
        device: where the model computes; on the CPU equal arguments give equal weights.

    Raises:
        InputError: problems that do not fit the recipe, or are longer than the model reads.
        ModelError: there is no such pretrained model.
    """
    begun = time.process_time()
    subject = untrained(recipe, source, device)
    with torch.random.fork_rng(devices=[]), remembering(subject):
        torch.manual_seed(recipe.seed)
        runs = _run(recipe, source, subject, on_progress or (lambda progress: None))
    set_training(subject, False)
    return Trained(subject, recipe, runs, time.process_time() - begun)


def _run(
    recipe: Recipe, source: Source, subject: HFSubject, report: Callable[[Progress], None]
) -> tuple[PhaseRun, ...]:
    plan, rng, done = phases(recipe), random.Random(recipe.seed), 0
    optimizer, runs = _optimizer(recipe, subject), []
    for i, phase in enumerate(plan):
        if i and recipe.fresh_optimizer:
            optimizer = _optimizer(recipe, subject)
        earlier = [other for other in plan[:i] if other.task == phase.task]
        mean, start = math.inf, done
        while done < min(recipe.updates, start + phase.updates) and not mean < phase.until:
            other = rng.choice(earlier) if earlier and rng.random() < recipe.mix else phase
            total, own = loss_of(recipe, subject, source, other, done)
            _descend(recipe, optimizer, total, done)
            done += 1
            if other is phase:
                value = float(own.detach())
                mean = value if math.isinf(mean) else EMA * mean + (1 - EMA) * value
            report(Progress(done, phase.label, mean))
        runs.append(PhaseRun(phase.label, done - start, mean if math.isfinite(mean) else None))
    return tuple(runs)


def loss_of(
    recipe: Recipe, subject: HFSubject, source: Source, phase: Phase, at: int
) -> tuple[Tensor, Tensor]:
    """What update `at` descends, and the part of it that decides when the phase is over."""
    problems = source.draw(recipe.batch, at, phase.level)
    if phase.task == "distil":
        return _distilled(recipe, subject, source, phase, at, problems)
    if phase.task == "teacher":
        made = teacher_read(subject, problems, recipe.teacher_prompt).made
    elif phase.task == "text":
        made = text_pass(subject, problems)
    else:
        made = latent_pass(subject, problems, latents=phase.latents, dropped=phase.dropped)
    loss = nll(subject, made)
    return loss, loss


def _distilled(
    recipe: Recipe,
    subject: HFSubject,
    source: Source,
    phase: Phase,
    at: int,
    problems: Sequence[LatentProblem],
) -> tuple[Tensor, Tensor]:
    """CODI's total and the student's part. With levels the teacher learns from all of them."""
    prompt = recipe.teacher_prompt
    student = student_read(subject, problems, phase.latents)
    own = nll(subject, student.made)
    with torch.set_grad_enabled(phase.level is None):
        teacher = teacher_read(subject, problems, prompt)
    lesson = teacher
    if phase.level is not None:
        lesson = teacher_read(subject, source.draw(recipe.batch, LESSONS + at), prompt)
    apart = distance(student.states, teacher.states)
    taught = recipe.teacher_weight * nll(subject, lesson.made)
    return own + recipe.distil_weight * apart + taught, own


def _optimizer(recipe: Recipe, subject: HFSubject) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters(subject),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _descend(recipe: Recipe, optimizer: torch.optim.AdamW, loss: Tensor, done: int) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * rate(recipe, done)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
    optimizer.step()


def rate(recipe: Recipe, done: int) -> float:
    """Share of the learning rate after `done` updates.

    >>> [round(rate(Recipe(updates=100, warm_up=0.1, cosine=True), n), 2) for n in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    rising = recipe.warm_up * recipe.updates
    if done < rising:
        return min(1.0, (done + 1) / rising)
    if not recipe.cosine:
        return 1.0
    return (1 + math.cos(math.pi * (done - rising) / (recipe.updates - rising))) / 2
