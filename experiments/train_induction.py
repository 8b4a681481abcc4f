"""Train a small GPT-2 until it predicts repeated random sequences: a found induction circuit.

    python -m experiments.train_induction

writes `experiments/records/induction` (a minute on one core): `model.safetensors`, `config.json`
and `manifest.json` with the settings, the loss and what each head looks like. `load_trained()`
reads the model back. In contrast to `interp.models.induction` nobody wired it: several heads share
the work.

**Data.** A row is `<bos>` (id 0) and `n_letters` places. Half of the rows repeat a sequence of
different letters with a period drawn anew for each row; the others are different letters but for
one short segment that comes again later. So no fixed distance tells the answer: a head must find
the earlier letter. Trained and scored are the repeated tokens whose predecessor is repeated too.

**Scores** of a head, on held-out rows: `previous` and `induction` are mean attention, from p to
p - 1 and from a repeated token to those that follow its earlier copies (Olsson et al. 2022,
arXiv:2209.11895); `loss_without` is the loss in nats with the head's output at its mean.
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
from transformers import GPT2Config, GPT2LMHeadModel

from experiments import training
from interp.edits import MeanAblate
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError

RECORDS = training.RECORDS / "induction"
BOS = 0


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """A GPT-2 with learned positions, trained on repeated random letters."""

    n_letters: int = 32
    """Size of the alphabet and length of a row, `<bos>` aside."""
    d_model: int = 64
    """Width; the MLPs are as wide."""
    n_layers: int = 2
    """Layers; induction needs two."""
    steps: int = 1500
    """Updates."""
    weight_decay: float = 1.0
    """Of AdamW."""
    held_out: int = 500
    """Rows on which the model is scored."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        if self.n_letters < 12:
            raise InputError(f"--n-letters {self.n_letters}: a row needs 12 letters or more.")
        if min(self.steps, self.batch, self.held_out) < 1:
            raise InputError(
                f"--steps {self.steps}, --batch {self.batch} and --held-out {self.held_out} must "
                "be 1 or more each."
            )
        if self.n_layers < 1 or self.n_heads < 1 or self.d_model % self.n_heads:
            raise InputError(
                f"--n-layers {self.n_layers}, --n-heads {self.n_heads}: give 1 or more of each, "
                f"and heads that divide --d-model {self.d_model}."
            )


class Rows(NamedTuple):
    """Rows of tokens, and where each token comes from."""

    ids: Int[Tensor, "row pos"]
    earlier: Int[Tensor, "row pos"]
    """Position of the earlier copy of the same letter, -1 where there is none."""

    @property
    def scored(self) -> Bool[Tensor, "row pos"]:
        """Whether the token and its predecessor are both repeated, in step."""
        in_step = self.earlier[:, 1:] == self.earlier[:, :-1] + 1
        repeated = (self.earlier[:, 1:] > 0) & (self.earlier[:, :-1] > 0)
        return torch.cat([torch.zeros(len(self.ids), 1, dtype=torch.bool), in_step & repeated], 1)


