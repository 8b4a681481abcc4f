"""The training passes against plain Hugging Face, and against the calls that score a subject."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from interp.data.cycle_hop import CycleHop
from interp.latent.accuracy import accuracy
from interp.latent.interventions import base_run, lane, readings
from interp.latent.operators import named
from interp.latent.saved import load_subject, save_subject
from interp.latent.subject import roll_out
from interp.latent.training import Cycles, Recipe, train
from interp.latent.training.build import untrained
from interp.latent.training.losses import (
    after_latents,
    in_text,
    latent_pass,
    nll,
    student_read,
    teacher_read,
    teacher_row,
    text_pass,
)
from interp.latent.training.presets import CYCLE, CYCLE_CODI
from interp.latent.training.recipe import ALL
from tests.latent_cases import PROBLEMS, calibration, ragged, random_subject

KINDS = ("coconut", "codi", "pause", "no_recurrence", "no_latents")
EXACT = {"rtol": 0, "atol": 1e-10}
"""float64: rounding leaves 1e-14; a wrong slot, position or mask changes the first digits."""


def plain_inputs(subject, problem, latents):
    """Prompt and slots as input vectors, each slot from a whole run without a cache."""
    hf = subject.hf
    ids = subject.layout.prompt_ids(subject.tokenizer, problem)
    rows = hf.get_input_embeddings()(torch.tensor([ids]))
    for _ in range(latents):
        last = hf.base_model(inputs_embeds=rows).last_hidden_state[:, -1:]
        fed = subject.projection(last) if hasattr(subject, "projection") else last
        rows = torch.cat([rows, fed], 1)
    return rows


def plain_run(subject, problem, latents, dropped):
    """The whole sequence in one run without a cache: its output, its loss, and where it ends."""
    row = list(after_latents(subject, problem, dropped).ids)
    before = plain_inputs(subject, problem, latents)
    rest = subject.hf.get_input_embeddings()(torch.tensor([row[:-1]]))
    out = subject.hf(inputs_embeds=torch.cat([before, rest], 1), output_hidden_states=True)
    return out, cross_entropy(out.logits[0, before.shape[1] :], torch.tensor(row[1:]))


@pytest.mark.parametrize("architecture", ["tiny-gpt2", "tiny-llama"])
@pytest.mark.parametrize(("latents", "dropped"), [(0, 0), (2, 1), (4, ALL)])
def test_loss_and_gradients_are_those_of_whole_runs(architecture, latents, dropped):
    """Each problem alone, unpadded and uncached, against the padded batch with its cache."""
    subject = random_subject("coconut", architecture, torch.float64)
    problems = ragged([0, 3, 1])
    own = nll(subject, latent_pass(subject, problems, latents=latents, dropped=dropped))
    whole = torch.stack([plain_run(subject, p, latents, dropped)[1] for p in problems]).mean()
    wide = EXACT if architecture == "tiny-gpt2" else {"rtol": 0, "atol": 1e-5}  # float32 inside
    torch.testing.assert_close(own, whole, **wide)
    weights = list(subject.hf.parameters())
    for a, b in zip(*(torch.autograd.grad(x, weights) for x in (own, whole)), strict=True):
        torch.testing.assert_close(a, b, **wide)
        assert bool(b.abs().max() > 1e-3) or b.ndim == 1


@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_what_scoring_sees(kind):
    subject = random_subject(kind)
    problems = ragged([0, 2, 5, 0])
    targets = [subject.target(p.answer) for p in problems]
    made = latent_pass(subject, problems, latents=subject.n_steps, dropped=ALL)
    with torch.no_grad():
        closed = subject.close(roll_out(subject, subject.prefill(problems)).states[-1])
        forced = subject.force(closed, targets)
        torch.testing.assert_close(subject.head(made.hidden), forced.logprobs, rtol=0, atol=1e-5)
        expected = -forced.of_targets()[forced.seen].mean()
        torch.testing.assert_close(nll(subject, made), expected, rtol=0, atol=1e-5)
        fewer = latent_pass(subject, problems, latents=max(0, subject.n_steps - 2), dropped=ALL)
        if subject.n_steps:
            assert float((subject.head(fewer.hidden) - forced.logprobs).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["coconut", "codi"])
def test_training_sees_what_the_identity_lane_of_an_intervention_reads(kind):
    subject, problems = random_subject(kind), list(PROBLEMS)
    run, lanes = base_run(subject, problems), [lane(2, named("zero"), "input")]
    (reading,) = readings(subject, run, lanes, calibration(kind), at="end")
    targets = [subject.target(p.answer) for p in problems]
    forced = subject.force(reading.closed, targets * len(reading.lanes)).logprobs.detach()
    made = latent_pass(subject, problems, latents=subject.n_steps, dropped=ALL)
    trained = subject.head(made.hidden).detach()
    zeroed, identity = forced[: len(problems)], forced[-len(problems) :]
    torch.testing.assert_close(trained, identity, rtol=0, atol=1e-5)
    assert float((trained - zeroed).abs().max()) > 1e-2


def test_text_is_trained_on_the_next_token_from_the_first_step_on():
    subject = random_subject("coconut", dtype=torch.float64)
    problems = ragged([0, 4])
    losses = []
    for problem in problems:
        row = in_text(subject, problem)
        logits = subject.hf(torch.tensor([row.ids])).logits[0, row.first - 1 : -1]
        losses.append(cross_entropy(logits, torch.tensor(row.ids[row.first :])))
    own = nll(subject, text_pass(subject, problems))
    torch.testing.assert_close(own, torch.stack(losses).mean(), **EXACT)


@pytest.mark.parametrize("layout", [replace(CYCLE, target="= {answer}"), CYCLE_CODI])
def test_states_of_student_and_teacher_are_those_of_the_token_before_the_answer(layout):
    recipe = Recipe(kind="codi", objective="distil", layout=layout, n_latents=3)
    subject = untrained(replace(recipe, d_model=16), Cycles())
    for part in (subject.hf, subject.projection):
        part.double().eval()
    problems = ragged([0, 3])
    student, teacher = (
        student_read(subject, problems, 3),
        teacher_read(subject, problems, "{question}"),
    )
    assert student.states.shape == teacher.states.shape == (3, 2, 16)
    for i, problem in enumerate(problems):
        out, _ = plain_run(subject, problem, 3, ALL)
        states = torch.stack(out.hidden_states)[:, 0]
        torch.testing.assert_close(student.states[:, i], states[:, -2], **EXACT)  # "=", answer
        ids = teacher_row(subject, problem, "{question}").ids
        out = subject.hf(torch.tensor([ids]), output_hidden_states=True)
        states = torch.stack(out.hidden_states)[:, 0]
        assert subject.tokenizer.decode([ids[-3]]) == "="
        torch.testing.assert_close(teacher.states[:, i], states[:, -3], **EXACT)


def test_what_is_trained_solves_its_task_and_keeps_every_bit_on_disk(tmp_path):
    """One hop on a cycle of three, which is right in one of three by chance or two by parity."""
    task = CycleHop(n_nodes=3, hops=1)
    recipe = Recipe(layout=CYCLE, n_layers=1, d_model=32, n_stages=1, batch=32, learning_rate=5e-3)
    recipe = replace(recipe, updates=250, stage_updates=120, n_ctx=16)
    held_out = task.draw(60, 5)
    blank = accuracy(untrained(recipe, Cycles(task)), held_out).summary()[0]["accuracy"]
    trained = train(recipe, Cycles(task)).subject
    assert blank < 0.7 < 0.95 < accuracy(trained, held_out).summary()[0]["accuracy"]
    save_subject(trained, tmp_path)
    again = accuracy(load_subject(tmp_path), held_out).rows
    assert again == accuracy(trained, held_out).rows
