"""One worker: it holds a subject, computes the cells that it is given, and writes them itself.

Every executor uses this class, so a cell is computed in one way wherever it runs.
"""

from __future__ import annotations

import gc
import io
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from interp.errors import InputError, InterpError
from interp.results.cells import Cells, cell_key
from interp.sweeps.experiment import Experiment, cell_identity, config_of, find
from interp.sweeps.limits import LimitReached, limits

LOG_CHARS = 20_000
"""How much of what a failing cell printed is kept: its end."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A cell to compute."""

    key: str
    config: Mapping[str, Any]
    """The configuration as JSON values."""
    attempt: int = 1
    seconds: float | None = None
    memory_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a task."""

    key: str
    state: Literal["done", "there", "failed"]
    """`there`: somebody else had finished the cell."""
    seconds: float = 0.0
    loading: float = 0.0
    """Seconds of these that went into loading the subject."""
    rows: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    """The class of the error."""
    traceback: str = ""
    log: str = ""
    """The end of what the cell printed."""
    host: str = field(default_factory=socket.gethostname)
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class _Printed(io.StringIO):
    """Keeps what is printed, and passes it on."""

    def __init__(self, onward: TextIO | None) -> None:
        super().__init__()
        self._onward = onward

    def write(self, text: str, /) -> int:
        if self._onward is not None:
            self._onward.write(text)
            self._onward.flush()
        return super().write(text)


class Worker:
    """Computes cells of one experiment into one store, and keeps the subject between them."""

    def __init__(self, experiment: Experiment | str, address: str, *, echo: bool = False) -> None:
        """With `echo`, what cells print also goes where it would go without a worker."""
        self._echo = echo
        self.experiment = find(experiment) if isinstance(experiment, str) else experiment
        self.cells = Cells.open(address, write=True)
        self._group: tuple[str, ...] | None = None
        self._subject: Any = None

    def run(self, task: Task) -> Report:
        """Compute one cell and write it; an error becomes part of the report."""
        started, printed = time.monotonic(), _Printed(sys.stderr if self._echo else None)
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                loading, rows = self._compute(task)
        except (Exception, LimitReached) as error:
            return Report(
                key=task.key,
                state="failed",
                seconds=time.monotonic() - started,
                error=str(error) or type(error).__name__,
                kind=type(error).__name__,
                traceback="" if isinstance(error, InterpError) else traceback.format_exc(),
                log=printed.getvalue()[-LOG_CHARS:],
            )
        state = "there" if rows is None else "done"
        seconds = time.monotonic() - started
        return Report(key=task.key, state=state, seconds=seconds, loading=loading, rows=rows or {})

    def _compute(self, task: Task) -> tuple[float, dict[str, int] | None]:
        """Return the seconds of loading and the rows of each table; None where it was there."""
        if self.cells.has(task.key):
            return 0.0, None
        config = config_of(self.experiment, task.config)
        identity = cell_identity(self.experiment, config)
        if cell_key(identity) != task.key:
            raise InputError(
                f"This worker reads cell {task.key} as another one: its code, weights or data "
                "differ from those of the process that planned it; give both the same."
            )
        with limits(task.seconds, task.memory_gib):
            began = time.monotonic()
            subject = self._subject_of(config)
            loading = time.monotonic() - began
            made = self.experiment.run(subject, config)
        seconds = time.monotonic() - began - loading
        spent = {**made.spent, "seconds": seconds, "loading": loading}
        if not self.cells.write(task.key, identity, made.tables, spent):
            return loading, None
        return loading, {name: len(rows) for name, rows in made.tables.items()}

    def _subject_of(self, config: Any) -> Any:
        """The subject of a cell; another group's is let go before the next is loaded."""
        group = self.experiment.group(config)
        if group != self._group:
            self._group = self._subject = None
            gc.collect()
            self._subject = self.experiment.load(config)
            self._group = group
        return self._subject


def as_dict(value: Task | Report) -> dict[str, Any]:
    """A task or a report as JSON values."""
    return asdict(value)
