"""The executor whose workers are actors on a Ray cluster, or on a local one started for it.

An actor is a process of its own somewhere in the cluster; it holds a model and writes its cells
itself, so the store is a folder that all nodes reach or an `s3://` address. Tasks and reports are
dictionaries of JSON values. The driver owns the actors: Ray ends them when the driver ends, in
whatever way. A dead actor is reported, and the next task of its number makes a new one.

A local cluster listens on loopback only, without a dashboard and without usage reports.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from interp.errors import InputError, MissingPackageError
from interp.results.objects import is_bucket
from interp.sweeps.executors.base import GRACE, Event, Where, tail
from interp.sweeps.work import LOG_CHARS, Report, Task, Worker, as_dict

LOOK = 0.25
"""Seconds between two looks at the actors' limits and places."""
SOON = 10.0
"""Seconds without a place after which a worker's waiting is spoken of."""
STORE_BYTES = 80 * 2**20
"""Memory of a local cluster's object store, which holds only tasks and reports."""
LOOPBACK = ("127.0.0.1", "::1")
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}
"""Environment of a local cluster's processes: loopback, no reports, no workers that nobody asked
for, and the same priority as the local executor's."""

_log = logging.getLogger(__name__)


class Host:
    """What an actor runs: one worker, made in steps so that the driver sees how far it is."""

    def __init__(self, log: str) -> None:
        _print_to(log)

    def placed(self) -> None:
        """Answer once the process is there."""

    def open(self, experiment: str, address: str) -> None:
        """Import the experiment and open the store."""
        self._worker = Worker(experiment, address)

    def run(self, task: dict[str, Any]) -> dict[str, Any]:
        """Compute a cell."""
        return as_dict(self._worker.run(Task(**task)))


@dataclass(eq=False)
class _Actor:
    """One actor as the driver knows it."""

    handle: Any
    log: Path
    starting: list[Any]
    """What it has yet to answer before it computes: that it is placed, that it is open."""
    report: Any = None
    task: Task | None = None
    since: float = field(default_factory=time.monotonic)
    """When it was asked for, or took its last step."""
    killed: str = ""
    asked: float = field(default_factory=time.monotonic)
    """When the first was asked for, where others died before it without being placed."""

    @property
    def unplaced(self) -> bool:
        return len(self.starting) == 2

    @property
    def next(self) -> Any:
        """What it answers next; None where it has nothing to do."""
        return self.starting[0] if self.starting else self.report


