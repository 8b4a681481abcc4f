"""What holds for every test: no network, one thread, checked shapes, the same examples each time.

The order matters: the environment before torch or transformers, the import hook before `interp`.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED_SHAPES = install_import_hook("interp", "beartype.beartype")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Run torch on one thread, where a test has loaded it: the same sums in the same order."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
