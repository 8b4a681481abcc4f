"""Every figure that the workbench claims, as a goal and a function that measures it now.

    python -m experiments.claims [NAME ...] [--json]

prints a table (claim, goal, measured, holds) and exits 1 where a claim fails. Costs are CPU seconds
of this process on one thread, the fast path and the naive one in the same run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.claims import (
    alignment,
    costs,
    engines,
    interventions,
    latent,
    steering_cost,
    sweeps,
    thinking,
    true_thinking,
)
from experiments.claims.core import Claim, Measured
from interp.errors import InputError, nearest

PARTS = (
    engines,
    thinking,
    true_thinking,
    steering_cost,
    latent,
    alignment,
    interventions,
    costs,
    sweeps,
)
CLAIMS = {claim.name: claim for part in PARTS for claim in part.CLAIMS}
CHEAP = (
    "engines-agree", "positions", "no-leaks", "planted-circuit", "gqa",
    "tts-planted", "resume-after-kill", "thinker-auc", "thinker-ignored",
    "latent-identity-null", "latent-ragged", "latent-planted",
)  # fmt: skip
"""Claims measured in the tests too."""


@dataclass(frozen=True)
class Command:
    """Measure claims."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which claims; all by default."""
    json: bool = False
    """One JSON object a claim instead of the table."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure claims, print them, and exit 1 where one fails."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    command = tyro.cli(Command, args=argv, description=__doc__)
    console = Console()
    try:
        claims = [find(name) for name in command.names] or list(CLAIMS.values())
    except InputError as error:
        sys.stderr.write(f"claims: {error}\n")
        sys.exit(error.exit_code)
    results = []
    for claim in claims:
        if not command.json:
            console.print(f"measuring {claim.name} ...", style="dim")
        results.append((claim, claim.measure()))
        if command.json:
            print(json.dumps(as_json(*results[-1])), flush=True)
    if not command.json:
        show(results, console)
    sys.exit(0 if all(measured.holds for _, measured in results) else 1)


def find(name: str) -> Claim:
    """Return a claim by name.

    Raises:
        InputError: no such claim.
    """
    if name not in CLAIMS:
        raise InputError(f"There is no claim {name!r}.{nearest(name, CLAIMS)}")
    return CLAIMS[name]


def as_json(claim: Claim, measured: Measured) -> dict[str, Any]:
    """A claim and what was measured, as plain values."""
    return {
        "claim": claim.name,
        "goal": claim.goal,
        "measured": measured.text,
        "holds": measured.holds,
        "table": list(measured.table),
    }


def show(results: Sequence[tuple[Claim, Measured]], console: Console) -> None:
    """Print the table, and the rows of the cost claims and of failed ones."""
    table = Table("claim", "goal", "measured", "holds")
    for claim, measured in results:
        holds = "yes" if measured.holds else "NO"
        table.add_row(claim.name, claim.goal, escape(measured.text), holds)
    console.print(table)
    for claim, measured in results:
        if measured.table and ("cost" in claim.name or not measured.holds):
            detail = Table(*measured.table[0], title=claim.name)
            for row in measured.table:
                detail.add_row(*(escape(str(value)) for value in row.values()))
            console.print(detail)
