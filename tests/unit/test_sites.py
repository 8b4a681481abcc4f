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
    QUERY_HEADED,
    UNCACHED,
    Site,
    parse_positions,
    parse_sites,
)
from tests.strategies import says, site_texts

COMPONENT_LIST = "embed, pos_embed, ln_final, logits"


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
        ("new", "new"),
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
        ("last", "positions='last': give 'all', 'new', or token indices such as (0, 3)."),
        (None, "positions=None: give 'all', 'new', or token indices such as (0, 3)."),
        (1.5, "positions=1.5: give 'all', 'new', or token indices such as (0, 3)."),
        ([0, 1.0], "positions=[0, 1.0]: 1.0 is not a whole number."),
        ([0, "1"], "positions=[0, '1']: '1' is not a whole number."),
        (True, "positions=True: True is not a whole number."),
        ([False], "positions=[False]: False is not a whole number."),
        ([], "positions=[] names no position: name each position once."),
        ((2, 0, 2), "positions=(2, 0, 2) names a position twice: name each position once."),
        (
            [3, -1],
            "Position -1 is negative: positions count real tokens from 0 at the left, so write "
            "the index itself, such as len(tokens) - 1 for the last.",
        ),
    ],
)
def test_wrong_positions_are_refused(given_, text):
    with says(PositionError, text):
        parse_positions(given_)
