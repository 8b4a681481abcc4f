"""The reference engine: the plain Hugging Face model with our hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.engine.hooks import hooked, plain_forward
from interp.engine.model import Model
from interp.engine.session import Tap
from interp.models.tokens import Batch
from interp.sites import Site


class TorchModel(Model):
    """Runs the Hugging Face model itself; hooks belong to a run and are gone on any exit."""

    engine = "torch"

    def forward(
        self, batch: Batch, taps: Mapping[Site, Tap], *, cache: Any = None, keep: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Execute one forward pass of the plain model under hooks."""
        if not taps:
            return plain_forward(self.hf, batch, cache=cache, keep=keep)
        with hooked(self.hf, self.book, taps):
            return plain_forward(self.hf, batch, cache=cache, keep=keep)
