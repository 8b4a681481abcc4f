"""`interp tts direction`: the TrueThinking direction of a scored run, its controls beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

import interp.results as results
from interp.directions import Direction, load_all, save_all
from interp.engine.model import Model
from interp.errors import InputError, StoreError
from interp.jobs import runs, tts_runs
from interp.jobs.tts_settings import SetFields, require_seed
from interp.models.weights import weights_hash
from interp.thinking import direction
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import Sets, choose_sets

FILES = ("direction.safetensors", "shuffled.safetensors", "random.safetensors")
"""The direction, those of shuffled labels at their own lengths, and random ones at its norms."""
FEWEST_RANDOM = 20


@dataclass(frozen=True, kw_only=True)
class SetSettings(SetFields):
    """How the true and the decorative steps are chosen; what is out of range is refused."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        low, floor, high = self.decorative_to, self.lowest, self.true_from
        if not 0 <= low < min(floor, high) or high > 1:
            raise InputError(
                f"--decorative-to {low:g}, --lowest {floor:g}, --true-from {high:g}: scores lie "
                "between 0 and 1, and the first must be below both others."
            )
        for name, least in (("per_problem", 1), ("most", 2)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: give at least {least}.")
        if self.random < FEWEST_RANDOM:
            raise InputError(
                f"--random {self.random}: a direction stands beside at least {FEWEST_RANDOM} "
                "random ones."
            )
        if self.shuffled < 1:
            raise InputError(f"--shuffled {self.shuffled}: give at least 1 shuffle of the labels.")

    def sets(self, scored: Sequence[ScoredChain]) -> Sets:
        """Choose the sets.

        Raises:
            InputError: chains that give no direction, in words.
        """
        return choose_sets(
            scored,
            true_from=self.true_from,
            decorative_to=self.decorative_to,
            lowest=self.lowest,
            per_problem=self.per_problem,
            most=self.most,
            match=self.match,
            seed=self.seed,
        )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A direction at every site, and its controls; the random ones have its norms."""

    sets: Sets
    directions: list[Direction]
    shuffled: list[list[Direction]]
    """At the lengths of their own."""
    random: list[list[Direction]]


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    warnings: tuple[str, ...]


def fitted(model: Model, scored: Sequence[ScoredChain], settings: SetSettings) -> Fitted:
    """Choose the sets, and fit the direction and its controls on one reading of the steps."""
    sets = settings.sets(scored)
    held = {
        "acts": direction.activations(model, scored, sets.steps),
        "weights": weights_hash(model.hf),
    }
    found = direction.fit(model, scored, sets, **held)
    seeds = range(settings.seed, settings.seed + settings.shuffled)
    shuffles = [direction.shuffled(model, scored, sets, seed, **held) for seed in seeds]
    return Fitted(
        sets,
        found,
        shuffles,
        direction.random_twins(found, range(settings.random)),
    )


def save(fit: Fitted, folder: Path) -> None:
    """Write the direction and its controls as safetensors."""
    flat = (list(chain.from_iterable(several)) for several in (fit.shuffled, fit.random))
    groups = (fit.directions, *flat)
    for name, group in zip(FILES, groups, strict=True):
        save_all(folder / name, group, fit.sets.notes())


def read(folder: Path, model: Model) -> tuple[list[Direction], list[list[Direction]]] | None:
    """Read back the direction and its shuffles, or None where a file is missing or damaged."""
    try:
        found, shuffled, _ = (load_all(folder / name, model)[0] for name in FILES)
    except StoreError:
        return None
    return found, [list(group) for _, group in groupby(shuffled, key=lambda each: each.seed)]


def tables(fit: Fitted) -> dict[str, list[dict[str, Any]]]:
    """The direction by site, and the steps that it is made from, as rows."""
    shuffles = [{each.site: each for each in shuffle} for shuffle in fit.shuffled]
    rows = []
    for place, each in enumerate(fit.directions):
        there = [shuffle[each.site] for shuffle in shuffles if each.site in shuffle]
        after = fit.directions[place + 1] if place + 1 < len(fit.directions) else None
        rows.append(
            {
                "site": each.site,
                "norm": each.norm,
                "shuffled_norm": fmean(twin.norm for twin in there) if there else None,
                "shuffled_cosine": _size(_cosine(each, twin) for twin in there),
                "next_cosine": _cosine(each, after) if after else None,
            }
        )
    steps = [
        {"set": name, **{key: value for key, value in asdict(step).items() if key != "text"}}
        for name, side in (("true", fit.sets.true), ("decorative", fit.sets.decorative))
        for step in side
    ]
    balance = [dict(row) for row in fit.sets.balance]
    return {"direction": rows, "direction_steps": steps, "direction_sets": balance}


def _size(cosines: Iterable[float]) -> float | None:
    """The mean size: shuffles point either way."""
    sizes = [abs(cosine) for cosine in cosines]
    return fmean(sizes) if sizes else None


def _cosine(one: Direction, other: Direction) -> float:
    return float(one.vector.double() @ other.vector.double())


def find(
    folder: Path,
    *,
    model: str | None,
    out: Path | None,
    settings: SetSettings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Fit the direction of a run, and write it, its controls, records and the report."""
    run = tts_runs.open_run(folder)
    settings.sets(run.chains)  # refuses before the model is loaded
    loaded = tts_runs.load_model(run, model, dtype=dtype, device=device)
    store = tts_runs.begin(run, loaded, "direction", out, asdict(settings))
    identity = {"direction": "all", "settings": store.manifest.settings_hash, **run.identity}
    key = results.cell_key(identity)
    if not (store.has(key) and read(store.folder, loaded)):
        with console.status("reading the steps"):
            fit = fitted(loaded, run.chains, settings)
        store.update_manifest(notes=fit.sets.notes())
        save(fit, store.folder)
        if not store.has(key):
            store.write(key, identity, tables(fit), {})
    runs.finish(store, [key])
    runs.write_report(store)
    told: Any = store.manifest.notes.get("warnings", ())
    return Outcome(store, tuple(told))
