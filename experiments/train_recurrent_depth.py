"""Train a small recurrent-depth model to follow a cycle, one hop a recurrence.

    python -m experiments.train_recurrent_depth

writes `experiments/records/latent/recurrent_depth` (about two minutes of one core):
`model.safetensors`, `config.json` and `manifest.json` with the settings and how often the model is
right after each number of recurrences. `load_trained()` reads it back as a subject,
`interp.data.cycle_hop` is the task.

What is learned: after recurrence i the last position reads f^i(x), so the answer needs them all;
an edge reads as the node that it leads to, after any. The decider learns which positions do not
read after the first as they should at the end: Think-at-Hard's oracle (Fu et al. 2025,
arXiv:2511.08577, section 3), by which half of the updates iterate, so that the model can do with
either.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from experiments import training
from interp.data import cycle_hop
from interp.data.cycle_hop import CycleHop, CycleProblem
from interp.errors import InputError
from interp.latent import recurrent_depth
from interp.latent.recurrent_depth import (
    Again,
    RecurrentDepth,
    RecurrentDepthConfig,
    RecurrentDepthModel,
)

RECORDS = training.RECORDS / "latent" / "recurrent_depth"
N_CTX = 16


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A model with a layer each of prelude, core and coda."""

    d_model: int = 64
    """Width; the MLPs are twice as wide."""
    nodes: int = 8
    """Of a cycle."""
    hops: int = 4
    """From the start to the answer, and recurrences."""
    steps: int = 1200
    """Updates."""
    batch: int = 64
    """Problems in an update."""
    weight_decay: float = 0.01
    """Of AdamW."""
    held_out: int = 500
    """Problems on which the model is scored."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "held_out", "d_model", "n_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give 1 or more.")
        if self.d_model % self.n_heads:
            raise InputError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}: choose heads "
                "that do."
            )

    @property
    def task(self) -> CycleHop:
        """What is asked."""
        return CycleHop(n_nodes=self.nodes, hops=self.hops)


def batch_of(
    problems: Sequence[CycleProblem], ids: Mapping[str, int]
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "step batch pos"]]:
    """Return token ids, and what each position is to read after each recurrence.

    An edge reads as its end, after any; the start, which comes last, as the step taken.
    """
    tokens = [[ids[word] for word in problem.question.split()] for problem in problems]
    steps = range(len(problems[0].steps))
    wanted = [
        [[*(ids[end] for _, end in p.edges), ids[p.steps[step]]] for p in problems]
        for step in steps
    ]
    return torch.tensor(tokens), torch.tensor(wanted)


def loss_of(
    model: RecurrentDepthModel,
    tokens: Int[Tensor, "batch pos"],
    wanted: Int[Tensor, "step batch pos"],
    *,
    gated: bool,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the loss in nats a recurrence, and that of the last position alone.

    The start counts as much as all edges together. With `gated`, positions that read right after
    the first recurrence are not iterated again.
    """
    prompt = model.read_in(tokens)
    state = model.first(tokens.shape[1], 0).expand_as(prompt)
    hard = torch.ones_like(tokens, dtype=torch.bool)
    losses, lasts = [], []
    for i, target in enumerate(wanted):
        made = model.recur(state, prompt)
        state = torch.where(hard[..., None], made, state) if gated else made
        logits = model.head(model.coda(state))
        each = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        each = each.view_as(target)
        lasts.append(each[:, -1].mean())
        losses.append(lasts[-1] + each[:, :-1].mean())
        if i == 0:
            hard = logits.detach().argmax(-1) != wanted[-1]
            decided = model.decider(state.detach())[..., 0]
            losses.append(binary_cross_entropy_with_logits(decided, hard.to(decided)))
    return torch.stack(losses).sum() / len(wanted), torch.stack(lasts).mean()


def train(config: Config, console: Console) -> RecurrentDepthModel:
    """Return the trained model; equal settings give equal weights on one machine and thread."""
    tokenizer = config.task.tokenizer(n_ctx=N_CTX)
    ids = tokenizer.get_vocab()
    with training.seeded(config.seed):
        model = RecurrentDepthModel(_architecture(config, len(tokenizer))).train()

    def loss_at(step: int) -> Tensor:
        problems = config.task.draw(config.batch, seed=config.seed * 1_000_000 + step)
        loss, last = loss_of(model, *batch_of(problems, ids), gated=step % 2 == 1)
        if step % 100 == 0:
            console.print(f"step {step:5d}  {float(last.detach()):.4f} nats at the start node")
        return loss

    any_model: Any = model
    training.descend(any_model, loss_at, config, steps=config.steps, betas=(0.9, 0.98))
    return model.eval()


def _architecture(config: Config, d_vocab: int) -> RecurrentDepthConfig:
    return RecurrentDepthConfig(
        d_vocab=d_vocab,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_ctx=N_CTX,
        n_steps=config.hops,
    )


@torch.no_grad()
def report(model: RecurrentDepthModel, config: Config) -> dict[str, object]:
    """Return how often the model is right on held-out problems, by recurrences and iteration."""
    problems = config.task.draw(config.held_out, seed=-1 - config.seed)
    found: dict[str, object] = {"guess ceiling": round(config.task.ceiling(), 4)}
    for k in range(config.hops + 1):
        found[f"right after {k}"] = accuracy(model, config, problems, k, "always")
    found["right with the decider"] = accuracy(model, config, problems, config.hops, "hard")
    found["right with one pass"] = accuracy(model, config, problems, config.hops, "never")
    return found


def accuracy(
    model: RecurrentDepthModel,
    config: Config,
    problems: Sequence[CycleProblem],
    n_steps: int,
    again: Again,
) -> float:
    """Share of problems that are answered rightly after `n_steps` recurrences."""
    asked = subject(model, config, again=again)
    state = asked.prefill(problems)
    for _ in range(n_steps):
        state = asked.step(state)
    given = [asked.read(text) for text in asked.decode(asked.close(state))]
    right = sum(got == problem.answer for got, problem in zip(given, problems, strict=True))
    return round(right / len(problems), 4)


def subject(
    model: RecurrentDepthModel, config: Config, *, again: Again = "always"
) -> RecurrentDepth:
    """The model with the tokenizer of its task."""
    tokenizer = config.task.tokenizer(n_ctx=N_CTX)
    return RecurrentDepth(model, tokenizer, name="recurrent-depth", again=again)


def load_trained(folder: Path = RECORDS, *, again: Again = "always") -> RecurrentDepth:
    """Return the trained model as a subject, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    training.check(folder, "train_recurrent_depth")
    return subject(recurrent_depth.load_model(folder), Config(), again=again)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    config, flags = training.begin(Config, argv, __doc__)
    console = Console()
    begun = time.process_time()
    model = train(config, console)
    seconds = time.process_time() - begun
    notes = report(model, config)
    any_model: Any = model
    training.save(
        any_model,
        config,
        notes,
        experiment="train_recurrent_depth",
        data={"problems": f"CycleHop.draw(batch, seed=1000000 * {config.seed} + step)"},
        code=[__file__, str(recurrent_depth.__file__), str(cycle_hop.__file__)],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
    )
    console.print_json(data=notes)
    console.print(f"{seconds:.0f} s of training: {config.out}")


if __name__ == "__main__":
    main()
