"""Who may import whom, and which calls nobody makes: read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest
from jaxtyping import TypeCheckError

import interp
from interp.errors import nearest

ROOT = Path(__file__).parents[1]
FOLDERS = ("interp", "experiments", "figures")

BASE = {"errors", "sites", "edits", "attention_edits", "metrics", "bases", "models"}
SHARED = BASE | {"causal_models", "engine", "data", "stats", "directions"}
METHODS = {"patching", "steering", "thinking", "latent", "alignment"}
LIBRARY = SHARED | METHODS | {"diagrams", "results", "sweeps", "jobs", "cli"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "stats": {"errors"},
    "results": {"errors", "stats"},  # no model, no torch
    "sites": {"errors"},
    "edits": {"errors", "sites"},
    "attention_edits": {"errors", "sites", "edits"},
    "metrics": {"errors"},
    "bases": {"errors"},
    "diagrams": {"errors"},
    "causal_models": {"errors", "diagrams"},
    "models": {"errors", "sites", "edits", "metrics"},
    "engine": BASE,
    "data": {"errors", "causal_models", "models", "engine"},
    "directions": {"errors", "sites", "edits", "bases", "models", "engine"},
    **dict.fromkeys(METHODS, SHARED),  # a method imports no other method
    "sweeps": {"errors", "stats", "results"},  # experiments are found by name
    "jobs": LIBRARY - {"cli"},
    "cli": LIBRARY,  # neither experiments nor figures: they are not in the wheel
    "experiments": LIBRARY - {"cli"} | {"interp"},
    "figures": {"errors", "stats", "results"},
}
NO_TORCH = {"errors", "stats", "diagrams", "results", "sweeps", "figures"}

NNSIGHT = "interp/engine/nnsight_engine.py"
TRANSFORMER_LENS = "interp/engine/transformer_lens_engine.py"
ADDRESSES = "interp/models/addresses.py"
RIVALS = "experiments/benchmarks/"
# The files that may import an engine's package; True where they may do so at module level.
ENGINE_FILES = {
    "nnsight": {NNSIGHT: True, RIVALS + "nnsight_rival.py": False},
    "transformer_lens": {TRANSFORMER_LENS: True, ADDRESSES: False, RIVALS + "lens.py": False},
}
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_FLAGS = {"trust_remote_code", "allow_pickle"}
# Published checkpoints that exist as pickles only: read when asked, and tensors alone.
TENSORS_ONLY = [Path("interp/latent/loading_formats.py")]


@dataclass(frozen=True)
class Import:
    """One imported name, written in full, and whether it happens as the module loads."""

    name: str
    at_load: bool


@cache
def parsed(code: str) -> ast.Module:
    """Parse a text once, however many rules look at it."""
    return ast.parse(code)


def sources() -> list[Path]:
    """Return every Python file under the table's rules, as a path from the root."""
    return sorted(p.relative_to(ROOT) for f in FOLDERS for p in (ROOT / f).rglob("*.py"))


def part_of_file(path: Path) -> str:
    """Return the part that a file belongs to.

    >>> part_of_file(Path("interp/engine/hooks.py")), part_of_file(Path("figures/bars.py"))
    ('engine', 'figures')
    """
    inside = path.with_suffix("").parts
    return inside[1] if inside[0] == "interp" else inside[0]


def part_of_name(name: str) -> str | None:
    """Return the part that an imported name belongs to, None for other packages.

    >>> part_of_name("interp.engine.hooks"), part_of_name("numpy.random")
    ('engine', None)
    >>> part_of_name("interp.Patch"), part_of_name("interp.__version__")
    ('edits', None)
    """
    top, _, rest = name.partition(".")
    if top != "interp":
        return top if top in ALLOWED else None
    first = rest.partition(".")[0]
    if first in interp._HOME:
        return part_of_name(interp._HOME[first])
    return None if first == "__version__" else first or "interp"


