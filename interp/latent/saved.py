"""A subject in a folder: weights, configuration, tokenizer, and what kind of reasoner it is.

The folder is a Hugging Face folder, so `interp.load` and `transformers` read its model too; the
projection of CODI stands among the weights under `prj.`, and `latent.json` holds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from interp.errors import InputError, ModelError
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout
from interp.latent.subjects import Coconut, Codi, NoLatents, NoRecurrence, Pause, Projection

WEIGHTS, ABOUT = "model.safetensors", "latent.json"
FILES = (WEIGHTS, "config.json", "tokenizer.json")
"""What every folder holds beside `ABOUT`."""
PROJECTION = "prj."
KINDS: Mapping[str, type[HFSubject]] = {
    "coconut": Coconut,
    "codi": Codi,
    "pause": Pause,
    "no_recurrence": NoRecurrence,
    "no_latents": NoLatents,
}
"""Without `explicit`, which is imported when it is asked for."""


def save_subject(
    subject: HFSubject, folder: str | Path, notes: Mapping[str, object] | None = None
) -> None:
    """Write a subject, `latent.json` last; what of it stood there before is overwritten.

    Args:
        subject: of a kind in `KINDS`, or explicit.
        folder: made where it is missing.
        notes: kept beside the kind, for whoever reads the file; must be JSON.

    Raises:
        InputError: a subject of another kind.
    """
    about = _about(subject)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_weights(subject), folder / WEIGHTS, metadata={"format": "pt"})
    subject.hf.config.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    text = json.dumps({**about, "notes": dict(notes or {})}, indent=2, allow_nan=False)
    (folder / ABOUT).write_text(text + "\n")


def load_subject(folder: str | Path) -> HFSubject:
    """Read a subject that `save_subject` wrote, in eval mode, on the CPU.

    Raises:
        ModelError: no such folder, a file or a setting missing, or weights of another model.
    """
    folder = Path(folder)
    about = _read(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            config = AutoConfig.from_pretrained(folder)
            hf: Any = AutoModelForCausalLM.from_config(config)
            subject = _subject(about, hf.eval(), tokenizer)
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / ABOUT} lacks what a subject of kind {about['kind']!r} needs or holds what "
            f"it does not ({error}): write it again with `save_subject`."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} cannot be read: {str(error).strip().splitlines()[0]} Write it again with "
            "`save_subject`."
        ) from error
    _fill(subject, folder)
    return subject


def kind_of(subject: HFSubject) -> str:
    """Name of a subject's kind.

    Raises:
        InputError: a class that is none of them.
    """
    kinds = {**KINDS, "explicit": _explicit()}
    for kind, made in kinds.items():
        if type(subject) is made:
            return kind
    raise InputError(
        f"{subject.name} is a {type(subject).__name__}, which has no saved form: there are "
        f"{', '.join(sorted(kinds))}."
    )


def class_of(kind: str) -> Any:
    """The class of a kind; what it is called with depends on the kind."""
    return _explicit() if kind == "explicit" else KINDS[kind]


def _explicit() -> type[HFSubject]:
    """Imported when it is asked for."""
    return import_module("interp.latent.explicit").Explicit


def _about(subject: HFSubject) -> dict[str, Any]:
    """What the weights and the tokenizer do not say."""
    about: dict[str, Any] = {"kind": kind_of(subject), "n_steps": subject.n_steps}
    about["layout"] = asdict(subject.layout)
    if isinstance(subject, Codi):
        projection: Any = subject.projection
        about["projection"] = {"d_inner": projection.up.out_features}
    if isinstance(subject, Pause):
        about["pause_token"] = subject.tokenizer.convert_ids_to_tokens(subject.token_id)
    if about["kind"] == "explicit":
        about["max_step_tokens"] = subject.max_step_tokens  # type: ignore[attr-defined]
    return about


def _weights(subject: HFSubject) -> dict[str, Tensor]:
    """All weights, those that are tied once."""
    names: set[str] = set(subject.hf.state_dict())
    if subject.hf.config.tie_word_embeddings:
        names -= set(_tied(subject.hf))
    made = {name: subject.hf.state_dict()[name] for name in names}
    if isinstance(subject, Codi):
        made |= {PROJECTION + k: v for k, v in subject.projection.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(made.items())}


def _tied(hf: PreTrainedModel) -> list[str]:
    """Names of the unembedding's weights where they are the embedding's."""
    unembed: Any = hf.get_output_embeddings()
    return [f"{name}.weight" for name, module in hf.named_modules() if module is unembed]


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / ABOUT).is_file():
        raise ModelError(
            f"{folder} holds no latent subject: there is no {ABOUT} in it. Give a folder that "
            "`save_subject` wrote, or read a published checkpoint with `load_checkpoint`."
        )
    try:
        about: Any = json.loads((folder / ABOUT).read_text())
    except ValueError as error:
        raise ModelError(f"{folder / ABOUT} is no JSON ({error}): write it again.") from error
    known = sorted([*KINDS, "explicit"])
    if not isinstance(about, dict) or about.get("kind") not in known:
        kind = about.get("kind") if isinstance(about, dict) else None
        raise ModelError(f"{folder / ABOUT} names the kind {kind!r}; there are {', '.join(known)}.")
    for name in FILES:
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not whole: there is no {name} in it. Copy it there, or write the "
                "folder again with `save_subject`."
            )
    return about


def _subject(about: Mapping[str, Any], hf: PreTrainedModel, tokenizer: Any) -> HFSubject:
    """The subject that the notes describe; its weights are still random."""
    kind: str = about["kind"]
    given: dict[str, Any] = {"layout": Layout(**about["layout"]), "name": kind}
    if kind != "no_latents":
        given["n_steps"] = about["n_steps"]
    if kind == "pause":
        given["token"] = about["pause_token"]
    if kind == "explicit":
        given["max_step_tokens"] = about["max_step_tokens"]
    if kind == "codi":
        d_inner = about["projection"]["d_inner"]
        given["projection"] = Projection(hf.config.hidden_size, d_inner).eval()
    return class_of(kind)(hf, tokenizer, **given)


def _fill(subject: HFSubject, folder: Path) -> None:
    """Put the folder's weights into a subject.

    Raises:
        ModelError: weights are missing, or are of another model.
    """
    found, wanted = load_file(folder / WEIGHTS), _weights(subject)
    wrong = sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    )
    if wrong:
        raise ModelError(
            f"{folder / WEIGHTS} is not of the model in config.json and {ABOUT}: {wrong[0]!r} is "
            f"missing, left over or of another shape ({len(wrong)} such weights)."
        )
    own = {k: v for k, v in found.items() if not k.startswith(PROJECTION)}
    dtype = next(iter(own.values())).dtype
    network: Any = subject.hf
    network.to(dtype).load_state_dict(own, strict=False)  # tied ones are left out of the file
    if isinstance(subject, Codi):
        named = {k.removeprefix(PROJECTION): v for k, v in found.items() if k not in own}
        subject.projection.to(dtype).load_state_dict(named)
