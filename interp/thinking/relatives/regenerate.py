"""Adding a mistake to a step, or rewording it, and letting the model write the rest again.

    mistake          the step's numbers shifted, or the user's text in its place; the rest of the
                     chain is written again, greedily, and then the answer
    mistake_kept     the same with the later steps left as they were
    paraphrase       the step in other words, the rest written again
    paraphrase_kept  the same with the later steps left as they were

The value of a step is |Pr(y*) with the step as it was - Pr(y*) with the changed one|; larger = the
step matters more (of a paraphrase: its very words do). Where the rest is written again, it is so
after the step as it was too: what writing again does by itself cancels. A changed step that equals
the old one has an effect of exactly 0.

Control: the null rewrite of the step, which only adds spaces, handled the same way. Greedy text is
brittle, so a null rewrite may change the rest and the answer: then so much of the effect of a
mistake means nothing. A paraphrase without a text of the user's is the null rewrite itself.

Source: Lanham et al. 2023, arXiv:2307.13702 (adding mistakes, paraphrasing). There a language model
invents the mistake and the paraphrase; here numbers are shifted, and only users reword.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from interp.engine.model import Model
from interp.errors import InputError
from interp.models.tokens import encode
from interp.thinking.answers import split_output
from interp.thinking.cells import StepTexts, step_texts
from interp.thinking.relatives.readout import (
    UNREADABLE,
    Reader,
    Reading,
    effect,
    wanted_steps,
)
from interp.thinking.relatives.values import Marked, StepEffect, StepEffects
from interp.thinking.rules import Rules
from interp.thinking.score import Chain

ROWS = 8
"""Heads that are written on together."""
NO_CONTROL = "the step has nothing to reword: no number, and no space to double"


@dataclass(frozen=True)
class _Change:
    """One step under one seed: what takes its place, and what takes it in the control."""

    step: int
    seed: int
    text: str
    control: str | None


@dataclass(frozen=True)
class _Version:
    """A chain with one step changed: the changed part, and the rest that follows it."""

    head: str
    rest: str

    @property
    def text(self) -> str:
        """The whole chain."""
        return self.head + self.rest


def add_mistake(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    mistakes: Mapping[int, str] | None = None,
    regenerate: bool = True,
    seeds: Sequence[int] = (0,),
    only: Iterable[int] | None = None,
    max_new_tokens: int = 256,
    exact: bool = False,
    chunk: int = 512,
) -> StepEffects:
    """Measure what a mistake in each step does to the answer.

    Args:
        mistakes: texts to put in the place of steps, by step; the others get shifted numbers, and
            a step without numbers is dropped.
        regenerate: write the rest of the chain again (`mistake`), or keep it (`mistake_kept`).
        seeds: one draw of the shifts each; a step with a given text is measured once.
        only: the steps to measure; an effect does not depend on which others are measured.
        max_new_tokens: how much of the rest is written at most.
        exact: one plain forward pass a version instead of the shared token tree.
        chunk: tokens a forward pass (memory).

    Raises:
        InputError: the chain has no steps, a step is named that it does not have, or a setting
            is out of range.
    """
    given, wanted = dict(mistakes or {}), wanted_steps(chain, only)
    wanted_steps(chain, given)
    if not seeds:
        raise InputError("There are no seeds: give at least one, such as seeds=(0,).")
    changes = []
    for place, seed in enumerate(seeds):
        for each in step_texts(chain.problem.id, chain.steps, seed, rules):
            if each.step.index in wanted and (place == 0 or each.step.index not in given):
                text = _spaced(given.get(each.step.index, each.perturbed), each)
                changes.append(_Change(each.step.index, seed, text, each.null))
    measure = "mistake" if regenerate else "mistake_kept"
    writer = _Writer(model, chain, rules, regenerate, max_new_tokens)
    return _measure(writer, Reader(model, chain, rules, exact=exact, chunk=chunk), changes, measure)


def paraphrase(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    regenerate: bool = True,
    seed: int = 0,
    only: Iterable[int] | None = None,
    max_new_tokens: int = 256,
    exact: bool = False,
    chunk: int = 512,
) -> StepEffects:
    """Measure what other words for each step do to the answer.

    The user's paraphrases of the problem are used where there are some, else the null rewrite,
    which adds spaces only. A step that cannot be reworded is marked. Arguments and errors are those
    of `add_mistake`; `seed` draws the place of an added space.
    """
    given, wanted = dict(chain.problem.paraphrases or {}), wanted_steps(chain, only)
    changes, marked = [], []
    measure = "paraphrase" if regenerate else "paraphrase_kept"
    for each in step_texts(chain.problem.id, chain.steps, seed, rules):
        step = each.step.index
        if step not in wanted:
            continue
        text = _spaced(given[step], each) if step in given else each.null
        if text is None:
            marked.append(Marked(chain.problem.id, step, seed, measure, NO_CONTROL))
            continue
        changes.append(_Change(step, seed, text, each.null if step in given else None))
    writer = _Writer(model, chain, rules, regenerate, max_new_tokens)
    reader = Reader(model, chain, rules, exact=exact, chunk=chunk)
    found = _measure(writer, reader, changes, measure)
    return replace(found, marked=(*marked, *found.marked))


def _spaced(text: str, each: StepTexts) -> str:
    """Return a step's new text with the white space that ended the old one."""
    if not text:
        return text
    step = each.step.text
    return text.rstrip() + step[len(step.rstrip()) :]


