"""Linear probes: fitted in closed form or by logistic regression, and what they are scored against.

`interp.alignment.probes` tests them causally; a probe alone says what can be read, not what is
used.

Sources: Alain and Bengio 2016, arXiv:1610.01644 (linear probes); Hewitt and Liang 2019,
arXiv:1909.03368 (control labels); Ganin and Lempitsky 2015, arXiv:1409.7495 (gradient reversal).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from interp.errors import InputError


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


def classes_of(values: Tensor) -> int | None:
    """Return how many classes whole numbers or booleans name; None for real values."""
    return None if values.is_floating_point() else max(2, int(values.max()) + 1)


def _one_hot(values: Tensor, n_classes: int | None) -> Tensor:
    n = classes_of(values) if n_classes is None else n_classes
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


# ---------------------------------------------------------------- scoring


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
