"""Kinds of arguments, and the arguments that several commands take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

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
