"""A session binds edits and captures to one run or one generation.

It checks every name before the model runs, makes one tap for each site, applies the edits to the
selected entries, and keeps the books from which the receipt is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edits import Edit, Where
from interp.engine.receipts import EditReceipt, Receipt, first_few
from interp.errors import EditError, PositionError, SilentEditError
from interp.models.addresses import Sizes
from interp.models.tokens import Batch
from interp.sites import ATTENTION_MAPS, KV_HEADED, Each, New, Positions, Site

Tap = Callable[[Tensor], Tensor | None]
"""Called with a site's activation `[batch, width, ...]`; returns a new one, or None to keep it."""


@runtime_checkable
class Host(Protocol):
    """What a session asks of a model."""

    sizes: Sizes

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise SiteError for a site that the engine does not have."""
        ...


Book = tuple[Tensor, int, Tensor | float, Tensor | float]
"""What an edit has done: the tokens it reached, how often, and two squared norms."""


@dataclass(eq=False)
class BoundEdit:
    """One edit and the record of what it did."""

    edit: Edit
    cell: int
    """The cell of a sweep that it belongs to; 0 in a run."""
    due: Bool[Tensor, "batch limit"]
    """Tokens that it must reach."""
    seen: Bool[Tensor, "batch limit"]
    """Tokens that it reached."""
    fired: int = 0
    change: Tensor | float = 0.0
    before: Tensor | float = 0.0

    def mark(self, rows: Int[Tensor, " n"], pos: Int[Tensor, " n"]) -> None:
        """Note the tokens reached now; a token reached twice is an error."""
        if self.fired and self.seen[rows, pos].any():
            raise SilentEditError(
                f"{self.edit} was applied twice to one token: its site ran more than once, so its "
                "effect has no meaning; please report the architecture."
            )
        self.seen = self.seen.clone()
        self.seen[rows, pos] = True
        self.fired += 1

    @property
    def book(self) -> Book:
        """What it has done so far."""
        return self.seen, self.fired, self.change, self.before

    @book.setter
    def book(self, book: Book) -> None:
        """Forget what was done since, after a forward pass that failed."""
        self.seen, self.fired, self.change, self.before = book

    def take(self, proof: EditReceipt) -> None:
        """Take over what another run of the same edit proved."""
        for row, pos in proof.tokens:
            self.seen[row, pos] = True
        self.fired += proof.fired
        self.change, self.before = proof.change**2, proof.before**2

    def receipt(self) -> EditReceipt:
        """Return the proof so far."""
        complete = torch.equal(self.due, self.seen)
        return EditReceipt(
            edit=self.edit,
            fired=self.fired,
            tokens=_pairs(self.seen),
            change=float(self.change) ** 0.5,
            before=float(self.before) ** 0.5,
            missed=() if complete else _pairs(self.due & ~self.seen),
        )


def _pairs(tokens: Bool[Tensor, "batch limit"]) -> tuple[tuple[int, int], ...]:
    return tuple(map(tuple, tokens.nonzero().tolist()))


@dataclass(eq=False)
class Session:
    """Edits and captures bound to prompts.

    `batch` says where new tokens begin; `limits` how many tokens of each prompt the model will see:
    the prompt's length in a run, and all but the last new token in a generation.
    """

    host: Host
    batch: Batch
    limits: Int[Tensor, " batch"]
    edits: list[BoundEdit] = field(default_factory=list)
    by_cell: dict[int, list[BoundEdit]] = field(default_factory=dict)
    capture: dict[Site, Positions] = field(default_factory=dict)
    captured: dict[Site, list[tuple[Batch, Tensor]]] = field(default_factory=dict)

    @cached_property
    def width(self) -> int:
        """How many tokens of the longest prompt the model will see."""
        return int(self.limits.max())

    def add(
        self, edits: Sequence[Edit], capture: Mapping[Site, Positions], *, cell: int = 0
    ) -> None:
        """Check and bind the edits of a cell, and captures.

        Raises:
            SiteError, EditError, PositionError: a site, head or token that the run does not have.
        """
        for edit in edits:
            if not isinstance(edit, Edit):
                raise EditError(f"{edit!r} is no edit: pass a list of Patch, Add, ZeroAblate, ...")
            site = Site.parse(edit.site)
            self.host.check_sites([site])
            _require_heads(edit, self.host.sizes)
            due = self._due(edit)
            window = None if site.layer is None else self.host.sizes.window(site.layer)
            edit.check(due, window, self.host.sizes.token_shape(site))
            self.edits.append(BoundEdit(edit, cell, due, torch.zeros_like(due)))
            self.by_cell.setdefault(cell, []).append(self.edits[-1])
        for site, positions in capture.items():
            self.host.check_sites([site])
            if positions in ("new", "prompt") or isinstance(positions, New | Each):
                raise PositionError(
                    f"capture of {site}: {positions!r} cannot be captured; name positions, 'last' "
                    "or 'all'."
                )
            self._require_positions(f"capture of {site}", positions, range(len(self.limits)))
        self.capture |= capture

    @cached_property
    def _grid(self) -> tuple[Int[Tensor, "batch limit"], Int[Tensor, "batch limit"]]:
        """The position, -1 past a prompt's limit, and the prompt of each token."""
        if self.batch.straight and self.limits is self.batch.lengths:
            return self.batch.index, self.batch.prompts
        prompts, pos = torch.meshgrid(
            torch.arange(len(self.limits), device=self.limits.device),
            torch.arange(self.width, device=self.limits.device),
            indexing="ij",
        )
        return torch.where(pos < self.limits[:, None], pos, -1), prompts

    def _due(self, edit: Edit) -> Bool[Tensor, "batch limit"]:
        n_rows = len(self.limits)
        outside = [row for row in edit.rows or () if row >= n_rows]
        if outside:
            raise EditError(f"{edit}: there is no prompt {outside[0]}; the batch has {n_rows}.")
        rows = edit.rows if edit.rows is not None else range(n_rows)
        self._require_positions(edit, edit.positions, rows)
        due = self._hits(edit, *self._grid)
        if not due.any():
            raise SilentEditError(
                f"{edit} names no token of this run, so it would change nothing; new tokens exist "
                "only in generate(..., max_new_tokens=2 or more)."
            )
        return due

    def _require_positions(
        self, what: object, positions: Positions, rows: Sequence[int] | range
    ) -> None:
        if isinstance(positions, str):
            return
        if isinstance(positions, Each) and len(positions.prompts) != len(self.limits):
            raise PositionError(
                f"{what}: Each names positions for {len(positions.prompts)} prompts and the batch "
                f"has {len(self.limits)}; give one tuple a prompt."
            )
        for row in rows:
            past = [pos for pos in self._named(positions, row) if pos >= self.limits[row]]
            if past and isinstance(positions, New):
                length = int(self.batch.lengths[row])
                raise PositionError(
                    f"{what}: the model sees {int(self.limits[row]) - length} new tokens of prompt "
                    f"{row}, so there is no new token {past[0] - length}; raise max_new_tokens of "
                    "generate."
                )
            if past:
                raise PositionError(
                    f"{what}: position {past[0]} is past the end: prompt {row} has "
                    f"{int(self.limits[row])} tokens that the model sees, the last at position "
                    f"{int(self.limits[row]) - 1}."
                )

    def _named(self, positions: tuple[int, ...] | New | Each, row: int) -> tuple[int, ...]:
        """The logical positions that are named for one prompt."""
        if isinstance(positions, New):
            return tuple(int(self.batch.lengths[row]) + i for i in positions.indices)
        return positions.prompts[row] if isinstance(positions, Each) else positions

    def _hits(
        self,
        edit: Edit,
        index: Int[Tensor, "batch width"],
        prompts: Int[Tensor, "batch width"],
    ) -> Bool[Tensor, "batch width"]:
        """The columns that an edit names: each has its logical index and its prompt."""
        mask = index >= 0
        if edit.rows is not None:
            mask = mask & _among(prompts, edit.rows)
        at = edit.positions
        if at == "all":
            return mask
        if isinstance(at, tuple):
            return mask & _among(index, at)
        lengths = self.batch.lengths.to(index.device)[prompts]
        if isinstance(at, New):
            return mask & _among(index - lengths, at.indices)
        if isinstance(at, Each):
            for row, named in enumerate(at.prompts):
                mask = mask & (_among(index, named) | (prompts != row))
            return mask
        match at:
            case "new":
                return mask & (index >= lengths)
            case "prompt":
                return mask & (index < lengths)
        return mask & (index == lengths - 1)

    def taps(self, batch: Batch) -> dict[Site, Tap]:
        """Return one tap for each site that is edited or captured in this forward pass."""
        edits: dict[Site, list[BoundEdit]] = {}
        cells = (0,) if batch.cells is None else batch.cells.unique().tolist()
        for bound in self.of_cells(cells):
            edits.setdefault(Site.parse(bound.edit.site), []).append(bound)
        sites = sorted({*edits, *self.capture}, key=lambda site: site.order)
        return {site: self._tap(site, edits.get(site, []), batch) for site in sites}

    def _tap(self, site: Site, edits: list[BoundEdit], batch: Batch) -> Tap:
        def tap(act: Tensor) -> Tensor | None:
            new = act
            for bound in edits:
                new = self._apply(bound, site, new, batch, owned=new is not act)
            if site in self.capture:
                kept = new.clone() if torch.is_grad_enabled() else new.detach().clone()
                self.captured.setdefault(site, []).append((batch, kept))
            return None if new is act else new

        return tap

    def _apply(
        self, bound: BoundEdit, site: Site, act: Tensor, batch: Batch, *, owned: bool
    ) -> Tensor:
        """Apply one edit; an activation that is `owned` (made by an edit before) is written to."""
        edit = bound.edit
        rows, columns, prompts, pos = self._reached(bound, batch)
        if not len(rows):
            return act
        entries = self._entries(site, batch, act, rows, columns)
        whole = entries.read(act)
        pick = _selection(edit, site, whole, self.host.sizes)
        old = whole[pick]
        where = Where(
            prompts.to(act.device),
            pos.to(act.device),
            lambda tensor: tensor[pick],
            len(self.limits),
            tuple(whole.shape[1:]),
            entries.keys,
        )
        new = self._checked(bound, edit.new(old, where), old, where)
        bound.mark(prompts.to(bound.seen.device), pos.to(bound.seen.device))
        if pick != (...,):
            whole = whole.clone()
            whole[pick] = new
            new = whole
        return entries.write(act, new, owned=owned)

    def _reached(self, bound: BoundEdit, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows and columns of a batch that an edit names, their prompts and positions."""
        if batch.straight:
            rows, columns = bound.due[:, : batch.ids.shape[1]].nonzero(as_tuple=True)
            return rows, columns, rows, columns
        hits = self._hits(bound.edit, batch.index, batch.prompts)
        if batch.cells is not None:
            hits = hits & (batch.cells == bound.cell)
        rows, columns = hits.nonzero(as_tuple=True)
        return rows, columns, batch.prompts[rows, columns], batch.index[rows, columns]

    def _entries(
        self, site: Site, batch: Batch, act: Tensor, rows: Tensor, columns: Tensor
    ) -> _Entries | _Queries:
        here = rows.to(act.device), columns.to(act.device)
        if site.component not in ATTENTION_MAPS:
            return _Entries(*here)
        assert site.layer is not None
        seen = batch.visible(self.host.sizes.window(site.layer))[rows, columns]
        keys = batch.key_index.expand(len(batch.ids), -1)[rows]
        place = torch.where(seen, keys, self.width)
        place = place[:, -act.shape[-1] :]  # a sliding cache holds the last
        return _Queries(*here, place.to(act.device), self.width)

    def _checked(self, bound: BoundEdit, new: Tensor, old: Tensor, where: Where) -> Tensor:
        """Refuse an answer of another shape or not finite; note how much it changes."""
        edit = bound.edit
        if new.shape != old.shape:
            raise EditError(
                f"{edit} returned shape {list(new.shape)} for entries of {list(old.shape)}; "
                "PyTorch would broadcast, so return exactly that shape."
            )
        if where.keys is not None:  # no query ever attends to what it cannot see
            seen = where.select(where.keys[:, None].expand(len(old), *where.token))
            new = torch.where(seen, new, old)
        change = float(_norm(new.detach() - old.detach()))
        if not isfinite(change) and not new.isfinite().all():
            raise EditError(f"{edit} made a value that is not finite; check its vector or scale.")
        bound.change += change**2
        bound.before = bound.before + _norm(old.detach()).square()
        return new

    def forget(self) -> None:
        """Start the books again, before the whole text is run once more."""
        for bound in self.edits:
            bound.seen = torch.zeros_like(bound.seen)
            bound.change = bound.before = 0.0

    def of_cells(self, cells: Iterable[int]) -> list[BoundEdit]:
        """The edits of some cells of a sweep; those of a run are all in cell 0."""
        return [bound for cell in cells for bound in self.by_cell.get(cell, ())]

    def receipt(self, *, ended_early: bool = False) -> Receipt:
        """Return the proof of every edit.

        Raises:
            SilentEditError: an edit did not reach a token that it named (in a generation that
                ended early: reached none).
        """
        proofs = tuple(bound.receipt() for bound in self.edits)
        for proof in proofs:
            if proof.missed and not (ended_early and proof.fired):
                raise SilentEditError(
                    f"{proof.edit} did not act: no forward pass reached it at "
                    f"{first_few(proof.missed)}, so the run would show nothing."
                )
        return Receipt(proofs)

    def acts(self, batch: Batch) -> dict[str, Tensor]:
        """Return what was captured, by site, its second axis counting logical tokens."""
        found = {}
        for site, positions in self.capture.items():
            if site not in self.captured:
                raise SilentEditError(f"No forward pass reached {site}, so nothing was captured.")
            _, act = self.captured[site][0]
            found[str(site)] = _aligned(site, act, batch, positions)
        return found


def _aligned(site: Site, act: Tensor, batch: Batch, positions: Positions) -> Tensor:
    if site.component in ATTENTION_MAPS:  # [batch, head, pos_q, pos_k]: both axes count tokens
        by_key = batch.align(act.permute(0, 3, 2, 1))
        by_query = batch.align(by_key.transpose(1, 2))
        act = by_query.permute(0, 3, 1, 2)
        return _at(act, positions, batch, axis=2)
    return _at(batch.align(act), positions, batch, axis=1)


def _at(act: Tensor, positions: Positions, batch: Batch, *, axis: int) -> Tensor:
    """Keep some logical positions of an axis; `"last"` keeps each prompt's own."""
    if positions == "all":
        return act
    if positions == "last":
        last = (batch.lengths - 1).to(act.device)
        index = last.view(-1, *[1] * (act.ndim - 1))
        return act.take_along_dim(index, dim=axis)
    assert isinstance(positions, tuple)
    return act.index_select(axis, torch.tensor(positions, device=act.device))


def _among(index: Tensor, named: tuple[int, ...]) -> Tensor:
    if len(named) == 1:
        return index == named[0]
    return torch.isin(index, torch.tensor(named, device=index.device))


def _norm(entries: Tensor) -> Tensor:
    """The L2 norm, summed in float64."""
    return torch.linalg.vector_norm(entries, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Entries:
    """The entries of an activation that an edit names: one for each (prompt, position)."""

    rows: Int[Tensor, " n"]
    columns: Int[Tensor, " n"]
    keys: None = None

    def read(self, act: Tensor) -> Tensor:
        """Return them as `[n, ...]`."""
        return act[self.rows, self.columns]

    def write(self, act: Tensor, entries: Tensor, *, owned: bool) -> Tensor:
        """Return the activation with these entries, in place where it is our own."""
        if owned and not torch.is_grad_enabled():
            act[self.rows, self.columns] = entries
            return act
        return act.index_put((self.rows, self.columns), entries)


@dataclass(frozen=True, eq=False)
class _Queries:
    """The queries of an attention map that an edit names, their keys in logical order."""

    rows: Int[Tensor, " n"]
    columns: Int[Tensor, " n"]
    place: Int[Tensor, "n seen"]
    """The logical token of each visible key column; `width` for what the query does not see."""
    width: int

    @property
    def keys(self) -> Bool[Tensor, "n key"]:
        """Which logical keys each query sees."""
        seen = torch.zeros(
            len(self.rows), self.width + 1, dtype=torch.bool, device=self.rows.device
        )
        return seen.scatter(1, self.place, True)[:, : self.width]

    def _by_head(self, act: Tensor) -> Int[Tensor, "n head seen"]:
        return self.place[:, None].expand(-1, act.shape[1], -1)

    def read(self, act: Tensor) -> Float[Tensor, "n head key"]:
        """Return each query's row of the map `[batch, head, pos_q, pos_k]`, 0 at unseen keys."""
        entries = act[self.rows, :, self.columns]
        place = self._by_head(act)
        blank = entries.new_zeros(*entries.shape[:2], self.width + 1)
        return blank.scatter(2, place, entries)[..., : self.width]

    def write(self, act: Tensor, entries: Tensor, *, owned: bool) -> Tensor:
        """Return the map with these rows; keys that a query does not see keep their value."""
        old, place = act[self.rows, :, self.columns], self._by_head(act)
        new = entries.gather(2, place.clamp(max=self.width - 1))
        whole = act if owned and not torch.is_grad_enabled() else act.clone()
        whole[self.rows, :, self.columns] = torch.where(place < self.width, new, old)
        return whole


def _require_heads(edit: Edit, sizes: Sizes) -> None:
    for head in edit.heads or ():
        if head >= sizes.n_heads:
            raise EditError(
                f"{edit}: there is no head {head}; the model's heads are 0 to {sizes.n_heads - 1}."
            )


def _selection(edit: Edit, site: Site, act: Tensor, sizes: Sizes) -> tuple:
    """Index that takes the edit's heads and units from a tensor `[..., (head,) unit]`."""
    heads = units = None
    if edit.heads is not None:
        shared = site.component in KV_HEADED
        ids = {head // sizes.group if shared else head: None for head in edit.heads}
        heads = torch.tensor(list(ids), device=act.device)
    if edit.units is not None:
        if max(edit.units) >= act.shape[-1]:
            raise EditError(
                f"{edit}: there is no unit {max(edit.units)}; {site} has {act.shape[-1]} units."
            )
        units = torch.tensor(edit.units, device=act.device)
    if heads is None and units is None:
        return (...,)
    if heads is None:
        return (..., units)
    if units is None:
        return (..., heads, slice(None))
    return (..., heads[:, None], units)
