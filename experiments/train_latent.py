r"""Train the small latent reasoners and their controls on cycle-hop; write each with a manifest.

    python -m experiments.train_latent --preset cycle-coconut

writes `experiments/records/latent/coconut`: weights, configuration, tokenizer, `latent.json`, and a
manifest with the recipe, the seed, the time and the accuracy on problems that training never drew.
`interp.latent.saved.load_subject` reads the folder. The recipes and what they train are in
`interp.latent.training`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console

import interp.latent
from experiments import training
from interp.data.cycle_hop import CycleHop
from interp.errors import InputError
from interp.latent.accuracy import accuracy
from interp.latent.hf import HFSubject
from interp.latent.saved import ABOUT, save_subject
from interp.latent.training.loop import Progress, Trained, train
from interp.latent.training.presets import preset
from interp.latent.training.recipe import Recipe
from interp.latent.training.source import TRAINING, Cycles
from interp.results import manifest

RECORDS = training.RECORDS / "latent"
FILES = (*training.FILES, "tokenizer.json", "tokenizer_config.json", ABOUT)
SCORED = TRAINING // 2
"""Seed of the problems that are scored; those of training begin at `TRAINING`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One recipe of cycle-hop, trained, scored and written."""

    preset: str = "cycle-coconut"
    """Name of a recipe that begins with `cycle-`."""
    seed: int = 0
    """Of the weights and the problems."""
    updates: int | None = None
    """Most updates; the recipe's own by default."""
    stage_updates: int | None = None
    """Most updates of a stage; the recipe's own by default."""
    held_out: int = 1000
    """Problems of each number of hops on which the subject is scored."""
    tried: int = 1
    """Seeds that were trained before this one was kept, itself included: noted."""
    out: Path = RECORDS
    """Folder in which to write the subject's own."""

    def __post_init__(self) -> None:
        if not self.preset.startswith("cycle-"):
            raise InputError(
                f"--preset {self.preset} is not about cycle-hop: take one that begins with "
                "'cycle-', or train others with `interp latent train`."
            )
        preset(self.preset)
        if min(self.held_out, self.tried) < 1:
            raise InputError(
                f"--held-out {self.held_out} and --tried {self.tried}: give 1 or more each."
            )

    @property
    def recipe(self) -> Recipe:
        """The recipe with what the command line changes."""
        own = preset(self.preset)
        given = {"seed": self.seed, "updates": self.updates, "stage_updates": self.stage_updates}
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    @property
    def folder(self) -> Path:
        """`coconut`, `codi_no_latents`, ..."""
        return self.out / self.preset.removeprefix("cycle-").replace("-", "_")


def source_of(recipe: Recipe) -> Cycles:
    """The problems of a recipe: CODI's name their number of hops, of which there are several."""
    if recipe.levels:
        hops = tuple(range(1, recipe.levels + 1))
        return Cycles(CycleHop(hops=recipe.levels, tells_hops=True), recipe.seed, hops)
    return Cycles(CycleHop(hops=recipe.n_stages), recipe.seed)


def report(subject: HFSubject, source: Cycles, n: int) -> list[dict[str, object]]:
    """Score a subject on n problems of each number of hops, with Wilson intervals."""
    return [
        {"hops": hops, **accuracy(subject, source.task.draw(n, SCORED, hops)).summary()[0]}
        for hops in source.levels or (source.task.hops,)
    ]


def code_hash() -> str:
    """Hash of what trains: read before a run, since files may change while it goes on."""
    package = Path(interp.latent.__file__).parent / "training"
    return manifest.source_hash([__file__, *map(str, sorted(package.glob("*.py")))])


def save(
    trained: Trained,
    config: Config,
    scores: list[dict[str, object]],
    *,
    source: Cycles,
    code: str,
    flags: Sequence[str] = (),
) -> None:
    """Write the subject, and the manifest last."""
    runs = [asdict(run) for run in trained.runs]
    save_subject(trained.subject, config.folder, {"preset": config.preset, "seed": config.seed})
    made = manifest.collect(
        experiment="train_latent",
        settings=asdict(trained.recipe),
        model={f"sha256 {name}": manifest.file_hash(config.folder / name) for name in FILES},
        data={
            "training": f"{source}: seeds from {TRAINING * (source.seed + 1)} on",
            "scored": f"{source.task}: seed {SCORED}, {config.held_out} of each number of hops",
        },
        seeds=[config.seed],
        device="cpu",
        code=code,
        command=["python", "-m", "experiments.train_latent", *flags],
    )
    made.spent.update(seconds=round(trained.seconds, 1), steps=trained.updates)
    made.notes.update(accuracy=scores, phases=runs, seeds_tried=config.tried)
    manifest.write_manifest(config.folder / "manifest.json", made)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    flags = list(sys.argv[1:] if argv is None else argv)
    config = tyro.cli(Config, args=flags, description=__doc__)
    torch.set_num_threads(1)
    console, recipe = Console(), config.recipe
    source, code = source_of(recipe), code_hash()

    def show(progress: Progress) -> None:
        if progress.update % 100 == 0:
            console.print(
                f"{config.preset} {progress.phase} update {progress.update:5d}  "
                f"loss {progress.loss:.4f} nats"
            )

    trained = train(recipe, source, show)
    scores = report(trained.subject, source, config.held_out)
    save(trained, config, scores, source=source, code=code, flags=flags)
    for row in scores:
        console.print(f"{row['hops']} hops: {row['accuracy']:.3f}")
    console.print(f"{trained.seconds:.0f} s of one core: {config.folder}")


if __name__ == "__main__":
    main()
