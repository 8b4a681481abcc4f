"""Layer norms held at the scale of the base run, so that they are linear.

A norm divides its (centred) input by a scale that it computes from that same input. Frozen, it
divides by the scale of the base run instead. Works for `nn.LayerNorm` and for the RMS norms of
transformers; the gain and the bias are the norm's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.engine.hooks import plain_forward
from interp.engine.model import Model
from interp.errors import ModelError
from interp.models.tokens import Batch

Scales = Mapping[str, Tensor]
"""The scale `[prompt, pos, 1]` of each norm, by module path."""
NORMS = ("ln1", "ln1_post", "ln2", "ln2_post")


@torch.no_grad()
def base_scales(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Run a batch once and return the scale `[prompt, pos, 1]` of every norm of the stream.

    Raises:
        ModelError: a norm does not divide by the scale that we read.
    """
    scales: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path in _norms(model):
            module = model.hf.get_submodule(path)
            stack.callback(module.register_forward_hook(_reader(path, scales)).remove)
        plain_forward(model.hf, batch)
    return scales


@contextmanager
def frozen_norms(model: Model, scales: Scales, n: int = 1) -> Iterator[None]:
    """Inside the block each norm divides by its given scale, repeated for `n` times the batch."""
    with ExitStack() as stack:
        for path, scale in scales.items():
            module = model.hf.get_submodule(path)
            stack.callback(module.register_forward_hook(_freezer(scale, n)).remove)
        yield


def _norms(model: Model) -> list[str]:
    """The module paths of the norms that read the residual stream or are added to it."""
    found = [block[name] for block in model.book.blocks for name in NORMS if name in block]
    final = model.book.names.get("ln_final")
    return found if final is None else [*found, final]


def _centred(module: nn.Module, act: Tensor) -> Tensor:
    return act - act.mean(-1, keepdim=True) if isinstance(module, nn.LayerNorm) else act


def _scale(module: nn.Module, act: Tensor) -> Float[Tensor, "*batch one"]:
    given: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if given is None:
        raise ModelError(f"{type(module).__name__} is no norm that can be frozen: it has no eps.")
    exact = _centred(module, act).to(torch.promote_types(act.dtype, torch.float32))
    return (exact.square().mean(-1, keepdim=True) + given).sqrt().to(act.dtype)


def _bias(module: nn.Module) -> Tensor | float:
    bias: Any = getattr(module, "bias", None)
    return 0.0 if bias is None else bias


def _reader(path: str, scales: dict[str, Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple, out: Tensor) -> None:
        scale = _scale(module, args[0])
        unit = _centred(module, args[0]) / scale
        gained = out - _bias(module)
        gain = (gained * unit).flatten(0, -2).sum(0) / unit.square().flatten(0, -2).sum(0)
        error = (gain * unit - gained).norm() / gained.norm()
        if not error < 256 * torch.finfo(torch.promote_types(out.dtype, torch.float16)).eps:
            raise ModelError(
                f"The norm {path} does not divide by the root mean square of its input, so it "
                "cannot be frozen: leave freeze_norms off."
            )
        scales[path] = scale

    return hook


def _freezer(scale: Tensor, n: int) -> Any:
    def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        frozen = scale.expand(n, *scale.shape).flatten(0, 1)
        bias = _bias(module)
        return (out - bias) * (_scale(module, args[0]) / frozen) + bias

    return hook
