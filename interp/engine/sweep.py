"""Many edits of one base run, at near the least arithmetic.

An edit at block l and position p leaves everything before l, and every position before p, as in the
base run. So each cell of a sweep needs only its own end: the blocks from l on, the positions from p
to the last one that is read, behind the base run's cached residual, keys and values. The ends of
many cells and prompts are packed one after another into one row, where a mask keeps them apart, so
nothing is padded; only the positions that the metric reads leave the last block's attention, and
they alone are unembedded.

`exact=True` runs one plain forward pass a cell: the definition, to compare with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.edits import Edit, Patch, Scale
from interp.engine import masks
from interp.engine.model import LogitsAt, Model, Run
from interp.engine.partial import (
    Base,
    Row,
    base_run,
    ends_pass,
    pack,
)
from interp.engine.plan import Plan, Spent, Start, costs, start_of
from interp.engine.receipts import EditReceipt
from interp.engine.session import Session
from interp.engine.tree import out_of_memory
from interp.errors import InputError
from interp.metrics import Metric, reads
from interp.models.tokens import Batch, Inputs
from interp.sites import Site

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@dataclass(frozen=True)
class At:
    """A place of the base run that takes the source run's activation there: short for a `Patch`."""

    site: Site | str
    positions: Any = "all"
    heads: Any = None
    units: Any = None

    def __str__(self) -> str:
        parts = [str(self.site)]
        for name in ("heads", "positions", "units"):
            value = getattr(self, name)
            if value is not None and value != "all":
                parts.append(f"{name}={value}")
        return " ".join(parts)

    def named(self) -> Named:
        """An edit of the same place, to check it with."""
        where = {"positions": self.positions, "heads": self.heads, "units": self.units}
        return Named(self.site, **where, name=str(self))


Cell = Edit | At | Sequence[Edit | At]
"""What one cell of a sweep does: one edit or place, or several together."""


@dataclass(frozen=True, eq=False)
class Swept:
    """What a sweep found."""

    values: Float[Tensor, "cell prompt"]
    """The metric of each cell on each prompt."""
    base: Float[Tensor, " prompt"]
    """The metric of the base run."""
    source: Float[Tensor, " prompt"] | None
    """The metric of the source run, where there is one."""
    receipts: tuple[tuple[EditReceipt, ...], ...]
    """For each cell one proof an edit."""
    plan: Plan
    spent: Spent

    @property
    def effect(self) -> Float[Tensor, "cell prompt"]:
        """How far each cell moves the metric from the base run."""
        return self.values - self.base


@torch.no_grad()
def sweep(
    model: Model,
    base: Inputs,
    cells: Sequence[Cell],
    metric: Metric,
    *,
    source: Inputs | Run | None = None,
    logits: LogitsAt = "last",
    exact: bool = False,
    memory_gib: float = 2.0,
    chunk: int = 256,
    say: Say | None = print,
    progress: Progress | None = None,
) -> Swept:
    """Evaluate many edits of one base run.

    Args:
        model: reuse needs the torch engine; the others run one forward pass a cell.
        base: prompts, of any lengths; every cell is applied to all of them.
        cells: edits, or places (`At`) that are patched from `source`.
        metric: `metric(logits, rows)`, see `interp.metrics`. With several `logits` positions it is
            given `[n, pos, d_vocab]`.
        source: prompts, or a run with the sites of all `At` captured; one prompt a base prompt.
        logits: the position that the metric reads: `"last"`, an index or several.
        exact: one plain forward pass a cell, which is what the answer means.
        memory_gib: for the activations of one forward pass, beside weights and the base run; when
            memory runs out all the same, the batch is halved and no cell is lost.
        chunk: at most so many tokens a forward pass; longer prompts go alone.
        say: told the plan before the sweep and what it cost after; None for silence.
        progress: called with how many cells of how many prompts are done, and in all.

    Raises:
        InputError: no cells, a metric that does not return one number a prompt, or `At` cells
            without a source that fits.
        SiteError, EditError, PositionError: before the model runs, as in `Model.run`.
        SilentEditError: an edit did not reach a token that it named.

    >>> import interp
    >>> from interp.metrics import LogitDiff
    >>> model = interp.load("tiny-llama")
    >>> places = [f"{layer}.{part}" for layer in (0, 1, 2) for part in ("attn_out", "mlp_out")]
    >>> cells = [interp.ZeroAblate(place, positions=2) for place in places]
    >>> swept = sweep(model, "One two three", cells, LogitDiff(5, 6), say=None)
    >>> swept.values.shape, swept.receipts[1][0].tokens, swept.plan.share < 0.7
    (torch.Size([6, 1]), ((0, 2),), True)
    """
    started = time.process_time()
    job = _prepare(model, base, cells, metric, source, logits, exact, memory_gib, chunk)
    if say:
        say(str(job.plan))
    evaluate = _exact if job.plan.reason else _reused
    values, forwards, tokens = evaluate(job, progress or (lambda done, total: None))
    seconds = time.process_time() - started
    spent = Spent(forwards, tokens, job.plan.share, job.halvings, seconds)
    if say:
        say(str(spent))
        strange = int((~values.isfinite()).sum())
        if strange:
            say(f"{strange} values are not finite: the metric read what it does not name.")
    by_cell: list[list[EditReceipt]] = [[] for _ in job.cells]
    receipt = job.session.receipt()
    for bound, proof in zip(job.session.edits, receipt.edits, strict=True):
        by_cell[bound.cell].append(proof)
    return Swept(values, job.base_values, job.source, tuple(map(tuple, by_cell)), job.plan, spent)


