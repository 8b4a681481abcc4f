"""Limits of one cell inside the process that computes it: seconds, and memory of the process.

A timer interrupts the main thread a few times a second and raises where a limit is passed. Code
that does not come back to Python is not interrupted; for that an executor with processes of its own
kills the worker a little later.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

TICK = 0.2
"""Seconds between two looks at the limits."""


class LimitReached(BaseException):
    """A cell passed a limit. Not an Exception, so that no handler inside the cell keeps it."""


@contextmanager
def limits(seconds: float | None, memory_gib: float | None) -> Iterator[None]:
    """Inside the block, raise LimitReached once a limit is passed.

    Only the main thread can be interrupted, and only where the system has interval timers;
    elsewhere the block runs without limits.
    """
    here = threading.current_thread() is threading.main_thread()
    if (seconds is None and memory_gib is None) or not here or not hasattr(signal, "setitimer"):
        yield
        return
    started, process = time.monotonic(), psutil.Process()

    def look(*_: Any) -> None:
        if seconds is not None and time.monotonic() - started > seconds:
            raise LimitReached(f"the cell ran longer than its limit of {seconds:g} seconds")
        if memory_gib is not None and process.memory_info().rss > memory_gib * 2**30:
            raise LimitReached(f"the process grew past the cell's limit of {memory_gib:g} GiB")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
