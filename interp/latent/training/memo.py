"""A tokenizer that remembers what it cut: training asks for the same few texts again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from interp.latent.hf import HFSubject

REMEMBERED = 100_000
"""Texts; more push out those unused the longest."""


class Remembering:
    """Stands in for a tokenizer in a subject; whoever asks gets token ids of their own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids = lru_cache(REMEMBERED)(
            lambda text, special: tuple(tokenizer(text, add_special_tokens=special).input_ids)
        )

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        """Token ids of one text, as `input_ids`."""
        return SimpleNamespace(input_ids=list(self._ids(text, add_special_tokens)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@contextmanager
def remembering(subject: HFSubject) -> Iterator[None]:
    """Inside the block the subject's tokenizer remembers; after it, it is the one from before."""
    own = subject.tokenizer
    subject.tokenizer = Remembering(own)
    try:
        yield
    finally:
        subject.tokenizer = own
