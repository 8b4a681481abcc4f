"""Cells and files of a folder: what `Store` does not show, and schemas of other versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.errors import StoreError
from interp.results import Cells, Files, Manifest, Store, cell_key, collect
from interp.results.cells import FolderCells, sealed, unsealed
from interp.results.disk import PART_SECONDS, is_leftover, remove_leftovers
from interp.results.manifest import machine, write_manifest
from interp.results.migrate import main, migrate
from interp.results.tables import as_parquet, as_table, from_parquet


def identity(i: int) -> dict[str, object]:
    return {"experiment": "law", "config": {"i": i}}


def put(cells: Cells, i: int) -> str:
    key = cell_key(identity(i))
    cells.write(key, identity(i), {"scores": [{"i": i}]}, {"seconds": 0.5})
    return key


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells.open(tmp_path / "store", write=True)


# Opening


def test_a_folder_is_made_to_write_and_must_be_there_to_read(tmp_path):
    with pytest.raises(
        StoreError, match=r"^There are no records at .*a/b: there is no such folder"
    ):
        Cells.open(tmp_path / "a" / "b")
    cells = Cells.open(str(tmp_path / "a" / "b"), write=True)
    assert isinstance(cells, FolderCells)
    assert cells.address == str(tmp_path / "a" / "b")
    assert Cells.open(cells.address).keys() == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^There are no records at .*file: it is a file\."):
        Cells.open(tmp_path / "file")
    with pytest.raises(StoreError, match=r"file is a file, and a store needs a folder: pick"):
        Cells.open(tmp_path / "file", write=True)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    message = r"is not empty and has no cells, so it is not a store: pick another folder\.$"
    with pytest.raises(StoreError, match=message):
        Cells.open(tmp_path, write=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_reading_changes_nothing(cells):
    put(cells, 0)
    before = sorted(map(str, Path(cells.address).rglob("*")))
    reader = Cells.open(cells.address)
    assert reader.has(cell_key(identity(0)))
    assert sorted(map(str, Path(cells.address).rglob("*"))) == before


# Cells


def test_a_cell_comes_back_with_its_tables(cells):
    key = put(cells, 3)
    cell = cells.read(key)
    assert cell.about["identity"] == identity(3)
    assert cell.about["spent"] == {"seconds": 0.5}
    assert cell.table("scores").to_pylist() == [{"i": 3}]
    assert from_parquet(cell.tables["scores"]).to_pylist() == [{"i": 3}]
    assert cells.keys() == [key]
    assert cells.read(cell_key(identity(4))) is None
    with pytest.raises(StoreError, match=r"^'\.\./x' is not the key of a cell"):
        cells.read("../x")


def test_a_run_and_a_store_read_each_others_cells(tmp_path):
    manifest = collect(
        experiment="x", settings={}, model={}, data={}, seeds=[], device="cpu", code="c", command=[]
    )
    store = Store.begin(tmp_path, manifest)
    key = put(Cells.open(tmp_path, write=True), 0)
    assert store.keys() == Cells.open(tmp_path).keys() == [key]


def reseal(path: Path, **changes: object) -> None:
    """Change a `cell.json` and give it a checksum that fits."""
    path.write_bytes(sealed(unsealed(path.read_bytes()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": {"scores": {"sha256": "0" * 64, "rows": 1}}},
        {"tables": {"../../x": {"sha256": "0" * 64, "rows": 1}}},
        {"tables": {"scores": {"rows": 1}}},
        {"tables": {"scores": None}},
        {"tables": ["scores"]},
        {"tables": None},
        {"schema": None},
        {"schema": "1"},
        {"key": None},
        {"identity": {"i": 9}},
        {"identity": None},
    ],
)
def test_a_cell_json_that_says_what_is_not_so_is_damage(cells, changes):
    key = put(cells, 0)
    reseal(Path(cells.address, "cells", key, "cell.json"), **changes)
    assert not cells.has(key)
    assert (cells.damaged, cells.set_aside(), cells.keys()) == (1, {key}, [])


@pytest.mark.parametrize("rows", [0, 2])
def test_a_row_count_that_lies_is_damage(cells, rows):
    key = put(cells, 0)
    place = Path(cells.address, "cells", key)
    entry = unsealed((place / "cell.json").read_bytes())["tables"]["scores"]
    reseal(place / "cell.json", tables={"scores": entry | {"rows": rows}})
    assert not cells.has(key)
    reseal(Path(cells.address, "damaged", f"{key}.1", "cell.json"), tables={"scores": entry})
    Path(cells.address, "damaged", f"{key}.1").rename(place)
    assert cells.has(key)  # the count alone was wrong


def test_set_aside_lists_each_key_once(cells):
    for _ in range(2):
        key = put(cells, 0)
        Path(cells.address, "cells", key, "scores.parquet").write_bytes(b"")
        assert not cells.has(key)
    assert cells.set_aside() == {key}
    assert sorted(os.listdir(Path(cells.address, "damaged"))) == [f"{key}.1", f"{key}.2"]


def test_tables_may_lie_under_names_that_hold_their_checksum(cells):
    """As in a bucket, so that a copy of one to a folder is a store."""
    key = put(cells, 0)
    place = Path(cells.address, "cells", key)
    entry = unsealed((place / "cell.json").read_bytes())["tables"]["scores"]
    reseal(place / "cell.json", tables={"scores": entry | {"named": "sha256"}})
    (place / "scores.parquet").rename(place / f"scores.{entry['sha256'][:16]}.parquet")
    assert cells.read(key).table("scores").to_pylist() == [{"i": 0}]


def test_equal_tables_are_equal_bytes():
    one, two = (as_parquet("t", as_table("t", [{"a": 0.1, "b": ["x"]}])) for _ in range(2))
    assert one == two


# What is left behind


def part(folder: Path, pid: int, where: str) -> Path:
    path = folder / f".part-{pid}-{where}-00"
    path.mkdir()
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("seconds", [0, 1e4, 1e6, -1e4, -1e9])
def test_no_clock_takes_the_part_of_a_living_writer_of_this_machine(tmp_path, seconds):
    alive, dead = part(tmp_path, os.getpid(), machine()), part(tmp_path, dead_pid(), machine())
    assert not is_leftover(alive, time.time() + seconds)
    assert is_leftover(dead, time.time() + seconds)
    os.utime(alive, (0, 0))
    remove_leftovers([tmp_path])
    assert os.listdir(tmp_path) == [alive.name]


def test_another_machines_part_is_left_behind_after_a_day_of_the_file_systems_clock(
    tmp_path, monkeypatch
):
    elsewhere = part(tmp_path, os.getpid(), "00000000")
    now = elsewhere.stat().st_mtime
    assert not is_leftover(elsewhere, now + PART_SECONDS - 60)
    assert not is_leftover(elsewhere, now - PART_SECONDS)  # a clock that went back
    assert is_leftover(elsewhere, now + PART_SECONDS + 60)
    monkeypatch.setattr(time, "time", lambda: now + 1e9)  # only our clock jumps
    remove_leftovers([tmp_path])
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    remove_leftovers([tmp_path])
    assert os.listdir(tmp_path) == []


def test_opening_to_write_removes_leftovers_everywhere_and_nothing_else(cells):
    root, pid = Path(cells.address), dead_pid()
    files = Files.open(cells.address)
    files.put("sweeps/a/failures/x.json", b"{}")
    files.put("index/a.json", b"{}")
    folders = ["", "cells", "index", "sweeps/a", "sweeps/a/failures"]
    for folder in folders:
        (root / folder / f".part-{pid}-{machine()}-00").write_text("")
    Cells.open(cells.address)
    assert len(list(root.rglob(".part-*"))) == len(folders)
    Cells.open(cells.address, write=True)
    assert list(root.rglob(".part-*")) == []
    assert files.get("sweeps/a/failures/x.json") == files.get("index/a.json") == b"{}"


# Files


def test_files_are_put_listed_and_removed(tmp_path):
    files = Files.open(tmp_path / "new")
    assert (files.get("sweeps/a/sweep.json"), files.names("sweeps/a")) == (None, [])
    files.put("sweeps/a/sweep.json", b"one")
    files.put("sweeps/a/sweep.json", b"two")
    files.put("sweeps/a/failures/f.json", b"")
    (tmp_path / "new/sweeps/a" / f".part-{os.getpid()}-{machine()}-00").write_text("half")
    assert files.get("sweeps/a/sweep.json") == b"two"
    assert files.get("sweeps/a/failures/f.json") == b""
    assert files.names("sweeps/a") == ["sweep.json"]
    assert files.names("sweeps/a/failures") == ["f.json"]
    assert (files.get("sweeps/a/sweep.json/x"), files.names("sweeps/a/sweep.json")) == (None, [])
    for _ in range(2):
        files.delete("sweeps/a/sweep.json")
    assert (files.get("sweeps/a/sweep.json"), files.names("sweeps/a")) == (None, [])


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../x", "a//b", "a/", ".part-1", "a\n"])
def test_a_path_cannot_leave_the_address(tmp_path, path):
    files = Files.open(tmp_path / "store")
    deeds = [lambda: files.put(path, b""), lambda: files.get(path), lambda: files.names(path)]
    for deed in [*deeds, lambda: files.delete(path)]:
        with pytest.raises(StoreError, match=rf"^{re.escape(repr(path))} is no path of a file in"):
            deed()
    assert os.listdir(tmp_path) == []


def test_every_byte_is_on_the_disk_before_a_file_has_its_name(tmp_path, monkeypatch):
    files, calls = Files.open(tmp_path), []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    files.put("sweep.json", b"{}")
    assert calls == ["fsync", "replace", "fsync"]


# Schemas


def outdated(cells: Cells, i: int) -> str:
    """Write a cell of a made-up version 0, whose table `scores` was called `old`."""
    key = cell_key(identity(i))
    cells.write(key, identity(i), {"old": [{"i": i}]}, {})
    reseal(Path(cells.address, "cells", key, "cell.json"), schema=0)
    return key


def renamed(about: dict, tables: dict[str, bytes]) -> tuple[dict, dict[str, bytes]]:
    about["tables"] = {"scores": about["tables"]["old"]}
    rows = from_parquet(tables["old"]).append_column("new", [[1]])
    return about, {"scores": as_parquet("scores", rows)}


def test_an_older_cell_is_refused_with_the_command_that_migrates_it(cells):
    key = outdated(cells, 0)
    message = (
        rf"cells/{key} has schema 0 and this version reads from 1 on: "
        rf"run `python -m interp\.results\.migrate {cells.address}`\.$"
    )
    with pytest.raises(StoreError, match=message):
        cells.has(key)
    assert cells.keys() == [key]
    assert cells.damaged == 0


def test_a_migrated_cell_is_read_and_the_others_are_left_alone(cells):
    older, newer = outdated(cells, 0), put(cells, 1)
    before = Path(cells.address, "cells", newer, "cell.json").read_bytes()
    Files.open(cells.address).put("index/x.json", b"stale")
    assert migrate(cells.address, steps={0: renamed}) == 1
    assert cells.read(older).table("scores").to_pylist() == [{"i": 0, "new": 1}]
    assert sorted(cells.read(older).tables) == ["scores"]
    assert len(os.listdir(Path(cells.address, "cells", older))) == 2
    assert Path(cells.address, "cells", newer, "cell.json").read_bytes() == before
    assert Files.open(cells.address).names("index") == []
    assert migrate(cells.address, steps={0: renamed}) == 0


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_migration_that_is_killed_leaves_the_old_cell_or_the_new(cells, at, monkeypatch):
    """Three changes make a migration: the new table, cell.json, the old table's end."""
    key, done = outdated(cells, 0), []

    def killed(deed):
        def wrapper(*arguments):
            done.append(arguments)
            if len(done) == at:
                raise KeyboardInterrupt
            return deed(*arguments)

        return wrapper

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        from interp.results.files import FolderFiles

        patch.setattr(FolderFiles, "_put", killed(FolderFiles._put))
        patch.setattr(FolderFiles, "_delete", killed(FolderFiles._delete))
        migrate(cells.address, steps={0: renamed})
    assert migrate(cells.address, steps={0: renamed}) == (1 if at < 3 else 0)
    assert cells.read(key).table("scores").to_pylist() == [{"i": 0, "new": 1}]


