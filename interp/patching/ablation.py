"""Ablations: take a component away, and see what the answer loses.

What stands in for the component decides what the answer means, so it is always named:

    zero       0
    mean       its mean over a named reference set, pooled or at each position
    resample   its value on a reference prompt, drawn for each prompt (Chan et al. 2022)
    optimal    the constant that changes the model's answers least on the reference set
               (Li and Janson 2024, arXiv:2409.09951)

All places are cells of one sweep; beside them stands the null, the run patched with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from interp.edits import Edit, MeanAblate, Patch, ResampleAblate, ZeroAblate
from interp.engine.model import Model
from interp.engine.sweep import At, Say, check_cells, sweep
from interp.errors import InputError, PositionError
from interp.metrics import KL, Metric
from interp.models.tokens import Inputs
from interp.patching.activation import place_name
from interp.patching.effects import Effects
from interp.sites import Site

Kind = Literal["zero", "mean", "resample", "optimal"]


@dataclass(frozen=True)
class Reference:
    """The prompts that a stand-in is computed from, and their name in records."""

    name: str
    prompts: Sequence[str] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablated(Effects):
    """What each ablation did to each prompt, beside the intact run and the null."""

    kind: Kind
    reference: str
    """Name of the reference set; empty for zero."""

    def rows(self) -> list[dict[str, Any]]:
        """One record a place: the mean effect with its interval over the prompts."""
        about = {"ablation": self.kind, "reference": self.reference}
        return [{**row, **about} for row in super().rows()]


def ablate(
    model: Model,
    prompts: Inputs,
    places: Sequence[At],
    metric: Metric,
    *,
    kind: Kind,
    reference: Reference | None = None,
    per_position: bool = False,
    seed: int = 0,
    steps: int = 100,
    exact: bool = False,
    memory_gib: float = 2.0,
    say: Say | None = print,
) -> Ablated:
    """Ablate places one by one and score every prompt.

    Args:
        places: sites, heads, units and positions.
        metric: `metric(logits, rows)`, read at the last token.
        kind: what stands in, see the module.
        reference: where mean, resample and optimal take it from; not for zero.
        per_position: a mean for each position instead of one over all.
        seed: of the donors that resample draws.
        steps: of the optimiser, for optimal.

    Raises:
        InputError: no place, an unknown kind, or a reference set missing or too much.
        PositionError: a reference prompt is shorter than a position that is ablated.
    """
    if kind not in ("zero", "mean", "resample", "optimal"):
        raise InputError(f"kind={kind!r}: write 'zero', 'mean', 'resample' or 'optimal'.")
    if (kind == "zero") != (reference is None):
        need = (
            "takes no reference" if kind == "zero" else "needs reference=Reference(name, prompts)"
        )
        raise InputError(f"The ablation {kind!r} {need}.")
    if not places:
        raise InputError("places is empty: name at least one place, such as At('3.mlp_out').")
    if steps < 1:
        raise InputError(f"steps={steps}: search the optimal constant for at least 1.")
    session = check_cells(model, model.tokens(prompts), places, memory_gib=memory_gib)
    if reference is not None and (kind == "resample" or per_position):
        last = max(int(bound.due.any(0).nonzero().max()) for bound in session.edits)
        _require_reach(model, reference, last, all_of_them=kind == "resample")
    sites = list(dict.fromkeys(Site.parse(at.site) for at in places))
    acts = {} if reference is None else model.run(reference.prompts, capture=sites).acts
    stand_in = _stand_ins(model, kind, reference, acts, per_position, seed, steps)
    first = min(sites, key=lambda site: site.order)
    own = model.run(prompts, capture=[first], logits="last").acts[str(first)]
    swept = sweep(
        model,
        prompts,
        [*(stand_in(at) for at in places), Patch(first, source=own)],
        metric,
        exact=exact,
        memory_gib=memory_gib,
        say=say,
    )
    n = len(places)
    return Ablated(
        kind=kind,
        reference=reference.name if reference else "",
        places=tuple(place_name(at) for at in places),
        values=swept.values[:n],
        base=swept.base,
        receipts=swept.receipts[:n],
        null=float(swept.effect[n:].abs().max()),
        plan=swept.plan,
        spent=swept.spent,
    )


def _require_reach(model: Model, reference: Reference, last: int, *, all_of_them: bool) -> None:
    """Refuse a reference set without a token at the last position that is ablated."""
    lengths = model.tokens(reference.prompts).lengths
    n = int(lengths.min() if all_of_them else lengths.max())
    if last >= n:
        which = "shortest" if all_of_them else "longest"
        raise PositionError(
            f"Position {last} is ablated, and the {which} prompt of the reference "
            f"{reference.name!r} has {n} tokens: give longer ones, or name earlier positions."
        )


def _stand_ins(
    model: Model,
    kind: Kind,
    reference: Reference | None,
    acts: Any,
    per_position: bool,
    seed: int,
    steps: int,
) -> Callable[[At], Edit]:
    """How a place is turned into the edit that ablates it."""

    def of(at: At) -> Edit:
        where: dict[str, Any] = {"positions": at.positions, "heads": at.heads, "units": at.units}
        if reference is None:
            return ZeroAblate(at.site, **where)
        act = acts[str(Site.parse(at.site))]
        if kind == "resample":
            return ResampleAblate(at.site, source=act, seed=seed, **where)
        mean = act.nanmean(0) if per_position else act.flatten(0, 1).nanmean(0)
        edit = MeanAblate(at.site, mean=mean, **where)
        if kind == "optimal":
            return optimal_constant(model, reference.prompts, edit, steps=steps).edit
        return edit

    return of


@dataclass(frozen=True, eq=False)
class Optimal:
    """The constant that stands in best, and how well."""

    edit: MeanAblate
    """The ablation by the best constant found."""
    start: float
    """Mean KL(intact || ablated) over the reference prompts with the mean, in nats."""
    best: float
    """The same with the constant found; never above `start`."""


def optimal_constant(
    model: Model, prompts: Inputs, mean: MeanAblate, *, steps: int = 100, rate: float = 0.05
) -> Optimal:
    """Search the constant that changes the next-token distribution of some prompts least.

    Adam from the mean, on the mean KL(intact || ablated) at the last token; the best constant seen
    is kept, so the answer is never worse than the mean on these prompts. Score it on others.
    Source: Li and Janson 2024, arXiv:2409.09951.

    Raises:
        InputError: steps below 1 or a rate that is not positive.
    """
    if steps < 1 or not rate > 0:
        raise InputError(f"steps={steps}, rate={rate}: give positive numbers.")
    intact = KL(model.run(prompts, logits="last").logits)
    constant = mean.mean.detach().clone().requires_grad_()
    scale = float(mean.mean.std()) or 1.0
    optimiser = torch.optim.Adam([constant], lr=rate * scale)
    losses, best, kept = [], float("inf"), constant.detach().clone()
    for _ in range(steps + 1):
        run = model.run(prompts, edits=[replace(mean, mean=constant)], logits="last", grad=True)
        loss = intact(run.logits, torch.arange(len(run.logits))).mean()
        losses.append(float(loss.detach()))
        if losses[-1] < best:
            best, kept = losses[-1], constant.detach().clone()
        (constant.grad,) = torch.autograd.grad(loss, [constant])
        optimiser.step()
    return Optimal(replace(mean, mean=kept), losses[0], best)