_Key = tuple[int, str]
"""A step, and what stands in its place."""


def _measure(
    writer: _Writer, reader: Reader, changes: Sequence[_Change], measure: str
) -> StepEffects:
    """Make every version, read them all at once, and compare."""
    steps = writer.chain.steps
    asked = [(c.step, text) for c in changes for text in (steps[c.step].text, c.text)]
    controls = [(c.step, c.control) for c in changes if c.control is not None]
    made = writer.versions([*asked, *controls])
    tokens = {key: reader.version(each.text) for key, each in made.items() if each is not None}
    readings = reader.read(list(tokens.values()), answers=[tokens.get(key) for key in asked])
    read = dict(zip(tokens, readings, strict=True))
    effects, marked = [], []
    for each in changes:
        match _effect(writer, each, measure, made, read):
            case StepEffect() as found:
                effects.append(found)
            case Marked() as reason:
                marked.append(reason)
    return StepEffects(tuple(effects), tuple(marked), reader.spent)


def _effect(
    writer: _Writer,
    change: _Change,
    measure: str,
    made: Mapping[_Key, _Version | None],
    read: Mapping[_Key, Reading | None],
) -> StepEffect | Marked:
    """Compare the step as it was with the changed one; mark it where one could not be read."""
    name, step = writer.chain.problem.id, change.step
    keys = (step, writer.chain.steps[step].text), (step, change.text)
    if any(made[key] is None for key in keys):
        reason = f"there is no room to write {writer.limit} tokens after the step"
        return Marked(name, step, change.seed, measure, reason)
    one, other = (read[key] for key in keys)
    if one is None or other is None:
        return Marked(name, step, change.seed, measure, UNREADABLE)
    control = None if change.control is None else read.get((step, change.control))
    version = made[keys[1]]
    rest = version.rest if version and writer.regenerates else ""
    texts = {"text": change.text, "rest": rest}
    return effect(name, step, change.seed, measure, one, other, control, **texts)


class _Writer:
    """Makes the versions of a chain: with the later steps kept, or written again by the model."""

    def __init__(
        self, model: Model, chain: Chain, rules: Rules, regenerates: bool, max_new_tokens: int
    ) -> None:
        self.chain, self.regenerates = chain, regenerates
        self._model, self._rules, self.limit = model, rules, max_new_tokens
        if regenerates and max_new_tokens < 1:
            raise InputError(
                f"max_new_tokens={max_new_tokens}: let the rest have at least 1 token."
            )

    def versions(self, texts: Sequence[tuple[int, str]]) -> dict[tuple[int, str], _Version | None]:
        """Return the version with each (step, text); None where there is no room to write."""
        heads = {(step, text): self._head(step, text) for step, text in texts}
        if not self.regenerates:
            return {key: _Version(head, self._after(key[0])) for key, head in heads.items()}
        heads = {key: head.rstrip() for key, head in heads.items()}
        rests = self._rests(list(dict.fromkeys(heads.values())))
        return {
            key: None if rests[head] is None else _Version(head, rests[head] or "")
            for key, head in heads.items()
        }

    def _head(self, step: int, text: str) -> str:
        return self.chain.text[: self.chain.steps[step].start] + text

    def _after(self, step: int) -> str:
        return self.chain.text[self.chain.steps[step].end :]

    def _rests(self, heads: Sequence[str]) -> dict[str, str | None]:
        """Write on after each head, a few together; equal heads are written on once."""
        tokens = {head: encode(self._model.tokenizer, self.chain.prompt + head) for head in heads}
        room = self._model.sizes.n_ctx - self.limit
        fitting = [head for head in heads if len(tokens[head]) <= room]
        written: dict[str, str | None] = dict.fromkeys(heads)
        for start in range(0, len(fitting), ROWS):
            some = fitting[start : start + ROWS]
            found = self._model.generate(
                [tokens[head] for head in some],
                max_new_tokens=self.limit,
                stop=self._rules.think_tags[1],
            )
            for head, text in zip(some, found.texts, strict=True):
                written[head] = self._without_answer(head, text)
        return written

    def _without_answer(self, head: str, written: str) -> str:
        """Return the written part of the chain: the final answer must not enter it."""
        opened = self.chain.prompt.rstrip().endswith(self._rules.think_tags[0])
        whole = split_output(head + written, think_tags=self._rules.think_tags, opened=opened).chain
        return whole[len(head) :] if whole.startswith(head) else ""
