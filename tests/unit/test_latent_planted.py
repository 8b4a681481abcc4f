"""Planted subjects: numbers worked out by hand, and every method finds what was planted."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import Calibration, calibrate
from interp.latent.early_stop import early_stop
from interp.latent.influence import Influence, influence
from interp.latent.interventions import base_run, lane, readings
from interp.latent.necessity import necessity
from interp.latent.operators import HideSlot, Resample, zero
from interp.latent.planted import (
    Planted,
    PlantedCommitment,
    expected_influence,
    swap_class,
    swap_gain,
    zero_gain,
)
from interp.latent.planted_chain import PlantedChain
from interp.latent.state import Node
from interp.latent.subject import Subject, roll_out
from tests.strategies import says

EDGES: tuple[Any, ...] = ("input", "recurrence", "cache")


def problem(question: str, answer: str = "0") -> LatentProblem:
    return LatentProblem("p", question, (), answer)


def read(subject: Subject, question: str) -> list[str]:
    """What one problem's read-outs say after 0..T steps."""
    rolled = roll_out(subject, subject.prefill([problem(question)]))
    return [subject.decode(subject.close(state))[0] for state in rolled.states]


def bank(subject: Any, scored: list[LatentProblem]) -> Calibration:
    others = subject.draw(12, 300) if isinstance(subject, PlantedChain) else subject.draw(12, 9)
    return calibrate(subject, others, scored=scored)


def table(found: Influence, operator: str) -> torch.Tensor:
    """Mean KL of an operator, `[t, s]`."""
    w = torch.zeros(found.n_steps, found.n_steps, dtype=torch.float64)
    rows = [row for row in found.rows if row["operator"] == operator]
    for row in rows:
        w[row["t"] - 1, row["s"] - 1] += row["kl"]  # type: ignore[operator]
    return w / len({row["id"] for row in rows})


def test_both_gains_by_hand():
    """Two classes and a gap of log 3 give 3/4 and 1/4.

    Swap: 3/4 log 3 - 1/4 log 3; zero: 3/4 log (3/2) + 1/4 log (1/2).
    """
    assert abs(swap_gain(2, math.log(3)) - 0.5 * math.log(3)) < 1e-12
    assert abs(zero_gain(2, math.log(3)) - (0.75 * math.log(3) - math.log(2))) < 1e-12


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("chain", {}, "03333"),  # the first number, carried on; nothing is class 0
        ("window", {}, "03412"),  # 3, 3+1, 1+0, 0+2 mod 5
        ("shortcut", {}, "33333"),  # the prompt's first number; at the end slot 1, which holds it
        ("prompt_only", {}, "33333"),
        ("cache_only", {}, "03441"),  # 3, 3+1, 3+1+0, 3+1+0+2
        ("recurrence_only", {}, "03441"),
        ("recurrence_only", {"copies": (4,)}, "03444"),
        ("selected", {"needed": (2, 4)}, "00113"),  # 1 from step 2 on, 1+2 at the end
    ],
)
def test_read_outs_by_hand(kind: Any, options: Any, said: str):
    """Five classes, four steps, the numbers 3 1 0 2; what a read-out says after 0..4 steps."""
    assert read(Planted(kind, **options), "3 1 0 2") == list(said)


@pytest.mark.parametrize("kind", ["chain", "window", "cache_only", "recurrence_only", "shortcut"])
def test_problems_state_the_steps_and_the_answer_that_the_subject_gives(kind: Any):
    subject = Planted(kind)
    problems = subject.draw(20)
    base = base_run(subject, problems)
    assert list(base.answers) == [p.answer for p in problems]
    for t in range(1, 5):
        stated = base.rollout.node(t).vectors[:, 0].argmax(-1).tolist()
        assert [p.steps[t - 1] for p in problems] == [str(i) for i in stated]
    assert len({p.answer for p in problems}) == 5
    assert not {p.question for p in problems} & {p.question for p in subject.draw(20, 1)}


def test_the_tables_of_the_four_shapes_by_hand():
    """Unit gains: rows are steps, columns what is read after 1..3 steps."""
    unit = {kind: expected_influence(kind, 3, 4, 3.0) / swap_gain(4, 3.0) for kind in SHAPES}
    assert {kind: w.int().tolist() for kind, w in unit.items()} == SHAPES
    split = {
        edge: expected_influence("chain", 3, 4, 3.0, edge=edge).bool().int().tolist()
        for edge in EDGES[1:]
    }
    assert split == {
        "recurrence": [[0, 1, 1], [0, 0, 1], [0, 0, 0]],
        "cache": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }


