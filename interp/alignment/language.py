"""A language model cut at one site and one token: a prefix that is never run again.

In a causal decoder a change at token p of a layer leaves everything before p as it was, and so does
it the layers below. `cut` runs each distinct prompt once and keeps the states at the site, and
behind it the keys and values of the tokens before p; `finish` runs the tokens from p on through
the layers after the site, differentiable in the states. What it returns is what a whole run with
an edit at the site gives, up to rounding; `exact=True` makes the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from interp.alignment.fitting import Scores, score_logits, swapped
from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import PAIRS, Cut, Subject, frozen
from interp.data.counterfactuals import Pairs, inputs_hash
from interp.engine.hooks import hooked, plain_forward
from interp.engine.loading import load
from interp.engine.masks import Masks
from interp.engine.model import Model
from interp.engine.partial import Base, base_pass, forward_as, skipped
from interp.engine.plan import start_of
from interp.errors import InputError, ModelError, PositionError, SiteError
from interp.models.tokens import Batch
from interp.sites import Site

STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Components whose tokens are vectors of d_model."""
GIB = 1 << 30
At = str | int
"""`last`, or a logical index."""


@dataclass(frozen=True)
class Preset:
    """A published model, its checkpoints, and the site at which others have aligned it."""

    model: str
    """Its Hugging Face id."""
    site: str
    revisions: tuple[str, ...]
    """From the initialisation to the end of training."""


_STEPS = ("step0", "step1000", "step2000", "step3000", "step4000", "step143000")
PYTHIA: Mapping[str, Preset] = {
    size: Preset(f"EleutherAI/pythia-{size}", f"{layer}.resid_post", _STEPS)
    for size, layer in {"31m": 3, "70m": 3, "160m": 6, "410m": 12}.items()
}
"""Sizes, sites (last token) and checkpoints of Sutter et al. 2025, arXiv:2507.08802; `step0` is the
published initialisation."""


def checkpoints(
    model: str, revisions: Iterable[str], **options: Any
) -> Iterator[tuple[str, Model]]:
    """Load the checkpoints of a model, one at a time.

    Args:
        model: a Hugging Face id, or a folder with one folder for each revision.
        revisions: in the order wanted.
        options: passed to `interp.load`.

    Raises:
        ModelError: a revision cannot be found.
    """
    folder = Path(model).expanduser()
    for revision in revisions:
        if not folder.is_dir():
            yield revision, load(model, revision=revision, **options)
            continue
        if not (folder / revision).is_dir():
            there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
            raise ModelError(
                f"{folder} has no revision {revision!r}; there are: {there or 'none'}."
            )
        yield revision, load(str(folder / revision), **options)


class LanguageSubject(Subject):
    """A decoder at one site and one token of each prompt; its answers are the next token's logits.

    Args:
        model: behind the torch engine; its weights are never changed and collect no gradient.
        site: such as `6.resid_post`; any component of `STREAM`.
        position: the logical index of a token, or `last`.
        answers: tokens whose logits are the answers, in this order; None for the whole vocabulary.
            A pair's labels then count this list.
        memory_gib: what the keys and values that `cut` keeps, and what one pass of `finish` needs,
            may take, each.
        exact: make a whole run for each changed state: the same numbers at the full price.

    Raises:
        ModelError: another engine, or attention that takes no mask of our own.
        SiteError: the model lacks the site, or its tokens are no vectors of d_model there.
        PositionError: neither `last` nor an index from 0 on.
        InputError: no answer, one twice, one outside the vocabulary, or no memory.
    """

    def __init__(
        self,
        model: Model,
        site: str,
        position: At = "last",
        *,
        answers: Sequence[int] | None = None,
        memory_gib: float = 2.0,
        exact: bool = False,
    ) -> None:
        self.model, self.exact, self.memory_gib = model, exact, memory_gib
        self.answers = None if answers is None else tuple(int(token) for token in answers)
        self.position: At = position
        self._site = Site.parse(site)
        _require(model, self._site, position)
        if self.answers is not None:
            _require_answers(self.answers, model.sizes.d_vocab)
        if not memory_gib > 0:
            raise InputError(f"memory_gib={memory_gib}: give more than 0.")
        self.site = f"{site}@{position}"
        self._masks = Masks(model)

    def weights(self) -> Iterable[Tensor]:
        """Return the model's weights."""
        return self.model.hf.parameters()

    def cut(self, inputs: Int[Tensor, "input pos"]) -> Cut:
        """Run each distinct prompt once to the site; -1 fills a row behind its prompt's end.

        Raises:
            InputError: a row with -1 inside, without a token or with an unknown one, or more
                prompts than the memory holds.
            PositionError: a prompt has no such token.
        """
        prompts, which = inputs.unique(dim=0, return_inverse=True)
        batch = _batch(self.model, prompts)
        kept = _Kept.of(self, batch, self._at(batch))
        which = which.to(self.model.device)

        def finish(changed: Tensor, rows: Tensor) -> Tensor:
            _require_states(changed, rows, kept, self.site)
            place, parts = which[rows.to(which.device)], []
            chunks = list(zip(*(x.split(kept.rows) for x in (changed, place)), strict=True))
            again = len(chunks) > 1 and torch.is_grad_enabled() and changed.requires_grad
            for chunk in chunks:
                if again:  # keep no graph of a pass, and make it again going backwards
                    parts.append(checkpoint(kept.finish, *chunk, use_reentrant=False))
                else:
                    parts.append(kept.finish(*chunk))
            return torch.cat(parts)

        chunk = min(PAIRS, kept.rows)
        return Cut(self.site, kept.states[which], finish, chunk, inputs_hash(inputs))

    def _at(self, batch: Batch) -> Int[Tensor, " prompt"]:
        """Return the token of each prompt that the site is read at."""
        if self.position == "last":
            return batch.lengths - 1
        index, n_layers = int(self.position), self.model.sizes.n_layers
        late = start_of(self._site, n_layers) >= (n_layers - 1, 2)
        if late and index + 1 < int(batch.lengths.max()):
            raise PositionError(
                f"Nothing behind {self.site} reads token {index} of a longer prompt, so no "
                "change there can reach an answer: choose an earlier layer, or position='last'."
            )
        short = (batch.lengths <= index).nonzero()
        if len(short):
            raise PositionError(
                f"position={index}: a prompt has only "
                f"{int(batch.lengths[short[0, 0]])} tokens, counted from 0: choose an earlier one."
            )
        return torch.full_like(batch.lengths, index)


