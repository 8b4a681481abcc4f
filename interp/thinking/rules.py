"""The choices behind a True-Thinking Score, and the presets that bundle them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interp.errors import InputError, nearest
from interp.thinking.perturb import OFFSETS, RELEASED_OFFSETS

Target = Literal["own", "gold"]
Think = Literal["open", "close"]
Split = Literal["sentences", "dots"]


@dataclass(frozen=True)
class Rules:
    """How a chain is cut, perturbed and read out. The defaults are the preset `default`."""

    cue: str = "\nThe final answer is \\boxed{"
    """Put after the step; the answer follows it directly."""
    closing: str = "}"
    """Scored with the answer, so that 1 is not 12; may be empty."""
    offsets: tuple[int, ...] = OFFSETS
    """What a number may be shifted by."""
    split: Split = "sentences"
    """`dots` cuts after every full stop, decimals included, as the released code does."""
    target: Target = "own"
    """Which answer is scored: the model's own after its full chain, or the given gold one."""
    think: Think = "open"
    """Whether the think block is closed before the cue (models with think tags)."""
    think_tags: tuple[str, str] = ("<think>", "</think>")
    saturated: float = 0.01
    """A step is saturated where all four cells lie within this of 0, or all within it of 1."""


PRESETS: dict[str, Rules] = {
    "default": Rules(),
    "paper": Rules(cue="\nThe final result is ", closing=""),
    "released-code": Rules(
        cue="\n The final answer is \\boxed{", offsets=RELEASED_OFFSETS, split="dots"
    ),
}
"""`paper` takes the cue of Zhao et al. (arXiv:2510.24941); `released-code` the cue, the splitting
at every full stop and the offsets (+3 is never drawn) of its authors' code. All presets score
teacher-forced joint probabilities with the original white space: the released code's free-running
confidence and its changing joiners are defects, and are not reproduced."""


def preset(name: str) -> Rules:
    """Return a preset's rules.

    >>> preset("paper").closing
    ''

    Raises:
        InputError: no such preset.
    """
    if name not in PRESETS:
        raise InputError(
            f"There is no preset {name!r}; there are: {', '.join(PRESETS)}.{nearest(name, PRESETS)}"
        )
    return PRESETS[name]
