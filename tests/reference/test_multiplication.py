"""The committed networks that multiply: plain Hugging Face as the judge, and what must show."""

from __future__ import annotations

import math
from functools import cache
from itertools import islice

import pytest
import torch
from torch import Tensor

from experiments import multiplication as study
from experiments import train_multiplication as trained
from interp.alignment.digit_swaps import SwapMap, swap, swap_effects, swap_map
from interp.attention_edits import Knockout
from interp.data import multiplication as task
from interp.errors import InputError
from interp.results.manifest import read_manifest

THERE = [name for name in study.NETWORKS if (trained.RECORDS / name / "manifest.json").is_file()]
ENDS = (0, 4, 5)


@cache
def net(name: trained.Recipe) -> study.Network:
    return study.network(name, trained.RECORDS)


@cache
def heat(name: trained.Recipe) -> SwapMap:
    network = net(name)
    return swap_map(network.model, network.draw(200, 7))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hugging_face(name: trained.Recipe, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return net(name).model.hf(ids).logits


@pytest.mark.parametrize("name", THERE)
def test_manifests_say_what_the_networks_do(name: trained.Recipe):
    made = read_manifest(trained.RECORDS / name / "manifest.json")
    settings = trained.resolved(trained.Config(recipe=name, held_out=400, seed=20))
    found = trained.report(net(name).model.hf, settings)
    assert found["parameters"] == made.notes["parameters"]
    assert found["exact"] == pytest.approx(made.notes["exact"], abs=0.1)
    # Other pairs: a share of 400 has a standard error of 0.025 at most; here are four of them.
    assert found["digit_accuracy"] == pytest.approx(made.notes["digit_accuracy"], abs=0.1)
    assert found["digit_loss_nats"] == pytest.approx(made.notes["digit_loss_nats"], abs=0.25)


def test_what_the_network_writes_is_what_hugging_face_generates():
    network = net("sft")
    data = network.draw(64, 3)
    prompt = task.encode(data)[:, :9]
    with torch.no_grad():
        whole = network.model.hf.generate(
            prompt,
            max_new_tokens=6,
            do_sample=False,
            attention_mask=torch.ones_like(prompt),
            pad_token_id=task.ANSWER,
        )
    assert torch.equal(trained.generated(network.model.hf, data), whole[:, 9:])


@pytest.mark.parametrize("prefix", ["original", "consistent"])
def test_swap_effects_are_differences_of_hugging_faces_logits(prefix):
    network = net("sft")
    clean = network.draw(40, 5)
    changed = swap(clean, 4, stream())
    ids, other = task.encode(clean), task.encode(changed)
    if prefix == "original":
        other[:, 9:] = ids[:, 9:]
    before, after = (hugging_face("sft", x)[:, 8:14] for x in (ids, other))
    best = before.argmax(-1, keepdim=True)
    expected = (before.gather(2, best) - after.gather(2, best))[..., 0]
    found = swap_effects(network.model, clean, changed, prefix=prefix)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # float32, logits about 20
    assert found.abs().max() > 5


@pytest.mark.parametrize("k", [2, 3])
def test_plain_training_fails_in_the_middle(k: int):
    """c2 and c3 within 0.3 of ln 10 behind the right digits, the ends near 0."""
    network = net("sft")
    losses = study.digit_losses(network.model, network.draw(1000, 11)).mean(dim=0)
    assert all(float(losses[k]) < 0.1 for k in ENDS)
    assert abs(float(losses[k]) - math.log(10)) < 0.3


@pytest.mark.parametrize("k", [2, 3])
def test_a_middle_column_of_the_heat_map_is_empty(k: int):
    assert heat("sft").effect[:, k].abs().max() < 2


def test_the_heat_map_of_plain_training_has_its_ends():
    found = heat("sft").effect
    for digit, answer in ((0, 0), (0, 1), (1, 1), (1, 4), (2, 4), (2, 5)):
        assert found[digit, answer] > 10
        assert found[digit + 3, answer] > 10
    early = torch.tensor([[k < i % 3 for k in range(6)] for i in range(6)])
    assert found[early].abs().max() < 1


def test_the_probe_of_plain_training_is_not_beyond_its_baselines():
    config = study.Config(fitted=1500, scored=400)
    row = next(islice(study.probes(net("sft"), config), 2, 3))
    assert row["variable"] == "chat_2"
    baselines = ("constant", "raw inputs", "untrained network", "shuffled labels")
    assert all(row[name] > 0 for name in baselines)
    assert row["verdict"].startswith("not beyond baselines")
    assert row["error"] > min(row[name] for name in baselines)
    assert row["placebo"] == 0


def test_the_rest_of_the_network_is_hugging_faces():
    network = net("sft")
    data = network.draw(30, 3)
    held = study.states(network.model, data, study.SITE)
    logits = hugging_face("sft", task.encode(data))
    for k, query in enumerate(task.predicting(3)):
        found = study.last_cut(network.model, held[:, k]).clean()
        torch.testing.assert_close(found, logits[:, query], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_rows_sum_to_one_and_an_edge_without_weight_changes_nothing(layer: int):
    network = net("sft")
    ids = task.encode(network.draw(20, 2))
    site = f"{layer}.attn.pattern"
    cut = Knockout(site, heads=1, positions=11, keys=4)
    once, off = study.without(network.model, ids, cut)
    assert off < 1e-5
    twice = network.model.run(ids, edits=[cut, cut], capture=[site])
    assert torch.equal(once, twice.logits)  # after the first cut the edge has no weight
    pattern = twice.acts[site][:, 1, 11]
    assert not pattern[:, 4].any()
    assert (once - network.model.run(ids).logits).abs().max() > 0


def test_a_knocked_out_row_is_the_old_one_divided_by_the_rest():
    network = net("sft")
    ids = task.encode(network.draw(20, 2))
    run = network.model.run(ids, capture=["1.attn.pattern"])
    old = run.acts["1.attn.pattern"][:, 2, 9, :10]
    edit = Knockout("1.attn.pattern", heads=2, positions=9, keys=0)
    new = network.model.run(ids, edits=[edit], capture=["1.attn.pattern"])
    expected = old.clone()
    expected[:, 0] = 0
    expected = expected / expected.sum(dim=1, keepdim=True)
    found = new.acts["1.attn.pattern"][:, 2, 9, :10]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_shapes_of_a_trained_network_stand_beside_their_nulls():
    rows = list(study.fourier(net("sft"), study.Config(shaped=1000)))
    assert {row["rows"] for row in rows} >= {"embedding", "last MLP to logits"}
    assert all(row["null"] == pytest.approx(0.56, abs=0.01) for row in rows)
    assert all(0 < row["median"] <= 1 for row in rows)


def test_two_digits_are_solved_and_no_column_is_empty():
    network = net("two_digit")
    data = network.draw(1000, 11)
    right = trained.generated(network.model.hf, data) == data.c
    assert float(right.all(1).double().mean()) >= 0.9
    assert heat("two_digit").effect.amax(dim=0).min() > 3


def test_the_auxiliary_read_out_tells_the_running_sums():
    rows = list(study.read_outs(net("auxiliary"), study.Config(scored=500)))
    assert len(rows) == 12
    best = [min(row["error"] for row in rows[2 * k : 2 * k + 2]) for k in range(6)]
    assert max(best) < 11  # a constant misses chat_2 by 30, raw digits by 10.6


def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"train one with python -m experiments\.train_mult"):
        study.main(["--trained", str(tmp_path), "--out", str(tmp_path / "out")])
