"""ProntoQA's stand-in: what is deduced, what stands in the way, how steps are paired."""

from collections import Counter

import pytest

from interp.data.prontoqa import ProntoProblem, ProntoQA, paired
from interp.errors import InputError


def deduced(problem: ProntoProblem) -> dict[str, bool]:
    """Property -> whether it holds, by forward chaining over the sentences of the question."""
    *said, _, _ = problem.question.replace(":", ".").split(". ")
    words = [sentence.split() for sentence in said]
    [first] = [
        w[3] for w in (s.split() for s in problem.question.split(". ")) if w[0] == problem.name
    ]
    holds: dict[str, bool] = {}
    reached, new = set(), {first}
    while new:
        reached |= new
        new = {w[4] for w in words if w[1] in reached and w[3] == "a"} - reached
    for w in words:
        if w[1] in reached and w[3] != "a":
            assert w[-1] not in holds  # one property a concept, and no contradiction
            holds[w[-1]] = w[3] != "not"
    return holds


@pytest.mark.parametrize("task", [ProntoQA(), ProntoQA(1, 1), ProntoQA(3, 0)], ids=str)
def test_the_answer_follows_from_the_sentences(task: ProntoQA):
    for problem in task.draw(60, seed=3):
        claim = problem.question.split(": ")[1].rstrip(".").split()[1:]  # is [not] bright
        true = deduced(problem)[claim[-1]] == ("not" not in claim)
        assert problem.answer == str(true)
        assert str(problem.asked) == f"Every {problem.chain[-1]} {' '.join(claim)}."


def test_the_distractor_has_the_asked_property_the_other_way_round():
    for problem in ProntoQA().draw(40, seed=1):
        with_it = [r for r in problem.rules if r.is_property and r.kind == problem.asked.kind]
        ends = {rule.subject: rule.negated for rule in with_it}
        assert set(ends) == {problem.chain[-1], problem.distractor[-1]}
        assert ends[problem.chain[-1]] != ends[problem.distractor[-1]]
        assert len(problem.rules) == 4 + 4 + 10


def test_steps_hold_two_sentences_and_five_hops_make_six():
    problem = ProntoQA().draw(1)[0]
    a, b, c, d, e = problem.chain
    assert [step.count(".") for step in problem.steps] == [2, 2, 2, 2, 2, 1]
    assert problem.steps[:2] == (
        f"Karin is a {a}. Every {a} is a {b}.",
        f"Karin is a {b}. Every {b} is a {c}.",
    )
    assert problem.steps[3:] == (
        f"Karin is a {d}. Every {d} is a {e}.",
        f"Karin is a {e}. Every {e} is not loud.",
        "Karin is not loud.",
    )
    assert problem.question.endswith(f"Karin is a {a}. True or false: Karin is loud.")
    assert problem.answer == "False"
    assert paired([]) == () and paired(["A."]) == ("A.",)


def test_true_and_false_and_negations_are_balanced():
    problems = ProntoQA().draw(400, seed=9)
    counts = Counter((problem.answer, problem.asked.negated) for problem in problems)
    assert set(counts.values()) == {100} and len(counts) == 4
    assert len({tuple(p.rules.index(r) for r in sorted(p.rules, key=str)) for p in problems}) > 390


def test_problems_repeat_and_bad_settings_are_refused():
    assert ProntoQA().draw(3, seed=1) == ProntoQA().draw(5, seed=1)[:3]
    assert ProntoQA().draw(3, seed=1) != ProntoQA().draw(3, seed=2)
    for hops, distractors in ((0, 1), (2, -1), (20, 3)):
        with pytest.raises(
            InputError, match=rf"^{hops} hops and {distractors} distractors: give 1 or more hops"
        ):
            ProntoQA(hops, distractors)
