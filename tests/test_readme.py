"""The README's Python is run, and prints what the README says it prints."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from experiments.claims import CLAIMS
from interp.errors import InterpError
from interp.models import registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", README, flags=re.DOTALL)
"""Each block of Python that is followed by what it prints."""


def test_the_readme_runs_and_prints_what_it_shows():
    if registry.availability("smollm2-135m").startswith(("no", "if")):
        pytest.skip(f"smollm2-135m: {registry.availability('smollm2-135m')}")
    assert len(BLOCKS) == 6
    names: dict[str, object] = {}
    for code, shown in BLOCKS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                exec(code, names)
            except InterpError as error:
                print(f"{type(error).__name__}: {error}")
        assert out.getvalue() == shown


def test_the_claims_in_the_readme_are_the_recorded_ones_and_hold():
    record = Path(__file__).parents[1] / "experiments" / "records" / "claims.jsonl"
    measured = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert [each["claim"] for each in measured] == list(CLAIMS)
    for each in measured:
        assert each["holds"] and each["goal"] == CLAIMS[each["claim"]].goal
        assert f"| `{each['claim']}` | {each['goal']} | {each['measured']} |" in README
