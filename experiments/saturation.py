"""Where a sweep stops to scale: a simulation of many workers from costs measured on few.

    python -m experiments.saturation [--measure] [--workers 1 2 10 100 1000] [--json]

Every worker goes round: the driver notes its last cell and hands it the next, it loads the subject
if that is another one than before, computes the cell, and writes it to the store. Driver, store and
loading are queues with one or several places, first come, first served; the simulation follows each
cell through them, so it knows where workers wait. It prints its assumptions with its results.

With `--measure` the costs of driver, store and loading are measured here, now; without, they are
the given ones.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from interp.errors import InputError, InterpError
from interp.results.cells import Cells, cell_key
from interp.sweeps.drive import prepare, run_grid
from interp.sweeps.executors.local import Local
from interp.sweeps.grid import parse_grid
from interp.sweeps.plan import Planned
from interp.sweeps.queue import Queue

FULL = 0.95
"""Share of the time for which a queue is busy that counts as saturated."""
IDLE = 0.9
"""Share of their time for which workers compute below which they count as kept waiting."""
REQUESTS = 5
"""Requests to a bucket for a cell of one table: three looks whether it is there, two uploads."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What each step takes, in seconds, and how many can take it at once."""

    plan: float = 0.0003
    """Driver, once, for each cell of the grid: its key, and whether it is there."""
    spawn: float = 0.005
    """Driver, once a worker: to start it."""
    up: float = 1.0
    """A worker, once: from its start until it can take a cell."""
    driver: float = 0.002
    """Driver, a cell: to note a report, hand out the next cell, and pack the index."""
    store: float = 0.02
    """A worker, a cell: to look whether it is there, and to write it."""
    store_places: int = 1
    """How many cells the store writes at once without slowing down; a local disk one."""
    loading: float = 5.0
    """A worker, a subject: to load it where nobody else loads."""
    loading_places: int = 8
    """How many subjects can be loaded at once without slowing down: the bandwidth of the store of
    weights over that of one reader."""
    cell: float = 2.0
    """Median seconds of computing a cell."""
    spread: float = 0.5
    """Standard deviation of the logarithm of these seconds: 0.5 puts the longest of 40 cells at
    three times the median. 0: all alike."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1 if name.endswith("places") else 0
            if not value >= least:
                raise InputError(f"{name}={value}: give at least {least}.")

    def bucket(self, latency: float) -> Costs:
        """The same with a bucket: a latency a request, and room for everybody."""
        return replace(self, store=REQUESTS * latency, store_places=10_000)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Simulate sweeps of several sizes on two kinds of stores."""

    workers: tuple[int, ...] = (1, 2, 10, 100, 1000)
    """How many workers; one sweep each."""
    each: int = 50
    """Cells a worker gets on average; the sweep grows with the workers."""
    subjects: int = 3
    """Models of the grid; cells of one model share it."""
    latency: float = 0.05
    """Seconds of one request to the bucket."""
    seed: int = 0
    """Draws the seconds of the cells."""
    measure: bool = False
    """Measure plan, spawn, up, driver, store and loading on this machine first."""
    model: str = "smollm2-135m"
    """The model whose loading is measured."""
    costs: Costs = field(default_factory=Costs)
    """What each step takes."""
    json: bool = False
    """One JSON object a sweep instead of the table; the first line holds costs and assumptions."""

    def __post_init__(self) -> None:
        if min((*self.workers, self.each, self.subjects)) < 1 or self.latency < 0:
            raise InputError(
                "--workers, --each, --subjects and --latency: give at least 1, 1, 1, 0."
            )


