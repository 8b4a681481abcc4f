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
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from interp.errors import InputError, InterpError
from interp.results.cells import Cells, cell_key
from interp.sweeps.experiment import Experiment, Made, cell_identity, config_of, find
from interp.sweeps.limits import LimitReached, limits

Tables = Mapping[str, Sequence[Mapping[str, object]]]
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
    means: Mapping[str, float] = field(default_factory=dict)
    """The mean of each numeric column that the cell wrote, as `table/column`; for trackers."""
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
                loading, tables = self._compute(task)
        except (Exception, LimitReached, SystemExit) as error:
            return Report(
                key=task.key,
                state="failed",
                seconds=time.monotonic() - started,
                error=str(error) or "no message",
                kind=type(error).__name__,
                traceback="" if isinstance(error, InterpError) else traceback.format_exc(),
                log=printed.getvalue()[-LOG_CHARS:],
            )
        return Report(
            key=task.key,
            state="there" if tables is None else "done",
            seconds=time.monotonic() - started,
            loading=loading,
            rows={name: len(rows) for name, rows in (tables or {}).items()},
            means=column_means(tables or {}),
        )

    def _compute(self, task: Task) -> tuple[float, Tables | None]:
        """Return the seconds of loading and the tables; None where the cell was there."""
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
            if not isinstance(made, Made):
                raise InputError(
                    f"{self.experiment.name} returned a {type(made).__name__}: `run` of an "
                    "Experiment returns Made(tables, spent)."
                )
        seconds = time.monotonic() - began - loading
        spent = {**made.spent, "seconds": seconds, "loading": loading}
        if not self.cells.write(task.key, identity, made.tables, spent):
            return loading, None
        return loading, made.tables

    def _subject_of(self, config: Any) -> Any:
        """The subject of a cell; another group's is let go before the next is loaded."""
        group = self.experiment.group(config)
        if group != self._group:
            self._group = self._subject = None
            gc.collect()
            self._subject = self.experiment.load(config)
            self._group = group
        return self._subject


def column_means(tables: Tables) -> dict[str, float]:
    """The mean of each numeric column over the rows that have a value.

    >>> column_means({"steps": [{"tts": 0.5, "id": "a"}, {"tts": None, "id": "b"}]})
    {'steps/tts': 0.5}
    """
    values: dict[str, list[float]] = {}
    for table, rows in tables.items():
        for row in rows:
            for column, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    values.setdefault(f"{table}/{column}", []).append(float(value))
    return {name: sum(each) / len(each) for name, each in values.items()}


def as_dict(value: Task | Report) -> dict[str, Any]:
    """A task or a report as JSON values."""
    return asdict(value)
