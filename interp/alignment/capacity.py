"""Controls that are fitted: what the same map and budget reach where there is nothing to find.

shuffled labels   y* permuted among pairs that interchange the same variables: how much the map can
                  memorise (train IIA), and what of it holds on true labels (test IIA)
shuffled sources  each pair has another's sources and its own label
relabelled        every input keeps one arbitrary value of each variable, a control task: a rule
                  that can be memorised and not generalised
twin              the same map on a network of the same shape that was never trained
rival             the same map for another algorithm, and which of the two the first map obeys
capacity          all families, trained and twin, on growing numbers of pairs

Labels without a rule are fitted best where the network is least sure, half-way between base and
source, and there its answer may still lean to the truth: test IIA of a shuffled control can lie
somewhat above the constant answer. A verdict compares it with the score, not with that floor.

Source: Hewitt and Liang 2019, arXiv:1909.03368 (control tasks); Sutter et al. 2025,
arXiv:2507.08802 (twins, capacity).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from interp.alignment.baselines import interval
from interp.alignment.fitting import Budget, Feed, Fitted, Scores, fit, fixed, fresh, score
from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut, Subject
from interp.data.counterfactuals import Pairs, Table
from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap

LIMITED = 10_000
"""Training pairs of a control with a fixed set."""

SIZES: tuple[int | None, ...] = (1_000, 10_000, 100_000, None)
"""Numbers of training pairs on the capacity curve; None is fresh pairs at every update."""

CLOSE = 0.02
"""The smallest size within so much of the best is chosen."""


@dataclass(frozen=True, eq=False)
class Side:
    """One split: a network cut at the site on a table's inputs, and pairs of them."""

    cut: Cut
    table: Table
    pairs: Pairs


@dataclass(frozen=True, eq=False)
class Trial:
    """A network at a site, with an algorithm, on three splits that share no input."""

    train: Side
    validation: Side
    test: Side


@dataclass(frozen=True)
class Control:
    """What a control reached."""

    name: str
    train_iia: float
    """Mean over networks, on all the labels that it was fitted to where they are a fixed set."""
    test: Interval
    """IIA on test pairs, over redrawn bases (and networks, where there are several)."""
    seeds: tuple[float, ...]
    """Test IIA of each network."""
    n_pairs: int | None
    """Training pairs; None for fresh ones at each update."""


@dataclass(frozen=True)
class Obeyed:
    """Which algorithm a network follows under a map, on pairs that tell the two apart."""

    n: int
    mine: Interval
    """Share that gives the first algorithm's answer."""
    theirs: Interval
    """Share that gives the rival's. With two possible answers the two shares add up to 1."""


@dataclass(frozen=True)
class Rival:
    """The control by a rival algorithm: one of the same behaviour and other inner variables."""

    name: str
    obeyed: Obeyed
    """Of the map that was fitted for the algorithm under test."""
    fit: Control
    """A map of the same family and budget, fitted and scored for the rival."""


@dataclass(frozen=True)
class CapacityRow:
    """One point of the capacity curve."""

    family: str
    net: str
    n_pairs: int | None
    train_iia: float
    test_iia: float
    n_parameters: int
    steps: int


Key = tuple[str, str, int | None]
"""Family, network and number of pairs: what identifies a row."""


def trial(
    subject: Subject,
    tables: tuple[Table, Table, Table],
    *,
    n_train: int = LIMITED,
    n: int = LIMITED,
    seed: int = 0,
) -> Trial:
    """Cut a network on a train, a validation and a test table, and draw pairs of each.

    Raises:
        InputError: the tables interchange different variables.
    """
    if len({table.variables for table in tables}) > 1:
        raise InputError(
            "The three tables interchange "
            f"{' and '.join(', '.join(table.variables) for table in tables)}: use one algorithm."
        )
    sizes = (n_train, n, n)
    train, validation, test = (
        Side(subject.cut(table.inputs), table, table.pairs(size, seed + i))
        for i, (table, size) in enumerate(zip(tables, sizes, strict=True))
    )
    return Trial(train, validation, test)


def fitted_on(
    given: Trial, start: AlignmentMap, feed: Feed, budget: Budget, *, own: Pairs | None = None
) -> Fitted:
    """Fit a map for a trial: kept at its best on validation pairs, or on its `own` training set.

    A control of memorising keeps what fits its own labels best, for no other label confirms it.
    """
    held = (given.validation.cut, given.validation.pairs) if own is None else (given.train.cut, own)
    return fit(given.train.cut, start, feed, budget, validation=held)


