"""`interp sweep`, and `interp sweep status|show|gc`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text

from interp.errors import InputError

if TYPE_CHECKING:
    from interp.sweeps.drive import Summary
    from interp.sweeps.executors.base import Executor
    from interp.sweeps.grid import Grid
    from interp.sweeps.plan import Plan
    from interp.sweeps.status import Status
    from interp.sweeps.status import Sweep as Described

GridFile = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="GRID.yaml")]]
Place = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE[/sweeps/NAME]")]]
SHOWN = 20
"""How many failed cells the summary lists in full; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Compute every cell of a grid that is not there yet; stop and start it as you like.

    A grid is a YAML file: an experiment, a base configuration, axes (product, zip, list), seeds and
    exclusions. `interp sweep status|show|gc STORE` looks at what a sweep left.
    """

    grid: GridFile
    """The grid, such as experiments/grids/tts_smoke.yaml."""
    store: Annotated[str, tyro.conf.arg(metavar="DIR|s3://...")] = "runs/sweeps"
    """Where records go; grids that share a store share their cells."""
    executor: Literal["inline", "local", "ray"] = "inline"
    """This process, worker processes on this machine, or a Ray cluster."""
    workers: int | None = None
    """How many cells at once; by default 1 inline, else the machine's cores."""
    dry_run: bool = False
    """Print the plan and run nothing."""
    limit: int | None = None
    """Compute at most so many cells now."""
    retry_failed: bool = False
    """Try cells again that failed as often as the grid allows."""
    address: str | None = None
    """ray: the cluster to join (auto, host:port, ray://host:port); by default a local one."""
    cpus: float = 1.0
    """ray: cores for each worker."""
    gpus: float = 0.0
    """ray: GPUs, or shares of one, for each worker."""
    tracker: Literal["none", "mlflow", "wandb"] = "none"
    """Also send each cell's numbers to a tracker on this machine (wandb: offline)."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.sweeps.drive import prepare, run_grid
        from interp.sweeps.grid import read_grid
        from interp.sweeps.live import Display

        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: compute at least 1 cell, or leave it out.")
        if os.getcwd() not in sys.path:  # module:attribute names are found from here
            sys.path.insert(0, os.getcwd())
        grid = read_grid(self.grid)
        executor, workers = self._executor()
        plan = prepare(grid, self.store, retry_failed=self.retry_failed)
        _say(console, plan_line(grid, plan, workers))
        if self.dry_run:
            _list_todo(console, plan, grid, self.limit)
            return 0
        live = Console(file=sys.stdout)  # not sys.stdout of a later moment: cells may redirect it
        done = run_grid(
            grid,
            self.store,
            executor=executor,
            workers=workers,
            limit=self.limit,
            retry_failed=self.retry_failed,
            watch=[Display(live, grid.varied), *self._trackers(grid)],
        )
        return _print_summary(console, done, grid, self.store)

    def _executor(self) -> tuple[Executor, int]:
        """The executor asked for, and how many workers it gets."""
        from interp.sweeps.executors.inline import Inline
        from interp.sweeps.executors.local import Local

        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1.")
        if self.executor != "ray" and (self.address or self.gpus or self.cpus != 1.0):
            raise InputError(
                "--address, --cpus and --gpus belong to the Ray executor: add --executor ray, or "
                "leave them out."
            )
        if self.executor == "inline" and (self.workers or 1) > 1:
            raise InputError(
                f"--workers {self.workers}: inline is this one process; add --executor local."
            )
        if self.executor == "inline":
            return Inline(), self.workers or 1
        if self.executor == "local":
            return Local(), self.workers or os.cpu_count() or 1
        from interp.sweeps.executors.ray_executor import Ray

        if self.address and self.workers is None:
            raise InputError(
                f"--address {self.address}: say with --workers how many of the cluster's workers "
                "to use."
            )
        ray = Ray(address=self.address, num_cpus=self.cpus, num_gpus=self.gpus)
        return ray, self.workers or os.cpu_count() or 1

    def _trackers(self, grid: Grid) -> list:
        if self.tracker == "none":
            return []
        from interp.sweeps.trackers import watch

        return [watch(self.tracker, grid, self.store)]


def plan_line(grid: Grid, plan: Plan, workers: int) -> str:
    """What a sweep will do, in a sentence."""
    from interp.sweeps.live import duration

    todo, failed = plan.count("todo"), plan.count("failed")
    line = f"{grid.name}: {len(plan.cells)} cells of {grid.experiment}, {plan.count('done')} done"
    if failed:
        line += f", {failed} failed (--retry-failed tries them again)"
    if plan.older:
        line += f", {plan.older} there with other code, weights or data (computed again)"
    line += f", {todo} to do"
    seconds = plan.estimate()
    if todo and seconds is not None:
        line += f"; about {duration(seconds / workers)} with {workers} at once"
    elif todo:
        line += "; the time is not known before a cell is finished"
    return line + "."


def _list_todo(console: Console, plan: Plan, grid: Grid, limit: int | None) -> None:
    from interp.sweeps.live import cell_label

    todo = plan.todo()[:limit]
    for cell in todo[:SHOWN]:
        _say(console, f"  {cell.key[:8]}  {cell_label(cell.config, grid.varied)}")
    if len(todo) > SHOWN:
        _say(console, f"  and {len(todo) - SHOWN} more")


def _print_summary(console: Console, done: Summary, grid: Grid, store: str) -> int:
    """Print what a sweep came to; return the exit status."""
    from interp.sweeps.live import cell_label, duration, reason

    plan, failed = done.plan, done.failed
    _say(
        console,
        f"{done.computed} cells computed in {duration(done.seconds)}; of {len(plan.cells)}, "
        f"{plan.count('done')} are done, {len(failed)} failed, {plan.count('todo')} are to do.",
    )
    for cell in failed[:SHOWN]:
        assert cell.failure is not None
        why = reason(cell.failure.kind, cell.failure.error)
        what = f"{cell_label(cell.config, grid.varied)}: {why}"
        _say(console, f"  failed {cell.key[:8]} {what} (attempts: {cell.failure.attempts})")
    if len(failed) > SHOWN:
        _say(console, f"  and {len(failed) - SHOWN} more: interp sweep status --failed")
    place = f"{store.rstrip('/')}/sweeps/{grid.name}"
    if done.stopped:
        sys.stderr.write("interp: stopped; what was finished is kept, start again to go on.\n")
        return 130
    _say(console, f"Records: interp results {place}; a page: interp report {place}")
    return 3 if failed else 0


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """Say how far the sweeps of a store are, read from the store alone."""

    place: Place
    """A store, or one sweep of it."""
    cells: bool = False
    """List every cell."""
    failed: bool = False
    """List the failed cells."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.sweeps.status import read_sweep, split, sweep_names

        store, name = split(self.place)
        for each in [name] if name else sweep_names(store):
            sweep = read_sweep(store, each)
            _say(console, status_line(sweep))
            for cell in sweep.cells:
                if self.cells or (self.failed and cell.state == "failed"):
                    _say(console, f"  {cell_line(cell)}")
        return 0


