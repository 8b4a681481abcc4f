"""Training of latent reasoners and their controls: one recipe, one loop, one way for every kind.

recipe = preset("cycle-coconut")
trained = train(recipe, Cycles())
save_subject(trained.subject, "runs/coconut")
"""

from __future__ import annotations

from interp.latent.training.loop import Progress, Trained, train
from interp.latent.training.presets import PRESETS, preset
from interp.latent.training.recipe import Recipe
from interp.latent.training.source import Cycles, Listed, Source

__all__ = [
    "PRESETS",
    "Cycles",
    "Listed",
    "Progress",
    "Recipe",
    "Source",
    "Trained",
    "preset",
    "train",
]
