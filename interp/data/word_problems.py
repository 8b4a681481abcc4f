"""Generated word problems with their worked solutions, and a pool of steps of other problems."""

from __future__ import annotations

import random
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo")
THINGS = ("apples", "books", "coins", "pencils", "stamps", "shells", "marbles", "cards")


@dataclass(frozen=True)
class WordProblem:
    """A question, a worked solution of one step a sentence, and the answer."""

    id: str
    question: str
    solution: str
    answer: str


def word_problems(n: int, *, seed: int = 0) -> list[WordProblem]:
    """Make n problems; the first k of a longer list are the same k.

    >>> word_problems(1)[0].id
    'word-0-0'
    """
    return [_problem(seed, i) for i in range(n)]


def _problem(seed: int, i: int) -> WordProblem:
    """One, one and two operations in turn, so that a small model answers some of them."""
    rng = random.Random(f"{seed}/{i}")
    question, solution, answer = (_gives, _each_day, _finds_and_gives)[i % 3](rng)
    return WordProblem(f"word-{seed}-{i}", question, solution, str(answer))


def _gives(rng: random.Random) -> tuple[str, str, int]:
    (name, friend), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    have, gone = rng.randint(10, 20), rng.randint(2, 8)
    question = (
        f"{name} has {have} {things} and gives {gone} to {friend}. "
        f"How many {things} does {name} have left?"
    )
    solution = (
        f"{name} starts with {have} {things}. "
        f"Giving {gone} to {friend} leaves {have} - {gone} = {have - gone} {things}."
    )
    return question, solution, have - gone


def _each_day(rng: random.Random) -> tuple[str, str, int]:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    many, days = rng.randint(2, 9), rng.randint(3, 9)
    question = (
        f"{name} finds {many} {things} a day. How many {things} does {name} find in {days} days?"
    )
    solution = (
        f"Each day brings {many} {things}. "
        f"In {days} days {name} finds {many} * {days} = {many * days} {things}."
    )
    return question, solution, many * days


def _finds_and_gives(rng: random.Random) -> tuple[str, str, int]:
    (name, friend), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    have, more, gone = rng.randint(8, 20), rng.randint(3, 9), rng.randint(2, 6)
    question = (
        f"{name} has {have} {things}. {name} finds {more} more and gives {gone} to {friend}. "
        f"How many {things} does {name} have now?"
    )
    total = have + more
    solution = (
        f"{name} starts with {have} {things}. "
        f"After finding {more} more, {name} has {have} + {more} = {total} {things}. "
        f"Giving {gone} to {friend} leaves {total} - {gone} = {total - gone} {things}."
    )
    return question, solution, total - gone


def other_steps() -> tuple[str, ...]:
    """Numeric steps of problems that no data set here asks: the pool of the random-step control.

    The pool is fixed, so a control does not depend on which problems are scored together.
    """
    rng = random.Random("other steps")
    steps = []
    for _ in range(48):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        a, b = rng.randint(11, 60), rng.randint(11, 60)
        steps.append(f"In another town {name} counts {a} + {b} = {a + b} {thing}. ")
    return tuple(steps)
