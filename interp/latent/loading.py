"""Subjects from the published checkpoint formats of Coconut, CODI and their relatives.

A checkpoint is read whole and strictly: a key too many, a key too few or a shape that does not fit
is an error that names it, because a model that loaded in part still answers. What a file does not
hold is asked for, never guessed: the base model's configuration, LoRA's alpha, and which token
stands at which row where two orders are in use.

Sources: Coconut, Hao et al. 2024, arXiv:2412.06769; CODI, Shen et al. 2025, arXiv:2502.21074; LoRA,
Hu et al. 2021, arXiv:2106.09685; SIM-CoT, Wei et al. 2025, arXiv:2509.20317.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import InputError, ModelError
from interp.latent.explicit import Explicit
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout
from interp.latent.loading_formats import Checkpoint, Pair, read_checkpoint
from interp.latent.presets import (
    BOT,
    COCONUT,
    CODI,
    COT,
    END,
    EOT,
    LATENT,
    NO_COT,
    PAD,
    START,
    PublishedCodi,
)
from interp.latent.subjects import Coconut, NoLatents, NoRecurrence, Pause, Projection
from interp.models.registry import offline

Kind = Literal["coconut", "codi", "pause", "no_recurrence", "no_latents", "explicit"]
Rows = Literal["pad-bot-eot", "as-named"]

KINDS = ("coconut", "codi", "pause", "no_recurrence", "no_latents", "explicit")
COCONUT_TOKENS, CODI_TOKENS = (START, END, LATENT), (PAD, BOT, EOT)
MAX_STEP_TOKENS = 24
"""Of a step in text, for kind `explicit`: a bracket such as `<<600*30/100=180>>` takes about 12."""


class Lora(nn.Module):
    """A linear layer with its low-rank change kept apart: x W + scale (x Aᵀ) Bᵀ.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3.
    """

    def __init__(self, layer: nn.Module, pair: Pair, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.a, self.b = (nn.Parameter(matrix, requires_grad=False) for matrix in pair)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """The layer's output and the change."""
        changed: Tensor = self.layer(x) + self.scale * (x @ self.a.T) @ self.b.T
        return changed


@dataclass(frozen=True)
class _Asked:
    """What the caller said that the files may not."""

    kind: str
    rows: Rows | None
    lora_alpha: float | None
    merge: bool
    dtype: torch.dtype


def load_checkpoint(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    kind: Kind | None = None,
    layout: Layout | None = None,
    n_steps: int = 6,
    allow_pickle: bool = False,
    lora_alpha: float | None = None,
    merge: bool = True,
    rows: Rows | None = None,
    official_mask: bool = False,
    dtype: torch.dtype = torch.float32,
) -> HFSubject:
    """Load a published checkpoint; its form is told by its keys, and nothing is left out.

    Args:
        folder: a folder or file of weights, or the id of a hub repository, which is fetched first.
        base: folder (or hub id) of the model that it was trained from, for its configuration and
            tokenizer; needed where `folder` has none. Its weights are not read.
        kind: what runs on the weights; by default `codi` with a projection, else `coconut`. The
            controls of a Coconut study are `pause`, `no_recurrence` and `no_latents`; a stage-0
            model, without markers, is `explicit` or `no_latents`.
        layout: templates; by default those of the published recipe of the kind.
        n_steps: T; 6 in every published recipe.
        allow_pickle: read a pickle too, tensors only.
        lora_alpha: LoRA's alpha, where no adapter_config.json gives it; the scale is alpha / r.
        merge: fold LoRA into the weights; False keeps it beside them, which is slower.
        rows: for CODI under a tokenizer with Coconut's names: what the three added rows hold.
        official_mask: CODI only: pads are seen after the prompt, as in the published evaluation.
        dtype: of the loaded model; LoRA is merged in float32 or wider and rounded after.

    Raises:
        ModelError: the files hold no such model; the message names the first of what is missing,
            unexpected or misshapen.
        InputError: an argument is needed, or contradicts what the files hold.
    """
    place = local(folder, weights=True, allow_pickle=allow_pickle)
    if (place / "latent.json").is_file():
        raise InputError(f"{place} was saved by this workbench: read it with `load_subject`.")
    found = read_checkpoint(place, allow_pickle=allow_pickle)
    home = _home(place, base)
    tokenizer = _tokenizer(home)
    asked = _Asked(_kind(found, kind, tokenizer), rows, lora_alpha, merge, dtype)
    if official_mask and asked.kind != "codi":
        raise InputError(f"official_mask is a habit of CODI's code, and this is {asked.kind}.")
    config = _config(home)
    tokens = _tokens(found, asked, config, tokenizer)
    hf = _model(found, asked, config, place)
    hf.config.eos_token_id = tokenizer.eos_token_id  # both codes stop at the tokenizer's own
    templates = layout or _layout(asked.kind, tokens, tokenizer)
    named: dict[str, Any] = {"layout": templates, "name": place.name}
    if asked.kind == "codi":
        named |= {"projection": _projection(found, hf, asked), "official_mask": official_mask}
        return PublishedCodi(hf, tokenizer, n_steps=n_steps, pad_id=tokenizer.pad_token_id, **named)
    return _plain_subject(asked.kind, hf, tokenizer, n_steps, named)


