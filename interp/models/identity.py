"""What identifies a model: hashes of its weights, configuration and tokenizer, without building it.

A sweep asks this for every cell that it plans, so nothing here needs torch, and a large file is
hashed once: its hash is kept in the user's cache under the file's real path, and counts only while
size, time of modification and time of change are what they were. The last of these is set by the
system and not by programs, so a file that was changed and given its old date is read again.
The hash of a file that was written within `SETTLED` seconds is not kept, because a second write
could fall on the same tick of the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from interp.errors import ModelError, nearest
from interp.models import registry
from interp.models.reasoning import REASONING
from interp.models.registry import KNOWN, SMOLLM2_HUB, cache_folder, packaged_gguf

WEIGHTS = "*.safetensors"
INDEX = "*.safetensors.index.json"
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
TOKENIZER += ("chat_template*", "*.model", "*.tiktoken")
DECIDING = (WEIGHTS, INDEX, "config.json", "generation_config.json", "adapter_config.json")
DECIDING += TOKENIZER
"""Files of a model's folder that decide its answers; others (a README, a log) may change."""

LARGE = 1 << 20
"""Bytes from which the hash of a file is kept."""
SETTLED = 2.0
"""Seconds that a file must have been left alone before its hash is kept."""

_BUILDERS = {"planted-induction": ("induction.py", "tiny.py")}
_BUILDERS_OF_KIND = {"tiny": ("tiny.py",), "planted": ("planted.py", "tiny.py")}


def model_identity(
    name: str, dtype: str | None = None, revision: str | None = None
) -> dict[str, object]:
    """Return what identifies the model that `interp.load(name, dtype=dtype)` gives.

    A name made in code is identified by the source that builds it, `smollm2-135m` by the GGUF file
    that its weights are converted from, a folder and a hub id by the files that decide the answers.
    Where they lie does not count: a copy of a folder, and the hub's own copy, are the same model.
    Weights that are not here are downloaded first, where the hub may be asked.

    Args:
        name: a registry name, a local folder or a Hugging Face id.
        dtype: as for `load`; None is float32 for registry names and the weights' own for others.
        revision: of a hub id, or a folder's folder of that name: a checkpoint.

    >>> sorted(model_identity("tiny-llama"))
    ['dtype', 'name', 'source']

    Raises:
        ModelError: there is no such model here, or its folder lacks files.
    """
    known = KNOWN.get(name)
    if known is not None and known.kind == "hub":
        name, dtype, known = REASONING[name].hub, dtype or REASONING[name].dtype, None
    if known is None:
        return {"files": folder_hash(_folder(name, revision)), "dtype": dtype or "auto"}
    if revision is not None:
        raise ModelError(f"revision {revision!r}: {name} has no revisions; leave it out.")
    if known.kind == "smollm2":
        return {"name": name, **_smollm2(cache_folder() / name), "dtype": dtype or "float32"}
    files = _BUILDERS.get(name) or _BUILDERS_OF_KIND[known.kind]
    here = Path(__file__).parent
    source = _digest([file, _text_hash(here / file)] for file in files)
    return {"name": name, "source": source, "dtype": dtype or "float32"}


