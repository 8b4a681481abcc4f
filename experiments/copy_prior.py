"""Train a small GPT-2 on two kinds of tokens: copied from the context, or drawn from a prior.

    python -m experiments.copy_prior

writes `experiments/records/copy_prior` (a minute on one core): `model.safetensors`,
`config.json` and `manifest.json` with the settings and the effects. `load_trained()` reads the
model back.

**Data.** A row is `<bos>` (id 0), `n_copied` letters, and the same letters again with a word after
each: `<bos> c a b  c w a w b w`. Letters and words are ids of their own. Letters are drawn
independently from a steep prior (the i-th has a chance in proportion to 1 / i^2), so a model that
cannot look back writes the first letter. Words are drawn from a prior as steep and depend on
nothing. So in the second part

- a copied letter is determined by the context: only attention can know it;
- a word is determined by the prior: attention has nothing to add.

Once it copies, half of the rows are also read with the attention pattern of each layer replaced by
a counterfactual one. So without its attention the model falls back on the prior and does not
merely break.

The model is scored on both kinds by the effect of its attention, output(A) - output(A*) in nats
on the right token, with A* uniform, shuffled, reversed or random in every layer: large on copied
letters, near 0 on words. Source of the effect: CausalMM, arXiv:2410.04780.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from experiments import training
from interp.attention_edits import Kind, ReplacePattern
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.steering.guidance import effect

RECORDS = training.RECORDS / "copy_prior"
BOS = 0


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 of two layers that copies letters and writes words from a prior."""

    n_letters: int = 12
    """Letters, ids 1 to n_letters."""
    n_words: int = 6
    """Words, the ids after the letters."""
    n_copied: int = 8
    """Letters in a row that are copied."""
    d_model: int = 48
    """Width; the MLPs are as wide."""
    n_heads: int = 4
    """Heads in each of the two layers."""
    steps: int = 700
    """Updates."""
    alone: int = 450
    """The first updates, in which no row is read without its attention."""
    learning_rate: float = 3e-3
    """Of AdamW; falls to 0 over the last two thirds."""
    held_out: int = 200
    """Rows on which the model is scored."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        sizes = ("n_letters", "n_words", "n_copied", "steps", "held_out")
        small = [name for name in sizes if getattr(self, name) < 1]
        if small:
            raise InputError(f"{small[0]}={getattr(self, small[0])}: give 1 or more.")
        if self.batch < 2:
            raise InputError(f"batch={self.batch}: give 2 or more, so that half of it is a row.")


class Rows(NamedTuple):
    """Rows of tokens, and which positions hold which kind."""

    ids: Int[Tensor, "row pos"]
    copied: Int[Tensor, " k"]
    """Positions of the copied letters; the model predicts them one position before."""
    words: Int[Tensor, " k"]
    """Positions of the words."""


def rows(n: int, config: Config, generator: torch.Generator) -> Rows:
    """Draw `n` rows of `1 + 3 n_copied` tokens."""
    k = config.n_copied
    letters = 1 + _steep(n, k, config.n_letters, generator)
    words = 1 + config.n_letters + _steep(n, k, config.n_words, generator)
    second = torch.stack([letters, words], dim=2).flatten(1)
    ids = torch.cat([torch.full((n, 1), BOS), letters, second], dim=1)
    copied = 1 + k + 2 * torch.arange(k)
    return Rows(ids, copied, copied + 1)


def _steep(n: int, k: int, size: int, generator: torch.Generator) -> Int[Tensor, "n k"]:
    """Draw from 0 to size - 1, the i-th with a chance in proportion to 1 / (i + 1)^2."""
    chances = torch.arange(1, size + 1, dtype=torch.float64) ** -2.0
    return torch.multinomial(chances.expand(n, -1), k, replacement=True, generator=generator)


def train(config: Config, console: Console) -> GPT2LMHeadModel:
    """Return the trained model; equal settings give equal weights on one machine and thread."""
    generator = torch.Generator().manual_seed(config.seed)
    with training.seeded(config.seed):
        hf = GPT2LMHeadModel(_architecture(config)).eval()  # no dropout
    model = load(hf)

    def loss_at(step: int) -> Tensor:
        ids = rows(config.batch, config, generator).ids
        loss = next_token_loss(hf(ids).logits, ids)
        told = f"step {step:5d}  {float(loss.detach()):.4f} nats a token as it is"
        if step >= config.alone:
            kind, half = get_args(Kind)[step % len(get_args(Kind))], ids[: config.batch // 2]
            run = model.run(half, edits=replaced(model, kind, seed=step), grad=True)
            without = next_token_loss(run.logits, half)
            told += f", {float(without.detach()):.4f} without its attention"
            loss = loss + without
        if step % 100 == 0:
            console.print(told)
        return loss

    training.descend(hf, loss_at, config, steps=config.steps, rate=_rate)
    return hf


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: whole for a third of the steps, then down to 0 in a line."""
    return min(1.0, 1.5 * (1 - step / steps))


