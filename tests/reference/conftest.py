"""Models for the reference tests, made once a session: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

import interp
from interp.engine.model import Model
from interp.models import registry, tiny

SMOLLM2 = "smollm2-135m"


@pytest.fixture(scope="session")
def tiny_hf() -> Callable[..., PreTrainedModel]:
    """`tiny_hf(name, dtype)`: the plain Hugging Face model, the same object each time."""

    @cache
    def get(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return tiny.build(name, dtype=dtype)

    return get


@pytest.fixture(scope="session")
def tiny_model(tiny_hf: Callable[..., PreTrainedModel]) -> Callable[..., Model]:
    """`tiny_model(name, engine, dtype)`: all engines of one name stand on one live model."""

    @cache
    def get(name: str, engine: str = "torch", dtype: torch.dtype = torch.float32) -> Model:
        return interp.load(tiny_hf(name, dtype), engine=engine, tokenizer=tiny.tokenizer())

    return get


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """SmolLM2 from the user's cache, else converted once a session into a temporary folder."""
    why_not = registry.availability(SMOLLM2)
    if not why_not.startswith("yes"):
        pytest.skip(f"{SMOLLM2} is not here ({why_not})")
    with pytest.MonkeyPatch.context() as patch:
        if "in the cache" not in why_not:
            patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield interp.load(SMOLLM2)
