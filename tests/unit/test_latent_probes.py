"""Probes by hand, against plain LBFGS, and on vectors whose answer is planted."""

from __future__ import annotations

import math

import pytest
import torch

from interp.bases import probe_normal
from interp.errors import InputError
from interp.latent.probes import (
    Labelled,
    ProbeSettings,
    calibrated,
    fit_probes,
    probe_step,
    problem_bits,
)

QUICK = ProbeSettings(shuffles=4)
SMALL = ProbeSettings(shuffles=2, l2=(0.1, 0.01))


def data(labels, per_problem, classes=("a", "b"), allowed=None):
    """Rows of problems that have as many samples each."""
    groups = tuple(f"p{i // per_problem}" for i in range(len(labels)))
    every = torch.ones(len(labels), len(classes), dtype=torch.bool)
    return Labelled(groups, classes, labels, every if allowed is None else allowed)


def planted(shift, n_problems=20, per_problem=20, d=6, spread=0.0, seed=0):
    """Vectors that tell the answer along their first axis by `shift` each way."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n_problems * per_problem,), generator=stream)
    own = torch.randn(n_problems, d, generator=stream).repeat_interleave(per_problem, 0)
    x = 0.1 * torch.randn(len(labels), d, generator=stream) + spread * own
    x[:, 0] += shift * (2 * labels - 1)
    return x, data(labels, per_problem)


def lbfgs(x, labels, allowed, l2):
    """The same minimum by another solver."""
    z = (x - x.mean(0)) / x.std(0, correction=0)
    w = torch.zeros(x.shape[1] + 1, allowed.shape[1], dtype=x.dtype, requires_grad=True)
    wall = torch.zeros(allowed.shape, dtype=x.dtype).masked_fill(~allowed, -math.inf)
    solver = torch.optim.LBFGS(
        [w],
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss():
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(z @ w[:-1] + w[-1] + wall, labels)
        value = value + l2 / 2 * w[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return w[:-1].detach() / x.std(0, correction=0)[:, None], w[-1].detach()


def test_a_probe_by_hand():
    # z = -1, 1 with one label each: by symmetry w = (-v, v), b = 0, and the logits differ by 2 v z.
    # The loss log(1 + e^{-2v}) + l2 v^2 is least where l2 v = 1 / (1 + e^{2v}).
    x = torch.tensor([[3.0], [7.0]]).double()
    v = 0.5
    l2 = 1 / (1 + math.exp(2 * v)) / v
    probe = fit_probes(x, torch.tensor([[0, 1]]), torch.ones(2, 2, dtype=torch.bool), [l2])
    # The standardised row is (x - 5) / 2.
    torch.testing.assert_close(
        probe.weight[0, 0, 0], torch.tensor([-v / 2, v / 2]).double(), rtol=0, atol=1e-4
    )
    assert probe.centre.tolist() == [5.0]
    torch.testing.assert_close(probe.bias[0, 0], torch.zeros(2).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_many_probes_at_once_equal_lbfgs_one_by_one(masked):
    stream = torch.Generator().manual_seed(3)
    x = torch.randn(60, 5, generator=stream).double() * torch.tensor([1, 10, 0.1, 3, 1]).double()
    labels = torch.randint(3, (2, 60), generator=stream)
    allowed = torch.ones(60, 3, dtype=torch.bool)
    if masked:
        labels[1] = labels[0]
        allowed[torch.arange(60), (labels[0] + 1) % 3] = False
    strengths = (0.1, 1.0, 0.03)
    probe = fit_probes(x, labels, allowed, strengths)
    for i, l2 in enumerate(strengths):
        for k in range(2):
            weight, bias = lbfgs(x, labels[k], allowed, l2)
            # Both stop at a small gradient; with l2 of 0.03 that is 3e-4 of a standardised weight.
            scale = x.std(0, correction=0)[:, None]
            torch.testing.assert_close(
                probe.weight[i, k] * scale, weight * scale, rtol=0, atol=1e-3
            )
            torch.testing.assert_close(probe.bias[i, k], bias, rtol=0, atol=1e-3)


def test_the_normal_of_two_classes_points_where_the_shared_probe_points():
    x, rows = planted(0.1)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    labels = rows.labels
    mine = fit_probes(z, labels[None], rows.allowed, [2 / len(z)])
    normal = mine.weight[0, 0, :, 1] - mine.weight[0, 0, :, 0]
    # Two weights -v/2 and v/2 pay half of what one weight v pays.
    theirs = probe_normal(z, labels, ridge=1.0)[0]
    assert float(torch.cosine_similarity(normal, theirs, dim=0)) > 1 - 1e-5


def test_what_tells_the_answer_is_found_on_other_problems():
    probe = probe_step(*planted(0.6), QUICK)
    assert probe.bits.estimate < 0.05 and probe.accuracy.estimate > 0.99
    assert all(abs(bits - 1) < 0.05 for bits in probe.shuffled_bits)
    assert probe.accuracy.n_units == 20
    for fold in range(5):
        normal, _ = probe.normal(fold, 1, 0)
        assert float(normal[0] / normal.norm()) > 0.9


def test_what_tells_nothing_costs_one_bit():
    probe = probe_step(*planted(0.0, n_problems=40, per_problem=10, spread=1.0), QUICK)
    assert abs(probe.bits.estimate - 1) < 0.05
    assert abs(probe.base_bits - 1) < 0.01
    assert all(abs(bits - 1) < 0.05 for bits in probe.shuffled_bits)
    assert 0.4 < probe.accuracy.estimate < 0.6


def test_half_a_signal_lies_between():
    # Shift equals spread, so the log-odds of a row are 2 x / 0.1; the best reader knows them.
    x, rows = planted(0.1, n_problems=30, per_problem=40)
    probe = probe_step(x, rows, ProbeSettings(shuffles=1))
    margins = (2 * rows.labels - 1) * 20 * x[:, 0].double()
    best = float(torch.nn.functional.softplus(-margins).mean()) / math.log(2)
    assert 0.4 < best < 0.6
    assert -0.01 < probe.bits.estimate - best < 0.03


def test_centring_finds_what_the_problems_own_vectors_hide():
    x, rows = planted(0.3, spread=3.0)
    hidden = probe_step(x, rows, SMALL)
    found = probe_step(x, rows, ProbeSettings(shuffles=2, l2=(0.1, 0.01), centred=True))
    assert hidden.bits.estimate > 0.9
    assert found.bits.estimate < 0.1
    assert all(abs(bits - 1) < 0.05 for bits in found.shuffled_bits)


def test_the_normal_and_its_offset_give_the_scored_log_odds():
    x, rows = planted(0.1, spread=0.1)
    probe = probe_step(x, rows, QUICK)
    for row in (0, 130, 399):
        normal, offset = probe.normal(int(probe.fold[row]), 0, 1)
        odds = probe.logprobs[row, 0] - probe.logprobs[row, 1]
        assert math.isclose(float(x[row].double() @ normal) + offset, float(odds), abs_tol=1e-9)


def test_answers_of_which_each_problem_allows_two_are_told_apart():
    # Eight answers, each along an axis of its own; a problem wavers between two of them.
    stream = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(8, generator=stream)[:2] for _ in range(40)])
    pick = torch.randint(2, (40, 6), generator=stream)
    labels = pairs.gather(1, pick).flatten()
    x = torch.eye(8)[labels] + 0.2 * torch.randn(240, 8, generator=stream)
    allowed = torch.zeros(240, 8, dtype=torch.bool).scatter_(1, pairs.repeat_interleave(6, 0), True)
    names = tuple("abcdefgh")
    two = probe_step(x, data(labels, 6, names, allowed), SMALL)
    every = probe_step(x, data(labels, 6, names), SMALL)
    assert two.bits.estimate < 0.1 and every.bits.estimate < 0.2
    assert abs(two.base_bits - 1) < 0.05 and abs(every.base_bits - 3) < 0.1
    assert all(0.9 < bits < 1.1 for bits in two.shuffled_bits)
    assert bool((two.logprobs.exp().sum(1) - 1).abs().max() < 1e-9)
    assert bool((two.logprobs[~allowed] == -math.inf).all())


def test_entropy_of_shares_by_hand():
    # p0: 1 of 4, so 0.8113 bits; p1: 2 of 4, so 1 bit; p2: 0 of 4, so none.
    rows = data(torch.tensor([1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]), 4)
    assert math.isclose(problem_bits(rows), (0.811278 + 1) / 3, abs_tol=1e-6)


def test_calibration_finds_the_temperature():
    # Scores are four times the log-odds that the labels were drawn by.
    stream = torch.Generator().manual_seed(0)
    odds = torch.randn(4000, generator=stream).double() * 2
    labels = (torch.rand(4000, generator=stream) < odds.sigmoid()).long()[None]
    evidence = torch.stack([torch.zeros_like(odds), 4 * odds], 1)[None]
    every = torch.ones(4000, 2, dtype=torch.bool)
    scale, loss = calibrated(evidence, torch.zeros_like(evidence), labels, every)
    assert abs(float(scale[0, 0]) - 0.25) < 0.02
    assert loss[0] < math.log(2)


def test_scores_that_run_against_the_labels_count_nothing():
    odds = torch.tensor([3.0, 3.0, -3.0, -3.0]).double()
    evidence = torch.stack([odds, -odds], 1)[None]
    base = torch.zeros_like(evidence)
    base[..., 1] = math.log(3.0)
    labels = torch.tensor([[1, 1, 1, 0]])  # class 1 in three of four, and where the odds say 0
    every = torch.ones(4, 2, dtype=torch.bool)
    scale, loss = calibrated(evidence, base, labels, every)
    assert float(scale[0, 0]) == 0.0
    assert abs(float(scale[0, 1]) - 1) < 1e-3
    assert math.isclose(float(loss[0]), 0.562335, abs_tol=1e-5)  # the entropy of 1/4, in nats


def test_folds_hold_whole_problems_and_shuffles_keep_their_shares():
    _, rows = planted(0.0, n_problems=13, per_problem=5)
    fold = rows.folds(5, seed=0)
    sizes = torch.bincount(fold) // 5
    assert sorted(sizes.tolist()) == [2, 2, 3, 3, 3]
    assert all(len(set(fold[i : i + 5].tolist())) == 1 for i in range(0, 65, 5))
    mixed = rows.shuffled(3, seed=0)
    sums = mixed.view(3, 13, 5).sum(2)
    assert torch.equal(sums, rows.labels.view(13, 5).sum(1).expand(3, -1))
    assert not torch.equal(mixed[0], mixed[1])


BAD = [
    (
        {"l2": (0.0,)},
        r"^l2 is \(0\.0,\): give one or more numbers above 0, such as \(1\.0, 0\.1, 0\.01, "
        r"0\.001\)\.$",
    ),
    (
        {"folds": 2},
        r"^2 folds: one is held out and the rest split again to calibrate, so give 3 or more, "
        r"better 5\.$",
    ),
    (
        {"shuffles": 0},
        r"^0 shuffles: a probe has no meaning without its control, so give 1 or more, better 20\.$",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_without_a_result_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ProbeSettings(**settings)


def test_rows_that_cannot_be_probed_are_refused():
    x, rows = planted(0.0, n_problems=4, per_problem=3)
    few = r"^4 problems cannot fill 5 folds: give more problems, or ask for fewer folds\.$"
    with pytest.raises(InputError, match=few):
        probe_step(x, rows, QUICK)
    x[7, 2] = float("inf")
    broken = r"^The vector of row 7 is not finite, one of 1: leave those samples out\.$"
    with pytest.raises(InputError, match=broken):
        probe_step(x, rows, ProbeSettings(folds=4))
    with pytest.raises(InputError, match=r"^A row's answer is not among those that it allows"):
        data(torch.tensor([1]), 1, allowed=torch.tensor([[True, False]]))
