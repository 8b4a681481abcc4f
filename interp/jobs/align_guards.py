"""From fits to evidence: the thirteen guards of one algorithm under one map, gathered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from interp.alignment import capacity as controls
from interp.alignment.baselines import Baseline, baselines, best
from interp.alignment.baselines import Split as Classes
from interp.alignment.capacity import CapacityRow, Control, Obeyed, Rival
from interp.alignment.description_length import DescriptionLength, description_length, refit
from interp.alignment.divergence import Divergence, divergence, edited_states
from interp.alignment.evidence import (
    Evidence,
    Exactness,
    HeldOut,
    NotApplicable,
    PositiveControl,
    RunnerUp,
    Selection,
    Share,
    Waiver,
)
from interp.alignment.exactness import InverseError, NoOp
from interp.alignment.fitting import Budget
from interp.alignment.greedy import greedy
from interp.alignment.maps import AlignmentMap, Subspace
from interp.alignment.null_space import MOST_RANK, NullSpace, null_space
from interp.data.counterfactuals import distinguishing, require_apart
from interp.errors import InputError
from interp.jobs.align_cells import LIMITED, SEARCHED, SEEDS, Bench, Fit, Split
from interp.stats import Interval, pooled

Row = Mapping[str, Any]
"""A row of the records, by its columns."""
CURVE_SIZES = (1000, LIMITED)
"""Training pairs on the capacity curve; the whole budget stands beside them in the fits."""
CONTROL_SHARE = 4
"""Controls on a limited set have the budget's updates divided by this."""
TOLD_APART = 2000
"""Pairs on which an algorithm and its rival disagree."""


