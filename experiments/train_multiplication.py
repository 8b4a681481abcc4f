"""Train the small networks that multiply: plainly, with an auxiliary loss, with implicit thought.

    python -m experiments.train_multiplication --recipe sft

writes `experiments/records/multiplication/{sft,auxiliary,icot,two_digit}` (5 to 10 CPU minutes
each): `model.safetensors`, `config.json`, for the auxiliary loss `readout.safetensors`, and
`manifest.json` with accuracy and loss for each digit of the answer. `load_trained(name)` reads a
network back, `load_read_out()` the auxiliary loss's weights.

**Recipes.** All predict the digits of the product, the least significant first.

- `sft`: 3x3 digits, cross-entropy on the six answer tokens. The stored one has `--seed 1`; with
  seed 0, and longer, c_2 begins to be learnt.
- `auxiliary`: the same, plus the squared error of two heads' read-outs against chat_k / 50.
- `icot`: a written chain of 24 tokens before the answer, trained on too, which disappears from the
  left over the first 60% of the updates; a batch loses a few tokens more, P(o) ~ exp(-4 o).
- `two_digit`: 2x2 digits, all pairs seen, which is easy enough to be solved.

The setting follows Bai et al. 2025, arXiv:2510.00184, at a small part of its size and length: the
failure of plain training shows, the two remedies do not arrive.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel

from experiments import training
from interp.data import multiplication as task
from interp.errors import InputError
from interp.models.multiplier import ReadOut, architecture, mixed_values, untrained

RECORDS = training.RECORDS / "multiplication"
READ_OUT = "readout.safetensors"
WARM = 200
Recipe = Literal["sft", "auxiliary", "icot", "two_digit"]
STEPS = {"sft": 1800, "auxiliary": 2000, "icot": 1200, "two_digit": 2200}


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 of 2 layers and 4 heads on products of two numbers."""

    recipe: Recipe = "sft"
    """Which training."""
    steps: int = 0
    """Updates; 0 means the recipe's own number."""
    batch: int = 256
    """Pairs in an update, drawn anew."""
    learning_rate: float = 2e-3
    """Of AdamW with betas 0.9 and 0.98; 200 steps up, and down to 0 over the last quarter."""
    weight_decay: float = 0.01
    """Of AdamW."""
    d_model: int = 96
    """Width; the MLPs are four times as wide."""
    coefficient: float = 1.0
    """Of the auxiliary loss, the squared error averaged over heads and digits."""
    scale: float = 50.0
    """What chat_k is divided by to be the auxiliary target."""
    gone: float = 0.6
    """Share of the updates after which no token of the written chain is left."""
    held_out: int = 2000
    """Pairs on which the network is scored; never trained on, but for two digits."""
    out: Path = RECORDS
    """Folder to write; the recipe's name is added."""

    def __post_init__(self) -> None:
        if min(self.batch, self.held_out) < 1 or self.steps < 0 or not 0 < self.gone <= 1:
            raise InputError(
                f"--batch {self.batch}, --held-out {self.held_out}, --steps {self.steps}, --gone "
                f"{self.gone}: give 1 or more rows, steps of 0 or more, and a share up to 1."
            )

    @property
    def n_digits(self) -> int:
        """Digits of an operand."""
        return 2 if self.recipe == "two_digit" else 3

    @property
    def n_thoughts(self) -> int:
        """Tokens of the written chain at the start."""
        return task.n_thoughts(self.n_digits) if self.recipe == "icot" else 0

    @property
    def split(self) -> task.Split:
        """Which pairs are trained on: for two digits, all 8,100."""
        return "any" if self.recipe == "two_digit" else "train"


def rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: up in 200 steps, down to 0 over the last quarter.

    >>> [rate(step, 2000) for step in (0, 199, 1500, 1750)]
    [0.005, 1.0, 1.0, 0.5]
    """
    return min(1.0, (step + 1) / WARM) * min(1.0, 4 * (steps - step) / steps)


def answer_loss(
    logits: Float[Tensor, "row pos d_vocab"], ids: Int[Tensor, "row pos"], n_targets: int
) -> Float[Tensor, "row target"]:
    """Return the loss of the last `n_targets` tokens of each row, in nats; chance is log(10)."""
    log_probs = logits[:, -n_targets - 1 : -1].log_softmax(dim=-1)
    return -log_probs.gather(2, ids[:, -n_targets:, None])[..., 0]


def removed(step: int, config: Config, generator: torch.Generator) -> int:
    """Return how many tokens of the chain a batch lacks: the schedule's and a random few more."""
    due = int(config.n_thoughts * step / (config.gone * config.steps))
    more = int(torch.empty(1).exponential_(4.0, generator=generator))
    return min(config.n_thoughts, due + more)


