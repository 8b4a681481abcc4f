"""Sites: addresses of activations, written with TransformerLens's names.

A site of a layer is written `<layer>.<component>` (`7.resid_post`, `5.attn.z`, `3.mlp.post`); a
site of the whole model has no layer (`embed`, `ln_final`, `logits`). Heads and positions belong to
the edit or the capture, never to the site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from interp.errors import PositionError, SiteError, nearest

MODEL_COMPONENTS = ("embed", "pos_embed", "ln_final", "logits")
"""Components without a layer; `pos_embed` exists where positions are embedded (GPT-2)."""

LAYER_COMPONENTS = (
    "resid_pre",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.rot_q",
    "attn.rot_k",
    "attn.k_each",
    "attn.v_each",
    "attn.scores",
    "attn.pattern",
    "attn.z",
    "attn.result",
    "attn_out",
    "resid_mid",
    "mlp.pre",
    "mlp.pre_linear",
    "mlp.post",
    "mlp_out",
    "resid_post",
)
"""Components of a decoder block, in the order in which a sequential block computes them."""

QUERY_HEADED = frozenset(
    {
        "attn.q",
        "attn.rot_q",
        "attn.k_each",
        "attn.v_each",
        "attn.scores",
        "attn.pattern",
        "attn.z",
        "attn.result",
    }
)
"""Components with one entry for each query head."""

KV_HEADED = frozenset({"attn.k", "attn.v", "attn.rot_k"})
"""Components with one entry for each key-value head; head h there means the group that h shares."""

ATTENTION_MAPS = frozenset({"attn.scores", "attn.pattern"})
"""Shaped `[batch, head, pos_q, pos_k]`; to an edit one entry is a query: `[head, key]`."""

INSIDE_ATTENTION = frozenset(
    {"attn.rot_q", "attn.rot_k", "attn.k_each", "attn.v_each", "attn.scores", "attn.pattern"}
)
"""Components that exist only inside the attention function."""

UNCACHED = frozenset({"attn.rot_k", "attn.k_each", "attn.v_each"})
"""Components edited after the KV cache is written, so an edit needs the whole text in one pass."""


@dataclass(frozen=True)
class Site:
    """A place where an activation can be read or replaced.

    >>> str(Site.parse("5.attn.z")), Site.parse("5.attn.z").layer, Site.parse("embed").layer
    ('5.attn.z', 5, None)
    """

    component: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.component if self.layer is None else f"{self.layer}.{self.component}"

    @property
    def headed(self) -> bool:
        """Whether the activation has a head axis."""
        return self.component in QUERY_HEADED or self.component in KV_HEADED

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the order in which a sequential model computes its sites."""
        if self.layer is None:
            first = self.component in ("embed", "pos_embed")
            return (-1 if first else 1 << 30, MODEL_COMPONENTS.index(self.component))
        return self.layer, LAYER_COMPONENTS.index(self.component)

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read a site from its written form; a `Site` is returned as it is.

        Raises:
            SiteError: the text is no site; the message gives the nearest one.
        """
        if isinstance(text, Site):
            return text
        if text in MODEL_COMPONENTS:
            return cls(text)
        layer, _, component = text.partition(".")
        if layer.isdecimal() and component in LAYER_COMPONENTS:
            return cls(component, int(layer))
        raise SiteError(
            f"{text!r} is no site: write <layer>.<component> such as 5.attn.z, or one of "
            f"{', '.join(MODEL_COMPONENTS)}.{_nearest_site(text)}"
        )


def _nearest_site(text: str) -> str:
    layer, dot, _ = text.partition(".")
    if dot and layer.isdecimal():
        return nearest(text, [f"{layer}.{name}" for name in LAYER_COMPONENTS])
    return nearest(text, MODEL_COMPONENTS)


def parse_sites(sites: str | Site | Iterable[str | Site]) -> tuple[Site, ...]:
    """Read one site or several, in order, each once.

    >>> [str(site) for site in parse_sites(["1.attn_out", "embed", "1.attn_out"])]
    ['1.attn_out', 'embed']
    """
    several = [sites] if isinstance(sites, str | Site) else sites
    return tuple(dict.fromkeys(Site.parse(site) for site in several))


@dataclass(frozen=True)
class New:
    """Chosen newly generated tokens, counted from the first new one: `New(0, 1, 2)`."""

    indices: tuple[int, ...]

    def __init__(self, *indices: Any) -> None:
        object.__setattr__(self, "indices", _indices(indices))

    def __repr__(self) -> str:
        return f"New({', '.join(map(str, self.indices))})"


@dataclass(frozen=True)
class Each:
    """Positions for each prompt of the batch apart: `Each(((3,), (5, 6)))`."""

    prompts: Any
    """One tuple of positions a prompt."""

    def __post_init__(self) -> None:
        if not isinstance(self.prompts, Iterable) or isinstance(self.prompts, str):
            raise PositionError(f"Each({self.prompts!r}): give one tuple of positions a prompt.")
        several = tuple(_indices([at] if isinstance(at, int) else at) for at in self.prompts)
        object.__setattr__(self, "prompts", several)

    def __repr__(self) -> str:
        return f"Each({self.prompts})"


Positions = Literal["all", "prompt", "last", "new"] | tuple[int, ...] | New | Each
"""Logical token positions.

`"all"` is every real token, `"prompt"` those of the prompt, `"last"` the last of each prompt,
`"new"` every newly generated token, `New(0, 2)` chosen new ones; a tuple names positions, `Each`
does so for each prompt. Position p is the p-th real token of a prompt, from 0 at the left: padding,
batching, generation and the KV cache never change it.
"""

NAMED = ("all", "prompt", "last", "new")


def parse_positions(positions: object) -> Positions:
    """Check positions: a name, `New`, `Each`, one index or several.

    >>> parse_positions(3), parse_positions([0, 2]), parse_positions("all")
    ((3,), (0, 2), 'all')

    Raises:
        PositionError: not a position, negative, or named twice.
    """
    if isinstance(positions, New | Each) or (isinstance(positions, str) and positions in NAMED):
        return positions  # type: ignore[return-value]
    if isinstance(positions, bool):
        raise PositionError(f"positions={positions}: {positions} is not a whole number.")
    many = [positions] if isinstance(positions, int) else positions
    if isinstance(many, str) or not isinstance(many, Iterable):
        raise PositionError(
            f"positions={positions!r}: give 'all', 'prompt', 'last', 'new', New(0), or token "
            "indices such as (0, 3)."
        )
    return _indices(many)


def _indices(positions: Iterable) -> tuple[int, ...]:
    indices = tuple(positions)
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise PositionError(f"positions={positions!r}: {index!r} is not a whole number.")
        if index < 0:
            raise PositionError(
                f"Position {index} is negative: positions count real tokens from 0 at the left, "
                "so write the index itself, such as len(tokens) - 1 for the last."
            )
    if not indices or len(set(indices)) != len(indices):
        rule = "names a position twice" if indices else "names no position"
        raise PositionError(f"positions={positions!r} {rule}: name each position once.")
    return indices