def fixed_set(
    given: Trial, start: AlignmentMap, budget: Budget, *, n: int, seed: int = 0
) -> Control:
    """Fit to n pairs with their true labels; a map that memorises them fails on test pairs.

    Returns train IIA on those pairs and test IIA.
    """
    pairs = _limited(given.train.pairs, n)
    return _memorised("fixed set", given, start, budget, pairs, given.test.pairs, seed)


def shuffled_labels(
    given: Trial, start: AlignmentMap, budget: Budget, *, n: int = LIMITED, seed: int = 0
) -> Control:
    """Fit to a fixed set whose labels are permuted within each kind of intervention.

    Returns train IIA on the permuted labels and test IIA on true ones.
    """
    pairs = _limited(given.train.pairs, n).shuffled(seed)
    return _memorised("shuffled labels", given, start, budget, pairs, given.test.pairs, seed)


def shuffled_sources(
    given: Trial, start: AlignmentMap, budget: Budget, *, n: int = LIMITED, seed: int = 0
) -> Control:
    """Fit to a fixed set whose sources are permuted; labels stay.

    Returns train IIA on those pairs and test IIA on true ones.
    """
    pairs = _limited(given.train.pairs, n).shuffled_sources(seed)
    return _memorised("shuffled sources", given, start, budget, pairs, given.test.pairs, seed)


def relabelled(
    given: Trial, start: AlignmentMap, budget: Budget, *, n: int = LIMITED, seed: int = 0
) -> Control:
    """Fit to a control task: the algorithm on arbitrary values, the same for an input each time.

    Returns train IIA and test IIA, both for the control task; test inputs are others, so their
    arbitrary values cannot be known.
    """
    train = _retold(given.train.table, _limited(given.train.pairs, n), seed)
    test = _retold(given.test.table, given.test.pairs, seed + 1)
    return _memorised("relabelled", given, start, budget, train, test, seed)


def arbitrary(table: Table, seed: int) -> Table:
    """Return a table whose aligned variables have the values of other inputs, by permutation.

    Sources then give arbitrary values, consistently: an input gives the same one in every pair.
    """
    stream = torch.Generator().manual_seed(seed)
    order = {name: torch.randperm(len(table), generator=stream) for name in table.variables}
    moved = {name: table.values[name][rows] for name, rows in order.items()}
    return replace(table, values={**table.values, **moved})


def twin(trials: Sequence[Trial], start: AlignmentMap, budget: Budget, *, seed: int = 0) -> Control:
    """Fit the map to networks of the same shape that were never trained, one trial each.

    Raises:
        InputError: there is no trial.
    """
    return repeated("twin", trials, start, budget, seed=seed)


def repeated(
    name: str, trials: Sequence[Trial], start: AlignmentMap, budget: Budget, *, seed: int = 0
) -> Control:
    """Fit one map to each of several trials on fresh pairs and return the mean.

    Raises:
        InputError: there is no trial.
    """
    if not trials:
        raise InputError(f"The control {name!r} has no network: give at least one trial.")
    fits = [
        fitted_on(one, start, fresh(one.train.table.pairs, budget.batch, seed + i), budget)
        for i, one in enumerate(trials)
    ]
    scores = [
        score(one.test.cut, found.map, one.test.pairs)
        for one, found in zip(trials, fits, strict=True)
    ]
    return _control(name, [found.train_iia for found in fits], scores, None)


def obeyed(cut: Cut, phi: AlignmentMap, mine: Pairs, theirs: Pairs) -> Obeyed:
    """Return which of two readings of the same interventions a network follows under a map.

    Args:
        cut: the network on the inputs of the pairs.
        phi: the map that was fitted for the first algorithm; block i is variable i of either.
        mine: pairs that tell the algorithms apart, with the first one's labels.
        theirs: the same pairs with the rival's (both from `distinguishing`).

    Raises:
        InputError: the two are not the same interventions, or agree on a label.
    """
    same = len(mine) == len(theirs) and all(
        torch.equal(getattr(mine, part), getattr(theirs, part))
        for part in ("base", "sources", "active")
    )
    if not same or not len(mine) or bool((mine.labels == theirs.labels).any()):
        raise InputError(
            "The pairs must be one set of interventions that two algorithms answer differently: "
            "take both sides from distinguishing()."
        )
    predicted = score(cut, phi, mine).predicted
    bases = mine.base.tolist()
    shares = [
        cluster_bootstrap((predicted == side.labels).double().numpy(), bases, n_boot=1000)
        for side in (mine, theirs)
    ]
    return Obeyed(len(mine), *shares)


