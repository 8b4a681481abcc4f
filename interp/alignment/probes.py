"""Linear probes that are tested causally in the same call: decodable, and then used or not.

`probe_and_test` fits a probe on training inputs and scores it on others beside a constant, a probe
of the raw inputs, one of an untrained network and one of shuffled labels. Then it edits the state
along the probe, until the probe reads another value and every other variable reads as before, and
asks whether the network's answer follows, more often than under random edits of equal norm. No
result says "decodable" without what became of that test.

Sources: Hewitt and Liang 2019, arXiv:1909.03368 (control labels); Shah et al., arXiv:2602.05903 (a
probe of the board needs a causal role).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.alignment.linear_probes import (
    LinearProbe,
    ProbeSettings,
    classes_of,
    control_labels,
    fit_probe,
    goodness,
)
from interp.alignment.probe_edits import covariance_root, moved, projected_out, random_edits
from interp.alignment.subjects import Cut
from interp.bases import random_basis
from interp.errors import InputError, nearest
from interp.stats import Interval, cluster_bootstrap, paired_difference

FEWEST = 20
"""Edited inputs below which a causal test is not made."""

Values = Mapping[str, Tensor]
"""Each variable on each input `[input]`: whole numbers or booleans are classes, others real."""
Answers = Callable[[Values, Tensor], Tensor]
"""Which answers are right when the variables have some values: `[row, answer]`, true or false.

It is called with the values of all variables `[row]` and the rows of the cut `[row]`. No true one
means that the values cannot be, and such a change is not asked for."""
Verdict = Literal["used", "not used", "not tested"]


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
        name: fit_probe(cut.states[train], of[train], settings=settings, n_classes=classes_of(of))
        for name, of in values.items()
    }
    given = {"raw inputs": raw, "untrained network": untrained}
    tests = []
    for name in chosen:
        decoded = _decode(cut, values[name], probes[name], train, test, given, kinds, settings)
        used = _use(cut, values, probes, name, train, test, answers, settings)
        tests.append(ProbeTest(cut.site, name, decoded, used))
    return tuple(tests)


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
    n_classes = classes_of(values)
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
        n_classes=classes_of(values[variable]),
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
