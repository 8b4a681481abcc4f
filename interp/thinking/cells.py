"""The four cells of every step, as text: the step and its context, each intact or perturbed.

For step i the context is what comes before it; later steps are cut off. The perturbed context C' is
fixed once for a chain and a seed: the numbers of each step are shifted, text steps are kept. The
perturbed step s' is the same text under C and C'; a step without numbers is dropped. All cells end
alike: the step without its trailing white space, then the cue.

Source: Zhao et al. 2025, arXiv:2510.24941; the choices are those of `Rules`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from interp.thinking.perturb import null_rewrite, perturb_numbers, perturb_step
from interp.thinking.rules import Rules
from interp.thinking.steps import Step, segment

CELLS = ("s1c1", "s0c1", "s1c0", "s0c0")
"""s1: step intact, s0: perturbed; c1: context intact, c0: perturbed."""
NULL_CELLS = ("n0c1", "n0c0")
"""The step rewritten without changing its meaning: the floor of the score."""
RANDOM_CELLS = ("r1c1", "r0c1", "r1c0", "r0c0")
"""A step of another problem in the step's place, intact or perturbed."""


@dataclass(frozen=True)
class CellText:
    """The chain of one cell: what stands between the prompt and the answer."""

    step: int
    seed: int
    cell: str
    text: str


@dataclass(frozen=True)
class StepTexts:
    """One step under one seed."""

    step: Step
    seed: int
    perturbed: str
    op: Literal["edit", "drop"]
    null: str | None
    other: str | None
    """The random step of another problem, where that control is asked for."""


def cut(chain: str, rules: Rules) -> list[Step]:
    """Cut a chain into steps by the rules' segmenter; joined they are the chain."""
    return segment(chain) if rules.split == "sentences" else _cut_at_dots(chain)


def _cut_at_dots(chain: str) -> list[Step]:
    """After every full stop, as the released code does; white space goes to the step before."""
    bounds, place = [0], 0
    while (dot := chain.find(".", place)) >= 0:
        place = dot + 1
        while place < len(chain) and chain[place].isspace():
            place += 1
        if chain[bounds[-1] : place].strip(" .\n\t") and chain[place:].strip(" .\n\t"):
            bounds.append(place)
    if not chain.strip():
        return []
    ends = [*bounds[1:], len(chain)]
    return [
        Step(i, start, end, chain[start:end])
        for i, (start, end) in enumerate(zip(bounds, ends, strict=True))
    ]


def step_texts(
    problem: str,
    steps: Sequence[Step],
    seed: int,
    rules: Rules,
    *,
    pool: Sequence[str] = (),
    paraphrases: Mapping[int, str] | None = None,
) -> list[StepTexts]:
    """Perturb every step of a chain under one seed; each depends on (seed, problem, step) alone."""
    found = []
    for step in steps:
        key = (seed, problem, step.index)
        changed = perturb_step(step.text, key=key, offsets=rules.offsets)
        null = (paraphrases or {}).get(step.index) or null_rewrite(step.text, key=key)
        other = pool[_draw(key, len(pool))] if pool else None
        found.append(StepTexts(step, seed, changed.text, changed.op, null, other))
    return found


def _draw(key: tuple[object, ...], n: int) -> int:
    """Draw from range(n) by a stable hash."""
    digest = hashlib.sha256(json.dumps(["random step", *key]).encode()).digest()
    return int.from_bytes(digest[:8], "big") % n


def cell_texts(
    problem: str, texts: Sequence[StepTexts], rules: Rules, *, controls: bool
) -> Iterator[CellText]:
    """Yield every cell of every step of one seed, the controls' cells included on request."""
    intact = shifted = ""
    for each in texts:
        step = each.step
        parts = {"s1": step.text, "s0": each.perturbed}
        if controls and each.null is not None:
            parts["n0"] = each.null
        if controls and each.other is not None:
            key = (each.seed, problem, step.index, "random step")
            parts["r1"] = each.other
            parts["r0"] = perturb_numbers(each.other, key=key, offsets=rules.offsets)
        for name, part in parts.items():
            for context, prefix in (("c1", intact), ("c0", shifted)):
                text = (prefix + part).rstrip() + _close(rules) + rules.cue
                yield CellText(step.index, each.seed, name + context, text)
        intact += step.text
        shifted += each.perturbed if each.op == "edit" else step.text


def _close(rules: Rules) -> str:
    return "\n" + rules.think_tags[1] if rules.think == "close" else ""


def full_text(chain: str, rules: Rules) -> str:
    """The whole chain and the cue: where the model gives its own answer."""
    return chain.rstrip() + _close(rules) + rules.cue