class Ray:
    """Actors on a Ray cluster."""

    name = "ray"

    def __init__(
        self,
        *,
        address: str | None = None,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        patience: float = 30.0,
    ) -> None:
        """Choose the cluster and what each worker takes of it.

        Args:
            address: `auto`, `host:port` or `ray://host:port` of a running cluster; by default
                what RAY_ADDRESS says, else a local cluster is started, as with `local`. Where
                this process is connected to Ray already, that connection is used.
            num_cpus: CPUs that Ray sets aside for a worker; also its threads, at least 1.
            num_gpus: GPUs for a worker; a share of one below 1.
            patience: seconds to wait for a first place in a running cluster, which may grow.

        Raises:
            InputError: a share that Ray cannot give.
        """
        for flag, share in {"--cpus": num_cpus, "--gpus": num_gpus}.items():
            if not (math.isfinite(share) and share >= 0) or (share > 1 and share % 1):
                raise InputError(
                    f"{flag} {share:g}: Ray gives a worker a share below 1, or a whole number."
                )
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._share = {"CPU": float(num_cpus), "GPU": float(num_gpus)}
        self._patience = patience
        self._actors: dict[int, _Actor] = {}
        self._connected = False
        self._said = ""

    def start(self, where: Where) -> None:
        """Join the cluster, or start one; actors are made with their first task.

        Raises:
            MissingPackageError: Ray is not installed.
            InputError: there is no cluster at the address, or none of its nodes can hold a worker.
        """
        self._ray = _ray()
        where.logs.mkdir(parents=True, exist_ok=True)
        folder = not is_bucket(where.address)
        address = str(Path(where.address).absolute()) if folder else where.address
        self._where = replace(where, address=address, logs=where.logs.absolute())
        if not self._ray.is_initialized():
            self._connected = True
            with _own_sigterm():
                self._connect()
        self._require_room()

    def _connect(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            cpus = max(1, math.ceil(self._where.workers * self._share["CPU"]))
            with _on_loopback():
                self._ray.init(
                    "local",
                    num_cpus=cpus,
                    object_store_memory=STORE_BYTES,
                    include_dashboard=False,
                    **quiet,
                )
            self._require_loopback()
            return
        _require_answer(self._address)
        try:
            self._ray.init(self._address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(
                f"The Ray cluster {self._address!r} cannot be joined: {first} Check that it runs "
                "(ray status) with this version of Ray and Python, or leave --address out."
            ) from error

    def _require_loopback(self) -> None:
        astray = {node["NodeManagerAddress"] for node in self._nodes()} - set(LOOPBACK)
        if astray:
            self.stop()
            raise InputError(
                f"This version of Ray opened a local cluster on {', '.join(sorted(astray))}, not "
                "on loopback: give --address of a cluster that you started, or use local."
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _require_room(self) -> None:
        """Refuse a worker that no node can hold, after the time in which the cluster may grow."""
        until = time.monotonic() + (0.0 if self._address == "local" else self._patience)
        while not any(_fits(self._share, node["Resources"]) for node in self._nodes()):
            if time.monotonic() >= until:
                raise InputError(
                    f"No node of the cluster can hold a worker, which takes {_said(self._share)}: "
                    f"the largest has {self._largest()}. Ask for less (--cpus, --gpus), or add a "
                    "node."
                )
            if 0 not in self._actors:
                self._make(0)  # what is asked for makes an autoscaling cluster grow
            time.sleep(LOOK)

    def _largest(self) -> str:
        order = ("GPU", "CPU") if self._share["GPU"] else ("CPU", "GPU")
        nodes = [node["Resources"] for node in self._nodes()] or [{}]
        return _said(max(nodes, key=lambda has: [has.get(kind, 0.0) for kind in order]))

    def give(self, worker: int, task: Task) -> None:
        """Send a task to a worker, which is made if it does not live."""
        actor = self._actors.get(worker) or self._make(worker)
        actor.task, actor.since = task, time.monotonic()
        actor.report = actor.handle.run.remote(as_dict(task))

    def _make(self, worker: int) -> _Actor:
        log = self._where.logs / f"worker-{worker}.log"
        options = {
            "num_cpus": self._share["CPU"],
            "num_gpus": self._share["GPU"],
            "max_concurrency": 1,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": _environment(self._share["CPU"])},
        }
        handle = self._ray.remote(Host).options(**options).remote(str(log))
        opened = handle.open.remote(self._where.experiment, self._where.address)
        self._actors[worker] = actor = _Actor(handle, log, [handle.placed.remote(), opened])
        return actor

    def wait(self, timeout: float) -> list[Event]:
        """Return reports and deaths, as they come.

        Raises:
            InputError: nothing runs, and no worker got a place.
        """
        events: list[Event] = []
        until = time.monotonic() + timeout
        while not events:
            answers = {actor.next: n for n, actor in self._actors.items() if actor.next is not None}
            left = min(LOOK, max(0.0, until - time.monotonic()))
            done = []
            if answers:
                done, _ = self._ray.wait(list(answers), timeout=left)
            else:
                time.sleep(left)
            events = [event for each in done for event in self._hear(answers[each])]
            self._enforce()
            self._find_places()
            if time.monotonic() >= until:
                break
        return events

    def _hear(self, worker: int) -> list[Event]:
        """Take an actor's answer: a step of its start, a report, or its death."""
        actor = self._actors[worker]
        try:
            answer = self._ray.get(actor.next)
        except self._ray.exceptions.RayError as error:
            return self._bury(worker, error)
        actor.since = time.monotonic()
        if actor.starting:
            actor.starting.pop(0)
            return []
        actor.task = actor.report = None
        return [Event(worker, Report(**answer))]

    def _bury(self, worker: int, error: Exception) -> list[Event]:
        actor = self._actors.pop(worker)
        self._kill(actor)  # it may live: an error in its start leaves the process
        if actor.unplaced and actor.task and self._is_stillborn(actor, error):
            time.sleep(LOOK)
            self._make(worker).asked = actor.asked
            self.give(worker, actor.task)  # it never began, so it was no attempt
            return []
        why = actor.killed or _cause(error)
        return [Event(worker, None, why, tail(actor.log) or str(error)[-LOG_CHARS:])]

    def _is_stillborn(self, actor: _Actor, error: Exception) -> bool:
        """Tell whether an actor was sent to a node that is lost, as Ray does until it knows."""
        broken = getattr(error, "actor_init_failed", True)  # True: nothing to do with a node
        return not broken and time.monotonic() - actor.asked < self._patience

    def _kill(self, actor: _Actor) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor.handle, no_restart=True)

    def _enforce(self) -> None:
        """Kill actors whose cell passed its time and whose own limit did not stop it."""
        for actor in self._actors.values():
            if actor.task is None or actor.starting or actor.killed or actor.task.seconds is None:
                continue
            if time.monotonic() - actor.since > actor.task.seconds + GRACE:
                limit = f"{actor.task.seconds:g} seconds"
                actor.killed = f"the cell ran longer than its limit of {limit}"
                self._kill(actor)

    def _find_places(self) -> None:
        """Where a task waits for a place, let an idle actor make room, or say that it waits."""
        now = time.monotonic()
        placed = [actor for actor in self._actors.values() if not actor.unplaced]
        unplaced = [actor for actor in self._actors.values() if actor.unplaced and actor.task]
        waiting = [actor for actor in unplaced if now - actor.since > SOON]
        if not waiting:
            return
        idle = [n for n, actor in self._actors.items() if actor.next is None]
        if idle:
            self._kill(self._actors.pop(idle[0]))
            waiting[0].since = now
            return
        why = self._shortage(len(waiting))
        if not placed and all(now - actor.since > self._patience for actor in waiting):
            raise InputError(f"{why} Ask for less (--workers, --cpus, --gpus), or wait for room.")
        if why != self._said:
            self._said = why
            _log.warning("%s%s", why, " The others go on." if placed else "")

    def _shortage(self, waiting: int) -> str:
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        return (
            f"{waiting} of {self._where.workers} workers have not started yet: each takes "
            f"{_said(self._share)}, and {_said(free)} of the cluster's {_said(total)} are free."
        )

    def stop(self) -> None:
        """End all actors, and what was started or joined for them."""
        for actor in self._actors.values():
            self._kill(actor)
        self._actors.clear()
        if self._connected:
            self._connected = False
            self._ray.shutdown()


def _ray() -> Any:
    """Import Ray.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingPackageError(
            "--executor ray needs Ray: pip install 'interp-workbench[ray]', or use local."
        ) from error
    return ray


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which connecting to Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray start a node that listens on loopback only, and reports to nobody.

    Ray turns an address of loopback into the machine's own, except where clusters are switched
    off, as on macOS: the variable does that for the processes started, the constant for this one.
    """
    from ray._private import ray_constants

    with (
        patch.dict(os.environ, LOCAL),
        patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
    ):
        yield


def _require_answer(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise InputError(f"--address {address!r}: write auto, HOST:PORT or ray://HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"No Ray cluster answers at {address!r} ({error}): start one there (ray start --head), "
            "or leave --address out to run on this machine."
        ) from error


def _fits(share: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    """Tell whether a node as such can hold a worker.

    >>> _fits({"CPU": 2.0, "GPU": 0.0}, {"CPU": 4.0}), _fits({"CPU": 1.0, "GPU": 0.5}, {"CPU": 4.0})
    (True, False)
    """
    return all(resources.get(kind, 0.0) >= much for kind, much in share.items())


def _said(resources: Mapping[str, float]) -> str:
    """Resources in words.

    >>> _said({"CPU": 1.0, "GPU": 0.5, "memory": 1e9}), _said({})
    ('1 CPU and 0.5 GPU', '0 CPU and 0 GPU')
    """
    return f"{resources.get('CPU', 0.0):g} CPU and {resources.get('GPU', 0.0):g} GPU"


def _environment(num_cpus: float) -> dict[str, str]:
    """What a worker's environment has beside its node's: the import path, and its threads.

    Installed packages are the node's own; only folders of source are passed on. Ray puts in the
    node's PYTHONPATH.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    folders = [Path(path or os.getcwd()).absolute() for path in sys.path]
    installed = {"site-packages", "dist-packages"}
    own = [
        str(folder)
        for folder in folders
        if folder.is_dir() and not folder.is_relative_to(stdlib) and not installed & {*folder.parts}
    ]
    path = os.pathsep.join([*dict.fromkeys(own), "${PYTHONPATH}"])
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": str(max(1, int(num_cpus)))}


def _print_to(log: str) -> None:
    """Send what this process prints to the sweep's log; to Ray's own where that is out of reach."""
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _cause(error: Exception) -> str:
    """Say in a sentence why an actor died, from Ray's account of it."""
    text = str(error)
    if (raised := getattr(error, "cause", None)) is not None:
        return f"the worker could not start: {raised}"
    if "memory" in text:
        return "Ray ended the worker because its node ran out of memory"
    if "node has died" in text or "node died" in text:
        return "the worker's node was lost"
    return "the worker's process was ended from outside; its node may have run out of memory"
