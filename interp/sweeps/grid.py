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

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache, cached_property
from itertools import product
from math import inf, isfinite, prod
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from interp.errors import InputError, InterpError, nearest
from interp.results.manifest import canonical_json
from interp.sweeps.experiment import Experiment, find

MAX_CELLS = 1_000_000
"""The most cells that one grid may have, before exclusions."""

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
_SHOWN = 5  # cells that their own checks refuse are named up to this number of reasons


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
            token = _token(getattr(first, name))
            same = getattr(first, name)
            values = (getattr(cell, name) for cell in self.cells)
            return any(value is not same and _token(value) != token for value in values)

        return tuple(f.name for f in fields(first) if varies(f.name))

    def as_json(self) -> dict[str, Any]:
        """Return the grid in its normal form, for a manifest.

        As JSON text in ASCII, with keys in any order, it is a grid file of the same cells.
        """
        return deepcopy(dict(self.normal))


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
    wrong = _Mistakes(source)
    with wrong.noted():
        _check_name(name)
    top = _sections(_load(text, source), wrong)
    wrong.stop()
    with wrong.noted():
        known = _Fields(find(top["experiment"]), folder)
    wrong.stop()
    plan = _read_plan(top, known, wrong)
    wrong.stop()
    _check_plan(plan, wrong)
    wrong.stop()
    taken = _exclusions(plan, wrong)
    wrong.stop()
    cells = _cells(plan, taken, wrong)
    wrong.stop()
    return Grid(
        name=name,
        experiment=top["experiment"],
        cells=tuple(cells),
        text=text,
        axes=tuple(name for group in plan.groups for name in group.names),
        normal=_normal(top, plan),
        **{key: top[key] for key in ("tries", "seconds", "memory_gib") if key in top},
    )


