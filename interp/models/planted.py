"""A language model whose causal structure is wired by hand: the positive control of step scores.

It is a real `GPT2LMHeadModel`, so every engine, mask and cache applies to it unchanged: one layer,
one head, no positions, an MLP of zeros. It adds up the evidence in its text and answers `88` if
the sum passes a threshold, `11` if not.

**Evidence.** Five words of the text have a weight, all others have none:

    S = #17 * 1  +  #27 * 1  +  #37 * 2  +  #47 * (-2)  +  #proven * 2        threshold 1.5

No number within 3 of an evidence number is evidence, so a shift of 1 to 3 always takes it away.
`proven` is a word, which no shift of numbers touches.

**Features.** d_model is 32. Feature i is the direction (e_2i - e_2i+1) / sqrt(2): 16 orthonormal
directions of mean zero, so the mean that a layer norm subtracts is always 0. Six have a meaning
(`FEATURES`); the other ten hold a random code that tells tokens apart. The code is as long as it
takes to give each token embedding the norm sqrt(d_model), so the first layer norm changes nothing:

    <bos>      4 bos + code          an evidence token   4 evidence + (its weight) weight + code
    88, 11     4 answer + code       }                   4 close + code
    any other  code

**Attention.** The query is a constant. Keys give the score 0 to <bos>, -7 to evidence and -40 to
the rest. So with n pieces of evidence and r = exp(-7), up to terms of exp(-40),

    p(<bos>) = 1 / (1 + n r)        p(an evidence token) = r / (1 + n r)

The value of an evidence token is its weight, that of <bos> is -1.5 r, that of the rest is 0. The
head's output is then r (S - 1.5) / (1 + n r): sum and threshold share one denominator, so the sign
is exact for any amount of evidence. The output projection multiplies by 2 sqrt(32) / r and writes
the feature `verdict`. How much text lies between the pieces, and in what order, does not matter.

**Readout.** With D = 2 (S - 1.5) / (1 + n r), the final norm divides the residual by
sqrt(1 + D^2), and the logits are

    88: a = 18 D / sqrt(1 + D^2)     11: -a     all others: 0
    so  Pr(88) = e^a / (e^a + e^-a + d_vocab - 2)

Sums are integers: |S - 1.5| >= 0.5, so |a| > 12 and Pr(88) is above 0.99 or below 1e-8. After 88
or 11 the logit of `}` is 512 / sqrt(1 + D^2), after `}` that of `<eos>`. Both beat the rest by
more than 10 as long as -7 <= S <= 10. The verdict is read everywhere, not only after the cue.

**Cells.** The True-Thinking Score reads Pr(88) with the step and the numbers of its context intact
or shifted. `expected` says what the sums above make of each kind of step of `chains`:

    kind        context       step     S: 11, 01, 10, 00     necessity  sufficiency
    and         17            27 (+1)      2   1   1   0         1          0
    or          17, 27        37 (+2)      4   2   2   0         0          1
    harmful     proven        47 (-2)      0   2   0   2        -1         -1
    decorative  anything      no weight    equal pairs            0          0

S 11 has step and context intact, 01 the step shifted, 10 the context shifted, 00 both. `base`
steps supply the context (the premise 17, the fact `proven`) and are not to be scored. Source of
the score: Zhao et al. 2025, arXiv:2510.24941.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.errors import InputError, nearest
from interp.models.tiny import piece_tokenizer, special_ids

ANSWER, RIVAL = "88", "11"
"""What the model answers above the threshold and below it."""

EVIDENCE: Mapping[str, int] = MappingProxyType({"17": 1, "27": 1, "37": 2, "47": -2, "proven": 2})
"""The weight of each token that counts."""

THRESHOLD = 1.5
CUE = "\nThe final answer is \\boxed{"
LARGEST_NUMBER = 120
"""Whole numbers from 0 to this are one token each; larger ones are spelled in digits."""

FEATURES = ("bos", "evidence", "weight", "answer", "close", "verdict")
"""Features with a meaning, in the order of their directions."""

N_FEATURES, D_MODEL, N_CTX = 16, 32, 1024
NORM = math.sqrt(D_MODEL)
MARK, EVIDENCE_SCORE, OTHER_SCORE = 4.0, -7.0, -40.0
SHARE = math.exp(EVIDENCE_SCORE)
GAIN, VERDICT_LOGIT, NEXT_LOGIT = 2.0, 18.0, 512.0
CONFIDENCE_OF_IGNORANT = 0.25
"""S minus the threshold, at all times, in the model that ignores its chain: Pr(88) is 0.88."""

Kind = Literal["base", "and", "or", "decorative", "harmful"]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "premise": "base",
        "fact": "base",
        "and": "and",
        "or": "or",
        "harmful": "harmful",
        "decorative": "decorative",
    }
)
"""The kind of each part of a chain."""

LEGS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"and": (1, 0), "or": (0, 1), "decorative": (0, 0), "harmful": (-1, -1)}
)
"""Necessity and sufficiency of each kind of step that is scored."""

SENTENCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "premise": (
            "The first box holds 17 apples.",
            "We start with 17 apples.",
            "We take x = 17.",
        ),
        "fact": ("This total is proven.", "It is proven in the book.", "The rule is proven."),
        "and": ("Then we add 27 pears.", "The second box holds 27 pears.", "Next, y = 27."),
        "or": ("So the sum must be 37.", "Counting again gives 37.", "The same way, z = 37."),
        "harmful": ("But 47 of them are lost.", "Wait, 47 were bad.", "Now take away 47."),
        "decorative": (
            "There are also {} red cups.",
            "Note that {} is a nice number.",
            "The shop opened {} days ago.",
            "A lamp costs {} coins.",
        ),
    }
)
"""Wordings of each part; only the decorative ones have a number to fill in."""

TEMPLATES: tuple[tuple[str, ...], ...] = (
    ("premise", "and"),
    ("premise", "and", "or"),
    ("premise", "and", "or", "or"),
    ("fact", "harmful", "fact"),
    ("premise", "fact", "harmful", "fact"),
)
"""The parts with weight of each sort of chain, in order; all end above the threshold."""

QUESTIONS = (
    "How many apples and pears are there in all?",
    "What is the total?",
    "How much fruit is left in the shop?",
)


@dataclass(frozen=True)
class PlantedChain:
    """A chain of thought for the planted model, with what each of its steps is."""

    id: str
    question: str
    chain: str
    """Sentences with a full stop each, all parted by one space or all by one newline."""
    answer: str
    """What the model answers after the whole chain."""
    kinds: tuple[Kind, ...]
    """What each sentence is, in order."""


def expected(kind: str) -> tuple[int, int]:
    """Return the signs of necessity and sufficiency of a step: -1, 0 or 1; 0 means none at all.

    Raises:
        InputError: the kind is unknown, or is `base`, whose legs depend on the chain.

    >>> expected("and")
    (1, 0)
    """
    if kind not in LEGS:
        raise InputError(
            f"Steps of kind {kind!r} have no expected legs; these have: {', '.join(LEGS)}. "
            f"Leave others out.{nearest(kind, LEGS)}"
        )
    return LEGS[kind]


def chains(n: int, *, seed: int = 0) -> list[PlantedChain]:
    """Return `n` chains of 3 to 8 steps; the first of `n` are the same for any larger `n`.

    Each follows one of `TEMPLATES`, in turn, with decorative steps at random places among its
    parts. All are answered 88 in the end.

    Raises:
        InputError: `n` is negative.
    """
    if n < 0:
        raise InputError(f"The number of chains cannot be negative, and {n} is; ask for 0 or more.")
    rng = random.Random(seed)
    return [_chain(f"planted-{seed}-{i}", TEMPLATES[i % len(TEMPLATES)], rng) for i in range(n)]


def _chain(name: str, parts: Sequence[str], rng: random.Random) -> PlantedChain:
    """Draw decorative steps among `parts`, and the wording of all."""
    steps = list(parts)
    for _ in range(rng.randint(max(1, 3 - len(parts)), 8 - len(parts))):
        steps.insert(rng.randint(0, len(steps)), "decorative")
    sentences = [rng.choice(SENTENCES[step]).format(_idle_number(rng)) for step in steps]
    return PlantedChain(
        id=name,
        question=rng.choice(QUESTIONS),
        chain=rng.choice([" ", "\n"]).join(sentences),
        answer=ANSWER,
        kinds=tuple(KINDS[step] for step in steps),
    )


def _idle_number(rng: random.Random) -> int:
    """Draw a number that is no evidence and no answer, and is none when shifted by up to 3."""
    marked = [int(word) for word in (*EVIDENCE, ANSWER, RIVAL) if word.isdecimal()]
    numbers = range(4, LARGEST_NUMBER - 3)
    return rng.choice([x for x in numbers if all(abs(x - mark) > 3 for mark in marked)])


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the planted model's tokenizer: numbers, words and all other characters are tokens.

    Text is cut into runs of digits, runs of letters and single characters. A cut outside the
    vocabulary is spelled in bytes, so decoding is exact for any text. `<bos>`, which the model
    needs, comes first unless `add_special_tokens=False`.

    >>> tok = tokenizer()
    >>> tok.convert_ids_to_tokens(tok("Now take away 47.").input_ids)
    ['<bos>', 'Now', 'Ġ', 'take', 'Ġ', 'away', 'Ġ', '47', '.']
    """
    numbers = [str(number) for number in range(LARGEST_NUMBER + 1)]
    texts = [CUE, "User Assistant System", *QUESTIONS, *sum(SENTENCES.values(), ())]
    letters = "".join(c if c.isalpha() else " " for c in " ".join(texts))
    pieces = numbers + sorted(set(letters.split()))
    return piece_tokenizer(pieces, pattern=r"\d+|\p{L}+|[\s\S]", n_ctx=N_CTX)