SHAPES: dict[Any, list[list[int]]] = {
    "chain": [[1, 1, 1], [0, 1, 1], [0, 0, 1]],
    "window": [[1, 1, 0], [0, 1, 1], [0, 0, 1]],
    "shortcut": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],
    "prompt_only": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("window", {}),
        ("shortcut", {}),
        ("cache_only", {}),
        ("recurrence_only", {"copies": (3,)}),
        ("selected", {"needed": (2, 4)}),
        ("prompt_only", {}),
        ("random_twin", {}),
    ],
)
def test_check_6_influence_finds_what_was_planted(kind: Any, options: Any, edge: Any):
    """To 1e-12: contents are whole numbers, so only the softmax rounds."""
    subject = Planted(kind, **options)
    problems = subject.draw(6)
    found = influence(
        subject, problems, bank(subject, problems), operators=[swap_class(), "zero"], edge=edge
    )
    assert found.null() == 0.0
    of: Any
    for name, of in (("swap_class_1", "swap"), ("zero", "zero")):
        due = expected_influence(kind, 4, 5, 3.0, operator=of, edge=edge, needed=subject.needed)
        torch.testing.assert_close(table(found, name), due, rtol=0, atol=1e-12)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("made", [lambda: Planted("chain"), PlantedChain])
def test_the_wired_transformer_and_the_planted_chain_agree(made: Any, edge: Any):
    """Donors with another answer have another class at every step; float32 leaves about 1e-6."""
    subject = made()
    problems = subject.draw(6)
    donors = Resample("other_answer")
    found = influence(
        subject, problems, bank(subject, problems), operators=[donors, "zero"], edge=edge
    )
    assert found.null() == 0.0
    of: Any
    for name, of in ((donors.name, "swap"), ("zero", "zero")):
        due = expected_influence("chain", 4, 5, 3.0, operator=of, edge=edge)
        torch.testing.assert_close(table(found, name), due, rtol=0, atol=1e-5)


def test_the_wired_transformer_feeds_contents_of_size_1_and_writes_one_class():
    subject = PlantedChain(n_steps=3, n_classes=4)
    problems = subject.draw(8)
    base = base_run(subject, problems)
    assert list(base.answers) == [p.answer for p in problems]
    assert {p.answer for p in problems} == {"0", "1", "2", "3"}
    word = torch.tensor([int(p.answer) for p in problems])
    for t in (1, 2, 3):
        vectors = base.rollout.node(t).vectors[:, 0, :4]
        torch.testing.assert_close(
            vectors, torch.nn.functional.one_hot(word, 4).float(), rtol=0, atol=1e-5
        )
    forced = subject.force(
        subject.close(base.rollout.states[-1]), [subject.target(p.answer) for p in problems]
    )
    likely = math.exp(3) / (math.exp(3) + 3)
    assert ((forced.of_targets().exp() - likely).abs() < 1e-5).all()


def test_hidden_slots_count_as_slots_of_zeros():
    subject = Planted("cache_only")
    problems = subject.draw(5)
    calibration, base = bank(subject, problems), base_run(subject, problems)
    hidden, *_ = readings(subject, base, [lane(2, HideSlot(), "kv")], calibration)
    zeroed, *_ = readings(subject, base, [lane(2, zero(), "cache")], calibration)
    assert torch.equal(hidden.closed.hidden, zeroed.closed.hidden)
    assert not hidden.closed.hidden[:5].any() and hidden.closed.hidden[5:].any()


def test_necessity_tells_the_steps_that_are_needed():
    subject = Planted("selected", needed=(2, 4))
    problems = subject.draw(10)
    found = necessity(subject, problems, bank(subject, problems), [swap_class()])
    rows = [row for row in found.rows if row["operator"] == "swap_class_1"]
    flips = {step: [row["flip"] for row in rows if row["step"] == step] for step in (1, 2, 3, 4)}
    assert flips == {1: [False] * 10, 2: [True] * 10, 3: [False] * 10, 4: [True] * 10}


def test_a_step_that_only_copies_is_needed_and_adds_nothing():
    """Swapping step 3 changes every answer, yet read-outs after 2 and 3 steps are the same bits."""
    subject = Planted("recurrence_only", copies=(3,))
    problems = subject.draw(12)
    found = necessity(subject, problems, bank(subject, problems), [swap_class()], steps=[3])
    assert all(row["flip"] for row in found.rows if row["operator"] == "swap_class_1")
    states = roll_out(subject, subject.prefill(problems)).states
    contents = [subject.close(state).hidden for state in states]
    same = [torch.equal(a, b) for a, b in pairwise(contents)]
    assert same == [False, False, True, False]
    stops = early_stop(subject, problems).rows
    answers = [[row["answer"] for row in stops if row["k"] == k] for k in (1, 2, 3, 4)]
    assert answers[1] == answers[2] and answers[0] != answers[1] and answers[2] != answers[3]


