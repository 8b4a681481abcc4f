"""Laws of prunings and of segments, for every chain."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.thinking.checks import LONGEST, bounds, check_indices
from interp.thinking.prune import KNOWN, Pruning, n_kept, prune, prunings, ranking
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, StepScore, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.steps import segment
from tests.strategies import tiny

law = settings(deadline=None, derandomize=True, max_examples=30)
slow = settings(deadline=None, derandomize=True, max_examples=3)

SENTENCES = st.sampled_from(
    ["He has 12 apples. ", "So it is good.\n\n", "Wait, x12 is -4!  ", "It is 1,000.\n", "Hmm. "]
)
TEXTS = st.lists(SENTENCES, min_size=1, max_size=9).map("".join)
FEW = st.sampled_from([0.0, 0.005, 0.3, 1.0])
"""Few values, so that many scores tie."""
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True)


def scored(text: str, tts: list[float], name: str = "p") -> ScoredChain:
    """A chain whose steps have these scores, again from the start where there are too few."""
    steps = segment(text)
    chain = Chain(Problem(name, "How many?", text), "Q: ", text, tuple(steps), "7", "gold")
    zero = dict.fromkeys(["s1c1", "s0c1", "s1c0", "s0c0", "nec", "suf"], 0.0)
    zero |= dict.fromkeys(["nec_mean_logprob", "suf_mean_logprob"], 0.0)
    flags = dict.fromkeys(["mentions_answer", "saturated", "verification"], False)
    scores = tuple(
        StepScore(
            id=name, step=s.index, seed=0, n_steps=len(steps), start=s.start, end=s.end,
            text=s.text, perturbed=s.text, op="edit", n_answer_tokens=1, position=0.0,
            tts=tts[s.index % len(tts)], nec_log_odds=None, suf_log_odds=None, **zero, **flags,
        )
        for s in steps
    )  # fmt: skip
    return ScoredChain(chain, scores)


CHAINS = st.tuples(TEXTS, st.lists(FEW, min_size=1, max_size=9))


@law
@given(CHAINS, SHARES, st.integers(0, 99))
def test_a_pruning_is_its_kept_steps_in_order_and_keeps_its_share(chain, fractions, seed):
    each = scored(*chain)
    n = len(each.chain.steps)
    for found in prunings(each, fractions=fractions, methods=KNOWN, n_random=3, seed=seed):
        assert list(found.kept) == sorted(set(found.kept))
        assert found.text == "".join(each.chain.steps[step].text for step in found.kept)
        assert len(found.kept) == n_kept(found.fraction, n)
        assert found.fraction - 1e-6 <= len(found.kept) / n < found.fraction + 1 / n


@law
@given(CHAINS)
def test_all_is_the_chain_and_nothing_is_empty(chain):
    each = scored(*chain)
    texts = {
        (found.fraction, found.text)
        for found in prunings(each, fractions=(0.0, 1.0), methods=KNOWN, n_random=2)
    }
    assert texts == {(0.0, ""), (1.0, each.chain.text)}


@law
@given(CHAINS, SHARES)
def test_what_a_smaller_fraction_keeps_a_larger_one_keeps_too(chain, fractions):
    each = scored(*chain)
    by_order = defaultdict(list)
    for found in prunings(each, fractions=fractions, methods=KNOWN, n_random=3):
        by_order[found.method, found.draw].append(set(found.kept))
    assert len(by_order) == 6
    for kept in by_order.values():
        assert all(small <= large for small, large in pairwise(kept))


@law
@given(CHAINS, st.floats(0, 1))
def test_no_removed_step_scores_above_a_kept_one(chain, fraction):
    each = scored(*chain)
    tts = {step.step: step.tts for step in each.means}
    (found,) = prunings(each, fractions=[fraction], methods=("tts",), n_random=0)
    removed = [(tts[step], step) for step in tts if step not in found.kept]
    kept = [(tts[step], step) for step in found.kept]
    assert not kept or not removed or max(removed) < min(kept)  # a tie: the later step stays


@law
@given(TEXTS, FEW)
def test_equal_scores_prune_as_keep_last(text, tts):
    each = scored(text, [tts])
    by_method = defaultdict(list)
    for found in prunings(each, methods=("tts", "signed", "last"), n_random=0):
        by_method[found.method].append(found.kept)
    assert by_method["tts"] == by_method["signed"] == by_method["last"]


@law
@given(TEXTS, FEW, FEW, st.integers(0, 9), SHARES, SHARES)
def test_random_prunings_do_not_see_scores_or_the_other_settings(
    text, one, other, seed, some, more
):
    def drawn(tts: float, fractions: list[float], n: int) -> set[Pruning]:
        each = scored(text, [tts, 1 - tts])
        found = prunings(each, fractions=fractions, methods=(), n_random=n, seed=seed)
        return {f for f in found if f.fraction in some and f.draw < 2}

    assert drawn(one, some, 2) == drawn(other, [*dict.fromkeys([*more, *some])], 4)


@law
@given(CHAINS, st.sampled_from(KNOWN), st.integers(0, 99))
def test_a_ranking_does_not_depend_on_the_order_of_the_steps(chain, method, seed):
    each = scored(*chain)
    mixed = list(each.means)
    Random(seed).shuffle(mixed)
    assert ranking(mixed, method, draw=1) == ranking(each.means, method, draw=1)


@law
@given(TEXTS, st.integers(1, 7), st.sets(st.integers(0, 20)))
def test_segments_start_at_each_check_do_not_overlap_and_stay_short(text, longest, labels):
    steps = segment(text)
    for checks in (check_indices(steps), sorted(labels & set(range(len(steps))))):
        found = bounds(steps, checks, longest=longest)
        assert [first for first, _ in found] == checks
        ends = [*checks[1:], len(steps)][: len(checks)]
        for (first, stop), end in zip(found, ends, strict=True):
            assert first < stop <= min(end, first + longest)
            assert not any("\n" in step.text.strip(" ") for step in steps[first : stop - 1])
            if stop < min(end, first + longest):
                assert steps[stop - 1].text.endswith("\n")
    assert bounds(steps, [0]) == bounds(steps, [0], longest=LONGEST)


@slow
@given(TEXTS, st.integers(0, 9))
def test_keeping_all_is_a_no_op_and_the_chunk_changes_nothing(text, seed):
    model, rules = tiny("tiny-llama"), Rules(target="gold")
    each = scored(text, [0.5, 0.1])
    real = ScoredChain(each.chain, tuple(score_chain(model, each.chain, rules).steps))
    options = {"fractions": (0.5, 1.0), "n_random": 2, "seed": seed, "decode": False}
    one = prune(model, [real], rules, **options)
    other = prune(model, [real], rules, chunk=7, **options)
    for a, b in zip(one.pruned, other.pruned, strict=True):
        assert abs(a.logprob - b.logprob) < 1e-4  # float32 sums in another order
        assert a.pruning == b.pruning
        assert a.pruning.fraction < 1 or a.logprob == a.full_logprob
