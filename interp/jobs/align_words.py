"""The thirteen guards in words: one line each, as records and reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.alignment.capacity import Rival
from interp.alignment.divergence import Divergence
from interp.alignment.evidence import (
    GUARDS,
    Evidence,
    Exactness,
    HeldOut,
    NotApplicable,
    Waiver,
)
from interp.alignment.null_space import NullSpace
from interp.stats import Interval


def guard_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the guards as rows of a table, each with what it found in words."""
    told = _told(evidence)
    return [{"guard": name, "found": told[name]} for name in GUARDS]


def _told(e: Evidence) -> dict[str, str]:
    """What each guard found, in one line."""
    rival = e.rival
    lengths = {k: f"{v.bits_per_pair:.3f}" for k, v in e.description_length.items()}
    fitted = {
        name: f"{each.test.estimate:.3f} (train {each.train_iia:.3f})"
        for name, each in e.fitted_controls.items()
    }
    curve = [f"{r.family} {r.net} {r.n_pairs}: {r.test_iia:.3f}" for r in e.capacity]
    return {
        "random twin": "missing" if e.twin is None else said(e.twin.test),
        "wrong algorithm": _rival_words(rival),
        "control task": _join(fitted),
        "held-out identities": _held_words(e.held_out),
        "capacity curve": "; ".join(curve) or "missing",
        "description length": f"bits per pair: {_join(lengths)}",
        "same-site baselines": _join({k: f"{b.highest:.3f}" for k, b in e.baselines.items()}),
        "null-space test": _null_words(e.null_space),
        "divergence": _far(e.divergence),
        "inverse error and no-op": _exact_words(e.exactness),
        "seeds and selection": f"{len(e.seeds)} seeds, "
        f"{e.selection.sites_tried if e.selection else '?'} sites and sizes tried on validation",
        "runner-up": "missing"
        if e.runner_up is None
        else f"{e.runner_up.name}: {e.runner_up.validation_iia:.3f} on validation, chosen "
        f"{e.runner_up.chosen_validation_iia:.3f}",
        "positive control": "missing"
        if e.positive_control is None
        else f"{e.positive_control.name}: right {e.positive_control.right:.3f}, wrong "
        f"{e.positive_control.wrong:.3f}",
    }


def said(found: Interval) -> str:
    """An estimate with its interval, in words."""
    if found.low is None or found.high is None:
        return f"{found.estimate:.3f} (no interval)"
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


def _join(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in values.items()) or "missing"


def _rival_words(rival: Rival | Waiver | None) -> str:
    if isinstance(rival, Rival):
        return (
            f"{rival.name}: {said(rival.fit.test)}; on {rival.obeyed.n} pairs that tell them apart "
            f"{rival.obeyed.mine.estimate:.3f} follow the algorithm and "
            f"{rival.obeyed.theirs.estimate:.3f} the rival"
        )
    return "missing" if rival is None else f"waived ({rival.rival}): {rival.reason}"


def _held_words(held: HeldOut | NotApplicable | None) -> str:
    if isinstance(held, HeldOut):
        return f"{held.split}: {said(held.test)}, twins {said(held.twin)}"
    return "missing" if held is None else f"does not apply: {held.reason}"


def _null_words(found: NullSpace | NotApplicable | None) -> str:
    if isinstance(found, NullSpace):
        whole, read, rest = found.full.iia, found.read.iia, found.rest.iia
        return f"IIA whole {whole:.3f}, read part {read:.3f}, rest {rest:.3f}"
    return "missing" if found is None else f"does not apply: {found.reason}"


def _far(found: Divergence | None) -> str:
    if found is None:
        return "missing"
    return f"{found.flagged:.1%} of edited states beyond the 99th percentile of natural ones"


def _exact_words(found: Exactness | None) -> str:
    if found is None:
        return "missing"
    inverse = found.inverse
    return f"no-op {found.noop.logit:.1g}, inverse {inverse.run:.1g} (float64 {inverse.double:.1g})"
