"""The simulation of many workers, on sweeps small enough to follow by hand."""

from __future__ import annotations

import json
import math

import pytest

from experiments import saturation
from experiments.saturation import Costs, draw_seconds, limits, saturating, simulate
from interp.errors import InputError
from tests.strategies import says

FREE = dict(plan=0.0, spawn=0.0, up=0.0, driver=0.0, store=0.0, loading=0.0)


def costs(**given: float) -> Costs:
    return Costs(**(FREE | given))


def test_one_worker_without_costs_computes_cell_after_cell():
    found = simulate(costs(), [1.0, 2.0, 3.0], workers=1)
    assert (found.seconds, found.rate, found.bound) == (6.0, 0.5, "nothing")
    assert found.shares["computing"] == 1.0
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_every_step_of_one_worker_adds_up():
    """Started at 0.5 and up at 1.5; loads to 3.5; each cell takes 1 + 0.25 + 0.125."""
    all_ = costs(spawn=0.5, up=1.0, loading=2.0, store=0.25, driver=0.125, plan=0.5)
    found = simulate(all_, [1.0, 1.0], workers=1)
    assert found.seconds == 1.5 + 2.0 + 2 * 1.375
    assert found.plan == 1.0  # before all that
    spent = {name: share * found.seconds for name, share in found.shares.items()}
    assert spent == pytest.approx(
        dict(starting=1.5, loading=2.0, computing=2.0, store=0.5, driver=0.25, idle=0.0)
    )
    assert found.busy["driver"] == (0.5 + 2 * 0.125) / found.seconds


def test_two_workers_halve_the_time():
    assert simulate(costs(), [2.0] * 6, workers=2).seconds == 6.0
    assert simulate(costs(), [2.0] * 5, workers=2).seconds == 6.0  # one idles at the end
    assert simulate(costs(), [2.0] * 5, workers=2).shares["idle"] == pytest.approx(1 / 6)


def test_a_driver_serves_one_over_its_cost_cells_a_second():
    """Ten workers come back at second 1; from then on the driver notes a cell each half second."""
    found = simulate(costs(driver=0.5), [1.0] * 40, workers=10)
    assert found.seconds == 1.0 + 40 * 0.5
    assert found.bound == "driver"
    assert limits(costs(driver=0.5)) == {"driver": 2.0, "store": math.inf}
    few = simulate(costs(driver=0.5), [99.5] * 40, workers=10)
    assert few.seconds == 99.5 + 10 * 0.5 + 3 * 100.0  # only the first round waits
    assert few.bound == "nothing"


def test_a_store_with_two_places_writes_two_cells_at_once():
    """Four workers finish at second 1: two write until 3, two until 5."""
    found = simulate(costs(store=2.0, store_places=2), [1.0] * 4, workers=4)
    assert found.seconds == 5.0
    assert found.shares["store"] == (2 + 2 + 4 + 4) / 20
    assert simulate(costs(store=2.0, store_places=4), [1.0] * 4, workers=4).seconds == 3.0
    many = simulate(costs(store=2.0, store_places=2), [1.0] * 100, workers=20)
    assert many.bound == "store" and many.rate == pytest.approx(1.0, rel=0.02)


def test_the_start_is_bound_by_loading():
    """Six workers load one subject for 4 seconds, two at once: the last begins at 12."""
    found = simulate(costs(loading=4.0, loading_places=2), [1.0] * 6, workers=6)
    assert found.seconds == 12.0 + 1.0
    assert found.bound == "loading"
    assert found.shares["loading"] == (4 + 4 + 8 + 8 + 12 + 12) / (6 * 13)


def test_a_worker_loads_a_subject_once_and_each_subject_that_it_computes():
    assert simulate(costs(loading=3.0), [1.0] * 4, workers=1).seconds == 7.0
    assert simulate(costs(loading=3.0), [1.0] * 4, workers=1, subjects=2).seconds == 10.0
    assert simulate(costs(loading=3.0), [1.0] * 4, workers=2, subjects=2).seconds == 5.0