def test_a_step_that_is_missing_or_changes_the_identity_is_refused(cells):
    key = outdated(cells, 0)
    message = rf"cells/{key} has schema 0 and no step leads on from it: read it with the version"
    with pytest.raises(StoreError, match=message):
        migrate(cells.address)
    with pytest.raises(StoreError, match=rf"^A step changes the identity of cell {key}"):
        migrate(cells.address, steps={0: lambda about, t: (about | {"identity": {}}, t)})
    assert migrate(cells.address, steps={0: renamed}) == 1


def test_an_older_manifest_is_migrated_or_refused(tmp_path, capsys):
    manifest = Manifest(
        **{name: {} for name in ("settings", "model", "data", "versions")},
        **dict.fromkeys(("experiment", "device", "created", "code"), "x"),
        seeds=[],
        commit=None,
        threads=1,
        command=[],
    )
    Store.begin(tmp_path, manifest)
    write_manifest(tmp_path / "manifest.json", manifest)
    old = json.loads((tmp_path / "manifest.json").read_text()) | {"schema": 0}
    old["seed_list"] = old.pop("seeds")
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(StoreError, match=r"manifest\.json has schema 0 and this version reads fr"):
        Store.open(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "manifest.json has schema 0 and no step leads on" in capsys.readouterr().err

    def step(stored: dict) -> dict:
        return stored | {"seeds": stored.pop("seed_list")}

    assert migrate(tmp_path, manifest_steps={0: step}) == 0
    assert Store.open(tmp_path).manifest == manifest
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0 cells migrated\n"
    assert main([]) == 2
