"""Long multiplication by running sums, as an algorithm.

Digits are counted from the right. For operands a and b of n digits

    chat_k = (sum over i + j = k of a_i b_j) + r_(k-1),   r_k = chat_k // 10,   c_k = chat_k mod 10

with r_(-1) = 0, and c_0 .. c_(2n-1) are the digits of a * b. A running sum chat_k gives both a
digit of the answer and the carry into the next one.

Source: Bai et al. 2025, arXiv:2510.00184.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.errors import InputError

BASE = 10
MAX_DIGITS = 9
"""Of an operand: the product fits in 64 bits."""


def running_sums(digit: int, n_digits: int = 3) -> CausalModel:
    """Return the algorithm for one digit of the product of two numbers of n digits.

    Inputs are a0, a1, .., b0, b1, .. (a0 is the last digit as written), variables chat_0, r_0,
    chat_1, r_1, .. as far as the digit needs them, and the output is c_<digit>.

    >>> running_sums(1, n_digits=2).inner
    ('chat_0', 'r_0', 'chat_1')

    Raises:
        InputError: operands of fewer than 1 or more than 9 digits, or a digit that no product has.
    """
    if not 1 <= n_digits <= MAX_DIGITS:
        raise InputError(f"Operands of {n_digits} digits: give 1 to {MAX_DIGITS}.")
    if not 0 <= digit < 2 * n_digits:
        raise InputError(
            f"Digit {digit} of a product of two {n_digits}-digit numbers: its digits are 0 (the "
            f"last as written) to {2 * n_digits - 1}."
        )
    return CausalModel(
        f"running_sums_{digit}",
        tuple(f"{operand}{i}" for operand in "ab" for i in range(n_digits)),
        tuple(_variables(digit, n_digits)),
        f"c_{digit}",
    )


def operand_inputs(
    a: Int[Tensor, "n digit"], b: Int[Tensor, "n_b digit_b"]
) -> dict[str, Int[Tensor, " n"]]:
    """Return the digits of two batches of numbers, the last as written first, as inputs.

    >>> inputs = operand_inputs(torch.tensor([[2, 4]]), torch.tensor([[7, 0]]))  # 42 * 7 = 294
    >>> running_sums(1, n_digits=2).run(inputs)["c_1"].item()
    9

    Raises:
        InputError: the operands differ in shape, or an entry is no digit.
    """
    if a.shape != b.shape:
        raise InputError(
            f"Operands of shapes {list(a.shape)} and {list(b.shape)}: pad both with zeros to one "
            "width."
        )
    columns = {"a": a, "b": b}
    for name, digits in columns.items():
        wrong = digits[(digits < 0) | (digits >= BASE)]
        if len(wrong):
            raise InputError(f"Operand {name} holds {wrong[0].item()}: give digits 0 to 9.")
    return {
        f"{name}{i}": digits[:, i] for name, digits in columns.items() for i in range(a.shape[1])
    }


def _variables(digit: int, n_digits: int) -> Iterator[Variable]:
    for k in range(digit + 1):
        terms = [(i, k - i) for i in range(n_digits) if 0 <= k - i < n_digits]
        carry = (f"r_{k - 1}",) if k else ()
        parents = (*(f"a{i}" for i, _ in terms), *(f"b{j}" for _, j in terms), *carry)
        yield Variable(f"chat_{k}", parents, _sum_of_products(len(terms)))
        if k < digit:
            yield Variable(f"r_{k}", (f"chat_{k}",), lambda chat: chat // BASE)
    yield Variable(f"c_{digit}", (f"chat_{digit}",), lambda chat: chat % BASE)


def _sum_of_products(n_terms: int) -> Callable[..., Tensor]:
    """Digits of a, as many of b, and perhaps a carry: sum of a_i b_j, plus the carry."""

    def chat(*read: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        products = [read[i] * read[n_terms + i] for i in range(n_terms)]
        return torch.stack([*products, *read[2 * n_terms :]]).sum(0)

    return chat
