"""Linear probes that are tested causally in the same call: decodable, and then used or not.

`probe_and_test` fits a probe on training inputs and scores it on others beside a constant, a probe
of the raw inputs, one of an untrained network and one of shuffled labels. Then it edits the state
along the probe, until the probe reads another value and every other variable reads as before, and
asks whether the network's answer follows, more often than under random edits of equal norm. No
result says "decodable" without what became of that test.

Sources: Alain and Bengio 2016, arXiv:1610.01644 (linear probes); Hewitt and Liang 2019,
arXiv:1909.03368 (control labels); Shah et al., arXiv:2602.05903 (a probe of the board needs a
causal role); Ganin and Lempitsky 2015, arXiv:1409.7495 (gradient reversal).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from interp.alignment.subjects import Cut
from interp.bases import random_basis
from interp.errors import InputError, nearest
from interp.stats import Interval, cluster_bootstrap, paired_difference

FEWEST = 20
"""Edited inputs below which a causal test is not made."""
ROUNDS = 500
"""Projections after which an edit that does not read as asked is given up."""

Values = Mapping[str, Tensor]
"""Each variable on each input `[input]`: whole numbers or booleans are classes, others real."""
Answers = Callable[[Values, Tensor], Tensor]
"""Which answers are right when the variables have some values: `[row, answer]`, true or false.

