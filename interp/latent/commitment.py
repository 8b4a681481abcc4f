"""When does a latent thought commit to one of two answers: in what it holds, in what it would say?

Of the problems that noise inside the rollout leads to two answers, two read-outs are compared on
one scale, the calibrated probability that *this* sample ends in its problem's first answer:

read_out  the model's own: close after exactly t steps and force both answers
probe     a linear probe of h_t, trained on other problems

Both are calibrated on the training folds and scored on the held-out one. Bits are the mean of
-log2 p(answer given): 1 where nothing is known of two equal modes, 0 once the answer is settled.

Source: Li et al. 2026, arXiv:2602.08783, section on competing modes, for the question, the rules of
`Rules`, the superposition score SS = min(p_A, p_B), the decision step and the answer flip rate.
The noise inside the rollout, the held-out problems, the calibration and the controls are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, nearest
from interp.latent.effects import in_chunks
from interp.latent.interventions import ROWS
from interp.latent.noise import SAMPLES, Noise, Samples, rolled, sample
from interp.latent.probes import Labelled, ProbeSettings, StepProbe, calibrated, probe_step
from interp.latent.state import Closed, State
from interp.latent.subject import Subject
from interp.stats import Interval, cluster_bootstrap, paired_difference, wilson

THRESHOLDS = (0.4, 0.5)
"""A sample has committed at the first t with |p_A - p_B| of at least so much."""

Labels = Literal["two", "answer"]
"""What the probe tells apart: the two answers of a row's problem, or all answers."""
Source = Literal["read_out", "probe"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which problems have competing modes: those of the paper's code."""

    top_two: float = 0.8
    """Least share of samples that end in one of the two most frequent answers."""
    minority: float = 0.2
    """Least share, of those, of the second; the first then has 1 less this at most."""
    drift: float = 0.02
    """Least mean of 1 - cos(h_t, h_{t+1}): steps that stand still have nothing to commit."""

    def __post_init__(self) -> None:
        for name in ("top_two", "minority", "drift"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}: it is a share from 0 to 1.")


@dataclass(frozen=True)
class Modes:
    """The two answers of a problem, and whether they compete."""

    id: str
    a: str | None
    """The more frequent one."""
    b: str | None
    share_a: float
    """Share of all samples."""
    share_b: float
    drift: float | None
    """Mean 1 - cos(h_t, h_{t+1}) over samples and steps; None for a single step."""
    reason: str | None
    """Why the problem is left out; None where it stays."""


def find_modes(samples: Samples, rules: Rules | None = None) -> tuple[Modes, ...]:
    """The modes of every problem, in order. Samples without an answer count in no mode.

    A problem is also left out where one of its answers is a mode of no other problem: a probe
    trained on the others cannot know it.
    """
    rules = rules or Rules()
    found = [_modes(samples, i, rules) for i in range(len(samples.problems))]
    while True:  # leaving one out may leave another alone
        kept = [mode for mode in found if mode.reason is None]
        met = [answer for mode in kept for answer in (mode.a, mode.b)]
        alone = {mode.id: [x for x in (mode.a, mode.b) if met.count(x) == 1] for mode in kept}
        if not any(alone.values()):
            return tuple(found)
        found = [_alone(mode, alone.get(mode.id, [])) for mode in found]


def _alone(mode: Modes, answers: Sequence[str | None]) -> Modes:
    if not answers:
        return mode
    reason = f"the answer {answers[0]!r}, on which no other problem wavers"
    return Modes(mode.id, mode.a, mode.b, mode.share_a, mode.share_b, mode.drift, reason)


def _modes(samples: Samples, problem: int, rules: Rules) -> Modes:
    shares = {a: share for a, share in samples.shares(problem).items() if a is not None}
    top: list[tuple[str | None, float]] = [*list(shares.items())[:2], (None, 0.0), (None, 0.0)]
    (a, share_a), (b, share_b) = top[:2]
    drift = _drift(samples.vectors[problem])
    both = share_a + share_b
    reason = None
    if b is None:
        reason = "fewer than two answers"
    elif both < rules.top_two - 1e-9:
        reason = f"two answers in {both:.0%} of its samples, below {rules.top_two:.0%}"
    elif share_b / both < rules.minority - 1e-9:
        reason = f"its second answer in {share_b / both:.0%} of those, below {rules.minority:.0%}"
    elif drift is not None and drift < rules.drift:
        reason = f"steps that turn by {drift:.4f}, below {rules.drift:g}"
    return Modes(samples.problems[problem].id, a, b, share_a, share_b, drift, reason)


def _drift(vectors: Float[Tensor, "sample step d_model"]) -> float | None:
    if vectors.shape[1] < 2:
        return None
    wide = vectors.double()
    return float(1 - torch.cosine_similarity(wide[:, 1:], wide[:, :-1], dim=-1).mean())


def read_outs(
    subject: Subject, samples: Samples, modes: Sequence[Modes], *, rows: int = ROWS
) -> Float[Tensor, "problem sample stop 2"]:
    """Log-probability of both answers of each problem that stays, closing after 0..T steps.

    The rollouts are run again: their noise is a function of problem, sample, step and seed. The
    whole target is summed, natural log; what both share cancels in a difference.
    """
    by_id = {mode.id: mode for mode in modes}
    kept = [problem for problem in samples.problems if by_id[problem.id].reason is None]

    def work(part: Sequence[LatentProblem], rows: int) -> list[Tensor]:
        states, _ = rolled(
            subject, part, samples.noise, n_samples=samples.n_samples, seed=samples.seed
        )
        stops = [_both(subject, state, part, by_id, samples.n_samples) for state in states]
        return list(torch.stack(stops, 1).cpu().split(samples.n_samples))

    return torch.stack(in_chunks(kept, work, lanes=samples.n_samples, rows=rows))


@torch.no_grad()
def _both(
    subject: Subject,
    state: State,
    part: Sequence[LatentProblem],
    modes: Mapping[str, Modes],
    n_samples: int,
) -> Float[Tensor, "row 2"]:
    closed: Closed = subject.close(state)
    sums = []
    for name in ("a", "b"):
        asked = [subject.target(getattr(modes[problem.id], name)) for problem in part]
        targets = [target for target in asked for _ in range(n_samples)]
        sums.append(subject.force(closed, targets).of_targets().sum(1))
    return torch.stack(sums, 1)


@dataclass(frozen=True, eq=False)
class Commitment:
    """Both read-outs of every sample that ended in one of its problem's two answers."""

    samples: Samples
    modes: tuple[Modes, ...]
    labels: str
    probes: tuple[StepProbe, ...]
    """One a step: what h_t tells about the answer, with its control."""
    probed: Labelled
    """The rows that probes were fitted on."""
    places: Int[Tensor, "row 2"]
    """Problem (place in `samples`) and sample of each row of the curves."""
    columns: Int[Tensor, "row 2"]
    """Classes of each row's two answers."""
    ended_b: Bool[Tensor, " row"]
    """Whether the sample ended in its problem's second answer."""
    fold: Int[Tensor, " row"]
    read_out: Float[Tensor, "stop row"]
    """p_A by the model's own read-out after 0..T steps; p_B is 1 less this."""
    probe: Float[Tensor, "step row"]
    """p_A by the probe of h_1..h_T."""
    logits: Float[Tensor, "step row"]
    """The probe's calibrated log-odds of A over B."""

    @cached_property
    def ids(self) -> list[str]:
        """Problem of each row."""
        return [self.samples.problems[i].id for i in self.places[:, 0].tolist()]

    @property
    def n_problems(self) -> int:
        """Problems with competing modes."""
        return len(set(self.ids))

    def of(self, source: str) -> dict[int, Float[Tensor, " row"]]:
        """p_A of each row, by t."""
        if source not in get_args(Source):
            raise InputError(f"There is no read-out {source!r}: it is 'read_out' or 'probe'.")
        values, first = (self.read_out, 0) if source == "read_out" else (self.probe, 1)
        return {first + i: row for i, row in enumerate(values)}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each sample, t and read-out: p_a and bits, with what the sample answered."""
        modes = {mode.id: mode for mode in self.modes}
        given = self.samples.answers
        return [
            {
                "id": name,
                "sample": number,
                "seed": self.samples.seed,
                "t": t,
                "source": source,
                "a": modes[name].a,
                "b": modes[name].b,
                "answer": given[problem][number],
                "p_a": float(p),
                "bits": float(bits),
            }
            for source in get_args(Source)
            for t, values in self.of(source).items()
            for name, (problem, number), p, bits in zip(
                self.ids, self.places.tolist(), values, self.bits(values), strict=True
            )
        ]

    def bits(self, p_a: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """-log2 of the probability of the answer that each sample gave."""
        own = torch.where(self.ended_b, 1 - p_a, p_a)
        return -own.clamp(min=torch.finfo(own.dtype).tiny).log2()


def commitment(
    subject: Subject,
    problems: Sequence[LatentProblem],
    noise: Noise | None = None,
    *,
    n_samples: int = SAMPLES,
    seed: int = 0,
    labels: str = "two",
    rules: Rules | None = None,
    probes: ProbeSettings | None = None,
    rows: int = ROWS,
) -> Commitment:
    """Sample problems under noise, keep those with competing modes, and read both sides.

    Raises:
        InputError: noise without any randomness or that cannot act on the subject, an unknown kind
            of labels, or fewer problems with competing modes than folds.
    """
    if noise is not None and noise.silent:
        raise InputError(
            "The noise is silent, so all samples of a problem are one: set sigma, dropout or "
            "temperature above 0."
        )
    _require_labels(labels)
    samples = sample(subject, problems, noise, n_samples=n_samples, seed=seed, rows=rows)
    return commit(subject, samples, labels=labels, rules=rules, probes=probes, rows=rows)


def commit(
    subject: Subject,
    samples: Samples,
    *,
    labels: str = "two",
    rules: Rules | None = None,
    probes: ProbeSettings | None = None,
    rows: int = ROWS,
) -> Commitment:
    """The same for samples that are there already.

    Raises:
        InputError: see `commitment`.
    """
    _require_labels(labels)
    settings, modes = probes or ProbeSettings(), find_modes(samples, rules)
    kept = [i for i, mode in enumerate(modes) if mode.reason is None]
    if len(kept) < settings.folds:
        raise InputError(_too_few(modes, len(kept), settings.folds))
    data, where = labelled(samples, modes, labels)
    fitted = [probe_step(_at(samples, where, t), data, settings) for t in range(samples.n_steps)]
    rows_of = _rows_of_two(data, where, modes)
    places, columns = where[rows_of], _columns(data, modes, where)[rows_of]
    ended_b = data.labels[rows_of] == columns[:, 1]
    fold = fitted[0].fold[rows_of]
    logits = torch.stack([_two_way(probe.logprobs[rows_of], columns) for probe in fitted])
    said = read_outs(subject, samples, modes, rows=rows)
    order = {problem: place for place, problem in enumerate(kept)}
    chosen = said[[order[i] for i in places[:, 0].tolist()], places[:, 1]]
    return Commitment(
        samples=samples,
        modes=modes,
        labels=labels,
        probes=tuple(fitted),
        probed=data,
        places=places,
        columns=columns,
        ended_b=ended_b,
        fold=fold,
        read_out=_calibrated_read_outs(chosen, ended_b, fold),
        probe=logits.sigmoid(),
        logits=logits,
    )


def labelled(
    samples: Samples, modes: Sequence[Modes], labels: str
) -> tuple[Labelled, Int[Tensor, "row 2"]]:
    """The rows to probe, and the problem and sample of each.

    With "two", samples that ended in a third answer are left out, and a row allows its problem's
    two; with "answer", all that ended in any answer stay, and a row allows all.
    """
    kept = [i for i, mode in enumerate(modes) if mode.reason is None]
    pair = {i: (modes[i].a, modes[i].b) for i in kept}
    rows = [
        (i, k, answer)
        for i in kept
        for k, answer in enumerate(samples.answers[i])
        if answer is not None and (labels == "answer" or answer in pair[i])
    ]
    classes = tuple(sorted({answer for _, _, answer in rows}))
    place = {answer: i for i, answer in enumerate(classes)}
    allowed = torch.ones(len(rows), len(classes), dtype=torch.bool)
    if labels == "two":
        mine = [[name in pair[i] for name in classes] for i, _, _ in rows]
        allowed = torch.tensor(mine)
    groups = tuple(samples.problems[i].id for i, _, _ in rows)
    given = torch.tensor([place[answer] for _, _, answer in rows])
    where = torch.tensor([(i, k) for i, k, _ in rows])
    return Labelled(groups, classes, given, allowed), where


def _at(samples: Samples, where: Tensor, step: int) -> Tensor:
    return samples.vectors[where[:, 0], where[:, 1], step]


def _columns(data: Labelled, modes: Sequence[Modes], where: Tensor) -> Tensor:
    place: dict[str | None, int] = {answer: i for i, answer in enumerate(data.classes)}
    return torch.tensor([(place[modes[i].a], place[modes[i].b]) for i in where[:, 0].tolist()])


def _rows_of_two(data: Labelled, where: Tensor, modes: Sequence[Modes]) -> Tensor:
    """Rows that ended in one of their problem's two answers."""
    return (_columns(data, modes, where) == data.labels[:, None]).any(1).nonzero()[:, 0]


def _two_way(logprobs: Tensor, columns: Tensor) -> Tensor:
    """Log-odds of A over B, from log-probabilities over all classes."""
    a, b = logprobs.gather(1, columns).unbind(1)
    return a - b


def _calibrated_read_outs(
    logprobs: Float[Tensor, "row stop 2"], ended_b: Bool[Tensor, " row"], fold: Int[Tensor, " row"]
) -> Float[Tensor, "stop row"]:
    """p_A by the model's two log-probabilities, at a temperature that other folds gave."""
    scores = logprobs.double().permute(1, 0, 2)
    made = torch.zeros(scores.shape[:2], dtype=scores.dtype)
    both = torch.ones(scores.shape[1], 2, dtype=torch.bool)
    for f in range(int(fold.max()) + 1):
        train, rows = fold != f, fold == f
        evidence, given = scores[:, None, train], ended_b.long()[None, train]
        scale, _ = calibrated(evidence, torch.zeros_like(evidence), given, both[train])
        odds = scores[:, rows, 0] - scores[:, rows, 1]
        made[:, rows] = (scale[:, :, 0] * odds).sigmoid()
    return made


def _require_labels(labels: str) -> None:
    if labels not in get_args(Labels):
        raise InputError(
            f"labels={labels!r}: a probe tells apart the 'two' answers of a problem, or every "
            f"'answer'.{nearest(labels, get_args(Labels))}"
        )


def _too_few(modes: Sequence[Modes], kept: int, folds: int) -> str:
    left_out = next((mode for mode in modes if mode.reason is not None), None)
    why = f" {left_out.id!r}, for one, has {left_out.reason}." if left_out else ""
    return (
        f"{kept} of {len(modes)} problems have competing modes, and {folds} folds need as many: "
        f"give more problems, or another level of noise (see `noise_levels`).{why}"
    )


# ---------------------------------------------------------------- summaries


def curve(found: Commitment) -> list[dict[str, Any]]:
    """A row for each read-out and t; values with `_low` and `_high`, intervals by problem.

    bits (H(answer | what is read), held out), accuracy, gap |p_A - p_B|, ss = min(p_A, p_B), and
    the share of samples that have committed by t at each of `THRESHOLDS`.
    """
    made = []
    for source in get_args(Source):
        values = found.of(source)
        for t, p in values.items():
            gap = (2 * p - 1).abs()
            so_far = torch.stack([(2 * q - 1).abs() for s, q in values.items() if s <= t]).amax(0)
            columns = {
                "bits": found.bits(p),
                "accuracy": _right(p, found.ended_b),
                "gap": gap,
                "ss": torch.minimum(p, 1 - p),
                **{f"committed_{x:g}": (so_far >= x).double() for x in THRESHOLDS},
            }
            row: dict[str, Any] = {"source": source, "t": t, "n_problems": found.n_problems}
            for name, numbers in columns.items():
                row |= _named(name, cluster_bootstrap(numbers.numpy(), found.ids))
            made.append(row)
    return made


def _right(p_a: Tensor, ended_b: Tensor) -> Tensor:
    """1 where the likelier answer was given, 0 where not, one half where both are as likely."""
    own = torch.where(ended_b, 1 - p_a, p_a)
    return torch.where(own == 0.5, 0.5, (own > 0.5).double())


def probe_rows(found: Commitment) -> list[dict[str, Any]]:
    """A row a step: bits and accuracy of the probe beside its control and its references.

    `shuffled_bits` is the mean over shuffles within problems; low and high are the least and the
    most of them. `rank` is the share of all, the true labels included, that need as few bits.
    """
    made = []
    for step, probe in enumerate(found.probes, 1):
        bits, right = probe.shuffled_bits, probe.shuffled_accuracy
        fewer = sum(x <= probe.bits.estimate for x in bits)
        row: dict[str, Any] = {"t": step, "labels": found.labels, "n_problems": found.n_problems}
        row |= {"n_rows": len(probe.fold), "n_classes": len(found.probed.classes)}
        row |= _named("bits", probe.bits) | _named("accuracy", probe.accuracy)
        row |= _spanned("shuffled_bits", bits) | _spanned("shuffled_accuracy", right)
        row |= {"base_bits": probe.base_bits, "problem_bits": probe.problem_bits}
        row |= {"n_shuffles": len(bits), "rank": (1 + fewer) / (1 + len(bits))}
        made.append(row)
    return made


def mode_rows(found: Commitment) -> list[dict[str, Any]]:
    """A row a problem: its two answers, their shares, and why it was left out, if it was."""
    return [dict(vars(mode)) for mode in found.modes]


def commitment_steps(
    found: Commitment, threshold: float = 0.5
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """(output, representation): first t at which each sample commits, T + 1 for never.

    The output commits by the model's read-out, the representation by the probe. Both start at
    t = 1; a read-out before any step says nothing of a sample.
    """
    never = found.samples.n_steps + 1
    steps = []
    for values in (found.read_out[1:], found.probe):
        done = (2 * values - 1).abs() >= threshold
        first = torch.where(done.any(0), done.int().argmax(0) + 1, never)
        steps.append(first)
    return steps[0], steps[1]


def step_rows(found: Commitment, thresholds: Iterable[float] = THRESHOLDS) -> list[dict[str, Any]]:
    """A row a threshold: mean commitment steps, never counting as T + 1, and their difference.

    `lead` is output less representation: above 0 where the vectors know before the model says.
    """
    made = []
    for threshold in thresholds:
        output, inside = (x.double() for x in commitment_steps(found, threshold))
        never = found.samples.n_steps + 1
        row: dict[str, Any] = {"threshold": threshold, "n_problems": found.n_problems}
        row |= _named("output_step", cluster_bootstrap(output.numpy(), found.ids))
        row |= _named("representation_step", cluster_bootstrap(inside.numpy(), found.ids))
        row |= _named("lead", paired_difference(output.numpy(), inside.numpy(), found.ids))
        row |= {"output_never": float((output == never).double().mean())}
        row |= {"representation_never": float((inside == never).double().mean())}
        made.append(row)
    return made


def _named(name: str, value: Interval) -> dict[str, float | None]:
    return {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}


def _spanned(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        name: math.fsum(values) / len(values),
        f"{name}_low": min(values),
        f"{name}_high": max(values),
    }


def noise_levels(
    subject: Subject,
    problems: Sequence[LatentProblem],
    levels: Sequence[Noise],
    *,
    n_samples: int = 10,
    seed: int = 0,
    rules: Rules | None = None,
    rows: int = ROWS,
) -> list[dict[str, Any]]:
    """Where to set the noise: a row a level, with the share of problems whose modes compete.

    `correct` and `unparsable` are shares of samples, `waver` the share of problems with more than
    one answer; intervals by problem.
    """
    made = []
    for noise in levels:
        samples = sample(subject, problems, noise, n_samples=n_samples, seed=seed, rows=rows)
        table, n = samples.rows, len(problems)
        ids = [row["id"] for row in table]
        competing = sum(mode.reason is None for mode in find_modes(samples, rules))
        wavers = sum(len(set(given) - {None}) > 1 for given in samples.answers)
        row: dict[str, Any] = {
            "sigma": noise.sigma,
            "dropout": noise.dropout,
            "temperature": noise.temperature,
            "n_problems": n,
            "n_samples": n_samples,
        }
        row |= _named("competing", wilson(competing, n)) | _named("waver", wilson(wavers, n))
        right = [float(row["correct"]) for row in table]
        row |= _named("correct", cluster_bootstrap(right, ids))
        row |= {"unparsable": sum(row["answer"] is None for row in table) / len(table)}
        made.append(row)
    return made
