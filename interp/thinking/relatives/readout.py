"""Reading the answer after many versions of one chain: its probability, and the greedy answer.

Versions that are equal token for token are one computation, so their readings are equal exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.engine.answer_sweep import answer_sweep
from interp.engine.model import Model
from interp.engine.tree import Continuation, Spent, score
from interp.errors import InputError
from interp.models.tokens import encode
from interp.thinking.answers import same_answer
from interp.thinking.cells import CellText, full_text
from interp.thinking.relatives.values import StepEffect, difference
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Tokeniser, until_closing

UNREADABLE = "the text is too long, or cuts the answer into other tokens"
FILLER = " ..."
"""What stands in for removed text, as in Lanham et al. 2023, arXiv:2307.13702."""
ANSWER_TOKENS = 20
"""How many tokens a greedy answer may have; more where y* has."""
NOTHING = Spent(0, 0, 0, 0)


@dataclass(frozen=True)
class Reading:
    """What the model answers after one version of a chain."""

    logprob: float
    """Joint log-probability of y* and the closing text (nats)."""
    answer: str | None = None
    """The greedy answer; None where it was not asked for, or nothing could be read."""


class Reader:
    """Reads answers after versions of one chain; a version is the chain's text, without cue."""

    def __init__(
        self, model: Model, chain: Chain, rules: Rules, *, exact: bool = False, chunk: int = 512
    ) -> None:
        check_chain(chain)
        self.spent = NOTHING
        self._model, self._chain, self._rules = model, chain, rules
        self._exact, self._chunk = exact, chunk
        self._tokens = Tokeniser(model, chain, rules)
        shown = str(model.tokenizer.decode(self._tokens.answer_ids))
        self._lead = shown.partition(chain.answer)[0]  # of the cue, where a token holds both

    def version(self, text: str) -> Continuation | None:
        """Tokenise a version; None where it is too long or cuts y* into other tokens."""
        cell = CellText(0, 0, "version", full_text(text, self._rules))
        return self._tokens.continuation(cell)

    def filled(self, text: str, start: int, end: int) -> Continuation | None:
        """Tokenise `text` with as many tokens of filler in place of characters `start` to `end`."""
        whole, left = self.version(text), self.version(text[:start] + text[end:])
        if whole is None or left is None:
            return None
        before = encode(self._model.tokenizer, self._chain.prompt + text[:start])
        place = _shared(before, left.prompt)
        n = len(whole.prompt) - len(left.prompt)
        filler = self._tokens_of_filler(max(0, n))
        return Continuation((*left.prompt[:place], *filler, *left.prompt[place:]), left.answer)

    def read(
        self,
        versions: Sequence[Continuation | None],
        *,
        answers: Sequence[Continuation | None] = (),
    ) -> list[Reading | None]:
        """Read each version, None where there is none; of those in `answers` the answer too."""
        distinct = list(dict.fromkeys(each for each in versions if each is not None))
        if not distinct:
            return [None] * len(versions)
        scores = score(self._model, distinct, exact=self._exact, chunk=self._chunk)
        self.spent = self.spent + scores.spent
        wanted = set(answers)
        foreseen = zip(distinct, scores.greedy, strict=True)
        said = {each: self._chain.answer for each, own in foreseen if own and each in wanted}
        said |= self._answers([each for each in distinct if each in wanted.difference(said)])
        found = {
            each: Reading(logprob, said.get(each))
            for each, logprob in zip(distinct, scores.logprobs, strict=True)
        }
        return [None if each is None else found[each] for each in versions]

    def _answers(self, versions: Sequence[Continuation]) -> dict[Continuation, str | None]:
        """The greedy answers of versions that y* does not follow greedily."""
        if not versions:
            return {}
        room = self._model.sizes.n_ctx - max(len(each.prompt) for each in versions)
        said = answer_sweep(
            self._model,
            [each.prompt for each in versions],
            [each.answer for each in versions],
            stop=self._closed,
            max_new_tokens=min(room, max(ANSWER_TOKENS, len(versions[0].answer) + 4)),
            exact=self._exact,
            chunk=self._chunk,
        )
        self.spent = self.spent + said.spent
        return dict(zip(versions, map(self.parse, said.base_texts), strict=True))

    def _closed(self, written: str) -> bool:
        """Say whether an answer is over, so that nothing need be written after it."""
        written = written.removeprefix(self._lead)
        if self._rules.closing:
            return until_closing(written, self._rules.closing) is not None
        return "\n" in written.lstrip()

    def parse(self, written: str) -> str | None:
        """Return the answer at the start of what the model wrote after the cue, if one is there."""
        written = written.removeprefix(self._lead)
        closing = self._rules.closing
        if closing:
            answer = until_closing(written, closing)
        else:
            answer = written.lstrip().partition("\n")[0].strip().rstrip(".")
        return (answer or "").strip() or None

    def _tokens_of_filler(self, n: int) -> list[int]:
        unit = self._model.tokenizer(FILLER, add_special_tokens=False)["input_ids"]
        return [unit[i % len(unit)] for i in range(n)]


def check_chain(chain: Chain) -> None:
    """Refuse a chain without steps."""
    if not chain.steps:
        raise InputError(
            f"The chain of {chain.problem.id} has no steps, so there is nothing to change: "
            "leave it out."
        )


def wanted_steps(chain: Chain, only: Iterable[int] | None) -> list[int]:
    """Return the indices of the steps to measure, in order; refuse those that do not exist."""
    n = len(chain.steps)
    wanted = sorted(set(range(n) if only is None else only))
    if strange := [step for step in wanted if not 0 <= step < n]:
        raise InputError(
            f"The chain of {chain.problem.id} has no step {strange[0]}: its {n} steps are "
            f"numbered from 0 to {n - 1}."
        )
    return wanted


def agree(one: str | None, other: str | None) -> bool:
    """Say whether two greedy answers are the same; one that could not be read equals none."""
    return one is not None and other is not None and same_answer(one, other)


def switched(one: str | None, other: str | None) -> bool:
    """Say whether two greedy answers differ; two that could not be read do not."""
    return not (one is other is None or agree(one, other))


def effect(
    name: str,
    step: int,
    seed: int,
    measure: str,
    intact: Reading,
    changed: Reading,
    control: Reading | None,
    **texts: str,
) -> StepEffect:
    """Return what a change of a step does, and what its control change does, from readings."""
    return StepEffect(
        name,
        step,
        seed,
        measure,
        intact=intact.logprob,
        changed=changed.logprob,
        effect=difference(intact.logprob, changed.logprob),
        control=None if control is None else difference(intact.logprob, control.logprob),
        answer_changed=switched(intact.answer, changed.answer),
        **texts,
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences share at their start."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
