"""The planted corner's path is found, and cutting it restores accuracy where it misleads."""

from __future__ import annotations

import pytest
import torch

from experiments.spurious_path import (
    CORNERS,
    N_CLASSES,
    Config,
    block_of,
    images,
    network,
    run,
    shapes,
    trained,
)

SMALL = Config(train=3000, test=400, probe=160, epochs=6)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(run(SMALL))


def accuracies(rows: list[dict]) -> dict[str, dict]:
    return {row["cut"]: row for row in rows if row["row"] == "accuracy"}


def test_the_path_of_each_class_lies_where_its_corner_was_planted(rows):
    paths = [row for row in rows if row["row"] == "path"]
    assert [row["target"] for row in paths] == list(range(N_CLASSES))
    for row in paths:
        assert row["strongest"] == row["planted"] == block_of(CORNERS[row["target"]])
        assert row["share"] > 0.5  # by chance, one of the 12 blocks without a shape


def test_cutting_the_path_restores_accuracy_and_cutting_elsewhere_does_not(rows):
    by_cut = accuracies(rows)
    nothing, cut = by_cut["nothing"], by_cut["spurious path"]
    assert nothing["matched"] > 0.97 and nothing["random"] < 0.6  # the net relies on the corner
    assert cut["random"] > nothing["random"] + 0.3
    assert abs(cut["random"] - cut["matched"]) < 0.05  # the corner no longer matters
    control = by_cut["control: other blocks"]
    assert control["edges"] > 0 and control["random"] < nothing["random"] + 0.1
    assert by_cut["net trained on random corners"]["random"] > 0.97  # shapes can be learned
    assert next(row for row in rows if row["row"] == "placebo")["largest_change"] == 0


def test_the_graphs_are_sufficient_and_necessary(rows):
    by_cut = accuracies(rows)
    assert by_cut["all but the graphs"]["matched"] > 0.9
    assert by_cut["the graphs"]["matched"] < 0.5  # chance is a quarter


def test_a_corner_is_planted_in_the_images_and_nowhere_else():
    told = images(400, match=1.0, noise=0.0, bright=3.0, seed=0)
    drawn = images(4000, match=0.0, noise=0.0, bright=3.0, seed=0)
    assert torch.equal(told.corner, told.y)
    assert abs(float((drawn.corner == drawn.y).double().mean()) - 0.25) < 0.03
    for image, corner in zip(told.x[:, 0], told.corner.tolist(), strict=True):
        assert [float(image[cell]) for cell in CORNERS] == [3.0 * (i == corner) for i in range(4)]
    inner = told.x[:, 0, 5:11, 5:11]
    assert torch.equal(inner.sum((1, 2)), shapes().sum((1, 2))[told.y])
    assert float(told.x.sum() - inner.sum()) == 3.0 * 400


def test_training_is_repeatable_and_leaves_the_global_draw_alone():
    state = torch.get_rng_state()
    data = images(200, match=1.0, noise=0.2, bright=3.0, seed=0)
    first, second = trained(data, epochs=1, seed=3), trained(data, epochs=1, seed=3)
    assert torch.equal(first(data.x), second(data.x))
    assert not torch.equal(first(data.x), network(3)(data.x))
    assert torch.equal(torch.get_rng_state(), state)
