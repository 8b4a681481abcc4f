"""The ends of a path: senders, receivers, and the edges between them.

Both have a written form: `5.h3@last` is what head 3 of layer 5 adds at each prompt's last token,
`7.h1.q` the queries of head 1 of layer 7. Without `@` an end means every token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from interp.engine.model import Model
from interp.errors import InputError
from interp.sites import Site, parse_positions

SENDERS = {
    "embed": "embed",
    "head": "attn.z",
    "attn_out": "attn_out",
    "mlp_out": "mlp_out",
    "resid": "resid_pre",
}
"""Kinds of senders, and the component that is replaced by its source-run value."""

RECEIVERS = {
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "pattern": "attn.pattern",
    "mlp": "mlp_out",
    "resid": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "logits": "logits",
}
"""Kinds of receivers, and the component that is recorded and put back."""

IN_ATTENTION = ("q", "k", "v", "pattern")
_TEXT = re.compile(r"(?:(\d+)\.)?(?:h(\d+))?\.?([a-z_]+)?(?:@(.+))?")


@dataclass(frozen=True)
class Sender:
    """A part of the model whose source-run output enters the base run.

    `head` is one query head (through its `attn.z`), `attn_out` and `mlp_out` what a block adds to
    the residual stream, `embed` the token embedding, `resid` the whole stream entering a layer.

    >>> str(Sender("head", 5, 3, "last")), Sender.parse("5.h3@last") == Sender("head", 5, 3, "last")
    ('5.h3@last', True)

    Raises:
        InputError: an unknown kind, or a layer or head that the kind lacks or needs.
        PositionError: positions that are none.
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    positions: Any = "all"

    def __post_init__(self) -> None:
        _require("Sender", self.kind, SENDERS)
        _require_number(self, "layer", self.kind != "embed", self.layer)
        _require_number(self, "head", self.kind == "head", self.head)
        object.__setattr__(self, "positions", parse_positions(self.positions))

    def __str__(self) -> str:
        name = f"h{self.head}" if self.kind == "head" else self.kind
        return _written(self.layer, [name], self.positions)

    @property
    def site(self) -> Site:
        """Where its source-run value is put."""
        return Site(SENDERS[self.kind], self.layer)

    def time(self, parallel: bool) -> int:
        """When its output is in the stream: `3 l` entering layer l, then after each of its parts.

        In a parallel block attention and MLP are added together.
        """
        after = {"head": 1 + parallel, "attn_out": 1 + parallel, "mlp_out": 2}
        return 3 * (self.layer or 0) + after.get(self.kind, 0)

    @classmethod
    def parse(cls, text: str | Sender) -> Sender:
        """Read a sender from its written form.

        Raises:
            InputError: the text is no sender.
        """
        if isinstance(text, Sender):
            return text
        layer, head, name, positions = _parts(text)
        if head is not None and name is None:
            name = "head"
        fits = (head is None) == (name != "head") and (layer is None) == (name == "embed")
        if name is None or name not in SENDERS or not fits:
            raise InputError(
                f"{text!r} is no sender: write embed, 5.h3, 5.attn_out, 5.mlp_out or 5.resid, "
                "with @last or @3,4 behind it for some positions."
            )
        return cls(name, layer, head, positions)


