"""ProsQA: text, rules and statistics on a graph worked out by hand, then on generated ones."""

import json
from dataclasses import replace

import pytest

from interp.data.prosqa import (
    CONCEPTS,
    NAMES,
    RELEASED,
    ProsQA,
    ProsQAProblem,
    faults,
    statistics,
)
from interp.errors import InputError

HAND = ProsQAProblem(
    id="hand",
    question=(
        "Anna is a brimp. Every brimp is a clard. Boris is a clard. Every clard is a norl. "
        "Every clard is a pelk. Anna is a sarv. Every sarv is a clard. Boris is a vask. "
        "Carla is a zall. Every brimp is a tebble. Is Anna a tebble or a vask?"
    ),
    steps=("Anna is a brimp.", "Every brimp is a tebble."),
    answer="Anna is a tebble.",
    idx_to_symbol=(
        *("Anna", "Boris", "Carla", "brimp", "sarv", "clard"),
        *("norl", "pelk", "vask", "zall", "tebble"),
    ),
    edges=((0, 3), (3, 5), (1, 5), (5, 6), (5, 7), (0, 4), (4, 5), (1, 8), (2, 9), (3, 10)),
    root=0,
    target=10,
    neg_target=8,
)
"""Anna and Boris both reach clard, norl and pelk; nobody asked about reaches zall."""


def test_labels_and_persons_of_a_graph_worked_out_by_hand():
    assert HAND.labels == (1, 2, 0, 1, 1, 3, 3, 3, 2, 0, 1)
    assert HAND.in_degrees == (0, 0, 0, 1, 1, 3, 1, 1, 1, 1, 1)
    assert HAND.persons == ("Anna", "Boris", "Carla")
    assert faults(HAND) == []


def test_statistics_of_two_problems_worked_out_by_hand():
    """The second asks for pelk: 3 edges, and two ways of that length (brimp, sarv)."""
    other = replace(
        HAND, target=7, root=0, question=HAND.question.replace("tebble or a vask", "vask or a pelk")
    )
    counted = statistics([HAND, other])
    assert counted.nodes == 11 and counted.nodes_range == (11, 11) and counted.edges == 10
    assert counted.path_length == 2.5 and counted.path_shares == (0.5, 0, 0, 0)
    assert counted.shortest_paths == 1.5
    assert counted.in_degree == (3 / 11, 7 / 11, 0, 1 / 11, 0)
    assert counted.labels == (2 / 11, 4 / 11, 2 / 11, 3 / 11)
    assert (counted.second_root, counted.target_first) == (0, 0.5)
    assert (counted.names, counted.concepts, counted.persons_range) == (3, 8, (3, 3))
    with pytest.raises(InputError, match=r"^There are no ProsQA problems to count"):
        statistics([])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"target": 7}, "the target is no leaf that only the asked root reaches"),
        ({"target": 3}, "the target is no leaf that only the asked root reaches"),
        ({"neg_target": 9}, "the other option is no leaf that only the other root reaches"),
        ({"neg_target": 7}, "the other option is no leaf that only the other root reaches"),
        ({"edges": (*HAND.edges, (7, 6))}, "an edge goes from a higher to a lower index"),
        ({"edges": (*HAND.edges, (0, 10))}, "there is a shorter way"),
        ({"answer": "Anna is a vask."}, "the answer is not the target"),
        (
            {"steps": ("Anna is a sarv.", "Every sarv is a tebble.")},
            "the steps do not walk along edges from the root to the target",
        ),
        (
            {"steps": ("Anna is a brimp.",)},
            "the steps do not walk along edges from the root to the target",
        ),
        ({"steps": ("", "")}, "the steps do not walk along edges from the root to the target"),
    ],
)
def test_every_rule_finds_what_breaks_it(change, fault):
    assert fault in faults(replace(HAND, **change))


