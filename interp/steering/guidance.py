"""Guidance by counterfactual attention: write what the prompt causes, beyond what any prompt would.

The effect of attention on the output is output(A) - output(A*): the model as it is, less the model
under edits that replace its attention by a counterfactual. `guided_generate` moves every logit
along the effect before it chooses a token, so that tokens which the model would write whatever it
attends to (its prior) lose against those that its attention speaks for.

Source: CausalMM, Li et al. 2024, arXiv:2410.04780, with the plausibility mask of contrastive
decoding, Li et al. 2022, arXiv:2210.15097.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from interp.edits import Act, Edit, Where
from interp.engine import generation
from interp.engine.generation import Generation
from interp.engine.model import LogitsAt, Model
from interp.engine.receipts import Receipt
from interp.engine.session import Session
from interp.errors import InputError
from interp.models.tokens import Batch, Inputs
from interp.sites import Each


def guide(
    logits: Float[Tensor, "*batch d_vocab"],
    counterfactual: Float[Tensor, "n *batch d_vocab"],
    *,
    guidance: float = 0.5,
    plausibility: float = 0.1,
) -> Float[Tensor, "*batch d_vocab"]:
    """Move logits away from n counterfactual ones: `(1 + n g) l - g (l_1 + ... + l_n)`.

    It is computed as `l + g ((l - l_1) + ... + (l - l_n))`, so a counterfactual that is the fact
    moves nothing. Tokens with `l < max l + ln(plausibility)` get minus infinity; 0 keeps them all.

    Source: Li et al. 2024, arXiv:2410.04780, for their two counterfactuals.

    Raises:
        InputError: guidance is negative or not finite, or plausibility is no share.

    >>> fact, prior = torch.tensor([2.0, 1.9, -9.0]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> guide(fact, prior, guidance=1.0)
    tensor([2.0000, 2.8000,   -inf])
    """
    _check(guidance, plausibility)
    moved = logits + guidance * (logits - counterfactual).sum(0)
    if plausibility == 0:
        return moved
    low = logits < logits.amax(-1, keepdim=True) + math.log(plausibility)
    return moved.masked_fill(low, -math.inf)


def effect(
    model: Model, inputs: Inputs, edits: Sequence[Edit], *, logits: LogitsAt = "last"
) -> Float[Tensor, "batch *pos d_vocab"]:
    """Return output(A) - output(A*): the log-probabilities without edits, less those with, in nats.

    Positive where attention, as it is, speaks for a token. NaN where a prompt has no such token.

    Raises:
        InputError: no edits, so that there is no counterfactual.
        SiteError, EditError, PositionError, SilentEditError: as in `Model.run`.
    """
    _check_edits([edits])
    other = model.run(inputs, edits=edits, logits=logits).logits
    fact = model.run(inputs, logits=logits).logits
    return fact.log_softmax(-1) - other.log_softmax(-1)


@torch.no_grad()
def guided_generate(
    model: Model,
    inputs: Inputs,
    *,
    counterfactuals: Sequence[Sequence[Edit]],
    max_new_tokens: int,
    guidance: float = 0.5,
    plausibility: float = 0.1,
    temperature: float = 0.0,
    seed: int = 0,
    keep_logits: bool = False,
) -> Generation:
    """Write on from prompts by guided logits (see `guide`), greedily or by sampling.

    The prompts and one copy of them for each counterfactual run as one batch with a KV cache; the
    edits act on their own copy alone, and every copy reads the tokens that were chosen. An edit is
    written as for the prompts alone: its `rows`, `Each` and sources count prompts, not copies.

    Args:
        counterfactuals: lists of edits, one list a counterfactual; any edits will do.
        guidance: g of `guide`.
        plausibility: tokens below this share of the likeliest token's probability are not written.
        temperature: 0 is greedy; otherwise guided logits are divided by it.
        seed: each prompt has its own stream, the same as in `generate`.
        keep_logits: return the guided logits of each new token.

    Returns:
        What was written, as `generate` returns it; the receipt holds one proof an edit, over all
        counterfactuals in order.

    Raises:
        InputError: a setting out of range, no counterfactual, or a list without an edit.
        SiteError, EditError, PositionError, SilentEditError: as in `generate`.
    """
    _check(guidance, plausibility)
    _check_edits(counterfactuals)
    generation.check_settings(max_new_tokens, temperature, 1.0, ())
    for edits in counterfactuals:
        generation.check_cached(edits, cache=True)
    alone = model.tokens(inputs, side="left")
    _check_room(model, alone, max_new_tokens)
    n_copies = 1 + len(counterfactuals)
    whole = _copied(alone, n_copies)
    session = _session(model, alone, whole, counterfactuals, max_new_tokens)
    writer = generation.Writer(model, alone, temperature, 1.0, seed, ())
    step, cache = whole, DynamicCache(config=model.hf.config)
    for _ in range(max_new_tokens):
        last = torch.tensor([step.ids.shape[1] - 1], device=step.ids.device)
        out, cache = model.tapped(step, session.taps(step), cache=cache, keep=last)
        by_copy = out[:, -1].unflatten(0, (n_copies, -1))
        moved = guide(by_copy[0], by_copy[1:], guidance=guidance, plausibility=plausibility)
        chosen = writer.choose(moved, keep_logits)
        if all(writer.done):
            break
        alive = torch.tensor(writer.alive, device=step.ids.device)
        whole = generation.extended(whole, chosen.repeat(n_copies), alive.repeat(n_copies))
        step = Batch(whole.ids[:, -1:], whole.index[:, -1:], whole.mask)
    early = any(len(ids) < max_new_tokens for ids in writer.new)
    return Generation(
        texts=tuple(writer.text(row) for row in range(len(alone.ids))),
        new_ids=tuple(tuple(ids) for ids in writer.new),
        prompt_ids=alone.prompt_ids,
        finished=tuple(writer.done),
        receipt=_own_receipt(session.receipt(ended_early=early)),
        logits=torch.stack(writer.logits, dim=1) if keep_logits else None,
    )


@dataclass(frozen=True, eq=False)
class _OnCopy(Edit):
    """An edit on one copy of the prompts, which it sees as if they were the whole batch."""

    _: KW_ONLY
    inner: Edit
    n_prompts: int
    copy: int

    @classmethod
    def of(cls, edit: Edit, n_prompts: int, copy: int, n_copies: int) -> _OnCopy:
        """Move an edit to a copy; 0 is the prompts themselves."""
        at = edit.positions
        rows = edit.rows if edit.rows is not None else range(n_prompts)
        return cls(
            edit.site,
            positions=Each(at.prompts * n_copies) if isinstance(at, Each) else at,
            heads=edit.heads,
            units=edit.units,
            rows=tuple(copy * n_prompts + row for row in rows),
            inner=edit,
            n_prompts=n_prompts,
            copy=copy,
        )

    def new(self, act: Act, where: Where) -> Act:
        """Return what the edit returns for the prompts alone."""
        rows = where.rows - self.copy * self.n_prompts
        return self.inner.new(act, replace(where, rows=rows, n_rows=self.n_prompts))

    def __str__(self) -> str:
        return str(self.inner)


def _session(
    model: Model,
    alone: Batch,
    whole: Batch,
    counterfactuals: Sequence[Sequence[Edit]],
    max_new_tokens: int,
) -> Session:
    """Check each counterfactual on the prompts alone, then bind all to their copies."""
    n, n_copies, moved = len(alone.ids), 1 + len(counterfactuals), []
    for copy, edits in enumerate(counterfactuals, start=1):
        model.session(alone, alone.lengths + max_new_tokens - 1, edits, ())
        moved += [_OnCopy.of(edit, n, copy, n_copies) for edit in edits]
    return model.session(whole, whole.lengths + max_new_tokens - 1, moved, ())


def _copied(batch: Batch, n_copies: int) -> Batch:
    """The prompts, one copy after another."""

    def several(part: Tensor) -> Tensor:
        return part.repeat(n_copies, 1)

    return Batch(several(batch.ids), several(batch.index), several(batch.mask))


def _own_receipt(receipt: Receipt) -> Receipt:
    """The proofs in terms of the edits and prompts that were given."""

    def own(pairs: tuple[tuple[int, int], ...], n_prompts: int) -> tuple[tuple[int, int], ...]:
        return tuple((row % n_prompts, pos) for row, pos in pairs)

    proofs = []
    for proof in receipt.edits:
        on_copy: Any = proof.edit
        n = on_copy.n_prompts
        proofs.append(
            replace(
                proof,
                edit=on_copy.inner,
                tokens=own(proof.tokens, n),
                missed=own(proof.missed, n),
            )
        )
    return Receipt(tuple(proofs))


def _check(guidance: float, plausibility: float) -> None:
    if not 0 <= guidance < math.inf:
        raise InputError(f"guidance={guidance}: give 0 (none) or a positive number, such as 0.5.")
    if not 0 <= plausibility <= 1:
        raise InputError(
            f"plausibility={plausibility}: give a share of the likeliest token's probability, from "
            "0 (keep all tokens) to 1, such as 0.1."
        )


def _check_edits(counterfactuals: Sequence[Sequence[Edit]]) -> None:
    if not len(counterfactuals):
        raise InputError("No counterfactual was given: pass at least one list of edits.")
    for i, edits in enumerate(counterfactuals):
        if isinstance(edits, Edit) or not len(edits):
            raise InputError(
                f"Counterfactual {i} is {edits!s}: give a list with at least one edit, or it is "
                "the model as it is."
            )


def _check_room(model: Model, batch: Batch, max_new_tokens: int) -> None:
    longest = int(batch.lengths.max())
    if longest + max_new_tokens > model.sizes.n_ctx:
        raise InputError(
            f"{longest} prompt tokens and max_new_tokens={max_new_tokens} exceed the context of "
            f"{model.name}, {model.sizes.n_ctx} tokens."
        )