def _plain_subject(
    kind: str, hf: PreTrainedModel, tokenizer: Any, n_steps: int, named: dict[str, Any]
) -> HFSubject:
    """A subject that needs nothing beside its model."""
    if kind == "no_latents":
        return NoLatents(hf, tokenizer, **named)
    if kind == "explicit":
        return Explicit(hf, tokenizer, n_steps=n_steps, max_step_tokens=MAX_STEP_TOKENS, **named)
    if kind == "pause":
        return Pause(hf, tokenizer, n_steps=n_steps, token=LATENT, **named)
    made: Callable[..., HFSubject] = {"coconut": Coconut, "no_recurrence": NoRecurrence}[kind]
    return made(hf, tokenizer, n_steps=n_steps, **named)


def _kind(found: Checkpoint, kind: str | None, tokenizer: Any) -> str:
    """What the weights are run as, where the files allow it."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"There is no kind {kind!r}; there are {', '.join(KINDS)}.")
    is_codi = found.form.startswith("codi")
    if is_codi and kind not in (None, "codi"):
        raise InputError(f"{found.source} holds CODI's projection, so it is codi and not {kind}.")
    if not is_codi and kind == "codi":
        raise InputError(
            f"{found.source} holds no projection (prj.* or projector.*), so it is not codi."
        )
    if kind is None and found.form == "plain" and not _has(tokenizer, COCONUT_TOKENS):
        raise InputError(
            f"{found.source} has plain keys and its tokenizer has no {START}: a stage-0 model of "
            "Coconut looks so. Say what it is: kind='explicit' or 'no_latents', or 'coconut' if "
            "its last three rows are the markers."
        )
    return kind or ("codi" if is_codi else "coconut")


# ---- where things lie ----


def local(name: str | Path, *, weights: bool, allow_pickle: bool = False) -> Path:
    """Return a local path; the id of a hub repository is fetched first.

    Raises:
        ModelError: it is no path, and the hub is switched off, cannot be reached or has no such
            repository.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ModelError(f"There is no checkpoint {text}: give a folder or a hub id (owner/name).")
    if offline():
        raise ModelError(
            f"{text} is not on this disk and the hub is switched off (HF_HUB_OFFLINE): fetch it "
            "where there is a network, and give its folder."
        )
    patterns = ["*.json", "*.txt", "*.model"] + (["*.safetensors"] if weights else [])
    patterns += ["*.bin", "*.pt", "*.pth", "checkpoint_*"] if weights and allow_pickle else []
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(text, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{text} could not be fetched from the hub: {first}") from error


def _home(place: Path, base: str | Path | None) -> Path:
    """The folder with the configuration and the tokenizer."""
    if base is not None:
        return local(base, weights=False)
    folder = place if place.is_dir() else place.parent
    if not _json(folder / "config.json").get("model_type"):
        what = "an empty config.json" if (folder / "config.json").is_file() else "no config.json"
        raise InputError(
            f"{folder} has {what}, so nothing says what model this is: give base=, the folder of "
            "the model that it was trained from."
        )
    return folder


def _json(file: Path) -> Mapping[str, Any]:
    """The object in a file; empty where there is no file, or nothing in it."""
    try:
        held = json.loads(file.read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _config(home: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(home, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"The configuration in {home} cannot be read: {first}") from error


def _tokenizer(home: Path) -> Any:
    if not any(home.glob("*token*")) and not any(home.glob("vocab*")):
        raise InputError(f"{home} has no tokenizer: give base=, a folder that has one.")
    try:
        return AutoTokenizer.from_pretrained(home, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"The tokenizer in {home} cannot be read: {first}") from error


# ---- tokens ----


def _has(tokenizer: Any, names: Sequence[str]) -> bool:
    vocabulary = tokenizer.get_vocab()
    return all(name in vocabulary for name in names)


def _tokens(found: Checkpoint, asked: _Asked, config: Any, tokenizer: Any) -> tuple[str, ...]:
    """Give the tokenizer the markers; return those before and after the latent steps."""
    name = _embedding_name(config)
    n_rows = len(found.weights[name]) if name in found.weights else int(config.vocab_size)
    unmarked = asked.kind in ("explicit", "no_latents") and not found.form.startswith("co")
    if unmarked and not _has(tokenizer, COCONUT_TOKENS):
        _require_rows(found, n_rows, int(config.vocab_size), 0)
        return ()
    if asked.kind == "codi":
        if _has(tokenizer, COCONUT_TOKENS):
            _require_inside(found, tokenizer, n_rows)
            return _codi_by_rows(found, asked, tokenizer, n_rows - 3)
        grown = found.form == "codi-folder" and config.vocab_size == n_rows
        _require_rows(found, n_rows, int(config.vocab_size) - (3 if grown else 0), 3)
        _add(tokenizer, CODI_TOKENS, n_rows - 3, found)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = PAD
        return BOT, EOT
    if not _has(tokenizer, COCONUT_TOKENS):
        _require_rows(found, n_rows, len(tokenizer), 3)
        _add(tokenizer, COCONUT_TOKENS, n_rows - 3, found)
    _require_inside(found, tokenizer, n_rows)
    return START, END


def _require_inside(found: Checkpoint, tokenizer: Any, n_rows: int) -> None:
    last = max(tokenizer.convert_tokens_to_ids(list(COCONUT_TOKENS)))
    if last >= n_rows:
        raise ModelError(
            f"{found.source} has {n_rows} rows of embeddings and the tokenizer puts a marker at "
            f"{last}: give the tokenizer that it was trained with."
        )


def _require_rows(found: Checkpoint, n_rows: int, before: int, added: int) -> None:
    if n_rows != before + added:
        raise ModelError(
            f"{found.source} has {n_rows} rows of embeddings; the base's {before} and {added} "
            f"added tokens make {before + added}. Give the base that it was trained from."
        )


def _add(tokenizer: Any, names: Sequence[str], first: int, found: Checkpoint) -> None:
    """Add tokens so that they stand at `first`, `first` + 1, ...; unused ids are filled."""
    free = range(len(tokenizer), first)
    fillers = [f"<|unused-{i}|>" for i in free] if not _has(tokenizer, names[:1]) else []
    added = [AddedToken(name, special=True, normalized=False) for name in (*fillers, *names)]
    tokenizer.add_tokens(added, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(names))
    if ids != list(range(first, first + len(names))):
        raise ModelError(
            f"{found.source}: the tokenizer puts {', '.join(names)} at {ids}, and their rows are "
            f"{first} to {first + len(names) - 1}. Give the base's own tokenizer, without them."
        )


def _codi_by_rows(found: Checkpoint, asked: _Asked, tokenizer: Any, first: int) -> tuple[str, ...]:
    """CODI under Coconut's names: the rows may hold pad, bot, eot or what the names say."""
    ids = tokenizer.convert_tokens_to_ids(list(COCONUT_TOKENS))
    if asked.rows is None:
        named = ", ".join(f"{name} at {i}" for name, i in zip(COCONUT_TOKENS, ids, strict=True))
        raise InputError(
            f"{found.source} is CODI, whose rows {first} to {first + 2} are pad, bot, eot, and its "
            f"tokenizer says {named}; read so, the start marker would be pad and the end marker "
            "bot. Give rows='pad-bot-eot' if only the names changed, or rows='as-named' if the "
            "rows were moved with them."
        )
    if asked.rows == "as-named":
        return START, END
    pad, bot, eot = tokenizer.convert_ids_to_tokens([first, first + 1, first + 2])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = pad
    return bot, eot


def _layout(kind: str, tokens: Sequence[str], tokenizer: Any) -> Layout:
    """The published templates of a kind, with the markers that stand for theirs here."""
    opening = tokenizer("x").input_ids[:1]
    bos = tokenizer.bos_token_id is not None and opening == [tokenizer.bos_token_id]
    if not tokens:
        return replace(COT if kind == "explicit" else NO_COT, bos=bos)
    if kind == "codi":
        return replace(CODI, prompt="{question}" + tokens[0], close=tokens[1], bos=bos)
    return replace(COCONUT, bos=bos)


# ---- weights ----


def _embedding_name(config: Any) -> str:
    """The key of the input embedding in a model of this configuration."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    table = model.get_input_embeddings().weight
    return next(name for name, each in model.named_parameters() if each is table)


def _model(found: Checkpoint, asked: _Asked, config: Any, place: Path) -> PreTrainedModel:
    """Build the model and fill in every weight, LoRA included."""
    name = _embedding_name(config)
    if name in found.weights:
        config.vocab_size = len(found.weights[name])
    wide = torch.promote_types(asked.dtype, torch.float32)
    hf = AutoModelForCausalLM.from_config(config, dtype=wide)
    _fill(hf, found)
    if found.lora:
        scale = _scale(found, asked, place)
        for module, pair in found.lora.items():
            _put(hf, module, pair, scale, merge=asked.merge)
    return hf.to(asked.dtype).eval()


def _fill(hf: PreTrainedModel, found: Checkpoint) -> None:
    """Copy the weights in; refuse a checkpoint that is not exactly this model."""
    state = hf.state_dict()
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(tensor.data_ptr(), []).append(name)
    missing = [n[0] for n in groups.values() if not any(name in found.weights for name in n)]
    unexpected = [name for name in found.weights if name not in state]
    unexpected += [f"{m}.lora_A" for m in found.lora if f"{m}.weight" not in state]
    _require_whole(found, missing, unexpected)
    _require_shapes(found, state)
    for names in groups.values():
        held = [found.weights[name] for name in names if name in found.weights]
        if any(not torch.equal(held[0], other) for other in held[1:]):
            raise ModelError(
                f"{found.source} holds two different matrices as {' and '.join(names)}, which the "
                "configuration ties: set tie_word_embeddings to false in the base's config.json."
            )
        state[names[0]].copy_(held[0])


def _require_whole(
    found: Checkpoint, missing: Sequence[str], unexpected: Sequence[str], of: str = "the model"
) -> None:
    faults = [
        f"{len(names)} {what} (first: {', '.join(names[:3])})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if faults:
        raise ModelError(
            f"{found.source}, read as {found.form}, does not hold {of} exactly: "
            f"{' and '.join(faults)}. Give the base that it was trained from, or a whole file."
        )


def _require_shapes(found: Checkpoint, state: Mapping[str, Tensor]) -> None:
    """Refuse a tensor that does not fit, LoRA pairs included."""
    for name, tensor in found.weights.items():
        if tensor.shape != state[name].shape:
            raise _misfit(found, name, tensor.shape, state[name].shape)
    for module, (a, b) in found.lora.items():
        shape = state[f"{module}.weight"].shape
        if a.shape[0] != b.shape[1]:
            raise _misfit(found, f"{module}.lora_B", b.shape, (b.shape[0], a.shape[0]))
        if sorted((b.shape[0], a.shape[1])) != sorted(shape):
            raise _misfit(found, f"{module}.lora_B @ lora_A", (b.shape[0], a.shape[1]), shape)


def _misfit(found: Checkpoint, name: str, has: Sequence[int], needs: Sequence[int]) -> ModelError:
    return ModelError(
        f"{found.source}: {name} has shape {list(has)} and the model needs {list(needs)}: give the "
        "base that it was trained from."
    )


def _scale(found: Checkpoint, asked: _Asked, place: Path) -> float:
    """LoRA's factor, alpha / r, from the caller or from adapter_config.json."""
    folder = place if place.is_dir() else place.parent
    adapter = _json(folder / "adapter_config.json")
    rank = int(found.rank or 1)
    alpha = asked.lora_alpha if asked.lora_alpha is not None else adapter.get("lora_alpha")
    if alpha is None:
        raise InputError(
            f"{found.source} has LoRA weights of rank {rank} and says nothing of their scale, "
            "alpha / r: give lora_alpha (CODI's published runs have alpha 32 at r 128), or put "
            "adapter_config.json beside the weights."
        )
    if adapter.get("r") not in (None, rank):
        raise ModelError(
            f"{found.source}: adapter_config.json says r {adapter['r']}, and the weights have rank "
            f"{rank}: they are of two runs."
        )
    return float(alpha) / (math.sqrt(rank) if adapter.get("use_rslora") else rank)


@torch.no_grad()
def _put(hf: nn.Module, name: str, pair: Pair, scale: float, *, merge: bool) -> None:
    """Add scale B A to a layer's weight, or put it beside the layer.

    GPT-2's Conv1D keeps its weight as `[in, out]`; a square one cannot be told by its shape, so
    the layer's class decides.
    """
    layer = hf.get_submodule(name)
    weight: Any = layer.weight
    a, b = (matrix.to(weight.dtype) for matrix in pair)
    if merge:
        change = scale * (b @ a)
        weight.add_(change.T if isinstance(layer, Conv1D) else change)
    else:
        parent, _, last = name.rpartition(".")
        setattr(hf.get_submodule(parent), last, Lora(layer, (a, b), scale))


def _projection(found: Checkpoint, hf: PreTrainedModel, asked: _Asked) -> Projection:
    """CODI's projection; its inner width is read from its weights."""
    d_model = int(hf.config.hidden_size)
    up = found.projection.get("up.weight")
    made = Projection(d_model, d_model if up is None else len(up))
    state = made.state_dict()
    missing = [f"prj.{name}" for name in state if name not in found.projection]
    _require_whole(found, missing, [], "CODI's projection")
    for name, tensor in found.projection.items():
        if tensor.shape != state[name].shape:
            raise _misfit(found, f"prj.{name}", tensor.shape, state[name].shape)
        state[name].copy_(tensor)
    return made.to(asked.dtype).eval()
