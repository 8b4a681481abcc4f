"""Activation patching: put the activations of one run into another, one place at a time.

Denoising puts clean activations into the corrupted run and asks how much of the answer comes back;
noising puts corrupted ones into the clean run and asks how much is lost. The two are not mirror
images, so every result names its direction. Source: Meng et al. 2022, arXiv:2202.05262; the
directions are told apart by Heimersheim and Nanda 2024, arXiv:2404.15255.

All places are cells of one sweep (`interp.engine.sweep`), and beside them stands the null: the run
patched with its own activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.pairs import PromptPair
from interp.edits import Patch
from interp.engine.model import Model
from interp.engine.sweep import At, Say, check_cells, sweep
from interp.errors import InputError, nearest
from interp.metrics import KL, LogitDiff, LogProb, Metric, Probability, Rank, recovered
from interp.patching.effects import Effects, interval_fields, over_prompts
from interp.sites import Site

Direction = Literal["denoise", "noise"]
METRICS = ("logit_diff", "prob", "logprob", "rank", "kl")
"""Metrics by name; `kl` is from the clean run's next-token distribution."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Patched(Effects):
    """What each patched place did to each pair, beside the unpatched runs and the null."""

    direction: Direction
    """Denoising patches the corrupted run, noising the clean one: that run is the base."""
    metric: str
    source: Float[Tensor, " pair"]
    """The metric of the run that the activations come from."""

    @property
    def recovered(self) -> Float[Tensor, "place pair"]:
        """The effect as a share of the gap between the runs; NaN where a pair has no gap."""
        gap = self.source - self.base
        return torch.where(gap == 0, torch.nan, self.effect / gap)

    def rows(self) -> list[dict[str, Any]]:
        """One record a place: mean effect and share recovered, with intervals over the pairs."""
        about = {
            "direction": self.direction,
            "metric": self.metric,
            "pairs_without_gap": int((self.source == self.base).sum()),
        }
        shares = [over_prompts(each[~each.isnan()].tolist()) for each in self.recovered]
        return [
            {**row, **interval_fields("recovered", share), **about}
            for row, share in zip(super().rows(), shares, strict=True)
        ]


