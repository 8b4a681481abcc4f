"""The fits of an alignment: one cell is one map fitted to one network under one condition.

A random twin in the network's place and a rival in the algorithm's are conditions of a `Fit`, not
other code: a control and what it controls differ in one field of it and in nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from interp.alignment import exactness, families
from interp.alignment.baselines import interval
from interp.alignment.capacity import Side, Trial
from interp.alignment.fitting import Budget, Fitted, Scores, fit, fresh, score
from interp.alignment.greedy import greedy
from interp.alignment.language import score_among
from interp.alignment.maps import AlignmentMap
from interp.alignment.subjects import Cut, Subject
from interp.data.counterfactuals import Pairs, Table

Kind = Literal["trained", "twin", "planted"]
Split = Literal["train", "validation", "test", "unseen"]
SEEDS = {"train": 1, "validation": 2, "test": 3, "unseen": 4}
"""Seeds of the tables and of the pairs of each split."""
SEARCHED = 6400
"""Validation pairs on which the greedy search chooses neurons."""
CHECKED = 2048
"""Pairs and states on which doing nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What one fit is: the network, the algorithm, the map and where it acts."""

    net: int
    """Seed of the network."""
    kind: Kind = "trained"
    """The network; its random twin, of the same shape; or one with a planted algorithm."""
    algorithm: str
    map: str
    """Family of the map, such as orthogonal or revnet-10x16."""
    site: str
    size: int
    """Coordinates of each variable."""
    map_seed: int = 0
    """Of the map's start and of the order of pairs."""


@runtime_checkable
class World(Protocol):
    """A task and its networks: what `interp align` needs to know of them."""

    name: str
    sites: tuple[str, ...]
    width: int
    """Of the sites."""
    algorithms: tuple[str, ...]
    nets: tuple[int, ...]
    twins: tuple[int, ...]
    map_seeds: tuple[int, ...]
    simple: tuple[str, ...]
    """Families on the capacity curve beside the one that is tested."""
    unseen: str | None
    """What the split of unseen identities holds out; None where there is no such split."""
    alike: str
    """Why there is none."""

    @property
    def inputs(self) -> str:
        """The test inputs in words."""
        ...

    @property
    def weights(self) -> str | None:
        """A hash of all trained networks; None where they are only trained when first used."""
        ...

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """Algorithms of the same behaviour and other variables."""
        ...

    def variables(self, algorithm: str) -> tuple[str, ...]:
        """The inner variables of an algorithm."""
        ...

    def table(self, algorithm: str, split: Split, n: int) -> Table:
        """Inputs of a split, with an algorithm's variables; the splits share no input."""
        ...

    def candidates(self, table: Table) -> Int[Tensor, "input choice"] | None:
        """The answers of each input between which a restricted score decides; None without one."""
        ...

    def subject(self, net: int, kind: Kind, site: str) -> Subject:
        """A frozen network at a site."""
        ...

    def accuracy(self, net: int, kind: Kind, algorithm: str) -> float:
        """The share of test inputs that a network answers as the algorithm does."""
        ...

    def fingerprint(self, net: int, kind: Kind) -> str:
        """A hash of the network's weights."""
        ...


class Bench:
    """Tables, cuts and pairs of a task's splits, each made once however many fits use it."""

    def __init__(self, world: World, budget: Budget) -> None:
        self.world, self.budget = world, budget
        self.table = lru_cache(maxsize=16)(self._table)
        self.cut = lru_cache(maxsize=8)(self._cut)
        self.pairs = lru_cache(maxsize=16)(self._pairs)

    def of(self, what: Fit, split: Split) -> tuple[Cut, Pairs]:
        """The network at the site on a split, and the pairs of that split."""
        cut = self.cut(what.net, what.kind, what.site, what.algorithm, split)
        return cut, self.pairs(what.algorithm, split)

    def start(self, what: Fit) -> AlignmentMap:
        """The map of a fit, before fitting; neurons are searched for on validation pairs."""
        table, (cut, _) = self.table(what.algorithm, "train"), self.of(what, "train")
        if what.map == "identity":
            there, pairs = self.of(what, "validation")
            return greedy(there, pairs[:SEARCHED], what.size).map
        return families.build(
            what.map,
            cut.d,
            table.variables,
            what.size,
            seed=what.map_seed,
            states=cut.states,
            values=table.values,
        )

    def trial(self, what: Fit) -> Trial:
        """The three splits of a fit, for controls that draw their own pairs from them."""
        sides = []
        for split in ("train", "validation", "test"):
            cut, pairs = self.of(what, split)
            sides.append(Side(cut, self.table(what.algorithm, split), pairs))
        return Trial(*sides)

    def _table(self, algorithm: str, split: Split) -> Table:
        n = self.budget.inputs if split == "train" else 3 * self.budget.held_out
        return self.world.table(algorithm, split, n)

    def _cut(self, net: int, kind: Kind, site: str, algorithm: str, split: Split) -> Cut:
        return self.world.subject(net, kind, site).cut(self.table(algorithm, split).inputs)

    def _pairs(self, algorithm: str, split: Split) -> Pairs:
        most = max(self.budget.held_out, LIMITED) if split == "train" else self.budget.held_out
        return self.table(algorithm, split).pairs(most, SEEDS[split])


