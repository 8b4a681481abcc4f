"""Grid files: one YAML file says which cells a sweep computes, and is checked whole first.

    experiment: tts                     # a name of the workbench, or module:attribute
    base: {input: problems.jsonl}       # fields of the configuration that all cells share
    axes:
      product: {model: [tiny-llama, tiny-gpt2], preset: [default, paper]}
      zip: {layer: [1, 2], site: [a, b]}    # go together; or a list of such mappings
      list: [{dtype: float32}, {dtype: float64, exact: true}]     # written out
    seeds: 3                            # 0, 1, 2 in the field `seed`; or a list
    exclude: [{model: tiny-gpt2, preset: [paper, other]}]    # cells that match every field named
    tries: 2                            # attempts a cell; with limits of time and memory:
    seconds: 600
    memory_gib: 8

The groups multiply, the first varies slowest and the seeds fastest. `axes` may also be a list of
such mappings. A list under a field of `exclude` names alternatives; a value that is itself a list
stands in a list of its own. Paths count from the folder of the grid file. Values are read by the
rules of YAML 1.2: `1e-3` is a number, `yes`, `no` and dates are text.

Reading a grid imports the experiment's module and makes its configurations; it runs nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import inf, prod
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.sweeps.experiment import find
from interp.sweeps.grid_axes import MAX_CELLS, read_axes, read_seeds
from interp.sweeps.grid_cells import Draft, excluded, make_cells
from interp.sweeps.grid_fields import Fields, typed
from interp.sweeps.grid_values import plain, shown, token
from interp.sweeps.grid_words import Mistakes, no_field
from interp.sweeps.grid_yaml import load


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid as read: every cell's configuration is made and has passed its own checks."""

    name: str
    """The stem of the file: letters, digits, `.`, `_` and `-`, so it can name a folder."""
    experiment: str
    """As the file names it; `interp.sweeps.experiment.find` takes it."""
    cells: tuple[Any, ...]
    """The configurations in the order written, each once."""
    tries: int = 1
    """Attempts a cell."""
    seconds: float | None = None
    """Time limit of one attempt."""
    memory_gib: float | None = None
    """Memory limit of one attempt."""
    text: str = field(repr=False)
    """The file as read."""
    axes: tuple[str, ...]
    """The fields that axes set, `seed` last where there are seeds."""
    normal: Mapping[str, Any] = field(repr=False)
    """The grid in its normal form; use `as_json`."""

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """The fields that differ between cells, in the order of the configuration."""
        first = self.cells[0]

        def varies(name: str) -> bool:
            one = getattr(first, name)
            mark = token(one)
            others = (getattr(cell, name) for cell in self.cells)
            return any(other is not one and token(other) != mark for other in others)

        return tuple(f.name for f in fields(first) if varies(f.name))

    def as_json(self) -> dict[str, Any]:
        """Return the grid in its normal form, for a manifest.

        As JSON text in ASCII, with keys in any order, it is a grid file of the same cells.
        """
        return deepcopy(dict(self.normal))


SECTIONS: dict[str, Any] = {
    "experiment": str,
    "base": dict[str, Any],
    "axes": dict[str, Any] | list[dict[str, Any]],
    "seeds": int | list[int],
    "exclude": list[dict[str, Any]],
    "tries": int,
    "seconds": float,
    "memory_gib": float,
}
"""What a grid file may hold, and the type of each."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def read_grid(path: Path | str) -> Grid:
    """Read and check a grid file.

    Raises:
        InputError: it is no UTF-8 text, no YAML, or breaks a rule; several breaches are numbered.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"The grid file {path} cannot be read: {error.strerror}. Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The grid file {path} is no UTF-8 text (byte {error.start}): save it as UTF-8."
        ) from error
    return _grid(text, path.stem, folder=path.absolute().parent, source=str(path))


def parse_grid(text: str, name: str) -> Grid:
    """Check the text of a grid file; its paths count from the working folder.

    Raises:
        InputError: it is no YAML, or breaks a rule; several breaches are numbered.
    """
    return _grid(text, name, folder=Path().absolute(), source=name)


