"""Problems for models that reason in latent vectors: a question, its steps, its answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARKERS = ("<start>", "<end>", "<latent>", "<pause>", "=")
"""Pieces that layouts put between a question, its steps and its answer."""

PIECES = r"<[a-z]+>|[a-z]+|\d+|[^\sa-z\d]"
"""How `task_tokenizer` cuts text: markers, runs of small letters, numbers, other signs."""


@dataclass(frozen=True)
class LatentProblem:
    """One problem, in text; a `Layout` of the subject says how it becomes tokens."""

    id: str
    question: str
    steps: tuple[str, ...]
    """The reasoning in order, one text a step; what a latent step stands for."""
    answer: str


def task_tokenizer(pieces: Iterable[str], *, n_ctx: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer in which `MARKERS` and every piece are one token, and space is none.

    Space and line ends only part pieces, so it does not matter what a layout joins them with, and
    no piece has a second form with a space before it; decoding puts one space between tokens. So
    the texts that a task is made of decode exactly, but not every text. A piece is a run of
    letters a-z, a number or one other sign.

    >>> tok = task_tokenizer(["ab", "12"], n_ctx=8)
    >>> ids = tok("ab\\n12<start>", add_special_tokens=False).input_ids
    >>> tok.convert_ids_to_tokens(ids), tok.decode(ids)
    (['ab', '12', '<start>'], 'ab 12 <start>')
    """
    from tokenizers import Regex, decoders, pre_tokenizers

    from interp.models.tiny import piece_tokenizer  # here: reading problems needs no torch

    tok = piece_tokenizer([*MARKERS, *pieces], pattern=PIECES, n_ctx=n_ctx)
    core = tok.backend_tokenizer
    unspaced = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    core.pre_tokenizer = pre_tokenizers.Sequence([unspaced, core.pre_tokenizer])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # only for the spaces it puts
    return tok
