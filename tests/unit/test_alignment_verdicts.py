"""Evidence and verdicts: the fixed words, each reason, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from interp.alignment.baselines import NAMES, RANDOM, Baseline, Split
from interp.alignment.capacity import CapacityRow, Control, Obeyed, Rival
from interp.alignment.description_length import Block, DescriptionLength
from interp.alignment.divergence import Divergence
from interp.alignment.evidence import (
    FITTED_CONTROLS,
    GUARDS,
    Evidence,
    Exactness,
    HeldOut,
    NotApplicable,
    PositiveControl,
    RunnerUp,
    Selection,
    Share,
    Waiver,
    missing,
)
from interp.alignment.exactness import InverseError, NoOp
from interp.alignment.null_space import NullSpace, Swapped
from interp.alignment.verdicts import WORDS, Verdict, verdict
from interp.errors import InputError
from interp.stats import Interval


def around(estimate, half=0.01):
    return Interval(estimate, estimate - half, estimate + half, 100)


def control(name, estimate, half=0.01):
    return Control(name, estimate, around(estimate, half), (estimate,) * 5, 10_000)


def rival(estimate=0.6, mine=0.97):
    told = Obeyed(500, around(mine), around(1 - mine))
    return Rival("And-Or", told, control("rival", estimate))


def baseline(name, value=0.55):
    draws = (value,) * 5 if name == RANDOM else ()
    return Baseline(name, Split(value, 0.1, 0.9, 60, 40), draws)


def code(bits):
    return DescriptionLength(2, 1000, (Block(1000, 1000, bits, 1.0),))


def complete(**changes):
    """Evidence that generalises, with all thirteen guards; tests change one thing each."""
    swap = Swapped(0.98, 2.0)
    given = {
        "algorithm": "And-Or-And",
        "map": "orthogonal",
        "site": "layer 2",
        "inputs": "uniform vectors",
        "test": around(0.98),
        "task_accuracy": 0.999,
        "splits_apart": True,
        "train_iia": 0.985,
        "classes": {name: Share(0.97, 50) for name in ("sensitive", "insensitive")}
        | {"distinguishing": Share(0.97, 500)},
        "twin": control("twin", 0.58),
        "rival": rival(),
        "fitted_controls": {name: control(name, 0.56) for name in FITTED_CONTROLS},
        "held_out": HeldOut("unseen vectors", around(0.97), 0.56, around(0.57)),
        "capacity": tuple(
            CapacityRow(family, net, n, 0.9, 0.8, 10, 100)
            for family in ("identity", "orthogonal")
            for net in ("trained", "twin")
            for n in (1000, None)
        ),
        "description_length": {"network": code(90.0), "twin": code(990.0), "rival": code(700.0)},
        "baselines": {name: baseline(name) for name in NAMES},
        "null_space": NullSpace(12, {"v": 1.0}, Swapped(0.5, 0.0), swap, swap, Swapped(0.5, 0.0)),
        "divergence": Divergence(100, 100, 1, 0.1, 0.3, 0.1, 0.01, 0.002, 0.002),
        "exactness": Exactness(NoOp(0.0, 0, 0.0), InverseError(1e-6, 1e-15, 1e-4)),
        "seeds": (0.98, 0.97, 0.98, 0.99, 0.98),
        "selection": Selection(3, "validation"),
        "runner_up": RunnerUp("layer 1", 0.96, 0.98),
        "positive_control": PositiveControl("planted networks", 0.999, 0.73),
    }
    return Evidence(**{**given, **changes})


def test_complete_evidence_says_implements_with_map_site_and_inputs():
    given = verdict(complete())
    assert (given.word, given.level, given.found) == (
        "FOUND UNDER orthogonal, GENERALISES",
        4,
        True,
    )
    assert given.claim == (
        "The network implements And-Or-And under the orthogonal map at layer 2, on uniform vectors."
    )
    assert given.reason == (
        "The test IIA 0.980 [0.970, 0.990] is above every baseline and clear of every control, and "
        "on unseen vectors it holds with 0.970 [0.960, 0.980]."
    )
    assert given.notes == (
        "The site is the best of 3 on validation pairs.",
        "Runner-up: layer 1, 0.960 on validation pairs where the chosen one has 0.980.",
    )
    assert str(given).startswith("FOUND UNDER orthogonal, GENERALISES: The test IIA")
    assert missing(complete()) == () and len(GUARDS) == 13


LACKING = {
    "train_iia": (None, "train IIA"),
    "splits_apart": (None, "the check that splits are apart"),
    "classes": ({}, "sensitive pairs; insensitive pairs; distinguishing pairs"),
    "twin": (None, "random twin: a network that was never trained"),
    "rival": (None, "wrong algorithm: a rival of the same behaviour, or a waiver by name"),
    "fitted_controls": (
        {},
        "control task: shuffled labels; control task: shuffled sources; control task: relabelled",
    ),
    "held_out": (None, "held-out identities: a split by identity, template or value"),
    "capacity": (
        (),
        "capacity curve: rows of the trained network; capacity curve: rows of the twin network",
    ),
    "description_length": (
        {},
        "description length: the code of the network; description length: the code of the twin; "
        "description length: the code of the rival",
    ),
    "baselines": ({}, "; ".join(f"same-site baselines: {name}" for name in NAMES)),
    "null_space": (
        None,
        "null-space test: the swap along the read part, or why it does not apply",
    ),
    "divergence": (None, "divergence: the distance of edited states to natural ones"),
    "exactness": (None, "inverse error and no-op: the errors of doing nothing"),
    "seeds": ((0.98,) * 3, "seeds and selection: 3 seeds, at least 5"),
    "selection": (None, "seeds and selection: how many sites were tried, and on which split"),
    "runner_up": (None, "runner-up: the next best alignment"),
    "positive_control": (None, "positive control: a network whose algorithm is known"),
}


@pytest.mark.parametrize("part", LACKING)
def test_check_16_a_report_that_lacks_a_part_raises_instead_of_saying_found(part):
    value, phrase = LACKING[part]
    with pytest.raises(InputError) as caught:
        verdict(complete(**{part: value}))
    assert str(caught.value) == (
        f"The report on And-Or-And cannot say that it was found: it lacks {phrase}. "
        "Run these, or report the scores without a verdict."
    )


@pytest.mark.parametrize("name", NAMES)
def test_check_16_each_single_baseline_is_asked_for(name):
    rest = {other: baseline(other) for other in NAMES if other != name}
    with pytest.raises(InputError, match=f"it lacks same-site baselines: {name}\\."):
        verdict(complete(baselines=rest))


def test_guards_that_are_too_thin_are_lacking():
    few = replace(control("twin", 0.5), seeds=(0.5,) * 4)
    drawn = {name: baseline(name) for name in NAMES}
    drawn[RANDOM] = replace(drawn[RANDOM], draws=(0.5,))
    rows = complete().capacity
    for changes, phrase in (
        ({"twin": few}, "random twin: 4 untrained networks, at least 5"),
        ({"baselines": drawn}, "same-site baselines: 1 random subspaces, at least 5"),
        ({"selection": Selection(3, "test")}, "seeds and selection: a choice on validation pairs, "
         "not test"),
        ({"capacity": rows[4:]}, "capacity curve: a second family"),
        ({"capacity": rows[::2]}, "capacity curve: a second number of pairs"),
    ):  # fmt: skip
        assert missing(complete(**changes)) == (phrase,)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"exactness": Exactness(NoOp(0.5, 2, 1e-3), InverseError(2.0, 0.01, 1e-4))},
            "Doing nothing is not exact: a block swapped with itself moves a logit by 0.5 (at most "
            "0.001) and flips 2 answers, and the inverse errs by 2 (at most 0.0001), in float64 by "
            "0.01.",
        ),
        (
            {"splits_apart": False},
            "Test inputs stand in another split, so the score counts what was fitted to.",
        ),
        (
            {"task_accuracy": 0.5},
            "The network solves the task on 0.500 of inputs, below 0.750: there is no behaviour to "
            "explain.",
        ),
    ],
)
def test_invalid_says_which_check_failed(changes, reason):
    given = verdict(complete(**changes))
    assert (given.word, given.level, given.reason) == ("INVALID", 0, reason)
    assert not given.found and given.claim.startswith("Nothing is shown of And-Or-And under the")


def test_not_found_names_the_best_baseline_and_counts_the_best_random_draw():
    drawn = {name: baseline(name) for name in NAMES}
    drawn[RANDOM] = replace(drawn[RANDOM], draws=(0.5, 0.5, 0.5, 0.5, 0.975))
    given = verdict(complete(baselines=drawn))
    assert given.word == "NOT FOUND"
    assert given.reason == (
        "Test IIA 0.980 [0.970, 0.990] is not above the best baseline, random subspace (0.975)."
    )
    level = {name: baseline(name, 0.97) for name in NAMES}
    assert verdict(complete(baselines=level)).word == "NOT FOUND", "equal is not above"
    alone = Interval(0.98, None, None, 1, warning="one problem: no interval")
    assert verdict(complete(test=alone)).reason == (
        "Test IIA 0.980 has no interval (one problem: no interval)."
    )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"twin": control("twin", 0.94)}, "twin"),
        ({"twin": control("twin", 0.90, half=0.08)}, "twin"),
        ({"rival": rival(0.999)}, "rival"),
        ({"fitted_controls": {"relabelled": control("relabelled", 0.95)}}, "relabelled"),
    ],
)
def test_a_control_that_comes_near_or_overlaps_makes_the_map_vacuous(changes, name):
    given = verdict(complete(**changes))
    assert given.word == "VACUOUS FOR THIS MAP"
    assert given.reason.startswith(f"The control {name!r} reaches 0.9")
    assert given.reason.endswith(
        "where the network reaches 0.980 [0.970, 0.990]: within 0.05 or overlapping."
    )


def test_a_control_far_above_is_said_to_be_above():
    given = verdict(complete(rival=rival(1.0), test=around(0.9)))
    assert given.word == "VACUOUS FOR THIS MAP"
    assert given.reason.endswith(
        "the network reaches 0.900 [0.890, 0.910]: the control is above it."
    )


def test_a_control_without_an_interval_or_number_counts_as_near():
    unknown = Interval(0.5, None, None, 1, warning="one problem: no interval")
    for test in (unknown, around(float("nan"))):
        twin = replace(control("twin", 0.5), test=test)
        assert verdict(complete(twin=twin)).word == "VACUOUS FOR THIS MAP"
    assert verdict(complete(twin=control("twin", 0.9))).found, "0.08 apart, 0.97 against 0.91"


def test_a_map_that_follows_the_rival_where_they_differ_is_vacuous():
    given = verdict(complete(rival=rival(mine=0.5)))
    assert given.word == "VACUOUS FOR THIS MAP"
    assert given.reason == (
        "On 500 pairs that tell the two algorithms apart the network under the map follows "
        "And-Or-And on 0.500 [0.490, 0.510] and the rival And-Or on 0.500 [0.490, 0.510]."
    )


@pytest.mark.parametrize("wrong", [0.7, 0.66, 0.9])
def test_a_map_that_fits_the_wrong_algorithm_on_a_planted_network_is_vacuous(wrong):
    given = verdict(complete(positive_control=PositiveControl("planted networks", 0.7, wrong)))
    assert given.word == "VACUOUS FOR THIS MAP"
    assert given.reason == (
        "The map cannot tell algorithms apart where the answer is known: on planted networks the "
        f"planted one scores 0.700 and another {wrong:.3f}."
    )
    apart = PositiveControl("planted networks", 0.7, 0.6)
    assert verdict(complete(positive_control=apart)).found


def test_bad_news_needs_no_further_guard():
    """Nothing that is still to be run could improve these, so they may stop a study early."""
    bare = {"baselines": {}, "capacity": (), "runner_up": None, "divergence": None}
    assert verdict(complete(**bare, task_accuracy=0.5)).word == "INVALID"
    assert verdict(complete(**bare, twin=control("twin", 0.97))).word == "VACUOUS FOR THIS MAP"
    only = {**bare, "baselines": {"PCA": baseline("PCA", 0.99)}}
    assert verdict(complete(**only)).word == "NOT FOUND"


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (
            HeldOut("unseen names", around(0.6), 0.65, around(0.5)),
            "0.600 [0.590, 0.610] is not above its best baseline (0.650)",
        ),
        (
            HeldOut("unseen names", around(0.97), 0.5, around(0.95)),
            "0.970 [0.960, 0.980] is no better than untrained twins (0.950 [0.940, 0.960])",
        ),
        (
            HeldOut("unseen names", around(0.9), 0.5, around(0.5)),
            "0.900 [0.890, 0.910] is more than 0.05 below",
        ),
    ],
)
def test_what_does_not_hold_on_held_out_identities_is_found_in_distribution_only(held, why):
    given = verdict(complete(held_out=held))
    assert given.word == "FOUND UNDER orthogonal, IN DISTRIBUTION"
    assert given.reason.endswith(f"on unseen names it does not hold: {why}.")
    assert given.claim == (
        "Interchanges of And-Or-And are found under the orthogonal map at layer 2, on uniform "
        "vectors."
    )


def test_a_task_without_identities_cannot_generalise_and_says_so():
    given = verdict(complete(held_out=NotApplicable("inputs are uniform.")))
    assert given.word == "FOUND UNDER orthogonal, IN DISTRIBUTION"
    assert "implements" not in str(given)
    assert given.notes[0] == "Guard 'held-out identities' does not apply: inputs are uniform."


def test_a_waived_rival_is_printed_and_forbids_implements():
    waived = Waiver("none known", "no other algorithm of this behaviour is written down")
    rest = {name: complete().classes[name] for name in ("sensitive", "insensitive")}
    codes = {"network": code(90.0), "twin": code(990.0)}
    given = verdict(complete(rival=waived, classes=rest, description_length=codes))
    assert given.word == "FOUND UNDER orthogonal, GENERALISES"
    assert "implements" not in str(given)
    assert given.notes[0] == (
        "The rival none known is waived: no other algorithm of this behaviour is written down."
    )
    with pytest.raises(InputError, match=r"^A waived rival needs its name and reason in words"):
        Waiver("And-Or", " ")
    with pytest.raises(InputError, match=r"^A guard that does not apply needs its name and reason"):
        NotApplicable("")


def test_only_the_five_words_exist():
    assert WORDS == (
        "INVALID",
        "NOT FOUND",
        "VACUOUS FOR THIS MAP",
        "FOUND UNDER {map}, IN DISTRIBUTION",
        "FOUND UNDER {map}, GENERALISES",
    )
    assert [Verdict("", i, "", "").found for i in range(5)] == [False, False, False, True, True]


def test_evidence_goes_through_json_with_its_guards_and_what_it_lacks():
    plain = json.loads(json.dumps(complete(runner_up=None).as_dict(), allow_nan=False))
    assert plain["twin"]["test"]["high"] == pytest.approx(0.59)
    assert plain["guards"]["8"] == "null-space test" and len(plain["guards"]) == 13
    assert plain["missing"] == ["runner-up: the next best alignment"]
    assert plain["runner_up"] is None and plain["rival"]["obeyed"]["n"] == 500
    assert plain["description_length"]["network"]["blocks"][0]["bits"] == 90.0
    assert plain["bits_per_pair"]["network"] == pytest.approx((1000 + 90) / 2000)
    lost = replace(complete().divergence, energy=float("inf"))
    with pytest.raises(InputError, match=r"^The evidence holds inf, which is no result"):
        complete(divergence=lost).as_dict()


@pytest.mark.parametrize("name", ["task_accuracy", "train_iia"])
def test_an_accuracy_is_a_share(name):
    with pytest.raises(InputError, match=rf"^{name} is 1\.5: an accuracy is a share from 0 to 1"):
        complete(**{name: 1.5})
    with pytest.raises(InputError, match=rf"^{name} is nan: an accuracy is a share"):
        complete(**{name: float("nan")})
