"""What the commands on latent reasoning share: subjects, problems, and the folder of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rich.console import Console

import interp.results as results
from interp.data.arithmetic_chains import ArithmeticChains
from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.data.latent_rows import LatentRow, read_latent
from interp.data.prontoqa import ProntoQA
from interp.data.prosqa import ProsQA
from interp.engine.loading import device_of, dtype_of
from interp.errors import InputError, ModelError, nearest
from interp.jobs import runs
from interp.latent.loading import load_checkpoint
from interp.latent.saved import ABOUT, load_subject
from interp.latent.soft_thinking import load_soft_thinking
from interp.latent.subject import Subject
from interp.models.weights import tokenizer_hash, weights_hash

CHUNK = 50
"""Problems of a cell: what a stopped run repeats at most."""

SOFT_STEPS = 8
"""Most steps of soft thinking."""
PUBLISHED_STEPS = 6
"""Latent steps of every published checkpoint."""
Kind = (
    Literal["auto", "soft-thinking"]
    | Literal["coconut", "codi", "pause", "no_recurrence", "no_latents", "explicit"]
)
"""auto: what the files say. The others but soft-thinking are of published checkpoints."""
FOR_PUBLISHED = ("base", "allow_pickle", "lora_alpha", "token_rows")
"""Options that say something of published checkpoints alone."""
OF_OTHERS = ("kind", "steps", *FOR_PUBLISHED)
"""Options that say nothing of a folder of ours."""

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

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: give at least 1.")
        alpha = self.lora_alpha
        if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
            raise InputError(f"--lora-alpha {alpha}: give a number above 0, such as 32.")
        dtype_of(self.dtype)
        device_of(self.device)

    def subject(self) -> Subject:
        """Load it: a folder of ours, a published checkpoint, or a chat model to think softly.

        Raises:
            InputError, ModelError: it cannot be found or read, or an option says nothing of it.
        """
        if self.kind == "soft-thinking":
            self._require_unset("Soft thinking", FOR_PUBLISHED)
            found: Any = load_soft_thinking(self.model, n_steps=self.steps or SOFT_STEPS)
        elif (Path(self.model) / ABOUT).is_file():
            self._require_unset(f"{self.model}, which says itself what it is,", OF_OTHERS)
            found = load_subject(Path(self.model))
        else:
            found = load_checkpoint(
                self.model,
                base=self.base,
                kind=None if self.kind == "auto" else self.kind,
                n_steps=self.steps or PUBLISHED_STEPS,
                allow_pickle=self.allow_pickle,
                lora_alpha=self.lora_alpha,
                rows=self.token_rows,
            )
        for part in filter(None, (module_of(found), projection_of(found))):
            part.to(device=self.device, dtype=dtype_of(self.dtype))
        return found

    def _require_unset(self, what: str, names: Sequence[str]) -> None:
        """Refuse options that would change nothing."""
        for name in names:
            if getattr(self, name) not in (None, False, "auto"):
                flag = name.replace("_", "-")
                raise InputError(f"{what} takes no --{flag}: leave it out.")


def module_of(subject: Any) -> Any:
    """The network of a subject, whose weights its records belong to."""
    return getattr(subject, "hf", None) or subject.model


def projection_of(subject: Any) -> Any:
    """What CODI maps outputs to inputs by; None for other subjects."""
    return getattr(subject, "projection", None)


def about(subject: Any, loading: Loading) -> dict[str, object]:
    """What a record says of the subject."""
    module = module_of(subject)
    projection = projection_of(subject)
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
        require_seed(self.seed)

    def rows(self) -> tuple[list[LatentRow], list[LatentProblem]]:
        """Rows to score, marked ones among them, and calibration problems.

        Generated ones all differ; of a file the last rows calibrate, and a row that asks one of
        their questions is marked.

        Raises:
            InputError: there is no such file or generator, or too few problems.
        """
        if self.data in SOURCES:
            drawn = distinct(SOURCES[self.data], self.n + self.calibration, self.seed)
            return [LatentRow(p.id, p) for p in drawn[: self.n]], drawn[self.n :]
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
        asked = {problem.question: problem.id for problem in kept}
        rest = [_apart(row, asked) for row in rows if row.id not in ids]
        return rest[: self.n], kept

    def identity(self) -> dict[str, object]:
        """What a record says of them."""
        path = Path(self.data)
        known = self.data in SOURCES
        digest = None if known or not path.is_file() else results.file_hash(path)
        return {"path": self.data, "sha256": digest, **asdict(self)}


def require_seed(seed: int) -> None:
    """Refuse a seed below 0."""
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or more.")


def distinct(
    draw: Callable[[int, int], Sequence[LatentProblem]], n: int, seed: int
) -> list[LatentProblem]:
    """The first `n` problems of a generator with questions of their own.

    Raises:
        InputError: it has not so many.
    """
    found: dict[str, LatentProblem] = {}
    for more in (1, 2, 4):
        for problem in draw(more * n, seed):
            found.setdefault(problem.question, problem)
        if len(found) >= n:
            return list(found.values())[:n]
    raise InputError(f"{n} problems were asked for, and {len(found)} different ones were drawn.")


def _apart(row: LatentRow, asked: Mapping[str, str]) -> LatentRow:
    """The row, marked where its question is asked by a calibration problem."""
    if row.problem is None or row.problem.question not in asked:
        return row
    other = asked[row.problem.question]
    return LatentRow(row.id, reason=f"its question is that of the calibration problem {other!r}")


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


DECIDING: Mapping[str, str] = MappingProxyType(
    {
        "weights_hash": "other weights",
        "projection_hash": "another projection",
        "tokenizer_hash": "another tokenizer",
        "n_steps": "another number of steps",
        "convention": "other steps",
    }
)
"""What must be the subject's own, of what a record says of it (`about`)."""


def load_of(run: LatentRun, model: str | None, *, device: str) -> Subject:
    """Load the subject that a run is of.

    Raises:
        ModelError: it is not found, or is another than the run's.
    """
    told: Any = run.store.manifest.model
    folder = run.store.folder
    loading = Loading(
        model=model or str(told["path"]), device=device, **dict(told.get("loading") or {})
    )
    try:
        found = loading.subject()
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(f"{error} {folder} is of that model: name it with --model.") from error
    mine = about(found, loading)
    for name, what in DECIDING.items():
        if mine[name] != told.get(name):
            raise ModelError(
                f"{loading.model} has {what} than the subject of {folder}: name that one with "
                "--model, or roll it out again."
            )
    return found


def begin_part(
    run: LatentRun, part: str, out: Path | None, settings: Mapping[str, object]
) -> results.Store:
    """Make or resume the folder of what is built on a run.

    Raises:
        StoreError: the folder belongs to other settings, or is no run.
    """
    return runs.begin_store(
        runs.folder_of(run.store, part, out),
        experiment=f"latent_{part}",
        settings=settings,
        model=run.store.manifest.model,
        data=run.identity,
        seeds=run.store.manifest.seeds,
        device=run.store.manifest.device,
    )


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
