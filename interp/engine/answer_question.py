"""What an answer sweep is asked, checked before the model runs, and the form of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from interp.edits import Edit
from interp.engine.generation import check_cached, check_settings, end_tokens
from interp.engine.model import Model
from interp.engine.session import BoundEdit, Session
from interp.errors import InputError
from interp.sites import Each

Cell = Edit | Sequence[Edit]
"""What one cell does: one edit, several together, or none (an empty sequence)."""


@dataclass(frozen=True, eq=False)
class Ending:
    """Says where an answer ends."""

    tokenizer: object
    tokens: frozenset[int]
    """The end-of-text tokens."""
    stop: Callable[[str], bool] | None
    max_new_tokens: int

    def over(self, new: Sequence[int]) -> bool:
        """Whether an answer ends with its last token."""
        if len(new) >= self.max_new_tokens or new[-1] in self.tokens:
            return True
        return self.stop is not None and bool(self.stop(self.text(new)))

    def cut(self, new: Sequence[int]) -> tuple[int, ...]:
        """What was written until the answer ended."""
        for n in range(1, len(new)):
            if self.over(new[:n]):
                return tuple(new[:n])
        return tuple(new)

    def text(self, new: Sequence[int]) -> str:
        """The tokens decoded, special ones left out."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(new), skip_special_tokens=True))  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, checked."""

    model: Model
    prompts: list[list[int]]
    targets: list[list[int]]
    cells: list[list[Edit]]
    """As they were given."""
    named: list[list[Edit]]
    """The same, naming tokens of the prompts by their positions."""
    session: Session
    """Holds the named edits, bound to the prompts."""
    ending: Ending
    chunk: int


@dataclass(frozen=True, eq=False)
class Found:
    """What was found, `[row][prompt]`: row 0 is the base, row i + 1 cell i."""

    logprobs: list[list[float]]
    """Of each target, in nats."""
    new: list[list[tuple[int, ...]]]
    """The greedy answers."""
    forwards: int
    tokens: int


def prepare(
    model: Model,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    cells: Sequence[Cell],
    stop: Callable[[str], bool] | None,
    max_new_tokens: int,
    chunk: int,
) -> Question:
    """Check everything before the model runs; the arguments are those of `answer_sweep`.

    Raises:
        InputError, SiteError, EditError, PositionError, SilentEditError: as there.
    """
    check_settings(max_new_tokens, 0.0, 1.0, ())
    if chunk < 1:
        raise InputError(f"chunk={chunk}: give at least 1 token a forward pass.")
    if stop is not None and model.tokenizer is None:
        raise InputError(f"stop reads text and {model.name} has no tokenizer: leave it out.")
    ids, answers = [list(each) for each in prompts], [list(each) for each in targets]
    batch = model.tokens(ids)
    _check_pairs(model, ids, answers, max_new_tokens)
    several = [list(cell) if isinstance(cell, Sequence) else [cell] for cell in cells]
    draft = Session(model, batch, batch.lengths)
    session = Session(model, batch, batch.lengths)
    for place, edits in enumerate(several):
        draft.add(edits, {}, cell=place)  # type: ignore[arg-type]
        check_cached(edits, cache=True)  # type: ignore[arg-type]
        session.add([_named(each) for each in draft.of_cells([place])], {}, cell=place)
    named = [[each.edit for each in session.of_cells([i])] for i in range(len(several))]
    ending = Ending(model.tokenizer, frozenset(end_tokens(model)), stop, max_new_tokens)
    return Question(model, ids, answers, several, named, session, ending, chunk)  # type: ignore[arg-type]


def _check_pairs(
    model: Model, prompts: list[list[int]], targets: list[list[int]], max_new_tokens: int
) -> None:
    if len(targets) != len(prompts):
        raise InputError(
            f"There are {len(prompts)} prompts and {len(targets)} targets: give one a prompt."
        )
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        if not target:
            raise InputError(f"Target {i} is empty: a target needs at least one token.")
        outside = [token for token in target if not 0 <= token < model.sizes.d_vocab]
        if outside:
            raise InputError(
                f"Target {i} holds token {outside[0]}, but the vocabulary has "
                f"{model.sizes.d_vocab} tokens."
            )
        longest = max(len(target), max_new_tokens)
        if len(prompt) + longest > model.sizes.n_ctx:
            raise InputError(
                f"Prompt {i} has {len(prompt)} tokens, and {longest} more for its answer exceed "
                f"the context of {model.name}, {model.sizes.n_ctx} tokens: shorten it."
            )


def _named(bound: BoundEdit) -> Edit:
    """An edit that names the same tokens of the prompts by position, whatever follows them."""
    if not isinstance(bound.edit.positions, str):
        return bound.edit
    rows = [row.nonzero()[:, 0].tolist() or [0] for row in bound.due]  # `rows` leaves out the empty
    return replace(bound.edit, positions=Each(rows))
