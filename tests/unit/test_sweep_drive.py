"""A sweep with real cells, in this process and in worker processes: what is finished stays, what
breaks is noted, limits hold, and a second start goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from interp.errors import DiskError, InputError, StoreError
from interp.results import index as indexes
from interp.results.cells import Cells
from interp.results.files import Files
from interp.results.manifest import machine
from interp.sweeps import drive
from interp.sweeps.drive import prepare, run_grid
from interp.sweeps.executors.inline import Inline
from interp.sweeps.executors.local import Local
from interp.sweeps.experiment import find
from interp.sweeps.grid import Grid, parse_grid
from interp.sweeps.status import clear, find_cell, read_sweep, split
from interp.sweeps.work import Worker

ROOT = Path(__file__).parents[2]
HEAD = "experiment: experiments.synthetic:EXPERIMENT\n"
LOCAL = pytest.param(Local, 2, id="local")
BOTH = pytest.mark.parametrize(("kind", "workers"), [pytest.param(Inline, 1, id="inline"), LOCAL])


def grid(text: str, name: str = "g") -> Grid:
    return parse_grid(HEAD + text, name)


SIX = "axes: {product: {model: [a, b], rows: [2, 3]}}\nexclude: [{model: b, rows: 2}]\nseeds: 2\n"


def records(store: Path | str) -> dict[str, list]:
    return {
        key: indexes.table(str(store), "scores", {key}).to_pylist()
        for key in Cells.open(store).keys()  # noqa: SIM118  # no dict
    }


@BOTH
def test_a_grid_is_computed_once(tmp_path, kind, workers):
    done = run_grid(grid(SIX), tmp_path, executor=kind(), workers=workers)
    assert (done.computed, done.plan.count("done"), done.failed) == (6, 6, [])
    assert all(len(rows) in (2, 3) for rows in records(tmp_path).values())
    again = run_grid(grid(SIX), tmp_path, executor=kind(), workers=workers)
    assert (again.computed, again.plan.count("done")) == (0, 6)


def test_what_an_orphan_of_an_earlier_start_leaves_during_a_sweep_is_gone_after_it(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "cells" / f".part-{dead.pid}-{machine()}-1"

    class Visited(Inline):
        def stop(self):
            left.mkdir()
            super().stop()

    run_grid(grid(SIX), tmp_path, executor=Visited())
    assert not left.exists() and len(records(tmp_path)) == 6


def test_executors_leave_the_same_records(tmp_path):
    run_grid(grid(SIX), tmp_path / "inline")
    run_grid(grid(SIX), tmp_path / "local", executor=Local(), workers=2)
    assert records(tmp_path / "inline") == records(tmp_path / "local")


def test_a_sweep_into_a_bucket_leaves_the_same_records(tmp_path, bucket):
    run_grid(grid(SIX), tmp_path)
    half = run_grid(grid(SIX), bucket, limit=2)
    rest = run_grid(grid(SIX), bucket, executor=Local(), workers=2)
    assert (half.computed, rest.computed) == (2, 4)
    assert records(bucket) == records(tmp_path)
    assert read_sweep(bucket, "g").count("done") == 6
    bad = run_grid(grid("base: {fault: raise}\nseeds: 1\n", "bad"), bucket)
    assert [cell.failure.error for cell in bad.failed] == ["seed 0 breaks"]
    assert read_sweep(bucket, "bad").cells[0].failure.attempts == 1


def test_two_grids_share_their_cells(tmp_path):
    run_grid(grid("axes: {product: {model: [a, b]}}\nseeds: 2\n", "one"), tmp_path)
    second = grid("axes: {product: {model: [b, c]}}\nseeds: 2\n", "two")
    assert prepare(second, str(tmp_path)).count("done") == 2
    assert run_grid(second, tmp_path).computed == 2


def test_a_limit_leaves_the_rest_to_the_next_start(tmp_path):
    first = run_grid(grid(SIX), tmp_path, limit=2)
    assert (first.computed, first.plan.count("todo")) == (2, 4)
    assert run_grid(grid(SIX), tmp_path).computed == 4


@BOTH
def test_a_cell_that_raises_is_noted_and_the_others_go_on(tmp_path, kind, workers):
    bad = grid("axes: {product: {fault: ['', raise]}}\nseeds: 2\ntries: 2\n")
    done = run_grid(bad, tmp_path, executor=kind(), workers=workers)
    assert done.computed == 2 and len(done.failed) == 2
    (failure,) = [c.failure for c in done.failed if c.config["seed"] == 1]
    assert (failure.attempts, failure.error, failure.kind) == (2, "seed 1 breaks", "RuntimeError")
    assert "synthetic.py" in failure.traceback and "about to raise" in failure.log
    again = run_grid(bad, tmp_path, executor=kind(), workers=workers)
    assert again.computed == 0 and len(again.failed) == 2  # not tried again unasked


@BOTH
def test_a_cell_that_leaves_python_is_a_failed_cell(tmp_path, kind, workers):
    grid_ = grid("axes: {product: {fault: [exit, '']}}\nseeds: 2\n")
    done = run_grid(grid_, tmp_path, executor=kind(), workers=workers)
    assert done.computed == 2
    assert {(c.failure.kind, c.failure.error) for c in done.failed} == {("SystemExit", "3")}
    assert str(done).startswith("2 cells computed in ")
    assert str(done).endswith("0 todo, 2 done, 2 failed")


def test_an_experiment_that_returns_something_else_is_told_what_is_asked(tmp_path, monkeypatch):
    (tmp_path / "bare.py").write_text(
        "from dataclasses import replace\n"
        "from experiments.synthetic import EXPERIMENT as BASE\n"
        "EXPERIMENT = replace(BASE, name='bare', run=lambda subject, config: {})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run_grid(parse_grid("experiment: bare:EXPERIMENT\nseeds: 1\n", "g"), tmp_path / "store")
    assert done.failed[0].failure.error == (
        "bare returned a dict: `run` of an Experiment returns Made(tables, spent)."
    )


def test_the_plan_tells_of_cells_that_other_code_computed(tmp_path, monkeypatch):
    run_grid(grid("seeds: 3\n"), tmp_path)
    monkeypatch.setitem(find("experiments.synthetic:EXPERIMENT").__dict__, "code_hash", "other")
    plan = prepare(grid("seeds: 4\n"), str(tmp_path))
    assert (plan.count("todo"), plan.older) == (4, 3)
    monkeypatch.undo()
    assert prepare(grid("seeds: 4\n"), str(tmp_path)).older == 0


def test_failed_cells_are_tried_again_when_asked(tmp_path):
    once = grid(f"base: {{fault: once, mark: {tmp_path / 'mark'}}}\nseeds: 3\n")
    assert len(run_grid(once, tmp_path / "store").failed) == 3
    mended = run_grid(once, tmp_path / "store", retry_failed=True)
    assert mended.computed == 3 and not mended.failed
    assert Files.open(tmp_path / "store").names("sweeps/g/failures") == []


def test_the_second_try_of_one_start_can_succeed(tmp_path):
    once = grid(f"base: {{fault: once, mark: {tmp_path / 'mark'}}}\nseeds: 2\ntries: 2\n")
    done = run_grid(once, tmp_path / "store")
    assert done.computed == 2 and not done.failed


@BOTH
def test_a_cell_past_its_time_is_stopped(tmp_path, kind, workers):
    slow = grid("axes: {product: {fault: ['', hang]}}\nseeds: 1\nseconds: 1\n")
    started = time.monotonic()
    done = run_grid(slow, tmp_path, executor=kind(), workers=workers)
    assert done.computed == 1 and time.monotonic() - started < 30
    assert done.failed[0].failure.error == "the cell ran longer than its limit of 1 seconds"


@BOTH
def test_a_cell_past_its_memory_is_stopped(tmp_path, kind, workers):
    import psutil

    held = psutil.Process().memory_info().rss / 2**30
    limit = round(max(held, 0.5) + 0.5, 2)
    big = grid(f"axes: {{product: {{fault: ['', grow]}}}}\nseeds: 1\nmemory_gib: {limit}\n")
    done = run_grid(big, tmp_path, executor=kind(), workers=workers)
    assert done.computed == 1
    assert done.failed[0].failure.error.startswith("the process grew past the cell's limit of")


def test_a_cell_that_kills_its_worker_is_noted_and_the_others_go_on(tmp_path):
    deadly = grid(
        "axes: {product: {fault: ['', die]}}\nseeds: 2\nexclude: [{fault: die, seed: 1}]\n"
    )
    done = run_grid(deadly, tmp_path, executor=Local(), workers=1)
    assert done.computed == 2
    (failure,) = [cell.failure for cell in done.failed]
    assert failure.kind == "WorkerDied" and "SIGKILL" in failure.error
    assert "the cell kills its process" in failure.log


def test_cells_that_kill_every_worker_do_not_stop_the_others(tmp_path):
    deadly = grid("axes: {product: {fault: [die, '']}}\nseeds: 5\n")
    done = run_grid(deadly, tmp_path, executor=Local(), workers=1)
    assert (done.computed, len(done.failed)) == (5, 5)


def test_workers_that_do_not_come_up_stop_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "astray.py").write_text(
        "import sys\n"
        "if sys.argv[0].endswith('process.py'):\n"
        "    raise RuntimeError('astray is broken in workers')\n"
        "from experiments.synthetic import EXPERIMENT\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = parse_grid("experiment: astray:EXPERIMENT\nseeds: 9\n", "g")
    with pytest.raises(InputError, match="3 workers in a row ended before they came up") as caught:
        run_grid(broken, tmp_path / "store", executor=Local(), workers=1)
    assert "astray is broken in workers" in str(caught.value)
    assert prepare(broken, str(tmp_path / "store")).count("todo") == 9


def test_a_store_that_cannot_be_written_stops_the_sweep_and_fails_no_cell(tmp_path, monkeypatch):
    def full(*_, **__):
        raise DiskError("The disk is full: free some space.")

    worker = Worker("experiments.synthetic:EXPERIMENT", str(tmp_path))
    monkeypatch.setattr(type(worker.cells), "write", full)
    with pytest.raises(StoreError, match="disk is full"):
        run_grid(grid("seeds: 3\n"), tmp_path)
    monkeypatch.undo()
    done = run_grid(grid("seeds: 3\n"), tmp_path)
    assert done.computed == 3


def test_a_worker_with_other_code_refuses_the_cell(tmp_path, monkeypatch):
    plan = prepare(grid("seeds: 1\n"), str(tmp_path))
    task = drive.Task(key="0" * 32, config=plan.cells[0].config)
    report = Worker("experiments.synthetic:EXPERIMENT", str(tmp_path)).run(task)
    assert report.state == "failed" and "its code, weights or data differ" in report.error
    assert Cells.open(tmp_path).keys() == []


def test_an_interrupt_ends_the_workers_and_keeps_what_is_finished(tmp_path):
    many = grid("base: {burn: 0.2}\nseeds: 60\n")
    interrupted: list[float] = []

    def interrupt() -> None:
        """Once a cell is finished: however slow the machine, the sweep is running then."""
        while not any((tmp_path / "cells").glob("[!.]*")):
            time.sleep(0.05)
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = run_grid(many, tmp_path, executor=Local(), workers=2)
    assert done.stopped and 0 < done.computed < 60 and time.monotonic() - interrupted[0] < 10
    assert run_grid(many, tmp_path, limit=1).computed == 1


def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    code = (
        "from interp.sweeps.drive import run_grid; from interp.sweeps.grid import parse_grid\n"
        "from interp.sweeps.executors.local import Local\n"
        f"g = parse_grid({HEAD!r} + 'base: {{burn: 60}}\\nseeds: 2\\n', 'g')\n"
        f"run_grid(g, {str(tmp_path)!r}, executor=Local(), workers=2)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment())
    workers = wait_for_workers(str(tmp_path), 2)
    driver.kill()
    driver.wait()
    assert wait_for_workers(str(tmp_path), 0) == []
    assert len(workers) == 2


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def wait_for_workers(address: str, n: int) -> list[int]:
    import psutil

    for _ in range(200):
        found = [
            p.pid
            for p in psutil.process_iter(["cmdline"])
            if "interp.sweeps.executors.process" in (p.info["cmdline"] or ())
            and address in p.info["cmdline"]
        ]
        if len(found) == n:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{len(found)} workers instead of {n}")


def test_the_store_describes_the_sweep(tmp_path):
    run_grid(grid("axes: {product: {fault: ['', raise]}}\nseeds: 2\n"), tmp_path)
    sweep = read_sweep(*split(f"{tmp_path}/sweeps/g"))
    assert (sweep.count("done"), sweep.count("failed"), sweep.count("todo")) == (2, 2, 0)
    assert sweep.about["experiment"] == "experiments.synthetic:EXPERIMENT"
    assert sweep.about["starts"][0]["executor"] == "inline"
    good = find_cell(sweep, ["fault=", "seed=1"])
    assert good.state == "done" and good.config["seed"] == 1 and good.label == 'seed=1 fault=""'
    with pytest.raises(InputError, match="2 cells of g fit seed=1"):
        find_cell(sweep, ["seed=1"])
    with pytest.raises(InputError, match="No cell of g fits seed=9"):
        find_cell(sweep, ["seed=9"])
    with pytest.raises(StoreError, match="has no sweep 'h'; it has: g"):
        read_sweep(str(tmp_path), "h")


def test_clearing_takes_only_what_nothing_names(tmp_path):
    run_grid(grid("seeds: 3\n", "old"), tmp_path)
    run_grid(grid("axes: {product: {fault: ['', raise]}}\nseeds: 1\n", "old"), tmp_path)
    found = clear(str(tmp_path), orphans=True, act=False)
    assert len(found.orphans) == 2 and found.failures == [] and found.damaged == []
    assert len(Cells.open(tmp_path).keys()) == 3
    stray = tmp_path / "index/0123456789ab.steps.parquet"
    stray.write_bytes(b"cut short")
    assert clear(str(tmp_path), orphans=True, act=True).strays == [f"index/{stray.name}"]
    assert not stray.exists()
    assert len(Cells.open(tmp_path).keys()) == 1
    assert read_sweep(str(tmp_path), "old").count("done") == 1


def test_a_damaged_description_is_written_anew(tmp_path):
    run_grid(grid("seeds: 2\n"), tmp_path)
    (tmp_path / "sweeps/g/sweep.json").write_text('{"name": ')
    with pytest.raises(StoreError, match=r"The description of the sweep g in .* is damaged"):
        read_sweep(str(tmp_path), "g")
    assert run_grid(grid("seeds: 2\n"), tmp_path).computed == 0
    assert read_sweep(str(tmp_path), "g").count("done") == 2


def test_cells_that_differ_only_in_what_decides_no_number_are_refused(tmp_path):
    twins = grid(f"axes: {{product: {{mark: [{tmp_path}/a, {tmp_path}/b]}}}}\n")
    with pytest.raises(InputError, match=r"differ only in mark .*, which decides no number"):
        run_grid(twins, tmp_path)


def test_numbers_of_workers_are_checked(tmp_path):
    with pytest.raises(InputError, match="this process is one worker"):
        run_grid(grid("seeds: 1\n"), tmp_path, workers=2)
    with pytest.raises(InputError, match="give at least 1"):
        run_grid(grid("seeds: 1\n"), tmp_path, limit=0)


def test_a_failure_file_that_is_cut_short_counts_as_none(tmp_path):
    bad = grid("base: {fault: raise}\nseeds: 1\n")
    key = run_grid(bad, tmp_path).failed[0].key
    path = tmp_path / f"sweeps/g/failures/{key}.json"
    assert json.loads(path.read_text())["error"] == "seed 0 breaks"
    path.write_text('{"attempts"')
    assert prepare(bad, str(tmp_path)).count("todo") == 1


def test_a_name_in_place_of_an_executor_or_a_grid_is_one_sentence():
    """In a process of its own: here the types of arguments are checked before the function runs."""
    code = (
        "from interp.sweeps import parse_grid, run_grid\n"
        f"g = parse_grid({HEAD!r} + 'seeds: 1', 'g')\n"
        "for given in ((g, 'local'), ('g.yaml', None)):\n"
        "    try: run_grid(given[0], '/nowhere/at/all', executor=given[1])\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "InputError executor='local': pass an executor, such as Local() of "
        "interp.sweeps.executors.local.",
        "InputError grid='g.yaml': pass what read_grid or parse_grid returns.",
    ]