LIMITED = 10_000
"""Training pairs of controls that are fitted to a fixed set."""


def fit_one(bench: Bench, what: Fit) -> Fitted:
    """Fit the map of one cell on fresh pairs."""
    seed = SEEDS["train"] + len(SEEDS) * what.map_seed
    feed = fresh(bench.table(what.algorithm, "train").pairs, bench.budget.batch, seed)
    cut, _ = bench.of(what, "train")
    return fit(cut, bench.start(what), feed, bench.budget, validation=bench.of(what, "validation"))


def row_of(bench: Bench, what: Fit) -> tuple[dict[str, Any], AlignmentMap]:
    """Fit one cell and score it once on test pairs: the row of a record, and the map."""
    begun = time.process_time()
    made = fit_one(bench, what)
    validation = _score(bench, what, made.map, "validation")
    row = {
        **asdict(what),
        "train_iia": made.train_iia,
        "validation_iia": validation.iia,
        "validation_loss": float(validation.loss.double().mean()),
        **scored(_score(bench, what, made.map, "test")),
        **_unseen(bench, what, made.map),
        **_restricted(bench, what, made.map),
        "task_accuracy": bench.world.accuracy(what.net, what.kind, what.algorithm),
        **_exact(bench, what, made.map),
        "n_parameters": made.map.n_parameters,
        "updates": made.steps,
        "stopped": made.stopped,
        "cpu_seconds": round(time.process_time() - begun, 2),
    }
    return row, made.map


def scored(found: Scores) -> dict[str, Any]:
    """IIA with its interval over bases, and apart over pairs that the intervention does and does
    not change."""
    sensitive, spread = found.pairs.sensitive, interval(found, n_boot=500)
    return {
        "iia": spread.estimate,
        "iia_low": spread.low,
        "iia_high": spread.high,
        "iia_sensitive": found.iia_of(sensitive),
        "iia_insensitive": found.iia_of(~sensitive),
        "n_pairs": len(found.pairs),
        "n_sensitive": int(sensitive.sum()),
    }


def _score(bench: Bench, what: Fit, phi: AlignmentMap, split: Split) -> Scores:
    cut, pairs = bench.of(what, split)
    return score(cut, phi, pairs)


def _unseen(bench: Bench, what: Fit, phi: AlignmentMap) -> dict[str, Any]:
    """IIA on identities that no training pair has, where the task has such a split."""
    if bench.world.unseen is None:
        return {}
    found = scored(_score(bench, what, phi, "unseen"))
    return {f"unseen_{name}": found[name] for name in ("iia", "iia_low", "iia_high")}


def _restricted(bench: Bench, what: Fit, phi: AlignmentMap) -> dict[str, Any]:
    """IIA where only answers of the base's own may be chosen, as others report it: it flatters.

    None for an algorithm whose answers may be none of these, such as another sentence's name.

    Source: Sutter et al. 2025, arXiv:2507.08802, section on IOI.
    """
    found: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("test",) if bench.world.unseen is None else ("test", "unseen")
    for split in splits:
        among = bench.world.candidates(bench.table(what.algorithm, split))
        if among is not None:
            name = "restricted_iia" if split == "test" else "unseen_restricted_iia"
            cut, pairs = bench.of(what, split)
            known = bool((among[pairs.base] == pairs.labels[:, None]).any(1).all())
            found[name] = score_among(cut, phi, pairs, among).iia if known else None
    return found


def _exact(bench: Bench, what: Fit, phi: AlignmentMap) -> dict[str, Any]:
    """What a swap with itself changes, and what is lost by mapping there and back."""
    cut, pairs = bench.of(what, "test")
    nothing = exactness.noop_error(cut, phi, pairs[:CHECKED])
    inverse = exactness.inverse_error(phi, cut.states[:CHECKED])
    return {
        "noop": nothing.logit,
        "noop_limit": nothing.limit,
        "noop_flipped": nothing.flipped,
        "inverse": inverse.run,
        "inverse_limit": inverse.limit,
        "inverse_float64": inverse.double,
    }
