"""Attribution patching: to first order, what patching each place would do to the answer.

A patch replaces an activation of the base run by that of the source run. Its effect on a metric is,
to first order, (source - base) . gradient of the metric at the base run. So two forward passes and
one backward pass score every site, position, head and neuron at once. Sources: Nanda 2023,
"Attribution patching"; Syed et al. 2023, arXiv:2310.10348.

The first order can be far off where the metric bends between base and source. Integrated gradients
average the gradient along a path instead (Sundararajan et al. 2017, arXiv:1703.01365):

    score = (source - base) . (1 / m) sum_{k < m} gradient at base + t_k (source - base)

with `t_k = (k + 1/2) / m` by default: a midpoint sum, whose error falls as `1 / m**2`. What moves
along the path is either the input of the first block (`along="inputs"`; Hanna et al. 2024,
arXiv:2403.17806) or each site by itself, the rest of the model following (`along="activations"`).
No gradient sees a jump: in a mixture of experts the metric jumps where a token changes its expert,
and there the scores do not add up. `verify` compares the largest scores with real patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.model import Model
from interp.engine.session import Tap
from interp.engine.sweep import At, sweep
from interp.errors import InputError, SiteError
from interp.metrics import Metric
from interp.models.tokens import Batch, Inputs
from interp.sites import ATTENTION_MAPS, Site, parse_sites
from interp.stats import spearman

Along = Literal["none", "inputs", "activations"]
"""What moves from base to source: nothing (the gradient at base), the first block's input, or each
site by itself."""
Rule = Literal["midpoint", "left", "right"]
"""Where a step takes its gradient: in its middle, at its end nearer base, or at the one nearer
source. The `k = 1..m` of Hanna et al. counts from source to base, so it is `left` here."""

SHIFT: Mapping[Rule, float] = {"midpoint": 0.5, "left": 0.0, "right": 1.0}
START = Site("resid_pre", 0)


def path_points(steps: int, rule: Rule = "midpoint") -> tuple[float, ...]:
    """Return where gradients are taken between base (0) and source (1): `(k + shift) / steps`.

    >>> path_points(2), path_points(2, "left"), path_points(2, "right")
    ((0.25, 0.75), (0.0, 0.5), (0.5, 1.0))

    Raises:
        InputError: `steps` is below 1, or there is no such rule.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: give a whole number of at least 1, such as 5.")
    if rule not in SHIFT:
        raise InputError(f"rule={rule!r}: write 'midpoint', 'left' or 'right'.")
    return tuple((k + SHIFT[rule]) / steps for k in range(steps))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Base and source prompts of equal lengths, padded on the right, and where the metric reads."""

    base: Batch
    source: Batch
    read: Int[Tensor, " prompt"]
    """The logical position whose logits each prompt's metric reads."""
    metric: Metric


def read_pairs(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    logits: Literal["last"] | int,
    *,
    differentiable: bool = True,
) -> Pairs:
    """Tokenise pairs and check them, the position and the metric, before any model runs.

    Raises:
        InputError: prompts of different number or length, or a metric that has no gradient or does
            not return one number a prompt.
        PositionError: `logits` lies outside a prompt.
    """
    first, second = model.tokens(base), model.tokens(source)
    if first.lengths.tolist() != second.lengths.tolist():
        raise InputError(
            f"The source prompts have {second.lengths.tolist()} tokens and the base prompts "
            f"{first.lengths.tolist()}: patching by position needs as many in each pair."
        )
    if logits != "last" and (isinstance(logits, bool) or not isinstance(logits, int)):
        raise InputError(f"logits={logits!r}: write 'last', or one position such as 5.")
    read = model.logit_positions(logits, first)
    assert read is not None
    _check_metric(metric, len(first.ids), model.sizes.d_vocab, differentiable)
    return Pairs(first, second, read[:, 0], metric)


def _check_metric(metric: Metric, n: int, d_vocab: int, differentiable: bool) -> None:
    """Try a metric on logits that no model made."""
    with torch.enable_grad():
        answer = metric(torch.zeros(n, d_vocab, requires_grad=True), torch.arange(n))
    if not isinstance(answer, Tensor) or answer.shape != (n,):
        given = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"The metric returned {given} for {n} prompts: return a tensor of one number a prompt."
        )
    if differentiable and not answer.requires_grad:
        raise InputError(
            f"{metric} has no gradient, so nothing can be attributed to it: use one such as "
            "LogitDiff or LogProb."
        )


