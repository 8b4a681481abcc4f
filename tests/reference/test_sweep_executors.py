"""Scores of a model in this process and in workers of their own; what claims about sweeps read.

Ray has a file of its own, `test_ray.py`.
"""

from __future__ import annotations

import pytest

from experiments.claims import sweeps
from experiments.claims.sweeps import Clock, Timed, cells, scaling_text, steady_rate, timed
from interp.sweeps.executors.local import Local
from interp.sweeps.grid import parse_grid

TTS = """\
experiment: tts
base: {problems: 1, solutions: true, target: gold, model: planted-steps}
axes: {product: {preset: [default, released-code]}}
seeds: 1
"""


def test_true_thinking_scores_are_the_same_bytes_in_a_process_of_their_own():
    found = sweeps.equal(parse_grid(TTS, "tts"), ("inline", "local"), workers=1)
    assert found.table == ()
    assert found.text.startswith("2 cells, ") and "local 0 of 2" in found.text
    assert not found.holds and "Ray is not installed or was not asked" in found.text


def test_a_cell_that_differs_is_named():
    one, two = {"a": {"t": b"1"}, "b": {"t": b"2"}}, {"a": {"t": b"1"}, "b": {"t": b"3"}}
    stores = {"inline": one, "local": two, "ray": one}
    found = sweeps.equal_text(stores, 2)
    assert not found.holds and found.table == ({"executor": "local", "cell": "b"},)
    assert sweeps.equal_text({"inline": one, "local": one, "ray": one}, 2).holds
    assert not sweeps.equal_text({"inline": one, "local": one}, 2).holds  # Ray was not measured
    assert not sweeps.equal_text({"inline": {}, "local": {}, "ray": {}}, 0).holds


def test_a_sweep_is_timed_by_what_its_workers_finish():
    found = timed(cells(8, 0.05), Local(), 2)
    assert 0.5 <= found.share < 1  # both had some
    assert found.whole < found.steady < 2 / 0.05
    assert 0 < found.cpu < 1


def test_overhead_is_what_a_cell_costs_beside_itself():
    row = sweeps.overhead("inline", n=6, repeats=1)
    assert (row["executor"], row["cells"]) == ("inline", 6)
    assert 0 < row["cell alone ms"] < row["steady ms"] < row["whole ms"]


def test_the_steady_rate_leaves_starts_and_ends_out():
    """From second 10 on both are up: 3 cells in 6 seconds, and 2 in 6."""
    ended = {0: [2.0, 10.0, 12.0, 14.0, 16.0], 1: [10.0, 13.0, 16.0]}
    assert steady_rate(ended) == pytest.approx(3 / 6 + 2 / 6)
    assert steady_rate({0: [5.0, 6.0, 9.0]}) == pytest.approx(2 / 4)


def test_the_goal_is_held_against_the_steady_rate():
    def runs(*steady: float) -> list[Timed]:
        return [Timed(each, each / 2, 0.0, 1.0) for each in steady]

    found = scaling_text({1: runs(0.5, 0.4, 0.9), 2: runs(0.9, 0.1, 7.0)}, 1.8, "12 cells")
    assert found.holds  # medians: 0.9 over 0.5
    assert found.text == (
        "1.80x once the workers are up, 1.80x with start-up (12 cells; with two 54 cells a minute)"
    )
    assert not scaling_text({1: runs(0.5), 2: runs(0.89)}, 1.8, "").holds
    assert [row["workers"] for row in found.table] == [1, 1, 1, 2, 2, 2]


def test_kills_that_found_no_sweep_left_do_not_hold():
    tally = sweeps.chaos.Tally(seed=0, status=0, index_equal=True)
    tally.kills["driver"] = 3
    assert sweeps.chaos_text(tally, 3).holds
    assert not sweeps.chaos_text(tally, 4).holds
    tally.doubled = 1
    assert not sweeps.chaos_text(tally, 3).holds
    assert "3 of the driver, 0 of a worker" in sweeps.chaos_text(tally, 3).text


def test_a_small_store_is_listed_and_filtered_without_torch():
    found = sweeps.records_scan(n=200, repeats=1)
    assert "torch not imported" in found.text
    assert found.table[0]["cells"] == 200 and found.table[0]["chosen"] > 0
    assert found.holds


def test_a_clock_keeps_the_times_of_each_worker():
    clock = Clock()
    for worker in (0, 1, 0):
        clock.settled(worker, None, None)
    assert list(map(len, clock.ended.values())) == [2, 1]
