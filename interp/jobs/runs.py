"""What every job shares: its store, its manifest, its progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import interp.results as results
from interp.engine.model import Model
from interp.models.weights import tokenizer_hash, weights_hash
from interp.results import report
from interp.results.manifest import replace_file

PACKAGE = Path(__file__).parents[1]
DECIDING = ("edits.py", "attention_edits.py", "sites.py", "metrics.py", "stats.py", "bases.py")
DECIDING += ("models", "engine", "thinking", "patching", "steering")
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
) -> results.Store:
    """Make or resume the folder of a run.

    Raises:
        StoreError: the folder belongs to other settings, or is no run.
    """
    manifest = results.collect(
        experiment=experiment,
        settings=settings,
        model={
            "name": model.name,
            "weights_hash": weights_hash(model.hf),
            "tokenizer_hash": tokenizer_hash(model.tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."),
            "engine": model.engine,
        },
        data=data,
        seeds=seeds,
        device=str(model.device),
        code=results.source_hash(CODE),
    )
    return results.Store.begin(out, manifest)


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


def write_report(store: results.Store) -> Path:
    """Write `report.html` into the folder of a run, from its records alone."""
    tables = {name: store.rows(name) for name in table_names(store) if name in report.TABLES}
    html = report.render(asdict(store.manifest), tables)
    path = store.folder / "report.html"
    replace_file(path, html.encode())
    return path


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A progress display that vanishes when it is done; silent where nobody watches."""
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns.append(TimeRemainingColumn())
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bars:
        yield bars
