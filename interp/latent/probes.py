"""What a latent step tells about the answer: linear probes across problems, scored on others.

A probe is a softmax over answers, linear in h_t. A row may allow only some answers, such as the two
that its problem wavers between; the softmax then runs over those. Problems are split into folds,
and everything is fitted on training folds alone: standardisation, weights, the strength of the L2
penalty and the calibration, the last two by inner folds. Labels shuffled within each problem
go through all of it too: what they reach, a probe reaches without knowing what a sample became.

H(answer | h_t) is the cross-entropy of the calibrated probe on held-out problems, in bits. It is an
upper bound, because a better reader may find more. Sources: Alain and Bengio 2016,
arXiv:1610.01644 (linear probes); Xu et al. 2020, arXiv:2002.10689 (usable information); Platt 1999
(calibration on held-out scores); Hewitt and Liang 2019, arXiv:1909.03368 (control labels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap

FOLDS, SHUFFLES = 5, 20
L2 = (1.0, 0.1, 0.01, 0.001)
"""Strengths of the penalty to choose from, on standardised vectors and a mean loss."""
MOST_STEPS, TOLERANCE = 400, 1e-5
"""The solver ends after so many steps, or where no entry of the gradient is above the tolerance."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How probes are fitted and controlled."""

    l2: tuple[float, ...] = L2
    """Penalties l2 / 2 |w|^2 to choose from; the inner folds choose."""
    folds: int = FOLDS
    shuffles: int = SHUFFLES
    seed: int = 0
    """Of the split into folds and of the shuffles."""
    centred: bool = False
    """Whether each problem's own mean vector is taken away first, that of the held-out problems
    too; it uses no label. What is left is what the noise did to each sample."""

    def __post_init__(self) -> None:
        if not self.l2 or not all(math.isfinite(x) and x > 0 for x in self.l2):
            raise InputError(f"l2 is {self.l2}: give one or more numbers above 0, such as {L2}.")
        if self.folds < 3:
            raise InputError(
                f"{self.folds} folds: one is held out and the rest split again to calibrate, so "
                f"give 3 or more, better {FOLDS}."
            )
        if self.shuffles < 1:
            raise InputError(
                f"{self.shuffles} shuffles: a probe has no meaning without its control, so give 1 "
                f"or more, better {SHUFFLES}."
            )


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows to probe: each a sample of a problem that led to an answer."""

    groups: tuple[str, ...]
    """The problem of each row: rows of one stay in one fold."""
    classes: tuple[str, ...]
    labels: Int[Tensor, " row"]
    """Place of each row's answer in `classes`."""
    allowed: Bool[Tensor, "row class"]
    """The answers that a row could have given."""

    def __post_init__(self) -> None:
        if not bool(self.allowed.gather(1, self.labels[:, None]).all()):
            raise InputError("A row's answer is not among those that it allows: allow it.")

    def folds(self, n_folds: int, seed: int) -> Int[Tensor, " row"]:
        """Fold of each row, from a seeded order of the problems.

        Raises:
            InputError: fewer problems than folds.
        """
        names = sorted(set(self.groups))
        if len(names) < n_folds:
            raise InputError(
                f"{len(names)} problems cannot fill {n_folds} folds: give more problems, or ask "
                "for fewer folds."
            )
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
        fold = {names[name]: place % n_folds for place, name in enumerate(order)}
        return torch.tensor([fold[group] for group in self.groups])

    def shuffled(self, times: int, seed: int) -> Int[Tensor, "shuffle row"]:
        """Labels exchanged between the rows of each problem, so its shares stay as they are."""
        stream = torch.Generator().manual_seed(seed)
        made = self.labels.repeat(times, 1)
        for group in sorted(set(self.groups)):
            places = torch.tensor([i for i, g in enumerate(self.groups) if g == group])
            for row in made:
                order = torch.randperm(len(places), generator=stream)
                row[places] = self.labels[places[order]]
        return made


