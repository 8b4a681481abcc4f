"""Necessity and early stop against plain Hugging Face: one full run for each edit, no cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.latent.early_stop import early_stop
from interp.latent.necessity import necessity
from interp.latent.subjects import Codi
from tests.latent_cases import LAYOUT, OTHERS, PROBLEMS, calibration, random_subject, tokenizer

KINDS = [("coconut", "tiny-gpt2"), ("coconut", "tiny-llama"), ("codi", "tiny-gpt2")]


def latents(subject, question: str, do: dict[int, Tensor], steps: int) -> tuple[Tensor, Tensor]:
    """All input vectors after `steps` steps, and those of the steps, by full runs without cache."""
    ids = tokenizer()(LAYOUT.prompt.replace("{question}", question), add_special_tokens=False)
    embed = subject.hf.get_input_embeddings()
    inputs = embed(torch.tensor([ids.input_ids]))
    fed = []
    for t in range(1, steps + 1):
        out = subject.hf(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
        own = out.hidden_states[-1][:, -1]
        own = subject.projection(own) if isinstance(subject, Codi) else own
        fed.append(do.get(t, own))
        inputs = torch.cat([inputs, fed[-1][:, None]], 1)
    return inputs, torch.cat([inputs[:, :0], *(vector[:, None] for vector in fed)], 1)


def read_out(subject, inputs: Tensor, answer: str) -> tuple[Tensor, list[int]]:
    """Log-probabilities [length vocab] at the forced answer and end, and three greedy tokens."""
    tok, embed = tokenizer(), subject.hf.get_input_embeddings()
    end = torch.tensor([tok("<end>", add_special_tokens=False).input_ids])
    inputs = torch.cat([inputs, embed(end)], 1)
    target = [*tok(answer, add_special_tokens=False).input_ids, tok.eos_token_id]
    forced = torch.cat([inputs, embed(torch.tensor([target[:-1]]))], 1)
    logits = subject.hf(inputs_embeds=forced, use_cache=False).logits[0, -len(target) :]
    written: list[int] = []
    while len(written) < 3:
        best = int(subject.hf(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax())
        if best == tok.eos_token_id:
            break
        written.append(best)
        inputs = torch.cat([inputs, embed(torch.tensor([[best]]))], 1)
    return logits.log_softmax(-1), written


def text(written: list[int]) -> str | None:
    return tokenizer().decode(written, skip_special_tokens=True).strip() or None


@torch.no_grad()
@pytest.mark.parametrize(("kind", "architecture"), KINDS)
def test_every_number_of_an_edit_is_that_of_a_full_run(kind, architecture):
    subject, bank = random_subject(kind, architecture), calibration(kind, architecture)
    found = necessity(
        subject, PROBLEMS[:2], bank, ("zero", "resample"), steps=(1, 3, (1, 3)), draws=(0,)
    )
    questions = {problem.id: problem.question for problem in (*PROBLEMS, *OTHERS)}
    golds = {problem.id: problem.answer for problem in PROBLEMS}
    worth = 0
    for row in found.rows:
        steps = [int(step) for step in row["steps"].split("+")]
        do: dict[int, Tensor] = {}
        if row["operator"] == "zero":
            do = {t: torch.zeros(1, 32) for t in steps}
        if row["operator"] == "resample":
            names = row["donor"].split("+") * len(steps)
            do = {
                t: latents(subject, questions[n], {}, 4)[1][:, t - 1]
                for t, n in zip(steps, names, strict=False)
            }
        question, gold = questions[row["id"]], golds[row["id"]]
        clean, first = read_out(subject, latents(subject, question, {}, 4)[0], gold)
        edited, then = read_out(subject, latents(subject, question, do, 4)[0], gold)
        apart = (clean.exp() * (clean - edited)).sum(-1)
        close = {"rel": 2e-4, "abs": 2e-5}  # float32, another order of sums
        assert row["kl"] == pytest.approx(float(apart.mean()), **close)
        assert row["kl_answer"] == pytest.approx(float(apart[0]), **close)
        target = tokenizer()(gold, add_special_tokens=False).input_ids[0]
        assert row["clean_logprob"] == pytest.approx(float(clean[0, target]), **close)
        assert row["logprob"] == pytest.approx(float(edited[0, target]), **close)
        assert row["dlogp_answer"] == pytest.approx(float((clean - edited)[0, target]), **close)
        distance = (clean[0].exp() - edited[0].exp()).norm()
        assert row["l2_answer"] == pytest.approx(float(distance), **close)
        assert (row["clean_answer"], row["answer"]) == (text(first), text(then))
        worth += row["operator"] != "identity" and row["kl"] > 0.01
    assert worth >= 8  # the edits matter, so agreement says something


@torch.no_grad()
@pytest.mark.parametrize(("kind", "architecture"), KINDS)
def test_every_stop_is_a_run_of_so_many_steps(kind, architecture):
    subject = random_subject(kind, architecture)
    found = early_stop(subject, PROBLEMS[:2])
    by_id = {problem.id: problem for problem in PROBLEMS}
    for row in found.rows:
        problem = by_id[row["id"]]
        inputs, _ = latents(subject, problem.question, {}, row["k"])
        read, written = read_out(subject, inputs, problem.answer)
        target = tokenizer()(problem.answer, add_special_tokens=False).input_ids[0]
        assert row["logprob"] == pytest.approx(float(read[0, target]), abs=2e-5)
        assert row["answer"] == text(written)
        assert row["forced_correct"] == (int(read[0].argmax()) == target)
    assert len(found.rows) == 10
