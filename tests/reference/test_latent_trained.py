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
    upper = np.triu_indices(subject(name).n_steps, 1)
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


@pytest.mark.parametrize("name", ["coconut", "codi"])
def test_check_11_a_donors_vector_makes_the_model_go_on_from_the_donors_node(name):
    found = interchange(subject(name), problems(name, 200, 506), bank(name), hop_on, draws=(0,))
    rows = {row["step"]: row for row in found.summary()}
    for step in (1, 2, 3):
        assert rows[step]["hit"] >= 0.75, rows[step]
        assert rows[step]["null_hit"] < 0.3


@pytest.mark.parametrize("name", ["coconut", "codi"])
def test_check_12_donors_flip_as_often_as_chance_and_rotations_less(name):
    some = problems(name, 200, 507)
    edits = necessity(subject(name), some, bank(name), ("resample", "rotate"))
    flips = {(row["operator"], row["step"]): row["flip"] for row in edits.summary(classes=8)}
    for step in (1, 2, 3):
        assert abs(flips["resample", step] - 7 / 8) <= 0.05
        assert flips["rotate_45", step] < flips["resample", step]
