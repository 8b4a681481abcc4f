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

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from experiments.parts import DRAWINGS, RECORDS, Done, execute, in_turn, shown, tell
from experiments.tts_study import GENERATED, Size
from interp.errors import InputError

SUBJECTS = ("words", "thinker", "thinker-ignores")
"""The longest first, so that it does not end alone."""
FAILED = "failed_steps"
FIGURES = "figures"


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
    figures: Path = DRAWINGS
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


def parts(config: Config) -> dict[str, list[str]]:
    """Return the command of each part that the figures need, by its name."""
    study = ["experiments.tts_study", "--size", config.size, "--out", shown(config.work)]
    copies = ["--records", shown(config.out / "tts_study")]
    found = {name: [*study, *copies, "--subject", name] for name in config.subjects}
    if config.failed_steps:
        scale = ["--scale", config.size, "--out", shown(config.out / FAILED)]
        found[FAILED] = [f"experiments.{FAILED}", *scale]
    return found


def drawing(config: Config) -> list[str]:
    """Return the command that draws the figures."""
    return ["figures", "--records", str(config.out), "--out", str(config.figures)]


def run(config: Config, console: Console) -> Iterator[Done]:
    """Run the parts, some at a time, then draw; yield each in order with its cost."""
    yield from in_turn(parts(config), workers=config.workers, work=config.work, console=console)
    if config.draw:
        yield execute(FIGURES, drawing(config), config.work)


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
    sys.exit(tell(done, time.monotonic() - begun, console))


if __name__ == "__main__":
    main()
