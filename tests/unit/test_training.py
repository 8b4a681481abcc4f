"""What the recipes share: descent by hand, and folders that are what their manifest says."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import pytest
import torch
from rich.console import Console
from transformers import GPT2LMHeadModel

from experiments import copy_prior, train_dfs, train_induction, train_ioi, train_thinker, training
from interp.errors import StoreError
from interp.results.manifest import read_manifest, source_hash

READ_BACK = {
    "train_induction": train_induction,
    "copy_prior": copy_prior,
    "train_dfs": train_dfs,
    "train_ioi": train_ioi,
}
"""The recipes that read their model back themselves, by name."""
SMALL = {"n_embd": 8, "n_inner": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 6}
SMALL |= {"bos_token_id": 0, "eos_token_id": 0}


def small(seed: int, *, tied: bool) -> GPT2LMHeadModel:
    with training.seeded(seed):
        return GPT2LMHeadModel(training.gpt2_config(**SMALL, tie_word_embeddings=tied)).eval()


def stored(model, out, **more):
    settings = training.Settings(out=out, seed=3, batch=5)
    given = {"experiment": "train_dfs", "data": {"rows": "none"}, "code": [__file__], **more}
    training.save(model, settings, {"found": 1.5}, seconds=2.04, steps=7, **given)
    return read_manifest(out / "manifest.json")


# ---------------------------------------------------------------- descent


def test_a_seeded_block_repeats_and_leaves_the_state_as_it_was():
    before = torch.get_rng_state()
    with training.seeded(4):
        first = torch.rand(3)
    with training.seeded(4):
        assert torch.equal(torch.rand(3), first)
    with training.seeded(5):
        assert not torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_update_is_adamws_by_hand():
    """Its first step moves a weight by the rate against the sign of the gradient, after decay."""
    model = small(0, tied=False)
    start = {name: weight.clone() for name, weight in model.named_parameters()}
    config = training.Settings(learning_rate=0.5, weight_decay=0.2)
    up = model.lm_head.weight

    def loss_at(step):
        return up[:3].sum() - up[3:].sum() + 0 * sum(each.sum() for each in model.parameters())

    training.descend(model, loss_at, config, steps=1, rate=lambda step, steps: 0.1)
    sign = torch.ones(11, 1)
    sign[3:] = -1
    shrunk = 1 - 0.05 * 0.2
    torch.testing.assert_close(up, start["lm_head.weight"] * shrunk - 0.05 * sign)
    other = model.transformer.wpe.weight  # no gradient: only decay
    torch.testing.assert_close(other, start["transformer.wpe.weight"] * shrunk)


def test_gradients_are_clipped_and_every_step_asks_for_its_loss_and_rate():
    model, asked, norms, rates = small(0, tied=True), [], [], []

    def loss_at(step):
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        norms.extend([torch.cat([g.flatten() for g in grads]).norm().item()] if grads else [])
        asked.append(step)
        return 1e3 * model(torch.tensor([[1, 2, 3]])).logits.square().sum()

    def rate(step, steps):
        rates.append((step, steps))
        return 1.0

    training.descend(model, loss_at, training.Settings(), steps=3, rate=rate)
    assert asked == [0, 1, 2] and norms == pytest.approx([1, 1], abs=1e-4)
    assert rates == [(0, 3), (1, 3), (2, 3), (3, 3)]  # the last is of a step that is not made


def test_a_flat_loss_without_decay_changes_nothing():
    model, same = small(0, tied=True), small(0, tied=True).state_dict()

    def loss_at(step):
        return 0 * sum(each.sum() for each in model.parameters())

    training.descend(model, loss_at, training.Settings(weight_decay=0.0), steps=3)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, same[name]), name


def test_the_rates_by_hand():
    assert training.warm_cosine(0, 200) == pytest.approx(0.01)
    assert training.warm_cosine(49, 10**9) == pytest.approx(0.5)
    assert training.warm_cosine(150, 200) == pytest.approx((1 - 2**-0.5) / 2)
    assert [copy_prior._rate(step, 90) for step in (0, 30, 60, 90)] == pytest.approx([1, 1, 0.5, 0])


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("module", [*READ_BACK.values(), train_thinker])
def test_the_defaults_are_what_the_stored_models_were_trained_with(module):
    folder = module.RECORDS / "thinker" if module is train_thinker else module.RECORDS
    settings = read_manifest(folder / "manifest.json").settings
    defaults = asdict(module.Config())
    assert defaults.pop("out") == module.RECORDS
    assert defaults == {name: settings[name] for name in defaults}
    assert set(settings) - set(defaults) <= {"ignores_chain"}


def test_the_command_line_knows_shared_and_own_settings():
    flags = ["--batch", "7", "--n-letters", "13", "--seed", "2"]
    config, words = training.begin(train_induction.Config, flags, "text")
    assert (config.batch, config.n_letters, config.seed, words) == (7, 13, 2, flags)
    assert (config.steps, config.weight_decay, config.held_out) == (1500, 1.0, 500)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_read_back_as_it_was_saved(tmp_path, tied):
    model = small(1, tied=tied)
    made = stored(model, tmp_path / "out", flags=["--seed", "3"], more={"extra": True})
    back = training.load_gpt2(tmp_path / "out", "train_dfs")
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(back(ids).logits, model(ids).logits) and not back.training
    assert (back.lm_head.weight is back.transformer.wte.weight) == tied
    names = training.load_file(tmp_path / "out" / "model.safetensors")
    assert (training.TIED in names) == (not tied)
    assert made.settings["extra"] is True and made.settings["batch"] == 5
    assert "out" not in made.settings and made.seeds == [3]
    assert made.spent == {"seconds": 2.0, "steps": 7} and made.notes == {"found": 1.5}
    assert made.command == ["python", "-m", "experiments.train_dfs", "--seed", "3"]
    assert made.code == source_hash([__file__, training.__file__])


@pytest.mark.parametrize("name", training.FILES)
@pytest.mark.parametrize("recipe", READ_BACK)
def test_another_file_in_place_of_a_stored_one_is_refused(tmp_path, recipe, name):
    folder, module = tmp_path / recipe, READ_BACK[recipe]
    shutil.copytree(module.RECORDS, folder)
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(StoreError) as caught:
        module.load_trained(folder)
    assert str(caught.value) == (
        f"{folder / name} has not the hash in its manifest, so it is another file: restore it, or "
        "train again."
    )
    (folder / name).unlink()
    with pytest.raises(StoreError) as caught:
        module.load_trained(folder)
    assert str(caught.value) == (
        f"{folder} lacks {name}: restore it, or train again (see experiments.{recipe})."
    )


def test_a_short_training_of_the_copier_is_repeatable_and_reads_back(tmp_path):
    config = copy_prior.Config(steps=4, alone=2, batch=4, out=tmp_path / "out")
    once, again = (copy_prior.train(config, Console(quiet=True)) for _ in range(2))
    copy_prior.save(once, config, {}, seconds=1.0, flags=["--steps", "4"])
    back = copy_prior.load_trained(config.out)
    assert read_manifest(config.out / "manifest.json").command[-2:] == ["--steps", "4"]
    untrained = copy_prior.train(copy_prior.Config(steps=1), Console(quiet=True)).state_dict()
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert not torch.equal(once.lm_head.weight, untrained["lm_head.weight"])
