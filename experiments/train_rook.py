"""Train a small GPT-2 on random games of king and rook against king.

    python -m experiments.train_rook

writes `experiments/records/rook` (about four minutes on one core): `model.safetensors`,
`config.json` and `manifest.json` with the settings, the loss and how often the model's first choice
is legal on held-out games. `load_trained()` reads the model back, `interp.data.rook_endgame` is the
game. The model is told moves and nothing else: what it knows of the board it has worked out.

`--objective legal` trains towards the uniform distribution over all legal tokens, which carries
more per game than the one move that was drawn (Shah et al., arXiv:2602.05903, call the two NT
and PD); in expectation both ask for the same model, since games are drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from experiments import training
from interp.data import rook_endgame
from interp.data.rook_endgame import BLACK, Rules, random_games
from interp.errors import InputError

RECORDS = training.RECORDS / "rook"


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 that reads games of king and rook against king."""

    size: int = 5
    """Squares along a side of the board."""
    plies: int = 24
    """Moves of a game, both sides counted; three tokens set it up."""
    d_model: int = 64
    """Width; the MLPs are four times as wide."""
    n_layers: int = 3
    """Layers."""
    objective: Literal["next", "legal"] = "next"
    """Learn the token that was drawn, or all that are legal."""
    steps: int = 2400
    """Updates."""
    held_out: int = 500
    """Games on which the model is scored."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "held_out", "n_layers", "n_heads", "plies"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give 1 or more.")
        if self.d_model % self.n_heads:
            raise InputError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}: choose heads "
                "that do."
            )


def asked(
    rules: Rules, tokens: Int[Tensor, "row pos"], positions: Int[Tensor, "row pos"]
) -> Bool[Tensor, "row pos"]:
    """Return where a next token is predicted: from the third token on, until the game has ended."""
    begun = torch.zeros_like(tokens, dtype=torch.bool)
    begun[:, 2:-1] = True
    running = torch.ones_like(begun)
    running[:, 3:] = (tokens[:, 3:] != rook_endgame.END).cumprod(1).bool()
    return begun & running


def game_loss(
    logits: Float[Tensor, "row pos token"],
    tokens: Int[Tensor, "row pos"],
    positions: Int[Tensor, "row pos"],
    rules: Rules,
    objective: Literal["next", "legal"],
) -> Float[Tensor, ""]:
    """Return the mean loss of the tokens that are predicted, in nats."""
    where = asked(rules, tokens, positions)
    if objective == "next":
        return cross_entropy(logits[where], tokens.roll(-1, 1)[where])
    allowed = rules.legal[positions[where]].to(logits.dtype)
    return cross_entropy(logits[where], allowed / allowed.sum(1, keepdim=True))


def train(config: Config, console: Console) -> GPT2LMHeadModel:
    """Return the trained model; equal settings give equal weights on one machine and thread."""
    rules = Rules(config.size)
    generator = torch.Generator().manual_seed(config.seed)
    with training.seeded(config.seed):
        model = GPT2LMHeadModel(architecture(config)).train()  # all its dropout is 0

    def loss_at(step: int) -> Tensor:
        tokens, positions = random_games(rules, config.batch, config.plies, generator)
        logits = model(tokens).logits
        loss = game_loss(logits, tokens, positions, rules, config.objective)
        if step % 100 == 0:
            console.print(f"step {step:5d}  {float(loss.detach()):.4f} nats a token")
        return loss

    training.descend(model, loss_at, config, steps=config.steps, betas=(0.9, 0.98))
    return model.eval()


def architecture(config: Config) -> GPT2Config:
    """Return the configuration of the model."""
    return training.gpt2_config(
        vocab_size=Rules(config.size).n_tokens,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_positions=3 + config.plies,
        bos_token_id=rook_endgame.END,
        eos_token_id=rook_endgame.END,
        initializer_range=0.1,  # the usual 0.02 is for wide models; a narrow one starts too flat
    )


def untrained(config: Config) -> GPT2LMHeadModel:
    """Return the model as it was before training."""
    with training.seeded(config.seed):
        return GPT2LMHeadModel(architecture(config)).eval()


@torch.no_grad()
def report(model: GPT2LMHeadModel, config: Config) -> dict[str, object]:
    """Return the loss and how often the first choice is legal, on games of another seed.

    `floor_nats` is the loss of one who knows the rules: the mean log of the number of legal tokens.
    """
    rules = Rules(config.size)
    generator = torch.Generator().manual_seed(config.seed + 1)
    tokens, positions = random_games(rules, config.held_out, config.plies, generator)
    logits = model(tokens).logits
    where = asked(rules, tokens, positions)
    legal = rules.legal[positions[where]]
    fine = legal.gather(1, logits[where].argmax(1, keepdim=True))[:, 0]
    black = positions[where] % 2 == BLACK
    running = positions[where] != rules.over
    return {
        "loss_nats": round(float(game_loss(logits, tokens, positions, rules, "next")), 4),
        "floor_nats": round(float(legal.sum(1).double().log().mean()), 4),
        "first choice legal": round(float(fine.double().mean()), 4),
        "first choice legal, Black to move": round(float(fine[black & running].double().mean()), 4),
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
        experiment="train_rook",
        data={"games": f"random_games(Rules({config.size}), ...), seed {config.seed}"},
        code=[__file__, str(rook_endgame.__file__)],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
    )


def load_trained(folder: Path = RECORDS) -> GPT2LMHeadModel:
    """Return the trained model on the CPU, in eval mode, after checking it against its manifest.

    Tokens are those of `Rules`; there is no tokenizer.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return training.load_gpt2(folder, "train_rook")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    training.run(Config, argv, __doc__, train=train, report=report, save=save)


if __name__ == "__main__":
    main()
