"""The index: what it gives equals what the cells hold, whatever is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from experiments.scan import build, config, scan, seconds
from interp.errors import StoreError
from interp.results import Cells, Files, cell_key, index

ROOT = Path(__file__).resolve().parents[2]


def identity(i: int) -> dict[str, object]:
    return {"experiment": "law", "config": {"layer": i % 3, "seed": i}}


KEYS = [cell_key(identity(i)) for i in range(40)]


def put(cells: Cells, i: int, **tables: list) -> str:
    rows = tables or {"scores": [{"i": i, "step": step} for step in range(2)]}
    cells.write(KEYS[i], identity(i), rows, {"seconds": 0.5})
    return KEYS[i]


def scores(i: int) -> list[dict]:
    return [{"cell": KEYS[i], "i": i, "step": step} for step in range(2)]


def flip(path: Path, place: int = 50) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells.open(tmp_path / "store", write=True)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The keys of the cells that were opened, in order."""
    opened: list[str] = []
    plain = Cells.read
    monkeypatch.setattr(Cells, "read", lambda self, key: (opened.append(key), plain(self, key))[1])
    return opened


def segments(cells: Cells) -> list[str]:
    return [name for name in Files.open(cells.address).names("index") if name.endswith(".json")]


# What is listed


def test_a_cell_is_one_row_worked_out_by_hand(cells):
    cells.write(KEYS[4], identity(4), {"b": [{"x": 1}, {"x": 2}], "a": [{"y": 1}]}, {"forwards": 3})
    expected = {
        "key": KEYS[4],
        "experiment": "law",
        "config": '{"layer":1,"seed":4}',
        "spent": '{"forwards":3}',
        "tables": ["a", "b"],
        "rows": 3,
    }
    assert index.about(cells.address).to_pylist() == [expected]
    assert index.refresh(cells.address) == 1
    assert index.about(cells.address).to_pylist() == [expected]


def test_a_cell_without_experiment_or_config_shows_its_whole_identity(cells):
    cells.write(cell_key({"i": 1}), {"i": 1}, {}, {})
    (row,) = index.about(cells.address).to_pylist()
    assert (row["experiment"], row["config"], row["tables"]) == (None, '{"i":1}', [])


def test_an_empty_store_has_an_empty_index(cells):
    assert index.about(cells.address).schema == index.ABOUT
    assert len(index.about(cells.address)) == 0
    assert index.table(cells.address, "scores").to_pylist() == []
    assert (index.refresh(cells.address), index.verified(cells.address)) == (0, set())
    with pytest.raises(StoreError, match=r"^There are no records at .*none: there is no such fold"):
        index.about(cells.address + "none")


def test_a_refresh_packs_what_is_new_and_opens_nothing_else(cells, read):
    for i in range(5):
        put(cells, i)
    read.clear()
    assert index.refresh(cells.address) == 5
    assert sorted(read) == sorted(KEYS[:5])
    put(cells, 5)
    read.clear()
    assert index.verified(cells.address) == set(KEYS[:5])
    assert read == []
    assert index.refresh(cells.address, at_least=2) == 0
    assert index.about(cells.address)["key"].to_pylist() == sorted(KEYS[:6])
    assert read == [KEYS[5]]
    assert index.refresh(cells.address) == 1
    read.clear()
    assert index.table(cells.address, "scores", KEYS[:6]).to_pylist() == [
        row for i in range(6) for row in scores(i)
    ]
    assert read == []


@pytest.mark.parametrize("packed", [False, True])
def test_rows_come_by_key_or_in_the_order_asked_for(cells, packed):
    for i in range(6):
        put(cells, i)
        if packed and i in (1, 4):
            index.refresh(cells.address)
    asked = [KEYS[4], KEYS[39], KEYS[0], KEYS[5], KEYS[4]]
    expected = [row for i in (4, 0, 5) for row in scores(i)]
    assert index.table(cells.address, "scores", asked).to_pylist() == expected
    assert index.about(cells.address, asked)["key"].to_pylist() == [KEYS[4], KEYS[0], KEYS[5]]
    listed = index.table(cells.address, "scores")["cell"].to_pylist()
    assert listed == sorted(key for key in KEYS[:6] for _ in range(2))
    assert index.table(cells.address, "scores", []).to_pylist() == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_type_widens_only_where_cells_that_are_asked_for_differ(cells, packed):
    put(cells, 0, scores=[{"effect": 2**60 + 1, "steps": []}])
    put(cells, 1, scores=[{"effect": 0.5, "steps": [None], "new": "x"}])
    put(cells, 2, scores=[{"effect": None}])
    put(cells, 3, scores=[])
    if packed:
        index.refresh(cells.address)
    whole = index.table(cells.address, "scores", [KEYS[0], KEYS[2], KEYS[3]])
    assert whole["effect"].to_pylist() == [2**60 + 1, None]  # a float would lose the 1
    assert whole.schema.field("effect").type == pa.int64()
    both = index.table(cells.address, "scores", KEYS[1:3]).to_pylist()
    assert both == [
        {"cell": KEYS[1], "effect": 0.5, "steps": [None], "new": "x"},
        {"cell": KEYS[2], "effect": None, "steps": None, "new": None},
    ]
    assert index.table(cells.address, "scores", KEYS[3:4]).to_pylist() == []