@dataclass(frozen=True, eq=False)
class StepProbe:
    """What the vectors of one step tell about the answer, on problems not trained on."""

    bits: Interval
    """H(answer | h_t): held-out cross-entropy of the calibrated probe; interval by problem."""
    accuracy: Interval
    base_bits: float
    """The same for one who knows the answers' frequencies in the training folds alone."""
    problem_bits: float
    """Entropy of each problem's own shares, mean over rows: what stays open to one who knows the
    problem, and how it is answered, but not the sample."""
    shuffled_bits: tuple[float, ...]
    """`bits` with shuffled labels, one a shuffle."""
    shuffled_accuracy: tuple[float, ...]
    logprobs: Float[Tensor, "row class"]
    """Calibrated and held out, natural log; -inf where a row does not allow the class."""
    fold: Int[Tensor, " row"]
    weight: Float[Tensor, "fold d_model class"]
    """Of the probe that did not see the fold: h_t times this, plus the bias, are calibrated
    logits."""
    bias: Float[Tensor, "fold class"]
    l2: tuple[float, ...]
    """The penalty chosen for each fold."""

    def normal(self, fold: int, a: int, b: int) -> tuple[Float[Tensor, " d_model"], float]:
        """(w, c): h . w + c are the log-odds of class a over class b, for problems of a fold.

        With `centred`, h is the vector less its problem's mean.
        """
        w, c = self.weight[fold], self.bias[fold]
        return w[:, a] - w[:, b], float(c[a] - c[b])


def probe_step(
    vectors: Float[Tensor, "row d_model"], data: Labelled, settings: ProbeSettings | None = None
) -> StepProbe:
    """Probe the vectors of one step.

    Raises:
        InputError: a value that is not finite, or fewer problems than folds.
    """
    settings = settings or ProbeSettings()
    _require_finite(vectors)
    x, fold = vectors.double(), data.folds(settings.folds, settings.seed)
    x = x - _means(x, data.groups) if settings.centred else x
    labels = torch.cat([data.labels[None], data.shuffled(settings.shuffles, settings.seed)])
    heldout = _cross_fit(x, labels, data.allowed, fold, settings)
    bits = -heldout.logprobs.gather(2, labels[..., None])[..., 0] / math.log(2)
    right = (heldout.logprobs.argmax(2) == labels).double()
    return StepProbe(
        bits=cluster_bootstrap(bits[0].numpy(), data.groups),
        accuracy=cluster_bootstrap(right[0].numpy(), data.groups),
        base_bits=_base_bits(data, fold),
        problem_bits=problem_bits(data),
        shuffled_bits=tuple(bits[1:].mean(1).tolist()),
        shuffled_accuracy=tuple(right[1:].mean(1).tolist()),
        logprobs=heldout.logprobs[0],
        fold=fold,
        weight=heldout.weight,
        bias=heldout.bias,
        l2=heldout.l2,
    )


def _means(x: Tensor, groups: Sequence[str]) -> Tensor:
    """The mean of each row's problem."""
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    member = torch.nn.functional.one_hot(torch.tensor([names[g] for g in groups])).to(x)
    return member @ (member.T @ x / member.sum(0)[:, None])


def problem_bits(data: Labelled) -> float:
    """Entropy of each problem's own shares of answers, in bits, mean over rows."""
    total, groups = 0.0, list(data.groups)
    for group in set(groups):
        mine = data.labels[torch.tensor([g == group for g in groups])]
        counts = torch.bincount(mine).double()
        total += float(torch.special.entr(counts / len(mine)).sum()) * len(mine)
    return total / len(groups) / math.log(2)


def _base_bits(data: Labelled, fold: Tensor) -> float:
    """Bits of one who knows how often each answer is given in the other folds; counts plus one."""
    n_classes, lost = len(data.classes), 0.0
    for k in range(int(fold.max()) + 1):
        counts = torch.bincount(data.labels[fold != k], minlength=n_classes).double() + 1
        scores = counts.log().masked_fill(~data.allowed[fold == k], -math.inf)
        picked = scores.log_softmax(1).gather(1, data.labels[fold == k][:, None])
        lost -= float(picked.sum())
    return lost / len(fold) / math.log(2)


@dataclass(frozen=True, eq=False)
class Linear:
    """Probes of several label sets at several penalties, in the raw vectors' coordinates."""

    weight: Float[Tensor, "l2 set d_model class"]
    bias: Float[Tensor, "l2 set class"]
    centre: Float[Tensor, " d_model"]
    """Mean of the training rows, at which the evidence is 0."""

    def evidence(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "l2 set row class"]:
        """What the vectors say, without the base rates."""
        return torch.einsum("nd,lsdc->lsnc", x - self.centre, self.weight)


