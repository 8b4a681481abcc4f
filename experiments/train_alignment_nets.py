"""Train the classifiers on which alignment is studied: ten of each kind, from the seeds of a paper.

    python -m experiments.train_alignment_nets

writes `experiments/records/alignment_nets/KIND` for each kind: `nets.safetensors` with all nets
stacked on the first axis, in the order of the seeds, and `manifest.json` with the settings, the
hash of the weights, and each net's scores. `load_trained(kind, seed)` reads one net back.

    equality, distributive               trained on the task
    planted_and_or_and, planted_and_or   trained by interchange interventions at layer 2, so that
                                         neurons 0-11 hold the algorithm's first variable and
                                         neurons 12-23 its second: a known answer

**Scores.** `test_accuracy` is on held-out inputs, `untrained_accuracy` that of the same net before
training. Planted nets also have `iia`, interchange-intervention accuracy of the identity map at the
planted neurons on held-out pairs; `iia_sensitive`, on those whose answer the intervention changes;
`mixture_accuracy`, on held-out pairs in the mixture of training; and `iia_untrained`.

`progression` trains a net in chunks, and returns it as it was after some of them; not stored.

Sizes, seeds, data, rates and patience: Sutter et al. 2025, arXiv:2507.08802, and their code. How a
net is trained decides what is found in it: after as many updates at a higher, falling rate a
rotation aligns and-or-and with layer 1 far better than published, and planted nets that are trained
past their patience tell the two algorithms farther apart. That `planted_gain` is the gain of the
published fits is a reading, chosen after networks trained without it fell below published
ranges.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments import training
from experiments.parts import require_folder
from interp.alignment import fitting, interchange_training, maps, subjects
from interp.alignment.interchange_training import Recipe, Trained, learn, mixture, plant
from interp.data import alignment_tasks, counterfactuals, distributive, equality
from interp.data.alignment_tasks import task_named
from interp.data.counterfactuals import Table
from interp.errors import InputError
from interp.models import classifiers
from interp.models.classifiers import KINDS, NETS, SEEDS, load, shape_of, site, stacked, untrained
from interp.results import manifest

RECORDS = training.RECORDS / "alignment_nets"
LAYER = 2
"""Where variables are planted."""
TASKS: Mapping[str, tuple[str, str]] = {
    "equality": ("equality", "both_equality"),
    "distributive": ("distributive", "and_or_and"),
    "planted_and_or_and": ("distributive", "and_or_and"),
    "planted_and_or": ("distributive", "and_or"),
}
"""Of each kind, the task and the algorithm whose table is read; all of a task label alike."""
DATA_SEED = 0
LOOK, PLANTED_LOOK = 128, 200
"""Updates between looks at the validation loss; of planted nets an epoch."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nets of some kinds, all seeds of a kind trained side by side."""

    kinds: tuple[str, ...] = tuple(KINDS)
    """Which nets to train."""
    seeds: tuple[int, ...] = SEEDS
    """Of the weights, and of the order of a net's data: one net each."""
    steps: int = 20_480
    """Updates at most of nets that learn a task: 20 epochs."""
    batch: int = 1024
    """Rows of one net in such an update."""
    learning_rate: float = 1e-3
    """Of Adam, for every net; constant."""
    patience: int = 1024
    """Updates without a lower validation loss after which such a net is done: an epoch."""
    inputs: int = 1_048_576
    """Distinct training inputs of these nets."""
    planted_steps: int = 10_000
    """Updates at most of planted nets: 50 epochs."""
    planted_batch: int = 6400
    """Pairs of one net in such an update."""
    planted_patience: int = 1000
    """Updates without a gain after which such a net is done: five epochs."""
    planted_gain: float = 5e-4
    """Nats by which their validation loss must fall for a gain."""
    pairs: int = 1_280_000
    """Training pairs of planted nets, two fifths of which interchange nothing."""
    pair_inputs: int = 262_144
    """Distinct training inputs in those pairs."""
    held_out: int = 10_000
    """Validation inputs or pairs, and as many for the test."""
    out: Path = RECORDS
    """Folder to write; each kind has one of its own in it."""

    def __post_init__(self) -> None:
        numbers = ("steps", "batch", "patience", "inputs", "held_out")
        for name in (*numbers, *(f"planted_{each}" for each in numbers[:3]), "pairs"):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} {getattr(self, name)}: give 1 or more.")
        for name in ("learning_rate", "planted_gain"):
            if not 0 < getattr(self, name) < float("inf"):
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} {getattr(self, name)}: give a number above 0.")
        for kind in self.kinds:
            shape_of(kind)
        twice = any(len(set(each)) < len(each) for each in (self.kinds, self.seeds))
        if not self.kinds or not self.seeds or twice:
            raise InputError(
                f"--kinds {' '.join(self.kinds)} --seeds {' '.join(map(str, self.seeds))}: give at "
                "least one of each, and none twice."
            )
        if min(self.held_out, self.pair_inputs) < 64:
            raise InputError(
                f"--held-out {self.held_out}, --pair-inputs {self.pair_inputs}: give 64 or more of "
                "each, so that every variable varies."
            )
        if self.inputs < self.batch or self.pairs < self.planted_batch:
            raise InputError(
                f"--inputs {self.inputs} and --pairs {self.pairs} must fill a batch, of "
                f"{self.batch} and {self.planted_batch}: draw more, or lower the batch."
            )
        for kind in self.kinds:
            self.recipe(kind)
            require_folder("--out", self.out / kind, "train_alignment_nets")

    def recipe(self, kind: str) -> Recipe:
        """Return how nets of a kind are trained."""
        own = (self.steps, self.batch, self.patience, 0.0)
        planted = (self.planted_steps, self.planted_batch, self.planted_patience, self.planted_gain)
        steps, batch, patience, gain = planted if is_planted(kind) else own
        look = PLANTED_LOOK if is_planted(kind) else LOOK
        return Recipe(
            steps=steps,
            batch=batch,
            learning_rate=self.learning_rate,
            decay=False,
            check_every=look,
            patience=-(-patience // look),
            min_gain=gain,
        )


def is_planted(kind: str) -> bool:
    """Whether a kind is trained by interchange interventions.

    >>> [is_planted(kind) for kind in ("equality", "planted_and_or")]
    [False, True]
    """
    return kind.startswith("planted_")


def table(kind: str, n: int, split: str) -> Table:
    """Return inputs of a kind's task, with its algorithm; the splits share none."""
    task, algorithm = TASKS[kind]
    return task_named(task).table(algorithm, n, DATA_SEED, split=split)


def planted_blocks(kind: str) -> dict[str, tuple[int, ...]]:
    """Return the neurons of layer 2 that hold each variable of a planted kind."""
    variables = table(kind, 64, "train").variables
    return maps.consecutive_blocks(variables, shape_of(kind).hidden // len(variables))


def labelled(data: Table) -> tuple[Float[Tensor, "input width"], Int[Tensor, " input"]]:
    """Return inputs and what the task answers on them."""
    return data.inputs, data.values[data.algorithm.output].long()


def train(kind: str, config: Config) -> tuple[Trained, ...]:
    """Return one net a seed; equal settings give equal weights on one machine and thread."""
    nets = [untrained(kind, seed) for seed in config.seeds]
    held_out = table(kind, config.held_out, "validation")
    if not is_planted(kind):
        data = labelled(table(kind, config.inputs, "train"))
        return learn(nets, config.seeds, data, labelled(held_out), config.recipe(kind))
    return plant(
        nets,
        config.seeds,
        table(kind, config.pair_inputs, "train"),
        held_out,
        layer=LAYER,
        blocks=planted_blocks(kind),
        recipe=config.recipe(kind),
        n_pairs=config.pairs,
        n_held_out=config.held_out,
    )


# ---------------------------------------------------------------- scores


@torch.no_grad()
def accuracy(net: nn.Module, data: Table) -> float:
    """Return the share of inputs that a net answers as the task does."""
    inputs, labels = labelled(data)
    return float((net(inputs).argmax(1) == labels).double().mean())


def scores(kind: str, net: nn.Sequential, seed: int, n: int) -> dict[str, float]:
    """Return what the manifest says of one net, on `n` held-out inputs and pairs."""
    test, before = table(kind, n, "test"), untrained(kind, seed)
    found = {
        "test_accuracy": accuracy(net, test),
        "untrained_accuracy": accuracy(before, test),
    }
    if is_planted(kind):
        found |= planted_scores(net, before, test, planted_blocks(kind), n)
    return {name: round(value, 6) for name, value in found.items()}


def planted_scores(
    net: nn.Sequential,
    before: nn.Sequential,
    test: Table,
    blocks: Mapping[str, tuple[int, ...]],
    n: int,
) -> dict[str, float]:
    """Return how well planted neurons hold their variables, with no map but the identity."""
    cut = subjects.LayerSubject(net, site(LAYER)).cut(test.inputs)
    phi = maps.Identity(cut.d, blocks)
    pairs = test.pairs(n, DATA_SEED)
    swapped = fitting.score(cut, phi, pairs)
    twin = subjects.LayerSubject(before, site(LAYER)).cut(test.inputs)
    return {
        "mixture_accuracy": fitting.score(cut, phi, mixture(test, n, DATA_SEED)).iia,
        "iia": swapped.iia,
        "iia_sensitive": swapped.iia_of(pairs.sensitive) or 0.0,
        "iia_untrained": fitting.score(twin, phi, pairs).iia,
    }


# ---------------------------------------------------------------- while they learn


def progression(
    kind: str,
    seeds: Sequence[int],
    *,
    at: Sequence[int] = (0, 1, 4, 8, 16),
    chunk: int = 131_072,
    batch: int = 1024,
    inputs: int = 1_048_576,
) -> dict[int, dict[int, nn.Sequential]]:
    """Return nets of a task as they are after so many chunks of training samples, by seed.

    A chunk is read once, at a constant rate of 1e-3, by an Adam that starts anew; after the last
    of the inputs the first chunk comes again, so 16 chunks are two epochs. Nets are kept as they
    are at the end of a chunk, not at their best.

    Raises:
        InputError: a planted kind, or a number of chunks below 0.
    """
    if is_planted(kind) or min(at) < 0:
        raise InputError(
            f"progression of {kind!r} at {list(at)}: give a kind that learns a task, and 0 chunks "
            "or more."
        )
    steps, n = chunk // batch, max(inputs, chunk)
    recipe = Recipe(
        steps=steps, batch=batch, learning_rate=1e-3, decay=False, check_every=steps, patience=1
    )
    nets = [untrained(kind, seed) for seed in seeds]
    found = {0: dict(zip(seeds, nets, strict=True))}
    samples, labels = labelled(table(kind, max(n, 64), "train"))
    for number in range(1, max(at) + 1):
        first = (number - 1) * chunk % n
        rows = slice(first, first + chunk)
        data, orders = (samples[rows], labels[rows]), [seed * 1009 + number for seed in seeds]
        held = (data[0][:1024], data[1][:1024])  # one look, at the end of the chunk
        nets = [done.net for done in learn(nets, orders, data, held, recipe)]
        found[number] = dict(zip(seeds, nets, strict=True))
    return {number: found[number] for number in at}


# ---------------------------------------------------------------- records


def save(
    kind: str,
    trained: Sequence[Trained],
    config: Config,
    *,
    seconds: float,
    flags: Sequence[str] = (),
) -> dict[str, object]:
    """Write the stacked weights of a kind and, last, its manifest; return what it notes."""
    folder = config.out / kind
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.contiguous() for name, value in stacked([t.net for t in trained]).items()
    }
    save_file(weights, folder / NETS, metadata={"format": "pt"})
    made = manifest.collect(
        experiment="train_alignment_nets",
        settings=settings(kind, config),
        model={
            "kind": kind,
            "shape": asdict(shape_of(kind)),
            f"sha256 {NETS}": manifest.file_hash(folder / NETS),
        },
        data={"task": TASKS[kind][0], "algorithm": TASKS[kind][1], "seed": DATA_SEED},
        seeds=config.seeds,
        device="cpu",
        code=manifest.source_hash(SOURCES),
        command=["python", "-m", "experiments.train_alignment_nets", *flags],
    )
    made.spent.update(cpu_seconds=round(seconds, 1), updates=trained[0].validation[-1][0])
    made.notes["nets"] = [
        {"seed": seed, "steps": done.step, **scores(kind, done.net, seed, config.held_out)}
        for seed, done in zip(config.seeds, trained, strict=True)
    ]
    if is_planted(kind):
        made.notes["planted"] = {"site": site(LAYER), "blocks": planted_blocks(kind)}
    manifest.write_manifest(folder / classifiers.MANIFEST, made)
    return made.notes


def settings(kind: str, config: Config) -> dict[str, Any]:
    """Return what decides the nets of one kind."""
    own = ("pairs", "pair_inputs") if is_planted(kind) else ("inputs",)
    shared = {"held_out": config.held_out, **{name: getattr(config, name) for name in own}}
    return {**asdict(config.recipe(kind)), **shared}


SOURCES = (
    __file__,
    classifiers.__file__,
    interchange_training.__file__,
    alignment_tasks.__file__,
    counterfactuals.__file__,
    equality.__file__,
    distributive.__file__,
)
"""The files that decide the nets."""


def load_trained(kind: str, seed: int, *, folder: Path = RECORDS) -> nn.Sequential:
    """Return one of the recorded nets, in eval mode, after checking it against its manifest.

    Raises:
        InputError: no such kind or seed.
        StoreError: the file is missing, or is not the one that the manifest names.
    """
    shape_of(kind)
    return load(folder / kind, seed, kind=kind)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write each kind."""
    flags = list(sys.argv[1:] if argv is None else argv)
    try:
        config = tyro.cli(Config, args=flags, description=__doc__)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    torch.set_num_threads(1)
    console = Console()
    for kind in config.kinds:
        begun = time.process_time()
        trained = train(kind, config)
        seconds = time.process_time() - begun
        notes = save(kind, trained, config, seconds=seconds, flags=flags)
        console.print_json(data=notes)
        console.print(f"{kind}: {seconds:.0f} s of CPU: {config.out / kind}")


if __name__ == "__main__":
    main()
