"""`interp latent necessity|influence|commitment`: what is built on a run of `latent rollout`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

import interp.results as results
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.jobs import latent_runs, runs
from interp.jobs.latent_runs import LatentRun, Rows
from interp.latent import commitment as modes
from interp.latent import early_stop as stops
from interp.latent import influence_rows, necessity
from interp.latent.calibration import Calibration, calibrate
from interp.latent.influence import Influence, influence
from interp.latent.interventions import Edge, check
from interp.latent.noise import SAMPLES, SIGMA, Noise
from interp.latent.nulls import permutation_test
from interp.latent.probes import ProbeSettings
from interp.latent.released import PRESET as RELEASED
from interp.latent.released import released_influence, summed_shape
from interp.latent.shape import graph, matrices, shape
from interp.latent.similarity import similarities
from interp.latent.subject import Subject

TESTED = "resample"
"""The operator whose W is tested against relabelling: its vectors are real ones."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """How a part of a run is computed."""

    run: Path
    out: Path | None = None
    model: str | None = None
    device: str = "cpu"
    rows: int = 512

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise InputError(
                f"--rows {self.rows}: a pass holds an edit and its null, so give 2 or more."
            )


@dataclass(frozen=True, kw_only=True)
class NecessitySettings:
    """What decides the numbers of `latent necessity`."""

    operators: tuple[str, ...] = necessity.OPERATORS
    edge: Edge = "input"
    draws: int = len(necessity.DRAWS)
    seeds: int = 1
    classes: int | None = None
    per_step: int = 1

    def __post_init__(self) -> None:
        _require_counts(self, "draws", "seeds", "per_step")
        if self.classes is not None and self.classes < 2:
            raise InputError(f"--classes {self.classes}: answers that can differ are 2 or more.")

    def require(self, subject: Subject) -> None:
        """Refuse operators and edges that a subject lacks, before it runs."""
        subject.require_steps()
        seeds, draws = range(self.seeds), range(self.draws)
        lanes = necessity.plan(
            subject, self.operators, edge=self.edge, steps=None, seeds=seeds, draws=draws
        )
        check(subject, lanes)


@dataclass(frozen=True, kw_only=True)
class InfluenceSettings:
    """What decides the numbers of `latent influence`."""

    operators: tuple[str, ...] = influence_rows.OPERATORS
    edge: Edge = "input"
    seeds: int = 1
    target: influence_rows.Reads = "answer"
    per_step: int = 1
    preset: Literal["default", "released-code"] = "default"
    threshold: float = 0.1
    exact: bool = False

    def __post_init__(self) -> None:
        _require_counts(self, "seeds", "per_step")
        if not 0 <= self.threshold < 1:
            raise InputError(f"--threshold {self.threshold}: a share below 1, such as 0.1.")
        if self.preset == RELEASED and (self.exact or self.target != "answer"):
            raise InputError(
                f"--preset {RELEASED} re-creates faulty read-outs of the answer, batched: leave "
                "out --exact and --target."
            )

    def require(self, subject: Subject) -> None:
        """Refuse operators and edges that a subject lacks, before it runs."""
        subject.require_steps()
        seeds = range(self.seeds)
        influence_rows.lanes_of(
            subject, self.operators, self.edge, seeds, self.target, self.per_step
        )


@dataclass(frozen=True, kw_only=True)
class CommitmentSettings:
    """What decides the numbers of `latent commitment`."""

    samples: int = SAMPLES
    sigma: float = SIGMA
    dropout: float = 0.0
    labels: modes.Labels = "two"
    shuffles: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _require_counts(self, "samples", "shuffles")
        latent_runs.require_seed(self.seed)

    @property
    def noise(self) -> Noise:
        """What is random in a rollout."""
        return Noise(sigma=self.sigma, dropout=self.dropout)

    def require(self, subject: Subject) -> None:
        """Refuse noise that cannot act on a subject, before it runs."""
        self.noise.require(subject)


@dataclass(frozen=True)
class Outcome:
    """What a part ended with."""

    store: results.Store
    marked: int


def _require_counts(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {getattr(settings, name)}: give at least 1.")


def _begun(where: Where, part: str, settings: Any) -> tuple[LatentRun, Subject, results.Store]:
    """The run, its subject, and the part's folder, which is made when the settings are sound."""
    run = latent_runs.open_run(where.run)
    subject = latent_runs.load_of(run, where.model, device=where.device)
    settings.require(subject)
    return run, subject, latent_runs.begin_part(run, part, where.out, asdict(settings))


def _lazily(run: LatentRun, subject: Subject) -> Callable[[], Calibration]:
    """Means and donors from the problems that the run kept for them, made when first asked for."""
    return cache(lambda: calibrate(subject, run.calibration, scored=run.problems))


def find_necessity(where: Where, settings: NecessitySettings, console: Console) -> Outcome:
    """Edit every step alone, stop after every step, and write records and report."""
    run, subject, store = _begun(where, "necessity", settings)
    calibration = _lazily(run, subject)

    def work(part: Sequence[LatentProblem]) -> Rows:
        edits = necessity.necessity(
            subject,
            part,
            calibration(),
            settings.operators,
            edge=settings.edge,
            seeds=range(settings.seeds),
            draws=range(settings.draws),
            rows=where.rows,
        )
        ends = stops.early_stop(subject, part, per_step=settings.per_step, rows=where.rows)
        tables = {"latent_edits": list(edits.rows), "latent_stops": list(ends.rows)}
        return {**tables, **_refused({**edits.refused, **ends.refused})}

    def tables() -> Rows:
        ends = store.rows("latent_stops")
        return {
            "necessity": necessity.summary(store.rows("latent_edits"), classes=settings.classes),
            "early_stop": stops.curve(ends),
            "settling": stops.commitment(ends),
        }

    return _made(run, store, work, tables, "necessity", console)


