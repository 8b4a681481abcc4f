"""Clamp sweeps: what a unit encodes, read off the output while the unit is forced along a grid.

The unit is set to each value of a grid, inside and far outside the range that it takes by itself,
with the same draws (prompts, noise) every time, and an outcome is measured. `ATE(t)` is the mean
outcome at t less that at a baseline t0; `ICE` is the mean slope along the grid. Inside and outside
the observed range are reported apart: a clamp that the network never reaches by itself describes
the network off its data.

Source: CDEV, Begus et al. 2023, arXiv:2303.10931. With forward differences on a uniform grid `ICE`
is `(Y_end - Y_start) / (t_end - t_start)` and sees nothing of the curve between: a bump has ICE 0.
So the largest |ATE| stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.edits import Act, Clamp, Edit, Where
from interp.engine.model import Model
from interp.engine.receipts import EditReceipt
from interp.errors import InputError
from interp.models.tokens import Inputs
from interp.stats import Interval, cluster_bootstrap

Generate = Callable[[int, float], Float[Tensor, " draw"]]
"""Called with a unit and the value that it is clamped to; returns the outcome of each draw."""
Number = int | float
Metric = Callable[[Float[Tensor, "n d_vocab"], Int[Tensor, " n"]], Float[Tensor, " n"]]
"""Called with logits and the prompt of each row; returns one outcome a row."""


@dataclass(frozen=True)
class Stretch:
    """What happens on one part of the grid."""

    grid: tuple[float, ...]
    ice: Interval | None
    """Mean finite difference along this part, per unit of t; None for fewer than two values."""
    largest_at: float
    """The value of this part where |ATE| is largest."""
    largest: Interval
    """ATE there. Chosen as the largest on the same draws, so a little too large."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClampCurve:
    """One unit's sweep. Intervals are percentile bootstraps over clusters of draws, point by point.

    Outcomes have the metric's unit; a slope is that unit per unit of the clamped activation.
    """

    unit: int
    grid: tuple[float, ...]
    """Clamped values, increasing."""
    t0: float
    """The baseline of ATE."""
    observed: tuple[float, float]
    """Least and greatest value that the unit takes by itself."""
    outcomes: Float[Tensor, "value draw"]
    """Y(t, draw): one row for each value of the grid."""
    baseline: Float[Tensor, " draw"]
    """Y(t0, draw)."""
    placebo: float
    """Largest change of an outcome under the same operation with nothing to change: the unit set to
    its own values (language model), or clamped to t0 again (generator). 0, or the draws differ."""
    clusters: tuple[Hashable, ...]
    """The problem of each draw; redrawn as wholes."""
    natural: Float[Tensor, " draw"] | None = None
    """Y without any clamp, where there is such a run."""
    receipts: tuple[EditReceipt, ...] = ()
    """One for each value of the grid, on a language model."""
    level: float = 0.95
    n_boot: int = 1000
    seed: int = 0

    @cached_property
    def mean(self) -> tuple[Interval, ...]:
        """Mean outcome at each value of the grid."""
        return tuple(self._interval(row) for row in self.outcomes)

    @cached_property
    def ate(self) -> tuple[Interval, ...]:
        """`ATE(t)`: mean over draws of `Y(t) - Y(t0)`, paired draw by draw."""
        return tuple(self._interval(row - self.baseline) for row in self.outcomes)

    @cached_property
    def whole(self) -> Stretch:
        """The whole grid, inside and outside together, as the paper reports it."""
        return self._stretch(range(len(self.grid)))

    @cached_property
    def inside(self) -> Stretch | None:
        """The part of the grid inside the observed range, its ends included; None where none is."""
        low, high = self.observed
        return self._part(low <= t <= high for t in self.grid)

    @cached_property
    def below(self) -> Stretch | None:
        """The part under the observed range."""
        return self._part(t < self.observed[0] for t in self.grid)

    @cached_property
    def above(self) -> Stretch | None:
        """The part over the observed range."""
        return self._part(t > self.observed[1] for t in self.grid)

    @property
    def ice(self) -> float:
        """Mean finite difference of the mean outcome along the whole grid."""
        return self.whole.ice.estimate if self.whole.ice else 0.0

    @property
    def end_to_end(self) -> float:
        """`(mean Y_end - mean Y_start) / (t_end - t_start)`: equals `ice` on a uniform grid."""
        rise = (self.outcomes[-1].double() - self.outcomes[0].double()).mean()
        return float(rise) / (self.grid[-1] - self.grid[0])

    @property
    def sign(self) -> int:
        """Sign of ICE over the whole grid; 0 where its interval holds 0 or there is none."""
        ice = self.whole.ice
        if ice is None or ice.low is None or ice.high is None or ice.low <= 0 <= ice.high:
            return 0
        return 1 if ice.estimate > 0 else -1

    @property
    def monotone(self) -> bool:
        """Whether the mean outcome never falls, or never rises, along the grid."""
        steps = self.outcomes.double().mean(1).diff()
        return bool((steps >= 0).all() or (steps <= 0).all())

    @property
    def t0_inside(self) -> bool:
        """Whether the baseline is a value that the unit takes by itself."""
        return self.observed[0] <= self.t0 <= self.observed[1]

    def _interval(self, values: Float[Tensor, " draw"]) -> Interval:
        rows = values.double().numpy(force=True)
        return cluster_bootstrap(
            rows, self.clusters, n_boot=self.n_boot, level=self.level, seed=self.seed
        )

    def _part(self, chosen: Iterable[bool]) -> Stretch | None:
        places = [i for i, wanted in enumerate(chosen) if wanted]
        return self._stretch(places) if places else None

    def _stretch(self, places: Sequence[int]) -> Stretch:
        """Summarise neighbouring places of the grid."""
        grid = tuple(self.grid[i] for i in places)
        ice = self._interval(_slopes(self.outcomes[list(places)], grid)) if len(grid) > 1 else None
        largest = max(places, key=lambda i: abs(self.ate[i].estimate))
        return Stretch(grid, ice, self.grid[largest], self.ate[largest])


