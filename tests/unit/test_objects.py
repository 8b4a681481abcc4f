"""Cells, files and the index in a bucket: moto's server on loopback, pyarrow's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp.errors import StoreError
from interp.results import Cells, Files, cell_key, index
from interp.results.objects import Bucket, BucketCells, BucketFiles, parse_address

ROOT = Path(__file__).resolve().parents[2]


def identity(i: int) -> dict[str, object]:
    return {"experiment": "law", "config": {"i": i}}


KEYS = [cell_key(identity(i)) for i in range(8)]


def put(cells: Cells, i: int, seconds: float = 0.5) -> bool:
    return cells.write(KEYS[i], identity(i), {"scores": [{"i": i}]}, {"seconds": seconds})


@pytest.fixture
def address(bucket: str) -> str:
    """A place in a bucket of the test's own."""
    return bucket


@pytest.fixture
def cells(address: str) -> Cells:
    return Cells.open(address, write=True)


def objects(cells: Cells, folder: str) -> list[str]:
    return sorted(set(Bucket(cells.address).below(folder)) - {".writable"})


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://records", ("records", "")),
        ("s3://records/", ("records", "")),
        ("s3://my.records-1/a/b/", ("my.records-1", "a/b")),
        (Path("s3://records/a"), ("records", "a")),
    ],
)
def test_addresses(address, parts):
    assert parse_address(address) == parts


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "s3://A/b", "s3://records/../x", "s3:/"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(StoreError, match=r"^'s3:.*' is no address of a bucket: write s3://bucket/"):
        Cells.open(address)


def test_a_missing_bucket_is_named(endpoint):
    message = rf"^There is no bucket 'none' at {endpoint}: make it, or check the address and AWS_"
    with pytest.raises(StoreError, match=message):
        Cells.open("s3://none/a")
    with pytest.raises(StoreError, match=message):
        Files.open("s3://none/a")


def test_a_server_that_is_not_there_ends_in_a_sentence(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # wins over AWS_ENDPOINT_URL
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"^s3://records/a cannot be reached: .*NETWORK_CONNECT"):
        Cells.open("s3://records/a")


def test_a_cell_comes_back_and_its_tables_are_named_by_their_checksum(cells):
    assert isinstance(cells, BucketCells)
    assert put(cells, 0)
    assert not put(cells, 0, seconds=9)
    cell = Cells.open(cells.address).read(KEYS[0])
    check = cell.about["tables"]["scores"]["sha256"]
    assert cell.table("scores").to_pylist() == [{"i": 0}]
    assert cell.about["spent"] == {"seconds": 0.5}
    assert objects(cells, "cells") == [
        f"{KEYS[0]}/cell.json",
        f"{KEYS[0]}/scores.{check[:16]}.parquet",
    ]
    assert cells.read(KEYS[1]) is None
    assert (cells.keys(), cells.damaged, cells.set_aside()) == ([KEYS[0]], 0, set())


@pytest.mark.parametrize("at", [1, 2])
def test_a_cell_that_is_half_written_is_not_there(cells, monkeypatch, at):
    """Two uploads make the cell; the writer dies before the first, or between them."""
    uploads, plain = [], Bucket.put

    def killed(self, path, data):
        uploads.append(path)
        if len(uploads) == at:
            raise KeyboardInterrupt
        plain(self, path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bucket, "put", killed)
        put(cells, 0)
    assert [path.rpartition("/")[2][:6] for path in uploads] == ["scores", "cell.j"][:at]
    assert (cells.has(KEYS[0]), cells.keys(), cells.damaged) == (False, [], 0)
    assert put(cells, 0)
    assert len(objects(cells, "cells")) == 2  # what the dead writer left was taken over


WRITER = """
import sys
from interp.results import Cells, cell_key
cells = Cells.open(sys.argv[1], write=True)
print("ready", flush=True)
input()
for i in range(8):
    identity = {"experiment": "law", "config": {"i": i}}
    rows = [{"i": i, "by": sys.argv[2]}]
    cells.write(cell_key(identity), identity, {"scores": rows}, {"seconds": 1})
"""


def test_two_processes_that_write_the_same_cells_leave_each_readable(cells):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITER, cells.address]
    both = [subprocess.Popen([*command, name], cwd=ROOT, **pipes) for name in ("a", "b")]
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    assert [each.communicate() and each.returncode for each in both] == [0, 0]
    assert cells.keys() == sorted(KEYS)
    rows = index.table(cells.address, "scores", KEYS).to_pylist()
    assert [row["i"] for row in rows] == list(range(8))
    assert {row["by"] for row in rows} <= {"a", "b"}
    assert cells.damaged == 0


