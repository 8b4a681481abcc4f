"""Arithmetic chains in the style of GSM8k-Aug: every step is one equation in double brackets.

    Start with 4. Subtract 2. Divide by .5. What do you get?||<<4-2=2>> <<2/.5=4>> #### 4

A raw line is the question, `||`, the equations, `####` and the answer. Numbers below one lose
their leading zero, and some answers hold thousands separators, which reading drops: answers are
compared as text.

Sources: Deng et al. 2023, arXiv:2311.01460, for the data set; Hao et al. 2024, arXiv:2412.06769,
for its use. The chains generated here are a stand-in of our own.

>>> ArithmeticChains().draw(1)[0].steps
('<<12/.5=24>>', '<<24*.5=12>>', '<<12*2=24>>')
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError

EQUATION = re.compile(r"<<[^<>\n]*>>")
"""One step of a chain."""
THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
"""A number with separators: 1,319 or 12,000.50, but not 1,3 or 1319,000."""
TERM = re.compile(r"\d+\.?\d*|\.\d+|[-+*/()]")
ROUNDING = Fraction(1, 100)
"""How far a step's result may be from its value and still be the same, rounded to two places."""


@dataclass(frozen=True)
class ArithmeticChains:
    """Random chains x₀ ∘ a₁ = x₁, x₁ ∘ a₂ = x₂, ...; all values are whole and 0..`largest`.

    Raises:
        InputError: a range of steps that is empty, or values too small to compute with.
    """

    steps: tuple[int, int] = (2, 4)
    """Fewest and most equations of a problem."""
    largest: int = 99
    decimals: bool = True
    """Whether to divide and multiply by .5 as well, as GSM8k-Aug does."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps[0] <= self.steps[1]:
            raise InputError(f"Chains of {self.steps} steps: give the fewest and most, from 1.")
        if self.largest < 9:
            raise InputError(f"The largest value of a chain is {self.largest}: give 9 or more.")

    def draw(self, n: int, seed: int = 0) -> list[LatentProblem]:
        """Make n problems; the first k of a longer list are the same k."""
        return [self._problem(seed, i) for i in range(n)]

    def _problem(self, seed: int, i: int) -> LatentProblem:
        rng = random.Random(f"{seed}/{i}")
        value = rng.randint(2, min(self.largest, 20))
        said, steps = [f"Start with {value}."], []
        for _ in range(rng.randint(*self.steps)):
            sign, operand, result = rng.choice(self._moves(rng, value))
            said.append(f"{VERBS[sign]} {operand}.")
            steps.append(f"<<{value}{sign}{operand}={result}>>")
            value = result
        question = f"{' '.join(said)} What do you get?"
        return LatentProblem(f"chain-{seed}-{i}", question, tuple(steps), str(value))

    def _moves(self, rng: random.Random, value: int) -> list[tuple[str, str, int]]:
        """(sign, operand, result) of one move of each kind that stays within 0..`largest`."""
        moves: list[tuple[str, str, int]] = []
        if value < self.largest:
            operand = rng.randint(1, min(20, self.largest - value))
            moves.append(("+", str(operand), value + operand))
        if value > 0:
            operand = rng.randint(1, min(20, value))
            moves.append(("-", str(operand), value - operand))
            if most := min(9, self.largest // value) - 1:
                operand = rng.randint(2, most + 1)
                moves.append(("*", str(operand), value * operand))
        if divisors := [k for k in range(2, 10) if value and value % k == 0]:
            operand = rng.choice(divisors)
            moves.append(("/", str(operand), value // operand))
        if self.decimals and 0 < value <= self.largest // 2:
            moves.append(("/", ".5", value * 2))
        if self.decimals and value and value % 2 == 0:
            moves.append(("*", ".5", value // 2))
        return moves


VERBS = {"+": "Add", "-": "Subtract", "*": "Multiply by", "/": "Divide by"}


def read_raw(line: str, *, id: str) -> LatentProblem:
    """Read one raw line of GSM8k-Aug.

    >>> read_raw("How much?||<<4-2=2>> <<2/.5=4>> #### 4", id="1").steps
    ('<<4-2=2>>', '<<2/.5=4>>')

    Raises:
        InputError: the line has no `||`, no `####` or no equation, or text between equations.
    """
    question, bar, rest = line.partition("||")
    chain, mark, answer = rest.rpartition("####")
    if not bar or not mark or not question.strip() or not answer.strip():
        raise InputError(
            "no raw line: it must read question||<<4-2=2>> <<2/.5=4>> #### 4, "
            "with a question and an answer"
        )
    steps = split_equations(chain)
    if steps is None:
        raise InputError(f"no chain of equations between || and ####: {chain.strip()[:40]!r}")
    return LatentProblem(id, question.strip(), steps, plain_numbers(answer.strip()))


def write_raw(problem: LatentProblem) -> str:
    """Write a problem as one raw line; inverse of `read_raw` but for the id.

    Raises:
        InputError: a step is no equation in double brackets, or a text would break the line.
    """
    strange = [step for step in problem.steps if not EQUATION.fullmatch(step)]
    if strange or not problem.steps:
        said = f"the step {strange[0]!r}" if strange else "no step"
        raise InputError(f"{problem.id} has {said}; a raw line holds steps such as <<4-2=2>>.")
    for text in (problem.question, problem.answer):
        if "||" in text or "####" in text or "\n" in text or not text.strip():
            raise InputError(
                f"{problem.id} cannot be a raw line: {text[:40]!r} is empty or holds ||, #### or a "
                "line end. Write JSON rows instead."
            )
    return f"{problem.question}||{' '.join(problem.steps)} #### {problem.answer}"


def to_row(problem: LatentProblem) -> dict[str, Any]:
    """The JSON form: `{"question", "steps", "answer"}`."""
    return {"question": problem.question, "steps": list(problem.steps), "answer": problem.answer}


def split_equations(chain: str) -> tuple[str, ...] | None:
    """The equations of a chain, or None if it has none or holds other text.

    >>> split_equations("<<4-2=2>> <<2/.5=4>>"), split_equations("4-2=2")
    (('<<4-2=2>>', '<<2/.5=4>>'), None)
    """
    steps = tuple(EQUATION.findall(chain))
    return steps if steps and not EQUATION.sub("", chain).strip() else None


def plain_numbers(text: str) -> str:
    """The same text without thousands separators.

    >>> plain_numbers("1,319 of 12,000.50; 1,3 and 1319,000 stay")
    '1319 of 12000.50; 1,3 and 1319,000 stay'
    """
    return THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)


def to_number(text: str) -> Fraction:
    """The value of a number as it stands in a chain: 4, .5, 2., -3, 1,319.

    >>> to_number(".5"), to_number("1,319")
    (Fraction(1, 2), Fraction(1319, 1))

    Raises:
        InputError: the text is no such number.
    """
    plain = plain_numbers(text.strip())
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", plain, re.ASCII):
        raise InputError(f"{text!r} is no number such as 4, .5 or 1,319.")
    try:
        return Fraction(plain)
    except ValueError as error:  # Python reads numbers of 4,300 digits at most
        raise InputError(f"{text[:40]!r}... is too long a number.") from error


def false_steps(problem: LatentProblem) -> tuple[int, ...]:
    """Places, from 0, of the equations that do not hold; GSM8k-Aug has some.

    A result may be rounded to two places. What cannot be computed does not hold.

    >>> chain = LatentProblem("1", "?", ("<<4-2=2>>", "<<2/3=.67>>", "<<2*2=5>>"), "5")
    >>> false_steps(chain)
    (2,)
    """
    return tuple(place for place, step in enumerate(problem.steps) if not _holds(step))


def _holds(step: str) -> bool:
    expression, equals, result = step.removeprefix("<<").removesuffix(">>").rpartition("=")
    try:
        return bool(equals) and abs(evaluate(expression) - to_number(result)) < ROUNDING
    except InputError:
        return False


def evaluate(expression: str) -> Fraction:
    """The exact value of +, -, *, / and brackets over numbers; nothing else is run.

    >>> evaluate("2/.5-(1+2)*3")
    Fraction(-5, 1)

    Raises:
        InputError: another sign, brackets that do not match, or a division by zero.
    """
    terms = _terms(plain_numbers(expression).replace(" ", ""))
    try:
        value = _sum(terms)
    except (IndexError, ZeroDivisionError, RecursionError) as error:
        raise InputError(f"{expression[:40]!r} cannot be computed: {_why(error)}.") from error
    if terms:
        raise InputError(f"{expression[:40]!r} cannot be computed: it goes on after its end.")
    return value


def _why(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "it divides by zero"
    return "it ends too early" if isinstance(error, IndexError) else "it is nested too deep"


def _terms(expression: str) -> list[str]:
    """Numbers and signs, the last one first."""
    terms = TERM.findall(expression)
    if "".join(terms) != expression:
        raise InputError(f"{expression[:40]!r} cannot be computed: only numbers, + - * / ( ).")
    return terms[::-1]


def _sum(terms: list[str]) -> Fraction:
    value = _product(terms)
    while terms and terms[-1] in "+-":
        value += _product(terms) if terms.pop() == "+" else -_product(terms)
    return value


def _product(terms: list[str]) -> Fraction:
    value = _factor(terms)
    while terms and terms[-1] in "*/":
        value = value * _factor(terms) if terms.pop() == "*" else value / _factor(terms)
    return value


def _factor(terms: list[str]) -> Fraction:
    term = terms.pop()
    if term in ("-", "+"):
        return -_factor(terms) if term == "-" else _factor(terms)
    if term == "(":
        value = _sum(terms)
        if terms.pop() != ")":
            raise IndexError
        return value
    return to_number(term)


def raw_lines(problems: Iterable[LatentProblem]) -> str:
    """All problems as the text of a raw file, one a line.

    Raises:
        InputError: as `write_raw`.
    """
    return "".join(f"{write_raw(problem)}\n" for problem in problems)
