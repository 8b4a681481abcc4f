"""Noisy rollouts against plain Hugging Face: one uncached pass with the vectors that were fed."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from interp.data.cycle_hop import CycleHop
from interp.latent.layout import Layout
from interp.latent.noise import Draws, Noise, noisy_states, rolled, sample
from interp.latent.subjects import Coconut

TASK = CycleHop(n_nodes=5, hops=3)
LAYOUT = Layout(
    prompt="{question}<start>", close="<end>", step="{step}", target="{answer}", mark="", eos=True
)


def subject(kind):
    """A random Coconut in float64."""
    tok = TASK.tokenizer()
    torch.manual_seed(0)
    ids = {"eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id}
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        hf = GPT2LMHeadModel(GPT2Config(vocab_size=len(tok), **sizes, **ids))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
        hf = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), **sizes, **ids))
    for weight in hf.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.25)
    return Coconut(hf.double().eval(), tok, n_steps=3, layout=LAYOUT, name=kind)


def embedded(made, problem):
    """Input vectors of a prompt, by the model's own embedding."""
    ids = torch.tensor([LAYOUT.prompt_ids(made.tokenizer, problem)])
    return made.hf.get_input_embeddings()(ids)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_each_fed_vector_is_hugging_faces_own_output_plus_its_noise(kind):
    made, problem = subject(kind), TASK.draw(1)[0]
    noise = Noise(sigma=0.3)
    states, draws = rolled(made, [problem], noise, n_samples=2, seed=5)
    for row in range(2):
        x = embedded(made, problem)
        for t, state in enumerate(states[:-1], 1):
            h = made.hf.base_model(inputs_embeds=x).last_hidden_state[:, -1]
            own = Draws(noise, draws.keys[row : row + 1], 5).normal(h[:, None], t)[:, 0]
            expected = h + 0.3 * h.norm() / 4 * own  # d = 16
            fed = state.node.vectors[row]
            # float64 against a cached run: rounding only.
            torch.testing.assert_close(fed, expected, rtol=0, atol=1e-10)
            x = torch.cat([x, fed[None]], 1)


@torch.no_grad()
def test_the_stored_answer_is_what_hugging_face_writes_after_the_fed_vectors():
    made, problems = subject("gpt2"), TASK.draw(2)
    samples = sample(made, problems, Noise(sigma=0.5), n_samples=3)
    for i, problem in enumerate(problems):
        for k in range(3):
            end = made.hf.get_input_embeddings()(torch.tensor([made.close_ids]))
            x = torch.cat([embedded(made, problem), samples.vectors[i, k][None], end], 1)
            first = int(made.hf(inputs_embeds=x).logits[0, -1].argmax())
            # The text is decoded to its end; its first token is this one.
            assert str(samples.answers[i][k]).startswith(made.tokenizer.decode([first]))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_dropout_masks_what_each_block_adds(kind):
    made, problem = subject(kind), TASK.draw(1)[0]
    noise, prompt = Noise(sigma=0.0, dropout=0.5), embedded(made, problem)
    start = made.prefill([problem])
    draws = Draws(noise, ((problem.id, 0),), 0)
    states = noisy_states(made, start, draws)
    width, seen = start.node.vectors, []

    def hook(block):
        def replace(module, args, kwargs, output):
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            kept = draws.uniform(width, 1, "dropout", block) >= 0.5
            last = before[:, -1:] + 2 * kept * (after - before)[:, -1:]
            seen.append(float(kept.double().mean()))
            mixed = torch.cat([after[:, :-1], last], 1)  # the prompt was read without dropout
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        return replace

    base = made.hf.base_model
    blocks = base.h if kind == "gpt2" else base.layers
    hooks = [b.register_forward_hook(hook(i), with_kwargs=True) for i, b in enumerate(blocks)]
    h = base(inputs_embeds=torch.cat([prompt, start.node.vectors], 1)).last_hidden_state[:, -1]
    for each in hooks:
        each.remove()
    torch.testing.assert_close(states[1].node.vectors[:, 0], h, rtol=0, atol=1e-10)
    assert 0 < sum(seen) / len(seen) < 1
