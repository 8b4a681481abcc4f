"""The True-Thinking Score: which steps of a chain of thought move the answer, and which decorate.

With S_x(c) = Pr(y* | question, context c, step x), read at an early exit right after the step:

    necessity    nec = S_1(1) - S_0(1)     the step after its intact context
    sufficiency  suf = S_1(0) - S_0(0)     the step after a perturbed context
    TTS = (|nec| + |suf|) / 2              0 to 1

High necessity alone: an AND step, useful together with its context. High sufficiency alone: an OR
step, which carries the answer by itself. The legs are signed: a step that lowers Pr(y*) has
negative legs and a high score all the same. A low score may mean decorative, redundant or
saturated. Pr is the joint teacher-forced probability of the answer's tokens.

Source: Zhao et al. 2025, arXiv:2510.24941, definition of ATE_nec, ATE_suf and TTS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from interp.engine.model import Model
from interp.engine.tree import Continuation, Progress, Spent, score
from interp.errors import InputError
from interp.models.tokens import encode
from interp.thinking import answers
from interp.thinking.cells import (
    CELLS,
    NULL_CELLS,
    RANDOM_CELLS,
    CellText,
    StepTexts,
    cell_texts,
    cut,
    full_text,
    step_texts,
)
from interp.thinking.rules import Rules
from interp.thinking.steps import Step, from_spans

DECORATIVE, INFLUENTIAL, TRUE_THINKING = 0.005, 0.3, 0.7
"""Reporting thresholds of the paper: at most the first is decorative, from the last on true."""


@dataclass(frozen=True)
class Problem:
    """A question, and what is known of its chain of thought and answer."""

    id: str
    question: str
    cot: str | None = None
    """The chain of thought; None lets the model write one."""
    gold: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    """Steps given by the user, as character spans of `cot`."""
    paraphrases: Mapping[int, str] | None = None
    """Meaning-preserving rewrites of steps, by step: the null control where given."""
    checks: tuple[int, ...] | None = None
    """Which steps verify others, by the user; None leaves it to their first words."""


@dataclass(frozen=True)
class Chain:
    """A chain ready to be scored."""

    problem: Problem
    prompt: str
    """What comes before the chain: the rendered question, as text."""
    text: str
    steps: tuple[Step, ...]
    answer: str
    """y*, the answer whose probability is read."""
    answer_source: str
    """`written` in the chain's own output, `forced` by the cue after the full chain, or `gold`."""
    truncated: bool = False


@dataclass(frozen=True)
class Audit:
    """Exactly what was scored in one cell, so that anyone can compute it again."""

    id: str
    step: int
    seed: int
    cell: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class StepScore:
    """One step under one seed: the four cells, the signed legs, the score and its flags."""

    id: str
    step: int
    seed: int
    n_steps: int
    start: int
    end: int
    text: str
    perturbed: str
    op: str
    """`edit`: numbers shifted; `drop`: the step had none and was removed."""
    s1c1: float
    """Log-probability of y* (nats, joint): step intact, context intact."""
    s0c1: float
    s1c0: float
    s0c0: float
    n_answer_tokens: int
    nec: float
    """Signed necessity leg, a difference of probabilities."""
    suf: float
    """Signed sufficiency leg."""
    tts: float
    nec_log_odds: float | None
    """Necessity as a difference of log-odds; None where a probability rounds to 1."""
    suf_log_odds: float | None
    nec_mean_logprob: float
    """Necessity as a difference of log-probabilities per answer token (nats)."""
    suf_mean_logprob: float
    mentions_answer: bool
    saturated: bool
    verification: bool
    position: float
    """Place in the chain: 0 the first step, 1 the last."""
    null_tts: float | None = None
    """The same score where s' is a meaning-preserving rewrite: the floor."""
    random_tts: float | None = None
    """The score of a random step of another problem in this place."""


@dataclass
class ChainScore:
    """All scores of one chain."""

    chain: Chain
    steps: list[StepScore]
    audit: list[Audit]
    spent: Spent
    marked: list[dict[str, Any]] = field(default_factory=list)
    """Steps that could not be scored, with the reason; the others keep their places."""
    noise: float | None = None
    """In half precision: the largest change of a probability when cells are scored alone."""


