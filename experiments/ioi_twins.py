"""A deep map finds a boolean in networks that were never trained, and unseen names give it away.

    python -m experiments.ioi_twins                          # about twenty minutes of one core

writes `experiments/records/ioi_twins`: `rows.jsonl`, a row for each network and map, and
`manifest.json`. Maps are fitted at the last token, behind the last block, of the small GPT-2 of
`experiments/records/ioi` and of random twins of it, for the algorithm `pattern` (one boolean: which
of two names comes twice). Sentences are those of one frame and of 12 names; test sentences have the
same names, those of the split "unseen names" have others.

Maps are guided (`interp.alignment.guided`): while they are fitted, read-outs say that the block
holds the pattern and the rest the two names. Without that the loss stays flat: Sutter et al. 2025
(arXiv:2507.08802) tell the same of their smallest model, and fit for longer than can be had here.
Two controls stand beside them: the same fit unguided; and one that is guided by a pattern dealt
anew to the sentences, with answers shuffled among pairs (10,000, which a map may learn by heart).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table as Laid
from torch import Tensor

from experiments import train_ioi, training
from experiments.parts import require_folder
from experiments.study import write_rows
from interp.alignment import families, guided
from interp.alignment.baselines import interval
from interp.alignment.fitting import Budget, Feed, fit, fixed, fresh, score
from interp.alignment.guided import Guided
from interp.alignment.language import LanguageSubject, score_among
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs, Table
from interp.data.ioi import IOI
from interp.engine.model import Model
from interp.errors import InputError, InterpError
from interp.jobs.tts import set_threads
from interp.results import manifest

RECORDS = training.RECORDS / "ioi_twins"
ALGORITHM, NAMES = "pattern", ("first", "second")
SEEDS = {"train": 1, "validation": 2, "test": 3, "unseen names": 4}
GIB = 6.0
LIMITED, DEALT = 10_000, 5
"""Pairs with shuffled answers, and the seed of the shuffle."""
Condition = Literal["guided", "unguided", "shuffled"]
SHOWN = ("network", "seed", "map", "fit", "train_iia", "restricted_iia", "unseen_restricted_iia")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fit maps to a trained network and to random twins, in a small world of sentences."""

    maps: tuple[str, ...] = ("orthogonal", "revnet-8x128")
    """Families of maps."""
    controls: bool = True
    """Also fit the last of the maps unguided, and to shuffled labels."""
    twins: int = 5
    """Random networks of the same configuration."""
    site: str = "3.resid_post"
    """Behind which block; the last token."""
    size: int = 32
    """Coordinates of the boolean."""
    frames: int = 1
    """Frames of the sentences, of 15."""
    people: int = 12
    """Names of the sentences that maps are fitted on, of 60."""
    sentences: int = 30_000
    """Sentences to fit on."""
    held_out: int = 2000
    """Sentences, and pairs of them, of each other split."""
    told: int = 1000
    """Updates on read-outs alone, at the start."""
    updates: int = 1500
    """Updates on interventions and read-outs."""
    batch: int = 512
    learning_rate: float = 2e-3
    threads: int = 1
    """Threads for arithmetic."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in self.maps:
            families.parsed(name)  # an unknown one is refused before any is fitted
        if not self.maps:
            raise InputError("--maps: name at least one family.")
        numbers = ("twins", "size", "sentences", "held_out", "told", "updates", "batch")
        for name in numbers:
            if getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more."
                )
        require_folder("--out", self.out, "ioi_twins")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"--learning-rate {self.learning_rate}: give a number above 0.")

    @property
    def budget(self) -> Budget:
        """What is spent on interventions."""
        return Budget(
            steps=self.updates,
            batch=self.batch,
            learning_rate=self.learning_rate,
            check_every=min(100, self.updates),
            patience=self.updates,
            inputs=self.sentences,
            held_out=self.held_out,
        )


@dataclass(frozen=True, eq=False)
class World:
    """The sentences of each split, and one network cut on them."""

    task: IOI
    tables: dict[str, Table]
    cuts: dict[str, Cut]


def rows(config: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Yield one row for each network and fit."""
    networks: list[tuple[Literal["trained", "twin"], int, Model]] = [
        ("trained", 0, train_ioi.load_trained()),
        *(("twin", seed, train_ioi.twin(seed)) for seed in range(1, config.twins + 1)),
    ]
    for network, seed, model in networks:
        world = prepared(config, model)
        for name, condition in fits(config):
            found = {"network": network, "seed": seed, **row(config, world, name, condition)}
            console.print({key: found[key] for key in SHOWN})
            yield found