def test_in_the_random_twin_steps_can_be_read_and_nothing_is_used():
    """Its vectors are those of the chain, bit for bit; no edit of them moves any answer."""
    twin, chain = Planted("random_twin"), Planted("chain")
    problems = twin.draw(10)
    rolled, theirs = (roll_out(s, s.prefill(problems)) for s in (twin, chain))
    for t in (1, 2, 3, 4):
        assert torch.equal(rolled.node(t).vectors, theirs.node(t).vectors)
    calibration = bank(twin, problems)
    found = necessity(twin, problems, calibration, ["zero", "rotate", "resample", "swap"])
    assert len(found.rows) > 100 and not any(row["flip"] for row in found.rows)
    assert {row["kl"] for row in found.rows} == {0.0}
    assert {row["kl"] for row in necessity(chain, problems, bank(chain, problems)).rows} != {0.0}


def noisy(subject: PlantedCommitment, first: float, second: float) -> list[list[Any]]:
    """Vectors fed and what is said, with noise of these sizes at slots 1 and `settles` - 1."""
    state = subject.prefill([problem("0 0 0 0 0 0")])
    fed, said = [], []
    for step in range(1, subject.n_steps + 1):
        push = {1: first, subject.settles - 1: second}.get(step, 0.0)
        vector = state.node.vectors + push * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        fed.append(vector[0, 0].tolist())
        state = subject.step(state, Node(vector, state.node.seen))
        said.append(subject.decode(subject.close(state))[0])
    return [fed, said]


def test_the_answer_of_a_commitment_is_whether_two_signs_differ():
    subject = PlantedCommitment(n_steps=6, settles=4)
    wait = [0.5, 0.5, 0.0]
    fed, said = noisy(subject, 0.1, -0.2)
    assert fed == [[0.5, 0.5, 0.1], wait, [0.5, 0.5, -0.2], *[[0.0, 1.0, 0.0]] * 3]
    assert said == ["0", "0", "0", "1", "1", "1"]
    assert noisy(subject, -0.1, 0.2)[1][-1] == "1"
    assert [noisy(subject, a, a)[1][-1] for a in (-0.1, 0.0, 0.1)] == ["0", "0", "0"]
    late = PlantedCommitment(n_steps=6, settles=4, speaks=6)
    assert noisy(late, 0.1, -0.2) == [fed, ["0"] * 5 + ["1"]]


def test_bad_settings_and_problems_are_refused():
    with says(
        InputError,
        "There is no planted kind 'chian'; there are chain, window, shortcut, prompt_only, "
        "cache_only, recurrence_only, selected, random_twin. Did you mean 'chain'?",
    ):
        expected_influence("chian", 4, 5, 3.0)
    with says(InputError, "needed=(1,) belongs to the kind 'selected', not to 'chain'."):
        Planted("chain", needed=(1,))
    with says(InputError, "copies=(1,): 1 is none of the steps 2 to 4."):
        Planted("recurrence_only", copies=(1,))
    with says(
        InputError,
        "A planted subject has 2 steps or more, 2 classes or more and a gap above 0; not 1 steps, "
        "5 classes and a gap of 3.0.",
    ):
        Planted("chain", n_steps=1)
    with says(
        InputError,
        "settles=2, speaks=2: the answer settles at step 3 or later, is said then or later, and "
        "there are 6 steps.",
    ):
        PlantedCommitment(settles=2)
    subject = Planted("chain")
    with says(
        InputError,
        "Problem 'p' has the question '1 2', and planted-chain reads 4 numbers: make problems with "
        "its `draw`.",
    ):
        subject.prefill([problem("1 2")])
    with says(
        InputError,
        "Problem 'p' holds 7, and planted-chain knows the classes 0 to 4: make problems with its "
        "`draw`.",
    ):
        subject.prefill([problem("1 2 3 7")])
    with says(InputError, "'7' is no class of planted-chain: give 0 to 4."):
        subject.target("7")
    with says(InputError, "Problems 399 to 400: they are numbered 0 to 399."):
        PlantedChain().draw(2, 399)
