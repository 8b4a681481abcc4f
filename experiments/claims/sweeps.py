"""Claims about sweeps: what they cost, how they scale, and what they survive.

Where several processes work at once the time is that of the wall, else CPU seconds of this process
stand beside it. Each figure is the median of its repeats. Cells burn a given number of CPU seconds
of one thread, so a rate tells what the sweep adds, not how cores share their caches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments import chaos, scan, synthetic
from experiments.claims.core import Claim, Measured
from interp.results import index
from interp.sweeps.drive import run_grid
from interp.sweeps.executors.base import Executor
from interp.sweeps.executors.inline import Inline
from interp.sweeps.executors.local import Local
from interp.sweeps.executors.ray_executor import Ray
from interp.sweeps.grid import Grid, parse_grid, read_grid
from interp.sweeps.plan import Plan, Planned
from interp.sweeps.work import Report

EXECUTORS: dict[str, Callable[[], Executor]] = {"inline": Inline, "local": Local, "ray": Ray}
SMOKE = Path(__file__).parents[1] / "grids" / "tts_smoke.yaml"


def cells(n: int, burn: float) -> Grid:
    """A grid of `n` cells of one subject that take `burn` CPU seconds each."""
    text = f"experiment: experiments.synthetic:EXPERIMENT\nbase: {{burn: {burn}}}\nseeds: {n}\n"
    return parse_grid(text, "claim")


@dataclass
class Clock:
    """Watches a sweep: when each worker finished each of its cells, in seconds."""

    ended: dict[int, list[float]] = field(default_factory=dict)

    def begin(self, plan: Plan, executor: Executor, workers: int) -> None:
        """Nothing to note."""

    def gave(self, worker: int, cell: Planned, attempt: int) -> None:
        """Nothing to note."""

    def settled(self, worker: int, cell: Planned, report: Report) -> None:
        """Note when."""
        self.ended.setdefault(worker, []).append(time.monotonic())

    def tick(self) -> None:
        """Nothing to note."""

    def end(self) -> None:
        """Nothing to note."""


def steady_rate(ended: dict[int, list[float]]) -> float:
    """Cells a second once every worker is up: the sum of the workers' own rates from then on.

    A worker is up when it has finished a cell. Its rate counts from a cell to a cell, so that
    neither a start nor a wait at the end is in it.

    >>> steady_rate({0: [9.0, 10.0, 12.0, 14.0], 1: [10.0, 14.0]})  # 2 in 4 s, and 1 in 4 s
    0.75
    """
    up = max(times[0] for times in ended.values())
    steady = [[each for each in times if each >= up] for times in ended.values()]
    return sum((len(t) - 1) / (t[-1] - t[0]) for t in steady if len(t) > 1)


@dataclass(frozen=True)
class Timed:
    """One sweep, timed."""

    steady: float
    """Cells a second once the workers are up."""
    whole: float
    """Cells a second from the call to its return, start-up and packing included."""
    cpu: float
    """CPU seconds of this process a cell."""
    share: float
    """Cells of the worker that got most of them, over their number."""


def timed(grid: Grid, executor: Executor, workers: int) -> Timed:
    """Run a grid into a store of its own.

    Raises:
        RuntimeError: a cell was not computed.
    """
    clock, n = Clock(), len(grid.cells)
    with tempfile.TemporaryDirectory() as store:
        wall, cpu = time.perf_counter(), time.process_time()
        done = run_grid(grid, store, executor=executor, workers=workers, watch=clock)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if done.computed != n:
        raise RuntimeError(f"{done.computed} of {n} cells were computed.")
    most = max(map(len, clock.ended.values()))
    return Timed(steady_rate(clock.ended), n / wall, cpu / n, most / n)


def alone(grid: Grid) -> float:
    """Wall seconds a cell of the experiment itself, without a sweep."""
    started = time.perf_counter()
    for config in grid.cells:
        synthetic.EXPERIMENT.run(config.model, config)
    return (time.perf_counter() - started) / len(grid.cells)


def overhead(name: str, *, n: int = 200, repeats: int = 5) -> dict[str, Any]:
    """What a sweep adds to a cell that does nothing, in milliseconds, with one worker.

    `whole` counts everything from the call to its return; `steady` what each further cell adds.
    """
    grid = cells(n, 0.0)
    own = median(alone(grid) for _ in range(repeats))
    runs = [timed(grid, EXECUTORS[name](), 1) for _ in range(repeats)]
    return {
        "executor": name,
        "cells": n,
        "repeats": repeats,
        "whole ms": 1000 * (median(1 / run.whole for run in runs) - own),
        "steady ms": 1000 * (median(1 / run.steady for run in runs) - own),
        "driver CPU ms": 1000 * median(run.cpu for run in runs),
        "cell alone ms": 1000 * own,
    }


def sweep_overhead(*, n: int = 200, repeats: int = 5) -> Measured:
    """No-op cells in this process, planning, writing to the disk and packing included."""
    rows = tuple(overhead(name, n=n, repeats=repeats) for name in ("inline", "local"))
    inline, local = rows
    text = (
        f"{inline['whole ms']:.1f} ms a cell of wall time, {inline['driver CPU ms']:.1f} ms of CPU "
        f"({n} cells that do nothing, median of {repeats}); with a local worker "
        f"{local['steady ms']:.1f} ms once it is up"
    )
    return Measured(text, inline["whole ms"] < 20.0, rows)


def ray_overhead(*, n: int = 200, repeats: int = 3) -> Measured:
    """No-op cells on one Ray actor, once it is up."""
    if find_spec("ray") is None:
        return Measured("not measured: Ray is not installed", False)
    row = overhead("ray", n=n, repeats=repeats)
    text = (
        f"{row['steady ms']:.1f} ms a cell once the worker is up, {row['whole ms']:.1f} ms with "
        f"the start of a local cluster ({n} cells that do nothing, median of {repeats})"
    )
    return Measured(text, row["steady ms"] < 60.0, (row,))


def scaling(
    name: str, goal: float, *, n: int = 12, burn: float = 2.0, repeats: int = 3
) -> Measured:
    """The rate of cells with two workers over the rate with one, by turns.

    The goal is held against the steady rate: a start is paid once however long a sweep is, so its
    share says how many cells were timed. The rate with start-up is told beside it.
    """
    if name == "ray" and find_spec("ray") is None:
        return Measured("not measured: Ray is not installed", False)
    grid, runs = cells(n, burn), {1: [], 2: []}
    for _ in range(repeats):
        for workers, found in runs.items():
            found.append(timed(grid, EXECUTORS[name](), workers))
    return scaling_text(runs, goal, f"{n} cells of {burn:g} CPU seconds, median of {repeats}")


def scaling_text(runs: dict[int, list[Timed]], goal: float, about: str) -> Measured:
    """Read the runs with one worker and with two."""
    rates = {
        kind: {k: median(getattr(run, kind) for run in found) for k, found in runs.items()}
        for kind in ("steady", "whole")
    }
    steady, whole = (rates[kind][2] / rates[kind][1] for kind in ("steady", "whole"))
    text = (
        f"{steady:.2f}x once the workers are up, {whole:.2f}x with start-up ({about}; with two "
        f"{60 * rates['steady'][2]:.3g} cells a minute)"
    )
    table = tuple(
        {"workers": k, "run": i, "steady": run.steady, "with start-up": run.whole}
        | {"share of the busiest": run.share}
        for k, found in runs.items()
        for i, run in enumerate(found)
    )
    return Measured(text, steady >= goal, table)


def sweep_chaos(*, kills: int = 200) -> Measured:
    """The sweep of `experiments.chaos`, killed 200 times."""
    return chaos_text(chaos.run(chaos.Config(kills=kills)), kills)


def chaos_text(tally: chaos.Tally, kills: int) -> Measured:
    """Read a tally."""
    done, by = sum(tally.kills.values()), tally.kills
    text = (
        f"{done} kills ({by['driver']} of the driver, {by['worker']} of a worker, {by['group']} of "
        f"all; {tally.cut_cells} left a cell half written, {tally.cut_packs} the index), "
        f"{tally.starts} starts, {tally.cells} cells: {tally.lost} lost, {tally.doubled} doubled, "
        f"{tally.different} different, {tally.torn} torn; {tally.orphans} workers and "
        f"{tally.leftovers} unfinished files left over, {tally.strays} segments without a list"
    )
    table = tuple({"count": name, "is": value} for name, value in vars(tally).items())
    return Measured(text, tally.holds and done == kills, table)


def records_scan(*, n: int = 100_000, repeats: int = 3) -> Measured:
    """A large store listed and filtered by a process of its own, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        scan.build(Path(folder) / "store", n)
        found = [scan.scan(Path(folder) / "store") for _ in range(repeats)]
    seconds = median(map(scan.seconds, found))
    torch_free = not any(each["torch"] for each in found)
    complete = all(each["cells"] == n and each["chosen"] > 0 for each in found)
    text = (
        f"{n} cells listed and filtered in {seconds:.2f} s, imports included, all rows in "
        f"{median(each['all_rows_seconds'] for each in found):.2f} s more (median of {repeats}, "
        f"files in memory; torch {'not ' * torch_free}imported)"
    )
    return Measured(text, seconds < 5.0 and torch_free and complete, tuple(found))