@dataclass(frozen=True, eq=False)
class _Kept:
    """What `finish` starts from, a row for each distinct prompt."""

    subject: LanguageSubject
    batch: Batch
    at: Int[Tensor, " prompt"]
    states: Float[Tensor, "prompt d_model"]
    resid: Float[Tensor, "prompt pos d_model"]
    """What enters the first layer that is run."""
    attention: Float[Tensor, "prompt pos d_model"] | None
    """What its attention returns, where the site lies behind that."""
    keys: tuple[Float[Tensor, "prompt kv_head before d_head"], ...]
    """Of the tokens before the one that changes, for each layer that is run."""
    values: tuple[Float[Tensor, "prompt kv_head before d_head"], ...]
    form: Base
    """Empty: it only says what modules return."""
    rows: int
    """Changed states in one pass."""

    @classmethod
    @torch.no_grad()
    def of(cls, subject: LanguageSubject, batch: Batch, at: Tensor) -> _Kept:
        """Run the prompts, some at a time, and keep what later passes read."""
        model, site = subject.model, subject._site
        start, stage = start_of(site, model.sizes.n_layers)
        before, width = int(at.max()), batch.ids.shape[1]
        tail = int((batch.lengths - at).max())
        _require_room(subject, len(at), before, width, start)
        parts: list[tuple[Any, ...]] = []
        for rows in torch.arange(len(at)).split(_passes(subject, width, width, 0)):
            part, acts = _rows_of(batch, rows), []
            inside = stage == 2
            with hooked(model.hf, model.book, {site: _keeping(acts)}):
                base = base_pass(model, part, part.mask, DynamicCache(), None, inside=inside)
            own = torch.arange(len(rows), device=part.ids.device)
            kept = [acts[0][own, at[rows]], base.resid[start][:, :width]]
            kept.append(base.attention[start] if inside else None)
            # copies: a view would hold the keys of every token and of the layers below
            kept += [
                [k[:, :, :before].clone() for k in held[start:]]
                for held in (base.keys, base.values)
            ]
            parts.append((*kept, Base(part, (), (), (), (), (), base.tuples)))
        states, resid, attention, keys, values, forms = zip(*parts, strict=True)
        return cls(
            subject,
            batch,
            at,
            torch.cat(states),
            torch.cat(resid),
            torch.cat(attention) if stage == 2 else None,
            tuple(map(torch.cat, zip(*keys, strict=True))),
            tuple(map(torch.cat, zip(*values, strict=True))),
            forms[0],
            _passes(subject, tail, before + tail, start),
        )

    def finish(
        self, states: Float[Tensor, "pair d_model"], place: Int[Tensor, " pair"]
    ) -> Float[Tensor, "pair answer"]:
        """Return the logits of changed states in the prompts `place`."""
        with frozen(self.subject.model.hf.parameters()), _answers(self.subject):
            out = self._whole(states, place) if self.subject.exact else self._tail(states, place)
        return out

    def _whole(self, states: Tensor, place: Tensor) -> Tensor:
        """A run of everything with the state replaced."""
        model, part = self.subject.model, _rows_of(self.batch, place)
        columns = part.lengths - 1
        with hooked(model.hf, model.book, {self.subject._site: _placing(states, self.at[place])}):
            out, _ = plain_forward(model.hf, part, keep=columns.unique())
        return _read(out, columns)

    def _tail(self, states: Tensor, place: Tensor) -> Tensor:
        """Only the tokens from the changed one on, through the layers from the site on."""
        model, site = self.subject.model, self.subject._site
        start, _ = start_of(site, model.sizes.n_layers)
        first, stop = self.at[place], self.batch.lengths[place]
        steps = torch.arange(int((stop - first).max()), device=place.device)
        index = first[:, None] + steps
        real = torch.minimum(index, stop[:, None] - 1)  # what is behind an end repeats its token
        into = self.resid[place[:, None], real]
        taps = {site: _placing(states, torch.zeros_like(first))}
        if site.component == "resid_post":
            into, taps = torch.cat([states[:, None].to(into), into[:, 1:]], dim=1), {}
        frozen_attention = {}
        if self.attention is not None:
            frozen_attention = {start: self.attention[place[:, None], real]}
        with ExitStack() as stack:
            stack.enter_context(skipped(model, self.form, start, into, frozen_attention))
            stack.enter_context(hooked(model.hf, model.book, taps))
            columns = stop - first - 1
            out = model.hf(
                input_ids=self.batch.ids[place[:, None], real],
                attention_mask=self.subject._masks.make(self._visible(place, index)),
                position_ids=real,
                past_key_values=self._cache(place, start),
                use_cache=True,
                logits_to_keep=columns.unique(),
            ).logits
        return _read(out, columns)

    def _visible(
        self, place: Tensor, index: Tensor
    ) -> Callable[[int | None], Bool[Tensor, "pair query key"]]:
        """Each token sees the kept ones before the changed one, and those up to itself."""
        before = torch.arange(int(self.at.max()), device=place.device).expand(len(place), -1)
        keys = torch.cat([before, index], dim=1)
        known = torch.cat([before < self.at[place][:, None], torch.ones_like(index).bool()], dim=1)

        def visible(window: int | None) -> Bool[Tensor, "pair query key"]:
            distance = index[:, :, None] - keys[:, None]
            seen = known[:, None] & (distance >= 0)
            return seen if window is None else seen & (distance < window)

        return visible

    def _cache(self, place: Tensor, start: int) -> DynamicCache:
        """The kept keys and values; layers that are not run hold those of the first that is."""
        cache = DynamicCache()
        if not self.keys:
            return cache
        held = [
            (keys[place], values[place])
            for keys, values in zip(self.keys, self.values, strict=True)
        ]
        for layer in range(self.subject.model.sizes.n_layers):
            cache.update(*held[max(0, layer - start)], layer)
        return cache


