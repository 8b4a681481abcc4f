"""Diagnostic: the superposition score of the released code, which drops on vectors without labels.

The released pipeline takes one deterministic trajectory, adds dropout *afterwards*, hands out
answers that were sampled apart from it, and takes as a direction the difference of the two classes'
means at the last step. Its SS = (1 - |cos|) / 2 is then computed on the very vectors that made the
direction. Each of them points along it a little, because it is in its own class's mean: SS falls at
the last step whatever the labels are. Taking the direction from other problems ends that.

Source: Li et al. 2026, arXiv:2602.08783 and its code release; here written anew as a null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import InputError
from interp.latent.noise import Samples
from interp.stats import cluster_bootstrap

DROPOUT = 0.1
"""Of the released code."""


def mean_difference_ss(
    vectors: Float[Tensor, "problem sample step d_model"],
    labels: Bool[Tensor, "problem sample"],
    *,
    held_out: bool,
) -> Float[Tensor, "problem step"]:
    """SS = mean of (1 - |cos(h_t - m_t, w)|) / 2, with m_t midway between the classes' means.

    Args:
        vectors: of every sample.
        labels: which of its problem's two answers each sample gave.
        held_out: whether w, the difference of the classes' means at the last step, is the mean of
            that of all *other* problems; else it is the problem's own, as in the released code.

    Returns:
        At most 0.5, which is a right angle.

    Raises:
        InputError: a problem whose samples have one label, or a single problem to hold out.
    """
    alone = (labels.all(1) | ~labels.any(1)).nonzero()[:, 0]
    if len(alone):
        raise InputError(
            f"All samples of problem {int(alone[0])} have one label, so it has no two means: leave "
            "it out."
        )
    if held_out and len(vectors) < 2:
        raise InputError("One problem has no others to take a direction from: give 2 or more.")
    x, y = vectors.double(), labels.double()
    first, second = _class_mean(x, y), _class_mean(x, 1 - y)
    normal = (first - second)[:, -1]
    if held_out:
        normal = (normal.sum(0) - normal) / (len(normal) - 1)
    centred = x - ((first + second) / 2)[:, None]
    cos = torch.cosine_similarity(centred, normal[:, None, None], dim=-1)
    return ((1 - cos.abs()) / 2).mean(1)


def _class_mean(x: Tensor, weight: Tensor) -> Float[Tensor, "problem step d_model"]:
    return torch.einsum("pksd,pk->psd", x, weight) / weight.sum(1)[:, None, None]


def label_free(
    trajectories: Float[Tensor, "problem step d_model"],
    n_samples: int,
    *,
    minority: float = 0.5,
    dropout: float = DROPOUT,
    seed: int = 0,
) -> tuple[Float[Tensor, "problem sample step d_model"], Bool[Tensor, "problem sample"]]:
    """Vectors and labels as the released pipeline makes them: neither knows of the other.

    Raises:
        InputError: fewer than 2 samples, or a share that leaves one class empty.
    """
    few = round(minority * n_samples)
    if not 0 < few < n_samples:
        raise InputError(
            f"A share of {minority} of {n_samples} samples is {few}: each class needs one or more."
        )
    stream = torch.Generator().manual_seed(seed)
    n, steps, d = trajectories.shape
    kept = torch.rand(n, n_samples, steps, d, generator=stream) >= dropout
    vectors = trajectories[:, None] * kept / (1 - dropout)
    order = torch.rand(n, n_samples, generator=stream).argsort(1)
    return vectors, order < few


def null_rows(
    samples: Samples, *, shares: Sequence[float] = (0.5, 0.2), seed: int = 0
) -> list[dict[str, Any]]:
    """The artefact on a subject's own vectors: SS by t without any label, in sample and held out.

    A row for each share of the second answer, split and t; `drop` is how far SS at t lies below
    its mean over the steps before the last. Marked `diagnostic`: it says nothing of the subject.

    Raises:
        InputError: fewer than 2 problems.
    """
    first = samples.vectors[:, 0]
    ids = [problem.id for problem in samples.problems]
    made = []
    for share in shares:
        vectors, labels = label_free(first, samples.n_samples, minority=share, seed=seed)
        for split in ("in_sample", "held_out"):
            ss = mean_difference_ss(vectors, labels, held_out=split == "held_out")
            early = float(ss[:, :-1].mean()) if ss.shape[1] > 1 else math.nan
            for i in range(ss.shape[1]):
                value = cluster_bootstrap(ss[:, i].numpy(), ids)
                made.append(
                    {
                        "preset": "released-code",
                        "diagnostic": True,
                        "split": split,
                        "minority": share,
                        "t": i + 1,
                        "ss": value.estimate,
                        "ss_low": value.low,
                        "ss_high": value.high,
                        "drop": None if math.isnan(early) else early - value.estimate,
                        "n_problems": len(ids),
                        "n_samples": samples.n_samples,
                    }
                )
    return made
