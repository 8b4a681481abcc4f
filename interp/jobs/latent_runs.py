"""What the commands on latent reasoning share: subjects, problems, and the folder of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from rich.console import Console

import interp.results as results
from interp.data.arithmetic_chains import ArithmeticChains
from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.data.latent_rows import LatentRow, read_latent
from interp.data.prontoqa import ProntoQA
from interp.data.prosqa import ProsQA
from interp.errors import InputError, ModelError, nearest
from interp.jobs import runs
from interp.latent.loading import load_checkpoint
from interp.latent.saved import load_subject
from interp.latent.soft_thinking import load_soft_thinking
from interp.latent.subject import Subject
from interp.models.weights import tokenizer_hash, weights_hash
from interp.results.cells import refuse_foreign

CHUNK = 50
"""Problems of a cell: what a stopped run repeats at most."""

SOFT_STEPS = 8
"""Most steps of soft thinking."""
PUBLISHED_STEPS = 6
"""Latent steps of every published checkpoint."""
Kind = Literal["auto", "soft-thinking"]

SOURCES: Mapping[str, Callable[[int, int], Sequence[LatentProblem]]] = MappingProxyType(
    {
        "cycle-hop": lambda n, seed: CycleHop().draw(n, seed),
        "cycle-hop-told": lambda n, seed: CycleHop(tells_hops=True).draw(n, seed),
        "arithmetic": lambda n, seed: ArithmeticChains().draw(n, seed),
        "prosqa": lambda n, seed: ProsQA().draw(n, seed),
        "prontoqa": lambda n, seed: ProntoQA().draw(n, seed),
    }
)
"""Problems that are generated, by the name that a command is given in place of a file."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a subject is found."""

    model: str
    kind: Kind = "auto"
    base: str | None = None
    allow_pickle: bool = False
    lora_alpha: float | None = None
    token_rows: Literal["pad-bot-eot", "as-named"] | None = None
    steps: int | None = None
    dtype: str | None = None
    device: str = "cpu"

    def subject(self) -> Subject:
        """Load it: a folder of ours, a published checkpoint, or a chat model to think softly.

        Raises:
            InputError, ModelError: it cannot be found or read.
        """
        if self.kind == "soft-thinking":
            found: Any = load_soft_thinking(self.model, n_steps=self.steps or SOFT_STEPS)
        elif (Path(self.model) / "latent.json").is_file():
            if self.steps is not None:
                raise InputError(
                    f"--steps {self.steps}: {self.model} was trained with its own number of steps; "
                    "leave it out."
                )
            found = load_subject(Path(self.model))
        else:
            found = load_checkpoint(
                self.model,
                base=self.base,
                n_steps=self.steps or PUBLISHED_STEPS,
                allow_pickle=self.allow_pickle,
                lora_alpha=self.lora_alpha,
                rows=self.token_rows,
            )
        module = module_of(found)
        module.to(device=self.device, dtype=getattr(torch, self.dtype) if self.dtype else None)
        return found


def module_of(subject: Any) -> Any:
    """The network of a subject, whose weights its records belong to."""
    return getattr(subject, "hf", None) or subject.model


def about(subject: Any, loading: Loading) -> dict[str, object]:
    """What a record says of the subject."""
    module = module_of(subject)
    projection = getattr(subject, "projection", None)
    parameter = next(module.parameters())
    return {
        "name": subject.name,
        "path": loading.model,
        "loading": {k: v for k, v in asdict(loading).items() if k not in ("model", "device")},
        "kind": type(subject).__name__,
        "n_steps": subject.n_steps,
        "convention": subject.convention,
        "weights_hash": weights_hash(module),
        "projection_hash": None if projection is None else weights_hash(projection),
        "tokenizer_hash": tokenizer_hash(subject.tokenizer),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "engine": "torch",
    }


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Which problems a run is about, and which others means and donors come from."""

    data: str
    """A file, or the name of a generator in `SOURCES`."""
    n: int = 200
    calibration: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("calibration", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: give at least {least}.")

    def rows(self) -> tuple[list[LatentRow], list[LatentProblem]]:
        """Rows to score, marked ones among them, and calibration problems.

        Generated ones are drawn apart; of a file the last rows calibrate.

        Raises:
            InputError: there is no such file or generator, or too few problems.
        """
        if self.data in SOURCES:
            drawn = SOURCES[self.data](self.n + self.calibration, self.seed)
            return [LatentRow(p.id, p) for p in drawn[: self.n]], list(drawn[self.n :])
        path = Path(self.data)
        if not path.is_file():
            raise InputError(
                f"There is no file {self.data}: give a JSONL file of problems, or a generator: "
                f"{', '.join(SOURCES)}.{nearest(self.data, SOURCES)}"
            )
        rows = read_latent(path)
        sound = [row.problem for row in rows if row.problem is not None]
        if len(sound) <= self.calibration:
            raise InputError(
                f"{path} holds {len(sound)} problems, and --calibration {self.calibration} keeps "
                "as many for means and donors: give more problems or a smaller number."
            )
        kept = sound[-self.calibration :]
        ids = {problem.id for problem in kept}
        return [row for row in rows if row.id not in ids][: self.n], kept

    def identity(self) -> dict[str, object]:
        """What a record says of them."""
        path = Path(self.data)
        known = self.data in SOURCES
        digest = None if known or not path.is_file() else results.file_hash(path)
        return {"path": self.data, "sha256": digest, **asdict(self)}


@dataclass(frozen=True)
class LatentRun:
    """A finished run of `interp latent rollout`, read back."""

    store: results.Store
    problems: tuple[LatentProblem, ...]
    calibration: tuple[LatentProblem, ...]
    marked: int

    @property
    def identity(self) -> dict[str, object]:
        """What a part's records depend on."""
        return runs.identity(self.store)


