"""Dose curves: what a direction does, beside what it breaks, beside what random directions do.

`study` gives each direction in each dose to some prompts and reports, for each dose,

    effect      the measure under the dose less the measure without, prompt by prompt
    damage      the rise of the negative log-likelihood of neutral text, in nats a token: the log of
                the ratio of perplexities under the same edit
    unparsable  the share of answers that the user's predicate refuses, less the share without

and the same for random directions of equal norm at the same site. They are always computed: no dose
is made without them. `margin` is the effect less the mean effect of the random twins, paired by
prompt. Site and dose are chosen by the smaller of effect and margin on one half of the prompts and
of the neutral text, and reported on the other half against twins drawn anew. A dose of 0 is run at
every site and gives exactly 0.

Source: Turner et al. 2023, arXiv:2308.10248 (adding a direction, and what it costs in perplexity);
Rimsky et al. 2023, arXiv:2312.06681 (doses of a difference of means); Tan et al. 2024,
arXiv:2407.12404 (effects must hold on prompts that the choice has not seen).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.directions import Direction, Mode
from interp.edits import Edit
from interp.engine.model import Model
from interp.engine.receipts import Receipt
from interp.errors import InputError, PositionError, UndefinedEffectError
from interp.models.tokens import Inputs
from interp.models.weights import weights_hash
from interp.sites import Each, New, Site, parse_positions
from interp.stats import Interval, paired_difference

Split = Literal["choose", "report"]
Metric = Callable[[Float[Tensor, "n d_vocab"], Int[Tensor, " n"]], Float[Tensor, " n"]]

FEWEST_TWINS = 3
"""Random directions beside each dose, at least; with n of them no rank is below 1 / (n + 1)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """What a dose is for: a measure of the next token or of the text written. Larger is wanted.

    Raises:
        InputError: not exactly one of metric and score is given, or max_new_tokens is below 1.
    """

    metric: Metric | None = None
    """Takes the logits after each prompt and each prompt's place in the list; see
    `interp.metrics`."""
    score: Callable[[str, int], float] | None = None
    """Takes the text that was written after a prompt, and the prompt's place in the list."""
    parses: Callable[[str], bool] | None = None
    """Whether a text that was written is an answer at all."""
    max_new_tokens: int = 16
    """How much is written where `score` or `parses` reads it."""

    def __post_init__(self) -> None:
        if (self.metric is None) == (self.score is None):
            raise InputError(
                "A Measure needs metric (of logits) or score (of written text), one of the two."
            )
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens}: write at least 1.")

    @property
    def writes(self) -> bool:
        """Whether text must be written to measure."""
        return self.score is not None or self.parses is not None


@dataclass(frozen=True, eq=False)
class Outcome:
    """One evaluation under one dose, or under none."""

    values: Float[Tensor, " prompt"]
    """The measure of each prompt."""
    unparsable: Float[Tensor, " prompt"] | None
    """1 for each prompt whose text is no answer; None without a predicate."""
    nll: Float[Tensor, " text"]
    """The mean negative log-likelihood of each neutral text, in nats a token."""
    change: float
    """L2 norm of all that the edits of the measure changed."""


@dataclass(frozen=True)
class Twin:
    """What one random direction did in the same dose."""

    seed: int
    effect: float
    damage: float
    unparsable: float | None


