"""Disasters, for real where the machine allows: nothing is lost, and the sentence is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp.errors import DiskError, StoreError
from interp.results import Cells, Files, Manifest, Store, cell_key, index
from interp.results.cells import sealed, unsealed
from interp.sweeps.drive import run_grid
from interp.sweeps.executors.inline import Inline
from interp.sweeps.executors.local import Local
from interp.sweeps.grid import parse_grid
from interp.sweeps.status import read_sweep

ROOT = Path(__file__).resolve().parents[2]
FULL = "No space left on device"


def manifest() -> Manifest:
    return Manifest(
        experiment="ioi",
        settings={},
        model={"hash": "f00"},
        data={"hash": "ba5"},
        seeds=[0],
        versions={},
        commit=None,
        device="cpu",
        threads=1,
        command=["ioi"],
        created="2026-01-01T00:00:00+00:00",
        code="c0de",
    )


def identity(i: int) -> dict[str, object]:
    return {"experiment": "law", "config": {"i": i}}


def key_of(i: int) -> str:
    return cell_key(identity(i))


def put(cells: Cells | Store, i: int) -> bool:
    rows = [{"i": i, "step": step, "effect": i / 7} for step in range(3)]
    return cells.write(key_of(i), identity(i), {"scores": rows}, {"seconds": 0.5})


def values(cells: Cells) -> list[int]:
    """The number of each good cell, by opening each."""
    keys = cells.keys()
    found = [cells.read(key) for key in keys]
    return sorted(cell.table("scores")["i"][0].as_py() for cell in found if cell)


def indexed(address: str) -> list[int]:
    """The same by way of the index."""
    return sorted(set(index.table(address, "scores")["i"].to_pylist()))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".part-*"))


def flip(path: Path, place: int = 50) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


class Disk:
    """A small file system of our own."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self.mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def mount(self, *words: str) -> None:
        command = ["mount", *words, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine mounts no file system for a test: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        self.mount("-o", f"remount,{options}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system, on Linux")
    (tmp_path / "disk").mkdir()
    small = Disk(tmp_path / "disk", "256k")
    yield small
    subprocess.run(["umount", "--lazy", str(small.folder)], check=True)


def fill(cells: Cells) -> int:
    """Write cells until the disk is full; return how many it took."""
    for i in range(1000):
        try:
            assert put(cells, i)
        except StoreError as error:
            message = rf"^Cell {key_of(i)} cannot be written to .*: {FULL}\. Check the path, its"
            assert re.search(message, str(error)), error
            return i
    pytest.fail("the disk is never full")


# A full disk


def test_a_full_disk_ends_in_a_sentence_and_keeps_every_finished_cell(disk):
    cells = Cells.open(disk.folder / "store", write=True)
    count = fill(cells)
    assert count > 5
    assert values(cells) == list(range(count))
    assert (cells.damaged, leftovers(disk.folder)) == (0, [])
    assert not cells.has(key_of(count))
    disk.remount("size=4m")
    assert put(cells, count)
    assert values(Cells.open(cells.address, write=True)) == list(range(count + 1))


def test_a_full_disk_keeps_the_old_file_and_the_old_manifest(disk):
    store = Store.begin(disk.folder / "run", manifest())
    files = Files.open(store.folder)
    files.put("sweeps/a/sweep.json", b"old")
    fill(Cells.open(store.folder))
    free = os.statvfs(disk.folder)
    (disk.folder / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize))
    with pytest.raises(StoreError, match=rf"^sweeps/a/sweep\.json cannot be written to .*: {FULL}"):
        files.put("sweeps/a/sweep.json", b"new" * 5000)
    with pytest.raises(StoreError, match=rf"^The manifest of .* cannot be written: {FULL}\."):
        store.update_manifest(notes={"why": "x" * 5000})
    assert files.get("sweeps/a/sweep.json") == b"old"
    assert Store.open(store.folder).manifest == manifest()
    assert leftovers(disk.folder) == []


def test_a_full_disk_keeps_the_index_as_it_is_and_reads_from_the_cells(disk):
    cells = Cells.open(disk.folder / "store", write=True)
    put(cells, 0)
    assert index.refresh(cells.address) == 1
    count = fill_from(cells, 1)
    assert index.refresh(cells.address) == 0
    assert indexed(cells.address) == list(range(count))
    assert index.verified(cells.address) == {key_of(0)}
    assert leftovers(disk.folder) == []
    disk.remount("size=4m")
    assert index.refresh(cells.address) == count - 1
    assert index.verified(cells.address) == {key_of(i) for i in range(count)}


def fill_from(cells: Cells, start: int) -> int:
    i = start
    with pytest.raises(StoreError, match=FULL):
        while True:
            put(cells, i)
            i += 1
    return i


