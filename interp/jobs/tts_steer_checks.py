"""What `interp tts steer-test` adds to its trials: score bins, and self-verification steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from interp.jobs.tts_steer_trials import Job, Tables
from interp.stats import cluster_bootstrap
from interp.thinking import checks
from interp.thinking.steer_arms import direction_arm, layer_of, random_arms
from interp.thinking.steer_bins import BinDirection, ablate_bins, bin_directions
from interp.thinking.steer_layers import Split, Trial, choose_layer


def score_bins(job: Job) -> None:
    """The ablation by score bin, where there is an engagement test."""
    if not job.items.engage:
        return

    def make() -> Tables:
        about = job.settings.sets
        made = bin_directions(
            job.model,
            job.select,
            decorative_to=about.decorative_to,
            per_problem=about.per_problem,
            most=about.most,
            match=about.match,
            seed=about.seed,
        )
        made = [_at_layers(each, job.settings.layers) for each in made]
        found = ablate_bins(
            job.model, job.items.engage, made, job.rules, job.split, exact=job.settings.exact
        )
        curves = [row for each in found for row in each.curve_rows()]
        return {"steer_bins": [each.row() for each in found], "steer_bin_curves": curves}

    job.cell({"bins": "scores", **job.identity}, make)


def _at_layers(made: BinDirection, layers: Sequence[int]) -> BinDirection:
    some = [each for each in made.directions if not layers or layer_of(each.site) in layers]
    return replace(made, directions=tuple(some))


def self_verification(job: Job) -> None:
    """Self-verification: is a check used, and does the direction make it so?"""

    def make() -> Tables:
        chains, rules, exact = job.run.chains, job.rules, job.settings.exact
        given = {each.id: each.chain.problem.checks for each in chains}
        labels = {name: steps for name, steps in given.items() if steps is not None}
        segments = checks.segments(chains, labels)
        tested = checks.behaviour(job.model, chains, rules, labels=labels, exact=exact)
        items = checks.make_check_items(job.model, chains, rules, tested.tests)
        curves: list[dict[str, Any]] = []
        if items.disengage:
            twins = random_arms(job.model, job.directions, range(job.settings.sets.random))
            arms = [direction_arm(job.model, job.directions), *twins]
            arms = [checks.restoring(arm) for arm in arms]
            curves = restored_by_layer(job.steered(items.disengage, arms), job.split)
        return {
            "check_segments": [asdict(each) for each in segments],
            "check_tests": [asdict(each) for each in tested.tests],
            "check_restored": curves,
        }

    job.cell({"checks": "self-verification", **job.identity}, make)


def restored_by_layer(trials: Sequence[Trial], split: Mapping[str, Split]) -> list[dict[str, Any]]:
    """The share of the test problems' checks that a vector brings back to y*, by arm and layer.

    Twins are pooled. `chosen` marks the layer that the direction chose on the selection problems. A
    problem that the split does not have may have been fitted on, so it is none of the test's.
    """
    where: dict[str, Split] = {
        trial.problem: split.get(trial.problem, "select") for trial in trials
    }
    main = [trial for trial in trials if trial.arm == "direction"]
    free = any(where[trial.problem] == "select" for trial in main)
    chosen = choose_layer(main, where) if free else None
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        if trial.layer is not None and where[trial.problem] == "test":
            groups.setdefault((trial.arm, trial.layer), []).append(trial)
    return [_restored(*key, mine, chosen) for key, mine in sorted(groups.items())]


def _restored(arm: str, layer: int, trials: Sequence[Trial], chosen: int | None) -> dict[str, Any]:
    problems = [trial.problem for trial in trials]
    share = cluster_bootstrap([float(trial.flipped) for trial in trials], problems)
    return {
        "arm": arm,
        "layer": layer,
        "chosen": layer == chosen,
        "restored": share.estimate,
        "restored_low": share.low,
        "restored_high": share.high,
        "unparsable": sum(trial.unparsable for trial in trials) / len(trials),
        "n_items": len({trial.key for trial in trials}),
        "n_problems": len(set(problems)),
    }
