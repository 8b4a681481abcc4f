"""`interp results` and `interp report`: what runs left, read without a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.results.catalogue import Catalogue

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[,NAME...]")]
Reported = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DIR|STORE[/sweeps/NAME]")]]
Sources = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR [DIR ...]")]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Print the records of runs and sweeps: filtered, joined and grouped, or what there is."""

    sources: Sources
    """Folders of runs, of sweeps (STORE/sweeps/NAME) or of sweep stores; patterns in quotes."""
    table: str | None = None
    """Which table: steps, chains, patch, ...; by default the only one, or the steps of one run.
    Several sources without a table are listed."""
    inventory: Annotated[bool, tyro.conf.arg(name="list")] = False
    """List runs, tables, rows and columns."""
    where: str | None = None
    """A condition in SQL, such as "model = 'tiny-llama' and tts > 0.1"."""
    join: str | None = None
    """Another source, whose rows are put beside those that agree with them on the columns --on."""
    join_table: str | None = None
    """The table of the other source; by default the same."""
    on: Names = ()
    """The columns that both sides of a join have."""
    group: Names = ()
    """One group for each value of these columns."""
    mean: Names = ()
    """Mean of these columns by group, with its interval."""
    median: Names = ()
    """Median of these columns by group."""
    largest: Annotated[Names, tyro.conf.arg(name="max")] = ()
    """Largest value of these columns by group."""
    smallest: Annotated[Names, tyro.conf.arg(name="min")] = ()
    """Smallest value of these columns by group."""
    count: Names = ()
    """How many values these columns have by group."""
    unit: str | None = None
    """The column that names the independent units, or row; by default that of the experiment,
    else id, else row."""
    level: float = 0.95
    """Level of the intervals."""
    columns: Names = ()
    """Only these columns, in this order."""
    format: Literal["table", "jsonl", "csv", "parquet", "latex"] = "table"
    """table for reading; jsonl, csv or parquet in full precision; latex for a paper."""
    limit: int | None = None
    """Print so many rows; by default 1,000 in the format table, and all in the others."""
    to: Path | None = None
    """Write to this file instead."""
    force: bool = False
    """Write over a file that exists."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.results import query

        self._check()
        catalogue = query.read(self.sources)
        if self._only_lists(catalogue):
            self._print(self._inventory(catalogue))
            return _warn(catalogue.missing())
        rows, missing = self._rows(catalogue)
        if self._statistics() or self.group:
            by = _split(self.group)
            rows = query.group(rows, self._statistics(), by=by, unit=self.unit, level=self.level)
        if self.columns:
            rows = query.pick(rows, _split(self.columns))
        elif not (self._statistics() or self.group):
            rows = self._shown(rows, catalogue)
        self._print(rows)
        return _warn(missing)

    def _rows(self, catalogue: Catalogue) -> tuple[pa.Table, list[str]]:
        """The rows asked for, joined and filtered, and what the sources lack."""
        from interp.results import query

        rows, missing = catalogue.select(self._table(catalogue)), catalogue.missing()
        if self.join:
            other = query.read(self.join)
            table = self.join_table or (self.table if self.table in other.tables else None)
            rows = query.join(rows, other.select(table), on=_split(self.on))
            missing += other.missing()
        kept = rows if self.where is None else query.keep(rows, self.where)
        if rows.num_rows and not kept.num_rows:
            sys.stderr.write(f"interp: none of the {rows.num_rows} rows meets the condition.\n")
        return kept, missing

    def _check(self) -> None:
        """Refuse flags that would do nothing alone."""
        from interp.errors import InputError

        if not self.sources:
            raise InputError("No source is named: give the folder of a run, a sweep or a store.")
        if bool(self.join) != bool(self.on):
            raise InputError("--join and --on belong together: --join OTHER --on model,id.")
        if self.join_table and not self.join:
            raise InputError("--join-table names a table of --join OTHER, which is not given.")
        if (self.unit or self.level != 0.95) and not (self._statistics() or self.group):
            raise InputError("--unit and --level are for groups: add --mean COLUMN.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit is {self.limit}: it is a number of rows, from 1 up.")
        if self.format == "parquet" and not self.to:
            raise InputError("Parquet is not text, so --format parquet needs --to FILE.")

    def _statistics(self) -> dict[str, list[str]]:
        asked = {
            "mean": self.mean,
            "median": self.median,
            "max": self.largest,
            "min": self.smallest,
            "count": self.count,
        }
        return {kind: _split(names) for kind, names in asked.items() if names}

    def _only_lists(self, catalogue: Catalogue) -> bool:
        asked = (self.where, self.join, self.group, self._statistics(), self.columns)
        return self.inventory or not (self._table(catalogue) or any(asked))

    def _inventory(self, catalogue: Catalogue) -> pa.Table:
        """What there is; to look at, the columns of a table stand under it, in full."""
        from interp.results import query

        there = catalogue.inventory()
        if self.format != "table":
            return there
        pairs = zip(there["table"].to_pylist(), there["columns"].to_pylist(), strict=True)
        words = [
            f"Columns of {name}: {columns or 'none'}." for name, columns in dict.fromkeys(pairs)
        ]
        return query.noted(there.drop_columns(["columns"]), words)

    def _table(self, catalogue: Catalogue) -> str | None:
        """The table asked for; by default the steps of a single run."""
        if self.table is None and catalogue.single and "steps" in catalogue.tables:
            return "steps"
        return self.table

    def _shown(self, rows: pa.Table, catalogue: Catalogue) -> pa.Table:
        """Of one run the table's own columns, else all; to look at, what tells rows apart."""
        from interp.results import query

        known = query.identity(rows)
        own = [name for name in rows.column_names if name not in known]
        if self.format == "table" and not self.join:
            chosen = DEFAULT_COLUMNS.get(self._table(catalogue) or "", ())
            own = [name for name in chosen if name in own] or own
            return rows.select([*query.telling(rows), *own])
        return rows.select(own) if catalogue.single and not self.join else rows

    def _limited(self, rows: pa.Table) -> pa.Table:
        """The rows to print; a note says how many are left out, and how to get them."""
        from interp.results import query

        n, most = rows.num_rows, self.limit
        if most is None:
            most = MOST_ROWS if self.format == "table" else n
        if n <= most:
            return rows
        cure = "leave out --limit"
        if self.format == "table":
            cure = f"use --limit {n}, or --format jsonl, csv or parquet"
            cure += " without --limit" if self.limit else ""
        words = [f"{n - most:,} of the {n:,} rows are left out; for all, {cure}."]
        return query.noted(rows.slice(0, most), words)

    def _print(self, rows: pa.Table) -> None:
        """Write to the file, or print; notes stand under a table, else on stderr."""
        from interp.results import query

        rows = self._limited(rows)
        if self.format == "parquet":
            text = ""
        else:
            text = query.to_text(rows, self.format)
            text += "\n" if text and not text.endswith("\n") else ""
        if self.to:
            data = query.to_parquet(rows) if self.format == "parquet" else text.encode()
            query.write_file(self.to, data, force=self.force)
            text = f"{rows.num_rows} rows: {self.to}\n"
        sys.stdout.write(text)
        if self.format != "latex" or self.to:
            under = sys.stdout if self.format == "table" else sys.stderr
            under.write("".join(f"{note}\n" for note in query.notes(rows)))


