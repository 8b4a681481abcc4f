"""Every record and figure of the True-Thinking work, from nothing, with one command.

    python -m experiments.tts_all                 # smoke: under 20 minutes on two cores
    python -m experiments.tts_all --size paper    # a GPU and a day: see `experiments.tts_study`

runs `experiments.tts_study` on each subject that needs no file of problems, and
`experiments.failed_steps`, each in a process of its own with one thread, two at a time. The runs
lie in `--work`, where a second start goes on; small copies of their records go to `--out`, and the
figures are drawn from these. The weights of the trained thinkers are taken as they are:
`experiments.train_thinker` makes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from experiments.tts_study import GENERATED, RECORDS, Size
from interp.errors import InputError

SUBJECTS = ("words", "thinker", "thinker-ignores")
"""The longest first, so that it does not end alone."""
FAILED = "failed_steps"
FIGURES = "figures"
SHOWN_LINES = 12
"""Lines of a failed part's output that are shown; the rest is in its log."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make all records and figures."""

    size: Size = "smoke"
    """smoke or paper, for every subject."""
    subjects: tuple[str, ...] = SUBJECTS
    """Which subjects; those that need a file of problems have `experiments.tts_study`."""
    failed_steps: bool = True
    """Also run `experiments.failed_steps`."""
    draw: bool = True
    """Also draw the figures."""
    workers: int = 2
    """Processes at a time, one thread each."""
    work: Path = Path("runs") / "tts_study"
    """Folder of the runs and of each part's log."""
    out: Path = RECORDS
    """Folder of the records: a subject's go to `tts_study/SUBJECT` in it."""
    figures: Path = RECORDS.parents[1] / "figures" / "out"
    """Folder of the drawings."""

    def __post_init__(self) -> None:
        strange = [name for name in self.subjects if name not in GENERATED]
        if strange:
            raise InputError(
                f"--subjects {strange[0]}: here are the subjects without a file of problems, "
                f"{', '.join(GENERATED)}; for others run experiments.tts_study with --input."
            )
        if len(set(self.subjects)) < len(self.subjects):
            raise InputError(f"--subjects {' '.join(self.subjects)}: name each subject once.")
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1.")


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


def parts(config: Config) -> dict[str, list[str]]:
    """Return the command of each part that the figures need, by its name."""
    study = ["experiments.tts_study", "--size", config.size, "--out", shown(config.work)]
    copies = ["--records", shown(config.out / "tts_study")]
    found = {name: [*study, *copies, "--subject", name] for name in config.subjects}
    if config.failed_steps:
        scale = ["--scale", config.size, "--out", shown(config.out / FAILED)]
        found[FAILED] = [f"experiments.{FAILED}", *scale]
    return found


def shown(path: Path) -> str:
    """Return a path from the working folder where it lies there: manifests keep the command."""
    there = path.absolute()
    return str(there.relative_to(Path.cwd()) if there.is_relative_to(Path.cwd()) else path)


def drawing(config: Config) -> list[str]:
    """Return the command that draws the figures."""
    return ["figures", "--records", str(config.out), "--out", str(config.figures)]


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
    root = str(RECORDS.parents[1])
    paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def run(config: Config, console: Console) -> Iterator[Done]:
    """Run the parts, some at a time, then draw; yield each in order with its cost."""
    with ThreadPoolExecutor(config.workers) as pool:
        asked = [
            pool.submit(execute, name, command, config.work)
            for name, command in parts(config).items()
        ]
        for each in asked:
            done = each.result()
            console.print(f"{done.name}: {done.seconds:.0f} s", highlight=False)
            yield done
    if config.draw:
        yield execute(FIGURES, drawing(config), config.work)


def table(done: Sequence[Done], seconds: float) -> Table:
    """Lay out what each part cost."""
    laid = Table("part", "clock s", "CPU s", "", title="Cost")
    for each in done:
        ended = "done" if each.status == 0 else f"failed: {each.log}"
        laid.add_row(each.name, f"{each.seconds:.0f}", f"{each.cpu_seconds:.0f}", ended)
    total = sum(each.cpu_seconds for each in done)
    laid.add_row("all", f"{seconds:.0f}", f"{total:.0f}", "")
    return laid


def main(argv: Sequence[str] | None = None) -> None:
    """Make everything; exit 1 where a part failed, 2 on bad input."""
    console = Console()
    try:
        config = tyro.cli(Config, args=argv, description=__doc__)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    begun = time.monotonic()
    done = list(run(config, console))
    console.print(table(done, time.monotonic() - begun))
    failed = [each for each in done if each.status]
    for each in failed:
        tail = each.log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
        console.print(f"{each.name} failed:", *tail, sep="\n", markup=False, highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