def train(config: Config, console: Console) -> tuple[GPT2LMHeadModel, ReadOut]:
    """Return the trained network and its read-out, which only the auxiliary loss trains."""
    generator = torch.Generator().manual_seed(config.seed)
    model = initial(config)
    read_out = ReadOut(config.d_model // model.config.n_head)
    if config.recipe == "auxiliary":
        model.add_module("read_out", read_out)  # so that one optimiser updates both
    n_answer = 2 * config.n_digits

    def loss_at(step: int) -> Tensor:
        data = task.draw(config.batch, config.n_digits, generator, split=config.split)
        chain = None
        if config.n_thoughts:
            chain = task.thoughts(data)[:, removed(step, config, generator) :]
        left = 0 if chain is None else chain.shape[1]
        ids = task.encode(data, chain)
        with mixed_values(model) as z:
            logits = model(ids).logits
            values = z()
        losses = answer_loss(logits, ids, n_answer + left + (left > 0))
        loss = losses.mean()
        if config.recipe == "auxiliary":
            loss = loss + config.coefficient * auxiliary(read_out, values, data, config.scale)
        if step % 100 == 0:
            digits = " ".join(f"{x:.2f}" for x in losses[:, -n_answer:].mean(dim=0))
            console.print(f"step {step:5d}  thoughts {left:2d}  loss of c0.. {digits} nats")
        return loss

    training.descend(model, loss_at, config, steps=config.steps, rate=rate, betas=(0.9, 0.98))
    if config.recipe == "auxiliary":
        del model.read_out
    return model.eval(), read_out


def initial(config: Config) -> GPT2LMHeadModel:
    """Return the untrained network of a recipe: the baseline of its probes."""
    n_positions = 4 * config.n_digits + 3 + config.n_thoughts
    sizes = architecture(len(task.VOCABULARY), n_positions, d_model=config.d_model)
    return untrained(sizes, config.seed)


def auxiliary(
    read_out: ReadOut,
    z: Float[Tensor, "row pos d_model"],
    data: task.Products,
    scale: float,
) -> Float[Tensor, ""]:
    """Return the squared error of the read-outs against chat_k / scale, over heads and digits."""
    positions = list(task.predicting(data.n_digits))
    found = read_out(z[:, positions])
    return (found - data.chat[:, :, None] / scale).square().mean()


@torch.no_grad()
def generated(model: PreTrainedModel, data: task.Products) -> Int[Tensor, "row answer"]:
    """Return the digits that the network writes, greedily, each behind its own earlier ones."""
    ids = task.encode(data)[:, : -2 * data.n_digits]
    for _ in range(2 * data.n_digits):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids[:, -2 * data.n_digits :]


@torch.no_grad()
def report(model: GPT2LMHeadModel, config: Config) -> dict[str, object]:
    """Return accuracy free-running and loss behind the right digits, by digit."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    split = "any" if config.split == "any" else "held_out"
    data = task.draw(config.held_out, config.n_digits, generator, split=split)
    ids = task.encode(data)
    right = generated(model, data) == data.c
    losses = answer_loss(model(ids).logits, ids, 2 * data.n_digits).mean(dim=0)
    return {
        "exact": round(float(right.all(dim=1).double().mean()), 4),
        "digit_accuracy": [round(float(x), 4) for x in right.double().mean(dim=0)],
        "digit_loss_nats": [round(float(x), 4) for x in losses],
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "scored_pairs": f"{config.held_out}, {split}",
    }


def save(
    model: GPT2LMHeadModel,
    read_out: ReadOut,
    config: Config,
    notes: dict[str, object],
    *,
    seconds: float,
    flags: Sequence[str] = (),
) -> None:
    """Write the weights, the architecture and the manifest, which comes last."""
    files = training.FILES
    if config.recipe == "auxiliary":
        config.out.mkdir(parents=True, exist_ok=True)
        save_file({"weight": read_out.weight.detach()}, config.out / READ_OUT)
        files = (*files, READ_OUT)
    training.save(
        model,
        config,
        notes,
        experiment="train_multiplication",
        data={"pairs": f"draw(..., n_digits={config.n_digits}), seed {config.seed}"},
        code=[__file__, task.__file__],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
        files=files,
    )


def load_trained(name: Recipe, folder: Path = RECORDS) -> GPT2LMHeadModel:
    """Return a trained network on the CPU, in eval mode, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return training.load_gpt2(folder / name, "train_multiplication")


def load_read_out(folder: Path = RECORDS) -> ReadOut:
    """Return the read-out of the network trained with the auxiliary loss."""
    weight = load_file(folder / "auxiliary" / READ_OUT)["weight"]
    read_out = ReadOut(weight.shape[1])
    read_out.load_state_dict({"weight": weight})
    return read_out


def resolved(config: Config) -> Config:
    """Return the settings with the recipe's own number of updates and folder filled in."""
    steps = config.steps or STEPS[config.recipe]
    return replace(config, steps=steps, out=config.out / config.recipe)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    given, flags = training.begin(Config, argv, __doc__)
    config, console = resolved(given), Console()
    begun = time.process_time()
    model, read_out = train(config, console)
    seconds = time.process_time() - begun
    notes = report(model, config)
    save(model, read_out, config, notes, seconds=seconds, flags=flags)
    console.print_json(data=notes)
    console.print(f"{seconds:.0f} CPU seconds of training: {config.out}")


if __name__ == "__main__":
    main()