# A store made read-only


def test_a_read_only_store_is_read_and_a_damaged_cell_skipped_where_it_lies(disk):
    store = Store.begin(disk.folder / "run", manifest())
    cells = Cells.open(store.folder, write=True)
    for i in range(4):
        put(cells, i)
    index.refresh(store.folder)
    put(cells, 4)
    flip(store.folder / "cells" / key_of(0) / "scores.parquet")
    disk.remount("ro")
    reader = Cells.open(store.folder)
    assert values(reader) == [1, 2, 3, 4]
    assert (reader.damaged, len(reader.keys())) == (1, 5)
    # what was packed when it was good is still there
    assert indexed(str(store.folder)) == [0, 1, 2, 3, 4]
    assert index.refresh(store.folder) == 0
    assert sorted({row["i"] for row in Store.open(store.folder).rows("scores")}) == [1, 2, 3, 4]
    assert not (store.folder / "damaged").exists()


def test_writing_to_a_read_only_store_ends_in_a_sentence_before_any_work(disk):
    store = Store.begin(disk.folder / "run", manifest())
    cells = Cells.open(store.folder, write=True)
    put(cells, 0)
    disk.remount("ro")
    why = r"Read-only file system\. Check the path, its rights and the disk\.$"
    with pytest.raises(StoreError, match=rf"^The store .*run cannot be used: {why}"):
        Cells.open(store.folder, write=True)
    with pytest.raises(StoreError, match=rf"^The run folder .*run cannot be used: {why}"):
        Store.begin(store.folder, manifest())
    with pytest.raises(StoreError, match=rf"^Cell {key_of(1)} cannot be written to .*: {why}"):
        put(cells, 1)
    with pytest.raises(StoreError, match=rf"^a\.json cannot be written to .*run: {why}"):
        Files.open(store.folder).put("a.json", b"")
    with pytest.raises(StoreError, match=rf"^manifest\.json of .*run cannot be removed: {why}"):
        Files.open(store.folder).delete("manifest.json")
    assert values(cells) == [0]


# Damage


@pytest.mark.parametrize("place", [0, 3, 60, -5, -1])
def test_a_damaged_parquet_file_costs_its_cell_only(tmp_path, place):
    cells = Cells.open(tmp_path, write=True)
    for i in range(3):
        put(cells, i)
    flip(tmp_path / "cells" / key_of(1) / "scores.parquet", place)
    assert values(cells) == [0, 2]
    assert (cells.damaged, cells.set_aside()) == (1, {key_of(1)})
    kept = tmp_path / "damaged" / f"{key_of(1)}.1"
    assert sorted(os.listdir(kept)) == ["cell.json", "scores.parquet"]
    assert put(cells, 1)
    assert values(cells) == indexed(cells.address) == [0, 1, 2]


def test_cell_json_cut_short_at_any_length_costs_its_cell_only(tmp_path):
    cells = Cells.open(tmp_path, write=True)
    put(cells, 0)
    put(cells, 1)
    path = tmp_path / "cells" / key_of(0) / "cell.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 40):  # the last byte is the line end, no part of JSON
        path.write_bytes(whole[:length])
        assert values(cells) == [1]
        kept = next((tmp_path / "damaged").iterdir())
        kept.rename(path.parent)
        path.write_bytes(whole)
        assert values(cells) == [0, 1]


