"""What every job shares: its store, its manifest, its progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import interp.results as results
from interp.engine.model import Model
from interp.models.weights import tokenizer_hash, weights_hash
from interp.results import report, report_latent, report_thinking
from interp.results.cells import refuse_foreign
from interp.results.manifest import replace_file

PACKAGE = Path(__file__).parents[1]
DECIDING = ("edits.py", "attention_edits.py", "sites.py", "metrics.py", "stats.py", "bases.py")
DECIDING += ("causal_models.py", "jobs/align_cells.py", "jobs/align_guards.py")
DECIDING += ("jobs/align_decoders.py", "jobs/align_worlds.py")
DECIDING += ("models", "engine", "thinking", "patching", "steering", "latent", "alignment", "data")
CODE = tuple(PACKAGE / part for part in DECIDING)
"""The source that decides numbers; records of another version belong to another run."""


def begin(
    model: Model,
    *,
    experiment: str,
    out: Path,
    settings: Mapping[str, object],
    data: Mapping[str, object],
    seeds: Iterable[int],
    source: str | None = None,
) -> results.Store:
    """Make or resume the folder of a run.

    Args:
        source: what the model was loaded by, such as a folder, so that it is found again.

    Raises:
        StoreError: the folder belongs to other settings, or is no run.
    """
    about = {
        "name": model.name,
        "path": source or model.name,
        "weights_hash": weights_hash(model.hf),
        "tokenizer_hash": tokenizer_hash(model.tokenizer),
        "dtype": str(model.dtype).removeprefix("torch."),
        "engine": model.engine,
    }
    return begin_store(
        out,
        experiment=experiment,
        settings=settings,
        model=about,
        data=data,
        seeds=seeds,
        device=str(model.device),
    )


def begin_store(out: Path, **about: Any) -> results.Store:
    """Make or resume a folder whose manifest is `results.collect(**about)` under this code.

    Raises:
        StoreError: the folder belongs to other settings, or is no run.
    """
    return results.Store.begin(out, results.collect(**about, code=results.source_hash(CODE)))


def folder_of(whole: results.Store, part: str, out: Path | None) -> Path:
    """The folder of what is built on a run, by default inside the run's own.

    Raises:
        StoreError: it is a file, or holds something else than a run.
    """
    folder = out if out is not None else whole.folder / part
    refuse_foreign(folder, ("manifest.json",), "run")
    return folder


def finish(store: results.Store, order: list[str]) -> None:
    """Note what the whole run cost, and the order of its cells, in the manifest."""
    spent: dict[str, float | int] = {}
    for cell in store.cells():
        for name, value in cell["spent"].items():
            spent[name] = spent.get(name, 0) + value
    later = sorted(set(store.keys()) - set(order))
    store.update_manifest(spent=spent, order=[*order, *later])


def table_names(store: results.Store) -> list[str]:
    """The tables that the finished cells of a run hold."""
    return sorted({name for cell in store.cells() for name in cell["tables"]})


def missing(store: results.Store) -> int:
    """How many cells the run once had and now lacks, damaged ones that were set aside included."""
    return len(set(store.manifest.order or ()) - set(store.keys()))


def rows(store: results.Store, table: str) -> list[dict[str, Any]]:
    """A table's rows, none where no cell holds it yet."""
    return store.rows(table) if table in table_names(store) else []


SCORED_PARTS = ("direction", "steer-test", "prune", "compare")
"""What is built on a run of `interp tts`: each is a run in a folder of that name inside it."""
LATENT_PARTS = ("necessity", "influence", "influence-released-code", "commitment")
"""The same of `interp latent rollout`."""
PARTS = SCORED_PARTS + LATENT_PARTS


def write_report(store: results.Store) -> Path:
    """Write `report.html` into the folder of a run, from its records and those of its parts alone.

    Where the run is itself a part of another, the page of that one is written again too, so that
    one page shows everything.
    """
    whole = _whole(store)
    if whole is not None:
        _write_page(whole)
    return _write_page(store)


def _write_page(store: results.Store) -> Path:
    parts = parts_of(store)
    tables = {
        shown: each.store.rows(name)
        for each in (_Part("", store, False), *parts)
        for name in table_names(each.store)
        if (shown := report_latent.stored_as(name, each.store.manifest.experiment)) in report.TABLES
    }
    own = [_Part(store.folder.name, store, False)] if store.manifest.notes else []
    tables[report_thinking.PARTS] = [each.row() for each in (*own, *parts)]
    about = asdict(store.manifest)
    if parts:
        about["parts"] = {each.name: _made(each.store) for each in parts}
    path = store.folder / "report.html"
    replace_file(path, report.render(about, tables).encode())
    return path


@dataclass(frozen=True, eq=False)
class _Part:
    """Something built on a run."""

    name: str
    store: results.Store
    stale: bool
    """Whether the run has other rows now."""

    def row(self) -> dict[str, Any]:
        """What the report says of its sets, and its warnings."""
        notes = self.store.manifest.notes
        names = ("true_from", "decorative_to", "n_true", "n_decorative")
        told: Any = notes.get("warnings", ())
        warnings = [*told]
        if self.stale:
            warnings.append(
                f"The run has other rows now than when {self.name} was made from it: make it again "
                "in a new folder."
            )
        return {"part": self.name, **{n: notes.get(n) for n in names}, "warnings": warnings}


def parts_of(store: results.Store) -> list[_Part]:
    """The parts of a run that lie inside its folder and were made from its settings."""
    found = []
    for name in PARTS:
        if (store.folder / name / "manifest.json").is_file():
            part = results.Store.open(store.folder / name)
            data = part.manifest.data
            if data.get("run") == store.manifest.settings_hash:
                found.append(_Part(name, part, data.get("cells") != rows_hash(store)))
    return found


def identity(store: results.Store) -> dict[str, object]:
    """What the records of a part depend on: the run's settings and its rows."""
    return {"run": store.manifest.settings_hash, "cells": rows_hash(store)}


def rows_hash(store: results.Store) -> str:
    """What tells the rows of a run from those that it had before."""
    return results.cell_key({"keys": sorted(store.keys())})


def _whole(store: results.Store) -> results.Store | None:
    """The run that a store is a part of, where it lies inside its folder."""
    folder = store.folder.absolute().parent
    if store.folder.name not in PARTS or not (folder / "manifest.json").is_file():
        return None
    whole = results.Store.open(folder)
    same = whole.manifest.settings_hash == store.manifest.data.get("run")
    return whole if same else None


def _made(part: results.Store) -> dict[str, object]:
    """How a part was made."""
    about = part.manifest
    return {"command": about.command, "settings": about.settings, "created": about.created}


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A progress display that vanishes when it is done; silent where nobody watches."""
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns.append(TimeRemainingColumn())
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bars:
        yield bars
