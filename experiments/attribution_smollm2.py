"""EAP-IG on SmolLM2 and the indirect-object task: cost, top edges, real patches, faithfulness.

    python -m experiments.attribution_smollm2

Edges are scored on some prompt pairs. The largest scores are compared with really patching those
edges on the same pairs; circuits are cut by the scores and run on other pairs, beside random edges
of the same number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

import interp
from interp.data.pairs import indirect_object
from interp.engine.model import Model
from interp.metrics import LogitDiff
from interp.patching.activation import pair_tokens
from interp.patching.attribution import Along, Checked
from interp.patching.circuits import FRACTIONS, Curve, curve, verify_edges
from interp.patching.edges import EdgeScores, eap


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score every edge, verify the largest, and measure how faithful the circuits are."""

    model: str = "smollm2-135m"
    """Name of the model."""
    n_pairs: int = 4
    """Prompt pairs that edges are scored on; as many others measure faithfulness."""
    steps: int = 5
    """Gradients along the path of EAP-IG."""
    along: Along = "inputs"
    """What moves along it: inputs, activations, or none (plain EAP)."""
    k: int = 20
    """How many edges are really patched."""
    fractions: tuple[float, ...] = FRACTIONS
    """Shares of all edges at which faithfulness is measured; MIB's ten."""
    seed: int = 0
    """Of the pairs and of the random edges."""

    def __post_init__(self) -> None:
        if self.n_pairs < 1 or self.k < 2:
            raise ValueError("--n-pairs must be at least 1 and --k at least 2.")


@dataclass(frozen=True, eq=False)
class Result:
    """What the experiment found, and how many CPU seconds each part took."""

    scores: EdgeScores
    checked: Checked
    curve: Curve
    seconds: dict[str, float]


@dataclass(frozen=True)
class Task:
    """Prompts of one split and the metric that they are scored by."""

    clean: tuple[tuple[int, ...], ...]
    corrupted: tuple[tuple[int, ...], ...]
    metric: LogitDiff


def task(model: Model, n: int, *, seed: int) -> Task:
    """Tokenise some indirect-object pairs."""
    found = [pair_tokens(model, pair) for pair in indirect_object(n, seed=seed)]
    clean, corrupted, right, wrong = zip(*found, strict=True)
    return Task(tuple(map(tuple, clean)), tuple(map(tuple, corrupted)), LogitDiff(right, wrong))


def run(config: Config) -> Result:
    """Score, verify and cut circuits; prints and writes nothing."""
    model = interp.load(config.model)
    assert model.book  # found before the clock starts
    here = task(model, config.n_pairs, seed=config.seed)
    held_out = task(model, config.n_pairs, seed=config.seed + 1)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], object]) -> object:
        started = time.process_time()
        found = call()
        seconds[name] = time.process_time() - started
        return found

    pair = here.clean, here.corrupted, here.metric
    scores = timed("eap", lambda: eap(model, *pair, steps=config.steps, along=config.along))
    assert isinstance(scores, EdgeScores)
    checked = timed("verify", lambda: verify_edges(model, *pair, scores, k=config.k))
    assert isinstance(checked, Checked)
    other = held_out.clean, held_out.corrupted, held_out.metric
    drawn = timed(
        "curve",
        lambda: curve(model, *other, scores, fractions=config.fractions, seed=config.seed),
    )
    assert isinstance(drawn, Curve)
    return Result(scores, checked, drawn, seconds)


def tables(result: Result) -> Sequence[Table]:
    """Lay out the verified edges and the curve."""
    edges = Table("edge", "score", "really patched")
    checked = result.checked
    for name, score, real in zip(checked.names, checked.predicted, checked.measured, strict=True):
        edges.add_row(name, f"{score:+.3f}", f"{real:+.3f}")
    circuits = Table("share", "edges", "faithfulness", "random edges")
    found = result.curve
    rows = zip(found.fractions, found.n_edges, found.faithfulness, found.random[0], strict=True)
    for share, n, value, null in rows:
        circuits.add_row(f"{share:.1%}", str(n), f"{value:.3f}", f"{null:.3f}")
    return edges, circuits


def main() -> None:
    """Run the experiment and print what it found."""
    result = run(tyro.cli(Config))
    out = Console()
    for table in tables(result):
        out.print(table)
    found, told = result.curve, result.checked.agreement
    out.print(f"rank agreement with real patches: {'undefined' if told is None else f'{told:.2f}'}")
    out.print(f"CPR {found.cpr:.3f} (random {found.random_cpr:.3f})")
    out.print(f"CMD {found.cmd:.3f} (random {found.random_cmd:.3f})")
    out.print(", ".join(f"{name}: {s:.1f} CPU s" for name, s in result.seconds.items()))


if __name__ == "__main__":
    main()
