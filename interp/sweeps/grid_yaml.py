"""The strict loader of grid files: from YAML text to plain values, or a sentence with the line.

It reads plain values by the core schema of YAML 1.2, and refuses tags, aliases and repeated keys.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from interp.errors import InputError


def load(text: str, source: str) -> object:
    """Return what a YAML text holds, as plain values.

    Raises:
        InputError: it is empty or no YAML; the sentence names the line.
    """
    try:
        loaded = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError, RecursionError, ValueError) as error:
        line, problem = _explained(error, text)
        where = source if line is None else f"{source}, line {line}"
        raise InputError(f"{where}: {problem}.") from None
    if loaded is None:
        raise InputError(f"{source}: the grid is empty: name at least its experiment.")
    return loaded


def _explained(error: Exception, text: str) -> tuple[int | None, str]:
    """Return the line of an error, where one is known, and what is wrong there."""
    match error:
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            return mark.line + 1 if mark else None, _problem(error)
        case yaml.reader.ReaderError():
            line = text.count("\n", 0, error.position) + 1
            return line, f"the character {int(error.character):#x} is no text: remove it"
        case RecursionError():
            return None, "it is nested too deep: write it flat"
    return None, "a whole number has too many digits: shorten it"  # Python reads a few thousand


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it is no YAML"
    if isinstance(error, _Refused):
        return problem
    if "'\\t'" in problem:
        return "YAML does not indent with tabs: use spaces"
    return f"{problem}: correct the YAML there"


class _Refused(yaml.MarkedYAMLError):
    """YAML that a grid does not use; the problem names the next step."""

    def __init__(self, problem: str, at: Any) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)


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
