"""The engagement and the disengagement test: steer one step, and see whether the answer turns.

At one layer at a time a vector is added to the residual stream at the tokens of the perturbed step
s', and nowhere else, while the prompt is read; the answer is then written greedily, unedited:

    engage      the model ignores the error in s'; + v should make it wrong
    disengage   s' makes the model wrong; - v should bring y* back

Beside the direction stand its controls: shuffled labels, random vectors of equal norm, the step
left out of the text, attention to the step scaled or masked (all heads of one layer, for the later
tokens of the prompt), and a coefficient of 0, which must flip nothing. Layers count what enters
each block from 0; the last is the final output, which no later token reads any more: there no
vector can flip anything.

Source: Zhao et al. 2025, arXiv:2510.24941, the steering tests and their baselines; coefficient 1,
prefill only, at most 20 tokens after the cue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.directions import Direction
from interp.engine.answer_sweep import Answered, answer_sweep
from interp.engine.model import Model
from interp.engine.tree import Progress
from interp.errors import InputError
from interp.thinking.answers import same_answer
from interp.thinking.rules import Rules
from interp.thinking.steer_arms import (
    N_TWINS,
    SCALES,
    Arm,
    Tokens,
    all_arms,
    no_arm,
    random_arms,
)
from interp.thinking.steer_items import MAX_NEW_TOKENS, Item, answer_ends, batches, read_answer
from interp.thinking.steer_layers import Split, Trial, choose_layer, split_problems
from interp.thinking.steer_stats import ArmResult, curve_rows, summarise


@dataclass(frozen=True, eq=False)
class SteerTest:
    """Both tests with all controls: every trial, and what they say."""

    trials: tuple[Trial, ...]
    split: Mapping[str, Split]
    """The split of each problem."""
    results: tuple[ArmResult, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the results as flat rows."""
        return [result.row() for result in self.results]

    def curves(self) -> list[dict[str, Any]]:
        """Return every layer of every arm on both splits as flat rows."""
        return curve_rows(self.results)