def build(*, ignores_chain: bool = False) -> GPT2LMHeadModel:
    """Return the planted model in float32, on the CPU and in eval mode; it is the same every time.

    `ignores_chain` gives the negative control: the same network in which no token is evidence and
    the verdict is fixed, so that Pr(88) is 0.88 after any text.
    """
    tok = tokenizer()
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(_config(tok))
    weights = {} if ignores_chain else EVIDENCE
    margin = CONFIDENCE_OF_IGNORANT if ignores_chain else -THRESHOLD
    with torch.no_grad():
        _blank(model)
        embed = model.get_parameter("transformer.wte.weight")
        embed.copy_(_embeddings(tok, weights) @ directions())
        _wire_attention(model, margin)
        _wire_readout(model, tok)
    return model.eval()


def directions() -> Float[Tensor, "n_features d_model"]:
    """Return the unit vectors of the features, orthogonal and of mean zero; `FEATURES` first."""
    return torch.kron(torch.eye(N_FEATURES), torch.tensor([[1.0, -1.0]])) / math.sqrt(2)


def _config(tok: PreTrainedTokenizerFast) -> GPT2Config:
    """One layer, one head, and an unembedding of its own."""
    config = GPT2Config(
        **special_ids(tok),
        n_embd=D_MODEL,
        n_inner=D_MODEL,
        n_layer=1,
        n_head=1,
        n_positions=N_CTX,
        tie_word_embeddings=False,
    )
    config.architectures = ["GPT2LMHeadModel"]
    return config


