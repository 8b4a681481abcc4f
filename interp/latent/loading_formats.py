"""Checkpoint files of latent reasoners: find them, read them, and sort their keys.

| form | keys | written by |
|---|---|---|
| `coconut` | `base_causallm.*`, the alias `embedding.weight` | Coconut's code, as `checkpoint_N` |
| `codi` | `codi.base_model.model.*`, LoRA pairs, `prj.{1,3,ln}.*` | CODI's code; SIM-CoT |
| `codi-folder` | plain keys, `projector.{1,3,4}.*` or `prj.*` | community folders |
| `plain` | plain Hugging Face keys | folders; Coconut's stage 0 |

SIM-CoT adds the keys of a decoder that only training used; they are set aside and named. Nothing
else is: whatever is left over or absent is an error where the model is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.errors import ModelError

FORMS = ("coconut", "codi", "codi-folder", "plain")

AUXILIARY = ("decoder.", "expainable_llm.", "pj_in.", "pj_out.")
"""Of SIM-CoT: its training-time decoder (one name is misspelt there) and what leads to it."""

BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
"""Constants that older libraries saved among the weights."""

PROJECTION = re.compile(r"^(?:prj|projector)\.(1|3|4|ln)\.(weight|bias)$")
LAYERS = {"1": "up", "3": "down", "4": "ln", "ln": "ln"}
"""Places in CODI's projection, as `interp.latent.subjects.Projection` names them."""

LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])\.(?:(?P<adapter>[^.]+)\.)?weight$")
SHARD = re.compile(r"-(\d+)-of-(\d+)\.")
PICKLES = ("*.bin", "*.pt", "*.pth", "checkpoint_*")
NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What trainers leave beside the weights."""

Pair = tuple[Tensor, Tensor]
"""A of shape `[r, in]` and B of shape `[out, r]`."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What the files hold, under plain Hugging Face names and as they were stored."""

    form: str
    """One of `FORMS`."""
    source: Path
    weights: Mapping[str, Tensor]
    lora: Mapping[str, Pair]
    """By the name of the module that each pair is added to."""
    projection: Mapping[str, Tensor]
    """Under the names of `Projection`; empty where there is none."""
    dropped: tuple[str, ...] = ()
    """Keys set aside: an auxiliary decoder, an alias, constants."""

    @property
    def rank(self) -> int | None:
        """LoRA's r; None without LoRA."""
        return next((a.shape[0] for a, _ in self.lora.values()), None)

    @property
    def n_weights(self) -> int:
        """How many numbers it holds; an output matrix that equals the embedding counts once."""
        head = self.weights.get("lm_head.weight")
        others = [w for name, w in self.weights.items() if name != "lm_head.weight"]
        tied = head is not None and any(
            w.shape == head.shape and torch.equal(w, head) for w in others
        )
        kept = others if tied or head is None else [*others, head]
        pairs = [matrix for pair in self.lora.values() for matrix in pair]
        return sum(w.numel() for w in (*kept, *pairs, *self.projection.values()))


def read_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read a file or a folder of weights; safetensors are preferred where both lie there.

    Raises:
        ModelError: no weights, several that do not belong together, a shard that is not there, a
            pickle without `allow_pickle`, a damaged file, or keys of no known form.
    """
    tensors: dict[str, Tensor] = {}
    for file in _files(path):
        part = _read(file, allow_pickle)
        if twice := sorted(set(part) & set(tensors)):
            raise ModelError(f"{file} holds {_named(twice)} that another file of {path} holds too.")
        tensors |= part
    return sort_keys(tensors, path)


def sort_keys(tensors: Mapping[str, Tensor], source: Path) -> Checkpoint:
    """Tell the form of a checkpoint by its keys, and give its weights their plain names.

    Raises:
        ModelError: keys of two forms, more than one adapter, or half a LoRA pair.
    """
    form, prefix = _form(tensors, source)
    dropped = [key for key in tensors if _is_extra(key, form)]
    kept = {key: tensor for key, tensor in tensors.items() if key not in set(dropped)}
    projection: dict[str, Tensor] = {}
    sides: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    adapters: set[str | None] = set()
    for key, tensor in kept.items():
        if form.startswith("codi") and (place := PROJECTION.match(key)):
            projection[f"{LAYERS[place[1]]}.{place[2]}"] = tensor
        elif pair := LORA.match(key):
            adapters.add(pair["adapter"])
            sides.setdefault(_plain(pair["module"], prefix), {})[pair["side"]] = tensor
        else:
            weights[_plain(key, prefix)] = tensor
    if len(adapters) > 1:
        raise ModelError(
            f"{source} holds {len(adapters)} LoRA adapters "
            f"({', '.join(sorted(map(str, adapters)))}): save the one to be studied alone."
        )
    return Checkpoint(form, source, weights, _pairs(sides, source), projection, tuple(dropped))


def _form(keys: Iterable[str], source: Path) -> tuple[str, str]:
    """The form and the prefix of its model's keys."""
    names = list(keys)
    found = [p for p in ("base_causallm.", "codi.") if any(k.startswith(p) for k in names)]
    if len(found) > 1:
        raise ModelError(
            f"{source} holds keys of Coconut (base_causallm.*) and of CODI (codi.*), so it is "
            "neither: save one model alone."
        )
    if found == ["base_causallm."]:
        return "coconut", "base_causallm."
    if found:
        wrapped = any(k.startswith("codi.base_model.model.") for k in names)
        return "codi", "codi.base_model.model." if wrapped else "codi."
    projected = any(k.startswith(("prj.", "projector.")) for k in names)
    return ("codi-folder" if projected else "plain"), ""