@pytest.mark.parametrize("packed", [False, True])
def test_cells_that_disagree_and_unknown_tables_end_in_a_sentence(cells, packed):
    put(cells, 0, scores=[{"a": 1}])
    put(cells, 1, scores=[{"a": "x"}], extra=[])
    if packed:
        index.refresh(cells.address)
    with pytest.raises(StoreError, match=r"^The cells of .* disagree on table 'scores': .*Field a"):
        index.table(cells.address, "scores")
    assert index.table(cells.address, "scores", KEYS[:1]).to_pylist() == [{"cell": KEYS[0], "a": 1}]
    message = r"has no table 'score'; there are: extra, scores\. Did you mean 'scores'\?$"
    with pytest.raises(StoreError, match=message):
        index.table(cells.address, "score")
    assert index.table(cells.address, "extra").to_pylist() == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_tables_own_column_cell_is_kept_under_another_name(cells, packed):
    put(cells, 0, audit=[{"cell": "a", "cell_": "b"}])
    if packed:
        index.refresh(cells.address)
    (row,) = index.table(cells.address, "audit").to_pylist()
    assert row == {"cell": KEYS[0], "cell__": "a", "cell_": "b"}


def test_configs_are_matched_by_value_and_kind(cells):
    for i in range(6):
        put(cells, i)
    rows = index.about(cells.address)
    assert set(index.matching(rows, {"layer": 1})["key"].to_pylist()) == {KEYS[1], KEYS[4]}
    assert index.matching(rows, {"layer": 1, "seed": 4.0})["key"].to_pylist() == [KEYS[4]]
    for where in ({"layer": True}, {"layer": "1"}, {"lair": None}):
        assert len(index.matching(rows, where)) == 0
    assert len(index.matching(rows, {})) == 6


# What may be wrong with it


def expected_rows(n: int) -> list[dict]:
    return [row for i in range(n) for row in scores(i)]


def wreck_json_cut(folder: Path) -> None:
    path = next(folder.glob("*.json"))
    path.write_bytes(path.read_bytes()[:40])


def wreck_json_gone(folder: Path) -> None:
    next(folder.glob("*.json")).unlink()


def wreck_about(folder: Path) -> None:
    flip(next(folder.glob("*.about.parquet")))


def wreck_rows(folder: Path) -> None:
    flip(next(folder.glob("*.1.parquet")))


def wreck_rows_gone(folder: Path) -> None:
    next(folder.glob("*.1.parquet")).unlink()


def wreck_all(folder: Path) -> None:
    shutil.rmtree(folder)


def wreck_layout(folder: Path) -> None:
    from interp.results.cells import sealed, unsealed

    path = next(folder.glob("*.json"))
    path.write_bytes(sealed(unsealed(path.read_bytes()) | {"layout": 99}))


WRECKS = [wreck_json_cut, wreck_json_gone, wreck_about, wreck_rows, wreck_rows_gone, wreck_all]


@pytest.mark.parametrize("wreck", [*WRECKS, wreck_layout])
def test_a_lost_or_damaged_index_costs_time_only(cells, wreck, read):
    for i in range(3):
        put(cells, i)
    index.refresh(cells.address)
    before = index.about(cells.address)
    wreck(Path(cells.address, "index"))
    read.clear()
    assert index.table(cells.address, "scores", KEYS[:3]).to_pylist() == expected_rows(3)
    assert sorted(read) == sorted(KEYS[:3])
    assert index.about(cells.address).equals(before)
    assert index.refresh(cells.address) == 3
    read.clear()
    assert index.table(cells.address, "scores", KEYS[:3]).to_pylist() == expected_rows(3)
    assert index.verified(cells.address) == set(KEYS[:3])
    assert read == []


