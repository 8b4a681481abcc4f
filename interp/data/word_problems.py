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
    rng = random.Random(f"{seed}/{i}")
    name, friend = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
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
    return WordProblem(f"word-{seed}-{i}", question, solution, str(total - gone))


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
