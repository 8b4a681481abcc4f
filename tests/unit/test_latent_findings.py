"""The sentences about latent reasoning are the numbers of the rows, with control and interval."""

from __future__ import annotations

import pytest

from interp.results import latent_findings as said
from interp.results.report_stats import MINUS
from tests import latent_report_rows as rows
from tests.latent_report_rows import NARROW


def test_accuracy_of_one_subject_claims_nothing_about_its_latents():
    found = said.accuracy_finding([rows.accuracy_row()])
    assert found.title == "coconut answers 94% (89% to 99%) of the problems right."
    assert found.detail == (
        "This alone does not say that the latent steps help: that takes the same training without "
        "latents, with pause tokens, and without recurrence, each a run of its own. 60 problems; "
        "0 answers cannot be read."
    )
    few = said.accuracy_finding([rows.accuracy_row(n=12)])
    assert few.detail.endswith(f"12 problems; 0 answers cannot be read.{NARROW}")


def test_accuracy_beside_controls_says_whether_intervals_overlap():
    both = [rows.accuracy_row("pause", 0.25), rows.accuracy_row()]
    found = said.accuracy_finding(both)
    assert found.title == "coconut answers 94% (89% to 99%) right; pause 25% (20% to 30%)."
    assert found.detail.startswith("No other interval reaches it. 60 problems")
    near = [rows.accuracy_row("pause", 0.9), rows.accuracy_row()]
    assert said.accuracy_finding(near).detail.startswith("The intervals of pause overlap with it.")


def test_necessity_names_the_strongest_and_the_weakest_step_and_the_null():
    found = said.necessity_finding(rows.necessity_rows())
    assert found is not None
    assert found.title == (
        "Another problem's step in its place flips 90% (85% to 95%) of answers at step 1, its "
        "strongest, and 0% (0% to 5%) at step 4, which holds 0."
    )
    assert found.detail == (
        "The identity flips 0% of answers and moves them by 0 nats. Accuracy there, 94% unedited: "
        f"a difference of {MINUS}90 points, 95% interval {MINUS}95 to {MINUS}85. Zeroing a step "
        "flips 10% (5% to 15%) there. Another problem's whole thought flips 88% (82% to 92%). "
        "Answers drawn at random would flip 88%. 60 problems; steps were compared after the fact."
    )


def test_a_broken_null_takes_the_numbers_back():
    broken = [
        {**row, "flip": 0.05, "kl": 0.5} if row["operator"] == "identity" else row
        for row in rows.necessity_rows()
    ]
    found = said.necessity_finding(broken)
    assert found is not None
    assert found.detail.startswith(
        "The identity flips 5% of answers and moves them by 0.5 nats. It must do nothing: none of "
        "these numbers is a result."
    )
    alone = [row for row in rows.necessity_rows() if row["operator"] != "identity"]
    found = said.necessity_finding(alone)
    assert found is not None
    assert found.detail.startswith("No identity stands beside it. ")


def test_necessity_without_an_operator_or_of_few_problems():
    null = [row for row in rows.necessity_rows() if row["operator"] == "identity"]
    assert said.necessity_finding(null) is None
    silent = [{**row, "flip": None} for row in rows.necessity_rows()]
    assert said.necessity_finding(silent) is None
    few = said.necessity_finding(rows.necessity_rows(n=19))
    assert few is not None
    assert few.detail.endswith(f"19 problems; steps were compared after the fact.{NARROW}")
    one = said.necessity_finding([rows.necessity_row("rotate_45", "1", 0.5)])
    assert one is not None
    assert one.title == "The edit “Rotated (45)” flips 50% (45% to 55%) of answers at step 1."


def test_early_stop_says_that_the_curve_falls():
    found = said.stop_finding(rows.stop_rows(), rows.settling_rows())
    assert found.title == (
        "Without a latent step 10% (5% to 15%) of answers are right, after all 4 94% (89% to 99%): "
        "the intervals lie apart. A(k) is not monotone: from k = 2 to 3 it falls by 20 points (the "
        "intervals lie apart)."
    )
    assert found.detail == (
        "Some stop is right in 94% (89% to 99%), which cannot fall with k. Half of the answers are "
        "final by k = 1; 1 of 6 were right and lost. A read-out before the last step is unlike the "
        "training, so the forced next step stands beside it. 60 problems."
    )