def score_among(
    cut: Cut,
    phi: AlignmentMap,
    pairs: Pairs,
    candidates: Int[Tensor, "input choice"],
    *,
    chunk: int | None = None,
) -> Scores:
    """Return what the network answers when only some answers of each base's own may be chosen.

    With the two names of a base this is the score of Sutter et al. 2025, arXiv:2507.08802, section
    on IOI; it flatters, so it stands beside the score over the whole vocabulary.
    """
    return score_logits(
        lambda part: among(swapped(cut, phi, part), candidates[part.base]),
        pairs,
        chunk=chunk or cut.chunk,
    )


def among(
    logits: Float[Tensor, "pair answer"], candidates: Int[Tensor, "pair choice"]
) -> Float[Tensor, "pair answer"]:
    """Return logits with every answer but a pair's candidates at minus infinity.

    >>> among(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 2]])).tolist()
    [[-inf, 2.0, 1.0]]
    """
    shut = torch.full_like(logits, -torch.inf)
    return shut.scatter(1, candidates, logits.gather(1, candidates))


def _require(model: Model, site: Site, position: At) -> None:
    if model.engine != "torch":
        raise ModelError(
            f"{model.name} is behind the engine {model.engine}, and a part of a forward pass needs "
            "the plain model: load it with engine='torch'."
        )
    if site.layer is None or site.component not in STREAM:
        raise SiteError(
            f"'{site}' has no vector of d_model for each token: align a map at one of "
            f"{', '.join(STREAM)}, such as 0.resid_post."
        )
    model.check_sites([site])
    good = position == "last" or (isinstance(position, int) and not isinstance(position, bool))
    if not good or (isinstance(position, int) and position < 0):
        raise PositionError(
            f"position={position!r}: write 'last', or a token index counted from 0 at the left."
        )


