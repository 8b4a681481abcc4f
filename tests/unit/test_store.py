"""The store: whole cells or none, under errors, damage, two writers and SIGKILL."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest

from interp.errors import InputError, StoreError
from interp.results import Manifest, Store, cell_key, collect, file_hash, source_hash
from interp.results.manifest import canonical_json, commit_of, write_manifest

ROOT = Path(__file__).resolve().parents[2]


def manifest(**changes: object) -> Manifest:
    return replace(
        Manifest(
            experiment="ioi",
            settings={"sites": ["0.attn_out"], "scale": 2.0},
            model={"name": "tiny", "hash": "f00"},
            data={"path": "pairs.jsonl", "hash": "ba5"},
            seeds=[0],
            versions={"numpy": "2"},
            commit=None,
            device="cpu",
            threads=1,
            command=["ioi"],
            created="2026-01-01T00:00:00+00:00",
            code="c0de",
        ),
        **changes,
    )


def identity(i: int) -> dict[str, object]:
    return {"i": i, "seed": 0}


def rows_of(i: int) -> list[dict[str, object]]:
    return [{"i": i, "step": step, "effect": i / (step + 1)} for step in range(3)]


def put(store: Store, i: int, **tables: list) -> str:
    key = cell_key(identity(i))
    store.write(key, identity(i), tables or {"scores": rows_of(i)}, {"seconds": 0.5})
    return key


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".part-*")]


def python(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=env, **pipes)


def race(code: str, *arguments: tuple) -> list[tuple[int, str]]:
    """Run one process per arguments, all let go when all are ready; return codes and errors.

    The code calls `ready()` when its imports are done.
    """
    ready = "def ready():\n    print('ready', flush=True)\n    input()\n"
    racers = [python(ready + code, *each) for each in arguments]
    assert [racer.stdout.readline() for racer in racers] == [b"ready\n"] * len(racers)
    for racer in racers:
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    errors = [racer.communicate()[1].decode() for racer in racers]
    return [(racer.returncode, error) for racer, error in zip(racers, errors, strict=True)]


def flip_a_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "run", manifest())


# Writing and reading


def test_what_is_written_is_read_back(store):
    key = put(store, 1, scores=rows_of(1), texts=[{"text": "a", "tokens": [1, 2]}])
    again = Store.open(store.folder)
    assert again.has(key)
    assert again.keys() == [key]
    assert again.rows("scores") == rows_of(1)
    assert again.rows("texts") == [{"text": "a", "tokens": [1, 2]}]
    (about,) = again.cells()
    assert about["identity"] == identity(1)
    assert about["spent"] == {"seconds": 0.5}
    assert {name: table["rows"] for name, table in about["tables"].items()} == {
        "scores": 3,
        "texts": 1,
    }
    path = store.folder / "cells" / key / "scores.parquet"
    assert about["tables"]["scores"]["sha256"] == file_hash(path)
    assert leftovers(store.folder) == []


def test_a_cell_that_is_not_there(store):
    assert not store.has(cell_key(identity(1)))
    assert (store.keys(), store.rows("scores"), store.damaged) == ([], [], 0)


def test_cells_come_by_key_or_in_the_manifests_order(store):
    keys = [put(store, i) for i in range(5)]
    assert store.keys() == sorted(keys)
    store.update_manifest(order=[keys[3], keys[0]])
    rest = sorted({*keys} - {keys[3], keys[0]})
    assert store.keys() == [keys[3], keys[0], *rest]
    assert [row["i"] for row in store.rows("scores")][:6] == [3, 3, 3, 0, 0, 0]


def test_columns_of_none_integers_and_new_columns_fit_together(store):
    first = put(store, 0, scores=[{"effect": None, "steps": [], "about": None}])
    second = put(store, 1, scores=[{"effect": 1, "steps": [None], "about": {"a": 1}}])
    third = put(store, 2, scores=[{"effect": 0.5, "steps": [2.5], "about": {"b": "x"}, "new": 1}])
    store.update_manifest(order=[first, second, third])
    assert store.rows("scores") == [
        {"effect": None, "steps": [], "about": None, "new": None},
        {"effect": 1.0, "steps": [None], "about": {"a": 1, "b": None}, "new": None},
        {"effect": 0.5, "steps": [2.5], "about": {"a": None, "b": "x"}, "new": 1},
    ]
    assert store.table("scores").schema.field("effect").type == pa.float64()


def test_empty_tables_and_missing_tables(store):
    put(store, 0, scores=[])
    put(store, 1, scores=[{"a": 1}], extra=[{"b": 2}])
    assert store.rows("scores") == [{"a": 1}]
    assert store.rows("extra") == [{"b": 2}]
    message = r"has no table 'score'; there are: extra, scores\. Did you mean 'scores'\?$"
    with pytest.raises(StoreError, match=message):
        store.rows("score")


def test_numpy_values_are_stored_as_numbers(store):
    row = {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([[1.5], [2.0]]), "d": np.True_}
    put(store, 0, scores=[row])
    assert store.rows("scores") == [{"a": 0.5, "b": 3, "c": [[1.5], [2.0]], "d": True}]


def test_cells_that_disagree_on_a_type_are_named(store):
    put(store, 0, scores=[{"a": 1}])
    put(store, 1, scores=[{"a": "x"}])
    with pytest.raises(StoreError, match=r"disagree on table 'scores': .*Field a has incompatible"):
        store.rows("scores")


# What is refused


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ([1.0, [float("inf")]], "inf"),
        ({"x": [float("nan")]}, "nan"),
        (np.float32("nan"), "nan"),
        (np.array([1.0, np.nan]), "nan"),
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_hide(store, value, named):
    message = rf"^Table 'scores', row 1, column 'effect': {named} is not a result; store None"
    with pytest.raises(StoreError, match=message):
        put(store, 0, scores=[{"effect": 1.0}, {"effect": value}])
    assert os.listdir(store.folder / "cells") == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}, {"a": "x"}], r"^Table 'scores', column 'a' cannot be stored: it mixes int and"),
        ([{"a": True}, {"a": 1}], r"column 'a' cannot be stored: it mixes bool and int"),
        ([{"a": b"x"}], r"^Table 'scores', row 0, column 'a': a bytes cannot be stored"),
        ([{"a": 2**63}], r"^Table 'scores', column 'a' cannot be stored: Python int too large"),
        ([{"a": 2**60 + 1}, {"a": 0.5}], r"column 'a' cannot be stored: Integer value"),
        ([{"a": "\ud800"}], r"column 'a' cannot be stored: 'utf-8' codec"),
        ([{"a": {}}], r"column 'a' cannot be stored: its mappings are all empty; use None"),
        ([{"a": {1: 2}}], r"column 'a': the key 1 of a mapping is not a text"),
        ([{"": 1}], r"^Table 'scores', row 0, column '': the name of a column is a text"),
        ([{}], r"^Table 'scores' has rows without a column"),
    ],
)
def test_rows_that_no_table_can_hold_are_refused(store, rows, message):
    with pytest.raises(StoreError, match=message):
        put(store, 0, scores=rows)
    assert os.listdir(store.folder / "cells") == []


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a.b"])
def test_a_table_cannot_leave_its_cell(store, name):
    with pytest.raises(StoreError, match=rf"^{re.escape(repr(name))} is no name for a table"):
        put(store, 0, **{name: []})


def test_a_key_must_be_its_identitys(store):
    with pytest.raises(StoreError, match=r"^0{32} is not the key of .*: use cell_key\(identity\)"):
        store.write("0" * 32, identity(0), {}, {})
    with pytest.raises(StoreError, match=r"^'\.\./x' is not the key of a cell"):
        store.has("../x")


def test_a_cost_must_be_finite(store):
    with pytest.raises(InputError, match=r"^What a cell spent cannot be written as JSON: "):
        store.write(cell_key(identity(0)), identity(0), {}, {"seconds": float("nan")})


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp.results.cells.write_bytes", full)
    with pytest.raises(StoreError, match=r"^Cell \w+ cannot be written to .*: No space left"):
        put(store, 0)
    assert os.listdir(store.folder / "cells") == []


def test_every_byte_is_on_the_disk_before_a_cell_has_its_name(store, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), rename(a, b)))
    put(store, 0)
    # scores.parquet, cell.json, their folder; the name; the folder of the name
    assert calls == ["fsync", "fsync", "fsync", "rename", "fsync"]


# Damage


@pytest.mark.parametrize("name", ["scores.parquet", "cell.json"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_byte_is_found_set_aside_and_made_again(store, name, place):
    key, other = put(store, 0), put(store, 1)
    if (name, place) == ("cell.json", -1):
        place = -3  # the last byte is the line end, which is no part of the JSON
    flip_a_byte(store.folder / "cells" / key / name, place)
    assert store.rows("scores") == rows_of(1)
    assert store.damaged == 1
    assert store.keys() == [other]
    assert not store.has(key)
    assert os.listdir(store.folder / "damaged") == [f"{key}.1"]
    put(store, 0)
    assert store.has(key)
    assert Counter(row["i"] for row in store.rows("scores")) == {0: 3, 1: 3}


def test_each_damage_is_kept_apart(store):
    for _ in range(2):
        key = put(store, 0)
        (store.folder / "cells" / key / "scores.parquet").unlink()
        assert not store.has(key)
    assert sorted(os.listdir(store.folder / "damaged")) == [f"{key}.1", f"{key}.2"]


def test_a_cell_under_another_name_is_damaged(store):
    key, wrong = put(store, 0), cell_key(identity(9))
    (store.folder / "cells" / key).rename(store.folder / "cells" / wrong)
    assert not store.has(wrong)
    assert (store.keys(), store.damaged) == ([], 1)


@pytest.mark.parametrize("content", [b"", b'{"key": 1', b"[]", b"null", b'{"a": NaN}'])
def test_a_cell_json_cut_short_is_damage(store, content):
    key = put(store, 0)
    (store.folder / "cells" / key / "cell.json").write_bytes(content)
    assert not store.has(key)
    assert store.damaged == 1


def test_writing_over_a_damaged_cell_sets_it_aside(store):
    key = put(store, 0)
    flip_a_byte(store.folder / "cells" / key / "scores.parquet", 50)
    put(store, 0)
    assert os.listdir(store.folder / "damaged") == [f"{key}.1"]
    assert store.rows("scores") == rows_of(0)


def test_the_second_writer_of_a_cell_drops_its_own(store):
    key = cell_key(identity(0))
    assert store.write(key, identity(0), {"scores": rows_of(0)}, {"seconds": 1})
    assert not store.write(key, identity(0), {"scores": rows_of(0)}, {"seconds": 2})
    assert store.cells()[0]["spent"] == {"seconds": 1}
    assert leftovers(store.folder) == []


# Beginning, resuming and opening


def test_the_same_settings_resume(tmp_path):
    put(Store.begin(tmp_path, manifest()), 0)
    again = Store.begin(tmp_path, manifest(created="later", seeds=[0, 3], command=["other"]))
    assert again.rows("scores") == rows_of(0)
    assert again.manifest == manifest(seeds=[0, 3])


def test_another_machine_resumes_and_is_noted_once(tmp_path):
    Store.begin(tmp_path, manifest())
    for _ in range(2):
        store = Store.begin(tmp_path, manifest(device="cuda:0", commit="abc"))
    assert store.manifest.device == "cpu"
    assert [entry["device"] for entry in store.manifest.resumed] == ["cuda:0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"sites": ["0.attn_out"], "scale": 3.0}}, "settings.scale = 2.0 .* has 3.0"),
        (
            {"settings": {"sites": ["0.mlp_out"], "scale": 2.0}},
            r'settings.sites\[0\] = "0.attn_out" and this one has "0.mlp_out"',
        ),
        ({"settings": {"sites": ["0.attn_out"]}}, "settings.scale = 2.0 .* has absent"),
        ({"experiment": "equality"}, 'experiment = "ioi" and this one has "equality"'),
        ({"model": {"name": "tiny", "hash": "f01"}}, 'model.hash = "f00" .* has "f01"'),
        ({"data": {"path": "pairs.jsonl", "hash": "0"}}, 'data.hash = "ba5" .* has "0"'),
        ({"code": "new"}, 'code = "c0de" and this one has "new"'),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, changes, message):
    Store.begin(tmp_path, manifest())
    with pytest.raises(StoreError, match=rf"holds a run with {message}: pick another folder\.$"):
        Store.begin(tmp_path, manifest(**changes))
    assert Store.open(tmp_path).manifest == manifest()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"is not empty and has no manifest\.json"):
        Store.begin(tmp_path, manifest())
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(StoreError, match=r"out is a file, and a run needs a folder"):
        Store.begin(path, manifest())
    with pytest.raises(StoreError, match=r"out/run cannot be used: Not a directory"):
        Store.begin(path / "run", manifest())


def test_an_empty_folder_or_a_begin_that_was_killed_is_taken(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".part-1-00000000-00").write_text('{"sche')
    Store.begin(tmp_path, manifest())
    assert Store.open(tmp_path).manifest == manifest()


def test_there_is_no_run_to_open(tmp_path):
    with pytest.raises(StoreError, match=r"^There is no run at .*none: it is not a folder\."):
        Store.open(tmp_path / "none")
    with pytest.raises(StoreError, match=r"^There is no run at .*: it has no manifest\.json\."):
        Store.open(tmp_path)


@pytest.mark.parametrize("door", [Store.open, lambda folder: Store.begin(folder, manifest())])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, "exper', r"manifest\.json is cut short or damaged \("),
        ("[]", r"is not a manifest: it has no schema"),
        ('{"schema": 2}', r"has schema 2 and this version reads up to 1: update"),
        ('{"schema": 1}', r"manifest\.json lacks code, command, commit, created, data, "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(store, door, content, message):
    (store.folder / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        door(store.folder)


def test_a_cell_of_a_newer_schema_is_not_taken_for_damage(store, monkeypatch):
    monkeypatch.setattr("interp.results.cells.SCHEMA", 2)
    key = put(store, 0)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"has schema 2 and this version reads up to 1: update"):
        store.has(key)
    assert (store.folder / "cells" / key).is_dir()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_reader_without_rights_skips_a_damaged_cell(store, monkeypatch, number):
    put(store, 1)
    flip_a_byte(store.folder / "cells" / put(store, 0) / "scores.parquet", 50)

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("interp.results.cells.locked", refused)
    reader = Store.open(store.folder)
    assert (reader.rows("scores"), reader.damaged) == (rows_of(1), 1)


def test_update_manifest(store):
    store.update_manifest(spent={"forwards": 12}, notes={"why": "test"})
    assert Store.open(store.folder).manifest == manifest(
        spent={"forwards": 12}, notes={"why": "test"}
    )
    with pytest.raises(
        StoreError, match=r"^A manifest has no field 'spend'\. Did you mean 'spent'"
    ):
        store.update_manifest(spend={})
    with pytest.raises(StoreError, match=r"^settings\.scale identifies the run: begin another"):
        store.update_manifest(settings={"sites": ["0.attn_out"]})
    with pytest.raises(InputError, match=r"cannot be written as JSON"):
        store.update_manifest(spent={"seconds": float("inf")})
    assert store.manifest.spent == {"forwards": 12}


def test_what_dead_processes_left_is_removed_and_the_rest_kept(store):
    from interp.results.manifest import machine

    dead = python("")
    dead.communicate()
    cells, here = store.folder / "cells", machine()
    stale, elsewhere = cells / f".part-{dead.pid}-{here}-00", cells / f".part-{dead.pid}-{0:08}-00"
    old, alive = cells / f".part-1-{0:08}-00", cells / f".part-{os.getpid()}-{here}-00"
    for part in (stale, elsewhere, old, alive):
        part.mkdir()
        (part / "scores.parquet").touch()
    os.utime(old, (0, time.time() - 25 * 3600))
    Store.begin(store.folder, manifest())
    assert sorted(leftovers(store.folder)) == sorted([elsewhere.name, alive.name])
    assert store.keys() == []


# Processes

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit.test_store import identity, manifest, put
from interp.results import Store, cell_key
store = Store.begin(sys.argv[2], manifest())
for i in range(int(sys.argv[3])):
    if not store.has(cell_key(identity(i))):
        put(store, i)
"""

