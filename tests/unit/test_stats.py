from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pytest

from interp.errors import InputError, UndefinedEffectError
from interp.stats import (
    Interval,
    auc,
    cluster_bootstrap,
    mean,
    paired_difference,
    pooled,
    spearman,
    wilson,
)


def clustered(rng: np.random.Generator, n_clusters: int = 40, n_steps: int = 5):
    """Steps around zero that share most of their noise within a problem."""
    shared = rng.normal(size=n_clusters).repeat(n_steps)
    return shared + 0.5 * rng.normal(size=len(shared)), np.arange(n_clusters).repeat(n_steps)


# The cluster bootstrap


def test_the_estimate_is_the_mean_of_all_values_and_the_unit_is_the_cluster():
    interval = cluster_bootstrap([1.0, 2.0, 6.0], ["a", "a", "b"])
    assert interval.estimate == 3.0
    assert interval.n_units == 2
    assert interval.level == 0.95


def test_two_clusters_by_hand():
    """Resamples: aa 1 in 4, ab or ba 1 in 2, bb 1 in 4; means 1.5, 3 and 6.

    So the quantiles 0.025 and 0.975 are 1.5 and 6, and the quartiles lie at the jumps.
    """
    interval = cluster_bootstrap([1.0, 2.0, 6.0], ["a", "a", "b"], n_boot=4000)
    assert (interval.low, interval.high) == (1.5, 6.0)
    half = cluster_bootstrap([1.0, 2.0, 6.0], ["a", "a", "b"], n_boot=4000, level=0.4)
    assert (half.low, half.high) == (3.0, 3.0)


def test_the_interval_has_the_resamples_exact_quantiles():
    """Three clusters have 27 equally likely resamples: compare with all of them."""
    values = [0.0, 1.0, 5.0]
    means = np.sort([np.mean(draw) for draw in product(values, repeat=3)])
    interval = cluster_bootstrap(values, "xyz", n_boot=20000, level=0.8)
    # the 10% and 90% quantiles lie inside the steps of the distribution, not at a jump
    assert interval.low == pytest.approx(means[int(0.1 * 27)])
    assert interval.high == pytest.approx(means[int(0.9 * 27)])


def test_check_14_coverage_is_near_its_level_and_steps_as_units_fall_far_short():
    rng = np.random.default_rng(7)
    by_problem, by_step, widths = 0, 0, []
    for seed in range(300):
        values, clusters = clustered(rng)
        wide = cluster_bootstrap(values, clusters, n_boot=500, seed=seed)
        narrow = cluster_bootstrap(values, range(len(values)), n_boot=500, seed=seed)
        by_problem += wide.low <= 0 <= wide.high
        by_step += narrow.low <= 0 <= narrow.high
        widths.append((wide.high - wide.low) / (narrow.high - narrow.low))
    assert 0.90 <= by_problem / 300 <= 0.98
    assert by_step / 300 < 0.80
    # variances 1 and 0.25: the means' standard errors are in the ratio sqrt(1.05 / 0.25)
    assert np.mean(widths) == pytest.approx(2.05, abs=0.1)


def test_any_statistic_redraws_as_the_mean_does():
    values, clusters = clustered(np.random.default_rng(0))
    fast = cluster_bootstrap(values, clusters)
    slow = cluster_bootstrap(values, clusters, statistic=lambda x: mean(x))
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=1e-12)
    median = cluster_bootstrap(values, clusters, statistic=lambda x: float(np.median(x)))
    assert median.low < median.estimate < median.high
    assert median.estimate == np.median(values)


def test_the_seed_decides():
    values, clusters = clustered(np.random.default_rng(0))
    assert cluster_bootstrap(values, clusters) == cluster_bootstrap(values, clusters, seed=0)
    assert cluster_bootstrap(values, clusters) != cluster_bootstrap(values, clusters, seed=1)


def test_the_order_of_rows_does_not_matter():
    values, clusters = clustered(np.random.default_rng(0))
    shuffle = np.random.default_rng(1).permutation(len(values))
    one = cluster_bootstrap(values, clusters)
    other = cluster_bootstrap(values[shuffle], clusters[shuffle])
    # sums in another order differ by rounding only
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_many_clusters_are_drawn_in_blocks(monkeypatch):
    values, clusters = clustered(np.random.default_rng(0))
    whole = cluster_bootstrap(values, clusters)
    monkeypatch.setattr("interp.stats._BLOCK", 1000)
    assert cluster_bootstrap(values, clusters) == whole


