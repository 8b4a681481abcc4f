"""Ablations: what stands in, by hand, and every cell as one plain run with one edit."""

from __future__ import annotations

import pytest
import torch

from interp.edits import Edit, MeanAblate, ResampleAblate, ZeroAblate
from interp.engine.sweep import At
from interp.errors import InputError, PositionError
from interp.metrics import KL, LogitDiff
from interp.patching.ablation import Reference, ablate, optimal_constant
from tests.strategies import ToyModel, says, tiny

METRIC = LogitDiff(5, 60)
PROMPTS = [[5, 6, 7, 8], [20, 21, 22]]
REFERENCE = Reference("others", [[30, 31, 32, 33], [40, 41, 42, 43], [50, 51, 52, 53]])
PLACES = [At("1.attn.z", heads=2), At("0.mlp_out", positions=1), At("2.attn_out", positions="last")]


def last_coordinate(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return logits[:, 3]


def test_the_toy_by_hand():
    """On token t, x = t (1, 2, 3, 4) and the logits are 33 x.

    Without attention resid_mid is x and the logits 11 x. With the mean of attention over the
    reference tokens 1 and 3, which is 2 * 2 (1, 2, 3, 4), they are 11 (x + 4 (1, 2, 3, 4)).
    """
    model, prompts = ToyModel(), [[2]]
    zero = ablate(model, prompts, [At("0.attn_out")], last_coordinate, kind="zero", say=None)
    assert zero.base.tolist() == [33 * 2 * 4.0]
    assert zero.values.tolist() == [[11 * 2 * 4.0]]
    reference = Reference("one and three", [[1], [3]])
    mean = ablate(
        model, prompts, [At("0.attn_out")], last_coordinate, kind="mean", reference=reference,
        say=None,
    )  # fmt: skip
    assert mean.values.tolist() == [[11 * (2 * 4 + 4 * 4.0)]]
    assert (mean.null, zero.null) == (0.0, 0.0)


def stand_in(kind: str, at: At, act: torch.Tensor, per_position: bool) -> Edit:
    where = {"positions": at.positions, "heads": at.heads}
    if kind == "zero":
        return ZeroAblate(at.site, **where)
    if kind == "resample":
        return ResampleAblate(at.site, source=act, seed=3, **where)
    return MeanAblate(at.site, mean=act.mean(0) if per_position else act.mean((0, 1)), **where)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_every_cell_is_one_plain_run_with_one_edit(kind, per_position):
    model = tiny("tiny-llama")
    given = None if kind == "zero" else REFERENCE
    found = ablate(
        model, PROMPTS, PLACES, METRIC, kind=kind, reference=given, per_position=per_position,
        seed=3, say=None,
    )  # fmt: skip
    held = model.run(REFERENCE.prompts, capture=[at.site for at in PLACES]).acts
    for at, values, proofs in zip(PLACES, found.values, found.receipts, strict=True):
        edit = stand_in(kind, at, held[str(at.site)], per_position)
        run = model.run(PROMPTS, edits=[edit], logits="last")
        torch.testing.assert_close(values, METRIC(run.logits, torch.arange(2)), rtol=0, atol=1e-5)
        assert proofs[0].tokens == run.receipt[0].tokens
        assert proofs[0].change == pytest.approx(run.receipt[0].change, rel=1e-5)
    assert float(found.effect.abs().max()) > 0.05 and found.null < 1e-5


def test_the_rows_name_what_stood_in_and_carry_the_null():
    found = ablate(
        tiny("tiny-gpt2"), PROMPTS, PLACES, METRIC, kind="mean", reference=REFERENCE, say=None
    )
    rows = found.rows()
    assert [row["place"] for row in rows] == [
        "1.attn.z heads=2",
        "0.mlp_out positions=1",
        "2.attn_out positions=last",
    ]
    for row, effect in zip(rows, found.effect, strict=True):
        assert (row["ablation"], row["reference"], row["pairs"]) == ("mean", "others", 2)
        assert row["effect"] == pytest.approx(float(effect.mean()), abs=1e-6)
        assert row["effect_low"] <= row["effect"] <= row["effect_high"]
        assert row["null"] == found.null


def test_the_optimal_constant_is_never_worse_than_the_mean_and_is_what_ablates():
    model = tiny("tiny-llama")
    mean = model.run(REFERENCE.prompts, capture="1.mlp_out").mean("1.mlp_out")
    edit = MeanAblate("1.mlp_out", mean=mean)
    found = optimal_constant(model, REFERENCE.prompts, edit, steps=30)
    assert found.best < 0.8 * found.start
    intact = KL(model.run(REFERENCE.prompts, logits="last").logits)
    for constant, loss in ((edit, found.start), (found.edit, found.best)):
        run = model.run(REFERENCE.prompts, edits=[constant], logits="last")
        assert float(intact(run.logits, torch.arange(3)).mean()) == pytest.approx(loss, abs=1e-6)
    ablated = ablate(
        model, PROMPTS, [At("1.mlp_out")], METRIC, kind="optimal", reference=REFERENCE, steps=30,
        say=None,
    )  # fmt: skip
    run = model.run(PROMPTS, edits=[found.edit], logits="last")
    expected = METRIC(run.logits, torch.arange(2))
    torch.testing.assert_close(ablated.values[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kind": "zero"}, InputError, "The ablation 'zero' takes no reference."),
        ({"reference": None}, InputError,
         "The ablation 'mean' needs reference=Reference(name, prompts)."),
        ({"places": []}, InputError,
         "places is empty: name at least one place, such as At('3.mlp_out')."),
        ({"kind": "resample", "reference": Reference("short", [[5, 6]])}, PositionError,
         "Position 3 is ablated, and the shortest prompt of the reference 'short' has 2 tokens: "
         "give longer ones, or name earlier positions."),
    ],
)  # fmt: skip
def test_what_cannot_be_ablated_is_refused_before_the_model_runs(change, error, text, monkeypatch):
    model = tiny("tiny-gpt2")
    assert model.sites
    monkeypatch.setattr(model.hf, "forward", lambda *args, **kwargs: pytest.fail("it ran"))
    settings = {"kind": "mean", "reference": REFERENCE, "places": PLACES} | change
    places = settings.pop("places")
    with says(error, text):
        ablate(model, PROMPTS, places, METRIC, say=None, **settings)
