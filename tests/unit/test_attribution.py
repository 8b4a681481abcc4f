"""Attribution worked out by hand on the toy: attn_out = 2 x, mlp_out = 30 x, logits = 33 x."""

from __future__ import annotations

import pytest
from torch import Tensor

from interp.errors import InputError, InterpError, PositionError, SiteError
from interp.metrics import LogitDiff, Rank
from interp.patching.attribution import (
    Attribution,
    Checked,
    attribute,
    path_points,
    read_pairs,
    verify,
)
from interp.patching.edges import eap
from tests.strategies import ToyModel, exactly, says, tiny

BASE, SOURCE = [[1, 1]], [[2, 3]]
"""Token t is t * (1, 2, 3, 4); the metric reads the last position, where x goes from 1 to 3."""
METRIC = LogitDiff(3, 0)


def found(*sites: str, **settings) -> Attribution:
    return attribute(ToyModel(), BASE, SOURCE, METRIC, sites, **settings)


class MuteModel(ToyModel):
    """A model that must not run."""

    def forward(self, batch, taps, *, cache=None, keep=None):
        raise AssertionError("the model ran")


class Square:
    """A metric that bends: the square of a logit difference."""

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        return (logits[:, 3] - logits[:, 0]).square()


@pytest.mark.parametrize(
    ("site", "last"),
    [
        ("0.resid_pre", [-66, 0, 0, 264]),  # 2 (1, 2, 3, 4) . 33 (-1, 0, 0, 1)
        ("0.attn_out", [-44, 0, 0, 176]),  # 4 (1, 2, 3, 4) . 11 (-1, 0, 0, 1)
        ("0.resid_mid", [-66, 0, 0, 264]),
        ("0.mlp_out", [-60, 0, 0, 240]),  # 60 (1, 2, 3, 4) . (-1, 0, 0, 1)
        ("0.resid_post", [-66, 0, 0, 264]),
        ("logits", [-66, 0, 0, 264]),
        ("0.attn.v", [[-44, 0], [0, 176]]),  # a value is read by two heads
        ("0.attn.z", [[-22, 0], [-22, 0], [0, 88], [0, 88]]),
    ],
)
def test_scores_are_difference_times_gradient(site, last):
    entries = found(site)[site]
    assert entries[0, 1].tolist() == last
    assert not entries[0, 0].any()  # the metric reads position 1, and positions do not mix


def test_sums_over_positions_and_heads():
    scores = found("0.attn.z", "0.mlp_out")
    assert scores.by_position("0.mlp_out").tolist() == [[0, 180]]
    assert scores.by_head("0.attn.z").tolist() == [[[0, 0, 0, 0], [-22, -22, 88, 88]]]
    assert (scores.base.tolist(), scores.source.tolist()) == ([99.0], [297.0])


@pytest.mark.parametrize(
    ("along", "rule", "steps", "score"),
    [
        # f(x) = (99 x)**2 from x = 1 to 3: the effect is 8 * 9801 = 78408. The gradient at x times
        # the difference is 9801 * 4 x.
        ("none", "midpoint", 1, 39204),  # x = 1
        ("inputs", "left", 1, 39204),  # x = 1
        ("inputs", "right", 1, 117612),  # x = 3
        ("inputs", "left", 2, 58806),  # x = 1, 2
        ("inputs", "midpoint", 1, 78408),  # x = 2: exact, since f is quadratic
        ("inputs", "midpoint", 2, 78408),  # x = 1.5, 2.5
        ("activations", "midpoint", 1, 78408),
    ],
)
def test_integrated_gradients_sum_as_written(along, rule, steps, score):
    scores = attribute(
        ToyModel(), BASE, SOURCE, Square(), "0.resid_pre", along=along, rule=rule, steps=steps
    )
    assert scores.by_position("0.resid_pre").tolist() == [[0, score]]


def test_along_activations_each_site_adds_up_to_its_own_patch():
    """Patched attn_out: x + 2 * 3 = 7, times 11; patched mlp_out: 3 + 90; the base scores 33 * 3.

    In units of the difference of coordinates 3 and 0: 77 and 93 against 33, squared and times 9.
    """
    sites = ["0.attn_out", "0.mlp_out"]
    scores = attribute(
        ToyModel(), BASE, SOURCE, Square(), sites, along="activations", steps=1, rule="midpoint"
    )
    assert float(scores.by_position("0.attn_out").sum()) == 9 * (77**2 - 33**2)
    assert float(scores.by_position("0.mlp_out").sum()) == 9 * (93**2 - 33**2)
    along_inputs = attribute(ToyModel(), BASE, SOURCE, Square(), sites, along="inputs", steps=1)
    assert float(along_inputs.by_position("0.attn_out").sum()) == 9 * 4 * 11 * 2 * 66


