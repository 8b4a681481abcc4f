"""How far back a text depends on its own tokens: noise on a token or a step, and what is lost.

Replace one unit of a text (a token, or a whole step) by noise and read the log-probability of the
clean tokens after it, teacher forced:

    drop(source, target) = log Pr(target | clean text) - log Pr(target | text with noise at source)

in nats, a mean over the target's tokens. `dependency(distance)` is the mean drop over all pairs
that far apart, for sources in the question and in the chain apart. The labels are those of the
clean copy, so a noised source is never a target of its own. Noise reaches what stands between
source and target as well: a drop is the whole effect, not the direct one.

All sequences go through one token tree, so a prefix is computed once, and noise that changes
nothing gives exactly zero.

Source: Chen et al. 2024, "Masked Thought", arXiv:2403.02178 (the noise on the input copy, labels
kept); the profile by distance is ours, since the paper gives none in figures.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from interp.engine.model import Model
from interp.engine.tree import Continuation, Spent, score
from interp.errors import InputError
from interp.models.tokens import encode
from interp.stats import cluster_bootstrap
from interp.thinking.cells import full_text
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Tokeniser
from interp.thinking.spans import token_span

Part = Literal["question", "chain", "answer"]
"""What a unit belongs to."""
By = Literal["token", "step"]
"""The unit that is replaced and that distances count."""


@dataclass(frozen=True, eq=False)
class Located:
    """A chain with its cue and answer as token ids, and where its parts lie: `(first, stop)`."""

    ids: tuple[int, ...]
    question: tuple[int, int]
    steps: dict[int, tuple[int, int]]
    """By step; white space around a step belongs to none."""
    lost: dict[int, str]
    """Steps whose tokens cannot be told apart from their neighbours', with the reason."""
    answer: tuple[int, int]


@dataclass(frozen=True)
class Unit:
    """Neighbouring tokens that are replaced together: `ids[first:stop]`."""

    first: int
    stop: int
    part: Part
    place: int
    """What distances count: the position of a token; of steps 0 the question, 1 the first step."""


@dataclass(frozen=True)
class Layout:
    """A text as token ids with its units, in order; tokens in no unit stay as they are."""

    id: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Dependence:
    """What one text loses at one distance."""

    id: str
    part: Part
    """Where the noise is: in the question or in the chain."""
    distance: int
    """Units from the source to the target: 1 is the next one."""
    drop: float
    """Mean over pairs and seeds, in nats a target token; positive where noise hurts."""
    n: int
    """Pairs, counted once a seed."""


@dataclass(frozen=True)
class Dependencies:
    """The profiles of several texts, and those that could not be scored."""

    rows: tuple[Dependence, ...]
    marked: tuple[dict[str, str], ...]
    """Id and reason."""
    spent: Spent


@dataclass(frozen=True)
class AtDistance:
    """A profile's value at one distance: the mean over texts, with its interval."""

    part: Part
    distance: int
    drop: float
    low: float | None
    high: float | None
    n_problems: int
    warning: str | None


# ------------------------------------------------------------------------------- where parts lie


def locate(model: Model, chain: Chain, rules: Rules) -> Located:
    """Tokenise a chain with its cue and answer, and find question, steps and answer in it.

    Raises:
        InputError: the text is too long, or the question or the answer is not located.
    """
    name = chain.problem.id
    text = chain.prompt + full_text(chain.text, rules) + chain.answer + rules.closing
    ids = tuple(encode(model.tokenizer, text))
    if len(ids) > model.sizes.n_ctx:
        raise InputError(
            f"The chain of {name} has {len(ids)} tokens with its cue and answer, and {model.name} "
            f"holds {model.sizes.n_ctx}: shorten it."
        )
    answer_ids = Tokeniser(model, chain, rules).answer_ids
    if not answer_ids or ids[-len(answer_ids) :] != answer_ids:
        raise InputError(
            f"The answer of {name} is not located at the end of its text: leave it out."
        )
    question = chain.problem.question.strip()
    start = chain.prompt.rfind(question)
    if start < 0:
        raise InputError(f"The question of {name} is not located in its prompt: leave it out.")
    span = token_span(model.tokenizer, text, start, start + len(question))
    steps, lost = _step_spans(model, chain, text)
    return Located(ids, span, steps, lost, (len(ids) - len(answer_ids), len(ids)))


def _step_spans(
    model: Model, chain: Chain, text: str
) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    before = len(chain.prompt)
    steps: dict[int, tuple[int, int]] = {}
    lost: dict[int, str] = {}
    for step in chain.steps:
        end = step.start + len(step.text.rstrip())
        try:
            found = token_span(model.tokenizer, text, before + step.start, before + end)
            steps[step.index] = found
        except InputError as error:
            lost[step.index] = str(error)
    return steps, lost


