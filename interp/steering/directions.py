"""Directions of steering: found from two sets of prompts, read off the unembedding, or random.

What a `Direction` is, and how it is kept, stands in `interp.directions`. `fit` reads every site in
one pass over the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp import bases
from interp.directions import Direction, data_hash, require_wide
from interp.engine.model import Model
from interp.errors import InputError, nearest
from interp.models.tokens import Inputs
from interp.models.weights import weights_hash
from interp.sites import Site, parse_sites

Method = Literal["difference_of_means", "pca_of_differences", "probe_normal"]

FITS: dict[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "difference_of_means": bases.difference_of_means,
    "pca_of_differences": lambda a, b: bases.pca_of_differences(a, b, 1),
    "probe_normal": lambda a, b: bases.probe_normal(torch.cat([a, b]), [1] * len(a) + [0] * len(b)),
}
"""How the activations of two prompt sets give a unit vector `[1, d_model]`; see `interp.bases`."""


def fit(
    model: Model,
    positive: Inputs,
    negative: Inputs,
    sites: str | Site | Iterable[str | Site],
    *,
    method: Method = "difference_of_means",
    position: Literal["last"] | int = "last",
    batch_size: int = 16,
) -> list[Direction]:
    """Return the direction from the negative to the positive prompts at each site, in order.

    Args:
        method: `difference_of_means`, `pca_of_differences` (prompt i of both sets is a pair) or
            `probe_normal` (logistic); what each means stands in `interp.bases`.
        position: the token that is read in each prompt.

    Raises:
        InputError: no such method, sets that are no pairs where pairs are needed, or activations
            that give no direction.
        SiteError: a site that the model does not have, or without a d_model axis.
        PositionError: a position outside a prompt.
    """
    if method not in FITS:
        raise InputError(
            f"method={method!r}: there are {', '.join(FITS)}.{nearest(str(method), FITS)}"
        )
    wanted = [require_wide(site) for site in parse_sites(sites)]
    model.check_sites(wanted)
    first, second = (model.tokens(side).prompt_ids for side in (positive, negative))
    if method == "pca_of_differences" and len(first) != len(second):
        raise InputError(
            f"pca_of_differences needs pairs, and there are {len(first)} positive and "
            f"{len(second)} negative prompts: give as many of each, in one order."
        )
    high = activations(model, first, wanted, position=position, batch_size=batch_size)
    low = activations(model, second, wanted, position=position, batch_size=batch_size)
    made = {"model": model.name, "weights": weights_hash(model.hf), "position": str(position)}
    made |= {"n_positive": len(first), "n_negative": len(second)}
    made |= {"data": data_hash([first, second])}
    return [_fitted(method, high[str(s)], low[str(s)], str(s), made) for s in wanted]


def _fitted(method: Method, high: Tensor, low: Tensor, site: str, made: dict) -> Direction:
    try:
        vector = FITS[method](high, low)[0]
        bases.difference_of_means(high, low)  # its length is the dose: refuse sets with one mean
    except InputError as error:
        raise InputError(f"{method} at {site}: {error}") from error
    norm = float((high.double().mean(0) - low.double().mean(0)).norm())
    return Direction(vector, site, method, norm, **made)


def logit_lens(
    model: Model,
    sites: str | Site | Iterable[str | Site],
    token: int,
    against: int,
    *,
    norm: float | None = None,
) -> list[Direction]:
    """Return the direction of `token` less `against` in the unembedding, at each site.

    The final norm's weights are left out. `norm` is the size of a dose; by default the length of
    the difference of the two rows.

    Raises:
        InputError: a token outside the vocabulary, or two tokens with one row.
        SiteError: as in `fit`.
    """
    rows = model.hf.get_output_embeddings().weight.detach()  # type: ignore[union-attr]
    vector = bases.logit_lens(rows, [token], [against])[0]
    norm = float((rows[token] - rows[against]).norm()) if norm is None else norm
    return given(model, sites, vector, method=f"logit_lens {token} - {against}", norm=norm)


def random(
    model: Model, sites: str | Site | Iterable[str | Site], seed: int, *, norm: float = 1.0
) -> list[Direction]:
    """Return one random direction, drawn uniformly, at each site; see also `Direction.twin`.

    Raises:
        SiteError: as in `fit`.
    """
    vector = bases.random_basis(1, model.sizes.d_model, seed)[0]
    return [
        replace(each, seed=seed) for each in given(model, sites, vector, method="random", norm=norm)
    ]


def given(
    model: Model,
    sites: str | Site | Iterable[str | Site],
    vector: Float[Tensor, " d"],
    *,
    method: str = "given",
    norm: float | None = None,
) -> list[Direction]:
    """Return a vector from elsewhere as a direction at each site; `norm` is by default its length.

    Raises:
        InputError: the vector has not d_model entries, is zero or not finite.
        SiteError: as in `fit`.
    """
    wanted = [require_wide(site) for site in parse_sites(sites)]
    model.check_sites(wanted)
    if len(vector) != model.sizes.d_model:
        raise InputError(
            f"The vector has {len(vector)} entries and {model.name} needs {model.sizes.d_model}."
        )
    unit = bases.orthonormal(vector.detach()[None])[0]
    size = float(vector.double().norm()) if norm is None else norm
    weights = weights_hash(model.hf)
    return [Direction(unit, str(site), method, size, model.name, weights) for site in wanted]


def activations(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    *,
    position: Literal["last"] | int = "last",
    batch_size: int = 16,
) -> dict[str, Float[Tensor, "n d_model"]]:
    """Return each prompt's activation at one position, by site.

    Raises:
        PositionError: a position outside a prompt.
        InputError: batch_size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: run at least 1 prompt at a time.")
    found: dict[str, list[Tensor]] = {str(site): [] for site in sites}
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        run = model.run(part, capture=dict.fromkeys(sites, position), logits="last")
        for site in found:
            found[site].append(run.acts[site][:, 0])
    return {site: torch.cat(parts) for site, parts in found.items()}