@dataclass(frozen=True, eq=False)
class Case:
    """What one verdict is about, and the fits that it rests on."""

    bench: Bench
    chosen: Fit
    """The algorithm, map, site and size; its network is the first."""
    trained: Sequence[Row]
    """Fits of the algorithm to each network, with the chosen site and size."""
    twins: Sequence[Row]
    rivals: Mapping[str, Sequence[Row]]
    """Fits of each rival algorithm to the networks."""
    tried: Sequence[Row]
    """All fits of the algorithm to networks: every site, size and map."""
    planted: tuple[str, float, float]
    """Name of a network with a planted algorithm, IIA for that and for another."""
    map_of: Callable[[Fit], AlignmentMap]
    """The map that a fit made."""
    waiver: Waiver | None = None

    @property
    def nets(self) -> list[Fit]:
        """The fits of the algorithm, one for each network or map seed."""
        return [fit_of(row) for row in self.trained]

    @property
    def limited(self) -> Budget:
        """The budget of controls on a limited set of pairs."""
        budget = self.bench.budget
        return replace(budget, steps=max(1, budget.steps // CONTROL_SHARE))


def fit_of(row: Row) -> Fit:
    """Return what a row of the records fitted."""
    return Fit(**{name: row[name] for name in Fit.__dataclass_fields__})


def gather(case: Case) -> Evidence:
    """Run every guard that the fits do not answer, and put all of them together."""
    chosen, trained = case.chosen, case.trained
    given = _baselines(case, "test")
    rival = _rival(case)
    return Evidence(
        algorithm=chosen.algorithm,
        map=chosen.map,
        site=f"layer {chosen.site}" if chosen.site.isdigit() else chosen.site,
        inputs=case.bench.world.inputs,
        test=pooled(trained, "iia"),
        task_accuracy=fmean(row["task_accuracy"] for row in trained),
        splits_apart=splits_apart(case.bench, chosen.algorithm),
        train_iia=fmean(row["train_iia"] for row in trained),
        classes=_classes(trained, rival),
        twin=_control("twin", case.twins),
        rival=rival,
        fitted_controls=_fitted_controls(case),
        held_out=_held_out(case),
        capacity=tuple(_curve(case)),
        description_length=_lengths(case),
        baselines=given,
        null_space=_null_space(case),
        divergence=_divergence(case),
        exactness=_exactness(trained),
        seeds=tuple(row["iia"] for row in trained),
        selection=Selection(len(_choices(case.tried, chosen.map)), "validation"),
        runner_up=runner_up(case.tried, chosen),
        positive_control=PositiveControl(*case.planted),
    )


def splits_apart(bench: Bench, algorithm: str) -> bool:
    """Whether no test or validation input is one of training."""
    tables = [bench.table(algorithm, split) for split in ("train", "validation", "test")]
    try:
        for other in tables[1:]:
            require_apart(tables[0], other)
        require_apart(tables[1], tables[2])
    except InputError:
        return False
    return True


def runner_up(tried: Sequence[Row], chosen: Fit) -> RunnerUp | None:
    """The next best site, size or map on validation pairs; None where nothing else was tried."""
    means = {}
    for row in tried:
        means.setdefault((row["map"], row["site"], row["size"]), []).append(row["validation_iia"])
    own = (chosen.map, chosen.site, chosen.size)
    mine = fmean(means.pop(own))
    if not means:
        return None
    name = max(means, key=lambda key: fmean(means[key]))
    return RunnerUp(f"{name[0]} at {name[1]}, size {name[2]}", fmean(means[name]), mine)


def choose(rows: Sequence[Row]) -> tuple[str, int]:
    """Return the site and size of one map by validation IIA, averaged over networks.

    The best site, and there the smallest size within .02 of the best.
    """
    means = _choices(rows, rows[0]["map"])
    site = max(means, key=lambda key: means[key])[0]
    return site, controls.smallest_within({k[1]: v for k, v in means.items() if k[0] == site})


def _choices(rows: Iterable[Row], name: str) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["map"] == name:
            found.setdefault((row["site"], row["size"]), []).append(row["validation_iia"])
    return {key: fmean(values) for key, values in found.items()}


def _control(name: str, rows: Sequence[Row]) -> Control | None:
    """A control from its fits: None where there is none."""
    if not rows:
        return None
    train = fmean(row["train_iia"] for row in rows)
    return Control(name, train, pooled(rows, "iia"), tuple(row["iia"] for row in rows), None)


def _classes(rows: Sequence[Row], rival: Rival | Waiver | None) -> dict[str, Share]:
    found = {}
    for name in ("sensitive", "insensitive"):
        n = sum(row["n_sensitive"] for row in rows)
        if name == "insensitive":
            n = sum(row["n_pairs"] for row in rows) - n
        values = [row[f"iia_{name}"] for row in rows if row[f"iia_{name}"] is not None]
        found[name] = Share(fmean(values) if values else None, n)
    if isinstance(rival, Rival):
        found["distinguishing"] = Share(rival.obeyed.mine.estimate, rival.obeyed.n)
    return found


def _rival(case: Case) -> Rival | Waiver | None:
    """The hardest rival: the one whose own fit does best."""
    if case.waiver is not None:
        return case.waiver
    fits = {name: _control(name, rows) for name, rows in case.rivals.items()}
    made = {name: each for name, each in fits.items() if each is not None}
    if not made:
        return None
    name = max(made, key=lambda rival: made[rival].test.estimate)
    return Rival(name, _obeyed(case, name), made[name])


def _obeyed(case: Case, rival: str) -> Obeyed:
    """Which algorithm each network follows under its map, pooled over networks."""
    bench, algorithm = case.bench, case.chosen.algorithm
    tables = [bench.table(name, "test") for name in (algorithm, rival)]
    n = min(TOLD_APART, bench.budget.held_out)
    mine, theirs = distinguishing(tables[0], tables[1], n, SEEDS["test"])
    found = [
        controls.obeyed(bench.of(fit, "test")[0], case.map_of(fit), mine, theirs)
        for fit in case.nets
    ]
    sides = [
        pooled([_as_row(getattr(each, side)) for each in found], "share")
        for side in ("mine", "theirs")
    ]
    return Obeyed(found[0].n * len(found), *sides)


def _as_row(found: Interval) -> Row:
    return {"share": found.estimate, "share_low": found.low, "share_high": found.high}


def _fitted_controls(case: Case) -> dict[str, Control]:
    """The control tasks; neurons, which are searched for and not fitted, are searched for anew."""
    trial, start = case.bench.trial(case.chosen), case.bench.start(case.chosen)
    train, n = trial.train, min(LIMITED, len(trial.train.pairs))
    few = train.pairs[:SEARCHED]
    again = controls.arbitrary(train.table, 0).label(few.base, few.sources, few.active)
    makers = {
        controls.shuffled_labels: few.shuffled(0),
        controls.shuffled_sources: few.shuffled_sources(0),
        controls.relabelled: again,
    }
    made = []
    for make, pairs in makers.items():
        searched = case.chosen.map == "identity"
        first = greedy(train.cut, pairs, case.chosen.size).map if searched else start
        made.append(make(trial, first, case.limited, n=n))
    return {each.name: each for each in made}


def _curve(case: Case) -> Iterable[CapacityRow]:
    """Small sets of pairs under less of the budget, for the network and its twin.

    Each starts from maps of its own: neurons, for one, are searched for in the network itself.
    """
    bench, chosen = case.bench, case.chosen
    twin = replace(chosen, kind="twin", net=bench.world.twins[0])
    for net, fit in (("trained", chosen), ("twin", twin)):
        names = dict.fromkeys((*bench.world.simple, chosen.map))
        maps = {name: bench.start(replace(fit, map=name)) for name in names}
        trial = bench.trial(fit)
        most = min(CURVE_SIZES[-1], len(trial.train.pairs))
        sizes = [*(n for n in CURVE_SIZES if n < most), most]  # the last, or all that there are
        yield from controls.capacity(maps, {net: trial}, case.limited, sizes=sizes)


def _lengths(case: Case) -> dict[str, DescriptionLength]:
    """Bits to send the labels: of the network, its twin, and the first rival."""
    chosen, world = case.chosen, case.bench.world
    which = {
        "network": chosen,
        "twin": replace(chosen, kind="twin", net=world.twins[0]),
    }
    if case.rivals:
        which["rival"] = replace(chosen, algorithm=next(iter(case.rivals)))
    found = {}
    for name, fit in which.items():
        (cut, pairs), held = case.bench.of(fit, "train"), case.bench.of(fit, "validation")
        again = refit(cut, case.bench.start(fit), case.limited, validation=held)
        found[name] = description_length(cut, pairs[:LIMITED], again, validation=held)
    return found


def _baselines(case: Case, split: Split) -> dict[str, Baseline]:
    """Every baseline on each network's pairs, averaged over networks."""
    found = []
    for fit in {fit.net: fit for fit in case.nets}.values():
        cut, pairs = case.bench.of(fit, split)
        there, _ = case.bench.of(fit, "train")
        sizes = {name: max(1, len(block)) for name, block in case.map_of(fit).blocks.items()}
        train = (there, case.bench.table(fit.algorithm, "train"))
        found.append(baselines(cut, pairs, sizes, train=train))
    return {name: _mean_of([each[name] for each in found]) for name in found[0]}


def _mean_of(found: Sequence[Baseline]) -> Baseline:
    def mean(name: str) -> float | None:
        values = [getattr(each.split, name) for each in found]
        there = [value for value in values if value is not None]
        return fmean(there) if there else None

    counts = {n: sum(getattr(f.split, n) for f in found) for n in ("n_sensitive", "n_insensitive")}
    every = mean("all")
    assert every is not None
    split = Classes(every, mean("sensitive"), mean("insensitive"), **counts)
    draws = tuple(fmean(values) for values in zip(*(each.draws for each in found), strict=True))
    return Baseline(found[0].name, split, draws, found[0].note)


def _held_out(case: Case) -> HeldOut | NotApplicable:
    where = case.bench.world.unseen
    if where is None:
        return NotApplicable(case.bench.world.alike)
    top = best(_baselines(case, "unseen").values()).highest
    name = "unseen_iia"
    return HeldOut(where, pooled(case.trained, name), top, pooled(case.twins, name))


def _null_space(case: Case) -> NullSpace | NotApplicable:
    phi = case.map_of(case.chosen)
    if not isinstance(phi, Subspace):
        return NotApplicable(f"the {case.chosen.map} map has no directions in the space of states")
    rank = max(len(block) for block in phi.blocks.values())
    if rank > MOST_RANK:
        return NotApplicable(
            f"a variable has {rank} dimensions, and beyond {MOST_RANK} a subspace reaches every "
            "direction that is read"
        )
    cut, pairs = case.bench.of(case.chosen, "test")
    return null_space(cut, phi, pairs)


def _divergence(case: Case) -> Divergence:
    cut, pairs = case.bench.of(case.chosen, "test")
    there, _ = case.bench.of(case.chosen, "train")
    edited = edited_states(cut, case.map_of(case.chosen), pairs)
    return divergence(edited, cut.states[pairs.base.unique()], there.states)


def _exactness(rows: Sequence[Row]) -> Exactness:
    """The worst over networks; one that is not a number is the worst of all."""

    def worst(name: str) -> float:
        values = [float(row[name]) for row in rows]
        return math.nan if any(map(math.isnan, values)) else max(values)

    limit, inverse_limit = (
        min(row[name] for row in rows) for name in ("noop_limit", "inverse_limit")
    )
    noop = NoOp(worst("noop"), int(worst("noop_flipped")), limit)
    return Exactness(noop, InverseError(worst("inverse"), worst("inverse_float64"), inverse_limit))
