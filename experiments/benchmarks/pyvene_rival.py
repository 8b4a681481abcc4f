"""pyvene: one intervenable model a layer, the source representation handed in.

Handing it in spares pyvene its default second forward pass. The positions of a layer share one
batch, each example with a unit location of its own, and `logits_to_keep=1` goes through to the
model. Models are twins that share the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.raw import residuals
from experiments.benchmarks.work import Grid, Job, Steer
from interp.engine.loading import twin


def intervenable(hf: Any, layer: int, kind: str) -> Any:
    """Wrap a model with one intervention at the input of a block."""
    import pyvene  # pyright: ignore[reportMissingImports]

    config = pyvene.IntervenableConfig(
        [pyvene.RepresentationConfig(layer, "block_input", "pos", 1)],
        intervention_types=getattr(pyvene, kind),
    )
    return pyvene.IntervenableModel(config, model=hf)


def grid(work: Grid) -> Job:
    """One call for each sampled layer, its positions in one batch."""
    hf = twin(work.model.hf)
    models = {layer: intervenable(hf, layer, "VanillaIntervention") for layer in work.sample}
    batch = work.corrupted.expand(len(work.positions), -1)
    at = list(work.positions)

    def patch(source: tuple[Tensor, ...]) -> Float[Tensor, "layer pos"]:
        found = []
        for layer, model in models.items():
            call = _call(model, batch, source[layer][0, at][:, None], [[[pos] for pos in at]])
            found.append(work.score(call(logits_to_keep=1)))
        return torch.stack(found)

    return Job(patch, lambda: residuals(work), work.share)


def edit(work: Steer) -> Job:
    """One call with `AdditionIntervention` at every position."""
    model = intervenable(twin(work.model.hf), work.layer, "AdditionIntervention")
    n_rows, width = work.ids.shape
    vector = work.vector.expand(n_rows, width, -1)
    call = _call(model, work.ids, vector, [[list(range(width))] * n_rows])
    return Job(lambda _: call())


def _call(
    model: Any, ids: Tensor, source: Tensor, where: list[list[list[int]]]
) -> Callable[..., Float[Tensor, "batch d_vocab"]]:
    """Return a function that runs the model once and gives the last token's logits."""
    (key,) = model.interventions

    def call(**more: Any) -> Tensor:
        _, out = model(
            base={"input_ids": ids, "use_cache": False, **more},
            source_representations={key: source},
            unit_locations={"base": where},
        )
        return out.logits[:, -1]

    return call
