"""Soft Thinking as a subject: mixtures, ends, and the laws of every subject; tiny random models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp import load
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.calibration import calibrate
from interp.latent.interventions import base_run, lane, readings
from interp.latent.operators import named, zero
from interp.latent.soft_thinking import (
    Mixing,
    Mixture,
    SoftThinking,
    Thought,
    as_mixture,
    chat_layout,
    mixed,
    top_mixture,
)
from interp.latent.state import Memory, Node
from interp.latent.subject import roll_out
from interp.latent.token_mix import donor_mix, drop_top, keep_top, temper

WIDE = Mixing(temperature=2.0, top_k=4, top_p=1.0)
"""Random models are sure of themselves; at this temperature every mixture has four tokens."""
QUESTIONS = ("Mary has 3 red apple 4", "2 plus 2", "Tom gave 1 key to John and took 5", "6 minus 1")
PROBLEMS = [LatentProblem(f"p{i}", text, (), "5") for i, text in enumerate(QUESTIONS)]
OTHERS = [LatentProblem(f"c{i}", f"{i} plus {i} is", (), "5") for i in range(1, 4)]


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return load("tiny-llama")


def subject(model, *, n_steps: int = 3, **settings) -> SoftThinking:
    settings = {"mixing": WIDE, "ends": [], **settings}
    layout = chat_layout(model.tokenizer)
    return SoftThinking(
        model.hf, model.tokenizer, n_steps=n_steps, layout=layout, name="soft", **settings
    )


def ending(model) -> SoftThinking:
    """A subject of which some rows end at step 2: its end is a token that they would think of."""
    free = base_run(subject(model), PROBLEMS).rollout
    first, second = (as_mixture(free.node(step)).ids[:, 0].tolist() for step in (1, 2))
    end = next(i for i in second if i not in first)
    return subject(model, ends=[model.tokenizer.decode([end])])


def test_a_mixture_is_worked_out_by_hand():
    """At T = 1/2 probabilities 4, 2, 1 of 7 become 16, 4, 1 of 21; top-2 leaves .8 and .2."""
    logits = torch.tensor([[1.0, 4.0, 2.0]]).log()
    ids, weights = top_mixture(logits, Mixing(temperature=0.5, top_k=2, top_p=1.0))
    assert ids.tolist() == [[1, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2]]))
    _, weights = top_mixture(logits, Mixing(temperature=0.5, top_k=2, top_p=0.7))
    assert weights.tolist() == [[1.0, 0.0]]  # .8 reaches .7 alone
    _, weights = top_mixture(logits, Mixing(temperature=0.5, top_k=9, top_p=0.9))
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2, 0.0]]))  # 16/21 < .9 <= 20/21


def test_a_node_knows_the_tokens_that_it_mixes(model):
    asked = subject(model)
    for node in (base_run(asked, PROBLEMS).rollout.node(step) for step in (1, 2, 3)):
        node = as_mixture(node)
        torch.testing.assert_close(node.weights.sum(-1), torch.ones(4))
        assert torch.equal(node.vectors, mixed(asked.embed, node.ids, node.weights))
        assert bool((node.weights[:, :-1] >= node.weights[:, 1:]).all())
        told = node.tokens(model.tokenizer)
        assert [word for word, _ in told[0]] == [model.tokenizer.decode([i]) for i in node.ids[0]]
        assert [share for _, share in told[0]] == node.weights[0].tolist()
        assert torch.equal(as_mixture(node.take([2, 2])).ids, node.ids[[2, 2]])


def test_a_row_ends_where_its_likeliest_token_closes_the_thought(model):
    asked = ending(model)
    free, held = (base_run(each, PROBLEMS).rollout for each in (subject(model), asked))
    assert held.node(1).seen.all()
    stopped = as_mixture(free.node(2)).ids[:, 0] == asked.end_ids[0]
    assert 0 < stopped.sum() < 4
    assert held.node(2).seen[:, 0].tolist() == (~stopped).tolist()
    assert not bool(held.node(3).seen[stopped].any())  # it stays ended
    row = int(stopped.nonzero()[0, 0])
    told = as_mixture(held.node(3)).tokens(model.tokenizer)
    assert [not each for each in told] == (~held.node(3).seen[:, 0]).tolist()
    early, late = (asked.close(held.states[k]).hidden[row] for k in (1, 3))
    # the empty nodes are two masked columns; a seen one moves the output by more than 0.1
    torch.testing.assert_close(early, late, rtol=0, atol=2e-5)
    assert (early - subject(model).close(free.states[3]).hidden[row]).abs().max() > 0.1


def test_a_row_ends_after_a_run_of_calm_steps(model):
    """All steps lie below 100 nats: with patience 3 the third is not fed; with 0 nats all are."""
    hasty = subject(model, mixing=replace(WIDE, calm=100.0, patience=3))
    rolled = base_run(hasty, PROBLEMS).rollout
    assert [bool(rolled.node(step).seen.all()) for step in (1, 2)] == [True, True]
    assert not rolled.node(3).seen.any()
    assert rolled.states[2].memory.run.tolist() == [3] * 4  # type: ignore[union-attr]
    calm = subject(model, mixing=replace(WIDE, calm=0.0, patience=1))
    rolled = base_run(calm, PROBLEMS).rollout
    assert rolled.node(3).seen.all()
    assert rolled.states[3].memory.take([1]).run.tolist() == [0]  # type: ignore[union-attr]


@pytest.mark.parametrize("edge", ["input", "recurrence", "cache", "kv"])
def test_the_identity_is_exactly_zero_and_edits_act(model, edge):
    asked = ending(model)
    base, bank = base_run(asked, PROBLEMS), calibrate(asked, OTHERS, scored=PROBLEMS)
    assert 0 < base.rollout.node(2).seen.sum() < 4
    operators = [keep_top(asked.embed), drop_top(asked.embed), zero()]
    acting = [named("kv_mask")] if edge == "kv" else operators
    for found in readings(asked, base, [lane(1, each, edge) for each in acting], bank, at="end"):
        moved = (found.closed.hidden - found.clean.hidden).abs().amax(1)
        *edited, identity = found.split(moved)
        assert identity.max() == 0.0
        assert all(part.max() > 1e-4 for part in edited)


def test_rows_that_have_ended_are_left_as_they_are(model):
    asked = ending(model)
    base, bank = base_run(asked, PROBLEMS), calibrate(asked, OTHERS, scored=PROBLEMS)
    ended = ~base.rollout.node(2).seen[:, 0]
    found = next(iter(readings(asked, base, [lane(2, temper(asked.embed, 4.0))], bank)))
    assert found.acted[0][0].present.tolist() == (~ended).tolist()
    moved = (found.closed.hidden - found.clean.hidden).abs().amax(1)[:4]
    assert moved[ended].max() == 0.0
    assert moved[~ended].min() > 1e-5


def test_a_donors_mixture_is_its_own_vector_and_is_recorded(model):
    asked = subject(model)
    base, bank = base_run(asked, PROBLEMS), calibrate(asked, OTHERS, scored=PROBLEMS)
    swap = donor_mix(asked.embed)
    for found in readings(asked, base, [lane(2, swap), lane(2, named("resample"))], bank):
        mine, plain, _ = found.split(found.closed.hidden)
        assert found.acted[0][0].donors == found.acted[1][0].donors
        torch.testing.assert_close(mine, plain, rtol=0, atol=2e-5)


def test_a_ragged_batch_gives_what_its_problems_give_alone(model):
    asked = subject(model)
    together = base_run(asked, PROBLEMS).rollout
    for row, problem in enumerate(PROBLEMS):
        alone = roll_out(asked, asked.prefill([problem]))
        for a, b in zip(alone.states, together.states, strict=True):
            one, many = as_mixture(a.node), as_mixture(b.node)
            assert torch.equal(one.ids[0], many.ids[row])
            # float32 in batches of another shape; a pad that is seen moves weights by 0.1
            torch.testing.assert_close(one.weights[0], many.weights[row], rtol=0, atol=2e-5)
            torch.testing.assert_close(
                asked.close(a).hidden[0], asked.close(b).hidden[row], rtol=0, atol=5e-5
            )


def test_branching_changes_no_parent(model):
    asked = subject(model)
    start = asked.prefill(PROBLEMS)
    node = as_mixture(start.node)
    before = [value.clone() for value in (node.vectors, node.ids, node.weights, start.memory.seen)]
    layers = [key.clone() for key, _ in start.memory.layers]
    for _ in range(3):
        roll_out(asked, asked.step(start, Node.slot(node.vectors[:, 0] * 0)))
        asked.decode(asked.close(start))
    after = [node.vectors, node.ids, node.weights, start.memory.seen]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, (b, _) in zip(layers, start.memory.layers, strict=True))


def test_a_step_is_drawn_by_gumbel_noise_on_its_weights(model):
    """No noise at temperature 1 is the mixture itself; noise that lifts one token draws it."""
    asked = subject(model)
    start = asked.prefill(PROBLEMS)
    own = as_mixture(start.node)
    still = asked.drawn(start, 1.0, lambda n: torch.zeros(4, n))
    torch.testing.assert_close(still.weights, own.weights)
    torch.testing.assert_close(still.vectors, own.vectors)
    lift = torch.tensor([[0.0, 0.0, 50.0, 0.0]]).expand(4, -1)
    third = asked.drawn(start, 0.1, lambda n: lift)
    torch.testing.assert_close(third.vectors, asked.embed(own.ids[:, 2:3]))
    sparse = replace(start, node=replace(own, weights=torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 4)))
    kept = asked.drawn(sparse, 1.0, lambda n: lift)
    assert kept.weights[0].tolist() == [0.5, 0.5, 0.0, 0.0]  # what is left out stays out
    assert isinstance(asked.step(start, third).node, Mixture)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 12.", "12"),
        (" 1,234 apples, not 7", "1234"),
        (": -3.5 degrees", "-3.5"),
        (" 12, 13", "12"),
        (" unknown", None),
        ("", None),
    ],
)
def test_the_first_number_behind_the_cue_is_the_answer(model, text, answer):
    assert subject(model).read(text) == answer


def test_a_prompt_is_the_chat_template_with_the_question(model):
    tok = model.tokenizer
    layout = chat_layout(tok, ask=" Say a number.", cue="So:")
    text = tok.decode(layout.prompt_ids(tok, PROBLEMS[1]))
    assert text == "<bos>User:\n2 plus 2 Say a number.\nAssistant:\n"
    assert tok.decode(layout.close_ids(tok)) == "\nSo:"
    asked = subject(model)
    target = asked.target("42")
    assert tok.decode(list(target.ids)) == " 42"
    assert target.answer == (0, len(target.ids))


def test_a_tag_that_closes_thoughts_is_found_in_the_tokenizer(model):
    class Tagged:
        eos_token_id, unk_token_id, chat_template = 1, None, None

        def __call__(self, text, **_):
            ids = [7] if text == "</think>" else list(range(10, 10 + len(text.split())))
            return type("Ids", (), {"input_ids": ids})()

    tagged = Tagged()
    assert chat_layout(tagged, cue="Answer:").close == "</think>\n\nAnswer:"
    asked = SoftThinking(model.hf, tagged, n_steps=1, layout=chat_layout(tagged), name="soft")
    assert sorted(asked.end_ids.tolist()) == sorted({1, model.hf.config.eos_token_id, 7} - {None})
    assert chat_layout(model.tokenizer).close == "\nThe final answer is"


def test_bad_settings_are_refused_in_a_sentence(model):
    with pytest.raises(InputError, match=r"^'a b' is not one token of the tokenizer, so no step"):
        subject(model, ends=["a b"])
    for name, value, rule in (
        ("temperature", 0.0, "above 0"),
        ("top_k", 0, "1 or more"),
        ("top_p", 1.5, "above 0 and at most 1"),
        ("calm", -1.0, "0 or more"),
        ("patience", 0, "1 or more"),
    ):
        with pytest.raises(InputError, match=f"^{name}={value}: give a number {rule}\\.$"):
            Mixing(**{name: value})
    start = subject(model).prefill(PROBLEMS)
    kept = {name: getattr(start.memory, name) for name in Memory.__dataclass_fields__}
    assert isinstance(start.memory, Thought)
    with pytest.raises(InputError, match=r"^This state is not from SoftThinking: begin with its"):
        subject(model).step(replace(start, memory=Memory(**kept)))