RACER = WRITER.replace("if not store.has(cell_key(identity(i))):", "if True:").replace(
    "store = Store", "ready()\nstore = Store"
)


def finished_cells(folder: Path) -> int:
    cells = folder / "cells"
    return sum(not name.startswith(".") for name in os.listdir(cells)) if cells.is_dir() else 0


def kill_midway(folder: Path, n_more: int, delay: float) -> bool:
    """Start the writer, kill it after some more cells; tell whether it finished before."""
    target, process = finished_cells(folder) + n_more, python(WRITER, ROOT, folder, 200)
    while process.poll() is None and finished_cells(folder) < target:
        time.sleep(0.0005)
    time.sleep(delay)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors.decode()
    return process.returncode == 0


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    rng, kills = random.Random(0), 0
    while not kill_midway(tmp_path / "killed", rng.randint(15, 45), rng.uniform(0, 0.004)):
        kills += 1
        assert kills < 50
    assert kills >= 4
    killed, whole = Store.open(tmp_path / "killed"), Store.begin(tmp_path / "whole", manifest())
    for i in range(200):
        put(whole, i)
    assert len(killed.keys()) == 200
    assert killed.keys() == whole.keys()
    assert killed.rows("scores") == whole.rows("scores")
    assert killed.damaged == 0
    assert leftovers(killed.folder) == []
    assert killed.manifest == manifest()