def test_early_stop_that_only_rises_and_one_that_needs_no_step():
    rising = said.stop_finding(rows.stop_rows((0.5, 0.5, 0.52)))
    assert rising.title == (
        "Without a latent step 50% (45% to 55%) of answers are right, after all 2 52% (47% to "
        "57%): the intervals overlap."
    )
    lost = said.stop_finding(rows.stop_rows((0.5, 0.9, 0.7), n=10))
    assert lost.detail.startswith(
        "Some stop is right in 90% (85% to 95%), which cannot fall with k; 20 points of that is "
        "lost again at the end."
    )
    assert lost.detail.endswith(f"10 problems.{NARROW}")


def test_influence_names_the_strongest_edge_the_null_donor_and_the_null():
    found = said.influence_finding(rows.w_rows(), rows.tested_rows())
    assert found is not None
    assert found.title == (
        "Another problem's step in its place acts most from step 1 on the read-out after step 2: "
        "0.5 nats (95% interval 0.45 to 0.55); the donor's vector of another step 0.25 nats (95% "
        "interval 0.2 to 0.3)."
    )
    assert found.detail == (
        "The identity null is 0 nats at every edge. 2 of 4 edges (t = s among them) shift the "
        "answer's log-probability beyond relabelling with the identity, p < 0.05 over all edges. "
        "The edge is the largest of 6, chosen after the fact. 60 problems."
    )
    assert said.influence_finding([]) is None
    held = [rows.w_row("resample", 1, 2, 0.01, n=8)]
    found = said.influence_finding(held)
    assert found is not None
    assert f"0.01 nats (95% interval {MINUS}0.04 to 0.06, which holds 0)." in found.title
    assert found.detail == (
        "No identity stands beside it. The edge is the largest of 1, chosen after the fact. 8 "
        f"problems.{NARROW}"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "The identity null is 0 nats at every edge."),
        (
            0.25,
            "The identity null reaches 0.25 nats: it must be 0, so none of these numbers is a "
            "result.",
        ),
        (None, "The identity null is infinite somewhere: none of these numbers is a result."),
    ],
)
def test_the_null_of_influence(value, text):
    assert said.influence_null([rows.w_row("identity", 1, 2, value)]) == text


def test_shape_is_told_beside_equal_edges_and_the_identity():
    found = said.shape_finding(rows.shape_rows())
    assert found is not None
    assert found.title == (
        "W under “Another problem's step” differs from equal edges in 2 of 4 shape numbers: "
        "locality 0.7 against 0.5 (0.65 to 0.75); span 1.4 against 1.67 (1.35 to 1.45); early-out "
        "0.52 against 0.5 (0.47 to 0.57, which holds it); late-in 0.48 against 0.5 (0.43 to 0.53, "
        "which holds it)."
    )
    assert found.detail == (
        "W sums to 2.5 nats over t < s. The identity sums to 0 nats and has no shape, as it must. "
        "60 problems."
    )
    faulty = said.shape_finding(rows.released_shape_rows())
    assert faulty is not None
    assert faulty.detail.startswith(
        "W sums to 10.8 nats over t < s. The identity sums to 10.5 nats and has a shape of its "
        "own: no result."
    )
    empty = said.shape_finding([rows.shape_row("zero", "locality", None)])
    assert empty is not None
    assert empty.title == "W under “Zero” is 0 between all steps, so it has no shape."


def test_effects_of_almost_nothing_have_a_shape_that_means_nothing():
    tiny = [{**row, "total": 3e-6} for row in rows.shape_rows()]
    found = said.shape_finding(tiny)
    assert found is not None
    assert found.title.startswith(
        "W under “Another problem's step” sums to 3e-06 nats, too little for a shape to mean "
        "anything; it differs from equal edges in 2 of 4 shape numbers: "
    )
    lines = said.survival(tiny, rows.released_shape_rows())
    assert {line["survives"] for line in lines} == {"too small"}


def test_an_edge_that_any_vector_of_the_donor_has_is_said_so():
    pair = [rows.w_row("resample", 1, 2, 0.5), rows.w_row("shuffled_donor", 1, 2, 0.6)]
    found = said.influence_finding(pair)
    assert found is not None
    assert found.title.endswith("0.6 nats (95% interval 0.55 to 0.65), which is no less.")


def test_edits_that_flip_nothing_anywhere_say_so_once():
    still = [rows.necessity_row("resample", str(step), 0.0) for step in (1, 2)]
    found = said.necessity_finding(still)
    assert found is not None
    assert found.title == (
        "Another problem's step in its place flips 0% (0% to 5%) of answers at step 1 and the "
        "same share at every other step, which holds 0."
    )