def _is_extra(key: str, form: str) -> bool:
    """Whether a key is set aside: SIM-CoT's decoder, Coconut's alias, a constant."""
    aside = form in ("coconut", "codi") and key.startswith(AUXILIARY)
    alias = form == "coconut" and key == "embedding.weight"
    return aside or alias or bool(BUFFERS.search(key))


def _plain(key: str, prefix: str) -> str:
    """A key without its prefix and without the layer that LoRA puts between."""
    return key.removeprefix(prefix).replace(".base_layer.", ".")


def _pairs(sides: Mapping[str, Mapping[str, Tensor]], source: Path) -> dict[str, Pair]:
    halves = sorted(name for name, pair in sides.items() if len(pair) != 2)
    if halves:
        raise ModelError(f"{source} holds half of the LoRA pair of {_named(halves)}: load both.")
    return {name: (pair["A"], pair["B"]) for name, pair in sides.items()}


def _files(path: Path) -> list[Path]:
    """The files to read, safetensors first."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ModelError(f"There is no checkpoint {path}: name a folder or a file of weights.")
    for patterns in (("*.safetensors",), PICKLES):
        found = sorted({file for p in patterns for file in path.glob(p) if file.is_file()})
        if found := [file for file in found if file.name not in NO_WEIGHTS]:
            return _whole(path, found)
    raise ModelError(
        f"{path} holds no weights: neither *.safetensors nor {', '.join(PICKLES)} lies in it."
    )


def _whole(folder: Path, files: Sequence[Path]) -> list[Path]:
    """All shards of one model, or its one file; an index is followed where there is one."""
    indexes = sorted(folder.glob("*.index.json"))
    if indexes:
        listed = json.loads(indexes[0].read_text(encoding="utf-8")).get("weight_map", {})
        wanted = sorted({folder / name for name in listed.values()})
    else:
        wanted = _shards(folder, files)
    if gone := [file.name for file in wanted if not file.is_file()]:
        raise ModelError(f"{folder} lacks {_named(gone)} of its {len(wanted)} shards: fetch all.")
    return wanted


def _shards(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Shards by their names, which count them: `model-00001-of-00002.safetensors`."""
    counts = {match[2] for file in files if (match := SHARD.search(file.name))}
    if len(files) == 1 and not counts:
        return list(files)
    if len(counts) != 1 or not all(SHARD.search(file.name) for file in files):
        names = ", ".join(file.name for file in files)
        raise ModelError(
            f"{folder} holds {len(files)} weight files ({names}): name the one to load."
        )
    digits = next(iter(counts))
    first = files[0].name
    names = [
        SHARD.sub(f"-{i:0{len(digits)}d}-of-{digits}.", first) for i in range(1, int(digits) + 1)
    ]
    return [folder / name for name in names]


def is_pickle(file: Path) -> bool:
    """Whether a file is a pickle by its first bytes, whatever its name says."""
    with file.open("rb") as handle:
        start = handle.read(2)
    return start == b"PK" or start[:1] == b"\x80"  # a zip of torch, or an older bare pickle


def _read(file: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of one file."""
    if not is_pickle(file):
        try:
            return safetensors.torch.load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read as safetensors: {error}.") from error
    if not allow_pickle:
        raise ModelError(
            f"{file} is a pickle, which can run code as it is read, so it is refused unless "
            "allow_pickle=True; even then only its tensors are taken (weights_only)."
        )
    return _tensors(file)


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, read without running anything in it."""
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle fails in many ways; each ends as one sentence
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file} cannot be read with weights only: {first[:200]}") from error
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        inside = ", ".join(map(str, list(held)[:3])) if isinstance(held, dict) else type(held)
        raise ModelError(
            f"{file} is no bare state dict of names and tensors (it holds {inside}): save "
            "model.state_dict() alone."
        )
    return held


def _named(names: Sequence[str], most: int = 3) -> str:
    """The first names and how many more there are.

    >>> _named(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
