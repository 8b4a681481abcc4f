"""Activation patching: put the activations of one run into another, one place at a time.

Denoising puts clean activations into the corrupted run and asks how much of the answer comes back;
noising puts corrupted ones into the clean run and asks how much is lost. Source: Meng et al. 2022,
arXiv:2202.05262; the two directions are told apart by Heimersheim and Nanda 2024, arXiv:2404.15255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from interp.data.pairs import PromptPair
from interp.edits import Patch
from interp.engine.model import Model
from interp.errors import InputError
from interp.metrics import logit_diff, recovered
from interp.sites import Site

Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class PatchCell:
    """One patch: where, and what it did to the answer."""

    site: str
    layer: int
    pos: int
    token: str
    direction: str
    logit_diff: float
    """Of the patched run, in nats."""
    recovered: float
    """Denoising: 0 as corrupted, 1 as clean. Noising: 0 as clean, 1 as corrupted."""
    change: float
    """L2 norm of what the patch changed: the proof that it acted."""


@dataclass(frozen=True)
class PatchGrid:
    """All patches of one pair, beside its two unpatched runs."""

    pair: PromptPair
    clean_logit_diff: float
    corrupted_logit_diff: float
    noop_change: float
    """The largest change of the logit difference when the run is patched with itself: the null."""
    cells: tuple[PatchCell, ...]


def patch_grid(
    model: Model,
    pair: PromptPair,
    *,
    component: str = "resid_pre",
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PatchGrid:
    """Patch every layer and position of a prompt pair; positions of a layer share one batch.

    Raises:
        InputError: the prompts differ in length, or an answer is more than one token.
        UndefinedEffectError: clean and corrupted give the same logit difference.
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f"direction={direction!r}: write 'denoise' or 'noise'.")
    if layers is not None and (not layers or min(layers) < 0):
        raise InputError(
            f"layers={list(layers)}: name at least one layer from 0 to {model.sizes.n_layers - 1}."
        )
    layers = list(range(model.sizes.n_layers)) if layers is None else list(layers)
    sites = [Site(component, layer) for layer in layers]
    clean_ids, corrupted_ids, right, wrong = pair_tokens(model, pair)

    def measure(logits: torch.Tensor) -> list[float]:
        n = len(logits)
        return logit_diff(logits, torch.full((n,), right), torch.full((n,), wrong)).tolist()

    clean = model.run([clean_ids], capture=sites, logits="last")
    corrupted = model.run([corrupted_ids], capture=sites, logits="last")
    clean_diff, corrupted_diff = measure(clean.logits)[0], measure(corrupted.logits)[0]
    denoise = direction == "denoise"
    base, source = (corrupted_ids, clean) if denoise else (clean_ids, corrupted)
    low, high = (corrupted_diff, clean_diff) if denoise else (clean_diff, corrupted_diff)
    recovered(low, corrupted=low, clean=high)  # refuses a pair without a gap before any patch
    own = (corrupted if denoise else clean).acts
    names = [model.tokenizer.decode([token]) for token in base]
    cells, noop = [], 0.0
    for done, site in enumerate(sites, start=1):
        n = len(base)
        act = torch.cat(
            [source.acts[str(site)].expand(n, -1, *_rest(source, site)), own[str(site)]]
        )
        edits = [Patch(site, positions=pos, rows=pos, source=act) for pos in range(n)]
        edits.append(Patch(site, rows=n, source=act))  # the null: the run patched with itself
        run = model.run([base] * (n + 1), edits=edits, logits="last")
        *diffs, null = measure(run.logits)
        noop = max(noop, abs(null - low))
        for pos, diff in enumerate(diffs):
            share = recovered(diff, corrupted=low, clean=high)
            change = run.receipt[pos].change
            where = (str(site), layers[done - 1], pos, names[pos])
            cells.append(PatchCell(*where, direction, diff, share, change))
        if progress:
            progress(done, len(sites))
    return PatchGrid(pair, clean_diff, corrupted_diff, noop, tuple(cells))


def _rest(run, site: Site) -> tuple[int, ...]:
    return tuple(-1 for _ in run.acts[str(site)].shape[2:])


def pair_tokens(model: Model, pair: PromptPair) -> tuple[list[int], list[int], int, int]:
    """Tokenise a pair: clean and corrupted prompt, correct and wrong answer.

    Raises:
        InputError: the prompts differ in length, or an answer is more than one token.
    """
    right, wrong = (_one_token(model, text) for text in (pair.correct, pair.wrong))
    return *_aligned(model, pair), right, wrong


def _aligned(model: Model, pair: PromptPair) -> tuple[list[int], list[int]]:
    clean, corrupted = (model.tokens(text).ids[0].tolist() for text in (pair.clean, pair.corrupted))
    if len(clean) != len(corrupted):
        raise InputError(
            f"The clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}: "
            "patching by position needs as many in both; choose names of equal length."
        )
    return clean, corrupted


def _one_token(model: Model, text: str) -> int:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"The answer {text!r} is {len(ids)} tokens: choose one of a single token.")
    return int(ids[0])