def sweep_equal() -> Measured:
    """Three models, five seeds and two presets inline, on local workers and on Ray."""
    found = [name for name in EXECUTORS if name != "ray" or find_spec("ray") is not None]
    return equal(read_grid(SMOKE), found)


def equal(grid: Grid, names: Sequence[str], *, workers: int = 2) -> Measured:
    """Run a grid on several executors, inline first; the tables of each cell, byte for byte."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        for name in names:
            run = run_grid(
                grid,
                Path(folder) / name,
                executor=EXECUTORS[name](),
                workers=1 if name == "inline" else workers,
            )
            if run.failed:
                raise RuntimeError(f"{name}: {run.failed[0].failure}")
        stores = {name: chaos.contents(Path(folder) / name) for name in names}
        about = index.about(Path(folder) / "inline")
    return equal_text(stores, sum(about["rows"].to_pylist()))


def equal_text(stores: dict[str, dict[str, chaos.Tables]], rows: int) -> Measured:
    """Compare the stores of several executors with the first, which is inline."""
    first = stores["inline"]
    astray = {name: differing(first, store) for name, store in stores.items() if name != "inline"}
    found = ", ".join(f"{name} {len(keys)} of {len(first)}" for name, keys in astray.items())
    text = f"{len(first)} cells, {rows} rows; cells that differ from inline: {found}"
    if "ray" not in stores:
        text += "; Ray is not installed or was not asked"
    holds = len(stores) == len(EXECUTORS) and len(first) > 0 and not any(astray.values())
    table = tuple({"executor": n, "cell": key} for n, keys in astray.items() for key in keys)
    return Measured(text, holds, table)


def differing(one: dict[str, chaos.Tables], other: dict[str, chaos.Tables]) -> list[str]:
    """The cells that only one store has, or whose tables are not the same bytes.

    >>> differing({"a": {"t": b"1"}, "b": {}}, {"a": {"t": b"2"}, "b": {}, "c": {}})
    ['a', 'c']
    """
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch uses one thread, as the workers of a sweep on two cores do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


CLAIMS = (
    Claim("sweep-overhead", "under 20 ms a cell inline", sweep_overhead),
    Claim("sweep-overhead-ray", "under 60 ms a cell", ray_overhead),
    Claim("sweep-scaling-local", "2 workers at least 1.7x of 1", lambda: scaling("local", 1.7)),
    Claim("sweep-scaling-ray", "2 workers at least 1.6x of 1", lambda: scaling("ray", 1.6)),
    Claim("sweep-chaos", "200 kills: nothing lost, doubled or changed", sweep_chaos),
    Claim("records-scan", "100,000 cells under 5 s, no torch", records_scan),
    Claim("sweep-equal", "the same bytes inline, local and on Ray", sweep_equal),
)
