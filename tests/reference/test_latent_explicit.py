"""Chain of thought in text against plain Hugging Face: its `generate`, and one uncached pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from interp.data.cycle_hop import CycleHop
from interp.latent.calibration import calibrate
from interp.latent.explicit import Explicit
from interp.latent.influence import influence
from interp.latent.layout import Layout
from interp.latent.subject import roll_out

TASK = CycleHop(n_nodes=5, hops=3)
PROBLEMS = [*TASK.draw(3), *CycleHop(n_nodes=4, hops=2).draw(3)]  # of two lengths


def model(family: str, seed: int = 0) -> tuple[Any, Any]:
    """A tiny model with large random weights, so that it writes many tokens, and its tokenizer."""
    tok: Any = TASK.tokenizer(n_ctx=96)
    torch.manual_seed(seed)
    ends: dict[str, Any] = {"eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id}
    if family == "gpt2":
        hf: Any = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tok), n_embd=32, n_layer=2, n_head=4, n_positions=96, **ends)
        )
    else:
        sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
        hf = LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tok), max_position_embeddings=96, **sizes, **heads, **ends)
        )
    for weight in hf.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4)
    return hf.double().eval(), tok


def prompt(tok: Any, question: str) -> torch.Tensor:
    """Token ids of one prompt, a row."""
    return torch.tensor([tok(f"{question}<start>", add_special_tokens=False).input_ids])


def generated(hf: Any, tok: Any, question: str, n: int) -> list[int]:
    """What `generate` writes, greedily, to one prompt alone."""
    ids = prompt(tok, question)
    made = hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0
    )
    return made[0, ids.shape[1] :].tolist()


def ending(hf: Any, tok: Any) -> tuple[int, str]:
    """A piece that the model writes to the first problem, to make it the end of a step."""
    for token in generated(hf, tok, PROBLEMS[0].question, 12)[1:]:
        word = tok.convert_ids_to_tokens(token)
        if tok(f"a{word}", add_special_tokens=False).input_ids[1:] == [token]:
            return token, word
    raise AssertionError("nothing that the model writes is a piece of its own")


def written(subject: Explicit) -> list[list[list[int]]]:
    """Token ids of every step of every problem, read off the vectors fed."""
    rolled = roll_out(subject, subject.prefill(PROBLEMS))
    table: Any = subject.hf.get_input_embeddings().weight
    return [
        [
            torch.cdist(node.vectors[i][node.seen[i]], table).argmin(1).tolist()
            for node in (rolled.node(t) for t in range(1, subject.n_steps + 1))
        ]
        for i in range(len(PROBLEMS))
    ]


def explicit(hf: Any, tok: Any, width: int, step: str = "{step}", n_steps: int = 4) -> Explicit:
    layout = Layout("{question}<start>", "<end>", step, "{answer}", mark="")
    return Explicit(hf, tok, n_steps=n_steps, layout=layout, name="explicit", max_step_tokens=width)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steps_of_one_token_are_what_generate_writes(family: str):
    hf, tok = model(family)
    stops = {tok.eos_token_id, tok.convert_tokens_to_ids("<end>")}
    found = written(explicit(hf, tok, 1, n_steps=8))
    for problem, nodes in zip(PROBLEMS, found, strict=True):
        theirs = generated(hf, tok, problem.question, 8)
        kept = theirs[: next((i for i, t in enumerate(theirs) if t in stops), 8)]
        assert [t for node in nodes for t in node] == kept
    assert len({tuple(map(tuple, nodes)) for nodes in found}) > 3  # they do write different things


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steps_of_several_tokens_are_generates_text_cut_at_their_ends(family: str):
    hf, tok = model(family)
    last, word = ending(hf, tok)
    subject = explicit(hf, tok, 3, "{step} " + word)
    assert subject.layout.step_ids(tok, "") == [last]
    stops, shapes = {tok.eos_token_id, *subject.close_ids}, set()
    for problem, nodes in zip(PROBLEMS, written(subject), strict=True):
        theirs = generated(hf, tok, problem.question, 12)
        assert [t for node in nodes for t in node] == theirs[: sum(map(len, nodes))]
        shapes |= {len(node) for node in nodes}
        for i, node in enumerate(nodes):
            over = node[-1:] == [last] or len(node) == 3
            after = theirs[sum(map(len, nodes[: i + 1])) :][:1]
            assert last not in node[:-1]
            assert over or after == [] or after[0] in stops
    assert len(shapes) > 1


def judged(hf: Any, tok: Any, nodes: list[list[int]], question: str, answer: str) -> torch.Tensor:
    """Log-probabilities of the answer and the end of text in one uncached pass of plain text."""
    steps = [t for node in nodes for t in node]
    tail = tok(f"<end>{answer}", add_special_tokens=False).input_ids
    ids = torch.cat([prompt(tok, question), torch.tensor([[*steps, *tail]])], 1)
    return torch.log_softmax(hf(ids).logits[0, -2:], -1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_ragged_batch_with_its_cache_equals_one_plain_pass_a_problem(family: str):
    """float64: rounding leaves about 1e-13, a wrong position or mask more than 1e-3."""
    hf, tok = model(family)
    subject = explicit(hf, tok, 3, "{step} " + ending(hf, tok)[1])
    nodes = written(subject)
    with torch.no_grad():
        rolled = roll_out(subject, subject.prefill(PROBLEMS))
        for s, state in enumerate(rolled.states):
            targets = [subject.target(problem.answer) for problem in PROBLEMS]
            ours = subject.force(subject.close(state), targets).logprobs
            for i, problem in enumerate(PROBLEMS):
                theirs = judged(hf, tok, nodes[i][:s], problem.question, problem.answer)
                torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("edge", ["input", "cache"])
def test_the_identity_is_zero_and_a_batch_equals_its_problems_alone(edge: Any):
    hf, tok = model("gpt2")
    subject = explicit(hf, tok, 2, "{step} " + ending(hf, tok)[1], 2)
    bank = calibrate(subject, TASK.draw(4, seed=5), scored=PROBLEMS)
    some, names = PROBLEMS[2:4], ["gaussian_h", "resample"]
    whole = influence(subject, some, bank, operators=names, edge=edge)
    alone = [influence(subject, [p], bank, operators=names, edge=edge) for p in some]
    assert whole.null() == 0.0
    place = ("id", "operator", "t", "s", "seed")
    batch: dict[Any, Any] = {tuple(row[k] for k in place): row["kl"] for row in whole.rows}
    singles: dict[Any, Any] = {
        tuple(r[k] for k in place): r["kl"] for found in alone for r in found.rows
    }
    assert batch.keys() == singles.keys()
    assert max(abs(batch[key] - singles[key]) for key in batch) < 1e-10  # float64
    assert max(batch.values()) > 0.1


def test_an_edited_step_is_what_plain_hugging_face_makes_of_its_vectors():
    """Zero the vectors of step 1 of one token; judge by a pass over embeddings put in by hand."""
    hf, tok = model("llama")
    subject = explicit(hf, tok, 1, n_steps=1)
    problem = PROBLEMS[0]
    bank = calibrate(subject, TASK.draw(4, seed=5))
    found = influence(subject, [problem], bank, operators=["zero"])
    kl: Any
    (kl,) = [row["kl"] for row in found.rows if row["operator"] == "zero"]
    ids = prompt(tok, problem.question)
    token = generated(hf, tok, problem.question, 1)
    tail = torch.tensor([tok(f"<end>{problem.answer}", add_special_tokens=False).input_ids])
    embed = hf.get_input_embeddings()
    with torch.no_grad():
        step = embed(torch.tensor([token]))
        sides = [torch.cat([embed(ids), x, embed(tail)], 1) for x in (step, 0 * step)]
        clean, edited = (torch.log_softmax(hf(inputs_embeds=x).logits[0, -2:], -1) for x in sides)
    theirs = float((clean.exp() * (clean - edited)).sum(-1).mean())
    assert theirs > 1e-3 and abs(kl - theirs) < 1e-10