def test_processes_that_write_the_same_cells_leave_each_once(tmp_path):
    assert race(RACER, *[(ROOT, tmp_path / "run", 40)] * 3) == [(0, "")] * 3
    store = Store.open(tmp_path / "run")
    assert len(store.keys()) == 40
    assert Counter(row["i"] for row in store.rows("scores")) == dict.fromkeys(range(40), 3)
    assert (store.damaged, leftovers(store.folder)) == (0, [])


def test_of_two_processes_with_other_settings_one_is_refused(tmp_path):
    code = RACER.replace("manifest())", "manifest(experiment=sys.argv[4]))")
    ends = race(code, *[(ROOT, tmp_path / "run", 0, name) for name in ("one", "two")])
    assert sorted(code for code, _ in ends) == [0, 1]
    assert sum("holds a run with experiment" in error for _, error in ends) == 1


def test_two_processes_that_change_the_manifest_lose_nothing(store):
    code = """
import sys
from interp.results import Store
store = Store.open(sys.argv[1])
ready()
for i in range(50):
    changes = {sys.argv[2]: {"count": i}}
    assert getattr(store.update_manifest(**changes), sys.argv[2]) == changes[sys.argv[2]]
"""
    assert race(code, (store.folder, "spent"), (store.folder, "notes")) == [(0, "")] * 2
    assert (store.manifest.spent, store.manifest.notes) == ({"count": 49}, {"count": 49})