@dataclass(frozen=True)
class Dose:
    """One direction in one dose on one split, with what it did, what it broke, and its controls."""

    direction: int
    """The place in the list of directions."""
    site: str
    method: str
    norm: float
    coefficient: float
    split: Split
    effect: Interval
    """Over prompts, in the measure's own unit."""
    damage: Interval
    """Over neutral texts, in nats a token."""
    perplexity: float
    """Of the neutral text under the dose: exp of the mean over texts of nats a token."""
    base_perplexity: float
    unparsable: float | None
    """Share of answers that do not parse, less `base_unparsable`; None without a predicate."""
    base_unparsable: float | None
    margin: Interval
    """The effect less the mean effect of the twins, paired by prompt."""
    twins: tuple[Twin, ...]
    change: float
    """L2 norm of what the edit changed: the proof that it acted."""

    @property
    def rank(self) -> float:
        """Share of all directions, itself included, whose effect is at least as large."""
        as_large = sum(twin.effect >= self.effect.estimate for twin in self.twins)
        return (1 + as_large) / (1 + len(self.twins))

    @property
    def merit(self) -> float:
        """What a dose is chosen by: the smaller of effect and margin."""
        return min(self.effect.estimate, self.margin.estimate)

    def records(self) -> list[dict[str, Any]]:
        """Return flat rows: the direction's own first, then one for each random twin."""
        place = {key: getattr(self, key) for key in ("direction", "site", "coefficient", "split")}
        own = place | {"method": self.method, "seed": None, "norm": self.norm}
        for name in ("effect", "damage", "margin"):
            interval = getattr(self, name)
            own |= {name: interval.estimate, f"{name}_low": interval.low}
            own |= {f"{name}_high": interval.high, f"{name}_n": interval.n_units}
        for name in ("unparsable", "base_unparsable", "perplexity", "base_perplexity", "change"):
            own[name] = getattr(self, name)
        own["rank"] = self.rank
        blank = dict.fromkeys(own)
        twins = [
            blank | place | {"method": "random", "norm": self.norm} | vars(twin)
            for twin in self.twins
        ]
        return [own, *twins]


@dataclass(frozen=True)
class Study:
    """A dose curve on one split, the dose chosen there, and what it does on the other."""

    curve: tuple[Dose, ...]
    """Every direction in every dose, on the split that chooses."""
    chosen: Dose | None
    """The best dose whose damage is allowed (see `choose`); None where none is."""
    held_out: tuple[Dose, ...]
    """The chosen direction in every dose, on the other split."""
    noop_effect: float
    """The largest effect of a dose of 0 on any prompt: exactly 0, or the engine is not exact."""
    noop_damage: float
    """The largest damage of a dose of 0 to any neutral text."""
    settings: dict[str, Any]
    """Seed, splits, positions, mode and hashes: what it takes to make this again."""

    @property
    def result(self) -> Dose:
        """The chosen dose on the held-out split.

        Raises:
            UndefinedEffectError: no dose was allowed.
        """
        if self.chosen is None:
            least = min(dose.damage.estimate for dose in self.curve)
            raise UndefinedEffectError(
                f"No dose stays within max_damage={self.settings['max_damage']} nats a token (the "
                f"least damage is {least:.3g}): allow more, or add smaller coefficients."
            )
        return next(d for d in self.held_out if d.coefficient == self.chosen.coefficient)

    def records(self) -> list[dict[str, Any]]:
        """Return flat rows of the curve and of the held-out doses, random twins included."""
        return [row for dose in (*self.curve, *self.held_out) for row in dose.records()]


@dataclass(frozen=True)
class Half:
    """The places of the prompts and neutral texts that choose, or of those that report."""

    name: Split
    prompts: list[int]
    texts: list[int]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Bench:
    """A model, everything that a dose is measured on, and the doses."""

    model: Model
    prompts: list[tuple[int, ...]]
    problems: Sequence[Hashable]
    neutral: list[tuple[int, ...]]
    measure: Measure
    coefficients: tuple[float, ...]
    positions: Any
    neutral_positions: Any
    mode: Mode
    n_random: int
    seed: int
    batch_size: int
    n_boot: int

    def outcome(self, half: Half, dose: Callable[..., Edit] | None = None) -> Outcome:
        """Measure one half; `dose` makes the edit at the positions that it is given."""
        edits = [] if dose is None else [dose(positions=self.positions)]
        on_text = [] if dose is None else [dose(positions=self.neutral_positions)]
        values, refused, change = [], [], 0.0
        for part in _parts(half.prompts, self.batch_size):
            found, bad, moved = self._measured(part, edits)
            values += found
            refused += bad
            change += moved**2
        nll = [v for part in _parts(half.texts, self.batch_size) for v in self._nll(part, on_text)]
        wrong = _floats(refused) if self.measure.parses else None
        return Outcome(_floats(values), wrong, _floats(nll), change**0.5)

    def _measured(
        self, rows: Sequence[int], edits: list[Edit]
    ) -> tuple[list[float], list[float], float]:
        """The measure and the refusal of each prompt, and the norm of the change."""
        measure, ids = self.measure, [self.prompts[row] for row in rows]
        texts: Sequence[str] = ()
        values: list[float] = []
        change = 0.0
        if measure.writes:
            wrote = self.model.generate(ids, max_new_tokens=measure.max_new_tokens, edits=edits)
            texts, change = wrote.texts, _moved(wrote.receipt)
        if measure.metric is not None:
            run = self.model.run(ids, edits=edits, logits="last")
            places = torch.tensor(rows, device=run.logits.device)
            values, change = measure.metric(run.logits, places).tolist(), _moved(run.receipt)
        elif measure.score is not None:
            values = [
                float(measure.score(text, row)) for text, row in zip(texts, rows, strict=True)
            ]
        for row, value in zip(rows, values, strict=True):
            if not math.isfinite(value):
                raise InputError(
                    f"The measure of prompt {row} is {value}: return a finite number for every "
                    "answer, and let parses tell which are none."
                )
        parses = measure.parses
        return values, [float(not parses(text)) for text in texts] if parses else [], change

    def _nll(self, texts: Sequence[int], edits: list[Edit]) -> list[float]:
        ids = [self.neutral[text] for text in texts]
        logits = self.model.run(ids, edits=edits).logits
        chances = [each[: len(row) - 1].double() for each, row in zip(logits, ids, strict=True)]
        return [
            float(torch.nn.functional.cross_entropy(each, torch.tensor(row[1:]).to(each.device)))
            for each, row in zip(chances, ids, strict=True)
        ]