def test_one_problem_has_no_interval():
    interval = cluster_bootstrap([1.0, 3.0], ["a", "a"])
    assert interval.estimate == 2.0
    assert (interval.low, interval.high) == (None, None)
    assert interval.warning == "one problem: no interval"


def test_few_problems_are_said():
    message = "only 19 problems: the interval is probably too narrow"
    assert cluster_bootstrap(np.arange(19.0), range(19)).warning == message
    assert cluster_bootstrap(np.arange(20.0), range(20)).warning is None


def test_a_resample_without_a_value_is_not_averaged_away():
    def ratio(x):
        return float("nan") if x.sum() == 0 else 1.0

    interval = cluster_bootstrap([0.0, 1.0], ["a", "b"], statistic=ratio, n_boot=100)
    assert (interval.low, interval.high) == (None, None)
    assert interval.warning.endswith(" of 100 resamples have no value: no interval")


def test_an_interval_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        cluster_bootstrap([1.0, 2.0], "ab").low = 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    message = rf"^values\[1\] is {bad}, one of 1 that are not finite: drop or mark them first"
    with pytest.raises(InputError, match=message):
        cluster_bootstrap([1.0, bad], "ab")


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], [], r"^values has shape \(0,\): give a list of at least one number\.$"),
        ([[1.0]], "a", r"^values has shape \(1, 1\)"),
        ([1.0, 2.0], "a", r"^There are 2 values and 1 cluster names: give one per value\.$"),
        (["x"], "a", r"^values must be numbers: "),
        ([1.0, None], "ab", r"^values\[1\] is nan"),
    ],
)
def test_bad_values_are_refused(values, clusters, message):
    with pytest.raises(InputError, match=message):
        cluster_bootstrap(values, clusters)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_is_a_share(level):
    with pytest.raises(InputError, match=r"^level is .*above 0 and below 1, such as 0\.95\.$"):
        cluster_bootstrap([1.0], "a", level=level)


def test_at_least_one_resample():
    with pytest.raises(InputError, match=r"^n_boot is 0: at least one resample"):
        cluster_bootstrap([1.0], "a", n_boot=0)


# Paired differences


def test_pairs_take_out_what_both_sides_share():
    rng = np.random.default_rng(0)
    base, clusters = clustered(rng)
    noise = 0.01 * rng.normal(size=len(base))
    interval = paired_difference(base + 1 + noise, base, clusters)
    assert interval.estimate == pytest.approx(1 + noise.mean())
    assert interval.high - interval.low < 0.01


def test_pairs_by_hand():
    interval = paired_difference([1.0, 5.0, 9.0], [1.0, 1.0, 1.0], ["a", "a", "b"])
    assert (interval.estimate, interval.low, interval.high) == (4.0, 2.0, 8.0)


def test_pairs_must_be_pairs():
    with pytest.raises(InputError, match=r"^a has 2 values and b has 1: they must be pairs"):
        paired_difference([1.0, 2.0], [1.0], "ab")


# Area under the curve


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([2, 3], [0, 1], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([1, 1], [1], 0.5),
        ([0.8, 0.4], [0.6, 0.2, 0.4], 4.5 / 6),  # 0.8 beats 3; 0.4 beats 1 and ties with 1
    ],
)
def test_auc_by_hand(positive, negative, expected):
    assert auc(positive, negative) == pytest.approx(expected, abs=1e-15)


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40), rng.integers(0, 9, 50)
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert auc(a, b) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc(a, b) + auc(b, a) == pytest.approx(1, abs=1e-12)


def test_auc_needs_both_sides():
    with pytest.raises(InputError, match=r"^negative has shape \(0,\)"):
        auc([1.0], [])


# Wilson's interval


def test_wilson_by_hand():
    """With n = 10, k = 5 and z = 1.96: the middle is 1/2 and the half width is 0.2634.

    half = z * sqrt(0.025 + z^2 / 400) / (1 + z^2 / 10) = 1.95996 * 0.186029 / 1.384146.
    """
    interval = wilson(5, 10)
    assert interval.estimate == 0.5
    assert interval.low == pytest.approx(0.5 - 0.263415, abs=1e-5)
    assert interval.high == pytest.approx(0.5 + 0.263415, abs=1e-5)
    assert interval.n_units == 10