def capacity(
    maps: Mapping[str, AlignmentMap],
    nets: Mapping[str, Trial],
    budget: Budget,
    *,
    sizes: Sequence[int | None] = SIZES,
    done: Collection[Key] = (),
    seed: int = 0,
) -> Iterator[CapacityRow]:
    """Yield one row for each map, network and number of training pairs.

    Rows come as they are made, small sets first, so a caller stores each and resumes by `done`.

    Args:
        maps: where each family starts, the simplest first.
        nets: "trained", "twin" and others, on the same tables.
        budget: of every fit.
        sizes: numbers of training pairs; None for fresh ones at each update.
        done: keys (family, net, number of pairs) that are left out.
        seed: of the order of pairs.

    Raises:
        InputError: a set is larger than the training pairs of a network, before any is fitted.
    """
    for net, given in nets.items():
        for n in sizes:
            if n is not None:
                _limited(given.train.pairs, n, net)
    return _rows(maps, nets, budget, sizes, done, seed)


def smallest_within(iia: Mapping[int, float], *, margin: float = CLOSE) -> int:
    """Return the smallest size whose validation IIA is within a margin of the best.

    >>> smallest_within({1: 0.80, 2: 0.97, 4: 0.98, 8: 0.985})
    2

    Raises:
        InputError: nothing was tried.
    """
    if not iia:
        raise InputError("No size was tried: fit at least one, and score it on validation pairs.")
    top = max(iia.values())
    return min(size for size, value in iia.items() if value >= top - margin)


def _rows(
    maps: Mapping[str, AlignmentMap],
    nets: Mapping[str, Trial],
    budget: Budget,
    sizes: Sequence[int | None],
    done: Collection[Key],
    seed: int,
) -> Iterator[CapacityRow]:
    for n in sizes:
        for family, start in maps.items():
            for net, given in nets.items():
                if (family, net, n) not in done:
                    yield _row(family, start, net, given, budget, n, seed)


def _row(
    family: str,
    start: AlignmentMap,
    net: str,
    given: Trial,
    budget: Budget,
    n: int | None,
    seed: int,
) -> CapacityRow:
    """Train IIA is on the whole set where it is limited, so that memorising shows."""
    if n is None:
        found = fitted_on(given, start, fresh(given.train.table.pairs, budget.batch, seed), budget)
        train = found.train_iia
    else:
        pairs = _limited(given.train.pairs, n)
        found = fitted_on(given, start, fixed(pairs, budget.batch, seed), budget)
        train = score(given.train.cut, found.map, pairs).iia
    test = score(given.test.cut, found.map, given.test.pairs).iia
    return CapacityRow(family, net, n, train, test, start.n_parameters, found.steps)


def _memorised(
    name: str,
    given: Trial,
    start: AlignmentMap,
    budget: Budget,
    train: Pairs,
    test: Pairs,
    seed: int,
) -> Control:
    found = fitted_on(given, start, fixed(train, budget.batch, seed), budget, own=train)
    reached = score(given.train.cut, found.map, train).iia
    return _control(name, [reached], [score(given.test.cut, found.map, test)], len(train))


def _control(name: str, train: Sequence[float], scores: Sequence[Scores], n: int | None) -> Control:
    each = tuple(run.iia for run in scores)
    return Control(name, sum(train) / len(train), interval(scores), each, n)


def _retold(table: Table, pairs: Pairs, seed: int) -> Pairs:
    return arbitrary(table, seed).label(pairs.base, pairs.sources, pairs.active)


def _limited(pairs: Pairs, n: int, net: str = "the network") -> Pairs:
    if not 1 <= n <= len(pairs):
        raise InputError(
            f"{n} training pairs are asked for and the trial of {net} holds {len(pairs)}: ask for "
            "1 to that many, or draw more in trial(n_train=...)."
        )
    return pairs[:n]