It is called with the values of all variables `[row]` and the rows of the cut `[row]`. No true one
means that the values cannot be, and such a change is not asked for."""
Verdict = Literal["used", "not used", "not tested"]


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How probes are fitted and tested."""

    kind: Literal["ridge", "logistic"] = "ridge"
    """For classes; real variables are always fitted by ridge, in closed form."""
    ridge: float = 1.0
    """Penalty on centred states divided by the root of their mean variance, as in
    `interp.bases.probe_normal`."""
    along: Literal["weights", "patterns"] = "weights"
    """What edits follow: the probe's weights, or how states vary with what it reads (see
    `moved`). Weights are the plain choice; patterns reach further and stay among natural states."""
    random_edits: int = 5
    """Random edits of equal norm for each input."""
    tries: int = 20
    """New values that are drawn for an input before it is left out."""
    seed: int = 0
    """Of shuffled labels, new values and random edits."""

    def __post_init__(self) -> None:
        if self.kind not in ("ridge", "logistic"):
            raise InputError(f"kind={self.kind!r}: write 'ridge' or 'logistic'.")
        if self.along not in ("weights", "patterns"):
            raise InputError(f"along={self.along!r}: write 'weights' or 'patterns'.")
        if not 0 < self.ridge < float("inf"):
            raise InputError(f"ridge={self.ridge}: give a number above 0.")
        if min(self.random_edits, self.tries) < 1:
            raise InputError(
                f"random_edits={self.random_edits} and tries={self.tries} must be 1 or more each."
            )


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """What a state says of one variable: the class of the largest score, or the score itself."""

    weight: Float[Tensor, "score d"]
    """One row for each class; one in all for a real variable."""
    bias: Float[Tensor, " score"]
    real: bool
    lead: float
    """How far the first class leads the second on training inputs, by the median; edits aim at it.
    1e-3 of the standard deviation for a real variable: how near an edit must come."""

    def scores(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n score"]:
        """Return the scores of states, in float64."""
        return states.double() @ self.weight.T + self.bias

    def reads(self, states: Float[Tensor, "n d"]) -> Num[Tensor, " n"]:
        """Return the classes, or the real values, that the probe reads."""
        scores = self.scores(states)
        return scores[:, 0] if self.real else scores.argmax(1)

    def basis(self) -> Float[Tensor, "k d"]:
        """Return orthonormal rows: all directions that change what is read."""
        rows = self.weight if self.real else self.weight - self.weight.mean(0)
        _, singular, basis = torch.linalg.svd(rows, full_matrices=False)
        return basis[singular > 1e-9 * singular[0]]


@dataclass(frozen=True)
class Decoded:
    """How well one variable is read on held-out inputs, and what that is worth."""

    measure: Literal["accuracy", "mean absolute error"]
    held_out: Interval
    train: float
    """On the inputs that the probe was fitted on."""
    baselines: Mapping[str, float | None]
    """`constant`, `raw inputs`, `untrained network`, `shuffled labels`; None: not given."""
    beyond: Interval
    """How much better than the best baseline, paired by input; above 0 is better."""

    @property
    def verdict(self) -> str:
        """Whether it is beyond all baselines; not said where one is lacking."""
        lacking = [name for name, score in self.baselines.items() if score is None]
        if lacking:
            return f"not judged ({' and '.join(lacking)} not given)"
        return "decodable" if (self.beyond.low or 0) > 0 else "not beyond baselines"


@dataclass(frozen=True)
class Used:
    """Whether the answer follows when the state is edited to read another value."""

    verdict: Verdict
    reason: str
    """One sentence."""
    n: int = 0
    """Inputs that were edited: the new value asks for another answer than the network gives."""
    unreached: int = 0
    """Inputs whose edit did not read as asked; left out."""
    follows: Interval | None = None
    """Share of edits after which the network's first choice is right for the new value."""
    random: float | None = None
    """The same under random edits of equal norm."""
    lead: Interval | None = None
    """Their difference, paired by input."""
    mass: float | None = None
    """Rise of the probability of answers that are right for the new value, less that under random
    edits."""
    norm: float | None = None
    """Mean norm of the edits, as a share of the mean distance between two states."""
    placebo: float | None = None
    """Largest change of a logit when the state is edited to read what it reads: 0."""
    right: float | None = None
    """Share of held-out inputs that are answered rightly, unedited."""
    right_without: float | None = None
    """The same with the probe's subspace projected out."""
    right_without_random: float | None = None
    """The same with a random subspace of equal rank projected out."""
    rank: int | None = None
    """Of that subspace."""
    left: float | None = None
    """What a fresh probe reads once it is projected out, in the measure of `Decoded`."""


@dataclass(frozen=True)
class ProbeTest:
    """Both halves, for one variable at one site."""

    site: str
    variable: str
    decoded: Decoded
    used: Used

    @property
    def verdict(self) -> str:
        """Both verdicts: there is no way to print the first alone."""
        return f"{self.decoded.verdict}; {self.used.verdict}"

    def __str__(self) -> str:
        told = {k: "-" if v is None else f"{v:.3f}" for k, v in self.decoded.baselines.items()}
        return (
            f"{self.variable} at {self.site}: {self.verdict}. {self.decoded.measure} "
            f"{self.decoded.held_out.estimate:.3f} on inputs held out "
            f"({', '.join(f'{k} {v}' for k, v in told.items())}). {self.used.reason}"
        )


# ---------------------------------------------------------------- the one call


def probe_and_test(
    cut: Cut,
    values: Values,
    *,
    train: Int[Tensor, " fitted"],
    test: Int[Tensor, " held_out"],
    raw: Float[Tensor, "input feature"] | None,
    untrained: Float[Tensor, "input width"] | None,
    answers: Answers | None,
    kinds: Int[Tensor, " input"] | None = None,
    variables: tuple[str, ...] | None = None,
    settings: ProbeSettings | None = None,
) -> tuple[ProbeTest, ...]:
    """Probe variables at a site and test what is read.

    Args:
        cut: states at the site, and the network behind it.
        values: each variable on each input; edits to one keep the reading of the others.
        train: inputs on which probes are fitted.
        test: other inputs, on which everything is scored.
        raw: what the network is given, as numbers; None leaves decodability unjudged.
        untrained: states of the same network before training; None the same.
        answers: which answers are right, as the algorithm says; None leaves use untested.
        kinds: inputs of one kind get one shuffled label; by default each input has its own.
        variables: those to report; by default all.

    Raises:
        InputError: a variable has not one finite value an input, or does not vary in training; an
            input stands in both splits.
    """
    settings = settings or ProbeSettings()
    _check(cut, values, train, test, {"raw": raw, "untrained": untrained, "kinds": kinds})
    chosen = tuple(values) if variables is None else variables
    for name in chosen:
        if name not in values:
            raise InputError(f"There are no values of {name!r}.{nearest(name, values)}")
    probes = {
        name: fit_probe(cut.states[train], of[train], settings=settings, n_classes=_classes(of))
        for name, of in values.items()
    }
    given = {"raw inputs": raw, "untrained network": untrained}
    tests = []
    for name in chosen:
        decoded = _decode(cut, values[name], probes[name], train, test, given, kinds, settings)
        used = _use(cut, values, probes, name, train, test, answers, settings)
        tests.append(ProbeTest(cut.site, name, decoded, used))
    return tuple(tests)


# ---------------------------------------------------------------- fitting


def fit_probe(
    states: Float[Tensor, "n d"],
    values: Num[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    settings: ProbeSettings | None = None,
    n_classes: int | None = None,
) -> LinearProbe:
    """Fit one probe in float64; an intercept is not penalised.

    With x the centred states over the root of their mean variance, ridge regresses the value, or
    each class's 0 or 1, on x: the closed form (x'x + ridge)^-1 x'y. Logistic minimises the mean
    cross-entropy plus ridge / (2 n) |w|^2.

    >>> probe = fit_probe(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1]))
    >>> probe.reads(torch.tensor([[0.5], [1.5]])).tolist()
    [0, 1]
    """
    settings = settings or ProbeSettings()
    x, middle = states.double(), states.double().mean(0)
    spread = float((x - middle).square().mean().sqrt()) or 1.0
    x, real = (x - middle) / spread, values.is_floating_point()
    y = values.double()[:, None] if real else _one_hot(values.long(), n_classes)
    if real or settings.kind == "ridge":
        weight = _ridge(x, y - y.mean(0), settings.ridge)
        bias = y.mean(0)
    else:
        weight, bias = _logistic(x, values.long(), y.shape[1], settings.ridge)
    weight = weight / spread
    probe = LinearProbe(weight, bias - weight @ middle, real, 1e-3 * float(y.std()))
    if real:
        return probe
    best = probe.scores(states).topk(2, dim=1).values
    return replace(probe, lead=max(float((best[:, 0] - best[:, 1]).median()), 1e-6))


def _classes(values: Tensor) -> int | None:
    return None if values.is_floating_point() else max(2, int(values.max()) + 1)


def _one_hot(values: Tensor, n_classes: int | None) -> Tensor:
    n = _classes(values) if n_classes is None else n_classes
    return torch.nn.functional.one_hot(values, n or 2).double()


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Float[Tensor, "score d"]:
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y).T


def _logistic(x: Tensor, y: Tensor, n_classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    wide = torch.zeros(n_classes, x.shape[1] + 1, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [wide], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ wide[:, :-1].T + wide[:, -1], y)
        value = value + ridge / (2 * len(x)) * wide[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[arg-type]
    return wide.detach()[:, :-1], wide.detach()[:, -1]


# ---------------------------------------------------------------- decoding


def _decode(
    cut: Cut,
    values: Tensor,
    probe: LinearProbe,
    train: Tensor,
    test: Tensor,
    given: Mapping[str, Tensor | None],
    kinds: Tensor | None,
    settings: ProbeSettings,
) -> Decoded:
    """Score a probe on held-out inputs beside its baselines."""
    n_classes = _classes(values)
    own = goodness(probe.reads(cut.states[test]), values[test])
    inputs = {
        "constant": cut.states.new_zeros(len(values), 1),
        **given,
        "shuffled labels": cut.states,
    }
    shuffled = control_labels(values, settings.seed, kinds)
    rivals: dict[str, Tensor | None] = {}
    for name, x in inputs.items():
        y = shuffled if name == "shuffled labels" else values
        if x is None:
            rivals[name] = None
            continue
        rival = fit_probe(x[train], y[train], settings=settings, n_classes=n_classes)
        rivals[name] = goodness(rival.reads(x[test]), y[test])
    sign = -1 if probe.real else 1
    best = max((r for r in rivals.values() if r is not None), key=lambda r: float(r.mean()))
    rows = test.tolist()
    return Decoded(
        "mean absolute error" if probe.real else "accuracy",
        cluster_bootstrap((sign * own).numpy(), rows),
        sign * float(goodness(probe.reads(cut.states[train]), values[train]).mean()),
        {k: None if r is None else sign * float(r.mean()) for k, r in rivals.items()},
        paired_difference(own.numpy(), best.numpy(), rows),
    )


def goodness(read: Num[Tensor, " n"], true: Tensor) -> Float[Tensor, " n"]:
    """Return what is better when larger: 1 or 0 for a class, minus the error for a real value."""
    if true.is_floating_point():
        return -(read.double() - true.double()).abs()
    return (read == true.long()).double()


def control_labels(values: Tensor, seed: int, kinds: Int[Tensor, " input"] | None = None) -> Tensor:
    """Return the values permuted over inputs; inputs of one kind share one.

    Source: Hewitt and Liang 2019, arXiv:1909.03368, whose kinds are word types.
    """
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    if kinds is None:
        return values[order]
    _, place = kinds.unique(return_inverse=True)
    return values[order[place]]


# ---------------------------------------------------------------- editing


@dataclass(frozen=True, eq=False)
class Moved:
    """States that were moved until probes read what was asked."""

    states: Float[Tensor, "n d"]
    reached: Bool[Tensor, " n"]
    """Whether the variable reads as asked and every other one as before."""


def moved(
    states: Float[Tensor, "n d"],
    probes: Mapping[str, LinearProbe],
    variable: str,
    targets: Num[Tensor, " n"],
    *,
    root: Float[Tensor, "d d"] | None = None,
) -> Moved:
    """Move states until one probe reads its target, and the others what they read before.

    Each condition is a half-space of states, such as `(w_q - w_p) h + c >= lead`; a state is
    projected on the one that it breaks most until it breaks none. A state that already reads as
    asked keeps every bit. The edit is short, though not the shortest there is.

    With the symmetric root of the states' covariance, length is measured in their standard
    deviations: then an edit follows how states vary with the variable, not the weights, which may
    point where no state ever goes. Source of the difference: Haufe et al. 2014, NeuroImage 87, 96.
    """
    start = states.double()
    root = torch.eye(start.shape[1], dtype=torch.float64) if root is None else root.double()
    asked = {name: targets if name == variable else p.reads(start) for name, p in probes.items()}
    limits = {name: _limits(p, start, asked[name]) for name, p in probes.items()}
    turned = {name: p.weight @ root for name, p in probes.items()}
    scaled = torch.zeros_like(start)
    for _ in range(ROUNDS):
        now = start + scaled @ root
        steps = torch.stack(
            [_step(p, turned[n], now, asked[n], limits[n]) for n, p in probes.items()]
        )
        length = steps.norm(dim=2)
        if not bool((length > 0).any()):
            break
        scaled = scaled + steps[length.argmax(0), torch.arange(len(start))]
    still = (scaled == 0).all(1, keepdim=True)
    new = torch.where(still, states, (start + scaled @ root).to(states.dtype))
    fine = torch.ones(len(states), dtype=torch.bool)
    for name, probe in probes.items():
        read = probe.reads(new)
        near = (read - asked[name]).abs() <= 2 * probe.lead if probe.real else read == asked[name]
        fine &= near
    return Moved(new, fine)


def covariance_root(states: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return the symmetric root of the covariance of states, in float64."""
    x = states.double() - states.double().mean(0)
    sizes, basis = torch.linalg.eigh(x.T @ x / max(1, len(x) - 1))
    return basis * sizes.clamp(min=0).sqrt() @ basis.T


def _limits(probe: LinearProbe, states: Tensor, asked: Tensor) -> Float[Tensor, "n score"]:
    """How far the asked class must lead each other; where it is read already, no more than now."""
    if probe.real:
        return torch.zeros(len(states), 1, dtype=torch.float64)
    wanted = torch.full((len(states), len(probe.bias)), probe.lead, dtype=torch.float64)
    read = probe.reads(states) == asked
    return torch.where(read[:, None], wanted.minimum(_gaps(probe, states, asked)), wanted)


def _gaps(probe: LinearProbe, states: Tensor, asked: Tensor) -> Float[Tensor, "n score"]:
    scores = probe.scores(states)
    return scores.gather(1, asked.long()[:, None]) - scores


def _step(
    probe: LinearProbe, weight: Tensor, states: Tensor, asked: Tensor, limits: Tensor
) -> Float[Tensor, "n d"]:
    """The change that mends the condition of one probe that is broken most; zero if none is."""
    if probe.real:
        lack = asked.double() - probe.reads(states)
        lack = torch.where(lack.abs() > probe.lead, lack, 0.0)
        toward = weight.expand(len(states), -1)
    else:
        lacks = limits - _gaps(probe, states, asked)
        lacks = lacks.scatter(1, asked.long()[:, None], -1.0)
        apart = torch.cdist(weight, weight)[asked.long()].clamp(min=1e-12)
        worst = (lacks / apart).argmax(1)
        lack = lacks.gather(1, worst[:, None])[:, 0]
        lack = torch.where(lack > 1e-6 * probe.lead, lack, 0.0)
        toward = weight[asked.long()] - weight[worst]
    return lack[:, None] * toward / toward.square().sum(1, keepdim=True).clamp(min=1e-24)


def projected_out(
    states: Float[Tensor, "n d"], basis: Float[Tensor, "k d"], middle: Float[Tensor, " d"]
) -> Float[Tensor, "n d"]:
    """Return states whose part in a subspace is that of `middle`; done twice it changes nothing."""
    basis = basis.to(states.dtype)
    return states - (states - middle) @ basis.T @ basis


def random_edits(
    changes: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    root: Float[Tensor, "d d"] | None = None,
) -> Float[Tensor, "n d"]:
    """Return changes in random directions, each of the norm of the given one.

    With the root of the covariance, directions in which states vary more are drawn more often.
    """
    drawn = torch.randn(changes.shape, generator=generator, dtype=torch.float64)
    drawn = drawn if root is None else drawn @ root
    lengths = changes.double().norm(dim=1, keepdim=True)
    return (drawn / drawn.norm(dim=1, keepdim=True) * lengths).to(changes.dtype)


# ---------------------------------------------------------------- using


@torch.no_grad()
def _use(
    cut: Cut,
    values: Values,
    probes: Mapping[str, LinearProbe],
    variable: str,
    train: Tensor,
    test: Tensor,
    answers: Answers | None,
    settings: ProbeSettings,
) -> Used:
    if answers is None:
        return Used("not tested", "Nobody said which answers are right for other values.")
    rows, targets, allowed, clean = _asked(cut, values, variable, test, answers, settings)
    root = covariance_root(cut.states[train]) if settings.along == "patterns" else None
    edit = moved(cut.states[rows], probes, variable, targets, root=root)
    lost, keep = int((~edit.reached).sum()), edit.reached
    rows, targets, allowed, clean = rows[keep], targets[keep], allowed[keep], clean[keep]
    if len(rows) < FEWEST:
        why = (
            f"{len(rows) + lost} of {len(test)} inputs have a new value that asks for another "
            f"answer, {lost} of them could not be edited to read it, and {FEWEST} are needed."
        )
        return Used("not tested", why, len(rows), lost)
    new = edit.states[keep]
    change, stream = new - cut.states[rows], torch.Generator().manual_seed(settings.seed + 1)
    follow, mass = _followed(cut.finish(new, rows), allowed)
    twins = [
        _followed(
            cut.finish(cut.states[rows] + random_edits(change, stream, root=root), rows), allowed
        )
        for _ in range(settings.random_edits)
    ]
    chance = torch.stack([each for each, _ in twins]).mean(0)
    lead = paired_difference(follow.numpy(), chance.numpy(), rows.tolist())
    verdict: Verdict = "used" if (lead.low or 0) > 0 else "not used"
    follows = cluster_bootstrap(follow.numpy(), rows.tolist())
    reason = (
        f"The answer followed {follows.estimate:.3f} of {len(rows)} edits along the probe and "
        f"{float(chance.mean()):.3f} of random edits of equal norm."
    )
    read = probes[variable].reads(cut.states[rows])
    own = moved(cut.states[rows], probes, variable, read, root=root)
    return Used(
        verdict,
        reason,
        len(rows),
        lost,
        follows,
        float(chance.mean()),
        lead,
        float(mass.mean() - torch.stack([each for _, each in twins]).mean()),
        float(change.norm(dim=1).mean() / _distance(cut.states[test])),
        float((cut.finish(own.states, rows) - clean).abs().max()),
        **_without(cut, values, probes[variable], variable, train, test, answers, settings),
    )


def _asked(
    cut: Cut,
    values: Values,
    variable: str,
    test: Tensor,
    answers: Answers,
    settings: ProbeSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a new value for each input under which the network's own choice would be wrong.

    Returns rows, new values, the answers that are right for them, and the network's logits.
    """
    stream = torch.Generator().manual_seed(settings.seed)
    logits = cut.finish(cut.states[test], test)
    choice = logits.argmax(1, keepdim=True)
    targets = values[variable][test].clone()
    allowed = torch.zeros(len(test), logits.shape[1], dtype=torch.bool)
    found = torch.zeros(len(test), dtype=torch.bool)
    for _ in range(settings.tries):
        drawn = values[variable][test[torch.randperm(len(test), generator=stream)]]
        asked = {name: of[test] for name, of in values.items()} | {variable: drawn}
        right = answers(asked, test)
        take = ~found & (drawn != values[variable][test]) & right.any(1)
        take &= ~right.gather(1, choice)[:, 0]
        targets = torch.where(take, drawn, targets)
        allowed = torch.where(take[:, None], right, allowed)
        found |= take
    return test[found], targets[found], allowed[found], logits[found]


def _followed(logits: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the first choice is right, and the probability of all that is right."""
    first = allowed.gather(1, logits.argmax(1, keepdim=True))[:, 0].double()
    return first, (logits.double().softmax(1) * allowed).sum(1)


def _without(
    cut: Cut,
    values: Values,
    probe: LinearProbe,
    variable: str,
    train: Tensor,
    test: Tensor,
    answers: Answers,
    settings: ProbeSettings,
) -> dict[str, Any]:
    """What becomes of right answers, and of the variable, without the probe's subspace."""
    basis, middle = probe.basis(), cut.states[train].mean(0)
    right = answers({name: of[test] for name, of in values.items()}, test)

    def share(states: Tensor) -> float:
        return float(_followed(cut.finish(states, test), right)[0].mean())

    randoms = [
        random_basis(len(basis), cut.d, settings.seed + i) for i in range(settings.random_edits)
    ]
    bare = projected_out(cut.states, basis, middle)
    fresh = fit_probe(
        bare[train],
        values[variable][train],
        settings=settings,
        n_classes=_classes(values[variable]),
    )
    found = float(goodness(fresh.reads(bare[test]), values[variable][test]).mean())
    shares = [share(projected_out(cut.states[test], b, middle)) for b in randoms]
    return {
        "right": share(cut.states[test]),
        "right_without": share(bare[test]),
        "right_without_random": sum(shares) / len(shares),
        "rank": len(basis),
        "left": -found if probe.real else found,
    }


def _distance(states: Tensor) -> float:
    """The mean distance between each state and the next one."""
    return float((states - states.roll(1, 0)).norm(dim=1).mean().clamp(min=1e-12))


def _check(
    cut: Cut,
    values: Values,
    train: Tensor,
    test: Tensor,
    others: Mapping[str, Tensor | None],
) -> None:
    """Refuse what would make a score meaningless."""
    n = len(cut.states)
    if not values:
        raise InputError("No variable was given: name at least one, with its value on each input.")
    sizes = {**values, **{name: x for name, x in others.items() if x is not None}}
    for name, x in sizes.items():
        if len(x) != n:
            raise InputError(f"{name} has {len(x)} rows and the cut {n} inputs: give one for each.")
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{name} holds a value that is not finite: drop that input.")
    if shared := set(train.tolist()) & set(test.tolist()):
        raise InputError(
            f"{len(shared)} inputs, such as {min(shared)}, stand in both splits: a probe is scored "
            "on inputs that it was not fitted on."
        )
    raw = others["raw"]
    if raw is not None:
        rows = torch.cat([raw[train].unique(dim=0), raw[test].unique(dim=0)])
        if same := len(rows) - len(rows.unique(dim=0)):
            raise InputError(
                f"{same} raw inputs of the test split also stand in the training split: split by "
                "input, and keep each once."
            )
    for name, of in values.items():
        if min(len(train), len(test)) < 2 or bool((of[train] == of[train][:1]).all()):
            raise InputError(
                f"{name!r} does not vary over the {len(train)} training inputs, so no probe has "
                "anything to read: give inputs that vary it."
            )
        if not of.is_floating_point() and int(of.min()) < 0:
            raise InputError(f"{name!r} holds {int(of.min())}: number classes from 0.")


# ---------------------------------------------------------------- gradient reversal


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * grads[0], None


def reverse_gradient(x: Float[Tensor, "*shape"], alpha: float = 1.0) -> Float[Tensor, "*shape"]:
    """Return `x`; its gradient comes back times `-alpha`.

    What reads it learns a variable, and what made it forgets that variable for this reader alone:
    test with a fresh probe. Source: Ganin and Lempitsky 2015, arXiv:1409.7495.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> (2 * reverse_gradient(x, 0.5)).backward()
    >>> x.grad
    tensor([-1.])
    """
    return _Reversal.apply(x, alpha)  # type: ignore[return-value]