def _require_answers(answers: Sequence[int], d_vocab: int) -> None:
    outside = [token for token in answers if not 0 <= token < d_vocab]
    if outside:
        raise InputError(f"answers: token {outside[0]} is not among the {d_vocab} of the model.")
    if not answers or len(set(answers)) != len(answers):
        raise InputError("answers: name at least one token, and each once.")


def _require_states(changed: Tensor, rows: Tensor, kept: _Kept, site: str) -> None:
    wanted = [len(rows), kept.states.shape[1]]
    if list(changed.shape) != wanted:
        raise InputError(
            f"States of shape {list(changed.shape)} at {site}: it takes {wanted}, one a row."
        )


def _require_room(subject: LanguageSubject, n: int, before: int, width: int, start: int) -> None:
    """Refuse prompts whose keys and values do not fit, before any is run."""
    sizes = subject.model.sizes
    cached = 2 * (sizes.n_layers - start) * sizes.n_kv_heads * sizes.d_head * before
    needed = n * (cached + 2 * width * sizes.d_model) * subject.model.dtype.itemsize
    if needed > subject.memory_gib * GIB:
        raise InputError(
            f"{n} prompts of {width} tokens need {needed / GIB:.1f} GiB of states, keys and values "
            f"behind {subject.site}, and memory_gib is {subject.memory_gib}: cut fewer prompts at "
            "once, or raise it."
        )


def _passes(subject: LanguageSubject, width: int, seen: int, start: int) -> int:
    """How many rows of so many tokens one pass may have."""
    sizes, hf = subject.model.sizes, subject.model.hf
    inner = getattr(hf.config.get_text_config(), "intermediate_size", None) or 4 * sizes.d_model
    layer = 12 * sizes.d_model + 4 * inner + sizes.n_heads * seen
    cached = 2 * sizes.n_kv_heads * sizes.d_head * seen
    answers = sizes.d_vocab if subject.answers is None else len(subject.answers)
    numbers = (sizes.n_layers - start + 1) * (width * layer + 2 * cached) + 3 * answers
    return max(1, int(subject.memory_gib * GIB / (numbers * subject.model.dtype.itemsize)))


def _batch(model: Model, prompts: Int[Tensor, "prompt pos"]) -> Batch:
    """Read padded rows as prompts."""
    real = prompts >= 0
    lengths = real.sum(1)
    inside = (real != (torch.arange(prompts.shape[1], device=real.device) < lengths[:, None])).any(
        1
    )
    if bool(inside.any()):
        row = prompts[inside][0].tolist()
        raise InputError(f"The prompt {row} has -1 before its end: pad prompts on the right only.")
    rows = [row[:n] for row, n in zip(prompts.tolist(), lengths.tolist(), strict=True)]
    if not all(rows):
        raise InputError("A prompt has no token: leave empty prompts out.")
    return model.tokens(rows)


def _rows_of(batch: Batch, rows: Tensor) -> Batch:
    return Batch(batch.ids[rows], batch.index[rows], batch.mask[rows], batch.straight)


def _keeping(acts: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda act: acts.append(act.detach().clone())


def _placing(states: Tensor, columns: Tensor) -> Callable[[Tensor], Tensor]:
    """A tap that gives one column of each row another state."""

    def place(act: Tensor) -> Tensor:
        there = torch.arange(act.shape[1], device=act.device) == columns[:, None].to(act.device)
        return torch.where(there[..., None], states[:, None].to(act), act)

    return place


def _read(out: Float[Tensor, "pair kept answer"], columns: Int[Tensor, " pair"]) -> Tensor:
    """Return each row's own column, where `out` has those that any row reads."""
    place = torch.searchsorted(columns.unique(), columns)
    return out[torch.arange(len(out), device=out.device), place.to(out.device)]


@contextmanager
def _answers(subject: LanguageSubject) -> Iterator[None]:
    """Inside the block the unembedding computes the answers alone."""
    head: Any = subject.model.hf.get_output_embeddings()
    if subject.answers is None:
        yield
        return
    rows = torch.tensor(subject.answers, device=subject.model.device)
    whole = head.forward

    def forward(act: Tensor) -> Tensor:
        if type(head) is not nn.Linear:
            return whole(act)[..., rows]
        return nn.functional.linear(
            act, head.weight[rows], None if head.bias is None else head.bias[rows]
        )

    with forward_as(head, forward):
        yield
