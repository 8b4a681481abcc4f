"""Our interchange accuracies beside the published ones, cell by cell.

    python -m experiments.align_reference                    # standard budget: hours of one core
    python -m experiments.align_reference --budget smoke --parts orthogonal planted

fits the maps of Sutter et al. 2025 (arXiv:2507.08802) to our networks, trained by the same recipe
from the same seeds (`experiments.train_alignment_nets`), on the same algorithms, layers and sizes.
`experiments/references/nlrd_iia.csv` holds what the authors' released results give: mean, sd,
least and most over their networks. A mean of ours that lies within theirs is inside their seeds'
range. One cell of the records is one fit, so a stopped run goes on where it was.

The part `untrained` stops, as all do, when the loss has long been flat, and the networks that no
map has bent until then stay at chance; `bent` fits the first layer of the same networks to the end
of the budget. `memory` fits a deep map to 1,000 pairs, of an algorithm that no map finds: it gets
these right and no others. `progression` fits maps to networks that are still learning; these are
trained again when it starts, in about a minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

import interp.results as results
from experiments import train_alignment_nets
from experiments.parts import RECORDS, require_folder, shown
from experiments.study import condense
from interp.alignment.capacity import fixed_set
from interp.alignment.fitting import BUDGETS, Budget
from interp.errors import InputError, InterpError, nearest
from interp.jobs import runs
from interp.jobs.align_cells import SEEDS, Bench, Fit, Kind, row_of
from interp.jobs.align_worlds import Classifiers
from interp.jobs.tts import set_threads
from interp.results import align_reference
from interp.results.align_reference import compare

REFERENCE = Path(__file__).parent / "references" / "nlrd_iia.csv"
NETS = RECORDS / "alignment_nets"
PLANTED = ("and_or_and", "and_or")
LAYERS = ("1", "2", "3")


@dataclass(frozen=True)
class Group:
    """Some cells of the published tables: one kind of networks, one map, some algorithms."""

    experiment: str
    """As the reference names it: final, planted_and_or, progression (untrained: checkpoint 0)."""
    nets: str
    """Folder of the networks."""
    map: str
    algorithms: tuple[str, ...]
    layers: tuple[str, ...] = LAYERS
    kind: Kind = "trained"
    patient: bool = False
    """Spend the whole budget: a loss that stays flat for long may fall later."""
    pairs: int | None = None
    """Fit to so many pairs alone, and keep what fits these best; None draws fresh ones."""

    @property
    def task(self) -> str:
        """The task of the networks."""
        return "equality" if self.nets == "equality" else "distributive"

    def fits(self, seeds: Sequence[int]) -> Iterator[Fit]:
        """Every fit, network by network."""
        size = 8 if self.task == "equality" else 12
        for net in seeds:
            for algorithm in self.algorithms:
                for layer in self.layers:
                    yield Fit(
                        net=net,
                        kind=self.kind,
                        algorithm=algorithm,
                        map=self.map,
                        site=layer,
                        size=size,
                    )


@dataclass(frozen=True)
class Learning(Group):
    """Cells of networks that are still learning the task."""

    chunks: int = 1
    """Of 131,072 samples each, on which they were trained."""


class Unfinished(Classifiers):
    """Networks of a task as they are after some chunks of training samples."""

    def __init__(self, task: str, n: int, chunks: int) -> None:
        super().__init__(task, n)
        self._chunks = chunks

    def net(self, net: int, kind: Kind) -> nn.Sequential:
        """A network at its checkpoint; twins and planted ones as everywhere."""
        if kind != "trained":
            return super().net(net, kind)
        return checkpoints(self.name, self.nets)[self._chunks][net]


@lru_cache(maxsize=1)
def checkpoints(task: str, seeds: tuple[int, ...]) -> Mapping[int, Mapping[int, nn.Sequential]]:
    """Return networks by the chunks that they were trained on, and by seed: all trained at once."""
    return train_alignment_nets.progression(task, seeds, at=CHUNKS)


CHUNKS = (0, 1, 4, 8, 16)
EQUALITIES = ("both_equality", "left_equality")
PARTS: Mapping[str, tuple[Group, ...]] = {
    "orthogonal": (
        Group("final", "equality", "orthogonal", (*EQUALITIES, "first_argument")),
        Group("final", "distributive", "orthogonal", PLANTED),
    ),
    "planted": tuple(
        Group(f"planted_{name}", f"planted_{name}", kind, PLANTED, ("2",))
        for kind in ("orthogonal", "identity", "revnet-10x24")
        for name in PLANTED
    ),
    "revnet": (Group("final", "equality", "revnet-10x16", ("both_equality",)),),
    "untrained": (
        Group("progression", "equality", "orthogonal", ("both_equality",), kind="twin"),
        Group("progression", "equality", "revnet-10x128", ("both_equality",), kind="twin"),
    ),
    "bent": (
        Group("progression", "equality", "revnet-10x128", ("both_equality",), ("1",), "twin", True),
    ),
    "first": (
        Group("final", "equality", "revnet-10x16", ("first_argument",)),
        Group("final", "equality", "revnet-10x16", ("left_equality",)),
        Group("progression", "equality", "revnet-10x128", ("first_argument",), kind="twin"),
    ),
    "memory": (
        Group(
            "final", "equality", "revnet-10x16", ("first_argument",), ("1",), "trained", True, 1000
        ),
    ),
    "width": tuple(
        Group("width_sweep", "equality", f"revnet-1x{width}", ("both_equality",), ("1",))
        for width in (1, 2, 4, 8, 16)
    ),
    "progression": tuple(
        Learning("progression", "equality", kind, ("both_equality",), chunks=chunks)
        for chunks in CHUNKS
        for kind in ("orthogonal", "revnet-1x16")
    ),
}
"""What can be asked for; the first four are the rows that a comparison needs at least."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which parts, and how much is spent on each fit."""

    parts: tuple[str, ...] = ("orthogonal", "planted", "revnet", "untrained", "width")
    """orthogonal, planted, revnet, untrained, bent, first, memory, width, progression."""
    budget: str = "standard"
    """smoke, standard or paper."""
    nets: int = 5
    """Networks of each kind: the first seeds of the ten."""
    threads: int = 1
    """Threads for arithmetic."""
    out: Path = Path("runs") / "align_reference"
    """Folder in which each part gets one."""
    records: Path | None = None
    """Folder for a small copy of the finished records, one folder a part."""

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise InputError("--parts: name at least one, and each once.")
        for flag, folder in (("--out", self.out), ("--records", self.records)):
            if folder is not None:
                require_folder(flag, folder)
        for part in self.parts:
            if part not in PARTS:
                raise InputError(
                    f"--parts {part}: there are {', '.join(PARTS)}.{nearest(part, PARTS)}"
                )
        if self.budget not in BUDGETS:
            raise InputError(
                f"--budget {self.budget}: there are {', '.join(BUDGETS)}."
                f"{nearest(self.budget, BUDGETS)}"
            )
        if not 2 <= self.nets <= 10:
            raise InputError(f"--nets {self.nets}: give 2 to 10.")


