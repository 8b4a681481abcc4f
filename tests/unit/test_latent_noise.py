"""Noise inside the rollout: whose draws they are, what they change, what they leave behind."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.data.cycle_hop import CycleHop
from interp.errors import InputError
from interp.latent.layout import Layout
from interp.latent.noise import (
    Draws,
    DrawsSteps,
    Noise,
    Samples,
    mean_vector,
    noisy_states,
    rolled,
    sample,
)
from interp.latent.planted import Planted, PlantedCommitment
from interp.latent.state import Memory, Node, State
from interp.latent.subject import roll_out
from interp.latent.subjects import Coconut

TASK = CycleHop(n_nodes=5, hops=3)
LAYOUT = Layout(
    prompt="{question}<start>", close="<end>", step="{step}", target="{answer}", mark="", eos=True
)


def tiny(n_steps=3):
    """A random Coconut whose answers hang on its steps."""
    tok = TASK.tokenizer()
    torch.manual_seed(0)
    ids = {"eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id}
    config = GPT2Config(vocab_size=len(tok), n_embd=16, n_layer=2, n_head=2, n_positions=64, **ids)
    hf = GPT2LMHeadModel(config).eval()
    for weight in hf.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.25)
    return Coconut(hf, tok, n_steps=n_steps, layout=LAYOUT, name="tiny")


def one_row(vector):
    """A state before step 1 whose node is this vector."""
    memory = Memory((), torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    return State(0, Node.slot(torch.tensor([vector])), memory)


def test_a_vector_gets_noise_of_its_own_norm_over_the_root_of_d():
    # |h| = 5 and d = 4: s = 0.2 * 5 / 2 = 0.5.
    state, draws = one_row([3.0, 0.0, 4.0, 0.0]), Draws(Noise(sigma=0.2), (("p", 0),), 7)
    u = draws.normal(state.node.vectors, 1)
    fed = draws.fed(Planted("chain"), state)
    torch.testing.assert_close(fed.vectors - state.node.vectors, 0.5 * u, rtol=0, atol=1e-6)


def test_the_noise_is_about_sigma_times_as_long_as_the_vector():
    keys = tuple(("p", i) for i in range(200))
    vectors = torch.ones(200, 1, 64)
    u = Draws(Noise(), keys, 0).normal(vectors, 1)
    assert abs(float(u.mean())) < 0.03  # 5 standard errors of 12,800 draws are 0.044
    assert 0.97 < float(u.std()) < 1.03


def test_padding_of_a_wide_node_gets_no_noise_and_no_weight_in_the_mean():
    vectors = torch.tensor([[[1.0, 3.0], [3.0, 5.0], [0.0, 0.0]]])
    node = Node(vectors, torch.tensor([[True, True, False]]))
    state = State(0, node, one_row([0.0]).memory)
    fed = Draws(Noise(sigma=1.0), (("p", 0),), 0).fed(Planted("chain"), state)
    assert torch.equal(fed.vectors[:, 2], vectors[:, 2])
    assert not torch.equal(fed.vectors[:, 0], vectors[:, 0])
    assert mean_vector(node).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("noise", [Noise(), Noise(sigma=0.0, dropout=0.3)])
def test_draws_belong_to_problem_sample_step_and_seed_not_to_the_batch(noise):
    subject, problems = tiny(), TASK.draw(3, seed=1)
    whole = sample(subject, problems, noise, n_samples=4)
    alone = sample(subject, problems[1:2], noise, n_samples=2, rows=1)
    torch.testing.assert_close(alone.vectors[0], whole.vectors[1, :2], rtol=0, atol=1e-5)
    assert alone.answers[0] == whole.answers[1][:2]
    other = sample(subject, problems[1:2], noise, n_samples=2, seed=1)
    late = slice(1, None)  # dropout leaves h_1 alone: the prompt is read without it
    assert float((other.vectors - alone.vectors)[:, :, late].abs().min(-1).values.max()) > 0
    assert not torch.equal(whole.vectors[1, 0, late], whole.vectors[1, 1, late])


def test_without_noise_a_rollout_is_the_clean_one_bit_for_bit():
    subject, problems = tiny(), TASK.draw(2)
    states, _ = rolled(subject, problems, Noise(sigma=0.0), n_samples=2, seed=0)
    clean = roll_out(subject, subject.prefill(problems).take([0, 0, 1, 1]))
    for noisy, plain in zip(states, clean.states, strict=True):
        assert torch.equal(noisy.node.vectors, plain.node.vectors)
        assert all(
            torch.equal(a, b)
            for mine, theirs in zip(noisy.memory.layers, plain.memory.layers, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )


@pytest.mark.parametrize("noise", [{"sigma": 0.5}, {"sigma": 0.0, "dropout": 0.5}])
def test_only_the_named_steps_are_noisy(noise):
    subject, problems = tiny(), TASK.draw(1)
    samples = sample(subject, problems, Noise(**noise, steps=(2,)), n_samples=3).vectors[0]
    assert torch.equal(samples[0, 0], samples[1, 0])  # h_1 comes before
    first = 1 if noise["sigma"] else 2  # dropout in step 2 first shows in h_3
    assert torch.equal(samples[0, :first], samples[1, :first])
    assert not torch.equal(samples[0, first:], samples[1, first:])


def test_dropout_leaves_no_hook_behind_even_after_an_error():
    subject, problems = tiny(), TASK.draw(1)
    before = subject.prefill(problems)
    draws = Draws(Noise(sigma=0.0, dropout=0.4), (("p", 0),), 0)
    with pytest.raises(KeyError), draws.dropping(subject, 1):
        raise KeyError
    noisy_states(subject, before, draws)
    assert not any(module._forward_hooks for module in subject.hf.modules())
    clean = subject.step(before).node.vectors
    assert torch.equal(clean, tiny().step(tiny().prefill(problems)).node.vectors)


def test_a_branch_continues_with_the_noise_of_its_own_run():
    subject, problems = tiny(), TASK.draw(2)
    states, draws = rolled(subject, problems, Noise(), n_samples=2, seed=0)
    again = noisy_states(subject, states[1], draws, first=states[1].node)
    for mine, theirs in zip(again, states[1:], strict=True):
        assert torch.equal(mine.node.vectors, theirs.node.vectors)
    moved = Node(states[1].node.vectors + 1, states[1].node.seen)
    branch = noisy_states(subject, states[1], draws, first=moved)
    assert not torch.equal(branch[-1].node.vectors, states[-1].node.vectors)


def test_samples_hold_the_answer_that_each_trajectory_led_to():
    # Planted: the answer is whether the signs of the noise at steps 1 and 3 differ.
    subject = PlantedCommitment(n_steps=5, settles=4)
    made = sample(subject, subject.draw(4), n_samples=25)
    signs = made.vectors[..., -1] > 0
    expected = (signs[:, :, 0] ^ signs[:, :, 2]).long()
    given = torch.tensor([[int(str(answer)) for answer in row] for row in made.answers])
    assert torch.equal(given, expected)
    assert 0.3 < float(expected.double().mean()) < 0.7
    assert [row["correct"] for row in made.rows] == [answer == 0 for answer in given.flatten()]


def test_shares_are_sorted_and_equals_go_by_their_text():
    made = Samples(
        problems=tuple(Planted("chain").draw(1)),
        noise=Noise(),
        seed=0,
        vectors=torch.zeros(1, 5, 1, 2),
        answers=(("b", "c", None, "c", "b"),),
    )
    assert list(made.shares(0).items()) == [("b", 0.4), ("c", 0.4), (None, 0.2)]


class Loaded(PlantedCommitment):
    """Draws its steps: the last entry is that of the larger of two Gumbel numbers."""

    def drawn(self, state, temperature, gumbel):
        """A node whose last entry is 1 or -1."""
        vectors = state.node.vectors.clone()
        vectors[:, 0, -1] = 1.0 - 2.0 * gumbel(2).argmax(1)
        return Node(vectors, state.node.seen)


def test_a_subject_that_draws_its_steps_is_asked_to():
    subject = Loaded(n_steps=4, settles=3)
    assert isinstance(subject, DrawsSteps) and not isinstance(tiny(), DrawsSteps)
    made = sample(subject, subject.draw(3), Noise(sigma=0.0, temperature=1.0), n_samples=30)
    drawn = made.vectors[..., -1]
    assert set(drawn[:, :, 0].flatten().tolist()) == {1.0, -1.0}
    assert abs(float(drawn.mean())) < 0.25  # fair: four standard errors of 360 draws are 0.21
    again = sample(subject, subject.draw(1), Noise(sigma=0.0, temperature=1.0), n_samples=30)
    assert torch.equal(again.vectors[0], made.vectors[0])


BAD = [
    ({"sigma": -0.1}, r"^sigma is -0\.1: give 0 or more, such as 0\.1\.$"),
    ({"sigma": float("nan")}, r"^sigma is nan: give 0 or more, such as 0\.1\.$"),
    ({"dropout": 1.0}, r"^dropout is 1\.0: it is a share from 0 to below 1\.$"),
    ({"temperature": -1.0}, r"^temperature is -1\.0: give 0 for none, or above 0\.$"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_noise_outside_its_range_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Noise(**settings)


UNFIT = [
    (
        {"steps": (9,)},
        r"^planted-chain has steps 1 to 4, and noise is asked for step 9: name one of those\.$",
    ),
    (
        {"dropout": 0.1},
        r"^planted-chain is no Hugging Face model, so dropout 0\.1 has no block to act in: use "
        r"sigma\.$",
    ),
    (
        {"temperature": 0.5},
        r"^planted-chain has no rule to draw a step by, so temperature 0\.5 does nothing: use "
        r"sigma\.$",
    ),
]


@pytest.mark.parametrize(("settings", "message"), UNFIT)
def test_noise_that_cannot_act_is_refused_before_the_model_runs(settings, message, monkeypatch):
    subject = Planted("chain")
    monkeypatch.setattr(Planted, "prefill", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=message):
        sample(subject, subject.draw(2), Noise(**settings))


def test_bad_samples_are_refused():
    subject = Planted("chain")
    problems = subject.draw(2)
    with pytest.raises(InputError, match=r"^0 samples a problem: give 1 or more, better 40\.$"):
        sample(subject, problems, n_samples=0)
    twice = (
        r"^Two problems have the id 'planted-chain-0-0', so they would get the same noise: name "
        r"each once\.$"
    )
    with pytest.raises(InputError, match=twice):
        sample(subject, [problems[0], problems[0]])