def scored(
    model: Model,
    batch: Batch,
    read: Int[Tensor, " prompt"],
    metric: Metric,
    taps: Mapping[Site, Tap],
) -> Float[Tensor, " prompt"]:
    """Run prompts once under taps and return the metric of each, with its graph if one is kept."""
    columns = read.unique()
    out, _ = model.tapped(batch, taps, keep=columns)
    rows = torch.arange(len(read), device=out.device)
    logits = out[rows, torch.searchsorted(columns, read).to(out.device)]
    return metric(logits, rows)


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of every entry of some sites: the change of the metric that a patch there predicts."""

    entries: Mapping[str, Float[Tensor, "prompt pos *rest"]]
    """By site, in units of the metric; `rest` is the site's own: `[d_model]`, `[head, d_head]` or
    `[d_mlp]`. 0 where a shorter prompt has no token."""
    base: Float[Tensor, " prompt"]
    """The metric of the base run."""
    source: Float[Tensor, " prompt"]
    """The metric of the source run."""

    def __getitem__(self, site: str | Site) -> Float[Tensor, "prompt pos *rest"]:
        if str(site) not in self.entries:
            raise SiteError(f"{site} was not attributed; there are: {', '.join(self.entries)}.")
        return self.entries[str(site)]

    def by_position(self, site: str | Site) -> Float[Tensor, "prompt pos"]:
        """Sum over everything but prompts and positions: the score of patching a whole token."""
        return self[site].flatten(2).sum(-1)

    def by_head(self, site: str | Site) -> Float[Tensor, "prompt pos head"]:
        """Sum over the entries of each head.

        Raises:
            SiteError: the site has no heads.
        """
        if not Site.parse(site).headed:
            raise SiteError(f"{site} has no heads: use by_position, or the entries themselves.")
        return self[site].sum(-1)


def attribute(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    sites: str | Site | Iterable[str | Site],
    *,
    along: Along = "none",
    steps: int = 5,
    rule: Rule = "midpoint",
    logits: Literal["last"] | int = "last",
) -> Attribution:
    """Score patching each entry of some sites from the source run into the base run.

    Args:
        model: whose sites are scored.
        base: prompts, of any lengths.
        source: as many prompts, of the same lengths.
        metric: differentiable, `metric(logits, rows)`; see `interp.metrics`.
        sites: any but attention maps and `attn.result` (linear in `attn.z`: name that).
        along: `"none"`, the gradient at the base run (two forward passes, one backward); or what
            moves along the path of integrated gradients. Along `"inputs"` the scores of
            `0.resid_pre` add up to `source - base`; along `"activations"` the scores of each site
            add up to the effect of really patching it; both but for the error of the sum.
        steps: gradients along the path.
        rule: where each step takes its gradient.
        logits: the position that the metric reads, `"last"` or an index.

    Raises:
        InputError, SiteError, PositionError: before the model runs.

    >>> import interp
    >>> from interp.metrics import LogitDiff
    >>> model = interp.load("tiny-llama")
    >>> found = attribute(model, "Mary saw John", "John saw Mary", LogitDiff(5, 6), "1.attn.z")
    >>> found["1.attn.z"].shape[2:], found.by_head("1.attn.z").shape[2]
    (torch.Size([4, 8]), 4)
    """
    if along not in get_args(Along):
        raise InputError(f"along={along!r}: write 'none', 'inputs' or 'activations'.")
    points = path_points(steps, rule)
    wanted = _attributable(model, sites)
    pairs = read_pairs(model, base, source, metric, logits)
    path = _Path(model, pairs, wanted)
    if along == "none":
        grads = path.at_base
    elif along == "inputs":
        grads = path.mean_gradients(wanted, START, points)
    else:
        grads = {site: path.mean_gradients([site], site, points)[site] for site in wanted}
    real = (pairs.base.index >= 0).to(model.device)
    entries = {
        str(site): _masked((path.theirs[site] - path.ours[site]) * grads[site], real)
        for site in wanted
    }
    return Attribution(entries, path.base, path.source)


def _attributable(model: Model, sites: str | Site | Iterable[str | Site]) -> tuple[Site, ...]:
    wanted = parse_sites(sites)
    if not wanted:
        raise InputError("No site is named: give at least one, such as '1.attn.z'.")
    model.check_sites(wanted)
    for site in wanted:
        if site.component in ATTENTION_MAPS or site.component == "attn.result":
            raise SiteError(
                f"{site} cannot be attributed: name {site.layer}.attn.z, where a head's score has "
                "the same meaning."
            )
    return wanted


def _masked(entries: Tensor, real: Tensor) -> Tensor:
    return torch.where(real.view(*real.shape, *[1] * (entries.ndim - 2)), entries, 0.0)


class _Path:
    """The base and the source run, and gradients between them."""

    def __init__(self, model: Model, pairs: Pairs, sites: Sequence[Site]) -> None:
        self.model, self.pairs = model, pairs
        watched = dict.fromkeys((*sites, START))
        with torch.enable_grad():  # in both runs: kernels may differ without a graph
            values, leaves, self.theirs = self._run(pairs.source, watched, {})
            self.source = values.detach()
            del values, leaves
            values, leaves, self.ours = self._run(pairs.base, watched, {})
        self.base = values.detach()
        grads = torch.autograd.grad(
            values.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        self.at_base = dict(zip(leaves, grads, strict=True))

    def mean_gradients(
        self, sites: Sequence[Site], moved: Site, points: Sequence[float]
    ) -> dict[Site, Tensor]:
        """Average the gradients at `sites` while the activation at `moved` goes along the path."""
        total = {site: torch.zeros_like(self.ours[site]) for site in sites}
        for t in points:
            here = torch.lerp(self.ours[moved], self.theirs[moved], t)
            with torch.enable_grad():
                values, leaves, _ = self._run(self.pairs.base, sites, {moved: here})
            grads = torch.autograd.grad(
                values.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            for site, grad in zip(leaves, grads, strict=True):
                total[site] += grad / len(points)
        return total

    def _run(
        self, batch: Batch, sites: Iterable[Site], moved: Mapping[Site, Tensor]
    ) -> tuple[Tensor, dict[Site, Tensor], dict[Site, Tensor]]:
        """One pass: the metric, a zero added at each site to differentiate by, the activations."""
        leaves: dict[Site, Tensor] = {}
        acts: dict[Site, Tensor] = {}
        watched = set(sites)

        def tap_at(site: Site) -> Tap:
            def tap(act: Tensor) -> Tensor:
                here = moved.get(site, act)
                if site not in watched:
                    return here
                acts[site] = here.detach().clone()
                leaves[site] = torch.zeros_like(here).requires_grad_()
                return here + leaves[site]

            return tap

        taps = {site: tap_at(site) for site in sorted({*watched, *moved}, key=lambda s: s.order)}
        values = scored(self.model, batch, self.pairs.read, self.pairs.metric, taps)
        return values, leaves, acts


# ---------------------------------------------------------------- verification


@dataclass(frozen=True)
class Checked:
    """The largest scores beside what really patching there does, both means over prompts."""

    names: tuple[str, ...]
    """What was patched, the largest score in size first."""
    predicted: tuple[float, ...]
    """The scores."""
    measured: tuple[float, ...]
    """The change of the metric by a real patch."""

    @property
    def agreement(self) -> float | None:
        """Spearman's rank correlation of predicted and measured; None where a side is constant."""
        both = list(self.predicted), list(self.measured)
        return spearman(*both) if all(len(set(side)) > 1 for side in both) else None

    def __str__(self) -> str:
        known = self.agreement
        told = "undefined" if known is None else f"{known:.2f}"
        lines = [f"Rank agreement of the top {len(self.names)} with real patches: {told}"]
        rows = zip(self.names, self.predicted, self.measured, strict=True)
        lines += [f"  {name}: predicted {a:+.4g}, measured {b:+.4g}" for name, a, b in rows]
        return "\n".join(lines)


