"""Every record and figure of the work on latent reasoning, from nothing, with one command.

    python -m experiments.latent_all                 # smoke: under 20 minutes on two cores

runs `experiments.latent_study` on each small subject, each in a process of its own with one thread,
two at a time. The runs lie in `--work`, where a second start goes on; small copies of their records
go to `--out`, and the figures are drawn from these. The weights are taken as they are:
`experiments.train_latent` makes them, in about an hour of one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from experiments.latent_study import CYCLE, TOLD, Size
from experiments.parts import DRAWINGS, RECORDS, Done, execute, in_turn, shown, tell
from interp.errors import InputError

SUBJECTS = ("soft", "coconut", "codi", *CYCLE[1:], *TOLD[1:])
"""Those that need no file; the longest first."""
FIGURES = "figures"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make all records and figures."""

    size: Size = "smoke"
    """smoke or paper, for every subject."""
    subjects: tuple[str, ...] = SUBJECTS
    """Which subjects; published checkpoints have `experiments.latent_study`."""
    draw: bool = True
    """Also draw the figures."""
    workers: int = 2
    """Processes at a time, one thread each."""
    work: Path = Path("runs") / "latent_study"
    """Folder of the runs and of each part's log."""
    out: Path = RECORDS
    """Folder of the records: a subject's go to `latent_study/SUBJECT` in it."""
    figures: Path = DRAWINGS
    """Folder of the drawings."""

    def __post_init__(self) -> None:
        strange = [name for name in self.subjects if name not in SUBJECTS]
        if strange:
            raise InputError(
                f"--subjects {strange[0]}: here are the subjects without a file of problems, "
                f"{', '.join(SUBJECTS)}; for others run experiments.latent_study."
            )
        if len(set(self.subjects)) < len(self.subjects):
            raise InputError(f"--subjects {' '.join(self.subjects)}: name each subject once.")
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1.")


def parts(config: Config) -> dict[str, list[str]]:
    """Return the command of each part that the figures need, by its name."""
    study = ["experiments.latent_study", "--size", config.size, "--out", shown(config.work)]
    copies = ["--records", shown(config.out / "latent_study")]
    return {name: [*study, *copies, "--subject", name] for name in config.subjects}


def run(config: Config, console: Console) -> Iterator[Done]:
    """Run the parts, some at a time, then draw; yield each in order with its cost."""
    yield from in_turn(parts(config), workers=config.workers, work=config.work, console=console)
    if config.draw:
        drawing = ["figures", "--records", str(config.out), "--out", str(config.figures)]
        yield execute(FIGURES, drawing, config.work)


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
