"""One direction at a site: does it move the answer of its task more than that of a control task?

A direction w interchanges one number of a state, `h* = h_b + ((h_s - h_b) . w) w`. Its effect on a
pair is how far it moves the odds from the base's answer to the source's. The same method, fitted
to a control task whose labels are arbitrary, shows what its own flexibility earns; selectivity is
the difference. Source: Arora, Jurafsky and Potts 2024, arXiv:2402.12560 (CausalGym), whose control
task this follows in spirit: one arbitrary label for each input, kept wherever the input stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.alignment.fitting import Budget, fit, fixed
from interp.alignment.maps import Rotation
from interp.alignment.subjects import Cut
from interp.bases import difference_of_means, pca, probe_normal, random_basis
from interp.data.counterfactuals import Pairs
from interp.errors import InputError, nearest
from interp.stats import Interval, Values, cluster_bootstrap

FEWEST = 4
"""Training pairs of each of the two labels below which a direction is not fitted."""

SALT = 2402_12560
"""Added to the seed of control labels: a task may draw its own labels from the same small seed."""

Method = Callable[[Cut, Pairs, int], Tensor]
"""Finds a unit direction `[d]` from training pairs, with a seed."""


@dataclass(frozen=True)
class Selectivity:
    """What one method's direction does, in nats of log-odds, on test pairs."""

    site: str
    method: str
    task: Interval
    """Mean effect of the direction that was fitted to the task; units are bases."""
    control: Interval
    """The same, fitted to and scored on the control task."""
    selectivity: Interval
    """Task less control, paired."""
    swap: float
    """Mean effect on the task of replacing the whole state: the most that the site holds."""


def effect(
    clean: Float[Tensor, "pair answer"],
    edited: Float[Tensor, "pair answer"],
    base: Int[Tensor, " pair"],
    source: Int[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Return how far the log-odds of the base's answer over the source's fall, in nats.

    Source: the log odds-ratio of CausalGym, arXiv:2402.12560, section 3.

    >>> clean, edited = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 1.0]])
    >>> effect(clean, edited, torch.tensor([0]), torch.tensor([1])).tolist()
    [2.5]
    """

    def odds(logits: Tensor) -> Tensor:
        rows = torch.arange(len(logits))
        return logits[rows, base] - logits[rows, source]

    return odds(clean) - odds(edited)


def along(
    base: Float[Tensor, "pair d"], source: Float[Tensor, "pair d"], direction: Float[Tensor, " d"]
) -> Float[Tensor, "pair d"]:
    """Return base states whose coordinate along a unit direction is the source's.

    >>> along(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 1.0])).tolist()
    [[0.0, 4.0]]
    """
    return base + ((source - base) @ direction)[:, None] * direction


def control_task(pairs: Pairs, n_inputs: int, seed: int) -> Pairs:
    """Return the pairs with arbitrary labels: each input is given one of the two answers.

    Only pairs whose base and source are given different ones are kept.

    Raises:
        InputError: there are not exactly two answers.
    """
    answers = torch.cat([pairs.base_labels, pairs.labels]).unique()
    _require_one_variable(pairs)
    if len(answers) != 2:
        raise InputError(
            f"The pairs have {len(answers)} answers: a control task takes two, so keep the pairs "
            "of two answers."
        )
    stream = torch.Generator().manual_seed(SALT + seed)
    given = answers[torch.randint(2, (n_inputs,), generator=stream)]
    made = replace(pairs, base_labels=given[pairs.base], labels=given[pairs.sources[:, 0]])
    return made[made.sensitive]


# ---------------------------------------------------------------- methods


def difference(cut: Cut, pairs: Pairs, seed: int = 0) -> Float[Tensor, " d"]:
    """Return the unit difference between the mean states of the two labels of bases."""
    low, high = _sides(cut, pairs)
    return difference_of_means(high, low)[0]


def probe(cut: Cut, pairs: Pairs, seed: int = 0) -> Float[Tensor, " d"]:
    """Return the normal of a logistic probe of the two labels of bases."""
    low, high = _sides(cut, pairs)
    labels = [0] * len(low) + [1] * len(high)
    return probe_normal(torch.cat([low, high]), labels)[0]


def component(cut: Cut, pairs: Pairs, seed: int = 0) -> Float[Tensor, " d"]:
    """Return the first principal component of the bases' states: labels play no part."""
    return pca(cut.states[pairs.base.unique()], 1)[0]


def random(cut: Cut, pairs: Pairs, seed: int = 0) -> Float[Tensor, " d"]:
    """Return a direction that knows nothing."""
    return random_basis(1, cut.d, seed, dtype=cut.states.dtype)[0]


