"""What a run was: what must be the same to resume it, and what helps to make it again.

A manifest is one JSON object beside the records. Its `settings_hash` covers what decides the
numbers: experiment, settings, model, data, schema and the method's own code. When, where and
by which command the run was made stands beside it and decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from interp.errors import InputError, StoreError

SCHEMA = 1
"""Version of the layout of manifests and cells; a reader refuses a newer one."""

OLDEST = 1
"""The oldest layout that is read as it is; `interp.results.migrate` rewrites what is older."""

PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight", "numpy", "interp-workbench")
"""Packages whose versions a manifest notes."""

PLACES = frozenset({"name", "path", "folder", "file", "source", "device"})
"""Keys of `model` and `data` that say where a thing is. They count only if no hash says what."""

_GIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that identifies a run, and everything needed to make it again."""

    experiment: str
    """Name of the experiment's module."""
    settings: dict[str, object]
    """The full configuration, defaults included."""
    model: dict[str, object]
    """The model, with the hashes of its weights and tokenizer."""
    data: dict[str, object]
    """The data, with its hash."""
    seeds: list[int]
    """Every seed used. Cells carry their own, so a resumed run may add some."""
    versions: dict[str, str | None]
    """Versions of packages (None: not installed), of Python and of the platform."""
    commit: str | None
    """Commit of the workbench's source tree, `-dirty` where files differ; None outside git."""
    device: str
    """Where the model ran, such as `cpu` or `cuda:0`."""
    threads: int
    """Threads for arithmetic on the CPU."""
    command: list[str]
    """The command line."""
    created: str
    """When the run began: UTC, ISO 8601."""
    code: str
    """Hash of the source files that decide the numbers (`source_hash`)."""
    schema: int = SCHEMA
    """Version of the layout of the files."""
    spent: dict[str, float | int] = field(default_factory=dict)
    """What the run cost, such as seconds, forwards and tokens."""
    order: list[str] | None = None
    """Keys of the cells in the order in which they should be read."""
    resumed: list[dict[str, object]] = field(default_factory=list)
    """One entry for each time the run went on elsewhere: another device, commit or version."""
    notes: dict[str, object] = field(default_factory=dict)
    """Anything else worth keeping."""

    @property
    def identity(self) -> dict[str, object]:
        """The part that must be equal for a run to be resumed."""
        return {
            "experiment": self.experiment,
            "settings": self.settings,
            "model": identifying(self.model),
            "data": identifying(self.data),
            "schema": self.schema,
            "code": self.code,
        }

    @property
    def settings_hash(self) -> str:
        """32 hexadecimal digits that stand for `identity`."""
        return digest(self.identity)


def identifying(part: Mapping[str, object]) -> dict[str, object]:
    """Return what identifies a model or a data set: where it lies counts only without a hash.

    >>> identifying({"path": "/a/b", "hash": "f00", "dtype": "float32"})
    {'hash': 'f00', 'dtype': 'float32'}
    >>> identifying({"name": "tiny"})
    {'name': 'tiny'}
    """
    hashed = any(value for key, value in part.items() if "hash" in key or "sha256" in key)
    return {key: value for key, value in part.items() if not (hashed and key in PLACES)}


def collect(
    *,
    experiment: str,
    settings: Mapping[str, object],
    model: Mapping[str, object],
    data: Mapping[str, object],
    seeds: Iterable[int],
    device: str,
    code: str,
    threads: int | None = None,
    command: Sequence[str] | None = None,
) -> Manifest:
    """Make the manifest of a run that begins now, in this process.

    `threads` is torch's own number where torch is loaded, else `OMP_NUM_THREADS` or the cores.

    Raises:
        InputError: settings, model or data hold something that JSON cannot, NaN included.
    """
    return Manifest(
        experiment=experiment,
        settings=as_json(settings, "settings"),
        model=as_json(model, "model"),
        data=as_json(data, "data"),
        seeds=list(seeds),
        versions=versions(),
        commit=commit_of(Path(__file__)),
        device=device,
        threads=thread_count() if threads is None else threads,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else list(command),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code=code,
    )


def resume(stored: Manifest, now: Manifest) -> Manifest:
    """Return the stored manifest with the seeds, and the new circumstances if any, of `now`."""
    circumstances = ("device", "threads", "commit", "versions")
    seeds = stored.seeds + [seed for seed in now.seeds if seed not in stored.seeds]
    latest = stored.resumed[-1] if stored.resumed else asdict(stored)
    if all(latest[name] == getattr(now, name) for name in circumstances):
        return replace(stored, seeds=seeds)
    entry = {name: getattr(now, name) for name in ("created", "command", *circumstances)}
    return replace(stored, seeds=seeds, resumed=[*stored.resumed, entry])


def versions() -> dict[str, str | None]:
    """Return the versions of `PACKAGES`, of Python and of the platform; imports none of them."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"python": platform.python_version(), "platform": platform.platform()}


def thread_count() -> int:
    """Return the threads that arithmetic uses in this process, without loading torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else os.cpu_count() or 1


