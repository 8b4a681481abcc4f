"""The whole chain, and a whole chain but for one step: what is lost without them.

    gap            Pr(y*| full chain) - Pr(y*| empty chain): larger = the chain matters more
    filler_gap     Pr(y*| full chain) - Pr(y*| as many tokens of filler): the control, where length
                   stays and what was said goes. Near the gap: only the words count
    leave_one_out  |Pr(y*| full chain) - Pr(y*| full chain without the step)|: necessity with the
                   later steps kept, so a step that others repeat matters little.
                   Control: its null rewrite, which removes nothing
    filler_step    the same with as many tokens of filler in the step's place.
                   Control: the null rewrite again

Pr is the joint probability of the answer's tokens and the closing text. The gap is signed, in -1 to
1: a chain that talks the model out of y* has a negative one.

Sources: Lanham et al. 2023, arXiv:2307.13702 (no chain, filler tokens); removal of single steps,
arXiv:2603.22816.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.engine.model import Model
from interp.engine.tree import Spent
from interp.errors import InputError
from interp.stats import cluster_bootstrap
from interp.thinking.cells import step_texts
from interp.thinking.relatives.readout import UNREADABLE, Reader, effect, switched, wanted_steps
from interp.thinking.relatives.values import (
    ChainValue,
    Marked,
    StepEffect,
    StepEffects,
    difference,
)
from interp.thinking.rules import Rules
from interp.thinking.score import Chain


@dataclass(frozen=True)
class ChainGap:
    """What one chain changes: log-probabilities of y* (nats, joint) and greedy answers."""

    id: str
    full: float | None
    """After the full chain; None where a version could not be read."""
    empty: float | None
    """Without any chain."""
    filler: float | None
    """After as many tokens of filler."""
    n_tokens: int
    """How many tokens of filler."""
    full_answer: str | None
    empty_answer: str | None
    filler_answer: str | None
    spent: Spent

    @property
    def values(self) -> list[ChainValue]:
        """The gap, its control, and whether the greedy answer changes without the chain."""
        if self.full is None or self.empty is None or self.filler is None:
            return [ChainValue(self.id, name, None, UNREADABLE) for name in GAPS]
        changed = float(switched(self.full_answer, self.empty_answer))
        found = (difference(self.full, self.empty), difference(self.full, self.filler), changed)
        return [ChainValue(self.id, *each) for each in zip(GAPS, found, strict=True)]


GAPS = ("gap", "filler_gap", "answer_changed")


def whole_chain_gap(
    model: Model, chain: Chain, rules: Rules, *, exact: bool = False, chunk: int = 512
) -> ChainGap:
    """Read y* after the full chain, after none, and after as many tokens of filler.

    Args:
        exact: one plain forward pass a version instead of the shared token tree.
        chunk: tokens a forward pass (memory).

    Raises:
        InputError: the chain has no steps.
    """
    reader = Reader(model, chain, rules, exact=exact, chunk=chunk)
    versions = [
        reader.version(chain.text),
        reader.version(""),
        reader.filled(chain.text, 0, len(chain.text)),
    ]
    full, empty, filler = reader.read(versions, answers=versions)
    whole, none = versions[0], versions[1]
    return ChainGap(
        chain.problem.id,
        full=full.logprob if full else None,
        empty=empty.logprob if empty else None,
        filler=filler.logprob if filler else None,
        n_tokens=len(whole.prompt) - len(none.prompt) if whole and none else 0,
        full_answer=full.answer if full else None,
        empty_answer=empty.answer if empty else None,
        filler_answer=filler.answer if filler else None,
        spent=reader.spent,
    )


@dataclass(frozen=True)
class ChainMean:
    """The mean of one chain measure over many chains, with its interval over problems."""

    measure: str
    mean: float | None
    """None where no chain has a value."""
    low: float | None
    high: float | None
    level: float
    n_chains: int
    n_problems: int
    n_left_out: int
    """Chains without a value: counted, never averaged."""
    warning: str | None


def summarise(
    values: Iterable[ChainValue], *, n_boot: int = 2000, level: float = 0.95, seed: int = 0
) -> list[ChainMean]:
    """Return the mean of each measure over chains; chains of one problem are redrawn together.

    Raises:
        InputError: there is no value at all, or a setting is out of range.
    """
    by_measure: dict[str, list[ChainValue]] = {}
    for each in values:
        by_measure.setdefault(each.measure, []).append(each)
    if not by_measure:
        raise InputError(
            "There are no chain values to summarise: give those of at least one chain."
        )
    return [_mean(measure, found, n_boot, level, seed) for measure, found in by_measure.items()]


def _mean(
    measure: str, values: Sequence[ChainValue], n_boot: int, level: float, seed: int
) -> ChainMean:
    kept = [(each.id, each.value) for each in values if each.value is not None]
    left_out = len(values) - len(kept)
    if not kept:
        why = "no chain has a value"
        return ChainMean(measure, None, None, None, level, 0, 0, left_out, why)
    ids, numbers = [name for name, _ in kept], [value for _, value in kept]
    found = cluster_bootstrap(numbers, ids, n_boot=n_boot, level=level, seed=seed)
    return ChainMean(
        measure,
        found.estimate,
        found.low,
        found.high,
        level,
        n_chains=len(kept),
        n_problems=found.n_units,
        n_left_out=left_out,
        warning=found.warning,
    )


# ------------------------------------------------------------------------------- one step at a time

STEP_MEASURES = ("leave_one_out", "filler_step")


def leave_one_out(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    seed: int = 0,
    only: Iterable[int] | None = None,
    exact: bool = False,
    chunk: int = 512,
) -> StepEffects:
    """Remove each step from the full chain, and put as many tokens of filler in its place.

    Args:
        seed: draws the place of an added space in the control.
        only: the steps to measure; an effect does not depend on which others are measured.
        exact: one plain forward pass a version instead of the shared token tree.
        chunk: tokens a forward pass (memory).

    Raises:
        InputError: the chain has no steps, or a step is named that it does not have.
    """
    wanted = wanted_steps(chain, only)
    reader = Reader(model, chain, rules, exact=exact, chunk=chunk)
    text, versions = chain.text, [reader.version(chain.text)]
    for each in step_texts(chain.problem.id, chain.steps, seed, rules):
        if each.step.index in wanted:
            start, end = each.step.start, each.step.end
            null = None if each.null is None else text[:start] + each.null + text[end:]
            versions += [
                reader.version(text[:start] + text[end:]),
                reader.filled(text, start, end),
                None if null is None else reader.version(null),
            ]
    asked = [each for place, each in enumerate(versions) if place == 0 or place % 3]
    full, *rest = reader.read(versions, answers=asked)  # no answer is asked of the controls
    effects: list[StepEffect] = []
    marked: list[Marked] = []
    for place, step in enumerate(wanted):
        without, filler, null = rest[3 * place : 3 * place + 3]
        for measure, changed in zip(STEP_MEASURES, (without, filler), strict=True):
            if full is None or changed is None:
                marked.append(Marked(chain.problem.id, step, seed, measure, UNREADABLE))
            else:
                effects.append(effect(chain.problem.id, step, seed, measure, full, changed, null))
    return StepEffects(tuple(effects), tuple(marked), reader.spent)
