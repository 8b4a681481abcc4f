"""The driver of a sweep: it plans, hands cells to workers, and notes what failed.

It holds no results: workers write their own cells. So it can be killed at any moment and started
again; what is finished is found by its key and not computed again.

What happens when something breaks:
- a cell raises, passes a limit, or its worker dies: it is noted with error and log, tried again as
  often as the grid says, and the others go on;
- two sweeps at once on one store: both end well; a cell that both are at is computed by both and
  kept once, so start the second when the first has ended, or give them different grids;
- the store cannot be written (disk full, no rights): the sweep stops with that sentence, no cell
  counts as failed, and a second start goes on;
- workers that do not come up, three in a row: the sweep stops and shows their log;
- Ctrl-C or SIGTERM: workers are ended within seconds; cells that they were at stay to be done.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from interp.errors import DiskError, InputError
from interp.results.cells import Cells
from interp.results.files import Files
from interp.results.index import refresh
from interp.results.manifest import commit_of, versions
from interp.sweeps.executors.base import Event, Executor, Where
from interp.sweeps.executors.inline import Inline
from interp.sweeps.experiment import Experiment, find
from interp.sweeps.grid import Grid
from interp.sweeps.plan import Failure, Plan, Planned, State, failure_path, make_plan
from interp.sweeps.queue import Queue
from interp.sweeps.work import Report, Task

DEATHS = 3
"""Workers in a row that die before they have come up, which stop a sweep."""
PACK_EVERY = 1000
"""Finished cells after which the index of the store is brought up to date."""
TICK = 0.5
"""Seconds between two looks of whoever watches."""


@runtime_checkable
class Watch(Protocol):
    """Told of everything that happens; a display, or a tracker."""

    def begin(self, plan: Plan, executor: Executor, workers: int) -> None:
        """The plan is made and nothing has run yet."""
        ...

    def gave(self, worker: int, cell: Planned, attempt: int) -> None:
        """A worker got a cell."""
        ...

    def settled(self, worker: int, cell: Planned, report: Report) -> None:
        """A cell was finished, or failed an attempt."""
        ...

    def tick(self) -> None:
        """Half a second passed at most."""
        ...

    def end(self) -> None:
        """Nothing runs any more, for whatever reason."""
        ...


@dataclass(frozen=True)
class Summary:
    """What a sweep came to."""

    plan: Plan
    computed: int
    """Cells that were finished now; the others were there before."""
    seconds: float
    stopped: bool = False
    """Whether it was interrupted."""

    def __str__(self) -> str:
        counts = (f"{self.plan.count(state)} {state}" for state in get_args(State))
        return f"{self.computed} cells computed in {self.seconds:.3g} s; {', '.join(counts)}"

    @property
    def failed(self) -> list[Planned]:
        """Cells that failed as often as they may be tried."""
        return [cell for cell in self.plan.cells if cell.state == "failed"]


def prepare(grid: Grid, store: str, *, retry_failed: bool = False) -> Plan:
    """Look every cell of a grid up, and run nothing.

    Raises:
        InputError, ModelError, StoreError: as in `make_plan`.
    """
    experiment = find(grid.experiment)
    return make_plan(
        experiment, grid.cells, store, grid.name, tries=grid.tries, retry_failed=retry_failed
    )


def run_grid(
    grid: Grid,
    store: Path | str,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    limit: int | None = None,
    retry_failed: bool = False,
    watch: Watch | Sequence[Watch] = (),
) -> Summary:
    """Compute the cells of a grid that are not there yet.

    Args:
        grid: see `interp.sweeps.grid.read_grid`.
        store: a folder or an s3:// address; grids that share it share their cells.
        executor: where cells are computed, such as `executors.local.Local()`; by default in this
            process.
        workers: how many cells at once; 1 in this process.
        limit: compute at most so many cells now.
        retry_failed: try cells again that failed as often as the grid allows.
        watch: told of what happens.

    Raises:
        InputError, ModelError: before anything runs; or workers that cannot start.
        StoreError: the store cannot be read or written; what was finished is kept.
    """
    if not isinstance(grid, Grid):
        raise InputError(f"grid={grid!r}: pass what read_grid or parse_grid returns.")
    if isinstance(executor, str):
        raise InputError(
            f"executor={executor!r}: pass an executor, such as Local() of "
            "interp.sweeps.executors.local."
        )
    if workers < 1 or (limit is not None and limit < 1):
        raise InputError(f"workers={workers}, limit={limit}: give at least 1.")
    executor, store = executor or Inline(), str(store)
    if executor.name == "inline" and workers > 1:
        raise InputError(f"workers={workers}: this process is one worker; use the local executor.")
    plan = prepare(grid, store, retry_failed=retry_failed)
    watches = [watch] if not isinstance(watch, Sequence) else list(watch)
    Cells.open(store, write=True)  # makes the folder, or says why it cannot be used
    drive = _Drive(grid, store, plan, executor, workers, watches)
    _save(drive, find(grid.experiment))
    return drive.run(limit)


@dataclass(eq=False)
class _Drive:
    """One sweep while it runs."""

    grid: Grid
    store: str
    plan: Plan
    executor: Executor
    workers: int
    watches: list[Watch]
    busy: dict[int, Planned] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    unpacked: int = 0
    deaths: int = 0

    def __post_init__(self) -> None:
        self.files = Files.open(self.store)

    def run(self, limit: int | None) -> Summary:
        """Compute what is to do; end the workers whatever happens."""
        started, stopped = time.monotonic(), False
        todo = self.plan.todo()
        queue = Queue(todo if limit is None else todo[:limit])
        self._tell("begin", self.plan, self.executor, self.workers)
        try:
            with _local_folder(self.store, self.grid.name) as logs, _interrupts() as asked:
                self.executor.start(self._where(logs))
                self._loop(queue, asked)
        except KeyboardInterrupt:
            stopped = True
        finally:
            self.executor.stop()
            self._tell("end")
        if self.computed:
            Cells.open(self.store, write=True)  # removes what an earlier start's orphan left
            refresh(self.store)
        return Summary(self.plan, self.computed, time.monotonic() - started, stopped)

    def _where(self, logs: Path) -> Where:
        return Where(
            experiment=self.grid.experiment, address=self.store, workers=self.workers, logs=logs
        )

    def _loop(self, queue: Queue, asked: threading.Event) -> None:
        while queue or self.busy:
            if asked.is_set():  # what was raised was lost where Python cannot raise it
                raise KeyboardInterrupt
            for worker in range(self.workers):
                if worker not in self.busy and (cell := queue.take(worker)):
                    self._give(worker, cell)
            for event in self.executor.wait(TICK):
                self._settle(event, queue)
            self._tell("tick")

    def _give(self, worker: int, cell: Planned) -> None:
        before = cell.failure.attempts if cell.failure else 0
        self.attempts.setdefault(cell.key, before if before < self.grid.tries else 0)
        self.attempts[cell.key] += 1
        self.busy[worker] = cell
        task = Task(
            key=cell.key,
            config=cell.config,
            attempt=self.attempts[cell.key],
            seconds=self.grid.seconds,
            memory_gib=self.grid.memory_gib,
        )
        self._tell("gave", worker, cell, task.attempt)
        self.executor.give(worker, task)

    def _settle(self, event: Event, queue: Queue) -> None:
        cell = self.busy.pop(event.worker, None)
        if event.report is None:
            queue.forget(event.worker)
        self._count_deaths(event)
        if cell is None:
            return
        if not event.ready:  # the cell was never begun
            self.attempts[cell.key] -= 1
            queue.put(cell)
            return
        report = event.report or _obituary(cell, event)
        if report.kind == DiskError.__name__:
            raise DiskError(report.error)
        if report.state == "failed":
            self._failed(cell, report, queue)
        else:
            self._done(cell, report)
        self._tell("settled", event.worker, cell, report)

    def _count_deaths(self, event: Event) -> None:
        """Stop where workers do not come up: no cell is to blame, and none would be computed."""
        self.deaths = 0 if event.ready else self.deaths + 1
        if self.deaths >= DEATHS:
            end = "\n".join(event.log.strip().splitlines()[-5:])
            raise InputError(
                f"{DEATHS} workers in a row ended before they came up: {event.why}. Mend that and "
                f"start again; the last lines of the worker's log:\n{end}"
            )

    def _done(self, cell: Planned, report: Report) -> None:
        cell.state = "done"
        self.plan.seconds[cell.key] = report.seconds - report.loading
        if cell.failure is not None:
            self.files.delete(failure_path(self.grid.name, cell.key))
            cell.failure = None
        if report.state == "done":
            self.computed += 1
            self.unpacked += 1
        if self.unpacked >= PACK_EVERY:
            self.unpacked = 0
            refresh(self.store)

    def _failed(self, cell: Planned, report: Report, queue: Queue) -> None:
        known = {name: getattr(report, name) for name in ("error", "kind", "traceback", "log")}
        known |= {name: getattr(report, name) for name in ("seconds", "host", "when")}
        cell.failure = Failure(attempts=self.attempts[cell.key], **known)
        data = {"key": cell.key, "config": cell.config, **asdict(cell.failure)}
        path = failure_path(self.grid.name, cell.key)
        self.files.put(path, json.dumps(data, indent=2).encode())
        if cell.failure.attempts < self.grid.tries:
            queue.put(cell)
        else:
            cell.state = "failed"

    def _tell(self, what: str, *told: Any) -> None:
        for watch in self.watches:
            getattr(watch, what)(*told)


def _obituary(cell: Planned, event: Event) -> Report:
    """The report of a cell whose worker died on it."""
    return Report(key=cell.key, state="failed", error=event.why, kind="WorkerDied", log=event.log)


def sweep_path(name: str) -> str:
    """Where a sweep is described in its store."""
    return f"sweeps/{name}/sweep.json"


def _save(drive: _Drive, experiment: Experiment) -> None:
    """Describe the sweep in its store; every start adds a line to its history."""
    before = _described(drive.files.get(sweep_path(drive.grid.name)))
    start = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "executor": drive.executor.name,
        "workers": drive.workers,
        "commit": commit_of(Path(__file__)),
        "code": experiment.code_hash,
        "versions": versions(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    about = {
        "name": drive.grid.name,
        "experiment": drive.grid.experiment,
        "unit": experiment.unit,
        "headline": experiment.headline,
        "grid": drive.grid.as_json(),
        "created": before.get("created", start["when"]),
        "keys": [cell.key for cell in drive.plan.cells],
        "configs": [cell.config for cell in drive.plan.cells],
        "starts": [*before.get("starts", []), start],
    }
    drive.files.put(sweep_path(drive.grid.name), json.dumps(about, indent=1).encode())


def _described(data: bytes | None) -> dict[str, Any]:
    """A sweep's description; nothing where there is none, or where it is damaged."""
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _local_folder(store: str, sweep: str) -> Iterator[Path]:
    """A folder for the workers' logs: in the store where that is one, else a temporary one."""
    if "://" in store:
        with tempfile.TemporaryDirectory(prefix="interp-sweep-") as folder:
            yield Path(folder)
    else:
        yield Path(store) / "sweeps" / sweep / "logs"


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Inside the block SIGTERM (a scheduler's notice) stops the sweep as Ctrl-C does.

    The event is set with either: an exception that a signal raises while Python frees an object is
    dropped, and the sweep would go on.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(*_: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
