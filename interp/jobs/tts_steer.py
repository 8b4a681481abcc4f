"""`interp tts steer-test`: the engagement and the disengagement test of a scored run.

The direction is fitted on the selection problems, its layer is chosen there, and what is reported
comes from the test problems, which neither has seen. Trials are kept problem by problem, so a run
that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

import interp.results as results
from interp.directions import Direction, load_all
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs, tts_direction, tts_runs
from interp.jobs.tts_steer_checks import score_bins, self_verification
from interp.jobs.tts_steer_settings import (
    Settings,
    kept,
    problems_of,
    require_fresh,
    require_problems,
    require_rows,
    split_without,
)
from interp.jobs.tts_steer_trials import Job, identity_of, main_trials, tables_of
from interp.thinking.steer_items import Item, Items, make_items
from interp.thinking.steer_layers import Split
from interp.thinking.steer_stats import ArmResult, curve_rows, summarise


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    rows: tuple[dict[str, Any], ...]
    marked: int
    warnings: tuple[str, ...]


def test(
    folder: Path,
    *,
    model: str | None,
    direction: Path | None,
    out: Path | None,
    settings: Settings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Run both tests with all controls, and write records and the report.

    Args:
        direction: a file of `interp tts direction`; by default one is fitted on the selection
            problems. The problems that a given direction was made from become selection problems.
    """
    run = tts_runs.open_run(folder)
    if settings.draws > len(run.store.manifest.seeds):
        raise InputError(
            f"--draws {settings.draws}: {folder} was scored with {len(run.store.manifest.seeds)} "
            "draws of the perturbation; take at most so many."
        )
    where = runs.folder_of(run.store, "steer-test", out)
    require_problems(run, settings, direction)
    loaded = tts_runs.load_model(run, model, dtype=dtype, device=device)
    require_rows(loaded, settings.layers)
    given = None if direction is None else load_all(direction, loaded)
    if given is not None:
        kept(given[0], settings.layers)
        require_fresh({chain.id for chain in run.chains}, problems_of(given[1]))
    about = {**asdict(settings), "direction": direction and results.file_hash(direction)}

    def begin() -> results.Store:
        return tts_runs.begin(run, loaded, "steer-test", where, about)

    before = begin() if (where / "manifest.json").exists() else None
    with runs.progress(console) as bars:
        made = _prepared(loaded, run, before, settings, given, bars)
        job = _begun(loaded, run, before or begin(), settings, made, bars)
        store, trials = job.store, main_trials(job)
        found = summarise(trials, job.split, seed=settings.sets.seed)
        _write_summary(job, found)
        if settings.bins:
            score_bins(job)
        if settings.checks:
            self_verification(job)
    runs.finish(store, job.order)
    runs.write_report(store)
    warnings = dict.fromkeys(w for result in found for w in result.warnings)
    told: Any = store.manifest.notes.get("warnings", ())
    rows = tuple(result.row() for result in found)
    return Outcome(store, rows, len(job.items.marked), (*told, *warnings))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What there is before the first trial."""

    items: Items
    split: Mapping[str, Split]
    directions: list[Direction]
    shuffled: list[list[Direction]]
    fit: tts_direction.Fitted | None
    """What the directions come from, where they were fitted just now."""


def _prepared(
    model: Model,
    run: tts_runs.ScoredRun,
    store: results.Store | None,
    settings: Settings,
    given: tuple[list[Direction], dict[str, Any]] | None,
    bars: Progress,
) -> _Prepared:
    """Make the items, split the problems, and fit the direction or take the given one.

    Nothing is written, so what is refused leaves nothing behind; what a run that was begun before
    holds is read.
    """
    items = _read_items(store, run) if store else None
    items = items or _made_items(model, run, settings, bars)
    seen = set() if given is None else problems_of(given[1])
    split = split_without(items.all, seen, settings)
    if given is not None:
        return _Prepared(items, split, kept(given[0], settings.layers), [], None)
    held = tts_direction.read(store.folder, model) if store else None
    fit = None
    if held is None:
        select = [chain for chain in run.chains if split.get(chain.id) != "test"]
        fit = tts_direction.fitted(model, select, settings.sets)
        held = fit.directions, fit.shuffled
    found = kept(held[0], settings.layers)
    there = {each.site for each in found}
    shuffled = [[each for each in twin if each.site in there] for twin in held[1]]
    shuffled = [twin for twin in shuffled if twin]
    return _Prepared(items, split, found, shuffled, fit)


def _begun(
    model: Model,
    run: tts_runs.ScoredRun,
    store: results.Store,
    settings: Settings,
    made: _Prepared,
    bars: Progress,
) -> Job:
    """Keep what was prepared."""
    if made.fit is not None:
        store.update_manifest(notes=made.fit.sets.notes())
        tts_direction.save(made.fit, store.folder)
    job = Job(
        model, run, store, settings, made.items, made.split, made.directions, made.shuffled, bars
    )
    marked = [{**mark, "status": "marked"} for mark in made.items.marked]
    texts = [_listed(asdict(item)) for item in made.items.all]
    tables = {"steer_items": made.items.rows(), "steer_texts": texts, "steer_marked": marked}
    job.cell({"items": "all", **job.identity}, lambda: tables)
    return job


def _made_items(model: Model, run: tts_runs.ScoredRun, settings: Settings, bars: Progress) -> Items:
    task = bars.add_task("answers to perturbed steps", total=None)
    items = make_items(
        model,
        run.chains,
        run.rules,
        seeds=tuple(run.store.manifest.seeds[: settings.draws]),
        per_problem=settings.items_per_problem,
        most=settings.items,
        exact=settings.exact,
        progress=lambda done, total: bars.update(task, completed=done, total=total),
    )
    bars.remove_task(task)
    return items


def _read_items(store: results.Store, run: tts_runs.ScoredRun) -> Items | None:
    """The items of a run that was begun before, if it came so far."""
    key = results.cell_key({"items": "all", **identity_of(store, run)})
    if not store.has(key):
        return None
    tables = tables_of(store, key)
    items = [_item(row) for row in tables["steer_texts"]]
    engage, disengage = (
        tuple(item for item in items if item.test == test) for test in ("engage", "disengage")
    )
    names = ("id", "step", "seed", "reason")
    marked = [{name: row[name] for name in names} for row in tables.get("steer_marked", ())]
    return Items(engage, disengage, tuple(marked))


def _write_summary(job: Job, found: Sequence[ArmResult]) -> None:
    split = [{"id": name, "split": where} for name, where in job.split.items()]
    job.cell(
        {"summary": "steering", **job.identity},
        lambda: {
            "steer_results": [result.row() for result in found],
            "steer_curves": curve_rows(found),
            "steer_split": split,
        },
    )


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}


def _item(row: Mapping[str, Any]) -> Item:
    known: dict[str, Any] = {each.name: row.get(each.name) for each in fields(Item)}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Item(**known)
