"""Pruning: how short a chain may become before its answer goes, and which steps to keep.

A pruning keeps some steps of a chain, in their order and with their own white space, and removes
the rest; then the cue asks for the answer. Steps are kept by rank until the fraction is reached:

    tts       the highest True-Thinking Score first
    signed    the highest mean of the signed legs first: a step that lowers Pr(y*) goes early
    last      the last step first: what a short suffix alone can do
    random    any order, drawn by a stable hash: at least 20 draws beside the others

Of two equal scores the later step is kept. So scores that say nothing prune just as `last` does,
and whatever `tts` has over `last` comes from the scores. The kept sets of one ranking are nested.
A fraction f of n steps keeps ceil(f n) of them: 1 is the chain itself, 0 the cue alone. Steps whose
scores differ by less than rounding (about 1e-5 where Pr(y*) is near 1) are in no real order.

A score reads a step against what stands before it, so the first half of an AND pair (a premise
that only a later step uses) scores 0 and is pruned early. The curve shows what that costs.

Source: Zhao et al. 2026, arXiv:2510.24941 version 4, pruning by score; the random and keep-last
baselines, whose protocol it does not give, are ours.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from interp.engine.answer_sweep import answer_sweep
from interp.engine.model import Model
from interp.engine.tree import Progress, Spent, score
from interp.errors import InputError, nearest
from interp.models.tokens import encode
from interp.stats import Interval, cluster_bootstrap, paired_difference
from interp.thinking.answers import same_answer
from interp.thinking.cells import CellText, full_text
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Tokeniser
from interp.thinking.scored import MeanStep, ScoredChain
from interp.thinking.steer_items import MAX_NEW_TOKENS, answer_ends, read_answer

Measure = Literal["same", "correct", "logprob", "tokens"]

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
KNOWN = ("tts", "signed", "last", "random")
METHODS = ("tts", "last")
N_RANDOM = 20
"""Random prunings of each chain and fraction; fewer carry a warning."""

NOTHING_SPENT = Spent(0, 0, 0, 0)


@dataclass(frozen=True)
class Pruning:
    """Some steps of one chain, and the text that they join to."""

    id: str
    method: str
    draw: int
    """Which random draw; 0 for the methods without chance."""
    fraction: float
    kept: tuple[int, ...]
    """Indices of the kept steps, in their order."""
    n_steps: int
    text: str


@dataclass(frozen=True)
class Pruned:
    """What the model answers after a pruned chain."""

    pruning: Pruning
    logprob: float
    """log Pr(y*) after the cue, in nats, joint over its tokens."""
    full_logprob: float
    """The same after the whole chain."""
    answer: str | None
    """The forced greedy answer; None where there was none, or where it was not asked for."""
    same: bool
    """Whether the greedy answer is y*."""
    correct: bool | None
    """Whether it is the gold answer; None where no gold answer or no greedy answer is known."""
    n_tokens: int
    """Tokens of the pruned chain, prompt and cue left out."""
    full_tokens: int

    def row(self) -> dict[str, Any]:
        """Return one flat record: text left out, the kept steps as `0 2 5`."""
        about, measured = asdict(self.pruning), asdict(self)
        del about["text"], measured["pruning"]
        about["kept"] = " ".join(map(str, self.pruning.kept))
        return {**about, "n_kept": len(self.pruning.kept), **measured}


@dataclass(frozen=True)
class PruneResult:
    """Every pruning of every chain."""

    pruned: tuple[Pruned, ...]
    marked: tuple[dict[str, Any], ...]
    """Chains or prunings that could not be asked, with the reason."""
    warnings: tuple[str, ...]
    spent: Spent
    """What the scoring cost; decoding of other answers is not counted."""


@dataclass(frozen=True)
class Point:
    """One method at one fraction: a measure averaged over problems, and its lead on the baselines.

    `same` and `correct` are shares of chains, `logprob` the change of log Pr(y*) against the whole
    chain in nats, `tokens` the share of the chain's tokens kept. Draws of `random` are
    averaged within a chain first. Intervals resample problems; differences are paired by problem.
    """

    method: str
    fraction: float
    measure: str
    mean: Interval
    above_random: Interval | None
    """The method minus the mean random pruning; None where there is none to compare with."""
    above_last: Interval | None

    def row(self) -> dict[str, Any]:
        """Return one flat record: each interval as its estimate, low and high."""
        row: dict[str, Any] = {
            name: getattr(self, name) for name in ("method", "fraction", "measure")
        }
        for name in ("mean", "above_random", "above_last"):
            interval = getattr(self, name)
            for part in ("estimate", "low", "high"):
                row[f"{name}_{part}"] = getattr(interval, part) if interval else None
        return {**row, "n_problems": self.mean.n_units, "warning": self.mean.warning}


# ------------------------------------------------------------------------------ which steps to keep


def n_kept(fraction: float, n_steps: int) -> int:
    """Return how many of `n_steps` a fraction keeps: at least that share.

    >>> n_kept(0.25, 5), n_kept(0.1, 30), n_kept(0.0, 5), n_kept(1.0, 5)
    (2, 3, 0, 5)
    """
    return min(n_steps, math.ceil(fraction * n_steps - 1e-9))  # 0.1 * 30 is 3.0000000000000004


def ranking(steps: Sequence[MeanStep], method: str, *, draw: int = 0, seed: int = 0) -> list[int]:
    """Return the indices of the steps of one chain, the one to keep longest first."""
    keys: dict[str, Callable[[MeanStep], tuple[float, int]]] = {
        "tts": lambda step: (-step.tts, -step.step),
        "signed": lambda step: (-(step.nec + step.suf) / 2, -step.step),
        "last": lambda step: (0.0, -step.step),
        "random": lambda step: (_hashed("prune", seed, step.id, draw, step.step), step.step),
    }
    return [step.step for step in sorted(steps, key=keys[method])]


def prunings(
    scored: ScoredChain,
    *,
    fractions: Sequence[float] = FRACTIONS,
    methods: Sequence[str] = METHODS,
    n_random: int = N_RANDOM,
    seed: int = 0,
) -> list[Pruning]:
    """Return the prunings of one chain, without a model: every method and draw at every fraction.

    Which steps a random draw keeps depends on (seed, problem, draw) alone.

    Raises:
        InputError: a setting out of range, or a step of the chain has no score.
    """
    check(fractions, methods, n_random)
    chain, means = scored.chain, scored.means
    missing = sorted(set(range(len(chain.steps))) - {step.step for step in means})
    if missing:
        raise InputError(f"steps without a score: {missing}; a ranking needs a score for each step")
    found = []
    for method, draw in _draws(methods, n_random):
        order = ranking(means, method, draw=draw, seed=seed)
        for fraction in sorted(set(map(float, fractions))):
            kept = tuple(sorted(order[: n_kept(fraction, len(order))]))
            text = "".join(chain.steps[step].text for step in kept)
            found.append(Pruning(scored.id, method, draw, fraction, kept, len(order), text))
    return found


def _draws(methods: Sequence[str], n_random: int) -> Iterator[tuple[str, int]]:
    """Each method once, then every random draw."""
    for method in dict.fromkeys(methods):
        if method != "random":
            yield method, 0
    for draw in range(n_random):
        yield "random", draw


def check(fractions: Sequence[float], methods: Sequence[str], n_random: int) -> None:
    """Refuse settings that make no curve.

    Raises:
        InputError: no fraction or one outside 0..1, an unknown method, a negative number of draws,
            or nothing to prune by.
    """
    if not fractions:
        raise InputError("fractions is empty: give shares of the steps to keep, such as 0.5.")
    if len(set(fractions)) < len(fractions):
        told = " ".join(f"{fraction:g}" for fraction in fractions)
        raise InputError(f"fractions holds {told}: name each share to keep once.")
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise InputError(f"fractions holds {fraction}: a share to keep lies between 0 and 1.")
    for method in methods:
        if method not in KNOWN:
            raise InputError(
                f"There is no pruning by {method!r}; there are: {', '.join(KNOWN)}."
                f"{nearest(method, KNOWN)}"
            )
    if n_random < 0:
        raise InputError(f"n_random={n_random}: draw 0 or more random prunings, better {N_RANDOM}.")
    if not n_random and not [method for method in methods if method != "random"]:
        raise InputError("No method is left to prune by: name one, or draw random prunings.")


def _hashed(*key: str | int) -> float:
    """Return a number in 0..1 that depends on the key alone."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# ------------------------------------------------------------------------ what the model answers


