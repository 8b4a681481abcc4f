"""Steering in generation: one table of what must be equal, and by how much it is.

    python -m experiments.steering_equalities

For every tiny model and SmolLM2, at every kind of position and for every steering edit, it compares
a ragged batch written on under the edit with

    cache off      the same generation that reads the whole text again for each token
    single         each prompt written on alone
    one pass       one run over prompt and new text, its logits where each new token was chosen

and keeps the largest difference of the logits that chose a token, or infinity where one token of
the text differs. Positions that count new tokens mean nothing in one run, so the one pass names
the same tokens by their logical positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

import interp
from interp.edits import Add, Clamp, Edit, Project
from interp.engine.generation import Generation
from interp.engine.model import Model
from interp.models.tiny import TINY
from interp.sites import Each, New

MODELS = (*TINY, "smollm2-135m")
PROMPTS = ("Mary went to the store and", "Hello", "One two three four five six seven eight nine")
"""Of different lengths, so that the batch is padded; the last overruns the sliding windows."""

NEW = 4
"""Tokens written; the model reads all but the last."""

POSITIONS: dict[str, Any] = {
    "chosen prompt tokens": (0, 1),
    "one tuple a prompt": Each(((1, 3), (0,), (2,))),
    "all": "all",
    "prompt": "prompt",
    "last": "last",
    "new": "new",
    "New(0, 2)": New(0, 2),
    "first 2 new": New(0, 1),
}
"""Every way to say where; some cross from the prompt into the new text, some do not."""


@dataclass(frozen=True)
class Row:
    """One model, place and edit: the largest difference of logits of each equality."""

    model: str
    positions: str
    edit: str
    cache_off: float
    single: float
    one_pass: float
    logit: float
    """The largest logit in size: float32 rounds a number of this size by 1e-7 of it each time."""
    change: float
    """L2 norm of what the edit changed, relative to what was there: the proof that it acted."""

    @property
    def worst(self) -> float:
        """The largest of the three differences, relative to the largest logit."""
        return max(self.cache_off, self.single, self.one_pass) / self.logit


def steering_edits(model: Model, layer: int, positions: Any) -> dict[str, Edit]:
    """Return one steering edit of each kind, at one layer's output.

    The vector is random, as long as the stream at a usual token (the median over the prompts, which
    the large first token of some models does not move).
    """
    site = f"{layer}.resid_post"
    acts = model.run(list(PROMPTS), capture=[site], logits="last").acts[site]
    norm = float(acts.double().norm(dim=-1).nanmedian())
    stream = torch.Generator().manual_seed(7)
    vector = torch.randn(model.sizes.d_model, generator=stream)
    vector = (vector / vector.norm()).to(model.dtype)
    return {
        "Add": Add(site, vector=norm * vector, coefficient=0.5, positions=positions),
        "Project": Project(site, directions=vector, positions=positions),
        "Clamp along": Clamp(site, direction=vector, value=0.5 * norm, positions=positions),
    }


def write(model: Model, prompts: Sequence[Sequence[int]], edit: Edit, **options: Any) -> Generation:
    """Write on greedily under one edit and keep the logits."""
    return model.generate(prompts, max_new_tokens=NEW, edits=[edit], keep_logits=True, **options)


def equalities(model: Model, edit: Edit, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the numbers of a row: differences, the largest logit and the share changed."""
    batch = write(model, prompts, edit)
    off = write(model, prompts, edit, cache=False)
    alone = [write(model, [ids], for_prompt(edit, row)) for row, ids in enumerate(prompts)]
    receipt = batch.receipt[0]
    assert batch.logits is not None
    return {
        "cache_off": max(gap(batch, off, row, row) for row in range(len(prompts))),
        "single": max(gap(batch, one, row, 0) for row, one in enumerate(alone)),
        "one_pass": max(one_pass_gap(model, edit, batch, row) for row in range(len(prompts))),
        "logit": float(batch.logits.nan_to_num().abs().max()),
        "change": receipt.change / receipt.before,
    }


