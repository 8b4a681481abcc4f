"""Making the parts of a piece of work in processes, some at a time, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from interp.errors import InputError
from interp.results import manifest

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "experiments" / "records"
DRAWINGS = ROOT / "figures" / "out"
SHOWN_LINES = 12
"""Lines of a failed part's output that are shown; the rest is in its log."""


@dataclass(frozen=True)
class Done:
    """A part's exit status and cost."""

    name: str
    status: int
    seconds: float
    """On the clock."""
    cpu_seconds: float
    """Of all cores together."""
    log: Path


def shown(path: Path) -> str:
    """Return a path from the working folder where it lies there: manifests keep the command."""
    there = path.absolute()
    return str(there.relative_to(Path.cwd()) if there.is_relative_to(Path.cwd()) else path)


def require_folder(flag: str, path: Path, experiment: str | None = None) -> None:
    """Refuse a place for records before anything is computed for them.

    Args:
        flag: the option that names it, for the message.
        path: a folder, which need not exist yet.
        experiment: the only one whose records may be replaced there; None checks no records.

    Raises:
        InputError: a file stands there or above it, or records of another experiment.
    """
    above = next((each for each in (path, *path.parents) if each.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError(f"{flag} {path}: {above} is a file, and a folder is needed; name another.")
    if experiment is None or not (path / "manifest.json").is_file():
        return
    found = manifest.read_manifest(path / "manifest.json").experiment
    if found != experiment:
        raise InputError(
            f"{flag} {path} holds records of {found!r}, which would be lost: name another folder."
        )


def execute(name: str, command: Sequence[str], work: Path) -> Done:
    """Run a module with one thread, its output in a log, and measure it."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / f"{name}.log"
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=out, stderr=out, env=one_thread(os.environ)
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Done(name, process.returncode, time.monotonic() - begun, cpu, log)


def one_thread(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which arithmetic uses one thread, and this checkout is found.

    >>> one_thread({"OMP_NUM_THREADS": "8"})["OMP_NUM_THREADS"]
    '1'
    """
    root = str(ROOT)
    paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def in_turn(
    parts: Mapping[str, Sequence[str]], *, workers: int, work: Path, console: Console
) -> Iterator[Done]:
    """Run parts, `workers` at a time; yield each in order with its cost.

    Args:
        parts: module and arguments of each, by name.
        work: folder of the logs.
    """
    with ThreadPoolExecutor(workers) as pool:
        asked = [pool.submit(execute, name, command, work) for name, command in parts.items()]
        for each in asked:
            done = each.result()
            console.print(f"{done.name}: {done.seconds:.0f} s", highlight=False)
            yield done


def table(done: Sequence[Done], seconds: float) -> Table:
    """Lay out what each part cost."""
    laid = Table("part", "clock s", "CPU s", "", title="Cost")
    for each in done:
        ended = "done" if each.status == 0 else f"failed: {each.log}"
        laid.add_row(each.name, f"{each.seconds:.0f}", f"{each.cpu_seconds:.0f}", ended)
    total = sum(each.cpu_seconds for each in done)
    laid.add_row("all", f"{seconds:.0f}", f"{total:.0f}", "")
    return laid


def tell(done: Sequence[Done], seconds: float, console: Console) -> int:
    """Print what each part cost and the last lines of those that failed; 1 where one did."""
    console.print(table(done, seconds))
    failed = [each for each in done if each.status]
    for each in failed:
        tail = each.log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
        console.print(f"{each.name} failed:", *tail, sep="\n", markup=False, highlight=False)
    return 1 if failed else 0
