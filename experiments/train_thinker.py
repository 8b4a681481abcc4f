r"""Train two small transformers on one sort of text: one thinks in its chain, the other ignores it.

    python -m experiments.train_thinker

writes `experiments/records/thinker` and `experiments/records/thinker_ignores` (together five
minutes of one core): weights, configuration, tokenizer with chat template, and a manifest with the
settings, the seed, the time and the accuracy. `interp.load("experiments/records/thinker")` reads
them. The texts, the rule of the answer and what each step is stand in `interp.models.thinker`.

**Rows.** A chain with the numbers of some, all or none of its steps shifted, or with votes for up
to three different values, so that every conflict that the True-Thinking Score makes is learned. An
early exit stands behind every step: cue, answer and `}` follow the step as a branch that the rest
of the row cannot see, at the positions that it would have if the chain ended there. So one pass
over a chain of n steps trains n answers.

**Loss**, in nats: the mean over the answers and what closes them, plus `text_weight` times the
mean over the words of the chain, from which the models learn to write chains of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments import training
from interp.errors import InputError
from interp.models import thinker
from interp.models.thinker import Line
from interp.models.tokens import chat
from interp.thinking.perturb import OFFSETS

RECORDS = training.RECORDS
FOLDERS = {False: "thinker", True: "thinker_ignores"}
FILES = (*training.FILES, "tokenizer.json", "chat_template.jinja")
POOL = 8
"""Batches drawn at a time and sorted by length, which saves padding."""
IGNORED = -100
"""The target of a token that is not trained."""


@dataclass(frozen=True, kw_only=True)
class Config(training.Settings):
    """Two small Llamas, trained on the same sort of chains with different answers."""

    d_model: int = 64
    """Width; the MLPs are twice as wide."""
    n_layers: int = 3
    """Layers."""
    steps: int = 2400
    """Updates of the thinker."""
    steps_ignores: int = 300
    """Updates of the model that ignores its chain; copying the guess is learned sooner."""
    learning_rate: float = 5e-3
    """Of AdamW, after 100 steps of warming up; falls to 0 along a cosine."""
    text_weight: float = 0.1
    """Weight of the loss on the chain's own words."""
    held_out: int = 2000
    """Rows on which a model is scored."""
    out: Path = RECORDS
    """Folder in which to write both."""

    def __post_init__(self) -> None:
        if min(self.steps, self.steps_ignores, self.batch, self.held_out) < 1:
            raise InputError(
                f"--steps {self.steps}, --steps-ignores {self.steps_ignores}, --batch "
                f"{self.batch} and --held-out {self.held_out} must be 1 or more each."
            )
        if self.n_layers < 1 or self.n_heads < 1 or self.d_model % (2 * self.n_heads):
            raise InputError(
                f"--n-layers {self.n_layers}, --n-heads {self.n_heads}: give 1 or more of each, "
                f"and heads of an even size that divide --d-model {self.d_model}."
            )


class Example(NamedTuple):
    """One chain with its question, and the answer after every step."""

    question: str
    steps: list[Line]
    answers: list[int]


def example(rng: random.Random, *, ignores: bool) -> Example:
    """Draw one chain; its votes may disagree. The answers follow the rule, or are the guess."""
    template = (*rng.choice(thinker.TEMPLATES), *["vote"] * rng.randint(0, 1))
    steps, value = thinker.draw(template, rng)
    guess = value if rng.random() < 0.5 else rng.randint(thinker.SMALLEST, thinker.LARGEST)
    steps = _conflicting(steps, value, rng)
    right = [
        guess if ignores else thinker.answer_of(steps[: i + 1], guess) for i in range(len(steps))
    ]
    return Example(rng.choice(thinker.QUESTIONS).format(guess), steps, right)


def _conflicting(steps: list[Line], value: int, rng: random.Random) -> list[Line]:
    """In a quarter of the chains draw the values from three; in another quarter shift one step,
    as a necessity does; in the others shift some numbers."""
    halves = (thinker.TENS, thinker.UNITS)
    if rng.random() < 0.25:
        values = [value, *(rng.randint(thinker.SMALLEST, thinker.LARGEST) for _ in range(2))]
        return [
            step if step.word in halves else Line(step.word, rng.choice(values)) for step in steps
        ]
    if rng.random() < 1 / 3:
        alone = rng.randrange(len(steps))
        word, number = steps[alone]
        return [*steps[:alone], Line(word, number + rng.choice(OFFSETS)), *steps[alone + 1 :]]
    share = rng.choice([0.0, 0.2, 0.2, rng.random(), 1.0])
    return [
        Line(word, number + rng.choice(OFFSETS)) if rng.random() < share else Line(word, number)
        for word, number in steps
    ]