def calls_by_name(node: ast.AST) -> str | None:
    """Return the start of the text that `import_module` or `__import__` is given, if it is one."""
    match node:
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[text, *_]):
            pass
        case _:
            return None
    if called not in ("import_module", "__import__"):
        return None
    start = text.values[0] if isinstance(text, ast.JoinedStr) else text
    match start:
        case ast.Constant(value=str(said)):
            return said
    return None


def names(node: ast.AST, path: Path) -> list[str]:
    """Return what one node imports, in full: `from ..data import pairs` as `interp.data.pairs`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = path.parts[: len(path.parts) - node.level] if node.level else ()
        start = ".".join([*above, *filter(None, [node.module])])
        return [f"{start}.{alias.name}" for alias in node.names]
    text = calls_by_name(node)
    return [text] if text else []


def imports(code: str, path: Path) -> list[Import]:
    """Return every import of a file, those inside functions included."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        yield from (Import(name, at_load) for name in names(node, path))
        inner = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return list(visit(parsed(code), True))


def astray(code: str, path: Path) -> set[str]:
    """Return the parts that a file imports and may not."""
    part = part_of_file(path)
    assert part in ALLOWED, f"{path} belongs to no part: add {part!r} to ALLOWED."
    found = {part_of_name(each.name) for each in imports(code, path)}
    return {name for name in found if name} - ALLOWED[part] - {part}


def may_import(each: Import, path: Path) -> bool:
    """Say whether a file may import this name, if it is one of an engine's package."""
    top = each.name.partition(".")[0]
    if top not in ENGINE_FILES:
        return True
    at_load = ENGINE_FILES[top].get(path.as_posix())
    return at_load is not None and (at_load or not each.at_load)


def engines_astray(code: str, path: Path) -> set[str]:
    """Return the engine packages that a file imports and may not, or not at module level."""
    refused = [each for each in imports(code, path) if not may_import(each, path)]
    return {each.name.partition(".")[0] for each in refused}