class _Mistakes(list[str]):
    """The sentences about what is wrong, until they are raised together."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside the block, an InputError is noted and ends the block alone."""
        try:
            yield
        except InputError as error:
            self.append(str(error))

    def stop(self) -> None:
        """Raise what has been noted, if anything."""
        if len(self) == 1:
            raise InputError(f"{self.source}: {self[0]}")
        if self:
            lines = (f"{n}. {sentence}" for n, sentence in enumerate(self, start=1))
            raise InputError("\n".join([f"{self.source}: {len(self)} mistakes.", *lines]))


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Plain values by the core schema of YAML 1.2; no tags, no aliases, each key once.

    YAML 1.1, PyYAML's own, takes `no` for false, `12:30` for 750 and `1e-3` for text. An alias
    can stand for a value exponentially larger than the file.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {
        None: [
            (f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"))
            for kind, pattern in {
                "null": r"~|null|Null|NULL|",
                "bool": r"true|True|TRUE|false|False|FALSE",
                "int": r"[-+]?(0|[1-9][0-9]*)",
                "float": r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
                r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            }.items()
        ]
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node; refuse anchors, aliases and tags."""
        event: Any = self.peek_event()
        for part, sign in (("anchor", "& and *"), ("tag", "!")):
            if getattr(event, part, None):
                raise _Refused(f"a grid has no {part}s ({sign}): write the value itself", event)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; refuse keys that are no text, and a key written twice."""
        node: Any = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                what = f"the key {key.value}" if isinstance(key.value, str) else "a key"
                raise _Refused(f"{what} is no text: put it in quotes, or name a field", key)
            if key.value in seen:
                raise _Refused(f"{key.value!r} is written twice: keep one", key)
            seen.add(key.value)
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Return a scalar's text, with characters that JSON wrote as two escapes put together."""
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _Refused("a character is half of a pair: write it whole", node) from None


class _Refused(yaml.MarkedYAMLError):
    """YAML that a grid does not use; the problem names the next step."""

    def __init__(self, problem: str, at: Any) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)


def _load(text: str, source: str) -> object:
    """Return what a YAML text holds, as plain values.

    Raises:
        InputError: it is empty or no YAML; the sentence names the line.
    """
    try:
        loaded = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _not_yaml(source, mark.line + 1 if mark else None, _problem(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        _not_yaml(source, line, f"the character {int(error.character):#x} is no text: remove it")
    except RecursionError:
        _not_yaml(source, None, "it is nested too deep: write it flat")
    except ValueError:  # Python reads no more than thousands
        _not_yaml(source, None, "a whole number has too many digits: shorten it")
    if loaded is None:
        raise InputError(f"{source}: the grid is empty: name at least its experiment.")
    return loaded


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it is no YAML"
    if isinstance(error, _Refused):
        return problem
    if "'\\t'" in problem:
        return "YAML does not indent with tabs: use spaces"
    return f"{problem}: correct the YAML there"


def _not_yaml(source: str, line: int | None, problem: str) -> NoReturn:
    where = source if line is None else f"{source}, line {line}"
    raise InputError(f"{where}: {problem}.") from None


# ---------------------------------------------------------------- types, in words

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    NoneType: "null",
    Any: "any value",
}


def _words(hint: Any) -> str:
    """Return what a type takes, in words.

    >>> _words(tuple[int, ...]), _words(float | None)
    ('a list, each entry a whole number', 'a number or null')
    >>> _words(Literal["own", "model"])
    "one of 'own', 'model'"
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        return f"one of {', '.join(map(repr, _choices(hint)))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_words, args))
    if not isinstance(origin, type):
        return str(hint)
    if issubclass(origin, Mapping):
        return "a mapping"
    if issubclass(origin, Sequence | set | frozenset):
        if issubclass(origin, tuple) and args and Ellipsis not in args:
            return f"a list of {len(args)} ({', '.join(map(_words, args))})"
        entries = [_words(arg) for arg in args if arg is not Ellipsis]
        return f"a list, each entry {' or '.join(entries)}" if entries else "a list"
    return origin.__name__


def _choices(hint: Any) -> list[Any]:
    """Return the values that a type lists, as a file writes them."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [member.value for member in hint]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for option in _options(hint) for choice in _choices(option)]


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; of no union, nothing."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else ()


def _step(hint: Any, value: object) -> str:
    """Return what to do about a value of a wrong type: the end of a sentence."""
    options = _options(hint) or (hint,)
    if isinstance(value, str):
        if {int, float} & set(options) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", value):
            return ": remove the quotes."
        choices = [choice for choice in _choices(hint) if isinstance(choice, str)]
        hint_at = nearest(value, choices)
        return f".{hint_at}" if hint_at else ": give one."
    if str in options and isinstance(value, bool | int | float):
        return ": put it in quotes."
    if int in options and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}."
    return ": give one."


def _shown(value: object) -> str:
    """Return a value as a sentence shows it, clipped.

    >>> _shown("3"), _shown(True), _shown(None), _shown([1, "a"])
    ("the text '3'", 'true', 'empty', "the list [1, 'a']")
    """
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {_clip(value)}"
        case list():
            return f"the list {_clip(value)}" if value else "an empty list"
        case dict():
            return f"the mapping {_clip(value)}" if value else "an empty mapping"
    return _clip(value)


def _clip(value: object, limit: int = 60) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(_plain(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _typed(what: str, hint: Any, value: object) -> Any:
    """Return a value as its type has it: lists become tuples, text a path, 3 is a float of 3.0.

    Nothing else is converted: neither "3" nor true is a whole number.

    Raises:
        InputError: the value does not fit, or no file can hold one that does.
    """
    try:
        adapter = _adapter(hint)
    except PydanticSchemaGenerationError as error:
        raise InputError(
            f"{what} takes {_words(hint)}, which a grid file cannot hold: leave its default."
        ) from error
    try:
        found = adapter.validate_json(json.dumps(value), strict=True, extra="forbid")
    except ValidationError:
        raise InputError(
            f"{what} is {_shown(value)}, and takes {_words(hint)}{_step(hint, value)}"
        ) from None
    return found


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint)


def _refuse_infinite(what: str, value: object) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{what} is {value}, and takes finite numbers alone: give one.")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _refuse_infinite(what, each)


def _plain(value: object) -> Any:
    """Return a configuration's value as JSON has it."""
    match value:
        case Path():
            return str(value)
        case Enum():
            return _plain(value.value)
        case set() | frozenset():
            return sorted(map(_plain, value))
        case list() | tuple():
            return [_plain(each) for each in value]
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value


def _token(value: object) -> str:
    """Return a text that is equal for equal values: 1, 1.0 and true are three."""
    return canonical_json(_plain(value))


# ---------------------------------------------------------------- fields of the configuration


class _Fields:
    """The fields of an experiment's configuration: what each takes, and its default."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.owner, self.config, self.folder = experiment.name, experiment.config, folder
        if not is_dataclass(self.config):
            raise InputError(f"the configuration of {self.owner!r} is no dataclass: make it one.")
        known, hints = [f for f in fields(self.config) if f.init], get_type_hints(self.config)
        self.hints = {f.name: hints[f.name] for f in known}
        self.defaults = {f.name: f.default for f in known if f.default is not MISSING}
        self.defaults |= {
            f.name: f.default_factory() for f in known if f.default_factory is not MISSING
        }

    def typed(self, where: str, name: str, value: object) -> Any:
        """Return the value of a field, paths put into the grid's folder.

        Raises:
            InputError: there is no such field, or the value is of another type.
        """
        if name not in self.hints:
            raise InputError(_no_field(f"{where}: the experiment {self.owner!r}", name, self.hints))
        what = f"{where}: {name!r}"
        found = _typed(what, self.hints[name], value)
        _refuse_infinite(what, found)
        return self._placed(found)

    def row(self, where: str, values: Mapping[str, object], wrong: _Mistakes) -> dict[str, Any]:
        """Return the values of several fields; what is wrong is noted."""
        found = {}
        for name, value in values.items():
            with wrong.noted():
                found[name] = self.typed(where, name, value)
        return found

    def column(self, where: str, name: str, values: object, wrong: _Mistakes) -> list[Any]:
        """Return the values that an axis gives one field; what is wrong is noted.

        Raises:
            InputError: the field does not exist, or its values are no list.
        """
        if name not in self.hints:
            self.typed(where, name, None)
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{where}: {name!r} is {_shown(values)}, and takes a list of values: give some."
            )
        found = []
        for value in values:
            with wrong.noted():
                found.append(self.typed(where, name, value))
        return found

    def _placed(self, value: Any) -> Any:
        if isinstance(value, Path):
            return self.folder / value  # an absolute path stays as it is
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(self._placed(each) for each in value)
        if isinstance(value, dict):
            return {key: self._placed(each) for key, each in value.items()}
        return value


def _no_field(owner: str, word: str, known: Iterable[str]) -> str:
    hint = nearest(word, known) or f" There are: {', '.join(known)}."
    return f"{owner} has no field {word!r}.{hint}"


# ---------------------------------------------------------------- what is written


@dataclass(frozen=True)
class _Group:
    """Rows of fields that vary together; groups multiply."""

    kind: str
    rows: tuple[dict[str, Any], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.rows[0])

    @property
    def label(self) -> str:
        return f"{self.kind} ({', '.join(self.names)})"

    def as_json(self) -> dict[str, Any]:
        rows = [_plain(row) for row in self.rows]
        if self.kind == "list":
            return {"list": rows}
        return {self.kind: {name: [row[name] for row in rows] for name in self.names}}


@dataclass(frozen=True)
class _Plan:
    """What a grid file says, each value typed."""

    known: _Fields
    base: dict[str, Any]
    groups: list[_Group]
    exclude: list[dict[str, list[Any]]]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the name {name!r} cannot name a folder: use up to 100 letters, digits, '.', '_' "
            "and '-'."
        )


def _sections(raw: object, wrong: _Mistakes) -> dict[str, Any]:
    """Return the parts of a grid file, each of its type; what is wrong is noted."""
    top: dict[str, Any] = {}
    if not isinstance(raw, dict):
        wrong.append(f"a grid is a mapping, not {_shown(raw)}: begin with 'experiment: NAME'.")
        return top
    for name, value in raw.items():
        with wrong.noted():
            if name not in SECTIONS:
                raise InputError(_no_field("a grid", name, SECTIONS))
            top[name] = _typed(repr(name), SECTIONS[name], value)
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


def _read_plan(top: Mapping[str, Any], known: _Fields, wrong: _Mistakes) -> _Plan:
    base = known.row("base", top.get("base", {}), wrong)
    groups = _axes(top.get("axes"), known, wrong)
    with wrong.noted():
        groups += _seeds(top.get("seeds"), known, wrong)
    exclude = [
        _exclusion(n, each, known, wrong) for n, each in enumerate(top.get("exclude", ()), 1)
    ]
    return _Plan(known, base, groups, exclude)


def _axes(raw: Any, known: _Fields, wrong: _Mistakes) -> list[_Group]:
    groups: list[_Group] = []
    if raw is None:
        return groups
    parts = raw if isinstance(raw, list) else [raw]
    if not parts or not all(parts):
        wrong.append("'axes' is empty: give it product, zip or list, or leave it out.")
    for kind, content in (item for part in parts for item in part.items()):
        with wrong.noted():
            if kind not in _KINDS:
                raise InputError(_no_field("axes", kind, _KINDS))
            for group in _KINDS[kind](content, known, wrong):
                with wrong.noted():
                    _check_group(group)
                groups.append(group)
    return groups


def _product(content: object, known: _Fields, wrong: _Mistakes) -> Iterator[_Group]:
    """Each field is a group of its own."""
    for name, values in _mapping("product", content).items():
        before = len(wrong)
        with wrong.noted():
            column = known.column("product", name, values, wrong)
        if len(wrong) == before:
            yield _Group("product", tuple({name: value} for value in column))


def _zip(content: object, known: _Fields, wrong: _Mistakes) -> Iterator[_Group]:
    """Each mapping is a group: its fields take their first values together, then their second."""
    for part in content if isinstance(content, list) and content else [content]:
        columns, before = {}, len(wrong)
        for name, values in _mapping("zip", part).items():
            with wrong.noted():
                columns[name] = known.column("zip", name, values, wrong)
        if len(wrong) > before:
            continue
        if len({len(column) for column in columns.values()}) > 1:
            sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            wrong.append(f"zip needs lists of one length ({sizes}): even them out, or use product.")
            continue
        rows = zip(*columns.values(), strict=True)
        yield _Group("zip", tuple(dict(zip(columns, row, strict=True)) for row in rows))


def _listed(content: object, known: _Fields, wrong: _Mistakes) -> Iterator[_Group]:
    """The rows of one group, written out; a field that a row lacks has its default there."""
    if not isinstance(content, list) or not content:
        raise InputError(f"list is {_shown(content)}, and takes a list of mappings: give one.")
    before = len(wrong)
    rows = [
        known.row(f"list, row {n}", _mapping(f"list, row {n}", row), wrong)
        for n, row in enumerate(content, start=1)
    ]
    if len(wrong) > before:
        return
    names = dict.fromkeys(name for row in rows for name in row)
    for n, row in enumerate(rows, start=1):
        for name in names:
            if name not in row and name not in known.defaults:
                raise InputError(
                    f"list, row {n}: {name!r} has no default: give it a value there, as elsewhere."
                )
    filled = ({**known.defaults, **row} for row in rows)
    yield _Group("list", tuple({name: row[name] for name in names} for row in filled))


_KINDS = {"product": _product, "zip": _zip, "list": _listed}


def _mapping(where: str, content: object) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{where} is {_shown(content)}, and takes a mapping of fields: give one.")
    return content


def _seeds(seeds: Any, known: _Fields, wrong: _Mistakes) -> list[_Group]:
    if seeds is None:
        return []
    if "seed" not in known.hints:
        raise InputError(
            f"the experiment {known.owner!r} has no field 'seed', so seeds change nothing: "
            "remove them."
        )
    if isinstance(seeds, int):
        if not 1 <= seeds <= MAX_CELLS:
            raise InputError(f"'seeds' is {seeds}, and a count is 1 to {MAX_CELLS}: give another.")
        seeds = list(range(seeds))
    before = len(wrong)
    column = known.column("seeds", "seed", seeds, wrong)
    if len(wrong) > before:
        return []
    group = _Group("seeds", tuple({"seed": seed} for seed in column))
    _check_twice(group)
    return [group]


def _exclusion(
    n: int, raw: Mapping[str, Any], known: _Fields, wrong: _Mistakes
) -> dict[str, list[Any]]:
    """Return the values by which one exclusion matches; a list names alternatives."""
    where, found = f"exclusion {n}", {}
    if not raw:
        wrong.append(f"{where} names no field, so it takes every cell: name one, or remove it.")
    for name, value in raw.items():
        with wrong.noted():
            values = value if isinstance(value, list) else [value]
            found[name] = known.column(where, name, values, wrong)
    return found


# ---------------------------------------------------------------- what does nothing


def _check_group(group: _Group) -> None:
    """Refuse a row written twice, and an axis of one value.

    Raises:
        InputError: see above.
    """
    _check_twice(group)
    row, *others = group.rows
    if not others:
        raise InputError(
            f"the axis {group.label} has one value, so nothing varies: set {_named(row)} "
            "in base, or give it another value."
        )
    if group.kind == "zip":
        for name in group.names:
            if len({_token(each[name]) for each in group.rows}) < 2:
                raise InputError(
                    f"the axis {group.label} gives {name!r} one value, {_clip(row[name])}, so it "
                    "does not vary: set it in base."
                )


def _check_twice(group: _Group) -> None:
    first: dict[str, int] = {}
    for n, row in enumerate(group.rows, start=1):
        before = first.setdefault(_token(row), n)
        if before != n:
            raise InputError(
                f"{group.kind} has {_named(row)} twice, as entries {before} and {n}, so two cells "
                "would be the same: remove one."
            )


def _named(row: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_clip(value)}" for name, value in row.items())


def _check_plan(plan: _Plan, wrong: _Mistakes) -> None:
    """Note a field set twice or not at all, and a grid that is too large."""
    owners: dict[str, str] = {}
    for group in plan.groups:
        for name in group.names:
            if name in owners:
                wrong.append(
                    f"{name!r} stands in two axes, {owners[name]} and {group.kind}: keep one."
                )
            owners[name] = group.kind
    for name in plan.base:
        if name in owners:
            wrong.append(
                f"base sets {name!r}, and {owners[name]} replaces it in every cell: remove one of "
                "the two."
            )
    for name in plan.known.hints:
        if name not in {*plan.base, *owners, *plan.known.defaults}:
            wrong.append(
                f"the experiment {plan.known.owner!r} needs a {name!r}, which has no default: set "
                "it in base or in an axis."
            )
    size = prod(len(group.rows) for group in plan.groups)
    if size > MAX_CELLS:
        wrong.append(
            f"the axes make {size:,} cells, and a grid has at most {MAX_CELLS:,}: split it."
        )


def _exclusions(plan: _Plan, wrong: _Mistakes) -> list[dict[int, set[int]]]:
    """Return for each exclusion the rows that it takes, by place of the group."""
    taken = []
    for n, exclusion in enumerate(plan.exclude, start=1):
        with wrong.noted():
            taken.append(_taken(f"exclusion {n}", exclusion, plan))
    return taken


def _taken(where: str, exclusion: Mapping[str, list[Any]], plan: _Plan) -> dict[int, set[int]]:
    taken: dict[int, set[int]] = {}
    for name, values in exclusion.items():
        rows = {_token(value): set() for value in values}
        place, column = _column(plan, name)
        for i, value in enumerate(column):
            rows.get(_token(value), set()).add(i)
        for value in values:
            if not rows[_token(value)]:
                hint = nearest(str(value), [str(each) for each in column])
                raise InputError(
                    f"{where} matches no cell, as none has {name} {_clip(value)}: correct or "
                    f"remove it.{hint}"
                )
        if place is not None:
            taken[place] = taken.get(place, set(range(len(column)))) & set().union(*rows.values())
    if not all(taken.values()):
        raise InputError(
            f"{where} matches no cell, as none has all its values together: correct or remove it."
        )
    return taken


def _column(plan: _Plan, name: str) -> tuple[int | None, list[Any]]:
    """Return the group that sets a field, and the field's value in each of its rows."""
    for place, group in enumerate(plan.groups):
        if name in group.names:
            return place, [row[name] for row in group.rows]
    return None, [plan.base.get(name, plan.known.defaults.get(name))]


# ---------------------------------------------------------------- cells


def _cells(plan: _Plan, taken: Sequence[Mapping[int, set[int]]], wrong: _Mistakes) -> list[Any]:
    """Return the configurations in order; what is wrong is noted."""
    cells: list[Any] = []
    seen: dict[str, int] = {}
    kept: list[set[int]] = [set() for _ in plan.groups]
    refused: Counter[str] = Counter()
    first: dict[str, str] = {}
    for places in product(*(range(len(group.rows)) for group in plan.groups)):
        if any(all(places[g] in rows for g, rows in each.items()) for each in taken):
            continue
        for rows, place in zip(kept, places, strict=True):
            rows.add(place)
        varied = _varied(plan, places)
        try:
            cell = plan.known.config(**plan.base, **varied)
        except (InterpError, ValueError, TypeError) as error:  # the configuration's own checks
            refused[str(error)] += 1
            first.setdefault(str(error), _named(varied) or "the one cell")
            continue
        cells.append(cell)
        before = seen.setdefault(_token(cell), len(cells) - 1)
        if before != len(cells) - 1:
            wrong.append(
                f"cells {before + 1} and {len(cells)} are the same ({_named(varied)}), once the "
                "configuration has set its fields: remove a value, or exclude one."
            )
            break
    wrong.extend(_refusals(refused, first))
    wrong.extend(_left(plan, kept))
    return cells


def _varied(plan: _Plan, places: Sequence[int]) -> dict[str, Any]:
    pairs = zip(plan.groups, places, strict=True)
    return {name: value for group, i in pairs for name, value in group.rows[i].items()}


def _refusals(refused: Counter[str], first: Mapping[str, str]) -> Iterator[str]:
    """Yield each reason for which configurations refuse themselves, with its first cell."""
    for reason, count in list(refused.items())[:_SHOWN]:
        more = f" (and {count - 1} more cells)" if count > 1 else ""
        yield f"the cell {first[reason]}{more} is refused: {reason}"
    if len(refused) > _SHOWN:
        yield f"{len(refused) - _SHOWN} more reasons for which cells are refused are not shown."


def _left(plan: _Plan, kept: Sequence[set[int]]) -> Iterator[str]:
    """Yield what exclusions leave without an effect."""
    if not all(kept) or (plan.exclude and not kept):
        yield "the exclusions leave no cell: remove one."
        return
    for group, rows in zip(plan.groups, kept, strict=True):
        if len(rows) < 2 <= len(group.rows) and group.kind != "seeds":
            row = group.rows[next(iter(rows))]
            yield (
                f"the exclusions leave the axis {group.label} one value, so nothing varies: set "
                f"{_named(row)} in base."
            )


def _normal(top: Mapping[str, Any], plan: _Plan) -> dict[str, Any]:
    """Return the one form of a grid: typed values, groups in a list, seeds written out."""
    axes = [group.as_json() for group in plan.groups if group.kind != "seeds"]
    seeds = [
        _plain(row["seed"]) for group in plan.groups if group.kind == "seeds" for row in group.rows
    ]
    parts = {
        "experiment": top["experiment"],
        "base": _plain(plan.base),
        "axes": axes,
        "seeds": seeds,
        "exclude": _plain(plan.exclude),
    }
    limits = {key: top[key] for key in ("seconds", "memory_gib") if key in top}
    given = {key: value for key, value in parts.items() if value}
    return {**given, "tries": top.get("tries", 1), **limits}
