"""Path patching as it is defined: two plain runs of the base prompts for each edge.

Source: Goldowsky-Dill et al. 2023, arXiv:2304.05969; Wang et al. 2022, arXiv:2211.00593, appendix
B, whose four runs are the source run, the base run, and the two passes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.edits import Edit, Patch
from interp.engine.model import LogitsAt, Model, Run
from interp.engine.receipts import EditReceipt
from interp.metrics import Metric
from interp.patching.path_nodes import Edge, Receiver, Sender
from interp.patching.path_norms import Scales, frozen_norms
from interp.patching.path_record import Through
from interp.sites import Site

Acts = Mapping[str, Tensor]
"""Activations `[prompt, pos, ...]` by site."""


@dataclass(frozen=True, eq=False)
class Naive:
    """What every edge of the naive algorithm shares."""

    model: Model
    ids: Sequence[Sequence[int]]
    base: Acts
    """The base run's `attn.z` and `mlp_out` of every layer."""
    source: Acts
    """The source run at every sender's site."""
    scales: Scales
    """The base run's scale of each norm; empty where norms are not frozen."""
    through: Through
    logits: LogitsAt


@torch.no_grad()
def naive_edge(
    job: Naive, edge: Edge, metric: Metric
) -> tuple[Float[Tensor, " prompt"], tuple[EditReceipt, ...]]:
    """The metric of one edge, not to the logits, on each prompt, and the proof of pass 2."""
    edits = [_put_back(job, edge.senders, receiver) for receiver in edge.receivers]
    run = job.model.run(job.ids, edits=edits, logits=job.logits)
    return metric(run.logits, torch.arange(len(job.ids))), run.receipt.edits


def _put_back(job: Naive, senders: Sequence[Sender], receiver: Receiver) -> Edit:
    """Pass 1 for one receiver, and the edit that puts what it received into pass 2."""
    act = _first_pass(job, senders, receiver).acts[str(receiver.site)]
    return Patch(receiver.site, heads=receiver.head, positions=receiver.positions, source=act)


def _first_pass(job: Naive, senders: Sequence[Sender], receiver: Receiver) -> Run:
    edits = _frozen_and_sent(job, senders, receiver)
    capture = () if receiver.kind == "logits" else receiver.site
    with frozen_norms(job.model, job.scales):
        return job.model.run(job.ids, edits=edits, capture=capture, logits=job.logits)


@torch.no_grad()
def naive_logits(job: Naive, edge: Edge) -> Tensor:
    """The first pass of an edge to the logits: those that the metric reads."""
    return _first_pass(job, edge.senders, edge.receivers[0]).logits


def _frozen_and_sent(job: Naive, senders: Sequence[Sender], receiver: Receiver) -> list[Edit]:
    """Everything frozen but what `through` allows, then the senders.

    Attention is frozen at z: its output is a function of z alone. The receiver's own MLP runs, and
    what is recorded there is what it makes of its input.
    """
    frozen = {"direct": ("attn.z", "mlp_out"), "mlps": ("attn.z",), "all": ()}[job.through]
    own = receiver.site if receiver.kind == "mlp" else None
    sites = [Site(name, n) for n in range(job.model.sizes.n_layers) for name in frozen]
    edits: list[Edit] = [Patch(s, source=job.base[str(s)]) for s in sites if s != own]
    for each in senders:
        if each.site != own:
            act = job.source[str(each.site)]
            edits.append(Patch(each.site, heads=each.head, positions=each.positions, source=act))
    return edits
