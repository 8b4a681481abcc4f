"""The jobs on latent steps made brief for tests: few resamples, penalties, folds and tokens."""

from __future__ import annotations

from functools import partial

import pytest

from interp.jobs import latent_parts
from interp.latent.commitment import Rules
from interp.latent.probes import ProbeSettings

LOOSE = Rules(top_two=0.0, minority=0.05, drift=0.0)
"""Under which a few noisy samples of a few problems have competing answers."""


def make_brief(patch: pytest.MonkeyPatch) -> None:
    """Patch the jobs; the code has one version, although others may be writing it."""
    modes = latent_parts.modes
    patch.setattr("interp.results.source_hash", lambda *_: "one version")
    patch.setattr("interp.latent.hf.MAX_NEW_TOKENS", 3)  # random models never end a text
    patch.setattr(latent_parts, "shape", partial(latent_parts.shape, n_boot=20))
    patch.setattr(latent_parts, "ProbeSettings", partial(ProbeSettings, l2=(1.0,), folds=3))
    patch.setattr(modes, "commitment", partial(modes.commitment, rules=LOOSE))