def test_two_writers_between_whom_nobody_can_decide_both_end_with_a_good_cell(cells, monkeypatch):
    """The second writes its cell after the first has looked and before it writes `cell.json`."""
    other, plain = Cells.open(cells.address, write=True), Bucket.put

    def interrupted(self, path, data):
        if path.endswith("cell.json"):
            monkeypatch.setattr(Bucket, "put", plain)
            rows = {"scores": [{"i": 0, "other": True}]}
            assert other.write(KEYS[0], identity(0), rows, {"seconds": 2})
            assert other.read(KEYS[0]).table("scores").to_pylist() == [{"i": 0, "other": True}]
        plain(self, path, data)

    monkeypatch.setattr(Bucket, "put", interrupted)
    assert put(cells, 0)
    assert cells.read(KEYS[0]).table("scores").to_pylist() == [{"i": 0}]
    assert cells.read(KEYS[0]).about["spent"] == {"seconds": 0.5}
    assert other.has(KEYS[0])


@pytest.mark.parametrize(
    "what", ["cell.json cut", "cell.json empty", "table flipped", "table gone"]
)
def test_a_damaged_cell_is_copied_aside_not_read_and_made_again(cells, what):
    put(cells, 0)
    put(cells, 1)
    bucket, folder = Bucket(cells.address), f"cells/{KEYS[0]}"
    (table,) = [name for name in objects(cells, folder) if name.startswith("scores")]
    data = bytearray(bucket.get(f"{folder}/{table}"))
    data[50] ^= 1
    deeds = {
        "cell.json cut": lambda: bucket.put(
            f"{folder}/cell.json", bucket.get(f"{folder}/cell.json")[:40]
        ),
        "cell.json empty": lambda: bucket.put(f"{folder}/cell.json", b""),
        "table flipped": lambda: bucket.put(f"{folder}/{table}", bytes(data)),
        "table gone": lambda: bucket.delete(f"{folder}/{table}"),
    }
    deeds[what]()
    broken = {name: bucket.get(f"{folder}/{name}") for name in objects(cells, folder)}
    assert not cells.has(KEYS[0])
    assert not cells.has(KEYS[0])
    assert (cells.damaged, cells.set_aside()) == (1, {KEYS[0]})
    kept = objects(cells, "damaged")  # once, although it was found twice
    assert {path.partition("/")[2]: bucket.get(f"damaged/{path}") for path in kept} == broken
    assert len(kept) == len(broken)
    assert index.table(cells.address, "scores").to_pylist() == [{"cell": KEYS[1], "i": 1}]
    assert put(cells, 0, seconds=2)
    assert cells.read(KEYS[0]).about["spent"] == {"seconds": 2}
    assert index.table(cells.address, "scores", KEYS)["i"].to_pylist() == [0, 1]


def test_a_copy_of_a_bucket_to_a_folder_is_a_store(cells, tmp_path):
    put(cells, 0)
    bucket = Bucket(cells.address)
    for path in objects(cells, "cells"):
        target = tmp_path / "cells" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket.get(f"cells/{path}"))
    assert Cells.open(tmp_path).read(KEYS[0]).table("scores").to_pylist() == [{"i": 0}]


def test_files_are_put_listed_and_removed(address):
    files = Files.open(address)
    assert isinstance(files, BucketFiles)
    assert (files.get("sweeps/a/sweep.json"), files.names("sweeps/a")) == (None, [])
    files.put("sweeps/a/sweep.json", b"one")
    files.put("sweeps/a/sweep.json", b"two")
    files.put("sweeps/a/failures/f.json", b"")
    large = os.urandom(6 * 2**20)  # more than one part of an upload
    files.put("index/large", large)
    assert files.get("index/large") == large
    assert files.get("sweeps/a/sweep.json") == b"two"
    assert files.get("sweeps/a/failures/f.json") == b""
    assert files.names("sweeps/a") == ["sweep.json"]
    for _ in range(2):
        files.delete("sweeps/a/sweep.json")
    assert (files.get("sweeps/a/sweep.json"), files.names("sweeps/a")) == (None, [])
    assert files.names("sweeps/a/failures") == ["f.json"]
    with pytest.raises(StoreError, match=r"^'\.\./x' is no path of a file in a store"):
        files.put("../x", b"")


def test_the_index_works_in_a_bucket(cells, monkeypatch):
    for i in range(4):
        put(cells, i)
    assert index.refresh(cells.address) == 4
    monkeypatch.setattr(Cells, "read", lambda *_: pytest.fail("a packed cell was opened"))
    assert index.verified(cells.address) == set(KEYS[:4])
    assert index.table(cells.address, "scores", KEYS[:4])["i"].to_pylist() == [0, 1, 2, 3]
    assert index.about(cells.address, KEYS[:1])["config"].to_pylist() == ['{"i":0}']
