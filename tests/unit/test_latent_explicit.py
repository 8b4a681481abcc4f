"""Steps in text, on a model whose next token depends on the last one alone: worked by hand.

a writes b, b writes =, = writes c, c writes d, d writes <end>; x ends the text; y writes y.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.data.latent_problems import LatentProblem, task_tokenizer
from interp.errors import InputError
from interp.latent.calibration import calibrate
from interp.latent.explicit import EDITED, Explicit
from interp.latent.influence import influence
from interp.latent.interventions import base_run, lane, readings
from interp.latent.layout import Layout
from interp.latent.operators import Resample, zero
from interp.latent.state import Node
from interp.latent.subject import roll_out
from tests.strategies import says

NEXT = {"a": "b", "b": "=", "=": "c", "c": "d", "d": "<end>", "y": "y", "<end>": "a", "x": "<eos>"}
LAYOUT = Layout("{question}", "<end>", "{step} =", "{answer}", mark="", eos=False)


def writer(width: int = 3, n_steps: int = 3, layout: Layout = LAYOUT, **new: str) -> Explicit:
    """A model that writes by the table `NEXT` and `new`."""
    tok: Any = task_tokenizer("abcdxy", n_ctx=32)
    d = len(tok)
    sizes: dict[str, Any] = {
        "n_embd": d,
        "n_layer": 1,
        "n_head": 1,
        "n_inner": 1,
        "n_positions": 32,
    }
    config = GPT2Config(
        vocab_size=d, tie_word_embeddings=False, eos_token_id=tok.eos_token_id, **sizes
    )
    hf: Any = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
        hf.transformer.wte.weight.copy_(torch.eye(d))
        hf.transformer.ln_f.weight.fill_(1)
        for word, after in (NEXT | new).items():
            after = tok.eos_token if after == "<eos>" else after
            after_id, word_id = (tok.convert_tokens_to_ids(w) for w in (after, word))
            hf.lm_head.weight[after_id, word_id] = 1
    return Explicit(hf, tok, n_steps=n_steps, layout=layout, name="writer", max_step_tokens=width)


def asked(*questions: str) -> list[LatentProblem]:
    """Problems of these questions; the answer is `a`, which follows the end marker."""
    return [LatentProblem(f"p{i}-{q}", q, (), "a") for i, q in enumerate(questions)]


def steps(subject: Explicit, *questions: str) -> list[list[str]]:
    """The text of each step, a row a question."""
    rolled = roll_out(subject, subject.prefill(asked(*questions)))
    by_step = [subject.texts(rolled.node(t)) for t in range(1, subject.n_steps + 1)]
    return [list(row) for row in zip(*by_step, strict=True)]


def test_a_step_ends_with_its_last_token_at_the_end_marker_or_when_it_is_full():
    found = steps(writer(), "a", "c", "d", "x", "y", "y c")
    assert found == [
        ["b =", "c d", ""],  # the first ends in its `=`, the second before <end>
        ["d", "", ""],
        ["", "", ""],  # <end> at once
        ["", "", ""],  # the end of text at once
        ["y y y", "y y y", "y y y"],  # full
        ["d", "", ""],  # a longer prompt: padding of the others changes nothing
    ]


def test_with_one_token_a_step_nothing_but_the_end_marker_ends_the_chain():
    assert steps(writer(1, 4), "a", "c") == [["b", "=", "c", "d"], ["d", "", "", ""]]


def test_an_end_marker_of_two_tokens_is_cut_off_whole():
    layout = Layout("{question}", "<end><pause>", "{step} =", "{answer}", mark="")
    subject = writer(4, 2, layout, **{"<end>": "<pause>", "<pause>": "y"})
    assert steps(subject, "c", "y") == [["d", ""], ["y y y y", "y y y y"]]


def test_a_node_holds_the_embeddings_of_its_tokens_and_counts_no_padding():
    subject = writer()
    state = subject.prefill(asked("a", "c"))
    ids = subject.tokenizer("b =", add_special_tokens=False).input_ids
    assert torch.equal(state.node.vectors[0, :2], subject.embed(torch.tensor([ids]))[0])
    assert state.node.seen.tolist() == [[True, True, False], [True, False, False]]
    after = subject.step(state)
    assert after.consumed == 1 and after.memory.slots == ((1, 4),)
    assert after.memory.next.tolist() == [3, 2]  # prompts of one token, then 2 and 1
    assert after.memory.seen.tolist() == [[True, True, True, False], [True, True, False, False]]


def test_a_row_whose_chain_is_over_stays_as_it_is():
    subject = writer(1, 4)
    before = subject.step(subject.prefill(asked("a", "c")))
    after = subject.step(subject.step(before))
    assert before.memory.next.tolist() == [2, 2]
    assert after.memory.next.tolist() == [4, 2]
    assert subject.decode(subject.close(after), 1) == ["a", "a"]


def test_texts_say_which_vectors_are_no_tokens():
    subject = writer()
    node = subject.prefill(asked("a")).node
    edited = node.vectors.detach().clone()
    edited[0, 1] *= 1 + 1e-6
    assert subject.texts(node) == ["b ="]
    assert subject.texts(Node(edited, node.seen)) == [f"b{EDITED}"]


def test_edits_reach_only_problems_that_have_the_step():
    """Step 2 exists for `a` alone: a problem without it is not counted and does not move."""
    subject = writer()
    problems = asked("a", "c")
    bank = calibrate(subject, asked("b", "= y", "a y"))
    base = base_run(subject, problems)
    found = list(readings(subject, base, [lane(2, zero())], bank))
    assert [reading.consumed for reading in found] == [2, 3]
    for reading in found:
        (acted,), (null,) = reading.acted
        assert acted.present.tolist() == [True, False]
        assert acted.change[1] == 0 and abs(float(acted.change[0].detach()) - 2**0.5) < 1e-6
        assert not null.change.any()


def test_w_is_a_mean_over_problems_that_have_the_step():
    """Only `a` has a step 2; its zeroed tokens write nothing, so the last output changes there."""
    subject = writer()
    bank = calibrate(subject, asked("b", "= y", "a y"))
    found = influence(subject, asked("a", "c"), bank, operators=["zero"])
    assert found.null() == 0.0
    ids = {t: {row["id"] for row in found.rows if row["t"] == t} for t in (1, 2)}
    assert ids == {1: {"p0-a", "p1-c"}, 2: {"p0-a"}}


def test_a_donor_of_another_length_is_written_whole():
    """`c` has the step "d"; fed "b =" of a donor, it goes on as that one does: "c d"."""
    subject = writer()
    bank = calibrate(subject, asked("a", "y a"))
    base = base_run(subject, asked("c"))
    reading, *_ = readings(subject, base, [lane(1, Resample())], bank)
    assert reading.consumed == 1
    assert reading.closed.memory.next.tolist() == [4, 3]  # prompt, step, end marker
    given = Node(bank.nodes[0].vectors[:1], bank.nodes[0].seen[:1])
    assert subject.texts(subject.step(base.rollout.states[0], given).node) == ["c d"]


def test_a_step_needs_room_for_the_end_marker():
    layout = Layout("{question}", "<end><pause>", "{step} =", "{answer}", mark="")
    said = (
        "max_step_tokens=1: a step needs room for a token and for the end marker '<end><pause>' of "
        "2; give 2 or more."
    )
    with says(InputError, said):
        writer(1, 2, layout)


def test_steps_of_several_tokens_need_an_end():
    said = (
        "The layout's `step` '{step}' ends in no token, so nothing shows where a step of several "
        "tokens is over: end it in one, such as a line end."
    )
    with says(InputError, said):
        writer(2, 2, Layout("{question}", "<end>", "{step}", "{answer}", mark=""))


@pytest.mark.parametrize(("width", "fits"), [(10, True), (11, False)])
def test_the_context_must_hold_all_tokens_of_all_steps(width: int, fits: bool):
    """1 token of prompt, 3 steps, 1 end marker, 32 positions."""
    subject = writer(width, 3)
    if fits:
        assert subject.prefill(asked("a")).rows == 1
        return
    said = (
        "Problem 'p0-a' takes 35 tokens with its steps and answer, and writer reads 32: leave it "
        "out, or shorten its question."
    )
    with says(InputError, said):
        subject.prefill(asked("a"))
