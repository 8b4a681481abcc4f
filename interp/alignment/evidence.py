"""Everything that a verdict rests on: the scores of a map and the thirteen guards, as plain values.

A guard that was not done is None, and `missing` names it. Two guards may be answered without a
number: the null-space test where a map has no direction of low rank, and held-out identities where
a task has none; a rival may be waived by name. Each then carries its reason, which is printed.

Source: the guards are those that the literature asks of interchange interventions: Sutter et al.
2025, arXiv:2507.08802 (random twins, unseen names); Hewitt and Liang 2019, arXiv:1909.03368
(control tasks); Voita and Titov 2020, arXiv:2003.12298 (description length); Huang et al. 2024,
arXiv:2402.17700 (baselines, cause and isolate); Makelov et al. 2023, arXiv:2311.17030 (null space);
Grant et al. 2025, arXiv:2511.04638 (divergence); Meloux et al. 2025, arXiv:2502.20914 (runner-up).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from interp.alignment.baselines import DRAWS, NAMES, RANDOM, Baseline
from interp.alignment.capacity import CapacityRow, Control, Rival
from interp.alignment.description_length import DescriptionLength
from interp.alignment.divergence import Divergence
from interp.alignment.exactness import InverseError, NoOp
from interp.alignment.null_space import NullSpace
from interp.errors import InputError
from interp.stats import Interval

LEAST_SEEDS = 5
"""Networks or map seeds of a score, and untrained twins, at least."""

CLASSES = ("sensitive", "insensitive", "distinguishing")
"""Classes of pairs that are scored apart."""

FITTED_CONTROLS = ("shuffled labels", "shuffled sources", "relabelled")
"""What guard 3 holds."""


@dataclass(frozen=True)
class NotApplicable:
    """Why a guard cannot be done for this map or task."""

    reason: str

    def __post_init__(self) -> None:
        _say(self.reason, "A guard that does not apply")


@dataclass(frozen=True)
class Waiver:
    """A rival algorithm that somebody decided to do without."""

    rival: str
    """Its name, or "none known"."""
    reason: str

    def __post_init__(self) -> None:
        _say(self.rival and self.reason, "A waived rival")


@dataclass(frozen=True)
class Share:
    """IIA over one class of pairs."""

    iia: float | None
    """None where the class is empty."""
    n: int


@dataclass(frozen=True)
class HeldOut:
    """The same map, without a new fit, on identities, templates or values it has not seen."""

    split: str
    """What was held out, such as "unseen names"."""
    test: Interval
    best_baseline: float
    """Of the same pairs."""
    twin: Interval
    """The untrained twins under their maps, on the same split."""


@dataclass(frozen=True)
class Exactness:
    """Both checks of doing nothing, in the type of the run."""

    noop: NoOp
    """A block swapped with itself."""
    inverse: InverseError
    """The map and back, in float64 too."""

    @property
    def holds(self) -> bool:
        """Whether each error is within its limit; one that is not a number is not."""
        return self.noop.holds and self.inverse.holds


@dataclass(frozen=True)
class Selection:
    """How the site, layer and rank were found. The test split is scored once, with the choice."""

    sites_tried: int
    """Sites, positions and ranks that were compared: the best of many is biased upwards."""
    chosen_on: str
    """The split that they were compared on."""


@dataclass(frozen=True)
class RunnerUp:
    """The next best alignment, on validation pairs: how alone the chosen one is."""

    name: str
    validation_iia: float
    chosen_validation_iia: float


@dataclass(frozen=True)
class PositiveControl:
    """The same map and budget on networks whose algorithm is known."""

    name: str
    right: float
    """Test IIA for the planted algorithm."""
    wrong: float
    """Test IIA for another one: a tool that works ranks it lower."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One algorithm, site and map: scores first, then the guards in their order."""

    algorithm: str
    map: str
    site: str
    inputs: str
    """The input distribution of the test pairs, in words."""
    test: Interval
    """Test IIA, over redrawn base inputs and networks."""
    task_accuracy: float
    """Of the network without intervention, on test inputs."""
    least_task_accuracy: float = 0.75
    """A network that does not solve the task has nothing to be aligned to."""
    splits_apart: bool | None = None
    """Whether no test input stands in another split; None if that was not checked."""
    train_iia: float | None = None
    classes: Mapping[str, Share] = field(default_factory=dict)
    """Sensitive, insensitive and distinguishing pairs, each with its number."""

    twin: Control | None = None
    rival: Rival | Waiver | None = None
    fitted_controls: Mapping[str, Control] = field(default_factory=dict)
    held_out: HeldOut | NotApplicable | None = None
    capacity: tuple[CapacityRow, ...] = ()
    description_length: Mapping[str, DescriptionLength] = field(default_factory=dict)
    """Codes of the network, of the twin and of the rival."""
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    null_space: NullSpace | NotApplicable | None = None
    divergence: Divergence | None = None
    exactness: Exactness | None = None
    seeds: tuple[float, ...] = ()
    """Test IIA of each network or map seed."""
    selection: Selection | None = None
    runner_up: RunnerUp | None = None
    positive_control: PositiveControl | None = None

    def __post_init__(self) -> None:
        shares = {"task_accuracy": self.task_accuracy, "test": self.test.estimate}
        if self.train_iia is not None:
            shares["train_iia"] = self.train_iia
        shares |= {f"seeds[{i}]": value for i, value in enumerate(self.seeds)}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}: an accuracy is a share from 0 to 1.")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what was not done is null.

        Raises:
            InputError: a number is not finite, for such a one is no result.
        """
        plain = _plain(asdict(self))
        bits = {name: code.bits_per_pair for name, code in self.description_length.items()}
        guards = {str(i): guard for i, guard in enumerate(GUARDS, start=1)}
        lacking = list(missing(self))
        return {**plain, "bits_per_pair": _plain(bits), "guards": guards, "missing": lacking}


GUARDS = (
    "random twin",
    "wrong algorithm",
    "control task",
    "held-out identities",
    "capacity curve",
    "description length",
    "same-site baselines",
    "null-space test",
    "divergence",
    "inverse error and no-op",
    "seeds and selection",
    "runner-up",
    "positive control",
)
"""The thirteen, in order."""


def missing(evidence: Evidence) -> tuple[str, ...]:
    """Return what a report still needs before it may say that something was found.

    The empty tuple means that train IIA, the classes of pairs, every baseline and all thirteen
    guards are there. Each entry is a phrase: the guard, and what of it is lacking.
    """
    lacking = [
        *(["train IIA"] if evidence.train_iia is None else []),
        *(["the check that splits are apart"] if evidence.splits_apart is None else []),
        *(f"{name} pairs" for name in _classes(evidence) if name not in evidence.classes),
    ]
    for guard, parts in _parts(evidence).items():
        lacking += [f"{guard}: {part}" for part in parts]
    return tuple(lacking)


def _classes(evidence: Evidence) -> tuple[str, ...]:
    """Without a rival no pair tells two algorithms apart."""
    return CLASSES[:2] if isinstance(evidence.rival, Waiver) else CLASSES


def _parts(evidence: Evidence) -> dict[str, list[str]]:
    """What each guard lacks, by its name; those that lack nothing have an empty list."""
    lacks = [
        _twin(evidence.twin),
        _none(evidence.rival, "a rival of the same behaviour, or a waiver by name"),
        [name for name in FITTED_CONTROLS if name not in evidence.fitted_controls],
        _none(evidence.held_out, "a split by identity, template or value"),
        _curve(evidence.capacity),
        [f"the code of the {name}" for name in _codes(evidence)],
        _baselines(evidence.baselines),
        _none(evidence.null_space, "the swap along the read part, or why it does not apply"),
        _none(evidence.divergence, "the distance of edited states to natural ones"),
        _none(evidence.exactness, "the errors of doing nothing"),
        _seeds(evidence),
        _none(evidence.runner_up, "the next best alignment"),
        _none(evidence.positive_control, "a network whose algorithm is known"),
    ]
    return dict(zip(GUARDS, lacks, strict=True))


def _none(given: object, what: str) -> list[str]:
    return [what] if given is None else []


def _twin(given: Control | None) -> list[str]:
    if given is None:
        return ["a network that was never trained"]
    return _enough(len(given.seeds), "untrained networks")


def _enough(n: int, what: str) -> list[str]:
    return [f"{n} {what}, at least {LEAST_SEEDS}"] if n < LEAST_SEEDS else []


def _curve(rows: tuple[CapacityRow, ...]) -> list[str]:
    nets = {row.net for row in rows}
    lacking = [f"rows of the {net} network" for net in ("trained", "twin") if net not in nets]
    for what in ("family", "n_pairs"):
        if rows and len({getattr(row, what) for row in rows}) < 2:
            lacking.append(f"a second {'family' if what == 'family' else 'number of pairs'}")
    return lacking


def _codes(evidence: Evidence) -> list[str]:
    needed = ["network", "twin"]
    if not isinstance(evidence.rival, Waiver):
        needed.append("rival")
    return [name for name in needed if name not in evidence.description_length]


def _baselines(given: Mapping[str, Baseline]) -> list[str]:
    lacking = [name for name in NAMES if name not in given]
    if RANDOM in given and len(given[RANDOM].draws) < DRAWS:
        lacking.append(f"{len(given[RANDOM].draws)} random subspaces, at least {DRAWS}")
    return lacking


def _seeds(evidence: Evidence) -> list[str]:
    lacking = _enough(len(evidence.seeds), "seeds")
    if evidence.selection is None:
        return [*lacking, "how many sites were tried, and on which split"]
    if evidence.selection.chosen_on != "validation":
        lacking.append(f"a choice on validation pairs, not {evidence.selection.chosen_on}")
    return lacking


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"The evidence holds {value}, which is no result: mark it as missing.")
    return value


def _say(given: str, what: str) -> None:
    if not given.strip():
        raise InputError(f"{what} needs its name and reason in words: they are printed.")