def test_more_workers_than_cells_start_no_more_than_cells():
    found = simulate(costs(up=1.0), [1.0], workers=4)
    assert found.seconds == 2.0
    assert found.shares["idle"] == 0.75


def test_a_bucket_has_latency_and_room():
    bucket = costs(store=0.01).bucket(0.1)
    assert bucket.store == pytest.approx(0.5)  # five requests for a cell of one table
    found = simulate(bucket, [1.0] * 30, workers=30)
    assert found.seconds == pytest.approx(1.5) and found.busy["store"] < 0.01


def test_where_driver_and_store_are_full():
    """A round takes 0.8 + 0.19 + 0.01 = 1 second, and the driver serves 100 a second."""
    each = costs(cell=0.8, spread=0.0, store=0.19, store_places=19, driver=0.01)
    assert saturating(each) == pytest.approx({"driver": 100.0, "store": 100.0})
    below, above = (simulate(each, draw_seconds(each, 30 * n, 0), workers=n) for n in (50, 200))
    assert below.rate == pytest.approx(50, rel=0.05) and below.bound == "store"
    assert above.rate == pytest.approx(100, rel=0.05) and above.busy["driver"] > 0.95


def test_where_a_queue_is_full_follows_from_the_mean_of_the_cells_not_their_median():
    """The mean is exp(1² / 2) seconds; the driver serves 2 a second and takes half of one."""
    each = costs(cell=1.0, spread=1.0, driver=0.5)
    assert saturating(each)["driver"] == pytest.approx(2 * (math.exp(0.5) + 0.5))
    drawn = draw_seconds(costs(cell=1.0, spread=0.5), 20_000, 0)
    assert sum(drawn) / len(drawn) == pytest.approx(math.exp(0.125), rel=0.02)


def test_seconds_are_drawn_by_seed_around_their_median():
    spread = costs(cell=2.0, spread=0.5)
    drawn = draw_seconds(spread, 1001, 3)
    assert drawn == draw_seconds(spread, 1001, 3) != draw_seconds(spread, 1001, 4)
    assert sorted(drawn)[500] == pytest.approx(2.0, rel=0.1)
    assert draw_seconds(costs(cell=2.0, spread=0.0), 3, 0) == [2.0, 2.0, 2.0]


def test_costs_that_nothing_can_have_are_refused():
    with says(InputError, "driver=-1.0: give at least 0."):
        costs(driver=-1.0)
    with says(InputError, "store_places=0: give at least 1."):
        costs(store_places=0)
    with says(InputError, "cell=nan: give at least 0."):
        costs(cell=math.nan)


def test_the_command_gives_its_assumptions_and_a_line_a_sweep(capsys):
    saturation.main(["--workers", "1", "4", "--each", "5", "--json"])
    first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert "given, not measured" in first["assumptions"][0]
    assert [(line["store"], line["workers"], line["cells"]) for line in lines] == [
        ("folder", 1, 5), ("folder", 4, 20), ("bucket, 0.05 s", 1, 5), ("bucket, 0.05 s", 4, 20)
    ]  # fmt: skip
    saturation.main(["--workers", "2", "--each", "5"])
    shown = capsys.readouterr().out
    assert "cells/s" in shown and "Nothing fails, no worker is lost" in shown


def test_wrong_numbers_of_workers_end_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        saturation.main(["--workers", "0"])
    assert stop.value.code == 2
    assert "give at least 1" in capsys.readouterr().err


def test_writes_are_timed_alone_and_together(tmp_path):
    alone = saturation.one_write(tmp_path / "alone", 5)
    eight = saturation.together(tmp_path / "eight", 16, threads=8)
    assert 0 < alone < 5 and 0 < eight < 5
    assert len(list((tmp_path / "eight" / "cells").iterdir())) == 16