def _slopes(outcomes: Float[Tensor, "value draw"], grid: Sequence[float]) -> Tensor:
    """Mean finite difference of each draw's curve: the mean over draws is ICE."""
    steps = torch.tensor([b - a for a, b in pairwise(grid)], dtype=torch.float64)
    return (outcomes.double().cpu().diff(dim=0) / steps[:, None]).mean(0)


def sign_score(curves: Iterable[ClampCurve]) -> int:
    """Return the sum of signs of ICE over groups of draws, as the paper does: the sign of the
    estimate counts, whatever its interval.

    Raises:
        InputError: no curve is given.
    """
    slopes = [curve.ice for curve in curves]
    if not slopes:
        raise InputError("No curve was given: sweep at least one group of draws.")
    return sum((slope > 0) - (slope < 0) for slope in slopes)


def wide_grid(
    observed: tuple[Number, Number], *, n: int = 41, reach: Number = 2.0
) -> tuple[float, ...]:
    """Return a uniform grid over the observed range and `reach` of its widths on either side.

    >>> wide_grid((0.0, 1.0), n=4, reach=1.0)
    (-1.0, 0.0, 1.0, 2.0)

    Raises:
        InputError: fewer than two values, a negative reach, or a range of no width.
    """
    low, high = observed
    if n < 2 or reach < 0 or not low < high:
        raise InputError(
            f"observed={observed}, n={n}, reach={reach}: give a range of some width, two values "
            "or more and a reach of 0 or more."
        )
    start, end = low - reach * (high - low), high + reach * (high - low)
    return tuple(start + (end - start) * i / (n - 1) for i in range(n))