@pytest.mark.parametrize("content", [b"", b"no Parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_checksum_that_lies_is_found_even_where_it_fits_the_bytes(tmp_path, content):
    """Who wrote the bytes also wrote their checksum, and that of `cell.json`; they are no table."""
    import hashlib

    cells = Cells.open(tmp_path, write=True)
    put(cells, 0)
    put(cells, 1)
    place = tmp_path / "cells" / key_of(0)
    about = unsealed((place / "cell.json").read_bytes())
    about["tables"]["scores"]["sha256"] = hashlib.sha256(content).hexdigest()
    (place / "scores.parquet").write_bytes(content)
    (place / "cell.json").write_bytes(sealed(about))
    assert values(cells) == [1]
    assert cells.set_aside() == {key_of(0)}
    assert indexed(cells.address) == [1]


def test_a_checksum_that_names_other_bytes_is_found(tmp_path):
    cells = Cells.open(tmp_path, write=True)
    put(cells, 0)
    place = tmp_path / "cells" / key_of(0)
    about = unsealed((place / "cell.json").read_bytes())
    about["tables"]["scores"]["sha256"] = "0" * 64
    (place / "cell.json").write_bytes(sealed(about))
    assert not cells.has(key_of(0))
    assert put(cells, 0)
    assert values(cells) == [0]


@pytest.mark.parametrize("length", [0, 1, 30, 200])
def test_a_manifest_cut_short_is_refused_and_the_cells_are_still_read(tmp_path, length):
    store = Store.begin(tmp_path, manifest())
    for i in range(3):
        put(store, i)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    message = r"manifest\.json is cut short or damaged \(.*\)\. Restore it, or pick another folder"
    for door in (Store.open, lambda folder: Store.begin(folder, manifest())):
        with pytest.raises(StoreError, match=message):
            door(tmp_path)
    assert path.read_bytes() == whole[:length]
    assert values(Cells.open(tmp_path)) == indexed(str(tmp_path)) == [0, 1, 2]
    path.write_bytes(whole)
    assert len(Store.begin(tmp_path, manifest()).keys()) == 3


# A clock that goes back


@pytest.mark.parametrize("seconds", [0, 4e9])
def test_no_date_of_a_file_counts(tmp_path, seconds):
    """All files look older than 1971, or younger than 2096: as after a clock that jumped."""
    cells = Cells.open(tmp_path, write=True)
    for i in range(3):
        put(cells, i)
    index.refresh(tmp_path)
    put(cells, 3)
    files = [path for path in tmp_path.rglob("*") if path.name != ".lock"]
    for path in files:
        os.utime(path, (seconds, seconds))
    again = Cells.open(tmp_path, write=True)
    assert values(again) == indexed(str(tmp_path)) == [0, 1, 2, 3]
    assert index.verified(tmp_path) == {key_of(i) for i in range(3)}
    assert index.refresh(tmp_path) == 1
    assert all(path.exists() for path in files)
    assert not put(again, 0)


def test_a_writer_whose_clock_jumps_between_its_files_keeps_its_cell(tmp_path, monkeypatch):
    """Another process opens the store while a cell is being written, a week later by the clock."""
    from interp.results import cells as module

    cells, plain = Cells.open(tmp_path, write=True), module.write_bytes

    def jump(path, data):
        plain(path, data)
        os.utime(path.parent, (0, 0))
        Cells.open(tmp_path, write=True)

    monkeypatch.setattr(module, "write_bytes", jump)
    assert put(cells, 0)
    assert values(cells) == [0]


# Two at once

SWEEP = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit.test_survival import put
from interp.results import Cells, Files, index
print("ready", flush=True)
input()
cells, files = Cells.open(sys.argv[2], write=True), Files.open(sys.argv[2])
made = 0
for i in range(30):
    made += put(cells, i)
    files.put("sweeps/both/sweep.json", sys.argv[3].encode() * 1000)
    if i % 7 == 0:
        index.refresh(sys.argv[2])
print(made)
"""


def test_two_sweeps_at_once_on_one_store_lose_nothing_and_double_nothing(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SWEEP, str(ROOT), str(tmp_path / "store")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([*command, name], env=env, **pipes) for name in "ab"]
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    made = [int(each.communicate()[0]) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    cells = Cells.open(tmp_path / "store")
    assert sum(made) == 30
    assert values(cells) == indexed(cells.address) == list(range(30))
    assert len(index.table(cells.address, "scores")) == 90
    assert Files.open(cells.address).get("sweeps/both/sweep.json") in (b"a" * 1000, b"b" * 1000)
    assert (cells.damaged, leftovers(tmp_path)) == (0, [])


@pytest.mark.parametrize("kind", [Inline, Local])
def test_a_full_disk_stops_a_sweep_and_a_second_start_goes_on(disk, kind):
    grid = parse_grid(
        "experiment: experiments.synthetic:EXPERIMENT\nbase: {rows: 400}\nseeds: 40\n", "full"
    )
    with pytest.raises(DiskError, match="No space left on device"):
        run_grid(grid, disk.folder, executor=kind())
    there = set(Cells.open(disk.folder).keys())
    assert 0 < len(there) < 40
    disk.remount("size=64m")
    done = run_grid(grid, disk.folder, executor=kind())
    assert (done.computed, done.failed) == (40 - len(there), [])
    assert done.plan.count("done") == 40 and there < set(Cells.open(disk.folder).keys())


def test_a_sweep_into_a_store_that_is_read_only_says_so_and_computes_nothing(disk):
    grid = parse_grid("experiment: experiments.synthetic:EXPERIMENT\nseeds: 3\n", "locked")
    assert run_grid(grid, disk.folder, limit=1).computed == 1
    disk.remount("ro")
    with pytest.raises(DiskError, match="Read-only file system"):
        run_grid(grid, disk.folder)
    assert read_sweep(str(disk.folder), "locked").count("done") == 1
    disk.remount("rw")
    assert run_grid(grid, disk.folder).computed == 2