def test_likeness_is_read_against_chance():
    found = said.similarity_finding(rows.similarity_rows())
    assert found is not None
    assert found.title == (
        "Of 1 pair of operators the least alike are “Another problem's step” and “Rotated (45)”: "
        "cosine 0.95 (95% interval 0.9 to 1), 0.85 if edges changed places."
    )
    assert found.detail == (
        "Positive matrices are never far apart, so a cosine is read against that. 60 problems."
    )
    chance = said.similarity_finding(rows.similarity_rows(0.88))
    assert chance is not None
    assert chance.detail.startswith("That is not beyond chance. Positive")
    assert said.similarity_finding([]) is None


def test_commitment_names_the_shuffled_labels_and_the_read_out():
    found = said.commitment_finding(rows.commitment_rows(), rows.probe_rows(), rows.lead_rows())
    assert found is not None
    assert found.title == (
        "A probe of step 1 needs 0.9 (0.85 to 0.95) bits to tell the answer, of step 4 0.05 (0 to "
        "0.1); shuffled labels need 1.02 there."
    )
    assert found.detail == (
        "From step 1 on it tells more than every shuffle. The model's own read-out needs 0.1 (0.05 "
        "to 0.15) after the last step; by then 81% (76% to 86%) of samples have committed. The "
        "vectors commit 1.2 steps before the read-out (95% interval 0.9 to 1.5). 40 problems with "
        "two competing answers."
    )


def test_commitment_that_shows_nothing_says_so():
    flat = [{**row, "bits": 1.0} for row in rows.probe_rows(n=10)]
    found = said.commitment_finding(rows.commitment_rows(), flat, rows.lead_rows(0.1))
    assert found is not None
    assert found.detail.startswith("No step tells more than every shuffle. ")
    assert f"0.1 steps before the read-out (95% interval {MINUS}0.2 to 0.4, which holds 0)." in (
        found.detail
    )
    assert found.detail.endswith(f"10 problems with two competing answers.{NARROW}")
    assert said.commitment_finding(rows.commitment_rows(), [], []) is None
    behind = said.commitment_finding(rows.commitment_rows(), flat, rows.lead_rows(-1.0))
    assert behind is not None
    assert "The vectors commit 1 step after the read-out" in behind.detail


def test_modes_are_counted():
    modes = [{"reason": None}, {"reason": "one answer"}, {"reason": None}]
    found = said.modes_finding(modes)
    assert found is not None
    assert found.title == "2 of 3 problems have two competing answers under the noise."
    assert said.modes_finding([]) is None


def test_the_released_definitions_are_a_diagnostic_with_the_null_first():
    found = said.released_finding(rows.shape_rows(), rows.released_shape_rows())
    assert found is not None
    assert found.title == (
        "DIAGNOSTIC: by the released definitions an edit that changes nothing has an effect of "
        "10.5 nats, 97% of what “Another problem's step” gives (10.8); by ours 0."
    )
    assert found.detail == (
        "0 of 8 departures from equal edges survive the right read-outs. The released read-outs "
        "are faulty on purpose, to show what they alone give: nothing in this section is a result. "
        "60 problems."
    )
    alone = said.released_finding([], rows.released_shape_rows())
    assert alone is not None
    assert alone.title.endswith("gives (10.8).")
    assert said.released_finding(rows.shape_rows(), []) is None


def test_a_pattern_survives_on_the_same_side_only():
    ours = {
        "locality": (0.3, "yes"),
        "span": (1.4, "reversed"),
        "early_out": (0.5, "no"),
        "late_in": (None, "no shape"),
    }
    mine = [rows.shape_row("zero", metric, x) for metric, (x, _) in ours.items()]
    theirs = [rows.shape_row("zero", metric, x) for metric, x in rows.FAULTY.items()]
    lines = said.survival(mine, theirs)
    assert {line["metric"]: line["survives"] for line in lines} == {
        metric: fate for metric, (_, fate) in ours.items()
    }
    level = [rows.shape_row("zero", "locality", 0.52)]
    assert said.survival(mine, level) == []  # the interval holds 0.5: there is no pattern
    assert said.survival([], theirs) == []


def test_subjects_are_named_where_there_are_several():
    told = rows.told_apart()
    mine = [row for row in told["early_stop"] if row["subject"] == "explicit"]
    assert said.stop_finding(mine).title.startswith("explicit: Without a latent step ")
