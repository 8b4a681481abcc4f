"""A chain wired by hand into a GPT-2: the planted chain as a real transformer, run as Coconut is.

The prompt is a class and a serial number, `<bos> class serial <start>`. One attention head of one
layer does all: the start marker looks at the class, the end marker at the slot before it, and every
other position at `<bos>`, which holds nothing. So a slot's output is the content it was fed, and a
read-out after s steps states the content of slot s: the influence is that of the kind `chain`.

Wiring. Everything is a pair of entries (a, -a), so the norm's mean is 0 and its divisor is known:
with contents, positions and markers as pairs of size 1 over d entries it is sqrt(4/d) where a
content and a position meet, and sqrt(8/d) where attention adds a content of size sqrt(2) to a
marker and a position. Both give contents of size 1 after the final norm.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp.data.latent_problems import LatentProblem, task_tokenizer
from interp.errors import InputError
from interp.latent.layout import Layout
from interp.latent.subjects import Coconut

SERIALS = 400
"""How many problems there are: each has a number of its own in its question."""
FIRST_SERIAL = 100
CLASS_POS, START_POS = 1, 3
"""Where the class and the start marker stand."""
SURE = 60.0
"""How far ahead, in logits, is what must win: what loses has e^-60 of the weight."""


class PlantedChain(Coconut):
    """A GPT-2 of one layer whose steps pass on a class, with W[t, s] = K for all s >= t.

    Args:
        n_steps: T.
        n_classes: n, up to 100.
        gap: b, how many nats of logit the class of a read-out is ahead of the other classes.

    Raises:
        InputError: fewer than 2 steps or classes, more than 100 classes, or a gap not above 0.
    """

    def __init__(self, *, n_steps: int = 4, n_classes: int = 5, gap: float = 3.0) -> None:
        if n_steps < 2 or not 2 <= n_classes <= FIRST_SERIAL or gap <= 0:
            raise InputError(
                f"A planted chain has 2 steps or more, 2 to {FIRST_SERIAL} classes and a gap above "
                f"0; not {n_steps} steps, {n_classes} classes and a gap of {gap}."
            )
        self.n_classes, self.gap = n_classes, gap
        n_ctx = (
            START_POS + n_steps + 3
        )  # the prompt from 0 on, the slots, the end marker, the answer
        words = [*range(n_classes), *range(FIRST_SERIAL, FIRST_SERIAL + SERIALS)]
        tokenizer = task_tokenizer(map(str, words), n_ctx=n_ctx)
        layout = Layout(
            "{question}<start>", "<end>", "{step}", "{answer}", mark="", eos=False, bos=True
        )
        hf = _wired(tokenizer, n_classes, n_ctx, gap)
        super().__init__(hf, tokenizer, n_steps=n_steps, layout=layout, name="planted-gpt2-chain")

    def draw(self, n: int, first: int = 0) -> list[LatentProblem]:
        """Make the problems numbered `first` to `first + n - 1`; repeatable.

        Raises:
            InputError: numbers that are not 0 to `SERIALS` - 1.
        """
        if first < 0 or first + n > SERIALS:
            raise InputError(
                f"Problems {first} to {first + n - 1}: they are numbered 0 to {SERIALS - 1}."
            )
        return [self._problem(i) for i in range(first, first + n)]

    def _problem(self, i: int) -> LatentProblem:
        """Each run of `n_classes` problems holds every class once."""
        words = list(range(self.n_classes))
        random.Random(f"chain/{i // self.n_classes}").shuffle(words)
        word = str(words[i % self.n_classes])
        question = f"{word} {FIRST_SERIAL + i}"
        return LatentProblem(f"planted-chain-{i}", question, (word,) * self.n_steps, word)


class _Wires:
    """Which pair of entries of a vector means what: (a, -a) at places i and i + d / 2."""

    def __init__(self, n_classes: int, n_ctx: int) -> None:
        self.n_classes, self.half = n_classes, n_classes + n_ctx + 3
        self.d_model = 2 * self.half
        self.start, self.end, self.word = (n_classes + n_ctx + i for i in range(3))

    def pos(self, place: int) -> int:
        """The pair of a position."""
        return self.n_classes + place

    def pair(self, i: int, size: float = 1.0) -> Tensor:
        """The vector that has only this pair."""
        vector = torch.zeros(self.d_model, dtype=torch.float64)
        vector[i], vector[i + self.half] = size, -size
        return vector

    def map(self, source: int, target: int, size: float = 1.0) -> Tensor:
        """The matrix `[in, out]` that writes a pair's size, times `size`, into another pair."""
        return torch.outer(self.pair(source, 0.5), self.pair(target, size))