@dataclass
class Places:
    """A queue with several places: first come, first served."""

    places: int
    busy: float = 0.0
    """Seconds for which places were taken, over all of them."""
    _free: list[float] = field(default_factory=list)

    def serve(self, now: float, seconds: float) -> float:
        """Return when a request is done that comes `now`; requests must come in order of time.

        >>> till = Places(1)
        >>> till.serve(0.0, 2.0), till.serve(1.0, 2.0), till.serve(9.0, 2.0)
        (2.0, 4.0, 11.0)
        """
        self.busy += seconds
        start = now
        if len(self._free) == self.places:
            start = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, start + seconds)
        return start + seconds


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a simulated sweep came to."""

    workers: int
    cells: int
    seconds: float
    """From the first start to the last cell's note, without the plan."""
    plan: float
    """Seconds of planning before that."""
    rate: float
    """Cells a second of `seconds`."""
    shares: dict[str, float]
    """Of the workers' time: computing, and each step with the wait for it; `idle` before they
    are started and after their last cell."""
    busy: dict[str, float]
    """For which share of the time driver, store and loading were taken, of all their places."""

    @property
    def bound(self) -> str:
        """What limits the sweep: the fullest queue; else where workers lose most; else nothing."""
        fullest = max(self.busy, key=lambda name: self.busy[name])
        if self.busy[fullest] >= FULL:
            return fullest
        if self.shares["computing"] >= IDLE:
            return "nothing"
        lost = {name: share for name, share in self.shares.items() if name != "computing"}
        return max(lost, key=lambda name: lost[name])


class _Simulation:
    """Every worker's way through the queues, in order of time."""

    def __init__(self, costs: Costs, seconds: Sequence[float], subjects: int) -> None:
        self.costs, self.seconds = costs, seconds
        names = (str(i % subjects) for i in range(len(seconds)))
        self.waiting = Queue(Planned(str(i), {}, (name,), "todo") for i, name in enumerate(names))
        self.queues = {
            "driver": Places(1),
            "loading": Places(costs.loading_places),
            "store": Places(costs.store_places),
        }
        self.spent = dict.fromkeys(("computing", *self.queues, "starting"), 0.0)
        self.at: dict[int, Planned] = {}
        self.holds: dict[int, tuple[str, ...]] = {}
        self.end = 0.0

    def run(self, workers: int) -> None:
        """Follow the workers until none has anything to do."""
        events = [(0.0, worker, "starting") for worker in range(workers)]
        while events:
            now, worker, stage = heapq.heappop(events)
            done, following = getattr(self, f"_{stage}")(now, worker)
            self.spent[stage] += done - now
            if following:
                heapq.heappush(events, (done, worker, following))

    def _starting(self, now: float, worker: int) -> tuple[float, str]:
        """A worker is started with its first cell, one after another."""
        if not self._take(worker):
            return now, ""
        return self.queues["driver"].serve(now, self.costs.spawn) + self.costs.up, "loading"

    def _loading(self, now: float, worker: int) -> tuple[float, str]:
        group = self.at[worker].group
        if self.holds.get(worker) == group:
            return now, "computing"
        self.holds[worker] = group
        return self.queues["loading"].serve(now, self.costs.loading), "computing"

    def _computing(self, now: float, worker: int) -> tuple[float, str]:
        return now + self.seconds[int(self.at[worker].key)], "store"

    def _store(self, now: float, worker: int) -> tuple[float, str]:
        return self.queues["store"].serve(now, self.costs.store), "driver"

    def _driver(self, now: float, worker: int) -> tuple[float, str]:
        """The driver notes a cell and hands out the next."""
        self.end = done = self.queues["driver"].serve(now, self.costs.driver)
        return done, "loading" if self._take(worker) else ""

    def _take(self, worker: int) -> bool:
        cell = self.waiting.take(worker)
        if cell is not None:
            self.at[worker] = cell
        return cell is not None


