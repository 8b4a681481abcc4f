"""Swap: by hand on the toy, the laws that a change of part of an activation keeps, and errors.

The toy's resid_mid is 3 t (1, 2, 3, 4) for token t; here token 1 is edited and token 2 the source.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.edits import Patch, Scale, Swap
from interp.errors import EditError, PositionError
from tests.strategies import (
    MODELS,
    ToyModel,
    gap,
    is_map,
    names,
    noise,
    one_of_each,
    orthonormal,
    prompts,
    same,
    says,
    tiny,
    token_shape,
)

TOY = ToyModel()
AXES = torch.eye(4)
laws = settings(deadline=None, derandomize=True, max_examples=8)
SITES = [(name, site) for name in MODELS for site in one_of_each(name) if not is_map(site)]


def mids(tokens: list[list[int]]) -> Tensor:
    return TOY.run(tokens, capture="0.resid_mid").acts["0.resid_mid"]


def mid(*edits: Swap, prompt: int = 1) -> list[float]:
    """The residual stream at resid_mid of a prompt of one token; logits are 11 times that."""
    return (TOY.run([[prompt]], edits=edits).logits[0, 0] / 11).tolist()


class Rotation:
    """Latents are the coordinates along orthonormal rows."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def forward(self, act: Tensor) -> Tensor:
        return act @ self.rows.T.to(act)

    def inverse(self, latent: Tensor) -> Tensor:
        return latent @ self.rows.to(latent)


class Doubling:
    """Latents are twice the entries in reverse order."""

    def forward(self, act: Tensor) -> Tensor:
        return 2 * act.flip(-1)

    def inverse(self, latent: Tensor) -> Tensor:
        return latent.flip(-1) / 2


# ---------------------------------------------------------------- by hand


def test_coordinates_of_the_source_by_hand():
    """(3, 6, 9, 12) takes entries of (6, 12, 18, 24)."""
    two = mids([[2]])
    assert mid(Swap("0.resid_mid", source=two, basis=AXES[:1])) == [6, 6, 9, 12]
    assert mid(Swap("0.resid_mid", source=two, basis=AXES[[3, 1]])) == [3, 12, 9, 24]
    assert mid(Swap("0.resid_mid", source=two, basis=AXES, block=(2,))) == [3, 6, 18, 12]
    assert mid(Swap("0.resid_mid", source=two, basis=AXES[[3, 1, 0]], block=(2, 0))) == [
        6,
        6,
        9,
        24,
    ]


def test_a_slanted_direction_by_hand():
    """The difference (3, 6, 9, 12) has 0.6 x 3 + 0.8 x 6 = 6.6 along (0.6, 0.8, 0, 0)."""
    slanted = torch.tensor([[0.6, 0.8, 0, 0]])
    found = mid(Swap("0.resid_mid", source=mids([[2]]), basis=slanted))
    assert found == pytest.approx([3 + 6.6 * 0.6, 6 + 6.6 * 0.8, 9, 12], abs=1e-5)


def test_latents_of_a_map_by_hand():
    """Latents 0 and 3 of the reversing map are entries 3 and 0."""
    edit = Swap("0.resid_mid", source=mids([[2]]), map=Doubling(), block=(0,))
    assert mid(edit) == [3, 6, 9, 24]
    assert mid(replace(edit, block=(0, 3))) == [6, 6, 9, 24]


