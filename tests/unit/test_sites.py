"""Sites and positions: their written forms, and the errors that a wrong one gets."""

from __future__ import annotations

import pytest
from hypothesis import given

from interp.errors import PositionError, SiteError
from interp.sites import (
    ATTENTION_MAPS,
    INSIDE_ATTENTION,
    KV_HEADED,
    LAYER_COMPONENTS,
    MODEL_COMPONENTS,
    NAMED,
    QUERY_HEADED,
    UNCACHED,
    Each,
    New,
    Site,
    parse_positions,
    parse_sites,
)
from tests.strategies import says, site_texts

COMPONENT_LIST = "embed, pos_embed, ln_final, logits"
POSITION_RULE = "give 'all', 'prompt', 'last', 'new', New(0), or token indices such as (0, 3)."
NEGATIVE = (
    "is negative: positions count real tokens from 0 at the left, so write the index itself, such "
    "as len(tokens) - 1 for the last."
)


@given(site_texts)
def test_a_site_is_read_back_from_its_written_form(text):
    site = Site.parse(text)
    assert str(site) == text
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site
    assert hash(Site.parse(text)) == hash(site)


def test_layer_and_component_are_read_apart():
    assert Site.parse("12.attn.z") == Site("attn.z", 12)
    assert (Site.parse("12.attn.z").layer, Site.parse("12.attn.z").component) == (12, "attn.z")
    assert (Site.parse("logits").layer, Site.parse("logits").component) == (None, "logits")


def test_only_sites_with_a_head_axis_are_headed():
    headed = [c for c in LAYER_COMPONENTS if Site(c, 0).headed]
    assert headed == [c for c in LAYER_COMPONENTS if c.startswith("attn.")]
    assert set(headed) == QUERY_HEADED | KV_HEADED
    assert not QUERY_HEADED & KV_HEADED
    assert not any(Site(c).headed for c in MODEL_COMPONENTS)


def test_the_sets_of_components_name_components():
    for group in (QUERY_HEADED, KV_HEADED, ATTENTION_MAPS, INSIDE_ATTENTION, UNCACHED):
        assert group <= set(LAYER_COMPONENTS)
    assert ATTENTION_MAPS | UNCACHED <= INSIDE_ATTENTION


def test_order_is_that_of_a_forward_pass():
    shuffled = ["logits", "1.resid_pre", "0.mlp_out", "ln_final", "0.attn.q", "pos_embed", "embed"]
    shuffled += ["0.resid_mid", "1.attn.z", "0.resid_pre", "0.resid_post", "0.attn_out"]
    ordered = sorted(map(Site.parse, shuffled), key=lambda site: site.order)
    assert [str(site) for site in ordered] == [
        "embed",
        "pos_embed",
        "0.resid_pre",
        "0.attn.q",
        "0.attn_out",
        "0.resid_mid",
        "0.mlp_out",
        "0.resid_post",
        "1.resid_pre",
        "1.attn.z",
        "ln_final",
        "logits",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0.atn_out", " Did you mean '0.attn_out'?"),
        ("7.resid_pst", " Did you mean '7.resid_post'?"),
        ("logit", " Did you mean 'logits'?"),
        ("5.attn.zz", " Did you mean '5.attn.z'?"),
        ("-1.attn_out", ""),
        ("attn_out.5", ""),
        ("", ""),
        ("5.", ""),
        ("5.embed", ""),
        (" 5.attn.z", ""),
    ],
)
def test_a_misspelt_site_gets_the_nearest_one(text, hint):
    rule = "write <layer>.<component> such as 5.attn.z, or one of"
    with says(SiteError, f"{text!r} is no site: {rule} {COMPONENT_LIST}.{hint}"):
        Site.parse(text)


def test_several_sites_are_read_in_order_each_once():
    given_ = ["1.attn_out", Site("embed"), "1.attn_out", "embed", "0.mlp_out"]
    assert [str(site) for site in parse_sites(given_)] == ["1.attn_out", "embed", "0.mlp_out"]
    assert parse_sites("2.attn.z") == parse_sites(Site("attn.z", 2)) == (Site("attn.z", 2),)
    assert parse_sites([]) == ()


@pytest.mark.parametrize(
    ("given_", "read"),
    [
        ("all", "all"),
        ("prompt", "prompt"),
        ("last", "last"),
        ("new", "new"),
        (New(2, 0), New(2, 0)),
        (Each(((3,), (5, 6))), Each(((3,), (5, 6)))),
        (0, (0,)),
        (7, (7,)),
        ([3, 1], (3, 1)),
        ((2,), (2,)),
        (range(1, 4), (1, 2, 3)),
    ],
)
def test_positions_are_read(given_, read):
    assert parse_positions(given_) == read


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ("lst", f"positions='lst': {POSITION_RULE}"),
        (None, f"positions=None: {POSITION_RULE}"),
        (1.5, f"positions=1.5: {POSITION_RULE}"),
        ([0, 1.0], "positions=[0, 1.0]: 1.0 is not a whole number."),
        ([0, "1"], "positions=[0, '1']: '1' is not a whole number."),
        (True, "positions=True: True is not a whole number."),
        ([False], "positions=[False]: False is not a whole number."),
        ([], "positions=[] names no position: name each position once."),
        ((2, 0, 2), "positions=(2, 0, 2) names a position twice: name each position once."),
        ([3, -1], f"Position -1 {NEGATIVE}"),
    ],
)
def test_wrong_positions_are_refused(given_, text):
    with says(PositionError, text):
        parse_positions(given_)


def test_the_named_positions_are_read_as_they_are():
    assert NAMED == ("all", "prompt", "last", "new")
    assert [parse_positions(name) for name in NAMED] == list(NAMED)


def test_new_tokens_and_positions_of_each_prompt_are_values():
    assert New(0, 2).indices == (0, 2)
    assert (repr(New(0, 2)), repr(New(1))) == ("New(0, 2)", "New(1)")
    assert New(0, 2) == New(0, 2) != New(2, 0)
    assert hash(New(1)) == hash(New(1))
    each = Each(((3,), (5, 6), (7,)))
    assert each.prompts == ((3,), (5, 6), (7,))
    assert repr(each) == "Each(((3,), (5, 6), (7,)))"
    assert each == Each(((3,), (5, 6), (7,))) != Each(((3,), (6, 5), (7,)))
    assert parse_positions(each) is each


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: New(), "positions=() names no position: name each position once."),
        (lambda: New(1, 1), "positions=(1, 1) names a position twice: name each position once."),
        (lambda: New(-1), f"Position -1 {NEGATIVE}"),
        (lambda: New(True), "positions=(True,): True is not a whole number."),
        (lambda: Each(((1,), ())), "positions=() names no position: name each position once."),
        (lambda: Each(((1,), (0, -2))), f"Position -2 {NEGATIVE}"),
        (
            lambda: Each(((4, 4),)),
            "positions=(4, 4) names a position twice: name each position once.",
        ),
    ],
)
def test_wrong_new_tokens_and_wrong_positions_of_each_prompt_are_refused(make, text):
    with says(PositionError, text):
        make()