def simulate(costs: Costs, seconds: Sequence[float], *, workers: int, subjects: int = 1) -> Result:
    """Follow every cell of a sweep through driver, loading, computing and store.

    Events are taken in order of time, so every queue serves in the order of arrival. Which worker
    gets which cell is decided by the queue that sweeps use.

    Args:
        costs: what each step takes.
        seconds: what each cell takes to compute; cell `i` is of subject `i % subjects`.
        workers: how many work at once.
        subjects: how many subjects the cells share.

    >>> free = Costs(plan=0, spawn=0, up=0, driver=0, store=0, loading=0)
    >>> simulate(free, [2.0, 2.0, 2.0], workers=1).rate
    0.5
    """
    following = _Simulation(costs, seconds, subjects)
    following.run(workers)
    end, spent = following.end, following.spent
    whole = end * workers
    shares = {name: value / whole if whole else 0.0 for name, value in spent.items()}
    busy = {
        name: queue.busy / (end * queue.places) if end else 0.0
        for name, queue in following.queues.items()
    }
    return Result(
        workers=workers,
        cells=len(seconds),
        seconds=end,
        plan=costs.plan * len(seconds),
        rate=len(seconds) / end if end else float("inf"),
        shares=shares | {"idle": 1.0 - sum(shares.values())},
        busy=busy,
    )


def draw_seconds(costs: Costs, n: int, seed: int) -> list[float]:
    """Seconds of `n` cells: lognormal with the median and the spread of the costs."""
    draw = random.Random(seed)
    return [costs.cell * draw.lognormvariate(0.0, costs.spread) for _ in range(n)]


def limits(costs: Costs) -> dict[str, float]:
    """Cells a second that driver and store can serve at most, with any number of workers.

    >>> limits(Costs(driver=0.01, store=0.1, store_places=4))
    {'driver': 100.0, 'store': 40.0}
    """
    rates = {"driver": (1, costs.driver), "store": (costs.store_places, costs.store)}
    return {name: n / each if each else float("inf") for name, (n, each) in rates.items()}


def saturating(costs: Costs) -> dict[str, float]:
    """With how many workers driver and store are full: their limit times a worker's round.

    The mean of a lognormal distribution is its median times `exp(spread² / 2)`.

    >>> saturating(Costs(driver=0.01, store=0.09, cell=0.9, spread=0.0))["driver"]
    100.0
    """
    round_trip = costs.cell * math.exp(costs.spread**2 / 2) + costs.store + costs.driver
    return {name: limit * round_trip for name, limit in limits(costs).items()}


# ---------------------------------------------------------------- measuring


def measure(model: str, *, n: int = 200) -> Costs:
    """Measure what this machine's driver, workers, store and loading take.

    Medians of single steps; the driver's seconds are CPU seconds of its process, for with more
    workers it would not wait. How many cells the disk writes at once is the gain of eight threads.

    Raises:
        ModelError: there is no such model.
    """
    grid = parse_grid(f"experiment: experiments.synthetic:EXPERIMENT\nseeds: {n}\n", "costs")
    with tempfile.TemporaryDirectory() as folder:
        plan = clocked(lambda: prepare(grid, f"{folder}/none"), 3) / n
        cpu = time.process_time()
        run_grid(grid, f"{folder}/local", executor=Local(), workers=1)
        driver = max(0.0, (time.process_time() - cpu) / n - plan)
        store = one_write(Path(folder) / "alone", n)
        places = max(1, round(store / together(Path(folder) / "eight", n, threads=8)))
    up = clocked(lambda: subprocess.run(_worker_command(), check=True), 3)
    spawn = clocked(lambda: subprocess.Popen(["true"]).wait(), 9)
    loading = clocked(lambda: _load(model), 3)
    return Costs(
        plan=plan,
        spawn=spawn,
        up=up,
        driver=driver,
        store=store,
        store_places=places,
        loading=loading,
    )


def clocked(act: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of a call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def one_write(folder: Path, n: int) -> float:
    """Median seconds in which a worker looks for a cell and writes it."""
    cells, numbers = Cells.open(folder, write=True), iter(range(n))
    return clocked(lambda: _write(cells, next(numbers)), n)


def together(folder: Path, n: int, *, threads: int) -> float:
    """Seconds a cell where several threads write at once."""
    cells = Cells.open(folder, write=True)
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: _write(cells, i), range(n)))
    return (time.perf_counter() - started) / n