def fit_probes(
    x: Float[Tensor, "row d_model"],
    labels: Int[Tensor, "set row"],
    allowed: Bool[Tensor, "row class"],
    l2: Sequence[float],
) -> Linear:
    """Fit softmax probes with an L2 penalty, all label sets and penalties at once.

    With z the standardised rows, each minimises mean -log softmax(z W + b)[label] + l2/2 |W|^2 over
    W and b; the softmax runs over the allowed classes. Directions without variance get no weight.

    >>> x, labels = torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([[0, 1]])
    >>> probe = fit_probes(x, labels, torch.ones(2, 2, dtype=torch.bool), [1.0])
    >>> probe.weight[0, 0, 0].tolist()[1] > 0
    True
    """
    centre, spread = x.mean(0), x.std(0, correction=0)
    scale = torch.where(spread > 1e-9 * x.abs().max().clamp(min=1e-30), 1 / spread, 0.0)
    u, s, v = torch.linalg.svd((x - centre) * scale, full_matrices=False)
    kept = s > 1e-9 * s.max().clamp(min=1e-30)
    z, back = u[:, kept] * s[kept], scale[:, None] * v.T[:, kept]
    weights, biases = [], []
    start = torch.zeros(len(labels), z.shape[1] + 1, allowed.shape[1], dtype=x.dtype)
    hot = torch.nn.functional.one_hot(labels, allowed.shape[1]).to(x.dtype)
    for strength in sorted(l2, reverse=True):  # from the easiest problem on
        start = _solve(z, hot, allowed, strength, start)
        weights.append(torch.einsum("dr,src->sdc", back, start[:, :-1]))
        biases.append(start[:, -1])
    order = sorted(range(len(l2)), key=lambda i: -l2[i])
    places = torch.tensor([order.index(i) for i in range(len(l2))])
    return Linear(torch.stack(weights)[places], torch.stack(biases)[places], centre)


def _solve(z: Tensor, hot: Tensor, allowed: Tensor, l2: float, start: Tensor) -> Tensor:
    """Accelerated descent in the coordinates in which the columns of `z` are orthogonal.

    The Hessian of a softmax is at most half the second moments (Böhning 1992), which are diagonal
    here, so each entry has its own safe step. Momentum starts anew where it points uphill
    (O'Donoghue and Candès 2015). Returns `[set rank+1 class]`, the bias last.
    """
    n, sets, classes = len(z), len(hot), allowed.shape[1]
    z = torch.cat([z, torch.ones(n, 1, dtype=z.dtype)], 1)
    penalty = torch.full((z.shape[1], 1), l2, dtype=z.dtype)
    penalty[-1] = 0.0
    step = 1 / (0.5 * z.square().mean(0)[:, None] + penalty)
    w, point, age = start, start, torch.zeros(sets, 1, 1, dtype=z.dtype)
    wall = torch.zeros(allowed.shape, dtype=z.dtype).masked_fill(~allowed, -math.inf)
    for _ in range(MOST_STEPS):
        flat = point.permute(1, 0, 2).reshape(z.shape[1], -1)
        scores = (z @ flat).view(n, sets, classes).permute(1, 0, 2) + wall
        error = (scores.softmax(2) - hot).permute(1, 0, 2).reshape(n, -1)
        gradient = (z.T @ error / n).view(-1, sets, classes).permute(1, 0, 2) + penalty * point
        new = point - step * gradient
        uphill = (gradient * (new - w)).sum((1, 2), keepdim=True) > 0
        age = torch.where(uphill, 0.0, age + 1)
        w, point = new, new + age / (age + 3) * (new - w)
        if float(gradient.abs().max()) < TOLERANCE:
            break
    return w


@dataclass(frozen=True, eq=False)
class _HeldOut:
    logprobs: Float[Tensor, "set row class"]
    weight: Float[Tensor, "fold d_model class"]
    bias: Float[Tensor, "fold class"]
    l2: tuple[float, ...]