def prepare(
    model: Model,
    problem: Problem,
    rules: Rules,
    *,
    max_new_tokens: int = 256,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Chain:
    """Get a chain ready: let the model write it if none is given, cut it, find y*.

    Args:
        max_new_tokens, seed, temperature, top_p: how the model writes a chain that is not given;
            a temperature of 0 is greedy.

    Raises:
        InputError: no question, an empty chain, an answer that cannot be found, or a chain longer
            than the context; the message is the reason to mark the row with.
    """
    if not problem.question.strip():
        raise InputError("no question: the row's question is empty")
    prompt = model.chat(problem.question)
    output, finished = problem.cot, True
    if output is None:
        written = model.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
        )
        output, finished = written.texts[0], written.finished[0]
    opened = prompt.rstrip().endswith(rules.think_tags[0])
    split = answers.split_output(output, think_tags=rules.think_tags, opened=opened)
    before, tag, _ = output.partition(rules.think_tags[0])
    if tag and not opened and problem.spans is None:
        prompt, opened = prompt + before + tag, True  # the block stays open before the chain
    if rules.think == "close" and not opened:
        raise InputError("no think block: there is none to close before the cue")
    text = split.chain if problem.spans is None else output
    steps = cut(text, rules) if problem.spans is None else from_spans(text, problem.spans)
    if not steps:
        raise InputError("empty chain: there is no step before the final answer")
    if outside := [i for i in problem.checks or () if not 0 <= i < len(steps)]:
        raise InputError(
            f"checks name step {outside[0]}, and the chain has steps 0 to {len(steps) - 1}"
        )
    length = len(encode(model.tokenizer, prompt + full_text(text, rules)))
    if length + 32 > model.sizes.n_ctx:
        raise InputError(
            f"chain longer than the context: {length} tokens and {model.name} holds "
            f"{model.sizes.n_ctx}"
        )
    answer, source = _target(model, problem, rules, prompt, text, split.answer)
    cut_short = split.truncated or not finished
    return Chain(problem, prompt, text, tuple(steps), answer, source, truncated=cut_short)


def _target(
    model: Model, problem: Problem, rules: Rules, prompt: str, text: str, written: str | None
) -> tuple[str, str]:
    if rules.target == "gold":
        if not problem.gold:
            raise InputError("answer not found: the row has no gold answer to score")
        return problem.gold, "gold"
    if written:
        return written, "written"
    return forced_answer(model, prompt + full_text(text, rules), rules), "forced"


def forced_answer(model: Model, text: str, rules: Rules, *, max_new_tokens: int = 20) -> str:
    """Let the model answer greedily after the cue.

    Raises:
        InputError: no answer within `max_new_tokens`, or one that is never closed.
    """
    stop = () if rules.closing else ("\n",)
    forced = model.generate(text, max_new_tokens=max_new_tokens, stop=stop).texts[0]
    if rules.closing:
        answer = until_closing(forced, rules.closing)
    else:
        answer = forced.partition("\n")[0].strip().rstrip(".")
    if not answer or not answer.strip():
        raise InputError(f"answer not found: after the cue the model wrote {forced[:40]!r}")
    return answer.strip()


def until_closing(text: str, closing: str) -> str | None:
    r"""Return what stands before the closing text, or None; braces inside must balance.

    >>> print(until_closing("\\frac{1}{2}} and more", "}"))
    \frac{1}{2}
    """
    if closing != "}":
        answer, closed, _ = text.partition(closing)
        return answer if closed else None
    depth = 0
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return text[:place]
    return None


