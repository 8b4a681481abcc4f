"""A workbench for mechanistic interpretability, built around interventions that prove they acted.

The names below load their module when they are first used, so `import interp` costs nothing and
reading records needs no torch.

>>> sorted(set(__all__) - set(_HOME))
['__version__']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention
    from interp.edits import (
        Add,
        Clamp,
        MeanAblate,
        Patch,
        Project,
        ResampleAblate,
        Scale,
        Swap,
        ZeroAblate,
    )
    from interp.engine.check import check
    from interp.engine.loading import load
    from interp.engine.model import Model, Receipt, Run
    from interp.engine.sweep import At, sweep
    from interp.sites import Each, New, Site

    __version__: str

__all__ = [
    "Add",
    "At",
    "Clamp",
    "Each",
    "Knockout",
    "MeanAblate",
    "Model",
    "New",
    "Patch",
    "Project",
    "Receipt",
    "ReplacePattern",
    "ResampleAblate",
    "Run",
    "Scale",
    "ScaleAttention",
    "Site",
    "Swap",
    "ZeroAblate",
    "__version__",
    "check",
    "load",
    "sweep",
]

_HOME = {
    "Add": "interp.edits",
    "At": "interp.engine.sweep",
    "Clamp": "interp.edits",
    "Each": "interp.sites",
    "Knockout": "interp.attention_edits",
    "MeanAblate": "interp.edits",
    "Model": "interp.engine.model",
    "New": "interp.sites",
    "Patch": "interp.edits",
    "Project": "interp.edits",
    "Receipt": "interp.engine.model",
    "ReplacePattern": "interp.attention_edits",
    "ResampleAblate": "interp.edits",
    "Run": "interp.engine.model",
    "Scale": "interp.edits",
    "ScaleAttention": "interp.attention_edits",
    "Site": "interp.sites",
    "Swap": "interp.edits",
    "ZeroAblate": "interp.edits",
    "check": "interp.engine.check",
    "load": "interp.engine.loading",
    "sweep": "interp.engine.sweep",
}


def __getattr__(name: str) -> Any:
    """Return the public name from its own module, or the installed version."""
    if name == "__version__":
        return _version()
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Return the version that pip installed; `0+source` for a source tree never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("interp-workbench")
    except PackageNotFoundError:
        return "0+source"