@dataclass(eq=False)
class _Job:
    """Everything that a sweep knows before its first cell runs."""

    model: Model
    inputs: list[list[int]]
    cells: list[list[Edit]]
    metric: Metric
    logits: LogitsAt
    read: Int[Tensor, "prompt read"]
    """The logical positions that the metric reads."""
    session: Session
    source: Float[Tensor, " prompt"] | None
    plan: Plan
    start: Base | None
    """The base run, where its parts are reused."""
    rows: dict[Start, list[Row]] = field(default_factory=dict)
    """For each start the ends to compute, longest prompts' first."""
    base_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    base_values: Tensor = field(default_factory=lambda: torch.empty(0))
    halvings: int = 0


def _prepare(
    model: Model,
    base: Inputs,
    cells: Sequence[Cell],
    metric: Metric,
    source: Inputs | Run | None,
    logits: LogitsAt,
    exact: bool,
    memory_gib: float,
    chunk: int,
) -> _Job:
    """Check everything, then run the base and the source once."""
    batch = model.tokens(base)
    check_cells(model, batch, cells, memory_gib=memory_gib, chunk=chunk)
    ids = [row[: int(n)].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
    read = model.logit_positions(logits, batch)
    if read is None:
        raise InputError("logits='all': name the positions that the metric reads, such as 'last'.")
    check_metric(metric, logits, read, model)
    held, source_values = _run_source(model, ids, cells, source, metric, logits)
    bound = [_edits(cell, held) for cell in cells]
    session = Session(model, batch, batch.lengths)
    for place, edits in enumerate(bound):
        session.add(edits, {}, cell=place)
    reason = _why_exact(model, exact)
    rows = _rows(session, read, model.sizes.n_layers)
    tokens = reads(metric)
    unembedded = 1.0 if tokens is None else len(tokens) / model.sizes.d_vocab
    lengths = batch.lengths.tolist()
    plan = costs(model, len(bound), lengths, rows, reason, memory_gib, chunk, unembedded)
    started = None if reason else base_run(model, ids, read)
    plain = started.logits if started else model.run(ids, logits=logits).logits
    assert plain is not None
    stacked = plain[:, None] if plain.ndim == 2 else plain
    values = metric(_given(stacked, logits), torch.arange(len(ids)))
    return _Job(
        model,
        ids,
        bound,
        metric,
        logits,
        read,
        session,
        source_values,
        plan,
        started,
        rows,
        stacked,
        values,
    )


@dataclass(frozen=True, eq=False)
class Named(Scale):
    """Stands for an edit that is not made yet, so that its place is checked; told by its name."""

    _: KW_ONLY
    factor: float = 1.0
    name: str

    def __str__(self) -> str:
        return self.name


def check_cells(
    model: Model, batch: Batch, cells: Sequence[Cell], *, memory_gib: float = 1.0, chunk: int = 1
) -> Session:
    """Refuse what a sweep over these prompts would refuse, before anything runs.

    Raises:
        InputError: no cells, or a setting that is not positive.
        SiteError, EditError, PositionError: a place that the model or a prompt does not have.
    """
    if not len(cells):
        raise InputError("A sweep needs at least one cell: an edit, or a place to patch.")
    if not memory_gib > 0 or chunk < 1:
        raise InputError(f"memory_gib={memory_gib}, chunk={chunk}: give positive numbers.")
    session = Session(model, batch, batch.lengths)
    for place, cell in enumerate(cells):
        edits = [each.named() if isinstance(each, At) else each for each in _several(cell)]
        session.add(edits, {}, cell=place)
    return session


def _given(logits: Float[Tensor, "n *read d_vocab"], at: LogitsAt) -> Tensor:
    """What a metric is given: one position has no axis for it."""
    return logits[:, 0] if logits.ndim == 3 and (at == "last" or isinstance(at, int)) else logits


def _why_exact(model: Model, exact: bool) -> str:
    if exact:
        return "exact=True"
    if model.engine != "torch":
        return f"the engine {model.engine} cannot start in the middle"
    return masks.refusal(model)


def check_metric(
    metric: Metric, logits: LogitsAt, read: Int[Tensor, "prompt read"], model: Model
) -> None:
    """Ask a metric about zeros, so that a wrong one fails before the model runs.

    Raises:
        InputError: it does not return one number a prompt, or names tokens for other prompts.
    """
    if hasattr(metric, "check"):
        metric.check(len(read))  # type: ignore[attr-defined]
    n, k = read.shape
    one = logits == "last" or isinstance(logits, int)
    shape = (n, model.sizes.d_vocab) if one else (n, k, model.sizes.d_vocab)
    answer = metric(torch.zeros(shape), torch.arange(n))
    if not isinstance(answer, Tensor) or answer.shape != (n,):
        given = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"The metric returned {given} for {n} prompts: return a tensor of one number a prompt."
        )


