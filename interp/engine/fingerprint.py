"""A fingerprint of a live model, to prove that nothing leaked from a run."""

from __future__ import annotations

import hashlib

from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def fingerprint(hf: PreTrainedModel) -> str:
    """Hash what a run might leave behind (16 hex): equal before and after means no leak.

    Covers every module's name, type, hooks, training flag and replaced `forward`; every
    parameter's identity and version (an in-place change counts one up); the attention
    implementation of each configuration; and the names in the attention registry.
    """
    digest = hashlib.sha256()
    for name, module in hf.named_modules():
        hooks = [
            tuple(map(id, registry.values()))
            for registry in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
        ]
        replaced = sorted(set(module.__dict__) & {"forward", "__call__"})
        config = getattr(module, "config", None)
        attention = getattr(config, "_attn_implementation_internal", None)
        note = (
            name,
            id(module),
            type(module).__name__,
            module.training,
            hooks,
            replaced,
            attention,
        )
        digest.update(repr(note).encode())
    for name, tensor in [*hf.named_parameters(), *hf.named_buffers()]:
        digest.update(repr((name, id(tensor), tensor.data_ptr(), tensor._version)).encode())
    digest.update(repr(sorted(ALL_ATTENTION_FUNCTIONS.valid_keys())).encode())
    return digest.hexdigest()[:16]
