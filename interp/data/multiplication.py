"""Products of two numbers, digit by digit, with every inner variable of the written method known.

A number is its digits, the least significant first and zero padded to a fixed width, so each digit
of each answer stands at one position whatever the product. A row of `n_digits = 3` is

    a0 a1 a2 * b0 b1 b2 = # c0 c1 c2 c3 c4 c5

and for implicit chain of thought the partial products and their running totals stand between
`=` and `#`. The inner variables are

    s_k = sum over i + j = k of a_i b_j        chat_k = s_k + r_(k-1),  r_(-1) = 0
    c_k = chat_k mod 10                        r_k = floor(chat_k / 10)

`chat_k` fixes both the digit and the carry, so it is what probes and alignments look for.

Source: Bai et al. 2025, arXiv:2510.00184, section 2; the chain is that of Deng et al. 2024,
arXiv:2405.14838.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.data.counterfactuals import Table, uniform
from interp.data.running_sums import BASE, operand_inputs, running_sums
from interp.errors import InputError

VOCABULARY = tuple("0123456789*=#+()")
"""Token i is the i-th of these; a digit's id is its value."""
TIMES, EQUALS, ANSWER, PLUS, OPEN, CLOSE = range(BASE, len(VOCABULARY))
HELD_OUT_ONE_IN = 61
UNSEEN_ONE_IN = 13
Split = Literal["train", "held_out", "any"]
Apart = Literal["train", "validation", "test", "unseen"]
"""Splits of an alignment, which share no pair of operands."""


@dataclass(frozen=True, eq=False)
class Products:
    """Pairs of operands and all that the written method computes on the way, one row a pair."""

    a: Int[Tensor, "row digit"]
    """Digits of the first operand, least significant first."""
    b: Int[Tensor, "row digit"]
    s: Int[Tensor, "row answer"]
    """Sum of the digit products of each place."""
    chat: Int[Tensor, "row answer"]
    """That sum with the carry from the place below."""
    r: Int[Tensor, "row answer"]
    """The carry to the place above."""
    c: Int[Tensor, "row answer"]
    """Digits of the product, least significant first."""

    def __len__(self) -> int:
        return len(self.a)

    @property
    def n_digits(self) -> int:
        """Digits of an operand; the product has twice as many."""
        return self.a.shape[1]

    @property
    def operands(self) -> Int[Tensor, "row digit2"]:
        """Return a0, a1, ..., b0, b1, ...: what a baseline reads."""
        return torch.cat([self.a, self.b], dim=1)


