"""Pruning: which steps are kept, by hand; what it finds on planted chains; what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from interp.engine.tree import Spent
from interp.errors import InputError
from interp.models import planted
from interp.stats import Interval
from interp.thinking.prune import (
    NOTHING_SPENT,
    Point,
    Pruned,
    PruneResult,
    Pruning,
    export_rows,
    jsonl,
    n_kept,
    prune,
    prunings,
    ranking,
    summarise,
)
from interp.thinking.rules import Rules, preset
from interp.thinking.score import Problem, prepare, score_chain
from interp.thinking.scored import MeanStep, ScoredChain
from tests.strategies import says, tiny

RULES = Rules()


def mean_step(step: int, tts: float, nec: float = 0.0, suf: float = 0.0) -> MeanStep:
    flags = {"mentions_answer": False, "saturated": False, "verification": False}
    return MeanStep("p", step, 5, 0, 1, "x", "edit", tts, nec, suf, None, step / 4, **flags)


@cache
def scored(name: str, n: int) -> tuple[ScoredChain, ...]:
    """Chains of a planted model with their scores."""
    model = tiny(name)
    found = []
    for each in planted.chains(n):
        problem = Problem(each.id, each.question, each.chain, each.answer)
        chain = prepare(model, problem, RULES)
        found.append(ScoredChain(chain, tuple(score_chain(model, chain, RULES).steps)))
    return tuple(found)


@cache
def pruned(name: str) -> PruneResult:
    chains = scored(name, 10 if name == "planted-steps" else 3)
    return prune(tiny(name), chains, RULES, methods=("tts", "signed", "last"))


def kept(result: PruneResult, method: str, fraction: float) -> dict[str, Pruned]:
    """What a method without chance did, by problem."""
    return {
        each.pruning.id: each
        for each in result.pruned
        if (each.pruning.method, each.pruning.fraction) == (method, fraction)
    }


@cache
def points(name: str) -> dict[tuple[str, float, str], Point]:
    found = summarise(pruned(name).pruned)
    return {(point.method, point.fraction, point.measure): point for point in found}


def lead(method: str, fraction: float, measure: str = "same") -> Point:
    return points("planted-steps")[method, fraction, measure]


# ---------------------------------------------------------------- which steps are kept


@pytest.mark.parametrize(
    ("fraction", "n_steps", "expected"),
    [(0, 7, 0), (0.25, 4, 1), (0.25, 5, 2), (0.5, 5, 3), (0.1, 30, 3), (0.01, 3, 1), (1, 7, 7)],
)
def test_a_fraction_keeps_at_least_its_share(fraction, n_steps, expected):
    assert n_kept(float(fraction), n_steps) == expected


def test_the_highest_score_is_kept_longest_and_of_two_equal_ones_the_later():
    steps = [mean_step(i, tts) for i, tts in enumerate([0.2, 0.9, 0.2, 0.0, 0.9])]
    assert ranking(steps, "tts") == [4, 1, 2, 0, 3]
    assert ranking(steps[::-1], "tts") == [4, 1, 2, 0, 3]
    assert ranking(steps, "last") == [4, 3, 2, 1, 0]


def test_a_harmful_step_ranks_high_by_score_and_last_by_its_signed_legs():
    steps = [mean_step(0, 0.9, -0.9, -0.9), mean_step(1, 0.1, 0.2, 0.0), mean_step(2, 0.0)]
    assert ranking(steps, "tts") == [0, 1, 2]
    assert ranking(steps, "signed") == [1, 2, 0]


def test_scores_that_say_nothing_prune_as_keep_last():
    steps = [mean_step(i, 0.3) for i in range(5)]
    assert ranking(steps, "tts") == ranking(steps, "last")


def test_random_rankings_depend_on_seed_problem_and_draw_alone():
    steps = [mean_step(i, i / 10) for i in range(5)]
    first = ranking(steps, "random", draw=3, seed=1)
    rescored = [replace(step, tts=0.5) for step in steps[::-1]]
    assert ranking(rescored, "random", draw=3, seed=1) == first
    assert sorted(first) == [0, 1, 2, 3, 4]
    others = [ranking(steps, "random", draw=draw, seed=1) for draw in range(40)]
    assert len({tuple(order) for order in others}) > 30  # 120 orders
    assert {order[0] for order in others} == {0, 1, 2, 3, 4}
    assert ranking(steps, "random", draw=3, seed=2) != first
    assert ranking([replace(s, id="q") for s in steps], "random", draw=3, seed=1) != first


def test_pruned_text_keeps_order_and_white_space():
    each = by_hand("One is 1.  Two is 2.\n\nSix is 6. So 3.\n", [0.1, 0.9, 0.0, 0.5])
    plan = prunings(each, methods=("tts", "last"), fractions=(1.0, 0.5, 0.0, 0.25), n_random=0)
    found = {(p.method, p.fraction): (p.kept, p.text) for p in plan}
    assert found == {
        ("tts", 0.0): ((), ""),
        ("tts", 0.25): ((1,), "Two is 2.\n\n"),
        ("tts", 0.5): ((1, 3), "Two is 2.\n\nSo 3.\n"),
        ("tts", 1.0): ((0, 1, 2, 3), each.chain.text),
        ("last", 0.0): ((), ""),
        ("last", 0.25): ((3,), "So 3.\n"),
        ("last", 0.5): ((2, 3), "Six is 6. So 3.\n"),
        ("last", 1.0): ((0, 1, 2, 3), each.chain.text),
    }


def by_hand(text: str, tts: list[float]) -> ScoredChain:
    """A chain with given scores."""
    model = tiny("planted-steps")
    chain = prepare(model, Problem("p", "What is the total?", text, "88"), Rules(target="gold"))
    steps = score_chain(model, chain, RULES).steps
    assert len(steps) == len(tts)
    return ScoredChain(chain, tuple(replace(s, tts=x) for s, x in zip(steps, tts, strict=True)))


# ---------------------------------------------------------------- planted chains


def test_pruning_by_score_keeps_the_answer_where_random_prunings_lose_it():
    """At half of the steps every planted chain keeps its answer; a random half does in about 0.6 of
    the cases, since an AND pair must survive whole, or an OR step must."""
    result = pruned("planted-steps")
    assert not result.marked and not result.warnings
    half = lead("tts", 0.5)
    assert half.mean.estimate == 1.0
    assert half.above_random.low > 0.2
    assert half.above_last.estimate > 0.1
    assert lead("random", 0.5).mean.estimate < 0.7
    assert lead("tts", 0.75).mean.estimate == 1.0
    nothing = lead("tts", 0.0)
    assert (nothing.mean.estimate, nothing.above_random.estimate) == (0.0, 0.0)
    assert 0.4 < lead("tts", 0.5, "tokens").mean.estimate < 0.6


def test_one_or_step_alone_carries_the_answer():
    """An OR step (37, weight 2) passes the threshold of 1.5 without any other."""
    result = pruned("planted-steps")
    chains = {each.id: each for each in planted.chains(10)}
    quarter = kept(result, "tts", 0.25)
    with_or = [name for name, chain in chains.items() if "or" in chain.kinds]
    assert len(with_or) > 3
    assert all(quarter[name].same and quarter[name].answer == "88" for name in with_or)


def test_a_premise_that_only_a_later_step_uses_scores_zero_and_is_pruned():
    """The score reads a step against what stands before it: the limit that the module states.

    17 and 27 pass the threshold of 1.5 together; alone neither does. Only 27 has a necessity.
    """
    model = tiny("planted-steps")
    text = "We start with 17 apples. A lamp costs 57 coins. Next, y = 27."
    chain = prepare(model, Problem("p", "What is the total?", text, "88"), RULES)
    each = ScoredChain(chain, tuple(score_chain(model, chain, RULES).steps))
    assert [round(step.tts, 2) for step in each.means] == [0.0, 0.0, 0.5]
    result = prune(model, [each], RULES, fractions=(0.3, 1.0), methods=("tts",), n_random=0)
    found = [(p.pruning.kept, p.answer, p.same, p.correct) for p in result.pruned]
    assert found == [((2,), "11", False, False), ((0, 1, 2), "88", True, True)]


def test_signed_legs_leave_the_harmful_step_out():
    result = pruned("planted-steps")
    chains = {each.id: each for each in planted.chains(10)}
    harmful = [name for name, chain in chains.items() if "harmful" in chain.kinds]
    quarter = kept(result, "signed", 0.25)
    for name in harmful:
        assert "harmful" not in [chains[name].kinds[step] for step in quarter[name].pruning.kept]
        assert quarter[name].same
    assert lead("signed", 0.25).mean.estimate > lead("tts", 0.25).mean.estimate


def test_nothing_matters_to_a_model_that_ignores_its_chain():
    """Pr(88) is 0.88 after any text: no pruning, not even of everything, moves it."""
    result = pruned("planted-ignores")
    assert all(each.same and each.correct for each in result.pruned)
    for point in points("planted-ignores").values():
        if point.measure == "logprob":
            assert point.mean.estimate == pytest.approx(0, abs=1e-4)  # float32 sums of 18
        if point.measure == "same":
            assert (point.mean.estimate, point.mean.low) == (1.0, 1.0)


def test_keeping_all_changes_nothing_at_all():
    result = pruned("planted-steps")
    whole = [each for each in result.pruned if each.pruning.fraction == 1]
    assert len(whole) == 10 * 23
    assert all(each.logprob == each.full_logprob for each in whole)
    assert all(each.n_tokens == each.full_tokens for each in whole)
    texts = {each.id: each.chain.text for each in scored("planted-steps", 10)}
    assert all(each.pruning.text == texts[each.pruning.id] for each in whole)
    assert any(each.logprob != each.full_logprob for each in result.pruned)


def test_shared_prefixes_change_cost_alone():
    model, some = tiny("planted-steps"), scored("planted-steps", 10)[:2]
    fast = prune(model, some, RULES, n_random=3)
    slow = prune(model, some, RULES, n_random=3, exact=True)
    assert fast.spent.tokens < fast.spent.naive_tokens / 3
    assert slow.spent.tokens == slow.spent.naive_tokens == fast.spent.naive_tokens
    for one, other in zip(fast.pruned, slow.pruned, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert replace(one, logprob=0.0, full_logprob=0.0) == replace(
            other, logprob=0.0, full_logprob=0.0
        )


def test_the_gold_answer_is_apart_from_the_models_own():
    model, each = tiny("planted-steps"), scored("planted-steps", 10)[0]
    problem = replace(each.chain.problem, gold="11")
    wrong = ScoredChain(replace(each.chain, problem=problem), each.scores)
    result = prune(model, [wrong], RULES, fractions=(0.0, 1.0), n_random=0)
    found = [(p.pruning.fraction, p.answer, p.same, p.correct) for p in result.pruned]
    assert found == [(0.0, "11", False, True), (1.0, "88", True, False)] * 2
    unread = prune(model, [wrong], RULES, fractions=(0.0, 1.0), n_random=0, decode=False)
    found = [(p.answer, p.same, p.correct) for p in unread.pruned]
    assert found == [(None, False, None), ("88", True, False)] * 2
    none = ScoredChain(replace(each.chain, problem=replace(problem, gold=None)), each.scores)
    result = prune(model, [none], RULES, fractions=(0.0, 1.0), n_random=0)
    assert {p.correct for p in result.pruned} == {None}
    assert {point.measure for point in summarise(result.pruned)} == {"same", "logprob", "tokens"}


def test_a_cue_without_a_closing_text_reads_the_answer_too():
    """Without a closing text 8 may go on to 88, so every answer is decoded."""
    model, rules = tiny("planted-steps"), preset("paper")
    each = scored("planted-steps", 10)[0]
    chain = prepare(model, each.chain.problem, replace(rules, target="gold"))
    result = prune(
        model, [ScoredChain(chain, each.scores)], rules, fractions=(0.0, 1.0), n_random=0
    )
    assert [p.pruning.fraction for p in result.pruned if p.same] == []  # it writes "88}"
    assert {p.answer[:2] for p in result.pruned if p.pruning.fraction == 1} == {"88"}


# ---------------------------------------------------------------- sums and exports


def outcome(name: str, method: str, draw: int, same: bool, logprob: float = -1.0) -> Pruned:
    pruning = Pruning(name, method, draw, 0.5, (0, 2), 4, f"Kept {draw}. ")
    return Pruned(pruning, logprob, -0.5, "7", same, None, 3, 12)


BY_HAND = (
    outcome("a", "tts", 0, True, -0.5),
    outcome("b", "tts", 0, True, -1.5),
    outcome("a", "random", 0, True),
    outcome("a", "random", 1, False),
    outcome("b", "random", 0, False),
    outcome("b", "random", 1, False),
    outcome("a", "last", 0, False),
)


def test_sums_by_hand():
    """Draws are averaged within a chain: random 0.5 for a, 0 for b; tts leads by 0.5 and 1."""
    found = {(p.method, p.measure): p for p in summarise(BY_HAND)}
    assert set(found) == {
        (m, x) for m in ("tts", "random", "last") for x in ("same", "logprob", "tokens")
    }
    few = "only 2 problems: the interval is probably too narrow"
    assert found["tts", "same"].mean == Interval(1.0, 1.0, 1.0, 2, 0.95, few)
    assert found["random", "same"].mean == Interval(0.25, 0.0, 0.5, 2, 0.95, few)
    assert found["tts", "same"].above_random == Interval(0.75, 0.5, 1.0, 2, 0.95, few)
    only_a = found["tts", "same"].above_last
    assert (only_a.estimate, only_a.low, only_a.n_units) == (1.0, None, 1)
    assert found["tts", "logprob"].mean.estimate == -0.5  # 0 and -1 against the whole chain
    assert found["tts", "tokens"].mean.estimate == 0.25
    assert found["last", "same"].above_last is None
    assert found["random", "same"].above_random is None


def test_rows_are_flat():
    scalars = (str, int, float, bool, type(None))
    row = BY_HAND[0].row()
    assert row == {
        "id": "a", "method": "tts", "draw": 0, "fraction": 0.5, "kept": "0 2", "n_steps": 4,
        "n_kept": 2, "logprob": -0.5, "full_logprob": -0.5, "answer": "7", "same": True,
        "correct": None, "n_tokens": 3, "full_tokens": 12,
    }  # fmt: skip
    row = summarise(BY_HAND)[0].row()
    assert all(isinstance(value, scalars) for value in row.values())
    assert (row["above_random_low"], row["above_random_high"], row["n_problems"]) == (0.5, 1.0, 2)


def test_exported_rows_can_train_a_model_and_read_back_exactly():
    result, chains = pruned("planted-steps"), scored("planted-steps", 10)
    some = kept(result, "tts", 0.25).values()
    rows = export_rows(some, chains)
    assert [row["id"] for row in rows] == [each.pruning.id for each in some if each.same]
    assert 0 < len(rows) < len(export_rows(some, chains, only_same=False)) == 10
    back = [json.loads(line) for line in jsonl(rows).splitlines()]
    assert back == rows
    texts = {each.id: each.chain for each in chains}
    for row in back:
        assert set(row) == {
            "id", "question", "cot", "answer", "kept", "n_steps", "fraction", "method", "draw"
        }  # fmt: skip
        steps = texts[row["id"]].steps
        assert row["cot"] == "".join(steps[step].text for step in row["kept"])
        assert row["question"] == texts[row["id"]].problem.question
        assert (row["answer"], row["fraction"], row["method"]) == ("88", 0.25, "tts")


# ---------------------------------------------------------------- what is marked and refused


def test_a_chain_with_a_step_without_a_score_is_marked_and_the_others_kept():
    first, second = scored("planted-steps", 10)[:2]
    lame = ScoredChain(first.chain, tuple(s for s in first.scores if s.step not in (0, 2)))
    seen = []
    result = prune(
        tiny("planted-steps"),
        [lame, second],
        RULES,
        n_random=2,
        progress=lambda *at: seen.append(at),
    )
    reason = "steps without a score: [0, 2]; a ranking needs a score for each step"
    assert result.marked == ({"id": first.id, "reason": reason},)
    assert {each.pruning.id for each in result.pruned} == {second.id}
    assert result.warnings == ("only 2 random prunings: take at least 20 to see their spread",)
    assert seen == [(1, 2), (2, 2)]


def test_a_chain_longer_than_the_context_is_marked():
    model, each = tiny("planted-steps"), scored("planted-steps", 10)[0]
    long = replace(each.chain, text=each.chain.text + " It is so." * 400)
    result = prune(model, [ScoredChain(long, each.scores)], RULES, n_random=0)
    reason = "the whole chain is too long, or cuts its answer into other tokens"
    assert result.marked == ({"id": each.id, "reason": reason},)
    assert (result.pruned, result.spent.forwards > 0) == ((), True)
    assert Spent(0, 0, 0, 0) == NOTHING_SPENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "fractions is empty: give shares of the steps to keep, such as 0.5."),
        ({"fractions": (0.5, 0.5)}, "fractions holds 0.5 0.5: name each share to keep once."),
        (
            {"fractions": (0.5, 1.5)},
            "fractions holds 1.5: a share to keep lies between 0 and 1.",
        ),
        (
            {"fractions": (float("nan"),)},
            "fractions holds nan: a share to keep lies between 0 and 1.",
        ),
        (
            {"methods": ("lst",)},
            "There is no pruning by 'lst'; there are: tts, signed, last, random. "
            "Did you mean 'last'?",
        ),
        (
            {"n_random": -1},
            "n_random=-1: draw 0 or more random prunings, better 20.",
        ),
        (
            {"methods": ("random",), "n_random": 0},
            "No method is left to prune by: name one, or draw random prunings.",
        ),
    ],
)
def test_bad_settings_are_refused_before_any_model_runs(options, message, monkeypatch):
    model, some = tiny("planted-steps"), scored("planted-steps", 10)
    monkeypatch.setattr(model.hf, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with says(InputError, message):
        prune(model, some, RULES, **options)


def test_chains_must_be_there_and_have_names_of_their_own():
    with says(InputError, "There is no chain to prune: give at least one that was scored."):
        prune(tiny("planted-steps"), [], RULES)
    each = scored("planted-steps", 10)[0]
    with says(
        InputError,
        "Two chains have the id 'planted-0-0': give each its own, or keep one a problem.",
    ):
        prune(tiny("planted-steps"), [each, each], RULES)
    with says(
        InputError,
        "A pruning is of problem 'a', which is not among the 1 chains given: pass the chains that "
        "were pruned.",
    ):
        export_rows(BY_HAND, [each])
