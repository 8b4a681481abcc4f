"""Sweeps on a Ray cluster of separate node processes: the records are those of this process.

All nodes listen on loopback. Each cell notes in a file that it began, and in which process.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'interp-workbench[ray]'")

from interp.errors import InputError, MissingPackageError
from interp.results import Cells
from interp.sweeps.drive import Summary, run_grid
from interp.sweeps.executors import ray_executor
from interp.sweeps.executors.base import Where
from interp.sweeps.executors.ray_executor import Ray
from interp.sweeps.grid import Grid, parse_grid

N_CELLS = 8
LONG = 3
"""The seed whose cell, begun for the first time, runs until it is ended."""

MODULE = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from interp.sweeps.experiment import Experiment, Made

@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    nap: float = 0.3
    long: int = -1
    deaf: bool = False
    marks: str = ""

def run(subject, config):
    marks = Path(config.marks)
    again = str(config.seed) in [line.split()[0] for line in marks.read_text().splitlines()]
    with marks.open("a") as file:
        file.write(f"{config.seed} {os.getpid()} {os.getppid()} {os.environ['OMP_NUM_THREADS']}\\n")
    if config.deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(60 if config.seed == config.long and not again else config.nap)
    return Made({"rows": [{"seed": config.seed, "third": config.seed / 3}]}, {"naps": 1})

napping = Experiment(
    name="napping", config=Config, identity=lambda config: {}, group=lambda config: ("all",),
    load=lambda config: None, run=run, code=(Path(__file__),),
    places=frozenset({"nap", "long", "marks"}),
)
"""

DRIVER = """
import sys
from interp.sweeps.drive import run_grid
from interp.sweeps.executors.ray_executor import Ray
from interp.sweeps.grid import parse_grid
address, store, grid = sys.argv[1:]
run_grid(parse_grid(grid, "naps"), store, executor=Ray(address=address), workers=2)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """A head without a CPU, and two nodes with one each."""
    from ray.cluster_utils import Cluster

    small = {"node_ip_address": "127.0.0.1", "object_store_memory": ray_executor.STORE_BYTES}
    head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False, **small}
    with ray_executor._on_loopback():
        nodes = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
        nodes.small = small
        for _ in range(2):
            nodes.add_node(num_cpus=1, **small)
        yield nodes
        nodes.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the experiment's module, on the import path."""
    (tmp_path / "napping_cells.py").write_text(MODULE)
    (tmp_path / "marks").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("napping_cells", None)


def grid_text(folder: Path, n_cells: int = N_CELLS, **base: object) -> str:
    settings = {"marks": str(folder / "marks"), **base}
    lines = [f"  {name}: {str(value).lower()}" for name, value in settings.items()]
    text = ["experiment: napping_cells:napping", "base:", *lines, f"seeds: {n_cells}", "tries: 2"]
    return "\n".join(text)


def grid_of(folder: Path, n_cells: int = N_CELLS, **base: object) -> Grid:
    return parse_grid(grid_text(folder, n_cells, **base), "naps")


def begun(folder: Path) -> list[list[int]]:
    """Seed, process, its parent and its threads, of each cell that began."""
    lines = (folder / "marks").read_text().splitlines()
    return [[int(part) for part in line.split()] for line in lines]


def records(store: Path) -> dict[str, dict[str, bytes]]:
    """The tables of every cell of a store, as their bytes."""
    cells = Cells.open(str(store))
    return {key: dict(cells.read(key).tables) for key in cells.keys()}  # noqa: SIM118


def as_inline(folder: Path, n_cells: int = N_CELLS) -> dict[str, dict[str, bytes]]:
    """What the same cells come to in this process."""
    before = (folder / "marks").read_text()
    run_grid(grid_of(folder, n_cells, nap=0), folder / "inline")
    (folder / "marks").write_text(before)
    return records(folder / "inline")


