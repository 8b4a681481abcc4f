"""Hooks on a plain Hugging Face model: taps that belong to a context and are gone on any exit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.engine.attention import attention_taps
from interp.engine.session import Tap
from interp.models.addresses import Address, AddressBook, Sizes, split_qkv
from interp.models.tokens import Batch
from interp.sites import INSIDE_ATTENTION, Site


def plain_forward(
    hf: nn.Module, batch: Batch, *, cache: Any = None, keep: Tensor | None = None
) -> tuple[Tensor, Any]:
    """Call a Hugging Face model with mask and position ids, unembedding the columns `keep`."""
    out = hf(**model_inputs(batch, cache=cache, keep=keep))
    return out.logits, cache


def model_inputs(batch: Batch, *, cache: Any, keep: Tensor | None) -> dict[str, Any]:
    """The keyword arguments of a forward pass."""
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "position_ids": batch.position_ids,
        "past_key_values": cache,
        "use_cache": cache is not None,
    }
    return inputs if keep is None else {**inputs, "logits_to_keep": keep}


@contextmanager
def hooked(hf: PreTrainedModel, book: AddressBook, taps: Mapping[Site, Tap]) -> Iterator[None]:
    """Inside the block each tap sits at its site; after it, on any exit, none does."""
    inside = {site: tap for site, tap in taps.items() if site.component in INSIDE_ATTENTION}
    with ExitStack() as stack:
        for site, tap in taps.items():
            if site not in inside:
                stack.callback(_install(hf, book, site, tap).remove)
        if inside:
            stack.enter_context(attention_taps(hf, inside))
        yield


def _install(hf: PreTrainedModel, book: AddressBook, site: Site, tap: Tap) -> Any:
    address = book.address(site)
    module = hf.get_submodule(address.path)
    match address.end:
        case "output":
            return module.register_forward_hook(output_hook(address, book.sizes, tap))
        case "result":
            return module.register_forward_hook(_result_hook(book.sizes, tap))
        case _:
            hook = _input_hook(address, book.sizes, tap)
            return module.register_forward_pre_hook(hook, with_kwargs=True)


def output_hook(address: Address, sizes: Sizes, tap: Tap) -> Callable[..., Any]:
    """A forward hook that hands a module's output to a tap."""

    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        act = output[0] if isinstance(output, tuple) else output
        new = replaced(act, address, sizes, tap)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _input_hook(address: Address, sizes: Sizes, tap: Tap) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        act = args[0] if args else kwargs["hidden_states"]
        new = replaced(act, address, sizes, tap)
        if new is None:
            return None
        if address.end == "shared_input":  # the skip connection holds this very tensor
            act.copy_(new)
            return None
        if args:
            return (new, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": new}

    return hook


def _result_hook(sizes: Sizes, tap: Tap) -> Callable[..., Any]:
    """At `attn.result` a tap sees each head's own part of the output."""

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        result = head_results(module, args[0], sizes)
        new = tap(result)
        return None if new is None else with_results(module, output, result, new)

    return hook


def with_results(module: nn.Module, output: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The attention output with some heads' results replaced.

    Tokens whose results changed get the sum of the new ones; the others keep their bits. (Adding
    the difference to the old sum instead would leave rounding where the answer is exactly zero.)
    """
    bias: Any = getattr(module, "bias", None)
    total = new.sum(2) if bias is None else new.sum(2) + bias
    return torch.where((new != old).any(-1).any(-1, keepdim=True), total, output)


def head_results(out_projection: nn.Module, z: Tensor, sizes: Sizes) -> Tensor:
    """Return what each head adds: `[batch, pos, head, d_model]`, the bias left out."""
    weight: Any = out_projection.weight
    if isinstance(out_projection, nn.Linear):  # [out, in]; GPT-2's Conv1D has [in, out]
        weight = weight.T
    by_head = weight.unflatten(0, (sizes.n_heads, sizes.d_head))
    return torch.einsum("bphd,hdm->bphm", z.unflatten(-1, (sizes.n_heads, sizes.d_head)), by_head)


def replaced(act: Tensor, address: Address, sizes: Sizes, tap: Tap) -> Tensor | None:
    """Cut an activation as its address says, tap it, and put it back; None if unchanged."""
    if address.part is not None:
        view = split_qkv(act, address, sizes)
        new = tap(view)
        if new is None:
            return None
        whole = act.clone()
        split_qkv(whole, address, sizes).copy_(new)
        return whole
    if address.heads is not None:
        new = tap(act.unflatten(-1, (address.heads, sizes.d_head)))
        return None if new is None else new.flatten(-2)
    return tap(act)