def for_prompt(edit: Edit, row: int) -> Edit:
    """Return the edit as one prompt alone needs it."""
    if isinstance(edit.positions, Each):
        return replace(edit, positions=edit.positions.prompts[row])
    return edit


def gap(one: Generation, other: Generation, row: int, other_row: int) -> float:
    """Largest difference of one prompt's logits; infinity where the texts differ."""
    if one.new_ids[row] != other.new_ids[other_row]:
        return float("inf")
    assert one.logits is not None and other.logits is not None
    n = len(one.new_ids[row])
    return largest(one.logits[row, :n], other.logits[other_row, :n])


def one_pass_gap(model: Model, edit: Edit, wrote: Generation, row: int) -> float:
    """Compare with one run of the text as far as the model read it, the same tokens edited."""
    prompt, new = wrote.prompt_ids[row], wrote.new_ids[row]
    text = [*prompt, *new[:-1]]
    named = logical(for_prompt(edit, row).positions, len(prompt), len(text))
    edits = [replace(edit, positions=named)] if named else []
    logits = model.run([text], edits=edits).logits[0, len(prompt) - 1 :]
    assert wrote.logits is not None
    return largest(wrote.logits[row, : len(new)], logits)


def logical(positions: Any, n_prompt: int, n_seen: int) -> tuple[int, ...]:
    """Name positions by logical index, in a prompt of `n_prompt` tokens and a text of `n_seen`.

    >>> logical("last", 3, 5), logical("new", 3, 5), logical(New(0, 2), 3, 9)
    ((2,), (3, 4), (3, 5))
    """
    match positions:
        case "all":
            return tuple(range(n_seen))
        case "prompt":
            return tuple(range(n_prompt))
        case "last":
            return (n_prompt - 1,)
        case "new":
            return tuple(range(n_prompt, n_seen))
        case New(indices=indices):
            return tuple(n_prompt + i for i in indices if n_prompt + i < n_seen)
    return positions


def largest(one: Float[Tensor, "new d_vocab"], other: Float[Tensor, "new d_vocab"]) -> float:
    """The largest difference; infinity where one is not a number."""
    worst = (one.double() - other.double()).abs().max()
    return float(worst) if bool(worst.isfinite()) else float("inf")


def rows(
    names: Sequence[str] = MODELS,
    *,
    dtype: torch.dtype | None = None,
    say: Callable[[Table], object] | None = None,
) -> list[Row]:
    """Measure every model, place and edit, and print the table (or hand it to `say`)."""
    found = [row for name in names for row in rows_of(name, dtype=dtype)]
    (say or Console().print)(table(found))
    return found


def rows_of(name: str, *, dtype: torch.dtype | None = None) -> list[Row]:
    """Measure one model at every place under every edit, in the middle layer."""
    model = interp.load(name, dtype=dtype)
    prompts, layer = prompt_ids(model), model.sizes.n_layers // 2
    return [
        Row(name, where, kind, **equalities(model, edit, prompts))
        for where, positions in POSITIONS.items()
        for kind, edit in steering_edits(model, layer, positions).items()
    ]


def prompt_ids(model: Model) -> list[list[int]]:
    """Return the token ids of `PROMPTS`."""
    batch = model.tokens(list(PROMPTS))
    pairs = zip(batch.ids, batch.index, strict=True)
    return [ids[place >= 0].tolist() for ids, place in pairs]


def table(found: Sequence[Row]) -> Table:
    """Lay rows out as a table, one line each."""
    drawn = Table(
        "model", "positions", "edit", "cache off", "single", "one pass", "logit", "change"
    )
    for column in drawn.columns:
        column.no_wrap = True
    for row in found:
        numbers = [f"{each:.1e}" for each in (row.cache_off, row.single, row.one_pass)]
        size, share = f"{row.logit:.0f}", f"{row.change:.0%}"
        drawn.add_row(row.model, row.positions, row.edit, *numbers, size, share)
    return drawn


if __name__ == "__main__":
    rows()
