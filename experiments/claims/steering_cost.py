"""What the whole True-Thinking method costs on one chain, fast against naive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

import interp
from experiments.chains import counted_chain
from experiments.claims.core import Claim, Measured
from experiments.claims.thinking import QUESTION, chain_tokens
from interp.directions import Direction
from interp.engine.model import Model
from interp.models.weights import weights_hash
from interp.thinking import direction
from interp.thinking.answers import same_answer
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.steer_arms import Arm, Tokens, direction_arm
from interp.thinking.steer_items import Item, make_items, read_answer
from interp.thinking.steer_layers import Trial
from interp.thinking.steer_test import steer

T = TypeVar("T")
NORM = 1.0
"""Length of the steering vectors, as a share of the residual's mean length at their layer."""


def steer_cost(goal: float = 6.0, every: int = 17) -> Measured:
    """ET and DT over all layers on one chain: shared, against one generation a layer and item."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, rules = interp.load("smollm2-135m"), Rules()
        text = counted_chain(model, n_steps=20, n_tokens=300)
        chain = prepare(model, Problem("cost", QUESTION, text), rules)
        table: list[dict[str, Any]] = []

        def whole() -> ScoredChain:
            scores = score_chain(model, chain, rules, seeds=range(5), control_seeds=0)
            return ScoredChain(chain, tuple(scores.steps))

        scored = timed(table, "score, 5 seeds", whole)
        acts = timed(
            table,
            "direction: the chain's activations",
            lambda: direction.activations(model, [scored], scored.means),
        )
        made = timed(
            table,
            "answers to perturbed steps",
            lambda: make_items(model, [scored], rules, most=None),
        )
        arm = direction_arm(model, vectors(model, acts))
        fast = timed(table, "ET and DT, every layer", lambda: steer(model, made.all, [arm], rules))
        places = [(item, layer) for item in made.all for layer in sorted(arm.edits)][::every]
        sample: list[dict[str, Any]] = []
        slow = timed(sample, "naive", lambda: [naive(model, *each, arm, rules) for each in places])
    finally:
        torch.set_num_threads(threads)
    scaled = sample[0]["CPU s"] * len(fast) / len(places)
    table.append({"part": "ET and DT, naive, scaled", "CPU s": round(scaled, 1)})
    same = sum(a == b for a, b in zip(slow, told(fast, places), strict=True))
    fast_seconds = table[3]["CPU s"]
    ratio, flips = scaled / fast_seconds, sum(trial.flipped for trial in fast)
    text = (
        f"{ratio:.1f}x less CPU time ({scaled:.0f} s against {fast_seconds:.0f} s, one thread; "
        f"{len(made.all)} items x {len(arm.edits)} layers, naive timed on {len(places)} of "
        f"{len(fast)} and scaled); {same} of {len(places)} answers and flips the same, "
        f"{flips} flips in all; {len(chain.steps)} steps, "
        f"{chain_tokens(model, chain)} tokens; score {table[0]['CPU s']:.0f} s for 5 seeds, "
        f"direction {table[1]['CPU s']:.1f} s"
    )
    holds = ratio >= goal and same == len(places) and flips > 0
    return Measured(text, holds, tuple(table))


def timed(table: list[dict[str, Any]], part: str, do: Callable[[], T]) -> T:
    """Do something, and add its CPU seconds to the table."""
    start = time.process_time()
    found = do()
    table.append({"part": part, "CPU s": round(time.process_time() - start, 2)})
    return found


def vectors(model: Model, acts: torch.Tensor) -> list[Direction]:
    """A random direction at every site, as long as a share of the residual there."""
    weights, stream = weights_hash(model.hf), torch.Generator().manual_seed(0)
    found = []
    for row, site in enumerate(direction.sites(model)):
        unit = torch.randn(model.sizes.d_model, generator=stream)
        norm = NORM * float(acts[:, row].norm(dim=-1).mean())
        found.append(Direction(unit / unit.norm(), site, "random", norm, model.name, weights))
    return found


def naive(model: Model, item: Item, layer: int, arm: Arm, rules: Rules) -> tuple[str | None, bool]:
    """One plain cached generation under the edit: the answer, and whether it flipped."""
    edit = arm.edits[layer](arm.coefficient(item.test), Tokens.of([item]))
    written = model.generate([list(item.ids)], max_new_tokens=20, edits=[edit], stop=rules.closing)
    answer = read_answer(written.texts[0], rules, item.lead)
    kept = answer is not None and same_answer(answer, item.answer)
    return answer, answer is not None and kept == (item.test == "disengage")


def told(
    trials: Sequence[Trial], places: Sequence[tuple[Item, int]]
) -> list[tuple[str | None, bool]]:
    """What the fast path said of the same items and layers."""
    found = {(trial.key, trial.layer): (trial.answer, trial.flipped) for trial in trials}
    return [found[item.key, layer] for item, layer in places]


CLAIMS = (Claim("steer-test-cost", "at least 6x, the same flips", steer_cost),)