def test_the_text_says_the_graph():
    for problem in ProsQA().draw(20, seed=2):
        *said, asked = problem.question.split(". ")
        name = problem.idx_to_symbol
        words = [sentence.removeprefix("Every ").split(" is a ") for sentence in said]
        assert words == [[name[a], name[b]] for a, b in problem.edges]
        options = asked.removeprefix(f"Is {name[problem.root]} a ").rstrip("?").split(" or a ")
        assert sorted(options) == sorted(name[k] for k in (problem.target, problem.neg_target))
        assert problem.answer == f"{name[problem.root]} is a {name[problem.target]}."
        for symbol, parents in zip(name, problem.in_degrees, strict=True):
            assert symbol in (CONCEPTS if parents else NAMES)
            assert (f"Every {symbol} is" in problem.question) <= bool(parents)


def test_the_symbolic_variant_is_the_same_graph_in_numbers():
    tok = ProsQA.tokenizer()
    for text, numbers in zip(
        ProsQA().draw(20, seed=2), ProsQA(symbolic=True).draw(20, seed=2), strict=True
    ):
        assert len(text.idx_to_symbol) == len(numbers.idx_to_symbol)
        assert len(numbers.steps) == len(text.steps) and numbers.root == text.root
        name = numbers.idx_to_symbol
        edges, asked = numbers.question.split(" | ? ")
        assert edges.split(" | ") == [f"{name[a]} {name[b]}" for a, b in numbers.edges]
        options, root = asked.split(" : ")
        assert root == name[numbers.root]
        assert set(options.split()) == {name[numbers.target], name[numbers.neg_target]}
        assert numbers.answer == numbers.steps[-1] == name[numbers.target]
        ids = tok(numbers.question, add_special_tokens=False).input_ids
        assert tok.convert_ids_to_tokens(ids) == numbers.question.split()
        assert faults(numbers) == []


def test_rows_go_to_json_and_come_back():
    problem = ProsQA().draw(1)[0]
    row = json.loads(json.dumps(problem.row()))
    assert list(row)[:3] == ["question", "steps", "answer"]
    assert ProsQAProblem.from_row(row, id=problem.id) == problem
    with pytest.raises(InputError, match=r"^x is no ProsQA row \(KeyError: 'root'\); it needs"):
        ProsQAProblem.from_row({k: v for k, v in row.items() if k != "root"}, id="x")
    for wrong in ({"root": 2}, {"target": 99}, {"edges": [[0, 99]]}, {"answer": " "}):
        with pytest.raises(InputError, match=r"^x is no ProsQA row: its answer is empty, its root"):
            ProsQAProblem.from_row(row | wrong, id="x")


def test_problems_repeat_and_bad_ranges_are_refused():
    assert ProsQA().draw(2, seed=1) == ProsQA().draw(4, seed=1)[:2]
    assert ProsQA().draw(2, seed=1) != ProsQA().draw(2, seed=2)
    for low, high in ((11, 20), (20, 19), (20, 33)):
        with pytest.raises(
            InputError, match=rf"^ProsQA draws {low} to {high} nodes: give a range within 12 to 32"
        ):
            ProsQA(n_nodes=(low, high))


def test_generated_problems_are_like_the_released_ones():
    """Against what was measured on 500 released problems, with about 4 standard errors of both."""
    ours = statistics(ProsQA().draw(400, seed=11))
    assert abs(ours.nodes - RELEASED.nodes) < 0.6
    assert abs(ours.edges - RELEASED.edges) < 1.5
    assert abs(ours.path_length - RELEASED.path_length) < 0.2
    assert abs(ours.shortest_paths - RELEASED.shortest_paths) < 0.2
    assert abs(ours.second_root - RELEASED.second_root) < 0.1
    assert (ours.names, ours.concepts) == (RELEASED.names, RELEASED.concepts)
    assert ours.persons_range == RELEASED.persons_range
    low, high = ours.nodes_range
    assert low >= 14 and high <= 28
    for mine, theirs in zip(ours.path_shares, RELEASED.path_shares, strict=True):
        assert abs(mine - theirs) < 0.1
    for mine, theirs in zip(ours.in_degree, RELEASED.in_degree, strict=True):
        assert abs(mine - theirs) < 0.03
    for mine, theirs in zip(ours.labels, RELEASED.labels, strict=True):
        assert abs(mine - theirs) < 0.1  # the released ones lean to the second root; ours less
