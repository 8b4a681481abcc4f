"""Which worker gets which cell, what the plan says of time, and what the display writes."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from interp.cli import main
from interp.sweeps.executors.inline import Inline
from interp.sweeps.live import Display
from interp.sweeps.plan import Failure, Plan, Planned
from interp.sweeps.queue import Queue
from interp.sweeps.work import Report


def cell(name: str, group: str = "a", state="todo", failure=None) -> Planned:
    return Planned(name, {"model": group, "seed": int(name[1:])}, (group,), state, failure)


def test_a_worker_keeps_to_its_subject_and_then_takes_one_that_nobody_holds():
    queue = Queue([cell("a0"), cell("b0", "b"), cell("a1"), cell("c0", "c"), cell("b1", "b")])
    assert queue.take(0).key == "a0"
    assert queue.take(1).key == "b0"
    assert queue.take(0).key == "a1"
    assert queue.take(0).key == "c0"  # not b, which worker 1 holds
    assert queue.take(0).key == "b1"  # nothing else is left: it helps
    assert queue.take(0) is None


def test_a_cell_that_is_tried_again_waits_behind_the_others():
    queue = Queue([cell("a0"), cell("a1")])
    first = queue.take(0)
    queue.put(first)
    assert [queue.take(0).key, queue.take(0).key] == ["a1", "a0"]


def test_the_subject_of_a_dead_worker_is_free():
    queue = Queue([cell("a0"), cell("a1"), cell("a2"), cell("b0", "b")])
    queue.take(0)
    assert queue.take(1).key == "b0"
    queue.put(cell("b1", "b"))
    queue.forget(0)
    assert queue.take(2).key == "a1"  # free and longest


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.sampled_from("abc"), max_size=20),
    st.lists(st.integers(0, 2), min_size=1),
    st.data(),
)
def test_every_cell_is_taken_once(groups, workers, data):
    cells = [cell(f"{group}{i}", group) for i, group in enumerate(groups)]
    queue = Queue(cells)
    taken = []
    while len(queue):
        taken.append(queue.take(data.draw(st.sampled_from(workers))).key)
    assert Counter(taken) == Counter(each.key for each in cells)


def test_cells_of_one_subject_are_done_together_in_the_grids_order():
    plan = Plan([cell("b0", "b"), cell("a0"), cell("b1", "b"), cell("a1", state="done")], tries=1)
    assert [each.key for each in plan.todo()] == ["b0", "b1", "a0"]
    assert (plan.count("todo"), plan.count("done"), plan.count("failed")) == (3, 1, 0)


def test_the_time_left_is_that_of_the_finished_cells_of_each_subject():
    cells = [cell("a0", state="done"), cell("a1"), cell("b0", "b", state="done"), cell("c0", "c")]
    plan = Plan(cells, tries=1, seconds={"a0": 2.0, "b0": 6.0})
    assert plan.estimate() == 2.0 + 4.0  # a's own, and the mean of all for c
    assert Plan(cells, tries=1).estimate() is None


def shown(terminal: bool) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return Display(console, ("model", "seed")), out


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_names_cells_workers_and_failures(terminal):
    display, out = shown(terminal)
    bad, good = cell("a0"), cell("a1")
    display.begin(Plan([bad, good], tries=1), Inline(), 2)
    display.gave(1, bad, 2)
    drawn = out.getvalue()
    report = Report(key="a0", state="failed", error="seed 0 [red]breaks[/red]\nmore")
    bad.state, bad.failure = "failed", Failure(2, report.error)
    display.settled(1, bad, report)
    good.state = "done"
    display.settled(0, good, Report(key="a1", state="done", seconds=1.0))
    display.tick()
    display.end()
    text = out.getvalue()
    assert "model=a seed=0" in text and "seed 0 [red]breaks[/red]" in text and "more" not in text
    if terminal:
        assert (
            "model=a seed=0" in drawn
            and ": 1 failed, 0 in work, 0 wait, nothing left" in text
            and "1/2" in text
        )
    else:
        assert drawn == "" and text.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["statsu", "runs"],
            "no grid file of that name, and the parts are status, show, gc.",
        ),
        (["g.yaml", "--limit", "0"], "--limit 0: compute at least 1 cell, or leave it out."),
        (
            ["g.yaml", "--workers", "2"],
            "inline is this one process; add --executor local.",
        ),
        (["g.yaml", "--gpus", "1"], "--address, --cpus and --gpus belong to the Ray executor"),
        (
            ["status", "runs/sweeps/x"],
            "no sweep 'x' at runs: a sweep lies at STORE/sweeps/NAME",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_slip_on_the_command_line_is_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "g.yaml").write_text("experiment: experiments.synthetic:EXPERIMENT\nseeds: 1\n")
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *words])
    told = capsys.readouterr()
    assert ended.value.code == 2 and message in told.err and told.err.count("\n") == 1
    assert told.out == "" and sorted(p.name for p in tmp_path.iterdir()) == ["g.yaml", "runs"]
