"""The executor that computes every cell in this process."""

from __future__ import annotations

from interp.sweeps.executors.base import Event, Where
from interp.sweeps.work import Task, Worker


class Inline:
    """One worker, which is this process."""

    name = "inline"
    _worker: Worker | None = None
    _task: Task | None = None

    def start(self, where: Where) -> None:
        """Make the worker."""
        self._worker = Worker(where.experiment, where.address)

    def give(self, worker: int, task: Task) -> None:
        """Keep the task until `wait`."""
        self._task = task

    def wait(self, timeout: float) -> list[Event]:
        """Compute the task now, however long it takes."""
        if self._task is None or self._worker is None:
            return []
        task, self._task = self._task, None
        return [Event(0, self._worker.run(task))]

    def stop(self) -> None:
        """Let the subject go."""
        self._worker = None