def run(config: Config, console: Console) -> list[dict[str, Any]]:
    """Fit what is not there yet, part by part; return the rows of the comparison."""
    set_threads(config.threads)
    rows: list[dict[str, Any]] = []
    for part in config.parts:
        store = _begin(config, part)
        keys = [_cell(store, config, group, fit) for group, fit in _fits(config, part)]
        runs.finish(store, keys)
        console.print(f"{part}: {len(keys)} fits")
        if config.records is not None:
            condense(store.folder, config.records / part)
        rows += compare(store.rows("align_fits"), published())
    return rows


def _fits(config: Config, part: str) -> Iterator[tuple[Group, Fit]]:
    """The fits of a part, group by group, all layers of one network before the next network."""
    for group in PARTS[part]:
        for fit in group.fits(_bench(group, config).world.nets):
            yield group, fit


def _bench(group: Group, config: Config) -> Bench:
    """Groups of the same networks share their tables and states."""
    chunks = group.chunks if isinstance(group, Learning) else None
    budget = BUDGETS[config.budget]
    if group.patient:
        budget = replace(budget, patience=budget.steps, plateau=budget.steps)
    return _made(group.task, group.nets, chunks, config.nets, budget)


@lru_cache(maxsize=2)
def _made(task: str, nets: str, chunks: int | None, n: int, budget: Budget) -> Bench:
    stored = chunks is None
    networks = Classifiers(task, n, NETS / nets) if stored else Unfinished(task, n, chunks)
    return Bench(networks, budget)


def _begin(config: Config, part: str) -> results.Store:
    groups = [asdict(group) for group in PARTS[part]]
    folders = sorted({group.nets for group in PARTS[part]})
    return runs.begin_store(
        config.out / part,
        experiment="align_reference",
        settings={"groups": groups, "budget": asdict(BUDGETS[config.budget])},
        model={"name": "small classifiers", "nets": config.nets, "path": shown(NETS)},
        data={"kinds": folders, "budget": config.budget},
        seeds=[0],
        device="cpu",
    )


def _cell(store: results.Store, config: Config, group: Group, fit: Fit) -> str:
    about = {"experiment": group.experiment, "nets": group.nets, "budget": config.budget}
    if isinstance(group, Learning):
        about["checkpoint"] = str(group.chunks)
    if group.pairs is not None:
        about["experiment"] = f"{group.pairs} pairs"
    identity = {**about, "align": asdict(fit)}
    key = results.cell_key(identity)
    if not store.has(key):
        bench = _bench(group, config)
        row = row_of(bench, fit)[0] if group.pairs is None else memorised(bench, fit, group.pairs)
        store.write(
            key, identity, {"align_fits": [{**about, **row}]}, {"seconds": row["cpu_seconds"]}
        )
    return key


def memorised(bench: Bench, fit: Fit, n: int) -> dict[str, Any]:
    """Return the row of a map that was fitted to n pairs alone."""
    begun = time.process_time()
    found = fixed_set(
        bench.trial(fit), bench.start(fit), bench.budget, n=n, seed=SEEDS["train"] + fit.map_seed
    )
    return {
        **asdict(fit),
        "train_pairs": n,
        "train_iia": found.train_iia,
        "iia": found.test.estimate,
        "iia_low": found.test.low,
        "iia_high": found.test.high,
        "cpu_seconds": round(time.process_time() - begun, 2),
    }


def published(path: Path = REFERENCE) -> list[dict[str, str]]:
    """Return the rows of the published results."""
    return align_reference.published(path)


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the comparison."""
    table = Table("networks", "algorithm", "map", "layer", "ours", "published", "range", "inside")
    for row in rows:
        known = row["published"] is not None
        span = f"{row['published_low']:.3f} to {row['published_high']:.3f}" if known else "-"
        table.add_row(
            f"{row['nets']} {row['kind']} {row['checkpoint']}",
            row["algorithm"],
            row["map"],
            row["layer"],
            f"{row['iia']:.3f} ({row['iia_low']:.3f} to {row['iia_high']:.3f})",
            f"{row['published']:.3f}" if known else "-",
            span,
            {True: "yes", False: "NO", None: "-"}[row["inside"]],
        )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the comparison; exit 2 on bad input."""
    console = Console()
    try:
        rows = run(tyro.cli(Config, args=argv, description=__doc__), console)
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    show(rows, console)


if __name__ == "__main__":
    main()