@dataclass(frozen=True)
class Asked:
    """What a model answers after a changed chain."""

    logprob: float
    """log Pr(y*) after the cue, in nats, joint over its tokens."""
    answer: str | None
    """The forced greedy answer, y* in its own writing where it agrees; None where there is none."""
    same: bool
    """Whether the greedy answer is y*."""


def ask(
    model: Model,
    chain: Chain,
    rules: Rules,
    texts: Sequence[str],
    *,
    decode: bool = True,
    exact: bool = False,
    chunk: int = 512,
) -> tuple[list[Asked | None], Spent]:
    """Ask for the answer after each text in the chain's place; their common prefixes run once.

    Greedy decoding gives y* where each of its tokens, what closes it included, is the likeliest;
    only elsewhere is the answer decoded, to see what it is.

    Args:
        texts: chains, without the prompt and the cue.
        decode: False leaves other answers unread: None.
        exact: one plain forward pass a text instead of the shared token tree.
        chunk: tokens a forward pass (memory).

    Returns:
        One answer a text, None where the text does not fit the context or cuts the answer into
        other tokens; and what the scoring cost.
    """
    tokens = Tokeniser(model, chain, rules)
    cells = [CellText(0, 0, "asked", full_text(text, rules)) for text in texts]
    whole = [tokens.continuation(cell) for cell in cells]
    sound = [each for each in whole if each]
    if not sound:
        return [None] * len(whole), NOTHING_SPENT
    scores = score(model, sound, exact=exact, chunk=chunk)
    certain = [greedy and rules.closing != "" for greedy in scores.greedy]
    places = [i for i, each in enumerate(whole) if each]
    unsure = {cells[i].text for i, sure in zip(places, certain, strict=True) if not sure}
    read = {}
    if decode and unsure:
        read = forced(model, chain, rules, sorted(unsure), tokens.answer_ids, exact=exact)
    found = []
    for i, sure, logprob in zip(places, certain, scores.logprobs, strict=True):
        answer = chain.answer if sure else read.get(cells[i].text)
        same = sure or (answer is not None and same_answer(answer, chain.answer))
        found.append(Asked(logprob, chain.answer if same else answer, same))
    rest = iter(found)
    return [next(rest) if each else None for each in whole], scores.spent


