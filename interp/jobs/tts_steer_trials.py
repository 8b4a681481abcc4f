"""The trials of `interp tts steer-test`: which arms run on which items, kept problem by problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from rich.progress import Progress

import interp.results as results
from interp.directions import Direction
from interp.engine.model import Model
from interp.jobs.tts_runs import ScoredRun
from interp.jobs.tts_steer_settings import Settings
from interp.thinking.direction import at_norms
from interp.thinking.rules import Rules
from interp.thinking.scored import ScoredChain
from interp.thinking.steer_arms import Arm, all_arms, direction_arm, no_arm, random_arms
from interp.thinking.steer_items import Item, Items
from interp.thinking.steer_layers import Split, Trial, choose_layer
from interp.thinking.steer_test import steer

Tables = dict[str, list[dict[str, Any]]]
Identity = dict[str, object]


@dataclass(eq=False)
class Job:
    """What all parts of one test share."""

    model: Model
    run: ScoredRun
    store: results.Store
    settings: Settings
    items: Items
    split: Mapping[str, Split]
    directions: list[Direction]
    shuffled: list[list[Direction]]
    bars: Progress
    order: list[str] = field(default_factory=list)

    @property
    def rules(self) -> Rules:
        """How the chains are cut and read."""
        return self.run.rules

    @cached_property
    def select(self) -> list[ScoredChain]:
        """The chains that the direction and the layer may see."""
        return [chain for chain in self.run.chains if self.split.get(chain.id) != "test"]

    def trials(
        self, what: str, items: Sequence[Item], arms: Sequence[Arm], **options: Any
    ) -> list[Trial]:
        """Run items under arms, a cell for each problem; what is there already is read."""
        problems: dict[str, list[Item]] = {}
        for item in items:
            problems.setdefault(item.problem, []).append(item)
        layers = options.get("layers")
        task = self.bars.add_task(what, total=len(problems))
        found: list[Trial] = []
        for problem, mine in problems.items():
            identity = {"trials": what, "problem": problem, "layers": layers, **self.identity}
            made = self.cell(
                identity,
                lambda mine=mine: {
                    "steer_trials": [asdict(each) for each in self.steered(mine, arms, **options)]
                },
            )
            found += [_trial(row) for row in made["steer_trials"]]
            self.bars.advance(task)
        self.bars.remove_task(task)
        return found

    def steered(self, items: Sequence[Item], arms: Sequence[Arm], **options: Any) -> list[Trial]:
        """Run items under arms, and keep nothing."""
        return steer(self.model, items, arms, self.rules, exact=self.settings.exact, **options)

    @property
    def identity(self) -> Identity:
        """What every cell depends on."""
        return identity_of(self.store, self.run)

    def cell(self, identity: Identity, make: Callable[[], Tables]) -> Tables:
        """Return the tables of a cell, made now if it is not there."""
        key = results.cell_key(identity)
        self.order.append(key)
        if not self.store.has(key):
            self.store.write(key, identity, {n: rows for n, rows in make().items() if rows}, {})
        return tables_of(self.store, key)


def identity_of(store: results.Store, run: ScoredRun) -> Identity:
    """What every cell of a test depends on."""
    return {"settings": store.manifest.settings_hash, **run.identity}


def tables_of(store: results.Store, key: str) -> Tables:
    """Read the tables of a cell."""
    cell = store.read(key)
    return {name: cell.table(name).to_pylist() for name in cell.about["tables"]}


def main_trials(job: Job) -> list[Trial]:
    """Every arm at every layer, or the random ones at the direction's chosen layer alone."""
    n_random, every = job.settings.sets.random, job.settings.random_layers == "all"
    arms = all_arms(job.model, job.directions, job.shuffled, n_random=n_random if every else 0)
    arms = at_layers([*arms[:-1], *stretched(job), arms[-1]], job.settings.layers)
    if every:
        return job.trials("steering", job.items.all, arms)
    trials = job.trials("steering", job.items.all, arms[:-1])
    twins = [*random_arms(job.model, job.directions, range(n_random))]
    twins.append(no_arm(job.model, job.directions))
    for name in ("engage", "disengage"):
        mine = [t for t in trials if t.test == name and t.arm == "direction"]
        held = [i for i in job.items.all if i.test == name and job.split[i.problem] == "test"]
        if held and any(job.split[trial.problem] == "select" for trial in mine):
            layer = choose_layer(mine, job.split)
            trials += job.trials(f"random, {name}", held, twins, layers=[layer])
    return trials


def stretched(job: Job) -> list[Arm]:
    """The shuffled directions at the lengths of the direction: arms of their own.

    A shuffle leaves a part of the direction, of either sign, in what it gives, and little else
    where the sets lie far apart: stretched, some are the direction itself.
    """
    return [
        direction_arm(job.model, at_norms(each, job.directions), "shuffled_stretched", twin=place)
        for place, each in enumerate(job.shuffled)
    ]


def at_layers(arms: Sequence[Arm], layers: Sequence[int]) -> list[Arm]:
    """The arms at some layers alone; all of their own where none is named.

    An arm that has none of the layers is left out: without edits it would mean a text without the
    step.
    """
    found = []
    for arm in arms:
        edits = {at: edit for at, edit in arm.edits.items() if not layers or at in layers}
        if edits or not arm.edits:
            found.append(replace(arm, edits=edits))
    return found


def _trial(row: Mapping[str, Any]) -> Trial:
    known: dict[str, Any] = {each.name: row.get(each.name) for each in fields(Trial)}
    return Trial(**known)
