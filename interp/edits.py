"""Edits: frozen values that say what to do to an activation at a site.

An edit knows no model and holds no state. The engine selects the entries that the edit names
(prompts, positions, heads, units), hands them to `Edit.new` as one tensor `[n, ...]`, one entry for
each (prompt, position), and writes the answer back. So an edit can neither touch padding nor
broadcast: the answer must have exactly the shape of what it was given.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import EditError, PositionError
from interp.sites import ATTENTION_MAPS, Site, parse_positions

Act = Float[Tensor, "n *rest"]
"""Selected entries of an activation: first axis (prompt, position) pairs, last axes the site's."""


@dataclass(frozen=True, eq=False)
class Where:
    """Which entries an edit was handed."""

    rows: Int[Tensor, " n"]
    """The prompt of each entry: its place in the batch."""
    pos: Int[Tensor, " n"]
    """The logical token of each entry."""
    select: Callable[[Tensor], Tensor]
    """Takes the edit's heads and units from a tensor whose last axes are the site's."""
    n_rows: int
    """How many prompts the batch has."""
    token: tuple[int, ...]
    """The shape of one token's whole activation at the site, heads and units not yet selected."""
    keys: Bool[Tensor, "n key"] | None = None
    """At attention maps, which keys each query sees; the others keep their value whatever the edit
    returns."""


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """What every edit has: a site, and which prompts, positions, heads and units it acts on.

    Raises:
        SiteError: the site is misspelt.
        PositionError: a position is negative or no index.
        EditError: heads or units on a site that has none, or given twice.
    """

    site: Site | str
    _: KW_ONLY
    positions: Any = "all"
    """Logical token indices (one or several), `"all"`, or `"new"` (every newly generated token)."""
    heads: Any = None
    """Query-head ids (one or several); at `attn.k` and `attn.v` head h means the key-value group
    that h shares. None for all."""
    units: Any = None
    """Indices of the last axis (neurons, coordinates), one or several; None for all."""
    rows: Any = None
    """Which prompts of the batch, one or several; None for all."""

    def __post_init__(self) -> None:
        site = Site.parse(self.site)
        object.__setattr__(self, "site", site)
        object.__setattr__(self, "positions", parse_positions(self.positions))
        for name in ("heads", "units", "rows"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        if self.heads is not None and not site.headed:
            raise EditError(
                f"{site} has no heads, yet heads={self.heads}: drop the argument, or name a site "
                "with heads such as attn.z."
            )

    def check(
        self, due: Bool[Tensor, "batch pos"], window: int | None, token: tuple[int, ...] | None
    ) -> None:
        """Refuse what cannot act on these tokens, before the model runs.

        `due` are the tokens that the edit names, `window` how many tokens back the layer's
        attention sees, `token` the shape of one token's activation where it is known beforehand.
        """
        if token is not None and self.units is not None and max(self.units) >= token[-1]:
            raise EditError(
                f"{self}: there is no unit {max(self.units)}; {self.site} has {token[-1]} units."
            )

    @abstractmethod
    def new(self, act: Act, where: Where) -> Act:
        """Return the new value of the selected entries, in the same shape; `act` is not changed."""

    def __str__(self) -> str:
        parts = [str(self.site)]
        for name in ("positions", "heads", "units", "rows"):
            value = getattr(self, name)
            if value is not None and value != "all":
                parts.append(f"{name}={value}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _indices(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    many = (value,) if isinstance(value, int) else tuple(value)
    wrong = [i for i in many if isinstance(i, bool) or not isinstance(i, int) or i < 0]
    if wrong or not many or len(set(many)) != len(many):
        raise EditError(f"{name}={value!r}: give indices from 0, each once, such as (0, 3).")
    return many


@dataclass(frozen=True, eq=False)
class Patch(Edit):
    """Replace an activation by the one from another run (an interchange intervention).

    The source has one prompt for each prompt of the batch and its second axis counts logical
    tokens, as `Run.acts` gives it. `source_positions` names where in the source each of
    `positions` comes from; by default the same position.

    Raises:
        EditError: the source's shape is not that of the activation.
        PositionError: the source has no token at a position.
    """

    _: KW_ONLY
    source: Float[Tensor, "batch pos *rest"]
    source_positions: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_positions is None:
            return
        there = parse_positions(self.source_positions)
        object.__setattr__(self, "source_positions", there)
        here = self.positions
        if not (isinstance(here, tuple) and isinstance(there, tuple) and len(there) == len(here)):
            raise EditError(
                f"{self}: source_positions={there} must pair with positions one to one; "
                "give as many of each."
            )

    def check(
        self, due: Bool[Tensor, "batch pos"], window: int | None, token: tuple[int, ...] | None
    ) -> None:
        """Refuse a source of another shape, of other prompts, or without a token."""
        super().check(due, window, token)
        if len(self.source) != len(due):
            raise EditError(self._other_prompts(len(due)))
        source = self.source
        if Site.parse(self.site).component in ATTENTION_MAPS and source.ndim == 4:
            source = source.transpose(1, 2)  # as captured: [row, head, pos_q, pos_k]
        _require_source(self, source, token, self._origin(due.any(0).nonzero()[:, 0]))

    def _other_prompts(self, n_rows: int) -> str:
        return (
            f"{self}: the source holds {len(self.source)} prompts and the batch {n_rows}; expand "
            "the source to one entry a prompt."
        )

    def _origin(self, pos: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        if self.source_positions is None:
            return pos
        pairs = dict(zip(self.positions, self.source_positions, strict=True))
        return torch.tensor([pairs[p] for p in pos.tolist()], dtype=pos.dtype, device=pos.device)

    def new(self, act: Act, where: Where) -> Act:
        """Return the source's entries at the same prompts and positions."""
        if len(self.source) != where.n_rows:
            raise EditError(self._other_prompts(where.n_rows))
        return _from_source(self, self.source, where.rows, self._origin(where.pos), where).to(act)


@runtime_checkable
class Map(Protocol):
    """An invertible map of activations to latents, such as an alignment map."""

    def forward(self, act: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the latents of activations."""
        ...

    def inverse(self, latent: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the activations of latents."""
        ...


@dataclass(frozen=True, eq=False)
class Swap(Patch):
    """Replace only part of an activation by that of another run: an interchange in a subspace.

    With a `basis`, orthonormal rows `[k, d]` over the last axis, the coordinates along its rows
    come from the source and the rest stays: `act + (source - act) B^T B`, so a run swapped with
    itself keeps every bit. With a `map`, the latents named by `block` come from the source:
    `inverse(where(block, forward(source), forward(act)))`. `block` names rows of a basis, or
    latents; None takes all rows of a basis. Several swaps at one site act in turn, each with its
    own source; a source may come from an edited run. Sources: Geiger et al. 2021, arXiv:2106.02997
    (interchange); Geiger et al. 2023, arXiv:2303.02536 (subspaces).

    Raises:
        EditError: neither basis nor map or both, a basis that is not orthonormal, or a block that
            names what is not there.
    """

    _: KW_ONLY
    basis: Float[Tensor, "k d"] | None = None
    map: Map | None = None
    block: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", _indices("block", self.block))
        if (self.basis is None) == (self.map is None):
            raise EditError(f"{self}: give a basis or a map, one of them.")
        if self.basis is not None:
            _require_orthonormal(self, self.basis)
            if max(self.block or (0,)) >= len(self.basis):
                raise EditError(
                    f"{self}: there is no row {max(self.block)}; the basis has {len(self.basis)}."
                )
        elif self.block is None:
            raise EditError(f"{self}: say which latents to swap, such as block=(0, 1).")

    def check(
        self, due: Bool[Tensor, "batch pos"], window: int | None, token: tuple[int, ...] | None
    ) -> None:
        """Refuse what `Patch` refuses, and a basis of another width."""
        super().check(due, window, token)
        width = None if token is None else token[-1] if self.units is None else len(self.units)
        if self.basis is not None and width is not None and self.basis.shape[-1] != width:
            raise EditError(_shape_message(self, "basis", self.basis.shape[-1:], [width]))

    def new(self, act: Act, where: Where) -> Act:
        """Return the activation with some coordinates from the source."""
        source = super().new(act, where)
        if self.basis is None:
            return self._mapped(act, source)
        rows = (self.basis if self.block is None else self.basis[list(self.block)]).to(act)
        if rows.shape[-1] != act.shape[-1]:
            raise EditError(_shape_message(self, "basis", rows.shape[-1:], act.shape[-1:]))
        return act + (source - act) @ rows.T @ rows

    def _mapped(self, act: Act, source: Act) -> Act:
        assert self.map is not None and self.block is not None
        latent = self.map.forward(act)
        if max(self.block) >= latent.shape[-1]:
            raise EditError(
                f"{self}: there is no latent {max(self.block)}; the map has {latent.shape[-1]}."
            )
        chosen = torch.zeros(latent.shape[-1], dtype=torch.bool, device=latent.device)
        chosen[list(self.block)] = True
        return self.map.inverse(torch.where(chosen, self.map.forward(source), latent))


@dataclass(frozen=True, eq=False)
class ZeroAblate(Edit):
    """Replace an activation by zero."""

    def new(self, act: Act, where: Where) -> Act:
        """Return zeros."""
        return torch.zeros_like(act)


@dataclass(frozen=True, eq=False)
class MeanAblate(Edit):
    """Replace an activation by its mean over a reference set (see `Run.mean`).

    `mean` has the shape of one token's activation; with one more axis in front it holds a mean for
    each logical position.
    """

    _: KW_ONLY
    mean: Float[Tensor, "*rest"]

    def new(self, act: Act, where: Where) -> Act:
        """Return the mean, at each entry's own position where there is one for each."""
        if self.mean.shape == where.token:
            return where.select(self.mean).to(act).expand_as(act)
        return _from_source(
            self, self.mean[None], torch.zeros_like(where.pos), where.pos, where
        ).to(act)


@dataclass(frozen=True, eq=False)
class ResampleAblate(Edit):
    """Replace an activation by that of a reference prompt at the same position.

    Each prompt takes the donor named in `donors` (one for each prompt of the batch), or else one
    drawn from a hash of the seed and its place in the batch. Source: Chan et al. 2022, causal
    scrubbing.
    """

    _: KW_ONLY
    source: Float[Tensor, "reference pos *rest"]
    seed: int = 0
    donors: tuple[int, ...] | None = None

    def donor(self, row: int) -> int:
        """Which reference prompt stands in for a prompt of the batch."""
        if not len(self.source):
            raise EditError(f"{self}: the source holds no reference prompt; give at least one.")
        if self.donors is None:
            digest = hashlib.sha256(f"{self.seed}/{row}".encode()).digest()
            return int.from_bytes(digest[:8], "big") % len(self.source)
        if row >= len(self.donors) or not 0 <= self.donors[row] < len(self.source):
            raise EditError(
                f"{self}: prompt {row} has no donor in donors={self.donors}; give each prompt one "
                f"of the {len(self.source)} reference prompts."
            )
        return self.donors[row]

    def new(self, act: Act, where: Where) -> Act:
        """Return the donors' entries at the same positions."""
        donors = torch.tensor([self.donor(row) for row in where.rows.tolist()], dtype=torch.long)
        return _from_source(self, self.source, donors, where.pos, where).to(act)


@dataclass(frozen=True, eq=False)
class Add(Edit):
    """Add `coefficient` times a vector (steering).

    `vector` has the shape of one token's selected activation: `[d_model]` in the residual stream,
    `[head, d_head]` at `attn.z` (or `[d_head]`, added to each selected head).
    """

    _: KW_ONLY
    vector: Float[Tensor, "*rest"]
    coefficient: float = 1.0

    def new(self, act: Act, where: Where) -> Act:
        """Return `act + coefficient * vector`."""
        return act + self.coefficient * _as_one_token(self, self.vector, act)


@dataclass(frozen=True, eq=False)
class Project(Edit):
    """Remove the part of an activation inside the span of some directions, or keep only that part.

    `directions` is `[d]` or `[k, d]` over the last axis; they need be neither unit nor orthogonal.
    """

    _: KW_ONLY
    directions: Float[Tensor, "*k d"]
    keep: Literal["outside", "inside"] = "outside"

    def new(self, act: Act, where: Where) -> Act:
        """Return the projection onto the complement of the span, or onto the span."""
        inside = act @ _projector(self, self.directions, act)
        return act - inside if self.keep == "outside" else inside


@dataclass(frozen=True, eq=False)
class Scale(Edit):
    """Multiply an activation by a factor."""

    _: KW_ONLY
    factor: float

    def new(self, act: Act, where: Where) -> Act:
        """Return `factor * act`."""
        return act * self.factor


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """Force an activation, or its coordinate along a direction, into `[low, high]`.

    `value` is short for `low = high = value`: the do-operator. Along a direction only that
    coordinate changes; the coordinate is in units of the direction's unit vector.
    """

    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    value: float | None = None
    direction: Float[Tensor, " d"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value is not None and (self.low is not None or self.high is not None):
            raise EditError(f"{self}: give value, or low and high, not both.")
        low, high = self.bounds
        if low is None and high is None:
            raise EditError(f"{self}: Clamp needs low, high or value.")
        if low is not None and high is not None and low > high:
            raise EditError(f"{self}: low={low} lies above high={high}; swap them.")

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The lowest and highest value allowed."""
        return (self.low, self.high) if self.value is None else (self.value, self.value)

    def new(self, act: Act, where: Where) -> Act:
        """Return the clamped activation."""
        if self.direction is None:
            return act.clamp(*self.bounds)
        direction = self.direction.to(act)
        if direction.shape != act.shape[-1:]:
            raise EditError(_shape_message(self, "direction", direction.shape, act.shape[-1:]))
        unit = direction / direction.norm()
        along = act @ unit
        return act + (along.clamp(*self.bounds) - along)[..., None] * unit


def _require_orthonormal(edit: Edit, basis: Tensor) -> None:
    gram = basis.double() @ basis.double().T
    off = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
    if not off < 1e-5:
        raise EditError(
            f"{edit}: the rows of the basis are off from orthonormal by {off:.2g}; make them so "
            "with interp.bases.orthonormal."
        )


def _require_source(
    edit: Edit, source: Tensor, token: tuple[int, ...] | None, pos: Int[Tensor, " n"]
) -> None:
    """Refuse a source `[row, pos, ...]` of another shape a token, or without one of the tokens."""
    if token is not None and source.shape[2:] != token:
        name = "mean" if isinstance(edit, MeanAblate) else "source"
        given = source[0] if name == "mean" else source[0, 0] if source.ndim > 1 else source
        raise EditError(_shape_message(edit, name, given.shape, token))
    if len(pos) and int(pos.max()) >= source.shape[1]:
        raise PositionError(
            f"{edit}: the source of {source.shape[1]} tokens has no token at position "
            f"{int(pos.max())}; capture it from a prompt that is long enough."
        )


def _from_source(
    edit: Edit, source: Tensor, rows: Int[Tensor, " n"], pos: Int[Tensor, " n"], where: Where
) -> Tensor:
    """Take entries of `[row, pos, ...]`; refuse another shape, a missing token and padding.

    Attention maps come as they are captured, `[row, head, pos_q, pos_k]`.
    """
    if where.keys is not None and source.ndim == 4:
        source = source.transpose(1, 2)
    _require_source(edit, source, where.token, pos)
    value = source[rows.to(source.device), pos.to(source.device)]
    if where.keys is not None:
        value = torch.where(where.keys[:, None].to(value.device), value, 0.0)
    value = where.select(value)
    if value.isnan().any():
        raise EditError(f"{edit}: the source is NaN at a named position: that is padding.")
    return value


def _shape_message(edit: Edit, what: str, given: Sequence[int], needed: Sequence[int]) -> str:
    return (
        f"{edit}: the {what} has shape {list(given)} a token and the activation {list(needed)}; "
        "PyTorch would broadcast, so give exactly that shape."
    )


def _as_one_token(edit: Edit, vector: Tensor, act: Tensor) -> Tensor:
    if vector.shape == act.shape[1:] or (
        Site.parse(edit.site).headed and vector.shape == act.shape[-1:]
    ):
        return vector.to(act)
    raise EditError(_shape_message(edit, "vector", vector.shape, act.shape[1:]))


def _projector(edit: Edit, directions: Tensor, act: Tensor) -> Float[Tensor, "d d"]:
    rows = directions.reshape(-1, directions.shape[-1])
    if rows.shape[-1] != act.shape[-1]:
        raise EditError(_shape_message(edit, "span of directions", rows.shape[-1:], act.shape[-1:]))
    _, singular, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    basis = basis[singular > 1e-10 * singular.max()]
    if not len(basis):
        raise EditError(f"{edit}: all directions are zero, so there is nothing to project.")
    return (basis.T @ basis).to(act)
