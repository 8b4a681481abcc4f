"""This workbench."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.raw import PARTS
from experiments.benchmarks.work import Attribution, Grid, Job, Paths, Steer
from interp.edits import Add
from interp.sites import Site


def grid(work: Grid) -> Job:
    """One sweep over every layer and position: receipts and plan included."""
    from interp.engine.sweep import At, sweep
    from interp.metrics import LogitDiff

    layers = range(work.model.sizes.n_layers)
    cells = [At(f"{layer}.resid_pre", pos) for layer in layers for pos in work.positions]

    def run(_: Any) -> Float[Tensor, "layer pos"]:
        swept = sweep(
            work.model,
            work.corrupted,
            cells,
            LogitDiff(work.correct, work.wrong),
            source=work.clean,
            say=_silent,
        )
        return swept.values[:, 0].reshape(len(layers), -1)

    return Job(run, compared=lambda values: values[list(work.sample)])


def path(work: Paths) -> Job:
    """The edges that leave one head of each layer, scaled; `work.whole` does every edge."""
    import_module("interp.patching.path")  # where it is missing, a row says so
    n_heads = work.model.sizes.n_heads
    heads = range(n_heads) if work.whole else [work.sender[1]]
    share = len(heads) / n_heads
    return Job(
        lambda _: ours_path(work, heads), share=share, compared=lambda found: found[work.sender]
    )


def ours_path(
    work: Paths, heads: Sequence[int]
) -> dict[tuple[int, int], Float[Tensor, "part layer head"]]:
    """Return for each sender the patched logit differences of the later heads' q, k and v."""
    from interp.metrics import LogitDiff

    paths = import_module("interp.patching.path")
    n_layers, n_heads = work.model.sizes.n_layers, work.model.sizes.n_heads
    senders = [(layer, head) for layer in range(n_layers - 1) for head in heads]
    edges = [
        (paths.Sender("head", layer, head), paths.Receiver(part, later, other))
        for layer, head in senders
        for part in PARTS
        for later in range(layer + 1, n_layers)
        for other in range(n_heads)
    ]
    metric = LogitDiff(work.correct, work.wrong)
    found = paths.path_patch(
        work.model, work.corrupted, work.clean, edges, metric, through="direct", say=None
    )
    n_edges = [len(PARTS) * (n_layers - 1 - layer) * n_heads for layer, _ in senders]
    each = found.values[:, 0].split(n_edges)
    shaped = (values.reshape(len(PARTS), -1, n_heads) for values in each)
    return dict(zip(senders, shaped, strict=True))


def attribution(work: Attribution) -> Job:
    """Every edge's score."""
    import_module("interp.patching.edges")  # where it is missing, a row says so
    return Job(lambda _: ours_attribution(work))


def ours_attribution(work: Attribution) -> Float[Tensor, "sender receiver"]:
    """Return the scores of all edges by integrated gradients along the inputs; 0 at no edge."""
    from interp.metrics import LogitDiff

    edges = import_module("interp.patching.edges")
    metric = LogitDiff(work.correct, work.wrong)
    with torch.enable_grad():
        found = edges.eap(work.model, work.corrupted, work.clean, metric, steps=work.steps)
    return found.values[0]


def plain(work: Steer) -> Job:
    """A run without edits: what the workbench itself adds to a forward pass."""
    return Job(lambda _: work.model.run(work.ids).logits[:, -1])


def edit(work: Steer) -> Job:
    """A run with one edit at every token, its receipt included."""
    return Job(lambda _: work.model.run(work.ids, edits=[_addition(work)]).logits[:, -1])


def generate(work: Steer) -> Job:
    """Our generation loop without edits, with its cache."""
    return Job(lambda _: _written(work, []))


def steer(work: Steer) -> Job:
    """Our generation loop with one edit on the prompt and on every new token."""
    return Job(lambda _: _written(work, [_addition(work)]))


def _addition(work: Steer) -> Add:
    return Add(Site("resid_pre", work.layer), vector=work.vector)


def _written(work: Steer, edits: list[Add]) -> Tensor:
    done = work.model.generate(work.ids, max_new_tokens=work.n_new, edits=edits)
    return work.all_new(torch.tensor(done.new_ids, device=work.ids.device))


def _silent(*_: Any) -> None:
    """Take the planner's lines and print nothing."""
