"""`interp tts direction`: the TrueThinking direction of a scored run, its controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

import interp.results as results
from interp.directions import Direction, save_all
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs, tts_runs
from interp.models.weights import weights_hash
from interp.thinking import direction
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import Sets, choose_sets

FILES = ("direction.safetensors", "shuffled.safetensors", "random.safetensors")
"""The direction, the directions of shuffled labels, and the random ones, both at its norms."""
FEWEST_RANDOM = 20


@dataclass(frozen=True, kw_only=True)
class SetSettings:
    """How the true and the decorative steps are chosen."""

    true_from: float = 0.9
    decorative_to: float = 0.005
    lowest: float = 0.3
    per_problem: int = 10
    most: int = 200
    match: bool = True
    shuffled: int = 5
    random: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
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
    """A direction at every site, and its controls at its norms."""

    sets: Sets
    directions: list[Direction]
    shuffled: list[list[Direction]]
    own_norms: list[dict[str, float]]
    """For each shuffle the lengths by site, before they were brought to the direction's."""
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
        [direction.at_norms(each, found) for each in shuffles],
        [{each.site: each.norm for each in shuffle} for shuffle in shuffles],
        direction.random_twins(found, range(settings.random)),
    )


def save(fit: Fitted, folder: Path) -> None:
    """Write the direction and its controls as safetensors."""
    flat = (list(chain.from_iterable(several)) for several in (fit.shuffled, fit.random))
    groups = (fit.directions, *flat)
    for name, group in zip(FILES, groups, strict=True):
        save_all(folder / name, group, fit.sets.notes())


def tables(fit: Fitted) -> dict[str, list[dict[str, Any]]]:
    """The direction by site, and the steps that it is made from, as rows."""
    shuffles = [{each.site: each for each in shuffle} for shuffle in fit.shuffled]
    rows = []
    for place, each in enumerate(fit.directions):
        there = [shuffle[each.site] for shuffle in shuffles if each.site in shuffle]
        after = fit.directions[place + 1] if place + 1 < len(fit.directions) else None
        norms = [own[each.site] for own in fit.own_norms if each.site in own]
        rows.append(
            {
                "site": each.site,
                "norm": each.norm,
                "shuffled_norm": fmean(norms) if norms else None,
                "shuffled_cosine": fmean(_cosine(each, twin) for twin in there) if there else None,
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
    if not (store.has(key) and all((store.folder / name).exists() for name in FILES)):
        with console.status("reading the steps"):
            fit = fitted(loaded, run.chains, settings)
        save(fit, store.folder)
        if not store.has(key):
            store.write(key, identity, tables(fit), {})
        store.update_manifest(notes=fit.sets.notes())
    runs.finish(store, [key])
    runs.write_report(store)
    told: Any = store.manifest.notes.get("warnings", ())
    return Outcome(store, tuple(told))
