"""What studies share: parts that are made or left out, rows, and copies of records.

A study is a run and the parts that are built on it, each in a folder inside it. What a subject
cannot have is left out, and the sentence that says why stands in the notes of the run's manifest.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from interp.errors import InputError, SilentEditError
from interp.jobs import runs
from interp.results import Store, cell_key

KEPT_FILES = ("direction.safetensors", "pruned.jsonl")
"""What a copy holds beside manifest and tables; control directions come back from their seeds."""


@dataclass(frozen=True)
class Part:
    """What became of one part."""

    part: str
    status: Literal["done", "skipped"]
    said: tuple[str, ...]
    """Its warnings; or why the subject cannot have it."""
    cpu_seconds: float
    """Of all starts together."""


@dataclass(frozen=True)
class Study:
    """A subject's records, and what became of each part."""

    folder: Path
    parts: tuple[Part, ...]


def make_part(
    folder: Path,
    name: str,
    job: Callable[[], tuple[str, ...]],
    begun: float | None = None,
    *,
    first: str = "scores",
) -> Part:
    """Run one part, and note it; what the subject cannot have is skipped with its sentence.

    Args:
        folder: of the run, which the part called `first` makes.
        job: makes the part and returns its warnings.
        begun: CPU time at which its work began; by default now.

    Raises:
        InputError: there is no first part, so nothing to note it in.
    """
    begun = time.process_time() if begun is None else begun
    status: Literal["done", "skipped"] = "done"
    try:
        said = tuple(dict.fromkeys(job()))
    except (InputError, SilentEditError) as error:
        if name == first and not (folder / "manifest.json").is_file():
            raise
        status, said = "skipped", (str(error),)
    store = Store.open(folder)
    before: Any = store.manifest.notes.get("study", [])
    earlier = sum(row["cpu_seconds"] for row in before if row["part"] == name)
    part = Part(name, status, said, round(earlier + time.process_time() - begun, 1))
    kept = [row for row in before if row["part"] != name]
    store.update_manifest(notes=_notes(store.manifest.notes, [*kept, asdict(part)], first))
    return part


def _notes(
    notes: Mapping[str, object], parts: Sequence[Mapping[str, Any]], first: str
) -> dict[str, object]:
    """The notes of a run with what became of its parts; a report shows the warnings.

    Those of a part that was made stand in its own folder.
    """
    warnings = [said for row in parts if row["part"] == first for said in row["said"]]
    left_out = [
        f"{row['part']} was left out: {' '.join(row['said'])}"
        for row in parts
        if row["status"] == "skipped"
    ]
    return {**notes, "study": list(parts), "warnings": [*warnings, *left_out]}


# ---------------------------------------------------------------- rows of a study without a run


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to `rows.jsonl` in a folder that is made, floats to six places."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(rounded(row)) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return a value with its floats to six places.

    >>> rounded({"share": 1 / 3, "by map": {"orthogonal": 0.5}, "n": 3})
    {'share': 0.333333, 'by map': {'orthogonal': 0.5}, 'n': 3}
    """
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


# ---------------------------------------------------------------- copies


def condense(folder: Path, out: Path) -> Path:
    """Copy the records of a study with all cells of a run as one; an older copy is replaced.

    Many small cells are mostly file headers: a copy takes a tenth of the room. It is read just as
    the run is, but is not gone on with. Reports, which the tables give again, stay behind.

    Raises:
        InputError: `out` holds something else than such a copy.
        StoreError: there are no records.
    """
    whole = Store.open(folder)
    _require_copy(out)
    shutil.rmtree(out, ignore_errors=True)
    _copy(whole, out, {})
    parts = [folder / name for name in runs.PARTS]
    made = [Store.open(part) for part in parts if (part / "manifest.json").is_file()]
    made = [part for part in made if part.keys()]
    if made:
        rows = runs.identity(Store.open(out))
        for part in made:
            _copy(part, out / part.folder.name, rows)
    return out


def _require_copy(out: Path) -> None:
    if not out.exists():
        return
    if not (out / "manifest.json").is_file() or "condensed" not in Store.open(out).manifest.notes:
        raise InputError(f"{out} is no copy of earlier records, so it is not replaced: move it.")


def _copy(store: Store, out: Path, rows: Mapping[str, object]) -> None:
    """Copy one run; `rows` is what a part depends on, in the words of the copied scores."""
    about, keys = store.manifest, store.keys()
    identity: dict[str, object] = {"condensed": keys, "of": about.settings_hash}
    key = cell_key(identity)
    notes = {**about.notes, "condensed": f"{len(keys)} cells as one"}
    manifest = replace(about, notes=notes, data={**about.data, **rows}, order=[key])
    tables = {name: store.rows(name) for name in runs.table_names(store)}
    Store.begin(out, manifest).write(key, identity, tables, about.spent)
    (out / ".lock").unlink(missing_ok=True)
    for name in KEPT_FILES:
        if (store.folder / name).is_file():
            shutil.copyfile(store.folder / name, out / name)


def table(study: Study) -> Table:
    """Lay out what became of each part."""
    laid = Table("part", "", "CPU s", "said", title=str(study.folder))
    for part in study.parts:
        laid.add_row(part.part, part.status, f"{part.cpu_seconds:.0f}", "\n".join(part.said))
    return laid
