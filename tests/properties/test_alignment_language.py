"""Laws of a language model cut at a token, for prompts, sites and changes of any kind."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.alignment.language import STREAM, LanguageSubject
from tests.strategies import tiny

NAMES = ("tiny-gpt2", "tiny-llama", "tiny-neox")
FEW = settings(deadline=None, derandomize=True, max_examples=8)
CLOSE = {"rtol": 0, "atol": 1e-9}
"""Float64, in which other shapes of a product differ by about 1e-15."""


CASES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "site": st.sampled_from([f"{layer}.{part}" for layer in (0, 1) for part in STREAM]),
        "position": st.sampled_from(["last", 0, 1]),
        "lengths": st.lists(st.integers(2, 7), min_size=2, max_size=4),
        "rows": st.lists(st.integers(0, 1), min_size=1, max_size=5),
        "seed": st.integers(0, 99),
    }
)


def made(case):
    """A subject, padded prompts, its cut, and changed states of some rows."""
    model = tiny(case["name"], "float64")
    site = case["site"] if case["site"] in model.sites else "1.resid_post"
    stream = torch.Generator().manual_seed(case["seed"])
    ids = torch.randint(3, 300, (len(case["lengths"]), 8), generator=stream)
    for row, length in enumerate(case["lengths"]):
        ids[row, length:] = -1
    subject = LanguageSubject(model, site, case["position"])
    cut, rows = subject.cut(ids), torch.tensor(case["rows"])
    noise = torch.randn(len(rows), cut.d, generator=stream, dtype=torch.float64)
    return subject, ids, cut, cut.states[rows] + noise, rows


@given(CASES)
@FEW
def test_each_pair_is_answered_as_if_it_were_alone(case):
    _, _, cut, states, rows = made(case)
    whole = cut.finish(states, rows)
    alone = [cut.finish(states[i : i + 1], rows[i : i + 1]) for i in range(len(rows))]
    torch.testing.assert_close(whole, torch.cat(alone), **CLOSE)
    order = torch.arange(len(rows)).flip(0)
    torch.testing.assert_close(cut.finish(states[order], rows[order]), whole[order], **CLOSE)


@given(CASES, st.integers(1, 3))
@FEW
def test_padding_and_other_prompts_change_nothing(case, n_pad):
    subject, ids, cut, states, rows = made(case)
    wider = torch.cat([ids, torch.full((len(ids), n_pad), -1)], dim=1)
    again = subject.cut(torch.cat([wider, wider[:1].abs().clamp(min=3)]))
    torch.testing.assert_close(again.states[: len(ids)], cut.states, **CLOSE)
    torch.testing.assert_close(again.finish(states, rows), cut.finish(states, rows), **CLOSE)


@given(CASES)
@FEW
def test_the_short_way_is_the_whole_way(case):
    subject, ids, cut, states, rows = made(case)
    exact = LanguageSubject(subject.model, cut.site.split("@")[0], subject.position, exact=True)
    judge = exact.cut(ids).finish(states, rows)
    found = cut.finish(states, rows)
    torch.testing.assert_close(found, judge, **CLOSE)
    assert (found - cut.clean()[rows]).abs().max() > 1e-6


@given(CASES)
@FEW
def test_what_is_put_back_changes_nothing_and_what_is_given_stays(case):
    _, ids, cut, states, rows = made(case)
    before, given_ids = states.clone(), ids.clone()
    every = torch.arange(len(ids))
    assert torch.equal(cut.finish(cut.states[every], every), cut.clean())
    cut.finish(states, rows)
    assert torch.equal(states, before) and torch.equal(ids, given_ids)
