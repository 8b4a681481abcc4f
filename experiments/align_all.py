"""Every record and figure of the work on alignment, from nothing, with one command.

    python -m experiments.align_all                          # smoke, two cores
    python -m experiments.align_all --references orthogonal planted revnet untrained

runs `experiments.align_study` on each subject and algorithm, and `experiments.align_reference` on
each part that is asked for (hours at the standard budget), and `experiments.ioi_twins`, each in a
process of its own with one thread, two at a time. The runs lie in `--work`, where a second start
goes on; small copies of their records go to `--out`, and the figures are drawn from these. The
networks are taken as they are: `experiments.train_alignment_nets` and `experiments.train_ioi` make
them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from experiments.align_reference import PARTS as REFERENCES
from experiments.align_study import SUBJECTS, Size, run_name
from experiments.parts import (
    DRAWINGS,
    RECORDS,
    Done,
    execute,
    in_turn,
    require_folder,
    shown,
    tell,
)
from interp.errors import InputError, nearest

FIGURES = "figures"
REFERENCE = "align_reference"
STUDY = "align_study"
TWINS = "ioi_twins"
QUICK = tuple(name for name, subject in SUBJECTS.items() if not subject.is_large)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make all records and figures."""

    size: Size = "smoke"
    """The budget of a fit in the studies: smoke, standard or paper."""
    subjects: tuple[str, ...] = QUICK
    """Which subjects, by default all but ioi-smollm2; the first takes longest."""
    references: tuple[str, ...] = ()
    """Parts of the comparison with published accuracies; none by default."""
    reference_budget: Size = "standard"
    """The budget of their fits."""
    sentences: bool = True
    """Also fit maps to random twins on sentences (`experiments.ioi_twins`, twenty minutes)."""
    draw: bool = True
    """Also draw the figures."""
    workers: int = 2
    """Processes at a time, one thread each."""
    work: Path = Path("runs")
    """Folder of the runs, in `align_study` and `align_reference`, and of each part's log."""
    out: Path = RECORDS
    """Folder of the records, in folders of the same names."""
    figures: Path = DRAWINGS
    """Folder of the drawings."""

    def __post_init__(self) -> None:
        for flag, given, known in (
            ("--subjects", self.subjects, tuple(SUBJECTS)),
            ("--references", self.references, tuple(REFERENCES)),
        ):
            for name in given:
                if name not in known:
                    raise InputError(
                        f"{flag} {name}: there are {', '.join(known)}.{nearest(name, known)}"
                    )
            if len(set(given)) < len(given):
                raise InputError(f"{flag} {' '.join(given)}: name each once.")
        for flag in ("work", "out", "figures"):
            require_folder(f"--{flag}", getattr(self, flag))
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1.")


def parts(config: Config) -> dict[str, list[str]]:
    """Return the command of each part that the figures need, by its name."""
    made = {}
    for subject in config.subjects:
        for algorithm in SUBJECTS[subject].algorithms:
            asked = ["--subject", subject, "--algorithms", algorithm, "--size", config.size]
            command = [f"experiments.{STUDY}", *asked, *_folders(config, STUDY)]
            made[run_name(subject, algorithm)] = command
    for name in config.references:
        asked = ["--parts", name, "--budget", config.reference_budget]
        command = [f"experiments.{REFERENCE}", *asked, *_folders(config, REFERENCE)]
        made[f"reference-{name}"] = command
    if config.sentences:
        made[TWINS] = [f"experiments.{TWINS}", "--out", shown(config.out / TWINS)]
    return made


def _folders(config: Config, what: str) -> list[str]:
    return ["--out", shown(config.work / what), "--records", shown(config.out / what)]


def run(config: Config, console: Console) -> Iterator[Done]:
    """Run the parts, some at a time, then draw; yield each in order with its cost."""
    logs = config.work / STUDY
    yield from in_turn(parts(config), workers=config.workers, work=logs, console=console)
    if config.draw:
        drawing = ["figures", "--records", str(config.out), "--out", str(config.figures)]
        yield execute(FIGURES, drawing, logs)


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
