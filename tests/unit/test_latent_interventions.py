"""What may be done to a step: refusals before a model runs, receipts, the identity's zeros."""

from __future__ import annotations

import pytest
import torch

from interp.errors import EditError, InputError, SilentEditError
from interp.latent.calibration import calibrate
from interp.latent.interventions import (
    Do,
    Edge,
    Lane,
    base_run,
    check,
    lane,
    readings,
    stack_nodes,
)
from interp.latent.operators import (
    HideSlot,
    Interpolate,
    Resample,
    class_mean,
    constant,
    mean_step,
    named,
    rotate,
    zero,
)
from interp.latent.state import Node
from tests.latent_cases import OTHERS, PROBLEMS, Hops, calibration, random_subject

KINDS = ("coconut", "codi", "pause", "no_recurrence")
EDGES: dict[Edge, tuple[str, ...]] = {
    "input": ("zero", "gaussian"),
    "recurrence": ("zero", "gaussian"),
    "cache": ("zero", "gaussian"),
    "kv": ("kv_mask", "kv_swap"),
    "both": ("kv_swap",),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
def test_the_identity_is_exactly_0_on_every_edge_at_every_step_and_read_out(kind, edge):
    if (kind, edge) == ("pause", "both"):
        return  # a pause's own donor feeds the same token; see the silent edits below
    subject, bank = random_subject(kind), calibration(kind)
    base = base_run(subject, PROBLEMS[:3])
    targets = [subject.target(problem.answer) for problem in PROBLEMS[:3]]
    lanes = [lane(t, named(name), edge) for t in (1, 2, 4) for name in EDGES[edge]]
    read = 0
    for found in readings(subject, base, lanes, bank):
        with torch.no_grad():
            clean = subject.force(found.clean, targets * len(found.lanes)).logprobs
            edited = subject.force(found.closed, targets * len(found.lanes)).logprobs
        *others, null = found.split((clean - edited).abs().amax((1, 2)))
        assert found.lanes[-1].null and torch.equal(null, torch.zeros(3))
        assert torch.equal(found.acted[-1][0].change, torch.zeros(3))
        assert found.consumed == found.closed.consumed == found.clean.consumed
        onward = kind in ("coconut", "codi") and found.consumed > found.lanes[0].first
        reaches = onward if edge == "recurrence" else True  # controls pass nothing on
        for moved in others:
            assert bool((moved > 0).all()) == bool((moved > 0).any()) == reaches
        read += 1
    assert read == 4 + 3 + 1


def test_passes_are_cut_to_the_rows_and_each_has_its_own_identity():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:3])
    lanes = [lane(2, Resample(draw=draw)) for draw in range(5)]
    sizes = {
        rows: [len(r.lanes) for r in readings(subject, base, lanes, bank, at="end", rows=rows)]
        for rows in (1, 9, 12, 512)
    }
    assert sizes == {1: [2] * 5, 9: [3, 3, 2], 12: [4, 3], 512: [6]}


def test_receipts_say_how_far_the_edit_went_and_who_gave():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:3])
    lanes = [lane(2, zero()), lane(2, Resample())]
    (found,) = readings(subject, base, lanes, bank, at="end")
    (zeroed,), (given,), (null,) = found.acted
    norms = base.rollout.node(2).vectors[:, 0].norm(dim=1)
    torch.testing.assert_close(zeroed.change, norms)
    assert (zeroed.step, zeroed.operator, zeroed.edge, zeroed.donors) == (2, "zero", "input", None)
    assert given.donors is not None and null.donors is None
    for row, name in enumerate(given.donors):
        place = [problem.id for problem in bank.problems].index(str(name))
        change = base.rollout.node(2).vectors[row, 0] - bank.nodes[1].vectors[place, 0]
        assert float(given.change[row]) == pytest.approx(float(change.norm()), rel=1e-5)


def test_a_hidden_slot_counts_its_positions():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:2])
    (found,) = readings(subject, base, [lane(3, HideSlot(), "kv")], bank, at="end")
    assert found.acted[0][0].change.tolist() == [1.0, 1.0]