def test_shorter_prompts_have_zeros_where_no_token_is():
    scores = attribute(ToyModel(), [[1, 1], [2]], [[2, 3], [1]], METRIC, "0.mlp_out")
    assert scores.by_position("0.mlp_out").tolist() == [[0, 180], [-90, 0]]


def test_points_of_each_rule():
    assert path_points(4) == (0.125, 0.375, 0.625, 0.875)
    assert path_points(4, "left") == (0.0, 0.25, 0.5, 0.75)
    assert path_points(4, "right") == (0.25, 0.5, 0.75, 1.0)


def test_what_a_check_tells():
    checked = Checked(("0.mlp_out, position 1", "m0->logits"), (180.0, -2.0), (171.5, 0.25))
    assert str(checked) == (
        "Rank agreement of the top 2 with real patches: 1.00\n"
        "  0.mlp_out, position 1: predicted +180, measured +171.5\n"
        "  m0->logits: predicted -2, measured +0.25"
    )


def test_agreement_that_is_not_defined_or_not_good():
    assert Checked(("a", "b"), (1.0, 1.0), (1.0, 2.0)).agreement is None
    assert "undefined" in str(Checked(("a",), (1.0,), (1.0,)))
    assert Checked(("a", "b", "c"), (3.0, 2.0, 1.0), (1.0, 2.0, 3.0)).agreement == -1


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"steps": 0}, InputError, "steps=0: give a whole number of at least 1, such as 5."),
        (
            {"source": [[1]]},
            InputError,
            "The source prompts have [1] tokens and the base prompts [2]: patching by position "
            "needs as many in each pair.",
        ),
        (
            {"metric": Rank(1)},
            InputError,
            "Rank(token=1) has no gradient, so nothing can be attributed to it: use one such as "
            "LogitDiff or LogProb.",
        ),
        (
            {"logits": 2},
            PositionError,
            "logits: position 2 is past the end of a prompt of 2 tokens.",
        ),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, error, text):
    given = {"base": BASE, "source": SOURCE, "metric": METRIC, "along": "inputs", **settings}
    with says(error, text):
        attribute(MuteModel(), sites="0.mlp_out", **given)


def test_settings_of_a_wrong_type_are_refused():
    """Past the check of types, which only tests have."""
    for call, rest in ((attribute, ["0.mlp_out"]), (eap, [])):
        with says(InputError, "along='weights': write 'none', 'inputs' or 'activations'."):
            call.__wrapped__(MuteModel(), BASE, SOURCE, METRIC, *rest, along="weights")
    with says(InputError, "rule='trapezoid': write 'midpoint', 'left' or 'right'."):
        path_points.__wrapped__(5, "trapezoid")
    with says(InputError, "steps=2.5: give a whole number of at least 1, such as 5."):
        path_points.__wrapped__(2.5)
    with says(InputError, "logits='all': write 'last', or one position such as 5."):
        read_pairs.__wrapped__(MuteModel(), BASE, SOURCE, METRIC, "all")


def test_a_metric_gives_one_number_a_prompt():
    def total(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.sum()

    text = "The metric returned [] for 1 prompts: return a tensor of one number a prompt."
    with says(InputError, text):
        attribute(MuteModel(), BASE, SOURCE, total, "0.mlp_out")


@pytest.mark.parametrize(
    ("sites", "text"),
    [
        ([], "No site is named: give at least one, such as '1.attn.z'."),
        (
            "0.attn.pattern",
            "0.attn.pattern cannot be attributed: name 0.attn.z, where a head's score has the same "
            "meaning.",
        ),
        (
            "1.attn.result",
            "1.attn.result cannot be attributed: name 1.attn.z, where a head's score has the same "
            "meaning.",
        ),
        ("9.mlp_out", "The model has no site '9.mlp_out': its layers are 0 to 2."),
    ],
)
def test_bad_sites_are_refused_before_the_model_runs(sites, text, monkeypatch):
    model = tiny("tiny-llama")
    assert model.book  # found by a short run of its own
    monkeypatch.setattr(model.hf, "forward", None)
    with pytest.raises(InterpError, match=exactly(text)):
        attribute(model, BASE, SOURCE, METRIC, sites)


def test_questions_that_have_no_answer():
    scores = found("0.mlp_out")
    with says(SiteError, "0.mlp_out has no heads: use by_position, or the entries themselves."):
        scores.by_head("0.mlp_out")
    with says(SiteError, "0.attn.z was not attributed; there are: 0.mlp_out."):
        scores.by_position("0.attn.z")
    with says(InputError, "k=0: verify at least one place."):
        verify(MuteModel(), BASE, SOURCE, METRIC, scores, k=0)
