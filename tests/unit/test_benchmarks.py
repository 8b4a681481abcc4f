"""Every installed rival does the same work: its numbers, on tiny models. No time is asserted."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import lens, measure, ours, work
from experiments.benchmarks.measure import (
    EDITS,
    GRIDS,
    PATHS,
    STEERED,
    TASKS,
    Row,
    Task,
    largest_difference,
    paired_ratio,
    timed,
)
from experiments.benchmarks.work import Job, Refusal, Setting
from interp.errors import InputError, UndefinedEffectError

QUICK = Setting(quick=True)
TOLERANCE = 1e-5  # float32: two kernels of attention differ by about 2e-6 here


@pytest.fixture(scope="module")
def subjects():
    """The work of each task, made once."""
    held = {}

    def get(make):
        if make not in held:
            held[make] = make(QUICK)
        return held[make]

    return get


@torch.no_grad()
def numbers(build, subject) -> torch.Tensor:
    try:
        job = build(subject)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return job.compared(job.each(job.once()))


@pytest.mark.parametrize("system", [name for name in GRIDS if name != "raw"])
@pytest.mark.parametrize("make", [work.patch_grid, work.patch_late])
def test_every_system_gives_the_same_grid(subjects, make, system):
    subject = subjects(make)
    judged = numbers(GRIDS["raw"], subject)
    found = numbers(GRIDS[system], subject)
    assert found.shape == judged.shape == (3, len(subject.positions))
    assert largest_difference(found, judged) < TOLERANCE
    # A system that mixed up layers or positions would be this far off.
    assert largest_difference(found, judged.flip(0)) > 0.1
    assert largest_difference(found, judged.flip(1)) > 0.1


def test_a_patch_of_the_last_position_before_the_first_block_moves_nothing(subjects):
    """Both prompts end alike, and before the first block a position is its own token."""
    subject = subjects(work.patch_grid)
    judged = numbers(GRIDS["raw"], subject)
    with torch.no_grad():
        base = subject.score(subject.model.hf(subject.corrupted).logits[:, -1])
    changed = (subject.clean != subject.corrupted)[0]
    assert changed.sum() == 1
    torch.testing.assert_close(judged[0, ~changed], base.expand(20), rtol=0, atol=TOLERANCE)
    assert abs(judged[0, changed] - base) > 0.1


@pytest.mark.parametrize("system", [name for name in PATHS if name != "raw"])
def test_every_system_gives_the_same_paths(subjects, system):
    subject = subjects(work.path_all)
    judged = numbers(PATHS["raw"], subject)
    found = numbers(PATHS[system], subject)
    assert found.shape == judged.shape == (3, 2, 4)  # q, k, v; two later layers; four heads
    assert largest_difference(found, judged) < TOLERANCE
    assert largest_difference(found, judged.roll(1, 0)) > 0.01  # parts mixed up
    assert largest_difference(found, judged.flip(1)) > 0.01  # layers mixed up


@pytest.mark.parametrize("system", [name for name in EDITS if name != "raw"])
def test_every_system_makes_the_same_edit(subjects, system):
    subject = subjects(work.edit_overhead_tiny)
    plain, judged = numbers(EDITS["plain forward"], subject), numbers(EDITS["raw"], subject)
    found = numbers(EDITS[system], subject)
    same, other = (
        (plain, judged) if system in ("plain forward", "ours, no edit") else (judged, plain)
    )
    assert largest_difference(found, same) < TOLERANCE
    assert largest_difference(found, other) > 0.1


@pytest.mark.parametrize("system", [name for name in STEERED if name != "raw"])
def test_every_system_writes_the_same_tokens(subjects, system):
    subject = subjects(work.steer_overhead)
    plain, judged = numbers(STEERED["Hugging Face"], subject), numbers(STEERED["raw"], subject)
    found = numbers(STEERED[system], subject)
    unsteered = system in ("Hugging Face", "ours, no edit")
    assert found.tolist() == (plain if unsteered else judged).tolist()
    assert plain.tolist() != judged.tolist()


def test_transformer_lens_refuses_integrated_gradients_in_its_own_words(subjects):
    pytest.importorskip("transformer_lens")
    message = (
        r"^5 steps: ig_steps>1 \(EAP-IG integrated gradients\) is not implemented yet; this build "
        r"supports ig_steps=1 \(plain attribution\) only\. "
        r"1 steps: blocks\.0 has n_key_value_heads=2 for n_heads=4 \(GQA/MQA\)"
    )
    with torch.enable_grad(), pytest.raises(Refusal, match=message):
        lens.attribution(subjects(work.attribution))


def test_edges_are_counted():
    """Three layers of four heads: 4 x 8 + 4 x 4 pairs, each into q, k and v."""
    subject = work.path_all(QUICK)
    assert subject.n_edges == 3 * (4 * 8 + 4 * 4) == 144
    assert subject.share == 3 * 8 / 144


def test_a_generation_that_ends_early_is_refused(subjects):
    message = r"^A generation of 24 tokens ended after 3: choose a prompt that the model goes on"
    with pytest.raises(InputError, match=message):
        subjects(work.steer_overhead).all_new(torch.zeros(1, 3))


def test_the_time_of_a_sample_is_scaled(monkeypatch):
    """One second once, two for a quarter of the parts: 1 + 2 / 0.25 = 9."""
    ticks = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(measure, "clock", lambda device: next(ticks))
    seconds, values = timed(Job(lambda held: held + 1, lambda: torch.ones(1), 0.25), "cpu")
    assert (seconds, values.tolist()) == (9.0, [2.0])


def test_a_ratio_is_the_median_of_the_rounds():
    assert paired_ratio([2.0, 6.0, 9.0], [1.0, 2.0, 4.0]) == 2.25
    with pytest.raises(UndefinedEffectError, match=r"^A time of zero cannot be a unit"):
        paired_ratio([1.0], [0.0])


def test_numbers_that_do_not_pair_are_refused():
    message = r"^Numbers of shapes \[2\] and \[3\] do not pair"
    with pytest.raises(UndefinedEffectError, match=message):
        largest_difference(torch.zeros(2), torch.zeros(3))


def constant(value: float):
    return lambda subject: Job(lambda _: torch.tensor([value, 0.0]))


def refuses(subject):
    raise Refusal("not today")


def absent(subject):
    raise ModuleNotFoundError(name="elsewhere")


def test_a_row_says_how_far_off_missing_or_unwilling_a_system_is(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(measure, "clock", lambda device: float(next(ticks)))
    systems = {"a": constant(1.0), "b": constant(3.5), "c": refuses, "d": absent}
    task = Task("t", "about", lambda setting: None, systems, ("a",), "a", rounds=2)
    a, b, c, d = measure.measure(task, Setting(), repeats=2)
    assert (a.seconds, a.repeats, a.ratios, a.difference, a.effect) == (2, 4, {"a": 1}, None, 1)
    assert (b.difference, b.effect, b.device) == (2.5, 1.0, "cpu, 1 thread")
    assert c == Row("t", "c", note="refuses: not today")
    assert d == Row("t", "d", note="skipped: no module elsewhere")


def test_systems_that_change_nothing_are_judged_by_the_first_of_them():
    systems = {"none": constant(1.0), "same": constant(1.5), "a": constant(4.0)}
    task = Task("t", "", lambda s: None, systems, ("none",), "a", ("none", "same"))
    none, same, edited = measure.measure(task, Setting(), repeats=1)
    assert (none.difference, same.difference, edited.difference) == (None, 0.5, None)
    assert none.effect == same.effect == edited.effect == 3.0


def test_a_wrong_name_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["patch-grids"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "There is no benchmark 'patch-grids'; there are: patch-grid, patch-late, path-all, "
        "edit-overhead, edit-overhead-tiny, steer-overhead, attribution. "
        "Did you mean 'patch-grid'?\n"
    )


def test_no_repeat_is_refused():
    with pytest.raises(InputError, match=r"^--repeats 0: give at least 1\.$"):
        command.Command(repeats=0)


def test_lines_of_json_hold_every_row(capsys, monkeypatch):
    task = Task("t", "", lambda s: None, {"a": constant(1.0), "b": refuses}, ("a",), "a")
    monkeypatch.setattr(command, "TASKS", (task,))
    command.main(["t", "--json", "--repeats", "1", "--quick"])
    a, b = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (a["system"], a["ratios"], a["share"]) == ("a", {"a": 1.0}, 1.0)
    assert (b["seconds"], b["note"]) == (None, "refuses: not today")


def test_a_table_shows_refusals_and_samples(capsys, monkeypatch):
    sampled = lambda subject: Job(lambda _: torch.ones(2), share=0.5)  # noqa: E731
    task = Task("t", "[work]", lambda s: None, {"a": sampled, "b": refuses}, ("a",), "a")
    monkeypatch.setattr(command, "TASKS", (task,))
    monkeypatch.setenv("COLUMNS", "200")
    command.main(["--repeats", "1"])
    shown = capsys.readouterr().out
    assert "t: [work]" in shown
    assert "scaled: 50.00% of the work was done" in shown
    assert "refuses: not today" in shown


def test_every_task_has_a_judge_and_a_unit_among_its_systems():
    for task in TASKS:
        assert {task.judge, *task.units, *task.nulls} <= set(task.systems), task.name
    assert ours.grid in GRIDS.values()