def sweep_generator(
    generate: Generate,
    unit: int,
    *,
    grid: Sequence[Number],
    observed: tuple[Number, Number],
    t0: Number = 0.0,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> ClampCurve:
    """Sweep one unit of anything that can be generated with a unit clamped.

    Args:
        generate: must use the same draws at each call; `placebo` tells whether it does.
        unit: handed to `generate`.
        grid: the values, increasing; two or more.
        observed: least and greatest value that the unit takes in training.
        t0: the baseline of ATE.
        clusters: the problem of each draw; by default each draw is one of its own.
        level: of the intervals.
        n_boot: resamples of an interval.
        seed: of the resampling.

    Raises:
        InputError: a setting is out of range; or, as the sweep runs, an outcome is not one finite
            number a draw.

    >>> curve = sweep_generator(
    ...     lambda unit, value: 3 * value + torch.arange(4.0), 0, grid=(-1, 0, 1), observed=(0, 1)
    ... )
    >>> curve.ice, curve.ate[0].estimate, curve.inside.grid
    (3.0, -3.0, (0.0, 1.0))
    """
    values = _checked(unit, grid, observed, t0, level, n_boot)
    baseline = _outcome(generate(unit, float(t0)), None, t0)
    names = _names(clusters, len(baseline))
    again = _outcome(generate(unit, float(t0)), len(baseline), t0)
    rows = [_outcome(generate(unit, t), len(baseline), t) for t in values]
    return ClampCurve(
        unit=unit,
        grid=values,
        t0=float(t0),
        observed=(float(observed[0]), float(observed[1])),
        outcomes=torch.stack(rows),
        baseline=baseline,
        placebo=float((again - baseline).abs().max()),
        clusters=names,
        level=level,
        n_boot=n_boot,
        seed=seed,
    )


def latent_generator(
    module: nn.Module,
    draws: Float[Tensor, "draw latent"],
    measure: Callable[[Tensor], Float[Tensor, " draw"]],
) -> Generate:
    """Return a `Generate` that clamps one entry of a module's input and measures its output.

    `draws` are the same for every value; set the entries that are not swept (code bits) to their
    baseline, zero. The module runs without gradients.
    """

    def generate(unit: int, value: float) -> Tensor:
        if unit >= draws.shape[1]:
            raise InputError(f"There is no unit {unit}: the draws have {draws.shape[1]} entries.")
        clamped = draws.clone()
        clamped[:, unit] = value
        with torch.no_grad():
            return measure(module(clamped))

    return generate


def sweep_site(
    model: Model,
    inputs: Inputs,
    site: str,
    unit: int,
    metric: Metric,
    *,
    grid: Sequence[Number],
    t0: Number = 0.0,
    positions: Any = "all",
    heads: Any = None,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> ClampCurve:
    """Sweep one unit of a language model; the outcome is a metric of each prompt's last logits.

    Each value is one run under `Clamp(site, units=unit, value=...)`. The observed range is that of
    the entries that the clamp replaces; `natural` holds the outcomes of the unedited run.

    Args:
        model: behind any engine.
        inputs: the draws: prompts, the same for every value.
        site: where the unit lives, such as `3.mlp.post`.
        unit: its place on the site's last axis.
        metric: `(logits [n, d_vocab], rows [n]) -> [n]`.
        grid: the values, increasing; two or more.
        t0: the baseline of ATE.
        positions: where the unit is clamped.
        heads: which heads, at a site that has them.
        clusters: the problem of each prompt; by default each prompt is one of its own.
        level: of the intervals.
        n_boot: resamples of an interval.
        seed: of the resampling.

    Raises:
        InputError: a setting is out of range, or an outcome is not one finite number a prompt.
        SiteError, EditError, PositionError, SilentEditError: as `Model.run`.
    """
    values = _checked(unit, grid, (0.0, 0.0), t0, level, n_boot)
    where: Mapping[str, Any] = {"units": unit, "positions": positions, "heads": heads}
    n_prompts = len(model.tokens(inputs).ids)
    names = _names(clusters, n_prompts)

    def outcome(*edits: Edit) -> tuple[Tensor, Any]:
        run = model.run(inputs, edits=edits, logits="last")
        rows = torch.arange(n_prompts, device=run.logits.device)
        return metric(run.logits, rows), run.receipt

    own = _OwnValue(site, **where)
    natural = _outcome(outcome()[0], n_prompts, None)
    placebo = _outcome(outcome(own)[0], n_prompts, None)
    baseline = _outcome(outcome(Clamp(site, value=float(t0), **where))[0], n_prompts, t0)
    runs = [outcome(Clamp(site, value=t, **where)) for t in values]
    seen = torch.cat([act.flatten() for act in own.seen])
    return ClampCurve(
        unit=unit,
        grid=values,
        t0=float(t0),
        observed=(float(seen.min()), float(seen.max())),
        outcomes=torch.stack(
            [_outcome(y, n_prompts, t) for (y, _), t in zip(runs, values, strict=True)]
        ),
        baseline=baseline,
        placebo=float((placebo - natural).abs().max()),
        clusters=names,
        natural=natural,
        receipts=tuple(receipt[0] for _, receipt in runs),
        level=level,
        n_boot=n_boot,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _OwnValue(Edit):
    """Write back what is there and note it: the placebo of a clamp, and its observed range."""

    seen: list[Tensor] = field(default_factory=list)

    def new(self, act: Act, where: Where) -> Act:
        self.seen.append(act.detach().clone())
        return act


def _checked(
    unit: int,
    grid: Sequence[Number],
    observed: tuple[Number, Number],
    t0: Number,
    level: float,
    n_boot: int,
) -> tuple[float, ...]:
    """Check the settings of a sweep before anything runs; return the grid as numbers."""
    values = tuple(float(t) for t in grid)
    finite = torch.tensor([*values, *observed, t0], dtype=torch.float64).isfinite().all()
    if len(values) < 2 or not finite or any(b <= a for a, b in pairwise(values)):
        raise InputError(
            f"grid={_short(values)}, t0={t0}: give two or more finite values, each above the one "
            "before."
        )
    if isinstance(unit, bool) or unit < 0 or observed[0] > observed[1]:
        raise InputError(
            f"unit={unit}, observed={observed}: a unit counts from 0, and a range runs from its "
            "least value to its greatest."
        )
    if not 0 < level < 1 or n_boot < 1:
        raise InputError(
            f"level={level}, n_boot={n_boot}: a level lies between 0 and 1, such as 0.95, and at "
            "least one resample is drawn."
        )
    return values


def _outcome(values: Tensor, n: int | None, t: float | None) -> Float[Tensor, " draw"]:
    """Check what a metric or a generator returned."""
    at = "without a clamp" if t is None else f"at {t:g}"
    if values.ndim != 1 or not len(values) or (n is not None and len(values) != n):
        wanted = "one number a draw" if n is None else f"{n} numbers, one a draw"
        raise InputError(f"The outcome {at} has shape {list(values.shape)}: return {wanted}.")
    if not values.isfinite().all():
        raise InputError(f"The outcome {at} is not finite for every draw: shorten the grid.")
    return values.detach().double().cpu()


def _names(clusters: Sequence[Hashable] | None, n_draws: int) -> tuple[Hashable, ...]:
    if clusters is None:
        return tuple(range(n_draws))
    if len(clusters) != n_draws:
        raise InputError(
            f"There are {n_draws} draws and {len(clusters)} cluster names: give one a draw."
        )
    return tuple(clusters)


def _short(values: Sequence[float]) -> str:
    text = ", ".join(f"{t:g}" for t in values[:4])
    return f"({text}{', ...' if len(values) > 4 else ''})"