def test_positions_rows_heads_and_source_positions():
    """Head 3's second entry, of prompt 1, from position 0: z there is (6, 8) for token 2."""
    source = TOY.run([[0, 1], [2, 1]], capture="0.attn.z").acts["0.attn.z"]
    edit = Swap(
        "0.attn.z",
        source=source,
        basis=torch.eye(2)[1:],
        heads=3,
        rows=1,
        positions=1,
        source_positions=0,
    )
    run = TOY.run([[1, 1], [1, 1]], edits=[edit], capture="0.attn.z")
    assert run.receipt[0].tokens == ((1, 1),)
    assert run.receipt[0].change == 4
    assert run.acts["0.attn.z"][1, 1].tolist() == [[1, 2], [1, 2], [3, 4], [3, 8]]
    assert run.acts["0.attn.z"][1, 0].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert run.acts["0.attn.z"][0, 1].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_several_swaps_of_one_site_take_each_its_own_source():
    one, other = mids([[2]]), mids([[3]])
    swaps = [
        Swap("0.resid_mid", source=one, basis=AXES, block=(0,)),
        Swap("0.resid_mid", source=other, basis=AXES, block=(3, 1)),
    ]
    assert mid(*swaps) == mid(*swaps[::-1]) == [6, 18, 9, 36]


def test_a_source_may_come_from_an_edited_run():
    """A run whose resid_mid is 10 times that of token 2, itself swapped in one place."""
    inner = Swap("0.resid_mid", source=mids([[3]]), basis=AXES[:1])
    edited = TOY.run([[2]], edits=[Scale("0.resid_mid", factor=10.0), inner], capture="0.resid_mid")
    source = edited.acts["0.resid_mid"]
    assert source[0, 0].tolist() == [9, 120, 180, 240]
    assert mid(Swap("0.resid_mid", source=source, basis=AXES[:2])) == [9, 120, 9, 12]


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize(("name", "site"), SITES)
def test_a_run_swapped_with_itself_keeps_every_bit(name, site):
    model, batch = tiny(name), [[5, 60, 7, 200], [9, 33]]
    clean = model.run(batch, capture=site)
    d = token_shape(name, site)[-1]
    edit = Swap(site, source=clean.acts[site], basis=orthonormal(min(3, d), d, seed=3))
    again = model.run(batch, edits=[edit], capture=site)
    assert same(again.logits, clean.logits)
    assert same(again.acts[site], clean.acts[site])
    assert (again.receipt[0].fired, again.receipt[0].change) == (1, 0.0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, str, list[list[int]]]:
    name = draw(names)
    site = draw(st.sampled_from([site for each, site in SITES if each == name]))
    return name, site, draw(prompts(max_length=5))


def swapped(name: str, batch, *edits: Patch, site: str) -> Tensor:
    return tiny(name).run(batch, edits=edits, capture=site).acts[site]


def ingredients(name: str, site: str, batch) -> tuple[Tensor, Tensor, float]:
    """A source, a full basis, and what float32 may leave."""
    rest = token_shape(name, site)
    act = tiny(name).run(batch, capture=site).acts[site]
    source = noise(len(batch), max(map(len, batch)), *rest, seed=4)
    rounding = 1e-5 * max(1.0, float(act.nan_to_num().abs().max()))
    return source, orthonormal(rest[-1], rest[-1], seed=5), rounding


@given(cases(), st.integers(1, 7))
@laws
def test_blocks_commute_complement_each_other_and_a_full_basis_is_a_patch(case, k):
    name, site, batch = case
    source, basis, rounding = ingredients(name, site, batch)
    some, rest = tuple(range(k)), tuple(range(k, len(basis)))
    one = Swap(site, source=source, basis=basis, block=some)
    other = Swap(site, source=source, basis=basis, block=rest)
    whole = swapped(name, batch, Swap(site, source=source, basis=basis), site=site)
    patch = swapped(name, batch, Patch(site, source=source), site=site)
    forth, back = (
        swapped(name, batch, *order, site=site) for order in ([one, other], [other, one])
    )
    assert gap(whole, patch) <= rounding
    assert gap(forth, back) <= rounding
    assert gap(forth, patch) <= rounding
    half = swapped(name, batch, one, site=site)
    assert gap(half, patch) > 1e3 * rounding  # half of it is not all of it
    along = (half - patch) @ basis[list(some)].T
    assert float(along.nan_to_num().abs().max()) <= rounding


