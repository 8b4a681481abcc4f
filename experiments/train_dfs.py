"""Train a small GPT-2 to find paths by depth-first search, written as text.

    python -m experiments.train_dfs

writes `experiments/records/dfs` (under two minutes on one core): `model.safetensors`,
`config.json` and `manifest.json` with the settings, the loss and what the model's own traces are
like. `load_trained()` reads the model back, `interp.models.dfs` is the task.

The model learns from right traces whose children come in random order, so at temperature 1 it
searches one problem in many orders, some lucky and some not. It is small and trained briefly: it
hardly ever errs in a search without failures, and sometimes loses its place in a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from experiments import training
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.models import dfs
from interp.models.tiny import special_ids

RECORDS = training.RECORDS / "dfs"
IGNORED = -100
"""The label of a token that is not learned: the prompt, whose edges nobody can guess."""


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 trained on traces of the oracle."""

    d_model: int = 64
    """Width; the MLPs are twice as wide."""
    n_layers: int = 2
    """Layers."""
    batch: int = 64
    """Traces in an update, each of a problem of its own."""
    seed: int = 0
    """Of the weights and the traces; the problems that are scored come from another."""
    held_out: int = 100
    """Problems on which the model is scored, four traces each."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "held_out", "n_layers", "n_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give 1 or more.")
        if self.d_model % self.n_heads:
            raise InputError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}: choose heads "
                "that do."
            )


def traces(n: int, *, seed: int) -> list[tuple[str, str]]:
    """Draw `n` pairs of prompt and right trace."""
    drawn = dfs.problems(n, seed=seed)
    return [(problem.prompt, dfs.oracle(problem, seed=seed).text) for problem in drawn]


def batch_of(
    pairs: Sequence[tuple[str, str]], ids: dict[str, int]
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Return token ids and labels, padded on the right; prompts and padding are not learned."""
    rows = [
        ([ids["<bos>"], *_ids(prompt, ids)], [*_ids(trace, ids), ids["<eos>"]])
        for prompt, trace in pairs
    ]
    width = max(len(prompt) + len(trace) for prompt, trace in rows)
    tokens = torch.full((len(rows), width), ids["<pad>"])
    labels = torch.full((len(rows), width), IGNORED)
    for i, (prompt, trace) in enumerate(rows):
        end = len(prompt) + len(trace)
        tokens[i, :end] = torch.tensor(prompt + trace)
        labels[i, len(prompt) : end] = torch.tensor(trace)
    return tokens, labels


def _ids(text: str, ids: dict[str, int]) -> list[int]:
    """Ids of words, as the tokenizer gives them but in a hundredth of the time."""
    return [ids[f"\u0120{word}"] for word in text.split()]


def train(config: Config, console: Console) -> GPT2LMHeadModel:
    """Return the trained model; equal settings give equal weights on one machine and thread."""
    with training.seeded(config.seed):
        model = GPT2LMHeadModel(_architecture(config)).train()  # all its dropout is 0
        ids = dfs.tokenizer().get_vocab()
        _spell_edges(model, ids)

    def loss_at(step: int) -> Tensor:
        tokens, labels = batch_of(traces(config.batch, seed=_seed(config.seed, step)), ids)
        loss = trace_loss(model, tokens, labels)
        if step % 50 == 0:
            console.print(f"step {step:5d}  {float(loss.detach()):.4f} nats a token of the trace")
        return loss

    training.descend(model, loss_at, config, steps=config.steps, betas=(0.9, 0.98))
    return model.eval()


def trace_loss(
    model: GPT2LMHeadModel, tokens: Int[Tensor, "row pos"], labels: Int[Tensor, "row pos"]
) -> Float[Tensor, ""]:
    """Return the mean loss of the tokens that are learned, in nats.

    Padding stands on the right, where nothing that is learned can see it.
    """
    hidden = model.transformer(tokens, attention_mask=torch.ones_like(tokens))[0]
    learned = labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[:, :-1][learned])  # the rest need no unembedding
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned])


def _seed(seed: int, step: int) -> int:
    """The seed of an update's problems; scored problems have seeds below zero."""
    return seed * 1_000_000 + step


@torch.no_grad()
def _spell_edges(model: GPT2LMHeadModel, ids: dict[str, int]) -> None:
    """Start every edge as its child's embedding plus its parent's, turned by a random matrix.

    So what is learned of one edge holds for all; training may change every embedding.
    """
    embed = model.get_parameter("transformer.wte.weight")
    turn = torch.linalg.qr(torch.randn(embed.shape[1], embed.shape[1])).Q
    for parent, child in permutations(dfs.LETTERS, 2):
        above, below = embed[ids[f"\u0120{parent}"]], embed[ids[f"\u0120{child}"]]
        embed[ids[f"\u0120{parent}>{child}"]] = above @ turn + below


def _architecture(config: Config) -> GPT2Config:
    return training.gpt2_config(
        **special_ids(dfs.tokenizer()),
        n_embd=config.d_model,
        n_inner=2 * config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_positions=dfs.N_CTX,
        initializer_range=0.1,  # the usual 0.02 is for wide models; a narrow one starts too flat
    )


def report(model: Model, config: Config) -> dict[str, object]:
    """Return what the model's own traces of held-out problems are like, at temperature 1."""
    asked = [p for p in dfs.problems(config.held_out, seed=-1 - config.seed) for _ in range(4)]
    prompts = [problem.prompt for problem in asked]
    longest = max(len(row) for row in model.tokens(prompts).prompt_ids)
    made = model.generate(
        prompts, max_new_tokens=dfs.N_CTX - longest, temperature=1.0, seed=config.seed
    )
    walked = [dfs.replay(p, text) for p, text in zip(asked, made.texts, strict=True)]
    known = [each.fsf for each in walked if each.fsf is not None]
    return {
        "share right": round(fmean(each.correct for each in walked), 4),
        "share without a flaw": round(fmean(not each.flaws for each in walked), 4),
        "share with a stray return": round(fmean(each.strays > 0 for each in walked), 4),
        "share ended": round(fmean(made.finished), 4),
        "mean failed-step fraction": round(fmean(known), 4),
    }


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
        experiment="train_dfs",
        data={"traces": f"traces(batch, seed=1000000 * {config.seed} + step)"},
        code=[__file__, str(dfs.__file__)],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
    )


def load_trained(folder: Path = RECORDS) -> Model:
    """Return the trained model with its tokenizer, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return load(training.load_gpt2(folder, "train_dfs"), tokenizer=dfs.tokenizer())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    training.run(
        Config,
        argv,
        __doc__,
        train=train,
        report=lambda model, config: report(load(model, tokenizer=dfs.tokenizer()), config),
        save=save,
    )


if __name__ == "__main__":
    main()