def _split(names: Iterable[str]) -> list[str]:
    """Names that stand alone or joined by commas.

    >>> _split(("model,preset", "seed"))
    ['model', 'preset', 'seed']
    """
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def _warn(missing: Iterable[str]) -> int:
    """Say on stderr that cells are gone; the exit status that goes with it."""
    sentences = [f"interp: {each}\n" for each in missing]
    sys.stderr.write("".join(sentences))
    return 3 if sentences else 0


def _warn_of_missing(store: Any) -> int:
    """The same for a run."""
    from interp.jobs.runs import missing

    gone = missing(store)
    if not gone:
        return 0
    from interp.results.sources import cells_missing

    return _warn([cells_missing(gone)])


MOST_ROWS = 1000
"""Rows that the format table prints where no limit is given."""

DEFAULT_COLUMNS = {
    "steps": ("id", "step", "seed", "op", "nec", "suf", "tts", "null_tts", "random_tts", "text"),
    "chains": ("id", "status", "answer", "gold", "correct", "n_steps", "n_tokens", "reason"),
    "patch": ("place", "token", "direction", "effect", "recovered", "change", "null", "pairs"),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the report of a run or of sweeps again, from records alone: pages that work offline."""

    place: Reported
    """The folder of a run, a sweep store, or one sweep of it (STORE/sweeps/NAME)."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.sweeps.page import is_sweep

        if is_sweep(self.place):
            return self._sweeps(console)
        from interp.results import Store

        store = Store.open(self.place)
        from interp.jobs.runs import write_report  # loads torch

        path = write_report(store)
        console.print(f"Report: {path}", soft_wrap=True, markup=False)
        return _warn_of_missing(store)

    def _sweeps(self, console: Console) -> int:
        from interp.sweeps.page import write_report

        written = write_report(self.place)
        console.print(f"Report: {written.address}", soft_wrap=True, markup=False)
        return _warn(written.unread.values())
