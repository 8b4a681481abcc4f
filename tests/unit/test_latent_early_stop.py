"""Early stop is truncation; its curve and commitment steps, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.accuracy import accuracy
from interp.latent.early_stop import commitment, curve, early_stop
from interp.latent.subject import roll_out
from tests.latent_cases import PROBLEMS, TASK, Hops, random_subject


def test_a_planted_subject_states_the_node_of_the_last_step_consumed():
    problems = TASK.draw(30, seed=5)
    found = early_stop(Hops(), problems)
    assert len(found.rows) == 30 * 5
    by_id = {problem.id: problem for problem in problems}
    for row in found.rows:
        steps = by_id[row["id"]].steps
        assert row["consumed"] == row["k"]
        if row["k"]:
            assert row["answer"] == steps[row["k"] - 1]
            assert row["correct"] == row["forced_correct"] == (row["k"] == 4)
    table = found.curve()
    assert [row["solved"] for row in table] == [row["accuracy"] for row in table]
    assert [row["accuracy"] for row in table] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert [row["unparsable"] for row in table] == [30, 0, 0, 0, 0]
    assert table[4]["next_step"] is None and table[4]["n_next"] == 0
    assert all(row["next_step"] == 0.0 and row["n_next"] == 30 for row in table[1:4])
    assert {row["first_right"] for row in found.commitment()} == {4}
    assert {row["settled"] for row in found.commitment()} == {4}


def test_check_8_a_stop_at_the_last_step_is_the_normal_run_bit_for_bit():
    subject = random_subject()
    found = early_stop(subject, PROBLEMS)
    normal = accuracy(subject, PROBLEMS)
    last = {row["id"]: row for row in found.rows if row["k"] == 4}
    for row in normal.rows:
        assert last[row["id"]]["logprob"] == row["logprob"]
        assert last[row["id"]]["answer"] == row["answer"]


def test_check_8_stopping_feeds_only_the_steps_before_it(monkeypatch):
    subject = random_subject()
    problems = TASK.draw(3, seed=8)
    fed: list[tuple[int, int]] = []  # tokens of each call, and keys that it sees
    whole = subject.hf.base_model.forward

    def count(*args, **kwargs):
        fed.append((kwargs["inputs_embeds"].shape[1], kwargs["attention_mask"].shape[1]))
        return whole(*args, **kwargs)

    monkeypatch.setattr(subject.hf.base_model, "forward", count)
    monkeypatch.setattr(subject, "decode", lambda closed: [""] * len(closed.hidden))
    early_stop(subject, problems)
    prompt = 10  # 8 edges, the start, <start>
    steps = [(1, prompt + t) for t in range(1, 5)]
    assert fed[:5] == [(prompt, prompt), *steps]
    # For each k: the end marker after k steps, the answer's token, and the next step's is a read.
    assert fed[5:] == [(1, prompt + k + n) for k in range(5) for n in (1, 2)]


def test_truncation_equals_a_subject_of_fewer_steps():
    problems = TASK.draw(4, seed=8)
    full = early_stop(random_subject(n_steps=4), problems)
    for k in (1, 3):
        short = accuracy(random_subject(n_steps=k), problems)
        mine = [row["logprob"] for row in full.rows if row["k"] == k]
        assert mine == pytest.approx([row["logprob"] for row in short.rows], abs=1e-5)


def test_next_steps_follow_the_number_of_latent_steps_a_text_step_takes():
    found = early_stop(random_subject(), PROBLEMS[:2], per_step=2)
    having = {row["k"] for row in found.rows if row["next_logprob"] is not None}
    assert having == {0, 1, 2, 3, 4}  # 4 text steps, of which 4 latent ones are 2
    ks = {row["k"]: row["next_logprob"] for row in found.rows if row["id"] == PROBLEMS[0].id}
    subject = random_subject()
    with torch.no_grad():
        rollout = roll_out(subject, subject.prefill(PROBLEMS[:2]))
        closed = subject.close(rollout.states[3])
        step = subject.layout.step_ids(subject.tokenizer, PROBLEMS[0].steps[1])
        assert ks[3] == pytest.approx(float(subject.head(closed.hidden)[0, step[0]]), abs=1e-6)


def row(name: str, k: int, answer: str | None, **changed: object) -> dict[str, object]:
    """A row as `early_stop` writes it; the right answer is 4."""
    return {
        "id": name,
        "k": k,
        "answer": answer,
        "correct": answer == "4",
        "unparsable": answer is None,
        "forced_correct": answer == "4",
        "next_correct": None,
    } | changed


STOPS = [
    *(row("a", k, answer) for k, answer in enumerate(["1", "4", "4"])),  # right from 1 on
    *(row("b", k, answer) for k, answer in enumerate(["4", "2", "2"])),  # right at 0, then lost
    *(row("c", k, answer) for k, answer in enumerate(["3", None, None])),
    *(row("d", k, answer) for k, answer in enumerate(["4", "5", "4"])),  # lost and found
]


def test_accuracy_can_fall_and_the_share_solved_cannot():
    table = curve(STOPS)
    assert [found["accuracy"] for found in table] == [0.5, 0.25, 0.5]
    assert [found["solved"] for found in table] == [0.5, 0.75, 0.75]
    assert [found["retention"] for found in table] == [0.5, 1.0, 1.0]
    assert [found["n_right"] for found in table] == [2, 1, 2]
    assert [found["unparsable"] for found in table] == [0, 1, 1]
    assert table[0]["accuracy_low"] == pytest.approx(0.15004, abs=1e-5)  # Wilson, 2 of 4
    assert table[0]["next_step"] is None
    assert table[0]["warning"] == "only 4 problems: the interval is wide"
    assert curve(list(reversed(STOPS))) == table


def test_commitment_is_the_first_right_step_and_settling_the_last_change():
    found = {each["id"]: each for each in commitment(STOPS)}
    assert found["a"] == {"id": "a", "first_right": 1, "settled": 1, "lost": False}
    assert found["b"] == {"id": "b", "first_right": 0, "settled": 1, "lost": True}
    assert found["c"] == {"id": "c", "first_right": None, "settled": None, "lost": False}
    assert found["d"] == {"id": "d", "first_right": 0, "settled": 2, "lost": False}


def test_rows_of_several_runs_are_refused():
    with pytest.raises(InputError) as error:
        curve([*STOPS, row("a", 1, "4")])
    assert str(error.value) == (
        "Problem 'a' has rows for k = [0, 1, 1, 2]: give each k from 0 to the last once, from one "
        "run."
    )
    with pytest.raises(InputError, match=r"^Problem 'a' has rows for k = "):
        curve([each for each in STOPS if (each["id"], each["k"]) != ("a", 1)])
    assert curve([]) == []


def test_bad_input_is_refused_or_marked():
    with pytest.raises(InputError) as error:
        early_stop(Hops(), PROBLEMS, per_step=0)
    assert str(error.value) == "per_step is 0: a step in text has 1 latent step or more."
    bad = LatentProblem("bad", " ", (), "a")
    found = early_stop(random_subject(), [bad, PROBLEMS[0]])
    assert set(found.refused) == {"bad"} and len(found.rows) == 5
    with pytest.raises(InputError, match=r"^no latents has no latent steps"):
        early_stop(random_subject("no_latents"), PROBLEMS)


def test_accuracy_needs_no_steps():
    found = accuracy(random_subject("no_latents"), PROBLEMS)
    (table,) = found.summary()
    assert table["subject"] == "no latents" and table["n_problems"] == 6
    assert 0 <= table["accuracy_low"] <= table["accuracy"] <= table["accuracy_high"] <= 1
    (planted,) = accuracy(Hops(), TASK.draw(25)).summary()
    assert planted["accuracy"] == 1.0 and planted["warning"] == ""
    assert planted["accuracy_low"] == pytest.approx(0.86681, abs=1e-5)  # Wilson, 25 of 25
