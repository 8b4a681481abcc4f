"""What a person sees while a sweep runs: a table that is drawn again twice a second."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from interp import errors
from interp.sweeps.executors.base import Executor
from interp.sweeps.plan import Plan, Planned
from interp.sweeps.work import Report

PAUSE = 0.2
"""Seconds between two drawings at least."""
RECENT = 5
"""How many of the last failures are shown."""
ROWS = 16
"""How many workers have a line of their own."""
WINDOW = 50
"""From how many of the last cells the time left is estimated."""


@dataclass
class _Worker:
    """What a worker is at."""

    label: str = ""
    attempt: int = 1
    since: float = 0.0
    cells: int = 0


class Display:
    """A live table on a terminal; on anything else a line where a cell fails, and silence."""

    def __init__(self, console: Console, varied: tuple[str, ...]) -> None:
        self._console = console
        self._varied = varied
        self._live: Live | None = None

    def begin(self, plan: Plan, executor: Executor, workers: int) -> None:
        """Start to draw."""
        self._began = time.monotonic()
        self._drawn = 0.0
        self._plan, self._executor = plan, executor.name
        self._workers = [_Worker() for _ in range(workers)]
        self._failures: deque[tuple[str, int, str]] = deque(maxlen=RECENT)
        self._ended: deque[float] = deque([self._began], maxlen=WINDOW)
        if self._console.is_terminal:
            self._live = Live(
                self._draw(), console=self._console, auto_refresh=False, transient=True
            )
            self._live.start()

    def gave(self, worker: int, cell: Planned, attempt: int) -> None:
        """Show what the worker is at."""
        at = self._workers[worker]
        at.label, at.attempt, at.since = self.label(cell), attempt, time.monotonic()
        self.tick()

    def settled(self, worker: int, cell: Planned, report: Report) -> None:
        """Count the cell, and keep its failure to be shown."""
        at = self._workers[worker]
        at.label = ""
        if report.state == "failed":
            why = reason(report.kind, report.error)
            self._failures.append((self.label(cell), at.attempt, why))
            if self._live is None:
                text = f"attempt {at.attempt} failed: {self.label(cell)}: {why}"
                self._console.print(Text(text), soft_wrap=True)
        else:
            at.cells += 1
        if cell.state != "todo":  # not to be tried again
            self._ended.append(time.monotonic())

    def tick(self) -> None:
        """Draw again, a few times a second at most."""
        if self._live is not None and time.monotonic() - self._drawn > PAUSE:
            self._live.update(self._draw(), refresh=True)
            self._drawn = time.monotonic()

    def end(self) -> None:
        """Take the table away; the summary follows."""
        if self._live is not None:
            self._live.update(self._draw(), refresh=True)
            self._live.stop()
            self._live = None

    def label(self, cell: Planned) -> str:
        """Name a cell by the fields in which the cells differ."""
        return cell_label(cell.config, self._varied)

    def _draw(self) -> Group:
        plan = self._plan
        bar = Progress(TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn())
        bar.add_task("cells", total=len(plan.cells), completed=plan.count("done"))
        failed, busy = plan.count("failed"), sum(bool(at.label) for at in self._workers)
        line = Text(f"{self._executor}, {duration(time.monotonic() - self._began)}: ")
        line.append(f"{failed} failed", style="red" if failed else "")
        line.append(f", {busy} in work, {plan.count('todo') - busy} wait, {self._left()}")
        parts = [bar, line, self._table()]
        if self._failures:
            parts.append(Text("last failed attempts", style="bold"))
        parts += [
            Text(f"  {label}, attempt {attempt}: {error}", style="red", no_wrap=True)
            for label, attempt, error in self._failures
        ]
        return Group(*parts)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("worker", "done", "cell", "attempt", "seconds"):
            wide = name == "cell"
            side, least = ("left", 40) if wide else ("right", None)
            table.add_column(name, no_wrap=True, justify=side, min_width=least)
        for number, at in enumerate(self._workers[:ROWS]):
            busy = bool(at.label)
            seconds = f"{time.monotonic() - at.since:.1f}" if busy else ""
            shown = Text(at.label or "-", overflow="ellipsis")
            table.add_row(str(number), str(at.cells), shown, str(at.attempt) * busy, seconds)
        if len(self._workers) > ROWS:
            table.add_row("", "", f"and {len(self._workers) - ROWS} more workers", "", "")
        return table

    def _left(self) -> str:
        """The rate of the last cells and the time left at that rate."""
        todo, ended = self._plan.count("todo"), len(self._ended) - 1
        if not ended or not todo:
            return "time left not known yet" if todo else "nothing left"
        rate = ended / (time.monotonic() - self._ended[0])
        return f"{60 * rate:.3g} cells a minute, about {duration(todo / rate)} left"


def cell_label(config: dict, varied: tuple[str, ...]) -> str:
    """Name a cell by some of its fields.

    >>> cell_label({"model": "tiny-llama", "seed": 2, "limit": 4}, ("model", "seed"))
    'model=tiny-llama seed=2'
    """
    shown = {name: config[name] for name in varied if name in config}
    words = (v if isinstance(v, str) and v else json.dumps(v) for v in shown.values())
    return " ".join(f"{name}={word}" for name, word in zip(shown, words, strict=True)) or "the cell"


def first_line(text: str) -> str:
    """The first line of a text.

    >>> first_line("one\\ntwo")
    'one'
    """
    return text.strip().partition("\n")[0]


def reason(kind: str, error: str) -> str:
    """Why an attempt failed, in a line; an error that nobody raised on purpose has its class.

    >>> reason("KeyError", "'b'"), reason("InputError", "seed 0 is refused: give another.")
    ("KeyError: 'b'", 'seed 0 is refused: give another.')
    """
    meant = kind in vars(errors) or kind in ("LimitReached", "WorkerDied", "")
    return first_line(error if meant else f"{kind}: {error}")


def duration(seconds: float) -> str:
    """Write a time as a person would.

    >>> duration(4.2), duration(125.0), duration(7300.0)
    ('4.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