def _run_source(
    model: Model,
    ids: list[list[int]],
    cells: Sequence[Cell],
    source: Inputs | Run | None,
    metric: Metric,
    logits: LogitsAt,
) -> tuple[Run | None, Float[Tensor, " prompt"] | None]:
    """Run the source prompts once, keeping every site that a place names."""
    places = [each for cell in cells for each in _several(cell) if isinstance(each, At)]
    if source is None:
        if places:
            raise InputError(
                f"{places[0]} needs a source: pass source= with a prompt for each base prompt."
            )
        return None, None
    sites = list(dict.fromkeys(Site.parse(place.site) for place in places))
    model.check_sites(sites)
    if isinstance(source, Run):
        run, values = source, None
        _require_lengths([len(row) for row in run.ids], ids)
    else:
        given = model.tokens(source)
        _require_lengths(given.lengths.tolist(), ids)
        run = model.run(source, capture=sites, logits=logits)
        values = metric(_given(run.logits, logits), torch.arange(len(ids)))
    for site in sites:
        run.acts[str(site)]  # a source run without it says so
    return run, values


def _require_lengths(source: list[int], base: list[list[int]]) -> None:
    if source != [len(row) for row in base]:
        raise InputError(
            f"The source prompts have {source} tokens and the base prompts "
            f"{[len(row) for row in base]}: patching by position needs as many in each pair."
        )


def _several(cell: Cell) -> Sequence[Edit | At]:
    return [cell] if isinstance(cell, Edit | At) else cell


def _edits(cell: Cell, source: Run | None) -> list[Edit]:
    """The edits of a cell, its places turned into patches from the source."""
    found: list[Edit] = []
    for each in _several(cell):
        if isinstance(each, At):
            assert source is not None
            act = source.acts[str(Site.parse(each.site))]
            each = Patch(
                each.site, positions=each.positions, heads=each.heads, units=each.units, source=act
            )
        found.append(each)
    return found


