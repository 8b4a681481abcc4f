"""Laws of influence: no effect backwards, none of the identity, none of batch mates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.latent.influence import influence
from interp.latent.shape import matrices, shape_of
from tests.latent_cases import calibration, ragged, random_subject

KINDS = st.sampled_from(["coconut", "codi", "no_recurrence"])
EDGES = st.sampled_from(["input", "cache", "recurrence"])
DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def short_answers() -> Iterator[None]:
    """Random models never end a text, and none is read here beyond a few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.latent.hf.MAX_NEW_TOKENS", 3)
        yield


def key(each) -> tuple:
    return each["id"], each["t"], each["s"], each["operator"], each["seed"]


@settings(deadline=None, derandomize=True, max_examples=3)
@given(
    KINDS,
    EDGES,
    st.permutations(range(3)),
    st.integers(2, 14),
    st.sampled_from(["tiny-gpt2", "tiny-llama"]),
)
def test_batches_and_their_order_change_no_number(kind, edge, order, rows, architecture):
    subject, bank = (
        random_subject(kind, architecture, DOUBLE),
        calibration(kind, architecture, DOUBLE),
    )
    problems = ragged([0, 3, 1])
    given = {"operators": ("zero", "resample", "rotate"), "edge": edge}
    whole = influence(subject, problems, bank, **given)
    other = influence(subject, [problems[i] for i in order], bank, rows=rows, **given)
    a, b = ({key(each): each for each in run.rows} for run in (whole, other))
    assert a.keys() == b.keys() and len(a) == len(whole.rows) == len(other.rows)
    for name in a:
        assert abs(a[name]["kl"] - b[name]["kl"]) < 1e-10
        assert a[name]["donor"] == b[name]["donor"]
    assert whole.null() == other.null() == 0.0


@settings(deadline=None, derandomize=True, max_examples=3)
@given(KINDS, EDGES, st.integers(0, 99), st.sampled_from([torch.float32, DOUBLE]))
def test_check_2_the_identity_is_zero_and_nothing_acts_backwards(kind, edge, seed, dtype):
    subject, bank = random_subject(kind, dtype=dtype), calibration(kind, dtype=dtype)
    found = influence(
        subject, ragged([0, 2]), bank, operators=("rotate",), edge=edge, seeds=(seed,)
    )
    assert found.null() == 0.0
    assert all(each["t"] <= each["s"] for each in found.rows)
    moved = [
        each["kl"]
        for each in found.rows
        if each["operator"] != "identity" and each["t"] < each["s"]
    ]
    assert min(moved) >= 0 and (
        max(moved) > 1e-12 or (kind, edge) == ("no_recurrence", "recurrence")
    )


@settings(deadline=None, derandomize=True, max_examples=2)
@given(KINDS, st.integers(0, 9))
def test_the_path_that_shares_nothing_gives_the_same_numbers(kind, seed):
    subject, bank = random_subject(kind, dtype=DOUBLE), calibration(kind, dtype=DOUBLE)
    given = {"operators": ("zero", "resample"), "seeds": (seed,)}
    shared = influence(subject, ragged([0, 3]), bank, **given)
    exact = influence(subject, ragged([0, 3]), bank, exact=True, **given)
    a, b = ({key(each): each for each in run.rows} for run in (shared, exact))
    assert a.keys() == b.keys()
    for name in a:
        for measure in ("kl", "kl_answer", "dlogp_sum", "dlogp_answer", "clean_logprob", "change"):
            assert abs(a[name][measure] - b[name][measure]) < 1e-6
        assert a[name]["donor"] == b[name]["donor"]
    assert exact.null() == 0.0
    assert exact.spent is not None and shared.spent is not None
    assert exact.spent.forward_calls > shared.spent.forward_calls


@settings(deadline=None, derandomize=True, max_examples=3)
@given(st.floats(0.01, 100), st.integers(0, 5))
def test_a_scale_changes_no_shape_number(scale, seed):
    found = influence(
        random_subject(), ragged([0, 1]), calibration(), operators=("rotate",), seeds=(seed,)
    )
    for made in matrices(found.rows):
        one, two = shape_of(made.mean()), shape_of(made.mean() * scale)
        assert (one is None) == (two is None) == (made.operator == "identity")
        assert one is None or two is None or all(abs(one[k] - two[k]) < 1e-9 for k in one)
