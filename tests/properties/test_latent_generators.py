"""Laws of the generators of latent problems, for every seed; rules are checked by brute force."""

import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.data.arithmetic_chains import (
    ArithmeticChains,
    evaluate,
    false_steps,
    plain_numbers,
    read_raw,
    write_raw,
)
from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.data.prontoqa import ProntoQA
from interp.data.prosqa import ProsQA, ProsQAProblem, faults, statistics

SEEDS = st.integers(0, 2**32)


def walks(problem: ProsQAProblem) -> np.ndarray:
    """[n, from, to]: how many walks of n edges there are, by powers of the adjacency matrix."""
    n = len(problem.idx_to_symbol)
    step = np.zeros((n, n), dtype=np.int64)
    for parent, child in problem.edges:
        step[parent, child] += 1
    powers = [np.eye(n, dtype=np.int64)]
    while powers[-1].any():
        powers.append(powers[-1] @ step)
    return np.stack(powers)


def check_sound(problem: ProsQAProblem) -> None:
    """Label, leaf and path rules, from the text and the edges alone."""
    counts = walks(problem)
    reach = counts.any(axis=0)
    name, root, other = problem.idx_to_symbol, problem.root, 1 - problem.root
    assert len(set(problem.edges)) == len(problem.edges) and len(set(name)) == len(name)
    assert all(parent < child for parent, child in problem.edges)
    used = {node for edge in problem.edges for node in edge}
    assert used == set(range(len(name)))  # no isolated node
    assert not reach[:, [0, 1]][2:].any() and not reach[0, 1] and not reach[1, 0]  # two roots
    for leaf in (problem.target, problem.neg_target):
        assert reach[leaf].sum() == 1  # itself only
    assert reach[root, problem.target] and not reach[other, problem.target]
    assert reach[other, problem.neg_target] and not reach[root, problem.neg_target]
    assert problem.labels == tuple(
        int(reach[0, k]) + 2 * int(reach[1, k]) for k in range(len(name))
    )
    shortest = int(counts[:, root, problem.target].nonzero()[0][0])
    assert 3 <= shortest <= 6 and len(problem.steps) == shortest
    ends = [step.rstrip(".").split()[-1] for step in problem.steps]
    way = [root, *(name.index(end) for end in ends)]
    assert all(edge in problem.edges for edge in pairwise(way))
    assert way[-1] == problem.target
    assert problem.answer.rstrip(".").split()[-1] == name[problem.target]


@pytest.mark.parametrize(("symbolic", "n"), [(False, 1000), (True, 100)])
def test_check_15_a_thousand_prosqa_problems_are_sound_and_balanced(symbolic: bool, n: int):
    """Labels, leaves, shortest paths; which option stands first is even within 5%."""
    problems = ProsQA(symbolic=symbolic).draw(n, seed=15)
    for problem in problems:
        check_sound(problem)
        assert faults(problem) == []
    first = 0
    for problem in problems:
        asked = problem.question.replace("?", " ").split()[-5:]
        target, other = (problem.idx_to_symbol[k] for k in (problem.target, problem.neg_target))
        assert (target in asked) and (other in asked)
        first += asked.index(target) < asked.index(other)
    assert abs(first / n - 0.5) < 0.05
    assert statistics(problems).target_first == first / n
    share = sum(problem.root for problem in problems) / n
    assert abs(share - 0.63) < 2 / n**0.5  # 4 standard errors


@settings(max_examples=15)
@given(SEEDS, st.integers(14, 32), st.integers(0, 4), st.booleans())
def test_prosqa_is_sound_for_every_seed_and_size(seed, low, more, symbolic):
    for problem in ProsQA((low, min(32, low + more)), symbolic=symbolic).draw(2, seed=seed):
        check_sound(problem)
        assert ProsQAProblem.from_row(problem.row(), id=problem.id) == problem


@settings(max_examples=60)
@given(SEEDS, st.integers(3, 26), st.data(), st.booleans(), st.booleans())
def test_a_cycle_hop_answer_is_found_by_walking_the_prompt(seed, n_nodes, data, told, two):
    hops = data.draw(st.integers(1, n_nodes - 1))
    task = CycleHop(n_nodes, hops, told, two)
    problem = task.draw(1, seed=seed)[0]
    pieces = problem.question.split()
    if told:
        assert pieces.pop(-2) == str(hops)
    letters = "".join(pieces[:-1])
    after = dict(zip(letters[::2], letters[1::2], strict=True))
    node = pieces[-1]
    for step in problem.steps:
        node = after[node]
        assert node == step
    assert node == problem.answer and len(problem.steps) == hops
    assert 0 < task.ceiling() <= task.ceiling(1) <= 1


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 6), st.integers(9, 999), st.booleans())
def test_chains_hold_and_go_through_the_raw_form(seed, steps, largest, decimals):
    for problem in ArithmeticChains((1, steps), largest, decimals).draw(3, seed=seed):
        assert false_steps(problem) == ()
        assert read_raw(write_raw(problem), id=problem.id) == problem
        last = problem.steps[-1][2:-2].split("=")
        assert str(evaluate(last[0])) == last[1] == problem.answer
        wrong = (*problem.steps[:-1], f"<<{last[0]}={int(last[1]) + 1}>>")
        broken = LatentProblem("1", "?", wrong, "0")
        assert false_steps(broken) == (len(wrong) - 1,)


@settings(max_examples=100)
@given(SEEDS, st.integers(0, 4))
def test_expressions_agree_with_exact_python(seed, depth):
    """The judge is Python itself, over fractions."""
    rng = random.Random(seed)

    def make(level: int) -> str:
        if level == 0:
            return rng.choice(["3", "7", ".5", "2.25", "10"])
        return f"({make(level - 1)}{rng.choice('+-*')}{make(level - 1)}/{rng.choice('24')})"

    text = make(depth)
    python = "".join(f"Fraction('{t}')" if t[-1].isdigit() else t for t in tokens(text))
    assert evaluate(text) == eval(python, {"Fraction": Fraction})


def tokens(text: str) -> list[str]:
    for sign in "+-*/()":
        text = text.replace(sign, f" {sign} ")
    return text.split()


@given(st.integers(0, 10**12))
def test_separators_are_undone(number):
    assert plain_numbers(f"{number:,}") == str(number)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 8), st.integers(1, 8))
def test_pronto_steps_are_rules_of_the_question_in_order(seed, hops, distractors):
    for problem in ProntoQA(hops, distractors).draw(4, seed=seed):
        said = " ".join(problem.steps).rstrip(".").split(". ")
        facts, rules = said[::2], said[1::2]
        assert len(rules) == hops and len(problem.steps) == hops + 1
        assert all(f"{rule}." in problem.question for rule in rules)
        assert [fact.split()[0] for fact in facts] == [problem.name] * (hops + 1)
        concepts = [fact.split()[-1] for fact in facts[:-1]]
        assert tuple(concepts) == problem.chain
        for a, b in pairwise(concepts):
            assert f"Every {a} is a {b}." in problem.question
        claim = problem.question.split("True or false: ")[1]
        assert (claim == f"{facts[-1]}.") == (problem.answer == "True")
        reached = {word for fact in facts for word in fact.split()}
        assert not reached & set(problem.distractor)
