"""What a command and its job are both asked for; it loads nothing, so `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from interp.errors import InputError


def require_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        InputError: it is negative.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or more.")


@dataclass(frozen=True, kw_only=True)
class SetFields:
    """How the true and the decorative steps are chosen, and the controls of their direction."""

    true_from: float = 0.9
    """Mean score from which a step is a true one."""
    decorative_to: float = 0.005
    """Mean score up to which a step is decorative."""
    lowest: float = 0.3
    """How far --true-from may fall where true steps are scarce."""
    per_problem: int = 10
    """The most steps that a problem gives to a side."""
    most: int = 200
    """The most steps on a side."""
    match: bool = True
    """Match the sets on position and on whether the step states the answer."""
    shuffled: int = 5
    """Directions of shuffled labels beside it."""
    random: int = 20
    """Random directions of equal norm beside it."""
    seed: int = 0
    """Of the sets, the shuffles and the split of the problems."""


@dataclass(frozen=True, kw_only=True)
class CompareFields:
    """Which measures are computed beside the scores, and how."""

    measures: tuple[str, ...] = ("early", "drop", "mistake", "paraphrase", "attention", "whole")
    """Which measures; regenerate and resample make the model write and take longest."""
    limit: int | None = None
    """Only the first chains of the run."""
    rollouts: int = 8
    """resample: continuations from each place."""
    max_new_tokens: int = 128
    """regenerate, resample: the longest text that is written."""
    seed: int = 0
    """Of what is drawn."""
    exact: bool = False
    """One plain forward pass a text instead of the shared token tree."""
