"""Chains of deduction with True or False as the answer: a stand-in for ProntoQA.

A made-up person belongs to the first of a chain of concepts, every concept is one of the next, and
every concept has one property, which may be negated. The question is whether the person has the
property of the chain's last concept, `hops` deductions away. A distractor branch, a second chain
that the person does not belong to, ends in the same property the other way round. Where both are
of one length, nothing but the walk from the person tells which end counts.

    Every brimp is a clard. Every clard is not bright. Every fesk is a jarp. Every jarp is bright.
    Anna is a brimp. True or false: Anna is bright.

The chain of thought states what is known, a rule, what follows, the next rule and so on; its
sentences are paired two by two into steps, so five hops give six steps.

Source: Saparov and He 2022, arXiv:2210.01240, for the task; Hao et al. 2024, arXiv:2412.06769, for
the pairing. Words and generator are our own.

>>> ProntoQA(hops=2).draw(1)[0].steps[0]
'Karin is a nask. Every nask is a glimmet.'
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from interp.data.latent_problems import LatentProblem
from interp.data.prosqa import CONCEPTS, NAMES
from interp.errors import InputError

_PROPERTIES = """
    bright cold dull eager fruity happy calm large loud metallic opaque quiet red shy small sour
    spicy sweet tall transparent warm wooden
"""
PROPERTIES = tuple(_PROPERTIES.split())


@dataclass(frozen=True)
class Rule:
    """Every `subject` is a `kind`, or has the property `kind`, or has it not."""

    subject: str
    kind: str
    is_property: bool
    negated: bool = False

    def __str__(self) -> str:
        return f"Every {self.subject} {self.claim}."

    @property
    def claim(self) -> str:
        """What the rule says of a thing: `is a clard`, `is bright`, `is not bright`."""
        return f"is {'not ' if self.negated else ''}{'' if self.is_property else 'a '}{self.kind}"


@dataclass(frozen=True)
class ProntoProblem(LatentProblem):
    """One ontology and one question of True or False."""

    name: str
    chain: tuple[str, ...]
    """The concepts that the person belongs to, in the order in which they are deduced."""
    distractor: tuple[str, ...]
    """The concepts of the other chain, in its order."""
    rules: tuple[Rule, ...]
    """In the order of the question."""
    asked: Rule
    """The claim in question, with the chain's last concept as its subject."""


@dataclass(frozen=True)
class ProntoQA:
    """The generator.

    Raises:
        InputError: fewer than 1 hop, or more hops and distractors than there are words for.
    """

    hops: int = 5
    """Deductions to the answer: hops - 1 from concept to concept, one to the property."""
    distractors: int = 5
    """Concepts of the branch that is never reached; 0 leaves it out, and then no walk is needed."""

    def __post_init__(self) -> None:
        most = len(PROPERTIES)
        if self.hops < 1 or self.distractors < 0 or self.hops + self.distractors > most:
            raise InputError(
                f"{self.hops} hops and {self.distractors} distractors: give 1 or more hops and "
                f"{most} concepts in all at most, because each has a property of its own."
            )

    def draw(self, n: int, seed: int = 0) -> list[ProntoProblem]:
        """Make n problems; the first k of a longer list are the same k.

        Of problems 4j to 4j + 3, two are True, and one of either has a negated property at its end.
        """
        return [self._problem(seed, i) for i in range(n)]

    def _problem(self, seed: int, i: int) -> ProntoProblem:
        rng = random.Random(f"{seed}/{i}")
        block = random.Random(f"{seed}/{i // 4}/block").sample(range(4), 4)[i % 4]
        negated, true = bool(block & 1), bool(block & 2)
        name, words = rng.choice(NAMES), rng.sample(CONCEPTS, self.hops + self.distractors)
        chain, distractor = tuple(words[: self.hops]), tuple(words[self.hops :])
        kinds, facts = _rules(rng, chain, distractor, negated)
        rules = rng.sample([*kinds, *facts], len(kinds) + len(facts))
        last = facts[self.hops - 1]
        asked = Rule(last.subject, last.kind, True, negated == true)
        question = f"{' '.join(map(str, rules))} {name} is a {chain[0]}. True or false: {name} "
        return ProntoProblem(
            id=f"prontoqa-{seed}-{i}",
            question=question + f"{asked.claim}.",
            steps=_steps(name, chain, last),
            answer=str(true),
            name=name,
            chain=chain,
            distractor=distractor,
            rules=tuple(rules),
            asked=asked,
        )


def _rules(
    rng: random.Random, chain: Sequence[str], distractor: Sequence[str], negated: bool
) -> tuple[list[Rule], list[Rule]]:
    """Rules from concept to concept, and the properties: of the chain, then of the distractor."""
    kinds = [Rule(*link, False) for link in (*pairwise(chain), *pairwise(distractor))]
    words = rng.sample(PROPERTIES, len(chain) + len(distractor))
    facts = [
        Rule(concept, word, True, bool(rng.randrange(2)))
        for concept, word in zip((*chain, *distractor), words, strict=True)
    ]
    asked = words[len(chain) - 1]
    facts[len(chain) - 1] = Rule(chain[-1], asked, True, negated)
    if distractor:
        facts[-1] = Rule(distractor[-1], asked, True, not negated)
    return kinds, facts


def _steps(name: str, chain: Sequence[str], last: Rule) -> tuple[str, ...]:
    """The deduction, two sentences a step."""
    sentences = [f"{name} is a {chain[0]}."]
    for rule in (*(Rule(lower, upper, False) for lower, upper in pairwise(chain)), last):
        sentences += [str(rule), f"{name} {rule.claim}."]
    return paired(sentences)


def paired(sentences: Sequence[str]) -> tuple[str, ...]:
    """Join sentences two by two; an odd last one stands alone.

    >>> paired(["A.", "B.", "C."])
    ('A. B.', 'C.')
    """
    return tuple(" ".join(sentences[k : k + 2]) for k in range(0, len(sentences), 2))
