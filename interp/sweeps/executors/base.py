"""What the driver of a sweep asks of an executor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from interp.sweeps.work import LOG_CHARS, Report, Task

GRACE = 5.0
"""Seconds past its limit after which a cell's worker is killed."""


@dataclass(frozen=True)
class Event:
    """Something that a worker did: it finished a task, or it died on one."""

    worker: int
    report: Report | None = None
    """None where the worker died; another takes its place, under the same number."""
    why: str = ""
    """What is known of a death."""
    log: str = ""
    """The end of a dead worker's own output."""
    ready: bool = True
    """Whether a worker that died had begun its task; if not, it is not the cell's fault."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """What every worker of a sweep needs to know."""

    experiment: str
    """A name that `interp.sweeps.experiment.find` knows."""
    address: str
    """The store."""
    workers: int
    logs: Path
    """A local folder for the workers' output."""


def tail(log: Path) -> str:
    """The end of a worker's log; nothing where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_CHARS))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


@runtime_checkable
class Executor(Protocol):
    """Runs tasks on numbered workers, `0 .. workers - 1`, each one task at a time."""

    name: str

    def start(self, where: Where) -> None:
        """Make ready; workers may be started when they get their first task."""
        ...

    def give(self, worker: int, task: Task) -> None:
        """Hand a task to an idle worker."""
        ...

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened, at the latest after `timeout` seconds (inline: after a task)."""
        ...

    def stop(self) -> None:
        """End all workers within seconds, whatever they do; safe to call twice."""
        ...
