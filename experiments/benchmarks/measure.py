"""Run the systems of a task in turn, several times over, and set their times side by side."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks import lens, nnsight_rival, ours, pyvene_rival, raw, work
from experiments.benchmarks.work import Job, Refusal, Setting
from interp.errors import UndefinedEffectError

Builder = Callable[[Any], Job]
PACKAGES = {"transformer_lens": "transformer-lens", "nnsight": "nnsight", "pyvene": "pyvene"}
"""The systems that are packages of their own."""


@dataclass(frozen=True)
class Task:
    """One piece of work, and who does it how."""

    name: str
    about: str
    make: Callable[[Setting], Any]
    systems: Mapping[str, Builder]
    units: tuple[str, ...]
    """The systems whose time counts as 1."""
    judge: str
    """The system that the others' numbers are compared with."""
    nulls: tuple[str, ...] = ()
    """The systems that change nothing; the first of them is the judge of the others."""
    rounds: int = 1
    """How often each repeat runs the systems in turn: more where a run takes little time."""


GRIDS = {
    "ours": ours.grid,
    "raw": raw.grid,
    "raw, last logits": raw.grid_last,
    "raw, batched": raw.grid_batched,
    "transformer_lens": lens.grid,
    "nnsight": nnsight_rival.grid,
    "pyvene": pyvene_rival.grid,
}
EDITS = {
    "plain forward": raw.plain,
    "ours, no edit": ours.plain,
    "ours": ours.edit,
    "raw": raw.edit,
    "transformer_lens": lens.edit,
    "nnsight": nnsight_rival.edit,
    "pyvene": pyvene_rival.edit,
}
STEERED = {
    "ours, no edit": ours.generate,
    "ours": ours.steer,
    "Hugging Face": raw.hf_generate,
    "raw": raw.steer,
    "transformer_lens": lens.steer,
}
PATHS = {"ours": ours.path, "raw": raw.path, "transformer_lens": lens.path}
SCORES = {"ours": ours.attribution, "transformer_lens": lens.attribution}

TASKS = (
    Task(
        "patch-grid",
        "residual patching, every layer and position, 16 tokens",
        work.patch_grid,
        GRIDS,
        ("ours", "raw"),
        "raw",
    ),
    Task(
        "patch-late",
        "residual patching, every layer, the last 16 of 96 tokens",
        work.patch_late,
        GRIDS,
        ("ours", "raw"),
        "raw",
    ),
    Task(
        "path-all",
        "direct paths, every head to every later head's q, k, v, GPT-2 small's shape",
        work.path_all,
        PATHS,
        ("ours", "raw"),
        "raw",
    ),
    Task(
        "edit-overhead",
        "one edit over a plain forward pass",
        work.edit_overhead,
        EDITS,
        ("plain forward",),
        "raw",
        ("plain forward", "ours, no edit"),
        rounds=3,
    ),
    Task(
        "edit-overhead-tiny",
        "the same where a forward pass takes milliseconds",
        work.edit_overhead_tiny,
        EDITS,
        ("plain forward",),
        "raw",
        ("plain forward", "ours, no edit"),
        rounds=20,
    ),
    Task(
        "steer-overhead",
        "steering while 24 tokens are written",
        work.steer_overhead,
        STEERED,
        ("ours, no edit", "Hugging Face"),
        "raw",
        ("Hugging Face", "ours, no edit"),
        rounds=6,
    ),
    Task(
        "attribution",
        "EAP-IG over all edges, 5 steps",
        work.attribution,
        SCORES,
        ("ours",),
        "ours",
    ),
)


@dataclass(frozen=True)
class Row:
    """One system's time for one task."""

    task: str
    system: str
    version: str = ""
    device: str = ""
    seconds: float | None = None
    """Median for the whole work; CPU seconds of this process, on a GPU seconds on the clock."""
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    share: float = 1.0
    """How much of the work was really done; below 1 the time is scaled up."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Median of time over another system's time in the same round."""
    difference: float | None = None
    """Largest difference of its numbers from the judge's."""
    effect: float | None = None
    """What a difference is to be held against: how far the judge's numbers lie from those without
    an edit or, where no system runs without one, from one another."""
    note: str = ""

    def record(self) -> dict[str, Any]:
        """Return the row as plain values, as a line of JSON or a figure takes it."""
        return asdict(self)