def _cross_fit(
    x: Tensor, labels: Tensor, allowed: Tensor, fold: Tensor, settings: ProbeSettings
) -> _HeldOut:
    """Fit without each fold, choose penalty and calibration without it too, then score it."""
    n_folds, (sets, n), classes = settings.folds, labels.shape, allowed.shape[1]
    inner = torch.zeros(n_folds, 2, len(settings.l2), sets, n, classes, dtype=x.dtype)
    for f, g in combinations(range(n_folds), 2):  # one fit scores g for f and f for g
        train = (fold != f) & (fold != g)
        probe = fit_probes(x[train], labels[:, train], allowed[train], settings.l2)
        for out, scored in ((f, g), (g, f)):
            rows = fold == scored
            inner[out, 0][:, :, rows] = probe.evidence(x[rows])
            inner[out, 1][:, :, rows] = probe.bias[:, :, None]
    logprobs = torch.zeros(sets, n, classes, dtype=x.dtype)
    weights, biases, chosen = [], [], []
    for f in range(n_folds):
        train, rows = fold != f, fold == f
        evidence, base = inner[f, 0][:, :, train], inner[f, 1][:, :, train]
        scale, loss = calibrated(evidence, base, labels[:, train], allowed[train])
        probe = fit_probes(x[train], labels[:, train], allowed[train], settings.l2)
        best, every = loss.argmin(0), torch.arange(sets)
        a, c = scale[best, every].unbind(-1)
        weight = probe.weight[best, every] * a[:, None, None]
        bias = probe.bias[best, every] * c[:, None]
        scores = torch.einsum("nd,sdc->snc", x[rows] - probe.centre, weight) + bias[:, None]
        logprobs[:, rows] = scores.masked_fill(~allowed[rows], -math.inf).log_softmax(2)
        weights.append(weight[0])
        biases.append(bias[0] - probe.centre @ weight[0])
        chosen.append(settings.l2[int(best[0])])
    return _HeldOut(logprobs, torch.stack(weights), torch.stack(biases), tuple(chosen))


def calibrated(
    evidence: Float[Tensor, "*many row class"],
    base: Float[Tensor, "*many row class"],
    labels: Int[Tensor, "set row"],
    allowed: Bool[Tensor, "row class"],
) -> tuple[Float[Tensor, "*many 2"], Float[Tensor, "*many"]]:
    """Return (a, c) that make softmax(a evidence + c base) fit labels best, and the mean loss.

    Two numbers: how far to trust the vectors, and how far the base rates. a is not below 0: scores
    of folds left out run against labels that they know nothing of, and must then count nothing.
    A slight penalty keeps a finite where the classes are separable. Newton's method.
    """
    flat_e, flat_b = (part.flatten(0, -3) for part in (evidence, base))
    many = labels.expand(*evidence.shape[:-1]).flatten(0, -2)
    wide = flat_e.masked_fill(~allowed, math.nan)
    unit = (wide - wide.nanmean(2, keepdim=True)).square().nanmean((1, 2)).sqrt()
    unit = torch.where(unit > 1e-12, unit, 1.0)
    features = torch.stack([flat_e / unit[:, None, None], flat_b], -1)
    scale, loss = _newton(features, many, allowed)
    scale = scale / torch.stack([unit, torch.ones_like(unit)], -1)
    return scale.view(*evidence.shape[:-2], 2), loss.view(evidence.shape[:-2])


def _newton(features: Tensor, labels: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a and c, the first not below 0, by Newton steps that are never long."""
    ridge, wanted = 1e-4, torch.tensor([0.0, 1.0], dtype=features.dtype)
    theta = torch.ones(len(features), 2, dtype=features.dtype)
    best, least = theta, torch.full((len(features),), math.inf, dtype=features.dtype)
    own = features.gather(2, labels[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    for _ in range(40):
        scores = (features @ theta[:, None, :, None])[..., 0].masked_fill(~allowed, -math.inf)
        logs = scores.log_softmax(2)
        p = logs.exp()
        loss = -logs.gather(2, labels[..., None])[..., 0].mean(1)
        better = loss + ridge / 2 * (theta - wanted).square().sum(1) < least
        least = torch.where(better, loss + ridge / 2 * (theta - wanted).square().sum(1), least)
        best = torch.where(better[:, None], theta, best)
        mean = (p[..., None] * features).sum(2)
        gradient = (mean - own).mean(1) + ridge * (theta - wanted)
        apart = features - mean[:, :, None]
        hessian = torch.einsum("snc,snci,sncj->sij", p, apart, apart) / features.shape[1]
        hessian = hessian + ridge * torch.eye(2, dtype=features.dtype)
        pinned = (theta[:, 0] <= 0) & (gradient[:, 0] > 0)
        gradient[pinned, 0] = 0.0
        hessian[pinned, 0, 1] = hessian[pinned, 1, 0] = 0.0
        theta = theta - torch.linalg.solve(hessian, gradient).clamp(-2, 2)
        theta = torch.stack([theta[:, 0].clamp(min=0), theta[:, 1]], 1)
    return best, least


def _require_finite(vectors: Tensor) -> None:
    bad = (~torch.isfinite(vectors)).any(1).nonzero()[:, 0]
    if len(bad):
        raise InputError(
            f"The vector of row {int(bad[0])} is not finite, one of {len(bad)}: leave those "
            "samples out."
        )
