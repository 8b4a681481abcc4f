"""Named recipes: the published ones of Coconut and CODI, and the tiny ones of cycle-hop.

Published: Coconut, arXiv:2412.06769, table 1 and its repository's configurations; CODI,
arXiv:2502.21074, appendix. Their runs of CODI train low-rank updates of the weights; here all
weights train, so the learning rate of those presets is that of full training, not theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from interp.errors import InputError, nearest
from interp.latent.layout import Layout
from interp.latent.presets import BOT, COCONUT, CODI, END, EOT, LATENT, PAD, START
from interp.latent.training.recipe import Recipe

CYCLE = Layout(
    prompt="{question}<start>", close="<end>", step="{step}", target="{answer}", mark="", eos=True
)
CYCLE_CODI = replace(CYCLE, close="=")
"""CODI compares states at the token before the answer, which student and teacher both need: it is
the end marker here, so that nothing else stands between the last vector and the answer."""

COCONUT_TINY = Recipe(kind="coconut", layout=CYCLE)
CODI_TINY = Recipe(
    kind="codi",
    objective="distil",
    layout=CYCLE_CODI,
    teacher_prompt=CYCLE_CODI.prompt,
    n_latents=3,
    levels=4,
    warm_up_loss=0.1,
    stage_loss=0.1,
    final_loss=0.005,
    mix=0.4,
    fresh_optimizer=False,
    updates=8000,
    stage_updates=0,
)
"""A vector for each hop but the last, which is taken at the marker: with one to spare a model
leaves some slot out, which one differs from seed to seed, and its vectors run late from there on.
The teacher reads the start marker too, so a first vector begins as the teacher's first step."""

_TINY = {
    "cycle-coconut": COCONUT_TINY,
    "cycle-explicit": replace(COCONUT_TINY, kind="explicit", final_loss=0.0),
    "cycle-pause": replace(COCONUT_TINY, kind="pause"),
    "cycle-no-recurrence": replace(COCONUT_TINY, kind="no_recurrence"),
    "cycle-no-latents": replace(COCONUT_TINY, kind="no_latents"),
    "cycle-no-curriculum": replace(COCONUT_TINY, no_curriculum=True),
    "cycle-codi": CODI_TINY,
    "cycle-codi-no-latents": replace(CODI_TINY, kind="no_latents", stage_updates=1500),
}


def _epochs(n_problems: int, epochs: int, batch: int = 128) -> int:
    """Updates in so many passes over a data set, the last batch of each included."""
    return -(-n_problems // batch) * epochs


def _coconut(n_problems: int, *, epochs: int, per_stage: int, **more: Any) -> Recipe:
    """Coconut on GPT-2: a stage takes its epochs, and the closing one, without text, the rest."""
    return Recipe(
        kind="coconut",
        base="gpt2",
        layout=COCONUT,
        markers=(START, END, LATENT),
        closing_stage=True,
        updates=_epochs(n_problems, epochs),
        stage_updates=_epochs(n_problems, per_stage),
        stage_loss=0.0,
        final_loss=0.0,
        mix=0.0,
        learning_rate=1e-4,
        **more,
    )


def _codi(base: str, n_problems: int, *, epochs: int, layout: Layout, **more: Any) -> Recipe:
    """CODI, all weights trained at a rate of ours: its own, 3e-3 and 8e-4, are of LoRA."""
    return Recipe(
        kind="codi",
        objective="distil",
        base=base,
        layout=layout,
        markers=(PAD, BOT, EOT),
        updates=_epochs(n_problems, epochs),
        stage_updates=0,
        final_loss=0.0,
        mix=0.0,
        learning_rate=1e-4,
        weight_decay=0.1,
        clip=2.0,
        warm_up=0.03,
        cosine=True,
        seed=11,
        **more,
    )


CODI_TEXT = replace(CODI, step="{step} ")
"""CODI's layout, the steps of its teacher parted by spaces."""
GSM8K_AUG, PRONTOQA, PROSQA = 385_620, 9_000, 17_886
"""Training problems of the published sets."""
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"

_PUBLISHED = {
    "coconut-gsm8k": _coconut(GSM8K_AUG, epochs=25, per_stage=3, n_stages=3, per_step=2),
    "coconut-prontoqa": _coconut(PRONTOQA, epochs=50, per_stage=5, n_stages=6),
    "coconut-prosqa": _coconut(PROSQA, epochs=50, per_stage=5, n_stages=6),
    "codi-gpt2": _codi("gpt2", GSM8K_AUG, epochs=40, layout=CODI_TEXT, d_inner=768),
    "codi-llama": _codi(
        LLAMA,
        GSM8K_AUG,
        epochs=10,
        layout=replace(CODI_TEXT, bos=True),
        d_inner=2048,
        distil_weight=20.0,
    ),
}

PRESETS: Mapping[str, Recipe] = MappingProxyType({**_TINY, **_PUBLISHED})
"""Recipes by name."""


def preset(name: str) -> Recipe:
    """Return a named recipe.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(
            f"There is no recipe {name!r}; there are {', '.join(PRESETS)}.{nearest(name, PRESETS)}"
        )
    return PRESETS[name]