def test_an_edit_that_changes_nothing_is_an_error():
    subject, bank = random_subject("pause"), calibration("pause")
    base = base_run(subject, PROBLEMS[:2])
    with pytest.raises(SilentEditError) as error:
        list(readings(subject, base, [lane(3, Resample())], bank))
    assert str(error.value) == (
        "resample at step 3 on the edge 'input' changed nothing in any of 2 problems: a score of "
        "it would be a score of no edit."
    )
    same = constant(base.rollout.node(1).vectors[0, 0])
    with pytest.raises(SilentEditError, match=r"^constant at step 1 on the edge 'recurrence'"):
        list(readings(subject, base, [lane(1, same, "recurrence")], bank))


def test_an_edit_that_changes_nothing_is_marked_and_its_neighbours_keep_their_numbers():
    subject, bank = random_subject("pause"), calibration("pause")
    base = base_run(subject, PROBLEMS[:2])
    targets = [subject.target(problem.answer) for problem in PROBLEMS[:2]]
    lanes = [lane(3, Resample()), lane(3, zero())]
    (both,) = readings(subject, base, lanes, bank, at="end", silent="mark")
    (alone,) = readings(subject, base, lanes[1:], bank, at="end")
    why = [acted.silent for (acted,) in both.acted]
    assert why[0].startswith("resample at step 3 on the edge 'input' changed nothing in any of 2")
    assert why[1:] == ["", ""] and both.acted[0][0].change.tolist() == [0.0, 0.0]
    found = subject.force(both.closed, targets * 3).logprobs
    clean = subject.force(both.clean, targets * 3).logprobs
    silent, edited, null = both.split(found)
    assert torch.equal(silent, both.split(clean)[0]) and torch.equal(null, both.split(clean)[2])
    expected = subject.force(alone.closed, targets * 2).logprobs[:2]
    torch.testing.assert_close(edited, expected, rtol=0, atol=1e-5)
    assert not torch.equal(edited, both.split(clean)[1])


def test_an_edit_whose_work_an_earlier_one_did_is_no_silent_one():
    subject = Hops()
    bank = calibrate(subject, OTHERS)
    base = base_run(subject, PROBLEMS[:2])
    twice = Lane((Do(1, zero()), Do(3, zero())))
    (found,) = readings(subject, base, [twice], bank, at="end")
    first, second = found.acted[0]
    assert first.change.tolist() == [1.0, 1.0] and second.change.tolist() == [0.0, 0.0]


def test_an_operator_sees_the_edited_vector_or_the_clean_one():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:2])
    changes = {}
    for reference in ("edited", "clean"):
        dos = (Do(1, zero()), Do(2, rotate(90.0), reference=reference))
        (found,) = readings(subject, base, [Lane(dos)], bank, at="end")
        changes[reference] = found.acted[0][1].change
    state = subject.step(base.rollout.states[0], Node(torch.zeros(2, 1, 32), torch.ones(2, 1) > 0))
    turned = state.node.vectors[:, 0].norm(dim=1) * 2**0.5  # of a right angle
    torch.testing.assert_close(changes["edited"], turned, rtol=1e-5, atol=0)
    assert not torch.allclose(changes["clean"], turned, rtol=1e-2)


def test_only_the_places_named_are_edited():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:2])
    with pytest.raises(EditError) as error:
        list(readings(subject, base, [Lane((Do(2, zero(), places=(1,)),))], bank))
    assert str(error.value) == (
        "zero is to edit the places [1] of step 2, which has places 0 to 0: name some of those."
    )
    (found,) = readings(subject, base, [Lane((Do(2, zero(), places=(0,)),))], bank, at="end")
    assert float(found.acted[0][0].change.min()) > 0


