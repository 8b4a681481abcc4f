"""`interp align`: fit maps between networks and an algorithm, run every control, give a verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import interp.results as results
from interp.alignment import saved
from interp.alignment.evidence import LEAST_SEEDS, Evidence, Waiver
from interp.alignment.families import build, parsed
from interp.alignment.fitting import BUDGETS, Budget
from interp.alignment.maps import AlignmentMap
from interp.alignment.verdicts import verdict
from interp.errors import InputError, StoreError, nearest
from interp.jobs import runs
from interp.jobs.align_cells import Bench, Fit, World, fit_one, row_of
from interp.jobs.align_guards import Case, choose, gather
from interp.jobs.align_words import guard_rows
from interp.jobs.align_worlds import Classifiers, world

INCOMPLETE = "NO VERDICT"
"""Where nothing speaks against a finding and a guard is lacking."""
TRIED = 256
"""Inputs on which maps are built before anything is fitted."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of `interp align`."""

    task: str
    algorithm: str | None = None
    rivals: tuple[str, ...] | None = None
    maps: tuple[str, ...] = ("orthogonal",)
    sites: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    budget: str = "smoke"
    updates: int | None = None
    nets: int = 5
    folder: Path | None = None
    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    solved_only: bool = False
    twins_everywhere: bool = False
    waive_rival: str | None = None

    def __post_init__(self) -> None:
        for name in ("maps", "rivals", "sites", "sizes"):
            given = getattr(self, name)
            if given is not None and (not given or len(set(given)) < len(given)):
                words = " ".join(map(str, given)) or "nothing"
                raise InputError(f"--{name} {words}: name at least one, and each once.")
        for family in self.maps:
            parsed(family)
        if self.budget not in BUDGETS:
            raise InputError(
                f"--budget {self.budget}: there are {', '.join(BUDGETS)}."
                f"{nearest(self.budget, BUDGETS)}"
            )
        if self.updates is not None and self.updates < 1:
            raise InputError(f"--updates {self.updates}: give at least 1.")
        if self.model is not None and not self.model.strip():
            raise InputError("--model is empty: give a name of `interp models`, a folder or an id.")
        if self.nets < 2:
            raise InputError(f"--nets {self.nets}: give at least 2, or there is no interval.")
        self._check_waiver()

    def _check_waiver(self) -> None:
        if self.waive_rival is None:
            return
        if not self.waive_rival.strip():
            raise InputError("--waive-rival '': give the reason in words, for it is printed.")
        if self.rivals is not None:
            raise InputError(
                f"--waive-rival does without rivals and --rivals names {', '.join(self.rivals)}: "
                "leave one of the two out."
            )

    @property
    def spent(self) -> Budget:
        """The budget with what the command line changes."""
        own = BUDGETS[self.budget]
        return own if self.updates is None else replace(own, steps=self.updates)


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    store: results.Store
    verdicts: tuple[dict[str, Any], ...]
    """One row for each map."""


def align(settings: Settings, *, out: Path, console: Console) -> Outcome:
    """Fit, choose on validation pairs, score once, run every guard, judge; write the records."""
    about = world(
        settings.task,
        nets=settings.nets,
        folder=settings.folder,
        model=settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        solved_only=settings.solved_only,
    )
    plan = _Plan.of(settings, about)
    _require_maps(plan, about)
    for said in foreseen(settings.nets, plan):
        console.print(said)
    store = _begin(settings, plan, about, out)
    run = _Run(store, Bench(about, settings.spent), plan, settings)
    with runs.progress(console) as bars:
        task = bars.add_task("fits", total=None)
        for what in run.work():
            bars.update(task, advance=1, description=what)
    runs.finish(store, run.keys)
    runs.write_report(store)
    return Outcome(store, tuple(store.rows("align_verdicts")))


def foreseen(nets: int, plan: _Plan) -> tuple[str, ...]:
    """Return what keeps these settings from FOUND whatever is measured, a sentence each."""
    said = []
    if nets < LEAST_SEEDS:
        said.append(f"With --nets {nets} FOUND cannot be said: it takes {LEAST_SEEDS} or more.")
    if len(plan.maps) * len(plan.sites) * len(plan.sizes) == 1:
        said.append(
            "With one map, site and size FOUND cannot be said, for want of a runner-up: name "
            "several of --maps, --sites or --sizes."
        )
    return tuple(said)


