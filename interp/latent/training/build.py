"""The untrained subject of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from interp.errors import InputError
from interp.latent.hf import HFSubject
from interp.latent.saved import class_of
from interp.latent.subjects import Codi, Projection
from interp.latent.training.recipe import Recipe
from interp.latent.training.source import Source
from interp.models.weights import find


def untrained(recipe: Recipe, source: Source, device: str = "cpu") -> HFSubject:
    """Return the subject before its first update, in training mode; draws from the recipe's seed.

    Raises:
        InputError: a model from scratch, and problems without a tokenizer of their own.
        ModelError: there is no such pretrained model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        hf, tokenizer = _pretrained(recipe) if recipe.base else _scratch(recipe, source.tokenizer)
        subject = _subject(recipe, hf, tokenizer)
    for part in _parts(subject):
        part.to(device)
    set_training(subject, True)
    return subject


def _scratch(recipe: Recipe, tokenizer: Any) -> tuple[PreTrainedModel, Any]:
    """A small GPT-2 without dropout."""
    if tokenizer is None:
        raise InputError(
            "These problems have no tokenizer of their own, which a model from scratch needs: "
            "name a pretrained model as `base`."
        )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=recipe.n_layers,
        n_embd=recipe.d_model,
        n_head=recipe.n_heads,
        n_positions=recipe.n_ctx,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    config.architectures = ["GPT2LMHeadModel"]
    return GPT2LMHeadModel(config), tokenizer


def _pretrained(recipe: Recipe) -> tuple[PreTrainedModel, Any]:
    """A pretrained model with the recipe's markers as new tokens."""
    hf: Any
    hf, tokenizer, _ = find(recipe.base, dtype=torch.float32, device="cpu", options={})
    if tokenizer is None:
        raise InputError(f"{recipe.base} has no tokenizer: add its files to the folder.")
    known = len(tokenizer)
    new = [marker for marker in recipe.markers if marker not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"additional_special_tokens": new})
    if len(tokenizer) > len(hf.get_input_embeddings().weight):
        hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _copy_rows(hf, tokenizer, recipe.marker_like, range(known, len(tokenizer)))
    return hf, tokenizer


@torch.no_grad()
def _copy_rows(hf: Any, tokenizer: Any, like: str, rows: range) -> None:
    """Start new tokens as copies of a known one, in the embedding and the unembedding."""
    ids = tokenizer(like, add_special_tokens=False).input_ids
    if not rows or not ids:
        return
    for table in (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight):
        table[list(rows)] = table[ids[0]].clone()


def _subject(recipe: Recipe, hf: Any, tokenizer: Any) -> HFSubject:
    """The subject of the recipe's kind."""
    given: dict[str, Any] = {"layout": recipe.layout, "name": recipe.kind}
    if recipe.kind != "no_latents":
        given["n_steps"] = recipe.n_steps
    if recipe.kind == "pause":
        given["token"] = recipe.pause_token
    if recipe.kind == "explicit":
        given["max_step_tokens"] = recipe.max_step_tokens
    if recipe.kind == "codi":
        width = int(hf.get_input_embeddings().weight.shape[1])
        given["projection"] = Projection(width, recipe.d_inner, recipe.projection_dropout)
    return class_of(recipe.kind)(hf, tokenizer, **given)


def parameters(subject: HFSubject) -> list[nn.Parameter]:
    """All weights that training moves."""
    return [weight for part in _parts(subject) for weight in part.parameters()]


def set_training(subject: HFSubject, on: bool) -> None:
    """Switch dropout on or off."""
    for part in _parts(subject):
        part.train(on)


def _parts(subject: HFSubject) -> list[nn.Module]:
    return [subject.hf, subject.projection] if isinstance(subject, Codi) else [subject.hf]
