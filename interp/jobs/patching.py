"""`interp patch`: put the activations of one run into another over a grid of places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

import interp.results as results
from interp.data.pairs import PromptPair
from interp.engine.loading import load
from interp.engine.model import Model
from interp.engine.sweep import At, Progress, Say
from interp.errors import EditError, InputError
from interp.jobs import runs
from interp.jobs.pairs import Chosen, begin, choose, require_layers, require_memory
from interp.jobs.tts import refuse_file
from interp.patching.activation import METRICS, Direction, Patched, every, pairs_tokens, patch
from interp.sites import QUERY_HEADED, Site

By = Literal["position", "head", "layer", "last"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a patching run."""

    components: tuple[str, ...] = ("resid_pre",)
    by: By = "position"
    direction: Direction = "denoise"
    metric: str = "logit_diff"
    layers: tuple[int, ...] = ()
    pairs: int = 4
    seed: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        for name, known in (("by", get_args(By)), ("direction", get_args(Direction))):
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)}: write {' or '.join(known)}.")
        if self.metric not in METRICS:
            raise InputError(f"--metric {self.metric}: write one of {', '.join(METRICS)}.")
        if not self.components:
            raise InputError("--components is empty: name at least one, such as resid_pre.")
        for component in self.components:
            Site.parse(f"0.{component}")  # a misspelt one is refused before anything is loaded
            if self.by == "head" and component not in QUERY_HEADED:
                raise EditError(
                    f"{component} has no query heads, so it cannot be patched head by head: use "
                    "attn.z, or --by layer."
                )


@dataclass(frozen=True)
class Outcome:
    """What a patching run ended with."""

    store: results.Store
    rows: tuple[dict[str, Any], ...]
    marked: int


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
    """Read or generate pairs, patch every component, and write records and report."""
    refuse_file(out)
    require_memory(memory_gib)
    loaded = load(model, dtype=dtype, device=device)
    require_layers(loaded, settings.layers)
    chosen = choose(
        loaded,
        input,
        n=settings.pairs,
        seed=settings.seed,
        same_length=settings.by == "position",
    )
    store = begin(loaded, "patch", out, settings, chosen)
    order = []
    for component in settings.components:
        identity = {"component": component, "settings": store.manifest.settings_hash}
        order.append(results.cell_key(identity))
        if not store.has(order[-1]):
            tables = patch_component(
                loaded, chosen, component, settings, memory_gib=memory_gib, console=console
            )
            store.write(order[-1], identity, tables, {})
    runs.finish(store, order)
    runs.write_report(store)
    return Outcome(store, tuple(runs.rows(store, "patch")), len(chosen.marked))


def patch_component(
    model: Model,
    chosen: Chosen,
    component: str,
    settings: Settings,
    *,
    memory_gib: float,
    console: Console,
) -> dict[str, list[dict[str, Any]]]:
    """Patch one component over the grid, with a progress bar; the tables of `component_tables`."""
    with runs.progress(console) as bars:
        task = bars.add_task(f"patching {component}", total=None)
        return component_tables(
            model,
            chosen,
            component,
            settings,
            memory_gib=memory_gib,
            say=lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False),
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )


def component_tables(
    model: Model,
    chosen: Chosen,
    component: str,
    settings: Settings,
    *,
    memory_gib: float,
    say: Say | None = None,
    progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Patch one component over the grid; the tables `patch`, `patch_pairs` and `marked_pairs`."""
    places = _places(model, chosen.pairs, component, settings)
    found = patch(
        model,
        chosen.pairs,
        places,
        direction=settings.direction,
        metric=settings.metric,
        exact=settings.exact,
        memory_gib=memory_gib,
        say=say,
        progress=progress,
    )
    rows = patch_rows(model, chosen.pairs, places, found)
    pairs = [
        {"place": row["place"], "id": name, "value": value, "base": base, "source": source}
        for row, values in zip(rows, found.values.tolist(), strict=True)
        for name, value, base, source in zip(
            chosen.ids, values, found.base.tolist(), found.source.tolist(), strict=True
        )
    ]
    return {"patch": rows, "patch_pairs": pairs, "marked_pairs": list(chosen.marked)}


def _places(
    model: Model, pairs: Sequence[PromptPair], component: str, settings: Settings
) -> list[At]:
    layers = settings.layers or range(model.sizes.n_layers)
    if settings.by == "head":
        return every(component, layers=layers, heads=range(model.sizes.n_heads))
    if settings.by == "last":
        return [At(Site(component, layer), positions="last") for layer in layers]
    if settings.by == "layer":
        return every(component, layers=layers)
    length = len(pairs_tokens(model, pairs)[0][0])
    return every(component, layers=layers, positions=range(length))


def patch_rows(
    model: Model, pairs: Sequence[PromptPair], places: Sequence[At], found: Patched
) -> list[dict[str, Any]]:
    """The records of a patching grid: a row a place, with the first pair's prompts and tokens."""
    clean, corrupted, _, _ = pairs_tokens(model, pairs)
    base = (corrupted if found.direction == "denoise" else clean)[0]
    rows = []
    for at, row in zip(places, found.rows(), strict=True):
        site = Site.parse(at.site)
        pos = at.positions if isinstance(at.positions, int) else None
        where = {
            "component": site.component,
            "layer": site.layer,
            "head": at.heads,
            "pos": pos,
            "token": None if pos is None else model.tokenizer.decode([base[pos]]),
        }
        about = {
            "base_value": float(found.base.mean()),
            "source_value": float(found.source.mean()),
            "clean_prompt": pairs[0].clean,
            "corrupted_prompt": pairs[0].corrupted,
        }
        rows.append({**where, **row, **about})
    return rows
