"""Time this workbench beside the field's other tools, on the same work with the same numbers.

    python -m experiments.benchmarks [NAME ...] [--repeats N] [--json] [--quick] [--full]

One thread. Times are CPU seconds of this process (on a GPU: seconds on the clock), medians of
several repeats in which the systems take turns. Beside every ratio stands the largest difference of
the numbers from those of plain hooks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.benchmarks.measure import TASKS, Row, Task, measure
from experiments.benchmarks.work import Setting
from interp.errors import InputError, InterpError, nearest


def chosen(names: Sequence[str]) -> list[Task]:
    """Return the named tasks in their own order, or all of them.

    Raises:
        InputError: a name that no task has.
    """
    known = [task.name for task in TASKS]
    for name in names:
        if name not in known:
            raise InputError(
                f"There is no benchmark {name!r}; there are: {', '.join(known)}."
                f"{nearest(name, known)}"
            )
    return [task for task in TASKS if not names or task.name in names]


def table(task: Task, rows: Sequence[Row]) -> Table:
    """Lay out the rows of one task."""
    drawn = Table("system", title=escape(f"{task.name}: {task.about}"), title_justify="left")
    for heading in ("seconds", "ratio", "largest difference"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("note")
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in _cells(row)))
    return drawn


def _cells(row: Row) -> tuple[str, ...]:
    name = f"{row.system} {row.version}".strip()
    if row.seconds is None:
        return name, "", "", "", row.note
    ratios = "\n".join(f"{ratio:.2f} x {unit}" for unit, ratio in row.ratios.items())
    same = "" if row.difference is None else f"{row.difference:.1e} of {row.effect:.2g}"
    scaled = "" if row.share == 1 else f"scaled: {row.share:.2%} of the work was done"
    span = f"{row.low:.3g} to {row.high:.3g}, {row.repeats} times"
    return name, f"{row.seconds:.3g}\n({span})", ratios, same, scaled


@dataclass(frozen=True)
class Command:
    """Time this workbench and other tools on the same work."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which benchmarks; by default all of them."""
    repeats: int = 3
    """How often each system does each task."""
    json: bool = False
    """Print one line of JSON a row instead of tables."""
    quick: bool = False
    """Tiny models and all of the work: shows that every system agrees, and times nothing real."""
    full: bool = False
    """Rivals do every layer of a grid instead of a sample."""
    device: str = "cpu"
    """Where the models lie: cpu, or a GPU such as cuda."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"--repeats {self.repeats}: give at least 1.")


def main(argv: Sequence[str] | None = None) -> None:
    """Time the named tasks and print a table, or lines of JSON; exit 2 on bad input."""
    try:
        run(tyro.cli(Command, args=argv, prog="python -m experiments.benchmarks"))
    except InterpError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def run(command: Command) -> None:
    """Time and print, one task after another."""
    torch.set_num_threads(1)
    setting = Setting(quick=command.quick, full=command.full, device=command.device)
    for task in chosen(command.names):
        rows = measure(task, setting, repeats=command.repeats)
        if not command.json:
            Console().print(table(task, rows))
            continue
        for row in rows:
            print(json.dumps(row.record(), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
