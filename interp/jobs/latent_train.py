"""`interp latent train`: a latent reasoner or a control, from a named recipe and problems."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.data.latent_rows import problems as sound_problems
from interp.data.latent_rows import read_latent
from interp.errors import InputError
from interp.jobs import runs
from interp.jobs.latent_runs import require_seed
from interp.latent.accuracy import accuracy
from interp.latent.hf import HFSubject
from interp.latent.saved import save_subject
from interp.latent.training.loop import Progress, train
from interp.latent.training.presets import preset
from interp.latent.training.recipe import Recipe
from interp.latent.training.source import TRAINING, Cycles, Listed, Source
from interp.results import manifest

SCORED = TRAINING // 2
"""Seed of the generated problems that are scored; those of training begin at `TRAINING`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training is asked for."""

    recipe: str
    out: Path
    data: Path | None = None
    seed: int = 0
    updates: int | None = None
    held_out: int = 200

    def __post_init__(self) -> None:
        for name in ("updates", "held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: give at least 1.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"--out {self.out} is there already: name a new folder.")
        require_seed(self.seed)

    def chosen(self) -> Recipe:
        """The recipe with what the command line changes.

        Raises:
            InputError: there is none of that name.
        """
        own = replace(preset(self.recipe), seed=self.seed)
        return own if self.updates is None else replace(own, updates=self.updates)


@dataclass(frozen=True)
class Outcome:
    """What a training ended with."""

    accuracy: tuple[dict[str, Any], ...]
    updates: int
    seconds: float
    """Of CPU time."""


def cycles(recipe: Recipe) -> Cycles:
    """The problems of a cycle-hop recipe; those of CODI name their number of hops."""
    if recipe.levels:
        hops = tuple(range(1, recipe.levels + 1))
        return Cycles(CycleHop(hops=recipe.levels, tells_hops=True), recipe.seed, hops)
    return Cycles(CycleHop(hops=recipe.n_stages), recipe.seed)


def source_of(settings: Settings, recipe: Recipe) -> tuple[Source, list[LatentProblem]]:
    """Where training problems come from, and others to score.

    Raises:
        InputError: the recipe needs a file, or the file holds too few problems.
    """
    if settings.data is None:
        if recipe.base:
            raise InputError(
                f"{settings.recipe} trains {recipe.base} on problems of yours: name a file with "
                "--data."
            )
        made = cycles(recipe)
        return made, list(made.task.draw(settings.held_out, SCORED))
    every = sound_problems(read_latent(settings.data))
    if len(every) <= settings.held_out:
        raise InputError(
            f"{settings.data} holds {len(every)} problems, and --held-out {settings.held_out} of "
            "them are for scoring: give more, or hold fewer out."
        )
    kept = every[-settings.held_out :]
    own = None if recipe.base else cycles(recipe).tokenizer
    return Listed(tuple(every[: -settings.held_out]), settings.seed, own), kept


def train_subject(settings: Settings, *, console: Console) -> Outcome:
    """Train, score on problems that training never drew, and write the folder."""
    recipe = settings.chosen()
    source, held_out = source_of(settings, recipe)
    with runs.progress(console) as bars:
        task = bars.add_task(settings.recipe, total=recipe.updates)

        def told(progress: Progress) -> None:
            words = f"{progress.phase}: loss {progress.loss:.3f}"
            bars.update(task, completed=progress.update, description=words)

        made = train(recipe, source, told)
    found = accuracy(made.subject, held_out).summary()
    save(made.subject, settings, recipe, found, made.seconds)
    return Outcome(tuple(found), made.updates, made.seconds)


def save(
    subject: HFSubject,
    settings: Settings,
    recipe: Recipe,
    found: list[dict[str, Any]],
    seconds: float,
) -> None:
    """Write the subject, and last a manifest that says how it was made."""
    save_subject(subject, settings.out, {"recipe": settings.recipe, "seed": settings.seed})
    data = settings.data
    made = manifest.collect(
        experiment="latent_train",
        settings=asdict(recipe),
        model={"sha256": manifest.file_hash(settings.out / "model.safetensors")},
        data={"path": str(data or "cycle-hop"), "sha256": data and manifest.file_hash(data)},
        seeds=[settings.seed],
        device="cpu",
        code=manifest.source_hash(runs.CODE),
    )
    made.spent.update(seconds=round(seconds, 1))
    made.notes.update(accuracy=found)
    manifest.write_manifest(settings.out / "manifest.json", made)
