"""A sweep's numbers arrive in a tracker's own files, and a tracker never fails a sweep."""

from __future__ import annotations

import importlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import psutil
import pytest

from interp.cli.sweeps import Sweep
from interp.errors import InputError, MissingPackageError
from interp.results import frame
from interp.sweeps import trackers
from interp.sweeps.drive import Summary, Watch, run_grid
from interp.sweeps.grid import Grid, parse_grid
from interp.sweeps.trackers import TRACKERS, Entry, Tracked, watch
from tests.strategies import says

GRID = """
experiment: experiments.synthetic:EXPERIMENT
axes:
  list: [{seed: 0}, {seed: 1, rows: 2}, {seed: 7, fault: raise}]
"""


@pytest.fixture
def grid() -> Grid:
    return parse_grid(GRID, "tiny")


def scores(store: Path) -> dict[str, float]:
    """The mean score of each cell, from the records themselves."""
    rows = frame(store / "sweeps" / "tiny", "scores")
    return dict(rows.groupby("cell")["score"].mean())


def configs(store: Path) -> dict[str, dict[str, Any]]:
    about = json.loads((store / "sweeps" / "tiny" / "sweep.json").read_text())
    return dict(zip(about["keys"], about["configs"], strict=True))


class Ports(Tracked):
    """A watch that only notes which addresses this process and its children listen at."""

    def __init__(self) -> None:
        self.before = listening()
        self.during: set[Any] = set()

    def begin(self, *_: object) -> None: ...

    def settled(self, *_: object) -> None:
        self.during |= listening()

    def end(self) -> None: ...


def listening() -> set[Any]:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [each for process in processes for each in process.net_connections(kind="inet")]
    return {each.laddr for each in found if each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)}


def swept(name: str, grid: Grid, store: Path, limit: int | None = None) -> Summary:
    ports = Ports()
    done = run_grid(grid, store, limit=limit, watch=[watch(name, grid, store), ports])
    assert ports.during <= ports.before  # nothing listens that did not before
    return done


# ---------------------------------------------------------------- the trackers' own files