def test_nodes_of_different_width_stand_on_each_other():
    one, two = Node.slot(torch.ones(1, 2)), Node(torch.ones(2, 3, 2), torch.ones(2, 3) > 0)
    both = stack_nodes([one, two])
    assert both.seen.tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert both.vectors[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("lanes", "kind", "message"),
    [
        ([], InputError, "There is no intervention to run: give at least one lane."),
        (
            [lane(5, zero())],
            EditError,
            "a random coconut has steps 1 to 4, and zero is asked for step 5: name one of those.",
        ),
        (
            [lane(0, mean_step())],
            EditError,
            "a random coconut has steps 1 to 4, and mean_step is asked for step 0: name one of "
            "those.",
        ),
        (
            [Lane((Do(2, zero()), Do(1, zero())))],
            EditError,
            "A lane edits steps [2, 1]: name each step once, in order.",
        ),
        ([Lane(())], EditError, "A lane edits steps []: name each step once, in order."),
        (
            [lane(1, Interpolate(zero(), 0.5), "both")],
            EditError,
            "zero@0.5 has no keys and values of its own for the edge 'both': take the edge "
            "'cache', or kv_mask or kv_swap.",
        ),
        (
            [lane(1, HideSlot(), "both")],
            EditError,
            "kv_mask acts on keys and values alone: take the edge 'kv', not 'both'.",
        ),
        (
            [lane(1, HideSlot())],
            EditError,
            "kv_mask acts on keys and values alone: take the edge 'kv', not 'input'.",
        ),
    ],
)
def test_lanes_that_cannot_act_are_refused_before_the_model_runs(lanes, kind, message, monkeypatch):
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:2])
    monkeypatch.setattr(subject, "feed", lambda *a: pytest.fail("the model ran"))
    with pytest.raises(kind) as error:
        list(readings(subject, base, lanes, bank))
    assert str(error.value) == message


def test_an_edge_that_does_not_exist_is_refused():
    with pytest.raises(EditError) as error:
        Do(1, zero(), "inputs")
    assert str(error.value) == (
        "There is no edge 'inputs'; there are input, kv, both, recurrence, cache. Did you mean "
        "'input'?"
    )


def test_the_calibration_must_be_of_the_subject_and_the_subject_have_steps():
    with pytest.raises(InputError) as error:
        check(random_subject(n_steps=3), [lane(1, zero())], calibration())
    assert str(error.value) == (
        "The calibration has 4 steps and a random coconut 3: calibrate this subject."
    )
    with pytest.raises(InputError) as error:
        base_run(random_subject("no_latents"), PROBLEMS)
    assert str(error.value) == (
        "no latents has no latent steps, so there is nothing to intervene on: use it as the "
        "control that it is, in `accuracy`."
    )


def test_a_calibration_set_is_apart_and_large_enough():
    subject = random_subject()
    with pytest.raises(InputError) as error:
        calibrate(subject, OTHERS[:1])
    assert str(error.value) == "1 calibration problems: means need 2 or more, better 100."
    with pytest.raises(InputError) as error:
        calibrate(subject, OTHERS, scored=[*PROBLEMS, OTHERS[3]])
    assert str(error.value) == (
        "Problem 'cycle-8-4-9-3' is scored and in the calibration set too: means and donors must "
        "come from other problems, so keep the two sets apart."
    )


def test_means_are_those_of_the_runs():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, OTHERS)
    fed = torch.stack([base.rollout.node(t).vectors[:, 0] for t in range(1, 5)])
    torch.testing.assert_close(bank.mean_step(3)[0], fed[2].mean(0))
    torch.testing.assert_close(bank.mean(), fed.flatten(0, 1).mean(0))
    assert bank.norm() == pytest.approx(float(fed.norm(dim=-1).mean()), rel=1e-6)
    summary = bank.summary()
    assert summary["n"] == 8 and isinstance(summary["ids_hash"], str)


def test_class_means_reach_the_model_by_problem():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:2])
    vectors = {"one": torch.ones(4, 32), "two": torch.zeros(4, 32)}
    both = {PROBLEMS[0].id: "one", PROBLEMS[1].id: "two"}
    (found,) = readings(subject, base, [lane(1, class_mean(vectors, both))], bank, at="end")
    own = base.rollout.node(1).vectors[:, 0]
    expected = torch.stack([(own[0] - 1).norm(), own[1].norm()])
    torch.testing.assert_close(found.acted[0][0].change, expected)