def layout(model: Model, chain: Chain, rules: Rules, *, by: By | str = "token") -> Layout:
    """Cut a chain's text into units: its tokens, or its question, steps and answer whole.

    The template around the question and the cue are in no unit, yet tokens count in distances.

    Raises:
        InputError: an unknown unit, no located step, and all that `locate` refuses.
    """
    if by not in get_args(By):
        raise InputError(f"by={by!r}: write 'token' or 'step'.")
    found = locate(model, chain, rules)
    name = chain.problem.id
    if not found.steps:
        raise InputError(f"The chain of {name} has no step that is located: leave it out.")
    if by == "step":
        steps = [Unit(*span, "chain", i + 1) for i, span in found.steps.items()]
        question = Unit(*found.question, "question", 0)
        answer = Unit(*found.answer, "answer", len(chain.steps) + 1)
        return Layout(name, found.ids, (question, *steps, answer))
    spans = found.steps.values()
    chain_span = (min(first for first, _ in spans), max(stop for _, stop in spans))
    units = [
        *token_units(found.question, "question"),
        *token_units(chain_span, "chain"),
        *token_units(found.answer, "answer"),
    ]
    return Layout(name, found.ids, tuple(units))


def token_units(span: tuple[int, int], part: Part) -> tuple[Unit, ...]:
    """Make each token of `[first, stop)` a unit of its own.

    >>> token_units((3, 5), "chain")[1]
    Unit(first=4, stop=5, part='chain', place=4)
    """
    return tuple(Unit(pos, pos + 1, part, pos) for pos in range(*span))


# ----------------------------------------------------------------------------------------- noise


def vocabulary(model: Model) -> tuple[int, ...]:
    """Return the tokens that noise is drawn from: all but the special ones."""
    if model.tokenizer is None:
        return tuple(range(model.sizes.d_vocab))
    special = set(model.tokenizer.all_special_ids)
    n = min(len(model.tokenizer), model.sizes.d_vocab)
    return tuple(token for token in range(n) if token not in special)


def noised(
    ids: Sequence[int],
    spans: Iterable[tuple[int, int]],
    *,
    key: tuple[object, ...],
    tokens: Sequence[int],
    share: float = 1.0,
) -> tuple[int, ...]:
    """Replace each token of `spans` with probability `share` by another one drawn from `tokens`.

    One mask token in `tokens` masks. The draw at a position depends on `key` and the position
    alone: not on the other spans, and a larger share replaces a superset.

    >>> noised((5, 6, 7), [(0, 2)], key=(0,), tokens=(9,))
    (9, 9, 7)

    Raises:
        InputError: `share` is no probability, or there is no token to draw.
    """
    _check_noise(share, tokens)
    out = list(ids)
    for first, stop in spans:
        for pos in range(first, stop):
            stream = random.Random(repr((*key, pos)))
            if stream.random() < share:
                out[pos] = _another(ids[pos], tokens, stream)
    return tuple(out)


def _another(token: int, tokens: Sequence[int], stream: random.Random) -> int:
    """Draw a token that differs from `token`, if there is one."""
    drawn = token
    for _ in range(20):
        drawn = tokens[stream.randrange(len(tokens))]
        if drawn != token:
            break
    return drawn


def _check_noise(share: float, tokens: Sequence[int]) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"share={share}: give a probability from 0 (no noise) to 1.")
    if not tokens:
        raise InputError("There is no token to draw noise from: name at least one.")


# --------------------------------------------------------------------------------------- profile


def dependency(
    model: Model,
    layouts: Sequence[Layout],
    *,
    seeds: Sequence[int] = (0,),
    share: float = 1.0,
    mask: int | None = None,
    sources: Collection[Part] = ("question", "chain"),
    targets: Collection[Part] = ("chain", "answer"),
    longest: int | None = None,
    exact: bool = False,
    chunk: int = 512,
) -> Dependencies:
    """Measure what targets lose when a unit before them is replaced, by distance.

    Cost: for every seed and source the tokens from there to the last target within `longest`.

    Args:
        seeds: one draw of the noise each.
        share: which share of a unit's tokens is replaced; 0 gives exactly zero everywhere.
        mask: a token to replace with; None draws from the vocabulary without special tokens.
        sources: parts that are noised, one unit at a time.
        targets: parts whose tokens are predicted.
        longest: the largest distance asked for; None for all.
        exact: one plain forward pass a sequence instead of the token tree.
        chunk: tokens a forward pass (memory).

    Raises:
        InputError: a setting out of range, before the model runs. A text that cannot be scored is
            marked, the others are kept.
    """
    _check_settings(model, seeds, mask, longest)
    tokens = vocabulary(model) if mask is None else (mask,)
    _check_noise(share, tokens)
    rows: list[Dependence] = []
    marked, spent = [], Spent(0, 0, 0, 0)
    for each in layouts:
        try:
            pairs = _pairs(each, sources, targets, longest)
            cases = _cases(each, pairs, seeds, share, tokens)
            scores = score(model, [c for _, c in cases], exact=exact, chunk=chunk)
        except InputError as error:
            marked.append({"id": each.id, "reason": str(error)})
            continue
        rows += _rows(each, pairs, [unit for unit, _ in cases], scores.token_logprobs, len(seeds))
        spent += scores.spent
    return Dependencies(tuple(rows), tuple(marked), spent)