def products(a: Int[Tensor, "row digit"], b: Int[Tensor, "row digit"]) -> Products:
    """Return the inner variables of some products.

    Raises:
        InputError: an entry is no digit.

    >>> found = products(torch.tensor([[9, 1]]), torch.tensor([[5, 2]]))  # 19 * 25 = 475
    >>> found.s.tolist(), found.chat.tolist(), found.c.tolist()
    ([[45, 23, 2, 0]], [[45, 27, 4, 0]], [[5, 7, 4, 0]])
    """
    for name, digits in (("a", a), ("b", b)):
        if len(digits) and not 0 <= int(digits.min()) <= int(digits.max()) < BASE:
            raise InputError(
                f"{name} holds {int(digits.min())} to {int(digits.max())}: give digits 0 to 9, "
                "least significant first (see digits_of)."
            )
    width = a.shape[1]
    s = a.new_zeros(len(a), 2 * width)
    for i in range(width):
        s[:, i : i + width] += a[:, i : i + 1] * b
    chat, carry = [], a.new_zeros(len(a))
    for k in range(2 * width):
        chat.append(s[:, k] + carry)
        carry = chat[-1] // BASE
    sums = torch.stack(chat, dim=1)
    return Products(a, b, s, sums, sums // BASE, sums % BASE)


def digits_of(numbers: Int[Tensor, " row"], width: int) -> Int[Tensor, "row digit"]:
    """Return the digits of numbers, least significant first, padded with zeros.

    Raises:
        InputError: a number is negative or has more digits.

    >>> digits_of(torch.tensor([475, 7]), 4).tolist()
    [[5, 7, 4, 0], [7, 0, 0, 0]]
    """
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < BASE**width:
        raise InputError(
            f"Numbers from {int(numbers.min())} to {int(numbers.max())} do not fit {width} digits: "
            "widen them."
        )
    places = BASE ** torch.arange(width, device=numbers.device)
    return numbers[:, None] // places % BASE


def numbers_of(digits: Int[Tensor, "row digit"]) -> Int[Tensor, " row"]:
    """Return the numbers that digits stand for: the inverse of `digits_of`.

    >>> numbers_of(torch.tensor([[5, 7, 4, 0]])).tolist()
    [475]
    """
    return (digits * BASE ** torch.arange(digits.shape[1], device=digits.device)).sum(dim=1)


def draw(n: int, n_digits: int, generator: torch.Generator, *, split: Split = "any") -> Products:
    """Draw pairs of operands, uniform among numbers of exactly `n_digits` digits.

    One pair in 61 is held out, by a rule of the two numbers alone: "train" never draws it and
    "held_out" draws no other, so no list has to be kept.

    Raises:
        InputError: `n` or `n_digits` is below 1, or numbers are too large for int64.
    """

    def wanted(pairs: Int[Tensor, "row 2"]) -> Bool[Tensor, " row"]:
        if split == "any":
            return torch.ones(len(pairs), dtype=torch.bool)
        return is_held_out(pairs) == (split == "held_out")

    return _drawn(n, n_digits, generator, wanted)


def draw_apart(
    n: int, n_digits: int, generator: torch.Generator, *, split: Apart = "train"
) -> Products:
    """Draw pairs of operands for the splits of an alignment.

    `unseen` has first operands, one number in 13, that no other split has. `test` has of the rest
    those that networks never train on, and `validation` those of another residue.

    Raises:
        InputError: as `draw`.
    """

    def wanted(pairs: Int[Tensor, "row 2"]) -> Bool[Tensor, " row"]:
        unseen = pairs[:, 0] * 7919 % UNSEEN_ONE_IN == 0
        if split == "unseen":
            return unseen
        place = {"test": _residue(pairs) == 0, "validation": _residue(pairs) == 1}
        return ~unseen & place.get(split, _residue(pairs) > 1)

    return _drawn(n, n_digits, generator, wanted)


def _drawn(
    n: int,
    n_digits: int,
    generator: torch.Generator,
    wanted: Callable[[Int[Tensor, "row 2"]], Bool[Tensor, " row"]],
) -> Products:
    if n < 1 or not 1 <= n_digits <= 9:
        raise InputError(f"{n} pairs of {n_digits} digits: ask for 1 or more pairs of 1 to 9.")
    low, high = BASE ** (n_digits - 1), BASE**n_digits
    found: list[Tensor] = []
    while sum(map(len, found)) < n:
        pairs = torch.randint(low, high, (n + 64, 2), generator=generator)
        found.append(pairs[wanted(pairs)])
    a, b = torch.cat(found)[:n].T
    return products(digits_of(a, n_digits), digits_of(b, n_digits))


def is_held_out(pairs: Int[Tensor, "row 2"]) -> Bool[Tensor, " row"]:
    """Return which pairs of numbers are never trained on: a congruence modulo 61."""
    return _residue(pairs) == 0


def _residue(pairs: Int[Tensor, "row 2"]) -> Int[Tensor, " row"]:
    return (pairs[:, 0] * 7919 + pairs[:, 1] * 104729) % HELD_OUT_ONE_IN


def draw_distinct(
    n: int, n_digits: int, generator: torch.Generator, *, split: Split = "any"
) -> Products:
    """Draw different pairs, as `draw` does but each once at most; what probes are fitted on.

    Raises:
        InputError: there are not so many, or too many to list: `n_digits` is above 3.
    """
    if not 1 <= n_digits <= 3:
        raise InputError(f"{n_digits} digits: pairs of 1 to 3 digits can be listed; use draw.")
    numbers = torch.arange(BASE ** (n_digits - 1), BASE**n_digits)
    pairs = torch.cartesian_prod(numbers, numbers)
    if split != "any":
        pairs = pairs[is_held_out(pairs) == (split == "held_out")]
    if not 1 <= n <= len(pairs):
        raise InputError(f"{n} different pairs: there are 1 to {len(pairs)} of {n_digits} digits.")
    a, b = pairs[torch.randperm(len(pairs), generator=generator)[:n]].T
    return products(digits_of(a, n_digits), digits_of(b, n_digits))


def encode(
    data: Products, chain: Int[Tensor, "row thought"] | None = None
) -> Int[Tensor, "row pos"]:
    """Return rows of tokens; `chain` stands between `=` and `#`.

    >>> row = encode(products(torch.tensor([[9, 1]]), torch.tensor([[5, 2]])))[0]
    >>> " ".join(VOCABULARY[i] for i in row)
    '9 1 * 5 2 = # 5 7 4 0'
    """
    between = data.a.new_zeros(len(data), 0) if chain is None else chain
    mark = data.a.new_ones(len(data), 1)
    parts = [data.a, TIMES * mark, data.b, EQUALS * mark, between, ANSWER * mark, data.c]
    return torch.cat(parts, dim=1)


def thoughts(data: Products) -> Int[Tensor, "row thought"]:
    """Return the written chain: shifted partial products, and each new running total in brackets.

    For n digits `p_0 + p_1 (t_1) + ... + p_(n-1)` with `p_j = a * b_j * 10^j` in n + 1 + j digits
    and `t_j = p_0 + ... + p_j` in as many; the last total is the answer, so it is left out. There
    are `n_thoughts` of them.

    >>> chain = thoughts(products(torch.tensor([[9, 1]]), torch.tensor([[5, 2]])))  # 95 + 380
    >>> "".join(VOCABULARY[i] for i in chain[0])
    '590+0830'
    """
    mark = data.a.new_ones(len(data), 1)
    first, total, parts = numbers_of(data.a), data.a.new_zeros(len(data)), []
    for j in range(data.n_digits):
        width, partial = data.n_digits + 1 + j, first * data.b[:, j] * BASE**j
        total = total + partial
        parts += [PLUS * mark] * (j > 0) + [digits_of(partial, width)]
        if 0 < j < data.n_digits - 1:
            parts += [OPEN * mark, digits_of(total, width), CLOSE * mark]
    return torch.cat(parts, dim=1)


def n_thoughts(n_digits: int) -> int:
    """Return how many tokens the written chain has.

    >>> n_thoughts(2), n_thoughts(3)
    (8, 24)
    """
    widths = range(n_digits + 1, 2 * n_digits + 1)
    return sum(widths) + n_digits - 1 + sum(width + 2 for width in widths[1:-1])


def digit_name(column: int, n_digits: int) -> str:
    """Return the name of an operand's digit by its column in `Products.operands`.

    >>> digit_name(0, 3), digit_name(4, 3)
    ('a0', 'b1')
    """
    return f"{'ab'[column // n_digits]}{column % n_digits}"


def digit_position(column: int, n_digits: int) -> int:
    """Return where that digit stands in a row.

    >>> [digit_position(column, 3) for column in range(6)]
    [0, 1, 2, 4, 5, 6]
    """
    return column + column // n_digits


def predicting(n_digits: int, n_thoughts: int = 0) -> tuple[int, ...]:
    """Return the positions whose logits predict c_0, c_1, ...: from `#` to the digit before.

    >>> predicting(3)
    (8, 9, 10, 11, 12, 13)
    """
    start = 2 * n_digits + 2 + n_thoughts
    return tuple(range(start, start + 2 * n_digits))


def alignment_table(data: Products, k: int, variables: tuple[str, ...] | None = None) -> Table:
    """Return products as inputs of interchange interventions on the running sum of digit k.

    The inputs are rows of tokens up to c_(k-1), whose last position predicts c_k; a base keeps its
    own digits before c_k, whatever the intervention. Pairs draw a base and a source for each
    variable, and interchange every non-empty set of variables equally often.

    Raises:
        InputError: no digit k, or a variable that the algorithm lacks or no input varies.
    """
    algorithm = running_sums(k, data.n_digits)
    names = (f"chat_{k}",) if variables is None else variables
    values = algorithm.run(operand_inputs(data.a, data.b))
    inputs = encode(data)[:, : predicting(data.n_digits)[k] + 1]
    return Table(algorithm, names, inputs, values, uniform)
