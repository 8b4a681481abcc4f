"""Subjects in folders: every bit comes back, and a folder that holds none says so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp.errors import InputError, ModelError
from interp.latent.explicit import Explicit
from interp.latent.saved import ABOUT, WEIGHTS, kind_of, load_subject, save_subject
from interp.latent.subject import roll_out
from interp.latent.subjects import Coconut
from tests.latent_cases import LAYOUT, PROBLEMS, random_subject, tokenizer

KINDS = ("coconut", "codi", "pause", "no_recurrence", "no_latents", "explicit")


def subject_of(kind, architecture="tiny-gpt2"):
    if kind != "explicit":
        return random_subject(kind, architecture)
    hf = random_subject("coconut", architecture).hf
    return Explicit(hf, tokenizer(), n_steps=3, layout=LAYOUT, name="text", max_step_tokens=1)


@torch.no_grad()
def read(subject):
    closed = subject.close(roll_out(subject, subject.prefill(PROBLEMS)).states[-1])
    return subject.force(closed, [subject.target(p.answer) for p in PROBLEMS]).logprobs


@pytest.fixture
def folder(tmp_path):
    save_subject(random_subject("codi"), tmp_path, {"seed": 3})
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_bit_for_bit(kind, tmp_path):
    subject = subject_of(kind)
    save_subject(subject, tmp_path)
    again = load_subject(tmp_path)
    assert kind_of(again) == kind and type(again) is type(subject)
    assert (again.n_steps, again.layout) == (subject.n_steps, subject.layout)
    assert torch.equal(read(again), read(subject))
    assert not again.hf.training


def test_weights_that_are_not_tied_come_back_too(tmp_path):
    subject = subject_of("coconut", "tiny-llama")
    save_subject(subject, tmp_path)
    assert torch.equal(read(load_subject(tmp_path)), read(subject))


def test_the_precision_comes_back(tmp_path):
    subject = random_subject("codi", dtype=torch.float64)
    save_subject(subject, tmp_path)
    again = load_subject(tmp_path)
    assert read(again).dtype == torch.float64 and torch.equal(read(again), read(subject))


def test_transformers_reads_the_model_of_the_folder(tmp_path):
    subject = subject_of("coconut")
    save_subject(subject, tmp_path)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(hf(ids).logits, subject.hf(ids).logits)


def test_what_stands_in_a_folder(folder):
    about = json.loads((folder / ABOUT).read_text())
    assert (about["kind"], about["n_steps"], about["notes"]) == ("codi", 4, {"seed": 3})
    assert about["projection"] == {"d_inner": 16}
    assert about["layout"]["prompt"] == "{question}<start>"
    names = load_file(folder / WEIGHTS)
    assert {n for n in names if n.startswith("prj.")} == {
        f"prj.{part}.{side}" for part in ("up", "down", "ln") for side in ("weight", "bias")
    }
    assert "transformer.wte.weight" in names


def test_a_pause_names_its_token(tmp_path):
    save_subject(random_subject("pause"), tmp_path)
    assert json.loads((tmp_path / ABOUT).read_text())["pause_token"] == "<pause>"


def test_loading_draws_nothing_from_the_random_state(folder):
    state = torch.get_rng_state()
    load_subject(folder)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- refusals


class Other(Coconut):
    pass


def test_a_class_without_a_saved_form_is_refused_before_anything_is_written(tmp_path):
    hf = random_subject("coconut").hf
    other = Other(hf, tokenizer(), n_steps=1, layout=LAYOUT, name="mine")
    message = (
        r"^mine is a Other, which has no saved form: there are coconut, codi, explicit, "
        r"no_latents, no_recurrence, pause\.$"
    )
    with pytest.raises(InputError, match=message):
        save_subject(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def refused(folder, message):
    with pytest.raises(ModelError, match=message):
        load_subject(folder)


def test_a_folder_without_a_subject(tmp_path):
    refused(tmp_path, rf"^{tmp_path} holds no latent subject: there is no latent\.json in it\. ")
    refused(tmp_path / "none", r"holds no latent subject: there is no latent\.json in it\. Give a ")


def test_a_kind_that_there_is_not(folder):
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, "kind": "oracle"}))
    refused(folder, r"latent\.json names the kind 'oracle'; there are coconut, codi, explicit, ")
    (folder / ABOUT).write_text("[1]")
    refused(folder, r"latent\.json names the kind None; ")
    (folder / ABOUT).write_text("{")
    refused(folder, r"latent\.json is no JSON ")


@pytest.mark.parametrize("key", ["n_steps", "projection", "layout"])
def test_a_setting_that_is_missing(folder, key):
    about = json.loads((folder / ABOUT).read_text())
    del about[key]
    (folder / ABOUT).write_text(json.dumps(about))
    refused(folder, rf"latent\.json lacks what a subject of kind 'codi' needs .*'{key}'")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_file_that_is_missing(folder, name):
    (folder / name).unlink()
    refused(folder, rf"^{folder} is not whole: there is no {name} in it\. Copy it there, or write ")


def test_a_configuration_that_is_none(folder):
    (folder / "config.json").write_text("{}")
    refused(folder, rf"^{folder} cannot be read: .* Write it again with `save_subject`\.$")


def test_weights_that_are_missing_left_over_or_of_another_shape(folder):
    weights = load_file(folder / WEIGHTS)
    odd = "prj.up.weight"
    for changed in (
        {name: tensor for name, tensor in weights.items() if name != odd},
        {**weights, odd: torch.zeros(2, 2)},
    ):
        save_file(changed, folder / WEIGHTS)
        refused(folder, rf"'{odd}' is missing, left over or of another shape \(1 such weights\)\.$")
    save_file({**weights, "extra": torch.zeros(1)}, folder / WEIGHTS)
    refused(folder, r"'extra' is missing, left over or of another shape")


def test_one_subject_is_not_another(folder, tmp_path):
    other = tmp_path / "coconut"
    save_subject(random_subject("coconut"), other)
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)
    refused(folder, r"is not of the model in config\.json and latent\.json: 'prj\.down\.bias' is ")