def _check_settings(
    model: Model, seeds: Sequence[int], mask: int | None, longest: int | None
) -> None:
    if not seeds:
        raise InputError("seeds is empty: give at least one, such as (0,).")
    if mask is not None and not 0 <= mask < model.sizes.d_vocab:
        raise InputError(f"mask={mask}: the vocabulary has {model.sizes.d_vocab} tokens.")
    if longest is not None and longest < 1:
        raise InputError(f"longest={longest}: the nearest token is at distance 1; ask for 1 up.")


Pairs = dict[Unit, list[Unit]]
"""For each source its targets."""


def _pairs(
    layout: Layout, sources: Collection[Part], targets: Collection[Part], longest: int | None
) -> Pairs:
    far = longest or len(layout.ids)
    found: Pairs = {}
    for source in layout.units:
        if source.part in sources:
            found[source] = [
                target
                for target in layout.units
                if target.part in targets
                and target.first >= source.stop
                and target.place - source.place <= far
            ]
    found = {source: reached for source, reached in found.items() if reached}
    if not found:
        raise InputError(
            f"The text {layout.id} has no source in {', '.join(sources)} with a target in "
            f"{', '.join(targets)} after it: name other parts, or a longer distance."
        )
    return found


def _cases(
    layout: Layout, pairs: Pairs, seeds: Sequence[int], share: float, tokens: Sequence[int]
) -> list[tuple[Unit | None, Continuation]]:
    """The clean text first, then every source and seed whose noise changes something."""
    ids = layout.ids
    cases: list[tuple[Unit | None, Continuation]] = [(None, Continuation(ids[:1], ids[1:]))]
    for source, targets in pairs.items():
        end = max(target.stop for target in targets)
        for seed in seeds:
            key = (seed, layout.id)
            span = (source.first, source.stop)
            made = noised(ids, [span], key=key, tokens=tokens, share=share)
            if made != ids:
                prompt = made[: source.stop]
                cases.append((source, Continuation(prompt, ids[source.stop : end])))
    return cases


def _rows(
    layout: Layout,
    pairs: Pairs,
    noised_at: Sequence[Unit | None],
    logprobs: Sequence[Sequence[float]],
    n_seeds: int,
) -> list[Dependence]:
    """Average drops by part and distance; a seed that changed nothing counts as zero."""
    clean = (float("nan"), *logprobs[0])  # the first token has no prediction
    totals: dict[tuple[Part, int], float] = {}
    counts: dict[tuple[Part, int], int] = {}
    for source, targets in pairs.items():
        for target in targets:
            key = source.part, target.place - source.place
            counts[key] = counts.get(key, 0) + n_seeds
    for source, found in zip(noised_at[1:], logprobs[1:], strict=True):
        assert source is not None
        for target in pairs[source]:
            key = source.part, target.place - source.place
            drops = [
                clean[pos] - found[pos - source.stop] for pos in range(target.first, target.stop)
            ]
            totals[key] = totals.get(key, 0.0) + fmean(drops)
    return [
        Dependence(layout.id, part, distance, totals.get((part, distance), 0.0) / n, n)
        for (part, distance), n in sorted(counts.items())
    ]


def profile(
    rows: Sequence[Dependence], *, n_boot: int = 2000, level: float = 0.95, seed: int = 0
) -> list[AtDistance]:
    """Average over texts, each counted once, with intervals over redrawn texts."""
    grouped: dict[tuple[Part, int], list[Dependence]] = {}
    for row in rows:
        grouped.setdefault((row.part, row.distance), []).append(row)
    found = []
    for (part, distance), each in sorted(grouped.items()):
        drops, ids = [row.drop for row in each], [row.id for row in each]
        mean = cluster_bootstrap(drops, ids, n_boot=n_boot, level=level, seed=seed)
        found.append(
            AtDistance(
                part, distance, mean.estimate, mean.low, mean.high, mean.n_units, mean.warning
            )
        )
    return found


def mean_by_part(rows: Iterable[Dependence]) -> dict[str, float]:
    """The mean drop a pair of source and target, for noise in each part.

    >>> mean_by_part([Dependence("a", "chain", 1, 2.0, 3), Dependence("a", "chain", 2, 0.0, 1)])
    {'chain': 1.5}
    """
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for row in rows:
        total[row.part] = total.get(row.part, 0.0) + row.drop * row.n
        count[row.part] = count.get(row.part, 0) + row.n
    return {part: total[part] / count[part] for part in sorted(total)}
