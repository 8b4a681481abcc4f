"""Kinds of arguments, and the arguments that several commands take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Column, Table

T = TypeVar("T")
Out = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Pairs = tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[PAIRS.jsonl]")]]


def settings_of(command: Any, kind: type[T]) -> T:
    """The settings of a job, from the arguments of the same names."""
    names = [each.name for each in fields(kind) if hasattr(command, each.name)]  # type: ignore[arg-type]
    return kind(**{name: getattr(command, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class OnModel:
    """The model that a command runs, and how."""

    model: str = "smollm2-135m"
    """A registry name, folder or Hugging Face id; see `interp models`."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; by default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""


@dataclass(frozen=True, kw_only=True)
class OnPairs(OnModel):
    """Prompt pairs, read or generated."""

    input: Pairs = None
    """One pair a line: {"clean", "corrupted", "correct", "wrong"}; the answers are single tokens,
    with their leading space. Without a file the pairs are generated indirect-object sentences."""
    pairs: int = 4
    """How many pairs are generated where no file is given."""
    seed: int = 0
    """What is generated and drawn."""


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Print columns of a table; a value with an interval has it in brackets."""
    table = Table(*(Column(name.replace("_", " "), overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*(_cell(row, name) for name in columns))
    console.print(table)


def _cell(row: Mapping[str, Any], name: str) -> str:
    """A value, and its interval where the row has one."""
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if name in ("rho", "mean") and low is None:
        low, high = row.get("low"), row.get("high")
    text = "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if value is None or low is None else f"{text} ({low:.2g} to {high:.2g})"


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
