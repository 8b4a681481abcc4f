"""A worker process of the local executor: tasks in as JSON lines, reports out as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from interp.sweeps.work import Task, Worker, as_dict

PARENT_SECONDS = 1.0
"""How often a worker looks whether its driver still lives."""

BEGUN = b"{}\n"
"""What a worker reports when it has read a task."""


def main(experiment: str, address: str, reports: int, driver: int) -> None:
    """Compute tasks until standard input ends."""
    _end_with(driver)
    worker = Worker(experiment, address, echo=True)
    with os.fdopen(reports, "wb", buffering=0) as out:
        for line in sys.stdin.buffer:
            out.write(BEGUN)
            report = worker.run(Task(**json.loads(line)))
            out.write((json.dumps(as_dict(report)) + "\n").encode())


def _end_with(driver: int) -> None:
    """End this process once its driver is gone, even in the middle of a cell.

    A cell is written whole or not at all, so nothing is lost that was finished.
    """

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
