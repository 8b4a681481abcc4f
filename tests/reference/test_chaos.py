"""A sweep killed with SIGKILL at random moments leaves what one leaves that nobody killed.

The short form of `python -m experiments.chaos`, and what its judge must see.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments import chaos
from experiments.chaos import Config, Sight, Tally, compare, contents, plan_kills, run
from interp.errors import InputError
from interp.results import index
from interp.results.cells import Cells, cell_key
from interp.sweeps.drive import run_grid
from interp.sweeps.grid import parse_grid
from tests.strategies import says

SMALL = "experiment: experiments.synthetic:EXPERIMENT\nseeds: 4\n"


def test_eight_kills_lose_nothing_and_double_nothing():
    tally = run(Config(kills=8, seed=0))
    assert tally.holds, tally
    assert sum(tally.kills.values()) == 8 and all(tally.kills.values())
    assert tally.starts == tally.kills["driver"] + tally.kills["group"] + tally.stops + 1
    assert tally.cells == 120


def test_two_sweeps_at_once_on_one_store_compute_each_cell_once(tmp_path):
    grid = chaos.GRID.format(seeds=5)
    both = [chaos.start_driver(tmp_path / "store", grid) for _ in range(2)]
    assert [driver.wait(timeout=120) for driver in both] == [0, 0]
    run_grid(parse_grid(grid, "chaos"), tmp_path / "whole")
    tally = Tally(seed=0, status=0)
    compare(tmp_path / "store", tmp_path / "whole", tally)
    assert tally.holds, tally
    assert len(contents(tmp_path / "store")) == 20
    assert chaos.unfinished(tmp_path / "store") == set()
    assert not (tmp_path / "store" / "damaged").exists()


def test_victims_and_delays_are_those_of_the_seed():
    kills = plan_kills(300, 5)
    assert kills == plan_kills(300, 5) != plan_kills(300, 6)
    assert {kill.victim for kill in kills} == set(chaos.VICTIMS)
    assert all(0 <= k.late <= chaos.LATEST and 1 <= k.cells <= chaos.MOST_CELLS for k in kills)
    assert sum(k.late < 1 for k in kills) > 80  # before a first cell, where starts take as long


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """A store of four cells and its copy."""
    run_grid(parse_grid(SMALL, "chaos"), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "store")
    return tmp_path / "whole", tmp_path / "store"


def judged(stores: tuple[Path, Path]) -> Tally:
    whole, store = stores
    tally = Tally(seed=0, status=0)
    compare(store, whole, tally)
    return tally


def first_cell(store: Path) -> Path:
    return min((store / "cells").iterdir())


def test_equal_stores_hold(stores):
    assert judged(stores).holds


def test_a_lost_cell_is_seen(stores):
    shutil.rmtree(first_cell(stores[1]))
    tally = judged(stores)
    assert (tally.lost, tally.doubled, tally.different, tally.holds) == (1, 0, 0, False)


def test_a_cell_with_other_rows_is_seen(stores):
    _, store = stores
    key = first_cell(store).name
    identity = Cells.open(store).read(key).about["identity"]
    shutil.rmtree(first_cell(store))
    shutil.rmtree(store / "index")
    Cells.open(store, write=True).write(key, identity, {"scores": [{"id": "p0"}]}, {"seconds": 0.1})
    tally = judged(stores)
    assert (tally.lost, tally.doubled, tally.different, tally.holds) == (0, 0, 1, False)


def test_a_cell_too_many_and_a_row_too_many_are_seen(stores):
    _, store = stores
    identity = {"experiment": "synthetic", "config": {"seed": 99}}
    rows = [{"id": f"p{i}", "score": 0.5, "model": "a"} for i in range(3)]
    cells = Cells.open(store, write=True)
    cells.write(cell_key(identity), identity, {"scores": rows}, {"seconds": 0.1})
    tally = judged(stores)
    assert (tally.lost, tally.doubled, tally.different) == (0, 1 + 3, 0)
    assert not tally.holds and not tally.index_equal


def test_an_index_that_gives_other_rows_is_seen(stores, monkeypatch):
    table, store = index.table, str(stores[1])

    def twice(address, name):
        rows = table(address, name)
        return rows if str(address) != store else rows.slice(0, len(rows) - 1)

    monkeypatch.setattr(index, "table", twice)
    tally = judged(stores)
    assert (tally.lost, tally.doubled, tally.index_equal, tally.holds) == (0, 0, False, False)


def test_a_torn_cell_and_one_that_goes_away_are_seen_between_kills(stores):
    whole, store = stores
    sight = Sight(store, contents(whole))
    torn, gone = sorted((store / "cells").iterdir())[:2]
    (torn / "scores.parquet").write_bytes(b"PAR1")
    sight.look()
    assert (sight.torn, sight.gone, sight.different) == ({torn.name}, set(), set())
    shutil.rmtree(gone)
    sight.look()
    assert gone.name in sight.gone and len(sight.seen) == 4


def test_what_the_dead_left_unfinished_is_seen(stores):
    whole, store = stores
    sight = Sight(store, contents(whole))
    assert sight.cut() == (False, False)
    (store / "cells" / ".part-4194399-0a1b2c3d-77").mkdir()  # no process has such an id
    assert sight.cut() == (True, False)
    assert sight.cut() == (False, False)  # it was seen before
    for segment in (store / "index").glob("*.json"):
        segment.unlink()
    assert sight.cut() == (False, True)
    assert (len(chaos.unfinished(store)), len(chaos.unlisted(store))) == (1, 1)


def test_numbers_that_make_no_sweep_are_refused():
    with says(InputError, "kills=-1, cells=None: give 0 kills or more and 4 cells or more."):
        Config(kills=-1)
    assert Config(kills=200).grid.splitlines()[-2] == "seeds: 600"
    assert Config(kills=8, cells=61).grid.splitlines()[-2] == "seeds: 16"