def _grid(text: str, name: str, *, folder: Path, source: str) -> Grid:
    """Read in stages: what is wrong in one is told together, and the next is not begun."""
    wrong = Mistakes(source)
    if not _NAME.fullmatch(name):
        wrong.append(
            f"the name {name!r} cannot name a folder: use up to 100 letters, digits, '.', '_' "
            "and '-'."
        )
    top = _sections(load(text, source), wrong)
    wrong.stop()
    with wrong.noted():
        known = Fields(find(top["experiment"]), folder)
    wrong.stop()
    draft = _draft(top, known, wrong)
    wrong.stop()
    _check_draft(draft, wrong)
    wrong.stop()
    taken = excluded(draft, wrong)
    wrong.stop()
    cells = make_cells(draft, taken, wrong)
    wrong.stop()
    return Grid(
        name=name,
        experiment=top["experiment"],
        cells=tuple(cells),
        text=text,
        axes=tuple(name for group in draft.groups for name in group.names),
        normal=_normal(top, draft),
        **{key: top[key] for key in ("tries", "seconds", "memory_gib") if key in top},
    )


def _sections(raw: object, wrong: Mistakes) -> dict[str, Any]:
    """Return the parts of a grid file, each of its type; what is wrong is noted."""
    top: dict[str, Any] = {}
    if not isinstance(raw, dict):
        wrong.append(f"a grid is a mapping, not {shown(raw)}: begin with 'experiment: NAME'.")
        return top
    for name, value in raw.items():
        with wrong.noted():
            if name not in SECTIONS:
                raise InputError(no_field("a grid", name, SECTIONS))
            top[name] = typed(repr(name), SECTIONS[name], value)
            if name in ("tries", "seconds", "memory_gib"):
                _check_limit(name, top[name])
    if "experiment" not in raw:
        wrong.append("the grid names no experiment: add 'experiment: NAME'.")
    return top


def _check_limit(name: str, value: int | float) -> None:
    if name == "tries" and value < 1:
        raise InputError(
            f"'tries' is {value}, and a cell needs at least 1 attempt: give 1 or more."
        )
    if not 0 < value < inf:
        raise InputError(
            f"{name!r} is {value}, and a limit is above 0 and finite: change it, or leave it out."
        )


def _draft(top: Mapping[str, Any], known: Fields, wrong: Mistakes) -> Draft:
    """Return what the sections say, each value typed; what is wrong is noted."""
    base = known.row("base", top.get("base", {}), wrong)
    groups = read_axes(top.get("axes"), known, wrong)
    groups += read_seeds(top.get("seeds"), known, wrong)
    exclude = [
        _exclusion(f"exclusion {n}", each, known, wrong)
        for n, each in enumerate(top.get("exclude", ()), start=1)
    ]
    return Draft(known, base, groups, exclude)


def _exclusion(
    where: str, raw: Mapping[str, Any], known: Fields, wrong: Mistakes
) -> dict[str, list[Any]]:
    """Return the values by which one exclusion matches; a list names alternatives."""
    if not raw:
        wrong.append(f"{where} names no field, so it takes every cell: name one, or remove it.")
    return {
        name: known.column(where, name, value if isinstance(value, list) else [value], wrong)
        for name, value in raw.items()
    }


def _check_draft(draft: Draft, wrong: Mistakes) -> None:
    """Note a field set twice or not at all, and a grid that is too large."""
    owners: dict[str, str] = {}
    for group in draft.groups:
        for name in group.names:
            if name in owners:
                wrong.append(
                    f"{name!r} stands in two axes, {owners[name]} and {group.kind}: keep one."
                )
            owners[name] = group.kind
    for name in draft.base:
        if name in owners:
            wrong.append(
                f"base sets {name!r}, and {owners[name]} replaces it in every cell: remove one of "
                "the two."
            )
    for name in draft.known.hints:
        if name not in {*draft.base, *owners, *draft.known.defaults}:
            wrong.append(
                f"the experiment {draft.known.owner!r} needs a {name!r}, which has no default: set "
                "it in base or in an axis."
            )
    size = prod(len(group.rows) for group in draft.groups)
    if size > MAX_CELLS:
        wrong.append(
            f"the axes make {size:,} cells, and a grid has at most {MAX_CELLS:,}: split it."
        )


def _normal(top: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    """Return the one form of a grid: typed values, groups in a list, seeds written out."""
    seeds = [row["seed"] for group in draft.groups if group.kind == "seeds" for row in group.rows]
    parts = {
        "experiment": top["experiment"],
        "base": plain(draft.base),
        "axes": [group.as_json() for group in draft.groups if group.kind != "seeds"],
        "seeds": plain(seeds),
        "exclude": plain(draft.exclude),
    }
    limits = {key: top[key] for key in ("seconds", "memory_gib") if key in top}
    given = {key: value for key, value in parts.items() if value}
    return {**given, "tries": top.get("tries", 1), **limits}