def verify(
    model: Model,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    found: Attribution,
    *,
    k: int = 20,
    logits: Literal["last"] | int = "last",
) -> Checked:
    """Really patch the k places (site, position and head) whose mean score is largest in size.

    Only positions that every prompt has are patched. Scores are means over prompts.

    Raises:
        InputError: k is below 1; and all that `interp.engine.sweep.sweep` raises.
    """
    if k < 1:
        raise InputError(f"k={k}: verify at least one place.")
    shortest = int(model.tokens(base).lengths.min())
    ranked = sorted(_places(found, shortest), key=lambda place: -abs(place[1]))[:k]
    cells = [at for at, _ in ranked]
    swept = sweep(model, base, cells, metric, source=source, logits=logits, say=None)
    names = tuple(_place_name(at) for at in cells)
    measured = tuple(swept.effect.double().mean(1).tolist())
    return Checked(names, tuple(score for _, score in ranked), measured)


def _places(found: Attribution, n_pos: int) -> Iterable[tuple[At, float]]:
    """Every site, position and head with its mean score."""
    for site in map(Site.parse, found.entries):
        scores = found.by_head(site) if site.headed else found.by_position(site)[..., None]
        mean = scores.double().mean(0)[:n_pos]
        for pos, row in enumerate(mean.tolist()):
            for head, score in enumerate(row):
                yield At(site, positions=pos, heads=head if site.headed else None), score


def _place_name(at: At) -> str:
    head = "" if at.heads is None else f", head {at.heads}"
    return f"{at.site}, position {at.positions}{head}"
