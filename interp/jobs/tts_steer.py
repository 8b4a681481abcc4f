"""`interp tts steer-test`: the engagement and the disengagement test of a scored run.

The direction is fitted on the selection problems, its layer is chosen there, and what is reported
comes from the test problems, which neither has seen. Trials are kept problem by problem, so a run
that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.progress import Progress

import interp.results as results
from interp.directions import Direction, load_all
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs, tts_direction, tts_runs
from interp.jobs.tts_direction import SetSettings
from interp.stats import cluster_bootstrap
from interp.thinking import checks
from interp.thinking.direction import at_norms
from interp.thinking.rules import Rules
from interp.thinking.scored import ScoredChain
from interp.thinking.steer_arms import Arm, all_arms, direction_arm, layer_of, no_arm, random_arms
from interp.thinking.steer_bins import BinDirection, ablate_bins, bin_directions
from interp.thinking.steer_items import Item, Items, make_items
from interp.thinking.steer_layers import Split, Trial, choose_layer, split_problems
from interp.thinking.steer_stats import ArmResult, curve_rows, summarise
from interp.thinking.steer_test import steer

RandomLayers = Literal["all", "chosen"]
Tables = dict[str, list[dict[str, Any]]]
Identity = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of the steering tests."""

    sets: SetSettings = field(default_factory=SetSettings)
    draws: int = 1
    items: int = 200
    items_per_problem: int | None = None
    share: float = 0.5
    layers: tuple[int, ...] = ()
    random_layers: RandomLayers = "all"
    bins: bool = True
    checks: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"--draws {self.draws}: take at least 1 draw of the perturbation.")
        if self.random_layers not in get_args(RandomLayers):
            raise InputError(f"--random-layers {self.random_layers}: write all or chosen.")
        for name in ("items", "items_per_problem"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {value}: keep at least 1 item.")
        if not 0 < self.share < 1:
            raise InputError(
                f"--share {self.share}: the selection problems are a share above 0 and below 1."
            )


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    rows: tuple[dict[str, Any], ...]
    marked: int
    warnings: tuple[str, ...]


@dataclass(eq=False)
class _Job:
    """What all parts of one test share."""

    model: Model
    run: tts_runs.ScoredRun
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
                identity, lambda mine=mine: {"steer_trials": self._steered(mine, arms, options)}
            )
            found += [_trial(row) for row in made["steer_trials"]]
            self.bars.advance(task)
        self.bars.remove_task(task)
        return found

    def _steered(
        self, items: Sequence[Item], arms: Sequence[Arm], options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        trials = steer(self.model, items, arms, self.rules, exact=self.settings.exact, **options)
        return [asdict(trial) for trial in trials]

    @property
    def identity(self) -> Identity:
        """What every cell depends on."""
        return _identity(self.store, self.run)

    def cell(self, identity: Identity, make: Callable[[], Tables]) -> Tables:
        """Return the tables of a cell, made now if it is not there."""
        key = results.cell_key(identity)
        self.order.append(key)
        if not self.store.has(key):
            self.store.write(key, identity, {n: rows for n, rows in make().items() if rows}, {})
        return _tables(self.store, key)


def _identity(store: results.Store, run: tts_runs.ScoredRun) -> Identity:
    return {"settings": store.manifest.settings_hash, **run.identity}


def _tables(store: results.Store, key: str) -> Tables:
    cell = store.read(key)
    return {name: cell.table(name).to_pylist() for name in cell.about["tables"]}


def test(
    folder: Path,
    *,
    model: str | None,
    direction: Path | None,
    out: Path | None,
    settings: Settings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Run both tests with all controls, and write records and the report.

    Args:
        direction: a file of `interp tts direction`; by default one is fitted on the selection
            problems. The problems that a given direction was made from become selection problems.
    """
    run = tts_runs.open_run(folder)
    where = tts_runs.folder_of(run, "steer-test", out)
    require_problems(run, settings, direction)
    loaded = tts_runs.load_model(run, model, dtype=dtype, device=device)
    require_rows(loaded, settings.layers)
    given = None if direction is None else load_all(direction, loaded)
    if given is not None:
        kept(given[0], settings.layers)
        require_fresh({chain.id for chain in run.chains}, problems_of(given[1]))
    about = {**asdict(settings), "direction": direction and results.file_hash(direction)}

    def begin() -> results.Store:
        return tts_runs.begin(run, loaded, "steer-test", where, about)

    before = begin() if (where / "manifest.json").exists() else None
    with runs.progress(console) as bars:
        made = _prepared(loaded, run, before, settings, given, bars)
        job = _begun(loaded, run, before or begin(), settings, made, bars)
        store, trials = job.store, _main_trials(job)
        found = summarise(trials, job.split, seed=settings.sets.seed)
        _write_summary(job, found)
        if settings.bins:
            _bins(job)
        if settings.checks:
            _checks(job)
    runs.finish(store, job.order)
    runs.write_report(store)
    warnings = dict.fromkeys(w for result in found for w in result.warnings)
    told: Any = store.manifest.notes.get("warnings", ())
    rows = tuple(result.row() for result in found)
    return Outcome(store, rows, len(job.items.marked), (*told, *warnings))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What there is before the first trial."""

    items: Items
    split: Mapping[str, Split]
    directions: list[Direction]
    shuffled: list[list[Direction]]
    fit: tts_direction.Fitted | None
    """What the directions come from, where they were fitted just now."""


def _prepared(
    model: Model,
    run: tts_runs.ScoredRun,
    store: results.Store | None,
    settings: Settings,
    given: tuple[list[Direction], dict[str, Any]] | None,
    bars: Progress,
) -> _Prepared:
    """Make the items, split the problems, and fit the direction or take the given one.

    Nothing is written, so what is refused leaves nothing behind; what a run that was begun before
    holds is read.
    """
    items = _read_items(store, run) if store else None
    items = items or _made_items(model, run, settings, bars)
    seen = set() if given is None else problems_of(given[1])
    split = split_without(items.all, seen, settings)
    if given is not None:
        return _Prepared(items, split, kept(given[0], settings.layers), [], None)
    held = tts_direction.read(store.folder, model) if store else None
    fit = None
    if held is None:
        select = [chain for chain in run.chains if split.get(chain.id) != "test"]
        fit = tts_direction.fitted(model, select, settings.sets)
        held = fit.directions, fit.shuffled
    found = kept(held[0], settings.layers)
    there = {each.site for each in found}
    shuffled = [[each for each in twin if each.site in there] for twin in held[1]]
    shuffled = [twin for twin in shuffled if twin]
    return _Prepared(items, split, found, shuffled, fit)


def _begun(
    model: Model,
    run: tts_runs.ScoredRun,
    store: results.Store,
    settings: Settings,
    made: _Prepared,
    bars: Progress,
) -> _Job:
    """Keep what was prepared."""
    if made.fit is not None:
        store.update_manifest(notes=made.fit.sets.notes())
        tts_direction.save(made.fit, store.folder)
    job = _Job(
        model, run, store, settings, made.items, made.split, made.directions, made.shuffled, bars
    )
    marked = [{**mark, "status": "marked"} for mark in made.items.marked]
    texts = [_listed(asdict(item)) for item in made.items.all]
    tables = {"steer_items": made.items.rows(), "steer_texts": texts, "steer_marked": marked}
    job.cell({"items": "all", **job.identity}, lambda: tables)
    return job


def _made_items(model: Model, run: tts_runs.ScoredRun, settings: Settings, bars: Progress) -> Items:
    task = bars.add_task("answers to perturbed steps", total=None)
    items = make_items(
        model,
        run.chains,
        run.rules,
        seeds=tuple(run.store.manifest.seeds[: settings.draws]),
        per_problem=settings.items_per_problem,
        most=settings.items,
        exact=settings.exact,
        progress=lambda done, total: bars.update(task, completed=done, total=total),
    )
    bars.remove_task(task)
    return items


def _read_items(store: results.Store, run: tts_runs.ScoredRun) -> Items | None:
    """The items of a run that was begun before, if it came so far."""
    key = results.cell_key({"items": "all", **_identity(store, run)})
    if not store.has(key):
        return None
    tables = _tables(store, key)
    items = [_item(row) for row in tables["steer_texts"]]
    engage, disengage = (
        tuple(item for item in items if item.test == test) for test in ("engage", "disengage")
    )
    names = ("id", "step", "seed", "reason")
    marked = [{name: row[name] for name in names} for row in tables.get("steer_marked", ())]
    return Items(engage, disengage, tuple(marked))


def require_problems(run: tts_runs.ScoredRun, settings: Settings, direction: Path | None) -> None:
    """Refuse what can have no result, before a model is loaded.

    Raises:
        InputError: fewer than 2 chains, chains that give no direction, or no file of one.
    """
    n = len(run.chains)
    if n < 2:
        raise InputError(
            f"{run.store.folder} holds {n} scored chain, and the layer is chosen on other problems "
            "than it is reported on: score at least 2 problems, better 40."
        )
    if direction is None:
        settings.sets.sets(run.chains)
    elif not direction.is_file():
        raise InputError(
            f"There is no file {direction}: give the direction.safetensors that `interp tts "
            "direction` wrote."
        )


def require_fresh(problems: set[str], seen: set[str]) -> None:
    """Refuse a direction that was made from every problem.

    Raises:
        InputError: none is left to test it on.
    """
    if problems <= seen:
        raise InputError(
            f"The direction was made from all {len(problems)} problems that could have items, so "
            "none is left to test it on: give one of another run, or leave --direction out to have "
            "it fitted on the selection problems."
        )


def require_rows(model: Model, layers: Sequence[int]) -> None:
    """Refuse a layer that the model does not have; the last counts as the final output.

    Raises:
        InputError: a layer below 0 or above the number of blocks, or one named twice.
    """
    last = model.sizes.n_layers
    for layer in layers:
        if not 0 <= layer <= last:
            raise InputError(
                f"--layers {layer}: {model.name} has the inputs of blocks 0 to {last - 1}, and "
                f"{last} for the final output."
            )
    if len(set(layers)) < len(layers):
        raise InputError(f"--layers {' '.join(map(str, layers))}: name each layer once.")


def kept(directions: Sequence[Direction], layers: Sequence[int]) -> list[Direction]:
    """The directions at some layers; all of them where none is named.

    Raises:
        InputError: there is no direction at any of them.
    """
    found = [each for each in directions if not layers or layer_of(each.site) in layers]
    if not found:
        told = " ".join(str(layer_of(each.site)) for each in directions)
        raise InputError(
            f"--layers {' '.join(map(str, layers))}: the direction exists at layers {told} alone; "
            "elsewhere the two sets have one mean."
        )
    return found


def problems_of(notes: Mapping[str, Any]) -> set[str]:
    """The problems that a saved direction was made from, by its notes."""
    return {*notes.get("true_by_problem", {}), *notes.get("decorative_by_problem", {})}


def split_without(items: Sequence[Item], seen: set[str], settings: Settings) -> dict[str, Split]:
    """Split the problems of some items; those that a given direction has seen are never tested.

    Raises:
        InputError: fewer than 2 problems, or the direction has seen all of them.
    """
    fresh = [item for item in items if item.problem not in seen]
    if items:
        require_fresh({item.problem for item in items}, seen)
    if len({item.problem for item in fresh}) == 1 and len(fresh) < len(items):
        dealt: dict[str, Split] = {fresh[0].problem: "test"}
    else:
        dealt = split_problems(fresh, settings.sets.seed, settings.share)
    return {item.problem: "select" for item in items} | dealt  # type: ignore[return-value]


def _main_trials(job: _Job) -> list[Trial]:
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


def stretched(job: _Job) -> list[Arm]:
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


def _write_summary(job: _Job, found: Sequence[ArmResult]) -> None:
    split = [{"id": name, "split": where} for name, where in job.split.items()]
    job.cell(
        {"summary": "steering", **job.identity},
        lambda: {
            "steer_results": [result.row() for result in found],
            "steer_curves": curve_rows(found),
            "steer_split": split,
        },
    )


def _bins(job: _Job) -> None:
    """The ablation by score bin, where there is an engagement test."""
    if not job.items.engage:
        return

    def make() -> Tables:
        about = job.settings.sets
        made = bin_directions(
            job.model,
            job.select,
            decorative_to=about.decorative_to,
            per_problem=about.per_problem,
            most=about.most,
            match=about.match,
            seed=about.seed,
        )
        made = [_at_layers(each, job.settings.layers) for each in made]
        found = ablate_bins(
            job.model, job.items.engage, made, job.rules, job.split, exact=job.settings.exact
        )
        curves = [row for each in found for row in each.curve_rows()]
        return {"steer_bins": [each.row() for each in found], "steer_bin_curves": curves}

    job.cell({"bins": "scores", **job.identity}, make)


def _at_layers(made: BinDirection, layers: Sequence[int]) -> BinDirection:
    some = [each for each in made.directions if not layers or layer_of(each.site) in layers]
    return replace(made, directions=tuple(some))


def _checks(job: _Job) -> None:
    """Self-verification: is a check used, and does the direction make it so?"""

    def make() -> Tables:
        chains, rules, exact = job.run.chains, job.rules, job.settings.exact
        given = {each.id: each.chain.problem.checks for each in chains}
        labels = {name: steps for name, steps in given.items() if steps is not None}
        segments = checks.segments(chains, labels)
        tested = checks.behaviour(job.model, chains, rules, labels=labels, exact=exact)
        items = checks.make_check_items(job.model, chains, rules, tested.tests)
        curves: list[dict[str, Any]] = []
        if items.disengage:
            twins = random_arms(job.model, job.directions, range(job.settings.sets.random))
            arms = [direction_arm(job.model, job.directions), *twins]
            arms = [checks.restoring(arm) for arm in arms]
            trials = steer(job.model, items.disengage, arms, rules, exact=exact)
            curves = restored_by_layer(trials, job.split)
        return {
            "check_segments": [asdict(each) for each in segments],
            "check_tests": [asdict(each) for each in tested.tests],
            "check_restored": curves,
        }

    job.cell({"checks": "self-verification", **job.identity}, make)


def restored_by_layer(trials: Sequence[Trial], split: Mapping[str, Split]) -> list[dict[str, Any]]:
    """The share of the test problems' checks that a vector brings back to y*, by arm and layer.

    Twins are pooled. `chosen` marks the layer that the direction chose on the selection problems. A
    problem that the split does not have may have been fitted on, so it is none of the test's.
    """
    where: dict[str, Split] = {
        trial.problem: split.get(trial.problem, "select") for trial in trials
    }
    main = [trial for trial in trials if trial.arm == "direction"]
    free = any(where[trial.problem] == "select" for trial in main)
    chosen = choose_layer(main, where) if free else None
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        if trial.layer is not None and where[trial.problem] == "test":
            groups.setdefault((trial.arm, trial.layer), []).append(trial)
    return [_restored(*key, mine, chosen) for key, mine in sorted(groups.items())]


def _restored(arm: str, layer: int, trials: Sequence[Trial], chosen: int | None) -> dict[str, Any]:
    problems = [trial.problem for trial in trials]
    share = cluster_bootstrap([float(trial.flipped) for trial in trials], problems)
    return {
        "arm": arm,
        "layer": layer,
        "chosen": layer == chosen,
        "restored": share.estimate,
        "restored_low": share.low,
        "restored_high": share.high,
        "unparsable": sum(trial.unparsable for trial in trials) / len(trials),
        "n_items": len({trial.key for trial in trials}),
        "n_problems": len(set(problems)),
    }


def _trial(row: Mapping[str, Any]) -> Trial:
    known: dict[str, Any] = {each.name: row.get(each.name) for each in fields(Trial)}
    return Trial(**known)


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}


def _item(row: Mapping[str, Any]) -> Item:
    known: dict[str, Any] = {each.name: row.get(each.name) for each in fields(Item)}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Item(**known)
