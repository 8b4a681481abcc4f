"""Self-verification: segments by hand, the behavioural test on planted chains, restoring a check.

The planted model adds up 17 (+1), 27 (+1), 37 (+2), 47 (-2) and `proven` (+2) and answers 88 above
1.5, else 11. A shift takes a number's weight away, and leaves `proven`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import pytest
import torch

from interp.edits import Add
from interp.errors import InputError
from interp.models.planted import directions
from interp.thinking.checks import (
    behaviour,
    bounds,
    check_indices,
    check_steps,
    make_check_items,
    restoring,
    segments,
    shifted_context,
)
from interp.thinking.perturb import numbers
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.steer_arms import Arm
from interp.thinking.steer_test import steer
from interp.thinking.steps import segment
from tests.strategies import says, tiny

RULES = Rules()

USED = "We start with 17 apples. Next, y = 27. Wait, z = 37. So it is good.\nThe shop is big."
"""The check weighs 2: it carries the answer alone."""
UNUSED = "We start with 17 apples. Next, y = 27. Wait, 57 is a nice number. So it is good."
"""The check weighs nothing."""
IDLE = "It is proven in the book. We start with 17 apples. Wait, z = 37."
"""No shift breaks the context, so that there is nothing to repair."""
FIRST = "It is proven. Wait, z = 37."
"""No number stands before the check."""
WRONG = "We start with 17 apples. Next, y = 27. Wait, 47 were bad. Now take x = 17 and z = 37."
"""The check alone turns the answer; what comes after it turns it back."""


@cache
def scored(text: str, name: str = "p", gold: str | None = None) -> ScoredChain:
    model = tiny("planted-steps")
    problem = Problem(name, "What is the total?", text, gold)
    chain = prepare(model, problem, RULES)
    return ScoredChain(chain, tuple(score_chain(model, chain, RULES).steps))


@cache
def verdicts(text: str, **options):
    return behaviour(tiny("planted-steps"), [scored(text)], RULES, **options)


# ---------------------------------------------------------------- segments


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Ann ran. ", "Wait. ", "Bob ran. ", "Cy ran. "], [(1, 4)]),  # to the end of the chain
        (["Wait. ", "Bob ran.\n", "Cy ran. "], [(0, 2)]),  # the step that ends the line is the last
        (["Wait.\n\n", "Bob ran. "], [(0, 1)]),
        (
            ["Wait. ", "Bob ran. ", "Hmm, so. ", "Cy ran. "],
            [(0, 2), (2, 4)],
        ),  # up to the next check
        (["Wait. ", *["Bob ran. "] * 6], [(0, 5)]),  # five at most
        (["Ann ran. ", "We wait. "], []),
    ],
)
def test_a_segment_ends_with_its_line_before_the_next_check_or_after_five(texts, expected):
    steps = segment("".join(texts))
    assert [step.text for step in steps] == texts
    assert bounds(steps, check_indices(steps)) == expected


def test_labels_replace_the_phrases_of_their_chain_alone():
    one, other = scored(USED, "a"), scored(UNUSED, "b")
    assert [(s.id, s.step) for s in check_steps([one, other])] == [("a", 2), ("b", 2)]
    labels = {"a": (0, 4)}
    assert [(s.id, s.step) for s in check_steps([one, other], labels)] == [
        ("a", 0),
        ("a", 4),
        ("b", 2),
    ]
    found = segments([one, other], labels)
    assert [(s.id, s.first, s.stop, s.labelled) for s in found] == [
        ("a", 0, 4, True),
        ("a", 4, 5, True),
        ("b", 2, 4, False),
    ]
    assert check_steps([one], {"a": ()}) == [] and segments([one], {"a": ()}) == []


def test_a_segment_is_decorative_where_each_of_its_steps_is():
    """37 passes the threshold without its context: sufficiency 1, so TTS 1/2. 57 has no weight."""
    used, unused = (segments([scored(text)])[0] for text in (USED, UNUSED))
    assert (used.first, used.stop, used.text) == (2, 4, "Wait, z = 37. So it is good.\n")
    assert used.tts_max == pytest.approx(0.5, abs=0.01)
    assert used.tts_mean == pytest.approx(0.25, abs=0.01)
    assert (used.decorative, unused.decorative) == (False, True)
    assert unused.tts_max is not None and unused.tts_max < 1e-6
    assert segments([scored(USED)], decorative_to=0.6)[0].decorative is True
    raised = replace(
        scored(UNUSED),
        scores=tuple(replace(s, tts=0.2 if s.step == 3 else 0.0) for s in scored(UNUSED).scores),
    )
    assert segments([raised])[0].decorative is False
    assert segments([raised], longest=1)[0].decorative is True


def test_a_segment_with_a_step_without_a_score_has_no_verdict():
    lame = replace(scored(USED), scores=tuple(s for s in scored(USED).scores if s.step != 3))
    (found,) = segments([lame])
    assert (found.tts_mean, found.tts_max, found.decorative) == (None, None, None)


# ---------------------------------------------------------------- the behavioural test


def test_a_check_that_carries_the_answer_is_used():
    """Intact 4, shifted with the check 2, shifted alone 0."""
    (test,) = verdicts(USED).tests
    assert (test.first, test.stop, test.decorative) == (2, 4, False)
    assert (test.intact_answer, test.answer, test.without_answer) == ("88", "88", "11")
    assert (test.used, test.informative) == (True, True)
    assert test.logprob > -0.01 > -10 > test.without_logprob


def test_a_check_without_weight_is_not_used():
    """Intact 2, shifted 0 with and without the check."""
    (test,) = verdicts(UNUSED).tests
    assert (test.intact_answer, test.answer, test.without_answer) == ("88", "11", "11")
    assert (test.used, test.informative, test.decorative) == (False, True, True)
    assert test.logprob < -10 < -0.01 < test.intact_logprob


def test_where_nothing_breaks_the_test_says_nothing():
    (test,) = verdicts(IDLE).tests
    assert (test.answer, test.without_answer) == ("88", "88")
    assert (test.used, test.informative) == (True, False)


def test_a_check_that_is_wrong_by_itself_says_nothing():
    """Intact 2 - 2 = 0 up to the check: the answer after it is 11, not y*."""
    (test,) = verdicts(WRONG, longest=1).tests
    assert (test.intact_answer, test.informative) == ("11", False)


def test_the_shifted_text_is_the_scores_own_context():
    chain = scored(USED).chain
    for seed in (0, 1):
        broken = shifted_context(chain, 2, seed, RULES)
        assert broken.replace("18", "17") != chain.text[: chain.steps[2].start]
        values = [number.text for number in numbers(broken)]
        assert values[0] != "17" and values[1] != "27" and len(values) == 2
    texts = shifted_context(chain, 5, 0, RULES)
    perturbed = [s.perturbed if s.op == "edit" else s.text for s in scored(USED).scores]
    assert texts == "".join(perturbed)
    assert texts.endswith("So it is good.\nThe shop is big.")  # text without numbers stays


def test_every_seed_is_a_test_of_its_own():
    result = verdicts(UNUSED, seeds=(0, 3))
    assert [test.seed for test in result.tests] == [0, 3]
    assert result.spent.tokens < result.spent.naive_tokens
    exact = verdicts(UNUSED, seeds=(0, 3), exact=True)
    for one, other in zip(result.tests, exact.tests, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.answer == other.answer


def test_a_check_that_states_the_answer_and_a_wrong_chain_are_flagged():
    text = UNUSED.replace("57", "88")
    each = scored(text, "p", "12")
    (test,) = behaviour(tiny("planted-steps"), [each], RULES).tests
    assert (test.mentions_answer, test.correct) == (True, False)
    (plain,) = verdicts(UNUSED).tests
    assert (plain.mentions_answer, plain.correct) == (False, None)


def test_a_check_with_no_number_before_it_is_marked_and_the_others_kept():
    model, both = tiny("planted-steps"), [scored(FIRST, "a"), scored(UNUSED, "b")]
    seen = []
    found = behaviour(model, both, RULES, progress=lambda *at: seen.append(at))
    reason = "no number before the check that could be shifted"
    assert found.marked == ({"id": "a", "first": 1, "stop": 2, "seed": 0, "reason": reason},)
    assert [test.id for test in found.tests] == ["b"]
    assert seen == [(1, 2), (2, 2)]


def test_a_chain_without_a_check_has_no_test():
    found = verdicts("We start with 17 apples. Next, y = 27.")
    assert (found.tests, found.marked, found.spent.forwards) == ((), (), 0)


def test_records_are_flat():
    scalars = (str, int, float, bool, type(None))
    for each in (verdicts(USED).tests[0], segments([scored(USED)])[0]):
        assert all(isinstance(value, scalars) for value in asdict(each).values())


# ---------------------------------------------------------------- steering that restores


def check_items(*texts: str):
    model = tiny("planted-steps")
    chains = [scored(text, f"p{i}") for i, text in enumerate(texts)]
    tests = behaviour(model, chains, RULES, longest=1).tests
    return make_check_items(model, chains, RULES, tests)


def test_items_name_the_tokens_of_the_check_and_nothing_else():
    items = check_items(USED, UNUSED, WRONG)
    ((used,), (unused,)) = items.engage, items.disengage
    assert (used.problem, unused.problem, unused.test) == ("p0", "p1", "disengage")
    tokenizer = tiny("planted-steps").tokenizer
    for item, check in ((used, "Wait, z = 37."), (unused, "Wait, 57 is a nice number.")):
        assert tokenizer.decode(item.ids[slice(*item.span)]).strip() == check
        assert item.text.endswith(f"{check}{RULES.cue}")
        assert "17" not in item.text and "27" not in item.text
        assert tokenizer.decode(item.answer_ids) == "88}"
    assert (used.base_answer, unused.base_answer) == ("88", "11")
    assert (used.tts > 0.4, unused.tts < 1e-6) == (True, True)
    reason = "the check is not right by itself: the intact text does not end in y*"
    assert items.marked == ({"id": "p2", "step": 2, "seed": 0, "reason": reason},)


def evidence_arm() -> Arm:
    """Adds the features `evidence` and `weight` to the tokens of the check.

    A token without weight is as long as sqrt(32). With sqrt(32) more of `evidence` the norm scales
    by 1 / sqrt(2), which leaves 4, as in a piece of evidence; and 0.42 of `weight` leaves 0.3.
    """
    _, evidence, weight, *_ = directions()
    vector = 32**0.5 * evidence + 0.42 * weight
    return Arm(
        "direction",
        1.0,
        -1.0,
        {0: lambda x, at: Add("0.resid_pre", vector=vector, coefficient=x, positions=at.step)},
    )


def test_adding_the_direction_restores_a_check_and_taking_it_away_does_not():
    """With evidence on its tokens the check outweighs the threshold; no other token moves."""
    model, items = tiny("planted-steps"), check_items(UNUSED).disengage
    arm = evidence_arm()
    (restored,) = steer(model, items, [restoring(arm)], RULES)
    assert (restored.answer, restored.flipped, restored.coefficient) == ("88", True, 1.0)
    assert restored.logprob > -0.1 > -10 > restored.base_logprob
    (taken,) = steer(model, items, [arm], RULES)
    assert (taken.answer, taken.flipped, taken.coefficient) == ("11", False, -1.0)
    none = replace(restoring(arm), engage=0.0, disengage=0.0)
    (noop,) = steer(model, items, [none], RULES)
    assert (noop.flipped, noop.logprob - noop.base_logprob) == (False, 0.0)


def test_an_items_base_is_what_plain_hugging_face_gives():
    model = tiny("planted-steps")
    (item,) = check_items(UNUSED).disengage
    with torch.no_grad():
        logits = model.hf(torch.tensor([[*item.ids, *item.answer_ids]])).logits[0]
    logprobs, n = logits.log_softmax(-1), len(item.ids)
    total = sum(float(logprobs[n - 1 + i, t]) for i, t in enumerate(item.answer_ids))
    assert item.base_logprob == pytest.approx(total, abs=1e-4)
    assert model.tokenizer.decode(int(logits[n - 1].argmax())) == item.base_answer == "11"


# ---------------------------------------------------------------- what is refused


def test_labels_must_name_a_step_of_a_chain():
    each = scored(USED)
    with says(
        InputError,
        "Check steps are given for problem 'q', which is not among the 1 chains: drop them, or "
        "pass its chain.",
    ):
        segments([each], {"q": (1,)})
    with says(
        InputError,
        "Step 5 of problem 'p' cannot be a check: its chain has the steps 0 to 4.",
    ):
        check_steps([each], {"p": (1, 5)})


def test_bad_settings_are_refused_before_any_model_runs(monkeypatch):
    model, each = tiny("planted-steps"), scored(USED)
    monkeypatch.setattr(model.hf, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with says(InputError, "longest=0: a segment has at least its check step, so give 1."):
        behaviour(model, [each], RULES, longest=0)
    with says(InputError, "seeds is empty: give at least one draw of the shifts, such as 0."):
        behaviour(model, [each], RULES, seeds=())
    with says(
        InputError,
        "A check is of problem 'p', which is not among the 0 chains given: pass the chains that "
        "were tested.",
    ):
        make_check_items(model, [], RULES, verdicts(UNUSED).tests)
