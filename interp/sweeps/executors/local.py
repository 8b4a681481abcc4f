"""The executor with worker processes on this machine.

A worker is a Python of its own (`python -m interp.sweeps.executors.process`). It reads tasks from
its standard input and writes reports to a pipe, both as JSON lines; what it prints goes to its log.
It writes its cells itself. It ends when the driver ends, in whatever way.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil

from interp.errors import InputError
from interp.sweeps.executors.base import GRACE, Event, Where, tail
from interp.sweeps.work import Report, Task, as_dict

SPARE = 1.1
"""Times its memory limit at which a cell's worker is killed."""
LOOK = 0.25
"""Seconds between two looks at the workers' limits."""


@dataclass
class _Process:
    """One worker process."""

    popen: subprocess.Popen[bytes]
    reports: BinaryIO
    log: Path
    task: Task | None = None
    since: float = 0.0
    heard: bytearray = field(default_factory=bytearray)
    killed: str = ""
    begun: bool = False


class Local:
    """Worker processes on this machine."""

    name = "local"

    def __init__(self) -> None:
        self._workers: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()

    def start(self, where: Where) -> None:
        """Make the folder of logs; a worker starts with its first task."""
        if os.name != "posix":
            raise InputError("--executor local needs a POSIX system: use inline or ray here.")
        where.logs.mkdir(parents=True, exist_ok=True)
        self._where = where

    def give(self, worker: int, task: Task) -> None:
        """Send a task to a worker, which is started if it does not run."""
        process = self._workers.get(worker) or self._spawn(worker)
        process.task, process.begun = task, False
        line = json.dumps(as_dict(task)) + "\n"
        assert process.popen.stdin is not None
        try:
            process.popen.stdin.write(line.encode())
            process.popen.stdin.flush()
        except BrokenPipeError:
            pass  # it has just died: `wait` sees the end of its reports

    def _spawn(self, worker: int) -> _Process:
        read, write = os.pipe()
        log = self._where.logs / f"worker-{worker}.log"
        command = [sys.executable, "-m", "interp.sweeps.executors.process"]
        command += [self._where.experiment, self._where.address, str(write), str(os.getpid())]
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                env=_environment(self._where.workers),
                start_new_session=True,  # Ctrl-C in the terminal reaches the driver alone
            )
        os.close(write)
        os.set_blocking(read, False)
        process = _Process(popen, os.fdopen(read, "rb", buffering=0), log)
        self._workers[worker] = process
        self._selector.register(read, selectors.EVENT_READ, worker)
        return process

    def wait(self, timeout: float) -> list[Event]:
        """Return reports and deaths, as they come."""
        events: list[Event] = []
        until = time.monotonic() + timeout
        while not events:
            ready = self._selector.select(min(LOOK, max(0.0, until - time.monotonic())))
            for key, _ in ready:
                events += self._hear(key.data)
            self._enforce()
            if time.monotonic() >= until:
                break
        return events

    def _hear(self, worker: int) -> list[Event]:
        """Read what a worker reported; the end of its pipe is its death."""
        process = self._workers[worker]
        data = process.reports.read(1 << 16)
        if data is None:
            return []
        if not data:
            return [self._bury(worker)]
        process.heard += data
        *lines, rest = process.heard.split(b"\n")
        process.heard = bytearray(rest)
        told = [json.loads(line) for line in lines]
        if {} in told:
            process.begun, process.since = True, time.monotonic()
        reports = [Report(**each) for each in told if each]
        if reports:
            process.task = None
        return [Event(worker, report) for report in reports]

    def _bury(self, worker: int) -> Event:
        process = self._workers.pop(worker)
        self._selector.unregister(process.reports)
        process.reports.close()
        code = process.popen.wait()
        why = process.killed or _death(code)
        return Event(worker, None, why, tail(process.log), process.begun)

    def _enforce(self) -> None:
        """Kill workers whose cell passed a limit and whose own limits did not stop it."""
        for process in self._workers.values():
            if process.task is None or not process.begun or process.killed:
                continue
            process.killed = _breach(process)
            if process.killed:
                process.popen.kill()

    def stop(self) -> None:
        """End all workers: asked first, killed after two seconds."""
        for process in self._workers.values():
            process.popen.terminate()
        until = time.monotonic() + 2.0
        for process in self._workers.values():
            try:
                process.popen.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            process.reports.close()
            if process.popen.stdin is not None:
                process.popen.stdin.close()
        self._workers.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()


def _breach(process: _Process) -> str:
    """Say which limit the worker's cell passed, or nothing."""
    task = process.task
    assert task is not None
    if task.seconds is not None and time.monotonic() - process.since > task.seconds + GRACE:
        return f"the cell ran longer than its limit of {task.seconds:g} seconds"
    if task.memory_gib is not None:
        try:
            held = psutil.Process(process.popen.pid).memory_info().rss
        except psutil.Error:
            return ""
        if held > SPARE * task.memory_gib * 2**30:
            return f"the process grew past the cell's limit of {task.memory_gib:g} GiB"
    return ""


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {name}{hint}"
    return f"the worker ended with status {code}"


def _environment(workers: int) -> dict[str, str]:
    """This process's environment and import path; the cores are shared out among the workers."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    return env
