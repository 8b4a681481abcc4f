"""Prompt pairs for a command: read or generated, cut to those that a model can take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import interp.results as results
from interp.data.pairs import PairRow, PromptPair, indirect_object, read_pairs
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs
from interp.patching.activation import pair_tokens


@dataclass(frozen=True)
class Chosen:
    """The pairs that are used, and those that are not with the reason."""

    ids: tuple[str, ...]
    pairs: tuple[PromptPair, ...]
    marked: tuple[dict[str, Any], ...]


def choose(
    model: Model, input: Path | None, *, n: int, seed: int, same_length: bool = False
) -> Chosen:
    """Take the pairs of a file, or generate indirect-object pairs, and mark what does not fit.

    A pair fits if its prompts have one length in tokens and its answers are single tokens. With
    `same_length` all pairs have the length that most of them have.

    Raises:
        InputError: n below 1, a file without pairs, or no pair that fits.
    """
    if n < 1:
        raise InputError(f"--pairs {n}: ask for at least 1.")
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer, so it cannot read prompt pairs.")
    if input is None:
        found = [PairRow(f"ioi-{seed}-{i}", each) for i, each in enumerate(_distinct(8 * n, seed))]
    else:
        found = read_pairs(input)
    fits, marked = _fitting(model, found, same_length)
    if not fits:
        raise InputError(f"No pair fits {model.name}; {marked[0]['id']}: {marked[0]['reason']}")
    if input is None:  # generated pairs are plenty: those that do not fit are not missed
        fits, marked = fits[:n], []
    ids, pairs = zip(*fits, strict=True)
    return Chosen(ids, pairs, tuple(marked))


def require_layers(model: Model, layers: Sequence[int]) -> None:
    """Refuse layers that the model does not have."""
    outside = [layer for layer in layers if not 0 <= layer < model.sizes.n_layers]
    if outside:
        raise InputError(
            f"--layers {outside[0]}: {model.name} has the layers 0 to {model.sizes.n_layers - 1}."
        )


def require_memory(memory_gib: float) -> None:
    """Refuse a memory limit that is no limit."""
    if not memory_gib > 0:
        raise InputError(f"--memory-gib {memory_gib}: give a positive number of GiB.")


def begin(model: Model, experiment: str, out: Path, settings: Any, chosen: Chosen) -> results.Store:
    """Make or resume the folder of a run on prompt pairs.

    Raises:
        StoreError: the folder belongs to other settings or pairs, or is no run.
    """
    pairs = dict(zip(chosen.ids, map(asdict, chosen.pairs), strict=True))
    return runs.begin(
        model,
        experiment=experiment,
        out=out,
        settings=asdict(settings),
        data={"pairs": pairs},
        seeds=[settings.seed],
    )


def _distinct(n: int, seed: int) -> list[PromptPair]:
    return list(dict.fromkeys(indirect_object(n, seed=seed)))


def _fitting(
    model: Model, rows: Sequence[PairRow], same_length: bool
) -> tuple[list[tuple[str, PromptPair]], list[dict[str, Any]]]:
    fits: list[tuple[str, PromptPair]] = []
    marked: list[dict[str, Any]] = []
    lengths: dict[str, int] = {}
    for row in rows:
        try:
            if row.pair is None:
                raise InputError(str(row.reason))
            lengths[row.id] = len(pair_tokens(model, row.pair)[0])
        except InputError as error:
            marked.append({"id": row.id, "reason": str(error)})
        else:
            fits.append((row.id, row.pair))
    if same_length and fits:
        (common, _), *_ = Counter(lengths.values()).most_common(1)
        for name, _ in fits:
            if lengths[name] != common:
                why = f"{lengths[name]} tokens, and a grid of positions needs {common} in all pairs"
                marked.append({"id": name, "reason": why})
        fits = [(name, pair) for name, pair in fits if lengths[name] == common]
    return fits, marked
