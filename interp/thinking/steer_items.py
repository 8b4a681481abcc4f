"""The items of the steering tests: a perturbed step in its intact context, and what is answered.

An item is the text of the cell s0c1: prompt, intact context, perturbed step s', cue. After it the
model answers greedily, with nothing edited:

    engage      its answer is still y*: it ignores the error in s'
    disengage   it is another answer: s' makes it wrong

An answer that cannot be read is no item; it is marked. Steps without numbers have no s' and are
marked too.

Source: Zhao et al. 2025, arXiv:2510.24941, the engagement and the disengagement test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from interp.engine.answer_sweep import answer_sweep
from interp.engine.model import Model
from interp.engine.tree import Progress
from interp.errors import InputError
from interp.models.tokens import encode
from interp.thinking.answers import same_answer
from interp.thinking.cells import CellText, full_text
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, StepScore, Tokeniser, until_closing
from interp.thinking.scored import ScoredChain
from interp.thinking.spans import token_span

Test = Literal["engage", "disengage"]

MAX_NEW_TOKENS = 20
"""What the model may write after the cue, as in the paper."""

GROUP_TOKENS = 4096
"""Prompt tokens that are run as one batch of items (memory)."""


@dataclass(frozen=True)
class Item:
    """A prompt to steer in, the tokens of its step, and the answer that counts."""

    problem: str
    step: int
    seed: int
    """Of the perturbation."""
    test: Test
    text: str
    """Prompt, context, step and cue."""
    ids: tuple[int, ...]
    """The tokens of `text`, less any at its end that the answer's first token takes in."""
    span: tuple[int, int]
    """The step is `ids[span[0]:span[1]]`."""
    answer: str
    """y*."""
    answer_ids: tuple[int, ...]
    """The tokens of y* and the closing text."""
    tts: float
    """The score of the step under this seed."""
    base_answer: str | None
    """What is answered with nothing edited; None where it cannot be read."""
    base_logprob: float
    """Joint log-probability of `answer_ids` (nats), with nothing edited."""
    dropped_ids: tuple[int, ...] | None = None
    """The tokens of the text without the step; None where they end in another way."""
    lead: str = ""
    """The end of the cue that the answer's first token takes in, if any."""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells items apart: problem, step, seed and test."""
        return self.problem, self.step, self.seed, self.test


@dataclass(frozen=True)
class Items:
    """The items of both tests, and what could not become one."""

    engage: tuple[Item, ...]
    disengage: tuple[Item, ...]
    marked: tuple[dict[str, Any], ...] = field(default=())
    """`id`, `step`, `seed` and the `reason`."""

    @property
    def all(self) -> tuple[Item, ...]:
        """Those of both tests."""
        return self.engage + self.disengage

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row for each item, without its tokens."""
        return [
            {
                "id": item.problem,
                "step": item.step,
                "seed": item.seed,
                "test": item.test,
                "answer": item.answer,
                "base_answer": item.base_answer,
                "base_logprob": item.base_logprob,
                "tts": item.tts,
                "n_tokens": len(item.ids),
                "first": item.span[0],
                "stop": item.span[1],
            }
            for item in self.all
        ]