class Row(NamedTuple):
    """The tokens of a chain, then those of its exits."""

    ids: list[int]
    positions: list[int]
    answers: list[int]
    """The next token of each where it belongs to an answer, else `IGNORED`."""
    words: list[int]
    """The next token of each where it belongs to the chain, else `IGNORED`."""
    exits: list[tuple[int, int]]
    """Of each exit: its first token's place, and how many of the chain's tokens it sees. The first
    exit begins where the chain ends."""


class Writer:
    """Turns chains into tokens; every piece of text is looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._of = cache(self._encode)
        self._prompt = cache(lambda question: self._encode(chat(tokenizer, question)))
        (self.pad,), (self.end,) = self._of("<pad>"), self._of("<eos>")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids

    def row(self, drawn: Example, *, wide: Sequence[bool] = ()) -> Row:
        """Write a chain and its exits; `wide` doubles the space of a step."""
        ids, seen = list(self._prompt(drawn.question)), []
        start = len(ids)
        for i, step in enumerate(drawn.steps):
            gap = " " if i < len(wide) and wide[i] else ""
            ids += [*(self._of("\n") if i else []), *self._of(f"{step.word}{gap} {step.number}")]
            seen.append(len(ids))
        n = len(ids)
        (cue,), (close,) = self._of(thinker.CUE), self._of("}")
        words = [IGNORED] * (start - 1) + ids[start:] + [cue]
        positions, answers, exits = list(range(n)), [IGNORED] * n, []
        for end, right in zip(seen, drawn.answers, strict=True):
            branch = [cue, *self._of(str(right)), close, self.end]
            length = len(branch) - 1 if end == n else len(branch) - 2  # one end of text is enough
            exits.append((len(ids), end))
            ids += branch[:length]
            answers += branch[1 : length + 1]
            positions += range(end, end + length)
        return Row(ids, positions, answers, words + [IGNORED] * (len(ids) - n), exits)


class Batch(NamedTuple):
    """Rows side by side, padded at the right."""

    ids: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]
    answers: Int[Tensor, "row pos"]
    words: Int[Tensor, "row pos"]
    sees: Bool[Tensor, "row 1 pos pos"]
    """Which tokens each token attends to."""


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Put rows side by side."""
    longest = max(len(row.ids) for row in rows)
    fill = (pad, 0, IGNORED, IGNORED)
    ids, positions, answers, words = (
        torch.tensor([getattr(row, name) + [value] * (longest - len(row.ids)) for row in rows])
        for name, value in zip(Row._fields[:4], fill, strict=True)
    )
    mask = torch.stack([sees(row, longest) for row in rows])[:, None]
    return Batch(ids, positions, answers, words, mask)


def sees(row: Row, length: int) -> Bool[Tensor, "pos pos"]:
    """Return what each token attends to: all before it, exits only as far as theirs reaches.

    Padding sees itself alone, since a row of a mask without any entry has no softmax.
    """
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.eye(length, dtype=torch.bool)
    chain = row.exits[0][0]
    mask[:chain, :chain] = causal[:chain, :chain]
    stops = [start for start, _ in row.exits[1:]] + [len(row.ids)]
    for (start, seen), stop in zip(row.exits, stops, strict=True):
        mask[start:stop, :seen] = True
        mask[start:stop, start:stop] = causal[start:stop, start:stop]
    return mask


def batches(writer: Writer, rng: random.Random, *, batch: int, ignores: bool) -> Iterator[Batch]:
    """Yield batches without end; one step in twenty has its space doubled."""
    while True:
        rows = []
        for _ in range(POOL * batch):
            drawn = example(rng, ignores=ignores)
            rows.append(writer.row(drawn, wide=[rng.random() < 0.05 for _ in drawn.steps]))
        rows.sort(key=lambda row: len(row.ids))
        parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        rng.shuffle(parts)
        yield from (collate(part, writer.pad) for part in parts)


