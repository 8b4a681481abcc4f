"""Attention masks of our own: who sees whom, in the form that a model takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.engine.model import Model
from interp.errors import ModelError

ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose memory of earlier tokens is keys and values alone."""
Visible = Callable[[int | None], Bool[Tensor, "batch query key"]]
"""Which keys each query sees, for layers with a window of so many tokens or None for all."""


class Masks:
    """Turns visibility into the attention mask that a model takes, sliding windows included.

    Raises:
        ModelError: the model's attention cannot take a mask of our own.
    """

    def __init__(self, model: Model) -> None:
        why_not = refusal(model)
        if why_not:
            raise ModelError(f"{why_not}: pass exact=True.")
        config = model.hf.config.get_text_config()
        self._implementation = config._attn_implementation
        self._dtype = model.dtype
        kinds = tuple(getattr(config, "layer_types", None) or ())
        windows = model.sizes.windows or (None,)
        self._one_kind = len(set(kinds)) < 2
        self._window = windows[0]
        self._windows = dict(zip(kinds, windows, strict=False))

    def make(self, visible: Visible) -> Any:
        """Return the mask `[batch, 1, query, key]`, or one for each kind of layer."""
        if self._one_kind:
            return self._finish(visible(self._window))
        return {kind: self._finish(visible(window)) for kind, window in self._windows.items()}

    def _finish(self, visible: Bool[Tensor, "batch query key"]) -> Tensor:
        mask = visible[:, None]
        if self._implementation == "sdpa":
            return mask
        low = torch.finfo(self._dtype).min
        return torch.zeros_like(mask, dtype=self._dtype).masked_fill(~mask, low)


def refusal(model: Model) -> str:
    """Why a model cannot take masks of our own, or nothing."""
    config = model.hf.config.get_text_config()
    if config._attn_implementation not in ("sdpa", "eager"):
        return (
            f"Shared computation needs sdpa or eager attention, and {model.name} uses "
            f"{config._attn_implementation!r}"
        )
    strange = set(getattr(config, "layer_types", None) or ()) - ATTENTION_KINDS
    if strange:
        return (
            f"Shared computation needs attention in every layer, and {model.name} has "
            f"{', '.join(sorted(strange))}"
        )
    return ""
