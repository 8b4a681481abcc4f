"""Receipts: what each edit did in a run, and the error when it did nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.edits import Edit


@dataclass(frozen=True)
class EditReceipt:
    """Proof of one edit: where it acted and by how much."""

    edit: Edit
    fired: int
    """In how many forward passes it acted: 1 in a run, more in a generation."""
    tokens: tuple[tuple[int, int], ...]
    """The (prompt, logical position) pairs that it reached."""
    change: float
    """L2 norm of the change over all entries, in the activation's own unit."""
    before: float
    """L2 norm of the same entries before the edit."""
    missed: tuple[tuple[int, int], ...] = ()
    """Named tokens that a generation never reached, because it ended earlier."""

    @property
    def acted(self) -> bool:
        """Whether any value changed; an edit can fire and be a no-op (a patch with itself)."""
        return self.change > 0

    def __str__(self) -> str:
        share = f" ({self.change / self.before:.1%} of {self.before:.3g})" if self.before else ""
        end = "" if self.acted else "  NO-OP: it fired and changed nothing"
        return (
            f"{self.edit}: fired {self.fired}x at {len(self.tokens)} tokens, "
            f"change {self.change:.4g}{share}{end}"
        )


@dataclass(frozen=True)
class Receipt:
    """One proof for each edit of a run, in the order in which the edits were given."""

    edits: tuple[EditReceipt, ...] = ()

    def __len__(self) -> int:
        return len(self.edits)

    def __getitem__(self, i: int) -> EditReceipt:
        return self.edits[i]

    @property
    def acted(self) -> bool:
        """Whether every edit changed something."""
        return all(edit.acted for edit in self.edits)

    def __str__(self) -> str:
        return "\n".join(str(edit) for edit in self.edits) or "no edits"


def first_few(tokens: Sequence[tuple[int, int]], n: int = 3) -> str:
    """Write (prompt, position) pairs for a message, at most n of them.

    >>> first_few([(0, 4), (1, 4)])
    'prompt 0 position 4, prompt 1 position 4'
    """
    text = ", ".join(f"prompt {row} position {pos}" for row, pos in tokens[:n])
    return text + (f" and {len(tokens) - n} more" if len(tokens) > n else "")