@dataclass(frozen=True)
class Receiver:
    """A part of the model that reads what the senders changed.

    `q`, `k`, `v` and `pattern` belong to a head, or to all heads of a layer where `head` is None.
    On grouped-query models `k` and `v` of head h mean the group that h shares; with `virtual` only
    the copy that query head h reads. `mlp` is what an MLP adds, computed from its changed input.
    `resid` is the stream entering a layer; `resid_mid`, `resid_post` and `logits` come later.

    >>> str(Receiver("k", 7, 1, virtual=True)), str(Receiver.parse("7.h1.q@3,5"))
    ('7.h1.k_each', '7.h1.q@3,5')

    Raises:
        InputError: an unknown kind, or a layer or head that the kind lacks or needs.
        PositionError: positions that are none.
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    positions: Any = "all"
    virtual: bool = False

    def __post_init__(self) -> None:
        _require("Receiver", self.kind, RECEIVERS)
        _require_number(self, "layer", self.kind != "logits", self.layer)
        if self.head is not None or self.kind not in IN_ATTENTION:
            _require_number(self, "head", self.kind in IN_ATTENTION, self.head)
        if self.virtual and self.kind not in ("k", "v"):
            raise InputError(
                f"Receiver {self.kind!r} has no virtual copies: only k and v are shared by heads."
            )
        object.__setattr__(self, "positions", parse_positions(self.positions))

    def __str__(self) -> str:
        name = f"{self.kind}_each" if self.virtual else self.kind
        names = [name] if self.head is None else [f"h{self.head}", name]
        return _written(self.layer, names, self.positions)

    @property
    def site(self) -> Site:
        """Where its value is recorded, and put back."""
        component = RECEIVERS[self.kind] + ("_each" if self.virtual else "")
        return Site(component, self.layer)

    def time(self, parallel: bool) -> int:
        """When it reads the stream, on the clock of `Sender.time`."""
        if self.layer is None:
            return 1 << 30
        after = {"mlp": 1 - parallel, "resid_mid": 1, "resid_post": 2}
        return 3 * self.layer + after.get(self.kind, 0)

    @classmethod
    def parse(cls, text: str | Receiver) -> Receiver:
        """Read a receiver from its written form.

        Raises:
            InputError: the text is no receiver.
        """
        if isinstance(text, Receiver):
            return text
        layer, head, name, positions = _parts(text)
        virtual = name in ("k_each", "v_each")
        kind = (name or "").removesuffix("_each") if virtual else name or ""
        fits = head is None or kind in IN_ATTENTION
        if kind not in RECEIVERS or not fits or (layer is None) != (kind == "logits"):
            raise InputError(
                f"{text!r} is no receiver: write 7.h1.q (or k, v, k_each, v_each, pattern), 7.q "
                "for all heads, 7.mlp, 7.resid, 7.resid_mid, 7.resid_post or logits, with @last or "
                "@3,4 behind it for some positions."
            )
        return cls(kind, layer, head, positions, virtual)


@dataclass(frozen=True)
class Edge:
    """Paths from some senders to some receivers, all of them at once.

    >>> str(Edge.of((["embed", "0.h1"], "2.h3.v")))
    'embed + 0.h1 -> 2.h3.v'
    """

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]

    def __str__(self) -> str:
        return f"{_sum(self.senders)} -> {_sum(self.receivers)}"

    @property
    def to_logits(self) -> bool:
        """Whether it ends at the logits."""
        return self.receivers[0].kind == "logits"

    @classmethod
    def of(cls, edge: EdgeLike) -> Edge:
        """Read an edge: an `Edge`, or a pair of senders and receivers, each one or several.

        Raises:
            InputError: no pair, an end that cannot be read, or logits beside another receiver.
        """
        if isinstance(edge, Edge):
            return edge
        if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) != 2:
            raise InputError(f"{edge!r} is no edge: write a pair such as ('5.h3', '7.h1.q').")
        senders = tuple(Sender.parse(each) for each in _several(edge[0]))
        receivers = tuple(Receiver.parse(each) for each in _several(edge[1]))
        if not senders or not receivers:
            raise InputError(f"{edge!r} is no edge: it needs a sender and a receiver.")
        found = cls(senders, receivers)
        if len(receivers) > 1 and any(each.kind == "logits" for each in receivers):
            raise InputError(
                f"{found}: logits come after every other receiver and alone decide the answer; "
                "make them an edge of their own."
            )
        return found


Senders = Sender | str | Sequence[Sender | str]
Receivers = Receiver | str | Sequence[Receiver | str]
EdgeLike = Edge | tuple[Senders, Receivers]
"""A pair of senders and receivers, each one or several, as values or in their written form."""


def require_reach(edge: Edge, parallel: bool) -> None:
    """Refuse an edge that cannot carry anything.

    Raises:
        InputError: a receiver lies after none of the senders, or a sender before no receiver.
    """
    first = min(sender.time(parallel) for sender in edge.senders)
    last = max(receiver.time(parallel) for receiver in edge.receivers)
    why = " (its blocks are parallel: attention does not reach the MLP beside it)"
    for receiver in edge.receivers:
        if receiver.time(parallel) < first:
            raise InputError(
                f"{edge}: {receiver} is computed before any of its senders"
                f"{why if parallel and receiver.kind == 'mlp' else ''}; name a later receiver."
            )
    for sender in edge.senders:
        if sender.time(parallel) > last:
            raise InputError(
                f"{edge}: {sender} comes after all of its receivers"
                f"{why if parallel else ''}; name an earlier sender."
            )


def is_parallel(model: Model) -> bool:
    """Whether attention is not in the stream when the MLP of its layer reads it."""
    return "resid_mid" in model.book.refused


def all_edges(
    model: Model,
    *,
    senders: Iterable[str] = ("head",),
    receivers: Iterable[str] = ("q", "k", "v"),
    virtual: bool = False,
    sender_positions: Any = "all",
    receiver_positions: Any = "all",
) -> list[Edge]:
    """Every edge from one sender to one later receiver, of the kinds named.

    Heads are taken one by one. Heads that share keys and values are one receiver of kind `k` and of
    kind `v`, named after the first of them, unless `virtual`.

    >>> import interp
    >>> len(all_edges(interp.load("tiny-gpt2"))), len(all_edges(interp.load("tiny-llama")))
    (144, 96)

    Raises:
        InputError: an unknown kind.
    """
    parallel = is_parallel(model)
    tos = [
        (receiver, receiver.time(parallel))
        for receiver in _all_receivers(model, receivers, receiver_positions, virtual)
    ]
    return [
        Edge((sender,), (receiver,))
        for sender in _all_senders(model, senders, sender_positions)
        for start in [sender.time(parallel)]
        for receiver, read in tos
        if start <= read
    ]


def _all_senders(model: Model, kinds: Iterable[str], positions: Any) -> Iterator[Sender]:
    for kind in kinds:
        if kind == "embed":
            yield Sender(kind, positions=positions)
            continue
        heads = range(model.sizes.n_heads) if kind == "head" else [None]
        for layer in range(model.sizes.n_layers):
            yield from (Sender(kind, layer, head, positions) for head in heads)


def _all_receivers(
    model: Model, kinds: Iterable[str], positions: Any, virtual: bool
) -> Iterator[Receiver]:
    sizes = model.sizes
    for kind in kinds:
        if kind == "logits":
            yield Receiver(kind, positions=positions)
            continue
        shared = kind in ("k", "v") and not virtual
        step = sizes.group if shared else 1
        heads = range(0, sizes.n_heads, step) if kind in IN_ATTENTION else [None]
        own = virtual and kind in ("k", "v")
        for layer in range(sizes.n_layers):
            yield from (Receiver(kind, layer, head, positions, own) for head in heads)


def _several(ends: Any) -> tuple:
    return (ends,) if isinstance(ends, str | Sender | Receiver) else tuple(ends)


def _sum(ends: Sequence[Sender] | Sequence[Receiver]) -> str:
    return " + ".join(map(str, ends))


def _written(layer: int | None, names: list[str], positions: Any) -> str:
    text = ".".join([*([] if layer is None else [str(layer)]), *names])
    if positions == "all":
        return text
    if isinstance(positions, tuple):
        return f"{text}@{','.join(map(str, positions))}"
    return f"{text}@{positions}"


def _parts(text: object) -> tuple[int | None, int | None, str | None, Any]:
    """Layer, head, name and positions of a written end; a name of None where nothing fits."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None, None, None, "all"
    layer, head, name, positions = found.groups()
    at: Any = positions or "all"
    if re.fullmatch(r"\d+(,\d+)*", at):
        at = tuple(map(int, at.split(",")))
    return _whole(layer), _whole(head), name, at


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def _require(what: str, kind: str, known: dict[str, str]) -> None:
    if kind not in known:
        raise InputError(f"{what} {kind!r}: the kinds are {', '.join(known)}.")


def _require_number(end: Sender | Receiver, name: str, needed: bool, value: int | None) -> None:
    what = f"{type(end).__name__} {end.kind!r}"
    if not needed and value is not None:
        raise InputError(f"{what} has no {name}, yet {name}={value}: drop it.")
    if needed and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InputError(f"{what} needs a {name}, counted from 0, and got {name}={value!r}.")
