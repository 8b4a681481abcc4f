"""The whole study of latent reasoning on one subject: answers, necessity, influence, commitment.

    python -m experiments.latent_study --subject coconut            # minutes on one core
    python -m experiments.latent_study --subject codi-gpt2 --size paper --model FOLDER \
        --data gsm8k_test.jsonl --device cuda

**Subjects.** The small models that `experiments.train_latent` trained on cycle-hop, each with its
controls: `coconut` beside `pause`, `no-recurrence`, `no-latents`, `no-curriculum` and `explicit`
(the same steps in text); `codi` beside `codi-no-latents`. `soft` is SmolLM2 thinking softly on
generated arithmetic. Published checkpoints are subjects by the name of their recipe, with --model
and --data.

**Records.** Everything lies in OUT/SUBJECT: the run of `interp latent rollout`, and inside it
`necessity`, `influence`, `influence-released-code` (a diagnostic) and `commitment`. A second start
goes on where the first stopped. What a subject cannot have (one without latent steps has nothing to
intervene on) is left out, and the sentence that says why stands in the run's notes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.parts import shown
from experiments.study import Study, condense, make_part, table
from experiments.train_latent import RECORDS as TRAINED
from interp.errors import InputError, InterpError, nearest
from interp.jobs import latent_parts, latent_rollout, runs
from interp.jobs.latent_parts import (
    CommitmentSettings,
    InfluenceSettings,
    NecessitySettings,
    Where,
)
from interp.jobs.latent_runs import Loading, Problems
from interp.jobs.tts import set_threads
from interp.latent.operators import PAPER
from interp.results import Store

Size = Literal["smoke", "paper"]
RECORDS = TRAINED.parent
CYCLE = ("coconut", "explicit", "pause", "no-recurrence", "no-latents", "no-curriculum")
TOLD = ("codi", "codi-no-latents")
"""Trained on problems that name their number of hops."""
CONTROLS = ("pause", "no-recurrence", "no-latents", "no-curriculum", "codi-no-latents")
"""What they commit to is no question: they do not solve the task."""
PUBLISHED = ("coconut-gsm8k", "coconut-prosqa", "coconut-prontoqa", "codi-gpt2", "codi-llama")
SUBJECTS = (*CYCLE, *TOLD, "soft", *PUBLISHED)
CLASSES = 8
"""Nodes of cycle-hop, each of which can be an answer."""
OURS = ("zero", "mean_step", "resample", "rotate")
SIGMA = 0.6
"""Noise at which most answers of cycle-hop compete; see `interp.latent.commitment.noise_levels`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One subject at one size."""

    subject: str = "coconut"
    """A small trained one, soft, or a published recipe such as codi-gpt2."""
    size: Size = "smoke"
    """smoke: minutes on one core. paper: all problems, more draws; for a GPU."""
    model: str | None = None
    """Folder of the weights; the small ones have their own."""
    data: str | None = None
    """JSONL of problems; the small subjects generate theirs."""
    n: int | None = None
    """How many problems; by default what the size asks for."""
    seed: int = 1
    """Which problems are generated."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int = 1
    """Threads for arithmetic on the CPU."""
    out: Path = Path("runs") / "latent_study"
    """Folder in which the subject gets one."""
    records: Path | None = None
    """Folder for a small copy of the finished records, in a folder of the subject."""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise InputError(
                f"There is no subject {self.subject!r}; there are: {', '.join(SUBJECTS)}."
                f"{nearest(self.subject, SUBJECTS)}"
            )
        if self.subject in PUBLISHED and (self.model is None or self.data is None):
            raise InputError(
                f"{self.subject} has no weights and problems of its own: name a folder with "
                "--model and a JSONL file with --data."
            )
        if self.n is not None and self.n < 1:
            raise InputError(f"--n {self.n}: give at least 1.")

    @property
    def folder(self) -> Path:
        """Where the subject's records are."""
        return self.out / self.subject

    @property
    def loading(self) -> Loading:
        """How its model is found."""
        if self.subject == "soft":
            model = self.model or "smollm2-135m"
            return Loading(model=model, kind="soft-thinking", steps=4, device=self.device)
        own = TRAINED / self.subject.replace("-", "_")
        return Loading(model=self.model or shown(own), device=self.device)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a size asks of a subject."""

    problems: Problems
    necessity: NecessitySettings = field(default_factory=NecessitySettings)
    influence: InfluenceSettings = field(default_factory=InfluenceSettings)
    released: InfluenceSettings | None = None
    commitment: CommitmentSettings | None = None
    rows: int = 512


def plan(config: Config) -> Plan:
    """Return what a size asks of a subject."""
    if config.subject == "soft":
        return _soft(config)
    small = config.subject in (*CYCLE, *TOLD)
    paper = config.size == "paper"
    data = config.data or ("cycle-hop-told" if config.subject in TOLD else "cycle-hop")
    n = config.n or (1319 if paper else 200)
    operators = (*OURS, *(name for name in PAPER if name not in OURS))
    return Plan(
        problems=Problems(data=data, n=n, calibration=200 if paper else 100, seed=config.seed),
        necessity=NecessitySettings(
            operators=(*operators, "swap"), classes=CLASSES if small else None
        ),
        influence=InfluenceSettings(
            operators=(*operators, "shuffled_donor"), seeds=3 if paper else 1
        ),
        released=InfluenceSettings(operators=("zero", "resample"), preset="released-code"),
        commitment=_noise(config) if config.subject not in CONTROLS else None,
        rows=512 if small else 64,
    )


def _noise(config: Config) -> CommitmentSettings:
    small = config.subject in (*CYCLE, *TOLD)
    samples = 40 if config.size == "paper" else 20
    return CommitmentSettings(samples=samples, sigma=SIGMA if small else 0.1)


def _soft(config: Config) -> Plan:
    """SmolLM2 is slow and weak: few problems, few steps, no commitment."""
    n = config.n or (200 if config.size == "paper" else 16)
    return Plan(
        problems=Problems(data=config.data or "arithmetic", n=n, calibration=12, seed=config.seed),
        necessity=NecessitySettings(operators=("zero", "resample"), draws=1),
        influence=InfluenceSettings(operators=("zero", "resample")),
        rows=64,
    )


def run(config: Config, console: Console) -> Study:
    """Run every part that is not finished yet, and note what became of each.

    Raises:
        InputError: there is no file of problems.
        ModelError: the model cannot be had.
        StoreError: the folder belongs to other settings.
    """
    set_threads(config.threads)
    asked, quiet = plan(config), Console(quiet=True)
    found = []
    for name, job in _jobs(config, asked, quiet).items():
        console.print(f"{config.subject}: {name}")
        found.append(make_part(config.folder, name, job, first="rollout"))
    runs.write_report(Store.open(config.folder))
    if config.records is not None:
        condense(config.folder, config.records / config.subject)
    return Study(config.folder, tuple(found))


def _jobs(config: Config, asked: Plan, console: Console) -> dict[str, Callable[[], Any]]:
    """The parts, by the folder that each lies in; the first makes the run itself."""
    where = Where(run=config.folder, device=config.device, rows=asked.rows)
    made: dict[str, Callable[[], Any]] = {
        "rollout": lambda: _said(
            latent_rollout.rollout(
                config.loading, asked.problems, out=config.folder, console=console
            )
        ),
        "necessity": lambda: _said(latent_parts.find_necessity(where, asked.necessity, console)),
        "influence": lambda: _said(latent_parts.find_influence(where, asked.influence, console)),
    }
    released, commitment = asked.released, asked.commitment
    if released is not None:
        made["influence-released-code"] = lambda: _said(
            latent_parts.find_influence(where, released, console)
        )
    if commitment is not None:
        made["commitment"] = lambda: _said(latent_parts.find_commitment(where, commitment, console))
    return made


def _said(done: Any) -> tuple[str, ...]:
    return (f"{done.marked} marked.",) if done.marked else ()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of one subject; exit 2 on bad input."""
    console = Console()
    try:
        study = run(tyro.cli(Config, args=argv, description=__doc__), console)
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    console.print(table(study))


if __name__ == "__main__":
    main()