def open_run(folder: Path) -> LatentRun:
    """Read a run of `interp latent rollout`.

    Raises:
        StoreError: there are no records.
        InputError: they are of another command, or hold no problem that was run.
    """
    store = results.Store.open(folder)
    if store.manifest.experiment != "latent":
        raise InputError(
            f"{folder} holds records of {store.manifest.experiment!r}, not of latent steps: name "
            "the folder that `interp latent rollout MODEL --out DIR` wrote."
        )
    rows = runs.rows(store, "latent_items")
    good = [row for row in rows if row["status"] == "run"]
    scored = tuple(_problem(row) for row in good if row["role"] == "scored")
    kept = tuple(_problem(row) for row in good if row["role"] == "calibration")
    if not scored:
        reasons = ", ".join(sorted({str(row["reason"]) for row in rows})) or "no rows"
        raise InputError(f"{folder} holds no problem that was run ({reasons[:160]}).")
    return LatentRun(store, scored, kept, len(rows) - len(good))


def _problem(row: Mapping[str, Any]) -> LatentProblem:
    return LatentProblem(row["id"], row["question"], tuple(row["steps"]), row["gold"])


def load_of(run: LatentRun, model: str | None, *, device: str) -> Subject:
    """Load the subject that a run is of.

    Raises:
        ModelError: it is not found, or has other weights than the run.
    """
    told: Any = run.store.manifest.model
    loading = Loading(
        model=model or str(told["path"]), device=device, **dict(told.get("loading") or {})
    )
    found = loading.subject()
    if weights_hash(module_of(found)) != told["weights_hash"]:
        raise ModelError(
            f"{loading.model} has other weights than the subject of {run.store.folder}: name that "
            "one with --model, or roll it out again."
        )
    return found


def begin(
    subject: Subject,
    loading: Loading,
    *,
    experiment: str,
    out: Path,
    settings: Mapping[str, object],
    data: Mapping[str, object],
    seeds: Iterable[int],
) -> results.Store:
    """Make or resume the folder of a run.

    Raises:
        StoreError: the folder belongs to other settings, or is no run.
    """
    refuse_foreign(out, ("manifest.json",), "run")
    made = results.collect(
        experiment=experiment,
        settings=settings,
        model=about(subject, loading),
        data=data,
        seeds=seeds,
        device=loading.device,
        code=results.source_hash(runs.CODE),
    )
    return results.Store.begin(out, made)


def begin_part(
    run: LatentRun, part: str, out: Path | None, settings: Mapping[str, object]
) -> results.Store:
    """Make or resume the folder of what is built on a run, by default inside its own."""
    folder = out if out is not None else run.store.folder / part
    refuse_foreign(folder, ("manifest.json",), "run")
    made = results.collect(
        experiment=f"latent_{part}",
        settings=settings,
        model=run.store.manifest.model,
        data=run.identity,
        seeds=run.store.manifest.seeds,
        device=run.store.manifest.device,
        code=results.source_hash(runs.CODE),
    )
    return results.Store.begin(folder, made)


Rows = dict[str, list[dict[str, Any]]]


def in_cells(
    store: results.Store,
    problems: Sequence[LatentProblem],
    work: Callable[[Sequence[LatentProblem]], Rows],
    *,
    what: str,
    console: Console,
    chunk: int = CHUNK,
) -> list[str]:
    """Do `work` on chunks of problems, each a cell that is written once; return the cells' keys."""
    order = []
    with runs.progress(console) as bars:
        task = bars.add_task(what, total=len(problems))
        for start in range(0, len(problems), chunk):
            part = problems[start : start + chunk]
            identity = {
                "part": what,
                "problems": [asdict(problem) for problem in part],
                "settings": store.manifest.settings_hash,
            }
            key = results.cell_key(identity)
            order.append(key)
            if not store.has(key):
                store.write(key, identity, work(part), {})
            bars.advance(task, len(part))
    return order


def summarise(store: results.Store, order: list[str], tables: Callable[[], Rows]) -> list[str]:
    """Write the summary tables of a run's rows as a cell of their own; return all keys."""
    identity = {
        "summary": sorted(order),
        "settings": store.manifest.settings_hash,
    }
    key = results.cell_key(identity)
    if not store.has(key):
        made = {name: rows for name, rows in tables().items() if rows}
        store.write(key, identity, made, {})
    order = [*order, key]
    runs.finish(store, order)
    return order
