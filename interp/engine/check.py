"""`check`: the identities and the parity that a model must show before its numbers are believed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.edits import Patch, Scale
from interp.engine.attention import EXPLICIT
from interp.engine.fingerprint import fingerprint
from interp.engine.identities import identities, probe_ids
from interp.engine.model import Model
from interp.errors import InterpError
from interp.models.addresses import AddressBook
from interp.sites import ATTENTION_MAPS, INSIDE_ATTENTION, Site

ALONE = EXPLICIT | {"attn.result"}
"""Components whose tap changes how attention is computed: its rounding is compared with its own."""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    error: float
    """The largest error; for logits absolute (nats), for identities relative."""
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the error is within its tolerance."""
        return self.error <= self.tolerance


def check(model: Model) -> list[Check]:
    """Measure every identity and parity that applies to a model; nothing of it is changed.

    The torch engine gives Hugging Face's own bits; the others agree to 1e-5 on tiny models and 1e-4
    on real ones in float32, and in proportion to their rounding in other types.
    """
    before = fingerprint(model.hf)
    lines = [_parity(model)]
    for identity in identities(model.hf, AddressBook.read(model.hf)):
        note = "" if identity.holds else f"refused: {', '.join(identity.refuses)}"
        lines.append(Check(identity.name, identity.error, identity.tolerance, note))
    lines = [_excused(line) for line in lines]
    lines += [_padding(model), _noop(model), _mid_is_next_pre(model), *_every_edit(model)]
    changed = float(fingerprint(model.hf) != before)
    return [*(line for line in lines if line), Check("the model is as it was", changed, 0.0)]


def _excused(line: Check) -> Check:
    """A failed identity whose sites are refused is no failure: those sites cannot be used."""
    return Check(line.name, 0.0, line.tolerance, line.note) if line.note else line


def _prompts(model: Model) -> list[list[int]]:
    """Three prompts of different lengths from fixed token ids."""
    d_vocab = model.sizes.d_vocab
    return [probe_ids(d_vocab) * 2, probe_ids(d_vocab), probe_ids(d_vocab)[:2]]


def _gap(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or bool((ours.isnan() != theirs.isnan()).any()):
        return float("inf")
    return float((ours - theirs).nan_to_num().abs().max())


def _tolerance(model: Model) -> float:
    """1e-5 in float32 on a tiny model, 1e-4 on a real one; in proportion for other types."""
    small = model.sizes.n_layers * model.sizes.d_model < 1000
    rounding = torch.finfo(model.dtype).eps / torch.finfo(torch.float32).eps
    return (1e-5 if small else 1e-4) * rounding


@torch.no_grad()
def _parity(model: Model) -> Check:
    ids = torch.tensor(_prompts(model)[:1], device=model.device)
    theirs = model.hf(ids).logits
    ours = model.run(ids).logits
    tolerance = 0.0 if model.engine == "torch" else _tolerance(model)
    return Check("logits = Hugging Face's", _gap(ours, theirs), tolerance)


def _padding(model: Model) -> Check:
    prompts = _prompts(model)
    left = model.run(prompts, padding_side="left").logits
    right = model.run(prompts, padding_side="right").logits
    error = _gap(left, right)
    for row, prompt in enumerate(prompts):
        one = model.run(prompt).logits[0]
        error = max(error, _gap(right[row, : len(one)], one))
    name = "left-padded = right-padded = one by one"
    return Check(name, error, _tolerance(model))


def _noop(model: Model) -> Check:
    """Patch sites with their own values: nothing may change, bit for bit on torch."""
    prompts = _prompts(model)
    sites = _sample(model)
    together = [site for site in sites if site.component not in ALONE]
    held = model.run(prompts, capture=together)
    error = 0.0
    for site in sites:
        run = held if site in together else model.run(prompts, capture=site)
        edit = Patch(site, source=run.acts[str(site)])
        again = model.run(prompts, edits=[edit], capture=() if run is held else site)
        error = max(error, _gap(again.logits, run.logits), again.receipt[0].change)
    tolerance = 0.0 if model.engine == "torch" else _tolerance(model)
    return Check(f"patching {len(sites)} sites with themselves", error, tolerance)


def _sample(model: Model) -> list[Site]:
    """The sites that can be patched, of the first, middle and last layer and of the whole model."""
    last = model.sizes.n_layers - 1
    layers = {None, 0, last // 2, last}
    sites = [Site.parse(site) for site in model.sites if site != "logits"]
    return [s for s in sites if s.layer in layers and s.component not in ATTENTION_MAPS]


def _mid_is_next_pre(model: Model) -> Check | None:
    """Where blocks are sequential, an edit at resid_mid must reach both the MLP and the skip.

    Both sites are patched at one token from one other run. The MLP acts on each token alone, so
    what follows from the donor's resid_mid is the donor's next resid_pre.
    """
    if "0.resid_mid" not in model.sites or model.sizes.n_layers < 2:
        return None
    prompt, error = _prompts(model)[0], 0.0
    for layer in {0, model.sizes.n_layers - 2}:
        here, after = f"{layer}.resid_mid", f"{layer + 1}.resid_pre"
        donor = model.run(prompt[::-1], capture=[here, after]).acts
        mid = model.run(prompt, edits=[Patch(here, source=donor[here], positions=2)])
        pre = model.run(prompt, edits=[Patch(after, source=donor[after], positions=2)])
        error = max(error, _gap(mid.logits, pre.logits))
    name = "patching resid_mid[l] = patching resid_pre[l+1]"
    return Check(name, error, _tolerance(model))


def _every_edit(model: Model) -> list[Check]:
    """Halve each site of some layers: this engine against the torch reference."""
    if model.engine == "torch":
        return []
    from interp.engine.torch_engine import TorchModel

    reference = TorchModel(model.hf, model.tokenizer, model.name)
    prompts, worst = _prompts(model), 0.0
    sites = _sample(model)
    for site in sites:
        edits = [Scale(site, factor=0.5, positions=1)]
        theirs = reference.run(prompts, edits=edits).logits
        worst = max(worst, _gap(model.run(prompts, edits=edits).logits, theirs))
    missing = len([s for s in reference.sites if s not in set(model.sites)])
    note = f"{missing} sites are the torch engine's alone" if missing else ""
    return [Check(f"{len(sites)} edits = the torch engine's", worst, _tolerance(model), note)]


def refusals(model: Model) -> list[str]:
    """Say which components a model lacks, and why."""
    book = model.book
    lines = [f"{name}: {reason}" for name, reason in sorted(book.refused.items())]
    try:
        model.check_sites([Site(name, 0) for name in sorted(INSIDE_ATTENTION)])
    except InterpError as error:
        lines.append(str(error))
    return lines
