"""Measures of a model's answer: pure functions of logits.

A metric is any callable `metric(logits, rows)`: logits `[n, d_vocab]`, one entry for each prompt
that is scored, and `rows` `[n]`, the prompt (its place in the batch) that each entry belongs to; it
returns one number an entry. The classes here are such callables, and a function of your own fits
as well. A metric that has a method `reads()` names the only tokens whose logits it reads; a sweep
then computes no others, which are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError, UndefinedEffectError

Metric = Callable[[Float[Tensor, "n d_vocab"], Int[Tensor, " n"]], Float[Tensor, " n"]]
"""Turns the logits of some prompts into one number each."""
Tokens = int | Sequence[int]
"""One token id for every prompt, or one for all."""


def logit_diff(
    logits: Float[Tensor, "batch d_vocab"],
    correct: Int[Tensor, " batch"],
    wrong: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """How far each prompt prefers the correct token, in nats: `exp` of it is the odds.

    Source: Wang et al. 2022, arXiv:2211.00593, who report the mean over prompts.

    >>> logit_diff(torch.tensor([[2.0, 0.5]]), torch.tensor([0]), torch.tensor([1]))
    tensor([1.5000])
    """
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, correct] - logits[rows, wrong]


def recovered(patched: float, *, corrupted: float, clean: float) -> float:
    """Return the share of the clean-corrupted gap that a patch closes: 0 none, 1 all.

    >>> recovered(2.0, corrupted=1.0, clean=5.0)
    0.25

    Raises:
        UndefinedEffectError: clean and corrupted agree, so there is no gap to close.
    """
    if clean == corrupted:
        raise UndefinedEffectError(
            f"Clean and corrupted both score {clean}: the pair has no gap to recover. Drop it, or "
            "choose a corruption that changes the answer."
        )
    return (patched - corrupted) / (clean - corrupted)


@dataclass(frozen=True)
class LogitDiff:
    """The logit of the correct token less that of the wrong one, in nats (`logit_diff`).

    >>> LogitDiff(0, 1)(torch.tensor([[2.0, 0.5]]), torch.tensor([0]))
    tensor([1.5000])
    """

    correct: Tokens
    wrong: Tokens

    def reads(self) -> list[int]:
        """The tokens whose logits it reads."""
        return sorted({*_ids(self.correct), *_ids(self.wrong)})

    def check(self, n_prompts: int) -> None:
        """Refuse tokens for more or fewer prompts than there are."""
        _require_one_each("LogitDiff", "correct", self.correct, n_prompts)
        _require_one_each("LogitDiff", "wrong", self.wrong, n_prompts)

    def __call__(
        self, logits: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score each entry."""
        return logit_diff(logits, _of(self.correct, rows, logits), _of(self.wrong, rows, logits))


@dataclass(frozen=True)
class LogProb:
    """The log-probability of a token, in nats.

    >>> LogProb(0)(torch.zeros(1, 4), torch.tensor([0])).exp()
    tensor([0.2500])
    """

    token: Tokens

    def check(self, n_prompts: int) -> None:
        """Refuse tokens for more or fewer prompts than there are."""
        _require_one_each("LogProb", "token", self.token, n_prompts)

    def __call__(
        self, logits: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score each entry."""
        token = _of(self.token, rows, logits)
        return torch.log_softmax(logits, dim=-1).gather(1, token[:, None])[:, 0]


@dataclass(frozen=True)
class Probability:
    """The probability of a token, 0 to 1."""

    token: Tokens

    def check(self, n_prompts: int) -> None:
        """Refuse tokens for more or fewer prompts than there are."""
        _require_one_each("Probability", "token", self.token, n_prompts)

    def __call__(
        self, logits: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score each entry."""
        return LogProb(self.token)(logits, rows).exp()


@dataclass(frozen=True)
class Rank:
    """How many tokens have a higher logit: 0 where the token is the model's first choice.

    >>> Rank(1)(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([2.])
    """

    token: Tokens

    def check(self, n_prompts: int) -> None:
        """Refuse tokens for more or fewer prompts than there are."""
        _require_one_each("Rank", "token", self.token, n_prompts)

    def __call__(
        self, logits: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score each entry."""
        own = logits.gather(1, _of(self.token, rows, logits)[:, None])
        return (logits > own).sum(1).to(logits.dtype)


@dataclass(frozen=True, eq=False)
class KL:
    """KL(reference || logits) of the next-token distribution, in nats.

    `reference` holds the logits `[prompt, d_vocab]` of each prompt, as `Run.logits` of a run with
    `logits="last"` gives them.

    >>> KL(torch.zeros(1, 3))(torch.zeros(1, 3), torch.tensor([0]))
    tensor([0.])
    """

    reference: Float[Tensor, "prompt d_vocab"]

    def __call__(
        self, logits: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score each entry."""
        true = torch.log_softmax(self.reference[rows].to(logits), dim=-1)
        return (true.exp() * (true - torch.log_softmax(logits, dim=-1))).sum(-1)


def reads(metric: Metric) -> list[int] | None:
    """The tokens whose logits a metric reads, or None for all.

    >>> reads(LogitDiff([3, 1], 2)), reads(Rank(1))
    ([1, 2, 3], None)
    """
    told = getattr(metric, "reads", None)
    return None if told is None else list(told())


def _require_one_each(metric: str, name: str, tokens: Tokens, n_prompts: int) -> None:
    if not isinstance(tokens, int) and len(tokens) != n_prompts:
        many = "prompt" if n_prompts == 1 else "prompts"
        kind = "tokens" if name == "token" else f"{name} tokens"
        raise InputError(
            f"{metric} names {len(tokens)} {kind} for {n_prompts} {many}: give one a prompt, or "
            "one for all."
        )


def _ids(tokens: Tokens) -> Sequence[int]:
    return [tokens] if isinstance(tokens, int) else tokens


def _of(tokens: Tokens, rows: Int[Tensor, " n"], logits: Tensor) -> Int[Tensor, " n"]:
    """The token of each entry's prompt."""
    if isinstance(tokens, int):
        tokens = [tokens] * (int(rows.max()) + 1)
    table = torch.tensor(tokens, device=logits.device)
    outside = [token for token in tokens if not 0 <= token < logits.shape[-1]]
    if outside:
        raise InputError(
            f"The metric names token {outside[0]}, but the vocabulary has {logits.shape[-1]} "
            "tokens."
        )
    if len(table) <= int(rows.max()):
        raise InputError(
            f"The metric names tokens for {len(table)} prompts and is asked for prompt "
            f"{int(rows.max())}; give one a prompt."
        )
    return table[rows.to(table.device)]
