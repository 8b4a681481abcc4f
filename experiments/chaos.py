"""A sweep that is killed over and over with SIGKILL, beside one that never was.

    python -m experiments.chaos [--kills 200] [--seed 0] [--json]

A sweep of small cells runs on two local workers. At random moments (start-up, the middle of a cell
or of its writing, the packing of the index) the driver, a worker, or all of them are killed; then
it is started again, until the kills are used up. After each kill every new cell is read and
compared. The last start runs to the end, and the store is compared with that of the sweep that
nobody killed: the same keys, and of each cell the same bytes in its tables.

The seed decides the victims and the delays, these as shares of the time that a start takes until
its first cell; which cell a kill then hits depends on the machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from interp.errors import InputError
from interp.results import index
from interp.results.cells import Cells
from interp.results.disk import PART, names

Victim = Literal["driver", "worker", "group"]
VICTIMS: tuple[Victim, ...] = ("driver", "worker", "group")
WORKERS = 2
PACK_EVERY = 3
"""Cells after which the driver packs the index here, so that kills hit that too."""
LATEST = 2.5
"""Start-ups within which a kill comes: the seconds from a start to its first cell, as measured."""
MOST_CELLS = 12
"""New cells after which a kill comes at the latest, so that the work lasts for all kills."""
PAUSE = 0.06
"""Seconds by which a kill is late at most: somewhere in the next cell, its writing or the index."""
LOOK = 0.004
"""Seconds between two looks at the store while a kill waits for its moment."""
END = 6.0
"""Seconds in which a worker must have ended whose driver is gone."""
ROOT = Path(__file__).parents[1]

GRID = """\
experiment: experiments.synthetic:EXPERIMENT
axes: {{product: {{model: [a, b], burn: [0.01, 0.03]}}}}
seeds: {seeds}
tries: 1000
"""

_DRIVER = """
import sys
from interp.sweeps import drive
from interp.sweeps.executors.local import Local
from interp.sweeps.grid import parse_grid
drive.PACK_EVERY = int(sys.argv[4])
grid = parse_grid(sys.argv[2], "chaos")
done = drive.run_grid(grid, sys.argv[1], executor=Local(), workers=int(sys.argv[3]))
sys.exit(1 if done.failed or done.stopped else 0)
"""

Tables = Mapping[str, bytes]
"""The Parquet file of each table of a cell."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Kill a sweep and see what it loses."""

    kills: int = 200
    """How many times SIGKILL is sent."""
    seed: int = 0
    """Decides the victims and the delays."""
    cells: int | None = None
    """Size of the sweep; by default 12 a kill, and at least 120."""
    json: bool = False
    """One JSON object instead of the table."""

    def __post_init__(self) -> None:
        if self.kills < 0 or (self.cells is not None and self.cells < 4):
            raise InputError(
                f"kills={self.kills}, cells={self.cells}: give 0 kills or more and 4 cells or more."
            )

    @property
    def grid(self) -> str:
        """The grid file of the sweep."""
        cells = self.cells or max(120, 12 * self.kills)
        return GRID.format(seeds=-(-cells // 4))


@dataclass(frozen=True)
class Kill:
    """Whom to kill, and when."""

    victim: Victim
    late: float
    """At the latest so many start-ups after the start, or after the kill before."""
    cells: int
    """Or once so many cells more are finished,"""
    pause: float
    """and so many seconds later."""
    draw: float
    """From [0, 1): which worker."""


def plan_kills(n: int, seed: int) -> list[Kill]:
    """Draw victims and moments; the same for the same seed.

    >>> plan_kills(2, 0) == plan_kills(3, 0)[:2], plan_kills(2, 0) == plan_kills(2, 1)
    (True, False)
    """
    draw = random.Random(seed)
    return [
        Kill(
            victim=draw.choice(VICTIMS),
            late=draw.uniform(0, LATEST),
            cells=draw.randint(1, MOST_CELLS),
            pause=draw.uniform(0, PAUSE),
            draw=draw.random(),
        )
        for _ in range(n)
    ]


@dataclass(kw_only=True)
class Tally:
    """What became of the sweep."""

    seed: int
    kills: dict[Victim, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    starts: int = 0
    stops: int = 0
    """Starts that ended by themselves, as they do when three workers die before they come up."""
    startup: float = 0.0
    """Seconds from a start to its first cell."""
    status: int | None = None
    """With what the last start ended."""
    cells: int = 0
    """Of the sweep that nobody killed."""
    left: int = 0
    """Cells that were still to do at the last kill."""
    cut_cells: int = 0
    """Kills that left a cell half written under its unfinished name."""
    cut_packs: int = 0
    """Kills that left a segment of the index without its list."""
    torn: int = 0
    """Cells that had their name and could not be read whole, at any look."""
    lost: int = 0
    """Cells missing at the end, or gone between two looks."""
    doubled: int = 0
    """Keys that the other store has not, and rows that the index gives more often than it."""
    different: int = 0
    """Cells whose tables are not the same bytes, at any look."""
    index_equal: bool = False
    """Whether the index of both stores gives equal rows."""
    orphans: int = 0
    """Workers that still ran seconds after the last driver had ended."""
    leftovers: int = 0
    """Unfinished files and folders after the last start."""
    strays: int = 0
    """Segments of the index without a list after the last start: no reader uses them."""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled, changed or left running."""
        bad = (self.torn, self.lost, self.doubled, self.different, self.orphans, self.leftovers)
        return not any(bad) and self.index_equal and self.status == 0


def run(config: Config, *, say: Callable[[str], None] = lambda text: None) -> Tally:
    """Run both sweeps and compare what they left."""
    started = time.monotonic()
    tally = Tally(seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="interp-chaos-", ignore_cleanup_errors=True) as folder:
        whole, store = Path(folder) / "whole", Path(folder) / "killed"
        say("the sweep that nobody kills ...")
        tally.startup = run_whole(whole, config.grid)
        expected = contents(whole)
        tally.cells = len(expected)
        _Chaos(config, store, expected, tally, say).run()
        compare(store, whole, tally)
    tally.seconds = time.monotonic() - started
    return tally


def run_whole(store: Path, grid: str) -> float:
    """Run the sweep that nobody kills; return the seconds until its first cell."""
    started, first = time.monotonic(), 0.0
    driver = start_driver(store, grid)
    while driver.poll() is None:
        if not first and named(store):
            first = time.monotonic() - started
        time.sleep(LOOK if not first else 0.1)
    if driver.returncode:
        raise RuntimeError(f"It ended with {driver.returncode}:\n{log_of(store).read_text()}")
    return first


class _Chaos:
    """The sweep that is killed."""

    def __init__(
        self,
        config: Config,
        store: Path,
        expected: Mapping[str, Tables],
        tally: Tally,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.store, self.tally, self.say = config, store, tally, say
        self.sight = Sight(store, expected)
        self.driver: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Kill as planned, start again each time, and let the last start end."""
        try:
            kills = plan_kills(self.config.kills, self.config.seed)
            for n, kill in enumerate(kills, 1):
                if not self._strike(kill):
                    break
                self.tally.kills[kill.victim] += 1
                self._look()
                if n % 20 == 0:
                    self.say(f"{n} kills, {len(self.sight.seen)} of {self.tally.cells} cells")
            self.tally.left = self.tally.cells - len(self.sight.seen)
            self._finish()
        finally:
            if self.driver is not None and _runs(self.driver):
                self.driver.kill()
                self.driver.wait()

    def _strike(self, kill: Kill) -> bool:
        """Wait for the moment and kill; False where the sweep is finished before."""
        while True:
            driver = self._running()
            if self._wait(driver, kill) and self._kill(driver, kill):
                return True
            if driver.wait() == 0:
                return False
            self.tally.stops += 1

    def _running(self) -> subprocess.Popen[bytes]:
        """The driver, started if it does not run."""
        if self.driver is None or not _runs(self.driver):
            self.driver = start_driver(self.store, self.config.grid)
            self.tally.starts += 1
        return self.driver

    def _wait(self, driver: subprocess.Popen[bytes], kill: Kill) -> bool:
        """Wait for a kill's moment; False where the driver ends before."""
        until = time.monotonic() + kill.late * self.tally.startup
        enough = named(self.store) + kill.cells
        while time.monotonic() < until and named(self.store) < enough:
            if driver.poll() is not None:
                return False
            time.sleep(LOOK)
        time.sleep(kill.pause)
        return driver.poll() is None

    def _kill(self, driver: subprocess.Popen[bytes], kill: Kill) -> bool:
        """Send SIGKILL; False where the driver ended while a worker to be killed did not come."""
        if kill.victim == "worker":
            while driver.poll() is None:
                workers = workers_of(driver.pid)
                if workers and end(workers[int(kill.draw * len(workers))]):
                    return True
                time.sleep(5 * LOOK)
            return False
        workers = workers_of(driver.pid) if kill.victim == "group" else []
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        for worker in workers:
            end(worker)
        return True

    def _look(self) -> None:
        self.sight.look()
        cells, packs = self.sight.cut()
        self.tally.cut_cells += cells
        self.tally.cut_packs += packs and not _runs(self.driver)

    def _finish(self) -> None:
        """Run to the end, once the workers of killed drivers are gone."""
        if not _runs(self.driver):
            self.tally.orphans += len(lasting_workers(self.store))
        self.tally.status = self._running().wait()
        if self.tally.status:  # the driver ran already, and lost its workers in a row
            self.tally.stops += 1
            self.tally.status = self._running().wait()
        self.sight.look()
        self.tally.orphans += len(lasting_workers(self.store))
        self.tally.torn = len(self.sight.torn)
        self.tally.lost = len(self.sight.gone)
        self.tally.different = len(self.sight.different)
        self.tally.leftovers = len(unfinished(self.store))
        self.tally.strays = len(unlisted(self.store))


class Sight:
    """What was seen of a store so far, by reading it as anybody would."""

    def __init__(self, store: Path, expected: Mapping[str, Tables]) -> None:
        self.store, self.expected = store, expected
        self.seen: set[str] = set()
        self.gone: set[str] = set()
        self.torn: set[str] = set()
        self.different: set[str] = set()
        self._parts: set[Path] = set()

    def look(self) -> None:
        """Read every cell that is new, and see that none is gone that was there."""
        if not self.store.is_dir():
            return
        vouched = index.verified(self.store)
        cells = Cells.open(self.store)
        keys = set(cells.keys())
        self.gone |= self.seen - keys
        for key in keys - self.seen:
            cell = cells.read(key)
            if cell is None:
                self.torn.add(key)
            elif cell.tables != self.expected.get(key):
                self.different.add(key)
        self.seen |= keys
        self.torn |= vouched - keys

    def cut(self) -> tuple[bool, bool]:
        """Whether the dead left a cell, and whether the index, half written since the last look."""
        parts = {part for part in unfinished(self.store) if not _lives(part)}
        parts |= unlisted(self.store)
        fresh, self._parts = parts - self._parts, parts
        cells = any(part.parent.name == "cells" for part in fresh)
        return cells, any(part.parent.name == "index" for part in fresh)


def start_driver(store: Path, grid: str) -> subprocess.Popen[bytes]:
    """Start a sweep in a process group of its own."""
    words = [str(store), grid, str(WORKERS), str(PACK_EVERY)]
    store.parent.mkdir(parents=True, exist_ok=True)
    with log_of(store).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _DRIVER, *words],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def log_of(store: Path) -> Path:
    """What the drivers of a store printed."""
    return store.with_suffix(".log")


def named(store: Path) -> int:
    """How many cells have their name."""
    return sum(not name.startswith(".") for name in names(store / "cells"))


def unfinished(store: Path) -> set[Path]:
    """What lies in a store under an unfinished name."""
    below = [Path(top) for top, _, _ in os.walk(store / "sweeps")]
    folders = [store, store / "cells", store / "index", *below]
    return {each / name for each in folders for name in names(each) if PART.fullmatch(name)}


def unlisted(store: Path) -> set[Path]:
    """The segments of the index that no list names, by their first file."""
    there = set(names(store / "index"))
    packed = {name for name in there if name.endswith(".about.parquet")}
    return {store / "index" / name for name in packed if f"{name.split('.')[0]}.json" not in there}


def _lives(part: Path) -> bool:
    """Whether the process that began to write it still runs."""
    match = PART.fullmatch(part.name)
    return match is not None and psutil.pid_exists(int(match[1]))


def _runs(driver: subprocess.Popen[bytes] | None) -> bool:
    return driver is not None and driver.poll() is None


def workers_of(driver: int) -> list[psutil.Process]:
    """The workers that a driver has now, by process id."""
    try:
        children = psutil.Process(driver).children()
    except psutil.Error:
        return []
    return sorted(filter(_is_worker, children), key=lambda process: process.pid)


def lasting_workers(store: Path) -> list[psutil.Process]:
    """The workers of a store that have not ended after `END` seconds, whoever started them."""
    until = time.monotonic() + END
    while True:
        found = [p for p in psutil.process_iter() if _is_worker(p) and str(store) in _words(p)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def _is_worker(process: psutil.Process) -> bool:
    return "interp.sweeps.executors.process" in _words(process)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def end(process: psutil.Process) -> bool:
    """Send SIGKILL; False where the process had ended."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def contents(store: Path) -> dict[str, Tables]:
    """The tables of every good cell, as the bytes of their files."""
    cells = Cells.open(store)
    read = ((key, cells.read(key)) for key in cells.keys())  # noqa: SIM118
    return {key: cell.tables for key, cell in read if cell is not None}


def compare(store: Path, whole: Path, tally: Tally) -> None:
    """Count what a store has less, more, or other than the one that nobody killed."""
    found, expected = contents(store), contents(whole)
    tally.lost += len(expected.keys() - found.keys())
    tally.different += sum(found[key] != expected[key] for key in found.keys() & expected.keys())
    ours, theirs = (index.table(each, "scores") for each in (store, whole))
    surplus = Counter(ours["cell"].to_pylist()) - Counter(theirs["cell"].to_pylist())
    tally.doubled += len(found.keys() - expected.keys()) + surplus.total()
    tally.index_equal = ours.equals(theirs)


def show(tally: Tally, console: Console) -> None:
    """Print what was counted."""
    table = Table("of the killed sweep", "count")
    table.columns[1].justify = "right"
    values = asdict(tally) | {"kills": sum(tally.kills.values())}
    values |= {f"kills of {name}": n for name, n in tally.kills.items()}
    for name, value in values.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, and exit 1 where something was lost."""
    console = Console(stderr=True)
    try:
        config = tyro.cli(Config, args=argv, description=__doc__)
    except InputError as error:
        sys.stderr.write(f"chaos: {error}\n")
        sys.exit(error.exit_code)
    tally = run(config, say=lambda text: console.print(text, style="dim", highlight=False))
    if config.json:
        print(json.dumps(asdict(tally)))
    else:
        show(tally, Console())
    sys.exit(0 if tally.holds else 1)


if __name__ == "__main__":
    main()