def test_wilson_solves_its_equation():
    """The ends are the shares p at which (k/n - p)^2 = z^2 p (1 - p) / n."""
    interval, z = wilson(3, 17, level=0.9), 1.6448536269514722
    for p in (interval.low, interval.high):
        assert (3 / 17 - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / 17, rel=1e-9)


def test_wilson_stays_inside_and_has_a_width_at_the_ends():
    z2 = 1.959963984540054**2
    none, every = wilson(0, 8), wilson(8, 8)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(z2 / (8 + z2))
    assert every.low == pytest.approx(8 / (8 + z2))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_share(k, n):
    with pytest.raises(InputError, match=rf"^{k} of {n} is no share: "):
        wilson(k, n)


# Rank correlation


def test_spearman_by_hand():
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * (1 + 1 + 1 + 1 + 0) / (5 * 24) = 0.8."""
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 99]) == pytest.approx(0.8, abs=1e-15)


def test_spearman_with_ties_by_hand():
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)."""
    expected = 4.5 / np.sqrt(4.5 * 5)
    assert spearman([0, 1, 1, 2], [5, 6, 7, 8]) == pytest.approx(expected, abs=1e-15)


def test_spearman_sees_order_only():
    x = np.random.default_rng(0).normal(size=30)
    assert spearman(x, np.exp(x)) == pytest.approx(1, abs=1e-12)
    assert spearman(x, -(x**3)) == pytest.approx(-1, abs=1e-12)


def test_spearman_of_a_constant_is_undefined():
    with pytest.raises(UndefinedEffectError, match=r"^A side of the 2 pairs is constant"):
        spearman([1, 2], [3, 3])


# Pooled intervals


def scored(iia: float, half: float = 0.0) -> dict[str, float]:
    return {"iia": iia, "iia_low": iia - half, "iia_high": iia + half}


def test_two_networks_that_differ_have_the_interval_of_redrawing_them():
    """Both first, one of each, both second: 1/4, 1/2, 1/4 of the resamples."""
    found = pooled([scored(0.5, 0.01), scored(0.9, 0.01)], "iia")
    assert (found.estimate, found.low, found.high) == (pytest.approx(0.7), 0.5, 0.9)
    assert (found.n_units, found.warning) == (
        2,
        "only 2 problems: the interval is probably too narrow",
    )


def test_networks_that_agree_have_the_interval_of_their_added_variances():
    """Halves .06 and .08: sqrt(.06² + .08²) / 2 = .05."""
    found = pooled([scored(0.8, 0.06), scored(0.8, 0.08)], "iia")
    assert (found.estimate, found.low, found.high) == pytest.approx((0.8, 0.75, 0.85))
    assert found.n_units == 2 and found.warning


def test_the_wider_interval_keeps_to_shares_and_twenty_networks_are_not_few():
    (high, low) = (pooled([scored(iia, 0.06), scored(iia, 0.08)], "iia") for iia in (0.98, 0.02))
    assert (high.low, high.high) == pytest.approx((0.93, 1.0))
    assert (low.low, low.high) == pytest.approx((0.0, 0.07))
    many = pooled([scored(0.5, 0.1)] * 25, "iia")
    assert (many.low, many.high) == pytest.approx((0.48, 0.52)) and many.warning is None


def test_one_network_has_its_own_interval():
    assert pooled([scored(0.5, 0.25)], "iia") == Interval(0.5, 0.25, 0.75, 1)
    row = {"share": 0.5, "share_low": None, "share_high": None}
    assert pooled([row], "share") == Interval(0.5, None, None, 1)


def test_networks_without_intervals_of_their_own_are_redrawn():
    rows = [{"share": value, "share_low": None, "share_high": None} for value in (0.5, 0.9)]
    found = pooled(rows, "share")
    assert (found.low, found.high) == (0.5, 0.9)


def test_a_column_alone_is_redrawn_and_one_unit_of_it_has_no_interval():
    assert pooled([{"iia": 0.5}, {"iia": 0.7}], "iia").estimate == pytest.approx(0.6)
    assert pooled([{"iia": 0.5}], "iia").low is None
