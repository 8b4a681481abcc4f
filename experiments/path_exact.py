"""Path patching: how far the fast algorithm is from the naive one.

    python -m experiments.path_exact

For every tiny model, way through, kind of sender and kind of receiver: the largest difference of a
logit difference between the two algorithms over a ragged batch, beside the largest effect, which
says that the comparison was of something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

import interp
from interp.metrics import LogitDiff
from interp.models.tiny import TINY
from interp.patching.path import all_edges, path_patch
from interp.patching.path_nodes import RECEIVERS, SENDERS, Edge

THROUGH = ("direct", "mlps", "all")
LENGTHS = (11, 5)
"""Of the base prompts: the batch is padded, and the longer one overruns the sliding windows."""


@dataclass(frozen=True)
class Row:
    """One model, way through, sender kind and receiver kind."""

    model: str
    through: str
    sender: str
    receiver: str
    edges: int
    difference: float
    """Largest difference of fast and naive, in nats of logit difference."""
    effect: float
    """Largest effect of an edge on the metric, in the same unit."""


def rows(models: Sequence[str] = tuple(TINY), *, a_kind: int = 2) -> list[Row]:
    """Compare on `a_kind` edges of each pair of kinds, spread over heads and layers."""
    found = []
    for name in models:
        model = interp.load(name)
        chosen = [(pair, edge) for pair, several in _pairs(model, a_kind) for edge in several]
        edges = [edge for _, edge in chosen]
        for through in THROUGH:
            base, source = _prompts()
            metric = LogitDiff(5, 6)
            fast = path_patch(model, base, source, edges, metric, through=through, say=None)
            naive = path_patch(
                model, base, source, edges, metric, through=through, say=None, exact=True
            )
            gaps = (fast.values - naive.values).abs().amax(1).tolist()
            effects = naive.effect.abs().amax(1).tolist()
            for pair in dict.fromkeys(pair for pair, _ in chosen):
                at = [i for i, (own, _) in enumerate(chosen) if own == pair]
                worst, effect = max(gaps[i] for i in at), max(effects[i] for i in at)
                found.append(Row(name, through, *pair, len(at), worst, effect))
    return found


def _pairs(model: interp.Model, a_kind: int) -> list[tuple[tuple[str, str], list[Edge]]]:
    """Every pair of kinds that the model has, with some of its edges."""
    kinds = [*((kind, False) for kind in RECEIVERS), ("k", True), ("v", True)]
    if "resid_mid" in model.book.refused:
        kinds.remove(("resid_mid", False))
    found = []
    for sender in SENDERS:
        for receiver, virtual in kinds:
            edges = all_edges(model, senders=[sender], receivers=[receiver], virtual=virtual)
            places = torch.linspace(0, len(edges) - 1, a_kind).long().unique().tolist()
            name = f"{receiver}_each" if virtual else receiver
            found.append(((sender, name), [edges[place] for place in places]))
    return found


def _prompts() -> tuple[list[list[int]], list[list[int]]]:
    """Base and source prompts that share their first token."""
    draw = torch.Generator().manual_seed(0)
    base, source = (
        [torch.randint(9, 340, (n,), generator=draw).tolist() for n in LENGTHS] for _ in range(2)
    )
    return base, [own[:1] + other[1:] for own, other in zip(base, source, strict=True)]


def table(found: Sequence[Row]) -> Table:
    """Largest difference by sender kind and receiver kind, over models and ways through."""
    receivers = list(dict.fromkeys(row.receiver for row in found))
    shown = Table("sender", *receivers, title="Largest difference of fast and naive, in nats")
    for sender in dict.fromkeys(row.sender for row in found):
        cells = []
        for receiver in receivers:
            here = [r.difference for r in found if (r.sender, r.receiver) == (sender, receiver)]
            cells.append(f"{max(here):.1e}")
        shown.add_row(sender, *cells)
    return shown


def by_model(found: Sequence[Row]) -> Table:
    """Largest difference and effect by model and way through."""
    shown = Table("model", "through", "pairs of kinds", "difference", "effect")
    for model, through in dict.fromkeys((row.model, row.through) for row in found):
        here = [row for row in found if (row.model, row.through) == (model, through)]
        worst, effect = max(row.difference for row in here), max(row.effect for row in here)
        shown.add_row(model, through, str(len(here)), f"{worst:.1e}", f"{effect:.2f}")
    return shown


def main() -> None:
    """Print both tables."""
    found = rows()
    console = Console(width=140)
    console.print(table(found))
    console.print(by_model(found))


if __name__ == "__main__":
    main()
