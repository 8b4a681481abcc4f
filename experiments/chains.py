"""Chains of a wanted size, made of real sentences, for measurements of cost."""

from __future__ import annotations

import random

from interp.data.word_problems import NAMES
from interp.engine.model import Model
from interp.models.tokens import encode


def counted_chain(model: Model, *, n_steps: int, n_tokens: int, seed: int = 0) -> str:
    """Write n steps of running sums, padded with words to about `n_tokens` tokens in all."""
    rng = random.Random(seed)
    steps, used = [], 0
    for i in range(n_steps):
        goal = n_tokens * (i + 1) // n_steps
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        name = rng.choice(NAMES)
        text = f"{name} has {a} + {b} = {a + b}"
        while used + len(encode(model.tokenizer, text + ".\n")) < goal - 1:
            text += rng.choice((" in the box", " on the desk", " at home", " by now", " as said"))
        steps.append(text + ".\n")
        used += len(encode(model.tokenizer, steps[-1]))
    return "".join(steps)