def _write(cells: Cells, i: int) -> None:
    identity = {"experiment": "costs", "config": {"seed": i}}
    rows = [{"id": f"p{r}", "score": i / (r + 1)} for r in range(3)]
    key = cell_key(identity)
    if not cells.has(key):
        cells.write(key, identity, {"scores": rows}, {"seconds": 0.0})


def _worker_command() -> list[str]:
    return [sys.executable, "-c", "import interp.sweeps.executors.process, interp.engine.loading"]


def _load(model: str) -> object:
    from interp.engine.loading import load

    return load(model)


# ---------------------------------------------------------------- what is printed


def assumptions(config: Config, costs: Costs) -> list[str]:
    """What the simulation takes for granted, in sentences."""
    how = f"measured here ({config.model})" if config.measure else "given, not measured"
    return [
        f"Costs are {how}: {', '.join(f'{k} {v:.3g}' for k, v in asdict(costs).items())}.",
        "Cells take lognormal seconds with that median and spread, whoever computes them: workers "
        "have a core or a device of their own.",
        f"A worker gets {config.each} cells on average, of {config.subjects} subjects; it loads a "
        f"subject once, and {costs.loading_places} load at full speed at once.",
        f"A folder writes {costs.store_places} cells at once; a bucket takes {REQUESTS} requests "
        f"of {config.latency:g} s a cell and serves everybody.",
        "The driver is one thread and costs the same a cell with any number of workers; packing "
        "the index is part of that, and is spread evenly.",
        "Nothing fails, no worker is lost, and all start together.",
    ]


def stores(config: Config, costs: Costs) -> dict[str, Costs]:
    """The two kinds of stores."""
    return {"folder": costs, f"bucket, {config.latency:g} s": costs.bucket(config.latency)}


def rows(config: Config, costs: Costs) -> Iterator[dict[str, Any]]:
    """One simulated sweep a store and a number of workers."""
    for name, each in stores(config, costs).items():
        for workers in config.workers:
            seconds = draw_seconds(each, workers * config.each, config.seed)
            found = simulate(each, seconds, workers=workers, subjects=config.subjects)
            yield {"store": name, **asdict(found), "bound": found.bound}


def show(found: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one line a sweep."""
    table = Table("store", "workers", "plan s", "cells/s", "workers' time", "busy", "bound by")
    for row in found:
        numbers = (str(row["workers"]), f"{row['plan']:.2g}", f"{row['rate']:.3g}")
        table.add_row(
            row["store"], *numbers, listed(row["shares"]), listed(row["busy"]), row["bound"]
        )
    console.print(table)


def listed(shares: Mapping[str, float]) -> str:
    """Shares of at least one percent, largest first.

    >>> listed({"idle": 0.004, "store": 0.25, "computing": 0.746})
    'computing 75%, store 25%'
    """
    most = sorted(shares.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in most if share >= 0.01)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    try:
        config = tyro.cli(Config, args=argv, description=__doc__)
        costs = measured_costs(config)
    except InterpError as error:
        sys.stderr.write(f"saturation: {error}\n")
        sys.exit(error.exit_code)
    said, found = assumptions(config, costs), list(rows(config, costs))
    full = {name: saturating(each) for name, each in stores(config, costs).items()}
    if config.json:
        about = {"assumptions": said, "costs": asdict(costs), "full with workers": full}
        print("\n".join(json.dumps(each) for each in (about, *found)))
        return
    console = Console()
    show(found, console)
    for name, each in full.items():
        counts = ", ".join(f"{what} with {n:,.0f} workers" for what, n in each.items())
        console.print(f"{name}: full would be {counts}.", highlight=False)
    for line in said:
        console.print(f"- {line}", highlight=False)


def measured_costs(config: Config) -> Costs:
    """The given costs, or with `measure` this machine's in their place."""
    if not config.measure:
        return config.costs
    own = config.costs
    kept = {name: getattr(own, name) for name in ("cell", "spread", "loading_places")}
    return replace(measure(config.model), **kept)


if __name__ == "__main__":
    main()
