"""Every error that the workbench raises on purpose.

Each message is one sentence or two that name the thing, the rule, the value and the next step.
The command line prints the message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InterpError(Exception):
    """Base of all errors raised on purpose; the command line exits 2 on one."""

    exit_code = 2


class ModelError(InterpError):
    """A model cannot be found, read or supported."""


class MissingPackageError(InterpError):
    """An optional package is needed; the message names the extra to install."""


class SiteError(InterpError):
    """A site is misspelt, or the model does not have it."""


class EditError(InterpError):
    """An edit cannot be applied as written: shape, heads or arguments."""


class PositionError(InterpError):
    """A position lies outside the tokens of the prompt, or of the generation."""


class SilentEditError(InterpError):
    """An edit did not reach every token it named, so the run proves nothing."""


class InputError(InterpError):
    """Data from the user breaks a rule: a file, a row or a setting."""


class UndefinedEffectError(InterpError):
    """A ratio has no denominator: clean and corrupted agree."""


class StoreError(InterpError):
    """A folder of records is missing, damaged or belongs to other settings."""


class DiskError(StoreError):
    """The disk, or what stands in its place, refuses to read or write records."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name nearest to `word`, or nothing.

    >>> nearest("0.atn_out", ["0.attn_out", "0.mlp_out"])
    " Did you mean '0.attn_out'?"
    >>> nearest("qqq", ["0.attn_out"])
    ''
    """
    match = get_close_matches(word, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""
