"""Answer flips by editing the direction of a mode, beside random edits just as long.

A sample that ended in one answer is run again with the same noise, with h_t edited along the
normal w of the probe that did not see its problem. The answer flip rate (AFR) is the share that
then ends in the problem's other answer. Whether a direction can be *read* and whether the model
*uses* it are two questions; this is the second.

Source: Li et al. 2026, arXiv:2602.08783, for AFR and the removal of a direction; held-out normals,
the reflection and the random twin of the same length are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, nearest
from interp.latent.commitment import Commitment
from interp.latent.effects import answers, in_chunks
from interp.latent.interventions import ROWS
from interp.latent.noise import Draws, mean_vector, noisy_states, rolled
from interp.latent.state import Node, State
from interp.latent.subject import Subject
from interp.stats import cluster_bootstrap, paired_difference

Edit = Literal["remove", "reflect"]
"""remove   h - (h . w) / (w . w) w: nothing is left along w; the paper's
reflect  h - 2 z / (w . w) w, with z the probe's log-odds of h: as far on the other side of the
         probe's border as it was on this one"""
Arm = Literal["direction", "random", "identity"]


@dataclass(frozen=True, eq=False)
class Flips:
    """What edits of single steps made of each sample."""

    rows: list[dict[str, Any]]
    """id, sample, t, edit, arm, norm of the change, answer before and after, flip (it became the
    problem's other answer) and change (it became anything else)."""
    skipped: tuple[str, ...]
    """Steps at which a fold's probe has no direction, so that its problems have no rows."""

    def summary(self) -> list[dict[str, Any]]:
        """A row for each t and edit: AFR, that of random edits, and the difference, by problem."""
        made = []
        keys = sorted({(row["t"], row["edit"]) for row in self.rows if row["arm"] == "direction"})
        for t, edit in keys:
            arms = {arm: self._arm(t, edit, arm) for arm in ("direction", "random")}
            ids = [row["id"] for row in arms["direction"]]
            flips = {arm: [float(row["flip"]) for row in rows] for arm, rows in arms.items()}
            apart = paired_difference(flips["direction"], flips["random"], ids)
            row: dict[str, Any] = {"t": t, "edit": edit, "n_problems": len(set(ids))}
            named = {
                "afr": cluster_bootstrap(flips["direction"], ids),
                "afr_random": cluster_bootstrap(flips["random"], ids),
                "difference": apart,
            }
            for name, value in named.items():
                row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
            null = [row["change"] for row in self.rows if (row["t"], row["arm"]) == (t, "identity")]
            row |= {"n_rows": len(ids), "identity_changes": sum(null)}
            made.append(row)
        return made

    def _arm(self, t: int, edit: str, arm: str) -> list[dict[str, Any]]:
        wanted = (t, edit, arm)
        return [row for row in self.rows if (row["t"], row["edit"], row["arm"]) == wanted]


def answer_flips(
    subject: Subject,
    found: Commitment,
    *,
    steps: Sequence[int] | None = None,
    edits: Sequence[str] = ("remove", "reflect"),
    seed: int = 0,
    rows: int = ROWS,
) -> Flips:
    """Edit h_t of every sample at every step, one step at a time, and see what it answers.

    The identity, and a random direction for each edit, run in passes of the same shape. Later
    steps keep the sample's own noise.

    Args:
        subject: what `found` was made with.
        found: the samples, their modes and probes.
        steps: those to edit; None is all.
        edits: see `Edit`.
        seed: of the random directions.
        rows: most rows of a pass.

    Raises:
        InputError: a step that the subject lacks, no edit, or one that does not exist.
    """
    steps = _checked(subject, found, steps, edits)
    by_id: dict[str, list[int]] = {}
    for row, name in enumerate(found.ids):
        by_id.setdefault(name, []).append(row)
    problems = [problem for problem in found.samples.problems if problem.id in by_id]
    plans = {t: _Plan.of(found, t) for t in steps}

    def work(part: Sequence[LatentProblem], rows: int) -> list[list[dict[str, Any]]]:
        states, draws = rolled(
            subject,
            part,
            found.samples.noise,
            n_samples=found.samples.n_samples,
            seed=found.samples.seed,
        )
        before = answers(subject, subject.close(states[-1]))
        mine = [row for problem in part for row in by_id[problem.id]]
        place = _places(found, part, mine)
        made = []
        for t in steps:
            for edit, arm, delta in _deltas(
                plans[t], states[t - 1], place, mine, edits, draws, seed
            ):
                after = _after(subject, states[t - 1], delta, draws)
                made += _rows_of(found, mine, place, t, edit, arm, delta, before, after)
        own = {problem.id: [row for row in made if row["id"] == problem.id] for problem in part}
        return [own[problem.id] for problem in part]

    made = in_chunks(problems, work, lanes=found.samples.n_samples, rows=rows)
    skipped = [f"step {t}: {why}" for t, plan in plans.items() if (why := plan.skipped())]
    kept = [
        row
        for several in made
        for row in several
        if plans[row["t"]].has_direction(by_id[row["id"]][0])
    ]
    return Flips(kept, tuple(skipped))


