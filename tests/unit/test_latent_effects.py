"""Measures of a read-out, worked out by hand; problems sifted, chunked and counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.effects import (
    columns,
    effects,
    in_chunks,
    logprob,
    next_step,
    require_apart,
    same,
    share,
    sift,
    top1,
)
from interp.latent.subject import Forced
from tests.latent_cases import LAYOUT, OTHERS, PROBLEMS, Hops, calibration, random_subject


def forced(*rows: list[list[float]], seen: int = 3) -> Forced:
    """Three tokens: template, answer, end of text; the forced id is 0 everywhere."""
    logprobs = torch.tensor(rows, dtype=torch.float64).log()
    ids = torch.zeros(len(rows), 3, dtype=torch.long)
    real = (torch.arange(3) < seen).expand(len(rows), -1)
    answer = (torch.arange(3) == 1).expand(len(rows), -1)
    return Forced(logprobs, ids, real, answer)


HALF, QUARTER = [0.5, 0.5], [0.25, 0.75]
KL = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # of HALF against QUARTER


def test_each_measure_is_as_worked_out_by_hand():
    found = effects(forced([HALF, HALF, HALF]), forced([HALF, QUARTER, HALF]))
    assert found.row(0) == pytest.approx(
        {
            "kl": KL / 3,  # one token of three
            "kl_answer": KL,
            "dlogp_sum": math.log(2),  # 0.5 fell to 0.25
            "dlogp_answer": math.log(2),
            "l2_answer": math.sqrt(2) / 4,
        },
        abs=1e-12,
    )


def test_kl_is_clean_against_intervened_and_not_the_reverse():
    back = effects(forced([HALF, QUARTER, HALF]), forced([HALF, HALF, HALF]))
    assert float(back.kl_answer[0]) == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-12
    )


def test_the_same_bits_are_exactly_0_apart_and_an_impossible_token_counts_0():
    sure = forced([[1.0, 0.0], HALF, HALF])
    assert set(effects(sure, sure).row(0).values()) == {0.0}


def test_an_infinite_measure_is_marked():
    found = effects(forced([HALF, HALF, HALF]), forced([HALF, [0.0, 1.0], HALF])).row(0)
    assert found["kl"] is None and found["dlogp_sum"] is None
    assert found["l2_answer"] == pytest.approx(math.sqrt(0.5))


def test_padding_is_left_out():
    changed = [HALF, QUARTER, [0.1, 0.9]]
    found = effects(forced([HALF, HALF, HALF], seen=2), forced(changed, seen=2))
    assert float(found.kl[0]) == pytest.approx(KL / 2)
    assert float(found.dlogp_sum[0]) == pytest.approx(math.log(2))


def test_an_answer_of_two_tokens_is_read_whole_or_at_its_last():
    clean, edited = forced([HALF, HALF, HALF]), forced([QUARTER, HALF, HALF])
    two = torch.tensor([[True, True, False]])
    clean, edited = replace(clean, answer=two), replace(edited, answer=two)
    assert float(effects(clean, edited).kl_answer[0]) == pytest.approx(KL / 2)
    assert float(effects(clean, edited, answer="last").kl_answer[0]) == 0.0


def test_other_targets_cannot_be_compared():
    one = forced([HALF, HALF, HALF])
    with pytest.raises(InputError) as error:
        effects(one, replace(one, ids=one.ids + 1))
    assert str(error.value) == (
        "The two read-outs were forced with different targets, so they cannot be compared: force "
        "the same targets in the same rows on both sides."
    )


def test_a_forced_answer_is_right_when_its_tokens_lead():
    found = forced([QUARTER, [0.6, 0.4], QUARTER], [[0.9, 0.1], [0.4, 0.6], HALF])
    assert top1(found).tolist() == [True, False]
    assert logprob(found).tolist() == pytest.approx([math.log(0.6), math.log(0.4)])


def test_answers_agree_without_spaces_and_separators():
    assert same("1,234 ", "1234") and not same("1,23", "123")
    assert not same(None, None) and not same("4", None)


def test_a_share_has_the_problem_as_its_unit():
    one = share([True, False, False, False], list("abcd"))
    assert (one.estimate, one.n_units) == (0.25, 4)
    assert (one.low, one.high) == pytest.approx((0.04559, 0.69936), abs=1e-5)  # Wilson
    assert one.warning == "only 4 problems: the interval is wide"
    sure = share([False] * 12, list("abcd") * 3)
    assert (sure.low, sure.n_units) == (0.0, 4)
    assert sure.high == share([False] * 4, list("abcd")).high  # not that of 12
    mixed = share([True, True, False, False], list("aabb"))
    assert (mixed.estimate, mixed.low, mixed.high) == (0.5, 0.0, 1.0)  # two problems, not four
    assert share([True, False] * 10, [str(i) for i in range(20)]).warning is None
    assert columns("x", one) == {"x": 0.25, "x_low": one.low, "x_high": one.high}


def test_chunks_fit_the_rows_and_halve_when_memory_runs_out():
    calls: list[tuple[int, int]] = []

    def work(part, rows):
        calls.append((len(part), rows))
        if len(part) > 2:
            raise MemoryError
        return [problem.id for problem in part]

    made = in_chunks(PROBLEMS, work, lanes=4, rows=20)
    assert made == [problem.id for problem in PROBLEMS]
    assert calls == [(5, 20), (2, 10), (2, 10), (2, 10)]


def test_memory_that_one_problem_exceeds_and_other_errors_are_raised():
    def starve(part, rows):
        raise MemoryError(f"{rows}")

    def fail(part, rows):
        raise RuntimeError("a fault")

    with pytest.raises(MemoryError, match="1"):
        in_chunks(PROBLEMS, starve, lanes=4, rows=20)
    with pytest.raises(RuntimeError, match="a fault"):
        in_chunks(PROBLEMS, fail, lanes=4, rows=20)


def test_no_rows_and_no_problems_are_refused():
    with pytest.raises(InputError, match=r"^A pass of 0 rows holds no problem: give 1 or more.$"):
        in_chunks(PROBLEMS, lambda part, rows: [], lanes=1, rows=0)
    with pytest.raises(InputError, match=r"^There is no problem to run: give at least one.$"):
        in_chunks([], lambda part, rows: [], lanes=1, rows=9)


def test_bad_problems_are_sifted_out_with_the_reason():
    bad = [
        LatentProblem("empty", " ", (), "a"),
        LatentProblem("mute", "a", (), ""),
        LatentProblem("long", "a " * 600, (), "b"),
    ]
    kept, refused = sift(random_subject(), [bad[0], PROBLEMS[0], *bad[1:]])
    assert kept == [PROBLEMS[0]]
    assert refused == {
        "empty": "Problem 'empty' has no question: give one, or leave it out.",
        "mute": "The answer '' gives no tokens of its own after '': name another answer, or "
        "another `target` in the layout.",
        "long": "Problem 'long' takes 607 tokens with its steps and answer, and a random coconut "
        "reads 512: leave it out, or shorten its question.",
    }
    with pytest.raises(InputError) as error:
        sift(random_subject(), bad[:1])
    assert str(error.value) == (
        "Of 1 problems none can be run: give at least one that can. The first: Problem 'empty' "
        "has no question: give one, or leave it out."
    )
    with pytest.raises(InputError, match=r"^Two problems have the id 'cycle-8-4-0-0', and results"):
        sift(random_subject(), [PROBLEMS[0], PROBLEMS[0]])


def test_a_problem_that_fills_the_context_runs_and_one_token_more_is_refused():
    subject = random_subject()
    room = 512 - 4 - 1 - 1 - 1  # steps, <start>, <end>, the answer; its end is not fed
    fits = LatentProblem("fits", " ".join(["a"] * room), (), "b")
    over = LatentProblem("over", " ".join(["a"] * (room + 1)), (), "b")
    assert sift(subject, [fits, over])[0] == [fits]
    with torch.no_grad():
        state = subject.prefill([fits])
        for _ in range(4):
            state = subject.step(state)
        read = subject.force(subject.close(state), [subject.target("b")])
    assert bool(read.logprobs.isfinite().all())


def test_scored_problems_must_be_apart_from_the_calibration_set():
    require_apart(PROBLEMS, calibration())
    with pytest.raises(InputError) as error:
        require_apart(OTHERS[2:], calibration())
    assert str(error.value) == (
        "Problem 'cycle-8-4-9-2' is scored and in the calibration set too: means and donors must "
        "come from other problems, so keep the two sets apart."
    )


def test_the_next_step_is_the_text_that_follows_the_steps_consumed():
    subject, problem = random_subject(), PROBLEMS[0]
    ids = LAYOUT.step_ids(subject.tokenizer, problem.steps[1])
    target = next_step(subject, problem, 1)
    assert target is not None and (list(target.ids), target.answer) == (ids, (0, 1))
    assert next_step(subject, problem, 3, per_step=2) == target
    assert next_step(subject, problem, 4) is None
    assert next_step(Hops(), problem, 0) == Hops().target(problem.steps[0])
