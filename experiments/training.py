"""What the recipes of the small trained models share: settings, descent, and files with hashes.

A recipe (`train_induction`, `copy_prior`, `train_thinker`, `train_dfs`) draws its own data and has
its own loss and scores. Here stand the settings that mean the same in all, the updates by AdamW,
and the folder that is written and read back: weights, configuration, and a manifest that names the
hash of each, so that a model can be no other than the one that its numbers belong to.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from interp.errors import StoreError
from interp.results import manifest

RECORDS = Path(__file__).parent / "records"
FILES = ("model.safetensors", "config.json")
TIED = "lm_head.weight"
"""Left out of the weights of a model whose unembedding is its embedding."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every recipe can be given; a recipe restates what it means or chooses differently."""

    n_heads: int = 4
    """Heads in each layer."""
    steps: int = 1000
    """Updates."""
    batch: int = 64
    """Rows in an update."""
    learning_rate: float = 3e-3
    """Of AdamW, after 100 steps of warming up; falls to 0 along a cosine."""
    weight_decay: float = 0.1
    """Of AdamW."""
    seed: int = 0
    """Of the weights and the rows; the rows that are scored come from the next one."""
    held_out: int = 100
    """Rows on which the model is scored."""
    out: Path = RECORDS
    """Folder to write."""


S = TypeVar("S", bound=Settings)


def begin(kind: type[S], argv: Sequence[str] | None, text: str | None) -> tuple[S, list[str]]:
    """Return the settings of the command line and its words; from here on one thread computes."""
    flags = list(sys.argv[1:] if argv is None else argv)
    config = tyro.cli(kind, args=flags, description=text)
    torch.set_num_threads(1)
    return config, flags


def run(
    kind: type[S],
    argv: Sequence[str] | None,
    text: str | None,
    *,
    train: Callable[[S, Console], Any],
    report: Callable[[Any, S], Mapping[str, object]],
    save: Callable[..., None],
) -> None:
    """Train, score, write and tell: the command of a recipe of one model."""
    config, flags = begin(kind, argv, text)
    console = Console()
    begun = time.process_time()
    model = train(config, console)
    seconds = time.process_time() - begun
    notes = report(model, config)
    save(model, config, notes, seconds=seconds, flags=flags)
    console.print_json(data=notes)
    console.print(f"{seconds:.0f} CPU seconds of training: {config.out}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block PyTorch draws from `seed`; after it, as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def gpt2_config(**sizes: Any) -> GPT2Config:
    """Return the configuration of a GPT-2 without dropout.

    >>> gpt2_config(n_embd=8, n_head=2).attn_pdrop
    0.0
    """
    made = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    made.architectures = ["GPT2LMHeadModel"]
    return made


def warm_cosine(step: int, steps: int) -> float:
    """Return the share of the learning rate: up in 100 steps, then down to 0 along a cosine.

    >>> [round(warm_cosine(step, 1000), 3) for step in (0, 99, 500, 1000)]
    [0.01, 0.976, 0.5, 0.0]
    """
    return min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2


def descend(
    model: PreTrainedModel,
    loss_at: Callable[[int], Tensor],
    config: Settings,
    *,
    steps: int,
    rate: Callable[[int, int], float] = warm_cosine,
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """Update the model in place `steps` times by AdamW, with gradients of norm 1 at most.

    `loss_at(step)` computes the loss, a scalar, from the model as it is then; `rate(step, steps)`
    is the share of the learning rate.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=betas
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps))
    for step in range(steps):
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def save(
    model: PreTrainedModel,
    config: Settings,
    notes: Mapping[str, object],
    *,
    experiment: str,
    data: Mapping[str, str],
    code: Sequence[str],
    seconds: float,
    steps: int,
    flags: Sequence[str] = (),
    files: Sequence[str] = FILES,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write weights and configuration to `config.out`, and last the manifest.

    `code` are the recipe's source files, to whose hash this one belongs too; `files` are those
    whose hash the manifest names, some of which the recipe may have written before; `more` are
    settings beside those of `config`.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    skip = {TIED} if model.config.tie_word_embeddings else set()
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k not in skip}
    save_file(weights, config.out / FILES[0], metadata={"format": "pt"})
    model.config.save_pretrained(config.out)
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    made = manifest.collect(
        experiment=experiment,
        settings={**settings, **(more or {})},
        model={f"sha256 {name}": manifest.file_hash(config.out / name) for name in files},
        data=dict(data),
        seeds=[config.seed],
        device="cpu",
        code=manifest.source_hash([*code, __file__]),
        command=["python", "-m", f"experiments.{experiment}", *flags],
    )
    made.spent.update(seconds=round(seconds, 1), steps=steps)
    made.notes.update(notes)
    manifest.write_manifest(config.out / "manifest.json", made)


def check(folder: Path, experiment: str) -> None:
    """Refuse a folder whose files are not those of its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    made = manifest.read_manifest(folder / "manifest.json")
    for name in FILES:
        if not (folder / name).is_file():
            raise StoreError(
                f"{folder} lacks {name}: restore it, or train again (see experiments.{experiment})."
            )
        if manifest.file_hash(folder / name) != made.model.get(f"sha256 {name}"):
            raise StoreError(
                f"{folder / name} has not the hash in its manifest, so it is another file: "
                "restore it, or train again."
            )


def load_gpt2(folder: Path, experiment: str) -> GPT2LMHeadModel:
    """Return a trained GPT-2 on the CPU, in eval mode, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    check(folder, experiment)
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(folder))
    weights = load_file(folder / FILES[0])
    if model.config.tie_word_embeddings:
        model.tie_weights()
        weights[TIED] = weights["transformer.wte.weight"]
    model.load_state_dict(weights)
    return model.eval()
