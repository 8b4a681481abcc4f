"""`interp results` and `interp report`: what a run left, read without a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from interp.cli.shared import Run


@dataclass(frozen=True, kw_only=True)
class Results:
    """Print the records of a run."""

    folder: Run
    """Folder of a run."""
    table: str = "steps"
    """Which table: steps, chains, patch, marked_steps or audit."""
    format: Literal["table", "jsonl", "csv"] = "table"
    """table for reading; jsonl or csv in full precision."""
    columns: tuple[str, ...] = ()
    """Only these columns, in this order."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.errors import InputError, nearest
        from interp.jobs.runs import table_names
        from interp.results import Store, render

        store = Store.open(self.folder)
        known = table_names(store)
        if self.table not in known:
            raise InputError(
                f"The run {self.folder} has no table {self.table!r}; it has: "
                f"{', '.join(known) or 'none yet'}.{nearest(self.table, known)}"
            )
        rows = store.rows(self.table)
        columns = self.columns
        if self.format == "table" and not columns:
            present = {name for row in rows for name in row}
            columns = tuple(c for c in DEFAULT_COLUMNS.get(self.table, ()) if c in present)
        text = render(rows, self.format, columns or None)
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return _warn_of_missing(store)


def _warn_of_missing(store) -> int:
    """Say on stderr that cells are gone; the exit status that goes with it."""
    from interp.jobs.runs import missing

    gone = missing(store)
    if not gone:
        return 0
    sys.stderr.write(
        f"interp: {gone} cells of this run are missing or damaged and not shown; start the command "
        "that made the run again to make them again.\n"
    )
    return 3


DEFAULT_COLUMNS = {
    "steps": ("id", "step", "seed", "op", "nec", "suf", "tts", "null_tts", "random_tts", "text"),
    "chains": ("id", "status", "answer", "gold", "correct", "n_steps", "n_tokens", "reason"),
    "patch": ("place", "token", "direction", "effect", "recovered", "change", "null", "pairs"),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw a run's report again, from its records alone: one HTML file that works offline."""

    folder: Run
    """Folder of a run."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs.runs import write_report
        from interp.results import Store

        store = Store.open(self.folder)
        path = write_report(store)
        console.print(f"Report: {path}", soft_wrap=True, markup=False)
        return _warn_of_missing(store)