def fits(config: Config) -> list[tuple[str, Condition]]:
    """Return each map and how it is fitted."""
    guided: list[tuple[str, Condition]] = [(name, "guided") for name in config.maps]
    last = config.maps[-1]
    return [*guided, (last, "unguided"), (last, "shuffled")] if config.controls else guided


def prepared(config: Config, model: Model) -> World:
    """Draw the sentences of each split and run the network on them once."""
    task = IOI(model.tokenizer, answers="names", frames=config.frames, people=config.people)
    subject = LanguageSubject(model, config.site, answers=task.answer_tokens, memory_gib=GIB)
    tables = {
        split: task.table(
            ALGORITHM,
            config.sentences if split == "train" else config.held_out,
            seed,
            split=split,
            width=train_ioi.WIDTH,
        )
        for split, seed in SEEDS.items()
    }
    return World(task, tables, {split: subject.cut(t.inputs) for split, t in tables.items()})


def row(config: Config, world: World, name: str, condition: Condition) -> dict[str, Any]:
    """Fit one map and score it on names that it was fitted on, and on others."""
    begun, cuts, tables = time.process_time(), world.cuts, world.tables
    train = cuts["train"]
    phi = families.build(
        name, train.d, tables["train"].variables, config.size, seed=0, states=train.states
    )
    if condition != "unguided":
        phi = Guided(train, phi, _values(tables["train"], condition), NAMES, batch=config.batch)
        phi.learn(config.told, learning_rate=config.learning_rate)
    validation = (cuts["validation"], _pairs(config, tables, "validation"))
    feed = _feed(config, tables["train"], condition)
    made = fit(train, phi, feed, config.budget, validation=validation)
    found: dict[str, Any] = {
        "map": name,
        "fit": condition,
        "site": config.site,
        "size": config.size,
        "train_iia": made.train_iia,
        "updates": made.steps,
    }
    for split, prefix in (("test", ""), ("unseen names", "unseen_")):
        pairs = _pairs(config, tables, split)
        scores = score(cuts[split], made.map, pairs)
        among = score_among(cuts[split], made.map, pairs, world.task.candidates(tables[split]))
        spread = interval(among, n_boot=500)
        name = f"{prefix}restricted_iia"
        found[f"{prefix}iia"], found[name] = scores.iia, among.iia
        found[f"{name}_low"], found[f"{name}_high"] = spread.low, spread.high
    return {**found, "cpu_seconds": round(time.process_time() - begun, 1)}


def _values(table: Table, condition: Condition) -> Mapping[str, Tensor]:
    """What read-outs are told of each sentence; under shuffling, another sentence's pattern."""
    if condition == "guided":
        return table.values
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(DEALT))
    (pattern,) = table.variables
    return {**table.values, pattern: table.values[pattern][order]}


def _feed(config: Config, table: Table, condition: Condition) -> Feed:
    if condition != "shuffled":
        return fresh(table.pairs, config.batch, SEEDS["train"])
    pairs = table.pairs(LIMITED, SEEDS["train"]).shuffled(DEALT)
    return fixed(pairs, config.batch, SEEDS["train"])


def _pairs(config: Config, tables: dict[str, Table], split: str) -> Pairs:
    return tables[split].pairs(config.held_out, SEEDS[split])


def run(config: Config, console: Console) -> list[dict[str, Any]]:
    """Fit everything and write the record."""
    set_threads(config.threads)
    begun = time.process_time()
    found = list(rows(config, console))
    write_rows(config.out, found)
    save(config, seconds=time.process_time() - begun)
    return found


def save(config: Config, *, seconds: float) -> None:
    """Write the manifest."""
    weights = train_ioi.RECORDS / training.FILES[0]
    made = manifest.collect(
        experiment="ioi_twins",
        settings={k: v for k, v in asdict(config).items() if k != "out"},
        model={"sha256 model.safetensors": manifest.file_hash(weights)},
        data={"sentences": f"interp.data.ioi, {config.frames} frames, {config.people} names"},
        seeds=[0, *range(1, config.twins + 1)],
        device="cpu",
        code=manifest.source_hash([__file__, str(guided.__file__), str(train_ioi.__file__)]),
        command=["python", "-m", "experiments.ioi_twins"],
    )
    made.spent.update(seconds=round(seconds, 1))
    manifest.write_manifest(config.out / "manifest.json", made)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, write and print; exit 2 on bad input."""
    console = Console()
    try:
        found = run(tyro.cli(Config, args=argv, description=__doc__), console)
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    laid = Laid(*SHOWN)
    for each in found:
        laid.add_row(*(f"{v:.3f}" if isinstance(v := each[k], float) else str(v) for k in SHOWN))
    console.print(laid)


if __name__ == "__main__":
    main()
