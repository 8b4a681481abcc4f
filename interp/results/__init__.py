"""Records and manifests: what a run computed, and how to make it again. Needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.results.cells import Cell, Cells, cell_key
from interp.results.files import Files
from interp.results.manifest import SCHEMA, Manifest, collect, file_hash, source_hash
from interp.results.show import render
from interp.results.store import Store

if TYPE_CHECKING:
    from interp.results.query import frame

__all__ = [
    "SCHEMA",
    "Cell",
    "Cells",
    "Files",
    "Manifest",
    "Store",
    "cell_key",
    "collect",
    "file_hash",
    "frame",
    "render",
    "source_hash",
]


def __getattr__(name: str) -> Any:
    """Load `frame` when it is first used: pandas and DuckDB take longer than all the rest."""
    if name == "frame":
        from interp.results.query import frame

        return frame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
