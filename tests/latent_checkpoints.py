"""Tiny random checkpoints in exactly the published layouts, and plain code to judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.data.latent_problems import LatentProblem
from interp.latent.subjects import Projection
from interp.models import tiny

RANK, ALPHA = 4, 6.0
TARGETS = {
    "tiny-gpt2": ("c_attn", "c_proj", "c_fc"),
    "tiny-llama": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"),
}
"""The layers that CODI's code gives LoRA, for each architecture."""

PROBLEMS = [
    LatentProblem("a", "The store had 12 red apple", ("<<12-4=8>>",), "8"),
    LatentProblem("b", "Mary gave John 3", ("<<3+4=7>>", "<<7*2=14>>"), "14"),
    LatentProblem("c", "Tom got 1 dog and 20 cat and 5 key", (), "26"),
]
"""Three questions of different lengths."""


def random_model(name: str, *, added: int, seed: int = 1) -> PreTrainedModel:
    """A tiny model with `added` rows more than its tokenizer has tokens, all weights random."""
    config = tiny.build(name).config
    config.vocab_size += added
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return hf.eval()


def random_projection(d_inner: int = 24, *, seed: int = 2) -> Projection:
    torch.manual_seed(seed)
    projection = Projection(tiny.D_MODEL, d_inner)
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return projection.eval()


def lora_pairs(
    hf: PreTrainedModel, name: str, *, seed: int = 3
) -> dict[str, tuple[Tensor, Tensor]]:
    """A random pair for each layer that CODI trains: A [r, in], B [out, r]."""
    torch.manual_seed(seed)
    pairs = {}
    for module, layer in hf.named_modules():
        if module.rpartition(".")[2] in TARGETS[name]:
            shape = layer.weight.T.shape if isinstance(layer, Conv1D) else layer.weight.shape
            n_out, n_in = shape
            pairs[module] = (0.2 * torch.randn(RANK, n_in), 0.2 * torch.randn(n_out, RANK))
    return pairs


@torch.no_grad()
def with_lora(
    hf: PreTrainedModel, pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float
) -> None:
    """Change the weights in place, entry by entry of the definition: y += scale B A x."""
    for module, (a, b) in pairs.items():
        layer = hf.get_submodule(module)
        for r in range(len(a)):
            change = scale * torch.outer(b[:, r], a[r])
            layer.weight += change.T if isinstance(layer, Conv1D) else change


def base_folder(folder: Path, name: str, *, n_less: int = 0) -> Path:
    """A folder with the configuration and the tokenizer of a base model, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny.build(name).config
    config.vocab_size -= n_less
    config.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def write_coconut(hf: PreTrainedModel, folder: Path, *, number: int = 7) -> Path:
    """Coconut's own: a bare state dict, every key prefixed, the embedding again under an alias."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"base_causallm.{key}": tensor for key, tensor in hf.state_dict().items()}
    state["embedding.weight"] = hf.get_input_embeddings().weight.detach()
    torch.save(state, folder / f"checkpoint_{number}")
    return folder


def codi_state(
    hf: PreTrainedModel,
    projection: Projection,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """CODI's keys: PEFT's wrapping, the base layers and pairs, and the projection by places."""
    state: dict[str, Tensor] = {}
    for key, tensor in hf.state_dict().items():
        module, _, last = key.rpartition(".")
        inner = f"{module}.base_layer" if module in pairs else module
        state[f"codi.base_model.model.{inner}.{last}"] = tensor
    for module, (a, b) in pairs.items():
        state[f"codi.base_model.model.{module}.lora_A.default.weight"] = a
        state[f"codi.base_model.model.{module}.lora_B.default.weight"] = b
    return state | projection_state(projection, "prj.", {"up": "1", "down": "3", "ln": "ln"})


def projection_state(
    projection: Projection, prefix: str, places: Mapping[str, str]
) -> dict[str, Tensor]:
    split = ((*key.split("."), tensor) for key, tensor in projection.state_dict().items())
    return {f"{prefix}{places[layer]}.{last}": tensor for layer, last, tensor in split}


def save_safe(state: Mapping[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, file)
    return file.parent


def write_folder(
    hf: PreTrainedModel,
    folder: Path,
    tokens: Sequence[str],
    projection: Projection | None = None,
) -> Path:
    """A Hugging Face folder with a tokenizer, which names the added rows in the order given."""
    extra = {}
    if projection is not None:
        extra = projection_state(projection, "projector.", {"up": "1", "down": "3", "ln": "4"})
    save_safe({**hf.state_dict(), **extra}, folder / "model.safetensors")
    hf.config.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter_config(folder: Path, **settings: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def config_of(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder)


@torch.no_grad()
def plain_run(
    hf: PreTrainedModel,
    prompt: Sequence[int],
    close: Sequence[int],
    target: Sequence[int],
    *,
    n_steps: int,
    projection: Projection | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents [n_steps, d_model] and log-probabilities at the target, by whole uncached passes."""
    embed = hf.get_input_embeddings()
    vectors = embed(torch.tensor([list(prompt)]))
    latents = []
    for _ in range(n_steps):
        last = hf(inputs_embeds=vectors, output_hidden_states=True).hidden_states[-1][:, -1]
        latents.append(last if projection is None else projection(last))
        vectors = torch.cat([vectors, latents[-1][:, None]], 1)
    answer = embed(torch.tensor([[*close, *target[:-1]]]))
    logits = hf(inputs_embeds=torch.cat([vectors, answer], 1)).logits[0, -len(target) :]
    return torch.cat(latents), torch.log_softmax(logits, -1)
