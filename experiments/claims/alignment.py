"""Claims about causal alignment: what a fit costs beside pyvene, at the same accuracy."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import interp
from experiments.benchmarks.pyvene_alignment import (
    Fit,
    Rival,
    Work,
    batched,
    on_classifier,
    on_language_model,
    ours,
    runs,
    split,
    start,
    theirs,
)
from experiments.claims.core import Claim, Measured
from interp.alignment.language import LanguageSubject
from interp.alignment.subjects import LayerSubject
from interp.data.alignment_tasks import task_named
from interp.models import classifiers
from interp.stats import Interval, cluster_bootstrap, paired_difference

NETS = Path(__file__).parents[1] / "records" / "alignment_nets" / "equality"
SEEDS = (0, 1, 2)
LAYER = 15
"""Of SmolLM2's 30, counted from 0."""
RANK = 16
MISSING = "pyvene is not installed: pip install 'interp-workbench[bench]'"


def align_cost_mlp(goal: float = 4.0) -> Measured:
    """A rotation at layer 1 of equality networks: batches as in pyvene's tutorial, and small."""
    if not _installed():
        return Measured(MISSING, False)
    table: list[dict[str, Any]] = []
    for size, n_batches, epochs in ((6400, 60, 10), (512, 150, 8)):
        table += _seeds(
            f"equality, batch {size}",
            lambda seed, s=size, n=n_batches, e=epochs: _classifier(seed, s, n, e),
        )
    return _measured(table, goal, "equality networks, 8 dimensions a variable")


def align_cost_lm(goal: float = 5.0, *, name: str = "smollm2-135m", layer: int = LAYER) -> Measured:
    """A rank-16 rotation at the last token of a middle layer of SmolLM2."""
    if not _installed():
        return Measured(MISSING, False)
    model = interp.load(name)
    whole, accuracy = runs(model, 128, seed=0)
    train, test = split(whole, 80)

    def both(seed: int) -> tuple[Fit, Fit]:
        subject = LanguageSubject(model, f"{layer}.resid_post")
        batches, held_out = batched(train, 15, 16, seed), batched(test, 4, 16, 99)
        work = Work(subject, train, test, batches, held_out, RANK, 2, 5e-3)
        phi = start(work, subject.cut(test.inputs[:1]), seed)
        rival = on_language_model(model.hf, layer, phi, train.inputs.shape[1] - 1)
        return _both(work, rival, seed)

    about = f"{name} {layer}.resid_post, rank {RANK}; it continues {accuracy:.0%} of the runs"
    return _measured(_seeds("SmolLM2, batch 16", both), goal, about)


def _classifier(seed: int, size: int, n_batches: int, epochs: int) -> tuple[Fit, Fit]:
    task = task_named("equality")
    net = classifiers.load(NETS, classifiers.SEEDS[seed])
    train, test = (task.table("both_equality", n, seed, split=part)
                   for n, part in ((65_536, "train"), (16_384, "test")))  # fmt: skip
    layer = classifiers.site(1)
    subject = LayerSubject(net, layer)
    batches, held_out = batched(train, n_batches, size, seed), batched(test, 3, 6400, 99)
    work = Work(subject, train, test, batches, held_out, 8, epochs, 5e-3)
    rival = on_classifier(net, layer, start(work, subject.cut(test.inputs[:1]), seed))
    return _both(work, rival, seed)


def _both(work: Work, rival: Rival, seed: int) -> tuple[Fit, Fit]:
    """Take turns in who is first, as the first of a process warms it up."""
    if seed % 2:
        other = theirs(work, rival)
        return ours(work, seed), other
    own = ours(work, seed)
    return own, theirs(work, rival)


def _seeds(what: str, both: Callable[[int], tuple[Fit, Fit]]) -> list[dict[str, Any]]:
    """Fit with both for each seed, on one thread."""
    rows = []
    with one_thread():
        for seed in SEEDS:
            own, other = both(seed)
            rows.append(
                {
                    "work": what,
                    "seed": seed,
                    "ours CPU s": round(own.seconds, 2),
                    "pyvene CPU s": round(other.seconds, 2),
                    "ratio": round(other.seconds / own.seconds, 2),
                    "ours IIA": round(own.iia, 4),
                    "pyvene IIA": round(other.iia, 4),
                }
            )
    return rows


def _measured(table: Sequence[dict[str, Any]], goal: float, about: str) -> Measured:
    """Read the rows: in each kind of work the median ratio, and whether accuracies agree."""
    kinds = list(dict.fromkeys(row["work"] for row in table))
    texts, holds = [], True
    for kind in kinds:
        rows = [row for row in table if row["work"] == kind]
        ratio = statistics.median(row["ratio"] for row in rows)
        own, other = ([row[f"{name} IIA"] for row in rows] for name in ("ours", "pyvene"))
        agree = same_accuracy(own, other)
        holds = holds and ratio >= goal and agree
        texts.append(
            f"{kind}: {ratio:.1f}x less CPU time (IIA {_shown(own)} against {_shown(other)}, "
            f"{'the same' if agree else 'NOT the same'} within the seeds)"
        )
    return Measured(f"{'; '.join(texts)}; {about}; {len(SEEDS)} seeds", holds, tuple(table))


def same_accuracy(ours: Sequence[float], theirs: Sequence[float], *, margin: float = 0.01) -> bool:
    """Whether ours is not below theirs: by a seed-paired interval, or by no more than a margin."""
    gap = paired_difference(ours, theirs, range(len(ours)))
    return gap.estimate >= -margin or (gap.high is not None and gap.high >= 0)


def _shown(values: Sequence[float]) -> str:
    found: Interval = cluster_bootstrap(values, range(len(values)))
    return f"{found.estimate:.3f} [{found.low or 0:.3f}, {found.high or 0:.3f}]"


def _installed() -> bool:
    return importlib.util.find_spec("pyvene") is not None


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


CLAIMS = (
    Claim("align-cost-mlp", "at least 4x less CPU time than pyvene, the same IIA", align_cost_mlp),
    Claim("align-cost-lm", "at least 5x less CPU time than pyvene, the same IIA", align_cost_lm),
)