def forced(
    model: Model,
    chain: Chain,
    rules: Rules,
    texts: Sequence[str],
    answer_ids: Sequence[int],
    *,
    exact: bool = False,
    batch: int = 16,
) -> dict[str, str | None]:
    """Return the greedy answer after each text (chain and cue); None where none can be read."""
    prompts = {text: encode(model.tokenizer, chain.prompt + text) for text in texts}
    ordered = sorted(texts, key=lambda text: len(prompts[text]))  # little padding in a batch
    found: dict[str, str | None] = {}
    for start in range(0, len(ordered), batch):
        some = ordered[start : start + batch]
        written = answer_sweep(
            model,
            [prompts[text] for text in some],
            [answer_ids] * len(some),
            stop=answer_ends(rules),
            max_new_tokens=MAX_NEW_TOKENS,
            exact=exact,
        ).base_texts
        found |= {text: read_answer(new, rules) for text, new in zip(some, written, strict=True)}
    return found


def prune(
    model: Model,
    scored: Sequence[ScoredChain],
    rules: Rules,
    *,
    fractions: Sequence[float] = FRACTIONS,
    methods: Sequence[str] = METHODS,
    n_random: int = N_RANDOM,
    seed: int = 0,
    decode: bool = True,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune every chain by every method at every fraction, and ask for the answer each time.

    Args:
        scored: chains with a score for each step; the mean over the draws ranks them.
        rules: those that the chains were scored with.
        fractions: shares of the steps to keep.
        methods: what ranks the steps; random prunings come on top.
        n_random: random prunings a chain and fraction.
        seed: of the random prunings.
        decode: read answers that are not y*; False leaves them unread, which saves most of the
            time where many prunings lose the answer.
        exact, chunk: as in `interp.engine.tree.score`.
        progress: called with chains done and in all.

    Raises:
        InputError: a setting out of range, or not one chain.
    """
    check(fractions, methods, n_random)
    _check_chains(scored)
    pruned, marked, spent = [], [], NOTHING_SPENT
    options: dict[str, Any] = {"decode": decode, "exact": exact, "chunk": chunk}
    for done, each in enumerate(scored, start=1):
        try:
            plan = prunings(
                each, fractions=fractions, methods=methods, n_random=n_random, seed=seed
            )
            texts = [each.chain.text, *(pruning.text for pruning in plan)]
            answers, cost = ask(model, each.chain, rules, texts, **options)
            spent += cost
            rows, lost = _paired(model, each.chain, plan, answers, decoded=decode)
            pruned, marked = pruned + rows, marked + lost
        except InputError as error:
            marked.append({"id": each.id, "reason": str(error)})
        if progress:
            progress(done, len(scored))
    return PruneResult(tuple(pruned), tuple(marked), _warnings(n_random), spent)


def _check_chains(scored: Sequence[ScoredChain]) -> None:
    """Refuse an empty list, and two chains under one id."""
    if not scored:
        raise InputError("There is no chain to prune: give at least one that was scored.")
    ids = [each.id for each in scored]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise InputError(
            f"Two chains have the id {twice[0]!r}: give each its own, or keep one a problem."
        )


def _paired(
    model: Model,
    chain: Chain,
    plan: Sequence[Pruning],
    answers: Sequence[Asked | None],
    *,
    decoded: bool,
) -> tuple[list[Pruned], list[dict[str, Any]]]:
    """Put prunings and their answers together; the first answer is that of the whole chain."""
    full, *rest = answers
    if full is None:
        reason = "the whole chain is too long, or cuts its answer into other tokens"
        return [], [{"id": chain.problem.id, "reason": reason}]
    found, marked = [], []
    for pruning, asked in zip(plan, rest, strict=True):
        if asked is None:
            reason = "the pruned chain cuts the answer into other tokens"
            about = {"method": pruning.method, "draw": pruning.draw, "fraction": pruning.fraction}
            marked.append({"id": pruning.id, **about, "reason": reason})
            continue
        found.append(
            Pruned(
                pruning=pruning,
                logprob=asked.logprob,
                full_logprob=full.logprob,
                answer=asked.answer,
                same=asked.same,
                correct=_correct(asked, chain.problem.gold, decoded=decoded),
                n_tokens=_count(model, pruning.text),
                full_tokens=_count(model, chain.text),
            )
        )
    return found, marked


def _correct(asked: Asked, gold: str | None, *, decoded: bool) -> bool | None:
    """Whether the answer is gold; no answer at all is not, one that was not read is unknown."""
    if not gold or (asked.answer is None and not decoded):
        return None
    return asked.answer is not None and same_answer(asked.answer, gold)


def _count(model: Model, text: str) -> int:
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _warnings(n_random: int) -> tuple[str, ...]:
    if n_random >= N_RANDOM:
        return ()
    return (f"only {n_random} random prunings: take at least {N_RANDOM} to see their spread",)


# ----------------------------------------------------------------------------- curves and export


def summarise(pruned: Iterable[Pruned]) -> list[Point]:
    """Return the keep-fraction curves: every measure of every method at every fraction.

    A measure that no chain has (`correct` without gold answers) is left out.
    """
    values: dict[tuple[str, str, float], dict[str, list[float]]] = defaultdict(dict)
    for each in pruned:
        about = each.pruning
        for measure, value in _measures(each).items():
            problems = values[measure, about.method, about.fraction]
            problems.setdefault(about.id, []).append(value)
    means = {
        key: {problem: fmean(some) for problem, some in problems.items()}
        for key, problems in values.items()
    }
    points = []
    for (measure, method, fraction), found in means.items():
        above = {
            baseline: _lead(found, means.get((measure, baseline, fraction), {}))
            for baseline in ("random", "last")
            if baseline != method
        }
        mean = cluster_bootstrap(list(found.values()), list(found))
        points.append(
            Point(method, fraction, measure, mean, above.get("random"), above.get("last"))
        )
    return points


def _measures(pruned: Pruned) -> dict[Measure, float]:
    found: dict[Measure, float] = {
        "same": float(pruned.same),
        "logprob": pruned.logprob - pruned.full_logprob,
        "tokens": pruned.n_tokens / pruned.full_tokens,
    }
    return found if pruned.correct is None else {**found, "correct": float(pruned.correct)}


def _lead(ours: dict[str, float], theirs: dict[str, float]) -> Interval | None:
    """The paired difference over the problems that both have."""
    both = [problem for problem in ours if problem in theirs]
    if not both:
        return None
    return paired_difference([ours[p] for p in both], [theirs[p] for p in both], both)


def export_rows(
    pruned: Iterable[Pruned], scored: Iterable[ScoredChain], *, only_same: bool = True
) -> list[dict[str, Any]]:
    """Return pruned chains as rows for training: id, question, cot, answer and what was kept.

    Args:
        pruned: those to export, such as all of one method and fraction.
        scored: the chains that they came from.
        only_same: leave out prunings after which the answer is no longer y*.

    Raises:
        InputError: a pruning of a chain that `scored` lacks.
    """
    chains = {each.id: each.chain for each in scored}
    rows = []
    for each in pruned:
        about = each.pruning
        if about.id not in chains:
            raise InputError(
                f"A pruning is of problem {about.id!r}, which is not among the {len(chains)} "
                "chains given: pass the chains that were pruned."
            )
        if only_same and not each.same:
            continue
        chain = chains[about.id]
        row = {"id": about.id, "question": chain.problem.question, "cot": about.text}
        row |= {"answer": chain.answer, "kept": list(about.kept), "n_steps": about.n_steps}
        rows.append({**row, "fraction": about.fraction, "method": about.method, "draw": about.draw})
    return rows


def jsonl(rows: Iterable[dict[str, Any]]) -> str:
    r"""Return rows as JSONL, one object a line.

    >>> jsonl([{"id": "p", "cot": "2 + 2 = 4. \nSo 4."}])
    '{"id": "p", "cot": "2 + 2 = 4. \\nSo 4."}\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
