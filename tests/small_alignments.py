"""A run of `interp align` on a decoder that is over in seconds."""

from __future__ import annotations

import pytest

from interp.alignment.fitting import BUDGETS, Budget
from interp.alignment.interchange_training import Recipe
from interp.jobs import align_cells, align_decoders, align_guards, align_worlds, runs

TINY = Budget(steps=4, batch=32, check_every=4, inputs=2000, held_out=120)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give fits, tables, controls and the positive control next to nothing, and write no report."""
    monkeypatch.setitem(BUDGETS, "smoke", TINY)
    monkeypatch.setattr(align_decoders, "_sizes", lambda n: ((60, 60), (200, 1100)))
    monkeypatch.setattr(align_worlds, "TRAINED_INPUTS", 2048)
    monkeypatch.setattr(align_worlds, "PLANTING", Recipe(steps=6, batch=64))
    for part in (align_cells, align_guards):
        monkeypatch.setattr(part, "LIMITED", 1100)
        monkeypatch.setattr(part, "SEARCHED", 20)
    monkeypatch.setattr(align_guards, "CURVE_SIZES", (100, 5000))
    monkeypatch.setattr(align_guards, "TOLD_APART", 40)
    monkeypatch.setattr(runs, "write_report", lambda store: None)
