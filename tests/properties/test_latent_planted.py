"""Laws of planted subjects: the closed form holds for every size, gap, batch and edge."""

from __future__ import annotations

from typing import Any, get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.latent.calibration import calibrate
from interp.latent.effects import effects
from interp.latent.interventions import Do, Lane, base_run, lane, readings
from interp.latent.noise import Draws, Noise, noisy_states
from interp.latent.operators import Operator, named, zero
from interp.latent.planted import (
    Kind,
    Planted,
    PlantedCommitment,
    expected_influence,
    swap_class,
    swap_gain,
    zero_gain,
)

kinds = st.sampled_from(get_args(Kind))
edges = st.sampled_from(["input", "recurrence", "cache"])


@st.composite
def cases(draw: Any, kind: str | None = None) -> dict[str, Any]:
    """What a planted subject of any kind and size is made of."""
    picked = kind or draw(kinds)
    n_steps = draw(st.integers(2, 5))
    some = st.lists(st.integers(2, n_steps), min_size=1, unique=True).map(sorted)
    return {
        "kind": picked,
        "n_steps": n_steps,
        "n_classes": draw(st.integers(2, 6)),
        "gap": draw(st.floats(0.1, 8)),
        "needed": draw(some) if picked == "selected" else (),
        "copies": draw(some) if picked == "recurrence_only" else (),
    }


def measured(subject: Planted, operator: Operator, edge: Any, n: int = 3) -> torch.Tensor:
    """Mean KL at (t, s), straight from the readings; the identity beside it must be 0."""
    problems = subject.draw(n)
    bank, base = calibrate(subject, subject.draw(3, 9)), base_run(subject, problems)
    lanes = [lane(t, operator, edge) for t in range(1, subject.n_steps + 1)]
    w = torch.zeros(subject.n_steps, subject.n_steps, dtype=torch.float64)
    for reading in readings(subject, base, lanes, bank):
        targets = [subject.target(p.answer) for p in problems] * 2
        clean, edited = (subject.force(c, targets) for c in (reading.clean, reading.closed))
        acted, null = reading.split(effects(clean, edited).kl)
        assert not null.any()
        w[reading.lanes[0].first - 1, reading.consumed - 1] = acted.mean()
    return w


@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=cases(), edge=edges, shift=st.integers(1, 5), zeros=st.booleans())
def test_w_is_the_closed_form(case: dict[str, Any], edge: Any, shift: int, zeros: bool):
    """Whatever the class that is put in, and exactly 0 where nothing is planted."""
    subject = Planted(**case)
    turn = 1 + (shift - 1) % (subject.n_classes - 1)
    due = expected_influence(
        subject.kind,
        subject.n_steps,
        subject.n_classes,
        subject.gap,
        operator="zero" if zeros else "swap",
        edge=edge,
        needed=subject.needed,
    )
    w = measured(subject, zero() if zeros else swap_class(turn), edge)
    torch.testing.assert_close(w, due, rtol=0, atol=1e-10)  # float64
    assert not w[due == 0].any()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(2, 40), gap=st.floats(0.01, 20))
def test_gains_are_the_divergences_that_they_stand_for(n: int, gap: float):
    """Against torch's own KL; a swap moves more than zeros do, and both grow with the gap."""
    logits = torch.zeros(3, n, dtype=torch.float64)
    logits[0, 0] = logits[1, 1] = gap
    clean, swapped, zeroed = torch.log_softmax(logits, -1)
    for gain, other in ((swap_gain, swapped), (zero_gain, zeroed)):
        theirs = torch.nn.functional.kl_div(other, clean, log_target=True, reduction="sum")
        assert abs(gain(n, gap) - float(theirs)) < 1e-9 * max(1.0, gap)
        assert gain(n, 1.1 * gap) > gain(n, gap)
    assert swap_gain(n, gap) > zero_gain(n, gap) > 0


@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases("random_twin"), name=st.sampled_from(["zero", "mean", "gaussian", "rotate"]))
def test_nothing_is_found_in_the_random_twin(case: dict[str, Any], name: str):
    for edge in ("input", "recurrence", "cache"):
        assert not measured(Planted(**case), named(name), edge).any()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=cases(), order=st.permutations(range(4)))
def test_a_batch_is_its_problems_in_any_order(case: dict[str, Any], order: list[int]):
    subject = Planted(**case)
    problems = subject.draw(4)
    whole = base_run(subject, problems)
    other = base_run(subject, [problems[i] for i in order])
    assert [whole.answers[i] for i in order] == list(other.answers)
    for t in range(1, subject.n_steps + 1):
        assert bool(whole.rollout.node(t).take(order).same(other.rollout.node(t)).all())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=cases("cache_only"), turns=st.lists(st.integers(1, 5), min_size=2, max_size=2))
def test_edits_of_two_steps_add_up(case: dict[str, Any], turns: list[int]):
    """Turning two slots by a and b classes turns the answer by a + b."""
    subject = Planted(**case)
    problems, n = subject.draw(3), subject.n_classes
    bank, base = calibrate(subject, subject.draw(3, 9)), base_run(subject, problems)
    a, b = (1 + turn % (n - 1) if n > 2 else 1 for turn in turns)
    both = Lane((Do(1, swap_class(a)), Do(2, swap_class(b))))
    *_, last = readings(subject, base, [both], bank, at="end")
    due = [str((int(answer or 0) + a + b) % n) for answer in base.answers]
    assert subject.decode(last.closed)[:3] == due


@settings(max_examples=12, deadline=None, derandomize=True)
@given(n_steps=st.integers(3, 7), data=st.data(), seed=st.integers(0, 99))
def test_a_commitment_is_made_at_its_step_and_by_noise_alone(
    n_steps: int, data: st.DataObject, seed: int
):
    """From `settles` on every vector states the answer; before, the clean part is one for all."""
    settles = data.draw(st.integers(3, n_steps))
    subject = PlantedCommitment(n_steps=n_steps, settles=settles)
    (problem,) = subject.draw(1)
    start = subject.prefill([problem]).repeat(24)
    draws = Draws(Noise(sigma=0.1), tuple((problem.id, i) for i in range(24)), seed)
    *fed, last = noisy_states(subject, start, draws)
    said = torch.tensor([int(text) for text in subject.decode(subject.close(last))])
    signs = [fed[step - 1].node.vectors[:, 0, 2] > 0 for step in (1, settles - 1)]
    assert torch.equal((signs[0] ^ signs[1]).long(), said)
    assert 0 < int(said.sum()) < 24
    for step in range(1, n_steps + 1):
        shown = fed[step - 1].node.vectors[:, 0, :2]
        apart = (shown[:, 0] - shown[:, 1]).abs() > 0.5
        assert bool((apart == (step >= settles)).all())
        assert step < settles or torch.equal(shown.argmax(-1), said)