def tensors_only(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether a node is a call that can unpickle nothing but tensors."""
    if not isinstance(node, ast.Call):
        return False
    flags = {each.arg: each.value for each in node.keywords}
    return isinstance(flag := flags.get("weights_only"), ast.Constant) and flag.value is True


def unsafe(code: str, path: Path) -> set[str]:
    """Return the ways in which a file would run code from data: pickles and remote code."""
    modules = {each.name for each in imports(code, path)}
    found = {name for name in modules if name.partition(".")[0] in PICKLES or name == "torch.load"}
    tree = parsed(code)
    told = [node.func for node in ast.walk(tree) if path in TENSORS_ONLY and tensors_only(node)]
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="torch"), attr="load") if node not in told:
                found.add("torch.load")
            case ast.keyword(arg=str(flag), value=ast.Constant(value=True)) if flag in UNSAFE_FLAGS:
                found.add(f"{flag}=True")
    return found


def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# The lazy interp/__init__.py is exempt: it names every public module and imports none.
@pytest.mark.parametrize("path", [p for p in sources() if p != Path("interp/__init__.py")], ids=str)
def test_imports_point_one_way(path):
    parts = astray(read(path), path)
    assert not parts, f"{path} may not import {sorted(parts)}: move what two share down."


@pytest.mark.parametrize("path", sources(), ids=str)
def test_only_an_engine_file_imports_its_package(path):
    packages = engines_astray(read(path), path)
    assert not packages, f"{path} may not import {sorted(packages)}, or not at module level."


@pytest.mark.parametrize("path", sources(), ids=str)
def test_no_data_is_run_as_code(path):
    assert not unsafe(read(path), path)


@pytest.mark.parametrize(
    ("path", "code", "parts"),
    [
        ("interp/thinking/steps.py", "from interp.patching import sweep", {"patching"}),
        ("interp/thinking/steps.py", "from interp.thinking.text import split", set()),
        ("interp/thinking/steps.py", "from ..latent import coconut", {"latent"}),
        ("interp/engine/run.py", "from .hooks import hooked", set()),
        ("interp/engine/run.py", "from .. import data", {"data"}),
        ("interp/sites.py", "def f():\n    import interp.engine.run", {"engine"}),
        ("interp/sites.py", "from interp import Patch, __version__", {"edits"}),
        ("interp/models/load.py", 'import_module(f"interp.engine.{name}")', {"engine"}),
        ("interp/data/pairs.py", 'importlib.import_module("interp.stats")', {"stats"}),
        ("interp/jobs/run.py", "import experiments.claims", {"experiments"}),
        ("interp/jobs/run.py", "import interp", {"interp"}),
        ("experiments/claims.py", "import interp\nimport figures.bars", {"figures"}),
        ("figures/bars.py", "import numpy\nfrom interp.results import store", set()),
        ("figures/bars.py", "from interp.metrics import logit_diff", {"metrics"}),
    ],
)
def test_the_table_is_applied(path, code, parts):
    assert astray(code, Path(path)) == parts


def test_a_file_outside_the_table_is_refused():
    with pytest.raises(AssertionError, match=r"interp/misc\.py belongs to no part: add 'misc'"):
        astray("", Path("interp/misc.py"))


@pytest.mark.parametrize(
    ("path", "code", "packages"),
    [
        (NNSIGHT, "import nnsight", set()),
        (NNSIGHT, "import transformer_lens", {"transformer_lens"}),
        ("interp/engine/run.py", "def f():\n    from nnsight import NNsight", {"nnsight"}),
        (ADDRESSES, "import transformer_lens.model_bridge", {"transformer_lens"}),
        (ADDRESSES, "class A:\n    import transformer_lens", {"transformer_lens"}),
        (ADDRESSES, "def f():\n    import transformer_lens", set()),
    ],
)
def test_an_engine_package_out_of_place_is_found(path, code, packages):
    assert engines_astray(code, Path(path)) == packages


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", {"pickle"}),
        ("from torch import load", {"torch.load"}),
        ("weights = torch.load(path, weights_only=True)", {"torch.load"}),
        ("load(name, trust_remote_code=True)", {"trust_remote_code=True"}),
        ("load(name, trust_remote_code=asked)", set()),
        ("np.load(path, allow_pickle=True)", {"allow_pickle=True"}),
        ("from safetensors.torch import load_file", set()),
    ],
)
def test_code_from_data_is_found(code, found):
    assert unsafe(code, Path("interp/data/read.py")) == found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(path, weights_only=True)", set()),
        ("torch.load(path)", {"torch.load"}),
        ("torch.load(path, weights_only=asked)", {"torch.load"}),
        ("torch.load(path, weights_only=False)", {"torch.load"}),
        ("read = torch.load", {"torch.load"}),
    ],
)
def test_a_reader_of_pickled_tensors_may_read_nothing_else(code, found):
    assert unsafe(code, TENSORS_ONLY[0]) == found


def loaded_by(code: str) -> set[str]:
    """Return the top packages that a fresh Python holds after running `code`."""
    tell = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_importing_interp_loads_nothing_heavy():
    assert not loaded_by("import interp") & {"torch", "transformers", "numpy", "pyarrow", "rich"}


def test_records_and_figures_are_read_without_torch():
    paths = [path for path in sources() if part_of_file(path) in NO_TORCH]
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    assert not loaded_by(f"import {', '.join(modules)}") & {"torch", "transformers"}


def test_every_public_name_is_found_where_it_is_said_to_be():
    missing = [name for name in interp.__all__ if not hasattr(interp, name)]
    assert not missing
    assert set(interp.__all__) == set(interp._HOME) | {"__version__"}


def test_an_unknown_public_name_is_refused():
    with pytest.raises(AttributeError, match=r"module 'interp' has no attribute 'Patchh'"):
        _ = interp.Patchh


def test_types_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError, match="nearest"):
        nearest(3, ["0.attn_out"])
