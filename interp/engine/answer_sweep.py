"""What a model answers under many edits: the probability of a target, and the greedy answer.

Edits act on tokens of the prompt alone, in the pass that reads it; new tokens are never edited
(steering "during prefill only", Zhao et al. 2025, arXiv:2510.24941). So an edit at block l and
position p leaves everything before l, and every position before p, as in the base run, and each
cell needs only its own end: the blocks from l on, the positions from p on. The base run of several
prompts is one token tree, so that a prefix that they share is computed once.

Behind its end each cell reads drafts of its answer side by side: the target, and what the base run
answered. Where the choice after a draft's token is the draft's next token, it is what greedy
decoding would have written. So one pass gives the target's probability, and as much of the greedy
answer as the drafts foresee (the check of Leviathan et al. 2023, arXiv:2211.17192, without
sampling). From there the cell writes on, with the keys and values of that pass, in a batch with
others.

`exact=True` runs one plain forward pass and one plain generation a cell: the definition, to compare
with.

The parts: `answer_question` checks what is asked, `answer_forest` is the base run, `answer_cells`
says what one pass of cells holds and writes answers on, `answer_shared` puts these together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.edits import Edit
from interp.engine import masks
from interp.engine.answer_question import Cell, Found, Question, prepare
from interp.engine.answer_shared import Shared
from interp.engine.model import Model
from interp.engine.receipts import EditReceipt
from interp.engine.tree import Progress, Spent, target_logprobs


@dataclass(frozen=True, eq=False)
class Answered:
    """What was answered, by cell and prompt in the order given."""

    logprobs: Float[Tensor, "cell prompt"]
    """Joint log-probability of each prompt's target, in nats, teacher forced."""
    new_ids: tuple[tuple[tuple[int, ...], ...], ...]
    """The greedy answer, `[cell][prompt]`: tokens up to the stop, the end of text (included) or
    the limit."""
    texts: tuple[tuple[str, ...], ...]
    """The same, decoded without special tokens; empty without a tokenizer."""
    base_logprobs: Float[Tensor, " prompt"]
    base_ids: tuple[tuple[int, ...], ...]
    base_texts: tuple[str, ...]
    receipts: tuple[tuple[EditReceipt, ...], ...]
    """For each cell one proof an edit."""
    spent: Spent
    """Tokens are those that entered the model, however many blocks they went through; naive is
    one plain pass with the target and one plain generation for each cell, and for the base."""


