"""A session binds edits and captures to one run or one generation.

It checks every name before the model runs, makes one tap for each site, applies the edits to the
selected entries, and keeps the books from which the receipt is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.edits import Edit, Where
from interp.engine.receipts import EditReceipt, Receipt, first_few
from interp.errors import EditError, PositionError, SilentEditError
from interp.models.addresses import Sizes
from interp.models.tokens import Batch
from interp.sites import ATTENTION_MAPS, KV_HEADED, Positions, Site

Tap = Callable[[Tensor], Tensor | None]
"""Called with a site's activation `[batch, width, ...]`; returns a new one, or None to keep it."""


@runtime_checkable
class Host(Protocol):
    """What a session asks of a model."""

    sizes: Sizes

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise SiteError for a site that the engine does not have."""
        ...


@dataclass(eq=False)
class BoundEdit:
    """One edit and the record of what it did."""

    edit: Edit
    due: Bool[Tensor, "batch limit"]
    """Tokens that it must reach."""
    seen: Bool[Tensor, "batch limit"]
    """Tokens that it reached."""
    fired: int = 0
    change: Tensor | float = 0.0
    before: Tensor | float = 0.0

    def mark(self, rows: Int[Tensor, " n"], pos: Int[Tensor, " n"]) -> None:
        """Note the tokens reached now; a token reached twice is an error."""
        if self.seen[rows, pos].any():
            raise SilentEditError(
                f"{self.edit} was applied twice to one token: its site ran more than once, so its "
                "effect has no meaning; please report the architecture."
            )
        self.seen[rows, pos] = True
        self.fired += 1

    def receipt(self) -> EditReceipt:
        """Return the proof so far."""
        return EditReceipt(
            edit=self.edit,
            fired=self.fired,
            tokens=_pairs(self.seen),
            change=float(self.change) ** 0.5,
            before=float(self.before) ** 0.5,
            missed=_pairs(self.due & ~self.seen),
        )


def _pairs(tokens: Bool[Tensor, "batch limit"]) -> tuple[tuple[int, int], ...]:
    return tuple((int(row), int(pos)) for row, pos in tokens.nonzero().tolist())


@dataclass(eq=False)
class Session:
    """Edits and captures bound to prompts of known lengths.

    `prompt_lengths` says where new tokens begin; `limits` how many tokens of each prompt the model
    will see: the prompt's length in a run, and all but the last new token in a generation.
    """

    host: Host
    prompt_lengths: Int[Tensor, " batch"]
    limits: Int[Tensor, " batch"]
    edits: list[BoundEdit] = field(default_factory=list)
    capture: dict[Site, Positions] = field(default_factory=dict)
    captured: dict[Site, list[tuple[Batch, Tensor]]] = field(default_factory=dict)

    def add(self, edits: Sequence[Edit], capture: Mapping[Site, Positions]) -> None:
        """Check and bind edits and captures.

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
            self.edits.append(BoundEdit(edit, due, torch.zeros_like(due)))
        for site, positions in capture.items():
            self.host.check_sites([site])
            if not isinstance(positions, str):
                self._require_positions(f"capture of {site}", positions, range(len(self.limits)))
            elif positions == "new":
                raise PositionError(
                    f"capture of {site}: a run has no new tokens; name positions or 'all'."
                )
        self.capture = dict(capture)

    def _due(self, edit: Edit) -> Bool[Tensor, "batch limit"]:
        n_rows, width = len(self.limits), int(self.limits.max())
        outside = [row for row in edit.rows or () if row >= n_rows]
        if outside:
            raise EditError(f"{edit}: there is no prompt {outside[0]}; the batch has {n_rows}.")
        rows = edit.rows if edit.rows is not None else tuple(range(n_rows))
        pos = torch.arange(width, device=self.limits.device).expand(n_rows, width)
        due = self._hits(edit, pos) & (pos < self.limits[:, None])
        if not isinstance(edit.positions, str):
            self._require_positions(str(edit), edit.positions, rows)
        if not due.any():
            raise SilentEditError(
                f"{edit} names no token of this run, so it would change nothing; new tokens exist "
                "only in generate(..., max_new_tokens=2 or more)."
            )
        return due

    def _require_positions(
        self, what: str, positions: Sequence[int], rows: Sequence[int] | range
    ) -> None:
        for row in rows:
            past = [pos for pos in positions if pos >= self.limits[row]]
            if past:
                raise PositionError(
                    f"{what}: position {past[0]} is past the end: prompt {row} has "
                    f"{int(self.limits[row])} tokens that the model sees, the last at position "
                    f"{int(self.limits[row]) - 1}."
                )

    def _hits(self, edit: Edit, index: Int[Tensor, "batch width"]) -> Bool[Tensor, "batch width"]:
        mask = index >= 0
        if edit.rows is not None:
            keep = torch.zeros(len(index), dtype=torch.bool, device=index.device)
            keep[list(edit.rows)] = True
            mask = mask & keep[:, None]
        if edit.positions == "new":
            return mask & (index >= self.prompt_lengths[:, None])
        if edit.positions == "all":
            return mask
        return mask & torch.isin(index, torch.tensor(edit.positions, device=index.device))

    def taps(self, batch: Batch) -> dict[Site, Tap]:
        """Return one tap for each site that is edited or captured in this forward pass."""
        edits: dict[Site, list[BoundEdit]] = {}
        for bound in self.edits:
            edits.setdefault(Site.parse(bound.edit.site), []).append(bound)
        sites = sorted({*edits, *self.capture}, key=lambda site: site.order)
        return {site: self._tap(site, edits.get(site, []), batch) for site in sites}

    def _tap(self, site: Site, edits: list[BoundEdit], batch: Batch) -> Tap:
        def tap(act: Tensor) -> Tensor | None:
            new = act
            for bound in edits:
                new = self._apply(bound, site, new, batch)
            if site in self.capture:
                kept = new.clone() if torch.is_grad_enabled() else new.detach().clone()
                self.captured.setdefault(site, []).append((batch, kept))
            return None if new is act else new

        return tap

    def _apply(self, bound: BoundEdit, site: Site, act: Tensor, batch: Batch) -> Tensor:
        edit = bound.edit
        index = batch.index.to(act.device)
        rows, columns = self._hits(edit, index).nonzero(as_tuple=True)
        if not len(rows):
            return act
        pos = index[rows, columns]
        pick = _selection(edit, site, act, self.host.sizes)
        old = act[(rows, columns)][pick]
        where = Where(rows, pos, lambda tensor: tensor[pick], len(act), tuple(act.shape[2:]))
        new = edit.new(old, where)
        if new.shape != old.shape:
            raise EditError(
                f"{edit} returned shape {list(new.shape)} for entries of {list(old.shape)}; "
                "PyTorch would broadcast, so return exactly that shape."
            )
        if not new.isfinite().all():
            raise EditError(f"{edit} made a value that is not finite; check its vector or scale.")
        bound.mark(rows.to(bound.seen.device), pos.to(bound.seen.device))
        difference = (new.detach() - old.detach()).double()
        bound.change = bound.change + difference.square().sum()
        bound.before = bound.before + old.detach().double().square().sum()
        entries = act[(rows, columns)].clone()
        entries[pick] = new
        return act.index_put((rows, columns), entries)

    def forget(self) -> None:
        """Start the books again, before the whole text is run once more."""
        for bound in self.edits:
            bound.seen = torch.zeros_like(bound.seen)
            bound.change = bound.before = 0.0

    def receipt(self, *, ended_early: bool = False) -> Receipt:
        """Return the proof of every edit.

        Raises:
            SilentEditError: an edit did not reach a token that it named (in a generation that
                ended early: reached none).
        """
        for bound in self.edits:
            missed = bound.due & ~bound.seen
            if missed.any() and not (ended_early and bound.fired):
                raise SilentEditError(
                    f"{bound.edit} did not act: no forward pass reached it at "
                    f"{first_few(_pairs(missed))}, so the run would show nothing."
                )
        return Receipt(tuple(bound.receipt() for bound in self.edits))

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
        return act if isinstance(positions, str) else act[:, :, list(positions)]
    act = batch.align(act)
    return act if isinstance(positions, str) else act[:, list(positions)]


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