def test_the_numbers_of_two_starts_of_a_sweep_are_in_mlflows_database(tmp_path, grid, capfd):
    for package in trackers.PACKAGES["mlflow"]:
        pytest.importorskip(package, reason=f"{package} is not installed: extra mlflow")
    assert swept("mlflow", grid, tmp_path, limit=1).computed == 1
    assert swept("mlflow", grid, tmp_path).computed == 1  # what was there is not told again
    database = sqlite3.connect(tmp_path / "trackers" / "mlflow.db")

    def read(what: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for run, key, value in database.execute(f"SELECT run_uuid, key, value FROM {what}"):
            found.setdefault(run, {})[key] = value
        return found

    tags, metrics, params = read("tags"), read("metrics"), read("params")
    status = dict(database.execute("SELECT run_uuid, status FROM runs"))
    (experiment,) = database.execute("SELECT name FROM experiments WHERE experiment_id != 0")
    (kinds,) = database.execute("SELECT count(DISTINCT experiment_id) FROM runs")
    database.close()
    assert (experiment, kinds) == (("tiny",), (1,))
    means, known = scores(tmp_path), configs(tmp_path)
    of = {run: about["cell"] for run, about in tags.items()}
    assert sorted(of.values()) == sorted(known)
    for run, key in of.items():
        assert params[run] == {name: str(value) for name, value in known[key].items()}
        assert status[run] == ("FINISHED" if key in means else "FAILED")
        assert metrics[run].get("scores/score") == (
            pytest.approx(means[key], abs=1e-15) if key in means else None
        )
        assert metrics[run].get("rows/scores") == (known[key]["rows"] if key in means else None)
        assert metrics[run]["seconds"] >= metrics[run]["loading"] >= 0
    assert [t["error"] for t in tags.values() if "error" in t] == ["seed 7 breaks"]
    names = sorted(about["mlflow.runName"] for about in tags.values())
    assert [name.partition(" fault=")[0] for name in names] == [
        f"seed={seed} rows={rows}" for seed, rows in ((0, 3), (1, 2), (7, 3))
    ]
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_the_numbers_of_a_sweep_are_in_wandbs_offline_file(tmp_path, grid, capfd):
    pytest.importorskip("wandb", reason="wandb is not installed: extra wandb")
    assert swept("wandb", grid, tmp_path).computed == 2
    (file,) = (tmp_path / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    records = list(wandb_records(file.read_bytes()))
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("interp", "tiny")
    assert {item.key for item in run.config.update} >= {"experiment", "axes"}
    lines = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.WhichOneof("record_type") == "history"
    ]
    means, known = scores(tmp_path), configs(tmp_path)
    assert sorted(line["cell"] for line in lines) == sorted(known)
    for line in lines:
        key = line["cell"]
        assert {name: line[f"config.{name}"] for name in known[key]} == known[key]
        assert line["error"] == ("" if key in means else "seed 7 breaks")
        assert line.get("scores/score") == (
            pytest.approx(means[key], abs=1e-15) if key in means else None
        )
        assert line["seconds"] >= line["loading"] >= 0
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def wandb_records(data: bytes) -> Iterator[Any]:
    """The records of wandb's file: blocks of 32 KiB, pieces with a header of 7 bytes."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    at, parts = 7, b""  # the file has a header of its own
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = messages.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


# ---------------------------------------------------------------- a tracker that breaks


class Notes:
    """A tracker that keeps what it is told, and raises where it is asked to."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.calls = broken, []
        self.entries: list[Entry] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise ConnectionError(f"no {name}\nsecond line")

    def start(self, grid: Grid, folder: Path) -> None:
        assert folder.is_dir()
        self._called("start")

    def log(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._called("log")

    def finish(self) -> None:
        self._called("finish")


def test_a_tracker_is_told_of_each_attempt_and_of_the_end(tmp_path, grid):
    notes = Notes()
    tracked = Tracked("notes", notes, grid, tmp_path / "trackers")
    assert isinstance(tracked, Watch)
    run_grid(grid, tmp_path, watch=tracked)
    assert notes.calls == ["start", "log", "log", "log", "finish"]
    first, _, broken = sorted(notes.entries, key=lambda entry: entry.config["seed"])
    assert first.label.startswith("seed=0 rows=3 fault=")
    assert (first.key, first.error) == (next(iter(configs(tmp_path))), "")
    assert first.config == configs(tmp_path)[first.key]
    assert first.numbers["scores/score"] == pytest.approx(scores(tmp_path)[first.key], abs=1e-15)
    assert first.numbers["rows/scores"] == 3.0
    assert (broken.error, sorted(broken.numbers)) == ("seed 7 breaks", ["loading", "seconds"])


@pytest.mark.parametrize(
    ("broken", "calls"),
    [
        (("start",), ["start", "finish"]),
        (("log",), ["start", "log", "finish"]),
        (("log", "finish"), ["start", "log", "finish"]),
        (("finish",), ["start", "log", "log", "log", "finish"]),
    ],
)
def test_a_tracker_that_raises_is_said_once_and_fails_no_sweep(
    broken, calls, tmp_path, grid, capsys
):
    notes = Notes(*broken)
    done = run_grid(grid, tmp_path, watch=Tracked("notes", notes, grid, tmp_path / "trackers"))
    assert (done.computed, len(done.failed), done.stopped) == (2, 1, False)
    assert notes.calls == calls
    why = f"ConnectionError: no {broken[0]}"
    line = f"interp: the tracker notes failed ({why}); the sweep goes on without it.\n"
    assert capsys.readouterr().err == line


def test_a_folder_that_cannot_be_made_fails_no_sweep(tmp_path, grid, capsys):
    (tmp_path / "file").touch()
    notes = Notes()
    done = run_grid(grid, tmp_path / "store", watch=Tracked("n", notes, grid, tmp_path / "file"))
    assert (done.computed, notes.calls) == (2, ["finish"])
    assert capsys.readouterr().err.startswith("interp: the tracker n failed (FileExistsError: ")


# ---------------------------------------------------------------- asking for one


@pytest.mark.parametrize(("name", "package"), [("mlflow", "mlflow"), ("wandb", "wandb")])
def test_a_missing_package_names_the_extra(name, package, grid, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda module: None)
    message = (
        f"The tracker {name} needs the package {package}, which is not installed: "
        f"pip install 'interp-workbench[{name}]'."
    )
    with says(MissingPackageError, message):
        watch(name, grid, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mere_folder_is_no_package(tmp_path, monkeypatch):
    """wandb and MLflow write folders of their names, which Python takes for packages."""
    (tmp_path / "folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not trackers._installed("folder_of_runs")
    assert not trackers._installed("no_such_package_at_all")
    assert trackers._installed("json")


def test_an_unknown_tracker_is_refused(grid, tmp_path):
    message = "There is no tracker 'wandv'; there are: mlflow, wandb. Did you mean 'wandb'?"
    with says(InputError, message):
        watch("wandv", grid, tmp_path)


def test_the_command_offers_the_trackers_that_there_are_and_none_by_default():
    assert get_args(get_type_hints(Sweep)["tracker"]) == ("none", *TRACKERS)
    assert Sweep(grid=Path("g.yaml")).tracker == "none"


def test_a_bucket_is_tracked_beside_this_process(grid, monkeypatch):
    monkeypatch.setattr(trackers, "_installed", lambda module: True)
    assert watch("wandb", grid, "s3://bucket/x")._folder == Path("runs/trackers")
    assert watch("wandb", grid, "a/store")._folder == Path("a/store/trackers")
