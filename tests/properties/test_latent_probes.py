"""Laws of probes: for any vectors and labels."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.latent.probes import Labelled, ProbeSettings, fit_probes, probe_step
from interp.latent.superposition import label_free, mean_difference_ss

QUICK = ProbeSettings(l2=(0.1,), shuffles=1, folds=3)
seeds = st.integers(0, 10_000)


def rows(seed, classes=2, n_problems=6, per_problem=5, d=3):
    """Random vectors and labels; every class has a row."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n_problems * per_problem,), generator=stream)
    labels[:classes] = torch.arange(classes)
    x = torch.randn(len(labels), d, generator=stream).double() + labels[:, None] * 0.5
    groups = tuple(f"p{i // per_problem}" for i in range(len(labels)))
    allowed = torch.ones(len(labels), classes, dtype=torch.bool)
    return x, Labelled(groups, tuple(map(str, range(classes))), labels, allowed)


@settings(deadline=None, derandomize=True, max_examples=6)
@given(seeds, st.integers(2, 3))
def test_labels_of_held_out_problems_are_never_looked_at(seed, classes):
    x, data = rows(seed, classes)
    fold = data.folds(3, 0)
    turned = torch.where(fold == 1, (data.labels + 1) % classes, data.labels)
    other = Labelled(data.groups, data.classes, turned, data.allowed)
    before, after = probe_step(x, data, QUICK), probe_step(x, other, QUICK)
    torch.testing.assert_close(
        before.logprobs[fold == 1], after.logprobs[fold == 1], rtol=0, atol=1e-10
    )
    assert not torch.allclose(before.logprobs[fold != 1], after.logprobs[fold != 1], atol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=6)
@given(seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_neither_scale_nor_origin_of_the_vectors_matters(seed, scale, origin):
    x, data = rows(seed)
    before = probe_step(x, data, QUICK)
    after = probe_step(x * scale + origin, data, QUICK)
    torch.testing.assert_close(before.logprobs, after.logprobs, rtol=0, atol=1e-6)
    # h is moved to the other scale, so the log-odds along the normal are the same.
    w, c = before.normal(0, 0, 1)
    v, e = after.normal(0, 0, 1)
    torch.testing.assert_close(v * scale, w, rtol=1e-4, atol=1e-6)
    assert math.isclose(float(v.sum()) * origin + e, c, rel_tol=1e-3, abs_tol=1e-4)


@settings(deadline=None, derandomize=True, max_examples=8)
@given(seeds, st.integers(2, 4))
def test_probabilities_add_up_and_bits_are_those_of_the_labels(seed, classes):
    x, data = rows(seed, classes)
    probe = probe_step(x, data, QUICK)
    torch.testing.assert_close(
        probe.logprobs.exp().sum(1), torch.ones(len(x)).double(), rtol=0, atol=1e-9
    )
    own = probe.logprobs[torch.arange(len(x)), data.labels]
    assert math.isclose(-float(own.mean()) / math.log(2), probe.bits.estimate, rel_tol=1e-9)
    assert probe.bits.low <= probe.bits.estimate <= probe.bits.high


@settings(deadline=None, derandomize=True, max_examples=8)
@given(seeds)
def test_the_names_of_the_classes_do_not_matter(seed):
    x, data = rows(seed, 3)
    order = torch.tensor([2, 0, 1])
    first = fit_probes(x, data.labels[None], data.allowed, [0.3])
    again = fit_probes(x, order[data.labels][None], data.allowed, [0.3])
    torch.testing.assert_close(first.weight, again.weight[..., order], rtol=0, atol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=8)
@given(seeds, st.floats(0.2, 0.5))
def test_ss_is_never_above_a_half_and_does_not_know_which_answer_is_first(seed, share):
    stream = torch.Generator().manual_seed(seed)
    vectors, labels = label_free(torch.randn(4, 3, 16, generator=stream), 10, minority=share)
    assert labels.sum(1).tolist() == [round(share * 10)] * 4
    for held_out in (False, True):
        ss = mean_difference_ss(vectors, labels, held_out=held_out)
        assert 0 <= float(ss.min()) <= float(ss.max()) <= 0.5
        turned = mean_difference_ss(vectors, ~labels, held_out=held_out)
        torch.testing.assert_close(ss, turned, rtol=0, atol=1e-12)