def commit_of(source: Path) -> str | None:
    """Return the commit of the checkout that tracks the file `source`; None where none does.

    `-dirty` is added when a Python file of that checkout differs from the commit or is new. An
    installed package inside somebody else's repository is not tracked there, so it has none.
    Never raises: a missing or failing git means None.
    """
    folder = source.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", ":/*.py")
    if commit is None or changed is None:
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str | None:
    # GIT_DIR and its kin, set by a hook or a caller, would point at another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def source_hash(paths: Iterable[Path | str]) -> str:
    """Hash source files, and the Python files of folders; the order of `paths` does not count.

    Only names and contents count, not the place of the checkout or the style of line ends.

    Raises:
        InputError: a path does not exist, or there is none.
    """
    files = [file for path in paths for file in _python_files(Path(path))]
    if not files:
        raise InputError("No source file was given to hash: name those that decide the numbers.")
    texts = [(file.name, file.read_bytes().replace(b"\r\n", b"\n")) for file in files]
    return digest(sorted([name, hashlib.sha256(text).hexdigest()] for name, text in texts))


def _python_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    if not path.is_file():
        raise InputError(f"There is no source file {path} to hash: check the path.")
    return [path]


def file_hash(path: Path | str) -> str:
    """Return the sha256 of a file in hexadecimal.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be hashed: {error.strerror}. Check the path.") from error


def digest(value: object) -> str:
    """Return the first 32 hexadecimal digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def canonical_json(value: object, what: str = "The value") -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'

    Raises:
        InputError: the value holds NaN, infinity or an object that JSON does not have.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be written as JSON: {error}. "
            "Use finite numbers, text, lists and mappings with text keys."
        ) from error


def as_json(value: Mapping[str, object], what: str) -> dict[str, object]:
    """Return a mapping as it will be read back: tuples become lists, keys become text."""
    return json.loads(canonical_json(value, what))


def parse_json(text: bytes | str) -> object:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, is cut short or holds NaN or infinity.
    """

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_json(path: Path) -> object:
    """Read a JSON file.

    Raises:
        ValueError: it is not JSON, is cut short or holds NaN or infinity.
    """
    return parse_json(path.read_bytes())


def json_bytes(value: object, what: str) -> bytes:
    """Return a value as the text of a JSON file.

    Raises:
        InputError: the value holds NaN, infinity or an object that JSON does not have.
    """
    canonical_json(value, what)  # refuses in one sentence
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all: a reader finds the old file or the new one."""
    replace_file(path, json_bytes(value, path.name))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, new or in place of an old one, whole or not at all."""
    part = path.with_name(part_name())
    try:
        write_bytes(part, data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder (POSIX; elsewhere there is no such call)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_name() -> str:
    """Return a new name for something unfinished: it tells the process and the machine."""
    return f".part-{os.getpid()}-{machine()}-{secrets.token_hex(4)}"


def machine() -> str:
    """Return eight hexadecimal digits that stand for this machine's processes.

    Two containers of one name have process numbers of their own, so they are two machines.
    """
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        processes = ""
    return hashlib.sha256(f"{socket.gethostname()} {processes}".encode()).hexdigest()[:8]


def refuse_schema(schema: int, what: str, address: str) -> None:
    """Refuse a record whose layout this version does not read.

    Raises:
        StoreError: it is newer, or older than `OLDEST`; says what to do.
    """
    if schema > SCHEMA:
        raise StoreError(
            f"{what} has schema {schema} and this version reads up to {SCHEMA}: "
            "update interp-workbench."
        )
    if schema < OLDEST:
        raise StoreError(
            f"{what} has schema {schema} and this version reads from {OLDEST} on: "
            f"run `python -m interp.results.migrate {shlex.quote(address)}`."
        )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest whole or not at all."""
    write_json(path, asdict(manifest))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        StoreError: it is missing, cut short, incomplete, or of a newer schema.
    """
    try:
        stored = read_json(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check the folder.") from error
    except ValueError as error:
        raise StoreError(
            f"{path} is cut short or damaged ({error}). Restore it, or pick another folder."
        ) from error
    return _manifest(path, stored)


def _manifest(path: Path, stored: object) -> Manifest:
    if not isinstance(stored, dict) or not isinstance(stored.get("schema"), int):
        raise StoreError(f"{path} is not a manifest: it has no schema. Check the folder.")
    refuse_schema(stored["schema"], str(path), str(path.parent))
    needed = {f.name for f in fields(Manifest) if f.default is f.default_factory is MISSING}
    if missing := sorted(needed - stored.keys()):
        raise StoreError(f"{path} lacks {', '.join(missing)}. Restore it, or pick another folder.")
    known = {f.name for f in fields(Manifest)}
    if unknown := sorted(stored.keys() - known):
        raise StoreError(f"{path} has unknown fields: {', '.join(unknown)}. Remove them.")
    return Manifest(**stored)


def first_difference(stored: object, now: object, name: str = "") -> tuple[str, str, str] | None:
    """Return the name of the first field that differs, with both values; None if none does.

    >>> first_difference({"a": 1, "b": {"c": [2, 4]}}, {"a": 1, "b": {"c": [2, 3]}})
    ('b.c[1]', '4', '3')
    >>> first_difference({}, {"a": 1})
    ('a', 'absent', '1')
    """
    if isinstance(stored, dict) and isinstance(now, dict):
        keys = [*stored, *(key for key in now if key not in stored)]
        inner = (
            (stored.get(key, MISSING), now.get(key, MISSING), f"{name}.{key}".lstrip("."))
            for key in keys
        )
        return next(filter(None, (first_difference(*each) for each in inner)), None)
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        items = enumerate(zip(stored, now, strict=True))
        inner = ((a, b, f"{name}[{i}]") for i, (a, b) in items)
        return next(filter(None, (first_difference(*each) for each in inner)), None)
    before, after = (_shown(side) for side in (stored, now))
    return None if before == after else (name, _short(before), _short(after))


def _shown(value: object) -> str:
    return "absent" if value is MISSING else canonical_json(value)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