def rows(n: int, *, n_letters: int, generator: torch.Generator) -> Rows:
    """Draw `n` rows: the first half periodic, the others with one segment repeated.

    A period is 4 to half a row; a segment is 2 to a quarter of a row long.
    """
    where = torch.arange(n_letters).expand(n, -1)
    period = _draw(torch.full((n, 1), 4), n_letters // 2, generator)
    length = _draw(torch.full((n, 1), 2), n_letters // 4, generator)
    first = _draw(torch.zeros(n, 1, dtype=torch.long), n_letters - 2 * length, generator)
    second = _draw(first + length, n_letters - length, generator)
    inside = (where >= second) & (where < second + length)
    segment = torch.where(inside, where - second + first, where)
    periodic = torch.arange(n)[:, None] < n // 2
    source = torch.where(periodic, where % period, segment)
    letters = torch.rand(n, n_letters, generator=generator).argsort(dim=1) + 1
    nearest = torch.where(periodic, where - period, source)
    earlier = torch.where(source < where, nearest + 1, -1)
    first_column = torch.full((n, 1), BOS)
    ids = torch.cat([first_column, letters.gather(1, source)], dim=1)
    return Rows(ids, torch.cat([torch.full((n, 1), -1), earlier], dim=1))


def _draw(low: Tensor, high: Tensor | int, generator: torch.Generator) -> Tensor:
    """Draw whole numbers from `low` to `high`, both included."""
    share = torch.rand(low.shape, generator=generator)
    return low + (share * (high - low + 1)).long()


def repeated_loss(logits: Float[Tensor, "row pos d_vocab"], data: Rows) -> Float[Tensor, ""]:
    """Return the mean loss on repeated tokens, in nats; chance is log(n_letters)."""
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    found = log_probs.gather(2, data.ids[:, 1:, None])[..., 0]
    return -found[data.scored[:, 1:]].mean()


def train(config: Config, console: Console) -> GPT2LMHeadModel:
    """Return the trained model; equal settings give equal weights on one machine and thread."""
    generator = torch.Generator().manual_seed(config.seed)
    with training.seeded(config.seed):
        model = GPT2LMHeadModel(_architecture(config))

    def loss_at(step: int) -> Tensor:
        data = rows(config.batch, n_letters=config.n_letters, generator=generator)
        loss = repeated_loss(model(data.ids).logits, data)
        if step % 100 == 0:
            console.print(f"step {step:5d}  loss on repeated tokens {loss.detach():.4f} nats")
        return loss

    training.descend(model, loss_at, config, steps=config.steps)
    return model.eval()


def _architecture(config: Config) -> GPT2Config:
    """A GPT-2 without dropout and with an unembedding of its own."""
    return training.gpt2_config(
        vocab_size=config.n_letters + 1,
        n_embd=config.d_model,
        n_inner=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_positions=config.n_letters + 1,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )


def head_scores(model: Model, data: Rows) -> dict[str, dict[str, float]]:
    """Return `previous`, `induction` and `loss_without` of every head, by `layer.head`."""
    layers = range(model.sizes.n_layers)
    sites = [f"{layer}.attn.{what}" for layer in layers for what in ("pattern", "z")]
    run = model.run(data.ids, capture=sites)
    scores = {}
    for layer in layers:
        pattern, mean = run.acts[f"{layer}.attn.pattern"], run.mean(f"{layer}.attn.z")
        found = zip(previous_scores(pattern), induction_scores(pattern, data), strict=True)
        for head, (previous, induction) in enumerate(found):
            edit = MeanAblate(f"{layer}.attn.z", heads=head, mean=mean)
            without = repeated_loss(model.run(data.ids, edits=[edit]).logits, data)
            named = {"previous": previous, "induction": induction, "loss_without": without}
            scores[f"{layer}.{head}"] = {name: round(float(x), 4) for name, x in named.items()}
    return scores


def previous_scores(pattern: Float[Tensor, "row head pos pos"]) -> Float[Tensor, " head"]:
    """Return each head's mean attention from p to p - 1, for p of 2 and more; 0 to 1."""
    return pattern.diagonal(-1, 2, 3)[..., 1:].mean(dim=(0, 2))


def induction_scores(
    pattern: Float[Tensor, "row head pos pos"], data: Rows
) -> Float[Tensor, " head"]:
    """Return each head's mean attention to what followed the same letter before; 0 to 1.

    Queries are the positions that predict a scored token.
    """
    row, predicted = data.scored.nonzero(as_tuple=True)
    query = predicted - 1
    follows = data.ids[row, query][:, None] == data.ids[row].roll(1, dims=1)
    return (pattern[row, :, query] * follows[:, None]).sum(dim=2).mean(dim=0)


@torch.no_grad()
def report(model: GPT2LMHeadModel, config: Config) -> dict[str, object]:
    """Return the loss, the accuracy and the heads' scores on held-out rows."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    data = rows(config.held_out, n_letters=config.n_letters, generator=generator)
    logits = model(data.ids).logits
    right = logits[:, :-1].argmax(dim=-1) == data.ids[:, 1:]
    return {
        "loss_repeated_nats": round(float(repeated_loss(logits, data)), 6),
        "accuracy_repeated": round(float(right[data.scored[:, 1:]].double().mean()), 6),
        "heads": head_scores(load(model), data),
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
        experiment="train_induction",
        data={"rows": f"rows(..., n_letters={config.n_letters}), seed {config.seed}"},
        code=[__file__],
        seconds=seconds,
        steps=config.steps,
        flags=flags,
    )


def load_trained(folder: Path = RECORDS) -> GPT2LMHeadModel:
    """Return the trained model on the CPU, in eval mode, after checking it against its manifest.

    Tokens are ids: 0 is `<bos>`, 1 to `n_letters` are letters; there is no tokenizer.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    return training.load_gpt2(folder, "train_induction")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    training.run(Config, argv, __doc__, train=train, report=report, save=save)


if __name__ == "__main__":
    main()
