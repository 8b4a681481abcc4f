"""Influence of step t on what can be read out after step s: W[t, s].

do(h_t := v), continue to step s, close, force the target: the effect is KL(clean || intervened),
where the clean side has consumed exactly s steps too. So W[t, s] = 0 for s < t, W[t, t] is the
read-out of the new vector itself, W[t, T] the effect on the answer, and the identity is exactly 0.

Cost of a batch: T clean steps once; then for each t the steps t..T, each closed and forced once for
all operators, seeds and problems together. `exact=True` shares nothing: a full rollout from the
prompt for each problem, operator, seed, t and s.

Source: Li et al. 2026, arXiv:2602.08783. Its released code compares sides that have consumed
different numbers of steps; see `released`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interp.data.latent_problems import LatentProblem
from interp.latent.calibration import Calibration
from interp.latent.effects import in_chunks
from interp.latent.influence_naive import Spent, naive_rows, spending
from interp.latent.influence_rows import (
    OPERATORS,
    Job,
    Row,
    finished,
    kept_rows,
    plan,
    rows_of,
    settings,
    targets,
    usable_problems,
)
from interp.latent.interventions import ROWS, Edge, base_run, readings
from interp.latent.operators import Operator
from interp.latent.subject import Subject


@dataclass(frozen=True, eq=False)
class Influence:
    """Effects of all edits, a row for each problem, t, s, operator and seed."""

    rows: list[Row]
    """`kl`, `kl_answer`, `dlogp_sum`, `dlogp_answer` as in `effects.Effects`, None where infinite;
    `clean_logprob` is the clean log-probability of the forced answer, `clean_correct` whether it is
    the most probable one; `change` the norm of the edit; `donor` the id of the problem that gave.
    """
    skipped: list[Row]
    """Problems that could not be run: `id`, `reason`."""
    silent: list[Row]
    """Operators that changed nothing at a step, so that a score would be one of no edit:
    `operator`, `t`, `reason`."""
    spent: Spent | None
    """None for a subject that is no Hugging Face model."""
    settings: dict[str, Any]

    @property
    def n_steps(self) -> int:
        """T."""
        return int(self.settings["n_steps"])

    def null(self) -> float | None:
        """The largest effect of the identity over all rows, in nats: 0.0, or something is broken.

        None where one was infinite.
        """
        worst = 0.0
        for row in self.rows:
            if row["operator"] == "identity":
                for name in ("kl", "kl_answer", "dlogp_sum", "dlogp_answer"):
                    value = row[name]
                    if not isinstance(value, int | float):
                        return None
                    worst = max(worst, abs(value))
        return worst


@torch.no_grad()
def influence(
    subject: Subject,
    problems: Sequence[LatentProblem],
    calibration: Calibration,
    *,
    operators: Sequence[str | Operator] = OPERATORS,
    edge: Edge = "input",
    seeds: Sequence[int] = (0,),
    rows: int = ROWS,
    target: str = "answer",
    slots_per_step: int = 1,
    exact: bool = False,
    whole: bool = True,
) -> Influence:
    """Measure W[t, s] for every problem, operator and t <= s, the identity beside them.

    Args:
        subject: any with steps.
        problems: what is scored; ids must differ, and none should be in the calibration set.
        calibration: where means and donors come from.
        operators: names (see `operator_of`) or operators.
        edge: what an edit reaches.
        seeds: one draw of noise and donors each; operators without a draw take the first.
        rows: most rows of a pass; fewer where memory runs out.
        target: what a read-out forces, one of `Reads`. A subject that was trained to answer after
            T steps is off its distribution before; `clean_correct` says how far.
        slots_per_step: latent steps that stand for one step of text, for the target "next_step".
        exact: share nothing, for comparison.
        whole: False where these problems are a part of more: then rows of edits that changed
            nothing are kept, for `acting` to judge when all rows are there, and a part of which no
            problem can be run has no rows.

    Raises:
        InputError: no problem can be run, two share an id, or a setting is wrong.
        EditError: an operator or edge that the subject has nothing for.
        SilentEditError: no operator changed anything at any step.
    """
    job = plan(subject, calibration, operators, edge, seeds, target, slots_per_step, whole)
    usable = usable_problems(job, problems)
    widest = max(len(job.at_step(t)) for t in range(1, subject.n_steps + 1)) + 1

    def work(part: Sequence[LatentProblem], most: int) -> list[Row]:
        return kept_rows(job, part, lambda some: _shared(job, some, most))

    def naive(some: Sequence[LatentProblem]) -> list[Row]:
        return naive_rows(job, some)

    with spending(subject) as spent:
        if exact:
            made = [row for each in usable for row in kept_rows(job, [each], naive)]
        else:
            made = in_chunks(usable, work, lanes=widest, rows=rows) if usable else []
    found, silent = finished(job, made)
    noted = settings(job, edge, seeds) | {"exact": exact, "preset": "default"}
    return Influence(found, list(job.skipped.values()), silent, spent, noted)


def _shared(job: Job, problems: Sequence[LatentProblem], most: int) -> list[Row]:
    """All rows of some problems: one clean run, and one pass for each edited step.

    A lane that changes nothing in these problems has no effect on them; whether its operator is
    silent everywhere is seen when all problems are done.
    """
    base = base_run(job.subject, problems)
    made: list[Row] = []
    for reading in readings(
        job.subject, base, job.lanes, job.calibration, rows=most, silent="mark"
    ):
        clean = job.subject.force(reading.clean, targets(job, base, reading))
        made += rows_of(job, base, reading, clean)
    return made
