"""What a set of interventions did: values beside the base run, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.engine.plan import Plan, Spent
from interp.engine.receipts import EditReceipt
from interp.stats import Interval, cluster_bootstrap


@dataclass(frozen=True, eq=False, kw_only=True)
class Effects:
    """The metric of each intervention on each prompt, beside the base run and the null."""

    places: tuple[str, ...]
    values: Float[Tensor, "place prompt"]
    """The metric of the changed run."""
    base: Float[Tensor, " prompt"]
    """The metric of the run that is changed."""
    receipts: tuple[tuple[EditReceipt, ...], ...]
    """For each place the proof that it was changed, and how far."""
    null: float
    """The largest change of the metric when the run is patched with itself."""
    plan: Plan
    spent: Spent

    @property
    def effect(self) -> Float[Tensor, "place prompt"]:
        """How far each intervention moves the metric from the base run."""
        return self.values - self.base

    def rows(self) -> list[dict[str, Any]]:
        """One record a place: the mean effect with its interval over the prompts, and the null."""
        return [
            {
                "place": name,
                **interval_fields("effect", over_prompts(effect.tolist())),
                "pairs": len(self.base),
                "change": sum(each.change**2 for each in proofs) ** 0.5,
                "null": self.null,
            }
            for name, effect, proofs in zip(self.places, self.effect, self.receipts, strict=True)
        ]


def over_prompts(values: Sequence[float]) -> Interval | None:
    """The mean of one number a prompt, with its interval; None where there is no number."""
    return cluster_bootstrap(values, range(len(values))) if len(values) else None


def interval_fields(name: str, interval: Interval | None) -> dict[str, float | None]:
    """The estimate and the ends of an interval as fields of a record.

    >>> interval_fields("effect", Interval(1.0, 0.5, 1.5, 8))
    {'effect': 1.0, 'effect_low': 0.5, 'effect_high': 1.5}
    """
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
