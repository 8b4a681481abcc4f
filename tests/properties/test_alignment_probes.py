"""Laws of probes and edits, whatever the states."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.alignment.linear_probes import (
    ProbeSettings,
    control_labels,
    fit_probe,
    reverse_gradient,
)
from interp.alignment.probe_edits import covariance_root, moved, projected_out, random_edits
from interp.bases import random_basis

seeds = st.integers(0, 10_000)


def two_variables(seed, n=60, d=8, classes=3):
    """States in which two variables stand apart, and a probe of each."""
    stream = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(classes, (n,), generator=stream) for _ in range(2))
    states = torch.randn(n, d, generator=stream)
    states[:, :classes] += 3 * torch.nn.functional.one_hot(a, classes)
    states[:, classes : 2 * classes] += 3 * torch.nn.functional.one_hot(b, classes)
    probes = {"a": fit_probe(states, a, n_classes=classes), "b": fit_probe(states, b)}
    return states, a, probes, stream


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds, st.booleans())
def test_an_edit_reads_as_asked_and_keeps_the_other_reading(seed, patterns):
    states, _, probes, stream = two_variables(seed)
    targets = torch.randint(3, (len(states),), generator=stream)
    root = covariance_root(states) if patterns else None
    done = moved(states, probes, "a", targets, root=root)
    assert done.reached.all()
    assert torch.equal(probes["a"].reads(done.states), targets)
    assert torch.equal(probes["b"].reads(done.states), probes["b"].reads(states))


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds, st.booleans())
def test_an_edit_to_the_own_reading_keeps_every_bit(seed, patterns):
    states, _, probes, _ = two_variables(seed)
    root = covariance_root(states) if patterns else None
    done = moved(states, probes, "a", probes["a"].reads(states), root=root)
    assert torch.equal(done.states, states) and done.reached.all()


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds)
def test_along_the_weights_an_edit_stays_in_their_span(seed):
    states, a, probes, _ = two_variables(seed)
    change = moved(states, probes, "a", (a + 1) % 3).states - states
    basis = torch.linalg.qr(torch.cat([p.basis() for p in probes.values()]).T).Q
    outside = change.double() - change.double() @ basis @ basis.T
    assert float(outside.norm(dim=1).max()) < 1e-5  # rounding of float32 states
    assert float(change.norm(dim=1).max()) > 0.1


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
def test_reading_does_not_depend_on_scale_and_origin(seed, scale, origin):
    states, a, probes, _ = two_variables(seed)
    other = fit_probe(scale * states.double() + origin, a, n_classes=3)
    torch.testing.assert_close(
        other.scores(scale * states.double() + origin),
        probes["a"].scores(states),
        rtol=1e-6,
        atol=1e-6,  # float64 of numbers near 10
    )


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds, st.integers(1, 7))
def test_projecting_out_twice_is_once_and_a_probe_of_the_span_reads_one_value(seed, rank):
    states = two_variables(seed)[0].double()
    basis, middle = random_basis(rank, 8, seed, dtype=torch.float64), states.mean(0)
    once = projected_out(states, basis, middle)
    torch.testing.assert_close(projected_out(once, basis, middle), once, rtol=0, atol=1e-12)
    torch.testing.assert_close(once @ basis.T, (middle @ basis.T).expand(len(states), -1))


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds)
def test_shuffled_labels_are_a_permutation_and_are_not_read_on_other_inputs(seed):
    states, a, _, _ = two_variables(seed, n=120)
    labels = control_labels(a, seed)
    assert torch.equal(labels.sort().values, a.sort().values)
    probe = fit_probe(states[:60], labels[:60], n_classes=3)
    right = (probe.reads(states[60:]) == labels[60:]).double().mean()
    assert abs(float(right) - 1 / 3) < 0.3  # 60 draws: five standard deviations


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds)
def test_random_edits_keep_norms_with_and_without_the_covariance(seed):
    states = two_variables(seed)[0]
    for root in (None, covariance_root(states)):
        twin = random_edits(states, torch.Generator().manual_seed(seed), root=root)
        torch.testing.assert_close(twin.norm(dim=1), states.norm(dim=1))


@settings(deadline=None, derandomize=True, max_examples=12)
@given(seeds, st.floats(0, 10))
def test_reversal_turns_any_gradient_round(seed, alpha):
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, generator=stream, requires_grad=True)
    weight = torch.randn(3, 2, generator=stream)
    out = reverse_gradient(x, alpha)
    assert torch.equal(out, x)
    out.backward(weight)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -alpha * weight)


@settings(deadline=None, derandomize=True, max_examples=3)
@given(seeds)
def test_logistic_and_ridge_read_alike_where_classes_stand_apart(seed):
    states, a, probes, _ = two_variables(seed)
    other = fit_probe(states, a, settings=ProbeSettings(kind="logistic"), n_classes=3)
    agree = (other.reads(states) == probes["a"].reads(states)).double().mean()
    assert float(agree) > 0.9