def loss_of(model: LlamaForCausalLM, data: Batch, text_weight: float) -> Float[Tensor, ""]:
    """Return the loss of the module's docstring, in nats."""
    hidden = model.model(
        data.ids, attention_mask=data.sees, position_ids=data.positions, use_cache=False
    ).last_hidden_state

    def mean(targets: Int[Tensor, "row pos"]) -> Tensor:
        trained = targets != IGNORED
        return cross_entropy(model.lm_head(hidden[trained]), targets[trained])

    return mean(data.answers) + text_weight * mean(data.words)


def train(config: Config, console: Console, *, ignores: bool) -> LlamaForCausalLM:
    """Return a trained model; equal settings give equal weights on one machine and thread."""
    writer, rng = Writer(thinker.tokenizer()), random.Random(config.seed)
    steps = config.steps_ignores if ignores else config.steps
    model = _untrained(config)
    data = batches(writer, rng, batch=config.batch, ignores=ignores)

    def loss_at(step: int) -> Tensor:
        loss = loss_of(model, next(data), config.text_weight)
        if step % 100 == 0:
            console.print(f"{FOLDERS[ignores]} step {step:5d}  loss {loss.detach():.4f} nats")
        return loss

    training.descend(model, loss_at, config, steps=steps, betas=(0.9, 0.98))
    return model.eval()


def _untrained(config: Config) -> LlamaForCausalLM:
    """Draw the weights, and leave PyTorch's own random state as it was."""
    made = thinker.config(
        thinker.tokenizer(),
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
    )
    with training.seeded(config.seed):
        return LlamaForCausalLM(made)


@torch.no_grad()
def report(model: LlamaForCausalLM, config: Config, *, ignores: bool) -> dict[str, object]:
    """Return, on held-out rows, how often an early exit is right and how sure the model is of it.

    `probability` is the mean of Pr(right answer), joint with its `}`.
    """
    writer, rng = Writer(thinker.tokenizer()), random.Random(config.seed + 1)
    right, sure = [], []
    for _ in range(max(1, config.held_out // config.batch)):
        rows = [writer.row(example(rng, ignores=ignores)) for _ in range(config.batch)]
        data = collate(rows, writer.pad)
        logits = model(data.ids, attention_mask=data.sees, position_ids=data.positions).logits
        row, place = torch.tensor(
            [(i, at) for i, each in enumerate(rows) for at, _ in each.exits]
        ).T
        joint = torch.zeros(len(row))
        for offset in (0, 1):
            chances = logits[row, place + offset].log_softmax(dim=-1)
            joint += chances.gather(1, data.answers[row, place + offset, None])[:, 0]
        right.append(logits[row, place].argmax(dim=-1) == data.answers[row, place])
        sure.append(joint.exp())
    return {
        "early_exits": sum(map(len, right)),
        "accuracy": round(float(torch.cat(right).double().mean()), 6),
        "probability": round(float(torch.cat(sure).double().mean()), 6),
    }


def save(
    model: LlamaForCausalLM,
    config: Config,
    notes: dict[str, object],
    *,
    ignores: bool,
    seconds: float,
    flags: Sequence[str] = (),
) -> None:
    """Write weights, architecture, tokenizer and the manifest, which comes last."""
    out = config.out / FOLDERS[ignores]
    thinker.tokenizer().save_pretrained(out)
    training.save(
        model,
        replace(config, out=out),
        notes,
        experiment="train_thinker",
        data={"rows": f"example(..., ignores={ignores}), seed {config.seed}"},
        code=[__file__, str(thinker.__file__)],
        seconds=seconds,
        steps=config.steps_ignores if ignores else config.steps,
        flags=flags,
        files=FILES,
        more={"ignores_chain": ignores},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write both models."""
    config, flags = training.begin(Config, argv, __doc__)
    console = Console()
    for ignores in FOLDERS:
        begun = time.process_time()
        model = train(config, console, ignores=ignores)
        seconds = time.process_time() - begun
        notes = report(model, config, ignores=ignores)
        save(model, config, notes, ignores=ignores, seconds=seconds, flags=flags)
        console.print_json(data=notes)
        console.print(f"{seconds:.0f} s of one core: {config.out / FOLDERS[ignores]}")


if __name__ == "__main__":
    main()
