"""Orthonormal bases of subspaces `[k, d]`, and the directions that people look for in activations.

Every function returns rows that are orthonormal in float64, in the type of what it was given.
Activations are rows `[n, d]`, one prompt (or token) each. What has no answer is refused: a value
that is not finite, too few rows, directions that depend on each other. Nothing here is random but
`random_basis`, which has a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

DEPENDENT = 1e-6
"""Directions count as dependent where a singular value is below this share of the largest."""

Probe = Literal["logistic", "ridge"]


def orthonormal(directions: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Return an orthonormal basis of the span of some directions (Gram-Schmidt, in their order).

    The first row is the first direction at unit length, and each row points the way of its own.

    >>> orthonormal(torch.tensor([[0.0, 2.0, 0.0], [3.0, 3.0, 0.0]])).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]

    Raises:
        InputError: a value is not finite, or the directions depend on each other.
    """
    rows = _finite(directions, "directions")
    k, d = rows.shape
    if not 0 < k <= d:
        raise InputError(f"{k} directions in {d} dimensions: give between 1 and {d}.")
    norms = rows.norm(dim=1)
    if float(norms.min()) == 0:
        raise InputError(
            f"Direction {int(norms.argmin())} of {k} is zero, so it points nowhere: leave it out."
        )
    rows = rows / norms[:, None]
    rank = int(torch.linalg.matrix_rank(rows, rtol=DEPENDENT))
    if rank < k:
        raise InputError(
            f"The {k} directions span only {rank} dimensions: leave out those that the others make."
        )
    q, r = torch.linalg.qr(rows.T)
    signs = r.diagonal().sign()
    return (q * signs).T.contiguous().to(directions.dtype) + 0.0  # no negative zeros


def pca(acts: Float[Tensor, "n d"], k: int) -> Float[Tensor, "k d"]:
    """Return the k directions in which activations vary most, the first one first.

    Rows are centred. A direction has no sign: the entry of largest size is made positive.

    Raises:
        InputError: a value is not finite, fewer than k + 1 rows, or variance in fewer than k
            directions.
    """
    rows = _finite(acts, "acts")
    _enough(len(rows), k + 1, f"{k} principal directions of centred rows")
    basis = _leading(rows - rows.mean(0), k, "acts", float(rows.norm()))
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return (basis * largest.sign()).to(acts.dtype)


def difference_of_means(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "1 d"]:
    """Return the unit vector from the mean of `b` to the mean of `a`.

    Source: Marks and Tegmark 2023, arXiv:2310.06824 (mass-mean); Rimsky et al. 2023,
    arXiv:2312.06681.

    >>> difference_of_means(torch.tensor([[3.0, 5.0]]), torch.tensor([[0.0, 1.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]

    Raises:
        InputError: a value is not finite, a side is empty, or both have one mean.
    """
    first, second = _two(a, b)
    difference = first.mean(0) - second.mean(0)
    scale = max(float(first.norm(dim=1).mean()), float(second.norm(dim=1).mean()))
    if float(difference.norm()) <= 1e-9 * scale:
        raise InputError(
            "The two sets have one mean, so there is no difference to point along: choose another "
            "site or position, or sets that differ."
        )
    return (difference / difference.norm())[None].to(a.dtype)


def pca_of_differences(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], k: int
) -> Float[Tensor, "k d"]:
    """Return the k directions along which pairs differ most; each points from `b` towards `a`.

    Row i of `a` and of `b` are a pair. The differences are not centred: that is the PCA of all
    differences taken both ways, `a - b` and `b - a`, whose mean is zero. Source: Zou et al. 2023,
    arXiv:2310.01405, who take each pair in a random order to the same end.

    Raises:
        InputError: the sides are no pairs, a value is not finite, fewer than k pairs, or
            differences in fewer than k directions.
    """
    first, second = _two(a, b)
    if len(first) != len(second):
        raise InputError(
            f"a has {len(first)} rows and b has {len(second)}: they must be pairs, in one order."
        )
    _enough(len(first), k, f"{k} principal directions of pairs")
    differences = first - second
    basis = _leading(differences, k, "a - b", float(first.norm()))
    signs = (differences.mean(0) @ basis.T).sign()
    return (basis * torch.where(signs == 0, 1.0, signs)[:, None]).to(a.dtype)


def probe_normal(
    acts: Float[Tensor, "n d"],
    labels: Sequence[int] | Tensor,
    *,
    kind: Probe = "logistic",
    ridge: float = 1.0,
) -> Float[Tensor, "1 d"]:
    """Return the unit normal of a linear probe, pointing from label 0 to label 1.

    With x the centred rows divided by the root of their mean variance, and an intercept c that is
    not penalised, it minimises over w

        logistic  mean log(1 + exp(-y (x w + c))) + ridge / (2 n) |w|^2      y = 2 label - 1
        ridge     mean (y - x w - c)^2 + ridge / n |w|^2

    Both problems are convex: LBFGS in float64 from zero and the closed form give one answer.
    Source: Alain and Bengio 2016, arXiv:1610.01644.

    Raises:
        InputError: labels other than 0 and 1 or only one of them, no row for each label, a value
            that is not finite, or ridge not above 0.
    """
    rows, targets = _finite(acts, "acts"), _labels(labels, len(acts))
    if kind not in ("logistic", "ridge"):
        raise InputError(f"kind={kind!r}: write 'logistic' or 'ridge'.")
    if not 0 < ridge < float("inf"):
        raise InputError(f"ridge={ridge}: give a number above 0, or the normal has no limit.")
    x = rows - rows.mean(0)
    spread = float(x.square().mean().sqrt())
    if spread <= 1e-9 * float(rows.abs().max()):
        raise InputError("All rows of acts are equal, so no probe tells them apart.")
    targets = targets.to(x.device)
    normal = (_logistic if kind == "logistic" else _ridge)(x / spread, targets, ridge)
    if float(normal.norm()) <= 1e-9:
        raise InputError("The probe found nothing to tell the labels apart by: its normal is zero.")
    return (normal / normal.norm())[None].to(acts.dtype)