def patch(
    model: Model,
    pairs: PromptPair | Sequence[PromptPair],
    places: Sequence[At | Sequence[At]],
    *,
    direction: Direction,
    metric: str | Metric = "logit_diff",
    exact: bool = False,
    memory_gib: float = 2.0,
    say: Say | None = print,
    progress: Progress | None = None,
) -> Patched:
    """Patch places of one run with the activations of the other, pair by pair.

    Args:
        pairs: clean and corrupted prompts; each pair of one length, all in one batch.
        places: sites, heads, units and positions (`At`); a list patches several together.
        direction: `"denoise"` (clean into corrupted) or `"noise"` (corrupted into clean).
        metric: one of `METRICS`, or your own `metric(logits, rows)`.
        exact, memory_gib, say, progress: as in `interp.engine.sweep.sweep`.

    Raises:
        InputError: no pair, prompts of a pair that differ in length, an answer of more than one
            token, or an unknown direction or metric.
        UndefinedEffectError: clean and corrupted agree on every pair.
        SiteError, PositionError, EditError: a place that the model or a prompt does not have.
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f"direction={direction!r}: write 'denoise' or 'noise'.")
    if not len(places):
        raise InputError("places is empty: name at least one place, such as At('3.attn.z').")
    pairs = [pairs] if isinstance(pairs, PromptPair) else list(pairs)
    clean, corrupted, right, wrong = pairs_tokens(model, pairs)
    base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    measure = _metric(model, metric, right, wrong, clean)
    check_cells(model, model.tokens(base), places, memory_gib=memory_gib)
    sites = _sites(places)
    source = model.run(other, capture=sites, logits="last")
    own = model.run(base, capture=_first_of_each_component(sites), logits="last")
    rows = torch.arange(len(pairs))
    low, high = measure(own.logits, rows), measure(source.logits, rows)
    if bool((low == high).all()):  # refused before any patch
        recovered(float(low[0]), corrupted=float(low[0]), clean=float(high[0]))
    null = [Patch(site, source=act) for site, act in own.acts.items()]
    swept = sweep(
        model,
        base,
        [*places, *null],
        measure,
        source=source,
        exact=exact,
        memory_gib=memory_gib,
        say=say,
        progress=progress,
    )
    n = len(places)
    return Patched(
        direction=direction,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "own"),
        places=tuple(place_name(place) for place in places),
        values=swept.values[:n],
        base=swept.base,
        source=high,
        receipts=swept.receipts[:n],
        null=float(swept.effect[n:].abs().max()),
        plan=swept.plan,
        spent=swept.spent,
    )


def every(
    component: str,
    *,
    layers: Sequence[int],
    positions: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> list[At]:
    """Places on a grid: every layer, by position, by head, or both.

    >>> [place_name(at) for at in every("attn.z", layers=[1], heads=[0, 3])]
    ['1.attn.z heads=0', '1.attn.z heads=3']
    """
    at: Sequence[Any] = ["all"] if positions is None else positions
    ids: Sequence[Any] = [None] if heads is None else heads
    return [
        At(Site(component, layer), positions=pos, heads=head)
        for layer in layers
        for pos in at
        for head in ids
    ]


def place_name(place: At | Sequence[At]) -> str:
    """Write a place: `5.attn.z heads=3 positions=7`; several are joined by ` + `."""
    return str(place) if isinstance(place, At) else " + ".join(map(str, place))


def _sites(places: Sequence[At | Sequence[At]]) -> list[Site]:
    several = [[place] if isinstance(place, At) else place for place in places]
    return list(dict.fromkeys(Site.parse(at.site) for group in several for at in group))


def _first_of_each_component(sites: Sequence[Site]) -> list[Site]:
    """The earliest site of each component: patched with itself, the most is computed again."""
    first: dict[str, Site] = {}
    for site in sorted(sites, key=lambda site: site.order):
        first.setdefault(site.component, site)
    return list(first.values())


def _metric(
    model: Model, metric: str | Metric, right: list[int], wrong: list[int], clean: list[list[int]]
) -> Metric:
    if not isinstance(metric, str):
        return metric
    match metric:
        case "logit_diff":
            return LogitDiff(right, wrong)
        case "prob":
            return Probability(right)
        case "logprob":
            return LogProb(right)
        case "rank":
            return Rank(right)
        case "kl":
            return KL(model.run(clean, logits="last").logits)
    raise InputError(
        f"There is no metric {metric!r}; there are {', '.join(METRICS)}, or pass a function."
        f"{nearest(metric, METRICS)}"
    )


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
    say: Say | None = None,
    progress: Progress | None = None,
) -> PatchGrid:
    """Patch every layer and position of a prompt pair.

    Raises:
        InputError: the prompts differ in length, or an answer is more than one token.
        UndefinedEffectError: clean and corrupted give the same logit difference.
    """
    if layers is not None and (not layers or min(layers) < 0):
        raise InputError(
            f"layers={list(layers)}: name at least one layer from 0 to {model.sizes.n_layers - 1}."
        )
    layers = list(range(model.sizes.n_layers)) if layers is None else list(layers)
    clean, corrupted, _, _ = pair_tokens(model, pair)
    base = clean if direction == "noise" else corrupted
    places = every(component, layers=layers, positions=range(len(base)))
    found = patch(model, pair, places, direction=direction, say=say, progress=progress)
    names = [model.tokenizer.decode([token]) for token in base]
    shares = found.recovered[:, 0].tolist()
    cells = []
    for i, (at, diff) in enumerate(zip(places, found.values[:, 0].tolist(), strict=True)):
        site, change = Site.parse(at.site), found.receipts[i][0].change
        assert site.layer is not None
        where = (str(site), site.layer, at.positions, names[at.positions])
        cells.append(PatchCell(*where, direction, diff, shares[i], change))
    low, high = float(found.base[0]), float(found.source[0])
    if direction == "noise":
        low, high = high, low
    return PatchGrid(pair, high, low, found.null, tuple(cells))


def pairs_tokens(
    model: Model, pairs: Sequence[PromptPair]
) -> tuple[list[list[int]], list[list[int]], list[int], list[int]]:
    """Tokenise pairs: clean and corrupted prompts, correct and wrong answers.

    Raises:
        InputError: no pair; prompts of a pair differ in length; an answer is not one token.
    """
    if not pairs:
        raise InputError("No prompt pair was given: pass at least one.")
    several = [pair_tokens(model, pair) for pair in pairs]
    clean, corrupted, right, wrong = (list(column) for column in zip(*several, strict=True))
    return clean, corrupted, right, wrong


def pair_tokens(model: Model, pair: PromptPair) -> tuple[list[int], list[int], int, int]:
    """Tokenise a pair: clean and corrupted prompt, correct and wrong answer.

    Raises:
        InputError: the prompts differ in length, or an answer is more than one token.
    """
    right, wrong = (one_token(model, text) for text in (pair.correct, pair.wrong))
    return *_aligned(model, pair), right, wrong


def _aligned(model: Model, pair: PromptPair) -> tuple[list[int], list[int]]:
    clean, corrupted = (model.tokens(text).ids[0].tolist() for text in (pair.clean, pair.corrupted))
    if len(clean) != len(corrupted):
        raise InputError(
            f"The clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}: "
            "patching by position needs as many in both; choose names of equal length."
        )
    return clean, corrupted


def one_token(model: Model, text: str) -> int:
    """Return the id of an answer of one token.

    Raises:
        InputError: the tokenizer cuts it into more, or into none.
    """
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"The answer {text!r} is {len(ids)} tokens: choose one of a single token.")
    return int(ids[0])
