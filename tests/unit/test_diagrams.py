"""Diagrams: the published front-door example, small networks by hand, errors word for word."""

from __future__ import annotations

import re

import numpy as np
import pytest

from interp.diagrams import Box, Diagram, front_door
from interp.errors import InputError, UndefinedEffectError

# P(smoking, tar, cancer): the example of arXiv:1811.08338. Value 0 is yes, value 1 is no.
SMOKING = np.array([[[0.50, 0.10], [0.01, 0.02]], [[0.10, 0.05], [0.02, 0.20]]])

RAIN = Box("rain", (), [0.75, 0.25])
WET = Box("wet", ("rain",), [[1.0, 0.0], [0.5, 0.5]])
SLIP = Box("slip", ("rain", "wet"), [[[1.0, 0.0], [0.5, 0.5]], [[0.75, 0.25], [0.0, 1.0]]])
WEATHER = Diagram((RAIN, WET, SLIP))


def refused(message: str):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def test_the_front_door_of_smoking_tar_and_cancer():
    """By hand: P(s) = 0.63, 0.37; P(tar | s) = 60/63, 15/37;

    sum over s of P(s) P(cancer | s, tar) = 0.63*5/6 + 0.37*2/3, without tar 0.63/3 + 0.37/11.
    """
    with_tar, without = 0.63 * 5 / 6 + 0.37 * 2 / 3, 0.63 / 3 + 0.37 / 11
    effect = front_door(SMOKING)
    assert effect[0, 0] == pytest.approx(60 / 63 * with_tar + 3 / 63 * without, abs=1e-12)
    assert effect[1, 0] == pytest.approx(15 / 37 * with_tar + 22 / 37 * without, abs=1e-12)
    np.testing.assert_allclose(effect[:, 0], [0.74652, 0.45770], atol=5e-6)
    np.testing.assert_allclose(effect.sum(1), 1, atol=1e-12)


def test_seeing_a_smoker_is_not_making_one():
    of_smoking = SMOKING.sum((1, 2))
    tar = SMOKING.sum(2) / of_smoking[:, None]
    cancer = SMOKING / SMOKING.sum(2, keepdims=True)
    seen = Diagram(
        (
            Box("smoking", (), of_smoking),
            Box("tar", ("smoking",), tar),
            Box("cancer", ("smoking", "tar"), cancer),
        )
    )
    np.testing.assert_allclose(seen.joint(), SMOKING, atol=1e-12)
    given = [seen.conditional("cancer", {"smoking": value})[0] for value in (0, 1)]
    np.testing.assert_allclose(given, [0.80952, 0.32432], atol=5e-6)
    np.testing.assert_allclose(tar[:, 0], [0.95238, 0.40541], atol=5e-6)
    # Read as it stands, without a hidden cause, doing is seeing: the gap is the hidden cause.
    done = [seen.do("smoking", value).marginal("cancer")[0] for value in (0, 1)]
    np.testing.assert_allclose(done, given, atol=1e-12)
    assert abs(done[0] - front_door(SMOKING)[0, 0]) > 0.06


def test_a_network_by_hand():
    """P(wet) = 1/8; P(slip) = .75*0 + .25*(.5*.25 + .5*1) = 0.15625."""
    assert WEATHER.nodes == ("rain", "wet", "slip")
    np.testing.assert_allclose(WEATHER.marginal("wet"), [7 / 8, 1 / 8])
    np.testing.assert_allclose(WEATHER.marginal("slip"), [0.84375, 0.15625])
    np.testing.assert_allclose(WEATHER.marginal("wet", "rain"), [[0.75, 0.125], [0, 0.125]])
    np.testing.assert_allclose(WEATHER.conditional("rain", {"wet": 1}), [0, 1])


def test_a_cut_emits_a_uniform_state_and_do_a_point():
    """do(wet) leaves rain alone: P(slip) = .75*.5 + .25*1 = 0.625; a cut gives half of each."""
    cut, done = WEATHER.cut("wet"), WEATHER.do("wet", 1)
    np.testing.assert_allclose(cut.marginal("wet"), [0.5, 0.5])
    np.testing.assert_allclose(done.marginal("wet"), [0, 1])
    np.testing.assert_allclose(done.marginal("rain"), [0.75, 0.25])
    np.testing.assert_allclose(done.marginal("slip"), [0.375, 0.625])
    np.testing.assert_allclose(cut.marginal("slip")[1], (0.0625 + 0.625) / 2)
    assert cut.box("wet").parents == done.box("wet").parents == ()
    assert cut.box("rain") is RAIN and cut.box("slip") is SLIP
    assert WEATHER.box("wet") is WET  # the diagram itself is as it was


def test_a_table_cannot_be_changed_afterwards():
    rows = np.array([0.5, 0.5])
    box = Box("coin", (), rows)
    rows[0] = 9.0
    assert box.array.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        box.array[0] = 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Box("a", (), [0.5, 0.4]),
            "The table of 'a' sums to 0.9 along its last axis: it must sum to 1.",
        ),
        (
            lambda: Box("a", (), [1.5, -0.5]),
            "The table of 'a' holds a negative or infinite entry: give probabilities.",
        ),
        (
            lambda: Box("a", ("b",), [0.5, 0.5]),
            "The table of 'a' has shape [2]: give one axis for each of the 1 parents and a last "
            "one for the node's values.",
        ),
        (
            lambda: Box("a", ("a",), [[1.0], [1.0]]),
            "'a' has parents ('a',): name each parent once, never the node.",
        ),
        (
            lambda: Diagram((WET, RAIN)),
            "'wet' reads 'rain', which has no box before it: put parents first, without a cycle.",
        ),
        (lambda: Diagram((RAIN, RAIN)), "Node 'rain' has two boxes: give each node one."),
        (
            lambda: Diagram((RAIN, Box("w", ("rain",), np.ones((3, 1))))),
            "The table of 'w' has 3 rows for 'rain', which has 2 values: give one row a value.",
        ),
        (
            lambda: Diagram(()),
            "A diagram of 0 nodes with [] values: give at least one node, and at most 16777216 "
            "joint values (a node of one value counts two).",
        ),
        (
            lambda: WEATHER.cut("rian"),
            "The diagram has no node 'rian'; its nodes: rain, wet, slip. Did you mean 'rain'?",
        ),
        (lambda: WEATHER.do("rain", 2), "'rain' has no value 2; its values are 0 to 1."),
        (
            lambda: WEATHER.marginal("rain", "rain"),
            "The marginal of ('rain', 'rain'): name at least one node, and each once.",
        ),
        (
            lambda: front_door([[0.5], [0.5]]),
            "The joint has shape [2, 1]: give P(a, b, c), three axes in that order.",
        ),
        (
            lambda: front_door(np.ones((2, 2, 2))),
            "The joint sums to 8 along its last axis: it must sum to 1.",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with refused(message):
        make()


def test_what_never_happens_has_no_conditional():
    impossible = "{'rain': 0, 'wet': 1} has probability 0, so nothing can be said of slip given it"
    with pytest.raises(UndefinedEffectError, match=re.escape(impossible)):
        WEATHER.conditional("slip", {"rain": 0, "wet": 1})
    with pytest.raises(UndefinedEffectError, match=r"^a=0 with b=1 has probability 0, so P\(c"):
        front_door([[[0.5], [0.0]], [[0.25], [0.25]]])
