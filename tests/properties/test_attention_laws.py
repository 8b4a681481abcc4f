"""Laws of attention edits, for any row of weights and any keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention
from interp.edits import Where
from interp.errors import EditError
from tests.strategies import tiny

SITE = "0.attn.pattern"
KINDS = ("uniform", "reversed", "shuffled", "random")
laws = settings(deadline=None, derandomize=True, max_examples=15)


Case = tuple[int, int, list[int], int]
"""How many keys, the window, the position of each query, and a seed of the weights."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Queries at any positions, windows of any width; values only."""
    n_keys = draw(st.integers(1, 7))
    pos = draw(st.lists(st.integers(0, n_keys - 1), min_size=1, max_size=4))
    return n_keys, draw(st.integers(1, n_keys)), pos, draw(st.integers(0, 99))


def build(case: Case) -> tuple[torch.Tensor, Where]:
    """Rows of two heads that sum to 1; entry i is of prompt i."""
    n_keys, window, places, seed = case
    pos = torch.tensor(places)
    back = pos[:, None] - torch.arange(n_keys)
    seen = (back >= 0) & (back < window)
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(len(pos), 2, n_keys, generator=generator)
    rows = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    n = len(pos)
    return rows, Where(torch.arange(n), pos, lambda tensor: tensor, n, (2, n_keys), seen)


def unseen(made: torch.Tensor, where: Where) -> float:
    assert where.keys is not None
    return float(made.masked_select(~where.keys[:, None].expand_as(made)).abs().sum())


@laws
@given(cases(), st.sampled_from(KINDS), st.integers(0, 5))
def test_rows_sum_to_one_and_stay_inside_what_is_seen(case, kind, seed):
    rows, where = build(case)
    made = ReplacePattern(SITE, kind=kind, seed=seed).new(rows, where)
    torch.testing.assert_close(made.sum(-1), torch.ones(rows.shape[:2]), rtol=0, atol=1e-6)
    assert unseen(made, where) == 0 and made.min() >= 0


@laws
@given(cases(), st.floats(0.1, 10), st.floats(0.1, 10))
def test_two_scalings_are_one(case, once, twice):
    rows, where = build(case)
    keys = tuple(range(0, rows.shape[-1], 2))
    first = ScaleAttention(SITE, keys=keys, factor=once).new(rows, where)
    both = ScaleAttention(SITE, keys=keys, factor=twice).new(first, where)
    product = ScaleAttention(SITE, keys=keys, factor=once * twice).new(rows, where)
    torch.testing.assert_close(both, product, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both.sum(-1), torch.ones(rows.shape[:2]), rtol=0, atol=1e-6)


@laws
@given(cases(), st.integers(0, 6))
def test_a_knockout_keeps_the_ratios_of_the_rest_and_is_idempotent(case, key):
    rows, where = build(case)
    key %= rows.shape[-1]
    edit = Knockout(SITE, keys=key)
    assert where.keys is not None
    rest = rows.clone()
    rest[..., key] = 0
    if (where.keys[:, key] & (where.keys.sum(1) == 1)).any():
        with pytest.raises(EditError, match="no weight at all"):
            edit.new(rows, where)
        return
    made = edit.new(rows, where)
    assert (made[..., key] == 0).all()
    torch.testing.assert_close(made * rest.sum(-1, keepdim=True), rest, rtol=1e-5, atol=1e-7)
    assert torch.equal(edit.new(made, where), made)
    blind = ~where.keys[:, key]
    assert torch.equal(made[blind], rows[blind])


@laws
@given(cases(), st.integers(0, 9))
def test_a_shuffle_permutes_and_does_not_depend_on_other_entries(case, seed):
    rows, where = build(case)
    edit = ReplacePattern(SITE, kind="shuffled", seed=seed, renormalise=False)
    made = edit.new(rows, where)
    assert torch.equal(made.sort(-1).values, rows.sort(-1).values)
    assert where.keys is not None
    for i in range(len(rows)):
        last = int(where.pos[i]) + 1  # a batch that is no longer than this query
        own = Where(
            where.rows[[i]],
            where.pos[[i]],
            where.select,
            len(rows),
            (2, last),
            where.keys[[i], :last],
        )
        assert torch.equal(edit.new(rows[[i], :, :last], own)[0], made[i, :, :last])


@laws
@given(cases())
def test_a_pattern_given_as_its_own_source_keeps_every_bit(case):
    rows, where = build(case)
    width = rows.shape[-1]
    source = torch.full((len(rows), 2, width, width), torch.nan)
    source[where.rows, :, where.pos] = rows
    assert torch.equal(ReplacePattern(SITE, source=source).new(rows, where), rows)


@settings(deadline=None, derandomize=True, max_examples=8)
@given(
    st.lists(st.integers(3, 99), min_size=3, max_size=12),
    st.lists(st.integers(3, 99), min_size=1, max_size=12),
    st.sampled_from(KINDS),
    st.sampled_from(["left", "right"]),
)
def test_what_stands_beside_a_prompt_does_not_move_its_edit(prompt, beside, kind, side):
    model, edits = tiny("tiny-mistral"), [ReplacePattern("1.attn.pattern", kind=kind, seed=3)]
    alone = model.run(prompt, edits=edits).logits[0]
    together = model.run([beside, prompt], edits=edits, padding_side=side).logits[1, : len(prompt)]
    # float32 sums in another order: the edit laws' 32 roundings of the largest entry.
    bound = 32 * torch.finfo(torch.float32).eps * max(1.0, float(alone.abs().max()))
    assert float((together - alone).abs().max()) < bound
