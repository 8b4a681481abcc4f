"""`interp demo`: one whole job on a real model, from prompts to a report, in a few minutes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import interp.results as results
from interp.data.word_problems import word_problems
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import patching, runs, tts
from interp.jobs.pairs import Chosen, choose
from interp.results import report_stats


@dataclass(frozen=True)
class Demo:
    """What a demonstration ended with."""

    report: Path
    findings: tuple[str, ...]
    marked: int


def demo(*, model: str, out: Path, problems: int, seeds: int, seed: int, console: Console) -> Demo:
    """Score the steps of a few generated problems, patch one prompt pair, and draw the report."""
    if problems < 1:
        raise InputError(f"--problems {problems}: ask for at least 1.")
    settings = tts.Settings(seeds=seeds, max_new_tokens=160)
    tts.refuse_file(out)
    console.print(f"Loading {model}.", markup=False)
    loaded = load(model)
    tts.require_text(loaded)
    chosen = choose(loaded, None, n=1, seed=seed)
    store = runs.begin(
        loaded,
        experiment="demo",
        out=out,
        settings={**asdict(settings), "rules": asdict(settings.rules)},
        data={"problems": f"word_problems(seed={seed})", "pair": asdict(chosen.pairs[0])},
        seeds=range(seeds),
    )
    grid = _patch(loaded, chosen, store, console)
    rows = tts.generated_rows(word_problems(problems, seed=seed))
    outcome = tts.run(rows, loaded, store, settings, memory_gib=2.0, console=console)
    chains, steps = runs.rows(store, "chains"), runs.rows(store, "steps")
    found = report_stats.findings(report_stats.scored_rows(chains, steps))
    sentences = [f"{each.title} {each.detail}" for each in found[:2]] + [_patch_finding(grid)]
    return Demo(runs.write_report(store), tuple(sentences), outcome.marked)


def _patch(
    model: Model, chosen: Chosen, store: results.Store, console: Console
) -> list[dict[str, Any]]:
    """Patch the residual stream of a pair over all layers and positions, once."""
    pairs = [asdict(pair) for pair in chosen.pairs]
    identity = {"pairs": pairs, "settings": store.manifest.settings_hash}
    key = results.cell_key(identity)
    if not store.has(key):
        tables = patching.patch_component(
            model, chosen, "resid_pre", patching.Settings(), memory_gib=2.0, console=console
        )
        store.write(key, identity, tables, {})
    return store.rows("patch")


def _patch_finding(rows: list[dict[str, Any]]) -> str:
    """From which layer on the last token alone carries half of the answer."""
    last = max(row["pos"] for row in rows)
    at_end = sorted((row["layer"], row["recovered"]) for row in rows if row["pos"] == last)
    layer = next((layer for layer, share in at_end if share >= 0.5), None)
    null = max(row["null"] for row in rows)
    end = (
        f"from layer {layer} on, patching the last token alone recovers at least half of it"
        if layer is not None
        else "no layer's last token alone recovers half of it"
    )
    gap = rows[0]["source_value"] - rows[0]["base_value"]
    return (
        f"Who gave decides the name by {gap:.2f} nats; {end}. "
        f"Patching a run with itself moves it by {null:.2g}."
    )
