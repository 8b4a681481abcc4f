"""Score SmolLM2's own chains of thought on generated word problems; the records of the figure.

    python -m experiments.tts_word_problems

writes `experiments/records/tts_word_problems` (24 problems, 2 seeds; about 15 minutes on one core).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console

from interp.data.word_problems import word_problems
from interp.engine.loading import load
from interp.jobs import runs, tts

RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Generated word problems; the model writes the chains and its own answers are scored."""

    model: str = "smollm2-135m"
    """A registry name, folder or Hugging Face id."""
    problems: int = 24
    """How many problems; at least 20, so that intervals over problems mean something."""
    seeds: int = 2
    """Draws of the perturbation."""
    seed: int = 1
    """Which problems are generated; the demonstration uses 0."""
    out: Path = RECORDS / "tts_word_problems"
    """Folder of the records."""


def run(config: Config, console: Console) -> tts.Outcome:
    """Score every problem that is not in the records yet."""
    settings = tts.Settings(seeds=config.seeds, max_new_tokens=160)
    model = load(config.model)
    store = runs.begin(
        model,
        experiment="tts_word_problems",
        out=config.out,
        settings={**asdict(settings), "rules": asdict(settings.rules)},
        data={"problems": f"word_problems({config.problems}, seed={config.seed})"},
        seeds=range(config.seeds),
    )
    rows = tts.generated_rows(word_problems(config.problems, seed=config.seed))
    return tts.run(rows, model, store, settings, memory_gib=2.0, console=console)


def main(argv: Sequence[str] | None = None) -> None:
    """Compute and store every cell."""
    console = Console()
    outcome = run(tyro.cli(Config, args=argv, description=__doc__), console)
    console.print(f"{outcome.scored} scored, {outcome.marked} marked: {outcome.store.folder}")
    sys.exit(3 if outcome.marked else 0)


if __name__ == "__main__":
    main()
