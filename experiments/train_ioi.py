"""Train a small GPT-2 until it names the indirect object, in unseen sentences and of every name.

    python -m experiments.train_ioi

writes `experiments/records/ioi` (a few minutes on one core): `model.safetensors`, `config.json`,
the tokenizer, and `manifest.json` with the settings and what the network answers. `interp.load`
reads the folder as it does any other, `load_trained()` checks it against its manifest too, and
`twin()` is a network of the same configuration that was never trained.

**Data.** Sentences of `interp.data.ioi`, split `network`: all 100 names, and eight tenths of the
sentences. A network answers only with names that it has seen, so it sees those that alignment maps
do not: a map is fitted on the first group of names and tested on the last.

**Loss.** Cross-entropy of the answer, and of every other token with a smaller weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from experiments import training
from interp.data.ioi import IOI, word_tokenizer
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError

RECORDS = training.RECORDS / "ioi"
SCORED = ("validation", "test", "validation names", "unseen names")
"""Splits on which the network is scored."""
TOKENIZER = "tokenizer.json"
WIDTH = 20
"""Tokens of the longest sentence and its answer, and a spare one."""


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 with learned positions, trained on sentences with an indirect object."""

    d_model: int = 64
    """Width; the MLPs are four times as wide."""
    n_layers: int = 4
    """Layers; fewer can solve the task, these leave room for a site in the middle."""
    steps: int = 800
    """Updates."""
    batch: int = 128
    """Sentences in an update."""
    learning_rate: float = 3e-3
    """Of AdamW, after 100 steps of warming up; falls to 0 over the last fifth."""
    sentences: int = 20_000
    """Different sentences to train on."""
    others: float = 0.1
    """Weight of the mean loss of all other tokens, beside 1 of the answers."""
    held_out: int = 2000
    """Sentences of each split on which the network is scored."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        numbers = (self.steps, self.batch, self.held_out, self.n_layers, self.n_heads)
        if min(*numbers, self.sentences) < 1:
            raise InputError(
                f"--steps {self.steps}, --batch {self.batch}, --held-out {self.held_out}, "
                f"--n-layers {self.n_layers}, --n-heads {self.n_heads} and --sentences "
                f"{self.sentences} must be 1 or more each."
            )
        if self.d_model % self.n_heads or self.others < 0:
            raise InputError(
                f"--d-model {self.d_model} --n-heads {self.n_heads} --others {self.others}: give "
                "heads that divide the width, and a weight of 0 or more."
            )


class Rows(NamedTuple):
    """Sentences with their answers, padded on the right with token 0."""

    ids: Int[Tensor, "row pos"]
    last: Int[Tensor, " row"]
    """Position of the last token before the answer."""

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """Tokens that are no padding, the answer included."""
        return torch.arange(self.ids.shape[1]) <= self.last[:, None] + 1


def rows(task: IOI, n: int, seed: int, *, split: str) -> Rows:
    """Draw sentences of a split and put each one's answer behind it."""
    table = task.table("pattern", n, seed, split=split, width=WIDTH)
    last = (table.inputs >= 0).sum(1) - 1
    ids = table.inputs.clamp(min=0)
    ids[torch.arange(n), last + 1] = task.labels(table)
    return Rows(ids, last)


def losses(
    logits: Float[Tensor, "row pos d_vocab"], data: Rows
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean loss of the answers and that of all other tokens, in nats."""
    each = cross_entropy(logits[:, :-1].transpose(1, 2), data.ids[:, 1:], reduction="none")
    answers = each.gather(1, data.last[:, None])
    others = (each * data.real[:, 1:]).sum() - answers.sum()
    return answers.mean(), others / (data.real[:, 1:].sum() - len(answers))


def architecture(config: Config) -> GPT2Config:
    """Return the configuration of the network and of its twins."""
    tokenizer = word_tokenizer(n_ctx=WIDTH)
    return training.gpt2_config(
        vocab_size=len(tokenizer),
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_positions=WIDTH,
        initializer_range=config.d_model**-0.5,  # in a random twin states must tell inputs apart
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def untrained(config: Config, seed: int) -> GPT2LMHeadModel:
    """Return a network of this configuration as it is before training."""
    with training.seeded(seed):
        return GPT2LMHeadModel(architecture(config)).eval()


def train(config: Config, console: Console) -> GPT2LMHeadModel:
    """Return the trained network; equal settings give equal weights on one machine and thread."""
    data = rows(IOI(word_tokenizer()), config.sentences, config.seed, split="network")
    stream = torch.Generator().manual_seed(config.seed)
    model = untrained(config, config.seed).train()

    def loss_at(step: int) -> Tensor:
        picked = torch.randint(len(data.ids), (config.batch,), generator=stream)
        part = Rows(data.ids[picked], data.last[picked])
        answers, others = losses(model(part.ids).logits, part)
        if step % 100 == 0:
            console.print(f"step {step:5d}  answers {answers:.4f}, other tokens {others:.4f} nats")
        return answers + config.others * others

    training.descend(model, loss_at, config, steps=config.steps, rate=_rate)
    return model.eval()


def _rate(step: int, steps: int) -> float:
    """Up in 100 steps, and down to 0 over the last fifth: the task is learned in one late fall."""
    return min(1.0, (step + 1) / 100, 5 * (1 - step / steps))


@torch.no_grad()
def report(model: GPT2LMHeadModel, config: Config) -> dict[str, object]:
    """Return what the network answers on each split, over the vocabulary and between two names."""
    task, found = IOI(word_tokenizer()), {}
    for split in SCORED:
        data = rows(task, config.held_out, config.seed + 1, split=split)
        each = torch.arange(len(data.ids))
        logits = model(data.ids).logits[each, data.last]
        table = task.table("pattern", config.held_out, config.seed + 1, split=split, width=WIDTH)
        labels, two = task.labels(table), task.candidates(table)
        chosen = two.gather(1, logits.gather(1, two).argmax(1, keepdim=True))[:, 0]
        found[split] = {
            "accuracy": round(float((logits.argmax(1) == labels).double().mean()), 5),
            "accuracy_of_two": round(float((chosen == labels).double().mean()), 5),
            "loss_nats": round(float(cross_entropy(logits, labels)), 5),
        }
    return found


def save(
    model: GPT2LMHeadModel,
    config: Config,
    notes: dict[str, object],
    *,
    seconds: float,
    flags: Sequence[str] = (),
) -> None:
    """Write the weights, the configuration and the manifest, which comes last."""
    import interp.data.ioi as data

    word_tokenizer(n_ctx=WIDTH).save_pretrained(config.out)
    training.save(
        model,
        config,
        notes,
        experiment="train_ioi",
        data={"rows": f"interp.data.ioi, split network, seed {config.seed}"},
        code=[__file__, str(data.__file__)],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
        files=(*training.FILES, TOKENIZER),
    )


def load_trained(folder: Path = RECORDS) -> Model:
    """Return the trained network with its tokenizer, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return load(training.load_gpt2(folder, "train_ioi"), tokenizer=word_tokenizer(n_ctx=WIDTH))


def twin(seed: int, config: Config | None = None) -> Model:
    """Return an untrained network of the same configuration; seed 0 is where training began."""
    return load(untrained(config or Config(), seed), tokenizer=word_tokenizer(n_ctx=WIDTH))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    training.run(Config, argv, __doc__, train=train, report=report, save=save)


if __name__ == "__main__":
    main()