def make_items(
    model: Model,
    scored: Sequence[ScoredChain],
    rules: Rules,
    *,
    seeds: Sequence[int] = (0,),
    per_problem: int | None = None,
    most: int | None = 200,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> Items:
    """Answer every perturbed step in its intact context, and sort the items into the two tests.

    Args:
        seeds: which draws of the perturbation to take.
        per_problem: at most so many items of a problem in each test; None for all.
        most: at most so many items in each test, spread over the problems. Which ones are kept is
            drawn by a stable hash, so that early steps are not preferred.
        exact, chunk: as in `answer_sweep`.
        progress: called with texts answered and in all.

    Raises:
        InputError: no scored step, or a limit below 1.
    """
    for name, limit in (("per_problem", per_problem), ("most", most)):
        if limit is not None and limit < 1:
            raise InputError(f"{name}={limit}: keep at least 1 item, or pass None for all.")
    drafts, marked = _drafts(model, scored, rules, seeds)
    found: dict[Test, list[Item]] = {"engage": [], "disengage": []}
    for item in _answered(model, drafts, rules, exact, chunk, progress):
        if item.base_answer is None:
            marked.append(_mark(item.problem, item.step, item.seed, "the answer cannot be read"))
        else:
            found[item.test].append(item)
    engage, disengage = (_capped(found[test], per_problem, most) for test in found)
    return Items(engage, disengage, tuple(marked))


def draft(
    model: Model,
    tokens: Tokeniser,
    chain: Chain,
    rules: Rules,
    *,
    context: str,
    written: str,
    step: int,
    seed: int,
    tts: float,
) -> Item:
    """Put a step after a context, find its tokens, and leave the answer open (`with_base`).

    Args:
        tokens: `Tokeniser(model, chain, rules)`.
        context: what stands between the prompt and the step.
        written: the step, perturbed or not.

    Raises:
        InputError: the answer has other tokens here, the text is too long, or the step's tokens
            cannot be told apart; the message is the reason to mark the item with.
    """
    name, place = chain.problem.id, len(chain.prompt) + len(context)
    text = chain.prompt + full_text(context + written, rules)
    asked = tokens.continuation(CellText(step, seed, "s0c1", text[len(chain.prompt) :]))
    if asked is None or len(asked.prompt) + _longest(asked.answer) > model.sizes.n_ctx:
        raise InputError("the text is too long, or cuts the answer into other tokens")
    first, stop = token_span(model.tokenizer, text, place, place + len(written.rstrip()))
    apart = tuple(encode(model.tokenizer, text)[:stop]) == asked.prompt[:stop]
    if not apart or stop >= len(asked.prompt):
        raise InputError("the answer changes how the step is cut into tokens")
    without = tokens.continuation(CellText(step, seed, "dropped", full_text(context, rules)))
    return Item(
        problem=name,
        step=step,
        seed=seed,
        test="engage",
        text=text,
        ids=asked.prompt,
        span=(first, stop),
        answer=chain.answer,
        answer_ids=asked.answer,
        tts=tts,
        base_answer=None,
        base_logprob=0.0,
        dropped_ids=without.prompt if without else None,
        lead=_lead(model, asked.answer, chain.answer + rules.closing),
    )


def with_base(item: Item, written: str, logprob: float, rules: Rules) -> Item:
    """Return the item with what the model writes after it, sorted into its test."""
    answer = read_answer(written, rules, item.lead)
    kept = answer is not None and same_answer(answer, item.answer)
    test: Test = "engage" if kept else "disengage"
    return replace(item, test=test, base_answer=answer, base_logprob=logprob)


def read_answer(written: str, rules: Rules, lead: str = "") -> str | None:
    r"""Return the answer in what was written after the cue, or None where it cannot be read.

    `lead` is the end of the cue, where the answer's first token spells it again.

    >>> read_answer("18} and so on", Rules()), read_answer("18 and so on", Rules())
    ('18', None)
    """
    text = written.removeprefix(lead)
    if rules.closing:
        answer = until_closing(text, rules.closing)
    else:
        answer = text.partition("\n")[0].strip().rstrip(".")
    return (answer or "").strip() or None


def answer_ends(rules: Rules) -> Callable[[str], bool]:
    """Return the test that tells when enough was written to read the answer."""
    if rules.closing:
        return lambda text: until_closing(text, rules.closing) is not None
    return lambda text: "\n" in text


def batches(items: Iterable[Item], tokens: int = GROUP_TOKENS) -> list[list[Item]]:
    """Put items of one test and of similar length together, with at most so many tokens a group."""
    groups: list[list[Item]] = []
    for item in sorted(items, key=lambda item: (item.test, len(item.ids), *item.key)):
        last = groups[-1] if groups else []
        full = sum(len(each.ids) for each in last) + len(item.ids) > tokens
        if not last or last[0].test != item.test or full:
            groups.append([])
        groups[-1].append(item)
    return groups


def _drafts(
    model: Model, scored: Sequence[ScoredChain], rules: Rules, seeds: Sequence[int]
) -> tuple[list[Item], list[dict[str, Any]]]:
    """Every step that can be an item, and the marks of the others."""
    drafts: list[Item] = []
    marked: list[dict[str, Any]] = []
    names = [each.id for each in scored]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Two chains have the id {twice[0]!r}: give each problem one of its own.")
    for each in scored:
        tokens = Tokeniser(model, each.chain, rules)
        for one in sorted(each.scores, key=lambda one: (one.step, one.seed)):
            if one.seed not in seeds:
                continue
            try:
                drafts.append(_perturbed(model, tokens, each.chain, one, rules))
            except InputError as error:
                marked.append(_mark(each.id, one.step, one.seed, str(error)))
    if not drafts and not marked:
        raise InputError(
            f"There is no scored step to make an item of, among {len(scored)} chains and the "
            f"seeds {tuple(seeds)}: score the chains with one of these seeds first."
        )
    return drafts, marked


def _perturbed(
    model: Model, tokens: Tokeniser, chain: Chain, score: StepScore, rules: Rules
) -> Item:
    if score.op != "edit":
        raise InputError("the step has no number to perturb")
    return draft(
        model,
        tokens,
        chain,
        rules,
        context=chain.text[: score.start],
        written=score.perturbed,
        step=score.step,
        seed=score.seed,
        tts=score.tts,
    )


def _answered(
    model: Model,
    drafts: Sequence[Item],
    rules: Rules,
    exact: bool,
    chunk: int,
    progress: Progress | None,
) -> list[Item]:
    """The drafts with their own answers, in their order."""
    found: dict[tuple[str, int, int, str], Item] = {}
    for group in batches(drafts):
        base = answer_sweep(
            model,
            [item.ids for item in group],
            [item.answer_ids for item in group],
            stop=answer_ends(rules),
            max_new_tokens=MAX_NEW_TOKENS,
            exact=exact,
            chunk=chunk,
        )
        for place, item in enumerate(group):
            logprob = float(base.base_logprobs[place])
            found[item.key] = with_base(item, base.base_texts[place], logprob, rules)
        if progress:
            progress(len(found), len(drafts))
    return [found[item.key] for item in drafts]


def _longest(answer: Sequence[int]) -> int:
    return max(MAX_NEW_TOKENS, len(answer))


def _lead(model: Model, ids: Sequence[int], answer: str) -> str:
    """What the tokens of the answer spell before the answer itself."""
    spelled = model.tokenizer.decode(list(ids))
    return spelled.removesuffix(answer) if spelled.endswith(answer) else ""


def _capped(items: Sequence[Item], per_problem: int | None, most: int | None) -> tuple[Item, ...]:
    """Keep some items: drawn by hash within each problem, then one of each problem in turn."""
    drawn = sorted(items, key=_draw)
    taken: dict[str, int] = {}
    ranked = []
    for item in drawn:
        taken[item.problem] = taken.get(item.problem, 0) + 1
        if per_problem is None or taken[item.problem] <= per_problem:
            ranked.append((taken[item.problem], _draw(item), item.key))
    kept = {key for _, _, key in sorted(ranked)[:most]}
    return tuple(item for item in items if item.key in kept)


def _draw(item: Item) -> str:
    return hashlib.sha256(json.dumps(["item", *item.key]).encode()).hexdigest()


def _mark(problem: str, step: int, seed: int, reason: str) -> dict[str, Any]:
    return {"id": problem, "step": step, "seed": seed, "reason": reason}