@pytest.mark.parametrize("deed", ["begin", "update", "set aside"])
def test_what_is_no_rename_of_a_cell_waits_for_the_lock(store, deed):
    fcntl = pytest.importorskip("fcntl")
    key = put(store, 0)
    flip_a_byte(store.folder / "cells" / key / "scores.parquet", 50)
    deeds = {
        "begin": lambda: Store.begin(store.folder, manifest()),
        "update": lambda: store.update_manifest(notes={"a": 1}),
        "set aside": lambda: store.has(key),
    }
    worker = Thread(target=deeds[deed])
    with (store.folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker.start()
        worker.join(timeout=0.2)
        assert worker.is_alive()
    worker.join(timeout=10)
    assert not worker.is_alive()


def test_a_cell_made_again_meanwhile_is_not_set_aside(store, monkeypatch):
    """Another process repairs the cell between our finding the damage and our getting the lock."""
    from interp.results import cells as module

    key, locked = put(store, 0), module.locked
    path = store.folder / "cells" / key / "scores.parquet"
    good = path.read_bytes()
    flip_a_byte(path, 50)

    def late(folder):
        path.write_bytes(good)
        return locked(folder)

    monkeypatch.setattr(module, "locked", late)
    assert store.has(key)
    assert store.damaged == 0
    assert not (store.folder / "damaged").exists()


def test_reading_records_needs_no_model_and_no_plots():
    heavy = ["torch", "transformers", "plotly"]
    code = (
        f"import interp.results, interp.stats, sys; print([m for m in {heavy} if m in sys.modules])"
    )
    out, errors = python(code).communicate()
    assert (out.decode().strip(), errors) == ("[]", b"")


# Manifests


def test_the_hash_covers_what_decides_the_numbers_and_nothing_else():
    same = {"created": "x", "device": "cuda", "command": [], "versions": {}, "commit": "y"}
    same |= {"threads": 8, "spent": {"s": 1.0}, "notes": {"a": 1}, "order": ["k"]}
    same |= {"model": {"name": "elsewhere", "hash": "f00"}, "data": {"hash": "ba5"}}
    for name, value in same.items():
        assert manifest(**{name: value}).settings_hash == manifest().settings_hash, name
    other = {"experiment": "x", "settings": {}, "model": {"hash": "0"}, "data": {"hash": "0"}}
    other |= {"schema": 0, "code": "x"}
    for name, value in other.items():
        assert manifest(**{name: value}).settings_hash != manifest().settings_hash, name


def test_a_model_without_a_hash_is_known_by_its_name():
    one, two = (manifest(model={"name": name, "hash": None}) for name in ("a", "b"))
    assert one.settings_hash != two.settings_hash


def test_collect_fills_in_the_circumstances(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    made = collect(
        experiment="ioi",
        settings={"sites": ("a", "b")},
        model={"hash": "0"},
        data={},
        seeds=range(2),
        device="cpu",
        code="c",
    )
    assert made.settings == {"sites": ["a", "b"]}
    assert (made.seeds, made.threads, made.command) == (
        [0, 1],
        3,
        [Path(sys.argv[0]).name, *sys.argv[1:]],
    )
    assert {"torch", "transformers", "nnsight", "python", "platform"} <= made.versions.keys()
    assert made.versions["numpy"] == np.__version__
    assert made.created.endswith("+00:00")
    Store.begin(tmp_path / "run", made)
    assert Store.open(tmp_path / "run").manifest == made


def test_settings_that_json_cannot_hold_are_refused():
    with pytest.raises(InputError, match=r"^settings cannot be written as JSON: .*Path"):
        collect(
            experiment="x",
            settings={"out": Path()},
            model={},
            data={},
            seeds=[],
            device="cpu",
            code="",
        )


def test_a_missing_package_has_no_version(monkeypatch):
    from interp.results import manifest as module

    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-package-at-all"))
    assert module.versions()["no-such-package-at-all"] is None


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_that_tracks_the_file(tmp_path, monkeypatch):
    source, installed = tmp_path / "src" / "a.py", tmp_path / "venv" / "a.py"
    for path in (source, installed):
        path.parent.mkdir()
        path.write_text("")
    assert commit_of(source) is None  # no checkout at all
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("venv")
    git(tmp_path, "add", ".")
    assert commit_of(source) is None  # no commit yet
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as inside a hook
    assert commit_of(source) == head
    assert commit_of(installed) is None  # somebody's repository, which does not track it
    (tmp_path / "notes.txt").write_text("a note changes no number")
    assert commit_of(source) == head
    (tmp_path / "new.py").write_text("")
    assert commit_of(source) == f"{head}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(Path(__file__)) is None


def test_a_source_hash_follows_names_and_text_only(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, end in ((one, b"\n"), (two, b"\r\n")):
        folder.mkdir()
        (folder / "a.py").write_bytes(b"x = 1" + end)
        (folder / "b.py").write_bytes(b"y = 2" + end)
        (folder / "b.txt").write_bytes(os.urandom(4))
    before = source_hash([one])
    assert before == source_hash([two]) == source_hash([two / "b.py", one / "a.py"])
    (one / "a.py").write_bytes(b"x = 2\n")
    assert source_hash([one]) != before
    with pytest.raises(InputError, match=r"^There is no source file .*c\.py to hash"):
        source_hash([one / "c.py"])
    with pytest.raises(InputError, match=r"^No source file was given to hash"):
        source_hash([])


def test_a_file_hash_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # the first test vector of FIPS 180-2
    assert file_hash(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    with pytest.raises(InputError, match=r"none cannot be hashed: No such file"):
        file_hash(tmp_path / "none")


def test_a_manifest_is_replaced_whole(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, manifest())
    with pytest.raises(InputError, match="cannot be written as JSON"):
        write_manifest(path, manifest(settings={"scale": float("nan")}))
    assert json.loads(path.read_text())["settings"] == manifest().settings
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_key_is_a_hash_of_canonical_json():
    assert canonical_json({"b": 1, "a": [True, None]}) == '{"a":[true,null],"b":1}'
    assert re.fullmatch("[0-9a-f]{32}", cell_key({"a": 1}))
    # sha256 of {"a":1}, by another program: printf '{"a":1}' | sha256sum
    assert cell_key({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad808"
    with pytest.raises(InputError, match=r"cannot be written as JSON: Out of range float"):
        cell_key({"a": float("nan")})