def das(
    cut: Cut, pairs: Pairs, seed: int = 0, *, budget: Budget | None = None
) -> Float[Tensor, " d"]:
    """Return the direction that gradient descent finds best for interchange on these pairs.

    A fifth of the pairs chooses when to stop.
    """
    budget = budget or Budget(steps=300, batch=256, learning_rate=1e-2, check_every=50)
    held = max(1, len(pairs) // 5)
    start = Rotation(cut.d, {pairs.variables[0]: [0]}, seed=seed)
    feed = fixed(pairs[held:], budget.batch, seed)
    found = fit(cut, start, feed, budget, validation=(cut, pairs[:held])).map
    assert isinstance(found, Rotation)
    return found.basis()[:, 0].detach().to(cut.states.dtype)


METHODS: dict[str, Method] = {
    "difference": difference,
    "probe": probe,
    "component": component,
    "random": random,
    "das": das,
}


def selectivity(
    cut: Cut,
    train: Pairs,
    test: Pairs,
    method: str,
    *,
    seed: int = 0,
    methods: dict[str, Method] | None = None,
) -> Selectivity:
    """Fit a direction to the task and one to a control task, and score each on its own test pairs.

    Args:
        cut: the network at the site; it holds the inputs of both splits.
        train: pairs of one variable, which directions are fitted to.
        test: pairs of other inputs.
        method: a name in `methods`.
        seed: of the control labels and of the method.
        methods: by default `METHODS`.

    Raises:
        InputError: no such method, several variables, not two answers, an input in both splits, or
            too few pairs whose answer changes.
    """
    known = METHODS if methods is None else methods
    if method not in known:
        raise InputError(f"There is no method {method!r}.{nearest(method, known)}")
    _require_one_variable(train)
    _require_apart(train, test)
    n = len(cut.states)
    tasks = {
        "task": (train[train.sensitive], test[test.sensitive]),
        "control": (control_task(train, n, seed), control_task(test, n, seed)),
    }
    for name, splits in tasks.items():
        for pairs in splits:
            _require_both(pairs, name)
    effects, rows = {}, {}
    for name, (fitted_to, scored) in tasks.items():
        direction = known[method](cut, fitted_to, seed)
        effects[name] = effect_along(cut, scored, direction)
        rows[name] = scored.base.tolist()
    task, control = (
        cluster_bootstrap(effects[name].numpy(), rows[name], seed=seed) for name in tasks
    )
    scored = tasks["task"][1]
    whole = _effect(cut, scored, cut.states[scored.sources[:, 0]])
    apart = _apart(effects["task"], rows["task"], effects["control"], rows["control"], seed)
    return Selectivity(cut.site, method, task, control, apart, float(whole.mean()))


@torch.no_grad()
def effect_along(cut: Cut, pairs: Pairs, direction: Float[Tensor, " d"]) -> Float[Tensor, " pair"]:
    """Return the effect on each pair of interchanging one direction, in nats."""
    states = along(cut.states[pairs.base], cut.states[pairs.sources[:, 0]], direction)
    return _effect(cut, pairs, states)


@torch.no_grad()
def _effect(cut: Cut, pairs: Pairs, states: Tensor) -> Tensor:
    clean = cut.finish(cut.states[pairs.base], pairs.base)
    edited = cut.finish(states, pairs.base)
    return effect(clean, edited, pairs.base_labels, pairs.labels).double()


def _apart(
    task: Tensor, task_rows: list[int], control: Tensor, control_rows: list[int], seed: int
) -> Interval:
    """The difference of two means over bases that partly differ: bases are redrawn together."""
    both, n = torch.cat([task, control]).numpy(), len(task)

    def gap(places: Values) -> float:
        place = places.astype(int)
        of_task = place < n
        return float(both[place[of_task]].mean() - both[place[~of_task]].mean())

    return cluster_bootstrap(
        range(len(both)), [*task_rows, *control_rows], statistic=gap, seed=seed
    )


def _sides(cut: Cut, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The states of bases with the lower and the higher label, each input once."""
    rows, first = torch.stack([pairs.base, pairs.base_labels]).unique(dim=1)
    low = first == first.min()
    return cut.states[rows[low]], cut.states[rows[~low]]


def _require_one_variable(pairs: Pairs) -> None:
    if len(pairs.variables) != 1:
        raise InputError(
            f"The pairs interchange {', '.join(pairs.variables)}: a direction is for one variable, "
            "so draw pairs of one."
        )


def _require_apart(train: Pairs, test: Pairs) -> None:
    used = [set(torch.cat([p.base, p.sources[:, 0]]).tolist()) for p in (train, test)]
    if shared := used[0] & used[1]:
        raise InputError(
            f"{len(shared)} inputs, such as {min(shared)}, stand in training and test pairs: draw "
            "the pairs of each from inputs of their own."
        )


def _require_both(pairs: Pairs, name: str) -> None:
    counts = [int((pairs.base_labels == label).sum()) for label in pairs.base_labels.unique()]
    if len(counts) != 2 or min(counts) < FEWEST:
        raise InputError(
            f"The {name} has {counts} pairs whose answer changes, by the base's answer: give "
            f"{FEWEST} or more of each of two answers."
        )