def test_a_key_in_two_segments_counts_once(cells):
    put(cells, 0)
    index.refresh(cells.address)
    aside = Path(cells.address, "aside")
    Path(cells.address, "index").rename(aside)
    put(cells, 1)
    index.refresh(cells.address)  # a process that could not see the first segment
    for file in aside.iterdir():
        file.rename(Path(cells.address, "index", file.name))
    assert len(segments(cells)) == 2
    assert index.about(cells.address)["key"].to_pylist() == sorted(KEYS[:2])
    assert index.table(cells.address, "scores", KEYS[:2]).to_pylist() == expected_rows(2)


def test_a_cell_that_is_gone_is_gone_and_one_made_again_is_read(cells, read):
    for i in range(3):
        put(cells, i)
    index.refresh(cells.address)
    shutil.rmtree(Path(cells.address, "cells", KEYS[0]))
    flip(Path(cells.address, "cells", KEYS[1], "scores.parquet"))
    assert not cells.has(KEYS[1])
    assert index.verified(cells.address) == {KEYS[2]}
    assert index.table(cells.address, "scores").to_pylist() == scores(2)
    put(cells, 1, scores=[{"i": 7, "step": 0}])
    assert index.refresh(cells.address) == 0
    read.clear()
    assert index.table(cells.address, "scores", [KEYS[1]]).to_pylist() == [
        {"cell": KEYS[1], "i": 7, "step": 0}
    ]
    assert read == [KEYS[1]]
    assert index.about(cells.address, [KEYS[1]])["rows"].to_pylist() == [1]


def test_a_damaged_cell_is_not_packed(cells):
    put(cells, 0)
    flip(Path(cells.address, "cells", put(cells, 1), "scores.parquet"))
    assert index.refresh(cells.address) == 1
    assert index.verified(cells.address) == {KEYS[0]}
    assert os.listdir(Path(cells.address, "damaged")) == [f"{KEYS[1]}.1"]


@pytest.mark.parametrize("most", [4, 100])
def test_small_segments_are_merged_and_say_the_same(cells, monkeypatch, most):
    monkeypatch.setattr(index, "FEW", 4)
    monkeypatch.setattr(index, "MOST", most)
    for i in range(11):
        put(cells, i, scores=[{"i": i, "step": 0 if i % 2 else 0.5}])
        assert index.refresh(cells.address) == 1
        assert len(segments(cells)) <= (4 if most == 100 else 6)
    assert index.verified(cells.address) == set(KEYS[:11])
    rows = index.table(cells.address, "scores", KEYS[:11]).to_pylist()
    assert [row["i"] for row in rows] == list(range(11))
    listed = [
        json.loads(Path(cells.address, "index", name).read_text()) for name in segments(cells)
    ]
    assert sum(each["cells"] for each in listed) == 11
    named = {file["file"] for each in listed for file in each["files"]} | {*segments(cells)}
    assert named == set(os.listdir(Path(cells.address, "index")))  # nothing is left behind


def test_a_merge_leaves_out_a_damaged_segment(cells, monkeypatch):
    monkeypatch.setattr(index, "FEW", 3)
    put(cells, 0)
    index.refresh(cells.address)
    wreck_rows(Path(cells.address, "index"))
    for i in (1, 2):
        put(cells, i)
        index.refresh(cells.address)
    assert index.verified(cells.address) == set(KEYS[1:3])
    assert index.table(cells.address, "scores", KEYS[:3]).to_pylist() == expected_rows(3)
    assert index.refresh(cells.address) == 1


REFRESHER = """
import sys
from interp.results import index
print("ready", flush=True)
input()
print(index.refresh(sys.argv[1]))
"""


def test_two_processes_refresh_at_once(cells):
    for i in range(30):
        put(cells, i)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", REFRESHER, cells.address]
    both = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    counts = [int(each.communicate()[0]) for each in both]
    assert max(counts) == 30
    rows = index.table(cells.address, "scores")
    assert Counter(rows["i"].to_pylist()) == dict.fromkeys(range(30), 2)
    assert index.verified(cells.address) == set(KEYS[:30])


def test_a_store_of_synthetic_cells_is_listed_without_torch(tmp_path):
    built = build(tmp_path / "store", 300)
    assert built["write_seconds"] > 0 and built["refresh_seconds"] > 0
    measured = scan(tmp_path / "store")
    chosen = [i for i in range(300) if (config(i)["layer"], config(i)["seed"]) == (3, 1)]
    assert len(chosen) == 3
    assert (measured["cells"], measured["chosen"]) == (300, len(chosen))
    assert (measured["rows"], measured["all_rows"]) == (3 * len(chosen), 900)
    assert measured["torch"] is False
    assert 0 < measured["cpu_seconds"] < 60
    assert seconds(measured) == sum(measured[f"{p}_seconds"] for p in ("import", "list", "filter"))
    assert len({json.dumps(config(i)) for i in range(30_000)}) == 30_000