class Once:
    """A watch that does something when the long cell has begun, once."""

    def __init__(self, folder: Path, act: Callable[[list[int]], None]) -> None:
        self.folder, self.act, self.done = folder, act, False

    def tick(self) -> None:
        cell = next((cell for cell in begun(self.folder) if cell[0] == LONG), None)
        if cell and not self.done:
            self.done = True
            self.act(cell)

    def begin(self, *_: object) -> None: ...
    def gave(self, *_: object) -> None: ...
    def settled(self, *_: object) -> None: ...
    def end(self) -> None: ...


def sweep(folder: Path, address: str, watch: Once) -> Summary:
    grid = grid_of(folder, long=LONG)
    return run_grid(grid, folder / "ray", executor=Ray(address=address), workers=2, watch=watch)


def assert_nothing_lost_or_doubled(folder: Path, done: Summary) -> None:
    assert not done.failed and done.computed == N_CELLS
    assert records(folder / "ray") == as_inline(folder)
    starts = Counter(cell[0] for cell in begun(folder))
    assert starts == {seed: 1 + (seed == LONG) for seed in range(N_CELLS)}


def test_a_worker_killed_in_a_cell_loses_and_doubles_nothing(cluster, folder):
    watch = Once(folder, lambda cell: os.kill(cell[1], signal.SIGKILL))
    done = sweep(folder, cluster.address, watch)
    assert watch.done
    assert_nothing_lost_or_doubled(folder, done)
    assert {threads for *_, threads in begun(folder)} == {1}


def test_a_node_killed_in_a_cell_leaves_its_cells_to_the_other(cluster, folder, monkeypatch):
    """Two workers on one CPU: at the end the idle one makes room for the one that waits."""
    monkeypatch.setattr(ray_executor, "SOON", 2.0)

    def lose_node(cell: list[int]) -> None:
        nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
        cluster.remove_node(nodes[cell[2]], allow_graceful=False)

    watch = Once(folder, lose_node)
    try:
        done = sweep(folder, cluster.address, watch)
    finally:
        cluster.add_node(num_cpus=1, **cluster.small)
    assert watch.done
    assert_nothing_lost_or_doubled(folder, done)


