"""`interp circuit`: score every edge, patch the best for real, and measure circuits of edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

import interp.results as results
from interp.data.pairs import PromptPair
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs
from interp.jobs.pairs import begin, choose
from interp.jobs.tts import refuse_file
from interp.metrics import LogitDiff
from interp.patching.activation import pairs_tokens
from interp.patching.circuits import FRACTIONS, Circuit, Curve, Select, curve, select_edges
from interp.patching.circuits import verify_edges as verify
from interp.patching.edges import Along, EdgeScores, eap
from interp.results.manifest import replace_file


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a circuit run."""

    along: Along = "inputs"
    steps: int = 5
    edges: int = 40
    by: Select = "top"
    verify: int = 20
    random: int = 3
    fractions: tuple[float, ...] = FRACTIONS
    pairs: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("along", get_args(Along)), ("by", get_args(Select))):
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)}: write {' or '.join(known)}.")
        for name in ("steps", "edges", "verify", "random"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: ask for at least 1.")
        if self.pairs < 2:
            raise InputError(
                f"--pairs {self.pairs}: edges are scored on half of the pairs and circuits "
                "measured on the others, so give at least 2."
            )


@dataclass(frozen=True)
class Outcome:
    """What a circuit run ended with."""

    store: results.Store
    edges: tuple[dict[str, Any], ...]
    curve: tuple[dict[str, Any], ...]
    marked: int


def run(
    input: Path | None,
    *,
    model: str,
    out: Path,
    settings: Settings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Score, verify and measure; write records, `circuit.json` and the report."""
    refuse_file(out)
    loaded = load(model, dtype=dtype, device=device)
    chosen = choose(loaded, input, n=settings.pairs, seed=settings.seed)
    if len(chosen.pairs) < 2:
        raise InputError("One pair fits, and a circuit needs one to score on and one to measure.")
    store = begin(loaded, "circuit", out, settings, chosen)
    identity = {"circuit": list(chosen.ids), "settings": store.manifest.settings_hash}
    key = results.cell_key(identity)
    if not store.has(key):
        half = len(chosen.pairs) // 2
        tables, circuit = find(
            loaded, chosen.pairs[:half], chosen.pairs[half:], settings, console=console
        )
        replace_file(store.folder / "circuit.json", circuit.to_json().encode())
        store.write(key, identity, {**tables, "marked_pairs": list(chosen.marked)}, {})
    runs.finish(store, [key])
    runs.write_report(store)
    edges, points = runs.rows(store, "edges"), runs.rows(store, "faithfulness")
    return Outcome(store, tuple(edges), tuple(points), len(chosen.marked))


def find(
    model: Model,
    scored: tuple[PromptPair, ...],
    held_out: tuple[PromptPair, ...],
    settings: Settings,
    *,
    console: Console,
) -> tuple[dict[str, list[dict[str, Any]]], Circuit]:
    """Score edges on some pairs and measure circuits on others."""
    prompts, metric = _clean_and_corrupted(model, scored)
    with runs.progress(console) as bars:
        bars.add_task("scoring all edges", total=None)
        scores = eap(model, *prompts, metric, steps=settings.steps, along=settings.along)
    kept = select_edges(
        scores.graph, scores.mean, min(settings.edges, len(scores.graph.edges)), by=settings.by
    )
    k = min(settings.verify, len(scores.graph.edges))
    checked = verify(model, *prompts, metric, scores, k=k)
    agreement = "undefined" if checked.agreement is None else f"{checked.agreement:.2f}"
    console.print(
        f"{len(scores.graph.edges)} edges scored on {len(scored)} pairs; the rank agreement of the "
        f"top {k} with real patches is {agreement}.",
        soft_wrap=True,
        markup=False,
    )
    other, metric = _clean_and_corrupted(model, held_out)
    with runs.progress(console) as bars:
        task = bars.add_task("measuring circuits", total=len(settings.fractions))
        found = curve(
            model,
            *other,
            metric,
            scores,
            by=settings.by,
            fractions=settings.fractions,
            n_random=settings.random,
            seed=settings.seed,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    tables = {
        "edges": edge_rows(scores, kept, dict(zip(checked.names, checked.measured, strict=True))),
        "faithfulness": curve_rows(found),
    }
    return tables, kept


def _clean_and_corrupted(
    model: Model, pairs: tuple[PromptPair, ...]
) -> tuple[tuple[list[list[int]], list[list[int]]], LogitDiff]:
    clean, corrupted, right, wrong = pairs_tokens(model, pairs)
    return (clean, corrupted), LogitDiff(right, wrong)


def edge_rows(
    scores: EdgeScores, kept: Circuit, verified: dict[str, float], top: int = 1000
) -> list[dict[str, Any]]:
    """The strongest edges and all of the circuit, each with its real effect if known."""
    inside = set(kept.edges)
    ranked = scores.top(len(scores.graph.edges))
    return [
        {
            "edge": name,
            "score": score,
            "rank": rank,
            "in_circuit": name in inside,
            "verified": verified.get(name),
        }
        for rank, (name, score) in enumerate(ranked, start=1)
        if rank <= top or name in inside
    ]


def curve_rows(found: Curve) -> list[dict[str, Any]]:
    """The records of a faithfulness curve: a row a size, random edges beside it."""
    whole = {
        "cpr": found.cpr,
        "cmd": found.cmd,
        "random_cpr": found.random_cpr,
        "random_cmd": found.random_cmd,
    }
    rows = []
    for place, fraction in enumerate(found.fractions):
        draws = [draw[place] for draw in found.random]
        rows.append(
            {
                "fraction": fraction,
                "n_edges": found.n_edges[place],
                "faithfulness": found.faithfulness[place],
                "random": sum(draws) / len(draws),
                "random_low": min(draws),
                "random_high": max(draws),
                **whole,
            }
        )
    return rows
