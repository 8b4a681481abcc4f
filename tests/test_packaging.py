"""The wheel holds the package and nothing else, runs from elsewhere; every version is pinned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("interp", "experiments", "figures", "notebooks", "tests")
UNBUILT = shutil.ignore_patterns("__pycache__", "runs", "out", ".*")


def pip(*args: str | Path) -> None:
    """Run pip without an index; its output is the message of a failure."""
    command = [sys.executable, "-m", "pip", *map(str, args), "--no-deps", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that the build leaves nothing in the source tree."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=UNBUILT)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Return a folder that holds what the wheel installs."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-compile", "--target", target, wheel)
    return target


def run_from(installed: Path, *args: str | Path) -> str:
    """Run Python with only the installed copy in reach, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    ours = [path for path in (ROOT / "interp").rglob("*") if path.is_file()]
    assert package == {p.relative_to(ROOT).as_posix() for p in ours if p.suffix != ".pyc"}
    assert "interp/py.typed" in package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names - package)


def test_the_installed_package_knows_its_version(installed):
    said = run_from(installed, "-c", "import interp; print(interp.__version__, interp.__file__)")
    assert said.split() == [PROJECT["project"]["version"], str(installed / "interp/__init__.py")]


def test_the_installed_command_says_how_it_is_used(installed):
    said = run_from(installed, installed / "bin" / "interp", "--help")
    assert re.search(r"usage: interp\b", said)
    assert "demo" in said


def pins() -> dict[str, str]:
    """Return the version of every line of constraints.txt that is no comment."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """Return all that pyproject.toml asks for: to build, to run, and for every extra."""
    project = PROJECT["project"]
    groups = [PROJECT["build-system"]["requires"], project["dependencies"]]
    groups += project["optional-dependencies"].values()
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("need", requirements(), ids=str)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(need):
    version = pins().get(canonicalize_name(need.name))
    assert version is not None, f"constraints.txt does not pin {need.name}."
    assert need.specifier.contains(version), f"constraints.txt pins {version} against {need}."


def test_a_pin_is_a_plain_version_from_any_index():
    assert not [pin for pin in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", pin[1])]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_refuses_an_old_python_in_one_sentence(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "venv", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "interp needs Python 3.11 or newer, and 'false' is not." in done.stderr
    assert not (tmp_path / ".venv").exists()
