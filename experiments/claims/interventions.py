"""Claims about sweeps, path patching, attribution and steering: the numbers are the right ones."""

from __future__ import annotations

import torch

import interp
from experiments import gqa, path_exact, planted_circuit, steering_equalities
from experiments.claims.core import TINY, Claim, Measured
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

DIFF = LogitDiff(5, 6)
SMOOTH = tuple(name for name in TINY if name != "tiny-mixtral")
"""A mixture of experts jumps where a token changes its expert, and no gradient sees a jump."""


def drawn(seed: int, lengths: tuple[int, ...] = (11, 6)) -> list[list[int]]:
    """Token ids that every vocabulary has; the longer prompt overruns the sliding windows."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(9, 340, (n,), generator=draw).tolist() for n in lengths]


# ---------------------------------------------------------------- sweeps


def every_edit(model: Model, layer: int) -> list[Edit]:
    """One edit of every kind in one layer, at one token, at several, at the last and at all."""
    pattern, post, z = (f"{layer}.{part}" for part in ("attn.pattern", "resid_post", "attn.z"))
    held = model.run(drawn(1), capture=[pattern, post, z])
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
        Knockout(site, positions=3, keys=(0, 1)),
        ScaleAttention(site, heads=1, positions=(2, 3), keys=1, factor=3.0),
        ReplacePattern(site, source=source, heads=(0, 3), positions=(1, 2)),
        *(ReplacePattern(site, kind=kind, positions=3) for kind in kinds),
    ]


def sweep_exact() -> Measured:
    """Reuse beside one plain forward pass a cell, for every kind of edit."""
    rows, kinds = [], set()
    for name in (*TINY, "smollm2-135m"):
        model = interp.load(name)
        n = model.sizes.n_layers
        layers = range(n) if name in TINY else (n // 2,)
        cells = [edit for layer in layers for edit in every_edit(model, layer)]
        kinds |= {type(edit).__name__ for edit in cells}
        fast = sweep(model, drawn(0), cells, DIFF, say=None)
        slow = sweep(model, drawn(0), cells, DIFF, say=None, exact=True)
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


# ---------------------------------------------------------------- paths and circuits


def path_exact_now() -> Measured:
    """Path patching with reuse beside two plain runs an edge."""
    found = path_exact.rows(a_kind=1)
    worst = max(row.difference for row in found)
    shown = {"difference": max, "effect": max}
    table = []
    for name, through in dict.fromkeys((row.model, row.through) for row in found):
        here = [row for row in found if (row.model, row.through) == (name, through)]
        values = {key: of(getattr(row, key) for row in here) for key, of in shown.items()}
        table.append({"model": name, "through": through, "edges": len(here), **values})
    text = (
        f"largest difference {worst:.2g} of effects up to {max(r.effect for r in found):.2g} "
        f"(logit difference); {len(found)} edges, one of each sender, receiver and way through, "
        f"{len(TINY)} models"
    )
    return Measured(text, worst <= 1e-5, tuple(table))


def planted() -> Measured:
    """Every method names the planted heads and edges, and no other."""
    found = planted_circuit.rows()
    precision, recall = min(r.precision for r in found), min(r.recall for r in found)
    table = tuple(
        {"method": r.method, "pairs": f"{r.pairs}, {r.direction}", "match": r.match}
        | {"precision": r.precision, "recall": r.recall, "margin": f"{r.margin:.2g}"}
        for r in found
    )
    text = (
        f"precision {precision:.2f}, recall {recall:.2f} at 1% of the gap; the weakest true share "
        f"is {min(r.margin for r in found):.1g} times the strongest false one or more; "
        f"{len({r.method for r in found})} methods, {len(found)} settings, 8 heads, 110 edges"
    )
    return Measured(text, precision == recall == 1.0, table)


def grouped_query() -> Measured:
    """Keys and values of a head, shared and its own copy, beside a Llama written by hand."""
    found = gqa.rows()
    edits, paths = ([r for r in found if r.what == what] for what in ("edit", "path"))
    worst = [max(row.difference for row in rows) for rows in (edits, paths)]
    table = tuple(vars(row) for row in found)
    text = (
        f"edits {worst[0]:.2g} (largest of all logits, {sum(r.cases for r in edits)} edits), paths "
        f"{worst[1]:.2g} (logit difference, {sum(r.cases for r in paths)} edges)"
    )
    held = all(row.effect > 10 * row.difference for row in found)
    return Measured(text, max(worst) <= 1e-5 and held, table)


def attribution_complete() -> Measured:
    """Integrated gradients of the inputs, of sites and of edges, add up to what they explain."""
    table = []
    for name in SMOOTH:
        few, many = (completeness(name, steps) for steps in (64, 256))
        table.append({"model": name, "64 steps": few, "256 steps": many})
    worst = max(row["256 steps"] for row in table)
    rate = min(row["64 steps"] / row["256 steps"] for row in table)
    text = (
        f"at 256 steps sums are off by at most {worst:.2g} of the change of the logit difference, "
        f"at 64 by at least {rate:.2g} times as much; inputs and edges, {len(SMOOTH)} models"
    )
    return Measured(text, worst <= 1e-3 and rate >= 8, tuple(table))


def completeness(name: str, steps: int) -> float:
    """The largest error of a sum of scores over a prompt, as a share of the largest change."""
    model, base, source = interp.load(name, dtype=torch.float64), drawn(0), drawn(1)
    nodes = attribute(model, base, source, DIFF, "0.resid_pre", along="inputs", steps=steps)
    edges = eap(model, base, source, DIFF, along="inputs", steps=steps)
    change = nodes.source - nodes.base
    sums = nodes["0.resid_pre"].flatten(1).sum(1), edges.values[:, 0].sum(1)
    return float(max((each - change).abs().max() for each in sums) / change.abs().max())


# ---------------------------------------------------------------- steering


def steer_positions() -> Measured:
    """Steering in generation: cache, batch and one pass agree at every kind of position."""
    found = steering_equalities.rows(say=lambda table: None)
    double = steering_equalities.rows(TINY, dtype=torch.float64, say=lambda table: None)
    table = tuple(
        {"model": name, "dtype": dtype, "rows": len(here), "worst": max(r.worst for r in here)}
        for dtype, rows in (("float32", found), ("float64", double))
        for name in dict.fromkeys(row.model for row in rows)
        for here in [[row for row in rows if row.model == name]]
    )
    worst, twin = (max(row.worst for row in rows) for rows in (found, double))
    least = min(row.change for row in (*found, *double))
    text = (
        f"{worst:.2g} of the largest logit; tiny models in float64 {twin:.2g}; {len(found)} rows: "
        f"{len(steering_equalities.MODELS)} models, {len(steering_equalities.POSITIONS)} kinds of "
        f"positions, 3 edits, each changing what it edits by {least:.1g} of its norm or more"
    )
    return Measured(text, worst <= 1e-5 and twin < 1e-12 and least > 1e-3, table)


CLAIMS = (
    Claim("sweep-exact", "1e-5 tiny, 1e-4 SmolLM2", sweep_exact),
    Claim("path-exact", "1e-5", path_exact_now),
    Claim("planted-circuit", "precision and recall 1.0", planted),
    Claim("gqa", "1e-5 from a Llama by hand", grouped_query),
    Claim("attribution-complete", "1e-3, 8x less than with a quarter", attribution_complete),
    Claim("steer-positions", "1e-5 of the largest logit, 1e-12 in float64", steer_positions),
)