def folder_hash(folder: Path) -> str:
    """Hash the names and contents of the files that decide a model's answers (32 hex).

    Raises:
        ModelError: no configuration, no weights in safetensors, or a shard is missing.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model: there is no config.json in it.")
    if not any(folder.glob(WEIGHTS)):
        raise ModelError(
            f"{folder} holds no weights in safetensors, the only kind that is read: "
            "save them with `save_pretrained(folder, safe_serialization=True)`."
        )
    if missing := _missing_shards(folder):
        raise ModelError(
            f"{folder} lacks {missing[0]}, which its index of weights names: download or copy "
            "the model again."
        )
    found = {file.name: file for each in DECIDING for file in folder.glob(each) if file.is_file()}
    return _digest([name, file_sha256(found[name])] for name in sorted(found))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal; that of a large file may come from the cache.

    Raises:
        ModelError: the file cannot be read, or changes while it is read.
    """
    try:
        before, began = _signature(path), time.time_ns()
        if before["size"] < LARGE:
            return _sha256(path)
        entry = cache_folder() / "hashes" / f"{_digest(before['path'])}.json"
        if kept := _kept(entry, before):
            return kept
        found = _sha256(path)
        after = _signature(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be hashed: {error.strerror}. Check the path.") from error
    if after != before:
        raise ModelError(f"{path} changed while it was read: wait until it is whole.")
    if began - max(before["mtime_ns"], before["ctime_ns"]) > SETTLED * 1e9:
        _keep(entry, {"file": before, "sha256": found})
    return found


def _folder(name: str, revision: str | None) -> Path:
    """The folder of a model that the registry does not know; a hub id's is its local snapshot."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder if revision is None else folder / revision
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"There is no model {name!r}: it is no registry name, folder or Hugging Face id "
            f"(owner/name); `interp models` lists the names.{nearest(name, KNOWN)}"
        )
    return _snapshot(name, revision)


def _snapshot(name: str, revision: str | None = None) -> Path:
    """The newest snapshot of a hub id; the local one where the hub may not be asked."""
    from huggingface_hub import snapshot_download  # only a hub id needs it

    offline = registry.offline()
    try:
        which = {"revision": revision, "local_files_only": offline}
        return Path(snapshot_download(name, allow_patterns=list(DECIDING), **which))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reach = " (HF_HUB_OFFLINE is set)" if offline else ""
        raise ModelError(
            f"The model {name!r} is not in the local cache of the hub and could not be "
            f"downloaded{reach}: {first} Download it first, or give a folder."
        ) from error


def _smollm2(folder: Path) -> dict[str, object]:
    """The GGUF file behind the converted weights, before and after they are converted."""
    source = _converted_from(folder)
    if source is None and (gguf := packaged_gguf()):
        source = file_sha256(gguf)
    if source is not None:
        return {"gguf": source}
    return {"files": folder_hash(_snapshot(SMOLLM2_HUB))}


def _converted_from(folder: Path) -> str | None:
    """The hash of the GGUF file that a converted folder was read from; None if it is not sound."""
    try:
        hashes = json.loads((folder / "sha256.json").read_text())
        source = hashes.pop("source")
        sound = {"config.json", "model.safetensors"} <= hashes.keys() and all(
            file_sha256(folder / name) == expected for name, expected in hashes.items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ModelError):
        return None
    return source if sound else None


def _missing_shards(folder: Path) -> list[str]:
    named: set[str] = set()
    for index in folder.glob(INDEX):
        try:
            named |= set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{index} is no index of weights: download or copy the model again."
            ) from error
    return sorted(name for name in named if not (folder / name).is_file())


def _signature(path: Path) -> dict[str, Any]:
    """What changes whenever a file does."""
    real = Path(os.path.realpath(path))
    about = real.stat()
    return {
        "path": str(real),
        "size": about.st_size,
        "mtime_ns": about.st_mtime_ns,
        "ctime_ns": about.st_ctime_ns,
    }


def _kept(entry: Path, file: dict[str, Any]) -> str | None:
    """The hash that was kept for exactly this state of the file."""
    try:
        kept = json.loads(entry.read_text())
        sha256 = kept["sha256"] if kept["file"] == file else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sha256 if isinstance(sha256, str) and len(sha256) == 64 else None


def _keep(entry: Path, about: dict[str, Any]) -> None:
    """Write an entry whole or not at all; a cache that cannot be written is no matter."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=entry.parent, prefix=".part-", delete=False) as part:
            try:
                json.dump(about, part)
                part.close()
                os.replace(part.name, entry)
            except OSError:
                os.unlink(part.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_hash(path: Path) -> str:
    """The sha256 of a source file; the style of its line ends does not count."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _digest(value: str | Iterable[list[str]]) -> str:
    """The first 32 hexadecimal digits of the sha256 of text, or of pairs of texts."""
    text = value if isinstance(value, str) else json.dumps(list(value))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
