"""Which digits of the operands an answer's digit hangs on: logit attribution by digit swaps.

One digit of one operand is replaced by another one. What the network then loses of the logit of
its own clean answer, at the position that predicts c_k, is the effect of that digit on c_k:

    effect(digit, k) = mean over pairs of  logit(t | clean) - logit(t | swapped),
    t = the token that the network prefers on the clean pair

With the `original` prefix the answer's earlier digits stay those of the clean product, and so
contradict the swapped operands; with the `consistent` one they are those of the swapped product.
A network that multiplies shows effects on every digit from the swapped one's own place up.

Source: Bai et al. 2025, arXiv:2510.00184, section 3 (original prefix).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.multiplication import BASE, Products, digit_name, encode, predicting, products
from interp.engine.model import Model
from interp.errors import InputError

PREFIXES = ("original", "consistent")
"""Whose earlier digits stand before the predicted one: the clean product's or the swapped one's."""
ROWS = 512
"""Pairs in one forward pass."""


@dataclass(frozen=True, eq=False)
class SwapMap:
    """The heat map of a network: what each operand digit does to each answer digit."""

    digits: tuple[str, ...]
    """Names of the rows: a0, a1, ..., b0, b1, ..."""
    effect: Float[Tensor, "digit answer"]
    """Mean loss of logit; 0 where the digit does nothing."""
    error: Float[Tensor, "digit answer"]
    """Standard error of that mean over pairs."""
    n_pairs: int
    prefix: str
    """One of `PREFIXES`."""


def swap_map(model: Model, data: Products, *, prefix: str = "original", seed: int = 0) -> SwapMap:
    """Swap each operand digit of each pair once, and average the effects.

    Args:
        model: reads rows of `encode` and predicts answer digits.
        data: clean pairs.
        prefix: whose earlier digits stand before the predicted one.
        seed: of the digits that are put in.

    Raises:
        InputError: the prefix is unknown, or there are fewer than two pairs.
    """
    if len(data) < 2:
        raise InputError(f"{len(data)} pairs: a mean with its error needs 2 or more.")
    stream = torch.Generator().manual_seed(seed)
    columns = range(2 * data.n_digits)
    found = [
        swap_effects(model, data, swap(data, column, stream), prefix=prefix) for column in columns
    ]
    effects = torch.stack(found)
    return SwapMap(
        tuple(digit_name(column, data.n_digits) for column in columns),
        effects.mean(dim=1),
        effects.std(dim=1) / len(data) ** 0.5,
        len(data),
        prefix,
    )


def swap_effects(
    model: Model, clean: Products, swapped: Products, *, prefix: str = "original"
) -> Float[Tensor, "row answer"]:
    """Return what the clean answer loses of its logit on each swapped pair; 0 where none changed.

    Raises:
        InputError: the prefix is unknown, or the two differ in shape.
    """
    if prefix not in PREFIXES:
        raise InputError(f"prefix={prefix!r}: write 'original' or 'consistent'.")
    if clean.a.shape != swapped.a.shape:
        raise InputError(
            f"Clean pairs {list(clean.a.shape)} and swapped ones {list(swapped.a.shape)}: give one "
            "swapped pair for each clean one."
        )
    rows, changed = encode(clean), encode(swapped)
    if prefix == "original":
        changed = torch.cat([changed[:, : -clean.c.shape[1]], clean.c], dim=1)
    before, after = (_answers(model, ids, clean.n_digits) for ids in (rows, changed))
    best = before.argmax(dim=-1, keepdim=True)
    return (before.gather(2, best) - after.gather(2, best))[..., 0]


def swap(data: Products, column: int, stream: torch.Generator) -> Products:
    """Return the pairs with one operand digit replaced by a different one, uniform among those.

    The leading digit of a number stays above 0. `column` counts a0, a1, ..., b0, b1, ...

    Raises:
        InputError: there is no such digit, or a leading digit is 0 already.
    """
    width = data.n_digits
    if not 0 <= column < 2 * width:
        raise InputError(f"column={column}: {width} digits twice are columns 0 to {2 * width - 1}.")
    operands = data.operands.clone()
    low = int(column % width == width - 1)
    old = operands[:, column]
    if len(old) and int(old.min()) < low:
        raise InputError(
            f"{digit_name(column, width)} leads its number and is 0 in a pair: draw numbers of "
            f"exactly {width} digits."
        )
    step = torch.randint(1, BASE - low, old.shape, generator=stream)
    operands[:, column] = low + (old - low + step) % (BASE - low)
    return products(operands[:, :width], operands[:, width:])


def _answers(model: Model, ids: Tensor, n_digits: int) -> Float[Tensor, "row answer d_vocab"]:
    """Return the logits at the positions that predict c_0, c_1, ..."""
    positions: Sequence[int] = predicting(n_digits)
    parts = [
        model.run(part[:, : positions[-1] + 1], logits=positions).logits for part in ids.split(ROWS)
    ]
    return torch.cat(parts)