def steering_test(
    model: Model,
    items: Sequence[Item],
    directions: Sequence[Direction],
    rules: Rules,
    *,
    shuffled: Sequence[Sequence[Direction]] = (),
    n_random: int = N_TWINS,
    random_layers: str = "all",
    factors: tuple[float, float] = SCALES,
    seed: int = 0,
    share: float = 0.5,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> SteerTest:
    """Run the direction and every control on some items, and sum them up.

    Args:
        items: of one test or of both (`Items.all`).
        directions: one for each layer.
        shuffled: directions of shuffled labels at the lengths of the direction (`at_norms`), one
            list for each shuffle.
        n_random: how many random twins; 20 or more.
        random_layers: `all` lets each random twin choose its layer as the direction does; `chosen`
            runs the twins and the coefficient of 0 only where the direction chose, on the test
            split alone: cheap, for large models, and a weaker control.
        factors: on attention, in the engagement and the disengagement test.
        seed, share: of the split, see `split_problems`.
        exact, chunk: as in `steer`.
        progress: called with trials done and in all.

    Raises:
        InputError: items of fewer than 2 problems, an unknown value of `random_layers`, and all
            that `steer` refuses.
        ModelError, SiteError: as in `direction_arm`.
    """
    if random_layers not in ("all", "chosen"):
        raise InputError(f"random_layers={random_layers!r}: write 'all' or 'chosen'.")
    split = split_problems(items, seed, share)
    options: dict[str, Any] = {"exact": exact, "chunk": chunk}
    early = n_random if random_layers == "all" else 0
    arms = all_arms(model, directions, shuffled, n_random=early, factors=factors)
    if random_layers == "all":
        trials = steer(model, items, arms, rules, progress=progress, **options)
    else:
        twins = [*random_arms(model, directions, range(n_random)), no_arm(model, directions)]
        trials = _twins_last(model, items, arms[:-1], twins, rules, split, progress, options)
    return SteerTest(tuple(trials), split, tuple(summarise(trials, split, seed=seed)))


def _twins_last(
    model: Model,
    items: Sequence[Item],
    arms: Sequence[Arm],
    twins: Sequence[Arm],
    rules: Rules,
    split: Mapping[str, Split],
    progress: Progress | None,
    options: Mapping[str, Any],
) -> list[Trial]:
    """All arms but the twins; then the twins where the direction chose, on the test split."""
    held = [item for item in items if split[item.problem] == "test"]
    first, second = _count(items, arms, None), len(held) * len(twins)
    tell = _after(progress, 0, first + second)
    trials = steer(model, items, arms, rules, progress=tell, **options)
    for test in dict.fromkeys(item.test for item in held):
        mine = [t for t in trials if (t.test, t.arm) == (test, arms[0].name)]
        if not any(split[trial.problem] == "select" for trial in mine):
            continue  # the summary says that no layer could be chosen
        layer = choose_layer(mine, split)
        assert layer is not None
        some = [item for item in held if item.test == test]
        tell = _after(progress, len(trials), first + second)
        trials += steer(model, some, twins, rules, layers=[layer], progress=tell, **options)
    return trials


def steer(
    model: Model,
    items: Sequence[Item],
    arms: Sequence[Arm],
    rules: Rules,
    *,
    layers: Sequence[int] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    exact: bool = False,
    chunk: int = 512,
    progress: Progress | None = None,
) -> list[Trial]:
    """Run every item under every arm at every layer.

    Items of one test and of similar length go together. An item that has no text without its step
    gives no trial of `drop_step`.

    Args:
        layers: only these; by default all that an arm has.
        exact: one plain forward pass and one plain generation for each arm and layer.
        chunk: tokens a forward pass (memory).
        progress: called with trials done and in all.

    Raises:
        InputError: no item or arm, two items or arms alike, or a layer that no arm has.
        SiteError, EditError, PositionError: as in `answer_sweep`.
    """
    _check(items, arms, layers)
    total = _count(items, arms, layers)
    options = {"max_new_tokens": max_new_tokens, "exact": exact, "chunk": chunk}
    trials: list[Trial] = []
    for group in batches(items):
        tell = _after(progress, len(trials), total)
        trials += _group(model, group, arms, layers, rules, tell, options)
        if progress:
            progress(len(trials), total)
    return trials


def _group(
    model: Model,
    group: Sequence[Item],
    arms: Sequence[Arm],
    layers: Sequence[int] | None,
    rules: Rules,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> list[Trial]:
    """All arms on one group of items: one sweep, and one base run of the texts without steps."""
    places, tokens = _places(arms, layers), Tokens.of(group)
    cells = [arm.edits[at](arm.coefficient(group[0].test), tokens) for arm, at in places]
    options = {"stop": answer_ends(rules), **options}
    targets = [item.answer_ids for item in group]
    prompts = [item.ids for item in group]
    found = answer_sweep(model, prompts, targets, cells, progress=progress, **options)
    trials = [
        _trial(item, arm, layer, _under(found, cell, row), float(found.base_logprobs[row]), rules)
        for cell, (arm, layer) in enumerate(places)
        for row, item in enumerate(group)
    ]
    rows = [row for row, item in enumerate(group) if item.dropped_ids]
    texts = [arm for arm in arms if not arm.edits]
    if not (rows and texts):
        return trials
    without = [group[row].dropped_ids or () for row in rows]
    dropped = answer_sweep(model, without, [targets[row] for row in rows], **options)
    return trials + [
        _trial(group[row], arm, None, written, float(found.base_logprobs[row]), rules)
        for arm in texts
        for row, written in zip(
            rows, zip(dropped.base_texts, dropped.base_logprobs.tolist(), strict=True), strict=True
        )
    ]


def _under(found: Answered, cell: int, row: int) -> tuple[str, float]:
    """What was written under a cell after a prompt, and log Pr(y*)."""
    return found.texts[cell][row], float(found.logprobs[cell, row])


def _trial(
    item: Item,
    arm: Arm,
    layer: int | None,
    written: tuple[str, float],
    base_logprob: float,
    rules: Rules,
) -> Trial:
    text, logprob = written
    answer = read_answer(text, rules, item.lead)
    kept = answer is not None and same_answer(answer, item.answer)
    return Trial(
        problem=item.problem,
        step=item.step,
        seed=item.seed,
        test=item.test,
        arm=arm.name,
        twin=arm.twin,
        layer=layer,
        coefficient=None if layer is None else arm.coefficient(item.test),
        answer=answer,
        flipped=answer is not None and kept == (item.test == "disengage"),
        unparsable=answer is None,
        logprob=logprob,
        base_logprob=base_logprob,
    )


def _after(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress that goes on counting where others have ended."""
    return None if progress is None else lambda at, _: progress(done + at, total)


def _places(arms: Sequence[Arm], layers: Sequence[int] | None) -> list[tuple[Arm, int]]:
    """Each arm at each of its layers, or of the layers asked for."""
    wanted = None if layers is None else set(layers)
    return [(arm, at) for arm in arms for at in sorted(arm.edits) if wanted is None or at in wanted]


def _count(items: Sequence[Item], arms: Sequence[Arm], layers: Sequence[int] | None) -> int:
    """How many trials there will be."""
    droppable = sum(item.dropped_ids is not None for item in items)
    texts = sum(not arm.edits for arm in arms)
    return len(items) * len(_places(arms, layers)) + droppable * texts


def _check(items: Sequence[Item], arms: Sequence[Arm], layers: Sequence[int] | None) -> None:
    """Refuse what cannot be run or told apart, before the model runs."""
    if not items:
        raise InputError(
            "There is no item to steer: no perturbed step leaves the model an answer that can be "
            "read; score more chains, or allow another cue."
        )
    if not arms:
        raise InputError(
            "There is no arm to run: give a direction, or a baseline such as drop_step()."
        )
    _once("items", [item.key for item in items])
    _once("arms", [(arm.name, arm.twin) for arm in arms])
    there = sorted({layer for arm in arms for layer in arm.edits})
    if missing := sorted(set(layers or ()) - set(there)):
        raise InputError(
            f"There is no layer {missing[0]} in these arms: they act at "
            f"{', '.join(map(str, there)) or 'none'}, where the last of a direction is the final "
            "output."
        )


def _once(what: str, keys: Sequence[tuple]) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise InputError(f"Two {what} are both {twice[0]}: give each once, or a twin number.")