def score_chain(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[int] | None = None,
    control_seeds: int = 1,
    pool: Sequence[str] = (),
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> ChainScore:
    """Score the steps of a chain.

    Args:
        seeds: one draw of the offsets each.
        only: steps to score; a score does not depend on which others are scored.
        control_seeds: for how many of the seeds the controls are computed.
        pool: steps of other problems, from which the random-step control draws.
        exact: one plain forward pass a cell instead of the shared token tree.
        chunk: tokens a forward pass (memory).
        progress: called with tokens done and in all.

    Raises:
        InputError: no seed, or a step that the chain does not have.
    """
    wanted = set(range(len(chain.steps)) if only is None else only)
    if not seeds or not wanted <= set(range(len(chain.steps))):
        raise InputError(
            f"seeds={tuple(seeds)}, only={only}: give at least one seed, and steps from 0 to "
            f"{len(chain.steps) - 1}."
        )
    texts, cells = _texts_and_cells(chain, rules, seeds, control_seeds, pool)
    cells = [cell for cell in cells if cell.step in wanted]
    tokens = Tokeniser(model, chain, rules)
    continuations = [tokens.continuation(cell) for cell in cells]
    sound = [(cell, each) for cell, each in zip(cells, continuations, strict=True) if each]
    scores = score(model, [c for _, c in sound], exact=exact, chunk=chunk, progress=progress)
    audit = [
        Audit(chain.problem.id, cell.step, cell.seed, cell.cell, each.prompt, each.answer, logprob)
        for (cell, each), logprob in zip(sound, scores.logprobs, strict=True)
    ]
    steps, marked = _step_scores(chain, rules, texts, audit, wanted, seeds)
    result = ChainScore(chain, steps, audit, scores.spent, marked)
    if model.dtype in (torch.float16, torch.bfloat16) and not exact:
        result.noise = _noise(model, [c for _, c in sound], scores.logprobs)
    return result


def _texts_and_cells(
    chain: Chain, rules: Rules, seeds: Sequence[int], control_seeds: int, pool: Sequence[str]
) -> tuple[dict[tuple[int, int], StepTexts], list[CellText]]:
    """The texts of every (step, seed), and all their cells; the first seeds have the controls."""
    texts: dict[tuple[int, int], StepTexts] = {}
    cells: list[CellText] = []
    for place, seed in enumerate(seeds):
        controls = place < control_seeds
        drawn = step_texts(
            chain.problem.id,
            chain.steps,
            seed,
            rules,
            pool=pool if controls else (),
            paraphrases=chain.problem.paraphrases,
        )
        texts |= {(each.step.index, seed): each for each in drawn}
        cells += cell_texts(chain.problem.id, drawn, rules, controls=controls)
    return texts, cells


class Tokeniser:
    """Turns a cell's text into a prompt and an answer; the answer's ids are the same in all."""

    def __init__(self, model: Model, chain: Chain, rules: Rules) -> None:
        self._model, self._prompt = model, chain.prompt
        self._answer = chain.answer + rules.closing
        self.answer_ids = self._answer_ids(chain.prompt + full_text(chain.text, rules))

    def _answer_ids(self, before: str) -> tuple[int, ...]:
        """The tokens of the answer in its place: those that the text before does not share."""
        alone = encode(self._model.tokenizer, before)
        whole = encode(self._model.tokenizer, before + self._answer)
        shared = 0
        while shared < min(len(alone), len(whole)) and alone[shared] == whole[shared]:
            shared += 1
        return tuple(whole[shared:])

    def continuation(self, cell: CellText) -> Continuation | None:
        """Tokenise a cell; None where it is too long or cuts its answer into other tokens."""
        whole = encode(self._model.tokenizer, self._prompt + cell.text + self._answer)
        n = len(self.answer_ids)
        if tuple(whole[-n:]) != self.answer_ids or len(whole) > self._model.sizes.n_ctx:
            return None
        return Continuation(tuple(whole[:-n]), self.answer_ids)


def _step_scores(
    chain: Chain,
    rules: Rules,
    texts: Mapping[tuple[int, int], StepTexts],
    audit: Sequence[Audit],
    wanted: set[int],
    seeds: Sequence[int],
) -> tuple[list[StepScore], list[dict[str, Any]]]:
    logprobs: dict[tuple[int, int], dict[str, float]] = {}
    for each in audit:
        logprobs.setdefault((each.step, each.seed), {})[each.cell] = each.logprob
    n_tokens = len(audit[0].answer_ids) if audit else 0
    steps, marked = [], []
    for seed in seeds:
        for step in sorted(wanted):
            cells = logprobs.get((step, seed), {})
            if cells.keys() >= set(CELLS):
                steps.append(_step_score(chain, rules, texts[step, seed], cells, n_tokens))
                continue
            reason = "a cell is too long, or cuts the answer into other tokens"
            marked.append({"id": chain.problem.id, "step": step, "seed": seed, "reason": reason})
    return steps, marked


def _step_score(
    chain: Chain, rules: Rules, texts: StepTexts, cells: Mapping[str, float], n_tokens: int
) -> StepScore:
    step, last = texts.step, len(chain.steps) - 1
    probabilities = {cell: math.exp(value) for cell, value in cells.items()}
    nec, suf, tts = legs(probabilities, "s1", "s0")
    return StepScore(
        id=chain.problem.id,
        step=step.index,
        seed=texts.seed,
        n_steps=len(chain.steps),
        start=step.start,
        end=step.end,
        text=step.text,
        perturbed=texts.perturbed,
        op=texts.op,
        **{cell: cells[cell] for cell in CELLS},
        n_answer_tokens=n_tokens,
        nec=nec,
        suf=suf,
        tts=tts,
        nec_log_odds=_difference(log_odds(cells["s1c1"]), log_odds(cells["s0c1"])),
        suf_log_odds=_difference(log_odds(cells["s1c0"]), log_odds(cells["s0c0"])),
        nec_mean_logprob=(cells["s1c1"] - cells["s0c1"]) / n_tokens,
        suf_mean_logprob=(cells["s1c0"] - cells["s0c0"]) / n_tokens,
        mentions_answer=answers.mentions(step.text, chain.answer),
        saturated=_saturated(probabilities, rules),
        verification=is_check(chain.problem, step),
        position=step.index / last if last else 1.0,
        null_tts=legs(probabilities, "s1", "n0")[2] if cells.keys() >= set(NULL_CELLS) else None,
        random_tts=(
            legs(probabilities, "r1", "r0")[2] if cells.keys() >= set(RANDOM_CELLS) else None
        ),
    )


def is_check(problem: Problem, step: Step) -> bool:
    """Whether a step verifies others: as the user says, else by its first words."""
    if problem.checks is not None:
        return step.index in problem.checks
    return answers.verification(step.text)


def legs(probabilities: Mapping[str, float], one: str, zero: str) -> tuple[float, float, float]:
    """Return necessity, sufficiency and score from probabilities by cell.

    >>> legs({"s1c1": 0.75, "s0c1": 0.25, "s1c0": 0.5, "s0c0": 0.75}, "s1", "s0")
    (0.5, -0.25, 0.375)
    """
    nec = probabilities[one + "c1"] - probabilities[zero + "c1"]
    suf = probabilities[one + "c0"] - probabilities[zero + "c0"]
    return nec, suf, (abs(nec) + abs(suf)) / 2


def log_odds(logprob: float) -> float | None:
    """Return log(p / (1 - p)) in nats, or None where p rounds to 1.

    >>> log_odds(math.log(0.5)), log_odds(0.0)
    (0.0, None)
    """
    rest = -math.expm1(logprob)
    return logprob - math.log(rest) if rest > 0 else None


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _saturated(probabilities: Mapping[str, float], rules: Rules) -> bool:
    four = [probabilities[cell] for cell in CELLS]
    return min(four) >= 1 - rules.saturated or max(four) <= rules.saturated


def _noise(
    model: Model, continuations: Sequence[Continuation], logprobs: Sequence[float], n: int = 16
) -> float:
    """Score some cells again, each alone: what half precision by itself does to a probability."""
    every = max(1, len(continuations) // n)
    alone = score(model, continuations[::every], exact=True).logprobs
    pairs = zip(logprobs[::every], alone, strict=True)
    return max((abs(math.exp(a) - math.exp(b)) for a, b in pairs), default=0.0)
