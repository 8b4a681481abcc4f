"""What the lists of wrong calls share: how a call is made, and how it must end.

A wrong call must end in an `InterpError` (on the command line in exit status 2 without a
traceback) before a prompt is run and with nothing written.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.engine.identities import probe_ids
from interp.errors import InterpError


@dataclass(frozen=True)
class Found:
    """How one wrong call ended."""

    part: str
    """The primitive that was called."""
    call: str
    """The mistake, as it was written."""
    error: str
    """The class of the error; `usage` for what the argument parser refuses; empty for none."""
    sentence: str
    forwards: int
    """Forward passes over a prompt before it was refused, beyond those that it takes to know."""
    status: int | None = None
    """Exit status of a command; None for a call from Python."""
    wrote: tuple[str, ...] = ()
    """Files that a refused command left behind."""

    @property
    def holds(self) -> bool:
        """Whether it was refused as it should be."""
        refused = bool(self.error) and self.status in (None, 2)
        return refused and bool(self.sentence) and not self.forwards and not self.wrote


@contextlib.contextmanager
def counted() -> Iterator[list[tuple[int, ...]]]:
    """Inside the block, notes the shape of the token ids of each forward pass over a prompt.

    Every pass embeds its tokens, a partial one too; tiny-llama embeds nothing else.
    """
    seen: list[tuple[int, ...]] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            probe = probe_ids(module.num_embeddings)
            if not set(args[0].flatten().tolist()) <= set(probe):
                seen.append(tuple(args[0].shape))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass(frozen=True)
class Wrong:
    """One wrong call from Python."""

    part: str
    call: str
    """As a user writes it."""
    make: Callable[[Any], object]
    """Is given what `called` is given."""
    needs: int = 0
    """Forward passes without which nobody can know that it is wrong."""


def wrongs(part: str, calls: Mapping[str, Callable[[], object]]) -> list[Wrong]:
    """Wrong calls of one part that take nothing, by what a user writes."""
    return [Wrong(part, call, lambda _, make=make: make()) for call, make in calls.items()]


def called(wrong: Wrong, given: Any = None) -> Found:
    """Make one wrong call, which may take something, and note how it ended."""
    with counted() as forwards:
        try:
            wrong.make(given)
            kind, sentence = "", "accepted"
        except InterpError as error:
            kind, sentence = type(error).__name__, str(error)
        except Exception as error:
            kind, sentence = "", f"{type(error).__name__}: {error}"
    return Found(wrong.part, wrong.call, kind, sentence, max(0, len(forwards) - wrong.needs))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str
    wrote: tuple[str, ...]
    forwards: int


def watched(argv: list[str]) -> Ended:
    """Run a command in this process and note what it writes in the working folder."""
    with counted() as forwards:
        before = files()
        status, out, err = ran(argv)
        after = files()
    wrote = tuple(sorted(name for name in after if after[name] != before.get(name)))
    return Ended(status, out, err, wrote, len(forwards))


def ran(argv: list[str]) -> tuple[int, str, str]:
    """Run the command line as its module is run; exit status and what it printed."""
    out, err, kept = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = argv
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module("interp.cli", run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = kept
    return status, out.getvalue(), err.getvalue()


def files() -> dict[str, bytes]:
    """What lies in the working folder."""
    paths = (path for path in Path().rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths}


def judged(command: str, words: str, end: Ended) -> Found:
    """Note how a command ended that was given one wrong argument."""
    kind, sentence = "", (end.err or end.out).strip()[-300:]
    if end.status == 2 and end.err.startswith("interp: ") and end.err.count("\n") == 1:
        kind, sentence = "InterpError", end.err.removeprefix("interp: ").strip()
    elif end.status == 2 and "Traceback" not in end.err + end.out:
        kind, sentence = "usage", usage(end.err or end.out)
    return Found(f"interp {command}", words, kind, sentence, end.forwards, end.status, end.wrote)


def usage(text: str) -> str:
    r"""What the argument parser says is wrong, without its frame and its help.

    >>> usage("╭─ Error ─╮\n│ ──── │\n│ Unrecognized options: --outt │\n│ ──── │\n│ more │")
    'Unrecognized options: --outt'
    """
    plain = re.sub(r"[│╭╮╰╯]", " ", text.partition("\n")[2])
    parts = re.split(r"[-─]{3,}", plain)
    return next((" ".join(part.split()) for part in parts if part.strip()), "")


def undone(folder: Path, argv: list[str]) -> Ended:
    """Run a command in this process, in a folder that many share; what it wrote is undone."""
    with contextlib.chdir(folder):
        before = files()
        end = watched(argv)
        for name in end.wrote:
            Path(name).unlink()
        for name in before.keys() - files().keys():
            Path(name).write_bytes(before[name])
    return end


def table(found: Sequence[Found]) -> Table:
    """Lay the rows out: the mistake, and what it is answered with."""
    drawn = Table("called with", "error", "sentence", "refused", show_lines=True)
    for row in found:
        refused = "yes" if row.holds else f"NO: {row.forwards} forwards, wrote {len(row.wrote)}"
        cells = (f"{row.part}: {row.call}", row.error or "none", row.sentence, refused)
        drawn.add_row(*(escape(cell) for cell in cells))
    return drawn


def tell(
    rows: Callable[[], Sequence[Any]],
    argv: Sequence[str] | None,
    *,
    module: str,
    told: str,
    lay: Callable[[Any], Table] = table,
) -> None:
    """Print the table of `rows()`, or with `--json` a line a row; exit 1 where one does not hold.

    `module` is the name of the list in this folder; `told` ends the sentence "5 of 7 ..."; `lay`
    lays the rows out.
    """
    words = sys.argv[1:] if argv is None else argv
    if list(words) not in ([], ["--json"]):
        raise SystemExit(f"usage: python -m experiments.{module} [--json]")
    found = rows()
    if words:
        print(*(json.dumps(asdict(row)) for row in found), sep="\n")
    else:
        Console(width=160).print(lay(found))
        print(f"{sum(row.holds for row in found)} of {len(found)} {told}")
    raise SystemExit(0 if all(row.holds for row in found) else 1)
