"""What stands beside an interchange accuracy: the same site, the same pairs, and no fitting.

full vector          the source's whole state replaces the base's
random subspace      swaps in subspaces of the map's sizes, drawn at random (mean and best of them)
PCA                  swaps in the leading principal directions of training states
difference of means  swaps along the directions in which states and a variable's value go together
no intervention      the base as it is
constant answer      whatever happens, the answer that most of these pairs want

Where a baseline leaves a choice, all of its choices are scored and the best is reported, so that a
map must beat the best of them. Source: Huang et al. 2024, arXiv:2402.17700 (cause and isolate);
Mueller et al. 2025, arXiv:2504.13151 (full vector, PCA); Geiger et al. 2023, arXiv:2303.02536.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.alignment.fitting import Scores, score, score_logits
from interp.alignment.fixed import FixedSubspace, RandomSubspace, principal
from interp.alignment.subjects import Cut
from interp.data.counterfactuals import Pairs, Table
from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap

DRAWS = 5
"""Random subspaces at least."""

CLASSES = 64
"""A variable of whole numbers with more values than this is read as a number, not as classes."""

FULL_VECTOR, RANDOM, PCA = "full vector", "random subspace", "PCA"
DIFFERENCE, NOTHING, CONSTANT = "difference of means", "no intervention", "constant answer"
NAMES = (FULL_VECTOR, RANDOM, PCA, DIFFERENCE, NOTHING, CONSTANT)
"""All of them: a report must hold each."""


@dataclass(frozen=True)
class Split:
    """Accuracy over all pairs, over those whose answer should change, and over the others."""

    all: float
    sensitive: float | None
    """None where there is no such pair."""
    insensitive: float | None
    n_sensitive: int
    n_insensitive: int


@dataclass(frozen=True)
class Baseline:
    """One baseline on the pairs of a score."""

    name: str
    split: Split
    """Of the best choice; for a random subspace the mean over draws."""
    draws: tuple[float, ...] = ()
    """Accuracy of each random draw, over all pairs."""
    note: str = ""
    """Which choice was the best, where there was one."""

    @property
    def highest(self) -> float:
        """What a map must beat: the best draw, where there are several."""
        return max(self.draws, default=self.split.all)


def split(right: Bool[Tensor, " pair"], pairs: Pairs) -> Split:
    """Return the accuracy over all, sensitive and insensitive pairs.

    Raises:
        InputError: there is no pair.
    """
    if not len(pairs):
        raise InputError("There are no pairs to score: draw at least one.")
    sensitive = pairs.sensitive
    return Split(
        float(right.double().mean()),
        _share(right[sensitive]),
        _share(right[~sensitive]),
        int(sensitive.sum()),
        int((~sensitive).sum()),
    )


def interval(scores: Scores | Sequence[Scores], *, n_boot: int = 1000, seed: int = 0) -> Interval:
    """Return IIA with its 95 % interval over redrawn base inputs, or networks if that is wider.

    Pairs with one base are no independent draws. Several scores are those of several networks or
    map seeds on pairs of one table: then whole networks are redrawn too, and the wider interval
    counts.

    Raises:
        InputError: there is no score.
    """
    runs = [scores] if isinstance(scores, Scores) else list(scores)
    if not runs:
        raise InputError("There are no scores: an interval needs at least one.")
    right = torch.cat([run.right for run in runs]).double().numpy()
    bases = [int(base) for run in runs for base in run.pairs.base]
    over_bases = cluster_bootstrap(right, bases, n_boot=n_boot, seed=seed)
    if len(runs) == 1:
        return over_bases
    nets = [i for i, run in enumerate(runs) for _ in range(len(run.pairs))]
    over_nets = cluster_bootstrap(right, nets, n_boot=n_boot, seed=seed)
    return max(over_bases, over_nets, key=_width)


def no_intervention(cut: Cut, pairs: Pairs) -> Scores:
    """Return what the network answers on each base as it is."""
    place = cut.states.device

    def logits(part: Pairs) -> Tensor:
        rows = part.base.to(place)
        return cut.finish(cut.states[rows], rows)

    return score_logits(logits, pairs, chunk=cut.chunk)


def constant_answer(pairs: Pairs) -> tuple[int, Bool[Tensor, " pair"]]:
    """Return the answer that most pairs want, and the pairs on which it is right.

    It is chosen on the pairs that it is scored on, so no constant does better on them.

    >>> one = torch.zeros(3, 1, dtype=torch.long)
    >>> labels = torch.tensor([1, 1, 0])
    >>> constant_answer(Pairs(("v",), one[:, 0], one, one.bool(), labels, labels))
    (1, tensor([ True,  True, False]))
    """
    answer = int(pairs.labels.mode().values)
    return answer, pairs.labels == answer


def full_vector(cut: Cut, pairs: Pairs, first: str) -> Scores:
    """Replace the base's whole state by that of one active source.

    A pair with several active variables names several sources: that of `first` is taken where it
    is active, and otherwise that of the first active variable in order.

    Raises:
        InputError: the pairs have no variable `first`.
    """
    place = _place(first, pairs.variables)

    def logits(part: Pairs) -> Tensor:
        rows = chosen_source(part, place).to(cut.states.device)
        return cut.finish(cut.states[rows], part.base.to(cut.states.device))

    return score_logits(logits, pairs, chunk=cut.chunk)


def chosen_source(pairs: Pairs, place: int) -> Int[Tensor, " pair"]:
    """Return the row of one active source of each pair, that of variable `place` if it is active.

    A pair that interchanges nothing gets its base.
    """
    order = [place, *(i for i in range(len(pairs.variables)) if i != place)]
    rows = pairs.base
    for i in reversed(order):
        rows = torch.where(pairs.active[:, i], pairs.sources[:, i], rows)
    return rows


def blocks_of(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return consecutive blocks of given sizes.

    >>> blocks_of({"left": 1, "right": 2})
    {'left': (0,), 'right': (1, 2)}
    """
    ends = accumulate(sizes.values())
    return {
        name: tuple(range(end - size, end))
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def mean_differences(
    states: Float[Tensor, "n d"], values: Shaped[Tensor, "n ..."], size: int
) -> Float[Tensor, "d k"]:
    """Return the orthonormal directions in which states move with a variable, at most `size`.

    They are the leading left singular vectors of the covariance of states and values. For a
    variable of two values that is the difference of the two class means; a variable of few whole
    values is read as one indicator a value, any other as the numbers that it holds. There are no
    more than the covariance has, so k may be below `size`.

    Raises:
        InputError: the variable and the states do not go together at all.
    """
    centred = (states - states.mean(0)).double()
    columns = _columns(values)
    covariance = centred.T @ (columns - columns.mean(0)) / len(states)
    left, sizes, _ = torch.linalg.svd(covariance, full_matrices=False)
    scale = float(centred.norm() * (columns - columns.mean(0)).norm()) / len(states)
    k = min(size, int((sizes > 1e-7 * scale).sum()))
    if k == 0:
        raise InputError(
            "States have one mean whatever the variable's value, so there is no difference to "
            "point along: choose another site."
        )
    return left[:, :k].to(states.dtype)


def baselines(
    cut: Cut,
    pairs: Pairs,
    sizes: Mapping[str, int],
    *,
    train: tuple[Cut, Table],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Baseline]:
    """Return every baseline at the site of a score and on its pairs.

    Args:
        cut: the network on the inputs of the pairs.
        pairs: those that the map is scored on.
        sizes: coordinates of each variable in the map: `{n: len(b) for n, b in phi.blocks.items()}`
        train: other inputs, from whose states and values the PCA and the means come.
        draws: random subspaces.
        seed: of the first draw.

    Raises:
        InputError: the sizes are of other variables or exceed the site, too few draws, or no pair.
    """
    _check(cut, pairs, sizes, train, draws)
    answer, right = constant_answer(pairs)
    named = pairs.variables
    wholes = {f"several active: that of {v!r}": full_vector(cut, pairs, v) for v in named}
    return {
        FULL_VECTOR: _best(FULL_VECTOR, pairs, wholes),
        RANDOM: _random(cut, pairs, sizes, draws, seed),
        PCA: _best(PCA, pairs, _by_components(cut, pairs, sizes, train[0])),
        DIFFERENCE: _difference(cut, pairs, sizes, train),
        NOTHING: Baseline(NOTHING, split(no_intervention(cut, pairs).right, pairs)),
        CONSTANT: Baseline(CONSTANT, split(right, pairs), note=f"answer {answer}"),
    }


def best(given: Iterable[Baseline]) -> Baseline:
    """Return the baseline that is hardest to beat.

    Raises:
        InputError: none is given.
    """
    found = list(given)
    if not found:
        raise InputError("No baseline is given: score at least one before a verdict.")
    return max(found, key=lambda baseline: baseline.highest)


def _random(cut: Cut, pairs: Pairs, sizes: Mapping[str, int], draws: int, seed: int) -> Baseline:
    """The split is of the pairs' mean accuracy over draws."""
    rights = []
    for i in range(draws):
        drawn = RandomSubspace(cut.d, blocks_of(sizes), seed=seed + i).to(cut.states)
        rights.append(score(cut, drawn, pairs).right)
    means = torch.stack(rights).double().mean(0)
    each = tuple(float(right.double().mean()) for right in rights)
    sensitive = pairs.sensitive
    mean = Split(
        sum(each) / len(each),
        _share(means[sensitive]),
        _share(means[~sensitive]),
        int(sensitive.sum()),
        int((~sensitive).sum()),
    )
    return Baseline(RANDOM, mean, draws=each)


def _by_components(
    cut: Cut, pairs: Pairs, sizes: Mapping[str, int], train: Cut
) -> dict[str, Scores]:
    """Which variable gets the leading components is not given: each may come first."""
    basis = principal(train.states)[:, : sum(sizes.values())]
    names, scores = list(sizes), {}
    for i, first in enumerate(names):
        turned = {name: sizes[name] for name in [*names[i:], *names[:i]]}
        blocks = {name: blocks_of(turned)[name] for name in names}
        leading = FixedSubspace(cut.d, blocks, basis).to(cut.states)
        scores[f"{first!r} has the leading components"] = score(cut, leading, pairs)
    return scores


def _difference(
    cut: Cut, pairs: Pairs, sizes: Mapping[str, int], train: tuple[Cut, Table]
) -> Baseline:
    """Directions of several variables are made orthogonal evenly (the nearest orthonormal set)."""
    states, values = train[0].states, train[1].values
    found = [mean_differences(states, values[name], size) for name, size in sizes.items()]
    left, _, right = torch.linalg.svd(torch.cat(found, 1).double(), full_matrices=False)
    ranks = {name: columns.shape[1] for name, columns in zip(sizes, found, strict=True)}
    along = FixedSubspace(cut.d, blocks_of(ranks), left @ right).to(cut.states)
    scored = split(score(cut, along, pairs).right, pairs)
    return Baseline(DIFFERENCE, scored, note=f"ranks {', '.join(map(str, ranks.values()))}")


def _best(name: str, pairs: Pairs, choices: Mapping[str, Scores]) -> Baseline:
    note, scores = max(choices.items(), key=lambda item: item[1].iia)
    return Baseline(name, split(scores.right, pairs), note=note if len(choices) > 1 else "")


def _columns(values: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n m"]:
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    if not flat.is_floating_point() and flat.shape[1] == 1:
        distinct = flat.unique()
        if len(distinct) <= CLASSES:
            return (flat == distinct).double()
    return flat.double()


def _share(right: Tensor) -> float | None:
    return float(right.double().mean()) if len(right) else None


def _width(found: Interval) -> float:
    if found.low is None or found.high is None:
        return -1.0
    return found.high - found.low


def _place(name: str, variables: tuple[str, ...]) -> int:
    if name not in variables:
        raise InputError(
            f"The pairs have no variable {name!r}; they interchange {', '.join(variables)}."
        )
    return variables.index(name)


def _check(
    cut: Cut, pairs: Pairs, sizes: Mapping[str, int], train: tuple[Cut, Table], draws: int
) -> None:
    if not len(pairs):
        raise InputError("There are no pairs to score: draw at least one.")
    if tuple(sizes) != pairs.variables or min(sizes.values()) < 1:
        raise InputError(
            f"sizes={dict(sizes)}: give a size of at least 1 to each of "
            f"{', '.join(pairs.variables)}, in this order."
        )
    if sum(sizes.values()) > cut.d:
        raise InputError(
            f"The sizes {list(sizes.values())} add up to more than the site's {cut.d} dimensions."
        )
    if draws < DRAWS:
        raise InputError(f"{draws} random subspaces: draw at least {DRAWS}.")
    if train[0].d != cut.d or len(train[0].states) != len(train[1]):
        raise InputError(
            f"The training cut has {len(train[0].states)} states of width {train[0].d}, its table "
            f"{len(train[1])} inputs and the site {cut.d} dimensions: cut the same network on the "
            "table's own inputs."
        )