def _rows(session: Session, read: Tensor, n_layers: int) -> dict[Start, list[Row]]:
    """Which end of which prompt each cell needs, by where it starts."""
    last_read = read.max(1).values.tolist()
    rows: dict[Start, list[Row]] = {}
    for cell, edits in session.by_cell.items():
        start = min(start_of(Site.parse(bound.edit.site), n_layers) for bound in edits)
        due = torch.stack([bound.due for bound in edits]).any(0)
        for prompt in due.any(1).nonzero()[:, 0].tolist():
            named = due[prompt].nonzero()[:, 0]
            stop = max(last_read[prompt], int(named[-1])) + 1
            rows.setdefault(start, []).append(Row(cell, prompt, int(named[0]), stop))
    for several in rows.values():
        several.sort(key=lambda row: (row.prompt, row.start))
    return dict(sorted(rows.items()))


def _exact(job: _Job, progress: Progress) -> tuple[Float[Tensor, "cell prompt"], int, int]:
    """One plain forward pass a cell."""
    n, values = len(job.inputs), []
    for cell, edits in enumerate(job.cells):
        run = job.model.run(job.inputs, edits=edits, logits=job.logits)
        values.append(job.metric(_given(run.logits, job.logits), torch.arange(n)))
        own = job.session.of_cells([cell])
        for bound, proof in zip(own, run.receipt.edits, strict=True):
            bound.take(proof)
        progress(cell + 1, len(job.cells))
    tokens = sum(map(len, job.inputs))
    return torch.stack(values), len(job.cells), len(job.cells) * tokens


def _reused(job: _Job, progress: Progress) -> tuple[Float[Tensor, "cell prompt"], int, int]:
    """Only the ends, packed; halve the batch when memory runs out."""
    values = job.base_values.expand(len(job.cells), -1).clone()
    base = job.start
    assert base is not None
    mask_maker = masks.Masks(job.model)
    size, forwards, tokens = job.plan.chunk, 1, sum(map(len, job.inputs))
    total, scored = sum(map(len, job.rows.values())), 0
    for start, rows in job.rows.items():
        done = 0
        while done < len(rows):
            part = _fill(rows[done:], size)
            bound = job.session.of_cells({row.cell for row in part})
            held = [each.book for each in bound]
            try:
                logits = _forward(job, base, mask_maker, start, part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                for each, book in zip(bound, held, strict=True):
                    each.book = book
                size = max(1, sum(map(len, part)) // 2)
                job.halvings += 1
                continue
            _score(job, part, logits, values)
            done += len(part)
            forwards += 1
            tokens += sum(map(len, part))
            scored += len(part)
            progress(scored, total)
    return values, forwards, tokens


def _fill(rows: list[Row], size: int) -> list[Row]:
    """The first rows that fit into a forward pass of so many tokens, at least one."""
    taken, tokens = [], 0
    for row in rows:
        if taken and tokens + len(row) > size:
            break
        taken.append(row)
        tokens += len(row)
    return taken


def _forward(
    job: _Job, base: Base, mask_maker: masks.Masks, start: Start, rows: list[Row]
) -> Float[Tensor, "kept d_vocab"]:
    """Run the ends of some cells; return the logits of each position that the metric reads."""
    packed = pack(base, rows)
    taps, mask = job.session.taps(packed), mask_maker.make(packed.visible)
    keep = _kept(job, rows)
    out, _ = ends_pass(job.model, base, packed, start, taps, mask, keep, reads(job.metric))
    return out


def _kept(job: _Job, rows: list[Row]) -> Int[Tensor, " kept"]:
    """The packed columns that the metric reads, row by row; a position before a row's start has
    the base run's logits and needs no column."""
    columns, offset = [], 0
    for row in rows:
        for pos in job.read[row.prompt].tolist():
            if row.start <= pos:
                columns.append(offset + pos - row.start)
        offset += len(row)
    return torch.tensor(columns or [0], device=job.model.device)


def _score(job: _Job, rows: list[Row], logits: Tensor, values: Tensor) -> None:
    """Write the metric of each row."""
    prompts = torch.tensor([row.prompt for row in rows])
    cells = torch.tensor([row.cell for row in rows])
    whole = job.base_logits[prompts]
    read = job.read[prompts].to("cpu")
    computed = read >= torch.tensor([row.start for row in rows])[:, None]
    whole[computed] = logits[: int(computed.sum())]
    values[cells, prompts] = job.metric(_given(whole, job.logits), prompts)
