"""Plain PyTorch hooks on the plain Hugging Face model: what a careful user writes by hand.

Attention is the model's own (sdpa); no gradients, no key-value cache in single passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.work import Grid, Job, Paths, Steer, blocks

PARTS = ("q", "k", "v")


@contextmanager
def input_hook(module: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's first input for the length of the block."""
    handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def output_hook(module: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's output, or the first of its outputs, for the length of the block."""

    def hook(_: Any, __: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def residuals(work: Grid) -> tuple[Float[Tensor, "1 pos d_model"], ...]:
    """What enters each block in the clean run: one forward pass."""
    out = work.model.hf(work.clean, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    return out.hidden_states


def grid(work: Grid) -> Job:
    """One forward pass a patch, all logits: the loop of most published scripts."""
    return Job(lambda source: _one_by_one(work, source, 0), lambda: residuals(work), work.share)


def grid_last(work: Grid) -> Job:
    """One forward pass a patch, with `logits_to_keep=1`: only the last token is unembedded."""
    return Job(lambda source: _one_by_one(work, source, 1), lambda: residuals(work), work.share)


def grid_batched(work: Grid) -> Job:
    """The positions of a layer in one batch, with `logits_to_keep=1`."""
    return Job(lambda source: _batched(work, source), lambda: residuals(work), work.share)


def _one_by_one(work: Grid, source: tuple[Tensor, ...], keep: int) -> Float[Tensor, "layer pos"]:
    def patched(layer: int, pos: int) -> Tensor:
        def change(act: Tensor) -> Tensor:
            act = act.clone()
            act[:, pos] = source[layer][:, pos]
            return act

        with input_hook(blocks(work.model.hf)[layer], change):
            out = work.model.hf(work.corrupted, use_cache=False, logits_to_keep=keep)
        return work.score(out.logits[:, -1])[0]

    return torch.stack(
        [torch.stack([patched(layer, pos) for pos in work.positions]) for layer in work.sample]
    )


def _batched(work: Grid, source: tuple[Tensor, ...]) -> Float[Tensor, "layer pos"]:
    positions = torch.tensor(work.positions, device=work.clean.device)
    rows = torch.arange(len(positions), device=work.clean.device)
    batch = work.corrupted.expand(len(rows), -1)

    def patched(layer: int) -> Tensor:
        def change(act: Tensor) -> Tensor:
            act = act.clone()
            act[rows, positions] = source[layer][0, positions]
            return act

        with input_hook(blocks(work.model.hf)[layer], change):
            return work.score(work.model.hf(batch, use_cache=False, logits_to_keep=1).logits[:, -1])

    return torch.stack([patched(layer) for layer in work.sample])


def path(work: Paths) -> Job:
    """The two-pass algorithm of Wang et al. 2022, arXiv:2211.00593, on a GPT-2.

    First pass, once a sender: the corrupted run with that head's z from the clean run and every
    attention and MLP output after it held; it gives q, k and v of all later heads. Second pass, one
    forward pass an edge: the corrupted run with one head's q, k or v from the first.
    The first pass is counted once instead of once a sender, in favour of this rival (under 1%).
    """
    return Job(lambda held: _second_passes(work, held), lambda: _first_pass(work), work.share)


def _first_pass(work: Paths) -> dict[int, Float[Tensor, "1 pos qkv"]]:
    """Return what each later layer's fused q, k, v projection gives when only `sender` acts."""
    hf, (layer, head) = work.model.hf, work.sender
    held: dict[Any, Tensor] = {}
    z, received = {}, {}
    mine = slice(head * work.model.sizes.d_head, (head + 1) * work.model.sizes.d_head)
    with ExitStack() as hooks:
        hooks.enter_context(_kept(blocks(hf)[layer].attn.c_proj, z, "clean"))
        hf(work.clean, use_cache=False, logits_to_keep=1)
    with ExitStack() as hooks:
        for block in blocks(hf):
            for module in (block.attn, block.mlp):
                hooks.enter_context(_kept_output(module, held, module))
        hf(work.corrupted, use_cache=False, logits_to_keep=1)

    def clean_head(act: Tensor) -> Tensor:
        act = act.clone()
        act[..., mine] = z["clean"][..., mine]
        return act

    with ExitStack() as hooks:
        hooks.enter_context(input_hook(blocks(hf)[layer].attn.c_proj, clean_head))
        hooks.enter_context(_held(blocks(hf)[layer].mlp, held))
        for later in range(layer + 1, len(blocks(hf))):
            hooks.enter_context(_kept_output(blocks(hf)[later].attn.c_attn, received, later))
            for module in (blocks(hf)[later].attn, blocks(hf)[later].mlp):
                hooks.enter_context(_held(module, held))
        hf(work.corrupted, use_cache=False, logits_to_keep=1)
    return received


def _held(module: Any, held: dict[Any, Tensor]) -> Any:
    return output_hook(module, lambda act: held[module])


def _kept(module: Any, into: dict[Any, Tensor], name: Any) -> Any:
    return input_hook(module, lambda act: into.setdefault(name, act))


def _kept_output(module: Any, into: dict[Any, Tensor], name: Any) -> Any:
    return output_hook(module, lambda act: into.setdefault(name, act))


def _second_passes(work: Paths, received: dict[int, Tensor]) -> Float[Tensor, "part layer head"]:
    d_model, d_head = work.model.sizes.d_model, work.model.sizes.d_head

    def patched(part: int, layer: int, head: int) -> Tensor:
        start = part * d_model + head * d_head

        def change(act: Tensor) -> Tensor:
            act = act.clone()
            act[..., start : start + d_head] = received[layer][..., start : start + d_head]
            return act

        with output_hook(blocks(work.model.hf)[layer].attn.c_attn, change):
            out = work.model.hf(work.corrupted, use_cache=False, logits_to_keep=1)
        return work.score(out.logits[:, -1])[0]

    heads, layers = range(work.model.sizes.n_heads), sorted(received)
    parts = range(len(PARTS))
    edges = [patched(part, layer, head) for part in parts for layer in layers for head in heads]
    return torch.stack(edges).reshape(len(PARTS), len(layers), len(heads))


def plain(work: Steer) -> Job:
    """The plain forward pass that edits are measured against."""
    return Job(lambda _: work.model.hf(work.ids, use_cache=False).logits[:, -1])


def edit(work: Steer) -> Job:
    """One forward pass with one hook."""

    def run(_: Any) -> Float[Tensor, "batch d_vocab"]:
        with input_hook(blocks(work.model.hf)[work.layer], lambda act: act + work.vector):
            return work.model.hf(work.ids, use_cache=False).logits[:, -1]

    return Job(run)


def hf_generate(work: Steer) -> Job:
    """Hugging Face's own greedy `generate`, with its cache."""
    return Job(lambda _: _generate(work))


def steer(work: Steer) -> Job:
    """Hugging Face's `generate` with one hook, which acts on the prompt and on every new token."""

    def run(_: Any) -> Tensor:
        with input_hook(blocks(work.model.hf)[work.layer], lambda act: act + work.vector):
            return _generate(work)

    return Job(run)


def _generate(work: Steer) -> Tensor:
    out = work.model.hf.generate(  # type: ignore[operator]
        work.ids,
        attention_mask=torch.ones_like(work.ids),
        max_new_tokens=work.n_new,
        do_sample=False,
        pad_token_id=work.model.hf.config.eos_token_id,
    )
    return work.all_new(out[:, work.ids.shape[1] :])
