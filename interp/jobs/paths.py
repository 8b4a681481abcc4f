"""`interp path`: patch paths from senders to receivers, and rank them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

import interp.results as results
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs
from interp.jobs.pairs import Chosen, begin, choose, require_memory
from interp.jobs.tts import refuse_file
from interp.metrics import LogitDiff
from interp.patching.activation import Direction, pairs_tokens
from interp.patching.effects import interval_fields, over_prompts
from interp.patching.path import (
    Edge,
    Paths,
    Receiver,
    Sender,
    all_edges,
    check_edges,
    path_patch,
)
from interp.patching.path_nodes import is_parallel
from interp.patching.path_record import Through

Group = Literal["heads", "mlps", "attention", "embed"]
GROUPS: dict[str, str] = {
    "heads": "head",
    "mlps": "mlp_out",
    "attention": "attn_out",
    "embed": "embed",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a path-patching run."""

    senders: tuple[str, ...] = ("heads",)
    receivers: tuple[str, ...] = ("logits",)
    through: Through = "direct"
    direction: Direction = "noise"
    freeze_norms: bool = False
    pairs: int = 4
    seed: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        if self.through not in get_args(Through):
            raise InputError(f"--through {self.through}: write direct, mlps or all.")
        if self.direction not in get_args(Direction):
            raise InputError(f"--direction {self.direction}: write denoise or noise.")
        if not self.senders or not self.receivers:
            raise InputError("--senders and --receivers each need at least one end.")
        for text in self.senders:
            if text not in GROUPS:
                Sender.parse(text)
        for text in self.receivers:
            Receiver.parse(text)


@dataclass(frozen=True)
class Outcome:
    """What a path-patching run ended with."""

    store: results.Store
    rows: tuple[dict[str, Any], ...]
    marked: int
    idle: int
    """Edges whose receivers did not move: no-ops."""


def run(
    input: Path | None,
    *,
    model: str,
    out: Path,
    settings: Settings,
    dtype: str | None,
    device: str,
    memory_gib: float,
    console: Console,
) -> Outcome:
    """Read or generate pairs, patch every path, and write records and report."""
    refuse_file(out)
    require_memory(memory_gib)
    loaded = load(model, dtype=dtype, device=device)
    edges = edges_of(loaded, settings)
    chosen = choose(loaded, input, n=settings.pairs, seed=settings.seed)
    check_edges(loaded, pairs_tokens(loaded, chosen.pairs)[0], edges)
    store = begin(loaded, "path", out, settings, chosen)
    identity = {"paths": [str(edge) for edge in edges], "settings": store.manifest.settings_hash}
    key = results.cell_key(identity)
    if not store.has(key):
        found = patch_paths(loaded, chosen, edges, settings, memory_gib=memory_gib, console=console)
        rows = path_rows(found, settings)
        store.write(key, identity, {"paths": rows, "marked_pairs": list(chosen.marked)}, {})
    runs.finish(store, [key])
    runs.write_report(store)
    rows = runs.rows(store, "paths")
    idle = sum(not row["acted"] for row in rows)
    return Outcome(store, tuple(rows), len(chosen.marked), idle)


def edges_of(model: Model, settings: Settings) -> list[Edge]:
    """One edge from each sender to all receivers at once; senders after every receiver are left.

    Raises:
        InputError: no sender comes before the receivers.
    """
    receivers = [Receiver.parse(text) for text in settings.receivers]
    parallel = is_parallel(model)
    first = min(receiver.time(parallel) for receiver in receivers)
    edges: list[Edge] = []
    for text in settings.senders:
        if text in GROUPS:
            every = all_edges(model, senders=(GROUPS[text],), receivers=("logits",))
            senders = [edge.senders[0] for edge in every]
            senders = [sender for sender in senders if sender.time(parallel) <= first]
        else:
            senders = [Sender.parse(text)]
        edges += [Edge.of(([sender], receivers)) for sender in senders]
    if not edges:
        raise InputError(
            f"No sender of {', '.join(settings.senders)} comes before "
            f"{', '.join(settings.receivers)}: name a later receiver."
        )
    return edges


def patch_paths(
    model: Model,
    chosen: Chosen,
    edges: Sequence[Edge],
    settings: Settings,
    *,
    memory_gib: float,
    console: Console,
) -> Paths:
    """Patch the edges on all pairs; the metric is the logit difference of the two answers."""
    clean, corrupted, right, wrong = pairs_tokens(model, chosen.pairs)
    noise = settings.direction == "noise"
    return path_patch(
        model,
        clean if noise else corrupted,
        corrupted if noise else clean,
        edges,
        LogitDiff(right, wrong),
        through=settings.through,
        freeze_norms=settings.freeze_norms,
        exact=settings.exact,
        memory_gib=memory_gib,
        say=lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False),
    )


def path_rows(found: Paths, settings: Settings) -> list[dict[str, Any]]:
    """The records of a path-patching run: a row an edge, its effect with its interval."""
    gap = found.source - found.base
    rows = []
    for place, edge in enumerate(found.edges):
        effect = over_prompts(found.effect[place].tolist())
        share = over_prompts((found.effect[place] / gap)[gap != 0].tolist())
        sender, receiver = edge.senders[0], edge.receivers[0]
        rows.append(
            {
                "path": str(edge),
                "sender": str(sender),
                "receiver": " + ".join(map(str, edge.receivers)),
                "through": settings.through,
                "direction": settings.direction,
                "metric": "logit_diff",
                **interval_fields("effect", effect),
                **interval_fields("recovered", share),
                "pairs": len(found.base),
                "change": sum(each.change**2 for each in found.receipts[place]) ** 0.5,
                "acted": bool(found.acted[place]),
                "sender_layer": sender.layer,
                "sender_head": sender.head,
                "receiver_layer": receiver.layer,
                "receiver_head": receiver.head,
                "receiver_kind": receiver.kind,
                "base_value": float(found.base.mean()),
                "source_value": float(found.source.mean()),
            }
        )
    return rows