def test_a_driver_killed_and_started_again_goes_on(cluster, folder):
    store = folder / "ray"
    command = [sys.executable, "-c", DRIVER, cluster.address, str(store), grid_text(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen(command, env=env)
    try:
        _until(lambda: len(list((store / "cells").glob("[0-9a-f]*"))) >= 3)
    finally:
        driver.kill()
        driver.wait()
    workers = {cell[1] for cell in begun(folder)}
    _until(lambda: not any(map(psutil.pid_exists, workers)))
    finished = set(records(store))
    n_begun = len(begun(folder))
    grid = grid_of(folder)
    done = run_grid(grid, store, executor=Ray(address=cluster.address), workers=2)
    assert 3 <= len(finished) <= n_begun < N_CELLS + 2
    assert done.computed == N_CELLS - len(finished) == len(begun(folder)) - n_begun
    assert records(store) == as_inline(folder)


def test_a_third_worker_waits_aloud_and_a_scheduler_ends_all(cluster, folder, monkeypatch, caplog):
    monkeypatch.setattr(ray_executor, "SOON", 0.5)
    pressed = []

    class Terminate(Once):
        def tick(self) -> None:
            if not pressed and "The others go on." in caplog.text and len(begun(folder)) > 1:
                pressed.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGTERM)  # Ray's own handler would exit

    before = signal.getsignal(signal.SIGTERM)
    executor, watch = Ray(address=cluster.address), Terminate(folder, print)
    grid = grid_of(folder, n_cells=40, nap=1.0)
    with caplog.at_level(logging.WARNING, ray_executor.__name__):
        done = run_grid(grid, folder / "ray", executor=executor, workers=3, watch=watch)
    assert done.stopped and time.monotonic() - pressed[0] < 5
    assert done.computed < 40 and not done.failed
    assert signal.getsignal(signal.SIGTERM) is before
    workers = {cell[1] for cell in begun(folder)}
    assert len(workers) == 2
    _until(lambda: not any(map(psutil.pid_exists, workers)))
    assert caplog.messages[-1] == (
        "1 of 3 workers have not started yet: each takes 1 CPU and 0 GPU, and 0 CPU and 0 GPU of "
        "the cluster's 2 CPU and 0 GPU are free. The others go on."
    )


def test_a_worker_that_no_node_can_hold_is_refused(cluster, folder):
    executor = Ray(address=cluster.address, num_cpus=1.0, num_gpus=2.0, patience=0.5)
    message = (
        r"^No node of the cluster can hold a worker, which takes 1 CPU and 2 GPU: the largest has "
        r"1 CPU and 0 GPU\. Ask for less \(--cpus, --gpus\), or add a node\.$"
    )
    with pytest.raises(InputError, match=message):
        run_grid(grid_of(folder), folder / "ray", executor=executor)
    assert not begun(folder)


def test_a_local_cluster_listens_on_loopback_and_enforces_limits(folder, monkeypatch):
    """One cell is stopped by its worker; the deaf one does not hear it, and its actor is killed."""
    monkeypatch.setattr(ray_executor, "GRACE", 0.5)
    before, heard = {child.pid for child in ours()}, []

    class Listen(Once):
        def tick(self) -> None:
            new = [child for child in ours() if child.pid not in before]
            for process in [psutil.Process(), *new]:
                heard.extend(each.laddr.ip for each in listening(process))

    text = grid_text(folder, 1, nap=30) + "\nseconds: 0.5\n"
    text = text.replace("tries: 2", "tries: 1") + "axes: {product: {deaf: [false, true]}}"
    grid = parse_grid(text.replace("seeds: 1", "seeds: [0]"), "limits")
    watch = Listen(folder, print)
    done = run_grid(grid, folder / "ray", executor=Ray(address="local"), watch=watch)
    kinds = sorted(cell.failure.kind for cell in done.failed)
    assert kinds == ["LimitReached", "WorkerDied"]
    reasons = {cell.failure.error for cell in done.failed}
    assert reasons == {"the cell ran longer than its limit of 0.5 seconds"}
    assert len(heard) > 3 and {ip.removeprefix("::ffff:") for ip in heard} <= {"127.0.0.1", "::1"}
    assert not [child for child in ours() if child.pid not in before]


def ours() -> list[psutil.Process]:
    """The processes below this one that live."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def listening(process: psutil.Process) -> list:
    try:
        return [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def test_workers_get_folders_of_source_and_as_many_threads_as_cpus(tmp_path, monkeypatch):
    (tmp_path / "site-packages").mkdir()
    paths = [str(tmp_path), str(tmp_path / "site-packages"), str(tmp_path / "none"), os.__file__]
    monkeypatch.setattr(sys, "path", [*paths, os.path.dirname(os.__file__), str(tmp_path)])
    assert ray_executor._environment(4.0) == {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}${{PYTHONPATH}}",
        "OMP_NUM_THREADS": "4",
    }
    assert ray_executor._environment(0.5)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": 1.5}, "--cpus 1.5: Ray gives a worker a share below 1, or a whole number."),
        ({"num_gpus": -1.0}, "--gpus -1: Ray gives a worker a share below 1, or a whole number."),
    ],
)
def test_a_share_that_ray_cannot_give_is_refused(options, message):
    with pytest.raises(InputError) as error:
        Ray(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "--address 'nowhere': write auto, HOST:PORT or ray://HOST:PORT."),
        ("ray://", "--address 'ray://': write auto, HOST:PORT or ray://HOST:PORT."),
        (
            "127.0.0.1:9",
            "No Ray cluster answers at '127.0.0.1:9' ([Errno 111] Connection refused): start one "
            "there (ray start --head), or leave --address out to run on this machine.",
        ),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, message, tmp_path):
    where = Where(experiment="tts", address=str(tmp_path), workers=1, logs=tmp_path / "logs")
    executor = Ray(address=address)
    with pytest.raises(InputError) as error:
        executor.start(where)
    assert str(error.value) == message
    executor.stop()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    where = Where(experiment="tts", address=str(tmp_path), workers=1, logs=tmp_path / "logs")
    message = r"^--executor ray needs Ray: pip install 'interp-workbench\[ray\]', or use local\.$"
    executor = Ray()
    with pytest.raises(MissingPackageError, match=message):
        executor.start(where)
    executor.stop()


def _until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
