"""`interp tts prune`: keep-fraction curves of scored chains, and pruned chains for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import interp.results as results
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs, tts_runs
from interp.jobs.tts_settings import require_seed
from interp.results.manifest import replace_file
from interp.thinking import prune
from interp.thinking.prune import FRACTIONS, METHODS, N_RANDOM, Pruned, Pruning
from interp.thinking.scored import ScoredChain

EXPORT = "pruned.jsonl"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a pruning study."""

    fractions: tuple[float, ...] = FRACTIONS
    methods: tuple[str, ...] = METHODS
    random: int = N_RANDOM
    seed: int = 0
    decode: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if self.random < 0:
            raise InputError(
                f"--random {self.random}: draw 0 or more random prunings, better {N_RANDOM}."
            )
        prune.check(self.fractions, self.methods, self.random)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Which pruned chains go into the file for training."""

    fraction: float = 0.5
    method: str = "tts"
    only_same: bool = True


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    points: tuple[dict[str, Any], ...]
    exported: Path
    n_exported: int
    marked: int


def study(
    folder: Path,
    *,
    model: str | None,
    out: Path | None,
    settings: Settings,
    export: Export,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Prune every chain of a run, and write records, curves, the export and the report."""
    require_exported(settings, export)
    run = tts_runs.open_run(folder)
    loaded = tts_runs.load_model(run, model, dtype=dtype, device=device)
    store = tts_runs.begin(run, loaded, "prune", out, asdict(settings))
    order = []
    with runs.progress(console) as bars:
        task = bars.add_task("chains", total=len(run.chains))
        for chain in run.chains:
            identity = {"chain": chain.id, "settings": store.manifest.settings_hash}
            key = results.cell_key(identity)
            order.append(key)
            if not store.has(key):
                tables, spent = _cell(loaded, chain, run, settings)
                store.write(key, identity, tables, spent)
            bars.advance(task)
    runs.finish(store, order)  # rows come back in this order
    pruned = _read(store, run.chains)
    points = tuple(point.row() for point in prune.summarise(pruned))
    identity = {"summary": "curves", "settings": store.manifest.settings_hash}
    if points:
        order.append(results.cell_key(identity))
        if not store.has(order[-1]):
            store.write(order[-1], identity, {"prune_curves": points}, {})
    runs.finish(store, order)
    chosen = [p for p in pruned if _is(p.pruning, export)]
    rows = prune.export_rows(chosen, run.chains, only_same=export.only_same)
    path = store.folder / EXPORT
    replace_file(path, prune.jsonl(rows).encode())
    runs.write_report(store)
    marked = len(runs.rows(store, "prune_marked"))
    return Outcome(store, points, path, len(rows), marked)


def require_exported(settings: Settings, export: Export) -> None:
    """Refuse to export what is not computed.

    Raises:
        InputError: the fraction or the method is not among those of the study.
    """
    if export.fraction not in settings.fractions:
        told = " ".join(f"{fraction:g}" for fraction in settings.fractions)
        raise InputError(
            f"--export {export.fraction:g} is none of the fractions {told}: add it to --fractions, "
            "or export one of these."
        )
    if export.method not in (*settings.methods, "random"):
        told = ", ".join((*settings.methods, "random"))
        raise InputError(f"--export-method {export.method}: this study has {told}.")
    if export.method == "random" and not settings.random:
        raise InputError(
            "--export-method random with --random 0: no random pruning is drawn, so none can be "
            "exported; draw at least 1, or export tts."
        )


def _is(pruning: Pruning, export: Export) -> bool:
    return (pruning.fraction, pruning.method) == (export.fraction, export.method)


def _cell(
    model: Model, chain: ScoredChain, run: tts_runs.ScoredRun, settings: Settings
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """One chain's prunings; or one row that says why it is marked."""
    found = prune.prune(
        model,
        [chain],
        run.rules,
        fractions=settings.fractions,
        methods=settings.methods,
        n_random=settings.random,
        seed=settings.seed,
        decode=settings.decode,
        exact=settings.exact,
    )
    tables = {
        "pruned": [each.row() for each in found.pruned],
        "prune_marked": [dict(mark) for mark in found.marked],
    }
    spent = {name: float(value) for name, value in asdict(found.spent).items()}
    return {name: rows for name, rows in tables.items() if rows}, spent


def _read(store: results.Store, chains: Sequence[ScoredChain]) -> list[Pruned]:
    """The prunings back from their records."""
    texts = {chain.id: [step.text for step in chain.chain.steps] for chain in chains}
    return [_pruned(row, texts[row["id"]]) for row in runs.rows(store, "pruned")]


def _pruned(row: Mapping[str, Any], steps: Sequence[str]) -> Pruned:
    kept = tuple(int(word) for word in row["kept"].split())
    about = {name: row[name] for name in ("id", "method", "draw", "fraction", "n_steps")}
    rest = ("logprob", "full_logprob", "answer", "same", "correct", "n_tokens", "full_tokens")
    text = "".join(steps[i] for i in kept)
    measured: dict[str, Any] = {name: row.get(name) for name in rest}
    return Pruned(Pruning(**about, kept=kept, text=text), **measured)
