"""Plain Hugging Face as the judge: no cache, no batch, the library's own samplers' rules."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from interp import load
from interp.data.latent_problems import LatentProblem
from interp.latent.interventions import base_run
from interp.latent.soft_thinking import (
    Mixing,
    SoftThinking,
    as_mixture,
    chat_layout,
    load_soft_thinking,
)
from interp.models import registry

PROBLEMS = [
    LatentProblem("a", "Mary has 3 red apple", (), "5"),
    LatentProblem("b", "2 plus 2", (), "12"),
]


def thought(hf, vectors: torch.Tensor, steps: int, mixing: Mixing) -> torch.Tensor:
    """The prompt's vectors and the concept tokens behind them, each step a full forward pass."""
    table = hf.get_input_embeddings().weight
    rules = [
        TemperatureLogitsWarper(mixing.temperature),
        TopKLogitsWarper(mixing.top_k),
        TopPLogitsWarper(mixing.top_p),
    ]
    for _ in range(steps):
        scores = hf(inputs_embeds=vectors[None]).logits[:, -1]
        for rule in rules:
            scores = rule(torch.zeros(1, 1, dtype=torch.long), scores)
        vectors = torch.cat([vectors, scores.softmax(-1) @ table])
    return vectors


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(temperature=2.0, top_k=5, top_p=0.8)])
@torch.no_grad()
def test_thoughts_and_answers_are_those_of_a_plain_loop(mixing):
    model = load("tiny-llama")
    layout = chat_layout(model.tokenizer)
    asked = SoftThinking(
        model.hf,
        model.tokenizer,
        n_steps=3,
        layout=layout,
        name="soft",
        mixing=mixing,
        ends=[],
    )
    rollout = base_run(asked, PROBLEMS).rollout
    targets = [asked.target(problem.answer) for problem in PROBLEMS]
    forced = asked.force(asked.close(rollout.states[-1]), targets)
    table = model.hf.get_input_embeddings().weight
    for row, (problem, target) in enumerate(zip(PROBLEMS, targets, strict=True)):
        prompt = torch.tensor(layout.prompt_ids(model.tokenizer, problem))
        vectors = thought(model.hf, table[prompt], 3, mixing)
        ours = torch.cat([rollout.node(step).vectors[row] for step in (1, 2, 3)])
        # float32, batched and cached against neither; another top-p moves vectors by 0.1
        torch.testing.assert_close(ours, vectors[len(prompt) :], rtol=0, atol=2e-5)
        close = torch.tensor(layout.close_ids(model.tokenizer))
        whole = torch.cat([vectors, table[close], table[torch.tensor(target.ids)]])
        logprobs = model.hf(inputs_embeds=whole[None]).logits[0].log_softmax(-1)
        first = len(vectors) + len(close) - 1
        n = len(target.ids)
        torch.testing.assert_close(
            forced.logprobs[row, :n], logprobs[first : first + n], rtol=0, atol=5e-5
        )


@torch.no_grad()
def test_smollm2_thinks_what_it_would_have_written_where_it_is_sure():
    """Its likeliest words through 7 steps state the sum, and the cue then reads it out."""
    if registry.availability("smollm2-135m").startswith(("no", "if")):
        pytest.skip(f"smollm2-135m: {registry.availability('smollm2-135m')}")
    asked = load_soft_thinking(n_steps=7, ask=" Answer with a number.")
    question = "Tom has 3 apples and gets 4 more. How many apples does Tom have?"
    base = base_run(asked, [LatentProblem("toms", question, (), "7")])
    nodes = [as_mixture(base.rollout.node(step)) for step in range(1, 8)]
    words = "".join(node.tokens(asked.tokenizer)[0][0][0] for node in nodes)
    assert words.startswith("Tom has 3 + 4")
    assert 0.5 < nodes[0].weights[0, 0] < 0.95  # a mixture, not a token
    assert float(nodes[0].entropy[0]) > 10 * float(nodes[6].entropy[0])
    assert base.answers == ("7",)