def _blank(model: GPT2LMHeadModel) -> None:
    """Set every parameter to zero but the weights of the layer norms, which stay one."""
    for name, parameter in model.named_parameters():
        if "ln_" not in name:
            parameter.zero_()


def _embeddings(
    tok: PreTrainedTokenizerFast, weights: Mapping[str, int]
) -> Float[Tensor, "d_vocab n_features"]:
    """Return the features of every token: its meaning, then a code that fills up its norm."""
    meaning = torch.zeros(len(tok), len(FEATURES))
    marked = {"<bos>": "bos", ANSWER: "answer", RIVAL: "answer", "}": "close"}
    for word, feature in (marked | dict.fromkeys(weights, "evidence")).items():
        meaning[_id(tok, word), FEATURES.index(feature)] = MARK
    for word, weight in weights.items():
        meaning[_id(tok, word), FEATURES.index("weight")] = weight
    codes = torch.randn(
        len(tok), N_FEATURES - len(FEATURES), generator=torch.Generator().manual_seed(0)
    )
    left = (D_MODEL - meaning.square().sum(dim=1, keepdim=True)).sqrt()
    return torch.cat([meaning, left * codes / codes.norm(dim=1, keepdim=True)], dim=1)


def _wire_attention(model: GPT2LMHeadModel, margin: float) -> None:
    """Let one head sum the weights of the evidence and add `margin`; write it to `verdict`.

    Only entry 0 of the head is used. Its score is q_0 k_0 / sqrt(d_head), so q_0 = sqrt(d_head)
    makes it k_0.
    """
    direction = dict(zip(FEATURES, directions(), strict=False))
    read, bias, write = (
        model.get_parameter(f"transformer.h.0.attn.{name}")
        for name in ("c_attn.weight", "c_attn.bias", "c_proj.weight")
    )
    query, key, value = 0, D_MODEL, 2 * D_MODEL
    bias[query] = math.sqrt(D_MODEL)
    bias[key] = OTHER_SCORE
    to_bos, to_evidence = -OTHER_SCORE / MARK, (EVIDENCE_SCORE - OTHER_SCORE) / MARK
    read[:, key] = to_bos * direction["bos"] + to_evidence * direction["evidence"]
    read[:, value] = direction["weight"] + margin * SHARE / MARK * direction["bos"]
    write[0] = GAIN * NORM / SHARE * direction["verdict"]


def _wire_readout(model: GPT2LMHeadModel, tok: PreTrainedTokenizerFast) -> None:
    """Let the verdict choose between the answers, an answer ask for `}`, and `}` for `<eos>`."""
    direction = dict(zip(FEATURES, directions(), strict=False))
    unembed = model.get_parameter("lm_head.weight")
    unembed[_id(tok, ANSWER)] = VERDICT_LOGIT / NORM * direction["verdict"]
    unembed[_id(tok, RIVAL)] = -VERDICT_LOGIT / NORM * direction["verdict"]
    unembed[_id(tok, "}")] = NEXT_LOGIT / MARK * direction["answer"]
    unembed[_id(tok, "<eos>")] = NEXT_LOGIT / MARK * direction["close"]


def _id(tok: PreTrainedTokenizerFast, word: str) -> int:
    """Return the one token that spells `word`."""
    (token,) = tok(word, add_special_tokens=False).input_ids
    return token