def find_influence(where: Where, settings: InfluenceSettings, console: Console) -> Outcome:
    """Measure W[t, s], its shape, graph, likeness over operators and tests, with the nulls."""
    name = "influence" if settings.preset == "default" else f"influence-{settings.preset}"
    run, subject, store = _begun(where, name, settings)
    calibration = _lazily(run, subject)

    def work(part: Sequence[LatentProblem]) -> Rows:
        found = _influence(subject, part, calibration(), settings, where.rows)
        return {"latent_influence": list(found.rows), "latent_marked": list(found.skipped)}

    return _made(run, store, work, lambda: influence_tables(store, settings), name, console)


def _influence(
    subject: Subject,
    part: Sequence[LatentProblem],
    calibration: Calibration,
    settings: InfluenceSettings,
    rows: int,
) -> Influence:
    common: dict[str, Any] = {
        "operators": settings.operators,
        "edge": settings.edge,
        "seeds": tuple(range(settings.seeds)),
        "rows": rows,
        "whole": False,
    }
    if settings.preset == RELEASED:
        return released_influence(subject, part, calibration, **common)
    return influence(
        subject,
        part,
        calibration,
        **common,
        target=settings.target,
        slots_per_step=settings.per_step,
        exact=settings.exact,
    )


def influence_tables(store: results.Store, settings: InfluenceSettings) -> Rows:
    """The summaries of the rows of W.

    Raises:
        InputError: no problem could be run.
        SilentEditError: no edit changed anything.
    """
    if not (found := runs.rows(store, "latent_influence")):
        marked = [f"{row['id']!r}: {row['reason']}" for row in runs.rows(store, "latent_marked")]
        why = (marked or ["with one step no t lies before an s."])[0]
        raise InputError(f"There is no effect to score; {why}")
    rows, silent = influence_rows.acting(found)
    every = matrices(rows)
    if all(row["t"] == row["s"] for row in rows):  # one step: nothing travels
        only = [row for of in every for row in of.rows()]
        return {"influence": _of_preset(settings, only), "latent_silent": silent}
    named = {each.operator: each for each in every}
    identity = named.get("identity")
    real = [each for each in every if each.operator != "identity"]
    shapes = [row for of in every for row in shape(of, identity).rows()]
    tables: Rows = {
        "influence": _of_preset(settings, [row for of in every for row in of.rows()]),
        "influence_shape": _of_preset(settings, shapes),
        "influence_graph": [r for of in real for r in graph(of, threshold=settings.threshold)],
        "influence_similarity": similarities(real) if len(real) > 1 else [],
        "latent_silent": silent,
    }
    faulty = settings.preset == RELEASED
    if TESTED in named and not faulty:
        tables["influence_test"] = permutation_test(rows, TESTED)
    if faulty:
        tables["influence_summed"] = [
            {"operator": of.operator, **(summed_shape(of) or {})} for of in every
        ]
    return tables


def _of_preset(settings: InfluenceSettings, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "preset": settings.preset} for row in rows]


def find_commitment(where: Where, settings: CommitmentSettings, console: Console) -> Outcome:
    """Roll out under noise, probe, and compare what is inside with what is said.

    Whether problems have competing answers is only seen when they have run; where too few have, no
    folder is left behind, so that another noise can be tried.
    """
    run = latent_runs.open_run(where.run)
    subject = latent_runs.load_of(run, where.model, device=where.device)
    settings.require(subject)
    work = cache(lambda: _commitment(subject, run.problems, settings, where.rows))
    folder = runs.folder_of(run.store, "commitment", where.out)
    if not (folder / "manifest.json").is_file():
        work()
    store = latent_runs.begin_part(run, "commitment", where.out, asdict(settings))
    order = latent_runs.in_cells(
        store,
        run.problems,
        lambda _: work(),
        what="commitment",
        console=console,
        chunk=len(run.problems),
    )
    runs.finish(store, order)
    runs.write_report(store)
    return Outcome(store, run.marked)


def _commitment(
    subject: Subject, problems: Sequence[LatentProblem], settings: CommitmentSettings, rows: int
) -> Rows:
    found = modes.commitment(
        subject,
        problems,
        settings.noise,
        n_samples=settings.samples,
        seed=settings.seed,
        labels=settings.labels,
        probes=ProbeSettings(shuffles=settings.shuffles),
        rows=rows,
    )
    return {
        "latent_samples": found.samples.rows,
        "latent_modes": modes.mode_rows(found),
        "commitment": modes.curve(found),
        "commitment_probes": modes.probe_rows(found),
        "commitment_steps": modes.step_rows(found),
    }


def _made(
    run: LatentRun, store: results.Store, work: Any, tables: Any, what: str, console: Console
) -> Outcome:
    """Compute cells and summaries, and write the report."""
    order = latent_runs.in_cells(
        store,
        run.problems,
        lambda part: {k: v for k, v in work(part).items() if v},
        what=what,
        console=console,
    )
    latent_runs.summarise(store, order, tables)
    runs.write_report(store)
    return Outcome(store, run.marked + len(runs.rows(store, "latent_marked")))


def _refused(reasons: dict[str, str]) -> Rows:
    rows = [{"id": key, "reason": reason} for key, reason in reasons.items()]
    return {"latent_marked": rows}
