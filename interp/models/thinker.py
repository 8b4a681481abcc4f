r"""Texts for a small transformer that is trained to think: what each step does is known beforehand.

In contrast to `interp.models.planted` nobody wires the model. The rule below is in the texts that
it learns from (`experiments/train_thinker.py`), and every step's part in the answer follows from
the rule alone. So a score, a direction or a pruning can be judged by something outside itself.

**Text.** A question holds a guess; each line of the chain is a word and a number:

    Is it 52?        what the question guesses
    tens 3           the first half of a vote
    note 81          decorative: never counts, whatever it states
    units 7          the second half: a vote for 37
    so 37            a vote

**Rule.** The answer is the value with most votes so far; among equals, the one voted for last; the
guess, as long as there is no vote. `USED` words vote, `IDLE` words never do, `units` votes
together with the latest `tens` before it. The model that ignores its chain learns from the same
texts, but always answers the guess.

**Ground truth.** In the chains of `chains` all votes agree, so the rule gives each step its legs
(necessity, sufficiency) in the True-Thinking Score, where perturbed numbers agree with nothing:

    kind          what it is                                    necessity  sufficiency
    base          `tens`: nothing is voted for yet                   0          0
    needed        `units`: both halves or no vote (AND)              1          0
    used          the first or second vote                           1          1
    alternative   a third vote: two others say the same (OR)         0          1
    decorative    an `IDLE` word                                     0          0

Two votes for different values tie, and the last one wins: hence the second vote is used. Two
perturbed numbers can agree by chance (one time in six); `legs_of` takes any numbers as they are.
A `base` step is needed later on, which no early exit right after it can see: leave it out of a
judgement of scores. Source of the score: Zhao et al. 2025, arXiv:2510.24941.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from transformers import LlamaConfig, PreTrainedTokenizerFast

from interp.errors import InputError
from interp.models.tiny import piece_tokenizer, special_ids

USED = ("so", "thus", "hence", "then", "now", "total", "next", "get")
"""Words whose line is a vote."""
IDLE = ("aside", "fun", "note", "idle", "maybe", "like", "such", "also")
"""Words whose line never counts."""
TENS, UNITS = "tens", "units"
"""Words of the two lines that are one vote together."""

CUE = "\nThe final answer is \\boxed{"
"""One token; the answer follows, then `}`."""
QUESTIONS = ("Is it {}?", "What is it, {}?", "Which number, {}?")
"""The guess goes into the braces."""
SMALLEST, LARGEST = 10, 96
"""Values of intact steps: a shift by up to 3 stays one token, 0 to 99."""
DIGITS = (3, 4, 5, 6)
"""Intact digits of `tens` and `units`: a shift by up to 3 stays one digit."""
N_CTX = 256
SHORTEST, LONGEST = 3, 9
"""Lines of a chain."""

Kind = Literal["base", "needed", "used", "alternative", "decorative"]
Legs = tuple[int, int]

TEMPLATES: tuple[tuple[str, ...], ...] = (
    (TENS, UNITS, "vote"),
    ("vote", "vote"),
    (TENS, UNITS, "vote", "vote"),
    ("vote",),
    ("vote", "vote", "vote"),
)
"""The lines that count in each sort of chain, in order."""


class Line(NamedTuple):
    """One line of a chain."""

    word: str
    number: int

    def __str__(self) -> str:
        return f"{self.word} {self.number}"


@dataclass(frozen=True)
class ThinkerChain:
    """A chain of thought for the trained thinkers, with what each of its steps is."""

    id: str
    question: str
    chain: str
    """One step a line."""
    answer: str
    """By the rule, after the whole chain."""
    guess: str
    """What the question guesses: the answer of the model that ignores its chain."""
    kinds: tuple[Kind, ...]
    legs: tuple[Legs, ...]
    """Necessity and sufficiency of each step, by the rule, where perturbed numbers never agree."""


def lines(chain: str) -> list[Line]:
    r"""Read a chain; blank lines and repeated spaces do not matter.

    >>> lines("tens 3\nnote  81")
    [Line(word='tens', number=3), Line(word='note', number=81)]

    Raises:
        InputError: a line is not a word that the thinkers know and a whole number.
    """
    return [_line(text) for text in chain.splitlines() if text.strip()]


def _line(text: str) -> Line:
    word, _, number = text.strip().partition(" ")
    if word not in (*USED, *IDLE, TENS, UNITS) or not number.strip().isdecimal():
        raise InputError(
            f"{text!r} is no line of a thinker's chain: write one of its words and a whole number, "
            f"such as '{USED[0]} 37' or '{IDLE[0]} 81'."
        )
    return Line(word, int(number))


def votes(steps: Sequence[Line]) -> list[int]:
    """Return the values voted for, in order.

    >>> votes([Line("tens", 3), Line("note", 81), Line("units", 7), Line("so", 37)])
    [37, 37]
    """
    found, tens = [], None
    for word, number in steps:
        if word in USED:
            found.append(number)
        elif word == TENS:
            tens = number
        elif word == UNITS and tens is not None:
            found.append(10 * tens + number)
    return found


def answer_of(steps: Sequence[Line], guess: int) -> int:
    """Return the answer by the rule: most votes, then the latest of them, then the guess.

    >>> answer_of([Line("so", 37), Line("also", 12), Line("get", 40)], guess=52)
    40
    """
    cast = votes(steps)
    return max(reversed(cast), key=cast.count, default=guess)


def restated(steps: Sequence[Line], guess: int) -> tuple[int, ...]:
    """Return the steps that state the answer of the votes before them again: its checks.

    A vote that does so is used; a decorative step that does so is not.

    >>> restated([Line("so", 37), Line("note", 37), Line("also", 12), Line("get", 37)], guess=52)
    (1, 3)
    """
    found = []
    for i, (word, number) in enumerate(steps):
        voted = votes(steps[:i])
        if voted and word not in (TENS, UNITS) and number == answer_of(steps[:i], guess):
            found.append(i)
    return tuple(found)


def legs_of(
    steps: Sequence[Line], perturbed: Sequence[Line], guess: int, *, answer: int
) -> list[Legs]:
    """Return necessity and sufficiency of every step, given the perturbed form of each.

    Each is 1, 0 or -1: whether the rule gives `answer` with the step intact, minus whether it does
    with the step perturbed; for necessity the steps before are intact, for sufficiency perturbed.

    Raises:
        InputError: there are not as many perturbed steps as steps.
    """
    if len(steps) != len(perturbed):
        raise InputError(
            f"{len(steps)} steps and {len(perturbed)} perturbed ones: give one for each."
        )

    def right(context: Sequence[Line], step: Line) -> int:
        return int(answer_of([*context, step], guess) == answer)

    return [
        (
            right(steps[:i], step) - right(steps[:i], other),
            right(perturbed[:i], step) - right(perturbed[:i], other),
        )
        for i, (step, other) in enumerate(zip(steps, perturbed, strict=True))
    ]


def _estranged(steps: Sequence[Line]) -> list[Line]:
    """Give each step a number that agrees with no other one, alone or in a pair."""
    return [Line(word, 1000 ** (i + 1) + number) for i, (word, number) in enumerate(steps)]


def kind_of(word: str, legs: Legs) -> Kind:
    """Name a step by its word and legs.

    >>> kind_of("so", (0, 1)), kind_of("units", (1, 0)), kind_of("note", (0, 0))
    ('alternative', 'needed', 'decorative')
    """
    if word in IDLE:
        return "decorative"
    if word == TENS:
        return "base"
    return {(1, 0): "needed", (0, 1): "alternative"}.get(legs, "used")  # type: ignore[return-value]


def chains(n: int, *, seed: int = 0) -> list[ThinkerChain]:
    """Return `n` chains of 3 to 9 steps; the first of `n` are the same for any larger `n`.

    Each follows one of `TEMPLATES`, in turn, with decorative steps drawn around its lines; half of
    the decorative ones state the answer's own value. Half of the guesses are right.

    Raises:
        InputError: `n` is negative.
    """
    if n < 0:
        raise InputError(f"The number of chains cannot be negative, and {n} is; ask for 0 or more.")
    rng = random.Random(seed)
    return [_chain(f"thinker-{seed}-{i}", TEMPLATES[i % len(TEMPLATES)], rng) for i in range(n)]


def _chain(name: str, template: Sequence[str], rng: random.Random) -> ThinkerChain:
    steps, value = draw(template, rng)
    guess = value if rng.random() < 0.5 else _other(value, rng)
    legs = legs_of(steps, _estranged(steps), guess, answer=value)
    return ThinkerChain(
        id=name,
        question=rng.choice(QUESTIONS).format(guess),
        chain="\n".join(map(str, steps)),
        answer=str(value),
        guess=str(guess),
        kinds=tuple(kind_of(step.word, each) for step, each in zip(steps, legs, strict=True)),
        legs=tuple(legs),
    )


def draw(template: Sequence[str], rng: random.Random) -> tuple[list[Line], int]:
    """Draw the lines of one chain in which all votes agree, and the value that they agree on."""
    paired = TENS in template
    tens, units = rng.choice(DIGITS), rng.choice(DIGITS)
    value = 10 * tens + units if paired else rng.randint(SMALLEST, LARGEST)
    digits = {TENS: tens, UNITS: units}
    words = [rng.choice(USED) if word == "vote" else word for word in template]
    steps = [Line(word, digits.get(word, value)) for word in words]
    for _ in range(rng.randint(max(1, SHORTEST - len(steps)), LONGEST - len(steps))):
        number = value if rng.random() < 0.5 else _other(value, rng)
        steps.insert(rng.randint(0, len(steps)), Line(rng.choice(IDLE), number))
    return steps, value


def _other(value: int, rng: random.Random) -> int:
    """Draw a value that is another one, and still is when both are shifted by up to 3."""
    return rng.choice([x for x in range(SMALLEST, LARGEST + 1) if abs(x - value) > 6])


def tokenizer() -> PreTrainedTokenizerFast:
    r"""Return the thinkers' tokenizer: a line is three tokens, the cue is one.

    Numbers and words are tokens, with and without the space before them. What is outside the
    vocabulary is spelled in bytes, so decoding is exact for any text.

    >>> tok = tokenizer()
    >>> tok.convert_ids_to_tokens(tok("so 37\nnote 81").input_ids)
    ['<bos>', 'so', 'Ġ37', 'Ċ', 'note', 'Ġ81']
    """
    numbers = [f"{space}{number}" for space in ("", " ") for number in range(100)]
    words = [*USED, *IDLE, TENS, UNITS, "User", "Assistant", "System"]
    asked = " ".join(QUESTIONS).replace("{}", "").replace("?", "").replace(",", "").split()
    pieces = [CUE, *numbers, *words, *dict.fromkeys(asked), *(f" {word}" for word in asked)]
    return piece_tokenizer(
        pieces,
        pattern=r"\nThe final answer is \\boxed\{| ?\d+| ?\p{L}+|[\s\S]",
        n_ctx=N_CTX,
    )


def config(
    tok: PreTrainedTokenizerFast, *, n_layers: int = 3, d_model: int = 64, n_heads: int = 4
) -> LlamaConfig:
    """Return the architecture: a small Llama with an unembedding of its own."""
    made = LlamaConfig(
        **special_ids(tok),
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        max_position_embeddings=N_CTX,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    made.architectures = ["LlamaForCausalLM"]
    return made
