"""A sweep's numbers in a tracker on this machine: MLflow or Weights & Biases, off by default.

Records are the truth and a tracker is a copy to look at: it never fails a sweep. What it cannot
take is said once on stderr, and the sweep goes on without it. Nothing leaves the machine and
nothing listens on a network: MLflow writes a database file, wandb runs offline. Both lie in
`STORE/trackers/`, or in `runs/trackers/` where the store is a bucket:

    mlflow.db    an MLflow experiment a sweep, a run a cell; `mlflow ui --backend-store-uri
                 sqlite:///STORE/trackers/mlflow.db` shows it
    wandb/       a run a start of the sweep, a row a cell; `wandb sync` uploads it when you ask
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from interp.errors import InputError, MissingPackageError, nearest
from interp.sweeps.executors.base import Executor
from interp.sweeps.grid import Grid
from interp.sweeps.live import cell_label, first_line
from interp.sweeps.plan import Plan, Planned
from interp.sweeps.work import Report


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a tracker is told of one attempt at a cell."""

    key: str
    label: str
    """The fields in which the cells of the sweep differ."""
    config: Mapping[str, Any]
    """The configuration as JSON values."""
    numbers: Mapping[str, float]
    """Means of numeric columns as `table/column`, `rows/table`, and `seconds` and `loading`."""
    error: str = ""
    """The first line of why it failed; empty where the cell was finished."""


@runtime_checkable
class Tracker(Protocol):
    """The adapter of one tracking library; any call may raise."""

    def start(self, grid: Grid, folder: Path) -> None:
        """Begin to track a sweep in a folder that exists."""
        ...

    def log(self, entry: Entry) -> None:
        """Take the numbers of one cell."""
        ...

    def finish(self) -> None:
        """Write what is left; called once, also where `start` or `log` has raised."""
        ...


class Mlflow:
    """One MLflow experiment a sweep, one run a cell, in a SQLite file; no server."""

    def start(self, grid: Grid, folder: Path) -> None:
        """Find or make the experiment; a new database takes seconds."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read on import; it would call home
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # they tell how a new database is made
            logging.getLogger(name).setLevel(logging.WARNING)
        place = folder.absolute()
        self._client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
        found = self._client.get_experiment_by_name(grid.name)
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(grid.name, (place / "mlflow").as_uri())
        )

    def log(self, entry: Entry) -> None:
        """Write a finished run: configuration as parameters, numbers as metrics."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        tags = {"cell": entry.key} | ({"error": entry.error} if entry.error else {})
        run = self._client.create_run(
            self._experiment, run_name=entry.label[:250], tags=tags, start_time=now
        )
        self._client.log_batch(
            run.info.run_id,
            metrics=[Metric(_allowed(n), value, now, 0) for n, value in entry.numbers.items()],
            params=[Param(_allowed(n), str(value)) for n, value in entry.config.items()],
        )
        self._client.set_terminated(run.info.run_id, "FAILED" if entry.error else "FINISHED")

    def finish(self) -> None:
        """Every run was written when it was logged."""


def _allowed(name: str) -> str:
    """A name as MLflow takes it: other characters become `_`.

    >>> _allowed("steps/tts (mean)"), _allowed("a:b%")
    ('steps/tts _mean_', 'a_b_')
    """
    return re.sub(r"[^\w ./-]", "_", name, flags=re.ASCII)


class Wandb:
    """One offline run of Weights & Biases a start of the sweep, one row a cell."""

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, grid: Grid, folder: Path) -> None:
        """Begin an offline run; wandb's own process talks over a Unix socket."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # read on import; it would call home
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
        )
        self._run = wandb.init(
            project="interp",
            name=grid.name,
            dir=str(folder),
            mode="offline",
            config=grid.as_json(),
            settings=settings,
        )

    def log(self, entry: Entry) -> None:
        """Write a row: the cell, its configuration as `config.FIELD`, its numbers."""
        config = {f"config.{name}": value for name, value in entry.config.items()}
        self._run.log({"cell": entry.key, **config, **entry.numbers, "error": entry.error})

    def finish(self) -> None:
        """End the run, which closes its file."""
        if self._run is not None:
            self._run.finish(exit_code=0)


TRACKERS: Mapping[str, type[Mlflow] | type[Wandb]] = {"mlflow": Mlflow, "wandb": Wandb}
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
"""Modules that a tracker needs; the extra of its name installs them."""


class Tracked:
    """Tells a tracker what a sweep does; a `Watch` that never raises."""

    def __init__(self, name: str, tracker: Tracker, grid: Grid, folder: Path) -> None:
        self._name, self._tracker = name, tracker
        self._grid, self._folder = grid, folder
        self._said = False

    def begin(self, plan: Plan, executor: Executor, workers: int) -> None:
        """Start the tracker."""

        def start() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tracker.start(self._grid, self._folder)

        self._try(start)

    def gave(self, worker: int, cell: Planned, attempt: int) -> None:
        """A cell without numbers is nothing to track."""

    def settled(self, worker: int, cell: Planned, report: Report) -> None:
        """Log what was computed now, and what failed."""
        if report.state != "there":
            self._try(lambda: self._tracker.log(entry_of(cell, report, self._grid.varied)))

    def tick(self) -> None:
        """Time alone is nothing to track."""

    def end(self) -> None:
        """Finish the tracker, also where it failed before; then silently."""
        try:
            self._tracker.finish()
        except Exception as error:
            self._say(error)

    def _try(self, call: Callable[[], None]) -> None:
        """Call the tracker, unless it failed before; say its first failure."""
        if self._said:
            return
        try:
            call()
        except Exception as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        if self._said:
            return
        self._said = True
        why = first_line(f"{type(error).__name__}: {error}")
        sys.stderr.write(
            f"interp: the tracker {self._name} failed ({why}); the sweep goes on without it.\n"
        )


def entry_of(cell: Planned, report: Report, varied: tuple[str, ...]) -> Entry:
    """What a tracker is told of a cell."""
    numbers = dict(report.means)
    numbers |= {f"rows/{table}": float(count) for table, count in report.rows.items()}
    why = report.error or report.kind or "it failed"
    return Entry(
        key=cell.key,
        label=cell_label(cell.config, varied),
        config=cell.config,
        numbers=numbers | {"seconds": report.seconds, "loading": report.loading},
        error=first_line(why) if report.state == "failed" else "",
    )


def watch(name: str, grid: Grid, store: str | Path) -> Tracked:
    """Return a watch that sends a sweep's numbers to the tracker of that name.

    Args:
        name: one of `TRACKERS`.
        grid: the sweep.
        store: its store; the tracker writes into `trackers/` there.

    Raises:
        InputError: there is no tracker of that name.
        MissingPackageError: a package that it needs is not installed.
    """
    if name not in TRACKERS:
        known = ", ".join(TRACKERS)
        raise InputError(
            f"There is no tracker {name!r}; there are: {known}.{nearest(name, TRACKERS)}"
        )
    for module in PACKAGES[name]:
        if not _installed(module):
            raise MissingPackageError(
                f"The tracker {name} needs the package {module}, which is not installed: "
                f"pip install 'interp-workbench[{name}]'."
            )
    place = Path("runs") if "://" in str(store) else Path(store)
    return Tracked(name, TRACKERS[name](), grid, place / "trackers")


def _installed(module: str) -> bool:
    """Whether a package is there; a mere folder of that name, such as wandb's own, is none."""
    found = find_spec(module)
    return found is not None and found.origin is not None
