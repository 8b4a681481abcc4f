"""What the small trained reasoners must show: nulls, accuracy, interchange, sizes of effects.

They are loaded, not trained, from `experiments/records/latent`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from interp.data.cycle_hop import CycleHop
from interp.latent.accuracy import accuracy
from interp.latent.calibration import Calibration, calibrate
from interp.latent.hf import HFSubject
from interp.latent.influence import influence
from interp.latent.interchange import hop_on, interchange
from interp.latent.necessity import necessity
from interp.latent.operators import HideSlot, Operator, Resample, named
from interp.latent.released import released_influence
from interp.latent.saved import load_subject
from interp.latent.shape import matrix

TRAINED = Path(__file__).parents[2] / "experiments" / "records" / "latent"
EDGES: dict[str, Operator] = {
    "input": named("zero"),
    "recurrence": named("zero"),
    "cache": named("zero"),
    "kv": HideSlot(),
    "both": Resample("same_position"),
}
HOPS = 4


def told(name: str) -> bool:
    """CODI and its control read how many hops are asked for."""
    return name.startswith("codi")


@cache
def subject(name: str) -> HFSubject:
    return load_subject(TRAINED / name)


def problems(name: str, n: int, seed: int, hops: int = HOPS):
    return CycleHop(tells_hops=told(name)).draw(n, seed, hops)


@cache
def bank(name: str) -> Calibration:
    return calibrate(subject(name), problems(name, 60, 502))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", ["coconut", "codi"])
def test_check_1_the_identity_is_exactly_nothing(name, edge):
    some = problems(name, 12, 501)
    found = influence(subject(name), some, bank(name), operators=[EDGES[edge]], edge=edge)
    assert found.null() == 0.0
    mine = [row["kl"] for row in found.rows if row["operator"] != "identity"]
    assert max(mine) > 0.1
    edits = necessity(subject(name), some, bank(name), [EDGES[edge]], edge=edge, draws=(0,))
    nulls = [row for row in edits.rows if row["operator"] == "identity"]
    assert nulls
    assert not any(row["flip"] or row["dlogp_sum"] for row in nulls)


@pytest.mark.parametrize("name", ["coconut", "codi"])
def test_check_1_the_released_definitions_make_something_of_it(name):
    found = released_influence(
        subject(name), problems(name, 30, 503), bank(name), operators=["zero"]
    )
    null = matrix(found.rows, "identity").mean()
    real = matrix(found.rows, "zero").mean()
    upper = np.triu_indices(HOPS, 1)
    assert null[upper].min() > 0.1
    assert null[upper].sum() > 0.5 * real[upper].sum()


@pytest.mark.parametrize(
    ("name", "hops", "least"), [("coconut", 4, 0.95), ("codi", 3, 0.95), ("codi", 4, 0.85)]
)
def test_check_10_the_trained_models_solve_their_task(name, hops, least):
    found = accuracy(subject(name), problems(name, 400, 504, hops)).summary()[0]
    assert found["accuracy"] >= least - 0.01  # 400 problems


@pytest.mark.parametrize(
    ("name", "controls"),
    [
        ("coconut", ("pause", "no_recurrence", "no_latents", "no_curriculum")),
        ("codi", ("codi_no_latents",)),
    ],
)
def test_check_10_no_control_comes_within_40_points(name, controls):
    rates = {
        each: accuracy(subject(each), problems(each, 300, 505)).summary()[0]["accuracy"]
        for each in (name, *controls)
    }
    ours = rates.pop(name)
    assert all(ours - other >= 0.40 for other in rates.values()), rates


def test_check_11_a_donors_vector_makes_the_model_go_on_from_the_donors_node():
    found = interchange(
        subject("coconut"), problems("coconut", 200, 506), bank("coconut"), hop_on, draws=(0,)
    )
    rows = {row["step"]: row for row in found.summary()}
    for step in (1, 2, 3):
        assert rows[step]["hit"] >= 0.75, rows[step]
        assert rows[step]["null_hit"] < 0.3


def test_check_12_donors_flip_as_often_as_chance_and_rotations_less():
    some = problems("coconut", 200, 507)
    edits = necessity(subject("coconut"), some, bank("coconut"), ("resample", "rotate"))
    flips = {(row["operator"], row["step"]): row["flip"] for row in edits.summary(classes=8)}
    for step in (1, 2, 3):
        assert abs(flips["resample", step] - 7 / 8) <= 0.05
        assert flips["rotate_45", step] < flips["resample", step]


def one_hop_late(problem, donor, step) -> str | None:
    """Where slot t holds the node that slot t - 1 should: the answer lies a hop further on."""
    follow = dict(problem.edges)
    node = donor.path[step - 1]
    for _ in range(HOPS - step + 1):
        node = follow[node]
    return node


def test_codi_solves_the_task_with_vectors_that_run_one_hop_late():
    """Checks 11 and 12 do not hold for it: it hardly uses its first slot, and is late after it."""
    some = problems("codi", 200, 508)
    late = interchange(subject("codi"), some, bank("codi"), one_hop_late, draws=(0,)).summary()
    due = interchange(subject("codi"), some, bank("codi"), hop_on, draws=(0,)).summary()
    hits = {row["step"]: row["hit"] for row in late}
    assert all(hits[step] > 0.6 for step in (2, 3))
    assert all(row["hit"] < 0.5 for row in due)
    edits = necessity(subject("codi"), some, bank("codi"), ("resample",)).summary()
    flips = {row["step"]: row["flip"] for row in edits if row["operator"] == "resample"}
    assert flips[1] < 0.4
    assert all(abs(flips[step] - 7 / 8) <= 0.05 for step in (2, 3))
