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

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from statistics import fmean

import torch
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, StoreError
from interp.models import dfs
from interp.models.tiny import special_ids
from interp.results import manifest

RECORDS = Path(__file__).parent / "records" / "dfs"
FILES = ("model.safetensors", "config.json")
IGNORED = -100
"""The label of a token that is not learned: the prompt, whose edges nobody can guess."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A GPT-2 trained on traces of the oracle."""

    d_model: int = 64
    """Width; the MLPs are twice as wide."""
    n_layers: int = 2
    """Layers."""
    n_heads: int = 4
    """Heads in each layer."""
    steps: int = 1000
    """Updates."""
    batch: int = 64
    """Traces in an update, each of a problem of its own."""
    learning_rate: float = 3e-3
    """Of AdamW, after 100 steps of warming up; falls to 0 along a cosine."""
    weight_decay: float = 0.1
    """Of AdamW."""
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = GPT2LMHeadModel(_architecture(config)).train()  # all its dropout is 0
        ids = dfs.tokenizer().get_vocab()
        _spell_edges(model, ids)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config.steps))
    for step in range(config.steps):
        tokens, labels = batch_of(traces(config.batch, seed=_seed(config.seed, step)), ids)
        loss = trace_loss(model, tokens, labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            console.print(f"step {step:5d}  {float(loss.detach()):.4f} nats a token of the trace")
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


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: up in 100 steps, then down to 0 along a cosine."""
    return min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2


def _architecture(config: Config) -> GPT2Config:
    made = GPT2Config(
        **special_ids(dfs.tokenizer()),
        n_embd=config.d_model,
        n_inner=2 * config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_positions=dfs.N_CTX,
        initializer_range=0.1,  # the usual 0.02 is for wide models; a narrow one starts too flat
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    made.architectures = ["GPT2LMHeadModel"]
    return made


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
    config.out.mkdir(parents=True, exist_ok=True)
    tied = {"lm_head.weight"}  # the embedding, said once
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(weights, config.out / FILES[0], metadata={"format": "pt"})
    model.config.save_pretrained(config.out)
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    made = manifest.collect(
        experiment="train_dfs",
        settings=settings,
        model={f"sha256 {name}": manifest.file_hash(config.out / name) for name in FILES},
        data={"traces": f"traces(batch, seed=1000000 * {config.seed} + step)"},
        seeds=[config.seed],
        device="cpu",
        code=manifest.source_hash([__file__, str(dfs.__file__)]),
        command=["python", "-m", "experiments.train_dfs", *flags],
    )
    made.spent.update(seconds=round(seconds, 1), steps=config.steps)
    made.notes.update(notes)
    manifest.write_manifest(config.out / "manifest.json", made)


def load_trained(folder: Path = RECORDS) -> Model:
    """Return the trained model with its tokenizer, after checking it against its manifest.

    Raises:
        StoreError: a file is missing, or is not the one that the manifest names.
    """
    made = manifest.read_manifest(folder / "manifest.json")
    for name in FILES:
        if not (folder / name).is_file():
            raise StoreError(f"{folder} lacks {name}: restore it, or train again (see {__name__}).")
        if manifest.file_hash(folder / name) != made.model.get(f"sha256 {name}"):
            raise StoreError(
                f"{folder / name} has not the hash in its manifest, so it is another file: "
                "restore it, or train again."
            )
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(folder))
    model.load_state_dict(load_file(folder / FILES[0]), strict=False)
    model.tie_weights()
    return load(model.eval(), tokenizer=dfs.tokenizer())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    flags = sys.argv[1:] if argv is None else argv
    console, config = Console(), tyro.cli(Config, args=flags, description=__doc__)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    model = train(config, console)
    seconds = time.perf_counter() - begun
    notes = report(load(model, tokenizer=dfs.tokenizer()), config)
    save(model, config, notes, seconds=seconds, flags=list(flags))
    console.print_json(data=notes)
    console.print(f"{seconds:.0f} s of training: {config.out}")


if __name__ == "__main__":
    main()
