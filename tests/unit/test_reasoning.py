"""Published reasoning models: presets, and the layouts of their templates on tiny models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from interp import load
from interp.errors import ModelError
from interp.models import weights
from interp.models.identity import model_identity
from interp.models.reasoning import LAYOUTS, REASONING, writing
from interp.models.registry import KNOWN, availability
from interp.models.tiny import build, tokenizer
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain

TINY_OF = {"r1": "tiny-llama", "qwen3": "tiny-qwen3"}
PROMPTS = {
    "r1": "<bos><\uff5cUser\uff5c>How many?<\uff5cAssistant\uff5c><think>\n",
    "qwen3": "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
}
THOUGHT = "\nFirst 5 + 3 = 8. Maybe \\boxed{8}? Then 8 + 1 = 9.\n"
OUTPUT = {
    "r1": THOUGHT + "</think>\n\nSo it is **9**. The answer is \\boxed{9}.",
    "qwen3": "<think>" + THOUGHT + "</think>\n\nSo it is **9**. The answer is \\boxed{9}.",
}


def subject(layout: str):
    """A tiny random model of the family, with the turn layout of its template."""
    tok = tokenizer()
    tok.chat_template = LAYOUTS[layout]
    return load(build(TINY_OF[layout]), tokenizer=tok)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_prompt_ends_as_the_family_does(layout):
    prompt = subject(layout).chat("How many?")
    assert prompt == PROMPTS[layout]
    opens = {REASONING[name].opens for name in REASONING if name.startswith(layout)}
    assert opens == {prompt.rstrip().endswith("<think>")}


def test_qwen3_without_thinking_closes_an_empty_block():
    tok = subject("qwen3").tokenizer
    turn = [{"role": "user", "content": "How many?"}]
    text = tok.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert text == PROMPTS["qwen3"] + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("think", ["open", "close"])
def test_the_chain_is_the_thought_and_nothing_else(layout, think):
    """One opening tag stands before the chain, whoever wrote it; the answer block is not in it."""
    model, rules = subject(layout), Rules(think=think)
    chain = prepare(model, Problem("p", "How many?", OUTPUT[layout]), rules)
    assert (chain.text, chain.answer, chain.answer_source) == (THOUGHT, "9", "written")
    assert chain.prompt == PROMPTS["r1"] if layout == "r1" else PROMPTS["qwen3"] + "<think>"
    assert not chain.truncated
    result = score_chain(model, chain, rules)
    assert len(result.steps) == 3
    texts = [model.tokenizer.decode(each.prompt_ids) for each in result.audit]
    assert {text.count("<think>") for text in texts} == {1}
    assert {text.count("</think>") for text in texts} == {int(think == "close")}
    assert not any("**9**" in text for text in texts)
    assert all(text.endswith(rules.cue) for text in texts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_thought_that_never_ends_is_marked_as_cut_off(layout, monkeypatch):
    model = subject(layout)
    output = OUTPUT[layout].partition("</think>")[0]
    asked: list[dict] = []

    def generate(prompt, **settings):
        asked.append(settings)
        forced = "9} and" if "boxed" in prompt else output
        return SimpleNamespace(texts=(forced,), finished=(False,))

    monkeypatch.setattr(model, "generate", generate)
    chain = prepare(model, Problem("p", "How many?"), Rules(), temperature=0.6, top_p=0.95, seed=4)
    assert (chain.truncated, chain.answer, chain.answer_source) == (True, "9", "forced")
    assert asked[0] == {"max_new_tokens": 256, "seed": 4, "temperature": 0.6, "top_p": 0.95}


@pytest.mark.parametrize("name", REASONING)
def test_a_short_name_loads_the_published_weights_in_their_type(name, monkeypatch):
    asked: list[tuple] = []
    found = (build("tiny-gpt2"), None, "tiny")
    monkeypatch.setattr(weights, "_pretrained", lambda *given: asked.append(given) or found)
    weights.find(name, dtype=None, device="cpu", options={"device_map": "auto"})
    weights.find(name, dtype=torch.float32, device="cpu", options={})
    about = REASONING[name]
    assert asked == [
        (about.hub, name, torch.bfloat16, "cpu", {"device_map": "auto"}),
        (about.hub, name, torch.float32, "cpu", {}),
    ]
    assert KNOWN[name].kind == "hub"
    assert about.hub in availability(name)
    assert writing(name) == (0.6, 0.95, 8192)


def test_offline_a_model_that_is_not_cached_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as error:
        model_identity("qwen3-8b")
    assert "Qwen/Qwen3-8B" in str(error.value)


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(ModelError, match=r"Did you mean 'qwen3-1.7b'\?$"):
        load("qwen3-1.7")
