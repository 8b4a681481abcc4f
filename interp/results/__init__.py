"""Records and manifests: what a run computed, and how to make it again. Needs no model."""

from __future__ import annotations

from interp.results.manifest import SCHEMA, Manifest, collect, file_hash, source_hash
from interp.results.show import render
from interp.results.store import Store, cell_key

__all__ = [
    "SCHEMA",
    "Manifest",
    "Store",
    "cell_key",
    "collect",
    "file_hash",
    "render",
    "source_hash",
]