@given(cases(), st.lists(st.integers(0, 7), min_size=1, max_size=7, unique=True))
@laws
def test_the_map_of_a_rotation_is_the_basis_of_its_rows(case, block):
    name, site, batch = case
    source, basis, rounding = ingredients(name, site, batch)
    by_rows = Swap(site, source=source, basis=basis[block])
    by_basis = Swap(site, source=source, basis=basis, block=tuple(block))
    by_map = Swap(site, source=source, map=Rotation(basis), block=tuple(block))
    acts = [swapped(name, batch, edit, site=site) for edit in (by_rows, by_basis, by_map)]
    assert gap(acts[0], acts[1]) <= rounding
    assert gap(acts[0], acts[2]) <= rounding
    clean = tiny(name).run(batch, capture=site).acts[site]
    outside = (acts[0] - clean) - (acts[0] - clean) @ basis[block].T @ basis[block]
    assert float(outside.nan_to_num().abs().max()) <= rounding  # nothing else changes


# ---------------------------------------------------------------- what is refused

SOURCE = torch.zeros(1, 1, 4)
SWAP = "Swap(0.resid_mid)"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, f"{SWAP}: give a basis or a map, one of them."),
        ({"basis": AXES, "map": Doubling()}, f"{SWAP}: give a basis or a map, one of them."),
        (
            {"basis": torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0]])},
            f"{SWAP}: the rows of the basis are off from orthonormal by 0.5; make them so with "
            "interp.bases.orthonormal.",
        ),
        (
            {"basis": torch.tensor([[1.01, 0, 0, 0]])},
            f"{SWAP}: the rows of the basis are off from orthonormal by 0.02; make them so with "
            "interp.bases.orthonormal.",
        ),
        (
            {"basis": torch.full((1, 4), torch.nan)},
            f"{SWAP}: the rows of the basis are off from orthonormal by nan; make them so with "
            "interp.bases.orthonormal.",
        ),
        (
            {"basis": AXES[:2], "block": (0, 2)},
            f"{SWAP}: there is no row 2; the basis has 2.",
        ),
        ({"map": Doubling()}, f"{SWAP}: say which latents to swap, such as block=(0, 1)."),
        (
            {"basis": AXES, "block": (1, 1)},
            "block=(1, 1): give indices from 0, each once, such as (0, 3).",
        ),
        (
            {"map": Doubling(), "block": -1},
            "block=-1: give indices from 0, each once, such as (0, 3).",
        ),
    ],
)
def test_what_makes_no_swap_is_refused_when_it_is_made(arguments, text):
    with says(EditError, text):
        Swap("0.resid_mid", source=SOURCE, **arguments)


def test_what_does_not_fit_the_activation_is_refused_in_the_run():
    wide = torch.eye(5)[:1]
    shape = "PyTorch would broadcast, so give exactly that shape."
    with says(
        EditError,
        f"{SWAP}: the basis has shape [5] a token and the activation [4]; {shape}",
    ):
        TOY.run([[1]], edits=[Swap("0.resid_mid", source=SOURCE, basis=wide)])
    with says(EditError, f"{SWAP}: there is no latent 4; the map has 4."):
        TOY.run([[1]], edits=[Swap("0.resid_mid", source=SOURCE, map=Doubling(), block=4)])
    with says(
        EditError,
        f"{SWAP}: the source has shape [3] a token and the activation [4]; {shape}",
    ):
        TOY.run([[1]], edits=[Swap("0.resid_mid", source=torch.zeros(1, 1, 3), basis=AXES)])
    with says(
        PositionError,
        f"{SWAP}: the source of 1 tokens has no token at position 1; capture it from a prompt that "
        "is long enough.",
    ):
        TOY.run([[1, 2]], edits=[Swap("0.resid_mid", source=SOURCE, basis=AXES)])
    with says(
        EditError,
        f"{SWAP}: the source holds 1 prompts and the batch 2; expand the source to one entry a "
        "prompt.",
    ):
        TOY.run([[1], [2]], edits=[Swap("0.resid_mid", source=SOURCE, basis=AXES)])
