"""Claims about engines, positions and hooks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

import interp
from experiments.claims.core import PROMPTS, TINY, Claim, Measured, gap
from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    ZeroAblate,
)
from interp.engine.check import check
from interp.engine.fingerprint import fingerprint
from interp.engine.model import Model
from interp.models import tiny


def engines_agree() -> Measured:
    """Identities, parity and one edit at every site, three engines on seven architectures."""
    rows, holds = [], True
    for name in TINY:
        for engine in ("torch", "transformer_lens", "nnsight"):
            lines = check(interp.load(name, engine=engine))
            worst = max(lines, key=lambda line: line.error / max(line.tolerance, 1e-30))
            failed = [line.name for line in lines if not line.holds]
            holds = holds and not failed
            error = max(line.error for line in lines)
            rows.append({"model": name, "engine": engine, "largest error": f"{error:.2g}"})
            rows[-1] |= {"at": worst.name, "failed": ", ".join(failed) or "none"}
    error = max(float(row["largest error"]) for row in rows)
    return Measured(f"largest error {error:.2g}, 7 models x 3 engines", holds, tuple(rows))


def example_edits(model: Model) -> list[Edit]:
    """One edit of every kind, at sites and heads of the middle layer."""
    d_model, d_head = model.sizes.d_model, model.sizes.d_head
    spread = torch.linspace(-1, 1, d_model)
    held = model.run(PROMPTS, capture=["1.attn.z", "1.resid_pre"])
    z, resid = held.acts["1.attn.z"], held.acts["1.resid_pre"]
    other = model.run([PROMPTS[0]] * len(PROMPTS), capture=["1.attn.z"]).acts["1.attn.z"]
    return [
        Patch("1.attn.z", source=other, positions=1, heads=1, rows=(0, 2)),
        ZeroAblate("1.mlp_out", positions=1),
        MeanAblate("1.attn.z", mean=z.flatten(0, 1).nanmean(0), heads=(0, 3), positions=(0, 1)),
        ResampleAblate("1.resid_pre", source=resid[:1], donors=(0, 0, 0), positions=1),
        Add("1.resid_post", vector=spread, coefficient=2.0, positions=(0, 1)),
        Add("2.attn.z", vector=torch.ones(d_head), heads=2, positions=1),
        Project("1.resid_post", directions=torch.stack([spread, spread.abs()]), positions=1),
        Scale("1.attn.v", factor=0.5, heads=1, positions=0),
        Clamp("1.resid_post", direction=spread, value=3.0, positions=1),
        Clamp("1.mlp_out", units=(0, 5), low=-0.1, high=0.1, positions=1),
    ]


def positions() -> Measured:
    """Batch, padding side and cache move nothing, for every edit on every architecture."""
    worst, rows = 0.0, []
    for name in TINY:
        model = interp.load(name)
        for edit in example_edits(model):
            errors = position_errors(model, edit)
            rows.append(
                {"model": name, "edit": str(edit)} | {k: f"{v:.2g}" for k, v in errors.items()}
            )
            worst = max(worst, *errors.values())
    return Measured(f"largest difference of logits {worst:.2g}", worst <= 1e-5, tuple(rows))


def position_errors(model: Model, edit: Edit) -> dict[str, float]:
    """Differences of logits: padding side, one by one, cached generation, one pass."""
    right = model.run(PROMPTS, edits=[edit]).logits
    left = model.run(PROMPTS, edits=[edit], padding_side="left").logits
    cached = model.generate(PROMPTS, max_new_tokens=3, edits=[edit], keep_logits=True)
    plain = model.generate(PROMPTS, max_new_tokens=3, edits=[edit], cache=False, keep_logits=True)
    whole = [[*a, *b] for a, b in zip(cached.prompt_ids, cached.new_ids, strict=True)]
    once = model.run(whole, edits=[edit]).logits
    n_new, one_pass = [len(ids) for ids in cached.new_ids], 0.0
    assert cached.logits is not None and plain.logits is not None
    for row, ids in enumerate(whole):
        stepwise = cached.logits[row, : n_new[row]]
        start = len(ids) - n_new[row] - 1
        one_pass = max(one_pass, gap(stepwise, once[row, start : start + n_new[row]]))
    return {
        "left - right": gap(left, right),
        "batch - single": batch_error(model, edit, right),
        "cache on - off": gap(cached.logits, plain.logits),
        "prefill - one pass": one_pass,
    }


def batch_error(model: Model, edit: Edit, batched: torch.Tensor) -> float:
    """Each prompt alone, with the same edit restricted to it, against the batch."""
    worst = 0.0
    for row, prompt in enumerate(PROMPTS):
        if edit.rows is not None and row not in edit.rows:
            edits = []
        else:
            own = {"source": edit.source[row : row + 1]} if isinstance(edit, Patch) else {}
            edits = [replace(edit, rows=None, **own)]
        alone = model.run(prompt, edits=edits).logits[0]
        worst = max(worst, gap(alone, batched[row, : len(alone)]))
    return worst


class Interrupting(Edit):
    """An edit that stops the run as a user or a bug would."""

    def new(self, act: Any, where: Any) -> Any:
        """Raise."""
        raise KeyboardInterrupt


def no_leaks() -> Measured:
    """The model's fingerprint is the same after runs, generations and interrupted runs."""
    changed, n_runs, n_interrupted = [], 0, 0
    for name in TINY:
        for engine in ("torch", "transformer_lens", "nnsight"):
            model = interp.load(tiny.build(name), engine=engine, tokenizer=tiny.tokenizer())
            before = fingerprint(model.hf)
            for edit in example_edits(model):
                model.run(PROMPTS, edits=[edit])
                n_runs += 1
            model.generate(PROMPTS, max_new_tokens=2, edits=[Scale("1.mlp_out", factor=0.5)])
            for site in {"1.resid_post", "1.attn.z", "0.attn.rot_q"} & set(model.sites):
                with suppress(KeyboardInterrupt):
                    model.run(PROMPTS, edits=[Interrupting(site)])
                n_interrupted += 1
            if fingerprint(model.hf) != before:
                changed.append(f"{name}/{engine}")
    text = (
        f"{len(changed)} of 21 models changed after {n_runs} runs and {n_interrupted} stopped ones"
    )
    return Measured(text, not changed)


CLAIMS = (
    Claim("engines-agree", "all identities hold, 1e-5", engines_agree),
    Claim("positions", "1e-5", positions),
    Claim("no-leaks", "0 changed", no_leaks),
)
