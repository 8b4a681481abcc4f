"""Laws that every edit keeps, at every site, for any prompts: on tiny GPT-2 and tiny Llama.

Where a batch has another shape, sums are taken in another order: float32 then leaves a few
roundings of the largest entry. All else is equal bit for bit.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.edits import Add, Edit, Patch, Scale, ZeroAblate
from interp.engine.attention import EXPLICIT
from interp.sites import KV_HEADED, Site
from tests.strategies import (
    MODELS,
    by_token,
    editable,
    edited,
    gap,
    is_map,
    kinds,
    make,
    names,
    noise,
    places,
    prompts,
    same,
    sites,
    tensors,
    tiny,
    token_shape,
)

ROUNDING = 32 * torch.finfo(torch.float32).eps
"""About 4e-6 of the largest entry; three layers of float32 are seen to leave a third of it."""

laws = settings(deadline=None, derandomize=True, max_examples=20)
EVERY_SITE = [(name, site) for name in MODELS for site in editable(name)]


def run(name, batch, *edits, **options):
    return tiny(name).run(batch, edits=list(edits), **options)


def width(batch: list[list[int]]) -> int:
    """How many tokens the longest prompt has."""
    return max(map(len, batch))


def rounding(act: torch.Tensor) -> float:
    """What float32 may leave in these numbers."""
    return ROUNDING * max(1.0, float(act.nan_to_num().abs().max()))


# ---------------------------------------------------------------- no-ops


@pytest.mark.parametrize(("name", "site"), EVERY_SITE)
def test_a_patch_with_a_runs_own_values_changes_no_bit(name, site):
    batch = [[5, 60, 7, 200], [9, 33]]
    clean = run(name, batch, capture=site)
    again = run(name, batch, Patch(site, source=clean.acts[site]), capture=site)
    assert same(again.logits, clean.logits)
    assert same(again.acts[site], clean.acts[site])
    proof = again.receipt[0]
    assert (proof.fired, proof.change, proof.acted, again.receipt.acted) == (1, 0.0, False, False)
    assert proof.tokens == ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1))
    assert proof.before > 0
    if Site.parse(site).component not in EXPLICIT | {"attn.result"}:  # those compute otherwise
        assert same(again.logits, run(name, batch).logits)


@given(names, prompts(), st.data())
@laws
def test_scaling_by_one_and_adding_nothing_are_no_ops_that_say_so(name, batch, data):
    site = data.draw(sites(name))
    at = data.draw(st.one_of(st.just("all"), places(batch)))
    clean = run(name, batch, capture=site)
    vector = noise(token_shape(name, site, width(batch))[-1])
    nothing = Add(site, vector=vector, coefficient=0.0, positions=at)
    for edit in (Scale(site, factor=1.0, positions=at), nothing):
        again = run(name, batch, edit, capture=site)
        assert same(again.logits, clean.logits)
        assert (again.receipt[0].fired, again.receipt.acted) == (1, False)
        assert str(again.receipt).endswith("NO-OP: it fired and changed nothing")


@given(names, prompts(), st.data())
@laws
def test_zero_ablation_is_scaling_by_zero(name, batch, data):
    site = data.draw(sites(name))
    at = data.draw(st.one_of(st.just("all"), places(batch)))
    zero = run(name, batch, ZeroAblate(site, positions=at), capture=site)
    scaled = run(name, batch, Scale(site, factor=0.0, positions=at), capture=site)
    assert same(zero.logits, scaled.logits)
    proof = zero.receipt[0]
    assert proof.acted
    assert proof.change == proof.before == scaled.receipt[0].change
    after = by_token(site, zero.acts[site])
    chosen = after if at == "all" else after[:, list(at)]
    assert chosen.nan_to_num().abs().max() == 0


@given(names, prompts(), st.data())
@laws
def test_adding_a_vector_and_taking_it_away_restores_the_run(name, batch, data):
    site = data.draw(sites(name))
    vector = noise(token_shape(name, site, width(batch))[-1], seed=data.draw(st.integers(0, 99)))
    there, back = Add(site, vector=vector), Add(site, vector=vector, coefficient=-1.0)
    clean = run(name, batch, capture=site)
    restored = run(name, batch, there, back, capture=site)
    assert gap(restored.logits, clean.logits) <= 1e-5  # (x + v) - v is rounded twice
    assert restored.receipt.acted
    assert restored.receipt[0].change == pytest.approx(restored.receipt[1].change, rel=1e-4)


# ---------------------------------------------------------------- what an edit reaches


@given(edited())
@laws
def test_only_named_tokens_change_at_the_site_and_only_they_and_later_ones_after_it(case):
    name, batch, site, edit = case.name, case.batch, case.site, case.edit
    clean, after = run(name, batch, capture=site), run(name, batch, edit, capture=site)
    named = range(width(batch)) if edit.positions == "all" else edit.positions
    others = [pos for pos in range(width(batch)) if pos not in named]
    old, new = (by_token(site, each.acts[site]) for each in (clean, after))
    assert same(new[:, others], old[:, others])
    first = min(named)
    assert not first or gap(after.logits[:, :first], clean.logits[:, :first]) <= 1e-6
    proof = after.receipt[0]
    assert proof.tokens == tuple(
        (row, pos) for row, ids in enumerate(batch) for pos in sorted(named) if pos < len(ids)
    )
    change = (new - old).nan_to_num().double().norm()
    assert proof.change == pytest.approx(float(change), rel=1e-9)
    assert proof.acted and (proof.fired, proof.missed) == (1, ())


@given(names, prompts(), kinds, st.data())
@laws
def test_only_named_heads_change(name, batch, kind, data):
    site = data.draw(sites(name).filter(lambda site: Site.parse(site).headed))
    heads = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
    edit = make(name, kind, site, batch, heads=heads)
    clean, after = run(name, batch, capture=site), run(name, batch, edit, capture=site)
    group = tiny(name).sizes.group if Site.parse(site).component in KV_HEADED else 1
    named = {head // group for head in heads}
    old, new = (by_token(site, each.acts[site]) for each in (clean, after))
    changed = (new != old) & ~old.isnan()
    by_head = changed.flatten(0, 1).any(-1).any(0)
    assert set(by_head.nonzero().flatten().tolist()) == named


@given(names, prompts(), st.data())
@laws
def test_only_named_units_change(name, batch, data):
    site = data.draw(sites(name))
    last = token_shape(name, site, width(batch))[-1] - 1
    units = data.draw(st.lists(st.integers(0, last), min_size=1, max_size=3, unique=True))
    edit = Add(site, vector=torch.ones(len(units)), units=units)
    if Site.parse(site).headed:
        edit = Add(site, vector=torch.ones(len(units)), units=units, heads=(2, 0))
    clean, after = run(name, batch, capture=site), run(name, batch, edit, capture=site)
    changed = (after.acts[site] != clean.acts[site]) & ~clean.acts[site].isnan()
    assert set(changed.flatten(0, -2).any(0).nonzero().flatten().tolist()) == set(units)


@given(names, prompts(max_rows=4), kinds, st.data())
@laws
def test_only_named_prompts_change_and_they_as_if_all_were_named(name, batch, kind, data):
    site = data.draw(sites(name))
    rows = data.draw(
        st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=len(batch), unique=True)
    )
    some = run(name, batch, make(name, kind, site, batch, rows=rows))
    every, none = run(name, batch, make(name, kind, site, batch)), run(name, batch)
    for row in range(len(batch)):
        expected = every if row in rows else none
        assert gap(some.logits[row], expected.logits[row]) <= rounding(expected.logits)
    assert {row for row, _ in some.receipt[0].tokens} == set(rows)


@given(names, prompts(), st.data())
@laws
def test_patching_all_that_enters_a_layer_gives_the_other_prompts_logits(name, batch, data):
    """An interchange of everything is the other run: one prompt for another of its length."""
    others = [[(token * 7) % 330 + 3 for token in ids] for ids in batch]
    layer = data.draw(st.integers(0, 2))
    site = f"{layer}.{data.draw(st.sampled_from(['resid_pre', 'resid_post']))}"
    source = run(name, others, capture=site)
    patched = run(name, batch, Patch(site, source=source.acts[site]))
    assert gap(patched.logits, source.logits) <= rounding(source.logits)


# ---------------------------------------------------------------- order, batches, padding


def disjoint(name: str, batch, data) -> tuple[Edit, Edit]:
    """Two edits that touch no entry in common: other positions, other heads or other sites."""
    way = data.draw(st.sampled_from(["positions", "heads", "sites"]))
    first, second = data.draw(kinds), data.draw(kinds)
    if way == "positions":
        site = data.draw(sites(name))
        return (
            make(name, first, site, batch, positions=0),
            make(name, second, site, batch, positions=1),
        )
    if way == "heads":
        site = data.draw(sites(name).filter(lambda site: Site.parse(site).headed))
        return (
            make(name, first, site, batch, heads=(3,)),
            make(name, second, site, batch, heads=(1, 0)),
        )
    one, other = data.draw(st.lists(sites(name), min_size=2, max_size=2, unique=True))
    return make(name, first, one, batch), make(name, second, other, batch)


@given(names, prompts().map(lambda batch: [[4, 5, *ids] for ids in batch]), st.data())
@laws
def test_edits_that_share_no_entry_commute(name, batch, data):
    one, other = disjoint(name, batch, data)
    forth, back = run(name, batch, one, other), run(name, batch, other, one)
    assert same(forth.logits, back.logits)
    changes = [proof.change for proof in forth.receipt.edits]
    assert changes == [proof.change for proof in back.receipt.edits][::-1]


@given(edited())
@laws
def test_a_batch_gives_what_its_prompts_give_one_by_one(case):
    together = run(case.name, case.batch, case.edit, capture=case.site)
    for row, ids in enumerate(case.batch):
        alone = run(case.name, [ids], case.alone(row), capture=case.site)
        assert gap(together.logits[row, : len(ids)], alone.logits[0]) <= rounding(alone.logits)
        held, own = (by_token(case.site, each.acts[case.site]) for each in (together, alone))
        kept = held[row, : len(ids)]
        kept = kept[..., : len(ids)] if is_map(case.site) else kept
        assert gap(kept, own[0]) <= rounding(own)


@given(edited())
@laws
def test_left_and_right_padding_give_the_same_numbers(case):
    name, batch, site, edit = case.name, case.batch, case.site, case.edit
    left, right = (
        run(name, batch, edit, capture=site, padding_side=side) for side in ("left", "right")
    )
    assert gap(left.logits, right.logits) <= rounding(right.logits)
    ours, theirs = (by_token(site, each.acts[site]) for each in (left, right))
    assert gap(ours, theirs) <= rounding(theirs)
    assert left.receipt[0].tokens == right.receipt[0].tokens
    assert left.ids == right.ids == tuple(map(tuple, batch))


@given(edited())
@laws
def test_a_run_is_repeated_bit_for_bit_and_leaves_the_tensors_of_its_edit_alone(case):
    name, batch, edit = case.name, case.batch, case.edit
    held = {key: value.clone() for key, value in tensors(edit).items()}
    versions = {key: value._version for key, value in tensors(edit).items()}
    first, plain = run(name, batch, edit), run(name, batch)
    second = run(name, batch, edit)
    assert same(first.logits, second.logits)
    assert first.receipt[0].change == second.receipt[0].change
    assert same(run(name, batch).logits, plain.logits)
    assert all(torch.equal(value, held[key]) for key, value in tensors(edit).items())
    assert {key: value._version for key, value in tensors(edit).items()} == versions


@given(names, prompts(), st.data())
@laws
def test_which_logits_are_asked_for_does_not_move_them(name, batch, data):
    site = data.draw(sites(name))
    edit = make(name, data.draw(kinds), site, batch)
    whole = run(name, batch, edit).logits
    last = run(name, batch, edit, logits="last").logits
    ends = [len(ids) - 1 for ids in batch]
    assert gap(last, whole[range(len(batch)), ends]) <= rounding(last)
    at = data.draw(places(batch))
    assert gap(run(name, batch, edit, logits=at).logits, whole[:, list(at)]) <= rounding(last)
    kept = run(name, batch, edit, capture={site: at}).acts[site]
    every = run(name, batch, edit, capture=site).acts[site]
    assert same(kept, every.index_select(2 if is_map(site) else 1, torch.tensor(at)))