def logit_lens(
    unembedding: Float[Tensor, "d_vocab d"],
    tokens: Sequence[int],
    against: Sequence[int] | None = None,
) -> Float[Tensor, "k d"]:
    """Return a basis of the unembedding rows of some tokens, or of rows less rows `against`.

    The final norm lies between the residual stream and these rows and is left out. Source:
    nostalgebraist 2020, interpreting GPT: the logit lens.

    Raises:
        InputError: a token is outside the vocabulary, `against` is not one for each token, or the
            rows depend on each other.
    """
    if against is not None and len(against) != len(tokens):
        raise InputError(
            f"There are {len(tokens)} tokens and {len(against)} against them: give one for each."
        )
    outside = [t for t in (*tokens, *(against or ())) if not 0 <= t < len(unembedding)]
    if outside:
        raise InputError(
            f"There is no token {outside[0]}: the unembedding has {len(unembedding)} rows."
        )
    rows = unembedding[list(tokens)].detach()
    return orthonormal(rows if against is None else rows - unembedding[list(against)].detach())


def random_basis(
    k: int, d: int, seed: int, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "k d"]:
    """Return k orthonormal directions drawn uniformly; PyTorch's own random state is untouched.

    Raises:
        InputError: k is not between 1 and d.
    """
    _dimension(k, d)
    stream = torch.Generator().manual_seed(seed)
    return orthonormal(torch.randn(k, d, generator=stream, dtype=torch.float64)).to(dtype)


def neurons(
    indices: Sequence[int], d: int, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "k d"]:
    """Return the axes of some neurons or coordinates.

    >>> neurons([2, 0], 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]

    Raises:
        InputError: an index lies outside 0 to d - 1 or is named twice.
    """
    _dimension(len(indices), d)
    outside = [i for i in indices if not 0 <= i < d]
    if outside or len(set(indices)) != len(indices):
        raise InputError(f"indices={list(indices)}: give each once, from 0 to {d - 1}.")
    return torch.eye(d, dtype=dtype)[list(indices)]


def _finite(rows: Tensor, name: str) -> Float[Tensor, "n d"]:
    bad = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"{name}: row {bad[0]}, one of {len(bad)}, holds a value that is not finite; "
            "drop it, or check that it is no padding."
        )
    return rows.detach().double()


def _two(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    first, second = _finite(a, "a"), _finite(b, "b")
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"a has rows of {first.shape[1]} entries and b of {second.shape[1]}: take both from "
            "one site."
        )
    _enough(min(len(first), len(second)), 1, "a mean on each side")
    return first, second


def _enough(n: int, needed: int, what: str) -> None:
    if n < needed:
        raise InputError(f"{n} rows cannot give {what}: at least {needed} are needed.")


def _dimension(k: int, d: int) -> None:
    if not 1 <= k <= d:
        raise InputError(f"k={k} directions in d={d} dimensions: give between 1 and {d}.")


def _leading(rows: Tensor, k: int, name: str, scale: float) -> Float[Tensor, "k d"]:
    """The first k right singular vectors; rounding of rows of norm `scale` is no variance."""
    _dimension(k, rows.shape[1])
    _, singular, basis = torch.linalg.svd(rows, full_matrices=False)
    floor = max(DEPENDENT * float(singular[0]), 1e-9 * scale)
    rank = int((singular > floor).sum())
    if rank < k:
        raise InputError(
            f"{name} varies in {rank} directions and k={k} were asked for: ask for fewer, or give "
            "more varied rows."
        )
    return basis[:k]


def _labels(labels: Sequence[int] | Tensor, n: int) -> Float[Tensor, " n"]:
    """Return labels 0 and 1 as -1 and 1."""
    values = [float(label) for label in labels]
    if len(values) != n:
        raise InputError(f"There are {n} rows and {len(values)} labels: give one for each row.")
    if set(values) != {0.0, 1.0}:
        raise InputError(
            f"labels hold {sorted(set(values))[:5]}: a probe needs both 0 and 1, and nothing else."
        )
    return 2 * torch.tensor(values, dtype=torch.float64) - 1


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Float[Tensor, " d"]:
    """Closed form in the rows: w = x' (x x' + ridge)^-1 (y - mean y), for centred x."""
    gram = x @ x.T + ridge * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return x.T @ torch.linalg.solve(gram, y - y.mean())


def _logistic(x: Tensor, y: Tensor, ridge: float) -> Float[Tensor, " d"]:
    w = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w],
        max_iter=1000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        margin = y * (x @ w[:-1] + w[-1])
        value = torch.nn.functional.softplus(-margin).mean()
        value = value + ridge / (2 * len(x)) * w[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[arg-type]
    return w.detach()[:-1]