@dataclass(frozen=True)
class _Plan:
    """What is fitted, with every default filled in."""

    algorithm: str
    rivals: tuple[str, ...]
    maps: tuple[str, ...]
    sites: tuple[str, ...]
    sizes: tuple[int, ...]
    map_seeds: tuple[int, ...]

    @classmethod
    def of(cls, settings: Settings, about: World) -> _Plan:
        """Fill defaults in, and refuse what the task does not have, before anything is trained."""
        algorithm = about.algorithms[0] if settings.algorithm is None else settings.algorithm
        own = about.rivals(algorithm)
        rivals = own if settings.rivals is None else settings.rivals
        for name in rivals:
            if name not in own:
                raise InputError(
                    f"--rivals {name}: {algorithm} has the rivals {', '.join(own) or 'none'}: "
                    f"algorithms of the same answers and as many variables.{nearest(name, own)}"
                )
        sites = settings.sites or about.sites
        for site in sites:
            if site not in about.sites:
                raise InputError(
                    f"--sites {site}: {about.name} has the sites {', '.join(about.sites)}."
                    f"{nearest(site, about.sites)}"
                )
        width, n = about.width, len(about.variables(algorithm))
        sizes = settings.sizes or (width // 2 if n <= 2 else width // n,)
        for size in sizes:
            if not 1 <= size <= width // n:
                raise InputError(
                    f"--sizes {size}: {n} variables at a site {width} wide have 1 to {width // n} "
                    "coordinates each."
                )
        waived = () if settings.waive_rival is not None else rivals
        return cls(algorithm, waived, settings.maps, sites, sizes, about.map_seeds)

    def fits(self, nets: Sequence[int]) -> Iterator[Fit]:
        """Every fit of the algorithm to the networks."""
        for net in nets:
            for seed in self.map_seeds:
                for name in self.maps:
                    for site in self.sites:
                        for size in self.sizes:
                            yield Fit(
                                net=net,
                                algorithm=self.algorithm,
                                map=name,
                                site=site,
                                size=size,
                                map_seed=seed,
                            )


def _require_maps(plan: _Plan, about: World) -> None:
    """Build every map for the algorithm and its rivals on a few inputs, so that none fails later.

    Raises:
        InputError: a map that cannot have these variables, or this size.
    """
    for algorithm in (plan.algorithm, *about.rivals(plan.algorithm)):
        table = about.table(algorithm, "train", TRIED)
        states = torch.randn(len(table), about.width, generator=torch.Generator().manual_seed(0))
        for name in plan.maps:
            for size in plan.sizes:
                try:
                    build(
                        name,
                        about.width,
                        table.variables,
                        size,
                        states=states,
                        values=table.values,
                    )
                except InputError as error:
                    raise InputError(f"--maps {name} for {algorithm}: {error}") from error


def _refuse_other(out: Path) -> None:
    """Refuse records of something else before a file is made beside them."""
    if (out / "manifest.json").is_file():
        other = results.Store.open(out).manifest.experiment
        if other != "align":
            raise StoreError(
                f"{out} holds records of {other!r}, not of an alignment: pick another folder."
            )


def _begin(settings: Settings, plan: _Plan, about: World, out: Path) -> results.Store:
    _refuse_other(out)
    chosen = {**asdict(settings), **asdict(plan), "budget": asdict(settings.spent)}
    chosen["budget_name"] = settings.budget
    networks = settings.model or (str(settings.folder) if settings.folder else "trained here")
    for name in ("folder", "model", "nets"):
        chosen.pop(name)
    return runs.begin_store(
        out,
        experiment="align",
        settings=chosen,
        model={
            "name": f"{settings.task} networks",
            "path": networks,
            "nets": settings.nets,
            "weights_hash": about.weights,
        },
        data={"task": settings.task},
        seeds=list(plan.map_seeds),
        device="cpu",
    )


class _Run:
    """The work of one run: fits, then the controls where they are needed, then verdicts."""

    def __init__(self, store: results.Store, bench: Bench, plan: _Plan, settings: Settings) -> None:
        self.store, self.bench, self.plan, self.settings = store, bench, plan, settings
        self.keys: list[str] = []
        self._maps: dict[Fit, AlignmentMap] = {}
        self._rows: dict[Fit, Mapping[str, Any]] = {}

    def work(self) -> Iterator[str]:
        """Do what is not done yet, and say what was done."""
        about, plan = self.bench.world, self.plan
        for fit in plan.fits(about.nets):
            self._fit(fit)
            yield f"{fit.map} at {fit.site}"
        for name in plan.maps:
            chosen = self._chosen(name)
            for fit in self._controls(chosen):
                self._fit(fit)
                yield f"controls of {name}"
            self._judge(chosen)
            yield f"verdict on {name}"

    def _chosen(self, name: str) -> Fit:
        first = next(iter(self.plan.fits(self.bench.world.nets)))
        rows = [row for fit, row in self._rows.items() if _own(fit, first) and fit.map == name]
        site, size = choose(rows)
        return replace(first, map=name, site=site, size=size)

    def _controls(self, chosen: Fit) -> Iterator[Fit]:
        """Twins and rivals where the algorithm was chosen, or at every site."""
        about, plan = self.bench.world, self.plan
        every = [fit for fit in plan.fits(about.nets[:1]) if fit.map == chosen.map]
        first = [fit for fit in every if fit.map_seed == chosen.map_seed]
        for fit in first if self.settings.twins_everywhere else [chosen]:
            yield from (replace(fit, kind="twin", net=net) for net in about.twins)
        for rival in plan.rivals:
            for net in about.nets:
                for seed in plan.map_seeds:
                    yield replace(chosen, algorithm=rival, net=net, map_seed=seed)

    def _fit(self, fit: Fit) -> None:
        """Fit one cell, unless it is there."""
        identity = {"align": asdict(fit)}
        key = results.cell_key(identity)
        self.keys.append(key)
        if not self.store.has(key):
            row, phi = row_of(self.bench, fit)
            if fit.kind == "trained" and fit.algorithm == self.plan.algorithm:
                self._keep(fit, phi)
            self.store.write(key, identity, {"align_fits": [row]}, {"seconds": row["cpu_seconds"]})
        self._rows[fit] = self.store.read(key).table("align_fits").to_pylist()[0]

    def _keep(self, fit: Fit, phi: AlignmentMap) -> None:
        self._maps[fit] = phi
        try:
            fingerprint = self.bench.world.fingerprint(fit.net, fit.kind)
            saved.save(phi, self._folder(fit), site=fit.site, model=fingerprint)
        except InputError:  # a family that cannot be saved is fitted again when it is needed
            pass

    def _folder(self, fit: Fit) -> Path:
        return self.store.folder / "maps" / results.cell_key({"align": asdict(fit)})

    def _map_of(self, fit: Fit) -> AlignmentMap:
        if fit not in self._maps:
            self._keep(fit, self._stored(fit) or fit_one(self.bench, fit).map)
        return self._maps[fit]

    def _stored(self, fit: Fit) -> AlignmentMap | None:
        """A map that an earlier start saved; None where it is missing or damaged."""
        fingerprint = self.bench.world.fingerprint(fit.net, fit.kind)
        try:
            return saved.load(self._folder(fit), site=fit.site, model=fingerprint)
        except StoreError:
            return None

    def _judge(self, chosen: Fit) -> None:
        identity = {"align verdict": asdict(chosen)}
        key = results.cell_key(identity)
        self.keys.append(key)
        if self.store.has(key):
            return
        begun = time.process_time()
        evidence = gather(self._case(chosen))
        spent = {"seconds": round(time.process_time() - begun, 2)}
        self.store.write(key, identity, tables_of(evidence, chosen), spent)

    def _case(self, chosen: Fit) -> Case:
        rows, plan = self._rows, self.plan
        here = {f: r for f, r in rows.items() if (f.map, f.site, f.size) == _place(chosen)}
        reason = self.settings.waive_rival
        return Case(
            bench=self.bench,
            chosen=chosen,
            trained=[r for f, r in here.items() if _own(f, chosen)],
            twins=[r for f, r in here.items() if f.kind == "twin"],
            rivals={
                name: [r for f, r in here.items() if f.algorithm == name and f.kind == "trained"]
                for name in plan.rivals
            },
            tried=[r for f, r in rows.items() if _own(f, chosen)],
            planted=self._planted(chosen),
            map_of=self._map_of,
            waiver=None if reason is None else Waiver("every rival", reason),
        )

    def _planted(self, chosen: Fit) -> tuple[str, float, float]:
        """IIA of the same map on a network in which an algorithm is planted.

        Under the same budget; for a language model, whose updates are dear, under all of the one
        that its own was cut from.
        """
        about = self.bench.world
        own = isinstance(about, Classifiers)
        there = about if own else self._vectors
        algorithm = chosen.algorithm if own else "and_or_and"
        bench = self.bench if own else Bench(there, BUDGETS[self.settings.budget])
        net, site = there.plant(algorithm)
        size = there.width // len(there.variables(algorithm))
        fit = replace(chosen, net=net, kind="planted", algorithm=algorithm, site=site, size=size)
        wrong = replace(fit, algorithm=there.rivals(algorithm)[0])
        right, other = (row_of(bench, each)[0]["iia"] for each in (fit, wrong))
        return f"a network for {there.name} with {algorithm} planted at layer {site}", right, other

    @cached_property
    def _vectors(self) -> Classifiers:
        """Networks for the positive control of a language model: one is planted for all maps."""
        return Classifiers("distributive", 1)


def _own(fit: Fit, like: Fit) -> bool:
    """Whether a fit is of the tested algorithm to a trained network."""
    return fit.kind == "trained" and fit.algorithm == like.algorithm


def _place(fit: Fit) -> tuple[str, str, int]:
    return fit.map, fit.site, fit.size


def tables_of(evidence: Evidence, chosen: Fit) -> dict[str, list[dict[str, Any]]]:
    """Return a verdict and everything that it rests on as rows."""
    about = {"algorithm": chosen.algorithm, "map": chosen.map, "site": chosen.site}
    about["size"] = chosen.size  # type: ignore[assignment]
    return {
        "align_verdicts": [{**about, **_verdict_row(evidence)}],
        "align_guards": [{**about, **row} for row in guard_rows(evidence)],
        "align_baselines": [{**about, **row} for row in _baseline_rows(evidence)],
        "align_curve": [{**about, **asdict(row)} for row in evidence.capacity],
        "align_bits": [
            {**about, "code": name, "bits_per_pair": code.bits_per_pair, "n": code.n}
            for name, code in evidence.description_length.items()
        ],
        "align_controls": [{**about, **row} for row in _control_rows(evidence)],
    }


def _verdict_row(evidence: Evidence) -> dict[str, Any]:
    twin, test = evidence.twin, evidence.test
    row: dict[str, Any] = {
        "iia": test.estimate,
        "iia_low": test.low,
        "iia_high": test.high,
        "n_nets": test.n_units,
        "twin": None if twin is None else twin.test.estimate,
        "baseline": max(each.highest for each in evidence.baselines.values()),
        "task_accuracy": evidence.task_accuracy,
        "train_iia": evidence.train_iia,
        "evidence": _plain(evidence),
    }
    try:
        found = verdict(evidence)
    except InputError as error:
        return {**row, "verdict": INCOMPLETE, "reason": str(error), "claim": "", "notes": ""}
    words = {"verdict": found.word, "reason": found.reason, "claim": found.claim}
    return {**row, **words, "notes": " ".join(found.notes)}


def _plain(evidence: Evidence) -> str | None:
    """The evidence as JSON; None where a number of it is none, which the verdict tells."""
    try:
        return json.dumps(evidence.as_dict())
    except InputError:
        return None


def _baseline_rows(evidence: Evidence) -> Iterable[dict[str, Any]]:
    for name, each in evidence.baselines.items():
        yield {
            "baseline": name,
            "iia": each.split.all,
            "highest": each.highest,
            "iia_sensitive": each.split.sensitive,
            "iia_insensitive": each.split.insensitive,
            "note": each.note,
        }


def _control_rows(evidence: Evidence) -> Iterable[dict[str, Any]]:
    """Every fitted control with its interval."""
    made = dict(evidence.fitted_controls)
    if evidence.twin is not None:
        made["twin"] = evidence.twin
    rival = evidence.rival
    if rival is not None and not isinstance(rival, Waiver):
        made[f"rival {rival.name}"] = rival.fit
    for name, each in made.items():
        test = each.test
        yield {
            "control": name,
            "train_iia": each.train_iia,
            "iia": test.estimate,
            "iia_low": test.low,
            "iia_high": test.high,
        }
