"""The small GPT-2 that multiplies, and the read-out of its heads that an auxiliary loss trains.

Its tokens are the ids of `interp.data.multiplication`; there is no tokenizer. The read-out takes
what a head mixed, before the output projection, and returns one number a head:

    y_h = w_h . z_h,    z_h = sum over keys of attention times value

Source: Bai et al. 2025, arXiv:2510.00184, section 5 (no bias; two heads of the second layer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from interp.errors import ModelError

N_LAYERS, N_HEADS, D_MODEL = 2, 4, 96
INITIAL = 0.08
"""Standard deviation of the weights before training: four times GPT-2's, which suits a width of
96 and learns in fewer updates."""
READ_HEADS = (0, 1)
"""Heads of the last layer whose values the auxiliary loss reads."""


def architecture(n_tokens: int, n_positions: int, *, d_model: int = D_MODEL) -> GPT2Config:
    """Return a GPT-2 of two layers and four heads, without dropout, its unembedding its own.

    Raises:
        ModelError: the heads do not divide the width.

    >>> architecture(16, 15).n_inner
    384
    """
    if d_model % N_HEADS:
        raise ModelError(f"d_model={d_model}: {N_HEADS} heads must divide it, as they do 96.")
    config = GPT2Config(
        vocab_size=n_tokens,
        n_positions=n_positions,
        n_embd=d_model,
        n_inner=4 * d_model,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        initializer_range=INITIAL,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config.architectures = ["GPT2LMHeadModel"]
    return config


def untrained(config: GPT2Config, seed: int) -> GPT2LMHeadModel:
    """Return the network with random weights; PyTorch's own random state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


class ReadOut(nn.Module):
    """One weight vector for each of some heads, on their mixed values `[... d_head]`."""

    def __init__(self, d_head: int, heads: tuple[int, ...] = READ_HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.zeros(len(heads), d_head))

    def forward(self, z: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head"]:
        """Return the read-out of each head at each position.

        Args:
            z: what all heads mixed, side by side, as the output projection reads it.
        """
        split = z.unflatten(-1, (-1, self.weight.shape[1]))[:, :, list(self.heads)]
        return (split * self.weight).sum(dim=-1)


@contextmanager
def mixed_values(
    model: GPT2LMHeadModel, layer: int = N_LAYERS - 1
) -> Iterator[Callable[[], Tensor]]:
    """Inside the block, the returned function gives z `[batch pos d_model]` of the last forward.

    Gradients flow through it. After the block no hook is left.

    Raises:
        ModelError: no such layer; or nothing, or more than one forward, has run since it was read.
    """
    if not 0 <= layer < model.config.n_layer:
        raise ModelError(f"layer={layer}: the network has layers 0 to {model.config.n_layer - 1}.")
    kept: list[Tensor] = []
    projection = model.get_submodule(f"transformer.h.{layer}.attn.c_proj")
    handle = projection.register_forward_pre_hook(lambda module, args: kept.append(args[0]))

    def read() -> Tensor:
        if len(kept) != 1:
            raise ModelError(
                f"Layer {layer} ran {len(kept)} times since its values were read: run the network "
                "once, then read."
            )
        return kept.pop()

    try:
        yield read
    finally:
        handle.remove()
