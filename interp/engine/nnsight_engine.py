"""The nnsight engine: the same taps, placed inside an nnsight trace.

nnsight wraps a twin of the model (modules of its own, shared weights), because it replaces the
`forward` of every module it wraps. Importing nnsight adds a method to every Python object, so this
module is imported only when the engine is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from nnsight import NNsight
from torch import Tensor

from interp.engine.hooks import head_results, model_inputs, replaced, with_results
from interp.engine.loading import twin
from interp.engine.model import Model
from interp.engine.session import Tap
from interp.errors import SiteError
from interp.models.tokens import Batch
from interp.sites import INSIDE_ATTENTION, Site


class NNsightModel(Model):
    """Executes each forward pass as one nnsight trace."""

    engine = "nnsight"

    @cached_property
    def wrapped(self) -> Any:
        """The nnsight model, around a twin that shares the weights."""
        return NNsight(twin(self.hf))

    @property
    def sites(self) -> list[str]:
        """Every site but those inside the attention function."""
        return [s for s in self.book.sites if Site.parse(s).component not in INSIDE_ATTENTION]

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise SiteError for an unknown site, or one inside the attention function."""
        for site in sites:
            self.book.require(site)
            if site.component in INSIDE_ATTENTION:
                raise SiteError(
                    f"The engine nnsight has no site '{site}': it lies inside the attention "
                    "function; use engine='torch'."
                )

    def forward(
        self, batch: Batch, taps: Mapping[Site, Tap], *, cache: Any = None, keep: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Execute one trace; taps are visited in the order in which the model computes them."""
        inputs = model_inputs(batch, cache=cache, keep=keep)
        places = [(self._envoy(site), site, tap) for site, tap in _in_order(self, taps)]
        with self.wrapped.trace(**inputs):
            for envoy, site, tap in places:
                self._visit(envoy, site, tap)
            logits = self.wrapped.output.logits.save()
        return logits, cache

    def _envoy(self, site: Site) -> Any:
        envoy = self.wrapped
        for name in self.book.address(site).path.split("."):
            envoy = envoy[int(name)] if name.isdecimal() else getattr(envoy, name)
        return envoy

    def _visit(self, envoy: Any, site: Site, tap: Tap) -> None:
        """Tap one module inside the trace."""
        address = self.book.address(site)
        if address.end == "shared_input":  # in place: the skip connection holds this very tensor
            act = envoy.input
            new = replaced(act, address, self.sizes, tap)
            if new is not None:
                act.copy_(new)
        elif address.end == "input":
            new = replaced(envoy.input, address, self.sizes, tap)
            if new is not None:
                envoy.input = new
        elif address.end == "result":
            module = self.hf.get_submodule(address.path)
            result = head_results(module, envoy.input, self.sizes)
            new = tap(result)
            if new is not None:
                envoy.output = with_results(module, envoy.output, result, new)
        else:
            output = envoy.output
            act = output[0] if isinstance(output, tuple) else output
            new = replaced(act, address, self.sizes, tap)
            if new is not None:
                envoy.output = (new, *output[1:]) if isinstance(output, tuple) else new


def _in_order(model: NNsightModel, taps: Mapping[Site, Tap]) -> list[tuple[Site, Tap]]:
    """Sort taps by when a block computes them; a parallel block's MLP and attention stay sorted."""
    return sorted(taps.items(), key=lambda item: item[0].order)
