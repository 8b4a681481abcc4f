"""Clamp sweeps: a planted generator, a toy language model by hand, errors word for word."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from interp.edits import Clamp
from interp.errors import EditError, InputError, SiteError
from interp.patching.clamp_sweep import (
    ClampCurve,
    latent_generator,
    sign_score,
    sweep_generator,
    sweep_site,
    wide_grid,
)
from tests.strategies import ToyModel, tiny

GRID = wide_grid((-1.0, 1.0), n=17, reach=1.5)  # -4 to 4 in steps of one half


def last_logit(token: int):
    return lambda logits, rows: logits[rows, token]


def sweep(curve, **settings) -> ClampCurve:
    """Sweep Y = curve(t) + noise over 40 draws that stay the same."""
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0))
    options = {"grid": GRID, "observed": (-1.0, 1.0), "n_boot": 200} | settings
    return sweep_generator(lambda unit, t: curve(t) + noise, 0, **options)


# ---------------------------------------------------------------- numbers by hand


def test_a_curve_by_hand():
    """Y = t^2 + (0, 2): mean t^2 + 1; differences of -1, 0, 3 are -1/1 and 9/3: ICE = 1."""
    curve = sweep_generator(
        lambda unit, t: t**2 + torch.tensor([0.0, 2.0]),
        3,
        grid=(-1, 0, 3),
        observed=(-1, 0),
        t0=2.0,
    )
    assert [point.estimate for point in curve.mean] == [2, 1, 10]
    assert [point.estimate for point in curve.ate] == [-3, -4, 5]
    assert [point.low for point in curve.ate] == [-3, -4, 5]  # paired: no draw differs
    assert curve.unit == 3 and curve.ice == pytest.approx(1) and curve.sign == 1
    assert curve.end_to_end == pytest.approx(8 / 4)  # not ICE: the grid is not uniform
    assert (curve.whole.largest_at, curve.whole.largest.estimate) == (3, 5)
    assert (curve.inside.largest_at, curve.inside.largest.estimate) == (0, -4)  # not -3 at -1
    assert not curve.monotone and not curve.t0_inside


def test_inside_and_outside_are_told_apart():
    """Flat inside, a slope of 2 above 1, none below -1."""
    curve = sweep(lambda t: 2 * max(0.0, t - 1))
    assert curve.inside.grid == (-1, -0.5, 0, 0.5, 1)
    assert curve.below.grid[-1] == -1.5 and curve.above.grid[0] == 1.5
    assert curve.inside.ice.estimate == pytest.approx(0, abs=1e-6)
    assert curve.inside.largest.estimate == pytest.approx(0, abs=1e-6)
    assert curve.below.ice.estimate == pytest.approx(0, abs=1e-6)
    assert curve.above.ice.estimate == pytest.approx(2, abs=1e-6)
    assert (curve.above.largest_at, curve.above.largest.estimate) == (4, pytest.approx(6, abs=1e-6))
    assert len(curve.below.grid) + len(curve.inside.grid) + len(curve.above.grid) == len(GRID)


def test_a_grid_may_lie_on_one_side():
    curve = sweep(lambda t: t, grid=(2.0, 3.0), observed=(3.0, 3.0))
    assert curve.above is None and curve.inside.grid == (3.0,) and curve.inside.ice is None
    assert curve.below.grid == (2.0,)


def test_a_planted_bump_has_no_slope_and_is_still_flagged():
    """ICE over a uniform grid is end to end, so a bump is invisible to it; ATE sees it."""
    curve = sweep(lambda t: 5 * float(torch.exp(torch.tensor(-((t - 1) ** 2) * 4))), t0=-4.0)
    assert abs(curve.ice) < 1e-6 and curve.ice == pytest.approx(curve.end_to_end, abs=1e-12)
    assert curve.whole.largest_at == 1.0
    assert curve.whole.largest.estimate == pytest.approx(5, abs=1e-4)
    assert curve.whole.largest.low > 4 and curve.sign == 0 and not curve.monotone


def test_draws_that_change_from_call_to_call_show_in_the_placebo():
    rng = torch.Generator().manual_seed(0)
    options = {"grid": (0.0, 1.0), "observed": (0.0, 1.0), "n_boot": 50}
    loose = sweep_generator(lambda u, t: t + torch.randn(30, generator=rng), 0, **options)
    assert loose.placebo > 0.5
    assert sweep(lambda t: t).placebo == 0


def test_intervals_count_problems_and_not_draws():
    """40 draws of 2 problems: the interval is that of two values, far wider."""
    noise = torch.arange(40.0) % 2 * 4
    single = sweep_generator(lambda u, t: t * noise, 0, grid=GRID, observed=(-1, 1))
    pairs = sweep_generator(
        lambda u, t: t * noise, 0, grid=GRID, observed=(-1, 1), clusters=[i % 2 for i in range(40)]
    )
    width = [curve.whole.ice.high - curve.whole.ice.low for curve in (single, pairs)]
    assert width[1] == pytest.approx(4) and width[0] < 1.6
    assert single.sign == 1 and pairs.sign == 0  # an interval of 0 to 4 holds 0
    assert pairs.whole.ice.n_units == 2


def test_signs_of_groups_add_up():
    up, down, flat = sweep(lambda t: t), sweep(lambda t: -t), sweep(lambda t: 0.0)
    assert [curve.sign for curve in (up, down, flat)] == [1, -1, 0]
    assert sign_score([up, up, down]) == 1 and sign_score([down, flat]) == -1
    with pytest.raises(InputError, match=r"^No curve was given: sweep at least one group"):
        sign_score([])


# ---------------------------------------------------------------- a planted generator


class Pulses(nn.Module):
    """Latent `[unit 0-4, noise 5-7]` to a train of pulses on 256 samples.

    Unit 0 sets how many pulses, 1 their spacing, 2 the height of a tone; unit 3 lifts the tone in
    a bump around 0.5 only; unit 4 does nothing.
    """

    def forward(self, latent: Tensor) -> Tensor:
        count = (6 + 0.8 * latent[:, :1] + 0.7 * latent[:, 5:6]).round()
        spacing = 18 + 1.5 * latent[:, 1:2] + latent[:, 6:7]
        bump = torch.exp(-4 * (latent[:, 3:4] - 0.5) ** 2)
        height = 0.12 + 0.02 * latent[:, 2:3] + 0.3 * bump + 0.01 * latent[:, 7:8]
        time = torch.arange(256.0)
        starts = (10 + spacing[..., None] * torch.arange(12.0)[None, None]).round()[:, 0]
        played = torch.arange(12.0) < count
        hits = (time[None, :, None] == starts[:, None]) & played[:, None]
        return hits.any(-1).float() + height * torch.sin(2 * torch.pi * time / 4)


def n_pulses(wave: Tensor) -> Tensor:
    return (wave > 0.6).sum(1).float()


def gap(wave: Tensor) -> Tensor:
    places = (wave > 0.6).float() * torch.arange(256.0)
    first = torch.where(places > 0, places, 999.0).min(1).values
    return (places.max(1).values - first) / (n_pulses(wave) - 1).clamp(min=1)


def tone(wave: Tensor) -> Tensor:
    return torch.where(wave > 0.6, 0.0, wave)[:, 1::4].mean(1)


@pytest.fixture(scope="module")
def planted() -> dict[tuple[str, int], ClampCurve]:
    draws = torch.randn(150, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    draws[:, :5] = 0
    factors = {"count": n_pulses, "gap": gap, "tone": tone}
    return {
        (name, unit): sweep_generator(
            latent_generator(Pulses(), draws, measure),
            unit,
            grid=wide_grid((-1.0, 1.0), n=13, reach=1.0),
            observed=(-1.0, 1.0),
            t0=-3.0,
            n_boot=200,
        )
        for name, measure in factors.items()
        for unit in range(5)
    }


@pytest.mark.parametrize(
    ("factor", "unit", "slope"), [("count", 0, 0.8), ("gap", 1, 1.5), ("tone", 2, 0.02)]
)
def test_each_planted_unit_has_the_largest_slope_for_its_factor(planted, factor, unit, slope):
    slopes = [abs(planted[factor, each].ice) for each in range(5)]
    assert max(range(5), key=slopes.__getitem__) == unit
    assert planted[factor, unit].ice == pytest.approx(slope, rel=0.15)
    assert max(s for each, s in enumerate(slopes) if each != unit) < 0.25 * slopes[unit]
    assert planted[factor, unit].sign == 1 and planted[factor, 4].sign == 0
    assert planted[factor, 4].whole.largest.estimate == 0


def test_the_draws_stay_as_they_were():
    draws = torch.ones(2, 8)
    latent_generator(Pulses(), draws, n_pulses)(0, 5.0)
    assert torch.equal(draws, torch.ones(2, 8))


def test_the_bump_of_the_generator_is_seen_by_ate_only(planted):
    bump, slope = planted["tone", 3], planted["tone", 2]
    assert abs(bump.ice) < 0.1 * slope.ice
    assert bump.whole.largest_at == 0.5
    assert bump.whole.largest.estimate > 2 * slope.whole.largest.estimate
    assert bump.inside.largest.estimate > 0.2 > bump.above.largest.estimate


def test_the_end_point_identity_holds_on_every_uniform_grid(planted):
    for curve in planted.values():
        assert curve.ice == pytest.approx(curve.end_to_end, abs=1e-12)  # float64 sums of 12 steps
        assert curve.placebo == 0


def test_the_bootstrap_covers_the_true_curve_at_the_nominal_rate():
    """True mean of Y(t) is t^2 + t, of ATE(t) to t0 = 0 as well; noise acts on both terms.

    150 data sets at a level of 0.9: sampling error of the rate is 0.025, and three of it is
    allowed, besides the little that a percentile interval of 50 draws is known to fall short.
    """
    rng, hits = torch.Generator().manual_seed(0), torch.zeros(2)
    for seed in range(150):
        slope, level = torch.randn(2, 50, generator=rng)
        curve = sweep_generator(
            lambda u, t, slope=slope, level=level: t**2 + (1 + slope) * t + level,
            0,
            grid=(-1.0, 2.0),
            observed=(-1, 1),
            n_boot=200,
            level=0.9,
            seed=seed,
        )
        for i, point in enumerate((curve.mean[1], curve.ate[1])):
            hits[i] += point.low <= 6 <= point.high
    for rate in (hits / 150).tolist():
        assert 0.82 <= rate <= 0.97


# ---------------------------------------------------------------- a language model


def test_a_language_models_unit_by_hand():
    """In the toy resid_mid of token t is 3 t (1, 2, 3, 4) and a logit 11 times resid_mid."""
    curve = sweep_site(
        ToyModel(), [[1, 2], [3]], "0.resid_mid", 1, last_logit(1), grid=(-5, 0, 5, 20), n_boot=50
    )
    assert curve.outcomes.tolist() == [[-55.0] * 2, [0.0] * 2, [55.0] * 2, [220.0] * 2]
    assert curve.natural.tolist() == [11 * 12, 11 * 18]
    assert curve.observed == (6, 18)  # tokens 1, 2 and 3
    assert curve.placebo == 0 and curve.ice == pytest.approx(11)
    assert curve.inside is None and curve.below.grid == (-5, 0, 5) and curve.above.grid == (20,)
    assert len(curve.receipts) == 4 and all(receipt.acted for receipt in curve.receipts)
    assert curve.receipts[1].tokens == ((0, 0), (0, 1), (1, 0))


def test_the_observed_range_is_that_of_the_clamped_positions():
    curve = sweep_site(
        ToyModel(), [[1, 2], [3, 1]], "0.resid_mid", 1, last_logit(1), grid=(0, 1), positions=1
    )
    assert curve.observed == (6, 12)  # the second tokens: 2 and 1


def test_a_sweep_equals_edited_runs_of_a_real_architecture():
    model, prompts = tiny("tiny-gpt2"), [[5, 60, 7, 200], [9, 33]]
    curve = sweep_site(model, prompts, "1.mlp.post", 7, last_logit(4), grid=(-2, 0, 3), n_boot=20)
    act = model.run(prompts, capture="1.mlp.post").acts["1.mlp.post"][..., 7]
    assert curve.observed == (float(act.nan_to_num(99).min()), float(act.nan_to_num(-99).max()))
    edited = model.run(prompts, edits=[Clamp("1.mlp.post", units=7, value=3.0)], logits="last")
    assert torch.equal(curve.outcomes[2], edited.logits[:, 4].double())
    assert curve.placebo == 0
    assert curve.outcomes.std() > 1e-3  # the unit matters, so the lines above say something


# ---------------------------------------------------------------- errors


OK = {"grid": (0.0, 1.0), "observed": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"grid": (1.0, 0.0)},
            "grid=(1, 0), t0=0.0: give two or more finite values, each above the one before.",
        ),
        (
            {"grid": (0.0,)},
            "grid=(0), t0=0.0: give two or more finite values, each above the one before.",
        ),
        (
            {"t0": float("nan")},
            "grid=(0, 1), t0=nan: give two or more finite values, each above the one before.",
        ),
        (
            {"observed": (1.0, 0.0)},
            "unit=0, observed=(1.0, 0.0): a unit counts from 0, and a range runs from its least "
            "value to its greatest.",
        ),
        (
            {"level": 1.0},
            "level=1.0, n_boot=1000: a level lies between 0 and 1, such as 0.95, and at least one "
            "resample is drawn.",
        ),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_generated(settings, message):
    def generate(unit, t):
        pytest.fail("nothing may be generated")

    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        sweep_generator(generate, 0, **(OK | settings))


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            lambda t: torch.zeros(2, 2),
            "The outcome at 0 has shape [2, 2]: return one number a draw.",
        ),
        (
            lambda t: torch.zeros(2 + (t > 0)),
            "The outcome at 1 has shape [3]: return 2 numbers, one a draw.",
        ),
        (
            lambda t: torch.tensor([1.0, 1.0 / (1 - t)]),
            "The outcome at 1 is not finite for every draw: shorten the grid.",
        ),
    ],
)
def test_a_bad_outcome_is_refused(outcome, message):
    def generate(unit, t):
        return outcome(torch.tensor(t))

    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        sweep_generator(generate, 0, **OK)


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match=r"^There are 40 draws and 3 cluster names: give one a d"):
        sweep(lambda t: t, clusters=[1, 2, 3])
    with pytest.raises(InputError, match=r"^There is no unit 8: the draws have 8 entries\.$"):
        latent_generator(Pulses(), torch.zeros(3, 8), n_pulses)(8, 0.0)
    with pytest.raises(InputError, match=r"^observed=\(1\.0, 1\.0\), n=41, reach=2\.0: give a ran"):
        wide_grid((1.0, 1.0))
    with pytest.raises(EditError, match=r"there is no unit 4; 0\.resid_mid has 4 units"):
        sweep_site(ToyModel(), [[1]], "0.resid_mid", 4, last_logit(0), grid=(0, 1))
    with pytest.raises(SiteError, match=r"Did you mean '0\.resid_mid'"):
        sweep_site(ToyModel(), [[1]], "0.resid_mdi", 1, last_logit(0), grid=(0, 1))
