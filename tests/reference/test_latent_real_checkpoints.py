"""The published checkpoints, from local folders that environment variables name; else skipped.

| variable | what it names |
|---|---|
| `INTERP_GPT2` | a folder with GPT-2's config.json and tokenizer |
| `INTERP_CODI_GPT2` | `zen-E/CODI-gpt2` (pytorch_model.bin) |
| `INTERP_COCONUT_GPT2` | a Coconut GPT-2: a `checkpoint_N`, or a folder in another known layout |
| `INTERP_GSM8K_TEST` | the 1,319 test problems, in a form that `read_latent` reads |
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from interp.data.latent_rows import problems, read_latent
from interp.latent.layout import Layout
from interp.latent.loading import load_checkpoint
from interp.latent.loading_formats import read_checkpoint
from interp.latent.subject import Subject, roll_out

BATCH = 128
"""As in CODI's evaluation: with the official mask a row depends on its batch."""


def named(variable: str) -> Path:
    """The path in a variable; the test is skipped where it is not set."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names a local copy of a published file")
    return Path(value)


@torch.no_grad()
def share_right(subject: Subject, file: Path, max_new_tokens: int) -> float:
    """The share of problems answered rightly, in batches in the order of the file."""
    asked = problems(read_latent(file))
    right = 0
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        closed = subject.close(roll_out(subject, subject.prefill(part)).states[-1])
        for problem, text in zip(part, subject.decode(closed, max_new_tokens), strict=True):
            said = subject.read(text)
            right += said is not None and float(said) == float(Layout.plain(problem.answer))
    return right / len(asked)


def test_check_14_codi_gpt2_has_the_published_size_and_accuracy():
    """144,499,200 weights; 43.7% on GSM8k (arXiv:2502.21074, table 1), within 1.5 points."""
    folder, base, test = map(named, ("INTERP_CODI_GPT2", "INTERP_GPT2", "INTERP_GSM8K_TEST"))
    found = read_checkpoint(folder, allow_pickle=True)
    assert (found.form, found.rank, found.n_weights) == ("codi", 128, 144_499_200)
    subject = load_checkpoint(
        folder, base=base, allow_pickle=True, lora_alpha=32, official_mask=True
    )
    assert share_right(subject, test, 256) == pytest.approx(0.437, abs=0.015)


def test_check_14_a_coconut_gpt2_loads_strictly(capsys):
    """No accuracy is published for the community's checkpoints, so it is printed."""
    folder, base, test = map(named, ("INTERP_COCONUT_GPT2", "INTERP_GPT2", "INTERP_GSM8K_TEST"))
    own = folder.is_dir() and (folder / "config.json").is_file()
    subject = load_checkpoint(folder, base=None if own else base, allow_pickle=True)
    share = share_right(subject, test, 64)
    with capsys.disabled():
        print(f"\n{folder.name}: {share:.1%} of GSM8k's test problems (published: 34.1%)")
    assert share > 0.05  # a model read wrongly answers next to nothing