def status_line(sweep: Described) -> str:
    """How far a sweep is, in a sentence."""
    done, failed, todo = sweep.count("done"), sweep.count("failed"), sweep.count("todo")
    counts = f"{done} done, {failed} failed, {todo} to do"
    last = sweep.about["starts"][-1]
    return (
        f"{sweep.name}: {len(sweep.cells)} cells of {sweep.about['experiment']}, {counts}; last "
        f"started {last['when']} ({last['executor']}, {last['workers']} at once)"
    )


def cell_line(cell: Status) -> str:
    """One cell in a line."""
    from interp.sweeps.live import reason

    line = f"{cell.key[:8]}  {cell.state:<6}  {cell.label}"
    if cell.failure:
        why = reason(cell.failure.kind, cell.failure.error)
        line += f"  attempts: {cell.failure.attempts}, {why}"
    return line if cell.seconds is None else f"{line}  {cell.seconds:.3g} s"


@dataclass(frozen=True, kw_only=True)
class SweepShow:
    """Show one cell of a sweep: its configuration, what it left, or how it failed."""

    place: Place
    """STORE/sweeps/NAME."""
    cell: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY|FIELD=VALUE")]]
    """The beginning of its key, or field=value as often as it takes to name one cell."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        import json

        from interp.sweeps.status import find_cell, read_sweep, split

        store, name = split(self.place)
        if name is None:
            raise InputError(f"{self.place} is no sweep: write STORE/sweeps/NAME.")
        cell = find_cell(read_sweep(store, name), self.cell)
        _say(console, cell_line(cell))
        _say(console, json.dumps(cell.config, indent=2))
        if cell.failure:
            for title in ("traceback", "log"):
                if text := getattr(cell.failure, title):
                    _say(console, f"{title}:\n{text}")
        return 0


@dataclass(frozen=True, kw_only=True)
class SweepGc:
    """Clear what a store no longer needs: notes of mended failures, and damaged cells."""

    place: Place
    """A store."""
    orphans: bool = False
    """Also cells that no sweep of the store names, such as those of older code."""
    yes: bool = False
    """Remove; without it the command only says what it would remove."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.sweeps.status import clear, split

        found = clear(split(self.place)[0], orphans=self.orphans, act=self.yes)
        what = (
            f"{len(found.failures)} notes on failures, {len(found.damaged)} damaged cells, "
            f"{len(found.orphans)} cells that no sweep names, {len(found.strays)} unfinished files "
            "of the index"
        )
        _say(console, f"Removed {what}." if self.yes else f"Would remove {what}; --yes does so.")
        return 0


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True, highlight=False)
