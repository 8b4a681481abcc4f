"""Delete or replace spans of a chain of thought and let the model go on from there.

Do failed branches, left in the context, cause wrong answers? Take a chain up to the end of its
last failed branch, remove one failed branch, and continue it many times:

    unedited        continue the chain as it is
    no-op           the same text again, with the same random streams: exactly no difference
    first, last     without the first, or the last, failed branch
    control first,  without as many tokens of steps that did not fail: a shorter context
    control last    helps or hurts by itself

Every arm continues from the same step with the same random streams and the same limit of new
tokens. Source: Feng et al. 2025, arXiv:2509.19284; the length controls are ours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from interp.engine.model import Model
from interp.errors import InputError
from interp.thinking.graph import Branch, StepGraph

ARMS = ("unedited", "no-op", "first", "last", "control first", "control last")
"""The arms of `branch_arms`, in order."""


@dataclass(frozen=True)
class SpanEdit:
    """The characters `text[start:end]` become `replacement`; "" deletes them."""

    start: int
    end: int
    replacement: str = ""


@dataclass(frozen=True)
class Arm:
    """One version of the start of a chain, to be continued."""

    name: str
    text: str | None
    """None where the arm cannot be made; `reason` says why."""
    removed: int
    """Tokens fewer than unedited."""
    reason: str = ""


def edit_spans(text: str, edits: Sequence[SpanEdit]) -> str:
    """Return the text with every span replaced; offsets count in the text as it is given.

    >>> edit_spans("A B backtrack A C", [SpanEdit(2, 16)])
    'A C'

    Raises:
        InputError: a span is out of range, or overlaps another.
    """
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.end))
    for edit in ordered:
        if not 0 <= edit.start <= edit.end <= len(text):
            raise InputError(
                f"The span {edit.start} to {edit.end} does not lie in the {len(text)} characters "
                "of the text: count characters from 0."
            )
    for before, after in pairwise(ordered):
        if after.start < before.end:
            raise InputError(
                f"The spans {before.start} to {before.end} and {after.start} to {after.end} "
                "overlap: join them into one edit."
            )
    for edit in reversed(ordered):
        text = text[: edit.start] + edit.replacement + text[edit.end :]
    return text


def remove_branch(graph: StepGraph, which: int = -1, *, replacement: str = "") -> SpanEdit:
    """Return the edit that removes a failed branch, or puts words (a summary) in its place.

    Args:
        graph: steps with spans, such as from `parse_trace`.
        which: 0 the first failed branch, -1 the last.
        replacement: what stands there instead.

    Raises:
        InputError: there is no such branch, or its steps have no spans.
    """
    branches = graph.failed_branches
    if not -len(branches) <= which < len(branches):
        raise InputError(
            f"The chain has {len(branches)} failed branches and no number {which}: there is "
            "nothing to remove."
        )
    start, end = _span(branches[which])
    return SpanEdit(start, end, replacement)


def remove_successful(
    tokenizer: Any, text: str, graph: StepGraph, n_tokens: int, *, seed: int = 0
) -> list[SpanEdit]:
    """Return edits that remove `n_tokens` tokens of steps that did not fail: the length control.

    They stand next to each other but for failed branches between them; where they start is drawn.
    The last step stays, so that the chain goes on from the same one.

    Raises:
        InputError: these steps have fewer tokens, a step has no span, or n_tokens is below 1.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens={n_tokens}: a control removes at least one token.")
    spans = [_span(node) for node in graph.nodes if not node.failed][:-1]
    free = [
        (start, end)
        for start, end in token_ends(tokenizer, text)
        if any(first <= start and end <= last for first, last in spans)
    ]
    if len(free) < n_tokens:
        raise InputError(
            f"The steps that did not fail have {len(free)} tokens before the last one, and the "
            f"control must remove {n_tokens}: leave this chain out of the comparison."
        )
    first = random.Random(seed).randint(0, len(free) - n_tokens)
    return [SpanEdit(start, end) for start, end in free[first : first + n_tokens]]


def token_ends(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return (start, end) in characters of every token; together they cover the text.

    White space that a tokenizer leaves out of its offsets belongs to the token after it.

    Raises:
        InputError: the tokenizer is a slow one, which knows no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "The tokenizer has no character offsets, so tokens cannot be found in the text: use a "
            "fast tokenizer."
        )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    bounds = [0, *(end for _, end in found["offset_mapping"])]
    return list(pairwise(bounds))


def branch_arms(tokenizer: Any, text: str, graph: StepGraph, *, seed: int = 0) -> list[Arm]:
    """Return every arm of `ARMS` for a chain's start, `text`, which holds a failed branch.

    An arm that cannot be made has no text and says why; the others are kept.

    Raises:
        InputError: no failed branch, or steps without spans.
    """
    whole = len(token_ends(tokenizer, text))
    made = [Arm("unedited", text, 0), Arm("no-op", edit_spans(text, []), 0)]
    for name, which in (("first", 0), ("last", -1)):
        without = edit_spans(text, [remove_branch(graph, which)])
        made.append(Arm(name, without, whole - len(token_ends(tokenizer, without))))
    for arm in made[2:4]:
        made.append(_control(tokenizer, text, graph, arm, seed))
    return made


def _control(tokenizer: Any, text: str, graph: StepGraph, of: Arm, seed: int) -> Arm:
    name = f"control {of.name}"
    try:
        edits = remove_successful(tokenizer, text, graph, of.removed, seed=seed)
    except InputError as error:
        return Arm(name, None, 0, str(error))
    without = edit_spans(text, edits)
    removed = len(token_ends(tokenizer, text)) - len(token_ends(tokenizer, without))
    if removed != of.removed:
        return Arm(name, None, removed, "The tokenizer joins what is left: lengths differ.")
    return Arm(name, without, removed)


def regenerate(
    model: Model,
    prompts: Sequence[str],
    *,
    n: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    rows: int = 256,
    **settings: Any,
) -> list[list[str]]:
    """Continue every prompt (question and start of the chain) `n` times; return the new texts.

    The random stream of a continuation depends on the seed and its place alone: so equal calls
    with other prompts in the same places, such as two arms, draw the same numbers.

    Args:
        rows: continuations in one batch; changes cost and streams.
        settings: passed to `Model.generate`.

    Raises:
        InputError: no prompt, n or rows below 1, and all that `Model.generate` refuses.
    """
    if not prompts or n < 1 or rows < 1:
        raise InputError(f"{len(prompts)} prompts, n={n}, rows={rows}: give at least one of each.")
    repeated = [prompt for prompt in prompts for _ in range(n)]
    texts: list[str] = []
    for i, start in enumerate(range(0, len(repeated), rows)):
        made = model.generate(
            repeated[start : start + rows],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed * 100_003 + i,
            **settings,
        )
        texts += made.texts
    return [texts[i : i + n] for i in range(0, len(texts), n)]


def _span(of: Any) -> tuple[int, int]:
    """The span of a branch or step."""
    if of.start is None or of.end is None:
        named = of.steps[0] if isinstance(of, Branch) else of.id
        raise InputError(
            f"The step {named!r} has no span, so it cannot be found in the text: give start and "
            "end of every step, or read the graph with `parse_trace`."
        )
    return of.start, of.end
