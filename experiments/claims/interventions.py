"""Claims about sweeps, path patching, attribution and steering: the numbers are the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import interp
from experiments import gqa, path_exact, planted_circuit, steering_equalities
from experiments.claims.core import TINY, Claim, Measured, gap
from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention
from interp.bases import random_basis
from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    Swap,
    ZeroAblate,
)
from interp.engine.model import Model
from interp.engine.sweep import sweep
from interp.metrics import LogitDiff
from interp.patching.attribution import attribute
from interp.patching.edges import eap
from interp.sites import Each

TEXTS = ["When Mary and John went to the store, John gave a drink to", "Hello, all of you"]
OTHERS = ["When Mary and Dan went to the park, Mary gave a book to you", "Three cats are asleep"]
DIFF = LogitDiff(5, 6)
SMOOTH = tuple(name for name in TINY if name != "tiny-mixtral")
"""A mixture of experts jumps where a token changes its expert, and no gradient sees a jump."""


# ---------------------------------------------------------------- sweeps


def every_edit(model: Model, layer: int) -> list[Edit]:
    """One edit of every kind in one layer, at one token, at several, at the last and at all."""
    pattern, post, z = (f"{layer}.{part}" for part in ("attn.pattern", "resid_post", "attn.z"))
    held = model.run(OTHERS, capture=[pattern, post, z])
    resid, heads = held.acts[post], held.acts[z]
    spread = torch.linspace(-1, 1, model.sizes.d_model)
    basis = random_basis(3, model.sizes.d_model, 0)
    return [
        Patch(post, source=resid, positions=2),
        Patch(z, source=heads, positions=Each(((1, 4), (3,))), heads=1),
        ZeroAblate(f"{layer}.mlp_out", positions="last"),
        MeanAblate(z, mean=heads.flatten(0, 1).nanmean(0), heads=(0, 2), positions=(0, 3)),
        ResampleAblate(post, source=resid[:1], donors=(0, 0), positions=(1, 2)),
        Add(post, vector=spread, coefficient=2.0),
        Project(post, directions=torch.stack([spread, spread.abs()]), positions=(1, 3)),
        Scale(f"{layer}.attn.v", factor=0.5, heads=1, positions=0),
        Clamp(post, direction=spread, value=3.0, positions=2),
        Clamp(f"{layer}.mlp_out", units=(0, 5), low=-0.1, high=0.1),
        Swap(post, source=resid, basis=basis, block=(0, 2), positions="last"),
        *pattern_edits(pattern, held.acts[pattern]),
    ]


def pattern_edits(site: str, source: torch.Tensor) -> list[Edit]:
    """The edits of attention patterns."""
    kinds = ("uniform", "reversed", "shuffled", "random")
    return [
        Knockout(site, positions="last", keys=(0, 1)),
        ScaleAttention(site, heads=1, positions=(2, 3), keys=1, factor=3.0),
        ReplacePattern(site, source=source, heads=(0, 3), positions=(1, 2)),
        *(ReplacePattern(site, kind=kind, positions=3) for kind in kinds),
    ]


def sweep_exact() -> Measured:
    """Reuse beside one plain forward pass a cell, for every kind of edit."""
    rows, kinds = [], set()
    for name in (*TINY, "smollm2-135m"):
        model = interp.load(name)
        n, tiny = model.sizes.n_layers, name in TINY
        layers = range(n) if tiny else (n // 2,)
        cells = [edit for layer in layers for edit in fitting(model, layer)]
        kinds |= {type(edit).__name__ for edit in cells}
        fast = sweep(model, equal_tokens(model), cells, DIFF, say=None)
        slow = sweep(model, equal_tokens(model), cells, DIFF, say=None, exact=True)
        error = float(((fast.values - slow.values) / slow.values.abs().clamp(min=1)).abs().max())
        effect = float(slow.effect.abs().amax(1).median())
        rows.append({"model": name, "cells": len(cells), "difference": error, "effect": effect})
        rows[-1] |= {"share of arithmetic": round(fast.plan.share, 3)}
    worst, real = max(row["difference"] for row in rows[:-1]), rows[-1]["difference"]
    text = (
        f"tiny models {worst:.2g}, SmolLM2 {real:.2g} (logit difference, relative above 1); "
        f"{len(kinds)} kinds of edits, {sum(row['cells'] for row in rows)} cells"
    )
    return Measured(text, worst <= 1e-5 and real <= 1e-4, tuple(rows))