@torch.no_grad()
def answer_sweep(
    model: Model,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    cells: Sequence[Cell] = (),
    *,
    stop: Callable[[str], bool] | None = None,
    max_new_tokens: int = 20,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> Answered:
    """Ask, under each cell and without edits, how likely a target is and what is answered.

    Every cell is applied to every prompt (`rows` and `Each` name some, or other tokens in each).
    Positions name tokens of the prompt; `"all"` and `"last"` mean all and the last of the prompt,
    and edits of attention maps change the queries of the prompt alone.

    Args:
        model: sharing needs the torch engine; with others, and with attention that cannot take a
            mask of our own, the answer is the exact one.
        prompts: token ids, of any lengths.
        targets: token ids whose joint log-probability after each prompt is asked for.
        stop: asked of the decoded new text after every token; True ends the answer there.
        max_new_tokens: the longest answer.
        exact: one plain forward pass and one plain generation a cell. Answers can differ only
            where two logits are as close as rounding, about 1e-4 in float32.
        chunk: at most so many tokens a forward pass; a longer end goes alone. When memory runs out
            the batch is halved.
        progress: called with how many cells of how many prompts are done, and in all.

    Raises:
        InputError: prompts and targets that do not pair, an empty one, a token that is not in the
            vocabulary, or more tokens than the context holds.
        SiteError, EditError, PositionError, SilentEditError: before the model runs, as in
            `Model.run`; an edit that names no token of any prompt is refused.

    >>> import interp
    >>> model = interp.load("tiny-llama")
    >>> cells = [interp.ZeroAblate(f"{layer}.mlp_out", positions=2) for layer in (0, 1, 2)]
    >>> found = answer_sweep(model, [[5, 6, 7, 8]], [[9, 10]], cells, max_new_tokens=3)
    >>> found.logprobs.shape, len(found.new_ids[2][0]), found.receipts[1][0].tokens
    (torch.Size([3, 1]), 3, ((0, 2),))
    """
    asked = prepare(model, prompts, targets, cells, stop, max_new_tokens, chunk)
    said = progress or (lambda done, total: None)
    if exact or model.engine != "torch" or masks.refusal(model):
        return _put_together(asked, _exact(asked, said))
    return _put_together(asked, Shared(asked, said).answered())


def _receipts(asked: Question) -> tuple[tuple[EditReceipt, ...], ...]:
    """The proofs of each cell, told by the edits as they were given."""
    asked.session.receipt()  # refuses an edit that did not act
    return tuple(
        tuple(
            replace(bound.receipt(), edit=edit)
            for bound, edit in zip(asked.session.of_cells([place]), edits, strict=True)
        )
        for place, edits in enumerate(asked.cells)
    )


def _exact(asked: Question, progress: Progress) -> Found:
    """Teacher force and generate, once without edits and once under each cell."""
    logprobs, new, spent = [], [], []
    for place, edits in enumerate([[], *asked.named]):
        logprobs.append(_forced(asked, edits, place - 1))
        n_new = asked.ending.max_new_tokens
        written = asked.model.generate(asked.prompts, max_new_tokens=n_new, edits=edits).new_ids
        spent.append(written)
        new.append([asked.ending.cut(ids) for ids in written])
        if place:
            progress(place * len(asked.prompts), len(asked.named) * len(asked.prompts))
    return Found(logprobs, new, *_naive(asked, spent))


def _forced(asked: Question, edits: list[Edit], cell: int) -> list[float]:
    """Log-probability of each target in one plain forward pass of all prompts."""
    whole = [[*p, *t[:-1]] for p, t in zip(asked.prompts, asked.targets, strict=True)]
    batch = asked.model.tokens(whole)
    session = asked.model.session(batch, batch.lengths, edits, ())
    reads = [range(len(p) - 1, len(w)) for p, w in zip(asked.prompts, whole, strict=True)]
    keep = sorted({pos for read in reads for pos in read})
    columns = torch.tensor(keep, device=batch.ids.device)
    out, _ = asked.model.tapped(batch, session.taps(batch), keep=columns)
    for bound, proof in zip(asked.session.of_cells([cell]), session.receipt().edits, strict=True):
        bound.take(proof)
    found = []
    for row, (read, target) in enumerate(zip(reads, asked.targets, strict=True)):
        rows = torch.tensor([keep.index(pos) for pos in read], device=out.device)
        found.append(float(sum(target_logprobs(out[row, rows], target))))
    return found


def _naive(asked: Question, new: Sequence[Sequence[Sequence[int]]]) -> tuple[int, int]:
    """Forward passes and tokens of a plain pass and a plain generation, for base and cells."""
    forwards = sum(1 + max(map(len, written)) for written in new)
    each = [2 * len(p) + len(t) - 2 for p, t in zip(asked.prompts, asked.targets, strict=True)]
    return forwards, sum(sum(each) + sum(map(len, written)) for written in new)


def _put_together(asked: Question, found: Found) -> Answered:
    """Name what the base and each cell answered."""
    texts = [tuple(asked.ending.text(ids) for ids in each) for each in found.new]
    exact = torch.promote_types(asked.model.dtype, torch.float32)
    values = torch.tensor(found.logprobs, dtype=exact)
    return Answered(
        logprobs=values[1:],
        new_ids=tuple(map(tuple, found.new[1:])),
        texts=tuple(texts[1:]),
        base_logprobs=values[0],
        base_ids=tuple(found.new[0]),
        base_texts=texts[0],
        receipts=_receipts(asked),
        spent=Spent(found.forwards, found.tokens, *_naive(asked, found.new)),
    )
