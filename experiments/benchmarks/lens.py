"""TransformerLens: its own patching functions on a TransformerBridge.

The bridge wraps a twin of the model (modules of its own, shared weights), without compatibility
mode; it sets attention to eager itself. Importing the package takes seconds and is not timed.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.raw import PARTS
from experiments.benchmarks.work import Attribution, Grid, Job, Paths, Refusal, Steer
from interp.engine.loading import twin


def bridge(hf: Any) -> Any:
    """Wrap a twin of a plain model."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    inner = twin(hf)
    name = type(hf).__name__
    inner.config.architectures = [name]
    return build_bridge_from_module(
        inner, name, hf_config=inner.config, dtype=hf.dtype, device=hf.device
    )


def grid(work: Grid) -> Job:
    """`get_act_patch_resid_pre` on the sampled layers, the clean cache holding `resid_pre` only.

    Its metric receives all logits of a forward pass: the function takes no option to keep fewer.
    """
    import pandas as pd
    from transformer_lens import patching

    model = bridge(work.model.hf)
    cells = [(layer, pos) for layer in work.sample for pos in work.positions]

    def clean() -> Any:
        return model.run_with_cache(
            work.clean, names_filter=lambda name: name.endswith("hook_resid_pre")
        )[1]

    def patch(cache: Any) -> Float[Tensor, "layer pos"]:
        with redirect_stderr(io.StringIO()):  # its progress bar
            values = patching.get_act_patch_resid_pre(
                model,
                work.corrupted,
                cache,
                lambda logits: work.score(logits[:, -1])[0],
                index_axis_names=None,
                index_df=pd.DataFrame(cells, columns=["layer", "pos"]),
            )
        return values.reshape(len(work.sample), -1)

    return Job(patch, clean, work.share)


def path(work: Paths) -> Job:
    """`get_act_patch_direct_path` from the sampled head, once for each of q, k and v.

    It adds the sender's change to one receiver's own copy of the residual stream, at all positions,
    and runs one forward pass an edge.
    """
    from transformer_lens import patching

    model = bridge(work.model.hf)

    def caches() -> Any:
        keep = f"blocks.{work.sender[0]}.attn.hook_z"
        return [
            model.run_with_cache(ids, names_filter=lambda name: name == keep)[1]
            for ids in (work.clean, work.corrupted)
        ]

    def patch(held: Any) -> Float[Tensor, "part layer head"]:
        layer, head = work.sender
        clean, corrupted = held
        found = [
            patching.get_act_patch_direct_path(
                model,
                work.corrupted,
                clean,
                corrupted,
                lambda logits: work.score(logits[:, -1])[0],
                src_layer=layer,
                src_head=head,
                component=part,  # type: ignore[arg-type]
                verbose=False,
            )[layer + 1 :]
            for part in PARTS
        ]
        return torch.stack(found)

    return Job(patch, caches, work.share)


def edit(work: Steer) -> Job:
    """`run_with_hooks` with one hook at the middle `hook_resid_pre`."""
    model = bridge(work.model.hf)
    hooks = [_adding(work)]
    return Job(lambda _: model.run_with_hooks(work.ids, fwd_hooks=hooks)[:, -1])


def steer(work: Steer) -> Job:
    """The bridge's own greedy `generate`, with its cache, inside `hooks`."""
    model = bridge(work.model.hf)

    def run(_: Any) -> Tensor:
        with model.hooks(fwd_hooks=[_adding(work)]):
            out = model.generate(
                work.ids,
                max_new_tokens=work.n_new,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        return work.all_new(out[:, work.ids.shape[1] :])

    return Job(run)


def _adding(work: Steer) -> tuple[str, Any]:
    return f"blocks.{work.layer}.hook_resid_pre", lambda act, hook: act + work.vector


def attribution(work: Attribution) -> Job:
    """`attribution_patch` over edges with several steps.

    Raises:
        Refusal: this version has no integrated gradients, or refuses grouped-query heads.
    """
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    model = bridge(work.model.hf)

    def run(steps: int) -> Tensor:
        config = EdgeAttributionConfig(granularity="edge", ig_steps=steps)
        found = attribution_patch(
            model,
            work.clean,
            work.corrupted,
            lambda logits: logits[0, -1, work.correct] - logits[0, -1, work.wrong],
            config,
        )
        assert found.edge_scores is not None
        return torch.tensor(list(found.edge_scores.values()))

    refused = []
    for steps in (work.steps, 1):  # with integrated gradients, and plain
        try:
            run(steps)
        except (NotImplementedError, ValueError) as error:
            refused.append(f"{steps} steps: {error}")
    if refused:
        raise Refusal(" ".join(refused))
    return Job(lambda _: run(work.steps))