@torch.no_grad()
def measure(task: Task, setting: Setting, *, repeats: int) -> list[Row]:
    """Run every system of a task in turn and return a row for each, in the task's order.

    A system that is not installed, or that refuses the work, has a row that says so. Each round has
    an order of its own, so that no system always follows the same one. Cheap tasks have one round
    more, whose times are dropped.
    """
    subject = task.make(setting)
    jobs, left_out = _jobs(task, subject)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    found: dict[str, Tensor] = {}
    n_rounds = repeats * (1 if setting.quick else task.rounds)
    for round_ in range(n_rounds + (task.rounds > 1)):
        for name in random.Random(round_).sample(list(jobs), len(jobs)):
            seconds, values = timed(jobs[name], setting.device)
            times[name].append(seconds)
            found[name] = jobs[name].compared(values).double().cpu()
    if task.rounds > 1:
        times = {name: several[1:] for name, several in times.items()}
    rows = [
        _row(task, name, jobs, times, found, setting)
        if name in jobs
        else Row(task.name, name, _version(name), note=left_out[name])
        for name in task.systems
    ]
    return rows


def _jobs(task: Task, subject: Any) -> tuple[dict[str, Job], dict[str, str]]:
    """Set up every system that can do the work; say of the others why not."""
    jobs, left_out = {}, {}
    for name, build in task.systems.items():
        try:
            jobs[name] = build(subject)
        except ModuleNotFoundError as error:
            left_out[name] = f"skipped: no module {error.name}"
        except Refusal as refusal:
            left_out[name] = f"refuses: {refusal}"
    return jobs, left_out


def timed(job: Job, device: str) -> tuple[float, Any]:
    """Return the seconds that the whole work costs, and the numbers."""
    begin = clock(device)
    held = job.once()
    middle = clock(device)
    values = job.each(held)
    return middle - begin + (clock(device) - middle) / job.share, values


def clock(device: str) -> float:
    """CPU seconds of this process; for a GPU, seconds on the clock once its work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def paired_ratio(times: Sequence[float], units: Sequence[float]) -> float:
    """Median of the ratios within a round, which the machine's slow drift leaves alone.

    >>> paired_ratio([2.0, 6.0, 9.0], [1.0, 2.0, 3.0])
    3.0

    Raises:
        UndefinedEffectError: a unit's time is zero.
    """
    if not all(units):
        raise UndefinedEffectError("A time of zero cannot be a unit: use more work or repeats.")
    return median(mine / unit for mine, unit in zip(times, units, strict=True))


def largest_difference(values: Float[Tensor, "*n"], judged: Float[Tensor, "*n"]) -> float:
    """Return the largest absolute difference.

    >>> largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.5

    Raises:
        UndefinedEffectError: the numbers do not pair.
    """
    if values.shape != judged.shape or not values.numel():
        raise UndefinedEffectError(
            f"Numbers of shapes {list(values.shape)} and {list(judged.shape)} do not pair: each "
            "system must give one number for each part of the sample."
        )
    return float((values - judged).abs().max())


def _row(
    task: Task,
    name: str,
    jobs: Mapping[str, Job],
    times: Mapping[str, list[float]],
    found: Mapping[str, Tensor],
    setting: Setting,
) -> Row:
    unit_times = {unit: times[unit] for unit in task.units if unit in times}
    return Row(
        task=task.name,
        system=name,
        version=_version(name),
        device=device_name(setting.device),
        seconds=median(times[name]),
        low=min(times[name]),
        high=max(times[name]),
        repeats=len(times[name]),
        share=jobs[name].share,
        ratios={unit: paired_ratio(times[name], each) for unit, each in unit_times.items()},
        difference=_difference(task, name, found),
        effect=_effect(task, found),
    )


def _difference(task: Task, name: str, found: Mapping[str, Tensor]) -> float | None:
    judge = task.nulls[0] if name in task.nulls else task.judge
    if name == judge or judge not in found:
        return None
    return largest_difference(found[name], found[judge])


def _effect(task: Task, found: Mapping[str, Tensor]) -> float | None:
    if task.judge not in found:
        return None
    judged = found[task.judge]
    if task.nulls:
        return largest_difference(judged, found[task.nulls[0]])
    return float(judged.max() - judged.min())


def device_name(device: str) -> str:
    """Return the device as a reader knows it.

    >>> device_name("cpu")
    'cpu, 1 thread'
    """
    if device == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' * (threads > 1)}"
    return torch.cuda.get_device_name(device)


def _version(system: str) -> str:
    if system not in PACKAGES:
        return ""
    try:
        return version(PACKAGES[system])
    except PackageNotFoundError:
        return ""