@dataclass(frozen=True, eq=False)
class _Plan:
    """Unit normal and distance from the probe's border of each row of the curves, at one step."""

    unit: Float[Tensor, "row d_model"]
    """0 where the probe found nothing."""
    distance: Float[Tensor, " row"]

    @classmethod
    def of(cls, found: Commitment, t: int) -> _Plan:
        weight = found.probes[t - 1].weight[found.fold].transpose(1, 2)  # [row class d_model]
        rows = torch.arange(len(weight))
        normal = weight[rows, found.columns[:, 0]] - weight[rows, found.columns[:, 1]]
        length = normal.norm(dim=1)
        safe = torch.where(length > 0, length, 1.0)
        return cls(normal / safe[:, None], found.logits[t - 1] / safe * (length > 0))

    def has_direction(self, row: int) -> bool:
        return bool(self.unit[row].any())

    def skipped(self) -> str:
        lost = int((~self.unit.any(1)).sum())
        return f"no direction for {lost} of {len(self.unit)} samples" if lost else ""


def _deltas(
    plan: _Plan,
    state: State,
    place: Tensor,
    mine: Sequence[int],
    edits: Sequence[str],
    draws: Draws,
    seed: int,
) -> Iterator[tuple[str, Arm, Float[Tensor, "batch d_model"]]]:
    """Each edit, its random twin and the identity, as what to add to the vectors of a pass."""
    fed = mean_vector(state.node).double()
    unit, distance = plan.unit[list(mine)], plan.distance[list(mine)]
    twins = Draws(draws.noise, draws.keys, seed).normal(fed, "twin", state.consumed + 1)
    twins = twins / twins.norm(dim=1, keepdim=True)
    for edit in edits:
        along = (fed[place] * unit).sum(1) if edit == "remove" else 2 * distance
        delta = torch.zeros_like(fed)
        delta[place] = -along[:, None] * unit
        yield edit, "direction", delta
        yield edit, "random", delta.norm(dim=1, keepdim=True) * twins
    yield "identity", "identity", torch.zeros_like(fed)


def _after(subject: Subject, state: State, delta: Tensor, draws: Draws) -> list[str | None]:
    """Answers when the step feeds its vector plus `delta`, at every place of a wide node."""
    vectors = (
        state.node.vectors + delta[:, None].to(state.node.vectors) * state.node.seen[..., None]
    )
    states = noisy_states(subject, state, draws, first=Node(vectors, state.node.seen))
    return answers(subject, subject.close(states[-1]))


def _places(found: Commitment, part: Sequence[LatentProblem], mine: Sequence[int]) -> Tensor:
    """Row of the pass for each row of the curves."""
    first = {problem.id: i * found.samples.n_samples for i, problem in enumerate(part)}
    ids, samples = found.ids, found.places[:, 1].tolist()
    return torch.tensor([first[ids[row]] + samples[row] for row in mine])


def _rows_of(
    found: Commitment,
    mine: Sequence[int],
    place: Tensor,
    t: int,
    edit: str,
    arm: Arm,
    delta: Tensor,
    before: Sequence[str | None],
    after: Sequence[str | None],
) -> list[dict[str, Any]]:
    ids, norms = found.ids, delta.norm(dim=1).tolist()
    modes = {mode.id: (mode.a, mode.b) for mode in found.modes}
    made = []
    for row, at in zip(mine, place.tolist(), strict=True):
        others = [answer for answer in modes[ids[row]] if answer != before[at]]
        made.append(
            {
                "id": ids[row],
                "sample": int(found.places[row, 1]),
                "seed": found.samples.seed,
                "t": t,
                "edit": edit,
                "arm": arm,
                "norm": norms[at],
                "answer_before": before[at],
                "answer": after[at],
                "flip": after[at] in others and after[at] is not None,
                "change": after[at] != before[at],
            }
        )
    return made


def _checked(
    subject: Subject, found: Commitment, steps: Sequence[int] | None, edits: Sequence[str]
) -> Sequence[int]:
    every = range(1, found.samples.n_steps + 1)
    for step in steps or ():
        if step not in every:
            raise InputError(
                f"{subject.name} has steps 1 to {len(every)}, and an edit is asked for step "
                f"{step}: name one of those."
            )
    if not edits:
        raise InputError(f"There is no edit to make: give one of {', '.join(get_args(Edit))}.")
    for edit in edits:
        if edit not in get_args(Edit):
            raise InputError(
                f"There is no edit {edit!r} of a mode; there are {', '.join(get_args(Edit))}."
                f"{nearest(edit, get_args(Edit))}"
            )
    return every if steps is None else steps
