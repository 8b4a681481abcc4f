"""Taps inside the attention function, through transformers' attention registry.

For the length of a context the model's attention implementation is a function of our own, made for
that context and registered under a name of its own. It taps the rotated queries and keys and the
values, and then calls the implementation that the model had, so the fast kernel is kept; only taps
at scores, patterns or single heads' copies of keys and values need the explicit product. On exit
the implementation is as before and the name is gone from the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.engine.session import Tap
from interp.errors import ModelError
from interp.sites import Site

EXPLICIT = frozenset({"attn.k_each", "attn.v_each", "attn.scores", "attn.pattern"})


@contextmanager
def attention_taps(hf: PreTrainedModel, taps: Mapping[Site, Tap]) -> Iterator[None]:
    """Inside the block, the attention of each tapped layer calls its taps."""
    before = hf.config.get_text_config()._attn_implementation
    if before not in ("eager", "sdpa"):
        raise ModelError(
            f"Sites inside attention need the sdpa or eager implementation, and this model uses "
            f"{before!r}: load it with attn_implementation='sdpa'."
        )
    by_layer: dict[int, dict[str, Tap]] = {}
    for site, tap in taps.items():
        assert site.layer is not None
        by_layer.setdefault(site.layer, {})[site.component] = tap
    function = _tapped_attention(by_layer, before)
    with attention_function(hf, function):
        yield


@contextmanager
def attention_function(hf: PreTrainedModel, function: Callable[..., Any]) -> Iterator[None]:
    """Let the model use an attention function of ours, with the masks of its own."""
    before = hf.config.get_text_config()._attn_implementation
    name = f"interp_{id(function):x}"
    configs: dict[int, Any] = {id(m.config): m.config for m in hf.modules() if hasattr(m, "config")}
    held = [(config, config._attn_implementation_internal) for config in configs.values()]
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
    try:
        for config, _ in held:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in held:
            config._attn_implementation_internal = implementation
        type(ALL_ATTENTION_FUNCTIONS)._global_mapping.pop(name, None)
        type(ALL_MASK_ATTENTION_FUNCTIONS)._global_mapping.pop(name, None)


def _tapped_attention(by_layer: Mapping[int, Mapping[str, Tap]], before: str) -> Callable[..., Any]:
    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        taps = by_layer.get(module.layer_idx, {})
        new = query.shape[2]  # with a cache, keys and values hold earlier columns too
        query = _tap_columns(taps.get("attn.rot_q"), query, new)
        key = _tap_columns(taps.get("attn.rot_k"), key, new)
        if before == "sdpa" and not EXPLICIT & taps.keys():
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)
        heads = query.shape[1]
        key = _tap_columns(taps.get("attn.k_each"), _each_head(key, heads), new)
        value = _tap_columns(taps.get("attn.v_each"), _each_head(value, heads), new)
        return explicit_attention(query, key, value, mask, taps, **kwargs)

    return attention


def _each_head(shared: Tensor, n_heads: int) -> Tensor:
    return shared.repeat_interleave(n_heads // shared.shape[1], dim=1)


def _tap_columns(tap: Tap | None, act: Tensor, new: int) -> Tensor:
    """Tap the last `new` columns of `[batch, head, pos, d]`, shown as `[batch, pos, head, d]`."""
    if tap is None:
        return act
    edited = tap(act[:, :, -new:].transpose(1, 2))
    if edited is None:
        return act
    return torch.cat([act[:, :, :-new], edited.transpose(1, 2)], dim=2)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    taps: Mapping[str, Tap],
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with taps at the scores and the pattern.

    All of query, key and value are `[batch, head, pos, d_head]`; the mask is boolean (True: may
    attend), additive, or None for causal. Returns z `[batch, pos, head, d_head]` and the pattern.
    """
    if s_aux is not None or position_bias is not None:
        raise ModelError(
            "This model's attention has sinks or position biases, which are not supported inside "
            "attention: use attn.q, attn.k, attn.v or attn.z."
        )
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + _additive(mask, scores)
    scores = _tapped(taps.get("attn.scores"), scores)
    exact = torch.promote_types(scores.dtype, torch.float32)
    pattern = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)
    pattern = _tapped(taps.get("attn.pattern"), pattern)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


def _tapped(tap: Tap | None, act: Tensor) -> Tensor:
    new = None if tap is None else tap(act)
    return act if new is None else new


def _additive(mask: Tensor | None, scores: Tensor) -> Tensor:
    low = torch.finfo(scores.dtype).min
    if mask is None:
        n_query, n_key = scores.shape[-2:]
        mask = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device)
        mask = mask.tril(n_key - n_query)
    if mask.dtype != torch.bool:
        return mask[..., : scores.shape[-1]]
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, low)
