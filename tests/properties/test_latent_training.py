"""Laws of the plan of a training and of its problems."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.data.latent_problems import LatentProblem
from interp.latent.training import Listed, Recipe
from interp.latent.training.loop import rate
from interp.latent.training.recipe import phases

controls = st.sampled_from(["coconut", "pause", "no_recurrence", "no_latents"])
few = st.integers(1, 6)


@given(controls, few, few, st.booleans(), st.integers(0, 9), st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_stages_only_ever_drop_steps_and_add_latents(kind, stages, c, closing, cap, updates):
    recipe = Recipe(
        kind=kind,
        n_stages=stages,
        per_step=c,
        closing_stage=closing,
        stage_updates=cap,
        updates=updates,
    )
    plan = phases(recipe)
    assert len(plan) == stages + 1 + closing
    assert (plan[0].latents, plan[0].dropped) == (0, 0)
    assert plan[-1].latents == recipe.n_steps
    assert plan[-1].dropped >= stages
    for one, other in pairwise(plan):
        assert other.dropped > one.dropped and other.latents >= one.latents
    assert all(phase.updates <= updates for phase in plan if not cap)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 3))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_list_gives_each_problem_once_an_epoch_however_it_is_cut(size, n, seed):
    problems = tuple(LatentProblem(str(i), "q", (), "a") for i in range(size))
    source = Listed(problems, seed=seed)
    drawn = [p.id for at in range(2 * size) for p in source.draw(n, at)]
    for epoch in range(2 * n):
        part = drawn[epoch * size : (epoch + 1) * size]
        assert sorted(part) == sorted(p.id for p in problems)
    assert drawn == [p.id for p in source.draw(2 * n * size, 0)]


@given(st.integers(1, 300), st.floats(0, 0.9), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_rate_rises_once_and_stays_a_share(updates, warm_up, cosine):
    recipe = Recipe(updates=updates, warm_up=warm_up, cosine=cosine)
    rates = [rate(recipe, done) for done in range(updates)]
    assert all(0 <= r <= 1.0 + 1e-12 for r in rates)
    top = rates.index(max(rates))
    assert all(a <= b + 1e-12 for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[top:]))
    assert max(rates) > 0.3 if warm_up < 0.5 else True
