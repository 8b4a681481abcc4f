"""Plain Hugging Face as the judge: vectors placed by hand, one uncached pass for each side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from interp.latent.calibration import calibrate
from interp.latent.influence import influence
from interp.latent.lens import gradient_norms
from tests.latent_cases import LAYOUT, OTHERS, PROBLEMS, calibration, random_subject, tokenizer


@pytest.fixture(autouse=True, scope="module")
def short_answers() -> Iterator[None]:
    """Random models never end a text, and none is read here beyond a few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.latent.hf.MAX_NEW_TOKENS", 3)
        yield


def ids_of(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False).input_ids


def vectors_of(hf, text: str) -> torch.Tensor:
    return hf.get_input_embeddings()(torch.tensor(ids_of(text)))


def next_latent(hf, fed: torch.Tensor) -> torch.Tensor:
    """The output after the final norm at the last of these inputs."""
    return hf(inputs_embeds=fed[None], output_hidden_states=True).hidden_states[-1][0, -1]


def read_out(hf, question: str, latents: list[torch.Tensor], answer: str) -> torch.Tensor:
    """Log-probabilities at the answer and the end of text, in one pass over everything."""
    target = [*ids_of(answer), tokenizer().eos_token_id]
    tail = torch.tensor([*ids_of("<end>"), *target[:-1]])
    parts = [vectors_of(hf, f"{question}<start>"), *[v[None] for v in latents]]
    fed = torch.cat([*parts, hf.get_input_embeddings()(tail)])
    logits = hf(inputs_embeds=fed[None]).logits[0, -len(target) :]
    return torch.log_softmax(logits, -1)


def rolled(
    hf, question: str, n: int, t: int = 0, new: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The first n latents, the t-th of them replaced; each from a pass over all before it."""
    latents: list[torch.Tensor] = []
    for step in range(1, n + 1):
        fed = torch.cat([vectors_of(hf, f"{question}<start>"), *[v[None] for v in latents]])
        latents.append(new if step == t and new is not None else next_latent(hf, fed))
    return latents


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        ("tiny-gpt2", torch.float32, 1e-5),
        ("tiny-gpt2", torch.float64, 1e-12),
        ("tiny-llama", torch.float64, 1e-12),
    ],
)
def test_w_is_that_of_plain_passes_without_a_cache(architecture, dtype, tolerance):
    subject, bank = (
        random_subject("coconut", architecture, dtype),
        calibration("coconut", architecture, dtype),
    )
    hf, problems = subject.hf, PROBLEMS[:2]
    found = influence(subject, problems, bank, operators=("zero", "resample"))
    latents = {p.id: rolled(hf, p.question, 4) for p in OTHERS}
    texts = {p.id: p for p in problems}
    checked = 0
    for row in found.rows:
        if row["operator"] == "identity":
            continue
        problem, t, s = texts[row["id"]], row["t"], row["s"]
        new = torch.zeros_like(latents[OTHERS[0].id][0])
        new = latents[row["donor"]][t - 1] if row["operator"] == "resample" else new
        clean = read_out(hf, problem.question, rolled(hf, problem.question, s), problem.answer)
        other = read_out(
            hf, problem.question, rolled(hf, problem.question, s, t, new), problem.answer
        )
        kl = (clean.exp() * (clean - other)).sum(-1)
        assert row["kl"] == pytest.approx(float(kl.mean()), abs=tolerance)
        assert row["kl_answer"] == pytest.approx(float(kl[0]), abs=tolerance)
        token = ids_of(problem.answer)[0]
        assert row["clean_logprob"] == pytest.approx(float(clean[0, token]), abs=10 * tolerance)
        assert row["dlogp_answer"] == pytest.approx(
            float(clean[0, token] - other[0, token]), abs=10 * tolerance
        )
        checked += row["kl"] > 10 * tolerance
    assert checked > 20  # the numbers compared are not all about zero


def test_gradients_are_those_of_a_small_push():
    """Finite differences of plain passes, in float64: the error of a central one is its square."""
    subject = random_subject(dtype=torch.float64, n_steps=3)
    calibrate(subject, OTHERS)
    hf, problem, size = subject.hf, PROBLEMS[0], 1e-5
    assert LAYOUT.target == "{answer}"
    norms = {row["t"]: row["x"] for row in gradient_norms(subject, [problem])}
    token = ids_of(problem.answer)[0]
    with torch.no_grad():
        for t in (1, 3):
            own = rolled(hf, problem.question, 3)[t - 1]
            slopes = []
            for i in range(len(own)):
                push = torch.zeros_like(own)
                push[i] = size
                up, down = (
                    read_out(
                        hf,
                        problem.question,
                        rolled(hf, problem.question, 3, t, own + sign * push),
                        problem.answer,
                    )[0, token]
                    for sign in (1, -1)
                )
                slopes.append(float(up - down) / (2 * size))
            assert norms[t] == pytest.approx(torch.tensor(slopes).norm().item(), rel=1e-5)
