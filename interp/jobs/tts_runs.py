"""The records of `interp tts`, read back as scored chains: what every later step starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import interp.results as results
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, ModelError
from interp.jobs import runs
from interp.models.weights import weights_hash
from interp.thinking.cells import cut
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, StepScore
from interp.thinking.scored import ScoredChain
from interp.thinking.steps import Step


@dataclass(frozen=True)
class ScoredRun:
    """A finished run of `interp tts`."""

    store: results.Store
    rules: Rules
    chains: tuple[ScoredChain, ...]
    """Those that were scored, in the run's order."""
    marked: int
    """Rows that were not."""

    @property
    def identity(self) -> dict[str, object]:
        """What a later step's records depend on: the run's settings and its scored rows."""
        return runs.identity(self.store)


def open_run(folder: Path) -> ScoredRun:
    """Read a run of `interp tts`.

    Raises:
        StoreError: there are no records.
        InputError: they are of another command, or no row of theirs was scored.
    """
    store = results.Store.open(folder)
    stored = store.manifest.settings.get("rules")
    if not isinstance(stored, Mapping):
        raise InputError(
            f"{folder} holds records of {store.manifest.experiment!r}, not scores of steps: name "
            "the folder that `interp tts INPUT.jsonl --out DIR` wrote."
        )
    rules = _rules(stored)
    steps: dict[str, list[StepScore]] = {}
    for row in runs.rows(store, "steps"):
        steps.setdefault(row["id"], []).append(_score(row))
    chains = runs.rows(store, "chains")
    scored = [
        ScoredChain(_chain(row, rules, steps[row["id"]]), tuple(steps[row["id"]]))
        for row in chains
        if row["status"] == "scored" and row["id"] in steps
    ]
    if not scored:
        reasons = ", ".join(sorted({str(row.get("reason")) for row in chains})) or "no rows"
        raise InputError(
            f"{folder} holds no scored chain ({reasons[:160]}): score some with `interp tts`."
        )
    return ScoredRun(store, rules, tuple(scored), len(chains) - len(scored))


def load_model(run: ScoredRun, name: str | None, *, dtype: str | None, device: str) -> Model:
    """Load the model that a run's scores are of, by what it was loaded by unless one is given.

    Raises:
        ModelError: it cannot be found by that name, or has other weights than the scores are of.
    """
    about = run.store.manifest.model
    recorded = str(about.get("path") or about["name"])
    try:
        model = load(name or recorded, dtype=dtype or str(about["dtype"]), device=device)
    except ModelError as error:
        if name is not None:
            raise
        raise ModelError(
            f"{error} The scores in {run.store.folder} are of {recorded!r}: give its folder "
            "or id with --model."
        ) from error
    if weights_hash(model.hf) != about["weights_hash"]:
        raise ModelError(
            f"{model.name} has other weights than the model that {run.store.folder} scored: name "
            f"that one with --model, with --dtype {about['dtype']}, or score the chains again."
        )
    return model


def begin(
    run: ScoredRun, model: Model, part: str, out: Path | None, settings: Mapping[str, object]
) -> results.Store:
    """Make or resume the folder of a later step (`runs.folder_of`)."""
    return runs.begin(
        model,
        experiment=f"tts_{part.replace('-', '_')}",
        out=runs.folder_of(run.store, part, out),
        settings=settings,
        data=run.identity,
        seeds=run.store.manifest.seeds,
    )


def _rules(stored: Mapping[str, Any]) -> Rules:
    names = {field.name for field in fields(Rules)}
    if stored.keys() - names:
        raise InputError(
            f"The run's rules hold {sorted(stored.keys() - names)[0]!r}, which this version does "
            "not know: score the chains again."
        )
    tuples = {"offsets": tuple(stored["offsets"]), "think_tags": tuple(stored["think_tags"])}
    return Rules(**{**stored, **tuples})


def _score(row: Mapping[str, Any]) -> StepScore:
    known: dict[str, Any] = {each.name: row.get(each.name) for each in fields(StepScore)}
    return StepScore(**known)


def _chain(row: Mapping[str, Any], rules: Rules, scores: Sequence[StepScore]) -> Chain:
    """The chain of a row; its steps are cut as they were when it was scored."""
    text, starts = row["chain"], row.get("starts")
    if starts:
        ends = [*starts[1:], len(text)]
        bounds = enumerate(zip(starts, ends, strict=True))
        steps = [Step(i, start, end, text[start:end]) for i, (start, end) in bounds]
    else:
        steps = cut(text, rules)
    known = {step.index: (step.start, step.end) for step in steps}
    for score in scores:
        if known.get(score.step) != (score.start, score.end):
            raise InputError(
                f"Step {score.step} of {row['id']} was cut at {score.start} to {score.end}, and "
                "this version cuts the chain elsewhere: score it again."
            )
    checks = row.get("checks")
    problem = Problem(
        row["id"],
        row["question"],
        text,
        row.get("gold"),
        checks=None if checks is None else tuple(checks),
    )
    return Chain(
        problem,
        row["prompt"],
        text,
        tuple(steps),
        row["answer"],
        row["answer_source"],
        truncated=bool(row["truncated"]),
    )
