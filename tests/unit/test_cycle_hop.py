"""Cycle-hop: walks on one cycle, one token a piece, and the ceiling of a guess."""

from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from interp.data.cycle_hop import MARKERS, CycleHop
from interp.errors import InputError

TASKS = (
    CycleHop(),
    CycleHop(tells_hops=True),
    CycleHop(5, 2, tells_hops=True),
    CycleHop(6, 3, two_token_edges=True),
)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_steps_follow_the_edges_of_one_cycle(task):
    for problem in task.draw(50, seed=1):
        after = dict(problem.edges)
        assert sorted(after) == sorted(after.values()) == list(task.nodes)
        walk = [problem.start]
        for _ in range(task.n_nodes):
            walk.append(after[walk[-1]])
        assert walk[-1] == problem.start and len(set(walk)) == task.n_nodes  # one cycle, not two
        assert problem.path == tuple(walk[: task.hops + 1])
        assert problem.steps == problem.path[1:]
        assert problem.answer == problem.steps[-1] != problem.start


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_every_piece_is_one_token_however_it_is_joined(task):
    tok = task.tokenizer()
    for problem in task.draw(20):
        pieces = problem.question.split()
        ids = tok(problem.question, add_special_tokens=False).input_ids
        assert tok.convert_ids_to_tokens(ids) == pieces
        assert tok.decode(ids) == problem.question
        assert tok("\n" + problem.question.replace(" ", "\n ")).input_ids == [0, *ids]
        [answer] = tok(problem.answer, add_special_tokens=False).input_ids
        assert tok(f" {problem.answer}\n", add_special_tokens=False).input_ids == [answer]
        assert tok.decode([answer]) == problem.answer
    for marker in (*MARKERS, *map(str, range(1, task.n_nodes))):
        assert len(tok(marker, add_special_tokens=False).input_ids) == 1
        assert tok.convert_ids_to_tokens(tok(f"a{marker}b").input_ids)[1:] == ["a", marker, "b"]
    assert (tok.eos_token_id, tok.pad_token_id) == (1, 2)


def test_a_prompt_holds_the_edges_then_the_hops_then_the_start():
    plain, told, text = (
        task.draw(1, seed=4)[0]
        for task in (CycleHop(), CycleHop(tells_hops=True), CycleHop(two_token_edges=True))
    )
    edges = ["".join(edge) for edge in plain.edges]
    assert plain.edges == told.edges == text.edges
    assert plain.question.split() == [*edges, plain.start]
    assert told.question.split() == [*edges, "4", plain.start]
    assert text.question.split() == [*"".join(edges), plain.start]


def test_the_numbers_of_hops_ask_about_the_same_cycles():
    task = CycleHop(tells_hops=True)
    short, full = task.draw(5, seed=2, hops=1), task.draw(5, seed=2)
    for one, four in zip(short, full, strict=True):
        assert (one.edges, one.start) == (four.edges, four.start)
        assert one.steps == four.steps[:1] and one.id != four.id
        assert one.question == four.question.replace("4", "1")


def test_draws_repeat_and_begin_alike_and_seeds_differ():
    task = CycleHop()
    assert task.draw(3, seed=7) == task.draw(9, seed=7)[:3]
    assert task.draw(3, seed=7) != task.draw(3, seed=8)
    assert len({problem.question for problem in task.draw(500)}) == 500


def test_starts_answers_and_the_place_of_the_first_edge_are_even():
    problems = CycleHop().draw(4000, seed=5)
    starts = Counter(problem.start for problem in problems)
    answers = Counter(problem.answer for problem in problems)
    places = Counter([a for a, _ in problem.edges].index(problem.start) for problem in problems)
    for counts in (starts, answers, places):  # 500 each; 4 standard deviations are 84
        assert len(counts) == 8
        assert max(abs(count - 500) for count in counts.values()) < 84


def test_the_ceiling_of_a_guess():
    """8 nodes, 4 hops: the start is no answer, so 7 are left, then 5, then 3, then the answer."""
    assert [CycleHop().ceiling(h) for h in range(5)] == [1 / 7, 1 / 5, 1 / 3, 1.0, 1.0]
    assert [CycleHop(6, 3).ceiling(h) for h in range(4)] == [1 / 5, 1 / 3, 1.0, 1.0]
    assert CycleHop(8, 7).ceiling(1) == 1.0  # the answer is one hop back
    with pytest.raises(InputError, match=r"^One cannot know -1 hops: give 0 or more\.$"):
        CycleHop().ceiling(-1)


def test_a_tokenizer_comes_back_from_its_folder(tmp_path: Path):
    tok, problem = CycleHop().tokenizer(), CycleHop().draw(1)[0]
    tok.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(problem.question).input_ids == tok(problem.question).input_ids
    assert again.decode(tok("ab<start> c").input_ids[1:]) == "ab <start> c"


def test_settings_that_make_no_task_are_refused():
    with pytest.raises(InputError, match=r"^A cycle has 3 to 26 nodes, one letter each; not 2\.$"):
        CycleHop(n_nodes=2)
    message = (
        r"^8 hops on a cycle of 8 nodes: give 1 to 7, because a full round ends where it started\.$"
    )
    with pytest.raises(InputError, match=message):
        CycleHop(hops=8)
    with pytest.raises(InputError, match=message):
        CycleHop().draw(1, hops=8)
