"""The transformer_lens engine: the same taps, placed on a TransformerBridge.

The bridge wraps a twin of the model (modules of its own, shared weights), because it renames inner
modules and switches attention to eager. Raw Hugging Face numerics: no compatibility mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from interp.engine.hooks import model_inputs
from interp.engine.identities import probe_ids
from interp.engine.loading import twin
from interp.engine.model import Model
from interp.engine.session import Tap
from interp.errors import SiteError
from interp.models.addresses import architecture
from interp.models.tokens import Batch
from interp.sites import Site

HOOKS = {
    "embed": "embed.hook_out",
    "pos_embed": "pos_embed.hook_out",
    "ln_final": "ln_final.hook_out",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.rot_q": "attn.hook_rot_q",
    "attn.rot_k": "attn.hook_rot_k",
    "attn.z": "attn.hook_z",
    "attn.result": "attn.hook_result",
    "attn.scores": "attn.hook_attn_scores",
    "attn.pattern": "attn.hook_pattern",
    "mlp.pre": "mlp.hook_pre",
    "mlp.pre_linear": "mlp.hook_pre_linear",
    "mlp.post": "mlp.hook_post",
}
"""Our components in TransformerLens's hook names."""


class TransformerLensModel(Model):
    """Executes each forward pass on a TransformerBridge."""

    engine = "transformer_lens"

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The bridge, around a twin that shares the weights."""
        hf = twin(self.hf)
        hf.config.architectures = [architecture(self.hf)]
        return build_bridge_from_module(
            hf, architecture(self.hf), hf_config=hf.config, dtype=self.dtype, device=self.device
        )

    @property
    def sites(self) -> list[str]:
        """The sites for which the bridge has a hook."""
        return [site for site in self.book.sites if self._has(Site.parse(site))]

    def _has(self, site: Site) -> bool:
        if site.component == "logits":
            return True
        return site.component in HOOKS and _hook_name(site) in self._live

    @cached_property
    def _live(self) -> set[str]:
        """The hooks that really fire, once in a forward pass; some that are listed never do."""
        listed = {_hook_name(Site.parse(site)) for site in self.book.sites if _listed(site)}
        names = sorted(listed & set(self.bridge.hook_dict))
        fired: Counter[str] = Counter()

        def count(name: str) -> Callable[..., None]:
            def hook(act: Tensor, hook: Any) -> None:
                fired[name] += 1

            return hook

        self.bridge.set_use_attn_result(True)
        try:
            with self.bridge.hooks(fwd_hooks=[(name, count(name)) for name in names]):
                batch = self.tokens([probe_ids(self.sizes.d_vocab)])
                self.bridge.original_model(**model_inputs(batch, cache=None, keep=None))
        finally:
            self.bridge.set_use_attn_result(False)
        return {name for name in names if fired[name] == 1}

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise SiteError for an unknown site, or one for which the bridge has no hook."""
        for site in sites:
            self.book.require(site)
            if not self._has(site):
                raise SiteError(
                    f"The engine transformer_lens has no site '{site}': the bridge has no hook "
                    "for it; use engine='torch'."
                )

    def forward(
        self, batch: Batch, taps: Mapping[Site, Tap], *, cache: Any = None, keep: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Execute one forward pass of the bridged model under TransformerLens hooks."""
        hooks: list[Any] = [(_hook_name(site), _hook(site, tap)) for site, tap in taps.items()]
        results = any(site.component == "attn.result" for site in taps)
        if results:
            self.bridge.set_use_attn_result(True)
        try:
            with self.bridge.hooks(fwd_hooks=hooks):
                out = self.bridge.original_model(**model_inputs(batch, cache=cache, keep=keep))
        finally:
            if results:
                self.bridge.set_use_attn_result(False)
        return out.logits, cache


def _listed(site: str) -> bool:
    return Site.parse(site).component in HOOKS


def _hook_name(site: Site) -> str:
    name = HOOKS[site.component]
    return name if site.layer is None else f"blocks.{site.layer}.{name}"


def _hook(site: Site, tap: Tap) -> Callable[..., Any]:
    def hook(act: Tensor, hook: Any) -> Tensor | None:
        new = tap(act)
        if new is not None and site.component == "resid_mid":
            act.copy_(new)  # an alias of the norm's input: the skip connection holds this tensor
            return None
        return new

    return hook