def _wired(tokenizer: Any, n_classes: int, n_ctx: int, gap: float) -> Any:
    """The model: all weights 0 but those of the wiring."""
    wires = _Wires(n_classes, n_ctx)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=wires.d_model,
        n_layer=1,
        n_head=1,
        n_inner=1,
        n_positions=n_ctx,
        layer_norm_epsilon=1e-12,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
        _embed(hf, tokenizer, wires, n_ctx)
        _attend(hf, wires, n_ctx)
        _read_out(hf, tokenizer, wires, gap)
    return hf


def _ids(tokenizer: Any, text: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(text))


def _embed(hf: Any, tokenizer: Any, wires: _Wires, n_ctx: int) -> None:
    """A class is a content of sqrt(2) and the pair `word`, so its norm's divisor is sqrt(8/d)."""
    table, places = hf.transformer.wte.weight, hf.transformer.wpe.weight
    table[_ids(tokenizer, "<start>")] = wires.pair(wires.start)
    table[_ids(tokenizer, "<end>")] = wires.pair(wires.end)
    for i in range(wires.n_classes):
        table[_ids(tokenizer, str(i))] = wires.pair(i, math.sqrt(2)) + wires.pair(wires.word)
    for place in range(n_ctx):
        places[place] = wires.pair(wires.pos(place))


def _attend(hf: Any, wires: _Wires, n_ctx: int) -> None:
    """Markers look where `looks` says, all else at position 0.

    A query is its target's pair, a key its own position's; a marker takes back the pull of 0.
    """
    d = wires.d_model
    block = hf.transformer.h[0]
    block.ln_1.weight.fill_(1)
    look = SURE * math.sqrt(8 / d)  # a score of SURE on a slot, sqrt(8) SURE between zeroed slots
    sink = SURE * (math.sqrt(8) + 1) / math.sqrt(2)  # position 0 scores SURE more than that
    looks = {START_POS: CLASS_POS, **{place: place - 1 for place in range(START_POS + 1, n_ctx)}}
    query = _all(
        wires.map(wires.pos(own), wires.pos(to), look) for own, to in looks.items()
    ) - _all(
        wires.map(marker, wires.pos(0), 2 * sink * math.sqrt(8 / d))
        for marker in (wires.start, wires.end)
    )
    key = _all(wires.map(wires.pos(place), wires.pos(place)) for place in range(n_ctx))
    value = _all(wires.map(i, i) for i in range(wires.n_classes))
    block.attn.c_attn.weight.copy_(torch.cat([query, key, value], 1))
    block.attn.c_attn.bias[:d] = wires.pair(wires.pos(0), sink)
    block.attn.c_proj.weight.copy_(torch.eye(d) * math.sqrt(8 / d))


def _all(maps: Iterable[Tensor]) -> Tensor:
    """Several maps at once."""
    return torch.stack(list(maps)).sum(0)


def _read_out(hf: Any, tokenizer: Any, wires: _Wires, gap: float) -> None:
    """Contents of size 1 after the final norm; only classes after `<end>`, then the end of text."""
    norm = hf.transformer.ln_f.weight
    norm[: wires.n_classes] = norm[wires.half : wires.half + wires.n_classes] = 2 / math.sqrt(
        wires.d_model
    )
    for marker in (wires.end, wires.word):
        norm[marker] = norm[marker + wires.half] = math.sqrt(8 / wires.d_model)
    head = hf.lm_head.weight
    head.copy_(wires.pair(wires.end, -SURE / 2).expand_as(head))
    for i in range(wires.n_classes):
        head[_ids(tokenizer, str(i))] = wires.pair(i, gap / 2)
    head[tokenizer.eos_token_id] += wires.pair(wires.word, SURE / 2)
