"""One protocol for every engine: run, generate, and the proof of what was edited.

An engine only says how one forward pass is executed with taps at sites (`Model.forward`). Tokens,
positions, edits, captures, receipts and generation are the same code for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from interp.edits import Edit
from interp.engine.identities import settled_book
from interp.engine.receipts import Receipt
from interp.engine.session import Session, Tap
from interp.errors import InputError, ModelError, PositionError, SiteError, nearest
from interp.models import tokens
from interp.models.addresses import AddressBook, Sizes
from interp.models.tokens import Batch, Inputs, Side
from interp.sites import ATTENTION_MAPS, Positions, Site, parse_positions, parse_sites

LogitsAt = Literal["all", "last"] | int | Sequence[int]
"""Which positions are unembedded: all, the last token of each prompt, or logical positions."""
Capture = str | Site | Iterable[str | Site] | Mapping[str | Site, Any]
"""Sites to keep, or a mapping from sites to the logical positions to keep."""


class Acts(dict[str, Tensor]):
    """Captured activations by site; asking for one that was not captured says what to do."""

    def __missing__(self, site: object) -> Tensor:
        if isinstance(site, Site) and str(site) in self:
            return self[str(site)]
        raise SiteError(
            f"{site!r} was not captured in this run: add it to capture=[...]; captured: "
            f"{', '.join(self) or 'nothing'}.{nearest(str(site), self)}"
        )


@dataclass(frozen=True, eq=False)
class Run:
    """What one evaluation of a model under edits returned."""

    logits: Float[Tensor, "batch *pos d_vocab"]
    """`[batch, pos, d_vocab]`; for `logits="last"` `[batch, d_vocab]`. NaN where a shorter prompt
    has no token."""
    acts: Acts
    """Captured activations, the second axis counting logical tokens; NaN where none is. Shapes:
    `[batch, pos, d_model]` in the residual stream, `[batch, pos, head, d_head]` at heads,
    `[batch, head, pos_q, pos_k]` for scores and patterns."""
    receipt: Receipt
    """One proof for each edit."""
    ids: tuple[tuple[int, ...], ...]
    """The token ids of each prompt, without padding."""

    def mean(self, site: str | Site, *, per_position: bool = False) -> Float[Tensor, "*rest"]:
        """Average a captured site over prompts and tokens, or over prompts at each position."""
        act = self.acts[str(site)]
        if Site.parse(site).component in ATTENTION_MAPS:  # to an edit a query is an entry
            act = act.transpose(1, 2)
        return act.nanmean(0) if per_position else act.flatten(0, 1).nanmean(0)


class Model(ABC):
    """A language model behind one engine.

    Every engine gives the Hugging Face model's own logits, takes the same edits and returns the
    same numbers to rounding. A model handed in is not changed.
    """

    engine: ClassVar[str]

    def __init__(self, hf: PreTrainedModel, tokenizer: Any, name: str) -> None:
        if hf.training:
            raise ModelError(
                f"{name} is in training mode, where dropout makes runs random: call .eval() first."
            )
        self.hf = hf
        """The plain Hugging Face model, as it was handed in."""
        self.tokenizer = tokenizer
        """Its tokenizer, unchanged, or None."""
        self.name = name
        self.sizes = Sizes.of(hf)
        """n_layers, n_heads, d_model and the other sizes."""

    @cached_property
    def book(self) -> AddressBook:
        """The address book: where each site lies, and why others are refused.

        Read and checked by identities when a site is first asked for (one short forward pass).
        """
        return settled_book(self.hf)

    @property
    def device(self) -> torch.device:
        """Where the embedding lies, and so where tokens go."""
        return self._embedding.weight.device

    @cached_property
    def _embedding(self) -> Any:
        return self.hf.get_input_embeddings()

    @cached_property
    def _pad_id(self) -> int:
        return tokens.pad_token(self.tokenizer, self.hf.config)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.hf.dtype

    @property
    def sites(self) -> list[str]:
        """Every site that this model and engine have, in the order of a forward pass."""
        return self.book.sites

    @abstractmethod
    def forward(
        self, batch: Batch, taps: Mapping[Site, Tap], *, cache: Any = None, keep: Tensor | None
    ) -> tuple[Float[Tensor, "batch kept d_vocab"], Any]:
        """Execute one forward pass.

        Args:
            batch: tokens, mask and logical positions; with a cache, only the new columns.
            taps: what to call at each site, never at `logits`.
            cache: a transformers Cache that is read and extended, or None.
            keep: the columns to unembed, or None for all.
        """

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise SiteError for a site that this engine does not have."""
        for site in sites:
            self.book.require(site)

    def tokens(self, inputs: Inputs, *, side: Side = "right") -> Batch:
        """Tokenise and pad prompts (see `interp.models.tokens`).

        Raises:
            InputError: an empty prompt, an unknown token, or a prompt longer than the context.
        """
        ids = tokens.token_ids(self.tokenizer, inputs, d_vocab=self.sizes.d_vocab)
        longest = max(len(row) for row in ids)
        if longest > self.sizes.n_ctx:
            raise InputError(
                f"A prompt of {longest} tokens is longer than the context of {self.name}, "
                f"{self.sizes.n_ctx} tokens: shorten it."
            )
        return tokens.pad(ids, pad_id=self._pad_id, side=side, device=self.device)

    def run(
        self,
        inputs: Inputs,
        *,
        edits: Sequence[Edit] = (),
        capture: Capture = (),
        logits: LogitsAt = "all",
        padding_side: Side = "right",
        grad: bool = False,
    ) -> Run:
        """Evaluate prompts once under edits, and keep what is named.

        Args:
            inputs: text, token ids, or several of either.
            edits: applied in the order given where they share a site.
            capture: sites, or a mapping from sites to positions; read after the edits.
            logits: which logical positions to unembed.
            padding_side: where shorter prompts are padded; the numbers do not depend on it.
            grad: keep the graph, to differentiate through the run.

        Raises:
            InputError, SiteError, EditError, PositionError: before the model runs.
            SilentEditError: an edit did not reach a token that it named.

        >>> import interp
        >>> model = interp.load("tiny-llama")
        >>> run = model.run("One two", edits=[interp.ZeroAblate("1.attn_out", positions=2)])
        >>> run.receipt[0].tokens, run.receipt.acted
        (((0, 2),), True)
        """
        if padding_side not in ("left", "right"):
            raise InputError(f"padding_side={padding_side!r}: write 'left' or 'right'.")
        batch = self.tokens(inputs, side=padding_side)
        session = self.session(batch, batch.lengths, edits, capture)
        wanted = self.logit_positions(logits, batch)
        keep = place = None
        if wanted is not None:
            keep, place = batch.columns(wanted).unique(return_inverse=True)
        with torch.set_grad_enabled(grad):
            out, _ = self.tapped(batch, session.taps(batch), keep=keep)
            if place is None:
                out = batch.align(out)
            else:
                index = place.to(out.device)[..., None]
                out = out.gather(1, index.expand(-1, -1, out.shape[-1]))
        if logits == "last":
            out = out[:, 0]
        return Run(out, Acts(session.acts(batch)), session.receipt(), batch.prompt_ids)

    def tapped(
        self,
        batch: Batch,
        taps: Mapping[Site, Tap],
        *,
        cache: Any = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """One forward pass with its taps, the one at `logits` included."""
        inner = {site: tap for site, tap in taps.items() if site.component != "logits"}
        at_logits = taps.get(Site("logits"))
        out, cache = self.forward(
            batch, inner, cache=cache, keep=None if at_logits is not None else keep
        )
        if at_logits is not None:
            new = at_logits(out)
            out = out if new is None else new
            out = out if keep is None else out[:, keep]
        return out, cache

    def session(
        self, batch: Batch, limits: Tensor, edits: Sequence[Edit], capture: Capture
    ) -> Session:
        """Check edits and captures and bind them to prompts; `limits` as in `Session`."""
        if isinstance(edits, Edit):
            edits = [edits]
        session = Session(self, batch, limits)
        session.add(edits, _capture(capture))
        return session

    def logit_positions(self, logits: LogitsAt, batch: Batch) -> Tensor | None:
        """Logical positions to unembed `[batch, n]`, or None for all."""
        if logits == "all":
            return None
        if logits == "last":
            return batch.lengths[:, None] - 1
        positions = parse_positions(logits)
        if not isinstance(positions, tuple):
            raise PositionError(f"logits={logits!r}: give 'all', 'last', or token indices.")
        past = [p for p in positions if p >= int(batch.lengths.min())]
        if past:
            raise PositionError(
                f"logits: position {past[0]} is past the end of a prompt of "
                f"{int(batch.lengths.min())} tokens."
            )
        row = torch.tensor(positions, device=batch.ids.device)
        return row.expand(len(batch.ids), -1)

    def generate(self, inputs: Inputs, **settings: Any) -> Any:
        """Write on from prompts under edits; see `interp.engine.generation.generate`."""
        from interp.engine.generation import generate

        return generate(self, inputs, **settings)

    def chat(self, question: str, *, system: str | None = None) -> str:
        """Render a question with the model's own chat template."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} has no tokenizer, so it has no chat template.")
        return tokens.chat(self.tokenizer, question, system=system)

    def __repr__(self) -> str:
        return f"<{self.name}, engine {self.engine}, {self.sizes.n_layers} layers>"


def _capture(capture: Capture) -> dict[Site, Positions]:
    if isinstance(capture, Mapping):
        return {Site.parse(site): parse_positions(at) for site, at in capture.items()}
    return {site: "all" for site in parse_sites(capture)}