def study(
    model: Model,
    directions: Sequence[Direction],
    prompts: Inputs,
    neutral: Inputs,
    measure: Measure,
    *,
    coefficients: Sequence[float],
    positions: Any = "all",
    neutral_positions: Any = "all",
    mode: Mode = "add",
    n_random: int = 8,
    max_damage: float | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    n_boot: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Choose a direction and a dose on half of the prompts and report it on the other half.

    Args:
        directions: candidates, often one method at every layer (`interp.steering.directions.fit`
            on prompts that are none of these).
        prompts: where the measure is taken.
        neutral: texts whose likelihood shows the damage, of at least two tokens each.
        coefficients: doses other than 0, in units of each direction's norm; for `project` (1,).
        positions: where the prompts are steered.
        neutral_positions: where the neutral texts are; nothing is written there, so name no new
            tokens.
        n_random: random twins of each dose.
        max_damage: the most nats a token that a dose may cost to be chosen; None for any.
        groups: the problem of each prompt: a problem is never split. By default equal prompts are
            one problem.
        seed: of the split, the twins and the intervals.

    Raises:
        InputError: a setting out of range, or too few prompts or texts to split.
        ModelError: a direction of another model.
        SiteError, EditError, PositionError: as in `Model.run`.
    """
    _check_counts(len(directions), n_random, batch_size, max_damage)
    ids = list(model.tokens(prompts).prompt_ids)
    bench = _Bench(
        model=model,
        prompts=ids,
        problems=_problems(ids, groups),
        neutral=list(model.tokens(neutral).prompt_ids),
        measure=measure,
        coefficients=_doses(directions, coefficients, mode),
        positions=positions,
        neutral_positions=neutral_positions,
        mode=mode,
        n_random=n_random,
        seed=seed,
        batch_size=batch_size,
        n_boot=n_boot,
    )
    _check_texts(bench)
    return _studied(bench, directions, max_damage, progress)


def _studied(
    bench: _Bench,
    directions: Sequence[Direction],
    max_damage: float | None,
    progress: Callable[[int, int], None] | None,
) -> Study:
    """Choose on one half and report on the other."""
    halves = _halves(bench)
    weights = weights_hash(bench.model.hf)
    for direction in directions:
        direction.check(bench.model, weights=weights)
    bench.model.check_sites([Site.parse(direction.site) for direction in directions])
    tell = _teller(progress, len(bench.coefficients) * (len(directions) + 1))
    curve, noops = _curve(bench, halves[0], dict(enumerate(directions)), tell)
    chosen, held_out = choose(curve, max_damage), []
    if chosen is not None:
        best = {chosen.direction: directions[chosen.direction]}
        held_out, more = _curve(bench, halves[1], best, tell)
        noops += more
    effect, damage = (max(each) for each in zip(*noops, strict=True))
    settings = _settings(bench, halves, directions, weights) | {"max_damage": max_damage}
    return Study(tuple(curve), chosen, tuple(held_out), effect, damage, settings)


def choose(doses: Iterable[Dose], max_damage: float | None = None) -> Dose | None:
    """Return the dose with the largest merit among those whose damage is allowed.

    The merit is the smaller of effect and margin: a dose must raise the measure, and by more than
    random directions do. (Where every large change lowers the measure, one that lowers it least
    has a margin and no effect.) Of equal merits the smaller dose is taken; None where no dose is
    allowed.
    """
    limit = math.inf if max_damage is None else max_damage
    allowed = [dose for dose in doses if dose.damage.estimate <= limit]
    return max(allowed, key=lambda d: (d.merit, -abs(d.coefficient)), default=None)


def split(problems: Sequence[Hashable], seed: int, what: str) -> tuple[list[int], list[int]]:
    """Return the places that choose and those that report; a problem is on one side only.

    >>> split(["a", "b", "a", "c"], 0, "prompts")
    ([0, 2], [1, 3])

    Raises:
        InputError: there is but one problem.
    """
    units = list(dict.fromkeys(problems))
    if len(units) < 2:
        raise InputError(
            f"{len(units)} different {what} cannot be split into a half that chooses and a half "
            "that reports: give at least 2."
        )
    random.Random(f"{seed}/{what}").shuffle(units)
    first = set(units[: len(units) // 2])
    sides = [place for place, unit in enumerate(problems) if unit in first]
    return sides, [place for place, unit in enumerate(problems) if unit not in first]


def _curve(
    bench: _Bench, half: Half, candidates: dict[int, Direction], tell: Callable[[], None]
) -> tuple[list[Dose], list[tuple[float, float]]]:
    """Every dose of some directions on one half, and the no-op of each."""
    doses, noops, base = [], [], None
    for i, direction in candidates.items():
        # The no-op comes before the plain run, so what an edit refuses is refused before any run.
        noop = bench.outcome(half, partial(direction.edit, 0.0))
        base = base or bench.outcome(half)
        noops.append((_largest(noop.values, base.values), _largest(noop.nll, base.nll)))
        seeds = [_stream(bench.seed, half.name, i, j) for j in range(bench.n_random)]
        family = [direction, *map(direction.twin, seeds)]
        place = {"direction": i, "site": direction.site, "method": direction.method}
        for coefficient in bench.coefficients:
            place |= {"norm": direction.norm, "coefficient": coefficient, "split": half.name}
            found = [
                bench.outcome(half, partial(each.edit, coefficient, mode=bench.mode))
                for each in family
            ]
            doses.append(_dose(bench, half, place, base, found, seeds))
            tell()
    return doses, noops


def _dose(
    bench: _Bench,
    half: Half,
    place: dict[str, Any],
    base: Outcome,
    found: list[Outcome],
    seeds: list[int],
) -> Dose:
    """Compare the outcomes of a direction (the first) and of its twins with none."""
    own, *others = found
    settings: dict[str, Any] = {"n_boot": bench.n_boot, "seed": bench.seed}
    problems = [bench.problems[row] for row in half.prompts]
    texts = [bench.neutral[text] for text in half.texts]
    twin_values = torch.stack([other.values for other in others]).mean(0)
    return Dose(
        **place,
        effect=paired_difference(own.values, base.values, problems, **settings),
        damage=paired_difference(own.nll, base.nll, texts, **settings),
        perplexity=math.exp(float(own.nll.mean())),
        base_perplexity=math.exp(float(base.nll.mean())),
        unparsable=_more_unparsable(own, base),
        base_unparsable=None if base.unparsable is None else float(base.unparsable.mean()),
        margin=paired_difference(own.values, twin_values, problems, **settings),
        twins=tuple(_twin(seed, other, base) for seed, other in zip(seeds, others, strict=True)),
        change=own.change,
    )


def _twin(seed: int, other: Outcome, base: Outcome) -> Twin:
    effect = float((other.values - base.values).mean())
    damage = float((other.nll - base.nll).mean())
    return Twin(seed, effect, damage, _more_unparsable(other, base))


def _more_unparsable(outcome: Outcome, base: Outcome) -> float | None:
    if outcome.unparsable is None or base.unparsable is None:
        return None
    return float(outcome.unparsable.mean() - base.unparsable.mean())


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _halves(bench: _Bench) -> tuple[Half, Half]:
    first, second = split(bench.problems, bench.seed, "prompts")
    texts, other_texts = split(bench.neutral, bench.seed, "neutral texts")
    return Half("choose", first, texts), Half("report", second, other_texts)


def _settings(
    bench: _Bench, halves: tuple[Half, Half], directions: Sequence[Direction], weights: str
) -> dict[str, Any]:
    """What it takes to make a study again, in plain values."""
    names = ("mode", "n_random", "seed", "batch_size", "n_boot")
    found = {name: getattr(bench, name) for name in names}
    found |= {"model": bench.model.name, "weights": weights}
    found |= {"coefficients": list(bench.coefficients)}
    found |= {name: repr(getattr(bench, name)) for name in ("positions", "neutral_positions")}
    for half in halves:
        found |= {f"{half.name}_prompts": half.prompts, f"{half.name}_texts": half.texts}
    data = json.dumps([bench.prompts, bench.neutral])
    found["data"] = hashlib.sha256(data.encode()).hexdigest()[:32]
    found["directions"] = [direction.manifest() for direction in directions]
    return found


def _check_counts(
    n_directions: int, n_random: int, batch_size: int, max_damage: float | None
) -> None:
    if n_directions < 1:
        raise InputError("There is no direction to study: give at least one.")
    if n_random < FEWEST_TWINS:
        raise InputError(
            f"n_random={n_random}: a dose stands beside at least {FEWEST_TWINS} random directions."
        )
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: run at least 1 prompt at a time.")
    if max_damage is not None and not max_damage >= 0:
        raise InputError(f"max_damage={max_damage}: give nats a token from 0, or None for any.")


def _check_positions(name: str, positions: Any, shortest: int, new: int) -> None:
    """Refuse positions that a prompt of `shortest` tokens and `new` new ones has not."""
    at = parse_positions(positions)
    if isinstance(at, Each):
        raise InputError(f"{name}={at!r}: a study splits the prompts, so give one for all.")
    if not new and (at == "new" or isinstance(at, New)):
        raise InputError(
            f"{name}={at!r}: nothing new is read there, so no token has this position; "
            "give 'all', 'last' or token indices."
        )
    if isinstance(at, tuple) and max(at) >= shortest + new:
        raise PositionError(
            f"{name}={at!r}: the shortest text has {shortest + new} tokens that the model sees; "
            "name earlier ones, or 'last'."
        )


def _check_texts(bench: _Bench) -> None:
    """Refuse neutral texts without a prediction, and positions that some text has not."""
    short = [place for place, text in enumerate(bench.neutral) if len(text) < 2]
    if short:
        raise InputError(
            f"Neutral text {short[0]} is one token long, so nothing in it is predicted: give at "
            "least two."
        )
    new = 0 if bench.measure.metric is not None else bench.measure.max_new_tokens - 1
    _check_positions("positions", bench.positions, min(map(len, bench.prompts)), new)
    neutral = min(map(len, bench.neutral))
    _check_positions("neutral_positions", bench.neutral_positions, neutral, 0)


def _doses(
    directions: Sequence[Direction], coefficients: Sequence[float], mode: Mode
) -> tuple[float, ...]:
    """Check the doses by making each edit once."""
    doses = tuple(float(each) for each in coefficients)
    if not doses or len(set(doses)) != len(doses):
        raise InputError(f"coefficients={list(doses)}: give each dose once, and at least one.")
    if mode == "add" and 0.0 in doses:
        raise InputError("coefficients hold 0, which is the no-op and always run: leave it out.")
    for direction in directions:
        for dose in doses:
            direction.edit(dose, mode=mode)
    return doses


def _problems(
    prompts: Sequence[tuple[int, ...]], groups: Sequence[Hashable] | None
) -> Sequence[Hashable]:
    if groups is None:
        return prompts
    if len(groups) != len(prompts):
        raise InputError(
            f"There are {len(prompts)} prompts and {len(groups)} groups: name the problem of each."
        )
    return groups


def _parts(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _floats(values: Sequence[float]) -> Float[Tensor, " n"]:
    return torch.tensor(values, dtype=torch.float64)


def _moved(receipt: Receipt) -> float:
    return math.hypot(*(edit.change for edit in receipt.edits))


def _stream(seed: int, half: Split, direction: int, twin: int) -> int:
    """A seed for each twin that no other twin has, on either half."""
    digest = hashlib.sha256(f"{seed}/{half}/{direction}/{twin}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _teller(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    done = count(1)
    return lambda: progress(next(done), total) if progress else None
