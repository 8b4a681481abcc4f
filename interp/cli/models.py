"""`interp check` and `interp models`."""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check a model: identities of its sites, parity with Hugging Face, nothing left behind."""

    model: tyro.conf.Positional[str]
    """A registry name, folder or Hugging Face id; see `interp models`."""
    engine: str = "torch"
    """torch, transformer_lens or nnsight."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; by default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.engine.check import check, refusals
        from interp.engine.loading import load

        model = load(self.model, engine=self.engine, dtype=self.dtype, device=self.device)
        checks = check(model)
        table = Table("check", "largest error", "tolerance", "holds", "note")
        for each in checks:
            holds = "yes" if each.holds else "NO"
            numbers = (f"{each.error:.2g}", f"{each.tolerance:.2g}")
            table.add_row(escape(each.name), *numbers, holds, escape(each.note))
        console.print(
            f"{model.name}, engine {model.engine}, {len(model.sites)} sites", markup=False
        )
        console.print(table)
        for line in refusals(model):
            console.print(f"not here: {line}", soft_wrap=True, markup=False)
        held = all(each.holds for each in checks)
        worst = max(each.error for each in checks)
        verdict = "All identities hold" if held else "SOME IDENTITIES FAIL"
        console.print(f"{verdict}; the largest error is {worst:.2g}.", markup=False)
        return 0 if held else 1


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the names that can be loaded, and which can load here and now."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.models.registry import KNOWN, availability

        table = Table("name", "what", "loads here")
        for name, known in KNOWN.items():
            table.add_row(name, known.what, availability(name))
        console.print(table)
        console.print("Also: a local folder, or a Hugging Face id such as owner/name.")
        return 0