def next_token_loss(
    logits: Float[Tensor, "row pos d_vocab"], ids: Int[Tensor, "row pos"]
) -> Float[Tensor, ""]:
    """Return the mean loss of each next token, in nats."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def replaced(model: Model, kind: Kind, *, seed: int = 0) -> list[ReplacePattern]:
    """Return the edits that replace the attention pattern of every layer."""
    layers = range(model.sizes.n_layers)
    return [ReplacePattern(f"{layer}.attn.pattern", kind=kind, seed=seed) for layer in layers]


def _architecture(config: Config) -> GPT2Config:
    n_vocab, n_ctx = 1 + config.n_letters + config.n_words, 1 + 3 * config.n_copied
    return training.gpt2_config(
        vocab_size=n_vocab,
        n_embd=config.d_model,
        n_inner=config.d_model,
        n_layer=2,
        n_head=config.n_heads,
        n_positions=n_ctx,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )


def attention_effects(model: Model, data: Rows, kind: Kind) -> dict[str, Float[Tensor, "row k"]]:
    """Return the effect of attention on the right token, in nats, for copied letters and words.

    A* replaces the pattern of every layer, with a seed that training has not used.
    """
    moved = effect(model, data.ids, replaced(model, kind, seed=1 << 20), logits="all")[:, :-1]
    on_right = moved.gather(2, data.ids[:, 1:, None])[..., 0]
    return {"copied": on_right[:, data.copied - 1], "words": on_right[:, data.words - 1]}


def report(model: Model, config: Config) -> dict[str, object]:
    """Return accuracy on copied letters, and the effects on held-out rows."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    data = rows(config.held_out, config, generator)
    guess = model.run(data.ids).logits.argmax(-1)
    right = guess[:, data.copied - 1] == data.ids[:, data.copied]
    effects = {}
    for kind in get_args(Kind):
        found = attention_effects(model, data, kind)
        effects[kind] = {name: round(float(act.mean()), 4) for name, act in found.items()}
        effects[kind]["words, mean size"] = round(float(found["words"].abs().mean()), 4)
    accuracy = round(float(right.double().mean()), 4)
    return {"accuracy on copied letters": accuracy, "effect of attention, nats": effects}


def save(
    model: GPT2LMHeadModel,
    config: Config,
    notes: dict[str, object],
    *,
    seconds: float,
    flags: Sequence[str] = (),
) -> None:
    """Write the weights, the architecture and the manifest, which comes last."""
    training.save(
        model,
        config,
        notes,
        experiment="copy_prior",
        data={"rows": f"rows(n, config, generator), seed {config.seed}"},
        code=[__file__],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
    )


def load_trained(folder: Path = RECORDS) -> GPT2LMHeadModel:
    """Return the trained model on the CPU, in eval mode, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return training.load_gpt2(folder, "copy_prior")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    training.run(
        Config,
        argv,
        __doc__,
        train=train,
        report=lambda model, config: report(load(model), config),
        save=save,
    )


if __name__ == "__main__":
    main()
