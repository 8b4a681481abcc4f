"""nnsight: one trace a layer, one invoke a position, as its guide batches interventions.

Writes are in place, which spares nnsight a concatenation for each invoke; `logits_to_keep=1` is
passed through the trace, so only the last token is unembedded. The model is a twin that shares the
weights. Importing nnsight adds a method to every Python object: only when it is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.raw import residuals
from experiments.benchmarks.work import Grid, Job, Steer, blocks
from interp.engine.loading import twin


def wrapped(model: Any) -> Any:
    """Wrap a twin of a plain model and its tokenizer."""
    from nnsight import TransformersModel  # type: ignore[attr-defined]

    return TransformersModel(twin(model.hf), tokenizer=model.tokenizer, task="text-generation")


def envoys(model: Any, hf: Any) -> Any:
    """Return nnsight's handles of the decoder blocks, at the path that they have in `hf`."""
    wanted = blocks(hf)
    path = next(name for name, module in hf.named_modules() if module is wanted)
    for name in path.split("."):
        model = getattr(model, name)
    return model


def grid(work: Grid) -> Job:
    """One trace for each sampled layer, one invoke for each position."""
    model = wrapped(work.model)

    def patch(source: tuple[Tensor, ...]) -> Float[Tensor, "layer pos"]:
        return torch.stack([_layer(work, model, layer, source[layer]) for layer in work.sample])

    return Job(patch, lambda: residuals(work), work.share)


def _layer(work: Grid, model: Any, layer: int, source: Tensor) -> Float[Tensor, " pos"]:
    block, ids, found = envoys(model, work.model.hf)[layer], work.corrupted, []
    with model.trace(logits_to_keep=1, use_cache=False) as tracer:
        for pos in work.positions:
            with tracer.invoke(ids):
                block.input[:, pos] = source[:, pos]
                found.append(model.output.logits[:, -1].save())
    return work.score(torch.cat(found))


def edit(work: Steer) -> Job:
    """One trace of the whole batch with one addition."""
    model = wrapped(work.model)
    block, vector = envoys(model, work.model.hf)[work.layer], work.vector

    def run(_: Any) -> Float[Tensor, "batch d_vocab"]:
        with model.trace(work.ids, use_cache=False):
            block.input = block.input + vector
            logits = model.output.logits[:, -1].save()
        return logits

    return Job(run)
