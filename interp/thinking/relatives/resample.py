"""Resampling importance: let the model write a step again, and see where its answers go.

From the chain up to before step i the model writes on n times; the first step of each rollout takes
the place of step i (resampled). From the chain up to the end of step i it writes on n times too
(kept): those are the resampled rollouts of step i + 1, so every place is rolled out once. With the
shares of the answers after each,

    resampling_kl          KL(resampled || kept), in nats
    resampling_accuracy    share of kept rollouts that answer y*, less the share of resampled ones
    counterfactual_...     the same, from those resamples only whose step means something else than
                           step i: cosine of embeddings below a threshold

No answer is an answer of its own kind. Shares are smoothed by 1/2 a kind, so that a KL is finite;
it is above zero by chance alone, so each stands beside its null: the mean after shuffling which
rollout was kept. The embedding is the model's own last hidden state, averaged over tokens, unless
another is given; such states lie in a narrow cone, so look at how many resamples survive.

Unlike perturbing a step this asks what the step adds to what the model would have written anyway: a
step that it would write again has no importance, however much the answer rests on it.

Source: Bogdan et al. 2025, "Thought Anchors", arXiv:2506.19143 (resampling and counterfactual
importance; they take 100 rollouts and a cosine of 0.8). The smoothing and the null are ours.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine.model import Model
from interp.errors import InputError, InterpError
from interp.models.tokens import encode
from interp.sites import Site
from interp.thinking.answers import same_answer, split_output
from interp.thinking.cells import cut, full_text
from interp.thinking.relatives.readout import check_chain, wanted_steps
from interp.thinking.relatives.values import Marked, StepValue
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, until_closing

Embed = Callable[[Sequence[str]], Float[Tensor, "text d"]]
"""Turns texts into one vector each."""

ROLLOUTS, SIMILAR, SMOOTHING = 20, 0.8, 0.5
"""Rollouts a place, the cosine from which two steps mean the same, and what is added to a count."""

FORCED_TOKENS, ROWS, SHUFFLES = 20, 32, 200
"""Tokens after the cue, rollouts written at once, shuffles of the null."""

MEASURES = ("resampling_kl", "resampling_accuracy", "counterfactual_kl", "counterfactual_accuracy")


@dataclass(frozen=True)
class Rollout:
    """One continuation of a chain."""

    id: str
    kept: int
    """How many steps of the chain it continues."""
    index: int
    text: str
    """What the model wrote."""
    step: str
    """The first step of it: empty where it wrote none."""
    answer: str | None
    """The answer that it ends with; None where none could be read."""
    forced: bool
    """Whether the answer was asked for with the cue."""
    cosine: float | None = None
    """Of its first step and the one that it replaces; None where either is missing."""


@dataclass(frozen=True)
class Importance:
    """What resampling one step does to the answers."""

    id: str
    step: int
    n_kept: int
    n_resampled: int
    n_different: int
    """Resamples whose step means something else: those behind the counterfactual columns."""
    kl: float
    kl_null: float
    """The same after shuffling which rollout was kept: the level of chance."""
    accuracy: float
    """Signed: positive where the step makes y* more frequent."""
    different_kl: float | None
    different_kl_null: float | None
    different_accuracy: float | None
    reason: str | None
    """Why the counterfactual columns are None."""

    @property
    def values(self) -> list[StepValue]:
        """The four measures; accuracies by size."""
        found = (self.kl, abs(self.accuracy), self.different_kl, self.different_accuracy)
        return [
            StepValue(
                self.id,
                self.step,
                measure,
                None if value is None else abs(value),
                self.reason if value is None else None,
            )
            for measure, value in zip(MEASURES, found, strict=True)
        ]


@dataclass(frozen=True)
class Resampled:
    """All rollouts of a chain and what they say of its steps."""

    importances: tuple[Importance, ...]
    rollouts: tuple[Rollout, ...]
    marked: tuple[Marked, ...]

    @property
    def values(self) -> list[StepValue]:
        """The four measures of each step, in order."""
        return [value for each in self.importances for value in each.values]


def resample(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    n: int = ROLLOUTS,
    only: Iterable[int] | None = None,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    max_new_tokens: int = 128,
    embed: Embed | None = None,
    similar: float = SIMILAR,
) -> Resampled:
    """Roll out a chain from before and after each step, and compare the answers.

    A step whose rollouts fail is marked; the others are kept.

    Args:
        n: rollouts from each place.
        only: steps to measure; None for all.
        seed: the rollouts of a place depend on it, the problem and the place alone.
        max_new_tokens: a rollout longer than this is cut off and asked with the cue.
        embed: vectors of texts, all in one call; None takes `mean_hidden(model)`. Try
            `centred(mean_hidden(model))` where too few resamples survive.
        similar: a resample with at least this cosine to the step means the same.

    Raises:
        InputError: no steps, or not those of `only`; fewer than 2 rollouts; a cosine outside
            -1 to 1; or a chain too long to be continued.
    """
    check_chain(chain)
    wanted = wanted_steps(chain, only)
    _check(model, chain, rules, n, similar, max_new_tokens)
    embed = embed or mean_hidden(model)
    places = sorted({place for step in wanted for place in (step, step + 1)})
    rolled: dict[int, list[Rollout]] = {}
    failed: dict[int, str] = {}
    for place in places:
        settings = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        try:
            rolled[place] = _roll(model, chain, rules, place, n, seed, settings)
        except InterpError as error:
            failed[place] = str(error)
    _place_cosines(chain, rolled, embed)
    importances, marked = [], []
    for step in wanted:
        if why := failed.get(step) or failed.get(step + 1):
            marked.append(Marked(chain.problem.id, step, seed, MEASURES[0], why))
            continue
        key = (seed, chain.problem.id, step)
        importances.append(importance(chain, step, rolled[step + 1], rolled[step], similar, key))
    rollouts = tuple(each for place in sorted(rolled) for each in rolled[place])
    return Resampled(tuple(importances), rollouts, tuple(marked))


def _check(
    model: Model, chain: Chain, rules: Rules, n: int, similar: float, max_new_tokens: int
) -> None:
    if n < 2:
        raise InputError(f"n={n}: a distribution of answers needs at least 2 rollouts.")
    if not -1 <= similar <= 1:
        raise InputError(f"similar={similar}: a cosine lies between -1 and 1; give such as 0.8.")
    length = len(encode(model.tokenizer, chain.prompt + full_text(chain.text, rules)))
    if length + max_new_tokens + FORCED_TOKENS > model.sizes.n_ctx:
        raise InputError(
            f"The chain of {chain.problem.id} has {length} tokens with its cue; {max_new_tokens} "
            f"new ones and an answer exceed the context of {model.name}, {model.sizes.n_ctx}: "
            "ask for fewer."
        )


# -------------------------------------------------------------------------------------- rollouts


def prefix(chain: Chain, kept: int) -> str:
    """The first `kept` steps as text, without spaces at the end: the model writes its own.

    A line break at the end stays, since it is what ends a step without a full stop.
    """
    return "".join(step.text for step in chain.steps[:kept]).rstrip(" \t")


def _roll(
    model: Model,
    chain: Chain,
    rules: Rules,
    place: int,
    n: int,
    seed: int,
    settings: dict[str, float],
) -> list[Rollout]:
    """Write on n times from one place, and read each answer."""
    before = prefix(chain, place)
    texts: list[str] = []
    finished: list[bool] = []
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        stream = _stream(seed, chain.problem.id, place, start)
        prompts = [chain.prompt + before] * rows
        written = model.generate(prompts, seed=stream, **settings)
        texts += written.texts
        finished += written.finished
    answers = [
        _written(chain, rules, before + text) if done else None
        for text, done in zip(texts, finished, strict=True)
    ]
    silent = [i for i, answer in enumerate(answers) if answer is None]
    forced = _forced(model, chain, rules, [before + texts[i] for i in silent])
    for i, answer in zip(silent, forced, strict=True):
        answers[i] = answer
    return [
        Rollout(
            chain.problem.id, place, i, text, _first_step(text, rules), answers[i], i in set(silent)
        )
        for i, text in enumerate(texts)
    ]


def _stream(*key: object) -> int:
    """A seed of 31 bits by a stable hash."""
    digest = hashlib.sha256(repr(("rollout", *key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _first_step(text: str, rules: Rules) -> str:
    steps = cut(text.partition(rules.think_tags[1])[0], rules)
    return steps[0].text.strip() if steps else ""


def _written(chain: Chain, rules: Rules, text: str) -> str | None:
    opened = chain.prompt.rstrip().endswith(rules.think_tags[0])
    return split_output(text, think_tags=rules.think_tags, opened=opened).answer


def _forced(model: Model, chain: Chain, rules: Rules, texts: Sequence[str]) -> list[str | None]:
    """The greedy answers after the cue; equal texts are asked once."""
    distinct = list(dict.fromkeys(texts))
    found: dict[str, str | None] = {}
    for start in range(0, len(distinct), ROWS):
        group = distinct[start : start + ROWS]
        prompts = [chain.prompt + full_text(text, rules) for text in group]
        said = model.generate(prompts, max_new_tokens=FORCED_TOKENS).texts
        found |= {text: _read(answer, rules) for text, answer in zip(group, said, strict=True)}
    return [found[text] for text in texts]


def _read(written: str, rules: Rules) -> str | None:
    if rules.closing:
        answer = until_closing(written, rules.closing) or ""
    else:
        answer = written.lstrip().partition("\n")[0].strip().rstrip(".")
    return answer.strip() or None


# ---------------------------------------------------------------------------- what means the same


def mean_hidden(model: Model) -> Embed:
    """Embed a text as the model's last hidden state (after the final norm), a mean over tokens.

    Special tokens that the tokenizer adds are left out of the mean.

    Raises:
        SiteError: the model has no `ln_final`.
    """
    model.check_sites([Site.parse("ln_final")])

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Float[Tensor, "text d"]:
        special = set(model.tokenizer.all_special_ids)
        found = []
        for text in texts:
            run = model.run(text, capture=["ln_final"], logits="last")
            own = [i for i, token in enumerate(run.ids[0]) if token not in special]
            states = run.acts["ln_final"][0].float()
            found.append((states[own] if own else states).mean(0).cpu())
        return torch.stack(found)

    return embed


def centred(embed: Embed) -> Embed:
    """Take from each vector the mean of all vectors compared, so that they leave their cone.

    A cosine then says how alike two steps are among those of this chain and its rollouts.
    """

    def around_mean(texts: Sequence[str]) -> Float[Tensor, "text d"]:
        vectors = embed(texts)
        return vectors - vectors.mean(0)

    return around_mean


def _place_cosines(chain: Chain, rolled: dict[int, list[Rollout]], embed: Embed) -> None:
    """Compare the first step of each rollout with the step that it replaces."""
    replaced = {
        place: chain.steps[place].text.strip() for place in rolled if place < len(chain.steps)
    }
    steps = [each.step for place in replaced for each in rolled[place]]
    texts = list(dict.fromkeys(text for text in [*replaced.values(), *steps] if text))
    if not texts:
        return
    vectors = embed(texts)
    if len(vectors) != len(texts) or not bool(vectors.isfinite().all()):
        raise InputError(
            f"The embedding gave {len(vectors)} vectors for {len(texts)} texts, or some that are "
            "not finite: give one finite vector a text."
        )
    vectors = vectors.double()
    units = dict(
        zip(texts, vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30), strict=True)
    )
    for place, text in replaced.items():
        rolled[place] = [
            replace(each, cosine=_cosine(units, text, each.step)) for each in rolled[place]
        ]


def _cosine(units: dict[str, Tensor], one: str, other: str) -> float | None:
    if not one or not other:
        return None
    return 1.0 if one == other else float(units[one] @ units[other])


# ------------------------------------------------------------------------------------ importance


def importance(
    chain: Chain,
    step: int,
    kept: Sequence[Rollout],
    resampled: Sequence[Rollout],
    similar: float = SIMILAR,
    key: tuple[object, ...] = (0,),
) -> Importance:
    """Compare the answers of rollouts that keep a step with those that write it again.

    A resample without a first step of its own (it ends at once) counts as different. `key` seeds
    the null.
    """
    different = [each for each in resampled if each.cosine is None or each.cosine < similar]
    base, again = [each.answer for each in kept], [each.answer for each in resampled]
    other = [each.answer for each in different]
    share = accuracy(base, chain.answer)
    reason = None
    if not other:
        reason = f"no resample means something else: all {len(again)} have a cosine of {similar} up"
    return Importance(
        chain.problem.id,
        step,
        n_kept=len(base),
        n_resampled=len(again),
        n_different=len(other),
        kl=answer_kl(again, base),
        kl_null=null_kl(again, base, key),
        accuracy=share - accuracy(again, chain.answer),
        different_kl=answer_kl(other, base) if other else None,
        different_kl_null=null_kl(other, base, key) if other else None,
        different_accuracy=share - accuracy(other, chain.answer) if other else None,
        reason=reason,
    )


def accuracy(answers: Sequence[str | None], correct: str) -> float:
    """The share of answers that agree with `correct`; no answer does not.

    >>> accuracy(["18", "18.0", None, "20"], "18")
    0.5
    """
    return fmean(each is not None and same_answer(each, correct) for each in answers)


def kinds(answers: Sequence[str | None]) -> list[int]:
    """Number the answers so that those that agree share a number; None is a kind of its own.

    >>> kinds(["18", None, "18.0", "20", None])
    [0, 1, 0, 2, 1]
    """
    known: list[str | None] = []
    found = []
    for answer in answers:
        place = next((i for i, each in enumerate(known) if _agree(each, answer)), None)
        if place is None:
            place = len(known)
            known.append(answer)
        found.append(place)
    return found


def _agree(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return same_answer(one, other)


def answer_kl(answers: Sequence[str | None], base: Sequence[str | None]) -> float:
    """KL(answers || base) of the smoothed shares of the kinds of answers in either, in nats.

    >>> round(answer_kl(["1", "2", "2", "2"], ["1", "1", "1", "2"]), 4)  # 0.4 ln(3.5 / 1.5)
    0.3389
    """
    numbers = kinds([*answers, *base])
    return _kl(numbers[: len(answers)], numbers[len(answers) :])


def _kl(one: Sequence[int], other: Sequence[int]) -> float:
    n = len({*one, *other})
    p, q = _shares(one, n), _shares(other, n)
    return math.fsum(p[kind] * math.log(p[kind] / q[kind]) for kind in p)


def _shares(numbers: Sequence[int], n: int) -> dict[int, float]:
    counts = Counter(numbers)
    total = len(numbers) + SMOOTHING * n
    return {kind: (counts[kind] + SMOOTHING) / total for kind in range(n)}


def null_kl(
    answers: Sequence[str | None], base: Sequence[str | None], key: tuple[object, ...]
) -> float:
    """The mean KL where both samples are drawn from one: what chance alone gives, in nats.

    Answers are shuffled between the two samples, whose sizes stay.
    """
    numbers = kinds([*answers, *base])
    if len(set(numbers)) == 1:
        return 0.0
    stream = random.Random(repr(key))
    found = []
    for _ in range(SHUFFLES):
        stream.shuffle(numbers)
        found.append(_kl(numbers[: len(answers)], numbers[len(answers) :]))
    return fmean(found)
